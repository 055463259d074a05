//! Buckets of one process in memory that never grows: a set-associative table, as of a processor's cache.
//!
//! A line has four slots, and fills a line of the cache. A slot has a tag (of the key) and the time by which its bucket
//! is full again. A slot whose time has passed is as good as an empty one, so that whoever needs a place takes it and
//! nothing is lost; nobody has to sweep.
//!
//! Where all four buckets of a line are in use, one slot becomes the *strangers'*: all keys without a slot share it, and
//! what each of them owes. They are refused too much then, and never too little. A key that gets a slot of its own later
//! begins with what the strangers owe.
//!
//! A line is locked while it is changed (some ten instructions), and lines in ascending order, so that a decision about
//! several buckets is one step to everybody. This file is compiled a second time for the model checker: what it needs of
//! threads is in `super::sync`.

use smallvec::SmallVec;

use super::sync::{AtomicU64, Ordering, pause};
use super::{Adjustment, Charge, Decision};

/// Slots of a line.
const WAYS: usize = 4;
/// Of a line's first tag: somebody has the line.
const LOCKED: u64 = 1;
/// The tag of an empty slot.
const EMPTY: u64 = 0;
/// The tag of the slot of those who have none.
const STRANGERS: u64 = 2;
/// The smallest tag of a key. All are even.
const FIRST: u64 = 4;

#[derive(Debug, Default)]
#[repr(align(64))]
struct Line {
    tags: [AtomicU64; WAYS],
    /// Nanoseconds by the store's clock.
    full_at: [AtomicU64; WAYS],
}

/// What a slot has.
#[derive(Debug, Clone, Copy)]
struct Slot {
    at: usize,
    tag: u64,
    full_at: u64,
}

impl Line {
    fn lock(&self) -> Locked<'_> {
        let [first, ..] = &self.tags;
        let mut tries = 0;
        loop {
            let tag = first.load(Ordering::Relaxed);
            let free = tag & LOCKED == 0;
            if free && first.compare_exchange(tag, tag | LOCKED, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                return Locked(self);
            }
            pause(&mut tries);
        }
    }
}

/// A line that nobody else sees or changes.
struct Locked<'t>(&'t Line);

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        let [first, ..] = &self.0.tags;
        first.store(first.load(Ordering::Relaxed) & !LOCKED, Ordering::Release);
    }
}

impl Locked<'_> {
    fn slots(&self) -> impl Iterator<Item = Slot> {
        (0..WAYS).map(|at| self.at(at))
    }

    /// What the slot there has.
    fn at(&self, at: usize) -> Slot {
        let read = |of: Option<&AtomicU64>| of.map_or(EMPTY, |value| value.load(Ordering::Relaxed));
        Slot { at, tag: read(self.0.tags.get(at)) & !LOCKED, full_at: read(self.0.full_at.get(at)) }
    }

    fn set(&self, slot: Slot) {
        let places = self.0.tags.get(slot.at).zip(self.0.full_at.get(slot.at));
        if let Some((tag, full_at)) = places {
            tag.store(slot.tag | if slot.at == 0 { LOCKED } else { 0 }, Ordering::Relaxed);
            full_at.store(slot.full_at, Ordering::Relaxed);
        }
    }

    /// The slot of a key that has one. Without a branch for each slot, which no processor could guess: it would wait for
    /// the memory at each of them, and do nothing else meanwhile.
    fn own(&self, tag: u64) -> Option<Slot> {
        let mut which = 0_u32;
        for (at, other) in self.0.tags.iter().enumerate() {
            which |= u32::from(other.load(Ordering::Relaxed) & !LOCKED == tag) << at;
        }
        let at = which.trailing_zeros() as usize;
        let full_at = self.0.full_at.get(at)?;
        Some(Slot { at, tag, full_at: full_at.load(Ordering::Relaxed) })
    }

    /// Where a key is or may be, with what it owes.
    fn find(&self, tag: u64, now: u64) -> Slot {
        self.own(tag).unwrap_or_else(|| self.place(tag, now))
    }

    /// Where a key that has no slot may be.
    fn place(&self, tag: u64, now: u64) -> Slot {
        let (mut free, mut strangers, mut soonest) = (None, None, None::<Slot>);
        for slot in self.slots() {
            if slot.tag == EMPTY || slot.full_at <= now {
                free = free.or(Some(slot.at));
            } else if slot.tag == STRANGERS {
                strangers = Some(slot);
            } else if soonest.is_none_or(|other| slot.full_at < other.full_at) {
                soonest = Some(slot);
            }
        }
        match (free, strangers, soonest) {
            (Some(at), strangers, _) => Slot { at, tag, full_at: strangers.map_or(0, |slot| slot.full_at) },
            (None, Some(slot), _) => slot,
            (None, None, Some(slot)) => Slot { tag: STRANGERS, ..slot },
            // There are four slots, which are one of these.
            (None, None, None) => Slot { at: 0, tag: STRANGERS, full_at: u64::MAX },
        }
    }
}

/// The table.
#[derive(Debug)]
pub(super) struct Table {
    lines: Box<[Line]>,
    /// What the places of keys are mixed with, so that nobody can choose keys of one line.
    secret: [u64; 2],
}

impl Table {
    /// With so many slots at least, 16 octets each.
    pub(super) fn new(slots: usize, secret: [u64; 2]) -> Self {
        let lines = slots.div_ceil(WAYS).max(1).next_power_of_two();
        Self { lines: (0..lines).map(|_| Line::default()).collect(), secret }
    }

    /// Slots.
    pub(super) fn capacity(&self) -> usize {
        self.lines.len() * WAYS
    }

    /// Line and tag.
    #[expect(clippy::cast_possible_truncation, reason = "the halves are meant")]
    fn place(&self, key: u128) -> (usize, u64) {
        let (low, high) = (key as u64, (key >> 64) as u64);
        let mixed = u128::from(low ^ self.secret[0]) * u128::from(high ^ self.secret[1]);
        let line = ((mixed as u64) ^ ((mixed >> 64) as u64)) as usize & (self.lines.len() - 1);
        let tag = low & !LOCKED;
        (line, if tag < FIRST { tag + FIRST } else { tag })
    }

    /// Takes from one; gives what it owed before, beyond `now`.
    pub(super) fn take_one(&self, charge: &Charge, now: u64) -> u64 {
        let (line, tag) = self.place(charge.key.0);
        self.lines.get(line).map_or(0, |line| settle(&line.lock(), tag, charge, now, true).0)
    }

    /// Takes from all or from none; gives what each owed before, beyond `now`.
    pub(super) fn take(&self, charges: &[Charge], now: u64, debts: &mut impl FnMut(u64)) {
        let places: SmallVec<[(usize, u64); 4]> = charges.iter().map(|charge| self.place(charge.key.0)).collect();
        let mut order: SmallVec<[usize; 4]> = places.iter().map(|(line, _)| *line).collect();
        order.sort_unstable();
        order.dedup();
        // In this order, or two who want the same lines wait for each other.
        let locked: SmallVec<[(usize, Locked<'_>); 4]> =
            order.into_iter().filter_map(|at| self.lines.get(at).map(|line| (at, line.lock()))).collect();
        let mut before: SmallVec<[(usize, Slot); 4]> = SmallVec::new();
        let mut all = true;
        for (charge, (line, tag)) in charges.iter().zip(places) {
            let Ok(at) = locked.binary_search_by_key(&line, |(at, _)| *at) else { continue };
            let Some((_, line)) = locked.get(at) else { continue };
            let (debt, changed) = settle(line, tag, charge, now, all);
            debts(debt);
            all &= changed.is_some();
            before.extend(changed.map(|slot| (at, slot)));
        }
        if !all {
            for (at, slot) in before.into_iter().rev() {
                if let Some((_, line)) = locked.get(at) {
                    line.set(slot);
                }
            }
        }
    }

    /// Takes or gives back, whatever there is.
    pub(super) fn adjust(&self, adjustment: &Adjustment, now: u64) {
        let (line, tag) = self.place(adjustment.key.0);
        let Some(line) = self.lines.get(line) else { return };
        let line = line.lock();
        let slot = line.find(tag, now);
        let owed = slot.full_at.saturating_sub(now);
        // What strangers owe is not one key's to give back.
        if slot.tag == STRANGERS && adjustment.units < 0 {
            return;
        }
        // Nor is what they owe less because this one cannot owe so much.
        let debt = if slot.tag == STRANGERS { owed.max(adjustment.apply(owed)) } else { adjustment.apply(owed) };
        if debt != owed {
            line.set(Slot { full_at: now.saturating_add(debt), ..slot });
        }
    }
}

/// Decides about one bucket, and writes it down if that is wanted. Gives the debt that the decision was made by, and
/// the slot as it was if it was allowed.
#[inline]
fn settle(line: &Locked<'_>, tag: u64, charge: &Charge, now: u64, write: bool) -> (u64, Option<Slot>) {
    let slot = line.find(tag, now);
    let owed = slot.full_at.saturating_sub(now);
    let capacity = charge.quota.capacity();
    // The clock went back: no bucket of this size can owe more. What the strangers' does is the sum of all sizes.
    let debt = if slot.tag == STRANGERS { owed } else { owed.min(capacity) };
    let found = line.at(slot.at);
    if debt < owed && found.tag == slot.tag {
        line.set(Slot { full_at: now.saturating_add(capacity), ..slot });
    }
    let Decision::Allowed { granted, debt: after } = charge.quota.decide(debt, charge.cost, charge.most) else {
        return (debt, None);
    };
    if write && granted > 0 {
        line.set(Slot { full_at: now.saturating_add(after), ..slot });
    }
    (debt, Some(found))
}
