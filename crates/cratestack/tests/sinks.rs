//! From the log in the database to the sinks of a router, and the ways in which that ends.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cratestack::engine::migrate::{Db, apply_create};
use cratestack::engine::relay::AUDIT;
use cratestack::engine::sql::Dialect;
use cratestack::engine::{Database, Engine, Options};
use cratestack::schema::ir::{Audit, Schema};
use cratestack::sinks::{
    AuditEvent, AuditSink, BoxFuture, FileOptions, JsonLinesSink, MulticastAuditSink, RelayOptions, SinkError,
};
use cratestack::{RouterBuilder, router};
use tokio::sync::Notify;

/// How long something may take in real time before the test has failed.
const PATIENCE: Duration = Duration::from_mins(1);

fn schema(audited: bool) -> Schema {
    let text = "model Account {\n  id String @id\n\n  @@allow(\"all\", true)\n}\n";
    let mut schema = cratestack::schema::compile("bank", text).0.unwrap();
    if audited {
        schema.models.iter_mut().for_each(|model| model.audit = Some(Audit { denials: false }));
    }
    schema
}

/// An engine whose log is filled by hand.
struct Base {
    folder: tempfile::TempDir,
    engine: Engine,
}

impl Base {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bank.db");
        let mut connection = rusqlite::Connection::open(&path).unwrap();
        apply_create(&mut Db::Sqlite(&mut connection), &schema(true), [7; 32], &mut |_| {}).await.unwrap();
        let log = "CREATE TABLE IF NOT EXISTS cratestack_audit (seq INTEGER PRIMARY KEY AUTOINCREMENT, \
                   occurred_at TEXT NOT NULL, model TEXT NOT NULL, primary_key TEXT NOT NULL, \
                   out_of_band INTEGER NOT NULL, entry TEXT NOT NULL) STRICT";
        for statement in std::iter::once(log.to_owned()).chain(AUDIT.ddl(Dialect::Sqlite)) {
            connection.execute_batch(&statement).unwrap();
        }
        let schema = Arc::new(schema(true));
        let engine = Engine::open(schema, &Database::SqliteFile(path), Options::default()).await.unwrap();
        Self { folder, engine }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes events of two keys to the log; their lines.
    fn write(&self, seqs: std::ops::Range<i64>) -> String {
        let connection = rusqlite::Connection::open(self.path("bank.db")).unwrap();
        connection.busy_timeout(PATIENCE).unwrap();
        let sql = "INSERT INTO cratestack_audit (occurred_at, model, primary_key, out_of_band, entry) \
                   VALUES ('2026-01-31T10:00:00.000000Z', 'Account', ?1, 0, ?2)";
        let mut lines = String::new();
        for seq in seqs {
            let entry = format!(r#"{{"event_id":"01890000-0000-7000-8000-{seq:012x}","v":1}}"#);
            connection.execute(sql, (format!("key {}", seq % 2), &entry)).unwrap();
            lines.extend([&entry, "\n"]);
        }
        lines
    }

    fn file(&self) -> JsonLinesSink {
        JsonLinesSink::open(self.path("audit.jsonl"), FileOptions::default()).unwrap()
    }

    fn router(&self) -> RouterBuilder {
        router(self.engine.clone())
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
async fn what_the_log_has_reaches_the_file() {
    let base = Base::new().await;
    let mut lines = base.write(1..20);
    let api = base.router().with_audit_sink_options(base.file(), &options()).unwrap();
    let deliveries = api.deliveries();
    assert_eq!(deliveries.names(), ["file"]);
    let _router = api.into_router();
    let path = base.path("audit.jsonl");
    until("the first events", || read(&path) == lines).await;
    lines.push_str(&base.write(20..30));
    until("later ones", || read(&path) == lines).await;
    assert_eq!(deliveries.stop(PATIENCE).await, [""; 0]);
    assert!(deliveries.names().is_empty());
    // The next start goes on where this one was.
    base.write(30..31);
    let status = AUDIT.status(&base.engine, true).await.unwrap();
    let sink = status.iter().find(|status| status.name == "file").unwrap();
    assert_eq!((sink.pending, sink.dead, sink.skipped), (1, 0, Some(0)));
    base.engine.close().await;
}

#[tokio::test]
async fn deliveries_end_with_the_router() {
    let base = Base::new().await;
    let router = base.router().with_audit_sink_options(base.file(), &options()).unwrap().into_service();
    let lines = base.write(1..3);
    until("delivery", || read(&base.path("audit.jsonl")) == lines).await;
    let clone = router.clone();
    drop(router);
    let lines = lines + &base.write(3..5);
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
    let lines = base.write(1..3);
    until("the other", || read(&base.path("audit.jsonl")) == lines).await;
    tokio::time::timeout(PATIENCE, called.notified()).await.unwrap();
    assert_eq!(deliveries.stop(Duration::from_millis(10)).await, ["hanging"]);
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
    let plain = Engine::open(Arc::new(schema(false)), &Database::SqliteMemory, Options::default()).await.unwrap();
    let failure = router(plain).with_audit_sink(hanging()).unwrap_err();
    assert_eq!(failure.to_string(), "`bank` has no audit trail, and a sink for it is configured");
    assert!(failure.help().contains("write `@@audit`"));
    let builder = base.router();
    let outside = std::thread::spawn(move || builder.with_audit_sink(Hanging(Arc::default())).unwrap_err().to_string());
    assert_eq!(outside.join().unwrap(), "an audit sink needs a tokio runtime to deliver on");
}
