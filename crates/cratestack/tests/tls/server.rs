//! What a server of certificates from files takes and refuses, and how it changes them.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use cratestack::{ClientCertificate, ServerConfig, Tls, TlsFiles, serve};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion, version};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::certificates::{Authority, Issued, Leaf, Valid, write};

/// A running server.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<std::io::Result<()>>,
}

impl Running {
    pub(crate) async fn start(router: Router, config: ServerConfig) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(serve(listener, router, config, async { stopped.await.unwrap_or_default() }));
        Self { address, stop, task }
    }

    pub(crate) async fn stop(self) {
        self.stop.send(()).unwrap();
        self.task.await.unwrap().unwrap();
    }
}

/// Answers with the names of the caller's certificate.
pub(crate) fn whoami() -> Router {
    let answer = |certificate: Option<axum::Extension<ClientCertificate>>| async move {
        let names = certificate.map(|axum::Extension(certificate)| format!("{:?}", certificate.names()));
        format!("{}!", names.unwrap_or_else(|| "nobody".to_owned()))
    };
    Router::new().route("/", get(answer))
}

pub(crate) fn files(folder: &Path, issued: &Issued) -> TlsFiles {
    TlsFiles {
        certificate: write(folder, "server.pem", &issued.certificate),
        key: write(folder, "server.key", &issued.key),
        ..TlsFiles::default()
    }
}

/// A client that trusts `authority`.
pub(crate) fn client(
    authority: &Authority,
    own: Option<&Issued>,
    versions: &[&'static SupportedProtocolVersion],
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(cratestack::crypto::provider())
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    match own {
        None => builder.with_no_client_auth(),
        Some(own) => {
            let chain = CertificateDer::pem_slice_iter(own.certificate.as_bytes()).map(Result::unwrap).collect();
            let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    }
}

pub(crate) const BOTH: &[&SupportedProtocolVersion] = &[&version::TLS13, &version::TLS12];

pub(crate) async fn connect(address: SocketAddr, config: ClientConfig) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost").unwrap(), stream).await
}

/// Asks for `/`, and gives what was answered up to its `!`.
pub(crate) async fn ask(stream: &mut TlsStream<TcpStream>) -> std::io::Result<String> {
    stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await?;
    let mut text = Vec::new();
    while text.last() != Some(&b'!') {
        text.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8(text).unwrap())
}

/// One connection with one request.
pub(crate) async fn once(address: SocketAddr, config: ClientConfig) -> std::io::Result<String> {
    ask(&mut connect(address, config).await?).await
}

fn with(tls: &Tls) -> ServerConfig {
    ServerConfig { tls: Some(tls.clone()), ..ServerConfig::default() }
}

#[tokio::test]
async fn both_versions_and_both_protocols() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new("CA"));
    let tls = Tls::open(files(folder.path(), &authority.issue(&Leaf::server()))).unwrap();
    let server = Running::start(whoami(), with(&tls)).await;
    for version in BOTH {
        assert!(once(server.address, client(&authority, None, &[version])).await.unwrap().ends_with("nobody!"));
        for protocol in ["h2", "http/1.1"] {
            let mut config = client(&authority, None, &[version]);
            config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
            let stream = connect(server.address, config).await.unwrap();
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(protocol.as_bytes()));
            if protocol == "h2" {
                let (client, connection) = h2::client::handshake(stream).await.unwrap();
                tokio::spawn(connection);
                let request = http::Request::get("https://localhost/").body(()).unwrap();
                let (answer, _) = client.ready().await.unwrap().send_request(request, true).unwrap();
                assert_eq!(answer.await.unwrap().status(), 200);
            }
        }
    }
    // Another authority's client trusts it as little as one that asks for another host.
    let error = once(server.address, client(&Authority::new("other"), None, BOTH)).await.unwrap_err();
    assert!(error.to_string().contains("UnknownIssuer"), "{error}");
    server.stop().await;
}

/// The first message of a client that knows nothing newer than TLS 1.1.
fn hello_of_tls_1_1() -> Vec<u8> {
    let mut body = vec![3, 2];
    body.extend([7; 32]);
    body.push(0);
    // ECDHE-RSA and RSA with AES-CBC, which TLS 1.1 has.
    body.extend([0, 4, 0xc0, 0x13, 0x00, 0x2f, 1, 0]);
    let mut message = vec![1, 0];
    message.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
    message.extend(body);
    let mut record = vec![22, 3, 1];
    record.extend(u16::try_from(message.len()).unwrap().to_be_bytes());
    record.extend(message);
    record
}

#[tokio::test]
async fn what_is_no_tls_1_2_or_1_3_is_refused() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new("CA"));
    let tls = Tls::open(files(folder.path(), &authority.issue(&Leaf::server()))).unwrap();
    let config = ServerConfig { handshake_timeout: Duration::from_millis(200), ..with(&tls) };
    let server = Running::start(whoami(), config).await;

    let mut old = TcpStream::connect(server.address).await.unwrap();
    old.write_all(&hello_of_tls_1_1()).await.unwrap();
    let mut alert = Vec::new();
    old.read_to_end(&mut alert).await.unwrap();
    // An alert, fatal, `handshake_failure` or `protocol_version` (RFC 8446, 6.2).
    assert!(matches!(alert[..], [21, _, _, 0, 2, 2, 40 | 70]), "{alert:?}");

    for head in ["GET / HTTP/1.1\r\nhost: localhost\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "P"] {
        let mut plain = TcpStream::connect(server.address).await.unwrap();
        plain.write_all(head.as_bytes()).await.unwrap();
        // Whoever goes on is not listened to for longer than a handshake may take.
        let mut answer = Vec::new();
        let _ = plain.read_to_end(&mut answer).await;
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("this port speaks TLS"), "{answer}");
        assert!(answer.contains("x-request-id: ") && !answer.contains("nobody!"), "{answer}");
    }

    // Who says nothing is not waited for.
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    assert_eq!(silent.read(&mut [0; 1]).await.unwrap_or(0), 0);
    server.stop().await;
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_handshakes() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new("CA"));
    let tls = Tls::open(files(folder.path(), &authority.issue(&Leaf::server()))).unwrap();
    let day = Duration::from_hours(24);
    let server =
        Running::start(whoami(), ServerConfig { handshake_timeout: day, drain_timeout: day, ..with(&tls) }).await;
    let mut slow = TcpStream::connect(server.address).await.unwrap();
    slow.write_all(&[22, 3, 1]).await.unwrap();
    assert!(once(server.address, client(&authority, None, BOTH)).await.is_ok());
    server.stop().await;
    assert_eq!(slow.read(&mut [0; 1]).await.unwrap_or(0), 0);
}

/// As people look at it.
#[tokio::test]
async fn openssl_shows_tls_1_3() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new("CA"));
    let tls = Tls::open(files(folder.path(), &authority.issue(&Leaf::server()))).unwrap();
    let server = Running::start(whoami(), with(&tls)).await;
    let ca = write(folder.path(), "ca.pem", &authority.pem());
    let said = |more: &'static [&'static str]| {
        let (address, ca) = (server.address.to_string(), ca.clone());
        tokio::task::spawn_blocking(move || {
            let output = std::process::Command::new("openssl")
                .args(["s_client", "-brief", "-verify_return_error", "-servername", "localhost"])
                .args(["-verify_hostname", "localhost", "-connect", &address, "-CAfile", ca.to_str().unwrap()])
                .args(more)
                .stdin(std::process::Stdio::null())
                .output()
                .expect("the program `openssl`");
            let text = [output.stdout, output.stderr].concat();
            (output.status.success(), String::from_utf8_lossy(&text).into_owned())
        })
    };
    let (connected, text) = said(&[]).await.unwrap();
    assert!(connected && text.contains("Protocol version: TLSv1.3") && text.contains("Verification: OK"), "{text}");
    let (connected, text) = said(&["-tls1_2"]).await.unwrap();
    assert!(connected && text.contains("Protocol version: TLSv1.2"), "{text}");
    let (connected, text) = said(&["-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"]).await.unwrap();
    assert!(!connected && text.contains("alert handshake failure"), "{text}");
    server.stop().await;
}

#[tokio::test]
async fn certificates_are_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let tls = Tls::open(files(folder.path(), &old.issue(&Leaf::server()))).unwrap();
    let server = Running::start(whoami(), with(&tls)).await;
    let mut kept = connect(server.address, client(&old, None, BOTH)).await.unwrap();
    assert!(ask(&mut kept).await.is_ok());

    // What cannot be used changes nothing.
    write(folder.path(), "server.pem", "nothing");
    let error = tls.reload().unwrap_err();
    assert!(error.to_string().ends_with("has no certificate in PEM form"), "{error}");
    assert!(once(server.address, client(&old, None, BOTH)).await.is_ok());
    let issued = new.issue(&Leaf::server());
    write(folder.path(), "server.pem", &issued.certificate);
    assert!(tls.reload().unwrap_err().to_string().contains("is not that of the certificate"), "the key is the old one");
    assert!(once(server.address, client(&old, None, BOTH)).await.is_ok());

    files(folder.path(), &issued);
    tls.reload().unwrap();
    assert!(once(server.address, client(&old, None, BOTH)).await.is_err());
    assert!(once(server.address, client(&new, None, BOTH)).await.is_ok());
    assert!(ask(&mut kept).await.is_ok(), "a connection that nobody revoked stays");
    server.stop().await;
}

#[test]
fn files_that_are_no_tls() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let authority = Authority::new("CA");
    let (good, other) = (authority.issue(&Leaf::server()), authority.issue(&Leaf::server()));
    let ca = write(path, "ca.pem", &authority.pem());
    let crl = write(path, "crl.pem", &authority.revoking(&[], Valid::Now));
    let no = path.join("no");
    let refused = |change: &dyn Fn(&mut TlsFiles)| {
        let mut files = files(path, &good);
        change(&mut files);
        let error = Tls::open(files).unwrap_err();
        assert!(!error.help().is_empty() && !error.to_string().contains("PRIVATE"), "{error}");
        error.to_string()
    };
    assert!(refused(&|files| files.certificate = no.clone()).starts_with("the server's certificate cannot be read"));
    assert!(refused(&|files| files.certificate = files.key.clone()).ends_with("PEM form; it has a private key"));
    assert!(refused(&|files| files.key = no.clone()).starts_with("the private key cannot be read"));
    assert!(refused(&|files| files.key = files.certificate.clone()).ends_with("PEM form; it has a certificate"));
    assert!(
        refused(&|files| files.key = write(path, "other.key", &other.key)).contains("is not that of the certificate")
    );
    assert!(refused(&|files| files.client_ca = Some(no.clone())).contains("authorities cannot be read"));
    assert!(refused(&|files| files.client_ca = Some(crl.clone())).ends_with("has no certificate in PEM form"));
    assert!(refused(&|files| files.client_crl = Some(crl.clone())).contains("no authority of theirs is named"));
    assert!(refused(&|files| files.client_optional = true).contains("no authority of theirs is named"));
    let lists = |files: &mut TlsFiles| (files.client_ca, files.client_crl) = (Some(ca.clone()), Some(ca.clone()));
    assert!(refused(&lists).ends_with("has no revocation list in PEM form; it has a certificate"));
    // Whoever could be one, or was one.
    for (certificate, part) in [
        (Leaf::client().self_signed().certificate, "is not that of an authority"),
        (authority.issue(&Leaf::client()).certificate, "is not that of an authority"),
        (Authority::valid("old", Valid::Expired).pem(), "has ended on 2021-01-01"),
        (authority.pem() + &Authority::valid("old", Valid::Expired).pem(), "has ended on 2021-01-01"),
    ] {
        let certificate = write(path, "none.pem", &certificate);
        assert!(refused(&|files| files.client_ca = Some(certificate.clone())).contains(part), "{part}");
    }
    let garbled = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let garbled = write(path, "garbled.pem", garbled);
    assert!(refused(&|files| files.client_ca = Some(garbled.clone())).ends_with("is malformed"));
    assert!(refused(&|files| files.certificate = garbled.clone()).ends_with("is malformed"));
    assert!(refused(&|files| files.key = path.to_owned()).ends_with("it is no file of at most 16 MiB"));
    let locked = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    assert!(refused(&|files| files.key = write(path, "locked.key", locked)).ends_with("is encrypted"));
    for (valid, part) in [(Valid::Expired, "has ended on 2021-01-01"), (Valid::Later, "begins on 3900-01-01")] {
        let issued = authority.issue(&Leaf { valid, ..Leaf::server() });
        let certificate = write(path, "untimely.pem", &issued.certificate);
        let key = write(path, "untimely.key", &issued.key);
        assert!(refused(&|files| (files.certificate, files.key) = (certificate.clone(), key.clone())).contains(part));
    }
    let old = write(path, "old.pem", &authority.revoking(&[], Valid::Expired));
    let lists = |files: &mut TlsFiles| (files.client_ca, files.client_crl) = (Some(ca.clone()), Some(old.clone()));
    assert!(refused(&lists).ends_with("is out of date since 2021-01-01"));
}

/// Without the module a server that has to have it does not start, TLS or not.
#[cfg(not(feature = "crypto-aws-lc-rs"))]
#[tokio::test]
async fn a_server_that_needs_the_module_does_not_start_without() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = ServerConfig { require_fips: true, ..ServerConfig::default() };
    let error = serve(listener, whoami(), config, std::future::pending()).await.unwrap_err();
    assert!(error.to_string().starts_with("this build has no FIPS module; build the workspace `fips/`"), "{error}");
}
