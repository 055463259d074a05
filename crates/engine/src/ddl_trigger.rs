//! The triggers behind `@@append_only`, `@@soft_delete` and `@version`; those of `@@audit` and `@@emit` are in `logs.rs`.
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
//!
//! One deletion is one `deletion_id`, chosen by whoever writes the first tombstone, the *root*. A cascade marks the
//! rows that it reaches with the id first and then writes `deleted_at`, so a row's trigger knows by an unchanged id
//! that a cascade came by; on the way back the cascade leaves the id for the row's trigger to clear. Only the root is
//! judged, and only when all cascades have run: what goes along does not stand in the way (`Restrict` and `NoAction`
//! alike), and what comes back together may refer to each other, in whatever order the rows are reached.
//!
//! `SetNull` and `SetDefault` are left to the real deletion: a tombstoned parent counts as absent, and a restored one
//! finds its children as they were.
//!
//! A foreign key's own action (`SetNull`, `SetDefault`, `onUpdate: Cascade`) changes a row past every statement of the
//! engine. Whoever has seen the row before must not overwrite it unseen, so a trigger moves its `@version` along.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use cratestack_schema::database_name;
use cratestack_schema::ir::{FieldId, Model, ModelId, ReferentialAction, Schema};

use crate::ddl::{DELETION_ID, Foreign, Trigger, clock, condition, owning, primary_key_name};
use crate::logs;
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
            all.extend(append_only(&model.table, dialect));
            if dialect == Dialect::Sqlite {
                // INSERT OR REPLACE deletes the rows in its way without firing delete triggers.
                let name = database_name(["cratestack_append_only", &model.table, "insert"]);
                let when = format!("BEFORE INSERT ON {}", ident(&model.table));
                all.push(sqlite_trigger(name, &model.table, &when, &insert_guards(schema, id, model, false)));
            }
        }
        // Before those of the logs, so that SQLite runs it after them: the change has its event first, and the version that
        // moves along the next one.
        all.extend(Referred::of(model).map(|referred| referred.trigger(dialect)));
        all.extend(logs::triggers(schema, id, dialect));
        if let Some(family) = Family::of(schema, &links, id) {
            match dialect {
                Dialect::Postgres => all.push(family.postgres()),
                Dialect::Sqlite => all.extend(family.sqlite()),
            }
        }
    }
    all
}

/// The triggers that keep a table's rows as they are. Their statements may run again.
pub(crate) fn append_only(table: &str, dialect: Dialect) -> Vec<Trigger> {
    match dialect {
        Dialect::Postgres => append_only_postgres(table).into(),
        Dialect::Sqlite => append_only_sqlite(table).into(),
    }
}

fn append_only_postgres(name: &str) -> [Trigger; 2] {
    let function = database_name(["cratestack_append_only", name]);
    let table = ident(name);
    let body = format!(
        "CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS {body}",
        function = ident(&function),
        body = dollar_quoted(&format!(
            "\nBEGIN\n  RAISE EXCEPTION USING MESSAGE = {message}, ERRCODE = '{APPEND_ONLY_STATE}', TABLE = {name};\nEND\n",
            message = literal(&format!("rows of {table} are never changed or deleted")),
            name = literal(name),
        )),
    );
    let trigger = |trigger: String, when: &str, each: &str| {
        let quoted = ident(&trigger);
        let create = vec![
            format!(
                "CREATE OR REPLACE TRIGGER {quoted} BEFORE {when} ON {table} FOR EACH {each} EXECUTE FUNCTION {}()",
                ident(&function)
            ),
            // Also for sessions that replicate, which skip ordinary triggers.
            format!("ALTER TABLE {table} ENABLE ALWAYS TRIGGER {quoted}"),
        ];
        Trigger {
            name: trigger,
            table: name.to_owned(),
            create,
            drop: vec![format!("DROP TRIGGER {quoted} ON {table}")],
        }
    };
    // Row by row, because a parent's ON DELETE CASCADE runs an empty DELETE when there are no children.
    let mut rows = trigger(database_name(["cratestack_append_only", name, "rows"]), "UPDATE OR DELETE", "ROW");
    let mut all = trigger(database_name(["cratestack_append_only", name, "all"]), "TRUNCATE", "STATEMENT");
    rows.create.insert(0, body);
    all.drop.push(format!("DROP FUNCTION {}()", ident(&function)));
    [rows, all]
}

fn append_only_sqlite(table: &str) -> [Trigger; 2] {
    ["update", "delete"].map(|word| {
        sqlite_trigger(
            database_name(["cratestack_append_only", table, word]),
            table,
            &format!("BEFORE {} ON {}", word.to_uppercase(), ident(table)),
            &format!("  SELECT RAISE(ABORT, {});\n", raised("append_only", table)),
        )
    })
}

/// Refusals of a row that meets another one in its key or in what is unique, before SQLite itself looks: `REPLACE`
/// would have it delete the other row without firing delete triggers. With `update` the row itself is no other one.
pub(crate) fn insert_guards(schema: &Schema, id: ModelId, model: &Model, update: bool) -> String {
    let mut guards = guard(model, &primary_key_name(model), &model.key, &[], update);
    for index in &model.uniques {
        let mut conditions = Vec::new();
        for row in ["there", "NEW"] {
            if let Some(deleted_at) = tombstone_column(model) {
                conditions.push(format!("{row}.{deleted_at} IS NULL"));
            }
            if let Some(filter) = &index.filter {
                conditions.push(format!("({})", condition(schema, id, filter, Some(row), Dialect::Sqlite)));
            }
        }
        guards.push_str(&guard(model, &index.name, &index.fields, &conditions, update));
    }
    guards
}

fn guard(model: &Model, name: &str, fields: &[FieldId], conditions: &[String], update: bool) -> String {
    let same = |fields: &[FieldId], row: &str| {
        let terms = fields.iter().map(|id| {
            let column = ident(&model.field(*id).column);
            format!("there.{column} = {row}.{column}")
        });
        terms.collect::<Vec<_>>()
    };
    let mut all = same(fields, "NEW");
    all.extend_from_slice(conditions);
    if update {
        all.push(format!("NOT ({})", same(&model.key, "OLD").join(" AND ")));
    }
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

    /// What happens when a row becomes a tombstone, in order.
    fn on_tombstone(&self, dialect: Dialect) -> String {
        let mut text = String::new();
        for (child, foreign) in self.children.iter().filter(|(_, foreign)| cascades(*foreign)) {
            text.push_str(&self.tombstone_children(child, *foreign));
        }
        let id = ident(DELETION_ID);
        let root = if self.is_member() { format!("NEW.{id} IS DISTINCT FROM OLD.{id}") } else { String::new() };
        for (child, foreign) in self.children.iter().filter(|(_, foreign)| restricts(*foreign)) {
            let left = format!(
                "EXISTS (SELECT 1 FROM {} WHERE {}{})",
                ident(&child.table),
                self.is_child(child, *foreign),
                and_live(child, ""),
            );
            text.push_str(&refuse(dialect, "restrict", &[&root, &left], *foreign, child));
        }
        for member in self.reached() {
            let referring = self.links.get(member.index()).into_iter().flatten();
            for (child, foreign) in referring.filter(|(_, foreign)| restricts(*foreign)) {
                let (member, child) = (self.schema.model(member), self.schema.model(*child));
                let left = format!(
                    "EXISTS (SELECT 1 FROM {} AS m JOIN {} AS c ON {} WHERE m.{id} = NEW.{id}{}{})",
                    ident(&member.table),
                    ident(&child.table),
                    pairs(child, foreign.fields, member, foreign.references, |own, key| format!("c.{own} = m.{key}")),
                    and_dead(member, "m."),
                    and_live(child, "c."),
                );
                text.push_str(&refuse(dialect, "restrict", &[&root, &left], *foreign, child));
            }
        }
        text
    }

    /// What happens when a tombstone comes back to life, in order.
    fn on_restore(&self, dialect: Dialect) -> String {
        let mut text = String::new();
        for (child, foreign) in self.children.iter().filter(|(_, foreign)| cascades(*foreign)) {
            text.push_str(&self.restore_children(child, *foreign, clock(SqlType::DATE_TIME, dialect)));
        }
        let id = ident(DELETION_ID);
        for (parent, foreign) in &self.parents {
            let Some(deleted_at) = tombstone_column(parent) else { continue };
            // What a cascade brings back may have a parent that is yet to come.
            let along = if self.is_member() { format!(" OR {id} = NEW.{id}") } else { String::new() };
            // The lock makes a tombstone that is under way wait or be waited for.
            let lock = if dialect == Dialect::Postgres { " FOR SHARE" } else { "" };
            let absent = format!(
                "NOT EXISTS (SELECT 1 FROM {} WHERE {} AND ({deleted_at} IS NULL{along}){lock})",
                ident(&parent.table),
                pairs(parent, foreign.references, self.model, foreign.fields, |key, own| format!("{key} = NEW.{own}")),
            );
            text.push_str(&refuse(
                dialect,
                "parent",
                &[&all_given(self.model, *foreign), &absent],
                *foreign,
                self.model,
            ));
        }
        if self.is_member() {
            let _ = writeln!(
                text,
                "  UPDATE {} SET {id} = NULL WHERE {} AND {} IS NULL AND {id} IS NOT NULL;",
                ident(&self.model.table),
                pairs(self.model, &self.model.key, self.model, &self.model.key, |key, new| format!(
                    "{key} = NEW.{new}"
                )),
                ident(self.deleted_at),
            );
        }
        text
    }

    /// Whether a cascade can reach the model.
    fn is_member(&self) -> bool {
        self.parents.iter().any(|(_, foreign)| cascades(*foreign))
    }

    /// `"child column" = NEW."key column" AND ..`
    fn is_child(&self, child: &Model, foreign: Foreign<'_>) -> String {
        pairs(child, foreign.fields, self.model, foreign.references, |own, key| format!("{own} = NEW.{key}"))
    }

    fn tombstone_children(&self, child: &Model, foreign: Foreign<'_>) -> String {
        let Some(deleted_at) = tombstone_column(child) else { return String::new() };
        let clock = format!("NEW.{}", ident(self.deleted_at));
        format!(
            "  UPDATE {table} SET {id} = NEW.{id} WHERE {own} AND {deleted_at} IS NULL;\n  \
             UPDATE {table} SET {deleted_at} = {clock}{} WHERE {own} AND {deleted_at} IS NULL AND {id} = NEW.{id};\n",
            stamps(child, &clock),
            table = ident(&child.table),
            own = self.is_child(child, foreign),
            id = ident(DELETION_ID),
        )
    }

    fn restore_children(&self, child: &Model, foreign: Foreign<'_>, clock: &str) -> String {
        let Some(deleted_at) = tombstone_column(child) else { return String::new() };
        // The time of the restoration is in the row only if the model keeps one.
        let own = self.model.fields.iter().find(|field| field.updated_at);
        let clock = own.map_or_else(|| clock.to_owned(), |field| format!("NEW.{}", ident(&field.column)));
        format!(
            "  UPDATE {} SET {deleted_at} = NULL{} WHERE {} AND {id} = OLD.{id} AND {deleted_at} IS NOT NULL;\n",
            ident(&child.table),
            stamps(child, &clock),
            self.is_child(child, foreign),
            id = ident(DELETION_ID),
        )
    }

    fn postgres(&self) -> Trigger {
        let name = database_name(["cratestack_soft_delete", &self.model.table]);
        let (quoted, table, deleted_at) = (ident(&name), ident(&self.model.table), ident(self.deleted_at));
        let none = |text: String| if text.is_empty() { "  NULL;\n".to_owned() } else { text };
        let body = format!(
            "\n#variable_conflict use_column\nBEGIN\nIF NEW.{deleted_at} IS NOT NULL THEN\n{}ELSE\n{}END IF;\nRETURN NULL;\nEND\n",
            none(self.on_tombstone(Dialect::Postgres)),
            none(self.on_restore(Dialect::Postgres)),
        );
        Trigger {
            create: vec![
                format!("CREATE FUNCTION {quoted}() RETURNS trigger LANGUAGE plpgsql AS {}", dollar_quoted(&body)),
                fixed_path(&format!("{quoted}()")),
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
        // Without the pragma a trigger does not fire within itself, and deeper levels would stay alive.
        let deep = if self.reached().contains(&self.id) {
            format!(
                "  SELECT RAISE(ABORT, {}) WHERE (SELECT recursive_triggers FROM pragma_recursive_triggers) = 0;\n",
                raised("pragma", "recursive_triggers"),
            )
        } else {
            String::new()
        };
        let events = [
            ("tombstone", "NULL", "NOT NULL", self.on_tombstone(Dialect::Sqlite)),
            ("restore", "NOT NULL", "NULL", self.on_restore(Dialect::Sqlite)),
        ];
        let events = events.into_iter().filter(|(.., body)| !body.is_empty());
        events
            .map(|(word, from, to, body)| {
                let when = format!(
                    "AFTER UPDATE OF {deleted_at} ON {table} FOR EACH ROW WHEN OLD.{deleted_at} IS {from} AND NEW.{deleted_at} IS {to}"
                );
                let name = database_name(["cratestack", word, &self.model.table]);
                sqlite_trigger(name, &self.model.table, &when, &format!("{deep}{body}"))
            })
            .collect()
    }

    /// The models that a cascade from this one can reach, itself only by a cycle.
    fn reached(&self) -> Vec<ModelId> {
        let mut seen: Vec<ModelId> = Vec::new();
        let mut next = vec![self.id];
        while let Some(at) = next.pop() {
            for (child, foreign) in self.links.get(at.index()).into_iter().flatten() {
                if concerns(self.schema.model(*child), *foreign) && cascades(*foreign) && !seen.contains(child) {
                    seen.push(*child);
                    next.push(*child);
                }
            }
        }
        seen.sort_unstable();
        seen
    }
}

/// Whether a tombstone of the parent does anything about such a child.
fn concerns(child: &Model, foreign: Foreign<'_>) -> bool {
    restricts(foreign) || (cascades(foreign) && child.soft_delete.is_some())
}

pub(crate) fn cascades(foreign: Foreign<'_>) -> bool {
    foreign.on_delete == ReferentialAction::Cascade
}

pub(crate) fn restricts(foreign: Foreign<'_>) -> bool {
    matches!(foreign.on_delete, ReferentialAction::Restrict | ReferentialAction::NoAction)
}

/// A refusal if all the conditions hold; empty ones do. `child` is the model that has the foreign key.
fn refuse(dialect: Dialect, kind: &str, conditions: &[&str], foreign: Foreign<'_>, child: &Model) -> String {
    let conditions: Vec<&str> = conditions.iter().copied().filter(|condition| !condition.is_empty()).collect();
    let conditions = conditions.join(" AND ");
    match dialect {
        Dialect::Sqlite => format!("  SELECT RAISE(ABORT, {}) WHERE {conditions};\n", raised(kind, foreign.constraint)),
        Dialect::Postgres => {
            let (state, message) = match kind {
                "parent" => ("23503", format!("a row that the row of {} refers to is deleted", ident(&child.table))),
                _ => ("23001", format!("live rows of {} depend on the row", ident(&child.table))),
            };
            format!(
                "  IF {conditions} THEN\n    RAISE EXCEPTION USING MESSAGE = {}, ERRCODE = '{state}', \
                 CONSTRAINT = {}, TABLE = {};\n  END IF;\n",
                literal(&message),
                literal(foreign.constraint),
                literal(&child.table),
            )
        }
    }
}

fn raised(kind: &str, name: &str) -> String {
    literal(&format!("{MARK}{kind}:{name}"))
}

fn tombstone_column(model: &Model) -> Option<String> {
    model.soft_delete.map(|id| ident(&model.field(id).column))
}

/// Rows of a model without `@@soft_delete` are always live.
fn and_live(model: &Model, alias: &str) -> String {
    tombstone_column(model).map_or_else(String::new, |column| format!(" AND {alias}{column} IS NULL"))
}

fn and_dead(model: &Model, alias: &str) -> String {
    tombstone_column(model).map_or_else(String::new, |column| format!(" AND {alias}{column} IS NOT NULL"))
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

/// Has a function of PostgreSQL find the tables that this schema's DDL meant, whatever the search path of its caller, and
/// never a temporary one that hides them.
pub(crate) fn fixed_path(signature: &str) -> String {
    format!(
        "DO {}",
        dollar_quoted(&format!(
            " BEGIN EXECUTE format('ALTER FUNCTION %s SET search_path = pg_catalog, %I, pg_temp', {}, current_schema()); END ",
            literal(signature),
        ))
    )
}

/// A body between dollar quotes that it does not contain.
pub(crate) fn dollar_quoted(body: &str) -> String {
    let mut tag = "$cratestack$".to_owned();
    while body.contains(&tag) {
        tag.insert(1, 'x');
    }
    format!("{tag}{body}{tag}")
}

/// A model with `@version` whose foreign keys may be changed by what happens to the rows that they name.
struct Referred<'a> {
    model: &'a Model,
    version: String,
    /// The columns of those foreign keys.
    columns: Vec<String>,
}

impl<'a> Referred<'a> {
    fn of(model: &'a Model) -> Option<Self> {
        use ReferentialAction::{NoAction, Restrict, SetDefault, SetNull};
        let version = ident(&model.field(model.version?).column);
        let changed = |foreign: &Foreign<'_>| {
            matches!(foreign.on_delete, SetNull | SetDefault) || !matches!(foreign.on_update, NoAction | Restrict)
        };
        let foreign = owning(model).map(|(_, foreign)| foreign).filter(changed);
        let fields: BTreeSet<FieldId> = foreign.flat_map(|foreign| foreign.fields.iter().copied()).collect();
        let columns: Vec<String> = fields.into_iter().map(|id| ident(&model.field(id).column)).collect();
        (!columns.is_empty() && !model.append_only).then_some(Self { model, version, columns })
    }

    /// Does nothing where the version has moved already: the engine's own statements see to that themselves.
    fn trigger(&self, dialect: Dialect) -> Trigger {
        let (name, table) = (database_name(["cratestack_version", &self.model.table]), ident(&self.model.table));
        let (quoted, columns, version) = (ident(&name), self.columns.join(", "), &self.version);
        let differs = if dialect == Dialect::Postgres { "IS DISTINCT FROM" } else { "IS NOT" };
        let changed: Vec<String> =
            self.columns.iter().map(|column| format!("NEW.{column} {differs} OLD.{column}")).collect();
        let when = format!("NEW.{version} = OLD.{version} AND ({})", changed.join(" OR "));
        let stamp = self.model.fields.iter().find(|field| field.updated_at);
        let stamp = stamp.map(|field| (ident(&field.column), clock(SqlType::of(field), dialect)));
        if dialect == Dialect::Sqlite {
            let key = self.model.key.iter().map(|id| ident(&self.model.field(*id).column));
            let key: Vec<String> = key.map(|column| format!("{column} = NEW.{column}")).collect();
            let stamp = stamp.map(|(column, clock)| format!(", {column} = {clock}")).unwrap_or_default();
            let body = format!("  UPDATE {table} SET {version} = {version} + 1{stamp} WHERE {};\n", key.join(" AND "));
            let when = format!("AFTER UPDATE OF {columns} ON {table} FOR EACH ROW WHEN {when}");
            return sqlite_trigger(name, &self.model.table, &when, &body);
        }
        let stamp = stamp.map(|(column, clock)| format!("  NEW.{column} := {clock};\n")).unwrap_or_default();
        let body = format!("\nBEGIN\n  NEW.{version} := OLD.{version} + 1;\n{stamp}  RETURN NEW;\nEND\n");
        Trigger {
            create: vec![
                format!("CREATE FUNCTION {quoted}() RETURNS trigger LANGUAGE plpgsql AS {}", dollar_quoted(&body)),
                format!(
                    "CREATE TRIGGER {quoted} BEFORE UPDATE OF {columns} ON {table} FOR EACH ROW WHEN ({when}) \
                     EXECUTE FUNCTION {quoted}()"
                ),
            ],
            drop: vec![format!("DROP TRIGGER {quoted} ON {table}"), format!("DROP FUNCTION {quoted}()")],
            name,
            table: self.model.table.clone(),
        }
    }
}

pub(crate) fn sqlite_trigger(name: String, table: &str, when: &str, body: &str) -> Trigger {
    let quoted = ident(&name);
    Trigger {
        create: vec![format!("CREATE TRIGGER {quoted} {when} BEGIN\n{body}END")],
        drop: vec![format!("DROP TRIGGER {quoted}")],
        name,
        table: table.to_owned(),
    }
}
