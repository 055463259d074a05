//! Rate limits: every store, the layer, and the routes of a schema.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "tests"
)]

mod layer;
mod router;
#[path = "../support/servers.rs"]
mod servers;
mod stores;
