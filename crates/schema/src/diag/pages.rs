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
    "CST0001" "CST0002" "CST0003" "CST0004" "CST0005" "CST0006" "CST0007" "CST0010"
    "CST0011" "CST0012" "CST0013" "CST0014" "CST0015" "CST0020" "CST0021" "CST0022"
    "CST0023"
};
