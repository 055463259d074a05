//! JSON as sent to typed values: the members of a row, a merge patch, the arguments of a procedure, the claims of a
//! caller. Every failing member is reported at once (up to [`MAX_ERRORS`]), and no sentence repeats a value.
//!
//! Codes of a failing member, besides the validators' ([`crate::validate`]):
//!
//! | code | the member |
//! |---|---|
//! | `unknown_field` | does not exist, is `@server_only` (to a request), or is a relation |
//! | `read_only` | may never be sent, or not in a patch |
//! | `required` | is missing or null, and must not be |
//! | `type` | is no value of the type: of another JSON kind, or text of another form |
//! | `enum` | is no variant of the enum |
//! | `out_of_range` | is a number or a date that the type does not hold |
//! | `precision` | has more digits than the Decimal or the DateTime holds |
//! | `nul` | contains a NUL character |
//! | `too_long` | is part of a key or an index, and longer than an entry of it may be |

use cratestack_schema::decimal::{Backend, Decimal};
use cratestack_schema::fuzzy::nearest;
use cratestack_schema::ir::{
    EnumId, Field, FieldId, FieldType, Model, ModelId, Procedure, RelationKind, Scalar, Schema, TypeId, Writable,
};
use cratestack_schema::value::{Invalid, Value, parse_text};

use crate::api::{Authority, FieldError, Principal};
use crate::audit::KEY_LIMIT;
use crate::json::{Json, MAX_NUMBER_DIGITS, plain_number, push_pointer};
use crate::logs;
use crate::output;
use crate::storage::push_json_string;
use crate::validate::Validators;

/// The most errors of one input; the rest is left out.
pub const MAX_ERRORS: usize = 100;

/// Octets of a member's name in a pointer; the rest of a longer one is left out.
pub const MAX_NAME: usize = 256;

/// How much longer than it was sent a `Json` value may become when its numbers are written in plain notation, as both
/// databases store them. Octets.
pub const MAX_JSON_GROWTH: usize = 64 * 1024;

/// Octets of an index entry: PostgreSQL's B-trees hold 2704, its own bookkeeping included, and what one database refuses
/// the other must not take. A key of that length has a URL that docs/http.md's limit allows, whatever has to be escaped.
const INDEX_ENTRY: usize = 2600;

/// What a column takes in an index entry besides its text, and all that one of fixed length takes.
const INDEX_COLUMN: usize = 24;

/// The argument of a procedure.
#[derive(Debug, Clone, PartialEq)]
pub enum Argument {
    /// A scalar, an enum or a list of those; [`Value::Null`] where absent or null.
    Value(Value),
    /// A value object: one argument per field of the `type`, in its order.
    Object(Vec<Argument>),
    /// A list of value objects.
    List(Vec<Argument>),
}

/// The members of a new row, in the order of their fields. A field that is not there gets its default or null; a list
/// that is not sent is there, empty.
///
/// # Errors
/// Every failing member.
pub fn create(
    schema: &Schema,
    validators: &Validators,
    model: ModelId,
    authority: Authority,
    data: &Json,
) -> Result<Vec<(FieldId, Value)>, Vec<FieldError>> {
    Reader::new(schema, validators).row(schema.model(model), Writable::Create, authority, data)
}

/// The members of a merge patch, in the order of their fields; null clears an optional field.
///
/// # Errors
/// Every failing member.
pub fn patch(
    schema: &Schema,
    validators: &Validators,
    model: ModelId,
    authority: Authority,
    data: &Json,
) -> Result<Vec<(FieldId, Value)>, Vec<FieldError>> {
    Reader::new(schema, validators).row(schema.model(model), Writable::Always, authority, data)
}

/// The arguments of a procedure, one per parameter. A request without a body is read as an empty object.
///
/// # Errors
/// Every failing member.
pub fn arguments(
    schema: &Schema,
    validators: &Validators,
    procedure: &Procedure,
    body: Option<&Json>,
) -> Result<Vec<Argument>, Vec<FieldError>> {
    let mut reader = Reader::new(schema, validators);
    let empty = Json::Object(Vec::new());
    let body = body.unwrap_or(&empty);
    let arguments = match procedure.params.as_slice() {
        [only] if procedure.args_is_body => reader.value(&At::Root, only, body).map(|argument| vec![argument]),
        params => reader.object(&At::Root, params, "parameter", body),
    };
    reader.finish(arguments)
}

/// The value that the body of a procedure returned, `field` saying what it is to be. Of a model, one argument per field
/// that answers show. Validators are not asked.
///
/// # Errors
/// Every failing member.
pub(crate) fn returned(schema: &Schema, field: &Field, value: &Json) -> Result<Argument, Vec<FieldError>> {
    let validators = Validators::default();
    let mut reader = Reader { answers: true, ..Reader::new(schema, &validators) };
    let read = reader.value(&At::Root, field, value);
    reader.finish(read)
}

/// Types the claims of a verified caller against the `auth` block. Claims that the block does not declare are no
/// business of ours: tokens carry more.
///
/// # Errors
/// One sentence for the log that names the failing claims, without values.
pub fn principal(schema: &Schema, claims: &Json) -> Result<Principal, String> {
    principal_for(schema, None, claims)
}

/// The same, where code reads the claims and what they become: decimals must fit its type.
pub(crate) fn principal_for(schema: &Schema, decimals: Option<Backend>, claims: &Json) -> Result<Principal, String> {
    let fields = schema.auth.as_ref().map(|auth| auth.fields.as_slice()).unwrap_or_default();
    if !matches!(claims, Json::Object(_)) {
        return Err("the claims of the caller must be a JSON object".to_owned());
    }
    let validators = Validators::default().decimals(decimals);
    let mut reader = Reader::new(schema, &validators);
    let mut values = Vec::with_capacity(fields.len());
    for field in fields {
        let at = At::Member(&At::Root, &field.name);
        let value = match claims.member(&field.name) {
            Some(claim) => reader.value(&at, field, claim),
            None => reader.absent(&at, field),
        };
        if let Some(Argument::Value(value)) = value {
            values.push(value);
        }
    }
    match reader.finish((values.len() == fields.len()).then_some(values)) {
        Ok(claims) => Ok(Principal { claims }),
        Err(errors) => {
            let sentences: Vec<String> = errors
                .iter()
                .map(|error| {
                    let name = error.pointer.strip_prefix("#/").unwrap_or(&error.pointer);
                    format!("claim `{name}` {}", error.detail)
                })
                .collect();
            Err(sentences.join("; "))
        }
    }
}

/// Where the reader is; written out only when something is wrong there.
enum At<'a> {
    Root,
    Member(&'a At<'a>, &'a str),
    Item(&'a At<'a>, usize),
}

impl At<'_> {
    fn write(&self, pointer: &mut String) {
        match self {
            Self::Root => pointer.push('#'),
            Self::Member(parent, name) => {
                parent.write(pointer);
                push_pointer(pointer, name.get(..name.floor_char_boundary(MAX_NAME)).unwrap_or_default());
            }
            Self::Item(parent, index) => {
                parent.write(pointer);
                push_pointer(pointer, &index.to_string());
            }
        }
    }
}

struct Reader<'a> {
    schema: &'a Schema,
    validators: &'a Validators,
    errors: Vec<FieldError>,
    /// Whether it reads what a procedure answers with.
    answers: bool,
}

impl<'a> Reader<'a> {
    fn new(schema: &'a Schema, validators: &'a Validators) -> Self {
        Self { schema, validators, errors: Vec::new(), answers: false }
    }

    /// `made` is there whenever there are no errors.
    fn finish<T>(self, made: Option<T>) -> Result<T, Vec<FieldError>> {
        match made {
            Some(made) if self.errors.is_empty() => Ok(made),
            _ => Err(self.errors),
        }
    }

    fn fail(&mut self, at: &At<'_>, code: &str, detail: impl Into<String>) {
        if !self.full() {
            let mut pointer = String::new();
            at.write(&mut pointer);
            self.errors.push(FieldError { pointer, code: code.to_owned(), detail: detail.into() });
        }
    }

    /// Whether there is nothing more to report, so that the rest of a hostile input costs no time.
    fn full(&self) -> bool {
        self.errors.len() == MAX_ERRORS
    }

    fn invalid(&mut self, at: &At<'_>, invalid: Invalid) {
        self.fail(at, invalid.code(), invalid.to_string());
    }

    /// A new row (`Writable::Create`) or a patch (`Writable::Always`).
    fn row(
        mut self,
        model: &Model,
        mode: Writable,
        authority: Authority,
        data: &Json,
    ) -> Result<Vec<(FieldId, Value)>, Vec<FieldError>> {
        let Json::Object(members) = data else {
            self.fail(&At::Root, "type", "must be an object");
            return Err(self.errors);
        };
        let new = mode == Writable::Create;
        let rules = authority == Authority::Rules;
        let writable = |field: &Field| if rules { field.writable() } else { field.writable_by_service() };
        let accepted = |field: &Field| match writable(field) {
            Writable::Always => true,
            Writable::Create => new,
            Writable::Never => false,
        };
        let mut sent = vec![false; model.fields.len()];
        let mut values: Vec<(FieldId, Value)> = Vec::with_capacity(members.len());
        for (name, json) in members {
            if self.full() {
                break;
            }
            let at = At::Member(&At::Root, name);
            let known = model.field_named(name).filter(|id| !rules || !model.field(*id).server_only);
            let Some(id) = known else {
                let names = model.fields.iter().filter(|field| accepted(field)).map(|field| field.name.as_str());
                let detail = relation_advice(model, name, accepted).unwrap_or_else(|| unknown(name, "field", names));
                self.fail(&at, "unknown_field", detail);
                continue;
            };
            let field = model.field(id);
            if let Some(seen) = sent.get_mut(id.index()) {
                *seen = true;
            }
            if !accepted(field) {
                let detail = match writable(field) {
                    Writable::Never => "is set by the service and cannot be sent",
                    _ => "cannot be changed once the row exists",
                };
                self.fail(&at, "read_only", detail);
            } else if let Some(Argument::Value(value)) = self.value(&at, field, json)
                && self.fits_indexes(&at, model, id, &value)
            {
                values.push((id, value));
            }
        }
        let absent = model.fields().zip(&sent).filter(|((_, field), sent)| new && !**sent && accepted(field));
        for ((id, field), _) in absent {
            if field.list && !field.optional && field.default.is_none() {
                values.push((id, Value::List(Vec::new())));
            } else if !field.optional && field.default.is_none() {
                self.fail(&At::Member(&At::Root, &field.name), "required", "is required");
            }
        }
        values.sort_unstable_by_key(|(id, _)| *id);
        self.finish(Some(values))
    }

    /// Whether a value leaves room for the others in each index that it is part of.
    fn fits_indexes(&mut self, at: &At<'_>, model: &Model, id: FieldId, value: &Value) -> bool {
        let Some(most) = longest_indexed(model, id) else { return true };
        let longest = match value {
            Value::List(items) => items.iter().map(octets).max().unwrap_or_default(),
            value => octets(value),
        };
        if longest > most {
            self.fail(
                at,
                "too_long",
                format!("must have at most {most} octets, since it is part of a key or an index"),
            );
            return false;
        }
        let Some((length, most)) = recorded(model, id, value).filter(|(length, most)| length > most) else {
            return true;
        };
        let detail = format!(
            "takes {length} octets in the keys of recorded events, where it may take {most}; quotes, backslashes, control \
             characters and `Bytes` take more than one each"
        );
        self.fail(at, "too_long", detail);
        false
    }

    /// The members of a value object or of a procedure's body, one per field.
    fn object(&mut self, at: &At<'_>, fields: &[Field], what: &str, json: &Json) -> Option<Vec<Argument>> {
        let Json::Object(members) = json else {
            self.fail(at, "type", "must be an object");
            return None;
        };
        let mut values: Vec<Option<Argument>> = fields.iter().map(|_| None).collect();
        let mut sent = vec![false; fields.len()];
        for (name, json) in members {
            if self.full() {
                break;
            }
            let at = At::Member(at, name);
            let position = fields.iter().position(|field| field.name == *name);
            let Some((position, field)) = position.and_then(|at| Some((at, fields.get(at)?))) else {
                let names = fields.iter().map(|field| field.name.as_str());
                self.fail(&at, "unknown_field", unknown(name, what, names));
                continue;
            };
            let value = self.value(&at, field, json);
            if let (Some(slot), Some(seen)) = (values.get_mut(position), sent.get_mut(position)) {
                *slot = value;
                *seen = true;
            }
        }
        for ((field, slot), _) in fields.iter().zip(&mut values).zip(&sent).filter(|(_, sent)| !**sent) {
            *slot = self.absent(&At::Member(at, &field.name), field);
        }
        values.into_iter().collect()
    }

    fn absent(&mut self, at: &At<'_>, field: &Field) -> Option<Argument> {
        if field.optional {
            return Some(Argument::Value(Value::Null));
        }
        self.fail(at, "required", "is required");
        None
    }

    /// One member: null, a list, or one value. Reports what is wrong with it, and then gives nothing.
    fn value(&mut self, at: &At<'_>, field: &Field, json: &Json) -> Option<Argument> {
        match (json, field.list) {
            (Json::Null, _) if field.optional => Some(Argument::Value(Value::Null)),
            (Json::Null, _) => {
                self.fail(at, "required", "must not be null");
                None
            }
            (Json::Array(items), true) => self.list(at, field, items),
            (_, true) => {
                self.fail(at, "type", "must be an array");
                None
            }
            (json, false) => self.element(at, field, json),
        }
    }

    fn list(&mut self, at: &At<'_>, field: &Field, items: &[Json]) -> Option<Argument> {
        let mut read = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            if self.full() {
                break;
            }
            let at = At::Item(at, index);
            if *item == Json::Null {
                self.fail(&at, "required", "must not be null");
            } else {
                read.extend(self.element(&at, field, item));
            }
        }
        if read.len() < items.len() {
            return None;
        }
        if matches!(field.ty, FieldType::Type(_)) {
            return Some(Argument::List(read));
        }
        let values = read.into_iter().filter_map(|item| match item {
            Argument::Value(value) => Some(value),
            _ => None,
        });
        Some(Argument::Value(Value::List(values.collect())))
    }

    fn element(&mut self, at: &At<'_>, field: &Field, json: &Json) -> Option<Argument> {
        let value = match field.ty {
            FieldType::Type(id) => return self.value_object(at, id, json),
            FieldType::Scalar(Scalar::Json) => self.json(at, json)?,
            FieldType::Scalar(scalar) => match scalar_value(scalar, json) {
                Ok(value) => value,
                Err(Refusal::Invalid(invalid)) => {
                    self.invalid(at, invalid);
                    return None;
                }
                Err(Refusal::Kind(detail)) => {
                    self.fail(at, "type", detail);
                    return None;
                }
            },
            FieldType::Enum(id) => self.variant(at, id, json)?,
            FieldType::Model(id) if self.answers => {
                let fields: Vec<Field> = output::visible(self.schema.model(id)).cloned().collect();
                return self.object(at, &fields, "field", json).map(Argument::Object);
            }
            // A procedure answers with models and never takes them.
            FieldType::Model(_) => {
                self.fail(at, "type", "cannot be sent");
                return None;
            }
        };
        let broken = self.validators.check(field, &value);
        for broken in &broken {
            self.fail(at, broken.code, broken.detail.as_str());
        }
        broken.is_empty().then_some(Argument::Value(value))
    }

    fn value_object(&mut self, at: &At<'_>, id: TypeId, json: &Json) -> Option<Argument> {
        let def = self.schema.type_def(id);
        self.object(at, &def.fields, "field", json).map(Argument::Object)
    }

    /// The stored text of a variant.
    fn variant(&mut self, at: &At<'_>, id: EnumId, json: &Json) -> Option<Value> {
        let variants = &self.schema.enumeration(id).variants;
        if let Json::String(name) = json
            && let Some(variant) = variants.iter().find(|variant| variant.name == *name)
        {
            return Some(Value::Text(variant.stored.clone()));
        }
        let names: Vec<String> = variants.iter().map(|variant| format!("`{}`", variant.name)).collect();
        let code = if matches!(json, Json::String(_)) { "enum" } else { "type" };
        self.fail(at, code, format!("must be one of {}", names.join(", ")));
        None
    }

    /// A `Json` field: anything that both databases can hold.
    fn json(&mut self, at: &At<'_>, json: &Json) -> Option<Value> {
        let mut growth = 0;
        let mut holds = self.json_holds(at, json, &mut growth);
        if growth > MAX_JSON_GROWTH {
            self.fail(at, "out_of_range", "must not hold so many numbers with large exponents");
            holds = false;
        }
        if !holds {
            return None;
        }
        let mut text = String::new();
        json.write(&mut text);
        Some(Value::Text(text))
    }

    fn json_holds(&mut self, at: &At<'_>, json: &Json, growth: &mut usize) -> bool {
        match json {
            Json::String(text) => self.no_nul(at, text),
            Json::Number(text) => {
                let plain = plain_number(text);
                if let Some(plain) = &plain {
                    *growth += plain.len().saturating_sub(text.len());
                } else {
                    let detail = format!("must have at most {MAX_NUMBER_DIGITS} digits in plain notation");
                    self.fail(at, "out_of_range", detail);
                }
                plain.is_some()
            }
            Json::Array(items) => {
                let items = items.iter().enumerate();
                items.fold(true, |holds, (index, item)| self.json_holds(&At::Item(at, index), item, growth) && holds)
            }
            Json::Object(members) => members.iter().fold(true, |holds, (name, value)| {
                let at = At::Member(at, name);
                self.no_nul(&at, name) & self.json_holds(&at, value, growth) && holds
            }),
            Json::Null | Json::Bool(_) => true,
        }
    }

    fn no_nul(&mut self, at: &At<'_>, text: &str) -> bool {
        let holds = !text.contains('\0');
        if !holds {
            self.invalid(at, Invalid::Nul);
        }
        holds
    }
}

/// The octets that a value of a field may have, if the field is in an index and its values vary in length: an equal
/// share of the entry.
fn longest_indexed(model: &Model, id: FieldId) -> Option<usize> {
    let varies = |id: &FieldId| {
        matches!(model.field(*id).scalar(), Some(Scalar::String | Scalar::Cuid | Scalar::Bytes | Scalar::Decimal(None)))
    };
    if !varies(&id) {
        return None;
    }
    let indexes = model.uniques.iter().chain(&model.indexes).map(|index| index.fields.as_slice());
    let indexes = indexes.chain([model.key.as_slice()]).filter(|fields| fields.contains(&id));
    let share = |fields: &[FieldId]| {
        let varying = fields.iter().filter(|id| varies(id)).count().max(1);
        INDEX_ENTRY.saturating_sub(INDEX_COLUMN * fields.len()) / varying
    };
    indexes.map(share).min()
}

/// The octets that a part of a key has in the audit trail or the outbox, and those that it may have: an equal share of
/// what these take. `None` where neither has it.
fn recorded(model: &Model, id: FieldId, value: &Value) -> Option<(usize, usize)> {
    /// What a part of fixed length takes at most, with quotes and a comma.
    const FIXED: usize = 48;
    if !logs::recorded(model) || !model.key.contains(&id) {
        return None;
    }
    let varying = model.key.iter().filter(|id| longest_indexed(model, **id).is_some()).count().max(1);
    let fixed = FIXED * (model.key.len() - varying.min(model.key.len())) + 2;
    let most = KEY_LIMIT.saturating_sub(model.name.len() + fixed) / varying;
    let length = match value {
        Value::Bytes(octets) => octets.len() * 2 + 3,
        Value::Text(text) if model.key.len() > 1 => {
            let mut quoted = String::new();
            push_json_string(&mut quoted, text);
            quoted.len() + 1
        }
        value => octets(value),
    };
    Some((length, most))
}

fn octets(value: &Value) -> usize {
    match value {
        Value::Text(text) => text.len(),
        Value::Bytes(octets) => octets.len(),
        _ => 0,
    }
}

/// Why a JSON value is no scalar.
enum Refusal {
    Invalid(Invalid),
    Kind(&'static str),
}

fn scalar_value(scalar: Scalar, json: &Json) -> Result<Value, Refusal> {
    let parsed = match (scalar, json) {
        (Scalar::Boolean, Json::Bool(value)) => return Ok(Value::Bool(*value)),
        (Scalar::Int, Json::Number(text)) => match integral(text) {
            Some(value) => parse_text(scalar, &value.to_string()),
            None => parse_text(scalar, text),
        },
        (Scalar::Float, Json::Number(text)) => parse_text(scalar, text),
        (Scalar::BigInt, Json::Number(_)) => {
            return Err(Refusal::Kind("must be a string of digits, since JSON numbers lose digits beyond 2^53"));
        }
        (Scalar::Decimal(_), Json::Number(_)) => {
            return Err(Refusal::Kind("must be a string, such as `\"12.34\"`, since JSON numbers may lose digits"));
        }
        (Scalar::Int | Scalar::Float | Scalar::Boolean, _) => Err(Invalid::Form(scalar)),
        (_, Json::String(text)) => parse_text(scalar, text),
        _ => Err(Invalid::Form(scalar)),
    };
    parsed.map_err(Refusal::Invalid)
}

/// The integer that a number like `1.0` or `1e3` is; some writers of JSON know floats alone.
fn integral(text: &str) -> Option<i64> {
    if text.len() > 64 || !text.contains(['.', 'e', 'E']) {
        return None;
    }
    text.parse::<Decimal>().ok()?.to_i64()
}

fn unknown<'n>(name: &str, what: &str, names: impl Iterator<Item = &'n str>) -> String {
    // A long name resembles nothing, and comparing it would take long.
    let near = if name.len() <= 64 { nearest(name, names) } else { None };
    match near {
        Some(near) => format!("is not a known {what}; did you mean `{near}`?"),
        None => format!("is not a known {what}"),
    }
}

/// What to send in place of a relation.
fn relation_advice(model: &Model, name: &str, accepted: impl Fn(&Field) -> bool) -> Option<String> {
    let relation = model.relation(model.relation_named(name)?);
    if let RelationKind::Owning { fields, .. } = &relation.kind
        && fields.iter().all(|id| accepted(model.field(*id)))
    {
        let names: Vec<String> = fields.iter().map(|id| format!("`{}`", model.field(*id).name)).collect();
        return Some(format!("is a relation; send {} instead", names.join(" and ")));
    }
    Some("is a relation and cannot be sent".to_owned())
}

#[cfg(test)]
mod roundtrip;
#[cfg(test)]
mod tests;
