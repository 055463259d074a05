//! `GET /audit`: the audit trail, as the rules of its models show it.
//!
//! An event is shown where the model's rules for the action `audit` allow. A rule that looks at a row looks at the row
//! as the event recorded it: at each of `before` and `after` that is there, and both must pass. What the event does not
//! hold (a redacted value, a field that came later, a row that did not fit) is no row that passes: such events are
//! shown by rules over the caller alone. Of a refusal nothing was recorded, and the row as it is now decides.
//!
//! An entry is shown as it was written, without what the model shows nobody *now*: `@server_only` fields and those that it
//! no longer has (by another name they might be such), their names in `changed` included, and the values of what became
//! `@pii` or `@sensitive` since. An entry that is no entry (nothing but a superuser can have put it there) is told to be
//! damaged, and stands in nobody's way.
//!
//! A page looks at [`Limits::trail_window`](crate::Limits) events at most, unless the key is given, and holds a few megabytes.
//! So it may be short, even empty, and have a next one.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

use cratestack_schema::fuzzy;
use cratestack_schema::ir::{Action, Expr, FieldId, FieldType, Model, ModelId, RelationId, Scalar, Schema};
use cratestack_schema::value::{Value, parse_text};

use super::read::{fetch, random, refused, unix};
use super::{Core, Place, deadline, int};
use crate::api::{Answer, Caller, Code, Failure, Principal};
use crate::audit::TABLE;
use crate::cursor::{self, Binding};
use crate::json::{self, Json};
use crate::plan::Values;
use crate::plan::write::flag;
use crate::policy::{Decision, Residual, View, could_allow};
use crate::predicate::{Frag, Predicates, Row, Scope, join_columns};
use crate::query;
use crate::sql::{Column, Dialect, Shape, Slot, Sql, SqlType, Template, column, ident};
use crate::storage::{Codec, lossy};
use crate::store::Rows;

/// The parameters, in the order in which a cursor is bound to them.
const PARAMS: [&str; 7] = ["model", "key", "actor", "from", "to", "limit", "cursor"];

/// What is asked for.
#[derive(Debug, Default)]
struct Query<'p> {
    model: Option<ModelId>,
    key: Option<&'p str>,
    actor: Option<&'p str>,
    from: Option<Value>,
    to: Option<Value>,
    limit: u32,
    cursor: Option<&'p str>,
}

/// Whether events of a model have a route.
pub fn shown(schema: &Schema, model: &Model) -> bool {
    let rules = model.rules.iter().filter(|rule| rule.actions.contains(&Action::Audit));
    model.audit.is_some()
        && !model.internal.contains(&Action::Audit)
        && could_allow(schema, rules.map(|rule| (rule.effect, &rule.expr)))
}

/// A page of events, newest first.
pub(super) async fn page(core: &Arc<Core>, caller: &Caller, params: &[(String, String)]) -> Result<Answer, Failure> {
    let deadline = deadline(caller);
    let query = Query::parse(core, params)?;
    let clock = core.now();
    let view = core.view(caller, &clock);
    let models = core
        .schema
        .models()
        .filter(|(id, model)| query.model.is_none_or(|wanted| wanted == *id) && shown(&core.schema, model));
    let decided: Vec<(ModelId, Decision)> = models.map(|(id, _)| (id, view.decide(id, Action::Audit, None))).collect();
    let Some((first, _)) = decided.first() else {
        return Err(Failure::new(Code::NotFound, "no model shows its trail"));
    };
    let limits = &core.options.limits;
    let open: Vec<_> = decided.iter().filter(|(_, decision)| *decision != Decision::Refused).collect();
    if open.is_empty() {
        return Err(refused(core.schema.model(*first), caller, Action::Audit));
    }
    let binding = Query::binding(&core.schema, caller.principal.as_ref(), params);
    let place = query.cursor.map(|cursor| core.cursors.open(cursor, unix(core), limits.cursor_ttl, &binding));
    let place = place.transpose()?.and_then(|place| place.values.first().and_then(int));
    let turn = tokio::time::timeout_at(deadline.into(), core.trail_reads.acquire()).await;
    let Ok(Ok(_turn)) = turn else {
        return Err(Failure::new(Code::Unavailable, "others are reading the audit trail; try again later"));
    };
    let values = Values::new(&core.schema, core.store.dialect(), caller.principal.as_ref(), &clock);
    let before = if let Some(before) = place {
        before
    } else {
        let newest = fetch(core, Place::Own, caller, *first, &newest(), &values, deadline).await?;
        newest.control(0).first().and_then(int).unwrap_or_default().saturating_add(1)
    };
    let floor = if query.key.is_some() { 0 } else { before.saturating_sub(i64::from(limits.trail_window)).max(0) };
    let planner = Planner { view: &view, dialect: core.store.dialect(), query: &query, within: (floor, before) };
    let rows = fetch(core, Place::Own, caller, *first, &planner.template(&open), &values, deadline).await?;
    let (items, shown) = items(&core.schema, &rows, query.limit as usize);
    let next = match shown.checked_sub(1) {
        Some(last) if shown < rows.len() => rows.control(last).first().and_then(int),
        _ => (floor > 0).then_some(floor),
    };
    let next = next.map(|next| seal(core, &binding, next)).transpose()?;
    Ok(Answer::Page { items, next, total: None })
}

/// The statement that finds the greatest number.
fn newest() -> Arc<Template> {
    Arc::new(Template::fixed(&format!("SELECT coalesce(max(seq), 0) FROM {TABLE}"), &[SqlType::INT]))
}

fn seal(core: &Arc<Core>, binding: &Binding, before: i64) -> Result<String, Failure> {
    let seed = random(core)().ok_or_else(|| Failure::new(Code::Internal, "there is no randomness"))?;
    core.cursors.seal(seed, unix(core), binding, &cursor::Place::of(&[Value::Int(before)], |_| true))
}

impl<'p> Query<'p> {
    fn parse(core: &Core, params: &'p [(String, String)]) -> Result<Self, Failure> {
        let limits = &core.options.limits;
        let mut query = Query { limit: limits.list_default.min(limits.list_max), ..Query::default() };
        for (at, (name, value)) in params.iter().enumerate() {
            if !PARAMS.contains(&name.as_str()) {
                let near = fuzzy::nearest(name, PARAMS).map(|near| format!("; did you mean `{near}`?"));
                let known = near.unwrap_or_else(|| format!("; they are `{}`", PARAMS.join("`, `")));
                return Err(query::invalid(name, format!("is no parameter of the trail{known}")));
            }
            if params.iter().take(at).any(|(other, _)| other == name) {
                return Err(query::invalid(name, "is given twice"));
            }
            match name.as_str() {
                "model" => query.model = Some(model(&core.schema, value)?),
                "key" => query.key = Some(value),
                "actor" => query.actor = Some(value),
                "from" => query.from = Some(time(name, value)?),
                "to" => query.to = Some(time(name, value)?),
                "limit" => query.limit = query::limit(limits, value)?,
                _ => query.cursor = Some(value),
            }
            if value.contains('\0') {
                return Err(query::invalid(name, "holds a NUL character"));
            }
        }
        Ok(query)
    }

    fn binding(schema: &Schema, principal: Option<&Principal>, params: &[(String, String)]) -> Binding {
        let mut binding = Binding::default();
        binding.part("audit");
        // Neither how long a page is nor where it begins.
        for name in PARAMS.iter().take(5) {
            let value = params.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str());
            binding.part(if value.is_some() { "=" } else { "" }).part(value.unwrap_or_default());
        }
        query::bind_principal(&mut binding, schema, principal);
        binding
    }
}

/// The model of that name, if its trail is shown to anybody: a model without one is none.
fn model(schema: &Schema, name: &str) -> Result<ModelId, Failure> {
    let known = || schema.models().filter(|(_, model)| shown(schema, model));
    let found = known().find(|(_, model)| model.name == name).map(|(id, _)| id);
    found.ok_or_else(|| {
        let near = fuzzy::nearest(name, known().map(|(_, model)| model.name.as_str()));
        let help = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
        query::invalid("model", format!("names no model with a trail that is shown{help}"))
    })
}

fn time(name: &str, text: &str) -> Result<Value, Failure> {
    parse_text(Scalar::DateTime, text)
        .map_err(|_| query::invalid(name, "is no time: write it as in `2026-01-31T10:00:00Z`"))
}

/// Makes the statement of one page.
struct Planner<'a> {
    view: &'a View<'a>,
    dialect: Dialect,
    query: &'a Query<'a>,
    /// The numbers that are looked at: from the first, below the second.
    within: (i64, i64),
}

impl Planner<'_> {
    /// Each model has its own conditions, and its own share of at most a page.
    fn template(&self, models: &[&(ModelId, Decision)]) -> Arc<Template> {
        let mut sql = Sql::new(self.dialect);
        let limit = sql.placeholder(Slot::Const(Value::Int(i64::from(self.query.limit) + 1)), SqlType::INT);
        let arms: Vec<String> = models
            .iter()
            .map(|(id, decision)| {
                let place = self.place(&mut sql, *id, decision).into_text();
                let arm = sql.alias();
                format!(
                    "SELECT {arm}.seq, {arm}.entry FROM (SELECT e.seq, e.entry FROM {TABLE} AS e WHERE {place} \
                     ORDER BY e.seq DESC LIMIT {limit}) AS {arm}"
                )
            })
            .collect();
        let all = arms.join(" UNION ALL ");
        let entry = lossy(self.dialect, "x.entry");
        sql.push(&format!("SELECT x.seq, {entry} FROM ({all}) AS x ORDER BY x.seq DESC LIMIT {limit}"));
        let (sql, slots) = sql.finish();
        let control = Column::row(&[SqlType::INT, SqlType::TEXT]);
        Arc::new(Template { sql, slots, control, page: None, shape: Arc::new(Shape::default()) })
    }

    fn place(&self, sql: &mut Sql, id: ModelId, decision: &Decision) -> Frag {
        let text = |value: &str| Slot::Const(Value::Text(value.to_owned()));
        let model = self.view.schema().model(id);
        let mut parts = vec![format!("e.model = {}", sql.placeholder(text(&model.name), SqlType::TEXT))];
        if let Some(key) = self.query.key {
            parts.push(format!("e.primary_key = {}", sql.placeholder(text(key), SqlType::TEXT)));
        }
        if let Some(actor) = self.query.actor {
            let subject = match self.dialect {
                Dialect::Postgres => "e.entry::json->'actor'->>'subject'",
                Dialect::Sqlite => "e.entry ->> '$.actor.subject'",
            };
            parts.push(format!("{subject} = {}", sql.placeholder(text(actor), SqlType::TEXT)));
        }
        for (sign, bound) in [(">=", &self.query.from), ("<", &self.query.to)] {
            if let Some(bound) = bound {
                let bound = sql.placeholder(Slot::Const(bound.clone()), SqlType::DATE_TIME);
                parts.push(format!("e.occurred_at {sign} {bound}"));
            }
        }
        for (sign, bound) in [(">=", self.within.0), ("<", self.within.1)] {
            parts.push(format!("e.seq {sign} {}", sql.placeholder(Slot::Const(Value::Int(bound)), SqlType::INT)));
        }
        let mut parts: Vec<Frag> = parts.into_iter().map(Frag::test).collect();
        parts.push(match decision {
            Decision::Refused => Frag::truth(Some(false)),
            Decision::Allowed => Frag::truth(Some(true)),
            Decision::Residual(residual) => self.recorded(sql, id, residual),
        });
        Frag::all(parts)
    }

    /// That the rows which the event recorded pass the rules.
    fn recorded(&self, sql: &mut Sql, id: ModelId, residual: &Residual) -> Frag {
        let schema = self.view.schema();
        let mut fields = BTreeSet::new();
        residual.allows.iter().chain(&residual.denies).for_each(|rule| looked_at(schema, id, rule, &mut fields));
        let model = schema.model(id);
        let held = |id: &FieldId| {
            let field = model.field(*id);
            let json = matches!(field.ty, FieldType::Scalar(Scalar::Json));
            !field.pii && !field.sensitive && !field.server_only && !field.list && !json
        };
        if !fields.iter().all(held) {
            return Frag::truth(Some(false));
        }
        let absent = ["before", "after"].map(|side| match self.dialect {
            Dialect::Postgres => format!("json_typeof(e.entry::json->'{side}') = 'null'"),
            Dialect::Sqlite => format!("json_type(e.entry, '$.{side}') = 'null'"),
        });
        let refused = Frag::all(absent.clone().map(Frag::test));
        let mut parts = vec![Frag::any([!refused, Frag::test(self.passes_now(sql, id, residual))])];
        for (side, absent) in ["before", "after"].into_iter().zip(absent) {
            let passes = self.passes(sql, id, residual, &fields, side);
            parts.push(Frag::any([Frag::test(absent), Frag::test(passes)]));
        }
        Frag::all(parts)
    }

    /// That the row which the event names is there, and passes.
    fn passes_now(&self, sql: &mut Sql, id: ModelId, residual: &Residual) -> String {
        let schema = self.view.schema();
        let model = schema.model(id);
        let row = sql.alias();
        let mut parts = Vec::new();
        for (at, id) in model.key.iter().enumerate() {
            let field = model.field(*id);
            let text = match (model.key.len(), self.dialect) {
                (1, _) => "e.primary_key".to_owned(),
                (_, Dialect::Postgres) => {
                    format!("(CASE WHEN left(e.primary_key, 1) = '[' THEN e.primary_key::json->>{at} END)")
                }
                (_, Dialect::Sqlite) => {
                    format!("(CASE WHEN substr(e.primary_key, 1, 1) = '[' THEN e.primary_key ->> {at} END)")
                }
            };
            let (value, _) = Codec { schema, dialect: self.dialect, ty: SqlType::of(field) }.of_text(&text);
            parts.push(Frag::test(format!("{} = ({value})", column(&row, &field.column))));
        }
        parts.push(Predicates::of_schema(schema, sql).rules(residual, &Scope::of(id, Row::stored(&row))));
        let place = flag(Frag::all(parts));
        format!("EXISTS (SELECT 1 FROM {} AS {row} WHERE {place})", ident(&model.table))
    }

    /// That one recorded row has the values that the rules look at, and passes.
    fn passes(
        &self,
        sql: &mut Sql,
        id: ModelId,
        residual: &Residual,
        fields: &BTreeSet<FieldId>,
        side: &str,
    ) -> String {
        let schema = self.view.schema();
        let model = schema.model(id);
        let row = sql.alias();
        let (mut columns, mut there) = (Vec::new(), Vec::new());
        for id in fields {
            let field = model.field(*id);
            let codec = Codec { schema, dialect: self.dialect, ty: SqlType::of(field) };
            let (value, sound) = codec.recorded("e.entry", side, &field.name);
            columns.push(format!("{value} AS {}", ident(&field.column)));
            there.push(Frag::test(sound));
        }
        let rules = Predicates::of_schema(schema, sql).rules(residual, &Scope::of(id, Row::stored(&row)));
        let there = Frag::all(there).into_text();
        let source = if columns.is_empty() { "1 AS one".to_owned() } else { columns.join(", ") };
        format!("({there} AND EXISTS (SELECT 1 FROM (SELECT {source}) AS {row} WHERE {}))", flag(rules))
    }
}

/// The fields of the row that a rule looks at, directly or to find related rows.
fn looked_at(schema: &Schema, id: ModelId, rule: &Expr, fields: &mut BTreeSet<FieldId>) {
    let joins = |relation: RelationId| {
        let relation = schema.model(id).relation(relation);
        join_columns(schema, id, relation).into_iter().map(|(own, _)| own)
    };
    match rule {
        Expr::Field(path) => match path.hops.first() {
            Some(hop) => fields.extend(joins(*hop)),
            None => {
                fields.insert(path.field);
            }
        },
        // The body is about rows of another model.
        Expr::Quantified { hops, relation, .. } => fields.extend(joins(*hops.first().unwrap_or(relation))),
        _ => rule.children().into_iter().for_each(|child| looked_at(schema, id, child, fields)),
    }
}

/// Octets of a page, by which it ends early.
const PAGE: usize = 4 << 20;

/// The entries as a JSON array, and how many they are: `limit` at most.
fn items(schema: &Schema, rows: &Rows, limit: usize) -> (String, usize) {
    let mut out = String::from("[");
    let mut shown = 0;
    while shown < rows.len().min(limit) && out.len() < PAGE {
        if let [Value::Int(seq), Value::Text(entry)] = rows.control(shown) {
            out.push_str(if shown > 0 { "," } else { "" });
            if let Some(entry) = visible(schema, entry) {
                entry.write(&mut out);
            } else {
                tracing::error!(seq, "an entry of the audit trail is damaged");
                let _ = write!(out, "{{\"damaged\":true,\"seq\":{seq}}}");
            }
        }
        shown += 1;
    }
    out.push(']');
    (out, shown)
}

/// An entry without what its model shows nobody. `None` if it is none.
fn visible(schema: &Schema, entry: &str) -> Option<Json> {
    let Ok(Json::Object(mut members)) = json::parse(entry.as_bytes(), json::MAX_DEPTH) else { return None };
    let name = members.iter().find_map(|(member, value)| match value {
        Json::String(name) if member == "model" => Some(name.as_str()),
        _ => None,
    })?;
    let model = schema.model_named(name).map(|id| schema.model(id))?;
    let field = |name: &str| model.field_named(name).map(|id| model.field(id)).filter(|field| !field.server_only);
    for (name, value) in &mut members {
        match (name.as_str(), value) {
            ("before" | "after", Json::Object(row)) => {
                let digest = row.iter().any(|(name, value)| name == "omitted" && matches!(value, Json::Object(_)));
                row.retain(|(name, _)| digest || field(name).is_some());
                for (name, value) in row.iter_mut().filter(|(_, value)| !matches!(value, Json::Null | Json::Object(_)))
                {
                    let kind = field(name).and_then(|field| match field {
                        _ if field.pii => Some("pii"),
                        _ if field.sensitive => Some("sensitive"),
                        _ => None,
                    });
                    if let Some(kind) = kind {
                        *value = Json::Object(vec![("redacted".to_owned(), Json::String(kind.to_owned()))]);
                    }
                }
            }
            ("changed", Json::Array(names)) => {
                names.retain(|name| matches!(name, Json::String(name) if field(name).is_some()));
            }
            _ => {}
        }
    }
    Some(Json::Object(members))
}
