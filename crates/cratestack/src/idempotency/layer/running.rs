//! Which requests with a key this process is at, so that others with the same key need not ask the store all the time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cratestack_engine::idempotency::Identity;
use tokio::sync::watch;

/// Scope and key.
type Place = ([u8; 32], String);

#[derive(Debug, Default)]
pub(super) struct Running {
    places: Mutex<HashMap<Place, watch::Receiver<()>>>,
}

/// A request that is worked on, until this is dropped.
#[derive(Debug)]
pub(super) struct Underway {
    running: Arc<Running>,
    place: Place,
    signal: watch::Sender<()>,
}

impl Running {
    pub(super) fn begin(self: &Arc<Self>, identity: &Identity) -> Underway {
        let (signal, receiver) = watch::channel(());
        let place = (identity.scope, identity.key.clone());
        self.places().insert(place.clone(), receiver);
        Underway { running: Arc::clone(self), place, signal }
    }

    /// Waits until it is over; forever when it is not here.
    pub(super) async fn over(&self, identity: &Identity) {
        let receiver = self.places().get(&(identity.scope, identity.key.clone())).cloned();
        match receiver {
            // Nothing is ever sent: the end of the sender is the signal.
            Some(mut receiver) => while receiver.changed().await.is_ok() {},
            None => std::future::pending().await,
        }
    }

    fn places(&self) -> MutexGuard<'_, HashMap<Place, watch::Receiver<()>>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        let mut places = self.running.places();
        // It may be that of one that has taken over.
        if places.get(&self.place).is_some_and(|receiver| receiver.same_channel(&self.signal.subscribe())) {
            places.remove(&self.place);
        }
    }
}
