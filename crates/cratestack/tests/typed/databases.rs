//! Databases for tests: one of its own per test, dropped at the end.

use cratestack::engine::migrate::{self, apply_create};
use cratestack::schema::ir::Schema;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _};

/// A database that lives as long as this value.
pub(crate) struct Database {
    pub(crate) url: String,
    kept: Kept,
}

enum Kept {
    Nothing,
    File { _folder: tempfile::TempDir },
    Postgres { server: Box<PgConnectOptions>, name: String },
}

/// Which databases a test runs on.
pub(crate) async fn all(schema: &Schema) -> Vec<Database> {
    let memory = Database { url: "sqlite::memory:".to_owned(), kept: Kept::Nothing };
    std::iter::once(memory).chain(postgres(schema).await).collect()
}

/// The same, but such that another connection can reach them.
pub(crate) async fn reachable(schema: &Schema) -> Vec<Database> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("test.db");
    let mut connection = rusqlite::Connection::open(&path).unwrap();
    apply_create(&mut migrate::Db::Sqlite(&mut connection), schema, [7; 32], &mut |_| {}).await.unwrap();
    let file = Database { url: format!("sqlite:{}", path.display()), kept: Kept::File { _folder: folder } };
    std::iter::once(file).chain(postgres(schema).await).collect()
}

async fn postgres(schema: &Schema) -> Option<Database> {
    if std::env::var("CRATESTACK_TEST_ONLY").is_ok_and(|only| only == "sqlite") {
        return None;
    }
    let url = std::env::var("CRATESTACK_TEST_POSTGRES")
        .expect("set CRATESTACK_TEST_POSTGRES to a server's URL, or CRATESTACK_TEST_ONLY=sqlite");
    let server: PgConnectOptions = url.parse().unwrap();
    let name = format!("typed_{}", uuid::Uuid::now_v7().simple());
    run_on(&server, format!("CREATE DATABASE {name}")).await;
    let mut connection = server.clone().database(&name).connect().await.unwrap();
    apply_create(&mut migrate::Db::Postgres(&mut connection), schema, [7; 32], &mut |_| {}).await.unwrap();
    connection.close().await.unwrap();
    let (base, options) = url.split_once('?').map_or((url.as_str(), None), |(base, options)| (base, Some(options)));
    let (base, _) = base.rsplit_once('/').filter(|(base, _)| base.contains("://")).unwrap();
    let options = options.map(|options| format!("?{options}")).unwrap_or_default();
    Some(Database { url: format!("{base}/{name}{options}"), kept: Kept::Postgres { server: Box::new(server), name } })
}

async fn run_on(server: &PgConnectOptions, sql: String) {
    let mut connection = server.connect().await.unwrap();
    connection.execute(AssertSqlSafe(sql)).await.unwrap();
    connection.close().await.unwrap();
}

impl Database {
    /// Writes past the engine, with the CHECKs of `table` off.
    pub(crate) async fn write_unchecked(&self, table: &str, sql: &str) {
        match &self.kept {
            Kept::Nothing => panic!("a database in memory has one user"),
            Kept::File { .. } => {
                let connection = rusqlite::Connection::open(self.url.strip_prefix("sqlite:").unwrap()).unwrap();
                connection.execute_batch("PRAGMA ignore_check_constraints = ON").unwrap();
                connection.execute_batch(sql).unwrap();
            }
            Kept::Postgres { .. } => {
                let mut connection: PgConnection = PgConnection::connect(&self.url).await.unwrap();
                let unchecked = format!(
                    "DO $$ DECLARE c name; BEGIN FOR c IN SELECT conname FROM pg_constraint \
                     WHERE conrelid = '{table}'::regclass AND contype = 'c' \
                     LOOP EXECUTE format('ALTER TABLE {table} DROP CONSTRAINT %I', c); END LOOP; END $$; {sql}"
                );
                connection.execute(AssertSqlSafe(unchecked)).await.unwrap();
                connection.close().await.unwrap();
            }
        }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let Kept::Postgres { server, name } = &self.kept else { return };
        // A runtime cannot be entered twice on one thread.
        let (server, sql) = (server.clone(), format!("DROP DATABASE {name} WITH (FORCE)"));
        let drop = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(run_on(&server, sql));
        };
        std::thread::spawn(drop).join().unwrap();
    }
}
