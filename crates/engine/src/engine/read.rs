//! The life of a read: parameters (400), cursor (400), rules (401, 403), one statement, and for one row 404.

use std::sync::Arc;
use std::time::Instant;

use cratestack_schema::ir::{Action, Model, ModelId};
use cratestack_schema::value::Value;

use super::{Core, Place, Store, deadline, int, key_of, now, unauthenticated, verb};
use crate::api::{Answer, Caller, Code, Failure, Key, Principal, Row};
use crate::cursor::{self, SEED};
use crate::fault::{self, Class, Remedy, StoreError};
use crate::plan::read::{self, Cursors, List, One, Refused};
use crate::plan::{Values, key_values, write};
use crate::policy::AtomKey;
use crate::query::{self, Projection, Query};
use crate::sql::{Many, Statement, Template};
use crate::storage::{Pager, StorageError};
use crate::store::postgres::{Gather, Gathered, PgSession, Postgres};
use crate::store::sqlite::SqliteSession;
use crate::store::{Rows, Session as _};

/// The statement of a page, or that the rules let the caller see none.
pub(super) type ListPlan = Result<List, Refused>;
/// The statement of one row, or that the rules let the caller see none.
pub(super) type RowPlan = Result<RowRead, Refused>;

/// How one row is read.
#[derive(Debug)]
pub(super) struct RowRead {
    template: Arc<Template>,
    /// Where its requests meet, if they may be done together.
    gather: Option<Arc<Gather>>,
}

impl From<One> for RowRead {
    fn from(one: One) -> Self {
        let gather = one.together.map(|together| Arc::new(Gather::new(together.template, together.whose)));
        Self { template: one.template, gather }
    }
}

/// What the statement of a page depends on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct ListForm {
    query: query::Form,
    nulls: Option<Vec<bool>>,
    atoms: AtomKey,
}

/// What the statement of one row depends on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct RowForm {
    model: ModelId,
    projection: Projection,
    atoms: AtomKey,
}

pub(super) async fn list(
    core: &Arc<Core>,
    place: Place<'_>,
    caller: &Caller,
    model: ModelId,
    params: &[(String, String)],
) -> Result<Answer, Failure> {
    let deadline = deadline(caller);
    let limits = &core.options.limits;
    let query = query::list(&core.schema, model, limits, params)?;
    let (clock, unix) = (core.now(), unix(core));
    let view = core.view(caller, &clock);
    let cursor = match &query.cursor {
        None => None,
        Some(cursor) => {
            let binding = query.binding(&core.schema, caller.principal.as_ref());
            let began = core.cursors.open(cursor, unix, limits.cursor_ttl, &binding)?;
            Some(if began.is_whole() {
                began.values
            } else {
                whole(core, place, caller, &query, &began, deadline).await?
            })
        }
    };
    let nulls: Option<Vec<bool>> =
        cursor.as_ref().map(|values| values.iter().map(|value| *value == Value::Null).collect());
    let dialect = core.store.dialect();
    let make = |nulls: Option<&[bool]>| read::list(&view, dialect, limits.include_limit, &query, nulls);
    let plan = match query.form() {
        None => Arc::new(make(nulls.as_deref())),
        Some(form) => {
            let form = ListForm { query: form, nulls, atoms: view.key_with(query.condition.as_ref()) };
            core.lists.get(&form, || make(form.nulls.as_deref()))
        }
    };
    let Ok(plan) = &*plan else { return Err(refused(core.schema.model(model), caller, Action::List)) };
    let values = Values {
        cursor: cursor.as_deref().unwrap_or_default(),
        ..Values::new(&core.schema, dialect, caller.principal.as_ref(), &clock)
    };
    let rows = fetch(core, place, caller, model, &plan.template, &values, deadline).await?;
    let page = plan.page(rows);
    let random = random(core);
    let cursors = Cursors {
        schema: &core.schema,
        keys: &core.cursors,
        principal: caller.principal.as_ref(),
        now: unix,
        random: &random,
    };
    let next = page.next.map(|values| cursors.seal(&query, &values)).transpose()?;
    Ok(Answer::Page { items: page.items, next, total: page.total })
}

/// The sort values of a place that holds the beginnings of some: the row's own, if it is still there and has them.
/// Otherwise the page begins where the first row may be that comes behind: what begins alike may be shown again, and
/// nothing is left out.
async fn whole(
    core: &Arc<Core>,
    place: Place<'_>,
    caller: &Caller,
    query: &Query,
    began: &cursor::Place,
    deadline: Instant,
) -> Result<Vec<Value>, Failure> {
    let clock = core.now();
    let view = core.view(caller, &clock);
    let dialect = core.store.dialect();
    let only = query.only(&core.schema, &began.values);
    let model = core.schema.model(query.model);
    let plan = read::list(&view, dialect, core.options.limits.include_limit, &only, None)
        .map_err(|Refused| refused(model, caller, Action::List))?;
    let values = Values::new(&core.schema, dialect, caller.principal.as_ref(), &clock);
    let rows = fetch(core, place, caller, query.model, &plan.template, &values, deadline).await?;
    let found = List::place(&rows).and_then(|found| began.completed(found));
    Ok(found.unwrap_or_else(|| began.before(|at| query.sort.get(at).is_some_and(|sort| sort.descending))))
}

pub(super) async fn one(
    core: &Arc<Core>,
    place: Place<'_>,
    caller: &Caller,
    model: ModelId,
    key: &Key,
    params: &[(String, String)],
) -> Result<Answer, Failure> {
    let deadline = deadline(caller);
    let limits = &core.options.limits;
    let declared = core.schema.model(model);
    let projection = query::read(&core.schema, model, limits, params)?;
    let clock = core.now();
    let view = core.view(caller, &clock);
    let dialect = core.store.dialect();
    // Includes apply the rules of other models.
    let atoms = if projection.includes.is_empty() { view.key_near(model) } else { view.key() };
    let form = RowForm { model, projection, atoms };
    let make = || read::one(&view, dialect, limits.include_limit, model, &form.projection).map(RowRead::from);
    let plan = core.rows.get(&form, make);
    let Ok(plan) = &*plan else { return Err(refused(declared, caller, Action::Detail)) };
    let key = key_values(&core.schema, declared, key).ok_or_else(|| write::not_found(declared))?;
    let values = Values { key: &key, ..Values::new(&core.schema, dialect, caller.principal.as_ref(), &clock) };
    let rows = match (place, &core.store, &plan.gather) {
        (Place::Own, Store::Postgres(pool), Some(gather)) => {
            let rows = async {
                let statement = Arc::new(filled(&plan.template, &values)?);
                match pool.gathered(gather, &statement, deadline.into()).await? {
                    Gathered::Read(rows) => Ok(rows),
                    Gathered::Alone(session) => from_postgres(core, caller, pool, session, &statement, deadline).await,
                }
            };
            rows.await.map_err(|error| fault::failure(&core.schema, model, &error))?
        }
        _ => fetch(core, place, caller, model, &plan.template, &values, deadline).await?,
    };
    if rows.is_empty() {
        return Err(write::not_found(declared));
    }
    let version = rows.control(0).first().and_then(int);
    let key = key_of(core, declared, key.iter());
    Ok(Answer::Row(Row { body: Some(rows.into_first()), key, version, full: form.projection.full(), created: false }))
}

pub(super) fn unix(core: &Core) -> i64 {
    core.options.clock.now().div_euclid(1_000_000)
}

pub(super) fn random(core: &Core) -> impl Fn() -> Option<[u8; SEED]> + Sync {
    || {
        let mut seed = [0; SEED];
        core.options.ids.random(&mut seed).then_some(seed)
    }
}

pub(super) fn refused(model: &Model, caller: &Caller, action: Action) -> Failure {
    if caller.principal.is_none() {
        return unauthenticated(model, action);
    }
    Failure::new(Code::Forbidden, format!("the rules of `{}` do not let this caller {} it", model.name, verb(action)))
}

fn filled(template: &Arc<Template>, values: &Values<'_>) -> Result<Statement, StoreError> {
    template.fill(|slot| values.bind(slot)).map_err(|error| StoreError::new(Class::Other, error.to_string()))
}

/// Runs a statement that only reads; once more on another connection if the first one is lost.
pub(super) async fn fetch(
    core: &Arc<Core>,
    place: Place<'_>,
    caller: &Caller,
    model: ModelId,
    template: &Arc<Template>,
    values: &Values<'_>,
    deadline: Instant,
) -> Result<Rows, Failure> {
    let failed = |error: StoreError| fault::failure(&core.schema, model, &error);
    let statement = filled(template, values).map_err(failed)?;
    // What makes the cursors of includes goes where the statement runs.
    let pages = || Pages { core: Arc::clone(core), principal: caller.principal.clone(), now: unix(core) };
    if let Place::Within(tx) = place {
        return tx.read(statement, pages(), failed).await;
    }
    match &core.store {
        Store::Sqlite(database) => {
            let mut pages = pages();
            let work = move |session: &mut SqliteSession<'_>| now(session.fetch(&statement, &mut pages));
            database.read(deadline, work).await.map_err(failed)
        }
        Store::Postgres(pool) => from_postgres(core, caller, pool, None, &statement, deadline).await.map_err(failed),
    }
}

/// The rows of a statement, on the connection that there is, or on another.
async fn from_postgres(
    core: &Core,
    caller: &Caller,
    pool: &Postgres,
    mut session: Option<PgSession>,
    statement: &Statement,
    deadline: Instant,
) -> Result<Rows, StoreError> {
    let mut again = true;
    loop {
        let random = random(core);
        let mut cursors = Cursors {
            schema: &core.schema,
            keys: &core.cursors,
            principal: caller.principal.as_ref(),
            now: unix(core),
            random: &random,
        };
        let session = match session.take() {
            Some(session) => Ok(session),
            None => pool.session(deadline.into()).await,
        };
        let done = match session {
            Ok(mut session) => session.fetch(statement, &mut cursors).await,
            Err(error) => Err(error),
        };
        match done {
            Err(error) if error.class.remedy() != Remedy::None && again => again = false,
            done => return done,
        }
    }
}

/// Makes the cursors of to-many includes.
struct Pages {
    core: Arc<Core>,
    principal: Option<Principal>,
    now: i64,
}

impl Pager for Pages {
    fn next(&mut self, include: &Many, control: &[Value]) -> Result<String, StorageError> {
        let random = random(&self.core);
        let mut cursors = Cursors {
            schema: &self.core.schema,
            keys: &self.core.cursors,
            principal: self.principal.as_ref(),
            now: self.now,
            random: &random,
        };
        cursors.next(include, control)
    }
}

#[cfg(test)]
mod tests;
