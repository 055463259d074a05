//! Where the audit trail goes besides the database: [`JsonLinesSink`], [`WebhookSink`] and, with the feature `nats`,
//! `NatsSink`; and what a sink of a host's own needs.
//!
//! [`RouterBuilder::with_audit_sink`](crate::RouterBuilder::with_audit_sink) starts them. Each gets every event at least
//! once, in the order of commits for each row; `event_id` in the entry tells the same event again. An entry goes out to
//! the octet as the database keeps it.

mod file;
#[cfg(feature = "nats")]
mod nats;
mod singly;
#[cfg(test)]
mod testing;
mod tls;
mod webhook;

use std::borrow::Cow;
use std::fmt::{self, Display};
use std::io;

use cratestack_engine::relay::{self};
pub use cratestack_engine::relay::{
    AuditEvent, AuditSink, BoxFuture, MulticastAuditSink, Relay, RelayOptions, SinkError,
};
use cratestack_schema::ir::Schema;
use uuid::Uuid;

pub use self::file::{FileOptions, JsonLinesSink};
#[cfg(feature = "nats")]
pub use self::nats::NatsSink;
pub use self::webhook::{WebhookSecrets, WebhookSink};

/// Why a sink cannot be set up, and what to do about it. Never contains a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetupError {
    message: String,
    help: &'static str,
}

impl SetupError {
    pub(crate) fn new(message: impl Into<String>, help: &'static str) -> Self {
        Self { message: message.into(), help }
    }

    /// What to do about it.
    pub fn help(&self) -> &'static str {
        self.help
    }
}

impl Display for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for SetupError {}

impl From<relay::Error> for SetupError {
    fn from(error: relay::Error) -> Self {
        Self::new(error.to_string(), error.help())
    }
}

/// Whether the schema has an audit trail that a sink could take.
///
/// # Errors
/// When no model is `@@audit`: a sink would wait forever for its first event.
pub fn audited(schema: &Schema) -> Result<(), SetupError> {
    if schema.models.iter().any(|model| model.audit.is_some()) {
        return Ok(());
    }
    Err(SetupError::new(
        format!("`{}` has no audit trail, and a sink for it is configured", schema.name),
        "write `@@audit` in the models whose changes are to be recorded, or take the sink out of the configuration",
    ))
}

/// The `event_id` of an entry.
fn event_id(event: &AuditEvent) -> Result<Uuid, SinkError> {
    #[derive(serde::Deserialize)]
    struct Entry<'a> {
        #[serde(borrow)]
        event_id: Cow<'a, str>,
    }
    let entry: Option<Entry<'_>> = serde_json::from_str(&event.entry).ok();
    entry
        .and_then(|entry| Uuid::try_parse(&entry.event_id).ok())
        .ok_or_else(|| SinkError::refused("the entry has no `event_id` that is a UUID"))
}

/// What the operating system says, as a part of a sentence: without Rust's error numbers.
fn cause(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error ").next().unwrap_or_default();
    let mut letters = text.chars();
    letters.next().map(|first| first.to_ascii_lowercase().to_string() + letters.as_str()).unwrap_or_default()
}
