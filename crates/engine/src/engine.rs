//! The engine: one schema on one database.

use std::sync::Arc;

use cratestack_schema::ir::{Procedure, Schema};

use crate::api::{Answer, Caller, Code, Failure, Limits, Operation, Principal};
use crate::json::Json;

/// A schema on a database, ready to run operations.
#[derive(Debug, Clone)]
pub struct Engine {
    schema: Arc<Schema>,
}

/// A `--database` value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Database {
    /// `sqlite:path`.
    SqliteFile(std::path::PathBuf),
    /// `sqlite::memory:`: lives as long as the engine.
    SqliteMemory,
    /// `postgres://..` or `postgresql://..`.
    Postgres(String),
}

/// What an [`Engine`] needs besides schema and database.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Limits, with http.md's defaults.
    pub limits: Limits,
}

impl Engine {
    /// The schema that it serves.
    pub fn schema(&self) -> &Arc<Schema> {
        &self.schema
    }

    /// Runs one operation in one transaction.
    pub async fn run(&self, _caller: &Caller, _operation: Operation) -> Result<Answer, Failure> {
        Err(Failure::new(Code::NotImplemented, "this build cannot run operations"))
    }

    /// Checks the policy and the arguments of a procedure, in that order of refusals; its body needs a Rust host, so
    /// the best outcome here is [`Code::NotImplemented`].
    pub async fn call(&self, _caller: &Caller, _procedure: &Procedure, _body: Option<Json>) -> Result<String, Failure> {
        Err(Failure::new(Code::NotImplemented, "this build cannot run procedures"))
    }

    /// Types the claims of a verified token against the `auth` block; the error says what is wrong, for the log.
    pub fn principal(&self, _claims: &Json) -> Result<Principal, String> {
        Err("not yet".to_owned())
    }

    /// Whether the database answers.
    pub async fn ready(&self) -> Result<(), Failure> {
        Ok(())
    }

    /// Waits for what is running and closes the database.
    pub async fn close(&self) {}
}
