//! Events as messages of a NATS JetStream stream.

use std::fmt::{self, Debug};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::context::{Context, ContextBuilder, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{self, ErrorCode};
use async_nats::{ConnectOptions, ServerAddr};
use cratestack_engine::relay::{AuditEvent, AuditSink, BoxFuture, SinkError};
use percent_encoding::percent_decode_str;
use tokio::sync::Mutex;
use uuid::Uuid;

use super::singly::Singly;
use super::{SetupError, tls};

/// Messages at the same time whose acknowledgement is waited for.
const AT_ONCE: usize = 128;
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long the acknowledgement of a message may take.
const DEADLINE: Duration = Duration::from_secs(5);
/// Octets of a subject without the model's name.
const SUBJECT: usize = 200;

/// Publishes each event to `<subject>.<Model>` of JetStream, with the entry as payload and its id as `Nats-Msg-Id`,
/// and answers when a stream has acknowledged it. The stream drops repeated events by that id for as long as its
/// duplicate window is (two minutes unless it says otherwise). Of one key, an event is published when the one before it
/// has been acknowledged.
///
/// The sink makes no stream: how long it keeps messages and on how many servers is the operator's decision. It has to
/// take the subjects `<subject>.>`.
///
/// The first event makes the connection; later the client connects again by itself.
pub struct NatsSink {
    name: String,
    servers: Vec<ServerAddr>,
    /// The servers as messages name them.
    shown: String,
    login: Option<Login>,
    tls: Option<rustls::ClientConfig>,
    subject: String,
    deadline: Duration,
    context: Mutex<Option<Context>>,
    singly: Singly,
}

/// What the URL says before its `@`.
#[derive(Clone, PartialEq, Eq)]
enum Login {
    Token(String),
    Password { user: String, password: String },
}

impl NatsSink {
    /// A sink for the servers at `urls`, between which there are commas: `nats://HOST:PORT`, `tls://HOST:PORT` where a
    /// connection without TLS is not good enough, `nats://USER:PASSWORD@HOST` or `nats://TOKEN@HOST`. Nothing is sent
    /// yet.
    ///
    /// # Errors
    /// When a URL or the subject is none, when two URLs name different credentials, or when TLS is asked for and this
    /// machine trusts no certificate authority.
    pub fn new(urls: &str, subject: &str) -> Result<Self, SetupError> {
        if !is_subject(subject) {
            return Err(SetupError::new(
                "the subject is none of NATS",
                "write words of letters, digits, `_` and `-` with dots between them, such as `cratestack.audit`",
            ));
        }
        let (servers, login) = servers(urls)?;
        let tls = match tls::config() {
            Ok(tls) => Some(tls),
            Err(error) if servers.iter().any(ServerAddr::tls_required) => return Err(error),
            Err(_) => None,
        };
        Ok(Self::with(servers, login, subject, tls))
    }

    fn with(servers: Vec<ServerAddr>, login: Option<Login>, subject: &str, tls: Option<rustls::ClientConfig>) -> Self {
        let show = |server: &ServerAddr| format!("`{}://{}:{}`", server.scheme(), server.host(), server.port());
        let shown: Vec<String> = servers.iter().map(show).collect();
        Self {
            name: "nats".to_owned(),
            shown: shown.join(", "),
            servers,
            login,
            tls,
            subject: subject.to_owned(),
            deadline: DEADLINE,
            context: Mutex::default(),
            singly: Singly::new(AT_ONCE),
        }
    }

    /// Sets the sink's name. Default: `nats`.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Sets how long the acknowledgement of a message may take. Default 5 s.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// The connection; made where there is none yet.
    async fn context(&self) -> Result<Context, SinkError> {
        let mut context = self.context.lock().await;
        if let Some(context) = context.as_ref() {
            // What is published without a connection would wait for one in memory.
            return match context.client().connection_state() {
                State::Connected => Ok(context.clone()),
                State::Pending | State::Disconnected => Err(self.unavailable("the connection is lost")),
            };
        }
        let mut options = ConnectOptions::new()
            .name("cratestack")
            .connection_timeout(CONNECT)
            .require_tls(self.servers.iter().any(ServerAddr::tls_required));
        if let Some(tls) = &self.tls {
            options = options.tls_client_config(tls.clone());
        }
        options = match self.login.clone() {
            Some(Login::Password { user, password }) => options.user_and_password(user, password),
            Some(Login::Token(token)) => options.token(token),
            None => options,
        };
        let connecting = tokio::time::timeout(2 * CONNECT, options.connect(&*self.servers));
        let client = match connecting.await {
            Ok(Ok(client)) => client,
            // Its kind alone: what is behind it may show more than it should.
            Ok(Err(error)) => return Err(self.unavailable(&format!("no connection: {}", error.kind()))),
            Err(_) => return Err(self.unavailable("no connection in time")),
        };
        let made = ContextBuilder::new().timeout(self.deadline).backpressure_on_inflight(true).build(client);
        Ok(context.insert(made).clone())
    }

    async fn publish(&self, context: &Context, id: Uuid, event: &AuditEvent) -> Result<(), SinkError> {
        if !is_word(&event.model) {
            return Err(SinkError::refused("the model's name cannot be a part of a subject"));
        }
        let subject = format!("{}.{}", self.subject, event.model);
        let id = id.hyphenated().to_string();
        let message = PublishMessage::build().payload(event.entry.clone().into()).message_id(id);
        let published = match context.send_publish(subject.clone(), message).await {
            Ok(acknowledgement) => acknowledgement.await,
            Err(error) => Err(error),
        };
        let Err(error) = published else { return Ok(()) };
        let code = std::error::Error::source(&error)
            .and_then(|error| error.downcast_ref::<jetstream::Error>())
            .map(jetstream::Error::error_code);
        Err(match (error.kind(), code) {
            (PublishErrorKind::StreamNotFound, _) => {
                self.unavailable(&format!("no stream takes the subject `{subject}`; let one take `{}.>`", self.subject))
            }
            (PublishErrorKind::MaxPayloadExceeded, _)
            | (PublishErrorKind::Other, Some(ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM)) => {
                SinkError::refused(format!("the event is larger than the stream of `{subject}` takes"))
            }
            (kind, Some(code)) => self.unavailable(&format!("`{subject}`: {kind} (error {})", code.0)),
            (kind, None) => self.unavailable(&format!("`{subject}`: {kind}")),
        })
    }

    fn unavailable(&self, why: &str) -> SinkError {
        SinkError::unavailable(format!("NATS at {}: {why}", self.shown))
    }
}

impl Debug for NatsSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsSink")
            .field("name", &self.name)
            .field("servers", &self.shown)
            .field("subject", &self.subject)
            .finish_non_exhaustive()
    }
}

impl AuditSink for NatsSink {
    fn name(&self) -> &str {
        &self.name
    }

    fn deliver<'a>(&'a self, events: &'a [AuditEvent]) -> BoxFuture<'a, Result<(), SinkError>> {
        Box::pin(async move {
            let context = &self.context().await?;
            self.singly.deliver(events, |id, event| self.publish(context, id, event)).await
        })
    }
}

/// The servers without their credentials, which the client's log must not get to see.
fn servers(urls: &str) -> Result<(Vec<ServerAddr>, Option<Login>), SetupError> {
    let wrong = |what: &'static str| {
        SetupError::new(
            format!("a URL of NATS {what}"),
            "write `nats://HOST:PORT` or `tls://HOST:PORT`, several with commas",
        )
    };
    let mut servers = Vec::new();
    let mut logins: Vec<Login> = Vec::new();
    for url in urls.split(',').map(str::trim) {
        let server: ServerAddr = url.parse().map_err(|_| wrong("is none"))?;
        if server.is_websocket() || server.host().is_empty() {
            return Err(wrong("has another scheme than `nats` or `tls`, or no host"));
        }
        let mut url = server.into_inner();
        let text = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let login = match (url.username(), url.password()) {
            ("", None) => None,
            (token, None) => Some(Login::Token(text(token))),
            (user, Some(password)) => Some(Login::Password { user: text(user), password: text(password) }),
        };
        logins.extend(login.filter(|login| !logins.contains(login)));
        if url.set_username("").is_err() || url.set_password(None).is_err() {
            return Err(wrong("is none"));
        }
        servers.push(ServerAddr::from_url(url).map_err(|_| wrong("is none"))?);
    }
    if logins.len() > 1 {
        return Err(wrong("has other credentials than the one before it"));
    }
    Ok((servers, logins.pop()))
}

fn is_subject(text: &str) -> bool {
    text.len() <= SUBJECT && text.split('.').all(is_word)
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))
}

#[cfg(test)]
mod tests;
