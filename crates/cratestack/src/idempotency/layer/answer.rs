//! What is kept of an answer, and how it is given again.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use aws_lc_rs::digest::{self, SHA256};
use axum::body::Body;
use axum::response::Response;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use cratestack_engine::idempotency::{REPR_DIGEST, Record};
use futures_util::StreamExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::timeout;

use super::super::{IDEMPOTENT_REPLAYED, REPLAYED};
use super::NoEffect;

/// What an answer says about the effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// This was done, or refused for good.
    Settled,
    /// Nothing has happened.
    NoEffect,
    /// Nobody knows.
    Unknown,
}

/// Refusals that come before anything is done, and not again when the caller has changed something else than the
/// request.
const BEFORE: [StatusCode; 8] = [
    StatusCode::UNAUTHORIZED,
    StatusCode::FORBIDDEN,
    StatusCode::REQUEST_TIMEOUT,
    StatusCode::PAYLOAD_TOO_LARGE,
    StatusCode::UNSUPPORTED_MEDIA_TYPE,
    StatusCode::MISDIRECTED_REQUEST,
    StatusCode::TOO_EARLY,
    StatusCode::TOO_MANY_REQUESTS,
];

impl Verdict {
    pub(super) fn of(response: &Response) -> Self {
        let status = response.status();
        if response.extensions().get::<NoEffect>().is_some() || BEFORE.contains(&status) {
            Self::NoEffect
        } else if (200..500).contains(&status.as_u16()) {
            Self::Settled
        } else {
            Self::Unknown
        }
    }
}

/// Makes the record of an answer, and the answer as it goes out: with a body of as many octets as it had.
pub(super) async fn keep(response: Response, limit: usize, patience: Duration) -> (Record, Response) {
    let status = response.status().as_u16();
    let (head, body) = response.into_parts();
    let mut reading = Reading { frames: VecDeque::new(), octets: 0, broken: None, rest: body };
    // What has been read by then stays in `reading`.
    let whole = timeout(patience, reading.read(limit)).await.unwrap_or(false);
    let mut headers = kept_headers(&head.headers, whole);
    let body = whole.then(|| reading.data().flat_map(|data| data.iter().copied()).collect());
    if !whole && reading.is_at_hand() {
        headers.push((REPR_DIGEST.to_owned(), reading.digest()));
    }
    (Record { status, headers, body }, Response::from_parts(head, Body::new(reading)))
}

/// Those headers that are given again. Without the body nothing is said about its form.
fn kept_headers(headers: &HeaderMap, whole: bool) -> Vec<(String, String)> {
    let about_body = [header::CONTENT_TYPE, header::CONTENT_ENCODING];
    let text =
        |name: &HeaderName, value: &HeaderValue| Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned()));
    let names = REPLAYED.into_iter().chain([header::CONTENT_ENCODING]);
    names
        .filter(|name| whole || !about_body.contains(name))
        .flat_map(|name| headers.get_all(&name).iter().filter_map(|value| text(&name, value)).collect::<Vec<_>>())
        .collect()
}

/// A recorded answer.
pub(super) fn replay(record: Record) -> Response {
    let about_body = [header::CONTENT_TYPE, header::CONTENT_ENCODING];
    // A body may have been erased since.
    let bodiless = record.body.is_none();
    let mut response = Response::new(Body::from(record.body.unwrap_or_default()));
    *response.status_mut() = StatusCode::from_u16(record.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = record
        .headers
        .into_iter()
        .filter_map(|(name, value)| Some((HeaderName::try_from(name).ok()?, HeaderValue::try_from(value).ok()?)));
    for (name, value) in headers.filter(|(name, _)| !(bodiless && about_body.contains(name))) {
        response.headers_mut().append(name, value);
    }
    mark(&mut response);
    response
}

/// Says that it is an answer from before.
pub(super) fn mark(response: &mut Response) {
    response.headers_mut().insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
}

/// A body of which some has been read: it gives that first, and then the rest.
struct Reading {
    frames: VecDeque<Frame<Bytes>>,
    octets: usize,
    /// How the rest has ended, where it has ended badly.
    broken: Option<axum::Error>,
    rest: Body,
}

impl Reading {
    /// Reads until there is no more, or more than `limit` octets; whether what was read is all.
    async fn read(&mut self, limit: usize) -> bool {
        loop {
            match self.next_frame().await {
                None => return true,
                Some(Err(error)) => {
                    self.broken = Some(error);
                    return false;
                }
                Some(Ok(frame)) => {
                    self.octets += frame.data_ref().map_or(0, Bytes::len);
                    self.frames.push_back(frame);
                    if self.octets > limit {
                        return false;
                    }
                }
            }
        }
    }

    async fn next_frame(&mut self) -> Option<Result<Frame<Bytes>, axum::Error>> {
        let rest = &mut self.rest;
        futures_util::stream::poll_fn(|context| Pin::new(&mut *rest).poll_frame(context)).next().await
    }

    /// Whether nothing is left to come.
    fn is_at_hand(&self) -> bool {
        self.broken.is_none() && self.rest.is_end_stream()
    }

    fn data(&self) -> impl Iterator<Item = &Bytes> {
        self.frames.iter().filter_map(Frame::data_ref)
    }

    /// As RFC 9530 has it.
    fn digest(&self) -> String {
        let mut context = digest::Context::new(&SHA256);
        self.data().for_each(|data| context.update(data));
        format!("sha-256=:{}:", BASE64_STANDARD.encode(context.finish()))
    }
}

impl HttpBody for Reading {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if let Some(frame) = self.frames.pop_front() {
            self.octets -= frame.data_ref().map_or(0, Bytes::len);
            return Poll::Ready(Some(Ok(frame)));
        }
        match self.broken.take() {
            Some(error) => {
                self.rest = Body::empty();
                Poll::Ready(Some(Err(error)))
            }
            None => Pin::new(&mut self.rest).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_empty() && self.is_at_hand()
    }

    fn size_hint(&self) -> SizeHint {
        let (read, rest) = (self.octets as u64, self.rest.size_hint());
        let mut hint = SizeHint::new();
        // The upper bound may not be below the lower one.
        if let Some(upper) = rest.upper().filter(|_| self.broken.is_none()) {
            hint.set_upper(read.saturating_add(upper));
        }
        hint.set_lower(read.saturating_add(rest.lower()));
        hint
    }
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse as _;

    use super::*;

    #[tokio::test]
    async fn a_record_says_nothing_about_the_form_of_a_body_that_it_does_not_have() {
        let headers =
            [("content-type", "text/plain"), ("content-encoding", "gzip"), ("etag", "\"1\""), ("date", "now")];
        for (limit, names) in
            [(1, ["etag", "repr-digest"].as_slice()), (2, &["content-type", "etag", "content-encoding"])]
        {
            let (record, _) = keep((headers, "xy").into_response(), limit, Duration::from_secs(1)).await;
            let found: Vec<&str> = record.headers.iter().map(|(name, _)| name.as_str()).collect();
            assert_eq!(found, names);
            assert_eq!(record.body.is_some(), limit == 2);
        }
    }

    /// Where a body was erased since, its form went with it.
    #[test]
    fn a_body_that_was_erased_is_empty() {
        let headers = vec![("content-type".to_owned(), "text/plain".to_owned()), ("etag".to_owned(), "x".to_owned())];
        let response = replay(Record { status: 201, headers, body: None });
        assert!(response.headers().contains_key("etag") && !response.headers().contains_key("content-type"));
        assert!(response.body().is_end_stream());
    }
}
