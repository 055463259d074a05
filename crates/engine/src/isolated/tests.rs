//! The anomalies of the literature: each history does harm at a lower level, and none at the right one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sqlx::Row as _;
use sqlx::postgres::PgPoolOptions;
use tokio::sync::Barrier;

use super::*;
use crate::testing::PgDatabase;

struct Base {
    pool: PgPool,
    _database: PgDatabase,
}

async fn base(tables: &'static str) -> Option<Base> {
    let database = PgDatabase::new().await?;
    let pool = PgPoolOptions::new().max_connections(40).connect(&database.url).await.unwrap();
    sqlx::raw_sql(tables).execute(&pool).await.unwrap();
    Some(Base { pool, _database: database })
}

async fn int(connection: &mut PgConnection, sql: &'static str) -> Result<i64, sqlx::Error> {
    sqlx::query(sql).fetch_one(connection).await?.try_get(0)
}

/// Waits for the others on the first try alone: on the next one they may be done.
async fn meet(barrier: &Barrier, tries: &AtomicUsize) {
    if tries.fetch_add(1, Ordering::SeqCst) == 0 {
        barrier.wait().await;
    }
}

const DOCTORS: &str = "CREATE TABLE doctors (name text PRIMARY KEY, on_call boolean NOT NULL); \
                       INSERT INTO doctors VALUES ('ann', true), ('bob', true)";

/// Write skew: each doctor may go if another one stays. How many stay when both ask at the same time.
async fn doctors_left(level: IsolationLevel) -> Option<i64> {
    let base = base(DOCTORS).await?;
    let barrier = Arc::new(Barrier::new(2));
    let go = |name: &'static str| {
        let (pool, barrier) = (base.pool.clone(), Arc::clone(&barrier));
        let tries = Arc::new(AtomicUsize::new(0));
        async move {
            let body = async move |tx: &mut PgTx<'_>| {
                let others = int(tx.sqlx(), "SELECT count(*) FROM doctors WHERE on_call").await?;
                meet(&barrier, &tries).await;
                if others > 1 {
                    sqlx::query("UPDATE doctors SET on_call = false WHERE name = $1")
                        .bind(name)
                        .execute(tx.sqlx())
                        .await?;
                }
                Ok::<_, sqlx::Error>(())
            };
            run_in_isolated_tx(&pool, level, body).await.unwrap();
        }
    };
    tokio::join!(go("ann"), go("bob"));
    Some(int(&mut base.pool.acquire().await.unwrap(), "SELECT count(*) FROM doctors WHERE on_call").await.unwrap())
}

#[tokio::test]
async fn write_skew() {
    for (level, left) in
        [(IsolationLevel::ReadCommitted, 0), (IsolationLevel::RepeatableRead, 0), (IsolationLevel::Serializable, 1)]
    {
        assert_eq!(doctors_left(level).await.unwrap_or(left), left, "{level:?}");
    }
}

/// Lost update: two who read a balance, and write it back with ten more.
async fn balance_after_two(level: IsolationLevel) -> Option<i64> {
    let base =
        base("CREATE TABLE accounts (id int PRIMARY KEY, balance bigint); INSERT INTO accounts VALUES (1, 0)").await?;
    let barrier = Arc::new(Barrier::new(2));
    let add = || {
        let (pool, barrier, tries) = (base.pool.clone(), Arc::clone(&barrier), Arc::new(AtomicUsize::new(0)));
        async move {
            let body = async move |tx: &mut PgTx<'_>| {
                let balance = int(tx.sqlx(), "SELECT balance FROM accounts WHERE id = 1").await?;
                meet(&barrier, &tries).await;
                sqlx::query("UPDATE accounts SET balance = $1 WHERE id = 1").bind(balance + 10).execute(tx.sqlx()).await
            };
            run_in_isolated_tx(&pool, level, body).await.unwrap();
        }
    };
    tokio::join!(add(), add());
    Some(int(&mut base.pool.acquire().await.unwrap(), "SELECT balance FROM accounts").await.unwrap())
}

#[tokio::test]
async fn lost_update() {
    for (level, balance) in
        [(IsolationLevel::ReadCommitted, 10), (IsolationLevel::RepeatableRead, 20), (IsolationLevel::Serializable, 20)]
    {
        assert_eq!(balance_after_two(level).await.unwrap_or(balance), balance, "{level:?}");
    }
}

/// Phantom: two who count the bookings of a room, and book it if there is none.
async fn bookings(level: IsolationLevel) -> Option<i64> {
    let base = base("CREATE TABLE bookings (id bigint GENERATED ALWAYS AS IDENTITY, room int)").await?;
    let barrier = Arc::new(Barrier::new(2));
    let book = || {
        let (pool, barrier, tries) = (base.pool.clone(), Arc::clone(&barrier), Arc::new(AtomicUsize::new(0)));
        async move {
            let body = async move |tx: &mut PgTx<'_>| {
                let taken = int(tx.sqlx(), "SELECT count(*) FROM bookings WHERE room = 7").await?;
                meet(&barrier, &tries).await;
                if taken == 0 {
                    tx.sqlx().execute("INSERT INTO bookings (room) VALUES (7)").await?;
                }
                Ok::<_, sqlx::Error>(())
            };
            run_in_isolated_tx(&pool, level, body).await.unwrap();
        }
    };
    tokio::join!(book(), book());
    Some(int(&mut base.pool.acquire().await.unwrap(), "SELECT count(*) FROM bookings").await.unwrap())
}

#[tokio::test]
async fn phantom() {
    for (level, count) in
        [(IsolationLevel::ReadCommitted, 2), (IsolationLevel::RepeatableRead, 2), (IsolationLevel::Serializable, 1)]
    {
        assert_eq!(bookings(level).await.unwrap_or(count), count, "{level:?}");
    }
}

/// Fekete's read-only anomaly: a report that sees a deposit of the new day and not the withdrawal of the day before it,
/// which then comes with a fee as if there had been no deposit. Whether that happened.
async fn report_was_wrong(level: IsolationLevel) -> Option<bool> {
    let base = base(
        "CREATE TABLE accounts (kind text PRIMARY KEY, balance bigint); \
         INSERT INTO accounts VALUES ('checking', 0), ('savings', 0)",
    )
    .await?;
    let pool = base.pool.clone();
    let both = "SELECT sum(balance)::bigint FROM accounts";
    let (start, begun) = tokio::sync::oneshot::channel::<()>();
    let (go, gone) = tokio::sync::oneshot::channel::<()>();
    // The withdrawal reads first, and writes last.
    let withdrawal = {
        let pool = pool.clone();
        let signals = Arc::new(std::sync::Mutex::new(Some((start, gone))));
        async move {
            let body = async move |tx: &mut PgTx<'_>| {
                let total = int(tx.sqlx(), both).await?;
                let first = signals.lock().unwrap().take();
                if let Some((start, gone)) = first {
                    start.send(()).ok();
                    gone.await.ok();
                }
                let fee = i64::from(total < 10);
                sqlx::query("UPDATE accounts SET balance = balance - 10 - $1 WHERE kind = 'checking'")
                    .bind(fee)
                    .execute(tx.sqlx())
                    .await
            };
            run_in_isolated_tx(&pool, level, body).await.unwrap();
        }
    };
    let others = async {
        begun.await.unwrap();
        let deposit = async move |tx: &mut PgTx<'_>| {
            tx.sqlx().execute("UPDATE accounts SET balance = balance + 20 WHERE kind = 'savings'").await
        };
        run_in_isolated_tx(&pool, level, deposit).await.unwrap();
        let options = TxOptions { read_only: true, ..TxOptions::new(level) };
        let report = async move |tx: &mut PgTx<'_>| int(tx.sqlx(), both).await;
        let reported = run_in_isolated_tx_with(&pool, &options, report).await.unwrap();
        go.send(()).unwrap();
        reported
    };
    let (reported, ()) = tokio::join!(others, withdrawal);
    let end = int(&mut pool.acquire().await.unwrap(), both).await.unwrap();
    // In an order where the report saw 20, the withdrawal came behind the deposit, and had no fee.
    Some(reported == 20 && end == 9)
}

#[tokio::test]
async fn read_only_anomaly() {
    for (level, wrong) in [(IsolationLevel::RepeatableRead, true), (IsolationLevel::Serializable, false)] {
        assert_eq!(report_was_wrong(level).await.unwrap_or(wrong), wrong, "{level:?}");
    }
}

#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("{0}")]
    Said(&'static str),
    #[error("in the database")]
    Database(#[from] sqlx::Error),
}

#[tokio::test]
async fn an_error_at_the_commit_is_tried_again_and_an_application_error_is_not() {
    // A deferred trigger fails at the commit, for the first three transactions.
    let Some(base) = base(
        "CREATE TABLE t (n int); CREATE SEQUENCE tries; \
         CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF nextval('tries') <= 3 THEN \
         RAISE EXCEPTION 'later' USING ERRCODE = '40001'; END IF; RETURN NULL; END $$; \
         CREATE CONSTRAINT TRIGGER late AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION late()",
    )
    .await
    else {
        return;
    };
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&runs);
    let body = async move |tx: &mut PgTx<'_>| {
        counted.fetch_add(1, Ordering::SeqCst);
        tx.sqlx().execute("INSERT INTO t VALUES (1)").await
    };
    run_in_isolated_tx(&base.pool, IsolationLevel::ReadCommitted, body).await.unwrap();
    assert_eq!(runs.load(Ordering::SeqCst), 4);
    assert_eq!(int(&mut base.pool.acquire().await.unwrap(), "SELECT count(*) FROM t").await.unwrap(), 1);

    for (refusal, wanted) in [("no funds", 1), ("40001", 1), ("could not serialize access: 40001 (40P01)", 1)] {
        let runs = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&runs);
        let body = async move |tx: &mut PgTx<'_>| {
            counted.fetch_add(1, Ordering::SeqCst);
            tx.sqlx().execute("UPDATE t SET n = 2").await?;
            Err::<(), _>(Refusal::Said(refusal))
        };
        let refused = run_in_isolated_tx(&base.pool, IsolationLevel::Serializable, body).await.unwrap_err();
        assert!(matches!(refused, TxError::Body(Refusal::Said(said)) if said == refusal), "{refused:?}");
        assert_eq!(runs.load(Ordering::SeqCst), wanted, "{refusal}");
    }
    assert_eq!(int(&mut base.pool.acquire().await.unwrap(), "SELECT n::bigint FROM t").await.unwrap(), 1);

    // An error of the database that another try would meet again is the body's; a transient one below its own error is not.
    let body = async move |tx: &mut PgTx<'_>| {
        tx.sqlx().execute("SELECT 1 / 0").await?;
        Ok::<_, Refusal>(())
    };
    let refused = run_in_isolated_tx(&base.pool, IsolationLevel::Serializable, body).await.unwrap_err();
    assert!(matches!(refused, TxError::Body(Refusal::Database(_))), "{refused:?}");
    let fail = "DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '40P01'; END $$";
    let body = async move |tx: &mut PgTx<'_>| {
        tx.sqlx().execute(fail).await?;
        Ok::<_, Refusal>(())
    };
    let options = TxOptions { tries: 3, ..TxOptions::new(IsolationLevel::Serializable) };
    let aborted = run_in_isolated_tx_with(&base.pool, &options, body).await.unwrap_err();
    assert!(matches!(aborted, TxError::Aborted { tries: 3 }), "{aborted:?}");
}

#[tokio::test]
async fn a_swallowed_error_is_no_commit() {
    let Some(base) = base("CREATE TABLE t (n int PRIMARY KEY)").await else { return };
    let body = async move |tx: &mut PgTx<'_>| {
        tx.sqlx().execute("INSERT INTO t VALUES (1)").await?;
        let _ = tx.sqlx().execute("INSERT INTO t VALUES (1)").await;
        Ok::<_, sqlx::Error>(())
    };
    let failed = run_in_isolated_tx(&base.pool, IsolationLevel::ReadCommitted, body).await.unwrap_err();
    assert!(matches!(failed, TxError::Database(_)), "{failed:?}");
    assert_eq!(int(&mut base.pool.acquire().await.unwrap(), "SELECT count(*) FROM t").await.unwrap(), 0);
}

#[tokio::test]
async fn what_is_given_up_is_rolled_back_and_its_connection_not_lent_again() {
    let Some(base) = base("CREATE TABLE t (n int)").await else { return };
    let hang = async move |tx: &mut PgTx<'_>| {
        tx.sqlx().execute("INSERT INTO t VALUES (1)").await?;
        std::future::pending::<Result<(), sqlx::Error>>().await
    };
    let options = TxOptions { deadline: Duration::from_millis(200), ..TxOptions::new(IsolationLevel::ReadCommitted) };
    let late = run_in_isolated_tx_with(&base.pool, &options, hang).await.unwrap_err();
    assert!(matches!(late, TxError::Deadline), "{late:?}");
    let panicking = async move |tx: &mut PgTx<'_>| -> Result<(), sqlx::Error> {
        tx.sqlx().execute("INSERT INTO t VALUES (2)").await?;
        panic!("the body");
    };
    let pool = base.pool.clone();
    let panicked =
        tokio::spawn(async move { run_in_isolated_tx(&pool, IsolationLevel::ReadCommitted, panicking).await });
    assert!(panicked.await.unwrap_err().is_panic());
    // Each idle connection: what a transaction has done would be seen by its own.
    let mut lent = Vec::new();
    for _ in 0..base.pool.size() {
        let mut connection = base.pool.acquire().await.unwrap();
        assert_eq!(int(&mut connection, "SELECT count(*) FROM t").await.unwrap(), 0, "a transaction was lent");
        lent.push(connection);
    }
}
