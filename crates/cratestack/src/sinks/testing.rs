//! Events and certificates for tests of sinks.

use cratestack_engine::relay::{AUDIT, AuditEvent};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::tls;

#[path = "../../tests/support/certificates.rs"]
pub(super) mod certificates;

/// A certificate of `127.0.0.1` with its key, by an authority that nobody knows.
pub(super) struct Certificate {
    /// In PEM.
    pub(super) certificate: String,
    /// In PEM.
    pub(super) key: String,
}

impl Certificate {
    /// A fresh one.
    pub(super) fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        Self { certificate: made.cert.pem(), key: made.signing_key.serialize_pem() }
    }

    fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.certificate.as_bytes()).unwrap()
    }

    /// For a client that trusts it.
    pub(super) fn trusted(&self) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.der()).unwrap();
        tls::with(roots).unwrap()
    }

    /// For a server that shows it.
    pub(super) fn shown(&self) -> rustls::ServerConfig {
        let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap();
        rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![self.der()], key)
            .unwrap()
    }
}

/// An event of the model `Account`, with the canonical form's members that matter here.
pub(super) fn event(seq: i64, key: &str) -> AuditEvent {
    let entry = format!(
        r#"{{"event_id":"{}","model":"Account","primary_key":"{key}","typ":"audit.event","v":1}}"#,
        event_id(seq)
    );
    AuditEvent { log: &AUDIT, seq, model: "Account".to_owned(), primary_key: key.to_owned(), entry }
}

/// The id of that event.
pub(super) fn event_id(seq: i64) -> String {
    format!("01890000-0000-7000-8000-{seq:012x}")
}
