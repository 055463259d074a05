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
use chrono::{DateTime, Utc};
use cratestack_schema::hex;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use tokio::sync::watch;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{ASN1Time, CertificateRevocationList, FromDer as _, X509Certificate, X509Version};

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
    /// And when the first of its certificates ends.
    current: RwLock<(Arc<ServerConfig>, DateTime<Utc>)>,
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
    /// When one cannot be read or is not what it should be, the key is another certificate's, or a certificate or a revocation
    /// list is out of date.
    pub fn open(files: TlsFiles) -> Result<Self, TlsError> {
        let (config, ends) = configured(&files)?;
        Ok(Self::with(Some(files), config, ends))
    }

    /// A configuration of the host's own; its `alpn_protocols` should be `h2` and `http/1.1`. [`Self::reload`] has nothing to
    /// read then.
    #[must_use]
    pub fn from_config(config: ServerConfig) -> Self {
        Self::with(None, config, DateTime::<Utc>::MAX_UTC)
    }

    fn with(files: Option<TlsFiles>, config: ServerConfig, ends: DateTime<Utc>) -> Self {
        let current = RwLock::new((Arc::new(config), ends));
        Self { shared: Arc::new(Shared { files, current, generation: watch::Sender::new(0) }) }
    }

    /// Reads the files again, for connections from now on. Where clients have certificates, connections that were made
    /// before end after the requests under way, so that what is no longer trusted is gone.
    ///
    /// # Errors
    /// As for [`Self::open`]; what was there stays.
    pub fn reload(&self) -> Result<(), TlsError> {
        self.prepare().map(Prepared::commit)
    }

    /// The first half of [`Self::reload`]: reads the files, and changes nothing yet. So that what belongs together is
    /// changed together.
    ///
    /// # Errors
    /// As for [`Self::open`].
    pub fn prepare(&self) -> Result<Prepared<'_>, TlsError> {
        let configured = self.shared.files.as_ref().map(configured).transpose()?;
        Ok(Prepared { tls: self, configured })
    }

    /// The configuration of the next connection, and what tells when it is over.
    pub(crate) fn current(&self) -> (Arc<ServerConfig>, watch::Receiver<u64>) {
        // In this order: a change in between ends the connection, rather than leaving it.
        let over = self.shared.generation.subscribe();
        let config = Arc::clone(&self.shared.current.read().unwrap_or_else(PoisonError::into_inner).0);
        (config, over)
    }

    /// When the first of the certificates of the server and of its clients' authorities ends; the end of time for a configuration
    /// of the host's own.
    #[must_use]
    pub fn ends(&self) -> DateTime<Utc> {
        self.shared.current.read().unwrap_or_else(PoisonError::into_inner).1
    }

    /// Whether FIPS allows the configuration.
    ///
    /// # Errors
    /// When it does not, and why.
    pub fn check_fips(&self) -> Result<(), CryptoError> {
        crypto::server(&self.current().0)
    }
}

/// Files that were [read again](Tls::prepare).
#[must_use]
#[derive(Debug)]
pub struct Prepared<'t> {
    tls: &'t Tls,
    /// `None` for a configuration of the host's own.
    configured: Option<(ServerConfig, DateTime<Utc>)>,
}

impl Prepared<'_> {
    /// Connections from now on meet what was read.
    pub fn commit(self) {
        let Some((config, ends)) = self.configured else { return };
        let shared = &self.tls.shared;
        *shared.current.write().unwrap_or_else(PoisonError::into_inner) = (Arc::new(config), ends);
        // Those that were made before, and have shown a certificate, end.
        shared.generation.send_modify(|generation| *generation += 1);
    }
}

/// The configuration that the files make, and when the first of its certificates ends.
fn configured(files: &TlsFiles) -> Result<(ServerConfig, DateTime<Utc>), TlsError> {
    let (chain, ends) = chain(&files.certificate)?;
    let key = private_key(&files.key)?;
    let builder = ServerConfig::builder_with_provider(crypto::provider()).with_safe_default_protocol_versions();
    let builder =
        builder.map_err(|error| TlsError::new(format!("TLS cannot be set up: {error}"), "use another build"))?;
    let asked = files.client_ca.is_some();
    let (builder, ends) = match verifier(files)? {
        Some((verifier, authorities)) => (builder.with_client_cert_verifier(verifier), ends.min(authorities)),
        None => (builder.with_no_client_auth(), ends),
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| {
        let (certificate, key) = (files.certificate.display(), files.key.display());
        match error {
            rustls::Error::InconsistentKeys(_) => TlsError::new(
                format!("the key `{key}` is not that of the certificate `{certificate}`"),
                "the server's own certificate comes first in the file, and those between it and the authority behind it",
            ),
            error => TlsError::new(
                format!("the certificate `{certificate}` and the key `{key}` cannot be used: {}", explained(&error)),
                "keys can be RSA of 2048 bits or more, or of the curves P-256, P-384 and P-521",
            ),
        }
    })?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    if asked {
        // A session that is resumed shows no certificate: it could have expired or been revoked in the meantime.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok((config, ends))
}

/// The server's certificate with those behind it.
fn chain(path: &Path) -> Result<(Vec<CertificateDer<'static>>, DateTime<Utc>), TlsError> {
    let chain = certificates(path, "the server's certificate")?;
    let ends = chain.first().map_or_else(|| Err(unreadable(path)), |own| timely(path, &parsed(path, own)?));
    ends.map(|ends| (chain, ends))
}

fn parsed<'c>(path: &Path, certificate: &'c CertificateDer<'_>) -> Result<X509Certificate<'c>, TlsError> {
    let (_, parsed) = X509Certificate::from_der(certificate.as_ref()).map_err(|_| unreadable(path))?;
    if parsed.version() != X509Version::V3 {
        let message =
            format!("a certificate of `{}` is one of X.509 version 1, which nobody takes any more", path.display());
        return Err(TlsError::new(message, "make one with extensions: `openssl x509 -req -copy_extensions copy ..`"));
    }
    Ok(parsed)
}

/// When a certificate ends. One that is not valid today is an error, while there is somebody to read it.
fn timely(path: &Path, certificate: &X509Certificate<'_>) -> Result<DateTime<Utc>, TlsError> {
    let (now, validity) = (ASN1Time::now(), certificate.validity());
    let (subject, path) = (certificate.subject(), path.display());
    if now > validity.not_after {
        let message = format!("the certificate of `{subject}` in `{path}` has ended on {}", day(&validity.not_after));
        return Err(TlsError::new(message, "renew it, or take it out"));
    }
    if now < validity.not_before {
        let message = format!("the certificate of `{subject}` in `{path}` begins on {}", day(&validity.not_before));
        return Err(TlsError::new(message, "is the clock of this machine right?"));
    }
    Ok(DateTime::from_timestamp(validity.not_after.timestamp(), 0).unwrap_or(DateTime::<Utc>::MAX_UTC))
}

/// Whoever is trusted to sign is not looked at again by rustls: what is no authority, or one no more, must not be one here.
fn authority(path: &Path, certificate: &CertificateDer<'_>) -> Result<DateTime<Utc>, TlsError> {
    let parsed = parsed(path, certificate)?;
    let constraints = parsed.basic_constraints().map_err(|_| unreadable(path))?;
    let usage = parsed.key_usage().map_err(|_| unreadable(path))?;
    let signs = usage.is_none_or(|usage| usage.value.key_cert_sign());
    if !(constraints.is_some_and(|constraints| constraints.value.ca) && signs) {
        let message =
            format!("the certificate of `{}` in `{}` is not that of an authority", parsed.subject(), path.display());
        return Err(TlsError::new(message, "an authority's has `CA:TRUE`, and `keyCertSign` if it has a key usage"));
    }
    timely(path, &parsed)
}

/// `2026-01-31`.
fn day(time: &ASN1Time) -> String {
    DateTime::from_timestamp(time.timestamp(), 0).map_or_else(|| time.to_string(), |time| time.date_naive().to_string())
}

fn unreadable(path: &Path) -> TlsError {
    TlsError::new(format!("a certificate of the file `{}` is malformed", path.display()), "make the file anew")
}

const KEY: &str = "the private key";

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let text = read(path, KEY)?;
    if contains(&text, "ENCRYPTED") {
        let message = format!("the private key `{}` is encrypted", path.display());
        return Err(TlsError::new(message, "decrypt it first: `openssl pkey -in KEY -out PLAIN`"));
    }
    PrivateKeyDer::from_pem_slice(&text).map_err(|_| not_pem(path, &text, "private key"))
}

fn contains(text: &[u8], word: &str) -> bool {
    text.windows(word.len()).any(|window| window == word.as_bytes())
}

/// Says of a file what it is instead.
fn not_pem(path: &Path, text: &[u8], wanted: &str) -> TlsError {
    let (is, help) = if contains(text, "PRIVATE KEY-----") {
        ("; it has a private key", "are the paths in the right order?")
    } else if contains(text, "-----BEGIN CERTIFICATE-----") {
        ("; it has a certificate", "are the paths in the right order?")
    } else if text.first() == Some(&0x30) {
        (
            "; it looks like DER or PKCS#12",
            "`openssl x509 -inform DER`, `openssl pkey -inform DER` or `openssl pkcs12 -nodes` make PEM of it",
        )
    } else {
        ("", "such a part begins with `-----BEGIN`")
    };
    TlsError::new(format!("the file `{}` has no {wanted} in PEM form{is}", path.display()), help)
}

/// What verifies clients, and when the first of their authorities ends.
type Verifier = (Arc<dyn rustls::server::danger::ClientCertVerifier>, DateTime<Utc>);

fn verifier(files: &TlsFiles) -> Result<Option<Verifier>, TlsError> {
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
    let (mut roots, mut ends) = (RootCertStore::empty(), DateTime::<Utc>::MAX_UTC);
    for certificate in certificates(path, "the certificates of the clients' authorities")? {
        ends = ends.min(authority(path, &certificate)?);
        roots.add(certificate).map_err(|error| {
            let message =
                format!("a certificate of `{}` cannot be an authority: {}", path.display(), explained(&error));
            TlsError::new(message, "name a file with the certificates of authorities, not of clients")
        })?;
    }
    let mut verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), crypto::provider());
    if let Some(path) = &files.client_crl {
        verifier = verifier.with_crls(revocations(path)?).enforce_revocation_expiration();
    }
    if files.client_optional {
        verifier = verifier.allow_unauthenticated();
    }
    let verifier = verifier.build().map_err(|error| {
        let message = format!("clients cannot be verified by `{}`: {error}", path.display());
        TlsError::new(message, "name a file with certificates of authorities, in PEM form")
    })?;
    Ok(Some((verifier, ends)))
}

/// The revocation lists of a file. One that is out of date would let nobody in, and is an error while there is somebody to
/// read it.
fn revocations(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let text = read(path, "the revocation lists")?;
    let lists: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&text).collect();
    let lists = lists.ok().filter(|lists| !lists.is_empty());
    let lists = lists.ok_or_else(|| not_pem(path, &text, "revocation list"))?;
    for list in &lists {
        let (_, parsed) = CertificateRevocationList::from_der(list.as_ref()).map_err(|_| {
            TlsError::new(format!("a list of the file `{}` is malformed", path.display()), "make the file anew")
        })?;
        let ended = parsed.next_update().filter(|next| ASN1Time::now() > *next);
        if let Some(ended) = ended {
            let (issuer, day) = (parsed.issuer(), day(&ended));
            let message =
                format!("the revocation list of `{issuer}` in `{}` is out of date since {day}", path.display());
            return Err(TlsError::new(message, "fetch the authority's current list"));
        }
    }
    Ok(lists)
}

fn read(path: &Path, what: &str) -> Result<Vec<u8>, TlsError> {
    /// Octets that a file of certificates has at most.
    const MOST: u64 = 16 * 1024 * 1024;
    let failed = |error: &dyn fmt::Display| {
        // What should be the path of a key may be the key.
        let from = if what == KEY { String::new() } else { format!(" from `{}`", path.display()) };
        let message = format!("{what} cannot be read{from}: {error}");
        TlsError::new(message, "check the path, and that this user may read the file")
    };
    // What is no file (a pipe, a device) might never end.
    let found = std::fs::metadata(path).map_err(|error| failed(&error.kind()))?;
    if !found.is_file() || found.len() > MOST {
        return Err(failed(&"it is no file of at most 16 MiB"));
    }
    std::fs::read(path).map_err(|error| failed(&error.kind()))
}

fn certificates(path: &Path, what: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read(path, what)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    all.ok().filter(|all| !all.is_empty()).ok_or_else(|| not_pem(path, &text, "certificate"))
}

/// Why a certificate is not taken, in words.
pub(crate) fn explained(error: &rustls::Error) -> String {
    use rustls::CertificateError as Of;
    let words = match error {
        rustls::Error::NoCertificatesPresented => "no certificate was shown",
        rustls::Error::InvalidCertificate(of) => match of {
            Of::Expired | Of::ExpiredContext { .. } => "the certificate has expired",
            Of::NotValidYet | Of::NotValidYetContext { .. } => "the certificate is not valid yet",
            Of::Revoked => "the certificate was revoked",
            Of::UnknownIssuer => "the certificate is of no authority that is trusted",
            Of::UnknownRevocationStatus => "there is no revocation list of an authority of the certificate",
            Of::ExpiredRevocationList | Of::ExpiredRevocationListContext { .. } => {
                "the revocation list of an authority of the certificate is out of date"
            }
            Of::InvalidPurpose | Of::InvalidPurposeContext { .. } => {
                "the certificate is for another purpose (`extendedKeyUsage`)"
            }
            Of::BadEncoding => "the certificate is malformed",
            other => match format!("{other:?}") {
                text if text.contains("UnsupportedCertVersion") => "the certificate is one of X.509 version 1",
                text if text.contains("CaUsedAsEndEntity") => {
                    "the certificate is that of an authority (`CA:TRUE`), or signed by itself"
                }
                _ => return error.to_string(),
            },
        },
        _ => return error.to_string(),
    };
    words.to_owned()
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
        // Which of several is meant nobody can tell; and the constraints of an authority bind alternative names alone.
        let common_name = match (common_names.next(), common_names.next()) {
            (Some(name), None) if alternative.is_none() => name.as_str().ok().map(str::to_owned),
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

    /// The subject's `CN`, if it has exactly one, and the certificate no `subjectAltName`: what an authority may not sign by its
    /// name constraints is said of those alone.
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
