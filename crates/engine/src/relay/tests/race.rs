//! Many writers, relays that race, connections that are lost: nothing may be skipped, and no key may get out of order.

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Executor as _, Row as _};

use super::*;
use crate::sources::{RandomIds, SystemClock};

const WRITERS: u64 = 8;
const TRANSACTIONS: u64 = 50;
const KEYS: u64 = 60;

/// What a writer does next, the same each time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

async fn run(connection: &mut PgConnection, sql: &str) {
    connection.execute(AssertSqlSafe(sql)).await.unwrap();
}

/// Changes the key's row, and logs it as triggers do: under the row's lock. The entries of what is committed count
/// from 1 without gaps, in the order of commits.
async fn change(connection: &mut PgConnection, key: u64) {
    let sql = format!(
        "WITH c AS (UPDATE counters SET n = n + 1 WHERE key = 'k{key}' RETURNING key, n) \
         INSERT INTO cratestack_audit (occurred_at, model, primary_key, out_of_band, entry) \
         SELECT clock_timestamp(), 'Note', key, false, n::text FROM c"
    );
    run(connection, &sql).await;
}

async fn writer(mut connection: PgConnection, seed: u64, kills: bool) {
    let mut dice = Dice(seed);
    for n in 0..TRANSACTIONS {
        // In this order, so that writers never wait for each other in a circle.
        let first = dice.roll(KEYS / 2);
        let second = KEYS / 2 + dice.roll(KEYS / 2);
        run(&mut connection, "BEGIN").await;
        change(&mut connection, first).await;
        if dice.roll(4) == 0 {
            run(&mut connection, "SAVEPOINT s").await;
            change(&mut connection, second).await;
            if dice.roll(2) == 0 {
                run(&mut connection, "ROLLBACK TO SAVEPOINT s").await;
            }
            run(&mut connection, "RELEASE SAVEPOINT s").await;
            change(&mut connection, second).await;
        }
        if dice.roll(14) == 0 {
            run(&mut connection, "SELECT pg_sleep(0.5)").await;
        }
        run(&mut connection, if dice.roll(6) == 0 { "ROLLBACK" } else { "COMMIT" }).await;
        if kills && n % 10 == 9 {
            let leaders = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted \
                           AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
            run(&mut connection, leaders).await;
        }
    }
}

/// Takes what its number says is new, as one would without thinking of open transactions.
async fn naive(connection: &mut PgConnection, last: &mut i64, seen: &mut Vec<i64>) {
    let rows = sqlx::query("SELECT seq FROM cratestack_audit WHERE seq > $1 ORDER BY seq").bind(*last);
    for row in rows.fetch_all(connection).await.unwrap() {
        *last = row.get(0);
        seen.push(*last);
    }
}

/// One transaction that writes first and commits after the next one was taken.
async fn overtaken(database: &PgDatabase, last: &mut i64, seen: &mut Vec<i64>) {
    let (mut slow, mut fast) = (database.connect().await, database.connect().await);
    run(&mut slow, "BEGIN").await;
    change(&mut slow, 0).await;
    change(&mut fast, 1).await;
    naive(&mut fast, last, seen).await;
    run(&mut slow, "COMMIT").await;
}

async fn race(kills: bool, unlocked: bool) {
    let Some(base) = Base::new(Dialect::Postgres).await else { return };
    let database = base.postgres.as_ref().unwrap();
    base.sql(&format!("INSERT INTO counters SELECT 'k' || n, 0 FROM generate_series(0, {KEYS} - 1) AS n")).await;
    let options = Options { clock: Arc::new(SystemClock), ids: Arc::new(RandomIds::default()), ..Options::default() };
    let engine = Engine::open(schema(), &Database::Postgres(database.url.clone()), options).await.unwrap();
    let sink = Recorder::new(|_| Ok(()));
    let options = RelayOptions {
        batch: 20,
        poll: Duration::from_millis(5),
        first_pause: Duration::from_millis(5),
        longest_pause: Duration::from_millis(50),
        ..RelayOptions::default()
    };
    let hooks = Hooks { unlocked, ..Hooks::default() };
    let start = || Relay::start_with(&engine, &AUDIT, sink.clone().into(), &options, &hooks).unwrap();
    let _relays = (start(), start());

    let (mut follower, mut last, mut seen) = (database.connect().await, 0, Vec::new());
    overtaken(database, &mut last, &mut seen).await;
    let mut writers = tokio::task::JoinSet::new();
    for seed in 0..WRITERS {
        writers.spawn(writer(database.connect().await, seed, kills && seed == 0));
    }
    while !writers.is_empty() {
        naive(&mut follower, &mut last, &mut seen).await;
        while let Some(written) = writers.try_join_next() {
            written.unwrap();
        }
        tokio::task::yield_now().await;
    }
    naive(&mut follower, &mut last, &mut seen).await;

    let committed = usize::try_from(base.int("SELECT count(*) FROM cratestack_audit").await).unwrap();
    let delivered = || sink.by_key().values().map(Vec::len).sum::<usize>();
    let all = async {
        while delivered() < committed {
            sink.grown.notified().await;
        }
    };
    let done = tokio::time::timeout(PATIENCE, all).await;
    assert!(done.is_ok(), "{} of {committed} were delivered", delivered());
    for (key, entries) in sink.by_key() {
        let counted: Vec<String> = (1..=entries.len()).map(|n| n.to_string()).collect();
        assert_eq!(entries, counted, "{key}");
    }
    let counters = base.int("SELECT sum(n)::bigint FROM counters").await;
    assert_eq!(usize::try_from(counters).unwrap(), committed);
    // Twice only where a connection was lost, or where two had the lock.
    if !kills && !unlocked {
        assert_eq!(sink.taken.lock().unwrap().len(), committed);
    }
    assert_eq!(base.status().await.skipped, Some(0));
    assert!(seen.len() < committed, "taking by number must lose rows: {} of {committed}", seen.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_relays_with_a_lock() {
    race(false, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_relays_whose_connections_are_killed() {
    race(true, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_relays_without_a_lock() {
    race(false, true).await;
}
