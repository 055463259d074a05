//! Requests with an `Idempotency-Key` under faults: whatever fails at whatever point, what was asked for happens once, and every
//! try of a request that was done gets the same answer.

#![allow(
    clippy::format_push_string,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod database;
mod hammer;
mod matrix;
mod operations;
mod proxy;
mod race;
mod service;
mod single;
