//! The conformance corpus: schemas, requests and the answers that they must get, on both databases, in process and
//! over HTTP. `README.md` in this folder describes the format of a case.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::format_push_string,
    reason = "a test program: a failed assumption is a failed test"
)]

pub mod client;
pub mod json;
pub mod steps;
pub mod transcript;

/// Where the router is mounted, as `dev` and `serve` do.
pub const MOUNT: &str = "/api";
