//! The conformance corpus: schemas, requests and the answers that they must get, on both databases, in process and
//! over HTTP. `README.md` in this folder describes the format of a case.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::format_push_string,
    clippy::missing_panics_doc,
    reason = "a test program: a failed assumption is a failed test"
)]

pub mod case;
pub mod client;
pub mod clock;
pub mod database;
pub mod in_process;
pub mod json;
pub mod mutate;
pub mod steps;
pub mod transcript;

/// Where the router is mounted, as `dev` and `serve` do.
pub const MOUNT: &str = "/api";
