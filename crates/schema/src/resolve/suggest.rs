//! What to say about a word that does not exist.

use crate::diag::Diagnostic;
use crate::fuzzy::nearest;

/// Adds "did you mean" and its fix for the primary span if a candidate is near, `otherwise` as the help if none is.
pub(super) fn suggest<'c>(
    diagnostic: Diagnostic,
    word: &str,
    candidates: impl IntoIterator<Item = &'c str>,
    otherwise: impl Into<String>,
) -> Diagnostic {
    suggest_as(diagnostic, word, candidates, str::to_owned, otherwise)
}

/// [`suggest`] for words that are not written as they are, but with quotes or a sigil.
pub(super) fn suggest_as<'c>(
    diagnostic: Diagnostic,
    word: &str,
    candidates: impl IntoIterator<Item = &'c str>,
    spell: impl FnOnce(&str) -> String,
    otherwise: impl Into<String>,
) -> Diagnostic {
    let Some(meant) = nearest(word, candidates).map(spell) else {
        return diagnostic.help(otherwise);
    };
    let span = diagnostic.primary.span;
    diagnostic.help(format!("did you mean `{meant}`?")).fix(format!("write `{meant}`"), span, meant)
}

/// `a`, `b` and `c`, at most a dozen of them.
pub(super) fn listing(names: &[&str]) -> String {
    const MOST: usize = 12;
    let mut quoted: Vec<String> = names.iter().take(MOST).map(|name| format!("`{name}`")).collect();
    if names.len() > MOST {
        return format!("{}, ..", quoted.join(", "));
    }
    match (quoted.pop(), quoted.is_empty()) {
        (Some(last), false) => format!("{} and {last}", quoted.join(", ")),
        (Some(last), true) => last,
        (None, _) => "none".to_owned(),
    }
}

/// The name of a type with its article.
pub(super) fn a(name: &str) -> String {
    let vowel = name.starts_with(|c: char| matches!(c.to_ascii_lowercase(), 'a' | 'e' | 'i' | 'o'));
    format!("{} `{name}`", if vowel { "an" } else { "a" })
}
