//! `serve`: a schema on a database, for production; and what it shares with `dev`.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::http;
use clap::ArgMatches;
use cratestack::{
    AuthError, AuthProvider, Claims, DevAuth, HttpConfig, IdempotencyConfig, MtlsAuth, NoAuth, RateLimits,
    ServerConfig, Switch,
};
use cratestack_engine::api::AuthMethod;
use cratestack_engine::migrate::State;
use cratestack_engine::migrations::{self, Event, Migration, RunnerOptions};
use cratestack_engine::sql::Dialect;
use cratestack_engine::{Database, Engine};
use cratestack_schema::ir::{Schema, UrlSource};

use crate::limits;
use crate::settings::{Scope, Settings, Sources};
use crate::sinks::Sinks;
use crate::tls::{Clients, Secured};
use crate::ui::{self, Failure, Style, Ui};
use crate::{Outcome, database, migrate, schema, sinks};

/// The API's place below the root.
pub(crate) const MOUNT: &str = "/api";

/// Who verifies callers.
#[derive(Clone)]
pub(crate) enum Auth {
    /// Unsigned tokens from this machine.
    Dev,
    /// The same, and the terminal says why a token was refused.
    Told(Ui),
    /// Certificates of callers.
    Mtls(Clients),
    /// Everybody is anonymous.
    None,
}

/// `cratestack serve`.
pub(crate) fn run(ui: Ui, args: &ArgMatches, sources: &Sources) -> Result<Outcome, Failure> {
    let settings = Settings::resolve(Scope::Serve, args, sources)?;
    log(&settings)?;
    let path = args.get_one::<String>("file").map_or("", String::as_str);
    let Some(schema) = schema::load(ui, path)? else { return Ok(Outcome::Findings) };
    let secured = Secured::open(&settings, &schema)?;
    let auth = provider(&settings, &schema, &secured)?;
    let database = locate(&settings, &schema)?;
    let sinks = Sinks::open(&settings, &schema)?;
    let limits = limits::serving(&settings, &schema, &database)?;
    let migrations = migrate::given(&settings)?;
    if migrations.is_some() && settings.is_set("migrations") && database == Database::SqliteMemory {
        return Err(Failure::new(format!("{} is set, and the database is in memory", settings.from("migrations")))
            .help("it begins empty each time, with the tables of the schema; name a file or a server"));
    }
    runtime()?.block_on(async {
        // The address first: a port that is taken must not cost a migration.
        let listener = listen(&settings).await?;
        let address = address(&listener)?;
        let front = Front::open(listener, ServerConfig { tls: secured.tls.clone(), ..server(&settings) })?;
        secured.reload_on_hangup(ui, &settings, sources)?;
        let ready = front.meanwhile(prepare(ui, &settings, &database, &schema, migrations.as_deref(), &front)).await;
        ready?;
        let limits = match limits {
            Some(limits) => Some(limits.open(ui, settings.switch("apply")).await?),
            None => None,
        };
        let waiting = rust_procedures(&schema);
        let mut options = database::options(&settings)?;
        if let Some(migrations) = migrations.filter(|_| database != Database::SqliteMemory) {
            let dialect = if matches!(database, Database::Postgres(_)) { Dialect::Postgres } else { Dialect::Sqlite };
            options.migrations = migrations::needed(&migrations, dialect).map_err(|error| migrate::failure(&error))?;
        }
        let engine = database::engine(schema, &database, options).await?;
        for procedure in waiting {
            ui.warn(&procedure);
        }
        let (app, deliveries) = app(&engine, auth, &settings, &sinks, limits.as_ref())?;
        front.switch.set(app);
        announce(ui, if secured.tls.is_some() { "https" } else { "http" }, address);
        let served = front.ended().await;
        sinks::stop(&engine, &deliveries).await;
        engine.close().await;
        served?;
        Ok(Outcome::Clean)
    })
}

/// What listens from the start: before the service can work it says why it cannot.
struct Front {
    switch: Switch,
    server: tokio::sync::Mutex<tokio::task::JoinHandle<std::io::Result<()>>>,
    why: Arc<Mutex<String>>,
}

impl Front {
    fn open(listener: tokio::net::TcpListener, server: ServerConfig) -> Result<Self, Failure> {
        let why = Arc::new(Mutex::new("the service is starting".to_owned()));
        let told = Arc::clone(&why);
        let why_not = move || told.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let switch = Switch::new(cratestack::not_ready(&server.problem_base, why_not));
        // Whoever reads that it listens may also stop it.
        let stop = shutdown()?;
        let server = tokio::spawn(cratestack::serve(listener, switch.router(), server, stop));
        Ok(Self { switch, server: tokio::sync::Mutex::new(server), why })
    }

    fn say(&self, why: String) {
        *self.why.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// Does `work`, unless somebody ends the service.
    async fn meanwhile(&self, work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
        tokio::select! {
            done = work => done,
            ended = self.ended() => {
                ended?;
                Err(Failure::new("it was ended before it could serve")
                    .help("what was recorded of migrations stays done; the next start goes on from there"))
            }
        }
    }

    /// Until the service is ended.
    async fn ended(&self) -> Result<(), Failure> {
        let stopped = |error: &dyn std::fmt::Display| Failure::new(format!("the server stopped: {error}"));
        match (&mut *self.server.lock().await).await {
            Ok(served) => served.map_err(|error| stopped(&error)),
            Err(error) => Err(stopped(&error)),
        }
    }
}

fn provider(settings: &Settings, schema: &Schema, secured: &Secured) -> Result<Auth, Failure> {
    // Whoever shows no certificate would be let in, and nobody would ask who has shown one.
    if settings.text("tls-client-auth") == Some("optional") && settings.text("auth") != Some("mtls") {
        let failure = format!("{} is `optional`, and callers are not known by it", settings.from("tls-client-auth"));
        return Err(
            Failure::new(failure).help("say `--auth mtls`, or leave it out: then every client needs a certificate")
        );
    }
    match settings.text("auth") {
        Some("mtls") if schema.auth.is_none() => Err(Failure::new("`--auth mtls` does not fit a schema without an auth block")
            .help("say `--auth none`: `--tls-client-ca` alone lets only known clients connect")),
        Some("mtls") => match &secured.clients {
            Some(clients) => Ok(Auth::Mtls(clients.clone())),
            None => Err(Failure::new("`--auth mtls` needs to know whose certificate is whose")
                .help("add `--tls-cert` and `--tls-key`, name the authorities with `--tls-client-ca`, and the clients and their claims with `--mtls-clients` (docs/tls.md)")),
        },
        Some("dev" | "none") if secured.clients.is_some() => {
            let failure = format!("{} is set, and callers are not known by it", settings.from("mtls-clients"));
            Err(Failure::new(failure).help("say `--auth mtls`, or leave it out"))
        }
        Some("dev") if settings.switch("allow-dev-auth") => Ok(Auth::Dev),
        Some("dev") => Err(Failure::new("`--auth dev` accepts unsigned tokens, and `serve` is for production")
            .help("add `--allow-dev-auth` for a benchmark or a test on this machine, or use `cratestack dev`")),
        Some("none") if schema.auth.is_none() => Ok(Auth::None),
        Some("none") => Err(Failure::new("`--auth none` does not fit a schema with an auth block")
            .help("name a provider, or remove the auth block and every use of `auth()`")),
        Some("jwt") => Err(Failure::new("`--auth jwt` is not supported yet")
            .help("`--auth dev --allow-dev-auth` serves tests on this machine")),
        Some(_) => Err(Failure::new(format!("{} names no provider that there is", settings.from("auth")))
            .help("it is `mtls`, `dev` or `none`")),
        None => Err(Failure::new("no authentication provider is configured").help(if schema.auth.is_some() {
            "`--auth mtls` knows callers by their certificates; `--auth dev --allow-dev-auth` serves tests on this machine"
        } else {
            "the schema has no auth block: say so with `--auth none`"
        })),
    }
}

/// The database: the setting, else the schema's datasource.
pub(crate) fn locate(settings: &Settings, schema: &Schema) -> Result<Database, Failure> {
    if let Some(url) = settings.text("database") {
        return database::parse(url, settings.from("database"));
    }
    let missing = || {
        Failure::new("no database is configured").help(
            "add `--database postgres://USER@HOST/NAME` or `--database sqlite:FILE`, or set `CRATESTACK_DATABASE`",
        )
    };
    match schema.datasource.as_ref().and_then(|datasource| datasource.url.as_ref()) {
        Some(UrlSource::Literal(url)) => database::parse(url, "the schema's datasource"),
        Some(UrlSource::Env(variable)) => match std::env::var(variable) {
            Ok(url) => database::parse(&url, &format!("`{variable}`")),
            Err(_) => Err(Failure::new(format!("the schema's datasource reads `{variable}`, which is not set"))
                .help(format!("set `{variable}`, or add `--database URL`"))),
        },
        None => Err(missing()),
    }
}

/// Makes sure that the database has its migrations and carries the schema.
async fn prepare(
    ui: Ui,
    settings: &Settings,
    database: &Database,
    schema: &Schema,
    migrations: Option<&[Migration]>,
    front: &Front,
) -> Result<(), Failure> {
    if *database == Database::SqliteMemory {
        return Ok(());
    }
    database::reached(database).await?;
    match migrations {
        Some(migrations) => {
            // First of all: what cannot be served must not change the database.
            migrate::leads_to(migrations, schema)?;
            migrated(ui, settings, database, migrations, front).await?;
        }
        None if settings.text("migrations") != Some(migrate::NONE) && applied(database).await? => {
            let name = database::name(database);
            return Err(Failure::new(format!("{name} has migrations, and there is no folder `migrations` here"))
                .help("name it with `--migrations DIR`, or say `--migrations none`"));
        }
        None => {}
    }
    let mut connection = database::Connection::open(database).await?;
    let state = database::state(&mut connection).await?;
    match (state, migrations) {
        (State::Applied(_), _) => {}
        (State::Empty | State::Foreign(_), Some(_)) => {
            return Err(Failure::new(
                "the migrations are applied, and none of them says which schema the database carries",
            )
            .help("`cratestack migrate new NAME FILE` makes one with its `schema.json`"));
        }
        (State::Empty, None) if !settings.switch("apply") => {
            return Err(Failure::new(format!("{} carries no schema yet", database::name(database)))
                .help("add `--apply` to create it in the empty database"));
        }
        // Of tables that are somebody else's, the same sentence that an attempt to create would give.
        (State::Empty | State::Foreign(_), None) => {
            database::create(ui, &mut connection, schema).await?;
        }
    }
    connection.close().await;
    Ok(())
}

/// Whether the database has migrations.
async fn applied(database: &Database) -> Result<bool, Failure> {
    migrations::any_applied(database).await.map_err(|error| migrate::failure(&error))
}

/// Applies what is pending if that was asked for, or says what is.
async fn migrated(
    ui: Ui,
    settings: &Settings,
    database: &Database,
    migrations: &[Migration],
    front: &Front,
) -> Result<(), Failure> {
    let statuses = migrations::status(database, migrations).await.map_err(|error| migrate::failure(&error))?;
    let pending: Vec<&str> =
        statuses.iter().filter(|status| !status.state.is_clean()).map(|status| status.id.as_str()).collect();
    if pending.is_empty() {
        return Ok(());
    }
    if !settings.switch("apply") {
        let more = if pending.len() > 3 { format!(" and {} more", pending.len() - 3) } else { String::new() };
        let named: Vec<String> = pending.iter().take(3).map(|id| format!("`{id}`")).collect();
        let are = if pending.len() == 1 { "a migration is" } else { "migrations are" };
        return Err(Failure::new(format!("{are} pending: {}{more}", named.join(", ")))
            .help("run `cratestack migrate apply`, or add `--apply` to do it at the start"));
    }
    front.say("migrations are being applied".to_owned());
    let heard = |event: &Event<'_>| match event {
        Event::Step { id, step, steps, .. } => {
            front.say(format!("migrations are being applied: `{id}`, step {step} of {steps}"));
        }
        Event::Waiting { .. } => front.say("another process is applying migrations".to_owned()),
        _ => {}
    };
    migrate::bring(ui, database, migrations, &RunnerOptions::default(), heard).await?;
    front.say("the service is starting".to_owned());
    Ok(())
}

/// Logs to stderr as the settings say.
pub(crate) fn log(settings: &Settings) -> Result<(), Failure> {
    let filter = settings.text("log").unwrap_or("warn");
    let filter = tracing_subscriber::EnvFilter::try_new(filter).map_err(|error| {
        Failure::new(format!("{} is not a log filter: {error}", settings.from("log")))
            .help("write a level such as `info`")
    })?;
    let logger = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match settings.text("log-format") {
        Some("json") => logger.json().try_init(),
        _ => logger.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init(),
    };
    started.map_err(|error| Failure::new(format!("cannot start the log: {error}")))
}

/// The runtime of a server.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("cannot start: {}", ui::cause(&error))))
}

/// Binds the address.
pub(crate) async fn listen(settings: &Settings) -> Result<tokio::net::TcpListener, Failure> {
    let text = settings.text("addr").unwrap_or("127.0.0.1:8080");
    // The one name that needs no look-up.
    let text = text.strip_prefix("localhost:").map_or(text.to_owned(), |port| format!("127.0.0.1:{port}"));
    let address: SocketAddr = text.parse().map_err(|_| {
        Failure::new(format!("{} is not an address: `{text}`", settings.from("addr")))
            .help("write an IP address and a port, such as `127.0.0.1:8080`; port 0 takes a free one")
    })?;
    tokio::net::TcpListener::bind(address).await.map_err(|error| {
        let help = match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                "another program listens there; choose another port, or `--addr 127.0.0.1:0` for a free one"
            }
            std::io::ErrorKind::PermissionDenied => "ports below 1024 need a privilege; choose a higher one",
            _ => "choose an address of this machine with `--addr`, or `0.0.0.0:PORT` for all of them",
        };
        Failure::new(format!("cannot listen on `{address}`: {}", ui::cause(&error))).help(help)
    })
}

/// Where it listens.
pub(crate) fn address(listener: &tokio::net::TcpListener) -> Result<SocketAddr, Failure> {
    listener.local_addr().map_err(|error| Failure::new(format!("cannot listen: {error}")))
}

/// The line that scripts wait for.
pub(crate) fn announce(ui: Ui, scheme: &str, address: SocketAddr) {
    ui.say(&format!("listening on {}", ui.paint(Style::Bold, &format!("{scheme}://{address}"))));
}

/// The bounds of the server.
pub(crate) fn server(settings: &Settings) -> ServerConfig {
    let standard = ServerConfig::default();
    ServerConfig {
        problem_base: settings.text("problem-base").map_or(standard.problem_base, str::to_owned),
        require_fips: settings.switch("require-fips"),
        ..standard
    }
}

/// The API below [`MOUNT`] and the probes at the root, and the deliveries to the sinks, which have begun.
pub(crate) fn app(
    engine: &Engine,
    auth: Auth,
    settings: &Settings,
    sinks: &Sinks,
    limits: Option<&RateLimits>,
) -> Result<(Router, cratestack::Deliveries), Failure> {
    let standard = HttpConfig::default();
    let config = HttpConfig {
        body_limit: settings.size("body-limit").unwrap_or(standard.body_limit),
        url_limit: settings.size("url-limit").unwrap_or(standard.url_limit),
        request_timeout: settings.time("request-timeout").unwrap_or(standard.request_timeout),
        body_timeout: settings
            .time("request-timeout")
            .map_or(standard.body_timeout, |limit| limit.min(standard.body_timeout)),
        problem_base: settings.text("problem-base").map_or(standard.problem_base.clone(), str::to_owned),
        idempotency: IdempotencyConfig {
            retention: settings.time("idempotency-retention").unwrap_or(standard.idempotency.retention),
            wait: settings.time("idempotency-wait").unwrap_or(standard.idempotency.wait),
            response_limit: settings.size("idempotency-response-limit").unwrap_or(standard.idempotency.response_limit),
            deployment: settings.text("idempotency-deployment").map(str::to_owned),
        },
        trusted_proxies: settings.text("trusted-proxies").and_then(|text| text.parse().ok()).unwrap_or_default(),
        ..standard
    };
    let builder = cratestack::router(engine.clone(), cratestack::NoProcedures).config(config);
    let builder = match auth {
        Auth::Dev => builder.auth(DevAuth::new()),
        Auth::Told(ui) => builder.auth(Told { ui, schema: Arc::clone(engine.schema()), last: Mutex::default() }),
        Auth::Mtls(clients) => builder.auth(MtlsAuth::new(move |certificate| clients.claims(certificate))),
        Auth::None => builder.auth(NoAuth),
    };
    let builder = match limits {
        Some(limits) => builder.rate_limits(limits.clone()).map_err(|error| limits::unfit(&error))?,
        None => builder,
    };
    let builder = sinks.attach(builder)?;
    let deliveries = builder.deliveries();
    Ok((builder.into_service(), deliveries))
}

/// Answers are silent about why credentials are not valid, and a developer's terminal need not be.
struct Told {
    ui: Ui,
    schema: Arc<Schema>,
    /// What was said last: a client that tries again and again is told once.
    last: Mutex<String>,
}

impl Told {
    fn say(&self, why: &str) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if *last != why {
            self.ui.warn(&format!("a token was refused (401): {why}"));
            why.clone_into(&mut last);
        }
    }
}

impl AuthProvider for Told {
    fn authenticate<'a>(
        &'a self,
        request: &'a http::request::Parts,
    ) -> Pin<Box<dyn Future<Output = Result<Option<Claims>, AuthError>> + Send + 'a>> {
        Box::pin(async move {
            let claims = DevAuth::new().authenticate(request).await;
            match &claims {
                Ok(Some(Claims(json))) => {
                    if let Err(error) = cratestack_engine::input::principal(&self.schema, json) {
                        self.say(&error);
                    }
                }
                Err(AuthError::Invalid(why)) => self.say(why),
                Ok(None) | Err(AuthError::Unavailable { .. }) => {}
            }
            claims
        })
    }

    fn method(&self) -> AuthMethod {
        DevAuth::new().method()
    }
}

/// One sentence per procedure whose body this command does not have.
pub(crate) fn rust_procedures(schema: &Schema) -> Vec<String> {
    let sentence = |name: &str| {
        format!("procedure `{name}` needs a Rust host; `POST {MOUNT}/rpc/{name}` answers 501 until there is one")
    };
    schema.procedures.iter().map(|procedure| sentence(&procedure.name)).collect()
}

/// Resolves on SIGTERM or Ctrl-C.
pub(crate) fn shutdown() -> Result<impl Future<Output = ()> + Send + 'static, Failure> {
    cratestack::interrupted().map_err(|error| Failure::new(format!("cannot listen for signals: {}", ui::cause(&error))))
}
