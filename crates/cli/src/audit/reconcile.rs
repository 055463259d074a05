//! `reconcile`.

use cratestack_engine::audit::reconcile::{Difference, Kind, Report, Summary, reconcile};
use serde_json::json;

use super::show::plain;
use super::{Desk, Format, failure};
use crate::ui::{Failure, Style, Ui};
use crate::{Outcome, schema};

/// `cratestack audit reconcile`.
pub(super) async fn run(desk: &Desk) -> Result<Outcome, Failure> {
    if desk.engine.schema().models.iter().all(|model| model.audit.is_none()) {
        return Err(Failure::new(format!("no model of {} has `@@audit`", schema::shown(&desk.path)))
            .help("there are no rows to compare the trail with; `cratestack audit list` shows what it holds"));
    }
    let (ui, format) = (desk.ui, desk.format);
    let mut bar = ui.progress("comparing");
    let mut tell = |report| match report {
        Report::Progress { model, done, total } => {
            let count = |number| usize::try_from(number).unwrap_or(usize::MAX);
            bar.show(count(done), count(total), &model);
        }
        Report::Difference(found) => {
            bar.clear();
            ui.say(&difference(ui, format, &found));
        }
    };
    let done = reconcile(&desk.engine, &mut tell).await;
    bar.clear();
    let sum = done.map_err(|error| failure(&error))?;
    ui.say(&summary(ui, format, &sum));
    Ok(if sum.differences > 0 { Outcome::Findings } else { Outcome::Clean })
}

fn difference(ui: Ui, format: Format, found: &Difference) -> String {
    let Difference { model, primary_key: key, kind } = found;
    let (word, fields, says) = match kind {
        Kind::Changed(fields) if fields.is_empty() => {
            ("changed", Some(fields), "differs from its newest event".to_owned())
        }
        Kind::Changed(fields) => {
            let named: Vec<String> = fields.iter().map(|field| format!("`{field}`")).collect();
            ("changed", Some(fields), format!("differs from its newest event in {}", named.join(", ")))
        }
        Kind::MissingRow => ("missing_row", None, "is gone, and no event says so".to_owned()),
        Kind::NoEvent => ("no_event", None, "is there, and no event says so".to_owned()),
    };
    match format {
        Format::Json => {
            json!({"fields": fields, "kind": word, "model": model, "primary_key": key, "type": "difference"})
                .to_string()
        }
        Format::Human => {
            format!("{} {} {says}", ui.paint(Style::Red, &format!("{word:11}")), plain(&format!("{model} {key}")))
        }
    }
}

fn summary(ui: Ui, format: Format, sum: &Summary) -> String {
    let Summary { models, rows, keys, differences, unchecked } = sum;
    if format == Format::Json {
        return json!({
            "differences": differences, "keys": keys, "models": models, "rows": rows, "type": "summary",
            "unchecked": unchecked,
        })
        .to_string();
    }
    let plural = |number: u64, word: &str| format!("{number} {word}{}", if number == 1 { "" } else { "s" });
    let found = match differences {
        0 => ui.paint(Style::Green, "no difference"),
        found => ui.paint(Style::Red, &plural(*found, "difference")),
    };
    let (rows, keys, models) = (plural(*rows, "row"), plural(*keys, "key"), plural(*models, "model"));
    let rest = match unchecked {
        0 => String::new(),
        some => format!(
            "; {} not compared: too large for the trail, and written with another version of the schema",
            plural(*some, "row")
        ),
    };
    format!("compared {rows} with {keys} in the trail, of {models}: {found}{rest}")
}
