//! What must be done to a database of one schema to make it one of another.
//!
//! A pure function of the two catalogs. It favours being right over being clever: a table whose columns change has its
//! constraints and indexes made again (PostgreSQL) or is rebuilt (SQLite), and all triggers are then made again.
//! It serves `dev`, where tables are small and nobody else writes; it is no zero-downtime migration.
//!
//! Tables are matched by model name, then by table name; columns by `@rename(from:)`, then by field name, then by
//! column name. So `@map` alone renames and keeps the rows.

use cratestack_schema::database_name;
use cratestack_schema::ir::{FieldType, Scalar, Schema};

use crate::ddl::{Backfill, Catalog, Column, Constraint, ConstraintKind, Index, Table, Trigger, catalog};
use crate::sql::{Dialect, SqlType, ident};
use crate::storage::literal;

/// The way from one schema to another.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Diff {
    /// What to do, in order. Empty when the tables stay as they are.
    pub steps: Vec<Step>,
    /// What makes it impossible, to be looked up in the old tables before the first step.
    pub refuse: Vec<Probe>,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Statements, in order.
    pub sql: Vec<String>,
    /// What it does: ``add column `email` to `customers` ``.
    pub describe: String,
    /// What it loses, to be looked up in the old tables before the first step.
    pub loses: Option<Probe>,
}

/// A fact about the rows that are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// Gives a row if the fact holds. Works on the old tables.
    pub sql: String,
    /// The fact, as a sentence.
    pub says: String,
}

/// The steps from the tables of `old` to the tables of `new`.
pub fn diff(old: &Schema, new: &Schema, dialect: Dialect) -> Diff {
    let (old, new) = (catalog(old, dialect), catalog(new, dialect));
    let plan = Plan::new(&old, &new, dialect);
    let steps = match dialect {
        Dialect::Postgres => plan.postgres(),
        Dialect::Sqlite => plan.sqlite(),
    };
    Diff { steps, refuse: plan.refusals() }
}

/// Two catalogs with their tables matched.
struct Plan<'a> {
    dialect: Dialect,
    old: &'a Catalog,
    new: &'a Catalog,
    /// Tables of both.
    kept: Vec<Pair<'a>>,
    dropped: Vec<&'a Table>,
    added: Vec<&'a Table>,
}

/// A table before and after.
struct Pair<'a> {
    old: &'a Table,
    new: &'a Table,
    /// One per column of the new table, in its order.
    columns: Vec<(&'a Column, Source<'a>)>,
    /// Columns of the old table that nothing takes up.
    dropped: Vec<&'a Column>,
    dialect: Dialect,
}

/// Where the values of a column come from.
enum Source<'a> {
    /// A column of the old table, through [`convert`].
    Old(&'a Column),
    /// Nowhere: the column is new, or its type became another.
    New,
}

/// Whether the new one is the old one changed.
type Same<'r, T> = &'r dyn Fn(&T, &T) -> bool;

/// For each new one the old one that it was, by the first rule that finds one; and the old ones that are left.
fn matched<'a, T>(old: &'a [T], new: &[T], rules: &[Same<'_, T>]) -> (Vec<Option<&'a T>>, Vec<&'a T>) {
    let mut free: Vec<&T> = old.iter().collect();
    let mut sources: Vec<Option<&T>> = vec![None; new.len()];
    for same in rules {
        for (new, source) in new.iter().zip(&mut sources).filter(|(_, source)| source.is_none()) {
            if let Some(at) = free.iter().position(|old| same(new, old)) {
                *source = Some(free.remove(at));
            }
        }
    }
    (sources, free)
}

impl<'a> Pair<'a> {
    fn new(old: &'a Table, new: &'a Table, dialect: Dialect) -> Self {
        let by_field = |new: &Column, old: &Column| !new.field.is_empty() && new.field == old.field;
        // Once the new name is there, the hint has done its work.
        let known = |new: &Column| old.columns.iter().any(|old| old.field == new.field);
        let by_rename = |new: &Column, old: &Column| new.renamed_from.as_deref() == Some(&old.field) && !known(new);
        let by_name = |new: &Column, old: &Column| new.name == old.name;
        let (sources, free) = matched(&old.columns, &new.columns, &[&by_rename, &by_field, &by_name]);
        let mut dropped = free;
        let columns = new.columns.iter().zip(sources).map(|(column, source)| {
            let source = match source {
                Some(old) if convert(old, column, "", dialect).is_some() => Source::Old(old),
                Some(old) => {
                    dropped.push(old);
                    Source::New
                }
                None => Source::New,
            };
            (column, source)
        });
        let columns = columns.collect();
        Self { old, new, columns, dropped, dialect }
    }

    fn kept(&self) -> impl Iterator<Item = (&'a Column, &'a Column)> {
        self.columns.iter().filter_map(|(new, source)| match source {
            Source::Old(old) => Some((*old, *new)),
            Source::New => None,
        })
    }

    fn added(&self) -> impl Iterator<Item = &'a Column> {
        self.columns.iter().filter(|(_, source)| matches!(source, Source::New)).map(|(new, _)| *new)
    }

    /// Whether constraints and indexes that read alike are the same: no name or type beneath them changes.
    fn stable(&self) -> bool {
        let same = |(old, new): (&Column, &Column)| old.name == new.name && unchanged(old, new, self.dialect);
        self.old.name == self.new.name && self.dropped.is_empty() && self.kept().all(same)
    }

    fn label(&self) -> &'a str {
        if self.new.model.is_empty() { &self.new.name } else { &self.new.model }
    }

    /// What to write if the column is an old one under a new name; empty when none can be.
    fn renamed(&self, column: &Column) -> String {
        let gone = |old: &&&Column| {
            !old.field.is_empty()
                && self.new.columns.iter().all(|new| new.field != old.field)
                && convert(old, column, "", self.dialect).is_some()
        };
        self.dropped.iter().find(gone).map_or_else(String::new, |old| {
            format!("; if it is the new name of `{0}`, write `@rename(from: \"{0}\")`", old.field)
        })
    }

    /// What is lost with a column.
    fn loss(&self, column: &Column) -> Probe {
        let (table, name) = (ident(&self.old.name), ident(&column.name));
        let replaced = self.columns.iter().any(|(new, _)| new.field == column.field && !column.field.is_empty());
        let what = if replaced { "of the old type are dropped" } else { "are dropped" };
        Probe {
            sql: format!("SELECT 1 FROM {table} WHERE {name} IS NOT NULL LIMIT 1"),
            says: format!("the values of `{}` in `{}` {what}", column.label(), self.old.label()),
        }
    }
}

impl Column {
    fn label(&self) -> &str {
        if self.field.is_empty() { &self.name } else { &self.field }
    }
}

impl Table {
    fn label(&self) -> &str {
        if self.model.is_empty() { &self.name } else { &self.model }
    }
}

/// Whether the values stay as they are.
fn unchanged(old: &Column, new: &Column, dialect: Dialect) -> bool {
    old.ty == new.ty && convert(old, new, "", dialect).as_deref() == Some("")
}

/// The expression over the old column, named `name`, that gives the values of the new one without loss. `None` when
/// there is none.
fn convert(old: &Column, new: &Column, name: &str, dialect: Dialect) -> Option<String> {
    let same = || Some(name.to_owned());
    let moved: Vec<String> = old
        .variants
        .iter()
        .filter_map(|(variant, stored)| {
            let now = &new.variants.iter().find(|(name, _)| name == variant)?.1;
            (now != stored).then(|| format!("WHEN {} THEN {}", literal(stored), literal(now)))
        })
        .collect();
    if !moved.is_empty() {
        return Some(format!("CASE {name} {} ELSE {name} END", moved.join(" ")));
    }
    if old.meaning.list || new.meaning.list {
        return (old.meaning == new.meaning).then(|| name.to_owned());
    }
    let shift =
        |digits: u32| if digits == 0 { name.to_owned() } else { format!("{name} * 1{}", "0".repeat(digits as usize)) };
    match (old.meaning.stored(), new.meaning.stored()) {
        (from, to) if from == to => same(),
        (Scalar::String | Scalar::Cuid, Scalar::String | Scalar::Cuid)
        | (Scalar::Int | Scalar::BigInt, Scalar::Int | Scalar::BigInt) => same(),
        (Scalar::Uuid, Scalar::String) if !matches!(new.meaning.ty, FieldType::Enum(_)) => Some(match dialect {
            Dialect::Postgres => format!("{name}::text"),
            Dialect::Sqlite => name.to_owned(),
        }),
        // Beyond its precision a number is an error of the database, never rounded: only whole digits can be too many.
        (Scalar::Int | Scalar::BigInt, Scalar::Decimal(to)) => Some(match (dialect, scaled(new.meaning)) {
            (Dialect::Postgres, _) => format!("{name}::numeric"),
            (Dialect::Sqlite, true) => shift(to.map_or(0, |to| to.scale)),
            (Dialect::Sqlite, false) => format!("cratestack_decimal({name}, 0)"),
        }),
        (Scalar::Decimal(Some(from)), Scalar::Decimal(to)) => {
            let wider =
                to.is_none_or(|to| to.scale >= from.scale && to.precision - to.scale >= from.precision - from.scale);
            match (dialect, scaled(old.meaning), scaled(new.meaning)) {
                _ if !wider => None,
                (Dialect::Postgres, ..) => Some(format!("{name}::numeric")),
                (Dialect::Sqlite, true, true) => Some(shift(to.map_or(0, |to| to.scale).saturating_sub(from.scale))),
                (Dialect::Sqlite, true, false) => Some(format!("cratestack_decimal({name}, {})", from.scale)),
                (Dialect::Sqlite, false, _) => same(),
            }
        }
        _ => None,
    }
}

/// Whether SQLite keeps the Decimal as an integer.
fn scaled(ty: SqlType) -> bool {
    ty.bind_kind(Dialect::Sqlite) == crate::sql::BindKind::Int
}

impl<'a> Plan<'a> {
    fn new(old: &'a Catalog, new: &'a Catalog, dialect: Dialect) -> Self {
        let by_model = |new: &Table, old: &Table| new.model == old.model;
        let by_name = |new: &Table, old: &Table| new.name == old.name;
        let (sources, free) = matched(&old.tables, &new.tables, &[&by_model, &by_name]);
        let (mut kept, mut added) = (Vec::new(), Vec::new());
        for (table, source) in new.tables.iter().zip(sources) {
            match source {
                Some(old) => kept.push(Pair::new(old, table, dialect)),
                None => added.push(table),
            }
        }
        Self { dialect, old, new, kept, dropped: free, added }
    }

    fn refusals(&self) -> Vec<Probe> {
        let mut all = Vec::new();
        for pair in &self.kept {
            let (table, model) = (ident(&pair.old.name), pair.label());
            for column in pair.added().filter(|column| column.not_null && column.backfill == Backfill::Refused) {
                all.push(Probe {
                    sql: format!("SELECT 1 FROM {table} LIMIT 1"),
                    says: format!(
                        "`{model}` has rows, and nothing says what `{}` is in them: give it a literal `@default(..)`, \
                         or make it optional first{}",
                        column.label(),
                        pair.renamed(column),
                    ),
                });
            }
            for (old, new) in pair.kept().filter(|(old, new)| new.not_null && !old.not_null) {
                all.push(Probe {
                    sql: format!("SELECT 1 FROM {table} WHERE {} IS NULL LIMIT 1", ident(&old.name)),
                    says: format!("rows of `{model}` have no `{}`: fill it in before it becomes required", new.label()),
                });
            }
            if let (Some(tombstone), None) = (&pair.old.tombstone, &pair.new.tombstone) {
                all.push(Probe {
                    sql: format!("SELECT 1 FROM {table} WHERE {} IS NOT NULL LIMIT 1", ident(tombstone)),
                    says: format!(
                        "deleted rows of `{model}` would come back to life without `@@soft_delete`: restore or \
                         remove them first"
                    ),
                });
            }
        }
        all
    }

    /// Triggers to remove first and to make last. When columns change under them, all of them; and on SQLite always, which
    /// runs those of one event in the reverse order of their making.
    fn triggers(&self, all: bool) -> (Vec<&'a Trigger>, Vec<&'a Trigger>) {
        let all = all || self.dialect == Dialect::Sqlite && self.old.triggers != self.new.triggers;
        let without = |from: &'a [Trigger], known: &[Trigger]| {
            from.iter().filter(|trigger| all || !known.contains(trigger)).collect::<Vec<_>>()
        };
        (without(&self.old.triggers, &self.new.triggers), without(&self.new.triggers, &self.old.triggers))
    }

    /// A log is made when it is first asked for, and is never dropped.
    fn logs(&self) -> impl Iterator<Item = Step> {
        let new = self.new.logs.iter().filter(|log| !self.old.logs.contains(log));
        new.map(|log| step(format!("make the {}", log.what), log.create.clone()))
    }

    /// A trail that begins, or begins again, does so with the rows that are there.
    fn baselines(&self) -> impl Iterator<Item = Step> {
        let begins =
            |catalog: &'_ Catalog, table: &Table| catalog.baselines.iter().any(|(name, _)| *name == table.name);
        let new = self.kept.iter().filter(move |pair| begins(self.new, pair.new) && !begins(self.old, pair.old));
        new.filter_map(|pair| {
            let statement = self.new.baselines.iter().find(|(name, _)| *name == pair.new.name);
            statement.map(|(_, sql)| {
                step(format!("record the rows of `{}` in the audit trail", pair.new.name), vec![sql.clone()])
            })
        })
    }

    fn drop_table(table: &Table) -> Step {
        Step {
            sql: vec![format!("DROP TABLE {}", ident(&table.name))],
            describe: format!("drop table `{}`", table.name),
            loses: Some(Probe {
                sql: format!("SELECT 1 FROM {} LIMIT 1", ident(&table.name)),
                says: format!("the rows of `{}` are dropped", table.label()),
            }),
        }
    }
}

fn step(describe: String, sql: Vec<String>) -> Step {
    Step { sql, describe, loses: None }
}

fn drop_triggers(triggers: Vec<&Trigger>) -> impl Iterator<Item = Step> {
    triggers
        .into_iter()
        .map(|trigger| step(format!("drop trigger `{}` of `{}`", trigger.name, trigger.table), trigger.drop.clone()))
}

fn create_triggers(triggers: Vec<&Trigger>) -> impl Iterator<Item = Step> {
    triggers.into_iter().map(|trigger| {
        step(format!("create trigger `{}` on `{}`", trigger.name, trigger.table), trigger.create.clone())
    })
}

// SQLite.

impl Plan<'_> {
    fn sqlite(&self) -> Vec<Step> {
        let text = |table: &Table| table.create(&table.name, &table.constraints, self.dialect);
        let (rebuilt, same): (Vec<&Pair<'_>>, Vec<&Pair<'_>>) =
            self.kept.iter().partition(|pair| text(pair.old) != text(pair.new));
        let (old_triggers, new_triggers) = self.triggers(!rebuilt.is_empty() || !self.dropped.is_empty());

        let mut steps: Vec<Step> = drop_triggers(old_triggers).collect();
        for pair in &same {
            steps.extend(without(&pair.old.indexes, &pair.new.indexes).map(|index| drop_index(pair.old, index)));
        }
        for pair in &rebuilt {
            steps.extend(self.copy(pair));
        }
        steps.extend(self.dropped.iter().map(|table| Self::drop_table(table)));
        if !rebuilt.is_empty() {
            // All old tables go before any new one takes its name: names may have been exchanged.
            let drops = rebuilt.iter().map(|pair| format!("DROP TABLE {}", ident(&pair.old.name)));
            let renames = rebuilt.iter().map(|pair| {
                format!("ALTER TABLE {} RENAME TO {}", ident(&interim(&pair.new.name)), ident(&pair.new.name))
            });
            steps.push(step("put the rebuilt tables in their places".to_owned(), drops.chain(renames).collect()));
        }
        steps.extend(self.added.iter().map(|table| step(format!("create table `{}`", table.name), vec![text(table)])));
        for table in self.added.iter().copied().chain(rebuilt.iter().map(|pair| pair.new)) {
            steps.extend(table.indexes.iter().map(|index| create_index(table, index)));
        }
        for pair in &same {
            steps.extend(without(&pair.new.indexes, &pair.old.indexes).map(|index| create_index(pair.new, index)));
        }
        steps.extend(self.logs());
        steps.extend(self.baselines());
        steps.extend(create_triggers(new_triggers));
        steps
    }

    /// The table under an interim name, with the rows that it keeps.
    fn copy(&self, pair: &Pair<'_>) -> Vec<Step> {
        let interim = interim(&pair.new.name);
        let mut sql = vec![pair.new.create(&interim, &pair.new.constraints, self.dialect)];
        // The inner query has the old values under the new names, for expressions that fill a new column from others.
        let (mut targets, mut outer, mut inner) = (Vec::new(), Vec::new(), Vec::new());
        for (column, source) in &pair.columns {
            let name = ident(&column.name);
            let old = match source {
                Source::Old(old) => convert(old, column, &ident(&old.name), self.dialect),
                Source::New => None,
            };
            outer.push(match (&old, &column.backfill, &column.default) {
                (Some(_), ..) => name.clone(),
                (None, Backfill::Sql(value), _) | (None, _, Some(value)) => value.clone(),
                (None, Backfill::Default | Backfill::Refused, None) => "NULL".to_owned(),
            });
            inner.push(format!("{} AS {name}", old.as_deref().unwrap_or("NULL")));
            targets.push(name);
        }
        sql.push(format!(
            "INSERT INTO {} ({}) SELECT {} FROM (SELECT {} FROM {})",
            ident(&interim),
            targets.join(", "),
            outer.join(", "),
            inner.join(", "),
            ident(&pair.old.name),
        ));
        let numbered = |table: &Table| table.columns.iter().any(|column| column.identity);
        if numbered(pair.old) && numbered(pair.new) {
            // A number that was given once is never given again.
            sql.push(format!("DELETE FROM sqlite_sequence WHERE name = {}", literal(&interim)));
            sql.push(format!(
                "INSERT INTO sqlite_sequence (name, seq) SELECT {}, seq FROM sqlite_sequence WHERE name = {}",
                literal(&interim),
                literal(&pair.old.name),
            ));
        }
        let mut steps = vec![step(describe_rebuild(pair), sql)];
        steps.extend(pair.dropped.iter().map(|column| Step {
            sql: Vec::new(),
            describe: format!("drop column `{}` of `{}`", column.name, pair.old.name),
            loses: Some(pair.loss(column)),
        }));
        steps
    }
}

fn describe_rebuild(pair: &Pair<'_>) -> String {
    let mut what: Vec<String> = Vec::new();
    if pair.old.name != pair.new.name {
        what.push(format!("rename it to `{}`", pair.new.name));
    }
    what.extend(pair.added().map(|column| format!("add column `{}`", column.name)));
    for (old, new) in pair.kept() {
        if old.name != new.name {
            what.push(format!("rename column `{}` to `{}`", old.name, new.name));
        } else if old.definition(Dialect::Sqlite) != new.definition(Dialect::Sqlite)
            || !unchanged(old, new, Dialect::Sqlite)
        {
            what.push(format!("change column `{}`", new.name));
        }
    }
    for constraint in without(&pair.new.constraints, &pair.old.constraints) {
        what.push(format!("set constraint `{}`", constraint.name));
    }
    for constraint in
        pair.old.constraints.iter().filter(|old| pair.new.constraints.iter().all(|new| new.name != old.name))
    {
        what.push(format!("drop constraint `{}`", constraint.name));
    }
    let what = if what.is_empty() { String::new() } else { format!(": {}", what.join(", ")) };
    format!("rebuild table `{}`{what}", pair.old.name)
}

fn interim(name: &str) -> String {
    database_name(["cratestack_new", name])
}

fn without<'a, T: PartialEq>(items: &'a [T], known: &'a [T]) -> impl Iterator<Item = &'a T> {
    items.iter().filter(|item| !known.contains(item))
}

fn drop_index(table: &Table, index: &Index) -> Step {
    step(format!("drop index `{}` of `{}`", index.name, table.name), vec![format!("DROP INDEX {}", ident(&index.name))])
}

fn create_index(table: &Table, index: &Index) -> Step {
    step(format!("create index `{}` on `{}`", index.name, table.name), vec![index.sql.clone()])
}

// PostgreSQL.

impl Plan<'_> {
    fn postgres(&self) -> Vec<Step> {
        let altered = !self.dropped.is_empty() || self.kept.iter().any(|pair| !pair.stable());
        let (old_triggers, new_triggers) = self.triggers(altered);
        let mut steps: Vec<Step> = drop_triggers(old_triggers).collect();
        self.drop_constraints(&mut steps);
        steps.extend(self.dropped.iter().map(|table| Self::drop_table(table)));
        self.rename_tables(&mut steps);
        for pair in &self.kept {
            drop_and_rename_columns(pair, &mut steps);
        }
        for table in &self.added {
            let own = table.constraints.iter().filter(|constraint| !foreign(constraint));
            steps.push(step(
                format!("create table `{}`", table.name),
                vec![table.create(&table.name, own, self.dialect)],
            ));
            steps.extend(table.indexes.iter().map(|index| create_index(table, index)));
        }
        for pair in &self.kept {
            set_columns(pair, &mut steps);
        }
        self.add_constraints(&mut steps);
        steps.extend(self.logs());
        steps.extend(self.baselines());
        steps.extend(create_triggers(new_triggers));
        steps
    }

    /// Whether a constraint may stay as it is.
    fn stays(&self, pair: &Pair<'_>, constraint: &Constraint) -> bool {
        let same = |table: &Table| table.constraints.contains(constraint);
        let here = pair.stable() && same(pair.old) && same(pair.new);
        let there = match &constraint.kind {
            ConstraintKind::Primary | ConstraintKind::Check => true,
            ConstraintKind::Foreign(parent) => self.kept.iter().any(|pair| pair.new.name == *parent && keys_stay(pair)),
        };
        here && there
    }

    fn drop_constraints(&self, steps: &mut Vec<Step>) {
        let drop = |table: &Table, constraint: &Constraint| {
            step(
                format!("drop constraint `{}` of `{}`", constraint.name, table.name),
                vec![format!("ALTER TABLE {} DROP CONSTRAINT {}", ident(&table.name), ident(&constraint.name))],
            )
        };
        for pair in &self.kept {
            let gone =
                pair.old.constraints.iter().filter(|constraint| foreign(constraint) && !self.stays(pair, constraint));
            steps.extend(gone.map(|constraint| drop(pair.old, constraint)));
        }
        for table in &self.dropped {
            steps.extend(table.constraints.iter().filter(|constraint| foreign(constraint)).map(|c| drop(table, c)));
        }
        for pair in &self.kept {
            let gone =
                pair.old.constraints.iter().filter(|constraint| !foreign(constraint) && !self.stays(pair, constraint));
            steps.extend(gone.map(|constraint| drop(pair.old, constraint)));
            let gone = pair.old.indexes.iter().filter(|index| !(pair.stable() && pair.new.indexes.contains(index)));
            steps.extend(gone.map(|index| drop_index(pair.old, index)));
        }
    }

    fn add_constraints(&self, steps: &mut Vec<Step>) {
        let add = |table: &Table, constraint: &Constraint| {
            step(
                format!("add constraint `{}` to `{}`", constraint.name, table.name),
                vec![table.add_constraint(constraint)],
            )
        };
        for pair in &self.kept {
            let new =
                pair.new.constraints.iter().filter(|constraint| !foreign(constraint) && !self.stays(pair, constraint));
            steps.extend(new.map(|constraint| add(pair.new, constraint)));
            let new = pair.new.indexes.iter().filter(|index| !(pair.stable() && pair.old.indexes.contains(index)));
            steps.extend(new.map(|index| create_index(pair.new, index)));
        }
        for pair in &self.kept {
            let new =
                pair.new.constraints.iter().filter(|constraint| foreign(constraint) && !self.stays(pair, constraint));
            steps.extend(new.map(|constraint| add(pair.new, constraint)));
        }
        for table in &self.added {
            steps.extend(table.constraints.iter().filter(|constraint| foreign(constraint)).map(|c| add(table, c)));
        }
    }

    fn rename_tables(&self, steps: &mut Vec<Step>) {
        let renamed: Vec<&Pair<'_>> = self.kept.iter().filter(|pair| pair.old.name != pair.new.name).collect();
        let rename = |from: &str, to: &str| format!("ALTER TABLE {} RENAME TO {}", ident(from), ident(to));
        // Names may have been exchanged: first away from the old ones, then to the new ones.
        for pair in &renamed {
            steps.push(step(
                format!("rename table `{}` to `{}`", pair.old.name, pair.new.name),
                vec![rename(&pair.old.name, &interim(&pair.new.name))],
            ));
        }
        let last = renamed.iter().map(|pair| rename(&interim(&pair.new.name), &pair.new.name));
        if !renamed.is_empty() {
            steps.push(step("put the renamed tables in their places".to_owned(), last.collect()));
        }
    }
}

fn foreign(constraint: &Constraint) -> bool {
    matches!(constraint.kind, ConstraintKind::Foreign(_))
}

/// Whether the indexes that foreign keys of other tables rest on stay.
fn keys_stay(pair: &Pair<'_>) -> bool {
    let primary =
        |table: &Table| table.constraints.iter().find(|constraint| constraint.kind == ConstraintKind::Primary).cloned();
    let uniques = |table: &Table| table.indexes.iter().filter(|index| index.unique).cloned().collect::<Vec<_>>();
    pair.stable() && primary(pair.old) == primary(pair.new) && uniques(pair.old) == uniques(pair.new)
}

/// In the table's new name.
fn drop_and_rename_columns(pair: &Pair<'_>, steps: &mut Vec<Step>) {
    let table = ident(&pair.new.name);
    steps.extend(pair.dropped.iter().map(|column| Step {
        sql: vec![format!("ALTER TABLE {table} DROP COLUMN {}", ident(&column.name))],
        describe: format!("drop column `{}` of `{}`", column.name, pair.new.name),
        loses: Some(pair.loss(column)),
    }));
    let rename = |from: &str, to: &str| format!("ALTER TABLE {table} RENAME COLUMN {} TO {}", ident(from), ident(to));
    let renamed: Vec<_> = pair.kept().filter(|(old, new)| old.name != new.name).collect();
    for (old, new) in &renamed {
        steps.push(step(
            format!("rename column `{}` of `{}` to `{}`", old.name, pair.new.name, new.name),
            vec![rename(&old.name, &interim(&new.name))],
        ));
    }
    let last = renamed.iter().map(|(_, new)| rename(&interim(&new.name), &new.name));
    if !renamed.is_empty() {
        steps.push(step(format!("put the renamed columns of `{}` in their places", pair.new.name), last.collect()));
    }
}

/// Adds columns, then brings the old ones to their new definition.
fn set_columns(pair: &Pair<'_>, steps: &mut Vec<Step>) {
    let table = ident(&pair.new.name);
    for column in pair.added() {
        let mut sql = Vec::new();
        if let Backfill::Sql(value) = &column.backfill {
            let bare = Column { not_null: false, ..column.clone() };
            sql.push(format!("ALTER TABLE {table} ADD COLUMN {}", bare.definition(Dialect::Postgres)));
            sql.push(format!("UPDATE {table} SET {} = {value}", ident(&column.name)));
            if column.not_null {
                sql.push(format!("ALTER TABLE {table} ALTER COLUMN {} SET NOT NULL", ident(&column.name)));
            }
        } else {
            sql.push(format!("ALTER TABLE {table} ADD COLUMN {}", column.definition(Dialect::Postgres)));
        }
        steps.push(step(format!("add column `{}` to `{}`", column.name, pair.new.name), sql));
    }
    for (old, new) in pair.kept() {
        let sql = set_column(pair, old, new);
        if !sql.is_empty() {
            steps.push(step(format!("change column `{}` of `{}`", new.name, pair.new.name), sql));
        }
    }
}

fn set_column(pair: &Pair<'_>, old: &Column, new: &Column) -> Vec<String> {
    let table = ident(&pair.new.name);
    let name = ident(&new.name);
    let alter = |what: &str| format!("ALTER TABLE {table} ALTER COLUMN {name} {what}");
    let mut sql = Vec::new();
    // By now the column has its new name.
    let value = convert(old, new, &name, Dialect::Postgres).unwrap_or_default();
    let converted = !unchanged(old, new, Dialect::Postgres);
    if old.identity && !new.identity {
        sql.push(alter("DROP IDENTITY"));
    }
    if old.default.is_some() && (converted || old.default != new.default) {
        sql.push(alter("DROP DEFAULT"));
    }
    if converted {
        sql.push(alter(&format!("TYPE {} USING {value}", new.ty)));
    }
    if let Some(default) = new.default.as_ref().filter(|_| converted || old.default != new.default) {
        sql.push(alter(&format!("SET DEFAULT {default}")));
    }
    if old.not_null != new.not_null {
        sql.push(alter(if new.not_null { "SET NOT NULL" } else { "DROP NOT NULL" }));
    }
    if new.identity && !old.identity {
        sql.push(alter("ADD GENERATED BY DEFAULT AS IDENTITY"));
        sql.push(format!(
            "SELECT setval(pg_get_serial_sequence({}, {}), coalesce(max({name}), 0) + 1, false) FROM {table}",
            literal(&table),
            literal(&new.name),
        ));
    }
    sql
}
