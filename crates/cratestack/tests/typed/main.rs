//! `include_schema!` and the typed API on a real engine, on both databases.
//!
//! PostgreSQL is the server that `CRATESTACK_TEST_POSTGRES` names; `CRATESTACK_TEST_ONLY=sqlite` goes without.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::float_cmp,
    reason = "tests"
)]

mod banking;
mod databases;
#[cfg(feature = "decimal-bigdecimal")]
mod decimals;
mod readme;
mod shaping;

/// The example of the README.
pub mod bank {
    cratestack::include_schema!("../../examples/bank/bank.cstack");
}

/// The schema of the golden file.
pub mod shapes {
    cratestack::include_schema!("../macros/golden/shapes.cstack");
}
