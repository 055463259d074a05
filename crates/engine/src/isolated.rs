//! Transactions of a given isolation, run again as a whole when the database could not put them in an order.
//!
//! ```no_run
//! use cratestack_engine::isolated::{IsolationLevel, run_in_isolated_tx};
//! use sqlx::Executor as _;
//!
//! # async fn example(pool: sqlx::PgPool) -> Result<(), Box<dyn std::error::Error>> {
//! let moved = run_in_isolated_tx(&pool, IsolationLevel::Serializable, async move |tx| {
//!     tx.sqlx().execute("UPDATE accounts SET balance = balance - 1 WHERE id = 1").await?;
//!     tx.sqlx().execute("UPDATE accounts SET balance = balance + 1 WHERE id = 2").await
//! })
//! .await?;
//! assert_eq!(moved.rows_affected(), 1);
//! # Ok(())
//! # }
//! ```
//!
//! A serialisation failure (SQLSTATE 40001) or a deadlock (40P01), from any statement or from the commit, undoes the
//! transaction, and the body runs again from its beginning, after a pause. So a body must not do what cannot be undone:
//! effects outside of the database belong behind the call. Errors are told apart by their SQLSTATE alone, never by their
//! text. What the body reports as its own error is rolled back and given to the caller, once.
//!
//! This is the one loop that runs transactions again: the procedures of a schema go through it as well ([`Host`]).

use std::error::Error as StdError;
use std::fmt::Debug;
use std::time::Duration;

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
pub use cratestack_schema::ir::Isolation as IsolationLevel;
use sqlx::pool::PoolConnection;
use sqlx::{AssertSqlSafe, Executor as _, PgConnection, PgPool, Postgres};
use tokio::time::{Instant, timeout_at};

#[cfg(test)]
mod tests;

/// How a transaction is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TxOptions {
    /// What it may see of others.
    pub level: IsolationLevel,
    /// How often the body runs at most. Default 5.
    pub tries: u32,
    /// The longest pause before the second try; it doubles with each further one. The pause itself is a random part of
    /// it. Default 1 ms.
    pub first_pause: Duration,
    /// What that grows to. Default 64 ms.
    pub longest_pause: Duration,
    /// How long all tries and pauses may take together. Default 30 s.
    pub deadline: Duration,
    /// Whether changes are refused.
    pub read_only: bool,
}

impl TxOptions {
    /// The defaults, at that level.
    pub fn new(level: IsolationLevel) -> Self {
        Self {
            level,
            tries: 5,
            first_pause: Duration::from_millis(1),
            longest_pause: Duration::from_millis(64),
            deadline: Duration::from_secs(30),
            read_only: false,
        }
    }

    /// The level is part of the statement that begins: no round trip more.
    pub(crate) fn begin(&self) -> String {
        let level = match self.level {
            IsolationLevel::ReadCommitted => "READ COMMITTED",
            IsolationLevel::RepeatableRead => "REPEATABLE READ",
            IsolationLevel::Serializable => "SERIALIZABLE",
        };
        let access = if self.read_only { "READ ONLY" } else { "READ WRITE" };
        format!("BEGIN ISOLATION LEVEL {level} {access}")
    }

    /// Between nothing and a limit that doubles, so that those who met once do not meet again.
    fn pause(&self, tries: u32) -> Duration {
        let mut octets = [0; 4];
        // Without randomness the longest pause.
        let part = if SystemRandom::new().fill(&mut octets).is_ok() { u32::from_be_bytes(octets) } else { u32::MAX };
        let most = self.first_pause.saturating_mul(1 << tries.saturating_sub(1).min(16)).min(self.longest_pause);
        most.mul_f64(f64::from(part) / f64::from(u32::MAX))
    }
}

/// Why a transaction was not committed.
#[derive(Debug, thiserror::Error)]
pub enum TxError<E> {
    /// The body's own error; the transaction was rolled back.
    #[error(transparent)]
    Body(E),
    /// Other transactions got in the way of every try. Nothing was committed.
    #[error("concurrent transactions got in each other's way {tries} times; nothing was committed")]
    Aborted {
        /// How often the body ran.
        tries: u32,
    },
    /// The deadline passed. Nothing was committed.
    #[error("the transaction was not done before its deadline; nothing was committed")]
    Deadline,
    /// The database failed before the commit. Nothing was committed. The source is a [`sqlx::Error`] where the host is a
    /// [`PgPool`], else a [`Failure`](crate::api::Failure).
    #[error("the database failed; nothing was committed")]
    Database(#[source] BoxError),
    /// The database failed in the middle of the commit: nobody knows whether it was done.
    #[error("the database failed during the commit, whose outcome is unknown")]
    OutcomeUnknown(#[source] Option<BoxError>),
}

/// An error without its type.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// Where transactions are run: a [`PgPool`], or a database of a schema.
pub trait Host {
    /// A transaction that has begun.
    type Begun: Begun;
    /// What a body gets of it.
    type Tx<'t>;

    /// Begins a transaction.
    fn begin(
        &self,
        options: &TxOptions,
        deadline: Instant,
    ) -> impl Future<Output = Result<Self::Begun, BoxError>> + Send;

    /// Lends it to a body. Fails when it is over.
    fn lend<'t>(&self, begun: &'t mut Self::Begun) -> Result<Self::Tx<'t>, BoxError>;
}

/// A transaction that has begun. Dropped, it is rolled back.
pub trait Begun: Send {
    /// Commits.
    fn commit(self) -> impl Future<Output = Result<(), Uncommitted>> + Send;

    /// Rolls back. Where this fails, the database does it.
    fn roll_back(self) -> impl Future<Output = ()> + Send;

    /// Whether the transaction as a whole may succeed on another try, given what its body reports.
    fn may_succeed(&self, error: &(dyn StdError + 'static)) -> bool;
}

/// Why a commit did not succeed.
#[derive(Debug)]
pub enum Uncommitted {
    /// Other transactions got in the way.
    Aborted,
    /// An error that the body passed over made the commit impossible. It may have been a serialisation failure.
    Doomed(BoxError),
    /// The database refused, and nothing was committed.
    Refused(BoxError),
    /// Nobody knows whether it was committed.
    Unknown(BoxError),
}

/// A running transaction. It cannot outlive the body that it was lent to.
#[derive(Debug)]
pub struct Tx<'t> {
    connection: &'t mut PgConnection,
}

impl Tx<'_> {
    /// The connection, inside of the transaction. `BEGIN`, `COMMIT` and `ROLLBACK` are not the body's to send;
    /// savepoints are.
    pub fn sqlx(&mut self) -> &mut PgConnection {
        self.connection
    }
}

/// [`run_in_isolated_tx_with`], with the default options at that level.
///
/// # Errors
/// As there.
pub async fn run_in_isolated_tx<H: Host, T, E>(
    host: &H,
    level: IsolationLevel,
    body: impl AsyncFnMut(&mut H::Tx<'_>) -> Result<T, E>,
) -> Result<T, TxError<E>>
where
    E: StdError + 'static,
{
    run_in_isolated_tx_with(host, &TxOptions::new(level), body).await
}

/// Runs `body` in a transaction and commits it, again from the beginning where the database asks for that.
///
/// The future may be dropped at any time before the commit: the transaction is then rolled back.
///
/// # Errors
/// [`TxError::Body`] when the body says so, and the reasons for which nothing could be committed.
pub async fn run_in_isolated_tx_with<H: Host, T, E>(
    host: &H,
    options: &TxOptions,
    mut body: impl AsyncFnMut(&mut H::Tx<'_>) -> Result<T, E>,
) -> Result<T, TxError<E>>
where
    E: StdError + 'static,
{
    let deadline = Instant::now() + options.deadline;
    let most = options.tries.max(1);
    for tries in 1..=most {
        let begun = timeout_at(deadline, host.begin(options, deadline)).await;
        let mut begun = begun.map_err(|_| TxError::Deadline)?.map_err(TxError::Database)?;
        let done = {
            let mut tx = host.lend(&mut begun).map_err(TxError::Database)?;
            timeout_at(deadline, body(&mut tx)).await.map_err(|_| TxError::Deadline)?
        };
        match done {
            Err(error) => {
                let again = begun.may_succeed(&error);
                let _ = timeout_at(deadline, begun.roll_back()).await;
                if !again {
                    return Err(TxError::Body(error));
                }
            }
            Ok(value) => match timeout_at(deadline, begun.commit()).await {
                Ok(Ok(())) => return Ok(value),
                Ok(Err(Uncommitted::Aborted)) => {}
                Ok(Err(Uncommitted::Doomed(_))) if tries < most => {}
                Ok(Err(Uncommitted::Doomed(error) | Uncommitted::Refused(error))) => {
                    return Err(TxError::Database(error));
                }
                Ok(Err(Uncommitted::Unknown(error))) => return Err(TxError::OutcomeUnknown(Some(error))),
                Err(_) => return Err(TxError::OutcomeUnknown(None)),
            },
        }
        // The pause keeps no connection from others: the transaction is over.
        if tries < most {
            let pause = Instant::now() + options.pause(tries);
            tokio::time::sleep_until(pause.min(deadline)).await;
        }
    }
    Err(TxError::Aborted { tries: most })
}

/// SQLSTATE of a statement in a transaction that has failed already.
const FAILED: &str = "25P02";

fn code(error: &sqlx::Error) -> Option<std::borrow::Cow<'_, str>> {
    error.as_database_error().and_then(sqlx::error::DatabaseError::code)
}

/// Whether the server itself ended the connection: the commit may have been done by then.
fn was_cut(error: &sqlx::Error) -> bool {
    code(error).is_some_and(|code| code.starts_with("57P") || code.starts_with("08"))
}

/// Whether an error of sqlx asks for another try. The chain of causes is searched for one, and its SQLSTATE decides.
pub(crate) fn is_transient(error: &(dyn StdError + 'static)) -> bool {
    let mut at = Some(error);
    while let Some(error) = at {
        if let Some(found) = error.downcast_ref::<sqlx::Error>() {
            return code(found).is_some_and(|code| matches!(&*code, "40001" | "40P01"));
        }
        at = error.source();
    }
    false
}

impl Host for PgPool {
    type Begun = Borrowed;
    type Tx<'t> = Tx<'t>;

    async fn begin(&self, options: &TxOptions, _: Instant) -> Result<Borrowed, BoxError> {
        let mut borrowed = Borrowed(Some(self.acquire().await?));
        borrowed.send(&options.begin()).await?;
        Ok(borrowed)
    }

    fn lend<'t>(&self, begun: &'t mut Borrowed) -> Result<Tx<'t>, BoxError> {
        Ok(Tx { connection: begun.connection()? })
    }
}

/// A connection in a transaction. Unless that is ended, the connection is closed when this is dropped, and never lent
/// again: the pool knows nothing of transactions, and would lend it with this one in it.
#[derive(Debug)]
pub struct Borrowed(Option<PoolConnection<Postgres>>);

impl Borrowed {
    fn connection(&mut self) -> Result<&mut PgConnection, sqlx::Error> {
        // Taken at the end alone.
        self.0.as_deref_mut().ok_or(sqlx::Error::WorkerCrashed)
    }

    async fn send(&mut self, sql: &str) -> Result<(), sqlx::Error> {
        self.connection()?.execute(AssertSqlSafe(sql)).await.map(|_| ())
    }

    async fn end(mut self, how: &str) -> Result<(), sqlx::Error> {
        self.send(how).await?;
        drop(self.0.take());
        Ok(())
    }
}

impl Begun for Borrowed {
    async fn commit(self) -> Result<(), Uncommitted> {
        // A body may have swallowed an error, after which PostgreSQL takes COMMIT for ROLLBACK and says that all is well.
        // The statement before it is refused then.
        let Err(error) = self.end("SELECT 1; COMMIT").await else { return Ok(()) };
        if is_transient(&error) {
            return Err(Uncommitted::Aborted);
        }
        let certain = error.as_database_error().is_some() && !was_cut(&error);
        let doomed = code(&error).is_some_and(|code| code == FAILED);
        let error = Box::new(error);
        Err(match certain {
            true if doomed => Uncommitted::Doomed(error),
            true => Uncommitted::Refused(error),
            false => Uncommitted::Unknown(error),
        })
    }

    async fn roll_back(self) {
        // Where this fails the connection goes, and the server undoes what it did.
        let _ = self.end("ROLLBACK").await;
    }

    fn may_succeed(&self, error: &(dyn StdError + 'static)) -> bool {
        is_transient(error)
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            // Not in good order, which would wait for a statement that is still running.
            drop(connection.detach());
        }
    }
}
