//! `IdempotencyLayer` and its stores: every row of its tables, on every store, and the ways in which a store fails.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "tests"
)]

mod behaviour;
mod crashes;
mod host;
mod large;
mod outages;
mod places;
#[path = "../support/servers.rs"]
mod servers;
mod steps;
