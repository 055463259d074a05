//! Settings: one table from which flags, environment variables and `cratestack.toml` keys are made.
//!
//! A setting `list-max` is the flag `--list-max`, the variable `CRATESTACK_LIST_MAX` (or the name of a file with the
//! value in `CRATESTACK_LIST_MAX_FILE`; of a setting that is a file, both name it) and the key `list-max` of
//! `cratestack.toml`. The first of these that is there wins, in that order. What nobody declared is an error: a misspelt limit must not be a missing limit.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValue, StringValueParser, TypedValueParser};
use clap::{Arg, ArgAction, ArgMatches, Command, ValueHint};
use cratestack::TrustedProxies;
use cratestack_schema::fuzzy;

use crate::ui::{self, Failure};

/// Which commands know a setting.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// `dev` and `serve`.
    Both,
    /// `serve` alone.
    Serve,
}

/// What a setting's text must be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Any text.
    Text,
    /// One of these words.
    Word(&'static [&'static str]),
    /// The path of a file, which `NAME_FILE` names as well: the file is the value.
    Path,
    /// Texts with `;` between them; in `cratestack.toml` an array of texts too.
    List,
    /// A flag without a value; `true` or `false` elsewhere.
    Switch,
    /// A positive whole number.
    Number,
    /// Addresses and networks.
    Networks,
    /// Octets: `1048576`, `512KiB`, `1MiB`.
    Size,
    /// `500ms`, `30s`, `5m`, `24h`.
    Time,
}

/// One line of the table.
pub(crate) struct Setting {
    /// Kebab-case name.
    pub(crate) key: &'static str,
    value: &'static str,
    kind: Kind,
    scope: Scope,
    default: Option<&'static str>,
    help: &'static str,
}

const fn setting(
    key: &'static str,
    value: &'static str,
    kind: Kind,
    scope: Scope,
    default: Option<&'static str>,
    help: &'static str,
) -> Setting {
    Setting { key, value, kind, scope, default, help }
}

/// The settings of a log's sinks.
macro_rules! sinks {
    ($name:literal, $log:literal, $event:literal, $subject:literal) => {
        [
            setting(
                concat!($name, "-file"),
                "PATH",
                Kind::Text,
                Scope::Both,
                None,
                concat!("append ", $log, " to this file too, an event a line"),
            ),
            setting(
                concat!($name, "-file-size"),
                "SIZE",
                Kind::Size,
                Scope::Both,
                Some("100MiB"),
                concat!("largest file of ", $log, "; a full one is renamed and a new one begun"),
            ),
            setting(
                concat!($name, "-webhook"),
                "URL",
                Kind::Text,
                Scope::Both,
                None,
                concat!("send ", $event, " to this `https` URL too, signed (Standard Webhooks)"),
            ),
            setting(
                concat!($name, "-webhook-secret"),
                "SECRETS",
                Kind::Text,
                Scope::Both,
                None,
                "what the webhook is signed with: `whsec_` and base64; two with a space between while one replaces the other",
            ),
            setting(
                concat!($name, "-nats"),
                "URLS",
                Kind::Text,
                Scope::Both,
                None,
                concat!("publish ", $log, " to JetStream of NATS too: `nats://` or `tls://`, several with commas"),
            ),
            setting(
                concat!($name, "-nats-subject"),
                "SUBJECT",
                Kind::Text,
                Scope::Both,
                Some($subject),
                "prefix of the NATS subjects; the model's name follows after a dot",
            ),
        ]
    };
}

static AUDIT_SINKS: [Setting; 6] =
    sinks!("audit", "the audit trail", "each event of the audit trail", "cratestack.audit");
static EVENT_SINKS: [Setting; 6] =
    sinks!("event", "the events of `@@emit`", "each event of `@@emit`", "cratestack.events");

/// Every setting.
pub(crate) fn all() -> impl Iterator<Item = &'static Setting> {
    SETTINGS.iter().chain(&AUDIT_SINKS).chain(&EVENT_SINKS)
}

/// The settings that have nothing to do with sinks.
static SETTINGS: [Setting; 51] = [
    setting(
        "database",
        "URL",
        Kind::Text,
        Scope::Both,
        None,
        "sqlite:PATH, sqlite::memory: or postgres://USER@HOST/NAME",
    ),
    setting(
        "addr",
        "ADDR",
        Kind::Text,
        Scope::Both,
        Some("127.0.0.1:8080"),
        "address to listen on; port 0 takes a free one",
    ),
    setting(
        "apply",
        "",
        Kind::Switch,
        Scope::Serve,
        None,
        "apply pending migrations first; without migrations, create the schema if the database is empty",
    ),
    setting(
        "migrations",
        "DIR",
        Kind::Text,
        Scope::Serve,
        Some("migrations"),
        "folder of the migrations that the database must have; `none`: there are none, whatever is there",
    ),
    setting(
        "auth",
        "PROVIDER",
        Kind::Text,
        Scope::Serve,
        None,
        "how callers are authenticated: `mtls` (by their certificates), `dev`, or `none` for a schema without an auth block",
    ),
    setting(
        "allow-dev-auth",
        "",
        Kind::Switch,
        Scope::Serve,
        None,
        "accept unsigned dev tokens from this machine (benchmarks and tests only)",
    ),
    setting(
        "tls-cert",
        "FILE",
        Kind::Path,
        Scope::Serve,
        None,
        "speak TLS with this certificate (PEM, with those up to the authority behind it); SIGHUP reads all TLS files again",
    ),
    setting("tls-key", "FILE", Kind::Path, Scope::Serve, None, "the private key of `tls-cert` (PEM)"),
    setting(
        "tls-client-ca",
        "FILE",
        Kind::Path,
        Scope::Serve,
        None,
        "let only clients connect whose certificate one of these authorities has signed (PEM)",
    ),
    setting(
        "tls-client-crl",
        "FILE",
        Kind::Path,
        Scope::Serve,
        None,
        "revocation lists of the clients' authorities (PEM); whose authority has no list here is refused",
    ),
    setting(
        "tls-client-auth",
        "WHEN",
        Kind::Word(&["required", "optional"]),
        Scope::Serve,
        Some("required"),
        "whether clients need a certificate: `required`, or `optional` for probes and anonymous callers",
    ),
    setting(
        "mtls-clients",
        "FILE",
        Kind::Path,
        Scope::Serve,
        None,
        "the clients of `--auth mtls` and their claims (TOML, docs/tls.md)",
    ),
    setting(
        "require-fips",
        "",
        Kind::Switch,
        Scope::Serve,
        None,
        "serve with the FIPS 140-3 validated module or not at all (docs/tls.md)",
    ),
    setting(
        "log",
        "FILTER",
        Kind::Text,
        Scope::Both,
        Some("warn"),
        "what to log, as tracing directives (`info`, `cratestack=debug`)",
    ),
    setting("log-format", "FORMAT", Kind::Word(&["text", "json"]), Scope::Both, Some("text"), "`text` or `json`"),
    setting(
        "problem-base",
        "URL",
        Kind::Text,
        Scope::Both,
        Some("https://cratestack.dev/problems/"),
        "prefix of a problem's `type`",
    ),
    setting(
        "cursor-keys",
        "KEYS",
        Kind::Text,
        Scope::Serve,
        None,
        "comma-separated base64 keys of 32 octets for list cursors, newest first; default: the database's own key",
    ),
    setting(
        "decimal",
        "TYPE",
        Kind::Word(&["bigdecimal", "rust_decimal"]),
        Scope::Both,
        Some("bigdecimal"),
        "Rust type that every decimal in a request must fit, because code of yours reads it: `bigdecimal` (all do) or \
         `rust_decimal` (28 digits)",
    ),
    setting("connections", "N", Kind::Number, Scope::Both, Some("16"), "PostgreSQL connections at most"),
    setting("body-limit", "SIZE", Kind::Size, Scope::Both, Some("1MiB"), "largest request body"),
    setting("url-limit", "SIZE", Kind::Size, Scope::Both, Some("8KiB"), "longest request target"),
    setting("request-timeout", "TIME", Kind::Time, Scope::Both, Some("30s"), "longest time for one request"),
    setting("list-default", "N", Kind::Number, Scope::Both, Some("50"), "rows of a page without `limit`"),
    setting("list-max", "N", Kind::Number, Scope::Both, Some("1000"), "largest `limit`"),
    setting("batch-max", "N", Kind::Number, Scope::Both, Some("1000"), "items of a batch"),
    setting("include-limit", "N", Kind::Number, Scope::Both, Some("50"), "rows of a to-many include"),
    setting(
        "include-rows",
        "N",
        Kind::Number,
        Scope::Both,
        Some("250000"),
        "rows of a page with those of its includes",
    ),
    setting("include-depth", "N", Kind::Number, Scope::Both, Some("3"), "levels of `include`"),
    setting("relation-depth", "N", Kind::Number, Scope::Both, Some("8"), "relations that a filter may cross in a row"),
    setting("sort-fields", "N", Kind::Number, Scope::Both, Some("16"), "fields that a list may be sorted by"),
    setting("expression-depth", "N", Kind::Number, Scope::Both, Some("64"), "nesting of a `where` expression"),
    setting("expression-nodes", "N", Kind::Number, Scope::Both, Some("1000"), "parts of a `where` expression"),
    setting(
        "transaction-tries",
        "N",
        Kind::Number,
        Scope::Both,
        Some("5"),
        "how often a transaction runs that others get in the way of",
    ),
    setting(
        "denials-per-minute",
        "N",
        Kind::Number,
        Scope::Both,
        Some("60"),
        "refusals of one caller that `@@audit(denials)` records in a minute",
    ),
    setting(
        "service",
        "NAME",
        Kind::Text,
        Scope::Both,
        Some("cratestack"),
        "name of the service in the audit trail, and in the `source` of events",
    ),
    setting(
        "idempotency-retention",
        "TIME",
        Kind::Time,
        Scope::Both,
        Some("31d"),
        "how long an idempotency key counts",
    ),
    setting(
        "idempotency-wait",
        "TIME",
        Kind::Time,
        Scope::Both,
        Some("5s"),
        "how long a request waits for another one with its idempotency key",
    ),
    setting(
        "idempotency-response-limit",
        "SIZE",
        Kind::Size,
        Scope::Both,
        Some("1MiB"),
        "largest body of an answer that is kept with its idempotency key",
    ),
    setting(
        "idempotency-deployment",
        "NAME",
        Kind::Text,
        Scope::Both,
        None,
        "tells idempotency keys from those of other deployments on the database; default: the name of the schema",
    ),
    setting(
        "rate-limits",
        "LIMITS",
        Kind::List,
        Scope::Both,
        None,
        "how often requests may come: `NAME = LIMIT/PERIOD [burst N] [by PART+PART] [for CLASS] [on-failure WHAT] \
         [unauthorized N]`, with `;` between them (docs/rate-limits.md)",
    ),
    setting(
        "rate-limit-costs",
        "COSTS",
        Kind::List,
        Scope::Both,
        None,
        "units that routes count as: `METHOD /path = UNITS`, with `;` between them; a batch for each of its items",
    ),
    setting(
        "rate-limit-store",
        "STORE",
        Kind::Text,
        Scope::Both,
        Some("memory"),
        "where rate limits are counted: `memory` (each process for itself), `database` (PostgreSQL), or the URL of a Redis",
    ),
    setting(
        "rate-limit-deployment",
        "NAME",
        Kind::Text,
        Scope::Both,
        None,
        "tells rate limits from those of other deployments on the same Redis; default: the name of the schema",
    ),
    setting("rate-limit-nodes", "N", Kind::Number, Scope::Both, None, "processes that share the rate limits, at most"),
    setting(
        "rate-limit-lease",
        "TIME",
        Kind::Time,
        Scope::Both,
        None,
        "spend from a shared store in advance, for so long (100ms is usual), so that few requests wait for it",
    ),
    setting(
        "rate-limit-budget",
        "TIME",
        Kind::Time,
        Scope::Both,
        Some("5ms"),
        "longest time for a shared store; then each limit does what it says for that",
    ),
    setting(
        "rate-limit-connections",
        "N",
        Kind::Number,
        Scope::Both,
        Some("4"),
        "PostgreSQL connections for rate limits at most",
    ),
    setting(
        "rate-limit-slots",
        "N",
        Kind::Number,
        Scope::Both,
        Some("1048576"),
        "keys of rate limits that the memory has room for, 16 octets each",
    ),
    setting(
        "rate-limit-ipv6-prefix",
        "BITS",
        Kind::Number,
        Scope::Both,
        Some("64"),
        "bits of an IPv6 address that rate limits count together",
    ),
    setting(
        "trusted-proxies",
        "NETWORKS",
        Kind::Networks,
        Scope::Both,
        None,
        "whose `X-Forwarded-For` is believed: addresses and networks, with commas",
    ),
    setting("cursor-ttl", "TIME", Kind::Time, Scope::Both, Some("24h"), "how long a list cursor stays valid"),
];

/// Kubernetes gives every pod variables for every service; a service named `cratestack-x` makes these.
fn service_link(variable: &str) -> bool {
    variable.ends_with("_SERVICE_HOST")
        || variable.contains("_SERVICE_PORT")
        || variable.ends_with("_PORT")
        || variable.contains("_PORT_")
}

impl Setting {
    fn variable(&self) -> String {
        format!("CRATESTACK_{}", self.key.replace('-', "_").to_uppercase())
    }

    /// What it is, for whoever got it wrong.
    fn meaning(&self) -> String {
        let default = self.default.map(|default| format!("; the default is `{default}`")).unwrap_or_default();
        format!("`{}` is: {}{default}", self.key, self.help)
    }

    /// The flag.
    pub(crate) fn arg(&self) -> Arg {
        let mut help = format!("{} [env: {}]", self.help, self.variable());
        if let Some(default) = self.default {
            help = format!("{help} [default: {default}]");
        }
        let arg = Arg::new(self.key).long(self.key).help(help);
        match self.kind {
            Kind::Switch => arg.action(ArgAction::SetTrue),
            // For completions; what the word is, is checked with those of the other sources.
            Kind::Word(words) => arg.value_name(self.value).value_parser(Words(words)),
            // Hyphens too, which a key in PEM begins with: whatever stands there must not be shown by an error.
            Kind::Path => arg.value_name(self.value).value_hint(ValueHint::FilePath).allow_hyphen_values(true),
            _ => arg.value_name(self.value).value_hint(ValueHint::Other),
        }
    }
}

/// Takes any text, and tells the shell which it should be.
#[derive(Clone)]
struct Words(&'static [&'static str]);

impl TypedValueParser for Words {
    type Value = String;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<String, clap::Error> {
        StringValueParser::new().parse_ref(command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(self.0.iter().map(PossibleValue::new)))
    }
}

/// The settings that a command knows.
pub(crate) fn of(scope: Scope) -> impl Iterator<Item = &'static Setting> {
    all().filter(move |setting| setting.scope == Scope::Both || setting.scope == scope)
}

/// Where a value came from that nobody has set.
const DEFAULT: &str = "the default";

/// A resolved value and where it came from, for messages.
struct Resolved {
    text: String,
    from: String,
}

/// The settings of one start.
pub(crate) struct Settings {
    values: BTreeMap<&'static str, Resolved>,
}

/// Where settings come from besides flags.
pub(crate) struct Sources {
    /// The process environment.
    pub(crate) environment: Vec<(String, String)>,
    /// `--config`, else `cratestack.toml` if it exists.
    pub(crate) file: Option<(PathBuf, String)>,
}

impl Sources {
    /// The real ones.
    pub(crate) fn of_process(matches: &ArgMatches) -> Result<Self, Failure> {
        let mut environment = Vec::new();
        for (name, value) in std::env::vars_os() {
            let Ok(name) = name.into_string() else { continue };
            if !name.starts_with("CRATESTACK_") {
                continue;
            }
            let value = value.into_string().map_err(|_| {
                Failure::new(format!("the environment variable `{name}` is not UTF-8"))
                    .help("set it again in a UTF-8 terminal, or put the value in a file and use the `_FILE` form")
            })?;
            environment.push((name, value));
        }
        environment.sort();
        let named = matches
            .get_one::<String>("config")
            .cloned()
            .or_else(|| environment.iter().find(|(name, _)| name == "CRATESTACK_CONFIG").map(|(_, v)| v.clone()));
        let path = PathBuf::from(named.as_deref().unwrap_or("cratestack.toml"));
        let file = match std::fs::read_to_string(&path) {
            Ok(text) => Some((path, text)),
            Err(error) if named.is_none() && error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => {
                return Err(Failure::new(format!(
                    "cannot read the configuration `{}`: {}",
                    path.display(),
                    ui::cause(&error)
                ))
                .help("name an existing file with `--config`, or leave it out"));
            }
        };
        Ok(Self { environment, file })
    }
}

impl Settings {
    /// Resolves every setting of `scope`: flag, environment, file, default.
    pub(crate) fn resolve(scope: Scope, matches: &ArgMatches, sources: &Sources) -> Result<Self, Failure> {
        let from_environment = environment(&sources.environment)?;
        let from_file = match &sources.file {
            Some((path, text)) => file(&path.display().to_string(), text)?,
            None => BTreeMap::new(),
        };
        let mut values = BTreeMap::new();
        // What another command reads is checked too: the file is the same for all.
        for setting in all() {
            let flag = match setting.kind {
                _ if scope == Scope::Both && setting.scope == Scope::Serve => None,
                // A command may have some of the flags only.
                _ if !matches.try_contains_id(setting.key).unwrap_or(false) => None,
                Kind::Switch => matches.get_flag(setting.key).then(|| "true".to_owned()),
                _ => matches.get_one::<String>(setting.key).cloned(),
            };
            let resolved = if let Some(text) = flag {
                Some(Resolved { text, from: format!("`--{}`", setting.key) })
            } else if let Some((variable, text)) = from_environment.get(setting.key) {
                Some(Resolved { text: text.clone(), from: format!("`{variable}`") })
            } else if let Some((place, text)) = from_file.get(setting.key) {
                Some(Resolved { text: text.clone(), from: format!("`{}` in `{place}`", setting.key) })
            } else {
                setting.default.map(|text| Resolved { text: text.to_owned(), from: DEFAULT.to_owned() })
            };
            if let Some(resolved) = resolved {
                check(setting, &resolved)?;
                values.insert(setting.key, resolved);
            }
        }
        Ok(Self { values })
    }

    /// The text of a setting.
    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(|value| value.text.as_str())
    }

    /// Where the value came from, for messages.
    pub(crate) fn from(&self, key: &str) -> &str {
        self.values.get(key).map_or(DEFAULT, |value| value.from.as_str())
    }

    /// Whether somebody has set it.
    pub(crate) fn is_set(&self, key: &str) -> bool {
        self.values.get(key).is_some_and(|value| value.from != DEFAULT)
    }

    /// An error when `key` is set, and `other`, without which it means nothing, is not.
    pub(crate) fn companion(&self, key: &str, other: &str) -> Result<(), Failure> {
        if !self.is_set(key) || self.is_set(other) {
            return Ok(());
        }
        let failure = Failure::new(format!("{} is set, and `{other}` is not", self.from(key)));
        Err(match all().find(|setting| setting.key == other) {
            Some(setting) => failure.help(setting.meaning()),
            None => failure,
        })
    }

    /// Whether a switch is on.
    pub(crate) fn switch(&self, key: &str) -> bool {
        self.text(key) == Some("true")
    }

    /// A checked number; 0 only for a key that the table does not have.
    pub(crate) fn number<N: TryFrom<u64>>(&self, key: &str) -> Option<N> {
        self.text(key).and_then(number).and_then(|n| N::try_from(n).ok())
    }

    /// A checked size in octets.
    pub(crate) fn size(&self, key: &str) -> Option<usize> {
        self.text(key).and_then(size)
    }

    /// A checked duration.
    pub(crate) fn time(&self, key: &str) -> Option<Duration> {
        self.text(key).and_then(time)
    }
}

fn check(setting: &Setting, resolved: &Resolved) -> Result<(), Failure> {
    let text = resolved.text.as_str();
    let (fits, wanted) = match setting.kind {
        Kind::Text | Kind::List | Kind::Path if text.is_empty() => (false, "to be empty"),
        Kind::Word(words) => (words.contains(&text), "one of the words that it can be"),
        // Whoever puts a key there must not find it in a log.
        Kind::Path if text.contains("-----BEGIN") || text.len() > 4096 => (false, "the path of a file"),
        Kind::Text | Kind::Path => (!text.contains(char::is_control), "one line of text"),
        Kind::List => (!text.contains(|c: char| c.is_control() && c != '\n'), "text without control characters"),
        Kind::Networks => {
            (text.parse::<TrustedProxies>().is_ok(), "addresses and networks with commas, such as `10.0.0.0/8, ::1`")
        }
        Kind::Switch => (matches!(text, "true" | "false"), "`true` or `false`"),
        Kind::Number => (number(text).is_some_and(|n| u32::try_from(n).is_ok()), "a whole number from 1 to 4294967295"),
        Kind::Size => (size(text).is_some(), "a size such as `1048576`, `512KiB` or `1MiB`"),
        Kind::Time => (time(text).is_some(), "a time such as `500ms`, `30s`, `5m`, `24h` or `31d`"),
    };
    if fits {
        return Ok(());
    }
    // The value itself may be a secret, so it is not shown.
    Err(Failure::new(format!("{} is not {wanted}", resolved.from)).help(setting.meaning()))
}

fn number(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten().filter(|n| *n > 0)
}

fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = text.get(digits.len()..)?;
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number(digits)?.checked_mul(*factor)
}

fn size(text: &str) -> Option<usize> {
    scaled(text, &[("", 1), ("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)])
        .and_then(|octets| usize::try_from(octets).ok())
}

/// A duration: `500ms`, `30s`, `5m`, `24h`, `31d`.
pub(crate) fn time(text: &str) -> Option<Duration> {
    scaled(text, &[("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)])
        .map(Duration::from_millis)
}

fn unknown(what: &str, name: &str, known: &[String]) -> Failure {
    let failure = Failure::new(format!("{what} `{name}` is not a setting of cratestack"));
    match fuzzy::nearest(name, known.iter().map(String::as_str)) {
        Some(near) => failure.help(format!("did you mean `{near}`?")),
        None => failure.help("`cratestack serve --help` lists every setting"),
    }
}

/// Reads `CRATESTACK_*`: key -> (variable, value).
fn environment(variables: &[(String, String)]) -> Result<BTreeMap<&'static str, (String, String)>, Failure> {
    let known: Vec<String> = all().map(Setting::variable).collect();
    let mut values: BTreeMap<&'static str, (String, String)> = BTreeMap::new();
    for (name, value) in variables {
        let find = |variable: &str| all().find(|setting| setting.variable() == variable);
        let (setting, text) = if let Some(setting) = find(name) {
            (setting, value.clone())
        } else if let Some(setting) = name.strip_suffix("_FILE").and_then(find) {
            if setting.kind == Kind::Path {
                insert(&mut values, setting, name, value.clone())?;
                continue;
            }
            let text = std::fs::read_to_string(value).map_err(|error| {
                Failure::new(format!("cannot read the file that `{name}` names: {}", ui::cause(&error)))
                    .help("the variable holds the path of a file whose content is the value")
            })?;
            (setting, text.trim_end_matches(['\n', '\r']).to_owned())
        } else if service_link(name) || name == "CRATESTACK_CONFIG" {
            continue;
        } else {
            return Err(unknown("the environment variable", name, &known));
        };
        insert(&mut values, setting, name, text)?;
    }
    Ok(values)
}

fn insert(
    values: &mut BTreeMap<&'static str, (String, String)>,
    setting: &Setting,
    variable: &str,
    text: String,
) -> Result<(), Failure> {
    match values.insert(setting.key, (variable.to_owned(), text)) {
        Some((other, _)) => {
            Err(Failure::new(format!("`{other}` and `{variable}` are both set")).help("remove one of the two"))
        }
        None => Ok(()),
    }
}

/// Reads `cratestack.toml`: key -> (path, value).
fn file(path: &str, text: &str) -> Result<BTreeMap<&'static str, (String, String)>, Failure> {
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        Failure::new(format!("the configuration `{path}` is not TOML: line {line}: {}", error.message()))
            .help("write one `key = value` per line; `cratestack serve --help` lists the keys")
    })?;
    let known: Vec<String> = all().map(|setting| setting.key.to_owned()).collect();
    let mut values = BTreeMap::new();
    for (key, value) in table {
        let Some(setting) = all().find(|setting| setting.key == key) else {
            return Err(unknown(&format!("in `{path}`, the key"), &key, &known));
        };
        let text = match value {
            toml::Value::String(text) => text,
            toml::Value::Integer(number) => number.to_string(),
            toml::Value::Boolean(switch) => switch.to_string(),
            toml::Value::Array(texts)
                if matches!(setting.kind, Kind::List | Kind::Networks) && texts.iter().all(toml::Value::is_str) =>
            {
                let separator = if setting.kind == Kind::List { "; " } else { ", " };
                texts.iter().filter_map(toml::Value::as_str).collect::<Vec<_>>().join(separator)
            }
            toml::Value::Float(_) | toml::Value::Datetime(_) | toml::Value::Array(_) | toml::Value::Table(_) => {
                return Err(Failure::new(format!("`{key}` in `{path}` is not a string, a whole number or a boolean"))
                    .help(setting.meaning()));
            }
        };
        values.insert(setting.key, (path.to_owned(), text));
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn resolve(flags: &[&str], variables: &[(&str, &str)], toml: Option<&str>) -> Result<Settings, String> {
        let command = clap::Command::new("serve").args(of(Scope::Serve).map(Setting::arg));
        let matches = command.try_get_matches_from(std::iter::once(&"serve").chain(flags)).unwrap();
        let sources = Sources {
            environment: variables.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
            file: toml.map(|text| (PathBuf::from("cratestack.toml"), text.to_owned())),
        };
        Settings::resolve(Scope::Serve, &matches, &sources).map_err(|failure| failure.to_string())
    }

    #[test]
    fn the_guide_has_every_limit_with_its_default() {
        let guide = include_str!("../../../docs/http.md").split_once("## Limits").unwrap().1;
        let written: Vec<(&str, &str)> = guide
            .lines()
            .filter_map(|line| {
                let mut cells = line.strip_prefix("| `")?.split(" | ");
                Some((cells.next()?.trim_end_matches('`'), cells.next()?))
            })
            .collect();
        let limits = all().filter(|row| matches!(row.kind, Kind::Number | Kind::Size | Kind::Time));
        let mut known: Vec<(&str, &str)> = limits.map(|row| (row.key, row.default.unwrap_or(""))).collect();
        let mut sorted = written.clone();
        known.sort_unstable();
        sorted.sort_unstable();
        assert_eq!(sorted, known);
    }

    #[test]
    fn the_first_source_wins() {
        let toml = Some("addr = \"file:3\"\nlist-max = 7\n");
        let both = resolve(&["--addr", "flag:1"], &[("CRATESTACK_ADDR", "env:2")], toml).unwrap();
        assert_eq!(both.text("addr"), Some("flag:1"));
        assert_eq!(both.number::<u32>("list-max"), Some(7));
        let environment = resolve(&[], &[("CRATESTACK_ADDR", "env:2")], toml).unwrap();
        assert_eq!(environment.text("addr"), Some("env:2"));
        assert_eq!(resolve(&[], &[], toml).unwrap().text("addr"), Some("file:3"));
        let none = resolve(&[], &[], None).unwrap();
        assert_eq!(none.text("addr"), Some("127.0.0.1:8080"));
        assert_eq!(none.size("body-limit"), Some(1 << 20));
        assert_eq!(none.time("cursor-ttl"), Some(Duration::from_hours(24)));
        assert!(!none.switch("apply"));
    }

    #[test]
    fn what_nobody_declared_is_an_error() {
        let error = resolve(&[], &[("CRATESTACK_LIST_MAXX", "3")], None).err().unwrap();
        assert_eq!(
            error,
            "the environment variable `CRATESTACK_LIST_MAXX` is not a setting of cratestack\n  help: did you mean `CRATESTACK_LIST_MAX`?"
        );
        let error = resolve(&[], &[], Some("adr = \"x\"")).err().unwrap();
        assert_eq!(
            error,
            "in `cratestack.toml`, the key `adr` is not a setting of cratestack\n  help: did you mean `addr`?"
        );
        for link in ["CRATESTACK_BANK_SERVICE_HOST", "CRATESTACK_BANK_SERVICE_PORT_HTTP", "CRATESTACK_BANK_PORT_80_TCP"]
        {
            assert!(resolve(&[], &[(link, "10.0.0.1")], None).is_ok());
        }
    }

    #[test]
    fn a_secret_may_stand_in_a_file_but_not_in_two_places() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("url");
        std::fs::write(&path, "postgres://u:secret@db/bank\n").unwrap();
        let path = path.to_str().unwrap();
        let settings = resolve(&[], &[("CRATESTACK_DATABASE_FILE", path)], None).unwrap();
        assert_eq!(settings.text("database"), Some("postgres://u:secret@db/bank"));
        let both = [("CRATESTACK_DATABASE", "x"), ("CRATESTACK_DATABASE_FILE", path)];
        assert!(resolve(&[], &both, None).err().unwrap().contains("both set"));
        assert!(resolve(&[], &[("CRATESTACK_DATABASE_FILE", "/nonexistent")], None).is_err());
    }

    #[test]
    fn values_are_checked_and_never_shown() {
        for (flag, value) in
            [("--list-max", "0"), ("--list-max", "9999999999"), ("--body-limit", "1 MB"), ("--cursor-ttl", "24")]
        {
            let error = resolve(&[flag, value], &[], None).err().unwrap();
            assert!(error.starts_with(&format!("`{flag}` is not a")), "{error}");
        }
        let error = resolve(&[], &[("CRATESTACK_APPLY", "yes")], None).err().unwrap();
        assert!(error.starts_with("`CRATESTACK_APPLY` is not `true` or `false`") && !error.contains("yes"));
    }
}
