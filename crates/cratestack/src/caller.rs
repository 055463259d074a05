//! Who a caller is to layers: whose keys and whose limits.

use std::fmt::{self, Debug};

use cratestack_engine::api::Principal;
use cratestack_engine::plan::key_text;
use cratestack_schema::ir::{FieldId, Schema};
use cratestack_schema::value::Value;
use http::HeaderMap;

use crate::idempotency::Parts;

/// What a request brings along when it does not come from nobody. Where it does, the host has to say whose it is.
const CREDENTIALS: [&str; 15] = [
    "authorization",
    "proxy-authorization",
    "cookie",
    "x-api-key",
    "api-key",
    "x-auth-token",
    "client-cert",
    "x-client-cert",
    "x-forwarded-client-cert",
    "x-ssl-client-cert",
    "ssl-client-cert",
    "x-amzn-mtls-clientcert",
    "x-forwarded-user",
    "x-remote-user",
    "x-auth-request-user",
];

/// Whose request it is: the host's authentication puts this into the request's extensions, when it has verified it.
///
/// A request that brings `Authorization`, `Cookie`, an API key or a certificate in a header, and not this, is refused
/// with a 500 by the layers that need to know: keys and limits are never shared between callers by accident. One that
/// brings nothing of the kind is from nobody, and all such requests share their keys. A certificate that only the
/// connection knows cannot be seen here, and neither can a secret in the URL: where there are any, every request needs
/// this extension.
#[derive(Clone, PartialEq, Eq)]
pub struct CallerScope {
    pub(crate) tenant: Option<Box<str>>,
    pub(crate) subject: Box<str>,
}

impl CallerScope {
    /// The tenant, where there are any, and what names the caller within it and stays what it is: an account, a client
    /// id. Never a token or a session, which are others by the time of a retry.
    pub fn new(tenant: Option<&str>, subject: &str) -> Self {
        Self { tenant: tenant.map(Into::into), subject: subject.into() }
    }

    /// Of a principal. Where the `auth` block has no subject, all of its claims together are one.
    pub(crate) fn of(schema: &Schema, principal: &Principal) -> Option<Self> {
        let auth = schema.auth.as_ref()?;
        let text = |id: FieldId| {
            let claim = principal.claims.get(id.index()).filter(|claim| **claim != Value::Null)?;
            Some(key_text(schema, auth.fields.get(id.index())?.ty, claim))
        };
        let tenant = auth.tenant.and_then(text);
        let subject = auth.subject.and_then(text).unwrap_or_else(|| {
            let mut all = Parts::new("claims");
            for claim in &principal.claims {
                all.add(serde_json::to_string(claim).unwrap_or_default().as_bytes());
            }
            cratestack_schema::hex(&all.finish())
        });
        Some(Self { tenant: tenant.map(Into::into), subject: subject.into() })
    }
}

/// Without the names, which may be personal.
impl Debug for CallerScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallerScope").finish_non_exhaustive()
    }
}

/// The first header that says that the caller is somebody.
pub(crate) fn credential(headers: &HeaderMap) -> Option<&'static str> {
    CREDENTIALS.into_iter().find(|name| headers.contains_key(*name))
}
