//! `dec!`, and the time in the precision of the databases.

use chrono::{DateTime, Utc};
use cratestack_engine::sources::{Clock as _, SystemClock};
#[cfg(feature = "decimal-rust-decimal")]
use rust_decimal::Decimal;

/// A [`Decimal`] from its digits, made when the program is compiled. (That of `rust_decimal` works in crates alone that
/// depend on `rust_decimal` themselves.)
///
/// ```
/// use cratestack::{Decimal, dec};
///
/// assert_eq!(dec!(12.50).to_string(), "12.50");
/// assert_eq!(dec!(-1_000), Decimal::from(-1000));
/// ```
///
/// What is no decimal, or has more than 96 bits of digits or 28 of them after the point, does not compile:
///
/// ```compile_fail
/// cratestack::dec!(1e5);
/// ```
#[cfg(feature = "decimal-rust-decimal")]
#[macro_export]
macro_rules! dec {
    ($($number:tt)+) => {
        const { $crate::values::parse(::core::concat!($(::core::stringify!($number)),+)) }
    };
}

/// What a schema that uses decimals asks of the features of this crate.
macro_rules! needs {
    ($($feature:literal $name:ident $how:literal),*) => { $(
        #[cfg(feature = $feature)]
        #[doc(hidden)]
        #[macro_export]
        macro_rules! $name {
            () => {};
        }
        #[cfg(not(feature = $feature))]
        #[doc(hidden)]
        #[macro_export]
        macro_rules! $name {
            () => {
                ::core::compile_error!($how);
            };
        }
    )* };
}

needs! {
    "decimal-rust-decimal" needs_rust_decimal
        "the schema has decimals: turn on the feature `decimal-rust-decimal` of `cratestack`, or write `include_schema!(\"..\", decimal = \"bigdecimal\")` with the feature `decimal-bigdecimal`",
    "decimal-bigdecimal" needs_bigdecimal
        "`decimal = \"bigdecimal\"` needs the feature `decimal-bigdecimal` of `cratestack`"
}

/// The time, in microseconds, as the databases hold it: `chrono::Utc::now` has nanoseconds, which fields refuse.
///
/// ```
/// assert_eq!(cratestack::now().timestamp_subsec_nanos() % 1000, 0);
/// ```
#[must_use]
pub fn now() -> DateTime<Utc> {
    // A clock beyond the years that chrono knows is broken.
    DateTime::from_timestamp_micros(SystemClock.now()).unwrap_or_default()
}

/// What [`dec!`](crate::dec) calls.
///
/// # Panics
/// When the text is no decimal: at compile time, where it is called.
#[cfg(feature = "decimal-rust-decimal")]
#[doc(hidden)]
#[must_use]
pub const fn parse(text: &str) -> Decimal {
    let mut rest = text.as_bytes();
    let mut negative = false;
    if let [b'-', digits @ ..] = rest {
        negative = true;
        rest = digits;
    }
    let (mut digits, mut scale, mut seen, mut point) = (0_u128, 0, false, false);
    while let [octet, behind @ ..] = rest {
        rest = behind;
        match octet {
            b'0'..=b'9' => {
                digits = digits * 10 + (*octet - b'0') as u128;
                assert!(digits >> 96 == 0, "a `Decimal` holds no more than 96 bits of digits");
                seen = true;
                if point {
                    scale += 1;
                }
            }
            b'_' if seen => {}
            b'.' if seen && !point => point = true,
            #[expect(clippy::panic, reason = "of the compiler's")]
            _ => panic!("this is no decimal: write digits, with a point in between"),
        }
    }
    assert!(seen && scale <= 28, "a `Decimal` has digits, and at most 28 of them after the point");
    #[expect(clippy::cast_possible_truncation, reason = "three parts of 96 bits")]
    let parts = (digits as u32, (digits >> 32) as u32, (digits >> 64) as u32);
    Decimal::from_parts(parts.0, parts.1, parts.2, negative, scale)
}

#[cfg(all(test, feature = "decimal-rust-decimal"))]
mod tests {
    use proptest::prelude::*;
    use rust_decimal::Decimal;

    proptest! {
        #[test]
        fn agrees_with_the_library(digits in -79_228_162_514_264_337_593_543_950_335_i128..=79_228_162_514_264_337_593_543_950_335, scale in 0_u32..=28) {
            let decimal = Decimal::from_i128_with_scale(digits, scale);
            prop_assert_eq!(super::parse(&decimal.to_string()), decimal);
        }
    }
}
