//! The trail as operators and auditors read it. There are no rules here: who has the database, may read all of it.
//!
//! What comes is the events as they were stored, a page at a time, so that a trail of any length needs no more memory
//! than a page of it.

use cratestack_schema::ir::{ModelId, Schema};
use cratestack_schema::value::{Value, instant};

use super::TABLE;
use super::link::{Link, statement, yes};
use crate::engine::Engine;
use crate::fault::StoreError;
use crate::plan::key_values;
use crate::relay::AUDIT;
pub use crate::relay::AuditEvent;
use crate::sql::{Bind, Dialect, SqlType, Statement};
use crate::storage::lossy;
use crate::store::Rows;

#[cfg(test)]
mod tests;

/// Events of a page at most.
pub const PAGE: usize = 200;

/// Which events to list. What is not given does not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of this model.
    pub model: Option<String>,
    /// Of this row, in the form that the trail has keys in ([`key_named`]).
    pub primary_key: Option<String>,
    /// By this subject.
    pub actor: Option<String>,
    /// Not before this time, in microseconds since 1970.
    pub from: Option<i64>,
    /// Before this time.
    pub to: Option<i64>,
    /// By this request.
    pub request_id: Option<String>,
    /// Such as `create` or `denied`.
    pub operation: Option<String>,
    /// Only what the engine did not write.
    pub out_of_band: bool,
}

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No schema with `@@audit` was ever applied.
    #[error("the database has no audit trail")]
    NoTrail,
    /// The database failed.
    #[error("the database failed: {0}")]
    Database(String),
}

impl Error {
    /// What to do about it.
    pub fn help(&self) -> &'static str {
        match self {
            Self::NoTrail => "write `@@audit` into the models whose changes are to be recorded, and apply the schema",
            Self::Database(_) => "nothing was changed; try again when the cause is gone",
        }
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        Self::Database(error.message)
    }
}

/// The trail of a database.
#[derive(Debug)]
pub struct Reader {
    link: Link,
}

impl Reader {
    /// Opens the trail. On PostgreSQL this takes a connection beside the engine's pool.
    ///
    /// # Errors
    /// [`Error::NoTrail`]; [`Error::Database`].
    pub async fn open(engine: &Engine) -> Result<Self, Error> {
        Ok(Self { link: Link::open(engine).await? })
    }

    /// Events that the filter lets through, newest first: at most `limit` of them and at most [`PAGE`], of those before
    /// the event `before`. The last one's `seq` leads to the next page.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn list(&mut self, filter: &Filter, before: Option<i64>, limit: usize) -> Result<Vec<AuditEvent>, Error> {
        let mut query = Query::new(self.link.dialect());
        query.filter(filter);
        if let Some(before) = before {
            query.and("e.seq < ?", Bind::Int(before));
        }
        self.page(query.finish("DESC", limit)).await
    }

    /// Events of one row, oldest first: at most `limit` of them and at most [`PAGE`], of those after the event `after`.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn history(
        &mut self,
        model: &str,
        key: &str,
        after: Option<i64>,
        limit: usize,
    ) -> Result<Vec<AuditEvent>, Error> {
        let mut query = Query::new(self.link.dialect());
        query.and("e.model = ?", Bind::Text(model.to_owned()));
        query.and("e.primary_key = ?", Bind::Text(key.to_owned()));
        if let Some(after) = after {
            query.and("e.seq > ?", Bind::Int(after));
        }
        self.page(query.finish("ASC", limit)).await
    }

    /// The event with this id (a UUID).
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn event(&mut self, event_id: &str) -> Result<Option<AuditEvent>, Error> {
        let event_id = event_id.to_ascii_lowercase();
        // The id begins with the time of the event, which PostgreSQL has an index on. Whoever writes SQL can record an
        // event whose id does not: so the whole trail is looked through before the answer is that there is none.
        for window in [millisecond(&event_id), Some((None, None))].into_iter().flatten() {
            let mut query = Query::new(self.link.dialect());
            query.filter(&Filter { from: window.0, to: window.1, ..Filter::default() });
            let id = query.member(&["event_id"]);
            query.and(&format!("{id} = ?"), Bind::Text(event_id.clone()));
            if let Some(found) = self.page(query.finish("DESC", 1)).await?.pop() {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Whether the trail has events of a model of this name, which the schema may have no more.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn knows(&mut self, model: &str) -> Result<bool, Error> {
        let sql = format!("SELECT EXISTS (SELECT 1 FROM {TABLE} WHERE model = ?1)");
        let binds = vec![Bind::Text(model.to_owned())];
        Ok(yes(&self.link.fetch(statement(self.link.dialect(), &sql, &[SqlType::BOOL], binds)).await?))
    }

    async fn page(&mut self, statement: Statement) -> Result<Vec<AuditEvent>, Error> {
        let rows = self.link.fetch(statement).await?;
        Ok((0..rows.len()).filter_map(|row| event(&rows, row)).collect())
    }
}

/// The millisecond that a UUID of version 7 names: from, and up to.
fn millisecond(event_id: &str) -> Option<(Option<i64>, Option<i64>)> {
    let stamp = i64::try_from(uuid::Uuid::parse_str(event_id).ok()?.as_u128() >> 80).ok()?;
    let at = |stamp: i64| stamp.checked_mul(1000).filter(|micros| instant::from_unix_micros(*micros).is_some());
    Some((Some(at(stamp)?), Some(at(stamp + 1)?)))
}

fn event(rows: &Rows, row: usize) -> Option<AuditEvent> {
    match rows.control(row) {
        [Value::Int(seq), Value::Text(model), Value::Text(key), Value::Text(entry)] => Some(AuditEvent {
            log: &AUDIT,
            seq: *seq,
            model: model.clone(),
            primary_key: key.clone(),
            entry: entry.clone(),
        }),
        _ => None,
    }
}

/// A statement that reads events, `e`.
struct Query {
    dialect: Dialect,
    conditions: Vec<String>,
    binds: Vec<Bind>,
}

impl Query {
    fn new(dialect: Dialect) -> Self {
        Self { dialect, conditions: Vec::new(), binds: Vec::new() }
    }

    /// One more condition; its `?` is the value.
    fn and(&mut self, condition: &str, value: Bind) {
        self.binds.push(value);
        self.conditions.push(condition.replace('?', &format!("?{}", self.binds.len())));
    }

    fn filter(&mut self, filter: &Filter) {
        let (request_id, operation) = (self.member(&["request_id"]), self.member(&["operation"]));
        let actor = self.member(&["actor", "subject"]);
        let texts = [
            ("e.model", &filter.model),
            ("e.primary_key", &filter.primary_key),
            (&actor, &filter.actor),
            (&request_id, &filter.request_id),
            (&operation, &filter.operation),
        ];
        for (what, wanted) in texts {
            if let Some(wanted) = wanted {
                self.and(&format!("{what} = ?"), Bind::Text(wanted.clone()));
            }
        }
        let time = match self.dialect {
            Dialect::Postgres => "?::text::timestamptz",
            Dialect::Sqlite => "?",
        };
        for (is, wanted) in [(">=", filter.from), ("<", filter.to)] {
            if let Some(text) = wanted.and_then(instant::from_unix_micros) {
                self.and(&format!("e.occurred_at {is} {time}"), Bind::Text(text));
            }
        }
        if filter.out_of_band {
            self.conditions.push("e.out_of_band".to_owned());
        }
    }

    /// The text of a member of the entry.
    fn member(&self, path: &[&str]) -> String {
        match self.dialect {
            Dialect::Sqlite => format!("e.entry ->> '$.{}'", path.join(".")),
            Dialect::Postgres => format!("e.entry::json #>> '{{{}}}'", path.join(",")),
        }
    }

    fn finish(mut self, order: &str, limit: usize) -> Statement {
        let conditions = match self.conditions.as_slice() {
            [] => String::new(),
            conditions => format!(" WHERE {}", conditions.join(" AND ")),
        };
        self.binds.push(Bind::Int(i64::try_from(limit.min(PAGE)).unwrap_or(0)));
        let sql = format!(
            "SELECT e.seq, e.model, {}, {} FROM {TABLE} AS e{conditions} ORDER BY e.seq {order} LIMIT ?{}",
            lossy(self.dialect, "e.primary_key"),
            lossy(self.dialect, "e.entry"),
            self.binds.len()
        );
        let control = [SqlType::INT, SqlType::TEXT, SqlType::TEXT, SqlType::TEXT];
        statement(self.dialect, &sql, &control, self.binds)
    }
}

/// The key in the form that the trail has keys in. `text` is that, or the key as it stands in a URL (`1/berlin`); `None`
/// when no row of the model can have such a key.
pub fn key_named(schema: &Schema, model: ModelId, text: &str) -> Option<String> {
    let declared = schema.model(model);
    let values = key_in_trail(schema, model, text).or_else(|| {
        let segments: Vec<String> = text.split('/').map(str::to_owned).collect();
        key_values(schema, declared, &segments)
    })?;
    Some(super::key(schema, declared, &values))
}

/// The values of a key that is written as the trail writes it.
pub(super) fn key_in_trail(schema: &Schema, model: ModelId, text: &str) -> Option<Vec<Value>> {
    let declared = schema.model(model);
    if declared.key.len() == 1 {
        return key_values(schema, declared, &[text.to_owned()]);
    }
    let parts: Vec<serde_json::Value> = serde_json::from_str(text).ok()?;
    let texts = parts.into_iter().map(|part| match part {
        serde_json::Value::String(text) => Some(text),
        serde_json::Value::Number(number) => Some(number.to_string()),
        serde_json::Value::Bool(flag) => Some(flag.to_string()),
        serde_json::Value::Null | serde_json::Value::Array(_) | serde_json::Value::Object(_) => None,
    });
    key_values(schema, declared, &texts.collect::<Option<Vec<String>>>()?)
}
