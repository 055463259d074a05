//! Every route of some schemas, as every kind of caller: who gets in, and what the others are told.
//!
//! The rows of the table come from the facade's own list of routes, so that a new route cannot be forgotten. Each cell
//! is one request on a database of its own. Besides the snapshot, two things are asserted of every route: somebody gets
//! through, and a write of a `@version` model is refused without a version (428) and with a stale one (412). And every
//! model keeps a trail here, so that each request is held to it: one that has written left an event, any other none.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use cratestack::{RouteInfo, RouteTarget, RouteVerb};
use cratestack_conformance::MOUNT;
use cratestack_conformance::case::Service;
use cratestack_conformance::client::Response;
use cratestack_conformance::database::{Backend, sqlite_only};
use cratestack_conformance::steps::Request;
use cratestack_conformance::transcript::diff;
use cratestack_schema::ir::{Model, Schema};
use libtest_mimic::{Failed, Trial};
use serde_json::{Value, json};

/// The matrices of `matrix/`.
const NAMES: [&str; 2] = ["bank", "desk"];

pub(crate) fn trials(update: bool) -> Vec<Trial> {
    let runs = NAMES.into_iter().flat_map(|name| Backend::ALL.map(|backend| (name, backend)));
    runs.map(|(name, backend)| {
        let ignored = backend == Backend::Postgres && (sqlite_only() || update);
        let trial = Trial::test(format!("matrix::{name}::{}", backend.word()), move || check(name, backend, update));
        trial.with_ignored_flag(ignored)
    })
    .collect()
}

struct Matrix {
    text: String,
    schema: Arc<Schema>,
    plan: Value,
    backend: Backend,
}

/// How a write states the version that it has seen.
#[derive(Clone, Copy, PartialEq)]
enum Precondition {
    Any,
    Missing,
    Stale,
}

fn check(name: &str, backend: Backend, update: bool) -> Result<(), Failed> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let plan: Value = serde_json::from_str(&read(&folder.join(format!("matrix/{name}.json")))?).unwrap();
    let text = read(&folder.join("..").join(plan["schema"].as_str().unwrap()))?;
    let (schema, found) = cratestack_schema::compile(name, &text);
    let schema = Arc::new(schema.ok_or_else(|| format!("{found:?}"))?);
    let text = audited(&text, &schema);
    let matrix = Matrix { text, schema, plan, backend };
    let table = matrix.table()?;
    let snapshot = folder.join(format!("matrix/{name}.snap"));
    if update {
        std::fs::write(snapshot, table).unwrap();
        return Ok(());
    }
    diff(&read(&snapshot)?, &table).map_or(Ok(()), |diff| Err(Failed::from(diff)))
}

/// The schema with `@@audit` in every model.
fn audited(text: &str, schema: &Schema) -> String {
    let mut out = String::new();
    for line in text.lines() {
        out.push_str(line);
        out.push('\n');
        let name = line.strip_prefix("model ").and_then(|rest| rest.split_whitespace().next());
        if name.and_then(|name| schema.model_named(name)).is_some_and(|id| schema.model(id).audit.is_none()) {
            out.push_str("  @@audit\n");
        }
    }
    out
}

fn read(path: &PathBuf) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

impl Matrix {
    fn table(&self) -> Result<String, Failed> {
        let callers: Vec<(&str, &Value)> =
            self.plan["callers"].as_array().unwrap().iter().map(|pair| (pair[0].as_str().unwrap(), &pair[1])).collect();
        let titles = callers.iter().map(|(title, _)| (*title).to_owned());
        let mut lines = vec![std::iter::once("route".to_owned()).chain(titles).collect::<Vec<_>>()];
        for route in cratestack::routes(&self.schema) {
            for precondition in self.preconditions(&route) {
                let cells: Vec<Response> = callers
                    .iter()
                    .map(|(_, claims)| self.ask(&route, claims, precondition))
                    .collect::<Result<_, _>>()?;
                let title = match precondition {
                    Precondition::Any => format!("{} {}", route.method, route.path),
                    Precondition::Missing => format!("{} {} without a version", route.method, route.path),
                    Precondition::Stale => format!("{} {} with a stale version", route.method, route.path),
                };
                let wanted = match (precondition, route.verb) {
                    (Precondition::Missing, _) => 428..=428,
                    (Precondition::Stale, _) => 412..=412,
                    // Bodies of procedures are Rust, and nobody provides them here.
                    (Precondition::Any, RouteVerb::Call) => 501..=501,
                    (Precondition::Any, _) => 200..=299,
                };
                if !cells.iter().any(|cell| wanted.contains(&cell.status)) {
                    let found: Vec<_> = cells.iter().map(describe).collect();
                    return Err(format!("{title}: nobody is answered {wanted:?}: {}", found.join(", ")).into());
                }
                lines.push(std::iter::once(title).chain(cells.iter().map(describe)).collect());
            }
        }
        Ok(columns(&lines))
    }

    fn preconditions(&self, route: &RouteInfo) -> Vec<Precondition> {
        let RouteTarget::Model(model) = route.target else { return vec![Precondition::Any] };
        let versioned = self.schema.model(model).version.is_some();
        let mutates =
            matches!(route.verb, RouteVerb::Patch | RouteVerb::Delete | RouteVerb::Restore | RouteVerb::Batch);
        if versioned && mutates {
            vec![Precondition::Any, Precondition::Missing, Precondition::Stale]
        } else {
            vec![Precondition::Any]
        }
    }

    /// One request on a fresh database that holds one row of each model up to the route's.
    fn ask(&self, route: &RouteInfo, claims: &Value, precondition: Precondition) -> Result<Response, String> {
        let mut service = Service::start(&self.text, self.backend)?;
        let outcome = self.prepare(&mut service, route).and_then(|()| {
            let request = self.request(route, claims, precondition);
            let before = service.trail();
            let answer = service.send(&request)?;
            check_trail(route, &answer, &before, &service.trail())?;
            Ok(answer)
        });
        service.end();
        outcome
    }

    fn prepare(&self, service: &mut Service, route: &RouteInfo) -> Result<(), String> {
        let last = match route.target {
            RouteTarget::Model(model) => model.index() + 1,
            // The trail has an event of each model.
            RouteTarget::Trail => self.schema.models.len(),
            RouteTarget::Procedure(_) => 0,
        };
        for model in self.schema.models.iter().take(last) {
            let row = &self.plan["rows"][&model.name];
            for sql in row["sql"].as_array().into_iter().flatten() {
                let outcome = service.execute(sql.as_str().unwrap());
                assert_eq!(outcome, "1 rows", "{sql}");
            }
            if row["create"].is_object() {
                let created =
                    service.send(&self.as_owner("POST", &format!("/{}", model.path), Some(&row["create"])))?;
                assert_eq!(created.status, 201, "{}: {}", model.name, String::from_utf8_lossy(&created.body));
            }
        }
        if route.verb == RouteVerb::Restore {
            let path = self.path(route).trim_end_matches("/restore").to_owned();
            let deleted = service.send(&self.as_owner("DELETE", &path, None))?;
            assert_eq!(deleted.status, 204, "{path}");
        }
        Ok(())
    }

    /// A request of the last caller, who may do everything.
    fn as_owner(&self, method: &str, path: &str, body: Option<&Value>) -> Request {
        let owner = &self.plan["callers"].as_array().unwrap().last().unwrap()[1];
        request(method, path, owner, Some("*"), body)
    }

    fn request(&self, route: &RouteInfo, claims: &Value, precondition: Precondition) -> Request {
        let model = match route.target {
            RouteTarget::Model(model) => Some(self.schema.model(model)),
            RouteTarget::Procedure(_) | RouteTarget::Trail => None,
        };
        let row = |member: &str| self.plan["rows"][&model.unwrap().name][member].clone();
        let body = match route.verb {
            RouteVerb::Create => Some(row("again")),
            RouteVerb::Patch => Some(row("patch")),
            RouteVerb::Batch => {
                Some(json!({"items": [batch_item(model.unwrap(), &row("patch"), &row("key"), precondition)]}))
            }
            RouteVerb::Call => {
                let name = route.path.trim_start_matches("/rpc/");
                Some(self.plan["calls"][name].clone())
            }
            RouteVerb::List | RouteVerb::Read | RouteVerb::Delete | RouteVerb::Restore | RouteVerb::Trail => None,
        };
        let versioned = model.is_some_and(|model| model.version.is_some());
        let if_match = match precondition {
            Precondition::Any if versioned && route.verb != RouteVerb::Batch => Some("*"),
            Precondition::Stale if route.verb != RouteVerb::Batch => Some("\"999\""),
            _ => None,
        };
        request(route.method.as_str(), &self.path(route), claims, if_match, body.as_ref())
    }

    /// The route's path with the row's key.
    fn path(&self, route: &RouteInfo) -> String {
        let RouteTarget::Model(model) = route.target else { return route.path.clone() };
        let model = self.schema.model(model);
        let key = self.plan["rows"][&model.name]["key"].as_str().unwrap();
        let names: Vec<String> = model.key.iter().map(|id| format!("{{{}}}", model.field(*id).name)).collect();
        route.path.replace(&names.join("/"), key)
    }
}

/// That the request left what it should in the trail.
fn check_trail(route: &RouteInfo, answer: &Response, before: &[String], after: &[String]) -> Result<(), String> {
    let wrote = (200..300).contains(&answer.status) && route.method != http::Method::GET;
    let new = &after[before.len()..];
    let denials = new.iter().filter(|entry| entry.contains("\"operation\":\"denied\"")).count();
    let asked = |entry: &&String| entry.contains(&format!("\"op\":\"{} {}\"", route.method, route.path));
    let told = new.iter().filter(asked).count() == new.len();
    let events = new.len() - denials;
    if told && (events > 0) == wrote && (denials == 0 || matches!(answer.status, 403 | 412)) {
        return Ok(());
    }
    Err(format!("{} {} was answered {}, and left {new:#?}", route.method, route.path, answer.status))
}

fn batch_item(model: &Model, patch: &Value, key: &Value, precondition: Precondition) -> Value {
    let segments: Vec<&str> = key.as_str().unwrap().split('/').collect();
    let id = if segments.len() == 1 { json!(segments[0]) } else { json!(segments) };
    let mut item = json!({"op": "update", "id": id, "data": patch});
    match precondition {
        Precondition::Any if model.version.is_some() => item["ifMatch"] = json!("*"),
        Precondition::Stale => item["ifMatch"] = json!(999),
        _ => {}
    }
    item
}

fn request(method: &str, path: &str, claims: &Value, if_match: Option<&str>, body: Option<&Value>) -> Request {
    let mut headers = Vec::new();
    let mut header = |name: &str, value: &str| headers.push((name.to_owned(), value.to_owned()));
    if !claims.is_null() {
        let token = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(claims.to_string());
        header("Authorization", &format!("Bearer dev.{token}"));
    }
    if let Some(if_match) = if_match.filter(|_| method != "POST" || path.ends_with("/restore")) {
        header("If-Match", if_match);
    }
    if body.is_some() {
        header("Content-Type", "application/json");
    }
    let body = body.map(|body| body.to_string().into_bytes());
    Request { method: method.to_owned(), target: format!("{MOUNT}{path}"), headers, body }
}

/// The status, and how many rows a list shows or which code a problem has.
fn describe(response: &Response) -> String {
    let body: Value = serde_json::from_slice(&response.body).unwrap_or_default();
    let rows = body["items"].as_array().map(|items| format!("{} rows", items.len()));
    let what =
        rows.filter(|_| !body["items"][0]["status"].is_number()).or_else(|| body["code"].as_str().map(str::to_owned));
    [response.status.to_string(), what.unwrap_or_default()].join(" ").trim().to_owned()
}

/// A table with aligned columns.
fn columns(lines: &[Vec<String>]) -> String {
    let width = |column: usize| lines.iter().filter_map(|line| line.get(column)).map(String::len).max().unwrap_or(0);
    let mut out = String::new();
    for line in lines {
        let cells: Vec<String> =
            line.iter().enumerate().map(|(at, cell)| format!("{cell:<width$}", width = width(at))).collect();
        out.push_str(cells.join(" | ").trim_end());
        out.push('\n');
    }
    out
}
