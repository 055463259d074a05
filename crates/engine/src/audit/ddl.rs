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

use std::collections::BTreeSet;

use cratestack_schema::database_name;
use cratestack_schema::ir::{Field, FieldId, Model, ModelId, Schema};

use super::{Context, ENTRY_LIMIT, KEY_LIMIT, TABLE, VIEW};
use crate::ddl::{META_TABLE, Trigger};
use crate::ddl_trigger::{append_only, dollar_quoted, fixed_path, insert_guards, sqlite_trigger};
use crate::relay::AUDIT;
use crate::sql::{Dialect, SqlType, column, ident};
use crate::storage::{Codec, TextForm, literal, push_json_string};

/// The setting that carries a [`Context`] on PostgreSQL.
pub(crate) const SETTING: &str = "cratestack.context";

/// The table that carries a [`Context`] on SQLite: empty, but for the length of a write.
pub(crate) const CONTEXT_TABLE: &str = "cratestack_audit_context";

/// The members of an entry's `actor`.
const ACTOR: [&str; 4] = ["claims", "client_ip", "roles", "subject"];

/// The function that records a refusal on PostgreSQL: context, schema's name, its fingerprint, model, key.
pub(crate) const DENIED: &str = "cratestack_audit_denied";

/// Tables and views of the trail, in an order in which they can be dropped.
pub(crate) fn objects() -> [(&'static str, &'static str); 5] {
    [("VIEW", VIEW), ("TABLE", AUDIT.delivery), ("TABLE", AUDIT.position), ("TABLE", CONTEXT_TABLE), ("TABLE", TABLE)]
}

/// The statements that make the trail where it is not there yet; they may run any number of times. It outlives the
/// last `@@audit`: nothing that happened is forgotten with a change of schema.
pub(crate) fn trail(dialect: Dialect) -> Vec<String> {
    let mut statements = match dialect {
        Dialect::Postgres => trail_postgres(),
        Dialect::Sqlite => trail_sqlite(),
    };
    statements.extend(AUDIT.ddl(dialect));
    statements
}

fn trail_postgres() -> Vec<String> {
    let mut statements = vec![
        format!(
            "CREATE TABLE IF NOT EXISTS {TABLE} (\n  \
             seq bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT {TABLE}_pkey PRIMARY KEY,\n  \
             xid bigint NOT NULL DEFAULT pg_current_xact_id()::text::bigint,\n  \
             occurred_at timestamptz NOT NULL,\n  \
             model text COLLATE \"C\" NOT NULL,\n  \
             primary_key text COLLATE \"C\" NOT NULL,\n  \
             out_of_band boolean NOT NULL,\n  \
             entry text COLLATE \"C\" NOT NULL,\n  \
             CONSTRAINT {TABLE}_size_check CHECK (octet_length(entry) BETWEEN 1 AND {ENTRY_LIMIT}),\n  \
             CONSTRAINT {TABLE}_key_check CHECK (octet_length(model) + octet_length(primary_key) <= {KEY_LIMIT}),\n  \
             CONSTRAINT {TABLE}_json_check CHECK (jsonb_typeof(entry::jsonb) = 'object')\n)"
        ),
        format!("CREATE INDEX IF NOT EXISTS {TABLE}_key_idx ON {TABLE} (model, primary_key, seq)"),
        format!("CREATE INDEX IF NOT EXISTS {TABLE}_xid_idx ON {TABLE} USING brin (xid) WITH (autosummarize = on)"),
        format!(
            "CREATE INDEX IF NOT EXISTS {TABLE}_time_idx ON {TABLE} USING brin (occurred_at) WITH (autosummarize = on)"
        ),
    ];
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
        "\nDECLARE\n{}BEGIN\n{}  INSERT INTO {HERE}.{TABLE} (occurred_at, model, primary_key, out_of_band, entry)\n  \
         VALUES (moment, of_model, of_key, outside, {});\nEND\n",
        declarations("context"),
        context_check(),
        render(Dialect::Postgres, &entry),
    );
    let parameters = "context text, schema_name text, schema_version text, of_model text, of_key text";
    definer(&format!("{DENIED}({parameters}) RETURNS void"), &format!("{DENIED}(text, text, text, text, text)"), &body)
        .into()
}

/// What stands in the text of a function for the PostgreSQL schema that its tables are in.
const HERE: &str = "\"cratestack:here\"";

/// A function with its owner's rights. It looks for what it names in PostgreSQL's own schema alone, or exactly where it
/// was made ([`HERE`]): in any other schema of a search path somebody else could have put a better match. And it is
/// nobody else's to call, nor to make a trigger of, on a table of their own.
fn definer(declaration: &str, signature: &str, body: &str) -> [String; 2] {
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
fn declarations(context: &str) -> String {
    format!(
        "  c text[] := string_to_array(nullif({context}, ''), E'\\n');\n  outside boolean := c IS NULL;\n  \
         moment timestamptz := clock_timestamp();\n  \
         stamp text := lpad(to_hex(trunc(extract(epoch FROM moment) * 1000)::bigint), 12, '0');\n"
    )
}

/// The context as the entry needs it. Where there is none the actor is the database's user. Whoever may write can make
/// one up, but not more of the entry than a context has.
fn context_check() -> String {
    let rest = ", 'null'".repeat(Context::MEMBERS.len() - 2);
    let actor = ACTOR.map(literal).join(", ");
    let texts: Vec<String> =
        (2..=Context::MEMBERS.len()).map(|at| format!("jsonb_typeof(c[{at}]::jsonb) IN ('string', 'null')")).collect();
    format!(
        "  IF outside THEN\n    c := ARRAY[concat('{{\"claims\":{{}},\"client_ip\":null,\"roles\":[],\"subject\":', \
         to_json(session_user::text), '}}'), '\"sql\"'{rest}];\n  \
         ELSIF (cardinality(c) = {count} AND jsonb_typeof(c[1]::jsonb) = 'object' AND c[1]::jsonb ?& ARRAY[{actor}] \
         AND c[1]::jsonb - ARRAY[{actor}] = '{{}}' AND {texts}) IS NOT TRUE THEN\n    \
         RAISE EXCEPTION USING MESSAGE = 'the context of the audit trail does not have its form', \
         ERRCODE = 'invalid_parameter_value';\n  END IF;\n",
        count = Context::MEMBERS.len(),
        texts = texts.join(" AND "),
    )
}

fn trail_sqlite() -> Vec<String> {
    let members = Context::MEMBERS.map(|member| {
        let form = if member == "actor" { "= 'object'" } else { "IN ('text', 'null')" };
        format!("{member} TEXT NOT NULL CHECK (json_type({member}) {form})")
    });
    let mut statements = vec![
        format!(
            "CREATE TABLE IF NOT EXISTS {TABLE} (\n  seq INTEGER PRIMARY KEY AUTOINCREMENT,\n  occurred_at TEXT NOT NULL,\n  \
             model TEXT NOT NULL,\n  primary_key TEXT NOT NULL,\n  out_of_band INTEGER NOT NULL,\n  entry TEXT NOT NULL,\n  \
             CONSTRAINT {TABLE}_seq_check CHECK (seq > 0)\n) STRICT"
        ),
        format!("CREATE INDEX IF NOT EXISTS {TABLE}_key_idx ON {TABLE} (model, primary_key, seq)"),
        format!(
            "CREATE TABLE IF NOT EXISTS {CONTEXT_TABLE} (id INTEGER PRIMARY KEY CHECK (id = 1), {}) STRICT",
            members.join(", ")
        ),
    ];
    for trigger in append_only(TABLE, Dialect::Sqlite) {
        statements.push(format!("DROP TRIGGER IF EXISTS {}", ident(&trigger.name)));
        statements.extend(trigger.create);
    }
    // Not constraints: OR IGNORE and OR FAIL of the statement whose trigger inserts would decide what becomes of their
    // refusals, and the row would be changed without its event. And INSERT OR REPLACE deletes the row in its way without
    // firing delete triggers.
    let octets = |text: &str| octets(Dialect::Sqlite, text);
    let refused = [
        ("form", "entry", "json_valid(NEW.entry) IS NOT 1 OR json_type(NEW.entry) IS NOT 'object'".to_owned()),
        ("size", "entry", format!("{} NOT BETWEEN 1 AND {ENTRY_LIMIT}", octets("NEW.entry"))),
        ("size", "key", format!("{} + {} > {KEY_LIMIT}", octets("NEW.model"), octets("NEW.primary_key"))),
    ];
    let refused = refused
        .map(|(what, of, when)| format!("  SELECT RAISE(ABORT, 'cratestack:audit:{what} of {of}') WHERE {when};\n"));
    let name = format!("{TABLE}_guard");
    statements.push(format!("DROP TRIGGER IF EXISTS {name}"));
    statements.push(format!(
        "CREATE TRIGGER {name} BEFORE INSERT ON {TABLE} BEGIN\n{}  \
         SELECT RAISE(ABORT, 'cratestack:append_only:{TABLE}') WHERE EXISTS (SELECT 1 FROM {TABLE} AS there \
         WHERE there.seq = NEW.seq);\nEND",
        refused.concat(),
    ));
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

/// The statements that let a role of PostgreSQL, which they make if need be, serve a schema, and no more: it changes rows, but neither tables nor
/// the trail, which the triggers write with the rights of their owner. `namespace` is the PostgreSQL schema that the tables
/// are in.
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
    if super::any(schema) {
        statements.push(on(&[TABLE.to_owned(), VIEW.to_owned()], "SELECT"));
        let relay = [AUDIT.delivery.to_owned(), AUDIT.position.to_owned()];
        statements.push(on(&relay, "SELECT, INSERT, UPDATE, DELETE"));
        statements
            .push(format!("GRANT EXECUTE ON FUNCTION {namespace}.{DENIED}(text, text, text, text, text) TO {role};"));
    }
    statements
}

/// The triggers of one model.
pub(crate) fn triggers(schema: &Schema, id: ModelId, dialect: Dialect) -> Vec<Trigger> {
    let model = schema.model(id);
    if model.audit.is_none() {
        return Vec::new();
    }
    let writer = Writer { schema, id, model, dialect };
    match dialect {
        Dialect::Postgres => writer.postgres(),
        Dialect::Sqlite => writer.sqlite(),
    }
}

/// What the triggers of a model write of a row: SQL for the text of its key, and of the row as JSON.
pub(crate) fn texts(schema: &Schema, id: ModelId, dialect: Dialect, row: &str) -> (String, String) {
    let writer = Writer { schema, id, model: schema.model(id), dialect };
    (writer.key(row), render(dialect, &writer.object(row)))
}

/// What stands for a row that does not fit, given SQL for its text: an object in an object, which is no row's value.
pub(crate) fn digest(dialect: Dialect, text: &str) -> String {
    match dialect {
        Dialect::Postgres => format!(
            "concat('{{\"omitted\":{{\"length\":', octet_length({text}), ',\"sha256\":\"', \
             encode(sha256(convert_to({text}, 'UTF8')), 'hex'), '\"}}}}')"
        ),
        Dialect::Sqlite => format!("'{{\"omitted\":{{\"length\":' || {} || '}}}}'", octets(dialect, text)),
    }
}

/// A part of a text that SQL puts together.
#[derive(Debug, Clone)]
enum Piece {
    /// As it is.
    Text(String),
    /// An expression that is text, and never null.
    Sql(String),
}

impl Piece {
    fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    fn sql(sql: impl Into<String>) -> Self {
        Self::Sql(sql.into())
    }

    fn json(text: &str) -> Self {
        let mut out = String::new();
        push_json_string(&mut out, text);
        Self::Text(out)
    }
}

/// The expression that puts the pieces together.
fn render(dialect: Dialect, pieces: &[Piece]) -> String {
    /// PostgreSQL's functions take at most 100 arguments.
    const ARGUMENTS: usize = 90;
    let mut parts: Vec<String> = Vec::new();
    let mut pending = String::new();
    for piece in pieces {
        match piece {
            Piece::Text(text) => pending.push_str(text),
            Piece::Sql(sql) => {
                if !pending.is_empty() {
                    parts.push(literal(&std::mem::take(&mut pending)));
                }
                parts.push(if dialect == Dialect::Sqlite { format!("({sql})") } else { sql.clone() });
            }
        }
    }
    if !pending.is_empty() || parts.is_empty() {
        parts.push(literal(&pending));
    }
    while parts.len() > 1 {
        parts = match dialect {
            Dialect::Postgres => parts.chunks(ARGUMENTS).map(|few| format!("concat({})", few.join(", "))).collect(),
            // In pairs: SQLite limits the depth of expressions.
            Dialect::Sqlite => parts
                .chunks(2)
                .map(|pair| if pair.len() == 2 { format!("({})", pair.join(" || ")) } else { pair.concat() })
                .collect(),
        };
    }
    parts.concat()
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
        let at = Context::MEMBERS.iter().position(|known| *known == member).unwrap_or_default();
        Piece::Sql(match self.dialect {
            Dialect::Postgres => format!("c[{}]", at + 1),
            Dialect::Sqlite => format!("c.{member}"),
        })
    }

    /// Up to the value of `after`.
    fn head(&self) -> Vec<Piece> {
        vec![Piece::text("{\"actor\":"), self.context("actor"), Piece::text(",\"after\":")]
    }

    /// Up to the value of `before`.
    fn middle(&self) -> Vec<Piece> {
        let at = match self.dialect {
            Dialect::Postgres => "to_char(moment AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')",
            Dialect::Sqlite => "c.at",
        };
        let auth = self.context("auth");
        vec![Piece::text(",\"at\":\""), Piece::sql(at), Piece::text("\",\"auth\":"), auth, Piece::text(",\"before\":")]
    }

    /// The rest. `changed` is the names with quotes and commas, `key` is JSON.
    fn tail(&self, changed: &str, key: &str) -> Vec<Piece> {
        let (user, event_id, outside) = match self.dialect {
            Dialect::Postgres => (
                Piece::sql("to_json(session_user::text)::text"),
                "overlay(gen_random_uuid()::text placing concat(left(stamp, 8), '-', right(stamp, 4), '-7') from 1 for 15)",
                "outside::text",
            ),
            Dialect::Sqlite => (Piece::text("null"), "c.event_id", "iif(c.outside, 'true', 'false')"),
        };
        let members = [
            ("changed", vec![Piece::text("["), Piece::sql(changed), Piece::text("]")]),
            ("db_user", vec![user]),
            ("event_id", vec![Piece::text("\""), Piece::sql(event_id), Piece::text("\"")]),
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

/// Makes the triggers of one audited model.
struct Writer<'a> {
    schema: &'a Schema,
    id: ModelId,
    model: &'a Model,
    dialect: Dialect,
}

impl Writer<'_> {
    /// The fields in the order of their names, as entries have them.
    fn fields(&self) -> Vec<&Field> {
        let mut fields: Vec<&Field> = self.model.fields.iter().collect();
        fields.sort_by(|a, b| a.name.cmp(&b.name));
        fields
    }

    fn form(&self, field: &Field, row: &str) -> TextForm {
        let codec = Codec { schema: self.schema, dialect: self.dialect, ty: SqlType::of(field) };
        codec.text_form(&column(row, &field.column))
    }

    /// The row as the entry shows it.
    fn object(&self, row: &str) -> Vec<Piece> {
        let mut pieces = Vec::new();
        for field in self.fields().into_iter().filter(|field| !field.server_only) {
            let separator = if pieces.is_empty() { '{' } else { ',' };
            pieces.push(Piece::Text(format!("{separator}\"{}\":", field.name)));
            pieces.push(self.shown(field, row));
        }
        pieces.push(Piece::text(if pieces.is_empty() { "{}" } else { "}" }));
        pieces
    }

    fn shown(&self, field: &Field, row: &str) -> Piece {
        let name = column(row, &field.column);
        // Objects, so that they cannot be mistaken for values.
        let redacted = match field {
            _ if field.pii => "{\"redacted\":\"pii\"}",
            _ if field.sensitive => "{\"redacted\":\"sensitive\"}",
            _ if field.optional => {
                let json = self.form(field, row).json(self.dialect);
                return Piece::Sql(format!("CASE WHEN {name} IS NULL THEN 'null' ELSE {json} END"));
            }
            _ => return Piece::Sql(self.form(field, row).json(self.dialect)),
        };
        if field.optional {
            Piece::Sql(format!("CASE WHEN {name} IS NULL THEN 'null' ELSE '{redacted}' END"))
        } else {
            Piece::text(redacted)
        }
    }

    /// The names of the fields that differ, each with quotes and a comma before it. A row that is not there has nulls.
    fn changed(&self, differs: impl Fn(&str) -> String) -> Vec<Piece> {
        let name = |field: &Field| {
            // PostgreSQL takes 1.0 and 1.00 in a document for the same; who reads it does not.
            let document = self.dialect == Dialect::Postgres && SqlType::of(field).is_document();
            let differs = differs(&format!("{}{}", ident(&field.column), if document { "::text" } else { "" }));
            Piece::Sql(format!("CASE WHEN {differs} THEN ',\"{}\"' ELSE '' END", field.name))
        };
        self.fields().into_iter().map(name).collect()
    }

    /// The key as text; of several fields a JSON array.
    fn key(&self, row: &str) -> String {
        if let [id] = self.model.key.as_slice() {
            let text = self.form(self.model.field(*id), row).text();
            return if self.dialect == Dialect::Sqlite { format!("CAST({text} AS TEXT)") } else { text };
        }
        let mut pieces = Vec::new();
        for id in &self.model.key {
            pieces.push(Piece::text(if pieces.is_empty() { "[" } else { "," }));
            pieces.push(Piece::Sql(self.form(self.model.field(*id), row).json(self.dialect)));
        }
        pieces.push(Piece::text("]"));
        render(self.dialect, &pieces)
    }

    fn event(&self, operation: Piece) -> Event {
        Event {
            dialect: self.dialect,
            model: Piece::json(&self.model.name),
            schema_name: Piece::json(&self.schema.name),
            schema_version: Piece::json(&self.schema.fingerprint()),
            operation,
            outcome: "done",
        }
    }

    fn tombstone(&self) -> Option<String> {
        self.model.soft_delete.map(|id| ident(&self.model.field(id).column))
    }

    fn key_columns(&self) -> impl Iterator<Item = String> {
        self.model.key.iter().map(|id| ident(&self.model.field(*id).column))
    }

    // PostgreSQL.

    fn postgres(&self) -> Vec<Trigger> {
        let table = ident(&self.model.table);
        let name = database_name(["cratestack_audit_rows", &self.model.table]);
        let quoted = ident(&name);
        let [function, revoke] = definer(&format!("{quoted}() RETURNS trigger"), &format!("{quoted}()"), &self.body());
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
        let mut all = vec![Trigger { name, table: self.model.table.clone(), create, drop }];
        if !self.model.append_only {
            all.push(self.truncate());
        }
        all
    }

    /// TRUNCATE fires no row triggers, so the rows are deleted first.
    fn truncate(&self) -> Trigger {
        let table = ident(&self.model.table);
        let name = database_name(["cratestack_audit_all", &self.model.table]);
        let quoted = ident(&name);
        // An older snapshot, or a policy of rows, would hide rows from the DELETE that the TRUNCATE takes along.
        let body = dollar_quoted(&format!(
            "\nBEGIN\n  IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN\n    \
             RAISE EXCEPTION USING MESSAGE = 'an audited table is truncated at READ COMMITTED only', \
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
            table: self.model.table.clone(),
        }
    }

    /// `o` is the row before, `n` the row after; all nulls where there is none.
    fn body(&self) -> String {
        let table = ident(&self.model.table);
        let first = self.key_columns().next().unwrap_or_default();
        let (gone, new) = (format!("n.{first} IS NULL"), format!("o.{first} IS NULL"));
        let moved = self.key_columns().map(|key| format!("o.{key} IS DISTINCT FROM n.{key}")).collect::<Vec<_>>();
        let operation = match self.tombstone() {
            None => format!("CASE WHEN {new} THEN 'create' WHEN {gone} THEN 'delete' ELSE 'update' END"),
            Some(at) => format!(
                "CASE WHEN {new} THEN 'create' WHEN {gone} AND o.{at} IS NULL THEN 'delete' WHEN {gone} THEN 'erase' \
                 WHEN o.{at} IS NULL AND n.{at} IS NOT NULL THEN 'delete' \
                 WHEN o.{at} IS NOT NULL AND n.{at} IS NULL THEN 'restore' ELSE 'update' END"
            ),
        };
        let event = self.event(Piece::sql("operation"));
        let pieces = |pieces: Vec<Piece>| render(Dialect::Postgres, &pieces);
        let digest = |text: &str| digest(Dialect::Postgres, text);
        format!(
            "\nDECLARE\n{declarations}  o {HERE}.{table}%ROWTYPE; n {HERE}.{table}%ROWTYPE; moved boolean; room integer;\n  \
             changed text; operation text; key text; head text; middle text; tail text; was text; becomes text;\n\
             BEGIN\n{context_check}  \
             IF TG_OP <> 'INSERT' THEN o := OLD; END IF;\n  \
             IF TG_OP <> 'DELETE' THEN n := NEW; END IF;\n  \
             moved := TG_OP = 'UPDATE' AND ({moved});\n  \
             IF moved THEN n := NULL; END IF;\n  \
             LOOP\n    \
             changed := {changed};\n    \
             IF changed <> '' THEN\n      \
             operation := {operation};\n      \
             key := CASE WHEN {gone} THEN {old_key} ELSE {new_key} END;\n      \
             was := CASE WHEN {new} THEN 'null' ELSE {was} END;\n      \
             becomes := CASE WHEN {gone} THEN 'null' ELSE {becomes} END;\n      \
             head := {head};\n      middle := {middle};\n      tail := {tail};\n      \
             room := {ENTRY_LIMIT} - octet_length(head) - octet_length(middle) - octet_length(tail);\n      \
             FOR turn IN 1..2 LOOP\n        \
             EXIT WHEN octet_length(was) + octet_length(becomes) <= room;\n        \
             IF octet_length(becomes) >= octet_length(was) THEN becomes := {new_digest}; ELSE was := {old_digest}; END IF;\n      \
             END LOOP;\n      \
             INSERT INTO {HERE}.{TABLE} (occurred_at, model, primary_key, out_of_band, entry)\n      \
             VALUES (moment, {model}, key, outside, concat(head, becomes, middle, was, tail));\n    \
             END IF;\n    \
             EXIT WHEN NOT moved;\n    \
             moved := false; o := NULL; n := NEW;\n  \
             END LOOP;\n  \
             RETURN NULL;\nEND\n",
            declarations = declarations(&format!("current_setting('{SETTING}', true)")),
            context_check = context_check(),
            moved = moved.join(" OR "),
            changed = pieces(self.changed(|column| format!("o.{column} IS DISTINCT FROM n.{column}"))),
            old_key = self.key("o"),
            new_key = self.key("n"),
            was = pieces(self.object("o")),
            becomes = pieces(self.object("n")),
            head = pieces(event.head()),
            middle = pieces(event.middle()),
            tail = pieces(event.tail("substr(changed, 2)", "to_json(key)::text")),
            new_digest = digest("becomes"),
            old_digest = digest("was"),
            model = literal(&self.model.name),
        )
    }

    // SQLite.

    fn sqlite(&self) -> Vec<Trigger> {
        let table = ident(&self.model.table);
        let keys: Vec<String> = self.key_columns().collect();
        let same = keys.iter().map(|key| format!("NEW.{key} IS OLD.{key}")).collect::<Vec<_>>().join(" AND ");
        let columns: Vec<String> = self.model.fields.iter().map(|field| ident(&field.column)).collect();
        let changed = differ(&columns);
        let update = self.sqlite_event(Some("OLD"), Some("NEW"));
        let moved = format!("{}{}", self.sqlite_event(Some("OLD"), None), self.sqlite_event(None, Some("NEW")));
        let events = [
            ("insert", format!("AFTER INSERT ON {table}"), self.sqlite_event(None, Some("NEW"))),
            ("update", format!("AFTER UPDATE ON {table} FOR EACH ROW WHEN {same} AND {changed}"), update),
            ("move", format!("AFTER UPDATE ON {table} FOR EACH ROW WHEN NOT ({same})"), moved),
            ("delete", format!("AFTER DELETE ON {table}"), self.sqlite_event(Some("OLD"), None)),
        ];
        let name = |word: &str| database_name(["cratestack_audit", word, &self.model.table]);
        let mut all: Vec<Trigger> =
            events.map(|(word, when, body)| sqlite_trigger(name(word), &self.model.table, &when, &body)).into();
        if !self.model.append_only {
            // REPLACE deletes the rows in its way without firing delete triggers.
            let on_insert = insert_guards(self.schema, self.id, self.model, false);
            let on_update = insert_guards(self.schema, self.id, self.model, true);
            let unique: BTreeSet<FieldId> = self.model.key.iter().copied().chain(self.uniques()).collect();
            let columns: Vec<String> = unique.into_iter().map(|id| ident(&self.model.field(id).column)).collect();
            // Not UPDATE OF: a key that is SQLite's rowid can be changed by that name.
            let when = format!("BEFORE UPDATE ON {table} FOR EACH ROW WHEN {}", differ(&columns));
            all.push(sqlite_trigger(
                name("guard_insert"),
                &self.model.table,
                &format!("BEFORE INSERT ON {table}"),
                &on_insert,
            ));
            all.push(sqlite_trigger(name("guard_update"), &self.model.table, &when, &on_update));
        }
        all
    }

    /// The fields on which the rows that are in the way of a row depend.
    fn uniques(&self) -> impl Iterator<Item = FieldId> {
        let indexed = self.model.uniques.iter().flat_map(|index| index.fields.iter().copied());
        let any = !self.model.uniques.is_empty();
        indexed.chain(self.model.soft_delete.filter(move |_| any))
    }

    /// An INSERT of the event.
    fn sqlite_event(&self, old: Option<&str>, new: Option<&str>) -> String {
        let pieces = |pieces: &[Piece]| render(Dialect::Sqlite, pieces);
        let object = |row: Option<&str>| row.map_or_else(|| "'null'".to_owned(), |row| pieces(&self.object(row)));
        let changed = pieces(&self.changed(|column| match (old, new) {
            (Some(old), Some(new)) => format!("{old}.{column} IS NOT {new}.{column}"),
            (row, other) => format!("{}.{column} IS NOT NULL", row.or(other).unwrap_or_default()),
        }));
        let operation = match (old, new, self.tombstone()) {
            (None, ..) => Piece::text("create"),
            (Some(_), Some(_), None) => Piece::text("update"),
            (Some(_), None, None) => Piece::text("delete"),
            (Some(old), None, Some(at)) => Piece::Sql(format!("iif({old}.{at} IS NULL, 'delete', 'erase')")),
            (Some(old), Some(new), Some(at)) => Piece::Sql(format!(
                "CASE WHEN {old}.{at} IS NULL AND {new}.{at} IS NOT NULL THEN 'delete' \
                 WHEN {old}.{at} IS NOT NULL AND {new}.{at} IS NULL THEN 'restore' ELSE 'update' END"
            )),
        };
        let event = self.event(operation);
        let key = self.key(new.or(old).unwrap_or_default());
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
            sqlite_insert(&literal(&self.model.name), &sqlite_fit(&sqlite_fit(&start)))
        )
    }
}

/// SQLite: that the row before and the row after differ in these columns.
fn differ(columns: &[String]) -> String {
    let row = |row: &str| columns.iter().map(|column| format!("{row}.{column}")).collect::<Vec<_>>().join(", ");
    match columns {
        [column] => format!("NEW.{column} IS NOT OLD.{column}"),
        _ => format!("({}) IS NOT ({})", row("NEW"), row("OLD")),
    }
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

/// One row with the context, or what stands for it; with time and id of the event; and with what else is given. The
/// limits keep SQLite from merging the subqueries, and so from evaluating what is random twice.
fn sqlite_context(more: &[(&str, &str)]) -> String {
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
    let event = writer.event(Piece::text("create"));
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
                 lpad(to_hex(trunc(extract(epoch FROM m.moment) * 1000)::bigint), 12, '0') AS stamp \
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

fn octets(dialect: Dialect, text: &str) -> String {
    match dialect {
        Dialect::Postgres => format!("octet_length({text})"),
        Dialect::Sqlite => format!("length(CAST({text} AS BLOB))"),
    }
}

/// SQLite: the id of an event from `r.stamp` and `r.noise`, which [`NOISE`] makes.
const EVENT_ID: &str = "substr(r.stamp, 1, 8) || '-' || substr(r.stamp, 9) || '-7' || substr(r.noise, 1, 3) || '-' || \
     substr('89ab', 1 + unicode(substr(r.noise, 4, 1)) % 4, 1) || substr(r.noise, 5, 3) || '-' || substr(r.noise, 8, 12)";
const NOISE: &str = "lower(hex(randomblob(10))) AS noise, printf('%012x', CAST(strftime('%s', 'now') AS INTEGER) * 1000 \
     + CAST(substr(strftime('%f', 'now'), 4, 3) AS INTEGER)) AS stamp";
