//! `audit`: the trail of `@@audit` for operators and auditors. What is needed to read it is the database; there are no
//! rules here. Nothing is ever made or migrated.

mod commands;
mod reconcile;
mod show;
mod sinks;

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, ArgGroup, ArgMatches, Command, value_parser};
use cratestack_engine::audit::read::{self, Reader};
use cratestack_engine::migrate::{self, State};
use cratestack_engine::relay::{AUDIT, Log, OUTBOX};
use cratestack_engine::{Database, Engine};
use cratestack_schema::ir::{Scalar, Schema};
use cratestack_schema::value::{Value, instant, parse_text};

use crate::settings::{self, Scope, Setting, Settings, Sources};
use crate::ui::{Failure, Ui};
use crate::{Outcome, database, schema, serve, string};

/// How events are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// For people.
    Human,
    /// One JSON object in each line.
    Json,
}

const OPERATIONS: [&str; 6] = ["create", "update", "delete", "restore", "erase", "denied"];

/// The command with its subcommands. `file` and `config` are the arguments that others have too.
pub(crate) fn command(file: &Arg, config: &Arg) -> Command {
    let sub = |name: &'static str, about: &'static str, examples: &'static str| {
        let format = Arg::new("format").long("format").value_name("FORMAT").help("how the result is written");
        Command::new(name)
            .about(about)
            .after_help(examples)
            .arg(file.clone())
            .arg(config.clone())
            .args(settings::of(Scope::Both).filter(|setting| setting.key == "database").map(Setting::arg))
            .arg(format.value_parser(value_parser!(Format)).default_value("human"))
    };
    let given = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).value_name(value).help(help).required(true)
    };
    Command::new("audit")
        .about("Read the audit trail, check it against the rows, and look after its sinks")
        .after_help("The database alone decides who may do this. Nothing is created or migrated.")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(sub("list", "List events, newest first", LIST_EXAMPLES).args(filters()))
        .subcommand(sub("show", "Show one event with everything that it says", SHOW_EXAMPLES).arg(given(
            "event_id",
            "EVENT_ID",
            "the id of the event",
        )))
        .subcommand(
            sub("history", "Show what happened to one row, oldest first, as differences", HISTORY_EXAMPLES)
                .arg(given("model", "MODEL", "the model"))
                .arg(given("key", "KEY", "the key of the row; of several fields `1/berlin`")),
        )
        .subcommand(sub(
            "reconcile",
            "Compare every row with the newest event of its key; exits with 1 if any differs",
            RECONCILE_EXAMPLES,
        ))
        .subcommand(
            Command::new("sinks")
                .about("Look after the deliveries to other systems")
                .subcommand_required(true)
                .arg_required_else_help(true)
                .subcommand(
                    sub("status", "Show how the deliveries to each sink stand", STATUS_EXAMPLES).arg(log()).arg(
                        Arg::new("skipped").long("skipped").action(ArgAction::SetTrue).help(
                            "also count committed events that no delivery was made of; exits with 1 if there are any",
                        ),
                    ),
                )
                .subcommand(replay(sub("replay", "Deliver events to a sink again", REPLAY_EXAMPLES).arg(log()))),
        )
}

const LIST_EXAMPLES: &str = "Examples:
  cratestack audit list bank.cstack --database postgres://audit@db/bank
  cratestack audit list bank.cstack --model Account --operation delete --from 2026-01-01
  cratestack audit list bank.cstack --out-of-band --format json --limit 100000";

const SHOW_EXAMPLES: &str = "Example:
  cratestack audit show bank.cstack 0198c5f2-7d0e-7a51-9c3e-0d6f5b1a2c3d";

const HISTORY_EXAMPLES: &str = "Example:
  cratestack audit history bank.cstack Account 01890a5d-ac96-774b-bcce-b302099a8057";

const RECONCILE_EXAMPLES: &str = "\
Finds rows that were changed, removed or inserted while the triggers of the trail were off. Of `@pii` and `@sensitive`
fields the trail tells only whether they are null, and nothing of `@server_only` ones: their values are not compared.

Example:
  cratestack audit reconcile bank.cstack --database postgres://audit@db/bank";

const STATUS_EXAMPLES: &str = "Examples:
  cratestack audit sinks status bank.cstack --skipped
  cratestack audit sinks status bank.cstack --log events";

const REPLAY_EXAMPLES: &str = "\
Receivers get these events once more. Without `--confirm` it only says how many there are.

Examples:
  cratestack audit sinks replay bank.cstack ledger
  cratestack audit sinks replay bank.cstack ledger --since 120000 --confirm";

fn filters() -> [Arg; 9] {
    let text = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).help(help)
    };
    let time = |name: &'static str, help: &'static str| text(name, "TIME", help).value_parser(moment);
    [
        text("model", "MODEL", "only events of this model"),
        text("key", "KEY", "only events of the row with this key"),
        text("actor", "SUBJECT", "only what this subject did"),
        time("from", "only from this time on: `2026-01-31` (UTC) or `2026-01-31T10:00:00Z`"),
        time("to", "only before this time"),
        text("request", "ID", "only what this request did"),
        text("operation", "NAME", "only this operation").value_parser(PossibleValuesParser::new(OPERATIONS)),
        Arg::new("out-of-band")
            .long("out-of-band")
            .action(ArgAction::SetTrue)
            .help("only what was written beside the service"),
        text("limit", "N", "events at most").value_parser(value_parser!(u32).range(1..)).default_value("50"),
    ]
}

fn log() -> Arg {
    Arg::new("log")
        .long("log")
        .value_name("LOG")
        .help("whose sinks: those of the audit trail, or of the events of `@@emit`")
        .value_parser(PossibleValuesParser::new(["audit", "events"]))
        .default_value("audit")
}

fn replay(command: Command) -> Command {
    let switch =
        |name: &'static str, help: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue).help(help);
    command
        .arg(Arg::new("sink").value_name("SINK").help("the name of the sink").required(true))
        .arg(switch("dead", "the events that the sink has refused for good (the default)"))
        .arg(
            Arg::new("since")
                .long("since")
                .value_name("SEQ")
                .help("all events from this number on")
                .value_parser(value_parser!(i64)),
        )
        .arg(switch("all", "all events"))
        .arg(switch("confirm", "do it"))
        .group(ArgGroup::new("which").args(["dead", "since", "all"]))
}

/// A time in microseconds since 1970. A date is its first moment.
fn moment(text: &str) -> Result<i64, String> {
    let whole = match parse_text(Scalar::Date, text) {
        Ok(_) => format!("{text}T00:00:00Z"),
        Err(_) => text.to_owned(),
    };
    match parse_text(Scalar::DateTime, &whole) {
        Ok(Value::Text(text)) => instant::to_unix_micros(&text).ok_or_else(|| "it is out of range".to_owned()),
        _ => Err("write `2026-01-31` or `2026-01-31T10:00:00Z`".to_owned()),
    }
}

/// `cratestack audit`.
pub(crate) fn run(ui: Ui, args: &ArgMatches) -> Result<Outcome, Failure> {
    let (name, args) = match args.subcommand() {
        Some(("sinks", args)) => args.subcommand().unwrap_or(("", args)),
        Some(found) => found,
        None => ("", args),
    };
    serve::runtime()?.block_on(async {
        let desk = Desk::open(ui, args).await?;
        let done = desk.run(name, args).await;
        desk.engine.close().await;
        done
    })
}

/// What a service has, for an operator: a schema on the database that carries it.
pub(crate) struct Office {
    /// The schema's file.
    pub(crate) path: String,
    pub(crate) engine: Engine,
    pub(crate) settings: Settings,
}

impl Office {
    /// Opens what the arguments and the other settings name. Nothing is made or migrated.
    pub(crate) async fn open(ui: Ui, args: &ArgMatches) -> Result<Self, Failure> {
        let settings = Settings::resolve(Scope::Serve, args, &Sources::of_process(args)?)?;
        serve::log(&settings)?;
        let path = string(args, "file").to_owned();
        let schema = schema::load(ui, &path)?.ok_or_else(|| {
            Failure::new(format!("{} is not valid", schema::shown(&path))).help("mend what is said above")
        })?;
        let database = serve::locate(&settings, &schema)?;
        carries(&path, &schema, &database).await?;
        let engine = database::engine(schema, &database, database::options(&settings)?).await?;
        Ok(Self { path, engine, settings })
    }
}

/// A service and how to tell of it.
struct Desk {
    ui: Ui,
    format: Format,
    /// The schema's file.
    path: String,
    engine: Engine,
}

impl Desk {
    async fn open(ui: Ui, args: &ArgMatches) -> Result<Self, Failure> {
        let Office { path, engine, .. } = Office::open(ui, args).await?;
        let format = args.get_one("format").copied().unwrap_or(Format::Human);
        Ok(Self { ui, format, path, engine })
    }

    async fn run(&self, name: &str, args: &ArgMatches) -> Result<Outcome, Failure> {
        match name {
            "status" => sinks::status(self, self.log(args).await?, args.get_flag("skipped")).await,
            "replay" => sinks::replay(self, self.log(args).await?, args).await,
            "list" => commands::list(self, &mut self.reader().await?, args).await,
            "show" => commands::show(self, &mut self.reader().await?, args).await,
            "history" => commands::history(self, &mut self.reader().await?, args).await,
            "reconcile" => {
                self.reader().await?;
                reconcile::run(self).await
            }
            _ => Err(Failure::new("no command was given").help("`cratestack audit --help` lists the commands")),
        }
    }

    /// The log whose sinks are meant, which is there.
    async fn log(&self, args: &ArgMatches) -> Result<&'static Log, Failure> {
        if args.get_one::<String>("log").is_none_or(|log| log == "audit") {
            self.reader().await?;
            return Ok(&AUDIT);
        }
        match OUTBOX.exists(&self.engine).await {
            Ok(true) => Ok(&OUTBOX),
            Ok(false) => Err(Failure::new(format!(
                "no model of {} has `@@emit`, and the database has no outbox",
                schema::shown(&self.path)
            ))
            .help("write `@@emit(..)` in the models whose changes others are to hear of")),
            Err(error) => Err(sinks::failure(&error)),
        }
    }

    /// A way to read the trail.
    async fn reader(&self) -> Result<Reader, Failure> {
        Reader::open(&self.engine).await.map_err(|error| no_trail(&self.path, self.engine.schema(), &error))
    }
}

/// Makes sure that the database carries the schema, without touching it.
async fn carries(path: &str, schema: &Schema, database: &Database) -> Result<(), Failure> {
    let failed = |message: String, help: String| Err(Failure::new(message).help(help));
    let named = "name the database that the service writes, with `--database`";
    match database::existing(database).await? {
        State::Empty => failed(format!("{} carries no schema yet", database::name(database)), named.to_owned()),
        State::Foreign(tables) => failed(migrate::Error::Foreign(tables).to_string(), named.to_owned()),
        State::Applied(applied) if applied.schema.name != schema.name => failed(
            format!("the database was made from a schema of another name, `{}`", applied.schema.name),
            format!("{named}, or the file `{}.cstack`", applied.schema.name),
        ),
        State::Applied(applied) if applied.fingerprint != schema.fingerprint() => failed(
            migrate::Error::Different { found: applied.fingerprint }.to_string(),
            format!("take the version of {} that the service runs", schema::shown(path)),
        ),
        State::Applied(_) => Ok(()),
    }
}

fn no_trail(path: &str, schema: &Schema, error: &read::Error) -> Failure {
    let audited = schema.models.iter().any(|model| model.audit.is_some());
    let message = match error {
        read::Error::NoTrail if !audited => {
            format!("no model of {} has `@@audit`, and the database has no audit trail", schema::shown(path))
        }
        error => error.to_string(),
    };
    Failure::new(message).help(error.help())
}

fn failure(error: &read::Error) -> Failure {
    Failure::new(error.to_string()).help(error.help())
}
