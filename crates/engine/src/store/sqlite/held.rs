//! A transaction whose statements are ordered one by one, by a task elsewhere.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Instant;

use tokio::sync::oneshot;

use super::{Job, Patience, SqliteSession};
use crate::fault::{Class, StoreError};
use crate::store::Control;

/// What a transaction may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    /// Reads, all of one snapshot.
    Read,
    /// Reads and changes.
    Write,
}

type Step = Box<dyn FnOnce(&mut SqliteSession<'_>) + Send>;

enum Order {
    Run(Step),
    Commit,
}

/// Orders that wait for the thread: the one at hand, and that of somebody who no longer waits for it.
const ORDERS: usize = 2;

/// A transaction whose statements are ordered one by one, by a task elsewhere. Nobody else writes meanwhile. It is rolled
/// back when it is dropped, and when its deadline passes.
#[derive(Debug)]
pub(crate) struct Held {
    orders: SyncSender<Order>,
    ended: oneshot::Receiver<Result<(), StoreError>>,
    deadline: Instant,
}

impl Held {
    /// What the thread runs, what tells that it has begun, and what orders.
    pub(super) fn prepare(access: Access, deadline: Instant) -> (Box<dyn Job>, oneshot::Receiver<()>, Self) {
        let (orders, received) = sync_channel(ORDERS);
        let (sender, begun) = oneshot::channel();
        let (ended_sender, ended) = oneshot::channel();
        let hold = Hold {
            patience: Patience { deadline, gone: Arc::default() },
            access,
            orders: received,
            begun: Some(sender),
            result: Err(over()),
            ended: Some(ended_sender),
        };
        (Box::new(hold), begun, Self { orders, ended, deadline })
    }

    /// Why it did not begin.
    pub(super) async fn refusal(self) -> StoreError {
        self.ended.await.map_or_else(|_| over(), |ended| ended.err().unwrap_or_else(over))
    }

    /// Runs `work` on the connection's thread.
    pub(crate) async fn run<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut SqliteSession<'_>) -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        let (sender, answer) = oneshot::channel();
        let step: Step = Box::new(move |session| {
            // Nobody listens when the caller has gone.
            let _ = sender.send(work(session));
        });
        self.orders.try_send(Order::Run(step)).map_err(|_| over())?;
        let panicked = || StoreError::new(Class::Other, "the code of the transaction panicked");
        answer.await.map_err(|_| if Instant::now() < self.deadline { panicked() } else { over() })
    }

    /// Commits, and waits for the disk.
    pub(crate) async fn commit(self) -> Result<(), StoreError> {
        self.orders.try_send(Order::Commit).map_err(|_| over())?;
        self.ended.await.map_err(|_| over())?
    }
}

fn over() -> StoreError {
    StoreError::new(Class::Timeout, "the deadline of the transaction has passed")
}

/// The thread's side of a [`Held`].
struct Hold {
    patience: Patience,
    access: Access,
    orders: Receiver<Order>,
    begun: Option<oneshot::Sender<()>>,
    result: Result<(), StoreError>,
    ended: Option<oneshot::Sender<Result<(), StoreError>>>,
}

impl Hold {
    /// Whether to keep the changes.
    fn obey(&mut self, session: &mut SqliteSession<'_>) -> bool {
        if self.begun.take().is_none_or(|begun| begun.send(()).is_err()) {
            return false;
        }
        loop {
            let left = self.patience.deadline.saturating_duration_since(Instant::now());
            match self.orders.recv_timeout(left) {
                Ok(Order::Run(step)) => {
                    if catch_unwind(AssertUnwindSafe(|| step(session))).is_err() {
                        self.result = Err(over());
                        return false;
                    }
                }
                Ok(Order::Commit) => {
                    self.result = Ok(());
                    return true;
                }
                Err(_) => return false,
            }
        }
    }
}

impl Job for Hold {
    fn alone(&self) -> bool {
        true
    }

    fn patience(&self) -> Patience {
        self.patience.clone()
    }

    fn run(&mut self, session: &mut SqliteSession<'_>) -> bool {
        if self.access == Access::Write {
            return self.obey(session);
        }
        // On a reader, outside of any transaction, the savepoint begins one.
        let begun = session.read_only(true).and_then(|()| session.word(Control::Begin));
        if let Err(error) = begun {
            self.result = Err(error);
            return false;
        }
        self.obey(session);
        let done = session.word(Control::Rollback);
        self.result = session.read_only(false).and(done);
        true
    }

    fn fail(&mut self, error: StoreError) {
        self.result = Err(error);
        // Its caller need not wait for what else is in the group.
        self.begun = None;
    }

    fn answer(&mut self) {
        if let Some(ended) = self.ended.take() {
            let _ = ended.send(std::mem::replace(&mut self.result, Ok(())));
        }
    }
}
