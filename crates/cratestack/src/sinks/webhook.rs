//! Events as requests to a webhook, by the [Standard Webhooks](https://www.standardwebhooks.com) specification.

use std::error::Error as _;
use std::fmt::{self, Debug};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use axum::body::{Body, to_bytes};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cratestack_engine::relay::{AuditEvent, AuditSink, BoxFuture, SinkError};
use cratestack_engine::sources::{Clock, SystemClock};
use http::uri::{Authority, Scheme};
use http::{HeaderName, Method, Request, Response, StatusCode, Uri, header};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::ClientConfig;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::singly::Singly;
use super::{SetupError, tls};

/// Requests at the same time.
const AT_ONCE: usize = 8;
/// How long one request may take, from the connection to the end of the answer.
const DEADLINE: Duration = Duration::from_secs(10);
/// Octets of an answer that are read, so that its connection can be used again.
const ANSWER: usize = 64 * 1024;
/// How long a connection without a request is kept.
const IDLE: Duration = Duration::from_secs(30);

const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// The keys by which a webhook is signed. While one is exchanged for another there are two, and each request has a
/// signature by each.
#[derive(Clone)]
pub struct WebhookSecrets {
    keys: Vec<hmac::Key>,
}

impl FromStr for WebhookSecrets {
    type Err = SetupError;

    /// Reads secrets between which there are spaces or commas: `whsec_` and the base64 text of 24 to 64 octets.
    fn from_str(text: &str) -> Result<Self, SetupError> {
        let secrets = text.split([' ', ',']).filter(|secret| !secret.is_empty());
        let keys: Option<Vec<hmac::Key>> = secrets.map(key).collect();
        keys.filter(|keys| !keys.is_empty()).map(|keys| Self { keys }).ok_or_else(|| {
            // The text is not shown: it may be a secret with a slip of the pen.
            SetupError::new(
                "the secret of the webhook is not `whsec_` and the base64 text of 24 to 64 octets",
                "make one with `echo whsec_$(openssl rand -base64 32)`; while two are valid, write both with a space between",
            )
        })
    }
}

fn key(secret: &str) -> Option<hmac::Key> {
    let octets = STANDARD.decode(secret.strip_prefix("whsec_")?).ok()?;
    (24..=64).contains(&octets.len()).then(|| hmac::Key::new(hmac::HMAC_SHA256, &octets))
}

impl WebhookSecrets {
    /// The value of `webhook-signature`.
    fn sign(&self, id: &str, timestamp: &str, body: &str) -> String {
        let sign = |key: &hmac::Key| {
            let mut context = hmac::Context::with_key(key);
            for part in [id, ".", timestamp, ".", body] {
                context.update(part.as_bytes());
            }
            format!("v1,{}", STANDARD.encode(context.sign()))
        };
        self.keys.iter().map(sign).collect::<Vec<_>>().join(" ")
    }
}

impl Debug for WebhookSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WebhookSecrets({})", self.keys.len())
    }
}

/// Sends each event as a `POST` of its own, whose body is the entry and whose `webhook-id` is its id: the
/// receiver knows a repeated event by it. The events of one key are sent one after the other, those of up to 8 keys at
/// the same time.
///
/// | answer | what it means |
/// |---|---|
/// | 2xx | the receiver has the event |
/// | 401, 403, 404, 405, 407, 408, 410, 425, 429 | the webhook, or what is configured here, is not ready: everything waits |
/// | other 4xx | the receiver does not want this event |
/// | anything else, redirects (which are not followed), no answer within 10 s | everything waits |
///
/// `https` verifies the receiver by the certificate authorities of this machine. `http` is for a receiver on the same
/// machine, such as a proxy. `HTTP_PROXY` and its like are not read.
pub struct WebhookSink {
    name: String,
    target: Uri,
    /// The target as messages name it: path and query may be secrets.
    shown: String,
    secrets: WebhookSecrets,
    client: Client<HttpsConnector<HttpConnector>, Body>,
    clock: Arc<dyn Clock>,
    deadline: Duration,
    singly: Singly,
}

impl WebhookSink {
    /// A sink for the webhook at `url`. Nothing is sent yet.
    ///
    /// # Errors
    /// When the URL is none of a webhook, or this machine trusts no certificate authority.
    pub fn new(url: &str, secrets: WebhookSecrets) -> Result<Self, SetupError> {
        let (target, shown) = target(url)?;
        let tls = if target.scheme() == Some(&Scheme::HTTPS) { tls::config()? } else { tls::none()? };
        Ok(Self::with(target, shown, secrets, tls))
    }

    fn with(target: Uri, shown: String, secrets: WebhookSecrets, tls: ClientConfig) -> Self {
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_nodelay(true);
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(connector);
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(AT_ONCE)
            .pool_timer(TokioTimer::new())
            .build(connector);
        Self {
            name: "webhook".to_owned(),
            target,
            shown,
            secrets,
            client,
            clock: Arc::new(SystemClock),
            deadline: DEADLINE,
            singly: Singly::new(AT_ONCE),
        }
    }

    /// Sets the sink's name. Default: `webhook`.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Sets the clock of `webhook-timestamp`.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Sets how long one request may take. Default 10 s.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    async fn send(&self, id: Uuid, event: &AuditEvent) -> Result<(), SinkError> {
        let request = self.request(id, event)?;
        let until = Instant::now() + self.deadline;
        match timeout_at(until, self.client.request(request)).await {
            Ok(Ok(answer)) => self.judge(answer, until).await,
            Ok(Err(error)) => Err(self.unavailable(&format!("cannot be reached: {}", innermost(&error)))),
            Err(_) => Err(self.unavailable(&format!("has not answered within {:?}", self.deadline))),
        }
    }

    fn request(&self, id: Uuid, event: &AuditEvent) -> Result<Request<Body>, SinkError> {
        let id = id.hyphenated().to_string();
        let timestamp = (self.clock.now() / 1_000_000).to_string();
        let signature = self.secrets.sign(&id, &timestamp, &event.entry);
        Request::builder()
            .method(Method::POST)
            .uri(self.target.clone())
            .header(header::CONTENT_TYPE, event.log.media_type)
            .header(header::USER_AGENT, concat!("cratestack/", env!("CARGO_PKG_VERSION")))
            .header(WEBHOOK_ID, id)
            .header(WEBHOOK_TIMESTAMP, timestamp)
            .header(WEBHOOK_SIGNATURE, signature)
            .body(Body::from(event.entry.clone()))
            .map_err(|_| self.unavailable("cannot be asked: the request is not valid"))
    }

    async fn judge(&self, answer: Response<Incoming>, until: Instant) -> Result<(), SinkError> {
        let status = answer.status();
        // What it says does not matter; read to its end, its connection can be used again.
        let _ = timeout_at(until, to_bytes(Body::new(answer.into_body()), ANSWER)).await;
        if status.is_success() {
            return Ok(());
        }
        if status.is_client_error() && !NOT_THE_EVENTS.contains(&status) {
            return Err(SinkError::refused(format!("{} refuses the event with {}", self.shown, status.as_u16())));
        }
        let why = if status.is_redirection() { ", and redirects are not followed" } else { "" };
        Err(self.unavailable(&format!("answers {}{why}", status.as_u16())))
    }

    fn unavailable(&self, why: &str) -> SinkError {
        SinkError::unavailable(format!("{} {why}", self.shown))
    }
}

/// Answers of 4xx that say nothing about the event: another event, or the same one later, would fare alike.
const NOT_THE_EVENTS: [StatusCode; 9] = [
    StatusCode::UNAUTHORIZED,
    StatusCode::FORBIDDEN,
    StatusCode::NOT_FOUND,
    StatusCode::METHOD_NOT_ALLOWED,
    StatusCode::PROXY_AUTHENTICATION_REQUIRED,
    StatusCode::REQUEST_TIMEOUT,
    StatusCode::GONE,
    StatusCode::TOO_EARLY,
    StatusCode::TOO_MANY_REQUESTS,
];

impl Debug for WebhookSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebhookSink").field("name", &self.name).field("target", &self.shown).finish_non_exhaustive()
    }
}

impl AuditSink for WebhookSink {
    fn name(&self) -> &str {
        &self.name
    }

    fn deliver<'a>(&'a self, events: &'a [AuditEvent]) -> BoxFuture<'a, Result<(), SinkError>> {
        Box::pin(self.singly.deliver(events, |id, event| self.send(id, event)))
    }
}

/// The URL, and how messages name it.
fn target(url: &str) -> Result<(Uri, String), SetupError> {
    let wrong = |what: &str| {
        SetupError::new(
            format!("the URL of the webhook {what}"),
            "write `https://HOST/PATH`; `http` is for a receiver on this machine (`http://127.0.0.1:PORT/PATH`)",
        )
    };
    let uri: Uri = url.parse().map_err(|_| wrong("is not a URL"))?;
    let (Some(scheme), Some(authority)) = (uri.scheme(), uri.authority()) else {
        return Err(wrong("names no scheme or no host"));
    };
    if authority.as_str().contains('@') {
        return Err(wrong("contains credentials, which are not sent: requests are signed"));
    }
    let private = *scheme == Scheme::HTTPS || (*scheme == Scheme::HTTP && is_this_machine(authority));
    if !private {
        return Err(wrong("is not `https`, and its host is not this machine"));
    }
    let shown = format!("`{scheme}://{authority}`");
    Ok((uri, shown))
}

fn is_this_machine(authority: &Authority) -> bool {
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The cause at the bottom, which says most: the refused connection, the certificate.
fn innermost(error: &hyper_util::client::legacy::Error) -> String {
    let mut cause = error.source();
    let mut text = "the connection ended".to_owned();
    while let Some(error) = cause {
        text = match error.downcast_ref::<std::io::Error>() {
            Some(error) => super::cause(error),
            None => error.to_string(),
        };
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
