//! The sink against receivers on this machine.

use std::net::SocketAddr;
use std::sync::Mutex;

use axum::Router;
use axum::extract::State;
use axum::response::IntoResponse;
use bytes::Bytes;
use cratestack_engine::sources::Fixed;
use http::HeaderMap;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::Notify;

use super::*;
use crate::sinks::testing::certificates::{Authority, Leaf, Valid};
use crate::sinks::testing::{Certificate, event, event_id};

/// The example of the specification (github.com/standard-webhooks, `spec/standard-webhooks.md`).
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const OTHER: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
/// How long a test may take.
const PATIENCE: Duration = Duration::from_secs(30);

fn secrets(text: &str) -> WebhookSecrets {
    text.parse().unwrap()
}

type Answer = dyn Fn(usize, &HeaderMap, &Bytes) -> Response<Body> + Send + Sync;

/// A receiver that notes what it gets.
#[derive(Clone)]
struct Receiver {
    got: Arc<Mutex<Vec<(HeaderMap, Bytes)>>>,
    answer: Arc<Answer>,
    address: SocketAddr,
}

impl Receiver {
    /// `answer` knows how many requests came before.
    async fn start(answer: impl Fn(usize, &HeaderMap, &Bytes) -> Response<Body> + Send + Sync + 'static) -> Self {
        async fn take(State(receiver): State<Receiver>, headers: HeaderMap, body: Bytes) -> Response<Body> {
            let before = {
                let mut got = receiver.got.lock().unwrap();
                got.push((headers.clone(), body.clone()));
                got.len() - 1
            };
            (receiver.answer)(before, &headers, &body)
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let receiver = Self { got: Arc::default(), answer: Arc::new(answer), address };
        let router = Router::new().fallback(take).with_state(receiver.clone());
        let config = crate::ServerConfig::default();
        tokio::spawn(crate::serve(listener, router, config, std::future::pending()));
        receiver
    }

    async fn answering(status: u16) -> Self {
        Self::start(move |_, _, _| StatusCode::from_u16(status).unwrap().into_response()).await
    }

    fn sink(&self) -> WebhookSink {
        sink(self.address)
    }

    fn got(&self) -> Vec<(HeaderMap, Bytes)> {
        self.got.lock().unwrap().clone()
    }
}

/// 2022-11-20T21:50:56.789Z
const NOW: i64 = 1_668_981_056_789_000;

fn sink(address: SocketAddr) -> WebhookSink {
    let clock = Arc::new(Fixed::at(NOW));
    WebhookSink::new(&format!("http://{address}/hook?key=confidential"), secrets(SECRET)).unwrap().clock(clock)
}

async fn deliver(sink: &WebhookSink, events: &[AuditEvent]) -> Result<(), SinkError> {
    tokio::time::timeout(PATIENCE, sink.deliver(events)).await.expect("it takes too long")
}

/// HMAC-SHA256 by its definition (RFC 2104) over an implementation of SHA-256 that the sink does not use.
fn hmac_sha256(key: &[u8], message: &[u8]) -> Vec<u8> {
    use sha2::{Digest as _, Sha256};
    assert!(key.len() <= 64);
    let pad = |octet: u8| (0..64).map(|at| key.get(at).copied().unwrap_or(0) ^ octet).collect::<Vec<u8>>();
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize().to_vec()
}

#[test]
fn signatures_are_those_of_the_specification() {
    // From the specification's own libraries.
    let (id, timestamp) = ("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330");
    let signature = secrets(SECRET).sign(id, timestamp, r#"{"test": 2432232314}"#);
    assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
}

#[tokio::test]
async fn each_event_is_a_signed_request() {
    let receiver = Receiver::answering(204).await;
    let sink = receiver.sink();
    assert_eq!(sink.name(), "webhook");
    deliver(&sink, &[event(1, "a"), event(2, "a")]).await.unwrap();
    let got = receiver.got();
    assert_eq!(got.len(), 2);
    for (seq, (headers, body)) in (1..).zip(&got) {
        assert_eq!(body, event(seq, "a").entry.as_bytes());
        assert_eq!(headers["content-type"], "application/json");
        assert_eq!(headers["webhook-id"], event_id(seq));
        assert_eq!(headers["webhook-timestamp"], "1668981056");
        let message = format!("{}.1668981056.{}", event_id(seq), event(seq, "a").entry);
        let key = STANDARD.decode(&SECRET[6..]).unwrap();
        let signature = STANDARD.encode(hmac_sha256(&key, message.as_bytes()));
        assert_eq!(headers["webhook-signature"], format!("v1,{signature}"));
    }
}

#[tokio::test]
async fn an_event_of_the_outbox_is_sent_as_a_cloud_event() {
    let receiver = Receiver::answering(204).await;
    let id = event_id(7);
    let event = AuditEvent {
        log: &cratestack_engine::relay::OUTBOX,
        entry: format!(r#"{{"id":"{id}","specversion":"1.0"}}"#),
        ..event(1, "a")
    };
    deliver(&receiver.sink(), &[event]).await.unwrap();
    let (headers, _) = receiver.got().remove(0);
    assert_eq!(
        (&headers["content-type"], &headers["webhook-id"]),
        (&"application/cloudevents+json".parse().unwrap(), &id.parse().unwrap())
    );
}

#[tokio::test]
async fn while_a_secret_is_exchanged_there_are_two_signatures() {
    let receiver = Receiver::answering(200).await;
    for (text, count) in [(SECRET.to_owned(), 1), (format!("{SECRET} {OTHER}"), 2), (format!("{SECRET},{OTHER},"), 2)] {
        let url = format!("http://{}/", receiver.address);
        deliver(&WebhookSink::new(&url, secrets(&text)).unwrap(), &[event(1, "a")]).await.unwrap();
        let (headers, _) = receiver.got().pop().unwrap();
        let signatures = headers["webhook-signature"].to_str().unwrap().to_owned();
        assert_eq!(signatures.split(' ').filter(|signature| signature.starts_with("v1,")).count(), count);
    }
}

#[test]
fn secrets_are_checked_and_never_shown() {
    let short = format!("whsec_{}", STANDARD.encode([7; 23]));
    let long = format!("whsec_{}", STANDARD.encode([7; 65]));
    for text in
        ["", " ", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_", "whsec_%%%", &short, &long, &format!("{SECRET} x")]
    {
        let error = text.parse::<WebhookSecrets>().unwrap_err();
        assert!(text.len() < 8 || !error.to_string().contains(text), "{error}");
    }
    assert_eq!(format!("{:?}", secrets(SECRET)), "WebhookSecrets(1)");
}

#[test]
fn urls_are_checked() {
    let check = |url: &str| WebhookSink::new(url, secrets(SECRET)).map(|sink| sink.shown).map_err(|e| e.to_string());
    for url in ["http://127.0.0.1:1/x", "http://[::1]/x", "http://localhost/x?y=z"] {
        assert!(check(url).is_ok(), "{url}");
    }
    assert_eq!(check("http://[::1]:8/secret").unwrap(), "`http://[::1]:8`");
    for (url, error) in [
        ("", "is not a URL"),
        ("/hook", "names no scheme or no host"),
        ("hook.example", "names no scheme or no host"),
        ("ftp://hook.example/", "is not `https`, and its host is not this machine"),
        ("http://hook.example/", "is not `https`, and its host is not this machine"),
        ("http://127.0.0.1.example/", "is not `https`, and its host is not this machine"),
        ("http://10.0.0.1/", "is not `https`, and its host is not this machine"),
        ("https://ann:pass@hook.example/", "contains credentials, which are not sent: requests are signed"),
    ] {
        assert_eq!(check(url).unwrap_err(), format!("the URL of the webhook {error}"));
    }
}

#[tokio::test]
async fn answers_say_whom_the_trouble_concerns() {
    let unavailable = [301, 302, 307, 308, 401, 403, 404, 405, 407, 408, 410, 425, 429, 500, 502, 503, 599];
    for status in unavailable.into_iter().chain([400, 402, 406, 409, 413, 415, 418, 422, 431, 451]) {
        let error = deliver(&Receiver::answering(status).await.sink(), &[event(1, "a")]).await.unwrap_err();
        assert_eq!(error.is_unavailable(), unavailable.contains(&status), "{status}");
        assert!(error.message().contains(&status.to_string()) && !error.message().contains("confidential"), "{error}");
    }
    for status in [200, 201, 202, 204, 299] {
        deliver(&Receiver::answering(status).await.sink(), &[event(1, "a")]).await.unwrap();
    }
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let end = Receiver::answering(200).await;
    let location = format!("http://{}/", end.address);
    let receiver = Receiver::start(move |_, _, _| {
        (StatusCode::TEMPORARY_REDIRECT, [("location", location.clone())]).into_response()
    })
    .await;
    let error = deliver(&receiver.sink(), &[event(1, "a")]).await.unwrap_err();
    let shown = receiver.address;
    assert_eq!(error.message(), format!("`http://{shown}` answers 307, and redirects are not followed"));
    assert!(end.got().is_empty());
}

#[tokio::test]
async fn a_receiver_that_hangs_or_is_not_there_is_unavailable() {
    // It accepts and says nothing.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let sink = sink(address).deadline(Duration::from_millis(50));
    let error = deliver(&sink, &[event(1, "a")]).await.unwrap_err();
    assert!(error.is_unavailable());
    assert_eq!(error.message(), format!("`http://{address}` has not answered within 50ms"));
    // It is gone.
    drop(listener);
    let error = deliver(&sink, &[event(1, "a")]).await.unwrap_err();
    assert!(error.is_unavailable());
    assert_eq!(error.message(), format!("`http://{address}` cannot be reached: connection refused"));
}

#[tokio::test]
async fn a_receiver_that_breaks_off_is_unavailable() {
    for said in ["", "HTTP/1.1 ", "nonsense\r\n\r\n"] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(said.as_bytes()).await;
            }
        });
        let error = deliver(&sink(address), &[event(1, "a")]).await.unwrap_err();
        assert!(error.is_unavailable(), "{error}");
    }
}

#[tokio::test]
async fn an_answer_is_read_no_further_than_needed() {
    // Bodies without an end: of some octets and then silence, and of octets for ever.
    let silent = Receiver::start(|_, _, _| {
        let some = futures_util::stream::once(std::future::ready(Ok::<_, std::convert::Infallible>("x")));
        Response::new(Body::from_stream(futures_util::StreamExt::chain(some, futures_util::stream::pending())))
    })
    .await;
    deliver(&silent.sink().deadline(Duration::from_millis(200)), &[event(1, "a")]).await.unwrap();
    let endless = Receiver::start(|_, _, _| {
        let octets = std::iter::repeat_with(|| Ok::<_, std::convert::Infallible>(Bytes::from(vec![b'x'; 4096])));
        Response::new(Body::from_stream(futures_util::stream::iter(octets)))
    })
    .await;
    deliver(&endless.sink().deadline(PATIENCE), &[event(1, "a")]).await.unwrap();
}

#[tokio::test]
async fn the_id_of_an_event_is_the_same_each_time_and_what_was_accepted_is_not_sent_again() {
    let receiver = Receiver::start(|before, _, _| {
        if before == 1 { StatusCode::SERVICE_UNAVAILABLE.into_response() } else { StatusCode::OK.into_response() }
    })
    .await;
    let sink = receiver.sink();
    let events = [event(1, "a"), event(2, "a"), event(3, "a")];
    assert!(deliver(&sink, &events).await.unwrap_err().is_unavailable());
    deliver(&sink, &events).await.unwrap();
    let ids: Vec<String> = receiver.got().iter().map(|(h, _)| h["webhook-id"].to_str().unwrap().to_owned()).collect();
    assert_eq!(ids, [1, 2, 2, 3].map(event_id));
}

#[tokio::test]
async fn keys_are_served_at_the_same_time() {
    let (arrived, go) = (Arc::new(Mutex::new(0)), Arc::new(Notify::new()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let handler = {
        let (arrived, go) = (Arc::clone(&arrived), Arc::clone(&go));
        // The first answer comes when the request of each key is there.
        move || async move {
            let all = {
                let mut arrived = arrived.lock().unwrap();
                *arrived += 1;
                *arrived == AT_ONCE
            };
            if all {
                go.notify_waiters();
                return;
            }
            go.notified().await;
        }
    };
    let router = Router::new().fallback(handler);
    tokio::spawn(crate::serve(listener, router, crate::ServerConfig::default(), std::future::pending()));
    let events: Vec<AuditEvent> = (1..).take(AT_ONCE).map(|seq| event(seq, &format!("key {seq}"))).collect();
    deliver(&sink(address).deadline(PATIENCE), &events).await.unwrap();
    assert_eq!(*arrived.lock().unwrap(), AT_ONCE);
}

/// A receiver behind TLS: answers each connection's first request.
async fn behind_tls(certificate: &Certificate) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(certificate.shown()));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
            let _ = stream.shutdown().await;
        }
    });
    address
}

#[tokio::test]
async fn https_is_for_whom_an_authority_vouches() {
    let (ours, other) = (Certificate::new(), Certificate::new());
    let address = behind_tls(&ours).await;
    let sink = |tls: ClientConfig| {
        let (target, shown) = target(&format!("https://{address}/hook")).unwrap();
        WebhookSink::with(target, shown, secrets(SECRET), tls)
    };
    deliver(&sink(ours.trusted()), &[event(1, "a")]).await.unwrap();
    for tls in [other.trusted(), tls::none().unwrap()] {
        let error = deliver(&sink(tls), &[event(1, "a")]).await.unwrap_err();
        assert!(error.is_unavailable() && error.message().contains("invalid peer certificate"), "{error}");
    }
    // An authority's word counts for its time and its host alone.
    let authority = Authority::new("CA");
    let trusted = Certificate { certificate: authority.pem(), key: String::new() };
    for (leaf, part) in [
        (Leaf::server(), None),
        (Leaf { valid: Valid::Expired, ..Leaf::server() }, Some("xpired")),
        (Leaf { hosts: &["bank.example"], ..Leaf::server() }, Some("not valid for name")),
        (Leaf::client(), Some("invalid peer certificate")),
    ] {
        let issued = authority.issue(&leaf);
        let address = behind_tls(&Certificate { certificate: issued.certificate, key: issued.key }).await;
        let (target, shown) = target(&format!("https://{address}/hook")).unwrap();
        let sink = WebhookSink::with(target, shown, secrets(SECRET), trusted.trusted());
        match (deliver(&sink, &[event(1, "a")]).await, part) {
            (Ok(()), None) => {}
            (Err(error), Some(part)) => assert!(error.message().contains(part), "{error}"),
            (outcome, part) => panic!("{outcome:?}, not {part:?}"),
        }
    }
    // A server without TLS.
    let error = deliver(
        &{
            let plain = Receiver::answering(200).await.address;
            let (target, shown) = target(&format!("https://{plain}/hook")).unwrap();
            WebhookSink::with(target, shown, secrets(SECRET), ours.trusted())
        },
        &[event(1, "a")],
    )
    .await
    .unwrap_err();
    assert!(error.is_unavailable() && error.message().contains("cannot be reached"), "{error}");
}
