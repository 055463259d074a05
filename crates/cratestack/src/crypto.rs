//! The crypto of a service: one provider for everything, aws-lc-rs, and whether it is the FIPS 140-3 validated module.
//!
//! | build | provider | [`install_fips_crypto_provider`] |
//! |---|---|---|
//! | as it comes | aws-lc-rs | an error that says how to get the module |
//! | with the feature `crypto-aws-lc-rs`, on the versions that `fips/Cargo.lock` pins | aws-lc-rs on the validated module | succeeds |
//! | with the feature, on newer versions | aws-lc-rs on a module that is not validated yet | an error |
//!
//! What runs outside of the module even then is listed in docs/tls.md.

use std::fmt;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs as provider};
use rustls::server::ResolvesServerCertUsingSni;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// The generation of the AWS-LC FIPS module that has a FIPS 140-3 certificate (CMVP #5314 as a static library, #5298 as a
/// dynamic one). Generation 4 is in review.
const VALIDATED: u32 = 3;

/// How the provider was built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CryptoMode {
    /// The library that everybody gets.
    Standard,
    /// The FIPS module, whose self tests have passed.
    Fips,
}

/// What does the crypto of this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CryptoStatus {
    /// `aws-lc-rs`, always.
    pub provider: &'static str,
    /// Whether it is the FIPS module.
    pub mode: CryptoMode,
    /// The version of AWS-LC: `5.12.0`, or of its FIPS module: `3.6.0`.
    pub version: &'static str,
    /// Whether the FIPS module is of the generation that has a certificate.
    pub validated: bool,
}

impl CryptoMode {
    /// `standard` or `fips`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::Fips => "fips",
        }
    }
}

/// One sentence.
impl fmt::Display for CryptoStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { provider, version, .. } = self;
        match (self.mode, self.validated) {
            (CryptoMode::Standard, _) => write!(f, "{provider} with AWS-LC {version}, which is no FIPS module"),
            (CryptoMode::Fips, true) => {
                write!(f, "{provider} with the FIPS 140-3 validated module AWS-LC FIPS {version}")
            }
            (CryptoMode::Fips, false) => write!(f, "{provider} with AWS-LC FIPS {version}, which is not validated yet"),
        }
    }
}

impl CryptoStatus {
    /// As `/readyz` and `cratestack crypto status` report it.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "provider": self.provider,
            "mode": self.mode.name(),
            "moduleVersion": self.version,
            "validated": self.validated,
        })
    }
}

/// Why the crypto of this process is not that of the validated module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CryptoError {
    /// The build is not one with the FIPS module.
    #[error("this build has no FIPS module")]
    NotBuilt,
    /// The module's self tests have failed, or it was not entered.
    #[error("the FIPS module does not work: {0}")]
    NotWorking(&'static str),
    /// The module is of another generation than the validated one.
    #[error("the FIPS module of this build is of generation {0}, which is not validated; the validated one is 3")]
    NotValidated(u32),
    /// Somebody has installed another provider for the process before, which libraries would use.
    #[error("another crypto provider, which is no FIPS one, was installed for this process first")]
    OtherProvider,
    /// A TLS configuration made by the host has another provider, or suites beyond those of FIPS.
    #[error("the TLS configuration of the {0} uses a crypto provider that is no FIPS one")]
    ConfiguredProvider(&'static str),
    /// A TLS configuration made by the host allows TLS 1.2 without the extended master secret, which SP 800-52 asks for.
    #[error("the TLS configuration of the {0} allows TLS 1.2 without extended master secret (`require_ems` is false)")]
    NoExtendedMasterSecret(&'static str),
}

impl CryptoError {
    /// What to do about it.
    #[must_use]
    pub fn help(&self) -> &'static str {
        match self {
            Self::NotBuilt | Self::NotValidated(_) => {
                "build the workspace `fips/` (`cargo build --release --manifest-path fips/Cargo.toml`, with cmake and Go), or \
                 turn on the feature `crypto-aws-lc-rs` with the versions that its `Cargo.lock` pins"
            }
            Self::NotWorking(_) => "the machine or the build is broken: do not use it",
            Self::OtherProvider => "call `install_fips_crypto_provider()` first of all in `main`",
            Self::ConfiguredProvider(_) => "make it with `cratestack::crypto::provider()`",
            Self::NoExtendedMasterSecret(_) => "leave `require_ems` as it is, true",
        }
    }
}

/// The provider of everything that this crate encrypts, signs and verifies in TLS.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(provider::default_provider())
}

/// What does the crypto of this process.
#[must_use]
pub fn crypto_status() -> CryptoStatus {
    let fips = aws_lc_rs::try_fips_mode().is_ok();
    CryptoStatus {
        provider: "aws-lc-rs",
        mode: if fips { CryptoMode::Fips } else { CryptoMode::Standard },
        version: aws_lc_rs::awslc_version(),
        validated: fips && aws_lc_rs::fips_version() == Some(VALIDATED),
    }
}

/// Makes the FIPS 140-3 validated module the crypto of this process, for libraries too that take the process's provider.
/// To be called first of all in `main`; calls after the first one do nothing.
///
/// # Errors
/// When it is not that module, or another provider was there first. Nothing is installed then.
///
/// ```no_run
/// let status = cratestack::install_fips_crypto_provider()?;
/// println!("{status}");
/// # Ok::<(), cratestack::crypto::CryptoError>(())
/// ```
pub fn install_fips_crypto_provider() -> Result<CryptoStatus, CryptoError> {
    if !cfg!(feature = "crypto-aws-lc-rs") {
        return Err(CryptoError::NotBuilt);
    }
    aws_lc_rs::try_fips_mode().map_err(CryptoError::NotWorking)?;
    match aws_lc_rs::fips_version() {
        Some(VALIDATED) => {}
        version => return Err(CryptoError::NotValidated(version.unwrap_or_default())),
    }
    let provider = provider();
    client(&*configured_client(&provider)?)?;
    server(&*configured_server(&provider)?)?;
    // Whoever was first stays: it may have been us.
    let _ = provider::default_provider().install_default();
    if CryptoProvider::get_default().is_some_and(|provider| provider.fips()) {
        Ok(crypto_status())
    } else {
        Err(CryptoError::OtherProvider)
    }
}

/// Whether a server's configuration is one that FIPS allows.
///
/// # Errors
/// When it is not, and why.
pub fn server(config: &ServerConfig) -> Result<(), CryptoError> {
    checked("server", config.fips(), config.crypto_provider())
}

/// Whether a client's configuration is one that FIPS allows.
///
/// # Errors
/// When it is not, and why.
pub fn client(config: &ClientConfig) -> Result<(), CryptoError> {
    checked("client", config.fips(), config.crypto_provider())
}

fn checked(whose: &'static str, fips: bool, provider: &CryptoProvider) -> Result<(), CryptoError> {
    match (fips, provider.fips()) {
        (true, _) => Ok(()),
        (false, true) => Err(CryptoError::NoExtendedMasterSecret(whose)),
        (false, false) => Err(CryptoError::ConfiguredProvider(whose)),
    }
}

/// What our clients have, but for whom they trust.
fn configured_client(provider: &Arc<CryptoProvider>) -> Result<Box<ClientConfig>, CryptoError> {
    let config = ClientConfig::builder_with_provider(Arc::clone(provider)).with_safe_default_protocol_versions();
    let config = config.map_err(|_| CryptoError::ConfiguredProvider("client"))?;
    Ok(Box::new(config.with_root_certificates(RootCertStore::empty()).with_no_client_auth()))
}

/// What our server has, but for its certificate.
fn configured_server(provider: &Arc<CryptoProvider>) -> Result<Box<ServerConfig>, CryptoError> {
    let config = ServerConfig::builder_with_provider(Arc::clone(provider)).with_safe_default_protocol_versions();
    let config = config.map_err(|_| CryptoError::ConfiguredProvider("server"))?;
    Ok(Box::new(config.with_no_client_auth().with_cert_resolver(Arc::new(ResolvesServerCertUsingSni::new()))))
}

#[cfg(all(test, not(feature = "crypto-aws-lc-rs")))]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// The build with the module has its tests in `fips/`.
    #[test]
    fn a_build_without_the_module_says_so() {
        let status = crypto_status();
        assert_eq!((status.provider, status.mode, status.validated), ("aws-lc-rs", CryptoMode::Standard, false));
        assert!(status.to_string().ends_with("which is no FIPS module"), "{status}");
        let error = install_fips_crypto_provider().unwrap_err();
        assert_eq!(error, CryptoError::NotBuilt);
        assert!(error.help().contains("fips/"));
        assert!(CryptoProvider::get_default().is_none(), "nothing is installed");
        let provider = provider();
        assert_eq!(client(&configured_client(&provider).unwrap()), Err(CryptoError::ConfiguredProvider("client")));
        assert_eq!(server(&configured_server(&provider).unwrap()), Err(CryptoError::ConfiguredProvider("server")));
    }
}

/// On the versions of the default lock file, whose module is in review; the validated one has its tests in `fips/`.
#[cfg(all(test, feature = "crypto-aws-lc-rs"))]
mod tests {
    use super::*;

    #[test]
    fn a_module_that_is_not_validated_is_refused() {
        let status = crypto_status();
        assert_eq!((status.mode, status.validated), (CryptoMode::Fips, false));
        assert!(status.to_string().ends_with(", which is not validated yet"), "{status}");
        let generation = aws_lc_rs::fips_version().unwrap_or_default();
        assert_eq!(install_fips_crypto_provider(), Err(CryptoError::NotValidated(generation)));
        assert!(CryptoProvider::get_default().is_none(), "nothing is installed");
    }
}
