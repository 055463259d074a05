//! What was answered to a request with an `Idempotency-Key`, so that it is not done twice.
//!
//! A [`Record`] is the answer to one request. In *transactional mode* (operations and procedures of a schema, see
//! [`crate::engine::keyed`]) it is inserted by the very transaction that has the effect: both are there, or neither is, and
//! no request is ever found in the middle. In *reservation mode* (routes of the host, see [`store`]) the effect is elsewhere, and
//! the record says first that somebody is at it.
//!
//! Both keep their records in one table, whose rows are found by the scope of the caller and the key.

use std::time::Duration;

use crate::sql::Dialect;

pub mod store;

/// The table of records.
pub const TABLE: &str = "cratestack_idempotency";

/// Characters that a key may have.
pub const KEY_LENGTH: usize = 255;

/// How long a record is kept beyond its retention: clocks differ, and a key that carries its time may be that much ahead of them.
pub const ALLOWANCE: Duration = Duration::from_mins(10);

/// Whose request it is, and which one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    /// A digest of deployment, tenant and subject.
    pub scope: [u8; 32],
    /// The key, at most [`KEY_LENGTH`] printable ASCII characters.
    pub key: String,
    /// A digest of everything that makes it this request and no other.
    pub fingerprint: [u8; 32],
}

/// What was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The status.
    pub status: u16,
    /// Those headers that are given again, names in lower case.
    pub headers: Vec<(String, String)>,
    /// `None` where it was too large to be kept, or was erased with the row that it told of.
    pub body: Option<Vec<u8>>,
}

impl Record {
    /// The headers as they are stored: a line for each.
    pub fn header_lines(&self) -> String {
        let lines: Vec<String> = self.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        lines.join("\n")
    }

    /// Reads [`Self::header_lines`].
    pub fn parse_headers(lines: &str) -> Vec<(String, String)> {
        let header = |line: &str| line.split_once(": ").map(|(name, value)| (name.to_owned(), value.to_owned()));
        lines.lines().filter_map(header).collect()
    }
}

/// What a row of the table says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It was done, and this was the answer.
    Done,
    /// It was done, and the body of the answer is not kept.
    EffectOnly,
    /// Somebody is at it, until the lease ends (reservation mode).
    Started,
    /// It was begun, and nobody knows how it ended (reservation mode).
    Unknown,
}

impl State {
    /// How it is stored.
    pub fn code(self) -> i64 {
        match self {
            Self::Done => 1,
            Self::EffectOnly => 2,
            Self::Started => 3,
            Self::Unknown => 4,
        }
    }

    /// The state that is stored as `code`.
    pub fn of(code: i64) -> Option<Self> {
        [Self::Done, Self::EffectOnly, Self::Started, Self::Unknown].into_iter().find(|state| state.code() == code)
    }

    /// For people.
    pub fn word(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::EffectOnly => "effect_only",
            Self::Started => "started",
            Self::Unknown => "unknown",
        }
    }
}

/// The statements that make the table where it is not there yet. They may run any number of times.
///
/// Times are those of the process that writes, except `lease_until`, which processes have to agree about: that is the database's.
pub fn tables(dialect: Dialect) -> Vec<String> {
    let (octets, text, small, time) = match dialect {
        Dialect::Postgres => ("bytea", "text COLLATE \"C\"", "smallint", "timestamptz"),
        Dialect::Sqlite => ("BLOB", "TEXT", "INTEGER", "TEXT"),
    };
    let strict = if dialect == Dialect::Sqlite { " STRICT" } else { "" };
    let integer = if dialect == Dialect::Sqlite { "INTEGER" } else { "bigint" };
    let table = format!(
        "CREATE TABLE IF NOT EXISTS {TABLE} (\n  scope {octets} NOT NULL,\n  key {text} NOT NULL,\n  \
         fingerprint {octets} NOT NULL,\n  state {small} NOT NULL,\n  status {small},\n  headers {text},\n  body {octets},\n  \
         op {text} NOT NULL,\n  model {text},\n  primary_key {text},\n  request_id {text} NOT NULL,\n  token {integer},\n  \
         lease_until {time},\n  created_at {time} NOT NULL,\n  expires_at {time} NOT NULL,\n  \
         CONSTRAINT {TABLE}_pkey PRIMARY KEY (scope, key)\n){strict}"
    );
    // Rows come in about the order in which they go.
    let using = if dialect == Dialect::Postgres { "USING brin " } else { "" };
    let expiry = format!("CREATE INDEX IF NOT EXISTS {TABLE}_expiry_idx ON {TABLE} {using}(expires_at)");
    vec![table, expiry]
}
