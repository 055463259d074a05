#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod kill;
mod race;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use cratestack_schema::ir::Schema;
use cratestack_schema::value::Value;
use futures_util::FutureExt as _;
use tokio::sync::{Notify, oneshot};

use super::*;
use crate::engine::{Database, Options};
use crate::migrate::{self, Db};
use crate::sources::{Clock, Fixed};
use crate::sql::{Bind, SqlType};
use crate::testing::{PgDatabase, pending, statement};

/// What tests see and change of a relay's work.
#[derive(Clone, Default)]
pub(crate) struct Hooks {
    /// Relays need not have the lock, so that only the positions stand between them.
    pub(crate) unlocked: bool,
    /// Called before and after each step.
    pub(crate) point: Option<Arc<dyn Fn(&'static str, &'static str) + Send + Sync>>,
}

impl Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hooks")
    }
}

impl Hooks {
    pub(crate) fn at(&self, step: &'static str, moment: &'static str) {
        if let Some(point) = &self.point {
            point(step, moment);
        }
    }
}

/// 2026-01-31T10:00:00Z
const START: i64 = 1_769_853_600_000_000;
const SECOND: i64 = 1_000_000;
/// How long something may take in real time before the test has failed.
const PATIENCE: Duration = Duration::from_secs(60);

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it takes too long")
}

/// A clock that jumps from one end of a sleep to the next, once everybody sleeps.
#[derive(Debug)]
struct Virtual {
    now: AtomicI64,
    sleepers: Mutex<Vec<(i64, oneshot::Sender<()>)>>,
    changed: Notify,
}

impl Virtual {
    fn new() -> Arc<Self> {
        Arc::new(Self { now: AtomicI64::new(START), sleepers: Mutex::default(), changed: Notify::new() })
    }

    /// Seconds since the start.
    fn seconds(&self) -> i64 {
        (self.now() - START) / SECOND
    }

    /// Waits until `tasks` sleep, and goes to the first end.
    async fn step(&self, tasks: usize) {
        let go = async {
            loop {
                let changed = self.changed.notified();
                {
                    let mut sleepers = self.sleepers.lock().unwrap();
                    sleepers.retain(|(_, sleeper)| !sleeper.is_closed());
                    if sleepers.len() >= tasks {
                        sleepers.sort_by_key(|(due, _)| *due);
                        let (due, sleeper) = sleepers.remove(0);
                        self.now.fetch_max(due, Ordering::SeqCst);
                        sleeper.send(()).ok();
                        return;
                    }
                }
                changed.await;
            }
        };
        soon(go).await;
    }
}

impl Clock for Virtual {
    fn now(&self) -> i64 {
        self.now.load(Ordering::SeqCst)
    }
}

/// [`Virtual`] as [`Sleep`].
#[derive(Debug)]
struct Sleeper(Arc<Virtual>);

impl Sleep for Sleeper {
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let clock = Arc::clone(&self.0);
        async move {
            let due = clock.now() + i64::try_from(duration.as_micros()).unwrap();
            let (wake, woken) = oneshot::channel();
            clock.sleepers.lock().unwrap().push((due, wake));
            clock.changed.notify_one();
            woken.await.ok();
        }
        .boxed()
    }
}

/// An engine with a log, on either database.
struct Base {
    engine: Engine,
    clock: Arc<Virtual>,
    link: tokio::sync::Mutex<Link>,
    postgres: Option<PgDatabase>,
    directory: Option<tempfile::TempDir>,
}

fn schema() -> Arc<Schema> {
    let (schema, diagnostics) =
        cratestack_schema::compile("bank", "model Note {\n  id Int @id\n  @@allow(\"all\", true)\n}\n");
    Arc::new(schema.unwrap_or_else(|| panic!("{diagnostics:#?}")))
}

/// The audit log, and rows to lock and to count with. Entries are whatever a test likes.
fn tables(dialect: Dialect) -> Vec<String> {
    let counters = match dialect {
        Dialect::Postgres => "CREATE TABLE counters (key text PRIMARY KEY, n bigint NOT NULL)",
        Dialect::Sqlite => "CREATE TABLE counters (key TEXT PRIMARY KEY, n INTEGER NOT NULL) STRICT",
    };
    let lax = |sql: String| sql.lines().filter(|line| !line.contains("form of entry")).collect::<Vec<_>>().join("\n");
    let trail = || crate::audit::ddl::tables(dialect).into_iter().map(lax);
    // They may run any number of times.
    trail().chain(trail()).chain([counters.to_owned()]).collect()
}

impl Base {
    async fn new(dialect: Dialect) -> Option<Self> {
        let clock = Virtual::new();
        let options = Options { clock: clock.clone(), ids: Arc::new(Fixed::at(0)), ..Options::default() };
        let schema = schema();
        let (database, postgres, directory) = match dialect {
            Dialect::Postgres => {
                let database = PgDatabase::new().await?;
                let mut connection = database.connect().await;
                migrate::apply_create(&mut Db::Postgres(&mut connection), &schema, [7; 32], &mut |_| ()).await.unwrap();
                (Database::Postgres(database.url.clone()), Some(database), None)
            }
            Dialect::Sqlite => {
                let directory = tempfile::tempdir().unwrap();
                let path = directory.path().join("test.db");
                let mut connection = rusqlite::Connection::open(&path).unwrap();
                migrate::apply_create(&mut Db::Sqlite(&mut connection), &schema, [7; 32], &mut |_| ()).await.unwrap();
                (Database::SqliteFile(path), None, Some(directory))
            }
        };
        let engine = Engine::open(schema, &database, options).await.unwrap();
        let link = tokio::sync::Mutex::new(Link::open(&engine, Hooks::default()).await.unwrap());
        let base = Self { engine, clock, link, postgres, directory };
        for sql in tables(dialect) {
            base.sql(&sql).await;
        }
        Some(base)
    }

    fn dialect(&self) -> Dialect {
        self.engine.store().dialect()
    }

    async fn sql(&self, sql: &str) {
        self.link.lock().await.write("test", vec![statement(sql, &[], Vec::new())]).await.unwrap();
    }

    async fn int(&self, sql: &str) -> i64 {
        let rows = self.link.lock().await.read("test", statement(sql, &[SqlType::INT], Vec::new())).await.unwrap();
        text::int(rows.control(0), 0)
    }

    /// Writes events of keys, in one transaction.
    async fn log(&self, events: &[(&str, &str)]) {
        let (arg, now) = match self.dialect() {
            Dialect::Postgres => ("$", "$3::text::timestamptz"),
            Dialect::Sqlite => ("?", "?3"),
        };
        let no = if self.dialect() == Dialect::Postgres { "false" } else { "0" };
        let sql = format!(
            "INSERT INTO cratestack_audit (occurred_at, model, primary_key, out_of_band, entry) \
             VALUES ({now}, 'Note', {arg}1, {no}, {arg}2)"
        );
        let time = cratestack_schema::value::instant::from_unix_micros(self.clock.now()).unwrap();
        let row = |(key, entry): &(&str, &str)| {
            let binds = [(*key).to_owned(), (*entry).to_owned(), time.clone()].map(Bind::Text).to_vec();
            statement(&sql, &[], binds)
        };
        self.link.lock().await.write("test", events.iter().map(row).collect()).await.unwrap();
    }

    fn options(&self) -> RelayOptions {
        RelayOptions { sleep: Arc::new(Sleeper(Arc::clone(&self.clock))), ..RelayOptions::default() }
    }

    fn start(&self, sinks: impl Into<MulticastAuditSink>, options: &RelayOptions) -> Relay {
        Relay::start(&self.engine, &AUDIT, sinks, options).unwrap()
    }

    async fn status(&self) -> SinkStatus {
        AUDIT.status(&self.engine, true).await.unwrap().remove(0)
    }

    /// Lets time pass until the first sink has nothing pending.
    async fn drained(&self) {
        let drained = async {
            loop {
                self.clock.step(1).await;
                let status = AUDIT.status(&self.engine, true).await.unwrap();
                if status.first().is_some_and(|status| status.pending == 0) {
                    return;
                }
            }
        };
        soon(drained).await;
    }
}

type Script = dyn Fn(&[AuditEvent]) -> Result<(), SinkError> + Send + Sync;

/// A sink that does what it is told, and keeps what it took.
#[derive(Clone)]
struct Recorder {
    name: &'static str,
    script: Arc<Script>,
    taken: Arc<Mutex<Vec<AuditEvent>>>,
    calls: Arc<AtomicUsize>,
    grown: Arc<Notify>,
}

impl Recorder {
    fn new(script: impl Fn(&[AuditEvent]) -> Result<(), SinkError> + Send + Sync + 'static) -> Self {
        Self {
            name: "recorder",
            script: Arc::new(script),
            taken: Arc::default(),
            calls: Arc::default(),
            grown: Arc::default(),
        }
    }

    fn entries(&self) -> Vec<String> {
        self.taken.lock().unwrap().iter().map(|event| event.entry.clone()).collect()
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    /// By key, what came in the order in which it came first.
    fn by_key(&self) -> BTreeMap<String, Vec<String>> {
        let mut seen = std::collections::HashSet::new();
        let mut keys: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for event in self.taken.lock().unwrap().iter() {
            if seen.insert(event.seq) {
                keys.entry(event.primary_key.clone()).or_default().push(event.entry.clone());
            }
        }
        keys
    }
}

impl AuditSink for Recorder {
    fn name(&self) -> &str {
        self.name
    }

    fn deliver<'a>(&'a self, events: &'a [AuditEvent]) -> BoxFuture<'a, Result<(), SinkError>> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        async move {
            (self.script)(events)?;
            self.taken.lock().unwrap().extend_from_slice(events);
            self.grown.notify_one();
            Ok(())
        }
        .boxed()
    }
}

/// Runs a test on both databases.
macro_rules! both {
    ($($(#[$attribute:meta])* async fn $name:ident($base:ident: Base) $body:block)*) => {
        $(
            mod $name {
                use super::*;

                $(#[$attribute])*
                async fn run($base: Base) $body

                #[tokio::test]
                async fn sqlite() {
                    run(Base::new(Dialect::Sqlite).await.unwrap()).await;
                }

                #[tokio::test]
                async fn postgres() {
                    if let Some(base) = Base::new(Dialect::Postgres).await {
                        run(base).await;
                    }
                }
            }
        )*
    };
}

both! {
    async fn everything_arrives_once_and_to_the_octet(base: Base) {
        let sink = Recorder::new(|_| Ok(()));
        base.log(&[("1", "{\"a\":\"\u{e9}\\n\"}"), ("2", "b")]).await;
        let relay = base.start(sink.clone(), &base.options());
        base.drained().await;
        base.log(&[("1", "c")]).await;
        base.drained().await;
        assert_eq!(sink.entries(), ["{\"a\":\"\u{e9}\\n\"}", "b", "c"]);
        assert_eq!(sink.taken.lock().unwrap()[0].model, "Note");
        assert!(soon(relay.stop(PATIENCE)).await);
        assert_eq!(base.int("SELECT count(*) FROM cratestack_audit_delivery WHERE state = 'delivered'").await, 3);
        // Another start goes on where the last one ended.
        base.log(&[("1", "d")]).await;
        let _relay = base.start(sink.clone(), &base.options());
        base.drained().await;
        assert_eq!(sink.entries().len(), 4);
        let status = base.status().await;
        assert_eq!((status.pending, status.dead, status.skipped, status.lag), (0, 0, Some(0), Duration::ZERO));
        // An idle relay leaves no traces.
        let batches = "SELECT max(batch) FROM cratestack_audit_relay";
        let before = base.int(batches).await;
        for _ in 0..10 {
            base.clock.step(1).await;
        }
        assert_eq!(base.int(batches).await, before);
        assert!(base.int("SELECT count(*) FROM cratestack_audit_relay").await <= 2);
    }

    async fn a_batch_has_bounds(base: Base) {
        let sizes = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&sizes);
        let sink = Recorder::new(move |events| {
            noted.lock().unwrap().push(events.len());
            Ok(())
        });
        let long = "x".repeat(1000);
        let mut events = vec![("k", "short"); 5];
        events.push(("k", &long));
        events.extend([("k", "short"); 2]);
        base.log(&events).await;
        let options = RelayOptions { batch: 4, batch_bytes: 100, ..base.options() };
        let _relay = base.start(sink.clone(), &options);
        base.drained().await;
        // Full ones follow each other at once.
        assert_eq!(*sizes.lock().unwrap(), [4, 1, 1, 2]);
        assert!(base.clock.now() - START <= 250_000);
        assert_eq!(sink.entries().len(), 8);
    }

    async fn a_sink_that_is_away_for_a_minute_delays_no_write_and_loses_nothing(base: Base) {
        let clock = Arc::clone(&base.clock);
        let sink = Recorder::new(move |_| {
            if clock.seconds() < 60 { Err(SinkError::unavailable("away\u{0}")) } else { Ok(()) }
        });
        let options = RelayOptions { max_attempts: 2, ..base.options() };
        let _relay = base.start(sink.clone(), &options);
        let mut written = Vec::new();
        while base.clock.seconds() < 60 {
            // What a request writes does not wait for the sink: nothing moves the clock meanwhile.
            let entry = written.len().to_string();
            base.log(&[("k", &entry)]).await;
            written.push(entry);
            base.clock.step(1).await;
        }
        assert!((5..=9).contains(&sink.calls()), "{} calls", sink.calls());
        let status = base.status().await;
        assert_eq!((status.pending, status.dead), (written.len() as u64, 0));
        assert_eq!(status.last_error.as_deref(), Some("away "));
        assert!(status.lag >= Duration::from_secs(59));
        base.drained().await;
        assert_eq!(sink.entries(), written);
        assert!(base.clock.seconds() < 60 + 64);
        assert!(base.int("SELECT attempts FROM cratestack_audit_delivery WHERE seq = 1").await >= 5);
    }

    async fn a_sink_that_does_not_answer_is_given_up(base: Base) {
        struct Silent(Arc<Mutex<usize>>);
        impl AuditSink for Silent {
            fn name(&self) -> &'static str {
                "silent"
            }
            fn deliver<'a>(&'a self, _: &'a [AuditEvent]) -> BoxFuture<'a, Result<(), SinkError>> {
                let mut calls = self.0.lock().unwrap();
                *calls += 1;
                if *calls < 3 { std::future::pending().boxed() } else { std::future::ready(Ok(())).boxed() }
            }
        }
        let calls = Arc::new(Mutex::new(0));
        base.log(&[("k", "a")]).await;
        let _relay = base.start(Silent(Arc::clone(&calls)), &base.options());
        base.drained().await;
        assert_eq!(*calls.lock().unwrap(), 3);
        // Two calls of 30 s, a pause of at most 1 s and one of at most 2 s.
        assert!((61..=65).contains(&base.clock.seconds()), "{}", base.clock.seconds());
    }

    async fn a_poison_event_holds_up_its_key_alone_and_becomes_a_dead_letter(base: Base) {
        let healed = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let well = Arc::clone(&healed);
        let sink = Recorder::new(move |events| {
            let poison = events.iter().any(|event| event.entry.starts_with("poison"));
            if poison && !well.load(Ordering::SeqCst) { Err(SinkError::refused("no")) } else { Ok(()) }
        });
        base.log(&[("a", "a1"), ("p", "p1"), ("p", "poison"), ("p", "p3"), ("b", "b1"), ("p", "p4")]).await;
        let options = RelayOptions { max_attempts: 3, ..base.options() };
        let _relay = base.start(sink.clone(), &options);
        while sink.entries().len() < 3 {
            base.clock.step(1).await;
        }
        base.log(&[("b", "b2"), ("p", "p5")]).await;
        while sink.entries().len() < 4 {
            base.clock.step(1).await;
        }
        assert_eq!(sink.entries(), ["a1", "p1", "b1", "b2"]);
        let status = base.status().await;
        assert_eq!((status.pending, status.dead, status.last_error.as_deref()), (4, 0, Some("no")));
        assert!(base.clock.seconds() < 1);
        base.drained().await;
        // It went alone, and when it was given up, its key went on in order.
        assert_eq!(sink.entries(), ["a1", "p1", "b1", "b2", "p3", "p4", "p5"]);
        assert!((1..=4).contains(&base.clock.seconds()));
        let status = base.status().await;
        assert_eq!((status.pending, status.dead, status.skipped), (0, 1, Some(0)));
        assert_eq!(status.last_error.as_deref(), Some("no"));
        assert_eq!(base.int("SELECT attempts FROM cratestack_audit_delivery WHERE state = 'dead'").await, 3);

        healed.store(true, Ordering::SeqCst);
        assert_eq!(AUDIT.replayable(&base.engine, "recorder", Which::Dead).await.unwrap(), 1);
        assert_eq!(AUDIT.replay(&base.engine, "recorder", Which::Dead).await.unwrap(), 1);
        base.drained().await;
        assert_eq!(sink.entries().last().unwrap(), "poison");
        assert_eq!(base.status().await.dead, 0);
    }

    async fn a_panic_is_a_refusal(base: Base) {
        let sink = Recorder::new(|events| {
            assert!(events.iter().all(|event| event.entry != "poison"), "in the sink");
            Ok(())
        });
        base.log(&[("a", "a"), ("p", "poison"), ("p", "p")]).await;
        let options = RelayOptions { max_attempts: 2, ..base.options() };
        let _relay = base.start(sink.clone(), &options);
        base.drained().await;
        assert_eq!(sink.entries(), ["a", "p"]);
        let status = base.status().await;
        assert_eq!((status.dead, status.last_error.as_deref()), (1, Some("the sink panicked")));
    }

    async fn a_bad_sink_stops_no_other(base: Base) {
        let bad = Recorder { name: "bad", ..Recorder::new(|_| Err(SinkError::unavailable("away"))) };
        let good = Recorder { name: "good", ..Recorder::new(|_| Ok(())) };
        base.log(&[("a", "a"), ("b", "b")]).await;
        let sinks = MulticastAuditSink::new().with(bad.clone()).with(good.clone());
        let _relay = base.start(sinks, &base.options());
        while good.entries().len() < 2 || bad.calls() < 3 {
            base.clock.step(2).await;
        }
        assert!(bad.entries().is_empty());
        let status = AUDIT.status(&base.engine, false).await.unwrap();
        let told: Vec<_> = status.iter().map(|sink| (sink.name.as_str(), sink.pending, sink.skipped)).collect();
        assert_eq!(told, [("bad", 2, None), ("good", 0, None)]);
        assert!(bad.calls() >= 3);
    }

    async fn what_is_done_is_purged_after_a_week_and_replayed_all_the_same(base: Base) {
        let sink = Recorder::new(|_| Ok(()));
        let _relay = base.start(sink.clone(), &base.options());
        for round in 0..3 {
            let entry = round.to_string();
            base.log(&vec![("k", entry.as_str()); 700]).await;
            base.drained().await;
        }
        base.clock.now.fetch_add(8 * 24 * 3600 * SECOND, Ordering::SeqCst);
        base.log(&[("k", "new")]).await;
        base.drained().await;
        while base.int("SELECT count(*) FROM cratestack_audit_delivery").await > 1 {
            base.clock.step(1).await;
        }
        let status = base.status().await;
        assert_eq!((status.pending, status.skipped), (0, Some(0)));
        // It can be had again, from anywhere.
        assert_eq!(sink.entries().len(), 2101);
        assert_eq!(AUDIT.replayable(&base.engine, "recorder", Which::Since(2100)).await.unwrap(), 2);
        assert_eq!(AUDIT.replay(&base.engine, "recorder", Which::Since(2100)).await.unwrap(), 2);
        base.drained().await;
        assert_eq!(sink.entries()[2101..], ["2", "new"]);
        assert_eq!(AUDIT.replayable(&base.engine, "recorder", Which::All).await.unwrap(), 2101);
        assert_eq!(AUDIT.replay(&base.engine, "recorder", Which::All).await.unwrap(), 2101);
        base.drained().await;
        assert_eq!(sink.entries().len(), 2 * 2101 + 2);
        assert_eq!(base.status().await.skipped, Some(0));
    }

    async fn events_that_no_take_found_are_counted(base: Base) {
        let sink = Recorder::new(|_| Ok(()));
        let _relay = base.start(sink.clone(), &base.options());
        base.log(&[("k", "a"), ("k", "b")]).await;
        base.drained().await;
        base.sql("DELETE FROM cratestack_audit_delivery WHERE seq = 1").await;
        if base.dialect() == Dialect::Postgres {
            let forged = "INSERT INTO cratestack_audit (xid, occurred_at, model, primary_key, out_of_band, entry) \
                          VALUES (3, now(), 'Note', 'k', false, 'forged')";
            base.sql(forged).await;
        }
        for _ in 0..4 {
            base.clock.step(1).await;
        }
        let status = base.status().await;
        assert_eq!(status.skipped, Some(if base.dialect() == Dialect::Postgres { 2 } else { 1 }));
        assert_eq!((status.pending, sink.entries().len()), (0, 2));
    }

    async fn a_sink_can_be_forgotten(base: Base) {
        let sink = Recorder::new(|_| Ok(()));
        base.log(&[("k", "a"), ("k", "b")]).await;
        let relay = base.start(sink.clone(), &base.options());
        base.drained().await;
        let forgotten = AUDIT.forget(&base.engine, "recorder").await;
        if base.dialect() == Dialect::Postgres {
            assert!(matches!(forgotten, Err(Error::InUse(_))), "{forgotten:?}");
        }
        assert!(soon(relay.stop(PATIENCE)).await);
        while matches!(AUDIT.forget(&base.engine, "recorder").await, Err(Error::InUse(_))) {}
        assert!(AUDIT.status(&base.engine, true).await.unwrap().is_empty());
        assert!(matches!(AUDIT.forget(&base.engine, "recorder").await, Err(Error::Unknown(_))));
        assert!(matches!(AUDIT.replay(&base.engine, "recorder", Which::All).await, Err(Error::Unknown(_))));
        assert!(matches!(AUDIT.replayable(&base.engine, "recorder", Which::All).await, Err(Error::Unknown(_))));
        let _relay = base.start(sink.clone(), &base.options());
        base.drained().await;
        assert_eq!(sink.entries(), ["a", "b", "a", "b"]);
    }

    async fn a_stop_lets_the_call_under_way_end_and_starts_no_other(base: Base) {
        struct Gate(Mutex<Option<oneshot::Receiver<()>>>, Arc<Notify>, Recorder);
        impl AuditSink for Gate {
            fn name(&self) -> &'static str {
                "gate"
            }
            fn deliver<'a>(&'a self, events: &'a [AuditEvent]) -> BoxFuture<'a, Result<(), SinkError>> {
                let gate = self.0.lock().unwrap().take();
                self.1.notify_one();
                async move {
                    match gate {
                        Some(gate) => gate.await.unwrap(),
                        None => std::future::pending().await,
                    }
                    self.2.deliver(events).await
                }
                .boxed()
            }
        }
        let sink = Recorder::new(|_| Ok(()));
        let (open, gate) = oneshot::channel();
        let called = Arc::new(Notify::new());
        base.log(&[("k", "a"), ("k", "b"), ("k", "c")]).await;
        let options = RelayOptions { batch: 2, ..base.options() };
        let relay = base.start(Gate(Mutex::new(Some(gate)), Arc::clone(&called), sink.clone()), &options);
        soon(called.notified()).await;
        let mut stop = Box::pin(relay.stop(PATIENCE));
        assert!(pending(stop.as_mut()).await);
        open.send(()).unwrap();
        assert!(soon(stop).await);
        assert_eq!(sink.entries(), ["a", "b"]);
        assert_eq!(base.int("SELECT count(*) FROM cratestack_audit_delivery WHERE state = 'delivered'").await, 2);
        // One that does not end is given up.
        let relay = base.start(Gate(Mutex::new(None), Arc::clone(&called), sink.clone()), &options);
        soon(called.notified()).await;
        assert!(!soon(relay.stop(Duration::ZERO)).await);
        assert_eq!(base.status().await.pending, 1);
    }

    async fn a_relay_waits_for_its_tables(base: Base) {
        let sink = Recorder::new(|_| Ok(()));
        base.sql("ALTER TABLE cratestack_audit_relay RENAME TO away").await;
        let _relay = base.start(sink.clone(), &base.options());
        for _ in 0..5 {
            base.clock.step(1).await;
        }
        base.sql("ALTER TABLE away RENAME TO cratestack_audit_relay").await;
        base.log(&[("k", "a")]).await;
        base.drained().await;
        assert_eq!(sink.entries(), ["a"]);
    }
}

#[tokio::test]
async fn names_are_checked() {
    let base = Base::new(Dialect::Sqlite).await.unwrap();
    let named = |name| Recorder { name, ..Recorder::new(|_| Ok(())) };
    for name in ["", "Sink", "a b", "é"] {
        let refused = Relay::start(&base.engine, &AUDIT, named(name), &base.options()).unwrap_err();
        assert!(matches!(refused, Error::Name(_)), "{refused}");
    }
    let twice = MulticastAuditSink::new().with(named("a")).with(named("b")).with(named("a"));
    assert_eq!(format!("{twice:?}"), "[\"a\", \"b\", \"a\"]");
    let refused = Relay::start(&base.engine, &AUDIT, twice, &base.options()).unwrap_err();
    assert!(matches!(refused, Error::Twice(_)), "{refused}");
}

#[test]
fn an_event_shows_nothing_of_its_row() {
    let event = AuditEvent {
        log: &AUDIT,
        seq: 1,
        model: "M".to_owned(),
        primary_key: "SECRET".to_owned(),
        entry: "SECRET".to_owned(),
    };
    assert_eq!(format!("{event:?}"), "AuditEvent { seq: 1, model: \"M\", .. }");
}

#[tokio::test]
async fn a_standby_is_refused() {
    let Some(base) = Base::new(Dialect::Postgres).await else { return };
    // Found before the one of `pg_catalog`.
    base.sql("CREATE FUNCTION public.pg_is_in_recovery() RETURNS boolean LANGUAGE sql AS 'SELECT true'").await;
    let url = &base.postgres.as_ref().unwrap().url;
    let joint = if url.contains('?') { '&' } else { '?' };
    let url = format!("{url}{joint}options=-c%20search_path%3Dpublic%2Cpg_catalog");
    let options = Options { clock: base.clock.clone(), ..Options::default() };
    let standby = Engine::open(schema(), &Database::Postgres(url), options).await.unwrap();
    base.log(&[("k", "a")]).await;
    let sink = Recorder::new(|_| Ok(()));
    let _relay = Relay::start(&standby, &AUDIT, sink.clone(), &base.options()).unwrap();
    for _ in 0..5 {
        base.clock.step(1).await;
    }
    assert_eq!(sink.calls(), 0);
    assert!(AUDIT.status(&base.engine, true).await.unwrap().is_empty());
    // It has become the primary.
    base.sql("DROP FUNCTION public.pg_is_in_recovery()").await;
    base.drained().await;
    assert_eq!(sink.entries(), ["a"]);
}

#[tokio::test]
async fn a_position_from_another_server_is_refused() {
    let Some(base) = Base::new(Dialect::Postgres).await else { return };
    let sink = Recorder::new(|_| Ok(()));
    let relay = base.start(sink.clone(), &base.options());
    base.log(&[("k", "a")]).await;
    base.drained().await;
    assert!(soon(relay.stop(PATIENCE)).await);
    base.sql("UPDATE cratestack_audit_relay SET snapshot = '99999999999:99999999999:'").await;
    base.log(&[("k", "b")]).await;
    let relay = base.start(sink.clone(), &base.options());
    for _ in 0..5 {
        base.clock.step(1).await;
    }
    assert_eq!(sink.entries(), ["a"]);
    assert_eq!(base.status().await.skipped, Some(1));
    drop(relay);
    while matches!(AUDIT.forget(&base.engine, "recorder").await, Err(Error::InUse(_))) {}
    let _relay = base.start(sink.clone(), &base.options());
    base.drained().await;
    assert_eq!(sink.entries(), ["a", "a", "b"]);
}

#[tokio::test]
async fn one_relay_leads_and_another_takes_over() {
    let Some(base) = Base::new(Dialect::Postgres).await else { return };
    let (one, two) = (Recorder::new(|_| Ok(())), Recorder::new(|_| Ok(())));
    let first = base.start(one.clone(), &base.options());
    base.log(&[("k", "a")]).await;
    base.drained().await;
    let _second = base.start(two.clone(), &base.options());
    base.log(&[("k", "b")]).await;
    for _ in 0..12 {
        base.clock.step(2).await;
    }
    assert_eq!((one.entries(), two.calls()), (vec!["a".to_owned(), "b".to_owned()], 0));
    assert!(soon(first.stop(PATIENCE)).await);
    base.log(&[("k", "c")]).await;
    base.drained().await;
    assert_eq!(two.entries(), ["c"]);
}

#[tokio::test]
async fn an_open_transaction_delays_its_own_events_alone() {
    let Some(base) = Base::new(Dialect::Postgres).await else { return };
    let insert = "INSERT INTO cratestack_audit (occurred_at, model, primary_key, out_of_band, entry) \
                  VALUES (now(), 'Note', 'slow', false, 'slow')";
    let mut slow = base.postgres.as_ref().unwrap().connect().await;
    sqlx::Executor::execute(&mut slow, "BEGIN").await.unwrap();
    sqlx::Executor::execute(&mut slow, insert).await.unwrap();
    let sink = Recorder::new(|_| Ok(()));
    let _relay = base.start(sink.clone(), &base.options());
    for entry in ["a", "b", "c"] {
        base.log(&[("k", entry)]).await;
        base.drained().await;
    }
    assert_eq!(sink.entries(), ["a", "b", "c"]);
    sqlx::Executor::execute(&mut slow, "COMMIT").await.unwrap();
    base.drained().await;
    assert_eq!(sink.entries(), ["a", "b", "c", "slow"]);
    assert_eq!(base.status().await.skipped, Some(0));
    // What a take by number would have seen.
    let rows = base.int("SELECT seq FROM cratestack_audit WHERE entry = 'slow'").await;
    assert_eq!(rows, 1);
}

/// The cost of each step follows what it has to do, on tables that the server knows nothing about yet.
#[tokio::test]
async fn no_step_reads_more_than_it_needs() {
    let Some(base) = Base::new(Dialect::Postgres).await else { return };
    let many = "INSERT INTO cratestack_audit (occurred_at, model, primary_key, out_of_band, entry) \
                SELECT now(), 'Note', n::text, false, repeat('x', 500) FROM generate_series(1, 20000) AS n";
    base.sql(many).await;
    let texts = Texts::new(&AUDIT, Dialect::Postgres);
    let take = || texts.take("recorder", START, i64::MIN);
    base.link.lock().await.write("enrol", vec![texts.enrol("recorder", START)]).await.unwrap();
    base.link.lock().await.take(take()).await.unwrap();
    assert_eq!(base.int("SELECT count(*) FROM cratestack_audit_delivery").await, 20_000);

    let plan = async |mut statement: crate::sql::Statement| {
        let sql = format!("EXPLAIN (ANALYZE, TIMING OFF) {}", statement.template.sql);
        statement.template = Arc::new(crate::sql::Template::fixed(&sql, &[SqlType::TEXT]));
        let rows = base.link.lock().await.write("explain", vec![statement]).await.unwrap();
        let line = |row| match &rows[0].control(row)[0] {
            Value::Text(line) => format!("{line}\n"),
            other => panic!("{other:?}"),
        };
        (0..rows[0].len()).map(line).collect::<String>()
    };
    let seqs: Vec<i64> = (1..=256).collect();
    let plans = [
        plan(texts.due("recorder", START, i64::MIN, 256, 1 << 20)).await,
        plan(texts.delivered("recorder", &seqs, START)).await,
        plan(texts.waits("recorder", &seqs, "away")).await,
        plan(texts.due("recorder", START, 257, 256, 1 << 20)).await,
    ];
    let purge = plan(texts.purge("recorder", 0, START + 1).remove(0)).await;
    let forget = plan(texts.forget_deliveries("recorder")).await;
    for plan in plans.into_iter().chain([purge, forget]) {
        assert!(!plan.contains("rows=20000") && !plan.contains("rows=19744"), "{plan}");
        assert!(!plan.contains("Rows Removed by Filter"), "{plan}");
    }
    // The log has an index by transaction id.
    let xid = "FROM pg_index JOIN pg_class AS c ON c.oid = indexrelid \
               WHERE indrelid = 'cratestack_audit'::regclass AND c.relname LIKE '%xid%'";
    base.sql(&format!("SELECT brin_summarize_new_values(indexrelid) {xid}")).await;
    base.log(&[("k", "new")]).await;
    let plan = plan(take().remove(0)).await;
    assert!(!plan.contains("Seq Scan on cratestack_audit e") && plan.contains("Bitmap"), "{plan}");
}
