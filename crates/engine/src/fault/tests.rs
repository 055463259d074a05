#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;
use crate::store::postgres::{PgSession, PoolOptions, Postgres};
use crate::store::{NoPages, Session as _};
use crate::testing::{PgDatabase, statement};

const TABLES: &str = "\
    CREATE TABLE parents (id bigint PRIMARY KEY); \
    CREATE TABLE t (id bigint CONSTRAINT t_pkey PRIMARY KEY, a bigint NOT NULL CONSTRAINT positive CHECK (a > 0), \
        b text, u uuid, short varchar(3), small numeric(4,2), \
        parent bigint CONSTRAINT t_parent_fkey REFERENCES parents (id)); \
    CREATE UNIQUE INDEX t_b_key ON t (b); \
    INSERT INTO t (id, a, b) VALUES (1, 1, 'x'), (2, 1, 'y')";

async fn postgres() -> Option<(PgDatabase, Postgres)> {
    use sqlx::Executor as _;
    let database = PgDatabase::new().await?;
    database.connect().await.execute(TABLES).await.unwrap();
    let (schema, _) = cratestack_schema::compile("empty", "");
    let pool =
        Postgres::open(&Arc::new(schema.unwrap()), &database.url, PoolOptions::default(), Arc::default()).unwrap();
    Some((database, pool))
}

async fn session(pool: &Postgres) -> PgSession {
    pool.session((Instant::now() + Duration::from_secs(20)).into()).await.unwrap()
}

async fn run(session: &mut PgSession, sql: &str) -> Result<(), StoreError> {
    session.fetch(&statement(sql, &[], Vec::new()), &mut NoPages).await.map(|_| ())
}

/// What is told apart: class, table, constraint, columns.
fn told(error: &StoreError) -> (Class, Option<&str>, Option<&str>, Vec<&str>) {
    let columns = error.columns.iter().map(String::as_str).collect();
    (error.class, error.table.as_deref(), error.constraint.as_deref(), columns)
}

#[tokio::test]
async fn postgres_errors_by_class() {
    let Some((_database, pool)) = postgres().await else { return };
    let long = "(SELECT string_agg(md5(n::text), '') FROM generate_series(1, 2000) n)";
    let t = Some("t");
    for (sql, class, table, constraint, columns) in [
        ("INSERT INTO t (id, a) VALUES (1, 1)", Class::Unique, t, Some("t_pkey"), vec![]),
        ("INSERT INTO t (id, a, b) VALUES (3, 1, 'x')", Class::Unique, t, Some("t_b_key"), vec![]),
        ("INSERT INTO t (id, a, parent) VALUES (3, 1, 9)", Class::ForeignKey, t, Some("t_parent_fkey"), vec![]),
        ("INSERT INTO t (id, a) VALUES (3, 0)", Class::Check, t, Some("positive"), vec![]),
        ("INSERT INTO t (id) VALUES (3)", Class::NotNull, t, None, vec!["a"]),
        ("UPDATE t SET short = 'long'", Class::TooLong, None, None, vec![]),
        (&format!("UPDATE t SET b = {long} WHERE id = 1"), Class::TooLong, None, None, vec![]),
        ("UPDATE t SET small = 100", Class::NumericOverflow, None, None, vec![]),
        ("UPDATE t SET u = b::uuid", Class::InvalidText, None, None, vec![]),
        ("SELECT nothing FROM t", Class::Other, None, None, vec![]),
    ] {
        let error = run(&mut session(&pool).await, sql).await.unwrap_err();
        assert_eq!(told(&error), (class, table, constraint, columns), "{sql}: {}", error.message);
    }
    let mut limited = session(&pool).await;
    run(&mut limited, "SET statement_timeout = 1").await.unwrap();
    assert_eq!(run(&mut limited, "SELECT pg_sleep(10)").await.unwrap_err().class, Class::Timeout);

    let mut reader = session(&pool).await;
    run(&mut reader, "BEGIN READ ONLY").await.unwrap();
    assert_eq!(run(&mut reader, "UPDATE t SET a = 2").await.unwrap_err().class, Class::ReadOnly);
}

#[tokio::test]
async fn postgres_transactions_in_each_others_way() {
    let Some((_database, pool)) = postgres().await else { return };
    let (mut one, mut two) = (session(&pool).await, session(&pool).await);
    for session in [&mut one, &mut two] {
        run(session, "BEGIN ISOLATION LEVEL REPEATABLE READ").await.unwrap();
        run(session, "SELECT a FROM t").await.unwrap();
    }
    run(&mut one, "UPDATE t SET a = 2 WHERE id = 1").await.unwrap();
    run(&mut two, "SET LOCAL lock_timeout = 1").await.unwrap();
    assert_eq!(run(&mut two, "UPDATE t SET a = 3 WHERE id = 1").await.unwrap_err().class, Class::LockTimeout);
    run(&mut two, "ROLLBACK").await.unwrap();
    run(&mut two, "BEGIN ISOLATION LEVEL REPEATABLE READ").await.unwrap();
    run(&mut two, "SELECT a FROM t").await.unwrap();
    run(&mut one, "COMMIT").await.unwrap();
    assert_eq!(run(&mut two, "UPDATE t SET a = 3 WHERE id = 1").await.unwrap_err().class, Class::Serialization);
    run(&mut two, "ROLLBACK").await.unwrap();

    for (session, row) in [(&mut one, 1), (&mut two, 2)] {
        run(session, "BEGIN").await.unwrap();
        run(session, &format!("UPDATE t SET a = 4 WHERE id = {row}")).await.unwrap();
    }
    let crossed = tokio::join!(run(&mut one, "UPDATE t SET a = 5 WHERE id = 2"), async {
        let done = run(&mut two, "UPDATE t SET a = 5 WHERE id = 1").await;
        // Whoever is the victim lets the other go on.
        run(&mut two, "ROLLBACK").await.unwrap();
        done
    });
    let victims = [crossed.0, crossed.1].into_iter().filter_map(Result::err).map(|error| error.class);
    assert_eq!(victims.collect::<Vec<_>>(), [Class::Deadlock]);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_no_connection() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("postgres://nobody@127.0.0.1:{}/x", listener.local_addr().unwrap().port());
    drop(listener);
    let (schema, _) = cratestack_schema::compile("empty", "");
    let pool = Postgres::open(&Arc::new(schema.unwrap()), &url, PoolOptions::default(), Arc::default()).unwrap();
    let error = pool.session((Instant::now() + Duration::from_secs(5)).into()).await.unwrap_err();
    assert_eq!(error.class, Class::NoConnection);
}

#[test]
fn sqlite_errors_by_class() {
    let connection = rusqlite::Connection::open_in_memory().unwrap();
    connection
        .execute_batch(
            "PRAGMA foreign_keys = ON; \
             CREATE TABLE parents (id INTEGER PRIMARY KEY) STRICT; \
             CREATE TABLE t (id INTEGER PRIMARY KEY, a INTEGER NOT NULL CONSTRAINT positive CHECK (a > 0), b TEXT, \
                 c TEXT, parent INTEGER REFERENCES parents (id)) STRICT; \
             CREATE UNIQUE INDEX t_b_key ON t (b, c); \
             CREATE TRIGGER restrict_t BEFORE DELETE ON t WHEN old.a = 1 BEGIN SELECT RAISE(ABORT, 'cratestack:restrict:some_fkey'); END; \
             CREATE TRIGGER parent_t BEFORE DELETE ON t WHEN old.a = 2 BEGIN SELECT RAISE(ABORT, 'cratestack:parent:some_fkey'); END; \
             CREATE TRIGGER append_t BEFORE DELETE ON t WHEN old.a = 3 BEGIN SELECT RAISE(ABORT, 'cratestack:append_only:t'); END; \
             CREATE TRIGGER unique_t BEFORE DELETE ON t WHEN old.a = 4 BEGIN SELECT RAISE(ABORT, 'cratestack:unique:t_b_key'); END; \
             CREATE TRIGGER foreign_t BEFORE DELETE ON t WHEN old.a = 5 BEGIN SELECT RAISE(ABORT, 'something else'); END; \
             INSERT INTO t (id, a, b, c) VALUES (1, 1, 'x', 'y'), (2, 2, 'x', 'z'), (3, 3, 'x', '3'), (4, 4, 'x', '4'), (5, 5, 'x', '5')",
        )
        .unwrap();
    connection.set_limit(rusqlite::limits::Limit::SQLITE_LIMIT_LENGTH, 1000).unwrap();
    let t = Some("t");
    for (sql, class, table, constraint, columns) in [
        ("INSERT INTO t (id, a) VALUES (1, 1)", Class::Unique, t, None, vec!["id"]),
        ("UPDATE t SET c = 'y'", Class::Unique, t, None, vec!["b", "c"]),
        ("INSERT INTO t (id, a, parent) VALUES (9, 1, 9)", Class::ForeignKey, None, None, vec![]),
        ("INSERT INTO t (id, a) VALUES (9, 0)", Class::Check, None, Some("positive"), vec![]),
        ("INSERT INTO t (id) VALUES (9)", Class::NotNull, t, None, vec!["a"]),
        ("INSERT INTO t (id, a) VALUES (9, 'nine')", Class::InvalidText, None, None, vec![]),
        ("INSERT INTO t (id, a, b) VALUES (9, 1, hex(zeroblob(900)))", Class::TooLong, None, None, vec![]),
        ("DELETE FROM t WHERE a = 1", Class::Restrict, None, Some("some_fkey"), vec![]),
        ("DELETE FROM t WHERE a = 2", Class::ForeignKey, None, Some("some_fkey"), vec![]),
        ("DELETE FROM t WHERE a = 3", Class::AppendOnly, t, None, vec![]),
        ("DELETE FROM t WHERE a = 4", Class::Unique, None, Some("t_b_key"), vec![]),
        ("DELETE FROM t WHERE a = 5", Class::Raised, None, None, vec![]),
        ("SELECT nothing FROM t", Class::Other, None, None, vec![]),
    ] {
        let error = StoreError::sqlite(&connection.execute(sql, []).unwrap_err());
        assert_eq!(told(&error), (class, table, constraint, columns), "{sql}: {}", error.message);
    }
    connection.execute_batch("PRAGMA query_only = ON").unwrap();
    let error = StoreError::sqlite(&connection.execute("DELETE FROM t", []).unwrap_err());
    assert_eq!(error.class, Class::ReadOnly);
}

#[test]
fn codes_that_no_test_can_provoke() {
    for (code, class) in [
        ("08006", Class::ConnectionLost),
        ("08P01", Class::ConnectionLost),
        ("57P01", Class::ConnectionLost),
        ("57P02", Class::ConnectionLost),
        ("57P03", Class::ConnectionLost),
        ("40003", Class::ConnectionLost),
        ("40000", Class::Serialization),
        ("53100", Class::DiskFull),
        ("53200", Class::OutOfMemory),
        ("53300", Class::NoConnection),
        ("58030", Class::Io),
        ("XX001", Class::Other),
        ("4", Class::Other),
        ("", Class::Other),
    ] {
        assert_eq!(Class::of_sqlstate(code), class, "{code}");
    }
    for (code, class) in [
        (ffi::SQLITE_IOERR_FSYNC, Class::Io),
        (ffi::SQLITE_FULL, Class::DiskFull),
        (ffi::SQLITE_NOMEM, Class::OutOfMemory),
        (ffi::SQLITE_BUSY_RECOVERY, Class::LockTimeout),
        (ffi::SQLITE_BUSY_SNAPSHOT, Class::Serialization),
        (ffi::SQLITE_READONLY_DBMOVED, Class::ReadOnly),
        (ffi::SQLITE_INTERRUPT, Class::Timeout),
        (ffi::SQLITE_CORRUPT, Class::Other),
    ] {
        assert_eq!(Class::of_sqlite(code), class, "{code}");
    }
}

#[test]
fn every_class_has_one_row_and_no_code_has_two() {
    let mut seen = std::collections::HashSet::new();
    for fault in FAULTS {
        assert!(seen.insert(format!("{:?}", fault.class)));
        assert!(fault.postgres.iter().all(|code| seen.insert((*code).to_owned())));
        assert!(fault.sqlite.iter().all(|code| seen.insert(code.to_string())));
    }
}

#[test]
fn members_that_no_caller_may_see_are_not_named() {
    let text = r#"model Thing {
        id Int @id
        secret String? @unique @server_only
        amount Int @range(min: 1) @db_enforce
        @@allow("all", true)
    }"#;
    let (schema, diagnostics) = cratestack_schema::compile("things", text);
    let schema = schema.unwrap_or_else(|| panic!("{diagnostics:#?}"));
    let model = schema.model_named("Thing").unwrap();
    let taken = StoreError {
        table: Some("things".to_owned()),
        columns: vec!["secret".to_owned()],
        ..StoreError::new(Class::Unique, "23505: the value abc")
    };
    let failure = failure(&schema, model, &taken);
    assert_eq!((failure.code, failure.errors, failure.internal), (Code::UniqueViolation, vec![], None));
    assert_eq!(failure.detail, "another row has the same value");

    let constraint = Some("things_amount_range_check".to_owned());
    let enforced = StoreError { constraint, ..StoreError::new(Class::Check, "") };
    let failure = super::failure(&schema, model, &enforced);
    assert_eq!((failure.errors[0].pointer.as_str(), failure.errors[0].code.as_str()), ("#/amount", "range"));
}
