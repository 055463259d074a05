//! The relays behind a router's sinks.

use std::fmt::{self, Debug};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cratestack_engine::relay::{self, Log, MulticastAuditSink, Relay, RelayOptions};
use futures_util::future::join_all;
use tokio::runtime::Handle;

use crate::exchange::Backend;
use crate::sinks::{self, SetupError};

/// The running deliveries of the audit trail and of events to the sinks of one router. Clones are the same deliveries. They end with
/// [`Self::stop`], or when the router that they were made for and every clone of this are gone.
#[derive(Clone, Default)]
pub struct Deliveries {
    relays: Arc<Mutex<Vec<Running>>>,
}

/// A relay, and the sinks that it delivers to.
struct Running {
    log: &'static Log,
    names: Vec<String>,
    relay: Relay,
}

impl Deliveries {
    /// Begins to deliver a log to `sink` too.
    pub(crate) fn start(
        &self,
        backend: &dyn Backend,
        log: &'static Log,
        sink: MulticastAuditSink,
        options: &RelayOptions,
    ) -> Result<(), SetupError> {
        sinks::fed(log, backend.schema())?;
        let names: Vec<String> = sink.names().map(str::to_owned).collect();
        let mut relays = self.relays();
        let taken = |name: &&String| relays.iter().any(|running| running.log == log && running.names.contains(name));
        if let Some(name) = names.iter().find(taken) {
            return Err(relay::Error::Twice(name.clone()).into());
        }
        if Handle::try_current().is_err() {
            return Err(SetupError::new(
                "a sink needs a tokio runtime to deliver on",
                "make the router inside of `tokio::runtime::Runtime::block_on` or an async function",
            ));
        }
        let relay = backend.relay(log, sink, options)?;
        relays.push(Running { log, names, relay });
        Ok(())
    }

    /// The names of the sinks that are delivered to.
    pub fn names(&self) -> Vec<String> {
        self.relays().iter().flat_map(|running| running.names.clone()).collect()
    }

    /// The names of those that a log is delivered to.
    pub fn names_of(&self, log: &Log) -> Vec<String> {
        self.relays().iter().filter(|running| running.log == log).flat_map(|running| running.names.clone()).collect()
    }

    /// Lets each sink finish the call that is under way, and starts nothing new. What is not done by the deadline is
    /// given up; those events will be delivered again, by the next server that has the sink. The names of the sinks
    /// that were given up, which are also logged.
    ///
    /// Stop deliveries after the last request, and before [`Engine::close`](crate::Engine::close).
    pub async fn stop(&self, deadline: Duration) -> Vec<String> {
        let relays = std::mem::take(&mut *self.relays());
        let stops = relays.into_iter().map(|Running { names, relay, .. }| async move {
            if relay.stop(deadline).await { Vec::new() } else { names }
        });
        let given_up = join_all(stops).await.concat();
        if !given_up.is_empty() {
            let sinks = given_up.join(", ");
            tracing::warn!(sinks, ?deadline, "sinks were not done in time; they get those events again");
        }
        given_up
    }

    fn relays(&self) -> MutexGuard<'_, Vec<Running>> {
        self.relays.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Debug for Deliveries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Deliveries").field(&self.names()).finish()
    }
}
