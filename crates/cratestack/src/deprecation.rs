//! `@deprecated`: who still uses a name is told so, by a `Warning` with code 299 (RFC 9111 keeps the field registered;
//! no other field carries the schema author's sentence).

use std::collections::BTreeSet;

use cratestack_engine::api::Verb;
use cratestack_engine::json::Json;
use cratestack_schema::ir::{Expr, Field, FieldType, ModelId, Procedure, Schema};
use cratestack_schema::{filter, parse, resolve_path};
use http::HeaderValue;

/// Whether any operation can ever be due a warning.
pub(crate) fn any(schema: &Schema) -> bool {
    schema.models.iter().flat_map(|model| &model.fields).any(|field| field.deprecated.is_some())
}

/// The warning for a call: of the procedure itself, and of the members of its body.
pub(crate) fn of_call(schema: &Schema, procedure: &Procedure, body: Option<&Json>) -> Option<HeaderValue> {
    let mut used = Used { schema, sentences: BTreeSet::new() };
    if let Some(why) = &procedure.deprecated {
        used.sentences.insert(sentence(&procedure.name, why));
    }
    let whole = procedure.params.first().filter(|_| procedure.args_is_body);
    match (whole.map(|param| param.ty), body) {
        (_, None) => {}
        (Some(FieldType::Type(id)), Some(body)) => used.members(&schema.type_def(id).fields, body),
        (_, Some(body)) => used.members(&procedure.params, body),
    }
    value(used.sentences)
}

/// The warning for the deprecated fields that an operation names.
pub(crate) fn of_operation(schema: &Schema, model: ModelId, verb: &Verb) -> Option<HeaderValue> {
    let mut used = Used { schema, sentences: BTreeSet::new() };
    used.verb(model, verb);
    value(used.sentences)
}

fn sentence(name: &str, why: &str) -> String {
    format!("`{name}` is deprecated: {why}")
}

/// `299 cratestack "sentence", ..`; none for no sentences.
fn value(sentences: impl IntoIterator<Item = String>) -> Option<HeaderValue> {
    let mut text = String::new();
    for sentence in sentences {
        if !text.is_empty() {
            text.push_str(", ");
        }
        text.push_str("299 cratestack \"");
        for c in sentence.chars() {
            match c {
                '"' | '\\' => text.extend(['\\', c]),
                c if c.is_control() => text.push(' '),
                c => text.push(c),
            }
        }
        text.push('"');
    }
    if text.is_empty() { None } else { HeaderValue::from_bytes(text.as_bytes()).ok() }
}

struct Used<'a> {
    schema: &'a Schema,
    sentences: BTreeSet<String>,
}

impl Used<'_> {
    fn verb(&mut self, model: ModelId, verb: &Verb) {
        match verb {
            Verb::List { params } | Verb::Read { params, .. } => {
                for (name, value) in params {
                    self.param(model, name, value);
                }
            }
            Verb::Create { data } | Verb::Patch { data, .. } => {
                if let Json::Object(members) = data {
                    for (name, _) in members {
                        self.path(model, name);
                    }
                }
            }
            Verb::Delete { .. } | Verb::Restore { .. } => {}
            Verb::Batch { items, .. } => {
                for item in items {
                    self.verb(model, &item.verb);
                }
            }
        }
    }

    /// The members of an object of these fields, or of each object of a list.
    fn members(&mut self, fields: &[Field], value: &Json) {
        match value {
            Json::Array(items) => {
                for item in items {
                    self.members(fields, item);
                }
            }
            Json::Object(members) => {
                for (name, value) in members {
                    let Some(field) = fields.iter().find(|field| field.name == *name) else { continue };
                    self.field(field);
                    if let FieldType::Type(id) = field.ty {
                        self.members(&self.schema.type_def(id).fields, value);
                    }
                }
            }
            Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) => {}
        }
    }

    fn param(&mut self, model: ModelId, name: &str, value: &str) {
        match name {
            "where" => {
                if let Ok(expr) = filter(self.schema, model, value, parse::Limits::default()) {
                    self.expr(model, &expr);
                }
            }
            "sort" | "fields" => {
                for path in value.split(',') {
                    self.path(model, path.trim_start_matches('-'));
                }
            }
            "limit" | "cursor" | "include" | "count" | "deleted" | "search" | "at" => {}
            _ => {
                // `balance.gte` is the field `balance` unless there is such a path.
                self.path(model, name);
                if let Some((path, _)) = name.rsplit_once('.') {
                    self.path(model, path);
                }
            }
        }
    }

    fn path(&mut self, model: ModelId, path: &str) {
        if let Some(path) = resolve_path(self.schema, model, path) {
            self.field(self.schema.path_field(model, &path));
        }
    }

    fn field(&mut self, field: &Field) {
        if let Some(why) = &field.deprecated {
            self.sentences.insert(sentence(&field.name, why));
        }
    }

    fn expr(&mut self, model: ModelId, expr: &Expr) {
        match expr {
            Expr::Field(path) => self.field(self.schema.path_field(model, path)),
            Expr::Quantified { hops, relation, body, .. } => {
                let of = self.schema.model(self.schema.walk(model, hops));
                self.expr(of.relation(*relation).target, body);
            }
            other => {
                for child in other.children() {
                    self.expr(model, child);
                }
            }
        }
    }
}
