//! The `cratestack` command, as a function: the workspace `fips/` builds the same command on other versions of its
//! dependencies.
//!
//! Exit codes: 0 done, 1 findings (a schema that is not valid, a file that is not formatted), 2 could not run.

mod audit;
mod database;
mod dev;
mod idempotency;
mod limits;
mod migrate;
mod new;
mod purge;
mod sample;
mod schema;
mod serve;
mod settings;
mod sinks;
mod tls;
mod ui;

use std::process::ExitCode;

use base64::Engine as _;
use clap::{Arg, ArgAction, ArgMatches, Command, ValueHint, value_parser};
use clap_complete::Shell;
use cratestack_engine::json::Json;
use cratestack_schema::fuzzy;

use crate::settings::{Scope, Setting, Sources};
use crate::ui::{Color, Failure, Style, Ui};

/// How a command that ran ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Nothing to complain about.
    Clean,
    /// It ran, and found something.
    Findings,
}

/// Does what the command's line says, and gives the exit code.
pub fn main() -> ExitCode {
    let matches = match command().try_get_matches() {
        Ok(matches) => matches,
        Err(error) => {
            let _closed = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    let ui = Ui::new(matches.get_one("color").copied().unwrap_or(Color::Auto));
    match run(ui, &matches) {
        Ok(Outcome::Clean) => ExitCode::SUCCESS,
        Ok(Outcome::Findings) => ExitCode::from(1),
        Err(failure) => {
            ui.failure(&failure);
            ExitCode::from(2)
        }
    }
}

fn run(ui: Ui, matches: &ArgMatches) -> Result<Outcome, Failure> {
    match matches.subcommand() {
        Some(("check", args)) => schema::check(ui, &strings(args, "file"), format(args)),
        Some(("fmt", args)) => schema::fmt(ui, &strings(args, "file"), args.get_flag("check")),
        Some(("explain", args)) => schema::explain(ui, args.get_one::<String>("code").map(String::as_str)),
        Some(("new", args)) => new::run(ui, string(args, "dir")),
        Some(("token", args)) => token(ui, string(args, "claims"), args.get_one::<String>("schema")),
        Some(("dev", args)) => dev::run(ui, args, &Sources::of_process(args)?),
        Some(("serve", args)) => serve::run(ui, args, &Sources::of_process(args)?),
        Some(("audit", args)) => audit::run(ui, args),
        Some(("purge", args)) => purge::run(ui, args),
        Some(("idempotency", args)) => idempotency::run(ui, args),
        Some(("ratelimit", args)) => limits::run(ui, args),
        Some(("crypto", args)) => Ok(tls::run(ui, args)),
        Some(("migrate", args)) => migrate::run(ui, args),
        Some(("completions", args)) => {
            if let Some(shell) = args.get_one::<Shell>("shell") {
                // Not straight to stdout: a reader that has seen enough would be a panic there.
                let mut script = Vec::new();
                clap_complete::generate(*shell, &mut command(), "cratestack", &mut script);
                ui.say(String::from_utf8_lossy(&script).trim_end());
            }
            Ok(Outcome::Clean)
        }
        _ => Err(Failure::new("no command was given").help("`cratestack --help` lists the commands")),
    }
}

fn string<'a>(args: &'a ArgMatches, name: &str) -> &'a str {
    args.get_one::<String>(name).map_or("", String::as_str)
}

fn strings(args: &ArgMatches, name: &str) -> Vec<String> {
    args.get_many::<String>(name).map(|values| values.cloned().collect()).unwrap_or_default()
}

fn format(args: &ArgMatches) -> schema::Format {
    args.get_one("format").copied().unwrap_or(schema::Format::Human)
}

fn command() -> Command {
    let file = |help: &'static str| {
        Arg::new("file").value_name("FILE").help(help).required(true).value_hint(ValueHint::FilePath)
    };
    let files = |help: &'static str| file(help).num_args(1..).action(ArgAction::Append);
    let config = Arg::new("config")
        .long("config")
        .value_name("FILE")
        .help("read settings from here instead of ./cratestack.toml [env: CRATESTACK_CONFIG]")
        .value_hint(ValueHint::FilePath);
    Command::new("cratestack")
        .version(env!("CARGO_PKG_VERSION"))
        .about("One schema file becomes a running HTTP service")
        .after_help("Start with `cratestack new bank`, then `cd bank` and `cratestack dev bank.cstack`.")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .arg(
            Arg::new("color")
                .long("color")
                .global(true)
                .value_name("WHEN")
                .help("when to write colours")
                .value_parser(value_parser!(Color))
                .default_value("auto"),
        )
        .subcommand(
            Command::new("check")
                .about("Check schema files and report everything that is wrong")
                .arg(files("schema files, or `-` for standard input"))
                .arg(
                    Arg::new("format")
                        .long("format")
                        .value_name("FORMAT")
                        .help("how findings are written")
                        .value_parser(value_parser!(schema::Format))
                        .default_value("human"),
                ),
        )
        .subcommand(
            Command::new("fmt")
                .about("Format schema files in place")
                .arg(files("schema files, or `-` to read standard input and write standard output"))
                .arg(
                    Arg::new("check")
                        .long("check")
                        .action(ArgAction::SetTrue)
                        .help("change nothing; exit with 1 if a file is not formatted"),
                ),
        )
        .subcommand(Command::new("new").about("Make a small project that runs at once").arg(
            Arg::new("dir").value_name("DIR").help("folder to make").required(true).value_hint(ValueHint::DirPath),
        ))
        .subcommand(
            Command::new("dev")
                .about("Serve a schema on this machine and reload it on every edit")
                .arg(file("the schema file"))
                .arg(
                    Arg::new("reset")
                        .long("reset")
                        .action(ArgAction::SetTrue)
                        .help("remove the database's content first"),
                )
                .arg(config.clone())
                .args(settings::of(Scope::Both).map(Setting::arg)),
        )
        .subcommand(
            Command::new("serve")
                .about("Serve a schema for production")
                .arg(file("the schema file"))
                .arg(config.clone())
                .args(settings::of(Scope::Serve).map(Setting::arg)),
        )
        .subcommand(audit::command(&file("the schema file that the database was made from"), &config))
        .subcommand(idempotency::command(&file("the schema file that the database was made from"), &config))
        .subcommand(limits::command(&file("the schema file"), &config))
        .subcommand(purge::command(&file("the schema file that the database was made from"), &config))
        .subcommand(migrate::command(&file("the schema file"), &config))
        .subcommand(tls::command())
        .subcommand(
            Command::new("explain")
                .about("Explain a diagnostic code, with an example and its mend")
                .arg(Arg::new("code").value_name("CODE").help("for example CST0001; without it every code is listed")),
        )
        .subcommand(
            Command::new("token")
                .about("Make an unsigned token for `dev` from a principal's JSON")
                .arg(
                    Arg::new("claims")
                        .value_name("JSON")
                        .help(r#"for example '{"id":"ann","role":"teller"}'"#)
                        .required(true),
                )
                .arg(
                    Arg::new("schema")
                        .long("schema")
                        .value_name("FILE")
                        .help("also check the claims against this schema's auth block")
                        .value_hint(ValueHint::FilePath),
                ),
        )
        .subcommand(
            Command::new("completions")
                .about("Print a shell's completion script")
                .arg(Arg::new("shell").value_name("SHELL").required(true).value_parser(value_parser!(Shell))),
        )
}

/// The token that `DevAuth` accepts for these claims.
pub(crate) fn dev_token(claims: &str) -> String {
    format!("dev.{}", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(claims))
}

fn token(ui: Ui, claims: &str, schema: Option<&String>) -> Result<Outcome, Failure> {
    let json = cratestack_engine::json::parse(claims.as_bytes(), 64).map_err(|error| {
        Failure::new(format!("the claims are not JSON: {error}"))
            .help(r#"quote them for the shell: cratestack token '{"id":"ann","role":"teller"}'"#)
    })?;
    if !matches!(json, Json::Object(_)) {
        return Err(Failure::new("the claims are not a JSON object")
            .help(r#"write one member per claim: cratestack token '{"id":"ann","role":"teller"}'"#));
    }
    if let (Some(path), Json::Object(members)) = (schema, &json) {
        let Some(schema) = schema::load(ui, path)? else { return Ok(Outcome::Findings) };
        cratestack_engine::input::principal(&schema, &json).map_err(|error| {
            Failure::new(format!("the claims do not fit the auth block of `{path}`: {error}"))
                .help("compare them with the fields of the auth block")
        })?;
        let known: Vec<&str> =
            schema.auth.iter().flat_map(|auth| &auth.fields).map(|field| field.name.as_str()).collect();
        for (name, _) in members.iter().filter(|(name, _)| !known.contains(&name.as_str())) {
            let near = fuzzy::nearest(name, known.iter().copied());
            let near = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
            ui.warn(&format!("no field of the auth block reads the claim `{name}`{near}"));
        }
    }
    let text = dev_token(claims);
    // Only the token on stdout, so that `$(cratestack token ..)` works; a reader at a terminal gets the rest.
    ui.say(&text);
    if std::io::IsTerminal::is_terminal(&std::io::stdout()) {
        ui.complain(&format!("{} curl -H 'Authorization: Bearer {text}' ..", ui.paint(Style::Dim, "use it:")));
    }
    Ok(Outcome::Clean)
}
