//! The table under a model checker, which tries all ways in which threads can get in between each other.

use std::sync::Arc;
use std::time::Duration;

use loom::thread;

use super::super::{Adjustment, Charge, Decision, Key, Quota};

/// What the table needs of threads, as the checker has it.
mod sync {
    pub(super) use loom::sync::atomic::{AtomicU64, Ordering};

    pub(super) fn pause(_: &mut u32) {
        loom::thread::yield_now();
    }
}

#[path = "../table.rs"]
#[expect(clippy::duplicate_mod, reason = "once more, with the checker's threads")]
mod table;

use table::Table;

fn quota(burst: u64) -> Quota {
    Quota::new(1, Duration::from_secs(1), burst).unwrap()
}

fn charge(key: u128, burst: u64) -> Charge {
    Charge::new(Key(key), quota(burst))
}

/// Whether it was allowed.
fn take(table: &Table, charges: &[Charge], now: u64) -> bool {
    if let [charge] = charges {
        let debt = table.take_one(charge, now);
        return matches!(charge.quota.decide(debt, charge.cost, charge.most), Decision::Allowed { .. });
    }
    let mut all = true;
    let mut charged = charges.iter();
    table.take(charges, now, &mut |debt| {
        let charge = charged.next().unwrap();
        all &= matches!(charge.quota.decide(debt, charge.cost, charge.most), Decision::Allowed { .. });
    });
    all
}

fn owes(table: &Table, charge: &Charge, now: u64) -> u64 {
    table.take_one(&charge.units(0), now)
}

/// Tries all interleavings of three threads at most, with three changes of the thread at most where it was not waited for.
fn check(model: impl Fn() + Sync + Send + 'static) {
    let mut checker = loom::model::Builder::new();
    checker.preemption_bound = Some(3);
    checker.check(model);
}

fn table(slots: usize) -> Arc<Table> {
    let table = Table::new(slots, [3, 5]);
    assert_eq!(table.capacity(), slots);
    Arc::new(table)
}

#[test]
fn of_two_who_want_the_last_unit_one_gets_it() {
    check(|| {
        let table = table(4);
        let other = Arc::clone(&table);
        let second = thread::spawn(move || take(&other, &[charge(8, 1)], 1));
        let first = take(&table, &[charge(8, 1)], 1);
        assert!(first ^ second.join().unwrap());
    });
}

/// The slots are claimed, by clocks that differ, while the same key comes twice.
#[test]
fn a_key_has_one_slot_whoever_claims_it() {
    check(|| {
        let table = table(4);
        let second = 1_000_000_000;
        // Full again at different times.
        assert!(take(&table, &[charge(16, 1)], 1) && take(&table, &[charge(32, 1)], 2));
        let other = Arc::clone(&table);
        let second_one = thread::spawn(move || take(&other, &[charge(8, 1)], second + 1));
        let first = take(&table, &[charge(8, 1)], second + 2);
        assert!(first ^ second_one.join().unwrap());
    });
}

/// More keys than slots: what each owes is not lost, whoever becomes a stranger.
#[test]
fn nobody_forgets_what_a_stranger_owes() {
    check(|| {
        let table = table(4);
        for key in [8, 16, 24] {
            assert!(take(&table, &[charge(key, 4)], 1));
        }
        let others: Vec<_> = [(32, 1), (40, 1)]
            .map(|(key, now)| {
                let table = Arc::clone(&table);
                thread::spawn(move || take(&table, &[charge(key, 4)], now))
            })
            .into();
        let allowed = others.into_iter().map(|other| other.join().unwrap()).filter(|allowed| *allowed).count();
        assert!(allowed > 0);
        for key in [8, 16, 24] {
            assert!(owes(&table, &charge(key, 4), 1) >= quota(4).increment());
        }
    });
}

/// Decisions about two buckets, the other way round: both happen as a whole, and nobody waits for ever.
#[test]
fn decisions_about_two_lines_are_one_step() {
    check(|| {
        let table = table(8);
        let lines = [8, 24].map(|key| charge(key, 1));
        let other = Arc::clone(&table);
        let second = thread::spawn(move || take(&other, &[lines[1], lines[0]], 1));
        let first = take(&table, &lines, 1);
        assert!(first ^ second.join().unwrap());
        assert!(lines.iter().all(|charge| owes(&table, charge, 1) == quota(1).increment()));
    });
}

#[test]
fn what_is_given_back_is_not_lost() {
    check(|| {
        let table = table(4);
        assert!(take(&table, &[charge(8, 3).units(2)], 1));
        let other = Arc::clone(&table);
        let back = thread::spawn(move || {
            other.adjust(&Adjustment { key: Key(8), quota: quota(3), units: -1 }, 1);
        });
        assert!(take(&table, &[charge(8, 3)], 1));
        back.join().unwrap();
        assert_eq!(owes(&table, &charge(8, 3), 1), 2 * quota(3).increment());
    });
}
