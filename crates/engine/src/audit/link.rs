//! The operator's way to the trail: a connection of its own on PostgreSQL, jobs on the readers of SQLite. It only reads.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;

use super::read::Error;
use crate::engine::{Engine, Store};
use crate::fault::{Class, StoreError};
use crate::sql::{Bind, Dialect, SqlType, Statement, Template};
use crate::store::postgres::{Dedicated, Postgres};
use crate::store::sqlite::SqliteSession;
use crate::store::{NoPages, Rows, Session as _};

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(30);
/// How long one statement may take: without an index for a filter it reads the whole trail.
const PATIENCE: Duration = Duration::from_hours(1);

/// Settings of the session: a transaction changes nothing and sees one snapshot, and floats have the digits that the
/// triggers write. Whatever is looked for has an index; the planner, which does not know yet how long a trail is, shall not
/// read all of it for a page.
const SETTINGS: &str = "SELECT set_config('default_transaction_isolation', 'repeatable read', false), \
     set_config('default_transaction_read_only', 'on', false), set_config('statement_timeout', '0', false), \
     set_config('idle_in_transaction_session_timeout', '0', false), set_config('extra_float_digits', '1', false), \
     set_config('jit', 'off', false), set_config('enable_seqscan', 'off', false)";

/// For work whose every statement finds its rows in the order of an index: neither shall it sort.
const ORDERED: &str = "SELECT set_config('enable_sort', 'off', false), set_config('enable_hashagg', 'off', false)";

/// A way to the database. After an error it must not be used again.
#[derive(Debug)]
pub(super) enum Link {
    Postgres(Box<Dedicated>),
    Sqlite(Engine),
}

impl Link {
    /// The way to a database that has a trail.
    pub(super) async fn open(engine: &Engine) -> Result<Self, Error> {
        let mut link = match engine.store() {
            Store::Postgres(pool) => Self::Postgres(Box::new(connection(pool).await?)),
            Store::Sqlite(_) => Self::Sqlite(engine.clone()),
        };
        let there = match link.dialect() {
            Dialect::Postgres => "SELECT to_regclass(?1) IS NOT NULL",
            Dialect::Sqlite => "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1)",
        };
        let binds = vec![Bind::Text(super::TABLE.to_owned())];
        let there = statement(link.dialect(), there, &[SqlType::BOOL], binds);
        if yes(&link.fetch(there).await?) { Ok(link) } else { Err(Error::NoTrail) }
    }

    pub(super) fn dialect(&self) -> Dialect {
        match self {
            Self::Postgres(_) => Dialect::Postgres,
            Self::Sqlite(_) => Dialect::Sqlite,
        }
    }

    pub(super) async fn fetch(&mut self, statement: Statement) -> Result<Rows, StoreError> {
        let deadline = Instant::now() + PATIENCE;
        match self {
            Self::Postgres(connection) => {
                connection.until(deadline.into());
                connection.fetch(&statement, &mut NoPages).await
            }
            Self::Sqlite(engine) => {
                let Store::Sqlite(database) = engine.store() else {
                    return Err(StoreError::new(Class::Other, "an engine changed its database"));
                };
                let work = move |session: &mut SqliteSession<'_>| at_once(session.fetch(&statement, &mut NoPages));
                database.read(deadline, work).await
            }
        }
    }
}

/// A connection that only reads.
async fn connection(pool: &Postgres) -> Result<Dedicated, StoreError> {
    let mut connection = pool.dedicated((Instant::now() + CONNECT).into()).await?;
    let settings = statement(Dialect::Postgres, SETTINGS, &[SqlType::TEXT; 7], Vec::new());
    connection.fetch(&settings, &mut NoPages).await?;
    Ok(connection)
}

/// A connection that only reads, from one end of an index to the other.
pub(super) async fn ordered(pool: &Postgres) -> Result<Dedicated, StoreError> {
    let mut connection = connection(pool).await?;
    let settings = statement(Dialect::Postgres, ORDERED, &[SqlType::TEXT; 2], Vec::new());
    connection.fetch(&settings, &mut NoPages).await?;
    Ok(connection)
}

/// The answer of a future on SQLite's own thread, where nothing waits.
pub(super) fn at_once<T>(future: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    let waits = || Err(StoreError::new(Class::Other, "an SQLite operation tried to wait"));
    future.now_or_never().unwrap_or_else(waits)
}

/// A statement written with SQLite's numbered placeholders. None of the texts has a `?` otherwise.
pub(super) fn statement(dialect: Dialect, sql: &str, control: &[SqlType], binds: Vec<Bind>) -> Statement {
    let template = match dialect {
        Dialect::Postgres => Template::fixed(&sql.replace('?', "$"), control),
        Dialect::Sqlite => Template::fixed(sql, control),
    };
    Statement { template: Arc::new(template), binds }
}

/// Whether the first cell says yes.
pub(super) fn yes(rows: &Rows) -> bool {
    use cratestack_schema::value::Value;
    rows.control(0).first() == Some(&Value::Bool(true))
}
