//! The triggers behind `@@append_only` and `@@soft_delete`.
//!
//! What a trigger refuses carries a machine-readable mark, so that it can be mapped like an error of the database's
//! own: on PostgreSQL SQLSTATE and constraint name, on SQLite the text `cratestack:<kind>:<name>`.
//!
//! | refusal | PostgreSQL | SQLite |
//! |---|---|---|
//! | a tombstone while live rows depend on the row | 23001, constraint | `restrict:<constraint>` |
//! | a restored row whose parent is a tombstone | 23503, constraint | `parent:<constraint>` |
//! | a change of an append-only row | [`APPEND_ONLY_STATE`], table | `append_only:<table>` |
//! | an insert into an append-only table that meets a row with its key | (23505 of the index) | `unique:<index>` |
//!
//! A tombstone reaches its children in the trigger, not in the statement that wrote it, because only the trigger
//! reads a fresh snapshot: a child whose insert held the parent `FOR SHARE` is visible to it (at `READ COMMITTED`;
//! a `REPEATABLE READ` transaction must be serialisable instead to be safe against such inserts).
//! `SetNull` and `SetDefault` are left to the real deletion: a tombstoned parent counts as absent, and a restored one
//! finds its children as they were.

use std::fmt::Write as _;

use cratestack_schema::ir::{FieldId, Model, ModelId, ReferentialAction, Schema};

use crate::ddl::{DELETION_ID, Foreign, Trigger, bounded, clock, condition, owning, primary_key_name};
use crate::sql::{Dialect, SqlType, ident};
use crate::storage::literal;

/// SQLSTATE of a change to an append-only table on PostgreSQL.
pub const APPEND_ONLY_STATE: &str = "CS001";

/// What SQLite's triggers say begins with this.
pub const MARK: &str = "cratestack:";

/// All triggers of the schema, in source order of the models.
pub(crate) fn triggers(schema: &Schema, dialect: Dialect) -> Vec<Trigger> {
    let links = links(schema);
    let mut all = Vec::new();
    for (id, model) in schema.models() {
        if model.append_only {
            match dialect {
                Dialect::Postgres => all.extend(append_only_postgres(model)),
                Dialect::Sqlite => all.extend(append_only_sqlite(schema, id, model)),
            }
        }
        if let Some(family) = Family::of(schema, &links, id) {
            match dialect {
                Dialect::Postgres => all.push(family.postgres()),
                Dialect::Sqlite => all.extend(family.sqlite()),
            }
        }
    }
    all
}

fn append_only_postgres(model: &Model) -> [Trigger; 2] {
    let function = bounded(&["cratestack_append_only", &model.table]);
    let table = ident(&model.table);
    let body = format!(
        "CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS {body}",
        function = ident(&function),
        body = dollar_quoted(&format!(
            "\nBEGIN\n  RAISE EXCEPTION USING MESSAGE = {message}, ERRCODE = '{APPEND_ONLY_STATE}', TABLE = {name};\nEND\n",
            message = literal(&format!("rows of {table} are never changed or deleted")),
            name = literal(&model.table),
        )),
    );
    let trigger = |name: String, when: &str, each: &str| {
        let quoted = ident(&name);
        let create = vec![
            format!(
                "CREATE TRIGGER {quoted} BEFORE {when} ON {table} FOR EACH {each} EXECUTE FUNCTION {}()",
                ident(&function)
            ),
            // Also for sessions that replicate, which skip ordinary triggers.
            format!("ALTER TABLE {table} ENABLE ALWAYS TRIGGER {quoted}"),
        ];
        Trigger { name, table: model.table.clone(), create, drop: vec![format!("DROP TRIGGER {quoted} ON {table}")] }
    };
    // Row by row, because a parent's ON DELETE CASCADE runs an empty DELETE when there are no children.
    let mut rows = trigger(bounded(&["cratestack_append_only", &model.table, "rows"]), "UPDATE OR DELETE", "ROW");
    let mut all = trigger(bounded(&["cratestack_append_only", &model.table, "all"]), "TRUNCATE", "STATEMENT");
    rows.create.insert(0, body);
    all.drop.push(format!("DROP FUNCTION {}()", ident(&function)));
    [rows, all]
}

fn append_only_sqlite(schema: &Schema, id: ModelId, model: &Model) -> [Trigger; 3] {
    let table = ident(&model.table);
    let refuse = format!("  SELECT RAISE(ABORT, {});\n", raised("append_only", &model.table));
    let trigger = |word: &str, body: &str| {
        sqlite_trigger(
            bounded(&["cratestack_append_only", &model.table, word]),
            model,
            &format!("BEFORE {} ON {table}", word.to_uppercase()),
            body,
        )
    };
    // INSERT OR REPLACE deletes the rows in its way without firing delete triggers.
    let mut guards = guard(model, &primary_key_name(model), &model.key, &[]);
    for index in &model.uniques {
        let filter = index
            .filter
            .as_ref()
            .map(|filter| ["there", "NEW"].map(|row| condition(schema, id, filter, Some(row), Dialect::Sqlite)));
        guards.push_str(&guard(model, &index.name, &index.fields, filter.as_ref().map_or(&[], |both| &both[..])));
    }
    [trigger("update", &refuse), trigger("delete", &refuse), trigger("insert", &guards)]
}

fn guard(model: &Model, name: &str, fields: &[FieldId], conditions: &[String]) -> String {
    let same = fields.iter().map(|id| {
        let column = ident(&model.field(*id).column);
        format!("there.{column} = NEW.{column}")
    });
    let all: Vec<String> = same.chain(conditions.iter().map(|condition| format!("({condition})"))).collect();
    format!(
        "  SELECT RAISE(ABORT, {}) WHERE EXISTS (SELECT 1 FROM {} AS there WHERE {});\n",
        raised("unique", name),
        ident(&model.table),
        all.join(" AND "),
    )
}

/// For each model, those that refer to it, and how.
type Links<'a> = Vec<Vec<(ModelId, Foreign<'a>)>>;

fn links(schema: &Schema) -> Links<'_> {
    let mut links: Links<'_> = vec![Vec::new(); schema.models.len()];
    for (child, model) in schema.models() {
        for (_, foreign) in owning(model) {
            if let Some(children) = links.get_mut(foreign.target.index()) {
                children.push((child, foreign));
            }
        }
    }
    links
}

/// A soft-deletable model with the relations that its tombstones concern.
struct Family<'a> {
    schema: &'a Schema,
    links: &'a Links<'a>,
    id: ModelId,
    model: &'a Model,
    deleted_at: &'a str,
    /// Models that refer to this one, and how.
    children: Vec<(&'a Model, Foreign<'a>)>,
    /// Soft-deletable models that this one refers to, and how.
    parents: Vec<(&'a Model, Foreign<'a>)>,
}

impl<'a> Family<'a> {
    /// `None` when tombstones of the model concern nobody else.
    fn of(schema: &'a Schema, links: &'a Links<'a>, id: ModelId) -> Option<Self> {
        let model = schema.model(id);
        let deleted_at = &model.field(model.soft_delete?).column;
        let referring = links.get(id.index()).into_iter().flatten();
        let children: Vec<_> = referring
            .map(|(child, foreign)| (schema.model(*child), *foreign))
            .filter(|(child, foreign)| concerns(child, *foreign))
            .collect();
        let parents: Vec<_> = owning(model)
            .map(|(_, foreign)| (schema.model(foreign.target), foreign))
            .filter(|(parent, _)| parent.soft_delete.is_some())
            .collect();
        let some = !children.is_empty() || !parents.is_empty();
        some.then_some(Self { schema, links, id, model, deleted_at, children, parents })
    }

    /// What happens when a row becomes a tombstone, in order. `Restrict` looks at the children as they are,
    /// `NoAction` at what the cascades have left.
    fn on_tombstone(&self, statements: &dyn Statements) -> String {
        let of =
            |wanted: ReferentialAction| self.children.iter().filter(move |(_, foreign)| foreign.on_delete == wanted);
        let mut text = String::new();
        for (child, foreign) in of(ReferentialAction::Restrict) {
            text.push_str(&statements.refuse_live_child(self, child, *foreign));
        }
        for (child, foreign) in of(ReferentialAction::Cascade) {
            text.push_str(&self.tombstone_children(child, *foreign));
        }
        for (child, foreign) in of(ReferentialAction::NoAction) {
            text.push_str(&statements.refuse_live_child(self, child, *foreign));
        }
        text
    }

    /// What happens when a tombstone comes back to life, in order.
    fn on_restore(&self, statements: &dyn Statements, clock: &str) -> String {
        let mut text = String::new();
        for (parent, foreign) in &self.parents {
            text.push_str(&statements.refuse_dead_parent(self, parent, *foreign));
        }
        for (child, foreign) in
            self.children.iter().filter(|(_, foreign)| foreign.on_delete == ReferentialAction::Cascade)
        {
            text.push_str(&self.restore_children(child, *foreign, clock));
        }
        text
    }

    /// `"child column" = NEW."key column" AND ..`
    fn is_child(&self, child: &Model, foreign: Foreign<'_>) -> String {
        pairs(child, foreign.fields, self.model, foreign.references, |own, key| format!("{own} = NEW.{key}"))
    }

    fn tombstone_children(&self, child: &Model, foreign: Foreign<'_>) -> String {
        let Some(deleted_at) = tombstone_column(child) else { return String::new() };
        let clock = format!("NEW.{}", ident(self.deleted_at));
        format!(
            "  UPDATE {} SET {deleted_at} = {clock}, {id} = NEW.{id}{} WHERE {} AND {deleted_at} IS NULL;\n",
            ident(&child.table),
            stamps(child, &clock),
            self.is_child(child, foreign),
            id = ident(DELETION_ID),
        )
    }

    fn restore_children(&self, child: &Model, foreign: Foreign<'_>, clock: &str) -> String {
        let Some(deleted_at) = tombstone_column(child) else { return String::new() };
        // The time of the restoration is in the row only if the model keeps one.
        let own = self.model.fields.iter().find(|field| field.updated_at);
        let clock = own.map_or_else(|| clock.to_owned(), |field| format!("NEW.{}", ident(&field.column)));
        format!(
            "  UPDATE {} SET {deleted_at} = NULL, {id} = NULL{} WHERE {} AND {id} = OLD.{id};\n",
            ident(&child.table),
            stamps(child, &clock),
            self.is_child(child, foreign),
            id = ident(DELETION_ID),
        )
    }

    fn postgres(&self) -> Trigger {
        let name = bounded(&["cratestack_soft_delete", &self.model.table]);
        let (quoted, table, deleted_at) = (ident(&name), ident(&self.model.table), ident(self.deleted_at));
        let none = |text: String| if text.is_empty() { "  NULL;\n".to_owned() } else { text };
        let body = format!(
            "\n#variable_conflict use_column\nBEGIN\nIF NEW.{deleted_at} IS NOT NULL THEN\n{}ELSE\n{}END IF;\nRETURN NULL;\nEND\n",
            none(self.on_tombstone(&Postgres)),
            none(self.on_restore(&Postgres, clock(SqlType::DATE_TIME, Dialect::Postgres))),
        );
        Trigger {
            create: vec![
                // The tables are those that this schema's DDL meant, whatever the search path of the writer.
                format!(
                    "CREATE FUNCTION {quoted}() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS {}",
                    dollar_quoted(&body)
                ),
                format!(
                    "CREATE TRIGGER {quoted} AFTER UPDATE OF {deleted_at} ON {table} FOR EACH ROW \
                     WHEN ((OLD.{deleted_at} IS NULL) <> (NEW.{deleted_at} IS NULL)) EXECUTE FUNCTION {quoted}()"
                ),
            ],
            drop: vec![format!("DROP TRIGGER {quoted} ON {table}"), format!("DROP FUNCTION {quoted}()")],
            name,
            table: self.model.table.clone(),
        }
    }

    fn sqlite(&self) -> Vec<Trigger> {
        let (table, deleted_at) = (ident(&self.model.table), ident(self.deleted_at));
        let clock = clock(SqlType::DATE_TIME, Dialect::Sqlite);
        // Without the pragma a trigger does not fire within itself, and deeper levels would stay alive.
        let deep = if self.in_cycle() {
            format!(
                "  SELECT RAISE(ABORT, {}) WHERE (SELECT recursive_triggers FROM pragma_recursive_triggers) = 0;\n",
                raised("pragma", "recursive_triggers"),
            )
        } else {
            String::new()
        };
        let events = [
            ("tombstone", "NULL", "NOT NULL", self.on_tombstone(&Sqlite)),
            ("restore", "NOT NULL", "NULL", self.on_restore(&Sqlite, clock)),
        ];
        let events = events.into_iter().filter(|(.., body)| !body.is_empty());
        events
            .map(|(word, from, to, body)| {
                let when = format!(
                    "AFTER UPDATE OF {deleted_at} ON {table} FOR EACH ROW WHEN OLD.{deleted_at} IS {from} AND NEW.{deleted_at} IS {to}"
                );
                let name = bounded(&["cratestack", word, &self.model.table]);
                sqlite_trigger(name, self.model, &when, &format!("{deep}{body}"))
            })
            .collect()
    }

    /// Whether a cascade from this model can come back to it.
    fn in_cycle(&self) -> bool {
        let mut seen: Vec<ModelId> = Vec::new();
        let mut next = vec![self.id];
        while let Some(at) = next.pop() {
            for (child, foreign) in self.links.get(at.index()).into_iter().flatten() {
                let reached = foreign.on_delete == ReferentialAction::Cascade
                    && self.schema.model(*child).soft_delete.is_some();
                if reached && *child == self.id {
                    return true;
                }
                if reached && !seen.contains(child) {
                    seen.push(*child);
                    next.push(*child);
                }
            }
        }
        false
    }
}

/// Whether a tombstone of the parent does anything about such a child.
fn concerns(child: &Model, foreign: Foreign<'_>) -> bool {
    match foreign.on_delete {
        ReferentialAction::Restrict | ReferentialAction::NoAction => true,
        ReferentialAction::Cascade => child.soft_delete.is_some(),
        ReferentialAction::SetNull | ReferentialAction::SetDefault => false,
    }
}

/// The statements in which the two databases differ.
trait Statements {
    /// Refuses while a live row refers to the new tombstone.
    fn refuse_live_child(&self, family: &Family<'_>, child: &Model, foreign: Foreign<'_>) -> String;
    /// Refuses when a parent of the restored row is a tombstone.
    fn refuse_dead_parent(&self, family: &Family<'_>, parent: &Model, foreign: Foreign<'_>) -> String;
}

struct Postgres;

impl Statements for Postgres {
    fn refuse_live_child(&self, family: &Family<'_>, child: &Model, foreign: Foreign<'_>) -> String {
        format!(
            "  IF EXISTS (SELECT FROM {} WHERE {}{}) THEN\n    {}\n  END IF;\n",
            ident(&child.table),
            family.is_child(child, foreign),
            and_live(child),
            raise("23001", &format!("live rows of {} depend on the row", ident(&child.table)), foreign, child),
        )
    }

    fn refuse_dead_parent(&self, family: &Family<'_>, parent: &Model, foreign: Foreign<'_>) -> String {
        let (own, is_parent) = (family.model, parent_of(family.model, parent, foreign));
        // The lock makes a tombstone that is under way wait or be waited for.
        format!(
            "  IF {} THEN\n    PERFORM FROM {} WHERE {is_parent}{} FOR SHARE;\n    IF NOT FOUND THEN\n      {}\n    END IF;\n  END IF;\n",
            all_given(own, foreign),
            ident(&parent.table),
            and_live(parent),
            raise("23503", &format!("the row of {} is deleted", ident(&parent.table)), foreign, own),
        )
    }
}

struct Sqlite;

impl Statements for Sqlite {
    fn refuse_live_child(&self, family: &Family<'_>, child: &Model, foreign: Foreign<'_>) -> String {
        format!(
            "  SELECT RAISE(ABORT, {}) WHERE EXISTS (SELECT 1 FROM {} WHERE {}{});\n",
            raised("restrict", foreign.constraint),
            ident(&child.table),
            family.is_child(child, foreign),
            and_live(child),
        )
    }

    fn refuse_dead_parent(&self, family: &Family<'_>, parent: &Model, foreign: Foreign<'_>) -> String {
        format!(
            "  SELECT RAISE(ABORT, {}) WHERE {} AND NOT EXISTS (SELECT 1 FROM {} WHERE {}{});\n",
            raised("parent", foreign.constraint),
            all_given(family.model, foreign),
            ident(&parent.table),
            parent_of(family.model, parent, foreign),
            and_live(parent),
        )
    }
}

fn raise(state: &str, message: &str, foreign: Foreign<'_>, table: &Model) -> String {
    format!(
        "RAISE EXCEPTION USING MESSAGE = {}, ERRCODE = '{state}', CONSTRAINT = {}, TABLE = {};",
        literal(message),
        literal(foreign.constraint),
        literal(&table.table),
    )
}

fn raised(kind: &str, name: &str) -> String {
    literal(&format!("{MARK}{kind}:{name}"))
}

fn tombstone_column(model: &Model) -> Option<String> {
    model.soft_delete.map(|id| ident(&model.field(id).column))
}

/// Rows of a model without `@@soft_delete` are always live.
fn and_live(model: &Model) -> String {
    tombstone_column(model).map_or_else(String::new, |column| format!(" AND {column} IS NULL"))
}

/// The columns that every write of a row moves.
fn stamps(model: &Model, clock: &str) -> String {
    let mut text = String::new();
    for field in &model.fields {
        let column = ident(&field.column);
        if field.version {
            let _ = write!(text, ", {column} = {column} + 1");
        } else if field.updated_at {
            let _ = write!(text, ", {column} = {clock}");
        }
    }
    text
}

/// `"key column" = NEW."own column" AND ..`
fn parent_of(own: &Model, parent: &Model, foreign: Foreign<'_>) -> String {
    pairs(parent, foreign.references, own, foreign.fields, |key, own| format!("{key} = NEW.{own}"))
}

/// A foreign key with a null in it refers to nothing.
fn all_given(own: &Model, foreign: Foreign<'_>) -> String {
    let given = foreign.fields.iter().map(|id| format!("NEW.{} IS NOT NULL", ident(&own.field(*id).column)));
    given.collect::<Vec<_>>().join(" AND ")
}

fn pairs(
    left: &Model,
    left_fields: &[FieldId],
    right: &Model,
    right_fields: &[FieldId],
    term: impl Fn(&str, &str) -> String,
) -> String {
    let both = left_fields.iter().zip(right_fields);
    let terms = both.map(|(l, r)| term(&ident(&left.field(*l).column), &ident(&right.field(*r).column)));
    terms.collect::<Vec<_>>().join(" AND ")
}

/// A body between dollar quotes that it does not contain.
fn dollar_quoted(body: &str) -> String {
    let mut tag = "$cratestack$".to_owned();
    while body.contains(&tag) {
        tag.insert(1, 'x');
    }
    format!("{tag}{body}{tag}")
}

fn sqlite_trigger(name: String, model: &Model, when: &str, body: &str) -> Trigger {
    let quoted = ident(&name);
    Trigger {
        create: vec![format!("CREATE TRIGGER {quoted} {when} BEGIN\n{body}END")],
        drop: vec![format!("DROP TRIGGER {quoted}")],
        name,
        table: model.table.clone(),
    }
}
