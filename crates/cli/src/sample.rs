//! What `dev` shows to start with: a principal per role, and `curl` lines that were tried out.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cratestack_engine::api::{Answer, Authority, Caller, Operation, Origin, Principal, Verb};
use cratestack_engine::{Engine, input};
use cratestack_schema::ir::{
    Action, Default as IrDefault, Expr, Field, FieldId, FieldType, Model, ModelId, RelationKind, Scalar, Schema,
    ValidatorKind, Writable,
};
use cratestack_schema::value::Value;
use regex_syntax::hir::{Class, Hir, HirKind};

/// A principal to try things with.
pub(crate) struct Sample {
    /// The role, or `caller`.
    pub(crate) name: String,
    /// The claims, as JSON.
    pub(crate) claims: String,
}

/// One principal per variant of the auth block's role, or per role that a rule asks for by `hasRole`.
pub(crate) fn principals(schema: &Schema) -> Vec<Sample> {
    let Some(auth) = &schema.auth else { return Vec::new() };
    let role = auth
        .fields
        .iter()
        .filter(|field| matches!(field.ty, FieldType::Enum(_)) && !field.list)
        .max_by_key(|field| (field.name == "role", !field.optional));
    let names: Vec<String> = match role.map(|field| field.ty) {
        Some(FieldType::Enum(id)) => schema.enumeration(id).variants.iter().map(|v| v.name.clone()).collect(),
        _ => roles_in_rules(schema),
    };
    let names = if names.is_empty() { vec!["caller".to_owned()] } else { names };
    let named = |id: Option<FieldId>| id.and_then(|id| auth.fields.get(id.index())).map(|field| field.name.as_str());
    let (subject, tenant) = (named(auth.subject), named(auth.tenant));
    names
        .into_iter()
        .map(|name| {
            let claims: Vec<String> = auth
                .fields
                .iter()
                .filter_map(|field| {
                    let value = if role.is_some_and(|role| role.name == field.name) {
                        quoted(&name)
                    } else if field.list {
                        format!("[{}]", if field.name == "roles" { quoted(&name) } else { String::new() })
                    } else if subject == Some(field.name.as_str()) && field.scalar() == Some(Scalar::String) {
                        quoted(&name)
                    } else if field.optional && tenant != Some(field.name.as_str()) {
                        return None;
                    } else {
                        value(schema, field)?
                    };
                    Some(format!("{}:{value}", quoted(&field.name)))
                })
                .collect();
            Sample { name, claims: format!("{{{}}}", claims.join(",")) }
        })
        .collect()
}

fn roles_in_rules(schema: &Schema) -> Vec<String> {
    let model_rules = schema.models.iter().flat_map(|model| model.rules.iter().map(|rule| &rule.expr));
    let procedure_rules = schema.procedures.iter().flat_map(|procedure| procedure.rules.iter().map(|rule| &rule.expr));
    let mut names = Vec::new();
    for rule in model_rules.chain(procedure_rules) {
        rule.visit(&mut |expr| {
            if let Expr::HasRole(role) = expr
                && let Expr::Const(_, Value::Text(name)) = role.as_ref()
                && !names.contains(name)
            {
                names.push(name.clone());
            }
        });
    }
    names
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A value that most schemas accept for a field, as JSON text; what the validators make of it is tried out later.
fn value(schema: &Schema, field: &Field) -> Option<String> {
    if field.list {
        return Some("[]".to_owned());
    }
    let scalar = match field.ty {
        FieldType::Enum(id) => return schema.enumeration(id).variants.first().map(|variant| quoted(&variant.name)),
        FieldType::Scalar(scalar) => scalar,
        FieldType::Type(_) | FieldType::Model(_) => return None,
    };
    let (mut bound, mut lengths, mut pattern) = (None, (0, usize::MAX), None);
    for validator in &field.validators {
        match &validator.kind {
            ValidatorKind::Email => return Some(quoted("ann@example.com")),
            ValidatorKind::Uri => return Some(quoted("https://example.com/")),
            ValidatorKind::Iso4217 { .. } => return Some(quoted("EUR")),
            ValidatorKind::Iban => return Some(quoted("DE89370400440532013000")),
            ValidatorKind::Bic => return Some(quoted("DEUTDEFF")),
            ValidatorKind::Lei => return Some(quoted("529900T8BM49AURSDO55")),
            ValidatorKind::Range { min, max } => bound = min.clone().or_else(|| max.clone()),
            ValidatorKind::Length { min, max } => {
                let octets = |bound: u64| usize::try_from(bound).unwrap_or(usize::MAX);
                lengths = (min.map_or(0, octets), max.map_or(usize::MAX, octets));
            }
            ValidatorKind::Regex(text) => pattern = Some(text),
        }
    }
    let (least, most) = lengths;
    if least > LONGEST {
        return None;
    }
    Some(match (scalar, bound) {
        (Scalar::Int | Scalar::Float, Some(Value::Int(bound))) => bound.to_string(),
        (Scalar::Float, Some(Value::Float(bound))) => bound.to_string(),
        (Scalar::BigInt, Some(Value::Int(bound))) => quoted(&bound.to_string()),
        (Scalar::Decimal(_) | Scalar::Date | Scalar::DateTime, Some(Value::Text(bound))) => quoted(&bound),
        (Scalar::String, _) => {
            let fits = |text: &str| (least..=most).contains(&text.chars().count());
            let word = word(&field.name);
            match pattern {
                Some(pattern)
                    if !cratestack_schema::pattern::compile(pattern).is_ok_and(|known| known.is_match(word)) =>
                {
                    quoted(&matching(pattern)?)
                }
                _ if fits(word) => quoted(word),
                _ => quoted(&"x".repeat(least.max(1).min(most))),
            }
        }
        (Scalar::Int | Scalar::Float, _) => "1".to_owned(),
        (Scalar::BigInt, _) => quoted("1"),
        (Scalar::Decimal(_), _) => quoted("10"),
        (Scalar::Boolean, _) => "true".to_owned(),
        (Scalar::DateTime, _) => quoted("2026-01-31T10:00:00Z"),
        (Scalar::Date, _) => quoted("2026-01-31"),
        (Scalar::Uuid, _) => quoted("01890a5d-ac96-774b-bcce-b302099a8057"),
        (Scalar::Cuid, _) => quoted("cjld2cjxh0000qzrmn831i7rn"),
        (Scalar::Bytes, _) => quoted(&STANDARD.encode(vec![0; least.max(1).min(most)])),
        (Scalar::Json, _) => "{}".to_owned(),
    })
}

/// Longer texts are no samples.
const LONGEST: usize = 200;

/// A short text that a pattern matches, if it is a simple one.
fn matching(pattern: &str) -> Option<String> {
    let mut text = String::new();
    spell(&regex_syntax::parse(pattern).ok()?, &mut text)?;
    Some(text)
}

fn spell(hir: &Hir, text: &mut String) -> Option<()> {
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => {}
        HirKind::Literal(literal) => text.push_str(std::str::from_utf8(&literal.0).ok()?),
        HirKind::Class(Class::Unicode(class)) => {
            let holds = |c: &char| class.iter().any(|range| (range.start()..=range.end()).contains(c));
            text.push(['A', 'a', '1'].into_iter().find(holds).or_else(|| Some(class.iter().next()?.start()))?);
        }
        HirKind::Class(Class::Bytes(_)) => return None,
        HirKind::Repetition(again) => {
            for _ in 0..again.min {
                spell(&again.sub, text)?;
            }
        }
        HirKind::Capture(group) => spell(&group.sub, text)?,
        HirKind::Concat(parts) => parts.iter().try_for_each(|part| spell(part, text))?,
        HirKind::Alternation(either) => spell(either.first()?, text)?,
    }
    (text.len() <= LONGEST).then_some(())
}

fn word(name: &str) -> &'static str {
    let name = name.to_lowercase();
    [
        ("tenant", "acme"),
        ("country", "DE"),
        ("name", "Ann"),
        ("owner", "Ann"),
        ("city", "Berlin"),
        ("phone", "+491234567"),
        ("title", "First"),
    ]
    .iter()
    .find(|(part, _)| name.contains(part))
    .map_or("abc", |(_, word)| word)
}

/// A `curl` command without its address: method, path below the API, body.
pub(crate) struct Try {
    /// Whose token it takes: index into the principals.
    pub(crate) who: Option<usize>,
    /// Path and query below the mount point.
    pub(crate) target: String,
    /// The body of a POST.
    pub(crate) body: Option<String>,
}

/// Requests that succeed on an empty database: a row is made, found, and counted, or else what is possible. Each is run on
/// `scratch` (an engine over the same schema on a database in memory) before it is shown.
pub(crate) async fn tries(scratch: &Engine, principals: &[Sample]) -> Vec<Try> {
    let schema: &Arc<Schema> = scratch.schema();
    let callers: Vec<(Option<usize>, Option<Principal>)> = std::iter::once((None, None))
        .chain(principals.iter().enumerate().filter_map(|(at, sample)| {
            let claims = cratestack_engine::json::parse(sample.claims.as_bytes(), 64).ok()?;
            Some((Some(at), Some(input::principal(schema, &claims).ok()?)))
        }))
        .collect();
    // An anonymous caller comes last: a token shows more.
    let callers: Vec<_> = callers.iter().skip(1).chain(callers.first()).collect();
    let mut some = Vec::new();
    for (id, model) in schema.models() {
        let body = body(schema, model);
        for (who, principal) in &callers {
            let made = match &body {
                Some(body) => succeeds(scratch, id, principal.as_ref(), create(body)).await,
                None => false,
            };
            let listed = |query: &str| Try { who: *who, target: format!("/{}{query}", model.path), body: None };
            let created = || Try { who: *who, target: format!("/{}", model.path), body: body.clone() };
            let routed = !model.internal.contains(&Action::List);
            let lists = routed && succeeds(scratch, id, principal.as_ref(), list()).await;
            if made && lists {
                return vec![created(), listed(""), listed("?limit=1&count=exact")];
            }
            if (made || lists) && some.len() < 3 {
                some.push(if made { created() } else { listed("?limit=10") });
            }
        }
    }
    some
}

fn create(body: &str) -> Option<Verb> {
    Some(Verb::Create { data: cratestack_engine::json::parse(body.as_bytes(), 64).ok()? })
}

#[expect(clippy::unnecessary_wraps, reason = "the same shape as `create`")]
fn list() -> Option<Verb> {
    Some(Verb::List { params: Vec::new() })
}

async fn succeeds(engine: &Engine, model: ModelId, principal: Option<&Principal>, verb: Option<Verb>) -> bool {
    let Some(verb) = verb else { return false };
    let caller = Caller {
        principal: principal.cloned(),
        authority: Authority::Rules,
        request_id: "sample".to_owned(),
        deadline: Duration::from_secs(5),
        origin: Origin::default(),
    };
    match engine.run(&caller, Operation { model, verb }).await {
        Ok(Answer::Row(row)) => row.body.is_some(),
        Ok(_) => true,
        Err(_) => false,
    }
}

/// A create body with the members that must be there; `None` when the row needs another row first.
fn body(schema: &Schema, model: &Model) -> Option<String> {
    let internal = model.internal.contains(&Action::Create);
    let needs_parent = model.relations.iter().any(|relation| match &relation.kind {
        RelationKind::Owning { fields, .. } => fields.iter().any(|id| {
            let field = model.field(*id);
            !field.optional && field.default.is_none()
        }),
        RelationKind::One | RelationKind::Many => false,
    });
    if internal || needs_parent {
        return None;
    }
    let mut members = Vec::new();
    for field in &model.fields {
        let given = matches!(field.default, Some(IrDefault::Value(_) | IrDefault::Uuid | IrDefault::Cuid));
        if field.writable() == Writable::Never || field.optional || given {
            continue;
        }
        members.push(format!("{}:{}", quoted(&field.name), value(schema, field)?));
    }
    // A row with nothing but defaults is made by `{}`, which shows little but works.
    Some(format!("{{{}}}", members.join(",")))
}
