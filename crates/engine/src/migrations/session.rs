//! A runner's connection: to either database, with the same SQL for the records.

use std::path::PathBuf;
use std::time::Duration;

use rusqlite::types::ValueRef;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection, PgPool, Row as _};
use uuid::Uuid;

use super::MigrationError;
use crate::engine::Database;
use crate::sql::Dialect;
use crate::store::sqlite;

/// Where a database is.
#[derive(Debug)]
pub struct Place(Where);

#[derive(Debug)]
enum Where {
    Postgres(Box<PgConnectOptions>),
    Sqlite(PathBuf),
}

/// A database that migrations are applied to: a [`PgPool`], or a [`Database`] by its name. A runner has connections of its
/// own, with the options of the pool's: it takes none out of the pool.
pub trait Target: Sync {
    /// Where it is.
    ///
    /// # Errors
    /// When it is no place that stays.
    #[doc(hidden)]
    fn place(&self) -> Result<Place, MigrationError>;
}

impl Target for PgPool {
    fn place(&self) -> Result<Place, MigrationError> {
        Ok(Place(Where::Postgres(Box::new(self.connect_options().as_ref().clone()))))
    }
}

impl Target for Database {
    fn place(&self) -> Result<Place, MigrationError> {
        match self {
            Self::SqliteFile(path) => Ok(Place(Where::Sqlite(path.clone()))),
            Self::SqliteMemory => Err(MigrationError::InMemory),
            Self::Postgres(url) => match crate::store::url::postgres(url) {
                Ok(options) => Ok(Place(Where::Postgres(Box::new(options)))),
                Err(error) => Err(MigrationError::Database {
                    doing: "read the database's URL".to_owned(),
                    message: error.to_string(),
                }),
            },
        }
    }
}

impl Place {
    pub(super) fn dialect(&self) -> Dialect {
        match self.0 {
            Where::Postgres(_) => Dialect::Postgres,
            Where::Sqlite(_) => Dialect::Sqlite,
        }
    }

    /// Whether there is nothing yet, and looking would make it.
    pub(super) fn is_absent(&self) -> bool {
        matches!(&self.0, Where::Sqlite(path) if !path.exists())
    }
}

/// What a database says of a failure. No values of rows are in it.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    /// SQLSTATE, or SQLite's extended code.
    pub(super) code: String,
    pub(super) message: String,
}

impl Refusal {
    pub(super) fn while_doing(self, doing: &str) -> MigrationError {
        MigrationError::Database { doing: doing.to_owned(), message: self.message }
    }

    /// Whether nobody knows what became of it.
    pub(super) fn is_loss(&self) -> bool {
        matches!(self.code.as_str(), "08000" | "57P01" | "57P02" | "08006")
    }

    /// Whether the same may go well at another time: a lock was not to be had, or others were in the way.
    pub(super) fn passes(&self) -> bool {
        // SQLITE_BUSY and SQLITE_LOCKED are the lowest octet of their extended codes.
        let sqlite = self.code.parse::<i32>().is_ok_and(|code| self.code.len() < 5 && matches!(code & 0xff, 5 | 6));
        sqlite || matches!(self.code.as_str(), "55P03" | "40P01" | "40001")
    }
}

impl From<sqlx::Error> for Refusal {
    fn from(error: sqlx::Error) -> Self {
        let sqlx::Error::Database(inner) = &error else {
            return Self { code: "08000".to_owned(), message: error.to_string() };
        };
        let code = inner.code().unwrap_or_default().into_owned();
        let message = inner.message();
        // Messages about values have the value: in quotes, or at their end.
        let shown = match code.get(..2) {
            Some("22" | "54") => {
                let parts = message.split(": ").next().unwrap_or(message).split('"').enumerate();
                parts.map(|(at, part)| if at % 2 == 0 { part } else { "\"..\"" }).collect()
            }
            _ => message.to_owned(),
        };
        Self { message: shown, code }
    }
}

impl From<rusqlite::Error> for Refusal {
    fn from(error: rusqlite::Error) -> Self {
        let (code, text) = match &error {
            rusqlite::Error::SqliteFailure(code, text) => (code.extended_code, text.clone()),
            rusqlite::Error::SqlInputError { error, msg, .. } => (error.extended_code, Some(msg.clone())),
            _ => (1, None),
        };
        Self { code: code.to_string(), message: text.unwrap_or_else(|| error.to_string()) }
    }
}

/// A row of texts.
pub(super) type Texts = Vec<Option<String>>;

/// The connections of one runner.
#[derive(Debug)]
pub(super) enum Session {
    Postgres(Box<Postgres>),
    Sqlite {
        /// `None` while another thread has it, and for good when the runner was dropped meanwhile.
        connection: Option<Box<rusqlite::Connection>>,
        path: PathBuf,
    },
}

/// One that changes the database, and one that watches it and holds the lease.
#[derive(Debug)]
pub(super) struct Postgres {
    pub(super) ddl: PgConnection,
    pub(super) watch: PgConnection,
    /// How both are made.
    pub(super) options: PgConnectOptions,
    /// Of `ddl`.
    pub(super) pid: i32,
    /// Where the records are, and what has no other place.
    pub(super) schema: String,
    /// What its sessions are called.
    pub(super) application: String,
    /// Whether `deadlock_timeout` could be made short.
    pub(super) short_deadlocks: bool,
}

async fn file(path: &std::path::Path, write: bool) -> Result<Box<rusqlite::Connection>, MigrationError> {
    let path = path.to_owned();
    let open = move || if write { sqlite::writer(&path) } else { sqlite::reader(&path) };
    let failed = |message: String| MigrationError::Database { doing: "open the database".to_owned(), message };
    let opened = tokio::task::spawn_blocking(open).await;
    let opened = opened.map_err(|_| failed("the runner was interrupted".to_owned()))?;
    opened.map(Box::new).map_err(|error| failed(error.to_string()))
}

/// How long the first answers may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

impl Session {
    /// To change the database.
    pub(super) async fn open(place: &Place) -> Result<Self, MigrationError> {
        match Self::connect(place, true).await? {
            Self::Postgres(postgres) => Ok(Self::Postgres(Box::new(postgres.checked().await?))),
            session @ Self::Sqlite { .. } => Ok(session),
        }
    }

    /// To look at the records, and no more: through a pooler too, and of a file that may not be written.
    pub(super) async fn open_to_read(place: &Place) -> Result<Self, MigrationError> {
        Self::connect(place, false).await
    }

    async fn connect(place: &Place, write: bool) -> Result<Self, MigrationError> {
        match &place.0 {
            Where::Postgres(options) => {
                let doing = |message: String| MigrationError::Database { doing: "connect".to_owned(), message };
                let application = format!("cratestack migrate {}", Uuid::now_v7().simple());
                let options = options.as_ref().clone().application_name(&application).disable_statement_logging();
                let connect = async {
                    let ddl = PgConnection::connect_with(&options).await?;
                    Ok::<_, sqlx::Error>((ddl, PgConnection::connect_with(&options).await?))
                };
                let connected = tokio::time::timeout(PATIENCE, connect).await;
                let connected = connected.map_err(|_| doing("the server does not answer in time".to_owned()))?;
                let (ddl, watch) = connected.map_err(|error| doing(Refusal::from(error).message))?;
                let schema = String::new();
                let postgres = Postgres { ddl, watch, options, pid: 0, schema, application, short_deadlocks: false };
                Ok(Self::Postgres(Box::new(postgres)))
            }
            Where::Sqlite(path) => Ok(Self::Sqlite { connection: Some(file(path, write).await?), path: path.clone() }),
        }
    }

    /// As it was when it was opened: what a step has set is gone, and so are its temporary tables.
    pub(super) async fn settle(&mut self) -> Result<(), MigrationError> {
        match self {
            Self::Postgres(postgres) => {
                postgres.settle().await.map_err(|refusal| refusal.while_doing("prepare the session"))
            }
            Self::Sqlite { connection, path } => {
                *connection = None;
                *connection = Some(file(path, true).await?);
                Ok(())
            }
        }
    }

    pub(super) fn dialect(&self) -> Dialect {
        match self {
            Self::Postgres(_) => Dialect::Postgres,
            Self::Sqlite { .. } => Dialect::Sqlite,
        }
    }

    /// Lends SQLite's connection to a thread that may wait.
    pub(super) async fn blocking<T: Send + 'static>(
        connection: &mut Option<Box<rusqlite::Connection>>,
        work: impl FnOnce(&mut rusqlite::Connection) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let gone = || Refusal { code: "1".to_owned(), message: "the connection was lost".to_owned() };
        let mut lent = connection.take().ok_or_else(gone)?;
        let done = tokio::task::spawn_blocking(move || {
            let done = work(&mut lent);
            (done, lent)
        });
        let (done, back) = done.await.map_err(|_| gone())?;
        *connection = Some(back);
        done
    }

    /// Runs a statement of this crate's on the connection that changes the database. Parameters are `$1`, `$2`, first named
    /// in this order; each is text or NULL, and so is each column.
    pub(super) async fn query(&mut self, sql: &str, binds: &[Option<&str>]) -> Result<Vec<Texts>, Refusal> {
        match self {
            Self::Postgres(postgres) => texts(&mut postgres.ddl, sql, binds).await,
            Self::Sqlite { connection, .. } => {
                let binds: Vec<Option<String>> = binds.iter().map(|bind| bind.map(str::to_owned)).collect();
                let sql = sql.to_owned();
                Self::blocking(connection, move |connection| {
                    let mut statement = connection.prepare(&sql)?;
                    let columns = statement.column_count();
                    let text = |value: ValueRef<'_>| match value {
                        ValueRef::Null => None,
                        ValueRef::Integer(number) => Some(number.to_string()),
                        other => other.as_str().ok().map(str::to_owned),
                    };
                    let rows = statement.query_map(rusqlite::params_from_iter(binds), |row| {
                        (0..columns).map(|at| Ok(text(row.get_ref(at)?))).collect::<rusqlite::Result<Texts>>()
                    })?;
                    Ok(rows.collect::<Result<_, _>>()?)
                })
                .await
            }
        }
    }

    /// Runs text of any number of statements that give nothing.
    pub(super) async fn batch(&mut self, sql: &str) -> Result<(), Refusal> {
        match self {
            Self::Postgres(postgres) => raw(&mut postgres.ddl, sql).await,
            Self::Sqlite { connection, .. } => {
                let sql = sql.to_owned();
                Self::blocking(connection, move |connection| Ok(connection.execute_batch(&sql)?)).await
            }
        }
    }

    /// Says goodbye.
    pub(super) async fn close(self) {
        if let Self::Postgres(postgres) = self {
            let Postgres { ddl, watch, .. } = *postgres;
            let _gone_either_way = ddl.close().await;
            let _gone_either_way = watch.close().await;
        }
    }
}

/// The rows of a statement whose columns are all text.
pub(super) async fn texts(
    connection: &mut PgConnection,
    sql: &str,
    binds: &[Option<&str>],
) -> Result<Vec<Texts>, Refusal> {
    let query = sqlx::query(AssertSqlSafe(sql)).persistent(false);
    let query = binds.iter().fold(query, |query, bind| query.bind(*bind));
    let rows = query.fetch_all(connection).await?;
    let row = |row: &sqlx::postgres::PgRow| (0..row.len()).map(|at| row.try_get(at)).collect::<Result<Texts, _>>();
    Ok(rows.iter().map(row).collect::<Result<_, _>>()?)
}

/// Statements without parameters, each seen by the server as it is.
pub(super) async fn raw(connection: &mut PgConnection, sql: &str) -> Result<(), Refusal> {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await?;
    Ok(())
}
