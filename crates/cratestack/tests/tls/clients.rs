//! Callers that are known by a certificate.

use std::net::SocketAddr;
use std::path::Path;

use axum::body::Body;
use cratestack::engine::json::Json;
use cratestack::engine::{Database, Engine, Options};
use cratestack::{Claims, ClientName, MtlsAuth, NoProcedures, ServerConfig, Tls, TlsFiles};
use http::Request;
use rcgen::ExtendedKeyUsagePurpose;
use rustls::version::{TLS12, TLS13};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tower::ServiceExt as _;

use crate::certificates::{Authority, Issued, Leaf, Valid, write};
use crate::server::{BOTH, Running, ask, client, connect, files, once, whoami};

const PAYMENTS: &str = "[Uri(\"spiffe://bank.example/payments\")]!";

/// A server that asks for certificates of `authority`.
fn asking(folder: &Path, authority: &Authority, change: impl FnOnce(&mut TlsFiles)) -> Tls {
    let mut files = files(folder, &authority.issue(&Leaf::server()));
    files.client_ca = Some(write(folder, "client-ca.pem", &authority.pem()));
    change(&mut files);
    Tls::open(files).unwrap()
}

fn with(tls: &Tls) -> ServerConfig {
    ServerConfig { tls: Some(tls.clone()), ..ServerConfig::default() }
}

async fn refused(address: SocketAddr, authority: &Authority, own: Option<&Issued>) -> bool {
    let mut all = true;
    for version in [&TLS12, &TLS13] {
        all &= once(address, client(authority, own, &[version])).await.is_err();
    }
    all
}

#[tokio::test]
async fn only_valid_certificates_of_a_known_authority_connect() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new("CA"));
    let tls = asking(folder.path(), &authority, |_| {});
    let server = Running::start(whoami(), with(&tls)).await;
    let good = authority.issue(&Leaf::client());
    for version in [&TLS12, &TLS13] {
        let answer = once(server.address, client(&authority, Some(&good), &[version])).await.unwrap();
        assert!(answer.ends_with(PAYMENTS), "{answer}");
    }
    let other = Authority::new("CA");
    let cases = [
        ("none", None),
        ("expired", Some(authority.issue(&Leaf { valid: Valid::Expired, ..Leaf::client() }))),
        ("not valid yet", Some(authority.issue(&Leaf { valid: Valid::Later, ..Leaf::client() }))),
        ("self-signed", Some(Leaf::client().self_signed())),
        ("of an authority with the same name", Some(other.issue(&Leaf::client()))),
        ("of a server", Some(authority.issue(&Leaf { usage: ExtendedKeyUsagePurpose::ServerAuth, ..Leaf::client() }))),
    ];
    for (what, own) in &cases {
        assert!(refused(server.address, &authority, own.as_ref()).await, "{what}");
    }
    server.stop().await;
}

#[tokio::test]
async fn certificates_may_be_optional() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new("CA"));
    let tls = asking(folder.path(), &authority, |files| files.client_optional = true);
    let server = Running::start(whoami(), with(&tls)).await;
    let good = authority.issue(&Leaf::client());
    assert!(once(server.address, client(&authority, None, BOTH)).await.unwrap().ends_with("nobody!"));
    assert!(once(server.address, client(&authority, Some(&good), BOTH)).await.unwrap().ends_with(PAYMENTS));
    let expired = authority.issue(&Leaf { valid: Valid::Expired, ..Leaf::client() });
    assert!(refused(server.address, &authority, Some(&expired)).await);
    server.stop().await;
}

#[tokio::test]
async fn who_is_on_a_list_or_has_no_list_is_refused() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new("CA"));
    let unlisted = Authority::new("another");
    let (good, stolen) = (authority.issue(&Leaf::client()), authority.issue(&Leaf { serial: 66, ..Leaf::client() }));
    let list = |text: &str| write(folder.path(), "crl.pem", text);
    let tls = asking(folder.path(), &authority, |files| {
        files.client_ca = Some(write(folder.path(), "both.pem", &(authority.pem() + &unlisted.pem())));
        files.client_crl = Some(list(&authority.revoking(&[66], Valid::Now)));
    });
    let server = Running::start(whoami(), with(&tls)).await;
    let known = async |own: &Issued| once(server.address, client(&authority, Some(own), BOTH)).await.is_ok();
    assert!(known(&good).await);
    assert!(!known(&stolen).await, "revoked");
    assert!(!known(&unlisted.issue(&Leaf::client())).await, "nobody says whether it was revoked");
    // A list that is too old would let nobody in: the one before stays.
    list(&authority.revoking(&[66], Valid::Expired));
    assert!(tls.reload().unwrap_err().to_string().contains("is out of date"));
    assert!(known(&good).await && !known(&stolen).await);
    list(&authority.revoking(&[2], Valid::Now));
    tls.reload().unwrap();
    assert!(!known(&good).await && known(&stolen).await);
    server.stop().await;
}

/// Whose authority is not in the file any more is gone: from new connections, from those that are open, and from sessions
/// that could be resumed.
#[tokio::test]
async fn what_is_absent_after_a_reload_is_revoked() {
    let folder = tempfile::tempdir().unwrap();
    let (authority, partner) = (Authority::new("CA"), Authority::new("partner"));
    let both = authority.pem() + &partner.pem();
    let tls = asking(folder.path(), &authority, |files| {
        files.client_ca = Some(write(folder.path(), "client-ca.pem", &both));
    });
    let server = Running::start(whoami(), with(&tls)).await;
    let (good, gone) = (authority.issue(&Leaf::client()), partner.issue(&Leaf::client()));
    for version in [&TLS12, &TLS13] {
        let config = client(&authority, Some(&gone), &[version]);
        let mut open = connect(server.address, config.clone()).await.unwrap();
        assert!(ask(&mut open).await.unwrap().ends_with(PAYMENTS));

        write(folder.path(), "client-ca.pem", &authority.pem());
        tls.reload().unwrap();
        assert!(ask(&mut open).await.is_err(), "the open connection has ended");
        assert!(once(server.address, config).await.is_err(), "it may not come back, with a session of before either");
        assert!(once(server.address, client(&authority, Some(&good), &[version])).await.is_ok());

        write(folder.path(), "client-ca.pem", &both);
        tls.reload().unwrap();
    }
    server.stop().await;
}

/// Frames of HTTP/2 (RFC 9113), from a client that does not do its part.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes()[..], payload].concat()
}

/// `GET / ` of `https://localhost`, in HPACK's static table.
const GET: [u8; 14] = [0x82, 0x84, 0x87, 0x41, 9, b'l', b'o', b'c', b'a', b'l', b'h', b'o', b's', b't'];

/// Reads until `part` comes, or the end.
async fn until(stream: &mut (impl tokio::io::AsyncRead + Unpin), part: &str) -> String {
    let (mut seen, mut octets) = (String::new(), [0; 4096]);
    while !seen.contains(part) {
        match stream.read(&mut octets).await {
            Ok(0) | Err(_) => break,
            Ok(count) => seen.push_str(&String::from_utf8_lossy(&octets[..count])),
        }
    }
    seen
}

/// HTTP/2 takes requests until the client has confirmed that the connection ends. One that does not confirm gets no further
/// than one that does.
#[tokio::test]
async fn who_does_not_confirm_the_end_of_http_2_is_out_all_the_same() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new("CA"));
    let tls = asking(folder.path(), &authority, |_| {});
    let config = ServerConfig { drain_timeout: std::time::Duration::from_millis(200), ..with(&tls) };
    let server = Running::start(whoami(), config).await;
    let good = authority.issue(&Leaf::client());
    let mut config = client(&authority, Some(&good), BOTH);
    config.alpn_protocols = vec![b"h2".to_vec()];
    let mut stream = connect(server.address, config).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    stream.write_all(&frame(4, 0, 0, &[])).await.unwrap();
    stream.write_all(&frame(1, 5, 1, &GET)).await.unwrap();
    assert!(until(&mut stream, PAYMENTS).await.ends_with(PAYMENTS));
    tls.reload().unwrap();
    stream.write_all(&frame(1, 5, 3, &GET)).await.unwrap();
    let rest = until(&mut stream, "connect anew").await;
    assert!(rest.contains("connect anew") && rest.contains(r#""status":503"#) && !rest.contains(PAYMENTS), "{rest}");
    // And the connection ends, whatever it goes on with.
    let mut stream_id = 5;
    while stream.write_all(&frame(1, 5, stream_id, &GET)).await.is_ok() {
        let rest = until(&mut stream, "connect anew").await;
        assert!(!rest.contains(PAYMENTS), "{rest}");
        stream_id += 2;
    }
    server.stop().await;
}

/// What was begun before a reload, a handshake or the head of a request, is not finished after it.
#[tokio::test]
async fn what_was_begun_with_an_old_certificate_is_not_finished() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new("CA"));
    let tls = asking(folder.path(), &authority, |_| {});
    let server = Running::start(whoami(), with(&tls)).await;
    let good = authority.issue(&Leaf::client());

    let mut stream = connect(server.address, client(&authority, Some(&good), BOTH)).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nho").await.unwrap();
    stream.flush().await.unwrap();
    tls.reload().unwrap();
    let _ = stream.write_all(b"st: localhost\r\n\r\n").await;
    let rest = until(&mut stream, PAYMENTS).await;
    assert!(!rest.contains(PAYMENTS), "{rest}");

    // By hand, since the certificate is to come late.
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    let config = client(&authority, Some(&good), &[&TLS13]);
    let mut session = rustls::ClientConnection::new(std::sync::Arc::new(config), name).unwrap();
    let mut socket = tokio::net::TcpStream::connect(server.address).await.unwrap();
    let sent = |session: &mut rustls::ClientConnection| {
        let mut octets = Vec::new();
        while session.wants_write() {
            session.write_tls(&mut octets).unwrap();
        }
        octets
    };
    socket.write_all(&sent(&mut session)).await.unwrap();
    let mut octets = [0; 16384];
    while session.is_handshaking() {
        let count = socket.read(&mut octets).await.unwrap();
        session.read_tls(&mut &octets[..count]).unwrap();
        session.process_new_packets().unwrap();
    }
    tls.reload().unwrap();
    std::io::Write::write_all(&mut session.writer(), b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    socket.write_all(&sent(&mut session)).await.unwrap();
    let mut answer = String::new();
    loop {
        let count = socket.read(&mut octets).await.unwrap_or(0);
        if count == 0 {
            break;
        }
        session.read_tls(&mut &octets[..count]).unwrap();
        let state = session.process_new_packets().unwrap();
        let mut plain = vec![0; state.plaintext_bytes_to_read()];
        std::io::Read::read_exact(&mut session.reader(), &mut plain).unwrap();
        answer.push_str(&String::from_utf8(plain).unwrap());
    }
    assert!(!answer.contains(PAYMENTS), "{answer}");
    server.stop().await;
}

const NOTES: &str = r#"
auth Caller { id String @id }
model Note {
  id Int @id
  owner String @default(auth().id)
  @@allow("create", auth() != null)
  @@allow("read", auth() != null)
}
"#;

/// The identity reaches the rules, and an unknown name is nobody's.
#[tokio::test]
async fn rules_know_who_a_certificate_is() {
    let (schema, diagnostics) = cratestack::schema::compile("notes", NOTES);
    let schema = std::sync::Arc::new(schema.unwrap_or_else(|| panic!("{diagnostics:?}")));
    let engine = Engine::open(schema, &Database::SqliteMemory, Options::default()).await.unwrap();
    let auth = MtlsAuth::new(|certificate| {
        let known = certificate.names() == [ClientName::Uri("spiffe://bank.example/payments".to_owned())];
        assert_eq!(certificate.common_name(), None, "names that no constraint binds do not count beside others");
        let id = Json::String(format!("{} {}", certificate.subject(), certificate.serial()));
        known.then(|| Claims(Json::Object(vec![("id".to_owned(), id)])))
    });
    let api = cratestack::router(engine.clone(), NoProcedures).auth(auth).into_router();
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new("CA"));
    let tls = asking(folder.path(), &authority, |files| files.client_optional = true);
    let server = Running::start(api.clone(), with(&tls)).await;

    let post = async |own: Option<&Issued>, id: i32, header: &str| {
        let mut stream = connect(server.address, client(&authority, own, BOTH)).await.unwrap();
        let body = format!("{{\"id\":{id}}}");
        let request = format!(
            "POST /notes HTTP/1.1\r\nhost: localhost\r\n{header}connection: close\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    };
    let good = authority.issue(&Leaf::client());
    let answer = post(Some(&good), 1, "").await;
    assert!(answer.starts_with("HTTP/1.1 201 ") && answer.contains(r#""owner":"CN=payments, O=Bank 02""#), "{answer}");
    let stranger = authority.issue(&Leaf { uri: Some("spiffe://bank.example/cards"), ..Leaf::client() });
    let answer = post(Some(&stranger), 2, "").await;
    assert!(answer.starts_with("HTTP/1.1 401 ") && answer.contains("www-authenticate: ClientCertificate"), "{answer}");
    let answer = post(Some(&good), 3, "authorization: Bearer x\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    assert!(post(None, 4, "").await.starts_with("HTTP/1.1 401 "));

    // A name in a header is no certificate.
    let forged = Request::get("/notes").header("x-client-certificate", "payments").body(Body::empty()).unwrap();
    assert_eq!(api.oneshot(forged).await.unwrap().status(), 401);
    server.stop().await;
    engine.close().await;
}
