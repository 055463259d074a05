//! Random requests: both databases must answer them alike ([`differential`]), and nobody may learn from the answers what
//! they may not read ([`oracle`]).
//!
//! `CRATESTACK_FUZZ_SEED` and `CRATESTACK_FUZZ_REQUESTS` choose other requests and more of them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod differential;
mod oracle;
mod requests;
mod world;

/// A setting for longer runs by hand.
fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}
