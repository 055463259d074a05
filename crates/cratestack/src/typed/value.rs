//! Rust values and the engine's JSON: exact in both directions, or an error.

use std::fmt;
#[cfg(feature = "decimal-bigdecimal")]
use std::str::FromStr as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, NaiveDate, SecondsFormat, Utc};
use cratestack_engine::json::Json;
use cratestack_schema::decimal as exact;
use uuid::Uuid;

/// Why a value cannot be carried. `Display` is one sentence without a subject; it never repeats the value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValueError(String);

impl ValueError {
    /// A reason such as `must be finite`.
    pub fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

impl fmt::Display for ValueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ValueError {}

/// A value of a field: the scalars of the language, its enums and value objects, and options and lists of them.
pub trait Value: Sized {
    /// The value as it stands in an input.
    fn encode(&self) -> Result<Json, ValueError>;

    /// The value that an answer holds.
    fn decode(json: Json) -> Result<Self, ValueError>;
}

/// A value that filters can compare for equality: every scalar but `Json`, and enums.
#[diagnostic::on_unimplemented(
    message = "values of `{Self}` cannot be compared in a filter or an order",
    note = "fields of type `Json` and lists can only be tested with `is_null` and `is_not_null`"
)]
pub trait Comparable: Value {}

/// A value that has an order.
#[diagnostic::on_unimplemented(
    message = "values of `{Self}` have no order",
    note = "booleans, enums and `Bytes` can be compared with `eq`, `ne`, `is_in` and `not_in` alone"
)]
pub trait Ordered: Comparable {}

fn text(json: Json) -> Result<String, ValueError> {
    match json {
        Json::String(text) => Ok(text),
        _ => Err(ValueError::new("is no text")),
    }
}

impl Value for String {
    fn encode(&self) -> Result<Json, ValueError> {
        Ok(Json::String(self.clone()))
    }

    fn decode(json: Json) -> Result<Self, ValueError> {
        text(json)
    }
}

impl Value for bool {
    fn encode(&self) -> Result<Json, ValueError> {
        Ok(Json::Bool(*self))
    }

    fn decode(json: Json) -> Result<Self, ValueError> {
        match json {
            Json::Bool(value) => Ok(value),
            _ => Err(ValueError::new("is neither true nor false")),
        }
    }
}

/// `Int` is a number in JSON and `BigInt` a string of digits; both are read here, and [`Writer::big`] writes the latter.
///
/// [`Writer::big`]: super::record::Writer::big
impl Value for i64 {
    fn encode(&self) -> Result<Json, ValueError> {
        Ok(Json::Number(self.to_string()))
    }

    fn decode(json: Json) -> Result<Self, ValueError> {
        match json {
            Json::Number(text) | Json::String(text) => text.parse().ok(),
            _ => None,
        }
        .ok_or_else(|| ValueError::new("is no integer of 64 bits"))
    }
}

impl Value for f64 {
    fn encode(&self) -> Result<Json, ValueError> {
        if self.is_finite() { Ok(Json::Number(format!("{self}"))) } else { Err(ValueError::new("must be finite")) }
    }

    fn decode(json: Json) -> Result<Self, ValueError> {
        match json {
            Json::Number(text) => text.parse().ok(),
            _ => None,
        }
        .ok_or_else(|| ValueError::new("is no number"))
    }
}

/// A Rust type of exact decimal numbers: `rust_decimal::Decimal` and `bigdecimal::BigDecimal`, with the feature of each.
pub trait Exact: Sized {
    /// The number. `BigDecimal`s of more than 1000 digits on a side of the point have none.
    fn to_exact(&self) -> Result<exact::Decimal, ValueError>;

    /// What holds the number exactly, with `scale` digits after the point at least where that fits.
    fn of_exact(number: &exact::Decimal, scale: u32) -> Result<Self, ValueError>;
}

#[cfg(feature = "decimal-rust-decimal")]
impl Exact for rust_decimal::Decimal {
    fn to_exact(&self) -> Result<exact::Decimal, ValueError> {
        self.to_string().parse().map_err(|error: exact::DecimalError| ValueError::new(error.to_string()))
    }

    fn of_exact(number: &exact::Decimal, scale: u32) -> Result<Self, ValueError> {
        if !exact::Backend::RustDecimal.holds(number) {
            return Err(ValueError::new("has more digits than `Decimal` holds exactly"));
        }
        let text = number.padded(scale.min(Self::MAX_SCALE));
        // Zeros at the end are no part of the value, and may be what does not fit.
        let held = Self::from_str_exact(&text).or_else(|_| Self::from_str_exact(&number.to_string()));
        held.map_err(|_| ValueError::new("has more digits than `Decimal` holds exactly"))
    }
}

#[cfg(feature = "decimal-bigdecimal")]
impl Exact for bigdecimal::BigDecimal {
    fn to_exact(&self) -> Result<exact::Decimal, ValueError> {
        /// Bits of the digits of two sides of the point.
        const MOST: u64 = 8 * exact::MAX_DIGITS as u64;
        let mut number = std::borrow::Cow::Borrowed(self);
        // Zeros at the end are no part of the value. Before the digits are written, of which there may be any number.
        if number.as_bigint_and_scale().0.bits() > MOST && number.as_bigint_and_scale().0.bits() < 16 * MOST {
            number = std::borrow::Cow::Owned(number.normalized());
        }
        let (digits, scale) = number.as_bigint_and_scale();
        if digits.bits() > MOST {
            return Err(ValueError::new(exact::DecimalError::TooLong.to_string()));
        }
        let text = format!("{digits}e{}", -i128::from(scale));
        exact::Decimal::from_str(&text).map_err(|error| ValueError::new(error.to_string()))
    }

    fn of_exact(number: &exact::Decimal, scale: u32) -> Result<Self, ValueError> {
        let scale = scale.min(u32::try_from(exact::MAX_DIGITS).unwrap_or(u32::MAX));
        Self::from_str(&number.padded(scale)).map_err(|_| ValueError::new("is no decimal"))
    }
}

/// [`Value`] of an [`Exact`] type.
macro_rules! decimal {
    ($($feature:literal $ty:ty),*) => { $(
        #[cfg(feature = $feature)]
        impl Value for $ty {
            fn encode(&self) -> Result<Json, ValueError> {
                Ok(Json::String(self.to_exact()?.to_string()))
            }

            fn decode(json: Json) -> Result<Self, ValueError> {
                let text = text(json)?;
                let scale = text.split_once('.').map_or(0, |(_, fraction)| fraction.len());
                let number = text.parse::<exact::Decimal>().map_err(|error| ValueError::new(error.to_string()))?;
                Self::of_exact(&number, u32::try_from(scale).unwrap_or(0))
            }
        }

        #[cfg(feature = $feature)]
        impl Comparable for $ty {}
        #[cfg(feature = $feature)]
        impl Ordered for $ty {}
    )* };
}

decimal!("decimal-rust-decimal" rust_decimal::Decimal, "decimal-bigdecimal" bigdecimal::BigDecimal);

/// Microseconds, as the databases hold them. An instant with nanoseconds is refused, never cut: make it with
/// `chrono::SubsecRound::trunc_subsecs(6)`.
impl Value for DateTime<Utc> {
    fn encode(&self) -> Result<Json, ValueError> {
        Ok(Json::String(self.to_rfc3339_opts(SecondsFormat::AutoSi, true)))
    }

    fn decode(json: Json) -> Result<Self, ValueError> {
        let instant = DateTime::parse_from_rfc3339(&text(json)?);
        instant.map(|instant| instant.with_timezone(&Utc)).map_err(|_| ValueError::new("is no instant"))
    }
}

impl Value for NaiveDate {
    fn encode(&self) -> Result<Json, ValueError> {
        Ok(Json::String(self.to_string()))
    }

    fn decode(json: Json) -> Result<Self, ValueError> {
        Self::parse_from_str(&text(json)?, "%Y-%m-%d").map_err(|_| ValueError::new("is no date"))
    }
}

impl Value for Uuid {
    fn encode(&self) -> Result<Json, ValueError> {
        Ok(Json::String(self.hyphenated().to_string()))
    }

    fn decode(json: Json) -> Result<Self, ValueError> {
        Self::try_parse(&text(json)?).map_err(|_| ValueError::new("is no UUID"))
    }
}

impl Value for Vec<u8> {
    fn encode(&self) -> Result<Json, ValueError> {
        Ok(Json::String(STANDARD.encode(self)))
    }

    fn decode(json: Json) -> Result<Self, ValueError> {
        STANDARD.decode(text(json)?).map_err(|_| ValueError::new("is no base64"))
    }
}

/// Numbers are those of `serde_json`: integers of 64 bits, and binary floats for all others.
impl Value for serde_json::Value {
    fn encode(&self) -> Result<Json, ValueError> {
        Ok(match self {
            Self::Null => Json::Null,
            Self::Bool(value) => Json::Bool(*value),
            Self::Number(number) => Json::Number(number.to_string()),
            Self::String(text) => Json::String(text.clone()),
            Self::Array(items) => Json::Array(items.iter().map(Value::encode).collect::<Result<_, _>>()?),
            Self::Object(members) => {
                let member = |(name, value): (&String, &Self)| Ok((name.clone(), value.encode()?));
                Json::Object(members.iter().map(member).collect::<Result<_, ValueError>>()?)
            }
        })
    }

    fn decode(json: Json) -> Result<Self, ValueError> {
        Ok(match json {
            Json::Null => Self::Null,
            Json::Bool(value) => Self::Bool(value),
            Json::Number(text) => Self::Number(
                text.parse().map_err(|_| ValueError::new("holds a number that is too large for `serde_json`"))?,
            ),
            Json::String(text) => Self::String(text),
            Json::Array(items) => Self::Array(items.into_iter().map(Self::decode).collect::<Result<_, _>>()?),
            Json::Object(members) => {
                let member = |(name, value): (String, Json)| Ok((name, Self::decode(value)?));
                Self::Object(members.into_iter().map(member).collect::<Result<_, ValueError>>()?)
            }
        })
    }
}

/// `None` is null.
impl<T: Value> Value for Option<T> {
    fn encode(&self) -> Result<Json, ValueError> {
        match self.as_ref().map(T::encode).transpose()? {
            Some(Json::Null) => Err(ValueError::new("must be `None`: no value and a JSON null are the same here")),
            json => Ok(json.unwrap_or(Json::Null)),
        }
    }

    fn decode(json: Json) -> Result<Self, ValueError> {
        match json {
            Json::Null => Ok(None),
            json => T::decode(json).map(Some),
        }
    }
}

impl<T: Value> Value for Vec<T> {
    fn encode(&self) -> Result<Json, ValueError> {
        self.iter().map(T::encode).collect::<Result<_, _>>().map(Json::Array)
    }

    fn decode(json: Json) -> Result<Self, ValueError> {
        match json {
            Json::Array(items) => items.into_iter().map(T::decode).collect(),
            _ => Err(ValueError::new("is no list")),
        }
    }
}

impl<T: Value> Value for Box<T> {
    fn encode(&self) -> Result<Json, ValueError> {
        T::encode(self)
    }

    fn decode(json: Json) -> Result<Self, ValueError> {
        T::decode(json).map(Self::new)
    }
}

macro_rules! marked {
    ($marker:ident: $($ty:ty)*) => { $(impl $marker for $ty {})* };
}

marked!(Comparable: String bool i64 f64 DateTime<Utc> NaiveDate Uuid Vec<u8>);
marked!(Ordered: String i64 f64 DateTime<Utc> NaiveDate Uuid);

/// An enum of the schema. Generated.
pub trait Enumeration: Sized {
    /// The name in the schema; `None` for a stored text that the schema does not know.
    fn known(&self) -> Option<&'static str>;

    /// The variant of that name, or the one that keeps unknown text.
    fn of(name: String) -> Self;
}

/// [`Value::encode`] of an enum.
pub fn encode_enum(value: &impl Enumeration) -> Result<Json, ValueError> {
    let known = value.known().ok_or_else(|| ValueError::new("is no value that the schema knows"))?;
    Ok(Json::String(known.to_owned()))
}

/// [`Value::decode`] of an enum.
pub fn decode_enum<E: Enumeration>(json: Json) -> Result<E, ValueError> {
    text(json).map(E::of)
}

/// A primary key: a value, or a tuple of the values of `@@id`, in its order.
pub trait Key {
    /// Its parts as text.
    fn segments(&self) -> Result<Vec<String>, ValueError>;
}

fn segment(value: &impl Value) -> Result<String, ValueError> {
    Ok(match value.encode()? {
        Json::String(text) => text,
        json => json.to_string(),
    })
}

impl<T: Comparable> Key for T {
    fn segments(&self) -> Result<Vec<String>, ValueError> {
        Ok(vec![segment(self)?])
    }
}

macro_rules! tuples {
    ($(($($name:ident)*))*) => { $(
        impl<$($name: Comparable),*> Key for ($($name,)*) {
            fn segments(&self) -> Result<Vec<String>, ValueError> {
                #[expect(non_snake_case, reason = "named like their types")]
                let ($($name,)*) = self;
                Ok(vec![$(segment($name)?),*])
            }
        }
    )* };
}

tuples!((A B) (A B C) (A B C D) (A B C D E) (A B C D E F) (A B C D E F G) (A B C D E F G H));
