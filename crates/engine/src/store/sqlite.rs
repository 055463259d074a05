//! The embedded SQLite: one writer thread with group commit, and reader threads.
//!
//! A thread hop per statement would cost more than the statement, so a whole operation is one *job* that runs on the
//! connection's own thread. The writer takes what is queued, gives each job a savepoint, commits them together and
//! answers every caller after the commit: one flush to the disk serves many. A job may therefore run twice: when the
//! commit of a group fails, its jobs run again, each in a transaction of its own.
//!
//! A transaction whose statements depend on code elsewhere (`held`) has the writer for itself while it lasts.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cratestack_schema::ir::Schema;
use rusqlite::config::DbConfig;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::{Connection, ErrorCode, OpenFlags};
use tokio::sync::{mpsc, oneshot};

use super::{Control, Rows, Session, Statistics};
use crate::engine::OpenError;
use crate::fault::{Class, StoreError};
use crate::predicate;
use crate::sql::{Dialect, Statement};
use crate::storage::{self, Pager, RowReader};
pub use held::Access;
pub(crate) use held::Held;

mod held;

/// Jobs that wait for a thread; one more waits, with its deadline, for room.
const QUEUE: usize = 1024;
/// Jobs that share a commit.
const GROUP: usize = 128;
/// Prepared statements that a connection keeps.
const STATEMENTS: usize = 512;
/// How long another process may hold the file.
const BUSY: Duration = Duration::from_secs(5);
/// Virtual machine steps between two looks at the deadline.
const STEPS: i32 = 10_000;

/// An open SQLite database.
#[derive(Debug)]
pub struct Sqlite {
    /// `None` once it is closed.
    queues: RwLock<Option<Queues>>,
    /// The writer's first.
    threads: Mutex<Vec<JoinHandle<()>>>,
    statistics: Arc<Statistics>,
}

#[derive(Debug)]
struct Queues {
    writer: mpsc::Sender<Box<dyn Job>>,
    /// `None` in memory: there the one connection does everything.
    readers: Option<mpsc::Sender<Box<dyn Job>>>,
}

/// What the threads run. Type-erased: a [`Task`] knows what it answers.
trait Job: Send {
    /// Whether it needs a transaction that it shares with nobody, and cannot run twice.
    fn alone(&self) -> bool {
        false
    }
    /// How long there is use in the work.
    fn patience(&self) -> Patience;
    /// Does the work; `true` keeps its changes. May be called again if the changes are lost.
    fn run(&mut self, session: &mut SqliteSession<'_>) -> bool;
    /// Puts an error in place of the result.
    fn fail(&mut self, error: StoreError);
    /// Sends the result. The last call.
    fn answer(&mut self);
}

/// How long there is use in a job.
#[derive(Clone, Debug)]
struct Patience {
    /// When nobody waits for the answer any more.
    deadline: Instant,
    /// Whether the caller of a job that only reads has gone.
    gone: Arc<AtomicBool>,
}

impl Patience {
    fn is_over(&self) -> bool {
        self.gone.load(Ordering::Relaxed) || self.deadline <= Instant::now()
    }
}

/// Notes that a caller has gone.
struct Goodbye(Arc<AtomicBool>);

impl Drop for Goodbye {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

struct Task<W, T, E> {
    patience: Patience,
    work: W,
    result: Option<Result<T, E>>,
    caller: Option<oneshot::Sender<Result<T, E>>>,
}

impl<W, T, E> Job for Task<W, T, E>
where
    W: FnMut(&mut SqliteSession<'_>) -> Result<T, E> + Send,
    T: Send,
    E: From<StoreError> + Send,
{
    fn patience(&self) -> Patience {
        self.patience.clone()
    }

    fn run(&mut self, session: &mut SqliteSession<'_>) -> bool {
        self.result.insert((self.work)(session)).is_ok()
    }

    fn fail(&mut self, error: StoreError) {
        self.result = Some(Err(error.into()));
    }

    fn answer(&mut self) {
        if let (Some(caller), Some(result)) = (self.caller.take(), self.result.take()) {
            // Nobody listens when the caller has gone; the work is done all the same.
            let _ = caller.send(result);
        }
    }
}

impl Sqlite {
    /// Opens (and creates) the file at `path`, or a database in memory for `None`, and lets `prepare` look at it before
    /// anybody else does. Its rows are those of `schema`. Blocks.
    ///
    /// # Errors
    /// For the person who starts the service.
    pub fn open<E: Into<OpenError>>(
        schema: &Arc<Schema>,
        path: Option<&Path>,
        readers: usize,
        statistics: Arc<Statistics>,
        prepare: impl FnOnce(&mut Connection) -> Result<(), E>,
    ) -> Result<Self, OpenError> {
        make_directory(path)?;
        let (writer, jobs) = mpsc::channel(QUEUE);
        let mut thread = Thread::open(schema, path, Role::Writer, &statistics)?;
        prepare(&mut thread.connection).map_err(E::into)?;
        let mut threads = vec![thread.spawn("sqlite-writer", write_loop, jobs)?];
        let mut shared = None;
        if path.is_some() {
            let (sender, jobs) = mpsc::channel(QUEUE);
            let jobs = Arc::new(Mutex::new(jobs));
            for _ in 0..readers.max(1) {
                let thread = Thread::open(schema, path, Role::Reader, &statistics)?;
                threads.push(thread.spawn("sqlite-reader", read_loop, Arc::clone(&jobs))?);
            }
            shared = Some(sender);
        }
        let queues = Queues { writer, readers: shared };
        Ok(Self { queues: RwLock::new(Some(queues)), threads: Mutex::new(threads), statistics })
    }

    /// Counts of what was done.
    pub fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    /// Runs `work` on the writer, in a savepoint: `Ok` keeps its changes, `Err` undoes them. Answers after the commit.
    /// Work that is queued is done even if the caller stops waiting, unless its deadline passes before it starts.
    pub async fn write<W, T, E>(&self, deadline: Instant, work: W) -> Result<T, E>
    where
        W: FnMut(&mut SqliteSession<'_>) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        self.submit(Role::Writer, deadline, work).await
    }

    /// Runs `work` on a reader; changes are refused there.
    pub async fn read<W, T, E>(&self, deadline: Instant, work: W) -> Result<T, E>
    where
        W: FnMut(&mut SqliteSession<'_>) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        self.submit(Role::Reader, deadline, work).await
    }

    /// Begins a transaction, as soon as the thread is free for it.
    pub(crate) async fn hold(&self, access: Access, deadline: Instant) -> Result<Held, StoreError> {
        let (job, begun, held) = Held::prepare(access, deadline);
        let role = if access == Access::Write { Role::Writer } else { Role::Reader };
        self.place(role, deadline, job).await?;
        match begun.await {
            Ok(()) => Ok(held),
            Err(_) => Err(held.refusal().await),
        }
    }

    /// Puts a job into its queue, as soon as there is room.
    async fn place(&self, role: Role, deadline: Instant, job: Box<dyn Job>) -> Result<(), StoreError> {
        if let Some((queue, job)) = self.enqueue(role, job)? {
            let room = tokio::time::timeout_at(deadline.into(), queue.send(job)).await;
            room.map_err(|_| late())?.map_err(|_| closed())?;
        }
        Ok(())
    }

    async fn submit<W, T, E>(&self, role: Role, deadline: Instant, work: W) -> Result<T, E>
    where
        W: FnMut(&mut SqliteSession<'_>) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let (caller, answer) = oneshot::channel();
        let patience = Patience { deadline, gone: Arc::default() };
        // Nothing is lost with a read, and others wait for the thread. A write runs to its end.
        let _goodbye = (role == Role::Reader).then(|| Goodbye(Arc::clone(&patience.gone)));
        let task: Box<dyn Job> = Box::new(Task { patience, work, result: None, caller: Some(caller) });
        self.place(role, deadline, task).await?;
        answer.await.map_err(|_| closed())?
    }

    /// Puts a job into its queue; gives both back when the queue is full.
    #[expect(clippy::type_complexity, reason = "used once")]
    fn enqueue(
        &self,
        role: Role,
        job: Box<dyn Job>,
    ) -> Result<Option<(mpsc::Sender<Box<dyn Job>>, Box<dyn Job>)>, StoreError> {
        let queues = self.queues.read().unwrap_or_else(PoisonError::into_inner);
        let queues = queues.as_ref().ok_or_else(closed)?;
        let queue = queues.readers.as_ref().filter(|_| role == Role::Reader).unwrap_or(&queues.writer);
        match queue.try_send(job) {
            Ok(()) => Ok(None),
            Err(mpsc::error::TrySendError::Full(job)) => Ok(Some((queue.clone(), job))),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(closed()),
        }
    }

    /// Does what is queued and closes the connections. Further work is refused.
    pub async fn close(&self) {
        let queues = self.queues.write().unwrap_or_else(PoisonError::into_inner).take();
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        // Readers first: SQLite folds the log into the file when the last connection closes, and of two that close at
        // the same time neither is the last.
        let join = move || {
            let mut threads = threads.into_iter();
            let writer = threads.next();
            let queue = queues.map(|Queues { writer, readers }| {
                drop(readers);
                writer
            });
            for reader in threads {
                let _ = reader.join();
            }
            drop(queue);
            let _ = writer.map(JoinHandle::join);
        };
        let _ = tokio::task::spawn_blocking(join).await;
    }
}

fn make_directory(path: Option<&Path>) -> Result<(), OpenError> {
    if let Some(directory) = path.and_then(Path::parent).filter(|directory| !directory.as_os_str().is_empty()) {
        std::fs::create_dir_all(directory)
            .map_err(|error| format!("cannot create the directory `{}`: {error}", directory.display()))
            .map_err(OpenError::Database)?;
    }
    Ok(())
}

/// Opens (and creates) the file at `path`, and lets `prepare` do what it does once. Blocks.
pub(crate) fn prepared<T, E: Into<OpenError>>(
    path: &Path,
    prepare: impl FnOnce(&mut Connection) -> Result<T, E>,
) -> Result<T, OpenError> {
    prepare(&mut writer(path)?).map_err(E::into)
}

/// Opens (and creates) the file at `path` as the writer does. Blocks.
pub(crate) fn writer(path: &Path) -> Result<Connection, OpenError> {
    make_directory(Some(path))?;
    opened(Some(path), Role::Writer)
}

/// Opens the file at `path` as readers do: nothing is changed. Blocks.
pub(crate) fn reader(path: &Path) -> Result<Connection, OpenError> {
    opened(Some(path), Role::Reader)
}

fn opened(path: Option<&Path>, role: Role) -> Result<Connection, OpenError> {
    connect(path, role).map_err(|error| {
        let path = path.map_or_else(|| PathBuf::from(":memory:"), Path::to_owned);
        OpenError::Database(match error.sqlite_error_code() {
            Some(ErrorCode::NotADatabase) => {
                format!("`{}` is not a SQLite database; name another file, or move this one away", path.display())
            }
            _ => format!("cannot open the SQLite database `{}`: {error}", path.display()),
        })
    })
}

fn late() -> StoreError {
    StoreError::new(Class::Timeout, "the deadline passed before the operation could start")
}

fn closed() -> StoreError {
    StoreError::new(Class::NoConnection, "the database is closed")
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Role {
    Writer,
    Reader,
}

/// A connection on the way to its thread.
struct Thread {
    schema: Arc<Schema>,
    role: Role,
    connection: Connection,
    clock: Clock,
    statistics: Arc<Statistics>,
}

/// The patience of the job at hand, for SQLite's progress handler.
#[derive(Clone, Default, Debug)]
struct Clock(Arc<Mutex<Option<Patience>>>);

impl Clock {
    fn set(&self, patience: Option<Patience>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = patience;
    }

    /// Lets a connection look at it every so often.
    fn watch(&self, connection: &Connection) -> rusqlite::Result<()> {
        let clock = self.clone();
        connection.progress_handler(STEPS, Some(move || clock.passed()))
    }

    fn passed(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).as_ref().is_some_and(Patience::is_over)
    }
}

impl Thread {
    fn open(
        schema: &Arc<Schema>,
        path: Option<&Path>,
        role: Role,
        statistics: &Arc<Statistics>,
    ) -> Result<Self, OpenError> {
        let connection = opened(path, role)?;
        let clock = Clock::default();
        clock.watch(&connection).map_err(|error| OpenError::Database(error.to_string()))?;
        let (schema, statistics) = (Arc::clone(schema), Arc::clone(statistics));
        Ok(Self { schema, role, connection, clock, statistics })
    }

    fn spawn<J: Send + 'static>(self, name: &str, body: fn(Self, J), jobs: J) -> Result<JoinHandle<()>, OpenError> {
        let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(move || body(self, jobs));
        spawned.map_err(|error| OpenError::Database(format!("cannot start a thread: {error}")))
    }

    fn session(&mut self) -> SqliteSession<'_> {
        SqliteSession {
            connection: &mut self.connection,
            statistics: &self.statistics,
            schema: &self.schema,
            clock: &self.clock,
            reader: self.role == Role::Reader,
            fatal: None,
        }
    }

    fn execute(&self, sql: &str) -> Result<(), StoreError> {
        let done = self.connection.prepare_cached(sql).and_then(|mut statement| statement.raw_execute());
        done.map(|_| ()).map_err(|error| StoreError::sqlite(&error))
    }

    /// Ends a transaction that is still open; some errors have ended it by themselves.
    fn roll_back(&self) {
        if !self.connection.is_autocommit() {
            // Should this fail, the next transaction does not begin, and its callers are told.
            let _ = self.execute("ROLLBACK");
        }
    }

    /// Runs one job; a panic becomes its error. The answer says whether to keep the changes, or why the transaction
    /// as a whole is in doubt.
    fn attempt(&mut self, job: &mut dyn Job) -> Result<bool, StoreError> {
        self.clock.set(Some(job.patience()));
        let mut session = self.session();
        let done = catch_unwind(AssertUnwindSafe(|| job.run(&mut session)));
        let fatal = session.fatal.take();
        self.clock.set(None);
        if let Some(fatal) = fatal {
            return Err(fatal);
        }
        Ok(done.unwrap_or_else(|_| {
            job.fail(StoreError::new(Class::Other, "the operation panicked"));
            false
        }))
    }
}

fn connect(path: Option<&Path>, role: Role) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = match path {
        Some(path) => Connection::open_with_flags(path, flags)?,
        None => Connection::open_in_memory_with_flags(flags)?,
    };
    connection.busy_timeout(BUSY)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    // A double-quoted name that is no column is an error, never a string.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DML, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DDL, false)?;
    predicate::register_functions(&connection)?;
    storage::register_functions(&connection)?;
    #[cfg(feature = "faults")]
    crate::faults::register_functions(&connection)?;
    // The first statement that reads the file finds out whether it is a database at all.
    connection.query_row("PRAGMA schema_version", [], |_| Ok(()))?;
    if path.is_some() && role == Role::Writer {
        connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
    }
    // `recursive_triggers`: a tombstone's cascade walks a tree of the same table.
    connection.execute_batch(match role {
        Role::Writer => {
            "PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA recursive_triggers = ON; \
             PRAGMA temp_store = MEMORY; PRAGMA cache_size = -16384"
        }
        Role::Reader => "PRAGMA query_only = ON; PRAGMA temp_store = MEMORY; PRAGMA cache_size = -16384",
    })?;
    Ok(connection)
}

fn write_loop(mut thread: Thread, mut jobs: mpsc::Receiver<Box<dyn Job>>) {
    let mut group = Vec::with_capacity(GROUP);
    while jobs.blocking_recv_many(&mut group, GROUP) > 0 {
        for together in group.chunk_by_mut(|one, next| !one.alone() && !next.alone()) {
            if let Err(error) = commit_together(&mut thread, together) {
                match &mut *together {
                    [only] => only.fail(error),
                    several => {
                        for job in several {
                            if let Err(error) = commit_together(&mut thread, std::slice::from_mut(job)) {
                                job.fail(error);
                            }
                        }
                    }
                }
            }
            for job in together {
                job.answer();
            }
        }
        group.clear();
    }
}

/// Runs the jobs in one transaction. On an error nothing was committed.
fn commit_together(thread: &mut Thread, jobs: &mut [Box<dyn Job>]) -> Result<(), StoreError> {
    thread.statistics.count_group();
    thread.roll_back();
    // Another process may hold the file: wait as long as the most patient caller does.
    let patience = jobs.iter().map(|job| job.patience().deadline.saturating_duration_since(Instant::now())).max();
    let patience = thread.connection.busy_timeout(patience.unwrap_or_default().min(BUSY));
    patience.map_err(|error| StoreError::sqlite(&error))?;
    thread.execute("BEGIN IMMEDIATE")?;
    let done = run_group(thread, jobs).and_then(|()| thread.execute("COMMIT"));
    if done.is_err() {
        thread.roll_back();
    }
    done
}

fn run_group(thread: &mut Thread, jobs: &mut [Box<dyn Job>]) -> Result<(), StoreError> {
    for job in jobs {
        if job.patience().is_over() {
            job.fail(late());
            continue;
        }
        thread.execute("SAVEPOINT job")?;
        if !thread.attempt(job.as_mut())? {
            thread.execute("ROLLBACK TO job")?;
        }
        thread.execute("RELEASE job")?;
    }
    Ok(())
}

#[expect(clippy::needless_pass_by_value, reason = "the thread owns what it works on")]
fn read_loop(mut thread: Thread, jobs: Arc<Mutex<mpsc::Receiver<Box<dyn Job>>>>) {
    loop {
        // Idle readers queue for the lock; the one that has it waits for the next job.
        let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
        let Some(mut job) = next else { return };
        if job.patience().is_over() {
            job.fail(late());
        } else if let Err(error) = thread.attempt(job.as_mut()) {
            job.fail(error);
        }
        job.answer();
    }
}

/// A job's view of its connection. Its futures are always ready.
#[derive(Debug)]
pub struct SqliteSession<'c> {
    connection: &'c mut Connection,
    statistics: &'c Statistics,
    schema: &'c Schema,
    clock: &'c Clock,
    /// Whether the connection is one that never changes anything.
    reader: bool,
    /// The first error that puts the transaction as a whole in doubt.
    fatal: Option<StoreError>,
}

/// Names of savepoints that are ours.
const SAVEPOINTS: [&str; 3] = ["job", "t", "s"];

/// Pragmas that tell of what their argument names, and set nothing.
const TELLING: [&str; 7] =
    ["table_info", "table_xinfo", "table_list", "index_list", "index_info", "index_xinfo", "foreign_key_list"];

/// What SQL of the host's own may do inside of a transaction.
fn stays(context: AuthContext<'_>) -> Authorization {
    match context.action {
        AuthAction::Savepoint { savepoint_name, .. }
            if !SAVEPOINTS.iter().any(|ours| savepoint_name.eq_ignore_ascii_case(ours)) =>
        {
            Authorization::Allow
        }
        AuthAction::Pragma { pragma_name, pragma_value: Some(_) } if !TELLING.contains(&pragma_name) => {
            Authorization::Deny
        }
        // Temporary objects would outlive the transaction, and hide others.
        AuthAction::Transaction { .. }
        | AuthAction::Savepoint { .. }
        | AuthAction::Attach { .. }
        | AuthAction::Detach { .. }
        | AuthAction::CreateTempIndex { .. }
        | AuthAction::CreateTempTable { .. }
        | AuthAction::CreateTempTrigger { .. }
        | AuthAction::CreateTempView { .. } => Authorization::Deny,
        _ => Authorization::Allow,
    }
}

impl SqliteSession<'_> {
    fn rows(&mut self, statement: &Statement, pager: &mut dyn Pager) -> Result<Rows, StoreError> {
        let reader = RowReader { schema: self.schema, dialect: Dialect::Sqlite };
        let mut run = || -> rusqlite::Result<Result<Rows, StoreError>> {
            let mut prepared = self.connection.prepare_cached(&statement.template.sql)?;
            for (at, bind) in (1..).zip(&statement.binds) {
                prepared.raw_bind_parameter::<usize, _>(at, bind)?;
            }
            let mut fetched = prepared.raw_query();
            let mut rows = Rows::default();
            while let Some(row) = fetched.next()? {
                if let Err(error) = rows.push(reader, &statement.template, row, pager) {
                    return Ok(Err(error));
                }
            }
            Ok(Ok(rows))
        };
        self.statistics.count();
        let done = run();
        done.unwrap_or_else(|error| Err(self.failed(&error)))
    }

    /// Notes errors after which the transaction may be gone as a whole.
    fn failed(&mut self, error: &rusqlite::Error) -> StoreError {
        let error = StoreError::sqlite(error);
        if matches!(error.class, Class::DiskFull | Class::Io | Class::OutOfMemory) || self.connection.is_autocommit() {
            self.fatal.get_or_insert_with(|| error.clone());
        }
        error
    }

    /// Runs SQL of the host's own, which must stay in the transaction: what would end it, or reach around it, is refused.
    ///
    /// # Errors
    /// What the database refuses; and what is no error of the database, after which the transaction is as it was.
    pub(crate) fn lend<T>(
        &mut self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<Result<T, rusqlite::Error>, StoreError> {
        let connection = &*self.connection;
        // After an error that has ended the transaction by itself (OR ROLLBACK), each statement would be one of its own.
        let guarded = connection.authorizer(Some(stays)).and_then(|()| connection.commit_hook(Some(|| true)));
        let done = catch_unwind(AssertUnwindSafe(|| guarded.and_then(|()| work(connection))));
        let free = connection.commit_hook(None::<fn() -> bool>);
        let free = free.and_then(|()| connection.authorizer(None::<fn(AuthContext<'_>) -> Authorization>));
        // The deadline is not the code's to lift.
        if let Err(error) = free.and_then(|()| self.clock.watch(connection)) {
            return Err(self.failed(&error));
        }
        let done = done.map_err(|_| StoreError::new(Class::Other, "the code of the transaction panicked"));
        if self.connection.is_autocommit() {
            // An error of the database's has ended it, which the code may have passed over.
            let ended = match done? {
                Err(error) => StoreError::sqlite(&error),
                Ok(_) => StoreError::new(Class::Other, "the transaction was ended in the middle"),
            };
            return Err(self.fatal.get_or_insert(ended).clone());
        }
        match done? {
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::AuthorizationForStatementDenied) => {
                let why = "SQL of one's own begins and ends no transaction, and makes nothing that would outlive it";
                Err(StoreError::new(Class::Other, why))
            }
            Err(error @ (rusqlite::Error::SqliteFailure(..) | rusqlite::Error::SqlInputError { .. })) => {
                Err(self.failed(&error))
            }
            done => Ok(done),
        }
    }

    /// Whether changes are refused from now on, on a connection that is not a reader's.
    fn read_only(&mut self, yes: bool) -> Result<(), StoreError> {
        // A reader's stays as it is.
        if self.reader {
            return Ok(());
        }
        let done = self.connection.pragma_update(None, "query_only", yes);
        done.map_err(|error| self.failed(&error))
    }

    fn word(&mut self, word: Control) -> Result<(), StoreError> {
        let texts: &[&str] = match word {
            // The commit is the group's. What comes after a rollback must not see what was rolled back.
            Control::Begin => &["SAVEPOINT t"],
            Control::Commit => &["RELEASE t"],
            Control::Rollback => &["ROLLBACK TO t", "RELEASE t"],
            Control::Savepoint => &["SAVEPOINT s"],
            Control::Release => &["RELEASE s"],
            Control::RollbackTo => &["ROLLBACK TO s", "RELEASE s"],
            // The writer's own savepoint, which it releases at the end.
            Control::Abandon => &["ROLLBACK TO job"],
        };
        for text in texts {
            self.statistics.count();
            let done = self.connection.prepare_cached(text).and_then(|mut statement| statement.raw_execute());
            done.map_err(|error| self.failed(&error))?;
        }
        Ok(())
    }
}

impl Session for SqliteSession<'_> {
    fn fetch(
        &mut self,
        statement: &Statement,
        pager: &mut (dyn Pager + Send),
    ) -> impl Future<Output = Result<Rows, StoreError>> + Send {
        std::future::ready(self.rows(statement, pager))
    }

    fn control(&mut self, word: Control) -> impl Future<Output = Result<(), StoreError>> + Send {
        std::future::ready(self.word(word))
    }
}
