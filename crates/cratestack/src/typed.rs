//! The runtime of [`include_schema!`](crate::include_schema): everything about typed access that does not differ from
//! schema to schema. Generated code is a thin face of this module, and this module one of the [engine](crate::engine):
//! filters become the text of docs/http.md's `where`, inputs the JSON of a request, and answers are read back, so that
//! rules, validators, versions and the audit trail are the same as over HTTP.
//!
//! What a program names itself is here too: [`Change`], [`Error`], [`Filter`], [`Page`], [`Children`], [`Written`],
//! [`RequestContext`]. The traits are implemented by generated code alone.

mod error;
mod filter;
mod query;
mod record;
mod session;
mod table;
mod tx;
mod value;
mod write;

#[cfg(feature = "decimal-bigdecimal")]
pub use bigdecimal::BigDecimal;
pub use chrono::{DateTime, NaiveDate, Utc};
pub use cratestack_engine::api::AuthMethod;
pub use cratestack_engine::engine::procedures::NoProcedures;
pub use cratestack_engine::engine::tx::Tx as Begun;
pub use cratestack_engine::isolated::{BoxError, Host, TxOptions, run_in_isolated_tx_with};
pub use cratestack_engine::json::Json;
pub use cratestack_engine::{Engine, OpenError, Options};
pub use cratestack_schema::decimal::Backend;
pub use cratestack_schema::ir::Schema;
pub use error::Error;
pub use filter::{Children, Field, Filter, Many, Path, Sort};
pub use futures_util::future::BoxFuture;
pub use query::{Include, Included, Listed, Page, Plain, Query, Shape, With};
pub use record::{Change, Reader, Redacted, Writer};
/// For one error of the compiler, and not two: the feature that generated code needs is missing.
#[cfg(not(feature = "decimal-rust-decimal"))]
#[doc(hidden)]
pub type Decimal = String;
/// As above.
#[cfg(not(feature = "decimal-bigdecimal"))]
#[doc(hidden)]
pub type BigDecimal = String;
#[cfg(feature = "decimal-rust-decimal")]
pub use rust_decimal::Decimal;
pub use serde_json::Value as JsonValue;
pub use session::{Reading, RequestContext, Session, Source};
pub use table::{Changeable, Creatable, Input, Model, ReadOnly, ReadWrite, SoftDelete, Table, Versioned};
pub use tokio::time::Instant;
pub(crate) use tx::hosted;
pub use tx::{Call, Claims, Face, Implements, Nobody, Tx, begin, lend, options};
pub use uuid::Uuid;
pub use value::{Comparable, Enumeration, Exact, Key, Ordered, Value, ValueError, decode_enum, encode_enum};
pub use write::{Create, Delete, Restore, Update, Written};
