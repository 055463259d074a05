//! TLS of the server, of PostgreSQL, and callers that are known by a certificate.
//!
//! The workspace `fips/` runs these tests on the validated module too.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

#[path = "../support/certificates.rs"]
mod certificates;
mod clients;
#[path = "../typed/databases.rs"]
#[allow(dead_code, reason = "a part of them is used")]
mod databases;
mod postgres;
mod server;
