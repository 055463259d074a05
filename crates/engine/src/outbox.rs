//! The outbox of `@@emit`: one row for each change of a row that others are to hear of, written by the database itself
//! in the transaction of the change.
//!
//! | change | type | `data` |
//! |---|---|---|
//! | an INSERT; the restoration of a tombstone | `created` | the row after it |
//! | an UPDATE that changes a field | `updated` | the row after it |
//! | a DELETE; a tombstone | `deleted` | the row before it |
//! | an UPDATE that changes the key | `deleted`, then `created` | |
//!
//! A tombstone counts as no row: neither its changes nor its end are events. As in the trail, an UPDATE that changes no
//! field is none, and on SQLite a foreign key's own action on a model with `@version` is two.
//!
//! Code of the service adds events of its own in a transaction (`Tx::emit`): `<schema>.<name>`, with data that it gives.
//!
//! The entry is an event of CloudEvents 1.0 in its JSON form, compact, with sorted members, at most 65,535 octets: data
//! that do not fit are replaced by their length and (on PostgreSQL) their SHA-256. Fields are as in the audit trail.

use std::fmt::Write as _;
use std::sync::Arc;

use cratestack_schema::ir::{Emitted, Schema};

use crate::api::{Code, Failure, is_snake_case};
use crate::audit::{Context, ENTRY_LIMIT, KEY_LIMIT, Trail};
use crate::ddl::Trigger;
use crate::json::Json;
use crate::logs::{
    self, HERE, Piece, Told, Writer, context, digest, mark, octets, postgres_trigger, render, sqlite_context,
    sqlite_triggers, time_and_id,
};
use crate::relay::OUTBOX;
use crate::sql::{Bind, Dialect, Statement, Template};
use crate::storage::{literal, push_json_string};

#[cfg(test)]
mod tests;

/// The table of the outbox.
pub const TABLE: &str = OUTBOX.table;

/// Whether changes of any model are events.
pub fn any(schema: &Schema) -> bool {
    schema.models.iter().any(|model| !model.emit.is_empty())
}

/// Where the events of a schema come from: `/<service>/<schema>`, a reference as RFC 3986 has it.
pub(crate) fn source(service: &str, schema: &str) -> String {
    [service, schema].iter().fold(String::new(), |mut source, segment| {
        source.push('/');
        for octet in segment.bytes() {
            if octet.is_ascii_alphanumeric() || b"-._~".contains(&octet) {
                source.push(char::from(octet));
            } else {
                let _ = write!(source, "%{octet:02X}");
            }
        }
        source
    })
}

/// The outbox's tables, in an order in which they can be dropped.
pub(crate) fn objects() -> [(&'static str, &'static str); 3] {
    [OUTBOX.delivery, OUTBOX.position, TABLE].map(|table| ("TABLE", table))
}

/// The statements that make the outbox where it is not there yet; they may run any number of times.
pub(crate) fn tables(dialect: Dialect) -> Vec<String> {
    let own = if dialect == Dialect::Postgres { own_postgres() } else { Vec::new() };
    [logs::table(&OUTBOX, None, dialect), OUTBOX.ddl(dialect), own].concat()
}

/// The function by which a role that serves adds an event of its own on PostgreSQL.
pub(crate) const EMIT: &str = "cratestack_outbox_emit";

/// The types of its parameters: context, schema, name, key and data.
pub(crate) const EMIT_TYPES: &str = "text, text, text, text, text";

/// The class of the advisory locks that keep the events of one name and key in the order of their commits.
const EMIT_LOCK: i32 = 0x6372_6174;

/// An event of the service's own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Own<'e> {
    pub(crate) name: &'e str,
    pub(crate) subject: &'e str,
    pub(crate) data: &'e Json,
}

/// The statements that add an event.
///
/// # Errors
/// [`Code::NotImplemented`] where the schema has no outbox; [`Code::Internal`] for a name that is not snake case, and for what
/// does not fit into an entry.
pub(crate) fn own(
    schema: &Schema,
    trail: &Trail,
    context: &Context,
    event: Own<'_>,
) -> Result<Vec<Statement>, Failure> {
    let refused = |code, detail: &str| Err(Failure::new(code, detail));
    if !any(schema) {
        return refused(Code::NotImplemented, "the schema has no `@@emit`, and so no outbox");
    }
    let Own { name, subject, data } = event;
    if !is_snake_case(name) || Emitted::ALL.iter().any(|kind| kind.word() == name) {
        let detail = "the name of an event is in snake case (`transfer_settled`), and none of those that rows have";
        return refused(Code::Internal, detail);
    }
    let (mut text, mut quoted) = (String::new(), String::new());
    data.write_canonical(&mut text);
    push_json_string(&mut quoted, subject);
    let length = text.len() + quoted.len() + name.len() + schema.name.len() + context.lines().len() + OWN_MORE;
    if length > ENTRY_LIMIT || name.len() + subject.len() > KEY_LIMIT || subject.contains('\0') {
        return refused(Code::Internal, "the event is too large, or its subject holds a NUL character");
    }
    let given = [&schema.name, name, subject, &text].map(|text| Bind::Text(text.to_owned()));
    let statement = |sql: &str, binds: Vec<Bind>| Statement { template: Arc::new(Template::fixed(sql, &[])), binds };
    Ok(match trail.dialect() {
        Dialect::Postgres => {
            let binds = [Bind::Text(context.lines())].into_iter().chain(given).collect();
            let places = "$1::text, $2::text, $3::text, $4::text, $5::text";
            vec![statement(&format!("SELECT {EMIT}({places}) IS NULL"), binds)]
        }
        Dialect::Sqlite => vec![trail.set(context), statement(&own_sqlite(), given.into()), trail.clear()],
    })
}

/// Octets of such an entry besides what was given: names of members, time and id.
const OWN_MORE: usize = 256;

/// What comes after the data, given SQL for what was given.
fn own_tail(dialect: Dialect, schema: &str, kind: &str, key: &str) -> Vec<Piece> {
    let (time, id) = time_and_id(dialect);
    vec![
        Piece::text(",\"datacontenttype\":\"application/json\",\"id\":\""),
        id,
        Piece::text("\",\"source\":"),
        Piece::Sql(format!("coalesce(nullif({}, 'null'), '\"/cratestack\"')", context(dialect, "source"))),
        Piece::text(",\"specversion\":\"1.0\",\"subject\":"),
        Piece::sql(key),
        Piece::text(",\"time\":\""),
        time,
        Piece::text("\",\"type\":"),
        Piece::Sql(match dialect {
            Dialect::Postgres => format!("to_json(concat({schema}, '.', {kind}))::text"),
            Dialect::Sqlite => format!("json_quote({schema} || '.' || {kind})"),
        }),
        Piece::text("}"),
    ]
}

fn own_postgres() -> Vec<String> {
    let tail = own_tail(Dialect::Postgres, "of_schema", "of_name", "to_json(of_key)::text");
    let body = format!(
        "\nDECLARE\n{declarations}  entry text;\nBEGIN\n{check}  \
         IF (of_name ~ '^[a-z][a-z0-9_]*$' AND of_name NOT IN ({kinds})) IS NOT TRUE THEN\n    \
         RAISE EXCEPTION USING MESSAGE = 'this is no name of an event', ERRCODE = 'invalid_parameter_value';\n  \
         END IF;\n  \
         PERFORM pg_advisory_xact_lock({EMIT_LOCK}, hashtext(concat(of_name, '/', of_key)));\n  \
         moment := clock_timestamp();\n  \
         entry := concat('{HEAD}', data::json::text, {tail});\n{must_fit}  \
         INSERT INTO {HERE}.{TABLE} (occurred_at, model, primary_key, entry)\n  \
         VALUES (moment, of_name, of_key, entry);\nEND\n",
        must_fit = [logs::must_be_read(), logs::must_fit("of_name", "of_key")].concat(),
        kinds = Emitted::ALL.map(|kind| literal(kind.word())).join(", "),
        declarations = logs::declarations("context"),
        check = logs::context_check(),
        tail = render(Dialect::Postgres, &tail),
    );
    let parameters = "context text, of_schema text, of_name text, of_key text, data text";
    logs::definer(&format!("{EMIT}({parameters}) RETURNS void"), &format!("{EMIT}({EMIT_TYPES})"), &body).into()
}

fn own_sqlite() -> String {
    let tail = own_tail(Dialect::Sqlite, "?1", "?2", "json_quote(c.key)");
    format!(
        "INSERT INTO {TABLE} (occurred_at, model, primary_key, entry) \
         SELECT c.at, ?2, c.key, '{HEAD}' || ?4 || {tail} FROM {context} AS c LIMIT 1",
        tail = render(Dialect::Sqlite, &tail),
        context = sqlite_context(&[("key", "?3")]),
    )
}

/// The triggers that write the events of one model.
pub(crate) fn triggers(writer: &Writer<'_>) -> Vec<Trigger> {
    if writer.dialect == Dialect::Sqlite {
        return sqlite_triggers(writer, TABLE, |old, new| sqlite_change(writer, old, new));
    }
    let told = Told {
        prefix: "cratestack_outbox_rows",
        tombstones: false,
        variables: "kind text; key text; data text; tail text; entry text;",
        event: postgres_event(writer),
    };
    vec![postgres_trigger(writer, &told)]
}

const HEAD: &str = "{\"data\":";

/// What comes after the data, given SQL for the key as JSON, and what happened.
fn tail(writer: &Writer<'_>, key: &str, kind: Piece) -> Vec<Piece> {
    let Writer { schema, model, dialect, .. } = *writer;
    let given = context(dialect, "source");
    let outside = literal(&format!("\"{}\"", source("cratestack", &schema.name)));
    let mut named = String::new();
    push_json_string(&mut named, &format!("{}.{}.", schema.name, model.name));
    let (time, id) = time_and_id(dialect);
    vec![
        Piece::text(",\"datacontenttype\":\"application/json\",\"id\":\""),
        id,
        Piece::text("\",\"source\":"),
        Piece::Sql(format!("coalesce(nullif({given}, 'null'), {outside})")),
        Piece::text(",\"specversion\":\"1.0\",\"subject\":"),
        Piece::sql(key),
        Piece::text(",\"time\":\""),
        time,
        Piece::text("\",\"type\":"),
        Piece::text(named.trim_end_matches('"')),
        kind,
        Piece::text("\"}"),
    ]
}

/// The statements for one event on PostgreSQL.
fn postgres_event(writer: &Writer<'_>) -> String {
    let first = writer.key_columns().next().unwrap_or_default();
    let pieces = |pieces: &[Piece]| render(Dialect::Postgres, pieces);
    let kinds: Vec<String> = writer.model.emit.iter().map(|kind| literal(kind.word())).collect();
    format!(
        "    kind := CASE WHEN o.{first} IS NULL THEN 'created' WHEN n.{first} IS NULL THEN 'deleted' ELSE 'updated' END;\n    \
         IF kind IN ({kinds}) AND ({changed}) <> '' THEN\n      \
         IF kind = 'deleted' THEN key := {old_key}; data := {old}; ELSE key := {new_key}; data := {new}; END IF;\n      \
         tail := {tail};\n      \
         IF octet_length(data) + octet_length(tail) > {room} THEN data := {digest}; END IF;\n      \
         entry := concat('{HEAD}', data, tail);\n{must_fit}      \
         INSERT INTO {HERE}.{TABLE} (occurred_at, model, primary_key, entry)\n      \
         VALUES (moment, {model}, key, entry);\n    \
         END IF;\n",
        kinds = kinds.join(", "),
        changed = pieces(&writer.changed(|column| format!("o.{column} IS DISTINCT FROM n.{column}"))),
        old_key = writer.key("o"),
        new_key = writer.key("n"),
        old = pieces(&writer.object("o")),
        new = pieces(&writer.object("n")),
        tail = pieces(&tail(writer, "to_json(key)::text", Piece::sql("kind"))),
        room = ENTRY_LIMIT - HEAD.len(),
        digest = digest(Dialect::Postgres, "data"),
        must_fit = logs::must_fit(&literal(&writer.model.name), "key"),
        model = literal(&writer.model.name),
    )
}

/// The statements for a change on SQLite: one for each event that it may be, with the condition for it.
fn sqlite_change(writer: &Writer<'_>, old: Option<&str>, new: Option<&str>) -> String {
    let live = |row: &str| writer.tombstone().map(|at| format!("{row}.{at} IS NULL"));
    let dead = |row: &str| writer.tombstone().map(|at| format!("{row}.{at} IS NOT NULL"));
    let event = |kind: Emitted| match (kind, old, new) {
        (Emitted::Created, None, Some(new)) => Some((new, vec![live(new)])),
        (Emitted::Created, Some(old), Some(new)) => dead(old).map(|dead| (new, vec![Some(dead), live(new)])),
        (Emitted::Deleted, Some(old), None) => Some((old, vec![live(old)])),
        (Emitted::Deleted, Some(old), Some(new)) => dead(new).map(|dead| (old, vec![Some(dead), live(old)])),
        (Emitted::Updated, Some(old), Some(new)) => Some((new, vec![live(old), live(new)])),
        _ => None,
    };
    let insert = |kind: &Emitted| {
        let (row, conditions) = event(*kind)?;
        let conditions: Vec<String> = conditions.into_iter().flatten().collect();
        Some(sqlite_insert(writer, *kind, row, &conditions.join(" AND ")))
    };
    writer.model.emit.iter().filter_map(insert).collect()
}

/// The INSERT of an event, if the condition holds or is empty. With OR IGNORE, or a trigger of somebody's own, it may do
/// nothing, which is then refused.
fn sqlite_insert(writer: &Writer<'_>, kind: Emitted, row: &str, condition: &str) -> String {
    let pieces = |pieces: &[Piece]| render(Dialect::Sqlite, pieces);
    let size = |text: &str| octets(Dialect::Sqlite, &format!("e.{text}"));
    format!(
        "  INSERT INTO {TABLE} (occurred_at, model, primary_key, entry) \
         SELECT e.at, {model}, e.key, '{HEAD}' || iif({data_size} + {tail_size} > {room}, {digest}, e.data) || e.tail \
         FROM (SELECT c.at, c.key, {data} AS data, {tail} AS tail FROM {context} AS c WHERE {condition} LIMIT 1) AS e;\n  \
         SELECT RAISE(ABORT, '{mark}no event') WHERE changes() <> 1 AND {condition};\n",
        model = literal(&writer.model.name),
        data_size = size("data"),
        tail_size = size("tail"),
        room = ENTRY_LIMIT - HEAD.len(),
        digest = digest(Dialect::Sqlite, "e.data"),
        data = pieces(&writer.object(row)),
        tail = pieces(&tail(writer, "json_quote(c.key)", Piece::text(kind.word()))),
        context = sqlite_context(&[("key", &writer.key(row))]),
        condition = if condition.is_empty() { "1" } else { condition },
        mark = mark(&OUTBOX),
    )
}
