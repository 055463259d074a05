//! Authorities, and certificates that they have signed, for tests.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
    date_time_ymd,
};

/// An authority.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, both PEM.
#[derive(Clone)]
pub struct Issued {
    pub certificate: String,
    pub key: String,
    pub serial: u64,
}

/// When a certificate is valid.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Valid {
    Now,
    /// Until some years ago.
    Expired,
    /// In some decades.
    Later,
}

impl Valid {
    fn limit(self, params: &mut CertificateParams) {
        let (from, to) = match self {
            Self::Now => (2020, 4000),
            Self::Expired => (2020, 2021),
            Self::Later => (3900, 4000),
        };
        params.not_before = date_time_ymd(from, 1, 1);
        params.not_after = date_time_ymd(to, 1, 1);
    }
}

/// What a certificate is to be.
pub struct Leaf<'a> {
    pub serial: u64,
    pub common_name: &'a str,
    pub hosts: &'a [&'a str],
    pub uri: Option<&'a str>,
    pub valid: Valid,
    pub usage: ExtendedKeyUsagePurpose,
}

impl Leaf<'_> {
    /// Of a server on this machine.
    pub fn server() -> Self {
        Self {
            serial: 1,
            common_name: "server",
            hosts: &["localhost", "127.0.0.1"],
            uri: None,
            valid: Valid::Now,
            usage: ExtendedKeyUsagePurpose::ServerAuth,
        }
    }

    /// Of a client with a SPIFFE ID.
    pub fn client() -> Self {
        Self {
            serial: 2,
            common_name: "payments",
            hosts: &[],
            uri: Some("spiffe://bank.example/payments"),
            valid: Valid::Now,
            usage: ExtendedKeyUsagePurpose::ClientAuth,
        }
    }

    fn params(&self) -> CertificateParams {
        let hosts: Vec<String> = self.hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        params.subject_alt_names.extend(self.uri.map(|uri| SanType::URI(uri.try_into().unwrap())));
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, self.common_name);
        params.distinguished_name.push(DnType::OrganizationName, "Bank");
        params.serial_number = Some(SerialNumber::from(self.serial));
        params.extended_key_usages = vec![self.usage.clone()];
        self.valid.limit(&mut params);
        params
    }

    /// Signed by itself.
    pub fn self_signed(&self) -> Issued {
        let key = KeyPair::generate().unwrap();
        let certificate = self.params().self_signed(&key).unwrap();
        Issued { certificate: certificate.pem(), key: key.serialize_pem(), serial: self.serial }
    }
}

impl Authority {
    pub fn new(name: &str) -> Self {
        Self::valid(name, Valid::Now)
    }

    pub fn valid(name: &str, valid: Valid) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        valid.limit(&mut params);
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    /// Its own certificate, PEM.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    pub fn issue(&self, leaf: &Leaf<'_>) -> Issued {
        let key = KeyPair::generate().unwrap();
        let certificate = leaf.params().signed_by(&key, &self.issuer).unwrap();
        Issued { certificate: certificate.pem(), key: key.serialize_pem(), serial: leaf.serial }
    }

    /// Its revocation list, PEM.
    pub fn revoking(&self, serials: &[u64], valid: Valid) -> String {
        let next = if valid == Valid::Now { 4000 } else { 2021 };
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2020, 6, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 6, 1),
            next_update: date_time_ymd(next, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

/// Writes a file, and gives its path.
pub fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path
}
