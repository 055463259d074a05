//! Brings a database to a schema, and reads which schema it carries.
//!
//! [`META_TABLE`] holds what was applied: the IR as JSON, its fingerprint, the version of the DDL generator and the key
//! that seals cursors. Everything that changes a database here is one transaction under one lock (an advisory lock on
//! PostgreSQL, the write lock on SQLite), so that of several servers that start together one does the work and the
//! others find it done.
//!
//! On [`Db::Sqlite`] these functions block the thread that polls them: they belong to the start of a process.

use std::sync::Arc;

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use cratestack_schema::ir::{FieldId, FieldType, Index, Model, RelationKind, Schema};
use cratestack_schema::{database_name, hex};
use rusqlite::config::DbConfig;
use sqlx::{AssertSqlSafe, Row as _};

use crate::ddl::{self, META_TABLE};
use crate::ddl_diff::{self, Diff, Probe};
use crate::fault::{Class, StoreError, enforced_name, validator_word};
use crate::logs;
use crate::sql::{Dialect, SqlType, Template, ident};
use crate::storage::literal;

/// The version of the statements that [`ddl::create`] gives. A database of another version is refused, because
/// [`ddl_diff::diff`] would start from tables that are not there.
const DDL_VERSION: &str = "2";

/// What the name of a table begins with while its rows are copied.
const INTERIM: &str = "cratestack_new_";

/// Identifies the advisory lock; its bytes spell `cratestk`.
pub(crate) const LOCK: i64 = 0x6372_6174_6573_746b;

/// Seconds that PostgreSQL waits for another server at the same work, or for a session that holds a table. On SQLite
/// the connection's `busy_timeout` says how long.
const PATIENCE: u32 = 60;

/// A connection to bring up to date. Outside any transaction.
#[derive(Debug)]
pub enum Db<'a> {
    /// An SQLite connection with `busy_timeout` set.
    Sqlite(&'a mut rusqlite::Connection),
    /// A PostgreSQL connection.
    Postgres(&'a mut sqlx::PgConnection),
}

/// What a database carries.
#[derive(Debug, Clone, PartialEq)]
pub enum State {
    /// No tables.
    Empty,
    /// A schema.
    Applied(Box<Applied>),
    /// Tables that were not made here, and nothing of ours: their names, sorted.
    Foreign(Vec<String>),
}

/// The schema that a database carries.
#[derive(Debug, Clone, PartialEq)]
pub struct Applied {
    /// The IR.
    pub schema: Schema,
    /// Its [`Schema::fingerprint`] when it was applied.
    pub fingerprint: String,
}

/// What [`apply_create`] found to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The database carries the schema now.
    Done,
    /// Somebody had done it already.
    Already,
}

/// How far a long piece of work has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress<'a> {
    /// Steps done.
    pub done: usize,
    /// Steps in all.
    pub total: usize,
    /// The step that begins now.
    pub step: &'a str,
}

/// Called before each step.
pub type Report<'a> = &'a mut (dyn FnMut(Progress<'_>) + Send);

/// What a change of schema would do to a database, as far as its rows tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Fingerprint of the schema that the database carries now.
    pub from: String,
    /// What will be done, one line per step.
    pub steps: Vec<String>,
    /// What would be lost: sentences about rows that are there. Empty for an empty database.
    pub loses: Vec<String>,
    /// Why it cannot be done: sentences that say what to do instead.
    pub refuse: Vec<String>,
}

/// Why a database could not be brought up to date. Nothing was changed then. No message contains values of rows.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Tables of somebody else are there.
    #[error("the database has tables that CrateStack did not make: {}", listed(.0))]
    Foreign(Vec<String>),
    /// Nothing was applied yet.
    #[error("the database carries no schema yet")]
    Empty,
    /// Another schema was applied.
    #[error("the database carries another version of the schema (fingerprint `{}`)", short(.found))]
    Different {
        /// The fingerprint that is there.
        found: String,
    },
    /// The record of what was applied cannot be used.
    #[error("the table `{META_TABLE}` does not say what the database carries: {0}")]
    Damaged(String),
    /// The existing rows do not allow it.
    #[error("{}", .0.join("; "))]
    Refused(Vec<String>),
    /// It would lose rows or values, and nobody agreed.
    #[error("{}", .0.join("; "))]
    Loses(Vec<String>),
    /// Rows break something that the new schema asks for: a sentence in the schema's own words.
    #[error("{0}")]
    Rows(String),
    /// Rows break something that has no name in the schema.
    #[error("cannot {step}: existing rows break {rule}")]
    Violated {
        /// The step.
        step: String,
        /// The constraint, or what the database calls it.
        rule: String,
    },
    /// The database failed.
    #[error("cannot {doing}: {message}")]
    Database {
        /// What was under way.
        doing: String,
        /// What the database says.
        message: String,
    },
}

impl Error {
    /// What to do about it.
    pub fn help(&self) -> &'static str {
        match self {
            Self::Foreign(_) => "name an empty database, or an empty PostgreSQL schema by its search path",
            Self::Empty => "apply the schema first: `--apply`, or `cratestack dev`",
            Self::Different { .. } => {
                "bring it there with a migration (`cratestack migrate new NAME FILE`), or on your own machine with \
                 `cratestack dev`; or name another database"
            }
            Self::Damaged(_) => {
                "was it made by another version of CrateStack? name another database, or restore a backup"
            }
            Self::Refused(_) => "mend the rows or the schema, then try again; nothing was changed",
            Self::Loses(_) => "agree to the loss, or keep what would be dropped; nothing was changed",
            Self::Rows(_) | Self::Violated { .. } => {
                "mend these rows, or keep the rule out of the schema; nothing was changed"
            }
            Self::Database { .. } => "nothing was changed; try again when the cause is gone",
        }
    }
}

fn listed(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let mut text: Vec<String> = names.iter().take(SHOWN).map(|name| format!("`{name}`")).collect();
    if names.len() > SHOWN {
        text.push(format!("and {} more", names.len() - SHOWN));
    }
    text.join(", ")
}

fn short(fingerprint: &str) -> &str {
    fingerprint.get(..12).unwrap_or(fingerprint)
}

fn json(schema: &Schema) -> Result<String, Error> {
    serde_json::to_string(&schema.portable()).map_err(|error| Error::Damaged(error.to_string()))
}

/// A fresh key for cursors, from the operating system.
pub fn new_cursor_key() -> Result<[u8; 32], Error> {
    let mut key = [0; 32];
    let filled = SystemRandom::new().fill(&mut key);
    filled.map(|()| key).map_err(|_| Error::Database {
        doing: "make a key".to_owned(),
        message: "the operating system gives no random numbers".to_owned(),
    })
}

/// What the database carries.
pub async fn inspect(db: &mut Db<'_>) -> Result<State, Error> {
    let tables = db.tables().await?;
    if tables.iter().any(|table| table == META_TABLE) {
        let version = db.meta("ddl").await?;
        if version.as_deref() != Some(DDL_VERSION) {
            return Err(Error::Damaged("it was written by another version of CrateStack".to_owned()));
        }
        let (Some(json), Some(fingerprint)) = (db.meta("schema").await?, db.meta("fingerprint").await?) else {
            return Err(Error::Damaged("rows are missing".to_owned()));
        };
        let schema = serde_json::from_str(&json).map_err(|error| Error::Damaged(error.to_string()))?;
        return Ok(State::Applied(Box::new(Applied { schema, fingerprint })));
    }
    Ok(if tables.is_empty() { State::Empty } else { State::Foreign(tables) })
}

/// A statement that gives a row if the database carries `schema`, for a server that runs on it.
pub(crate) fn carried(schema: &Schema) -> Arc<Template> {
    let (table, fingerprint) = (ident(META_TABLE), literal(&schema.fingerprint()));
    let sql = format!("SELECT name FROM {table} WHERE name = 'fingerprint' AND value = {fingerprint}");
    Arc::new(Template::fixed(&sql, &[SqlType::TEXT]))
}

/// The key that seals cursors, shared by everybody who serves the database.
pub async fn cursor_key(db: &mut Db<'_>) -> Result<[u8; 32], Error> {
    let text = db.meta("cursor_key").await?.unwrap_or_default();
    let octets = text
        .as_bytes()
        .chunks(2)
        .map(|pair| std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok()));
    let key: Option<Vec<u8>> = octets.collect();
    let key = key.and_then(|key| key.try_into().ok());
    key.ok_or_else(|| Error::Damaged("it has no key for cursors".to_owned()))
}

/// Makes everything that `schema` needs in an empty database. A database that carries this very schema stays as it is.
///
/// # Errors
/// [`Error::Foreign`] and [`Error::Different`] when something else is there.
pub async fn apply_create(
    db: &mut Db<'_>,
    schema: &Schema,
    cursor_key: [u8; 32],
    report: Report<'_>,
) -> Result<Outcome, Error> {
    let (json, fingerprint) = (json(schema)?, schema.fingerprint());
    db.begin().await?;
    let done = async {
        match inspect(db).await? {
            State::Foreign(tables) => Err(Error::Foreign(tables)),
            State::Applied(applied) if applied.fingerprint == fingerprint => Ok(Outcome::Already),
            State::Applied(applied) => Err(Error::Different { found: applied.fingerprint }),
            State::Empty => {
                db.check_defaults(schema).await?;
                let statements = ddl::create(schema, db.dialect());
                for (done, sql) in statements.iter().enumerate() {
                    let step = sql.split(['(', '\n']).next().unwrap_or(sql).trim();
                    report(Progress { done, total: statements.len(), step });
                    db.execute(sql).await.map_err(|error| error.while_doing(&format!("run `{step}`")))?;
                }
                let rows = [
                    ("ddl", DDL_VERSION),
                    ("schema", &json),
                    ("fingerprint", &fingerprint),
                    ("cursor_key", &hex(&cursor_key)),
                ];
                for (name, value) in rows {
                    db.set_meta(name, value).await?;
                }
                Ok(Outcome::Done)
            }
        }
    }
    .await;
    db.end(done).await
}

/// Notes that the database carries `schema` now, in the transaction that is under way: whoever calls it has brought it there.
///
/// # Errors
/// [`Error::Damaged`] when what it carried was written by another version of CrateStack.
pub(crate) async fn carry(db: &mut Db<'_>, schema: &Schema) -> Result<(), Error> {
    let (json, fingerprint) = (json(schema)?, schema.fingerprint());
    if !tables(db).await?.iter().any(|table| table == META_TABLE) {
        let made = db.execute(&ddl::create_meta(schema, db.dialect())).await;
        made.map_err(|fault| fault.while_doing("record which schema the database carries"))?;
    }
    match db.meta("ddl").await?.as_deref() {
        Some(DDL_VERSION) => {}
        Some(_) => return Err(Error::Damaged("it was written by another version of CrateStack".to_owned())),
        None => db.set_meta("ddl", DDL_VERSION).await?,
    }
    if db.meta("cursor_key").await?.is_none() {
        db.set_meta("cursor_key", &hex(&new_cursor_key()?)).await?;
    }
    db.set_meta("schema", &json).await?;
    db.set_meta("fingerprint", &fingerprint).await
}

/// The tables and views of the database, ours included, but for those of the records of migrations.
pub(crate) async fn tables(db: &mut Db<'_>) -> Result<Vec<String>, Error> {
    db.tables().await
}

/// What [`apply_create`] does, as the text of one transaction for an empty database: for whoever applies it by other means.
/// A server takes the database for its own afterwards. The key of cursors is made by the database that runs it.
///
/// # Errors
/// [`Error::Damaged`] when the schema cannot be written as JSON.
pub fn script(schema: &Schema, dialect: Dialect) -> Result<String, Error> {
    let (json, fingerprint) = (json(schema)?, schema.fingerprint());
    let key = match dialect {
        // Two UUIDs have 244 random bits, and need no extension.
        Dialect::Postgres => "encode(sha256((gen_random_uuid()::text || gen_random_uuid()::text)::bytea), 'hex')",
        Dialect::Sqlite => "lower(hex(randomblob(32)))",
    };
    let rows = [
        ("ddl", literal(DDL_VERSION)),
        ("schema", literal(&json)),
        ("fingerprint", literal(&fingerprint)),
        ("cursor_key", key.to_owned()),
    ];
    let table = ident(META_TABLE);
    let row = |(name, value)| format!("INSERT INTO {table} (name, value) VALUES ({}, {value})", literal(name));
    let statements = ddl::create(schema, dialect).into_iter().chain(rows.into_iter().map(row));
    let statements: Vec<String> = std::iter::once("BEGIN".to_owned()).chain(statements).collect();
    Ok(format!("{};\nCOMMIT;\n", statements.join(";\n")))
}

/// What [`apply_diff`] would do to bring the database to `schema`; changes nothing. No steps, losses and refusals when
/// only rules and other matters of the engine differ.
pub async fn plan(db: &mut Db<'_>, schema: &Schema) -> Result<Plan, Error> {
    let applied = applied(db).await?;
    let diff = ddl_diff::diff(&applied.schema, schema, db.dialect());
    let refuse = db.hold(&diff.refuse).await?;
    let loses: Vec<Probe> = diff.steps.iter().filter_map(|step| step.loses.clone()).collect();
    let loses = db.hold(&loses).await?;
    let steps = diff.steps.into_iter().map(|step| step.describe).collect();
    Ok(Plan { from: applied.fingerprint, steps, loses, refuse })
}

async fn applied(db: &mut Db<'_>) -> Result<Applied, Error> {
    match inspect(db).await? {
        State::Empty => Err(Error::Empty),
        State::Foreign(tables) => Err(Error::Foreign(tables)),
        State::Applied(applied) => Ok(*applied),
    }
}

/// Brings a database that carries a schema to another one, in one transaction.
///
/// `agreed` are the losses ([`Plan::loses`]) that somebody has agreed to; any other is [`Error::Loses`].
pub async fn apply_diff(
    db: &mut Db<'_>,
    schema: &Schema,
    agreed: &[String],
    report: Report<'_>,
) -> Result<Outcome, Error> {
    let (json, fingerprint) = (json(schema)?, schema.fingerprint());
    db.begin_rebuilds().await?;
    let done = change(db, schema, &json, &fingerprint, agreed, report).await;
    db.end_rebuilds(done).await
}

async fn change(
    db: &mut Db<'_>,
    schema: &Schema,
    json: &str,
    fingerprint: &str,
    agreed: &[String],
    report: Report<'_>,
) -> Result<Outcome, Error> {
    let applied = applied(db).await?;
    if applied.fingerprint == fingerprint {
        return Ok(Outcome::Already);
    }
    let Diff { steps, refuse } = ddl_diff::diff(&applied.schema, schema, db.dialect());
    let refused = db.hold(&refuse).await?;
    if !refused.is_empty() {
        return Err(Error::Refused(refused));
    }
    let probes: Vec<Probe> = steps.iter().filter_map(|step| step.loses.clone()).collect();
    let lost: Vec<String> = db.hold(&probes).await?.into_iter().filter(|loss| !agreed.contains(loss)).collect();
    if !lost.is_empty() {
        return Err(Error::Loses(lost));
    }
    db.check_defaults(schema).await?;
    for (done, step) in steps.iter().enumerate() {
        report(Progress { done, total: steps.len(), step: &step.describe });
        for sql in &step.sql {
            db.execute(sql).await.map_err(|error| error.while_changing(schema, &step.describe))?;
        }
    }
    db.check_references(schema).await?;
    db.set_meta("schema", json).await?;
    db.set_meta("fingerprint", fingerprint).await?;
    Ok(Outcome::Done)
}

/// Removes what CrateStack made, rows included, in one transaction; tables of others stay. Works on a database of
/// another version of CrateStack too, as long as its record can be read.
///
/// # Errors
/// [`Error::Foreign`] when there are tables, and none is ours.
pub async fn reset(db: &mut Db<'_>) -> Result<(), Error> {
    db.begin_rebuilds().await?;
    let done = remove(db).await;
    db.end_rebuilds(done).await
}

async fn remove(db: &mut Db<'_>) -> Result<(), Error> {
    let there = db.tables().await?;
    if there.is_empty() {
        return Ok(());
    }
    if !there.iter().any(|table| table == META_TABLE) {
        return Err(Error::Foreign(there));
    }
    // Read without the types of the IR, which may be those of another version.
    let json = db.meta("schema").await?.unwrap_or_default();
    let schema: serde_json::Value = serde_json::from_str(&json).map_err(|error| Error::Damaged(error.to_string()))?;
    let models = schema.get("models").and_then(serde_json::Value::as_array).into_iter().flatten();
    let ours = models.filter_map(|model| model.get("table")?.as_str()).chain([META_TABLE]);
    let ours: Vec<String> = ours.filter(|name| there.iter().any(|table| table == name)).map(ident).collect();
    let logs = logs::objects().filter(|(_, name)| there.iter().any(|table| table == name));
    let logs: Vec<String> = logs.map(|(kind, name)| format!("DROP {kind} {}", ident(name))).collect();
    let statements = match db {
        Db::Sqlite(_) => ours.iter().map(|table| format!("DROP TABLE {table}")).chain(logs).collect(),
        Db::Postgres(_) => {
            let mut statements = vec![format!("DROP TABLE {}", ours.join(", "))];
            statements.extend(logs);
            let sql = "SELECT 'DROP FUNCTION ' || oid::regprocedure::text FROM pg_proc \
                       WHERE pronamespace = current_schema()::regnamespace AND proname LIKE 'cratestack\\_%'";
            let functions =
                db.texts(sql).await.map_err(|error| error.while_doing("list the functions of the database"))?;
            statements.extend(functions.into_iter().flatten());
            statements
        }
    };
    for sql in statements {
        db.execute(&sql).await.map_err(|error| error.while_doing("remove the tables"))?;
    }
    Ok(())
}

/// What a database says about one statement, in terms that both have.
enum Fault {
    /// Rows break a rule, which the text names as the database does.
    Rows(String, StoreError),
    Other(String),
}

impl Fault {
    fn while_doing(self, step: &str) -> Error {
        match self {
            Self::Rows(rule, _) => Error::Violated { step: step.to_owned(), rule },
            Self::Other(message) => Error::Database { doing: step.to_owned(), message },
        }
    }

    /// The same where `schema` is what the rows have to fulfil.
    fn while_changing(self, schema: &Schema, step: &str) -> Error {
        let sentence = match &self {
            Self::Rows(_, error) => schema.models.iter().find_map(|model| broken_by_rows(schema, model, error)),
            Self::Other(_) => None,
        };
        sentence.map_or_else(|| self.while_doing(step), Error::Rows)
    }
}

/// What existing rows break, if it is a rule of `model`.
fn broken_by_rows(schema: &Schema, model: &Model, error: &StoreError) -> Option<String> {
    let name = &model.name;
    let table = error.table.as_deref().map(|table| table.strip_prefix(INTERIM).unwrap_or(table));
    let here = table == Some(model.table.as_str());
    let wanted = error.constraint.as_deref();
    let listed = |fields: &[FieldId]| {
        let names: Vec<String> = fields.iter().map(|id| format!("`{}`", model.field(*id).name)).collect();
        names.join(", ")
    };
    match error.class {
        Class::Unique => {
            let columns = |fields: &[FieldId]| {
                here && fields.len() == error.columns.len()
                    && fields.iter().all(|id| error.columns.contains(&model.field(*id).column))
            };
            let is = |index: &&Index| wanted.map_or_else(|| columns(&index.fields), |wanted| wanted == index.name);
            let index = model.uniques.iter().find(is)?;
            Some(format!("several rows of `{name}` have the same {}", listed(&index.fields)))
        }
        Class::NotNull if here => {
            let field = model.fields.iter().find(|field| error.columns.contains(&field.column))?;
            Some(format!("rows of `{name}` have no `{}`", field.name))
        }
        Class::ForeignKey => model.relations.iter().find_map(|relation| match &relation.kind {
            RelationKind::Owning { constraint, .. } if Some(constraint.as_str()) == wanted => Some(format!(
                "rows of `{name}` name rows of `{}`, and there are none",
                schema.model(relation.target).name,
            )),
            _ => None,
        }),
        Class::Check => {
            if let Some(check) = model.checks.iter().find(|check| Some(check.constraint.as_str()) == wanted) {
                return Some(format!("rows of `{name}` break the check `{}`", check.name));
            }
            model.fields.iter().find_map(|field| {
                if Some(database_name([&model.table, &field.column, "type_check"]).as_str()) == wanted {
                    let FieldType::Enum(id) = field.ty else { return None };
                    let of = &schema.enumeration(id).name;
                    return Some(format!("rows of `{name}` have a `{}` that is no value of `{of}`", field.name));
                }
                let words = field.validators.iter().map(|validator| validator_word(&validator.kind));
                let word = words.into_iter().find(|word| Some(enforced_name(model, field, word).as_str()) == wanted)?;
                Some(format!("rows of `{name}` have a `{}` that its `@{word}` refuses", field.name))
            })
        }
        _ => None,
    }
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        let constraint = error.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation);
        let classified = StoreError::sqlite(&error);
        let text = match error {
            rusqlite::Error::SqliteFailure(_, Some(text)) => text,
            other => other.to_string(),
        };
        // The rows are copied into a table under an interim name.
        let text = text.replace(INTERIM, "");
        match text.split_once(" failed: ") {
            Some((kind, what)) if constraint => Self::Rows(format!("`{what}` ({kind})"), classified),
            _ if constraint => Self::Rows(format!("a rule of the table ({text})"), classified),
            _ => Self::Other(text),
        }
    }
}

impl From<sqlx::Error> for Fault {
    fn from(error: sqlx::Error) -> Self {
        let sqlx::Error::Database(inner) = &error else { return Self::Other(error.to_string()) };
        let class = inner.code().and_then(|code| code.get(..2).map(str::to_owned)).unwrap_or_default();
        let classified = StoreError::postgres(&error);
        match class.as_str() {
            "23" => {
                // Without a name it is a missing value, and the message names the column.
                let rule = inner.constraint().map_or_else(|| inner.message().to_owned(), |name| format!("`{name}`"));
                Self::Rows(rule, classified)
            }
            // These messages quote the value.
            "22" => Self::Rows("the column's type".to_owned(), classified),
            _ => Self::Other(inner.message().to_owned()),
        }
    }
}

/// Lets an SQLite connection run our DDL: a change of type may call our functions, and a quoted name that is no column
/// must be an error, never a string.
fn ready(connection: &rusqlite::Connection) -> rusqlite::Result<()> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DML, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DDL, false)?;
    crate::predicate::register_functions(connection)
}

impl Db<'_> {
    /// Whose SQL it speaks.
    pub fn dialect(&self) -> Dialect {
        match self {
            Self::Sqlite(_) => Dialect::Sqlite,
            Self::Postgres(_) => Dialect::Postgres,
        }
    }

    /// SQLite takes any function in a default and complains at the first insert; PostgreSQL looks at once.
    async fn check_defaults(&mut self, schema: &Schema) -> Result<(), Error> {
        if matches!(self, Self::Postgres(_)) {
            return Ok(());
        }
        for table in ddl::catalog(schema, Dialect::Sqlite).tables {
            for column in table.columns {
                let Some(default) = column.default else { continue };
                let used = self.execute(&format!("SELECT {default}")).await;
                let doing = format!("use the default of the column `{}` of `{}`", column.name, table.name);
                used.map_err(|fault| fault.while_doing(&doing))?;
            }
        }
        Ok(())
    }

    /// Runs statements. Their text is made from the IR.
    async fn execute(&mut self, sql: &str) -> Result<(), Fault> {
        match self {
            Self::Sqlite(connection) => connection.execute_batch(sql)?,
            Self::Postgres(connection) => {
                sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut **connection).await?;
            }
        }
        Ok(())
    }

    /// The first column of every row, which must be text or NULL.
    async fn texts(&mut self, sql: &str) -> Result<Vec<Option<String>>, Fault> {
        match self {
            Self::Sqlite(connection) => {
                let mut statement = connection.prepare(sql)?;
                let rows = statement.query_map([], |row| row.get(0))?;
                Ok(rows.collect::<Result<_, _>>()?)
            }
            Self::Postgres(connection) => {
                let query = sqlx::query(AssertSqlSafe(sql)).persistent(false);
                let rows = query.fetch_all(&mut **connection).await?;
                Ok(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
            }
        }
    }

    async fn tables(&mut self) -> Result<Vec<String>, Error> {
        let sql = match self {
            Self::Sqlite(_) => {
                "SELECT name FROM sqlite_schema WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' \
                 AND name NOT LIKE 'cratestack\\_migration%' ESCAPE '\\' ORDER BY name"
            }
            // Tables of extensions belong to nobody here, and rate limits may count before there is a schema; so may
            // migrations be recorded.
            Self::Postgres(_) => {
                "SELECT c.relname::text FROM pg_class c WHERE c.relnamespace = current_schema()::regnamespace \
                 AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT EXISTS (SELECT FROM pg_depend d \
                 WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e') \
                 AND c.relname <> 'cratestack_rate_limits' AND c.relname NOT LIKE 'cratestack\\_migration%' ORDER BY c.relname"
            }
        };
        let names = self.texts(sql).await.map_err(|error| error.while_doing("list the tables of the database"))?;
        Ok(names.into_iter().flatten().collect())
    }

    async fn meta(&mut self, name: &str) -> Result<Option<String>, Error> {
        let sql = format!("SELECT value FROM {} WHERE name = {}", ident(META_TABLE), literal(name));
        let rows =
            self.texts(&sql).await.map_err(|error| error.while_doing("read which schema the database carries"))?;
        Ok(rows.into_iter().flatten().next())
    }

    async fn set_meta(&mut self, name: &str, value: &str) -> Result<(), Error> {
        let sql = format!(
            "INSERT INTO {} (name, value) VALUES ({}, {}) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            ident(META_TABLE),
            literal(name),
            literal(value),
        );
        self.execute(&sql).await.map_err(|error| error.while_doing("record which schema the database carries"))
    }

    /// What the probes find, sorted.
    async fn hold(&mut self, probes: &[Probe]) -> Result<Vec<String>, Error> {
        let mut found = Vec::new();
        for probe in probes {
            let sql = format!("SELECT 'x' FROM ({}) AS probe", probe.sql);
            let rows = self.texts(&sql).await.map_err(|error| error.while_doing("look at the rows of the database"))?;
            if !rows.is_empty() && !found.contains(&probe.says) {
                found.push(probe.says.clone());
            }
        }
        // The order of the steps differs between databases.
        found.sort();
        Ok(found)
    }

    /// Begins a transaction that only one process at a time is in.
    async fn begin(&mut self) -> Result<(), Error> {
        let doing = |fault: Fault| fault.while_doing("begin to change the database");
        match self {
            Self::Sqlite(connection) => {
                ready(connection).map_err(|error| doing(error.into()))?;
                self.execute("BEGIN IMMEDIATE").await.map_err(doing)
            }
            Self::Postgres(_) => {
                self.execute("BEGIN ISOLATION LEVEL READ COMMITTED").await.map_err(doing)?;
                let lock = format!("SET LOCAL lock_timeout = '{PATIENCE}s'; SELECT pg_advisory_xact_lock({LOCK})");
                let locked = self.execute(&lock).await.map_err(doing);
                if locked.is_err() {
                    let _ = self.execute("ROLLBACK").await;
                }
                locked
            }
        }
    }

    async fn end<T>(&mut self, done: Result<T, Error>) -> Result<T, Error> {
        match done {
            Ok(value) => match self.execute("COMMIT").await {
                Ok(()) => Ok(value),
                Err(fault) => {
                    let _ = self.execute("ROLLBACK").await;
                    Err(fault.while_doing("commit the change of the database"))
                }
            },
            Err(error) => {
                // The first error says more than one about the rollback; a lost connection rolls back by itself.
                let _ = self.execute("ROLLBACK").await;
                Err(error)
            }
        }
    }

    /// [`Self::begin`], where SQLite may rebuild tables; ends with [`Self::end_rebuilds`].
    async fn begin_rebuilds(&mut self) -> Result<(), Error> {
        self.open_for_rebuilds()?;
        match self.begin().await {
            Ok(()) => Ok(()),
            Err(error) => self.close_after_rebuilds().and(Err(error)),
        }
    }

    async fn end_rebuilds<T>(&mut self, done: Result<T, Error>) -> Result<T, Error> {
        let done = self.end(done).await;
        self.close_after_rebuilds()?;
        done
    }

    /// SQLite rebuilds tables: with foreign keys on, dropping the old one would delete its children's rows, and the
    /// switch does nothing inside a transaction. The legacy renaming leaves references by name alone.
    fn open_for_rebuilds(&mut self) -> Result<(), Error> {
        let Self::Sqlite(connection) = self else { return Ok(()) };
        let opened = connection.execute_batch("PRAGMA foreign_keys = OFF; PRAGMA legacy_alter_table = ON");
        let off = opened.and_then(|()| connection.query_row("PRAGMA foreign_keys", [], |row| row.get::<_, i64>(0)));
        match off {
            Ok(0) => Ok(()),
            Ok(_) => Err(Error::Database {
                doing: "change the database".to_owned(),
                message: "foreign keys cannot be switched off inside a transaction".to_owned(),
            }),
            Err(error) => Err(Fault::from(error).while_doing("change the database")),
        }
    }

    fn close_after_rebuilds(&mut self) -> Result<(), Error> {
        let Self::Sqlite(connection) = self else { return Ok(()) };
        let closed = connection.execute_batch("PRAGMA legacy_alter_table = OFF; PRAGMA foreign_keys = ON");
        closed.map_err(|error| Fault::from(error).while_doing("switch foreign keys on again"))
    }

    /// PostgreSQL has checked the references as it made the constraints.
    async fn check_references(&mut self, schema: &Schema) -> Result<(), Error> {
        if matches!(self, Self::Postgres(_)) {
            return Ok(());
        }
        let sql = "SELECT DISTINCT \"table\" || char(0) || \"parent\" FROM pragma_foreign_key_check";
        let broken = self.texts(sql).await.map_err(|error| error.while_doing("check the references"))?;
        let name = |table: &str| {
            let model = schema.models.iter().find(|model| model.table == table);
            model.map_or_else(|| table.to_owned(), |model| model.name.clone())
        };
        let sentence = |pair: String| {
            let (child, parent) = pair.split_once('\0').unwrap_or((&pair, ""));
            format!("rows of `{}` name rows of `{}`, and there are none", name(child), name(parent))
        };
        let broken: Vec<String> = broken.into_iter().flatten().map(sentence).collect();
        if broken.is_empty() { Ok(()) } else { Err(Error::Rows(broken.join("; "))) }
    }
}
