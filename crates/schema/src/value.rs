//! Values in canonical form, and the one place where text becomes a value.

use std::cmp::Ordering;
use std::fmt;

use base64::Engine as _;
use serde::{Deserialize, Serialize};

use crate::decimal::{Decimal, DecimalError};
use crate::ir::{Precision, Scalar};

/// The largest integer that JavaScript and every JSON reader hold exactly: 2^53 - 1.
pub const MAX_SAFE_INTEGER: u64 = (1 << 53) - 1;

/// A value of a [`Scalar`] or an enum, in canonical form.
///
/// The variant follows from the type; equality of canonical values is equality of values:
///
/// | type | variant | canonical form |
/// |---|---|---|
/// | `Boolean` | `Bool` | |
/// | `Int`, `BigInt` | `Int` | |
/// | `Float` | `Float` | finite, `-0` made `0` |
/// | `String`, `Cuid` | `Text` | as given, no NUL |
/// | enums | `Text` | the *stored* text |
/// | `Decimal` | `Text` | plain notation, no exponent, no `-0`, no leading zeros, no trailing fraction zeros |
/// | `DateTime` | `Text` | `2026-01-31T10:00:00.000000Z`, six digits, years 0001 to 9999 |
/// | `Date` | `Text` | `2026-01-31` |
/// | `Uuid` | `Text` | lower case with hyphens |
/// | `Json` | `Text` | compact JSON text |
/// | `Bytes` | `Bytes` | |
/// | lists | `List` | of the element's form |
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Value {
    /// SQL NULL, JSON null.
    Null,
    /// A boolean.
    Bool(bool),
    /// A 64-bit integer.
    Int(i64),
    /// A finite float.
    Float(f64),
    /// Text; see the table above.
    Text(String),
    /// Octets.
    Bytes(Vec<u8>),
    /// A scalar list.
    List(Vec<Value>),
}

/// Why a text is no value of a type. `Display` is a sentence for the caller that never contains the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Invalid {
    /// Not of the type's form.
    Form(Scalar),
    /// An `Int` beyond ±(2^53-1), a `BigInt` beyond 64 bits, a `Float` that is not finite, a year beyond 9999.
    OutOfRange(Scalar),
    /// A string with a NUL character.
    Nul,
    /// More digits than `Decimal(p, s)` holds.
    Digits(Precision),
    /// More fraction digits than the type holds.
    Fraction(u32),
    /// No offset from UTC.
    NoOffset,
    /// A leap second.
    LeapSecond,
}

impl Invalid {
    /// The stable code of the failing member in a 422.
    pub fn code(self) -> &'static str {
        match self {
            Self::Form(_) | Self::NoOffset | Self::LeapSecond => "type",
            Self::OutOfRange(_) => "out_of_range",
            Self::Nul => "nul",
            Self::Digits(_) | Self::Fraction(_) => "precision",
        }
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Form(scalar) => match scalar {
                Scalar::String => "must be a string",
                Scalar::Int | Scalar::BigInt => "must be an integer",
                Scalar::Float => "must be a number",
                Scalar::Boolean => "must be `true` or `false`",
                Scalar::Decimal(_) => "must be a decimal number in plain notation, such as `12.34`",
                Scalar::DateTime => "must be an RFC 3339 date and time, such as `2026-01-31T10:00:00Z`",
                Scalar::Date => "must be a date, such as `2026-01-31`",
                Scalar::Uuid => "must be a UUID with hyphens",
                Scalar::Cuid => "must be a cuid: a lower-case letter, then 23 to 31 lower-case letters or digits",
                Scalar::Bytes => "must be base64 with padding",
                Scalar::Json => "must be JSON",
            },
            Self::OutOfRange(scalar) => match scalar {
                Scalar::Int => "must be between -9007199254740991 and 9007199254740991",
                Scalar::BigInt => "must be between -9223372036854775808 and 9223372036854775807",
                Scalar::DateTime => "must lie in the years 0001 to 9999, in UTC",
                Scalar::Decimal(_) => return DecimalError::TooLong.fmt(f),
                _ => "must be finite",
            },
            Self::Nul => "must not contain a NUL character",
            Self::Digits(Precision { precision, scale }) => {
                let whole = precision - scale.min(precision);
                return write!(f, "must have at most {whole} {} before the point", plural(whole));
            }
            Self::Fraction(scale) => {
                return write!(f, "must have at most {scale} {} after the point", plural(*scale));
            }
            Self::NoOffset => "must have an offset from UTC, such as `Z` or `+01:00`",
            Self::LeapSecond => "must not be a leap second",
        };
        f.write_str(text)
    }
}

impl std::error::Error for Invalid {}

fn plural(count: u32) -> &'static str {
    if count == 1 { "digit" } else { "digits" }
}

/// Turns text into the canonical value of a scalar: path segments, query parameters, literals of the language,
/// and the members that JSON writes as strings.
pub fn parse_text(scalar: Scalar, text: &str) -> Result<Value, Invalid> {
    let form = Invalid::Form(scalar);
    match scalar {
        Scalar::String => string(text),
        Scalar::Int | Scalar::BigInt => {
            let digits = text.strip_prefix('-').unwrap_or(text);
            if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                return Err(form);
            }
            let value: i64 = text.parse().map_err(|_| Invalid::OutOfRange(scalar))?;
            integer(scalar, value)
        }
        Scalar::Float => {
            // Rust also reads `inf`, `nan`, `.5` and `5.`, which JSON does not know.
            if !is_number(text) {
                return Err(form);
            }
            float(text.parse().map_err(|_| form)?)
        }
        Scalar::Boolean => match text {
            "true" => Ok(Value::Bool(true)),
            "false" => Ok(Value::Bool(false)),
            _ => Err(form),
        },
        Scalar::Decimal(precision) => decimal(precision, text),
        Scalar::DateTime => instant::parse(text).map(Value::Text),
        Scalar::Date => date(text).ok_or(form),
        Scalar::Uuid => uuid(text).ok_or(form),
        Scalar::Cuid => cuid(text).ok_or(form),
        Scalar::Bytes => base64::engine::general_purpose::STANDARD.decode(text).map(Value::Bytes).map_err(|_| form),
        Scalar::Json => json(text),
    }
}

/// An `Int` or `BigInt`; an `Int` must be safe in JavaScript.
pub fn integer(scalar: Scalar, value: i64) -> Result<Value, Invalid> {
    if scalar == Scalar::Int && value.unsigned_abs() > MAX_SAFE_INTEGER {
        return Err(Invalid::OutOfRange(scalar));
    }
    Ok(Value::Int(value))
}

/// A `Float`: finite, with `-0` made `0`.
pub fn float(value: f64) -> Result<Value, Invalid> {
    if value.is_finite() { Ok(Value::Float(value + 0.0)) } else { Err(Invalid::OutOfRange(Scalar::Float)) }
}

/// A `String`: any text without NUL, which PostgreSQL cannot hold.
pub fn string(text: &str) -> Result<Value, Invalid> {
    if text.contains('\0') { Err(Invalid::Nul) } else { Ok(Value::Text(text.to_owned())) }
}

/// A `Decimal` in plain notation that `precision` holds without rounding; trailing zeros never count as excess.
pub fn decimal(precision: Option<Precision>, text: &str) -> Result<Value, Invalid> {
    let scalar = Scalar::Decimal(precision);
    if text.contains(['e', 'E']) {
        return Err(Invalid::Form(scalar));
    }
    let value: Decimal = text.parse().map_err(|error| match error {
        DecimalError::Syntax => Invalid::Form(scalar),
        DecimalError::TooLong => Invalid::OutOfRange(scalar),
    })?;
    if let Some(precision) = precision {
        if value.fraction_digits() > precision.scale as usize {
            return Err(Invalid::Fraction(precision.scale));
        }
        if !value.fits(precision) {
            return Err(Invalid::Digits(precision));
        }
    }
    Ok(Value::Text(value.to_string()))
}

/// JSON text without insignificant white space. Numbers and the order of members stay as written.
fn json(text: &str) -> Result<Value, Invalid> {
    let form = Invalid::Form(Scalar::Json);
    let tree: serde_json::Value = serde_json::from_str(text).map_err(|_| form)?;
    if has_nul(&tree) {
        return Err(Invalid::Nul);
    }
    let mut compact = String::with_capacity(text.len());
    let (mut quoted, mut escaped) = (false, false);
    for c in text.chars() {
        if quoted || !matches!(c, ' ' | '\t' | '\n' | '\r') {
            compact.push(c);
        }
        match c {
            '"' if !escaped => quoted = !quoted,
            _ => {}
        }
        escaped = quoted && c == '\\' && !escaped;
    }
    Ok(Value::Text(compact))
}

fn has_nul(tree: &serde_json::Value) -> bool {
    match tree {
        serde_json::Value::String(text) => text.contains('\0'),
        serde_json::Value::Array(items) => items.iter().any(has_nul),
        serde_json::Value::Object(members) => members.iter().any(|(name, value)| name.contains('\0') || has_nul(value)),
        _ => false,
    }
}

fn uuid(text: &str) -> Option<Value> {
    let well_formed = text.len() == 36
        && text.bytes().enumerate().all(|(at, b)| match at {
            8 | 13 | 18 | 23 => b == b'-',
            _ => b.is_ascii_hexdigit(),
        });
    well_formed.then(|| Value::Text(text.to_ascii_lowercase()))
}

fn cuid(text: &str) -> Option<Value> {
    let well_formed = (24..=32).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    well_formed.then(|| Value::Text(text.to_owned()))
}

fn date(text: &str) -> Option<Value> {
    let (_, rest) = instant::Civil::parse_prefix(text)?;
    rest.is_empty().then(|| Value::Text(text.to_owned()))
}

/// The grammar of a JSON number.
fn is_number(text: &str) -> bool {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent.strip_prefix(['+', '-']).unwrap_or(exponent))),
        None => (text, None),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits(whole.strip_prefix('-').unwrap_or(whole)) && fraction.is_none_or(digits) && exponent.is_none_or(digits)
}

impl Value {
    /// The order of two values of one scalar; `None` if one is null, a list, or of another type.
    ///
    /// Text compares by code point, which for canonical dates, times and UUIDs is the order of their values.
    pub fn compare(&self, other: &Self, scalar: Scalar) -> Option<Ordering> {
        match (self, other) {
            (Self::Bool(a), Self::Bool(b)) => Some(a.cmp(b)),
            (Self::Int(a), Self::Int(b)) => Some(a.cmp(b)),
            (Self::Float(a), Self::Float(b)) => a.partial_cmp(b),
            (Self::Bytes(a), Self::Bytes(b)) => Some(a.cmp(b)),
            (Self::Text(a), Self::Text(b)) if matches!(scalar, Scalar::Decimal(_)) => {
                Some(a.parse::<Decimal>().ok()?.cmp(&b.parse::<Decimal>().ok()?))
            }
            (Self::Text(a), Self::Text(b)) => Some(a.cmp(b)),
            _ => None,
        }
    }
}

/// Instants and calendar dates of the proleptic Gregorian calendar, years 0001 to 9999.
pub mod instant {
    use super::{Invalid, Scalar};

    const SECONDS_PER_DAY: i64 = 86_400;
    const MICROS: i64 = 1_000_000;
    const DAY_MICROS: i64 = SECONDS_PER_DAY * MICROS;

    /// A calendar date.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
    pub(super) struct Civil {
        year: i64,
        month: i64,
        day: i64,
    }

    impl Civil {
        /// Reads a valid `2026-01-31` from the start of the text.
        pub(super) fn parse_prefix(text: &str) -> Option<(Self, &str)> {
            let (year, rest) = number(text, 4)?;
            let (month, rest) = number(rest.strip_prefix('-')?, 2)?;
            let (day, rest) = number(rest.strip_prefix('-')?, 2)?;
            let date = Self { year, month, day };
            // An impossible day (31 April) comes back from the day count as another date.
            let valid = year >= 1 && (1..=12).contains(&month) && (1..=31).contains(&day);
            (valid && Self::from_days(date.days()) == Some(date)).then_some((date, rest))
        }

        /// Days since 1970-01-01 (Howard Hinnant's `days_from_civil`: years begin in March, eras of 400 years).
        fn days(self) -> i64 {
            let year = if self.month <= 2 { self.year - 1 } else { self.year };
            let era = year.div_euclid(400);
            let year_of_era = year.rem_euclid(400);
            let day_of_year = (153 * ((self.month + 9) % 12) + 2) / 5 + self.day - 1;
            era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
        }

        /// The inverse of [`Self::days`]; `None` outside the years 0001 to 9999.
        fn from_days(days: i64) -> Option<Self> {
            let days = days.checked_add(719_468)?;
            let era = days.div_euclid(146_097);
            let day_of_era = days.rem_euclid(146_097);
            let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
            let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
            let march_month = (5 * day_of_year + 2) / 153;
            let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
            let year = year_of_era + era * 400 + i64::from(month <= 2);
            let day = day_of_year - (153 * march_month + 2) / 5 + 1;
            (1..=9999).contains(&year).then_some(Self { year, month, day })
        }
    }

    /// `count` digits from the start of the text.
    fn number(text: &str, count: usize) -> Option<(i64, &str)> {
        let (digits, rest) = text.split_at_checked(count)?;
        if !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        Some((digits.parse().ok()?, rest))
    }

    /// RFC 3339 to canonical text. An offset is required, and digits beyond microseconds must be 0.
    pub(super) fn parse(text: &str) -> Result<String, Invalid> {
        let form = Invalid::Form(Scalar::DateTime);
        let (date, rest) = Civil::parse_prefix(text).ok_or(form)?;
        let rest = rest.strip_prefix(['T', 't']).ok_or(form)?;
        let (hour, rest) = number(rest, 2).ok_or(form)?;
        let (minute, rest) = rest.strip_prefix(':').and_then(|rest| number(rest, 2)).ok_or(form)?;
        let (second, rest) = rest.strip_prefix(':').and_then(|rest| number(rest, 2)).ok_or(form)?;
        let (micros, rest) = fraction(rest)?;
        let offset = offset(rest)?;
        if hour > 23 || minute > 59 || second > 60 {
            return Err(form);
        }
        if second == 60 {
            return Err(Invalid::LeapSecond);
        }
        let seconds = date.days() * SECONDS_PER_DAY + hour * 3600 + minute * 60 + second - offset;
        from_unix_micros(seconds * MICROS + micros).ok_or(Invalid::OutOfRange(Scalar::DateTime))
    }

    /// An optional `.123` as microseconds.
    fn fraction(text: &str) -> Result<(i64, &str), Invalid> {
        let Some(digits) = text.strip_prefix('.') else {
            return Ok((0, text));
        };
        let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
        let (digits, rest) = digits.split_at(end);
        if digits.is_empty() {
            return Err(Invalid::Form(Scalar::DateTime));
        }
        if digits.bytes().skip(6).any(|b| b != b'0') {
            return Err(Invalid::Fraction(6));
        }
        let micros = digits.bytes().chain(std::iter::repeat(b'0')).take(6);
        Ok((micros.fold(0, |sum, b| sum * 10 + i64::from(b - b'0')), rest))
    }

    /// `Z` or `+01:00`, in seconds.
    fn offset(text: &str) -> Result<i64, Invalid> {
        let sign = match text.as_bytes().first() {
            None => return Err(Invalid::NoOffset),
            Some(b'Z' | b'z') if text.len() == 1 => return Ok(0),
            Some(b'+') => 1,
            Some(b'-') => -1,
            Some(_) => return Err(Invalid::Form(Scalar::DateTime)),
        };
        let parts = number(text.get(1..).unwrap_or_default(), 2)
            .and_then(|(hours, rest)| Some((hours, number(rest.strip_prefix(':')?, 2)?)));
        match parts {
            Some((hours @ 0..=23, (minutes @ 0..=59, ""))) => Ok(sign * (hours * 3600 + minutes * 60)),
            _ => Err(Invalid::Form(Scalar::DateTime)),
        }
    }

    /// Canonical text of an instant, given as microseconds since 1970-01-01T00:00:00Z; `None` outside the years
    /// 0001 to 9999.
    pub fn from_unix_micros(micros: i64) -> Option<String> {
        let text = canonical(micros.div_euclid(DAY_MICROS), micros.rem_euclid(DAY_MICROS))?;
        std::str::from_utf8(&text).ok().map(str::to_owned)
    }

    /// Canonical text of an instant, given as days since 1970-01-01 and microseconds of that day; `None` outside the
    /// years 0001 to 9999. Its first ten octets are the date.
    pub fn canonical(days: i64, micros: i64) -> Option<[u8; 27]> {
        let date = Civil::from_days(days)?;
        let seconds = micros / MICROS;
        let mut text = *b"0000-00-00T00:00:00.000000Z";
        for (place, number) in [
            (0..4, date.year),
            (5..7, date.month),
            (8..10, date.day),
            (11..13, seconds / 3600),
            (14..16, seconds / 60 % 60),
            (17..19, seconds % 60),
            (20..26, micros % MICROS),
        ] {
            fill_digits(text.get_mut(place)?, number.unsigned_abs());
        }
        Some(text)
    }

    /// Fills the slot with the last digits of a number, leading zeros included.
    fn fill_digits(slot: &mut [u8], number: u64) {
        slot.iter_mut().rev().fold(number, |rest, digit| {
            *digit = b'0' + u8::try_from(rest % 10).unwrap_or(0);
            rest / 10
        });
    }

    /// Microseconds since 1970-01-01T00:00:00Z of a canonical text; `None` for any other text.
    pub fn to_unix_micros(text: &str) -> Option<i64> {
        let (date, rest) = Civil::parse_prefix(text)?;
        let (hour, rest) = number(rest.strip_prefix('T')?, 2)?;
        let (minute, rest) = number(rest.strip_prefix(':')?, 2)?;
        let (second, rest) = number(rest.strip_prefix(':')?, 2)?;
        let (micros, rest) = number(rest.strip_prefix('.')?, 6)?;
        let seconds = date.days() * SECONDS_PER_DAY + hour * 3600 + minute * 60 + second;
        (rest == "Z").then_some(seconds * MICROS + micros)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    fn text(scalar: Scalar, input: &str) -> Result<String, Invalid> {
        match parse_text(scalar, input)? {
            Value::Text(text) => Ok(text),
            other => Ok(format!("{other:?}")),
        }
    }

    #[test]
    fn date_times_become_utc_with_six_digits() {
        for (input, expected) in [
            ("2026-01-31T10:00:00Z", "2026-01-31T10:00:00.000000Z"),
            ("2026-01-31t10:00:00.5z", "2026-01-31T10:00:00.500000Z"),
            ("2026-01-31T10:00:00.123456000+01:00", "2026-01-31T09:00:00.123456Z"),
            ("2026-01-01T00:30:00+02:00", "2025-12-31T22:30:00.000000Z"),
            ("2024-02-29T23:59:59-00:01", "2024-03-01T00:00:59.000000Z"),
            ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00.000000Z"),
            ("9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999999Z"),
            ("2000-02-29T00:00:00Z", "2000-02-29T00:00:00.000000Z"),
        ] {
            assert_eq!(text(Scalar::DateTime, input).unwrap(), expected, "{input}");
        }
    }

    #[test]
    fn date_times_that_are_refused() {
        let form = Invalid::Form(Scalar::DateTime);
        let range = Invalid::OutOfRange(Scalar::DateTime);
        for (input, error) in [
            ("2026-01-31T10:00:00", Invalid::NoOffset),
            ("2026-01-31T10:00:00.1234567Z", Invalid::Fraction(6)),
            ("2016-12-31T23:59:60Z", Invalid::LeapSecond),
            ("0001-01-01T00:00:00+00:01", range),
            ("9999-12-31T23:59:59-00:01", range),
            ("0000-01-01T00:00:00Z", form),
            ("2026-02-29T00:00:00Z", form),
            ("2026-04-31T00:00:00Z", form),
            ("2026-13-01T00:00:00Z", form),
            ("2026-01-01T24:00:00Z", form),
            ("2026-01-01T00:60:00Z", form),
            ("2026-01-01T00:00:61Z", form),
            ("2026-01-01T00:00:00.Z", form),
            ("2026-01-01T00:00:00+0100", form),
            ("2026-01-01T00:00:00+24:00", form),
            ("2026-01-01T00:00:00ZZ", form),
            ("2026-01-01 00:00:00Z", form),
            ("2026-01-01", form),
            ("１026-01-01T00:00:00Z", form),
            ("", form),
        ] {
            assert_eq!(text(Scalar::DateTime, input), Err(error), "{input}");
        }
    }

    #[test]
    fn other_scalars() {
        let good = [
            (Scalar::Date, "2024-02-29", "2024-02-29"),
            (Scalar::Uuid, "0198A5B2-0000-7000-8000-00000000000F", "0198a5b2-0000-7000-8000-00000000000f"),
            (Scalar::Cuid, "tz4a98xxat96iws9zmbrgj3a", "tz4a98xxat96iws9zmbrgj3a"),
            (Scalar::Int, "-42", "Int(-42)"),
            (Scalar::Int, "9007199254740991", "Int(9007199254740991)"),
            (Scalar::BigInt, "9223372036854775807", "Int(9223372036854775807)"),
            (Scalar::Float, "-0", "Float(0.0)"),
            (Scalar::Float, "1.5e3", "Float(1500.0)"),
            (Scalar::Boolean, "true", "Bool(true)"),
            (Scalar::Bytes, "aGk=", "Bytes([104, 105])"),
            (Scalar::Json, " { \"a b\" : [1.50, \"\\\" x\"] }\n", "{\"a b\":[1.50,\"\\\" x\"]}"),
            (Scalar::Decimal(None), "1.50", "1.5"),
            (Scalar::Decimal(Some(Precision { precision: 5, scale: 2 })), "123.4500", "123.45"),
            (Scalar::String, "", ""),
        ];
        for (scalar, input, expected) in good {
            assert_eq!(text(scalar, input).as_deref(), Ok(expected), "{input}");
        }
        let money = Precision { precision: 5, scale: 2 };
        let bad = [
            (Scalar::Date, "2026-02-30", Invalid::Form(Scalar::Date)),
            (Scalar::Date, "2026-01-31T00:00:00Z", Invalid::Form(Scalar::Date)),
            (Scalar::Uuid, "0198a5b2000070008000000000000000", Invalid::Form(Scalar::Uuid)),
            (Scalar::Cuid, "short", Invalid::Form(Scalar::Cuid)),
            (Scalar::Cuid, "TZ4A98XXAT96IWS9ZMBRGJ3A", Invalid::Form(Scalar::Cuid)),
            (Scalar::Int, "1.0", Invalid::Form(Scalar::Int)),
            (Scalar::Int, "+1", Invalid::Form(Scalar::Int)),
            (Scalar::Int, "9007199254740992", Invalid::OutOfRange(Scalar::Int)),
            (Scalar::BigInt, "9223372036854775808", Invalid::OutOfRange(Scalar::BigInt)),
            (Scalar::Float, "NaN", Invalid::Form(Scalar::Float)),
            (Scalar::Float, ".5", Invalid::Form(Scalar::Float)),
            (Scalar::Float, "1e400", Invalid::OutOfRange(Scalar::Float)),
            (Scalar::Boolean, "1", Invalid::Form(Scalar::Boolean)),
            (Scalar::Bytes, "aGk", Invalid::Form(Scalar::Bytes)),
            (Scalar::Json, "{", Invalid::Form(Scalar::Json)),
            (Scalar::Json, "\"\\u0000\"", Invalid::Nul),
            (Scalar::String, "a\0b", Invalid::Nul),
            (Scalar::Decimal(None), "1e3", Invalid::Form(Scalar::Decimal(None))),
            (Scalar::Decimal(Some(money)), "1234", Invalid::Digits(money)),
            (Scalar::Decimal(Some(money)), "1.234", Invalid::Fraction(2)),
        ];
        for (scalar, input, error) in bad {
            assert_eq!(text(scalar, input), Err(error), "{input}");
        }
    }

    #[test]
    fn decimals_compare_by_value() {
        let value = |text: &str| Value::Text(text.to_owned());
        assert_eq!(value("10").compare(&value("9"), Scalar::Decimal(None)), Some(Ordering::Greater));
        assert_eq!(value("10").compare(&value("9"), Scalar::String), Some(Ordering::Less));
        assert_eq!(Value::Null.compare(&value("9"), Scalar::String), None);
    }

    proptest! {
        #[test]
        fn instants_round_trip(micros in -62_135_596_800_000_000_i64..253_402_300_800_000_000) {
            let text = instant::from_unix_micros(micros).unwrap();
            prop_assert_eq!(instant::to_unix_micros(&text), Some(micros));
            prop_assert_eq!(parse_text(Scalar::DateTime, &text), Ok(Value::Text(text)));
        }

        #[test]
        fn no_text_panics(input in "\\PC{0,40}|[0-9TZ:.+-]{0,40}") {
            for scalar in [Scalar::DateTime, Scalar::Date, Scalar::Json, Scalar::Float, Scalar::Decimal(None), Scalar::Bytes] {
                let _ = parse_text(scalar, &input);
            }
        }
    }
}
