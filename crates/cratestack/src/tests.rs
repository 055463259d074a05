//! The router against a scripted engine: what the facade itself answers, and what it makes of each answer.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::ConnectInfo;
use cratestack_engine::api::{
    Answer, Authority, Caller, Code, Failure, FieldError, Operation, Origin, Principal, Row, Verb,
};
use cratestack_engine::idempotency::{Kept, Keyed, Outcome};
use cratestack_engine::json::Json;
use cratestack_engine::relay::{self, MulticastAuditSink, Relay, RelayOptions};
use cratestack_schema::ir::{Action, ModelId, Procedure, Schema};
use cratestack_schema::value::Value;
use futures_util::future::BoxFuture;
use http::request::Parts;
use http::{HeaderMap, Request, StatusCode};
use proptest::prelude::*;
use tower::ServiceExt as _;
use tracing::Level;
use tracing::instrument::WithSubscriber as _;

use crate::auth::{AuthError, AuthProvider, Claims, DevAuth, NoAuth};
use crate::config::HttpConfig;
use crate::deliveries::Deliveries;
use crate::exchange::Backend;
use crate::router::RouterBuilder;
use crate::{RouteVerb, routes};

// The schema.

/// `accounts`: versioned, soft-deletable, every action. `customers`: personal, no version. `rates`: composite key,
/// append-only. `secrets`: no rules. Procedures `transfer` (202) and `nobody`.
const SCHEMA: &str = r#"
auth Principal {
  id String
}

model Account {
  id         String @id
  customerId String
  version    Int @version

  customer Customer @relation(fields: [customerId], references: [id])

  @@soft_delete
  @@allow("all", true)
  @@allow("restore", true)
}

model Customer {
  id    String @id
  email String @pii

  accounts Account[]

  @@allow("all", true)
}

model Rate {
  id String
  b  String

  @@id([id, b])
  @@append_only
  @@allow("read", true)
  @@allow("create", true)
}

model Secret {
  id String @id
}

mutation procedure transfer(): Int
  @status(202)
  @allow(true)

procedure nobody(): Int
  @allow(false)
"#;

fn compile(text: &str) -> Schema {
    let (schema, diagnostics) = cratestack_schema::compile("bank", text);
    schema.unwrap_or_else(|| panic!("{diagnostics:?}"))
}

fn schema() -> Schema {
    compile(SCHEMA)
}

// The engine.

type Script = dyn Fn(&Caller, &Operation) -> Result<Answer, Failure> + Send + Sync;

struct Fake {
    schema: Arc<Schema>,
    script: Box<Script>,
    /// The verbs that arrived, as `Debug` prints them.
    seen: Mutex<Vec<String>>,
    hang: AtomicBool,
    ready: bool,
}

impl Backend for Fake {
    fn schema(&self) -> &Arc<Schema> {
        &self.schema
    }

    fn run<'a>(&'a self, caller: &'a Caller, operation: Operation) -> BoxFuture<'a, Result<Answer, Failure>> {
        self.seen.lock().unwrap().push(format!("{:?}", operation.verb));
        if self.hang.load(Ordering::Relaxed) {
            return Box::pin(std::future::pending());
        }
        Box::pin(async move { (self.script)(caller, &operation) })
    }

    fn call<'a>(
        &'a self,
        _: &'a Caller,
        procedure: &'a Procedure,
        body: Option<Json>,
    ) -> BoxFuture<'a, Result<String, Failure>> {
        self.seen.lock().unwrap().push(format!("{} {body:?}", procedure.name));
        Box::pin(std::future::ready(Ok(r#"{"value":1}"#.to_owned())))
    }

    fn run_keyed<'a>(
        &'a self,
        caller: &'a Caller,
        operation: Operation,
        keyed: &'a Keyed,
    ) -> BoxFuture<'a, Result<Kept, Failure>> {
        let run = self.run(caller, operation);
        Box::pin(async move {
            let record = keyed.present.present(Outcome::Done(run.await?))?;
            Ok(Kept { record, replayed: keyed.identity.key == "again" })
        })
    }

    fn call_keyed<'a>(
        &'a self,
        caller: &'a Caller,
        procedure: &'a Procedure,
        body: Option<Json>,
        keyed: &'a Keyed,
    ) -> BoxFuture<'a, Result<Kept, Failure>> {
        let call = self.call(caller, procedure, body);
        Box::pin(async move {
            let record = keyed.present.present(Outcome::Called(call.await?))?;
            Ok(Kept { record, replayed: keyed.identity.key == "again" })
        })
    }

    fn check_key<'a>(&'a self, _: &'a Keyed) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn sweep_keys(&self) -> BoxFuture<'_, Result<usize, Failure>> {
        Box::pin(std::future::ready(Ok(0)))
    }

    fn now(&self) -> i64 {
        1_795_651_200_000_000
    }

    fn trail<'a>(&'a self, _: &'a Caller, _: &'a [(String, String)]) -> BoxFuture<'a, Result<Answer, Failure>> {
        Box::pin(std::future::ready(Err(Failure::new(Code::NotFound, "there is no trail"))))
    }

    fn principal(&self, claims: &Json) -> Result<Principal, String> {
        match claims.member("id") {
            Some(Json::String(id)) => Ok(Principal { claims: vec![Value::Text(id.clone())] }),
            _ => Err("no id".to_owned()),
        }
    }

    fn admit(&self, caller: &Caller, model: ModelId, _: &[Action]) -> Result<(), Failure> {
        let anonymous = caller.principal.is_none() && model == ModelId(1);
        if anonymous { Err(Failure::new(Code::Unauthenticated, "not without credentials")) } else { Ok(()) }
    }

    fn ready(&self) -> BoxFuture<'_, Result<(), Failure>> {
        let down = Failure::new(Code::Unavailable, "the database does not answer");
        Box::pin(std::future::ready(if self.ready { Ok(()) } else { Err(down) }))
    }

    fn relay(&self, _: &'static relay::Log, _: MulticastAuditSink, _: &RelayOptions) -> Result<Relay, relay::Error> {
        unreachable!("the scripted engine has no audit trail")
    }
}

/// A row with the key `a` as the engine would answer it.
fn row() -> Row {
    Row {
        body: Some(r#"{"id":"a","n":1.5}"#.to_owned()),
        key: vec!["a".to_owned()],
        version: Some(3),
        full: true,
        created: false,
    }
}

fn by_verb(_: &Caller, operation: &Operation) -> Result<Answer, Failure> {
    let versioned = operation.model == ModelId(0);
    let row = Row { version: row().version.filter(|_| versioned), ..row() };
    Ok(match &operation.verb {
        Verb::List { .. } => {
            Answer::Page { items: "[{\"id\":\"a\"}]".to_owned(), next: Some("c+/=".to_owned()), total: Some(7) }
        }
        Verb::Read { params, .. } => Answer::Row(Row { full: params.is_empty(), ..row }),
        Verb::Create { .. } => Answer::Row(Row { created: true, ..row }),
        Verb::Patch { .. } | Verb::Restore { .. } => Answer::Row(row),
        Verb::Delete { .. } => Answer::Deleted { version: Some(4).filter(|_| versioned) },
        Verb::Batch { items, .. } => {
            let each = |item: &cratestack_engine::api::BatchItem| {
                by_verb(&caller(), &Operation { model: operation.model, verb: item.verb.clone() })
            };
            Answer::Batch(items.iter().map(each).collect())
        }
    })
}

fn caller() -> Caller {
    Caller {
        principal: None,
        authority: Authority::Rules,
        request_id: String::new(),
        deadline: Duration::ZERO,
        origin: Origin::default(),
    }
}

// The client.

struct Service {
    fake: Arc<Fake>,
    config: HttpConfig,
    auth: Arc<dyn AuthProvider>,
}

#[derive(Debug)]
struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Reply {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Checks that this is a problem with all that every problem has, and gives its code.
    fn problem(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        assert_eq!(self.header("cache-control"), Some("no-store"));
        let json = self.json();
        assert_eq!(json["status"], self.status.as_u16());
        assert_eq!(json["requestId"].as_str(), self.header("x-request-id"));
        assert!(json["title"].is_string() && json["detail"].is_string());
        let code = json["code"].as_str().unwrap();
        assert_eq!(json["type"], format!("https://cratestack.dev/problems/{code}"));
        code.to_owned()
    }
}

/// A provider that takes `Authorization: ok` and nothing else.
struct Words;

impl AuthProvider for Words {
    fn authenticate<'a>(&'a self, request: &'a Parts) -> BoxFuture<'a, Result<Option<Claims>, AuthError>> {
        let claims = |id| Claims(Json::Object(vec![("id".to_owned(), id)]));
        let word = request.headers.get("authorization").map(|value| value.to_str().unwrap().to_owned());
        Box::pin(std::future::ready(match word.as_deref() {
            None => Ok(None),
            Some("ok") => Ok(Some(claims(Json::String("ann".to_owned())))),
            Some("mistyped") => Ok(Some(claims(Json::Null))),
            Some("later") => {
                Err(AuthError::Unavailable { reason: "down".to_owned(), retry_after: Some(Duration::from_secs(9)) })
            }
            Some("panic") => panic!("secret panic"),
            Some(_) => Err(AuthError::Invalid("secret reason".to_owned())),
        }))
    }

    fn challenge(&self) -> std::borrow::Cow<'static, str> {
        "Words realm=\"test\"".into()
    }
}

impl Service {
    fn new(script: impl Fn(&Caller, &Operation) -> Result<Answer, Failure> + Send + Sync + 'static) -> Self {
        let (schema, script) = (Arc::new(schema()), Box::new(script));
        let fake = Fake { schema, script, seen: Mutex::default(), hang: AtomicBool::new(false), ready: true };
        Self { fake: Arc::new(fake), config: HttpConfig::default(), auth: Arc::new(Words) }
    }

    fn builder(&self) -> RouterBuilder {
        RouterBuilder {
            backend: Arc::clone(&self.fake) as Arc<dyn Backend>,
            auth: Arc::clone(&self.auth),
            config: self.config.clone(),
            deliveries: Deliveries::default(),
            limits: None,
        }
    }

    fn router(&self) -> Router {
        self.builder().into_service()
    }

    async fn send(&self, request: Request<Body>) -> Reply {
        send(self.router(), request).await
    }

    /// `GET /api/accounts` and the like, with headers as `name: value`.
    async fn ask(&self, line: &str, headers: &[&str], body: &str) -> Reply {
        self.send(request(line, headers, body)).await
    }

    fn seen(&self) -> Vec<String> {
        std::mem::take(&mut self.fake.seen.lock().unwrap())
    }
}

fn request(line: &str, headers: &[&str], body: &str) -> Request<Body> {
    let (method, url) = line.split_once(' ').unwrap();
    let mut request = Request::builder().method(method).uri(url);
    for header in headers {
        let (name, value) = header.split_once(": ").unwrap();
        request = request.header(name, value);
    }
    if !body.is_empty() && !headers.iter().any(|header| header.starts_with("content-type")) {
        request = request.header("content-type", "application/json");
    }
    request.body(Body::from(body.to_owned())).unwrap()
}

async fn send(router: Router, request: Request<Body>) -> Reply {
    let (parts, body) = router.oneshot(request).await.unwrap().into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap().to_vec();
    Reply { status: parts.status, headers: parts.headers, body }
}

// Routes.

#[test]
fn the_table() {
    let table: Vec<String> =
        routes(&schema()).iter().map(|route| format!("{} {} {:?}", route.method, route.path, route.verb)).collect();
    assert_eq!(
        table,
        [
            "GET /accounts List",
            "POST /accounts Create",
            "POST /accounts/batch Batch",
            "GET /accounts/{id} Read",
            "PATCH /accounts/{id} Patch",
            "DELETE /accounts/{id} Delete",
            "POST /accounts/{id}/restore Restore",
            "GET /customers List",
            "POST /customers Create",
            "POST /customers/batch Batch",
            "GET /customers/{id} Read",
            "PATCH /customers/{id} Patch",
            "DELETE /customers/{id} Delete",
            "GET /rates List",
            "POST /rates Create",
            "POST /rates/batch Batch",
            "GET /rates/{id}/{b} Read",
            "POST /rpc/transfer Call",
        ]
    );
}

#[test]
fn a_verb_that_no_policy_allows_has_no_route() {
    let auth = "auth Principal {\n  id String\n}\n";
    let listed = |auth: &str, rules: &str| {
        let schema = compile(&format!("{auth}model Row {{\n  id String @id\n{rules}\n}}\n"));
        routes(&schema).iter().any(|route| route.verb == RouteVerb::List)
    };
    let varies = "auth() == null";
    let allows = [
        ("true", true),
        ("false", false),
        ("!false", true),
        ("!true", false),
        (varies, true),
        ("auth() == null && false", false),
        ("auth() == null && true", true),
        ("true && true", true),
        ("auth() == null || false", true),
        ("false || false", false),
        ("id == \"a\"", true),
    ];
    for (expr, route) in allows {
        assert_eq!(listed(auth, &format!("  @@allow(\"list\", {expr})")), route, "{expr}");
    }
    // A deny that always fires takes the route; one that might does not.
    for (expr, route) in [("true", false), ("false", true), (varies, true), ("auth() == null || true", false)] {
        assert_eq!(listed(auth, &format!("  @@allow(\"list\", true)\n  @@deny(\"list\", {expr})")), route, "{expr}");
    }
    assert!(!listed(auth, "  @@allow(\"list\", true)\n  @@internal(\"list\")"));
    assert!(!listed(auth, "  @@allow(\"detail\", true)"));
    assert!(!listed(auth, ""));
}

#[tokio::test]
async fn methods() {
    let service = Service::new(by_verb);
    let table = [
        ("/api/accounts", Some("GET, HEAD, POST, OPTIONS")),
        ("/api/accounts/a", Some("GET, HEAD, PATCH, DELETE, OPTIONS")),
        ("/api/accounts/a/restore", Some("POST, OPTIONS")),
        ("/api/accounts/batch", Some("POST, GET, HEAD, PATCH, DELETE, OPTIONS")),
        ("/api/rates/1/2", Some("GET, HEAD, OPTIONS")),
        ("/api/rates/batch", Some("POST, OPTIONS")),
        ("/api/rpc/transfer", Some("POST, OPTIONS")),
        ("/api/rpc/nobody", None),
        ("/api/rpc", None),
        ("/api/secrets", None),
        ("/api/secrets/a", None),
        ("/api/customers/a/restore", None),
        ("/api/rates/1", None),
        ("/api/rates/1/2/3", None),
        ("/api/accounts/", None),
        ("/api/accounts//", None),
        ("/api/", None),
        ("/api", None),
        ("/api/openapi.json", None),
        ("/", None),
        ("/accounts", None),
    ];
    for (path, allow) in table {
        let options = service.ask(&format!("OPTIONS {path}"), &[], "").await;
        let put = service.ask(&format!("PUT {path}"), &[], "{}").await;
        let Some(allow) = allow else {
            assert_eq!((options.status, options.problem().as_str()), (StatusCode::NOT_FOUND, "not_found"), "{path}");
            assert_eq!(put.problem(), "not_found");
            continue;
        };
        assert_eq!((options.status, options.header("allow")), (StatusCode::NO_CONTENT, Some(allow)), "{path}");
        assert_eq!((put.problem().as_str(), put.header("allow")), ("method_not_allowed", Some(allow)), "{path}");
        // The answer of every method agrees with `Allow`.
        for method in ["GET", "POST", "PATCH", "DELETE"] {
            let body =
                if matches!(method, "POST" | "PATCH") && !path.ends_with("/restore") { r#"{"items":[]}"# } else { "" };
            let reply = service.ask(&format!("{method} {path}"), &[], body).await;
            let listed = allow.split(", ").any(|other| other == method);
            assert_eq!(reply.status != StatusCode::METHOD_NOT_ALLOWED, listed, "{method} {path}");
            assert!(!listed || reply.status.is_success(), "{method} {path}: {reply:?}");
        }
    }
    let patchable = service.ask("OPTIONS /api/accounts/a", &[], "").await;
    assert_eq!(
        patchable.header("accept-patch"),
        Some("application/merge-patch+json, application/json, application/cbor")
    );
    assert_eq!(patchable.header("accept-post"), None);
    let postable = service.ask("OPTIONS /api/accounts", &[], "").await;
    assert_eq!(postable.header("accept-post"), Some("application/json, application/cbor"));
    // The key `batch` names a row like any other.
    service.seen();
    service.ask("GET /api/accounts/batch", &[], "").await;
    assert_eq!(service.seen(), [r#"Read { key: ["batch"], params: [] }"#]);
}

// What reaches the engine.

#[tokio::test]
async fn operations() {
    let service = Service::new(by_verb);
    let any = "if-match: *";
    let table: &[(&str, &[&str], &str, &str)] = &[
        ("GET /api/accounts?a=1&b.in=x%2Cy", &[], "", r#"List { params: [("a", "1"), ("b.in", "x,y")] }"#),
        ("GET /api/accounts?=1&&", &[], "", r#"List { params: [("", "1"), ("", ""), ("", "")] }"#),
        ("GET /api/accounts?", &[], "", "List { params: [] }"),
        ("HEAD /api/accounts/a%2Fb%20+", &[], "", r#"Read { key: ["a/b +"], params: [] }"#),
        ("GET /api/accounts/%00?fields=id", &[], "", r#"Read { key: ["\0"], params: [("fields", "id")] }"#),
        ("GET /api/rates/x/restore", &[], "", r#"Read { key: ["x", "restore"], params: [] }"#),
        ("POST /api/accounts", &[], "{\"n\":1e400}", r#"Create { data: Object([("n", Number("1e400"))]) }"#),
        ("POST /api/accounts", &[], "[]", "Create { data: Array([]) }"),
        ("PATCH /api/accounts/a", &[], "{}", r#"Patch { key: ["a"], expected: Missing, data: Object([]) }"#),
        ("PATCH /api/accounts/a", &[any], "{}", r#"Patch { key: ["a"], expected: Any, data: Object([]) }"#),
        (
            "PATCH /api/accounts/a",
            &["if-match: \"3\"", "if-match: W/\"4\", \"5-cbor\"", "content-type: application/merge-patch+json"],
            "null",
            r#"Patch { key: ["a"], expected: OneOf([3, 5]), data: Null }"#,
        ),
        ("DELETE /api/accounts/a", &["if-match: \"x\""], "", r#"Delete { key: ["a"], expected: OneOf([]) }"#),
        ("POST /api/accounts/a/restore", &["if-match: \"3\""], "", r#"Restore { key: ["a"], expected: OneOf([3]) }"#),
        (
            "POST /api/accounts/batch",
            &[],
            r#"{"atomic":false,"items":[{"op":"delete","id":"a","ifMatch":3}]}"#,
            r#"Batch { atomic: false, items: [BatchItem { verb: Delete { key: ["a"], expected: OneOf([3]) } }] }"#,
        ),
        ("POST /api/rpc/transfer", &[], "", "transfer None"),
        ("POST /api/rpc/transfer", &[], "{}", "transfer Some(Object([]))"),
    ];
    for (line, headers, body, expected) in table {
        let reply = service.ask(line, headers, body).await;
        assert!(reply.status.is_success(), "{line} {reply:?}");
        assert_eq!(service.seen(), [*expected], "{line}");
    }
}

#[tokio::test]
async fn cbor_in_and_out() {
    let service = Service::new(by_verb);
    let headers = ["content-type: application/cbor", "accept: application/cbor"];
    let mut body = request("POST /api/accounts", &headers, "");
    *body.body_mut() = Body::from(vec![0xa1, 0x61, 0x6e, 0x01]);
    let reply = service.send(body).await;
    assert_eq!(service.seen(), [r#"Create { data: Object([("n", Number("1"))]) }"#]);
    assert_eq!((reply.status, reply.header("etag")), (StatusCode::CREATED, Some("\"3-cbor\"")));
    assert_eq!(reply.header("content-type"), Some("application/cbor"));
    assert_eq!(reply.body, [0xa2, 0x62, b'i', b'd', 0x61, b'a', 0x61, b'n', 0xf9, 0x3e, 0x00]);
    // Problems are JSON whatever was asked for.
    let mut body = request("POST /api/accounts", &headers, "");
    *body.body_mut() = Body::from(vec![0xa1]);
    assert_eq!(service.send(body).await.problem(), "bad_request");
    // A list, and a tag that is derived from the body.
    let list = service.ask("GET /api/accounts", &["accept: application/cbor"], "").await;
    let value: ciborium::Value = ciborium::from_reader(list.body.as_slice()).unwrap();
    assert_eq!(value.as_map().unwrap().len(), 3);
    let weak = service.ask("GET /api/customers/a", &["accept: application/cbor"], "").await;
    assert!(weak.header("etag").unwrap().ends_with("-cbor\""));
}

// What comes back.

#[tokio::test]
async fn answers() {
    let service = Service::new(by_verb);
    let row = r#"{"id":"a","n":1.5}"#;
    let table: &[(&str, &[&str], &str, u16, &str, &[(&str, Option<&str>)])] = &[
        (
            "GET /api/accounts?limit=1",
            &[],
            "",
            200,
            r#"{"items":[{"id":"a"}],"next":"c+/=","total":7}"#,
            &[
                ("link", Some("</api/accounts?limit=1&cursor=c%2B%2F%3D>; rel=\"next\"")),
                ("content-type", Some("application/json")),
                ("vary", Some("accept, authorization")),
                ("cache-control", None),
                ("etag", None),
            ],
        ),
        (
            "GET /api/accounts/a",
            &[],
            "",
            200,
            row,
            &[("etag", Some("\"3\"")), ("location", None), ("cache-control", None)],
        ),
        (
            "GET /api/accounts?include=customer",
            &[],
            "",
            200,
            r#"{"items":[{"id":"a"}],"next":"c+/=","total":7}"#,
            &[("cache-control", Some("no-store"))],
        ),
        ("GET /api/customers/a", &[], "", 200, row, &[("cache-control", Some("no-store"))]),
        ("POST /api/accounts", &[], "{}", 201, row, &[("etag", Some("\"3\"")), ("location", Some("/api/accounts/a"))]),
        (
            "POST /api/accounts",
            &["prefer: return=minimal"],
            "{}",
            201,
            "",
            &[
                ("etag", Some("\"3\"")),
                ("location", Some("/api/accounts/a")),
                ("preference-applied", Some("return=minimal")),
                ("content-type", None),
            ],
        ),
        (
            "PATCH /api/accounts/a",
            &[],
            "{}",
            200,
            row,
            &[("etag", Some("\"3\"")), ("location", None), ("preference-applied", None)],
        ),
        (
            "PATCH /api/accounts/a",
            &["prefer: return=minimal"],
            "{}",
            204,
            "",
            &[("etag", Some("\"3\"")), ("preference-applied", Some("return=minimal"))],
        ),
        ("GET /api/accounts/a", &["prefer: return=minimal"], "", 200, row, &[("preference-applied", None)]),
        ("DELETE /api/accounts/a", &[], "", 204, "", &[("etag", Some("\"4\"")), ("content-type", None)]),
        ("DELETE /api/customers/a", &[], "", 204, "", &[("etag", None), ("cache-control", Some("no-store"))]),
        ("POST /api/accounts/a/restore", &[], "", 200, row, &[("etag", Some("\"3\""))]),
        ("POST /api/accounts/a/restore", &["prefer: return=minimal"], "", 204, "", &[("etag", Some("\"3\""))]),
        ("POST /api/rpc/transfer", &[], "{}", 202, r#"{"value":1}"#, &[("cache-control", Some("no-store"))]),
        ("HEAD /api/accounts/a", &[], "", 200, "", &[("etag", Some("\"3\"")), ("content-length", Some("18"))]),
        ("GET /livez", &[], "", 200, r#"{"status":"live"}"#, &[("cache-control", Some("no-store"))]),
    ];
    for (line, headers, body, status, text, expected) in table {
        let reply = service.ask(line, headers, body).await;
        assert_eq!((reply.status.as_u16(), reply.text()), (*status, *text), "{line}");
        for (name, value) in *expected {
            assert_eq!(reply.header(name), *value, "{line} {name}");
        }
        assert!(reply.header("x-request-id").is_some());
    }
    let ready = service.ask("GET /readyz", &[], "").await;
    let crypto = crate::crypto::crypto_status().to_json();
    assert_eq!(ready.text(), serde_json::json!({"crypto": crypto, "status": "ready"}).to_string());
}

#[tokio::test]
async fn what_the_writer_may_not_read() {
    for (created, line, status) in [(true, "POST /api/accounts", 201), (false, "PATCH /api/accounts/a", 204)] {
        let service = Service::new(move |_, _| Ok(Answer::Row(Row { body: None, created, ..row() })));
        let reply = service.ask(line, &[], "{}").await;
        assert_eq!((reply.status.as_u16(), reply.text()), (status, ""));
        assert_eq!((reply.header("location"), reply.header("etag")), (Some("/api/accounts/a"), None));
    }
}

#[tokio::test]
async fn conditional_reads() {
    let service = Service::new(by_verb);
    let weak = service.ask("GET /api/customers/a", &[], "").await;
    let weak = weak.header("etag").unwrap();
    assert!(weak.starts_with("W/\"") && weak.len() == 36, "{weak}");
    let view = service.ask("GET /api/accounts/a?fields=id", &[], "").await;
    assert_eq!(view.header("etag"), Some(weak), "the same text has the same tag");

    let if_none_match = |tag: &str| format!("if-none-match: {tag}");
    let if_match = |tag: &str| format!("if-match: {tag}");
    let table = [
        ("/api/accounts/a", if_none_match("\"3\""), 304),
        ("/api/accounts/a", if_none_match("W/\"3\""), 304),
        ("/api/accounts/a", if_none_match("\"2\", \"3\""), 304),
        ("/api/accounts/a", if_none_match("*"), 304),
        ("/api/accounts/a", if_none_match("\"2\""), 200),
        ("/api/accounts/a", if_none_match("\"3-cbor\""), 200),
        ("/api/accounts/a", if_none_match("3"), 400),
        ("/api/accounts/a", if_none_match(""), 400),
        ("/api/accounts/a?fields=id", if_none_match("\"3\""), 200),
        ("/api/accounts/a?fields=id", if_none_match(weak), 304),
        ("/api/customers/a", if_none_match(weak), 304),
        ("/api/customers/a", if_none_match(weak.trim_start_matches("W/")), 304),
        ("/api/customers/a", if_match(weak), 412),
        ("/api/customers/a", if_match("*"), 200),
        ("/api/accounts/a", if_match("\"3\""), 200),
        ("/api/accounts/a", if_match("\"2\""), 412),
        ("/api/accounts/a", if_match("W/\"3\""), 412),
        ("/api/accounts/a", if_match("\"3"), 400),
        ("/api/accounts", if_none_match("\"3\""), 200),
        ("/api/accounts", if_match("\"3\""), 412),
    ];
    for (path, header, status) in table {
        for method in ["GET", "HEAD"] {
            let reply = service.ask(&format!("{method} {path}"), &[&header], "").await;
            assert_eq!(reply.status.as_u16(), status, "{method} {path} {header}");
            if status == 304 {
                assert!(reply.body.is_empty() && reply.header("etag").is_some());
                assert_eq!(reply.header("vary"), Some("accept, authorization"));
                assert_eq!(reply.header("content-type"), None);
            }
            if status == 412 && path != "/api/accounts" {
                assert!(reply.header("etag").is_some());
            }
        }
    }
    let cbor = service.ask("GET /api/accounts/a", &["accept: application/cbor", "if-none-match: \"3-cbor\""], "").await;
    assert_eq!(cbor.status, StatusCode::NOT_MODIFIED);
}

#[tokio::test]
async fn failures_of_the_engine() {
    let table = [
        (Code::BadRequest, 400, "bad_request"),
        (Code::InvalidQuery, 400, "invalid_query"),
        (Code::InvalidCursor, 400, "invalid_cursor"),
        (Code::Unauthenticated, 401, "unauthenticated"),
        (Code::Forbidden, 403, "forbidden"),
        (Code::NotFound, 404, "not_found"),
        (Code::UniqueViolation, 409, "unique_violation"),
        (Code::ForeignKeyViolation, 409, "foreign_key_violation"),
        (Code::TransactionAborted, 409, "transaction_aborted"),
        (Code::VersionMismatch, 412, "version_mismatch"),
        (Code::VersionRequired, 428, "version_required"),
        (Code::ValidationFailed, 422, "validation_failed"),
        (Code::Internal, 500, "internal"),
        (Code::NotImplemented, 501, "not_implemented"),
        (Code::Unavailable, 503, "unavailable"),
    ];
    for (code, status, name) in table {
        let service = Service::new(move |_, _| {
            let errors =
                vec![FieldError { pointer: "#/n".to_owned(), code: "range".to_owned(), detail: "too big".to_owned() }];
            let current_version = (code == Code::VersionMismatch).then_some(7);
            let failure = Failure::new(code, "what happened").with_internal("secret cause");
            Err(Failure { errors, item: Some(2), current_version, ..failure })
        });
        let reply = service.ask("PATCH /api/accounts/a", &["accept: application/cbor"], "{}").await;
        assert_eq!((reply.status.as_u16(), reply.problem().as_str()), (status, name));
        assert!(!reply.text().contains("secret"));
        assert_eq!(reply.json()["item"], 2);
        assert_eq!(
            reply.json()["errors"][0],
            serde_json::json!({"pointer": "#/n", "code": "range", "detail": "too big"})
        );
        let detail = if status == 500 { "the log has the details under this request id" } else { "what happened" };
        assert_eq!(reply.json()["detail"], detail);
        assert_eq!(reply.header("www-authenticate"), (status == 401).then_some("Words realm=\"test\""));
        assert_eq!(reply.header("etag"), (status == 412).then_some("\"7-cbor\""));
    }
}

#[tokio::test]
async fn batches() {
    let service = Service::new(|_, operation| {
        let Verb::Batch { items, .. } = &operation.verb else { panic!("no batch") };
        let results = items.iter().map(|item| match &item.verb {
            Verb::Create { .. } => by_verb(&caller(), &Operation { model: operation.model, verb: item.verb.clone() }),
            Verb::Patch { .. } => {
                Err(Failure { current_version: Some(9), ..Failure::new(Code::VersionMismatch, "changed") })
            }
            _ => Ok(Answer::Deleted { version: None }),
        });
        Ok(Answer::Batch(results.collect()))
    });
    let good = r#"{"items":[{"op":"create","data":{}},{"op":"delete","id":"a"}]}"#;
    let reply = service.ask("POST /api/accounts/batch", &[], good).await;
    assert_eq!(reply.status, StatusCode::OK);
    let created = r#"{"status":201,"etag":"\"3\"","location":"/api/accounts/a","body":{"id":"a","n":1.5}}"#;
    assert_eq!(reply.text(), format!(r#"{{"items":[{created},{{"status":204}}]}}"#));

    let minimal = service.ask("POST /api/accounts/batch", &["prefer: return=minimal"], good).await;
    let created = r#"{"status":201,"etag":"\"3\"","location":"/api/accounts/a"}"#;
    assert_eq!(minimal.text(), format!(r#"{{"items":[{created},{{"status":204}}]}}"#));
    assert_eq!(minimal.header("preference-applied"), Some("return=minimal"));

    let mixed = r#"{"atomic":false,"items":[{"op":"update","id":"a","data":{}},{"op":"delete","id":"a"}]}"#;
    let reply = service.ask("POST /api/accounts/batch", &["x-request-id: r1"], mixed).await;
    assert_eq!(reply.status, StatusCode::MULTI_STATUS);
    let item = &reply.json()["items"][0];
    assert_eq!((&item["status"], &item["etag"]), (&412.into(), &"\"9\"".into()));
    assert_eq!((&item["problem"]["code"], &item["problem"]["requestId"]), (&"version_mismatch".into(), &"r1".into()));

    let wrong = service.ask("POST /api/accounts/batch", &[], r#"{"items":[{"op":"upsert"}]}"#).await;
    assert_eq!(wrong.problem(), "validation_failed");
    assert_eq!(wrong.json()["errors"][0]["pointer"], "#/items/0/op");
    // Invalid credentials come first.
    let wrong = service.ask("POST /api/accounts/batch", &["authorization: no"], r#"{"items":[{"op":"upsert"}]}"#).await;
    assert_eq!(wrong.problem(), "unauthenticated");
    // So does the 401 of a caller without any.
    for (headers, code) in [(&[][..], "unauthenticated"), (&["authorization: ok"], "validation_failed")] {
        assert_eq!(service.ask("POST /api/customers/batch", headers, "{}").await.problem(), code);
    }
    // An append-only model has creates alone.
    let wrong = service.ask("POST /api/rates/batch", &[], r#"{"items":[{"op":"delete","id":["a","b"]}]}"#).await;
    assert_eq!(wrong.json()["errors"][0]["detail"], "must be one of `create`");
}

// Refusals of the facade.

#[tokio::test]
async fn refusals() {
    let service = Service::new(|_, _| panic!("the engine is not reached"));
    let deep = format!("{}{}", "[".repeat(65), "]".repeat(65));
    let long = format!("GET /api/accounts?a={}", "x".repeat(8192));
    let large = format!("x-large: {}", "x".repeat(32 * 1024));
    let post = "POST /api/accounts";
    let patch = "PATCH /api/accounts/a";
    let table: &[(&str, &[&str], &str, u16, &str)] = &[
        (&long, &[], "", 414, "uri_too_long"),
        ("GET /api/accounts", &[&large], "", 431, "headers_too_large"),
        ("GET /api/accounts", &["accept: text/html"], "", 406, "not_acceptable"),
        ("GET /api/accounts", &["accept: application/problem+json"], "", 406, "not_acceptable"),
        (post, &["idempotency-key: a,b"], "{}", 400, "idempotency_key_invalid"),
        (post, &["idempotency-key: 0190163d-8694-739b-aa18-aea4a2e5d8e6"], "{}", 422, "idempotency_key_expired"),
        ("GET /api/accounts?a=%ff", &[], "", 400, "invalid_query"),
        ("GET /api/accounts/%ff", &[], "", 400, "bad_request"),
        ("GET /api/accounts/%zz", &[], "", 400, "bad_request"),
        ("POST /api/accounts?a=1", &[], "{}", 400, "invalid_query"),
        ("DELETE /api/accounts/a?a=1", &[], "", 400, "invalid_query"),
        ("GET /api/accounts", &[], "{}", 400, "bad_request"),
        ("DELETE /api/accounts/a", &[], "{}", 400, "bad_request"),
        ("POST /api/accounts/a/restore", &[], "{}", 400, "bad_request"),
        (post, &[], "", 400, "invalid_json"),
        (post, &["content-type: application/json"], "", 400, "invalid_json"),
        (post, &["content-type: application/cbor"], "", 400, "bad_request"),
        (post, &[], "{", 400, "invalid_json"),
        (post, &[], "{\"a\":1,\"a\":2}", 400, "invalid_json"),
        (post, &[], "NaN", 400, "invalid_json"),
        (post, &[], " ", 400, "invalid_json"),
        (post, &[], &deep, 400, "invalid_json"),
        (post, &["content-type: text/plain"], "{}", 415, "unsupported_media_type"),
        (post, &["content-type: application/json;charset=utf-16"], "{}", 415, "unsupported_media_type"),
        (post, &["content-type: application/merge-patch+json"], "{}", 415, "unsupported_media_type"),
        (
            post,
            &["content-type: application/json", "content-type: application/json"],
            "{}",
            415,
            "unsupported_media_type",
        ),
        (post, &["content-type: application/json", "content-encoding: gzip"], "{}", 415, "unsupported_media_type"),
        (patch, &["content-type: application/x-www-form-urlencoded"], "{}", 415, "unsupported_media_type"),
        (patch, &["if-match: 3"], "{}", 400, "bad_request"),
        (patch, &["if-match: "], "{}", 400, "bad_request"),
        (patch, &["if-match: *, \"3\""], "{}", 400, "bad_request"),
        (patch, &["if-none-match: *"], "{}", 400, "bad_request"),
        (post, &["if-none-match: *"], "{}", 400, "bad_request"),
        (post, &["if-match: *"], "{}", 400, "bad_request"),
        ("POST /api/accounts/batch", &["if-match: *"], "{\"items\":[]}", 400, "bad_request"),
        ("POST /api/rpc/transfer", &["if-match: *"], "{}", 400, "bad_request"),
        ("GET /api/accounts", &["authorization: no"], "", 401, "unauthenticated"),
        ("GET /api/accounts", &["authorization: mistyped"], "", 401, "unauthenticated"),
        ("GET /api/accounts", &["authorization: later"], "", 503, "unavailable"),
        ("GET /api/accounts", &["authorization: panic"], "", 500, "internal"),
        ("GET /api/accounts", &["authorization: ok"], "", 500, "internal"),
        // The order of refusals.
        (post, &["authorization: no", "content-type: text/plain"], "{}", 415, "unsupported_media_type"),
        (post, &["authorization: no"], "{", 400, "invalid_json"),
        ("GET /api/accounts?a=%ff", &["authorization: no"], "", 400, "invalid_query"),
    ];
    for (line, headers, body, status, code) in table {
        let reply = service.ask(line, headers, body).await;
        assert_eq!((reply.status.as_u16(), reply.problem().as_str()), (*status, *code), "{line} {headers:?} {body}");
        assert!(!reply.text().contains("secret"));
        assert_eq!(reply.header("www-authenticate").is_some(), *status == 401);
        assert_eq!(reply.header("retry-after"), (*status == 503).then_some("9"));
        match *status {
            415 if headers.contains(&"content-encoding: gzip") => {
                assert_eq!(reply.header("accept-encoding"), Some("identity"));
            }
            415 if *line == patch => assert!(reply.header("accept-patch").is_some()),
            415 => assert!(reply.header("accept-post").is_some()),
            _ => {}
        }
    }
    assert_eq!(service.ask("POST /livez", &[], "").await.problem(), "method_not_allowed");
}

#[tokio::test]
async fn large_bodies() {
    let service = Service::new(by_verb);
    let limit = service.config.body_limit;
    let body = |octets: usize| format!("\"{}\"", "x".repeat(octets - 2));
    assert_eq!(service.ask("POST /api/accounts", &[], &body(limit)).await.status, StatusCode::CREATED);
    let reply = service.ask("POST /api/accounts", &[], &body(limit + 1)).await;
    assert_eq!((reply.status.as_u16(), reply.problem().as_str()), (413, "content_too_large"));
    // In chunks, so that the length is not known before.
    let chunks = |count: usize| {
        let chunk = || Ok::<_, std::io::Error>(vec![b' '; 1024]);
        Body::from_stream(futures_util::stream::iter((0..count).map(move |_| chunk()).chain([Ok(b"{}".to_vec())])))
    };
    for (count, status) in [(3, 201), (1024, 413), (100_000, 413)] {
        let mut request = request("POST /api/accounts", &["content-type: application/json"], "");
        *request.body_mut() = chunks(count);
        assert_eq!(service.send(request).await.status.as_u16(), status, "{count}");
    }
    // A body that breaks off.
    let broken = futures_util::stream::iter([Ok(vec![b'{']), Err(std::io::Error::other("gone"))]);
    let mut request = request("POST /api/accounts", &["content-type: application/json"], "");
    *request.body_mut() = Body::from_stream(broken);
    assert_eq!(service.send(request).await.problem(), "bad_request");
}

#[tokio::test(start_paused = true)]
async fn deadlines() {
    let service = Service::new(by_verb);
    let mut request = request("POST /api/accounts", &["content-type: application/json"], "");
    *request.body_mut() = Body::from_stream(futures_util::stream::pending::<Result<Vec<u8>, std::io::Error>>());
    let reply = service.send(request).await;
    assert_eq!((reply.status.as_u16(), reply.problem().as_str()), (408, "request_timeout"));

    let service = Service::new(|caller, _| {
        assert_eq!(caller.deadline, Duration::from_secs(30));
        by_verb(caller, &Operation { model: ModelId(0), verb: Verb::List { params: vec![] } })
    });
    assert_eq!(service.ask("GET /api/accounts", &[], "").await.status, StatusCode::OK);
    service.fake.hang.store(true, Ordering::Relaxed);
    let reply = service.ask("GET /api/accounts", &[], "").await;
    assert_eq!((reply.status.as_u16(), reply.problem().as_str()), (503, "unavailable"));
}

#[tokio::test]
async fn a_panic_is_a_500() {
    let service = Service::new(|_, _| panic!("secret"));
    let reply = service.ask("GET /api/accounts", &["x-request-id: r1"], "").await;
    assert_eq!((reply.status.as_u16(), reply.problem().as_str()), (500, "internal"));
    assert!(!reply.text().contains("secret"));
    assert_eq!(reply.header("x-request-id"), Some("r1"));
}

#[tokio::test]
async fn readiness() {
    let mut service = Service::new(by_verb);
    Arc::get_mut(&mut service.fake).unwrap().ready = false;
    let reply = service.ask("GET /readyz", &[], "").await;
    assert_eq!((reply.status.as_u16(), reply.problem().as_str()), (503, "unavailable"));
    assert_eq!(service.ask("GET /livez", &[], "").await.status, StatusCode::OK);
}

#[tokio::test]
async fn request_ids() {
    let service = Service::new(|caller, _| {
        assert_eq!(caller.request_id.len(), 36);
        Err(Failure::new(Code::NotFound, "gone"))
    });
    for id in ["", "a b", &"x".repeat(129)] {
        let reply = service.ask("GET /api/accounts", &[&format!("x-request-id: {id}")], "").await;
        assert_eq!(reply.problem(), "not_found");
        let made: uuid::Uuid = reply.header("x-request-id").unwrap().parse().unwrap();
        assert_eq!(made.get_version_num(), 7);
    }
}

#[tokio::test]
async fn principals() {
    let service = Service::new(|caller, operation| {
        let id = caller.principal.as_ref().map(|principal| principal.claims.clone());
        assert_eq!(id, Some(vec![Value::Text("ann".to_owned())]));
        by_verb(caller, operation)
    });
    assert_eq!(service.ask("GET /api/accounts", &["authorization: ok"], "").await.status, StatusCode::OK);

    let mut service = Service::new(by_verb);
    service.auth = Arc::new(DevAuth::new());
    let token = format!("authorization: {}", DevAuth::header(r#"{"id":"ann"}"#));
    for (peer, status) in [("127.0.0.1:1", 200), ("192.0.2.1:1", 401)] {
        let mut request = request("GET /api/accounts", &[&token], "");
        request.extensions_mut().insert(ConnectInfo::<SocketAddr>(peer.parse().unwrap()));
        assert_eq!(service.send(request).await.status.as_u16(), status, "{peer}");
    }
    service.auth = Arc::new(NoAuth);
    assert_eq!(service.ask("GET /api/accounts", &[&token], "").await.problem(), "unauthenticated");
    assert_eq!(service.ask("GET /api/accounts", &[], "").await.status, StatusCode::OK);
}

#[tokio::test]
async fn mounts() {
    let mut service = Service::new(by_verb);
    let at = async |service: &Service, router: Router, prefix: &str| {
        let created = send(router.clone(), request(&format!("POST {prefix}/accounts"), &[], "{}")).await;
        let list = send(router, request(&format!("GET {prefix}/accounts"), &[], "")).await;
        let _ = service;
        (created.header("location").unwrap().to_owned(), list.header("link").unwrap().to_owned())
    };
    let api = || service.builder().into_router();
    let link = |prefix: &str| format!("<{prefix}/accounts?cursor=c%2B%2F%3D>; rel=\"next\"");
    assert_eq!(at(&service, api(), "").await, ("/accounts/a".to_owned(), link("")));
    let nested = Router::new().nest("/v1", Router::new().nest("/bank", api()));
    assert_eq!(at(&service, nested, "/v1/bank").await, ("/v1/bank/accounts/a".to_owned(), link("/v1/bank")));
    let mounted = Router::new().nest_service("/x", api());
    assert_eq!(at(&service, mounted, "/x").await, ("/x/accounts/a".to_owned(), link("/x")));
    let merged = Router::new().route("/own", axum::routing::get(|| async { "own" })).merge(api());
    assert_eq!(at(&service, merged, "").await, ("/accounts/a".to_owned(), link("")));

    service.config.base_path = Some("/outer/api".to_owned());
    let (location, _) = at(&service, service.builder().into_router(), "").await;
    assert_eq!(location, "/outer/api/accounts/a");
}

#[tokio::test]
async fn problem_types_have_the_configured_base() {
    let mut service = Service::new(by_verb);
    service.config.problem_base = "https://bank.example/p#".to_owned();
    let reply = service.ask("GET /nowhere", &[], "").await;
    assert_eq!(reply.json()["type"], "https://bank.example/p#not_found");
}

/// What the log says while `work` runs.
async fn logged(level: Level, work: impl Future<Output = Reply>) -> (Reply, String) {
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Log {
        fn write(&mut self, octets: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(octets);
            Ok(octets.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    // With one subscriber alone, a call site that another test meets first, without one, counts as one that nobody
    // listens to.
    static SECOND: LazyLock<tracing::Dispatch> =
        LazyLock::new(|| tracing::Dispatch::new(tracing_subscriber::registry()));
    LazyLock::force(&SECOND);

    let log = Log::default();
    let writer = log.clone();
    let subscriber =
        tracing_subscriber::fmt().json().with_max_level(level).with_writer(move || writer.clone()).finish();
    let reply = work.with_subscriber(subscriber).await;
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    (reply, text)
}

#[tokio::test]
async fn the_log_has_what_the_answer_must_not() {
    let service = Service::new(|_, _| Err(Failure::new(Code::Internal, "bug").with_internal("secret cause")));
    let trace = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let headers = ["x-request-id: req-1", trace, "authorization: ok"];
    let (reply, log) = logged(Level::DEBUG, service.ask("GET /api/customers/personal-key", &headers, "")).await;
    assert!(!reply.text().contains("secret cause"));
    for part in ["secret cause", "req-1", "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", "/customers/{id}"] {
        assert!(log.contains(part), "{part}: {log}");
    }
    assert!(!log.contains("personal-key"), "{log}");

    // A quiet log has the request id all the same.
    let (_, log) = logged(Level::WARN, service.ask("GET /api/customers/personal-key", &headers, "")).await;
    assert!(log.contains("secret cause") && log.contains("req-1"), "{log}");

    let (reply, log) = logged(Level::DEBUG, service.ask("GET /api/accounts", &["authorization: no"], "")).await;
    assert_eq!(reply.problem(), "unauthenticated");
    assert!(log.contains("secret reason") && !reply.text().contains("secret reason"));
    let (_, log) = logged(Level::DEBUG, service.ask("GET /api/accounts", &["authorization: panic"], "")).await;
    assert!(log.contains("panic: secret panic") && log.contains("\"level\":\"ERROR\""), "{log}");
}

proptest! {
    /// Whatever a client sends, the facade answers, and never with a server error of its own.
    #[test]
    fn no_request_breaks_it(
        method in prop_oneof!["GET", "HEAD", "POST", "PATCH", "DELETE", "OPTIONS", "[A-Z]{1,6}"],
        path in "(/api)?/(accounts|rates|customers|rpc|livez)?(/(batch|restore|transfer|a|%[0-9a-g]{2}|[ -~&&[^?#<>\"]]{0,4})){0,3}",
        query in proptest::option::of("[!$-;=?-~]{0,20}"),
        headers in proptest::collection::vec(
            (
                prop_oneof![
                    Just("accept"), Just("content-type"), Just("if-match"), Just("if-none-match"), Just("prefer"),
                    Just("x-request-id"), Just("traceparent"), Just("content-encoding"),
                ],
                prop_oneof![
                    proptest::collection::vec(0x20u8..=0xfe, 0..12),
                    "(application|\\*)/(json|cbor|\\*)(;[a-z]=[0-9.]{1,4})?".prop_map(String::into_bytes),
                    "(W/)?\"[0-9]{0,3}(-cbor)?\"(, ?\\*)?".prop_map(String::into_bytes),
                ],
            ),
            0..4,
        ),
        body in prop_oneof![
            Just(Vec::new()),
            proptest::collection::vec(any::<u8>(), 0..40),
            "\\{\"items\":\\[(\\{\"op\":\"(create|update|delete)\",\"id\":[0-9\"\\[\\]]{1,3}\\},?){0,2}\\]\\}".prop_map(String::into_bytes),
        ],
    ) {
        let mut request = Request::builder().method(method.as_str()).uri(match &query {
            Some(query) => format!("{path}?{query}"),
            None => path,
        });
        for (name, value) in headers {
            if let Ok(value) = http::HeaderValue::from_bytes(&value) {
                request = request.header(name, value);
            }
        }
        // Not every text is a URL; those that are none never reach a router.
        let Ok(request) = request.body(Body::from(body)) else { return Ok(()) };
        let service = Service::new(by_verb);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let reply = runtime.block_on(service.send(request));
        prop_assert!(!reply.status.is_server_error(), "{reply:?}");
        if reply.status.is_client_error() && method != "HEAD" {
            reply.problem();
        }
    }
}
