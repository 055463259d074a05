//! The runner: one at a time, step by step, and each step seen to be done.

use std::time::Duration;

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use cratestack_schema::ir::Schema;
use tokio::time::Instant;

use super::fits;
use super::lease::{Lease, acquire, release};
use super::ledger::{self, Ledger, StepRecord, StepState};
use super::session::{Refusal, Session, Target};
use super::split::Effect;
use super::{Migration, MigrationError, Prepared, Step, sqlite};
use crate::engine::futures::now;
use crate::migrate::{self, Db};
use crate::sql::Dialect;

/// The bounds of a runner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunnerOptions {
    /// How long a statement that needs a lock waits for it at first, and so how long others may wait behind it. Default
    /// 100 ms.
    pub lock_timeout: Duration,
    /// What that grows to, doubling with every fifth try after the twentieth. Default 2 s.
    pub longest_lock_timeout: Duration,
    /// How long a lock is tried for in all. Default 10 min.
    pub patience: Duration,
    /// How long it is waited while another runner is at it. Default 1 h.
    pub wait: Duration,
    /// How long a runner that is not heard of keeps others away. Default 15 s; at least 100 ms.
    pub lease: Duration,
}

impl Default for RunnerOptions {
    fn default() -> Self {
        Self {
            lock_timeout: Duration::from_millis(100),
            longest_lock_timeout: Duration::from_secs(2),
            patience: Duration::from_mins(10),
            wait: Duration::from_hours(1),
            lease: Duration::from_secs(15),
        }
    }
}

impl RunnerOptions {
    /// Of a try, from 1.
    fn lock_timeout(&self, tries: u32) -> Duration {
        let doublings = tries.saturating_sub(16) / 5;
        self.lock_timeout.saturating_mul(1 << doublings.min(16)).min(self.longest_lock_timeout.max(self.lock_timeout))
    }
}

/// What a runner is at.
#[derive(Debug)]
pub enum Event<'a> {
    /// Another runner has the lease.
    Waiting {
        /// Who.
        holder: &'a str,
    },
    /// A migration begins, or goes on.
    Migration {
        /// Its id.
        id: &'a str,
        /// Which one of those to run, from 1.
        number: usize,
        /// How many there are to run.
        total: usize,
    },
    /// A step begins.
    Step {
        /// Of this migration.
        id: &'a str,
        /// Which one, from 1.
        step: usize,
        /// How many there are.
        steps: usize,
        /// Its name, or the beginning of its first statement.
        title: &'a str,
    },
    /// Sessions that have locks of its tables, before anything is tried.
    Preflight {
        /// Who.
        by: &'a [String],
    },
    /// A lock was not to be had, and is tried for again.
    Blocked {
        /// Who has it, where that is known.
        by: &'a [String],
        /// How often it was tried.
        tries: u32,
    },
    /// An index is being built.
    Progress {
        /// What is done.
        phase: &'a str,
        /// How much of it is done.
        done: u64,
        /// How much there is; 0 where that is not known.
        total: u64,
        /// Who is waited for.
        waits_for: &'a [String],
    },
    /// A statement is still being run: told every second.
    Working {
        /// Since its beginning.
        elapsed: Duration,
    },
    /// An index that was half made is removed.
    Cleaned {
        /// Its name.
        index: &'a str,
    },
    /// A step was done, and is not recorded yet.
    Written {
        /// Of this migration.
        id: &'a str,
        /// Which one, from 1.
        step: usize,
    },
    /// A step is done and recorded.
    Done {
        /// Of this migration.
        id: &'a str,
        /// Which one, from 1.
        step: usize,
    },
    /// A migration is applied.
    Applied {
        /// Its id.
        id: &'a str,
    },
}

/// Told what a runner is at.
pub type Report<'a> = &'a mut (dyn FnMut(&Event<'_>) + Send);

/// What was applied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// The migrations that this runner has brought to their end.
    pub ids: Vec<String>,
    /// Whether it has waited for another one.
    pub waited: bool,
}

/// Makes the tables of the records, where they are not there yet: `cratestack_migrations`, `cratestack_migration_steps` and
/// `cratestack_migration_lease`. [`apply_pending`] does so by itself.
///
/// # Errors
/// When the database cannot be reached, or they cannot be made.
pub async fn ensure_migrations_table(target: &dyn Target) -> Result<(), MigrationError> {
    let mut session = Session::open(&target.place()?).await?;
    let done = ensure(&mut session).await;
    session.close().await;
    done
}

pub(super) async fn ensure(session: &mut Session) -> Result<(), MigrationError> {
    if ledger::is_there(session).await? {
        return Ok(());
    }
    let failed = |refusal: Refusal| refusal.while_doing("make the migrations table");
    let begin = match session.dialect() {
        // Of several who make a table at once, PostgreSQL lets some fail.
        Dialect::Postgres => {
            format!("BEGIN; SET LOCAL lock_timeout = '60s'; SELECT pg_advisory_xact_lock({})", migrate::LOCK)
        }
        Dialect::Sqlite => "BEGIN IMMEDIATE".to_owned(),
    };
    let statements = ledger::ddl(session.dialect()).join(";\n");
    let made = session.batch(&format!("{begin};\n{statements};\nCOMMIT")).await;
    if made.is_err() {
        let _ended = session.batch("ROLLBACK").await;
    }
    made.map_err(failed)
}

/// Applies the migrations that a database does not have yet, with the standard options.
///
/// # Errors
/// [`MigrationError::Drift`] where the history is another one, and before anything is run. What was recorded as done stays
/// done; a step that failed has left nothing.
pub async fn apply_pending(target: &dyn Target, migrations: &[Migration]) -> Result<Applied, MigrationError> {
    apply_pending_with(target, migrations, &RunnerOptions::default(), &mut |_| ()).await
}

/// The same with other options, and with reports.
///
/// # Errors
/// As for [`apply_pending`].
pub async fn apply_pending_with(
    target: &dyn Target,
    migrations: &[Migration],
    options: &RunnerOptions,
    report: Report<'_>,
) -> Result<Applied, MigrationError> {
    let place = target.place()?;
    let migrations = Prepared::all(migrations, place.dialect())?;
    let mut session = Session::open(&place).await?;
    let done = apply(&mut session, &migrations, options, report).await;
    session.close().await;
    done
}

async fn apply(
    session: &mut Session,
    migrations: &[Prepared],
    options: &RunnerOptions,
    report: Report<'_>,
) -> Result<Applied, MigrationError> {
    ensure(session).await?;
    let mut applied = Applied::default();
    if pending(session, migrations).await?.1.is_empty() {
        return Ok(applied);
    }
    let mut lease = acquire(session, options, &mut applied.waited, report).await?;
    let done = run_all(session, migrations, options, &mut lease, &mut applied, report).await;
    let released = release(session, &lease).await;
    done?;
    released.map_err(|refusal| refusal.while_doing("give the lease back"))?;
    Ok(applied)
}

/// What was recorded, and what is to be run.
async fn pending<'m>(
    session: &mut Session,
    migrations: &'m [Prepared],
) -> Result<(Ledger, Vec<&'m Prepared>), MigrationError> {
    let ledger = Ledger::load(session).await?;
    if let Some(drift) = ledger.drift(migrations) {
        return Err(MigrationError::Drift(drift));
    }
    let pending = migrations.iter().filter(|migration| !ledger.is_applied(&migration.id)).collect();
    Ok((ledger, pending))
}

async fn run_all(
    session: &mut Session,
    migrations: &[Prepared],
    options: &RunnerOptions,
    lease: &mut Lease,
    applied: &mut Applied,
    report: Report<'_>,
) -> Result<(), MigrationError> {
    // Again: others may have done it meanwhile.
    let (ledger, pending) = pending(session, migrations).await?;
    let total = pending.len();
    for (at, migration) in pending.into_iter().enumerate() {
        report(&Event::Migration { id: &migration.id, number: at + 1, total });
        let mut runner = Runner { session, migration, options, lease, report };
        runner.run(&ledger).await?;
        report(&Event::Applied { id: &migration.id });
        applied.ids.push(migration.id.clone());
    }
    Ok(())
}

/// As PostgreSQL takes it; not 0, which would be no limit.
fn millis(time: Duration) -> i32 {
    i32::try_from(time.as_millis()).unwrap_or(i32::MAX).max(1)
}

/// At one migration.
pub(super) struct Runner<'r> {
    pub(super) session: &'r mut Session,
    pub(super) migration: &'r Prepared,
    pub(super) options: &'r RunnerOptions,
    pub(super) lease: &'r mut Lease,
    pub(super) report: Report<'r>,
}

/// Where a step failed.
enum Stop {
    /// At the statement of that number, with who was in the way.
    At(usize, Refusal, Vec<String>),
    /// Elsewhere.
    Error(MigrationError),
}

impl From<MigrationError> for Stop {
    fn from(error: MigrationError) -> Self {
        Self::Error(error)
    }
}

impl Runner<'_> {
    async fn run(&mut self, ledger: &Ledger) -> Result<(), MigrationError> {
        let (migration, steps) = (self.migration, self.migration.steps.len());
        let mut last = 0;
        for (at, step) in migration.steps.iter().enumerate() {
            let number = at + 1;
            let before = ledger.steps_of(&migration.id).find(|record| record.step == number);
            if before.is_some_and(|record| record.state == StepState::Done) {
                continue;
            }
            (self.report)(&Event::Step { id: &migration.id, step: number, steps, title: &step.title() });
            self.session.settle().await?;
            if let Some(other) = before.filter(|record| record.checksum != step.digest) {
                self.clear(other).await?;
            }
            if step.transaction {
                self.transaction(step, number).await?;
            } else {
                self.outside(step, number, before).await?;
            }
            (self.report)(&Event::Done { id: &migration.id, step: number });
            last = number;
        }
        for other in ledger.steps_of(&migration.id).filter(|record| record.step > steps) {
            self.clear(other).await?;
        }
        // The last step records the migration with itself. Not where there is none, or where what was left was taken out.
        if last == steps && steps > 0 { Ok(()) } else { self.record_alone().await }
    }

    /// Removes what a step may have left that reads otherwise now, or is not there any more.
    async fn clear(&mut self, other: &StepRecord) -> Result<(), MigrationError> {
        let cleaned = self.clean(&super::effect_of(&other.sql, self.session.dialect())).await;
        cleaned.map_err(|refusal| refusal.while_doing("remove what an earlier try has left"))
    }

    /// Records a migration without a step.
    async fn record_alone(&mut self) -> Result<(), MigrationError> {
        self.session.batch(self.begin()).await.map_err(|refusal| refusal.while_doing("begin a transaction"))?;
        let done = async {
            self.finish().await?;
            self.fence().await
        }
        .await;
        self.end(done).await
    }

    pub(super) fn begin(&self) -> &'static str {
        match self.session.dialect() {
            Dialect::Postgres => "BEGIN ISOLATION LEVEL READ COMMITTED",
            Dialect::Sqlite => "BEGIN IMMEDIATE",
        }
    }

    /// Commits, or takes everything back.
    pub(super) async fn end<T>(&mut self, done: Result<T, MigrationError>) -> Result<T, MigrationError> {
        match done {
            Ok(value) => match self.session.batch("COMMIT").await {
                Ok(()) => Ok(value),
                Err(refusal) => {
                    let _ended = self.session.batch("ROLLBACK").await;
                    Err(refusal.while_doing("commit"))
                }
            },
            Err(error) => {
                let _ended = self.session.batch("ROLLBACK").await;
                Err(error)
            }
        }
    }

    fn failed(&self, step: &Step, number: usize, statement: usize, refusal: Refusal) -> MigrationError {
        MigrationError::Statement {
            id: self.migration.id.clone(),
            file: step.file.clone(),
            step: number,
            steps: self.migration.steps.len(),
            line: step.statements.get(statement).map_or(1, |statement| statement.line),
            message: refusal.message,
            code: refusal.code,
        }
    }

    /// Runs a step as one transaction, its record included, in short tries.
    async fn transaction(&mut self, step: &Step, number: usize) -> Result<(), MigrationError> {
        self.preflight(step).await?;
        let (begun, mut tries, mut autovacuum, mut holders) = (Instant::now(), 0, false, Vec::new());
        loop {
            tries += 1;
            match self.attempt(step, number, tries, autovacuum).await {
                Ok(()) => return Ok(()),
                Err(Stop::Error(error)) => return Err(error),
                Err(Stop::At(..)) if self.lease.lost => return Err(MigrationError::Fenced),
                Err(Stop::At(_, refusal, by)) if refusal.passes() => {
                    // A try may be over before anybody has looked.
                    if !by.is_empty() {
                        holders.clone_from(&by);
                    }
                    if begun.elapsed() >= self.options.patience {
                        return Err(MigrationError::Blocked {
                            id: self.migration.id.clone(),
                            step: number,
                            steps: self.migration.steps.len(),
                            patience: self.options.patience,
                            tries,
                            by: holders,
                        });
                    }
                    // It is ended for others' sake, but only when they have waited for the server's `deadlock_timeout`.
                    autovacuum = by.iter().any(|session| session.contains("autovacuum worker"));
                    (self.report)(&Event::Blocked { by: &by, tries });
                    self.pause(tries).await?;
                }
                Err(Stop::At(statement, refusal, _)) => return Err(self.failed(step, number, statement, refusal)),
            }
        }
    }

    /// A random part of a time that doubles up to two seconds, outside of any transaction.
    async fn pause(&mut self, tries: u32) -> Result<(), MigrationError> {
        let mut octets = [0; 4];
        let part = if SystemRandom::new().fill(&mut octets).is_ok() { u32::from_be_bytes(octets) } else { u32::MAX };
        let most = self.options.lock_timeout.saturating_mul(1 << tries.min(5)).min(Duration::from_secs(2));
        tokio::time::sleep(most.mul_f64(f64::from(part) / f64::from(u32::MAX))).await;
        self.extend().await
    }

    async fn extend(&mut self) -> Result<(), MigrationError> {
        let own = match self.session {
            Session::Postgres(postgres) => self.lease.extend(&mut postgres.watch).await,
            // A step extends it with its record, and nobody else can write before that.
            Session::Sqlite { .. } => Ok(true),
        };
        match own {
            Ok(true) => Ok(()),
            Ok(false) => Err(MigrationError::Fenced),
            Err(refusal) => Err(refusal.while_doing("extend the lease of the migrations")),
        }
    }

    /// Says who is in the way, before anybody waits behind this runner.
    async fn preflight(&mut self, step: &Step) -> Result<(), MigrationError> {
        let Session::Postgres(postgres) = self.session else { return Ok(()) };
        let tables: Vec<String> = step.statements.iter().flat_map(super::Statement::tables).collect();
        if tables.is_empty() {
            return Ok(());
        }
        let by = postgres.preflight(&tables).await.map_err(|refusal| refusal.while_doing("look for locks"))?;
        if !by.is_empty() {
            (self.report)(&Event::Preflight { by: &by });
        }
        Ok(())
    }

    /// One try of a step.
    async fn attempt(&mut self, step: &Step, number: usize, tries: u32, autovacuum: bool) -> Result<(), Stop> {
        sqlite::for_drops(self.session, step).await?;
        let done = self.whole(step, number, tries, autovacuum).await;
        if done.is_err() {
            let _ended = self.session.batch("ROLLBACK").await;
        }
        done
    }

    async fn whole(&mut self, step: &Step, number: usize, tries: u32, autovacuum: bool) -> Result<(), Stop> {
        let last = step.statements.len().saturating_sub(1);
        self.session.batch(self.begin()).await.map_err(|refusal| Stop::At(0, refusal, Vec::new()))?;
        let limited = self.limit_waits(tries, autovacuum, Duration::ZERO).await;
        limited.map_err(|refusal| Stop::At(0, refusal, Vec::new()))?;
        let before = sqlite::Before::look(self.session, step).await?;
        let mut waited = Duration::ZERO;
        for (at, statement) in step.statements.iter().enumerate() {
            let begun = Instant::now();
            let (done, by) = self.execute(&statement.sql).await;
            if !by.is_empty() && done.is_ok() {
                // Whoever waits for one of the locks that it has got waits for the next one, too.
                waited += begun.elapsed();
                let limited = self.limit_waits(tries, autovacuum, waited).await;
                limited.map_err(|refusal| Stop::At(at, refusal, Vec::new()))?;
            }
            done.map_err(|refusal| Stop::At(at, refusal, by))?;
        }
        before.compare(self.session, step).await?;
        match self.own_settings().await {
            Ok(None) => {}
            Ok(Some(error)) => return Err(Stop::Error(error)),
            Err(refusal) => return Err(Stop::At(last, refusal, Vec::new())),
        }
        self.record(step, number).await?;
        (self.report)(&Event::Written { id: &self.migration.id, step: number });
        self.fence().await?;
        match self.session.batch("COMMIT").await {
            Err(refusal) if refusal.is_loss() => {
                Err(Stop::Error(refusal.while_doing("tell whether the step was committed")))
            }
            done => done.map_err(|refusal| Stop::At(last, refusal, Vec::new())),
        }
    }

    /// How long statements wait for locks from here on, where it was waited already.
    async fn limit_waits(&mut self, tries: u32, autovacuum: bool, waited: Duration) -> Result<(), Refusal> {
        if self.session.dialect() == Dialect::Sqlite {
            return Ok(());
        }
        let least = if autovacuum { Duration::from_millis(1200) } else { Duration::ZERO };
        let wait = self.options.lock_timeout(tries).max(least).saturating_sub(waited);
        self.session.batch(&format!("SET LOCAL lock_timeout = {}", millis(wait))).await
    }

    /// For the records, at the end of a transaction. Gives an error where the statements have put another schema before the
    /// one that has the records: whoever comes next would look for them there.
    async fn own_settings(&mut self) -> Result<Option<MigrationError>, Refusal> {
        let Session::Postgres(postgres) = self.session else { return Ok(None) };
        let here = postgres.own_settings().await?;
        Ok(here.map(|here| MigrationError::Elsewhere { there: postgres.schema.clone(), here }))
    }

    async fn execute(&mut self, sql: &str) -> (Result<(), Refusal>, Vec<String>) {
        match self.session {
            Session::Postgres(postgres) => postgres.watched(sql, self.lease, self.report).await,
            Session::Sqlite { .. } => {
                let (begun, mut running) = (Instant::now(), Box::pin(self.session.batch(sql)));
                loop {
                    match tokio::time::timeout(Duration::from_secs(1), &mut running).await {
                        Ok(done) => return (done, Vec::new()),
                        Err(_) => (self.report)(&Event::Working { elapsed: begun.elapsed() }),
                    }
                }
            }
        }
    }

    /// That the lease is this runner's, for longer than a commit takes. On SQLite it is a part of the transaction. On
    /// PostgreSQL it is not, for a transaction that sees an older moment could not write what was extended since; there who
    /// takes the lease over ends this session first.
    pub(super) async fn fence(&mut self) -> Result<(), MigrationError> {
        let own = match self.session {
            Session::Postgres(postgres) => match self.lease.hold(&mut postgres.watch).await {
                Err(refusal) if refusal.is_loss() => match postgres.watch_again().await {
                    Ok(()) => self.lease.hold(&mut postgres.watch).await,
                    Err(refusal) => Err(refusal),
                },
                // The statements have locked all tables there are: then this transaction may write it itself.
                Err(refusal) if refusal.passes() => self.hold_within().await,
                held => held,
            },
            Session::Sqlite { .. } => self.hold_within().await,
        };
        match own {
            Ok(true) => Ok(()),
            Ok(false) => Err(MigrationError::Fenced),
            Err(refusal) => Err(refusal.while_doing("extend the lease of the migrations")),
        }
    }

    /// Extends the lease in the transaction that is under way.
    async fn hold_within(&mut self) -> Result<bool, Refusal> {
        let sql = self.lease.extension(self.session.dialect());
        let epoch = self.lease.epoch.to_string();
        let rows = self.session.query(&sql, &[Some(&self.lease.token), Some(&epoch)]).await?;
        Ok(!rows.is_empty())
    }

    /// Records that a step is done, and with the last one that the migration is.
    async fn record(&mut self, step: &Step, number: usize) -> Result<(), MigrationError> {
        self.begun().await?;
        self.note(step, number, StepState::Done, None).await?;
        if number == self.migration.steps.len() { self.finish().await } else { Ok(()) }
    }

    /// Records that a migration was begun.
    async fn begun(&mut self) -> Result<(), MigrationError> {
        let Prepared { id, description, checksum, .. } = self.migration;
        let now = ledger::now(self.session.dialect());
        let sql = format!(
            "INSERT INTO cratestack_migrations (id, description, checksum, baseline, started_at) \
             VALUES ($1, $2, $3, {}, {now}) ON CONFLICT (id) DO UPDATE SET description = excluded.description, \
             checksum = excluded.checksum",
            if self.session.dialect() == Dialect::Postgres { "false" } else { "0" }
        );
        self.write(&sql, &[Some(id), Some(description), Some(checksum)]).await
    }

    /// Records that a migration is applied.
    pub(super) async fn applied(&mut self) -> Result<(), MigrationError> {
        self.begun().await?;
        let now = ledger::now(self.session.dialect());
        let sql = format!("UPDATE cratestack_migrations SET applied_at = {now} WHERE id = $1");
        self.write(&sql, &[Some(&self.migration.id)]).await
    }

    /// The same of one whose steps are done.
    async fn finish(&mut self) -> Result<(), MigrationError> {
        self.applied().await?;
        match &self.migration.schema {
            Some(schema) => self.carries(schema).await,
            None => Ok(()),
        }
    }

    /// Notes which schema the database carries, after a look at its tables.
    pub(super) async fn carries(&mut self, schema: &Schema) -> Result<(), MigrationError> {
        let missing = fits::lacking(self.session, schema).await;
        let missing = missing.map_err(|refusal| refusal.while_doing("look at the tables"))?;
        if !missing.is_empty() {
            return Err(MigrationError::Lacks { id: self.migration.id.clone(), missing });
        }
        carry(self.session, schema).await
    }

    /// Records how a step stands.
    async fn note(
        &mut self,
        step: &Step,
        number: usize,
        state: StepState,
        error: Option<&str>,
    ) -> Result<(), MigrationError> {
        let now = ledger::now(self.session.dialect());
        let finished = if state == StepState::Running { "NULL" } else { now };
        // What was begun is counted once.
        let attempts = if state == StepState::Running || step.transaction { "+ 1" } else { "" };
        let sql = format!(
            "INSERT INTO cratestack_migration_steps AS old (migration, step, phase, name, state, checksum, sql, lease_epoch, \
             error, attempts, started_at, finished_at) VALUES ($1, CAST($2 AS integer), $3, $4, $5, $6, $7, \
             CAST($8 AS bigint), $9, 1, {now}, {finished}) ON CONFLICT (migration, step) DO UPDATE SET phase = excluded.phase, \
             name = excluded.name, state = excluded.state, checksum = excluded.checksum, sql = excluded.sql, \
             lease_epoch = excluded.lease_epoch, error = excluded.error, attempts = old.attempts {attempts}, \
             finished_at = excluded.finished_at"
        );
        let (number, epoch, shown) = (number.to_string(), self.lease.epoch.to_string(), step.shown());
        let binds = [
            Some(self.migration.id.as_str()),
            Some(&number),
            Some(step.phase.name()),
            step.name.as_deref(),
            Some(state.name()),
            Some(&step.digest),
            Some(&shown),
            Some(&epoch),
            error,
        ];
        self.write(&sql, &binds).await
    }

    pub(super) async fn write(&mut self, sql: &str, binds: &[Option<&str>]) -> Result<(), MigrationError> {
        let written = self.session.query(sql, binds).await;
        written.map(|_| ()).map_err(|refusal| refusal.while_doing("record what was applied"))
    }

    /// A transaction of records alone.
    async fn recorded(
        &mut self,
        step: &Step,
        number: usize,
        state: StepState,
        error: Option<&str>,
    ) -> Result<(), MigrationError> {
        self.session.batch(self.begin()).await.map_err(|refusal| refusal.while_doing("begin a transaction"))?;
        let done = async {
            let settings = self.own_settings().await;
            if let Some(error) = settings.map_err(|refusal| refusal.while_doing("record what was applied"))? {
                return Err(error);
            }
            if state == StepState::Done {
                self.record(step, number).await?;
            } else {
                self.begun().await?;
                self.note(step, number, state, error).await?;
            }
            self.fence().await
        }
        .await;
        self.end(done).await
    }

    /// Runs a statement outside of a transaction: begun, done, seen to be done, recorded. What an earlier runner has left
    /// half done is removed first.
    async fn outside(&mut self, step: &Step, number: usize, before: Option<&StepRecord>) -> Result<(), MigrationError> {
        let effect = step.statements.first().map_or(Effect::Other, super::Statement::effect);
        let same = before.is_some_and(|record| record.checksum == step.digest);
        let resumed = same && before.is_some_and(|record| record.state == StepState::Running);
        // Nothing in the catalog tells whether an index was built anew.
        if !matches!(effect, Effect::Reindex { .. }) && self.is_done(step, &effect).await? == Some(true) {
            let own = resumed || step.done_when.is_some();
            let foreign = match &effect {
                Effect::Index { name, if_not_exists: false, .. } if !own => {
                    Some(format!("there is an index {name} already, which this migration did not make"))
                }
                Effect::NoIndex { name, if_exists: false } if !own => Some(format!("there is no index {name} to drop")),
                // The database says that itself.
                Effect::Value { .. } if !own => None,
                _ => return self.recorded(step, number, StepState::Done, None).await,
            };
            if let Some(message) = foreign {
                let (id, steps) = (self.migration.id.clone(), self.migration.steps.len());
                return Err(MigrationError::Undone { id, step: number, steps, message });
            }
        }
        self.recorded(step, number, StepState::Running, None).await?;
        self.session.settle().await?;
        let (begun, mut tries) = (Instant::now(), 0);
        loop {
            tries += 1;
            let (done, by) = self.once(step, &effect, tries).await;
            let Err(refusal) = done else { break };
            if self.lease.lost {
                return Err(MigrationError::Fenced);
            }
            // Where the connection is gone, so is everything that could be done about it.
            let _rest_is_for_the_next = self.clean(&effect).await;
            if refusal.passes() && begun.elapsed() < self.options.patience {
                (self.report)(&Event::Blocked { by: &by, tries });
                self.pause(tries).await?;
                continue;
            }
            let _first_error_counts = self.recorded(step, number, StepState::Failed, Some(&refusal.message)).await;
            return Err(self.failed(step, number, 0, refusal));
        }
        if self.is_done(step, &effect).await? == Some(false) {
            let message = "the statement was run, and the catalog does not show what it is for".to_owned();
            let _first_error_counts = self.recorded(step, number, StepState::Failed, Some(&message)).await;
            let (id, steps) = (self.migration.id.clone(), self.migration.steps.len());
            return Err(MigrationError::Undone { id, step: number, steps, message });
        }
        (self.report)(&Event::Written { id: &self.migration.id, step: number });
        self.recorded(step, number, StepState::Done, None).await
    }

    async fn clean(&mut self, effect: &Effect) -> Result<(), Refusal> {
        match self.session {
            Session::Postgres(postgres) => postgres.clean(effect, self.lease, self.report).await,
            Session::Sqlite { .. } => Ok(()),
        }
    }

    async fn once(&mut self, step: &Step, effect: &Effect, tries: u32) -> (Result<(), Refusal>, Vec<String>) {
        let prepared = async {
            self.clean(effect).await?;
            if self.session.dialect() == Dialect::Postgres {
                // These wait without keeping anybody from work, and a limit would leave them half done.
                let patient = matches!(
                    effect,
                    Effect::Index { .. } | Effect::NoIndex { .. } | Effect::Reindex { .. } | Effect::Valid { .. }
                );
                let wait = if patient { 0 } else { millis(self.options.lock_timeout(tries)) };
                self.session.batch(&format!("SET lock_timeout = {wait}; SET statement_timeout = 0")).await?;
            }
            Ok(())
        };
        if let Err(refusal) = prepared.await {
            return (Err(refusal), Vec::new());
        }
        let sql = step.statements.first().map_or("", |statement| &statement.sql);
        self.execute(sql).await
    }

    /// Whether a step is to be seen as done; `None` where that cannot be seen.
    async fn is_done(&mut self, step: &Step, effect: &Effect) -> Result<Option<bool>, MigrationError> {
        let failed = |refusal: Refusal| refusal.while_doing("see whether a step is done");
        if let Some(query) = &step.done_when {
            let rows = match self.session {
                Session::Postgres(_) => format!("SELECT 'x' FROM ({query}\n) AS done (it) WHERE it"),
                Session::Sqlite { .. } => format!("SELECT 'x' WHERE ({query}\n)"),
            };
            return Ok(Some(!self.session.query(&rows, &[]).await.map_err(failed)?.is_empty()));
        }
        match self.session {
            Session::Postgres(postgres) => postgres.is_done(effect).await.map_err(failed),
            Session::Sqlite { .. } => Ok(None),
        }
    }
}

/// Notes which schema a database carries now.
async fn carry(session: &mut Session, schema: &Schema) -> Result<(), MigrationError> {
    match session {
        Session::Postgres(postgres) => Ok(migrate::carry(&mut Db::Postgres(&mut postgres.ddl), schema).await?),
        Session::Sqlite { connection, .. } => {
            let schema = schema.clone();
            let carried = Session::blocking(connection, move |connection| {
                Ok(now(migrate::carry(&mut Db::Sqlite(connection), &schema)))
            });
            carried.await.map_err(|refusal| refusal.while_doing("record which schema the database carries"))??;
            Ok(())
        }
    }
}
