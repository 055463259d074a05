//! Writes: one statement that does everything, and one that says why it did nothing.
//!
//! The statement of a write carries every condition of the write in its WHERE: the row is there and readable, the rules
//! hold for its old and new form, the version is the expected one, something changes, and what it refers to exists.
//! So a write that succeeds is one statement. A write that changes no row is followed by its *diagnosis*, which
//! selects the same conditions as flags ([`Plan::interpret`]).

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Not as _;
use std::sync::Arc;

use cratestack_schema::ir::{
    Action, Check, Default, Expr, Field, FieldId, Model, ModelId, ReferentialAction, Relation, RelationId,
    RelationKind, Scalar, Schema,
};
use cratestack_schema::value::Value;

use crate::api::{Code, Expected, Failure, FieldError};
use crate::ddl::DELETION_ID;
use crate::fault::{self, Class};
use crate::idempotency::{COLUMNS, DIGEST_MARK, KEY_MARK, TABLE, VERSION_MARK};
use crate::logs::{self, Piece};
use crate::plan::{full_row, visible};
use crate::policy::{AtomKey, Decision, View, Want};
use crate::predicate::{Frag, Predicates, Row, Scope, differ, live};
use crate::sql::{Column, Dialect, KeyedPart, SelectList, Shape, Slot, Sql, SqlType, Template, column, ident};
use crate::storage::{Codec, literal};
use crate::store::Rows;

#[cfg(test)]
mod tests;

/// The kinds of writes. A deletion is one of two, by the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A new row.
    Create,
    /// New values of some fields.
    Patch,
    /// The row goes.
    Delete,
    /// The row stays, and counts as absent.
    Tombstone,
    /// A tombstone becomes a row again.
    Restore,
}

impl Kind {
    /// Whose rules apply.
    pub fn action(self) -> Action {
        match self {
            Self::Create => Action::Create,
            Self::Patch => Action::Update,
            Self::Delete | Self::Tombstone => Action::Delete,
            Self::Restore => Action::Restore,
        }
    }

    /// What a deletion is on this model.
    pub fn deletion(model: &Model) -> Self {
        if model.soft_delete.is_some() { Self::Tombstone } else { Self::Delete }
    }
}

/// What a writer's precondition asks of the statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum VersionTest {
    /// Nothing.
    Any,
    /// The version is one of [`Slot::Expected`].
    OneOf,
    /// No version could fulfil it.
    Never,
}

impl VersionTest {
    /// The test of a precondition, and the versions that it names.
    ///
    /// # Errors
    /// [`Code::VersionRequired`] when a `@version` model is written without one.
    pub fn of<'a>(model: &Model, expected: &'a Expected) -> Result<(Self, &'a [i64]), Failure> {
        match expected {
            Expected::Missing if model.version.is_some() => {
                let detail = format!("a write of `{}` must name the version that it has seen", model.name);
                Err(Failure::new(Code::VersionRequired, detail))
            }
            Expected::Any | Expected::Missing => Ok((Self::Any, &[])),
            Expected::OneOf(versions) if model.version.is_some() && !versions.is_empty() => Ok((Self::OneOf, versions)),
            Expected::OneOf(_) => Ok((Self::Never, &[])),
        }
    }
}

/// The fields whose values a create takes from the caller or from the engine, in source order: all but those that the
/// database fills.
pub fn bound_fields(model: &Model) -> impl Iterator<Item = (FieldId, &Field)> {
    let filled = |field: &Field| matches!(field.default, Some(Default::AutoIncrement | Default::DbGenerated(_)));
    model.fields().filter(move |(_, field)| !filled(field) && !field.synthetic)
}

/// What the text of a write's statements depends on. Equal shapes share a [`Plan`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Form {
    /// What is done.
    pub kind: Kind,
    /// To whose row.
    pub model: ModelId,
    /// What the rules make of the caller.
    pub atoms: AtomKey,
    /// The fields that are given a value, sorted.
    pub fields: Box<[FieldId]>,
    /// The relations whose foreign key is given, none of its values null.
    pub references: Box<[Reference]>,
    /// The precondition.
    pub versions: VersionTest,
    /// What it records of a request with an idempotency key.
    pub keyed: Keeping,
}

/// What a write records of its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, std::default::Default)]
pub enum Keeping {
    /// Nothing: the request has no key.
    #[default]
    Nothing,
    /// Status and headers, of an answer without a body.
    Head,
    /// All of it.
    Body,
}

/// A foreign key that the write gives a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Reference {
    /// The owning end.
    pub relation: RelationId,
    /// The caller sent it, and so must be able to read the row that it names. A default need only name a live one.
    pub sent: bool,
}

/// The foreign keys among `values`, given that `sent` fields come from the caller. A key with a null refers to nothing.
pub fn references(model: &Model, values: &[(FieldId, Value)], sent: impl Fn(FieldId) -> bool) -> Box<[Reference]> {
    let value = |id: &FieldId| values.binary_search_by_key(id, |(id, _)| *id).ok().and_then(|at| values.get(at));
    let given = |(relation, declared): (RelationId, &Relation)| match &declared.kind {
        RelationKind::Owning { fields, .. } => {
            let known: Vec<&(FieldId, Value)> = fields.iter().filter_map(value).collect();
            let null = known.iter().any(|(_, value)| *value == Value::Null);
            let sent = known.iter().any(|(id, _)| sent(*id));
            (!known.is_empty() && !null).then_some(Reference { relation, sent })
        }
        RelationKind::One | RelationKind::Many => None,
    };
    (0..).map(RelationId).zip(&model.relations).filter_map(given).collect()
}

/// The columns of the answer to a keyed write: whether the caller may read the row, its version, the key that the database gave
/// it, and its JSON. No row where nothing was done.
pub const KEPT: [SqlType; 4] = [SqlType::BOOL, SqlType::TEXT, SqlType::TEXT, SqlType::TEXT];

/// The key of a new row that the database makes, if it is one that PostgreSQL can put into a URL.
pub fn made_key(model: &Model) -> Option<&Field> {
    let [id] = model.key.as_slice() else { return None };
    let field = model.field(*id);
    let made = matches!(field.default, Some(Default::AutoIncrement | Default::DbGenerated(_)));
    let plain = matches!(SqlType::of(field).stored(), Scalar::Int | Scalar::BigInt | Scalar::Uuid) && !field.list;
    (made && plain).then_some(field)
}

/// SQL for the full representation of a row as an answer has it. `None` where PostgreSQL cannot write it to the octet.
fn answer_text(schema: &Schema, model: &Model, row: &str) -> Option<String> {
    let mut pieces = Vec::new();
    for (_, field) in visible(model) {
        let name = column(row, &field.column);
        let form = Codec { schema, dialect: Dialect::Postgres, ty: SqlType::of(field) }.answer_form(&name)?;
        pieces.push(Piece::text(if pieces.is_empty() { "{" } else { "," }));
        pieces.push(Piece::json(&field.name));
        pieces.push(Piece::text(":"));
        pieces.extend(logs::json(Dialect::Postgres, form, field.optional.then_some(&name)));
    }
    pieces.push(Piece::text(if pieces.is_empty() { "{}" } else { "}" }));
    Some(logs::render(Dialect::Postgres, &pieces))
}

/// Whether PostgreSQL can record a write to the model in its statement.
pub fn keeps(schema: &Schema, model: &Model) -> bool {
    answer_text(schema, model, OLD).is_some()
}

/// The statements of one form of write.
#[derive(Debug)]
pub struct Plan {
    /// The write. `None` when it could never change a row: an empty patch, a precondition that cannot hold.
    ///
    /// Control columns: whether the caller may read the result, then the version if the model has one, then for a
    /// create the key. One that is [keyed](Form::keyed) gives what its answer is made of: see [`KEPT`].
    pub write: Option<Arc<Template>>,
    /// The diagnosis.
    ///
    /// Control columns: readable, allowed, then one flag per reference, then the version if the model has one.
    pub diagnosis: Arc<Template>,
}

/// What a diagnosis says.
#[derive(Debug)]
pub enum Verdict {
    /// This.
    Refused(Failure),
    /// The row is already as the patch would have it.
    Unchanged {
        /// Its version.
        version: Option<i64>,
        /// The row.
        rows: Rows,
    },
    /// No reason (any more): the write lost a race that is over.
    Again,
}

const OLD: &str = "r";
const NEW: &str = "n";

/// The models whose foreign keys lead to a row, and a statement with one flag for each: whether rows of it depend on
/// the row of [`Slot::Key`]. SQLite does not say which foreign key stood in the way.
#[derive(Debug)]
pub struct Dependents {
    /// Constraint names, in the order of the flags.
    pub constraints: Vec<String>,
    /// One control column per constraint.
    pub template: Arc<Template>,
}

/// Builds the statement that finds out who depends on a row.
pub fn dependents(schema: &Schema, dialect: Dialect, model: ModelId) -> Dependents {
    let parent = schema.model(model);
    let mut sql = Sql::new(dialect);
    let (mut constraints, mut columns) = (Vec::new(), Vec::new());
    for child in &schema.models {
        for relation in child.relations.iter().filter(|relation| relation.target == model) {
            let RelationKind::Owning { fields, references, constraint, on_delete, .. } = &relation.kind else {
                continue;
            };
            if matches!(on_delete, ReferentialAction::Cascade | ReferentialAction::SetNull) {
                continue;
            }
            let alias = sql.alias();
            let pairs = fields.iter().zip(references).map(|(own, key)| {
                format!("{} = {}", column(&alias, &child.field(*own).column), column(OLD, &parent.field(*key).column))
            });
            let pairs: Vec<String> = pairs.collect();
            let table = ident(&child.table);
            columns.push(format!("EXISTS (SELECT 1 FROM {table} AS {alias} WHERE {})", pairs.join(" AND ")));
            constraints.push(constraint.clone());
        }
    }
    let key = Frag::all(key_is(&mut sql, parent)).into_text();
    let control = Column::row(&vec![SqlType::BOOL; columns.len()]);
    columns.push("TRUE".to_owned());
    sql.push(&format!("SELECT {} FROM {} AS {OLD} WHERE {key}", columns.join(", "), ident(&parent.table)));
    Dependents { constraints, template: finish(sql, control, Shape::default()) }
}

/// The statement that locks the rows of a batch before its first item, in the order of their keys: batches that change
/// the same rows in different orders would otherwise wait for each other, and PostgreSQL takes a second to notice each
/// time. Only rows that the caller may read, so that nobody can hold up the rows of others. [`Slot::Key`] is a list.
///
/// `None` where the rules let the caller read nothing.
pub fn locks(view: &View<'_>, id: ModelId, removes: bool) -> Option<Arc<Template>> {
    let model = view.schema().model(id);
    let detail = view.decide(id, Action::Detail, None);
    if detail == Decision::Refused {
        return None;
    }
    let mut sql = Sql::new(Dialect::Postgres);
    let key = model.key.iter().map(|id| column(OLD, &model.field(*id).column)).collect::<Vec<_>>().join(", ");
    let lists = (0..).zip(&model.key).map(|(at, id)| {
        let ty = SqlType { list: true, ..SqlType::of(model.field(*id)) };
        sql.placeholder(Slot::Key(at), ty)
    });
    let lists = lists.collect::<Vec<_>>().join(", ");
    let names = (0..model.key.len()).map(|at| format!("k{at}")).collect::<Vec<_>>().join(", ");
    let wanted = Frag::test(format!("({key}) IN (SELECT {names} FROM unnest({lists}) AS k({names}))"));
    let readable = Predicates::of_schema(view.schema(), &mut sql).decision(&detail, &Scope::of(id, Row::stored(OLD)));
    let place = Frag::all([wanted, live(model, OLD), readable]).into_text();
    let strength = if removes { "UPDATE" } else { "NO KEY UPDATE" };
    let table = ident(&model.table);
    sql.push(&format!("SELECT 1 FROM {table} AS {OLD} WHERE {place} ORDER BY {key} FOR {strength} OF {OLD}"));
    Some(finish(sql, Vec::new(), Shape::default()))
}

/// That the row has the key of the request.
fn key_is(sql: &mut Sql, model: &Model) -> Vec<Frag> {
    let key = (0..).zip(&model.key).map(|(at, id)| {
        let field = model.field(*id);
        let value = sql.placeholder(Slot::Key(at), SqlType::of(field));
        Frag::test(format!("{} = {value}", column(OLD, &field.column)))
    });
    key.collect()
}

/// Builds the statements; `None` when the rules refuse the caller of `view` whatever the row.
pub fn plan(view: &View<'_>, dialect: Dialect, form: &Form) -> Option<Plan> {
    let model = view.schema().model(form.model);
    let patched: BTreeSet<FieldId> = form.fields.iter().copied().collect();
    let patched = (form.kind == Kind::Patch).then_some(&patched);
    let action = view.decide(form.model, form.kind.action(), patched);
    if action == Decision::Refused {
        return None;
    }
    let detail = view.decide(form.model, Action::Detail, None);
    let planner = Planner { view, dialect, form, model, action, detail };
    let idle = form.kind == Kind::Patch && form.fields.is_empty();
    let write = if idle || form.versions == VersionTest::Never { None } else { planner.write() };
    Some(Plan { write, diagnosis: planner.diagnosis() })
}

/// Everything in which a row, as a write would store it, runs into its model's checks and unique constraints. The
/// databases name the first objection that they meet, and not the same one.
#[derive(Debug)]
pub struct Objections<'a> {
    checks: Vec<&'a Check>,
    uniques: Vec<&'a [FieldId]>,
    /// One control column per check, then one per unique constraint.
    pub template: Arc<Template>,
}

/// Builds the statement that finds out what stands in the way of a create, a patch or a restoration. The caller of
/// `view` is not refused outright.
pub fn objections<'a>(view: &View<'a>, dialect: Dialect, form: &Form) -> Objections<'a> {
    let model = view.schema().model(form.model);
    let planner = Planner { view, dialect, form, model, action: Decision::Allowed, detail: Decision::Allowed };
    let mut sql = Sql::new(dialect);
    let set = planner.assignments(&mut sql);
    let absent = planner.absent(&set);
    let new = match form.kind {
        Kind::Create => Row { alias: NEW, set: Some(&absent) },
        _ => Row { alias: OLD, set: Some(&set) },
    };
    let scope = Scope::of(form.model, new);
    let checks: Vec<&Check> = model.checks.iter().collect();
    let mut columns: Vec<String> = Vec::new();
    for check in &checks {
        let holds = Predicates::of_schema(view.schema(), &mut sql).condition(&check.expr, &scope, Want::False);
        columns.push(flag(holds.not()));
    }
    // Only a create can meet another row's key.
    let key = (form.kind == Kind::Create).then_some((model.key.as_slice(), None, false));
    let declared = model.uniques.iter().map(|index| (index.fields.as_slice(), index.filter.as_ref(), true));
    let mut uniques = Vec::new();
    for (fields, filter, live_only) in key.into_iter().chain(declared) {
        columns.push(planner.taken(&mut sql, new, fields, filter, live_only));
        uniques.push(fields);
    }
    let control = Column::row(&vec![SqlType::BOOL; columns.len()]);
    columns.push("TRUE".to_owned());
    let columns = columns.join(", ");
    if form.kind == Kind::Create {
        let source = planner.new_row(&set);
        sql.push(&format!("SELECT {columns} FROM {source}"));
    } else {
        let place = Frag::all(planner.place(&mut sql)).into_text();
        sql.push(&format!("SELECT {columns} FROM {} AS {OLD} WHERE {place}", ident(&model.table)));
    }
    Objections { checks, uniques, template: finish(sql, control, Shape::default()) }
}

impl Objections<'_> {
    /// The refusal that names every failing check or, when the database found no fault with those, every taken value.
    /// `None` when the rows do not tell: whatever stood in the way was elsewhere, or is gone.
    pub fn failure(&self, model: &Model, class: Class, rows: &Rows) -> Option<Failure> {
        let (checks, uniques) = rows.control(0).split_at_checked(self.checks.len())?;
        match class {
            Class::Check => fault::broken(found(checks, &self.checks)),
            _ => fault::taken(model, found(uniques, &self.uniques)),
        }
    }
}

fn found<'i, T: Copy>(flags: &'i [Value], items: &'i [T]) -> impl Iterator<Item = T> + 'i {
    flags.iter().zip(items).filter(|(flag, _)| **flag == TRUE).map(|(_, item)| *item)
}

struct Planner<'a> {
    view: &'a View<'a>,
    dialect: Dialect,
    form: &'a Form,
    model: &'a Model,
    action: Decision,
    detail: Decision,
}

/// Everything that must hold for a write, over one statement's placeholders.
struct Conditions {
    readable: Frag,
    allowed: Frag,
    references: Vec<Frag>,
    version: Frag,
    changes: Frag,
}

impl Planner<'_> {
    /// `None` for a row that the database fills wholly, so that no rule can be checked before it is there.
    fn write(&self) -> Option<Arc<Template>> {
        let mut sql = Sql::new(self.dialect);
        // `RETURNING` knows the row by it on SQLite.
        sql.avoid(&self.model.table);
        let set = self.assignments(&mut sql);
        let conditions = self.conditions(&mut sql, &set, true);
        let table = ident(&self.model.table);
        let mut parts = self.place(&mut sql);
        parts.extend([conditions.readable, conditions.allowed, conditions.version, conditions.changes]);
        parts.extend(conditions.references);
        if self.form.keyed != Keeping::Nothing {
            parts.push(Self::not_kept(&mut sql));
        }
        let all = Frag::all(parts).into_text();
        match self.form.kind {
            Kind::Create if set.is_empty() && all != "TRUE" => return None,
            Kind::Create if set.is_empty() => {
                sql.push(&format!("INSERT INTO {table} AS {OLD} DEFAULT VALUES"));
            }
            Kind::Create => {
                let columns: Vec<String> = set.keys().map(|id| ident(&self.model.field(*id).column)).collect();
                let values: Vec<String> = columns.iter().map(|name| format!("{NEW}.{name}")).collect();
                let source = self.new_row(&set);
                let text = format!(
                    "INSERT INTO {table} AS {OLD} ({}) SELECT {} FROM {source} WHERE {all}",
                    columns.join(", "),
                    values.join(", ")
                );
                sql.push(&text);
            }
            Kind::Delete => {
                sql.push(&format!("DELETE FROM {table} AS {OLD} WHERE {all}"));
            }
            Kind::Patch | Kind::Tombstone | Kind::Restore => {
                let mut terms: Vec<String> = set
                    .iter()
                    .map(|(id, value)| format!("{} = {value}", ident(&self.model.field(*id).column)))
                    .collect();
                terms.extend(self.deletion_id(&mut sql));
                sql.push(&format!("UPDATE {table} AS {OLD} SET {} WHERE {all}", terms.join(", ")));
            }
        }
        match self.form.keyed {
            Keeping::Nothing => Some(self.returning(sql)),
            Keeping::Head | Keeping::Body => self.keeping(sql),
        }
    }

    /// A write that records in the same statement that it was done, unless something is recorded of the request already: then
    /// nothing is done. PostgreSQL alone; on SQLite a statement more costs no round trip.
    ///
    /// Without ON CONFLICT: where another request with the key is quicker, all of this one is undone. So it is where the answer
    /// is too large to be kept, by the division: such answers are made elsewhere.
    fn keeping(&self, mut sql: Sql) -> Option<Arc<Template>> {
        let model = self.model;
        let answers = !matches!(self.form.kind, Kind::Delete | Kind::Tombstone);
        let readable = self.sees(&mut sql, OLD, answers);
        let version = model.version.map(|id| format!("{}::text", column(OLD, &model.field(id).column)));
        let made = made_key(model).filter(|_| self.form.kind == Kind::Create);
        let made = made.map(|field| format!("{}::text", column(OLD, &field.column)));
        let body = if answers { answer_text(self.view.schema(), model, OLD)? } else { "''".to_owned() };
        let null = || "NULL::text".to_owned();
        let (has_version, has_key) = (version.is_some(), made.is_some());
        let mut columns = vec![
            format!("{readable} AS readable"),
            format!("{} AS version", version.unwrap_or_else(null)),
            format!("{} AS key", made.unwrap_or_else(null)),
            format!("{body} AS body"),
        ];
        if logs::reaches(self.view.schema(), self.form.model) {
            let context = sql.placeholder(Slot::Context, SqlType::TEXT);
            columns.push(format!("(SELECT set_config('{}', {context}, true) IS NULL) AS told", logs::SETTING));
        }
        let filled = |mut text: String| {
            if has_version {
                text = format!("replace({text}, '{VERSION_MARK}', done.version)");
            } else if answers {
                let digest = "left(encode(sha256(convert_to(done.body, 'UTF8')), 'hex'), 32)";
                text = format!("replace({text}, '{DIGEST_MARK}', {digest})");
            }
            if has_key { format!("replace({text}, '{KEY_MARK}', done.key)") } else { text }
        };
        let always = readable == "TRUE";
        let seen_or = |seen: String, hidden: String| {
            if always { seen } else { format!("CASE WHEN done.readable THEN {seen} ELSE {hidden} END") }
        };
        let mut part = |part: KeyedPart| sql.placeholder(Slot::Keyed(part), part.ty());
        let row = part(KeyedPart::PrimaryKey);
        let shown = self.form.keyed == Keeping::Body;
        let state = if shown {
            format!("1 / (octet_length(done.body) <= {})::int", part(KeyedPart::Limit))
        } else {
            "1".to_owned()
        };
        let kept = if shown { "convert_to(done.body, 'UTF8')" } else { "''::bytea" };
        let values = [
            part(KeyedPart::Scope),
            part(KeyedPart::Key),
            part(KeyedPart::Fingerprint),
            state,
            seen_or(part(KeyedPart::SeenStatus), part(KeyedPart::HiddenStatus)),
            filled(seen_or(part(KeyedPart::SeenHeaders), part(KeyedPart::HiddenHeaders))),
            seen_or(kept.to_owned(), "''::bytea".to_owned()),
            part(KeyedPart::Op),
            literal(&model.name),
            if has_key { format!("replace({row}, '{KEY_MARK}', done.key)") } else { row },
            part(KeyedPart::RequestId),
            part(KeyedPart::Created),
            part(KeyedPart::Expires),
        ];
        let (values, columns) = (values.join(", "), columns.join(", "));
        sql.rewrite(|write| {
            format!(
                "WITH cratestack_done AS ({write} RETURNING {columns}), \
                 cratestack_noted AS (INSERT INTO {TABLE} ({COLUMNS}) SELECT {values} FROM cratestack_done AS done) \
                 SELECT done.readable, done.version, done.key, done.body FROM cratestack_done AS done"
            )
        });
        Some(finish(sql, Column::row(&KEPT), Shape::default()))
    }

    /// That nothing is recorded of the request yet. As a subquery it is evaluated before any row is looked for, and so is how
    /// long the statement may wait for others.
    fn not_kept(sql: &mut Sql) -> Frag {
        let mut part = |part: KeyedPart| sql.placeholder(Slot::Keyed(part), part.ty());
        let (wait, scope, key) = (part(KeyedPart::Wait), part(KeyedPart::Scope), part(KeyedPart::Key));
        Frag::test(format!(
            "(SELECT set_config('lock_timeout', {wait}, true) IS NOT NULL \
             AND NOT EXISTS (SELECT FROM {TABLE} AS kept WHERE kept.scope = {scope} AND kept.key = {key}))"
        ))
    }

    /// The new values of a row, as SQL.
    fn assignments(&self, sql: &mut Sql) -> BTreeMap<FieldId, String> {
        let model = self.model;
        let now = |sql: &mut Sql| sql.placeholder(Slot::Now, SqlType::DATE_TIME);
        let mut set = BTreeMap::new();
        for id in &self.form.fields {
            set.insert(*id, sql.placeholder(Slot::Field(*id), SqlType::of(model.field(*id))));
        }
        match self.form.kind {
            Kind::Create => {
                for (id, field) in model.fields() {
                    if let (Some(Default::DbGenerated(expression)), Decision::Residual(_)) =
                        (&field.default, &self.action)
                    {
                        // The rules judge the row as it will be stored.
                        set.insert(id, format!("({expression})"));
                    }
                }
                return set;
            }
            Kind::Delete => return set,
            Kind::Patch => {}
            Kind::Tombstone => {
                set.extend(model.soft_delete.map(|id| (id, now(sql))));
            }
            Kind::Restore => {
                set.extend(model.soft_delete.map(|id| (id, "NULL".to_owned())));
            }
        }
        for (id, field) in model.fields() {
            if field.version {
                set.insert(id, format!("({} + 1)", column(OLD, &field.column)));
            } else if field.updated_at {
                set.insert(id, now(sql));
            }
        }
        set
    }

    fn deletion_id(&self, sql: &mut Sql) -> Option<String> {
        let value = match self.form.kind {
            Kind::Tombstone => sql.placeholder(Slot::DeletionId, SqlType::scalar(Scalar::Uuid)),
            Kind::Restore => "NULL".to_owned(),
            Kind::Create | Kind::Patch | Kind::Delete => return None,
        };
        Some(format!("{} = {value}", ident(DELETION_ID)))
    }

    /// The row of a create, as a source that rules and foreign keys can be checked against.
    fn new_row(&self, set: &BTreeMap<FieldId, String>) -> String {
        let columns = set.iter().map(|(id, value)| format!("{value} AS {}", ident(&self.model.field(*id).column)));
        let mut columns: Vec<String> = columns.collect();
        if columns.is_empty() {
            columns.push("1".to_owned());
        }
        // Without the limit SQLite would merge the subquery into the statement and evaluate a generated value twice.
        let once = if self.dialect == Dialect::Sqlite { " LIMIT 1" } else { "" };
        format!("(SELECT {}{once}) AS {NEW}", columns.join(", "))
    }

    /// Which row is written: by its key, and live or a tombstone as the write needs it.
    fn place(&self, sql: &mut Sql) -> Vec<Frag> {
        if self.form.kind == Kind::Create {
            return Vec::new();
        }
        let live = live(self.model, OLD);
        let mut parts = key_is(sql, self.model);
        parts.push(if self.form.kind == Kind::Restore { live.not() } else { live });
        parts
    }

    fn conditions(&self, sql: &mut Sql, set: &BTreeMap<FieldId, String>, lock: bool) -> Conditions {
        let schema = self.view.schema();
        let (old, new) = (Row::stored(OLD), Row { alias: OLD, set: Some(set) });
        let id = self.form.model;
        let mut rules = Predicates::of_schema(schema, sql);
        let readable = match self.form.kind {
            Kind::Create => Frag::truth(Some(true)),
            _ => rules.decision(&self.detail, &Scope::of(id, old)),
        };
        let allowed = match (self.form.kind, &self.action) {
            (Kind::Create, decision) => {
                let absent = self.absent(set);
                let new = Row { alias: NEW, set: Some(&absent) };
                rules.decision(decision, &Scope::of(id, new))
            }
            (Kind::Patch, Decision::Residual(residual)) => rules.update_rules(residual, id, old, new),
            (_, decision) => rules.decision(decision, &Scope::of(id, old)),
        };
        let version = match (self.form.versions, self.model.version) {
            (VersionTest::Any, _) => Frag::truth(Some(true)),
            (VersionTest::OneOf, Some(version)) => {
                let expected = sql.placeholder(Slot::Expected, SqlType::INT_LIST);
                let version = column(OLD, &self.model.field(version).column);
                Frag::test(match self.dialect {
                    Dialect::Postgres => format!("{version} = ANY({expected})"),
                    Dialect::Sqlite => format!("{version} IN (SELECT value FROM json_each({expected}))"),
                })
            }
            (VersionTest::OneOf | VersionTest::Never, _) => Frag::truth(Some(false)),
        };
        let changes = match self.form.kind {
            Kind::Patch => Frag::any(self.form.fields.iter().filter_map(|id| {
                let field = self.model.field(*id);
                Some(differ(self.dialect, field, &column(OLD, &field.column), set.get(id)?))
            })),
            _ => Frag::truth(Some(true)),
        };
        let references = self.form.references.iter().map(|reference| self.exists(sql, *reference, set, lock)).collect();
        Conditions { readable, allowed, references, version, changes }
    }

    /// Whether another row has the values that a unique constraint wants to itself.
    fn taken(&self, sql: &mut Sql, new: Row<'_>, fields: &[FieldId], filter: Option<&Expr>, live_only: bool) -> String {
        let model = self.model;
        let alias = sql.alias();
        let other = Row::stored(&alias);
        let same = |id: &FieldId| {
            let field = model.field(*id);
            Frag::test(format!("{} = {}", other.spell(*id, field), new.spell(*id, field)))
        };
        let mut parts: Vec<Frag> = fields.iter().map(same).collect();
        if live_only {
            parts.push(live(model, &alias));
        }
        if let Some(filter) = filter {
            for row in [other, new] {
                let scope = Scope::of(self.form.model, row);
                parts.push(Predicates::of_schema(self.view.schema(), sql).condition(filter, &scope, Want::True));
            }
        }
        if self.form.kind != Kind::Create {
            parts.push(Frag::all(model.key.iter().map(same).collect::<Vec<_>>()).not());
        }
        let table = ident(&model.table);
        format!("EXISTS (SELECT 1 FROM {table} AS {alias} WHERE {})", Frag::all(parts).into_text())
    }

    /// Columns that the database fills and that no rule can see before it has.
    fn absent(&self, set: &BTreeMap<FieldId, String>) -> BTreeMap<FieldId, String> {
        let absent = self.model.fields().filter(|(id, _)| !set.contains_key(id));
        absent.map(|(id, _)| (id, "NULL".to_owned())).collect()
    }

    /// That a foreign key names a live row, and one that the caller may read if it comes from the caller.
    fn exists(&self, sql: &mut Sql, reference: Reference, set: &BTreeMap<FieldId, String>, lock: bool) -> Frag {
        let schema = self.view.schema();
        let relation = self.model.relation(reference.relation);
        let parent = schema.model(relation.target);
        let alias = sql.alias();
        let own = match self.form.kind {
            Kind::Create => Row::stored(NEW),
            _ => Row { alias: OLD, set: Some(set) },
        };
        let mut predicates =
            if reference.sent { Predicates::of_request(self.view, sql) } else { Predicates::of_schema(schema, sql) };
        let matching = predicates.related(self.form.model, own, relation, Row::stored(&alias), Action::Detail);
        // A tombstone under way must wait for us, or we for it. Rows that are really deleted are guarded by the
        // foreign key itself.
        let lock = lock && self.dialect == Dialect::Postgres && parent.soft_delete.is_some();
        let lock = if lock { " FOR SHARE" } else { "" };
        let table = ident(&parent.table);
        let found = format!("EXISTS (SELECT 1 FROM {table} AS {alias} WHERE {}{lock})", matching.into_text());
        // Of a composite key the patch may give a part; a null in the rest refers to nothing.
        let RelationKind::Owning { fields, .. } = &relation.kind else { return Frag::truth(Some(true)) };
        let stored = fields.iter().filter(|id| self.form.kind == Kind::Patch && !self.form.fields.contains(id));
        let optional = stored.map(|id| self.model.field(*id)).filter(|field| field.optional);
        let nulls: Vec<Frag> =
            optional.map(|field| Frag::test(format!("{} IS NULL", column(OLD, &field.column)))).collect();
        Frag::any(nulls.into_iter().chain([Frag::test(found)]))
    }

    /// Whether the caller may read what was written, where there is something to read.
    fn sees(&self, sql: &mut Sql, alias: &str, answers: bool) -> String {
        if !answers {
            return "TRUE".to_owned();
        }
        let scope = Scope::of(self.form.model, Row::stored(alias));
        flag(Predicates::of_schema(self.view.schema(), sql).decision(&self.detail, &scope))
    }

    /// `RETURNING` and the template. SQLite knows the row there by its table's name alone.
    fn returning(&self, mut sql: Sql) -> Arc<Template> {
        let table = ident(&self.model.table);
        let alias = if self.dialect == Dialect::Sqlite { table.as_str() } else { OLD };
        let schema = self.view.schema();
        let answers = !matches!(self.form.kind, Kind::Delete | Kind::Tombstone);
        let mut columns = SelectList::default();
        let readable = self.sees(&mut sql, alias, answers);
        let mut control = vec![Column { at: columns.add(readable), ty: SqlType::BOOL }];
        let key = if self.form.kind == Kind::Create { self.model.key.as_slice() } else { &[] };
        for id in self.model.version.iter().chain(key) {
            let field = self.model.field(*id);
            let ty = SqlType::of(field);
            control.push(Column { at: columns.add(column(alias, &field.column)), ty });
        }
        let shape = if answers { full_row(self.model, alias, &mut columns) } else { Shape::default() };
        if self.dialect == Dialect::Postgres && logs::reaches(schema, self.form.model) {
            // What is returned is worked out before the triggers run, and only where a row was written.
            let context = sql.placeholder(Slot::Context, SqlType::TEXT);
            columns.add(format!("(SELECT set_config('{}', {context}, true) IS NULL)", logs::SETTING));
        }
        sql.push(&format!(" RETURNING {}", columns.text()));
        finish(sql, control, shape)
    }

    fn diagnosis(&self) -> Arc<Template> {
        let mut sql = Sql::new(self.dialect);
        let set = self.assignments(&mut sql);
        let conditions = self.conditions(&mut sql, &set, false);
        let mut columns = SelectList::default();
        let flags = [conditions.readable, conditions.allowed].into_iter().chain(conditions.references).map(flag);
        let mut control: Vec<Column> = flags.map(|flag| Column { at: columns.add(flag), ty: SqlType::BOOL }).collect();
        if self.form.kind == Kind::Create {
            let source = self.new_row(&set);
            sql.push(&format!("SELECT {} FROM {source}", columns.text()));
            return finish(sql, control, Shape::default());
        }
        if let Some(version) = self.model.version {
            let at = columns.add(column(OLD, &self.model.field(version).column));
            control.push(Column { at, ty: SqlType::INT });
        }
        let mut shape = Shape::default();
        if self.form.kind == Kind::Patch {
            let at = columns.add(format!("NOT {}", flag(conditions.changes)));
            control.push(Column { at, ty: SqlType::BOOL });
            shape = full_row(self.model, OLD, &mut columns);
        }
        let place = Frag::all(self.place(&mut sql)).into_text();
        let table = ident(&self.model.table);
        sql.push(&format!("SELECT {} FROM {table} AS {OLD} WHERE {place}", columns.text()));
        finish(sql, control, shape)
    }
}

/// A condition as a column that is true or false, never null.
pub(crate) fn flag(condition: Frag) -> String {
    if condition.is_true() || condition.is_false() {
        return condition.into_text();
    }
    format!("(({}) IS TRUE)", condition.into_text())
}

fn finish(sql: Sql, control: Vec<Column>, shape: Shape) -> Arc<Template> {
    let (sql, slots) = sql.finish();
    Arc::new(Template { sql, slots, control, page: None, shape: Arc::new(shape) })
}

impl Plan {
    /// Why the write changed no row, in docs/http.md's order of refusals. `rows` are the diagnosis' answer.
    pub fn interpret(&self, model: &Model, form: &Form, expected: &[i64], rows: Rows) -> Verdict {
        let control = rows.control(0);
        let mut flags = control.iter();
        let mut next = || flags.next().cloned().unwrap_or(Value::Null);
        let (readable, allowed) = (next() == TRUE, next() == TRUE);
        let missing: Vec<Reference> = form.references.iter().filter(|_| next() != TRUE).copied().collect();
        let version = model.version.filter(|_| form.kind != Kind::Create).map(|_| next());
        let unchanged = form.kind == Kind::Patch && next() == TRUE;
        if !readable || (form.kind == Kind::Restore && !allowed) {
            // A tombstone shows itself to those alone who may bring it back.
            return Verdict::Refused(not_found(model));
        }
        // A rule may follow a reference that the row would have. Where the reference names a row that the caller may not
        // read, what the rule makes of it must not show: such a reference comes before the rule.
        if !allowed && missing.is_empty() {
            return Verdict::Refused(forbidden(model, form.kind));
        }
        let current = match version {
            Some(Value::Int(current)) => Some(current),
            _ => None,
        };
        let stale = match form.versions {
            VersionTest::Any => false,
            VersionTest::OneOf => !current.is_some_and(|current| expected.contains(&current)),
            VersionTest::Never => true,
        };
        if stale {
            let detail = format!("the row of `{}` is not at the version that the request names", model.name);
            return Verdict::Refused(Failure {
                current_version: current,
                ..Failure::new(Code::VersionMismatch, detail)
            });
        }
        if !missing.is_empty() {
            return Verdict::Refused(unresolved(model, &missing));
        }
        if unchanged { Verdict::Unchanged { version: current, rows } } else { Verdict::Again }
    }
}

const TRUE: Value = Value::Bool(true);

/// The 404 of a model.
pub fn not_found(model: &Model) -> Failure {
    Failure::new(Code::NotFound, format!("there is no row of `{}` with this key", model.name))
}

/// The 403 of an action.
pub fn forbidden(model: &Model, kind: Kind) -> Failure {
    let word = kind.action().word();
    Failure::new(Code::Forbidden, format!("the rules of `{}` do not let this caller {word} it", model.name))
}

/// References that name no row, or none that the caller may read: the two look alike.
fn unresolved(model: &Model, missing: &[Reference]) -> Failure {
    let mut errors = Vec::new();
    for reference in missing {
        let RelationKind::Owning { fields, .. } = &model.relation(reference.relation).kind else { continue };
        for id in fields {
            errors.push(FieldError {
                pointer: format!("#/{}", model.field(*id).name),
                code: "reference_not_found".to_owned(),
                detail: "names no row".to_owned(),
            });
        }
    }
    Failure::validation(errors)
}
