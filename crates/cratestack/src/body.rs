//! Request bodies: read with a limit and a deadline, decoded by their media type.

use axum::body::{Body, BodyDataStream, HttpBody as _};
use bytes::{Bytes, BytesMut};
use cratestack_engine::json::{self, Json};
use futures_util::StreamExt as _;
use http::{HeaderMap, HeaderValue, header};
use tokio::time::{Instant, timeout_at};

use crate::cbor;
use crate::headers::{ACCEPT_PATCH, ACCEPT_POST, joined};
use crate::media::{Format, PATCH_TYPES, POST_TYPES, content_type};
use crate::problem::{Problem, ProblemCode};

/// What is read of a body that nobody wants, so that its sender gets to read the answer: a connection that is closed
/// with octets unread is reset, and the answer is lost with it.
const UNWANTED: usize = 16 * 1024 * 1024;

fn too_large(limit: usize) -> Problem {
    Problem::new(ProblemCode::ContentTooLarge, format!("the body has more than {limit} octets, the most that is taken"))
}

/// Refuses a body that says itself that it is too large.
pub(crate) fn check_length(body: &Body, limit: usize) -> Result<(), Problem> {
    if body.size_hint().lower() > limit as u64 { Err(too_large(limit)) } else { Ok(()) }
}

/// Reads a body of at most `limit` octets. One that arrives in one piece is not copied.
pub(crate) async fn read(body: Body, limit: usize, deadline: Instant) -> Result<Bytes, Problem> {
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    let mut chunks = body.into_data_stream();
    let mut whole = Bytes::new();
    let mut several = BytesMut::new();
    loop {
        let chunk = match timeout_at(deadline, chunks.next()).await {
            Ok(None) => break,
            Ok(Some(Ok(chunk))) => chunk,
            Ok(Some(Err(error))) => {
                let problem = Problem::bad_request("the body broke off or is not framed as HTTP asks");
                return Err(Problem { internal: Some(error.to_string()), ..problem });
            }
            Err(_) => return Err(Problem::new(ProblemCode::RequestTimeout, "the body did not arrive in time")),
        };
        if whole.len() + several.len() + chunk.len() > limit {
            discard(chunks, deadline).await;
            return Err(too_large(limit));
        }
        if whole.is_empty() && several.is_empty() {
            whole = chunk;
            continue;
        }
        several.extend_from_slice(&std::mem::take(&mut whole));
        several.extend_from_slice(&chunk);
    }
    Ok(if several.is_empty() { whole } else { several.freeze() })
}

/// Reads what is left of a body and forgets it, within bounds.
pub(crate) async fn discard(mut chunks: BodyDataStream, deadline: Instant) {
    let mut octets = 0;
    while let Ok(Some(Ok(chunk))) = timeout_at(deadline, chunks.next()).await {
        octets += chunk.len();
        if octets > UNWANTED {
            return;
        }
    }
}

/// What the headers say about a body that must be JSON or CBOR; 415 when it is something else. `None` when there is no
/// `Content-Type`, which is fine as long as there is no body.
pub(crate) fn declared_format(headers: &HeaderMap, patch: bool) -> Result<Option<Format>, Problem> {
    let taken = if patch { PATCH_TYPES } else { POST_TYPES };
    if let Some(coding) = joined(headers, &header::CONTENT_ENCODING)
        && !coding.trim_ascii().eq_ignore_ascii_case(b"identity")
    {
        let detail = "`Content-Encoding` is not supported: send the body as it is";
        let problem = Problem::new(ProblemCode::UnsupportedMediaType, detail);
        return Err(problem.with(header::ACCEPT_ENCODING, HeaderValue::from_static("identity")));
    }
    match joined(headers, &header::CONTENT_TYPE) {
        None => Ok(None),
        Some(value) => content_type(&value, patch).map(Some).ok_or_else(|| unsupported(taken, patch)),
    }
}

/// The 415 that names what is taken.
pub(crate) fn unsupported(taken: &'static str, patch: bool) -> Problem {
    let detail = format!("`Content-Type` must be one of {taken}, in UTF-8");
    let name = if patch { ACCEPT_PATCH } else { ACCEPT_POST };
    Problem::new(ProblemCode::UnsupportedMediaType, detail).with(name, HeaderValue::from_static(taken))
}

/// Decodes a body; an empty one is `None`.
pub(crate) fn decode(bytes: &[u8], format: Option<Format>, patch: bool) -> Result<Option<Json>, Problem> {
    if bytes.is_empty() {
        return Ok(None);
    }
    match format {
        None => Err(unsupported(if patch { PATCH_TYPES } else { POST_TYPES }, patch)),
        Some(Format::Json) => parse_json(bytes).map(Some),
        Some(Format::Cbor) => cbor::decode(bytes).map(Some).map_err(|cbor::Malformed { at, what }| {
            Problem::bad_request(format!("the body is not acceptable CBOR, at octet {at}: {what}"))
        }),
    }
}

/// Parses JSON; the error says where.
pub(crate) fn parse_json(bytes: &[u8]) -> Result<Json, Problem> {
    json::parse(bytes, json::MAX_DEPTH).map_err(|error| Problem::new(ProblemCode::InvalidJson, error.to_string()))
}
