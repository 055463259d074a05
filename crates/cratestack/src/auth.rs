//! Who asks: providers that turn the head of a request into verified claims.

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use axum::extract::ConnectInfo;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cratestack_engine::api::AuthMethod;
use cratestack_engine::json::Json;
use futures_util::future::BoxFuture;
use http::header::{AUTHORIZATION, FORWARDED};
use http::request::Parts;

use crate::body::parse_json;
use crate::headers::X_FORWARDED_FOR;
use crate::tls::ClientCertificate;

/// The members of a verified principal, before they are typed against the schema's `auth` block.
#[derive(Debug, Clone, PartialEq)]
pub struct Claims(pub Json);

/// Why a provider gives no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthError {
    /// There are credentials, and they are not valid: a 401 wherever they are sent. The text is for the log alone, and
    /// must not repeat the credentials.
    Invalid(String),
    /// They cannot be checked now: a 503.
    Unavailable {
        /// For the log alone.
        reason: String,
        /// When to try again, if that is known.
        retry_after: Option<Duration>,
    },
}

/// Verifies callers.
pub trait AuthProvider: Send + Sync + 'static {
    /// The claims of the caller, or `None` when it sent no credentials at all. The future is dropped when the request's
    /// time is up.
    fn authenticate<'a>(&'a self, request: &'a Parts) -> BoxFuture<'a, Result<Option<Claims>, AuthError>>;

    /// How it verifies them, for the audit trail. Default: by a signed token.
    fn method(&self) -> AuthMethod {
        AuthMethod::Jwt
    }

    /// The value of `WWW-Authenticate` on a 401: an RFC 9110 challenge.
    fn challenge(&self) -> Cow<'static, str> {
        Cow::Borrowed("Bearer")
    }
}

/// For schemas without an `auth` block: everybody is anonymous. Credentials are refused rather than ignored, since
/// nobody could check them.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoAuth;

impl AuthProvider for NoAuth {
    fn authenticate<'a>(&'a self, request: &'a Parts) -> BoxFuture<'a, Result<Option<Claims>, AuthError>> {
        let outcome = if request.headers.contains_key(AUTHORIZATION) {
            Err(AuthError::Invalid("credentials were sent, and no provider is configured".to_owned()))
        } else {
            Ok(None)
        };
        Box::pin(std::future::ready(outcome))
    }
}

/// Callers that are known by the certificate of their connection: over TLS with
/// [authorities for clients](crate::TlsFiles::client_ca).
///
/// A function gives the claims of a certificate's owner; a certificate that it does not know is a 401, whatever authority has
/// signed it. Who has no certificate is anonymous.
///
/// ```
/// use cratestack::{Claims, ClientName, MtlsAuth};
/// use cratestack::engine::json::Json;
///
/// let payments = ClientName::Uri("spiffe://bank.example/payments".to_owned());
/// let auth = MtlsAuth::new(move |certificate| {
///     let known = certificate.names().contains(&payments);
///     known.then(|| Claims(Json::Object(vec![("id".to_owned(), Json::String("payments".to_owned()))])))
/// });
/// ```
pub struct MtlsAuth<F>(F);

impl<F> MtlsAuth<F> {
    /// The provider.
    pub fn new(claims: F) -> Self
    where
        F: Fn(&ClientCertificate) -> Option<Claims> + Send + Sync + 'static,
    {
        Self(claims)
    }
}

impl<F> fmt::Debug for MtlsAuth<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MtlsAuth").finish_non_exhaustive()
    }
}

impl<F: Fn(&ClientCertificate) -> Option<Claims> + Send + Sync + 'static> AuthProvider for MtlsAuth<F> {
    fn authenticate<'a>(&'a self, request: &'a Parts) -> BoxFuture<'a, Result<Option<Claims>, AuthError>> {
        let outcome = if request.headers.contains_key(AUTHORIZATION) {
            Err(AuthError::Invalid(
                "an `Authorization` was sent, and callers are known by their certificates".to_owned(),
            ))
        } else if let Some(certificate) = request.extensions.get::<ClientCertificate>() {
            let unknown = || format!("nobody is known by the certificate `{}`", certificate.fingerprint());
            (self.0)(certificate).map(Some).ok_or_else(|| AuthError::Invalid(unknown()))
        } else {
            Ok(None)
        };
        Box::pin(std::future::ready(outcome))
    }

    fn method(&self) -> AuthMethod {
        AuthMethod::Mtls
    }

    /// No registered scheme asks for a certificate.
    fn challenge(&self) -> Cow<'static, str> {
        Cow::Borrowed("ClientCertificate")
    }
}

/// For development: `Authorization: Bearer dev.<claims>`, where the claims are JSON in base64url without padding.
///
/// The tokens are not signed, so that they are taken from loopback peers only: the request needs a
/// [`ConnectInfo<SocketAddr>`] extension, as [`serve`](crate::serve) and
/// `axum::Router::into_make_service_with_connect_info` add it. A request that a proxy has forwarded
/// (`Forwarded`, `X-Forwarded-For`) does not count as local.
#[derive(Debug, Clone, Copy, Default)]
pub struct DevAuth(());

impl DevAuth {
    /// The provider.
    pub fn new() -> Self {
        Self(())
    }

    /// The value of `Authorization` for these claims, which are the text of a JSON object.
    pub fn header(claims: &str) -> String {
        format!("Bearer dev.{}", URL_SAFE_NO_PAD.encode(claims))
    }
}

impl AuthProvider for DevAuth {
    fn authenticate<'a>(&'a self, request: &'a Parts) -> BoxFuture<'a, Result<Option<Claims>, AuthError>> {
        Box::pin(std::future::ready(dev_claims(request).map_err(|why| AuthError::Invalid(why.to_owned()))))
    }

    fn method(&self) -> AuthMethod {
        AuthMethod::Dev
    }
}

fn dev_claims(request: &Parts) -> Result<Option<Claims>, &'static str> {
    let mut lines = request.headers.get_all(AUTHORIZATION).iter();
    let Some(line) = lines.next() else {
        return Ok(None);
    };
    if lines.next().is_some() {
        return Err("more than one `Authorization` header");
    }
    if !is_local(request) {
        return Err("dev tokens are taken from loopback addresses only");
    }
    let (scheme, token) = line.to_str().ok().and_then(|text| text.split_once(' ')).ok_or("no scheme and token")?;
    let token = token.trim_start_matches(' ').strip_prefix("dev.").filter(|_| scheme.eq_ignore_ascii_case("bearer"));
    let encoded = token.ok_or("not a `Bearer dev.` token")?;
    let text = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| "the token is not base64url without padding")?;
    match parse_json(&text) {
        Ok(claims @ Json::Object(_)) => Ok(Some(Claims(claims))),
        Ok(_) | Err(_) => Err("the token's text is no JSON object"),
    }
}

fn is_local(request: &Parts) -> bool {
    let forwarded = [&FORWARDED, &X_FORWARDED_FOR].iter().any(|name| request.headers.contains_key(*name));
    let peer = request.extensions.get::<ConnectInfo<SocketAddr>>();
    !forwarded && peer.is_some_and(|ConnectInfo(peer)| peer.ip().to_canonical().is_loopback())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use http::Request;

    fn request(peer: Option<&str>, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder();
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        if let Some(peer) = peer {
            parts.extensions.insert(ConnectInfo::<SocketAddr>(peer.parse().unwrap()));
        }
        parts
    }

    #[test]
    fn dev_tokens() {
        let good = DevAuth::header(r#"{"id":"ann","role":"teller"}"#);
        let lower = good.replacen("Bearer", "bearer", 1);
        let (text, list) = (DevAuth::header("ann"), DevAuth::header("[1]"));
        let table = [
            (Some("127.0.0.1:1"), good.as_str(), true),
            (Some("127.8.0.1:1"), &good, true),
            (Some("[::1]:1"), &good, true),
            (Some("[::ffff:127.0.0.1]:1"), &good, true),
            (Some("[::1]:1"), &lower, true),
            (Some("10.0.0.1:1"), &good, false),
            (Some("[2001:db8::1]:1"), &good, false),
            (None, &good, false),
            (Some("[::1]:1"), &text, false),
            (Some("[::1]:1"), &list, false),
            (Some("[::1]:1"), "Bearer dev.e30=", false),
            (Some("[::1]:1"), "Bearer dev.", false),
            (Some("[::1]:1"), "Bearer e30", false),
            (Some("[::1]:1"), "Basic dev.e30", false),
            (Some("[::1]:1"), "Bearer", false),
            (Some("[::1]:1"), "", false),
        ];
        for (peer, value, valid) in table {
            let claims = dev_claims(&request(peer, &[("authorization", value)]));
            assert_eq!(claims.is_ok(), valid, "{peer:?} {value}");
            if valid {
                let text = |text: &str| Json::String(text.to_owned());
                let members = vec![("id".to_owned(), text("ann")), ("role".to_owned(), text("teller"))];
                assert_eq!(claims, Ok(Some(Claims(Json::Object(members)))));
            }
        }
        let (peer, header) = (Some("[::1]:1"), ("authorization", good.as_str()));
        assert_eq!(dev_claims(&request(None, &[])), Ok(None));
        assert!(dev_claims(&request(peer, &[header, header])).is_err());
        assert!(dev_claims(&request(peer, &[header, ("x-forwarded-for", "10.0.0.1")])).is_err());
        assert!(dev_claims(&request(peer, &[header, ("forwarded", "for=10.0.0.1")])).is_err());
    }
}
