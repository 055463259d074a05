//! What a procedure's body returns, in the form that answers have: fields of models and `type`s as in a row, a list under
//! `items`, a scalar under `value`.
//!
//! A body is code, and may return what the schema does not allow: a text that is no value of its type, digits beyond a
//! `Decimal(p, s)`. That is an error for the log, never a changed value. Validators are for what comes in, and are not asked.

use cratestack_schema::ir::{Field, FieldType, Model, Returns, Schema};
use cratestack_schema::value::Value;

use crate::api::Principal;
use crate::input::{self, Argument};
use crate::json::{self, Json};
use crate::sql::{Bind, Dialect, SqlType};
use crate::storage::{Cell, Codec, push_json_string};

/// The fields of a row that answers show.
pub(crate) fn visible(model: &Model) -> impl Iterator<Item = &Field> {
    model.fields.iter().filter(|field| !field.server_only)
}

/// The answer, as JSON.
///
/// # Errors
/// What is wrong with the returned value, for the log; no values.
pub fn answer(schema: &Schema, returns: &Returns, returned: &Json) -> Result<String, String> {
    let field = Field { list: returns.list, optional: returns.optional, ..Field::new("answer", "answer", returns.ty) };
    let value = input::returned(schema, &field, returned).map_err(|errors| {
        let sentences = errors.iter().map(|error| format!("`{}` {}", error.pointer, error.detail));
        format!("the body of the procedure returned what is no answer: {}", sentences.collect::<Vec<_>>().join("; "))
    })?;
    let mut out = String::new();
    let whole = matches!(returns.ty, FieldType::Type(_) | FieldType::Model(_));
    let frame = match (returns.list, whole) {
        (true, _) => ["{\"items\":", ",\"next\":null}"],
        (false, true) => ["", ""],
        (false, false) => ["{\"value\":", "}"],
    };
    let [before, after] = frame;
    out.push_str(before);
    Writer { schema, out: &mut out }.value(&field, &value)?;
    out.push_str(after);
    Ok(out)
}

/// The arguments of a call in the form that answers have, one for each parameter.
///
/// # Errors
/// For the log.
pub(crate) fn arguments(schema: &Schema, params: &[Field], arguments: &[Argument]) -> Result<Vec<Json>, String> {
    params.iter().zip(arguments).map(|(field, argument)| json(schema, field, argument)).collect()
}

fn json(schema: &Schema, field: &Field, value: &Argument) -> Result<Json, String> {
    let mut out = String::new();
    Writer { schema, out: &mut out }.value(field, value)?;
    json::parse(out.as_bytes(), 2 * json::MAX_DEPTH).map_err(|error| error.to_string())
}

/// The claims of a caller, one member for each field of the `auth` block.
///
/// # Errors
/// For the log.
pub fn claims(schema: &Schema, principal: &Principal) -> Result<Json, String> {
    let fields = schema.auth.as_ref().map(|auth| auth.fields.as_slice()).unwrap_or_default();
    let mut members = Vec::with_capacity(fields.len());
    for (field, value) in fields.iter().zip(&principal.claims) {
        members.push((field.name.clone(), json(schema, field, &Argument::Value(value.clone()))?));
    }
    Ok(Json::Object(members))
}

struct Writer<'w> {
    schema: &'w Schema,
    out: &'w mut String,
}

impl Writer<'_> {
    fn value(&mut self, field: &Field, value: &Argument) -> Result<(), String> {
        match value {
            Argument::Object(members) => self.object(field.ty, members),
            Argument::List(items) => self.list(items, |writer, item| writer.value(field, item)),
            Argument::Value(Value::List(items)) => self.list(items, |writer, item| writer.scalar(field.ty, item)),
            Argument::Value(value) => self.scalar(field.ty, value),
        }
    }

    fn list<T>(&mut self, items: &[T], mut one: impl FnMut(&mut Self, &T) -> Result<(), String>) -> Result<(), String> {
        self.out.push('[');
        for (at, item) in items.iter().enumerate() {
            if at > 0 {
                self.out.push(',');
            }
            one(self, item)?;
        }
        self.out.push(']');
        Ok(())
    }

    fn object(&mut self, ty: FieldType, members: &[Argument]) -> Result<(), String> {
        let schema = self.schema;
        let fields: Vec<&Field> = match ty {
            FieldType::Type(id) => schema.type_def(id).fields.iter().collect(),
            FieldType::Model(id) => visible(schema.model(id)).collect(),
            FieldType::Scalar(_) | FieldType::Enum(_) => Vec::new(),
        };
        let mut separator = '{';
        for (field, value) in fields.into_iter().zip(members) {
            // The engine's own `deletedAt` is on tombstones alone.
            if field.synthetic && *value == Argument::Value(Value::Null) {
                continue;
            }
            self.out.push(separator);
            separator = ',';
            push_json_string(self.out, &field.name);
            self.out.push(':');
            self.value(field, value)?;
        }
        self.out.push_str(if separator == '{' { "{}" } else { "}" });
        Ok(())
    }

    /// By way of what a column of SQLite would hold, so that a value looks as it does in a row.
    fn scalar(&mut self, ty: FieldType, value: &Value) -> Result<(), String> {
        let codec = Codec { schema: self.schema, dialect: Dialect::Sqlite, ty: SqlType { ty, list: false } };
        let bound = codec.bind(value).map_err(|error| error.to_string())?;
        let cell = match &bound {
            Bind::Int(int) => Cell::Int(*int),
            Bind::Float(float) => Cell::Real(*float),
            Bind::Text(text) => Cell::Text(text),
            Bind::Bytes(octets) => Cell::Blob(octets),
            Bind::Bool(_) | Bind::Uuid(_) | Bind::TextList(_) | Bind::IntList(_) | Bind::Null(_) => Cell::Null,
        };
        codec.render(cell, self.out).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const TEXT: &str = "
        datasource db { provider = \"sqlite\" url = \"sqlite::memory:\" }
        enum Status { open closed @map(\"SHUT\") }
        type Line { at DateTime amount Decimal(10, 4) note String? }
        model Account {
          id Uuid @id
          big BigInt
          status Status
          secret String? @server_only
          tags String[]
          @@soft_delete
          @@allow(\"read\", true)
        }
        procedure account(): Account @allow(true)
        procedure lines(): Line[] @allow(true)
        procedure maybe(): Line? @allow(true)
        procedure total(): Decimal(10, 2) @allow(true)
        procedure flags(): Boolean[] @allow(true)
    ";

    fn answered(name: &str, json: &str) -> Result<String, String> {
        let (schema, diagnostics) = cratestack_schema::compile("test", TEXT);
        let schema = schema.unwrap_or_else(|| panic!("{diagnostics:?}"));
        let procedure = schema.procedures.iter().find(|procedure| procedure.name == name).unwrap();
        answer(&schema, &procedure.returns, &crate::json::parse(json.as_bytes(), 64).unwrap())
    }

    #[test]
    fn answers_look_as_rows_do() {
        let id = "0197c0de-0000-7000-8000-000000000001";
        let sent = format!(r#"{{"id":"{id}","big":"9007199254740993","status":"closed","tags":["a\u0022"]}}"#);
        assert_eq!(
            answered("account", &sent).unwrap(),
            format!(r#"{{"id":"{id}","big":"9007199254740993","status":"closed","tags":["a\""]}}"#)
        );
        assert_eq!(
            answered("lines", r#"[{"at":"2026-01-31T12:00:00+01:00","amount":"1.5","note":null}]"#).unwrap(),
            r#"{"items":[{"at":"2026-01-31T11:00:00.000000Z","amount":"1.5000","note":null}],"next":null}"#
        );
        assert_eq!(answered("maybe", "null").unwrap(), "null");
        assert_eq!(answered("total", "\"2\"").unwrap(), r#"{"value":"2.00"}"#);
        assert_eq!(answered("flags", "[true,false]").unwrap(), r#"{"items":[true,false],"next":null}"#);
    }

    #[test]
    fn what_is_no_answer_is_an_error_without_values() {
        for (name, json) in [("total", "\"2.345\""), ("total", "null"), ("maybe", r#"{"at":"soon","amount":"1"}"#)] {
            let error = answered(name, json).unwrap_err();
            assert!(error.starts_with("the body of the procedure returned what is no answer: `#"), "{error}");
            assert!(!error.contains("2.345") && !error.contains("soon"), "{error}");
        }
    }
}
