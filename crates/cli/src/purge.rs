//! `purge`: tombstones that are old enough are removed for good.

use clap::{Arg, ArgAction, ArgMatches, Command};
use cratestack_engine::api::Code;
use cratestack_engine::engine::purge::Purged;
use cratestack_schema::fuzzy;
use cratestack_schema::ir::{ModelId, Schema};
use cratestack_schema::value::instant;

use crate::audit::Office;
use crate::settings::{self, Scope, Setting};
use crate::ui::{Failure, Ui};
use crate::{Outcome, serve, string};

const EXAMPLES: &str = "\
Removes what was deleted longer ago than that, in batches. A row that others still refer to stays. Each row that goes is an
`erase` event where the model has `@@audit`. Without `--confirm` it only says how many there are.

Examples:
  cratestack purge bank.cstack --model Customer --older-than 7y
  cratestack purge bank.cstack --model Customer --older-than 90d --confirm";

const MICROS: i64 = 1_000_000;
const DAY: i64 = 86_400 * MICROS;

/// The command. `file` and `config` are the arguments that others have too.
pub(crate) fn command(file: &Arg, config: &Arg) -> Command {
    let required = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).help(help).required(true)
    };
    Command::new("purge")
        .about("Remove old tombstones of a `@@soft_delete` model for good")
        .after_help(EXAMPLES)
        .arg(file.clone())
        .arg(required("model", "MODEL", "whose tombstones"))
        .arg(
            required("older-than", "AGE", "how long ago they were deleted: `7y`, `18mo`, `12w`, `90d`, `24h`")
                .value_parser(Age::parse),
        )
        .arg(Arg::new("confirm").long("confirm").action(ArgAction::SetTrue).help("do it"))
        .arg(config.clone())
        .args(settings::of(Scope::Both).filter(|setting| setting.key == "database").map(Setting::arg))
}

/// How old something must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Age {
    /// Calendar months; a year has twelve.
    Months(i64),
    /// Microseconds.
    Exactly(i64),
}

impl Age {
    fn parse(text: &str) -> Result<Self, String> {
        let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
        let number = text.get(..text.len() - unit.len()).and_then(|digits| digits.parse::<i64>().ok());
        let found = number.filter(|number| (1..=100_000).contains(number)).and_then(|number| {
            Some(match unit {
                "y" => Self::Months(number * 12),
                "mo" => Self::Months(number),
                "w" => Self::Exactly(number * 7 * DAY),
                "d" => Self::Exactly(number * DAY),
                "h" => Self::Exactly(number * DAY / 24),
                _ => return None,
            })
        });
        found.ok_or_else(|| "write a number and `y`, `mo`, `w`, `d` or `h`, as in `7y`".to_owned())
    }

    /// The time that long before `now`, both in microseconds since 1970. Where a month is too short for the day, the
    /// last day of it: never later than the calendar says.
    fn before(self, now: i64) -> Option<i64> {
        match self {
            Self::Exactly(micros) => Some(now - micros),
            Self::Months(months) => {
                let text = instant::from_unix_micros(now)?;
                let part = |from: usize, to: usize| text.get(from..to)?.parse::<i64>().ok();
                let (year, month, day) = (part(0, 4)?, part(5, 7)?, part(8, 10)?);
                let all = year * 12 + month - 1 - months;
                let (year, month) = (all.div_euclid(12), all.rem_euclid(12) + 1);
                let time = text.get(10..)?;
                let moment = |day: i64| instant::to_unix_micros(&format!("{year:04}-{month:02}-{day:02}{time}"));
                (28..=day).rev().find_map(moment).or_else(|| moment(day))
            }
        }
    }
}

/// `cratestack purge`.
pub(crate) fn run(ui: Ui, args: &ArgMatches) -> Result<Outcome, Failure> {
    serve::runtime()?.block_on(async {
        let office = Office::open(ui, args).await?;
        let done = purge(ui, &office, args).await;
        office.engine.close().await;
        done
    })
}

async fn purge(ui: Ui, office: &Office, args: &ArgMatches) -> Result<Outcome, Failure> {
    let engine = &office.engine;
    let model = find(engine.schema(), string(args, "model"))?;
    let name = engine.schema().model(model).name.clone();
    let age = args.get_one::<Age>("older-than").copied().unwrap_or(Age::Months(i64::MAX / 12));
    let before = age.before(engine.clock().now()).and_then(instant::from_unix_micros).ok_or_else(|| {
        Failure::new("that is before the year 1").help("nothing is that old; name a shorter time, such as `7y`")
    })?;
    let found = engine.tombstones(model, &before).await.map_err(|failure| refused(&failure))?;
    if !args.get_flag("confirm") {
        ui.say(&match found {
            0 => format!("no row of `{name}` was deleted before {before}"),
            found => {
                format!("{found} rows of `{name}` were deleted before {before}; `--confirm` removes them for good")
            }
        });
        return Ok(Outcome::Clean);
    }
    let mut bar = ui.progress("removing");
    let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    let mut report = |done: Purged| bar.show(count(done.removed + done.kept), count(found), &name);
    let done = engine.purge(model, &before, &mut report).await;
    bar.clear();
    let done = done.map_err(|failure| refused(&failure))?;
    ui.say(&format!("removed {} rows of `{name}` that were deleted before {before}", done.removed));
    if done.kept > 0 {
        ui.warn(&format!("{} rows stay, because other rows refer to them: purge those first", done.kept));
    }
    Ok(Outcome::Clean)
}

fn find(schema: &Schema, name: &str) -> Result<ModelId, Failure> {
    schema.model_named(name).ok_or_else(|| {
        let soft = schema.models.iter().filter(|model| model.soft_delete.is_some());
        let near = fuzzy::nearest(name, soft.map(|model| model.name.as_str()));
        let failure = Failure::new(format!("the schema has no model `{name}`"));
        match near {
            Some(near) => failure.help(format!("did you mean `{near}`?")),
            None => failure.help("name one of its models with `@@soft_delete`"),
        }
    })
}

fn refused(failure: &cratestack_engine::api::Failure) -> Failure {
    let mut text = failure.detail.clone();
    if let Some(internal) = &failure.internal {
        text = format!("{text} ({internal})");
    }
    Failure::new(text).help(match failure.code {
        Code::BadRequest => "name one of its models with `@@soft_delete`",
        _ => "what was removed stays removed; run it again when the cause is gone",
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn ages_count_by_the_calendar() {
        let before = |now: &str, age: &str| {
            let now = instant::to_unix_micros(&format!("{now}T10:00:00.000000Z")).unwrap();
            let text = instant::from_unix_micros(Age::parse(age).unwrap().before(now).unwrap()).unwrap();
            text.split('T').next().unwrap().to_owned()
        };
        for (now, age, expected) in [
            ("2026-11-26", "7y", "2019-11-26"),
            ("2024-02-29", "1y", "2023-02-28"),
            ("2024-02-29", "4y", "2020-02-29"),
            ("2026-03-31", "1mo", "2026-02-28"),
            ("2026-01-15", "1mo", "2025-12-15"),
            ("2026-01-15", "18mo", "2024-07-15"),
            ("2026-01-15", "2w", "2026-01-01"),
            ("2026-01-15", "15d", "2025-12-31"),
            ("2026-01-15", "24h", "2026-01-14"),
        ] {
            assert_eq!(before(now, age), expected, "{now} {age}");
        }
        for wrong in ["", "7", "y", "0d", "-1d", "7 y", "7m", "1.5y", "999999999999999999999y", "7é"] {
            assert!(Age::parse(wrong).is_err(), "{wrong}");
        }
        assert_eq!(Age::parse("9999y").unwrap().before(0), None);
    }
}
