//! Where statements run. A [`Session`] is a connection in use by one operation; the two stores differ in how they
//! lend one: PostgreSQL from a small pool, SQLite on the connection's own thread.

pub mod postgres;
pub mod sqlite;
#[cfg(test)]
mod tests;
pub mod url;

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};

use cratestack_schema::value::Value;

use crate::fault::{Class, StoreError};
use crate::sql::{Many, Statement, Template};
use crate::storage::{Cells, Pager, RowReader, StorageError};

/// Octets that most rows fit into, so that their text does not grow by doubling from nothing.
const FIRST: usize = 512;

/// Fetched rows: their control columns ([`crate::sql::Template::control`]) as values, and each row as a JSON object, all
/// in one buffer.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Rows {
    /// By row, of the rows where they are wanted.
    control: Vec<(usize, Vec<Value>)>,
    /// The objects, with commas between them.
    body: String,
    /// Where each object ends.
    ends: Vec<usize>,
}

impl Rows {
    fn push<R: Cells + ?Sized>(
        &mut self,
        reader: RowReader<'_>,
        template: &Template,
        row: &R,
        pager: &mut dyn Pager,
    ) -> Result<(), StoreError> {
        let read = |error: StorageError| StoreError::new(Class::Other, error.to_string());
        let at = self.ends.len();
        if template.page.is_none_or(|shown| at == 0 || at + 1 == shown) {
            self.control.push((at, reader.control(&template.control, row).map_err(read)?));
        }
        if at == 0 {
            self.body.reserve(FIRST);
        } else {
            self.body.push(',');
        }
        if !template.shape.members.is_empty() {
            reader.body(&template.shape, row, pager, &mut self.body).map_err(read)?;
        }
        self.ends.push(self.body.len());
        Ok(())
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The control columns of a row; empty when there is no such row, or when they are not read of it.
    pub fn control(&self, row: usize) -> &[Value] {
        self.control.iter().find(|(at, _)| *at == row).map_or(&[], |(_, values)| values)
    }

    /// The first row's body.
    pub fn into_first(mut self) -> String {
        self.body.truncate(self.ends.first().copied().unwrap_or(0));
        self.body
    }

    /// The bodies of the first `count` rows as a JSON array.
    pub fn into_array(mut self, count: usize) -> String {
        self.body
            .truncate(count.checked_sub(1).map_or(0, |last| self.ends.get(last).copied().unwrap_or(self.body.len())));
        self.body.insert(0, '[');
        self.body.push(']');
        self.body
    }
}

/// A connection in use by one operation.
///
/// Outside of [`Control::Begin`] .. [`Control::Commit`] each statement is a transaction of its own on
/// PostgreSQL. A job of the SQLite writer is always inside a transaction that others share, so there `begin`
/// and `commit` do nothing, and an operation that ends with an error is undone as a whole.
pub trait Session: Send {
    /// Runs a statement to its end and returns all its rows. `pager` makes the cursors of to-many includes.
    fn fetch(
        &mut self,
        statement: &Statement,
        pager: &mut (dyn Pager + Send),
    ) -> impl Future<Output = Result<Rows, StoreError>> + Send;

    /// Runs one of the fixed words of [`Control`].
    fn control(&mut self, word: Control) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Makes the session usable for further statements after one outside of any savepoint has failed. Only a
    /// [`Nested`] one has something to do.
    fn recover(&mut self) -> impl Future<Output = Result<(), StoreError>> + Send {
        std::future::ready(Ok(()))
    }
}

/// A session inside of a transaction that goes on afterwards: what would begin and end a transaction is a savepoint.
#[derive(Debug)]
pub struct Nested<'s, S> {
    session: &'s mut S,
    /// Whether the transaction was given up.
    pub(crate) given_up: bool,
}

impl<'s, S> Nested<'s, S> {
    pub(crate) fn new(session: &'s mut S) -> Self {
        Self { session, given_up: false }
    }
}

impl<S: Session> Session for Nested<'_, S> {
    fn fetch(
        &mut self,
        statement: &Statement,
        pager: &mut (dyn Pager + Send),
    ) -> impl Future<Output = Result<Rows, StoreError>> + Send {
        self.session.fetch(statement, pager)
    }

    fn control(&mut self, word: Control) -> impl Future<Output = Result<(), StoreError>> + Send {
        self.session.control(match word {
            Control::Begin => Control::Savepoint,
            Control::Commit => Control::Release,
            Control::Rollback => Control::RollbackTo,
            word => word,
        })
    }

    /// A savepoint before each statement would cost PostgreSQL a round trip each, so it is the transaction that ends here: its
    /// code is told why, and can do nothing more in it.
    async fn recover(&mut self) -> Result<(), StoreError> {
        self.given_up = true;
        self.session.control(Control::Abandon).await
    }
}

/// The [`Pager`] of statements without to-many includes.
#[derive(Debug, Clone, Copy)]
pub struct NoPages;

impl Pager for NoPages {
    fn next(&mut self, _: &Many, _: &[Value]) -> Result<String, StorageError> {
        // Unreachable: such statements have no `Many`.
        Ok(String::new())
    }
}

/// Transaction control.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// Starts a transaction.
    Begin,
    /// Ends the transaction and keeps its changes.
    Commit,
    /// Ends the transaction and undoes its changes.
    Rollback,
    /// Marks a point to return to; nests.
    Savepoint,
    /// Forgets the last savepoint and keeps what came after it.
    Release,
    /// Undoes what came after the last savepoint, and forgets it.
    RollbackTo,
    /// Undoes all of a transaction of code, which nothing is done in any more.
    Abandon,
}

/// Counts of what a store did, for tests and for metrics.
#[derive(Debug, Default)]
pub struct Statistics {
    statements: AtomicU64,
    groups: AtomicU64,
}

impl Statistics {
    /// Statements sent so far, transaction control included. Outside of the preparation of a statement that is new to
    /// its connection each is one round trip.
    pub fn statements(&self) -> u64 {
        self.statements.load(Ordering::Relaxed)
    }

    /// Transactions of the SQLite writer so far; each serves one operation or more.
    pub fn groups(&self) -> u64 {
        self.groups.load(Ordering::Relaxed)
    }

    fn count_group(&self) {
        self.groups.fetch_add(1, Ordering::Relaxed);
    }

    fn count(&self) {
        self.statements.fetch_add(1, Ordering::Relaxed);
    }
}
