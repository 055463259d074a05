//! HTTP/2 without TLS and with prior knowledge, as a proxy speaks it to `serve`: the bounds, and that one connection's
//! misbehaviour is its own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs, reason = "tests")]

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use cratestack::engine::{Database, Engine, Options};
use cratestack::{NoProcedures, ServerConfig, router, serve};
use h2::client::{ResponseFuture, SendRequest};
use http::{Request, StatusCode, Version};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;

const SCHEMA: &str = "model Note {\n  id   Int    @id\n  text String\n\n  @@allow(\"all\", true)\n}\n";

struct Running {
    addr: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<std::io::Result<()>>,
    begun: Arc<Notify>,
    go: Arc<Notify>,
}

/// The notes at `/api`, and `/slow`, which says that it has begun and waits for a word.
async fn start(config: ServerConfig) -> Running {
    let (schema, _) = cratestack::schema::compile("notes", SCHEMA);
    let engine = Engine::open(Arc::new(schema.unwrap()), &Database::SqliteMemory, Options::default()).await.unwrap();
    let (begun, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let slow = {
        let (begun, go) = (Arc::clone(&begun), Arc::clone(&go));
        move || async move {
            begun.notify_one();
            go.notified().await;
            "done"
        }
    };
    let app =
        Router::new().nest("/api", router(engine, NoProcedures).into_router()).route("/slow", axum::routing::get(slow));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(serve(listener, app, config, async { stopped.await.unwrap_or_default() }));
    Running { addr, stop, task, begun, go }
}

type Connection = JoinHandle<Result<(), h2::Error>>;

async fn connect(addr: SocketAddr) -> (SendRequest<Bytes>, Connection) {
    let stream = TcpStream::connect(addr).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    (client, tokio::spawn(connection))
}

fn request(method: &str, path: &str) -> http::request::Builder {
    Request::builder().method(method).uri(format!("http://notes.example{path}")).version(Version::HTTP_2)
}

async fn read(answer: ResponseFuture) -> (StatusCode, String) {
    let (head, mut body) = answer.await.unwrap().into_parts();
    let mut text = Vec::new();
    while let Some(data) = body.data().await {
        let data = data.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        text.extend_from_slice(&data);
    }
    (head.status, String::from_utf8(text).unwrap())
}

async fn get(client: &SendRequest<Bytes>, path: &str) -> (StatusCode, String) {
    let mut client = client.clone().ready().await.unwrap();
    let (answer, _) = client.send_request(request("GET", path).body(()).unwrap(), true).unwrap();
    read(answer).await
}

#[tokio::test]
async fn the_api_is_the_same() {
    let server = start(ServerConfig::default()).await;
    let (client, _connection) = connect(server.addr).await;
    let mut client = client.ready().await.unwrap();
    let create = request("POST", "/api/notes").header("content-type", "application/json").body(()).unwrap();
    let (answer, mut body) = client.send_request(create, false).unwrap();
    body.send_data(Bytes::from_static(br#"{"id":1,"text":"x"}"#), true).unwrap();
    assert_eq!(read(answer).await, (StatusCode::CREATED, r#"{"id":1,"text":"x"}"#.to_owned()));
    assert_eq!(get(&client, "/api/notes/1").await, (StatusCode::OK, r#"{"id":1,"text":"x"}"#.to_owned()));
    // Many at once, on one connection.
    let several = (0..100).map(|_| get(&client, "/api/notes"));
    for (status, body) in futures_util::future::join_all(several).await {
        assert_eq!((status, body.as_str()), (StatusCode::OK, r#"{"items":[{"id":1,"text":"x"}],"next":null}"#));
    }
    // A `Host` must not say otherwise than `:authority`.
    for (hosts, status) in [(vec!["notes.example"], 200), (vec!["other"], 400), (vec!["notes.example"; 2], 400)] {
        let head = hosts.into_iter().fold(request("GET", "/api/notes"), |head, host| head.header("host", host));
        let mut client = client.clone().ready().await.unwrap();
        let (answer, _) = client.send_request(head.body(()).unwrap(), true).unwrap();
        assert_eq!(read(answer).await.0, status);
    }
}

#[tokio::test]
async fn what_one_connection_may_ask_has_bounds() {
    let config = ServerConfig { streams: 7, ..ServerConfig::default() };
    let server = start(config).await;
    let (client, _connection) = connect(server.addr).await;
    assert_eq!(get(&client, "/api/notes").await.0, StatusCode::OK);
    assert_eq!(client.current_max_send_streams(), 7);
    // A list of fields over the router's limit is a problem; one over the server's a plain 431.
    for (octets, problem) in [(40 * 1024, true), (200 * 1024, false)] {
        let mut client = client.clone().ready().await.unwrap();
        let head = (0..octets / 1024)
            .fold(request("GET", "/api/notes"), |head, at| head.header(format!("x-{at}"), "y".repeat(1024)));
        let (answer, _) = client.send_request(head.body(()).unwrap(), true).unwrap();
        let (status, body) = read(answer).await;
        assert_eq!((status.as_u16(), body.contains("headers_too_large")), (431, problem), "{body}");
    }
    assert_eq!(get(&client, "/api/notes").await.0, StatusCode::OK, "the connection lives on");
}

/// One frame without padding or priority.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

#[tokio::test]
async fn rapid_resets_end_their_connection_and_nothing_else() {
    const GOAWAY: u8 = 7;
    const ENHANCE_YOUR_CALM: [u8; 4] = [0, 0, 0, 11];
    let server = start(ServerConfig::default()).await;
    let (other, _connection) = connect(server.addr).await;
    let (mut reading, mut writing) = TcpStream::connect(server.addr).await.unwrap().into_split();
    // `GET / http x`, sent whole and taken back at once; a client library would not send it at all.
    let head = [0x82, 0x86, 0x84, 0x41, 1, b'x'];
    let attack = (0..10_000)
        .map(|at| 2 * at + 1)
        .flat_map(|stream| [frame(1, 0x5, stream, &head), frame(3, 0, stream, &8_u32.to_be_bytes())].concat());
    let hello = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(4, 0, 0, &[])].concat();
    let bytes: Vec<u8> = hello.into_iter().chain(attack).collect();
    let write = tokio::spawn(async move {
        // The server may have closed in the middle.
        let _sent = writing.write_all(&bytes).await;
        writing
    });
    let mut heard = Vec::new();
    // A reset behind the last frame is an end, too.
    let _ended = reading.read_to_end(&mut heard).await;
    let mut rest = heard.as_slice();
    let mut reason = None;
    while let Some((head, behind)) = rest.split_at_checked(9) {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let Some((payload, behind)) = behind.split_at_checked(length) else { break };
        if head[3] == GOAWAY {
            reason = Some(payload[4..8].to_vec());
        }
        rest = behind;
    }
    assert_eq!(reason.as_deref(), Some(&ENHANCE_YOUR_CALM[..]), "{} octets", heard.len());
    drop(write.await.unwrap());
    assert_eq!(get(&other, "/api/notes").await.0, StatusCode::OK);
    server.stop.send(()).unwrap();
    drop(other);
    server.task.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_shutdown_waits_for_streams_under_way_and_takes_no_more() {
    let server = start(ServerConfig::default()).await;
    let (client, connection) = connect(server.addr).await;
    let mut sender = client.clone().ready().await.unwrap();
    let (answer, _) = sender.send_request(request("GET", "/slow").body(()).unwrap(), true).unwrap();
    let (idle, closed) = connect(server.addr).await;
    server.begun.notified().await;
    server.stop.send(()).unwrap();
    // The idle connection is told to go away, and goes.
    drop(idle);
    closed.await.unwrap().unwrap();
    assert!(!server.task.is_finished());
    server.go.notify_one();
    assert_eq!(read(answer).await, (StatusCode::OK, "done".to_owned()));
    assert!(client.ready().await.is_err(), "no more streams on a connection that goes away");
    drop(sender);
    assert!(connection.await.unwrap().is_ok());
    server.task.await.unwrap().unwrap();
}
