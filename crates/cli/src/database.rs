//! From a database's URL to an engine that serves a schema on it.

use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cratestack_engine::migrate::{self, Db, State};
use cratestack_engine::store::postgres::PoolOptions;
use cratestack_engine::{Database, Engine, Limits, Options};
use cratestack_schema::decimal::Backend;
use cratestack_schema::ir::Schema;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _};

use crate::settings::Settings;
use crate::ui::{self, Failure, Ui};

/// Reads a `--database` value.
pub(crate) fn parse(url: &str, from: &str) -> Result<Database, Failure> {
    cratestack::database::parse(url).map_err(|bad| Failure::new(format!("{from} {}", bad.reason)).help(bad.help))
}

/// What to connect with to a PostgreSQL URL.
pub(crate) fn postgres(url: &str) -> Result<PgConnectOptions, Failure> {
    cratestack_engine::store::url::postgres(url).map_err(|error| Failure::new(error.to_string()).help(error.help()))
}

/// The database's name for people, without a password.
pub(crate) fn name(database: &Database) -> String {
    match database {
        Database::SqliteMemory => "SQLite in memory".to_owned(),
        Database::SqliteFile(path) => format!("SQLite `{}`", path.display()),
        Database::Postgres(url) => {
            let place = url.split_once("://").map_or("", |(_, rest)| rest);
            let place = place.split(['?', '#']).next().unwrap_or("");
            format!("PostgreSQL `{}`", place.rsplit_once('@').map_or(place, |(_, place)| place))
        }
    }
}

/// The keys of `cursor-keys`; none means the database's own.
fn cursor_keys(settings: &Settings) -> Result<Vec<[u8; 32]>, Failure> {
    let Some(text) = settings.text("cursor-keys") else { return Ok(Vec::new()) };
    let key = |word: &str| STANDARD.decode(word.trim()).ok().and_then(|key| key.try_into().ok());
    text.split(',').map(key).collect::<Option<_>>().ok_or_else(|| {
        Failure::new(format!("{} is not a list of base64 keys of 32 octets", settings.from("cursor-keys")))
            .help("make one with `head -c 32 /dev/urandom | base64`")
    })
}

/// Engine options from the settings.
pub(crate) fn options(settings: &Settings) -> Result<Options, Failure> {
    let standard = Limits::default();
    let limits = Limits {
        list_default: settings.number("list-default").unwrap_or(standard.list_default),
        list_max: settings.number("list-max").unwrap_or(standard.list_max),
        include_limit: settings.number("include-limit").unwrap_or(standard.include_limit),
        include_rows: settings.number("include-rows").unwrap_or(standard.include_rows),
        include_depth: settings.number("include-depth").unwrap_or(standard.include_depth),
        relation_depth: settings.number("relation-depth").unwrap_or(standard.relation_depth),
        sort_fields: settings.number("sort-fields").unwrap_or(standard.sort_fields),
        batch: settings.number("batch-max").unwrap_or(standard.batch),
        expression_depth: settings.number("expression-depth").unwrap_or(standard.expression_depth),
        expression_nodes: settings.number("expression-nodes").unwrap_or(standard.expression_nodes),
        cursor_ttl: settings.time("cursor-ttl").unwrap_or(standard.cursor_ttl),
        denials_per_minute: settings.number("denials-per-minute").unwrap_or(standard.denials_per_minute),
        transaction_tries: settings.number("transaction-tries").unwrap_or(standard.transaction_tries),
        trail_window: standard.trail_window,
    };
    let standard = Options::default();
    let decimals = settings.text("decimal").and_then(Backend::named).filter(|backend| *backend != Backend::BigDecimal);
    let connections = settings.number("connections").unwrap_or(standard.pool.connections);
    let statement_timeout = settings.time("request-timeout").unwrap_or(standard.pool.statement_timeout);
    Ok(Options {
        limits,
        cursor_keys: cursor_keys(settings)?,
        decimals,
        service: settings.text("service").map_or(standard.service.clone(), str::to_owned),
        pool: PoolOptions { connections, statement_timeout, ..standard.pool },
        ..standard
    })
}

/// A connection of our own, for the start of a process.
pub(crate) enum Connection {
    Sqlite(rusqlite::Connection),
    Postgres(Box<sqlx::PgConnection>),
}

impl Connection {
    /// Connects; a missing SQLite file is made.
    pub(crate) async fn open(database: &Database) -> Result<Self, Failure> {
        match database {
            Database::SqliteMemory => Err(Failure::new("a database in memory has one user")),
            Database::SqliteFile(path) => sqlite(path).map(Self::Sqlite),
            Database::Postgres(url) => {
                let options = postgres(url)?.disable_statement_logging();
                let connected = tokio::time::timeout(PATIENCE, options.connect()).await;
                let failed = |(cause, help): (String, &str)| {
                    Failure::new(format!("cannot connect to {}: {cause}", name(database))).help(help)
                };
                let late =
                    |_| failed(("no answer".to_owned(), "are the host and the port right, and the way there open?"));
                let connection = connected.map_err(late)?.map_err(|error| failed(refusal(&error)))?;
                Ok(Self::Postgres(Box::new(connection)))
            }
        }
    }

    /// Lends it to the migration functions.
    pub(crate) fn db(&mut self) -> Db<'_> {
        match self {
            Self::Sqlite(connection) => Db::Sqlite(connection),
            Self::Postgres(connection) => Db::Postgres(connection),
        }
    }

    /// Says goodbye to the server.
    pub(crate) async fn close(self) {
        if let Self::Postgres(connection) = self {
            let _gone_either_way = connection.close().await;
        }
    }
}

/// Why PostgreSQL cannot be reached, and what to do about it.
fn refusal(error: &sqlx::Error) -> (String, &'static str) {
    match error {
        sqlx::Error::Database(inner) => {
            let help = match inner.code().as_deref() {
                Some("3D000") => "`createdb NAME` makes the database",
                Some("28P01" | "28000") => "check the user and the password of the URL",
                Some("53300") => "wait, or raise the server's `max_connections`",
                _ => "mend this on the server, or name another one",
            };
            // The message alone; the rest says where in PostgreSQL's source it was raised.
            (inner.message().to_owned(), help)
        }
        sqlx::Error::Io(inner) if inner.to_string().contains("invalid peer certificate") => (
            inner.to_string(),
            "name the authority of the server's certificate with `sslrootcert`, and the host as the certificate does",
        ),
        sqlx::Error::Io(inner) => (ui::cause(inner), "is the server running, and are the host and the port right?"),
        sqlx::Error::Tls(inner) if inner.to_string().contains("does not support TLS") => (
            inner.to_string(),
            "set `ssl = on` and a certificate on the server; `sslmode=disable` goes without where that is allowed",
        ),
        sqlx::Error::Tls(inner) => (inner.to_string(), "check the files of `sslcert` and `sslkey`"),
        other => (other.to_string(), "is this a PostgreSQL server?"),
    }
}

/// How long the first connection may take.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

fn sqlite(path: &Path) -> Result<rusqlite::Connection, Failure> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder)
            .map_err(|error| unusable(path, &ui::cause(&error), "name a file in a folder that you may write to"))?;
    }
    let opened = rusqlite::Connection::open(path).and_then(|connection| {
        connection.busy_timeout(PATIENCE)?;
        // SQLite looks at the file when it is first read, and finds out whether it may write when it does.
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
        connection.execute_batch("BEGIN IMMEDIATE; ROLLBACK")?;
        Ok(connection)
    });
    opened.map_err(|error| sqlite_failure(path, &error))
}

fn unusable(path: &Path, cause: &str, help: &str) -> Failure {
    Failure::new(format!("cannot open the SQLite file `{}`: {cause}", path.display())).help(help)
}

/// Why a file cannot be opened, and what to do about it.
fn sqlite_failure(path: &Path, error: &rusqlite::Error) -> Failure {
    let failed = |cause: &str, help: &str| unusable(path, cause, help);
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::NotADatabase) => failed("it is no SQLite database", "name another file"),
        Some(rusqlite::ErrorCode::ReadOnly) => {
            failed("it is read-only", "check the permissions of the file and its folder")
        }
        _ if path.is_dir() => failed("it is a folder", "name a file in it"),
        Some(rusqlite::ErrorCode::CannotOpen | rusqlite::ErrorCode::PermissionDenied) => {
            failed("permission denied", "name a file in a folder that you may write to")
        }
        Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked) => {
            failed("another program has locked it", "end that program, then try again")
        }
        _ => failed(&error.to_string(), "is the file whole, and the disk not full?"),
    }
}

/// A file that is there.
fn to_read(path: &Path) -> Result<rusqlite::Connection, Failure> {
    let opened = rusqlite::Connection::open_with_flags(path, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY);
    let opened = opened.and_then(|connection| {
        connection.busy_timeout(PATIENCE)?;
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
        Ok(connection)
    });
    opened.map_err(|error| sqlite_failure(path, &error))
}

/// What a database carries that is there already: nothing is made, and nothing is changed.
pub(crate) async fn existing(database: &Database) -> Result<State, Failure> {
    let mut connection = match database {
        Database::SqliteMemory => {
            return Err(Failure::new("a database in memory is empty in every process")
                .help("name the database that the service writes, with `--database`"));
        }
        Database::SqliteFile(path) if !path.exists() => {
            return Err(Failure::new(format!("there is no SQLite file `{}`", path.display()))
                .help("name the database that the service writes; that of `dev` is `sqlite:.cratestack/NAME.db`"));
        }
        Database::SqliteFile(path) => Connection::Sqlite(to_read(path)?),
        Database::Postgres(_) => Connection::open(database).await?,
    };
    let state = state(&mut connection).await?;
    connection.close().await;
    Ok(state)
}

/// Whether a server answers or a file is one, for what connects by itself: here it is said best what is wrong.
pub(crate) async fn reached(database: &Database) -> Result<(), Failure> {
    match database {
        Database::SqliteFile(path) if path.exists() => to_read(path).map(|_| ()),
        Database::SqliteFile(_) | Database::SqliteMemory => Ok(()),
        Database::Postgres(_) => {
            Connection::open(database).await?.close().await;
            Ok(())
        }
    }
}

/// A migration error with its next step.
pub(crate) fn failure(error: &migrate::Error) -> Failure {
    Failure::new(error.to_string()).help(error.help())
}

/// Creates the schema in an empty database, showing progress when it takes long.
pub(crate) async fn create(ui: Ui, connection: &mut Connection, schema: &Schema) -> Result<migrate::Outcome, Failure> {
    let key = migrate::new_cursor_key().map_err(|error| failure(&error))?;
    let mut bar = ui.progress("creating tables");
    let done =
        migrate::apply_create(&mut connection.db(), schema, key, &mut |at| bar.show(at.done, at.total, at.step)).await;
    bar.clear();
    done.map_err(|error| failure(&error))
}

/// What the database carries.
pub(crate) async fn state(connection: &mut Connection) -> Result<State, Failure> {
    migrate::inspect(&mut connection.db()).await.map_err(|error| failure(&error))
}

/// An engine on a database that carries `schema` already (or on one in memory).
pub(crate) async fn engine(schema: Schema, database: &Database, options: Options) -> Result<Engine, Failure> {
    Engine::open(Arc::new(schema), database, options).await.map_err(|error| {
        let help = error.help().to_owned();
        Failure::new(error.to_string()).help(help)
    })
}
