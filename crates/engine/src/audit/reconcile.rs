//! Compares the rows with the trail: what was changed while the triggers were off shows as a difference.
//!
//! Every row of an audited model, tombstones included, has to be what the newest event of its key left, and every key
//! whose newest event left a row has to have one. Refusals (`denied`) change nothing and do not count.
//!
//! A model is read in one snapshot, so that writers who are at work are no false alarm, and in pieces, so that tables of
//! any size fit. The JSON of a row comes from the very SQL that the triggers have.
//!
//! What the trail does not hold cannot be compared: of fields that are `@pii` or `@sensitive` only whether they are null,
//! of `@server_only` ones nothing; nothing of a column that is younger than the newest event; and of a row that did not
//! fit into its entry the length and the SHA-256 (on SQLite the length), as long as the schema is the same.

mod compare;

pub use compare::omitted;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use cratestack_schema::ir::{Model, ModelId, Schema};
use cratestack_schema::value::Value;

use self::compare::{Verdict, verdict};
use super::link::{self, Link, at_once};
use super::read::{Error, key_in_trail};
use super::{ENTRY_LIMIT, TABLE};
use crate::engine::{Engine, Store};
use crate::fault::{Class, StoreError};
use crate::logs;
use crate::sql::{Dialect, Slot, Sql, SqlType, Statement, Template, column, ident};
use crate::storage::Codec;
use crate::store::sqlite::SqliteSession;
use crate::store::{Control, NoPages, Rows, Session};

/// Rows of a piece: at most two texts of [`ENTRY_LIMIT`] octets each.
const PIECE: usize = 128;
/// How long the comparison of one model may take.
const PATIENCE: Duration = Duration::from_hours(24);
/// Reports on their way from SQLite's thread.
const QUEUE: usize = 64;

/// How a row and the trail differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// These fields of the row are not what the newest event left. None are named where the trail has only a digest of
    /// the row.
    Changed(Vec<String>),
    /// The newest event left a row, and there is none.
    MissingRow,
    /// There is a row, and no event that left one.
    NoEvent,
}

/// A row and the trail differ. Tells no value of the row but its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The model.
    pub model: String,
    /// The key, as the trail writes it.
    pub primary_key: String,
    /// How.
    pub kind: Kind,
}

/// What is told while it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// How far the comparison of a model has come, in rows and keys.
    Progress {
        /// The model.
        model: String,
        /// What was looked at.
        done: u64,
        /// What there is to look at.
        total: u64,
    },
    /// Something was found.
    Difference(Difference),
}

/// What was compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Audited models.
    pub models: u64,
    /// Their rows.
    pub rows: u64,
    /// Keys in the trail.
    pub keys: u64,
    /// Differences found.
    pub differences: u64,
    /// Rows that could not be compared: of each the trail has only a digest, from another version of the schema.
    pub unchecked: u64,
}

/// Compares all audited models, one after the other.
///
/// # Errors
/// [`Error::NoTrail`]; [`Error::Database`], after which nothing is known of the rest.
pub async fn reconcile(engine: &Engine, tell: &mut (dyn FnMut(Report) + Send)) -> Result<Summary, Error> {
    drop(Link::open(engine).await?);
    let mut sum = Summary::default();
    for (id, model) in engine.schema().models() {
        if model.audit.is_some() {
            let part = one(engine, id, tell).await?;
            sum.models += 1;
            sum.rows += part.rows;
            sum.keys += part.keys;
            sum.differences += part.differences;
            sum.unchecked += part.unchecked;
        }
    }
    Ok(sum)
}

async fn one(engine: &Engine, id: ModelId, tell: &mut (dyn FnMut(Report) + Send)) -> Result<Summary, StoreError> {
    let deadline = Instant::now() + PATIENCE;
    match engine.store() {
        Store::Postgres(pool) => {
            let mut connection = link::ordered(pool).await?;
            connection.until(deadline.into());
            snapshot(&Plan::new(engine.schema(), id, Dialect::Postgres), &mut connection, tell).await
        }
        Store::Sqlite(database) => {
            let (reports, mut told) = tokio::sync::mpsc::channel(QUEUE);
            let schema = std::sync::Arc::clone(engine.schema());
            let work = move |session: &mut SqliteSession<'_>| {
                // Once nobody listens any more, the job itself is about to be interrupted.
                let mut tell = |report| drop(reports.blocking_send(report));
                at_once(snapshot(&Plan::new(&schema, id, Dialect::Sqlite), session, &mut tell))
            };
            let mut job = std::pin::pin!(database.read(deadline, work));
            loop {
                tokio::select! {
                    biased;
                    Some(report) = told.recv() => tell(report),
                    done = &mut job => {
                        while let Ok(report) = told.try_recv() {
                            tell(report);
                        }
                        return done;
                    }
                }
            }
        }
    }
}

/// Runs the comparison in a transaction, which on both databases sees one snapshot.
async fn snapshot<S: Session>(
    plan: &Plan<'_>,
    session: &mut S,
    tell: &mut (dyn FnMut(Report) + Send),
) -> Result<Summary, StoreError> {
    session.control(Control::Begin).await?;
    let mut walk = Walk { plan, session, tell, sum: Summary::default(), total: 0 };
    let done = walk.run().await;
    let sum = walk.sum;
    let ended = session.control(if done.is_ok() { Control::Commit } else { Control::Rollback }).await;
    done?;
    ended.map(|()| sum)
}

/// The statements for one model.
struct Plan<'s> {
    schema: &'s Schema,
    id: ModelId,
    model: &'s Model,
    dialect: Dialect,
    /// The table, as `t`.
    table: String,
    /// SQL for the text of a row's key, and of the row.
    texts: (String, String),
}

impl<'s> Plan<'s> {
    fn new(schema: &'s Schema, id: ModelId, dialect: Dialect) -> Self {
        let model = schema.model(id);
        let table = format!("{} AS t", ident(&model.table));
        Self { schema, id, model, dialect, table, texts: logs::row::texts(schema, id, dialect, "t") }
    }

    fn key_types(&self) -> Vec<SqlType> {
        self.model.key.iter().map(|id| SqlType::of(self.model.field(*id))).collect()
    }

    fn key_columns(&self) -> Vec<String> {
        self.model.key.iter().map(|id| column("t", &self.model.field(*id).column)).collect()
    }

    fn name(&self) -> String {
        crate::storage::literal(&self.model.name)
    }

    /// `what` of the newest event of the key that `key` says.
    fn newest(&self, what: &str, key: &str) -> String {
        let operation = match self.dialect {
            Dialect::Postgres => "e.entry::json->>'operation'",
            Dialect::Sqlite => "e.entry ->> '$.operation'",
        };
        format!(
            "(SELECT {what} FROM {TABLE} AS e WHERE e.model = {} AND e.primary_key = {key} AND {operation} <> 'denied' \
             ORDER BY e.seq DESC LIMIT 1)",
            self.name()
        )
    }

    /// How many rows there are, and how many keys in the trail.
    fn counts(&self) -> Statement {
        let sql = format!(
            "SELECT (SELECT count(*) FROM {}), (SELECT count(*) FROM (SELECT DISTINCT primary_key FROM {TABLE} \
             WHERE model = {}) AS k)",
            self.table,
            self.name()
        );
        link::statement(self.dialect, &sql, &[SqlType::INT; 2], Vec::new())
    }

    /// A piece of the rows, from behind a key: the values of the key, its text, the row, and the newest entry.
    fn rows(&self, after: Option<&[Value]>) -> Result<Statement, StoreError> {
        let (types, columns) = (self.key_types(), self.key_columns());
        let mut sql = Sql::new(self.dialect);
        let beyond = after.map(|_| {
            let tuple: Vec<String> = (0..).zip(&types).map(|(at, ty)| sql.placeholder(Slot::Key(at), *ty)).collect();
            format!(" WHERE ({}) > ({})", columns.join(", "), tuple.join(", "))
        });
        let names: Vec<String> = (1..=columns.len()).map(|at| format!("k{at}")).collect();
        let keys: Vec<String> =
            columns.iter().zip(&names).map(|(column, name)| format!("{column} AS {name}")).collect();
        let octets = match self.dialect {
            Dialect::Postgres => "octet_length(r.shown)",
            Dialect::Sqlite => "length(CAST(r.shown AS BLOB))",
        };
        let (said, shown) = &self.texts;
        sql.push(&format!(
            "SELECT {list}, r.said, CASE WHEN {octets} > {ENTRY_LIMIT} THEN {digest} ELSE r.shown END, {newest} FROM (\
             SELECT {keys}, {said} AS said, {shown} AS shown FROM {table}{beyond} ORDER BY {order} LIMIT {PIECE}) AS r \
             ORDER BY {list}",
            list = names.join(", "),
            digest = logs::digest(self.dialect, "r.shown"),
            newest = self.newest("e.entry", "r.said"),
            keys = keys.join(", "),
            table = self.table,
            beyond = beyond.unwrap_or_default(),
            order = columns.join(", "),
        ));
        let control = [types.as_slice(), &[SqlType::TEXT; 3]].concat();
        self.fill(sql, &control, after.unwrap_or_default())
    }

    /// A piece of the keys of the trail, and whether the newest event of each left a row.
    fn keys(&self, after: Option<&str>) -> Result<Statement, StoreError> {
        let mut sql = Sql::new(self.dialect);
        let beyond = after.map(|_| format!(" AND primary_key > {}", sql.placeholder(Slot::Key(0), SqlType::TEXT)));
        let left = match self.dialect {
            Dialect::Postgres => "e.entry::json->>'after' IS NOT NULL",
            Dialect::Sqlite => "json_type(e.entry, '$.after') <> 'null'",
        };
        sql.push(&format!(
            "SELECT k.primary_key, coalesce({newest}, {no}) FROM (SELECT DISTINCT primary_key FROM {TABLE} \
             WHERE model = {name}{beyond} ORDER BY primary_key LIMIT {PIECE}) AS k ORDER BY k.primary_key",
            newest = self.newest(left, "k.primary_key"),
            no = if self.dialect == Dialect::Postgres { "false" } else { "0" },
            name = self.name(),
            beyond = beyond.unwrap_or_default(),
        ));
        let after: Vec<Value> = after.iter().map(|key| Value::Text((*key).to_owned())).collect();
        self.fill(sql, &[SqlType::TEXT, SqlType::BOOL], &after)
    }

    /// The texts of those keys that have a row. `keys` are the values of [`PIECE`] keys, one after the other.
    fn there(&self, keys: &[Value]) -> Result<Statement, StoreError> {
        let types = self.key_types();
        let mut sql = Sql::new(self.dialect);
        let mut tuples = Vec::with_capacity(PIECE);
        for first in (0..PIECE).map(|at| at * types.len()) {
            let tuple: Vec<String> =
                (first..).zip(&types).map(|(at, ty)| sql.placeholder(Slot::Key(at), *ty)).collect();
            tuples.push(if types.len() == 1 { tuple.concat() } else { format!("({})", tuple.join(", ")) });
        }
        // SQLite knows lists of rows as a query alone.
        let values = if types.len() > 1 && self.dialect == Dialect::Sqlite { "VALUES " } else { "" };
        sql.push(&format!(
            "SELECT {} FROM {} WHERE ({}) IN ({values}{})",
            self.texts.0,
            self.table,
            self.key_columns().join(", "),
            tuples.join(", ")
        ));
        self.fill(sql, &[SqlType::TEXT], keys)
    }

    /// Whether a row has a key of this text, which no value of the key's type has. Reads all rows.
    fn odd(&self, key: &str) -> Result<Statement, StoreError> {
        let mut sql = Sql::new(self.dialect);
        let wanted = sql.placeholder(Slot::Key(0), SqlType::TEXT);
        sql.push(&format!("SELECT {0} FROM {1} WHERE {0} = {wanted} LIMIT 1", self.texts.0, self.table));
        self.fill(sql, &[SqlType::TEXT], &[Value::Text(key.to_owned())])
    }

    fn fill(&self, sql: Sql, control: &[SqlType], values: &[Value]) -> Result<Statement, StoreError> {
        let (sql, slots) = sql.finish();
        let template = std::sync::Arc::new(Template { slots, ..Template::fixed(&sql, control) });
        let failed = |why: String| StoreError::new(Class::Other, why);
        template.fill(|spec| {
            let Slot::Key(at) = spec.slot else { return Err(failed("a value is missing".to_owned())) };
            let value = values.get(at).unwrap_or(&Value::Null);
            let codec = Codec { schema: self.schema, dialect: self.dialect, ty: spec.ty };
            codec.bind(value).map_err(|error| failed(error.to_string()))
        })
    }
}

/// The comparison of one model.
struct Walk<'a, S> {
    plan: &'a Plan<'a>,
    session: &'a mut S,
    tell: &'a mut (dyn FnMut(Report) + Send),
    sum: Summary,
    total: u64,
}

impl<S: Session> Walk<'_, S> {
    async fn run(&mut self) -> Result<(), StoreError> {
        let counts = self.fetch(self.plan.counts()).await?;
        let count = |value: &Value| match value {
            Value::Int(count) => u64::try_from(*count).unwrap_or(0),
            _ => 0,
        };
        self.total = counts.control(0).iter().map(count).sum();
        self.progress();
        self.rows().await?;
        self.keys().await
    }

    async fn fetch(&mut self, statement: Statement) -> Result<Rows, StoreError> {
        self.session.fetch(&statement, &mut NoPages).await
    }

    fn progress(&mut self) {
        let done = self.sum.rows + self.sum.keys;
        (self.tell)(Report::Progress { model: self.plan.model.name.clone(), done, total: self.total });
    }

    fn found(&mut self, primary_key: &str, kind: Kind) {
        self.sum.differences += 1;
        let model = self.plan.model.name.clone();
        (self.tell)(Report::Difference(Difference { model, primary_key: primary_key.to_owned(), kind }));
    }

    /// From the rows to the trail.
    async fn rows(&mut self) -> Result<(), StoreError> {
        let mut after: Option<Vec<Value>> = None;
        loop {
            let rows = self.fetch(self.plan.rows(after.as_deref())?).await?;
            for at in 0..rows.len() {
                let Some((key, [Value::Text(said), Value::Text(shown), entry])) = rows.control(at).split_last_chunk()
                else {
                    return Err(StoreError::new(
                        Class::Other,
                        format!("a row of `{}` is damaged", self.plan.model.name),
                    ));
                };
                self.row(said, shown, text(entry))?;
                after = Some(key.to_vec());
            }
            self.sum.rows += rows.len() as u64;
            self.progress();
            if rows.len() < PIECE {
                return Ok(());
            }
        }
    }

    fn row(&mut self, key: &str, shown: &str, entry: Option<&str>) -> Result<(), StoreError> {
        let Some(entry) = entry else {
            self.found(key, Kind::NoEvent);
            return Ok(());
        };
        let seen = verdict(self.plan.schema, self.plan.model, entry, shown);
        match seen.map_err(|error| StoreError::new(Class::Other, format!("an event cannot be read: {error}")))? {
            Verdict::Same => {}
            Verdict::Unchecked => self.sum.unchecked += 1,
            Verdict::NoRow => self.found(key, Kind::NoEvent),
            Verdict::Changed(fields) => self.found(key, Kind::Changed(fields)),
        }
        Ok(())
    }

    /// From the trail to the rows.
    async fn keys(&mut self) -> Result<(), StoreError> {
        let mut after: Option<String> = None;
        loop {
            let rows = self.fetch(self.plan.keys(after.as_deref())?).await?;
            let mut left = Vec::new();
            for at in 0..rows.len() {
                let [Value::Text(key), leaves] = rows.control(at) else { continue };
                if *leaves == Value::Bool(true) {
                    left.push(key.clone());
                }
                after = Some(key.clone());
            }
            for key in self.missing(left).await? {
                self.found(&key, Kind::MissingRow);
            }
            self.sum.keys += rows.len() as u64;
            self.progress();
            if rows.len() < PIECE {
                return Ok(());
            }
        }
    }

    /// Those keys that have no row.
    async fn missing(&mut self, keys: Vec<String>) -> Result<Vec<String>, StoreError> {
        let mut values = Vec::new();
        let mut there = BTreeSet::new();
        for key in &keys {
            match key_in_trail(self.plan.schema, self.plan.id, key) {
                Some(key) => values.extend(key),
                None => there.extend(texts(&self.fetch(self.plan.odd(key)?).await?)),
            }
        }
        let width = self.plan.model.key.len();
        if let Some(last) = values.len().checked_sub(width) {
            // One text for any number of keys: the last one fills up.
            let last = values.split_off(last);
            let room = PIECE - values.len() / width.max(1);
            values.extend(std::iter::repeat_n(last, room).flatten());
            there.extend(texts(&self.fetch(self.plan.there(&values)?).await?));
        }
        Ok(keys.into_iter().filter(|key| !there.contains(key)).collect())
    }
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::Text(text) => Some(text),
        _ => None,
    }
}

/// The first cells.
fn texts(rows: &Rows) -> Vec<String> {
    (0..rows.len()).filter_map(|row| text(rows.control(row).first()?).map(str::to_owned)).collect()
}
