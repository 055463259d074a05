//! From the URL of a PostgreSQL database to what the driver connects with, TLS decided.
//!
//! The driver takes more than it heeds: with `sslmode=require` it does not look at `sslrootcert`, `allow` goes without TLS,
//! and `verify-ca` trusts the public authorities for whatever host. What would be passed over is an error here.

use std::str::FromStr as _;

use percent_encoding::percent_decode_str;
use sqlx::postgres::{PgConnectOptions, PgSslMode};

/// Why a URL cannot be connected with. It may hold a password, so that modes and the paths of certificates are all that is
/// shown of it.
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
                "`sslrootcert=FILE` alone is `sslmode=verify-full`; without an authority there are `require` and `disable` (docs/tls.md)"
            }
        }
    }
}

/// The parameters of a URL that say something of TLS, as they stand there, or in the variables of libpq.
#[derive(Debug, Default)]
struct Tls {
    mode: Option<String>,
    authority: Option<String>,
    certificate: Option<String>,
    key: Option<String>,
}

impl Tls {
    /// # Errors
    /// When one stands there twice: which is meant nobody can tell.
    fn of(url: &str, variable: impl Fn(&str) -> Option<String>) -> Result<Self, UrlError> {
        let mut found = Self::default();
        let query = url.split_once('?').map_or("", |(_, query)| query);
        for (name, value) in query.split('&').map(|part| part.split_once('=').unwrap_or((part, ""))) {
            // The driver's other names for them.
            let (slot, name) = match decoded(name).as_str() {
                "sslmode" | "ssl-mode" => (&mut found.mode, "sslmode"),
                "sslrootcert" | "ssl-root-cert" | "ssl-ca" => (&mut found.authority, "sslrootcert"),
                "sslcert" | "ssl-cert" => (&mut found.certificate, "sslcert"),
                "sslkey" | "ssl-key" => (&mut found.key, "sslkey"),
                _ => continue,
            };
            if slot.replace(decoded(value)).is_some() {
                return Err(UrlError::Tls(format!("the PostgreSQL URL has `{name}` twice")));
            }
        }
        let slots = [&mut found.mode, &mut found.authority, &mut found.certificate, &mut found.key];
        for (slot, name) in slots.into_iter().zip(["PGSSLMODE", "PGSSLROOTCERT", "PGSSLCERT", "PGSSLKEY"]) {
            if slot.is_none() {
                *slot = variable(name);
            }
        }
        Ok(found)
    }

    /// The mode that was asked for, or the one that what else is there means.
    fn mode(&self) -> Result<PgSslMode, UrlError> {
        match &self.mode {
            // The driver would take a mistyped `PGSSLMODE` for `prefer`.
            Some(mode) => mode.parse().map_err(|_| {
                UrlError::Tls("`sslmode` (or `PGSSLMODE`) is none of `disable`, `require` and `verify-full`".to_owned())
            }),
            None if self.authority.is_some() => Ok(PgSslMode::VerifyFull),
            // A login by certificate must not become one without.
            None if self.certificate.is_some() || self.key.is_some() => Ok(PgSslMode::Require),
            None => Ok(PgSslMode::Prefer),
        }
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
            PgSslMode::Disable | PgSslMode::Prefer if self.certificate.is_some() || self.key.is_some() => {
                return Err(format!("a client certificate is given, and `sslmode={said}` may go without TLS"));
            }
            _ => {}
        }
        if self.certificate.is_some() != self.key.is_some() {
            return Err("`sslcert` and `sslkey` are given together or not at all".to_owned());
        }
        let files = [
            ("sslrootcert", &self.authority, "CERTIFICATE-----"),
            ("sslcert", &self.certificate, "CERTIFICATE-----"),
            ("sslkey", &self.key, "PRIVATE KEY-----"),
        ];
        files
            .into_iter()
            .try_for_each(|(name, file, part)| file.as_deref().map_or(Ok(()), |file| readable(name, file, part)))
    }
}

/// The driver finds out when it connects, and says less of it. And a file without certificates would leave the public
/// authorities as the only ones that are trusted.
fn readable(name: &str, file: &str, part: &str) -> Result<(), String> {
    if file.trim_start().starts_with("-----BEGIN ") {
        return Ok(());
    }
    let text = match std::fs::metadata(file) {
        Ok(found) if found.is_file() => std::fs::read_to_string(file),
        Ok(_) => Err(std::io::Error::other("it is no file")),
        Err(error) => Err(error),
    };
    match text {
        Ok(text) if text.contains("ENCRYPTED") => {
            Err(format!("the key `{file}` of `{name}` is encrypted; `openssl pkey -in KEY -out PLAIN` decrypts it"))
        }
        Ok(text) if text.contains(part) => Ok(()),
        Ok(_) => Err(format!("the file `{file}` of `{name}` has no `{}` in PEM form", part.trim_end_matches('-'))),
        Err(error) => {
            let error = error.to_string();
            // What should be the path of a key may be the key.
            let file = if name == "sslkey" { String::new() } else { format!(" `{file}`") };
            Err(format!("the file{file} of `{name}` cannot be read: {}", error.split(" (os").next().unwrap_or("")))
        }
    }
}

/// A name or a value of a query, as the driver reads it.
fn decoded(text: &str) -> String {
    percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned()
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
    // What stands behind a `#` nobody reads.
    if url.contains('#') {
        return Err(UrlError::Malformed);
    }
    let tls = Tls::of(url, variable)?;
    let mode = tls.mode()?;
    let options = PgConnectOptions::from_str(url).map_err(|_| UrlError::Malformed)?;
    tls.check(mode).map_err(UrlError::Tls)?;
    Ok(options.ssl_mode(mode))
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
        let (cert, key) =
            (file("c.pem", "-----BEGIN CERTIFICATE-----\n"), file("k.pem", "-----BEGIN PRIVATE KEY-----\n"));
        let locked = file("locked.pem", "-----BEGIN ENCRYPTED PRIVATE KEY-----\n");
        let ca = file("ca file.pem", "-----BEGIN CERTIFICATE-----\n");
        let ca = ca.replace(' ', "%20");
        let empty = file("empty.pem", "");
        let none: fn(&str) -> Option<String> = |_| None;
        let table: [(&str, Result<PgSslMode, &str>); 26] = [
            ("", Ok(PgSslMode::Prefer)),
            ("sslmode=disable", Ok(PgSslMode::Disable)),
            ("sslmode=require", Ok(PgSslMode::Require)),
            ("sslmode=verify-full", Ok(PgSslMode::VerifyFull)),
            ("sslrootcert={ca}", Ok(PgSslMode::VerifyFull)),
            ("application_name=x&sslrootcert={ca}&sslmode=verify-full", Ok(PgSslMode::VerifyFull)),
            ("sslcert={cert}&sslkey={key}&sslrootcert={ca}", Ok(PgSslMode::VerifyFull)),
            ("sslcert={key}&sslkey={key}", Err("of `sslcert` has no `CERTIFICATE` in PEM form")),
            ("sslcert={cert}&sslkey={cert}", Err("of `sslkey` has no `PRIVATE KEY` in PEM form")),
            ("sslcert={cert}&sslkey={locked}", Err("of `sslkey` is encrypted")),
            ("sslmode=allow", Err("would go without TLS")),
            ("sslmode=verify-ca&sslrootcert={ca}", Err("any other host")),
            ("sslmode=require&sslrootcert={ca}", Err("`sslmode=require` nobody would be verified")),
            ("sslmode=prefer&sslrootcert={ca}", Err("`sslmode=prefer` nobody")),
            ("sslmode=disable&sslcert=a&sslkey=b", Err("`sslmode=disable` may go without TLS")),
            ("sslcert={cert}", Err("together or not at all")),
            ("sslrootcert={empty}", Err("has no `CERTIFICATE` in PEM form")),
            ("sslrootcert=/no/such/file", Err("cannot be read: ")),
            ("sslmode=full", Err("is none of")),
            ("sslcert={cert}&sslkey={key}", Ok(PgSslMode::Require)),
            ("sslmode=prefer&sslcert={cert}&sslkey={key}", Err("`sslmode=prefer` may go without TLS")),
            ("ssl%72ootcert={ca}", Ok(PgSslMode::VerifyFull)),
            ("sslmode=verify-full&sslmode=disable", Err("has `sslmode` twice")),
            ("sslmode=verify-full&ssl-mode=disable", Err("has `sslmode` twice")),
            ("sslmode=verify-full#sslmode=disable", Err("malformed")),
            ("#?sslmode=verify-full", Err("malformed")),
        ];
        for (query, expected) in table {
            let query = query.replace("{ca}", &ca).replace("{empty}", &empty);
            let query = query.replace("{cert}", &cert).replace("{key}", &key).replace("{locked}", &locked);
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
        let mistyped = |name: &str| (name == "PGSSLMODE").then(|| "verify_full".to_owned());
        assert!(with_variables("postgres://u@h/n", mistyped).unwrap_err().to_string().contains("is none of"));
        assert!(with_variables("postgres://u@h/n?sslmode=require", mistyped).is_ok(), "the URL comes first");
        let variables = |name: &str| (name == "PGSSLROOTCERT").then(|| ca.replace("%20", " "));
        let options = with_variables("postgres://u@h/n", variables).unwrap();
        assert!(matches!(options.get_ssl_mode(), PgSslMode::VerifyFull));
    }
}
