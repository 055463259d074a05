//! Events for people.

use cratestack_engine::audit::read::AuditEvent;
use cratestack_engine::audit::reconcile::omitted;
use serde_json::{Map, Value as Json};

use crate::ui::{Failure, Style, Ui};

/// An event with its entry taken apart.
pub(super) struct Event {
    seq: i64,
    entry: Json,
}

/// What `show` says, in this order: a label and the member of the entry.
const DETAILS: [(&str, &str); 12] = [
    ("event", "event_id"),
    ("time", "at"),
    ("authenticated by", "auth"),
    ("route", "op"),
    ("outcome", "outcome"),
    ("request", "request_id"),
    ("idempotency key", "idempotency_key"),
    ("tenant", "tenant"),
    ("trace", "trace_id"),
    ("service", "service"),
    ("database user", "db_user"),
    ("schema version", "schema_version"),
];

impl Event {
    pub(super) fn read(event: &AuditEvent) -> Result<Self, Failure> {
        let entry = serde_json::from_str(&event.entry).map_err(|error| {
            Failure::new(format!("event {} of the trail is not JSON: {error}", event.seq))
                .help("`--format json` writes it as it is")
        })?;
        Ok(Self { seq: event.seq, entry })
    }

    /// The text of a member; empty for null.
    fn text(&self, name: &str) -> String {
        plain(self.entry.get(name).and_then(Json::as_str).unwrap_or_default())
    }

    fn row(&self) -> String {
        format!("{} {}", self.text("model"), self.text("primary_key"))
    }

    fn who(&self) -> String {
        let actor = self.entry.get("actor");
        let subject = actor.and_then(|actor| actor.get("subject")).and_then(Json::as_str).map(plain);
        if self.entry.get("out_of_band") == Some(&Json::Bool(true)) {
            return subject.map_or("SQL beside the service".to_owned(), |user| format!("database user {user}"));
        }
        let system = self.entry.get("auth").and_then(Json::as_str) == Some("system");
        let nobody = if system { "the system" } else { "anonymous" };
        let subject = subject.unwrap_or_else(|| nobody.to_owned());
        let roles = actor.and_then(|actor| actor.get("roles")).and_then(Json::as_array);
        let roles: Vec<String> = roles.into_iter().flatten().filter_map(Json::as_str).map(plain).collect();
        if roles.is_empty() { subject } else { format!("{subject} ({})", roles.join(", ")) }
    }

    /// One line.
    pub(super) fn line(&self, ui: Ui) -> String {
        let (id, operation) = (self.text("event_id"), format!("{:7}", self.text("operation")));
        let mut parts = vec![
            ui.paint(Style::Cyan, &id),
            ui.paint(Style::Dim, &self.text("at")),
            ui.paint(Style::Bold, &operation),
            self.row(),
            self.who(),
        ];
        parts.extend(Some(self.text("op")).filter(|op| !op.is_empty()));
        parts.join("  ")
    }

    /// What has changed, and who did it.
    pub(super) fn difference(&self, ui: Ui) -> String {
        let head = ui.paint(Style::Bold, &format!("{} {}", self.text("at"), self.text("operation")));
        let mut parts = vec![format!("{head} by {}", self.who())];
        parts.extend(Some(self.text("op")).filter(|op| !op.is_empty()));
        let request = Some(self.text("request_id")).filter(|request| !request.is_empty());
        parts.extend(request.map(|request| format!("request {request}")));
        let mut lines = vec![parts.join(", ")];
        lines.push(ui.paint(Style::Dim, &format!("  event {}", self.text("event_id"))));
        lines.extend(self.changes(ui));
        // An empty line after it: the next one comes soon.
        lines.push(String::new());
        lines.join("\n")
    }

    /// Everything.
    pub(super) fn whole(&self, ui: Ui) -> String {
        let mut lines = vec![ui.paint(Style::Bold, &format!("{} {}", self.text("operation"), self.row()))];
        let ip = self.entry.pointer("/actor/client_ip").and_then(Json::as_str).map(plain);
        let first = [("number", self.seq.to_string()), ("by", self.who()), ("client", ip.unwrap_or_default())];
        let rest = DETAILS.map(|(label, member)| (label, self.text(member)));
        for (label, text) in first.into_iter().chain(rest).filter(|(_, text)| !text.is_empty()) {
            lines.push(format!("  {} {text}", ui.paint(Style::Dim, &format!("{label:17}"))));
        }
        if let Some(Json::Object(claims)) = self.entry.pointer("/actor/claims") {
            for (name, claim) in claims {
                let label = format!("claim {}", plain(name));
                lines.push(format!("  {} {}", ui.paint(Style::Dim, &format!("{label:17}")), value(claim)));
            }
        }
        lines.extend(self.changes(ui));
        lines.join("\n")
    }

    /// A line for each old and each new value of a field that has changed.
    fn changes(&self, ui: Ui) -> Vec<String> {
        let changed = self.entry.get("changed").and_then(Json::as_array);
        let changed: Vec<&str> = changed.into_iter().flatten().filter_map(Json::as_str).collect();
        let side = |name: &str| self.entry.get(name).and_then(Json::as_object);
        let (before, after) = (side("before"), side("after"));
        let mut lines = Vec::new();
        for (sign, style, row) in [("-", Style::Red, before), ("+", Style::Green, after)] {
            if let Some(octets) = row.and_then(omitted).and_then(|digest| digest.get("length")).and_then(Json::as_u64) {
                lines.push(ui.paint(style, &format!("  {sign} a row of {octets} octets, too large for the trail")));
            }
        }
        for name in &changed {
            let of = |row: Option<&Map<String, Json>>| row.and_then(|row| row.get(*name)).map(value);
            let sides = [("-", Style::Red, of(before)), ("+", Style::Green, of(after))];
            if sides.iter().all(|(_, _, value)| value.is_none()) {
                lines.push(ui.paint(Style::Yellow, &format!("  ~ {}: not recorded", plain(name))));
            }
            for (sign, style, value) in sides {
                lines.extend(value.map(|value| ui.paint(style, &format!("  {sign} {}: {value}", plain(name)))));
            }
        }
        lines
    }
}

/// A value of a row. No value itself is an object.
fn value(value: &Json) -> String {
    match value.get("redacted").and_then(Json::as_str) {
        Some(why) => format!("redacted ({})", plain(why)),
        None => plain(&value.to_string()),
    }
}

/// Text that cannot move a terminal's cursor, change its colours or turn the direction of writing.
pub(super) fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    out
}
