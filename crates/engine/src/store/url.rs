//! From the URL of a PostgreSQL database to what the driver connects with, TLS decided.
//!
//! The driver takes more than it heeds: with `sslmode=require` it does not look at `sslrootcert`, `allow` goes without TLS,
//! and `verify-ca` trusts the public authorities for whatever host. What would be passed over is an error here.

use std::str::FromStr as _;

use sqlx::postgres::{PgConnectOptions, PgSslMode};

/// Why a URL cannot be connected with. It may hold a password, so that no part of it is shown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// It is no URL, or one of its values is none.
    #[error("the PostgreSQL URL is malformed")]
    Malformed,
    /// What it says of TLS contradicts itself, or asks for what there is not.
    #[error("{0}")]
    Tls(String),
}

impl UrlError {
    /// What to do about it.
    pub fn help(&self) -> &'static str {
        match self {
            Self::Malformed => {
                "write `postgres://USER:PASSWORD@HOST:PORT/NAME`, with `%23` for a `#`, `%2F` for a `/` and so on in its parts"
            }
            Self::Tls(_) => {
                "with a certificate authority write `sslrootcert=FILE` alone, which is `sslmode=verify-full`; without one, `require` or `disable`"
            }
        }
    }
}

/// The parameters of a URL that say something of TLS, as they stand there, or in the variables of libpq.
#[derive(Debug, Default)]
struct Tls {
    mode: Option<String>,
    authority: Option<String>,
    certificate: bool,
    key: bool,
}

impl Tls {
    fn of(url: &str, variable: impl Fn(&str) -> Option<String>) -> Self {
        let mut found = Self {
            mode: variable("PGSSLMODE"),
            authority: variable("PGSSLROOTCERT"),
            certificate: variable("PGSSLCERT").is_some(),
            key: variable("PGSSLKEY").is_some(),
        };
        let query = url.split_once('?').map_or("", |(_, query)| query.split('#').next().unwrap_or(""));
        for (name, value) in query.split('&').map(|part| part.split_once('=').unwrap_or((part, ""))) {
            match name {
                "sslmode" | "ssl-mode" => found.mode = Some(value.to_owned()),
                "sslrootcert" | "ssl-root-cert" | "ssl-ca" => found.authority = Some(decoded(value)),
                "sslcert" | "ssl-cert" => found.certificate = true,
                "sslkey" | "ssl-key" => found.key = true,
                _ => {}
            }
        }
        found
    }

    /// # Errors
    /// A sentence, when it cannot all be heeded.
    fn check(&self, mode: PgSslMode) -> Result<(), String> {
        let said = self.mode.as_deref().unwrap_or("prefer");
        match mode {
            PgSslMode::Allow => {
                return Err("`sslmode=allow` would go without TLS wherever the server lets it".to_owned());
            }
            PgSslMode::VerifyCa => {
                return Err("`sslmode=verify-ca` would trust a certificate for any other host".to_owned());
            }
            PgSslMode::Disable | PgSslMode::Prefer | PgSslMode::Require if self.authority.is_some() => {
                return Err(format!(
                    "`sslrootcert` is given, and with `sslmode={said}` nobody would be verified by it"
                ));
            }
            PgSslMode::Disable if self.certificate || self.key => {
                return Err("a client certificate is given, and `sslmode=disable` goes without TLS".to_owned());
            }
            _ => {}
        }
        if self.certificate != self.key {
            return Err("`sslcert` and `sslkey` are given together or not at all".to_owned());
        }
        self.authority.as_deref().map_or(Ok(()), readable)
    }
}

/// A file without certificates would leave the public authorities as the only ones that are trusted.
fn readable(authority: &str) -> Result<(), String> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    if authority.trim_start().starts_with(BEGIN) {
        return Ok(());
    }
    match std::fs::read_to_string(authority) {
        Ok(text) if text.contains(BEGIN) => Ok(()),
        Ok(_) => Err(format!("the file `{authority}` of `sslrootcert` has no certificate in PEM form")),
        Err(error) => Err(format!("the file `{authority}` of `sslrootcert` cannot be read: {error}")),
    }
}

/// A value with its `%2F`s resolved.
fn decoded(text: &str) -> String {
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        let escaped = (*first == b'%').then(|| behind.split_at_checked(2)).flatten().and_then(|(digits, behind)| {
            let digits = std::str::from_utf8(digits).ok()?;
            Some((u8::from_str_radix(digits, 16).ok()?, behind))
        });
        let (octet, behind) = escaped.unwrap_or((if *first == b'+' { b' ' } else { *first }, behind));
        octets.push(octet);
        rest = behind;
    }
    String::from_utf8_lossy(&octets).into_owned()
}

/// What to connect with. A certificate authority (`sslrootcert`) means `sslmode=verify-full` unless the URL says otherwise;
/// without both, TLS is used where the server has it, and nobody is verified.
///
/// # Errors
/// See [`UrlError`].
///
/// ```
/// use cratestack_engine::store::url::postgres;
///
/// assert!(postgres("postgres://app@db.example/bank").is_ok());
/// let error = postgres("postgres://app@db.example/bank?sslmode=verify-ca").unwrap_err();
/// assert_eq!(error.to_string(), "`sslmode=verify-ca` would trust a certificate for any other host");
/// ```
pub fn postgres(url: &str) -> Result<PgConnectOptions, UrlError> {
    with_variables(url, |name| std::env::var(name).ok().filter(|value| !value.is_empty()))
}

fn with_variables(url: &str, variable: impl Fn(&str) -> Option<String>) -> Result<PgConnectOptions, UrlError> {
    let options = PgConnectOptions::from_str(url).map_err(|_| UrlError::Malformed)?;
    let tls = Tls::of(url, variable);
    let options = match (&tls.authority, &tls.mode) {
        (Some(_), None) => options.ssl_mode(PgSslMode::VerifyFull),
        _ => options,
    };
    tls.check(options.get_ssl_mode()).map_err(UrlError::Tls)?;
    Ok(options)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn what_a_url_says_of_tls() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let ca = file("ca file.pem", "-----BEGIN CERTIFICATE-----\n");
        let ca = ca.replace(' ', "%20");
        let empty = file("empty.pem", "");
        let none: fn(&str) -> Option<String> = |_| None;
        let table: [(&str, Result<PgSslMode, &str>); 16] = [
            ("", Ok(PgSslMode::Prefer)),
            ("sslmode=disable", Ok(PgSslMode::Disable)),
            ("sslmode=require", Ok(PgSslMode::Require)),
            ("sslmode=verify-full", Ok(PgSslMode::VerifyFull)),
            ("sslrootcert={ca}", Ok(PgSslMode::VerifyFull)),
            ("application_name=x&sslrootcert={ca}&sslmode=verify-full", Ok(PgSslMode::VerifyFull)),
            ("sslcert=a&sslkey=b&sslrootcert={ca}", Ok(PgSslMode::VerifyFull)),
            ("sslmode=allow", Err("would go without TLS")),
            ("sslmode=verify-ca&sslrootcert={ca}", Err("any other host")),
            ("sslmode=require&sslrootcert={ca}", Err("`sslmode=require` nobody would be verified")),
            ("sslmode=prefer&sslrootcert={ca}", Err("`sslmode=prefer` nobody")),
            ("sslmode=disable&sslcert=a&sslkey=b", Err("goes without TLS")),
            ("sslcert=a", Err("together or not at all")),
            ("sslrootcert={empty}", Err("has no certificate in PEM form")),
            ("sslrootcert=/no/such/file", Err("cannot be read: ")),
            ("sslmode=full", Err("malformed")),
        ];
        for (query, expected) in table {
            let query = query.replace("{ca}", &ca).replace("{empty}", &empty);
            let found = with_variables(&format!("postgres://u:secret@h/n?{query}"), none);
            match (found, expected) {
                (Ok(options), Ok(mode)) => {
                    let (found, mode) = (format!("{:?}", options.get_ssl_mode()), format!("{mode:?}"));
                    assert_eq!(found, mode, "{query}");
                }
                (Err(error), Err(part)) => {
                    let shown = error.to_string();
                    assert!(shown.contains(part) && !shown.contains("secret"), "{query}: {shown}");
                    assert!(!error.help().is_empty());
                }
                (found, expected) => panic!("{query}: {found:?}, not {expected:?}"),
            }
        }
        let variables = |name: &str| (name == "PGSSLROOTCERT").then(|| ca.replace("%20", " "));
        let options = with_variables("postgres://u@h/n", variables).unwrap();
        assert!(matches!(options.get_ssl_mode(), PgSslMode::VerifyFull));
    }
}
