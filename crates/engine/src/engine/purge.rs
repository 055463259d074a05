//! The end of tombstones: rows of a `@@soft_delete` model that were deleted long ago are removed for good, in batches,
//! each a transaction. In the audit trail they are `erase` events of the system.
//!
//! A foreign key decides about each row: `Cascade` takes children along, tombstones of any age among them, which are not
//! counted; and a row that others still refer to stays and is counted.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cratestack_schema::ir::{FieldId, ModelId, ReferentialAction, Schema};
use cratestack_schema::value::Value;

use super::{Core, Engine, Store, now};
use crate::api::{AuthMethod, Authority, Caller, Code, Failure, Origin};
use crate::audit::{self, Context};
use crate::ddl::owning;
use crate::fault::{self, Class, StoreError};
use crate::idempotency;
use crate::logs::SETTING;
use crate::plan::Values;
use crate::sql::{Column, Dialect, Shape, Slot, Sql, SqlType, Statement, Template, column, ident};
use crate::store::sqlite::SqliteSession;
use crate::store::{Control, NoPages, Session};

/// Rows of one transaction.
const BATCH: i64 = 500;
/// How long a transaction may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a purge has done so far, or would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Purged {
    /// Rows that are gone.
    pub removed: u64,
    /// Rows that stay, because others refer to them.
    pub kept: u64,
}

/// What a purge is about.
#[derive(Clone)]
struct Job {
    core: Arc<Core>,
    model: ModelId,
    /// Deleted before this time, a canonical `DateTime`.
    before: String,
    context: Option<Arc<Context>>,
}

impl Engine {
    /// How many tombstones of a model were made before `before`, a canonical `DateTime`.
    ///
    /// # Errors
    /// [`Code::BadRequest`] for a model without `@@soft_delete`; [`Code::Unavailable`].
    pub async fn tombstones(&self, model: ModelId, before: &str) -> Result<u64, Failure> {
        let job = self.job(model, before)?;
        let rows = job.read(job.count()).await.map_err(|error| job.failed(&error))?;
        Ok(rows
            .first()
            .and_then(|row| row.first())
            .and_then(super::int)
            .and_then(|n| u64::try_from(n).ok())
            .unwrap_or(0))
    }

    /// Removes the tombstones of a model that were made before `before`, a canonical `DateTime`, and calls `report`
    /// after each batch. What was removed stays removed if a later batch fails, or if the caller goes away.
    ///
    /// # Errors
    /// [`Code::BadRequest`] for a model without `@@soft_delete`; [`Code::Unavailable`].
    pub async fn purge(
        &self,
        model: ModelId,
        before: &str,
        report: &mut (dyn FnMut(Purged) + Send),
    ) -> Result<Purged, Failure> {
        let job = self.job(model, before)?;
        let mut purged = Purged::default();
        let mut after: Option<Vec<Value>> = None;
        loop {
            let keys = job.read(job.page(after.as_deref())).await.map_err(|error| job.failed(&error))?;
            let Some(last) = keys.last() else {
                job.forget(purged.removed > 0).await.map_err(|error| job.failed(&error))?;
                return Ok(purged);
            };
            after = Some(last.clone());
            let done = job.erase(keys).await.map_err(|error| job.failed(&error))?;
            purged.removed += done.removed;
            purged.kept += done.kept;
            report(purged);
        }
    }

    fn job(&self, model: ModelId, before: &str) -> Result<Job, Failure> {
        let core = Arc::clone(&self.core);
        let declared = core.schema.model(model);
        if declared.soft_delete.is_none() {
            let detail = format!("`{}` has no `@@soft_delete`, and so no tombstones", declared.name);
            return Err(Failure::new(Code::BadRequest, detail));
        }
        let origin = Origin { op: "purge".into(), auth: Some(AuthMethod::System), ..Origin::default() };
        let request_id = core.options.ids.uuid();
        let caller = Caller { principal: None, authority: Authority::Service, request_id, deadline: PATIENCE, origin };
        let context = core.context(&caller, model);
        Ok(Job { core, model, before: before.to_owned(), context })
    }
}

/// The models whose rows go with rows of this one, itself included.
fn taken_along(schema: &Schema, model: ModelId) -> Vec<ModelId> {
    let mut all = vec![model];
    let mut next = 0;
    while let Some(at) = all.get(next).copied() {
        next += 1;
        for (child, declared) in schema.models() {
            let goes = |on_delete| on_delete == ReferentialAction::Cascade;
            if !all.contains(&child) && owning(declared).any(|(_, key)| key.target == at && goes(key.on_delete)) {
                all.push(child);
            }
        }
    }
    all
}

impl Job {
    fn failed(&self, error: &StoreError) -> Failure {
        fault::failure(&self.core.schema, self.model, error)
    }

    /// A statement over the tombstones that are old enough, under the alias `r`.
    fn statement(
        &self,
        build: impl FnOnce(&mut Sql, String, Vec<String>),
        key: &[Value],
        control: &[SqlType],
    ) -> Statement {
        let model = self.core.schema.model(self.model);
        let dialect = self.core.store.dialect();
        let mut sql = Sql::new(dialect);
        let deleted_at = model.soft_delete.map(|id| column("r", &model.field(id).column)).unwrap_or_default();
        let before = sql.placeholder(Slot::Const(Value::Text(self.before.clone())), SqlType::DATE_TIME);
        let keys = (0..).zip(&model.key).map(|(at, id)| sql.placeholder(Slot::Key(at), SqlType::of(model.field(*id))));
        let keys = keys.collect();
        build(&mut sql, format!("{deleted_at} < {before}"), keys);
        let (sql, slots) = sql.finish();
        let template =
            Template { sql, slots, control: Column::row(control), page: None, shape: Arc::new(Shape::default()) };
        let values =
            Values { key, context: self.context.as_deref(), ..Values::new(&self.core.schema, dialect, None, "") };
        // The values were read from these very columns.
        let filled = Arc::new(template).fill(|slot| values.bind(slot));
        filled.unwrap_or_else(|_| Statement { template: Arc::new(Template::fixed("SELECT 1", &[])), binds: Vec::new() })
    }

    fn table(&self) -> String {
        ident(&self.core.schema.model(self.model).table)
    }

    fn columns(&self) -> Vec<String> {
        let model = self.core.schema.model(self.model);
        model.key.iter().map(|id| column("r", &model.field(*id).column)).collect()
    }

    fn key_types(&self) -> Vec<SqlType> {
        let model = self.core.schema.model(self.model);
        model.key.iter().map(|id: &FieldId| SqlType::of(model.field(*id))).collect()
    }

    fn count(&self) -> Statement {
        let table = self.table();
        let build = |sql: &mut Sql, old: String, _| {
            sql.push(&format!("SELECT count(*) FROM {table} AS r WHERE {old}"));
        };
        self.statement(build, &[], &[SqlType::INT])
    }

    /// The keys of the next rows, in their order.
    fn page(&self, after: Option<&[Value]>) -> Statement {
        let (table, columns) = (self.table(), self.columns().join(", "));
        let build = |sql: &mut Sql, old: String, keys: Vec<String>| {
            let behind =
                if after.is_some() { format!(" AND ({columns}) > ({})", keys.join(", ")) } else { String::new() };
            sql.push(&format!(
                "SELECT {columns} FROM {table} AS r WHERE {old}{behind} ORDER BY {columns} LIMIT {BATCH}"
            ));
        };
        self.statement(build, after.unwrap_or_default(), &self.key_types())
    }

    /// Removes one row, unless somebody has restored it meanwhile.
    fn delete(&self, key: &[Value]) -> Statement {
        let (table, columns) = (self.table(), self.columns());
        let tells = self.core.store.dialect() == Dialect::Postgres && self.context.is_some();
        let build = |sql: &mut Sql, old: String, keys: Vec<String>| {
            let same: Vec<String> = columns.iter().zip(keys).map(|(column, key)| format!("{column} = {key}")).collect();
            let mut returned = "1".to_owned();
            if tells {
                let context = sql.placeholder(Slot::Context, SqlType::TEXT);
                returned = format!("1, (SELECT set_config('{SETTING}', {context}, true) IS NULL)");
            }
            let same = same.join(" AND ");
            sql.push(&format!("DELETE FROM {table} AS r WHERE {same} AND {old} RETURNING {returned}"));
        };
        self.statement(build, key, &[])
    }

    /// The rows of a statement that reads.
    async fn read(&self, statement: Statement) -> Result<Vec<Vec<Value>>, StoreError> {
        let deadline = Instant::now() + PATIENCE;
        let rows = match &self.core.store {
            Store::Postgres(pool) => pool.session(deadline.into()).await?.fetch(&statement, &mut NoPages).await?,
            Store::Sqlite(database) => {
                database.read(deadline, move |session| now(session.fetch(&statement, &mut NoPages))).await?
            }
        };
        Ok((0..rows.len()).map(|row| rows.control(row).to_vec()).collect())
    }

    /// Removes the bodies of stored answers that show rows which are not there any more: those that a foreign key took along,
    /// and those of the model that were deleted otherwise. Batches do not say which rows they show: where any were `removed`, what
    /// foreign keys took along may be in those of its models.
    async fn forget(&self, removed: bool) -> Result<(), StoreError> {
        let (schema, dialect) = (&self.core.schema, self.core.store.dialect());
        let deadline = Instant::now() + PATIENCE;
        for id in taken_along(schema, self.model) {
            let statement = idempotency::forget(schema, id, dialect, removed && id != self.model);
            match &self.core.store {
                Store::Postgres(pool) => {
                    pool.session(deadline.into()).await?.fetch(&statement, &mut NoPages).await?;
                }
                Store::Sqlite(database) => {
                    let run = move |session: &mut SqliteSession<'_>| now(session.fetch(&statement, &mut NoPages));
                    database.write::<_, _, StoreError>(deadline, run).await?;
                }
            }
        }
        Ok(())
    }

    /// Removes rows in one transaction, each in a savepoint.
    async fn erase(&self, keys: Vec<Vec<Value>>) -> Result<Purged, StoreError> {
        let deadline = Instant::now() + PATIENCE;
        match &self.core.store {
            Store::Postgres(pool) => {
                let mut session = pool.session(deadline.into()).await?;
                self.in_transaction(&mut session, &keys).await
            }
            Store::Sqlite(database) => {
                let job = self.clone();
                database.write(deadline, move |session| now(job.in_transaction(session, &keys))).await
            }
        }
    }

    async fn in_transaction<S: Session>(&self, session: &mut S, keys: &[Vec<Value>]) -> Result<Purged, StoreError> {
        let sqlite = self.core.store.dialect() == Dialect::Sqlite;
        let context = self.context.as_ref().filter(|_| sqlite);
        session.control(Control::Begin).await?;
        if let Some(context) = context {
            session.fetch(&self.core.trail.set(context), &mut NoPages).await?;
        }
        let mut purged = Purged::default();
        let mut gone = Vec::new();
        for key in keys {
            session.control(Control::Savepoint).await?;
            match session.fetch(&self.delete(key), &mut NoPages).await {
                Ok(rows) => {
                    session.control(Control::Release).await?;
                    purged.removed += rows.len() as u64;
                    let model = self.core.schema.model(self.model);
                    gone.extend((!rows.is_empty()).then(|| audit::key(&self.core.schema, model, key)));
                }
                Err(error) if matches!(error.class, Class::ForeignKey | Class::Restrict | Class::AppendOnly) => {
                    session.control(Control::RollbackTo).await?;
                    purged.kept += 1;
                }
                Err(error) => return Err(error),
            }
        }
        if context.is_some() {
            session.fetch(&self.core.trail.clear(), &mut NoPages).await?;
        }
        if !gone.is_empty() {
            let name = &self.core.schema.model(self.model).name;
            let erase = self.core.kept.erase(self.core.store.dialect(), name, gone);
            session.fetch(&erase, &mut NoPages).await?;
        }
        session.control(Control::Commit).await?;
        Ok(purged)
    }
}
