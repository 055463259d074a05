//! What a request with a key meets, and what the handler's answer makes of the key.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use cratestack::engine::sources::Fixed;
use cratestack::{CallerScope, NoEffect};
use futures_util::future::join_all;
use http::{HeaderValue, Method, StatusCode};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};

use crate::host::{Answer, Host, layer, payment, post};
use crate::places::{PATIENCE, Place, on_every_store, until};

on_every_store! {
    a_repeated_request_gets_the_answer_again
    another_request_with_the_key_is_refused
    keys_of_others_are_others
    statuses_settle_or_release
    no_effect_releases
    a_duplicate_waits_for_the_first
    a_duplicate_waits_no_longer_than_it_may
    of_fifty_at_once_one_runs
    of_two_hosts_one_runs
    a_caller_that_hangs_up_does_not_stop_the_handler
}

fn rich(before: usize) -> Response {
    let headers = [
        ("content-type", "application/json"),
        ("location", "/payments/1"),
        ("etag", "\"1\""),
        ("link", "</a>; rel=\"next\""),
        ("content-language", "de"),
        ("content-encoding", "identity"),
        ("set-cookie", "session=secret"),
        ("date", "Thu, 26 Nov 2026 00:00:00 GMT"),
        ("ratelimit", "\"a\";r=1"),
        ("retry-after", "7"),
        ("x-request-id", "first"),
    ];
    let mut response = (StatusCode::CREATED, headers, format!("{{\"run\":{before}}}")).into_response();
    response.headers_mut().append("link", HeaderValue::from_static("</b>; rel=\"prev\""));
    response
}

async fn a_repeated_request_gets_the_answer_again(place: Place) {
    let host = Host::new(layer(&place.store), async |before| rich(before));
    let first = host.pay("key").await;
    assert_eq!((first.status.as_u16(), first.text()), (201, r#"{"run":0}"#));
    assert_eq!((first.header("set-cookie"), first.is_replay()), ("session=secret", false));
    // The same key, though it is written in another way.
    for key in ["key", "\"key\"", " key "] {
        let again = host.pay(key).await;
        assert!(again.is_replay());
        assert_eq!((again.status, &again.body), (first.status, &first.body));
        let all = |answer: &Answer, name: &str| -> Vec<HeaderValue> {
            answer.headers.get_all(name).iter().cloned().collect()
        };
        for name in ["content-type", "location", "etag", "link", "content-language", "content-encoding"] {
            assert_eq!(all(&again, name), all(&first, name), "{name}");
        }
        for name in ["set-cookie", "date", "ratelimit", "retry-after", "x-request-id"] {
            assert!(!again.headers.contains_key(name), "{name}");
        }
    }
    assert_eq!(host.runs(), 1);
    assert!(!host.pay("another").await.is_replay());
    assert_eq!(host.runs(), 2);
}

async fn another_request_with_the_key_is_refused(place: Place) {
    let host = Host::counting(layer(&place.store));
    let base = || post("/payments?a=1&b=2&a=3", "key").header("if-match", "\"1\"");
    let body = r#"{"amount":1}"#;
    let send = async |request: http::request::Builder, body: &'static str| {
        host.answer(request.body(Body::from(body)).unwrap()).await
    };
    assert_eq!(send(base(), body).await.status, 201);
    // What is the same: the order of parameters, and what a media type says beyond its name.
    let mut same = base().uri("/payments?a=3&b=2&a=1").body(Body::from(body)).unwrap();
    same.headers_mut().insert("content-type", HeaderValue::from_static("Application/JSON; charset=utf-8"));
    same.headers_mut().insert("accept", HeaderValue::from_static("application/cbor"));
    assert!(host.answer(same).await.is_replay());
    let other = |name: &'static str, value: &'static str| {
        let mut request = base();
        request.headers_mut().unwrap().insert(name, HeaderValue::from_static(value));
        request
    };
    let all = [
        (base().method(Method::PUT), body),
        (base().uri("/refunds?a=1&b=2&a=3"), body),
        (base().uri("/payments?a=1&b=2"), body),
        (base().uri("/payments?a=1&a=2&b=3"), body),
        (base().uri("/payments"), body),
        (other("content-type", "application/cbor"), body),
        (other("if-match", "\"2\""), body),
        (base(), r#"{"amount": 1}"#),
        (base(), ""),
    ];
    for (request, body) in all {
        let answer = send(request, body).await;
        answer.is(422, "idempotency_key_reused");
        assert!(!answer.text().contains("run 0"));
    }
    assert_eq!(host.runs(), 1);
}

async fn keys_of_others_are_others(place: Place) {
    let of = |tenant: Option<&str>, subject: &str| {
        let mut request = payment("key");
        request.extensions_mut().insert(CallerScope::new(tenant, subject));
        request
    };
    let host = Host::counting(layer(&place.store));
    let elsewhere = Host::counting(layer(&place.store).deployment("elsewhere"));
    let anonymous = || {
        post("/payments", "key").body(Body::empty()).map(|mut request| {
            request.extensions_mut().remove::<CallerScope>();
            request.headers_mut().remove("authorization");
            request
        })
    };
    for round in 0..2 {
        for request in [of(None, "ann"), of(None, "bob"), of(Some("berlin"), "ann"), anonymous().unwrap()] {
            let answer = host.answer(request).await;
            assert_eq!((answer.status.as_u16(), answer.is_replay()), (201, round > 0));
        }
        assert_eq!(elsewhere.answer(of(None, "ann")).await.is_replay(), round > 0);
    }
    assert_eq!((host.runs(), elsewhere.runs()), (4, 1));
    // Another token of the same subject.
    let mut renewed = of(None, "ann");
    renewed.headers_mut().insert("authorization", HeaderValue::from_static("Bearer of something new"));
    assert!(host.answer(renewed).await.is_replay());
}

async fn statuses_settle_or_release(place: Place) {
    for status in (200..=599).filter(|status| StatusCode::from_u16(*status).unwrap().canonical_reason().is_some()) {
        let answered = StatusCode::from_u16(status).unwrap();
        let host = Host::new(layer(&place.store), move |_| async move { answered.into_response() });
        let key = format!("status {status}");
        let key = format!("\"{key}\"");
        assert_eq!(host.pay(&key).await.status, status);
        let again = host.pay(&key).await;
        match status {
            401 | 403 | 408 | 413 | 415 | 421 | 425 | 429 => {
                assert_eq!((again.status.as_u16(), again.is_replay(), host.runs()), (status, false, 2));
            }
            200..=499 => assert_eq!((again.status.as_u16(), again.is_replay(), host.runs()), (status, true, 1)),
            _ => {
                again.is(409, "idempotency_outcome_unknown");
                assert_eq!(host.runs(), 1);
            }
        }
    }
}

async fn no_effect_releases(place: Place) {
    for status in [StatusCode::SERVICE_UNAVAILABLE, StatusCode::CONFLICT, StatusCode::OK] {
        let host = Host::new(layer(&place.store), move |_| async move {
            let mut response = status.into_response();
            response.extensions_mut().insert(NoEffect);
            response
        });
        for run in 1..=2 {
            let answer = host.pay(&status.as_u16().to_string()).await;
            assert_eq!((answer.status, answer.is_replay(), host.runs()), (status, false, run));
        }
    }
}

/// A host whose handler says when it begins, and goes on when it gets leave.
pub(crate) fn gated(layer: cratestack::IdempotencyLayer) -> (Host, Arc<Semaphore>) {
    let gate = Arc::new(Semaphore::new(0));
    let leave = Arc::clone(&gate);
    let host = Host::new(layer, move |before| {
        let leave = Arc::clone(&leave);
        async move {
            leave.acquire().await.unwrap().forget();
            (StatusCode::CREATED, format!("run {before}")).into_response()
        }
    });
    (host, gate)
}

pub(crate) async fn begun(host: &Host, runs: usize) {
    until("the handler", async || host.runs() == runs).await;
}

async fn a_duplicate_waits_for_the_first(place: Place) {
    let (host, gate) = gated(layer(&place.store).wait(Duration::from_secs(50)));
    let same = host.clone();
    let first = tokio::spawn(async move { same.pay("key").await });
    begun(&host, 1).await;
    let same = host.clone();
    let second = tokio::spawn(async move { same.pay("key").await });
    // Another request with the key does not wait.
    host.answer(post("/refunds", "key").body(Body::empty()).unwrap()).await.is(422, "idempotency_key_reused");
    gate.add_permits(1);
    let (first, second) = (first.await.unwrap(), second.await.unwrap());
    assert_eq!((first.is_replay(), first.text()), (false, "run 0"));
    assert_eq!((second.is_replay(), second.text()), (true, "run 0"));
    assert_eq!(host.runs(), 1);
}

async fn a_duplicate_waits_no_longer_than_it_may(place: Place) {
    let (host, gate) = gated(layer(&place.store).wait(Duration::from_millis(50)));
    let same = host.clone();
    let first = tokio::spawn(async move { same.pay("key").await });
    begun(&host, 1).await;
    let second = host.pay("key").await;
    second.is(409, "idempotency_in_flight");
    assert_eq!(second.header("retry-after"), "1");
    gate.add_permits(1);
    assert_eq!(first.await.unwrap().status, 201);
    assert!(host.pay("key").await.is_replay());
}

async fn of_fifty_at_once_one_runs(place: Place) {
    let host = Host::new(layer(&place.store), async |before| {
        tokio::task::yield_now().await;
        rich(before)
    });
    let answers = join_all((0..50).map(|_| {
        let host = host.clone();
        tokio::spawn(async move { host.pay("key").await })
    }));
    let answers: Vec<Answer> = answers.await.into_iter().map(Result::unwrap).collect();
    let replays = answers.iter().filter(|answer| answer.is_replay()).count();
    let in_flight = answers.iter().filter(|answer| answer.status == 409).count();
    for answer in &answers {
        match answer.status.as_u16() {
            201 => assert_eq!(answer.text(), r#"{"run":0}"#),
            _ => answer.is(409, "idempotency_in_flight"),
        }
    }
    assert_eq!((host.runs(), replays + in_flight), (1, 49));
    assert!(host.pay("key").await.is_replay());
}

/// Layers that know nothing of each other, as in two processes.
async fn of_two_hosts_one_runs(place: Place) {
    let hosts = [(); 2].map(|()| Host::counting(layer(&place.store).wait(Duration::from_secs(50))));
    for key in ["a", "b", "c"] {
        let answers = join_all((0..20).map(|at| {
            let host = hosts[at % 2].clone();
            tokio::spawn(async move { host.pay(key).await })
        }));
        let answers: Vec<Answer> = answers.await.into_iter().map(Result::unwrap).collect();
        assert_eq!(answers.iter().filter(|answer| answer.is_replay()).count(), 19);
        assert!(answers.iter().all(|answer| answer.body == answers[0].body));
    }
    assert_eq!(hosts[0].runs() + hosts[1].runs(), 3);
}

async fn a_caller_that_hangs_up_does_not_stop_the_handler(place: Place) {
    let (host, gate) = gated(layer(&place.store));
    let same = host.clone();
    let caller = tokio::spawn(async move { same.pay("key").await });
    begun(&host, 1).await;
    caller.abort();
    assert!(caller.await.unwrap_err().is_cancelled());
    gate.add_permits(1);
    let again = host.pay("key").await;
    assert_eq!((again.is_replay(), again.text(), host.runs()), (true, "run 0", 1));
}

async fn plain() -> (Place, Host) {
    let place = Place::sqlite().await;
    let host = Host::counting(layer(&place.store));
    (place, host)
}

#[tokio::test]
async fn safe_methods_and_requests_without_a_key_go_through() {
    let (place, host) = plain().await;
    let mut runs = 0;
    for method in [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE] {
        for key in ["key", ""] {
            let request = post("/payments", key).method(method.clone()).body(Body::empty()).unwrap();
            assert_eq!(host.answer(request).await.status, 201);
            runs += 1;
        }
    }
    let keyless = || Request::post("/payments").header("authorization", "x").body(Body::empty()).unwrap();
    for _ in 0..2 {
        assert_eq!(host.answer(keyless()).await.status, 201);
        runs += 1;
    }
    assert_eq!(host.runs(), runs);
    let host = Host::counting(layer(&place.store).required());
    host.answer(keyless()).await.is(400, "idempotency_key_required");
    let get = Request::get("/payments").body(Body::empty()).unwrap();
    assert_eq!((host.answer(get).await.status.as_u16(), host.runs()), (201, 1));
}

#[tokio::test]
async fn a_key_that_is_none_is_refused() {
    let (_place, host) = plain().await;
    let long = "k".repeat(256);
    for key in ["", "\"\"", "a b", "\"a", "\"a\";b", &long] {
        let answer = host.pay(key).await;
        answer.is(400, "idempotency_key_invalid");
        assert!(!answer.text().contains(&long));
    }
    let mut twice = payment("key");
    twice.headers_mut().append("idempotency-key", HeaderValue::from_static("key"));
    host.answer(twice).await.is(400, "idempotency_key_invalid");
    assert_eq!(host.runs(), 0);
}

#[tokio::test]
async fn the_time_in_a_key_counts() {
    // 2026-11-26T00:00:00Z.
    let now = 1_795_651_200_000_000;
    let place = Place::sqlite().await;
    let host = Host::counting(layer(&place.store).clock(Arc::new(Fixed::at(now))));
    let key = |ago: i64| {
        let millis = u64::try_from((now / 1_000) - ago * 1_000).unwrap();
        uuid::Builder::from_unix_timestamp_millis(millis, &[7; 10]).into_uuid().to_string()
    };
    host.pay(&key(86_401)).await.is(422, "idempotency_key_expired");
    host.pay(&key(-301)).await.is(400, "idempotency_key_invalid");
    assert_eq!(host.runs(), 0);
    for ago in [86_400, 0, -300] {
        assert_eq!(host.pay(&key(ago)).await.status, 201);
        assert!(host.pay(&key(ago)).await.is_replay());
    }
}

#[tokio::test]
async fn a_body_over_the_limit_reserves_nothing() {
    let place = Place::sqlite().await;
    let host = Host::counting(layer(&place.store).body_limit(10));
    let chunks = |text: &'static str| {
        let chunks: Vec<std::io::Result<_>> = text.split_inclusive('.').map(|chunk| Ok(chunk.to_owned())).collect();
        Body::from_stream(futures_util::stream::iter(chunks))
    };
    for body in [Body::from("12345678901"), chunks("12345.678901")] {
        host.answer(post("/payments", "key").body(body).unwrap()).await.is(413, "content_too_large");
    }
    let broken = Body::from_stream(futures_util::stream::iter([Err::<String, _>(std::io::Error::other("gone"))]));
    host.answer(post("/payments", "key").body(broken).unwrap()).await.is(400, "bad_request");
    assert_eq!(host.runs(), 0);
    let answer = host.answer(post("/payments", "key").body(chunks("12345.6789")).unwrap()).await;
    assert_eq!((answer.status.as_u16(), host.runs()), (201, 1));
}

#[tokio::test]
async fn a_body_that_does_not_arrive_is_refused() {
    let place = Place::sqlite().await;
    let host = Host::counting(layer(&place.store).body_timeout(Duration::from_millis(10)));
    let body = Body::from_stream(futures_util::stream::pending::<std::io::Result<String>>());
    host.answer(post("/payments", "key").body(body).unwrap()).await.is(408, "request_timeout");
    assert_eq!(host.runs(), 0);
}

#[tokio::test]
async fn credentials_without_a_scope_are_the_hosts_mistake() {
    let (_place, host) = plain().await;
    for name in ["authorization", "cookie", "x-api-key", "x-forwarded-client-cert", "client-cert"] {
        let request = Request::post("/payments").header("idempotency-key", "key").header(name, "secret");
        let answer = host.answer(request.body(Body::empty()).unwrap()).await;
        answer.is(500, "internal");
        assert!(!answer.text().contains("CallerScope"));
    }
    assert_eq!(host.runs(), 0);
}

/// Over a connection: the server drops the request when it breaks off, and the handler goes on.
#[tokio::test]
async fn a_connection_that_breaks_off_does_not_stop_the_handler() {
    let place = Place::sqlite().await;
    let (host, gate) = gated(layer(&place.store));
    let (gone, was_dropped) = oneshot::channel::<()>();
    let gone = Arc::new(std::sync::Mutex::new(Some(gone)));
    let watched = from_fn(move |request: Request, next: Next| {
        // Goes with the future of the request.
        let gone = gone.lock().unwrap().take();
        async move {
            let response = next.run(request).await;
            drop(gone);
            response
        }
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = host.app().layer(watched);
    let server = tokio::spawn(async move {
        cratestack::serve(listener, app, cratestack::ServerConfig::default(), std::future::pending()).await
    });
    let mut connection = TcpStream::connect(address).await.unwrap();
    let text = "POST /payments HTTP/1.1\r\nHost: bank\r\nIdempotency-Key: key\r\nContent-Length: 2\r\n\r\n{}";
    connection.write_all(text.as_bytes()).await.unwrap();
    begun(&host, 1).await;
    drop(connection);
    // The sender is dropped, and nothing is sent.
    assert!(tokio::time::timeout(PATIENCE, was_dropped).await.unwrap().is_err());
    gate.add_permits(1);
    let again = Request::post("/payments").header("idempotency-key", "key").body(Body::from("{}")).unwrap();
    let again = host.answer(again).await;
    assert_eq!((again.is_replay(), again.text(), host.runs()), (true, "run 0", 1));
    server.abort();
}

/// Collects what is logged.
#[derive(Clone, Default)]
struct Log(Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, octets: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(octets);
        Ok(octets.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_log_says_what_the_host_has_to_do() {
    let (_place, host) = plain().await;
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let request = Request::post("/payments").header("idempotency-key", "key").header("cookie", "secret");
    host.answer(request.body(Body::empty()).unwrap()).await.is(500, "internal");
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(text.contains("has the header `cookie` and no `CallerScope`"), "{text}");
    assert!(text.contains("put one into the extensions of the request") && !text.contains("secret"), "{text}");
}

/// Of two layers around one handler the inner one would wait for the outer one.
#[tokio::test]
async fn a_layer_inside_of_a_layer_goes_through() {
    let place = Place::sqlite().await;
    let keys = layer(&place.store);
    let inner = axum::routing::post(async || "done").layer(keys.clone());
    let app = Router::new().route("/payments", inner).layer(keys);
    for _ in 0..2 {
        let response = tower::ServiceExt::oneshot(app.clone(), payment("key")).await.unwrap();
        assert_eq!(response.status(), 200);
    }
}

/// The handler gets the request as it was sent, and the request's id is in the layer's problems.
#[tokio::test]
async fn the_handler_gets_the_request() {
    let place = Place::sqlite().await;
    let echo = async |request: Request| {
        let (head, body) = request.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        let scope = head.extensions.get::<CallerScope>().is_some();
        format!("{} {} {} {scope}", head.uri, head.headers["x-own"].to_str().unwrap(), String::from_utf8_lossy(&body))
    };
    // Below another router, which takes away a part of the path.
    let inner = Router::new().route("/a", axum::routing::post(echo)).route_layer(layer(&place.store));
    let app = Router::new().nest("/x", inner.clone()).nest("/y", inner);
    let send = async |path: &str| {
        let request = post(path, "key").header("x-own", "yes").header("x-request-id", "mine");
        let response =
            tower::ServiceExt::oneshot(app.clone(), request.body(Body::from("text")).unwrap()).await.unwrap();
        let (head, body) = response.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap().to_vec();
        Answer { status: head.status, headers: head.headers, body }
    };
    assert_eq!(send("/x/a?q=1").await.text(), "/a?q=1 yes text true");
    assert!(send("/x/a?q=1").await.is_replay());
    let other = send("/y/a?q=1").await;
    other.is(422, "idempotency_key_reused");
    assert_eq!(other.header("x-request-id"), "mine");
    // No route: the layer of routes is not there at all.
    assert_eq!(send("/x/nowhere").await.status, 404);
}
