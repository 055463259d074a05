//! `sinks status` and `sinks replay`.

use clap::ArgMatches;
use cratestack_engine::relay::{self, Log, OUTBOX, SinkStatus, Which};
use cratestack_schema::fuzzy;
use serde_json::json;

use super::show::plain;
use super::{Desk, Format};
use crate::ui::{Failure, Style};
use crate::{Outcome, string};

pub(super) fn failure(error: &relay::Error) -> Failure {
    Failure::new(error.to_string()).help(error.help())
}

/// `cratestack audit sinks status`.
pub(super) async fn status(desk: &Desk, log: &'static Log, skipped: bool) -> Result<Outcome, Failure> {
    let all = log.status(&desk.engine, skipped).await.map_err(|error| failure(&error))?;
    if all.is_empty() {
        desk.ui.complain("no sink has ever run on this database");
    }
    for sink in &all {
        desk.ui.say(&match desk.format {
            Format::Json => json(sink),
            Format::Human => human(desk, log, sink),
        });
    }
    let alarm = all.iter().any(|sink| sink.skipped.is_some_and(|skipped| skipped > 0));
    Ok(if alarm { Outcome::Findings } else { Outcome::Clean })
}

fn json(sink: &SinkStatus) -> String {
    let SinkStatus { name, pending, dead, lag, last_error, skipped } = sink;
    json!({
        "dead": dead, "lag_seconds": lag.as_secs_f64(), "last_error": last_error, "name": name, "pending": pending,
        "skipped": skipped,
    })
    .to_string()
}

fn human(desk: &Desk, log: &Log, sink: &SinkStatus) -> String {
    let ui = desk.ui;
    let count = |number: u64, what: &str, style: Style| {
        let text = format!("{number} {what}");
        if number > 0 { ui.paint(style, &text) } else { text }
    };
    let mut parts = vec![count(sink.pending, "pending", Style::Yellow), count(sink.dead, "dead", Style::Red)];
    if sink.pending > 0 {
        parts.push(format!("{} s behind", sink.lag.as_secs()));
    }
    if let Some(skipped) = sink.skipped {
        parts.push(count(skipped, "skipped", Style::Red));
    }
    let mut lines = vec![format!("{}  {}", ui.paint(Style::Bold, &sink.name), parts.join(", "))];
    lines.extend(sink.last_error.as_deref().map(|error| format!("  last error: {}", plain(error))));
    if sink.skipped.is_some_and(|skipped| skipped > 0) {
        let what = if *log == OUTBOX { "outbox" } else { "trail" };
        lines.push(format!("  somebody has changed the {what} or the deliveries beside the service"));
    }
    if sink.dead > 0 {
        let switch = if *log == OUTBOX { " --log events" } else { "" };
        lines.push(format!(
            "  `cratestack audit sinks replay {} {}{switch}` delivers the dead ones again",
            desk.path, sink.name
        ));
    }
    lines.join("\n")
}

/// `cratestack audit sinks replay`.
pub(super) async fn replay(desk: &Desk, log: &'static Log, args: &ArgMatches) -> Result<Outcome, Failure> {
    let (sink, confirmed) = (string(args, "sink"), args.get_flag("confirm"));
    let (which, word) = match args.get_one::<i64>("since") {
        Some(seq) => (Which::Since(*seq), "since"),
        None if args.get_flag("all") => (Which::All, "all"),
        None => (Which::Dead, "dead"),
    };
    let done = if confirmed {
        log.replay(&desk.engine, sink, which).await
    } else {
        log.replayable(&desk.engine, sink, which).await
    };
    let events = match done {
        Ok(events) => events,
        Err(relay::Error::Unknown(_)) => return Err(unknown(desk, log, sink).await?),
        Err(error) => return Err(failure(&error)),
    };
    let what = if which == Which::Dead { "dead events" } else { "events" };
    desk.ui.say(&match desk.format {
        Format::Json => json!({"confirmed": confirmed, "events": events, "sink": sink, "which": word}).to_string(),
        Format::Human if confirmed => format!("`{sink}` gets {events} {what} again"),
        Format::Human if events == 0 => format!("there are no {what} that `{sink}` could get again"),
        Format::Human => format!("`{sink}` would get {events} {what} again; `--confirm` does it"),
    });
    Ok(Outcome::Clean)
}

async fn unknown(desk: &Desk, log: &'static Log, sink: &str) -> Result<Failure, Failure> {
    let all = log.status(&desk.engine, false).await.map_err(|error| failure(&error))?;
    let names = || all.iter().map(|sink| sink.name.as_str());
    let help = match fuzzy::nearest(sink, names()) {
        Some(near) => format!("did you mean `{near}`?"),
        None if all.is_empty() => {
            "no sink has ever run on this database; it is known from the first start on".to_owned()
        }
        None => format!("known are {}", names().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")),
    };
    Ok(Failure::new(format!("the database knows no sink `{}`", plain(sink))).help(help))
}
