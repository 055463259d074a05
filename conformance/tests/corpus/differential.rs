//! The same semantics on SQLite and PostgreSQL: random requests go to both, and the answers must be the same.
//!
//! `CRATESTACK_SEED=7` repeats one run; `CRATESTACK_SEEDS=1000` tries more of them than the few of an ordinary run.

use cratestack_conformance::MOUNT;
use cratestack_conformance::case::Service;
use cratestack_conformance::client::Response;
use cratestack_conformance::database::{Backend, sqlite_only};
use cratestack_conformance::json::Node;
use cratestack_conformance::steps::Request;
use cratestack_conformance::transcript::{Shown, diff};
use libtest_mimic::{Failed, Trial};

const SCHEMA: &str = include_str!("differential.cstack");
const REQUESTS: usize = 250;
/// Requests at the start that only create, so that there is something to ask for.
const CREATES: usize = 40;
const SEEDS: u64 = 4;

pub(crate) fn trials() -> Vec<Trial> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match number("CRATESTACK_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("CRATESTACK_SEEDS").unwrap_or(SEEDS),
    };
    seeds
        .map(|seed| Trial::test(format!("differential::{seed}"), move || run(seed)).with_ignored_flag(sqlite_only()))
        .collect()
}

fn run(seed: u64) -> Result<(), Failed> {
    let services = [Service::start(SCHEMA, Backend::Sqlite)?, Service::start(SCHEMA, Backend::Postgres)?];
    let mut random = Random(seed);
    let mut outcome = Ok(());
    for number in 1..=REQUESTS {
        let request = random.request(number <= CREATES);
        outcome = pages(&services, number as u64, request);
        if outcome.is_err() {
            break;
        }
    }
    services.into_iter().for_each(Service::end);
    outcome.map_err(|difference| format!("CRATESTACK_SEED={seed}: {difference}").into())
}

/// Sends the request, and follows the pages of a list.
fn pages(services: &[Service; 2], number: u64, mut request: Request) -> Result<(), String> {
    let first = request.target.clone();
    for _ in 0..4 {
        let answers: Vec<Response> = services
            .iter()
            .map(|service| {
                service.step(number);
                service.send(&request)
            })
            .collect::<Result<_, _>>()?;
        let shown: Vec<Shown> = answers.iter().map(show).collect();
        if shown[0] != shown[1] || shown[0].status >= 500 && shown[0].status != 501 {
            let body = request.body.as_deref().map(String::from_utf8_lossy).unwrap_or_default();
            let sent = format!("request {number}: {} {}\n{body}", request.method, request.target);
            let text = |shown: &Shown| format!("{}\n{:?}\n{}\n", shown.status, shown.headers, shown.body);
            let difference = diff(&text(&shown[0]), &text(&shown[1])).unwrap_or_else(|| text(&shown[0]));
            return Err(format!("{sent}\n- SQLite, + PostgreSQL\n{difference}"));
        }
        let next = Node::parse(&shown[0].raw).and_then(|body| body.member("next").and_then(Node::text));
        let Some(next) = next.filter(|next| next != "null" && request.method == "GET") else { break };
        let sign = if first.contains('?') { '&' } else { '?' };
        request.target = format!("{first}{sign}cursor={next}");
    }
    Ok(())
}

fn show(response: &Response) -> Shown {
    let mut headers = response.headers.clone();
    // Its cursor is encrypted.
    headers.retain(|(name, _)| name != "link");
    Shown::new(response.status, &headers, &response.body, &[])
}

/// SplitMix64: good enough to choose with, and the same everywhere.
struct Random(u64);

/// Field, its filter operators, and values: valid, odd and wrong ones.
const FIELDS: [(&str, &[&str]); 12] = [
    ("id", &["1", "2", "5", "9", "-1", "9007199254740991", "x"]),
    ("name", &["ann", "Ann", "b_b", "ä", "z%", "🏦", "", "a'b", "nn", "a b"]),
    ("note", &["x", "y", "xy", ""]),
    ("amount", &["1.5", "1.50", "0.1", "-2", "99999999999999.9999", "0", "1e3"]),
    ("wide", &["10", "9", "-9.5", "12345678901234567890.0123456789", "0.00001"]),
    ("ratio", &["0.5", "-0.25", "3", "1e300", "1e-300"]),
    ("ok", &["true", "false", "1"]),
    ("at", &["2026-01-01T00:00:00Z", "2026-01-01T01:00:00%2B01:00", "2025-12-31T23:59:59.999999Z", "now"]),
    ("day", &["2026-01-01", "2024-02-29", "2026-13-01"]),
    ("color", &["red", "green", "blue"]),
    ("big", &["9223372036854775807", "-1", "0", "2"]),
    ("parentId", &["1", "2", "7"]),
];

/// The same as JSON text, for bodies.
const MEMBERS: [(&str, &[&str]); 13] = [
    (
        "name",
        &[
            "\"ann\"",
            "\"Ann\"",
            "\"b_b\"",
            "\"ä\"",
            "\"z%\"",
            "\"🏦\"",
            "\"\"",
            "\"a'b\"",
            "\"annann\"",
            "\"a\\u0000\"",
            "5",
        ],
    ),
    ("note", &["null", "\"x\"", "\"y\"", "\"xy\"", "\"\""]),
    ("amount", &["\"1.5\"", "\"0.1\"", "\"-2\"", "\"99999999999999.9999\"", "\"0\"", "\"7.00001\"", "1"]),
    ("wide", &["null", "\"10\"", "\"9\"", "\"-9.5\"", "\"12345678901234567890.0123456789\""]),
    ("ratio", &["null", "0.5", "-0.25", "3", "1e300", "1e-300", "-0.0", "1e400"]),
    ("ok", &["null", "true", "false", "0"]),
    ("at", &["null", "\"2026-01-01T00:00:00Z\"", "\"2026-01-01T01:00:00+01:00\"", "\"2025-12-31T23:59:59.999999Z\""]),
    ("day", &["null", "\"2026-01-01\"", "\"2024-02-29\"", "\"2023-02-29\""]),
    ("color", &["\"red\"", "\"green\"", "\"blue\"", "\"RED\""]),
    ("big", &["null", "\"9223372036854775807\"", "\"-1\"", "\"0\"", "\"x\""]),
    ("data", &["null", "{\"b\": 1, \"a\": [1.50, null]}", "[]", "\"t\"", "{\"a\": 1e2}"]),
    ("tags", &["[]", "[\"b\", \"a\"]", "[\"x\\\"{}\"]", "[1]"]),
    ("parentId", &["null", "1", "2", "3", "7"]),
];

const OPERATORS: [&str; 12] =
    ["", "eq", "ne", "lt", "lte", "gt", "gte", "in", "notIn", "startsWith", "contains", "isNull"];

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }

    fn one<'t, T: ?Sized>(&mut self, of: &[&'t T]) -> &'t T {
        of[self.below(of.len())]
    }

    fn in_a_hundred(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn request(&mut self, creates: bool) -> Request {
        let id = 1 + self.below(8);
        let path = self.one(&["items", "items", "items", "children"]);
        let (method, target, body) = match if creates { 0 } else { self.below(100) } {
            0..15 => ("POST", format!("/{path}"), Some(self.create(path))),
            15..35 => ("PATCH", format!("/items/{id}"), Some(self.data())),
            35..37 => ("PATCH", format!("/children/{id}"), Some("{\"label\": \"b\"}".to_owned())),
            37..42 => ("DELETE", format!("/{path}/{id}"), None),
            42..49 => ("POST", format!("/items/{id}/restore"), None),
            49..54 => ("POST", "/items/batch".to_owned(), Some(self.batch())),
            54..60 => ("GET", format!("/{path}/{id}"), None),
            _ => ("GET", self.list(path), None),
        };
        let mut headers = vec![("X-Request-Id".to_owned(), "same".to_owned())];
        if body.is_some() {
            headers.push(("Content-Type".to_owned(), "application/json".to_owned()));
        }
        if matches!(method, "PATCH" | "DELETE") || target.ends_with("/restore") {
            let tag = self.one(&["*", "*", "*", "\"1\"", "\"2\"", "\"3\"", "\"1\", \"2\"", ""]);
            if !tag.is_empty() {
                headers.push(("If-Match".to_owned(), tag.to_owned()));
            }
        }
        let claims = self.one(&["", "{\"id\":\"ann\",\"rank\":1}", "{\"id\":\"mia\",\"rank\":9}"]);
        if !claims.is_empty() {
            headers.push(("Authorization".to_owned(), cratestack::DevAuth::header(claims)));
        }
        let body = body.map(String::into_bytes);
        Request { method: method.to_owned(), target: format!("{MOUNT}{target}"), headers, body }
    }

    fn members(&mut self, percent: usize, but: &[&str]) -> String {
        let mut members = Vec::new();
        for (name, values) in MEMBERS {
            if !but.contains(&name) && self.in_a_hundred(percent) {
                // Mostly the first values, which are valid.
                let bound = if self.in_a_hundred(92) { values.len().div_ceil(2) + 1 } else { values.len() };
                members.push(format!("\"{name}\": {}", values[self.below(bound.min(values.len()))]));
            }
        }
        members.join(", ")
    }

    fn data(&mut self) -> String {
        format!("{{{}}}", self.members(15, &[]))
    }

    fn create(&mut self, path: &str) -> String {
        let id = 1 + self.below(8);
        if path == "children" {
            let item = 1 + self.below(6);
            let label = self.one(&["\"a\"", "\"b\"", "\"B\"", "null"]);
            return format!("{{\"id\": {id}, \"itemId\": {item}, \"label\": {label}}}");
        }
        let name = self.one(&["ann", "Ann", "b_b", "ä", "z%", "🏦", "a'b"]);
        let members = self.members(35, &["name", "amount", "ok"]);
        let comma = if members.is_empty() { "" } else { ", " };
        let (amount, ok) = (self.one(&["0", "1.5", "0.1", "2", "1.5000", "-1"]), self.one(&["true", "false", "null"]));
        format!("{{\"id\": {id}, \"name\": \"{name}{id}\", \"amount\": \"{amount}\", \"ok\": {ok}{comma}{members}}}")
    }

    fn batch(&mut self) -> String {
        let items: Vec<String> = (0..=self.below(4))
            .map(|_| {
                let id = 1 + self.below(8);
                let version = self.one(&["\"*\"", "1", "2"]);
                match self.below(3) {
                    0 => format!("{{\"op\": \"create\", \"data\": {}}}", self.create("items")),
                    1 => format!(
                        "{{\"op\": \"update\", \"id\": {id}, \"ifMatch\": {version}, \"data\": {}}}",
                        self.data()
                    ),
                    _ => format!("{{\"op\": \"delete\", \"id\": {id}, \"ifMatch\": {version}}}"),
                }
            })
            .collect();
        format!("{{\"atomic\": {}, \"items\": [{}]}}", self.in_a_hundred(50), items.join(", "))
    }

    fn list(&mut self, path: &str) -> String {
        let mut params = Vec::new();
        let prefix = if path == "children" { "item." } else { "" };
        for _ in 0..self.below(3) {
            let (field, values) = FIELDS[self.below(FIELDS.len())];
            let operator = self.one(&OPERATORS);
            let value = match operator {
                "isNull" => self.one(&["true", "false"]).to_owned(),
                "in" | "notIn" => format!("{},{}", self.one(values), self.one(values)),
                _ => self.one(values).to_owned(),
            };
            let dot = if operator.is_empty() { "" } else { "." };
            let hop = if prefix.is_empty() && self.in_a_hundred(15) { "parent." } else { prefix };
            params.push(format!("{hop}{field}{dot}{operator}={}", escaped(&value)));
        }
        if self.in_a_hundred(45) {
            let model = if path == "children" { Model::Child } else { Model::Item };
            params.push(format!("where={}", escaped(&self.condition(model, 3))));
        }
        if self.in_a_hundred(60) {
            let keys: Vec<String> = (0..=self.below(2))
                .map(|_| {
                    let sign = self.one(&["", "-"]);
                    let hop = if prefix.is_empty() && self.in_a_hundred(20) { "parent." } else { prefix };
                    format!("{sign}{hop}{}", FIELDS[self.below(FIELDS.len())].0)
                })
                .collect();
            params.push(format!("sort={}", keys.join(",")));
        }
        let words: [(usize, &[&str]); 5] = [
            (60, &["limit=1", "limit=2", "limit=3"]),
            (15, &["count=exact"]),
            (
                20,
                if prefix.is_empty() {
                    &["include=children", "include=parent", "include=parent.children"]
                } else {
                    &["include=item", "include=item.parent"]
                },
            ),
            (10, &["fields=id", "fields=id,name"]),
            (6, &["deleted=only"]),
        ];
        for (percent, choices) in words {
            if self.in_a_hundred(percent) {
                params.push(self.one(choices).to_owned());
            }
        }
        let sign = if params.is_empty() { "" } else { "?" };
        format!("/{path}{sign}{}", params.join("&"))
    }

    /// A condition over the model; well-typed, or nearly.
    fn condition(&mut self, model: Model, depth: usize) -> String {
        if depth > 0 && self.in_a_hundred(55) {
            let left = self.condition(model, depth - 1);
            let right = self.condition(model, depth - 1);
            return match self.below(4) {
                0 => format!("({left} && {right})"),
                1 => format!("({left} || {right})"),
                2 => format!("!({left})"),
                _ => self.over_relation(model, depth - 1),
            };
        }
        match model {
            Model::Child => self
                .one(&[
                    "label == \"a\"",
                    "label == null",
                    "label < \"b\"",
                    "label.length() >= 1",
                    "id > 3",
                    "itemId in [1, 2]",
                ])
                .to_owned(),
            Model::Item => self
                .one(&[
                    "name.startsWith(\"A\")",
                    "name.endsWith(\"3\")",
                    "name.contains(\"_\")",
                    "name.length() > 4",
                    "name > \"b\"",
                    "note == \"x\"",
                    "note != \"x\"",
                    "note == null",
                    "note in [\"x\", \"y\"]",
                    "note not in [\"x\"]",
                    "amount > 1.5",
                    "amount + 0.1 >= 1.1",
                    "amount * 2 == 4",
                    "-amount < 0",
                    "amount - 1 == 0.5",
                    "wide > 9",
                    "wide == 10.0",
                    "ratio > 0.0",
                    "ratio <= 0.5",
                    "ok",
                    "!ok",
                    "ok == true",
                    "at < now()",
                    "day >= \"2024-02-29\"",
                    "color == red",
                    "color in [green, blue]",
                    "big > 0",
                    "big == 9223372036854775807",
                    "id == parentId",
                    "parentId == null",
                    "parent.name > \"a\"",
                    "parent.amount > amount",
                    "parent.note == null",
                    "parent.parent.id == 1",
                    "auth().rank > 5",
                    "auth() == null",
                    "name == auth().id",
                    "version > 1",
                ])
                .to_owned(),
        }
    }

    fn over_relation(&mut self, model: Model, depth: usize) -> String {
        let quantifier = self.one(&["some", "every", "none"]);
        match model {
            Model::Item => format!("children.{quantifier}({})", self.condition(Model::Child, depth)),
            Model::Child => self
                .one(&[
                    "item.ok",
                    "item.amount > 1",
                    "item.note == null",
                    "item.name.startsWith(\"a\")",
                    "item.parent.ok",
                ])
                .to_owned(),
        }
    }
}

#[derive(Clone, Copy)]
enum Model {
    Item,
    Child,
}

/// Percent-encodes what is not encoded yet.
fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~,:()[]!%".contains(&byte);
    text.bytes().fold(String::new(), |out, byte| {
        if plain(byte) { out + &char::from(byte).to_string() } else { format!("{out}%{byte:02X}") }
    })
}
