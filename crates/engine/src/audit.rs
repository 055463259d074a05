//! The audit trail of `@@audit`: one row for each change of a row, written by the database itself.
//!
//! Triggers write the trail (`ddl.rs`, `logs.rs`), so that no writer can forget it: a statement of the engine, a cascade, a
//! procedure, somebody with `psql`. The row and its event commit together or not at all, and a write whose event
//! cannot be written fails.
//!
//! What a trigger cannot know (who asked, by which route, under which request) the engine tells it in the same round
//! trip ([`Context`]): on PostgreSQL by a setting that lasts as long as the transaction, on SQLite by a row that the
//! same transaction removes again. Where there is no such context the event says `out_of_band`, and names the database's
//! user. Whoever may write to the database can set the context as well, so that actor and `out_of_band` are as
//! trustworthy as the database's roles are.
//!
//! The *entry* of an event is its canonical text: compact JSON with sorted ASCII keys, times with six digits and `Z`,
//! `Decimal`, `BigInt` and `Float` as strings, `Bytes` as hexadecimal, `Json` as a string of its stored text. It is
//! built once and never again, at most 65,535 octets: of what does not fit, `before` or `after`, the entry holds the length
//! and (on PostgreSQL, which has the function) the SHA-256.

pub(crate) mod ddl;
mod link;
pub mod read;
pub mod reconcile;
#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;

use cratestack_schema::ir::{FieldId, FieldType, Model, ModelId, Scalar, Schema};
use cratestack_schema::value::Value;

use crate::api::{Caller, Origin};
use crate::logs::CONTEXT_TABLE;
use crate::outbox;
use crate::plan::key_text;
use crate::relay::AUDIT;
use crate::sql::{Bind, Dialect, Statement, Template};
use crate::storage::{push_float, push_json_string};

pub use ddl::grants;

/// The table of the trail.
pub const TABLE: &str = AUDIT.table;

/// The view that shows the members of the entries as columns.
pub const VIEW: &str = "cratestack_audit_events";

/// Octets of an entry at most.
pub const ENTRY_LIMIT: usize = 65_535;

/// Octets of a model's name and a key together at most, so that both fit into the indexes of the trail and of its
/// deliveries, which PostgreSQL limits to 2,704 an entry.
pub(crate) const KEY_LIMIT: usize = 2_500;

/// Octets that the claims of a caller may take of an entry.
const CLAIMS_LIMIT: usize = 8 * 1024;

/// Whether any model keeps a trail.
pub fn any(schema: &Schema) -> bool {
    schema.models.iter().any(|model| model.audit.is_some())
}

/// What the engine tells the triggers: JSON texts, in the order of the entry's members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context([String; Self::MEMBERS.len()]);

impl Context {
    /// The members of entries that come from the context, sorted. `source` is that of an event of the outbox.
    pub const MEMBERS: [&str; 9] =
        ["actor", "auth", "idempotency_key", "op", "request_id", "service", "source", "tenant", "trace_id"];

    /// What is to be said of this caller.
    pub fn new(schema: &Schema, caller: &Caller, service: &str) -> Self {
        let Origin { op, auth, job, client_ip, trace_id, idempotency_key } = &caller.origin;
        let claim = |id: Option<FieldId>| {
            let id = id?;
            let field = schema.auth.as_ref()?.fields.get(id.index())?;
            let value = caller.principal.as_ref()?.claims.get(id.index()).filter(|value| **value != Value::Null)?;
            Some(key_text(schema, field.ty, value))
        };
        let declared = schema.auth.as_ref();
        let subject = claim(declared.and_then(|auth| auth.subject)).or_else(|| job.as_deref().map(str::to_owned));
        let tenant = claim(declared.and_then(|auth| auth.tenant));
        let mut claims = claims(schema, caller);
        if claims.len() > CLAIMS_LIMIT {
            claims = format!("{{\"length\":{}}}", claims.len());
        }
        let actor = format!(
            "{{\"claims\":{claims},\"client_ip\":{},\"roles\":{},\"subject\":{}}}",
            quoted(client_ip.map(|ip| ip.to_canonical().to_string()).as_deref()),
            roles(schema, caller),
            quoted(subject.as_deref()),
        );
        Self([
            actor,
            quoted(auth.map(crate::api::AuthMethod::word)),
            quoted(idempotency_key.as_deref()),
            quoted(Some(op)),
            quoted(Some(&caller.request_id)),
            quoted(Some(service)),
            quoted(Some(&outbox::source(service, &schema.name))),
            quoted(tenant.as_deref()),
            quoted(trace_id.as_deref()),
        ])
    }

    /// The texts in the order of [`Self::MEMBERS`].
    pub fn texts(&self) -> &[String] {
        &self.0
    }

    /// Who acts, as JSON.
    pub fn actor(&self) -> &str {
        let [actor, ..] = &self.0;
        actor
    }

    /// One line for each; compact JSON has no line breaks.
    pub fn lines(&self) -> String {
        self.0.join("\n")
    }
}

/// The key of a row as the trail writes it: text; of several fields a JSON array.
pub fn key(schema: &Schema, model: &Model, values: &[Value]) -> String {
    let ty = |at: usize| model.key.get(at).map(|id| model.field(*id).ty);
    let mut out = String::new();
    match values {
        [Value::Bytes(octets)] => return cratestack_schema::hex(octets),
        [value] => return ty(0).map(|ty| key_text(schema, ty, value)).unwrap_or_default(),
        _ => {}
    }
    for (at, value) in values.iter().enumerate() {
        out.push(if at == 0 { '[' } else { ',' });
        if let Some(ty) = ty(at) {
            push_value(&mut out, schema, ty, value);
        }
    }
    out.push(']');
    out
}

/// The statements of the trail that the engine itself runs.
#[derive(Debug)]
pub(crate) struct Trail {
    dialect: Dialect,
    set: Arc<Template>,
    clear: Arc<Template>,
    denied: Arc<Template>,
}

impl Trail {
    pub(crate) fn new(dialect: Dialect) -> Self {
        let members = Context::MEMBERS.join(", ");
        let places: Vec<String> = (1..=Context::MEMBERS.len()).map(|at| format!("?{at}")).collect();
        let table = CONTEXT_TABLE;
        // One that somebody left there would stand in the way.
        let set = format!("INSERT OR REPLACE INTO {table} (id, {members}) VALUES (1, {})", places.join(", "));
        let denied = match dialect {
            Dialect::Sqlite => ddl::denied_sqlite(),
            Dialect::Postgres => {
                format!("SELECT {}($1::text, $2::text, $3::text, $4::text, $5::text) IS NULL", ddl::DENIED)
            }
        };
        let fixed = |sql: &str| Arc::new(Template::fixed(sql, &[]));
        Self { dialect, set: fixed(&set), clear: fixed(&format!("DELETE FROM {table}")), denied: fixed(&denied) }
    }

    pub(crate) fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// SQLite: the triggers of this transaction see the context from now on.
    pub(crate) fn set(&self, context: &Context) -> Statement {
        let binds = context.texts().iter().cloned().map(Bind::Text).collect();
        Statement { template: Arc::clone(&self.set), binds }
    }

    /// SQLite: what comes next has no context.
    pub(crate) fn clear(&self) -> Statement {
        Statement { template: Arc::clone(&self.clear), binds: Vec::new() }
    }

    /// Records that changes of the rows with these keys were refused.
    pub(crate) fn denied(&self, schema: &Schema, context: &Context, model: ModelId, keys: &[&str]) -> Vec<Statement> {
        let names = [schema.name.clone(), schema.fingerprint(), schema.model(model).name.clone()];
        let statements = keys.iter().map(|key| {
            let named = names.iter().cloned().chain([(*key).to_owned()]).map(Bind::Text);
            let context = (self.dialect == Dialect::Postgres).then(|| Bind::Text(context.lines()));
            Statement { template: Arc::clone(&self.denied), binds: context.into_iter().chain(named).collect() }
        });
        match self.dialect {
            Dialect::Postgres => statements.collect(),
            Dialect::Sqlite => [self.set(context)].into_iter().chain(statements).chain([self.clear()]).collect(),
        }
    }
}

fn quoted(text: Option<&str>) -> String {
    let Some(text) = text else { return "null".to_owned() };
    let mut out = String::with_capacity(text.len() + 2);
    // PostgreSQL has no NUL in a text, and its `json` would only say so when somebody reads the entry.
    push_json_string(&mut out, &text.replace('\0', "\u{FFFD}"));
    out
}

/// The claims that the `auth` block declares, by name.
fn claims(schema: &Schema, caller: &Caller) -> String {
    let declared = schema.auth.as_ref().map_or(&[][..], |auth| &auth.fields);
    let given = caller.principal.as_ref().map_or(&[][..], |principal| &principal.claims);
    let mut all: Vec<_> = declared.iter().zip(given).filter(|(_, value)| **value != Value::Null).collect();
    all.sort_by(|(a, _), (b, _)| a.name.cmp(&b.name));
    let mut out = String::from("{");
    for (field, value) in all {
        if out.len() > 1 {
            out.push(',');
        }
        push_json_string(&mut out, &field.name);
        out.push(':');
        push_value(&mut out, schema, field.ty, value);
    }
    out.push('}');
    out
}

/// The claim that `auth().hasRole(..)` looks into, else the one named `role`.
fn roles(schema: &Schema, caller: &Caller) -> String {
    let declared = schema.auth.as_ref().map_or(&[][..], |auth| &auth.fields);
    let given = caller.principal.as_ref().map_or(&[][..], |principal| &principal.claims);
    let find = |name: &str| declared.iter().zip(given).find(|(field, _)| field.name == name);
    let mut out = String::new();
    match find("roles").or_else(|| find("role")) {
        Some((field, value @ Value::List(_))) => push_value(&mut out, schema, field.ty, value),
        Some((field, value)) if *value != Value::Null => {
            out.push('[');
            push_value(&mut out, schema, field.ty, value);
            out.push(']');
        }
        _ => out.push_str("[]"),
    }
    out
}

/// A value in the form that entries have.
fn push_value(out: &mut String, schema: &Schema, ty: FieldType, value: &Value) {
    match (ty, value) {
        (_, Value::Null) => out.push_str("null"),
        (_, Value::List(items)) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                push_value(out, schema, ty, item);
            }
            out.push(']');
        }
        (FieldType::Scalar(Scalar::Int), Value::Int(value)) => out.push_str(&value.to_string()),
        (_, Value::Bool(value)) => out.push_str(if *value { "true" } else { "false" }),
        (_, Value::Float(value)) => {
            let mut text = String::new();
            push_float(&mut text, *value);
            push_json_string(out, &text);
        }
        (_, Value::Bytes(octets)) => push_json_string(out, &cratestack_schema::hex(octets)),
        (ty, value) => push_json_string(out, &key_text(schema, ty, value)),
    }
}
