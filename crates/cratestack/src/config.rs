//! What can be set, each with its name, unit and default.

use std::time::Duration;

use crate::address::TrustedProxies;
use crate::tls::Tls;

/// Limits and names of the API (docs/http.md, "Limits"). The engine's own limits are in [`cratestack_engine::Limits`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpConfig {
    /// Octets of a request body; more is a 413. Default 1 MiB.
    pub body_limit: usize,
    /// Octets of path and query together, without the value of `cursor`, which has a limit of its own
    /// ([`MAX_CURSOR`](cratestack_engine::cursor::MAX_CURSOR)); more is a 414. Together they must stay below the
    /// 64 KiB that the HTTP library takes. Default 8 KiB.
    pub url_limit: usize,
    /// Octets of all header names and values together; more is a 431. Default 32 KiB.
    pub header_limit: usize,
    /// How long a request may take from its head to its answer; then it is a 503. Default 30 s.
    pub request_timeout: Duration,
    /// How long the body may take to arrive; then it is a 408. Counts towards `request_timeout`. Default 15 s.
    pub body_timeout: Duration,
    /// What a code is appended to, to make the `type` of a problem. Default `https://cratestack.dev/problems/`.
    pub problem_base: String,
    /// The path that callers see before the API's own, for `Location` and `Link`: `/bank/api` where a proxy adds
    /// `/bank`. Default: what the router is nested under.
    pub base_path: Option<String>,
    /// How the keys of `Idempotency-Key` are kept.
    pub idempotency: IdempotencyConfig,
    /// Whose `X-Forwarded-For` is believed, for rate limits and the audit trail. Default: nobody's.
    pub trusted_proxies: TrustedProxies,
}

/// How the keys of `Idempotency-Key` are kept (docs/idempotency.md).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyConfig {
    /// How long a key counts. Default 31 days.
    pub retention: Duration,
    /// How long a request waits for another one with its key that is being done; then it is a 409. Default 5 s.
    pub wait: Duration,
    /// Octets of an answer's body that are kept at most. Of a longer one status, headers and digest are. Default 1 MiB.
    pub response_limit: usize,
    /// What tells the keys of one deployment from those of another on the same database. Default: the name of the schema.
    pub deployment: Option<String>,
}

impl Default for IdempotencyConfig {
    fn default() -> Self {
        Self {
            retention: Duration::from_hours(31 * 24),
            wait: Duration::from_secs(5),
            response_limit: 1024 * 1024,
            deployment: None,
        }
    }
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            body_limit: 1024 * 1024,
            url_limit: 8 * 1024,
            header_limit: 32 * 1024,
            request_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(15),
            problem_base: "https://cratestack.dev/problems/".to_owned(),
            base_path: None,
            idempotency: IdempotencyConfig::default(),
            trusted_proxies: TrustedProxies::default(),
        }
    }
}

/// Bounds of [`serve`](crate::serve).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerConfig {
    /// Connections at once; further ones wait in the listener's backlog. Default 4096.
    pub connections: usize,
    /// How long the head of a request may take to arrive, idle time on a kept-alive connection included.
    /// Default 30 s.
    pub header_timeout: Duration,
    /// A connection on which no octet moves in either direction for so long is closed. Longer than
    /// [`HttpConfig::request_timeout`]. Default 90 s.
    pub idle_timeout: Duration,
    /// Concurrent requests on one HTTP/2 connection. Default 128.
    pub streams: u32,
    /// As [`HttpConfig::problem_base`], for what is refused before any router sees it.
    pub problem_base: String,
    /// How long requests under way may take after a shutdown has begun, and on a connection whose certificate may be
    /// [revoked](Tls::reload). Default 30 s.
    pub drain_timeout: Duration,
    /// Certificates, to speak TLS. Default: none, which is HTTP as it is.
    pub tls: Option<Tls>,
    /// How long a TLS handshake may take. Default 10 s.
    pub handshake_timeout: Duration,
    /// Serves with the FIPS 140-3 validated module or not at all. Default: no.
    pub require_fips: bool,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            connections: 4096,
            header_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(90),
            streams: 128,
            problem_base: HttpConfig::default().problem_base,
            drain_timeout: Duration::from_secs(30),
            tls: None,
            handshake_timeout: Duration::from_secs(10),
            require_fips: false,
        }
    }
}
