//! `Idempotency-Key` for routes of the host: *reservation mode*.
//!
//! ```
//! use std::time::Duration;
//!
//! use cratestack::axum::extract::Request;
//! use cratestack::axum::middleware::{Next, from_fn};
//! use cratestack::axum::response::Response;
//! use cratestack::axum::routing::post;
//! use cratestack::axum::{Router, http::StatusCode};
//! use cratestack::{IdempotencyLayer, CallerScope, SqliteIdempotencyStore};
//!
//! /// Says whose requests these are, once that is proved.
//! async fn authenticated(mut request: Request, next: Next) -> Response {
//!     // .. the token is verified ..
//!     request.extensions_mut().insert(CallerScope::new(Some("berlin"), "ann"));
//!     next.run(request).await
//! }
//!
//! # async fn app(path: &std::path::Path) -> Result<(), Box<dyn std::error::Error>> {
//! let store = SqliteIdempotencyStore::open(path)?;
//! store.create_table().await?;
//! let keys = IdempotencyLayer::new(store, Duration::from_hours(24 * 31)).required();
//! let app: Router = Router::new()
//!     .route("/payments", post(|| async { StatusCode::CREATED }))
//!     .route_layer(keys)
//!     .layer(from_fn(authenticated));
//! # Ok(())
//! # }
//! # let folder = tempfile::tempdir().unwrap();
//! # tokio::runtime::Runtime::new().unwrap().block_on(app(&folder.path().join("keys.db"))).unwrap();
//! ```
//!
//! | a request with a key | |
//! |---|---|
//! | `GET`, `HEAD`, `OPTIONS`, `TRACE` | goes through, the key is ignored |
//! | no key | goes through; 400 `idempotency_key_required` where it is [required](IdempotencyLayer::required) |
//! | a key that is none | 400 `idempotency_key_invalid` |
//! | a UUID of version 7, older than the retention | 422 `idempotency_key_expired`, never executed |
//! | the same, more than 5 minutes ahead | 400 `idempotency_key_invalid` |
//! | a body over the limit | 413, nothing is reserved |
//! | credentials, and no [`CallerScope`] | 500; the log says what the host has to do |
//! | the first with its key | runs, on a task of its own that goes on when the caller hangs up |
//! | the same once more, done | the status, body and some headers of before, with `Idempotent-Replayed: true` |
//! | the same once more, under way | waits (5 s), then 409 `idempotency_in_flight` with `Retry-After` |
//! | the same once more, broken off | what [`on_crash`](IdempotencyLayer::on_crash) says; 409 `idempotency_outcome_unknown` unless it does |
//! | another request with its key | 422 `idempotency_key_reused` |
//! | the same key of another caller | has nothing to do with it |
//! | the store cannot answer | 503 with `Retry-After`, nothing runs |
//!
//! | what the handler does | |
//! |---|---|
//! | answers 2xx, 3xx or 4xx | is recorded |
//! | answers 401, 403, 408, 413, 415, 421, 425, 429, or with [`NoEffect`] | the key is free again; unknown as before, where an earlier try broke off |
//! | answers 5xx, panics, or takes longer than its deadline | the outcome is unknown from now on |
//! | answers more than the limit, or a stream | the caller gets all of it; a replay has status and headers, and no body |
//! | has answered, and the store is down | the caller gets the answer; writing it down is tried again for a minute or so |
//!
//! The same request is: method, path, query (in any order), media type, `If-Match` and the octets of the body. Given
//! again are `Content-Type`, `Content-Encoding`, `Content-Language`, `Content-Location`, `Location`, `ETag`,
//! `Last-Modified` and `Link`, as far as they are visible ASCII; never `Set-Cookie`, `Date` or any other.
//!
//! # What this does not guarantee
//!
//! The handler's effect and its record are not one transaction, as they are for operations and procedures of a schema:
//!
//! - When the process dies between the effect and the record, the effect is there and nobody knows. The key is frozen
//!   once the lease has ended, or [`Crashed`] says what to do. The same when the process ends while detached requests
//!   run.
//! - A handler that was silent for a whole lease, and was taken over, may run beside the one that took over. It cannot
//!   write the record, and nothing but its own care keeps it from its effect: give what it calls a key derived from
//!   this one.
//! - What a stream does after its head has been answered is not looked at.
//! - After the retention, when the record has been removed, a key that carries no time is as good as new.
//! - Redis may lose what it has acknowledged: see `RedisIdempotencyStore`.

use std::convert::Infallible;
use std::fmt::{self, Debug};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{OriginalUri, Request};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use cratestack_engine::idempotency::Identity;
pub use cratestack_engine::idempotency::store::IdempotencyStore;
use cratestack_engine::sources::{Clock, Ids, RandomIds, SystemClock};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http::{HeaderMap, header};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tower::{Layer, Service, ServiceExt as _};
use tracing::Instrument as _;

use self::attempt::Attempt;
use self::running::Running;
use super::{Key, KeyError, Parts, media_type, missing, scope};
use crate::body;
use crate::caller::{CallerScope, credential};
use crate::config::HttpConfig;
use crate::headers::{joined, request_id};
use crate::problem::Problem;

mod answer;
mod attempt;
mod running;

/// Answers, and other endings of reservations, that wait in memory for a store that is down.
const BACKLOG: usize = 64;
/// Reservations that were asked for in vain, and may have been made all the same, which somebody looks after.
const WITHDRAWALS: usize = 256;
/// The longest time that anything may take.
const LONGEST: Duration = Duration::from_hours(24 * 365);

/// Does not do twice what was asked for twice with one `Idempotency-Key`: the [module](self) has the rules.
///
/// A layer for [`Router::layer`](axum::Router::layer) and [`Router::route_layer`](axum::Router::route_layer), inside of
/// the layer that authenticates and outside of those that compress. Clones share what is known in this process, so that
/// routes may differ in their settings: `keys.clone().on_crash(..)`. Of two around one handler only the outer one
/// counts.
///
/// Not for the routes of a [schema](crate::router()), which honour keys by themselves, and better:
/// [`merge`](axum::Router::merge) them with those that have this layer.
#[derive(Clone)]
pub struct IdempotencyLayer {
    settings: Settings,
}

/// What a layer was told.
#[derive(Clone)]
struct Settings {
    store: Arc<dyn IdempotencyStore>,
    retention: Duration,
    deployment: Arc<str>,
    required: bool,
    body_limit: usize,
    body_timeout: Duration,
    response_limit: usize,
    response_timeout: Duration,
    lease: Duration,
    wait: Duration,
    deadline: Duration,
    store_timeout: Duration,
    on_crash: Crashed,
    problem_base: Arc<str>,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
    running: Arc<Running>,
    backlog: Arc<Semaphore>,
    withdrawals: Arc<Semaphore>,
}

impl IdempotencyLayer {
    /// A layer that keeps its records in `store`, of use for `retention` (31 days are usual). Retries that come later
    /// than that, with a key that carries no time, are done again.
    pub fn new(store: impl IdempotencyStore, retention: Duration) -> Self {
        let http = HttpConfig::default();
        let settings = Settings {
            store: Arc::new(store),
            retention,
            deployment: Arc::from(""),
            required: false,
            body_limit: http.body_limit,
            body_timeout: http.body_timeout,
            response_limit: 1024 * 1024,
            response_timeout: Duration::from_secs(2),
            lease: Duration::from_secs(30),
            wait: Duration::from_secs(5),
            deadline: http.request_timeout,
            store_timeout: Duration::from_secs(5),
            on_crash: Crashed::Freeze,
            problem_base: http.problem_base.into(),
            clock: Arc::new(SystemClock),
            ids: Arc::new(RandomIds::default()),
            running: Arc::default(),
            backlog: Arc::new(Semaphore::new(BACKLOG)),
            withdrawals: Arc::new(Semaphore::new(WITHDRAWALS)),
        };
        Self { settings }
    }

    fn with(mut self, set: impl FnOnce(&mut Settings)) -> Self {
        set(&mut self.settings);
        self
    }

    /// Refuses requests without a key, unless their method is safe.
    #[must_use]
    pub fn required(self) -> Self {
        self.with(|settings| settings.required = true)
    }

    /// Names the deployment: keys of one are nothing to another, though both use one store. Default: no name.
    #[must_use]
    pub fn deployment(self, name: &str) -> Self {
        self.with(|settings| settings.deployment = name.into())
    }

    /// Octets of the body of a request with a key, which is held in memory; more is a 413. Default 1 MiB.
    #[must_use]
    pub fn body_limit(self, octets: usize) -> Self {
        self.with(|settings| settings.body_limit = octets)
    }

    /// How long that body may take to arrive; then it is a 408. Default 15 s.
    #[must_use]
    pub fn body_timeout(self, timeout: Duration) -> Self {
        self.with(|settings| settings.body_timeout = timeout.min(LONGEST))
    }

    /// Octets of the body of an answer that are kept for a replay. Of a longer one only status and headers are. Default
    /// 1 MiB.
    #[must_use]
    pub fn response_limit(self, octets: usize) -> Self {
        self.with(|settings| settings.response_limit = octets)
    }

    /// How long that body may take to be complete, once its head is there. One that takes longer counts as a stream: it
    /// is passed on, and not kept. Default 2 s.
    #[must_use]
    pub fn response_timeout(self, timeout: Duration) -> Self {
        self.with(|settings| settings.response_timeout = timeout.min(LONGEST))
    }

    /// How long others trust that a handler lives without a sign of it, which is given three times as often. Default 30
    /// s.
    #[must_use]
    pub fn lease(self, lease: Duration) -> Self {
        self.with(|settings| settings.lease = lease)
    }

    /// How long a request waits for another one with its key. Default 5 s.
    #[must_use]
    pub fn wait(self, wait: Duration) -> Self {
        self.with(|settings| settings.wait = wait.min(LONGEST))
    }

    /// How long a handler may take; then it is dropped, the answer is a 503, and the outcome is unknown. Default 30 s.
    #[must_use]
    pub fn deadline(self, deadline: Duration) -> Self {
        self.with(|settings| settings.deadline = deadline.min(LONGEST))
    }

    /// How long the store may take for a step; then it counts as down. Default 5 s.
    #[must_use]
    pub fn store_timeout(self, timeout: Duration) -> Self {
        self.with(|settings| settings.store_timeout = timeout.min(LONGEST))
    }

    /// What to do when a request comes again that was begun, and nobody knows how it ended. Default
    /// [`Crashed::Freeze`].
    #[must_use]
    pub fn on_crash(self, crashed: Crashed) -> Self {
        self.with(|settings| settings.on_crash = crashed)
    }

    /// As [`HttpConfig::problem_base`].
    #[must_use]
    pub fn problem_base(self, base: &str) -> Self {
        self.with(|settings| settings.problem_base = base.into())
    }

    /// The clock by which the time in a key is judged. Default: that of the machine.
    #[must_use]
    pub fn clock(self, clock: Arc<dyn Clock>) -> Self {
        self.with(|settings| settings.clock = clock)
    }
}

impl Debug for IdempotencyLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdempotencyLayer").field("retention", &self.settings.retention).finish_non_exhaustive()
    }
}

/// An extension of a response that says that nothing has happened, whatever its status: the key is free again, and a
/// retry runs.
///
/// ```
/// use cratestack::NoEffect;
/// use cratestack::axum::http::StatusCode;
/// use cratestack::axum::response::{IntoResponse, Response};
///
/// fn the_other_bank_is_closed() -> Response {
///     let mut response = StatusCode::SERVICE_UNAVAILABLE.into_response();
///     response.extensions_mut().insert(NoEffect);
///     response
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoEffect;

/// What to do with a request that was begun before, and nobody knows how that ended.
#[derive(Clone, Default)]
pub enum Crashed {
    /// 409 `idempotency_outcome_unknown`, until somebody has found out and changed the record.
    #[default]
    Freeze,
    /// Run it again. Only where everything that the handler does is itself done once, by keys that are derived from
    /// this one.
    Reexecute,
    /// Find out: [`Crashed::recover`].
    Recover(Recovery),
}

/// Finds out how a request ended.
pub type Recovery = Arc<dyn Fn(Interrupted) -> BoxFuture<'static, Recovered> + Send + Sync>;

impl Crashed {
    /// Asks `find_out`, which has the handler's deadline and of which only one runs for a key at a time.
    ///
    /// ```
    /// use cratestack::axum::{http::StatusCode, response::IntoResponse as _};
    /// use cratestack::{Crashed, Interrupted, Recovered};
    ///
    /// # async fn ask_the_other_bank(_: &str) -> Result<bool, ()> { Ok(true) }
    /// let recover = Crashed::recover(|interrupted: Interrupted| async move {
    ///     match ask_the_other_bank(&interrupted.identity.key).await {
    ///         Ok(true) => Recovered::Done(StatusCode::CREATED.into_response()),
    ///         Ok(false) => Recovered::NotDone,
    ///         Err(()) => Recovered::Unknown,
    ///     }
    /// });
    /// # drop(recover);
    /// ```
    pub fn recover<F, Fut>(find_out: F) -> Self
    where
        F: Fn(Interrupted) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Recovered> + Send + 'static,
    {
        Self::Recover(Arc::new(move |interrupted| Box::pin(find_out(interrupted))))
    }
}

impl Debug for Crashed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Freeze => "Freeze",
            Self::Reexecute => "Reexecute",
            Self::Recover(_) => "Recover",
        })
    }
}

/// A request that was begun before: the same one, as it has come again.
#[derive(Clone)]
pub struct Interrupted {
    /// Its head.
    pub head: http::request::Parts,
    /// Its body.
    pub body: Bytes,
    /// Whose it is, and its key.
    pub identity: Identity,
}

/// Without head and body, which may be secret and personal.
impl Debug for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interrupted").finish_non_exhaustive()
    }
}

/// How a request ended.
#[derive(Debug)]
pub enum Recovered {
    /// It was done, and this is the answer: now and for all retries.
    Done(Response),
    /// Nothing has happened: it runs now.
    NotDone,
    /// Nobody knows yet: 409 `idempotency_outcome_unknown`; the next retry asks again.
    Unknown,
}

impl<S> Layer<S> for IdempotencyLayer {
    type Service = Idempotent<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Idempotent { inner, settings: Arc::new(self.settings.clone()) }
    }
}

/// A service behind an [`IdempotencyLayer`].
#[derive(Clone)]
pub struct Idempotent<S> {
    inner: S,
    settings: Arc<Settings>,
}

impl<S: Debug> Debug for Idempotent<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Idempotent").field("inner", &self.inner).finish_non_exhaustive()
    }
}

/// An extension of a request that a layer has reserved: another layer further inside would wait for its own
/// reservation.
#[derive(Clone, Copy)]
struct Covered;

/// Runs the handler.
type Handler = Box<dyn FnOnce(Request) -> BoxFuture<'static, Response> + Send>;

impl<S> Service<Request> for Idempotent<S>
where
    S: Service<Request> + Clone + Send + 'static,
    S::Response: IntoResponse,
    S::Error: Into<Infallible>,
    S::Future: Send,
{
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    /// Always ready: whether the handler is, is asked when it is to run.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let inner = self.inner.clone();
        let run = move |request| async move {
            match inner.oneshot(request).await {
                Ok(response) => response.into_response(),
                Err(error) => match error.into() {},
            }
        };
        let handler: Handler = Box::new(move |request| Box::pin(run(request)));
        handle(Arc::clone(&self.settings), handler, request).map(Ok).boxed()
    }
}

/// Answers a request.
async fn handle(settings: Arc<Settings>, handler: Handler, request: Request) -> Response {
    if request.method().is_safe() || request.extensions().get::<Covered>().is_some() {
        return handler(request).await;
    }
    let key = match Key::of(request.headers()) {
        Ok(None) if !settings.required => return handler(request).await,
        key => key,
    };
    let request_id = request_id(request.headers());
    let (mut head, body) = request.into_parts();
    let admitted = match identify(&settings, key, &head) {
        Ok(identity) => receive(&settings, &head.headers, body).await.map(|body| (identity, body)),
        Err(problem) => {
            discard(&settings, &head.headers, body).await;
            Err(problem)
        }
    };
    head.extensions.insert(Covered);
    let (mut identity, body) = match admitted {
        Ok(admitted) => admitted,
        Err(problem) => return problem.refuse(&settings.problem_base, &request_id),
    };
    identity.fingerprint = fingerprint(&head, &body);
    let caller = Arc::new(());
    let attempt = Attempt::new(
        Arc::clone(&settings),
        Interrupted { head, body, identity },
        request_id.clone(),
        Arc::downgrade(&caller),
    );
    // A task of its own: it goes on when this future is dropped, because the caller has hung up.
    let answered = tokio::spawn(attempt.answer(handler).in_current_span()).await;
    drop(caller);
    answered.unwrap_or_else(|error| {
        let problem = Problem::internal(format!("the task of a request with a key has ended: {error}"));
        problem.refuse(&settings.problem_base, &request_id)
    })
}

async fn receive(settings: &Settings, headers: &HeaderMap, body: Body) -> Result<Bytes, Problem> {
    if let Err(problem) = body::check_length(&body, settings.body_limit) {
        discard(settings, headers, body).await;
        return Err(problem);
    }
    body::read(body, settings.body_limit, Instant::now() + settings.body_timeout).await
}

/// Takes what is still being sent, so that its sender gets to read the answer, unless it waits for a word before it
/// sends anything.
async fn discard(settings: &Settings, headers: &HeaderMap, body: Body) {
    if !headers.contains_key(header::EXPECT) {
        body::discard(body.into_data_stream(), Instant::now() + settings.body_timeout).await;
    }
}

/// Whose request it is and which, but for its fingerprint.
fn identify(
    settings: &Settings,
    key: Result<Option<Key>, KeyError>,
    head: &http::request::Parts,
) -> Result<Identity, Problem> {
    let key = key?.ok_or_else(missing)?;
    key.check_time(settings.clock.now(), settings.retention)?;
    let scope = match head.extensions.get::<CallerScope>() {
        Some(known) => scope(&settings.deployment, known.tenant.as_deref(), Some(&known.subject)),
        None => match credential(&head.headers) {
            None => scope(&settings.deployment, None, None),
            Some(name) => {
                return Err(Problem::internal(format!(
                    "a request with an `Idempotency-Key` has the header `{name}` and no `CallerScope`, so that \
                     nobody knows whose key it is: let the layer that authenticates, which must be outside of \
                     `IdempotencyLayer`, put one into the extensions of the request"
                )));
            }
        },
    };
    Ok(Identity { scope, key: key.0, fingerprint: [0; 32] })
}

/// The URL as the caller sent it, whatever routers have taken away of it.
fn target(head: &http::request::Parts) -> &http::Uri {
    head.extensions.get::<OriginalUri>().map_or(&head.uri, |OriginalUri(uri)| uri)
}

/// Everything that makes it this request.
fn fingerprint(head: &http::request::Parts, body: &[u8]) -> [u8; 32] {
    let uri = target(head);
    let mut parts = Parts::new("host request");
    parts.add(head.method.as_str().as_bytes()).add(uri.path().as_bytes());
    let mut query: Vec<&str> = uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()).collect();
    query.sort_unstable();
    parts.add(&(query.len() as u64).to_be_bytes());
    for pair in query {
        parts.add(pair.as_bytes());
    }
    let if_match = joined(&head.headers, &header::IF_MATCH);
    parts.maybe(media_type(&head.headers).as_deref()).maybe(if_match.as_deref()).add(body).finish()
}
