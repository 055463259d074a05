//! The right to run migrations: one runner at a time has it.
//!
//! A row says who has it and until when. What a runner writes asks for the row's epoch, which grows with each holder. On
//! PostgreSQL the session of a runner holds a lock of its own besides, which ends with it, and whoever takes over from a
//! runner that was not heard of ends its sessions first.

use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::MigrationError;
use super::ledger;
use super::run::{Event, Report, RunnerOptions};
use super::session::{Refusal, Session, texts};
use crate::migrate;
use crate::sql::Dialect;

/// The right to run migrations.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) token: String,
    pub(super) epoch: i64,
    length: Duration,
    extended: Instant,
    /// Somebody else has it.
    pub(super) lost: bool,
}

impl Lease {
    /// A condition that holds while the lease is this runner's; the parameters are `$1` and `$2`.
    const OWN: &'static str = "id = 1 AND token = $1 AND epoch = CAST($2 AS bigint)";

    /// Extends it where that is due. `false`: somebody else has it.
    pub(super) async fn extend(&mut self, watch: &mut sqlx::PgConnection) -> Result<bool, Refusal> {
        if self.lost || self.extended.elapsed() < self.length / 3 {
            return Ok(!self.lost);
        }
        self.hold(watch).await
    }

    /// Extends it, whether that is due or not.
    pub(super) async fn hold(&mut self, watch: &mut sqlx::PgConnection) -> Result<bool, Refusal> {
        let sql = self.extension(Dialect::Postgres);
        self.lost = texts(watch, &sql, &[Some(&self.token), Some(&self.epoch.to_string())]).await?.is_empty();
        self.extended = Instant::now();
        Ok(!self.lost)
    }

    pub(super) fn extension(&self, dialect: Dialect) -> String {
        let until = ledger::in_seconds(dialect, self.length.as_secs_f64());
        format!("UPDATE cratestack_migration_lease SET expires_at = {until} WHERE {} RETURNING holder", Self::OWN)
    }
}

/// Takes the lease, as soon as nobody has it.
pub(super) async fn acquire(
    session: &mut Session,
    options: &RunnerOptions,
    waited: &mut bool,
    report: Report<'_>,
) -> Result<Lease, MigrationError> {
    const POLL: Duration = Duration::from_millis(200);
    let begun = Instant::now();
    let (dialect, length) = (session.dialect(), options.lease.max(Duration::from_millis(100)));
    let token = Uuid::now_v7().to_string();
    let sql = format!(
        "UPDATE cratestack_migration_lease SET holder = $1, token = $2, application = $3, epoch = epoch + 1, \
         expires_at = {until} WHERE id = 1 AND (token IS NULL OR expires_at <= {now}) RETURNING CAST(epoch AS text)",
        until = ledger::in_seconds(dialect, length.as_secs_f64()),
        now = ledger::now(dialect),
    );
    let holder = holder();
    let application = match session {
        Session::Postgres(postgres) => Some(postgres.application.clone()),
        Session::Sqlite { .. } => None,
    };
    let failed = |refusal: Refusal| refusal.while_doing("take the lease of the migrations");
    loop {
        evict(session).await.map_err(failed)?;
        let free = match session {
            Session::Postgres(postgres) => guard(&mut postgres.watch, "pg_try_advisory_lock").await.map_err(failed)?,
            Session::Sqlite { .. } => true,
        };
        let binds = [Some(holder.as_str()), Some(&token), application.as_deref()];
        let taken = if free { session.query(&sql, &binds).await } else { Ok(Vec::new()) };
        let taken = match taken {
            Err(refusal) if refusal.passes() => Vec::new(),
            taken => taken.map_err(failed)?,
        };
        if let Some(epoch) = taken.into_iter().flatten().flatten().next() {
            let epoch = epoch.parse().unwrap_or_default();
            return Ok(Lease { token, epoch, length, extended: Instant::now(), lost: false });
        }
        if let (Session::Postgres(postgres), true) = (&mut *session, free) {
            guard(&mut postgres.watch, "pg_advisory_unlock").await.map_err(failed)?;
        }
        *waited = true;
        let row =
            session.query("SELECT holder FROM cratestack_migration_lease WHERE id = 1", &[]).await.map_err(failed)?;
        let other = row.into_iter().flatten().flatten().next().unwrap_or_else(|| "another connection".to_owned());
        if begun.elapsed() >= options.wait {
            return Err(MigrationError::Busy { holder: other, waited: options.wait });
        }
        report(&Event::Waiting { holder: &other });
        tokio::time::sleep(POLL).await;
    }
}

/// Whether the session's own lock, which ends with the session, could be taken, or given back. It never waits: who waits
/// for a lock of this kind has a snapshot, for which a concurrent index build waits in turn.
pub(super) async fn guard(watch: &mut sqlx::PgConnection, function: &str) -> Result<bool, Refusal> {
    // A service's tables are in one schema, and another service may be in another.
    let sql = format!("SELECT 'x' WHERE {function}({}, hashtext(current_schema()))", migrate::LOCK >> 32);
    Ok(!texts(watch, &sql, &[]).await?.is_empty())
}

/// Ends what the sessions of a runner whose lease is over still do: it can record nothing any more.
async fn evict(session: &mut Session) -> Result<(), Refusal> {
    if session.dialect() == Dialect::Sqlite {
        return Ok(());
    }
    let sql = "SELECT CAST(pg_terminate_backend(pid) AS text) FROM pg_stat_activity WHERE datname = current_database() \
               AND application_name = (SELECT application FROM cratestack_migration_lease \
               WHERE token IS NOT NULL AND expires_at <= clock_timestamp())";
    match session.query(sql, &[]).await {
        // Another role's: while it lives, its own lock keeps everybody away.
        Err(refusal) if refusal.code == "42501" => Ok(()),
        done => done.map(|_| ()),
    }
}

/// This process, for people.
fn holder() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").ok().or_else(|| std::env::var("HOSTNAME").ok());
    let host = host.map(|host| format!(" on `{}`", host.trim())).unwrap_or_default();
    format!("the process {}{host}", std::process::id())
}

pub(super) async fn release(session: &mut Session, lease: &Lease) -> Result<(), Refusal> {
    let sql = format!(
        "UPDATE cratestack_migration_lease SET token = NULL, holder = NULL, application = NULL WHERE {}",
        Lease::OWN
    );
    session.query(&sql, &[Some(&lease.token), Some(&lease.epoch.to_string())]).await.map(|_| ())
}
