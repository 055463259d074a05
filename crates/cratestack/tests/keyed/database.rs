//! The databases, with triggers that let faults happen.

use cratestack::sqlx::{self, AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use cratestack::{Uuid, rusqlite};
use tokio::time::{Instant, timeout_at};

use crate::proxy::Proxy;
use crate::service::{Db, LONG};

const TABLES: [&str; 5] = ["accounts", "tickets", "samples", "entries", "seats"];

/// What a trigger does, by its name in the table `faults`, as often as that says. What is rolled back counts as well.
const FUNCTION: &str = "
CREATE TABLE faults (point text PRIMARY KEY, kind text NOT NULL, most bigint NOT NULL);
CREATE SEQUENCE fault_shots;
CREATE FUNCTION fault() RETURNS trigger LANGUAGE plpgsql SET search_path = public AS $$
DECLARE what text;
BEGIN
  SELECT kind INTO what FROM faults WHERE point = TG_ARGV[0] AND nextval('fault_shots') <= most;
  IF what LIKE 'state %' THEN
    RAISE EXCEPTION 'a fault' USING ERRCODE = substr(what, 7);
  ELSIF what = 'terminate' THEN
    PERFORM pg_terminate_backend(pg_backend_pid());
    PERFORM pg_sleep(60);
  ELSIF what = 'wait' THEN
    -- Not by waiting for the lock: that has an end, which the service sets.
    WHILE NOT pg_try_advisory_xact_lock(42, 42) LOOP
      PERFORM pg_sleep(0.005);
    END LOOP;
  ELSIF what LIKE 'cratestack_test_%' THEN
    RAISE NOTICE '%', what;
  END IF;
  RETURN coalesce(NEW, OLD);
END $$;";

/// Counts what waits in a trigger.
pub(crate) const WAITING: &str =
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'";

/// Counts the connections of services.
pub(crate) const CONNECTED: &str =
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'cratestack'";

pub(crate) enum Database {
    Sqlite { folder: tempfile::TempDir },
    Postgres { server: String, name: String, connection: Box<PgConnection>, proxy: Proxy },
}

impl Database {
    pub(crate) async fn sqlite() -> Self {
        let database = Self::Sqlite { folder: tempfile::tempdir().unwrap() };
        Db::apply(&database.url()).await.unwrap();
        database.rusqlite().execute_batch(&sqlite_triggers()).unwrap();
        database
    }

    /// A new one on the server of the tests, if there is one.
    pub(crate) async fn postgres() -> Option<Self> {
        if std::env::var("CRATESTACK_TEST_ONLY").is_ok_and(|only| only == "sqlite") {
            return None;
        }
        let server = std::env::var("CRATESTACK_TEST_POSTGRES").expect("set CRATESTACK_TEST_POSTGRES to a server's URL");
        let name = format!("keyed_{}", Uuid::now_v7().simple());
        let mut connection = PgConnection::connect(&server).await.unwrap();
        connection.execute(AssertSqlSafe(format!("CREATE DATABASE {name}"))).await.unwrap();
        let own = format!("{}/{name}", server.split('?').next().unwrap().rsplit_once('/').unwrap().0);
        Db::apply(&own).await.unwrap();
        let mut connection = Box::new(PgConnection::connect(&own).await.unwrap());
        connection.execute(AssertSqlSafe(format!("{FUNCTION}{}", postgres_triggers()))).await.unwrap();
        let proxy = Proxy::before(&own).await;
        Some(Self::Postgres { server, name, connection, proxy })
    }

    pub(crate) fn is_postgres(&self) -> bool {
        matches!(self, Self::Postgres { .. })
    }

    /// Where a service finds it.
    pub(crate) fn url(&self) -> String {
        match self {
            Self::Sqlite { folder } => format!("sqlite:{}", folder.path().join("keyed.db").display()),
            Self::Postgres { proxy, .. } => proxy.url.clone(),
        }
    }

    fn rusqlite(&self) -> rusqlite::Connection {
        let url = self.url();
        let connection = rusqlite::Connection::open(url.strip_prefix("sqlite:").unwrap()).unwrap();
        connection.busy_timeout(LONG).unwrap();
        connection
    }

    /// Keeps everybody from writing to an SQLite file, until it is dropped.
    pub(crate) fn locked(&self) -> rusqlite::Connection {
        let connection = self.rusqlite();
        connection.execute_batch("BEGIN IMMEDIATE").unwrap();
        connection
    }

    /// The one number that a query gives.
    pub(crate) async fn number(&mut self, sql: &str) -> i64 {
        match self {
            Self::Sqlite { .. } => self.rusqlite().query_row(sql, [], |row| row.get(0)).unwrap(),
            Self::Postgres { connection, .. } => {
                sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut **connection).await.unwrap()
            }
        }
    }

    /// The one column that a query gives.
    pub(crate) async fn texts(&mut self, sql: &str) -> Vec<String> {
        match self {
            Self::Sqlite { .. } => {
                let connection = self.rusqlite();
                let mut statement = connection.prepare(sql).unwrap();
                statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
            }
            Self::Postgres { connection, .. } => {
                sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(&mut **connection).await.unwrap()
            }
        }
    }

    async fn execute(&mut self, sql: &str) {
        match self {
            Self::Sqlite { .. } => self.rusqlite().execute_batch(sql).unwrap(),
            Self::Postgres { connection, .. } => {
                connection.execute(AssertSqlSafe(sql)).await.unwrap();
            }
        }
    }

    /// SQL that counts the events in the trail of a request with that key.
    pub(crate) fn events(key: &str) -> String {
        format!("SELECT count(*) FROM cratestack_audit WHERE entry LIKE '%\"idempotency_key\":\"{key}\"%'")
    }

    /// Lets a trigger of PostgreSQL do something.
    pub(crate) async fn order(&mut self, point: &str, kind: &str, most: i64) {
        let sql = format!(
            "ALTER SEQUENCE fault_shots RESTART; INSERT INTO faults VALUES ('{point}', '{kind}', {most}) \
             ON CONFLICT (point) DO UPDATE SET kind = excluded.kind, most = excluded.most"
        );
        self.execute(&sql).await;
    }

    /// Keeps triggers that wait from going on.
    pub(crate) async fn hold(&mut self) {
        self.number("SELECT count(pg_advisory_lock(42, 42))").await;
    }

    /// Lets them go on.
    pub(crate) async fn release(&mut self) {
        self.number("SELECT count(*) FILTER (WHERE pg_advisory_unlock(42, 42))").await;
    }

    /// Takes the order back. Says whether anything has happened.
    pub(crate) async fn over(&mut self) -> bool {
        self.execute("DELETE FROM faults").await;
        self.open();
        self.number("SELECT is_called::int::bigint FROM fault_shots").await == 1
    }

    /// Lets services connect again.
    pub(crate) fn open(&self) {
        if let Self::Postgres { proxy, .. } = self {
            proxy.open();
        }
    }

    /// Waits until a number is what it is to become.
    pub(crate) async fn until(&mut self, sql: &str, wanted: i64) {
        let deadline = Instant::now() + LONG;
        let reached = async {
            while self.number(sql).await != wanted {
                tokio::task::yield_now().await;
            }
        };
        timeout_at(deadline, reached).await.unwrap_or_else(|_| panic!("not {wanted}: {sql}"));
    }

    /// Ends connections of the services.
    pub(crate) async fn cut(&mut self, part: f64) {
        let Self::Postgres { .. } = self else { return };
        self.number(&format!(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'cratestack' \
             AND datname = current_database() AND random() < {part}"
        ))
        .await;
    }

    pub(crate) async fn close(self) {
        let Self::Postgres { server, name, .. } = self else { return };
        let mut connection = PgConnection::connect(&server).await.unwrap();
        connection.execute(AssertSqlSafe(format!("DROP DATABASE {name} WITH (FORCE)"))).await.unwrap();
    }
}

fn postgres_triggers() -> String {
    let mut sql = String::new();
    for table in TABLES {
        sql.push_str(&format!(
            "CREATE TRIGGER a_fault_checked BEFORE INSERT OR UPDATE OR DELETE ON {table} FOR EACH ROW \
             EXECUTE FUNCTION fault('checked');
             CREATE TRIGGER a_fault_written AFTER INSERT OR UPDATE OR DELETE ON {table} FOR EACH ROW \
             EXECUTE FUNCTION fault('written');"
        ));
    }
    for (point, table) in [("audited", "cratestack_audit"), ("recorded", "cratestack_idempotency")] {
        sql.push_str(&format!(
            "CREATE TRIGGER a_fault AFTER INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION fault('{point}');"
        ));
    }
    sql.push_str(
        "CREATE CONSTRAINT TRIGGER a_fault_committing AFTER INSERT ON cratestack_idempotency \
         DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION fault('committing');",
    );
    sql
}

fn sqlite_triggers() -> String {
    let mut sql = "CREATE TABLE fault_parent (id INTEGER PRIMARY KEY); \
                   CREATE TABLE fault_child (id INTEGER REFERENCES fault_parent (id) DEFERRABLE INITIALLY DEFERRED);"
        .to_owned();
    let mut add = |point: &str, when: &str, table: &str| {
        let name = when.replace(' ', "_");
        sql.push_str(&format!(
            "CREATE TRIGGER fault_{name}_{table} {when} ON {table} BEGIN \
             SELECT CASE cratestack_fault('{point}') WHEN 1 THEN RAISE(ABORT, 'a fault') \
             WHEN 2 THEN RAISE(FAIL, 'a fault') WHEN 3 THEN RAISE(ROLLBACK, 'a fault') END; END;"
        ));
    };
    for table in TABLES {
        for what in ["INSERT", "UPDATE", "DELETE"] {
            add("checked", &format!("BEFORE {what}"), table);
            add("written", &format!("AFTER {what}"), table);
        }
    }
    add("audited", "AFTER INSERT", "cratestack_audit");
    add("recorded", "AFTER INSERT", "cratestack_idempotency");
    sql.push_str(
        "CREATE TRIGGER fault_committing AFTER INSERT ON cratestack_idempotency BEGIN \
         INSERT INTO fault_child SELECT 1 WHERE cratestack_fault('committing') = 1; END;",
    );
    sql
}
