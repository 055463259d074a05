//! What is different each time, made the same each time: clock, identifiers and random octets follow from the number of
//! the step, so that a step that is left out changes nothing in the ones after it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use cratestack_engine::Options;
use cratestack_engine::sources::{Clock, Ids};

/// 2026-01-01T00:00:00Z in microseconds.
const START: i64 = 1_767_225_600_000_000;
const SECOND: i64 = 1_000_000;

/// A clock that stands still within a step and moves a second from step to step, and identifiers that count.
#[derive(Debug, Default)]
pub struct Seeded {
    step: AtomicU64,
    next: AtomicU64,
    advanced: AtomicI64,
}

impl Seeded {
    /// Begins a step, the first with 1.
    pub fn step(&self, number: u64) {
        self.step.store(number, Ordering::Relaxed);
        self.next.store(0, Ordering::Relaxed);
    }

    /// Lets seconds pass.
    pub fn advance(&self, seconds: u64) {
        self.advanced.fetch_add(i64::try_from(seconds).unwrap_or(i64::MAX / SECOND) * SECOND, Ordering::Relaxed);
    }

    /// Options of an engine with these sources.
    pub fn options(self: &Arc<Self>) -> Options {
        let mut options = Options { clock: Arc::clone(self) as _, ids: Arc::clone(self) as _, ..Options::default() };
        options.pool.connections = 2;
        options.sqlite_readers = 1;
        options
    }

    /// `<step><three digits>`.
    fn count(&self) -> u64 {
        self.step.load(Ordering::Relaxed) * 1000 + self.next.fetch_add(1, Ordering::Relaxed)
    }
}

impl Clock for Seeded {
    fn now(&self) -> i64 {
        let step = i64::try_from(self.step.load(Ordering::Relaxed)).unwrap_or_default();
        START + step * SECOND + self.advanced.load(Ordering::Relaxed)
    }
}

impl Ids for Seeded {
    fn uuid(&self) -> String {
        format!("019b76da-a800-7000-8000-{:012}", self.count())
    }

    fn cuid(&self) -> String {
        format!("c{:023}", self.count())
    }

    fn random(&self, buffer: &mut [u8]) -> bool {
        let count = self.count().to_be_bytes();
        buffer.iter_mut().zip(count.iter().cycle()).for_each(|(octet, value)| *octet = *value);
        true
    }
}
