//! `list`, `show` and `history`.

use clap::ArgMatches;
use cratestack_engine::audit::read::{AuditEvent, Filter, PAGE, Reader, key_named};
use cratestack_schema::fuzzy;
use cratestack_schema::ir::Scalar;
use cratestack_schema::value::parse_text;

use super::show::{Event, plain};
use super::{Desk, Format, failure};
use crate::ui::Failure;
use crate::{Outcome, string};

/// `cratestack audit list`.
pub(super) async fn list(desk: &Desk, reader: &mut Reader, args: &ArgMatches) -> Result<Outcome, Failure> {
    let filter = filter(desk, reader, args).await?;
    let limit = args.get_one::<u32>("limit").map_or(50, |limit| *limit as usize);
    let (mut left, mut before) = (limit, None);
    while left > 0 {
        let page = reader.list(&filter, before, left).await.map_err(|error| failure(&error))?;
        if page.is_empty() && before.is_none() {
            desk.ui.complain("no event fits");
        }
        left = if page.len() < left.min(PAGE) { 0 } else { left - page.len() };
        before = page.last().map(|event| event.seq);
        if !each(desk, &page, |desk, event| event.line(desk.ui))? {
            return Ok(Outcome::Clean);
        }
    }
    let full = before.is_some() && left == 0 && desk.format == Format::Human;
    if full && !reader.list(&filter, before, 1).await.map_err(|error| failure(&error))?.is_empty() {
        desk.ui.complain(&format!("there are more; `--limit` shows more than {limit}"));
    }
    Ok(Outcome::Clean)
}

/// `cratestack audit show`.
pub(super) async fn show(desk: &Desk, reader: &mut Reader, args: &ArgMatches) -> Result<Outcome, Failure> {
    let id = string(args, "event_id");
    if parse_text(Scalar::Uuid, id).is_err() {
        return Err(Failure::new(format!("`{}` is no id of an event", plain(id)))
            .help(format!("it is a UUID; `cratestack audit list {}` shows them", desk.path)));
    }
    let found = reader.event(id).await.map_err(|error| failure(&error))?;
    let found = found.ok_or_else(|| {
        Failure::new(format!("the trail has no event `{id}`"))
            .help(format!("`cratestack audit list {}` shows the newest ones", desk.path))
    })?;
    each(desk, &[found], |desk, event| event.whole(desk.ui))?;
    Ok(Outcome::Clean)
}

/// `cratestack audit history`.
pub(super) async fn history(desk: &Desk, reader: &mut Reader, args: &ArgMatches) -> Result<Outcome, Failure> {
    let model = string(args, "model").to_owned();
    known(desk, reader, &model).await?;
    let key = key(desk, &model, string(args, "key"));
    let mut after = None;
    loop {
        let page = reader.history(&model, &key, after, PAGE).await.map_err(|error| failure(&error))?;
        if page.is_empty() && after.is_none() {
            desk.ui.complain(&format!("the trail has no event of `{model}` `{}`", plain(&key)));
        }
        after = page.last().map(|event| event.seq);
        if !each(desk, &page, |desk, event| event.difference(desk.ui))? || page.len() < PAGE {
            return Ok(Outcome::Clean);
        }
    }
}

/// Writes events; whether anybody reads them.
fn each(desk: &Desk, page: &[AuditEvent], human: impl Fn(&Desk, &Event) -> String) -> Result<bool, Failure> {
    for event in page {
        let text = match desk.format {
            // The entry is canonical text: it is never parsed and written again.
            Format::Json => format!("{{\"entry\":{},\"seq\":{}}}", event.entry, event.seq),
            Format::Human => human(desk, &Event::read(event)?),
        };
        if !desk.ui.tell(&text) {
            return Ok(false);
        }
    }
    Ok(true)
}

async fn filter(desk: &Desk, reader: &mut Reader, args: &ArgMatches) -> Result<Filter, Failure> {
    let text = |name: &str| args.get_one::<String>(name).cloned();
    let time = |name: &str| args.get_one::<i64>(name).copied();
    let (from, to) = (time("from"), time("to"));
    if from.zip(to).is_some_and(|(from, to)| from >= to) {
        return Err(Failure::new("no time is from `--from` on and before `--to`")
            .help("`--to` is not included: the whole of January is `--from 2026-01-01 --to 2026-02-01`"));
    }
    let model = text("model");
    if let Some(model) = &model {
        known(desk, reader, model).await?;
    }
    let primary_key = text("key").map(|text| match &model {
        Some(model) => key(desk, model, &text),
        None => text,
    });
    let (actor, request_id, operation) = (text("actor"), text("request"), text("operation"));
    Ok(Filter { model, primary_key, actor, from, to, request_id, operation, out_of_band: args.get_flag("out-of-band") })
}

/// Makes sure that there may be events of the model. The trail can have some of a model that the schema has no more.
async fn known(desk: &Desk, reader: &mut Reader, name: &str) -> Result<(), Failure> {
    let schema = std::sync::Arc::clone(desk.engine.schema());
    let declared = schema.model_named(name).map(|id| schema.model(id));
    let audited = declared.is_some_and(|model| model.audit.is_some());
    if audited || reader.knows(name).await.map_err(|error| failure(&error))? {
        return Ok(());
    }
    if declared.is_some() {
        return Err(Failure::new(format!("`{name}` has no `@@audit`, and the trail has no event of it"))
            .help("write `@@audit` into the model, and apply the schema"));
    }
    let audited = schema.models.iter().filter(|model| model.audit.is_some()).map(|model| model.name.as_str());
    let help = match fuzzy::nearest(name, audited.clone()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("audited are {}", audited.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")),
    };
    Err(Failure::new(format!("there is no model `{}`", plain(name))).help(help))
}

/// The key as the trail writes it.
fn key(desk: &Desk, model: &str, text: &str) -> String {
    let schema = desk.engine.schema();
    let Some(id) = schema.model_named(model) else { return text.to_owned() };
    key_named(schema, id, text).unwrap_or_else(|| {
        desk.ui.warn(&format!("no row of `{model}` can have the key `{}`", plain(text)));
        text.to_owned()
    })
}
