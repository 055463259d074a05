use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use sqlx::Connection as _;

use super::*;
use crate::api::BatchItem;
use crate::engine::tests::{Base, at, caller, json, split};
use crate::idempotency::desk::KeyFilter;
use crate::idempotency::{Identity, KeyLimits, Outline, Present, Record, Stencil, VERSION_MARK};
use crate::sources::Fixed;
use crate::testing::Proxy;
use crate::{Database, Options};

const BANK: &str = r#"
auth Principal {
  id       String @id
  role     String
  tenantId String @tenant
}

model Account {
  id      Uuid   @id @default(uuid())
  owner   String
  data    Json?
  version Int    @version
  cards   Card[]
  @@audit
  @@emit(updated)
  @@soft_delete
  @@allow("all", true)
  @@allow("restore", true)
}

model Plain {
  id      Int    @id
  owner   String
  n       Int    @default(0)
  version Int    @version
  @@audit
  @@allow("all", true)
}

model Card {
  id        Int    @id
  holder    String @pii
  accountId Uuid
  account   Account @relation(fields: [accountId], references: [id], onDelete: Cascade)
  @@allow("all", true)
}

model Numbered {
  id    BigInt @id @default(autoincrement())
  owner String
  @@allow("all", true)
}
"#;

/// Answers as a facade might.
#[derive(Debug, Default)]
struct Plainly {
    presented: AtomicUsize,
}

impl Present for Plainly {
    fn present(&self, outcome: Outcome) -> Result<Record, Failure> {
        self.presented.fetch_add(1, Ordering::Relaxed);
        let (headers, body) = match outcome {
            Outcome::Done(Answer::Row(row)) => {
                (row.version.map(|version| ("etag".to_owned(), version.to_string())), row.body.unwrap_or_default())
            }
            Outcome::Done(Answer::Deleted { version }) => {
                (version.map(|version| ("etag".to_owned(), version.to_string())), String::new())
            }
            Outcome::Done(other) => (None, format!("{other:?}")),
            Outcome::Called(text) => (None, text),
            Outcome::Refused(failure) => (None, failure.detail),
        };
        Ok(Record { status: 200, headers: headers.into_iter().collect(), body: Some(body.into_bytes()) })
    }

    fn stencil(&self, sketch: &Sketch) -> Option<Stencil> {
        let etag = ("etag".to_owned(), VERSION_MARK.to_owned());
        let versioned = sketch.versioned && sketch.kind != Kind::Delete;
        let outline = Outline { status: 200, headers: versioned.then_some(etag).into_iter().collect() };
        let body = !matches!(sketch.kind, Kind::Delete | Kind::Tombstone);
        Some(Stencil { seen: outline.clone(), hidden: outline, body })
    }
}

fn keyed(key: &str, print: u8) -> Keyed {
    Keyed {
        identity: Identity { scope: [1; 32], key: key.to_owned(), fingerprint: [print; 32] },
        limits: KeyLimits { retention: Duration::from_hours(24), wait: Duration::from_secs(10), body: 1024 },
        present: Arc::new(Plainly::default()),
    }
}

async fn send(engine: &Engine, model: &str, key: &Keyed, verb: Verb) -> Result<Kept, Failure> {
    let model = engine.schema().model_named(model).unwrap();
    engine.run_keyed(&caller(engine, "teller"), Operation { model, verb }, key).await
}

fn create(data: &str) -> Verb {
    Verb::Create { data: json(data) }
}

fn patch(key: &str, version: i64, data: &str) -> Verb {
    Verb::Patch { key: split(key), expected: at(version), data: json(data) }
}

fn delete(key: &str, version: i64) -> Verb {
    Verb::Delete { key: split(key), expected: at(version) }
}

fn body(kept: &Kept) -> &str {
    std::str::from_utf8(kept.record.body.as_deref().unwrap()).unwrap()
}

fn id(kept: &Kept) -> String {
    serde_json::from_str::<serde_json::Value>(body(kept)).unwrap()["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_keyed_write_is_one_statement_and_one_round_trip() {
    let text = BANK.replace("  data    Json?\n", "");
    let Some(mut base) = Base::postgres(&text).await else { return };
    let proxy = Proxy::before(base.postgres.as_ref().unwrap()).await;
    let sources = Arc::new(Fixed::at(1_769_853_600_000_000));
    let options = Options { clock: sources.clone(), ids: sources, ..Options::default() };
    let schema = Arc::clone(base.engine.schema());
    base.engine = Engine::open(schema, &Database::Postgres(proxy.url.clone()), options).await.unwrap();
    let engine = &base.engine;
    let count = || (engine.statistics().statements(), proxy.trips());
    let mut account = String::new();
    // The first round prepares.
    for round in 0..2 {
        let key = |name: &str| keyed(&format!("{name} {round}"), 1);
        let mut before = count();
        let mut cost = || {
            let now = count();
            let cost = (now.0 - before.0, now.1 - before.1);
            before = now;
            cost
        };
        let mut check = |what: &str, wanted: u64| {
            let cost = cost();
            assert!(round == 0 || cost == (wanted, wanted), "{what}: {cost:?}");
        };
        let created = send(engine, "Account", &key("create"), create(r#"{"owner":"A"}"#)).await.unwrap();
        check("create", 1);
        account = id(&created);
        let verbs = [
            ("patch", patch(&account, 1, r#"{"owner":"B"}"#)),
            ("tombstone", delete(&account, 2)),
            ("restore", Verb::Restore { key: split(&account), expected: at(3) }),
        ];
        for (what, verb) in verbs {
            send(engine, "Account", &key(what), verb).await.unwrap();
            check(what, 1);
        }
        send(engine, "Numbered", &key("numbered"), create(r#"{"owner":"A"}"#)).await.unwrap();
        check("a key of the database's", 1);
        let own = create(&format!(r#"{{"id":{round},"owner":"A"}}"#));
        send(engine, "Plain", &key("own"), own).await.unwrap();
        check("a key of the caller's", 1);
        send(engine, "Plain", &key("delete"), delete(&round.to_string(), 1)).await.unwrap();
        check("delete", 1);
        let again = send(engine, "Plain", &key("delete"), delete(&round.to_string(), 1)).await.unwrap();
        assert!(again.replayed);
        check("a replay", 2);
        send(engine, "Account", &key("stale"), patch(&account, 1, r#"{"owner":"C"}"#)).await.unwrap_err();
        // The write, a look for the record, why nothing was written, and once more a look for the record.
        check("a refusal", 4);
    }
    assert!(!account.is_empty());
}

/// What fifty clients send at once, and how many rows it leaves.
fn storms() -> Vec<(&'static str, &'static str, Verb)> {
    let items = [r#"{"id":7,"owner":"B"}"#, r#"{"id":8,"owner":"B"}"#];
    let items = items.map(|data| BatchItem { verb: create(data) });
    vec![
        ("post", "Account", create(r#"{"owner":"A"}"#)),
        ("post of a document", "Account", create(r#"{"owner":"A","data":{"a":1}}"#)),
        ("post of a numbered row", "Numbered", create(r#"{"owner":"A"}"#)),
        ("post with an id", "Plain", create(r#"{"id":5,"owner":"A"}"#)),
        ("patch", "Plain", patch("1", 1, r#"{"owner":"B"}"#)),
        ("patch of any version", "Plain", patch("2", -1, r#"{"owner":"B"}"#)),
        ("patch that changes nothing", "Plain", patch("4", 1, r#"{"owner":"A"}"#)),
        ("delete", "Plain", delete("3", 1)),
        ("batch", "Plain", Verb::Batch { atomic: true, items: items.to_vec() }),
    ]
}

/// Two engines on one database know nothing of each other's requests.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_fifty_at_once_one_has_an_effect() {
    for base in Base::durable(BANK).await {
        let name = base.name;
        for n in 1..=4 {
            base.create("teller", "Plain", &format!(r#"{{"id":{n},"owner":"A"}}"#)).await.unwrap();
        }
        let database = match (&base.postgres, &base.directory) {
            (Some(postgres), _) => Database::Postgres(postgres.url.clone()),
            (None, Some(directory)) => Database::SqliteFile(directory.path().join("test.db")),
            (None, None) => unreachable!("durable"),
        };
        let other = Engine::open(Arc::clone(base.engine.schema()), &database, Options::default()).await.unwrap();
        let rows = async |model: &str| {
            let list = Verb::List { params: vec![("count".to_owned(), "exact".to_owned())] };
            let Answer::Page { total, .. } = base.run("teller", model, list).await.unwrap() else { panic!("a page") };
            total.unwrap()
        };
        for (what, model, verb) in storms() {
            let before = rows(model).await;
            let mut tasks = Vec::new();
            for n in 0..50 {
                let engine = if n % 2 == 0 { base.engine.clone() } else { other.clone() };
                let (verb, key) = (verb.clone(), keyed(what, 1));
                tasks.push(tokio::spawn(async move { send(&engine, model, &key, verb).await }));
            }
            let (mut answers, mut first) = (BTreeSet::new(), 0);
            for task in tasks {
                let kept = task.await.unwrap().unwrap_or_else(|failure| panic!("{name}, {what}: {failure:?}"));
                first += usize::from(!kept.replayed);
                answers.insert(format!("{:?}", kept.record));
            }
            assert_eq!((first, answers.len()), (1, 1), "{name}, {what}: {answers:?}");
            let effect = match what {
                _ if what.starts_with("post") => 1,
                "batch" => 2,
                "delete" => -1,
                _ => 0,
            };
            let found = i64::try_from(rows(model).await).unwrap() - i64::try_from(before).unwrap();
            assert_eq!(found, effect, "{name}, {what}");
            let reused = send(&other, model, &keyed(what, 2), verb).await.unwrap_err();
            assert_eq!(reused.code, Code::IdempotencyKeyReused, "{name}, {what}");
        }
        let once = base.run("teller", "Plain", Verb::Read { key: split("2"), params: Vec::new() }).await.unwrap();
        let Answer::Row(row) = once else { panic!("a row") };
        assert_eq!(row.version, Some(2), "{name}");
        // The task of a request ends a moment after its answer.
        let nobody_waits = async {
            while base.engine.core.flights.open() > 0 {
                tokio::task::yield_now().await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_mins(1), nobody_waits).await;
        assert!(waited.is_ok(), "{name}: somebody is left waiting");
        other.close().await;
    }
}

#[tokio::test]
async fn who_waits_too_long_is_told() {
    for base in Base::durable(BANK).await {
        let engine = &base.engine;
        base.create("teller", "Plain", r#"{"id":1,"owner":"A"}"#).await.unwrap();
        let mut key = keyed("k", 1);
        key.limits.wait = Duration::from_millis(50);
        // In this process.
        let turn = engine.core.flights.enter(&key.identity, Instant::now()).await.unwrap();
        let late = send(engine, "Plain", &key, patch("1", 1, r#"{"owner":"B"}"#)).await.unwrap_err();
        assert_eq!(late.code, Code::IdempotencyInFlight, "{}", base.name);
        drop(turn);
        // In another one.
        if let Some(postgres) = &base.postgres {
            let mut other = postgres.connect().await;
            let mut tx = other.begin().await.unwrap();
            sqlx::query("SELECT FROM plains WHERE id = 1 FOR UPDATE").execute(&mut *tx).await.unwrap();
            let late = send(engine, "Plain", &key, patch("1", 1, r#"{"owner":"B"}"#)).await.unwrap_err();
            assert_eq!(late.code, Code::IdempotencyInFlight);
            let lock = crate::idempotency::lock(&key.identity);
            sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(lock).execute(&mut *tx).await.unwrap();
            let items = vec![BatchItem { verb: create(r#"{"id":9,"owner":"A"}"#) }];
            let late = send(engine, "Plain", &key, Verb::Batch { atomic: true, items }).await.unwrap_err();
            assert_eq!(late.code, Code::IdempotencyInFlight);
            tx.rollback().await.unwrap();
            let left = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'cratestack' \
                        AND state LIKE 'idle in%' AND datname = current_database()";
            let deadline = Instant::now() + Duration::from_secs(10);
            // A connection that is closed is gone a moment later.
            while sqlx::query_scalar::<_, i64>(left).fetch_one(&mut other).await.unwrap() > 0 {
                assert!(Instant::now() < deadline, "a transaction is left open");
            }
        }
        let done = send(engine, "Plain", &key, patch("1", 1, r#"{"owner":"B"}"#)).await.unwrap();
        assert!(!done.replayed, "{}: nothing was recorded of those", base.name);
    }
}

#[tokio::test]
async fn of_a_large_answer_its_effect_is_kept() {
    for base in Base::all(BANK).await {
        let (engine, name) = (&base.engine, base.name);
        let owner = "x".repeat(5_000_000);
        let data = format!(r#"{{"id":1,"owner":"{owner}"}}"#);
        let first = send(engine, "Plain", &keyed("k", 1), create(&data)).await.unwrap();
        assert!(body(&first).len() > 5_000_000 && !first.replayed, "{name}: the caller gets all of it");
        let again = send(engine, "Plain", &keyed("k", 1), create(&data)).await.unwrap();
        assert!(again.replayed, "{name}");
        assert_eq!((again.record.status, again.record.body.as_deref()), (200, None), "{name}");
        let digest = base64_of(body(&first));
        let headers = [("etag".to_owned(), "1".to_owned()), ("repr-digest".to_owned(), format!("sha-256=:{digest}:"))];
        assert_eq!(again.record.headers, headers, "{name}");
        // The key is never free again.
        let reused = send(engine, "Plain", &keyed("k", 2), create(r#"{"id":2,"owner":"A"}"#)).await.unwrap_err();
        assert_eq!(reused.code, Code::IdempotencyKeyReused, "{name}");
    }
}

fn base64_of(text: &str) -> String {
    use aws_lc_rs::digest;
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(digest::digest(&digest::SHA256, text.as_bytes()))
}

#[tokio::test]
async fn what_was_refused_is_not_recorded() {
    for base in Base::all(BANK).await {
        let (engine, name) = (&base.engine, base.name);
        let key = keyed("k", 1);
        let early = send(engine, "Plain", &key, patch("1", 1, r#"{"owner":"B"}"#)).await.unwrap_err();
        assert_eq!(early.code, Code::NotFound, "{name}");
        base.create("teller", "Plain", r#"{"id":1,"owner":"A"}"#).await.unwrap();
        let done = send(engine, "Plain", &key, patch("1", 1, r#"{"owner":"B"}"#)).await.unwrap();
        assert!(!done.replayed, "{name}");
        // The row is at another version now, and the input might not even be valid any more.
        let again = send(engine, "Plain", &key, patch("1", 1, r#"{"owner":17}"#)).await.unwrap();
        assert!(again.replayed, "{name}: {again:?}");
        let taken = send(engine, "Plain", &keyed("l", 1), create(r#"{"id":1,"owner":"A"}"#)).await.unwrap_err();
        assert_eq!((taken.code, taken.errors.len()), (Code::UniqueViolation, 1), "{name}: as without a key");
    }
}

/// By model and key its body is found when the row is purged.
#[tokio::test]
async fn every_record_says_which_row_it_is_about() {
    for base in Base::all(BANK).await {
        let (engine, name) = (&base.engine, base.name);
        send(engine, "Plain", &keyed("made", 1), create(r#"{"id":1,"owner":"A"}"#)).await.unwrap();
        send(engine, "Plain", &keyed("unchanged", 1), patch("1", 1, r#"{"owner":"A"}"#)).await.unwrap();
        send(engine, "Plain", &keyed("changed", 1), patch("1", 1, r#"{"owner":"B"}"#)).await.unwrap();
        send(engine, "Plain", &keyed("gone", 1), delete("1", 2)).await.unwrap();
        let rows = engine.keys(&KeyFilter::default(), 10).await.unwrap();
        assert_eq!(rows.len(), 4, "{name}");
        for row in rows {
            let about = (row.model.as_deref(), row.primary_key.as_deref());
            assert_eq!(about, (Some("Plain"), Some("1")), "{name} {}", row.key);
        }
    }
}

/// Nor is what a foreign key took along.
#[tokio::test]
async fn what_is_purged_is_in_no_stored_answer() {
    for base in Base::durable(BANK).await {
        let (engine, name) = (&base.engine, base.name);
        let account = id(&send(engine, "Account", &keyed("account", 1), create(r#"{"owner":"A"}"#)).await.unwrap());
        let other = id(&send(engine, "Account", &keyed("other", 1), create(r#"{"owner":"A"}"#)).await.unwrap());
        for (number, account) in [(1, &account), (2, &other)] {
            let card = format!(r#"{{"id":{number},"holder":"Ann","accountId":"{account}"}}"#);
            send(engine, "Card", &keyed(&format!("card {number}"), 1), create(&card)).await.unwrap();
        }
        let card = create(&format!(r#"{{"id":3,"holder":"Ann","accountId":"{account}"}}"#));
        let cards = Verb::Batch { atomic: true, items: vec![BatchItem { verb: card }] };
        send(engine, "Card", &keyed("cards", 1), cards).await.unwrap();
        let model = engine.schema().model_named("Account").unwrap();
        let purge = async || engine.purge(model, "2999-01-01T00:00:00.000000Z", &mut |_| ()).await.unwrap();
        assert_eq!(purge().await.removed, 0, "{name}");
        let bodies = engine.keys(&KeyFilter::default(), 10).await.unwrap();
        assert!(bodies.iter().all(|row| row.record.body.is_some()), "{name}: nothing is gone");
        send(engine, "Account", &keyed("delete", 1), delete(&account, 1)).await.unwrap();
        assert_eq!(purge().await.removed, 1, "{name}");
        let mut kept: Vec<(String, bool)> = engine
            .keys(&KeyFilter::default(), 10)
            .await
            .unwrap()
            .into_iter()
            .map(|row| (row.key, row.record.body.is_some()))
            .collect();
        kept.sort();
        let cards = [("card 1", false), ("card 2", true), ("cards", false)];
        let wanted = [&[("account", false)][..], &cards, &[("delete", false), ("other", true)]].concat();
        let wanted: Vec<_> = wanted.into_iter().map(|(key, body)| (key.to_owned(), body)).collect();
        assert_eq!(kept, wanted, "{name}");
    }
}

#[tokio::test]
async fn expired_keys_go() {
    for base in Base::durable(BANK).await {
        let engine = &base.engine;
        for (key, hours) in [("old", 1), ("new", 48)] {
            let mut key = keyed(key, 1);
            key.limits.retention = Duration::from_hours(hours);
            send(engine, "Numbered", &key, create(r#"{"owner":"A"}"#)).await.unwrap();
        }
        assert_eq!(engine.sweep_keys().await.unwrap(), 0, "{}", base.name);
        let sources = Arc::new(Fixed::at(1_769_853_600_000_000 + 2 * 3_600_000_000));
        let later = Options { clock: sources.clone(), ids: sources, ..Options::default() };
        let database = match (&base.postgres, &base.directory) {
            (Some(postgres), _) => Database::Postgres(postgres.url.clone()),
            (None, Some(directory)) => Database::SqliteFile(directory.path().join("test.db")),
            (None, None) => unreachable!("durable"),
        };
        let later = Engine::open(Arc::clone(engine.schema()), &database, later).await.unwrap();
        assert_eq!(later.sweep_keys().await.unwrap(), 1, "{}", base.name);
        assert!(send(&later, "Numbered", &keyed("new", 1), create(r#"{"owner":"A"}"#)).await.unwrap().replayed);
        assert!(!send(&later, "Numbered", &keyed("old", 1), create(r#"{"owner":"A"}"#)).await.unwrap().replayed);
        later.close().await;
    }
}

#[tokio::test]
async fn the_key_is_in_the_trail() {
    for base in Base::durable(BANK).await {
        let mut who = caller(&base.engine, "teller");
        who.origin.idempotency_key = Some("k \"1\"".to_owned());
        let model = base.engine.schema().model_named("Plain").unwrap();
        let operation = Operation { model, verb: create(r#"{"id":1,"owner":"A"}"#) };
        base.engine.run_keyed(&who, operation, &keyed("k \"1\"", 1)).await.unwrap();
        let sql = "SELECT entry FROM cratestack_audit";
        let entry: String = if let Some(postgres) = &base.postgres {
            sqlx::query_scalar(sql).fetch_one(&mut postgres.connect().await).await.unwrap()
        } else {
            let file = base.directory.as_ref().unwrap().path().join("test.db");
            rusqlite::Connection::open(file).unwrap().query_row(sql, [], |row| row.get(0)).unwrap()
        };
        let entry: serde_json::Value = serde_json::from_str(&entry).unwrap();
        assert_eq!(entry["idempotency_key"], "k \"1\"", "{}", base.name);
    }
}
