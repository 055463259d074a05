//! Forward-only migrations: what is to be run, what was run, and the runner.
//!
//! A [`Migration`] is SQL with an id; a list of them, in the order of their ids, is the whole history of a database.
//! [`apply_pending`] runs those that a database does not have yet, [`status`] says which it has. What was run is recorded
//! in the database with a checksum. A migration that was changed, removed or put before one that was applied is an error
//! that names it ([`Drift`]): nothing runs then, and there is no way around it but to put it back.
//!
//! A migration has phases and a phase has *steps*. A step is one transaction, and its record is a part of it, so that it
//! is done whole or not at all. `-- cratestack: step` begins another one. What cannot be run in a transaction stands in a
//! step with `-- cratestack: no-transaction`, each of whose statements is then a step of its own. Whether such a one was
//! done, after an interruption, is seen in the catalog and never believed: an index that is half made is removed and
//! built again.
//!
//! One runner at a time has the *lease*, a row with a time by which it ends. Its holder extends it while it works, and
//! every record that it writes asks for the lease's epoch, so that a runner that was believed dead can record nothing any
//! more.
//!
//! ```no_run
//! use cratestack_engine::migrations::{self, Migration};
//!
//! # async fn run(pool: sqlx::PgPool) -> Result<(), migrations::MigrationError> {
//! let migrations = [
//!     Migration::new("0001_notes", "create notes", "CREATE TABLE notes (id bigint PRIMARY KEY, text text NOT NULL)"),
//!     Migration::new("0002_by_text", "find notes by text", "
//!         -- cratestack: no-transaction
//!         CREATE INDEX CONCURRENTLY notes_by_text ON notes (text)"),
//! ];
//! let applied = migrations::apply_pending(&pool, &migrations).await?;
//! println!("applied {:?}", applied.ids);
//! # Ok(())
//! # }
//! ```

use std::borrow::Cow;
use std::fmt::{self, Display};
use std::time::Duration;

use cratestack_schema::ir::Schema;

use crate::sql::Dialect;

mod files;
mod fits;
mod history;
mod lease;
mod ledger;
mod postgres;
mod run;
mod session;
mod split;
mod sqlite;
#[cfg(test)]
mod tests;

pub use files::{FilesError, from_files, from_folder};
pub use history::{Plan, PlannedStep, any_applied, baseline, plan, status, survey};
pub use ledger::{Change, Drift, MigrationState, MigrationStatus, StepState, StepStatus};
pub(crate) use ledger::{applied, recorded};
pub use run::{Applied, Event, Report, RunnerOptions, apply_pending, apply_pending_with, ensure_migrations_table};
pub use session::Target;
pub use split::Fault as ScriptFault;
use split::{Effect, Section, Statement};

/// When a part of a migration is run, beside old and new versions of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Adds what the old version does not see.
    Expand,
    /// Fills in what was added.
    Backfill,
    /// Proves what is to hold from now on.
    Validate,
    /// Removes what only the old version needs.
    Contract,
}

impl Phase {
    /// In the order in which they run.
    pub const ALL: [Self; 4] = [Self::Expand, Self::Backfill, Self::Validate, Self::Contract];

    /// As in the names of files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Expand => "expand",
            Self::Backfill => "backfill",
            Self::Validate => "validate",
            Self::Contract => "contract",
        }
    }
}

impl Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// SQL of one phase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// When it is run.
    pub phase: Phase,
    /// For which database; `None`: for both.
    pub dialect: Option<Dialect>,
    /// Any number of statements, with `;` between them.
    pub sql: Cow<'static, str>,
}

/// A migration as somebody wrote it. [`Migration::new`] makes one of SQL that suits the database it is for;
/// `include_migrations!` of the facade and [`from_folder`] read a folder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Migration {
    /// Migrations run in the order of these, as texts. 1 to 200 letters, digits, `_`, `-` and `.`.
    pub id: Cow<'static, str>,
    /// What it is for, in some words.
    pub description: Cow<'static, str>,
    /// What it runs. Its checksum is one of id, description and these, without comments and spaces.
    pub scripts: Vec<Script>,
    /// The IR of the schema that the database carries afterwards, as JSON. Without it, that stays as it is. A part of the
    /// checksum, too.
    pub schema: Option<Cow<'static, str>>,
    /// The fingerprint of the schema that the one before must leave, where this one was made from it.
    pub base: Option<Cow<'static, str>>,
}

impl Script {
    /// The name of its file, if it has one.
    fn file(&self) -> String {
        let of = match self.dialect {
            None => "",
            Some(Dialect::Postgres) => ".postgres",
            Some(Dialect::Sqlite) => ".sqlite",
        };
        format!("{}{of}.sql", self.phase)
    }
}

impl Migration {
    /// One of SQL, all of it in the first phase.
    pub fn new(
        id: impl Into<Cow<'static, str>>,
        description: impl Into<Cow<'static, str>>,
        sql: impl Into<Cow<'static, str>>,
    ) -> Self {
        let script = Script { phase: Phase::Expand, dialect: None, sql: sql.into() };
        Self { id: id.into(), description: description.into(), scripts: vec![script], ..Self::default() }
    }

    /// What a database of this kind records of it: SHA-256 of id, description, statements and the fingerprint of the
    /// schema, as hexadecimal digits.
    ///
    /// # Errors
    /// When its SQL cannot be read.
    pub fn checksum(&self, dialect: Dialect) -> Result<String, MigrationError> {
        Ok(Prepared::new(self, dialect)?.checksum)
    }
}

/// The ids and checksums of migrations, as [`crate::Options::migrations`] has them for a service that needs them all.
///
/// # Errors
/// When the SQL of one cannot be read.
pub fn needed(migrations: &[Migration], dialect: Dialect) -> Result<Vec<(String, String)>, MigrationError> {
    Ok(Prepared::all(migrations, dialect)?.into_iter().map(|migration| (migration.id, migration.checksum)).collect())
}

/// A migration for one database.
#[derive(Debug, Clone)]
struct Prepared {
    id: String,
    description: String,
    checksum: String,
    steps: Vec<Step>,
    schema: Option<Schema>,
    base: Option<String>,
}

/// What is done as a whole.
#[derive(Debug, Clone)]
struct Step {
    phase: Phase,
    /// The name of its file.
    file: String,
    name: Option<String>,
    /// Whether it is one transaction. If not, it is one statement.
    transaction: bool,
    done_when: Option<String>,
    statements: Vec<Statement>,
    digest: String,
}

impl Step {
    /// What of its text may be kept and shown: without the texts in it, of which one may be a password.
    fn shown(&self) -> String {
        let statements: Vec<&str> = self.statements.iter().map(|statement| statement.shown.as_str()).collect();
        statements.join(";\n")
    }

    /// The beginning of its first statement, or its name.
    fn title(&self) -> String {
        let first = || self.statements.first().map_or("", |statement| &statement.sql);
        let title = self.name.clone().unwrap_or_else(|| clipped(first().lines().next().unwrap_or_default(), 60));
        title.replace(char::is_control, " ")
    }
}

/// The text, or the beginning of it.
fn clipped(text: &str, most: usize) -> String {
    let text = text.trim_end();
    let short: String = text.chars().take(most).collect();
    if short.len() < text.len() { format!("{}..", short.trim_end()) } else { short }
}

impl Prepared {
    fn new(migration: &Migration, dialect: Dialect) -> Result<Self, MigrationError> {
        let id = migration.id.to_string();
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if id.is_empty() || id.len() > 200 || !id.chars().all(fits) {
            return Err(MigrationError::Id(id));
        }
        let mut steps = Vec::new();
        for phase in Phase::ALL {
            let of_phase = migration.scripts.iter().filter(|script| script.phase == phase);
            if of_phase.clone().any(|script| script.dialect.is_some_and(|of| of != dialect))
                && !of_phase.clone().any(|script| script.dialect.is_none_or(|of| of == dialect))
            {
                return Err(MigrationError::OtherDatabase { id, phase, dialect });
            }
            let fits = |script: &&Script| script.phase == phase && script.dialect.is_none_or(|of| of == dialect);
            for script in migration.scripts.iter().filter(fits) {
                let file = script.file();
                let sections = split::sections(&script.sql, dialect).map_err(|fault| MigrationError::Script {
                    id: id.clone(),
                    file: file.clone(),
                    fault,
                })?;
                steps.extend(sections.into_iter().flat_map(|section| Step::of(section, phase, &file)));
            }
        }
        let schema = match &migration.schema {
            Some(json) => Some(
                serde_json::from_str(json)
                    .map_err(|error| MigrationError::Schema { id: id.clone(), message: error.to_string() })?,
            ),
            None => None,
        };
        let description = migration.description.to_string();
        let carried = schema.as_ref().map(Schema::fingerprint);
        let parts = [id.as_str(), &description].into_iter().chain(steps.iter().map(|step| step.digest.as_str()));
        let checksum = split::digest(parts.chain(carried.as_deref()));
        let base = migration.base.as_ref().map(ToString::to_string);
        Ok(Self { id, description, checksum, steps, schema, base })
    }

    /// All of them, in their order.
    fn all(migrations: &[Migration], dialect: Dialect) -> Result<Vec<Self>, MigrationError> {
        let prepared: Vec<Self> =
            migrations.iter().map(|migration| Self::new(migration, dialect)).collect::<Result<_, _>>()?;
        for (before, after) in prepared.iter().zip(prepared.iter().skip(1)) {
            if before.id >= after.id {
                return Err(MigrationError::Order { before: before.id.clone(), after: after.id.clone() });
            }
        }
        let mut last: Option<(&str, String)> = None;
        for migration in &prepared {
            let found = last.as_ref().map(|(_, fingerprint)| fingerprint);
            if let Some(base) = &migration.base
                && found != Some(base)
            {
                let before = last.map_or_else(String::new, |(id, _)| id.to_owned());
                return Err(MigrationError::Base { id: migration.id.clone(), before });
            }
            if let Some(schema) = &migration.schema {
                last = Some((&migration.id, schema.fingerprint()));
            }
        }
        Ok(prepared)
    }
}

impl Step {
    /// The steps of a section: itself, or each of its statements.
    fn of(section: Section, phase: Phase, file: &str) -> Vec<Self> {
        let Section { name, no_transaction, done_when, statements } = section;
        let step = |statements: Vec<Statement>| {
            let kind = if no_transaction { "no-transaction" } else { "transaction" };
            let head = [phase.name(), kind, done_when.as_deref().unwrap_or_default()].into_iter();
            let digest = split::digest(head.chain(statements.iter().map(|statement| statement.normal.as_str())));
            let (name, done_when) = (name.clone(), done_when.clone());
            let file = file.to_owned();
            Self { phase, file, name, transaction: !no_transaction, done_when, statements, digest }
        };
        if no_transaction {
            statements.into_iter().map(|statement| step(vec![statement])).collect()
        } else {
            vec![step(statements)]
        }
    }
}

/// Why migrations were not applied, or cannot be. What was recorded as done stays done.
#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    /// No id.
    #[error("`{0}` is not an id of a migration")]
    Id(String),
    /// Two ids that do not ascend.
    #[error("the migration `{after}` stands behind `{before}`, and its id does not come after that one's")]
    Order {
        /// The one in front.
        before: String,
        /// The one behind it.
        after: String,
    },
    /// SQL that cannot be read, or is not for a migration.
    #[error("migration `{id}`, `{file}` line {}: {}", .fault.line, .fault.message)]
    Script {
        /// Its id.
        id: String,
        /// In which file.
        file: String,
        /// What is wrong.
        fault: split::Fault,
    },
    /// It was made from another schema than the one before it leaves, as where two branches were merged.
    #[error(
        "the migration `{id}` was made from another schema than {}", if .before.is_empty() { "there is before it".to_owned() } else { format!("`{before}` leaves") }
    )]
    Base {
        /// Its id.
        id: String,
        /// The last one before it that has a schema; empty if there is none.
        before: String,
    },
    /// A phase with SQL for the other database alone.
    #[error("migration `{id}` has SQL of {phase}, and none for {}", database(*.dialect))]
    OtherDatabase {
        /// Its id.
        id: String,
        /// Which phase.
        phase: Phase,
        /// The database that has none.
        dialect: Dialect,
    },
    /// A schema that cannot be read.
    #[error("the schema of the migration `{id}` cannot be read: {message}")]
    Schema {
        /// Its id.
        id: String,
        /// Why.
        message: String,
    },
    /// The history is not the one that was applied.
    #[error("{0}")]
    Drift(Drift),
    /// A statement failed. Its step left nothing.
    #[error("migration `{id}`, step {step} of {steps}, `{file}` line {line}: {message}")]
    Statement {
        /// Its id.
        id: String,
        /// In which file.
        file: String,
        /// Which step, from 1.
        step: usize,
        /// How many there are.
        steps: usize,
        /// The line of the statement in its file.
        line: usize,
        /// What the database says.
        message: String,
        /// The SQLSTATE, or SQLite's extended code.
        code: String,
    },
    /// A step was done, and the catalog does not show what it is for.
    #[error("migration `{id}`, step {step} of {steps}: {message}")]
    Undone {
        /// Its id.
        id: String,
        /// Which step, from 1.
        step: usize,
        /// How many there are.
        steps: usize,
        /// What is missing.
        message: String,
    },
    /// Others held a lock all the time.
    #[error("migration `{id}`, step {step} of {steps}: no lock within {patience:?} ({tries} tries){}", blocked(.by))]
    Blocked {
        /// Its id.
        id: String,
        /// Which step, from 1.
        step: usize,
        /// How many there are.
        steps: usize,
        /// How long it was tried.
        patience: Duration,
        /// How often.
        tries: u32,
        /// Who had it.
        by: Vec<String>,
    },
    /// Another runner is at it all the time.
    #[error("{holder} has been applying migrations for {waited:?} and is not done")]
    Busy {
        /// Who.
        holder: String,
        /// How long it was waited.
        waited: Duration,
    },
    /// The lease went to somebody else, who believed this runner dead.
    #[error("another runner has taken over, because this one was not heard of for too long")]
    Fenced,
    /// The connection is not one session.
    #[error("the connection goes through a pooler that gives each transaction another session")]
    Pooler,
    /// The records are in a schema of PostgreSQL that is not the first of the search path.
    #[error("the records of the migrations are in the schema `{there}`, and the search path leads to `{here}` first")]
    Elsewhere {
        /// Where the records are.
        there: String,
        /// Where new tables would be made.
        here: String,
    },
    /// There is no database that stays.
    #[error("a database in memory has no migrations")]
    InMemory,
    /// A database that is not what a baseline is for.
    #[error("{0}")]
    Baseline(String),
    /// The database does not have what the schema of a migration needs.
    #[error("with the migration `{id}` the database would not have what its `schema.json` says: {}", some(.missing))]
    Lacks {
        /// Its id.
        id: String,
        /// What is missing: sentences.
        missing: Vec<String>,
    },
    /// What the database carries is not as expected.
    #[error(transparent)]
    Carried(#[from] crate::migrate::Error),
    /// The database failed.
    #[error("cannot {doing}: {message}")]
    Database {
        /// What was under way.
        doing: String,
        /// What the database says.
        message: String,
    },
}

fn database(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Postgres => "PostgreSQL",
        Dialect::Sqlite => "SQLite",
    }
}

fn some(missing: &[String]) -> String {
    const SHOWN: usize = 5;
    let more = missing.len().saturating_sub(SHOWN);
    let shown: Vec<&str> = missing.iter().take(SHOWN).map(String::as_str).collect();
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    format!("{}{more}", shown.join("; "))
}

fn blocked(by: &[String]) -> String {
    if by.is_empty() { String::new() } else { format!("; it is held by {}", by.join(", ")) }
}

impl MigrationError {
    /// What to do about it.
    pub fn help(&self) -> String {
        match self {
            Self::Id(_) => "an id has 1 to 200 letters, digits, `_`, `-` and `.`".to_owned(),
            Self::Order { .. } => {
                "migrations stand in the order of their ids, as texts: begin them with the time, or with as many digits each"
                    .to_owned()
            }
            Self::Script { fault, .. } => fault.help.clone(),
            Self::Base { .. } => {
                "remove its folder, and make it again from the schema that has both changes: `cratestack migrate new`".to_owned()
            }
            Self::OtherDatabase { phase, dialect, .. } => {
                let of = if *dialect == Dialect::Postgres { "postgres" } else { "sqlite" };
                format!("add `{phase}.{of}.sql`, with nothing but a comment where there is nothing to do")
            }
            Self::Schema { .. } => "was it made by another version of CrateStack? make it again".to_owned(),
            Self::Drift(drift) => drift.help().to_owned(),
            // A table, an object, a column that is there already.
            Self::Statement { code, message, .. }
                if matches!(code.as_str(), "42P07" | "42710" | "42701") || message.contains("already exists") =>
            {
                "nothing of this step was kept; was it made without migrations? `cratestack migrate baseline` marks those \
                 that a database has already"
                    .to_owned()
            }
            Self::Statement { .. } => {
                "nothing of this step was kept; mend the statement or the rows, and apply again".to_owned()
            }
            Self::Undone { .. } => "look at the statement and its `done-when`, and apply again".to_owned(),
            Self::Blocked { .. } => {
                "nothing of this step was kept; end those transactions or wait for a quieter time, and apply again".to_owned()
            }
            Self::Busy { .. } => "wait for it to end; if it has died, its lease ends by itself".to_owned(),
            Self::Fenced => "see what it does with `cratestack migrate status`".to_owned(),
            Self::Pooler => {
                "name the server itself, or a pooler's session mode: locks and settings of a migration belong to one session"
                    .to_owned()
            }
            Self::Elsewhere { there, .. } => {
                format!(
                    "make that schema before the first migration, or say in the URL where the tables are to be: \
                     `?options=-csearch_path%3D{there}`"
                )
            }
            Self::InMemory => "name a file or a server".to_owned(),
            Self::Baseline(_) => {
                "look at it with `cratestack migrate status`; `--to ID` names the last one to mark, and nothing was recorded".to_owned()
            }
            Self::Lacks { .. } => {
                "nothing of this step was kept; complete its SQL, or make it again with `cratestack migrate new`".to_owned()
            }
            Self::Carried(error) => error.help().to_owned(),
            Self::Database { message, .. } if message.starts_with("permission denied") => {
                "apply migrations as the owner of the tables; `cratestack migrate grants` lets another role serve".to_owned()
            }
            Self::Database { .. } => "try again when the cause is gone; what was recorded as done stays done".to_owned(),
        }
    }

    /// Whether the database says that the given history is not its own.
    pub fn is_drift(&self) -> bool {
        matches!(self, Self::Drift(_))
    }
}

/// What a recorded statement was to leave in the catalog.
fn effect_of(sql: &str, dialect: Dialect) -> Effect {
    let sections = split::sections(&format!("-- cratestack: no-transaction\n{sql}"), dialect).unwrap_or_default();
    let statement = sections.first().and_then(|section| section.statements.first());
    statement.map_or(Effect::Other, Statement::effect)
}
