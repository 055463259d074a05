//! What triggers write about rows: the audit trail (`audit.rs`) and the outbox (`outbox.rs`). Both are tables with an
//! entry for each event ([`Log`]), written in the transaction of the change by whoever makes it.
//!
//! What the two have in common is here: the table, the context that the engine passes, and when a trigger fires. The
//! texts of rows are in `row.rs`; what an entry says besides is the log's own.

pub(crate) mod row;

use std::collections::BTreeSet;

use cratestack_schema::database_name;
use cratestack_schema::ir::{Emitted, FieldId, Model, ModelId, Schema};

pub(crate) use self::row::{Piece, Writer, digest, json, octets, render};
use crate::audit::{self, Context, ENTRY_LIMIT, KEY_LIMIT};
use crate::ddl::{Trigger, owning};
use crate::ddl_trigger::{MARK, dollar_quoted, fixed_path, insert_guards, sqlite_trigger};
use crate::idempotency;
use crate::outbox;
use crate::relay::Log;
use crate::sql::{Dialect, ident};
use crate::storage::literal;

/// The setting that carries a [`Context`] on PostgreSQL.
pub(crate) const SETTING: &str = "cratestack.context";

/// The table that carries a [`Context`] on SQLite: empty, but for the length of a write.
pub(crate) const CONTEXT_TABLE: &str = "cratestack_context";

/// The members of an entry's `actor`.
const ACTOR: [&str; 4] = ["claims", "client_ip", "roles", "subject"];

/// The tables of a log, as the catalog has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogTables {
    /// What it is: `audit trail`, `outbox`, ..
    pub what: &'static str,
    /// The statements that make it where it is not there yet. They may run any number of times.
    pub create: Vec<String>,
}

/// The logs that a schema asks for. They outlive the last model that does: nothing that happened is forgotten with a
/// change of schema.
pub(crate) fn tables(schema: &Schema, dialect: Dialect) -> Vec<LogTables> {
    let trail = audit::any(schema).then(|| ("audit trail", audit::ddl::tables(dialect)));
    let outbox = outbox::any(schema).then(|| ("outbox", outbox::tables(dialect)));
    let logs = trail.into_iter().chain(outbox);
    let logs = logs.map(|(what, own)| LogTables { what, create: [context_table(dialect), own].concat() });
    // Any request that changes something may have a key.
    let keys = LogTables { what: "table of idempotency keys", create: idempotency::tables(dialect) };
    logs.chain([keys]).collect()
}

/// Tables and views of all logs, in an order in which they can be dropped.
pub(crate) fn objects() -> impl Iterator<Item = (&'static str, &'static str)> {
    let context = [("TABLE", CONTEXT_TABLE)];
    let keys = [("TABLE", idempotency::TABLE)];
    audit::ddl::objects().into_iter().chain(outbox::objects()).chain(context).chain(keys)
}

/// Whether changes of a model's rows are written to a log.
pub(crate) fn recorded(model: &Model) -> bool {
    model.audit.is_some() || !model.emit.is_empty()
}

/// Whether rows of the model must not be deleted unseen by triggers.
pub(crate) fn sees_deletions(model: &Model) -> bool {
    model.audit.is_some() || model.emit.contains(&Emitted::Deleted)
}

/// Whether a write to rows of the model may end up in a log: its own or, by what happens to the rows that refer to it,
/// another model's.
pub(crate) fn reaches(schema: &Schema, model: ModelId) -> bool {
    let mut seen = vec![model];
    let mut next = 0;
    while let Some(at) = seen.get(next).copied() {
        next += 1;
        if recorded(schema.model(at)) {
            return true;
        }
        for (child, declared) in schema.models() {
            if !seen.contains(&child) && owning(declared).any(|(_, foreign)| foreign.target == at) {
                seen.push(child);
            }
        }
    }
    false
}

// Tables.

fn context_table(dialect: Dialect) -> Vec<String> {
    let members = Context::MEMBERS.map(|member| {
        let form = if member == "actor" { "= 'object'" } else { "IN ('text', 'null')" };
        format!("{member} TEXT NOT NULL CHECK (json_type({member}) {form})")
    });
    let sqlite = format!(
        "CREATE TABLE IF NOT EXISTS {CONTEXT_TABLE} (id INTEGER PRIMARY KEY CHECK (id = 1), {}) STRICT",
        members.join(", ")
    );
    if dialect == Dialect::Sqlite { vec![sqlite] } else { Vec::new() }
}

/// The statements that make the table of a log, with its indexes: what the relay needs and, with its type on each
/// database, one column more. On PostgreSQL what it takes is checked by the functions that write it ([`must_fit`],
/// [`context_check`]): CHECKs were a quarter of the time of an audited write, since PostgreSQL reads them from their
/// text for each statement.
pub(crate) fn table(log: &Log, more: Option<(&str, &str, &str)>, dialect: Dialect) -> Vec<String> {
    let table = log.table;
    let more = more.map(|(name, postgres, sqlite)| match dialect {
        Dialect::Postgres => format!("  {name} {postgres} NOT NULL,\n"),
        Dialect::Sqlite => format!("  {name} {sqlite} NOT NULL,\n"),
    });
    let more = more.unwrap_or_default();
    let by_key = format!("CREATE INDEX IF NOT EXISTS {table}_key_idx ON {table} (model, primary_key, seq)");
    if dialect == Dialect::Sqlite {
        let create = format!(
            "CREATE TABLE IF NOT EXISTS {table} (\n  seq INTEGER PRIMARY KEY AUTOINCREMENT,\n  occurred_at TEXT NOT NULL,\n  \
             model TEXT NOT NULL,\n  primary_key TEXT NOT NULL,\n{more}  entry TEXT NOT NULL,\n  \
             CONSTRAINT {table}_seq_check CHECK (seq > 0)\n) STRICT"
        );
        return [vec![create, by_key], log_guard(log)].concat();
    }
    let brin = |name: &str, column: &str| {
        format!(
            "CREATE INDEX IF NOT EXISTS {table}_{name}_idx ON {table} USING brin ({column}) WITH (autosummarize = on)"
        )
    };
    let create = format!(
        "CREATE TABLE IF NOT EXISTS {table} (\n  \
         seq bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT {table}_pkey PRIMARY KEY,\n  \
         xid bigint NOT NULL DEFAULT pg_current_xact_id()::text::bigint,\n  \
         occurred_at timestamptz NOT NULL,\n  \
         model text COLLATE \"C\" NOT NULL,\n  \
         primary_key text COLLATE \"C\" NOT NULL,\n{more}  \
         entry text COLLATE \"C\" NOT NULL\n)"
    );
    vec![create, by_key, brin("xid", "xid"), brin("time", "occurred_at")]
}

/// SQLite: what a log takes. Not constraints: OR IGNORE and OR FAIL of the statement whose trigger inserts would decide
/// what becomes of their refusals, and the row would be changed without its event. And INSERT OR REPLACE deletes the row
/// in its way without firing delete triggers.
fn log_guard(log: &Log) -> Vec<String> {
    let (table, mark) = (log.table, mark(log));
    let octets = |text: &str| octets(Dialect::Sqlite, text);
    let refused = [
        ("form", "entry", "json_valid(NEW.entry) IS NOT 1 OR json_type(NEW.entry) IS NOT 'object'".to_owned()),
        ("size", "entry", format!("{} NOT BETWEEN 1 AND {ENTRY_LIMIT}", octets("NEW.entry"))),
        ("size", "key", format!("{} + {} > {KEY_LIMIT}", octets("NEW.model"), octets("NEW.primary_key"))),
    ];
    let refused =
        refused.map(|(what, of, when)| format!("  SELECT RAISE(ABORT, '{mark}{what} of {of}') WHERE {when};\n"));
    vec![
        format!("DROP TRIGGER IF EXISTS {table}_guard"),
        format!(
            "CREATE TRIGGER {table}_guard BEFORE INSERT ON {table} BEGIN\n{}  \
             SELECT RAISE(ABORT, 'cratestack:append_only:{table}') WHERE EXISTS (SELECT 1 FROM {table} AS there \
             WHERE there.seq = NEW.seq);\nEND",
            refused.concat(),
        ),
    ]
}

/// What SQLite's triggers say when an event cannot be written begins with this.
pub(crate) fn mark(log: &Log) -> String {
    format!("{MARK}{}:", log.table.trim_start_matches("cratestack_"))
}

// Triggers.

/// The triggers of one model.
pub(crate) fn triggers(schema: &Schema, id: ModelId, dialect: Dialect) -> Vec<Trigger> {
    let model = schema.model(id);
    let writer = Writer { schema, id, model, dialect };
    let mut all = Vec::new();
    if model.audit.is_some() {
        all.extend(audit::ddl::triggers(&writer));
    }
    if !model.emit.is_empty() {
        all.extend(outbox::triggers(&writer));
    }
    // An append-only model has guards of its own.
    if sees_deletions(model) && !model.append_only {
        match dialect {
            Dialect::Postgres => all.push(truncate(model)),
            Dialect::Sqlite => all.extend(guards(&writer)),
        }
    }
    all
}

/// TRUNCATE fires no row triggers, so the rows are deleted first.
fn truncate(model: &Model) -> Trigger {
    let table = ident(&model.table);
    let name = database_name(["cratestack_truncate", &model.table]);
    let quoted = ident(&name);
    // An older snapshot, or a policy of rows, would hide rows from the DELETE that the TRUNCATE takes along.
    let body = dollar_quoted(&format!(
        "\nBEGIN\n  IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN\n    \
         RAISE EXCEPTION USING MESSAGE = 'a table whose changes are recorded is truncated at READ COMMITTED only', \
         ERRCODE = 'invalid_transaction_state';\n  END IF;\n  DELETE FROM {table};\n  RETURN NULL;\nEND\n"
    ));
    Trigger {
        create: vec![
            format!("CREATE FUNCTION {quoted}() RETURNS trigger LANGUAGE plpgsql SET row_security = off AS {body}"),
            fixed_path(&format!("{quoted}()")),
            format!(
                "CREATE TRIGGER {quoted} BEFORE TRUNCATE ON {table} FOR EACH STATEMENT EXECUTE FUNCTION {quoted}()"
            ),
            format!("ALTER TABLE {table} ENABLE ALWAYS TRIGGER {quoted}"),
        ],
        drop: vec![format!("DROP TRIGGER {quoted} ON {table}"), format!("DROP FUNCTION {quoted}()")],
        name,
        table: model.table.clone(),
    }
}

/// `REPLACE` deletes the rows in its way without firing delete triggers.
fn guards(writer: &Writer<'_>) -> [Trigger; 2] {
    let Writer { schema, id, model, .. } = *writer;
    let table = ident(&model.table);
    let unique: BTreeSet<FieldId> = model.key.iter().copied().chain(writer.uniques()).collect();
    let columns: Vec<String> = unique.into_iter().map(|id| ident(&model.field(id).column)).collect();
    let guard = |word: &str, when: &str, update: bool| {
        let name = database_name(["cratestack_guard", word, &model.table]);
        sqlite_trigger(name, &model.table, when, &insert_guards(schema, id, model, update))
    };
    // Not UPDATE OF: a key that is SQLite's rowid can be changed by that name.
    let update = format!("BEFORE UPDATE ON {table} FOR EACH ROW WHEN {}", differ(&columns));
    [guard("insert", &format!("BEFORE INSERT ON {table}"), false), guard("update", &update, true)]
}

/// How a log's triggers tell of a row on PostgreSQL.
pub(crate) struct Told<'a> {
    /// What the names of its functions begin with.
    pub(crate) prefix: &'a str,
    /// Whether a tombstone counts as a row.
    pub(crate) tombstones: bool,
    /// More variables.
    pub(crate) variables: &'a str,
    /// The statements for one event. `o` is the row before, `n` the row after; all nulls where there is none.
    pub(crate) event: String,
}

/// The trigger of a log on PostgreSQL. An UPDATE that changes the key is two events, of the old row and of the new one.
pub(crate) fn postgres_trigger(writer: &Writer<'_>, told: &Told<'_>) -> Trigger {
    let table = ident(&writer.model.table);
    let name = database_name([told.prefix, &writer.model.table]);
    let quoted = ident(&name);
    let live = |row: &str| match writer.tombstone() {
        Some(at) if !told.tombstones => format!(" AND {row}.{at} IS NULL"),
        _ => String::new(),
    };
    let moved: Vec<String> = writer.key_columns().map(|key| format!("o.{key} IS DISTINCT FROM n.{key}")).collect();
    let body = format!(
        "\nDECLARE\n{declarations}  o {HERE}.{table}%ROWTYPE; n {HERE}.{table}%ROWTYPE; later {HERE}.{table}%ROWTYPE;\n  moved boolean;\n  {variables}\n\
         BEGIN\n{context_check}  \
         IF TG_OP <> 'INSERT'{live_old} THEN o := OLD; END IF;\n  \
         IF TG_OP <> 'DELETE'{live_new} THEN n := NEW; END IF;\n  \
         moved := TG_OP = 'UPDATE' AND ({moved});\n  \
         IF moved THEN later := n; n := NULL; END IF;\n  \
         LOOP\n{event}    \
         EXIT WHEN NOT moved;\n    \
         moved := false; o := NULL; n := later;\n  \
         END LOOP;\n  \
         RETURN NULL;\nEND\n",
        declarations = declarations(&format!("current_setting('{SETTING}', true)")),
        variables = told.variables,
        context_check = context_check(),
        live_old = live("OLD"),
        live_new = live("NEW"),
        moved = moved.join(" OR "),
        event = told.event,
    );
    let [function, revoke] = definer(&format!("{quoted}() RETURNS trigger"), &format!("{quoted}()"), &body);
    let create = vec![
        function,
        revoke,
        format!(
            "CREATE TRIGGER {quoted} AFTER INSERT OR UPDATE OR DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION {quoted}()"
        ),
        // Also for sessions that replicate, which skip ordinary triggers.
        format!("ALTER TABLE {table} ENABLE ALWAYS TRIGGER {quoted}"),
    ];
    let drop = vec![format!("DROP TRIGGER {quoted} ON {table}"), format!("DROP FUNCTION {quoted}()")];
    Trigger { name, table: writer.model.table.clone(), create, drop }
}

/// The triggers of a log on SQLite, given the statements for a change from one row to another, which may be none. An
/// UPDATE that changes the key is two changes.
pub(crate) fn sqlite_triggers(
    writer: &Writer<'_>,
    prefix: &str,
    change: impl Fn(Option<&str>, Option<&str>) -> String,
) -> Vec<Trigger> {
    let table = ident(&writer.model.table);
    let keys: Vec<String> = writer.key_columns().collect();
    let same = keys.iter().map(|key| format!("NEW.{key} IS OLD.{key}")).collect::<Vec<_>>().join(" AND ");
    let columns: Vec<String> = writer.model.fields.iter().map(|field| ident(&field.column)).collect();
    let changed = differ(&columns);
    let (old, new) = (Some("OLD"), Some("NEW"));
    let moved = format!("{}{}", change(old, None), change(None, new));
    let events = [
        ("insert", format!("AFTER INSERT ON {table}"), change(None, new)),
        ("update", format!("AFTER UPDATE ON {table} FOR EACH ROW WHEN {same} AND {changed}"), change(old, new)),
        ("move", format!("AFTER UPDATE ON {table} FOR EACH ROW WHEN NOT ({same})"), moved),
        ("delete", format!("AFTER DELETE ON {table}"), change(old, None)),
    ];
    let trigger = |(word, when, body): (&str, String, String)| {
        sqlite_trigger(database_name([prefix, word, &writer.model.table]), &writer.model.table, &when, &body)
    };
    events.into_iter().filter(|(.., body)| !body.is_empty()).map(trigger).collect()
}

/// SQLite: that the row before and the row after differ in these columns.
fn differ(columns: &[String]) -> String {
    let row = |row: &str| columns.iter().map(|column| format!("{row}.{column}")).collect::<Vec<_>>().join(", ");
    match columns {
        [column] => format!("NEW.{column} IS NOT OLD.{column}"),
        _ => format!("({}) IS NOT ({})", row("NEW"), row("OLD")),
    }
}

// What is known besides the row.

/// What stands in the text of a function for the PostgreSQL schema that its tables are in.
pub(crate) const HERE: &str = "\"cratestack:here\"";

/// A function with its owner's rights. It looks for what it names in PostgreSQL's own schema alone, or exactly where it
/// was made ([`HERE`]): in any other schema of a search path somebody else could have put a better match. And it is
/// nobody else's to call, nor to make a trigger of, on a table of their own.
pub(crate) fn definer(declaration: &str, signature: &str, body: &str) -> [String; 2] {
    let function = format!(
        "CREATE OR REPLACE FUNCTION {declaration} LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp \
         SET standard_conforming_strings = on SET extra_float_digits = 1 AS {}",
        dollar_quoted(body)
    );
    let here = format!(
        " BEGIN EXECUTE replace({}, {}, quote_ident(current_schema())); END ",
        dollar_quoted(&function),
        literal(HERE)
    );
    [format!("DO {}", dollar_quoted(&here)), format!("REVOKE ALL ON FUNCTION {signature} FROM PUBLIC")]
}

/// The variables of a function that writes an event, given where the context comes from.
pub(crate) fn declarations(context: &str) -> String {
    format!(
        "  c text[] := string_to_array(nullif({context}, ''), E'\\n');\n  outside boolean := c IS NULL;\n  actor jsonb;\n  \
         moment timestamptz := clock_timestamp();\n  \
         stamp text := lpad(to_hex(floor(date_part('epoch', moment) * 1000)::bigint), 12, '0');\n"
    )
}

/// The context as the entry needs it. Where there is none the actor is the database's user. Whoever may write can make
/// one up, but not more of the entry than a context has.
pub(crate) fn context_check() -> String {
    let rest = ", 'null'".repeat(Context::MEMBERS.len() - 2);
    let actor = ACTOR.map(literal).join(", ");
    // `json` and not `jsonb`: it is checked, and not built. What `json` takes and nobody can read is in escapes alone.
    let texts: Vec<String> =
        (2..=Context::MEMBERS.len()).map(|at| format!("json_typeof(c[{at}]::json) IN ('string', 'null')")).collect();
    format!(
        "  IF outside THEN\n    c := ARRAY[concat('{{\"claims\":{{}},\"client_ip\":null,\"roles\":[],\"subject\":', \
         to_json(session_user::text), '}}'), '\"sql\"'{rest}];\n  \
         ELSE\n    actor := c[1]::jsonb;\n    \
         IF (cardinality(c) = {count} AND jsonb_typeof(actor) = 'object' AND actor ?& ARRAY[{actor}] \
         AND actor - ARRAY[{actor}] = '{{}}' AND {texts} AND (strpos(array_to_string(c, ''), '\\u') = 0 \
         OR concat('[', array_to_string(c, ','), ']')::jsonb IS NOT NULL)) IS NOT TRUE THEN\n      \
         RAISE EXCEPTION USING MESSAGE = 'the context of the event does not have its form', \
         ERRCODE = 'invalid_parameter_value';\n    END IF;\n  END IF;\n",
        count = Context::MEMBERS.len(),
        texts = texts.join(" AND "),
    )
}

/// PostgreSQL: that an entry and its key have the size that logs take, given SQL for the model's name and the key.
pub(crate) fn must_fit(model: &str, key: &str) -> String {
    format!(
        "  IF octet_length(entry) > {ENTRY_LIMIT} OR octet_length({model}) + octet_length({key}) > {KEY_LIMIT} THEN\n    \
         RAISE EXCEPTION USING MESSAGE = 'the event does not fit', ERRCODE = 'program_limit_exceeded';\n  END IF;\n"
    )
}

/// PostgreSQL: that an entry, made of what somebody may have made up, is one line of JSON that can be read.
pub(crate) fn must_be_read() -> String {
    "  IF jsonb_typeof(entry::jsonb) IS DISTINCT FROM 'object' OR strpos(entry, chr(10)) > 0 THEN\n    \
     RAISE EXCEPTION USING MESSAGE = 'the event does not have its form', ERRCODE = 'invalid_parameter_value';\n  \
     END IF;\n"
        .to_owned()
}

/// One row with the context, or what stands for it; with time and id of the event; and with what else is given. The
/// limits keep SQLite from merging the subqueries, and so from evaluating what is random twice.
pub(crate) fn sqlite_context(more: &[(&str, &str)]) -> String {
    let defaults = Context::MEMBERS.map(|member| {
        let default = match member {
            "actor" => "{\"claims\":{},\"client_ip\":null,\"roles\":[],\"subject\":null}",
            "auth" => "\"sql\"",
            _ => "null",
        };
        format!("coalesce(x.{member}, '{default}') AS {member}")
    });
    let more: Vec<String> = more.iter().map(|(name, sql)| format!(", {sql} AS {name}")).collect();
    let more = more.concat();
    format!(
        "(SELECT {}, x.id IS NULL AS outside, strftime('%Y-%m-%dT%H:%M:%f000Z', 'now') AS at, \
         {EVENT_ID} AS event_id{more} FROM (SELECT {NOISE} LIMIT 1) AS r \
         LEFT JOIN {CONTEXT_TABLE} AS x ON x.id = 1 LIMIT 1)",
        defaults.join(", "),
    )
}

/// SQLite: the id of an event from `r.stamp` and `r.noise`, which [`NOISE`] makes.
pub(crate) const EVENT_ID: &str = "substr(r.stamp, 1, 8) || '-' || substr(r.stamp, 9) || '-7' || \
     substr(r.noise, 1, 3) || '-' || substr('89ab', 1 + unicode(substr(r.noise, 4, 1)) % 4, 1) || \
     substr(r.noise, 5, 3) || '-' || substr(r.noise, 8, 12)";

/// SQLite: what is random in the id of an event, and its time.
pub(crate) const NOISE: &str = "lower(hex(randomblob(10))) AS noise, \
     printf('%012x', CAST(strftime('%s', 'now') AS INTEGER) * 1000 \
     + CAST(substr(strftime('%f', 'now'), 4, 3) AS INTEGER)) AS stamp";

/// SQL for a member of the context, as JSON.
pub(crate) fn context(dialect: Dialect, member: &str) -> String {
    let at = Context::MEMBERS.iter().position(|known| *known == member).unwrap_or_default();
    match dialect {
        Dialect::Postgres => format!("c[{}]", at + 1),
        Dialect::Sqlite => format!("c.{member}"),
    }
}

/// The time of the event, and its id, a UUID v7.
pub(crate) fn time_and_id(dialect: Dialect) -> (Piece, Piece) {
    let (time, id) = match dialect {
        Dialect::Postgres => (
            "to_char(moment AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')",
            "overlay(gen_random_uuid()::text placing concat(left(stamp, 8), '-', right(stamp, 4), '-7') from 1 for 15)",
        ),
        Dialect::Sqlite => ("c.at", "c.event_id"),
    };
    (Piece::sql(time), Piece::sql(id))
}
