//! Rules against a caller: what is decided before the database is asked, and what is left for it.
//!
//! Every sub-expression over `auth()`, `now()` and constants alone (an *atom*) has one truth value per request. A
//! [`View`] holds a caller and the truth values of all atoms of a schema; statements are kept per [`AtomKey`], so a
//! statement never depends on a claim's value, only on what the rules make of it. [`View::decide`] folds the rules of
//! one action: an outright refusal, no condition at all, or the conditions that remain for the statement's WHERE.
//!
//! Logic is Kleene's. An allow must be true; a deny fires unless it is false; so unknown never lets anyone in.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::sync::Arc;

use cratestack_schema::decimal::Decimal;
use cratestack_schema::ir::{
    Action, ArithOp, CompareOp, Effect, Expr, Field, FieldId, FieldType, Model, ModelId, ProcedureRule, Quantifier,
    RelationKind, Scalar, Schema, StringOp,
};
use cratestack_schema::value::Value;

use crate::api::{Authority, Principal};

/// Which answer of a three-valued condition matters to the reader, so that the others need not be told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Want {
    /// Only true lets a row through: unknown may come out as false.
    True,
    /// Only false lets a row through (the body of a NOT): unknown may come out as true.
    False,
    /// All three.
    Exact,
}

impl Want {
    /// What is wanted of the operand of a NOT.
    #[must_use]
    pub fn flip(self) -> Self {
        match self {
            Self::True => Self::False,
            Self::False => Self::True,
            Self::Exact => Self::Exact,
        }
    }

    /// What unknown may be taken for.
    fn unknown(self) -> Value {
        match self {
            Self::True => Value::Bool(false),
            Self::False => Value::Bool(true),
            Self::Exact => Value::Null,
        }
    }
}

/// The rules of a schema, with their atoms.
#[derive(Debug)]
pub struct Policies {
    schema: Arc<Schema>,
    atoms: Vec<Expr>,
    /// For each model the atoms of its own rules and of the models that it refers to.
    near: Vec<Box<[Expr]>>,
}

/// The truth values of all atoms: callers with equal keys share statements.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AtomKey(Box<[u8]>);

/// A caller, as the rules see it.
#[derive(Debug, Clone)]
pub struct View<'a> {
    policies: &'a Policies,
    principal: Option<&'a Principal>,
    authority: Authority,
    now: &'a str,
}

/// What the rules say before any row is seen.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// No row could ever pass: 401 for the anonymous caller, else 403.
    Refused,
    /// Every row passes.
    Allowed,
    /// Rows pass that fulfil these.
    Residual(Residual),
}

/// What is left of the rules of one action.
#[derive(Debug, Clone, PartialEq)]
pub struct Residual {
    /// One of these must be true; empty if an allow is already true.
    pub allows: Vec<Expr>,
    /// Each of these must be false.
    pub denies: Vec<Expr>,
}

impl Policies {
    /// Collects the atoms of every rule.
    pub fn new(schema: &Arc<Schema>) -> Self {
        let add = |model: &Model, atoms: &mut Vec<Expr>| {
            model.rules.iter().for_each(|rule| collect(schema, &rule.expr, atoms));
        };
        let mut atoms = Vec::new();
        let mut near = Vec::with_capacity(schema.models.len());
        for model in &schema.models {
            add(model, &mut atoms);
            let mut own = Vec::new();
            add(model, &mut own);
            for relation in &model.relations {
                if matches!(relation.kind, RelationKind::Owning { .. }) {
                    add(schema.model(relation.target), &mut own);
                }
            }
            near.push(own.into());
        }
        Self { schema: Arc::clone(schema), atoms, near }
    }

    /// The schema.
    pub fn schema(&self) -> &Arc<Schema> {
        &self.schema
    }

    /// The rules as this caller meets them. `now` is a canonical `DateTime`.
    pub fn view<'a>(&'a self, principal: Option<&'a Principal>, now: &'a str) -> View<'a> {
        View { policies: self, principal, authority: Authority::Rules, now }
    }
}

/// Whether some caller and some row could pass these rules: an allow that is not constantly short of true, and no deny
/// that always fires. What takes more than looking at constants counts as possible.
pub fn could_allow<'r>(schema: &Schema, rules: impl Iterator<Item = (Effect, &'r Expr)>) -> bool {
    let mut allowed = false;
    for (effect, expr) in rules {
        match (effect, constant(&constants(schema, expr))) {
            (Effect::Allow, None | Some(Some(true))) => allowed = true,
            (Effect::Deny, Some(Some(true) | None)) => return false,
            _ => {}
        }
    }
    allowed
}

/// A condition without its constant parts, whoever the caller is.
fn constants(schema: &Schema, expr: &Expr) -> Expr {
    match expr {
        Expr::Not(x) => negate(constants(schema, x)),
        Expr::And(list) => join(list.iter().map(|x| constants(schema, x)), false),
        Expr::Or(list) => join(list.iter().map(|x| constants(schema, x)), true),
        // Without an `auth` block nobody can be anything else.
        Expr::Anonymous if schema.auth.is_none() => boolean(Value::Bool(true)),
        _ => expr.clone(),
    }
}

/// Adds the atoms of a condition: the largest sub-conditions over the caller alone, and for values of the caller
/// inside other conditions whether they are null.
fn collect(schema: &Schema, expr: &Expr, atoms: &mut Vec<Expr>) {
    if matches!(expr, Expr::Const(..) | Expr::Now) {
        return;
    }
    if is_callers(expr) {
        let atom = if is_condition(schema, expr) { expr.clone() } else { Expr::IsNull(Box::new(expr.clone())) };
        if !atoms.contains(&atom) {
            atoms.push(atom);
        }
        return;
    }
    match expr {
        Expr::InAuth(_, list) => collect(schema, &Expr::Auth(*list), atoms),
        Expr::HasRole(_) => {
            collect(schema, &Expr::Anonymous, atoms);
            if let Some(roles) = roles_field(schema) {
                collect(schema, &Expr::Auth(roles), atoms);
            }
        }
        _ => {}
    }
    for child in expr.children() {
        collect(schema, child, atoms);
    }
}

/// Whether a caller's expression is true, false or unknown, rather than a value of another type.
fn is_condition(schema: &Schema, expr: &Expr) -> bool {
    match expr {
        Expr::Auth(field) => {
            auth_field(schema, *field).is_some_and(|field| field.scalar() == Some(Scalar::Boolean) && !field.list)
        }
        Expr::Arith(..) | Expr::Neg(_) | Expr::Length(_) | Expr::Now | Expr::Const(..) => false,
        _ => true,
    }
}

/// A field of the `auth` block.
pub(crate) fn auth_field(schema: &Schema, field: FieldId) -> Option<&Field> {
    schema.auth.as_ref()?.fields.get(field.index())
}

/// The claim that `auth().hasRole(..)` looks into: `roles`.
pub(crate) fn roles_field(schema: &Schema) -> Option<FieldId> {
    let fields = &schema.auth.as_ref()?.fields;
    (0..).map(FieldId).zip(fields).find(|(_, field)| field.name == "roles" && field.list).map(|(id, _)| id)
}

/// Whether an expression depends on the caller, the clock and constants alone.
pub(crate) fn is_callers(expr: &Expr) -> bool {
    match expr {
        Expr::Field(_) | Expr::Quantified { .. } | Expr::Changed(_) => false,
        _ => expr.children().into_iter().all(is_callers),
    }
}

impl<'a> View<'a> {
    /// The same caller with that authority.
    #[must_use]
    pub fn with(self, authority: Authority) -> Self {
        Self { authority, ..self }
    }

    /// The schema.
    pub fn schema(&self) -> &'a Schema {
        &self.policies.schema
    }

    /// The caller.
    pub fn principal(&self) -> Option<&'a Principal> {
        self.principal
    }

    /// The clock of the operation, a canonical `DateTime`.
    pub fn now(&self) -> &'a str {
        self.now
    }

    /// The truth values of all atoms.
    pub fn key(&self) -> AtomKey {
        self.key_with(None)
    }

    /// The truth values of all atoms, and of those of a condition that the caller sent: it may speak of the caller and
    /// the clock as well, and so its statement is no more than theirs.
    pub fn key_with(&self, sent: Option<&Expr>) -> AtomKey {
        let mut own = Vec::new();
        if let Some(expr) = sent {
            collect(self.schema(), expr, &mut own);
        }
        self.key_of(self.policies.atoms.iter().chain(&own))
    }

    /// The truth values of the atoms that matter to writes of a model and to reads of its rows alone: those of its own
    /// rules, and of the models that it refers to.
    pub fn key_near(&self, model: ModelId) -> AtomKey {
        self.key_of(self.policies.near.get(model.index()).into_iter().flatten())
    }

    fn key_of<'e>(&self, atoms: impl Iterator<Item = &'e Expr>) -> AtomKey {
        let truth = |atom| match self.truth(atom) {
            Some(false) => 0,
            Some(true) => 1,
            None => 2,
        };
        let bound = u8::from(self.authority == Authority::Rules);
        AtomKey(atoms.map(truth).chain([bound]).collect())
    }

    /// Folds the rules of one action. For an update, `patched` names the fields that the patch gives a value, so that
    /// `changed(f)` of the others is false.
    pub fn decide(&self, model: ModelId, action: Action, patched: Option<&BTreeSet<FieldId>>) -> Decision {
        let rules = self.schema().model(model).rules.iter().filter(|rule| rule.actions.contains(&action));
        self.fold_rules(rules.map(|rule| (rule.effect, &rule.expr)), patched)
    }

    /// Whether the rules of a procedure let the caller in.
    pub fn may_call(&self, rules: &[ProcedureRule]) -> bool {
        self.fold_rules(rules.iter().map(|rule| (rule.effect, &rule.expr)), None) == Decision::Allowed
    }

    fn fold_rules<'r>(
        &self,
        rules: impl Iterator<Item = (Effect, &'r Expr)>,
        patched: Option<&BTreeSet<FieldId>>,
    ) -> Decision {
        if self.authority == Authority::Service {
            return Decision::Allowed;
        }
        let mut residual = Residual { allows: Vec::new(), denies: Vec::new() };
        let mut allowed = false;
        for (effect, expr) in rules {
            let want = if effect == Effect::Allow { Want::True } else { Want::False };
            let folded = self.fold(expr, want, patched);
            match (effect, constant(&folded)) {
                (Effect::Allow, Some(Some(true))) => allowed = true,
                (Effect::Allow, None) => push_new(&mut residual.allows, folded),
                (Effect::Allow, Some(_)) | (Effect::Deny, Some(Some(false))) => {}
                (Effect::Deny, None) => push_new(&mut residual.denies, folded),
                (Effect::Deny, Some(_)) => return Decision::Refused,
            }
        }
        if allowed {
            residual.allows.clear();
        } else if residual.allows.is_empty() {
            return Decision::Refused;
        }
        if residual.allows.is_empty() && residual.denies.is_empty() {
            Decision::Allowed
        } else {
            Decision::Residual(residual)
        }
    }

    /// Replaces every part that the caller decides by its truth value, and simplifies. The result is a constant or
    /// contains no part over the caller alone, but for values inside comparisons with the row, none of them null.
    pub fn fold(&self, expr: &Expr, want: Want, patched: Option<&BTreeSet<FieldId>>) -> Expr {
        let fold = |expr: &Expr, want| self.fold(expr, want, patched);
        match expr {
            Expr::Not(x) => negate(fold(x, want.flip())),
            Expr::And(list) => join(list.iter().map(|x| fold(x, want)), false),
            Expr::Or(list) => join(list.iter().map(|x| fold(x, want)), true),
            Expr::Changed(field) if patched.is_some_and(|set| !set.contains(field)) => boolean(Value::Bool(false)),
            _ if is_callers(expr) => boolean(self.truth(expr).map_or_else(|| want.unknown(), Value::Bool)),
            Expr::Compare(op, a, b) => match (self.fold_value(a), self.fold_value(b)) {
                (Some(a), Some(b)) => Expr::Compare(*op, Box::new(a), Box::new(b)),
                _ => boolean(want.unknown()),
            },
            Expr::StringTest(op, a, b) => match (self.fold_value(a), self.fold_value(b)) {
                (Some(a), Some(b)) => Expr::StringTest(*op, Box::new(a), Box::new(b)),
                _ => boolean(want.unknown()),
            },
            Expr::IsNull(x) => match self.fold_value(x) {
                Some(x) => Expr::IsNull(Box::new(x)),
                None => boolean(Value::Bool(true)),
            },
            Expr::In(x, list) => self.fold_in(x, list, want),
            Expr::InAuth(_, list) if self.claim(*list).is_none() => boolean(want.unknown()),
            Expr::HasRole(_) if self.principal.is_none() || self.roles().is_none() => boolean(Value::Bool(false)),
            Expr::Quantified { hops, side, relation, quantifier, body } => {
                let body_want = if *quantifier == Quantifier::None { want.flip() } else { want };
                // `changed` belongs to the rule's own row, which the body has left.
                let body = self.fold(body, body_want, None);
                let empty = match (quantifier, constant(&body)) {
                    (Quantifier::Some, Some(Some(false))) => Some(false),
                    (Quantifier::Every, Some(Some(true))) | (Quantifier::None, Some(Some(false))) => Some(true),
                    _ => None,
                };
                match empty {
                    // Behind a hop the parent may be absent, which is unknown.
                    Some(known) if hops.is_empty() => boolean(Value::Bool(known)),
                    _ => Expr::Quantified {
                        hops: hops.clone(),
                        side: *side,
                        relation: *relation,
                        quantifier: *quantifier,
                        body: Box::new(body),
                    },
                }
            }
            _ => expr.clone(),
        }
    }

    /// Null elements of a list make it unknown whether the rest decides.
    fn fold_in(&self, x: &Expr, list: &[Expr], want: Want) -> Expr {
        if list.is_empty() {
            return boolean(Value::Bool(false));
        }
        let Some(x) = self.fold_value(x) else { return boolean(want.unknown()) };
        let mut kept: Vec<Expr> = list.iter().filter_map(|element| self.fold_value(element)).collect();
        if kept.len() < list.len() {
            match want {
                Want::True if kept.is_empty() => return boolean(Value::Bool(false)),
                Want::True => {}
                Want::False => return boolean(Value::Bool(true)),
                Want::Exact => kept.push(boolean(Value::Null)),
            }
        }
        Expr::In(Box::new(x), kept)
    }

    /// The operand of a comparison; `None` if it is null whatever the row. What the caller gives stays a value of the
    /// caller, so that it is bound, but a truth value becomes a constant.
    fn fold_value(&self, expr: &Expr) -> Option<Expr> {
        let known = |expr: Expr| (constant(&expr) != Some(None)).then_some(expr);
        match expr {
            _ if is_callers(expr) && !is_condition(self.schema(), expr) => {
                (!self.value(expr).is_null()).then(|| expr.clone())
            }
            Expr::Field(_) => Some(expr.clone()),
            Expr::Arith(op, a, b) => {
                Some(Expr::Arith(*op, Box::new(self.fold_value(a)?), Box::new(self.fold_value(b)?)))
            }
            Expr::Neg(x) => Some(Expr::Neg(Box::new(self.fold_value(x)?))),
            Expr::Length(x) => Some(Expr::Length(Box::new(self.fold_value(x)?))),
            condition => known(self.fold(condition, Want::Exact, None)),
        }
    }

    /// The truth value of a condition over the caller alone; `None` is unknown.
    fn truth(&self, expr: &Expr) -> Option<bool> {
        match self.value(expr) {
            Known::Value(value, _) => match *value {
                Value::Bool(known) => Some(known),
                _ => None,
            },
            Known::Number(_) => None,
        }
    }

    /// A claim that is there.
    fn claim(&self, field: FieldId) -> Option<&'a Value> {
        self.principal?.claims.get(field.index()).filter(|value| **value != Value::Null)
    }

    fn roles(&self) -> Option<&'a Value> {
        roles_field(self.schema()).and_then(|field| self.claim(field))
    }

    /// The value of an expression over the caller alone. Null is unknown.
    fn value<'e>(&'e self, expr: &'e Expr) -> Known<'e> {
        match expr {
            Expr::Const(ty, value) => Known::Value(Cow::Borrowed(value), scalar_of(*ty)),
            Expr::Auth(field) => match (self.claim(*field), auth_field(self.schema(), *field)) {
                (Some(value), Some(declared)) => Known::Value(Cow::Borrowed(value), scalar_of(declared.ty)),
                _ => Known::NULL,
            },
            Expr::Now => Known::Value(Cow::Owned(Value::Text(self.now.to_owned())), Scalar::DateTime),
            Expr::Anonymous => Known::truth(Some(self.principal.is_none())),
            Expr::Not(x) => Known::truth(self.truth(x).map(|known| !known)),
            Expr::And(list) => Known::truth(kleene(list.iter().map(|x| self.truth(x)), false)),
            Expr::Or(list) => Known::truth(kleene(list.iter().map(|x| self.truth(x)), true)),
            Expr::Compare(op, a, b) => Known::truth(self.value(a).compare(&self.value(b)).map(|o| holds(*op, o))),
            Expr::IsNull(x) => Known::truth(Some(self.value(x).is_null())),
            Expr::In(x, list) => {
                let x = self.value(x);
                let equal = |element| x.compare(&self.value(element)).map(Ordering::is_eq);
                Known::truth(kleene(list.iter().map(equal), true))
            }
            Expr::InAuth(x, field) => {
                let scalar = auth_field(self.schema(), *field).map_or(Scalar::String, |field| scalar_of(field.ty));
                Known::truth(contains(self.claim(*field), &self.value(x), scalar))
            }
            Expr::HasRole(x) => match self.roles() {
                None => Known::truth(Some(false)),
                roles => Known::truth(contains(roles, &self.value(x), Scalar::String)),
            },
            Expr::Arith(op, a, b) => match (self.value(a).number(), self.value(b).number()) {
                (Some(a), Some(b)) => Known::Number(match op {
                    ArithOp::Add => a.add(&b),
                    ArithOp::Sub => a.sub(&b),
                    ArithOp::Mul => a.mul(&b),
                }),
                _ => Known::NULL,
            },
            Expr::Neg(x) => self.value(x).number().map_or(Known::NULL, |number| Known::Number(number.neg())),
            Expr::StringTest(op, a, b) => match (self.value(a).text(), self.value(b).text()) {
                (Some(a), Some(b)) => Known::truth(Some(match op {
                    StringOp::StartsWith => a.starts_with(b),
                    StringOp::EndsWith => a.ends_with(b),
                    StringOp::Contains => a.contains(b),
                })),
                _ => Known::NULL,
            },
            Expr::Length(x) => match self.value(x).text() {
                Some(text) => Known::Number(Decimal::from(i64::try_from(text.chars().count()).unwrap_or(i64::MAX))),
                None => Known::NULL,
            },
            // Not the caller's; nobody asks for them here.
            Expr::Field(_) | Expr::Quantified { .. } | Expr::Changed(_) => Known::NULL,
        }
    }
}

/// A value that is known without any row.
#[derive(Debug)]
enum Known<'e> {
    Value(Cow<'e, Value>, Scalar),
    /// The result of arithmetic.
    Number(Decimal),
}

impl Known<'_> {
    const NULL: Self = Self::Value(Cow::Owned(Value::Null), Scalar::Boolean);

    fn truth(known: Option<bool>) -> Self {
        Self::Value(Cow::Owned(known.map_or(Value::Null, Value::Bool)), Scalar::Boolean)
    }

    fn is_null(&self) -> bool {
        matches!(self, Self::Value(value, _) if **value == Value::Null)
    }

    fn text(&self) -> Option<&str> {
        match self {
            Self::Value(value, _) => match &**value {
                Value::Text(text) => Some(text),
                _ => None,
            },
            Self::Number(_) => None,
        }
    }

    fn number(&self) -> Option<Decimal> {
        match self {
            Self::Number(number) => Some(number.clone()),
            Self::Value(value, Scalar::Decimal(_)) => match &**value {
                Value::Text(text) => text.parse().ok(),
                _ => None,
            },
            Self::Value(value, _) => match **value {
                Value::Int(int) => Some(Decimal::from(int)),
                _ => None,
            },
        }
    }

    /// The order of two values of one type; `None` if one is null.
    fn compare(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Value(a, scalar), Self::Value(b, _))
                if std::mem::discriminant(&**a) == std::mem::discriminant(&**b) =>
            {
                a.compare(b, *scalar)
            }
            // Int against Decimal.
            _ => Some(self.number()?.cmp(&other.number()?)),
        }
    }
}

/// Whether a list claim contains a value; unknown if either is null.
fn contains(list: Option<&Value>, value: &Known<'_>, scalar: Scalar) -> Option<bool> {
    let Some(Value::List(list)) = list else { return None };
    let equal = |element| value.compare(&Known::Value(Cow::Borrowed(element), scalar)).map(Ordering::is_eq);
    kleene(list.iter().map(equal), true)
}

/// Kleene's OR for `decisive` true, AND for `decisive` false.
fn kleene(values: impl Iterator<Item = Option<bool>>, decisive: bool) -> Option<bool> {
    let mut result = Some(!decisive);
    for value in values {
        match value {
            Some(value) if value == decisive => return Some(decisive),
            Some(_) => {}
            None => result = None,
        }
    }
    result
}

/// Whether an order fulfils a comparison.
fn holds(op: CompareOp, order: Ordering) -> bool {
    match op {
        CompareOp::Eq => order.is_eq(),
        CompareOp::Ne => order.is_ne(),
        CompareOp::Lt => order.is_lt(),
        CompareOp::Le => order.is_le(),
        CompareOp::Gt => order.is_gt(),
        CompareOp::Ge => order.is_ge(),
    }
}

/// The scalar of a value; enums are text.
pub(crate) fn scalar_of(ty: FieldType) -> Scalar {
    match ty {
        FieldType::Scalar(scalar) => scalar,
        FieldType::Enum(_) | FieldType::Type(_) | FieldType::Model(_) => Scalar::String,
    }
}

/// A truth value as an expression.
pub(crate) fn boolean(value: Value) -> Expr {
    Expr::Const(FieldType::Scalar(Scalar::Boolean), value)
}

/// A truth value of Kleene's logic; `None` is unknown.
pub(crate) type Truth = Option<bool>;

/// The truth value of a constant condition.
pub(crate) fn constant(expr: &Expr) -> Option<Truth> {
    match expr {
        Expr::Const(_, Value::Bool(known)) => Some(Some(*known)),
        Expr::Const(_, Value::Null) => Some(None),
        _ => None,
    }
}

fn negate(expr: Expr) -> Expr {
    match constant(&expr) {
        Some(known) => boolean(known.map_or(Value::Null, |known| Value::Bool(!known))),
        None => match expr {
            Expr::Not(inner) => *inner,
            expr => Expr::Not(Box::new(expr)),
        },
    }
}

/// OR for `decisive` true, AND for `decisive` false, of folded operands.
fn join(operands: impl Iterator<Item = Expr>, decisive: bool) -> Expr {
    let mut kept = Vec::new();
    for operand in operands {
        match constant(&operand) {
            Some(Some(known)) if known == decisive => return operand,
            Some(Some(_)) => {}
            _ => match operand {
                Expr::Or(inner) if decisive => inner.into_iter().for_each(|x| push_new(&mut kept, x)),
                Expr::And(inner) if !decisive => inner.into_iter().for_each(|x| push_new(&mut kept, x)),
                operand => push_new(&mut kept, operand),
            },
        }
    }
    match kept.len() {
        0 => boolean(Value::Bool(!decisive)),
        1 => kept.remove(0),
        _ if decisive => Expr::Or(kept),
        _ => Expr::And(kept),
    }
}

fn push_new(list: &mut Vec<Expr>, expr: Expr) {
    if !list.contains(&expr) {
        list.push(expr);
    }
}
