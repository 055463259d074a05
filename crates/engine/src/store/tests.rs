#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use cratestack_schema::ir::Schema;
use cratestack_schema::value::Value;
use sqlx::Executor as _;

use super::postgres::{PoolOptions, Postgres};
use super::sqlite::{Sqlite, SqliteSession};
use super::{NoPages, Session as _};
use crate::engine::OpenError;
use crate::fault::{Class, StoreError};
use crate::sql::{Bind, SqlType};
use crate::testing::{PgDatabase, pending, statement};

fn schema() -> Arc<Schema> {
    Arc::new(Schema::new("empty"))
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

mod postgres {
    use super::*;

    async fn pool(connections: usize) -> Option<(PgDatabase, Postgres)> {
        let database = PgDatabase::new().await?;
        let options = PoolOptions { connections, ..PoolOptions::default() };
        let pool = Postgres::open(&schema(), &database.url, options, Arc::default()).unwrap();
        Some((database, pool))
    }

    async fn int(pool: &Postgres, sql: &str) -> Result<i64, StoreError> {
        let mut session = pool.session(soon().into()).await?;
        let rows = session.fetch(&statement(sql, &[SqlType::INT], Vec::new()), &mut NoPages).await?;
        match rows.control(0)[0] {
            Value::Int(value) => Ok(value),
            ref other => panic!("{other:?}"),
        }
    }

    const PID: &str = "SELECT pg_backend_pid()::bigint";

    #[tokio::test]
    async fn one_connection_is_reused_and_each_fetch_is_one_statement() {
        let Some((_database, pool)) = pool(4).await else { return };
        let first = int(&pool, PID).await.unwrap();
        assert_eq!(int(&pool, PID).await.unwrap(), first);
        assert_eq!(pool.statistics().statements(), 2);
    }

    #[tokio::test]
    async fn a_lost_connection_is_an_error_once_and_casts_doubt_on_the_others() {
        let Some((database, pool)) = pool(4).await else { return };
        let one = pool.session(soon().into()).await.unwrap();
        let two = pool.session(soon().into()).await.unwrap();
        drop((one, two));
        let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'cratestack' AND \
                    datname = current_database()";
        database.connect().await.execute(kill).await.unwrap();
        let error = int(&pool, PID).await.unwrap_err();
        assert_eq!(error.class, Class::ConnectionLost, "{error:?}");
        // The other dead one is found out by a ping.
        int(&pool, PID).await.unwrap();
    }

    #[tokio::test]
    async fn a_connection_that_was_idle_for_long_is_pinged() {
        let Some(database) = PgDatabase::new().await else { return };
        let options = PoolOptions { connections: 1, ping_after: Duration::ZERO, ..PoolOptions::default() };
        let pool = Postgres::open(&schema(), &database.url, options, Arc::default()).unwrap();
        let first = int(&pool, PID).await.unwrap();
        assert_eq!(int(&pool, PID).await.unwrap(), first);
        let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'cratestack' AND \
                    datname = current_database()";
        database.connect().await.execute(kill).await.unwrap();
        assert_ne!(int(&pool, PID).await.unwrap(), first);
    }

    #[tokio::test]
    async fn one_too_many_does_not_wait() {
        let Some(database) = PgDatabase::new().await else { return };
        let options = PoolOptions { connections: 1, waiting: 1, ..PoolOptions::default() };
        let pool = Postgres::open(&schema(), &database.url, options, Arc::default()).unwrap();
        let lent = pool.session(soon().into()).await.unwrap();
        let mut waits = Box::pin(pool.session(soon().into()));
        assert!(pending(waits.as_mut()).await);
        assert_eq!(pool.session(soon().into()).await.unwrap_err().class, Class::NoConnection);
        drop(lent);
        waits.await.unwrap();
    }

    #[tokio::test]
    async fn a_statement_that_did_not_end_closes_its_connection() {
        let begun = Instant::now();
        let Some((_database, pool)) = pool(1).await else { return };
        let first = int(&pool, PID).await.unwrap();
        let wait = statement("SELECT 1::bigint FROM pg_sleep(20)", &[SqlType::INT], Vec::new());
        {
            let mut session = pool.session(soon().into()).await.unwrap();
            let mut pages = NoPages;
            let mut fetch = std::pin::pin!(session.fetch(&wait, &mut pages));
            assert!(pending(fetch.as_mut()).await);
        }
        let second = int(&pool, PID).await.unwrap();
        assert_ne!(first, second);

        let mut session = pool.session((Instant::now() + Duration::from_millis(30)).into()).await.unwrap();
        assert_eq!(session.fetch(&wait, &mut NoPages).await.unwrap_err().class, Class::Deadline);
        drop(session);
        assert_ne!(second, int(&pool, PID).await.unwrap());
        // The server has given them up too, long before they are done.
        let others = format!("SELECT count(*) FROM pg_stat_activity WHERE pid IN ({first}, {second})");
        while int(&pool, &others).await.unwrap() > 0 {
            tokio::task::yield_now().await;
        }
        assert!(begun.elapsed() < Duration::from_secs(15));
    }

    #[tokio::test]
    async fn a_statement_that_nobody_waits_for_keeps_its_place_until_it_has_ended() {
        let Some((_database, pool)) = pool(1).await else { return };
        let wait = statement("SELECT 1::bigint FROM pg_sleep(20)", &[SqlType::INT], Vec::new());
        let mut session = pool.session(soon().into()).await.unwrap();
        let mut pages = NoPages;
        let mut fetch = Box::pin(async move { session.fetch(&wait, &mut pages).await.map(|_| ()) });
        assert!(pending(fetch.as_mut()).await);
        drop(fetch);
        let mut next = Box::pin(pool.session(soon().into()));
        assert!(pending(next.as_mut()).await);
        next.await.unwrap();
    }

    #[tokio::test]
    async fn waiting_for_a_connection_ends_at_the_deadline() {
        let Some((_database, pool)) = pool(1).await else { return };
        let lent = pool.session(soon().into()).await.unwrap();
        let refused = pool.session((Instant::now() + Duration::from_millis(10)).into()).await.unwrap_err();
        assert_eq!(refused.class, Class::NoConnection);
        drop(lent);
        pool.session(soon().into()).await.unwrap();
    }

    #[tokio::test]
    async fn a_stale_plan_is_prepared_again() {
        let Some((database, pool)) = pool(1).await else { return };
        let mut beside = database.connect().await;
        beside.execute("CREATE TABLE t (a text); INSERT INTO t VALUES ('one')").await.unwrap();
        let read = statement("SELECT a FROM t", &[SqlType::TEXT], Vec::new());
        let mut session = pool.session(soon().into()).await.unwrap();
        let one = [Value::Text("one".to_owned())];
        assert_eq!(session.fetch(&read, &mut NoPages).await.unwrap().control(0), one);
        beside.execute("ALTER TABLE t ALTER a TYPE varchar(9)").await.unwrap();
        // One that fails, one to forget what is prepared, one that works.
        let before = pool.statistics().statements();
        assert_eq!(session.fetch(&read, &mut NoPages).await.unwrap().control(0), one);
        assert_eq!(pool.statistics().statements() - before, 3);
    }

    #[tokio::test]
    async fn sessions_are_set_up_at_connect() {
        let Some((_database, pool)) = pool(1).await else { return };
        let sql = "SELECT current_setting('TimeZone') || ' ' || current_setting('statement_timeout')";
        let mut session = pool.session(soon().into()).await.unwrap();
        let rows = session.fetch(&statement(sql, &[SqlType::TEXT], Vec::new()), &mut NoPages).await.unwrap();
        assert_eq!(rows.control(0), [Value::Text("UTC 30s".to_owned())]);
        assert_eq!(pool.statistics().statements(), 1);
    }

    #[tokio::test]
    async fn closing_waits_for_what_is_lent() {
        let Some((_database, pool)) = pool(2).await else { return };
        let lent = pool.session(soon().into()).await.unwrap();
        let closing = tokio::spawn({
            let pool = pool.clone();
            async move { pool.close().await }
        });
        tokio::task::yield_now().await;
        assert!(!closing.is_finished());
        drop(lent);
        closing.await.unwrap();
        assert_eq!(pool.session(soon().into()).await.unwrap_err().class, Class::NoConnection);
    }
}

mod sqlite {
    use super::*;
    use std::sync::mpsc;

    #[allow(clippy::unnecessary_wraps, reason = "what `open` asks for")]
    fn nothing(_: &mut rusqlite::Connection) -> Result<(), OpenError> {
        Ok(())
    }

    fn open(directory: &tempfile::TempDir) -> Sqlite {
        Sqlite::open(&schema(), Some(&directory.path().join("sub/test.db")), 2, Arc::default(), nothing).unwrap()
    }

    fn run(session: &mut SqliteSession<'_>, sql: &str, binds: Vec<Bind>) -> Result<Vec<Vec<Value>>, StoreError> {
        use futures_util::FutureExt as _;
        let rows = session.fetch(&statement(sql, &[SqlType::INT], binds), &mut NoPages).now_or_never().unwrap()?;
        Ok((0..rows.len()).map(|row| rows.control(row).to_vec()).collect())
    }

    async fn write(store: &Sqlite, sql: &'static str, binds: Vec<Bind>) -> Result<(), StoreError> {
        store.write(soon(), move |session| run(session, sql, binds.clone()).map(|_| ())).await
    }

    async fn count(store: &Sqlite) -> Value {
        let rows = store.read(soon(), |session| run(session, "SELECT count(*) FROM t", Vec::new())).await.unwrap();
        rows[0][0].clone()
    }

    #[tokio::test]
    async fn reads_that_nobody_waits_for_are_given_up() {
        const ENDLESS: &str = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n";
        let directory = tempfile::tempdir().unwrap();
        let memory = Sqlite::open(&schema(), None, 1, Arc::default(), nothing).unwrap();
        for store in [open(&directory), memory] {
            write(&store, "CREATE TABLE t (a INTEGER)", Vec::new()).await.unwrap();
            // More than there are threads: those that run, and those that wait.
            let mut reads: Vec<_> =
                (0..8).map(|_| Box::pin(store.read(soon(), |session| run(session, ENDLESS, Vec::new())))).collect();
            for read in &mut reads {
                assert!(pending(read.as_mut()).await);
            }
            drop(reads);
            assert_eq!(count(&store).await, Value::Int(0));
            write(&store, "INSERT INTO t VALUES (1)", Vec::new()).await.unwrap();
            assert_eq!(count(&store).await, Value::Int(1));
        }
    }

    /// Holds the writer until told to go on, so that what comes meanwhile forms one group.
    async fn hold(store: &Arc<Sqlite>) -> (mpsc::Sender<()>, tokio::task::JoinHandle<Result<(), StoreError>>) {
        let (go, wait) = mpsc::channel();
        let (started, running) = tokio::sync::oneshot::channel();
        let mut started = Some(started);
        let holder = Arc::clone(store);
        let task = tokio::spawn(async move {
            holder
                .write(soon(), move |_| {
                    if let Some(started) = started.take() {
                        started.send(()).unwrap();
                    }
                    let _ = wait.recv();
                    Ok(())
                })
                .await
        });
        running.await.unwrap();
        (go, task)
    }

    #[tokio::test]
    async fn a_group_shares_a_commit_and_a_refusal_touches_nobody_else() {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(open(&directory));
        write(&store, "CREATE TABLE t (a INTEGER PRIMARY KEY, b BLOB) STRICT", Vec::new()).await.unwrap();
        let (go, held) = hold(&store).await;
        let before = store.statistics().groups();
        let mut tasks = Vec::new();
        for n in 0..20 {
            let store = Arc::clone(&store);
            tasks.push(tokio::spawn(async move {
                store
                    .write(soon(), move |session| {
                        run(session, "INSERT INTO t (a) VALUES (?1)", vec![Bind::Int(n)])?;
                        match n {
                            3 => Err(StoreError::new(Class::Check, "refused")),
                            5 => panic!("in the middle of a job"),
                            _ => Ok(()),
                        }
                    })
                    .await
            }));
            tokio::task::yield_now().await;
        }
        go.send(()).unwrap();
        held.await.unwrap().unwrap();
        let mut classes = Vec::new();
        for task in tasks {
            classes.push(task.await.unwrap().map_err(|error| error.class));
        }
        assert_eq!(classes[3], Err(Class::Check));
        assert_eq!(classes[5], Err(Class::Other));
        assert_eq!(classes.iter().filter(|class| class.is_ok()).count(), 18);
        assert_eq!(count(&store).await, Value::Int(18));
        assert_eq!(store.statistics().groups() - before, 1);
    }

    #[tokio::test]
    async fn a_full_disk_fails_the_operation_that_does_not_fit_and_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(open(&directory));
        write(&store, "CREATE TABLE t (a INTEGER PRIMARY KEY, b BLOB) STRICT", Vec::new()).await.unwrap();
        let limit = |session: &mut SqliteSession<'_>| run(session, "PRAGMA max_page_count = 20", Vec::new());
        store.write(soon(), limit).await.unwrap();
        let (go, held) = hold(&store).await;
        let mut tasks = Vec::new();
        for n in 0..6 {
            let store = Arc::clone(&store);
            let octets = if n == 2 { 200_000 } else { 10 };
            tasks.push(tokio::spawn(async move {
                let binds = vec![Bind::Int(n), Bind::Bytes(vec![0; octets])];
                write(&store, "INSERT INTO t (a, b) VALUES (?1, ?2)", binds).await
            }));
            tokio::task::yield_now().await;
        }
        go.send(()).unwrap();
        held.await.unwrap().unwrap();
        for (n, task) in tasks.into_iter().enumerate() {
            let expected = if n == 2 { Err(Class::DiskFull) } else { Ok(()) };
            assert_eq!(task.await.unwrap().map_err(|error| error.class), expected);
        }
        assert_eq!(count(&store).await, Value::Int(5));
    }

    #[tokio::test]
    async fn what_is_late_is_not_run_and_what_runs_late_is_stopped() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(&directory);
        write(&store, "CREATE TABLE t (a INTEGER PRIMARY KEY) STRICT", Vec::new()).await.unwrap();
        let late: Result<(), StoreError> = store.write(Instant::now(), |_| panic!("must not run")).await;
        assert_eq!(late.unwrap_err().class, Class::Timeout);

        let endless = "WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) \
                       INSERT INTO t SELECT n FROM c";
        let deadline = Instant::now() + Duration::from_millis(50);
        let stopped = store.write(deadline, move |session| run(session, endless, Vec::new())).await;
        assert_eq!(stopped.unwrap_err().class, Class::Timeout);
        assert_eq!(count(&store).await, Value::Int(0));
        write(&store, "INSERT INTO t VALUES (1)", Vec::new()).await.unwrap();
    }

    #[tokio::test]
    async fn another_process_with_the_file_is_waited_for_until_the_deadline() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(&directory);
        let other = rusqlite::Connection::open(directory.path().join("sub/test.db")).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        let deadline = Instant::now() + Duration::from_millis(20);
        let busy = store.write(deadline, |session| run(session, "CREATE TABLE t (a)", Vec::new())).await;
        assert_eq!(busy.unwrap_err().class, Class::LockTimeout);
        other.execute_batch("COMMIT").unwrap();
        write(&store, "CREATE TABLE t (a)", Vec::new()).await.unwrap();
    }

    #[tokio::test]
    async fn readers_cannot_write_and_memory_has_one_connection() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(&directory);
        let refused = store.read(soon(), |session| run(session, "CREATE TABLE t (a)", Vec::new())).await;
        assert_eq!(refused.unwrap_err().class, Class::ReadOnly);

        let store = Sqlite::open(&schema(), None, 2, Arc::default(), nothing).unwrap();
        write(&store, "CREATE TABLE t (a INTEGER) STRICT", Vec::new()).await.unwrap();
        assert_eq!(count(&store).await, Value::Int(0));
        store.close().await;
    }

    #[test]
    fn a_file_that_is_no_database_is_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notes.txt");
        std::fs::write(&path, "no database, but more than a hundred octets of something else: ".repeat(20)).unwrap();
        let error = Sqlite::open(&schema(), Some(&path), 1, Arc::default(), nothing).unwrap_err().to_string();
        assert!(error.contains("notes.txt` is not a SQLite database"), "{error}");
        let error =
            Sqlite::open(&schema(), Some(&path.join("below.db")), 1, Arc::default(), nothing).unwrap_err().to_string();
        assert!(error.starts_with("cannot create the directory"), "{error}");
    }

    #[tokio::test]
    async fn closing_does_what_is_queued() {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(open(&directory));
        write(&store, "CREATE TABLE t (a INTEGER PRIMARY KEY) STRICT", Vec::new()).await.unwrap();
        let (go, held) = hold(&store).await;
        let mut insert = Box::pin({
            let store = Arc::clone(&store);
            async move { write(&store, "INSERT INTO t VALUES (1)", Vec::new()).await }
        });
        assert!(pending(insert.as_mut()).await);
        // The caller goes away; the work does not.
        drop(insert);
        go.send(()).unwrap();
        held.await.unwrap().unwrap();
        store.close().await;
        assert_eq!(write(&store, "SELECT 1", Vec::new()).await.unwrap_err().class, Class::NoConnection);
        assert_eq!(count(&open(&directory)).await, Value::Int(1));
    }
}
