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
use sqlx::{AssertSqlSafe, Executor as _, PgConnection, PgPool, Postgres, SqlSafeStr as _};
use sqlx_core::transaction::TransactionManager as _;
use tokio::time::{Instant, timeout_at};

use crate::api::{Code, Failure};

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
        format!("BEGIN ISOLATION LEVEL {level} {access}{MARK}")
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
    /// [`PgPool`], else a [`Failure`].
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
    /// Commits. `again` says that another try comes where others got in the way.
    fn commit(self, again: bool) -> impl Future<Output = Result<(), Uncommitted>> + Send;

    /// Rolls back. `again` says that another try comes. Where it fails, the database rolls back, unless the body has ended
    /// the transaction by itself: then nobody knows what was committed.
    fn roll_back(self, again: bool) -> impl Future<Output = Result<(), BoxError>> + Send;

    /// What another try may come to, given what the body reports.
    fn prospect(&self, error: &(dyn StdError + 'static)) -> Prospect;
}

/// What another try of a transaction may come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prospect {
    /// The same.
    Same,
    /// The body has passed over an error. It may have been a serialisation failure.
    Unclear,
    /// Other transactions got in the way of this one: it may succeed.
    Better,
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

/// A running transaction of a [`PgPool`]. It cannot outlive the body that it was lent to.
#[derive(Debug)]
pub struct PgTx<'t> {
    connection: &'t mut PgConnection,
}

impl PgTx<'_> {
    /// The connection, inside of the transaction, which sqlx's own `begin` nests in as a savepoint. `COMMIT` and `ROLLBACK` are
    /// not the body's to send: that ends in [`TxError::OutcomeUnknown`].
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
    let deadline = Instant::now() + options.deadline.min(LONGEST);
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
                let prospect = begun.prospect(&error);
                let again = prospect != Prospect::Same && tries < most;
                if let Ok(Err(left)) = timeout_at(deadline, begun.roll_back(again)).await {
                    return Err(TxError::OutcomeUnknown(Some(left)));
                }
                if !again && prospect != Prospect::Better {
                    return Err(TxError::Body(error));
                }
            }
            Ok(value) => match timeout_at(deadline, begun.commit(tries < most)).await {
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

/// The longest that a transaction may take, whatever its options say.
const LONGEST: Duration = Duration::from_hours(24);

/// SQLSTATE of a statement in a transaction that has failed already.
const FAILED: &str = "25P02";

/// Marks a transaction, for [`CHECK`]. Part of the statement that begins.
const MARK: &str = "; SET LOCAL cratestack.tx = '1'";

/// What is asked before a commit where code has had the connection: it may have passed over an error, after which PostgreSQL
/// takes COMMIT for ROLLBACK and says that all is well, and this statement is refused; or it may have ended the
/// transaction by itself, and this divides by zero.
const CHECK: &str = "SELECT 1 / (coalesce(current_setting('cratestack.tx', true), '') = '1')::int";

/// SQLSTATE of [`CHECK`] where the transaction is not the one that began.
const ENDED: &str = "22012";

/// What is said then.
pub(crate) const ENDED_BY_BODY: &str = "the body has ended the transaction by itself";

/// Begins a transaction on a connection so that sqlx knows of it: what it begins itself is a savepoint then.
pub(crate) async fn begin(connection: &mut PgConnection, sql: String) -> Result<(), sqlx::Error> {
    PgTransactions::begin(connection, Some(AssertSqlSafe(sql).into_sql_str())).await
}

/// Commits it.
pub(crate) async fn commit(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    PgTransactions::commit(connection).await
}

/// Rolls it back.
pub(crate) async fn roll_back(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    PgTransactions::rollback(connection).await
}

type PgTransactions = <Postgres as sqlx::Database>::TransactionManager;

fn code(error: &sqlx::Error) -> Option<std::borrow::Cow<'_, str>> {
    error.as_database_error().and_then(sqlx::error::DatabaseError::code)
}

/// Whether the server itself ended the connection: the commit may have been done by then.
fn was_cut(error: &sqlx::Error) -> bool {
    code(error).is_some_and(|code| code.starts_with("57P") || code.starts_with("08"))
}

/// Whether an error asks for another try. The chain of causes is searched for one of sqlx, whose SQLSTATE decides, or of
/// ours, whose code does.
pub(crate) fn is_transient(error: &(dyn StdError + 'static)) -> bool {
    let mut at = Some(error);
    while let Some(error) = at {
        if let Some(found) = error.downcast_ref::<sqlx::Error>() {
            return code(found).is_some_and(|code| matches!(&*code, "40001" | "40P01"));
        }
        if let Some(found) = error.downcast_ref::<Failure>() {
            return found.code == Code::TransactionAborted;
        }
        at = error.source();
    }
    false
}

impl Host for PgPool {
    type Begun = Borrowed;
    type Tx<'t> = PgTx<'t>;

    async fn begin(&self, options: &TxOptions, _: Instant) -> Result<Borrowed, BoxError> {
        let mut borrowed = Borrowed(Some(self.acquire().await?));
        begin(borrowed.connection()?, options.begin()).await?;
        Ok(borrowed)
    }

    fn lend<'t>(&self, begun: &'t mut Borrowed) -> Result<PgTx<'t>, BoxError> {
        Ok(PgTx { connection: begun.connection()? })
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

    /// Whether the transaction is the one that began, and has not failed.
    ///
    /// # Errors
    /// That it is not; `Ok(false)` where its body has left it.
    async fn check(&mut self) -> Result<bool, sqlx::Error> {
        check(self.connection()?).await
    }

    fn is_over(&mut self) {
        drop(self.0.take());
    }
}

/// Whether the transaction on a connection is the one that [`begin`] began. Of a savepoint that sqlx has begun in it and not
/// ended, or of a rollback by a begin of sqlx's that failed, its count tells without asking the database.
///
/// # Errors
/// That the transaction has failed, and others.
pub(crate) async fn check(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    if !is_at_the_top(connection) {
        return Ok(false);
    }
    match connection.execute(CHECK).await {
        Err(error) if code(&error).is_some_and(|code| code == ENDED) => Ok(false),
        done => done.map(|_| true),
    }
}

/// Whether sqlx counts one transaction and no savepoint.
pub(crate) fn is_at_the_top(connection: &PgConnection) -> bool {
    PgTransactions::get_transaction_depth(connection) == 1
}

impl Begun for Borrowed {
    async fn commit(mut self, _: bool) -> Result<(), Uncommitted> {
        let done = async {
            let here = self.check().await?;
            if here {
                commit(self.connection()?).await?;
            }
            Ok(here)
        };
        let error: sqlx::Error = match done.await {
            Ok(true) => {
                self.is_over();
                return Ok(());
            }
            Ok(false) => return Err(Uncommitted::Unknown(ENDED_BY_BODY.into())),
            Err(error) if is_transient(&error) => return Err(Uncommitted::Aborted),
            Err(error) => error,
        };
        let certain = error.as_database_error().is_some() && !was_cut(&error);
        let doomed = code(&error).is_some_and(|code| code == FAILED);
        let error = Box::new(error);
        Err(match certain {
            true if doomed => Uncommitted::Doomed(error),
            true => Uncommitted::Refused(error),
            false => Uncommitted::Unknown(error),
        })
    }

    async fn roll_back(mut self, _: bool) -> Result<(), BoxError> {
        if let Ok(false) = self.check().await {
            return Err(ENDED_BY_BODY.into());
        }
        // Where this fails the connection goes, and the server undoes what it did.
        if let Ok(connection) = self.connection()
            && roll_back(connection).await.is_ok()
        {
            self.is_over();
        }
        Ok(())
    }

    fn prospect(&self, error: &(dyn StdError + 'static)) -> Prospect {
        if is_transient(error) { Prospect::Better } else { Prospect::Same }
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
