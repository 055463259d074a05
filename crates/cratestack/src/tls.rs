//! TLS of the server: certificates from files, which are read again on demand, and callers that are known by a certificate.
//!
//! [`Tls::open`] takes PEM files; [`serve`](crate::serve) accepts connections with it when it is in
//! [`ServerConfig::tls`](crate::ServerConfig::tls). TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1. With authorities for clients every
//! connection needs a certificate of theirs (unless [`TlsFiles::client_optional`]), and handlers and the
//! [`AuthProvider`](crate::AuthProvider) find it as a [`ClientCertificate`] in the extensions of the request.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use aws_lc_rs::digest;
use cratestack_schema::hex;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use tokio::sync::watch;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::crypto::{self, CryptoError};

/// The files of a server's TLS, all of them PEM.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsFiles {
    /// The server's certificate, and behind it those between it and the authority.
    pub certificate: PathBuf,
    /// The certificate's private key (PKCS#8, PKCS#1 or SEC1).
    pub key: PathBuf,
    /// Certificates of the authorities whose clients may connect. Without it nobody is asked for a certificate.
    pub client_ca: Option<PathBuf>,
    /// Revocation lists of those authorities. With it, a certificate whose authority has no list here, or one that has expired,
    /// is refused.
    pub client_crl: Option<PathBuf>,
    /// Lets clients without a certificate connect too.
    pub client_optional: bool,
}

/// Why TLS cannot be set up: a sentence, and what to do. Nothing of a private key is in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct TlsError {
    message: String,
    help: &'static str,
}

impl TlsError {
    fn new(message: String, help: &'static str) -> Self {
        Self { message, help }
    }

    /// What to do about it.
    #[must_use]
    pub fn help(&self) -> &'static str {
        self.help
    }
}

/// What connections are accepted with. Clones share it.
#[derive(Clone)]
pub struct Tls {
    shared: Arc<Shared>,
}

struct Shared {
    /// `None` for a configuration of the host's own.
    files: Option<TlsFiles>,
    current: RwLock<Arc<ServerConfig>>,
    /// Which configuration it is, counted from 0.
    generation: watch::Sender<u64>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("files", &self.shared.files).finish_non_exhaustive()
    }
}

/// Two are equal when they are clones of one.
impl PartialEq for Tls {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }
}

impl Eq for Tls {}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// When one cannot be read or is not what it should be, or the key is another certificate's.
    pub fn open(files: TlsFiles) -> Result<Self, TlsError> {
        let config = configured(&files)?;
        Ok(Self::with(Some(files), config))
    }

    /// A configuration of the host's own; its `alpn_protocols` should be `h2` and `http/1.1`. [`Self::reload`] has nothing to
    /// read then.
    #[must_use]
    pub fn from_config(config: ServerConfig) -> Self {
        Self::with(None, config)
    }

    fn with(files: Option<TlsFiles>, config: ServerConfig) -> Self {
        let current = RwLock::new(Arc::new(config));
        Self { shared: Arc::new(Shared { files, current, generation: watch::Sender::new(0) }) }
    }

    /// Reads the files again, for connections from now on. Where clients have certificates, connections that were made
    /// before end after the requests under way, so that what is no longer trusted is gone.
    ///
    /// # Errors
    /// As for [`Self::open`]; what was there stays.
    pub fn reload(&self) -> Result<(), TlsError> {
        let Some(files) = &self.shared.files else { return Ok(()) };
        let config = configured(files)?;
        *self.shared.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
        if files.client_ca.is_some() {
            self.shared.generation.send_modify(|generation| *generation += 1);
        }
        Ok(())
    }

    /// The configuration of the next connection, and what tells when it is over.
    pub(crate) fn current(&self) -> (Arc<ServerConfig>, watch::Receiver<u64>) {
        // In this order: a change in between ends the connection, rather than leaving it.
        let over = self.shared.generation.subscribe();
        let config = Arc::clone(&self.shared.current.read().unwrap_or_else(PoisonError::into_inner));
        (config, over)
    }

    /// Whether FIPS allows the configuration.
    ///
    /// # Errors
    /// When it does not, and why.
    pub fn check_fips(&self) -> Result<(), CryptoError> {
        crypto::server(&self.current().0)
    }
}

/// The configuration that the files make.
fn configured(files: &TlsFiles) -> Result<ServerConfig, TlsError> {
    let chain = certificates(&files.certificate, "the server's certificate")?;
    let key = PrivateKeyDer::from_pem_slice(&read(&files.key, "the private key")?).map_err(|_| {
        let message = format!("the file `{}` has no private key in PEM form", files.key.display());
        TlsError::new(message, "an encrypted key has to be decrypted first: `openssl pkey -in KEY -out PLAIN`")
    })?;
    let builder = ServerConfig::builder_with_provider(crypto::provider()).with_safe_default_protocol_versions();
    let builder =
        builder.map_err(|error| TlsError::new(format!("TLS cannot be set up: {error}"), "use another build"))?;
    let asked = files.client_ca.is_some();
    let builder = match verifier(files)? {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| {
        let message = format!("the certificate `{}` cannot be used: {error}", files.certificate.display());
        TlsError::new(message, "is the key that of the first certificate of the file?")
    })?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    if asked {
        // A session that is resumed shows no certificate: it could have expired or been revoked in the meantime.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok(config)
}

fn verifier(files: &TlsFiles) -> Result<Option<Arc<dyn rustls::server::danger::ClientCertVerifier>>, TlsError> {
    let Some(path) = &files.client_ca else {
        if files.client_crl.is_some() || files.client_optional {
            let message =
                "revocation lists and optional certificates are of clients, and no authority of theirs is named";
            return Err(TlsError::new(
                message.to_owned(),
                "name the file with the certificates of the authorities too",
            ));
        }
        return Ok(None);
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path, "the certificates of the clients' authorities")? {
        roots.add(certificate).map_err(|error| {
            let message = format!("a certificate of `{}` cannot be an authority: {error}", path.display());
            TlsError::new(message, "name a file with the certificates of authorities, not of clients")
        })?;
    }
    let mut verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), crypto::provider());
    if let Some(path) = &files.client_crl {
        let text = read(path, "the revocation lists")?;
        let lists: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&text).collect();
        let lists = lists.ok().filter(|lists| !lists.is_empty()).ok_or_else(|| {
            let message = format!("the file `{}` has no revocation list in PEM form", path.display());
            TlsError::new(message, "`openssl crl -inform DER -in LIST -out LIST.pem` makes one of a list in DER form")
        })?;
        verifier = verifier.with_crls(lists).enforce_revocation_expiration();
    }
    if files.client_optional {
        verifier = verifier.allow_unauthenticated();
    }
    let verifier = verifier.build().map_err(|error| {
        let message = format!("clients cannot be verified by `{}`: {error}", path.display());
        TlsError::new(message, "name a file with certificates of authorities, in PEM form")
    })?;
    Ok(Some(verifier))
}

fn read(path: &Path, what: &str) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|error| {
        let message = format!("{what} cannot be read from `{}`: {}", path.display(), error.kind());
        TlsError::new(message, "check the path, and that this user may read the file")
    })
}

fn certificates(path: &Path, what: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read(path, what)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    all.ok().filter(|all| !all.is_empty()).ok_or_else(|| {
        let message = format!("the file `{}` has no certificate in PEM form", path.display());
        TlsError::new(
            message,
            "`openssl x509 -inform DER -in CERT -out CERT.pem` makes one of a certificate in DER form",
        )
    })
}

/// A name of a certificate's owner (`subjectAltName`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ClientName {
    /// A host.
    Dns(String),
    /// A URI, such as a SPIFFE ID.
    Uri(String),
    /// An address of electronic mail.
    Email(String),
}

/// The certificate of a caller: verified against the server's authorities, and the caller has proved to own its key. In the
/// extensions of a request over mTLS; clones share it.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    parsed: Arc<Parsed>,
}

#[derive(PartialEq, Eq)]
struct Parsed {
    der: Vec<u8>,
    subject: String,
    common_name: Option<String>,
    names: Vec<ClientName>,
    serial: String,
    fingerprint: String,
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCertificate").field("fingerprint", &self.parsed.fingerprint).finish_non_exhaustive()
    }
}

impl ClientCertificate {
    /// Reads a certificate in DER form. `None` when it is none, or its names are no text.
    pub(crate) fn parse(der: &[u8]) -> Option<Self> {
        let (rest, certificate) = X509Certificate::from_der(der).ok()?;
        if !rest.is_empty() {
            return None;
        }
        let alternative = certificate.subject_alternative_name().ok()?;
        let names = alternative.iter().flat_map(|extension| &extension.value.general_names);
        let names = names.filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(ClientName::Dns((*name).to_owned())),
            GeneralName::URI(name) => Some(ClientName::Uri((*name).to_owned())),
            GeneralName::RFC822Name(name) => Some(ClientName::Email((*name).to_owned())),
            _ => None,
        });
        let mut common_names = certificate.subject().iter_common_name();
        // Which of several is meant nobody can tell.
        let common_name = match (common_names.next(), common_names.next()) {
            (Some(name), None) => name.as_str().ok().map(str::to_owned),
            _ => None,
        };
        Some(Self {
            parsed: Arc::new(Parsed {
                names: names.collect(),
                subject: certificate.subject().to_string(),
                common_name,
                serial: hex(certificate.raw_serial()),
                fingerprint: hex(digest::digest(&digest::SHA256, der).as_ref()),
                der: der.to_vec(),
            }),
        })
    }

    /// The whole certificate.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.parsed.der
    }

    /// The subject as text: `C=DE, O=Bank, CN=payments`. For people; programs compare [`Self::names`].
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.parsed.subject
    }

    /// The subject's `CN`, if it has exactly one.
    #[must_use]
    pub fn common_name(&self) -> Option<&str> {
        self.parsed.common_name.as_deref()
    }

    /// The names of its owner.
    #[must_use]
    pub fn names(&self) -> &[ClientName] {
        &self.parsed.names
    }

    /// The serial number that its authority gave it, in hexadecimal.
    #[must_use]
    pub fn serial(&self) -> &str {
        &self.parsed.serial
    }

    /// SHA-256 of the certificate, in lower-case hexadecimal.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.parsed.fingerprint
    }
}
