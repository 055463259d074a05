//! The history of a database, without running anything: how it stands, what is to be run, and what is to be taken for run.

use std::time::Duration;

use super::lease::{acquire, release};
use super::ledger::{self, Ledger, MigrationStatus, StepState};
use super::run::{Runner, RunnerOptions, ensure};
use super::session::{Session, Target};
use super::{Migration, MigrationError, Phase, Prepared};
use crate::engine::futures::now;
use crate::migrate::{self, Db};
use crate::sql::Dialect;

/// How each migration stands, in the order of their ids.
///
/// # Errors
/// [`MigrationError::Drift`] where the history is another one; [`survey`] says how all of them stand even then.
pub async fn status(target: &dyn Target, migrations: &[Migration]) -> Result<Vec<MigrationStatus>, MigrationError> {
    let (statuses, drift) = survey(target, migrations).await?;
    drift.map_or(Ok(statuses), |drift| Err(MigrationError::Drift(drift)))
}

/// How each migration stands, and how the history differs. Changes nothing.
///
/// # Errors
/// When the database cannot be reached, or a migration cannot be read.
pub async fn survey(
    target: &dyn Target,
    migrations: &[Migration],
) -> Result<(Vec<MigrationStatus>, Option<ledger::Drift>), MigrationError> {
    let place = target.place()?;
    let prepared = Prepared::all(migrations, place.dialect())?;
    let ledger = if place.is_absent() {
        Ledger::default()
    } else {
        let mut session = Session::open_to_read(&place).await?;
        let ledger = Ledger::load(&mut session).await;
        session.close().await;
        ledger?
    };
    Ok((ledger.statuses(&prepared), ledger.drift(&prepared)))
}

/// Whether migrations were ever applied to a database. Changes nothing.
///
/// # Errors
/// When it cannot be reached.
pub async fn any_applied(target: &dyn Target) -> Result<bool, MigrationError> {
    let place = target.place()?;
    if place.is_absent() {
        return Ok(false);
    }
    let mut session = Session::open_to_read(&place).await?;
    let ledger = Ledger::load(&mut session).await;
    session.close().await;
    Ok(!ledger?.is_empty())
}

/// What [`apply_pending`](super::apply_pending) would run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Of the migration.
    pub id: String,
    /// What it is for.
    pub description: String,
    /// The steps that are not done, in their order.
    pub steps: Vec<PlannedStep>,
}

/// A step that would be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedStep {
    /// Which one, from 1.
    pub number: usize,
    /// When it is run.
    pub phase: Phase,
    /// Its name, or the beginning of its first statement.
    pub title: String,
    /// Whether it is one transaction.
    pub transaction: bool,
    /// The query that tells whether it has been done.
    pub done_when: Option<String>,
    /// Its statements.
    pub statements: Vec<String>,
}

/// What [`apply_pending`](super::apply_pending) would run now. Changes nothing.
///
/// # Errors
/// As for [`status`].
pub async fn plan(target: &dyn Target, migrations: &[Migration]) -> Result<Vec<Plan>, MigrationError> {
    let place = target.place()?;
    let prepared = Prepared::all(migrations, place.dialect())?;
    let statuses = status(target, migrations).await?;
    let open =
        |migration: &Prepared| statuses.iter().find(|status| status.id == migration.id && !status.state.is_clean());
    let plan = |migration: Prepared| {
        let status = open(&migration)?;
        let steps = migration.steps.iter().zip(&status.steps).enumerate();
        let steps =
            steps.filter(|(_, (_, status))| status.state != StepState::Done).map(|(at, (step, _))| PlannedStep {
                number: at + 1,
                phase: step.phase,
                title: step.title(),
                transaction: step.transaction,
                done_when: step.done_when.clone(),
                statements: step.statements.iter().map(|statement| statement.sql.clone()).collect(),
            });
        let steps = steps.collect();
        Some(Plan { id: migration.id, description: migration.description, steps })
    };
    Ok(prepared.into_iter().filter_map(plan).collect())
}

/// Marks migrations as applied without running them, up to one of them or all: for a database that has what they make
/// already. Gives the ids of those that were marked.
///
/// # Errors
/// [`MigrationError::Baseline`] for an empty database, one that has migrations already where `to` is not given, and a
/// migration that is not there; [`MigrationError::Lacks`] where the last schema among them needs what is not there;
/// [`MigrationError::Drift`] as ever.
pub async fn baseline(
    target: &dyn Target,
    migrations: &[Migration],
    to: Option<&str>,
) -> Result<Vec<String>, MigrationError> {
    let place = target.place()?;
    let prepared = Prepared::all(migrations, place.dialect())?;
    if place.is_absent() {
        return Err(MigrationError::Baseline("there is no such database".to_owned()));
    }
    let position = |id: &str| match prepared.iter().position(|migration| migration.id == id) {
        Some(at) => Ok(at + 1),
        None => Err(MigrationError::Baseline(format!("there is no migration `{id}`"))),
    };
    let upto = to.map(position).transpose()?;
    let mut session = Session::open(&place).await?;
    let done = mark(&mut session, &prepared, upto).await;
    session.close().await;
    done
}

async fn mark(session: &mut Session, all: &[Prepared], upto: Option<usize>) -> Result<Vec<String>, MigrationError> {
    // Before the tables of the records are there.
    let tables = match session {
        Session::Postgres(postgres) => migrate::tables(&mut Db::Postgres(&mut postgres.ddl)).await?,
        Session::Sqlite { connection, .. } => {
            let tables =
                Session::blocking(connection, |connection| Ok(now(migrate::tables(&mut Db::Sqlite(connection)))));
            tables.await.map_err(|refusal| refusal.while_doing("list the tables of the database"))??
        }
    };
    if tables.is_empty() {
        return Err(MigrationError::Baseline("the database is empty: `apply` runs the migrations".to_owned()));
    }
    ensure(session).await?;
    let mut waited = false;
    let options = RunnerOptions { wait: Duration::from_secs(10), ..RunnerOptions::default() };
    let mut lease = acquire(session, &options, &mut waited, &mut |_| ()).await?;
    let done = async {
        let ledger = Ledger::load(session).await?;
        // What is marked may be anything that nobody has recorded; the rest must be as ever.
        let (given, later) = all.split_at(upto.unwrap_or(all.len()));
        if upto.is_none() && !ledger.is_empty() && given.iter().any(|migration| !ledger.is_applied(&migration.id)) {
            let message = "the database has migrations already: name the last one to mark";
            return Err(MigrationError::Baseline(message.to_owned()));
        }
        if let Some(drift) = ledger.drift(all).filter(|_| !ledger.is_empty()) {
            return Err(MigrationError::Drift(drift));
        }
        if let Some(begun) =
            later.iter().chain(given).find(|one| ledger.steps_of(&one.id).any(|_| !ledger.is_applied(&one.id)))
        {
            return Err(MigrationError::Baseline(format!(
                "the migration `{}` was begun: `apply` goes on with it",
                begun.id
            )));
        }
        let new: Vec<&Prepared> = given.iter().filter(|migration| !ledger.is_applied(&migration.id)).collect();
        let last = new.iter().rfind(|migration| migration.schema.is_some()).map(|migration| &migration.id);
        for migration in &new {
            let options = RunnerOptions::default();
            let mut runner = Runner { session, migration, options: &options, lease: &mut lease, report: &mut |_| () };
            runner.mark(last == Some(&migration.id)).await?;
        }
        Ok(new.into_iter().map(|migration| migration.id.clone()).collect())
    }
    .await;
    let _ends_by_itself = release(session, &lease).await;
    done
}

impl Runner<'_> {
    /// Records a migration as applied. Of several, the last one's schema is what the database carries.
    async fn mark(&mut self, last: bool) -> Result<(), MigrationError> {
        self.session.batch(self.begin()).await.map_err(|refusal| refusal.while_doing("begin a transaction"))?;
        let done = async {
            self.applied().await?;
            if let Some(schema) = self.migration.schema.as_ref().filter(|_| last) {
                self.carries(schema).await?;
            }
            let yes = if self.session.dialect() == Dialect::Postgres { "true" } else { "1" };
            let sql = format!("UPDATE cratestack_migrations SET baseline = {yes} WHERE id = $1");
            self.write(&sql, &[Some(&self.migration.id)]).await?;
            self.fence().await
        }
        .await;
        self.end(done).await
    }
}
