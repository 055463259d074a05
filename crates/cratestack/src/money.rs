//! What banks do with decimals and the decimal types do not: rounding to the smallest unit of a currency, and sharing a
//! sum out without losing a cent.
//!
//! ```
//! # #[cfg(feature = "decimal-rust-decimal")] {
//! use cratestack::dec;
//! use cratestack::money::{Currency, Rounding};
//!
//! let euro: Currency = "EUR".parse()?;
//! assert_eq!(euro.round(&dec!(2.345), Rounding::HalfEven)?, dec!(2.34));
//! assert_eq!(euro.allocate(&dec!(100), &[dec!(1), dec!(1), dec!(1)])?, [dec!(33.34), dec!(33.33), dec!(33.33)]);
//! # }
//! # Ok::<(), cratestack::money::MoneyError>(())
//! ```

use std::fmt;
use std::str::FromStr;

use cratestack_engine::validate;
use cratestack_schema::decimal::MAX_DIGITS;
pub use cratestack_schema::decimal::{AllocationError, Rounding};

use crate::typed::{Exact, ValueError};

/// Why an amount cannot be computed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    /// The code is none of ISO 4217.
    #[error("no currency of ISO 4217 has this code")]
    UnknownCurrency,
    /// ISO 4217 says "not applicable": gold, or the unit of account of a bank.
    #[error("`{0}` has no smallest unit")]
    NoMinorUnit(Currency),
    /// See [`AllocationError`].
    #[error(transparent)]
    Allocation(#[from] AllocationError),
    /// A number has more digits than its type holds, or than 1000 on a side of the point.
    #[error("the number {0}")]
    Number(#[from] ValueError),
}

/// A currency of ISO 4217, in the list of 2026-01-01.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Currency(&'static validate::Currency);

/// The code: `EUR`.
impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.0.code)
    }
}

/// Reads a code in capital letters.
impl FromStr for Currency {
    type Err = MoneyError;

    fn from_str(code: &str) -> Result<Self, MoneyError> {
        validate::currency(code).map(Self).ok_or(MoneyError::UnknownCurrency)
    }
}

impl Currency {
    /// Every currency, by code.
    pub fn all() -> impl Iterator<Item = Self> {
        validate::currency_codes().filter_map(validate::currency).map(Self)
    }

    /// Three capital letters.
    #[must_use]
    pub fn code(self) -> &'static str {
        self.0.code
    }

    /// Three digits, leading zeros included.
    #[must_use]
    pub fn numeric(self) -> &'static str {
        self.0.numeric
    }

    /// The English name.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.0.name
    }

    /// Digits after the point of an amount: 2 for `EUR`, 0 for `JPY`, 3 for `BHD`, 4 for `CLF`; `None` where ISO 4217 says
    /// "not applicable".
    #[must_use]
    pub fn minor_units(self) -> Option<u32> {
        self.0.minor_units.map(u32::from)
    }

    fn scale(self) -> Result<u32, MoneyError> {
        self.minor_units().ok_or(MoneyError::NoMinorUnit(self))
    }

    /// The amount in whole smallest units.
    ///
    /// # Errors
    /// [`MoneyError::NoMinorUnit`], and [`MoneyError::Number`] of a result that the type does not hold.
    pub fn round<D: Exact>(self, amount: &D, rounding: Rounding) -> Result<D, MoneyError> {
        round(amount, self.scale()?, rounding)
    }

    /// Shares an amount out in whole smallest units, by weights: [`allocate`] to the digits of the currency.
    ///
    /// # Errors
    /// [`MoneyError::NoMinorUnit`], and as for [`allocate`].
    pub fn allocate<D: Exact>(self, amount: &D, weights: &[D]) -> Result<Vec<D>, MoneyError> {
        allocate(amount, weights, self.scale()?)
    }
}

/// The number with `scale` digits after the point.
///
/// # Errors
/// [`MoneyError::Number`] when the type does not hold the result.
pub fn round<D: Exact>(number: &D, scale: u32, rounding: Rounding) -> Result<D, MoneyError> {
    // No number has more digits.
    let scale = scale.min(u32::try_from(MAX_DIGITS).unwrap_or(u32::MAX));
    Ok(D::of_exact(&number.to_exact()?.round(scale, rounding), scale)?)
}

/// Shares a sum out by weights, in units of ten to the power of `-scale`, so that the shares make the sum exactly. Each is
/// within one unit of the exact share; the units that are left after all shares were cut go to those who lost most, and
/// among equals to the first. A weight of zero gets nothing.
///
/// # Errors
/// [`MoneyError::Allocation`], and [`MoneyError::Number`] when the type does not hold a share.
pub fn allocate<D: Exact>(sum: &D, weights: &[D], scale: u32) -> Result<Vec<D>, MoneyError> {
    let weights = weights.iter().map(D::to_exact).collect::<Result<Vec<_>, _>>()?;
    let shares = sum.to_exact()?.allocate(&weights, scale)?;
    Ok(shares.iter().map(|share| D::of_exact(share, scale)).collect::<Result<_, _>>()?)
}
