//! `migrate`: the history of a database's tables, and the SQL that makes them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use cratestack_engine::migrations::{
    self, Event, Migration, MigrationError, MigrationState, MigrationStatus, RunnerOptions, StepState,
};
use cratestack_engine::sources::{Clock as _, SystemClock};
use cratestack_engine::sql::{Dialect, ident};
use cratestack_engine::{Database, ddl, ddl_diff};
use cratestack_schema::ir::{Provider, Schema};
use cratestack_schema::value::instant;
use serde_json::json;

use crate::settings::{self, Scope, Setting, Settings, Sources};
use crate::ui::{self, Failure, Progress, Style, Ui};
use crate::{Outcome, database, schema, serve, string};

/// How a result is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// For people.
    Human,
    /// One JSON document.
    Json,
}

/// What says that no folder is to be looked for.
pub(crate) const NONE: &str = "none";

/// The command with its subcommands. `file` and `config` are the arguments that others have too.
pub(crate) fn command(file: &Arg, config: &Arg) -> Command {
    let with = |keys: &'static [&str]| {
        settings::of(Scope::Serve).filter(|setting| keys.contains(&setting.key)).map(Setting::arg)
    };
    let located = |name: &'static str, about: &'static str, help: &'static str| {
        let file = file
            .clone()
            .required(false)
            .help("the schema file: the URL of its datasource, and what the migrations lead to");
        Command::new(name)
            .about(about)
            .after_help(help)
            .arg(file)
            .arg(config.clone())
            .args(with(&["database", "migrations"]))
    };
    let provider = Arg::new("provider")
        .long("provider")
        .value_name("DATABASE")
        .help("for which database; default: the one of the schema's datasource")
        .value_parser(["postgresql", "sqlite"]);
    let time = |name: &'static str, help: &'static str| {
        let parse = |text: &str| settings::time(text).ok_or("write a time such as `500ms`, `30s`, `5m` or `1h`");
        Arg::new(name).long(name).value_name("TIME").help(help).value_parser(parse).conflicts_with("dry-run")
    };
    let switch =
        |name: &'static str, help: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue).help(help);
    Command::new("migrate")
        .about("Look after the tables of a database")
        .after_help(HELP)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(
            Command::new("new")
                .about("Make the folder of a new migration")
                .after_help(NEW)
                .arg(Arg::new("name").value_name("NAME").help("what it is for, in a few words").required(true))
                .arg(file.clone().required(false).help("the schema that the database carries afterwards"))
                .arg(
                    provider
                        .clone()
                        .help("for which database; default: the one of the schema's datasource, or both")
                        .value_parser(["postgresql", "sqlite", "both"]),
                )
                .arg(config.clone())
                .args(with(&["migrations"])),
        )
        .subcommand(
            located("apply", "Run the migrations that a database does not have yet", APPLY)
                .arg(switch("dry-run", "print what would be run, and run nothing"))
                .arg(time(
                    "lock-timeout",
                    "how long a statement waits for a lock, and others behind it [default: 100ms]",
                ))
                .arg(time("patience", "how long a lock is tried for in all [default: 10m]"))
                .arg(time("wait", "how long to wait while another runner is at it [default: 1h]")),
        )
        .subcommand(
            located("status", "Show which migrations a database has; exits with 1 if anything is to be done", STATUS)
                .arg(
                    Arg::new("format")
                        .long("format")
                        .value_name("FORMAT")
                        .help("how the result is written")
                        .value_parser(value_parser!(Format))
                        .default_value("human"),
                ),
        )
        .subcommand(
            located("baseline", "Mark migrations as applied, for a database that has their tables already", BASELINE)
                .arg(Arg::new("to").long("to").value_name("ID").help("the last one to mark; default: all of them")),
        )
        .subcommand(
            Command::new("sql")
                .about("Print all of the SQL that an empty database needs to serve a schema")
                .after_help(SQL)
                .arg(file.clone())
                .arg(provider)
                .arg(switch(
                    "rate-limits",
                    "and the table of rate limits, for `rate-limit-store = \"database\"` (PostgreSQL)",
                )),
        )
        .subcommand(
            Command::new("grants")
                .about("Print what a PostgreSQL role needs to serve a schema, and no more")
                .after_help(GRANTS)
                .arg(file.clone())
                .arg(
                    Arg::new("role")
                        .long("role")
                        .value_name("ROLE")
                        .help("the role that the service logs in as")
                        .default_value("cratestack_app"),
                )
                .arg(
                    Arg::new("namespace")
                        .long("namespace")
                        .value_name("SCHEMA")
                        .help("the PostgreSQL schema that the tables are in")
                        .default_value("public"),
                ),
        )
}

const HELP: &str = "\
A migration is a folder of `migrations/`. They run in the order of their names, once; there is no
way back but a new one. In the folder:
  plan.toml     description = \"what it is for\"
  expand.sql    statements; also backfill.sql, validate.sql and contract.sql, in this order,
                each also as expand.postgres.sql and expand.sqlite.sql
  schema.json   what the database carries afterwards; `migrate new NAME FILE` writes it
In its SQL, on lines of their own:
  -- cratestack: step [NAME]      what follows is another step; each is one transaction
  -- cratestack: no-transaction   the statements of this step run one by one, without one
  -- cratestack: done-when QUERY  gives true when the step's one statement has been done
Once applied it must not change, but for comments and spaces. Apply as the owner of the tables;
`grants` lets another role serve. More in docs/migrations.md.
Exit codes: 0 done, 1 `status` has found something to do, 2 could not run.";

const NEW: &str = "\
Makes `migrations/TIME_NAME/` with files to write the SQL into. With a schema file, `schema.json`
says what the database carries when the migration is applied, and the SQL begins with a draft of
what brings it there. To make a draft again, remove the folder first.

Examples:
  cratestack migrate new create_accounts bank.cstack
  cratestack migrate new index_accounts_by_owner --provider postgresql";

const APPLY: &str = "\
Each step of a migration is a transaction with its record: done whole, or not at all. One runner
works at a time; others wait for it. What was applied is never applied again, and must not be
edited, removed or preceded. There is no rollback: write a new migration. With a schema file, the
migrations have to lead to it.

Examples:
  cratestack migrate apply --database postgres://owner@db/bank
  cratestack migrate apply bank.cstack --dry-run";

const STATUS: &str = "\
Examples:
  cratestack migrate status --database postgres://owner@db/bank
  cratestack migrate status bank.cstack --format json";

const BASELINE: &str = "\
Nothing is run. What the newest schema among them needs has to be there. In a database that has
migrations already, `--to` names the last one to mark.

Example:
  cratestack migrate baseline bank.cstack --to 20261123T101500_create_accounts";

/// `cratestack migrate`.
pub(crate) fn run(ui: Ui, args: &ArgMatches) -> Result<Outcome, Failure> {
    match args.subcommand() {
        Some(("new", args)) => new(ui, args),
        Some(("apply", args)) => apply(ui, args),
        Some(("status", args)) => status(ui, args),
        Some(("baseline", args)) => baseline(ui, args),
        Some(("sql", args)) => sql(ui, args),
        Some(("grants", args)) => grants(ui, args),
        _ => Err(Failure::new("no command was given").help("`cratestack migrate --help` lists the commands")),
    }
}

/// An error with its next step.
pub(crate) fn failure(error: &MigrationError) -> Failure {
    Failure::new(error.to_string()).help(error.help())
}

fn unreadable(error: &migrations::FilesError) -> Failure {
    Failure::new(error.to_string()).help(&error.help)
}

/// The migrations of the folder that the settings name; `None` where nobody has named one, and there is none.
pub(crate) fn given(settings: &Settings) -> Result<Option<Vec<Migration>>, Failure> {
    let folder = settings.text("migrations").unwrap_or(NONE);
    if folder == NONE || (!settings.is_set("migrations") && !Path::new(folder).is_dir()) {
        return Ok(None);
    }
    migrations::from_folder(Path::new(folder)).map(Some).map_err(|error| unreadable(&error))
}

/// Whether the last schema among the migrations is the one that is to be served.
pub(crate) fn leads_to(migrations: &[Migration], schema: &Schema) -> Result<(), Failure> {
    let last = migrations.iter().rev().find_map(|migration| Some((&migration.id, migration.schema.as_ref()?)));
    let Some((id, json)) = last else {
        return Err(Failure::new("no migration says which schema the database carries")
            .help("`cratestack migrate new NAME FILE` makes one with its `schema.json`"));
    };
    let carried: Schema = read(id, json)?;
    if carried.fingerprint() == schema.fingerprint() {
        return Ok(());
    }
    Err(Failure::new(format!("the schema is another one than the migrations lead to: it was changed after `{id}`"))
        .help("`cratestack migrate new NAME FILE` makes the next one from it"))
}

fn read(id: &str, json: &str) -> Result<Schema, Failure> {
    serde_json::from_str(json).map_err(|error| {
        Failure::new(format!("the `schema.json` of `{id}` cannot be read: {error}"))
            .help("was it made by another version of CrateStack? make it again")
    })
}

/// A database, and the migrations that are for it.
struct House {
    database: Database,
    migrations: Vec<Migration>,
    /// The schema that is named, if one is.
    schema: Option<Schema>,
}

impl House {
    fn open(ui: Ui, args: &ArgMatches) -> Result<Option<Self>, Failure> {
        let settings = Settings::resolve(Scope::Serve, args, &Sources::of_process(args)?)?;
        let schema = match args.get_one::<String>("file") {
            Some(path) => match schema::load(ui, path)? {
                Some(schema) => Some(schema),
                None => return Ok(None),
            },
            None => None,
        };
        let database = match (settings.text("database"), &schema) {
            (Some(url), _) => database::parse(url, settings.from("database"))?,
            (None, Some(schema)) => serve::locate(&settings, schema)?,
            (None, None) => {
                return Err(Failure::new("no database is named").help(
                    "add `--database postgres://USER@HOST/NAME` or `--database sqlite:FILE`, or name a schema file with a \
                     datasource",
                ));
            }
        };
        let Some(migrations) = given(&settings)? else {
            return Err(Failure::new("there is no folder `migrations`")
                .help("name it with `--migrations DIR`, or begin with `cratestack migrate new NAME`"));
        };
        Ok(Some(Self { database, migrations, schema }))
    }

    /// Does something to the database, if it is there.
    fn run<T>(&self, work: impl Future<Output = T>) -> Result<T, Failure> {
        serve::runtime()?.block_on(async {
            database::reached(&self.database).await?;
            Ok(work.await)
        })
    }
}

/// Shows on a terminal what a runner is at, and says what was done.
pub(crate) struct Told {
    ui: Ui,
    bar: Progress,
    /// What was said last of somebody who is waited for.
    last: String,
    what: String,
    at: (usize, usize),
}

impl Told {
    pub(crate) fn new(ui: Ui) -> Self {
        Self { ui, bar: ui.progress("migrating"), last: String::new(), what: String::new(), at: (0, 1) }
    }

    /// Once for each reason: in a log nobody wants to read it every second, with other times in it.
    fn once(&mut self, text: &str) {
        let reason: String = text.chars().filter(|c| !c.is_ascii_digit()).collect();
        if self.last != reason {
            self.bar.clear();
            self.ui.complain(text);
            self.last = reason;
        }
    }

    pub(crate) fn event(&mut self, event: &Event<'_>) {
        match event {
            Event::Waiting { holder } => self.once(&format!("waiting: {holder} is applying migrations")),
            Event::Migration { id, .. } => (*id).clone_into(&mut self.what),
            Event::Step { step, steps, title, id, .. } => {
                self.at = (step - 1, *steps);
                self.what = format!("{id}: {title}");
                self.bar.show(step - 1, *steps, &self.what);
            }
            Event::Preflight { by } => {
                self.once(&format!("others have locks: {}; the migration will try for short moments", by.join(", ")));
            }
            Event::Blocked { by: [], .. } => self.once(&format!("waiting for a lock: {}", self.what)),
            Event::Blocked { by, .. } => self.once(&format!("waiting for {}", by.join(", "))),
            Event::Progress { phase, done, total, waits_for } => {
                if let Some(first) = waits_for.first() {
                    self.once(&format!("{phase}: {first}"));
                }
                let [done, total] = [done, total].map(|number| usize::try_from(*number).unwrap_or(usize::MAX));
                if total > 0 { self.bar.show(done, total, phase) } else { self.bar.show(self.at.0, self.at.1, phase) }
            }
            Event::Working { elapsed } => self.working(*elapsed),
            Event::Cleaned { index } => self.once(&format!("removing the index {index}, which was left half made")),
            Event::Written { .. } => {}
            Event::Done { step, .. } => self.bar.show(*step, self.at.1, &self.what),
            Event::Applied { id } => {
                self.bar.clear();
                self.ui.say(&format!("{} {id}", self.ui.paint(Style::Green, "applied")));
            }
        }
    }

    /// On a terminal all the time; elsewhere once a minute.
    fn working(&mut self, elapsed: Duration) {
        let seconds = elapsed.as_secs();
        self.bar.show(self.at.0, self.at.1, &format!("{seconds} s: {}", self.what));
        if !self.bar.is_on() && seconds.is_multiple_of(60) {
            self.ui.complain(&format!("still at {}: {seconds} s", self.what));
        }
    }

    pub(crate) fn end(mut self) {
        self.bar.clear();
    }
}

fn apply(ui: Ui, args: &ArgMatches) -> Result<Outcome, Failure> {
    let Some(house) = House::open(ui, args)? else { return Ok(Outcome::Findings) };
    if let Some(schema) = &house.schema {
        leads_to(&house.migrations, schema)?;
    }
    if args.get_flag("dry-run") {
        return dry_run(ui, &house);
    }
    let standard = RunnerOptions::default();
    let time = |name: &str, standard| args.get_one::<Duration>(name).copied().unwrap_or(standard);
    let options = RunnerOptions {
        lock_timeout: time("lock-timeout", standard.lock_timeout),
        patience: time("patience", standard.patience),
        wait: time("wait", standard.wait),
        ..standard
    };
    let applied = house.run(bring(ui, &house.database, &house.migrations, &options, |_| ()))??;
    if applied.ids.is_empty() {
        let others = if applied.waited { "another runner has applied them" } else { "there is nothing to apply" };
        ui.say(&format!("{others}: {}", all(&house)));
    }
    Ok(Outcome::Clean)
}

/// Applies what is pending, and says so. `heard` gets what the runner is at, too.
pub(crate) async fn bring(
    ui: Ui,
    database: &Database,
    migrations: &[Migration],
    options: &RunnerOptions,
    mut heard: impl FnMut(&Event<'_>) + Send,
) -> Result<migrations::Applied, Failure> {
    let mut told = Told::new(ui);
    let mut report = |event: &Event<'_>| {
        heard(event);
        told.event(event);
    };
    let applied = migrations::apply_pending_with(database, migrations, options, &mut report).await;
    told.end();
    applied.map_err(|error| failure(&error))
}

fn all(house: &House) -> String {
    match house.migrations.len() {
        0 => "there are no migrations".to_owned(),
        1 => "the database has the one migration that there is".to_owned(),
        count => format!("the database has all {count} migrations"),
    }
}

fn dry_run(ui: Ui, house: &House) -> Result<Outcome, Failure> {
    let plans = house.run(migrations::plan(&house.database, &house.migrations))?;
    let plans = plans.map_err(|error| failure(&error))?;
    if plans.is_empty() {
        ui.say(&format!("-- there is nothing to apply: {}", all(house)));
    }
    for plan in plans {
        ui.say(&format!("-- migration {}: {}", plan.id, plan.description));
        if plan.steps.is_empty() {
            ui.say("-- without statements");
        }
        for step in plan.steps {
            let way = if step.transaction { "one transaction" } else { "no transaction" };
            ui.say(&format!("-- step {} ({}, {way}): {}", step.number, step.phase, step.title));
            if let Some(query) = step.done_when {
                ui.say(&format!("-- done when {query}"));
            }
            for statement in step.statements {
                ui.say(&format!("{statement};"));
            }
        }
        ui.say("");
    }
    Ok(Outcome::Clean)
}

fn status(ui: Ui, args: &ArgMatches) -> Result<Outcome, Failure> {
    let Some(house) = House::open(ui, args)? else { return Ok(Outcome::Findings) };
    let surveyed = house.run(migrations::survey(&house.database, &house.migrations))?;
    let (statuses, drift) = surveyed.map_err(|error| failure(&error))?;
    let behind = house.schema.as_ref().and_then(|schema| leads_to(&house.migrations, schema).err());
    let clean = behind.is_none() && statuses.iter().all(|status| status.state.is_clean());
    if args.get_one::<Format>("format") == Some(&Format::Json) {
        let changes = drift.iter().flat_map(|drift| &drift.changes);
        let drift: Vec<_> = changes
            .map(|change| json!({"id": change.id(), "kind": change.kind(), "message": change.to_string()}))
            .collect();
        let migrations: Vec<_> = statuses.iter().map(as_json).collect();
        let behind = behind.as_ref().map(ToString::to_string);
        ui.say(&json!({"clean": clean, "migrations": migrations, "drift": drift, "schema": behind}).to_string());
    } else {
        let width = statuses.iter().map(|status| status.id.len()).max().unwrap_or_default();
        for status in &statuses {
            show(ui, status, width);
        }
        if statuses.is_empty() {
            ui.say("there are no migrations");
        }
        for change in drift.iter().flat_map(|drift| &drift.changes) {
            let error = MigrationError::Drift(migrations::Drift { changes: vec![change.clone()] });
            ui.failure(&failure(&error));
        }
        if let Some(behind) = &behind {
            ui.failure(behind);
        }
    }
    Ok(if clean { Outcome::Clean } else { Outcome::Findings })
}

fn as_json(status: &MigrationStatus) -> serde_json::Value {
    let step = |step: &migrations::StepStatus| json!({"phase": step.phase.name(), "title": step.title, "state": step.state.name(), "error": step.error});
    json!({
        "id": status.id,
        "description": status.description,
        "state": status.state.name(),
        "appliedAt": status.applied_at,
        "steps": status.steps.iter().map(step).collect::<Vec<_>>(),
    })
}

fn show(ui: Ui, status: &MigrationStatus, width: usize) {
    let style = match status.state {
        MigrationState::Applied | MigrationState::Baseline => Style::Green,
        MigrationState::Pending | MigrationState::Running | MigrationState::Interrupted => Style::Yellow,
        _ => Style::Red,
    };
    let at = status.applied_at.as_deref().map(|at| format!("  {}", ui.paint(Style::Dim, at))).unwrap_or_default();
    let state = ui.paint(style, &format!("{:12}", status.state.name()));
    ui.say(&format!("{state} {:width$}  {}{at}", status.id, status.description));
    // Of one that was begun, how far it has come.
    if matches!(status.state, MigrationState::Running | MigrationState::Failed | MigrationState::Interrupted) {
        for (at, step) in status.steps.iter().enumerate() {
            let error = match (&step.error, step.state) {
                (Some(error), StepState::Failed) => format!(": {error}"),
                _ => String::new(),
            };
            ui.say(&format!("    {:8} {} step {}: {}{error}", step.state.name(), step.phase, at + 1, step.title));
        }
    }
}

fn baseline(ui: Ui, args: &ArgMatches) -> Result<Outcome, Failure> {
    let Some(house) = House::open(ui, args)? else { return Ok(Outcome::Findings) };
    if let Some(schema) = &house.schema {
        leads_to(&house.migrations, schema)?;
    }
    let to = args.get_one::<String>("to").map(String::as_str);
    let marked = house.run(migrations::baseline(&house.database, &house.migrations, to))?;
    let marked = marked.map_err(|error| failure(&error))?;
    for id in &marked {
        ui.say(&format!("{} {id}", ui.paint(Style::Green, "marked as applied")));
    }
    if marked.is_empty() {
        let these = if to.is_some() { "these" } else { "all of them" };
        ui.say(&format!("there is nothing to mark: {these} are applied"));
    }
    Ok(Outcome::Clean)
}

/// A name as a part of a folder's: lower case, with `_` between the words.
fn slug(name: &str) -> String {
    let plain: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { ' ' }).collect();
    plain.split_whitespace().collect::<Vec<_>>().join("_")
}

fn new(ui: Ui, args: &ArgMatches) -> Result<Outcome, Failure> {
    let settings = Settings::resolve(Scope::Serve, args, &Sources::of_process(args)?)?;
    let root = PathBuf::from(settings.text("migrations").filter(|folder| *folder != NONE).unwrap_or("migrations"));
    let name = string(args, "name");
    let words = slug(name);
    if Path::new(name).extension().is_some_and(|extension| extension == "cstack") {
        return Err(Failure::new(format!("`{name}` is a schema file, and the migration has no name"))
            .help("write the name first: `cratestack migrate new add_owners bank.cstack`"));
    }
    if words.is_empty() || words.len() > 100 {
        return Err(Failure::new("a name has 1 to 100 letters and digits")
            .help("write `cratestack migrate new create_accounts`"));
    }
    let schema = match args.get_one::<String>("file") {
        Some(path) => match schema::load(ui, path)? {
            Some(schema) => Some(schema),
            None => return Ok(Outcome::Findings),
        },
        None => None,
    };
    let before =
        if root.is_dir() { migrations::from_folder(&root).map_err(|error| unreadable(&error))? } else { Vec::new() };
    let id = next(&words, before.last())?;
    let made = files(name, &words, schema.as_ref(), &before, &dialects(args, schema.as_ref()))?;
    let folder = root.join(&id);
    let failed = |error: std::io::Error| {
        Failure::new(format!("cannot make `{}`: {}", folder.display(), ui::cause(&error)))
            .help("choose a folder that you may write to, with `--migrations`")
    };
    std::fs::create_dir_all(&folder).map_err(failed)?;
    for (file, text) in &made.files {
        std::fs::write(folder.join(file), text).map_err(failed)?;
    }
    let listed: Vec<String> = made.files.iter().map(|(file, _)| format!("`{file}`")).collect();
    ui.say(&format!("made `{}` with {}", folder.display(), listed.join(", ")));
    for warning in &made.warnings {
        ui.warn(warning);
    }
    let file = args.get_one::<String>("file").map(String::as_str).filter(|_| {
        schema.as_ref().and_then(|schema| schema.datasource.as_ref()).is_some_and(|datasource| datasource.url.is_some())
    });
    let command = format!("cratestack migrate apply {}", file.unwrap_or("--database URL"));
    let next = if made.drafted { "read" } else { "write" };
    ui.say(&format!("\nnext: {next} its SQL, and\n  {}", ui.paint(Style::Cyan, &command)));
    Ok(Outcome::Clean)
}

/// The id of the next migration: of this second, or of the next one that is free.
fn next(words: &str, last: Option<&Migration>) -> Result<String, Failure> {
    const TRIES: i64 = 60;
    let now = SystemClock.now();
    let mut tried = String::new();
    for second in 0..TRIES {
        let id = format!("{}_{words}", moment(now + second * 1_000_000)?);
        if last.is_none_or(|last| *last.id < *id) {
            return Ok(id);
        }
        if second == 0 {
            tried = id;
        }
    }
    let last = last.map_or("", |last| &last.id);
    Err(Failure::new(format!("the last migration, `{last}`, comes after `{tried}`"))
        .help("is the clock right? a new migration has to come last, in the order of names"))
}

/// `20261123T101500`, in UTC.
fn moment(micros: i64) -> Result<String, Failure> {
    let text = instant::from_unix_micros(micros);
    let text = text.ok_or_else(|| Failure::new("the clock is not set").help("set the clock of this machine"))?;
    Ok(text.chars().filter(|c| c.is_ascii_digit() || *c == 'T').take("20261123T101500".len()).collect())
}

/// For which databases there are to be files of their own; none: one file for both.
fn dialects(args: &ArgMatches, schema: Option<&Schema>) -> Vec<Dialect> {
    let own = schema.and_then(|schema| schema.datasource.as_ref()).map(|datasource| datasource.provider);
    match (string(args, "provider"), own) {
        ("postgresql", _) | ("", Some(Provider::Postgresql)) => vec![Dialect::Postgres],
        ("sqlite", _) | ("", Some(Provider::Sqlite)) => vec![Dialect::Sqlite],
        ("both", _) => vec![Dialect::Postgres, Dialect::Sqlite],
        _ if schema.is_some() => vec![Dialect::Postgres, Dialect::Sqlite],
        _ => Vec::new(),
    }
}

/// A new migration.
struct Made {
    files: Vec<(String, String)>,
    /// Whether there is SQL in it already.
    drafted: bool,
    /// What is to be known before it is applied.
    warnings: Vec<String>,
}

fn files(
    name: &str,
    words: &str,
    schema: Option<&Schema>,
    before: &[Migration],
    dialects: &[Dialect],
) -> Result<Made, Failure> {
    let description = if name == words { words.replace('_', " ") } else { name.to_owned() };
    let mut plan = format!("description = {}\n", toml::Value::String(description));
    let last = before.iter().rev().find_map(|migration| Some((&migration.id, migration.schema.as_ref()?)));
    let old = last.map(|(id, json)| read(id, json)).transpose()?;
    let changed = schema.filter(|new| old.as_ref().is_none_or(|old| old.fingerprint() != new.fingerprint()));
    let mut made = Made { files: Vec::new(), drafted: changed.is_some(), warnings: Vec::new() };
    if schema.is_some() && changed.is_none() {
        made.warnings.push("the schema is the one that the migrations lead to already: there is no draft".to_owned());
    }
    if dialects.is_empty() {
        made.files.push(("expand.sql".to_owned(), HINTS.to_owned()));
    }
    for dialect in dialects {
        let text = match (changed, &old) {
            (Some(new), Some(old)) => {
                let diff = ddl_diff::diff(old, new, *dialect);
                let refused = diff.refuse.iter().map(|refused| format!("it cannot be applied while {}", refused.says));
                let lost = diff.steps.iter().filter_map(|step| step.loses.as_ref());
                for warning in refused.chain(lost.map(|probe| format!("what would be lost: {}", probe.says))) {
                    if !made.warnings.contains(&warning) {
                        made.warnings.push(warning);
                    }
                }
                draft(&diff, &forgotten(old, new, *dialect, &diff))
            }
            // Without tables before, all of them are new. In a database that is in use already, `baseline` marks it.
            (Some(new), None) => format!("{};\n", ddl::create(new, *dialect).join(";\n\n")),
            (None, _) => HINTS.to_owned(),
        };
        let of = if *dialect == Dialect::Postgres { "postgres" } else { "sqlite" };
        made.files.push((format!("expand.{of}.sql"), text));
    }
    if let Some(new) = changed {
        let json = serde_json::to_string_pretty(&new.portable())
            .map_err(|error| Failure::new(format!("the schema cannot be written: {error}")))?;
        made.files.push(("schema.json".to_owned(), format!("{json}\n")));
        if let Some(old) = &old {
            plan = format!("{plan}base = \"{}\"\n", old.fingerprint());
        }
    }
    made.files.insert(0, ("plan.toml".to_owned(), plan));
    Ok(made)
}

/// What brings the tables from one schema to another, in one transaction.
fn draft(diff: &ddl_diff::Diff, forgotten: &[String]) -> String {
    if diff.steps.is_empty() {
        return "-- The schema has changed, and the tables need no change for it.\n".to_owned();
    }
    let mut lines: Vec<String> = vec![DRAFT.to_owned()];
    lines.extend(diff.refuse.iter().map(|refused| format!("-- It cannot be applied while {}.", refused.says)));
    lines.extend(forgotten.iter().cloned());
    for step in &diff.steps {
        lines.push(format!("\n-- {}", step.describe));
        lines.extend(step.loses.iter().map(|probe| format!("-- WHAT IS LOST: {}", probe.says)));
        lines.extend(step.sql.iter().map(|sql| format!("{};", sql.trim_end().trim_end_matches(';'))));
    }
    lines.push(String::new());
    lines.join("\n")
}

/// On SQLite an index goes with its table. Where that is made anew without it, this is to be said: the runner takes it for
/// forgotten otherwise.
fn forgotten(old: &Schema, new: &Schema, dialect: Dialect, diff: &ddl_diff::Diff) -> Vec<String> {
    if dialect == Dialect::Postgres {
        return Vec::new();
    }
    let statements: Vec<&String> = diff.steps.iter().flat_map(|step| &step.sql).collect();
    let says = |text: &str| statements.iter().any(|sql| sql.contains(text));
    let [old, new] = [old, new].map(|schema| ddl::catalog(schema, dialect).tables);
    let kept = |table: &str, index: &str| {
        new.iter().any(|other| other.name == table && other.indexes.iter().any(|other| other.name == index))
    };
    let mut lines = Vec::new();
    for table in old.iter().filter(|table| says(&format!("DROP TABLE {}", ident(&table.name)))) {
        let gone = table.indexes.iter().filter(|index| !kept(&table.name, &index.name));
        let gone = gone.map(|index| format!("DROP INDEX {}", ident(&index.name)));
        lines.extend(gone.filter(|sql| !says(sql)).map(|sql| format!("{sql};")));
    }
    lines
}

const DRAFT: &str = "\
-- A draft: what brings the tables to the schema in one transaction, without regard for who uses them meanwhile. Read it, and
-- split it into steps (`-- cratestack: step`) where a table is large or busy.";

const HINTS: &str = "\
-- Statements, with `;` between them. They are one transaction; `-- cratestack: step` on a line of its own begins another
-- one, and `-- cratestack: no-transaction` below it goes without.
";

const SQL: &str = "\
It is one transaction for an empty database (and one for the table of rate limits), and what `cratestack serve --apply`
would do itself. Whatever runs it has to stop at the first error.

Examples:
  cratestack migrate sql bank.cstack --provider postgresql | psql -v ON_ERROR_STOP=1 postgres://owner@db/bank
  cratestack migrate sql bank.cstack --provider sqlite | sqlite3 -bail bank.db";

const GRANTS: &str = "\
Make the tables with another role, their owner: only that one can change them, the audit trail or the outbox. Run this
when they are there, and again after each change of the schema. A role that is not there yet is made without a password.

Example:
  cratestack migrate grants bank.cstack --role bank_app | psql -v ON_ERROR_STOP=1 postgres://owner@db/bank";

fn sql(ui: Ui, args: &ArgMatches) -> Result<Outcome, Failure> {
    let Some(schema) = schema::load(ui, string(args, "file"))? else { return Ok(Outcome::Findings) };
    let own = schema.datasource.as_ref().map(|datasource| datasource.provider);
    let dialect = match (string(args, "provider"), own) {
        ("postgresql", _) | ("", Some(Provider::Postgresql)) => Dialect::Postgres,
        ("sqlite", _) | ("", Some(Provider::Sqlite)) => Dialect::Sqlite,
        _ => {
            return Err(Failure::new("it is not said for which database")
                .help("the schema has no datasource: add `--provider postgresql` or `--provider sqlite`"));
        }
    };
    let script = cratestack_engine::migrate::script(&schema, dialect)
        .map_err(|error| Failure::new(error.to_string()).help(error.help()))?;
    let limits = match (args.get_flag("rate-limits"), dialect) {
        (false, _) => String::new(),
        (true, Dialect::Postgres) => {
            let statements: Vec<String> = cratestack_engine::ratelimit::ddl().collect();
            format!("BEGIN;\n{};\nCOMMIT;\n", statements.join(";\n"))
        }
        (true, Dialect::Sqlite) => {
            return Err(Failure::new("SQLite has no table of rate limits")
                .help("one process serves an SQLite file, and its memory is the store: leave `--rate-limits` out"));
        }
    };
    ui.say(format!("{script}{limits}").trim_end());
    Ok(Outcome::Clean)
}

fn grants(ui: Ui, args: &ArgMatches) -> Result<Outcome, Failure> {
    let Some(schema) = schema::load(ui, string(args, "file"))? else { return Ok(Outcome::Findings) };
    let (role, namespace) = (string(args, "role"), string(args, "namespace"));
    if role.is_empty() || namespace.is_empty() {
        return Err(Failure::new("a role and a schema of PostgreSQL have names")
            .help("leave `--role` out for `cratestack_app`, and `--namespace` for `public`"));
    }
    ui.say(&format!("BEGIN;\n{}\nCOMMIT;", cratestack_engine::audit::grants(&schema, role, namespace).join("\n")));
    Ok(Outcome::Clean)
}
