//! Random requests for a schema: mostly sensible, sometimes not.

use cratestack_schema::ir::{Field, FieldId, FieldType, Model, ModelId, RelationKind, Scalar, Schema, Writable};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::world::Ask;

/// Reproducible chance.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0xD134_2543_DE82_EF95))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(limit.max(1)).unwrap()).unwrap()
    }

    /// True `percent` times in a hundred.
    pub(crate) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// What an author of requests may name. Keys and unique values begin with a letter that says whose they are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reach {
    /// Models, by name.
    pub(crate) models: &'static [&'static str],
    /// Letters of keys for new rows, and of values that must be unique.
    pub(crate) own: &'static [char],
    /// Letters of keys to read, change and refer to.
    pub(crate) others: &'static [char],
    /// Values of `secrecy`.
    pub(crate) secrecy: &'static [&'static str],
}

pub(crate) struct Author<'s> {
    pub(crate) schema: &'s Schema,
    pub(crate) dice: Dice,
    /// Lists that have more pages: caller, target, cursor.
    pub(crate) pages: Vec<(Option<&'static str>, String, String)>,
}

const KEYS: usize = 6;

const TEXTS: [&str; 14] =
    ["", "a", "b", "ab", "B", "hidden", "listed", "é", "e\u{301}", "\u{ffff}", "\u{10ffff}", "a,b", "100%_'\\", "x y"];
const INTS: [&str; 9] = ["0", "1", "2", "-1", "9", "10", "9007199254740991", "-9007199254740991", "9007199254740992"];
const DECIMALS: [&str; 9] =
    ["0", "1", "-100", "-100.0001", "1.5", "1.50000", "999.9999", "123456789012345678901234567890.5", "0.00001"];
const FLOATS: [&str; 7] = ["0", "-0.0", "1.5", "1e300", "-1e-300", "0.1", "1e400"];
const TIMES: [&str; 6] = [
    "2026-01-01T00:00:00Z",
    "2026-01-01T01:00:00+01:00",
    "0001-01-01T00:00:00Z",
    "9999-12-31T23:59:59.999999Z",
    "2026-01-01T00:00:00.1234567Z",
    "2026-02-30T00:00:00Z",
];
const DATES: [&str; 5] = ["2026-01-01", "2024-02-29", "0001-01-01", "9999-12-31", "2023-02-29"];
const JSONS: [&str; 9] =
    ["null", "true", "1", "1.0", "\"x\"", "[]", "{\"b\":[1,{\"a\":null}],\"a\":1e2}", "\"\\u0000\"", "[1,[2,[3]]]"];
const ODD: [&str; 12] = [
    "null",
    "true",
    "0",
    "1e400",
    "\"\"",
    "\"\\u0000\"",
    "[]",
    "{}",
    "[null]",
    "9223372036854775808",
    "\"' OR 1=1 --\"",
    "\"\\ud800\"",
];

fn escaped(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

impl<'s> Author<'s> {
    pub(crate) fn new(schema: &'s Schema, seed: u64) -> Self {
        Self { schema, dice: Dice::new(seed), pages: Vec::new() }
    }

    /// Any request.
    pub(crate) fn request(&mut self, who: Option<&'static str>, reach: Reach) -> Ask {
        match self.dice.below(100) {
            0..40 => self.list(who, reach),
            40..52 => self.read(who, reach),
            _ => self.write(who, reach),
        }
    }

    /// Any request that changes something.
    pub(crate) fn write(&mut self, who: Option<&'static str>, reach: Reach) -> Ask {
        let (id, model) = self.model(reach);
        let path = format!("/{}", model.path);
        let ask = |method, target| Ask { who, method, target, if_match: None, body: None };
        match self.dice.below(100) {
            0..40 => Ask { body: Some(self.row(id, Writable::Create, reach)), ..ask("POST", path) },
            40..65 => {
                let target = path + &self.key_path(model, reach.others);
                let body = Some(self.row(id, Writable::Always, reach));
                Ask { if_match: self.if_match(), body, ..ask("PATCH", target) }
            }
            65..75 => {
                let target = path + &self.key_path(model, reach.others);
                Ask { if_match: self.if_match(), ..ask("DELETE", target) }
            }
            75..85 => {
                let target = path + &self.key_path(model, reach.others) + "/restore";
                Ask { if_match: self.if_match(), ..ask("POST", target) }
            }
            _ => Ask { body: Some(self.batch(id, reach)), ..ask("POST", path + "/batch") },
        }
    }

    fn model(&mut self, reach: Reach) -> (ModelId, &'s Model) {
        let name = self.dice.pick(reach.models);
        let id = self.schema.model_named(name).unwrap();
        (id, self.schema.model(id))
    }

    fn if_match(&mut self) -> Option<String> {
        let text = self.dice.pick(&["*", "*", "*", "*", "\"1\"", "\"2\"", "W/\"1\"", "\"1\", \"2-cbor\"", "1", ""]);
        (!text.is_empty()).then(|| text.to_owned())
    }

    // Keys and values.

    fn key_path(&mut self, model: &Model, letters: &[char]) -> String {
        let mut path = String::new();
        for id in &model.key {
            path.push('/');
            let odd = self.dice.chance(2);
            path += &if odd {
                escaped(self.dice.pick(&TEXTS))
            } else {
                escaped(&self.key_value(model.field(*id), letters))
            };
        }
        path
    }

    fn key_value(&mut self, field: &Field, letters: &[char]) -> String {
        let (letter, number) = (self.dice.pick(letters), self.dice.below(KEYS));
        match field.scalar() {
            Some(Scalar::Uuid) => format!("00000000-0000-7000-8000-0000000{letter}000{number}"),
            Some(Scalar::Cuid) => format!("c{letter}{number:022}"),
            _ if matches!(field.name.as_str(), "base" | "quote") => self.dice.pick(&["EUR", "USD", "GBP"]).to_owned(),
            _ => format!("{letter}{number}"),
        }
    }

    /// The key field that a foreign key field names.
    fn reference(&self, model: &'s Model, id: FieldId) -> Option<&'s Field> {
        model.relations.iter().find_map(|relation| match &relation.kind {
            RelationKind::Owning { fields, references, .. } => {
                let at = fields.iter().position(|field| *field == id)?;
                Some(self.schema.model(relation.target).field(references[at]))
            }
            _ => None,
        })
    }

    /// A value in text form, as in a URL. `letters`: whose keys.
    fn text(&mut self, model: &'s Model, id: FieldId, letters: &[char], own: &[char]) -> String {
        let field = model.field(id);
        if let Some(key) = self.reference(model, id) {
            return self.key_value(key, letters);
        }
        if model.key.contains(&id) {
            return self.key_value(field, letters);
        }
        match field.name.as_str() {
            "email" | "iban" => return format!("{}{}@x.yz", self.dice.pick(own), self.dice.below(KEYS)),
            "currency" => return self.dice.pick(&["EUR", "USD", "USD", "xxx"]).to_owned(),
            "tenantId" => return self.dice.pick(&["A", "B"]).to_owned(),
            "secrecy" => return self.dice.pick(&["none", "secret"]).to_owned(),
            _ => {}
        }
        let scalar = match field.ty {
            FieldType::Enum(id) => {
                let variants = &self.schema.enumeration(id).variants;
                return variants[self.dice.below(variants.len())].name.clone();
            }
            _ => field.scalar().unwrap(),
        };
        let from: &[&str] = match scalar {
            Scalar::String => &TEXTS,
            Scalar::Int | Scalar::BigInt => &INTS,
            Scalar::Float => &FLOATS,
            Scalar::Boolean => &["true", "false"],
            Scalar::Decimal(_) => &DECIMALS,
            Scalar::DateTime => &TIMES,
            Scalar::Date => &DATES,
            Scalar::Bytes => &["", "AA==", "/////w=="],
            Scalar::Json => &JSONS,
            Scalar::Uuid | Scalar::Cuid => return self.key_value(field, letters),
        };
        self.dice.pick(from).to_owned()
    }

    /// A value as JSON.
    fn json(&mut self, model: &'s Model, id: FieldId, reach: Reach, new: bool) -> String {
        let field = model.field(id);
        // What must be unique stays with its owner.
        let unique = model.key.contains(&id) || model.uniques.iter().any(|index| index.fields == [id]);
        if !unique && self.dice.chance(4) {
            return self.dice.pick(&ODD).to_owned();
        }
        if field.optional && self.dice.chance(20) {
            return "null".to_owned();
        }
        if field.list {
            let items: Vec<String> = (0..self.dice.below(3)).map(|_| quoted(self.dice.pick(&TEXTS))).collect();
            return format!("[{}]", items.join(","));
        }
        if field.name == "secrecy" {
            return quoted(self.dice.pick(reach.secrecy));
        }
        let letters = if new && model.key.contains(&id) { reach.own } else { reach.others };
        let text = self.text(model, id, letters, reach.own);
        match field.scalar() {
            Some(Scalar::Int | Scalar::Float | Scalar::Boolean | Scalar::Json) => text,
            _ => quoted(&text),
        }
    }

    fn row(&mut self, id: ModelId, mode: Writable, reach: Reach) -> String {
        let model = self.schema.model(id);
        let new = mode == Writable::Create;
        let mut members = Vec::new();
        for (id, field) in model.fields() {
            let accepted = match field.writable() {
                Writable::Always => true,
                Writable::Create => new,
                Writable::Never => false,
            };
            // A key is always given, so that rows are met again; `secrecy` too where it must be one of few.
            let pinned = new && (model.key.contains(&id) || (field.name == "secrecy" && reach.secrecy.len() == 1));
            let needed = new && !field.optional && field.default.is_none();
            let percent = match () {
                () if pinned => 100,
                () if !accepted => 1,
                () if needed => 97,
                () if new => 50,
                () => 25,
            };
            if self.dice.chance(percent) {
                members.push(format!("{}:{}", quoted(&field.name), self.json(model, id, reach, new)));
            }
        }
        if self.dice.chance(2) {
            members.push("\"nonsense\":1".to_owned());
        }
        format!("{{{}}}", members.join(","))
    }

    fn batch(&mut self, id: ModelId, reach: Reach) -> String {
        let model = self.schema.model(id);
        let items: Vec<String> = (0..=self.dice.below(4))
            .map(|_| {
                let key: Vec<String> =
                    model.key.iter().map(|id| quoted(&self.key_value(model.field(*id), reach.others))).collect();
                let key = if let [only] = key.as_slice() { only.clone() } else { format!("[{}]", key.join(",")) };
                let version = self.dice.pick(&["\"*\"", "\"*\"", "1", "2", "\"\\\"1\\\"\""]);
                match self.dice.below(10) {
                    0..5 => format!("{{\"op\":\"create\",\"data\":{}}}", self.row(id, Writable::Create, reach)),
                    5..8 => format!(
                        "{{\"op\":\"update\",\"id\":{key},\"ifMatch\":{version},\"data\":{}}}",
                        self.row(id, Writable::Always, reach)
                    ),
                    _ => format!("{{\"op\":\"delete\",\"id\":{key},\"ifMatch\":{version}}}"),
                }
            })
            .collect();
        format!("{{\"atomic\":{},\"items\":[{}]}}", self.dice.chance(50), items.join(","))
    }

    // Reads.

    fn read(&mut self, who: Option<&'static str>, reach: Reach) -> Ask {
        let (id, model) = self.model(reach);
        let mut target = format!("/{}{}", model.path, self.key_path(model, reach.others));
        let params = self.projection(id);
        if !params.is_empty() {
            target = format!("{target}?{}", params.join("&"));
        }
        Ask { who, method: "GET", target, if_match: None, body: None }
    }

    fn list(&mut self, who: Option<&'static str>, reach: Reach) -> Ask {
        let ask = |who, target| Ask { who, method: "GET", target, if_match: None, body: None };
        if !self.pages.is_empty() && self.dice.chance(30) {
            let at = self.dice.below(self.pages.len());
            let (owner, target, cursor) = self.pages.swap_remove(at);
            let who = if self.dice.chance(90) { owner } else { who };
            let mark = if target.contains('?') { '&' } else { '?' };
            return ask(who, format!("{target}{mark}cursor={}", escaped(&cursor)));
        }
        let (id, model) = self.model(reach);
        let mut params = self.projection(id);
        for _ in 0..self.dice.below(3) {
            let (path, of, field) = self.path(id, 0);
            let model = self.schema.model(of);
            let operator = self.dice.pick(&[
                "",
                "",
                ".eq",
                ".ne",
                ".lt",
                ".lte",
                ".gt",
                ".gte",
                ".in",
                ".notIn",
                ".startsWith",
                ".endsWith",
                ".contains",
                ".isNull",
            ]);
            let value = match operator {
                ".isNull" => self.dice.pick(&["true", "false"]).to_owned(),
                ".in" | ".notIn" => {
                    let items: Vec<String> = (0..=self.dice.below(3))
                        .map(|_| {
                            self.text(model, field, reach.others, reach.others)
                                .replace('\\', "\\\\")
                                .replace(',', "\\,")
                        })
                        .collect();
                    items.join(",")
                }
                _ => self.text(model, field, reach.others, reach.others),
            };
            params.push(format!("{path}{operator}={}", escaped(&value)));
        }
        if self.dice.chance(40) {
            let depth = self.dice.below(4);
            let condition = self.condition(id, depth, reach);
            params.push(format!("where={}", escaped(&condition)));
        }
        if self.dice.chance(50) {
            let keys: Vec<String> = (0..=self.dice.below(2))
                .map(|_| format!("{}{}", self.dice.pick(&["", "-"]), self.path(id, 0).0))
                .collect();
            params.push(format!("sort={}", keys.join(",")));
        }
        if self.dice.chance(50) {
            params.push(format!("limit={}", self.dice.pick(&["1", "2", "3", "20", "0", "1001"])));
        }
        if self.dice.chance(20) {
            params.push("count=exact".to_owned());
        }
        if self.dice.chance(15) {
            params.push("deleted=only".to_owned());
        }
        ask(who, format!("/{}?{}", model.path, params.join("&")))
    }

    /// `include` and `fields`.
    fn projection(&mut self, id: ModelId) -> Vec<String> {
        let mut params = Vec::new();
        let mut included = Vec::new();
        if self.dice.chance(30) {
            for _ in 0..=self.dice.below(2) {
                let (mut at, mut path) = (id, Vec::new());
                for _ in 0..=self.dice.below(3) {
                    let relations = &self.schema.model(at).relations;
                    if relations.is_empty() {
                        break;
                    }
                    let relation = &relations[self.dice.below(relations.len())];
                    path.push(relation.name.clone());
                    at = relation.target;
                    included.push((path.join("."), at));
                }
                if !path.is_empty() {
                    params.push(path.join("."));
                }
            }
            params = if params.is_empty() { params } else { vec![format!("include={}", params.join(","))] };
        }
        if self.dice.chance(20) {
            let mut names = vec![self.own_field(id)];
            for (path, of) in included {
                names.push(format!("{path}.{}", self.own_field(of)));
            }
            params.push(format!("fields={}", names.join(",")));
        }
        params
    }

    fn own_field(&mut self, id: ModelId) -> String {
        let fields = &self.schema.model(id).fields;
        fields[self.dice.below(fields.len())].name.clone()
    }

    /// A path over to-one relations to a field, and now and then to one that nobody may name.
    fn path(&mut self, id: ModelId, depth: usize) -> (String, ModelId, FieldId) {
        let model = self.schema.model(id);
        let single: Vec<_> = model.relations.iter().filter(|relation| relation.kind != RelationKind::Many).collect();
        if depth < 3 && !single.is_empty() && self.dice.chance(30) {
            let relation = single[self.dice.below(single.len())];
            let (rest, of, field) = self.path(relation.target, depth + 1);
            return (format!("{}.{rest}", relation.name), of, field);
        }
        let at = self.dice.below(model.fields.len());
        (model.fields[at].name.clone(), id, FieldId(u32::try_from(at).unwrap()))
    }

    // Conditions.

    fn condition(&mut self, id: ModelId, depth: usize, reach: Reach) -> String {
        if depth == 0 || self.dice.chance(25) {
            return self.test(id, reach);
        }
        let many: Vec<_> =
            self.schema.model(id).relations.iter().filter(|relation| relation.kind == RelationKind::Many).collect();
        match self.dice.below(10) {
            0..3 => format!("({} && {})", self.condition(id, depth - 1, reach), self.condition(id, depth - 1, reach)),
            3..6 => format!("({} || {})", self.condition(id, depth - 1, reach), self.condition(id, depth - 1, reach)),
            6..8 => format!("!({})", self.condition(id, depth - 1, reach)),
            _ if !many.is_empty() => {
                let relation = many[self.dice.below(many.len())];
                let quantifier = self.dice.pick(&["some", "every", "none"]);
                format!("{}.{quantifier}({})", relation.name, self.condition(relation.target, depth - 1, reach))
            }
            _ => self.test(id, reach),
        }
    }

    fn test(&mut self, id: ModelId, reach: Reach) -> String {
        if self.dice.chance(8) {
            return (self.dice.pick(&[
                "auth() == null",
                "auth().role == teller",
                "auth().level > 1",
                "auth().hasRole(\"x\")",
                "now() > \"2026-01-01T00:00:00Z\"",
                "true",
                "id == id",
            ]))
            .to_owned();
        }
        let (path, of, field) = self.path(id, 0);
        let model = self.schema.model(of);
        let declared = model.field(field);
        let comparison = self.dice.pick(&["==", "!=", "<", "<=", ">", ">="]);
        if self.dice.chance(15) {
            return format!("{path} {} null", self.dice.pick(&["==", "!="]));
        }
        let value = self.text(model, field, reach.others, reach.others);
        match declared.ty {
            FieldType::Enum(_) => format!("{path} {} {value}", self.dice.pick(&["==", "!="])),
            FieldType::Scalar(Scalar::Int | Scalar::Decimal(_) | Scalar::Float | Scalar::BigInt) => {
                match self.dice.below(6) {
                    0 => format!("{path} * {path} - {value} {comparison} {path} + 1"),
                    1 => format!("{path} in [{value}, 1, 2]"),
                    2 => format!("{path} {comparison} auth().level"),
                    _ => format!("{path} {comparison} {value}"),
                }
            }
            FieldType::Scalar(Scalar::Boolean) => path,
            FieldType::Scalar(Scalar::String) => {
                let value = format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""));
                match self.dice.below(8) {
                    0 => format!("{path}.startsWith({value})"),
                    1 => format!("{path}.endsWith({value})"),
                    2 => format!("{path}.contains({value})"),
                    3 => format!("{path}.length() {comparison} 1"),
                    4 => format!("{path} in [{value}, \"a\", auth().tenantId]"),
                    5 => format!("{path} not in [{value}, \"b\"]"),
                    6 => format!("auth().id {comparison} {path}"),
                    _ => format!("{path} {comparison} {value}"),
                }
            }
            _ => format!("{path} {comparison} \"{value}\""),
        }
    }
}
