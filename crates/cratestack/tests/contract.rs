//! The HTTP contract, sentence by sentence, through the router and the real engine, on both databases.
//!
//! PostgreSQL is the server that `CRATESTACK_TEST_POSTGRES` names; `CRATESTACK_TEST_ONLY=sqlite` goes without.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::ConnectInfo;
use cratestack::engine::migrate::{Db, apply_create};
use cratestack::engine::{Database, Engine, Options};
use cratestack::schema::ir::Schema;
use cratestack::{DevAuth, NoProcedures, router};
use http::{HeaderMap, Request};
use serde_json::{Value, json};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tower::ServiceExt as _;

const SCHEMA: &str = r#"
enum Role { teller manager auditor }

auth Principal {
  id   String
  role Role
}

model Customer {
  id      String  @id
  country String
  email   String? @email @pii

  accounts Account[]

  @@allow("read", country != "XX")
  @@allow("create", auth().role == teller)
  @@allow("update", auth().role in [teller, manager])
  @@allow("delete", auth().role == manager)
}

model Account {
  id         String         @id
  owner      String         @length(min: 1, max: 80)
  balance    Decimal(18, 4) @default(0)
  currency   String         @iso4217 @immutable
  limit      Int?
  note       Json?
  secret     String?        @server_only
  customerId String?
  version    Int            @version

  customer Customer? @relation(fields: [customerId], references: [id], onDelete: Restrict)

  @@soft_delete
  @@unique([owner, currency])
  @@check(balance >= 0, "insufficient funds", name: "funds")
  @@allow("read", auth() != null && owner != "hidden")
  @@allow("create", auth().role == teller)
  @@allow("update", auth().role == manager)
  @@allow("update", auth().role == teller && owner != "frozen")
  @@allow("delete", auth().role in [teller, manager])
  @@allow("restore", auth().role == manager)
}

model Rate {
  base  String
  quote String
  rate  Decimal(18, 6)

  @@id([base, quote])
  @@append_only
  @@allow("read", true)
  @@allow("create", true)
}

model Paper {
  id   String  @id
  text String?

  @@allow("all", true)
}

model Drop {
  id   Int @id
  text String

  @@allow("create", true)
  @@allow("update", true)
  @@allow("read", auth().role == auditor)
}

type TransferInput {
  from   String
  amount Decimal(18, 4)
}

mutation procedure transfer(args: TransferInput): Int
  @allow(auth().role == teller)
"#;

const TELLER: &str = r#"{"id":"ann","role":"teller"}"#;
const MANAGER: &str = r#"{"id":"max","role":"manager"}"#;
const AUDITOR: &str = r#"{"id":"eve","role":"auditor"}"#;
const NOBODY: &str = "";

/// Which database a test runs on.
#[derive(Clone, Copy)]
enum On {
    Sqlite,
    Postgres,
}

/// A PostgreSQL database that lives as long as this value.
struct PgDatabase {
    server: PgConnectOptions,
    name: String,
}

impl PgDatabase {
    /// Made for `schema`, with the URL to reach it.
    async fn new(schema: &Schema) -> (Self, String) {
        let url = std::env::var("CRATESTACK_TEST_POSTGRES")
            .expect("set CRATESTACK_TEST_POSTGRES to a server's URL, or CRATESTACK_TEST_ONLY=sqlite");
        let server: PgConnectOptions = url.parse().unwrap();
        let name = format!("facade_{}", uuid::Uuid::now_v7().simple());
        run_on(&server, format!("CREATE DATABASE {name}")).await;
        let database = Self { server: server.clone(), name };
        let mut connection = server.database(&database.name).connect().await.unwrap();
        let done = apply_create(&mut Db::Postgres(&mut connection), schema, [7; 32], &mut |_| {}).await;
        done.unwrap();
        connection.close().await.unwrap();
        let (base, options) = url.split_once('?').map_or((url.as_str(), None), |(base, options)| (base, Some(options)));
        let (base, _) = base.rsplit_once('/').filter(|(base, _)| base.contains("://")).unwrap();
        let options = options.map(|options| format!("?{options}")).unwrap_or_default();
        let url = format!("{base}/{}{options}", database.name);
        (database, url)
    }
}

async fn run_on(server: &PgConnectOptions, sql: String) {
    let mut connection = server.connect().await.unwrap();
    connection.execute(AssertSqlSafe(sql)).await.unwrap();
    connection.close().await.unwrap();
}

impl Drop for PgDatabase {
    fn drop(&mut self) {
        // A runtime cannot be entered twice on one thread.
        let (server, sql) = (self.server.clone(), format!("DROP DATABASE {} WITH (FORCE)", self.name));
        let drop = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(run_on(&server, sql));
        };
        std::thread::spawn(drop).join().unwrap();
    }
}

struct Service {
    router: Router,
    _database: Option<PgDatabase>,
}

struct Reply {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {:?} {}", self.status, self.headers, String::from_utf8_lossy(&self.body))
    }
}

impl Reply {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("{self:?}"))
    }

    /// Status and code of a refusal.
    fn refusal(&self) -> (u16, String) {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        assert_eq!(self.header("cache-control"), Some("no-store"));
        let json = self.json();
        assert_eq!(json["status"], self.status);
        assert_eq!(json["requestId"].as_str(), self.header("x-request-id"));
        (self.status, json["code"].as_str().unwrap().to_owned())
    }

    /// Pointers and codes of a 422.
    fn errors(&self) -> Vec<(String, String)> {
        assert_eq!(self.refusal(), (422, "validation_failed".to_owned()), "{self:?}");
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        self.json()["errors"]
            .as_array()
            .unwrap()
            .iter()
            .map(|error| (text(&error["pointer"]), text(&error["code"])))
            .collect()
    }
}

impl Service {
    async fn new(on: On) -> Self {
        let (schema, diagnostics) = cratestack::schema::compile("bank", SCHEMA);
        let schema = schema.unwrap_or_else(|| panic!("{diagnostics:#?}"));
        let (at, database) = match on {
            On::Sqlite => (Database::SqliteMemory, None),
            On::Postgres => {
                let (database, url) = PgDatabase::new(&schema).await;
                (Database::Postgres(url), Some(database))
            }
        };
        let engine = Engine::open(Arc::new(schema), &at, Options::default()).await.unwrap();
        Self { router: router(engine, NoProcedures).auth(DevAuth::new()).into_service(), _database: database }
    }

    /// `GET /accounts` below `/api`, as `who`, with headers as `name: value`.
    async fn call(&self, who: &str, line: &str, headers: &[&str], body: impl Into<String>) -> Reply {
        let (method, path) = line.split_once(' ').unwrap();
        let body = body.into();
        let mut request = Request::builder().method(method).uri(format!("/api{path}"));
        if !who.is_empty() {
            request = request.header("authorization", DevAuth::header(who));
        }
        if !body.is_empty() && !headers.iter().any(|header| header.starts_with("content-type")) {
            request = request.header("content-type", "application/json");
        }
        for header in headers {
            let (name, value) = header.split_once(": ").unwrap();
            request = request.header(name, value);
        }
        let mut request = request.body(Body::from(body)).unwrap();
        request.extensions_mut().insert(ConnectInfo(SocketAddr::from(([127, 0, 0, 1], 9))));
        let (parts, body) = self.router.clone().oneshot(request).await.unwrap().into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap().to_vec();
        Reply { status: parts.status.as_u16(), headers: parts.headers, body }
    }

    async fn get(&self, who: &str, path: &str) -> Reply {
        self.call(who, &format!("GET {path}"), &[], "").await
    }

    /// Creates as a teller; must succeed.
    async fn make(&self, path: &str, body: Value) -> Reply {
        let reply = self.call(TELLER, &format!("POST {path}"), &[], body.to_string()).await;
        assert_eq!(reply.status, 201, "{reply:?}");
        reply
    }

    /// With the customers `c1` (DE) and `c2` (FR), and the accounts `a1` (Ann, c1) and `a2` (Bea, c2).
    async fn with_rows(on: On) -> Self {
        let service = Self::new(on).await;
        for (id, country) in [("c1", "DE"), ("c2", "FR")] {
            service.make("/customers", json!({"id": id, "country": country})).await;
        }
        for (id, owner, customer) in [("a1", "Ann", "c1"), ("a2", "Bea", "c2")] {
            let body = json!({"id": id, "owner": owner, "currency": "EUR", "balance": "10", "customerId": customer});
            service.make("/accounts", body).await;
        }
        service
    }
}

fn refusal(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

// Routes.

#[test]
fn the_guide_has_every_route() {
    let guide = include_str!("../../../docs/http.md");
    let schema = guide.split_once("```cstack\n").unwrap().1.split_once("```").unwrap().0;
    let (schema, _) = cratestack::schema::compile("shop", schema);
    let served = cratestack::routes(&schema.unwrap());
    let mut served: Vec<String> = served.iter().map(|route| format!("{} {}", route.method, route.path)).collect();
    served.retain(|route| route.contains(" /articles"));
    let part = guide.split_once("## Routes").unwrap().1.split_once("## Lists").unwrap().0;
    let mut written: Vec<&str> = part.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    written.retain(|route| route.contains(" /articles"));
    served.sort_unstable();
    written.sort_unstable();
    assert_eq!(written, served);
}

async fn the_life_of_a_row(on: On) {
    let service = Service::with_rows(on).await;
    let body = json!({"id": "a/3", "owner": "Cem", "currency": "EUR"});
    let created = service.make("/accounts", body).await;
    assert_eq!((created.header("location"), created.header("etag")), (Some("/api/accounts/a%2F3"), Some("\"1\"")));
    let row = json!({
        "id": "a/3", "owner": "Cem", "balance": "0.0000", "currency": "EUR", "limit": null, "note": null,
        "customerId": null, "version": 1, "deletedAt": null,
    });
    let mut answered = created.json();
    let read = service.get(AUDITOR, "/accounts/a%2F3").await;
    assert_eq!((read.status, read.header("etag")), (200, Some("\"1\"")));
    assert_eq!(read.json(), answered, "a create answers what a read does");
    if answered.get("deletedAt").is_none() {
        answered["deletedAt"] = Value::Null;
    }
    assert_eq!(answered, row);

    // A merge patch: absent keeps, null clears, `Json` is replaced whole.
    let note = service
        .call(TELLER, "PATCH /accounts/a%2F3", &["if-match: \"1\""], r#"{"note":{"a":1,"b":2},"limit":5}"#)
        .await;
    assert_eq!((note.status, note.header("etag")), (200, Some("\"2\"")));
    let patched = service
        .call(
            TELLER,
            "PATCH /accounts/a%2F3",
            &["if-match: \"2\"", "content-type: application/merge-patch+json"],
            r#"{"note":{"c":3},"limit":null}"#,
        )
        .await;
    assert_eq!((patched.status, patched.header("etag")), (200, Some("\"3\"")));
    assert_eq!(
        (&patched.json()["note"], &patched.json()["limit"], &patched.json()["owner"]),
        (&json!({"c": 3}), &Value::Null, &json!("Cem"))
    );
    // A patch that changes nothing keeps the version.
    let same = service.call(TELLER, "PATCH /accounts/a%2F3", &["if-match: \"3\""], r#"{"owner":"Cem"}"#).await;
    assert_eq!((same.status, same.header("etag"), same.json()), (200, Some("\"3\""), patched.json()));

    let deleted = service.call(TELLER, "DELETE /accounts/a%2F3", &["if-match: \"3\""], "").await;
    assert_eq!((deleted.status, deleted.header("etag"), deleted.body.len()), (204, Some("\"4\""), 0));
    assert_eq!(service.get(TELLER, "/accounts/a%2F3").await.refusal(), refusal(404, "not_found"));
    let tombstones = service.get(MANAGER, "/accounts?deleted=only").await.json();
    assert_eq!((&tombstones["items"][0]["id"], &tombstones["items"][0]["version"]), (&json!("a/3"), &json!(4)));
    assert!(tombstones["items"][0]["deletedAt"].is_string());
    let restored = service.call(MANAGER, "POST /accounts/a%2F3/restore", &["if-match: \"4\""], "").await;
    assert_eq!((restored.status, restored.header("etag")), (200, Some("\"5\"")));
    assert_eq!(service.get(TELLER, "/accounts/a%2F3").await.header("etag"), Some("\"5\""));
}

async fn composite_keys_stand_in_their_order(on: On) {
    let service = Service::new(on).await;
    let created = service.call(NOBODY, "POST /rates", &[], r#"{"base":"EUR","quote":"USD","rate":"1.1"}"#).await;
    assert_eq!((created.status, created.header("location")), (201, Some("/api/rates/EUR/USD")));
    assert_eq!(service.get(NOBODY, "/rates/EUR/USD").await.json()["rate"], "1.100000");
    assert_eq!(service.get(NOBODY, "/rates/USD/EUR").await.refusal(), refusal(404, "not_found"));
    let put = service.call(NOBODY, "PUT /rates/EUR/USD", &[], "{}").await;
    assert_eq!((put.refusal(), put.header("allow")), (refusal(405, "method_not_allowed"), Some("GET, HEAD, OPTIONS")));
    assert_eq!(service.call(NOBODY, "PATCH /rates/EUR/USD", &[], "{}").await.status, 405);
    assert_eq!(service.call(NOBODY, "DELETE /rates/EUR/USD", &[], "").await.status, 405);
}

async fn procedures(on: On) {
    let service = Service::new(on).await;
    let input = r#"{"from":"a1","amount":"3.5"}"#;
    for (who, body, status, code) in [
        (TELLER, input, 501, "not_implemented"),
        (TELLER, r#"{"from":"a1","amount":3.5}"#, 422, "validation_failed"),
        (TELLER, "{}", 422, "validation_failed"),
        (AUDITOR, input, 403, "forbidden"),
        (NOBODY, input, 401, "unauthenticated"),
        (NOBODY, "{}", 401, "unauthenticated"),
        (TELLER, "{", 400, "invalid_json"),
    ] {
        assert_eq!(
            service.call(who, "POST /rpc/transfer", &[], body).await.refusal(),
            refusal(status, code),
            "{who} {body}"
        );
    }
    assert_eq!(service.call(TELLER, "POST /rpc/missing", &[], "{}").await.status, 404);
    assert_eq!(service.get(TELLER, "/rpc/transfer").await.header("allow"), Some("POST, OPTIONS"));
}

// Batches.

async fn batches(on: On) {
    let service = Service::with_rows(on).await;
    let items = json!([
        {"op": "create", "data": {"id": "a3", "owner": "Cem", "currency": "EUR"}},
        {"op": "update", "id": "a1", "ifMatch": 1, "data": {"owner": "Anna"}},
        {"op": "delete", "id": "a2", "ifMatch": "\"1\""},
    ]);
    let done = service.call(TELLER, "POST /accounts/batch", &[], json!({"items": items}).to_string()).await;
    assert_eq!(done.status, 200, "{done:?}");
    let results = &done.json()["items"];
    assert_eq!(
        (&results[0]["status"], &results[0]["etag"], &results[0]["location"]),
        (&json!(201), &json!("\"1\""), &json!("/api/accounts/a3"))
    );
    assert_eq!(
        (&results[1]["status"], &results[1]["etag"], &results[1]["body"]["owner"]),
        (&json!(200), &json!("\"2\""), &json!("Anna"))
    );
    assert_eq!(results[2], json!({"status": 204, "etag": "\"2\""}));

    // Atomic: the failing item's problem, with its status and index, and nothing is done.
    let items = json!([
        {"op": "update", "id": "a1", "ifMatch": 2, "data": {"owner": "Anja"}},
        {"op": "update", "id": "a3", "ifMatch": 9, "data": {"owner": "Cem2"}},
    ]);
    let failed =
        service.call(TELLER, "POST /accounts/batch", &[], json!({"atomic": true, "items": items}).to_string()).await;
    assert_eq!(failed.refusal(), refusal(412, "version_mismatch"));
    assert_eq!(failed.json()["item"], 1);
    assert_eq!(service.get(TELLER, "/accounts/a1").await.json()["owner"], "Anna");

    // Not atomic: each on its own.
    let mixed =
        service.call(TELLER, "POST /accounts/batch", &[], json!({"atomic": false, "items": items}).to_string()).await;
    assert_eq!(mixed.status, 207, "{mixed:?}");
    let results = &mixed.json()["items"];
    assert_eq!((&results[0]["status"], &results[0]["body"]["owner"]), (&json!(200), &json!("Anja")));
    assert_eq!(
        (&results[1]["status"], &results[1]["problem"]["code"], &results[1]["etag"]),
        (&json!(412), &json!("version_mismatch"), &json!("\"1\""))
    );

    let missing = json!({"items": [{"op": "delete", "id": "a1"}]}).to_string();
    assert_eq!(
        service.call(TELLER, "POST /accounts/batch", &[], missing).await.refusal(),
        refusal(428, "version_required")
    );
    let many: Vec<Value> = (0..1001).map(|id| json!({"op": "delete", "id": id, "ifMatch": 1})).collect();
    let many = service.call(TELLER, "POST /accounts/batch", &[], json!({"items": many}).to_string()).await;
    assert_eq!(many.refusal(), refusal(400, "bad_request"));
    assert_eq!(
        service.call(NOBODY, "POST /accounts/batch", &[], "{}").await.refusal(),
        refusal(401, "unauthenticated")
    );
    assert_eq!(
        service.call(TELLER, "POST /accounts/batch", &[], "{}").await.errors(),
        [("#/items".to_owned(), "required".to_owned())]
    );
    let empty = service.call(TELLER, "POST /accounts/batch", &[], json!({"items": []}).to_string()).await;
    assert_eq!((empty.status, empty.json()), (200, json!({"items": []})));
}

// Lists.

async fn lists(on: On) {
    let service = Service::with_rows(on).await;
    service
        .make("/accounts", json!({"id": "a3", "owner": "Cem", "currency": "USD", "balance": "100", "limit": 5}))
        .await;
    let table: &[(&str, &[&str])] = &[
        ("", &["a1", "a2", "a3"]),
        ("owner=Ann", &["a1"]),
        ("balance.gte=100", &["a3"]),
        ("currency.in=EUR,USD&owner.ne=Bea", &["a1", "a3"]),
        ("currency.notIn=EUR", &["a3"]),
        ("owner.startsWith=A", &["a1"]),
        ("owner.endsWith=a", &["a2"]),
        ("owner.contains=e", &["a2", "a3"]),
        ("customerId.isNull=true", &["a3"]),
        ("customer.country=DE", &["a1"]),
        ("limit.eq=5", &["a3"]),
        ("balance.lt=100&balance.gt=1", &["a1", "a2"]),
        ("where=owner%20%3D%3D%20%22Ann%22%20%7C%7C%20balance%20%3E%3D%20100", &["a1", "a3"]),
        ("where=owner+%3D%3D+%22Ann%22+%26%26+currency+%3D%3D+%22USD%22", &[]),
        ("sort=-owner", &["a3", "a2", "a1"]),
        ("sort=currency,-owner", &["a2", "a1", "a3"]),
        ("sort=-customer.country&customerId.isNull=false", &["a2", "a1"]),
    ];
    for (query, expected) in table {
        let reply = service.get(AUDITOR, &format!("/accounts?{query}")).await;
        assert_eq!(reply.status, 200, "{query} {reply:?}");
        let json = reply.json();
        let ids: Vec<&str> = json["items"].as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap()).collect();
        assert_eq!(ids, *expected, "{query}");
        assert_eq!((&json["next"], reply.header("link"), json.get("total")), (&Value::Null, None, None));
    }
    // Pages.
    let mut ids = Vec::new();
    let mut url = "/accounts?sort=-owner&limit=1&count=exact".to_owned();
    loop {
        let page = service.get(AUDITOR, &url).await;
        assert_eq!(page.json()["total"], 3, "{page:?}");
        ids.extend(page.json()["items"].as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap().to_owned()));
        let Some(link) = page.header("link") else {
            assert_eq!(page.json()["next"], Value::Null);
            break;
        };
        let next = link.strip_prefix("</api").unwrap().strip_suffix(">; rel=\"next\"").unwrap();
        assert!(next.contains("sort=-owner") && next.contains("limit=1"), "{next}");
        assert!(page.json()["next"].is_string());
        next.clone_into(&mut url);
    }
    assert_eq!(ids, ["a3", "a2", "a1"]);
    // Bound to filter, sort and principal.
    let first = service.get(AUDITOR, "/accounts?limit=1").await.json();
    let cursor = first["next"].as_str().unwrap();
    let bent = format!("{}x", &cursor[..cursor.len() - 1]);
    for (who, query) in [
        (TELLER, format!("limit=1&cursor={cursor}")),
        (AUDITOR, format!("limit=1&sort=owner&cursor={cursor}")),
        (AUDITOR, format!("limit=1&owner=Ann&cursor={cursor}")),
        (AUDITOR, format!("cursor={bent}")),
        (AUDITOR, "cursor=".to_owned()),
        (AUDITOR, "cursor=x".to_owned()),
    ] {
        let reply = service.get(who, &format!("/accounts?{query}")).await;
        assert_eq!(reply.refusal(), refusal(400, "invalid_cursor"), "{query}");
    }
}

/// Follows `next` to the end, without any page failing; calls `between` before each further page.
async fn follow(service: &Service, path: &str, between: &[(usize, &str, &str)]) -> Vec<String> {
    let (mut ids, mut url) = (Vec::new(), path.to_owned());
    for page in 0.. {
        for (at, line, body) in between {
            if *at == page {
                let done = service.call(AUDITOR, line, &[], *body).await;
                assert!(done.status < 300, "{done:?}");
            }
        }
        let reply = service.get(AUDITOR, &url).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        ids.extend(reply.json()["items"].as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap().to_owned()));
        let Some(link) = reply.header("link") else { break };
        link.strip_prefix("</api").unwrap().strip_suffix(">; rel=\"next\"").unwrap().clone_into(&mut url);
        assert!(url.len() < 16 * 1024, "{}", url.len());
    }
    ids
}

async fn whoever_follows_next_meets_no_limit(on: On) {
    let service = Service::new(on).await;
    // 100 KB each, alike in the first 50 KB but for the last.
    let same = "é".repeat(25_000);
    for (id, note) in [("1", "x"), ("2", "y"), ("3", "z"), ("4", "zz")] {
        let text = format!("{same}{}", note.repeat(50_000));
        service.make("/papers", json!({"id": id, "text": text})).await;
    }
    service.make("/papers", json!({"id": "5", "text": "~"})).await;
    service.make("/papers", json!({"id": "6", "text": null})).await;
    for (sort, expected) in [("text", "512346"), ("-text", "643215"), ("-text,id", "643215")] {
        assert_eq!(follow(&service, &format!("/papers?fields=id&limit=1&sort={sort}"), &[]).await.concat(), expected);
    }
    // A filter as long as a URL may be leaves room for the cursor.
    let filter = format!("id.ne={}", "%22".repeat(2_700));
    assert_eq!(
        follow(&service, &format!("/papers?fields=id&limit=1&sort=text&{filter}"), &[]).await.concat(),
        "512346"
    );
    let written = format!("id.ne={}", "{".repeat(8_000));
    let refused = service.get(AUDITOR, &format!("/papers?fields=id&limit=1&sort=text&{written}")).await;
    assert_eq!(refused.refusal(), refusal(414, "uri_too_long"), "its `Link` would be three times as long");
    // The row that the page ended with goes or changes: rows that begin alike may come again, and none is left out.
    for (sort, change, expected) in
        [("text", ("DELETE /papers/2", ""), "5121346"), ("-text", ("PATCH /papers/3", r#"{"text":"a"}"#), "6434153")]
    {
        let url = format!("/papers?fields=id&limit=1&sort={sort}");
        let ids = follow(&service, &url, &[(3, change.0, change.1)]).await.concat();
        assert_eq!(ids, expected, "{sort}");
    }
}

async fn what_a_list_refuses(on: On) {
    let service = Service::with_rows(on).await;
    for query in [
        "nope=1",
        "secret=x",
        "deletion_id=1",
        "=1",
        "owner=Ann&&balance=1",
        "owner=Ann&",
        "_x=1",
        "owner.like=x",
        "limit=0",
        "limit=1001",
        "limit=x",
        "limit=1&limit=2",
        "sort=nope",
        "sort=secret",
        "sort=-",
        "fields=nope",
        "fields=secret",
        "include=nope",
        "include=customer.nope",
        "count=all",
        "deleted=all",
        "search=x",
        "at=now",
        "where=",
        "where=nope%20%3D%3D%201",
        "where=secret%20%3D%3D%20%22x%22",
        "where=(",
        "balance=x",
        "balance.in=",
        "customer=c1",
        "owner.isNull=maybe",
        "version=9223372036854775808",
    ] {
        let reply = service.get(AUDITOR, &format!("/accounts?{query}")).await;
        assert_eq!(reply.refusal(), refusal(400, "invalid_query"), "{query}");
    }
    // Above the maximum: names the maximum.
    let detail = service.get(AUDITOR, "/accounts?limit=1001").await.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("1000"), "{detail}");
    let detail =
        service.get(AUDITOR, "/accounts?owner=Ann&&limit=2").await.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("%26"), "{detail}");
    // A hidden name has the same answer as one that does not exist.
    for pattern in
        ["NAME=x", "sort=NAME", "fields=NAME", "where=NAME%20%3D%3D%20%22x%22", "NAME.isNull=true", "include=NAME"]
    {
        let detail = async |name: &str| {
            let reply = service.get(AUDITOR, &format!("/accounts?{}", pattern.replace("NAME", name))).await;
            assert_eq!(reply.status, 400, "{pattern} {name}");
            let mut json = reply.json();
            json["requestId"] = Value::Null;
            json.to_string().replace(name, "NAME")
        };
        assert_eq!(detail("secret").await, detail("sicret").await, "{pattern}");
    }
    // Tombstones are for those whom the restore rules allow.
    assert_eq!(service.get(TELLER, "/accounts?deleted=only").await.status, 403);
    // A read has `fields` and `include` alone.
    for query in ["limit=1", "owner=Ann", "where=true", "sort=id", "cursor=x", "nope=1"] {
        assert_eq!(
            service.get(AUDITOR, &format!("/accounts/a1?{query}")).await.refusal(),
            refusal(400, "invalid_query"),
            "{query}"
        );
    }
}

async fn fields_and_includes(on: On) {
    let service = Service::with_rows(on).await;
    let row = service.get(AUDITOR, "/accounts/a1?fields=id,owner&include=customer").await;
    assert_eq!(
        row.json(),
        json!({"id": "a1", "owner": "Ann", "customer": {"id": "c1", "country": "DE", "email": null}})
    );
    assert!(row.header("etag").unwrap().starts_with("W/\""), "{row:?}");
    assert_eq!(row.header("cache-control"), Some("no-store"), "an included customer is personal data");
    let row = service.get(AUDITOR, "/customers/c1?fields=id&include=accounts").await;
    assert_eq!(
        (&row.json()["accounts"]["items"][0]["id"], &row.json()["accounts"]["next"]),
        (&json!("a1"), &Value::Null)
    );
    let list = service.get(AUDITOR, "/accounts?fields=id").await;
    assert_eq!(list.json()["items"], json!([{"id": "a1"}, {"id": "a2"}]));
    // The related model's rules hold: an anonymous caller reads customers, and no accounts.
    let row = service.get(NOBODY, "/customers/c1?include=accounts").await;
    assert!(row.status == 401 || row.json()["accounts"]["items"] == json!([]), "{row:?}");
}

// Conditional requests.

async fn conditional_requests(on: On) {
    let service = Service::with_rows(on).await;
    let read = async |path: &str, header: &str| service.call(AUDITOR, &format!("GET {path}"), &[header], "").await;
    assert_eq!(read("/accounts/a1", "if-none-match: \"1\"").await.status, 304);
    assert_eq!(read("/accounts/a1", "if-none-match: W/\"1\"").await.status, 304);
    assert_eq!(read("/accounts/a1", "if-none-match: \"2\"").await.status, 200);
    assert_eq!(read("/accounts/a1", "accept: application/cbor").await.header("etag"), Some("\"1-cbor\""));
    let weak = read("/customers/c1", "accept: */*").await.header("etag").unwrap().to_owned();
    assert_eq!(read("/customers/c1", &format!("if-none-match: {weak}")).await.status, 304);

    let patch =
        async |headers: &[&str]| service.call(TELLER, "PATCH /accounts/a1", headers, r#"{"owner":"Anna"}"#).await;
    assert_eq!(patch(&[]).await.refusal(), refusal(428, "version_required"));
    for malformed in ["if-match: 1", "if-match: \"1", "if-match: ", "if-match: \"1\" \"2\"", "if-match: *, \"1\""] {
        assert_eq!(patch(&[malformed]).await.refusal(), refusal(400, "bad_request"), "{malformed}");
    }
    for stale in [
        "if-match: \"2\"",
        "if-match: W/\"1\"",
        "if-match: \"x\"",
        "if-match: \"01\"",
        "if-match: \"99999999999999999999\"",
    ] {
        let reply = patch(&[stale]).await;
        assert_eq!(
            (reply.refusal(), reply.header("etag")),
            (refusal(412, "version_mismatch"), Some("\"1\"")),
            "{stale}"
        );
    }
    assert_eq!(patch(&["if-match: \"7\"", "if-match: \"1-cbor\""]).await.header("etag"), Some("\"2\""));
    let any = service.call(TELLER, "PATCH /accounts/a1", &["if-match: *"], r#"{"owner":"Ann"}"#).await;
    assert_eq!((any.status, any.header("etag")), (200, Some("\"3\"")));
    let delete = async |headers: &[&str]| service.call(TELLER, "DELETE /accounts/a1", headers, "").await;
    assert_eq!(delete(&[]).await.refusal(), refusal(428, "version_required"));
    assert_eq!(delete(&["if-match: \"1\""]).await.refusal(), refusal(412, "version_mismatch"));
    assert_eq!(delete(&["if-match: \"3\""]).await.status, 204);
    let restore = async |headers: &[&str]| service.call(MANAGER, "POST /accounts/a1/restore", headers, "").await;
    assert_eq!(restore(&[]).await.refusal(), refusal(428, "version_required"));
    assert_eq!(restore(&["if-match: \"3\""]).await.refusal(), refusal(412, "version_mismatch"));
    assert_eq!(restore(&["if-match: \"4\""]).await.status, 200);

    // Without `@version`, `If-Match` other than `*` is a 412, and none is needed.
    let patch =
        async |headers: &[&str]| service.call(TELLER, "PATCH /customers/c1", headers, r#"{"country":"AT"}"#).await;
    assert_eq!(patch(&[&format!("if-match: {weak}")]).await.refusal(), refusal(412, "version_mismatch"));
    assert_eq!(patch(&["if-match: \"1\""]).await.refusal(), refusal(412, "version_mismatch"));
    assert_eq!(patch(&["if-match: *"]).await.status, 200);
    assert_eq!(patch(&[]).await.status, 200);
}

// Statuses and codes.

async fn invalid_input(on: On) {
    let service = Service::with_rows(on).await;
    let post = async |body: &str| service.call(TELLER, "POST /accounts", &[], body).await;
    let good = |member: &str| format!(r#"{{"id":"z","owner":"Zoe","currency":"EUR",{member}}}"#);
    let table = [
        (good(r#""nope":1"#), "#/nope", "unknown_field"),
        (good(r#""secret":"x""#), "#/secret", "unknown_field"),
        (good(r#""version":1"#), "#/version", "read_only"),
        (good(r#""deletedAt":null"#), "#/deletedAt", "read_only"),
        (good(r#""customerId":"nobody""#), "#/customerId", "reference_not_found"),
        (good(r#""balance":"-1""#), "#", "funds"),
        (good(r#""balance":1"#), "#/balance", "type"),
        (good(r#""balance":"1.00001""#), "#/balance", ""),
        (good(r#""balance":"123456789012345678901234567890""#), "#/balance", ""),
        (good(r#""limit":9223372036854775808"#), "#/limit", ""),
        (good(r#""limit":1e400"#), "#/limit", ""),
        (good(r#""limit":1.5"#), "#/limit", ""),
        (good(r#""limit":"1""#), "#/limit", "type"),
        (good(r#""note":"a\u0000b""#), "#/note", ""),
        (good(r#""note":{"a":["\u0000"]}"#), "#/note/a/0", ""),
        (r#"{"id":"z","owner":"Z\u0000","currency":"EUR"}"#.to_owned(), "#/owner", ""),
        (r#"{"id":"z","owner":"","currency":"EUR"}"#.to_owned(), "#/owner", "length"),
        (r#"{"id":"z","owner":"Zoe","currency":"EURO"}"#.to_owned(), "#/currency", "iso4217"),
        (r#"{"id":"z","owner":null,"currency":"EUR"}"#.to_owned(), "#/owner", ""),
        (r#"{"id":"z","currency":"EUR"}"#.to_owned(), "#/owner", "required"),
        ("[]".to_owned(), "#", "type"),
        ("null".to_owned(), "#", "type"),
    ];
    for (body, pointer, code) in &table {
        let errors = post(body).await.errors();
        assert_eq!(errors.len(), 1, "{body}: {errors:?}");
        assert_eq!(errors[0].0, *pointer, "{body}");
        assert!(code.is_empty() || errors[0].1 == *code, "{body}: {errors:?}");
    }
    // All failing fields at once, and never their values.
    let reply = post(r#"{"owner":"","currency":"secret value","nope":"secret value","balance":{}}"#).await;
    assert_eq!(reply.errors().len(), 5, "{reply:?}");
    assert!(!reply.json().to_string().contains("secret value"));
    // An immutable field belongs to creates alone.
    let patch =
        service.call(TELLER, "PATCH /accounts/a1", &["if-match: \"1\""], r#"{"currency":"USD","id":"b"}"#).await;
    let expected = [("#/currency", "read_only"), ("#/id", "read_only")]
        .map(|(pointer, code)| (pointer.to_owned(), code.to_owned()));
    let mut errors = patch.errors();
    errors.sort();
    assert_eq!(errors, expected);
}

async fn conflicts(on: On) {
    let service = Service::with_rows(on).await;
    for body in [r#"{"id":"a1","owner":"Zoe","currency":"EUR"}"#, r#"{"id":"z","owner":"Ann","currency":"EUR"}"#] {
        let reply = service.call(TELLER, "POST /accounts", &[], body).await;
        assert_eq!(reply.refusal(), refusal(409, "unique_violation"), "{body}");
    }
    let named = service
        .call(TELLER, "POST /accounts", &[], r#"{"id":"z","owner":"Ann","currency":"EUR"}"#)
        .await
        .json()
        .to_string();
    assert!(named.contains("owner") && named.contains("currency") && !named.contains("Ann"), "{named}");
    let reply = service.call(MANAGER, "DELETE /customers/c1", &[], "").await;
    assert_eq!(reply.refusal(), refusal(409, "foreign_key_violation"));
}

async fn which_refusal(on: On) {
    let service = Service::with_rows(on).await;
    for (id, owner) in [("h", "hidden"), ("f", "frozen")] {
        let body = json!({"id": id, "owner": owner, "currency": "EUR"});
        let created = service.make("/accounts", body).await;
        // The result of the write may not be read: status and `Location`, no body, no tag.
        let unreadable = id == "h";
        assert_eq!(
            (created.body.is_empty(), created.header("etag").is_none()),
            (unreadable, unreadable),
            "{created:?}"
        );
        assert_eq!(created.header("location"), Some(format!("/api/accounts/{id}").as_str()));
    }
    let patch = r#"{"owner":"X"}"#;
    let table: &[(&str, &str, &[&str], &str, u16)] = &[
        // Invalid credentials: always 401.
        ("{", "GET /customers/c1", &[], "", 401),
        (r#"{"id":"x"}"#, "GET /customers/c1", &[], "", 401),
        (r#"{"id":"x","role":"king"}"#, "GET /customers/c1", &[], "", 401),
        (r#"{"id":1,"role":"teller"}"#, "GET /customers/c1", &[], "", 401),
        // No credentials, and the rules are false for them whatever the row.
        (NOBODY, "GET /accounts", &[], "", 401),
        (NOBODY, "GET /accounts/a1", &[], "", 401),
        (NOBODY, "GET /accounts/none", &[], "", 401),
        (NOBODY, "POST /accounts", &[], "{}", 401),
        (NOBODY, "PATCH /accounts/a1", &[], patch, 401),
        (NOBODY, "GET /customers/c1", &[], "", 200),
        // Rules false for this caller whatever the row.
        (AUDITOR, "POST /customers", &[], r#"{"id":"n","country":"DE"}"#, 403),
        (AUDITOR, "PATCH /accounts/a1", &["if-match: \"1\""], patch, 403),
        (AUDITOR, "DELETE /accounts/none", &["if-match: \"1\""], "", 403),
        (TELLER, "GET /drops", &[], "", 403),
        (TELLER, "GET /drops/1", &[], "", 403),
        // A row that the caller may not read.
        (TELLER, "GET /accounts/h", &[], "", 404),
        (TELLER, "PATCH /accounts/h", &["if-match: \"1\""], patch, 404),
        (TELLER, "DELETE /accounts/h", &["if-match: \"7\""], "", 404),
        (TELLER, "GET /accounts/none", &[], "", 404),
        // One that it may read but not change; a change that would make it one.
        (TELLER, "PATCH /accounts/f", &["if-match: \"1\""], patch, 403),
        (TELLER, "PATCH /accounts/a1", &["if-match: \"1\""], r#"{"owner":"frozen"}"#, 403),
        (MANAGER, "PATCH /accounts/f", &["if-match: \"1\""], r#"{"limit":1}"#, 200),
        // The order.
        (NOBODY, "POST /accounts", &[], "{", 400),
        (NOBODY, "POST /accounts", &["content-type: text/plain"], "{}", 415),
        (NOBODY, "POST /accounts", &[], r#"{"nope":1}"#, 401),
        (TELLER, "PATCH /accounts/none", &[], r#"{"nope":1}"#, 422),
        (TELLER, "PATCH /accounts/none", &[], patch, 428),
        (TELLER, "PATCH /accounts/none", &["if-match: \"1\""], patch, 404),
        (TELLER, "PATCH /accounts/f", &["if-match: \"7\""], patch, 403),
        (TELLER, "PATCH /accounts/a1", &["if-match: \"7\""], r#"{"owner":"Bea"}"#, 412),
        (TELLER, "PATCH /accounts/a1", &["if-match: \"1\""], r#"{"owner":"Bea"}"#, 409),
    ];
    for (who, line, headers, body, status) in table {
        let reply = service.call(who, line, headers, *body).await;
        assert_eq!(reply.status, *status, "{who} {line} {headers:?} {body}: {reply:?}");
        assert_eq!(reply.header("www-authenticate").is_some(), *status == 401);
        if *status >= 400 {
            reply.refusal();
        }
    }
    // A list shows what remains.
    let ids = service.get(TELLER, "/accounts?fields=id").await.json()["items"].to_string();
    assert!(!ids.contains("\"h\""), "{ids}");
    // 412 has no tag where the caller may not read the row: there it is a 404.
    // A create that the caller may not read, of a model that only others may read.
    let dropped = service.call(NOBODY, "POST /drops", &[], r#"{"id":1,"text":"x"}"#).await;
    assert_eq!((dropped.status, dropped.body.len(), dropped.header("location")), (201, 0, Some("/api/drops/1")));
    assert_eq!(service.get(AUDITOR, "/drops/1").await.json(), json!({"id": 1, "text": "x"}));
    assert_eq!(service.get(AUDITOR, "/drops/x").await.refusal(), refusal(404, "not_found"));
    assert_eq!(service.get(AUDITOR, "/drops/99999999999999999999").await.refusal(), refusal(404, "not_found"));
}

async fn sql_is_only_text(on: On) {
    let service = Service::with_rows(on).await;
    let evil = "'; DROP TABLE accounts; --\" ) OR 1=1";
    let encoded = evil.bytes().fold(String::new(), |text, byte| format!("{text}%{byte:02x}"));
    assert_eq!(service.get(AUDITOR, &format!("/accounts/{encoded}")).await.status, 404);
    for pattern in ["owner=EVIL", "owner.contains=EVIL", "owner.in=EVIL,x"] {
        let reply = service.get(AUDITOR, &format!("/accounts?{}", pattern.replace("EVIL", &encoded))).await;
        assert_eq!((reply.status, &reply.json()["items"]), (200, &json!([])), "{pattern}");
    }
    for pattern in ["EVIL=1", "sort=EVIL", "fields=EVIL", "include=EVIL", "where=EVIL", "limit=EVIL", "owner.EVIL=1"] {
        assert_eq!(
            service.get(AUDITOR, &format!("/accounts?{}", pattern.replace("EVIL", &encoded))).await.status,
            400,
            "{pattern}"
        );
    }
    service.make("/accounts", json!({"id": evil, "owner": evil, "currency": "EUR", "note": {evil: evil}})).await;
    assert_eq!(service.get(AUDITOR, &format!("/accounts/{encoded}")).await.json()["note"], json!({evil: evil}));
}

// Headers.

async fn headers(on: On) {
    let service = Service::with_rows(on).await;
    let traced = ["x-request-id: abc-1", "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"];
    for line in ["GET /accounts/a1", "GET /accounts/none", "GET /nowhere", "OPTIONS /accounts"] {
        assert_eq!(service.call(AUDITOR, line, &traced, "").await.header("x-request-id"), Some("abc-1"), "{line}");
    }
    let key = service.call(TELLER, "POST /accounts", &["idempotency-key: a, b"], "{}").await;
    assert_eq!(key.refusal(), refusal(400, "idempotency_key_invalid"));
    let minimal = ["prefer: return=minimal", "if-match: \"1\""];
    let patched = service.call(TELLER, "PATCH /accounts/a1", &minimal, r#"{"owner":"Anna"}"#).await;
    assert_eq!((patched.status, patched.header("etag"), patched.body.len()), (204, Some("\"2\""), 0));
    assert_eq!(patched.header("preference-applied"), Some("return=minimal"));
    let created =
        service.call(TELLER, "POST /accounts", &minimal[..1], r#"{"id":"m","owner":"M","currency":"EUR"}"#).await;
    assert_eq!((created.status, created.header("location"), created.body.len()), (201, Some("/api/accounts/m"), 0));
    assert_eq!(service.get(AUDITOR, "/customers/c1").await.header("cache-control"), Some("no-store"));
    assert_eq!(service.get(AUDITOR, "/accounts/a1").await.header("cache-control"), None);
}

async fn cbor(on: On) {
    let service = Service::with_rows(on).await;
    let json = service.get(AUDITOR, "/accounts/a1").await.json();
    let headers = ["accept: application/cbor"];
    let row = service.call(AUDITOR, "GET /accounts/a1", &headers, "").await;
    let value: Value = ciborium::from_reader(row.body.as_slice()).unwrap();
    assert_eq!((row.header("content-type"), value), (Some("application/cbor"), json.clone()));
    let list = service.call(AUDITOR, "GET /accounts?limit=1", &headers, "").await;
    let value: Value = ciborium::from_reader(list.body.as_slice()).unwrap();
    assert_eq!(value["items"], json!([json]));
    let refused = service.call(AUDITOR, "GET /accounts/none", &headers, "").await;
    assert_eq!(refused.refusal(), refusal(404, "not_found"));
}

// Limits.

async fn limits(on: On) {
    let service = Service::with_rows(on).await;
    let long = "x".repeat(9000);
    assert_eq!(service.get(AUDITOR, &format!("/accounts?owner={long}")).await.refusal(), refusal(414, "uri_too_long"));
    let large = format!(r#"{{"id":"{}"}}"#, "x".repeat(10 * 1024 * 1024));
    assert_eq!(service.call(TELLER, "POST /accounts", &[], large).await.refusal(), refusal(413, "content_too_large"));
    for depth in [65, 10_000] {
        let deep = format!(r#"{{"note":{}{}}}"#, "[".repeat(depth), "]".repeat(depth));
        assert_eq!(
            service.call(TELLER, "POST /accounts", &[], deep).await.refusal(),
            refusal(400, "invalid_json"),
            "{depth}"
        );
    }
    let deep = format!("{}true", "!".repeat(2000));
    assert_eq!(service.get(AUDITOR, &format!("/accounts?where={deep}")).await.refusal(), refusal(400, "invalid_query"));
    let deep = format!("{}true{}", "(".repeat(2000), ")".repeat(2000));
    assert_eq!(service.get(AUDITOR, &format!("/accounts?where={deep}")).await.refusal(), refusal(400, "invalid_query"));
    let wide = vec!["1==1"; 400].join("%26%26");
    assert_eq!(service.get(AUDITOR, &format!("/accounts?where={wide}")).await.refusal(), refusal(400, "invalid_query"));
    let deep = ["customer.accounts"; 4].join(".");
    assert_eq!(
        service.get(AUDITOR, &format!("/accounts?include={deep}")).await.refusal(),
        refusal(400, "invalid_query")
    );
}

/// Over a socket, a refusal reaches even a caller that is still sending.
async fn refusals_reach_those_who_are_still_sending(on: On) {
    let service = Service::new(on).await;
    let router = service.router.clone();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(cratestack::serve(listener, router, cratestack::ServerConfig::default(), std::future::pending()));
    let length = 10 * 1024 * 1024;
    let sized = format!("content-length: {length}\r\n");
    for (path, framing, media, status) in [
        ("/api/rates", sized.as_str(), "application/json", "413"),
        ("/api/rates", "transfer-encoding: chunked\r\n", "application/json", "413"),
        ("/api/rates", &sized, "text/plain", "415"),
        ("/api/nowhere", &sized, "application/json", "404"),
        ("/livez", &sized, "application/json", "405"),
    ] {
        let mut stream = tokio::net::TcpStream::connect(addr).await.unwrap();
        let head =
            format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: {media}\r\n{framing}connection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let chunked = !framing.starts_with("content-length");
        let chunk = vec![b' '; 64 * 1024];
        for _ in 0..length / chunk.len() {
            if chunked {
                stream.write_all(format!("{:x}\r\n", chunk.len()).as_bytes()).await.unwrap();
            }
            stream.write_all(&chunk).await.unwrap();
            if chunked {
                stream.write_all(b"\r\n").await.unwrap();
            }
        }
        if chunked {
            stream.write_all(b"0\r\n\r\n").await.unwrap();
        }
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{path} {framing}: {answer}");
        assert!(answer.contains("application/problem+json"));
    }
    // Who waits for a word first is told at once.
    let mut stream = tokio::net::TcpStream::connect(addr).await.unwrap();
    let head = format!(
        "POST /api/rates HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{sized}expect: 100-continue\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
}

macro_rules! on_both {
    ($($test:ident)*) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $test() {
                super::$test(super::On::Sqlite).await;
            })*
        }
        mod postgres {
            $(#[tokio::test]
            async fn $test() {
                if std::env::var("CRATESTACK_TEST_ONLY").is_ok_and(|only| only == "sqlite") {
                    return;
                }
                super::$test(super::On::Postgres).await;
            })*
        }
    };
}

on_both! {
    the_life_of_a_row
    composite_keys_stand_in_their_order
    procedures
    batches
    lists
    what_a_list_refuses
    whoever_follows_next_meets_no_limit
    fields_and_includes
    conditional_requests
    invalid_input
    conflicts
    which_refusal
    sql_is_only_text
    headers
    cbor
    limits
    refusals_reach_those_who_are_still_sending
}
