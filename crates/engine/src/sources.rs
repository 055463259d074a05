//! What is different each time: the clock and fresh identifiers. Both are given to the engine, so that a test can
//! repeat a run to the letter.

use std::fmt::Debug;
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use uuid::Uuid;

/// Tells the time.
pub trait Clock: Debug + Send + Sync {
    /// Microseconds since 1970-01-01T00:00:00Z.
    fn now(&self) -> i64;
}

/// Makes identifiers and random octets.
pub trait Ids: Debug + Send + Sync {
    /// A UUID of version 7, lower case with hyphens.
    fn uuid(&self) -> String;
    /// A cuid: a lower-case letter, then lower-case letters and digits, 24 in all.
    fn cuid(&self) -> String;
    /// Fills the buffer with octets that nobody can guess; `false` when the operating system gives none.
    fn random(&self, buffer: &mut [u8]) -> bool;
}

/// The clock of the machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the clock that is injected")]
    fn now(&self) -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
    }
}

/// Identifiers from the operating system's randomness.
#[derive(Debug, Default)]
pub struct RandomIds {
    random: SystemRandom,
}

impl Ids for RandomIds {
    fn uuid(&self) -> String {
        Uuid::now_v7().hyphenated().to_string()
    }

    fn cuid(&self) -> String {
        let mut octets = [0; 16];
        if !self.random(&mut octets) {
            // Unique all the same; only guessable.
            octets = Uuid::now_v7().into_bytes();
        }
        cuid(u128::from_be_bytes(octets))
    }

    fn random(&self, buffer: &mut [u8]) -> bool {
        self.random.fill(buffer).is_ok()
    }
}

/// A letter and 23 digits of base 36.
fn cuid(mut number: u128) -> String {
    let mut digit = |base: u128, first: u8, text: &mut String| {
        let digit = u8::try_from(number % base).unwrap_or(0);
        number /= base;
        text.push(char::from(if digit < 26 { b'a' + digit } else { first + (digit - 26) }));
    };
    let mut text = String::with_capacity(24);
    digit(26, b'0', &mut text);
    for _ in 0..23 {
        digit(36, b'0', &mut text);
    }
    text
}

/// A clock that stands still, and identifiers that count: for tests and transcripts.
#[derive(Debug)]
pub struct Fixed {
    now: i64,
    count: Mutex<u64>,
}

impl Fixed {
    /// Starts at that time.
    pub fn at(now: i64) -> Self {
        Self { now, count: Mutex::new(0) }
    }

    fn next(&self) -> u64 {
        let mut count = self.count.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *count += 1;
        *count
    }
}

impl Clock for Fixed {
    fn now(&self) -> i64 {
        self.now
    }
}

impl Ids for Fixed {
    fn uuid(&self) -> String {
        format!("00000000-0000-7000-8000-{:012x}", self.next())
    }

    fn cuid(&self) -> String {
        format!("c{:023}", self.next())
    }

    fn random(&self, buffer: &mut [u8]) -> bool {
        let seed = self.next().to_be_bytes();
        for (octet, value) in buffer.iter_mut().zip(seed.iter().cycle()) {
            *octet = *value;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cratestack_schema::ir::Scalar;
    use cratestack_schema::value::parse_text;

    #[test]
    fn identifiers_are_values_of_their_types() {
        let fixed = Fixed::at(0);
        for ids in [&RandomIds::default() as &dyn Ids, &fixed] {
            assert!(parse_text(Scalar::Uuid, &ids.uuid()).is_ok());
            assert!(parse_text(Scalar::Cuid, &ids.cuid()).is_ok());
            assert_ne!(ids.cuid(), ids.cuid());
        }
        assert!(parse_text(Scalar::Cuid, &cuid(u128::MAX)).is_ok());
        assert!(parse_text(Scalar::Cuid, &cuid(0)).is_ok());
    }
}
