//! Conditions as SQL, with the same meaning on both dialects.
//!
//! SQL's three-valued logic is Kleene's, so most of an [`Expr`] maps to one operator. What does not is here:
//!
//! - **Decimals on SQLite** are scaled integers or ordered text (`storage`). Operands of a comparison are brought to one
//!   scale; the largest possible magnitude is known from the types, and where 64 bits could overflow (SQLite would turn
//!   to binary floating point) both go through ordered text and the functions of [`register_functions`].
//! - **Relation paths** are correlated scalar subqueries: an absent parent is null, as any path over it is unknown.
//! - **Quantifiers** become EXISTS, which knows two values; [`Want`] says whether unknown may be taken for one of them.
//! - **String tests** never use LIKE: prefixes are ranges, the others `strpos`/`instr` and friends.

use std::collections::BTreeMap;

use cratestack_schema::decimal::{Decimal, MAX_DIGITS};
use cratestack_schema::ir::{
    Action, ArithOp, CompareOp, Expr, Field, FieldId, FieldPath, FieldType, ModelId, Quantifier, Relation, RelationId,
    RelationKind, Scalar, Schema, Side, StringOp,
};
use cratestack_schema::value::Value;

use crate::policy::{Decision, Residual, View, Want, auth_field, boolean, constant, roles_field, scalar_of};
use crate::sql::{Dialect, SCALED_DIGITS, Slot, Sql, SqlType, column, ident};
use crate::storage;

/// How the fields of one row are spelled in a statement.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    /// The table's alias. Empty for unqualified columns (CHECKs and partial indexes).
    pub alias: &'a str,
    /// Fields that are not read from the column: the new values of a write, as SQL.
    pub set: Option<&'a BTreeMap<FieldId, String>>,
}

impl<'a> Row<'a> {
    /// A row read from its table.
    pub fn stored(alias: &'a str) -> Self {
        Self { alias, set: None }
    }

    /// The field as SQL.
    pub(crate) fn spell(&self, id: FieldId, field: &Field) -> String {
        match self.set.and_then(|set| set.get(&id)) {
            Some(text) => text.clone(),
            None if self.alias.is_empty() => ident(&field.column),
            None => column(self.alias, &field.column),
        }
    }
}

/// The row in scope, and in an update rule both of its versions.
#[derive(Debug, Clone, Copy)]
pub struct Scope<'a> {
    /// Whose row.
    pub model: ModelId,
    /// What a bare field reads.
    pub row: Row<'a>,
    /// What `old.f` reads.
    pub old: Row<'a>,
    /// What `new.f` reads.
    pub new: Row<'a>,
}

impl<'a> Scope<'a> {
    /// A scope with one version of the row.
    pub fn of(model: ModelId, row: Row<'a>) -> Self {
        Self { model, row, old: row, new: row }
    }

    fn side(&self, side: Side) -> Row<'a> {
        match side {
            Side::Row => self.row,
            Side::Old => self.old,
            Side::New => self.new,
        }
    }
}

/// A piece of SQL that stands for a condition or a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frag {
    text: String,
    level: Level,
    nullable: bool,
}

/// How loosely a fragment's outermost operator binds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Or,
    And,
    Not,
    Test,
    Arith,
    Atom,
}

impl Frag {
    fn new(text: impl Into<String>, level: Level, nullable: bool) -> Self {
        Self { text: text.into(), level, nullable }
    }

    /// A truth value.
    pub fn truth(known: Option<bool>) -> Self {
        let text = match known {
            Some(true) => "TRUE",
            Some(false) => "FALSE",
            // PostgreSQL takes a bare NULL for text.
            None => "CAST(NULL AS boolean)",
        };
        Self::new(text, Level::Atom, known.is_none())
    }

    /// A test made elsewhere, such as `EXISTS (..)` or `a = b`.
    pub fn test(text: impl Into<String>) -> Self {
        Self::new(text, Level::Test, true)
    }

    /// Whether it is the constant TRUE.
    pub fn is_true(&self) -> bool {
        self.text == "TRUE"
    }

    /// Whether it is the constant FALSE.
    pub fn is_false(&self) -> bool {
        self.text == "FALSE"
    }

    /// The text, for a place where any condition may stand alone.
    pub fn into_text(self) -> String {
        self.text
    }

    /// The text, in parentheses unless it binds more tightly than `than`.
    fn above(&self, than: Level) -> String {
        if self.level > than { self.text.clone() } else { format!("({})", self.text) }
    }

    /// All of these. Without any, TRUE.
    pub fn all(parts: impl IntoIterator<Item = Self>) -> Self {
        Self::join(parts, false)
    }

    /// Any of these. Without any, FALSE.
    pub fn any(parts: impl IntoIterator<Item = Self>) -> Self {
        Self::join(parts, true)
    }

    fn join(parts: impl IntoIterator<Item = Self>, decisive: bool) -> Self {
        let mut kept: Vec<Self> = Vec::new();
        for part in parts {
            if part == Self::truth(Some(decisive)) {
                return part;
            }
            if part != Self::truth(Some(!decisive)) && !kept.contains(&part) {
                kept.push(part);
            }
        }
        match kept.len() {
            0 => Self::truth(Some(!decisive)),
            1 => kept.remove(0),
            _ => Self::chain(&kept, decisive),
        }
    }

    /// A long chain is a balanced tree: SQLite limits the depth of an expression, and a chain is as deep as it is long.
    fn chain(parts: &[Self], decisive: bool) -> Self {
        const WIDTH: usize = 64;
        let (word, level) = if decisive { (" OR ", Level::Or) } else { (" AND ", Level::And) };
        if parts.len() > WIDTH {
            let groups: Vec<Self> = parts
                .chunks(parts.len().div_ceil(WIDTH))
                .map(|group| {
                    let group = Self::chain(group, decisive);
                    Self::new(format!("({})", group.text), Level::Atom, group.nullable)
                })
                .collect();
            return Self::chain(&groups, decisive);
        }
        // AND inside OR needs no parentheses, but a reader is glad of them.
        let texts: Vec<String> = parts.iter().map(|part| part.above(Level::And)).collect();
        Self::new(texts.join(word), level, parts.iter().any(|part| part.nullable))
    }
}

impl std::ops::Not for Frag {
    type Output = Self;

    fn not(self) -> Self {
        match self.text.as_str() {
            "TRUE" => Self::truth(Some(false)),
            "FALSE" => Self::truth(Some(true)),
            text if self.level == Level::Atom && text.starts_with("EXISTS (") => {
                Self::new(format!("NOT {text}"), Level::Not, self.nullable)
            }
            text => match text.strip_prefix("NOT ").filter(|_| self.level == Level::Not) {
                Some(inner) if inner.starts_with("EXISTS (") => Self::new(inner, Level::Atom, self.nullable),
                _ => Self::new(format!("NOT ({text})"), Level::Not, self.nullable),
            },
        }
    }
}

/// A value, with what has to be known of it to combine it with another.
#[derive(Debug, Clone)]
struct Operand {
    frag: Frag,
    kind: Kind,
}

/// How an operand is represented.
#[derive(Debug, Clone)]
enum Kind {
    /// Text that compares by code point.
    Text,
    /// PostgreSQL: BIGINT.
    BigInt,
    /// PostgreSQL: NUMERIC.
    Numeric,
    /// SQLite: an integer that stands for itself divided by ten to the power of `scale`; `max` bounds its magnitude.
    Scaled { scale: u32, max: u128 },
    /// SQLite: ordered decimal text.
    Ordered,
    /// SQLite: a number known in advance, bound in whatever form its neighbour asks for.
    Known(Decimal),
    /// Anything else.
    Other,
}

/// Largest magnitude of an `Int` or `BigInt`.
const INT_MAX: u128 = 1 << 63;

/// Largest magnitude that SQLite's integer arithmetic can hold on both sides of zero.
const SQLITE_MAX: u128 = (1 << 63) - 1;

/// Writes a constant into the text.
pub type Literal<'a> = &'a dyn Fn(&Value, SqlType) -> String;

/// Turns conditions into SQL.
pub struct Predicates<'a> {
    schema: &'a Schema,
    sql: &'a mut Sql,
    reader: Option<&'a View<'a>>,
    literal: Option<Literal<'a>>,
}

/// A condition over the columns of one row for DDL, where nothing can be bound: a CHECK, a partial index, a trigger.
/// `row` qualifies the columns.
pub fn over_columns(
    schema: &Schema,
    dialect: Dialect,
    model: ModelId,
    row: Option<&str>,
    expr: &Expr,
    literal: Literal<'_>,
) -> String {
    let mut sql = Sql::new(dialect);
    let mut predicates = Predicates { schema, sql: &mut sql, reader: None, literal: Some(literal) };
    // A CHECK passes on unknown, so all three values matter.
    predicates.condition(expr, &Scope::of(model, Row::stored(row.unwrap_or_default())), Want::Exact).into_text()
}

impl<'a> Predicates<'a> {
    /// For conditions that the schema's author wrote: hops see every live row.
    pub fn of_schema(schema: &'a Schema, sql: &'a mut Sql) -> Self {
        Self { schema, sql, reader: None, literal: None }
    }

    /// For conditions that a caller wrote: hops see the live rows that the caller may read.
    pub fn of_request(view: &'a View<'a>, sql: &'a mut Sql) -> Self {
        Self { schema: view.schema(), sql, reader: Some(view), literal: None }
    }

    /// A condition. Its values of the caller must be known not to be null (see [`View::fold`]).
    pub fn condition(&mut self, expr: &Expr, scope: &Scope<'_>, want: Want) -> Frag {
        if let Some(known) = constant(expr) {
            return Frag::truth(known.or(match want {
                Want::True => Some(false),
                Want::False => Some(true),
                Want::Exact => None,
            }));
        }
        match expr {
            Expr::Not(x) => match &**x {
                Expr::Compare(op, a, b) => self.compare(opposite(*op), a, b, scope),
                Expr::IsNull(x) => self.null_test(x, scope, false),
                x => !self.condition(x, scope, want.flip()),
            },
            Expr::And(list) => Frag::all(list.iter().map(|x| self.condition(x, scope, want)).collect::<Vec<_>>()),
            Expr::Or(list) => Frag::any(list.iter().map(|x| self.condition(x, scope, want)).collect::<Vec<_>>()),
            Expr::Compare(op, a, b) => self.compare(*op, a, b, scope),
            Expr::IsNull(x) => self.null_test(x, scope, true),
            Expr::In(x, list) => self.is_in(x, list, scope),
            Expr::InAuth(x, list) => self.in_claim(x, *list, scope),
            Expr::HasRole(x) => match roles_field(self.schema) {
                Some(roles) => self.in_claim(x, roles, scope),
                None => Frag::truth(Some(false)),
            },
            Expr::Quantified { hops, side, relation, quantifier, body } => {
                let row = scope.side(*side);
                self.quantified(scope.model, row, hops, (*relation, *quantifier, body), want)
            }
            Expr::StringTest(op, a, b) => self.string_test(*op, a, b, scope),
            Expr::Changed(field) => self.changed(*field, scope),
            Expr::Anonymous => Frag::truth(Some(self.reader.is_none_or(|view| view.principal().is_none()))),
            Expr::Const(..)
            | Expr::Field(_)
            | Expr::Auth(_)
            | Expr::Now
            | Expr::Arith(..)
            | Expr::Neg(_)
            | Expr::Length(_) => self.operand(expr, scope).frag,
        }
    }

    /// The rules of one action over one version of the row.
    pub fn rules(&mut self, rules: &Residual, scope: &Scope<'_>) -> Frag {
        let allows: Vec<Frag> = rules.allows.iter().map(|x| self.condition(x, scope, Want::True)).collect();
        let denies: Vec<Frag> = rules.denies.iter().map(|x| !self.condition(x, scope, Want::False)).collect();
        let allowed = if rules.allows.is_empty() { Frag::truth(Some(true)) } else { Frag::any(allows) };
        Frag::all(std::iter::once(allowed).chain(denies))
    }

    /// The rules of an update: one single allow holds for both versions of the row, and no deny for either.
    pub fn update_rules(&mut self, rules: &Residual, model: ModelId, old: Row<'_>, new: Row<'_>) -> Frag {
        let scopes = [Scope { model, row: old, old, new }, Scope { model, row: new, old, new }];
        let mut both = |expr: &Expr, deny: bool| {
            let want = if deny { Want::False } else { Want::True };
            let sides: Vec<Frag> = scopes.iter().map(|scope| self.condition(expr, scope, want)).collect();
            Frag::all(sides.into_iter().map(|side| if deny { !side } else { side }))
        };
        let allows: Vec<Frag> = rules.allows.iter().map(|x| both(x, false)).collect();
        let denies: Vec<Frag> = rules.denies.iter().map(|x| both(x, true)).collect();
        let allowed = if rules.allows.is_empty() { Frag::truth(Some(true)) } else { Frag::any(allows) };
        Frag::all(std::iter::once(allowed).chain(denies))
    }

    /// A decision over one version of the row.
    pub fn decision(&mut self, decision: &Decision, scope: &Scope<'_>) -> Frag {
        match decision {
            Decision::Refused => Frag::truth(Some(false)),
            Decision::Allowed => Frag::truth(Some(true)),
            Decision::Residual(rules) => self.rules(rules, scope),
        }
    }

    /// The value of a field path as SQL: what a list is sorted by.
    pub fn path(&mut self, path: &FieldPath, scope: &Scope<'_>) -> String {
        self.field(path, scope).above(Level::Arith)
    }

    fn field(&mut self, path: &FieldPath, scope: &Scope<'_>) -> Frag {
        let row = scope.side(path.side);
        self.through(scope.model, row, &path.hops, &mut |compiler, model, row| {
            let field = compiler.schema.model(model).field(path.field);
            Frag::new(row.spell(path.field, field), Level::Atom, field.optional)
        })
    }

    /// A value of the row that to-one hops end at; null where there is none.
    fn through(
        &mut self,
        model: ModelId,
        row: Row<'_>,
        hops: &[RelationId],
        value: &mut dyn FnMut(&mut Self, ModelId, Row<'_>) -> Frag,
    ) -> Frag {
        let Some((hop, rest)) = hops.split_first() else { return value(self, model, row) };
        let relation = self.schema.model(model).relation(*hop);
        let alias = self.sql.alias();
        let target = Row::stored(&alias);
        let matching = self.related(model, row, relation, target, Action::Detail);
        let inner = self.through(relation.target, target, rest, value);
        let table = ident(&self.schema.model(relation.target).table);
        let text = format!("(SELECT {} FROM {table} AS {alias} WHERE {})", inner.text, matching.text);
        Frag::new(text, Level::Atom, true)
    }

    /// That `target` is a row at the other end of a relation: joined, live, and readable where a caller asks.
    pub fn related(
        &mut self,
        model: ModelId,
        row: Row<'_>,
        relation: &Relation,
        target: Row<'_>,
        action: Action,
    ) -> Frag {
        let other = self.schema.model(relation.target);
        let mut parts: Vec<Frag> = join_columns(self.schema, model, relation)
            .into_iter()
            .map(|(own, theirs)| {
                let own = row.spell(own, self.schema.model(model).field(own));
                Frag::test(format!("{} = {own}", target.spell(theirs, other.field(theirs))))
            })
            .collect();
        parts.push(live(other, target.alias));
        if let Some(view) = self.reader {
            let decision = view.decide(relation.target, action, None);
            // The rules themselves are the author's: their hops see every live row.
            let mut rules = Predicates::of_schema(self.schema, self.sql);
            parts.push(rules.decision(&decision, &Scope::of(relation.target, target)));
        }
        Frag::all(parts)
    }

    fn quantified(
        &mut self,
        model: ModelId,
        row: Row<'_>,
        hops: &[RelationId],
        what: (RelationId, Quantifier, &Expr),
        want: Want,
    ) -> Frag {
        let (relation, quantifier, body) = what;
        self.through(model, row, hops, &mut |compiler, model, row| match quantifier {
            Quantifier::Some => compiler.some(model, row, relation, body, want),
            Quantifier::None => !compiler.some(model, row, relation, body, want.flip()),
            Quantifier::Every => {
                let counter = match body {
                    Expr::Not(x) => (**x).clone(),
                    body => match constant(body) {
                        Some(known) => boolean(known.map_or(Value::Null, |known| Value::Bool(!known))),
                        None => Expr::Not(Box::new(body.clone())),
                    },
                };
                !compiler.some(model, row, relation, &counter, want.flip())
            }
        })
    }

    /// `relation.some(body)`. Unknown if no row is true and one is unknown.
    fn some(&mut self, model: ModelId, row: Row<'_>, relation: RelationId, body: &Expr, want: Want) -> Frag {
        let relation = self.schema.model(model).relation(relation);
        let alias = self.sql.alias();
        let child = Row::stored(&alias);
        let matching = self.related(model, row, relation, child, Action::List);
        let body = self.condition(body, &Scope::of(relation.target, child), want);
        let table = ident(&self.schema.model(relation.target).table);
        let counted = match want {
            Want::Exact if body.nullable => {
                let text = format!(
                    "(SELECT CASE WHEN count(CASE WHEN q.b THEN 1 END) > 0 THEN TRUE WHEN count(*) > count(q.b) \
                     THEN NULL ELSE FALSE END FROM (SELECT {} AS b FROM {table} AS {alias} WHERE {}) AS q)",
                    body.text, matching.text
                );
                return Frag::new(text, Level::Atom, true);
            }
            Want::False if body.nullable => {
                Frag::new(format!("{} IS NOT FALSE", body.above(Level::Test)), Level::Test, false)
            }
            _ => body,
        };
        let filter = Frag::all([matching, counted]);
        if filter.is_false() {
            return filter;
        }
        Frag::new(format!("EXISTS (SELECT 1 FROM {table} AS {alias} WHERE {})", filter.text), Level::Atom, false)
    }

    fn null_test(&mut self, x: &Expr, scope: &Scope<'_>, null: bool) -> Frag {
        let x = self.operand(x, scope);
        let frag = self.spelled(x);
        if !frag.nullable {
            return Frag::truth(Some(!null));
        }
        let word = if null { "IS NULL" } else { "IS NOT NULL" };
        Frag::new(format!("{} {word}", frag.above(Level::Test)), Level::Test, false)
    }

    fn changed(&mut self, id: FieldId, scope: &Scope<'_>) -> Frag {
        let field = self.schema.model(scope.model).field(id);
        let (old, new) = (scope.old.spell(id, field), scope.new.spell(id, field));
        if old == new {
            return Frag::truth(Some(false));
        }
        differ(self.sql.dialect(), field, &old, &new)
    }

    fn compare(&mut self, op: CompareOp, a: &Expr, b: &Expr, scope: &Scope<'_>) -> Frag {
        let (a, b) = (self.operand(a, scope), self.operand(b, scope));
        self.compared(op, a, b)
    }

    fn compared(&mut self, op: CompareOp, a: Operand, b: Operand) -> Frag {
        let unknown = Frag::truth(None);
        if a.frag == unknown || b.frag == unknown {
            return unknown;
        }
        let (a, b) = self.aligned(a, b);
        let (a, b) = (self.spelled(a), self.spelled(b));
        let text = format!("{} {} {}", a.above(Level::Test), operator(op), b.above(Level::Test));
        Frag::new(text, Level::Test, a.nullable || b.nullable)
    }

    fn is_in(&mut self, x: &Expr, list: &[Expr], scope: &Scope<'_>) -> Frag {
        let x = self.operand(x, scope);
        if let Some(frag) = self.in_constants(&x, list) {
            return frag;
        }
        let equal: Vec<Frag> = list
            .iter()
            .map(|element| {
                let element = self.operand(element, scope);
                self.compared(CompareOp::Eq, x.clone(), element)
            })
            .collect();
        Frag::any(equal)
    }

    /// Constants of one type travel as one list, so that the text does not depend on how many there are.
    fn in_constants(&mut self, x: &Operand, list: &[Expr]) -> Option<Frag> {
        if list.len() < 2 || self.literal.is_some() {
            return None;
        }
        let mut values = Vec::with_capacity(list.len());
        let mut common = None;
        for element in list {
            let Expr::Const(ty, value) = element else { return None };
            if *value == Value::Null || common.is_some_and(|common| common != *ty) {
                return None;
            }
            common = Some(*ty);
            values.push(value.clone());
        }
        let mut ty = SqlType { ty: common?, list: true };
        match (self.sql.dialect(), &x.kind, ty.stored()) {
            (_, _, Scalar::Float | Scalar::Boolean | Scalar::Bytes | Scalar::Json)
            | (Dialect::Sqlite, Kind::Ordered | Kind::Known(_), _) => return None,
            (Dialect::Sqlite, Kind::Scaled { scale, .. }, _) => {
                for value in &mut values {
                    *value = Value::Int(number(value)?.to_scaled(*scale)?);
                }
                ty = SqlType::INT_LIST;
            }
            _ => {}
        }
        let bind = self.sql.placeholder(Slot::Const(Value::List(values)), ty);
        Some(self.in_list(&x.frag, &bind))
    }

    fn in_claim(&mut self, x: &Expr, list: FieldId, scope: &Scope<'_>) -> Frag {
        let Some(field) = auth_field(self.schema, list) else { return Frag::truth(None) };
        let bind = self.sql.placeholder(Slot::Auth(list), SqlType { ty: field.ty, list: true });
        let x = self.operand(x, scope);
        let x = self.spelled(x);
        self.in_list(&x, &bind)
    }

    fn in_list(&mut self, x: &Frag, bind: &str) -> Frag {
        let left = x.above(Level::Test);
        let text = match self.sql.dialect() {
            Dialect::Postgres => format!("{left} = ANY({bind})"),
            Dialect::Sqlite => format!("{left} IN (SELECT value FROM json_each({bind}))"),
        };
        Frag::new(text, Level::Test, x.nullable)
    }

    fn string_test(&mut self, op: StringOp, a: &Expr, b: &Expr, scope: &Scope<'_>) -> Frag {
        if let (StringOp::StartsWith, Expr::Const(_, Value::Text(prefix))) = (op, b) {
            return self.starts_with(a, prefix, scope);
        }
        let (a, b) = (self.operand(a, scope).frag, self.operand(b, scope).frag);
        let (x, y) = (&a.text, &b.text);
        let text = match (self.sql.dialect(), op) {
            (Dialect::Postgres, StringOp::StartsWith) => format!("starts_with({x}, {y})"),
            (Dialect::Postgres, StringOp::EndsWith) => format!("right({x}, length({y})) = {y}"),
            (Dialect::Postgres, StringOp::Contains) => format!("strpos({x}, {y}) > 0"),
            (Dialect::Sqlite, StringOp::StartsWith) => format!("substr({x}, 1, length({y})) = {y}"),
            // A suffix longer than the text gives a start below 1, and then too short a piece: never equal.
            (Dialect::Sqlite, StringOp::EndsWith) => format!("substr({x}, length({x}) - length({y}) + 1) = {y}"),
            (Dialect::Sqlite, StringOp::Contains) => format!("instr({x}, {y}) > 0"),
        };
        Frag::new(text, Level::Test, a.nullable || b.nullable)
    }

    /// A prefix is the range from itself to the next text that does not have it, which an index serves.
    fn starts_with(&mut self, a: &Expr, prefix: &str, scope: &Scope<'_>) -> Frag {
        let a = self.operand(a, scope);
        let bound = |text: String| Expr::Const(SqlType::TEXT.ty, Value::Text(text));
        let lower = self.operand(&bound(prefix.to_owned()), scope);
        let from = self.compared(CompareOp::Ge, a.clone(), lower);
        let Some(next) = successor(prefix) else { return from };
        let upper = self.operand(&bound(next), scope);
        let to = self.compared(CompareOp::Lt, a, upper);
        Frag::all([from, to])
    }

    /// A value. Conditions may stand here too (`active == (owner == "x")`).
    fn operand(&mut self, expr: &Expr, scope: &Scope<'_>) -> Operand {
        match expr {
            Expr::Const(ty, value) => self.constant(*ty, value),
            Expr::Field(path) => {
                let ty = SqlType::of(self.schema.path_field(scope.model, path));
                let frag = self.field(path, scope);
                Operand { frag, kind: self.kind(ty) }
            }
            Expr::Auth(id) => match auth_field(self.schema, *id) {
                Some(field) => self.bound(Slot::Auth(*id), SqlType::of(field)),
                None => Operand { frag: Frag::truth(None), kind: Kind::Other },
            },
            Expr::Now => self.bound(Slot::Now, SqlType::DATE_TIME),
            Expr::Arith(op, a, b) => {
                let (a, b) = (self.operand(a, scope), self.operand(b, scope));
                self.arithmetic(*op, a, b)
            }
            Expr::Neg(x) => {
                let x = self.operand(x, scope);
                self.arithmetic(ArithOp::Sub, Operand::known(Decimal::from(0)), x)
            }
            Expr::Length(x) => {
                let x = self.operand(x, scope).frag;
                let kind = if self.postgres() { Kind::BigInt } else { Kind::Scaled { scale: 0, max: 1 << 31 } };
                Operand { frag: Frag::new(format!("length({})", x.text), Level::Atom, x.nullable), kind }
            }
            _ => Operand { frag: self.condition(expr, scope, Want::Exact), kind: Kind::Other },
        }
    }

    fn postgres(&self) -> bool {
        self.sql.dialect() == Dialect::Postgres
    }

    fn kind(&self, ty: SqlType) -> Kind {
        if ty.list {
            return Kind::Other;
        }
        match (self.sql.dialect(), ty.stored()) {
            (_, Scalar::String | Scalar::Cuid) => Kind::Text,
            (Dialect::Postgres, Scalar::Int | Scalar::BigInt) => Kind::BigInt,
            (Dialect::Postgres, Scalar::Decimal(_)) => Kind::Numeric,
            (Dialect::Sqlite, Scalar::Int | Scalar::BigInt) => Kind::Scaled { scale: 0, max: INT_MAX },
            (Dialect::Sqlite, Scalar::Decimal(Some(p))) if p.precision <= SCALED_DIGITS => {
                Kind::Scaled { scale: p.scale, max: 10_u128.pow(p.precision) }
            }
            (Dialect::Sqlite, Scalar::Decimal(_)) => Kind::Ordered,
            _ => Kind::Other,
        }
    }

    fn bound(&mut self, slot: Slot, ty: SqlType) -> Operand {
        let text = match (&slot, self.literal) {
            (Slot::Const(value), Some(literal)) => literal(value, ty),
            _ => self.sql.placeholder(slot, ty),
        };
        Operand { frag: Frag::new(text, Level::Atom, false), kind: self.kind(ty) }
    }

    fn constant(&mut self, ty: FieldType, value: &Value) -> Operand {
        if *value == Value::Null {
            return Operand { frag: Frag::truth(None), kind: Kind::Other };
        }
        let numeric = matches!(scalar_of(ty), Scalar::Int | Scalar::BigInt | Scalar::Decimal(_));
        match number(value) {
            Some(number) if numeric && !self.postgres() => Operand::known(number),
            _ => self.bound(Slot::Const(value.clone()), SqlType { ty, list: false }),
        }
    }

    /// The final text of an operand.
    fn spelled(&mut self, x: Operand) -> Frag {
        match x.kind {
            Kind::Known(value) => {
                let scale = u32::try_from(value.fraction_digits()).unwrap_or(u32::MAX);
                match value.to_scaled(scale) {
                    Some(unscaled) => self.integer(unscaled),
                    None => self.ordered(&value),
                }
            }
            _ => x.frag,
        }
    }

    fn integer(&mut self, value: i64) -> Frag {
        self.bound(Slot::Const(Value::Int(value)), SqlType::INT).frag
    }

    fn ordered(&mut self, value: &Decimal) -> Frag {
        self.bound(Slot::Const(Value::Text(value.to_string())), SqlType::scalar(Scalar::Decimal(None))).frag
    }

    /// Brings two operands of a comparison or a sum to one representation. Only SQLite has several.
    fn aligned(&mut self, a: Operand, b: Operand) -> (Operand, Operand) {
        if !(a.is_sqlite_number() && b.is_sqlite_number()) {
            return (a, b);
        }
        let scale = a.scale().max(b.scale());
        match (scale.and_then(|scale| self.scaled(&a, scale)), scale.and_then(|scale| self.scaled(&b, scale))) {
            (Some(a), Some(b)) => (a, b),
            _ => (self.as_ordered(a), self.as_ordered(b)),
        }
    }

    /// The operand as an integer at a scale, if 64 bits hold it whatever its value.
    fn scaled(&mut self, x: &Operand, to: u32) -> Option<Operand> {
        match &x.kind {
            Kind::Known(value) => {
                let unscaled = value.to_scaled(to)?;
                let max = u128::from(unscaled.unsigned_abs());
                Some(Operand { frag: self.integer(unscaled), kind: Kind::Scaled { scale: to, max } })
            }
            Kind::Scaled { scale, .. } if *scale == to => Some(x.clone()),
            Kind::Scaled { scale, max } => {
                let factor = 10_u128.checked_pow(to.checked_sub(*scale)?)?;
                let max = max.checked_mul(factor).filter(|max| *max <= SQLITE_MAX)?;
                let text = format!("{} * {factor}", x.frag.above(Level::Arith));
                let frag = Frag::new(text, Level::Arith, x.frag.nullable);
                Some(Operand { frag, kind: Kind::Scaled { scale: to, max } })
            }
            _ => None,
        }
    }

    /// The operand as ordered decimal text.
    fn as_ordered(&mut self, x: Operand) -> Operand {
        let frag = match &x.kind {
            Kind::Known(value) => self.ordered(value),
            Kind::Scaled { scale, .. } => {
                let text = format!("cratestack_decimal({}, {scale})", x.frag.text);
                Frag::new(text, Level::Atom, x.frag.nullable)
            }
            _ => return x,
        };
        Operand { frag, kind: Kind::Ordered }
    }

    fn arithmetic(&mut self, op: ArithOp, a: Operand, b: Operand) -> Operand {
        if self.postgres() {
            let (a, b) = (self.as_numeric(a), self.as_numeric(b));
            let text = format!("{} {} {}", a.above(Level::Arith), arith_operator(op), b.above(Level::Arith));
            return Operand { frag: Frag::new(text, Level::Arith, a.nullable || b.nullable), kind: Kind::Numeric };
        }
        if let (Kind::Known(a), Kind::Known(b)) = (&a.kind, &b.kind) {
            return Operand::known(match op {
                ArithOp::Add => a.add(b),
                ArithOp::Sub => a.sub(b),
                ArithOp::Mul => a.mul(b),
            });
        }
        if let Some(result) = self.integer_arithmetic(op, &a, &b) {
            return result;
        }
        let (a, b) = (self.as_ordered(a), self.as_ordered(b));
        let function = match op {
            ArithOp::Add => "cratestack_add",
            ArithOp::Sub => "cratestack_sub",
            ArithOp::Mul => "cratestack_mul",
        };
        let text = format!("{function}({}, {})", a.frag.text, b.frag.text);
        Operand { frag: Frag::new(text, Level::Atom, a.frag.nullable || b.frag.nullable), kind: Kind::Ordered }
    }

    fn as_numeric(&mut self, x: Operand) -> Frag {
        match x.kind {
            Kind::BigInt => Frag::new(format!("{}::numeric", x.frag.above(Level::Arith)), Level::Atom, x.frag.nullable),
            Kind::Known(value) => self.ordered(&value),
            _ => x.frag,
        }
    }

    /// Arithmetic on SQLite's 64-bit integers, where the types promise that it cannot overflow.
    fn integer_arithmetic(&mut self, op: ArithOp, a: &Operand, b: &Operand) -> Option<Operand> {
        let (a, b) = match op {
            ArithOp::Add | ArithOp::Sub => {
                let scale = a.scale()?.max(b.scale()?);
                (self.scaled(a, scale)?, self.scaled(b, scale)?)
            }
            ArithOp::Mul => (self.scaled(a, a.scale()?)?, self.scaled(b, b.scale()?)?),
        };
        let (Kind::Scaled { scale, max }, Kind::Scaled { scale: other_scale, max: other_max }) = (&a.kind, &b.kind)
        else {
            return None;
        };
        let (scale, max) = match op {
            ArithOp::Add | ArithOp::Sub => (*scale, max.checked_add(*other_max)?),
            ArithOp::Mul => (scale + other_scale, max.checked_mul(*other_max)?),
        };
        if max > SQLITE_MAX {
            return None;
        }
        let text = format!("{} {} {}", a.frag.above(Level::Arith), arith_operator(op), b.frag.above(Level::Arith));
        let frag = Frag::new(text, Level::Arith, a.frag.nullable || b.frag.nullable);
        Some(Operand { frag, kind: Kind::Scaled { scale, max } })
    }
}

impl Operand {
    fn known(value: Decimal) -> Self {
        Self { frag: Frag::new("", Level::Atom, false), kind: Kind::Known(value) }
    }

    fn is_sqlite_number(&self) -> bool {
        matches!(self.kind, Kind::Scaled { .. } | Kind::Ordered | Kind::Known(_))
    }

    /// Digits after the point, where an integer can stand for the value.
    fn scale(&self) -> Option<u32> {
        match &self.kind {
            Kind::Scaled { scale, .. } => Some(*scale),
            Kind::Known(value) => u32::try_from(value.fraction_digits()).ok(),
            _ => None,
        }
    }
}

/// That a field has another value than before, nulls counted as values. PostgreSQL takes the `Json` `1` and `1.0` for
/// equal, and answers each as it was sent.
pub fn differ(dialect: Dialect, field: &Field, old: &str, new: &str) -> Frag {
    let cast = match (dialect, field.scalar()) {
        (Dialect::Postgres, Some(Scalar::Json)) => "::text",
        _ => "",
    };
    Frag::new(format!("{old}{cast} IS DISTINCT FROM {new}{cast}"), Level::Test, false)
}

/// That a row is no tombstone.
pub fn live(model: &cratestack_schema::ir::Model, alias: &str) -> Frag {
    match model.soft_delete {
        Some(field) => Frag::new(format!("{} IS NULL", column(alias, &model.field(field).column)), Level::Test, false),
        None => Frag::truth(Some(true)),
    }
}

/// The pairs (own field, field of the target) that a relation joins by.
pub fn join_columns(schema: &Schema, model: ModelId, relation: &Relation) -> Vec<(FieldId, FieldId)> {
    match &relation.kind {
        RelationKind::Owning { fields, references, .. } => {
            fields.iter().copied().zip(references.iter().copied()).collect()
        }
        RelationKind::One | RelationKind::Many => {
            let target = schema.model(relation.target);
            let owner = relation.inverse.map(|inverse| target.relation(inverse)).or_else(|| {
                target
                    .relations
                    .iter()
                    .find(|other| other.target == model && matches!(other.kind, RelationKind::Owning { .. }))
            });
            match owner.map(|owner| &owner.kind) {
                Some(RelationKind::Owning { fields, references, .. }) => {
                    references.iter().copied().zip(fields.iter().copied()).collect()
                }
                _ => Vec::new(),
            }
        }
    }
}

/// Gives an SQLite connection the decimal functions that conditions beyond 64 bits call: `cratestack_decimal(n, scale)`
/// and `cratestack_add`, `_sub`, `_mul` over ordered decimal text. Each is null if an operand is.
pub fn register_functions(connection: &rusqlite::Connection) -> rusqlite::Result<()> {
    use rusqlite::functions::FunctionFlags;
    type Operation = fn(&Decimal, &Decimal) -> Decimal;
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC | FunctionFlags::SQLITE_INNOCUOUS;
    connection.create_scalar_function("cratestack_decimal", 2, flags, |context| {
        let (value, scale): (Option<i64>, u32) = (context.get(0)?, context.get(1)?);
        if scale as usize > MAX_DIGITS {
            return Err(function_error("the scale of a decimal is too large"));
        }
        value.map(|value| to_ordered(&Decimal::from_scaled(value, scale))).transpose()
    })?;
    let operations: [(&str, Operation); 3] =
        [("cratestack_add", Decimal::add), ("cratestack_sub", Decimal::sub), ("cratestack_mul", Decimal::mul)];
    for (name, operation) in operations {
        connection.create_scalar_function(name, 2, flags, move |context| {
            let (a, b): (Option<String>, Option<String>) = (context.get(0)?, context.get(1)?);
            let (Some(a), Some(b)) = (a, b) else { return Ok(None) };
            to_ordered(&operation(&from_ordered(&a)?, &from_ordered(&b)?)).map(Some)
        })?;
    }
    Ok(())
}

fn to_ordered(value: &Decimal) -> rusqlite::Result<String> {
    storage::sortable(&value.to_string()).ok_or_else(|| function_error("a decimal of a condition has too many digits"))
}

fn from_ordered(text: &str) -> rusqlite::Result<Decimal> {
    let plain = storage::unsortable(text).and_then(|plain| Decimal::of_any_length(&plain).ok());
    plain.ok_or_else(|| function_error("a decimal of the database does not have its stored form"))
}

fn function_error(text: &str) -> rusqlite::Error {
    rusqlite::Error::UserFunctionError(text.into())
}

/// The numeric value of a constant.
fn number(value: &Value) -> Option<Decimal> {
    match value {
        Value::Int(int) => Some(Decimal::from(*int)),
        Value::Text(text) => text.parse().ok(),
        _ => None,
    }
}

/// The least text that is greater than every text with this prefix, by code point. None for a prefix of
/// nothing but U+10FFFF, and for the empty one.
pub(crate) fn successor(prefix: &str) -> Option<String> {
    let mut chars: Vec<char> = prefix.chars().collect();
    while let Some(last) = chars.pop() {
        let next = match last {
            // The code points in between are no characters.
            '\u{D7FF}' => Some('\u{E000}'),
            last => char::from_u32(u32::from(last) + 1),
        };
        if let Some(next) = next {
            chars.push(next);
            return Some(chars.into_iter().collect());
        }
    }
    None
}

fn operator(op: CompareOp) -> &'static str {
    match op {
        CompareOp::Eq => "=",
        CompareOp::Ne => "<>",
        CompareOp::Lt => "<",
        CompareOp::Le => "<=",
        CompareOp::Gt => ">",
        CompareOp::Ge => ">=",
    }
}

/// `NOT (a < b)` is `a >= b`, in three values too.
fn opposite(op: CompareOp) -> CompareOp {
    match op {
        CompareOp::Eq => CompareOp::Ne,
        CompareOp::Ne => CompareOp::Eq,
        CompareOp::Lt => CompareOp::Ge,
        CompareOp::Le => CompareOp::Gt,
        CompareOp::Gt => CompareOp::Le,
        CompareOp::Ge => CompareOp::Lt,
    }
}

fn arith_operator(op: ArithOp) -> char {
    match op {
        ArithOp::Add => '+',
        ArithOp::Sub => '-',
        ArithOp::Mul => '*',
    }
}

#[cfg(test)]
mod tests;
