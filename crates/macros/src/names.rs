//! Names of the schema as names of Rust, and what to do where two of them become one.

use std::collections::BTreeMap;

use proc_macro2::{Ident, Span};

/// `createdAt` as `created_at`, `ledger-entries` as `ledger_entries`.
pub(crate) fn snake(name: &str) -> String {
    let mut snake = String::with_capacity(name.len() + 4);
    let mut before: Option<char> = None;
    let mut chars = name.chars().peekable();
    while let Some(c) = chars.next() {
        let next_is_lower = chars.peek().is_some_and(char::is_ascii_lowercase);
        let starts_word = c.is_ascii_uppercase()
            && before.is_some_and(|before| {
                before.is_ascii_lowercase() || before.is_ascii_digit() || (before.is_ascii_uppercase() && next_is_lower)
            });
        if starts_word {
            snake.push('_');
        }
        snake.push(if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' });
        before = Some(c);
    }
    snake
}

/// `in_progress` and `inProgress` as `InProgress`.
pub(crate) fn pascal(name: &str) -> String {
    let snake = snake(name);
    let mut pascal = String::with_capacity(snake.len());
    for word in snake.split('_') {
        let mut chars = word.chars();
        pascal.extend(chars.next().map(|first| first.to_ascii_uppercase()));
        pascal.extend(chars);
    }
    pascal
}

/// An identifier; a keyword becomes a raw one, and the few that cannot be raw get a `_` behind.
pub(crate) fn ident(name: &str) -> Ident {
    let span = Span::call_site();
    match syn::parse_str::<Ident>(name) {
        Ok(_) => Ident::new(name, span),
        Err(_) if matches!(name, "self" | "Self" | "super" | "crate" | "_") => Ident::new(&format!("{name}_"), span),
        Err(_) if name.starts_with(|first: char| first.is_ascii_digit()) => Ident::new(&format!("_{name}"), span),
        Err(_) => Ident::new_raw(name, span),
    }
}

/// Names of one scope, each with what it stands for.
#[derive(Debug, Default)]
pub(crate) struct Scope(BTreeMap<String, String>);

impl Scope {
    /// A scope in which some names are taken.
    pub(crate) fn with(taken: &[&str]) -> Self {
        Self(taken.iter().map(|name| ((*name).to_owned(), "a part of every module".to_owned())).collect())
    }

    /// Takes a name.
    ///
    /// # Errors
    /// If something else has it; `mend` says what to do.
    pub(crate) fn take(&mut self, name: &str, what: &str, mend: &str) -> Result<(), String> {
        match self.0.insert(name.to_owned(), what.to_owned()) {
            None => Ok(()),
            Some(other) => Err(format!("{what} and {other} are both called `{name}` in Rust; {mend}")),
        }
    }
}
