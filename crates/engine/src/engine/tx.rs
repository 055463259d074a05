//! Transactions that code of the host runs: operations of several callers, and SQL of its own, in one.
//!
//! An operation that is refused (403, 404, 412, 422 by the rules) leaves the transaction as it was. What the *database*
//! refuses ends it: every later operation gets the same failure, and nothing can be committed. That is PostgreSQL's rule,
//! and holds on SQLite as well, so that code does not work on one and fail on the other.

use std::error::Error as StdError;
use std::fmt;
use std::fmt::Write as _;
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cratestack_schema::ir::ModelId;
use sqlx::PgConnection;
use tokio::sync::{MappedMutexGuard, MutexGuard};
use tokio::time::Instant;

use super::denials::{self, Watched};
use super::futures::now;
use super::keyed::is_race;
use super::procedures::of_own_sql;
use super::{Core, Engine, Place, Stop, Store, Work, answer};
use crate::api::{Answer, Caller, Code, Failure, Operation};
use crate::audit::Context;
use crate::fault::{Class, Remedy, StoreError};
use crate::idempotency::{self, Entry, Found, Keyed, Record};
use crate::isolated::{Begun, BoxError, ENDED_BY_BODY, Host, Prospect, TxOptions, Uncommitted, is_transient};
use crate::json::Json;
use crate::logs;
use crate::outbox;
use crate::sql::{Bind, Dialect, Statement, Template};
use crate::storage::Pager;
use crate::store::postgres::PgSession;
use crate::store::sqlite::{Access, Held, SqliteSession};
use crate::store::{Control, Nested, NoPages, Rows, Session};

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::type_complexity, reason = "tests")]
mod tests;

/// A transaction of an engine. Made by [`run_in_isolated_tx`](crate::isolated::run_in_isolated_tx) over [`Opener`].
pub struct Tx {
    core: Arc<Core>,
    access: Access,
    context: Option<Arc<Context>>,
    state: tokio::sync::Mutex<State>,
    /// Whether code has the connection just now.
    lent: AtomicBool,
    refusals: Refusals,
    afterwards: Mutex<Vec<Box<dyn FnOnce() + Send>>>,
}

impl fmt::Debug for Tx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tx").field("access", &self.access).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct State {
    link: Link,
    /// Why nothing more can be done in it.
    failed: Option<Failure>,
    /// What another try may come to.
    prospect: Prospect,
    /// Whether the triggers of PostgreSQL have been told of another caller than the transaction's.
    told: bool,
    /// Whether it may run again after its connection was lost.
    keyed: bool,
}

impl State {
    fn note(&mut self, class: Class) {
        let lost = matches!(class, Class::ConnectionLost | Class::NoConnection);
        if class.remedy() == Remedy::Again || (lost && self.keyed) {
            self.prospect = Prospect::Better;
        } else if class == Class::Doomed && self.prospect == Prospect::Same {
            self.prospect = Prospect::Unclear;
        }
    }

    /// Notes how an operation went, after which a failure of the database ends the transaction.
    fn settle<T>(
        &mut self,
        done: Result<T, StoreError>,
        failure: impl FnOnce(StoreError) -> Failure,
    ) -> Result<T, Failure> {
        if let Err(error) = &done {
            self.note(error.class);
        }
        let done = done.map_err(failure);
        self.failed = done.as_ref().err().cloned();
        done
    }
}

#[derive(Debug)]
enum Link {
    Postgres(Box<PgSession>),
    Sqlite(Held),
}

const GIVEN_UP: &str = "an operation of the transaction was given up before its end";

const READ_ONLY: &str = "a transaction that only reads cannot change rows";

/// A refusal that `@@audit(denials)` records.
#[derive(Debug)]
struct Refusal {
    caller: Caller,
    model: ModelId,
    keys: Vec<String>,
}

/// The refusals of a transaction. They are recorded in transactions of their own when it is over, whatever became of it: on
/// SQLite the writer is free only then. Nobody waits for that.
struct Refusals {
    core: Arc<Core>,
    list: Mutex<Vec<Refusal>>,
}

impl Refusals {
    fn push(&self, refusal: Refusal) {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        // More of them are not recorded in a minute.
        if list.len() < self.core.options.limits.denials_per_minute as usize {
            list.push(refusal);
        }
    }

    /// The next try meets them again.
    fn forget(&mut self) {
        self.list.get_mut().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Drop for Refusals {
    fn drop(&mut self) {
        let list = std::mem::take(self.list.get_mut().unwrap_or_else(PoisonError::into_inner));
        if let (false, Ok(runtime)) = (list.is_empty(), tokio::runtime::Handle::try_current()) {
            let core = Arc::clone(&self.core);
            runtime.spawn(async move {
                for Refusal { caller, model, keys } in list {
                    denials::record(&core, &caller, model, &keys).await;
                }
            });
        }
    }
}

/// Begins transactions of an engine.
#[derive(Debug, Clone)]
pub struct Opener {
    engine: Engine,
    context: Option<Arc<Context>>,
    /// The lock that PostgreSQL takes with `BEGIN`, and how long it waits for it.
    lock: Option<(i64, Duration)>,
}

impl Opener {
    /// For what `caller` does. SQL of one's own in these transactions is recorded as the caller's.
    pub fn new(engine: &Engine, caller: &Caller) -> Self {
        let core = &engine.core;
        let recorded = core.trailed.contains(&true);
        let context = recorded.then(|| Arc::new(Context::new(&core.schema, caller, &core.options.service)));
        Self { engine: engine.clone(), context, lock: None }
    }

    /// The same for a request with an idempotency key: its transactions hold the key's lock, and a lost connection is a reason
    /// for another try.
    pub(super) fn keyed(self, keyed: &Keyed) -> Self {
        Self { lock: Some((idempotency::lock(&keyed.identity), keyed.limits.wait)), ..self }
    }
}

impl Host for Opener {
    type Begun = Tx;
    type Tx<'t> = &'t Tx;

    async fn begin(&self, options: &TxOptions, deadline: Instant) -> Result<Tx, BoxError> {
        let core = Arc::clone(&self.engine.core);
        let link = open(&core.store, options, self.context.as_deref(), self.lock, deadline).await;
        let link = link.map_err(|error| match self.lock {
            Some(_) if error.class == Class::LockTimeout => idempotency::in_flight(),
            _ => error.class.failure(&error.message),
        })?;
        Ok(Tx {
            access: if options.read_only { Access::Read } else { Access::Write },
            context: self.context.clone(),
            state: tokio::sync::Mutex::new(State {
                link,
                failed: None,
                prospect: Prospect::Same,
                told: false,
                keyed: self.lock.is_some(),
            }),
            lent: AtomicBool::new(false),
            refusals: Refusals { core: Arc::clone(&core), list: Mutex::default() },
            afterwards: Mutex::default(),
            core,
        })
    }

    fn lend<'t>(&self, begun: &'t mut Tx) -> Result<&'t Tx, BoxError> {
        Ok(begun)
    }
}

async fn open(
    store: &Store,
    options: &TxOptions,
    context: Option<&Context>,
    lock: Option<(i64, Duration)>,
    deadline: Instant,
) -> Result<Link, StoreError> {
    match store {
        Store::Postgres(pool) => {
            let mut begin = options.begin();
            if let Some((lock, wait)) = lock {
                let wait = idempotency::lock_timeout(wait);
                // Writing into a string does not fail.
                let _ = write!(
                    begin,
                    "; SET LOCAL lock_timeout = '{wait}'; SELECT pg_advisory_xact_lock({lock}); \
                     SET LOCAL lock_timeout TO DEFAULT"
                );
            }
            if let Some(context) = context.filter(|_| !options.read_only) {
                begin.push_str(&told(context));
            }
            let mut again = true;
            loop {
                let mut session = Box::new(pool.session(deadline).await?);
                match session.begin(begin.clone()).await {
                    // Nothing was under way.
                    Err(error) if error.class.remedy() == Remedy::Reconnect && again => again = false,
                    done => break done.map(|()| Link::Postgres(session)).map_err(StoreError::harmless),
                }
            }
        }
        Store::Sqlite(database) => {
            let access = if options.read_only { Access::Read } else { Access::Write };
            Ok(Link::Sqlite(database.hold(access, deadline.into()).await?))
        }
    }
}

/// The statement that tells the triggers of PostgreSQL who acts, in the round trip of BEGIN, which takes no bound values.
/// Its text is quoted by a mark that it does not contain, and so cannot end.
fn told(context: &Context) -> String {
    let text = context.lines();
    let mut mark = "$told".to_owned();
    while text.contains(&mark) {
        mark.push('_');
    }
    format!("; SELECT set_config('{}', {mark}${text}{mark}$, true)", logs::SETTING)
}

/// The same, later on.
fn tell(context: &Context) -> Statement {
    let sql = format!("SELECT set_config('{}', $1, true) IS NULL", logs::SETTING);
    Statement { template: Arc::new(Template::fixed(&sql, &[])), binds: vec![Bind::Text(context.lines())] }
}

impl Tx {
    /// The engine.
    pub fn engine(&self) -> Engine {
        Engine { core: Arc::clone(&self.core) }
    }

    /// Whether it may change rows.
    pub fn access(&self) -> Access {
        self.access
    }

    /// Runs one operation in this transaction. The deadline is the transaction's, whatever the caller's is.
    ///
    /// # Errors
    /// As [`Engine::run`]; and the failure that has ended the transaction.
    pub async fn run(&self, caller: &Caller, operation: Operation) -> Result<Answer, Failure> {
        let watched = Watched::of(&self.core, &operation);
        let outcome = answer(&self.core, Place::Within(self), caller, operation).await;
        if let Some(watched) = watched {
            let keys = watched.refused(outcome.as_ref());
            if !keys.is_empty() {
                self.refusals.push(Refusal { caller: caller.clone(), model: watched.model(), keys });
            }
        }
        outcome
    }

    /// The database product.
    pub fn dialect(&self) -> Dialect {
        self.core.store.dialect()
    }

    /// The connection of a PostgreSQL database, for SQL of one's own inside of the transaction, where sqlx's own `begin` makes a
    /// savepoint. What it changes is recorded as the caller's. `COMMIT` and `ROLLBACK` are not the code's to send: what was
    /// committed then nobody knows. Other operations of the transaction are refused until it is given back.
    ///
    /// # Errors
    /// [`Code::NotImplemented`] on SQLite; the failure that has ended the transaction.
    pub async fn sqlx(&self) -> Result<Sqlx<'_>, Failure> {
        let mut state = self.enter().await?;
        let told = std::mem::take(&mut state.told);
        let Link::Postgres(session) = &mut state.link else {
            state.failed = None;
            let detail = "this database is SQLite, which sqlx does not serve here; `sqlite` has its connection";
            return Err(Failure::new(Code::NotImplemented, detail));
        };
        let mut done = Ok(());
        if let Some(context) = self.context.as_ref().filter(|_| told) {
            done = session.fetch(&tell(context), &mut NoPages).await.map(|_| ());
        }
        let lost = || StoreError::new(Class::NoConnection, "the connection was closed");
        let done = done.and_then(|()| session.lend().map(|_| ()).ok_or_else(lost));
        state.settle(done.map_err(StoreError::harmless), |error| error.class.failure(&error.message))?;
        let connection = MutexGuard::try_map(state, |state| match &mut state.link {
            Link::Postgres(session) => session.connection(),
            Link::Sqlite(_) => None,
        });
        let connection = connection.map_err(|_| Failure::new(Code::Internal, GIVEN_UP))?;
        self.lent.store(true, Ordering::Relaxed);
        Ok(Sqlx { connection, lent: &self.lent })
    }

    /// Runs SQL of one's own on the connection of an SQLite database, on that connection's thread, inside of the
    /// transaction. What it changes is recorded as the caller's. It neither begins nor ends a transaction.
    ///
    /// # Errors
    /// [`Code::NotImplemented`] on PostgreSQL; the failure that has ended the transaction; what the database refuses.
    pub async fn sqlite<T: Send + 'static>(
        &self,
        work: impl FnOnce(&rusqlite::Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Failure> {
        let mut state = self.enter().await?;
        let Link::Sqlite(held) = &mut state.link else {
            state.failed = None;
            let detail = "this database is PostgreSQL; `sqlx` has its connection";
            return Err(Failure::new(Code::NotImplemented, detail));
        };
        let statements = self.context.as_ref().map(|context| (self.core.trail.set(context), self.core.trail.clear()));
        let statements = statements.filter(|_| self.access == Access::Write);
        let run = move |session: &mut SqliteSession<'_>| -> Result<Result<T, rusqlite::Error>, StoreError> {
            if let Some((set, _)) = &statements {
                now(session.fetch(set, &mut NoPages))?;
            }
            let done = session.lend(work)?;
            if let Some((_, clear)) = &statements {
                now(session.fetch(clear, &mut NoPages))?;
            }
            Ok(done)
        };
        let done = held.run(run).await.and_then(|done| done);
        let done = state.settle(done, |error| of_own_sql(&error))?;
        // No error of the database: its code may have looked for a row that is not there.
        done.map_err(|error| Failure::new(Code::Internal, "an internal error").with_internal(error.to_string()))
    }

    /// Adds an event of the service's own to the outbox of `@@emit`, to be delivered once the transaction is committed: its
    /// CloudEvents type is `<schema>.<name>`. Events of one name and subject are delivered in the order of their commits.
    ///
    /// # Errors
    /// [`Code::NotImplemented`] where the schema has no `@@emit`; [`Code::Internal`] for a name that is not snake case, and for
    /// what is too large (65,535 octets with its frame); the failure that has ended the transaction.
    pub async fn emit(&self, caller: &Caller, name: &str, subject: &str, data: &Json) -> Result<(), Failure> {
        let core = &self.core;
        let context = Context::new(&core.schema, caller, &core.options.service);
        let event = outbox::Own { name, subject, data };
        let statements = outbox::own(&core.schema, &core.trail, &context, event)?;
        if self.access == Access::Read {
            return Err(Failure::new(Code::Internal, READ_ONLY));
        }
        let mut state = self.enter().await?;
        let done = match &mut state.link {
            Link::Postgres(session) => run_all(session.as_mut(), &statements).await,
            Link::Sqlite(held) => {
                let run = move |session: &mut SqliteSession<'_>| now(run_all(session, &statements));
                held.run(run).await.and_then(|done| done)
            }
        };
        state.settle(done.map_err(StoreError::harmless), |error| error.class.failure(&error.message))
    }

    /// Does something once the transaction has been committed, and not otherwise. It must not block.
    pub fn after_commit(&self, work: impl FnOnce() + Send + 'static) {
        self.afterwards.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(work));
    }

    /// The transaction, for one operation. Until that has told how it went, the transaction counts as failed: one that is
    /// given up in the middle leaves nobody knows what.
    async fn enter(&self) -> Result<MutexGuard<'_, State>, Failure> {
        if self.lent.load(Ordering::Relaxed) {
            let lent = "what `sqlx()` gave is still in use, and the transaction has one connection";
            return Err(Failure::new(Code::Internal, lent));
        }
        let mut state = self.state.lock().await;
        if let Some(failed) = &state.failed {
            return Err(failed.clone());
        }
        if matches!(&state.link, Link::Postgres(session) if session.is_astray()) {
            state.failed = Some(left());
            return Err(left());
        }
        state.failed = Some(Failure::new(Code::Internal, GIVEN_UP));
        Ok(state)
    }

    pub(super) async fn write(&self, work: Arc<Work>) -> Result<Answer, Failure> {
        if self.access == Access::Read {
            return Err(Failure::new(Code::Internal, READ_ONLY));
        }
        let (model, told) = (work.model(), work.context.is_some());
        let mut state = self.enter().await?;
        let (done, given_up) = match &mut state.link {
            Link::Postgres(session) => {
                let mut nested = Nested::new(session.as_mut());
                let done = work.run(&self.core, &mut nested).await;
                (done, nested.given_up)
            }
            Link::Sqlite(held) => {
                let core = Arc::clone(&self.core);
                let done = held.run(move |session| in_savepoint(&core, &work, session)).await;
                done.unwrap_or_else(|error| (Err(Stop::Database(error)), true))
            }
        };
        state.told |= told;
        if let Err(Stop::Database(error) | Stop::Data(error)) = &done {
            state.note(error.class);
        }
        let over = given_up || matches!(done, Err(Stop::Database(_) | Stop::Data(_)));
        let done = done.map_err(|stop| self.core.refusal(model, stop.harmless()));
        state.failed = done.as_ref().err().filter(|_| over).cloned();
        done
    }

    /// Looks a request with an idempotency key up.
    pub(super) async fn find(&self, keyed: &Keyed) -> Result<Option<Found>, Failure> {
        let statement = self.core.kept.find(&keyed.identity);
        let rows = self.read(statement, NoPages, |error| error.class.failure(&error.message)).await?;
        Ok(Found::of(rows.control(0)))
    }

    /// Records the answer to one. Where another transaction was quicker, all of this one runs again, and finds it; unless it looks
    /// `apart` from its transaction: then its caller is to look.
    pub(super) async fn keep(&self, entry: &Entry, record: &Record, limit: usize, apart: bool) -> Result<(), Failure> {
        let statement = self.core.kept.insert(entry, record, limit);
        let mut state = self.enter().await?;
        let done = match &mut state.link {
            // Outside of the transaction it would say of what was undone that it was done.
            Link::Postgres(session) => match session.was_left().await {
                Ok(true) => {
                    state.failed = Some(left());
                    return Err(left());
                }
                Ok(false) => session.fetch(&statement, &mut NoPages).await,
                Err(error) => Err(error),
            },
            Link::Sqlite(held) => {
                let run = move |session: &mut SqliteSession<'_>| now(session.fetch(&statement, &mut NoPages));
                held.run(run).await.and_then(|done| done)
            }
        };
        let done = done.map_err(|error| match (is_race(&error), apart) {
            (true, true) => error,
            (true, false) => StoreError::new(Class::Serialization, error.message),
            (false, _) => error.harmless(),
        });
        let failure = |error: StoreError| {
            if is_race(&error) { idempotency::in_flight() } else { error.class.failure(&error.message) }
        };
        state.settle(done, failure).map(|_| ())
    }

    /// Runs a statement that only reads.
    pub(super) async fn read(
        &self,
        statement: Statement,
        mut pager: impl Pager + Send + 'static,
        failure: impl FnOnce(StoreError) -> Failure,
    ) -> Result<Rows, Failure> {
        let mut state = self.enter().await?;
        let done = match &mut state.link {
            Link::Postgres(session) => session.fetch(&statement, &mut pager).await,
            Link::Sqlite(held) => {
                let run = move |session: &mut SqliteSession<'_>| now(session.fetch(&statement, &mut pager));
                held.run(run).await.and_then(|done| done)
            }
        };
        state.settle(done.map_err(StoreError::harmless), failure)
    }
}

async fn run_all<S: Session>(session: &mut S, statements: &[Statement]) -> Result<(), StoreError> {
    for statement in statements {
        session.fetch(statement, &mut NoPages).await?;
    }
    Ok(())
}

/// Runs a write so that nothing is left of it where it is refused: neither its changes nor what the triggers were told.
fn in_savepoint(core: &Core, work: &Work, session: &mut SqliteSession<'_>) -> (Result<Answer, Stop>, bool) {
    let mut nested = Nested::new(session);
    let done = now(async {
        nested.control(Control::Savepoint).await?;
        let done = work.run(core, &mut nested).await;
        // What was given up has no savepoints any more.
        if !nested.given_up {
            nested.control(if done.is_ok() { Control::Release } else { Control::RollbackTo }).await?;
        }
        done
    });
    let given_up = nested.given_up;
    (done, given_up)
}

impl Begun for Tx {
    async fn commit(self, again: bool) -> Result<(), Uncommitted> {
        let Self { state, mut refusals, afterwards, .. } = self;
        let State { link, failed, prospect, .. } = state.into_inner();
        let done = match (failed, link) {
            (None, link) => committed(link).await,
            (Some(failed), Link::Postgres(session)) if session.is_astray() => Err(Uncommitted::Unknown(failed.into())),
            (Some(failed), link) => {
                drop(link);
                Err(match prospect {
                    Prospect::Better => Uncommitted::Aborted,
                    Prospect::Unclear => Uncommitted::Doomed(failed.into()),
                    Prospect::Same => Uncommitted::Refused(failed.into()),
                })
            }
        };
        if again && matches!(done, Err(Uncommitted::Aborted | Uncommitted::Doomed(_))) {
            refusals.forget();
        }
        done?;
        for work in afterwards.into_inner().unwrap_or_else(PoisonError::into_inner) {
            // The transaction is committed, whatever they do.
            if catch_unwind(AssertUnwindSafe(work)).is_err() {
                tracing::error!("what was to be done after a commit has panicked");
            }
        }
        Ok(())
    }

    async fn roll_back(self, again: bool) -> Result<(), BoxError> {
        let Self { state, mut refusals, .. } = self;
        if again {
            refusals.forget();
        }
        if let Link::Postgres(mut session) = state.into_inner().link {
            if let Ok(true) = session.was_left().await {
                return Err(left().into());
            }
            // Where this fails the connection goes, and the server undoes what it did.
            let _ = session.roll_back().await;
        }
        Ok(())
    }

    fn prospect(&self, error: &(dyn StdError + 'static)) -> Prospect {
        if is_transient(error) {
            return Prospect::Better;
        }
        let Ok(state) = self.state.try_lock() else { return Prospect::Same };
        match state.prospect {
            // What the body reports may have nothing to do with what it has passed over.
            Prospect::Unclear if !state.failed.as_ref().is_some_and(|failed| reports(error, failed)) => Prospect::Same,
            prospect => prospect,
        }
    }
}

/// Whether an error is that failure, or comes of it.
fn reports(error: &(dyn StdError + 'static), failed: &Failure) -> bool {
    let mut at = Some(error);
    while let Some(error) = at {
        if error.downcast_ref::<Failure>().is_some_and(|found| found == failed) {
            return true;
        }
        at = error.source();
    }
    false
}

fn left() -> Failure {
    Failure::new(Code::Internal, "an internal error").with_internal(ENDED_BY_BODY)
}

async fn committed(link: Link) -> Result<(), Uncommitted> {
    let done = match link {
        Link::Postgres(mut session) => match session.was_left().await {
            Ok(true) => return Err(Uncommitted::Unknown(left().into())),
            Err(error) => Err(error),
            Ok(false) => {
                let done = session.commit().await;
                if done.is_ok() && session.is_lent() {
                    // The answer does not wait for that.
                    tokio::spawn(async move { session.clean().await });
                }
                done
            }
        },
        Link::Sqlite(held) => held.commit().await,
    };
    done.map_err(|error| {
        let failure = error.class.failure(&error.message).into();
        match error.class {
            class if class.remedy() == Remedy::Again => Uncommitted::Aborted,
            Class::Doomed => Uncommitted::Doomed(failure),
            class if class.outcome_unknown() => Uncommitted::Unknown(failure),
            _ => Uncommitted::Refused(failure),
        }
    })
}

/// The connection of a transaction on PostgreSQL, for SQL of one's own. An executor of sqlx is `&mut *sqlx`.
///
/// ```no_run
/// # async fn example(tx: &cratestack_engine::engine::tx::Tx) -> Result<(), Box<dyn std::error::Error>> {
/// let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM accounts").fetch_one(&mut *tx.sqlx().await?).await?;
/// # assert!(rows >= 0);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Sqlx<'t> {
    connection: MappedMutexGuard<'t, PgConnection>,
    lent: &'t AtomicBool,
}

impl Drop for Sqlx<'_> {
    fn drop(&mut self) {
        self.lent.store(false, Ordering::Relaxed);
    }
}

impl Deref for Sqlx<'_> {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.connection
    }
}

impl DerefMut for Sqlx<'_> {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.connection
    }
}
