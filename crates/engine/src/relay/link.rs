//! The relay's way to the database: a connection of its own on PostgreSQL, jobs on the threads of SQLite.

use std::time::{Duration, Instant};

use futures_util::FutureExt as _;

use super::Hooks;
use crate::engine::{Engine, Store};
use crate::fault::{Class, StoreError};
use crate::sql::{SqlType, Statement, Template};
use crate::store::postgres::Dedicated;
use crate::store::{Control, NoPages, Rows, Session};

/// How long a connection, or a transaction of bounded size, may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a take may last: after a long outage it copies the keys of everything that came meanwhile.
const TAKE: Duration = Duration::from_hours(1);

/// Settings of the session. The tables change faster than the statistics about them: a table that was empty a minute ago
/// may hold a million pending rows. So the planner is told what holds in any case: every statement finds its rows by
/// an index and in the order of one.
const SETTINGS: &str = "SELECT set_config('statement_timeout', '1h', false), set_config('lock_timeout', '30s', false), \
     set_config('default_transaction_isolation', 'read committed', false), set_config('jit', 'off', false), \
     set_config('enable_seqscan', 'off', false), set_config('enable_sort', 'off', false), \
     set_config('enable_hashjoin', 'off', false), set_config('enable_mergejoin', 'off', false)";

#[derive(Debug)]
enum Way {
    Postgres(Box<Dedicated>),
    Sqlite(Engine),
}

/// A way to the database. After an error it must not be used again.
#[derive(Debug)]
pub(super) struct Link {
    way: Way,
    hooks: Hooks,
}

impl Link {
    pub(super) async fn open(engine: &Engine, hooks: Hooks) -> Result<Self, StoreError> {
        let way = match engine.store() {
            Store::Postgres(pool) => {
                let mut connection = pool.dedicated((Instant::now() + PATIENCE).into()).await?;
                let settings = Template::fixed(SETTINGS, &[SqlType::TEXT; 8]);
                let settings = Statement { template: settings.into(), binds: Vec::new() };
                connection.fetch(&settings, &mut NoPages).await?;
                Way::Postgres(Box::new(connection))
            }
            Store::Sqlite(_) => Way::Sqlite(engine.clone()),
        };
        Ok(Self { way, hooks })
    }

    /// Runs one statement that changes nothing.
    pub(super) async fn read(&mut self, name: &'static str, statement: Statement) -> Result<Rows, StoreError> {
        let mut rows = self.run(name, vec![statement], PATIENCE, false).await?;
        Ok(rows.pop().unwrap_or_default())
    }

    /// Runs statements in one transaction; the rows of each.
    pub(super) async fn write(
        &mut self,
        name: &'static str,
        statements: Vec<Statement>,
    ) -> Result<Vec<Rows>, StoreError> {
        self.run(name, statements, PATIENCE, true).await
    }

    /// [`Self::write`], with time for a lot of rows.
    pub(super) async fn take(&mut self, statements: Vec<Statement>) -> Result<Vec<Rows>, StoreError> {
        self.run("take", statements, TAKE, true).await
    }

    async fn run(
        &mut self,
        name: &'static str,
        statements: Vec<Statement>,
        patience: Duration,
        writes: bool,
    ) -> Result<Vec<Rows>, StoreError> {
        let deadline = Instant::now() + patience;
        let hooks = self.hooks.clone();
        let point = move |moment: &'static str| hooks.at(name, moment);
        point("before");
        let rows = match &mut self.way {
            Way::Postgres(connection) => {
                connection.until(deadline.into());
                transaction(connection.as_mut(), &statements, &point).await
            }
            Way::Sqlite(engine) => {
                let Store::Sqlite(database) = engine.store() else {
                    return Err(StoreError::new(Class::Other, "an engine changed its database"));
                };
                let inside = point.clone();
                let waits = || StoreError::new(Class::Other, "an SQLite operation tried to wait");
                let work = move |session: &mut crate::store::sqlite::SqliteSession<'_>| {
                    // The job is a transaction already.
                    let done = each(session, &statements, &inside).now_or_never();
                    done.unwrap_or_else(|| Err(waits()))
                };
                if writes { database.write(deadline, work).await } else { database.read(deadline, work).await }
            }
        };
        point("after");
        rows
    }
}

/// One statement is a transaction by itself.
async fn transaction<S: Session>(
    session: &mut S,
    statements: &[Statement],
    point: &(impl Fn(&'static str) + Sync),
) -> Result<Vec<Rows>, StoreError> {
    if statements.len() == 1 {
        return each(session, statements, point).await;
    }
    session.control(Control::Begin).await?;
    // After an error the connection is closed, which rolls back.
    let rows = each(session, statements, point).await?;
    point("inside");
    session.control(Control::Commit).await?;
    Ok(rows)
}

async fn each<S: Session>(
    session: &mut S,
    statements: &[Statement],
    point: &(impl Fn(&'static str) + Sync),
) -> Result<Vec<Rows>, StoreError> {
    let mut rows = Vec::with_capacity(statements.len());
    for statement in statements {
        if !rows.is_empty() {
            point("inside");
        }
        rows.push(session.fetch(statement, &mut NoPages).await?);
    }
    Ok(rows)
}
