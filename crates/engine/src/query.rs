//! The parameters of a list, and of a read: text to a typed [`Query`].
//!
//! A parameter is a control word ([`CONTROLS`]) or a filter: a field, or a path over to-one relations, and an operator
//! (`OPERATORS`; without one, `eq`). A field that has the name of a control word is reached with an operator
//! (`limit.eq=`). Every error is [`Code::InvalidQuery`] and names the parameter; a name that the caller may not know is
//! answered like one that does not exist.
//!
//! In the lists of `in` and `notIn` a comma separates; `\,` is a comma and `\\` a backslash.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use cratestack_schema::decimal::MAX_DIGITS;
use cratestack_schema::ir::{
    ArithOp, CompareOp, Expr, FieldId, FieldPath, FieldType, Model, ModelId, RelationId, RelationKind, Scalar, Schema,
    Side, StringOp,
};
use cratestack_schema::value::{Value, parse_text};
use cratestack_schema::{fuzzy, parse, resolve_path};

use crate::api::{Code, Failure, Limits, Principal};
use crate::cursor::Binding;
use crate::plan::visible;
use crate::policy::auth_field;
use crate::sql::Many;

/// What a list shows, typed and checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Query {
    /// Whose rows.
    pub model: ModelId,
    /// What the rows must fulfil: every filter and `where`.
    pub condition: Option<Expr>,
    /// The order, total: it ends with the primary key.
    pub sort: Vec<SortKey>,
    /// Rows of a page, 1 to [`Limits::list_max`].
    pub limit: u32,
    /// Where the page begins.
    pub cursor: Option<String>,
    /// What is shown of each row.
    pub projection: Projection,
    /// `count=exact`.
    pub count: bool,
    /// `deleted=only`.
    pub deleted: bool,
    /// The filters in a canonical form, sorted.
    filters: Vec<String>,
}

/// One part of an order.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SortKey {
    /// The field.
    pub path: FieldPath,
    /// Largest first.
    pub descending: bool,
}

/// What is shown of a row.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Projection {
    /// `fields`; `None` is all.
    pub fields: Option<BTreeSet<FieldId>>,
    /// `include`, in the order of the model's relations.
    pub includes: Vec<Include>,
}

/// One relation that is shown inside a row.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Include {
    /// Which.
    pub relation: RelationId,
    /// What is shown of its rows.
    pub projection: Projection,
}

impl Projection {
    /// Whether it is the full representation.
    pub fn full(&self) -> bool {
        self.fields.is_none() && self.includes.is_empty()
    }
}

/// The words that are never a field when they stand alone.
pub const CONTROLS: [&str; 10] =
    ["where", "sort", "limit", "cursor", "fields", "include", "count", "deleted", "search", "at"];

/// What an operator asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Test {
    Compare(CompareOp),
    In { negated: bool },
    Text(StringOp),
    IsNull,
}

/// The operators of filters.
const OPERATORS: [(&str, Test); 12] = [
    ("eq", Test::Compare(CompareOp::Eq)),
    ("ne", Test::Compare(CompareOp::Ne)),
    ("lt", Test::Compare(CompareOp::Lt)),
    ("lte", Test::Compare(CompareOp::Le)),
    ("gt", Test::Compare(CompareOp::Gt)),
    ("gte", Test::Compare(CompareOp::Ge)),
    ("in", Test::In { negated: false }),
    ("notIn", Test::In { negated: true }),
    ("startsWith", Test::Text(StringOp::StartsWith)),
    ("endsWith", Test::Text(StringOp::EndsWith)),
    ("contains", Test::Text(StringOp::Contains)),
    ("isNull", Test::IsNull),
];

/// Whether an operator applies to a field.
fn applies(test: Test, ty: FieldType, list: bool) -> bool {
    let equality = matches!(test, Test::Compare(CompareOp::Eq | CompareOp::Ne) | Test::In { .. });
    match ty {
        _ if test == Test::IsNull => true,
        _ if list => false,
        FieldType::Enum(_) | FieldType::Scalar(Scalar::Boolean | Scalar::Bytes) => equality,
        FieldType::Scalar(Scalar::Json) | FieldType::Type(_) | FieldType::Model(_) => false,
        FieldType::Scalar(Scalar::String | Scalar::Cuid) => true,
        FieldType::Scalar(_) => !matches!(test, Test::Text(_)),
    }
}

/// Types the parameters of a list.
///
/// # Errors
/// [`Code::InvalidQuery`].
pub fn list(schema: &Schema, model: ModelId, limits: &Limits, params: &[(String, String)]) -> Result<Query, Failure> {
    let mut reader = Reader::new(schema, model, limits);
    for (name, value) in params {
        reader.param(name, value)?;
    }
    reader.finish()
}

/// Types the parameters of the reading of one row: `fields` and `include`.
///
/// # Errors
/// [`Code::InvalidQuery`].
pub fn read(
    schema: &Schema,
    model: ModelId,
    limits: &Limits,
    params: &[(String, String)],
) -> Result<Projection, Failure> {
    if params.is_empty() {
        return Ok(Projection::default());
    }
    let mut reader = Reader::new(schema, model, limits);
    for (name, value) in params {
        if !matches!(name.as_str(), "fields" | "include" | "") {
            return Err(invalid(name, "does not apply to one row; `fields` and `include` do"));
        }
        reader.param(name, value)?;
    }
    reader.limit = Some(1);
    reader.finish().map(|query| query.projection)
}

/// Binds a cursor to whom it was given: subject and tenant, so that it outlives their token.
pub(crate) fn bind_principal(binding: &mut Binding, schema: &Schema, principal: Option<&Principal>) {
    let known = schema.auth.as_ref().map(|auth| [auth.subject, auth.tenant]);
    let known: Vec<FieldId> = known.into_iter().flatten().flatten().collect();
    match principal {
        None => binding.part("anonymous"),
        Some(principal) if known.is_empty() => binding.part("claims").values(&principal.claims),
        Some(principal) => {
            let claims = known.iter().map(|id| principal.claims.get(id.index()).cloned().unwrap_or(Value::Null));
            binding.part("subject").values(&claims.collect::<Vec<_>>())
        }
    };
}

/// The size of a page.
pub(crate) fn limit(limits: &Limits, text: &str) -> Result<u32, Failure> {
    let most = limits.list_max;
    let digits = !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_digit());
    let limit = text.parse().ok().filter(|limit| digits && (1..=most).contains(limit));
    limit.ok_or_else(|| invalid("limit", format!("must be a number from 1 to {most}")))
}

/// A failure that names its parameter.
pub(crate) fn invalid(name: &str, what: impl AsRef<str>) -> Failure {
    Failure::new(Code::InvalidQuery, format!("`{}` {}", shown(name), what.as_ref()))
}

/// A name of the request, short enough to be repeated.
fn shown(name: &str) -> String {
    const LONGEST: usize = 80;
    let plain = name.chars().map(|c| if c.is_control() || c == '`' { '\u{FFFD}' } else { c });
    let mut text: String = plain.take(LONGEST).collect();
    if name.chars().nth(LONGEST).is_some() {
        text.push('…');
    }
    text
}

/// The names of a parameter; in `sort` they may begin with a minus.
fn names<'t>(param: &str, text: &'t str) -> Result<Vec<&'t str>, Failure> {
    if text.is_empty() {
        return Err(invalid(param, "is empty; give it a name, or leave it out"));
    }
    let names: Vec<&str> = text.split(',').collect();
    let blank = |name: &&str| name.strip_prefix('-').unwrap_or(name).split('.').any(str::is_empty);
    if names.iter().any(blank) {
        return Err(invalid(param, "holds an empty name; one name stands between two commas or dots"));
    }
    Ok(names)
}

/// What has been read so far.
struct Reader<'a> {
    schema: &'a Schema,
    model: ModelId,
    limits: &'a Limits,
    seen: Vec<&'static str>,
    conditions: Vec<Expr>,
    filters: Vec<String>,
    operands: usize,
    sort: Vec<SortKey>,
    limit: Option<u32>,
    cursor: Option<String>,
    fields: Option<String>,
    projection: Projection,
    count: bool,
    deleted: bool,
}

impl<'a> Reader<'a> {
    fn new(schema: &'a Schema, model: ModelId, limits: &'a Limits) -> Self {
        Self {
            schema,
            model,
            limits,
            seen: Vec::new(),
            conditions: Vec::new(),
            filters: Vec::new(),
            operands: 0,
            sort: Vec::new(),
            limit: None,
            cursor: None,
            fields: None,
            projection: Projection::default(),
            count: false,
            deleted: false,
        }
    }

    fn of(&self) -> &'a Model {
        self.schema.model(self.model)
    }

    fn param(&mut self, name: &str, value: &str) -> Result<(), Failure> {
        if name.is_empty() {
            let detail = "a query parameter has no name; write `&&` inside an expression as `%26%26`, since a bare `&` \
                          ends the parameter";
            return Err(Failure::new(Code::InvalidQuery, detail));
        }
        if name.starts_with('_') {
            return Err(invalid(name, "is reserved: no parameter begins with `_`"));
        }
        let Some(word) = CONTROLS.into_iter().find(|word| *word == name) else { return self.filter(name, value) };
        if word == "where" {
            return self.expression(value);
        }
        if self.seen.contains(&word) {
            return Err(invalid(word, "is given twice; give it once"));
        }
        self.seen.push(word);
        match word {
            "sort" => self.sort(value),
            "limit" => self.page_size(value),
            "cursor" => {
                self.cursor = Some(value.to_owned());
                Ok(())
            }
            // The includes that it may name can come after it.
            "fields" => {
                self.fields = Some(value.to_owned());
                Ok(())
            }
            "include" => self.include(value),
            "count" if value == "exact" => {
                self.count = true;
                Ok(())
            }
            "count" => Err(invalid(word, "must be `exact`")),
            "deleted" if self.of().soft_delete.is_none() => {
                Err(invalid(word, format!("does not apply: `{}` has no `@@soft_delete`", self.of().name)))
            }
            "deleted" if value == "only" => {
                self.deleted = true;
                Ok(())
            }
            "deleted" => Err(invalid(word, "must be `only`")),
            _ => Err(invalid(word, "is not supported yet; filter with `where` or with a field and an operator")),
        }
    }

    // Filters.

    fn filter(&mut self, name: &str, text: &str) -> Result<(), Failure> {
        // A dotted name is a field behind relations before it is a field and an operator.
        let whole =
            resolve_path(self.schema, self.model, name).map(|path| (path, ("eq", Test::Compare(CompareOp::Eq))));
        let split = || {
            let (path, word) = name.rsplit_once('.')?;
            let operator = OPERATORS.into_iter().find(|(known, _)| *known == word)?;
            Some((resolve_path(self.schema, self.model, path)?, operator))
        };
        let Some((path, (word, test))) = whole.or_else(split) else { return Err(self.unknown(name, name)) };
        self.check_depth(name, path.hops.len())?;
        let field = self.schema.path_field(self.model, &path);
        if !applies(test, field.ty, field.list) {
            let fitting = OPERATORS.iter().filter(|(_, test)| applies(*test, field.ty, field.list));
            let fitting: Vec<String> = fitting.map(|(word, _)| format!("`{word}`")).collect();
            return Err(invalid(name, format!("cannot be tested with `{word}`; use one of {}", fitting.join(", "))));
        }
        let (ty, bad) = (field.ty, |what: String| invalid(name, what));
        let mut values = match test {
            Test::Compare(_) | Test::Text(_) => vec![operand(self.schema, ty, text).map_err(bad)?],
            Test::IsNull => vec![operand(self.schema, FieldType::Scalar(Scalar::Boolean), text).map_err(bad)?],
            Test::In { .. } => {
                let items = list_items(text).map_err(|what| bad(what.to_owned()))?;
                items.iter().map(|item| operand(self.schema, ty, item)).collect::<Result<_, _>>().map_err(bad)?
            }
        };
        self.operands += values.len() + 2;
        if self.operands > self.limits.expression_nodes {
            return Err(invalid(
                name,
                format!("is one condition too many; the limit is {}", self.limits.expression_nodes),
            ));
        }
        self.filters.push(canonical(self.schema, self.model, &path, word, &values));
        let constant = |value| Expr::Const(constant_type(ty), value);
        let row = Box::new(Expr::Field(path));
        let condition = match test {
            Test::In { negated } => {
                let test = Expr::In(row, values.into_iter().map(constant).collect());
                if negated { Expr::Not(Box::new(test)) } else { test }
            }
            Test::IsNull if values == [Value::Bool(false)] => Expr::Not(Box::new(Expr::IsNull(row))),
            Test::IsNull => Expr::IsNull(row),
            Test::Compare(op) => Expr::Compare(op, row, Box::new(constant(values.swap_remove(0)))),
            Test::Text(op) => Expr::StringTest(op, row, Box::new(constant(values.swap_remove(0)))),
        };
        self.conditions.push(condition);
        Ok(())
    }

    fn expression(&mut self, text: &str) -> Result<(), Failure> {
        let limits = parse::Limits { depth: self.limits.expression_depth, nodes: self.limits.expression_nodes };
        let condition = cratestack_schema::filter(self.schema, self.model, text, limits).map_err(|found| {
            let at = text.get(..found.primary.span.start as usize).unwrap_or(text).chars().count() + 1;
            let help = found.help.map(|help| format!("; {help}")).unwrap_or_default();
            invalid("where", format!("is not valid at character {at}: {}{help}", found.message))
        })?;
        check_arithmetic(self.schema, self.model, &condition)?;
        self.check_depth("where", relation_depth(&condition))?;
        self.filters.push(format!("where {text}"));
        self.conditions.push(condition);
        Ok(())
    }

    fn check_depth(&self, name: &str, depth: usize) -> Result<(), Failure> {
        let most = self.limits.relation_depth;
        if depth > most {
            return Err(invalid(name, format!("crosses more than {most} relations in a row, which is the limit")));
        }
        Ok(())
    }

    /// The answer for a name that is none, or that nobody may use. `param` is where it stands.
    fn unknown(&self, param: &str, name: &str) -> Failure {
        let of = self.of();
        let fields = visible(of).map(|(_, field)| field.name.as_str());
        let relations = of.relations.iter().map(|relation| relation.name.as_str());
        let (first, operator) = name.split_once('.').unwrap_or((name, ""));
        let field = of.field_named(first).is_some_and(|id| !of.field(id).server_only);
        let help = if of.relation_named(name).is_some() {
            format!("; `{name}` is a relation: name one of its fields behind a dot")
        } else if field {
            let near = fuzzy::nearest(operator, OPERATORS.iter().map(|(word, _)| *word));
            near.map(|near| format!("; did you mean the operator `{near}`?")).unwrap_or_default()
        } else {
            let near = fuzzy::nearest(first, fields.chain(relations)).filter(|near| *near != first);
            near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default()
        };
        let what = if param == name { "names".to_owned() } else { format!("holds `{}`, which is", shown(name)) };
        invalid(param, format!("{what} no field of `{}` that can be used here{help}", of.name))
    }

    // Controls.

    fn sort(&mut self, text: &str) -> Result<(), Failure> {
        for item in names("sort", text)? {
            let (descending, name) = match item.strip_prefix('-') {
                Some(name) => (true, name),
                None => (false, item),
            };
            let Some(path) = resolve_path(self.schema, self.model, name) else {
                return Err(self.unknown("sort", name));
            };
            self.check_depth("sort", path.hops.len())?;
            let field = self.schema.path_field(self.model, &path);
            if field.list || field.ty == FieldType::Scalar(Scalar::Json) {
                return Err(invalid("sort", format!("holds `{}`, whose values have no order", shown(name))));
            }
            if self.sort.iter().any(|key| key.path == path) {
                return Err(invalid("sort", format!("holds `{}` twice", shown(name))));
            }
            if self.sort.len() >= self.limits.sort_fields {
                return Err(invalid("sort", format!("holds more than {} fields", self.limits.sort_fields)));
            }
            self.sort.push(SortKey { path, descending });
        }
        Ok(())
    }

    fn page_size(&mut self, text: &str) -> Result<(), Failure> {
        self.limit = Some(limit(self.limits, text)?);
        Ok(())
    }

    fn include(&mut self, text: &str) -> Result<(), Failure> {
        for path in names("include", text)? {
            let (mut model, mut projection) = (self.model, &mut self.projection);
            for (depth, name) in path.split('.').enumerate() {
                let of = self.schema.model(model);
                let Some(relation) = of.relation_named(name) else {
                    let near = fuzzy::nearest(name, of.relations.iter().map(|relation| relation.name.as_str()));
                    let help = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
                    let what = format!("holds `{}`, which is no relation of `{}`{help}", shown(name), of.name);
                    return Err(invalid("include", what));
                };
                if depth >= self.limits.include_depth {
                    let most = self.limits.include_depth;
                    return Err(invalid("include", format!("goes deeper than {most} relations, which is the limit")));
                }
                model = of.relation(relation).target;
                projection = projection.entry(relation);
            }
        }
        Ok(())
    }

    /// Names of fields; behind a dot, of fields of what is included.
    fn select(&mut self, text: &str) -> Result<(), Failure> {
        for path in names("fields", text)? {
            let (mut model, mut projection) = (self.model, &mut self.projection);
            let (hops, name) = path.rsplit_once('.').unwrap_or(("", path));
            for hop in hops.split('.').filter(|_| !hops.is_empty()) {
                let of = self.schema.model(model);
                let included = of.relation_named(hop).and_then(|relation| {
                    let include = projection.includes.iter_mut().find(|include| include.relation == relation)?;
                    Some((of.relation(relation).target, &mut include.projection))
                });
                let Some(found) = included else {
                    return Err(invalid("fields", format!("holds `{}`, which `include` does not name", shown(path))));
                };
                (model, projection) = found;
            }
            let of = self.schema.model(model);
            let field = of.field_named(name).filter(|id| !of.field(*id).server_only);
            let Some(field) = field else {
                if of.relation_named(name).is_some() {
                    return Err(invalid(
                        "fields",
                        format!("holds `{}`, a relation; name it in `include`", shown(path)),
                    ));
                }
                let near = fuzzy::nearest(name, visible(of).map(|(_, field)| field.name.as_str()));
                let help = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
                let what =
                    format!("holds `{}`, which is no field of `{}` that can be used here{help}", shown(path), of.name);
                return Err(invalid("fields", what));
            };
            projection.fields.get_or_insert_default().insert(field);
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Query, Failure> {
        if let Some(fields) = self.fields.take() {
            self.select(&fields)?;
        }
        let limit = self.limit.unwrap_or(self.limits.list_default.min(self.limits.list_max));
        let shown = u64::from(limit).saturating_mul(self.weight(self.model, &self.projection));
        if shown > self.limits.include_rows {
            let what = format!(
                "may ask for {shown} rows, and the limit is {}; include fewer to-many relations, or lower `limit`",
                self.limits.include_rows
            );
            return Err(invalid("include", what));
        }
        self.filters.sort_unstable();
        self.filters.dedup();
        let condition = match self.conditions.len() {
            0 | 1 => self.conditions.pop(),
            _ => Some(Expr::And(self.conditions)),
        };
        Ok(Query {
            model: self.model,
            condition,
            sort: total_order(self.schema.model(self.model), self.sort),
            limit,
            cursor: self.cursor,
            projection: self.projection,
            count: self.count,
            deleted: self.deleted,
            filters: self.filters,
        })
    }

    /// Rows that one row may become, itself included.
    fn weight(&self, model: ModelId, projection: &Projection) -> u64 {
        let weights = projection.includes.iter().map(|include| {
            let relation = self.schema.model(model).relation(include.relation);
            let inner = self.weight(relation.target, &include.projection);
            let rows = if relation.kind == RelationKind::Many { u64::from(self.limits.include_limit) } else { 1 };
            inner.saturating_mul(rows)
        });
        weights.fold(1, u64::saturating_add)
    }
}

impl Projection {
    /// The projection of an include, made if need be.
    fn entry(&mut self, relation: RelationId) -> &mut Self {
        let at = self.includes.partition_point(|include| include.relation < relation);
        if self.includes.get(at).is_none_or(|include| include.relation != relation) {
            self.includes.insert(at, Include { relation, projection: Self::default() });
        }
        #[expect(clippy::indexing_slicing, reason = "an include stands at this place now")]
        &mut self.includes[at].projection
    }
}

/// Appends the primary key, in the direction of the last key, so that one index serves both. What comes behind a whole
/// primary key orders nothing.
fn total_order(model: &Model, mut sort: Vec<SortKey>) -> Vec<SortKey> {
    let descending = sort.last().is_some_and(|key| key.descending);
    let place =
        |sort: &[SortKey], id: FieldId| sort.iter().position(|key| key.path.hops.is_empty() && key.path.field == id);
    for id in &model.key {
        if place(&sort, *id).is_none() {
            let path = FieldPath { side: Side::Row, hops: Vec::new(), field: *id };
            sort.push(SortKey { path, descending });
        }
    }
    let whole = model.key.iter().filter_map(|id| place(&sort, *id)).max().map_or(0, |last| last + 1);
    sort.truncate(whole);
    sort
}

/// The most relations that an expression crosses one behind the other. Each is a subquery inside of the one before,
/// and SQLite takes about twenty.
fn relation_depth(expr: &Expr) -> usize {
    let inner = expr.children().into_iter().map(relation_depth).max().unwrap_or(0);
    match expr {
        Expr::Field(path) => path.hops.len(),
        Expr::Quantified { hops, .. } => hops.len() + 1 + inner,
        _ => inner,
    }
}

/// Arithmetic is exact, so a product has as many digits as its factors together; beyond this the databases give up.
fn check_arithmetic(schema: &Schema, model: ModelId, expr: &Expr) -> Result<(), Failure> {
    const MOST_DIGITS: usize = 4000;
    if let Expr::Arith(..) = expr {
        let digits = digits(schema, model, expr);
        if digits > MOST_DIGITS {
            let what = format!("multiplies to more than {MOST_DIGITS} digits");
            return Err(invalid("where", what));
        }
    }
    let inner = match expr {
        Expr::Quantified { hops, relation, .. } => schema.model(schema.walk(model, hops)).relation(*relation).target,
        _ => model,
    };
    expr.children().into_iter().try_for_each(|child| check_arithmetic(schema, inner, child))
}

/// The most digits that a number can have, on either side of the point.
fn digits(schema: &Schema, model: ModelId, expr: &Expr) -> usize {
    let of_type = |ty| match ty {
        FieldType::Scalar(Scalar::Decimal(Some(precision))) => precision.precision as usize,
        FieldType::Scalar(Scalar::Decimal(None)) => MAX_DIGITS,
        _ => 19,
    };
    match expr {
        Expr::Const(_, Value::Text(text)) => text.len(),
        Expr::Const(ty, _) => of_type(*ty),
        Expr::Field(path) => of_type(schema.path_field(model, path).ty),
        Expr::Auth(id) => auth_field(schema, *id).map_or(0, |field| of_type(field.ty)),
        Expr::Arith(ArithOp::Mul, a, b) => digits(schema, model, a) + digits(schema, model, b),
        Expr::Arith(_, a, b) => digits(schema, model, a).max(digits(schema, model, b)) + 1,
        Expr::Neg(x) => digits(schema, model, x),
        _ => 19,
    }
}

/// A value of a parameter. Decimals may have more digits than the field holds: they are only compared.
fn operand(schema: &Schema, ty: FieldType, text: &str) -> Result<Value, String> {
    match constant_type(ty) {
        FieldType::Scalar(scalar) => parse_text(scalar, text).map_err(|invalid| invalid.to_string()),
        FieldType::Enum(id) => {
            let variants = &schema.enumeration(id).variants;
            let known = variants.iter().find(|variant| variant.name == text);
            known.map(|variant| Value::Text(variant.stored.clone())).ok_or_else(|| {
                let names: Vec<String> = variants.iter().map(|variant| format!("`{}`", variant.name)).collect();
                format!("must be one of {}", names.join(", "))
            })
        }
        FieldType::Type(_) | FieldType::Model(_) => Err("cannot be compared".to_owned()),
    }
}

/// The type of the constant that a field is compared with.
fn constant_type(ty: FieldType) -> FieldType {
    match ty {
        FieldType::Scalar(Scalar::Decimal(_)) => FieldType::Scalar(Scalar::Decimal(None)),
        other => other,
    }
}

/// Splits at commas; `\,` is a comma, `\\` a backslash.
fn list_items(text: &str) -> Result<Vec<String>, &'static str> {
    let mut items = vec![String::new()];
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        let kept = match c {
            ',' => {
                items.push(String::new());
                continue;
            }
            '\\' => match chars.next() {
                Some(escaped @ (',' | '\\')) => escaped,
                _ => {
                    return Err(
                        "has a backslash that escapes nothing; write a comma as `\\,` and a backslash as `\\\\`",
                    );
                }
            },
            c => c,
        };
        if let Some(last) = items.last_mut() {
            last.push(kept);
        }
    }
    Ok(items)
}

/// A filter as text that is equal for equal filters.
fn canonical(schema: &Schema, model: ModelId, path: &FieldPath, word: &str, values: &[Value]) -> String {
    format!("{} {word} {values:?}", path_name(schema, model, path))
}

/// `customer.country`.
fn path_name(schema: &Schema, model: ModelId, path: &FieldPath) -> String {
    let mut at = schema.model(model);
    let mut text = String::new();
    for hop in &path.hops {
        let relation = at.relation(*hop);
        let _ = write!(text, "{}.", relation.name);
        at = schema.model(relation.target);
    }
    text + &at.field(path.field).name
}

impl Query {
    /// The page behind a to-many include: the child's own list, filtered by what leads back to the parent.
    pub fn behind(schema: &Schema, include: &Many, back: &[Value]) -> Self {
        let filters = include
            .back
            .iter()
            .zip(back)
            .map(|(path, value)| canonical(schema, include.model, path, "eq", std::slice::from_ref(value)));
        let mut filters: Vec<String> = filters.collect();
        filters.sort_unstable();
        Self {
            model: include.model,
            condition: None,
            sort: total_order(schema.model(include.model), Vec::new()),
            limit: include.limit,
            cursor: None,
            projection: Projection::default(),
            count: false,
            deleted: false,
            filters,
        }
    }

    /// Whether a part of the order is a field of the primary key.
    pub fn is_key(&self, schema: &Schema, at: usize) -> bool {
        let key = &schema.model(self.model).key;
        self.sort.get(at).is_some_and(|sort| sort.path.hops.is_empty() && key.contains(&sort.path.field))
    }

    /// The list, in the same order, of the one row that a place names: what it is now sorted by.
    #[must_use]
    pub fn only(&self, schema: &Schema, place: &[Value]) -> Self {
        let model = schema.model(self.model);
        let key = (0..).zip(self.sort.iter().zip(place)).filter(|(at, _)| self.is_key(schema, *at));
        let equal = key.map(|(_, (sort, value))| {
            let constant = Expr::Const(constant_type(model.field(sort.path.field).ty), value.clone());
            Expr::Compare(CompareOp::Eq, Box::new(Expr::Field(sort.path.clone())), Box::new(constant))
        });
        Self {
            model: self.model,
            condition: Some(Expr::And(equal.collect())),
            sort: self.sort.clone(),
            limit: 1,
            cursor: None,
            projection: Projection { fields: Some(model.key.iter().copied().collect()), includes: Vec::new() },
            count: false,
            deleted: self.deleted,
            filters: Vec::new(),
        }
    }

    /// What a cursor of this list is bound to: model, filter, sort, tombstones or not, and the caller, who is known by
    /// subject and tenant, or by all claims where the `auth` block has neither.
    pub fn binding(&self, schema: &Schema, principal: Option<&Principal>) -> Binding {
        let mut binding = Binding::default();
        binding.part(&schema.model(self.model).name).part(if self.deleted { "deleted" } else { "live" });
        binding.part(&self.filters.len().to_string());
        for filter in &self.filters {
            binding.part(filter);
        }
        for key in &self.sort {
            let field = schema.path_field(self.model, &key.path);
            let direction = if key.descending { "desc" } else { "asc" };
            binding.part(&path_name(schema, self.model, &key.path)).part(direction).part(&format!("{:?}", field.ty));
        }
        bind_principal(&mut binding, schema, principal);
        binding
    }

    /// What a statement of this list depends on, beside the caller ([`crate::policy::View::key_with`]) and the cursor;
    /// `None` for a list whose statement is not worth keeping.
    pub fn form(&self) -> Option<Form> {
        /// The longest filters that are kept. Values are part of them.
        const LONGEST: usize = 1024;
        let length: usize = self.filters.iter().map(String::len).sum();
        (length <= LONGEST).then(|| Form {
            model: self.model,
            filters: self.filters.clone(),
            sort: self.sort.clone(),
            limit: self.limit,
            projection: self.projection.clone(),
            count: self.count,
            deleted: self.deleted,
        })
    }
}

/// What the statement of a list depends on. Equal forms share it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Form {
    model: ModelId,
    filters: Vec<String>,
    sort: Vec<SortKey>,
    limit: u32,
    projection: Projection,
    count: bool,
    deleted: bool,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

    use super::*;

    #[test]
    fn the_guide_has_every_parameter_and_operator() {
        let guide = include_str!("../../../docs/http.md");
        let between = |from: &str, to: &str| -> BTreeSet<&str> {
            let part = guide.split_once(from).unwrap().1.split_once(to).unwrap().0;
            let cells = part.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
            cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).filter(|code| !code.contains('=')).collect()
        };
        assert_eq!(between("## Lists", "### Filters"), CONTROLS.into());
        assert_eq!(between("### Filters", "## Conditional"), OPERATORS.into_iter().map(|(word, _)| word).collect());
    }

    const SHOP: &str = r#"
enum Status { open closed @map("CLOSED") }
auth Principal { id String @id }
model Customer {
  id     Int @id
  name   String
  secret String? @server_only
  orders Order[]
  @@allow("all", true)
}
model Order {
  id         Int @id
  customerId Int
  status     Status
  total      Decimal(18, 4)
  paid       Boolean
  note       Json?
  tags       String[]
  where      String?
  contains   String?
  at         DateTime?
  boss       Int?
  parent     Order? @relation(name: "tree", fields: [boss], references: [id])
  children   Order[] @relation(name: "tree")
  customer   Customer @relation(fields: [customerId], references: [id])
  @@soft_delete
  @@allow("all", true)
}
"#;

    fn parsed(params: &[(&str, &str)]) -> Result<Query, Failure> {
        let (schema, diagnostics) = cratestack_schema::compile("shop", SHOP);
        let schema = schema.unwrap_or_else(|| panic!("{diagnostics:#?}"));
        let params: Vec<(String, String)> =
            params.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        list(&schema, schema.model_named("Order").unwrap(), &Limits::default(), &params)
    }

    #[test]
    fn what_is_refused_and_in_which_words() {
        let long = "x".repeat(200);
        let deep = format!("{}1 == 1{}", "(".repeat(5000), ")".repeat(5000));
        let wide = vec!["1 == 1"; 400].join(" && ");
        let product = vec!["total"; 60].join(" * ");
        let product = format!("({product}) * ({product}) * ({product}) * ({product}) > 0");
        let hops = format!("{}id", "parent.".repeat(17));
        let cases: &[&[(&str, &str)]] = &[
            &[("", "")],
            &[("", "x")],
            &[("_x", "1")],
            &[("customr", "1")],
            &[("customer", "1")],
            &[("customer.secret", "1")],
            &[("customer.sekret", "1")],
            &[("customer.orders.id", "1")],
            &[("children.id", "1")],
            &[("total.gtee", "1")],
            &[("total.secret", "1")],
            &[(&long, "1")],
            &[("a`b\n", "1")],
            &[(&hops, "1")],
            &[("total", "ten")],
            &[("total", "1e3")],
            &[("total.in", "1,two")],
            &[("customerId", "1.5")],
            &[("customerId", "")],
            &[("status", "CLOSED")],
            &[("status.gt", "open")],
            &[("status.startsWith", "o")],
            &[("paid", "1")],
            &[("paid.lt", "true")],
            &[("note", "{}")],
            &[("tags", "a")],
            &[("note.isNull", "yes")],
            &[("at.eq", "2026-01-31")],
            &[("where.in", "a\\b")],
            &[("where.eq", "\0")],
            &[("at", "2026")],
            &[("search", "x")],
            &[("sort", "")],
            &[("sort", "-")],
            &[("sort", "id,")],
            &[("sort", "customer.")],
            &[("sort", "customer")],
            &[("sort", "customer.secret")],
            &[("sort", "customer.sekret")],
            &[("sort", "note")],
            &[("sort", "id,-id")],
            &[("sort", "id"), ("sort", "total")],
            &[("limit", "0")],
            &[("limit", "1001")],
            &[("limit", "-1")],
            &[("limit", "+1")],
            &[("limit", "99999999999999999999")],
            &[("count", "yes")],
            &[("deleted", "also")],
            &[("fields", "")],
            &[("fields", "id,,total")],
            &[("fields", ".id")],
            &[("fields", "id,secret")],
            &[("fields", "customer")],
            &[("fields", "customer.id")],
            &[("fields", "customer.secret"), ("include", "customer")],
            &[("fields", "customer.nam"), ("include", "customer")],
            &[("include", "")],
            &[("include", "customer,")],
            &[("include", "customr")],
            &[("include", "total")],
            &[("include", "parent.parent.parent.parent")],
            &[("include", "children.children.children")],
            &[("where", "")],
            &[("where", "total >")],
            &[("where", "totl > 1")],
            &[("where", "customer.secret == \"x\"")],
            &[("where", "customer.sekret == \"x\"")],
            &[("where", "total == \"x\"")],
            &[("where", "total")],
            &[("where", "old.total > 1")],
            &[("where", &deep)],
            &[("where", &wide)],
            &[("where", &product)],
        ];
        let mut text = String::new();
        for params in cases {
            let failure = parsed(params).map(|query| panic!("{params:?}: {query:#?}")).unwrap_err();
            assert_eq!(failure.code, Code::InvalidQuery);
            let params: Vec<String> =
                params.iter().map(|(name, value)| format!("{}={}", shown(name), shown(value))).collect();
            let _ = writeln!(text, "?{}\n  {}", params.join("&"), failure.detail);
        }
        insta::assert_snapshot!(text);
    }

    #[test]
    fn names_that_are_words_and_words_that_are_names() {
        let field = |name: &str, value: &str| parsed(&[(name, value)]).unwrap().filters.remove(0);
        assert_eq!(field("where.eq", "x"), "where eq [Text(\"x\")]");
        assert_eq!(field("contains", "x"), "contains eq [Text(\"x\")]");
        assert_eq!(field("parent.contains", "x"), "parent.contains eq [Text(\"x\")]");
        assert_eq!(field("parent.contains.contains", "x"), "parent.contains contains [Text(\"x\")]");
        assert_eq!(field("parent.at", "2026-01-31T10:00:00Z").split(' ').next(), Some("parent.at"));
        assert_eq!(field("status", "closed"), "status eq [Text(\"CLOSED\")]");
        assert_eq!(field("total", "1.50"), field("total.eq", "1.5"));
        assert_eq!(field("where.in", "a\\,b,\\\\,"), "where in [Text(\"a,b\"), Text(\"\\\\\"), Text(\"\")]");
    }

    #[test]
    fn the_order_is_total_and_no_longer() {
        let names = |sort: &str| {
            let (schema, _) = cratestack_schema::compile("shop", SHOP);
            let (schema, query) = (schema.unwrap(), parsed(&[("sort", sort)]).unwrap());
            let name = |key: &SortKey| {
                let sign = if key.descending { "-" } else { "" };
                format!("{sign}{}", path_name(&schema, query.model, &key.path))
            };
            query.sort.iter().map(name).collect::<Vec<_>>().join(",")
        };
        assert_eq!(names("total"), "total,id");
        assert_eq!(names("-total"), "-total,-id");
        assert_eq!(names("-customer.name,total"), "-customer.name,total,id");
        assert_eq!(names("total,-id,status"), "total,-id");
        assert_eq!(parsed(&[]).unwrap().sort.len(), 1);
    }

    #[test]
    fn equal_lists_have_equal_bindings() {
        let (schema, _) = cratestack_schema::compile("shop", SHOP);
        let schema = schema.unwrap();
        let binding = |params: &[(&str, &str)]| parsed(params).unwrap().binding(&schema, None);
        let one = binding(&[("total", "1.50"), ("paid", "true"), ("limit", "3"), ("fields", "id")]);
        assert_eq!(one, binding(&[("paid.eq", "true"), ("total.eq", "1.5"), ("include", "customer")]));
        assert_ne!(one, binding(&[("paid", "true")]));
        assert_ne!(one, binding(&[("paid", "true"), ("total", "1.5"), ("deleted", "only")]));
        assert_ne!(one, binding(&[("paid", "true"), ("total", "1.5"), ("sort", "-id")]));
    }
}
