//! The engine: one schema on one database, and the life of a write.
//!
//! A write goes through these steps, in docs/http.md's order of refusals:
//!
//! 1. `Mutation::prepare`: an anonymous caller whom the rules refuse outright (401), the input (422), the expected
//!    version (428), any caller whom the rules refuse outright (403), the key, defaults, the plan. No IO.
//! 2. [`Engine::run`] lends a connection: a pooled one on PostgreSQL, the writer's own on SQLite.
//! 3. `perform`: the one statement that writes. If it changed no row, the diagnosis says why (404, 403, 412, 422),
//!    or that nothing was to change, or that it lost a race: then it runs again.
//! 4. What the database refuses becomes an answer by the table in [`crate::fault`]; what it lost to another transaction
//!    runs again, a bounded number of times.
//!
//! A batch is the same, several times in one transaction. Steps 2 to 4 end even if the caller goes away.

mod cache;
mod denials;
pub(crate) mod futures;
mod keyed;
pub mod procedures;
pub mod purge;
mod read;
#[cfg(test)]
pub(crate) mod tests;
pub mod trail;
pub mod tx;

use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cratestack_schema::decimal::{Backend, defaults_beyond};
use cratestack_schema::ir::{Action, Default as IrDefault, FieldId, Model, ModelId, Schema};
use cratestack_schema::value::{Value, instant};
use futures_util::FutureExt as _;
use tokio::sync::Semaphore;

use self::cache::Cache;
use self::denials::{Allowances, Watched};
use self::futures::Detached;
pub(crate) use self::futures::now;
use self::keyed::Flights;
use self::tx::Tx;
use crate::api::{
    Answer, Authority, Caller, Code, Expected, Failure, FieldError, Key, Limits, Operation, Principal, Row, Verb,
};
use crate::audit::{self, Context, Trail};
use crate::cursor::CursorKeys;
use crate::fault::{self, Class, Remedy, StoreError};
use crate::idempotency::{self, Found, Kept, Keyed, Note};
use crate::input;
use crate::json::{Json, push_pointer};
use crate::logs;
use crate::migrate::{self, Db, State};
use crate::migrations;
use crate::plan::write::{self, Dependents, Form, Kind, Plan, Verdict, VersionTest};
use crate::plan::{Values, key_text, key_values};
use crate::policy::{AtomKey, Decision, Policies, View};
use crate::sources::{Clock, Ids, RandomIds, SystemClock};
use crate::sql::{Dialect, Statement, Template};
use crate::store::postgres::{PoolOptions, Postgres};
use crate::store::sqlite::Sqlite;
use crate::store::{Control, NoPages, Rows, Session, Statistics};
use crate::validate::Validators;

/// How often a write that lost a race between its statement and its diagnosis runs again.
const RACES: usize = 8;
/// Items of a batch that are prepared in one go.
const SLICE: usize = 32;
/// The longest pause before the second try, doubled for each further one.
const PAUSE: Duration = Duration::from_millis(4);

/// A schema on a database, ready to run operations. Clones share everything.
#[derive(Debug, Clone)]
pub struct Engine {
    core: Arc<Core>,
}

/// A `--database` value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Database {
    /// `sqlite:path`.
    SqliteFile(std::path::PathBuf),
    /// `sqlite::memory:`: lives as long as the engine.
    SqliteMemory,
    /// `postgres://..` or `postgresql://..`.
    Postgres(String),
}

/// What an [`Engine`] needs besides schema and database.
#[derive(Debug, Clone)]
pub struct Options {
    /// Limits, with docs/http.md's defaults.
    pub limits: Limits,
    /// The pool of PostgreSQL connections.
    pub pool: PoolOptions,
    /// Threads that read from an SQLite file.
    pub sqlite_readers: usize,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Makes identifiers.
    pub ids: Arc<dyn Ids>,
    /// The name of the service in the audit trail.
    pub service: String,
    /// Keys of list cursors: the first seals, all of them open. Empty: the database's own key, which every node that
    /// serves the database shares.
    pub cursor_keys: Vec<[u8; 32]>,
    /// Migrations that the database must have for the service to be [ready](Engine::ready): their ids and
    /// [checksums](crate::migrations::Migration::checksum).
    pub migrations: Vec<(String, String)>,
    /// The Rust type that every decimal in an input must fit, because code reads it: others are a 422 (`precision`).
    /// `None`: whatever the language has. `include_schema!` sets its own.
    pub decimals: Option<Backend>,
}

impl std::default::Default for Options {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Self {
            limits: Limits::default(),
            pool: PoolOptions::default(),
            sqlite_readers: cores.clamp(2, 8),
            clock: Arc::new(SystemClock),
            ids: Arc::new(RandomIds::default()),
            service: "cratestack".to_owned(),
            cursor_keys: Vec::new(),
            migrations: Vec::new(),
            decimals: None,
        }
    }
}

/// Why an engine cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The database cannot be used.
    #[error("{0}")]
    Database(String),
    /// The database does not carry the schema.
    #[error(transparent)]
    Schema(#[from] migrate::Error),
}

impl OpenError {
    /// What to do about it.
    pub fn help(&self) -> &'static str {
        match self {
            Self::Database(_) => "check the database URL, and that the server is running",
            Self::Schema(error) => error.help(),
        }
    }
}

/// Pages of the audit trail that are read at once: what a few auditors do must not keep the service from its work.
const TRAIL_READS: usize = 2;

#[derive(Debug)]
struct Core {
    schema: Arc<Schema>,
    policies: Policies,
    validators: Validators,
    cursors: CursorKeys,
    store: Store,
    /// Gives a row if the database carries the schema.
    carried: Arc<Template>,
    /// Tells which migrations it has.
    migrated: Arc<Template>,
    /// For each model whether a write to it may end up in the audit trail or the outbox.
    trailed: Vec<bool>,
    /// For each model whether PostgreSQL can record the answer to a write in its statement.
    keeps: Vec<bool>,
    trail: Trail,
    /// Who may read a page of the trail now: each looks at many events, and holds their texts.
    trail_reads: Semaphore,
    allowances: Allowances,
    options: Options,
    plans: Cache<Form, Option<Plan>>,
    lists: Cache<read::ListForm, read::ListPlan>,
    rows: Cache<read::RowForm, read::RowPlan>,
    dependents: Cache<ModelId, Dependents>,
    locks: Cache<(ModelId, AtomKey, bool), Option<Arc<Template>>>,
    /// The statements on the table of idempotency keys.
    kept: idempotency::Statements,
    /// The requests with a key that are being done here.
    flights: Flights,
}

/// Where the rows are.
#[derive(Debug)]
pub(crate) enum Store {
    Postgres(Postgres),
    Sqlite(Sqlite),
}

impl Store {
    pub(crate) fn dialect(&self) -> Dialect {
        match self {
            Self::Postgres(_) => Dialect::Postgres,
            Self::Sqlite(_) => Dialect::Sqlite,
        }
    }
}

impl Engine {
    /// Opens a database that carries `schema` already; one in memory is made.
    ///
    /// # Errors
    /// When the database cannot be reached, or carries another schema or none.
    pub async fn open(schema: Arc<Schema>, database: &Database, options: Options) -> Result<Self, OpenError> {
        if let Some(backend) = options.decimals
            && let [first, ..] = defaults_beyond(&schema, backend).as_slice()
        {
            let why = format!("the default of `{first}` has more digits than `{}` holds", backend.name());
            return Err(OpenError::Database(why));
        }
        let statistics = Arc::new(Statistics::default());
        let (store, key) = match database {
            Database::Postgres(url) => open_postgres(&schema, url, &options, statistics).await?,
            Database::SqliteFile(path) => open_sqlite(&schema, Some(path.clone()), &options, statistics).await?,
            Database::SqliteMemory => open_sqlite(&schema, None, &options, statistics).await?,
        };
        let dialect = store.dialect();
        let core = Core {
            policies: Policies::new(&schema),
            validators: Validators::compile(&schema).map_err(OpenError::Database)?.decimals(options.decimals),
            trail: Trail::new(dialect),
            cursors: CursorKeys::new(if options.cursor_keys.is_empty() {
                vec![key]
            } else {
                options.cursor_keys.clone()
            }),
            store,
            carried: migrate::carried(&schema),
            migrated: migrations::applied(),
            trailed: schema.models().map(|(id, _)| logs::reaches(&schema, id)).collect(),
            keeps: schema.models().map(|(_, model)| write::keeps(&schema, model)).collect(),
            trail_reads: Semaphore::new(TRAIL_READS),
            allowances: Allowances::default(),
            options,
            plans: Cache::default(),
            lists: Cache::default(),
            rows: Cache::default(),
            dependents: Cache::default(),
            locks: Cache::default(),
            kept: idempotency::Statements::new(dialect),
            flights: Flights::default(),
            schema,
        };
        Ok(Self { core: Arc::new(core) })
    }

    /// Makes everything that `schema` needs in an empty database, which is then ready to be [opened](Self::open). A database
    /// that carries this very schema stays as it is; one in memory is made when it is opened.
    ///
    /// # Errors
    /// When the database cannot be reached, or something else is there.
    pub async fn apply(schema: Arc<Schema>, database: &Database) -> Result<(), OpenError> {
        let key = migrate::new_cursor_key()?;
        match database {
            Database::SqliteMemory => Ok(()),
            Database::SqliteFile(path) => {
                let path = path.clone();
                let prepare = move |connection: &mut rusqlite::Connection| {
                    now(migrate::apply_create(&mut Db::Sqlite(connection), &schema, key, &mut |_| ())).map(|_| schema)
                };
                let apply = move || crate::store::sqlite::prepared(&path, prepare).map(|_| ());
                let done = tokio::task::spawn_blocking(apply).await;
                done.map_err(|_| OpenError::Database("the start of the database was interrupted".to_owned()))?
            }
            Database::Postgres(url) => {
                let pool = Postgres::open(&schema, url, PoolOptions::default(), Arc::default());
                let pool = pool.map_err(OpenError::Database)?;
                let deadline = Instant::now() + Duration::from_secs(10);
                let connected = pool.dedicated(deadline.into()).await;
                let mut connection = connected.map_err(|error| OpenError::Database(error.message))?;
                let lost = || OpenError::Database("the connection was lost".to_owned());
                let connection = connection.connection().ok_or_else(lost)?;
                migrate::apply_create(&mut Db::Postgres(connection), &schema, key, &mut |_| ()).await?;
                Ok(())
            }
        }
    }

    /// The schema that it serves.
    pub fn schema(&self) -> &Arc<Schema> {
        &self.core.schema
    }

    /// The database, for what is no operation of a caller.
    pub(crate) fn store(&self) -> &Store {
        &self.core.store
    }

    /// The clock that every operation of this engine sees.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.core.options.clock
    }

    /// The limits that it enforces.
    pub fn limits(&self) -> &Limits {
        &self.core.options.limits
    }

    /// Where this engine has its identifiers and its randomness from.
    pub fn ids(&self) -> &Arc<dyn Ids> {
        &self.core.options.ids
    }

    /// Counts of what the database was asked, for tests and metrics.
    pub fn statistics(&self) -> &Statistics {
        match &self.core.store {
            Store::Postgres(pool) => pool.statistics(),
            Store::Sqlite(database) => database.statistics(),
        }
    }

    /// Runs one operation in one transaction. A mutation that has begun runs to its end, even if the returned future
    /// is dropped.
    pub async fn run(&self, caller: &Caller, operation: Operation) -> Result<Answer, Failure> {
        let core = &self.core;
        let Some(watched) = Watched::of(core, &operation) else {
            return answer(core, Place::Own, caller, operation).await;
        };
        // Who hangs up in time is refused all the same.
        let (core, caller) = (Arc::clone(core), caller.clone());
        if matches!(operation.verb, Verb::List { .. } | Verb::Read { .. }) {
            let outcome = answer(&core, Place::Own, &caller, operation).await;
            let recorded = async move {
                denials::record(&core, &caller, watched.model(), &watched.refused(outcome.as_ref())).await;
                outcome
            };
            return Detached(Some(recorded.boxed())).await;
        }
        let all = async move {
            let outcome = answer(&core, Place::Own, &caller, operation).await;
            denials::record(&core, &caller, watched.model(), &watched.refused(outcome.as_ref())).await;
            outcome
        };
        Detached(Some(all.boxed())).await
    }

    /// Runs one operation that changes something, for a request with an idempotency key: once, whatever happens. Its answer is
    /// recorded in its own transaction, and given again to every further request of the same identity, as long as the rules do not
    /// refuse the caller outright. A refusal is not recorded: nothing happened. It runs to its end, even if the returned future
    /// is dropped.
    ///
    /// # Errors
    /// As [`Self::run`]; [`Code::IdempotencyKeyReused`] where the key was used for another request, and
    /// [`Code::IdempotencyInFlight`] where one with the key is still being done.
    pub async fn run_keyed(&self, caller: &Caller, operation: Operation, keyed: &Keyed) -> Result<Kept, Failure> {
        let (core, caller, keyed) = (Arc::clone(&self.core), caller.clone(), keyed.clone());
        let all = async move {
            let watched = Watched::of(&core, &operation);
            let model = operation.model;
            let (outcome, refused) = keyed::run(&core, &caller, operation, &keyed, watched).await;
            denials::record(&core, &caller, model, &refused).await;
            outcome
        };
        Detached(Some(all.boxed())).await
    }

    /// Refuses a key that was used for another request. For hosts that refuse a request by its form, which comes after that.
    ///
    /// # Errors
    /// [`Code::IdempotencyKeyReused`]; and that the database could not say.
    pub async fn check_key(&self, keyed: &Keyed) -> Result<(), Failure> {
        keyed::check(&self.core, keyed).await
    }

    /// Removes records of idempotency keys that have expired, a thousand at most; says how many.
    ///
    /// # Errors
    /// That the database could not.
    pub async fn sweep_keys(&self) -> Result<usize, Failure> {
        keyed::sweep(&self.core).await
    }

    /// A page of the audit trail, newest first, as far as the rules for the action `audit` show it. `params` are decoded
    /// query parameters: `model`, `key`, `actor` (a subject), `from` and `to` (RFC 3339; `to` is excluded), `limit` and
    /// `cursor`.
    ///
    /// # Errors
    /// [`Code::InvalidQuery`], [`Code::InvalidCursor`]; [`Code::Unauthenticated`] and [`Code::Forbidden`] where the
    /// rules show nothing to the caller; [`Code::NotFound`] where they show nothing to anybody.
    pub async fn trail(&self, caller: &Caller, params: &[(String, String)]) -> Result<Answer, Failure> {
        trail::page(&self.core, caller, params).await
    }

    /// The 401 of an anonymous caller to whom the rules refuse each of `actions`, whatever the row. [`Engine::run`]
    /// checks this itself; hosts need it where they refuse a malformed operation, which must not come before a 401.
    pub fn admit(&self, caller: &Caller, model: ModelId, actions: &[Action]) -> Result<(), Failure> {
        let now = self.core.now();
        let view = self.core.view(caller, &now);
        let refused = |action: &Action| view.decide(model, *action, None) == Decision::Refused;
        match actions.first() {
            Some(action) if caller.principal.is_none() && actions.iter().all(refused) => {
                Err(unauthenticated(self.core.schema.model(model), *action))
            }
            _ => Ok(()),
        }
    }

    /// Types the claims of a verified token against the `auth` block; the error says what is wrong, for the log.
    pub fn principal(&self, claims: &Json) -> Result<Principal, String> {
        input::principal_for(&self.core.schema, self.core.options.decimals, claims)
    }

    /// Whether the database answers, still carries the schema and has the migrations that are needed: somebody may have
    /// changed it under a running server, which is then no more ready than one that starts.
    pub async fn ready(&self) -> Result<(), Failure> {
        let rows = self.fetch_now(&self.core.carried).await;
        let unavailable =
            |detail, internal: String| Err(Failure::new(Code::Unavailable, detail).with_internal(internal));
        match rows {
            Err(error) => unavailable("the database does not answer", error.message),
            Ok(rows) if !rows.is_empty() => self.migrated().await,
            Ok(_) => unavailable(
                "the database carries another version of the schema",
                format!("expected the fingerprint `{}`", self.core.schema.fingerprint()),
            ),
        }
    }

    /// Those that a later version of the service has added are none of this one's business.
    async fn migrated(&self) -> Result<(), Failure> {
        let wanted = &self.core.options.migrations;
        if wanted.is_empty() {
            return Ok(());
        }
        let unavailable = |detail: String| Err(Failure::new(Code::Unavailable, detail));
        let rows = match self.fetch_now(&self.core.migrated).await {
            Ok(rows) => rows,
            Err(error) => {
                return Err(Failure::new(Code::Unavailable, "the database does not say which migrations it has")
                    .with_internal(error.message));
            }
        };
        let recorded = migrations::recorded(&rows);
        for (id, checksum) in wanted {
            match recorded.iter().find(|(recorded, _)| recorded == id) {
                None => return unavailable(format!("the migration `{id}` is pending")),
                Some((_, recorded)) if recorded != checksum => {
                    return unavailable(format!("the migration `{id}` was applied in another version"));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// The rows of a statement without parameters, soon or not at all.
    async fn fetch_now(&self, template: &Arc<Template>) -> Result<Rows, StoreError> {
        let deadline = Instant::now() + Duration::from_secs(2);
        let statement = Statement { template: Arc::clone(template), binds: Vec::new() };
        match &self.core.store {
            Store::Postgres(pool) => pool.session(deadline.into()).await?.fetch(&statement, &mut NoPages).await,
            Store::Sqlite(database) => {
                database.read(deadline, move |session| now(session.fetch(&statement, &mut NoPages))).await
            }
        }
    }

    /// Waits for what is running and closes the database. Further operations are refused.
    pub async fn close(&self) {
        match &self.core.store {
            Store::Postgres(pool) => pool.close().await,
            Store::Sqlite(database) => database.close().await,
        }
    }
}

/// What is added where nobody knows whether a commit was done.
const UNKNOWN: &str = "; the outcome is unknown: the change may have been made";

/// Where an operation runs.
#[derive(Debug, Clone, Copy)]
enum Place<'t> {
    /// In a transaction of its own.
    Own,
    /// In one that goes on.
    Within(&'t Tx),
}

async fn answer(core: &Arc<Core>, place: Place<'_>, caller: &Caller, operation: Operation) -> Result<Answer, Failure> {
    let deadline = deadline(caller);
    let Operation { model, verb } = operation;
    match verb {
        Verb::List { params } => return read::list(core, place, caller, model, &params).await,
        Verb::Read { key, params } => return read::one(core, place, caller, model, &key, &params).await,
        _ => {}
    }
    let context = core.context(caller, model);
    let task = match verb {
        Verb::Batch { atomic, items } => core.prepare_batch(caller, model, atomic, items, context.as_ref()).await?,
        verb => Task::One(Mutation::prepare(core, caller, model, verb, context.as_ref(), None)?),
    };
    let work = Work { task, context };
    match place {
        Place::Own => Detached(Some(Arc::clone(core).write(work, deadline).boxed())).await,
        Place::Within(tx) => tx.write(Arc::new(work)).await,
    }
}

/// The longest that an operation may take, whatever its caller says.
const LONGEST: Duration = Duration::from_hours(24);

fn deadline(caller: &Caller) -> Instant {
    Instant::now() + caller.deadline.min(LONGEST)
}

async fn open_postgres(
    schema: &Arc<Schema>,
    url: &str,
    options: &Options,
    statistics: Arc<Statistics>,
) -> Result<(Store, [u8; 32]), OpenError> {
    let pool = Postgres::open(schema, url, options.pool.clone(), statistics).map_err(OpenError::Database)?;
    let session = pool.session((Instant::now() + Duration::from_secs(10)).into()).await;
    let mut session = session.map_err(|error| OpenError::Database(error.message))?;
    let connection = session.connection().ok_or_else(|| OpenError::Database("the connection was lost".to_owned()))?;
    let key = cursor_key(&mut Db::Postgres(connection), schema).await?;
    drop(session);
    Ok((Store::Postgres(pool), key))
}

async fn open_sqlite(
    schema: &Arc<Schema>,
    path: Option<std::path::PathBuf>,
    options: &Options,
    statistics: Arc<Statistics>,
) -> Result<(Store, [u8; 32]), OpenError> {
    let (schema, readers) = (Arc::clone(schema), options.sqlite_readers);
    let open = move || {
        let mut key = None;
        let prepare = |connection: &mut rusqlite::Connection| -> Result<(), migrate::Error> {
            let mut db = Db::Sqlite(connection);
            if path.is_none() {
                let fresh = migrate::new_cursor_key()?;
                now(migrate::apply_create(&mut db, &schema, fresh, &mut |_| ()))?;
            }
            key = Some(now(cursor_key(&mut db, &schema))?);
            Ok(())
        };
        let database = Sqlite::open(&schema, path.as_deref(), readers, statistics, prepare)?;
        Ok((Store::Sqlite(database), key.unwrap_or_default()))
    };
    let opened = tokio::task::spawn_blocking(open).await;
    opened.map_err(|_| OpenError::Database("the start of the database was interrupted".to_owned()))?
}

/// The cursor key of a database that carries `schema`.
async fn cursor_key(db: &mut Db<'_>, schema: &Schema) -> Result<[u8; 32], migrate::Error> {
    match migrate::inspect(db).await? {
        State::Empty => Err(migrate::Error::Empty),
        State::Foreign(tables) => Err(migrate::Error::Foreign(tables)),
        State::Applied(applied) if applied.fingerprint != schema.fingerprint() => {
            Err(migrate::Error::Different { found: applied.fingerprint })
        }
        State::Applied(_) => migrate::cursor_key(db).await,
    }
}

impl Core {
    fn now(&self) -> String {
        // The years 1 to 9999 have a canonical text; a clock outside of them is broken.
        instant::from_unix_micros(self.options.clock.now()).unwrap_or_else(|| "1970-01-01T00:00:00.000000Z".to_owned())
    }

    /// What trail and outbox are to say of the caller, if they are to say anything of a write to the model.
    fn context(&self, caller: &Caller, model: ModelId) -> Option<Arc<Context>> {
        let trailed = self.trailed.get(model.index()).copied().unwrap_or(false);
        trailed.then(|| Arc::new(Context::new(&self.schema, caller, &self.options.service)))
    }

    fn view<'a>(&'a self, caller: &'a Caller, now: &'a str) -> View<'a> {
        self.policies.view(caller.principal.as_ref(), now).with(caller.authority)
    }

    async fn prepare_batch(
        &self,
        caller: &Caller,
        model: ModelId,
        atomic: bool,
        items: Vec<crate::api::BatchItem>,
        context: Option<&Arc<Context>>,
    ) -> Result<Task, Failure> {
        let limit = self.options.limits.batch;
        if items.len() > limit {
            return Err(Failure::new(Code::BadRequest, format!("a batch has at most {limit} items")));
        }
        let mut prepared = Vec::with_capacity(items.len());
        for (at, item) in items.into_iter().enumerate() {
            if at % SLICE == SLICE - 1 {
                // A large batch must not keep others from the thread.
                tokio::task::yield_now().await;
            }
            match Mutation::prepare(self, caller, model, item.verb, context, None) {
                Err(failure) if atomic => return Err(Failure { item: Some(at), ..failure }),
                item => prepared.push(item),
            }
        }
        // A caller who has yet to say who it is needs one 401 with its challenge, not a list of them.
        let stranger =
            |item: &Result<_, Failure>| matches!(item, Err(failure) if failure.code == Code::Unauthenticated);
        if let Some(Err(failure)) = prepared.first()
            && prepared.iter().all(stranger)
        {
            return Err(failure.clone());
        }
        Ok(Task::Batch { atomic, items: prepared })
    }

    /// Runs `work` on the writer's thread, or on connections from the pool until it succeeds or there is no use.
    async fn write(self: Arc<Self>, work: Work, deadline: Instant) -> Result<Answer, Failure> {
        let model = work.model();
        let done = match &self.store {
            Store::Sqlite(database) => {
                let core = Arc::clone(&self);
                database.write(deadline, move |session| now(work.run(&core, session))).await
            }
            Store::Postgres(pool) => {
                let mut tries = 1;
                loop {
                    let done = match pool.session(deadline.into()).await {
                        Ok(mut session) => work.run(&self, &mut session).await,
                        Err(error) => Err(Stop::from(error)),
                    };
                    match &done {
                        Err(Stop::Database(error))
                            if error.class.remedy() == Remedy::Again
                                && tries < self.options.limits.transaction_tries =>
                        {
                            tokio::time::sleep(self.pause(tries)).await;
                            tries += 1;
                        }
                        _ => break done,
                    }
                }
            }
        };
        done.map_err(|stop| self.refusal(model, stop))
    }

    /// What the caller is told.
    fn refusal(&self, model: Option<ModelId>, stop: Stop) -> Failure {
        match stop {
            Stop::Refused(failure) => failure,
            Stop::Database(error) | Stop::Data(error) => {
                let mut failure = match model {
                    Some(model) => fault::failure(&self.schema, model, &error),
                    None => Failure::new(error.class.code(), "the database failed").with_internal(&error.message),
                };
                if error.class.outcome_unknown() {
                    failure.detail.push_str(UNKNOWN);
                }
                failure
            }
        }
    }

    /// Between nothing and a limit that doubles with each try, so that those who met once do not meet again.
    fn pause(&self, tries: u32) -> Duration {
        let mut octets = [0; 4];
        self.options.ids.random(&mut octets);
        PAUSE.saturating_mul(1 << tries.min(4)).mul_f64(f64::from(u32::from_be_bytes(octets)) / f64::from(u32::MAX))
    }
}

/// What one call of [`Engine::run`] writes.
#[derive(Debug)]
struct Work {
    task: Task,
    /// What audit trail and outbox are to say, if the write may end up there.
    context: Option<Arc<Context>>,
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one for each request")]
enum Task {
    One(Mutation),
    Batch { atomic: bool, items: Vec<Result<Mutation, Failure>> },
}

/// Why work ended before its end.
#[derive(Debug)]
enum Stop {
    /// The answer of an operation that is not allowed.
    Refused(Failure),
    /// The data do not allow it; [`explain`] says why.
    Data(StoreError),
    /// The database could not do its work.
    Database(StoreError),
}

impl Stop {
    /// The same where it is certain that nothing was changed.
    fn harmless(self) -> Self {
        match self {
            Self::Refused(failure) => Self::Refused(failure),
            Self::Data(error) => Self::Data(error.harmless()),
            Self::Database(error) => Self::Database(error.harmless()),
        }
    }
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Self::Database(error)
    }
}

impl Work {
    /// The model that database errors are told about.
    fn model(&self) -> Option<ModelId> {
        match &self.task {
            Task::One(mutation) => Some(mutation.form.model),
            Task::Batch { items, .. } => items.iter().flatten().next().map(|mutation| mutation.form.model),
        }
    }

    async fn run<S: Session>(&self, core: &Core, session: &mut S) -> Result<Answer, Stop> {
        // On PostgreSQL the context goes with each statement.
        let context = self.context.as_ref().filter(|_| core.store.dialect() == Dialect::Sqlite);
        if let Some(context) = context {
            session.fetch(&core.trail.set(context), &mut NoPages).await?;
        }
        let answer = self.task.run(core, session).await?;
        if context.is_some() {
            session.fetch(&core.trail.clear(), &mut NoPages).await?;
        }
        Ok(answer)
    }
}

impl Task {
    async fn run<S: Session>(&self, core: &Core, session: &mut S) -> Result<Answer, Stop> {
        match self {
            Self::One(mutation) => match perform(core, session, mutation).await {
                Err(Stop::Data(error)) => {
                    session.recover().await?;
                    let explained = explain(core, session, mutation, error).await;
                    Err(Stop::Refused(explained.map_err(StoreError::harmless)?))
                }
                done => done,
            },
            Self::Batch { atomic, items } => {
                session.control(Control::Begin).await?;
                let done = match lock_rows(core, session, items).await {
                    Err(error) => Err((0, Stop::Database(error))),
                    Ok(()) if *atomic => run_atomic(core, session, items).await,
                    Ok(()) => run_each(core, session, items).await,
                };
                let (at, stop) = match done {
                    Ok(answers) => {
                        session.control(Control::Commit).await?;
                        return Ok(Answer::Batch(answers));
                    }
                    Err(stopped) => stopped,
                };
                // A connection that is gone has rolled back by itself.
                let undone = session.control(Control::Rollback).await;
                let refusal = match (stop, items.get(at)) {
                    (Stop::Database(error), _) => return Err(Stop::Database(error.harmless())),
                    (Stop::Data(error), Some(Ok(mutation))) if undone.is_ok() => {
                        explain(core, session, mutation, error).await.map_err(StoreError::harmless)?
                    }
                    (Stop::Data(error), _) => return Err(Stop::Database(error)),
                    (Stop::Refused(failure), _) => failure,
                };
                Err(Stop::Refused(Failure { item: Some(at), ..refusal }))
            }
        }
    }
}

/// Takes the locks of a batch in an order that all batches share. SQLite has one writer.
async fn lock_rows<S: Session>(
    core: &Core,
    session: &mut S,
    items: &[Result<Mutation, Failure>],
) -> Result<(), StoreError> {
    let changes: Vec<&Mutation> = items.iter().flatten().filter(|mutation| !mutation.key.is_empty()).collect();
    let [first, _, ..] = changes.as_slice() else { return Ok(()) };
    if core.store.dialect() == Dialect::Sqlite {
        return Ok(());
    }
    let removes = changes.iter().any(|mutation| mutation.form.kind == Kind::Delete);
    let form = (first.form.model, first.form.atoms.clone(), removes);
    let view = core.policies.view(first.principal.as_ref(), &first.now).with(first.authority);
    let template = core.locks.get(&form, || write::locks(&view, first.form.model, removes));
    let Some(template) = &*template else { return Ok(()) };
    let column = |at| Value::List(changes.iter().filter_map(|mutation| mutation.key.get(at)).cloned().collect());
    let key: Vec<Value> = (0..first.key.len()).map(column).collect();
    let values =
        Values { key: &key, ..Values::new(&core.schema, Dialect::Postgres, first.principal.as_ref(), &first.now) };
    let statement = template.fill(|slot| values.bind(slot));
    let statement = statement.map_err(|error| StoreError::new(Class::Other, error.to_string()))?;
    session.fetch(&statement, &mut NoPages).await.map(|_| ())
}

/// Runs items until one is refused, and says which.
async fn run_atomic<S: Session>(
    core: &Core,
    session: &mut S,
    items: &[Result<Mutation, Failure>],
) -> Result<Vec<Result<Answer, Failure>>, (usize, Stop)> {
    let mut answers = Vec::with_capacity(items.len());
    for (at, item) in items.iter().enumerate() {
        let done = match item {
            Ok(mutation) => perform(core, session, mutation).await,
            Err(failure) => Err(Stop::Refused(failure.clone())),
        };
        answers.push(Ok(done.map_err(|stop| (at, stop))?));
    }
    Ok(answers)
}

/// Runs every item, each in a savepoint; only what fails the whole request stops it.
async fn run_each<S: Session>(
    core: &Core,
    session: &mut S,
    items: &[Result<Mutation, Failure>],
) -> Result<Vec<Result<Answer, Failure>>, (usize, Stop)> {
    let mut answers = Vec::with_capacity(items.len());
    for (at, item) in items.iter().enumerate() {
        answers.push(match item {
            Ok(mutation) => run_apart(core, session, mutation).await.map_err(|error| (at, Stop::Database(error)))?,
            Err(failure) => Err(failure.clone()),
        });
    }
    Ok(answers)
}

async fn run_apart<S: Session>(
    core: &Core,
    session: &mut S,
    mutation: &Mutation,
) -> Result<Result<Answer, Failure>, StoreError> {
    session.control(Control::Savepoint).await?;
    let stop = match perform(core, session, mutation).await {
        Ok(answer) => {
            session.control(Control::Release).await?;
            return Ok(Ok(answer));
        }
        Err(stop) => stop,
    };
    session.control(Control::RollbackTo).await?;
    match stop {
        Stop::Refused(failure) => Ok(Err(failure)),
        Stop::Data(error) => explain(core, session, mutation, error).await.map(Err),
        Stop::Database(error) => Err(error),
    }
}

/// One write, ready for the database.
#[derive(Debug)]
struct Mutation {
    form: Form,
    plan: Arc<Option<Plan>>,
    /// Empty for a create.
    key: Vec<Value>,
    fields: Vec<(FieldId, Value)>,
    expected: Vec<i64>,
    principal: Option<Principal>,
    authority: Authority,
    now: String,
    deletion: String,
    context: Option<Arc<Context>>,
    /// What the statement of a [keyed](Form::keyed) form records.
    note: Option<Box<Note>>,
}

impl Mutation {
    /// Everything about a write that needs no database.
    fn prepare(
        core: &Core,
        caller: &Caller,
        model_id: ModelId,
        verb: Verb,
        context: Option<&Arc<Context>>,
        keyed: Option<&Keyed>,
    ) -> Result<Self, Failure> {
        let model = core.schema.model(model_id);
        let (kind, key, expected, data) = match verb {
            Verb::Create { data } => (Kind::Create, None, Expected::Any, Some(data)),
            Verb::Patch { key, expected, data } => (Kind::Patch, Some(key), expected, Some(data)),
            Verb::Delete { key, expected } => (Kind::deletion(model), Some(key), expected, None),
            Verb::Restore { key, expected } => (Kind::Restore, Some(key), expected, None),
            Verb::List { .. } | Verb::Read { .. } | Verb::Batch { .. } => {
                return Err(Failure::new(Code::BadRequest, "an item of a batch creates, updates or deletes a row"));
            }
        };
        let now = core.now();
        let view = core.view(caller, &now);
        let anonymous = caller.principal.is_none();
        let action = kind.action();
        if anonymous && view.decide(model_id, action, None) == Decision::Refused {
            return Err(unauthenticated(model, action));
        }
        let mut fields = match (kind, &data) {
            (Kind::Create, Some(data)) => {
                input::create(&core.schema, &core.validators, model_id, caller.authority, data)
            }
            (_, Some(data)) => input::patch(&core.schema, &core.validators, model_id, caller.authority, data),
            (_, None) => Ok(Vec::new()),
        }
        .map_err(Failure::validation)?;
        let (versions, expected) = VersionTest::of(model, &expected).map(|(test, list)| (test, list.to_vec()))?;
        let sent: Vec<FieldId> = fields.iter().map(|(id, _)| *id).collect();
        let mut missing = None;
        if kind == Kind::Create {
            (fields, missing) = core.with_defaults(model, fields, caller, &now);
        }
        let mut note =
            keyed.and_then(|keyed| keyed.note(core, caller, kind, model_id, key.as_deref(), &fields)).map(Box::new);
        let form = Form {
            kind,
            model: model_id,
            atoms: view.key_near(model_id),
            references: write::references(model, &fields, |id| sent.binary_search(&id).is_ok()),
            fields: fields.iter().map(|(id, _)| *id).collect(),
            versions,
            keyed: note.as_deref().map(Note::keeping).unwrap_or_default(),
        };
        // What the rules make of a caller depends on the form alone, so this too is worked out once.
        let plan = core.plans.get(&form, || write::plan(&view, core.store.dialect(), &form));
        if plan.is_none() {
            return Err(if anonymous { unauthenticated(model, action) } else { write::forbidden(model, kind) });
        }
        if let Some(failure) = missing {
            return Err(failure);
        }
        check_possible(model, kind)?;
        let key = match key {
            Some(key) => key_values(&core.schema, model, &key).ok_or_else(|| write::not_found(model))?,
            None => Vec::new(),
        };
        if let Some(note) = note.as_mut().filter(|_| kind != Kind::Create) {
            note.of_row(audit::key(&core.schema, model, &key));
        }
        let deletion = if kind == Kind::Tombstone { core.options.ids.uuid() } else { String::new() };
        let principal = caller.principal.clone();
        let (authority, context) = (caller.authority, context.cloned());
        Ok(Self { form, plan, key, fields, expected, principal, authority, now, deletion, context, note })
    }

    fn statement(&self, core: &Core, template: &Arc<Template>) -> Result<Statement, StoreError> {
        let values = Values {
            key: &self.key,
            fields: &self.fields,
            expected: &self.expected,
            deletion: &self.deletion,
            context: self.context.as_deref(),
            note: self.note.as_deref(),
            ..Values::new(&core.schema, core.store.dialect(), self.principal.as_ref(), &self.now)
        };
        template.fill(|slot| values.bind(slot)).map_err(|error| StoreError::new(Class::Other, error.to_string()))
    }

    /// The answer to a write that changed its row.
    fn written(&self, core: &Core, rows: Rows) -> Answer {
        let model = core.schema.model(self.form.model);
        let mut control = rows.control(0).iter();
        let readable = control.next() == Some(&Value::Bool(true));
        let version = model.version.and_then(|_| control.next()).and_then(int);
        let created = self.form.kind == Kind::Create;
        let key = match self.form.kind {
            Kind::Delete => return Answer::Deleted { version: None },
            Kind::Tombstone => return Answer::Deleted { version },
            Kind::Create => key_of(core, model, control),
            Kind::Patch | Kind::Restore => key_of(core, model, self.key.iter()),
        };
        let version = version.filter(|_| readable);
        let body = readable.then(|| rows.into_first());
        Answer::Row(Row { body, key, version, full: true, created })
    }

    /// The answer to a patch whose row is already as asked.
    fn unchanged(&self, core: &Core, version: Option<i64>, rows: Rows) -> Answer {
        let key = key_of(core, core.schema.model(self.form.model), self.key.iter());
        Answer::Row(Row { body: Some(rows.into_first()), key, version, full: true, created: false })
    }
}

fn int(value: &Value) -> Option<i64> {
    match value {
        Value::Int(int) => Some(*int),
        _ => None,
    }
}

fn key_of<'v>(core: &Core, model: &Model, values: impl Iterator<Item = &'v Value>) -> Key {
    model.key.iter().zip(values).map(|(id, value)| key_text(&core.schema, model.field(*id).ty, value)).collect()
}

/// The action in a sentence.
fn verb(action: Action) -> &'static str {
    match action {
        Action::Detail => "read",
        // "let nobody read the trail of it": see the sentences that this becomes part of.
        Action::Audit => "read the trail of",
        action => action.word(),
    }
}

fn unauthenticated(model: &Model, action: Action) -> Failure {
    let detail = format!("the rules of `{}` let nobody {} it without credentials", model.name, verb(action));
    Failure::new(Code::Unauthenticated, detail)
}

/// What a model never allows, whoever asks. Such routes do not exist, but hosts may ask all the same.
fn check_possible(model: &Model, kind: Kind) -> Result<(), Failure> {
    if model.append_only && kind != Kind::Create {
        return Err(Failure::new(Code::Forbidden, format!("rows of `{}` are never changed or deleted", model.name)));
    }
    if kind == Kind::Restore && model.soft_delete.is_none() {
        return Err(Failure::new(Code::BadRequest, format!("deleted rows of `{}` are gone for good", model.name)));
    }
    Ok(())
}

impl Core {
    /// The value of every column that the database does not fill by itself, sorted by field; and the refusal of a
    /// caller whose credentials lack one.
    fn with_defaults(
        &self,
        model: &Model,
        given: Vec<(FieldId, Value)>,
        caller: &Caller,
        now: &str,
    ) -> (Vec<(FieldId, Value)>, Option<Failure>) {
        let mut given = given.into_iter().peekable();
        let mut fields = Vec::with_capacity(model.fields.len());
        let mut missing = None;
        for (id, field) in write::bound_fields(model) {
            let sent = given.next_if(|(sent, _)| *sent == id).map(|(_, value)| value);
            let value = match (sent, &field.default) {
                (Some(value), _) => value,
                (None, _) if field.version => Value::Int(1),
                (None, _) if field.updated_at => Value::Text(now.to_owned()),
                (None, Some(IrDefault::Value(value))) => value.clone(),
                (None, Some(IrDefault::Now)) => Value::Text(now.to_owned()),
                (None, Some(IrDefault::Uuid)) => Value::Text(self.options.ids.uuid()),
                (None, Some(IrDefault::Cuid)) => Value::Text(self.options.ids.cuid()),
                (None, Some(IrDefault::Auth(claim))) => {
                    let claim = caller.principal.as_ref().and_then(|principal| principal.claims.get(claim.index()));
                    let claim = claim.cloned().unwrap_or(Value::Null);
                    if claim == Value::Null && !field.optional {
                        missing = Some(claim_missing(&field.name, caller));
                    }
                    claim
                }
                (None, Some(IrDefault::AutoIncrement | IrDefault::DbGenerated(_)) | None) if field.list => {
                    Value::List(Vec::new())
                }
                (None, Some(IrDefault::AutoIncrement | IrDefault::DbGenerated(_)) | None) => Value::Null,
            };
            fields.push((id, value));
        }
        (fields, missing)
    }
}

fn claim_missing(field: &str, caller: &Caller) -> Failure {
    if caller.authority == Authority::Service {
        let mut pointer = "#".to_owned();
        push_pointer(&mut pointer, field);
        let detail = "is required: its default is a claim, and there is no caller who has it".to_owned();
        return Failure::validation(vec![FieldError { pointer, code: "required".to_owned(), detail }]);
    }
    let code = if caller.principal.is_none() { Code::Unauthenticated } else { Code::Forbidden };
    Failure::new(code, format!("`{field}` comes from the caller's credentials, and these do not have it"))
}

/// What a write came to.
enum Performed {
    /// Its statement gave this.
    Written(Rows),
    /// The row is already as asked.
    Unchanged {
        /// Its version.
        version: Option<i64>,
        /// The row.
        rows: Rows,
    },
    /// Nothing, since its request was done before.
    Before(Found),
}

/// Runs one write.
async fn perform<S: Session>(core: &Core, session: &mut S, mutation: &Mutation) -> Result<Answer, Stop> {
    Ok(match attempt(core, session, mutation).await? {
        Performed::Written(rows) => mutation.written(core, rows),
        Performed::Unchanged { version, rows } => mutation.unchanged(core, version, rows),
        // Only a write that keeps a record asks for one.
        Performed::Before(_) => {
            return Err(Stop::Database(StoreError::new(Class::Other, "a write without a key has one")));
        }
    })
}

/// Runs the statement of one write and, when that changed nothing, its diagnosis.
async fn attempt<S: Session>(core: &Core, session: &mut S, mutation: &Mutation) -> Result<Performed, Stop> {
    let model = core.schema.model(mutation.form.model);
    let Some(plan) = &*mutation.plan else { return Err(Stop::Refused(write::forbidden(model, mutation.form.kind))) };
    for _ in 0..RACES {
        if let Some(template) = &plan.write {
            let statement = mutation.statement(core, template)?;
            match session.fetch(&statement, &mut NoPages).await {
                Ok(rows) if !rows.is_empty() => return Ok(Performed::Written(rows)),
                Ok(_) => {}
                Err(mut error) => {
                    if error.class == Class::Raised && mutation.context.is_some() {
                        // SQLite does not say which trigger it was: one of the trail is as likely as another.
                        error.class = Class::Recorder;
                    }
                    let data =
                        !matches!(error.class.code(), Code::Unavailable | Code::TransactionAborted | Code::Internal);
                    return Err(if data { Stop::Data(error) } else { Stop::Database(error) });
                }
            }
        }
        if let Some(note) = &mutation.note {
            let find = core.kept.find(&note.entry.identity);
            let rows = session.fetch(&find, &mut NoPages).await.map_err(StoreError::harmless)?;
            if let Some(found) = Found::of(rows.control(0)) {
                return Ok(Performed::Before(found));
            }
        }
        let statement = mutation.statement(core, &plan.diagnosis)?;
        let rows = session.fetch(&statement, &mut NoPages).await.map_err(StoreError::harmless)?;
        match plan.interpret(model, &mutation.form, &mutation.expected, rows) {
            Verdict::Refused(failure) => return Err(Stop::Refused(failure)),
            Verdict::Unchanged { version, rows } => return Ok(Performed::Unchanged { version, rows }),
            Verdict::Again => {}
        }
    }
    Err(Stop::Database(StoreError::new(Class::Serialization, "the row changed under each try")))
}

/// What the data did not allow, in words for the caller. The database is asked again, because it names one objection
/// where there may be several, or none at all.
async fn explain<S: Session>(
    core: &Core,
    session: &mut S,
    mutation: &Mutation,
    mut error: StoreError,
) -> Result<Failure, StoreError> {
    let (form, dialect) = (&mutation.form, core.store.dialect());
    let model = core.schema.model(form.model);
    let here = error.table.as_ref().is_none_or(|table| *table == model.table);
    let goes = matches!(form.kind, Kind::Delete | Kind::Tombstone);
    if matches!(error.class, Class::Check | Class::Unique) && here && !goes {
        let view = core.policies.view(mutation.principal.as_ref(), &mutation.now).with(mutation.authority);
        let objections = write::objections(&view, dialect, form);
        let rows = session.fetch(&mutation.statement(core, &objections.template)?, &mut NoPages).await?;
        if let Some(failure) = objections.failure(model, error.class, &rows) {
            return Ok(failure);
        }
    }
    if error.class == Class::ForeignKey && goes {
        // A row that goes refers to nobody: it is others who refer to it, be they rows of the same model.
        error.class = Class::Restrict;
    }
    let unnamed = error.constraint.is_none() && matches!(error.class, Class::ForeignKey | Class::Restrict);
    if unnamed && form.kind != Kind::Create {
        let dependents = core.dependents.get(&form.model, || write::dependents(&core.schema, dialect, form.model));
        let rows = session.fetch(&mutation.statement(core, &dependents.template)?, &mut NoPages).await?;
        let named = rows.control(0).iter().zip(&dependents.constraints).find(|(flag, _)| **flag == Value::Bool(true));
        error.class = Class::Restrict;
        error.constraint = named.map(|(_, name)| name.clone());
    }
    Ok(fault::failure(&core.schema, form.model, &error))
}
