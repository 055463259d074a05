//! Buckets in PostgreSQL, for all processes.

use std::fmt::{self, Debug};

use sqlx::pool::PoolConnection;
use sqlx::{AssertSqlSafe, PgPool, Postgres};
use uuid::Uuid;

use super::{Adjustment, BoxFuture, Charge, Key, RateLimitStore, StoreDown, Taken};
use crate::migrate::LOCK;

/// Not logged: a crash of the server fills the buckets, and in exchange a decision waits for no disk.
const TABLE: &str = "CREATE UNLOGGED TABLE IF NOT EXISTS cratestack_rate_limits (
  key uuid NOT NULL PRIMARY KEY,
  full_at bigint NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02)";

/// Locks the rows in one order, made where there are none. Gives up when it has not got them all: one that was full may
/// have been removed meanwhile, and to make it now would be out of order. Functions, because each of their statements sees
/// what was committed before it, and a statement of its own would not see what it has waited for.
const LOCK_ROWS: &str = "  INSERT INTO cratestack_rate_limits (key, full_at)
    SELECT asked, 0 FROM unnest(keys) AS asked
    WHERE NOT EXISTS (SELECT FROM cratestack_rate_limits AS bucket WHERE bucket.key = asked)
    ORDER BY asked
    ON CONFLICT DO NOTHING;
  PERFORM FROM cratestack_rate_limits WHERE key = ANY (keys) ORDER BY key FOR UPDATE;
  GET DIAGNOSTICS locked = ROW_COUNT;
  IF locked <> (SELECT count(DISTINCT asked) FROM unnest(keys) AS asked) THEN
    RETURN NULL;
  END IF;
  now_nanos := (extract(epoch FROM clock_timestamp()) * 1000000)::bigint * 1000;
";

const FUNCTIONS: [(&str, &str, &str); 2] = [
    (
        "cratestack_rate_limit_take(keys uuid[], increments bigint[], capacities bigint[], costs bigint[], \
         mosts bigint[]) RETURNS bigint[]",
        "  debts bigint[];
  granted bigint[];
  allowed boolean;
",
        "  SELECT array_agg(debt ORDER BY at), array_agg(units * increment ORDER BY at), bool_and(units >= cost)
    INTO debts, granted, allowed
    FROM (
      SELECT asked.*, debt, least(greatest(cost, most), (capacity - debt) / increment) AS units
      FROM unnest(keys, increments, capacities, costs, mosts) WITH ORDINALITY
        AS asked (key, increment, capacity, cost, most, at)
      JOIN cratestack_rate_limits AS bucket USING (key)
      CROSS JOIN LATERAL (SELECT greatest(0, least(bucket.full_at - now_nanos, capacity)) AS debt) AS owed
    ) AS judged;
  IF allowed THEN
    UPDATE cratestack_rate_limits AS bucket
      SET full_at = now_nanos + debt + change
      FROM unnest(keys, debts, granted) AS done (key, debt, change)
      WHERE bucket.key = done.key AND change > 0;
  ELSE
    -- The clock went back.
    UPDATE cratestack_rate_limits AS bucket
      SET full_at = now_nanos + capacity
      FROM unnest(keys, capacities) AS asked (key, capacity)
      WHERE bucket.key = asked.key AND bucket.full_at > now_nanos + capacity;
  END IF;
  RETURN coalesce(debts, '{}');
",
    ),
    (
        "cratestack_rate_limit_adjust(keys uuid[], capacities bigint[], changes bigint[]) RETURNS boolean",
        "",
        "  UPDATE cratestack_rate_limits AS bucket
    SET full_at = now_nanos + greatest(0, least(
      greatest(0, least(bucket.full_at - now_nanos, capacity)) + change, capacity))
    FROM unnest(keys, capacities, changes) AS asked (key, capacity, change)
    WHERE bucket.key = asked.key;
  RETURN true;
",
    ),
];

/// How often a decision begins again, because a row was removed under its hands.
const TRIES: usize = 5;

/// What [`SqlxRateLimitStore::create_table`] runs, for whoever applies it by other means.
pub fn ddl() -> impl Iterator<Item = String> {
    let functions = FUNCTIONS.iter().map(|(head, variables, body)| {
        format!(
            "CREATE OR REPLACE FUNCTION {head} LANGUAGE plpgsql AS $cratestack$
#variable_conflict use_column
DECLARE
  locked bigint;
  now_nanos bigint;
{variables}BEGIN
{LOCK_ROWS}{body}END
$cratestack$"
        )
    });
    std::iter::once(TABLE.to_owned()).chain(functions)
}

const TAKE: &str = "SELECT cratestack_rate_limit_take($1, $2, $3, $4, $5)";
const ADJUST: &str = "SELECT cratestack_rate_limit_adjust($1, $2, $3)";
const READY: &str = "SELECT cratestack_rate_limit_take('{}', '{}', '{}', '{}', '{}')";
/// A bucket that has been full for a minute by the clock of the server is as good as none.
const SWEEP: &str = "DELETE FROM cratestack_rate_limits WHERE key IN (
  SELECT key FROM cratestack_rate_limits
  WHERE full_at < (extract(epoch FROM now()) * 1000000)::bigint * 1000 - 60000000000
  LIMIT 10000 FOR UPDATE SKIP LOCKED)";

/// Buckets in PostgreSQL, on a pool of the host's: every process whose pool leads to the same schema counts in the same
/// ones.
///
/// A decision about any number of buckets is one statement and one round trip on a connection that knows it (a pool with
/// `test_before_acquire` adds one), by the clock of the server, in a table that is not logged. Two decisions about one
/// bucket come one after the other. Transactions must be `read committed` on this pool, which is PostgreSQL's default:
/// at other levels decisions fail where they meet.
///
/// ```no_run
/// use cratestack_engine::ratelimit::SqlxRateLimitStore;
///
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = sqlx::PgPool::connect("postgres://bank@localhost/bank").await?;
/// let store = SqlxRateLimitStore::new(pool);
/// store.create_table().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct SqlxRateLimitStore {
    pool: PgPool,
}

impl SqlxRateLimitStore {
    /// A store in the table `cratestack_rate_limits` of the database that the pool leads to, in its first schema of the
    /// search path.
    pub fn new(pool: PgPool) -> Self {
        Self { pool }
    }

    /// Makes the table and its functions where they are not there yet. Safe when several processes start at once.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn create_table(&self) -> Result<(), StoreDown> {
        let work = async {
            let mut transaction = self.pool.begin().await?;
            sqlx::query("SET LOCAL lock_timeout = '60s'").execute(&mut *transaction).await?;
            sqlx::query("SET LOCAL statement_timeout = '90s'").execute(&mut *transaction).await?;
            // `IF NOT EXISTS` looks before it locks.
            sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(LOCK).execute(&mut *transaction).await?;
            for sql in ddl() {
                sqlx::query(AssertSqlSafe(sql)).execute(&mut *transaction).await?;
            }
            transaction.commit().await
        };
        work.await.map_err(|error| down(&error))
    }

    /// Whether the table and its functions are there.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    pub async fn has_table(&self) -> Result<bool, StoreDown> {
        let mut connection = self.connection().await?;
        match sqlx::query(READY).execute(&mut *connection).await {
            Ok(_) => Ok(true),
            // There is no such function, or no such table.
            Err(error) if code(&error).is_some_and(|code| code == "42883" || code == "42P01") => Ok(false),
            Err(error) => Err(down(&error)),
        }
    }

    /// A connection. Whoever asks may give up; what is being connected for it meanwhile is there for the next.
    async fn connection(&self) -> Result<PoolConnection<Postgres>, StoreDown> {
        if let Some(idle) = self.pool.try_acquire() {
            return Ok(idle);
        }
        let pool = self.pool.clone();
        if pool.size() >= pool.options().get_max_connections() {
            return pool.acquire().await.map_err(|error| down(&error));
        }
        match tokio::spawn(async move { pool.acquire().await }).await {
            Ok(made) => made.map_err(|error| down(&error)),
            Err(_) => Err(StoreDown::new("PostgreSQL: the runtime is ending")),
        }
    }
}

fn numbers<T>(of: &[T], number: impl Fn(&T) -> u64) -> Vec<i64> {
    of.iter().map(|one| i64::try_from(number(one)).unwrap_or(i64::MAX)).collect()
}

fn uuids<T>(of: &[T], key: impl Fn(&T) -> Key) -> Vec<Uuid> {
    of.iter().map(|one| Uuid::from_u128(key(one).0)).collect()
}

impl RateLimitStore for SqlxRateLimitStore {
    fn take<'a>(&'a self, charges: &'a [Charge]) -> BoxFuture<'a, Result<Taken, StoreDown>> {
        Box::pin(async move {
            let mut connection = self.connection().await?;
            for _ in 0..TRIES {
                let query = sqlx::query_scalar(TAKE)
                    .bind(uuids(charges, |charge| charge.key))
                    .bind(numbers(charges, |charge| charge.quota.increment()))
                    .bind(numbers(charges, |charge| charge.quota.capacity()))
                    .bind(numbers(charges, |charge| charge.cost))
                    .bind(numbers(charges, |charge| charge.most));
                let debts: Option<Vec<i64>> = query.fetch_one(&mut *connection).await.map_err(|error| down(&error))?;
                if let Some(debts) = debts {
                    let debts = debts.into_iter().map(|debt| u64::try_from(debt).unwrap_or_default());
                    return Ok(Taken::of(charges, debts));
                }
            }
            Err(StoreDown::new("PostgreSQL: the buckets are being removed again and again"))
        })
    }

    fn adjust<'a>(&'a self, adjustments: &'a [Adjustment]) -> BoxFuture<'a, Result<(), StoreDown>> {
        Box::pin(async move {
            let mut connection = self.connection().await?;
            for _ in 0..TRIES {
                let query = sqlx::query_scalar(ADJUST)
                    .bind(uuids(adjustments, |adjustment| adjustment.key))
                    .bind(numbers(adjustments, |adjustment| adjustment.quota.capacity()))
                    .bind(adjustments.iter().map(|adjustment| adjustment.change()).collect::<Vec<i64>>());
                let done: Option<bool> = query.fetch_one(&mut *connection).await.map_err(|error| down(&error))?;
                if done.is_some() {
                    return Ok(());
                }
            }
            Err(StoreDown::new("PostgreSQL: the buckets are being removed again and again"))
        })
    }

    fn sweep(&self) -> BoxFuture<'_, Result<u64, StoreDown>> {
        Box::pin(async move {
            let mut connection = self.connection().await?;
            let done = sqlx::query(SWEEP).execute(&mut *connection).await.map_err(|error| down(&error))?;
            Ok(done.rows_affected())
        })
    }

    fn ready(&self) -> BoxFuture<'_, Result<(), StoreDown>> {
        Box::pin(async move {
            if self.has_table().await? { Ok(()) } else { Err(StoreDown::new("the table of rate limits is not there")) }
        })
    }
}

/// Without the pool, whose options have a password.
impl Debug for SqlxRateLimitStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlxRateLimitStore").finish_non_exhaustive()
    }
}

fn code(error: &sqlx::Error) -> Option<String> {
    error.as_database_error().and_then(sqlx::error::DatabaseError::code).map(std::borrow::Cow::into_owned)
}

/// Texts of the database may have values, so only its code goes on.
fn down(error: &sqlx::Error) -> StoreDown {
    match code(error) {
        Some(code) => StoreDown::new(format!("PostgreSQL says {code}")),
        None if error.as_database_error().is_some() => StoreDown::new("PostgreSQL says nothing with a code"),
        None => StoreDown::new(error.to_string()),
    }
}
