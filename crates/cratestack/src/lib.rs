//! One `.cstack` schema file becomes a running HTTP service with the guarantees of regulated work.
//!
//! This crate is what a host depends on: it turns an [`Engine`] (a schema on a database) into an [`axum::Router`] that
//! is mounted wherever the host likes.

mod answer;
mod auth;
mod batch;
mod body;
mod cbor;
mod config;
mod exchange;
mod headers;
mod media;
mod problem;
mod router;
mod routes;
mod server;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::type_complexity, reason = "tests")]
mod tests;
mod url;

pub use auth::{AuthError, AuthProvider, Claims, DevAuth, NoAuth};
pub use config::{HttpConfig, ServerConfig};
pub use cratestack_engine::{self as engine, Engine};
pub use cratestack_schema as schema;
pub use router::{RouterBuilder, router};
pub use routes::{RouteInfo, RouteTarget, RouteVerb, routes};
pub use server::{Switch, serve};
