//! `@deprecated`: who still uses a name is told so, by a `Warning` with code 299 (RFC 9111 keeps the field registered;
//! no other field carries the schema author's sentence).

use std::collections::BTreeSet;

use cratestack_engine::api::Verb;
use cratestack_engine::json::Json;
use cratestack_schema::ir::{Expr, ModelId, Procedure, Schema};
use cratestack_schema::{filter, parse, resolve_path};
use http::HeaderValue;

/// Whether any warning can ever be due.
pub(crate) fn any(schema: &Schema) -> bool {
    schema.models.iter().flat_map(|model| &model.fields).any(|field| field.deprecated.is_some())
        || schema.procedures.iter().any(|procedure| procedure.deprecated.is_some())
}

/// The warning for a call.
pub(crate) fn of_call(procedure: &Procedure) -> Option<HeaderValue> {
    let why = procedure.deprecated.as_deref()?;
    value([sentence(&procedure.name, why)])
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

    fn field(&mut self, field: &cratestack_schema::ir::Field) {
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
