//! [`include_schema!`]: the typed Rust face of a `.cstack` schema, re-exported by the crate `cratestack`.
//!
//! A thin shell: `file` finds, reads and compiles the schema, `expand` turns its IR into tokens, and both are pure functions
//! apart from the reading. Whatever does not differ from schema to schema is in `cratestack::typed`.

mod expand;
mod file;
mod migrations;
mod names;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
mod tests;

use proc_macro2::{Span, TokenStream};
use quote::quote_spanned;

/// Makes typed items from a `.cstack` file, whose path is relative to the calling crate's `Cargo.toml`.
///
/// ```ignore
/// mod bank {
///     cratestack::include_schema!("bank.cstack");
/// }
/// ```
///
/// See the documentation of the crate `cratestack` for what the items are and how they are used. Errors of the schema are
/// errors of the compiler at the macro's call, with file, line, column and help; a change of the file makes the crate
/// compile again.
#[proc_macro]
pub fn include_schema(input: proc_macro::TokenStream) -> proc_macro::TokenStream {
    include(input.into()).into()
}

/// Embeds the migrations of a folder, whose path is relative to the calling crate's `Cargo.toml`: a
/// `Result<Vec<Migration>, FilesError>`, as of `cratestack::migrations::from_folder`.
///
/// ```ignore
/// let migrations = cratestack::include_migrations!("migrations")?;
/// cratestack::apply_pending(&pool, &migrations).await?;
/// ```
///
/// A change of a file makes the crate compile again. For a new one, the crate's `build.rs` has to say
/// `cargo::rerun-if-changed=migrations`.
#[proc_macro]
pub fn include_migrations(input: proc_macro::TokenStream) -> proc_macro::TokenStream {
    let Ok(path) = syn::parse::<syn::LitStr>(input) else {
        let message = "`include_migrations!` takes one string: the path of a folder, relative to `Cargo.toml`";
        return errors(Span::call_site(), &[message.to_owned()]).into();
    };
    let root = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    let embedded = migrations::embed(root.as_ref(), &path.value());
    embedded.unwrap_or_else(|error| errors(path.span(), &[error])).into()
}

fn include(input: TokenStream) -> TokenStream {
    let Ok(path) = syn::parse2::<syn::LitStr>(input) else {
        let message = "`include_schema!` takes one string: the path of a `.cstack` file, relative to `Cargo.toml`";
        return errors(Span::call_site(), &[message.to_owned()]);
    };
    let root = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    let expanded = file::load(root.as_ref(), &path.value())
        .and_then(|file| expand::expand(&file.schema, &file.absolute).map_err(|error| vec![error]));
    expanded.unwrap_or_else(|found| errors(path.span(), &found))
}

/// One error of the compiler per message.
fn errors(span: Span, messages: &[String]) -> TokenStream {
    messages.iter().map(|message| quote_spanned!(span=> ::core::compile_error!(#message);)).collect()
}
