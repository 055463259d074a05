//! The refusals and failures of the typed API.

use std::fmt;

use cratestack_engine::api::{Code, Failure, FieldError};

/// Why an operation was refused or failed.
///
/// [`code`](Self::code) is for programs, and `Display` for people. Neither holds a value of a row or of an input.
#[derive(Clone, PartialEq)]
pub struct Error(Box<Failure>);

impl Error {
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
        f.write_str(&self.0.detail)?;
        for error in &self.0.errors {
            write!(f, "; {} {}", error.pointer, error.detail)?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}
