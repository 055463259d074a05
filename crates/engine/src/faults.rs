//! Faults that tests order at named points of a request with an idempotency key.
//!
//! This is for tests: the feature `faults` is off by default, and without it [`at`] is nothing.

use std::sync::{Mutex, PoisonError};

use crate::api::Code;
use crate::api::Failure;
use rusqlite::ffi;

/// Where a fault can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Point {
    /// It is this request's turn among those with its key, and the database has been asked for nothing.
    Claimed,
    /// Nothing is recorded of it, and nobody else can be at it. Not where one statement of PostgreSQL is all.
    Locked,
    /// All is written but the record, and the answer is to be made. Not where one statement of PostgreSQL is all.
    Written,
    /// All is committed, and nobody was told.
    Committed,
    /// In the body of a procedure. Asked by the tests' own.
    Body,
    /// In a trigger on SQLite that the test has made, under the name that it gives to it.
    Trigger(&'static str),
}

/// What happens there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// An error that nothing can be done about.
    Error,
    /// A panic.
    Panic,
    /// The process is gone, as by SIGKILL: nothing is ended in good order.
    Kill,
    /// In a trigger on SQLite: the function gives this number, of which the trigger makes something.
    Told(i64),
    /// In a trigger on SQLite: that its disk is full.
    Full,
}

/// Lets the fault happen that was [armed](arm) for a point.
///
/// # Errors
/// [`Fault::Error`].
pub fn at(point: Point) -> Result<(), Failure> {
    match struck(point) {
        None => Ok(()),
        Some(fault) => {
            happen(fault);
            Err(Failure::new(Code::Internal, "an internal error").with_internal("a fault that a test has ordered"))
        }
    }
}

/// What is ordered: where, what, how often, and how often it has happened.
#[derive(Debug)]
struct Order {
    point: Point,
    fault: Fault,
    left: u32,
    done: u32,
}

static ORDER: Mutex<Option<Order>> = Mutex::new(None);

/// Orders a fault in this process, in place of the one that was ordered before. It happens `times` times.
pub fn arm(point: Point, fault: Fault, times: u32) {
    *ORDER.lock().unwrap_or_else(PoisonError::into_inner) = Some(Order { point, fault, left: times, done: 0 });
}

/// Takes the order back. Says how often it has happened.
pub fn disarm() -> u32 {
    ORDER.lock().unwrap_or_else(PoisonError::into_inner).take().map_or(0, |order| order.done)
}

fn struck(point: Point) -> Option<Fault> {
    let mut order = ORDER.lock().unwrap_or_else(PoisonError::into_inner);
    let order = order.as_mut().filter(|order| order.point == point && order.left > 0)?;
    order.left -= 1;
    order.done += 1;
    Some(order.fault)
}

#[allow(clippy::panic, reason = "it is what was ordered")]
fn happen(fault: Fault) {
    match fault {
        Fault::Panic => panic!("a panic that a test has ordered"),
        Fault::Kill => {
            let own = std::process::id().to_string();
            let killed = std::process::Command::new("kill").args(["-KILL", &own]).status();
            tracing::error!(?killed, "the process should be gone");
            std::process::abort();
        }
        Fault::Error | Fault::Told(_) | Fault::Full => {}
    }
}

/// Gives an SQLite connection the function `cratestack_fault(name)`, by which triggers of tests reach [`Point::Trigger`]: 0,
/// unless something was ordered.
pub(crate) fn register_functions(connection: &rusqlite::Connection) -> rusqlite::Result<()> {
    use rusqlite::functions::FunctionFlags;
    let failed = |code| rusqlite::Error::SqliteFailure(ffi::Error::new(code), None);
    connection.create_scalar_function("cratestack_fault", 1, FunctionFlags::SQLITE_UTF8, move |context| {
        let name: String = context.get(0)?;
        let fault = {
            let order = ORDER.lock().unwrap_or_else(PoisonError::into_inner);
            let point = order.as_ref().map(|order| order.point);
            drop(order);
            point.filter(|point| matches!(point, Point::Trigger(wanted) if *wanted == name)).and_then(struck)
        };
        match fault {
            None => Ok(0),
            Some(Fault::Told(number)) => Ok(number),
            Some(Fault::Full) => Err(failed(ffi::SQLITE_FULL)),
            Some(fault) => {
                happen(fault);
                Err(failed(ffi::SQLITE_ERROR))
            }
        }
    })
}
