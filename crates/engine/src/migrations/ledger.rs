//! What was run: the tables of it, and how it compares with what there is to run.

use std::fmt::{self, Display};

use std::sync::Arc;

use cratestack_schema::value::Value;

use super::session::{Refusal, Session, Texts};
use super::{MigrationError, Phase, Prepared, clipped};
use crate::sql::{Dialect, SqlType, Template};
use crate::store::Rows;

/// What a recorded time is cast from, and how a moment is written.
struct Times {
    /// Text of a column's time.
    column: fn(&str) -> String,
    /// Now.
    now: &'static str,
    column_type: &'static str,
}

const fn times(dialect: Dialect) -> Times {
    match dialect {
        Dialect::Postgres => Times {
            column: |name| format!("to_char({name} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')"),
            now: "clock_timestamp()",
            column_type: "timestamptz",
        },
        Dialect::Sqlite => Times {
            column: |name| format!("CAST({name} AS text)"),
            now: "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')",
            column_type: "text",
        },
    }
}

/// So many seconds from now.
pub(super) fn in_seconds(dialect: Dialect, seconds: f64) -> String {
    match dialect {
        Dialect::Postgres => format!("clock_timestamp() + interval '{seconds:.3} seconds'"),
        Dialect::Sqlite => format!("strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '+{seconds:.3} seconds')"),
    }
}

pub(super) fn now(dialect: Dialect) -> &'static str {
    times(dialect).now
}

/// The tables, where they are not there yet.
pub(super) fn ddl(dialect: Dialect) -> [String; 4] {
    let (collation, time, boolean) = match dialect {
        Dialect::Postgres => (" COLLATE \"C\"", times(dialect).column_type, "boolean"),
        Dialect::Sqlite => ("", times(dialect).column_type, "integer"),
    };
    let strict = if dialect == Dialect::Sqlite { " STRICT" } else { "" };
    [
        format!(
            "CREATE TABLE IF NOT EXISTS cratestack_migrations (
  id text{collation} NOT NULL PRIMARY KEY,
  description text NOT NULL,
  checksum text NOT NULL,
  baseline {boolean} NOT NULL,
  started_at {time} NOT NULL,
  applied_at {time}
){strict}"
        ),
        format!(
            "CREATE TABLE IF NOT EXISTS cratestack_migration_steps (
  migration text{collation} NOT NULL,
  step integer NOT NULL,
  phase text NOT NULL,
  name text,
  state text NOT NULL CHECK (state IN ('running', 'done', 'failed')),
  checksum text NOT NULL,
  sql text NOT NULL,
  attempts integer NOT NULL,
  lease_epoch {bigint} NOT NULL,
  started_at {time} NOT NULL,
  finished_at {time},
  error text,
  PRIMARY KEY (migration, step)
){strict}",
            bigint = if dialect == Dialect::Postgres { "bigint" } else { "integer" }
        ),
        format!(
            "CREATE TABLE IF NOT EXISTS cratestack_migration_lease (
  id integer NOT NULL PRIMARY KEY CHECK (id = 1),
  holder text,
  token text,
  application text,
  epoch {bigint} NOT NULL,
  expires_at {time}
){strict}",
            bigint = if dialect == Dialect::Postgres { "bigint" } else { "integer" }
        ),
        "INSERT INTO cratestack_migration_lease (id, epoch) VALUES (1, 0) ON CONFLICT (id) DO NOTHING".to_owned(),
    ]
}

/// Whether the tables are there.
///
/// # Errors
/// [`MigrationError::Elsewhere`] where they are further down PostgreSQL's search path than new tables would be: somebody has
/// put a schema before theirs, and all migrations would seem to be pending.
pub(super) async fn is_there(session: &mut Session) -> Result<bool, MigrationError> {
    let sql = match session.dialect() {
        // The lease is made last.
        Dialect::Postgres => {
            "SELECT n.nspname::text, current_schema()::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE c.oid = to_regclass('cratestack_migration_lease') AND NOT pg_is_other_temp_schema(n.oid)"
        }
        Dialect::Sqlite => "SELECT 'main', 'main' FROM sqlite_schema WHERE name = 'cratestack_migration_lease'",
    };
    let found =
        session.query(sql, &[]).await.map_err(|refusal| refusal.while_doing("look for the migrations table"))?;
    match found.first() {
        None => Ok(false),
        Some(row) if row.first() == row.get(1) => Ok(true),
        Some(row) => Err(MigrationError::Elsewhere { there: text(row, 0), here: text(row, 1) }),
    }
}

/// A statement that gives the migrations that were applied, for a service that runs.
pub(crate) fn applied() -> Arc<Template> {
    let sql = "SELECT id, checksum FROM cratestack_migrations WHERE applied_at IS NOT NULL";
    Arc::new(Template::fixed(sql, &[SqlType::TEXT, SqlType::TEXT]))
}

/// The ids and checksums in the rows of [`applied`].
pub(crate) fn recorded(rows: &Rows) -> Vec<(&str, &str)> {
    let row = |at| match rows.control(at) {
        [Value::Text(id), Value::Text(checksum)] => Some((id.as_str(), checksum.as_str())),
        _ => None,
    };
    (0..rows.len()).filter_map(row).collect()
}

/// One that was run, or begun.
#[derive(Debug, Clone)]
pub(super) struct Record {
    id: String,
    description: String,
    checksum: String,
    baseline: bool,
    applied_at: Option<String>,
}

/// A step that was done, or begun.
#[derive(Debug, Clone)]
pub(super) struct StepRecord {
    migration: String,
    /// From 1.
    pub(super) step: usize,
    pub(super) state: StepState,
    pub(super) checksum: String,
    pub(super) sql: String,
    pub(super) error: Option<String>,
}

/// Everything that was recorded.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    records: Vec<Record>,
    steps: Vec<StepRecord>,
    /// Whether somebody has the lease now.
    leased: bool,
}

fn text(row: &Texts, at: usize) -> String {
    row.get(at).cloned().flatten().unwrap_or_default()
}

impl Ledger {
    /// Nothing where the tables are not there.
    pub(super) async fn load(session: &mut Session) -> Result<Self, MigrationError> {
        if !is_there(session).await? {
            return Ok(Self::default());
        }
        let failed = |refusal: Refusal| refusal.while_doing("read which migrations were applied");
        // One moment of them, and not behind a lock of somebody else for ever.
        let begin = match session.dialect() {
            Dialect::Postgres => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL lock_timeout = '5s'",
            Dialect::Sqlite => "BEGIN",
        };
        session.batch(begin).await.map_err(failed)?;
        let read = Self::read(session).await;
        let _ended = session.batch("ROLLBACK").await;
        read.map_err(failed)
    }

    async fn read(session: &mut Session) -> Result<Self, Refusal> {
        let Times { column, now, .. } = times(session.dialect());
        let sql = format!(
            "SELECT id, description, checksum, CASE WHEN baseline THEN 'y' END, {} FROM cratestack_migrations ORDER BY id",
            column("applied_at")
        );
        let record = |row: Texts| Record {
            id: text(&row, 0),
            description: text(&row, 1),
            checksum: text(&row, 2),
            baseline: row.get(3).is_some_and(Option::is_some),
            applied_at: row.get(4).cloned().flatten(),
        };
        let records = session.query(&sql, &[]).await?.into_iter().map(record).collect();
        let sql = "SELECT migration, CAST(step AS text), state, checksum, sql, error FROM cratestack_migration_steps \
                   ORDER BY migration, step";
        let step = |row: Texts| StepRecord {
            migration: text(&row, 0),
            step: text(&row, 1).parse().unwrap_or_default(),
            state: StepState::of(&text(&row, 2)),
            checksum: text(&row, 3),
            sql: text(&row, 4),
            error: row.get(5).cloned().flatten(),
        };
        let steps = session.query(sql, &[]).await?.into_iter().map(step).collect();
        let sql =
            format!("SELECT holder FROM cratestack_migration_lease WHERE token IS NOT NULL AND expires_at > {now}");
        let leased = !session.query(&sql, &[]).await?.is_empty();
        Ok(Self { records, steps, leased })
    }

    /// What is recorded of a migration's steps.
    pub(super) fn steps_of<'a>(&'a self, id: &'a str) -> impl Iterator<Item = &'a StepRecord> {
        self.steps.iter().filter(move |step| step.migration == id)
    }

    /// Whether nothing was ever recorded.
    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    fn record(&self, id: &str) -> Option<&Record> {
        self.records.iter().find(|record| record.id == id)
    }

    pub(super) fn is_applied(&self, id: &str) -> bool {
        self.record(id).is_some_and(|record| record.applied_at.is_some())
    }

    /// How the history that is given differs from the one that was applied.
    pub(super) fn drift(&self, given: &[Prepared]) -> Option<Drift> {
        let mut changes = Vec::new();
        for record in &self.records {
            match given.iter().find(|migration| migration.id == record.id) {
                None => changes.push(Change::Missing {
                    id: record.id.clone(),
                    description: record.description.clone(),
                    applied_at: record.applied_at.clone(),
                }),
                Some(migration) => changes.extend(self.edited(record, migration)),
            }
        }
        if let Some(last) = self.records.last() {
            let older = given.iter().filter(|migration| migration.id < last.id && self.record(&migration.id).is_none());
            changes.extend(older.map(|migration| Change::OutOfOrder {
                id: migration.id.clone(),
                description: migration.description.clone(),
                last: last.id.clone(),
            }));
        }
        (!changes.is_empty()).then_some(Drift { changes })
    }

    /// A migration that was begun may change where nothing was done yet.
    fn edited(&self, record: &Record, given: &Prepared) -> Option<Change> {
        let recorded: Vec<&StepRecord> = self.steps_of(&record.id).collect();
        let differs = |step: &&&StepRecord| {
            step.state == StepState::Done
                && given.steps.get(step.step.wrapping_sub(1)).is_none_or(|now| now.digest != step.checksum)
        };
        let step = recorded.iter().find(differs);
        let done = record.applied_at.is_some();
        if record.checksum == given.checksum || (!done && step.is_none()) {
            return None;
        }
        let difference = if let Some(step) = step {
            let now = given.steps.get(step.step.wrapping_sub(1)).map(super::Step::shown);
            match now {
                Some(now) if now != step.sql => {
                    let (before, after) = contrast(&step.sql, &now);
                    format!("step {} was `{before}`, and is `{after}`", step.step)
                }
                Some(_) => format!("texts in step {}, or lines about it, differ", step.step),
                None => format!("step {} is gone: it was `{}`", step.step, clipped(&step.sql, 60)),
            }
        } else if record.description == given.description {
            "its statements differ".to_owned()
        } else {
            let [before, after] = [&record.description, &given.description].map(|text| clipped(text, 60));
            format!("its description was `{before}`, and is `{after}`")
        };
        Some(Change::Edited {
            id: record.id.clone(),
            applied_at: record.applied_at.clone(),
            recorded: record.checksum.clone(),
            given: given.checksum.clone(),
            difference,
        })
    }

    /// What each migration is, given or recorded, in the order of their ids.
    pub(super) fn statuses(&self, given: &[Prepared]) -> Vec<MigrationStatus> {
        let drift = self.drift(given);
        let changes: &[Change] = drift.as_ref().map_or(&[], |drift| &drift.changes);
        let mut statuses: Vec<MigrationStatus> = given.iter().map(|migration| self.status(migration)).collect();
        for record in self.records.iter().filter(|record| !given.iter().any(|migration| migration.id == record.id)) {
            statuses.push(MigrationStatus {
                id: record.id.clone(),
                description: record.description.clone(),
                state: MigrationState::Missing,
                applied_at: record.applied_at.clone(),
                steps: Vec::new(),
            });
        }
        for status in &mut statuses {
            match changes.iter().find(|change| change.id() == status.id) {
                Some(Change::Edited { .. }) => status.state = MigrationState::Edited,
                Some(Change::OutOfOrder { .. }) => status.state = MigrationState::OutOfOrder,
                Some(Change::Missing { .. }) | None => {}
            }
        }
        statuses.sort_by(|one, other| one.id.cmp(&other.id));
        statuses
    }

    fn status(&self, migration: &Prepared) -> MigrationStatus {
        let record = self.record(&migration.id);
        let recorded: Vec<&StepRecord> = self.steps_of(&migration.id).collect();
        let applied_at = record.and_then(|record| record.applied_at.clone());
        let state = match record {
            None => MigrationState::Pending,
            Some(record) if record.applied_at.is_some() && record.baseline => MigrationState::Baseline,
            Some(record) if record.applied_at.is_some() => MigrationState::Applied,
            Some(_) if self.leased => MigrationState::Running,
            Some(_) if recorded.iter().any(|step| step.state == StepState::Failed) => MigrationState::Failed,
            Some(_) => MigrationState::Interrupted,
        };
        let step = |(at, step): (usize, &super::Step)| {
            let recorded = recorded.iter().find(|record| record.step == at + 1);
            let standard = if applied_at.is_some() { StepState::Done } else { StepState::Pending };
            StepStatus {
                phase: step.phase,
                title: step.title(),
                state: recorded.map_or(standard, |record| record.state),
                error: recorded.and_then(|record| record.error.clone()),
            }
        };
        MigrationStatus {
            id: migration.id.clone(),
            description: migration.description.clone(),
            state,
            steps: migration.steps.iter().enumerate().map(step).collect(),
            applied_at,
        }
    }
}

/// Both from shortly before where they begin to differ.
fn contrast(before: &str, after: &str) -> (String, String) {
    const SHOWN: usize = 60;
    let same = before.chars().zip(after.chars()).take_while(|(one, other)| one == other).count();
    let from = same.saturating_sub(SHOWN / 2);
    let cut = |text: &str| {
        let rest: String = text.chars().skip(from).collect();
        format!("{}{}", if from > 0 { ".." } else { "" }, clipped(&rest, SHOWN))
    };
    (cut(before), cut(after))
}

/// What differs between the history that was applied and the one that is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drift {
    /// In the order of what was recorded; at least one.
    pub changes: Vec<Change>,
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It was applied, and reads otherwise now.
    Edited {
        /// Its id.
        id: String,
        /// When it was applied; `None` if it was begun only.
        applied_at: Option<String>,
        /// The checksum that was recorded.
        recorded: String,
        /// The one that it has now.
        given: String,
        /// Where they differ.
        difference: String,
    },
    /// It was applied, and is not among those that are given.
    Missing {
        /// Its id.
        id: String,
        /// Its description.
        description: String,
        /// When it was applied; `None` if it was begun only.
        applied_at: Option<String>,
    },
    /// It was not applied, and one that comes after it was.
    OutOfOrder {
        /// Its id.
        id: String,
        /// Its description.
        description: String,
        /// The last one that was applied.
        last: String,
    },
}

impl Change {
    /// Of the migration.
    pub fn id(&self) -> &str {
        match self {
            Self::Edited { id, .. } | Self::Missing { id, .. } | Self::OutOfOrder { id, .. } => id,
        }
    }

    /// Of the difference, in lower case.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Edited { .. } => MigrationState::Edited.name(),
            Self::Missing { .. } => MigrationState::Missing.name(),
            Self::OutOfOrder { .. } => MigrationState::OutOfOrder.name(),
        }
    }
}

fn when(applied_at: Option<&String>) -> String {
    applied_at.map_or_else(|| "begun".to_owned(), |at| format!("applied at {at}"))
}

impl Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = |checksum: &str| checksum.get(..12).unwrap_or(checksum).to_owned();
        match self {
            Self::Edited { id, applied_at, recorded, given, difference } => {
                let (when, recorded, given) = (when(applied_at.as_ref()), short(recorded), short(given));
                write!(
                    f,
                    "the migration `{id}` was edited after it was {when}: recorded is the checksum `{recorded}`, there now \
                     `{given}`; {difference}"
                )
            }
            Self::Missing { id, description, applied_at } => {
                let when = when(applied_at.as_ref());
                write!(f, "the migration `{id}` (`{description}`) was {when}, and is not there now")
            }
            Self::OutOfOrder { id, description, last } => write!(
                f,
                "the migration `{id}` (`{description}`) was not applied, and stands before `{last}`, which was"
            ),
        }
    }
}

impl Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, change) in self.changes.iter().enumerate() {
            write!(f, "{}{change}", if at > 0 { "\n" } else { "" })?;
        }
        Ok(())
    }
}

impl Drift {
    pub(super) fn help(&self) -> &'static str {
        match self.changes.first() {
            Some(Change::Edited { .. }) => "put it back as it was, and write a new migration for what is to change",
            Some(Change::Missing { .. }) => {
                "put it back (is this the newest version of the migrations, and the right database?)"
            }
            Some(Change::OutOfOrder { .. }) | None => "give it a later id: what was applied was not made for it",
        }
    }
}

/// How a migration stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MigrationState {
    /// It was run.
    Applied,
    /// It was marked as applied, and not run.
    Baseline,
    /// It is to be run.
    Pending,
    /// Some of its steps are done, and a runner has the lease.
    Running,
    /// A step of it failed; steps before that one are done.
    Failed,
    /// Some of its steps are done, and nobody is at it.
    Interrupted,
    /// It was applied, and reads otherwise now.
    Edited,
    /// It was applied, and is not given.
    Missing,
    /// It was not applied, and one after it was.
    OutOfOrder,
}

impl MigrationState {
    /// In lower case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Baseline => "baseline",
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Failed => "failed",
            Self::Interrupted => "interrupted",
            Self::Edited => "edited",
            Self::Missing => "missing",
            Self::OutOfOrder => "out of order",
        }
    }

    /// Whether there is nothing to do about it.
    pub fn is_clean(self) -> bool {
        matches!(self, Self::Applied | Self::Baseline)
    }
}

/// A migration, and how it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrationStatus {
    /// Its id.
    pub id: String,
    /// What it is for.
    pub description: String,
    /// How it stands.
    pub state: MigrationState,
    /// When it was applied: ISO 8601, in UTC.
    pub applied_at: Option<String>,
    /// Its steps, in their order.
    pub steps: Vec<StepStatus>,
}

/// How a step stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepState {
    /// Nothing is known of it.
    Pending,
    /// It was begun outside of a transaction. It may be done, or half done.
    Running,
    /// It is done.
    Done,
    /// It failed.
    Failed,
}

impl StepState {
    fn of(name: &str) -> Self {
        match name {
            "done" => Self::Done,
            "failed" => Self::Failed,
            _ => Self::Running,
        }
    }

    /// In lower case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }
}

/// A step, and how it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepStatus {
    /// When it is run.
    pub phase: Phase,
    /// Its name, or the beginning of its first statement.
    pub title: String,
    /// How it stands.
    pub state: StepState,
    /// Why it failed.
    pub error: Option<String>,
}
