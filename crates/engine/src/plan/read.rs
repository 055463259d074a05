//! Reads: one statement for a row or for a page, everything that is included in it too.
//!
//! - **One row**: `SELECT .. WHERE key AND live AND <detail rules>`.
//! - **A page** adds the filter, the keyset condition and the order, and asks for one row more than it shows, which
//!   tells whether there is a next page. Where a page has includes or a total, or begins among nulls, it stands in a
//!   subquery, and what costs something per row is selected outside, for the rows of the page alone.
//! - **An include** is a correlated subquery in the select list: one statement, one snapshot.
//!
//! The keyset condition is a comparison of rows (which an index answers with a range) with as few branches as nulls and
//! mixed directions allow, and always starts with a bound on the first key; see `Keyset`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

use cratestack_schema::ir::{Action, FieldId, FieldPath, Model, ModelId, Relation, RelationKind, Schema, Side};
use cratestack_schema::value::Value;

use crate::api::{Failure, Principal};
use crate::cursor::{CursorKeys, Place as Ended, SEED};
use crate::policy::{Decision, View, Want};
use crate::predicate::{Frag, Predicates, Row, Scope, join_columns, live};
use crate::query::{Include, Projection, Query, SortKey};
use crate::sql::{
    BindKind, Column, Content, Dialect, Many, Member, SelectList, Shape, Slot, Sql, SqlType, Template, column, ident,
};
use crate::storage::{Codec, Pager, StorageError};
use crate::store::Rows;

/// The rows' alias.
const ROW: &str = "t";
/// That of the values of several requests.
const REQUEST: &str = "r";

/// The rules let this caller read no row whatever: 401 for the anonymous caller, else 403.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused;

/// The statements that read one row.
#[derive(Debug)]
pub struct One {
    /// The statement of one request. Control column: the version if the model has one.
    pub template: Arc<Template>,
    /// That of several; `None` where they are better asked one by one.
    pub together: Option<Together>,
}

/// Reads, for several requests at once, what the statement of one reads for each of them.
#[derive(Debug)]
pub struct Together {
    /// As the other one, but its values are arrays, unless they are [fixed](Slot::is_fixed): the n-th value of each belongs
    /// to the n-th request.
    pub template: Arc<Template>,
    /// The column that says whose a row is, from 1 on. No request has two.
    pub whose: Column,
}

/// The statements that read one row.
///
/// # Errors
/// [`Refused`].
pub fn one(
    view: &View<'_>,
    dialect: Dialect,
    include_limit: u32,
    model: ModelId,
    projection: &Projection,
) -> Result<One, Refused> {
    let decision = view.decide(model, Action::Detail, None);
    if decision == Decision::Refused {
        return Err(Refused);
    }
    let declared = view.schema().model(model);
    let mut reader = Reader { view, dialect, include_limit, sql: Sql::new(dialect) };
    let mut columns = SelectList::default();
    let shape = reader.body(model, ROW, projection, false, &mut columns);
    let version = declared.version.map(|id| declared.field(id));
    let control = version.map(|field| Column { at: columns.add(column(ROW, &field.column)), ty: SqlType::of(field) });
    let scope = Scope::of(model, Row::stored(ROW));
    let key = (0..).zip(&declared.key).map(|(at, id)| {
        let field = declared.field(*id);
        let value = reader.sql.placeholder(Slot::Key(at), SqlType::of(field));
        Frag::test(format!("{} = {value}", column(ROW, &field.column)))
    });
    let mut parts: Vec<Frag> = key.collect();
    parts.push(live(declared, ROW));
    parts.push(Predicates::of_schema(view.schema(), &mut reader.sql).decision(&decision, &scope));
    let (table, place) = (ident(&declared.table), Frag::all(parts).into_text());
    let together = reader.together(&table, &columns, &place);
    reader.sql.push(&format!("SELECT {} FROM {table} AS {ROW} WHERE {place}", columns.text()));
    let template = reader.finish(control.into_iter().collect(), None, shape);
    let together = together.map(|(sql, whose)| {
        let template = Template { sql, ..(*template).clone() };
        Together { template: Arc::new(template), whose }
    });
    Ok(One { template, together })
}

/// The statement of a page.
#[derive(Debug)]
pub struct List {
    /// Control columns: the total if it is asked for, then one value per key of the order.
    pub template: Arc<Template>,
    /// Whether there is a total.
    total: bool,
    /// Rows of a page.
    limit: u32,
}

/// The statement of a page. `nulls` says which sort values of the cursor are null, if there is a cursor.
///
/// # Errors
/// [`Refused`].
pub fn list(
    view: &View<'_>,
    dialect: Dialect,
    include_limit: u32,
    query: &Query,
    nulls: Option<&[bool]>,
) -> Result<List, Refused> {
    let listed = view.decide(query.model, Action::List, None);
    let restored = if query.deleted { view.decide(query.model, Action::Restore, None) } else { Decision::Allowed };
    if listed == Decision::Refused || restored == Decision::Refused {
        return Err(Refused);
    }
    let mut reader = Reader { view, dialect, include_limit, sql: Sql::new(dialect) };
    let place = reader.place(query, &[listed, restored]);
    let keyset = reader.keyset(query, nulls);
    let template = reader.page(query, &place, &keyset);
    Ok(List { template, total: query.count, limit: query.limit })
}

/// What a page's answer holds.
#[derive(Debug, PartialEq)]
pub struct Page {
    /// JSON array.
    pub items: String,
    /// The sort values of the last row, if there are rows behind it.
    pub next: Option<Vec<Value>>,
    /// `count=exact`.
    pub total: Option<u64>,
}

impl List {
    /// The sort values of the only row of the answer, without a total; `None` when there is no row.
    pub fn place(rows: &Rows) -> Option<&[Value]> {
        (!rows.is_empty()).then(|| rows.control(0))
    }

    /// Reads the answer of the statement.
    pub fn page(&self, rows: Rows) -> Page {
        let keys = usize::from(self.total);
        let total = match rows.control(0).first() {
            Some(Value::Int(total)) if self.total => u64::try_from(*total).ok(),
            _ => None,
        };
        // A total without rows comes as one row of nulls.
        let none = self.total && rows.control(0).iter().skip(keys).all(|value| *value == Value::Null);
        let fetched = if none { 0 } else { rows.len() };
        let shown = fetched.min(self.limit as usize);
        let more = fetched > shown;
        let last = shown.checked_sub(1).filter(|_| more);
        let next = last.map(|last| rows.control(last).get(keys..).unwrap_or_default().to_vec());
        Page { items: rows.into_array(shown), next, total }
    }
}

/// Makes the cursors of a page and of its includes.
pub struct Cursors<'a> {
    /// Names what a cursor is bound to.
    pub schema: &'a Schema,
    /// The deployment's keys.
    pub keys: &'a CursorKeys,
    /// The caller.
    pub principal: Option<&'a Principal>,
    /// Unix time in seconds.
    pub now: i64,
    /// Fresh randomness; `None` when there is none to be had.
    pub random: &'a (dyn Fn() -> Option<[u8; SEED]> + Sync),
}

impl std::fmt::Debug for Cursors<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cursors").field("now", &self.now).finish_non_exhaustive()
    }
}

impl Cursors<'_> {
    /// The cursor behind a row with these sort values.
    ///
    /// # Errors
    /// [`crate::api::Code::Internal`] without key or randomness.
    pub fn seal(&self, query: &Query, values: &[Value]) -> Result<String, Failure> {
        let seed = (self.random)().ok_or_else(|| {
            Failure::new(crate::api::Code::Internal, "no cursor could be made").with_internal("no randomness")
        })?;
        let place = Ended::of(values, |at| query.is_key(self.schema, at));
        self.keys.seal(seed, self.now, &query.binding(self.schema, self.principal), &place)
    }
}

impl Pager for Cursors<'_> {
    fn next(&mut self, include: &Many, control: &[Value]) -> Result<String, StorageError> {
        let (key, back) = control.split_at_checked(include.key).unwrap_or_default();
        let query = Query::behind(self.schema, include, back);
        self.seal(&query, key).map_err(|failure| StorageError::new(failure.detail))
    }
}

/// One key of the order, spelled.
struct Key {
    /// The expression where the rows come from the table.
    text: String,
    ty: SqlType,
    /// Nulls are the largest values: last ascending, first descending.
    nullable: bool,
    descending: bool,
    /// A column of the table, which an index may order.
    plain: bool,
}

/// The rows behind a cursor.
enum Keyset {
    /// All, from the beginning.
    Start,
    /// Those of one condition.
    One(Frag),
    /// Those of the first condition, then those of the second: nulls of the first key stand apart from its values, and
    /// each part is a range of an index where both together are none.
    Two(Frag, Frag),
}

struct Reader<'a> {
    view: &'a View<'a>,
    dialect: Dialect,
    include_limit: u32,
    sql: Sql,
}

impl<'a> Reader<'a> {
    fn schema(&self) -> &'a Schema {
        self.view.schema()
    }

    fn codec(&self, ty: SqlType) -> Codec<'a> {
        Codec { schema: self.view.schema(), dialect: self.dialect, ty }
    }

    fn finish(self, control: Vec<Column>, page: Option<usize>, shape: Shape) -> Arc<Template> {
        let (sql, slots) = self.sql.finish();
        Arc::new(Template { sql, slots, control, page, shape: Arc::new(shape) })
    }

    /// The statement that reads a row for each of several requests, and where it says whose a row is.
    ///
    /// Not where a subquery stands in the select list or in the rules: of that nobody knows how long it takes, and all would
    /// wait for each other. Not where a value is a list: PostgreSQL has no lists of them.
    fn together(&self, table: &str, columns: &SelectList, place: &str) -> Option<(Arc<str>, Column)> {
        if self.dialect != Dialect::Postgres || self.sql.has_aliases() {
            return None;
        }
        let name =
            |number, slot: &Slot| if slot.is_fixed() { format!("${number}") } else { format!("{REQUEST}.c{number}") };
        let (place, slots) = self.sql.named(place, &name);
        let kinds = (1..).zip(&slots).filter(|(_, spec)| !spec.slot.is_fixed());
        let kinds: Vec<(usize, BindKind)> =
            kinds.map(|(number, spec)| (number, spec.ty.bind_kind(self.dialect))).collect();
        if kinds.iter().any(|(_, kind)| kind.is_list()) {
            return None;
        }
        let join = |item: &dyn Fn(&(usize, BindKind)) -> String| kinds.iter().map(item).collect::<Vec<_>>().join(", ");
        // Behind a subquery the planner does not see how many there are, and makes one plan for all numbers.
        let arrays = join(&|(number, kind)| format!("(SELECT ${number}::{}[])", kind.postgres()));
        let names = join(&|(number, _)| format!("c{number}"));
        let mut with_whose = columns.clone();
        let whose = Column { at: with_whose.add(format!("{REQUEST}.n")), ty: SqlType::INT };
        // OFFSET 0: each row is looked up as for one request, whatever the planner takes the table's size for. A join might
        // read all of a table that was small when its plan was made.
        let text = format!(
            "SELECT {} FROM unnest({arrays}) WITH ORDINALITY AS {REQUEST}({names}, n) \
             CROSS JOIN LATERAL (SELECT {} FROM {table} AS {ROW} WHERE {place} OFFSET 0) AS {ROW}",
            with_whose.text(),
            columns.text()
        );
        Some((text.into(), whose))
    }

    /// Which rows a list is about, wherever its page begins.
    fn place(&mut self, query: &Query, rules: &[Decision]) -> Frag {
        let scope = Scope::of(query.model, Row::stored(ROW));
        let live = live(self.schema().model(query.model), ROW);
        let mut parts = vec![if query.deleted { !live } else { live }];
        let mut predicates = Predicates::of_schema(self.schema(), &mut self.sql);
        parts.extend(rules.iter().map(|decision| predicates.decision(decision, &scope)));
        if let Some(condition) = &query.condition {
            let condition = self.view.fold(condition, Want::True, None);
            parts.push(Predicates::of_request(self.view, &mut self.sql).condition(&condition, &scope, Want::True));
        }
        Frag::all(parts)
    }

    fn key(&mut self, model: ModelId, sort: &SortKey) -> Key {
        let field = self.schema().path_field(model, &sort.path);
        let scope = Scope::of(model, Row::stored(ROW));
        Key {
            text: Predicates::of_request(self.view, &mut self.sql).path(&sort.path, &scope),
            ty: SqlType::of(field),
            nullable: field.optional || !sort.path.hops.is_empty(),
            descending: sort.descending,
            plain: sort.path.hops.is_empty(),
        }
    }

    fn keyset(&mut self, query: &Query, nulls: Option<&[bool]>) -> Keyset {
        let Some(nulls) = nulls else { return Keyset::Start };
        let keys: Vec<Key> = query.sort.iter().map(|sort| self.key(query.model, sort)).collect();
        let places: Vec<Place<'_>> = (0..)
            .zip(keys.iter().zip(nulls))
            .map(|(at, (key, null))| {
                let value = (!null).then(|| self.sql.placeholder(Slot::Cursor(at), key.ty));
                Place { key, value }
            })
            .collect();
        let Some(first) = places.first().filter(|first| first.key.plain && first.key.nullable) else {
            return Keyset::One(behind(&places, true));
        };
        let null = |word: &str| Frag::test(format!("{} {word}", first.key.text));
        match (&first.value, first.key.descending) {
            // Values, then nulls.
            (Some(_), false) => Keyset::Two(behind(&places, false), null("IS NULL")),
            // Nulls, then values.
            (None, true) => Keyset::Two(
                Frag::all([null("IS NULL"), behind(places.get(1..).unwrap_or_default(), true)]),
                null("IS NOT NULL"),
            ),
            _ => Keyset::One(behind(&places, true)),
        }
    }

    fn page(mut self, query: &Query, place: &Frag, keyset: &Keyset) -> Arc<Template> {
        let model = self.schema().model(query.model);
        let keys: Vec<Key> = query.sort.iter().map(|sort| self.key(query.model, sort)).collect();
        let table = ident(&model.table);
        let rows = query.limit.saturating_add(1);
        let nested = query.count || !query.projection.includes.is_empty() || matches!(keyset, Keyset::Two(..));
        let order = |name: &dyn Fn(usize, &Key) -> String| {
            let items = keys.iter().enumerate().map(|(at, key)| self.order(key, &name(at, key)));
            items.collect::<Vec<_>>().join(", ")
        };
        let inner_order = order(&|_, key| key.text.clone());
        // Outside, a sort value that is no column has a name that no column has.
        let outer = |at: usize, key: &Key| {
            if key.plain || !nested { key.text.clone() } else { column(ROW, &sort_column(at)) }
        };
        let outer_order = order(&outer);
        let sorted: Vec<(String, SqlType)> =
            keys.iter().enumerate().map(|(at, key)| (outer(at, key), key.ty)).collect();

        let mut columns = SelectList::default();
        let shape = self.body(query.model, ROW, &query.projection, query.deleted, &mut columns);
        let mut control = Vec::new();
        if query.count {
            control.push(Column { at: columns.add("total.n".to_owned()), ty: SqlType::INT });
        }
        for (text, ty) in sorted {
            control.push(Column { at: columns.add(text), ty });
        }

        let from = |place: &Frag, columns: &str| {
            let filter = if place.is_true() { String::new() } else { format!(" WHERE {}", place.clone().into_text()) };
            format!("SELECT {columns} FROM {table} AS {ROW}{filter}")
        };
        let page =
            |place: &Frag, columns: &str| format!("{} ORDER BY {inner_order} LIMIT {rows}", from(place, columns));
        let columns = columns.text();
        let shown = Some(query.limit as usize);
        if !nested {
            let place = match keyset {
                Keyset::One(behind) => Frag::all([place.clone(), behind.clone()]),
                _ => place.clone(),
            };
            let text = page(&place, &columns);
            self.sql.push(&text);
            return self.finish(control, shown, shape);
        }
        let needed = needed_columns(self.schema(), query, model);
        let mut inner: Vec<String> = needed.iter().map(|id| column(ROW, &model.field(*id).column)).collect();
        let mut names: Vec<String> = needed.iter().map(|id| ident(&model.field(*id).column)).collect();
        for (at, key) in keys.iter().enumerate().filter(|(_, key)| !key.plain) {
            inner.push(format!("{} AS {}", key.text, ident(&sort_column(at))));
            names.push(ident(&sort_column(at)));
        }
        let (inner, names) = (inner.join(", "), names.join(", "));
        let part = |behind: &Frag| page(&Frag::all([place.clone(), behind.clone()]), &inner);
        let rows_of_page = match keyset {
            Keyset::Start => page(place, &inner),
            Keyset::One(behind) => part(behind),
            Keyset::Two(first, second) => format!(
                "SELECT {names} FROM ({}) AS a UNION ALL SELECT {names} FROM ({}) AS b",
                part(first),
                part(second)
            ),
        };
        let mut text = format!("SELECT {columns} FROM ");
        if query.count {
            let _ =
                write!(text, "({}) AS total LEFT JOIN ({rows_of_page}) AS {ROW} ON TRUE", from(place, "count(*) AS n"));
        } else {
            let _ = write!(text, "({rows_of_page}) AS {ROW}");
        }
        let _ = write!(text, " ORDER BY {outer_order} LIMIT {rows}");
        self.sql.push(&text);
        self.finish(control, shown, shape)
    }

    fn order(&self, key: &Key, text: &str) -> String {
        let direction = if key.descending { " DESC" } else { "" };
        // PostgreSQL has nulls as the largest by itself.
        let nulls = match (self.dialect, key.nullable, key.descending) {
            (Dialect::Sqlite, true, false) => " NULLS LAST",
            (Dialect::Sqlite, true, true) => " NULLS FIRST",
            _ => "",
        };
        format!("{text}{direction}{nulls}")
    }

    // What is shown.

    /// Adds the columns of a row's body.
    fn body(
        &mut self,
        model: ModelId,
        alias: &str,
        projection: &Projection,
        tombstone: bool,
        columns: &mut SelectList,
    ) -> Shape {
        self.members(model, alias, projection, tombstone, false, columns)
    }

    fn members(
        &mut self,
        model: ModelId,
        alias: &str,
        projection: &Projection,
        tombstone: bool,
        element: bool,
        columns: &mut SelectList,
    ) -> Shape {
        let declared = self.schema().model(model);
        let mut members = Vec::new();
        for id in shown(declared, projection, tombstone) {
            let field = declared.field(id);
            let ty = SqlType::of(field);
            let text = column(alias, &field.column);
            let at = columns.add(if element { self.codec(ty).select_element(&text) } else { text });
            members.push(Member::new(&field.name, at, Content::Cell(ty)));
        }
        for include in &projection.includes {
            let relation = declared.relation(include.relation);
            let (text, content) = match relation.kind {
                RelationKind::Many => self.many(model, alias, include),
                RelationKind::Owning { .. } | RelationKind::One => self.single(model, alias, include),
            };
            // Inside of an array SQLite takes a subquery's JSON for a string.
            let nested = element && self.dialect == Dialect::Sqlite;
            let at = columns.add(if nested { format!("json({text})") } else { text });
            members.push(Member::new(&relation.name, at, content));
        }
        Shape { members }
    }

    fn single(&mut self, model: ModelId, alias: &str, include: &Include) -> (String, Content) {
        let relation = self.schema().model(model).relation(include.relation);
        let other = self.sql.alias();
        let mut predicates = Predicates::of_request(self.view, &mut self.sql);
        let place = predicates.related(model, Row::stored(alias), relation, Row::stored(&other), Action::Detail);
        let mut elements = SelectList::default();
        let shape = self.members(relation.target, &other, &include.projection, false, true, &mut elements);
        let table = ident(&self.schema().model(relation.target).table);
        let text =
            format!("(SELECT {} FROM {table} AS {other} WHERE {})", self.array(elements.columns()), place.into_text());
        (text, Content::One(shape))
    }

    fn many(&mut self, model: ModelId, alias: &str, include: &Include) -> (String, Content) {
        let relation = self.schema().model(model).relation(include.relation);
        let target = self.schema().model(relation.target);
        let (other, rows) = (self.sql.alias(), self.sql.alias());
        let mut predicates = Predicates::of_request(self.view, &mut self.sql);
        let place = predicates.related(model, Row::stored(alias), relation, Row::stored(&other), Action::List);
        let back = self.back(model, alias, relation, &other);
        let own = target.key.iter().map(|id| (target.field(*id), other.as_str()));
        let (mut control, mut elements) = (Vec::new(), SelectList::default());
        for (field, alias) in
            own.chain(back.iter().map(|(path, alias)| (self.schema().path_field(relation.target, path), *alias)))
        {
            let ty = SqlType::of(field);
            let at = elements.add(self.codec(ty).select_element(&column(alias, &field.column)));
            control.push(Column { at, ty });
        }
        let shape = self.members(relation.target, &other, &include.projection, false, true, &mut elements);
        let key: Vec<String> = target.key.iter().map(|id| column(&other, &target.field(*id).column)).collect();
        let named: Vec<String> = key.iter().enumerate().map(|(at, text)| format!("{text} AS k{at}")).collect();
        let order: Vec<String> = (0..key.len()).map(|at| format!("{rows}.k{at}")).collect();
        let (array, aggregate) = (
            self.array(elements.columns()),
            match self.dialect {
                Dialect::Postgres => format!("json_agg({rows}.r ORDER BY {})", order.join(", ")),
                Dialect::Sqlite => format!("json_group_array(json({rows}.r) ORDER BY {})", order.join(", ")),
            },
        );
        let text = format!(
            "(SELECT {aggregate} FROM (SELECT {array} AS r, {} FROM {} AS {other} WHERE {} ORDER BY {} LIMIT {}) AS {rows})",
            named.join(", "),
            ident(&target.table),
            place.into_text(),
            key.join(", "),
            self.include_limit.saturating_add(1),
        );
        let key = target.key.len();
        let limit = self.include_limit;
        let back = back.into_iter().map(|(path, _)| path).collect();
        (text, Content::Many(Many { model: relation.target, control, key, back, limit, shape }))
    }

    /// What leads from a child back to its parent, and whose column has the value: the foreign key; or where that is
    /// `@server_only`, so that no caller could filter by it, the parent's primary key behind the relation.
    fn back<'t>(
        &self,
        parent: ModelId,
        alias: &'t str,
        relation: &Relation,
        child: &'t str,
    ) -> Vec<(FieldPath, &'t str)> {
        let path = |hops, field| FieldPath { side: Side::Row, hops, field };
        let target = self.schema().model(relation.target);
        let foreign = join_columns(self.schema(), parent, relation);
        match relation.inverse {
            Some(inverse) if foreign.iter().any(|(_, theirs)| target.field(*theirs).server_only) => {
                let key = self.schema().model(parent).key.iter();
                key.map(|id| (path(vec![inverse], *id), alias)).collect()
            }
            _ => foreign.into_iter().map(|(_, theirs)| (path(Vec::new(), theirs), child)).collect(),
        }
    }

    /// A JSON array of these.
    fn array(&self, elements: &[String]) -> String {
        /// PostgreSQL's functions take at most 100 arguments.
        const MOST: usize = 100;
        let array = |elements: &[String]| format!("json_build_array({})", elements.join(", "));
        match self.dialect {
            Dialect::Sqlite => format!("json_array({})", elements.join(", ")),
            Dialect::Postgres if elements.len() <= MOST => array(elements),
            Dialect::Postgres => {
                let inner = |part: &[String]| format!("substr(left({}::text, -1), 2)", array(part));
                let parts: Vec<String> = elements.chunks(MOST).map(inner).collect();
                format!("('[' || {} || ']')::json", parts.join(" || ',' || "))
            }
        }
    }
}

fn sort_column(at: usize) -> String {
    format!("sort {at}")
}

/// The fields of a row that are shown, in source order. `deletedAt` of the engine's own is one on tombstones alone.
fn shown<'m>(model: &'m Model, projection: &'m Projection, tombstone: bool) -> impl Iterator<Item = FieldId> + use<'m> {
    let chosen = move |id: &FieldId| {
        let field = model.field(*id);
        let standard = !field.server_only && (!field.synthetic || tombstone);
        projection.fields.as_ref().map_or(standard, |fields| fields.contains(id))
    };
    model.fields().map(|(id, _)| id).filter(chosen)
}

/// The columns that a page's subquery must hand out.
fn needed_columns(schema: &Schema, query: &Query, model: &Model) -> BTreeSet<FieldId> {
    let mut needed: BTreeSet<FieldId> = shown(model, &query.projection, query.deleted).collect();
    needed.extend(query.sort.iter().filter(|key| key.path.hops.is_empty()).map(|key| key.path.field));
    for include in &query.projection.includes {
        let pairs = join_columns(schema, query.model, model.relation(include.relation));
        needed.extend(pairs.into_iter().map(|(own, _)| own));
    }
    needed
}

/// One key of the order with the cursor's value for it; `None` is null.
struct Place<'k> {
    key: &'k Key,
    value: Option<String>,
}

impl Place<'_> {
    fn test(&self, operator: &str) -> Frag {
        match &self.value {
            Some(value) => Frag::test(format!("{} {operator} {value}", self.key.text)),
            None => Frag::test(format!("{} IS NULL", self.key.text)),
        }
    }

    /// Whether nulls of the key come behind the cursor's value.
    fn nulls_behind(&self) -> bool {
        self.key.nullable && !self.key.descending && self.value.is_some()
    }
}

/// The rows that come behind a place in the order. `nulls` is false where those behind the first key's values are
/// looked for elsewhere.
fn behind(places: &[Place<'_>], nulls: bool) -> Frag {
    let Some(first) = places.first() else { return Frag::truth(Some(false)) };
    if first.value.is_none() {
        let rest = Frag::all([first.test("="), behind(places.get(1..).unwrap_or_default(), true)]);
        let values = Frag::test(format!("{} IS NOT NULL", first.key.text));
        return if first.key.descending { Frag::any([values, rest]) } else { rest };
    }
    // Keys of one direction compare as a row. A null among the later ones would hide rows that come behind.
    let together = |place: &Place<'_>| {
        place.value.is_some() && place.key.descending == first.key.descending && !place.nulls_behind()
    };
    let run = 1 + places.iter().skip(1).take_while(|place| together(place)).count();
    let (run, rest) = places.split_at_checked(run).unwrap_or_default();
    let (strict, bound) = if first.key.descending { ("<", "<=") } else { (">", ">=") };
    let beyond = match run {
        [one] => one.test(strict),
        run => {
            let keys: Vec<&str> = run.iter().map(|place| place.key.text.as_str()).collect();
            let values: Vec<&str> = run.iter().filter_map(|place| place.value.as_deref()).collect();
            Frag::test(format!("({}) {strict} ({})", keys.join(", "), values.join(", ")))
        }
    };
    let null = (nulls && first.nulls_behind()).then(|| Frag::test(format!("{} IS NULL", first.key.text)));
    if rest.is_empty() {
        return Frag::any(std::iter::once(beyond).chain(null));
    }
    let equal = run.iter().map(|place| place.test("="));
    let tied = Frag::all(equal.chain([behind(rest, true)]).collect::<Vec<_>>());
    let from = Frag::any(std::iter::once(first.test(bound)).chain(null.clone()));
    Frag::all([from, Frag::any([beyond, tied].into_iter().chain(null))])
}

#[cfg(test)]
mod tests;
