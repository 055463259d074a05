//! The sink against servers of its own: `CRATESTACK_TEST_NATS` names the program `nats-server`.

use std::fs;
use std::process::{Child, Command, Stdio};

use async_nats::jetstream::stream;

use super::*;
use crate::sinks::testing::{Certificate, event, event_id};

/// How long something may take in real time before the test has failed.
const PATIENCE: Duration = Duration::from_secs(60);

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it takes too long")
}

/// A server with JetStream in a folder of its own; it ends with the value.
struct Server {
    folder: tempfile::TempDir,
    flags: Vec<String>,
    port: u16,
    child: Option<Child>,
}

impl Server {
    /// `None` when only SQLite is to be tested; a missing program is a failure, never a silent skip.
    async fn start(flags: &[&str]) -> Option<Self> {
        if std::env::var("CRATESTACK_TEST_ONLY").is_ok_and(|only| only == "sqlite") {
            return None;
        }
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let mut server = Self { folder: tempfile::tempdir().unwrap(), flags, port: 0, child: None };
        server.run().await;
        Some(server)
    }

    /// Runs it on a free port, or on the one that it had.
    async fn run(&mut self) {
        let program = std::env::var("CRATESTACK_TEST_NATS")
            .expect("set CRATESTACK_TEST_NATS to the program `nats-server`, or CRATESTACK_TEST_ONLY=sqlite");
        let ports = self.folder.path().join("ports");
        fs::remove_dir_all(&ports).ok();
        fs::create_dir(&ports).unwrap();
        let port = if self.port == 0 { "-1".to_owned() } else { self.port.to_string() };
        let child = Command::new(program)
            .args(["-js", "-a", "127.0.0.1", "-p", &port, "-sd"])
            .arg(self.folder.path().join("store"))
            .arg("--ports_file_dir")
            .arg(&ports)
            .args(&self.flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let file = ports.join(format!("nats-server_{}.ports", child.id()));
        self.child = Some(child);
        // The server writes its ports when it is ready: `{"nats":["nats://127.0.0.1:34567"],..}`.
        let port = async {
            loop {
                let text = fs::read_to_string(&file).unwrap_or_default();
                let port = text.split("127.0.0.1:").nth(1).and_then(|rest| rest.split('"').next()?.parse().ok());
                match port {
                    Some(port) => return port,
                    None => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        };
        self.port = soon(port).await;
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    fn sink(&self) -> NatsSink {
        NatsSink::new(&self.url(), "bank.audit").unwrap().deadline(Duration::from_secs(10))
    }

    /// A stream that takes `subjects`.
    async fn stream(&self, subjects: &str) -> stream::Stream {
        let config =
            stream::Config { name: "AUDIT".to_owned(), subjects: vec![subjects.to_owned()], ..Default::default() };
        self.made(config).await
    }

    async fn made(&self, config: stream::Config) -> stream::Stream {
        let client = async_nats::connect(self.url()).await.unwrap();
        jetstream::new(client).get_or_create_stream(config).await.unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Subject, id and payload of each message.
async fn messages(stream: &mut stream::Stream) -> Vec<(String, String, String)> {
    let last = stream.info().await.unwrap().state.last_sequence;
    let mut messages = Vec::new();
    for sequence in 1..=last {
        let message = stream.get_raw_message(sequence).await.unwrap();
        let id = message.headers.get("Nats-Msg-Id").unwrap().to_string();
        messages.push((message.subject.to_string(), id, String::from_utf8(message.payload.to_vec()).unwrap()));
    }
    messages
}

async fn deliver(sink: &NatsSink, events: &[AuditEvent]) -> Result<(), SinkError> {
    soon(sink.deliver(events)).await
}

/// Delivers as the relay does: again, while the sink is unavailable.
async fn deliver_in_the_end(sink: &NatsSink, events: &[AuditEvent]) {
    let tries = async {
        while let Err(error) = sink.deliver(events).await {
            assert!(error.is_unavailable(), "{error}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    soon(tries).await;
}

#[tokio::test]
async fn events_are_messages_with_their_ids() {
    let Some(server) = Server::start(&[]).await else { return };
    let mut stream = server.stream("bank.audit.>").await;
    let sink = server.sink();
    assert_eq!(sink.name(), "nats");
    let other = AuditEvent { model: "Customer".to_owned(), ..event(3, "a") };
    deliver(&sink, &[event(1, "a"), event(2, "a"), other.clone()]).await.unwrap();
    let mut got = messages(&mut stream).await;
    let message =
        |event: &AuditEvent| (format!("bank.audit.{}", event.model), event_id(event.seq), event.entry.clone());
    // Of one key in order; between keys there is none.
    got.sort_by_key(|(_, id, _)| id.clone());
    assert_eq!(got, [message(&event(1, "a")), message(&event(2, "a")), message(&other)]);
}

#[tokio::test]
async fn the_stream_drops_repeated_events() {
    let Some(server) = Server::start(&[]).await else { return };
    let mut stream = server.stream("bank.audit.*").await;
    let events: Vec<AuditEvent> = (1..=300).map(|seq| event(seq, &format!("key {}", seq % 200))).collect();
    // Another process took over and does not know what was delivered.
    for _ in 0..2 {
        deliver(&server.sink(), &events).await.unwrap();
    }
    let got = messages(&mut stream).await;
    assert_eq!(got.len(), 300);
    let place = |seq: i64| got.iter().position(|(_, id, _)| *id == event_id(seq)).unwrap();
    assert!((1..=100).all(|seq| place(seq) < place(seq + 200)), "events of one key are in order");
}

#[tokio::test]
async fn a_missing_stream_is_named_and_waited_for() {
    let Some(server) = Server::start(&[]).await else { return };
    let sink = server.sink();
    let error = deliver(&sink, &[event(1, "a")]).await.unwrap_err();
    assert!(error.is_unavailable());
    let shown = server.url();
    assert_eq!(
        error.message(),
        format!("NATS at `{shown}`: no stream takes the subject `bank.audit.Account`; let one take `bank.audit.>`")
    );
    let mut stream = server.stream("bank.audit.>").await;
    deliver(&sink, &[event(1, "a")]).await.unwrap();
    assert_eq!(messages(&mut stream).await.len(), 1);
}

#[tokio::test]
async fn a_stream_that_takes_no_event_of_this_size_refuses_it() {
    let Some(server) = Server::start(&[]).await else { return };
    let config = stream::Config {
        name: "AUDIT".to_owned(),
        subjects: vec!["bank.audit.>".to_owned()],
        max_message_size: 16,
        ..Default::default()
    };
    server.made(config).await;
    let error = deliver(&server.sink(), &[event(1, "a")]).await.unwrap_err();
    assert!(!error.is_unavailable());
    assert_eq!(error.message(), "the event is larger than the stream of `bank.audit.Account` takes");
}

#[tokio::test]
async fn a_full_stream_is_unavailable() {
    let Some(server) = Server::start(&[]).await else { return };
    let config = stream::Config {
        name: "AUDIT".to_owned(),
        subjects: vec!["bank.audit.>".to_owned()],
        max_messages: 1,
        discard: stream::DiscardPolicy::New,
        ..Default::default()
    };
    let mut stream = server.made(config).await;
    let sink = server.sink();
    let error = deliver(&sink, &[event(1, "a"), event(2, "a")]).await.unwrap_err();
    assert!(error.is_unavailable() && error.message().contains("error 10077"), "{error}");
    stream.purge().await.unwrap();
    deliver(&sink, &[event(1, "a"), event(2, "a")]).await.unwrap();
    assert_eq!(stream.info().await.unwrap().state.messages, 1, "the first was not sent again");
}

#[tokio::test]
async fn a_server_that_restarts_is_found_again() {
    let Some(mut server) = Server::start(&[]).await else { return };
    server.stream("bank.audit.>").await;
    // The connection may be lost before the client sees it: then the acknowledgement does not come.
    let sink = server.sink().deadline(Duration::from_millis(500));
    deliver_in_the_end(&sink, &[event(1, "a")]).await;
    server.kill();
    let error = deliver(&sink, &[event(2, "a")]).await.unwrap_err();
    assert!(error.is_unavailable(), "{error}");
    server.run().await;
    deliver_in_the_end(&sink, &[event(2, "a"), event(3, "a")]).await;
    let got = messages(&mut server.stream("bank.audit.>").await).await;
    assert_eq!(got.iter().map(|(_, id, _)| id.clone()).collect::<Vec<_>>(), [1, 2, 3].map(event_id));
}

#[tokio::test]
async fn a_server_that_is_not_there_yet_is_waited_for() {
    let Some(mut server) = Server::start(&[]).await else { return };
    server.stream("bank.audit.>").await;
    server.kill();
    let sink = server.sink();
    let error = deliver(&sink, &[event(1, "a")]).await.unwrap_err();
    assert!(error.is_unavailable() && error.message().contains("no connection"), "{error}");
    server.run().await;
    deliver_in_the_end(&sink, &[event(1, "a")]).await;
}

#[tokio::test]
async fn credentials_come_from_the_url_and_are_never_shown() {
    let Some(server) = Server::start(&["--user", "ann", "--pass", "p@ss word"]).await else { return };
    let url = |login: &str| format!("nats://{login}127.0.0.1:{}", server.port);
    let sink = |login: &str| NatsSink::new(&url(login), "bank.audit").unwrap();
    // It gets as far as to miss the stream.
    let error = deliver(&sink("ann:p%40ss%20word@"), &[event(1, "a")]).await.unwrap_err();
    assert!(error.message().contains("no stream takes"), "{error}");
    for login in ["", "ann:wrong@", "wrong@"] {
        let sink = sink(login);
        let error = deliver(&sink, &[event(1, "a")]).await.unwrap_err();
        assert!(error.is_unavailable(), "{error}");
        assert!(error.message().contains("authorization violation") && !error.message().contains("wrong"), "{error}");
        assert!(!format!("{sink:?}").contains("wrong"));
    }
}

#[tokio::test]
async fn tls_is_for_whom_an_authority_vouches() {
    let certificate = Certificate::new();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (shown, key) = (file("certificate", &certificate.certificate), file("key", &certificate.key));
    let Some(server) = Server::start(&["--tls", "--tlscert", &shown, "--tlskey", &key]).await else { return };
    // Also where the URL does not ask for it.
    for scheme in ["tls", "nats"] {
        let sink = |tls| {
            let (servers, login) = servers(&format!("{scheme}://127.0.0.1:{}", server.port)).unwrap();
            NatsSink::with(servers, login, "bank.audit", Some(tls))
        };
        let error = deliver(&sink(certificate.trusted()), &[event(1, "a")]).await.unwrap_err();
        assert!(error.message().contains("no stream takes"), "{error}");
        let error = deliver(&sink(Certificate::new().trusted()), &[event(1, "a")]).await.unwrap_err();
        assert!(error.is_unavailable() && error.message().contains("no connection"), "{error}");
    }
}

#[test]
fn urls_and_subjects_are_checked() {
    let check =
        |urls: &str, subject: &str| NatsSink::new(urls, subject).map(|sink| sink.shown).map_err(|e| e.to_string());
    assert_eq!(check("nats://10.0.0.1", "a").unwrap(), "`nats://10.0.0.1:4222`");
    assert_eq!(
        check("nats://ann:secret@n1:1,nats://ann:secret@n2:2, n3:3", "bank.audit-1.x_y").unwrap(),
        "`nats://n1:1`, `nats://n2:2`, `nats://n3:3`"
    );
    for (urls, error) in [
        ("", "a URL of NATS has another scheme than `nats` or `tls`, or no host"),
        ("nats://", "a URL of NATS has another scheme than `nats` or `tls`, or no host"),
        ("http://n1", "a URL of NATS is none"),
        ("ws://n1", "a URL of NATS has another scheme than `nats` or `tls`, or no host"),
        ("nats://secret@n1,nats://other@n2", "a URL of NATS has other credentials than the one before it"),
    ] {
        assert_eq!(check(urls, "a").unwrap_err(), error, "{urls}");
    }
    for subject in ["", ".", "a.", ".a", "a..b", "a.*", "a.>", "a b", "$SYS.a", "ä", &"a".repeat(201)] {
        assert!(check("nats://n1", subject).is_err(), "{subject}");
    }
}

#[tokio::test]
async fn a_model_whose_name_is_no_word_is_refused() {
    let Some(server) = Server::start(&[]).await else { return };
    for model in ["a.b", "*", ">", "", "a b"] {
        let error =
            deliver(&server.sink(), &[AuditEvent { model: model.to_owned(), ..event(1, "a") }]).await.unwrap_err();
        assert!(!error.is_unavailable());
    }
}
