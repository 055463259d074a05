//! A database for each run, and what it holds at the end.

use std::collections::BTreeMap;
use std::path::PathBuf;

use cratestack_engine::storage::unsortable;
use cratestack_engine::{Database, migrate};
use cratestack_schema::ir::{Field, FieldType, Model, Scalar, Schema};
use sqlx::{Connection as _, Executor as _, Row as _};
use tempfile::TempDir;

use crate::json::{Node, quote};

/// The variable with the PostgreSQL server's URL; `cargo xtask test` sets it.
pub const SERVER: &str = "CRATESTACK_TEST_POSTGRES";

/// Identifies the advisory locks by which tests share out databases: (this, number of the database).
const LOCK: i32 = 7_305_792;
/// Tests at once, at most.
const SLOTS: u32 = 255;

/// A database product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// An SQLite file of its own.
    Sqlite,
    /// A database on the test server.
    Postgres,
}

impl Backend {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Sqlite, Self::Postgres];

    /// As cases write it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgresql",
        }
    }
}

/// An empty database for one test alone, and a connection to it that knows nothing of the engine.
pub struct TestDatabase {
    connection: Raw,
    place: Place,
}

enum Place {
    Sqlite { file: PathBuf, _folder: TempDir },
    Postgres { url: String, lock: Box<sqlx::PgConnection> },
}

enum Raw {
    Sqlite(rusqlite::Connection),
    Postgres(sqlx::PgConnection),
}

impl TestDatabase {
    /// Makes one.
    pub async fn new(backend: Backend) -> Self {
        match backend {
            Backend::Sqlite => {
                // Files in memory: durability is not what a case proves, and an fsync would be most of its time.
                let memory = std::path::Path::new("/dev/shm");
                let folder = if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() }.unwrap();
                let file = folder.path().join("case.db");
                let connection = rusqlite::Connection::open(&file).unwrap();
                connection.busy_timeout(std::time::Duration::from_secs(10)).unwrap();
                Self { connection: Raw::Sqlite(connection), place: Place::Sqlite { file, _folder: folder } }
            }
            Backend::Postgres => {
                let (url, connection, lock) = borrow().await;
                Self { connection: Raw::Postgres(connection), place: Place::Postgres { url, lock: Box::new(lock) } }
            }
        }
    }

    /// What the engine opens.
    pub fn database(&self) -> Database {
        match &self.place {
            Place::Sqlite { file, .. } => Database::SqliteFile(file.clone()),
            Place::Postgres { url, .. } => Database::Postgres(url.clone()),
        }
    }

    /// Makes the tables of a schema.
    pub async fn create(&mut self, schema: &Schema) {
        let mut db = match &mut self.connection {
            Raw::Sqlite(connection) => migrate::Db::Sqlite(connection),
            Raw::Postgres(connection) => migrate::Db::Postgres(connection),
        };
        migrate::apply_create(&mut db, schema, [7; 32], &mut |_| {}).await.expect("the schema's tables can be made");
    }

    /// Runs a statement past the engine: how many rows it touched, or that the database refused it.
    pub async fn execute(&mut self, sql: &str) -> String {
        let outcome = match &mut self.connection {
            Raw::Sqlite(connection) => connection.execute(sql, []).map(|rows| rows as u64).map_err(|e| e.to_string()),
            Raw::Postgres(connection) => {
                let done = connection.execute(sqlx::AssertSqlSafe(sql)).await;
                done.map(|done| done.rows_affected()).map_err(|error| error.to_string())
            }
        };
        match outcome {
            Ok(rows) => format!("{rows} rows"),
            // The messages differ between databases; a mistake in the case must not look like a refusal.
            Err(error) if error.contains("syntax") || error.contains("no such") || error.contains("does not exist") => {
                panic!("`{sql}`: {error}")
            }
            Err(_) => "refused".to_owned(),
        }
    }

    /// Rows of a query, every column as text.
    async fn query(&mut self, sql: &str, columns: usize) -> Vec<Vec<Option<String>>> {
        match &mut self.connection {
            Raw::Sqlite(connection) => {
                let mut statement = connection.prepare(sql).unwrap();
                let rows = statement.query_map([], |row| (0..columns).map(|at| row.get(at)).collect()).unwrap();
                rows.map(Result::unwrap).collect()
            }
            Raw::Postgres(connection) => {
                let rows = connection.fetch_all(sqlx::AssertSqlSafe(sql)).await.unwrap();
                rows.iter().map(|row| (0..columns).map(|at| row.get(at)).collect()).collect()
            }
        }
    }

    /// The rows of a table, in key order, one JSON object a line.
    pub async fn dump(&mut self, schema: &Schema, table: &str) -> Result<Vec<String>, String> {
        let model = schema.models.iter().find(|model| model.table == table);
        let model = model.ok_or_else(|| format!("no model has the table `{table}`"))?;
        let mut columns: Vec<(&str, Option<&Field>)> =
            model.fields.iter().map(|field| (field.column.as_str(), Some(field))).collect();
        if model.soft_delete.is_some() {
            columns.push(("deletion_id", None));
        }
        let sqlite = matches!(self.connection, Raw::Sqlite(_));
        let list = columns.iter().map(|(column, field)| select(column, *field, sqlite)).collect::<Vec<_>>().join(", ");
        let sql = format!("SELECT {list} FROM {} AS t ORDER BY {}", identifier(table), order(model));
        let mut deletions = BTreeMap::new();
        let rows = self.query(&sql, columns.len()).await;
        let rows = rows.iter().map(|row| {
            let cells = row.iter().zip(&columns).map(|(cell, (column, field))| {
                let value = match (cell, field) {
                    (None, _) => Node::Leaf("null".to_owned()),
                    (Some(text), Some(field)) => value(text, field, sqlite),
                    // Its value is of no account; that rows share one is.
                    (Some(text), None) => {
                        let next = deletions.len() + 1;
                        Node::Leaf(quote(&format!("#{}", deletions.entry(text.clone()).or_insert(next))))
                    }
                };
                (quote(column), value)
            });
            Node::Object(cells.collect()).compact()
        });
        Ok(rows.collect())
    }

    /// The events of the audit trail: what each says that does not differ from run to run. Those of one request are in
    /// the order of their rows, since the databases fire triggers of different tables in different orders.
    pub async fn trail(&mut self, schema: &Schema) -> Vec<String> {
        if !cratestack_engine::audit::any(schema) {
            return vec!["no trail".to_owned()];
        }
        let rows = self.query("SELECT entry FROM cratestack_audit ORDER BY seq", 1).await;
        let entry = |row: &Vec<Option<String>>| -> serde_json::Value {
            let mut entry: serde_json::Value = serde_json::from_str(row[0].as_deref().unwrap_or_default()).unwrap();
            let outside = entry["out_of_band"] == true;
            let members = entry.as_object_mut().expect("an entry is an object");
            for varies in ["at", "db_user", "event_id", "schema_version", "service", "typ", "v"] {
                members.remove(varies).expect("an entry has every member");
            }
            let actor = members["actor"].as_object_mut().expect("an actor is an object");
            actor.remove("client_ip").expect("an actor has an address");
            if outside {
                actor.remove("subject").expect("an actor has a subject");
            }
            entry
        };
        let mut entries: Vec<_> = rows.iter().map(entry).collect();
        let place = |entry: &serde_json::Value| [&entry["model"], &entry["primary_key"]].map(ToString::to_string);
        let of_one = |a: &serde_json::Value, b: &serde_json::Value| a["request_id"] == b["request_id"];
        entries.chunk_by_mut(of_one).for_each(|request| request.sort_by_key(place));
        entries.iter().map(ToString::to_string).collect()
    }

    /// The events of the outbox: what each says that does not differ from run to run. Those of one row are in their
    /// order; between rows there is none.
    pub async fn outbox(&mut self, schema: &Schema) -> Vec<String> {
        if !cratestack_engine::outbox::any(schema) {
            return vec!["no outbox".to_owned()];
        }
        let rows = self.query("SELECT entry FROM cratestack_outbox ORDER BY model, primary_key, seq", 1).await;
        let entry = |row: &Vec<Option<String>>| {
            let mut entry: serde_json::Value = serde_json::from_str(row[0].as_deref().unwrap_or_default()).unwrap();
            let members = entry.as_object_mut().expect("an entry is an object");
            for varies in ["id", "time"] {
                members.remove(varies).expect("an entry has every member");
            }
            entry.to_string()
        };
        rows.iter().map(entry).collect()
    }

    /// Name, columns, uniqueness and partiality of a table's indexes but that of the primary key, by name.
    pub async fn indexes(&mut self, table: &str) -> Vec<String> {
        let sql = match &self.connection {
            Raw::Sqlite(_) => format!(
                "SELECT l.name || ' (' || (SELECT group_concat(name, ', ') FROM (SELECT name FROM pragma_index_info(l.name)
                     ORDER BY seqno)) || ')' || iif(l.\"unique\", ' unique', '') || iif(l.partial, ' partial', '')
                 FROM pragma_index_list('{table}') AS l WHERE l.origin <> 'pk' ORDER BY 1"
            ),
            Raw::Postgres(_) => format!(
                "SELECT c.relname || ' (' || (SELECT string_agg(a.attname, ', ' ORDER BY k.at)
                     FROM unnest(i.indkey) WITH ORDINALITY AS k(number, at)
                     JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number) || ')'
                     || CASE WHEN i.indisunique THEN ' unique' ELSE '' END
                     || CASE WHEN i.indpred IS NULL THEN '' ELSE ' partial' END
                 FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
                 WHERE i.indrelid = '{}'::regclass AND NOT i.indisprimary ORDER BY c.relname COLLATE \"C\"",
                identifier(table)
            ),
        };
        self.query(&sql, 1).await.into_iter().flatten().flatten().collect()
    }

    /// Gives the database back.
    pub async fn remove(self) {
        if let (Raw::Postgres(connection), Place::Postgres { lock, .. }) = (self.connection, self.place) {
            connection.close().await.unwrap();
            lock.close().await.unwrap();
        }
    }
}

/// Whether PostgreSQL runs are left out, as `--only sqlite` asks.
pub fn sqlite_only() -> bool {
    std::env::var("CRATESTACK_TEST_ONLY").is_ok_and(|only| only == "sqlite")
}

fn server_url() -> String {
    std::env::var(SERVER).unwrap_or_else(|_| {
        panic!("{SERVER} is not set: run `cargo xtask test`, or set it to the URL of a PostgreSQL server")
    })
}

/// Takes a database of our own that no other test uses now, and empties it: its URL, a connection to it, and the
/// connection whose lock holds it. The lock ends with that connection, however the test ends.
async fn borrow() -> (String, sqlx::PgConnection, sqlx::PgConnection) {
    let mut server = sqlx::PgConnection::connect(&server_url()).await.expect("the PostgreSQL server can be reached");
    let free = format!("SELECT n FROM generate_series(0, {SLOTS}) AS n WHERE pg_try_advisory_lock({LOCK}, n) LIMIT 1");
    let slot: i32 = server.fetch_one(sqlx::AssertSqlSafe(free)).await.expect("a test database is free").get(0);
    let name = format!("cratestack_test_{slot}");
    let exists = format!("SELECT FROM pg_database WHERE datname = '{name}'");
    if server.fetch_optional(sqlx::AssertSqlSafe(exists)).await.unwrap().is_none() {
        // ICU collation shows a missing `COLLATE "C"`.
        let create =
            format!("CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8' LOCALE_PROVIDER icu ICU_LOCALE 'en-US'");
        server.execute(sqlx::AssertSqlSafe(create)).await.expect("a test database can be made");
    }
    let url = server_url();
    let (rest, query) = url.split_once('?').map_or((url.as_str(), String::new()), |(u, q)| (u, format!("?{q}")));
    let base = rest.rsplit_once('/').map_or(rest, |(base, _)| base);
    let url = format!("{base}/{name}{query}");
    let mut connection = sqlx::PgConnection::connect(&url).await.unwrap();
    // Emptying costs a tenth of making a copy of a template.
    connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public").await.unwrap();
    (url, connection, server)
}

fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn order(model: &Model) -> String {
    let column = |field| format!("t.{}", identifier(&model.field(field).column));
    model.key.iter().map(|field| column(*field)).collect::<Vec<_>>().join(", ")
}

/// A column as text that loses nothing.
fn select(column: &str, field: Option<&Field>, sqlite: bool) -> String {
    let column = format!("t.{}", identifier(column));
    let list = field.is_some_and(|field| field.list);
    match (sqlite, field.and_then(Field::scalar)) {
        (true, Some(Scalar::Bytes)) => format!("iif({column} IS NULL, NULL, lower(hex({column})))"),
        (true, Some(Scalar::Float)) => format!("iif({column} IS NULL, NULL, printf('%!.17g', {column}))"),
        (true, _) => format!("CAST({column} AS TEXT)"),
        (false, _) if list => format!("to_json({column})::text"),
        (false, Some(Scalar::Bytes)) => format!("encode({column}, 'hex')"),
        (false, Some(Scalar::DateTime)) => {
            format!("to_char({column} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')")
        }
        (false, _) => format!("{column}::text"),
    }
}

/// The JSON of a stored value, the same for both databases.
fn value(text: &str, field: &Field, sqlite: bool) -> Node {
    if field.list {
        return Node::parse(text).unwrap_or_else(|| panic!("`{text}` is not JSON"));
    }
    let leaf = |text: &str| Node::Leaf(text.to_owned());
    let FieldType::Scalar(scalar) = field.ty else { return leaf(&quote(text)) };
    match scalar {
        Scalar::Int | Scalar::BigInt => leaf(text),
        Scalar::Float => leaf(&format!("{:?}", text.parse::<f64>().unwrap())),
        Scalar::Boolean => leaf(match text {
            "1" | "true" => "true",
            "0" | "false" => "false",
            other => panic!("`{other}` is no boolean"),
        }),
        Scalar::Json => Node::parse(text).unwrap_or_else(|| panic!("`{text}` is not JSON")),
        Scalar::Decimal(precision) if sqlite => leaf(&quote(&match precision {
            Some(precision) if precision.precision <= 18 => scaled(text, precision.scale as usize),
            _ => padded(&unsortable(text).unwrap(), precision.map_or(0, |precision| precision.scale as usize)),
        })),
        Scalar::Decimal(None) => leaf(&quote(&padded(text, 0))),
        _ => leaf(&quote(text)),
    }
}

/// `-12345` with four places is `-1.2345`.
fn scaled(text: &str, places: usize) -> String {
    if places == 0 {
        return text.to_owned();
    }
    let (sign, digits) = text.strip_prefix('-').map_or(("", text), |digits| ("-", digits));
    let digits = format!("{digits:0>width$}", width = places + 1);
    let (whole, fraction) = digits.split_at(digits.len() - places);
    format!("{sign}{whole}.{fraction}")
}

/// Plain notation with at least that many places, and no zeros beyond them.
fn padded(text: &str, places: usize) -> String {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let fraction = format!("{:0<places$}", fraction.trim_end_matches('0'));
    if fraction.is_empty() { whole.to_owned() } else { format!("{whole}.{fraction}") }
}

#[cfg(test)]
mod tests {
    use super::{padded, scaled};

    #[test]
    fn decimals_are_written_alike() {
        assert_eq!(scaled("-12345", 4), "-1.2345");
        assert_eq!(scaled("5", 4), "0.0005");
        assert_eq!(scaled("-5", 2), "-0.05");
        assert_eq!(padded("1.500", 0), "1.5");
        assert_eq!(padded("1000", 0), "1000");
        assert_eq!(padded("1.5", 4), "1.5000");
    }
}
