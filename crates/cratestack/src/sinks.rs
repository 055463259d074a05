//! Where the audit trail and the events of `@@emit` go besides the database: [`JsonLinesSink`], [`WebhookSink`] and, with the feature `nats`,
//! `NatsSink`; and what a sink of a host's own needs.
//!
//! [`RouterBuilder::with_audit_sink`](crate::RouterBuilder::with_audit_sink) and
//! [`RouterBuilder::with_event_sink`](crate::RouterBuilder::with_event_sink) start them. Each gets every event at least
//! once, in the order of commits for each row; an id in the entry tells the same event again (`event_id` of the trail,
//! `id` of an event of `@@emit`). An entry goes out to the octet as the database keeps it.

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

pub use cratestack_engine::relay::{
    AUDIT, AuditEvent, AuditSink, BoxFuture, Log, MulticastAuditSink, OUTBOX, Relay, RelayOptions, SinkError,
};
use cratestack_engine::{audit, outbox, relay};
use cratestack_schema::ir::Schema;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
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

/// Whether the schema writes anything to the log that a sink could take.
///
/// # Errors
/// When no model has `@@audit`, or `@@emit`: a sink would wait forever for its first event.
pub fn fed(log: &Log, schema: &Schema) -> Result<(), SetupError> {
    let (fed, missing, help) = if *log == OUTBOX {
        (
            outbox::any(schema),
            "emits no events, and a sink for them is configured",
            "write `@@emit(..)` in the models whose changes others are to hear of, or take the sink out of the \
             configuration",
        )
    } else {
        (
            audit::any(schema),
            "has no audit trail, and a sink for it is configured",
            "write `@@audit` in the models whose changes are to be recorded, or take the sink out of the configuration",
        )
    };
    if fed { Ok(()) } else { Err(SetupError::new(format!("`{}` {missing}", schema.name), help)) }
}

/// The id of an event, which is in its entry.
fn event_id(event: &AuditEvent) -> Result<Uuid, SinkError> {
    let name = event.log.id;
    let mut reader = serde_json::Deserializer::from_str(&event.entry);
    let found = Member(name).deserialize(&mut reader).ok().flatten();
    found
        .and_then(|id| Uuid::try_parse(&id).ok())
        .ok_or_else(|| SinkError::refused(format!("the entry has no `{name}` that is a UUID")))
}

/// Finds the text that a member of an object has, without keeping anything else.
struct Member(&'static str);

impl<'de> DeserializeSeed<'de> for Member {
    type Value = Option<String>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Member {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(name) = members.next_key::<Cow<'de, str>>()? {
            if name == self.0 {
                found = Some(members.next_value()?);
            } else {
                members.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

/// What the operating system says, as a part of a sentence: without Rust's error numbers.
fn cause(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error ").next().unwrap_or_default();
    let mut letters = text.chars();
    letters.next().map(|first| first.to_ascii_lowercase().to_string() + letters.as_str()).unwrap_or_default()
}
