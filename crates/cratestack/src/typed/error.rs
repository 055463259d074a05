//! The refusals and failures of the typed API.

use std::fmt;

use axum::response::{IntoResponse, Response};
use cratestack_engine::api::{Code, Failure, FieldError};
use cratestack_engine::engine::procedures;
use cratestack_engine::isolated::TxError;
use uuid::Uuid;

use crate::answer::sent;
use crate::config::HttpConfig;
use crate::problem::Problem;

/// Why an operation was refused or failed.
///
/// [`code`](Self::code) is for programs, and `Display` for people. Neither holds a value of a row or of an input.
#[derive(Clone, PartialEq)]
pub struct Error(Box<Failure>);

impl Error {
    /// A business refusal by code of the service: everything is rolled back, and the caller gets a problem with this code
    /// (snake case), this status (4xx) and this sentence, which holds no values of rows.
    ///
    /// ```
    /// use cratestack::{Code, Error};
    ///
    /// let error = Error::reject("insufficient_funds", 409, "the account does not hold that much");
    /// assert_eq!(error.code(), Code::Rejected);
    /// ```
    pub fn reject(code: &str, status: u16, message: impl Into<String>) -> Self {
        Failure::reject(code, status, message).into()
    }

    /// The stable code: `NotFound`, `VersionMismatch`, `ValidationFailed`, ..
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// One lower-case sentence.
    pub fn detail(&self) -> &str {
        &self.0.detail
    }

    /// What is wrong with which member of the input, for [`Code::ValidationFailed`].
    pub fn field_errors(&self) -> &[FieldError] {
        &self.0.errors
    }

    /// The version that a [`Code::VersionMismatch`] met, where the caller may read the row.
    pub fn current_version(&self) -> Option<i64> {
        self.0.current_version
    }

    /// All of it, with what is for the log alone.
    pub fn failure(&self) -> &Failure {
        &self.0
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Self(Box::new(failure))
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.0)
    }
}

/// The problem that a request of the API would get, for routes of one's own. What is for the log alone goes there, under the
/// `requestId` of the answer. A 401 has no challenge: that is for the host to add, who knows how callers authenticate.
impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let request_id = Uuid::now_v7().to_string();
        let problem = Problem::from(*self.0);
        problem.log(&request_id);
        sent(problem.into_response(&HttpConfig::default().problem_base, &request_id))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        *error.0
    }
}

/// What a transaction reports, in the words that a request would get.
impl From<TxError<Self>> for Error {
    fn from(error: TxError<Self>) -> Self {
        procedures::failure(error).into()
    }
}

/// What own SQL in a transaction reports: [`Code::Internal`], unless the database could not do its work or other transactions
/// were in the way. The error itself is for the log.
impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        procedures::sql_failure(&error).into()
    }
}
