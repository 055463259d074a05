//! The engine without HTTP: this module maps a request to an [`Operation`] itself, and the answer back to what HTTP
//! should have said. It shares no code with the facade, so that the two check each other.

use std::sync::Arc;

use cratestack_engine::Engine;
use cratestack_engine::api::{
    Answer, AuthMethod, Authority, BatchItem, Caller, Code, Expected, Failure, Key, Operation, Origin, Principal, Row,
    Verb,
};
use cratestack_engine::engine::procedures::{Bodies, NoProcedures};
use cratestack_engine::json::{self, Json};
use cratestack_schema::ir::{Model, ModelId};
use percent_encoding::percent_decode_str;

use crate::json::quote;
use crate::steps::Request;
use crate::transcript::Shown;

/// Why a request is no operation of the engine: the step must be declared `@http-only`.
#[derive(Debug)]
pub struct Inexpressible(pub String);

fn inexpressible<T>(reason: impl Into<String>) -> Result<T, Inexpressible> {
    Err(Inexpressible(reason.into()))
}

/// Runs one request.
pub async fn run(engine: &Engine, request: &Request, request_id: &str) -> Result<Shown, Inexpressible> {
    let parsed = Target::parse(&request.target)?;
    let mut caller = match caller(engine, request, request_id)? {
        Ok(caller) => caller,
        Err(failure) => return Ok(problem(&failure)),
    };
    if let ["rpc", name] = parsed.segments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        let Some(procedure) = engine.schema().procedures.iter().find(|procedure| procedure.name == *name) else {
            return inexpressible(format!("there is no procedure `{name}`"));
        };
        let bodies: Arc<dyn Bodies> = Arc::new(NoProcedures);
        let outcome = engine.call(&caller, procedure, body(request)?, &bodies).await;
        return Ok(match outcome {
            Ok(text) => shown(procedure.status.unwrap_or(200), None, None, &text),
            Err(failure) => problem(&failure),
        });
    }
    if let (["audit"], "GET") =
        (parsed.segments.iter().map(String::as_str).collect::<Vec<_>>().as_slice(), request.method.as_str())
    {
        return Ok(match engine.trail(&caller, &parsed.params).await {
            Ok(Answer::Page { items, next, total }) => page(&items, next.as_deref(), total),
            Ok(_) => return inexpressible("the trail gives pages"),
            Err(failure) => problem(&failure),
        });
    }
    let operation = operation(engine, request, &parsed)?;
    let model = engine.schema().model(operation.model);
    caller.origin.op = route(model, &operation.verb).into();
    let run = || engine.run(&caller, operation.clone());
    let denials = model.audit.is_some_and(|audit| audit.denials);
    // No two cursors are the same, and each refusal is recorded.
    let alike =
        matches!(&operation.verb, Verb::Read { params, .. } if params.iter().all(|(name, _)| name != "include"));
    let outcome = if alike && !denials {
        // Two at once, since PostgreSQL has another statement then.
        let (outcome, other) = tokio::join!(run(), run());
        if format!("{outcome:?}") != format!("{other:?}") {
            return inexpressible(format!("two at once see {outcome:?} and {other:?}"));
        }
        outcome
    } else {
        run().await
    };
    Ok(match outcome {
        Ok(Answer::Page { items, next, total }) => page(&items, next.as_deref(), total),
        Ok(Answer::Row(row)) => render_row(model, &row),
        Ok(Answer::Deleted { version }) => shown(204, version, None, ""),
        Ok(Answer::Batch(results)) => render_batch(model, &results),
        Err(failure) => problem(&failure),
    })
}

/// The route of an operation, as the audit trail names it.
fn route(model: &Model, verb: &Verb) -> String {
    let rows = format!("/{}", model.path);
    let row = model.key.iter().fold(rows.clone(), |path, id| format!("{path}/{{{}}}", model.field(*id).name));
    match verb {
        Verb::List { .. } => format!("GET {rows}"),
        Verb::Read { .. } => format!("GET {row}"),
        Verb::Create { .. } => format!("POST {rows}"),
        Verb::Patch { .. } => format!("PATCH {row}"),
        Verb::Delete { .. } => format!("DELETE {row}"),
        Verb::Restore { .. } => format!("POST {row}/restore"),
        Verb::Batch { .. } => format!("POST {rows}/batch"),
    }
}

/// A request target, taken apart.
struct Target {
    segments: Vec<String>,
    params: Vec<(String, String)>,
}

impl Target {
    fn parse(target: &str) -> Result<Self, Inexpressible> {
        let Some(rest) = target.strip_prefix(crate::MOUNT) else {
            return inexpressible(format!("`{target}` is not below {}", crate::MOUNT));
        };
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let segments = path.split('/').skip(1).map(decode).collect::<Result<_, _>>()?;
        let params = query.split('&').filter(|_| !query.is_empty()).map(|part| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            Ok((decode(&name.replace('+', " "))?, decode(&value.replace('+', " "))?))
        });
        Ok(Self { segments, params: params.collect::<Result<_, Inexpressible>>()? })
    }
}

fn decode(text: &str) -> Result<String, Inexpressible> {
    match percent_decode_str(text).decode_utf8() {
        Ok(decoded) => Ok(decoded.into_owned()),
        Err(_) => inexpressible("the URL is not UTF-8"),
    }
}

fn header<'r>(request: &'r Request, name: &str) -> Option<&'r str> {
    request.headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

fn caller(engine: &Engine, request: &Request, request_id: &str) -> Result<Result<Caller, Failure>, Inexpressible> {
    use base64::Engine as _;
    let principal: Option<Principal> = match header(request, "authorization") {
        None => None,
        Some(value) => {
            let token = value.strip_prefix("Bearer dev.");
            let claims = token.and_then(|t| base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(t).ok());
            let Some(claims) = claims.and_then(|claims| json::parse(&claims, 100).ok()) else {
                return inexpressible("the token is no dev token");
            };
            match engine.principal(&claims) {
                Ok(principal) => Some(principal),
                Err(reason) => {
                    let failure = Failure::new(Code::Unauthenticated, "the credentials are not valid");
                    return Ok(Err(failure.with_internal(reason)));
                }
            }
        }
    };
    let deadline = std::time::Duration::from_secs(30);
    let origin = Origin { auth: principal.is_some().then_some(AuthMethod::Dev), ..Origin::default() };
    Ok(Ok(Caller { principal, authority: Authority::Rules, request_id: request_id.to_owned(), deadline, origin }))
}

fn body(request: &Request) -> Result<Option<Json>, Inexpressible> {
    let Some(bytes) = request.body.as_deref() else { return Ok(None) };
    match json::parse(bytes, 128) {
        Ok(json) => Ok(Some(json)),
        Err(error) => inexpressible(format!("the body is no JSON value: {error:?}")),
    }
}

fn data(request: &Request) -> Result<Json, Inexpressible> {
    body(request)?.map_or_else(|| inexpressible("there is no body"), Ok)
}

fn operation(engine: &Engine, request: &Request, target: &Target) -> Result<Operation, Inexpressible> {
    let schema = engine.schema();
    let path = target.segments.first().map_or("", String::as_str);
    let Some((id, model)) = schema.models().find(|(_, model)| model.path == path) else {
        return inexpressible(format!("no model has the segment `{path}`"));
    };
    let rest = target.segments.get(1..).unwrap_or_default();
    let (method, keys) = (request.method.as_str(), model.key.len());
    let params = target.params.clone();
    let verb = match (method, rest.len()) {
        ("GET", 0) => Verb::List { params },
        ("POST", 0) => Verb::Create { data: data(request)? },
        ("POST", 1) if rest == ["batch"] => batch(model, data(request)?)?,
        ("GET", n) if n == keys => Verb::Read { key: rest.to_vec(), params },
        ("PATCH", n) if n == keys => {
            Verb::Patch { key: rest.to_vec(), expected: expected(header(request, "if-match"))?, data: data(request)? }
        }
        ("DELETE", n) if n == keys => {
            Verb::Delete { key: rest.to_vec(), expected: expected(header(request, "if-match"))? }
        }
        ("POST", n) if n == keys + 1 && rest.last().is_some_and(|last| last == "restore") => Verb::Restore {
            key: rest.iter().take(keys).cloned().collect(),
            expected: expected(header(request, "if-match"))?,
        },
        _ => return inexpressible(format!("`{method}` on {} segments is no verb", rest.len())),
    };
    if request.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("if-none-match") || name == "Prefer") {
        return inexpressible("the engine knows no `If-None-Match` and no `Prefer`");
    }
    Ok(Operation { model: id, verb })
}

/// The versions that `If-Match` names: `*`, or strong tags of digits; other tags never match.
fn expected(header: Option<&str>) -> Result<Expected, Inexpressible> {
    let Some(text) = header else { return Ok(Expected::Missing) };
    if text.trim() == "*" {
        return Ok(Expected::Any);
    }
    let mut versions = Vec::new();
    for tag in text.split(',').map(str::trim) {
        let opaque = |tag: &str| tag.strip_prefix('"')?.strip_suffix('"').map(str::to_owned);
        match (opaque(tag), tag.strip_prefix("W/").and_then(opaque)) {
            (Some(opaque), _) => {
                let version = opaque.parse::<i64>().ok().filter(|version| version.to_string() == opaque);
                versions.extend(version);
            }
            (None, Some(_)) => {}
            (None, None) => return inexpressible("`If-Match` is no list of entity tags"),
        }
    }
    Ok(Expected::OneOf(versions))
}

fn batch(model: &Model, body: Json) -> Result<Verb, Inexpressible> {
    let Json::Object(members) = body else { return inexpressible("a batch is an object") };
    let mut atomic = true;
    let mut items = None;
    for (name, value) in members {
        match (name.as_str(), value) {
            ("atomic", Json::Bool(value)) => atomic = value,
            ("items", Json::Array(values)) => items = Some(values),
            _ => return inexpressible("the batch is not of its shape"),
        }
    }
    let items = items.map_or_else(|| inexpressible("a batch has items"), Ok)?;
    let items = items.into_iter().map(|item| Ok(BatchItem { verb: batch_item(model, &item)? }));
    Ok(Verb::Batch { atomic, items: items.collect::<Result<_, Inexpressible>>()? })
}

fn batch_item(model: &Model, item: &Json) -> Result<Verb, Inexpressible> {
    let member = |name: &str| item.member(name).cloned();
    let key = || -> Result<Key, Inexpressible> {
        let segment = |json: &Json| match json {
            Json::String(text) | Json::Number(text) => Ok(text.clone()),
            _ => inexpressible("an id is a string or a number"),
        };
        match member("id") {
            Some(Json::Array(parts)) if parts.len() == model.key.len() => parts.iter().map(segment).collect(),
            Some(one) if model.key.len() == 1 => Ok(vec![segment(&one)?]),
            _ => inexpressible("the item names no key"),
        }
    };
    let expected = || match member("ifMatch") {
        None => Ok(Expected::Missing),
        Some(Json::Number(version)) => match version.parse() {
            Ok(version) => Ok(Expected::OneOf(vec![version])),
            Err(_) => inexpressible("`ifMatch` is no version"),
        },
        Some(Json::String(text)) => expected(Some(&text)),
        Some(_) => inexpressible("`ifMatch` is no version"),
    };
    let data = || member("data").map_or_else(|| inexpressible("the item has no data"), Ok);
    match member("op") {
        Some(Json::String(op)) if op == "create" => Ok(Verb::Create { data: data()? }),
        Some(Json::String(op)) if op == "update" => {
            Ok(Verb::Patch { key: key()?, expected: expected()?, data: data()? })
        }
        Some(Json::String(op)) if op == "delete" => Ok(Verb::Delete { key: key()?, expected: expected()? }),
        _ => inexpressible("the item has no known `op`"),
    }
}

/// Status and stable code of a refusal.
fn status_and_word(code: Code) -> (u16, &'static str) {
    match code {
        Code::BadRequest => (400, "bad_request"),
        Code::InvalidQuery => (400, "invalid_query"),
        Code::InvalidCursor => (400, "invalid_cursor"),
        Code::Unauthenticated => (401, "unauthenticated"),
        Code::Forbidden => (403, "forbidden"),
        Code::NotFound => (404, "not_found"),
        Code::UniqueViolation => (409, "unique_violation"),
        Code::ForeignKeyViolation => (409, "foreign_key_violation"),
        Code::TransactionAborted => (409, "transaction_aborted"),
        Code::VersionMismatch => (412, "version_mismatch"),
        Code::VersionRequired => (428, "version_required"),
        Code::ValidationFailed => (422, "validation_failed"),
        Code::Rejected => (422, "rejected"),
        Code::IdempotencyKeyReused => (422, "idempotency_key_reused"),
        Code::IdempotencyInFlight => (409, "idempotency_in_flight"),
        Code::Internal => (500, "internal"),
        Code::NotImplemented => (501, "not_implemented"),
        Code::Unavailable => (503, "unavailable"),
    }
}

/// What an answer looks like; only what [`crate::transcript::Transcript::in_process`] keeps.
fn shown(status: u16, version: Option<i64>, location: Option<String>, body: &str) -> Shown {
    let mut headers = Vec::new();
    headers.extend(version.map(|version| ("etag".to_owned(), format!("\"{version}\""))));
    headers.extend(location.map(|location| ("location".to_owned(), location)));
    Shown::new(status, &headers, body.as_bytes(), &[])
}

fn location(model: &Model, row: &Row) -> String {
    let plain = |c: u8| c.is_ascii_alphanumeric() || b"-._~".contains(&c);
    let encode = |segment: &String| {
        segment.bytes().fold(String::new(), |out, byte| {
            if plain(byte) { out + &char::from(byte).to_string() } else { format!("{out}%{byte:02X}") }
        })
    };
    row.key
        .iter()
        .fold(format!("{}/{}", crate::MOUNT, model.path), |path, segment| format!("{path}/{}", encode(segment)))
}

fn render_row(model: &Model, row: &Row) -> Shown {
    let hidden = row.body.is_none();
    let status = match (row.created, hidden) {
        (true, _) => 201,
        (false, true) => 204,
        (false, false) => 200,
    };
    let location = (row.created || hidden).then(|| location(model, row));
    let version = row.version.filter(|_| row.full && !hidden);
    shown(status, version, location, row.body.as_deref().unwrap_or_default())
}

fn page(items: &str, next: Option<&str>, total: Option<u64>) -> Shown {
    let next = next.map_or_else(|| "null".to_owned(), quote);
    let total = total.map_or_else(String::new, |total| format!(",\"total\":{total}"));
    shown(200, None, None, &format!("{{\"items\":{items},\"next\":{next}{total}}}"))
}

fn problem_json(failure: &Failure) -> String {
    let (status, word) = status_and_word(failure.code);
    let mut out = format!("{{\"status\":{status},\"code\":\"{word}\",\"detail\":{}", quote(&failure.detail));
    if let Some(item) = failure.item {
        out += &format!(",\"item\":{item}");
    }
    if !failure.errors.is_empty() {
        let error = |error: &cratestack_engine::api::FieldError| {
            let (pointer, code) = (quote(&error.pointer), quote(&error.code));
            format!("{{\"pointer\":{pointer},\"code\":{code},\"detail\":{}}}", quote(&error.detail))
        };
        out += &format!(",\"errors\":[{}]", failure.errors.iter().map(error).collect::<Vec<_>>().join(","));
    }
    out + "}"
}

fn problem(failure: &Failure) -> Shown {
    let (status, _) = status_and_word(failure.code);
    shown(status, failure.current_version, None, &problem_json(failure))
}

fn render_batch(model: &Model, results: &[Result<Answer, Failure>]) -> Shown {
    let all = results.iter().all(Result::is_ok);
    let item = |result: &Result<Answer, Failure>| match result {
        Ok(Answer::Row(row)) => {
            let shown = render_row(model, row);
            let mut out = format!("{{\"status\":{}", shown.status);
            for (name, value) in &shown.headers {
                out += &format!(",\"{}\":{}", name.to_lowercase(), quote(value));
            }
            if let Some(body) = &row.body {
                out += &format!(",\"body\":{body}");
            }
            out + "}"
        }
        Ok(Answer::Deleted { version }) => {
            let etag =
                version.map_or_else(String::new, |version| format!(",\"etag\":{}", quote(&format!("\"{version}\""))));
            format!("{{\"status\":204{etag}}}")
        }
        Ok(other) => format!("{{\"unexpected\":{}}}", quote(&format!("{other:?}"))),
        Err(failure) => {
            let (status, _) = status_and_word(failure.code);
            let etag = failure.current_version;
            let etag =
                etag.map_or_else(String::new, |version| format!(",\"etag\":{}", quote(&format!("\"{version}\""))));
            format!("{{\"status\":{status}{etag},\"problem\":{}}}", problem_json(failure))
        }
    };
    let items = results.iter().map(item).collect::<Vec<_>>().join(",");
    shown(if all { 200 } else { 207 }, None, None, &format!("{{\"items\":[{items}]}}"))
}

/// The model that a path names, for the matrix.
pub fn model_of(engine: &Engine, path: &str) -> Option<ModelId> {
    engine.schema().models().find(|(_, model)| model.path == path).map(|(id, _)| id)
}
