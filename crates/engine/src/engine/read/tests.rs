//! Reads of single rows that come at the same time.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use proptest::prelude::*;
use sqlx::Executor as _;

use crate::api::{Answer, Authority, Caller, Code, Failure, Operation, Origin, Verb};
use crate::engine::tests::{Base, caller, compile, json};
use crate::engine::{Database, Engine, Options};
use crate::store::postgres::PoolOptions;
use crate::testing::pending;

/// A rule with a value of each kind, most of which may be null.
const KINDS: &str = r#"
enum Level { low high }

auth Principal {
  id     String @id
  number Int?
  wide   BigInt?
  exact  Decimal(20, 5)?
  float  Float?
  truth  Boolean?
  day    Date?
  moment DateTime?
  uuid   Uuid?
  level  Level?
  names  String[]
}

model Thing {
  a      Int
  b      String
  number Int?
  wide   BigInt?
  exact  Decimal(20, 5)?
  float  Float?
  truth  Boolean?
  day    Date?
  moment DateTime?
  uuid   Uuid?
  level  Level?
  text   String?
  octets Bytes?
  json   Json?
  version Int @version
  @@id([a, b])
  @@allow("create", true)
  @@allow("read", number == auth().number || wide == auth().wide || exact == auth().exact || float == auth().float)
  @@allow("read", truth == auth().truth || day == auth().day || moment == auth().moment)
  @@allow("read", uuid == auth().uuid || level == auth().level)
  @@allow("read", text == "all" || text == auth().id)
}

model Product {
  id   Int @id
  n    Int
  day  Date?
  @@allow("create", true)
  @@allow("read", true)
}

model Tag {
  id   Int @id
  name String
  @@allow("create", true)
  @@allow("read", name in auth().names)
}
"#;

const THINGS: [&str; 10] = [
    r#"{"a":1,"b":"x","number":1,"text":"one"}"#,
    r#"{"a":1,"b":"y","wide":"9007199254740993","octets":"AAEC"}"#,
    r#"{"a":2,"b":"x","exact":"12345678901234.56789","json":{"a":[1,"\\"]}}"#,
    r#"{"a":2,"b":"y","float":0.5}"#,
    r#"{"a":3,"b":"","truth":true}"#,
    r#"{"a":3,"b":"{\"'\\,NULL}","day":"2026-02-28"}"#,
    r#"{"a":4,"b":"x","moment":"2026-02-28T12:00:00.000001Z"}"#,
    r#"{"a":4,"b":"NULL","uuid":"00000000-0000-7000-8000-00000000000a"}"#,
    r#"{"a":5,"b":"\u00e4","level":"high","text":"bob"}"#,
    r#"{"a":6,"b":"x","text":"all"}"#,
];

const CLAIMS: [&str; 11] = [
    r#"{"id":"ann","number":1,"names":["x"]}"#,
    r#"{"id":"bob","wide":"9007199254740993","names":[]}"#,
    r#"{"id":"{\"'\\,NULL}","exact":"12345678901234.56789","names":["x","y"]}"#,
    r#"{"id":"NULL","float":0.5,"names":[]}"#,
    r#"{"id":"","truth":true,"names":[]}"#,
    r#"{"id":"cid","day":"2026-02-28","names":[]}"#,
    r#"{"id":"dan","moment":"2026-02-28T12:00:00.000001Z","names":[]}"#,
    r#"{"id":"eve","uuid":"00000000-0000-7000-8000-00000000000a","names":[]}"#,
    r#"{"id":"fay","level":"high","names":[]}"#,
    r#"{"id":"gus","number":2,"truth":false,"level":"low","names":[]}"#,
    r#"{"id":"hal","wide":"9007199254740992","names":[]}"#,
];

const KEYS: [&[&str]; 13] = [
    &["1", "x"],
    &["1", "y"],
    &["2", "x"],
    &["2", "y"],
    &["3", ""],
    &["3", "{\"'\\,NULL}"],
    &["4", "x"],
    &["4", "NULL"],
    &["5", "\u{e4}"],
    &["6", "x"],
    &["6", "y"],
    &["9223372036854775807", "\u{10ffff}"],
    &["-9223372036854775808", "x"],
];

/// Who asks for what.
#[derive(Debug, Clone)]
struct Wanted {
    model: &'static str,
    claims: Option<usize>,
    service: bool,
    key: Vec<String>,
}

fn wanted() -> impl Strategy<Value = Wanted> {
    let thing = proptest::sample::select(&KEYS[..])
        .prop_map(|key| ("Thing", key.iter().map(|part| (*part).to_owned()).collect()));
    let small = |model| (0..6_i32).prop_map(move |id| (model, vec![id.to_string()]));
    let what = prop_oneof![6 => thing, 1 => small("Product"), 2 => small("Tag")];
    let who = (proptest::option::weighted(0.9, 0..CLAIMS.len()), proptest::bool::weighted(0.1));
    (what, who).prop_map(|((model, key), (claims, service))| Wanted { model, claims, service, key })
}

async fn ask(engine: &Engine, wanted: &Wanted) -> Result<Answer, Failure> {
    let caller = Caller {
        principal: wanted.claims.map(|at| engine.principal(&json(CLAIMS[at])).unwrap()),
        authority: if wanted.service { Authority::Service } else { Authority::Rules },
        request_id: "r".to_owned(),
        deadline: Duration::from_secs(20),
        origin: Origin::default(),
    };
    let model = engine.schema().model_named(wanted.model).unwrap();
    engine.run(&caller, Operation { model, verb: Verb::Read { key: wanted.key.clone(), params: Vec::new() } }).await
}

async fn filled() -> Option<Base> {
    let base = Base::postgres(KINDS).await?;
    for thing in THINGS {
        base.create("", "Thing", thing).await.unwrap();
    }
    for id in 0..5 {
        base.create("", "Product", &format!(r#"{{"id":{id},"n":{id}}}"#)).await.unwrap();
        base.create("", "Tag", &format!(r#"{{"id":{id},"name":"{}"}}"#, ["x", "y"][id % 2])).await.unwrap();
    }
    // For one of them the statement fails, and another is no row of the schema.
    let view = "ALTER TABLE products RENAME TO stored; \
                CREATE VIEW products AS SELECT id, n / (id - 3) AS n, CASE id WHEN 4 THEN date 'infinity' END AS day FROM stored";
    base.postgres.as_ref().unwrap().connect().await.execute(view).await.unwrap();
    Some(base)
}

/// The answers are those that each has alone: for every kind of value, rows that are hidden, are not there, or cannot be read.
#[test]
fn what_many_read_together_is_what_each_reads_alone() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let Some(base) = runtime.block_on(filled()) else { return };
    let strategy = proptest::collection::vec(wanted(), 1..80);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        failure_persistence: None,
        cases: 64,
        ..ProptestConfig::default()
    });
    let mut seen = std::collections::BTreeMap::<String, usize>::new();
    let seen_here = std::cell::RefCell::new(&mut seen);
    let outcome = runner.run(&strategy, |all| {
        runtime.block_on(async {
            let together = join_all(all.iter().map(|wanted| ask(&base.engine, wanted))).await;
            for (wanted, together) in all.iter().zip(together) {
                let alone = ask(&base.engine, wanted).await;
                prop_assert_eq!(format!("{:?}", alone), format!("{:?}", together), "{:?}", wanted);
                let kind = match &alone {
                    Ok(_) => "Read".to_owned(),
                    Err(failure) => format!("{:?}", failure.code),
                };
                *seen_here.borrow_mut().entry(kind).or_default() += 1;
            }
            Ok(())
        })
    });
    outcome.unwrap();
    for kind in ["Read", "NotFound"] {
        assert!(seen.get(kind).is_some_and(|count| *count > 50), "{seen:?}");
    }
    assert!(seen.len() > 2, "rows that cannot be read: {seen:?}");
}

#[tokio::test]
async fn reads_that_come_together_are_one_statement() {
    let Some(mut base) = filled().await else { return };
    // With one connection that is there: while new ones are made, each waits for its own.
    let pool = PoolOptions { connections: 1, ..PoolOptions::default() };
    let database = Database::Postgres(base.postgres.as_ref().unwrap().url.clone());
    base.engine = Engine::open(compile(KINDS), &database, Options { pool, ..Options::default() }).await.unwrap();
    let wanted = |count: usize| -> Vec<Wanted> {
        // Not the last keys, which no row can have. Callers with the same claims, of other values: those that a claim is missing to are told apart by the rules.
        let all = KEYS[..11].iter().cycle().zip([1, 10].into_iter().cycle()).take(count);
        let wanted = |(key, claims): (&&[&str], usize)| Wanted {
            model: "Thing",
            claims: Some(claims),
            service: false,
            key: key.iter().map(|part| (*part).to_owned()).collect(),
        };
        all.map(wanted).collect()
    };
    for (requests, statements) in [(1, 1), (2, 1), (32, 1), (33, 2), (100, 4)] {
        let wanted = wanted(requests);
        let before = base.engine.statistics().statements();
        join_all(wanted.iter().map(|wanted| ask(&base.engine, wanted))).await;
        assert_eq!(base.engine.statistics().statements() - before, statements, "{requests} requests");
    }
    // What one of them says to whom it belongs is nobody's business: a list of names goes alone.
    let tags: Vec<Wanted> =
        (0..4).map(|id| Wanted { model: "Tag", claims: Some(2), service: false, key: vec![format!("{id}")] }).collect();
    let before = base.engine.statistics().statements();
    join_all(tags.iter().map(|wanted| ask(&base.engine, wanted))).await;
    assert_eq!(base.engine.statistics().statements() - before, 4);
}

/// One makes the common statement fail, and the next, asked for by itself, loses the connection.
#[tokio::test]
async fn who_loses_the_connection_loses_it_alone() {
    let Some(mut base) = filled().await else { return };
    let database = base.postgres.as_ref().unwrap();
    let view = "DROP VIEW products; CREATE VIEW products AS SELECT id, \
                CASE id WHEN 0 THEN pg_terminate_backend(pg_backend_pid())::int ELSE n / (id - 3) END AS n, NULL::date AS day FROM stored";
    database.connect().await.execute(view).await.unwrap();
    let pool = PoolOptions { connections: 1, ..PoolOptions::default() };
    let database = Database::Postgres(database.url.clone());
    base.engine = Engine::open(compile(KINDS), &database, Options { pool, ..Options::default() }).await.unwrap();
    let product = |id: u32| Wanted { model: "Product", claims: None, service: false, key: vec![id.to_string()] };
    // The first one leads, and is the last of the statement.
    let wanted = [4, 3, 0, 1, 2].map(product);
    let outcomes = join_all(wanted.iter().map(|wanted| ask(&base.engine, wanted))).await;
    let outcomes: Vec<_> = outcomes.into_iter().map(|outcome| outcome.map(|_| ()).map_err(|f| f.code)).collect();
    let (broken, lost) = (Err(Code::Internal), Err(Code::Unavailable));
    assert_eq!(outcomes, [Ok(()), broken, lost, Ok(()), Ok(())]);
}

const NOTES: &str = r#"
auth Principal { id String @id }
model Note {
  id   Int @id
  text String
  @@allow("all", true)
}"#;

/// Notes on a pool of so many connections, for which so many may wait, and a connection that can lock them.
async fn notes(connections: usize, waiting: usize) -> Option<(Base, sqlx::PgConnection)> {
    let mut base = Base::postgres(NOTES).await?;
    for id in 0..4 {
        base.create("", "Note", &format!(r#"{{"id":{id},"text":"{id}"}}"#)).await.unwrap();
    }
    let database = base.postgres.as_ref().unwrap();
    let beside = database.connect().await;
    let options =
        Options { pool: PoolOptions { connections, waiting, ..PoolOptions::default() }, ..Options::default() };
    base.engine = Engine::open(compile(NOTES), &Database::Postgres(database.url.clone()), options).await.unwrap();
    Some((base, beside))
}

async fn note(base: &Base, id: i32, deadline: Duration) -> Result<Answer, Failure> {
    let model = base.engine.schema().model_named("Note").unwrap();
    let caller = Caller { deadline, ..caller(&base.engine, "") };
    base.engine
        .run(&caller, Operation { model, verb: Verb::Read { key: vec![id.to_string()], params: Vec::new() } })
        .await
}

fn text(answer: Result<Answer, Failure>) -> String {
    match answer.unwrap() {
        Answer::Row(row) => row.body.unwrap(),
        other => panic!("{other:?}"),
    }
}

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(50);
const LOCK: &str = "BEGIN; LOCK TABLE notes";
/// How many of the engine's statements wait for the lock.
const BLOCKED: &str = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'cratestack' AND wait_event_type = 'Lock' AND datname = current_database()";

async fn blocked(beside: &mut sqlx::PgConnection, count: i64) {
    while sqlx::query_scalar::<_, i64>(BLOCKED).fetch_one(&mut *beside).await.unwrap() != count {
        tokio::task::yield_now().await;
    }
}

/// Polls a read twice: it lets others go first, and then asks for a connection.
async fn begun<F: Future>(read: &mut std::pin::Pin<Box<F>>) {
    for _ in 0..2 {
        assert!(pending(read.as_mut()).await);
    }
}

#[tokio::test]
async fn each_has_a_deadline_of_its_own() {
    let Some((base, mut beside)) = notes(2, 9).await else { return };
    note(&base, 0, LONG).await.unwrap();
    beside.execute(LOCK).await.unwrap();
    let mut patient = Box::pin(note(&base, 1, LONG));
    assert!(pending(patient.as_mut()).await);
    // It shares the statement, and gives up first.
    let late = tokio::select! {
        biased;
        late = note(&base, 2, SHORT) => late.unwrap_err(),
        early = &mut patient => panic!("{early:?}"),
    };
    assert!(format!("{late:?}").contains("in the middle of a statement"), "{late:?}");
    beside.execute("COMMIT").await.unwrap();
    assert_eq!(text(patient.await), r#"{"id":1,"text":"1"}"#);
    assert_eq!(base.engine.statistics().statements(), 2);
}

#[tokio::test]
async fn what_nobody_waits_for_is_given_up() {
    let Some((base, mut beside)) = notes(1, 9).await else { return };
    beside.execute(LOCK).await.unwrap();
    let mut one = Box::pin(note(&base, 1, LONG));
    let mut two = Box::pin(note(&base, 2, LONG));
    for _ in 0..2 {
        assert!(pending(one.as_mut()).await);
        assert!(pending(two.as_mut()).await);
    }
    blocked(&mut beside, 1).await;
    drop(one);
    // The other one still waits.
    tokio::task::yield_now().await;
    assert!(pending(two.as_mut()).await);
    blocked(&mut beside, 1).await;
    drop(two);
    blocked(&mut beside, 0).await;
    beside.execute("COMMIT").await.unwrap();
    assert_eq!(text(note(&base, 3, LONG).await), r#"{"id":3,"text":"3"}"#);
}

#[tokio::test]
async fn those_who_find_no_connection_wait_as_others_do_and_go_together() {
    let Some((base, mut beside)) = notes(1, 3).await else { return };
    let before = base.engine.statistics().statements();
    beside.execute(LOCK).await.unwrap();
    let mut first = Box::pin(note(&base, 0, LONG));
    begun(&mut first).await;
    blocked(&mut beside, 1).await;
    let mut rest: Vec<_> = (1..4).map(|id| Box::pin(note(&base, id, LONG))).collect();
    for one in &mut rest {
        begun(one).await;
    }
    let refused = note(&base, 1, LONG).await.unwrap_err();
    assert_eq!(refused.code, Code::Unavailable, "{refused:?}");
    assert!(format!("{refused:?}").contains("too many operations wait"), "{refused:?}");
    // Whoever goes makes room, for whatever comes.
    drop(rest.pop());
    let late = note(&base, 1, SHORT).await.unwrap_err();
    assert!(format!("{late:?}").contains("no connection was free before the deadline"), "{late:?}");
    let mut list = Box::pin(base.run("", "Note", Verb::List { params: Vec::new() }));
    assert!(pending(list.as_mut()).await);
    beside.execute("COMMIT").await.unwrap();
    assert_eq!(text(first.await), r#"{"id":0,"text":"0"}"#);
    let texts: Vec<String> = join_all(rest).await.into_iter().map(text).collect();
    assert_eq!(texts, [r#"{"id":1,"text":"1"}"#, r#"{"id":2,"text":"2"}"#]);
    list.await.unwrap();
    assert_eq!(base.engine.statistics().statements() - before, 3);
}

/// However many there are, what comes later is not served before them.
#[tokio::test]
async fn nobody_waits_for_longer_than_alone() {
    let Some((base, mut beside)) = notes(1, 1000).await else { return };
    let before = base.engine.statistics().statements();
    beside.execute(LOCK).await.unwrap();
    let mut first = Box::pin(note(&base, 0, LONG));
    begun(&mut first).await;
    blocked(&mut beside, 1).await;
    let done = std::cell::RefCell::new(Vec::new());
    let reads: Vec<_> = (0..100)
        .map(|_| async {
            note(&base, 1, LONG).await.unwrap();
            done.borrow_mut().push("read");
        })
        .collect();
    let mut reads = Box::pin(join_all(reads));
    // They let each other go first, and are then in the queue.
    for _ in 0..300 {
        assert!(pending(reads.as_mut()).await);
    }
    let list = async {
        base.run("", "Note", Verb::List { params: Vec::new() }).await.unwrap();
        done.borrow_mut().push("list");
    };
    beside.execute("COMMIT").await.unwrap();
    tokio::join!(first, reads, list).0.unwrap();
    assert_eq!(done.borrow().iter().position(|what| *what == "list"), Some(100));
    assert_eq!(base.engine.statistics().statements() - before, 6, "the first, four for a hundred, and the list");
}

/// A connection that does not come to be is the trouble of whom it was for.
#[tokio::test]
async fn who_waits_for_a_new_connection_keeps_nobody_waiting() {
    let Some((mut base, mut beside)) = notes(1, 9).await else { return };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let url = base.postgres.as_ref().unwrap().url.clone();
    let server: sqlx::postgres::PgConnectOptions = url.parse().unwrap();
    let (host, behind) = (server.get_host().to_owned(), server.get_port());
    let deaf = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let heard = Arc::clone(&deaf);
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((mut client, _)) = listener.accept().await {
            if heard.load(std::sync::atomic::Ordering::SeqCst) {
                held.push(client);
                continue;
            }
            let mut server = tokio::net::TcpStream::connect((host.as_str(), behind)).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut server).await });
        }
    });
    let url = url.replacen(&format!("{}:{behind}", server.get_host()), &format!("127.0.0.1:{port}"), 1);
    let options = Options { pool: PoolOptions { connections: 3, ..PoolOptions::default() }, ..Options::default() };
    base.engine = Engine::open(compile(NOTES), &Database::Postgres(url), options).await.unwrap();
    note(&base, 0, LONG).await.unwrap();
    deaf.store(true, std::sync::atomic::Ordering::SeqCst);
    beside.execute(LOCK).await.unwrap();
    let mut has_the_connection = Box::pin(note(&base, 1, LONG));
    begun(&mut has_the_connection).await;
    blocked(&mut beside, 1).await;
    let mut makes_another = Box::pin(note(&base, 2, LONG));
    begun(&mut makes_another).await;
    beside.execute("COMMIT").await.unwrap();
    has_the_connection.await.unwrap();
    let (one, two) = tokio::join!(note(&base, 3, LONG), note(&base, 0, LONG));
    assert_eq!((text(one).as_str(), text(two).as_str()), (r#"{"id":3,"text":"3"}"#, r#"{"id":0,"text":"0"}"#));
    assert!(pending(makes_another.as_mut()).await);
}

#[tokio::test]
async fn one_that_fails_alone_is_not_run_again() {
    let Some((mut base, mut beside)) = notes(1, 9).await else { return };
    let pool = PoolOptions { statement_timeout: SHORT, ..PoolOptions::default() };
    let database = Database::Postgres(base.postgres.as_ref().unwrap().url.clone());
    base.engine = Engine::open(compile(NOTES), &database, Options { pool, ..Options::default() }).await.unwrap();
    beside.execute(LOCK).await.unwrap();
    let failed = note(&base, 1, LONG).await.unwrap_err();
    assert_eq!(failed.code, Code::Unavailable, "{failed:?}");
    assert_eq!(base.engine.statistics().statements(), 1);
}

#[tokio::test]
async fn they_survive_lost_connections_and_changed_tables() {
    let Some((base, mut beside)) = notes(4, 9).await else { return };
    let both = async || {
        let (one, two) = tokio::join!(note(&base, 1, LONG), note(&base, 2, LONG));
        assert_eq!((text(one).as_str(), text(two).as_str()), (r#"{"id":1,"text":"1"}"#, r#"{"id":2,"text":"2"}"#));
    };
    both().await;
    let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'cratestack' AND \
                datname = current_database()";
    beside.execute(kill).await.unwrap();
    both().await;
    both().await;
    beside.execute("ALTER TABLE notes ALTER text TYPE varchar(99)").await.unwrap();
    both().await;
}

/// A runtime that ends takes the tasks of its own along; nobody waits for them, and their connections can be made anew.
#[test]
fn who_leads_and_ends_leaves_nobody_behind() {
    let other = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let own = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let Some((base, mut beside)) = own.block_on(notes(1, 9)) else { return };
    own.block_on(beside.execute(LOCK)).unwrap();
    let mut one = Box::pin(note(&base, 1, LONG));
    let mut two = Box::pin(note(&base, 2, LONG));
    other.block_on(async {
        let mut watch = base.postgres.as_ref().unwrap().connect().await;
        // Until they have a connection, and a task runs their statement on it.
        while sqlx::query_scalar::<_, i64>(BLOCKED).fetch_one(&mut watch).await.unwrap() == 0 {
            assert!(pending(one.as_mut()).await);
            assert!(pending(two.as_mut()).await);
            tokio::task::yield_now().await;
        }
    });
    drop(other);
    own.block_on(async {
        beside.execute("COMMIT").await.unwrap();
        let (one, two) = tokio::join!(one, two);
        assert_eq!((text(one).as_str(), text(two).as_str()), (r#"{"id":1,"text":"1"}"#, r#"{"id":2,"text":"2"}"#));
        // It waits for all permits of the pool.
        base.engine.close().await;
    });
}

/// Who is taken along when its own turn comes to nothing is told what became of its row.
#[tokio::test]
async fn who_was_taken_along_is_late_and_not_without_a_connection() {
    let Some((base, mut beside)) = notes(1, 9).await else { return };
    note(&base, 0, LONG).await.unwrap();
    beside.execute(LOCK).await.unwrap();
    let mut first = Box::pin(note(&base, 0, LONG));
    begun(&mut first).await;
    blocked(&mut beside, 1).await;
    // Both wait for the connection; when it is free, the lock is there again.
    let mut patient = Box::pin(note(&base, 1, LONG));
    let mut late = Box::pin(note(&base, 2, Duration::from_secs(1)));
    begun(&mut patient).await;
    begun(&mut late).await;
    beside.execute("COMMIT; BEGIN; LOCK TABLE notes").await.unwrap();
    let late = tokio::select! {
        biased;
        late = &mut late => late.unwrap_err(),
        first = async { first.await.unwrap(); (&mut patient).await } => panic!("{first:?}"),
    };
    assert!(format!("{late:?}").contains("in the middle of a statement"), "{late:?}");
    beside.execute("COMMIT").await.unwrap();
    assert_eq!(text(patient.await), r#"{"id":1,"text":"1"}"#);
}
