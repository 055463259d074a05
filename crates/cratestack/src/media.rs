//! Media types: what a body is sent as, and what an answer is wanted as.

use crate::headers::{is_token, split_list};

/// A format of bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// `application/json`.
    Json,
    /// `application/cbor`.
    Cbor,
}

impl Format {
    /// The media type of answers.
    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Cbor => "application/cbor",
        }
    }

    /// What a strong entity tag ends in, so that two formats of one version have two tags.
    pub(crate) fn tag_suffix(self) -> &'static str {
        match self {
            Self::Json => "",
            Self::Cbor => "-cbor",
        }
    }
}

/// What `POST` bodies may be.
pub(crate) const POST_TYPES: &str = "application/json, application/cbor";
/// What `PATCH` bodies may be.
pub(crate) const PATCH_TYPES: &str = "application/merge-patch+json, application/json, application/cbor";

/// A parsed media type or range; names in lower case.
#[derive(Debug, PartialEq, Eq)]
struct Media {
    essence: String,
    /// Parameters with unquoted values, in order.
    params: Vec<(String, String)>,
}

impl Media {
    fn parse(value: &[u8]) -> Option<Self> {
        let mut parts = split_list(value, b';').into_iter();
        let essence = parts.next()?;
        let slash = essence.iter().position(|&byte| byte == b'/')?;
        let (top, sub) = essence.split_at_checked(slash)?;
        if !is_token(top) || !is_token(sub.get(1..)?) {
            return None;
        }
        let params = parts.map(parameter).collect::<Option<Vec<_>>>()?;
        Some(Self { essence: ascii_lowercase(essence)?, params })
    }

    /// Whether every parameter is one that we understand on this type: `charset=utf-8` on JSON.
    fn params_are_known(&self) -> bool {
        self.params.iter().all(|(name, value)| {
            self.essence.ends_with("json") && name == "charset" && value.eq_ignore_ascii_case("utf-8")
        })
    }
}

fn ascii_lowercase(bytes: &[u8]) -> Option<String> {
    Some(std::str::from_utf8(bytes).ok()?.to_ascii_lowercase())
}

fn parameter(part: &[u8]) -> Option<(String, String)> {
    let at = part.iter().position(|&byte| byte == b'=')?;
    let (name, value) = (part.get(..at)?, part.get(at + 1..)?);
    let value = match value.strip_prefix(b"\"") {
        Some(rest) => rest.strip_suffix(b"\"")?,
        None => is_token(value).then_some(value)?,
    };
    is_token(name).then_some(())?;
    Some((ascii_lowercase(name)?, String::from_utf8_lossy(value).into_owned()))
}

/// The format of a request body; `None` when the service does not take that type.
pub(crate) fn content_type(value: &[u8], patch: bool) -> Option<Format> {
    let media = Media::parse(value)?;
    let format = match media.essence.as_str() {
        "application/json" => Format::Json,
        "application/merge-patch+json" if patch => Format::Json,
        "application/cbor" => Format::Cbor,
        _ => return None,
    };
    media.params_are_known().then_some(format)
}

/// The format of the answer to a request with this `Accept`; `None` when none of ours will do.
///
/// A format has the quality of the most specific range that it falls under. The higher quality wins, then the more
/// specific range, then JSON. Members that are no media range count as absent, as some clients send them.
pub(crate) fn negotiate(accept: Option<&[u8]>) -> Option<Format> {
    let members = split_list(accept.unwrap_or_default(), b',');
    if members.is_empty() {
        return Some(Format::Json);
    }
    let ranges: Vec<(Media, u16)> = members.into_iter().filter_map(range).collect();
    let best = |format: Format| {
        let quality =
            ranges.iter().filter_map(|(range, quality)| Some((specificity(range, format)?, *quality))).max()?;
        (quality.1 > 0).then_some((quality.1, quality.0))
    };
    match (best(Format::Json), best(Format::Cbor)) {
        (None, None) => None,
        (json, cbor) if cbor > json => Some(Format::Cbor),
        _ => Some(Format::Json),
    }
}

/// A media range and its quality in thousandths.
fn range(member: &[u8]) -> Option<(Media, u16)> {
    let mut media = Media::parse(member)?;
    let mut thousandths = 1000;
    if let Some(at) = media.params.iter().position(|(name, _)| name == "q") {
        thousandths = quality(&media.params.get(at)?.1)?;
        // What follows `q` is an `accept-ext`, which RFC 9110 has retired.
        media.params.truncate(at);
    }
    Some((media, thousandths))
}

/// `qvalue`: 0 to 1 with at most three decimals, in thousandths.
fn quality(text: &str) -> Option<u16> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > 3 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let thousandths = match whole {
        "0" => 0,
        "1" => 1000,
        _ => return None,
    };
    let fraction: u16 = format!("{fraction:0<3}").parse().ok()?;
    Some(thousandths + fraction).filter(|&quality| quality <= 1000)
}

/// How closely a range names a format; `None` when it does not.
fn specificity(range: &Media, format: Format) -> Option<u8> {
    let level = match range.essence.as_str() {
        "*/*" => 0,
        "application/*" => 1,
        essence if essence == format.media_type() => 2,
        _ => return None,
    };
    match (level, range.params.len()) {
        (level, 0) => Some(level),
        (2, _) if range.params_are_known() => Some(3),
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn accept() {
        use Format::{Cbor, Json};
        let table: &[(&str, Option<Format>)] = &[
            ("", Some(Json)),
            ("*/*", Some(Json)),
            ("application/*", Some(Json)),
            ("application/json", Some(Json)),
            ("Application/JSON", Some(Json)),
            ("application/cbor", Some(Cbor)),
            ("application/json;charset=utf-8", Some(Json)),
            ("application/json; charset=\"UTF-8\"", Some(Json)),
            ("application/json;charset=latin1", None),
            ("application/json;version=2", None),
            ("application/json;version=2, */*;q=0.1", Some(Json)),
            ("application/cbor, application/json", Some(Json)),
            ("application/cbor, */*", Some(Cbor)),
            ("application/cbor;q=0.9, application/json;q=0.8", Some(Cbor)),
            ("application/cbor;q=0.8, application/json;q=0.9", Some(Json)),
            ("application/cbor;q=0.001, application/json;q=0", Some(Cbor)),
            ("application/json;q=0", None),
            ("application/json;q=0, */*", Some(Cbor)),
            ("application/json;q=0.0, application/cbor;q=0.000, */*", None),
            ("*/*;q=0", None),
            ("text/html", None),
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", Some(Json)),
            ("text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2", None),
            ("text/html, *; q=.2, */*; q=0.2", Some(Json)),
            ("application/json;q=1.001", None),
            ("application/json;q=2", None),
            ("application/json;q=0.1234", None),
            ("application/problem+json", None),
            ("application/json;q=0.5;ext=1", Some(Json)),
            ("garbage", None),
            ("/", None),
            (",,", Some(Json)),
        ];
        for (text, expected) in table {
            assert_eq!(negotiate(Some(text.as_bytes())), *expected, "{text}");
        }
        assert_eq!(negotiate(None), Some(Json));
    }

    #[test]
    fn content_types() {
        use Format::{Cbor, Json};
        let table = [
            ("application/json", Some(Json), Some(Json)),
            ("APPLICATION/JSON ; charset=UTF-8", Some(Json), Some(Json)),
            ("application/json;charset=\"utf-8\"", Some(Json), Some(Json)),
            ("application/json;charset=iso-8859-1", None, None),
            ("application/json;profile=x", None, None),
            ("application/json;charset", None, None),
            ("application/json, application/json", None, None),
            ("application/merge-patch+json", None, Some(Json)),
            ("application/merge-patch+json;charset=utf-8", None, Some(Json)),
            ("application/cbor", Some(Cbor), Some(Cbor)),
            ("application/cbor;charset=utf-8", None, None),
            ("application/x-www-form-urlencoded", None, None),
            ("text/json", None, None),
            ("application", None, None),
            ("", None, None),
        ];
        for (text, post, patch) in table {
            assert_eq!(content_type(text.as_bytes(), false), post, "{text}");
            assert_eq!(content_type(text.as_bytes(), true), patch, "{text}");
        }
    }

    #[test]
    fn the_advertised_types_are_taken() {
        for (list, patch) in [(POST_TYPES, false), (PATCH_TYPES, true)] {
            for media in list.split(", ") {
                assert!(content_type(media.as_bytes(), patch).is_some(), "{media}");
            }
        }
    }

    proptest! {
        #[test]
        fn no_value_panics(value in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = negotiate(Some(&value));
            let _ = content_type(&value, true);
        }

        #[test]
        fn the_higher_quality_wins(json in 0u16..=1000, cbor in 0u16..=1000) {
            let text = |q: u16| format!("{}.{:03}", q / 1000, q % 1000);
            let accept = format!("application/json;q={}, application/cbor;q={}", text(json), text(cbor));
            let expected = match (json, cbor) {
                (0, 0) => None,
                (json, cbor) if cbor > json => Some(Format::Cbor),
                _ => Some(Format::Json),
            };
            prop_assert_eq!(negotiate(Some(accept.as_bytes())), expected);
        }
    }
}
