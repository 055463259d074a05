//! The engine's vocabulary: what can be asked ([`Operation`]), what comes back ([`Answer`]), and how it is refused
//! ([`Failure`]). Nothing here knows of HTTP: the facade maps codes to statuses and versions to entity tags.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use cratestack_schema::ir::ModelId;
use cratestack_schema::value::Value;

use crate::json::Json;

/// Who asks, and under which request.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The verified principal; `None` is the anonymous caller.
    pub principal: Option<Principal>,
    /// Whether the rules bind it.
    pub authority: Authority,
    /// Identifies the request in logs, problems and the audit trail.
    pub request_id: String,
    /// How long the operation may take from now; the connection is closed when it passes.
    pub deadline: Duration,
    /// How the request came in.
    pub origin: Origin,
}

/// What a caller may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Authority {
    /// What the rules of the schema allow.
    #[default]
    Rules,
    /// What code of the service itself does, for which no rule is asked: every row is there, and fields that no request may
    /// send may be written: `@readonly` and `@server_only` ones and, in new rows, those whose default is `now()` or a claim.
    /// Validators, checks, versions, `@immutable`, `@@append_only` and the trail hold all the same.
    Service,
}

/// How a request came in: what the audit trail says besides who asked.
#[derive(Debug, Clone, Default)]
pub struct Origin {
    /// The route (`PATCH /accounts/{id}`) or the procedure.
    pub op: Arc<str>,
    /// How the caller was authenticated; `None` is a caller without credentials.
    pub auth: Option<AuthMethod>,
    /// The job of the service that acts where there is no principal; the subject in the trail.
    pub job: Option<Arc<str>>,
    /// The address of the peer.
    pub client_ip: Option<IpAddr>,
    /// The trace id of a W3C `traceparent`: 32 hexadecimal digits.
    pub trace_id: Option<String>,
    /// The idempotency key of the request.
    pub idempotency_key: Option<String>,
}

/// How a caller was authenticated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AuthMethod {
    /// An unsigned token of a developer.
    Dev,
    /// A signed token.
    Jwt,
    /// A client certificate.
    Mtls,
    /// Not at all: a job of the service itself.
    System,
}

impl AuthMethod {
    /// The word in the trail.
    pub fn word(self) -> &'static str {
        match self {
            Self::Dev => "dev",
            Self::Jwt => "jwt",
            Self::Mtls => "mtls",
            Self::System => "system",
        }
    }
}

/// A principal, typed against the schema's `auth` block: one value per field, in the block's order.
#[derive(Debug, Clone, PartialEq)]
pub struct Principal {
    /// Claims in the order of [`cratestack_schema::ir::Auth::fields`]; absent optional ones are [`Value::Null`].
    pub claims: Vec<Value>,
}

/// One operation on one model.
#[derive(Debug, Clone)]
pub struct Operation {
    /// The model.
    pub model: ModelId,
    /// What to do.
    pub verb: Verb,
}

/// A primary key as text, one segment per key field, in `@@id` order. A segment that is no value of its field's
/// type names no row ([`Code::NotFound`]).
pub type Key = Vec<String>;

/// The verbs.
#[derive(Debug, Clone)]
pub enum Verb {
    /// Rows, filtered, sorted, in pages.
    List {
        /// Decoded query parameters in the order given (`balance.gte` = `100`); docs/http.md, "Lists".
        params: Vec<(String, String)>,
    },
    /// One row.
    Read {
        /// Its key.
        key: Key,
        /// `fields` and `include` alone; anything else is [`Code::InvalidQuery`].
        params: Vec<(String, String)>,
    },
    /// A new row.
    Create {
        /// The members of the row.
        data: Json,
    },
    /// An RFC 7396 merge patch.
    Patch {
        /// The row's key.
        key: Key,
        /// The caller's precondition.
        expected: Expected,
        /// The patch.
        data: Json,
    },
    /// A deletion, or a tombstone under `@@soft_delete`.
    Delete {
        /// The row's key.
        key: Key,
        /// The caller's precondition.
        expected: Expected,
    },
    /// The end of a tombstone.
    Restore {
        /// The row's key.
        key: Key,
        /// The caller's precondition.
        expected: Expected,
    },
    /// Several mutations.
    Batch {
        /// All or nothing, in one transaction; otherwise one savepoint per item.
        atomic: bool,
        /// At most [`Limits::batch`](crate::Limits) items.
        items: Vec<BatchItem>,
    },
}

/// One mutation of a batch: a [`Verb::Create`], [`Verb::Patch`] or [`Verb::Delete`].
#[derive(Debug, Clone)]
pub struct BatchItem {
    /// The mutation.
    pub verb: Verb,
}

/// The version that a writer has seen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Expected {
    /// None given: [`Code::VersionRequired`] on `@version` models.
    #[default]
    Missing,
    /// Any current version (`If-Match: *`).
    Any,
    /// One of these. An empty list never matches. On models without `@version` anything but `Any` or `Missing`
    /// is a [`Code::VersionMismatch`].
    OneOf(Vec<i64>),
}

/// What an operation did.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// A page of rows.
    Page {
        /// JSON array of the rows, already encoded.
        items: String,
        /// The cursor of the next page.
        next: Option<String>,
        /// `count=exact`.
        total: Option<u64>,
    },
    /// A row that was read or changed.
    Row(Row),
    /// A row is gone, or is a tombstone with this version.
    Deleted {
        /// The tombstone's version.
        version: Option<i64>,
    },
    /// One result per item, in order.
    Batch(Vec<Result<Answer, Failure>>),
}

/// One row.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The row as a JSON object, already encoded; `None` when the caller may not read the result of its write.
    pub body: Option<String>,
    /// The key, for `Location`.
    pub key: Key,
    /// The `@version` member.
    pub version: Option<i64>,
    /// Whether `body` is the full representation: no `fields`, no `include`.
    pub full: bool,
    /// Whether the row was created by this operation.
    pub created: bool,
}

/// A refusal or a failure.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    /// The stable code.
    pub code: Code,
    /// One lower-case sentence for the caller. Never contains values of rows or of the input.
    pub detail: String,
    /// What is wrong with which member.
    pub errors: Vec<FieldError>,
    /// The version that a mismatch met, where the caller may read the row.
    pub current_version: Option<i64>,
    /// The failing item of an atomic batch.
    pub item: Option<usize>,
    /// What the code of the service says in place of [`Code::Rejected`]'s own words.
    pub rejection: Option<Rejection>,
    /// For the log alone.
    pub internal: Option<String>,
}

/// A business refusal: what code of the service, and no rule of the schema, does not allow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// The stable code, in snake case: `insufficient_funds`.
    pub code: String,
    /// An HTTP status of the class 4xx.
    pub status: u16,
}

/// One member of a problem's `errors`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// JSON Pointer as a URI fragment: `#/email`, `#` for the whole row.
    pub pointer: String,
    /// `read_only`, `unknown_field`, `reference_not_found`, `type`, `required`, a validator's or a check's name, ..
    pub code: String,
    /// What is asked of the value; never the value.
    pub detail: String,
}

/// The stable codes of docs/http.md that the engine itself can answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// Malformed in a way that no other code names.
    BadRequest,
    /// A query parameter.
    InvalidQuery,
    /// A forged, foreign or expired cursor.
    InvalidCursor,
    /// No credentials where some are needed.
    Unauthenticated,
    /// The caller may see that it exists but not do this.
    Forbidden,
    /// Absent, tombstoned or hidden.
    NotFound,
    /// Another row has the value.
    UniqueViolation,
    /// Rows depend on it, or it depends on a row that is gone.
    ForeignKeyViolation,
    /// Retries exhausted; nothing was committed.
    TransactionAborted,
    /// The row is at another version.
    VersionMismatch,
    /// A `@version` model was written without a version.
    VersionRequired,
    /// The input is not valid; see [`Failure::errors`].
    ValidationFailed,
    /// Code of the service refused; see [`Failure::rejection`].
    Rejected,
    /// The idempotency key belongs to another request.
    IdempotencyKeyReused,
    /// A request with the same idempotency key is being done.
    IdempotencyInFlight,
    /// A bug or an unforeseen database error.
    Internal,
    /// Asked for something that this build cannot do.
    NotImplemented,
    /// The database cannot be reached, or took too long.
    Unavailable,
}

impl Failure {
    /// A failure with a sentence for the caller.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            errors: Vec::new(),
            current_version: None,
            item: None,
            rejection: None,
            internal: None,
        }
    }

    /// A business refusal, with a sentence for the caller. A code that is not snake case, and a status that is not of the
    /// class 4xx or that the service itself has to answer with (401), make it [`Code::Internal`].
    ///
    /// ```
    /// use cratestack_engine::api::{Code, Failure};
    ///
    /// let refused = Failure::reject("insufficient_funds", 409, "the account does not hold that much");
    /// assert_eq!(refused.code, Code::Rejected);
    /// assert_eq!(Failure::reject("done", 200, "is no refusal").code, Code::Internal);
    /// ```
    pub fn reject(code: &str, status: u16, detail: impl Into<String>) -> Self {
        if is_snake_case(code) && (400..500).contains(&status) && status != 401 {
            let rejection = Some(Rejection { code: code.to_owned(), status });
            return Self { rejection, ..Self::new(Code::Rejected, detail) };
        }
        let why =
            format!("a refusal needs a code in snake case and a status 4xx other than 401, not `{code}`, {status}");
        Self::new(Code::Internal, "an internal error").with_internal(why)
    }

    /// The 422 with these errors. `errors` is never empty.
    pub fn validation(errors: Vec<FieldError>) -> Self {
        let detail = match errors.len() {
            1 => "1 field is not valid".to_owned(),
            n => format!("{n} fields are not valid"),
        };
        Self { errors, ..Self::new(Code::ValidationFailed, detail) }
    }

    /// Adds detail for the log.
    #[must_use]
    pub fn with_internal(mut self, detail: impl Into<String>) -> Self {
        self.internal = Some(detail.into());
        self
    }
}

/// Whether a name is in snake case: `insufficient_funds`.
pub(crate) fn is_snake_case(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.bytes().all(|octet| octet.is_ascii_lowercase() || octet.is_ascii_digit() || octet == b'_')
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)?;
        for error in &self.errors {
            write!(f, "; {} {}", error.pointer, error.detail)?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

/// Limits of the engine; each has a name and a default (docs/http.md, "Limits").
#[derive(Debug, Clone)]
pub struct Limits {
    /// Rows of a page when `limit` is absent.
    pub list_default: u32,
    /// Largest `limit`.
    pub list_max: u32,
    /// Rows of a to-many include.
    pub include_limit: u32,
    /// Rows that a page may show at most, those of its includes counted.
    pub include_rows: u64,
    /// Levels of `include`.
    pub include_depth: usize,
    /// Relations that a filter or a sort may cross one behind the other.
    pub relation_depth: usize,
    /// Fields of `sort`. A cursor holds a value of each, and has to fit into a URL.
    pub sort_fields: usize,
    /// Items of a batch.
    pub batch: usize,
    /// Nesting of a `where` expression.
    pub expression_depth: usize,
    /// Nodes of a `where` expression.
    pub expression_nodes: usize,
    /// How long a cursor stays valid.
    pub cursor_ttl: Duration,
    /// Refusals of one principal that `@@audit(denials)` records in a minute.
    pub denials_per_minute: u32,
    /// How often a transaction runs at most that others get in the way of.
    pub transaction_tries: u32,
    /// Events of the audit trail that one request for a page of it looks at: a page that finds few in them ends there.
    pub trail_window: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            list_default: 50,
            list_max: 1000,
            include_limit: 50,
            include_rows: 250_000,
            include_depth: 3,
            relation_depth: 8,
            sort_fields: 16,
            batch: 1000,
            expression_depth: 64,
            expression_nodes: 1000,
            cursor_ttl: Duration::from_hours(24),
            denials_per_minute: 60,
            transaction_tries: 5,
            trail_window: 10_000,
        }
    }
}
