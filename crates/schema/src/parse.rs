//! Text to [`Tree`]: a recursive-descent parser that recovers, so that one run reports every error.

use crate::ast::{Expr, Tree};
use crate::diag::Diagnostic;

/// Bounds on one expression, so that every later recursion over it is safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest height of the tree.
    pub depth: usize,
    /// Largest number of nodes.
    pub nodes: usize,
}

impl Default for Limits {
    /// The limits of a schema's own expressions.
    fn default() -> Self {
        Self { depth: 64, nodes: 10_000 }
    }
}

/// Parses one file; `file` goes into every span.
pub fn parse(_file: u32, _text: &str) -> (Tree, Vec<Diagnostic>) {
    (Tree::default(), Vec::new())
}

/// Parses a text that is one expression and nothing else (request-time `where`).
///
/// # Errors
/// The first syntax error, with spans of file 0.
pub fn parse_expression(text: &str, limits: Limits) -> Result<Expr, Diagnostic> {
    let _ = (text, limits);
    Err(Diagnostic::new(
        crate::diag::Code::UnexpectedToken,
        crate::diag::Span { file: 0, start: 0, end: 0 },
        "expected an expression",
    ))
}
