//! One row against the event that should have left it.

use aws_lc_rs::digest::{SHA256, digest};
use cratestack_schema::decimal::Decimal;
use cratestack_schema::hex;
use cratestack_schema::ir::{Field, FieldType, Model, Scalar, Schema};
use serde_json::{Map, Value as Json};

/// What comes of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The row is what the event left.
    Same,
    /// The event left no row.
    NoRow,
    /// These fields differ; none are named where there is only a digest of the row.
    Changed(Vec<String>),
    /// There is only a digest of the row, as an earlier schema had it.
    Unchecked,
}

/// Compares the row, `shown` as the triggers write it or a digest of that, with the event.
pub(super) fn verdict(schema: &Schema, model: &Model, entry: &str, shown: &str) -> Result<Verdict, serde_json::Error> {
    let entry: Json = serde_json::from_str(entry)?;
    let Some(Json::Object(left)) = entry.get("after") else { return Ok(Verdict::NoRow) };
    let row: Map<String, Json> = serde_json::from_str(shown)?;
    let fingerprint = || entry.get("schema_version").and_then(Json::as_str) == Some(schema.fingerprint().as_str());
    let digests = match (omitted(left), omitted(&row)) {
        (None, None) => return Ok(fields(schema, model, left, &row)),
        (Some(left), Some(row)) => same_digest(left, row),
        (Some(left), None) => same_digest(left, &digest_of(shown)),
        // The event had room for a row that is too large now.
        (None, Some(_)) => false,
    };
    Ok(match digests {
        true => Verdict::Same,
        false if fingerprint() => Verdict::Changed(Vec::new()),
        // It may differ by a column that was not there then.
        false => Verdict::Unchecked,
    })
}

/// What stands for a row that did not fit: the value of a field that has this name has no such members.
pub fn omitted(row: &Map<String, Json>) -> Option<&Map<String, Json>> {
    row.get("omitted").and_then(Json::as_object).filter(|digest| digest.contains_key("length"))
}

fn digest_of(text: &str) -> Map<String, Json> {
    let sha256 = hex(digest(&SHA256, text.as_bytes()).as_ref());
    [("length".to_owned(), Json::from(text.len())), ("sha256".to_owned(), Json::from(sha256))].into_iter().collect()
}

/// SQLite has no hash function: there the lengths have to do.
fn same_digest(left: &Map<String, Json>, row: &Map<String, Json>) -> bool {
    let hashes = left.get("sha256").zip(row.get("sha256"));
    left.get("length") == row.get("length") && hashes.is_none_or(|(left, row)| left == row)
}

/// A member that only one of them has was added or dropped in between.
fn fields(schema: &Schema, model: &Model, left: &Map<String, Json>, row: &Map<String, Json>) -> Verdict {
    let differs = |field: &&Field| match (left.get(&field.name), row.get(&field.name)) {
        (Some(left), Some(row)) => !same(schema, field.ty, left, row),
        _ => false,
    };
    let changed: Vec<String> = model.fields.iter().filter(differs).map(|field| field.name.clone()).collect();
    if changed.is_empty() { Verdict::Same } else { Verdict::Changed(changed) }
}

fn same(schema: &Schema, ty: FieldType, left: &Json, row: &Json) -> bool {
    match (left, row) {
        // Redacted; values themselves are never objects.
        (Json::Object(_), other) | (other, Json::Object(_)) => !other.is_null(),
        (Json::Array(left), Json::Array(row)) => {
            left.len() == row.len() && left.iter().zip(row).all(|(left, row)| same(schema, ty, left, row))
        }
        (left, row) => left == row || equal_numbers(ty, left, row) || renamed(schema, ty, left, row),
    }
}

/// Whether two texts are one number, which a change of the type has written otherwise.
fn equal_numbers(ty: FieldType, left: &Json, row: &Json) -> bool {
    let text = |value: &Json| match value {
        Json::String(text) => Some(text.clone()),
        Json::Number(number) => Some(number.to_string()),
        Json::Null | Json::Bool(_) | Json::Array(_) | Json::Object(_) => None,
    };
    let Some((left, row)) = text(left).zip(text(row)) else { return false };
    match ty {
        FieldType::Scalar(Scalar::Float) => left
            .parse::<f64>()
            .ok()
            .zip(row.parse().ok())
            .is_some_and(|(left, row): (f64, f64)| left.total_cmp(&row).is_eq()),
        FieldType::Scalar(Scalar::Int | Scalar::BigInt | Scalar::Decimal(_)) => {
            let number = |text: &str| Decimal::of_any_length(text).ok();
            number(&left).zip(number(&row)).is_some_and(|(left, row)| left == row)
        }
        _ => false,
    }
}

/// Whether one stored value has got another name in an enum since then.
fn renamed(schema: &Schema, ty: FieldType, left: &Json, row: &Json) -> bool {
    let (FieldType::Enum(id), Some(left), Some(row)) = (ty, left.as_str(), row.as_str()) else { return false };
    let variants = &schema.enumeration(id).variants;
    let named = |name: &str| variants.iter().find(|variant| variant.name == name);
    named(left).is_none() && named(row).is_some_and(|variant| variant.stored == left)
}
