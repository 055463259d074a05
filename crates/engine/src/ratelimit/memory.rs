//! Buckets in the memory of one process.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use quanta::Clock;
use smallvec::smallvec;

use super::table::Table;
use super::{Adjustment, BoxFuture, Charge, Key, Quota, RateLimitStore, Standing, StoreDown, Taken};
use crate::sources::{Ids as _, RandomIds};

/// Tells how much time has passed.
pub trait Ticks: Debug + Send + Sync {
    /// Nanoseconds since some moment of the past. It should not go back; if it does, buckets that seem to owe more than
    /// all of theirs owe just that.
    fn nanos(&self) -> u64;
}

/// The steady clock of the machine.
#[derive(Debug)]
pub struct SteadyClock {
    clock: Clock,
    start: u64,
}

impl Default for SteadyClock {
    fn default() -> Self {
        let clock = Clock::new();
        let start = clock.raw();
        Self { clock, start }
    }
}

impl Ticks for SteadyClock {
    fn nanos(&self) -> u64 {
        // One beyond nothing, so that a slot of time 0 is always free.
        self.clock.delta_as_nanos(self.start, self.clock.raw()).saturating_add(1)
    }
}

/// Buckets in the memory of one process: other processes know nothing of them, and a restart fills them.
///
/// The memory is taken at once, 16 octets for each slot, and never grows. A key takes up a slot while its bucket is not
/// full. With four times as many slots as such keys, fewer than one in a hundred has to share one; those that do are
/// refused too much, never too little. Keys are told apart by 63 bits in one of many lines, which are mixed with a secret
/// of the process.
#[derive(Debug)]
pub struct InMemoryRateLimitStore {
    table: Table,
    clock: Arc<dyn Ticks>,
}

impl InMemoryRateLimitStore {
    /// Slots that suit most: 16 MiB.
    pub const SLOTS: usize = 1 << 20;
    /// The most that it may have: 1 GiB.
    pub const MOST: usize = 1 << 26;

    /// A store with so many slots at least: the next power of two, [`Self::MOST`] at most.
    pub fn new(slots: usize) -> Self {
        Self::with_clock(slots, Arc::new(SteadyClock::default()))
    }

    /// The same by another clock.
    pub fn with_clock(slots: usize, clock: Arc<dyn Ticks>) -> Self {
        let mut octets = [0; 16];
        // Without the system's randomness keys may be chosen for one line, whose owners are refused too much then.
        RandomIds::default().random(&mut octets);
        let secret = u128::from_ne_bytes(octets);
        #[expect(clippy::cast_possible_truncation, reason = "the halves are meant")]
        let secret = [secret as u64, (secret >> 64) as u64];
        Self { table: Table::new(slots.min(Self::MOST), secret), clock }
    }

    /// Slots that it has.
    pub fn slots(&self) -> usize {
        self.table.capacity()
    }

    /// Takes from one bucket.
    pub fn take_one(&self, charge: &Charge) -> Standing {
        Standing::new(charge, self.table.take_one(charge, self.clock.nanos()), true)
    }

    /// Takes from all buckets, or from none.
    pub fn take_now(&self, charges: &[Charge]) -> Taken {
        if let [charge] = charges {
            return Taken { standings: smallvec![self.take_one(charge)] };
        }
        let now = self.clock.nanos();
        let mut debts = Vec::with_capacity(charges.len());
        self.table.take(charges, now, &mut |owed| debts.push(owed));
        Taken::of(charges, debts)
    }

    /// How long the bucket of a key would take to be full.
    pub fn debt(&self, key: Key, quota: Quota) -> Duration {
        let debt = self.table.take_one(&Charge::new(key, quota).units(0), self.clock.nanos());
        Duration::from_nanos(debt)
    }

    /// Takes or gives back.
    pub fn adjust_now(&self, adjustments: &[Adjustment]) {
        let now = self.clock.nanos();
        for adjustment in adjustments {
            self.table.adjust(adjustment, now);
        }
    }
}

impl Default for InMemoryRateLimitStore {
    fn default() -> Self {
        Self::new(Self::SLOTS)
    }
}

impl RateLimitStore for InMemoryRateLimitStore {
    fn try_take(&self, charges: &[Charge]) -> Option<Taken> {
        Some(self.take_now(charges))
    }

    fn take<'a>(&'a self, charges: &'a [Charge]) -> BoxFuture<'a, Result<Taken, StoreDown>> {
        Box::pin(std::future::ready(Ok(self.take_now(charges))))
    }

    fn adjust<'a>(&'a self, adjustments: &'a [Adjustment]) -> BoxFuture<'a, Result<(), StoreDown>> {
        self.adjust_now(adjustments);
        Box::pin(std::future::ready(Ok(())))
    }

    fn shared(&self) -> bool {
        false
    }
}
