//! Reads of single rows that go to the database together.
//!
//! Most of what a read of one row costs is not the row: two processes wake each other, and a statement begins and ends.
//! So requests with the same statement that are ready at the same time share one. Each of them queues for a connection as
//! it would alone; whoever has one that is ready takes along those that still wait. So nobody waits for others to come, nor
//! for another to get a connection, and whoever goes away leaves nothing behind.
//!
//! No request fails for what another asks for: after an error of the common statement, each runs its own.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use cratestack_schema::ir::Schema;
use cratestack_schema::value::Value;
use sqlx::postgres::{PgArguments, PgRow};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::{PgSession, Postgres, late};
use crate::fault::{Class, Remedy, StoreError};
use crate::sql::{Column, Dialect, Statement, Template};
use crate::storage::{RowReader, add_argument, add_array};
use crate::store::{NoPages, Rows, Session as _};

/// Requests that share a statement, at most: what comes is read as a whole before the first one has its row.
const MOST: usize = 32;

/// Where the requests with one statement meet.
#[derive(Debug)]
pub struct Gather {
    /// The statement of several. Its slots are those of the statement of one.
    template: Arc<Template>,
    /// The column that says whose a row is, from 1 on.
    whose: Column,
    queue: Mutex<Queue>,
}

/// Those that have no connection yet, in the order in which they came.
#[derive(Debug, Default)]
struct Queue {
    waiting: BTreeMap<u64, Waiting>,
    came: u64,
}

#[derive(Debug)]
struct Waiting {
    statement: Arc<Statement>,
    deadline: Instant,
    /// Dropped without an answer where the request has to run its own statement.
    answer: oneshot::Sender<Answer>,
}

type Answer = Result<Rows, StoreError>;

/// What became of a request.
#[derive(Debug)]
pub enum Gathered {
    /// Another's statement has read its row.
    Read(Rows),
    /// It has to run its own statement; on this connection, if it has got one for that.
    Alone(Option<PgSession>),
}

impl Gather {
    /// For requests whose rows `template` reads together; `whose` is its column that tells them apart.
    pub fn new(template: Arc<Template>, whose: Column) -> Self {
        Self { template, whose, queue: Mutex::default() }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, waiting: Waiting) -> Entry<'_> {
        let mut queue = self.queue();
        let number = queue.came;
        queue.came += 1;
        queue.waiting.insert(number, waiting);
        Entry { gather: self, number }
    }

    /// Those that have waited the longest.
    fn take(&self, most: usize) -> Vec<Waiting> {
        let mut queue = self.queue();
        std::iter::from_fn(|| queue.waiting.pop_first()).take(most).map(|(_, waiting)| waiting).collect()
    }
}

/// A request in the queue. Leaves it when dropped.
struct Entry<'g> {
    gather: &'g Gather,
    number: u64,
}

impl Entry<'_> {
    /// Whether nobody has taken it along.
    fn waits(&self) -> bool {
        self.gather.queue().waiting.contains_key(&self.number)
    }

    /// Leaves the queue, unless somebody has taken it along.
    fn leave(&self) -> Option<Waiting> {
        self.gather.queue().waiting.remove(&self.number)
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        // It is dropped after the lock is given back.
        let _left = self.leave();
    }
}

impl Postgres {
    /// Has a statement run that reads one row, together with those like it that wait for a connection now.
    ///
    /// # Errors
    /// Of this request alone: there is no connection for it, its deadline has passed, or its row cannot be read.
    pub async fn gathered(
        &self,
        gather: &Arc<Gather>,
        statement: &Arc<Statement>,
        deadline: Instant,
    ) -> Result<Gathered, StoreError> {
        let (answer, mut answered) = oneshot::channel();
        let entry = gather.enter(Waiting { statement: Arc::clone(statement), deadline, answer });
        behind_those_who_are_ready().await;
        // Before it queues for a connection that it does not need.
        if !entry.waits() {
            return wait(answered, deadline).await;
        }
        let lease = tokio::select! {
            biased;
            answer = &mut answered => return given(answer.ok()),
            lease = self.lease(deadline) => lease,
        };
        let Some(own) = entry.leave() else {
            // Whatever became of its own turn, its row is being read.
            drop(lease);
            return wait(answered, deadline).await;
        };
        // A connection that is looked at or made first is nobody else's concern.
        let session = self.ready(lease?, deadline).await?;
        let mut taken = gather.take(MOST - 1);
        if taken.is_empty() {
            return Ok(Gathered::Alone(Some(session)));
        }
        taken.push(own);
        // Not here: this request may go away, and the others must not.
        tokio::spawn(run(Arc::clone(gather), session, taken));
        wait(answered, deadline).await
    }
}

async fn wait(answered: oneshot::Receiver<Answer>, deadline: Instant) -> Result<Gathered, StoreError> {
    timeout_at(deadline, answered).await.map_or_else(|_| Err(late()), |answer| given(answer.ok()))
}

fn given(answer: Option<Answer>) -> Result<Gathered, StoreError> {
    answer.map_or(Ok(Gathered::Alone(None)), |rows| rows.map(Gathered::Read))
}

async fn run(gather: Arc<Gather>, mut session: PgSession, mut taken: Vec<Waiting>) {
    let statements: Vec<Arc<Statement>> = taken.iter().map(|waiting| Arc::clone(&waiting.statement)).collect();
    session.deadline = taken.iter().map(|waiting| waiting.deadline).fold(session.deadline, Instant::max);
    let found = tokio::select! {
        biased;
        found = gather.fetch(&mut session, &statements) => found,
        // The connection is then closed, and the server gives up.
        () = gone(&mut taken) => return,
    };
    match found {
        Ok(found) => {
            drop(session);
            for (waiting, found) in taken.into_iter().zip(found) {
                // Who does not wait any more does not want it.
                let _ = waiting.answer.send(found);
            }
        }
        Err(error) if apart(error.class) => {
            for mut waiting in taken {
                if waiting.answer.is_closed() {
                    continue;
                }
                session.deadline = waiting.deadline;
                let mut pages = NoPages;
                let answer = tokio::select! {
                    biased;
                    answer = session.fetch(&waiting.statement, &mut pages) => answer,
                    () = waiting.answer.closed() => return,
                };
                // Nor are the others to fail with the connection of one.
                if answer.as_ref().is_err_and(|error| !apart(error.class)) {
                    return;
                }
                let _ = waiting.answer.send(answer);
            }
        }
        Err(_) => {}
    }
}

/// Whether the error is of what somebody asks for, so that each is better asked for by itself on the same connection. Not
/// where the connection is lost, or where the database is slow: then each goes its own way.
fn apart(class: Class) -> bool {
    class.remedy() == Remedy::None && !matches!(class, Class::Timeout | Class::Deadline)
}

/// Ends when nobody waits any more.
async fn gone(taken: &mut [Waiting]) {
    for waiting in taken {
        waiting.answer.closed().await;
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
    /// What each of the statements reads. An error of the whole is nobody's own.
    async fn fetch(&self, session: &mut PgSession, statements: &[Arc<Statement>]) -> Result<Vec<Answer>, StoreError> {
        let rows = session.rows(&self.template.sql, || self.arguments(statements)).await?;
        self.sort(&session.lease.shared.schema, &rows, statements.len())
    }

    fn arguments(&self, statements: &[Arc<Statement>]) -> Result<PgArguments, StoreError> {
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

    fn sort(&self, schema: &Schema, rows: &[PgRow], count: usize) -> Result<Vec<Answer>, StoreError> {
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
