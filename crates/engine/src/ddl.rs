//! The tables, indexes and triggers that a schema asks for.
//!
//! [`catalog`] is a pure function of the IR: every object with its name and its SQL. [`create`] lists the statements
//! that make them in an empty database; [`crate::ddl_diff`] compares two catalogs.
//!
//! Every unique constraint is a unique *index* on both databases (a foreign key may point to it, and it may carry a
//! condition), so that there is one shape for all of them. Names that the IR gives (tables, columns, indexes, foreign
//! keys, checks) are taken as they are, because errors are mapped back by them; names made here are cut to
//! what PostgreSQL takes.

use std::collections::HashSet;
use std::fmt::Write as _;

use cratestack_schema::ir::{
    Default, Expr, Field, FieldId, FieldType, Index as IrIndex, Model, ModelId, ReferentialAction, Relation,
    RelationKind, Scalar, Schema, ValidatorKind,
};
use cratestack_schema::value::Value;
use cratestack_schema::{database_name, hex};

use crate::audit;
use crate::ddl_trigger::{self, cascades, restricts};
use crate::fault::enforced_name;
use crate::logs;
pub use crate::logs::LogTables;
use crate::predicate::over_columns;
use crate::sql::{Bind, Dialect, SqlType, ident};
use crate::storage::{Codec, literal, push_float};
use crate::validate::currency_codes;

/// The table that says which schema a database carries: rows of `name` and `value`.
pub const META_TABLE: &str = "cratestack_meta";

/// The column beside `deletedAt` that groups the rows of one deletion. It is no field.
pub const DELETION_ID: &str = "deletion_id";

/// Stands in for a constant that is not of its column's type. The resolver lets none through; if one came, the database
/// would refuse the statement, which is better than a rule that checks nothing.
const MISTYPED: &str = "cratestack_constant_of_another_type()";

/// Everything that a schema needs in its database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalog {
    /// Tables, parents before children where there is no cycle.
    pub tables: Vec<Table>,
    /// The tables of the audit trail and of the outbox, if any model asks for them, and that of idempotency keys.
    pub logs: Vec<LogTables>,
    /// For each model that keeps a trail, by its table's name, the statement that begins it with the rows that are there.
    pub baselines: Vec<(String, String)>,
    /// Triggers of all tables, with the functions that they call.
    pub triggers: Vec<Trigger>,
}

/// A table, in parts that can be compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// The model's name; empty for tables of the engine.
    pub model: String,
    /// The table's name.
    pub name: String,
    /// Columns, in source order.
    pub columns: Vec<Column>,
    /// The primary key, then foreign keys, then checks.
    pub constraints: Vec<Constraint>,
    /// Indexes, unique ones first.
    pub indexes: Vec<Index>,
    /// SQLite: keyed by its primary key alone, without a hidden row number.
    pub without_rowid: bool,
    /// The column that marks tombstones.
    pub tombstone: Option<String>,
}

/// A column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// The field's name; empty for columns that are no field.
    pub field: String,
    /// `@rename(from:)`: the field's name before.
    pub renamed_from: Option<String>,
    /// The column's name.
    pub name: String,
    /// What the values mean. Two meanings may share a database type.
    pub meaning: SqlType,
    /// The database type, with its collation.
    pub ty: String,
    /// An enum's variants with their stored texts.
    pub variants: Vec<(String, String)>,
    /// `NOT NULL`.
    pub not_null: bool,
    /// SQL of the `DEFAULT`.
    pub default: Option<String>,
    /// The database numbers the rows.
    pub identity: bool,
    /// What rows that are already there get when the column is added.
    pub backfill: Backfill,
}

/// What the rows of a table get in a new column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backfill {
    /// The column's default, or NULL.
    Default,
    /// This SQL expression, once per row.
    Sql(String),
    /// Nothing fits: the column can be added to an empty table only.
    Refused,
}

/// A constraint that is part of its table's definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Constraint {
    /// Its name.
    pub name: String,
    /// What it does.
    pub kind: ConstraintKind,
    /// The SQL after `CONSTRAINT name`.
    pub sql: String,
}

/// Kinds of [`Constraint`]s.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConstraintKind {
    /// `PRIMARY KEY`. On SQLite the one of a numbered column stands with the column.
    Primary,
    /// `FOREIGN KEY` to that table.
    Foreign(String),
    /// `CHECK`.
    Check,
}

/// An index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// Its name.
    pub name: String,
    /// Whether rows must differ in it.
    pub unique: bool,
    /// The whole `CREATE INDEX`.
    pub sql: String,
}

/// A trigger and, on PostgreSQL, what belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trigger {
    /// Its name.
    pub name: String,
    /// The table that it watches.
    pub table: String,
    /// The statements that make it.
    pub create: Vec<String>,
    /// The statements that remove it.
    pub drop: Vec<String>,
}

/// The statements that make everything a schema needs in an empty database, in order, one statement per element.
/// They are the same for the same schema, always.
pub fn create(schema: &Schema, dialect: Dialect) -> Vec<String> {
    let catalog = catalog(schema, dialect);
    let mut statements = Vec::new();
    let mut there: HashSet<&str> = HashSet::new();
    let mut late = Vec::new();
    statements.extend(catalog.logs.into_iter().flat_map(|log| log.create));
    for table in &catalog.tables {
        there.insert(&table.name);
        let in_time = |constraint: &&Constraint| match &constraint.kind {
            // SQLite looks the parent up when a row is written, PostgreSQL when the key is made.
            ConstraintKind::Foreign(parent) => dialect == Dialect::Sqlite || there.contains(parent.as_str()),
            ConstraintKind::Primary | ConstraintKind::Check => true,
        };
        let (inline, later): (Vec<_>, Vec<_>) = table.constraints.iter().partition(in_time);
        statements.push(table.create(&table.name, inline, dialect));
        statements.extend(table.indexes.iter().map(|index| index.sql.clone()));
        late.extend(later.into_iter().map(|constraint| table.add_constraint(constraint)));
    }
    statements.extend(late);
    statements.extend(catalog.triggers.into_iter().flat_map(|trigger| trigger.create));
    statements
}

impl Table {
    /// `CREATE TABLE` under that name with these of its constraints.
    pub(crate) fn create<'a>(
        &self,
        name: &str,
        constraints: impl IntoIterator<Item = &'a Constraint>,
        dialect: Dialect,
    ) -> String {
        let constraints: Vec<&Constraint> = constraints.into_iter().collect();
        let mut lines: Vec<String> = Vec::new();
        let mut inline_key = None;
        for column in &self.columns {
            let mut line = column.definition(dialect);
            if column.identity && dialect == Dialect::Sqlite {
                // AUTOINCREMENT exists in this position only.
                inline_key = constraints.iter().find(|constraint| constraint.kind == ConstraintKind::Primary);
                if let Some(key) = inline_key {
                    let _ = write!(line, " CONSTRAINT {} PRIMARY KEY AUTOINCREMENT", ident(&key.name));
                }
            }
            lines.push(line);
        }
        let table_level = constraints.iter().filter(|constraint| Some(*constraint) != inline_key);
        lines.extend(table_level.map(|constraint| constraint.definition()));
        let options = match (dialect, self.without_rowid) {
            (Dialect::Postgres, _) => "",
            (Dialect::Sqlite, false) => " STRICT",
            (Dialect::Sqlite, true) => " STRICT, WITHOUT ROWID",
        };
        format!("CREATE TABLE {} (\n  {}\n){options}", ident(name), lines.join(",\n  "))
    }

    /// `ALTER TABLE .. ADD CONSTRAINT` (PostgreSQL).
    pub(crate) fn add_constraint(&self, constraint: &Constraint) -> String {
        format!("ALTER TABLE {} ADD {}", ident(&self.name), constraint.definition())
    }
}

impl Constraint {
    fn definition(&self) -> String {
        format!("CONSTRAINT {} {}", ident(&self.name), self.sql)
    }

    fn check(name: String, condition: &str) -> Self {
        Self { name, kind: ConstraintKind::Check, sql: format!("CHECK ({condition})") }
    }
}

impl Column {
    /// The column as it stands in `CREATE TABLE` and `ADD COLUMN`, without its constraints.
    pub(crate) fn definition(&self, dialect: Dialect) -> String {
        let mut line = format!("{} {}", ident(&self.name), self.ty);
        if self.not_null {
            line.push_str(" NOT NULL");
        }
        if let Some(default) = &self.default {
            let _ = write!(line, " DEFAULT {default}");
        }
        if self.identity && dialect == Dialect::Postgres {
            line.push_str(" GENERATED BY DEFAULT AS IDENTITY");
        }
        line
    }
}

/// Every object that the schema needs.
pub fn catalog(schema: &Schema, dialect: Dialect) -> Catalog {
    let mut tables = vec![meta_table(schema, dialect)];
    tables.extend(in_order(schema).into_iter().map(|(id, model)| Maker { schema, id, model, dialect }.table()));
    let audited = schema.models().filter(|(_, model)| model.audit.is_some());
    let baselines =
        audited.map(|(id, model)| (model.table.clone(), audit::ddl::baseline(schema, id, dialect))).collect();
    let logs = logs::tables(schema, dialect);
    Catalog { tables, logs, baselines, triggers: ddl_trigger::triggers(schema, dialect) }
}

/// Models in source order, but parents before their children, as far as there is no cycle.
fn in_order(schema: &Schema) -> Vec<(ModelId, &Model)> {
    let mut order = Vec::with_capacity(schema.models.len());
    let mut seen = vec![false; schema.models.len()];
    for (root, _) in schema.models() {
        // Each entry waits for the parents that stand above it on the stack.
        let mut stack = vec![(root, false)];
        while let Some((id, parents_done)) = stack.pop() {
            let model = schema.model(id);
            if parents_done {
                order.push((id, model));
            } else if !std::mem::replace(seen.get_mut(id.index()).unwrap_or(&mut true), true) {
                stack.push((id, true));
                stack.extend(owning(model).map(|(_, foreign)| (foreign.target, false)));
            }
        }
    }
    order
}

/// The owning end of a relation, destructured.
#[derive(Clone, Copy)]
pub(crate) struct Foreign<'a> {
    pub(crate) target: ModelId,
    pub(crate) fields: &'a [FieldId],
    pub(crate) references: &'a [FieldId],
    pub(crate) on_delete: ReferentialAction,
    pub(crate) on_update: ReferentialAction,
    pub(crate) constraint: &'a str,
}

/// The relations of a model that have a foreign key.
pub(crate) fn owning(model: &Model) -> impl Iterator<Item = (&Relation, Foreign<'_>)> {
    model.relations.iter().filter_map(|relation| match &relation.kind {
        RelationKind::Owning { fields, references, on_delete, on_update, constraint, .. } => Some((
            relation,
            Foreign {
                target: relation.target,
                fields,
                references,
                on_delete: *on_delete,
                on_update: *on_update,
                constraint,
            },
        )),
        RelationKind::One | RelationKind::Many => None,
    })
}

/// The statement that makes [`META_TABLE`].
pub(crate) fn create_meta(schema: &Schema, dialect: Dialect) -> String {
    let table = meta_table(schema, dialect);
    table.create(&table.name, &table.constraints, dialect)
}

fn meta_table(schema: &Schema, dialect: Dialect) -> Table {
    let column_type = Codec { schema, dialect, ty: SqlType::TEXT }.column_type();
    let text = |name: &str| Column {
        field: String::new(),
        renamed_from: None,
        name: name.to_owned(),
        meaning: SqlType::TEXT,
        ty: column_type.clone(),
        variants: Vec::new(),
        not_null: true,
        default: None,
        identity: false,
        backfill: Backfill::Refused,
    };
    Table {
        model: String::new(),
        name: META_TABLE.to_owned(),
        columns: vec![text("name"), text("value")],
        constraints: vec![Constraint {
            name: database_name([META_TABLE, "pkey"]),
            kind: ConstraintKind::Primary,
            sql: "PRIMARY KEY (\"name\")".to_owned(),
        }],
        indexes: Vec::new(),
        without_rowid: false,
        tombstone: None,
    }
}

/// Makes the parts of one model's table.
struct Maker<'a> {
    schema: &'a Schema,
    id: ModelId,
    model: &'a Model,
    dialect: Dialect,
}

impl Maker<'_> {
    fn table(&self) -> Table {
        let model = self.model;
        let mut columns: Vec<Column> = model.fields.iter().map(|field| self.column(field)).collect();
        let tombstone = model.soft_delete.map(|id| model.field(id).column.clone());
        if let Some(deleted_at) = &tombstone {
            columns.push(self.deletion_column(deleted_at));
        }
        Table {
            model: model.name.clone(),
            name: model.table.clone(),
            columns,
            constraints: self.constraints(),
            indexes: self.indexes(),
            // A hidden row number would be one more key that INSERT OR REPLACE can hit.
            without_rowid: self.dialect == Dialect::Sqlite && guarded(model) && !integer_key(model),
            tombstone,
        }
    }

    fn column(&self, field: &Field) -> Column {
        let meaning = SqlType::of(field);
        let identity = field.default == Some(Default::AutoIncrement);
        let default = match &field.default {
            Some(Default::Value(value)) => Some(constant(self.schema, value, meaning, self.dialect)),
            Some(Default::DbGenerated(sql)) => Some(format!("({sql})")),
            None if field.version => Some("1".to_owned()),
            _ => None,
        };
        let backfill = match &field.default {
            Some(Default::Now) => Backfill::Sql(clock(meaning, self.dialect).to_owned()),
            None if field.updated_at => Backfill::Sql(clock(meaning, self.dialect).to_owned()),
            _ if field.optional || identity || default.is_some() => Backfill::Default,
            None if field.list => Backfill::Sql(constant(self.schema, &Value::List(Vec::new()), meaning, self.dialect)),
            _ => Backfill::Refused,
        };
        Column {
            field: field.name.clone(),
            renamed_from: field.rename_from.clone(),
            name: field.column.clone(),
            meaning,
            ty: self.codec(meaning).column_type(),
            variants: self.variants(field),
            not_null: !field.optional,
            default,
            identity,
            backfill,
        }
    }

    fn deletion_column(&self, deleted_at: &str) -> Column {
        let meaning = SqlType::scalar(Scalar::Uuid);
        let fresh = match self.dialect {
            Dialect::Postgres => "gen_random_uuid()",
            Dialect::Sqlite => {
                "lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || substr(hex(randomblob(2)), 2) \
                 || '-8' || substr(hex(randomblob(2)), 2) || '-' || hex(randomblob(6)))"
            }
        };
        Column {
            field: String::new(),
            renamed_from: None,
            name: DELETION_ID.to_owned(),
            meaning,
            ty: self.codec(meaning).column_type(),
            variants: Vec::new(),
            not_null: false,
            default: None,
            identity: false,
            backfill: Backfill::Sql(format!("CASE WHEN {} IS NOT NULL THEN {fresh} END", ident(deleted_at))),
        }
    }

    fn constraints(&self) -> Vec<Constraint> {
        let model = self.model;
        let mut all = vec![Constraint {
            name: primary_key_name(model),
            kind: ConstraintKind::Primary,
            sql: format!("PRIMARY KEY ({})", columns(model, &model.key)),
        }];
        all.extend(owning(model).map(|(_, foreign)| self.foreign_key(foreign)));
        for field in &model.fields {
            all.extend(self.type_check(field));
            all.extend(self.enforced_checks(field));
        }
        if let Some(id) = model.soft_delete {
            let condition = format!("{} IS NULL OR {} IS NOT NULL", ident(&model.field(id).column), ident(DELETION_ID));
            all.push(Constraint::check(database_name([&model.table, "deletion_check"]), &condition));
        }
        if self.dialect == Dialect::Sqlite && guarded(model) {
            // A trigger before the insert sees -1 in a number that is yet to be given: no row may have it.
            for field in model.fields.iter().filter(|field| field.default == Some(Default::AutoIncrement)) {
                let name = database_name([&model.table, &field.column, "positive_check"]);
                all.push(Constraint::check(name, &format!("{} > 0", ident(&field.column))));
            }
        }
        for check in &model.checks {
            all.push(Constraint::check(
                check.constraint.clone(),
                &condition(self.schema, self.id, &check.expr, None, self.dialect),
            ));
        }
        all
    }

    fn foreign_key(&self, foreign: Foreign<'_>) -> Constraint {
        let parent = self.schema.model(foreign.target);
        Constraint {
            name: foreign.constraint.to_owned(),
            kind: ConstraintKind::Foreign(parent.table.clone()),
            sql: format!(
                "FOREIGN KEY ({}) REFERENCES {} ({}) ON DELETE {} ON UPDATE {}",
                columns(self.model, foreign.fields),
                ident(&parent.table),
                columns(parent, foreign.references),
                action(foreign.on_delete),
                action(foreign.on_update),
            ),
        }
    }

    fn variants(&self, field: &Field) -> Vec<(String, String)> {
        let FieldType::Enum(id) = field.ty else { return Vec::new() };
        let variants = &self.schema.enumeration(id).variants;
        variants.iter().map(|variant| (variant.name.clone(), variant.stored.clone())).collect()
    }

    fn codec(&self, ty: SqlType) -> Codec<'_> {
        Codec { schema: self.schema, dialect: self.dialect, ty }
    }

    /// What the database type alone does not say.
    fn type_check(&self, field: &Field) -> Option<Constraint> {
        let condition = self.codec(SqlType::of(field)).check(&ident(&field.column))?;
        Some(Constraint::check(database_name([&self.model.table, &field.column, "type_check"]), &condition))
    }

    fn enforced_checks(&self, field: &Field) -> Vec<Constraint> {
        let enforced = field.validators.iter().filter(|validator| validator.db_enforce);
        let of = |kind| enforced_condition(self.schema, field, kind, self.dialect);
        enforced
            .filter_map(|validator| {
                let (word, condition) = of(&validator.kind)?;
                Some(Constraint::check(enforced_name(self.model, field, word), &condition))
            })
            .collect()
    }

    fn indexes(&self) -> Vec<Index> {
        let model = self.model;
        let mut all: Vec<Index> = model.uniques.iter().map(|index| self.index(index, true)).collect();
        all.extend(model.indexes.iter().map(|index| self.index(index, false)));
        let mut led: Vec<&[FieldId]> = vec![&model.key];
        led.extend(
            model.uniques.iter().filter(|index| model.soft_delete.is_none() && whole(index)).map(|i| &*i.fields),
        );
        led.extend(model.indexes.iter().filter(|index| whole(index)).map(|index| &*index.fields));
        for (_, foreign) in owning(model) {
            if led.iter().any(|fields| leads(fields, foreign.fields)) {
                continue;
            }
            led.push(foreign.fields);
            let mut parts = vec![model.table.as_str()];
            parts.extend(foreign.fields.iter().map(|id| model.field(*id).column.as_str()));
            parts.push("fkey_idx");
            let index =
                IrIndex { name: database_name(parts), fields: foreign.fields.to_vec(), filter: None, using: None };
            all.push(self.index(&index, false));
        }
        if self.is_looked_up_by_deletion() {
            let (name, id) = (database_name([&model.table, "deletion_idx"]), ident(DELETION_ID));
            let sql = format!("CREATE INDEX {} ON {} ({id}) WHERE {id} IS NOT NULL", ident(&name), ident(&model.table));
            all.push(Index { name, unique: false, sql });
        }
        all
    }

    /// Whether a deletion looks for what depends on the rows of this model that it has reached.
    fn is_looked_up_by_deletion(&self) -> bool {
        let soft = |id: ModelId| self.schema.model(id).soft_delete.is_some();
        let member = soft(self.id) && owning(self.model).any(|(_, foreign)| cascades(foreign) && soft(foreign.target));
        let restricting =
            |model: &Model| owning(model).any(|(_, foreign)| foreign.target == self.id && restricts(foreign));
        member && self.schema.models.iter().any(restricting)
    }

    fn index(&self, index: &IrIndex, unique: bool) -> Index {
        let model = self.model;
        let mut conditions = Vec::new();
        if let (true, Some(id)) = (unique, model.soft_delete) {
            conditions.push(format!("{} IS NULL", ident(&model.field(id).column)));
        }
        if let Some(filter) = &index.filter {
            conditions.push(condition(self.schema, self.id, filter, None, self.dialect));
        }
        let using = match (&index.using, self.dialect) {
            (Some(method), Dialect::Postgres) => format!(" USING {}", ident(method)),
            _ => String::new(),
        };
        let filter = match conditions.len() {
            0 => String::new(),
            1 => format!(" WHERE {}", conditions.concat()),
            _ => format!(" WHERE ({})", conditions.join(") AND (")),
        };
        Index {
            name: index.name.clone(),
            unique,
            sql: format!(
                "CREATE {}INDEX {} ON {}{using} ({}){filter}",
                if unique { "UNIQUE " } else { "" },
                ident(&index.name),
                ident(&model.table),
                columns(model, &index.fields),
            ),
        }
    }
}

/// Whether rows must not go unseen by `REPLACE`.
fn guarded(model: &Model) -> bool {
    model.append_only || logs::sees_deletions(model)
}

/// Whether every row is in the index, in the order of its columns.
fn whole(index: &IrIndex) -> bool {
    index.filter.is_none() && index.using.as_deref().is_none_or(|method| method == "btree")
}

/// Whether an index over `fields` serves a look-up by all of `wanted`.
fn leads(fields: &[FieldId], wanted: &[FieldId]) -> bool {
    fields.get(..wanted.len()).is_some_and(|head| wanted.iter().all(|id| head.contains(id)))
}

/// Whether the key is SQLite's row number.
pub(crate) fn integer_key(model: &Model) -> bool {
    let integer = |id: &FieldId| {
        matches!(model.field(*id).ty, FieldType::Scalar(Scalar::Int | Scalar::BigInt)) && !model.field(*id).list
    };
    model.key.len() == 1 && model.key.iter().all(integer)
}

/// The name of a model's primary key constraint.
pub fn primary_key_name(model: &Model) -> String {
    database_name([&model.table, "pkey"])
}

pub(crate) fn columns(model: &Model, fields: &[FieldId]) -> String {
    let names: Vec<String> = fields.iter().map(|id| ident(&model.field(*id).column)).collect();
    names.join(", ")
}

fn action(action: ReferentialAction) -> &'static str {
    match action {
        ReferentialAction::Cascade => "CASCADE",
        ReferentialAction::Restrict => "RESTRICT",
        ReferentialAction::SetNull => "SET NULL",
        ReferentialAction::SetDefault => "SET DEFAULT",
        ReferentialAction::NoAction => "NO ACTION",
    }
}

/// The SQL of a constant in the form that a column of that type stores.
pub(crate) fn constant(schema: &Schema, value: &Value, ty: SqlType, dialect: Dialect) -> String {
    let Ok(bind) = Codec { schema, dialect, ty }.bind(value) else { return MISTYPED.to_owned() };
    let cast = || match ty.stored() {
        // Without precision: the constant may have more digits than the column that it is compared with.
        Scalar::Decimal(_) => "numeric".to_owned(),
        _ => ty.postgres(),
    };
    match (dialect, bind) {
        (_, Bind::Null(_)) => "NULL".to_owned(),
        (_, Bind::Bool(value)) => if value { "TRUE" } else { "FALSE" }.to_owned(),
        (Dialect::Sqlite, Bind::Int(value)) => signed(value.to_string()),
        (Dialect::Postgres, Bind::Int(value)) => match i32::try_from(value) {
            Ok(value) => signed(value.to_string()),
            Err(_) => format!("'{value}'::bigint"),
        },
        (Dialect::Sqlite, Bind::Float(value)) => signed(float(value)),
        (Dialect::Postgres, Bind::Float(value)) => format!("'{}'::double precision", float(value)),
        (Dialect::Sqlite, Bind::Bytes(octets)) => format!("X'{}'", hex(&octets)),
        (Dialect::Postgres, Bind::Bytes(octets)) => format!("'\\x{}'::bytea", hex(&octets)),
        (_, Bind::Uuid(value)) => format!("'{value}'::{}", cast()),
        (Dialect::Sqlite, Bind::Text(text)) => literal(&text),
        (Dialect::Postgres, Bind::Text(text)) => match ty.stored() {
            Scalar::String | Scalar::Cuid => literal(&text),
            Scalar::Decimal(_) => signed(text),
            _ => format!("{}::{}", literal(&text), cast()),
        },
        (_, Bind::TextList(texts)) => array(texts.iter().map(|text| literal(text)), &cast()),
        (_, Bind::IntList(values)) => array(values.iter().map(i64::to_string), &cast()),
    }
}

fn array(items: impl Iterator<Item = String>, cast: &str) -> String {
    format!("ARRAY[{}]::{cast}", items.collect::<Vec<_>>().join(", "))
}

fn float(value: f64) -> String {
    let mut text = String::new();
    push_float(&mut text, value);
    text
}

/// A minus sign must not meet an operator.
fn signed(number: String) -> String {
    if number.starts_with('-') { format!("({number})") } else { number }
}

/// The database's clock in the form that a column stores.
pub(crate) fn clock(ty: SqlType, dialect: Dialect) -> &'static str {
    match (dialect, ty.stored()) {
        (Dialect::Postgres, Scalar::Date) => "(now() AT TIME ZONE 'UTC')::date",
        (Dialect::Postgres, _) => "now()",
        (Dialect::Sqlite, Scalar::Date) => "date('now')",
        (Dialect::Sqlite, _) => "strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')",
    }
}

/// An expression over the columns of one row, constants written out. `row` qualifies the columns.
pub(crate) fn condition(schema: &Schema, model: ModelId, expr: &Expr, row: Option<&str>, dialect: Dialect) -> String {
    over_columns(schema, dialect, model, row, expr, &|value, ty| constant(schema, value, ty, dialect))
}

/// What `@db_enforce` beside a validator asks of the column.
fn enforced_condition(
    schema: &Schema,
    field: &Field,
    kind: &ValidatorKind,
    dialect: Dialect,
) -> Option<(&'static str, String)> {
    let column = ident(&field.column);
    let ty = SqlType::of(field);
    let between = |measure: &str, bounds: [Option<String>; 2]| {
        let terms = ["<=", ">="].into_iter().zip(bounds);
        let terms: Vec<String> =
            terms.filter_map(|(sign, bound)| Some(format!("{} {sign} {measure}", bound?))).collect();
        (!terms.is_empty()).then(|| terms.join(" AND "))
    };
    match kind {
        ValidatorKind::Length { min, max } => {
            let function = match (dialect, ty.stored()) {
                (Dialect::Sqlite, _) => "length",
                (Dialect::Postgres, Scalar::Bytes) => "octet_length",
                (Dialect::Postgres, _) => "char_length",
            };
            let bounds = [min, max].map(|bound| bound.map(|bound| bound.to_string()));
            Some(("length", between(&format!("{function}({column})"), bounds)?))
        }
        ValidatorKind::Range { min, max } => {
            let bounds = [min, max].map(|bound| Some(constant(schema, bound.as_ref()?, ty, dialect)));
            Some(("range", between(&column, bounds)?))
        }
        ValidatorKind::Iso4217 { any: false } => {
            let codes: Vec<String> = currency_codes().map(literal).collect();
            Some(("iso4217", format!("{column} IN ({})", codes.join(", "))))
        }
        ValidatorKind::Iso4217 { any: true } => {
            let shape = match dialect {
                Dialect::Postgres => "~ '^[A-Z]{3}$'",
                Dialect::Sqlite => "GLOB '[A-Z][A-Z][A-Z]'",
            };
            Some(("iso4217", format!("{column} {shape}")))
        }
        _ => None,
    }
}
