//! Conditions on both databases against a naive evaluator.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    clippy::single_match_else,
    reason = "tests"
)]

use std::cmp::Ordering;
use std::sync::Arc;

use cratestack_schema::ir::{Auth, Effect, Model, Precision, ReferentialAction, Rule};
use sqlx::{AssertSqlSafe, Executor as _, Row as _};

use super::*;
use crate::api::Principal;
use crate::policy::{Policies, Truth};
use crate::sql::Bind;
use crate::storage::{Codec, add_argument};
use crate::testing::PgDatabase;

const NOW: &str = "2026-01-31T10:00:00.000000Z";

fn field(name: &str, scalar: Scalar, optional: bool) -> Field {
    Field { optional, id: name == "id", ..Field::new(name, name, FieldType::Scalar(scalar)) }
}

fn model(name: &str, fields: Vec<Field>, relations: Vec<Relation>, rules: Vec<Rule>) -> Model {
    let soft_delete = fields.iter().position(|field| field.name == "deletedAt").map(|at| FieldId(at as u32));
    Model { fields, relations, key: vec![FieldId(0)], rules, soft_delete, ..Model::new(name, name, name) }
}

const PARENT: ModelId = ModelId(0);
const KID: ModelId = ModelId(1);
const ROLES: FieldId = FieldId(2);

fn decimal_type(precision: u32, scale: u32) -> Scalar {
    Scalar::Decimal(Some(Precision { precision, scale }))
}

fn own(field: u32) -> Expr {
    Expr::Field(FieldPath { side: Side::Row, hops: Vec::new(), field: FieldId(field) })
}

fn text(value: &str) -> Expr {
    Expr::Const(SqlType::TEXT.ty, Value::Text(value.to_owned()))
}

fn compare(op: CompareOp, a: Expr, b: Expr) -> Expr {
    Expr::Compare(op, Box::new(a), Box::new(b))
}

/// Parent(id, name, amount, big, deletedAt, kids) and Kid(id, parentId, n, price, s, b, at, f, u, parent).
fn schema() -> Arc<Schema> {
    let read = vec![Action::List, Action::Detail];
    let parent = model(
        "parent",
        vec![
            field("id", Scalar::Int, false),
            field("name", Scalar::String, true),
            field("amount", decimal_type(18, 4), true),
            field("big", Scalar::Decimal(None), true),
            field("deletedAt", Scalar::DateTime, true),
        ],
        vec![Relation {
            name: "kids".to_owned(),
            doc: None,
            target: KID,
            inverse: Some(RelationId(0)),
            kind: RelationKind::Many,
        }],
        vec![
            Rule {
                effect: Effect::Allow,
                actions: read.clone(),
                expr: Expr::Or(vec![
                    compare(CompareOp::Ne, own(1), text("a")),
                    compare(CompareOp::Eq, Expr::Auth(FieldId(0)), text("admin")),
                ]),
            },
            Rule {
                effect: Effect::Deny,
                actions: vec![Action::Detail],
                expr: compare(CompareOp::Eq, own(1), Expr::Auth(FieldId(1))),
            },
        ],
    );
    let kid = model(
        "kid",
        vec![
            field("id", Scalar::Int, false),
            field("parentId", Scalar::Int, true),
            field("n", Scalar::Int, true),
            field("price", decimal_type(6, 2), true),
            field("s", Scalar::String, true),
            field("b", Scalar::Boolean, true),
            field("at", Scalar::DateTime, true),
            field("f", Scalar::Float, true),
            field("u", Scalar::Uuid, true),
        ],
        vec![Relation {
            name: "parent".to_owned(),
            doc: None,
            target: PARENT,
            inverse: Some(RelationId(0)),
            kind: RelationKind::Owning {
                fields: vec![FieldId(1)],
                references: vec![FieldId(0)],
                on_delete: ReferentialAction::NoAction,
                on_update: ReferentialAction::NoAction,
                constraint: "kid_parent".to_owned(),
                optional: true,
            },
        }],
        vec![Rule { effect: Effect::Allow, actions: read, expr: Expr::IsNull(Box::new(own(7))) }],
    );
    let mut roles = field("roles", Scalar::String, false);
    roles.list = true;
    Arc::new(Schema {
        auth: Some(Auth {
            name: "Principal".to_owned(),
            fields: vec![
                field("role", Scalar::String, false),
                field("tenant", Scalar::String, true),
                roles,
                field("ceiling", decimal_type(10, 3), true),
                field("on", Scalar::Boolean, true),
            ],
            subject: None,
            tenant: None,
        }),
        models: vec![parent, kid],
        ..Schema::new("test")
    })
}

/// A small generator (xorshift), so that a failing case is named by its seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 8) % sides
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.roll(from.len() as u64) as usize].clone()
    }
}

const TEXTS: [&str; 9] = ["", "a", "ab", "abc", "B", "é", "ab\u{10FFFF}", "z'\"%_", "\u{D7FF}x"];
// Beside ordinary numbers the last ones that 64 bits hold, as they are and brought to four digits after the point, and
// the first ones that they do not.
const AMOUNTS: [&str; 7] = ["0", "-1.5", "2.25", "99999999999999.9999", "-99999999999999.9999", "-0.0001", "7"];
const BIGS: [&str; 10] = [
    "0",
    "123456789012345678901234567890.5",
    "-3",
    "0.00000000000000000000001",
    "2.25",
    "-99999999999999999999",
    "922337203685477.5807",
    "922337203685477.5808",
    "9223372036854775807",
    "-9223372036854775808",
];
const PRICES: [&str; 5] = ["0", "2.25", "-9999.99", "7", "0.01"];
const INTS: [i64; 10] = [
    0,
    1,
    -1,
    7,
    9_007_199_254_740_991,
    -9_007_199_254_740_991,
    922_337_203_685_477,
    -922_337_203_685_478,
    i64::MAX,
    i64::MIN,
];
const TIMES: [&str; 3] = ["2026-01-31T10:00:00.000000Z", "2025-12-31T23:59:59.999999Z", "0001-01-01T00:00:00.000000Z"];
const FLOATS: [f64; 4] = [0.0, 1.5, -2.75e300, 0.1];
const UUIDS: [&str; 2] = ["0198c0de-0000-7000-8000-000000000001", "ffffffff-0000-7000-8000-000000000002"];

fn sample(dice: &mut Dice, scalar: Scalar) -> Value {
    match scalar {
        Scalar::Int | Scalar::BigInt => Value::Int(dice.pick(&INTS)),
        Scalar::Float => Value::Float(dice.pick(&FLOATS)),
        Scalar::Boolean => Value::Bool(dice.roll(2) == 0),
        Scalar::Decimal(Some(Precision { precision: 18, .. })) => Value::Text(dice.pick(&AMOUNTS).to_owned()),
        Scalar::Decimal(Some(_)) => Value::Text(dice.pick(&PRICES).to_owned()),
        Scalar::Decimal(None) => Value::Text(dice.pick(&BIGS).to_owned()),
        Scalar::DateTime => Value::Text(dice.pick(&TIMES).to_owned()),
        Scalar::Uuid => Value::Text(dice.pick(&UUIDS).to_owned()),
        _ => Value::Text(dice.pick(&TEXTS).to_owned()),
    }
}

/// Rows per model: one value per field.
type Tables = Vec<Vec<Vec<Value>>>;

fn tables(schema: &Schema, dice: &mut Dice) -> Tables {
    let mut tables: Tables = Vec::new();
    for (id, model) in schema.models() {
        let count = if id == PARENT { 5 } else { 9 };
        let rows = (0..count)
            .map(|row| {
                let cell = |(at, field): (usize, &Field)| match (at, field.name.as_str()) {
                    (0, _) => Value::Int(row),
                    _ if dice.roll(3) == 0 => Value::Null,
                    (_, "parentId") => Value::Int(dice.roll(5) as i64),
                    (_, "deletedAt") if dice.roll(2) == 0 => Value::Null,
                    _ => sample(dice, field.scalar().unwrap()),
                };
                model.fields.iter().enumerate().map(cell).collect()
            })
            .collect();
        tables.push(rows);
    }
    tables
}

// Random conditions.

struct Generator<'d> {
    dice: &'d mut Dice,
    /// Whether `old.`, `new.` and `changed(..)` may stand here.
    sides: bool,
}

impl Generator<'_> {
    fn side(&mut self) -> Side {
        if self.sides { self.dice.pick(&[Side::Row, Side::Row, Side::Old, Side::New]) } else { Side::Row }
    }

    fn condition(&mut self, model: ModelId, depth: u64) -> Expr {
        if self.sides && self.dice.roll(8) == 0 {
            return Expr::Changed(FieldId(self.dice.roll(if model == KID { 9 } else { 5 }) as u32));
        }
        let leaf = depth == 0;
        match self.dice.roll(if leaf { 9 } else { 15 }) {
            3 => Expr::IsNull(Box::new(self.any_value(model).0)),
            4 => self.membership(model),
            5 => self.string_test(model),
            6 => match self.dice.roll(6) {
                0 => Expr::Anonymous,
                1 => Expr::HasRole(Box::new(self.text(model))),
                2 => Expr::InAuth(Box::new(self.text(model)), ROLES),
                3 => Expr::Auth(FieldId(4)),
                4 => boolean(Value::Bool(self.dice.roll(2) == 0)),
                _ => compare(CompareOp::Eq, Expr::Auth(FieldId(0)), text("admin")),
            },
            7 if model == KID => own(5),
            0..=2 | 7 | 8 => self.comparison(model),
            9 => Expr::Not(Box::new(self.condition(model, depth - 1))),
            10 | 11 => Expr::And((0..2 + self.dice.roll(2)).map(|_| self.condition(model, depth - 1)).collect()),
            12 => Expr::Or((0..2 + self.dice.roll(2)).map(|_| self.condition(model, depth - 1)).collect()),
            13 if self.dice.roll(4) == 0 => {
                let (a, b) = (self.condition(model, depth - 1), self.condition(model, depth - 1));
                compare(if self.dice.roll(2) == 0 { CompareOp::Eq } else { CompareOp::Ne }, a, b)
            }
            _ => {
                let side = self.side();
                let outer = std::mem::take(&mut self.sides);
                let body = Box::new(self.condition(KID, depth - 1));
                self.sides = outer;
                Expr::Quantified {
                    hops: if model == KID { vec![RelationId(0)] } else { Vec::new() },
                    side,
                    relation: RelationId(0),
                    quantifier: self.dice.pick(&[Quantifier::Some, Quantifier::Every, Quantifier::None]),
                    body,
                }
            }
        }
    }

    fn op(&mut self) -> CompareOp {
        use CompareOp::{Eq, Ge, Gt, Le, Lt, Ne};
        self.dice.pick(&[Eq, Ne, Lt, Le, Gt, Ge])
    }

    fn comparison(&mut self, model: ModelId) -> Expr {
        let op = self.op();
        if self.dice.roll(2) == 0 {
            return compare(op, self.number(model, 2), self.number(model, 2));
        }
        let (value, scalar) = self.any_value(model);
        if numeric(scalar) {
            return compare(op, value, self.number(model, 1));
        }
        let other = match self.dice.roll(3) {
            0 if scalar == Scalar::String => self.text(model),
            0 if scalar == Scalar::DateTime => Expr::Now,
            _ => Expr::Const(FieldType::Scalar(scalar), sample(self.dice, scalar)),
        };
        let op = if scalar == Scalar::Boolean { CompareOp::Ne } else { op };
        compare(op, value, other)
    }

    fn membership(&mut self, model: ModelId) -> Expr {
        let (value, scalar) = self.any_value(model);
        let list = (0..self.dice.roll(4)).map(|at| match at {
            2 if numeric(scalar) => {
                Expr::Const(FieldType::Scalar(Scalar::Decimal(None)), Value::Text("2.2501".to_owned()))
            }
            2 if scalar == Scalar::String => Expr::Auth(FieldId(1)),
            _ => Expr::Const(FieldType::Scalar(scalar), sample(self.dice, scalar)),
        });
        let list = list.collect();
        Expr::In(Box::new(value), list)
    }

    fn string_test(&mut self, model: ModelId) -> Expr {
        let op = self.dice.pick(&[StringOp::StartsWith, StringOp::EndsWith, StringOp::Contains]);
        Expr::StringTest(op, Box::new(self.text(model)), Box::new(self.text(model)))
    }

    fn path(&mut self, model: ModelId) -> (Expr, Scalar) {
        let schema = schema();
        let (hops, target) =
            if model == KID && self.dice.roll(3) == 0 { (vec![RelationId(0)], PARENT) } else { (Vec::new(), model) };
        let fields = &schema.model(target).fields;
        let at = self.dice.roll(fields.len() as u64) as usize;
        let path = FieldPath { side: self.side(), hops, field: FieldId(at as u32) };
        (Expr::Field(path), fields[at].scalar().unwrap())
    }

    fn any_value(&mut self, model: ModelId) -> (Expr, Scalar) {
        match self.dice.roll(8) {
            0 => (Expr::Auth(FieldId(1)), Scalar::String),
            1 => (self.number(model, 1), Scalar::Decimal(None)),
            _ => self.path(model),
        }
    }

    fn text(&mut self, model: ModelId) -> Expr {
        match self.dice.roll(4) {
            0 => Expr::Auth(FieldId(self.dice.roll(2) as u32)),
            1 => Expr::Const(SqlType::TEXT.ty, sample(self.dice, Scalar::String)),
            _ if model == KID => own(4),
            _ => own(1),
        }
    }

    fn number(&mut self, model: ModelId, depth: u64) -> Expr {
        match self.dice.roll(if depth == 0 { 4 } else { 8 }) {
            0 => {
                let scalar =
                    self.dice.pick(&[Scalar::Int, decimal_type(18, 4), Scalar::Decimal(None), decimal_type(6, 2)]);
                Expr::Const(FieldType::Scalar(scalar), sample(self.dice, scalar))
            }
            1 if self.dice.roll(3) == 0 => Expr::Auth(FieldId(3)),
            1..=3 => loop {
                let (path, scalar) = self.path(model);
                if numeric(scalar) {
                    break path;
                }
            },
            4 => Expr::Neg(Box::new(self.number(model, depth - 1))),
            5 => Expr::Length(Box::new(self.text(model))),
            _ => {
                let op = self.dice.pick(&[ArithOp::Add, ArithOp::Sub, ArithOp::Mul]);
                Expr::Arith(op, Box::new(self.number(model, depth - 1)), Box::new(self.number(model, depth - 1)))
            }
        }
    }
}

fn numeric(scalar: Scalar) -> bool {
    matches!(scalar, Scalar::Int | Scalar::Decimal(_))
}

// The naive evaluator.

#[derive(Debug, Clone, PartialEq)]
enum Plain {
    Null,
    Bool(bool),
    Number(Decimal),
    Float(f64),
    Text(String),
}

struct Oracle<'t> {
    schema: &'t Schema,
    tables: &'t Tables,
    principal: Option<&'t Principal>,
    /// Whether hops see only what the caller may read.
    request: bool,
    /// The old and the new row of an update rule.
    sides: Option<[&'t [Value]; 2]>,
}

fn plain(value: &Value, ty: FieldType) -> Plain {
    match value {
        Value::Bool(known) => Plain::Bool(*known),
        Value::Int(int) => Plain::Number(Decimal::from(*int)),
        Value::Float(float) => Plain::Float(*float),
        Value::Text(text) if matches!(ty, FieldType::Scalar(Scalar::Decimal(_))) => {
            Plain::Number(text.parse().unwrap())
        }
        Value::Text(text) => Plain::Text(text.clone()),
        _ => Plain::Null,
    }
}

fn from_truth(truth: Truth) -> Plain {
    truth.map_or(Plain::Null, Plain::Bool)
}

impl Oracle<'_> {
    fn claim(&self, id: FieldId) -> Plain {
        let ty = self.schema.auth.as_ref().unwrap().fields[id.index()].ty;
        self.principal.map_or(Plain::Null, |principal| plain(&principal.claims[id.index()], ty))
    }

    fn list(&self, id: FieldId) -> Option<Vec<Plain>> {
        match &self.principal?.claims[id.index()] {
            Value::List(list) => Some(list.iter().map(|value| plain(value, SqlType::TEXT.ty)).collect()),
            _ => None,
        }
    }

    fn visible(&self, model: ModelId, row: &[Value], action: Action) -> bool {
        let declared = self.schema.model(model);
        if declared.soft_delete.is_some_and(|field| row[field.index()] != Value::Null) {
            return false;
        }
        if !self.request {
            return true;
        }
        let inner = Oracle { request: false, sides: None, ..*self };
        let rules = || declared.rules.iter().filter(|rule| rule.actions.contains(&action));
        rules().any(|rule| rule.effect == Effect::Allow && inner.truth(&rule.expr, model, row) == Some(true))
            && rules().all(|rule| rule.effect == Effect::Allow || inner.truth(&rule.expr, model, row) == Some(false))
    }

    fn related(&self, model: ModelId, row: &[Value], relation: RelationId, action: Action) -> Vec<&Vec<Value>> {
        let relation = self.schema.model(model).relation(relation);
        let pairs = join_columns(self.schema, model, relation);
        self.tables[relation.target.index()]
            .iter()
            .filter(|other| {
                pairs
                    .iter()
                    .all(|(own, theirs)| row[own.index()] != Value::Null && row[own.index()] == other[theirs.index()])
                    && self.visible(relation.target, other, action)
            })
            .collect()
    }

    fn truth(&self, expr: &Expr, model: ModelId, row: &[Value]) -> Truth {
        match self.value(expr, model, row) {
            Plain::Bool(known) => Some(known),
            _ => None,
        }
    }

    fn value(&self, expr: &Expr, model: ModelId, row: &[Value]) -> Plain {
        // A bare field reads the row in scope; inside of a quantifier that is another one.
        let row_of = |side: Side| match (side, self.sides) {
            (Side::Old, Some([old, _])) => old,
            (Side::New, Some([_, new])) => new,
            _ => row,
        };
        let value = |expr: &Expr| self.value(expr, model, row);
        let truth = |expr: &Expr| self.truth(expr, model, row);
        match expr {
            Expr::Const(ty, constant) => plain(constant, *ty),
            Expr::Field(path) => match path.hops.split_first() {
                None => {
                    let row = row_of(path.side);
                    plain(&row[path.field.index()], self.schema.model(model).field(path.field).ty)
                }
                Some((hop, rest)) => match self.related(model, row_of(path.side), *hop, Action::Detail).first() {
                    None => Plain::Null,
                    Some(other) => {
                        let path = FieldPath { side: Side::Row, hops: rest.to_vec(), field: path.field };
                        self.value(&Expr::Field(path), self.schema.model(model).relation(*hop).target, other)
                    }
                },
            },
            Expr::Auth(id) => self.claim(*id),
            Expr::Anonymous => Plain::Bool(self.principal.is_none()),
            Expr::Now => Plain::Text(NOW.to_owned()),
            Expr::Not(x) => from_truth(truth(x).map(|known| !known)),
            Expr::And(list) => {
                let opposite = |x: &Expr| truth(x).map(|known| !known);
                from_truth(any(list.iter().map(opposite)).map(|known| !known))
            }
            Expr::Or(list) => from_truth(any(list.iter().map(truth))),
            Expr::Compare(op, a, b) => from_truth(order(&value(a), &value(b)).map(|order| match op {
                CompareOp::Eq => order.is_eq(),
                CompareOp::Ne => order.is_ne(),
                CompareOp::Lt => order.is_lt(),
                CompareOp::Le => order.is_le(),
                CompareOp::Gt => order.is_gt(),
                CompareOp::Ge => order.is_ge(),
            })),
            Expr::IsNull(x) => Plain::Bool(value(x) == Plain::Null),
            Expr::In(x, list) => {
                let x = value(x);
                from_truth(any(list.iter().map(|y| order(&x, &value(y)).map(Ordering::is_eq))))
            }
            Expr::InAuth(x, id) => match self.list(*id) {
                None => Plain::Null,
                Some(list) => {
                    let x = value(x);
                    from_truth(any(list.iter().map(|y| order(&x, y).map(Ordering::is_eq))))
                }
            },
            Expr::HasRole(x) => match self.list(ROLES) {
                None => Plain::Bool(false),
                Some(list) => {
                    let x = value(x);
                    from_truth(any(list.iter().map(|y| order(&x, y).map(Ordering::is_eq))))
                }
            },
            Expr::Arith(op, a, b) => match (value(a), value(b)) {
                (Plain::Number(a), Plain::Number(b)) => Plain::Number(match op {
                    ArithOp::Add => a.add(&b),
                    ArithOp::Sub => a.sub(&b),
                    ArithOp::Mul => a.mul(&b),
                }),
                _ => Plain::Null,
            },
            Expr::Neg(x) => match value(x) {
                Plain::Number(x) => Plain::Number(x.neg()),
                _ => Plain::Null,
            },
            Expr::Length(x) => match value(x) {
                Plain::Text(x) => Plain::Number(Decimal::from(x.chars().count() as i64)),
                _ => Plain::Null,
            },
            Expr::StringTest(op, a, b) => match (value(a), value(b)) {
                (Plain::Text(a), Plain::Text(b)) => Plain::Bool(match op {
                    StringOp::StartsWith => a.starts_with(&b),
                    StringOp::EndsWith => a.ends_with(&b),
                    StringOp::Contains => a.contains(&b),
                }),
                _ => Plain::Null,
            },
            Expr::Quantified { hops, side, relation, quantifier, body } => match hops.split_first() {
                Some((hop, rest)) => match self.related(model, row_of(*side), *hop, Action::Detail).first() {
                    None => Plain::Null,
                    Some(other) => {
                        let inner = Expr::Quantified {
                            hops: rest.to_vec(),
                            side: Side::Row,
                            relation: *relation,
                            quantifier: *quantifier,
                            body: body.clone(),
                        };
                        self.value(&inner, self.schema.model(model).relation(*hop).target, other)
                    }
                },
                None => {
                    let target = self.schema.model(model).relation(*relation).target;
                    let rows = self.related(model, row_of(*side), *relation, Action::List);
                    let some = |negate: bool| {
                        any(rows.iter().map(|row| self.truth(body, target, row).map(|known| known != negate)))
                    };
                    from_truth(match quantifier {
                        Quantifier::Some => some(false),
                        Quantifier::None => some(false).map(|known| !known),
                        Quantifier::Every => some(true).map(|known| !known),
                    })
                }
            },
            Expr::Changed(id) => {
                let ty = self.schema.model(model).field(*id).ty;
                let [old, new] = [Side::Old, Side::New].map(|side| plain(&row_of(side)[id.index()], ty));
                Plain::Bool(old != new)
            }
        }
    }
}

fn any(values: impl Iterator<Item = Truth>) -> Truth {
    let values: Vec<Truth> = values.collect();
    if values.contains(&Some(true)) {
        Some(true)
    } else if values.contains(&None) {
        None
    } else {
        Some(false)
    }
}

fn order(a: &Plain, b: &Plain) -> Option<Ordering> {
    match (a, b) {
        (Plain::Bool(a), Plain::Bool(b)) => Some(a.cmp(b)),
        (Plain::Number(a), Plain::Number(b)) => Some(a.cmp(b)),
        (Plain::Float(a), Plain::Float(b)) => a.partial_cmp(b),
        (Plain::Text(a), Plain::Text(b)) => Some(a.cmp(b)),
        (Plain::Null, _) | (_, Plain::Null) => None,
        _ => panic!("{a:?} against {b:?}"),
    }
}

// Running.

struct Case {
    expr: Expr,
    model: ModelId,
    want: Want,
    request: bool,
    principal: Option<Principal>,
}

fn dice(seed: u64) -> Dice {
    Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
}

fn principal(dice: &mut Dice) -> Option<Principal> {
    let list = (0..dice.roll(3)).map(|_| sample(dice, Scalar::String)).collect();
    (dice.roll(5) > 0).then(|| Principal {
        claims: vec![
            Value::Text(dice.pick(&["admin", "a", "clerk"]).to_owned()),
            if dice.roll(3) == 0 { Value::Null } else { sample(dice, Scalar::String) },
            Value::List(list),
            if dice.roll(3) == 0 { Value::Null } else { Value::Text(dice.pick(&["2.25", "-1.125"]).to_owned()) },
            dice.pick(&[Value::Null, Value::Bool(true), Value::Bool(false)]),
        ],
    })
}

fn case(seed: u64) -> (Case, Tables) {
    let mut dice = dice(seed);
    let tables = tables(&schema(), &mut dice);
    let model = dice.pick(&[PARENT, KID]);
    let principal = principal(&mut dice);
    let depth = dice.roll(4);
    let expr = Generator { dice: &mut dice, sides: false }.condition(model, depth);
    let want = dice.pick(&[Want::True, Want::False, Want::Exact]);
    (Case { expr, model, want, request: dice.roll(2) == 0, principal }, tables)
}

impl Case {
    /// `SELECT id, condition FROM model`, as text and binds.
    fn statement(&self, schema: &Arc<Schema>, dialect: Dialect) -> (String, Vec<Bind>) {
        let policies = Policies::new(schema);
        let view = policies.view(self.principal.as_ref(), NOW);
        let folded = view.fold(&self.expr, self.want, None);
        let mut sql = Sql::new(dialect);
        let mut predicates = if self.request {
            Predicates::of_request(&view, &mut sql)
        } else {
            Predicates::of_schema(schema, &mut sql)
        };
        let condition = predicates.condition(&folded, &Scope::of(self.model, Row::stored("t")), self.want).into_text();
        let table = ident(&schema.model(self.model).table);
        let condition = if dialect == Dialect::Sqlite { condition } else { format!("({condition})::boolean") };
        sql.push(&format!("SELECT t.id, {condition} FROM {table} AS t ORDER BY t.id"));
        let (text, slots) = sql.finish();
        let binds = slots.iter().map(|spec| {
            let value = slot_value(&spec.slot, self.principal.as_ref(), &BTreeMap::new());
            assert_ne!(value, Value::Null, "a null reached the statement");
            Codec { schema, dialect, ty: spec.ty }.bind(&value).unwrap()
        });
        (text.to_string(), binds.collect())
    }

    fn check(&self, tables: &Tables, got: &[Truth], what: &str) {
        let schema = schema();
        let oracle =
            Oracle { schema: &schema, tables, principal: self.principal.as_ref(), request: self.request, sides: None };
        let rows = &tables[self.model.index()];
        assert_eq!(rows.len(), got.len());
        for (row, got) in rows.iter().zip(got) {
            let expected = oracle.truth(&self.expr, self.model, row);
            let equal = match self.want {
                Want::Exact => expected == *got,
                Want::True => (expected == Some(true)) == (*got == Some(true)),
                Want::False => (expected == Some(false)) == (*got == Some(false)),
            };
            assert!(
                equal,
                "{what}\nexpected {expected:?}, got {got:?}, {:?}\nrow {row:?}\n{:#?}",
                self.want, self.expr
            );
        }
    }
}

fn ddl(schema: &Schema, dialect: Dialect) -> Vec<String> {
    let table = |model: &Model| {
        let columns: Vec<String> = model
            .fields
            .iter()
            .map(|field| {
                let codec = Codec { schema, dialect, ty: SqlType::of(field) };
                format!("{} {}", ident(&field.column), codec.column_type())
            })
            .collect();
        format!("CREATE TABLE {} ({})", ident(&model.table), columns.join(", "))
    };
    schema.models.iter().map(table).collect()
}

/// One INSERT per row.
fn inserts(schema: &Schema, tables: &Tables, dialect: Dialect) -> Vec<(String, Vec<Bind>)> {
    let mut statements = Vec::new();
    for (model, rows) in schema.models.iter().zip(tables) {
        for row in rows {
            let mut sql = Sql::new(dialect);
            let places: Vec<String> = (0..)
                .zip(&model.fields)
                .map(|(at, field)| sql.placeholder(Slot::Field(FieldId(at)), SqlType::of(field)))
                .collect();
            let binds = row
                .iter()
                .zip(&model.fields)
                .map(|(value, field)| Codec { schema, dialect, ty: SqlType::of(field) }.bind(value).unwrap());
            statements
                .push((format!("INSERT INTO {} VALUES ({})", ident(&model.table), places.join(", ")), binds.collect()));
        }
    }
    statements
}

fn slot_value(slot: &Slot, principal: Option<&Principal>, fields: &BTreeMap<FieldId, Value>) -> Value {
    match slot {
        Slot::Const(value) => value.clone(),
        Slot::Auth(id) => principal.unwrap().claims[id.index()].clone(),
        Slot::Now => Value::Text(NOW.to_owned()),
        Slot::Field(id) => fields[id].clone(),
        other => panic!("{other:?}"),
    }
}

/// The memory database with these rows.
fn sqlite(schema: &Schema, tables: &Tables) -> rusqlite::Connection {
    let connection = rusqlite::Connection::open_in_memory().unwrap();
    register_functions(&connection).unwrap();
    for text in ddl(schema, Dialect::Sqlite) {
        connection.execute_batch(&text).unwrap();
    }
    for (text, binds) in inserts(schema, tables, Dialect::Sqlite) {
        connection.prepare_cached(&text).unwrap().execute(rusqlite::params_from_iter(binds)).unwrap();
    }
    connection
}

const ROUNDS: u64 = 500;

#[test]
fn sqlite_agrees_with_the_naive_evaluator() {
    let schema = schema();
    for seed in 1..=ROUNDS * 4 {
        let (case, tables) = case(seed);
        let connection = sqlite(&schema, &tables);
        let (text, binds) = case.statement(&schema, Dialect::Sqlite);
        let what = format!("seed {seed}: {text}\n{binds:?}");
        let mut statement = connection.prepare(&text).unwrap_or_else(|error| panic!("{error}: {what}"));
        let got: Vec<Truth> = statement
            .query_map(rusqlite::params_from_iter(binds), |row| row.get::<_, Option<bool>>(1))
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap_or_else(|error| panic!("{error}: {what}"));
        case.check(&tables, &got, &what);
    }
}

#[tokio::test]
async fn postgres_agrees_with_the_naive_evaluator() {
    let Some(database) = PgDatabase::new().await else { return };
    let mut connection = database.connect().await;
    let schema = schema();
    for text in ddl(&schema, Dialect::Postgres) {
        connection.execute(AssertSqlSafe(text)).await.unwrap();
    }
    for seed in 1..=ROUNDS {
        let (case, tables) = case(seed);
        connection.execute("TRUNCATE parent, kid").await.unwrap();
        connection.execute("BEGIN").await.unwrap();
        for (text, binds) in inserts(&schema, &tables, Dialect::Postgres) {
            run(&mut connection, text, &binds).await.unwrap();
        }
        let (text, binds) = case.statement(&schema, Dialect::Postgres);
        let what = format!("seed {seed}: {text}\n{binds:?}");
        let rows = run(&mut connection, text, &binds).await.unwrap_or_else(|error| panic!("{error}: {what}"));
        let got: Vec<Truth> = rows.iter().map(|row| row.get(1)).collect();
        case.check(&tables, &got, &what);
        connection.execute("ROLLBACK").await.unwrap();
    }
}

async fn run(
    connection: &mut sqlx::PgConnection,
    text: String,
    binds: &[Bind],
) -> Result<Vec<sqlx::postgres::PgRow>, sqlx::Error> {
    let mut arguments = sqlx::postgres::PgArguments::default();
    for bind in binds {
        add_argument(bind, &mut arguments).unwrap();
    }
    sqlx::query_with(AssertSqlSafe(text), arguments).fetch_all(connection).await
}

/// One allow holds for the old and the new row, no deny for either; and what is not patched does not change.
#[test]
fn update_rules_agree_with_the_naive_evaluator() {
    for seed in 1..=ROUNDS * 4 {
        let mut dice = dice(seed);
        let mut schema = Schema::clone(&schema());
        let tables = tables(&schema, &mut dice);
        let model = dice.pick(&[PARENT, KID]);
        let principal = principal(&mut dice);
        let mut patch = BTreeMap::new();
        for (id, field) in schema.model(model).fields() {
            if id != FieldId(0) && dice.roll(3) == 0 {
                let null = field.optional && dice.roll(4) == 0;
                patch.insert(id, if null { Value::Null } else { sample(&mut dice, field.scalar().unwrap()) });
            }
        }
        let rules: Vec<Rule> = (0..=dice.roll(4))
            .map(|at| {
                let depth = dice.roll(3);
                let expr = Generator { dice: &mut dice, sides: true }.condition(model, depth);
                let effect = if at == 0 || dice.roll(2) == 0 { Effect::Allow } else { Effect::Deny };
                Rule { effect, actions: vec![Action::Update], expr }
            })
            .collect();
        schema.models[model.index()].rules.extend(rules.clone());
        let schema = Arc::new(schema);

        let policies = Policies::new(&schema);
        let view = policies.view(principal.as_ref(), NOW);
        let decision = view.decide(model, Action::Update, Some(&patch.keys().copied().collect()));
        let mut sql = Sql::new(Dialect::Sqlite);
        let set: BTreeMap<FieldId, String> = patch
            .keys()
            .map(|id| (*id, sql.placeholder(Slot::Field(*id), SqlType::of(schema.model(model).field(*id)))))
            .collect();
        let (old, new) = (Row::stored("t"), Row { alias: "t", set: Some(&set) });
        let condition = match &decision {
            Decision::Residual(rules) => {
                Predicates::of_schema(&schema, &mut sql).update_rules(rules, model, old, new).into_text()
            }
            Decision::Allowed => "TRUE".to_owned(),
            Decision::Refused => "FALSE".to_owned(),
        };
        sql.push(&format!("SELECT ({condition}) IS TRUE FROM {} AS t ORDER BY t.id", schema.model(model).table));
        let (text, slots) = sql.finish();
        let binds: Vec<Bind> = slots
            .iter()
            .map(|spec| {
                let value = slot_value(&spec.slot, principal.as_ref(), &patch);
                Codec { schema: &schema, dialect: Dialect::Sqlite, ty: spec.ty }.bind(&value).unwrap()
            })
            .collect();
        let connection = sqlite(&schema, &tables);
        let what = format!("seed {seed}: {text}\n{binds:?}\n{rules:#?}");
        let mut statement = connection.prepare(&text).unwrap_or_else(|error| panic!("{error}: {what}"));
        let rows = statement.query_map(rusqlite::params_from_iter(binds), |row| row.get::<_, bool>(0)).unwrap();
        let got: Vec<bool> = rows.collect::<Result<_, _>>().unwrap_or_else(|error| panic!("{error}: {what}"));

        for (old, got) in tables[model.index()].iter().zip(got) {
            let mut new = old.clone();
            for (id, value) in &patch {
                new[id.index()] = value.clone();
            }
            let oracle = Oracle {
                schema: &schema,
                tables: &tables,
                principal: principal.as_ref(),
                request: false,
                sides: Some([old, &new]),
            };
            let both = |expr: &Expr, known: bool| {
                [old, &new].into_iter().all(|row| oracle.truth(expr, model, row) == Some(known))
            };
            let of = |effect: Effect| rules.iter().filter(move |rule| rule.effect == effect);
            let expected = of(Effect::Allow).any(|rule| both(&rule.expr, true))
                && of(Effect::Deny).all(|rule| both(&rule.expr, false));
            assert_eq!(expected, got, "{what}\nold {old:?}\nnew {new:?}\n{decision:#?}");
        }
    }
}

/// A statement is kept per truth values of the atoms, so that callers with equal ones must get equal rules.
#[test]
fn equal_keys_mean_equal_decisions() {
    let mut shared = 0;
    for seed in 1..=ROUNDS * 20 {
        let mut dice = dice(seed);
        let mut schema = Schema::clone(&schema());
        let depth = dice.roll(3);
        let expr = Generator { dice: &mut dice, sides: true }.condition(KID, depth);
        schema.models[KID.index()].rules = vec![Rule {
            effect: dice.pick(&[Effect::Allow, Effect::Deny]),
            actions: vec![Action::Update],
            expr: expr.clone(),
        }];
        let schema = Arc::new(schema);
        let policies = Policies::new(&schema);
        let callers = [principal(&mut dice), principal(&mut dice)];
        let [one, other] = callers.each_ref().map(|caller| policies.view(caller.as_ref(), NOW));
        if one.key() == other.key() {
            shared += usize::from(callers[0] != callers[1]);
            let decide = |view: &View<'_>| view.decide(KID, Action::Update, None);
            assert_eq!(decide(&one), decide(&other), "seed {seed}: {callers:#?}\n{expr:#?}");
        }
    }
    assert!(shared > 1000, "{shared}");
}
