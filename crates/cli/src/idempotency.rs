//! `idempotency`: the keys of requests, for operators. What is needed is the database; there are no rules here.

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use cratestack::idempotency::scope;
use cratestack_engine::idempotency::State;
use cratestack_engine::idempotency::desk::{KeyFilter, KeyRow};
use cratestack_schema::hex;
use serde_json::json;

use crate::audit::Office;
use crate::settings::{self, Scope, Setting};
use crate::ui::{Failure, Style, Ui};
use crate::{Outcome, serve, string};

const LIST_EXAMPLES: &str = "Examples:
  cratestack idempotency list bank.cstack --database postgres://ops@db/bank
  cratestack idempotency list bank.cstack --model Account --limit 20
  cratestack idempotency list bank.cstack --state unknown --format json";

const SHOW_EXAMPLES: &str = "\
Shows what was answered, with its body. Several callers may have used the same key: `--subject` and `--tenant` say whose.

Examples:
  cratestack idempotency show bank.cstack 0f7a
  cratestack idempotency show bank.cstack 0f7a --subject ann --tenant north";

const PURGE_EXAMPLES: &str = "\
Removes keys that have expired, a thousand at a time. Servers do so by themselves.

With a key it frees a request that was begun and of which nobody knows how it ended (`unknown`, on a host's own routes), so
that it can be done: first find out that nothing had happened. What was done is never removed before it expires.

Examples:
  cratestack idempotency purge bank.cstack --database postgres://ops@db/bank
  cratestack idempotency purge bank.cstack --key 0f7a --subject ann --confirm";

/// The command with its subcommands. `file` and `config` are the arguments that others have too.
pub(crate) fn command(file: &Arg, config: &Arg) -> Command {
    let sub = |name: &'static str, about: &'static str, examples: &'static str| {
        let wanted = ["database", "idempotency-deployment"];
        Command::new(name)
            .about(about)
            .after_help(examples)
            .arg(file.clone())
            .arg(config.clone())
            .args(settings::of(Scope::Both).filter(|setting| wanted.contains(&setting.key)).map(Setting::arg))
    };
    let text = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).help(help)
    };
    let whose = [
        text("subject", "SUBJECT", "whose keys: the subject of the credentials"),
        text("tenant", "TENANT", "and its tenant").requires("subject"),
    ];
    let format = text("format", "FORMAT", "how the result is written")
        .value_parser(PossibleValuesParser::new(["human", "json"]))
        .default_value("human");
    Command::new("idempotency")
        .about("Look at the idempotency keys of requests, and remove them")
        .after_help("The database alone decides who may do this.")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(
            sub("list", "List keys, newest first", LIST_EXAMPLES)
                .arg(text("key", "KEY", "only this key"))
                .args(whose.clone())
                .arg(text("op", "ROUTE", "only this route: `POST /accounts`, `POST /rpc/transfer`"))
                .arg(text("model", "MODEL", "only changes of rows of this model"))
                .arg(
                    text("state", "STATE", "only what ended like this")
                        .value_parser(PossibleValuesParser::new(State::ALL.map(State::word))),
                )
                .arg(text("limit", "N", "keys at most").value_parser(value_parser!(u32).range(1..)).default_value("50"))
                .arg(format.clone()),
        )
        .subcommand(
            sub("show", "Show what was answered to the requests with a key", SHOW_EXAMPLES)
                .arg(Arg::new("key").value_name("KEY").help("the key").required(true))
                .args(whose.clone())
                .arg(format),
        )
        .subcommand(
            sub("purge", "Remove keys that have expired, or free one whose outcome nobody knows", PURGE_EXAMPLES)
                .arg(text("key", "KEY", "free this key").requires("subject"))
                .args(whose)
                .arg(Arg::new("confirm").long("confirm").action(ArgAction::SetTrue).help("do free it").requires("key")),
        )
}

/// `cratestack idempotency`.
pub(crate) fn run(ui: Ui, args: &ArgMatches) -> Result<Outcome, Failure> {
    let (name, args) = args.subcommand().unwrap_or(("", args));
    serve::runtime()?.block_on(async {
        let office = Office::open(ui, args).await?;
        let done = match name {
            "list" => list(ui, &office, args).await,
            "show" => show(ui, &office, args).await,
            "purge" => purge(ui, &office, args).await,
            _ => Err(Failure::new("no command was given").help("`cratestack idempotency --help` lists the commands")),
        };
        office.engine.close().await;
        done
    })
}

fn refused(failure: &cratestack_engine::api::Failure) -> Failure {
    let why = failure.internal.as_deref().unwrap_or(&failure.detail);
    Failure::new(format!("the database failed: {why}")).help("nothing was changed; try again when the cause is gone")
}

/// What the arguments ask for.
fn filter(office: &Office, args: &ArgMatches) -> KeyFilter {
    let text = |name: &str| args.try_get_one::<String>(name).ok().flatten().cloned();
    let deployment = office.settings.text("idempotency-deployment").unwrap_or(&office.engine.schema().name);
    let scope = text("subject").map(|subject| scope(deployment, text("tenant").as_deref(), Some(&subject)));
    let state = text("state").and_then(|word| State::ALL.into_iter().find(|state| state.word() == word));
    KeyFilter { key: text("key"), scope, op: text("op"), model: text("model"), state }
}

async fn list(ui: Ui, office: &Office, args: &ArgMatches) -> Result<Outcome, Failure> {
    let limit = args.get_one::<u32>("limit").map_or(50, |limit| *limit as usize);
    let mut rows = office.engine.keys(&filter(office, args), limit + 1).await.map_err(|error| refused(&error))?;
    let more = rows.len() > limit;
    rows.truncate(limit);
    if rows.is_empty() {
        ui.complain("no key fits");
    }
    let human = string(args, "format") == "human";
    for row in &rows {
        let text = if human { line(ui, row) } else { json(row, false) };
        if !ui.tell(&text) {
            return Ok(Outcome::Clean);
        }
    }
    if more && human {
        ui.complain(&format!("there are more; `--limit` shows more than {limit}"));
    }
    Ok(Outcome::Clean)
}

/// How many callers may have used a key before the first of them are enough.
const CALLERS: usize = 1000;

async fn show(ui: Ui, office: &Office, args: &ArgMatches) -> Result<Outcome, Failure> {
    let rows = office.engine.keys(&filter(office, args), CALLERS).await.map_err(|error| refused(&error))?;
    if rows.is_empty() {
        let help = format!("`cratestack idempotency list {}` shows the newest ones", office.path);
        return Err(Failure::new(format!("no request with the key `{}` is recorded", string(args, "key"))).help(help));
    }
    let human = string(args, "format") == "human";
    for row in &rows {
        let text = if human { whole(ui, row) } else { json(row, true) };
        if !ui.tell(&text) {
            break;
        }
    }
    Ok(Outcome::Clean)
}

async fn purge(ui: Ui, office: &Office, args: &ArgMatches) -> Result<Outcome, Failure> {
    if args.get_one::<String>("key").is_some() {
        return free(ui, office, args).await;
    }
    let mut removed = 0;
    let mut bar = ui.progress("removing");
    loop {
        match office.engine.sweep_keys().await {
            Ok(0) => break,
            Ok(keys) => removed += keys,
            Err(failure) => {
                bar.clear();
                return Err(refused(&failure).help(format!("{removed} keys were removed before that")));
            }
        }
        bar.show(removed, removed, "expired keys");
    }
    bar.clear();
    ui.say(&match removed {
        0 => "no key has expired".to_owned(),
        1 => "1 key had expired, and is gone".to_owned(),
        removed => format!("{removed} keys had expired, and are gone"),
    });
    Ok(Outcome::Clean)
}

async fn free(ui: Ui, office: &Office, args: &ArgMatches) -> Result<Outcome, Failure> {
    let (filter, key) = (filter(office, args), string(args, "key"));
    let rows = office.engine.keys(&filter, 1).await.map_err(|error| refused(&error))?;
    let Some(row) = rows.first() else {
        return Err(Failure::new(format!("this caller has no request with the key `{key}`")).help(
            "are `--tenant` and `--idempotency-deployment` right? it is empty (`--idempotency-deployment ''`) for an \
                 `IdempotencyLayer` without a name",
        ));
    };
    if matches!(row.state, State::Done | State::EffectOnly) {
        return Err(Failure::new(format!(
            "the request with the key `{key}` was done, with the status {}",
            row.record.status
        ))
        .help("a record of what was done is never removed before it expires: it would be done again"));
    }
    if !args.get_flag("confirm") {
        ui.say(&format!("the request with the key `{key}` was begun at {}; `--confirm` frees it", row.created_at));
        return Ok(Outcome::Clean);
    }
    if office.engine.free_keys(&filter).await.map_err(|error| refused(&error))? == 0 {
        return Err(Failure::new("somebody is still at it").help("wait until its lease has ended"));
    }
    ui.say(&format!("the key `{key}` is free"));
    Ok(Outcome::Clean)
}

/// Characters that do nothing to a terminal.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

fn state(row: &KeyRow) -> String {
    match row.record.status {
        0 => row.state.word().to_owned(),
        status if row.state == State::Done => status.to_string(),
        status => format!("{status} {}", row.state.word()),
    }
}

/// One line.
fn line(ui: Ui, row: &KeyRow) -> String {
    let mut parts = vec![
        ui.paint(Style::Dim, &row.created_at),
        ui.paint(Style::Cyan, &plain(&row.key)),
        ui.paint(Style::Bold, &state(row)),
        plain(&row.op),
    ];
    let about = [row.model.as_deref(), row.primary_key.as_deref()];
    parts.extend(row.model.is_some().then(|| plain(&about.into_iter().flatten().collect::<Vec<_>>().join(" "))));
    parts.join("  ")
}

/// Everything.
fn whole(ui: Ui, row: &KeyRow) -> String {
    let mut lines = vec![ui.paint(Style::Bold, &format!("{} {}", plain(&row.op), state(row)))];
    let about = |text: &Option<String>| text.as_deref().map(plain).unwrap_or_default();
    let details = [
        ("key", plain(&row.key)),
        ("caller", hex(row.scope.get(..8).unwrap_or_default())),
        ("model", about(&row.model)),
        ("row", about(&row.primary_key)),
        ("request", plain(&row.request_id)),
        ("at", row.created_at.clone()),
        ("expires", row.expires_at.clone()),
    ];
    for (label, text) in details.into_iter().filter(|(_, text)| !text.is_empty()) {
        lines.push(format!("  {} {text}", ui.paint(Style::Dim, &format!("{label:8}"))));
    }
    for (name, value) in &row.record.headers {
        lines.push(format!("  {} {}", ui.paint(Style::Dim, &format!("{name}:")), plain(value)));
    }
    match row.record.body.as_deref().map(std::str::from_utf8) {
        Some(Ok("")) => {}
        Some(Ok(text)) => lines.push(plain(text)),
        Some(Err(_)) => lines.push("  (the body is no text; `--format json` has it as base64)".to_owned()),
        None if row.state == State::EffectOnly => lines.push("  (the body is not kept)".to_owned()),
        None => {}
    }
    lines.push(String::new());
    lines.join("\n")
}

/// A JSON object in one line.
fn json(row: &KeyRow, body: bool) -> String {
    use base64::Engine as _;
    let status = (row.record.status != 0).then_some(row.record.status);
    let mut object = json!({
        "key": row.key,
        "scope": hex(&row.scope),
        "state": row.state.word(),
        "status": status,
        "op": row.op,
        "model": row.model,
        "primary_key": row.primary_key,
        "request_id": row.request_id,
        "created_at": row.created_at,
        "expires_at": row.expires_at,
    });
    if let (true, Some(members)) = (body, object.as_object_mut()) {
        let headers = row.record.headers.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect();
        members.insert("headers".to_owned(), serde_json::Value::Object(headers));
        let body = row.record.body.as_deref();
        let (name, text) = match body.map(std::str::from_utf8) {
            Some(Ok(text)) => ("body", Some(text.to_owned())),
            Some(Err(_)) => ("body_base64", body.map(|body| base64::engine::general_purpose::STANDARD.encode(body))),
            None => ("body", None),
        };
        members.insert(name.to_owned(), text.into());
    }
    object.to_string()
}
