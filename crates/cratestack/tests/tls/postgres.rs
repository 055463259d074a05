//! TLS between a service and PostgreSQL: who stands in front of the server is verified, or nothing is said.

use std::sync::Arc;

use cratestack::engine::{Database, Engine, Options};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::certificates::{Authority, Issued, Leaf, Valid, write};
use crate::databases;

const NOTES: &str = "model Note { id Int @id  @@allow(\"all\", true) }";

/// What stands before PostgreSQL and does TLS for it, or does not.
async fn terminator(server: (String, u16), shown: Option<Issued>) -> u16 {
    let acceptor = shown.map(|shown| {
        let chain = CertificateDer::pem_slice_iter(shown.certificate.as_bytes()).map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_slice(shown.key.as_bytes()).unwrap();
        let config = rustls::ServerConfig::builder_with_provider(cratestack::crypto::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let (acceptor, server) = (acceptor.clone(), server.clone());
            tokio::spawn(async move {
                // `SSLRequest` (PostgreSQL's documentation, 55.2.11).
                let mut request = [0; 8];
                client.read_exact(&mut request).await?;
                assert_eq!(request, [0, 0, 0, 8, 4, 210, 22, 47], "the client asks for TLS first");
                let mut server = TcpStream::connect(server).await?;
                let Some(acceptor) = acceptor else {
                    client.write_all(b"N").await?;
                    return copy_bidirectional(&mut client, &mut server).await;
                };
                client.write_all(b"S").await?;
                let mut client = acceptor.accept(client).await?;
                copy_bidirectional(&mut client, &mut server).await
            });
        }
    });
    port
}

#[tokio::test]
async fn the_server_is_verified_when_an_authority_is_given() {
    let schema = Arc::new(cratestack::schema::compile("notes", NOTES).0.unwrap());
    let databases = databases::all(&schema).await;
    let Some(database) = databases.iter().find(|database| database.url.starts_with("postgres")) else {
        assert!(std::env::var("CRATESTACK_TEST_ONLY").is_ok());
        return;
    };
    let options: sqlx::postgres::PgConnectOptions = database.url.parse().unwrap();
    let server = (options.get_host().to_owned(), options.get_port());
    let authority_part = database.url.split("://").nth(1).and_then(|rest| rest.split('/').next()).unwrap();
    let credentials = authority_part.rsplit_once('@').map_or("", |(credentials, _)| credentials);
    let name = options.get_database().unwrap();

    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new("CA"));
    let ca = write(folder.path(), "ca.pem", &authority.pem());
    let open = async |shown: Option<Issued>, host: &str, query: &str| {
        let port = terminator(server.clone(), shown).await;
        let query = query.replace("{ca}", ca.to_str().unwrap());
        let url = format!("postgres://{credentials}@{host}:{port}/{name}{query}");
        match Engine::open(Arc::clone(&schema), &Database::Postgres(url), Options::default()).await {
            Ok(engine) => {
                engine.close().await;
                Ok(())
            }
            Err(error) => Err(error.to_string()),
        }
    };
    let good = authority.issue(&Leaf::server());
    let expired = authority.issue(&Leaf { valid: Valid::Expired, ..Leaf::server() });
    let elsewhere = authority.issue(&Leaf { hosts: &["db.bank.example"], ..Leaf::server() });
    let own = Leaf::server().self_signed();
    let verified = "?sslrootcert={ca}";
    assert_eq!(open(Some(good.clone()), "localhost", verified).await, Ok(()));
    assert_eq!(open(Some(good.clone()), "127.0.0.1", verified).await, Ok(()));
    for (what, shown, part) in [
        ("expired", Some(expired), "xpired"),
        ("another host's", Some(elsewhere), "not valid for"),
        ("self-signed", Some(own.clone()), "UnknownIssuer"),
        ("without TLS", None, "does not support TLS"),
    ] {
        let error = open(shown, "localhost", verified).await.unwrap_err();
        assert!(error.contains(part), "{what}: {error}");
    }
    // What asks for less gets less, and says so.
    assert_eq!(open(Some(own.clone()), "localhost", "?sslmode=require").await, Ok(()));
    assert!(open(None, "localhost", "?sslmode=require").await.unwrap_err().contains("does not support TLS"));
    assert!(open(Some(own), "localhost", "?sslmode=verify-full").await.unwrap_err().contains("UnknownIssuer"));
    // What would not be looked at is refused.
    let error = open(Some(good), "localhost", "?sslmode=require&sslrootcert={ca}").await.unwrap_err();
    assert!(error.contains("nobody would be verified by it"), "{error}");
}
