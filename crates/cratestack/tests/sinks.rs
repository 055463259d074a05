//! From the trail in the database to the sinks of a router, and the ways in which that ends.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use cratestack::engine::migrate::{Db, apply_create};
use cratestack::engine::relay::{AUDIT, OUTBOX};
use cratestack::engine::{Database, Engine, Options};
use cratestack::schema::ir::Schema;
use cratestack::sinks::{
    AuditEvent, AuditSink, BoxFuture, FileOptions, JsonLinesSink, MulticastAuditSink, RelayOptions, SinkError,
};
use cratestack::{NoProcedures, RouterBuilder, router};
use http::Request;
use tokio::sync::Notify;
use tower::ServiceExt as _;

/// How long something may take in real time before the test has failed.
const PATIENCE: Duration = Duration::from_mins(1);

fn schema(attribute: &str) -> Schema {
    let text = format!("model Account {{\n  id String @id\n  n Int\n\n  {attribute}\n  @@allow(\"all\", true)\n}}\n");
    cratestack::schema::compile("bank", &text).0.unwrap()
}

struct Base {
    folder: tempfile::TempDir,
    engine: Engine,
}

impl Base {
    async fn new() -> Self {
        Self::with("@@audit").await
    }

    async fn with(attributes: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bank.db");
        let schema = schema(attributes);
        let mut connection = rusqlite::Connection::open(&path).unwrap();
        apply_create(&mut Db::Sqlite(&mut connection), &schema, [7; 32], &mut |_| {}).await.unwrap();
        let engine = Engine::open(Arc::new(schema), &Database::SqliteFile(path), Options::default()).await.unwrap();
        Self { folder, engine }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes rows, of which each is an event; what the trail has after that, as lines.
    async fn write(&self, rows: std::ops::Range<i64>) -> String {
        self.insert(rows).await;
        self.log("cratestack_audit")
    }

    async fn insert(&self, rows: std::ops::Range<i64>) {
        let api = self.router().into_router();
        for row in rows {
            let body = format!(r#"{{"id":"key {row}","n":{row}}}"#);
            let request = Request::post("/accounts").header("content-type", "application/json").body(Body::from(body));
            let answer = api.clone().oneshot(request.unwrap()).await.unwrap();
            assert_eq!(answer.status(), 201);
        }
    }

    /// The entries of a log, as lines.
    fn log(&self, table: &str) -> String {
        let connection = rusqlite::Connection::open(self.path("bank.db")).unwrap();
        let mut entries = connection.prepare(&format!("SELECT entry || char(10) FROM {table} ORDER BY seq")).unwrap();
        entries.query_map((), |row| row.get::<_, String>(0)).unwrap().map(Result::unwrap).collect()
    }

    fn file(&self) -> JsonLinesSink {
        JsonLinesSink::open(self.path("audit.jsonl"), FileOptions::default()).unwrap()
    }

    fn router(&self) -> RouterBuilder {
        router(self.engine.clone(), NoProcedures)
    }
}

/// Waits until `done`.
async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let wait = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{what}: it takes too long"));
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn options() -> RelayOptions {
    RelayOptions { poll: Duration::from_millis(5), ..RelayOptions::default() }
}

/// Says when it was called, and does not answer.
struct Hanging(Arc<Notify>);

impl AuditSink for Hanging {
    fn name(&self) -> &'static str {
        "hanging"
    }

    fn deliver<'a>(&'a self, _: &'a [AuditEvent]) -> BoxFuture<'a, Result<(), SinkError>> {
        self.0.notify_one();
        Box::pin(std::future::pending())
    }
}

#[tokio::test]
async fn what_the_trail_has_reaches_the_file() {
    let base = Base::new().await;
    let lines = base.write(1..20).await;
    let api = base.router().with_audit_sink_options(base.file(), &options()).unwrap();
    let deliveries = api.deliveries();
    assert_eq!(deliveries.names(), ["file"]);
    let _router = api.into_router();
    let path = base.path("audit.jsonl");
    until("the first events", || read(&path) == lines).await;
    let lines = base.write(20..30).await;
    assert_eq!(lines.lines().count(), 29);
    until("later ones", || read(&path) == lines).await;
    assert_eq!(deliveries.stop(PATIENCE).await, [""; 0]);
    assert!(deliveries.names().is_empty());
    // The next start goes on where this one was.
    base.write(30..31).await;
    let status = AUDIT.status(&base.engine, true).await.unwrap();
    let sink = status.iter().find(|status| status.name == "file").unwrap();
    assert_eq!((sink.pending, sink.dead, sink.skipped), (1, 0, Some(0)));
    base.engine.close().await;
}

#[tokio::test]
async fn each_log_has_sinks_of_its_own() {
    let base = Base::with("@@audit\n  @@emit(created)").await;
    let events = || JsonLinesSink::open(base.path("events.jsonl"), FileOptions::default()).unwrap();
    let api = base.router().with_audit_sink_options(base.file(), &options()).unwrap();
    let api = api.with_event_sink_options(events(), &options()).unwrap();
    let deliveries = api.deliveries();
    // One name, two sinks: each log has its own deliveries.
    assert_eq!(
        (deliveries.names_of(&AUDIT), deliveries.names_of(&OUTBOX)),
        (vec!["file".to_owned()], vec!["file".to_owned()])
    );
    base.insert(1..10).await;
    let (trail, outbox) = (base.log("cratestack_audit"), base.log("cratestack_outbox"));
    assert!(trail.contains("\"typ\":\"audit.event\"") && outbox.contains("\"type\":\"bank.Account.created\""));
    until("the trail", || read(&base.path("audit.jsonl")) == trail).await;
    until("the events", || read(&base.path("events.jsonl")) == outbox).await;
    assert_eq!(deliveries.stop(PATIENCE).await, [""; 0]);
    drop(api);
    // The next start goes on where this one was.
    base.insert(10..12).await;
    let file = FileOptions::default();
    until("the end", || JsonLinesSink::open(base.path("events.jsonl"), file.clone()).is_ok()).await;
    let api = base.router().with_event_sink_options(events(), &options()).unwrap();
    let outbox = base.log("cratestack_outbox");
    assert_eq!(outbox.lines().count(), 11);
    until("later events", || read(&base.path("events.jsonl")) == outbox).await;
    assert_eq!(api.deliveries().stop(PATIENCE).await, [""; 0]);
    assert_eq!(read(&base.path("audit.jsonl")), trail);
    base.engine.close().await;
}

#[tokio::test]
async fn deliveries_end_with_the_router() {
    let base = Base::new().await;
    let router = base.router().with_audit_sink_options(base.file(), &options()).unwrap().into_service();
    let lines = base.write(1..3).await;
    until("delivery", || read(&base.path("audit.jsonl")) == lines).await;
    let clone = router.clone();
    drop(router);
    let lines = base.write(3..5).await;
    until("delivery by the clone", || read(&base.path("audit.jsonl")) == lines).await;
    drop(clone);
    // The sink lets go of its file.
    let free = || JsonLinesSink::open(base.path("audit.jsonl"), FileOptions::default()).is_ok();
    until("the end", free).await;
}

#[tokio::test]
async fn a_builder_that_is_dropped_ends_them_too() {
    let base = Base::new().await;
    drop(base.router().with_audit_sink(base.file()).unwrap());
    let free = || JsonLinesSink::open(base.path("audit.jsonl"), FileOptions::default()).is_ok();
    until("the end", free).await;
}

#[tokio::test]
async fn a_sink_that_hangs_stops_no_other_and_is_named_at_the_end() {
    let base = Base::new().await;
    let called = Arc::new(Notify::new());
    let api = base.router().with_audit_sink_options(Hanging(Arc::clone(&called)), &options()).unwrap();
    let api = api.with_audit_sink_options(base.file(), &options()).unwrap();
    let deliveries = api.deliveries();
    let _router = api.into_router();
    let lines = base.write(1..3).await;
    until("the other", || read(&base.path("audit.jsonl")) == lines).await;
    tokio::time::timeout(PATIENCE, called.notified()).await.unwrap();
    // The other may be in the middle of a step of its own, which is no call of its sink.
    let given_up = deliveries.stop(Duration::from_millis(10)).await;
    assert!(given_up.iter().any(|name| name == "hanging"), "{given_up:?}");
}

#[tokio::test]
async fn what_cannot_work_is_an_error_at_the_start() {
    let base = Base::new().await;
    let error = |router: RouterBuilder, sink: MulticastAuditSink| router.with_audit_sink(sink).unwrap_err().to_string();
    let hanging = || Hanging(Arc::default());
    let twice = base.router().with_audit_sink(hanging()).unwrap();
    assert_eq!(error(twice, hanging().into()), "two sinks have the name `hanging`");
    let twice = MulticastAuditSink::new().with(hanging()).with(hanging());
    assert_eq!(error(base.router(), twice), "two sinks have the name `hanging`");
    let named = JsonLinesSink::open(base.path("other"), FileOptions::default()).unwrap().named("Other");
    assert_eq!(error(base.router(), named.into()), "`Other` is no name of a sink");
    let plain = Engine::open(Arc::new(schema("")), &Database::SqliteMemory, Options::default()).await.unwrap();
    let failure = router(plain, NoProcedures).with_audit_sink(hanging()).unwrap_err();
    assert_eq!(failure.to_string(), "`bank` has no audit trail, and a sink for it is configured");
    assert!(failure.help().contains("write `@@audit`"));
    let failure = base.router().with_event_sink(hanging()).unwrap_err();
    assert_eq!(failure.to_string(), "`bank` emits no events, and a sink for them is configured");
    assert!(failure.help().contains("write `@@emit(..)`"));
    let builder = base.router();
    let outside = std::thread::spawn(move || builder.with_audit_sink(Hanging(Arc::default())).unwrap_err().to_string());
    assert_eq!(outside.join().unwrap(), "a sink needs a tokio runtime to deliver on");
}
