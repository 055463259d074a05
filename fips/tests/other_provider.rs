//! Somebody has installed another provider first. A process has one, so that this is a test of its own.

#![allow(clippy::unwrap_used, reason = "tests")]

use cratestack::crypto::CryptoError;
use cratestack::{ServerConfig, install_fips_crypto_provider, serve};
use rustls::crypto::aws_lc_rs::{default_provider, kx_group};

#[tokio::test]
async fn another_provider_that_was_first_is_refused() {
    let mut other = default_provider();
    other.kx_groups.push(kx_group::X25519);
    other.install_default().unwrap();
    assert_eq!(install_fips_crypto_provider(), Err(CryptoError::OtherProvider));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = ServerConfig { require_fips: true, ..ServerConfig::default() };
    let error = serve(listener, axum::Router::new(), config, std::future::pending()).await.unwrap_err().to_string();
    assert_eq!(
        error,
        "another crypto provider, which is no FIPS one, was installed for this process first; call \
         `install_fips_crypto_provider()` first of all in `main`"
    );
}
