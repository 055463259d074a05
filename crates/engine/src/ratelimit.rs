//! Rate limits: how often something may be done, exactly.
//!
//! The algorithm is GCRA (ITU-T I.371), which decides as a token bucket does and keeps one number per key: the
//! *theoretical arrival time*, by which a bucket would be full again. All arithmetic is in whole nanoseconds, so that
//! there is nothing to round and every store decides alike.
//!
//! A [`RateLimitStore`] keeps these numbers. [`InMemoryRateLimitStore`] is for one process; `RedisRateLimitStore`
//! (feature `redis`) and [`SqlxRateLimitStore`] count for all of them together, and [`LeasedRateLimitStore`] gives each
//! process a little in advance, so that most decisions need no round trip. What to do when a store does not answer is up
//! to each limit: [`Limiter`].
//!
//! ```
//! use std::time::Duration;
//!
//! use cratestack_engine::ratelimit::{Charge, InMemoryRateLimitStore, Key, Quota, RateLimitStore as _};
//!
//! # fn run() -> Option<()> {
//! let store = InMemoryRateLimitStore::new(1024);
//! let charge = Charge::new(Key::of(["logins", "ann"]), Quota::new(2, Duration::from_mins(1), 2).ok()?);
//! assert!(store.try_take(&[charge])?.allowed());
//! assert!(store.try_take(&[charge])?.allowed());
//!
//! let refused = store.try_take(&[charge])?;
//! assert!(!refused.allowed());
//! assert!(refused.standings()[0].retry <= Duration::from_secs(30));
//! # Some(())
//! # }
//! # run().unwrap();
//! ```

use std::fmt::{self, Debug, Display};
use std::time::Duration;

use aws_lc_rs::digest;
pub use futures_util::future::BoxFuture;
use smallvec::SmallVec;

/// What the table needs of threads; the model checker has its own.
mod sync {
    pub(super) use std::sync::atomic::{AtomicU64, Ordering};

    /// Waits a moment for somebody who has a line.
    pub(super) fn pause(tries: &mut u32) {
        *tries += 1;
        if tries.is_multiple_of(64) { std::thread::yield_now() } else { std::hint::spin_loop() }
    }
}

mod lease;
mod limiter;
mod memory;
mod postgres;
#[cfg(feature = "redis")]
mod redis;
mod table;
#[cfg(test)]
mod tests;

pub use self::lease::LeasedRateLimitStore;
pub use self::limiter::{Admission, Asked, Limiter, LimiterOptions, OnFailure};
pub use self::memory::{InMemoryRateLimitStore, SteadyClock, Ticks};
pub use self::postgres::{SqlxRateLimitStore, ddl};
#[cfg(feature = "redis")]
pub use self::redis::RedisRateLimitStore;
pub use crate::idempotency::store::StoreDown;

/// The longest time in which a bucket may fill up. Its nanoseconds have 53 bits: the numbers of Redis' scripts have no
/// more.
pub const LONGEST: Duration = Duration::from_hours(24 * 100);

/// How much is allowed: some units per period, and how many of them at once.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Quota {
    /// Nanoseconds in which one unit comes back.
    increment: u64,
    /// Units of a full bucket.
    burst: u64,
}

impl Quota {
    /// `limit` units per `period`, and `burst` of them at once after a rest. Where the period cannot be divided evenly,
    /// a unit takes the part of a nanosecond longer.
    ///
    /// # Errors
    /// When a number is 0, a unit takes less than a nanosecond, or a bucket more than [`LONGEST`] to fill.
    pub fn new(limit: u64, period: Duration, burst: u64) -> Result<Self, QuotaError> {
        let nanos = u64::try_from(period.as_nanos()).map_err(|_| QuotaError::TooLong)?;
        if limit == 0 || burst == 0 || nanos == 0 {
            return Err(QuotaError::Nothing);
        }
        if limit > nanos {
            return Err(QuotaError::TooFast);
        }
        let increment = nanos.div_ceil(limit);
        let whole = increment.checked_mul(burst).ok_or(QuotaError::TooLong)?;
        if u128::from(whole) > LONGEST.as_nanos() { Err(QuotaError::TooLong) } else { Ok(Self { increment, burst }) }
    }

    /// Nanoseconds in which one unit comes back.
    pub fn increment(self) -> u64 {
        self.increment
    }

    /// Units of a full bucket.
    pub fn burst(self) -> u64 {
        self.burst
    }

    /// Nanoseconds in which an empty bucket fills up.
    pub fn capacity(self) -> u64 {
        self.increment * self.burst
    }

    /// The share of one of `nodes`, which together allow no more than this one does. One unit at least: nodes that are
    /// more than the burst has units may each have one.
    #[must_use]
    pub fn share(self, nodes: u64) -> Self {
        let nodes = nodes.max(1);
        let burst = (self.burst / nodes).max(1);
        let longest = u64::try_from(LONGEST.as_nanos()).unwrap_or(u64::MAX);
        Self { increment: self.increment.saturating_mul(nodes).min(longest / burst), burst }
    }

    /// Decides. `debt` is how far in the future the bucket would be full: nanoseconds.
    fn decide(self, debt: u64, cost: u64, most: u64) -> Decision {
        if cost > self.burst {
            return Decision::Never;
        }
        // Neither is more than 53 bits, but for the debt of strangers.
        let (capacity, after) = (self.capacity(), debt.saturating_add(cost * self.increment));
        if after > capacity {
            // What costs nothing is always allowed.
            return if cost == 0 {
                Decision::Allowed { granted: 0, debt }
            } else {
                Decision::Later { nanos: after - capacity }
            };
        }
        if most <= cost {
            return Decision::Allowed { granted: cost, debt: after };
        }
        let granted = most.min((capacity - debt) / self.increment);
        Decision::Allowed { granted, debt: debt + granted * self.increment }
    }
}

impl Debug for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at once, one per {:?}", self.burst, Duration::from_nanos(self.increment))
    }
}

/// Why there is no such quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuotaError {
    /// A number is 0.
    #[error("limit, period and burst must be more than 0")]
    Nothing,
    /// Less than a nanosecond for a unit.
    #[error("a limit of more than one in a nanosecond is none")]
    TooFast,
    /// More than [`LONGEST`].
    #[error("the whole burst takes more than 100 days to come back; allow less at once, or in a shorter period")]
    TooLong,
}

enum Decision {
    Allowed { granted: u64, debt: u64 },
    Later { nanos: u64 },
    Never,
}

/// What is counted: the digest of a policy's name and of whose requests these are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub u128);

impl Key {
    /// From its parts, of which the boundaries count too. Half a SHA-256: nobody finds two that are equal.
    pub fn of<'a>(parts: impl IntoIterator<Item = &'a str>) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        for part in parts {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part.as_bytes());
        }
        let digest = context.finish();
        let half = digest.as_ref().first_chunk::<16>();
        Self(half.map_or(0, |octets| u128::from_be_bytes(*octets)))
    }
}

/// 32 hexadecimal digits, as stores have it.
impl Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Display::fmt(self, f)
    }
}

/// What a request asks of one bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Charge {
    /// Which bucket.
    pub key: Key,
    /// Its size.
    pub quota: Quota,
    /// Units that it needs. With 0 a bucket is looked at, and nothing changes.
    pub cost: u64,
    /// Units that it takes where there are as many; [`Self::cost`] where this is less.
    pub most: u64,
}

impl Charge {
    /// Of one unit.
    pub fn new(key: Key, quota: Quota) -> Self {
        Self { key, quota, cost: 1, most: 1 }
    }

    /// Of so many units.
    #[must_use]
    pub fn units(self, cost: u64) -> Self {
        Self { cost, most: cost, ..self }
    }
}

/// How a bucket stands after a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Whether this bucket had what was asked for.
    pub verdict: Verdict,
    /// Units that were taken: 0 when anything was refused.
    pub granted: u64,
    /// Until the same would be allowed; 0 when it was.
    pub retry: Duration,
    /// Whether anybody knows what is left.
    pub known: bool,
    quota: Quota,
    /// Nanoseconds in which the bucket will be full.
    debt: u64,
}

/// What a bucket says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// There is enough.
    Allowed,
    /// There will be enough.
    Later,
    /// A full bucket has not enough.
    Never,
}

impl Standing {
    /// With the debt before the decision, and whether all buckets together allowed it.
    fn new(charge: &Charge, debt: u64, all: bool) -> Self {
        let decision = charge.quota.decide(debt, charge.cost, charge.most);
        let (verdict, granted, debt, retry) = match decision {
            Decision::Allowed { granted, debt } if all => (Verdict::Allowed, granted, debt, 0),
            Decision::Allowed { .. } => (Verdict::Allowed, 0, debt, 0),
            Decision::Later { nanos } => (Verdict::Later, 0, debt, nanos),
            Decision::Never => (Verdict::Never, 0, debt, 0),
        };
        Self { verdict, granted, retry: Duration::from_nanos(retry), known: true, quota: charge.quota, debt }
    }

    /// Of a bucket that nobody can ask.
    fn unknown(quota: Quota) -> Self {
        Self { known: false, ..Self::left(quota, quota.burst) }
    }

    /// Of a bucket that has as many units, of which none was taken.
    fn left(quota: Quota, remaining: u64) -> Self {
        let debt = quota.burst.saturating_sub(remaining) * quota.increment;
        Self { verdict: Verdict::Allowed, granted: 0, retry: Duration::ZERO, known: true, quota, debt }
    }

    /// Units that are left.
    pub fn remaining(&self) -> u64 {
        self.quota.capacity().saturating_sub(self.debt) / self.quota.increment
    }

    /// Until there is one unit more; 0 when the bucket is full.
    pub fn next(&self) -> Duration {
        let remaining = self.remaining();
        if remaining >= self.quota.burst {
            return Duration::ZERO;
        }
        // Down to where one more fits in.
        let threshold = self.quota.capacity() - (remaining + 1) * self.quota.increment;
        Duration::from_nanos(self.debt - threshold)
    }

    /// The same, when units have been taken or given back since.
    #[must_use]
    pub fn adjusted(self, units: i64) -> Self {
        let Self { quota, debt, .. } = self;
        Self { debt: Adjustment { key: Key(0), quota, units }.apply(debt), ..self }
    }
}

/// What was decided, about each bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    standings: SmallVec<[Standing; 2]>,
}

impl Taken {
    /// From the debts that the buckets had before.
    fn of(charges: &[Charge], debts: impl IntoIterator<Item = u64>) -> Self {
        let debts: SmallVec<[u64; 2]> = debts.into_iter().collect();
        let allows = |(charge, debt): (&Charge, &u64)| {
            matches!(charge.quota.decide(*debt, charge.cost, charge.most), Decision::Allowed { .. })
        };
        let all = charges.iter().zip(&debts).all(allows);
        let standings = charges.iter().zip(&debts).map(|(charge, debt)| Standing::new(charge, *debt, all));
        Self { standings: standings.collect() }
    }

    /// Whether all buckets had enough. If not, nothing was taken from any.
    pub fn allowed(&self) -> bool {
        self.standings.iter().all(|standing| standing.verdict == Verdict::Allowed)
    }

    /// The buckets, in the order of the charges.
    pub fn standings(&self) -> &[Standing] {
        &self.standings
    }
}

/// A change without a question: units taken, or given back where there are less than 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Adjustment {
    /// Which bucket.
    pub key: Key,
    /// Its size.
    pub quota: Quota,
    /// How many. A bucket is never more than full, and never owes more than all of it.
    pub units: i64,
}

impl Adjustment {
    /// What makes the bucket full.
    pub fn reset(key: Key, quota: Quota) -> Self {
        Self { key, quota, units: i64::MIN }
    }

    /// Nanoseconds that are owed more; less than the whole bucket, which has 53 bits.
    fn change(self) -> i64 {
        let nanos = self.units.unsigned_abs().saturating_mul(self.quota.increment).min(self.quota.capacity());
        let nanos = i64::try_from(nanos).unwrap_or(i64::MAX);
        if self.units < 0 { -nanos } else { nanos }
    }

    /// The debt afterwards.
    fn apply(self, debt: u64) -> u64 {
        debt.saturating_add_signed(self.change()).min(self.quota.capacity())
    }
}

/// Where buckets are kept.
pub trait RateLimitStore: Debug + Send + Sync + 'static {
    /// Takes from all buckets what the charges ask for, or from none, where that can be decided on the spot. `None`:
    /// ask [`Self::take`].
    fn try_take(&self, charges: &[Charge]) -> Option<Taken> {
        let _ = charges;
        None
    }

    /// Takes from all buckets what the charges ask for, or from none.
    fn take<'a>(&'a self, charges: &'a [Charge]) -> BoxFuture<'a, Result<Taken, StoreDown>>;

    /// Takes or gives back, whatever there is.
    fn adjust<'a>(&'a self, adjustments: &'a [Adjustment]) -> BoxFuture<'a, Result<(), StoreDown>>;

    /// Removes some of the buckets that are full, which is what absent ones are; says how many. Stores that do so by
    /// themselves have nothing to do.
    fn sweep(&self) -> BoxFuture<'_, Result<u64, StoreDown>> {
        Box::pin(std::future::ready(Ok(0)))
    }

    /// Whether it answers, and has all that it needs.
    fn ready(&self) -> BoxFuture<'_, Result<(), StoreDown>> {
        Box::pin(async { self.take(&[]).await.map(|_| ()) })
    }

    /// Whether other processes count in it too.
    fn shared(&self) -> bool {
        true
    }

    /// Whether it remembers refusals, so that it can be asked again and again: see
    /// [`LeasedRateLimitStore::remembering`].
    fn remembers(&self) -> bool {
        false
    }

    /// What it remembers of these charges, if that is a refusal: for when there is no time to ask.
    fn remembered(&self, charges: &[Charge]) -> Option<Taken> {
        let _ = charges;
        None
    }
}
