//! The requests with a key that are being done in this process: one at a time of each key.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::Semaphore;

use crate::api::Failure;
use crate::idempotency::{Identity, in_flight};

/// Requests with one key that wait at most: who comes later is told at once.
const WAITING: usize = 1000;

/// Scope and key.
type Flight = ([u8; 32], String);

/// The requests with a key that are being done in this process.
#[derive(Debug, Default)]
pub(in crate::engine) struct Flights {
    /// No more than there are requests.
    all: Mutex<HashMap<Flight, Arc<Semaphore>>>,
}

/// The turn of one request. Others with its key wait until it is dropped.
#[derive(Debug)]
pub(in crate::engine) struct Turn<'f> {
    flights: &'f Flights,
    key: Flight,
    turns: Arc<Semaphore>,
    taken: bool,
}

impl Flights {
    /// How many keys there are requests of.
    #[cfg(test)]
    pub(in crate::engine) fn open(&self) -> usize {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Waits for the requests with the same key that came before.
    pub(in crate::engine) async fn enter(&self, identity: &Identity, until: Instant) -> Result<Turn<'_>, Failure> {
        let key = (identity.scope, identity.key.clone());
        let turns = {
            let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(all.entry(key.clone()).or_insert_with(|| Arc::new(Semaphore::new(1))))
        };
        // The map's, and that of the one whose turn it is.
        let crowd = Arc::strong_count(&turns) > WAITING + 2;
        let mut turn = Turn { flights: self, key, turns, taken: false };
        if crowd {
            return Err(in_flight());
        }
        match tokio::time::timeout_at(until.into(), turn.turns.acquire()).await {
            Ok(Ok(permit)) => permit.forget(),
            Ok(Err(_)) | Err(_) => return Err(in_flight()),
        }
        turn.taken = true;
        Ok(turn)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut all = self.flights.all.lock().unwrap_or_else(PoisonError::into_inner);
        // The map's and ours.
        if Arc::strong_count(&self.turns) <= 2 {
            all.remove(&self.key);
        }
        if self.taken {
            self.turns.add_permits(1);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::api::Code;
    use crate::testing::pending;

    fn identity(key: &str) -> Identity {
        Identity { scope: [1; 32], key: key.to_owned(), fingerprint: [2; 32] }
    }

    fn later() -> Instant {
        Instant::now() + Duration::from_mins(1)
    }

    fn open(flights: &Flights) -> usize {
        flights.open()
    }

    #[tokio::test]
    async fn requests_with_one_key_take_turns() {
        let (flights, one, other) = (Flights::default(), identity("a"), identity("b"));
        let first = flights.enter(&one, later()).await.unwrap();
        let apart = flights.enter(&other, later()).await.unwrap();
        let (mut second, mut third) = (Box::pin(flights.enter(&one, later())), Box::pin(flights.enter(&one, later())));
        assert!(pending(second.as_mut()).await && pending(third.as_mut()).await);
        drop(first);
        assert!(pending(third.as_mut()).await, "who came first is first");
        let second = second.await.unwrap();
        assert!(pending(third.as_mut()).await);
        drop(second);
        drop(third.await.unwrap());
        assert_eq!(open(&flights), 1);
        drop(apart);
        assert_eq!(open(&flights), 0);
    }

    #[tokio::test]
    async fn who_gives_up_takes_no_turn() {
        let (flights, one) = (Flights::default(), identity("a"));
        let first = flights.enter(&one, later()).await.unwrap();
        let late = flights.enter(&one, Instant::now()).await.map(|_| ()).unwrap_err();
        assert_eq!(late.code, Code::IdempotencyInFlight);
        let mut gone = Box::pin(flights.enter(&one, later()));
        let mut left = Box::pin(flights.enter(&one, later()));
        assert!(pending(gone.as_mut()).await && pending(left.as_mut()).await);
        drop(gone);
        drop(first);
        // The turn is its own already, and it goes away without having looked.
        drop(left);
        assert_eq!(open(&flights), 0);
        drop(flights.enter(&one, later()).await.unwrap());
        assert_eq!(open(&flights), 0);
    }

    #[tokio::test]
    async fn a_storm_is_told_at_once() {
        let (flights, one) = (Flights::default(), identity("a"));
        let first = flights.enter(&one, later()).await.unwrap();
        let mut crowd: Vec<_> = (0..WAITING).map(|_| Box::pin(flights.enter(&one, later()))).collect();
        for waiting in &mut crowd {
            assert!(pending(waiting.as_mut()).await);
        }
        assert_eq!(flights.enter(&one, later()).await.map(|_| ()).unwrap_err().code, Code::IdempotencyInFlight);
        drop((first, crowd));
        assert_eq!(open(&flights), 0);
    }

    /// A turn ends with a panic as well.
    #[tokio::test]
    async fn a_panic_ends_a_turn() {
        let (flights, one) = (Arc::new(Flights::default()), identity("a"));
        let (inner, key) = (Arc::clone(&flights), one.clone());
        let panicked = tokio::spawn(async move {
            let _turn = inner.enter(&key, later()).await.unwrap();
            panic!("a panic of a test");
        });
        panicked.await.unwrap_err();
        assert_eq!(open(&flights), 0);
        drop(flights.enter(&one, later()).await.unwrap());
    }
}
