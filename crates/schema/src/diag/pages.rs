//! The page of every code, carried along so that `explain` needs no files.

use super::Code;

/// The Markdown page of a code: what it means, a bad example, the message, and the mended example.
pub fn explain(code: Code) -> &'static str {
    let id = code.id();
    PAGES.iter().find(|(page, _)| *page == id).map_or(code.info().summary, |(_, text)| text)
}

macro_rules! pages {
    ($($id:literal)*) => {
        &[$(($id, include_str!(concat!("../../docs/errors/", $id, ".md"))),)*]
    };
}

/// Tests hold this list to the registry and to the files.
const PAGES: &[(&str, &str)] = pages! {
};
