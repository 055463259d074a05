//! TLS of `serve`: certificates, the clients that are known by theirs, and the FIPS module. SIGHUP reads the files again.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use clap::{ArgMatches, Command};
use cratestack::crypto::{CryptoMode, crypto_status};
use cratestack::{Claims, ClientCertificate, ClientName, Tls, TlsFiles};
use cratestack_engine::input;
use cratestack_engine::json::Json;
use cratestack_schema::ir::Schema;
use tokio::signal::unix::{SignalKind, signal};

use crate::Outcome;
use crate::settings::Settings;
use crate::ui::{self, Failure, Ui};

/// Settings that mean nothing without another one.
const COMPANIONS: [(&str, &str); 6] = [
    ("tls-cert", "tls-key"),
    ("tls-key", "tls-cert"),
    ("tls-client-ca", "tls-cert"),
    ("tls-client-crl", "tls-client-ca"),
    ("tls-client-auth", "tls-client-ca"),
    ("mtls-clients", "tls-client-ca"),
];

/// What the settings say of TLS.
#[derive(Clone)]
pub(crate) struct Secured {
    pub(crate) tls: Option<Tls>,
    pub(crate) clients: Option<Clients>,
}

impl Secured {
    /// Reads the files, and makes sure of the FIPS module if that was asked for.
    pub(crate) fn open(settings: &Settings, schema: &Schema) -> Result<Self, Failure> {
        if settings.switch("require-fips") {
            cratestack::install_fips_crypto_provider()
                .map_err(|error| Failure::new(error.to_string()).help(error.help()))?;
        }
        for (key, other) in COMPANIONS {
            settings.companion(key, other)?;
        }
        let path = |key: &str| settings.text(key).map(PathBuf::from);
        let client_optional = match settings.text("tls-client-auth") {
            Some("optional") => true,
            Some("required") => false,
            _ => {
                return Err(Failure::new(format!("{} is neither of the two", settings.from("tls-client-auth")))
                    .help("it is `required` or `optional`"));
            }
        };
        let tls = match (path("tls-cert"), path("tls-key")) {
            (Some(certificate), Some(key)) => {
                let (client_ca, client_crl) = (path("tls-client-ca"), path("tls-client-crl"));
                let files = TlsFiles { certificate, key, client_ca, client_crl, client_optional };
                Some(Tls::open(files).map_err(|error| failure(&error))?)
            }
            _ => None,
        };
        let clients = path("mtls-clients").map(|path| Clients::open(path, schema)).transpose()?;
        Ok(Self { tls, clients })
    }

    /// Reads everything again on each SIGHUP, for as long as the runtime lives. What cannot be read stays as it was, and the
    /// terminal says why. Without TLS a SIGHUP ends the process, as it always does.
    pub(crate) fn reload_on_hangup(&self, ui: Ui) -> Result<(), Failure> {
        let Some(tls) = self.tls.clone() else { return Ok(()) };
        let clients = self.clients.clone();
        let mut hangups = signal(SignalKind::hangup())
            .map_err(|error| Failure::new(format!("cannot listen for signals: {}", ui::cause(&error))))?;
        tokio::spawn(async move {
            while hangups.recv().await.is_some() {
                let read = || {
                    // The clients first: a certificate of an authority that is new must not meet an old list.
                    clients.as_ref().map_or(Ok(()), Clients::reload)?;
                    tls.reload().map_err(|error| failure(&error))
                };
                match read() {
                    Ok(()) => ui.complain("the certificates were read again"),
                    Err(failure) => {
                        ui.failure(&failure);
                        ui.warn("the certificates stay as they were");
                    }
                }
            }
        });
        Ok(())
    }
}

fn failure(error: &cratestack::tls::TlsError) -> Failure {
    Failure::new(error.to_string()).help(error.help())
}

/// The clients of `--mtls-clients`, and the claims of each.
#[derive(Clone)]
pub(crate) struct Clients {
    path: PathBuf,
    schema: Arc<Schema>,
    known: Arc<RwLock<HashMap<String, Json>>>,
}

impl Clients {
    fn open(path: PathBuf, schema: &Schema) -> Result<Self, Failure> {
        let schema = Arc::new(schema.clone());
        let known = Arc::new(RwLock::new(read(&path, &schema)?));
        Ok(Self { path, schema, known })
    }

    fn reload(&self) -> Result<(), Failure> {
        let known = read(&self.path, &self.schema)?;
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = known;
        Ok(())
    }

    /// The claims of whom a certificate belongs to. A certificate that is several clients is none.
    pub(crate) fn claims(&self, certificate: &ClientCertificate) -> Option<Claims> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let mut found = keys(certificate).into_iter().filter_map(|key| known.get(&key));
        let (first, second) = (found.next(), found.next());
        if second.is_some() {
            tracing::warn!(certificate = certificate.fingerprint(), "a certificate belongs to several clients");
            return None;
        }
        first.cloned().map(Claims)
    }
}

/// What a certificate may stand under in the file.
fn keys(certificate: &ClientCertificate) -> Vec<String> {
    let names = certificate.names().iter().map(|name| match name {
        ClientName::Dns(name) => format!("dns:{}", name.to_ascii_lowercase()),
        ClientName::Uri(name) => format!("uri:{name}"),
        ClientName::Email(name) => format!("email:{name}"),
    });
    let common = certificate.common_name().map(|name| format!("cn:{name}"));
    let mut keys: Vec<String> = names.chain(common).chain([format!("sha256:{}", certificate.fingerprint())]).collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

const HELP: &str = "write `[clients.\"uri:spiffe://bank.example/payments\"]` (or `dns:`, `email:`, `cn:`, `sha256:`) and \
                    below it the claims: `id = \"payments\"`";

/// The file's clients by key.
fn read(path: &std::path::Path, schema: &Schema) -> Result<HashMap<String, Json>, Failure> {
    let wrong = |what: String| Failure::new(format!("the clients of `{}` {what}", path.display())).help(HELP);
    let text =
        std::fs::read_to_string(path).map_err(|error| wrong(format!("cannot be read: {}", ui::cause(&error))))?;
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        wrong(format!("are no TOML: line {}: {}", before.matches('\n').count() + 1, error.message()))
    })?;
    if let Some(name) = table.keys().find(|name| *name != "clients") {
        return Err(wrong(format!("have a key that nobody reads: `{name}`")));
    }
    let Some(toml::Value::Table(clients)) = table.get("clients") else {
        return Err(wrong("are not there: the file has no table `clients`".to_owned()));
    };
    let mut known = HashMap::new();
    for (name, claims) in clients {
        let key = match name.split_once(':') {
            Some(("dns", rest)) if !rest.is_empty() => format!("dns:{}", rest.to_ascii_lowercase()),
            Some(("sha256", rest)) if rest.len() == 64 && rest.bytes().all(|b| b.is_ascii_hexdigit()) => {
                format!("sha256:{}", rest.to_ascii_lowercase())
            }
            Some(("uri" | "email" | "cn", rest)) if !rest.is_empty() => name.clone(),
            _ => return Err(wrong(format!("are known by a name, and `{name}` is none"))),
        };
        let claims = json(claims).filter(|claims| matches!(claims, Json::Object(_)));
        let claims = claims.ok_or_else(|| wrong(format!("have claims, and those of `{name}` are none")))?;
        input::principal(schema, &claims)
            .map_err(|error| wrong(format!("do not fit the auth block: `{name}`: {error}")))?;
        if known.insert(key, claims).is_some() {
            return Err(wrong(format!("name `{name}` twice")));
        }
    }
    Ok(known)
}

/// A claim; `None` for a float that JSON does not have.
fn json(value: &toml::Value) -> Option<Json> {
    Some(match value {
        toml::Value::String(text) => Json::String(text.clone()),
        toml::Value::Integer(number) => Json::Number(number.to_string()),
        toml::Value::Float(number) if number.is_finite() => Json::Number(number.to_string()),
        toml::Value::Float(_) => return None,
        toml::Value::Boolean(value) => Json::Bool(*value),
        toml::Value::Datetime(time) => Json::String(time.to_string()),
        toml::Value::Array(items) => Json::Array(items.iter().map(json).collect::<Option<_>>()?),
        toml::Value::Table(members) => {
            let members = members.iter().map(|(name, value)| Some((name.clone(), json(value)?)));
            Json::Object(members.collect::<Option<_>>()?)
        }
    })
}

/// `cratestack crypto`.
pub(crate) fn command() -> Command {
    Command::new("crypto").about("What does the crypto of this program").subcommand_required(true).subcommand(
        Command::new("status")
            .about("Print the provider, its mode and the version of its module")
            .arg(clap::Arg::new("json").long("json").action(clap::ArgAction::SetTrue).help("as one line of JSON")),
    )
}

/// `cratestack crypto status`.
pub(crate) fn run(ui: Ui, args: &ArgMatches) -> Outcome {
    let status = crypto_status();
    if args.subcommand_matches("status").is_some_and(|args| args.get_flag("json")) {
        ui.say(&status.to_json().to_string());
        return Outcome::Clean;
    }
    ui.say(&format!("provider  {}", status.provider));
    ui.say(&format!("mode      {}", status.mode.name()));
    ui.say(&match (status.mode, status.validated) {
        (CryptoMode::Standard, _) => format!("module    AWS-LC {}, no FIPS module", status.version),
        (CryptoMode::Fips, true) => format!("module    AWS-LC FIPS {}, FIPS 140-3 validated", status.version),
        (CryptoMode::Fips, false) => format!("module    AWS-LC FIPS {}, not validated yet", status.version),
    });
    Outcome::Clean
}
