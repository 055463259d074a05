//! Records in PostgreSQL.

use std::fmt::{self, Debug};
use std::sync::Arc;

use sqlx::postgres::PgArguments;
use sqlx::{AssertSqlSafe, PgPool, Row as _};

use super::text::{Bind, Step, Texts, place, sql_store};
use super::{BoxFuture, Found, IdempotencyStore, Reservation, Reserved, StoreDown, Token};
use crate::idempotency::{Identity, Record, tables};
use crate::migrate::LOCK;
use crate::sql::Dialect;

/// Records in PostgreSQL, on a pool of the host's; a lease is measured by the clock of the database.
///
/// Every step is one statement, and one round trip on a connection that knows it (a pool with `test_before_acquire`
/// adds one). Nothing is removed before it has expired, and then by [`Self::purge`].
///
/// ```no_run
/// use cratestack_engine::idempotency::store::SqlxIdempotencyStore;
///
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = sqlx::PgPool::connect("postgres://bank@localhost/bank").await?;
/// let store = SqlxIdempotencyStore::new(pool);
/// store.create_table().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct SqlxIdempotencyStore {
    pool: PgPool,
    texts: Arc<Texts>,
}

impl SqlxIdempotencyStore {
    /// A store in the table `cratestack_idempotency` of the database that the pool leads to, in its first schema of the
    /// search path.
    pub fn new(pool: PgPool) -> Self {
        Self { pool, texts: Arc::new(Texts::of(Dialect::Postgres)) }
    }

    /// Makes the table where it is not there yet. Safe when several processes start at once. A migration of a schema
    /// with keys makes the same table.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn create_table(&self) -> Result<(), StoreDown> {
        let work = async {
            let mut transaction = self.pool.begin().await?;
            sqlx::query("SET LOCAL lock_timeout = '60s'").execute(&mut *transaction).await?;
            // `IF NOT EXISTS` looks before it locks.
            sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(LOCK).execute(&mut *transaction).await?;
            for sql in tables(Dialect::Postgres) {
                sqlx::query(AssertSqlSafe(sql)).execute(&mut *transaction).await?;
            }
            transaction.commit().await
        };
        work.await.map_err(|error| down(&error))
    }

    /// Removes what has expired, a thousand rows at a time, and says how many. A service of a schema on the same database does so by
    /// itself; a table without one needs it now and then.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses. What was removed before that is gone.
    pub async fn purge(&self) -> Result<u64, StoreDown> {
        let mut removed = 0;
        loop {
            let done = sqlx::query(AssertSqlSafe(self.texts.purge.clone())).execute(&self.pool).await;
            match done.map_err(|error| down(&error))?.rows_affected() {
                0 => return Ok(removed),
                some => removed += some,
            }
        }
    }

    async fn change(&self, step: Step<'_>, identity: &Identity, reservation: &Reservation) -> Result<bool, StoreDown> {
        let (text, binds) = self.texts.step(step, identity, reservation);
        let done = query(text, binds).execute(&self.pool).await;
        match done {
            Ok(done) => Ok(done.rows_affected() > 0),
            // Where transactions are serializable unless they say otherwise, this is how it is told that another was
            // first.
            Err(error) if matches!(step, Step::Reserve) && is_serialization(&error) => Ok(false),
            Err(error) => Err(down(&error)),
        }
    }

    async fn find(&self, identity: &Identity) -> Result<Option<Found>, StoreDown> {
        let row = query(&self.texts.find, place(identity)).fetch_optional(&self.pool).await;
        let found = row.and_then(|row| {
            row.map(|row| {
                Ok(Found {
                    fingerprint: row.try_get(0)?,
                    state: row.try_get::<i16, _>(1)?.into(),
                    token: row.try_get(2)?,
                    ended: row.try_get(3)?,
                    status: row.try_get::<Option<i16>, _>(4)?.map(i64::from),
                    headers: row.try_get(5)?,
                    body: row.try_get(6)?,
                })
            })
            .transpose()
        });
        found.map_err(|error| down(&error))
    }
}

sql_store!(SqlxIdempotencyStore);

/// Without the pool, whose options have a password.
impl Debug for SqlxIdempotencyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlxIdempotencyStore").finish_non_exhaustive()
    }
}

fn query<'a>(text: &str, binds: Vec<Bind<'a>>) -> sqlx::query::Query<'a, sqlx::Postgres, PgArguments> {
    binds.into_iter().fold(sqlx::query(AssertSqlSafe(text.to_owned())), |query, bind| match bind {
        Bind::Octets(octets) => query.bind(octets),
        Bind::MaybeOctets(octets) => query.bind(octets),
        Bind::Text(text) => query.bind(text),
        Bind::Owned(text) => query.bind(text),
        Bind::Number(number) => query.bind(number),
    })
}

fn is_serialization(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(sqlx::error::DatabaseError::code).as_deref() == Some("40001")
}

/// Texts of the database may have values of rows, so only its code goes on.
fn down(error: &sqlx::Error) -> StoreDown {
    match error.as_database_error() {
        Some(database) => {
            StoreDown::new(format!("PostgreSQL says {}", database.code().as_deref().unwrap_or("nothing with a code")))
        }
        None => StoreDown::new(error.to_string()),
    }
}
