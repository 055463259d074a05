//! One request, from its head to its answer, in the order of refusals of docs/http.md: what can be said of the request
//! alone, then the caller, then what the engine finds.

use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use axum::extract::{OriginalUri, Request};
use axum::response::Response as AxumResponse;
use cratestack_engine::api::{Authority, Caller, Code, Expected, Key, Operation, Origin, Verb};
use cratestack_engine::json::Json;
use cratestack_schema::ir::{ModelId, Procedure};
use futures_util::FutureExt as _;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use tokio::time::{Instant, timeout_at};
use tracing::Instrument as _;

use crate::answer::{self, Response, Shape, is_personal, sent, version_tag};
use crate::auth::{AuthError, AuthProvider};
use crate::batch::{self, Offer};
use crate::body;
use crate::config::HttpConfig;
use crate::deliveries::Deliveries;
use crate::deprecation;
use crate::headers::{
    ACCEPT_PATCH, ACCEPT_POST, Condition, IDEMPOTENCY_KEY, PREFER, TRACEPARENT, X_REQUEST_ID, joined, prefers_minimal,
    request_id, trace_parent,
};
use crate::idempotency;
use crate::media::{Format, PATCH_TYPES, POST_TYPES, negotiate};
use crate::problem::{Problem, ProblemCode};
use crate::ratelimit::{RateLimits, Tally};
use crate::routes::{BATCH_ACTIONS, RouteInfo, RouteTarget, RouteVerb, has_route};
use crate::url;

mod backend;
mod keys;
mod limits;

pub(crate) use self::backend::{Backend, Hosted};

/// How long the engine may overrun its deadline before the request is given up without its word.
const GRACE: Duration = Duration::from_secs(1);

/// The media type of `/metrics`.
const PROMETHEUS: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4");

/// How long `/readyz` waits for the database, and for a store that it needs.
const READY_TIMEOUT: Duration = Duration::from_secs(2);

/// What all requests share.
pub(crate) struct Api {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) auth: Arc<dyn AuthProvider>,
    pub(crate) config: HttpConfig,
    /// What the paths of the API's routes begin with. Not a nested router: that would write each request's URL anew.
    pub(crate) prefix: &'static str,
    /// Whether the schema has anything `@deprecated`.
    pub(crate) deprecations: bool,
    #[expect(dead_code, reason = "held so that they end with the router")]
    pub(crate) deliveries: Deliveries,
    /// How often requests may come.
    pub(crate) limits: Option<RateLimits>,
}

/// What stands at a path.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// Routes of the schema.
    Endpoint(Arc<Endpoint>),
    /// `/livez`: whether the process answers at all.
    Live,
    /// `/readyz`: whether the service can do its work.
    Ready,
    /// `/metrics`: what it has counted.
    Metrics,
    /// Nothing.
    Nowhere,
}

/// What `/readyz` says. What does the crypto does not change while the process runs.
static READY: LazyLock<String> = LazyLock::new(|| {
    let crypto = crate::crypto::crypto_status().to_json();
    serde_json::json!({"status": "ready", "crypto": crypto}).to_string()
});

impl Place {
    /// For the log.
    fn name(&self) -> &str {
        match self {
            Self::Endpoint(endpoint) => &endpoint.path,
            Self::Live => "/livez",
            Self::Ready => "/readyz",
            Self::Metrics => "/metrics",
            Self::Nowhere => "",
        }
    }
}

/// One path and what is served there.
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// The path below the mount point, as axum writes it.
    pub(crate) path: String,
    /// The routes, one per method.
    pub(crate) routes: Vec<RouteInfo>,
}

impl Endpoint {
    fn route(&self, method: &Method) -> Option<&RouteInfo> {
        let method = if method == Method::HEAD { &Method::GET } else { method };
        self.routes.iter().find(|route| route.method == *method)
    }

    /// Every method that has an answer other than 405.
    fn allow(&self) -> HeaderValue {
        let mut methods: Vec<&str> = Vec::new();
        for route in &self.routes {
            methods.push(route.method.as_str());
            if route.method == Method::GET {
                methods.push("HEAD");
            }
        }
        methods.push("OPTIONS");
        HeaderValue::try_from(methods.join(", ")).unwrap_or_else(|_| HeaderValue::from_static("OPTIONS"))
    }

    fn options(&self) -> Response {
        let mut response = Response::default();
        *response.status_mut() = StatusCode::NO_CONTENT;
        response.headers_mut().insert(header::ALLOW, self.allow());
        let takes =
            |method: Method| self.routes.iter().any(|route| route.method == method && route.verb != RouteVerb::Restore);
        if takes(Method::PATCH) {
            response.headers_mut().insert(ACCEPT_PATCH, HeaderValue::from_static(PATCH_TYPES));
        }
        if takes(Method::POST) {
            response.headers_mut().insert(ACCEPT_POST, HeaderValue::from_static(POST_TYPES));
        }
        response
    }
}

/// Answers one request. Never fails: what goes wrong is a problem.
pub(crate) async fn handle(api: Arc<Api>, place: Place, request: Request) -> AxumResponse {
    let started = Instant::now();
    let (parts, body) = request.into_parts();
    let request_id = request_id(&parts.headers);
    let trace = parts.headers.get(TRACEPARENT).and_then(trace_parent);
    // The route and not the path: keys of rows may be personal.
    let span = tracing::info_span!(
        "request",
        request_id,
        method = %parts.method,
        route = place.name(),
        trace_id = trace.map(|trace| trace.trace_id),
        parent_id = trace.map(|trace| trace.parent_id),
    );
    let head = parts.method == Method::HEAD;
    let address = api.config.trusted_proxies.client(&parts);
    let mut exchange = Exchange { api: &api, parts, request_id, started, format: Format::Json, address, tally: None };
    // Until it is read.
    let mut body = Some(body);
    async {
        let outcome = AssertUnwindSafe(exchange.run(&place, &mut body)).catch_unwind().await;
        let mut response = match outcome {
            Ok(Ok(response)) => response,
            Ok(Err(problem)) => exchange.refuse(problem),
            Err(panic) => exchange.refuse(Problem::internal(format!("panic: {}", panic_text(&*panic)))),
        };
        exchange.discard(body).await;
        if let Some(tally) = &mut exchange.tally {
            tally.settle(response.status()).await;
            tally.tell(response.headers_mut());
        }
        if let Ok(id) = HeaderValue::from_str(&exchange.request_id) {
            response.headers_mut().insert(X_REQUEST_ID, id);
        }
        if head {
            strip_body(&mut response);
        }
        let micros = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        tracing::info!(status = response.status().as_u16(), micros, "answered");
        sent(response)
    }
    .instrument(span)
    .await
}

pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

/// Leaves what a `GET` would have said about its body.
fn strip_body(response: &mut Response) {
    let body = std::mem::take(response.body_mut());
    if response.status() != StatusCode::NO_CONTENT && response.status() != StatusCode::NOT_MODIFIED {
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    }
}

fn warned(mut response: Response, warning: Option<HeaderValue>) -> Response {
    if let Some(warning) = warning {
        response.headers_mut().insert(header::WARNING, warning);
    }
    response
}

/// What is to be done once the caller is known.
enum Work {
    Run(ModelId, Verb),
    Call(usize, Option<Json>),
    Trail(Vec<(String, String)>),
    /// The 422 of a malformed batch, which must not come before a 401.
    Refuse(ModelId, Problem),
}

struct Exchange<'a> {
    api: &'a Api,
    parts: Parts,
    request_id: String,
    started: Instant,
    /// The negotiated format, once it is.
    format: Format,
    /// Where it comes from, as far as that is known.
    address: Option<IpAddr>,
    /// What it counts as, where there are limits.
    tally: Option<Tally>,
}

impl Exchange<'_> {
    async fn run(&mut self, place: &Place, body: &mut Option<Body>) -> Result<Response, Problem> {
        self.count(place).await?;
        let (path, query) = self.check_size()?;
        let endpoint = match place {
            Place::Endpoint(endpoint) => endpoint,
            Place::Nowhere => return Err(Problem::new(Code::NotFound, "there is no such route")),
            Place::Live | Place::Ready | Place::Metrics => return self.health(place).await,
        };
        if self.parts.method == Method::OPTIONS {
            return Ok(endpoint.options());
        }
        let Some(route) = endpoint.route(&self.parts.method) else {
            return Err(method_not_allowed(endpoint.allow()));
        };
        self.check_headers()?;
        let params = url::parameters(query.as_deref())?;
        let unwanted = unwanted(route.verb, &params);
        let takes_key = self.takes_key(route);
        if let (Some(problem), false) = (&unwanted, takes_key) {
            return Err(problem());
        }
        let conditions = self.conditions(route.verb)?;
        let data = self.data(route.verb, body).await?;
        let (expected, conditions) = match conditions {
            (Some(condition), _) if route.method != Method::GET => (batch::expected(&condition), (None, None)),
            conditions => (Expected::Missing, conditions),
        };
        let personal = match route.target {
            RouteTarget::Model(model) => is_personal(self.api.backend.schema(), model, &params),
            RouteTarget::Procedure(_) | RouteTarget::Trail => true,
        };
        let has_key = takes_key && self.parts.headers.contains_key(&IDEMPOTENCY_KEY);
        let print = has_key.then(|| self.fingerprint(route, &params, data.as_ref()));
        let work = self.work(route, params, expected, data)?;
        let mut caller = self.caller(route).await?;
        self.count_caller(route, &caller, &work).await?;
        let key = if takes_key { self.key(route)? } else { None };
        let keyed = key.zip(print).map(|(key, print)| self.keyed(key, print, route, &mut caller, &path));
        if let Some(problem) = unwanted {
            return Err(self.after(keyed.as_ref(), problem()).await);
        }
        let segment = match route.target {
            RouteTarget::Model(model) => self.api.backend.schema().model(model).path.as_str(),
            RouteTarget::Procedure(_) | RouteTarget::Trail => "",
        };
        let shape = || Shape {
            segment,
            format: self.format,
            base: self.base(&path),
            target: (&path, query.as_deref()),
            minimal: route.method != Method::GET && self.minimal(),
            personal,
            safe: route.method == Method::GET,
            conditions,
            problem_base: &self.api.config.problem_base,
            request_id: &self.request_id,
        };
        match work {
            Work::Refuse(model, problem) => {
                self.api.backend.admit(&caller, model, &BATCH_ACTIONS)?;
                Err(self.after(keyed.as_ref(), problem).await)
            }
            Work::Run(model, verb) => {
                let schema = self.api.backend.schema();
                let warning = self.api.deprecations.then(|| deprecation::of_operation(schema, model, &verb)).flatten();
                let operation = Operation { model, verb };
                if let Some(keyed) = &keyed {
                    let kept = self.in_time(self.api.backend.run_keyed(&caller, operation, keyed)).await??;
                    return idempotency::answer(kept, |headers| shape().add_head(headers))
                        .map(|response| warned(response, warning));
                }
                let answer = self.in_time(self.api.backend.run(&caller, operation)).await??;
                shape().respond(answer).map(|response| warned(response, warning))
            }
            Work::Trail(params) => {
                let answer = self.in_time(self.api.backend.trail(&caller, &params)).await??;
                shape().respond(answer)
            }
            Work::Call(at, body) => {
                let procedures = &self.api.backend.schema().procedures;
                let procedure = procedures.get(at).ok_or_else(|| Problem::internal("no such procedure"))?;
                let warning = deprecation::of_call(self.api.backend.schema(), procedure, body.as_ref());
                let answered = if let Some(keyed) = &keyed {
                    let kept = self.in_time(self.api.backend.call_keyed(&caller, procedure, body, keyed)).await?;
                    kept.map_err(Problem::from).and_then(|kept| idempotency::answer(kept, not_stored))
                } else {
                    let call = self.in_time(self.api.backend.call(&caller, procedure, body)).await?;
                    call.map_err(Problem::from).and_then(|answer| called(answer, self.format, status(procedure)))
                };
                match answered {
                    Ok(response) => Ok(warned(response, warning)),
                    Err(problem) => Err(match warning {
                        Some(warning) => problem.with(header::WARNING, warning),
                        None => problem,
                    }),
                }
            }
        }
    }

    /// `/livez`, `/readyz` and `/metrics`.
    async fn health(&self, place: &Place) -> Result<Response, Problem> {
        if !matches!(self.parts.method, Method::GET | Method::HEAD) {
            return Err(method_not_allowed(HeaderValue::from_static("GET, HEAD")));
        }
        let body = if matches!(place, Place::Ready) {
            let probe = tokio::time::timeout(READY_TIMEOUT, self.api.backend.ready()).await;
            probe.map_err(|_| Problem::new(Code::Unavailable, "the database does not answer in time"))??;
            self.store_ready().await?;
            READY.as_str()
        } else if let (Place::Metrics, Some(limits)) = (place, &self.api.limits) {
            let mut response = Response::new(limits.prometheus().into());
            response.headers_mut().insert(header::CONTENT_TYPE, PROMETHEUS);
            not_stored(response.headers_mut());
            return Ok(response);
        } else {
            r#"{"status":"live"}"#
        };
        let mut response = answer::encoded(body.to_owned(), Format::Json)?;
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Ok(response)
    }

    /// 414 and 431; gives the path and the query as the caller sent them.
    fn check_size(&self) -> Result<(String, Option<String>), Problem> {
        let config = &self.api.config;
        let uri = self.parts.extensions.get::<OriginalUri>().map_or(&self.parts.uri, |original| &original.0);
        // No octet is written as more than three.
        let most = 3 * (uri.path().len() + uri.query().map_or(0, |query| query.len() + 1));
        if most > config.url_limit && url::length(uri.path(), uri.query()) > config.url_limit {
            let detail = format!("path and query have more than {} octets, the most that is taken", config.url_limit);
            return Err(Problem::new(ProblemCode::UriTooLong, detail));
        }
        let octets: usize = self.parts.headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        if octets > config.header_limit {
            let detail =
                format!("the header fields have more than {} octets, the most that is taken", config.header_limit);
            return Err(Problem::new(ProblemCode::HeadersTooLarge, detail));
        }
        Ok((uri.path().to_owned(), uri.query().map(str::to_owned)))
    }

    fn check_headers(&mut self) -> Result<(), Problem> {
        let accept = joined(&self.parts.headers, &header::ACCEPT);
        self.format = negotiate(accept.as_deref()).ok_or_else(|| {
            Problem::new(ProblemCode::NotAcceptable, "`Accept` must allow `application/json` or `application/cbor`")
        })?;
        Ok(())
    }

    /// `If-Match` and `If-None-Match`.
    fn conditions(&self, verb: RouteVerb) -> Result<(Option<Condition>, Option<Condition>), Problem> {
        let conditions = (
            condition(&self.parts.headers, &header::IF_MATCH)?,
            condition(&self.parts.headers, &header::IF_NONE_MATCH)?,
        );
        let refused = match (verb, &conditions) {
            (RouteVerb::List | RouteVerb::Read | RouteVerb::Trail, _) | (_, (None, None)) => None,
            (RouteVerb::Batch, _) => Some("a batch has no conditional headers: each item has its own `ifMatch`"),
            (RouteVerb::Create | RouteVerb::Call, _) => Some("this route has no conditional headers"),
            (_, (_, Some(_))) => Some("`If-None-Match` is for reads: writes take `If-Match`"),
            _ => None,
        };
        refused.map_or(Ok(conditions), |detail| Err(Problem::bad_request(detail)))
    }

    /// The decoded body; `None` when the route takes none, or works without.
    async fn data(&self, verb: RouteVerb, body: &mut Option<Body>) -> Result<Option<Json>, Problem> {
        let takes = matches!(verb, RouteVerb::Create | RouteVerb::Patch | RouteVerb::Batch | RouteVerb::Call);
        let patch = verb == RouteVerb::Patch;
        let format = if takes { body::declared_format(&self.parts.headers, patch)? } else { None };
        let (limit, deadline) = (self.api.config.body_limit, self.body_deadline());
        if let Some(body) = body {
            body::check_length(body, limit)?;
        }
        let body = body.take().unwrap_or_default();
        let bytes = body::read(body, limit, deadline).await?;
        if !takes && !bytes.is_empty() {
            return Err(Problem::bad_request("this route takes no body"));
        }
        let data = body::decode(&bytes, format, patch)?;
        if takes && data.is_none() && verb != RouteVerb::Call {
            return Err(match format {
                Some(Format::Cbor) => Problem::bad_request("the body is empty"),
                Some(Format::Json) | None => Problem::new(ProblemCode::InvalidJson, "the body is empty"),
            });
        }
        Ok(data)
    }

    /// Takes what the request's refusal left unread, unless its sender waits for a word before it sends anything.
    async fn discard(&self, body: Option<Body>) {
        let Some(body) = body else { return };
        if !body.is_end_stream() && !self.parts.headers.contains_key(header::EXPECT) {
            body::discard(body.into_data_stream(), self.body_deadline()).await;
        }
    }

    fn body_deadline(&self) -> Instant {
        (self.started + self.api.config.body_timeout).min(self.deadline())
    }

    fn work(
        &self,
        route: &RouteInfo,
        params: Vec<(String, String)>,
        expected: Expected,
        data: Option<Json>,
    ) -> Result<Work, Problem> {
        let model = match route.target {
            RouteTarget::Procedure(at) => return Ok(Work::Call(at, data)),
            RouteTarget::Trail => return Ok(Work::Trail(params)),
            RouteTarget::Model(model) => model,
        };
        let fields = self.api.backend.schema().model(model).key.len();
        let key = || url::segments(self.own_path()).skip(1).take(fields).collect::<Result<Key, Problem>>();
        let data = data.unwrap_or(Json::Null);
        let verb = match route.verb {
            RouteVerb::List => Verb::List { params },
            RouteVerb::Read => Verb::Read { key: key()?, params },
            RouteVerb::Create => Verb::Create { data },
            RouteVerb::Patch => Verb::Patch { key: key()?, expected, data },
            RouteVerb::Delete => Verb::Delete { key: key()?, expected },
            RouteVerb::Restore => Verb::Restore { key: key()?, expected },
            RouteVerb::Batch => match batch::parse(data, self.offer(model)) {
                Ok((atomic, items)) => Verb::Batch { atomic, items },
                Err(problem) => return Ok(Work::Refuse(model, problem)),
            },
            RouteVerb::Call | RouteVerb::Trail => return Err(Problem::internal("a route without its target")),
        };
        Ok(Work::Run(model, verb))
    }

    fn offer(&self, id: ModelId) -> Offer {
        let schema = self.api.backend.schema();
        let model = schema.model(id);
        let [create, update, delete] = BATCH_ACTIONS.map(|action| has_route(schema, model, action));
        Offer { key: model.key.len(), create, update, delete }
    }

    /// The caller, verified and typed; 401 when its credentials are not valid.
    async fn caller(&self, route: &RouteInfo) -> Result<Caller, Problem> {
        let invalid = |why: String| {
            let problem = Problem::new(Code::Unauthenticated, "the credentials are not valid");
            Problem { internal: Some(why), ..problem }
        };
        let principal = match self.in_time(self.api.auth.authenticate(&self.parts)).await? {
            Ok(None) => None,
            Ok(Some(claims)) => Some(self.api.backend.principal(&claims.0).map_err(invalid)?),
            Err(AuthError::Invalid(why)) => return Err(invalid(why)),
            Err(AuthError::Unavailable { reason, retry_after }) => {
                let problem = Problem::new(Code::Unavailable, "the credentials cannot be checked now");
                let problem = Problem { internal: Some(reason), ..problem };
                return Err(match retry_after {
                    Some(wait) => problem.with(header::RETRY_AFTER, HeaderValue::from(wait.as_secs().max(1))),
                    None => problem,
                });
            }
        };
        let deadline = self.deadline().saturating_duration_since(Instant::now());
        let trace = self.parts.headers.get(TRACEPARENT).and_then(trace_parent);
        let origin = Origin {
            op: Arc::clone(&route.op),
            auth: principal.is_some().then(|| self.api.auth.method()),
            job: None,
            client_ip: self.address,
            trace_id: trace.map(|trace| trace.trace_id.to_owned()),
            idempotency_key: None,
        };
        Ok(Caller { principal, authority: Authority::Rules, request_id: self.request_id.clone(), deadline, origin })
    }

    fn deadline(&self) -> Instant {
        self.started + self.api.config.request_timeout
    }

    /// Gives up where the engine or a provider should have done so itself.
    async fn in_time<T>(&self, work: impl Future<Output = T>) -> Result<T, Problem> {
        timeout_at(self.deadline() + GRACE, work)
            .await
            .map_err(|_| Problem::new(Code::Unavailable, "the request took too long"))
    }

    fn minimal(&self) -> bool {
        joined(&self.parts.headers, &PREFER).is_some_and(|value| prefers_minimal(&value))
    }

    /// The API's own part of the path.
    fn own_path(&self) -> &str {
        let path = self.parts.uri.path();
        path.strip_prefix(self.api.prefix).unwrap_or(path)
    }

    /// What callers see before the API's own path.
    fn base<'p>(&'p self, path: &'p str) -> &'p str {
        match &self.api.config.base_path {
            Some(base) => base,
            None => path.strip_suffix(self.own_path()).unwrap_or_default(),
        }
    }

    fn procedure(&self, at: usize) -> Option<&Procedure> {
        self.api.backend.schema().procedures.get(at)
    }

    /// A problem as the answer, with the headers that its status asks for.
    fn refuse(&self, mut problem: Problem) -> Response {
        problem.log(&self.request_id);
        let missing = |problem: &Problem, name: HeaderName| !problem.headers.iter().any(|(other, _)| *other == name);
        if problem.status() == StatusCode::UNAUTHORIZED
            && let Ok(challenge) = HeaderValue::from_str(&self.api.auth.challenge())
        {
            problem.headers.push((header::WWW_AUTHENTICATE, challenge));
        }
        if let Some(version) = problem.current_version
            && missing(&problem, header::ETAG)
            && let Ok(etag) = HeaderValue::try_from(version_tag(version, self.format).text())
        {
            problem.headers.push((header::ETAG, etag));
        }
        problem.into_response(&self.api.config.problem_base, &self.request_id)
    }
}

/// The status of a procedure's answer.
fn status(procedure: &Procedure) -> StatusCode {
    procedure.status.and_then(|status| StatusCode::from_u16(status).ok()).unwrap_or(StatusCode::OK)
}

fn called(answer: String, format: Format, status: StatusCode) -> Result<Response, Problem> {
    let mut response = answer::encoded(answer, format)?;
    *response.status_mut() = status;
    not_stored(response.headers_mut());
    Ok(response)
}

fn not_stored(headers: &mut HeaderMap) {
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
}

/// The refusal of query parameters, which are for lists and reads.
fn unwanted(verb: RouteVerb, params: &[(String, String)]) -> Option<fn() -> Problem> {
    let takes = matches!(verb, RouteVerb::List | RouteVerb::Read | RouteVerb::Trail);
    let refuse: fn() -> Problem = || Problem::new(Code::InvalidQuery, "this route takes no query parameters");
    (!params.is_empty() && !takes).then_some(refuse)
}

fn method_not_allowed(allow: HeaderValue) -> Problem {
    Problem::new(ProblemCode::MethodNotAllowed, "`Allow` lists the methods of this route").with(header::ALLOW, allow)
}

fn condition(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Condition>, Problem> {
    let Some(value) = joined(headers, name) else {
        return Ok(None);
    };
    let title = if name == header::IF_MATCH { "If-Match" } else { "If-None-Match" };
    Condition::parse(&value).map(Some).map_err(|what| Problem::bad_request(format!("`{title}` {what}")))
}
