//! The `.cstack` language: text in, an immutable [`ir::Schema`] and diagnostics out.
//!
//! This crate does no IO, and compiling never fails: every function gives what it could make and a list of
//! diagnostics.
//!
//! | stage | takes | gives |
//! |---|---|---|
//! | [`lex`](lex::lex) | text | tokens |
//! | [`parse`](parse::parse) | tokens | syntax [tree](ast::Tree) |
//! | resolve | trees | [`ir::Schema`] |
//!
//! [`compile`] runs them all; [`format`](format::format) and the renderers of [`diag`] stand beside them.

pub mod ast;
mod compile;
pub mod decimal;
pub mod diag;
pub mod format;
pub mod fuzzy;
pub mod ir;
pub mod lex;
pub mod parse;
pub mod pattern;
mod resolve;
pub mod value;

pub use compile::{compile, compile_files};
pub use format::format;
pub use resolve::{Word, database_name, filter, hex, resolve_path, vocabulary};
