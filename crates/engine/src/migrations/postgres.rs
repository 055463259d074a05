//! What only PostgreSQL has: one session that must stay one, locks that others hold, and statements outside of
//! transactions that may be left half done.

use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection as _, PgConnection};
use tokio::time::{Instant, MissedTickBehavior};

use super::lease::{Lease, guard};
use super::run::{Event, Report};
use super::session::{PATIENCE, Postgres, Refusal, raw, texts};
use super::split::Effect;
use super::{MigrationError, clipped};
use crate::sql::ident;
use crate::storage::literal;

/// How often a running statement is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// Of a session that another one waits for.
const SESSION: &str = "'session ' || pid || ' (' || concat_ws(', ', nullif(application_name, ''), \
    CASE WHEN backend_type <> 'client backend' THEN backend_type END, usename, state, \
    'transaction for ' || date_trunc('second', clock_timestamp() - xact_start)) || ')'";

impl Postgres {
    /// That both connections are sessions of their own, and that they stay so.
    pub(super) async fn checked(mut self) -> Result<Self, MigrationError> {
        let failed = |refusal: Refusal| refusal.while_doing("look at the session");
        // One that has a single session to give keeps the other connection waiting for it.
        match tokio::time::timeout(PATIENCE, self.is_pooled()).await {
            Ok(Ok(false)) => {}
            Ok(Err(refusal)) if refusal.code != "08P01" => return Err(failed(refusal)),
            _ => return Err(MigrationError::Pooler),
        }
        let schema = texts(&mut self.watch, "SELECT current_schema()::text", &[]).await.map_err(failed)?;
        self.schema = schema.into_iter().flatten().flatten().next().ok_or_else(|| MigrationError::Database {
            doing: "look at the session".to_owned(),
            message: "the search path leads to no schema".to_owned(),
        })?;
        Self::arm(&mut self.watch).await.map_err(failed)?;
        let short = raw(&mut self.ddl, "SET deadlock_timeout = '50ms'").await;
        self.short_deadlocks = short.is_ok();
        self.settle().await.map_err(failed)?;
        Ok(self)
    }

    /// A pooler of transactions shows itself where a connection's session changes, or is another connection's too. It hands
    /// out the one that became free last: so each of the two connections takes a turn while the other one has nothing
    /// under way, and again while it has.
    async fn is_pooled(&mut self) -> Result<bool, Refusal> {
        let first = Self::session_id(&mut self.ddl).await?;
        self.pid = first;
        for _ in 0..3 {
            let alone = Self::session_id(&mut self.watch).await?;
            raw(&mut self.watch, "BEGIN").await?;
            let [inside, own] = [Self::session_id(&mut self.watch).await?, Self::session_id(&mut self.ddl).await?];
            raw(&mut self.watch, "COMMIT").await?;
            let after = Self::session_id(&mut self.ddl).await?;
            if alone == first || inside != alone || own != first || after != first {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn session_id(connection: &mut sqlx::PgConnection) -> Result<i32, Refusal> {
        use sqlx::Row as _;
        // Not a prepared statement, which a pooler may not know in the next session.
        let row = sqlx::raw_sql("SELECT pg_backend_pid()").fetch_one(connection).await?;
        Ok(row.try_get(0)?)
    }

    /// Takes back what an earlier step has set, made for itself and prepared, and sets what the runner needs: a server that
    /// notices when the runner has gone, and ends what it was doing.
    pub(super) async fn settle(&mut self) -> Result<(), Refusal> {
        raw(&mut self.ddl, "DISCARD ALL").await?;
        self.set().await?;
        if self.short_deadlocks {
            raw(&mut self.ddl, "SET deadlock_timeout = '50ms'").await?;
        }
        for setting in ["client_connection_check_interval = '1s'", "idle_session_timeout = 0"] {
            // Older servers do not have them.
            let _older = raw(&mut self.ddl, &format!("SET {setting}")).await;
        }
        Ok(())
    }

    /// What must hold even while a step is recorded. The name is set, too: a pooler gives it to a session as a setting.
    async fn set(&mut self) -> Result<(), Refusal> {
        let settings = format!(
            "SET application_name = {}; SET idle_in_transaction_session_timeout = '10s'; SET lock_timeout = '2s'; \
             SET standard_conforming_strings = on",
            literal(&self.application)
        );
        raw(&mut self.ddl, &settings).await
    }

    /// What the session that watches needs: it waits for nobody for long, and may be idle.
    async fn arm(watch: &mut PgConnection) -> Result<(), Refusal> {
        raw(watch, "SET lock_timeout = '2s'").await?;
        let _older = raw(watch, "SET idle_session_timeout = 0").await;
        Ok(())
    }

    /// A session in the place of one that watched and was lost.
    async fn watcher(options: &PgConnectOptions) -> Result<PgConnection, Refusal> {
        let mut watch = PgConnection::connect_with(options).await?;
        Self::arm(&mut watch).await?;
        guard(&mut watch, "pg_try_advisory_lock").await?;
        Ok(watch)
    }

    /// The same between statements.
    pub(super) async fn watch_again(&mut self) -> Result<(), Refusal> {
        self.watch = Self::watcher(&self.options).await?;
        Ok(())
    }

    /// The records are the runner's, whoever and wherever the statements have made it. Temporary tables are looked for last.
    /// Gives where new tables go from here on, if that has changed.
    pub(super) async fn own_settings(&mut self) -> Result<Option<String>, Refusal> {
        raw(&mut self.ddl, "RESET SESSION AUTHORIZATION; RESET ALL").await?;
        self.set().await?;
        let first = texts(&mut self.ddl, "SELECT current_schema()::text", &[]).await?;
        let first = first.into_iter().flatten().flatten().next().filter(|first| *first != self.schema);
        raw(&mut self.ddl, &format!("SET LOCAL search_path = {}, pg_temp", ident(&self.schema))).await?;
        Ok(first)
    }

    /// Runs a statement, extends the lease meanwhile, and says what it waits for and how far it has come. Gives who held
    /// the lock when it was last looked at.
    pub(super) async fn watched(
        &mut self,
        sql: &str,
        lease: &mut Lease,
        report: Report<'_>,
    ) -> (Result<(), Refusal>, Vec<String>) {
        let Self { ddl, watch, pid, options, .. } = self;
        let mut running = Box::pin(raw(ddl, sql));
        let mut ticks = tokio::time::interval_at(Instant::now() + LOOK, LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (begun, mut told, mut lost, mut holders) = (Instant::now(), 0, false, Vec::new());
        loop {
            tokio::select! {
                done = &mut running => return (done, holders),
                _ = ticks.tick() => {}
            }
            // A look that fails is no reason to end what goes well; a lease that somebody else has is.
            let again = lost;
            let looked = async {
                if again {
                    *watch = Self::watcher(options).await?;
                }
                if !lease.extend(watch).await? {
                    texts(watch, "SELECT CAST(pg_cancel_backend($1::integer) AS text)", &[Some(&pid.to_string())])
                        .await?;
                }
                look(watch, *pid).await
            };
            tokio::pin!(looked);
            // A question that was asked is heard to its end, so that the connection is ready for the next one.
            let mut ended = None;
            let looked = loop {
                tokio::select! {
                    done = &mut running, if ended.is_none() => ended = Some(done),
                    looked = &mut looked => break looked,
                }
            };
            if begun.elapsed().as_secs() > told {
                told = begun.elapsed().as_secs();
                report(&Event::Working { elapsed: begun.elapsed() });
            }
            lost = looked.as_ref().is_err_and(Refusal::is_loss);
            if let Ok(look) = looked {
                if let Some((phase, done, total)) = look.progress {
                    report(&Event::Progress { phase: &phase, done, total, waits_for: &look.holders });
                }
                if !look.holders.is_empty() {
                    holders = look.holders;
                }
            }
            if let Some(done) = ended {
                return (done, holders);
            }
        }
    }

    /// Who has locks of these tables for more than a moment, and prepared transactions.
    pub(super) async fn preflight(&mut self, tables: &[String]) -> Result<Vec<String>, Refusal> {
        let list = tables.join("\u{1f}");
        let sql = format!(
            "SELECT {SESSION} FROM pg_stat_activity WHERE pid <> ALL (ARRAY[pg_backend_pid(), $1::integer]) \
             AND clock_timestamp() - xact_start > interval '1 second' AND pid IN (SELECT l.pid FROM pg_locks l \
             WHERE l.granted AND l.relation IN (SELECT to_regclass(name) FROM unnest(string_to_array($2, chr(31))) AS name)) \
             UNION ALL SELECT 'the prepared transaction `' || gid || '` (' || owner || ', since ' || \
             date_trunc('second', prepared) || ')' FROM pg_prepared_xacts WHERE database = current_database() \
             AND clock_timestamp() - prepared > interval '1 second'"
        );
        let rows = texts(&mut self.watch, &sql, &[Some(&self.pid.to_string()), Some(&list)]).await?;
        Ok(rows.into_iter().flatten().flatten().collect())
    }

    /// Whether a statement's effect is to be seen in the catalog.
    pub(super) async fn is_done(&mut self, effect: &Effect) -> Result<Option<bool>, Refusal> {
        let (sql, binds) = match effect {
            Effect::Index { name, table, .. } => (INDEX_IS_VALID, vec![name.as_str(), table.as_str()]),
            Effect::NoIndex { name, .. } => ("SELECT 'x' WHERE to_regclass($1) IS NULL", vec![name.as_str()]),
            Effect::Valid { table, constraint } => (
                "SELECT 'x' FROM pg_constraint WHERE conrelid = to_regclass($1) AND conname = ((parse_ident($2))[1])::name \
                 AND convalidated",
                vec![table.as_str(), constraint.as_str()],
            ),
            Effect::Value { of, value } => (
                "SELECT 'x' FROM pg_enum WHERE enumtypid = to_regtype($1) AND enumlabel = $2",
                vec![of.as_str(), value.as_str()],
            ),
            Effect::Reindex { name } => {
                return Ok(Some(self.leftovers(name).await?.is_empty()));
            }
            Effect::Repeatable | Effect::Other => return Ok(None),
        };
        let binds: Vec<Option<&str>> = binds.into_iter().map(Some).collect();
        Ok(Some(!texts(&mut self.watch, sql, &binds).await?.is_empty()))
    }

    /// Makes sure that nothing half made is in the way of a statement, waiting for whoever is making it. Says what was
    /// removed.
    pub(super) async fn clean(
        &mut self,
        effect: &Effect,
        lease: &mut Lease,
        report: Report<'_>,
    ) -> Result<(), Refusal> {
        let leftovers = match effect {
            Effect::Index { name, table, .. } => {
                let names = [Some(name.as_str()), Some(table)];
                self.await_builders(INVALID_INDEX, &names, lease, report).await?;
                texts(&mut self.watch, INVALID_INDEX, &names).await?
            }
            Effect::Reindex { name } => {
                self.await_builders(LEFTOVERS, &[Some(name)], lease, report).await?;
                self.leftovers(name).await?
            }
            _ => return Ok(()),
        };
        for index in leftovers.into_iter().flatten().flatten() {
            report(&Event::Cleaned { index: &index });
            // Never without `CONCURRENTLY`, which would stop everybody who writes.
            raw(&mut self.ddl, "SET lock_timeout = 0; SET statement_timeout = 0").await?;
            self.watched(&format!("DROP INDEX CONCURRENTLY {index}"), lease, report).await.0?;
        }
        Ok(())
    }

    /// What `REINDEX CONCURRENTLY` leaves behind when it is interrupted.
    async fn leftovers(&mut self, name: &str) -> Result<Vec<Vec<Option<String>>>, Refusal> {
        texts(&mut self.watch, LEFTOVERS, &[Some(name)]).await
    }

    /// Waits until nobody builds these any more: the session of a runner that was killed may go on for a moment, and what
    /// others are making is theirs.
    async fn await_builders(
        &mut self,
        indexes: &str,
        names: &[Option<&str>],
        lease: &mut Lease,
        report: Report<'_>,
    ) -> Result<(), Refusal> {
        let sql = format!(
            "SELECT {SESSION} FROM pg_stat_activity WHERE pid <> {} AND pid IN (SELECT p.pid \
             FROM pg_stat_progress_create_index p WHERE p.index_relid::regclass::text IN ({indexes}))",
            self.pid
        );
        let begun = Instant::now();
        loop {
            let builders = texts(&mut self.watch, &sql, names).await?;
            let builders: Vec<String> = builders.into_iter().flatten().flatten().collect();
            if builders.is_empty() {
                return Ok(());
            }
            report(&Event::Blocked { by: &builders, tries: 0 });
            if begun.elapsed() > BUILDS {
                return Err(Refusal {
                    code: "57014".to_owned(),
                    message: "others build the index all the time".to_owned(),
                });
            }
            if !lease.extend(&mut self.watch).await? {
                return Err(Refusal { code: "57014".to_owned(), message: "the lease was lost".to_owned() });
            }
            tokio::time::sleep(LOOK * 4).await;
        }
    }
}

/// How long it is waited for others who build an index.
const BUILDS: Duration = Duration::from_hours(1);

/// The relations that a name stands for: a table with its partitions, or an index's table, and where they keep long values.
const LEFTOVERS: &str = "\
    WITH named AS (SELECT to_regclass($1) AS oid UNION SELECT indrelid FROM pg_index WHERE indexrelid = to_regclass($1)), \
    tables AS (SELECT oid FROM named UNION SELECT t.relid FROM named, pg_partition_tree(named.oid) AS t), \
    related AS (SELECT oid FROM tables UNION SELECT c.reltoastrelid FROM pg_class c JOIN tables ON tables.oid = c.oid \
      WHERE c.reltoastrelid <> 0) \
    SELECT i.indexrelid::regclass::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid \
    WHERE NOT i.indisvalid AND c.relname ~ '_cc(new|old)[0-9]*$' AND i.indrelid IN (SELECT oid FROM related)";

/// The index of that name at that table, whoever made it.
const INDEX_IS_VALID: &str = "SELECT 'x' FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid \
    WHERE c.relname = ((parse_ident($1))[array_upper(parse_ident($1), 1)])::name AND i.indrelid = to_regclass($2) \
    AND i.indisvalid AND i.indisready";
const INVALID_INDEX: &str = "SELECT i.indexrelid::regclass::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid \
    WHERE c.relname = ((parse_ident($1))[array_upper(parse_ident($1), 1)])::name AND i.indrelid = to_regclass($2) \
    AND NOT (i.indisvalid AND i.indisready)";

/// What a session does at the moment.
#[derive(Debug, Default)]
struct Look {
    holders: Vec<String>,
    /// What it is at, and how much of it is done.
    progress: Option<(String, u64, u64)>,
}

async fn look(watch: &mut sqlx::PgConnection, pid: i32) -> Result<Look, Refusal> {
    let pid = pid.to_string();
    let sql = format!(
        "SELECT 'holder', {SESSION}, NULL, NULL FROM pg_stat_activity WHERE pid = ANY (pg_blocking_pids($1::integer)) \
         UNION ALL SELECT 'holder', {SESSION}, NULL, NULL FROM pg_stat_activity WHERE pid IN (\
         SELECT current_locker_pid FROM pg_stat_progress_create_index WHERE pid = $1::integer) \
         UNION ALL SELECT 'progress', phase, \
         (CASE WHEN blocks_total > 0 AND tuples_done = 0 THEN blocks_done ELSE tuples_done END)::text, \
         (CASE WHEN blocks_total > 0 AND tuples_done = 0 THEN blocks_total ELSE tuples_total END)::text \
         FROM pg_stat_progress_create_index WHERE pid = $1::integer"
    );
    let mut look = Look::default();
    for row in texts(watch, &sql, &[Some(&pid)]).await? {
        let mut columns = row.into_iter();
        let (kind, what) = (columns.next().flatten(), columns.next().flatten().unwrap_or_default());
        let mut number = || columns.next().flatten().and_then(|text| text.parse().ok()).unwrap_or_default();
        match kind.as_deref() {
            Some("holder") if !look.holders.contains(&what) => look.holders.push(clipped(&what, 200)),
            Some("progress") => look.progress = Some((what, number(), number())),
            _ => {}
        }
    }
    Ok(look)
}
