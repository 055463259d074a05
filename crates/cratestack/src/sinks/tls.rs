//! TLS towards sinks: rustls on aws-lc-rs, which is the one crypto provider of everything, and the certificate
//! authorities that the machine trusts.

use rustls::{ClientConfig, RootCertStore};

use super::SetupError;
use crate::crypto;

/// TLS 1.2 and 1.3, without a certificate of our own. Reads the machine's certificate authorities (`SSL_CERT_FILE` and
/// `SSL_CERT_DIR` where they are set) once.
pub(super) fn config() -> Result<ClientConfig, SetupError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        return Err(SetupError::new(
            "this machine trusts no certificate authority, so that no TLS server can be verified",
            "install the package `ca-certificates`, or name a PEM file in `SSL_CERT_FILE`",
        ));
    }
    with(roots)
}

/// For a client that makes no TLS connection: it trusts nobody, and so needs nothing of the machine.
pub(super) fn none() -> Result<ClientConfig, SetupError> {
    with(RootCertStore::empty())
}

/// Trusts `roots` alone.
pub(super) fn with(roots: RootCertStore) -> Result<ClientConfig, SetupError> {
    let config = ClientConfig::builder_with_provider(crypto::provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| SetupError::new(format!("TLS cannot be set up: {error}"), "use a build with aws-lc-rs"))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}
