//! PostgreSQL: a small pool of connections that the engine owns.
//!
//! A connection is lent without a ping, unless it has been idle for long or another connection has just been lost. One
//! whose statement did not come to its end (a deadline, a caller that went away) is closed and never lent again; its
//! place in the pool stays taken until the server has noticed and given up as well, so that callers who come and go
//! cannot make the server work on more statements at once than the pool has connections.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cratestack_schema::ir::Schema;
use sqlx::postgres::{PgArguments, PgConnectOptions, PgConnection, PgRow};
use sqlx::{Arguments as _, AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use super::{Control, Rows, Session, Statistics};
use crate::fault::{Class, Remedy, StoreError};
use crate::isolated;
use crate::sql::{Dialect, Statement};
use crate::storage::{Pager, RowReader, add_argument};
pub use gather::{Gather, Gathered};

mod gather;

/// How a pool is made.
#[derive(Debug, Clone)]
pub struct PoolOptions {
    /// Connections at most.
    pub connections: usize,
    /// Operations that may wait for a connection; one more is refused at once.
    pub waiting: usize,
    /// A connection that was idle for longer is pinged before it is lent.
    pub ping_after: Duration,
    /// PostgreSQL's `statement_timeout`: a bound for statements whose client is gone.
    pub statement_timeout: Duration,
}

impl Default for PoolOptions {
    fn default() -> Self {
        Self {
            connections: 16,
            waiting: 10_000,
            ping_after: Duration::from_secs(30),
            statement_timeout: Duration::from_secs(30),
        }
    }
}

/// Prepared statements that a connection keeps.
const STATEMENTS: usize = 1024;
/// Octets that an argument with its length rarely exceeds: those of a request then go into one buffer that never grows.
const ARGUMENT: usize = 32;
/// Rows that are rendered in one go.
const SLICE: usize = 64;
/// Makes the server look every so often whether the client of a running statement is still there.
const WATCH: &str = "SET client_connection_check_interval = 250";
/// How long after its connection was closed a statement may still run: two such looks.
const UNNOTICED: Duration = Duration::from_millis(500);
/// How long a ping may take before the connection counts as dead.
const PING: Duration = Duration::from_secs(1);

/// A pool of connections.
#[derive(Debug, Clone)]
pub struct Postgres {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    schema: Arc<Schema>,
    connect: PgConnectOptions,
    options: PoolOptions,
    permits: Semaphore,
    waiting: AtomicUsize,
    /// The last one used is lent first, so that what is not needed stays idle.
    idle: Mutex<Vec<Idle>>,
    /// Grows when a connection is lost: those that were idle then are pinged before they are lent.
    losses: AtomicU64,
    statistics: Arc<Statistics>,
}

#[derive(Debug)]
struct Idle {
    connection: PgConnection,
    since: Instant,
    losses: u64,
}

impl Postgres {
    /// A pool for `url`, whose rows are those of `schema`; connects when the first connection is needed.
    ///
    /// # Errors
    /// A sentence for the person who starts the service, when `url` is none.
    pub fn open(
        schema: &Arc<Schema>,
        url: &str,
        options: PoolOptions,
        statistics: Arc<Statistics>,
    ) -> Result<Self, String> {
        let connect = super::url::postgres(url).map_err(|error| format!("{error}; {}", error.help()))?;
        let set = |connect: PgConnectOptions, name: &str, value: String| {
            // What the URL sets itself is the operator's decision.
            let own = connect.get_options().is_some_and(|options| options.contains(name));
            if own { connect } else { connect.options([(name, value)]) }
        };
        // The search path is the server's or the URL's: migrations went there too.
        let mut connect = set(connect, "statement_timeout", format!("{}ms", options.statement_timeout.as_millis()));
        if connect.get_application_name().is_none() {
            connect = connect.application_name("cratestack");
        }
        let shared = Shared {
            schema: Arc::clone(schema),
            connect: connect.statement_cache_capacity(STATEMENTS).disable_statement_logging(),
            permits: Semaphore::new(options.connections),
            options,
            waiting: AtomicUsize::new(0),
            idle: Mutex::default(),
            losses: AtomicU64::new(0),
            statistics,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Counts of what was done.
    pub fn statistics(&self) -> &Statistics {
        &self.shared.statistics
    }

    /// A connection for one operation, until `deadline`.
    pub async fn session(&self, deadline: Instant) -> Result<PgSession, StoreError> {
        let lease = self.lease(deadline).await?;
        self.ready(lease, deadline).await
    }

    /// A lease with a connection: an idle one that answers, or a new one.
    async fn ready(&self, mut lease: Lease, deadline: Instant) -> Result<PgSession, StoreError> {
        while let Some(idle) = self.shared.take_idle() {
            if let Some(connection) = self.shared.revive(idle, deadline).await {
                lease.connection = Some(connection);
                return Ok(PgSession { lease, deadline, in_transaction: false, lent: false });
            }
        }
        // What is rare is boxed: every operation carries the room that it would take.
        let connect = timeout_at(deadline, Box::pin(self.shared.connect()));
        let unreachable = |error: String| StoreError::new(Class::NoConnection, format!("cannot connect: {error}"));
        let connection = connect.await.map_err(|_| unreachable("too slow".to_owned()))?;
        lease.connection = Some(connection.map_err(|error| unreachable(error.to_string()))?);
        Ok(PgSession { lease, deadline, in_transaction: false, lent: false })
    }

    async fn lease(&self, deadline: Instant) -> Result<Lease, StoreError> {
        let shared = &self.shared;
        match shared.permits.try_acquire() {
            Ok(permit) => permit.forget(),
            Err(tokio::sync::TryAcquireError::Closed) => return Err(busy("the pool is closed")),
            Err(tokio::sync::TryAcquireError::NoPermits) => {
                let _place = Place::take(shared).ok_or_else(|| busy("too many operations wait for a connection"))?;
                let permit = timeout_at(deadline, shared.permits.acquire()).await;
                let permit = permit.map_err(|_| busy("no connection was free before the deadline"))?;
                permit.map_err(|_| busy("the pool is closed"))?.forget();
            }
        }
        Ok(Lease { connection: None, reusable: true, running: false, shared: Arc::clone(shared) })
    }

    /// A connection outside of the pool, for work whose session matters: it holds a lock, or runs for long.
    pub(crate) async fn dedicated(&self, deadline: Instant) -> Result<Dedicated, StoreError> {
        let unreachable = |error: String| StoreError::new(Class::NoConnection, format!("cannot connect: {error}"));
        let connection = timeout_at(deadline, self.shared.connect()).await;
        let connection = connection.map_err(|_| unreachable("too slow".to_owned()))?;
        let connection = connection.map_err(|error| unreachable(error.to_string()))?;
        Ok(Dedicated { connection: Some(connection), shared: Arc::clone(&self.shared), deadline })
    }

    /// Waits until every connection is back, and closes them.
    pub async fn close(&self) {
        let all = u32::try_from(self.shared.options.connections).unwrap_or(u32::MAX);
        if let Ok(permits) = self.shared.permits.acquire_many(all).await {
            permits.forget();
        }
        self.shared.permits.close();
        while let Some(idle) = self.shared.take_idle() {
            // The server cleans up after those that cannot say goodbye.
            let _ = tokio::time::timeout(PING, idle.connection.close()).await;
        }
    }
}

impl Shared {
    async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        let mut connection = self.connect.connect().await?;
        // Servers before version 14, and some platforms, do not have it: there `statement_timeout` is the bound.
        let _ = connection.execute(WATCH).await;
        Ok(connection)
    }

    fn take_idle(&self) -> Option<Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    /// The connection, unless there is a reason to doubt it and it does not answer.
    async fn revive(&self, idle: Idle, deadline: Instant) -> Option<PgConnection> {
        let Idle { mut connection, since, losses } = idle;
        let now = Instant::now();
        let doubt = losses != self.losses.load(Ordering::Relaxed) || now - since > self.options.ping_after;
        if !doubt {
            return Some(connection);
        }
        let answer = timeout_at(deadline.min(now + PING), Box::pin(connection.ping())).await;
        answer.is_ok_and(|answer| answer.is_ok()).then_some(connection)
    }
}

fn busy(why: &str) -> StoreError {
    StoreError::new(Class::NoConnection, why)
}

fn late() -> StoreError {
    StoreError::new(Class::Deadline, "the deadline passed in the middle of a statement")
}

/// A place in the queue for a connection.
struct Place<'a>(&'a Shared);

impl<'a> Place<'a> {
    fn take(shared: &'a Shared) -> Option<Self> {
        let place = Self(shared);
        (shared.waiting.fetch_add(1, Ordering::Relaxed) < shared.options.waiting).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A lent connection. Goes back to the pool unless `reusable` is false.
#[derive(Debug)]
struct Lease {
    connection: Option<PgConnection>,
    reusable: bool,
    /// A statement was sent, and its end was not seen.
    running: bool,
    shared: Arc<Shared>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take().filter(|_| self.reusable) {
            let losses = self.shared.losses.load(Ordering::Relaxed);
            let idle = Idle { connection, since: Instant::now(), losses };
            self.shared.idle.lock().unwrap_or_else(PoisonError::into_inner).push(idle);
        }
        let permit = Permit(Arc::clone(&self.shared));
        if let Some(Ok(runtime)) = self.running.then(tokio::runtime::Handle::try_current) {
            runtime.spawn(async move {
                // A runtime that ends drops the task, and the permit goes back all the same.
                let _permit = permit;
                tokio::time::sleep(UNNOTICED).await;
            });
        }
    }
}

/// Goes back when dropped.
struct Permit(Arc<Shared>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.permits.add_permits(1);
    }
}

/// A connection in use by one operation.
#[derive(Debug)]
pub struct PgSession {
    lease: Lease,
    deadline: Instant,
    in_transaction: bool,
    /// Whether code of the host has had the connection.
    lent: bool,
}

impl PgSession {
    /// The connection itself, for what is no statement of a plan. `None` when it was lost.
    pub(crate) fn connection(&mut self) -> Option<&mut PgConnection> {
        self.lease.connection.as_mut()
    }

    /// Runs `work` on the connection; unless it comes to its end before the deadline, the connection is closed.
    async fn with<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, StoreError> {
        self.lease.shared.statistics.count();
        let Some(connection) = self.lease.connection.as_mut() else {
            return Err(StoreError::new(Class::ConnectionLost, "the connection was closed"));
        };
        self.lease.reusable = false;
        self.lease.running = true;
        let done = timeout_at(self.deadline, work(connection)).await;
        let Ok(done) = done else {
            self.lease.connection = None;
            return Err(late());
        };
        self.lease.running = false;
        let done = done.map_err(|error| StoreError::postgres(&error));
        match &done {
            Err(error) if error.class.remedy() == Remedy::Reconnect => {
                self.lease.shared.losses.fetch_add(1, Ordering::Relaxed);
                self.lease.connection = None;
            }
            // Its other statements are as old.
            Err(error) if error.class == Class::StalePlan && self.in_transaction => self.lease.connection = None,
            _ => self.lease.reusable = !self.in_transaction && !self.lent,
        }
        done
    }
}

impl PgSession {
    /// Begins a transaction by a statement that says how.
    pub(crate) async fn begin(&mut self, text: String) -> Result<(), StoreError> {
        self.in_transaction = true;
        self.with(async |connection| isolated::begin(connection, text).await).await
    }

    /// Commits what [`Self::begin`] began.
    pub(crate) async fn commit(&mut self) -> Result<(), StoreError> {
        let done = self.with(async |connection| isolated::commit(connection).await).await;
        if done.is_ok() {
            self.in_transaction = false;
            self.lease.reusable = !self.lent;
        }
        done
    }

    /// Rolls it back, if it is still under way.
    pub(crate) async fn roll_back(&mut self) -> Result<(), StoreError> {
        if !self.in_transaction {
            return Ok(());
        }
        self.in_transaction = false;
        self.with(async |connection| isolated::roll_back(connection).await).await
    }

    /// Whether code that had the connection has left the transaction.
    ///
    /// # Errors
    /// [`Class::Doomed`] where it has passed over an error; and others.
    pub(crate) async fn was_left(&mut self) -> Result<bool, StoreError> {
        if !self.lent || !self.in_transaction {
            return Ok(false);
        }
        self.with(async |connection| isolated::check(connection).await).await.map(|here| !here)
    }

    /// Whether sqlx counts another transaction than ours, after code has had the connection: what is sent now might not be
    /// part of it.
    pub(crate) fn is_astray(&self) -> bool {
        let here = self.lease.connection.as_ref().is_none_or(isolated::is_at_the_top);
        self.lent && self.in_transaction && !here
    }

    /// Lends the connection to code of the host. What that does to the session must not be another's.
    pub(crate) fn lend(&mut self) -> Option<&mut PgConnection> {
        self.lent = true;
        self.lease.reusable = false;
        // Until a statement of ours has come to its end, one of theirs may be under way.
        self.lease.running = true;
        self.lease.connection.as_mut()
    }

    /// Whether it was lent, and not cleaned since.
    pub(crate) fn is_lent(&self) -> bool {
        self.lent
    }

    /// Takes back what code has done to the session, so that the connection can be another's.
    pub(crate) async fn clean(&mut self) {
        self.deadline = Instant::now() + CLEANING;
        let cleaned = self.with(async |connection| connection.execute(CLEAN).await.map(|_| ())).await;
        if cleaned.is_ok() {
            // Servers before version 14 do not have it.
            let _ = self.with(async |connection| connection.execute(WATCH).await.map(|_| ())).await;
            self.lent = false;
            self.lease.reusable = self.lease.connection.is_some();
        }
    }
}

/// How long that may take.
const CLEANING: Duration = Duration::from_secs(5);

/// Takes back what a session can be told. Not DISCARD ALL, which takes our prepared statements along.
const CLEAN: &str = "RESET SESSION AUTHORIZATION; RESET ALL; UNLISTEN *; SELECT pg_advisory_unlock_all(); DISCARD TEMP";

impl Session for PgSession {
    async fn fetch(&mut self, statement: &Statement, pager: &mut (dyn Pager + Send)) -> Result<Rows, StoreError> {
        let fetched = self.rows(&statement.template.sql, || arguments(statement)).await?;
        read(&self.lease.shared.schema, statement, &fetched, pager).await
    }

    async fn control(&mut self, word: Control) -> Result<(), StoreError> {
        let text = spelled(word);
        match word {
            Control::Begin => self.in_transaction = true,
            Control::Commit | Control::Rollback => self.in_transaction = false,
            Control::Abandon => return self.roll_back().await,
            _ => {}
        }
        self.with(async |connection| connection.execute(text).await.map(|_| ())).await
    }
}

impl PgSession {
    /// All rows of a statement; once more where its plan was made for another version of its tables.
    async fn rows(
        &mut self,
        sql: &Arc<str>,
        arguments: impl Fn() -> Result<PgArguments, StoreError>,
    ) -> Result<Vec<PgRow>, StoreError> {
        let query = || Ok(sqlx::query_with(AssertSqlSafe(Arc::clone(sql)), arguments()?));
        let (first, in_transaction) = (query()?, self.in_transaction);
        match self.with(async |connection| connection.fetch_all(first).await).await {
            Err(error) if error.class == Class::StalePlan && !in_transaction => {
                self.with(async |connection| connection.clear_cached_statements().await).await?;
                let again = query()?;
                self.with(async |connection| connection.fetch_all(again).await).await
            }
            fetched => fetched,
        }
    }
}

/// A connection outside of the pool. After an error that says nothing about the connection's state (a deadline, a loss)
/// it is closed, and with it goes what its session held. Its statements are no part of the [`Statistics`], which tell
/// what requests cost.
#[derive(Debug)]
pub(crate) struct Dedicated {
    connection: Option<PgConnection>,
    shared: Arc<Shared>,
    deadline: Instant,
}

impl Dedicated {
    /// The connection itself, for what is no statement of a plan. `None` when it was lost.
    pub(crate) fn connection(&mut self) -> Option<&mut PgConnection> {
        self.connection.as_mut()
    }

    /// Until when the next statements may take.
    pub(crate) fn until(&mut self, deadline: Instant) {
        self.deadline = deadline;
    }

    async fn with<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, StoreError> {
        // Put back at the end: a caller that goes away in the middle leaves no connection in an unknown state.
        let Some(mut connection) = self.connection.take() else {
            return Err(StoreError::new(Class::ConnectionLost, "the connection was closed"));
        };
        let done = timeout_at(self.deadline, work(&mut connection)).await.map_err(|_| late())?;
        let done = done.map_err(|error| StoreError::postgres(&error));
        if done.as_ref().err().is_none_or(|error| error.class.remedy() != Remedy::Reconnect) {
            self.connection = Some(connection);
        }
        done
    }
}

impl Session for Dedicated {
    async fn fetch(&mut self, statement: &Statement, pager: &mut (dyn Pager + Send)) -> Result<Rows, StoreError> {
        let arguments = arguments(statement)?;
        let query = sqlx::query_with(AssertSqlSafe(Arc::clone(&statement.template.sql)), arguments);
        let fetched = self.with(async |connection| connection.fetch_all(query).await).await?;
        let shared = Arc::clone(&self.shared);
        read(&shared.schema, statement, &fetched, pager).await
    }

    async fn control(&mut self, word: Control) -> Result<(), StoreError> {
        self.with(async |connection| connection.execute(spelled(word)).await.map(|_| ())).await
    }
}

fn spelled(word: Control) -> &'static str {
    match word {
        Control::Begin => "BEGIN",
        Control::Commit => "COMMIT",
        Control::Rollback | Control::Abandon => "ROLLBACK",
        Control::Savepoint => "SAVEPOINT s",
        Control::Release => "RELEASE SAVEPOINT s",
        Control::RollbackTo => "ROLLBACK TO SAVEPOINT s; RELEASE SAVEPOINT s",
    }
}

fn arguments(statement: &Statement) -> Result<PgArguments, StoreError> {
    let mut arguments = PgArguments::default();
    arguments.reserve(statement.binds.len(), statement.binds.len() * ARGUMENT);
    for bind in &statement.binds {
        add_argument(bind, &mut arguments).map_err(|error| StoreError::new(Class::Other, error.to_string()))?;
    }
    Ok(arguments)
}

async fn read(
    schema: &Schema,
    statement: &Statement,
    fetched: &[PgRow],
    pager: &mut (dyn Pager + Send),
) -> Result<Rows, StoreError> {
    let reader = RowReader { schema, dialect: Dialect::Postgres };
    let mut rows = Rows::default();
    for (at, row) in (1_usize..).zip(fetched) {
        rows.push(reader, &statement.template, row, pager)?;
        if at.is_multiple_of(SLICE) {
            // A large page must not keep others from the thread.
            tokio::task::yield_now().await;
        }
    }
    Ok(rows)
}
