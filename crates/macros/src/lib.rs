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

use cratestack_schema::decimal::Backend;
use proc_macro2::{Ident, Span, TokenStream};
use quote::quote_spanned;
use syn::parse::{Parse, ParseStream};
use syn::{LitStr, Token};

/// Makes typed items from a `.cstack` file, whose path is relative to the calling crate's `Cargo.toml`.
///
/// ```ignore
/// mod bank {
///     cratestack::include_schema!("bank.cstack");
/// }
/// ```
///
/// Its decimals are `rust_decimal::Decimal`, or `bigdecimal::BigDecimal` with the option `decimal = "bigdecimal"`.
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
    let Ok(path) = syn::parse::<LitStr>(input) else {
        let message = "`include_migrations!` takes one string: the path of a folder, relative to `Cargo.toml`";
        return errors(Span::call_site(), &[message.to_owned()]).into();
    };
    let root = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    let embedded = migrations::embed(root.as_ref(), &path.value());
    embedded.unwrap_or_else(|error| errors(path.span(), &[error])).into()
}

fn include(input: TokenStream) -> TokenStream {
    let call = match syn::parse2::<Call>(input) {
        Ok(call) => call,
        Err(error) => return error.into_compile_error(),
    };
    let root = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    let expanded = file::load(root.as_ref(), &call.path.value()).and_then(|file| {
        let face = expand::Face { schema: &file.schema, decimal: call.decimal };
        expand::expand(&face, &file.absolute).map_err(|error| vec![error])
    });
    expanded.unwrap_or_else(|found| errors(call.path.span(), &found))
}

/// What stands between the parentheses of [`include_schema!`].
struct Call {
    path: LitStr,
    decimal: Backend,
}

impl Parse for Call {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let Ok(path) = input.parse::<LitStr>() else {
            let message = "`include_schema!` takes one string: the path of a `.cstack` file, relative to `Cargo.toml`";
            return Err(syn::Error::new(Span::call_site(), message));
        };
        let mut decimal = None;
        while !input.is_empty() {
            input.parse::<Token![,]>()?;
            if input.is_empty() {
                break;
            }
            let option: Ident = input.parse()?;
            if option != "decimal" {
                let message = format!("`include_schema!` has no option `{option}`; it has `decimal`");
                return Err(syn::Error::new(option.span(), message));
            }
            if decimal.is_some() {
                return Err(syn::Error::new(option.span(), "`decimal` is given twice"));
            }
            input.parse::<Token![=]>()?;
            let name: LitStr = input.parse()?;
            let backend = Backend::named(&name.value()).ok_or_else(|| {
                syn::Error::new(name.span(), "decimals can be `\"rust_decimal\"` (the default) or `\"bigdecimal\"`")
            })?;
            decimal = Some(backend);
        }
        Ok(Self { path, decimal: decimal.unwrap_or_default() })
    }
}

/// One error of the compiler per message.
fn errors(span: Span, messages: &[String]) -> TokenStream {
    messages.iter().map(|message| quote_spanned!(span=> ::core::compile_error!(#message);)).collect()
}
