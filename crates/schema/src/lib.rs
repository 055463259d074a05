//! The `.cstack` language: text in, an immutable [`ir::Schema`] and diagnostics out.
//!
//! This crate does no IO, and compiling never fails: every function gives what it could make and a list of
//! diagnostics.

pub mod ast;
pub mod decimal;
pub mod diag;
pub mod format;
pub mod fuzzy;
pub mod ir;
pub mod lex;
pub mod parse;
pub mod pattern;
pub mod value;
