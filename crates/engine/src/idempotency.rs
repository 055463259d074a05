//! What was answered to a request with an `Idempotency-Key`, so that it is not done twice.
//!
//! A [`Record`] is the answer to one request. In *transactional mode* (operations and procedures of a schema, see
//! [`Engine::run_keyed`](crate::Engine::run_keyed)) it is inserted by the very transaction that has the effect: both are there, or neither is, and
//! no request is ever found in the middle. In *reservation mode* (routes of the host, see [`store`]) the effect is elsewhere, and
//! the record says first that somebody is at it.
//!
//! Both keep their records in one table, whose rows are found by the scope of the caller and the key.

pub mod desk;

use std::borrow::Cow;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use cratestack_schema::hex;
use cratestack_schema::ir::{ModelId, Scalar, Schema};
use cratestack_schema::value::{Value, instant};

use crate::api::{Answer, Caller, Code, Failure, Key};
use crate::logs;
use crate::plan::write::Kind;
use crate::sql::{Bind, BindKind, Dialect, KeyedPart, SqlType, Statement, Template, ident};
use crate::storage::literal;

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
        lines(&self.headers)
    }

    /// What is kept where the body has more than `limit` octets: that it was done, and what to know the body by again.
    #[must_use]
    pub fn effect_only(&self) -> Self {
        let mut headers: Vec<_> = self.headers.iter().filter(|(name, _)| name != "content-type").cloned().collect();
        if let Some(body) = &self.body {
            let digest = BASE64.encode(digest::digest(&digest::SHA256, body));
            headers.push((REPR_DIGEST.to_owned(), format!("sha-256=:{digest}:")));
        }
        Self { status: self.status, headers, body: None }
    }

    /// What is kept.
    pub fn kept(&self, limit: usize) -> (State, Cow<'_, Self>) {
        match &self.body {
            Some(body) if body.len() <= limit => (State::Done, Cow::Borrowed(self)),
            Some(_) => (State::EffectOnly, Cow::Owned(self.effect_only())),
            None => (State::EffectOnly, Cow::Borrowed(self)),
        }
    }

    /// Reads [`Self::header_lines`].
    pub fn parse_headers(lines: &str) -> Vec<(String, String)> {
        let header = |line: &str| line.split_once(": ").map(|(name, value)| (name.to_owned(), value.to_owned()));
        lines.lines().filter_map(header).collect()
    }
}

/// The digest of a body that is not kept (RFC 9530).
pub const REPR_DIGEST: &str = "repr-digest";

/// The headers as they are stored.
pub(crate) fn lines(headers: &[(String, String)]) -> String {
    let lines: Vec<String> = headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    lines.join("\n")
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
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Done, Self::EffectOnly, Self::Started, Self::Unknown];

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
        Self::ALL.into_iter().find(|state| state.code() == code)
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
    // Rows come in about the order in which they go, so that most of them are added at the end of it.
    let expiry = format!("CREATE INDEX IF NOT EXISTS {TABLE}_expiry_idx ON {TABLE} (expires_at)");
    vec![table, expiry]
}

/// How keys are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyLimits {
    /// How long a key counts.
    pub retention: Duration,
    /// How long a request waits for the one with its key that is being done.
    pub wait: Duration,
    /// Octets of an answer's body at most that are kept; of a longer one [`Record::effect_only`].
    pub body: usize,
}

/// A request with a key, in transactional mode.
#[derive(Debug, Clone)]
pub struct Keyed {
    /// Whose it is, and which.
    pub identity: Identity,
    /// How it is kept.
    pub limits: KeyLimits,
    /// Makes its answer.
    pub present: Arc<dyn Present>,
}

/// What was done, to be made into an answer.
#[derive(Debug)]
pub enum Outcome {
    /// What an operation did.
    Done(Answer),
    /// What a procedure gives, as JSON.
    Called(String),
    /// Why the body of a procedure refused.
    Refused(Failure),
}

/// Makes answers. It is asked before the transaction is committed, so that what cannot be told is not done; a second time
/// where the transaction runs again.
pub trait Present: Debug + Send + Sync {
    /// The answer, whole.
    ///
    /// # Errors
    /// What the caller is told in its place; nothing is committed then.
    fn present(&self, outcome: Outcome) -> Result<Record, Failure>;

    /// The answer to a write of one row before that is done, for PostgreSQL to fill in. `None` where the answer cannot be
    /// told beforehand.
    fn stencil(&self, sketch: &Sketch) -> Option<Stencil>;
}

/// What is known of a write before it is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sketch {
    /// What is done.
    pub kind: Kind,
    /// The key of the row; of one that the database makes [`KEY_MARK`].
    pub key: Key,
    /// Whether the row has a version.
    pub versioned: bool,
}

/// Stands for the version that the row gets. Like the next one it is nothing that a URL can have in it, and so no part of a
/// `Location`, whose end is of the caller's choice.
pub const VERSION_MARK: &str = "<cratestack-version>";
/// Stands for the first half of the SHA-256 of the row's JSON, in hexadecimal digits.
pub const DIGEST_MARK: &str = "<cratestack-digest>";
/// Stands for the key that the database gives to the row. It can be in a URL.
pub const KEY_MARK: &str = "~cratestack-key~";

/// An answer whose body, and what [the marks](VERSION_MARK) stand for, is not known yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stencil {
    /// For a caller who may read the row as it is now.
    pub seen: Outline,
    /// For one who may not.
    pub hidden: Outline,
    /// Whether the row is the body of `seen`.
    pub body: bool,
}

impl Stencil {
    /// The answer, given whether the caller may read the row, its version, the key that the database gave it, and its JSON.
    pub(crate) fn fill(&self, readable: bool, version: &str, key: &str, body: &str) -> Record {
        let Outline { status, headers } = if readable { &self.seen } else { &self.hidden };
        let filled = |value: &String| {
            let mut value = value.replace(VERSION_MARK, version);
            // A key of the caller's may look like it.
            if !key.is_empty() {
                value = value.replace(KEY_MARK, key);
            }
            if value.contains(DIGEST_MARK) {
                let digest = digest::digest(&digest::SHA256, body.as_bytes());
                value = value.replace(DIGEST_MARK, &hex(digest.as_ref().get(..16).unwrap_or_default()));
            }
            value
        };
        let headers = headers.iter().map(|(name, value)| (name.clone(), filled(value))).collect();
        let body = if readable && self.body { body.as_bytes().to_vec() } else { Vec::new() };
        Record { status: *status, headers, body: Some(body) }
    }
}

/// Status and headers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outline {
    /// The status.
    pub status: u16,
    /// Names and values.
    pub headers: Vec<(String, String)>,
}

/// The answer to a request with a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// The answer: whole, unless it was given before.
    pub record: Record,
    /// Whether it was given before, and nothing was done now.
    pub replayed: bool,
}

impl Keyed {
    /// What the table says of a request with the same key.
    ///
    /// # Errors
    /// [`Code::IdempotencyKeyReused`] when it was another request.
    pub(crate) fn replay(&self, found: Found) -> Result<Kept, Failure> {
        if verify_slices_are_equal(&found.fingerprint, &self.identity.fingerprint).is_err() {
            let detail = "the key was used for another request; a new request needs a new key";
            return Err(Failure::new(Code::IdempotencyKeyReused, detail));
        }
        match State::of(found.state) {
            Some(State::Done | State::EffectOnly) => Ok(Kept { record: found.record, replayed: true }),
            // In the same table, but of a route of the host's with the same scope and key: its fingerprint is another.
            _ => Err(in_flight()),
        }
    }

    /// The row of the table for this request.
    pub(crate) fn entry(&self, caller: &Caller, now: i64) -> Entry {
        let at = |micros: i64| instant::from_unix_micros(micros).unwrap_or_else(|| LAST.to_owned());
        let kept = self.limits.retention.saturating_add(ALLOWANCE);
        let kept = i64::try_from(kept.as_micros()).unwrap_or(i64::MAX);
        Entry {
            identity: self.identity.clone(),
            op: caller.origin.op.to_string(),
            model: None,
            primary_key: None,
            request_id: caller.request_id.clone(),
            created: at(now),
            expires: at(now.saturating_add(kept)),
        }
    }
}

/// The last instant that has a canonical text.
const LAST: &str = "9999-12-31T23:59:59.999999Z";

/// That another request with the same key is being done.
pub(crate) fn in_flight() -> Failure {
    Failure::new(
        Code::IdempotencyInFlight,
        "a request with the same key, or one that holds its row, is being done; ask again in a moment",
    )
}

/// A row of the table, as far as it matters to a request with its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) fingerprint: Vec<u8>,
    pub(crate) state: i64,
    pub(crate) record: Record,
}

impl Found {
    /// Reads the columns of [`FOUND`].
    pub(crate) fn of(columns: &[Value]) -> Option<Self> {
        let [Value::Bytes(fingerprint), Value::Int(state), status, headers, body, ..] = columns else { return None };
        let status = if let Value::Int(status) = status { u16::try_from(*status).ok()? } else { 0 };
        let headers = if let Value::Text(lines) = headers { Record::parse_headers(lines) } else { Vec::new() };
        let body = if let Value::Bytes(octets) = body { Some(octets.clone()) } else { None };
        Some(Self { fingerprint: fingerprint.clone(), state: *state, record: Record { status, headers, body } })
    }
}

/// The columns that [`Found`] is read from, and their types.
pub(crate) const FOUND: [(&str, SqlType); 5] = [
    ("fingerprint", BYTES),
    ("state", SqlType::INT),
    ("status", SqlType::INT),
    ("headers", SqlType::TEXT),
    ("body", BYTES),
];

pub(crate) const BYTES: SqlType = SqlType::scalar(Scalar::Bytes);

/// What a new row of the table says besides the answer.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) identity: Identity,
    pub(crate) op: String,
    pub(crate) model: Option<String>,
    pub(crate) primary_key: Option<String>,
    pub(crate) request_id: String,
    pub(crate) created: String,
    pub(crate) expires: String,
}

/// The columns of a new row, in order.
pub(crate) const COLUMNS: &str =
    "scope, key, fingerprint, state, status, headers, body, op, model, primary_key, request_id, created_at, expires_at";

/// The statements on the table.
#[derive(Debug)]
pub(crate) struct Statements {
    find: Arc<Template>,
    insert: Arc<Template>,
    insert_within: Arc<Template>,
    sweep: Arc<Template>,
    erase: Arc<Template>,
}

impl Statements {
    pub(crate) fn new(dialect: Dialect) -> Self {
        let sigil = if dialect == Dialect::Postgres { '$' } else { '?' };
        let cast = |ty: &'static str| if dialect == Dialect::Postgres { ty } else { "" };
        let columns: Vec<String> = FOUND
            .iter()
            .map(|(name, ty)| format!("{name}{}", cast(if *ty == SqlType::INT { "::bigint" } else { "" })))
            .collect();
        let types = FOUND.map(|(_, ty)| ty);
        let find = format!("SELECT {} FROM {TABLE} WHERE scope = {sigil}1 AND key = {sigil}2", columns.join(", "));
        let values = (1..=13).map(|at| {
            let ty = match at {
                4 | 5 => "::bigint",
                12 | 13 => "::text::timestamptz",
                _ => "",
            };
            format!("{sigil}{at}{}", cast(ty))
        });
        let values = values.collect::<Vec<_>>().join(", ");
        let insert = format!("INSERT INTO {TABLE} ({COLUMNS}) VALUES ({values})");
        let insert_within = format!(
            "WITH cratestack_wait AS MATERIALIZED (SELECT set_config('lock_timeout', $14, true)) \
             INSERT INTO {TABLE} ({COLUMNS}) SELECT {values} FROM cratestack_wait"
        );
        // Several processes share the work; who holds a row, does something with it.
        let (row, skip, now) = match dialect {
            // One server whose clock is ahead is not to remove what others still keep.
            Dialect::Postgres => ("ctid", " FOR UPDATE SKIP LOCKED", "least($1::text::timestamptz, now())"),
            Dialect::Sqlite => ("rowid", "", "?1"),
        };
        let sweep = format!(
            "DELETE FROM {TABLE} WHERE {row} IN (SELECT {row} FROM {TABLE} WHERE expires_at < {now} LIMIT {SWEPT}{skip}) \
             RETURNING 1{}",
            cast("::bigint"),
        );
        let keys = match dialect {
            Dialect::Postgres => "= ANY($2::text[])",
            Dialect::Sqlite => "IN (SELECT value FROM json_each(?2))",
        };
        let erase = format!(
            "UPDATE {TABLE} SET state = {}, body = NULL WHERE model = {sigil}1 AND body IS NOT NULL \
             AND (primary_key {keys} OR primary_key IS NULL)",
            State::EffectOnly.code()
        );
        let fixed = |sql: &str, types: &[SqlType]| Arc::new(Template::fixed(sql, types));
        Self {
            erase: fixed(&erase, &[]),
            find: fixed(&find, &types),
            insert: fixed(&insert, &[]),
            insert_within: fixed(&insert_within, &[]),
            sweep: fixed(&sweep, &[SqlType::INT]),
        }
    }

    /// Gives the row of a request, if there is one.
    pub(crate) fn find(&self, identity: &Identity) -> Statement {
        let binds = vec![Bind::Bytes(identity.scope.to_vec()), Bind::Text(identity.key.clone())];
        Statement { template: Arc::clone(&self.find), binds }
    }

    /// Adds a row. There must be none: a race fails the transaction.
    pub(crate) fn insert(&self, entry: &Entry, record: &Record, limit: usize) -> Statement {
        let Identity { scope, key, fingerprint } = &entry.identity;
        let (state, record) = record.kept(limit);
        let text = |text: &Option<String>| text.clone().map_or(Bind::Null(BindKind::Text), Bind::Text);
        let binds = vec![
            Bind::Bytes(scope.to_vec()),
            Bind::Text(key.clone()),
            Bind::Bytes(fingerprint.to_vec()),
            Bind::Int(state.code()),
            Bind::Int(i64::from(record.status)),
            Bind::Text(record.header_lines()),
            record.body.clone().map_or(Bind::Null(BindKind::Bytes), Bind::Bytes),
            Bind::Text(entry.op.clone()),
            text(&entry.model),
            text(&entry.primary_key),
            Bind::Text(entry.request_id.clone()),
            Bind::Text(entry.created.clone()),
            Bind::Text(entry.expires.clone()),
        ];
        Statement { template: Arc::clone(&self.insert), binds }
    }

    /// Removes the bodies of answers that show these rows of a model, as their keys are in the trail; of batches too, which
    /// might.
    pub(crate) fn erase(&self, dialect: Dialect, model: &str, keys: Vec<String>) -> Statement {
        let keys = match dialect {
            Dialect::Postgres => Bind::TextList(keys),
            Dialect::Sqlite => Bind::Text(serde_json::Value::from(keys).to_string()),
        };
        Statement { template: Arc::clone(&self.erase), binds: vec![Bind::Text(model.to_owned()), keys] }
    }

    /// The same on PostgreSQL outside of any transaction, where another request may be adding the very row: waits so long for
    /// what becomes of that.
    pub(crate) fn insert_within(&self, entry: &Entry, record: &Record, limit: usize, wait: Duration) -> Statement {
        let Statement { mut binds, .. } = self.insert(entry, record, limit);
        binds.push(Bind::Text(lock_timeout(wait)));
        Statement { template: Arc::clone(&self.insert_within), binds }
    }

    /// Removes rows that have expired by `now`, [`SWEPT`] at most; a row of the answer for each.
    pub(crate) fn sweep(&self, now: &str) -> Statement {
        Statement { template: Arc::clone(&self.sweep), binds: vec![Bind::Text(now.to_owned())] }
    }
}

/// Rows that one statement removes: short transactions keep nobody waiting.
pub(crate) const SWEPT: usize = 1000;

/// The number of the lock that PostgreSQL knows a request by. Two may have the same, and then wait for each other. Nobody
/// outside can make them: the digest is of the caller's scope as well.
pub(crate) fn lock(identity: &Identity) -> i64 {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(b"cratestack idempotency");
    context.update(&identity.scope);
    context.update(identity.key.as_bytes());
    context.finish().as_ref().first_chunk().map_or(0, |octets| i64::from_be_bytes(*octets))
}

/// A time as PostgreSQL's `lock_timeout`: at least 1 ms, since 0 would be for ever, and no more than it takes.
pub(crate) fn lock_timeout(wait: Duration) -> String {
    format!("{}ms", wait.as_millis().clamp(1, i32::MAX as u128))
}

/// Removes the bodies of answers that show one row of a model which is not there any more; of batches too, which might, where these
/// are meant.
pub(crate) fn forget(schema: &Schema, id: ModelId, dialect: Dialect, batches: bool) -> Statement {
    let model = schema.model(id);
    let writer = logs::Writer { schema, id, model, dialect };
    let sql = format!(
        "UPDATE {TABLE} SET state = {}, body = NULL WHERE model = {} AND body IS NOT NULL \
         AND (primary_key IS NOT NULL AND primary_key NOT IN (SELECT {} FROM {} AS r){})",
        State::EffectOnly.code(),
        literal(&model.name),
        writer.key("r"),
        ident(&model.table),
        if batches { " OR primary_key IS NULL" } else { "" },
    );
    Statement { template: Arc::new(Template::fixed(&sql, &[])), binds: Vec::new() }
}

/// What PostgreSQL is to record in the statement of a write.
#[derive(Debug, Clone)]
pub struct Note {
    pub(crate) entry: Entry,
    pub(crate) stencil: Stencil,
    pub(crate) limit: usize,
    pub(crate) wait: Duration,
}

impl Note {
    /// The bound form of a part.
    pub(crate) fn bind(&self, part: KeyedPart) -> Bind {
        use KeyedPart as Part;
        let Identity { scope, key, fingerprint } = &self.entry.identity;
        let Stencil { seen, hidden, .. } = &self.stencil;
        match part {
            Part::Scope => Bind::Bytes(scope.to_vec()),
            Part::Key => Bind::Text(key.clone()),
            Part::Fingerprint => Bind::Bytes(fingerprint.to_vec()),
            Part::Op => Bind::Text(self.entry.op.clone()),
            Part::PrimaryKey => self.entry.primary_key.clone().map_or(Bind::Null(BindKind::Text), Bind::Text),
            Part::RequestId => Bind::Text(self.entry.request_id.clone()),
            Part::Created => Bind::Text(self.entry.created.clone()),
            Part::Expires => Bind::Text(self.entry.expires.clone()),
            Part::SeenStatus => Bind::Int(i64::from(seen.status)),
            Part::SeenHeaders => Bind::Text(lines(&seen.headers)),
            Part::HiddenStatus => Bind::Int(i64::from(hidden.status)),
            Part::HiddenHeaders => Bind::Text(lines(&hidden.headers)),
            Part::Limit => Bind::Int(i64::try_from(self.limit).unwrap_or(i64::MAX)),
            Part::Wait => Bind::Text(lock_timeout(self.wait)),
        }
    }
}
