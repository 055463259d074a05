//! The envelope of `POST /rows/batch`.
//!
//! ```json
//! {"atomic": true,
//!  "items": [{"op": "create", "data": {"owner": "Ann"}},
//!            {"op": "update", "id": "0198..", "ifMatch": 3, "data": {"owner": "Bea"}},
//!            {"op": "delete", "id": ["eur", 7], "ifMatch": "*"}]}
//! ```
//!
//! `atomic` is true unless it says otherwise. `id` is the key: a string, a number or a boolean, or an array of them in
//! `@@id` order where the key is composite. `ifMatch` is a version as a number, or text as in the header `If-Match`:
//! `*`, or entity tags with their quotes. A member that is none of these is a 422.

use cratestack_engine::api::{BatchItem, Expected, Failure, FieldError, Key, Verb};
use cratestack_engine::json::{Json, push_pointer};

use crate::headers::Condition;
use crate::problem::Problem;

/// Errors of one answer. An envelope can hold far more wrong items than anyone reads about.
const ERRORS: usize = 100;

/// What the items may do on this model.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Offer {
    /// Key fields.
    pub(crate) key: usize,
    /// Whether there is a create.
    pub(crate) create: bool,
    /// Whether there is an update.
    pub(crate) update: bool,
    /// Whether there is a delete.
    pub(crate) delete: bool,
}

/// Reads the envelope: whether it is atomic, and its items. The refusal names every wrong member.
pub(crate) fn parse(body: Json, offer: Offer) -> Result<(bool, Vec<BatchItem>), Problem> {
    let mut reader = Reader { offer, errors: Vec::new() };
    let batch = reader.envelope(body);
    reader.errors.truncate(ERRORS);
    match batch {
        Some(batch) if reader.errors.is_empty() => Ok(batch),
        _ => Err(Failure::validation(reader.errors).into()),
    }
}

struct Reader {
    offer: Offer,
    errors: Vec<FieldError>,
}

impl Reader {
    /// Notes an error; `None`, so that it can stand where a value was expected.
    fn wrong<T>(&mut self, pointer: &str, code: &str, detail: impl Into<String>) -> Option<T> {
        self.errors.push(FieldError { pointer: pointer.to_owned(), code: code.to_owned(), detail: detail.into() });
        None
    }

    fn envelope(&mut self, body: Json) -> Option<(bool, Vec<BatchItem>)> {
        let Json::Object(members) = body else {
            return self.wrong("#", "type", "must be an object");
        };
        let (mut atomic, mut items) = (Some(true), None);
        for (name, value) in members {
            match (name.as_str(), value) {
                ("atomic", Json::Bool(value)) => atomic = Some(value),
                ("atomic", _) => atomic = self.wrong("#/atomic", "type", "must be true or false"),
                ("items", Json::Array(values)) => items = Some(values),
                ("items", _) => return self.wrong("#/items", "type", "must be an array"),
                _ => {
                    return self.unknown("#", &name, "is not a member of a batch; those are `atomic` and `items`");
                }
            }
        }
        let Some(items) = items else {
            return self.wrong("#/items", "required", "is required");
        };
        let mut verbs = Vec::with_capacity(items.len());
        for (at, item) in items.into_iter().enumerate() {
            verbs.extend(self.item(at, item).map(|verb| BatchItem { verb }));
            if self.errors.len() >= ERRORS {
                break;
            }
        }
        Some((atomic?, verbs))
    }

    fn unknown<T>(&mut self, parent: &str, name: &str, detail: &str) -> Option<T> {
        let mut pointer = parent.to_owned();
        push_pointer(&mut pointer, name);
        self.wrong(&pointer, "unknown_field", detail)
    }

    fn item(&mut self, at: usize, item: Json) -> Option<Verb> {
        let pointer = format!("#/items/{at}");
        let Json::Object(members) = item else {
            return self.wrong(&pointer, "type", "must be an object");
        };
        let (mut op, mut id, mut if_match, mut data) = (None, None, None, None);
        for (name, value) in members {
            match name.as_str() {
                "op" => op = Some(value),
                "id" => id = Some(value),
                "ifMatch" => if_match = Some(value),
                "data" => data = Some(value),
                _ => {
                    return self.unknown(
                        &pointer,
                        &name,
                        "is not a member of an item; those are `op`, `id`, `ifMatch` and `data`",
                    );
                }
            }
        }
        let op = match op {
            Some(Json::String(op)) => op,
            Some(_) => return self.wrong(&format!("{pointer}/op"), "type", "must be a string"),
            None => return self.wrong(&format!("{pointer}/op"), "required", "is required"),
        };
        let Offer { create, update, delete, .. } = self.offer;
        match op.as_str() {
            "create" if create => {
                let excess = id.is_some() || if_match.is_some();
                if excess {
                    return self.wrong(
                        &pointer,
                        "unknown_field",
                        "a `create` has neither `id` nor `ifMatch`; a key goes into `data`",
                    );
                }
                Some(Verb::Create { data: self.data(&pointer, data)? })
            }
            "update" if update => {
                let (key, expected) = (self.key(&pointer, id), self.expected(&pointer, if_match));
                let data = self.data(&pointer, data);
                Some(Verb::Patch { key: key?, expected: expected?, data: data? })
            }
            "delete" if delete => {
                if data.is_some() {
                    return self.wrong(&format!("{pointer}/data"), "unknown_field", "a `delete` has no `data`");
                }
                let (key, expected) = (self.key(&pointer, id), self.expected(&pointer, if_match));
                Some(Verb::Delete { key: key?, expected: expected? })
            }
            _ => {
                let offered = [("create", create), ("update", update), ("delete", delete)];
                let names: Vec<String> =
                    offered.iter().filter(|(_, offered)| *offered).map(|(name, _)| format!("`{name}`")).collect();
                self.wrong(&format!("{pointer}/op"), "operation", format!("must be one of {}", names.join(", ")))
            }
        }
    }

    fn data(&mut self, pointer: &str, data: Option<Json>) -> Option<Json> {
        if data.is_none() {
            return self.wrong(&format!("{pointer}/data"), "required", "is required");
        }
        data
    }

    fn key(&mut self, pointer: &str, id: Option<Json>) -> Option<Key> {
        let pointer = format!("{pointer}/id");
        let Some(id) = id else {
            return self.wrong(&pointer, "required", "is required");
        };
        let segments = match (self.offer.key, id) {
            (1, Json::Array(_)) => None,
            (1, id) => segment(id).map(|segment| vec![segment]),
            (fields, Json::Array(ids)) if ids.len() == fields => ids.into_iter().map(segment).collect(),
            _ => None,
        };
        if segments.is_none() {
            let detail = match self.offer.key {
                1 => "must be a string, a number or a boolean".to_owned(),
                fields => format!("must be an array of {fields} strings, numbers or booleans"),
            };
            return self.wrong(&pointer, "type", detail);
        }
        segments
    }

    fn expected(&mut self, pointer: &str, if_match: Option<Json>) -> Option<Expected> {
        let expected = match if_match {
            None => Some(Expected::Missing),
            Some(Json::Number(version)) => version.parse().ok().map(|version| Expected::OneOf(vec![version])),
            Some(Json::String(text)) => Condition::parse(text.as_bytes()).ok().map(|condition| expected(&condition)),
            Some(_) => None,
        };
        if expected.is_none() {
            let detail = "must be a version, `*`, or entity tags with their quotes";
            return self.wrong(&format!("{pointer}/ifMatch"), "type", detail);
        }
        expected
    }
}

fn segment(id: Json) -> Option<String> {
    match id {
        Json::String(text) | Json::Number(text) => Some(text),
        Json::Bool(value) => Some(value.to_string()),
        Json::Null | Json::Array(_) | Json::Object(_) => None,
    }
}

/// What a condition expects of a row.
pub(crate) fn expected(condition: &Condition) -> Expected {
    condition.versions().map_or(Expected::Any, Expected::OneOf)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]
mod tests {
    use super::*;
    use crate::body::parse_json;

    const ALL: Offer = Offer { key: 1, create: true, update: true, delete: true };

    fn items(text: &str, offer: Offer) -> Result<Vec<Verb>, Vec<(String, String)>> {
        match parse(parse_json(text.as_bytes()).unwrap(), offer) {
            Ok((_, items)) => Ok(items.into_iter().map(|item| item.verb).collect()),
            Err(problem) => Err(problem.errors.into_iter().map(|error| (error.pointer, error.code)).collect()),
        }
    }

    #[test]
    fn takes() {
        let verbs = items(
            r#"{"items":[{"op":"create","data":{}},{"op":"update","id":7,"ifMatch":3,"data":{}},
                {"data":{},"ifMatch":"\"4\", W/\"5\", \"6-cbor\"","id":"x","op":"update"},{"op":"delete","id":true,"ifMatch":"*"},{"op":"delete","id":"x"}]}"#,
            ALL,
        );
        let key = |key: &str| vec![key.to_owned()];
        let expected = [
            format!("{:?}", Verb::Create { data: Json::Object(vec![]) }),
            format!(
                "{:?}",
                Verb::Patch { key: key("7"), expected: Expected::OneOf(vec![3]), data: Json::Object(vec![]) }
            ),
            format!(
                "{:?}",
                Verb::Patch { key: key("x"), expected: Expected::OneOf(vec![4, 6]), data: Json::Object(vec![]) }
            ),
            format!("{:?}", Verb::Delete { key: key("true"), expected: Expected::Any }),
            format!("{:?}", Verb::Delete { key: key("x"), expected: Expected::Missing }),
        ];
        let verbs: Vec<String> = verbs.unwrap().iter().map(|verb| format!("{verb:?}")).collect();
        assert_eq!(verbs, expected);

        let composite = items(r#"{"items":[{"op":"delete","id":["eur",7]}]}"#, Offer { key: 2, ..ALL }).unwrap();
        assert!(matches!(&composite[0], Verb::Delete { key, .. } if *key == ["eur", "7"]));

        for (text, atomic) in [
            (r#"{"items":[]}"#, true),
            (r#"{"items":[],"atomic":true}"#, true),
            (r#"{"atomic":false,"items":[]}"#, false),
        ] {
            assert_eq!(parse(parse_json(text.as_bytes()).unwrap(), ALL).unwrap().0, atomic);
        }
    }

    #[test]
    fn refuses() {
        let table: &[(&str, &str, &str)] = &[
            ("[]", "#", "type"),
            ("{}", "#/items", "required"),
            (r#"{"items":{}}"#, "#/items", "type"),
            (r#"{"items":[],"atomic":1}"#, "#/atomic", "type"),
            (r#"{"items":[],"Atomic":true}"#, "#/Atomic", "unknown_field"),
            (r#"{"items":[],"a/b~c":1}"#, "#/a~1b~0c", "unknown_field"),
            (r#"{"items":[1]}"#, "#/items/0", "type"),
            (r#"{"items":[{}]}"#, "#/items/0/op", "required"),
            (r#"{"items":[{"op":1}]}"#, "#/items/0/op", "type"),
            (r#"{"items":[{"op":"upsert"}]}"#, "#/items/0/op", "operation"),
            (r#"{"items":[{"op":"create"}]}"#, "#/items/0/data", "required"),
            (r#"{"items":[{"op":"create","data":{},"id":1}]}"#, "#/items/0", "unknown_field"),
            (r#"{"items":[{"op":"create","data":{},"ifMatch":1}]}"#, "#/items/0", "unknown_field"),
            (r#"{"items":[{"op":"delete"}]}"#, "#/items/0/id", "required"),
            (r#"{"items":[{"op":"delete","id":null}]}"#, "#/items/0/id", "type"),
            (r#"{"items":[{"op":"delete","id":["x"]}]}"#, "#/items/0/id", "type"),
            (r#"{"items":[{"op":"delete","id":1,"data":{}}]}"#, "#/items/0/data", "unknown_field"),
            (r#"{"items":[{"op":"delete","id":1,"ifmatch":1}]}"#, "#/items/0/ifmatch", "unknown_field"),
            (r#"{"items":[{"op":"delete","id":1,"ifMatch":1.0}]}"#, "#/items/0/ifMatch", "type"),
            (r#"{"items":[{"op":"delete","id":1,"ifMatch":9223372036854775808}]}"#, "#/items/0/ifMatch", "type"),
            (r#"{"items":[{"op":"delete","id":1,"ifMatch":"3"}]}"#, "#/items/0/ifMatch", "type"),
            (r#"{"items":[{"op":"delete","id":1,"ifMatch":null}]}"#, "#/items/0/ifMatch", "type"),
            (r#"{"items":[{"op":"delete","id":1,"ifMatch":true}]}"#, "#/items/0/ifMatch", "type"),
        ];
        for (text, pointer, code) in table {
            assert_eq!(items(text, ALL).unwrap_err(), [((*pointer).to_owned(), (*code).to_owned())], "{text}");
        }
        let several = items(r#"{"items":[1,{"op":"update","ifMatch":[]}]}"#, ALL).unwrap_err();
        assert_eq!(several.len(), 4);
        let many = format!("{{\"items\":[{}1]}}", "1,".repeat(5000));
        assert_eq!(items(&many, ALL).unwrap_err().len(), ERRORS);
        let create = r#"{"items":[{"op":"create","data":{}}]}"#;
        assert_eq!(items(create, Offer { create: false, ..ALL }).unwrap_err()[0].1, "operation");
    }
}
