//! Names that the author did not write: tables, columns, URL segments and constraints.

use sha2::{Digest, Sha256};

/// PostgreSQL cuts longer identifiers off in silence.
pub(super) const MAX_IDENTIFIER: usize = 63;

/// `ledgerEntry`, `LedgerEntry` -> `ledger_entry`; `IBANCode` -> `iban_code`.
pub(super) fn snake(name: &str) -> String {
    let mut out = String::with_capacity(name.len() + 4);
    let mut previous = '_';
    let mut rest = name.chars().peekable();
    while let Some(c) = rest.next() {
        let word_starts = c.is_ascii_uppercase()
            && (previous.is_ascii_lowercase()
                || previous.is_ascii_digit()
                || (previous.is_ascii_uppercase() && rest.peek().is_some_and(char::is_ascii_lowercase)));
        if word_starts {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
        previous = c;
    }
    out
}

/// The regular English plural; irregular ones are the author's (`@@map`, `@@path`).
pub(super) fn plural(word: &str) -> String {
    let ends = |suffixes: &[&str]| suffixes.iter().any(|suffix| word.ends_with(suffix));
    match word.strip_suffix('y') {
        Some(stem) if !stem.ends_with(['a', 'e', 'i', 'o', 'u']) => format!("{stem}ies"),
        _ if ends(&["s", "x", "z", "ch", "sh"]) => format!("{word}es"),
        _ => format!("{word}s"),
    }
}

/// The table of a model without `@@map`.
pub(super) fn table(model: &str) -> String {
    plural(&snake(model))
}

/// The URL segment of a model without `@@path`.
pub(super) fn segment(model: &str) -> String {
    table(model).replace('_', "-")
}

/// The name that an author would give to the to-many end of a relation: `LedgerEntry` -> `ledgerEntries`.
pub(super) fn member(model: &str, many: bool) -> String {
    let mut name = model.to_owned();
    if let Some(first) = name.get_mut(..1) {
        first.make_ascii_lowercase();
    }
    if many { plural(&name) } else { name }
}

/// A database name from its parts, such as `accounts_tenant_id_owner_key`. A name that would be too long ends in a
/// hash of the whole, so that it stays distinct and the same from one compilation to the next.
pub fn database_name<'a>(parts: impl IntoIterator<Item = &'a str>) -> String {
    const HASH: usize = 8;
    let whole = parts.into_iter().collect::<Vec<_>>().join("_");
    if whole.len() <= MAX_IDENTIFIER {
        return whole;
    }
    let mut end = MAX_IDENTIFIER - HASH - 1;
    while !whole.is_char_boundary(end) {
        end -= 1;
    }
    let hash = hex(&Sha256::digest(&whole));
    let head = whole.get(..end).unwrap_or_default();
    let tail = hash.get(..HASH).unwrap_or_default();
    format!("{head}_{tail}")
}

/// Lower-case hexadecimal.
pub fn hex(octets: &[u8]) -> String {
    octets.iter().flat_map(|octet| [octet >> 4, octet & 15]).filter_map(|d| char::from_digit(d.into(), 16)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_and_segments() {
        for (model, expected_table, expected_segment) in [
            ("Account", "accounts", "accounts"),
            ("LedgerEntry", "ledger_entries", "ledger-entries"),
            ("Day", "days", "days"),
            ("Address", "addresses", "addresses"),
            ("Box", "boxes", "boxes"),
            ("Branch", "branches", "branches"),
            ("Wish", "wishes", "wishes"),
            ("IBANCode", "iban_codes", "iban-codes"),
            ("Layer2Cache", "layer2_caches", "layer2-caches"),
            ("http_log", "http_logs", "http-logs"),
        ] {
            assert_eq!(table(model), expected_table);
            assert_eq!(segment(model), expected_segment);
        }
        assert_eq!(snake("tenantId"), "tenant_id");
        assert_eq!(member("LedgerEntry", true), "ledgerEntries");
    }

    #[test]
    fn long_names_keep_their_identity() {
        let a = database_name(["t", &"a".repeat(80), "key"]);
        let b = database_name(["t", &"a".repeat(81), "key"]);
        assert_eq!((a.len(), b.len()), (MAX_IDENTIFIER, MAX_IDENTIFIER));
        assert_ne!(a, b);
        assert!(database_name(["é".repeat(60).as_str()]).len() <= MAX_IDENTIFIER);
        assert_eq!(database_name(["accounts", "owner", "key"]), "accounts_owner_key");
    }
}
