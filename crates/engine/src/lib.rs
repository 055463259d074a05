//! Runs any operation of a CrateStack schema in one transaction on PostgreSQL or SQLite.
//!
//! This crate knows nothing of HTTP.

pub mod api;
pub mod audit;
pub mod cursor;
pub mod ddl;
pub mod ddl_diff;
pub mod ddl_trigger;
pub mod engine;
pub mod fault;
#[cfg(feature = "faults")]
pub mod faults;
#[cfg(not(feature = "faults"))]
mod faults {
    //! The points without the faults: nothing.

    use crate::api::Failure;

    pub(crate) enum Point {
        Claimed,
        Locked,
        Written,
        Committed,
    }

    #[expect(clippy::unnecessary_wraps, reason = "with the feature it can fail")]
    pub(crate) const fn at(_: Point) -> Result<(), Failure> {
        Ok(())
    }
}
pub mod idempotency;
pub mod input;
pub mod isolated;
pub mod json;
mod logs;
pub mod migrate;
pub mod migrations;
pub mod outbox;
pub mod output;
pub mod plan;
pub mod policy;
pub mod predicate;
pub mod query;
pub mod ratelimit;
#[cfg(feature = "redis")]
mod redis_server;
pub mod relay;
pub mod sources;
pub mod sql;
pub mod storage;
pub mod store;
pub mod validate;

pub use api::Limits;
pub use engine::{Database, Engine, OpenError, Options};

#[cfg(test)]
mod ddl_diff_tests;
#[cfg(test)]
mod ddl_tests;
#[cfg(test)]
mod testing;
