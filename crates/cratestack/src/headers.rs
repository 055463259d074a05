//! The header grammars: entity tags and conditions (RFC 9110), `Prefer` (RFC 7240), request ids, `traceparent`.
//!
//! Every function here is pure and total: bytes in, a value or a sentence about what is wrong out.

use std::borrow::Cow;

use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Uri, Version, header};

/// All lines of one header as one value, joined as RFC 9110 section 5.3 says; `None` when the header is absent.
pub(crate) fn joined<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Cow<'a, [u8]>> {
    let mut lines = headers.get_all(name).iter();
    let mut value = Cow::Borrowed(lines.next()?.as_bytes());
    for line in lines {
        value.to_mut().extend_from_slice(b", ");
        value.to_mut().extend_from_slice(line.as_bytes());
    }
    Some(value)
}

/// Splits at `separator` outside of quoted strings, and trims white space. Empty parts are dropped, as RFC 9110
/// section 5.6.1.2 asks of recipients.
pub(crate) fn split_list(value: &[u8], separator: u8) -> Vec<&[u8]> {
    let (mut quoted, mut escaped) = (false, false);
    value
        .split(|&byte| {
            if escaped {
                escaped = false;
                return false;
            }
            match byte {
                b'\\' if quoted => escaped = true,
                b'"' => quoted = !quoted,
                _ => return byte == separator && !quoted,
            }
            false
        })
        .map(<[u8]>::trim_ascii)
        .filter(|part| !part.is_empty())
        .collect()
}

/// What is wrong with how a request names its host, if anything is (RFC 9112 section 3.2, RFC 9113 section 8.3.1):
/// HTTP/1.1 needs one `Host`, nothing allows two, and in HTTP/2 it must be what `:authority` says.
pub(crate) fn host_fault(version: Version, uri: &Uri, headers: &HeaderMap) -> Option<&'static str> {
    let mut lines = headers.get_all(header::HOST).iter();
    let Some(line) = lines.next() else {
        return (version == Version::HTTP_11).then_some("`Host` is missing");
    };
    if lines.next().is_some() {
        return Some("`Host` is there more than once");
    }
    // A target without an authority has an empty `Host`.
    let host = line.as_bytes();
    let Ok(named) =
        Authority::try_from(host).map(Some).or_else(|error| if host.is_empty() { Ok(None) } else { Err(error) })
    else {
        return Some("`Host` must be a host and perhaps a port");
    };
    if named.as_ref().is_some_and(|named| named.as_str().contains('@')) {
        return Some("`Host` must be a host and perhaps a port");
    }
    let differs =
        version == Version::HTTP_2 && uri.authority().is_some_and(|authority| named.as_ref() != Some(authority));
    differs.then_some("`Host` must be what `:authority` says")
}

/// RFC 9110's `token`.
pub(crate) fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

/// An entity tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EntityTag {
    /// `W/`.
    pub(crate) weak: bool,
    /// What stands between the quotes.
    pub(crate) opaque: Vec<u8>,
}

impl EntityTag {
    /// A strong tag.
    pub(crate) fn strong(opaque: String) -> Self {
        Self { weak: false, opaque: opaque.into_bytes() }
    }

    /// A weak tag.
    pub(crate) fn weak(opaque: String) -> Self {
        Self { weak: true, opaque: opaque.into_bytes() }
    }

    /// As it stands in a header or in a batch answer.
    pub(crate) fn text(&self) -> String {
        let prefix = if self.weak { "W/" } else { "" };
        [prefix, "\"", &String::from_utf8_lossy(&self.opaque), "\""].concat()
    }

    /// The version that a strong tag of this service names: `"3"`, `"3-cbor"`.
    fn version(&self) -> Option<i64> {
        if self.weak {
            return None;
        }
        let digits = self.opaque.strip_suffix(b"-cbor").unwrap_or(&self.opaque);
        let canonical = digits.iter().all(u8::is_ascii_digit) && (digits.len() == 1 || !digits.starts_with(b"0"));
        if !canonical {
            return None;
        }
        std::str::from_utf8(digits).ok()?.parse().ok()
    }
}

/// The value of `If-Match` or `If-None-Match`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Condition {
    /// `*`.
    Any,
    /// Tags, at least one.
    Tags(Vec<EntityTag>),
}

impl Condition {
    /// Parses `"*" / #entity-tag`. The error is a sentence without its subject.
    pub(crate) fn parse(value: &[u8]) -> Result<Self, &'static str> {
        if value.trim_ascii() == b"*" {
            return Ok(Self::Any);
        }
        let mut tags = Vec::new();
        let mut rest = value;
        loop {
            rest = skip(rest, |byte| matches!(byte, b' ' | b'\t' | b','));
            if rest.is_empty() {
                break;
            }
            let (tag, after) = entity_tag(rest)?;
            tags.push(tag);
            rest = skip(after, |byte| matches!(byte, b' ' | b'\t'));
            if !rest.is_empty() && !rest.starts_with(b",") {
                return Err("has no comma between two entity tags");
            }
        }
        if tags.is_empty() { Err("holds no entity tag") } else { Ok(Self::Tags(tags)) }
    }

    /// `If-Match` against the current representation (strong comparison).
    pub(crate) fn strongly_matches(&self, current: Option<&EntityTag>) -> bool {
        match self {
            Self::Any => true,
            Self::Tags(tags) => current.is_some_and(|current| {
                !current.weak && tags.iter().any(|tag| !tag.weak && tag.opaque == current.opaque)
            }),
        }
    }

    /// `If-None-Match` against the current representation (weak comparison).
    pub(crate) fn weakly_matches(&self, current: Option<&EntityTag>) -> bool {
        match self {
            Self::Any => true,
            Self::Tags(tags) => current.is_some_and(|current| tags.iter().any(|tag| tag.opaque == current.opaque)),
        }
    }

    /// The versions that a writer quotes. Tags that this service never gives name none, so they never match.
    pub(crate) fn versions(&self) -> Option<Vec<i64>> {
        match self {
            Self::Any => None,
            Self::Tags(tags) => Some(tags.iter().filter_map(EntityTag::version).collect()),
        }
    }
}

fn skip(bytes: &[u8], test: impl Fn(u8) -> bool) -> &[u8] {
    let start = bytes.iter().position(|&byte| !test(byte)).unwrap_or(bytes.len());
    bytes.get(start..).unwrap_or_default()
}

fn entity_tag(value: &[u8]) -> Result<(EntityTag, &[u8]), &'static str> {
    let (weak, value) = match value.strip_prefix(b"W/") {
        Some(rest) => (true, rest),
        None => (false, value),
    };
    let Some(body) = value.strip_prefix(b"\"") else {
        return Err("has an entity tag without its quotes: write `\"3\"`, quotes included");
    };
    let Some(end) = body.iter().position(|&byte| byte == b'"') else {
        return Err("has an entity tag without its closing quote");
    };
    let (opaque, rest) = body.split_at_checked(end).unwrap_or((body, b""));
    if !opaque.iter().all(|&byte| byte == 0x21 || byte >= 0x23 && byte != 0x7f) {
        return Err("has a character in an entity tag that cannot stand there");
    }
    Ok((EntityTag { weak, opaque: opaque.to_vec() }, rest.get(1..).unwrap_or_default()))
}

/// Whether `Prefer` asks for `return=minimal`. The first `return` counts; other preferences are not honoured, as
/// RFC 7240 allows.
pub(crate) fn prefers_minimal(value: &[u8]) -> bool {
    split_list(value, b',')
        .into_iter()
        .find_map(|preference| {
            let first = split_list(preference, b';').into_iter().next()?;
            let at = first.iter().position(|&byte| byte == b'=')?;
            let (name, value) = first.split_at_checked(at)?;
            let value = value.get(1..)?.trim_ascii();
            let value = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value);
            name.trim_ascii().eq_ignore_ascii_case(b"return").then_some(value)
        })
        .is_some_and(|value| value == b"minimal")
}

/// The longest `X-Request-Id` that is taken over from a caller.
const REQUEST_ID_LENGTH: usize = 128;

/// The id of a request: the caller's, or a new one.
pub(crate) fn request_id(headers: &HeaderMap) -> String {
    callers_request_id(headers).map_or_else(|| uuid::Uuid::now_v7().to_string(), str::to_owned)
}

/// The caller's request id, when it sent exactly one and it is 1 to 128 visible ASCII characters.
fn callers_request_id(headers: &HeaderMap) -> Option<&str> {
    let mut lines = headers.get_all(&X_REQUEST_ID).iter();
    let value = lines.next()?.as_bytes();
    let fits = (1..=REQUEST_ID_LENGTH).contains(&value.len()) && value.iter().all(u8::is_ascii_graphic);
    (fits && lines.next().is_none()).then(|| std::str::from_utf8(value).ok())?
}

/// `X-Request-Id`.
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// `Idempotency-Key`.
pub(crate) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// `Prefer`.
pub(crate) const PREFER: HeaderName = HeaderName::from_static("prefer");
/// `Preference-Applied`.
pub(crate) const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
/// `Accept-Patch`.
pub(crate) const ACCEPT_PATCH: HeaderName = HeaderName::from_static("accept-patch");
/// `Accept-Post`.
pub(crate) const ACCEPT_POST: HeaderName = HeaderName::from_static("accept-post");
/// `X-Forwarded-For`.
pub(crate) const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// `traceparent`.
pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The ids of a W3C `traceparent`: trace and parent span, as lower-case hexadecimal text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TraceParent<'a> {
    /// 32 digits.
    pub(crate) trace_id: &'a str,
    /// 16 digits.
    pub(crate) parent_id: &'a str,
}

/// Parses `traceparent`; one that is not valid counts as absent, as the recommendation says.
pub(crate) fn trace_parent(value: &HeaderValue) -> Option<TraceParent<'_>> {
    let text = value.to_str().ok()?;
    let mut parts = text.split('-');
    let (version, trace_id, parent_id, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let hex = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let zeros = |text: &str| text.bytes().all(|byte| byte == b'0');
    let shape = hex(version, 2) && hex(trace_id, 32) && hex(parent_id, 16) && hex(flags, 2);
    // Version 00 has exactly four parts; a later version may have more, `ff` is forbidden.
    let known = version != "ff" && (version != "00" || parts.next().is_none());
    (shape && known && !zeros(trace_id) && !zeros(parent_id)).then_some(TraceParent { trace_id, parent_id })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn strong(opaque: &str) -> EntityTag {
        EntityTag::strong(opaque.to_owned())
    }

    fn weak(opaque: &str) -> EntityTag {
        EntityTag::weak(opaque.to_owned())
    }

    #[test]
    fn conditions_parse() {
        let table: &[(&str, Condition)] = &[
            ("*", Condition::Any),
            ("  *  ", Condition::Any),
            ("\"3\"", Condition::Tags(vec![strong("3")])),
            ("W/\"3\"", Condition::Tags(vec![weak("3")])),
            ("\"\"", Condition::Tags(vec![strong("")])),
            ("\"a,b\" , W/\"c\"", Condition::Tags(vec![strong("a,b"), weak("c")])),
            (", \"1\",, \"2\" ,", Condition::Tags(vec![strong("1"), strong("2")])),
            ("\"1\"\t,\t\"2\"", Condition::Tags(vec![strong("1"), strong("2")])),
            ("\"back\\slash\"", Condition::Tags(vec![strong("back\\slash")])),
        ];
        for (text, expected) in table {
            assert_eq!(Condition::parse(text.as_bytes()).as_ref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn conditions_refuse() {
        for text in [
            "",
            " ",
            ",",
            "3",
            "\"3",
            "3\"",
            "*, \"3\"",
            "\"3\", *",
            "*, *",
            "w/\"3\"",
            "W/3",
            "\"1\" \"2\"",
            "\"1\"\"2\"",
            "\"a b\"",
            "\"a\u{7f}\"",
        ] {
            assert!(Condition::parse(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn versions_of_tags() {
        let table: &[(&str, Option<Vec<i64>>)] = &[
            ("*", None),
            ("\"3\"", Some(vec![3])),
            ("\"0\"", Some(vec![0])),
            ("\"3-cbor\"", Some(vec![3])),
            ("W/\"3\"", Some(vec![])),
            ("\"03\"", Some(vec![])),
            ("\"+3\"", Some(vec![])),
            ("\"-3\"", Some(vec![])),
            ("\"3-json\"", Some(vec![])),
            ("\"-cbor\"", Some(vec![])),
            ("\"3-cbor-cbor\"", Some(vec![])),
            ("\"\"", Some(vec![])),
            ("\"9223372036854775807\"", Some(vec![i64::MAX])),
            ("\"9223372036854775808\"", Some(vec![])),
            ("\"1\", W/\"2\", \"x\", \"3\"", Some(vec![1, 3])),
        ];
        for (text, expected) in table {
            assert_eq!(&Condition::parse(text.as_bytes()).unwrap().versions(), expected, "{text}");
        }
    }

    #[test]
    fn comparisons() {
        // RFC 9110 section 8.8.3.2, and the cases without a current tag.
        let table = [
            ("W/\"1\"", Some(weak("1")), false, true),
            ("W/\"1\"", Some(weak("2")), false, false),
            ("W/\"1\"", Some(strong("1")), false, true),
            ("\"1\"", Some(weak("1")), false, true),
            ("\"1\"", Some(strong("1")), true, true),
            ("\"0\", \"1\"", Some(strong("1")), true, true),
            ("\"0\"", Some(strong("1")), false, false),
            ("*", Some(weak("1")), true, true),
            ("*", None, true, true),
            ("\"1\"", None, false, false),
        ];
        for (text, current, strongly, weakly) in table {
            let condition = Condition::parse(text.as_bytes()).unwrap();
            assert_eq!(condition.strongly_matches(current.as_ref()), strongly, "{text}");
            assert_eq!(condition.weakly_matches(current.as_ref()), weakly, "{text}");
        }
    }

    #[test]
    fn preferences() {
        let table = [
            ("return=minimal", true),
            ("Return = minimal", true),
            ("return=\"minimal\"", true),
            ("respond-async, return=minimal; x=1", true),
            ("return=minimal;foo=\"a,b\"", true),
            ("return=representation", false),
            ("return=representation, return=minimal", false),
            ("return=minimal, return=representation", true),
            ("return", false),
            ("x=\"return=minimal\"", false),
            ("x=\", return=minimal\"", false),
            ("return=Minimal", false),
            ("", false),
            ("=", false),
        ];
        for (text, expected) in table {
            assert_eq!(prefers_minimal(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn hosts() {
        use Version as V;
        let table: &[(Version, &str, &[&str], bool)] = &[
            (V::HTTP_11, "/", &["x"], true),
            (V::HTTP_11, "/", &["x.example:8080"], true),
            (V::HTTP_11, "/", &["[::1]:8080"], true),
            (V::HTTP_11, "/", &[""], true),
            (V::HTTP_11, "http://y/", &["x"], true),
            (V::HTTP_11, "/", &[], false),
            (V::HTTP_11, "http://y/", &[], false),
            (V::HTTP_11, "/", &["x", "x"], false),
            (V::HTTP_11, "/", &["a b"], false),
            (V::HTTP_11, "/", &["a/b"], false),
            (V::HTTP_11, "/", &["me@x"], false),
            (V::HTTP_11, "/", &["a, b"], false),
            (V::HTTP_10, "/", &[], true),
            (V::HTTP_10, "/", &["x"], true),
            (V::HTTP_10, "/", &["x", "y"], false),
            (V::HTTP_2, "http://x/", &[], true),
            (V::HTTP_2, "http://x/", &["X"], true),
            (V::HTTP_2, "/", &["x"], true),
            (V::HTTP_2, "http://x/", &["y"], false),
            (V::HTTP_2, "http://x/", &[""], false),
            (V::HTTP_2, "http://x/", &["x", "x"], false),
        ];
        for (version, uri, hosts, expected) in table {
            let mut headers = HeaderMap::new();
            for host in *hosts {
                headers.append(header::HOST, HeaderValue::from_static(host));
            }
            let fault = host_fault(*version, &uri.parse().unwrap(), &headers);
            assert_eq!(fault.is_none(), *expected, "{version:?} {uri} {hosts:?} {fault:?}");
        }
    }

    #[test]
    fn request_ids() {
        let long = "x".repeat(129);
        let table = [
            ("a", true),
            ("0198-..~!", true),
            (&long[..128], true),
            (&long, false),
            ("", false),
            ("a b", false),
            ("é", false),
        ];
        for (text, expected) in table {
            let mut headers = HeaderMap::new();
            headers.insert(X_REQUEST_ID, HeaderValue::from_bytes(text.as_bytes()).unwrap());
            assert_eq!(callers_request_id(&headers), expected.then_some(text), "{text}");
            headers.append(X_REQUEST_ID, HeaderValue::from_static("second"));
            assert_eq!(callers_request_id(&headers), None);
        }
    }

    #[test]
    fn trace_parents() {
        let (trace, span) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
        let table = [
            (format!("00-{trace}-{span}-01"), true),
            (format!("01-{trace}-{span}-01-more"), true),
            (format!("00-{trace}-{span}-01-more"), false),
            (format!("ff-{trace}-{span}-01"), false),
            (format!("00-{}-{span}-01", "0".repeat(32)), false),
            (format!("00-{trace}-{}-01", "0".repeat(16)), false),
            (format!("00-{}-{span}-01", trace.to_uppercase()), false),
            (format!("00-{trace}-{span}"), false),
            (String::new(), false),
        ];
        for (text, expected) in table {
            let value = HeaderValue::from_str(&text).unwrap();
            let parsed = trace_parent(&value);
            assert_eq!(parsed, expected.then_some(TraceParent { trace_id: trace, parent_id: span }), "{text}");
        }
    }

    #[test]
    fn lines_are_joined() {
        let mut headers = HeaderMap::new();
        assert_eq!(joined(&headers, &PREFER), None);
        headers.append(PREFER, HeaderValue::from_static("a"));
        headers.append(PREFER, HeaderValue::from_static("b"));
        assert_eq!(joined(&headers, &PREFER).unwrap().as_ref(), b"a, b");
    }

    fn any_tag() -> impl Strategy<Value = EntityTag> {
        (any::<bool>(), proptest::collection::vec((0x23u8..=0xff).prop_filter("DEL", |byte| *byte != 0x7f), 0..8))
            .prop_map(|(weak, opaque)| EntityTag { weak, opaque })
    }

    proptest! {
        #[test]
        fn no_value_panics(value in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = Condition::parse(&value);
            let _ = prefers_minimal(&value);
            let _ = split_list(&value, b',');
        }

        #[test]
        fn what_is_written_is_read(tags in proptest::collection::vec(any_tag(), 1..5)) {
            let mut text = Vec::new();
            for tag in &tags {
                text.extend_from_slice(if tag.weak { b", W/\"" } else { b" ,\"" });
                text.extend_from_slice(&tag.opaque);
                text.push(b'"');
            }
            prop_assert_eq!(Condition::parse(&text), Ok(Condition::Tags(tags)));
        }

        #[test]
        fn the_versions_own_tag_names_it(version in 0i64.., cbor: bool) {
            let text = format!("\"{version}{}\"", if cbor { "-cbor" } else { "" });
            prop_assert_eq!(Condition::parse(text.as_bytes()).unwrap().versions(), Some(vec![version]));
        }
    }
}
