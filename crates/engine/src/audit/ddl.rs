//! The tables of the trail, and the triggers that write it.
//!
//! | change | operation | `before` | `after` |
//! |---|---|---|---|
//! | an INSERT | `create` | | the new row |
//! | an UPDATE that changes a field | `update`; with `@@soft_delete` also `delete` and `restore` | the old row | the new row |
//! | an UPDATE that changes the key | `delete`, then `create` | | |
//! | a DELETE | `delete`; of a tombstone `erase` | the old row | |
//! | a refusal (`@@audit(denials)`) | `denied` | | |
//!
//! An UPDATE that changes no field is no event. `TRUNCATE` deletes the rows one by one first. On SQLite a foreign key's
//! own action on a model with `@version` is two updates, since there a second statement moves the version.

use cratestack_schema::ir::{ModelId, Schema};

use super::{Context, ENTRY_LIMIT, TABLE, VIEW};
use crate::ddl::{META_TABLE, Trigger};
use crate::ddl_trigger::{append_only, dollar_quoted};
use crate::idempotency;
use crate::logs::{
    self, EVENT_ID, HERE, NOISE, Piece, Told, Writer, context_check, declarations, definer, digest, must_be_read,
    must_fit, octets, postgres_trigger, render, sqlite_context, sqlite_triggers, time_and_id,
};
use crate::outbox::{self, EMIT, EMIT_TYPES};
use crate::relay::{AUDIT, Log, OUTBOX};
use crate::sql::{Dialect, ident};
use crate::storage::literal;

/// The function that records a refusal on PostgreSQL: context, schema's name, its fingerprint, model, key.
pub(crate) const DENIED: &str = "cratestack_audit_denied";

/// Tables and views of the trail, in an order in which they can be dropped.
pub(crate) fn objects() -> [(&'static str, &'static str); 4] {
    [("VIEW", VIEW), ("TABLE", AUDIT.delivery), ("TABLE", AUDIT.position), ("TABLE", TABLE)]
}

/// The statements that make the trail where it is not there yet; they may run any number of times.
pub(crate) fn tables(dialect: Dialect) -> Vec<String> {
    let mut statements = logs::table(&AUDIT, Some(("out_of_band", "boolean", "INTEGER")), dialect);
    statements.extend(match dialect {
        Dialect::Postgres => trail_postgres(),
        Dialect::Sqlite => trail_sqlite(),
    });
    statements.extend(AUDIT.ddl(dialect));
    statements
}

fn trail_postgres() -> Vec<String> {
    let mut statements = Vec::new();
    for trigger in append_only(TABLE, Dialect::Postgres) {
        statements.extend(trigger.create);
    }
    statements.push(format!(
        "CREATE OR REPLACE VIEW {VIEW} AS SELECT e.seq, e.xid, e.occurred_at, e.model, e.primary_key, e.out_of_band, {}, \
         e.entry FROM (SELECT seq, xid, occurred_at, model, primary_key, out_of_band, entry, entry::json AS j FROM {TABLE}) \
         AS e",
        MEMBERS
            .iter()
            .map(|(name, kind)| match kind {
                Kind::Uuid => format!("(e.j->>'{name}')::uuid AS {name}"),
                Kind::Text => format!("e.j->>'{name}' AS {name}"),
                Kind::Json => format!("e.j->'{name}' AS {name}"),
            })
            .collect::<Vec<_>>()
            .join(", "),
    ));
    statements.extend(denied_postgres());
    statements
}

/// Refusals have a function, since the application's role may not insert into the trail.
fn denied_postgres() -> Vec<String> {
    let event = Event {
        dialect: Dialect::Postgres,
        model: Piece::sql("to_json(of_model)::text"),
        schema_name: Piece::sql("to_json(schema_name)::text"),
        schema_version: Piece::sql("to_json(schema_version)::text"),
        operation: Piece::text("denied"),
        outcome: "denied",
    };
    let nothing = || vec![Piece::text("null")];
    let entry =
        [event.head(), nothing(), event.middle(), nothing(), event.tail("''", "to_json(of_key)::text")].concat();
    let body = format!(
        "\nDECLARE\n{}  entry text;\nBEGIN\n{}  entry := {};\n{}  \
         INSERT INTO {HERE}.{TABLE} (occurred_at, model, primary_key, out_of_band, entry)\n  \
         VALUES (moment, of_model, of_key, outside, entry);\nEND\n",
        declarations("context"),
        context_check(),
        render(Dialect::Postgres, &entry),
        [must_be_read(), must_fit("of_model", "of_key")].concat(),
    );
    let parameters = "context text, schema_name text, schema_version text, of_model text, of_key text";
    definer(&format!("{DENIED}({parameters}) RETURNS void"), &format!("{DENIED}(text, text, text, text, text)"), &body)
        .into()
}

fn trail_sqlite() -> Vec<String> {
    let mut statements = Vec::new();
    for trigger in append_only(TABLE, Dialect::Sqlite) {
        statements.push(format!("DROP TRIGGER IF EXISTS {}", ident(&trigger.name)));
        statements.extend(trigger.create);
    }
    statements.push(format!("DROP VIEW IF EXISTS {VIEW}"));
    let members = MEMBERS.map(|(name, kind)| match kind {
        Kind::Uuid | Kind::Text => format!("entry ->> '$.{name}' AS {name}"),
        Kind::Json => format!("entry -> '$.{name}' AS {name}"),
    });
    statements.push(format!(
        "CREATE VIEW {VIEW} AS SELECT seq, occurred_at, model, primary_key, out_of_band, {}, entry FROM {TABLE}",
        members.join(", ")
    ));
    statements
}

/// What the view shows of an entry, and how.
const MEMBERS: [(&str, Kind); 17] = [
    ("event_id", Kind::Uuid),
    ("schema_name", Kind::Text),
    ("schema_version", Kind::Text),
    ("operation", Kind::Text),
    ("actor", Kind::Json),
    ("auth", Kind::Text),
    ("op", Kind::Text),
    ("outcome", Kind::Text),
    ("service", Kind::Text),
    ("trace_id", Kind::Text),
    ("tenant", Kind::Text),
    ("before", Kind::Json),
    ("after", Kind::Json),
    ("changed", Kind::Json),
    ("request_id", Kind::Text),
    ("idempotency_key", Kind::Text),
    ("db_user", Kind::Text),
];

#[derive(Clone, Copy)]
enum Kind {
    Uuid,
    Text,
    Json,
}

/// The statements that let a role of PostgreSQL, which they make if need be, serve a schema, and no more: it changes rows,
/// but neither tables nor the trail nor the outbox, which the triggers write with the rights of their owner. `namespace` is
/// the PostgreSQL schema that the tables are in.
pub fn grants(schema: &Schema, role: &str, namespace: &str) -> Vec<String> {
    let (name, role, namespace) = (literal(role), ident(role), ident(namespace));
    let on = |tables: &[String], what: &str| {
        let tables: Vec<String> = tables.iter().map(|table| format!("{namespace}.{}", ident(table))).collect();
        format!("GRANT {what} ON {} TO {role};", tables.join(", "))
    };
    let tables = |append_only: bool| {
        let models = schema.models.iter().filter(|model| model.append_only == append_only);
        models.map(|model| model.table.clone()).collect::<Vec<String>>()
    };
    let mut statements = vec![
        format!(
            "DO {};",
            dollar_quoted(&format!(
                " BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {name}) THEN EXECUTE format('CREATE ROLE %I \
                 LOGIN', {name}); END IF; END "
            ))
        ),
        format!("REVOKE ALL ON ALL TABLES IN SCHEMA {namespace} FROM {role};"),
        format!("REVOKE CREATE ON SCHEMA {namespace} FROM {role};"),
        format!("GRANT USAGE ON SCHEMA {namespace} TO {role};"),
    ];
    for (tables, what) in [(tables(false), "SELECT, INSERT, UPDATE, DELETE"), (tables(true), "SELECT, INSERT")] {
        if !tables.is_empty() {
            statements.push(on(&tables, what));
        }
    }
    statements.push(on(&[META_TABLE.to_owned()], "SELECT"));
    statements.push(on(&[idempotency::TABLE.to_owned()], "SELECT, INSERT, UPDATE, DELETE"));
    // Its functions may be run by everybody, and do what the table allows.
    let limits = format!("{namespace}.{}", ident("cratestack_rate_limits"));
    statements.push(format!(
        "DO {};",
        dollar_quoted(&format!(
            " BEGIN IF to_regclass({}) IS NOT NULL THEN GRANT SELECT, INSERT, UPDATE, DELETE ON {limits} TO {role}; END IF; END ",
            literal(&limits)
        ))
    ));
    // A service asks whether the migrations that it needs were applied.
    for name in ["cratestack_migrations", "cratestack_migration_steps", "cratestack_migration_lease"] {
        let table = format!("{namespace}.{}", ident(name));
        statements.push(format!(
            "DO {};",
            dollar_quoted(&format!(
                " BEGIN IF to_regclass({}) IS NOT NULL THEN GRANT SELECT ON {table} TO {role}; END IF; END ",
                literal(&table)
            ))
        ));
    }
    let log = |log: &Log, views: &[&str]| {
        let read: Vec<String> = [log.table].iter().chain(views).map(|name| (*name).to_owned()).collect();
        let relay = [log.delivery.to_owned(), log.position.to_owned()];
        [on(&read, "SELECT"), on(&relay, "SELECT, INSERT, UPDATE, DELETE")]
    };
    if outbox::any(schema) {
        statements.extend(log(&OUTBOX, &[]));
        statements.push(format!("GRANT EXECUTE ON FUNCTION {namespace}.{EMIT}({EMIT_TYPES}) TO {role};"));
    }
    if super::any(schema) {
        statements.extend(log(&AUDIT, &[VIEW]));
        statements
            .push(format!("GRANT EXECUTE ON FUNCTION {namespace}.{DENIED}(text, text, text, text, text) TO {role};"));
    }
    statements
}

/// What the members of an entry say that do not come from its row. `c` is the context.
struct Event {
    dialect: Dialect,
    model: Piece,
    schema_name: Piece,
    schema_version: Piece,
    operation: Piece,
    outcome: &'static str,
}

impl Event {
    fn context(&self, member: &str) -> Piece {
        Piece::Sql(logs::context(self.dialect, member))
    }

    /// Up to the value of `after`.
    fn head(&self) -> Vec<Piece> {
        vec![Piece::text("{\"actor\":"), self.context("actor"), Piece::text(",\"after\":")]
    }

    /// Up to the value of `before`.
    fn middle(&self) -> Vec<Piece> {
        let (at, _) = time_and_id(self.dialect);
        let auth = self.context("auth");
        vec![Piece::text(",\"at\":\""), at, Piece::text("\",\"auth\":"), auth, Piece::text(",\"before\":")]
    }

    /// The rest. `changed` is the names with quotes and commas, `key` is JSON.
    fn tail(&self, changed: &str, key: &str) -> Vec<Piece> {
        let (user, outside) = match self.dialect {
            Dialect::Postgres => (Piece::sql("to_json(session_user::text)::text"), "outside::text"),
            Dialect::Sqlite => (Piece::text("null"), "iif(c.outside, 'true', 'false')"),
        };
        let (_, event_id) = time_and_id(self.dialect);
        let members = [
            ("changed", vec![Piece::text("["), Piece::sql(changed), Piece::text("]")]),
            ("db_user", vec![user]),
            ("event_id", vec![Piece::text("\""), event_id, Piece::text("\"")]),
            ("idempotency_key", vec![self.context("idempotency_key")]),
            ("model", vec![self.model.clone()]),
            ("op", vec![self.context("op")]),
            ("operation", vec![Piece::text("\""), self.operation.clone(), Piece::text("\"")]),
            ("out_of_band", vec![Piece::sql(outside)]),
            ("outcome", vec![Piece::json(self.outcome)]),
            ("primary_key", vec![Piece::sql(key)]),
            ("request_id", vec![self.context("request_id")]),
            ("schema_name", vec![self.schema_name.clone()]),
            ("schema_version", vec![self.schema_version.clone()]),
            ("service", vec![self.context("service")]),
            ("tenant", vec![self.context("tenant")]),
            ("trace_id", vec![self.context("trace_id")]),
            ("typ", vec![Piece::json("audit.event")]),
            ("v", vec![Piece::text("1")]),
        ];
        let mut pieces = Vec::new();
        for (name, value) in members {
            pieces.push(Piece::Text(format!(",\"{name}\":")));
            pieces.extend(value);
        }
        pieces.push(Piece::text("}"));
        pieces
    }
}

/// The triggers that write the trail of one model.
pub(crate) fn triggers(writer: &Writer<'_>) -> Vec<Trigger> {
    if writer.dialect == Dialect::Sqlite {
        return sqlite_triggers(writer, TABLE, |old, new| sqlite_event(writer, old, new));
    }
    let told = Told {
        prefix: "cratestack_audit_rows",
        tombstones: true,
        variables: "changed text; operation text; key text; was text; becomes text; entry text;",
        event: postgres_event(writer),
    };
    vec![postgres_trigger(writer, &told)]
}

fn event(writer: &Writer<'_>, operation: Piece) -> Event {
    Event {
        dialect: writer.dialect,
        model: Piece::json(&writer.model.name),
        schema_name: Piece::json(&writer.schema.name),
        schema_version: Piece::json(&writer.schema.fingerprint()),
        operation,
        outcome: "done",
    }
}

/// The statements for one event on PostgreSQL.
fn postgres_event(writer: &Writer<'_>) -> String {
    let first = writer.key_columns().next().unwrap_or_default();
    let (gone, new) = (format!("n.{first} IS NULL"), format!("o.{first} IS NULL"));
    let operation = match writer.tombstone() {
        None => format!("CASE WHEN {new} THEN 'create' WHEN {gone} THEN 'delete' ELSE 'update' END"),
        Some(at) => format!(
            "CASE WHEN {new} THEN 'create' WHEN {gone} AND o.{at} IS NULL THEN 'delete' WHEN {gone} THEN 'erase' \
             WHEN o.{at} IS NULL AND n.{at} IS NOT NULL THEN 'delete' \
             WHEN o.{at} IS NOT NULL AND n.{at} IS NULL THEN 'restore' ELSE 'update' END"
        ),
    };
    let event = event(writer, Piece::sql("operation"));
    let pieces = |pieces: Vec<Piece>| render(Dialect::Postgres, &pieces);
    let digest = |text: &str| digest(Dialect::Postgres, text);
    format!(
        "    changed := {changed};\n    \
         IF changed <> '' THEN\n      \
         operation := {operation};\n      \
         key := CASE WHEN {gone} THEN {old_key} ELSE {new_key} END;\n      \
         was := CASE WHEN {new} THEN 'null' ELSE {was} END;\n      \
         becomes := CASE WHEN {gone} THEN 'null' ELSE {becomes} END;\n      \
         FOR turn IN 1..3 LOOP\n        \
         entry := {entry};\n        \
         EXIT WHEN octet_length(entry) <= {ENTRY_LIMIT};\n        \
         IF octet_length(becomes) >= octet_length(was) THEN becomes := {new_digest}; ELSE was := {old_digest}; END IF;\n      \
         END LOOP;\n{must_fit}      \
         INSERT INTO {HERE}.{TABLE} (occurred_at, model, primary_key, out_of_band, entry)\n      \
         VALUES (moment, {model}, key, outside, entry);\n    \
         END IF;\n",
        changed = pieces(writer.changed(|column| format!("o.{column} IS DISTINCT FROM n.{column}"))),
        old_key = writer.key("o"),
        new_key = writer.key("n"),
        was = pieces(writer.object("o")),
        becomes = pieces(writer.object("n")),
        entry = pieces(
            [
                event.head(),
                vec![Piece::sql("becomes")],
                event.middle(),
                vec![Piece::sql("was")],
                event.tail("substr(changed, 2)", "to_json(key)::text"),
            ]
            .concat()
        ),
        must_fit = must_fit(&literal(&writer.model.name), "key"),
        new_digest = digest("becomes"),
        old_digest = digest("was"),
        model = literal(&writer.model.name),
    )
}

/// An INSERT of the event.
fn sqlite_event(writer: &Writer<'_>, old: Option<&str>, new: Option<&str>) -> String {
    let pieces = |pieces: &[Piece]| render(Dialect::Sqlite, pieces);
    let object = |row: Option<&str>| row.map_or_else(|| "'null'".to_owned(), |row| pieces(&writer.object(row)));
    let changed = pieces(&writer.changed(|column| match (old, new) {
        (Some(old), Some(new)) => format!("{old}.{column} IS NOT {new}.{column}"),
        (row, other) => format!("{}.{column} IS NOT NULL", row.or(other).unwrap_or_default()),
    }));
    let operation = match (old, new, writer.tombstone()) {
        (None, ..) => Piece::text("create"),
        (Some(_), Some(_), None) => Piece::text("update"),
        (Some(_), None, None) => Piece::text("delete"),
        (Some(old), None, Some(at)) => Piece::Sql(format!("iif({old}.{at} IS NULL, 'delete', 'erase')")),
        (Some(old), Some(new), Some(at)) => Piece::Sql(format!(
            "CASE WHEN {old}.{at} IS NULL AND {new}.{at} IS NOT NULL THEN 'delete' \
             WHEN {old}.{at} IS NOT NULL AND {new}.{at} IS NULL THEN 'restore' ELSE 'update' END"
        )),
    };
    let event = event(writer, operation);
    let key = writer.key(new.or(old).unwrap_or_default());
    let start = format!(
        "(SELECT c.at, c.outside, c.key, {} AS head, {} AS becomes, {} AS middle, {} AS was, {} AS tail \
         FROM {} AS c LIMIT 1)",
        pieces(&event.head()),
        object(new),
        pieces(&event.middle()),
        object(old),
        pieces(&event.tail("substr(c.changed, 2)", "json_quote(c.key)")),
        sqlite_context(&[("changed", &changed), ("key", &key)]),
    );
    // With OR IGNORE, or a trigger of somebody's own, the INSERT may have done nothing.
    format!(
        "{}  SELECT RAISE(ABORT, 'cratestack:audit:no event') WHERE changes() <> 1;\n",
        sqlite_insert(&literal(&writer.model.name), &sqlite_fit(&sqlite_fit(&start)))
    )
}

/// The INSERT into the trail of what `source` gives.
fn sqlite_insert(model: &str, source: &str) -> String {
    format!(
        "  INSERT INTO {TABLE} (occurred_at, model, primary_key, out_of_band, entry) \
         SELECT e.at, {model}, e.key, e.outside, e.head || e.becomes || e.middle || e.was || e.tail FROM {source} AS e;\n"
    )
}

/// Replaces the larger one of two rows if they do not fit.
fn sqlite_fit(source: &str) -> String {
    let size = |text: &str| octets(Dialect::Sqlite, &format!("s.{text}"));
    let total = ["head", "becomes", "middle", "was", "tail"].map(size).join(" + ");
    let digest = |text: &str| digest(Dialect::Sqlite, &format!("s.{text}"));
    format!(
        "(SELECT s.at, s.outside, s.key, s.head, \
         CASE WHEN {total} > {ENTRY_LIMIT} AND {new} >= {old} THEN {new_digest} ELSE s.becomes END AS becomes, s.middle, \
         CASE WHEN {total} > {ENTRY_LIMIT} AND {new} < {old} THEN {old_digest} ELSE s.was END AS was, s.tail \
         FROM {source} AS s LIMIT 1)",
        new = size("becomes"),
        old = size("was"),
        new_digest = digest("becomes"),
        old_digest = digest("was"),
    )
}

/// The statement that records a refusal on SQLite; its values are the schema's name and fingerprint, the model and the
/// key.
pub(crate) fn denied_sqlite() -> String {
    let event = Event {
        dialect: Dialect::Sqlite,
        model: Piece::sql("json_quote(?3)"),
        schema_name: Piece::sql("json_quote(?1)"),
        schema_version: Piece::sql("json_quote(?2)"),
        operation: Piece::text("denied"),
        outcome: "denied",
    };
    let pieces = |pieces: Vec<Piece>| render(Dialect::Sqlite, &pieces);
    let source = format!(
        "(SELECT c.at, c.outside, c.key, {} AS head, 'null' AS becomes, {} AS middle, 'null' AS was, {} AS tail FROM {} AS c \
         LIMIT 1)",
        pieces(event.head()),
        pieces(event.middle()),
        pieces(event.tail("''", "json_quote(c.key)")),
        sqlite_context(&[("key", "?4")]),
    );
    sqlite_insert("?3", &source).trim().trim_end_matches(';').to_owned()
}

/// The statement that begins the trail of a model whose rows are there already: a `create` event of the system for each.
pub(crate) fn baseline(schema: &Schema, id: ModelId, dialect: Dialect) -> String {
    let writer = Writer { schema, id, model: schema.model(id), dialect };
    let present = |column: &str| format!("n.{column} IS NOT NULL");
    let pieces = |pieces: &[Piece]| render(dialect, pieces);
    let event = event(&writer, Piece::text("create"));
    let (table, key) = (ident(&writer.model.table), writer.key("n"));
    let (row, changed) = (pieces(&writer.object("n")), pieces(&writer.changed(present)));
    let members = Context::MEMBERS.map(|member| match member {
        "actor" => "'{\"claims\":{},\"client_ip\":null,\"roles\":[],\"subject\":null}'",
        "auth" => "'\"system\"'",
        "op" => "'\"migrate\"'",
        _ => "'null'",
    });
    let rows = format!("{key} AS key, {row} AS becomes, {changed} AS changed");
    let (moment, source, tail) = match dialect {
        Dialect::Postgres => (
            "moment",
            format!(
                "(SELECT {rows} FROM {table} AS n) AS r CROSS JOIN (SELECT ARRAY[{}] AS c, false AS outside, m.moment, \
                 lpad(to_hex(floor(date_part('epoch', m.moment) * 1000)::bigint), 12, '0') AS stamp \
                 FROM (SELECT clock_timestamp() AS moment) AS m) AS x",
                members.join(", "),
            ),
            event.tail("substr(changed, 2)", "to_json(key)::text"),
        ),
        Dialect::Sqlite => {
            let named = Context::MEMBERS.iter().zip(members).map(|(name, text)| format!("{text} AS {name}"));
            let source = format!(
                "(SELECT {}, 0 AS outside, strftime('%Y-%m-%dT%H:%M:%f000Z', 'now') AS at, {EVENT_ID} AS event_id, \
                 r.key, r.becomes, r.changed FROM (SELECT {rows}, {NOISE} FROM {table} AS n) AS r) AS c",
                named.collect::<Vec<_>>().join(", "),
            );
            ("c.at", source, event.tail("substr(c.changed, 2)", "json_quote(c.key)"))
        }
    };
    let total = ["f.head", "f.becomes", "f.middle", "f.tail"].map(|part| octets(dialect, part)).join(" + ");
    let fitted =
        format!("CASE WHEN {total} > {ENTRY_LIMIT} - 4 THEN {} ELSE f.becomes END", digest(dialect, "f.becomes"));
    let entry = ["f.head", &fitted, "f.middle", "'null'", "f.tail"].map(Piece::sql);
    let no = if dialect == Dialect::Postgres { "false" } else { "0" };
    format!(
        "INSERT INTO {TABLE} (occurred_at, model, primary_key, out_of_band, entry) SELECT f.moment, {model}, f.key, {no}, \
         {entry} FROM (SELECT {moment} AS moment, key, {head} AS head, becomes, {middle} AS middle, {tail} AS tail \
         FROM {source}) AS f ORDER BY f.key",
        model = literal(&writer.model.name),
        entry = pieces(&entry),
        head = pieces(&event.head()),
        middle = pieces(&event.middle()),
        tail = pieces(&tail),
    )
}
