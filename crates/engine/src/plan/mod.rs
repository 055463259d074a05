//! Planning: an operation and a caller become statements, without IO.
//!
//! What reads and writes share is here: the columns of a row's full representation, keys, and the values that fill a
//! statement's slots.

pub mod read;
pub mod write;

use cratestack_schema::ir::{Field, FieldId, FieldType, Model, Schema};
use cratestack_schema::value::{Value, parse_text};

use crate::api::Principal;
use crate::audit::Context;
use crate::idempotency::Note;
use crate::sql::{Bind, Content, Dialect, Member, SelectList, Shape, Slot, SlotSpec, SqlType, column};
use crate::storage::{Codec, StorageError};

/// The fields of a row's full representation, in source order. `deletedAt` is one only where the author declared it:
/// on live rows it would always be null.
pub fn visible(model: &Model) -> impl Iterator<Item = (FieldId, &Field)> {
    model.fields().filter(|(_, field)| !field.server_only && !field.synthetic)
}

/// The shape of the full representation of a row under `alias`, whose columns are added to the select list.
pub fn full_row(model: &Model, alias: &str, columns: &mut SelectList) -> Shape {
    let member = |(_, field): (FieldId, &Field)| {
        let ty = SqlType::of(field);
        let at = columns.add(column(alias, &field.column));
        Member::new(&field.name, at, Content::Cell(ty))
    };
    Shape { members: visible(model).map(member).collect() }
}

/// The values of a key in a request; `None` when a segment is no value of its field, so that it names no row.
pub fn key_values(schema: &Schema, model: &Model, key: &[String]) -> Option<Vec<Value>> {
    if key.len() != model.key.len() {
        return None;
    }
    let value = |(id, text): (&FieldId, &String)| match model.field(*id).ty {
        FieldType::Scalar(scalar) => parse_text(scalar, text).ok(),
        FieldType::Enum(id) => {
            let variants = &schema.enumeration(id).variants;
            variants.iter().find(|variant| variant.name == *text).map(|variant| Value::Text(variant.stored.clone()))
        }
        FieldType::Type(_) | FieldType::Model(_) => None,
    };
    model.key.iter().zip(key).map(value).collect()
}

/// The segment of a URL that names a key field's value; the inverse of [`key_values`].
pub fn key_text(schema: &Schema, ty: FieldType, value: &Value) -> String {
    use base64::Engine as _;
    match (ty, value) {
        (FieldType::Enum(id), Value::Text(stored)) => {
            let variants = &schema.enumeration(id).variants;
            let named = variants.iter().find(|variant| variant.stored == *stored);
            named.map_or_else(|| stored.clone(), |variant| variant.name.clone())
        }
        (_, Value::Text(text)) => text.clone(),
        (_, Value::Int(int)) => int.to_string(),
        (_, Value::Bool(flag)) => flag.to_string(),
        (_, Value::Float(float)) => float.to_string(),
        (_, Value::Bytes(octets)) => base64::engine::general_purpose::STANDARD.encode(octets),
        (_, Value::Null | Value::List(_)) => String::new(),
    }
}

/// What fills the slots of one request's statements.
#[derive(Debug, Clone, Copy)]
pub struct Values<'a> {
    /// Names the values of enums and the claims of the caller.
    pub schema: &'a Schema,
    /// The database product.
    pub dialect: Dialect,
    /// The caller.
    pub principal: Option<&'a Principal>,
    /// The clock of the operation, a canonical `DateTime`.
    pub now: &'a str,
    /// [`Slot::Key`].
    pub key: &'a [Value],
    /// [`Slot::Field`], sorted by field.
    pub fields: &'a [(FieldId, Value)],
    /// [`Slot::Expected`].
    pub expected: &'a [i64],
    /// [`Slot::DeletionId`], a UUID.
    pub deletion: &'a str,
    /// [`Slot::Context`].
    pub context: Option<&'a Context>,
    /// [`Slot::Cursor`].
    pub cursor: &'a [Value],
    /// [`Slot::Limit`].
    pub limit: i64,
    /// [`Slot::Keyed`].
    pub note: Option<&'a Note>,
}

impl<'a> Values<'a> {
    /// Values of a statement that has only the caller, the clock and constants.
    pub fn new(schema: &'a Schema, dialect: Dialect, principal: Option<&'a Principal>, now: &'a str) -> Self {
        Self {
            schema,
            dialect,
            principal,
            now,
            key: &[],
            fields: &[],
            expected: &[],
            deletion: "",
            context: None,
            cursor: &[],
            limit: 0,
            note: None,
        }
    }

    /// The bound form of a slot.
    ///
    /// # Errors
    /// When a value is not of the slot's type: a bug of the planner, never of the caller.
    pub fn bind(&self, spec: &SlotSpec) -> Result<Bind, StorageError> {
        let codec = Codec { schema: self.schema, dialect: self.dialect, ty: spec.ty };
        let bind = |value: Option<&Value>| codec.bind(value.unwrap_or(&Value::Null));
        match &spec.slot {
            Slot::Key(at) => bind(self.key.get(*at)),
            Slot::Field(id) => {
                let at = self.fields.binary_search_by_key(id, |(id, _)| *id).ok();
                bind(at.and_then(|at| self.fields.get(at)).map(|(_, value)| value))
            }
            Slot::Auth(id) => bind(self.principal.and_then(|principal| principal.claims.get(id.index()))),
            Slot::Const(value) => codec.bind(value),
            Slot::Now => Ok(Bind::Text(self.now.to_owned())),
            Slot::Expected => codec.bind(&Value::List(self.expected.iter().copied().map(Value::Int).collect())),
            Slot::DeletionId => codec.bind(&Value::Text(self.deletion.to_owned())),
            Slot::Context => Ok(Bind::Text(self.context.map(Context::lines).unwrap_or_default())),
            Slot::Cursor(at) => bind(self.cursor.get(*at)),
            Slot::Limit => Ok(Bind::Int(self.limit)),
            Slot::Keyed(part) => self.note.map(|note| note.bind(*part)).ok_or_else(|| StorageError::new("no key")),
        }
    }
}
