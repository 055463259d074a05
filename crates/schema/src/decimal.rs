//! Exact decimal numbers of any size, for literals, bounds, input and policies.
//!
//! Digits are kept in base ten: values come as text and leave as text, and the few operations of the language
//! (`+ - *`, comparison, "fits into `(p, s)`") are linear or tiny there.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use crate::ir::{Default, Precision, Scalar, Schema};
use crate::value::Value;

/// Most digits before the point, and most digits after it. PostgreSQL's `NUMERIC` holds far more.
pub const MAX_DIGITS: usize = 1000;

/// An exact decimal number, always in canonical form, so that equal numbers are equal values.
///
/// `Display` writes plain notation: no exponent, no `-0`, no leading zeros, no trailing zeros in the fraction.
#[derive(Debug, Clone, PartialEq, Eq, Hash, std::default::Default)]
pub struct Decimal {
    negative: bool,
    /// Most significant first, each 0..=9, without leading zeros; empty for zero.
    digits: Vec<u8>,
    /// How many of the digits stand after the point; the last of those is never 0.
    scale: usize,
}

/// Why a text is no [`Decimal`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecimalError {
    /// Not `-12.34` or `12e-3`.
    Syntax,
    /// More than [`MAX_DIGITS`] before or after the point.
    TooLong,
}

impl fmt::Display for DecimalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax => f.write_str("must be a decimal number in plain notation"),
            Self::TooLong => write!(f, "must have at most {MAX_DIGITS} digits before and after the point"),
        }
    }
}

impl std::error::Error for DecimalError {}

/// Accepts an optional sign, digits, an optional fraction with at least one digit, and an optional exponent.
impl FromStr for Decimal {
    type Err = DecimalError;

    fn from_str(text: &str) -> Result<Self, DecimalError> {
        Self::read(text, MAX_DIGITS)
    }
}

impl Decimal {
    /// A number in plain notation with any number of digits: the result of a computation, never what a caller sent.
    ///
    /// # Errors
    /// When it is no number in plain notation.
    pub fn of_any_length(text: &str) -> Result<Self, DecimalError> {
        Self::read(text, text.len())
    }

    /// A number with at most `most` digits on either side of the point.
    fn read(text: &str, most: usize) -> Result<Self, DecimalError> {
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, parse_exponent(exponent)?),
            None => (text, 0),
        };
        let (negative, unsigned) = match mantissa.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, mantissa.strip_prefix('+').unwrap_or(mantissa)),
        };
        let (whole, fraction) = match unsigned.split_once('.') {
            Some((_, "")) => return Err(DecimalError::Syntax),
            Some(parts) => parts,
            None => (unsigned, ""),
        };
        let is_digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || !is_digits(whole) || !is_digits(fraction) {
            return Err(DecimalError::Syntax);
        }
        let significant = |text: &str| text.bytes().map(|b| b - b'0').collect::<Vec<u8>>();
        let mut digits = significant(whole);
        digits.extend(significant(fraction));
        let point = i64::try_from(whole.len()).unwrap_or(i64::MAX).saturating_add(exponent);
        Self::place(negative, &digits, point, most)
    }
}

/// The digits of an exponent may be many (`1e999999999999`), its value saturates.
fn parse_exponent(text: &str) -> Result<i64, DecimalError> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(DecimalError::Syntax);
    }
    let value =
        digits.bytes().fold(0_i64, |sum, b| sum.saturating_mul(10).saturating_add(i64::from(b - b'0')).min(1 << 40));
    Ok(if negative { -value } else { value })
}

impl Decimal {
    /// The number `0.d1d2d3..` times ten to the power of `point`.
    fn place(negative: bool, digits: &[u8], point: i64, most: usize) -> Result<Self, DecimalError> {
        let leading = digits.iter().take_while(|digit| **digit == 0).count();
        let trailing = digits.iter().rev().take_while(|digit| **digit == 0).count();
        let Some(kept) = digits.get(leading..digits.len() - trailing).filter(|kept| !kept.is_empty()) else {
            return Ok(Self::default());
        };
        let point = point.saturating_sub(i64::try_from(leading).unwrap_or(i64::MAX));
        let count = i64::try_from(kept.len()).unwrap_or(i64::MAX);
        let limit = i64::try_from(most).unwrap_or(i64::MAX);
        if point > limit || count.saturating_sub(point) > limit {
            return Err(DecimalError::TooLong);
        }
        let mut digits = kept.to_vec();
        let padding = usize::try_from(point - count).unwrap_or(0);
        digits.resize(digits.len() + padding, 0);
        Ok(Self { negative, digits, scale: usize::try_from(count - point).unwrap_or(0) })
    }

    /// Normalises digits of a result; `digits` is an integer that is to be divided by ten to the power of `scale`.
    fn from_parts(negative: bool, digits: &[u8], scale: usize) -> Self {
        let leading = digits.iter().take_while(|digit| **digit == 0).count();
        let trailing = digits.iter().rev().take_while(|digit| **digit == 0).count().min(scale);
        let kept = digits.get(leading..digits.len() - trailing).unwrap_or_default();
        if kept.is_empty() {
            return Self::default();
        }
        Self { negative, digits: kept.to_vec(), scale: scale - trailing }
    }

    /// `unscaled` divided by ten to the power of `scale`: the stored form of a `Decimal(p <= 18, s)` on SQLite.
    pub fn from_scaled(unscaled: i64, scale: u32) -> Self {
        let digits: Vec<u8> = unscaled.unsigned_abs().to_string().bytes().map(|b| b - b'0').collect();
        Self::from_parts(unscaled < 0, &digits, scale as usize)
    }

    /// The value times ten to the power of `scale`, if that is an integer of 64 bits.
    pub fn to_scaled(&self, scale: u32) -> Option<i64> {
        let zeros = (scale as usize).checked_sub(self.scale)?;
        let magnitude = self
            .digits
            .iter()
            .chain(std::iter::repeat_n(&0, if self.is_zero() { 0 } else { zeros }))
            .try_fold(0_u64, |sum, digit| sum.checked_mul(10)?.checked_add(u64::from(*digit)))?;
        if self.negative { 0_i64.checked_sub_unsigned(magnitude) } else { i64::try_from(magnitude).ok() }
    }

    /// Whether the value is zero.
    pub fn is_zero(&self) -> bool {
        self.digits.is_empty()
    }

    /// Whether the value is below zero.
    pub fn is_negative(&self) -> bool {
        self.negative
    }

    /// Digits before the point; 0 for values between -1 and 1.
    pub fn integer_digits(&self) -> usize {
        self.digits.len().saturating_sub(self.scale)
    }

    /// Digits after the point, without trailing zeros.
    pub fn fraction_digits(&self) -> usize {
        self.scale
    }

    /// Whether `Decimal(p, s)` holds the value without rounding.
    pub fn fits(&self, precision: Precision) -> bool {
        let whole = (precision.precision - precision.scale.min(precision.precision)) as usize;
        self.scale <= precision.scale as usize && self.integer_digits() <= whole
    }

    /// Plain notation with at least `scale` digits after the point: how a `Decimal(p, s)` is answered.
    pub fn padded(&self, scale: u32) -> String {
        let mut text = self.to_string();
        let scale = scale as usize;
        if self.scale < scale {
            if self.scale == 0 {
                text.push('.');
            }
            text.extend(std::iter::repeat_n('0', scale - self.scale));
        }
        text
    }

    /// The value as an integer of 64 bits, if it is one.
    pub fn to_i64(&self) -> Option<i64> {
        self.to_scaled(0)
    }

    /// Both magnitudes with the same number of digits after the point.
    fn aligned(&self, other: &Self) -> (Vec<u8>, Vec<u8>, usize) {
        let scale = self.scale.max(other.scale);
        let widened = |value: &Self| {
            let mut digits = value.digits.clone();
            digits.resize(digits.len() + scale - value.scale, 0);
            digits
        };
        (widened(self), widened(other), scale)
    }

    /// The exact product.
    #[must_use]
    pub fn mul(&self, other: &Self) -> Self {
        let (a, b) = (limbs(&self.digits), limbs(&other.digits));
        let mut product = vec![0_u64; a.len() + b.len()];
        for (at, a) in a.iter().enumerate() {
            let mut carry = 0;
            let mut rest = product.iter_mut().skip(at);
            // Below 10^18 + 2 * 10^9, which 64 bits hold. The limb behind the last product is for the carry.
            for (b, limb) in b.iter().zip(rest.by_ref()) {
                let sum = *limb + a * b + carry;
                (*limb, carry) = (sum % LIMB, sum / LIMB);
            }
            if let Some(limb) = rest.next() {
                *limb += carry;
            }
        }
        let mut digits = Vec::with_capacity(product.len() * LIMB_DIGITS);
        for limb in product.iter().rev() {
            let mut unit = LIMB / 10;
            while unit > 0 {
                digits.push(u8::try_from(limb / unit % 10).unwrap_or_default());
                unit /= 10;
            }
        }
        Self::from_parts(self.negative != other.negative, &digits, self.scale + other.scale)
    }

    /// The exact sum.
    #[must_use]
    pub fn add(&self, other: &Self) -> Self {
        let (a, b, scale) = self.aligned(other);
        if self.negative == other.negative {
            return Self::from_parts(self.negative, &add_magnitudes(&a, &b), scale);
        }
        match compare_magnitudes(&a, &b) {
            Ordering::Less => Self::from_parts(other.negative, &subtract_magnitudes(&b, &a), scale),
            _ => Self::from_parts(self.negative, &subtract_magnitudes(&a, &b), scale),
        }
    }

    /// The exact difference.
    #[must_use]
    pub fn sub(&self, other: &Self) -> Self {
        self.add(&other.neg())
    }

    /// The negated value; zero stays zero.
    #[must_use]
    pub fn neg(&self) -> Self {
        Self { negative: !self.negative && !self.is_zero(), ..self.clone() }
    }
}

/// The Rust type that the decimals of a schema become. A value that it does not hold exactly is refused, never rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, std::default::Default)]
pub enum Backend {
    /// `rust_decimal::Decimal`: 96 bits of digits, at most 28 of them after the point.
    #[default]
    RustDecimal,
    /// `bigdecimal::BigDecimal`: everything that the language has.
    BigDecimal,
}

impl Backend {
    /// Every backend.
    pub const ALL: [Self; 2] = [Self::RustDecimal, Self::BigDecimal];

    /// How it is written: the name of its crate.
    pub fn name(self) -> &'static str {
        match self {
            Self::RustDecimal => "rust_decimal",
            Self::BigDecimal => "bigdecimal",
        }
    }

    /// The backend of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|backend| backend.name() == name)
    }

    /// Whether it holds the value exactly.
    pub fn holds(self, value: &Decimal) -> bool {
        match self {
            Self::RustDecimal => value.scale <= 28 && value.unscaled().is_some_and(|digits| digits >> 96 == 0),
            Self::BigDecimal => true,
        }
    }
}

/// The fields whose default the backend does not hold, as `Model.field`.
pub fn defaults_beyond(schema: &Schema, backend: Backend) -> Vec<String> {
    let models = schema.models.iter();
    let fields = models.flat_map(|model| model.fields.iter().map(move |field| (model, field)));
    let beyond = fields.filter(|(_, field)| match (field.scalar(), &field.default) {
        (Some(Scalar::Decimal(_)), Some(Default::Value(Value::Text(text)))) => {
            !text.parse().is_ok_and(|value| backend.holds(&value))
        }
        _ => false,
    });
    beyond.map(|(model, field)| format!("{}.{}", model.name, field.name)).collect()
}

/// How a number is brought to fewer digits after the point. What stands in the middle between two is what banks round by
/// rules of their own; the names are those of Java's `RoundingMode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, std::default::Default)]
pub enum Rounding {
    /// To the nearest; from the middle to the even digit, so that sums of many do not drift: 2.5 to 2, 3.5 to 4. The
    /// default of IEEE 754 and of banks.
    #[default]
    HalfEven,
    /// To the nearest; from the middle away from zero: 2.5 to 3, -2.5 to -3.
    HalfUp,
    /// To the nearest; from the middle towards zero: 2.5 to 2, -2.5 to -2.
    HalfDown,
    /// Away from zero: 2.1 to 3, -2.1 to -3.
    Up,
    /// Towards zero: 2.9 to 2, -2.9 to -2.
    Down,
    /// Towards the greater number: 2.1 to 3, -2.9 to -2.
    Ceiling,
    /// Towards the smaller number: 2.9 to 2, -2.1 to -3.
    Floor,
}

impl Rounding {
    /// Every mode.
    pub const ALL: [Self; 7] =
        [Self::HalfEven, Self::HalfUp, Self::HalfDown, Self::Up, Self::Down, Self::Ceiling, Self::Floor];

    /// Whether the magnitude grows by one unit, `rest` being how what is cut off compares with half of a unit.
    fn grows(self, negative: bool, odd: bool, rest: Ordering) -> bool {
        match self {
            Self::HalfEven => rest.then(if odd { Ordering::Greater } else { Ordering::Less }).is_gt(),
            Self::HalfUp => rest.is_ge(),
            Self::HalfDown => rest.is_gt(),
            Self::Up => true,
            Self::Down => false,
            Self::Ceiling => !negative,
            Self::Floor => negative,
        }
    }
}

/// Why a sum cannot be shared out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AllocationError {
    /// The sum has parts of a unit, which nobody could get.
    PartOfUnit,
    /// A weight is below zero.
    NegativeWeight,
    /// There is nobody to share among: no weights, or all of them are zero.
    NoWeights,
    /// Units of more than [`MAX_DIGITS`] digits after the point.
    TooSmall,
}

impl fmt::Display for AllocationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PartOfUnit => "the sum is no whole number of the smallest units; round it first",
            Self::NegativeWeight => "a weight is below zero",
            Self::NoWeights => "no weight is above zero",
            Self::TooSmall => "a unit has more than 1000 digits after the point",
        })
    }
}

impl std::error::Error for AllocationError {}

impl Decimal {
    /// The digits without the point, if they are a number of 128 bits.
    fn unscaled(&self) -> Option<u128> {
        self.digits.iter().try_fold(0_u128, |sum, digit| sum.checked_mul(10)?.checked_add(u128::from(*digit)))
    }

    /// The number with at most `scale` digits after the point.
    #[must_use]
    pub fn round(&self, scale: u32, rounding: Rounding) -> Self {
        let cut = self.scale.saturating_sub(scale as usize);
        if cut == 0 {
            return self.clone();
        }
        // As many zeros in front that there is something left, to which a unit may be added.
        let mut digits = vec![0; (cut + 1).saturating_sub(self.digits.len())];
        digits.extend(&self.digits);
        let rest = digits.split_off(digits.len() - cut);
        let odd = digits.last().is_some_and(|digit| digit % 2 == 1);
        // The last digit of a fraction is never 0, so that only a lone 5 is the middle.
        let rest = match rest.as_slice() {
            [5] => Ordering::Equal,
            [first, ..] if *first >= 5 => Ordering::Greater,
            _ => Ordering::Less,
        };
        if rounding.grows(self.negative, odd, rest) {
            digits = add_magnitudes(&digits, &[1]);
        }
        Self::from_parts(self.negative, &digits, scale as usize)
    }

    /// Shares the number out by weights, in units of ten to the power of `-scale`: every share is the exact one, cut to
    /// whole units, and the units that are left go one each to those who lost most by the cut, the first of them first
    /// (the method of largest remainders). The shares make the number exactly, each is within one unit of the exact one,
    /// and a weight of zero gets nothing. Of a number below zero the shares are those of its magnitude, negated.
    ///
    /// # Errors
    /// See [`AllocationError`].
    pub fn allocate(&self, weights: &[Self], scale: u32) -> Result<Vec<Self>, AllocationError> {
        if scale as usize > MAX_DIGITS {
            return Err(AllocationError::TooSmall);
        }
        let Some(zeros) = (scale as usize).checked_sub(self.scale) else {
            return Err(AllocationError::PartOfUnit);
        };
        if weights.iter().any(Self::is_negative) {
            return Err(AllocationError::NegativeWeight);
        }
        let whole = weights.iter().fold(Self::default(), |sum, weight| sum.add(weight));
        if whole.is_zero() {
            return Err(AllocationError::NoWeights);
        }
        let mut units = self.digits.clone();
        units.resize(units.len() + zeros, 0);
        let units = Self::from_parts(false, &units, 0);
        let mut shares: Vec<(Self, Self)> = weights.iter().map(|weight| units.mul(weight).divided_by(&whole)).collect();
        let given = shares.iter().fold(Self::default(), |sum, (share, _)| sum.add(share));
        // Less than there are shares.
        let left = usize::try_from(units.sub(&given).to_i64().unwrap_or_default()).unwrap_or_default();
        let mut lost: Vec<usize> = (0..shares.len()).collect();
        let remainder = |at: usize| shares.get(at).map(|(_, rest)| rest);
        lost.sort_by(|a, b| remainder(*b).cmp(&remainder(*a)));
        let one = Self::from(1);
        for at in lost.into_iter().take(left) {
            if let Some((share, _)) = shares.get_mut(at) {
                *share = share.add(&one);
            }
        }
        Ok(shares.into_iter().map(|(share, _)| share.in_units(self.negative, scale)).collect())
    }

    /// The whole number of times that a number above zero fits into this one, which is not below zero, and what is left.
    fn divided_by(&self, divisor: &Self) -> (Self, Self) {
        let (digits, by, scale) = self.aligned(divisor);
        let (mut quotient, mut rest) = (Vec::with_capacity(digits.len()), Vec::new());
        for digit in digits {
            rest.push(digit);
            let mut times = 0;
            while compare_magnitudes(&rest, &by).is_ge() {
                rest = subtract_magnitudes(&rest, &by);
                times += 1;
            }
            quotient.push(times);
        }
        (Self::from_parts(false, &quotient, 0), Self::from_parts(false, &rest, scale))
    }

    /// A whole number of units as the number that it stands for.
    fn in_units(&self, negative: bool, scale: u32) -> Self {
        Self::from_parts(negative, &self.digits, scale as usize)
    }
}

/// The regular expression of the values of a `Decimal` in plain notation, for the pattern of a JSON schema (ECMA-262, as
/// JSON Schema asks): every answer matches, and every string that matches is a value.
///
/// ```
/// use cratestack_schema::decimal::pattern;
/// use cratestack_schema::ir::Precision;
///
/// let money = Precision { precision: 18, scale: 4 };
/// assert_eq!(pattern(Some(money)), r"^-?(0|[1-9][0-9]{0,13})(\.[0-9]{1,4})?$");
/// ```
pub fn pattern(precision: Option<Precision>) -> String {
    let most = u32::try_from(MAX_DIGITS).unwrap_or(u32::MAX);
    let (whole, scale) = match precision {
        Some(precision) => (precision.precision.saturating_sub(precision.scale), precision.scale),
        None => (most, most),
    };
    let whole = match whole {
        0 => "0".to_owned(),
        1 => "[0-9]".to_owned(),
        digits => format!("(0|[1-9][0-9]{{0,{}}})", digits - 1),
    };
    let fraction = if scale == 0 { String::new() } else { format!(r"(\.[0-9]{{1,{scale}}})?") };
    format!("^-?{whole}{fraction}$")
}

/// What a `Decimal` is in a JSON schema and in OpenAPI: a string of `format` `decimal`, with its [`pattern`].
pub fn json_schema(precision: Option<Precision>) -> serde_json::Value {
    serde_json::json!({"type": "string", "format": "decimal", "pattern": pattern(precision)})
}

impl From<i64> for Decimal {
    fn from(value: i64) -> Self {
        Self::from_scaled(value, 0)
    }
}

/// Nine digits at once.
const LIMB_DIGITS: usize = 9;
const LIMB: u64 = 1_000_000_000;

/// The digits by nines, least significant first.
fn limbs(digits: &[u8]) -> Vec<u64> {
    digits.rchunks(LIMB_DIGITS).map(|nine| nine.iter().fold(0, |sum, digit| sum * 10 + u64::from(*digit))).collect()
}

fn take_digit(carry: &mut u32, column: u32) -> u8 {
    let sum = column + *carry;
    *carry = sum / 10;
    u8::try_from(sum % 10).unwrap_or_default()
}

/// Pairs of digits from the least significant end, missing ones as 0.
fn columns<'a>(a: &'a [u8], b: &'a [u8]) -> impl Iterator<Item = (u8, u8)> + 'a {
    let column = |digits: &[u8], at: usize| digits.iter().rev().nth(at).copied().unwrap_or(0);
    (0..a.len().max(b.len())).map(move |at| (column(a, at), column(b, at)))
}

fn add_magnitudes(a: &[u8], b: &[u8]) -> Vec<u8> {
    let mut carry = 0;
    let mut digits: Vec<u8> = columns(a, b).map(|(x, y)| take_digit(&mut carry, u32::from(x) + u32::from(y))).collect();
    digits.push(u8::from(carry > 0));
    digits.reverse();
    digits
}

/// `a - b` for `a >= b`.
fn subtract_magnitudes(a: &[u8], b: &[u8]) -> Vec<u8> {
    let mut borrow = 0;
    let mut digits: Vec<u8> = columns(a, b)
        .map(|(x, y)| {
            let difference = 10 + x - y - borrow;
            borrow = u8::from(difference < 10);
            difference % 10
        })
        .collect();
    digits.reverse();
    digits
}

/// Compares integers that may differ in length through leading zeros.
fn compare_magnitudes(a: &[u8], b: &[u8]) -> Ordering {
    let strip = |digits: &[u8]| digits.iter().copied().skip_while(|digit| *digit == 0).collect::<Vec<u8>>();
    let (a, b) = (strip(a), strip(b));
    a.len().cmp(&b.len()).then_with(|| a.cmp(&b))
}

impl Ord for Decimal {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self.negative, other.negative) {
            (false, true) => Ordering::Greater,
            (true, false) => Ordering::Less,
            (negative, _) => {
                let (a, b, _) = self.aligned(other);
                let order = compare_magnitudes(&a, &b);
                if negative { order.reverse() } else { order }
            }
        }
    }
}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = self.integer_digits();
        let mut text = String::with_capacity(self.digits.len() + 3);
        if self.negative {
            text.push('-');
        }
        if whole == 0 {
            text.push('0');
        }
        for (at, digit) in self.digits.iter().enumerate() {
            if at == whole {
                text.push('.');
                text.extend(std::iter::repeat_n('0', self.scale.saturating_sub(self.digits.len())));
            }
            text.push(char::from(b'0' + digit));
        }
        f.write_str(&text)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    fn decimal(text: &str) -> Decimal {
        text.parse().unwrap()
    }

    #[test]
    fn canonical_text() {
        for (input, expected) in [
            ("0", "0"),
            ("-0", "0"),
            ("-0.000", "0"),
            ("007", "7"),
            ("1.50", "1.5"),
            ("100", "100"),
            ("100.00", "100"),
            ("0.001", "0.001"),
            ("-0.5", "-0.5"),
            ("+3", "3"),
            ("1E-29", "0.00000000000000000000000000001"),
            ("1.5e3", "1500"),
            ("120e-1", "12"),
            ("0e999999999999999999999", "0"),
            ("12345678901234567890.123456789", "12345678901234567890.123456789"),
        ] {
            assert_eq!(decimal(input).to_string(), expected, "{input}");
        }
    }

    #[test]
    fn refused_text() {
        for input in ["", "-", ".5", "5.", "1.2.3", "1e", "e5", "NaN", "Infinity", " 1", "1_000", "0x10", "--1", "１"]
        {
            assert_eq!(input.parse::<Decimal>(), Err(DecimalError::Syntax), "{input}");
        }
        for input in ["1e1000", "1e-1001", "1e99999999999999999999", &"9".repeat(1001)] {
            assert_eq!(input.parse::<Decimal>(), Err(DecimalError::TooLong), "{input}");
        }
        assert_eq!(decimal("1e999").to_string().len(), 1000);
    }

    #[test]
    fn precision_and_scale() {
        let money = Precision { precision: 18, scale: 4 };
        for (input, fits, padded) in [
            ("0", true, "0.0000"),
            ("12.5", true, "12.5000"),
            ("12.50000000", true, "12.5000"),
            ("99999999999999.9999", true, "99999999999999.9999"),
            ("100000000000000", false, "100000000000000.0000"),
            ("0.00001", false, "0.00001"),
        ] {
            assert_eq!(decimal(input).fits(money), fits, "{input}");
            assert_eq!(decimal(input).padded(4), padded, "{input}");
        }
        assert_eq!(decimal("7").padded(0), "7");
    }

    #[test]
    fn scaled_integers() {
        assert_eq!(decimal("12.5").to_scaled(4), Some(125_000));
        assert_eq!(decimal("-0.0001").to_scaled(4), Some(-1));
        assert_eq!(decimal("0").to_scaled(18), Some(0));
        assert_eq!(decimal("0.00001").to_scaled(4), None);
        assert_eq!(decimal("-9223372036854775808").to_i64(), Some(i64::MIN));
        assert_eq!(decimal("9223372036854775808").to_i64(), None);
        assert_eq!(Decimal::from_scaled(i64::MIN, 4).to_string(), "-922337203685477.5808");
        assert_eq!(Decimal::from_scaled(1, 4).to_string(), "0.0001");
    }

    #[test]
    fn roundings() {
        use Rounding::{Ceiling, Down, Floor, HalfDown, HalfEven, HalfUp, Up};
        // As in the table of Java's `RoundingMode`.
        let modes = [Up, Down, Ceiling, Floor, HalfUp, HalfDown, HalfEven];
        let table: [(&str, [&str; 7]); 14] = [
            ("5.5", ["6", "5", "6", "5", "6", "5", "6"]),
            ("2.5", ["3", "2", "3", "2", "3", "2", "2"]),
            ("1.6", ["2", "1", "2", "1", "2", "2", "2"]),
            ("1.1", ["2", "1", "2", "1", "1", "1", "1"]),
            ("1", ["1"; 7]),
            ("-1", ["-1"; 7]),
            ("-1.1", ["-2", "-1", "-1", "-2", "-1", "-1", "-1"]),
            ("-1.6", ["-2", "-1", "-1", "-2", "-2", "-2", "-2"]),
            ("-2.5", ["-3", "-2", "-2", "-3", "-3", "-2", "-2"]),
            ("-5.5", ["-6", "-5", "-5", "-6", "-6", "-5", "-6"]),
            ("0.5", ["1", "0", "1", "0", "1", "0", "0"]),
            ("-0.04", ["-1", "0", "0", "-1", "0", "0", "0"]),
            ("0.51", ["1", "0", "1", "0", "1", "1", "1"]),
            ("999.5000000000000000000000000000000001", ["1000", "999", "1000", "999", "1000", "1000", "1000"]),
        ];
        for (number, expected) in table {
            for (mode, expected) in modes.iter().zip(expected) {
                assert_eq!(decimal(number).round(0, *mode).to_string(), expected, "{number} {mode:?}");
                let cents = decimal(&format!("{number}e-2")).round(2, *mode);
                assert_eq!(cents, decimal(&format!("{expected}e-2")), "{number} hundredths {mode:?}");
            }
        }
        assert_eq!(decimal("0.0005").round(2, Up).to_string(), "0.01");
        assert_eq!(decimal("1e-900").round(3, Ceiling).to_string(), "0.001");
    }

    #[test]
    fn a_sum_is_shared_without_losing_a_cent() {
        let shared = |sum: &str, weights: &[&str], scale| -> Result<Vec<String>, AllocationError> {
            let weights: Vec<Decimal> = weights.iter().map(|weight| decimal(weight)).collect();
            Ok(decimal(sum).allocate(&weights, scale)?.iter().map(|share| share.padded(scale)).collect())
        };
        let given = |sum, weights: &[&str], scale| shared(sum, weights, scale).unwrap();
        assert_eq!(given("100", &["1", "1", "1"], 2), ["33.34", "33.33", "33.33"]);
        assert_eq!(given("-100", &["1", "1", "1"], 2), ["-33.34", "-33.33", "-33.33"]);
        assert_eq!(given("0.05", &["3", "7"], 2), ["0.02", "0.03"]);
        assert_eq!(given("0.05", &["0.3", "0", "0.7"], 2), ["0.02", "0.00", "0.03"]);
        assert_eq!(given("100", &["33.3", "33.3", "33.4"], 0), ["33", "33", "34"]);
        assert_eq!(given("0", &["1", "2"], 3), ["0.000", "0.000"]);
        assert_eq!(given("1", &["1e-500", "1e-500"], 0), ["1", "0"]);
        assert_eq!(
            given("12345678901234567890123456789012345678.91", &["1"], 2),
            ["12345678901234567890123456789012345678.91"]
        );
        assert_eq!(shared("0.001", &["1"], 2), Err(AllocationError::PartOfUnit));
        assert_eq!(shared("1", &["2", "-1"], 2), Err(AllocationError::NegativeWeight));
        assert_eq!(shared("1", &[], 2), Err(AllocationError::NoWeights));
        assert_eq!(shared("1", &["0", "0"], 2), Err(AllocationError::NoWeights));
        assert_eq!(shared("1", &["1"], u32::MAX), Err(AllocationError::TooSmall));
    }

    #[test]
    fn what_a_backend_holds() {
        let table = [
            ("0", true),
            ("79228162514264337593543950335", true),
            ("79228162514264337593543950336", false),
            ("-7.9228162514264337593543950335", true),
            ("7.9228162514264337593543950336", false),
            ("1e-28", true),
            ("1e-29", false),
            ("1e28", true),
            ("1e29", false),
            ("1e999", false),
        ];
        for (number, holds) in table {
            assert_eq!(Backend::RustDecimal.holds(&decimal(number)), holds, "{number}");
            assert!(Backend::BigDecimal.holds(&decimal(number)), "{number}");
        }
        for backend in Backend::ALL {
            assert_eq!(Backend::named(backend.name()), Some(backend));
        }
    }

    #[test]
    fn patterns() {
        let of = |precision, scale| pattern(Some(Precision { precision, scale }));
        assert_eq!(of(1, 0), "^-?[0-9]$");
        assert_eq!(of(5, 5), r"^-?0(\.[0-9]{1,5})?$");
        assert_eq!(of(38, 0), "^-?(0|[1-9][0-9]{0,37})$");
        assert_eq!(pattern(None), r"^-?(0|[1-9][0-9]{0,999})(\.[0-9]{1,1000})?$");
        let schema = json_schema(Some(Precision { precision: 1, scale: 0 }));
        assert_eq!(schema.to_string(), r#"{"format":"decimal","pattern":"^-?[0-9]$","type":"string"}"#);
    }

    fn magnitude(value: Decimal) -> Decimal {
        if value.is_negative() { value.neg() } else { value }
    }

    /// Precisions whose patterns a generator can follow.
    fn precision() -> impl Strategy<Value = Option<Precision>> {
        (0_u32..=38, 0_u32..=38)
            .prop_map(|(a, b)| (a.max(b) > 0).then_some(Precision { precision: a.max(b), scale: a.min(b) }))
    }

    proptest! {
        #[test]
        fn what_matches_the_pattern_is_a_value((precision, text) in precision().prop_flat_map(|precision| {
            let pattern = pattern(precision);
            let pattern = pattern.trim_start_matches('^').trim_end_matches('$').to_owned();
            (Just(precision), proptest::string::string_regex(&pattern).unwrap())
        })) {
            let value = decimal(&text);
            prop_assert!(precision.is_none_or(|precision| value.fits(precision)), "{}", text);
        }

        #[test]
        fn every_answer_matches_the_pattern(digits in "-?[0-9]{1,38}", scale in 0_u32..=38) {
            let value = decimal(&format!("{digits}e-{scale}"));
            let any = regex::Regex::new(&pattern(None)).unwrap();
            prop_assert!(any.is_match(&value.to_string()), "{}", value);
            let precision = Precision { precision: 38, scale };
            if value.fits(precision) {
                let money = regex::Regex::new(&pattern(Some(precision))).unwrap();
                prop_assert!(money.is_match(&value.padded(scale)), "{}", value);
            }
        }

        #[test]
        fn rounding_gives_a_neighbour(a in any::<i64>(), s in 0_u32..18, scale in 0_u32..18, mode in 0..Rounding::ALL.len()) {
            let value = Decimal::from_scaled(a, s);
            let rounded = value.round(scale, Rounding::ALL[mode]);
            prop_assert!(rounded.fraction_digits() <= scale as usize);
            let off = rounded.sub(&value);
            let unit = Decimal::from_scaled(1, scale);
            prop_assert!(magnitude(off) < unit);
            prop_assert_eq!(rounded.round(scale, Rounding::Up), rounded);
        }

        #[test]
        fn shares_make_the_sum(
            sum in any::<i64>(), s in 0_u32..6, more in 0_u32..4,
            weights in proptest::collection::vec((0_i64..1_000_000, 0_u32..6), 1..12),
        ) {
            let sum = Decimal::from_scaled(sum, s);
            let weights: Vec<Decimal> = weights.iter().map(|(n, t)| Decimal::from_scaled(*n, *t)).collect();
            let whole = weights.iter().fold(Decimal::default(), |sum, weight| sum.add(weight));
            prop_assume!(!whole.is_zero());
            let scale = s + more;
            let shares = sum.allocate(&weights, scale).unwrap();
            prop_assert_eq!(shares.iter().fold(Decimal::default(), |sum, share| sum.add(share)), sum.clone());
            let unit = Decimal::from_scaled(1, scale).mul(&whole);
            for (share, weight) in shares.iter().zip(&weights) {
                prop_assert!(share.fraction_digits() <= scale as usize);
                // |share - sum * weight / whole| < unit, without dividing.
                let off = share.mul(&whole).sub(&sum.mul(weight));
                prop_assert!(magnitude(off) < unit);
            }
        }

        #[test]
        fn products_agree_with_those_of_halves(a in "[0-9]{1,60}", b in "[0-9]{1,60}", cut in 0_usize..60) {
            // a = high * 10^n + low, of which each product is shorter.
            let cut = cut.min(a.len());
            let (high, low) = a.split_at(a.len() - cut);
            let high = decimal(&format!("{}e{cut}", if high.is_empty() { "0" } else { high }));
            let low = decimal(if low.is_empty() { "0" } else { low });
            let (whole, b) = (decimal(&a), decimal(&b));
            prop_assert_eq!(high.add(&low), whole.clone());
            prop_assert_eq!(whole.mul(&b), high.mul(&b).add(&low.mul(&b)));
            prop_assert_eq!(whole.mul(&b), b.mul(&whole));
        }

        #[test]
        fn agrees_with_integers(a in -1_000_000_000_i64..1_000_000_000, b in -1_000_000_000_i64..1_000_000_000, s in 0_u32..6, t in 0_u32..6) {
            let (x, y) = (Decimal::from_scaled(a, s), Decimal::from_scaled(b, t));
            let (wide_a, wide_b) = (i128::from(a) * 10_i128.pow(t), i128::from(b) * 10_i128.pow(s));
            let scaled = |value: Decimal| i128::from(value.to_scaled(s + t).unwrap());
            prop_assert_eq!(scaled(x.mul(&y)), i128::from(a) * i128::from(b));
            prop_assert_eq!(x.add(&y), decimal(&format!("{}e-{}", wide_a + wide_b, s + t)));
            prop_assert_eq!(x.sub(&y), decimal(&format!("{}e-{}", wide_a - wide_b, s + t)));
            prop_assert_eq!(x.cmp(&y), wide_a.cmp(&wide_b));
            prop_assert_eq!(decimal(&x.to_string()), x);
        }
    }
}
