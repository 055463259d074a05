//! Answers that are too large to be kept, or never end.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt as _;
use futures_util::stream;
use http::StatusCode;
use sha2::{Digest as _, Sha256};

use crate::host::{Host, layer, payment};
use crate::places::{Place, on_every_store};

on_every_store! {
    five_megabytes
    a_stream_without_end
}

const HEADERS: [(&str, &str); 3] = [("location", "/payments/1"), ("content-type", "text/plain"), ("etag", "\"1\"")];

fn stream_of(chunks: impl futures_util::Stream<Item = Bytes> + Send + 'static) -> Response {
    let body = Body::from_stream(chunks.map(Ok::<_, Infallible>));
    (StatusCode::CREATED, HEADERS, body).into_response()
}

/// What a replay has, and has not, of an answer whose body was not kept.
async fn is_effect_only(host: &Host, digest: Option<&str>) {
    let again = host.pay("key").await;
    assert!(again.is_replay());
    assert_eq!((again.status.as_u16(), again.body.len(), host.runs()), (201, 0, 1));
    assert_eq!((again.header("location"), again.header("etag")), ("/payments/1", "\"1\""));
    assert!(!again.headers.contains_key("content-type"));
    assert_eq!(again.header("repr-digest"), digest.unwrap_or_default());
}

async fn five_megabytes(place: Place) {
    let large: Vec<u8> = (0..5 * 1024 * 1024_u32).map(|at| at.to_be_bytes()[3]).collect();
    let body = Bytes::from(large.clone());
    let host = Host::new(layer(&place.store), move |_| {
        let body = body.clone();
        async move { (StatusCode::CREATED, HEADERS, body).into_response() }
    });
    let first = host.pay("key").await;
    assert_eq!((first.status.as_u16(), first.is_replay()), (201, false));
    assert!(first.body == large, "the caller gets all of it");
    let digest = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, Sha256::digest(&large));
    is_effect_only(&host, Some(&format!("sha-256=:{digest}:"))).await;
}

async fn a_stream_without_end(place: Place) {
    let host = Host::new(layer(&place.store).response_limit(1000), async |_| {
        stream_of(stream::repeat(Bytes::from_static(&[b'x'; 100])))
    });
    let response = host.begin(payment("key")).await;
    let mut chunks = response.into_body().into_data_stream();
    let mut octets = 0;
    while octets < 100_000 {
        octets += chunks.next().await.unwrap().unwrap().len();
    }
    drop(chunks);
    is_effect_only(&host, None).await;
}

#[tokio::test]
async fn bodies_up_to_the_limit_are_kept() {
    let place = Place::sqlite().await;
    for (octets, kept) in [(1000, true), (1001, false)] {
        let host = Host::new(layer(&place.store).response_limit(1000), move |_| async move {
            stream_of(stream::iter([Bytes::from(vec![b'a'; 600]), Bytes::from(vec![b'b'; octets - 600])]))
        });
        let key = octets.to_string();
        let first = host.pay(&key).await;
        assert_eq!(first.body.len(), octets);
        let again = host.pay(&key).await;
        assert!(again.is_replay());
        assert_eq!(again.body == first.body, kept);
    }
}

/// A body that takes its time is passed on as it comes.
#[tokio::test]
async fn a_slow_stream_is_passed_on() {
    let place = Place::sqlite().await;
    let host = Host::new(layer(&place.store).response_timeout(Duration::from_millis(10)), async |_| {
        stream_of(stream::once(async { Bytes::from_static(b"event") }).chain(stream::pending()))
    });
    let response = host.begin(payment("key")).await;
    let mut chunks = response.into_body().into_data_stream();
    assert_eq!(chunks.next().await.unwrap().unwrap(), "event");
    is_effect_only(&host, None).await;
    drop(chunks);
}

/// A body that breaks off does so for the caller as well; the effect stays.
#[tokio::test]
async fn a_body_that_breaks_off_is_an_effect() {
    let place = Place::sqlite().await;
    let host = Host::new(layer(&place.store), async |_| {
        let chunks = [Ok(Bytes::from_static(b"some")), Err(std::io::Error::other("gone"))];
        (StatusCode::CREATED, HEADERS, Body::from_stream(stream::iter(chunks))).into_response()
    });
    let response = host.begin(payment("key")).await;
    let mut chunks = response.into_body().into_data_stream();
    assert_eq!(chunks.next().await.unwrap().unwrap(), "some");
    assert!(chunks.next().await.unwrap().is_err());
    assert!(chunks.next().await.is_none());
    is_effect_only(&host, None).await;
}

/// The length of a body that was looked at is still known.
#[tokio::test]
async fn lengths_stay_known() {
    let place = Place::sqlite().await;
    let host = Host::new(layer(&place.store).response_limit(3), async |before| {
        (StatusCode::CREATED, "x".repeat(3 + before)).into_response()
    });
    for (key, octets) in [("a", 3), ("b", 4)] {
        let body = host.begin(payment(key)).await.into_body();
        assert_eq!(body.size_hint().exact(), Some(octets));
        let mut chunks = body.into_data_stream();
        assert_eq!(chunks.next().await.unwrap().unwrap().len() as u64, octets);
        assert_eq!(HttpBody::size_hint(&chunks).exact(), Some(0));
    }
}
