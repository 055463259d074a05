//! Reads of single rows that go to the database together.
//!
//! Most of what a read of one row costs is not the row: two processes wake each other, and a statement begins and ends.
//! So requests with the same statement that are ready at the same time share one. Nobody waits for others to come: those
//! go along that are ready to run when the first one asks, and those that come while there is no connection for it.
//!
//! No request fails for another's sake: after whatever error of the common statement, each runs its own.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use cratestack_schema::value::Value;
use sqlx::postgres::{PgArguments, PgRow};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::{PgSession, Place, Postgres, busy, late};
use crate::fault::{Class, StoreError};
use crate::sql::{Column, Dialect, Statement, Template};
use crate::storage::{RowReader, add_argument, add_array};
use crate::store::{NoPages, Rows, Session as _};

/// Requests that share a statement, at most: what comes is read as a whole before the first one has its row.
const MOST: usize = 32;

/// The requests with one statement that wait for their turn.
#[derive(Debug)]
pub struct Gather {
    /// The statement of several. Its slots are those of the statement of one.
    template: Arc<Template>,
    /// The column that says whose a row is, from 1 on.
    whose: Column,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    /// Whether there is somebody who will take them.
    led: bool,
    /// How many were taken so far.
    taken: u64,
}

#[derive(Debug)]
struct Waiting {
    statement: Statement,
    deadline: Instant,
    /// Dropped without an answer where the request has to run its own statement.
    answer: oneshot::Sender<Result<Rows, StoreError>>,
    /// Given up when it is taken.
    _place: Option<Place>,
}

impl Gather {
    /// For requests whose rows `template` reads together; `whose` is its column that tells them apart.
    pub fn new(template: Arc<Template>, whose: Column) -> Self {
        Self { template, whose, queue: Mutex::default() }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a request in the queue. Says its number, and whether somebody must take the lead.
    fn push(&self, waiting: Waiting) -> (u64, bool) {
        let mut queue = self.queue();
        let number = queue.taken + queue.waiting.len() as u64;
        queue.waiting.push_back(waiting);
        (number, !std::mem::replace(&mut queue.led, true))
    }

    /// Forgets those who do not wait any more.
    fn prune(&self) {
        let mut queue = self.queue();
        let before = queue.waiting.len();
        queue.waiting.retain(|waiting| !waiting.answer.is_closed());
        queue.taken += (before - queue.waiting.len()) as u64;
    }
}

impl Postgres {
    /// Runs a statement that reads one row, together with those like it that are ready now. `None`: it has not run, and
    /// has to be run by itself.
    ///
    /// # Errors
    /// Of this request alone: its deadline has passed, too many wait, or its row cannot be read.
    pub async fn gathered(
        &self,
        gather: &Arc<Gather>,
        statement: Statement,
        deadline: Instant,
    ) -> Result<Option<Rows>, StoreError> {
        let place = if self.shared.permits.available_permits() > 0 {
            None
        } else {
            let place = Place::take(&self.shared).or_else(|| {
                gather.prune();
                Place::take(&self.shared)
            });
            Some(place.ok_or_else(|| busy("too many operations wait for a connection"))?)
        };
        let (answer, answered) = oneshot::channel();
        let waiting = Waiting { statement, deadline, answer, _place: place };
        let (number, first) = gather.push(waiting);
        if first {
            start(self.clone(), Lead { gather: Arc::clone(gather), done: false });
        }
        match timeout_at(deadline, answered).await {
            Ok(Ok(answer)) => answer.map(Some),
            Ok(Err(_)) => Ok(None),
            Err(_) if number < gather.queue().taken => Err(late()),
            Err(_) => Err(busy("no connection was free before the deadline")),
        }
    }
}

/// The duty to take those who wait. Who fails in it leaves none behind: they run by themselves.
struct Lead {
    gather: Arc<Gather>,
    done: bool,
}

impl Lead {
    /// The next ones, and the duty to take those behind them.
    fn take(mut self) -> (Vec<Waiting>, Option<Self>) {
        let mut queue = self.gather.queue();
        let count = queue.waiting.len().min(MOST);
        let taken = queue.waiting.drain(..count).collect();
        queue.taken += count as u64;
        queue.led = !queue.waiting.is_empty();
        let more = queue.led;
        drop(queue);
        self.done = !more;
        (taken, more.then_some(self))
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let mut queue = self.gather.queue();
        queue.led = false;
        queue.taken += queue.waiting.len() as u64;
        let left = std::mem::take(&mut queue.waiting);
        drop(queue);
        drop(left);
    }
}

fn start(pool: Postgres, lead: Lead) {
    tokio::spawn(self::lead(pool, lead));
}

async fn lead(pool: Postgres, lead: Lead) {
    behind_those_who_are_ready().await;
    let until = lead.gather.queue().waiting.iter().map(|waiting| waiting.deadline).max();
    let session = match until {
        Some(until) => pool.session(until).await.ok(),
        None => None,
    };
    let gather = Arc::clone(&lead.gather);
    let (mut taken, more) = lead.take();
    if let Some(more) = more {
        start(pool, more);
    }
    let Some(mut session) = session else { return };
    taken.retain(|waiting| !waiting.answer.is_closed());
    let (statements, mut answers): (Vec<_>, Vec<_>) =
        taken.into_iter().map(|waiting| (waiting.statement, waiting.answer)).unzip();
    let found = tokio::select! {
        biased;
        found = gather.fetch(&mut session, &statements) => found,
        // The connection is then closed, and the server gives up.
        () = gone(&mut answers) => return,
    };
    drop(session);
    for (answer, found) in answers.into_iter().zip(found.into_iter().flatten()) {
        // Who does not wait any more does not want it.
        let _ = answer.send(found);
    }
}

/// Ends when nobody waits any more.
async fn gone(answers: &mut [oneshot::Sender<Result<Rows, StoreError>>]) {
    for answer in answers {
        answer.closed().await;
    }
}

/// Lets the tasks go first that are ready to run on this thread.
async fn behind_those_who_are_ready() {
    let mut been = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut been, true) {
            return Poll::Ready(());
        }
        // Not `yield_now`, which waits for what the sockets say as well.
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

impl Gather {
    /// What each of the statements reads. An error is nobody's own.
    async fn fetch(
        &self,
        session: &mut PgSession,
        statements: &[Statement],
    ) -> Result<Vec<Result<Rows, StoreError>>, StoreError> {
        match statements {
            [] => Ok(Vec::new()),
            [one] => Ok(vec![Ok(session.fetch(one, &mut NoPages).await?)]),
            all => {
                let rows = session.rows(&self.template.sql, || self.arguments(all)).await?;
                self.sort(&session.lease.shared.schema, &rows, all.len())
            }
        }
    }

    fn arguments(&self, statements: &[Statement]) -> Result<PgArguments, StoreError> {
        let mut arguments = PgArguments::default();
        for (at, slot) in self.template.slots.iter().enumerate() {
            let mut values = statements.iter().filter_map(|statement| statement.binds.get(at));
            let added = if slot.slot.is_fixed() {
                values.next().map_or(Ok(()), |value| add_argument(value, &mut arguments))
            } else {
                add_array(slot.ty.bind_kind(Dialect::Postgres), values, &mut arguments)
            };
            added.map_err(|error| StoreError::new(Class::Other, error.to_string()))?;
        }
        Ok(arguments)
    }

    fn sort(
        &self,
        schema: &cratestack_schema::ir::Schema,
        rows: &[PgRow],
        count: usize,
    ) -> Result<Vec<Result<Rows, StoreError>>, StoreError> {
        let reader = RowReader { schema, dialect: Dialect::Postgres };
        let unread = |error: String| StoreError::new(Class::Other, error);
        let mut found = vec![Ok(Rows::default()); count];
        for row in rows {
            let whose = reader.control(&[self.whose], row).map_err(|error| unread(error.to_string()))?;
            let whose = match whose.as_slice() {
                [Value::Int(number)] => usize::try_from(*number).ok().and_then(|number| number.checked_sub(1)),
                _ => None,
            };
            let found = whose.and_then(|at| found.get_mut(at));
            let found = found.ok_or_else(|| unread("a row is nobody's".to_owned()))?;
            if let Ok(rows) = found
                && let Err(error) = rows.push(reader, &self.template, row, &mut NoPages)
            {
                *found = Err(error);
            }
        }
        Ok(found)
    }
}
