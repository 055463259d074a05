//! The crypto of this build is that of the validated module, and what is not is refused.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

#[path = "../../crates/cratestack/tests/support/certificates.rs"]
mod certificates;
#[path = "../../crates/cli/tests/support/mod.rs"]
mod support;

use std::sync::Arc;

use certificates::{Authority, Leaf, write};
use cratestack::crypto::{self, CryptoError, CryptoMode, crypto_status};
use cratestack::{ServerConfig, Tls, TlsFiles, install_fips_crypto_provider, serve};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
use rustls::server::ResolvesServerCertUsingSni;
use rustls::{ClientConfig, RootCertStore};
use support::{Server, run, text};

fn server_config(provider: CryptoProvider) -> rustls::ServerConfig {
    rustls::ServerConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(ResolvesServerCertUsingSni::new()))
}

fn client_config(provider: CryptoProvider) -> ClientConfig {
    ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth()
}

/// A provider with one group that is none of FIPS.
fn beyond() -> CryptoProvider {
    let mut provider = default_provider();
    provider.kx_groups.push(kx_group::X25519);
    assert!(!provider.fips());
    provider
}

/// What a server that needs the module says of a configuration.
async fn refusal(config: rustls::ServerConfig) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = ServerConfig { tls: Some(Tls::from_config(config)), require_fips: true, ..ServerConfig::default() };
    serve(listener, axum::Router::new(), config, std::future::pending()).await.unwrap_err().to_string()
}

#[tokio::test]
async fn the_module_is_the_validated_one_and_downgrades_are_refused() {
    let status = install_fips_crypto_provider().unwrap();
    assert_eq!((status.mode, status.validated), (CryptoMode::Fips, true));
    assert!(status.version.starts_with("3."), "{status}");
    assert_eq!(status, crypto_status());
    assert_eq!(aws_lc_rs::fips_version(), Some(3));
    assert!(CryptoProvider::get_default().unwrap().fips());
    assert_eq!(install_fips_crypto_provider(), Ok(status), "a second call does nothing");

    // What this project makes: of files, and for its clients.
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("CA");
    let issued = authority.issue(&Leaf::server());
    let ca = write(folder.path(), "ca.pem", &authority.pem());
    for client_ca in [None, Some(ca)] {
        let files = TlsFiles {
            certificate: write(folder.path(), "server.pem", &issued.certificate),
            key: write(folder.path(), "server.key", &issued.key),
            client_ca,
            ..TlsFiles::default()
        };
        assert_eq!(Tls::open(files).unwrap().check_fips(), Ok(()));
    }
    assert!(crypto::provider().fips());
    let client = client_config((*crypto::provider()).clone());
    let server = server_config((*crypto::provider()).clone());
    assert!(client.fips() && server.fips());
    assert_eq!((crypto::client(&client), crypto::server(&server)), (Ok(()), Ok(())));

    // Downgrades.
    let (mut weak_server, mut weak_client) = (server.clone(), client.clone());
    (weak_server.require_ems, weak_client.require_ems) = (false, false);
    assert_eq!(crypto::client(&weak_client), Err(CryptoError::NoExtendedMasterSecret("client")));
    assert_eq!(
        refusal(weak_server).await,
        "the TLS configuration of the server allows TLS 1.2 without extended master secret (`require_ems` is false); leave \
         `require_ems` as it is, true"
    );
    assert_eq!(crypto::client(&client_config(beyond())), Err(CryptoError::ConfiguredProvider("client")));
    let said = refusal(server_config(beyond())).await;
    assert!(
        said.starts_with("the TLS configuration of the server uses a crypto provider that is no FIPS one"),
        "{said}"
    );
}

#[test]
fn the_command_says_so_and_serves() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new("CA"));
    let path = folder.path();
    let shown = text(&run(path, &["crypto", "status"]).stdout);
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(lines[..2], ["provider  aws-lc-rs", "mode      fips"]);
    assert!(
        lines[2].starts_with("module    AWS-LC FIPS 3.") && lines[2].ends_with(", FIPS 140-3 validated"),
        "{shown}"
    );

    let issued = authority.issue(&Leaf::server());
    write(path, "ca.pem", &authority.pem());
    write(path, "server.pem", &issued.certificate);
    write(path, "server.key", &issued.key);
    write(path, "notes.cstack", "model Note { id Int @id  @@allow(\"all\", true) }");
    let serve = ["serve", "notes.cstack", "--addr", "127.0.0.1:0", "--database", "sqlite::memory:", "--auth", "none"];
    let keys = ["--tls-cert", "server.pem", "--tls-key", "server.key", "--require-fips"];
    let server = Server::start(path, &[&serve[..], &keys].concat());
    let at = format!("localhost:{}", server.address.port());
    let ready = std::process::Command::new("curl")
        .args(["-s", "--cacert", "ca.pem", &format!("https://{at}/readyz")])
        .current_dir(path)
        .output()
        .unwrap();
    let ready: serde_json::Value = serde_json::from_slice(&ready.stdout).unwrap();
    let crypto = &ready["crypto"];
    assert_eq!((&crypto["provider"], &crypto["mode"]), (&"aws-lc-rs".into(), &"fips".into()), "{ready}");
    assert!(crypto["moduleVersion"].as_str().unwrap().starts_with("3.") && crypto["validated"] == true, "{ready}");

    // Suites that are none of FIPS are not spoken.
    let connects = |more: &[&str]| {
        let mut openssl = std::process::Command::new("openssl");
        openssl.args(["s_client", "-brief", "-connect", &at, "-CAfile", "ca.pem"]).args(more).current_dir(path);
        openssl.stdin(std::process::Stdio::null()).output().unwrap().status.success()
    };
    assert!(connects(&["-tls1_3", "-ciphersuites", "TLS_AES_256_GCM_SHA384"]));
    assert!(!connects(&["-tls1_3", "-ciphersuites", "TLS_CHACHA20_POLY1305_SHA256"]));
    assert!(connects(&["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"]));
    assert!(!connects(&["-tls1_2", "-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305"]));
    assert!(!connects(&["-tls1_3", "-groups", "X25519"]));
    assert!(server.terminate().success());
}
