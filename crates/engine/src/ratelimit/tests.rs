//! Against a token bucket that knows nothing of GCRA, under a model checker, and with many nodes.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "tests"
)]

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proptest::prelude::*;

use super::*;

mod failing;
mod leases;
mod models;

/// A clock that goes where a test wants it.
#[derive(Debug, Default)]
struct Hand(AtomicU64);

impl Hand {
    fn at(nanos: u64) -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(nanos)))
    }

    fn set(&self, nanos: u64) {
        self.0.store(nanos, Ordering::Relaxed);
    }

    fn add(&self, nanos: u64) {
        self.0.fetch_add(nanos, Ordering::Relaxed);
    }
}

impl Ticks for Hand {
    fn nanos(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Credits that come with time, and are spent: the textbook's bucket, in nanoseconds of credit.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    credits: i128,
    at: u64,
}

impl Bucket {
    fn level(self, quota: Quota, now: u64) -> i128 {
        let passed = i128::from(now) - i128::from(self.at);
        (self.credits + passed).clamp(0, i128::from(quota.capacity()))
    }
}

#[derive(Debug, Default)]
struct Oracle(HashMap<Key, Bucket>);

impl Oracle {
    fn level(&self, charge: &Charge, now: u64) -> i128 {
        let full = i128::from(charge.quota.capacity());
        self.0.get(&charge.key).map_or(full, |bucket| bucket.level(charge.quota, now))
    }

    /// Sees the time. What a clock takes back that went back is lost, and comes back at the same pace as ever.
    fn look(&mut self, charge: &Charge, now: u64) {
        if let Some(bucket) = self.0.get_mut(&charge.key)
            && bucket.credits + i128::from(now) - i128::from(bucket.at) < 0
        {
            *bucket = Bucket { credits: 0, at: now };
        }
    }

    fn allows(&self, charge: &Charge, now: u64) -> bool {
        self.level(charge, now) >= i128::from(charge.cost) * i128::from(charge.quota.increment())
    }

    fn spend(&mut self, charge: &Charge, granted: u64, now: u64) {
        if granted == 0 {
            return;
        }
        let credits = self.level(charge, now) - i128::from(granted) * i128::from(charge.quota.increment());
        self.0.insert(charge.key, Bucket { credits, at: now });
    }
}

const START: u64 = 1 << 60;

fn quota() -> impl Strategy<Value = Quota> {
    let period = prop_oneof![1_000_u64..10_000, 1_000_000_u64..10_000_000_000, Just(86_400_000_000_000_u64)];
    (1_u64..1_000, period, 1_u64..200).prop_filter_map("a quota", |(limit, period, burst)| {
        Quota::new(limit, Duration::from_nanos(period), burst).ok()
    })
}

/// What happens next: time, as a part in 1000 of the bucket's, forwards or back; cost; the most.
type Step = (i64, u64, u64);

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let time = prop_oneof![4 => 0_i64..100, 2 => 100_i64..2_000, 1 => -500_i64..0];
    let cost = prop_oneof![5 => Just(1_u64), 3 => 0_u64..5, 1 => 0_u64..220];
    let most = prop_oneof![3 => Just(0_u64), 1 => 0_u64..100];
    prop::collection::vec((time, cost, most), 1..60)
}

fn moved(now: u64, part: i64, quota: Quota) -> u64 {
    let by = i128::from(quota.capacity()) * i128::from(part) / 1000;
    u64::try_from(i128::from(now) + by).unwrap()
}

proptest! {
    /// Also when the clock goes back.
    #[test]
    fn every_decision_is_a_token_buckets(quota in quota(), steps in steps()) {
        let clock = Hand::at(START);
        let store = InMemoryRateLimitStore::with_clock(64, clock.clone());
        let (mut oracle, mut now) = (Oracle::default(), START);
        for (part, cost, most) in steps {
            now = moved(now, part, quota);
            clock.set(now);
            let charge = Charge { most, ..Charge::new(Key(7), quota).units(cost) };
            oracle.look(&charge, now);
            let expected = oracle.allows(&charge, now);
            let level = oracle.level(&charge, now);
            let taken = store.take_now(&[charge]);
            let standing = taken.standings()[0];
            prop_assert_eq!(taken.allowed(), expected);
            let increment = i128::from(quota.increment());
            if expected {
                let granted = most.max(cost).min(u64::try_from(level / increment).unwrap());
                prop_assert_eq!(standing.granted, granted);
                oracle.spend(&charge, granted, now);
                prop_assert_eq!(i128::from(standing.remaining()), oracle.level(&charge, now) / increment);
                prop_assert_eq!(standing.retry, Duration::ZERO);
            } else if cost > quota.burst() {
                prop_assert_eq!(standing.verdict, Verdict::Never);
            } else {
                prop_assert_eq!(standing.verdict, Verdict::Later);
                let retry = u64::try_from(standing.retry.as_nanos()).unwrap();
                prop_assert!(retry > 0);
                prop_assert!(!oracle.allows(&charge, now + retry - 1), "allowed before the time it names");
                prop_assert!(oracle.allows(&charge, now + retry), "not allowed at the time it names");
            }
            // The next unit is there at the time that is named, and not before.
            let left = |at: u64| oracle.level(&charge, at) / increment;
            let next = u64::try_from(standing.next().as_nanos()).unwrap();
            prop_assert_eq!(next == 0, left(now) == i128::from(quota.burst()));
            if next > 0 {
                prop_assert_eq!(left(now + next - 1), left(now));
                prop_assert_eq!(left(now + next), left(now) + 1);
            }
        }
    }

    /// All that a decision asks for, or nothing.
    #[test]
    fn several_buckets_are_one_decision(
        quotas in prop::collection::vec(quota(), 3),
        calls in prop::collection::vec((0_u64..2_000_000, prop::collection::vec((0_usize..3, 0_u64..4), 1..4)), 1..60),
    ) {
        let clock = Hand::at(START);
        // One line: the undoing of what was taken meets the same slots.
        let store = InMemoryRateLimitStore::with_clock(4, clock.clone());
        let mut oracle = Oracle::default();
        for (time, mut call) in calls {
            clock.add(time);
            let now = clock.nanos();
            call.sort_unstable();
            call.dedup_by_key(|(which, _)| *which);
            let charges: Vec<Charge> =
                call.iter().map(|(which, cost)| Charge::new(Key(8 * *which as u128), quotas[*which]).units(*cost)).collect();
            let expected: Vec<bool> = charges.iter().map(|charge| oracle.allows(charge, now)).collect();
            let taken = store.take_now(&charges);
            let found: Vec<bool> =
                taken.standings().iter().map(|standing| standing.verdict == Verdict::Allowed).collect();
            prop_assert_eq!(&found, &expected);
            if taken.allowed() {
                for charge in &charges {
                    oracle.spend(charge, charge.cost, now);
                }
            }
            for (charge, standing) in charges.iter().zip(taken.standings()) {
                let left = oracle.level(charge, now) / i128::from(charge.quota.increment());
                prop_assert_eq!(i128::from(standing.remaining()), left);
                prop_assert_eq!(standing.granted, if taken.allowed() { charge.cost } else { 0 });
            }
        }
    }

    /// More keys than slots, of several sizes: whoever is allowed would be by a bucket of its own.
    #[test]
    fn a_full_table_refuses_too_much_and_never_too_little(
        quotas in prop::collection::vec(quota(), 3),
        calls in prop::collection::vec((0_u64..40_000_000, 0_u128..24, 1_u64..4, any::<bool>()), 1..400),
    ) {
        let clock = Hand::at(START);
        let store = InMemoryRateLimitStore::with_clock(4, clock.clone());
        let mut oracle = Oracle::default();
        for (time, key, cost, penalty) in calls {
            clock.add(time);
            let now = clock.nanos();
            let charge = Charge::new(Key(8 * key), quotas[key as usize % 3]).units(cost);
            if store.take_now(&[charge]).allowed() {
                prop_assert!(oracle.allows(&charge, now), "{} was let through", key);
                oracle.spend(&charge, cost, now);
            } else if penalty {
                store.adjust_now(&[Adjustment { key: charge.key, quota: charge.quota, units: 2 }]);
                let level = oracle.level(&charge, now);
                let owed = u64::try_from(level / i128::from(charge.quota.increment())).unwrap().min(2);
                oracle.spend(&charge, owed, now);
            }
        }
    }

    /// What is given back is there again, and never more than there was.
    #[test]
    fn adjustments_stay_within_the_bucket(quota in quota(), changes in prop::collection::vec(-300_i64..300, 1..30)) {
        let store = InMemoryRateLimitStore::with_clock(64, Hand::at(START));
        let mut level = i128::from(quota.capacity());
        for units in changes {
            store.adjust_now(&[Adjustment { key: Key(1), quota, units }]);
            let change = i128::from(units) * i128::from(quota.increment());
            level = (level - change).clamp(0, i128::from(quota.capacity()));
            let debt = store.debt(Key(1), quota).as_nanos();
            prop_assert_eq!(i128::try_from(debt).unwrap(), i128::from(quota.capacity()) - level);
        }
        store.adjust_now(&[Adjustment::reset(Key(1), quota)]);
        prop_assert_eq!(store.debt(Key(1), quota), Duration::ZERO);
    }

    /// Shares of a limit add up to no more than the limit.
    #[test]
    fn shares_are_no_more_than_the_whole(quota in quota(), nodes in 1_u64..20) {
        let share = quota.share(nodes);
        prop_assert!(share.increment() >= quota.increment().saturating_mul(nodes).min(share.capacity()));
        prop_assert!(share.burst() * nodes <= quota.burst().max(nodes));
        prop_assert!(u128::from(share.capacity()) <= LONGEST.as_nanos());
    }
}

/// Many keys that come once, and one that is limited: it stays so, and the memory is what it was.
#[test]
fn keys_that_come_once_do_not_free_one_that_is_limited() {
    let clock = Hand::at(START);
    let store = InMemoryRateLimitStore::with_clock(1 << 10, clock.clone());
    let slots = store.slots();
    let quota = Quota::new(10, Duration::from_secs(1), 10).unwrap();
    let victim = Charge::new(Key::of(["victim"]), quota);
    let (mut allowed, steps) = (0_u64, 300_000_u64);
    for step in 0..steps {
        clock.add(10_000);
        store.take_now(&[Charge::new(
            Key(u128::from(step) << 64 | u128::from(step.wrapping_mul(0x9e37_79b9_7f4a_7c15))),
            quota,
        )]);
        allowed += u64::from(store.take_now(&[victim]).allowed());
    }
    let most = 10 + steps * 10_000 / quota.increment();
    assert!(allowed <= most, "{allowed} of {most}");
    assert_eq!(store.slots(), slots);
}

/// As in the docs of the store.
#[test]
fn few_keys_share_a_slot_when_three_quarters_are_free() {
    let clock = Hand::at(START);
    let store = InMemoryRateLimitStore::with_clock(1 << 16, clock);
    let quota = Quota::new(1, Duration::from_secs(1), 10).unwrap();
    let keys: Vec<Key> = (0..1_u32 << 14).map(|number| Key::of([number.to_string().as_str()])).collect();
    for key in &keys {
        store.take_now(&[Charge::new(*key, quota)]);
    }
    let shared = keys.iter().filter(|key| store.take_now(&[Charge::new(**key, quota)]).standings()[0].remaining() != 8);
    let shared = shared.count();
    assert!(shared * 100 < keys.len(), "{shared} of {}", keys.len());
}

#[test]
fn quotas_that_are_none() {
    let second = Duration::from_secs(1);
    assert_eq!(Quota::new(0, second, 1), Err(QuotaError::Nothing));
    assert_eq!(Quota::new(1, Duration::ZERO, 1), Err(QuotaError::Nothing));
    assert_eq!(Quota::new(1, second, 0), Err(QuotaError::Nothing));
    assert_eq!(Quota::new(2_000_000_000, second, 1), Err(QuotaError::TooFast));
    assert_eq!(Quota::new(1, LONGEST, 2), Err(QuotaError::TooLong));
    assert_eq!(Quota::new(1, Duration::MAX, 2), Err(QuotaError::TooLong));
    assert_eq!(Quota::new(3, second, 3).unwrap().increment(), 333_333_334);
    assert_eq!(Quota::new(1, LONGEST, 1).unwrap().capacity(), 8_640_000_000_000_000);
}

#[test]
fn keys_know_where_their_parts_end() {
    assert_ne!(Key::of(["ab", "c"]), Key::of(["a", "bc"]));
    assert_ne!(Key::of(["ab"]), Key::of(["ab", ""]));
    assert_eq!(Key::of(["ab", "c"]).to_string().len(), 32);
}
