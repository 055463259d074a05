//! Rate limits: from settings to what `serve` and `dev` enforce, and the command `ratelimit` for operators.

use std::sync::Arc;
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgMatches, Command};
use cratestack::{
    Costs, InMemoryRateLimitStore, LeasedRateLimitStore, LimitKey, LimiterOptions, OnFailure, Part, RateLimitError,
    RateLimitPolicy, RateLimitStore, RateLimits, RedisRateLimitStore, SqlxRateLimitStore,
};
use cratestack_engine::Database;
use cratestack_engine::ratelimit::{Adjustment, Charge, Standing, StoreDown};
use cratestack_schema::ir::Schema;
use serde_json::json;
use sqlx::ConnectOptions as _;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

use crate::settings::{self, Scope, Setting, Settings, Sources};
use crate::ui::{Failure, Style, Ui};
use crate::{Outcome, database, schema, serve, string};

/// The settings that mean nothing without policies.
const COMPANIONS: [&str; 9] = [
    "rate-limit-costs",
    "rate-limit-store",
    "rate-limit-deployment",
    "rate-limit-lease",
    "rate-limit-nodes",
    "rate-limit-slots",
    "rate-limit-budget",
    "rate-limit-connections",
    "rate-limit-ipv6-prefix",
];

/// Settings that mean nothing with the store that is set.
fn idle(settings: &Settings, store: &Store) -> Result<(), Failure> {
    const SHARED: [&str; 3] = ["rate-limit-lease", "rate-limit-nodes", "rate-limit-budget"];
    let shared = "are of a store that processes share: `--rate-limit-store database`, or the URL of a Redis";
    let (keys, of): (Vec<&str>, &str) = match store {
        Store::Memory => {
            (SHARED.into_iter().chain(["rate-limit-deployment", "rate-limit-connections"]).collect(), shared)
        }
        Store::Redis(_) => (vec!["rate-limit-connections"], "are PostgreSQL's: `--rate-limit-store database`"),
        Store::Postgres(..) => {
            (vec!["rate-limit-deployment"], "are told apart in Redis alone: a database has one service")
        }
    };
    match keys.into_iter().find(|key| settings.is_set(key)) {
        None => Ok(()),
        Some(key) => {
            let what = key.trim_start_matches("rate-limit-");
            let what = if what.ends_with('s') { what.to_owned() } else { format!("{what}s") };
            let kept = match store {
                Store::Memory => "in memory",
                Store::Redis(_) => "in Redis",
                Store::Postgres(..) => "in the database",
            };
            Err(Failure::new(format!("{} is set, and the limits are kept {kept}", settings.from(key)))
                .help(format!("{what} {of}")))
        }
    }
}

/// How long the store may take where nobody waits for an answer to a request.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where buckets are kept.
enum Store {
    Memory,
    Redis(Box<RedisRateLimitStore>),
    /// How to connect, and with how many connections at most.
    Postgres(Box<PgConnectOptions>, u32),
}

/// A pool of its own, on the runtime that this is called in.
fn postgres(options: &PgConnectOptions, connections: u32) -> SqlxRateLimitStore {
    let pool = PgPoolOptions::new().max_connections(connections).acquire_timeout(PATIENCE).test_before_acquire(false);
    SqlxRateLimitStore::new(pool.connect_lazy_with(options.clone()))
}

/// Says where the database is, if anybody asks.
type Locate<'a> = &'a dyn Fn() -> Result<Database, Failure>;

/// What the settings say.
pub(crate) struct Limits {
    policies: Vec<RateLimitPolicy>,
    costs: Costs,
    store: Store,
    lease: Option<Duration>,
    options: LimiterOptions,
    prefix: u8,
    /// Nobody has said how many processes there are, and it matters.
    uncounted: bool,
    /// What the store is called in messages.
    named: &'static str,
}

impl Limits {
    /// `None` when no limits are set.
    fn read(settings: &Settings, schema: &Schema, database: Locate<'_>) -> Result<Option<Self>, Failure> {
        let Some(text) = settings.text("rate-limits") else {
            for companion in COMPANIONS {
                settings.companion(companion, "rate-limits")?;
            }
            return Ok(None);
        };
        let wrong = |key: &str, error: &dyn std::fmt::Display| {
            Failure::new(format!("{} cannot be read: {error}", settings.from(key)))
        };
        let policies = cratestack::policies(text).map_err(|error| {
            wrong("rate-limits", &error).help(
                "write `NAME = LIMIT/PERIOD [burst N] [by PART+PART] [for CLASS] [on-failure WHAT] [unauthorized N]` with `;` between them",
            )
        })?;
        if policies.is_empty() {
            return Err(wrong("rate-limits", &"there is none in it").help("leave it out where there are no limits"));
        }
        let costs = settings.text("rate-limit-costs").unwrap_or_default().parse().map_err(|error| {
            wrong("rate-limit-costs", &error).help("write `METHOD /path = UNITS` with `;` between them")
        })?;
        let store = store(settings, schema, database)?;
        let shared = !matches!(store, Store::Memory);
        let lease = settings.time("rate-limit-lease");
        idle(settings, &store)?;
        let local = policies.iter().any(|policy| policy.when_store_fails() == OnFailure::Local);
        let nodes = settings.number("rate-limit-nodes");
        let uncounted = nodes.is_none() && shared && (local || lease.is_some());
        let prefix = settings.number("rate-limit-ipv6-prefix").unwrap_or(64_u32);
        let prefix = u8::try_from(prefix).ok().filter(|prefix| *prefix <= 128).ok_or_else(|| {
            Failure::new(format!("{} is more bits than an address has", settings.from("rate-limit-ipv6-prefix")))
                .help("it is 1 to 128; networks that one customer gets have 64, 56 or 48")
        })?;
        let standard = LimiterOptions::default();
        let slots = settings.number("rate-limit-slots").unwrap_or(standard.slots);
        if slots > InMemoryRateLimitStore::MOST {
            return Err(Failure::new(format!("{} is more than 1 GiB of memory", settings.from("rate-limit-slots")))
                .help(format!(
                    "it is {} at most; four times the keys in use are enough",
                    InMemoryRateLimitStore::MOST
                )));
        }
        let options = LimiterOptions {
            budget: settings.time("rate-limit-budget").unwrap_or(standard.budget),
            nodes: nodes.unwrap_or(standard.nodes),
            slots,
            ..standard
        };
        let named = match &store {
            Store::Memory => "the memory of each process",
            Store::Redis(_) => "Redis",
            Store::Postgres(..) => "the database",
        };
        Ok(Some(Self { policies, costs, store, lease, options, prefix, uncounted, named }))
    }

    /// What a service needs besides.
    pub(crate) fn serving(self, schema: &Schema) -> Result<Self, Failure> {
        if self.uncounted {
            return Err(Failure::new("it is not said how many processes share the rate limits").help(
                "set `--rate-limit-nodes` to the most that will run: while the store is down each has its part of a limit",
            ));
        }
        let limits = RateLimits::new(InMemoryRateLimitStore::new(1), self.policies.clone()).costs(self.costs.clone());
        fit(schema, Some(&limits))?;
        Ok(self)
    }

    /// What requests are counted by. Makes the table where `make` says so.
    pub(crate) async fn open(self, ui: Ui, make: bool) -> Result<RateLimits, Failure> {
        let named = self.named;
        let store: Arc<dyn RateLimitStore> = match self.store {
            Store::Memory => Arc::new(InMemoryRateLimitStore::new(self.options.slots)),
            Store::Redis(store) => Arc::new(*store),
            Store::Postgres(options, connections) => {
                let store = postgres(&options, connections);
                if make {
                    store.create_table().await.map_err(|down| unreachable(named, &down))?;
                } else if !patient(store.has_table()).await.map_err(|down| unreachable(named, &down))? {
                    return Err(Failure::new("the database has no table for rate limits")
                        .help("`cratestack serve --apply` makes it, and leaves everything else as it is"));
                }
                Arc::new(store)
            }
        };
        if let Err(down) = patient(store.ready()).await {
            ui.warn(&format!(
                "the rate limits cannot be counted in {named} ({down}): each does what it says for that until they can; \
                 look at the URL, its password and the server"
            ));
        }
        let store = match self.lease {
            Some(lease) => Arc::new(LeasedRateLimitStore::new(store, lease, self.options.nodes)),
            None => store,
        };
        Ok(RateLimits::on(store, self.policies, self.options).costs(self.costs).ipv6_prefix(self.prefix))
    }
}

/// What `serve` and `dev` limit requests to a schema by.
pub(crate) fn serving(settings: &Settings, schema: &Schema, database: &Database) -> Result<Option<Limits>, Failure> {
    match Limits::read(settings, schema, &|| Ok(database.clone()))? {
        Some(limits) => limits.serving(schema).map(Some),
        None => fit(schema, None).map(|()| None),
    }
}

/// Whether a schema can be limited so: the limits that its procedures name have to be there.
pub(crate) fn fit(schema: &Schema, limits: Option<&RateLimits>) -> Result<(), Failure> {
    let nothing = || RateLimits::new(InMemoryRateLimitStore::new(1), []);
    limits.cloned().unwrap_or_else(nothing).check(schema).map_err(|error| unfit(&error))
}

pub(crate) fn unfit(error: &RateLimitError) -> Failure {
    let help = match error {
        RateLimitError::NoPolicy { policy, .. } => {
            format!("set it: `--rate-limits '{policy} = 10/m'`, or `rate-limits` in `cratestack.toml`")
        }
        RateLimitError::NobodyNames(policy) => format!("take `for named` from `{policy}`, or name it in the schema"),
        RateLimitError::NeverFits { .. } => "raise its `burst`, or lower the cost".to_owned(),
        RateLimitError::NoTenants(_) => "count `by principal`, or give the auth block a `tenantId`".to_owned(),
        RateLimitError::NoRoute(_) => "write a route as `GET /accounts/{id}`, without `/api`".to_owned(),
    };
    Failure::new(error.to_string()).help(help)
}

fn unreachable(named: &str, down: &StoreDown) -> Failure {
    Failure::new(format!("the rate limits cannot be reached in {named}: {down}"))
        .help("try again when the cause is gone")
}

async fn patient<T>(work: impl Future<Output = Result<T, StoreDown>>) -> Result<T, StoreDown> {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| Err(StoreDown::new("no answer in time")))
}

fn store(settings: &Settings, schema: &Schema, database: Locate<'_>) -> Result<Store, Failure> {
    match settings.text("rate-limit-store") {
        None | Some("memory") => Ok(Store::Memory),
        Some("database") => {
            let Database::Postgres(url) = database()? else {
                return Err(Failure::new(format!(
                    "{} asks for the database, which is SQLite",
                    settings.from("rate-limit-store")
                ))
                .help("one process serves an SQLite file: leave it out, and its memory is the store"));
            };
            let options = database::postgres(&url)?;
            // Whoever waits so long has given up long since.
            let bounds = [("statement_timeout", "2s"), ("lock_timeout", "1s")];
            let options =
                options.application_name("cratestack rate limits").options(bounds).disable_statement_logging();
            Ok(Store::Postgres(Box::new(options), settings.number("rate-limit-connections").unwrap_or(4)))
        }
        Some(url) if !url.contains("://") || url.starts_with("postgres") => {
            Err(Failure::new(format!("{} is no store of rate limits", settings.from("rate-limit-store"))).help(
                "it is `memory`, `database` (that of the service), or `redis://USER:PASSWORD@HOST:PORT/DATABASE`",
            ))
        }
        Some(url) => {
            let deployment = settings.text("rate-limit-deployment").unwrap_or(&schema.name);
            let store = RedisRateLimitStore::new(url, deployment).map_err(|down| {
                Failure::new(format!("{} names no store: {down}", settings.from("rate-limit-store")))
                    .help("it is `memory`, `database`, or `redis://USER:PASSWORD@HOST:PORT/DATABASE`")
            })?;
            Ok(Store::Redis(Box::new(store)))
        }
    }
}

const SHOW_EXAMPLES: &str = "\
A key is the name of a limit and what it counts by, with `%2C` for a comma. The limits are those of the settings, as for
`serve`.

Examples:
  cratestack ratelimit show bank.cstack api:principal=ann,tenant=north
  cratestack ratelimit show bank.cstack logins:address=203.0.113.7
  cratestack ratelimit show bank.cstack everything";

const RESET_EXAMPLES: &str = "\
Processes that have refused it notice within a second.

Example:
  cratestack ratelimit reset bank.cstack logins:address=203.0.113.7";

/// The command with its subcommands. `file` and `config` are the arguments that others have too.
pub(crate) fn command(file: &Arg, config: &Arg) -> Command {
    let sub = |name: &'static str, about: &'static str, examples: &'static str| {
        let wanted = ["database", "rate-limits", "rate-limit-store", "rate-limit-deployment", "rate-limit-ipv6-prefix"];
        Command::new(name)
            .about(about)
            .after_help(examples)
            .arg(file.clone())
            .arg(Arg::new("key").value_name("KEY").help("`LIMIT` or `LIMIT:PART=VALUE,PART=VALUE`").required(true))
            .arg(config.clone())
            .args(settings::of(Scope::Both).filter(|setting| wanted.contains(&setting.key)).map(Setting::arg))
    };
    let format = Arg::new("format")
        .long("format")
        .value_name("FORMAT")
        .help("how the result is written")
        .value_parser(PossibleValuesParser::new(["human", "json"]))
        .default_value("human");
    Command::new("ratelimit")
        .about("Look at how much somebody has used of a rate limit, and give it back")
        .after_help("Limits that each process keeps in its memory cannot be seen from outside of it.")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(sub("show", "Show what is left", SHOW_EXAMPLES).arg(format))
        .subcommand(sub("reset", "Give all of it back", RESET_EXAMPLES))
}

/// `cratestack ratelimit`.
pub(crate) fn run(ui: Ui, args: &ArgMatches) -> Result<Outcome, Failure> {
    let (name, args) = args.subcommand().unwrap_or(("", args));
    serve::runtime()?.block_on(async {
        let settings = Settings::resolve(Scope::Serve, args, &Sources::of_process(args)?)?;
        serve::log(&settings)?;
        let path = string(args, "file");
        let schema = schema::load(ui, path)?.ok_or_else(|| {
            Failure::new(format!("{} is not valid", schema::shown(path))).help("mend what is said above")
        })?;
        let Some(limits) = Limits::read(&settings, &schema, &|| serve::locate(&settings, &schema))? else {
            return Err(Failure::new("no rate limits are set").help("name them as `serve` does: `--rate-limits`, or `cratestack.toml`"));
        };
        let text = string(args, "key");
        let bad = |error: &dyn std::fmt::Display| {
            Failure::new(error.to_string()).help("`cratestack ratelimit show --help` has examples")
        };
        let key: LimitKey = text.parse().map_err(|error| bad(&error))?;
        let policy = limits.policies.iter().find(|policy| policy.name() == key.policy()).ok_or_else(|| {
            let names: Vec<String> = limits.policies.iter().map(|policy| format!("`{}`", policy.name())).collect();
            Failure::new(format!("there is no rate limit `{}`", key.policy())).help(format!("there are {}", names.join(", ")))
        })?;
        real(&schema, &key).map_err(|why| bad(&why))?;
        let charge = Charge::new(key.of(policy, limits.prefix).map_err(|error| bad(&error))?, policy.quota()).units(0);
        let store: Box<dyn RateLimitStore> = match limits.store {
            Store::Memory => {
                return Err(Failure::new("each process keeps these limits in its own memory, where nobody else can look").help(
                    "`--rate-limit-store database`, or the URL of a Redis, is where processes count together; a restart \
                     of the service gives everything back",
                ));
            }
            Store::Redis(store) => store,
            Store::Postgres(options, _) => Box::new(postgres(&options, 1)),
        };
        if let Err(down) = patient(store.ready()).await {
            return Err(unreachable(limits.named, &down));
        }
        if name == "reset" {
            let reset = [Adjustment::reset(charge.key, charge.quota)];
            patient(store.adjust(&reset)).await.map_err(|down| unreachable(limits.named, &down))?;
            ui.say(&format!("`{text}` has all of its {} again", charge.quota.burst()));
            return Ok(Outcome::Clean);
        }
        let taken = patient(store.take(&[charge])).await.map_err(|down| unreachable(limits.named, &down))?;
        let standing = taken.standings().first().copied().ok_or_else(|| Failure::new("the store has given no answer"))?;
        let human = string(args, "format") == "human";
        ui.tell(&if human { shown(ui, text, &charge, &standing) } else { told(text, &charge, &standing) });
        Ok(Outcome::Clean)
    })
}

/// Whether a caller of the schema could have such a bucket: a name that nobody has is always full, which says nothing.
fn real(schema: &Schema, key: &LimitKey) -> Result<(), String> {
    if let Some(route) = key.value(Part::Route)
        && !cratestack::routes(schema).iter().any(|known| *known.op == *route)
    {
        return Err(format!("there is no route `{route}`: write it as `GET /accounts/{{id}}`"));
    }
    let tenant = schema.auth.as_ref().and_then(|auth| auth.fields.get(auth.tenant?.index()));
    match (key.value(Part::Principal), key.value(Part::Tenant), tenant) {
        (Some(principal), None, Some(field)) if !field.optional => {
            Err(format!("callers have a tenant: write `principal={principal},tenant=..`"))
        }
        (_, Some(_), None) => {
            Err("callers have no tenant: the auth block of the schema has no field of that name".to_owned())
        }
        _ => Ok(()),
    }
}

fn shown(ui: Ui, key: &str, charge: &Charge, standing: &Standing) -> String {
    let (left, burst) = (standing.remaining(), charge.quota.burst());
    let style = if left == 0 { Style::Red } else { Style::Bold };
    let next = match standing.next() {
        Duration::ZERO => String::new(),
        next => format!(", one more in {next:.1?}"),
    };
    format!("{}  {} of {burst} left{next}", ui.paint(Style::Cyan, key), ui.paint(style, &left.to_string()))
}

fn told(key: &str, charge: &Charge, standing: &Standing) -> String {
    json!({
        "key": key,
        "digest": charge.key.to_string(),
        "limit": charge.quota.burst(),
        "remaining": standing.remaining(),
        "next_in_seconds": standing.next().as_secs_f64(),
    })
    .to_string()
}
