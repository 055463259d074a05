//! Where records are kept in a test: a place of its own for each, gone at the end.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use cratestack::{IdempotencyStore, SqliteIdempotencyStore, SqlxIdempotencyStore};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _, PgPool};

/// How long something may take in real time before the test has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A store, and what it needs to live.
pub(crate) struct Place {
    pub(crate) store: Arc<dyn IdempotencyStore>,
    _kept: Box<dyn Any>,
}

impl Place {
    pub(crate) fn new(store: impl IdempotencyStore, kept: impl Any) -> Self {
        Self { store: Arc::new(store), _kept: Box::new(kept) }
    }

    pub(crate) async fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteIdempotencyStore::open(folder.path().join("keys.db")).unwrap();
        store.create_table().await.unwrap();
        Self::new(store, folder)
    }

    /// `None` when only SQLite is to be tested; a missing server is a failure, never a silent skip.
    pub(crate) async fn postgres() -> Option<Self> {
        let database = Database::new().await?;
        let store = SqlxIdempotencyStore::new(database.pool().await);
        store.create_table().await.unwrap();
        Some(Self::new(store, database))
    }
}

pub(crate) fn only_sqlite() -> bool {
    std::env::var("CRATESTACK_TEST_ONLY").is_ok_and(|only| only == "sqlite")
}

/// A database of PostgreSQL that lives as long as this value.
pub(crate) struct Database {
    server: PgConnectOptions,
    name: String,
}

impl Database {
    pub(crate) async fn new() -> Option<Self> {
        if only_sqlite() {
            return None;
        }
        let url = std::env::var("CRATESTACK_TEST_POSTGRES")
            .expect("set CRATESTACK_TEST_POSTGRES to a server's URL, or CRATESTACK_TEST_ONLY=sqlite");
        let server: PgConnectOptions = url.parse().unwrap();
        let name = format!("keys_{}", uuid::Uuid::now_v7().simple());
        run_on(&server, format!("CREATE DATABASE {name}")).await;
        Some(Self { server, name })
    }

    pub(crate) async fn pool(&self) -> PgPool {
        self.pool_with(&[]).await
    }

    pub(crate) async fn pool_with(&self, settings: &[(&str, &str)]) -> PgPool {
        let options = self.server.clone().database(&self.name).options(settings.iter().copied());
        PgPoolOptions::new().max_connections(8).connect_with(options).await.unwrap()
    }
}

async fn run_on(server: &PgConnectOptions, sql: String) {
    let mut connection = server.connect().await.unwrap();
    connection.execute(AssertSqlSafe(sql)).await.unwrap();
    connection.close().await.unwrap();
}

impl Drop for Database {
    fn drop(&mut self) {
        // A runtime cannot be entered twice on one thread.
        let (server, sql) = (self.server.clone(), format!("DROP DATABASE {} WITH (FORCE)", self.name));
        let drop = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(run_on(&server, sql));
        };
        std::thread::spawn(drop).join().unwrap();
    }
}

/// Waits until `done`.
pub(crate) async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !done().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{what}: it takes too long"));
}

/// Makes of each function a test on each store.
macro_rules! on_every_store {
    ($($name:ident)*) => { $(
        mod $name {
            use crate::places::Place;

            #[tokio::test]
            async fn sqlite() {
                super::$name(Place::sqlite().await).await;
            }

            #[tokio::test]
            async fn postgres() {
                if let Some(place) = Place::postgres().await {
                    super::$name(place).await;
                }
            }

            #[cfg(feature = "redis")]
            #[tokio::test]
            async fn redis() {
                if let Some(place) = crate::redis_server::place().await {
                    super::$name(place).await;
                }
            }
        }
    )* };
}

pub(crate) use on_every_store;
