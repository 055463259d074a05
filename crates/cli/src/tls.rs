//! TLS of `serve`: certificates, the clients that are known by theirs, and the FIPS module. SIGHUP reads the files again.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use clap::{Arg, ArgAction, ArgMatches, Command};
use cratestack::crypto::{CryptoMode, crypto_status};
use cratestack::{Claims, ClientCertificate, ClientName, Tls, TlsFiles};
use cratestack_engine::input;
use cratestack_engine::json::Json;
use cratestack_schema::fuzzy;
use cratestack_schema::ir::Schema;
use tokio::signal::unix::{SignalKind, signal};

use crate::Outcome;
use crate::settings::{Settings, Sources};
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
        let client_optional = settings.text("tls-client-auth") == Some("optional");
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
    /// terminal says why, or the log where that is JSON. Without TLS a SIGHUP ends the process, as it always does.
    pub(crate) fn reload_on_hangup(&self, ui: Ui, settings: &Settings, sources: &Sources) -> Result<(), Failure> {
        let Some(tls) = self.tls.clone() else { return Ok(()) };
        let clients = self.clients.clone();
        let (file, json) = (sources.file.clone(), settings.text("log-format") == Some("json"));
        let mut hangups = signal(SignalKind::hangup())
            .map_err(|error| Failure::new(format!("cannot listen for signals: {}", ui::cause(&error))))?;
        if let Some(ending) = ending(&tls) {
            ui.warn(&ending);
        }
        tokio::spawn(async move {
            while hangups.recv().await.is_some() {
                // Files may be on a disk that is far away.
                let (tls, clients, file) = (tls.clone(), clients.clone(), file.clone());
                let read = tokio::task::spawn_blocking(move || {
                    let outcome = reload(&tls, clients.as_ref());
                    let warnings: Vec<String> = unread(file.as_ref()).into_iter().chain(ending(&tls)).collect();
                    (outcome, warnings)
                });
                let (outcome, warnings) = read.await.unwrap_or_else(|error| {
                    (Err(Failure::new(format!("the files could not be read: {error}"))), Vec::new())
                });
                match (outcome, json) {
                    (Ok(read), true) => tracing::info!("{read}"),
                    (Ok(read), false) => ui.complain(&read),
                    (Err(failure), true) => {
                        tracing::error!(error = %failure, "the certificates stay as they were");
                    }
                    (Err(failure), false) => {
                        ui.failure(&failure);
                        ui.warn("the certificates stay as they were");
                    }
                }
                for warning in warnings {
                    if json {
                        tracing::warn!("{warning}");
                    } else {
                        ui.warn(&warning);
                    }
                }
            }
        });
        Ok(())
    }
}

/// Reads the files again, and says what was read.
fn reload(tls: &Tls, clients: Option<&Clients>) -> Result<String, Failure> {
    // All of them or none.
    let known = clients.map(Clients::read).transpose()?;
    let prepared = tls.prepare().map_err(|error| failure(&error))?;
    let count = known.as_ref().map(HashMap::len);
    // The clients first: a certificate of an authority that is new must not meet an old list.
    if let (Some(clients), Some(known)) = (clients, known) {
        clients.replace(known);
    }
    prepared.commit();
    let mut read = format!("the certificates were read again; the first of them ends on {}", tls.ends().date_naive());
    if let Some(count) = count {
        read = format!("{read}, and {count} clients are known");
    }
    Ok(read)
}

/// A sentence if the file of the settings is not what it was at the start.
fn unread(file: Option<&(PathBuf, String)>) -> Option<String> {
    let (path, text) = file?;
    let same = text_of(path).is_ok_and(|now| now == *text);
    let path = path.display();
    (!same).then(|| format!("`{path}` has changed, and settings are read at the start alone: restart for them"))
}

/// The text of a file. What is no file (a pipe, a device) might never end.
fn text_of(path: &Path) -> std::io::Result<String> {
    const MOST: u64 = 16 * 1024 * 1024;
    let found = std::fs::metadata(path)?;
    if !found.is_file() || found.len() > MOST {
        return Err(std::io::Error::other("it is no file of at most 16 MiB"));
    }
    std::fs::read_to_string(path)
}

/// How long before the end of a certificate it is told.
const SOON: i64 = 14;

/// A sentence if the server's certificate ends soon.
fn ending(tls: &Tls) -> Option<String> {
    let ends = tls.ends();
    let left = (ends - cratestack::now()).num_days();
    (left < SOON).then(|| {
        let ends = ends.date_naive();
        format!("a certificate of the server or of its clients' authorities ends on {ends}: renew it, then send SIGHUP")
    })
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

    fn read(&self) -> Result<HashMap<String, Json>, Failure> {
        read(&self.path, &self.schema)
    }

    fn replace(&self, known: HashMap<String, Json>) {
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = known;
    }

    /// The claims of whom a certificate belongs to. A certificate that is several clients is none.
    pub(crate) fn claims(&self, certificate: &ClientCertificate) -> Option<Claims> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let keys = keys(certificate);
        let found: Vec<&String> = keys.iter().filter(|key| known.contains_key(*key)).collect();
        match found.as_slice() {
            [one] => known.get(*one).cloned().map(Claims),
            [] => {
                tracing::warn!(certificate = ?keys, "a certificate belongs to no client");
                None
            }
            several => {
                tracing::warn!(clients = ?several, "a certificate belongs to several clients");
                None
            }
        }
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
fn read(path: &Path, schema: &Schema) -> Result<HashMap<String, Json>, Failure> {
    let wrong =
        |what: String, help: &str| Failure::new(format!("in the clients of `{}`: {what}", path.display())).help(help);
    let text = text_of(path).map_err(|error| {
        Failure::new(format!("the clients of `{}` cannot be read: {}", path.display(), ui::cause(&error)))
            .help("check the path, and that this user may read the file")
    })?;
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        wrong(format!("line {} is not valid TOML: {}", before.matches('\n').count() + 1, error.message()), HELP)
    })?;
    if let Some(name) = table.keys().find(|name| *name != "clients") {
        return Err(wrong(format!("nobody reads the key `{name}`"), "the one table is `clients`"));
    }
    let Some(toml::Value::Table(clients)) = table.get("clients") else {
        return Err(wrong("there is no table `clients`".to_owned(), HELP));
    };
    let mut known = HashMap::new();
    for (name, claims) in clients {
        let key = key(name).map_err(|why| wrong(format!("`{name}` is not a name of a client: {why}"), HELP))?;
        let Some(Json::Object(claims)) = json(claims) else {
            return Err(wrong(format!("`{name}` has no claims"), HELP));
        };
        let fields = || schema.auth.iter().flat_map(|auth| &auth.fields).map(|field| field.name.as_str());
        if let Some((claim, _)) = claims.iter().find(|(claim, _)| fields().all(|field| field != claim)) {
            let near = fuzzy::nearest(claim, fields()).map(|near| format!("did you mean `{near}`?"));
            let help = near.unwrap_or_else(|| "the claims are the fields of the schema's auth block".to_owned());
            return Err(wrong(format!("`{name}` has a claim that the auth block does not: `{claim}`"), &help));
        }
        let claims = Json::Object(claims);
        input::principal(schema, &claims).map_err(|error| {
            wrong(format!("`{name}` does not fit the auth block: {error}"), "compare it with the schema")
        })?;
        if known.insert(key, claims).is_some() {
            return Err(wrong(format!("`{name}` is there twice"), "names of hosts and fingerprints have no case"));
        }
    }
    Ok(known)
}

/// The key as [`keys`] makes it.
fn key(name: &str) -> Result<String, &'static str> {
    match name.split_once(':') {
        Some((_, "")) | None => Err("it has no kind, or nothing behind it"),
        Some(("dns", host)) if host.contains('*') => Err("names are compared whole, without wildcards"),
        Some(("dns", host)) => Ok(format!("dns:{}", host.to_ascii_lowercase())),
        // As `openssl x509 -fingerprint -sha256` prints it, or without the colons.
        Some(("sha256", digits)) => {
            let digits: String = digits.chars().filter(|digit| *digit != ':').collect();
            let fits = digits.len() == 64 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
            fits.then(|| format!("sha256:{}", digits.to_ascii_lowercase())).ok_or("a SHA-256 has 64 hexadecimal digits")
        }
        Some(("uri" | "email" | "cn", _)) => Ok(name.to_owned()),
        Some(_) => Err("the kinds are `uri`, `dns`, `email`, `cn` and `sha256`, in small letters"),
    }
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
    let switch =
        |name: &'static str, help: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue).help(help);
    let status = Command::new("status")
        .about("Show the library that does the crypto of this program, its mode, and its version")
        .arg(switch("json", "as one line of JSON"))
        .arg(switch("require-fips", "exit with 1 unless it is the FIPS 140-3 validated module"));
    Command::new("crypto")
        .about("Show what does the crypto of this program")
        .subcommand_required(true)
        .subcommand(status)
}

/// `cratestack crypto status`.
pub(crate) fn run(ui: Ui, args: &ArgMatches) -> Outcome {
    let status = crypto_status();
    let asked = |name: &str| args.subcommand_matches("status").is_some_and(|args| args.get_flag(name));
    if asked("json") {
        ui.say(&status.to_json().to_string());
    } else {
        ui.say(&format!("provider  {}", status.provider));
        ui.say(&format!("mode      {}", status.mode.name()));
        ui.say(&match (status.mode, status.validated) {
            (CryptoMode::Standard, _) => format!("module    AWS-LC {}, no FIPS module", status.version),
            (CryptoMode::Fips, true) => format!("module    AWS-LC FIPS {}, FIPS 140-3 validated", status.version),
            (CryptoMode::Fips, false) => format!("module    AWS-LC FIPS {}, not validated yet", status.version),
        });
    }
    if asked("require-fips") && !status.validated { Outcome::Findings } else { Outcome::Clean }
}
