//! URLs: path segments and query parameters in, `Location` and `Link` out.

use cratestack_engine::api::{Code, Key};
use cratestack_engine::cursor::MAX_CURSOR;
use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, percent_decode, utf8_percent_encode};

use crate::problem::Problem;

/// What is escaped in a path segment: all but RFC 3986's unreserved characters.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What is not repeated as it came inside the `<>` of a `Link`.
const NOT_IN_LINK: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'<').add(b'>').add(b'{').add(b'}');

/// Octets of a URL as a `Link` writes it. Not counted: the value of `cursor`, up to the longest that the engine makes, so
/// that whoever may ask for a page may ask for the one behind it.
pub(crate) fn length(path: &str, query: Option<&str>) -> usize {
    let written = |text: &str| utf8_percent_encode(text, NOT_IN_LINK).map(str::len).sum::<usize>();
    let cursors = query.unwrap_or_default().split('&').filter_map(|part| part.strip_prefix("cursor="));
    let exempt = cursors.map(written).sum::<usize>().min(MAX_CURSOR);
    let whole = written(path) + query.map_or(0, |query| 1 + written(query));
    whole - exempt
}

/// The segments of a path, percent-decoded. `/a/b` has two.
pub(crate) fn segments(path: &str) -> impl Iterator<Item = Result<String, Problem>> {
    path.split('/')
        .skip(1)
        .map(|segment| decode(segment.as_bytes()).map_err(|what| Problem::bad_request(format!("the path {what}"))))
}

/// The parameters of a query, in order. Parts without `=` are names with an empty value; an empty part is an empty
/// name, which whoever uses the parameters refuses.
pub(crate) fn parameters(query: Option<&str>) -> Result<Vec<(String, String)>, Problem> {
    let query = query.unwrap_or_default();
    if query.is_empty() {
        return Ok(Vec::new());
    }
    query
        .split('&')
        .enumerate()
        .map(|(at, part)| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let refused = |what| Problem::new(Code::InvalidQuery, format!("query parameter number {} {what}", at + 1));
            Ok((form_decode(name).map_err(refused)?, form_decode(value).map_err(refused)?))
        })
        .collect()
}

/// Decodes `+` and percent escapes.
fn form_decode(text: &str) -> Result<String, &'static str> {
    if text.contains('+') { decode(text.replace('+', " ").as_bytes()) } else { decode(text.as_bytes()) }
}

/// Decodes percent escapes. The error is a sentence without its subject.
fn decode(bytes: &[u8]) -> Result<String, &'static str> {
    let (mut rest, mut escapes) = (bytes, false);
    while let Some(at) = rest.iter().position(|byte| *byte == b'%') {
        rest = rest.get(at + 1..).unwrap_or_default();
        if !matches!(rest, [high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit()) {
            return Err("has a `%` that no two hexadecimal digits follow; a percent sign itself is written `%25`");
        }
        escapes = true;
    }
    let decoded = if escapes { percent_decode(bytes).collect() } else { bytes.to_vec() };
    String::from_utf8(decoded).map_err(|_| "is not valid UTF-8 once its percent escapes are decoded")
}

/// The URL of a row, relative to the host.
pub(crate) fn row(base: &str, model_path: &str, key: &Key) -> String {
    let mut url = base.to_owned();
    for segment in std::iter::once(model_path).chain(key.iter().map(String::as_str)) {
        url.push('/');
        url.extend(utf8_percent_encode(segment, SEGMENT));
    }
    url
}

/// The value of `Link` for the page after this one: the same URL with another cursor.
pub(crate) fn next_link(path: &str, query: Option<&str>, cursor: &str) -> String {
    let mut url = format!("<{}?", utf8_percent_encode(path, NOT_IN_LINK));
    for part in query.unwrap_or_default().split('&') {
        let name = part.split_once('=').map_or(part, |(name, _)| name);
        if !part.is_empty() && form_decode(name).as_deref() != Ok("cursor") {
            url.extend(utf8_percent_encode(part, NOT_IN_LINK));
            url.push('&');
        }
    }
    url.push_str("cursor=");
    url.extend(utf8_percent_encode(cursor, SEGMENT));
    url.push_str(">; rel=\"next\"");
    url
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn queries() {
        let table: &[(&str, &[(&str, &str)])] = &[
            ("", &[]),
            ("a=1", &[("a", "1")]),
            ("a=1&a=2", &[("a", "1"), ("a", "2")]),
            ("a", &[("a", "")]),
            ("a=", &[("a", "")]),
            ("=1", &[("", "1")]),
            ("a=1&&b=2", &[("a", "1"), ("", ""), ("b", "2")]),
            ("a=1&", &[("a", "1"), ("", "")]),
            ("a=b=c", &[("a", "b=c")]),
            ("a+b=c+d%2B", &[("a b", "c d+")]),
            ("where=a%20%26%26%20b", &[("where", "a && b")]),
            ("n=%C3%BC%00", &[("n", "ü\0")]),
            ("a;b=1", &[("a;b", "1")]),
        ];
        for (query, expected) in table {
            assert_eq!(parameters(Some(query)).unwrap(), pairs(expected), "{query}");
        }
        assert!(parameters(None).unwrap().is_empty());
        for query in ["a=%", "a=%4", "a=%4g", "%zz=1", "a=%ff", "a=%C3", "a=1&b=%E0%80%80"] {
            assert_eq!(parameters(Some(query)).unwrap_err().code, Code::InvalidQuery.into(), "{query}");
        }
    }

    #[test]
    fn paths() {
        let all = |path| segments(path).collect::<Result<Vec<_>, _>>();
        assert_eq!(all("/a/b%2Fc/%C3%BC+").unwrap(), ["a", "b/c", "ü+"]);
        assert_eq!(all("/").unwrap(), [""]);
        for path in ["/%", "/%f", "/%ff", "/a%zz"] {
            assert!(all(path).is_err(), "{path}");
        }
    }

    #[test]
    fn links() {
        let table = [
            (None, "</api/rows?cursor=c%2F>; rel=\"next\""),
            (Some("limit=2"), "</api/rows?limit=2&cursor=c%2F>; rel=\"next\""),
            (Some("cursor=x&limit=2"), "</api/rows?limit=2&cursor=c%2F>; rel=\"next\""),
            (Some("%63ursor=x&where=a%20%3E+1&"), "</api/rows?where=a%20%3E+1&cursor=c%2F>; rel=\"next\""),
            (Some("a={}ü"), "</api/rows?a=%7B%7D%C3%BC&cursor=c%2F>; rel=\"next\""),
        ];
        for (query, expected) in table {
            assert_eq!(next_link("/api/rows", query, "c/"), expected);
        }
    }

    #[test]
    fn lengths() {
        let long = |count| format!("cursor={}", "a".repeat(count));
        let table = [
            ("/rows", None, 5),
            ("/rows", Some("a=1".to_owned()), 9),
            ("/rows", Some("a=ü\"".to_owned()), 5 + 1 + 2 + 6 + 3),
            ("/rows", Some(format!("a=1&{}", long(100))), 9 + 8),
            ("/rows", Some(long(MAX_CURSOR + 1)), 6 + 7 + 1),
        ];
        for (path, query, expected) in table {
            assert_eq!(length(path, query.as_deref()), expected, "{path} {query:?}");
        }
    }

    #[test]
    fn rows() {
        let key = vec!["a/b".to_owned(), "ü ?#%".to_owned()];
        assert_eq!(row("/api", "ledger-entries", &key), "/api/ledger-entries/a%2Fb/%C3%BC%20%3F%23%25");
    }

    proptest! {
        #[test]
        fn a_location_leads_back_to_its_key(key in proptest::collection::vec(any::<String>(), 1..4)) {
            let mut expected = vec!["rows".to_owned()];
            expected.extend(key.iter().cloned());
            prop_assert_eq!(segments(&row("", "rows", &key)).collect::<Result<Vec<_>, _>>().unwrap(), expected);
        }

        #[test]
        fn no_query_panics(query in ".{0,40}") {
            let _ = parameters(Some(&query));
            let _ = next_link("/", Some(&query), "c");
        }
    }
}
