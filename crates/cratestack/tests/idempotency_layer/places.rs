//! Where records are kept in a test: a place of its own for each, gone at the end.

use std::any::Any;
use std::sync::Arc;

use cratestack::{IdempotencyStore, SqliteIdempotencyStore, SqlxIdempotencyStore};

pub(crate) use crate::servers::{Database, PATIENCE, until};

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

    #[cfg(feature = "redis")]
    pub(crate) async fn redis() -> Option<Self> {
        let server = crate::servers::Redis::start().await?;
        Some(Self::new(cratestack::RedisIdempotencyStore::new(&server.url()).unwrap(), server))
    }
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
                if let Some(place) = Place::redis().await {
                    super::$name(place).await;
                }
            }
        }
    )* };
}

pub(crate) use on_every_store;
