//! One `.cstack` schema file becomes a running HTTP service with the guarantees of regulated work.
//!
//! This crate is what a host depends on. It turns an [`Engine`] (a schema on a database) into an [`axum::Router`] that
//! is mounted wherever the host likes, beside routes and under layers of its own:
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use cratestack::axum::{Router, routing::get};
//! use cratestack::engine::{Database, Options};
//! use cratestack::{DevAuth, Engine, NoProcedures, ServerConfig, router, serve};
//!
//! async fn run(text: &str) -> Result<(), Box<dyn std::error::Error>> {
//!     let (schema, diagnostics) = cratestack::schema::compile("bank", text);
//!     let schema = schema.ok_or_else(|| format!("the schema has {} findings", diagnostics.len()))?;
//!     let engine = Engine::open(Arc::new(schema), &Database::SqliteMemory, Options::default()).await?;
//!
//!     let api = router(engine.clone(), NoProcedures).auth(DevAuth::new()).into_router();
//!     let app = Router::new().nest("/api", api).route("/hello", get(|| async { "hello" }));
//!     let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
//!     serve(listener, app, ServerConfig::default(), cratestack::interrupted()?).await?;
//!     engine.close().await;
//!     Ok(())
//! }
//! ```
//!
//! The router is built from the schema at start; it needs no generated code. [`routes()`] lists what it serves.
//! `Location` and `Link` name the path that it is nested under; behind a proxy that takes away a prefix, set
//! [`HttpConfig::base_path`].
//!
//! # Typed Rust
//!
//! [`include_schema!`] makes structs, inputs and filters from the schema's file. What is done through them meets the same
//! rules, validators and versions as a request; [`typed`] has the types that it uses.
//!
//! ```
//! mod bank {
//! #   #[cfg(any())]
//!     cratestack::include_schema!("bank.cstack");
//! #   cratestack::include_schema!("../../examples/bank/bank.cstack");
//! }
//!
//! use bank::{Db, Principal, Role, account};
//! use cratestack::{AuthMethod, dec};
//!
//! async fn wealthy(db: &Db) -> Result<Vec<bank::Account>, cratestack::Error> {
//!     let ann = Principal { id: "ann".into(), role: Role::Teller, tenant_id: "berlin".into() };
//!     let ann = db.as_principal(&ann, AuthMethod::Jwt)?;
//!     let rich = account::balance().gte(dec!(100)).and(account::customer().country().eq("DE"));
//!     ann.accounts().filter(rich).order_by(account::created_at().desc()).limit(20).fetch().await
//! }
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! #     let db = Db::connect("sqlite::memory:").await.unwrap();
//! #     assert!(wealthy(&db).await.unwrap().is_empty());
//! # });
//! ```
//!
//! # Where the audit trail and events go
//!
//! What `@@audit` records is in the database, committed with the write, and so are the events of `@@emit`. A
//! [sink](sinks) gets them from there, [`RouterBuilder::with_event_sink`] the events as here the trail:
//!
//! ```no_run
//! use cratestack::sinks::{FileOptions, JsonLinesSink};
//! # use std::time::Duration;
//! # use cratestack::{Engine, NoProcedures, ServerConfig, router, serve};
//!
//! # async fn run(
//! #     engine: Engine,
//! #     listener: tokio::net::TcpListener,
//! #     interrupted: impl Future<Output = ()>,
//! # ) -> Result<(), Box<dyn std::error::Error>> {
//! let file = JsonLinesSink::open("audit.jsonl", FileOptions::default())?;
//! let api = router(engine.clone(), NoProcedures).with_audit_sink(file)?;
//! let deliveries = api.deliveries();
//! serve(listener, api.into_router(), ServerConfig::default(), interrupted).await?;
//! deliveries.stop(Duration::from_secs(10)).await;
//! engine.close().await;
//! # Ok(())
//! # }
//! ```
//!
//! # What a request meets, in this order
//!
//! 1. Its `Host`, which [`serve`] checks (400), and the rate limits by address (429), but for `OPTIONS`.
//! 2. Its size: URL (414), header fields (431).
//! 3. Its route: 404, 405 with `Allow`, or the answer to `OPTIONS`. `HEAD` is served wherever `GET` is.
//! 4. Its form: `Accept` (406), query, conditional headers (400), `Content-Type` (415), body (408, 413, 400).
//! 5. Its caller: credentials that are not valid are a 401 on every route.
//! 6. All other rate limits (429; 400 where it counts as more than a limit ever allows).
//! 7. Its `Idempotency-Key`: missing or malformed (400), too old, or used for another request (422).
//! 8. The engine: policies, validation, versions, and the database.
//!
//! Every refusal is an `application/problem+json` with a stable `code`, and carries the request's `X-Request-Id`.
//!
//! # Details of the contract
//!
//! - `Accept`: among formats of one quality the one that is named more closely wins, then JSON. Ranges that are not well
//!   formed count as absent.
//! - `Content-Type` is needed with every body; its only parameter is `charset=utf-8` on JSON. `Content-Encoding` is a
//!   415.
//! - CBOR has the shapes of JSON: octets are base64 text, map keys are text. Numbers may be integers, finite floats,
//!   bignums (tags 2, 3) and decimal fractions (tag 4); other tags, byte strings and `undefined` are a 400.
//! - Query parameters belong to `GET`; on other methods they are a 400. So is a body where none is taken.
//! - `If-Match` and `If-None-Match` are honoured on `GET`; `If-Match` on `PATCH`, `DELETE` and `restore`. On other
//!   routes, and `If-None-Match` on writes, they are a 400, since nothing would be compared.
//! - An item of a batch has `op` (`create`, `update`, `delete`), `id` (a string, number or boolean; an array of them in
//!   `@@id` order for a composite key), `ifMatch` (a version as a number, or text as in the header: `*`, or entity tags
//!   with their quotes) and `data`. Anything else is a 422 with a pointer into the envelope; at most 100 are listed.
//! - A write whose result the caller may not read is a 201 or a 204, with `Location`.
//! - Problems of a batch's items are inside its answer; a `version_mismatch` has its `etag` beside it.

mod address;
mod answer;
mod auth;
mod batch;
mod body;
mod caller;
mod cbor;
mod config;
pub mod crypto;
pub mod database;
mod deliveries;
mod deprecation;
mod exchange;
mod headers;
pub mod idempotency;
mod media;
pub mod money;
mod problem;
pub mod ratelimit;
mod router;
mod routes;
mod server;
pub mod sinks;
#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::type_complexity,
    clippy::unnecessary_wraps,
    reason = "tests"
)]
mod tests;
pub mod tls;
pub mod typed;
mod url;
pub mod values;

/// The examples of the guide compile and run.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/rust.md")]
pub struct Guide;

/// And those of the page about rate limits.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/rate-limits.md")]
pub struct RateLimitGuide;

/// And those of the page about decimals and money.
#[cfg(all(doctest, feature = "decimal-bigdecimal"))]
#[doc = include_str!("../../../docs/decimals.md")]
pub struct DecimalGuide;

/// And those of the page about TLS.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/tls.md")]
pub struct TlsGuide;

/// And those of the page about migrations.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/migrations.md")]
pub struct MigrationGuide;

pub use axum;
#[cfg(feature = "decimal-bigdecimal")]
pub use bigdecimal;
pub use chrono;
pub use rusqlite;
#[cfg(feature = "decimal-rust-decimal")]
pub use rust_decimal;
pub use serde_json;
pub use sqlx;
pub use uuid;

pub use address::{NotAnAddress, TrustedProxies};
pub use auth::{AuthError, AuthProvider, Claims, DevAuth, MtlsAuth, NoAuth};
#[cfg(feature = "decimal-bigdecimal")]
pub use bigdecimal::BigDecimal;
pub use caller::CallerScope;
pub use chrono::{DateTime, NaiveDate, Utc};
pub use config::{HttpConfig, IdempotencyConfig, ServerConfig};
pub use cratestack_engine::api::{AuthMethod, Code, FieldError};
pub use cratestack_engine::engine::procedures::NoProcedures;
#[cfg(feature = "redis")]
pub use cratestack_engine::idempotency::store::RedisIdempotencyStore;
pub use cratestack_engine::idempotency::store::{IdempotencyStore, SqliteIdempotencyStore, SqlxIdempotencyStore};
pub use cratestack_engine::isolated::{
    IsolationLevel, PgTx, TxError, TxOptions, run_in_isolated_tx, run_in_isolated_tx_with,
};
pub use cratestack_engine::migrations::{
    self, Migration, MigrationError, MigrationStatus, apply_pending, ensure_migrations_table, status,
};
#[cfg(feature = "redis")]
pub use cratestack_engine::ratelimit::RedisRateLimitStore;
pub use cratestack_engine::ratelimit::{
    InMemoryRateLimitStore, LeasedRateLimitStore, LimiterOptions, OnFailure, RateLimitStore, SqlxRateLimitStore,
};
pub use cratestack_engine::sql::Dialect;
pub use cratestack_engine::{self as engine, Engine};
pub use cratestack_macros::{include_migrations, include_schema};
pub use cratestack_schema as schema;
pub use crypto::install_fips_crypto_provider;
pub use deliveries::Deliveries;
pub use idempotency::layer::{Crashed, IdempotencyLayer, Interrupted, NoEffect, Recovered};
pub use ratelimit::layer::RateLimitLayer;
pub use ratelimit::{
    Class, CostError, Costs, KeyError as LimitKeyError, LimitKey, Part, PolicyError, RateLimitCounts, RateLimitError,
    RateLimitPolicy, RateLimits, policies,
};
pub use router::{RouterBuilder, router};
pub use routes::{RouteInfo, RouteTarget, RouteVerb, routes};
#[cfg(feature = "decimal-rust-decimal")]
pub use rust_decimal::Decimal;
pub use server::{Switch, interrupted, not_ready, serve};
pub use tls::{ClientCertificate, ClientName, Tls, TlsFiles};
pub use typed::{Change, Children, Error, Filter, Page, RequestContext, Written};
pub use uuid::Uuid;
pub use values::now;
