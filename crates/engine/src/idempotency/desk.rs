//! The table of idempotency keys as operators look after it. There are no rules here: who has the database, may read all of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cratestack_schema::value::Value;

use super::{BYTES, Record, State, TABLE};
use crate::api::Failure;
use crate::engine::{Engine, Store, now};
use crate::fault::StoreError;
use crate::sql::{Bind, Dialect, SqlType, Statement, Template};
use crate::store::postgres::Postgres;
use crate::store::{NoPages, Rows, Session as _};

/// How long one statement may take: most of them look at the whole table.
const PATIENCE: Duration = Duration::from_mins(10);

/// Which keys are meant. What is not given does not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyFilter {
    /// The key.
    pub key: Option<String>,
    /// Whose it is.
    pub scope: Option<[u8; 32]>,
    /// The route: `POST /accounts`.
    pub op: Option<String>,
    /// The model.
    pub model: Option<String>,
    /// What became of it.
    pub state: Option<State>,
}

/// A row of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRow {
    /// Whose it is: a digest.
    pub scope: Vec<u8>,
    /// The key.
    pub key: String,
    /// What became of it.
    pub state: State,
    /// What was answered; the status is 0 where nothing is known.
    pub record: Record,
    /// The route.
    pub op: String,
    /// The model that it is about, if it is about one.
    pub model: Option<String>,
    /// The key of the row that it is about, if it is about one.
    pub primary_key: Option<String>,
    /// The id of the request.
    pub request_id: String,
    /// When it was recorded, RFC 3339.
    pub created_at: String,
    /// When it goes, RFC 3339.
    pub expires_at: String,
}

impl KeyRow {
    fn of(columns: &[Value]) -> Option<Self> {
        let [Value::Bytes(scope), Value::Int(state), status, body, texts @ ..] = columns else { return None };
        let text = |at: usize| match texts.get(at) {
            Some(Value::Text(text)) => Some(text.clone()),
            _ => None,
        };
        let status = if let Value::Int(status) = status { u16::try_from(*status).ok()? } else { 0 };
        let headers = text(1).map(|lines| Record::parse_headers(&lines)).unwrap_or_default();
        let body = if let Value::Bytes(body) = body { Some(body.clone()) } else { None };
        Some(Self {
            scope: scope.clone(),
            key: text(0)?,
            state: State::of(*state)?,
            record: Record { status, headers, body },
            op: text(2)?,
            model: text(3),
            primary_key: text(4),
            request_id: text(5)?,
            created_at: text(6)?,
            expires_at: text(7)?,
        })
    }
}

/// A statement on the table, under construction.
struct Query {
    conditions: Vec<String>,
    binds: Vec<Bind>,
}

impl Query {
    fn new(dialect: Dialect, filter: &KeyFilter) -> Self {
        let mut query = Self { conditions: Vec::new(), binds: Vec::new() };
        let text = |text: &Option<String>| text.clone().map(Bind::Text);
        let given = [
            ("scope", filter.scope.map(|scope| Bind::Bytes(scope.to_vec()))),
            ("key", text(&filter.key)),
            ("op", text(&filter.op)),
            ("model", text(&filter.model)),
            ("state", filter.state.map(|state| Bind::Int(state.code()))),
        ];
        for (name, bind) in given {
            query.conditions.extend(bind.map(|bind| {
                query.binds.push(bind);
                let sigil = if dialect == Dialect::Postgres { '$' } else { '?' };
                format!("{name} = {sigil}{}", query.binds.len())
            }));
        }
        query
    }

    fn finish(self, before: &str, after: &str, types: &[SqlType]) -> Statement {
        let all = if self.conditions.is_empty() { "TRUE".to_owned() } else { self.conditions.join(" AND ") };
        let template = Template::fixed(&format!("{before} WHERE {all} {after}"), types);
        Statement { template: Arc::new(template), binds: self.binds }
    }
}

/// A timestamp as text.
fn time(dialect: Dialect, name: &str) -> String {
    match dialect {
        Dialect::Postgres => format!("to_char({name} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"),
        Dialect::Sqlite => name.to_owned(),
    }
}

impl Engine {
    /// The newest keys that the filter lets through, newest first, `limit` at most.
    ///
    /// # Errors
    /// That the database could not.
    pub async fn keys(&self, filter: &KeyFilter, limit: usize) -> Result<Vec<KeyRow>, Failure> {
        let dialect = self.store().dialect();
        let int = if dialect == Dialect::Postgres { "::bigint" } else { "" };
        let (created, expires) = (time(dialect, "created_at"), time(dialect, "expires_at"));
        let select = format!(
            "SELECT scope, state{int}, status{int}, body, key, headers, op, model, primary_key, request_id, {created}, \
             {expires} FROM {TABLE}"
        );
        let head = [BYTES, SqlType::INT, SqlType::INT, BYTES];
        let types: Vec<SqlType> = head.into_iter().chain([SqlType::TEXT; 8]).collect();
        let order = format!("ORDER BY {TABLE}.created_at DESC, scope, key LIMIT {limit}");
        let statement = Query::new(dialect, filter).finish(&select, &order, &types);
        let rows = self.on_keys(statement, false).await?;
        Ok((0..rows.len()).filter_map(|at| KeyRow::of(rows.control(at))).collect())
    }

    /// Frees keys whose requests were begun and never completed, so that they can be done: for whoever has found out that
    /// nothing had happened. Records of what was done are never removed before they expire. Says how many.
    ///
    /// # Errors
    /// That the database could not.
    pub async fn free_keys(&self, filter: &KeyFilter) -> Result<usize, Failure> {
        let dialect = self.store().dialect();
        let mut query = Query::new(dialect, filter);
        let now = match dialect {
            Dialect::Postgres => "now()",
            Dialect::Sqlite => "strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')",
        };
        let (started, unknown) = (State::Started.code(), State::Unknown.code());
        query.conditions.push(format!("(state = {unknown} OR (state = {started} AND lease_until < {now}))"));
        let statement = query.finish(&format!("DELETE FROM {TABLE}"), "RETURNING 1", &[]);
        self.on_keys(statement, true).await.map(|rows| rows.len())
    }

    async fn on_keys(&self, statement: Statement, writes: bool) -> Result<Rows, Failure> {
        let until = Instant::now() + PATIENCE;
        let rows = match self.store() {
            Store::Postgres(pool) => patiently(pool, &statement, until).await,
            Store::Sqlite(database) if writes => {
                database.write(until, move |session| now(session.fetch(&statement, &mut NoPages))).await
            }
            Store::Sqlite(database) => {
                database.read(until, move |session| now(session.fetch(&statement, &mut NoPages))).await
            }
        };
        rows.map_err(|error| error.class.failure(&error.message))
    }
}

/// On a connection whose statements may take longer than those of requests.
async fn patiently(pool: &Postgres, statement: &Statement, until: Instant) -> Result<Rows, StoreError> {
    let mut connection = pool.dedicated(until.into()).await?;
    let settings = Template::fixed("SELECT set_config('statement_timeout', '0', false)", &[SqlType::TEXT]);
    let settings = Statement { template: Arc::new(settings), binds: Vec::new() };
    connection.fetch(&settings, &mut NoPages).await?;
    connection.fetch(statement, &mut NoPages).await
}
