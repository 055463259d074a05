//! The audit trail under fire: a server is killed again and again, and so are its connections to PostgreSQL, while
//! clients write all the time. In the end every effect has its event, and every event its effect.
//!
//! `CRATESTACK_HAMMER_SECONDS` says for how long; 30 without it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, Row as _};

use support::{Server, command, request};

const SCHEMA: &str = r#"
auth User {
  id String
}

model Customer {
  id       Int       @id
  name     String    @pii
  version  Int       @version
  accounts Account[]

  @@soft_delete
  @@audit
  @@allow("all",     true)
  @@allow("restore", true)
}

model Account {
  id         Int            @id
  customerId Int
  balance    Decimal(18, 4) @default(0)
  version    Int            @version
  customer   Customer       @relation(fields: [customerId], references: [id], onDelete: Cascade)
  notes      Note[]

  @@soft_delete
  @@audit(denials)
  @@allow("all",     true)
  @@allow("restore", true)
}

model Note {
  id        Int     @id
  accountId Int
  text      String
  account   Account @relation(fields: [accountId], references: [id], onDelete: Cascade)

  @@audit
  @@allow("all", true)
}
"#;

const WRITERS: usize = 6;
const CUSTOMERS: u64 = 8;
/// Acknowledged requests between two disturbances, at most.
const CALM: u64 = 120;

/// The same each time, for the same seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// A database that outlives its servers.
enum Database {
    Sqlite(tempfile::TempDir),
    Postgres { server: String, name: String, url: String, folder: tempfile::TempDir },
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

impl Database {
    fn sqlite() -> Self {
        Self::Sqlite(tempfile::tempdir().unwrap())
    }

    fn postgres() -> Option<Self> {
        if std::env::var("CRATESTACK_TEST_ONLY").is_ok_and(|only| only == "sqlite") {
            return None;
        }
        let server = std::env::var("CRATESTACK_TEST_POSTGRES").expect("set CRATESTACK_TEST_POSTGRES to a server's URL");
        let name = format!("trail_{}", std::process::id());
        let (base, options) =
            server.split_once('?').map_or((server.as_str(), String::new()), |(b, o)| (b, format!("?{o}")));
        let url = format!("{}/{name}{options}", base.rsplit_once('/').unwrap().0);
        let database = Self::Postgres { server, name: name.clone(), url, folder: tempfile::tempdir().unwrap() };
        database.on_server(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"));
        database.on_server(&format!("CREATE DATABASE {name}"));
        Some(database)
    }

    fn folder(&self) -> &Path {
        match self {
            Self::Sqlite(folder) | Self::Postgres { folder, .. } => folder.path(),
        }
    }

    fn url(&self) -> String {
        match self {
            Self::Sqlite(_) => "sqlite:test.db".to_owned(),
            Self::Postgres { url, .. } => url.clone(),
        }
    }

    fn on_server(&self, sql: &str) {
        let Self::Postgres { server, .. } = self else { return };
        runtime().block_on(async {
            let mut connection = sqlx::PgConnection::connect(server).await.unwrap();
            connection.execute(AssertSqlSafe(sql)).await.unwrap();
        });
    }

    /// Kills what the server has open.
    fn kill_connections(&self) {
        let Self::Postgres { name, .. } = self else { return };
        self.on_server(&format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}' AND application_name = 'cratestack'"
        ));
    }

    /// The rows of a query, all columns text.
    fn texts(&self, sql: &str, columns: usize) -> Vec<Vec<String>> {
        match self {
            Self::Sqlite(folder) => {
                let connection = rusqlite::Connection::open(folder.path().join("test.db")).unwrap();
                let mut statement = connection.prepare(sql).unwrap();
                let rows = statement.query_map([], |row| (0..columns).map(|at| row.get(at)).collect()).unwrap();
                rows.map(Result::unwrap).collect()
            }
            Self::Postgres { url, .. } => runtime().block_on(async {
                let mut connection = sqlx::PgConnection::connect(url).await.unwrap();
                let rows = connection.fetch_all(AssertSqlSafe(sql)).await.unwrap();
                rows.iter().map(|row| (0..columns).map(|at| row.get(at)).collect()).collect()
            }),
        }
    }

    fn start(&self) -> Server {
        let url = self.url();
        let arguments = ["serve", "bank.cstack", "--database", &url, "--addr", "127.0.0.1:0", "--apply"];
        Server::spawn(command(self.folder()).args(arguments).args(["--auth", "dev", "--allow-dev-auth"]))
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let sql = match &*self {
            Self::Postgres { name, .. } => format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"),
            Self::Sqlite(_) => return,
        };
        self.on_server(&sql);
    }
}

/// What the clients share.
struct Field {
    address: Mutex<SocketAddr>,
    /// The last version that anybody was told of, by path.
    versions: Mutex<HashMap<String, String>>,
    over: AtomicBool,
    token: String,
}

/// An acknowledged write: its request, and how many rows it said it changed (at least).
struct Ack {
    request: String,
    effects: usize,
    /// Whether it may have reached rows that it did not name.
    cascades: bool,
}

fn write_until_over(field: &Field, writer: usize, acks: &Sender<Ack>) {
    let mut dice = Dice(writer as u64 + 1);
    for n in 0.. {
        if field.over.load(Ordering::Relaxed) {
            return;
        }
        let id = writer as u64 * 1_000_000 + n;
        let row = |dice: &mut Dice| {
            let known = field.versions.lock().unwrap();
            let paths: Vec<&String> = known.keys().collect();
            paths.get(usize::try_from(dice.roll(paths.len().max(1) as u64)).unwrap()).map(|path| (*path).clone())
        };
        let customer = dice.roll(CUSTOMERS);
        let (method, path, body) = match dice.roll(20) {
            0 => ("POST", "/api/customers".to_owned(), format!(r#"{{"id":{customer},"name":"n"}}"#)),
            1..=4 => ("POST", "/api/accounts".to_owned(), format!(r#"{{"id":{id},"customerId":{customer}}}"#)),
            5 => ("DELETE", format!("/api/customers/{customer}"), String::new()),
            6 => ("POST", format!("/api/customers/{customer}/restore"), String::new()),
            7 | 8 => {
                let item =
                    |at: u64| format!(r#"{{"op":"create","data":{{"id":{},"customerId":{customer}}}}}"#, id * 10 + at);
                let atomic = dice.roll(2) == 0;
                let items = [item(900_000_000), item(900_000_001), item(900_000_001)].join(",");
                let items = if atomic { item(900_000_000) } else { items };
                ("POST", "/api/accounts/batch".to_owned(), format!(r#"{{"atomic":{atomic},"items":[{items}]}}"#))
            }
            9 | 10 => match row(&mut dice) {
                Some(path) => {
                    let account = path.rsplit('/').next().unwrap().to_owned();
                    ("POST", "/api/notes".to_owned(), format!(r#"{{"id":{id},"accountId":{account},"text":"t"}}"#))
                }
                None => continue,
            },
            11 => match row(&mut dice) {
                Some(path) => ("DELETE", path, String::new()),
                None => continue,
            },
            12 => match row(&mut dice) {
                Some(path) => ("POST", format!("{path}/restore"), String::new()),
                None => continue,
            },
            _ => match row(&mut dice) {
                Some(path) => ("PATCH", path, format!(r#"{{"balance":"{id}.5"}}"#)),
                None => continue,
            },
        };
        let request_id = format!("w{writer}-{n}");
        let of = path.trim_end_matches("/restore").to_owned();
        let version = field.versions.lock().unwrap().get(&of).cloned().unwrap_or_else(|| "\"1\"".to_owned());
        let headers = [("Authorization", field.token.as_str()), ("X-Request-Id", &request_id), ("If-Match", &version)];
        let headers = if method == "POST" && !path.ends_with("/restore") { &headers[..2] } else { &headers[..] };
        let address = *field.address.lock().unwrap();
        // A server that is down, or dies: nobody knows what became of the request.
        let Ok(answer) = request(address, method, &path, headers, &body) else { continue };
        assert_ne!(answer.status, 500, "{method} {path} {body}: {answer:?}");
        if let Some(tag) = answer.header("etag") {
            let of = answer.header("location").map_or(of, str::to_owned);
            if of.starts_with("/api/accounts/") || of.starts_with("/api/customers/") && method != "POST" {
                field.versions.lock().unwrap().insert(of, tag.to_owned());
            }
        }
        let batch = path.ends_with("/batch");
        if batch && (answer.status == 200 || answer.status == 207) {
            let items = answer.json()["items"].as_array().unwrap().clone();
            let effects = items.iter().filter(|item| item["status"] == 201).count();
            acks.send(Ack { request: request_id, effects, cascades: false }).ok();
        } else if (200..300).contains(&answer.status) {
            let cascades = path.starts_with("/api/customers/");
            acks.send(Ack { request: request_id, effects: 1, cascades }).ok();
        }
    }
}

fn hammer(database: &Database) {
    let seconds = std::env::var("CRATESTACK_HAMMER_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(30);
    std::fs::write(database.folder().join("bank.cstack"), SCHEMA).unwrap();
    let mut server = database.start();
    let field = Arc::new(Field {
        address: Mutex::new(server.address),
        versions: Mutex::default(),
        over: AtomicBool::new(false),
        token: support::bearer(r#"{"id":"ann"}"#),
    });
    let (sender, receiver) = channel();
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (field, sender) = (Arc::clone(&field), sender.clone());
            std::thread::spawn(move || write_until_over(&field, writer, &sender))
        })
        .collect();
    drop(sender);

    let end = Instant::now() + Duration::from_secs(seconds);
    let (mut dice, mut acks, mut kills) = (Dice(99), Vec::new(), 0);
    while Instant::now() < end {
        for _ in 0..dice.roll(CALM) {
            match receiver.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(ack) => acks.push(ack),
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => panic!("the writers have failed"),
            }
        }
        kills += 1;
        if matches!(database, Database::Postgres { .. }) && dice.roll(2) == 0 {
            database.kill_connections();
        } else {
            // SIGKILL.
            server.stop();
            server = database.start();
            *field.address.lock().unwrap() = server.address;
        }
    }
    field.over.store(true, Ordering::Relaxed);
    acks.extend(receiver.iter());
    for writer in writers {
        writer.join().unwrap();
    }
    server.stop();
    assert!(kills > 5 && acks.len() > 500, "{kills} disturbances, {} acknowledged writes", acks.len());
    audit(database, &acks);
    println!("{kills} disturbances, {} acknowledged writes", acks.len());
}

/// Every effect has its event, and every event its effect.
fn audit(database: &Database, acks: &[Ack]) {
    let rows = database.texts("SELECT model, primary_key, entry FROM cratestack_audit ORDER BY seq", 3);
    let mut last: HashMap<(String, String), Value> = HashMap::new();
    let mut effects: HashMap<String, usize> = HashMap::new();
    let mut counts: HashMap<(String, String), i64> = HashMap::new();
    for row in rows {
        let entry: Value = serde_json::from_str(&row[2]).unwrap();
        if entry["operation"] == "denied" {
            continue;
        }
        assert_eq!(entry["out_of_band"], false, "{entry}");
        *effects.entry(entry["request_id"].as_str().unwrap().to_owned()).or_default() += 1;
        // Each begins where the one before ended.
        let key = (row[0].clone(), row[1].clone());
        let before = last.remove(&key).unwrap_or(Value::Null);
        assert_eq!(entry["before"], before, "{key:?}");
        *counts.entry(key.clone()).or_default() += 1;
        last.insert(key, entry["after"].clone());
    }
    for Ack { request, effects: wanted, cascades } in acks {
        let found = effects.get(request).copied().unwrap_or(0);
        let fits = found == *wanted || (*cascades && found >= *wanted);
        assert!(fits, "{request}: {wanted} effects acknowledged, {found} recorded");
    }
    // Each change counts a version, so that a missing event and one too many would both show.
    for (model, table) in [("Customer", "customers"), ("Account", "accounts")] {
        let sql = format!("SELECT CAST(id AS TEXT), CAST(version AS TEXT) FROM {table}");
        let rows = database.texts(&sql, 2);
        let events = counts.keys().filter(|(of, _)| of == model).count();
        assert_eq!(events, rows.len(), "{model}");
        for row in rows {
            let count = counts.get(&(model.to_owned(), row[0].clone())).copied().unwrap_or(0);
            assert_eq!(count.to_string(), row[1], "{model} {}: events, version", row[0]);
        }
    }
    let notes: i64 = database.texts("SELECT CAST(count(*) AS TEXT) FROM notes", 1)[0][0].parse().unwrap();
    let alive = last.iter().filter(|((model, _), after)| model == "Note" && !after.is_null()).count();
    assert_eq!(i64::try_from(alive).unwrap(), notes);
    let url = database.url();
    let reconciled = support::run(database.folder(), &["audit", "reconcile", "bank.cstack", "--database", &url]);
    assert_eq!(reconciled.status.code(), Some(0), "{}", support::text(&reconciled.stdout));
}

#[test]
fn every_effect_is_recorded_on_sqlite() {
    hammer(&Database::sqlite());
}

#[test]
fn every_effect_is_recorded_on_postgresql() {
    if let Some(database) = Database::postgres() {
        hammer(&database);
    }
}
