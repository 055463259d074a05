//! Procedures over HTTP: the anomalies of the literature, which `@isolation` rules out, and what bodies are given.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod desk;
mod histories;
mod keys;
mod refusals;
mod support;
