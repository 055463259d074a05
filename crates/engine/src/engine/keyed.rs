//! Requests with an idempotency key: what is done and the record that it was done are one transaction.
//!
//! - On SQLite look-up, work and record are one job of the writer.
//! - On PostgreSQL a write of one row is one statement, whose first part looks the record up and whose last one makes it.
//! - Everything else there (batches, procedures, answers that PostgreSQL cannot write) takes the key's lock with `BEGIN`, looks the
//!   record up in a statement of its own, which sees what the lock's holder before had committed, and makes it last. What is
//!   serializable looks before.
//!
//! Requests with one key that come to the same process wait for each other before they ask the database for anything, so that
//! a storm of them takes one connection. Between processes row locks, the key's lock and the table's primary key decide: who loses finds the
//! winner's record.
//!
//! Before any refusal is told, the record is looked for in a new statement: it may be the very effect of this request that stands in
//! its way.

mod flights;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use cratestack_schema::ir::{FieldId, ModelId};
use cratestack_schema::value::Value;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

pub(super) use self::flights::Flights;
use super::denials::Watched;
use super::futures::now;
use super::tx::{Opener, Tx};
use super::{Core, Engine, Mutation, Performed, Stop, Store, Task, UNKNOWN, Work, attempt, deadline, explain};
use crate::api::{Answer, Caller, Code, Failure, Key, Operation, Verb};
use crate::audit;
use crate::fault::{Class, Remedy, StoreError};
use crate::faults::{self, Point};
use crate::idempotency::{Entry, Found, KEY_MARK, Kept, KeyLimits, Keyed, Note, Outcome, Sketch, TABLE, in_flight};
use crate::isolated::{BoxError, IsolationLevel, TxError, TxOptions, run_in_isolated_tx_with};
use crate::plan::write::{self, Form, Keeping, Kind};
use crate::plan::{key_text, key_values};
use crate::policy::Decision;
use crate::sql::Dialect;
use crate::store::sqlite::SqliteSession;
use crate::store::{NoPages, Rows, Session};

/// What was done, and the keys of rows whose change was refused.
pub(super) struct Done {
    pub(super) kept: Kept,
    refused: Vec<String>,
}

impl From<Kept> for Done {
    fn from(kept: Kept) -> Self {
        Self { kept, refused: Vec::new() }
    }
}

/// Runs an operation once. Gives the answer, and the keys of rows whose change was refused.
pub(super) async fn run(
    core: &Arc<Core>,
    caller: &Caller,
    operation: Operation,
    keyed: &Keyed,
    watched: Option<Watched>,
) -> (Result<Kept, Failure>, Vec<String>) {
    match once(core, caller, operation, keyed, watched.as_ref()).await {
        Ok(Done { kept, refused }) => (Ok(kept), refused),
        Err(failure) => {
            let refused = watched.as_ref().map(|watched| watched.refused(Err(&failure))).unwrap_or_default();
            (Err(failure), refused)
        }
    }
}

async fn once(
    core: &Arc<Core>,
    caller: &Caller,
    operation: Operation,
    keyed: &Keyed,
    watched: Option<&Watched>,
) -> Result<Done, Failure> {
    if refused_outright(core, caller, &operation)
        && let Some(answer) = refuse(core, caller, operation.clone()).await?
    {
        let refused = refused(watched, &answer);
        let record = keyed.present.present(Outcome::Done(answer))?;
        return Ok(Done { kept: Kept { record, replayed: false }, refused });
    }
    let until = deadline(caller);
    in_turn(core, caller, keyed, work(core, caller, operation, keyed, watched, until).boxed()).await
}

/// Does `work` when the requests with the same key that came before are done. Before its refusal is told, the record is looked for.
pub(super) async fn in_turn<T: From<Kept>>(
    core: &Arc<Core>,
    caller: &Caller,
    keyed: &Keyed,
    work: BoxFuture<'_, Result<T, Failure>>,
) -> Result<T, Failure> {
    let until = deadline(caller);
    let _turn = core.flights.enter(&keyed.identity, until.min(Instant::now() + keyed.limits.wait)).await?;
    faults::at(Point::Claimed)?;
    match work.await {
        Err(failure) => after(core, keyed, failure, until).await.map(T::from),
        Ok(done) => {
            faults::at(Point::Committed)?;
            Ok(done)
        }
    }
}

/// The refusal of a request, unless it was done before.
async fn after(core: &Arc<Core>, keyed: &Keyed, failure: Failure, until: Instant) -> Result<Kept, Failure> {
    if failure.code == Code::IdempotencyKeyReused {
        return Err(failure);
    }
    match find(core, keyed, until).await {
        Ok(Some(found)) => keyed.replay(found),
        // The database may know that it was done.
        Err(error) if failure.code != Code::Unavailable => Err(error.class.failure(&error.message)),
        Ok(None) | Err(_) => Err(failure),
    }
}

/// The refusal of what the rules refuse outright; of a batch that is not atomic, that of each item. It does nothing, and what was
/// recorded is not this caller's to see any more. `None` where the rules, which may ask the clock, allow it by now.
async fn refuse(core: &Arc<Core>, caller: &Caller, operation: Operation) -> Result<Option<Answer>, Failure> {
    let Operation { model, verb } = operation;
    let Verb::Batch { atomic, items } = verb else {
        return Mutation::prepare(core, caller, model, verb, None, None).map(|_| None);
    };
    let Task::Batch { items, .. } = core.prepare_batch(caller, model, atomic, items, None).await? else {
        return Ok(None);
    };
    let refused: Option<Vec<_>> = items.into_iter().map(|item| item.err().map(Err)).collect();
    Ok(refused.map(Answer::Batch))
}

/// Whether no row could make the rules allow it.
fn refused_outright(core: &Core, caller: &Caller, operation: &Operation) -> bool {
    let now = core.now();
    let view = core.view(caller, &now);
    let model = core.schema.model(operation.model);
    let refused = |verb: &Verb| {
        let kind = match verb {
            Verb::Create { .. } => Kind::Create,
            Verb::Patch { .. } => Kind::Patch,
            Verb::Delete { .. } => Kind::deletion(model),
            Verb::Restore { .. } => Kind::Restore,
            Verb::List { .. } | Verb::Read { .. } | Verb::Batch { .. } => return true,
        };
        view.decide(operation.model, kind.action(), None) == Decision::Refused
    };
    match &operation.verb {
        Verb::Batch { items, .. } => !items.is_empty() && items.iter().all(|item| refused(&item.verb)),
        verb => refused(verb),
    }
}

async fn work(
    core: &Arc<Core>,
    caller: &Caller,
    operation: Operation,
    keyed: &Keyed,
    watched: Option<&Watched>,
    until: Instant,
) -> Result<Done, Failure> {
    let Operation { model, verb } = operation;
    let context = core.context(caller, model);
    let own = core.store.dialect() == Dialect::Postgres;
    let mut unknown = false;
    let mut task = match verb {
        Verb::Batch { atomic, items } => core.prepare_batch(caller, model, atomic, items, context.as_ref()).await?,
        verb => Task::One(Mutation::prepare(core, caller, model, verb, context.as_ref(), own.then_some(keyed))?),
    };
    if let Task::One(mutation) = task {
        if mutation.note.is_some() {
            match statement(core, &mutation, keyed, until).await? {
                Stated::Kept(kept) => return Ok(kept.into()),
                Stated::TooLarge { unknown: before } => unknown = before,
            }
        }
        task = Task::One(mutation.without_note(core));
    }
    let entry =
        Entry { model: Some(core.schema.model(model).name.clone()), ..keyed.entry(caller, core.options.clock.now()) };
    let work = Work { task, context };
    match &core.store {
        Store::Sqlite(database) => {
            let (of, keyed, watched) = (Arc::clone(core), keyed.clone(), watched.cloned());
            let job = move |session: &mut SqliteSession<'_>| {
                now(in_job(&of, session, &work, &entry, &keyed, watched.as_ref()))
            };
            database.write(until, job).await.map_err(|stop| core.refusal(Some(model), stop))
        }
        Store::Postgres(_) => {
            let done = several(core, caller, keyed, work, entry, watched, until).await;
            done.map_err(|failure| failure.doubted(unknown))
        }
    }
}

/// PostgreSQL: a write that takes several statements.
async fn several(
    core: &Arc<Core>,
    caller: &Caller,
    keyed: &Keyed,
    work: Work,
    entry: Entry,
    watched: Option<&Watched>,
    until: Instant,
) -> Result<Done, Failure> {
    let several = Several { core: Arc::clone(core), work: Arc::new(work), entry, watched: watched.cloned() };
    let options =
        TxOptions { tries: core.options.limits.transaction_tries, ..TxOptions::new(IsolationLevel::ReadCommitted) };
    in_transaction(Arc::clone(core), caller.clone(), keyed.clone(), options, until, Arc::new(several)).await
}

/// PostgreSQL: writes that are more than one statement.
struct Several {
    core: Arc<Core>,
    work: Arc<Work>,
    entry: Entry,
    watched: Option<Watched>,
}

impl Once for Several {
    fn once<'t>(&'t self, tx: &'t Tx) -> BoxFuture<'t, Result<Made, Failure>> {
        let made = async {
            let answer = tx.write(Arc::clone(&self.work)).await?;
            let refused = refused(self.watched.as_ref(), &answer);
            let entry = self.entry.clone().of(&self.core, &self.work, &answer);
            Ok(Made { outcome: Outcome::Done(answer), entry, refused })
        };
        made.boxed()
    }
}

fn refused(watched: Option<&Watched>, answer: &Answer) -> Vec<String> {
    watched.map(|watched| watched.refused(Ok(answer))).unwrap_or_default()
}

/// SQLite: everything at once.
async fn in_job(
    core: &Core,
    session: &mut SqliteSession<'_>,
    work: &Work,
    entry: &Entry,
    keyed: &Keyed,
    watched: Option<&Watched>,
) -> Result<Done, Stop> {
    if let Some(found) = found(&session.fetch(&core.kept.find(&keyed.identity), &mut NoPages).await?) {
        return keyed.replay(found).map(Done::from).map_err(Stop::Refused);
    }
    faults::at(Point::Locked).map_err(Stop::Refused)?;
    let answer = work.run(core, session).await?;
    let refused = refused(watched, &answer);
    let entry = entry.clone().of(core, work, &answer);
    faults::at(Point::Written).map_err(Stop::Refused)?;
    let record = keyed.present.present(Outcome::Done(answer)).map_err(Stop::Refused)?;
    session.fetch(&core.kept.insert(&entry, &record, keyed.limits.body), &mut NoPages).await?;
    Ok(Done { kept: Kept { record, replayed: false }, refused })
}

/// What a write as one statement came to.
enum Stated {
    /// This.
    Kept(Kept),
    /// Its answer is too large to be kept, which one statement cannot say: nothing was done, but by a try before whose outcome
    /// may be unknown.
    TooLarge {
        /// Whether it is.
        unknown: bool,
    },
}

/// PostgreSQL: a write of one row, as one statement. What another try can mend is tried again: a record in the way is found
/// by the next one, and so is the effect of a statement whose connection was lost.
async fn statement(core: &Arc<Core>, mutation: &Mutation, keyed: &Keyed, until: Instant) -> Result<Stated, Failure> {
    let Store::Postgres(pool) = &core.store else { return Err(Failure::new(Code::Internal, "an internal error")) };
    let (mut tries, mut unknown) = (1, false);
    let stop = loop {
        let done = match pool.session(until.into()).await {
            Ok(mut session) => one(core, &mut session, mutation, keyed).await,
            Err(error) => Err(Stop::from(error)),
        };
        match done {
            Ok(kept) => return Ok(Stated::Kept(kept)),
            Err(Stop::Database(error)) if is_too_large(&error) => return Ok(Stated::TooLarge { unknown }),
            Err(Stop::Database(error)) if again(&error) && tries < core.options.limits.transaction_tries => {
                unknown |= error.class.outcome_unknown();
                tokio::time::sleep(core.pause(tries)).await;
                tries += 1;
            }
            Err(stop) => break stop,
        }
    };
    Err(match stop {
        Stop::Database(error) if error.class == Class::LockTimeout => in_flight(),
        stop => core.refusal(Some(mutation.form.model), stop).doubted(unknown),
    })
}

fn again(error: &StoreError) -> bool {
    matches!(error.class.remedy(), Remedy::Again | Remedy::Reconnect) || is_race(error)
}

/// Whether it divided by zero: see `keeping` of the planner. Should it have been something else that did, that does so again.
fn is_too_large(error: &StoreError) -> bool {
    error.message.starts_with("22012:")
}

/// Whether another request with the same key was quicker.
pub(super) fn is_race(error: &StoreError) -> bool {
    error.class == Class::Unique && error.table.as_deref() == Some(TABLE)
}

/// One try.
async fn one<S: Session>(core: &Core, session: &mut S, mutation: &Mutation, keyed: &Keyed) -> Result<Kept, Stop> {
    let performed = match attempt(core, session, mutation).await {
        Err(Stop::Data(error)) if is_race(&error) => return Err(Stop::Database(error)),
        Err(Stop::Data(error)) => {
            let explained = explain(core, session, mutation, error).await;
            return Err(Stop::Refused(explained.map_err(StoreError::harmless)?));
        }
        performed => performed?,
    };
    match performed {
        Performed::Written(rows) => written(&rows, mutation),
        Performed::Before(found) => keyed.replay(found).map_err(Stop::Refused),
        // It was done, and changed nothing: that is its answer for ever.
        Performed::Unchanged { version, rows } => {
            let Some(note) = &mutation.note else {
                return Err(Stop::Refused(Failure::new(Code::Internal, "an internal error")));
            };
            let answer = mutation.unchanged(core, version, rows);
            let record = keyed.present.present(Outcome::Done(answer)).map_err(Stop::Refused)?;
            let KeyLimits { body, wait, .. } = keyed.limits;
            let insert = core.kept.insert_within(&note.entry, &record, body, wait);
            session.fetch(&insert, &mut NoPages).await?;
            Ok(Kept { record, replayed: false })
        }
    }
}

/// The answer, from what the statement of a keyed write gave.
fn written(rows: &Rows, mutation: &Mutation) -> Result<Kept, Stop> {
    let (Some(note), [Value::Bool(readable), version, key, Value::Text(body)]) = (&mutation.note, rows.control(0))
    else {
        return Err(Stop::Database(StoreError::new(
            Class::Other,
            "the statement of a keyed write gave something else",
        )));
    };
    let text = |value: &'_ Value| if let Value::Text(text) = value { text.clone() } else { String::new() };
    let record = note.stencil.fill(*readable, &text(version), &text(key), body);
    Ok(Kept { record, replayed: false })
}

fn found(rows: &Rows) -> Option<Found> {
    Found::of(rows.control(0))
}

/// Looks a request up, outside of any transaction.
async fn find(core: &Arc<Core>, keyed: &Keyed, until: Instant) -> Result<Option<Found>, StoreError> {
    let statement = core.kept.find(&keyed.identity);
    let rows = match &core.store {
        Store::Postgres(pool) => {
            let mut tries = 0;
            loop {
                let done = match pool.session(until.into()).await {
                    Ok(mut session) => session.fetch(&statement, &mut NoPages).await,
                    Err(error) => Err(error),
                };
                match done {
                    Err(error) if error.class.remedy() == Remedy::Reconnect && tries < 2 => tries += 1,
                    done => break done?,
                }
            }
        }
        Store::Sqlite(database) => {
            database.read(until, move |session| now(session.fetch(&statement, &mut NoPages))).await?
        }
    };
    Ok(found(&rows))
}

/// What is done once.
pub(super) trait Once: Send + Sync + 'static {
    /// Does it, in a transaction that may be undone: then it is called again.
    fn once<'t>(&'t self, tx: &'t Tx) -> BoxFuture<'t, Result<Made, Failure>>;
}

/// What was done, and what is recorded of it.
pub(super) struct Made {
    pub(super) outcome: Outcome,
    pub(super) entry: Entry,
    /// Keys of rows whose change was refused.
    pub(super) refused: Vec<String>,
}

/// Does something in a transaction of its own that holds the key's lock, unless it was done before, and records it.
///
/// A commit whose outcome nobody knows is no end: the next try takes the lock, which the transaction before has given up
/// by then, and finds its record or none. `until` is the end of all tries, whatever the options say.
pub(super) async fn in_transaction(
    core: Arc<Core>,
    caller: Caller,
    keyed: Keyed,
    options: TxOptions,
    until: Instant,
    work: Arc<dyn Once>,
) -> Result<Done, Failure> {
    let opener = Opener::new(&Engine { core: Arc::clone(&core) }, &caller).keyed(&keyed);
    let serializable = options.level == IsolationLevel::Serializable && core.store.dialect() == Dialect::Postgres;
    let locked = Arc::new(Locked { opener, keyed, work, apart: serializable });
    let mut tries = 1;
    loop {
        if locked.apart {
            let found = find(&core, &locked.keyed, until).await.map_err(StoreError::harmless);
            let found = found.map_err(|error| error.class.failure(&error.message).doubted(tries > 1))?;
            if let Some(found) = found {
                return locked.keyed.replay(found).map(Done::from);
            }
        }
        let options = TxOptions { deadline: until.saturating_duration_since(Instant::now()), ..options };
        match Arc::clone(&locked).run(options).boxed().await {
            Err(TxError::OutcomeUnknown(source))
                if was_lost(source.as_ref()) && tries < options.tries && Instant::now() < until =>
            {
                tries += 1;
            }
            done => return done.map_err(|error| super::procedures::failure(error).doubted(tries > 1)),
        }
        tokio::time::sleep(core.pause(tries)).await;
    }
}

/// Whether it is the database that could not say what became of a commit. What a body has committed by itself it would commit
/// once more with each further try.
fn was_lost(source: Option<&BoxError>) -> bool {
    let failure = source.and_then(|source| source.downcast_ref::<Failure>());
    failure.is_none_or(|failure| failure.code == Code::Unavailable)
}

impl Failure {
    /// The same after a try whose outcome is unknown, which this one need not have found out.
    fn doubted(self, unknown: bool) -> Self {
        if !unknown || !matches!(self.code, Code::Unavailable | Code::TransactionAborted) {
            return self;
        }
        let what = self.detail.split(';').next().unwrap_or_default();
        Self { detail: format!("{what}{UNKNOWN}"), ..self }
    }
}

/// Work with its request.
struct Locked {
    opener: Opener,
    keyed: Keyed,
    work: Arc<dyn Once>,
    /// Whether its record is looked for before the transaction and not in it. What a serializable transaction has looked for and not
    /// found counts as read, down to the page of the index: so any two of them would be in each other's way, whatever their keys.
    /// Whoever comes between the look and the transaction has made a record, into which this one then runs.
    apart: bool,
}

impl Locked {
    async fn run(self: Arc<Self>, options: TxOptions) -> Result<Done, TxError<Failure>> {
        let locked = Arc::clone(&self);
        let body = async move |tx: &mut &Tx| locked.once(tx).await;
        run_in_isolated_tx_with(&self.opener, &options, body).await
    }

    /// One try.
    async fn once(&self, tx: &Tx) -> Result<Done, Failure> {
        if !self.apart
            && let Some(found) = tx.find(&self.keyed).await?
        {
            return self.keyed.replay(found).map(Done::from);
        }
        faults::at(Point::Locked)?;
        let Made { outcome, entry, refused } = self.work.once(tx).await?;
        faults::at(Point::Written)?;
        let record = self.keyed.present.present(outcome)?;
        tx.keep(&entry, &record, self.keyed.limits.body, self.apart).await?;
        Ok(Done { kept: Kept { record, replayed: false }, refused })
    }
}

/// Removes what has expired.
pub(super) async fn sweep(core: &Arc<Core>) -> Result<usize, Failure> {
    let statement = core.kept.sweep(&core.now());
    let until = Instant::now() + SWEEP;
    let rows = match &core.store {
        Store::Postgres(pool) => match pool.session(until.into()).await {
            Ok(mut session) => session.fetch(&statement, &mut NoPages).await,
            Err(error) => Err(error),
        },
        Store::Sqlite(database) => {
            database.write(until, move |session| now(session.fetch(&statement, &mut NoPages))).await
        }
    };
    rows.map(|rows| rows.len()).map_err(|error| error.class.failure(&error.message))
}

/// That the key does not belong to another request.
pub(super) async fn check(core: &Arc<Core>, keyed: &Keyed) -> Result<(), Failure> {
    let found = find(core, keyed, Instant::now() + keyed.limits.wait).await;
    let found = found.map_err(|error| error.class.failure(&error.message))?;
    found.map_or(Ok(()), |found| keyed.replay(found).map(|_| ()))
}

/// How long one removal of what has expired may take.
const SWEEP: Duration = Duration::from_secs(30);

impl Keyed {
    /// What PostgreSQL is to record with a write; `None` where it cannot.
    pub(super) fn note(
        &self,
        core: &Core,
        caller: &Caller,
        kind: Kind,
        id: ModelId,
        key: Option<&[String]>,
        fields: &[(FieldId, Value)],
    ) -> Option<Note> {
        if !core.keeps.get(id.index()).copied().unwrap_or(false) {
            return None;
        }
        let model = core.schema.model(id);
        let mut entry = Entry { model: Some(model.name.clone()), ..self.entry(caller, core.options.clock.now()) };
        let given = |id: &FieldId| fields.iter().find(|(given, _)| given == id).map(|(_, value)| value.clone());
        let values: Option<Vec<Value>> = model.key.iter().map(given).collect();
        let texts = |values: &[Value]| -> Key {
            let text = |(id, value): (&FieldId, &Value)| key_text(&core.schema, model.field(*id).ty, value);
            model.key.iter().zip(values).map(text).collect()
        };
        let key = if let Some(key) = key {
            // As it is written, and not as it was sent.
            texts(&key_values(&core.schema, model, key)?)
        } else if let Some(values) = values {
            entry.primary_key = Some(audit::key(&core.schema, model, &values));
            texts(&values)
        } else {
            write::made_key(model)?;
            entry.primary_key = Some(KEY_MARK.to_owned());
            vec![KEY_MARK.to_owned()]
        };
        let sketch = Sketch { kind, key, versioned: model.version.is_some() };
        let stencil = self.present.stencil(&sketch)?;
        Some(Note { entry, stencil, limit: self.limits.body, wait: self.limits.wait })
    }
}

impl Note {
    /// How much of the answer it keeps.
    pub(super) fn keeping(&self) -> Keeping {
        if self.stencil.body { Keeping::Body } else { Keeping::Head }
    }

    /// Says which row it is about.
    pub(super) fn of_row(&mut self, key: String) {
        self.entry.primary_key = Some(key);
    }
}

impl Mutation {
    /// The same write, which records nothing by itself.
    fn without_note(self, core: &Core) -> Self {
        if self.note.is_none() {
            return self;
        }
        let form = Form { keyed: Keeping::Nothing, ..self.form };
        let view = core.policies.view(self.principal.as_ref(), &self.now).with(self.authority);
        let plan = core.plans.get(&form, || write::plan(&view, core.store.dialect(), &form));
        Self { form, plan, note: None, ..self }
    }
}

impl Entry {
    /// Says which row the answer is about; nothing where it is about several.
    fn of(mut self, core: &Core, work: &Work, answer: &Answer) -> Self {
        if let Task::One(mutation) = &work.task {
            let model = core.schema.model(mutation.form.model);
            let key = match answer {
                Answer::Row(row) => key_values(&core.schema, model, &row.key),
                _ => Some(mutation.key.clone()),
            };
            self.primary_key = key.map(|key| audit::key(&core.schema, model, &key));
        }
        self
    }
}
