//! `Idempotency-Key`: its form, what makes two requests the same one, and whose they are.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use cratestack_engine::api::Principal;
use cratestack_engine::idempotency::{KEY_LENGTH, Kept, Record};
use cratestack_schema::ir::Schema;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use uuid::{Uuid, Variant, Version};

use crate::answer::Response;
use crate::caller::CallerScope;
use crate::headers::{IDEMPOTENCY_KEY, joined};
use crate::problem::{Problem, ProblemCode};

pub mod layer;

/// Headers of an answer that are given again with it.
pub(crate) const REPLAYED: [HeaderName; 7] = [
    http::header::CONTENT_TYPE,
    http::header::CONTENT_LANGUAGE,
    http::header::CONTENT_LOCATION,
    http::header::LOCATION,
    http::header::ETAG,
    http::header::LAST_MODIFIED,
    http::header::LINK,
];

/// `Idempotent-Replayed: true` marks an answer that was given before.
pub(crate) const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// How far ahead of our clock the time in a key may be.
const AHEAD: Duration = Duration::from_mins(5);

/// The key of a request, without the quotes that it may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key(pub(crate) String);

/// Why a key is none. `Display` is for the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyError {
    /// 400.
    Invalid(&'static str),
    /// 422: its time is longer ago than keys are kept, so that nobody knows whether it was used.
    Expired,
}

impl Key {
    /// The key of a request, if it has one: a string of RFC 9651, or the bare characters that it would have.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Option<Self>, KeyError> {
        let mut lines = headers.get_all(&IDEMPOTENCY_KEY).iter();
        let Some(line) = lines.next() else { return Ok(None) };
        if lines.next().is_some() {
            return Err(KeyError::Invalid("is there more than once"));
        }
        let text = line.as_bytes().trim_ascii();
        let key = match text.strip_prefix(b"\"") {
            Some(rest) => {
                unquoted(rest).ok_or(KeyError::Invalid("begins with a quote, and is no string of RFC 9651"))?
            }
            None if text
                .iter()
                .all(|octet| octet.is_ascii_graphic() && !matches!(octet, b'"' | b'\\' | b',' | b';')) =>
            {
                String::from_utf8_lossy(text).into_owned()
            }
            None => {
                return Err(KeyError::Invalid(
                    "has characters that only a string in quotes may have: it is visible ASCII without `\"`, `\\`, `,`, `;`",
                ));
            }
        };
        match key.len() {
            0 => Err(KeyError::Invalid("is empty")),
            1..=KEY_LENGTH => Ok(Some(Self(key))),
            _ => Err(KeyError::Invalid("has more than 255 characters")),
        }
    }

    /// Whether the time in the key, if it is a UUID of version 7, is one that a request can have now. `now` is in Unix
    /// microseconds.
    pub(crate) fn check_time(&self, now: i64, retention: Duration) -> Result<(), KeyError> {
        let Some(made) = self.time() else { return Ok(()) };
        let micros = |duration: Duration| i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        if made > now.saturating_add(micros(AHEAD)) {
            return Err(KeyError::Invalid("is a UUID of version 7 whose time is more than 5 minutes ahead"));
        }
        if made < now.saturating_sub(micros(retention)) { Err(KeyError::Expired) } else { Ok(()) }
    }

    /// The time in a UUID of version 7, in Unix microseconds.
    fn time(&self) -> Option<i64> {
        // In its one usual form: anything else may be a text that happens to look like it.
        let uuid = Uuid::try_parse(&self.0).ok().filter(|_| self.0.len() == uuid::fmt::Hyphenated::LENGTH)?;
        let seven = uuid.get_version() == Some(Version::SortRand) && uuid.get_variant() == Variant::RFC4122;
        let (millis, _) = seven.then(|| uuid.as_u64_pair())?;
        i64::try_from(millis >> 16).ok()?.checked_mul(1000)
    }
}

/// The characters of a string of RFC 9651, given what comes after its opening quote; `None` unless it ends with the
/// closing one: parameters have no meaning here.
fn unquoted(rest: &[u8]) -> Option<String> {
    let mut key = String::with_capacity(rest.len());
    let mut octets = rest.iter();
    loop {
        match octets.next()? {
            b'"' => return octets.next().is_none().then_some(key),
            b'\\' => key.push(char::from(*octets.next().filter(|octet| matches!(octet, b'"' | b'\\'))?)),
            octet @ b' '..=b'~' => key.push(char::from(*octet)),
            _ => return None,
        }
    }
}

/// Octets that the parts of a request rarely exceed.
const ROOM: usize = 512;

/// What a digest is of: parts that cannot run into each other.
#[derive(Clone)]
pub(crate) struct Parts(Vec<u8>);

impl Parts {
    /// `what` says what the digest is of: digests of different things never meet.
    pub(crate) fn new(what: &str) -> Self {
        let mut parts = Self(Vec::with_capacity(ROOM));
        parts.add(what.as_bytes());
        parts
    }

    pub(crate) fn add(&mut self, part: &[u8]) -> &mut Self {
        self.0.extend((part.len() as u64).to_be_bytes());
        self.0.extend(part);
        self
    }

    /// A part that may be missing, which is not the same as an empty one.
    pub(crate) fn maybe(&mut self, part: Option<&[u8]>) -> &mut Self {
        self.add(&[u8::from(part.is_some())]).add(part.unwrap_or_default())
    }

    pub(crate) fn finish(&self) -> [u8; 32] {
        digest(&SHA256, &self.0).as_ref().first_chunk().copied().unwrap_or_default()
    }
}

/// The media type of a request, without its parameters: what of `Content-Type` makes it this request.
pub(crate) fn media_type(headers: &HeaderMap) -> Option<Vec<u8>> {
    let value = joined(headers, &http::header::CONTENT_TYPE)?;
    Some(value.split(|octet| *octet == b';').next().unwrap_or_default().trim_ascii().to_ascii_lowercase())
}

impl From<KeyError> for Problem {
    fn from(error: KeyError) -> Self {
        match error {
            KeyError::Invalid(what) => Self::new(ProblemCode::KeyInvalid, format!("`Idempotency-Key` {what}")),
            KeyError::Expired => {
                let detail = "the time in the key is longer ago than keys are kept; nothing was done";
                Self::new(ProblemCode::KeyExpired, detail)
            }
        }
    }
}

/// The 400 of a request without a key that needs one.
pub(crate) fn missing() -> Problem {
    let detail = "this route needs an `Idempotency-Key`: a value of your own, new for each request and the same for each try of it";
    Problem::new(ProblemCode::KeyRequired, detail)
}

/// What is recorded of an answer.
pub(crate) fn record(response: Response) -> Record {
    let (head, body) = response.into_parts();
    let header = |name: &HeaderName| {
        let value = head.headers.get(name)?.to_str().ok()?;
        Some((name.as_str().to_owned(), value.to_owned()))
    };
    let headers = REPLAYED.iter().filter_map(header).collect();
    Record { status: head.status.as_u16(), headers, body: Some(body.into()) }
}

/// The answer that is recorded. `add` adds to its headers, unless it was given before.
pub(crate) fn answer(kept: Kept, add: impl FnOnce(&mut HeaderMap)) -> Result<Response, Problem> {
    let Kept { record: Record { status, headers, body }, replayed } = kept;
    let damaged = || Problem::internal("what is recorded of a request is no answer");
    let erased = body.is_none();
    let mut response = Response::new(body.unwrap_or_default().into());
    *response.status_mut() = StatusCode::from_u16(status).map_err(|_| damaged())?;
    for (name, value) in headers {
        let name = HeaderName::try_from(name).map_err(|_| damaged())?;
        if erased && name == http::header::CONTENT_TYPE {
            continue;
        }
        response.headers_mut().insert(name, HeaderValue::try_from(value).map_err(|_| damaged())?);
    }
    if replayed {
        let headers = response.headers_mut();
        headers.insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
        headers.insert(http::header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    } else {
        add(response.headers_mut());
    }
    Ok(response)
}

/// The scope of a caller's keys.
pub(crate) fn of_caller(schema: &Schema, deployment: &str, principal: Option<&Principal>) -> [u8; 32] {
    let caller = principal.and_then(|principal| CallerScope::of(schema, principal));
    scope(
        deployment,
        caller.as_ref().and_then(|caller| caller.tenant.as_deref()),
        caller.as_ref().map(|caller| &*caller.subject),
    )
}

/// The digest of whose keys they are: those of different deployments, tenants and subjects have nothing to do with each other. Never
/// of a token, which changes while its subject stays. Without a subject all anonymous callers share one.
pub fn scope(deployment: &str, tenant: Option<&str>, subject: Option<&str>) -> [u8; 32] {
    let mut parts = Parts::new("scope");
    let parts = parts.add(deployment.as_bytes()).maybe(tenant.map(str::as_bytes)).maybe(subject.map(str::as_bytes));
    parts.finish()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn key(lines: &[&str]) -> Result<Option<String>, KeyError> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(IDEMPOTENCY_KEY, line.parse().unwrap());
        }
        Key::of(&headers).map(|key| key.map(|Key(key)| key))
    }

    #[test]
    fn a_key_is_a_string_or_bare() {
        let table = [
            ("abc", "abc"),
            ("\"abc\"", "abc"),
            ("  abc ", "abc"),
            ("8e03978e-40d5-43e8-bc93-6894a57f9324", "8e03978e-40d5-43e8-bc93-6894a57f9324"),
            ("dGVzdA+/==", "dGVzdA+/=="),
            (r#""a \"b\" \\ c""#, r#"a "b" \ c"#),
            ("\"a, b; c\"", "a, b; c"),
        ];
        for (text, wanted) in table {
            assert_eq!(key(&[text]), Ok(Some(wanted.to_owned())), "{text}");
        }
        assert_eq!(key(&[]), Ok(None));
        let longest = "k".repeat(255);
        assert_eq!(key(&[&longest]), Ok(Some(longest.clone())));
        assert_eq!(key(&[&format!("\"{longest}\"")]), Ok(Some(longest)));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let long = "k".repeat(256);
        let quoted = format!("\"{long}\"");
        let table = [
            "",
            "\"\"",
            " ",
            "a b",
            "a,b",
            "a;b=1",
            "\"a",
            "\"a\";b=1",
            "\"a\" \"b\"",
            "a\"",
            "\"a\\b\"",
            "\"a\tb\"",
            &long,
            &quoted,
        ];
        for text in table {
            assert!(matches!(key(&[text]), Err(KeyError::Invalid(_))), "{text}");
        }
        assert!(matches!(key(&["a", "a"]), Err(KeyError::Invalid(_))));
        let mut headers = HeaderMap::new();
        headers.append(IDEMPOTENCY_KEY, http::HeaderValue::from_bytes("schlüssel".as_bytes()).unwrap());
        assert!(matches!(Key::of(&headers), Err(KeyError::Invalid(_))));
    }

    #[test]
    fn a_key_with_a_time_expires() {
        let (day, minute) = (Duration::from_hours(24), 60_000_000);
        // 2026-11-26T00:00:00Z.
        let now = 1_795_651_200_000_000;
        let at = |micros: i64| {
            let millis = u64::try_from(micros / 1000).unwrap();
            Key(uuid::Builder::from_unix_timestamp_millis(millis, &[7; 10]).into_uuid().to_string())
        };
        for (made, wanted) in [
            (now, Ok(())),
            (now - 24 * 60 * minute, Ok(())),
            (now - 24 * 60 * minute - 1000, Err(KeyError::Expired)),
            (now + 5 * minute, Ok(())),
        ] {
            assert_eq!(at(made).check_time(now, day), wanted, "{made}");
        }
        assert!(matches!(at(now + 5 * minute + 1000).check_time(now, day), Err(KeyError::Invalid(_))));
        for timeless in ["8e03978e-40d5-43e8-bc93-6894a57f9324", "0190163d8694739bae18aea4a2e5d8e6", "abc"] {
            assert_eq!(Key(timeless.to_owned()).check_time(now, day), Ok(()), "{timeless}");
        }
    }

    #[test]
    fn scopes_do_not_run_into_each_other() {
        let all = [
            scope("bank", None, None),
            scope("bank", Some(""), None),
            scope("bank", None, Some("")),
            scope("bank", Some("a"), Some("b")),
            scope("bank", Some("ab"), Some("")),
            scope("bank", None, Some("ab")),
            scope("bankab", None, None),
        ];
        for (at, one) in all.iter().enumerate() {
            assert!(!all[..at].contains(one), "{at}");
        }
    }
}
