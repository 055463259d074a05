//! Arithmetic that a database does on its own, in a `@@check` or the `where:` of an index, and that must give the
//! same answer on both.
//!
//! PostgreSQL's `NUMERIC` is exact at any size. On SQLite a `Decimal(p <= 18, s)` is a scaled 64-bit integer, other
//! Decimals are text that can be ordered but not added, and an integer that overflows turns into a binary float in
//! silence. The engine's connections have functions for what 64 bits do not hold, so rules and filters are exact
//! whatever they compute; but a table whose CHECK needs such a function could be written by no other program. So the
//! resolver proves, from the types alone, that no intermediate result of what the database keeps passes 64 bits;
//! what it cannot prove is an error of the schema, on both databases.
//!
//! The rule: every number has digits after the point and a largest magnitude in units of its last digit.
//! Operands of `+`, `-` and comparisons are brought to the larger number of digits after the point, a product adds
//! them, and each result must stay within 2^63 - 1. `Int` counts as at most 2^53 - 1. Bare and wide Decimals take
//! part in comparisons with a value of exactly their type or with a literal, and in nothing else.

use crate::decimal::Decimal;
use crate::ir::{ArithOp, Expr, Field, FieldType, ModelId, Precision, Scalar, Schema};
use crate::value::{MAX_SAFE_INTEGER, Value};

/// The widest Decimal that a scaled 64-bit integer holds.
pub(super) const MAX_SCALED_PRECISION: u32 = 18;

const LIMIT: u128 = i64::MAX as u128;

/// What is known of a number: it is an integer of at most `bound`, divided by ten to the power of `scale`.
#[derive(Debug, Clone, Copy)]
struct Reach {
    scale: u32,
    bound: u128,
}

/// Why a computation may not be exact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Inexact {
    /// A bare or wide Decimal takes part.
    Wide(String),
    /// A result may pass 64 bits.
    TooLarge,
}

/// Whether comparing the two sides is exact on both databases.
pub(super) fn comparison(schema: &Schema, row: Option<ModelId>, left: &Expr, right: &Expr) -> Result<(), Inexact> {
    let prover = Prover { schema, row };
    if prover.directly_comparable(left, right) {
        return Ok(());
    }
    let (left, right) = (prover.reach(left)?, prover.reach(right)?);
    align(left, right).map(|_| ())
}

/// Whether a text-stored type: a bare Decimal, or one of more than 18 digits.
fn is_wide(scalar: Scalar) -> bool {
    match scalar {
        Scalar::Decimal(None) => true,
        Scalar::Decimal(Some(Precision { precision, .. })) => precision > MAX_SCALED_PRECISION,
        _ => false,
    }
}

struct Prover<'a> {
    schema: &'a Schema,
    row: Option<ModelId>,
}

impl Prover<'_> {
    /// Two stored or constant values of one type are compared as they are.
    fn directly_comparable(&self, left: &Expr, right: &Expr) -> bool {
        match (self.operand(left), self.operand(right)) {
            (Some(left), Some(right)) => left == right,
            _ => false,
        }
    }

    /// The scalar of a field, a claim or a constant.
    fn operand(&self, expr: &Expr) -> Option<Scalar> {
        match expr {
            Expr::Const(FieldType::Scalar(scalar), _) => Some(*scalar),
            _ => self.field(expr)?.scalar(),
        }
    }

    fn field(&self, expr: &Expr) -> Option<&Field> {
        match expr {
            Expr::Field(path) => self.row.map(|row| self.schema.path_field(row, path)),
            Expr::Auth(claim) => self.schema.auth.as_ref()?.fields.get(claim.index()),
            _ => None,
        }
    }

    fn reach(&self, expr: &Expr) -> Result<Reach, Inexact> {
        match expr {
            Expr::Const(_, value) => constant(value),
            Expr::Length(_) => Ok(Reach { scale: 0, bound: u128::from(u32::MAX) }),
            Expr::Neg(operand) => self.reach(operand),
            Expr::Arith(op, left, right) => {
                let (left, right) = (self.reach(left)?, self.reach(right)?);
                let result = match op {
                    ArithOp::Add | ArithOp::Sub => {
                        let (left, right) = align(left, right)?;
                        Reach { bound: left.bound + right.bound, ..left }
                    }
                    ArithOp::Mul => Reach {
                        scale: left.scale + right.scale,
                        bound: left.bound.checked_mul(right.bound).ok_or(Inexact::TooLarge)?,
                    },
                };
                within(result)
            }
            other => match self.field(other) {
                Some(field) => stored(field),
                None => Ok(Reach { scale: 0, bound: LIMIT }),
            },
        }
    }
}

fn within(reach: Reach) -> Result<Reach, Inexact> {
    if reach.bound <= LIMIT { Ok(reach) } else { Err(Inexact::TooLarge) }
}

/// Both numbers with the same digits after the point.
fn align(left: Reach, right: Reach) -> Result<(Reach, Reach), Inexact> {
    let scale = left.scale.max(right.scale);
    let widen = |reach: Reach| {
        let factor = 10_u128.checked_pow(scale - reach.scale).ok_or(Inexact::TooLarge)?;
        within(Reach { scale, bound: reach.bound.checked_mul(factor).ok_or(Inexact::TooLarge)? })
    };
    Ok((widen(left)?, widen(right)?))
}

fn constant(value: &Value) -> Result<Reach, Inexact> {
    match value {
        Value::Int(number) => Ok(Reach { scale: 0, bound: number.unsigned_abs().into() }),
        Value::Text(text) => {
            let number: Decimal = text.parse().map_err(|_| Inexact::TooLarge)?;
            let scale = u32::try_from(number.fraction_digits()).map_err(|_| Inexact::TooLarge)?;
            Ok(Reach { scale, bound: scaled(&number, scale).ok_or(Inexact::TooLarge)? })
        }
        _ => Err(Inexact::TooLarge),
    }
}

fn stored(field: &Field) -> Result<Reach, Inexact> {
    let reach = match field.scalar() {
        Some(Scalar::Int) => Reach { scale: 0, bound: MAX_SAFE_INTEGER.into() },
        Some(Scalar::Decimal(Some(Precision { precision, scale }))) if precision <= MAX_SCALED_PRECISION => {
            Reach { scale, bound: 10_u128.pow(precision) }
        }
        Some(scalar) if is_wide(scalar) => return Err(Inexact::Wide(field.name.clone())),
        _ => return Err(Inexact::TooLarge),
    };
    Ok(reach)
}

fn scaled(number: &Decimal, scale: u32) -> Option<u128> {
    number.to_scaled(scale).map(|unscaled| unscaled.unsigned_abs().into())
}
