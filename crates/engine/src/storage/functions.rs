//! What SQLite's connections have for stored values beyond its own functions.

use cratestack_schema::decimal::{Decimal, MAX_DIGITS};
use cratestack_schema::ir::Scalar;
use cratestack_schema::value::{Value, parse_text};

use super::{built, push_float, scaled, sortable, unsortable};
use crate::sql::SCALED_DIGITS;

/// Gives an SQLite connection the function that [`Codec::select_element`](super::Codec::select_element) calls: `cratestack_float(x)`, the shortest
/// text that reads back as the same float. Those by which the audit trail is read: `cratestack_scaled(text, scale)` and
/// `cratestack_sortable(text)`, the stored forms of a Decimal, null where the text is none. And for SQL of a service's own
/// the other way: `cratestack_plain(stored [, scale])`, the text that an answer has, `cratestack_sum(stored [, scale])`,
/// the exact sum as such a text, null without rows, and back `cratestack_stored(text [, scale])`, an error where `text` does
/// not fit. `scale` is that of the field, if it is a `Decimal(p, s)` of up to 18 digits.
pub fn register_functions(connection: &rusqlite::Connection) -> rusqlite::Result<()> {
    use rusqlite::functions::FunctionFlags;
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC | FunctionFlags::SQLITE_INNOCUOUS;
    connection.create_scalar_function("cratestack_float", 1, flags, |context| {
        let value: Option<f64> = context.get(0)?;
        Ok(value.map(|value| built(|out| push_float(out, value))))
    })?;
    connection.create_scalar_function("cratestack_scaled", 2, flags, |context| {
        let text: Option<String> = context.get(0)?;
        let scale = stored_scale(context)?.unwrap_or(0);
        Ok(text.and_then(|text| scaled(&text, scale)))
    })?;
    connection.create_scalar_function("cratestack_sortable", 1, flags, |context| {
        let text: Option<String> = context.get(0)?;
        Ok(text.and_then(|text| text.parse::<Decimal>().ok()).and_then(|decimal| sortable(&decimal.to_string())))
    })?;
    for arguments in [1, 2] {
        connection.create_scalar_function("cratestack_plain", arguments, flags, |context| {
            let scale = stored_scale(context)?;
            Ok(stored_decimal(context, scale)?.map(|value| value.padded(scale.unwrap_or(0))))
        })?;
        connection.create_aggregate_function("cratestack_sum", arguments, flags, Sum)?;
        connection.create_scalar_function("cratestack_stored", arguments, flags, |context| {
            use rusqlite::types::Value as Sql;
            let Some(text) = context.get::<Option<String>>(0)? else { return Ok(Sql::Null) };
            let scalar = Scalar::Decimal(None);
            let Ok(Value::Text(plain)) = parse_text(scalar, &text) else {
                return Err(no_decimal("a text is no decimal in plain notation"));
            };
            let stored = match stored_scale(context)? {
                Some(scale) => {
                    scaled(&plain, scale).filter(|n| n.unsigned_abs() < 10_u64.pow(SCALED_DIGITS)).map(Sql::Integer)
                }
                None => sortable(&plain).map(Sql::Text),
            };
            stored.ok_or_else(|| no_decimal("a decimal has more digits than its column"))
        })?;
    }
    Ok(())
}

/// The second argument.
fn stored_scale(context: &rusqlite::functions::Context<'_>) -> rusqlite::Result<Option<u32>> {
    if context.len() < 2 {
        return Ok(None);
    }
    let scale: u32 = context.get(1)?;
    if scale as usize <= MAX_DIGITS { Ok(Some(scale)) } else { Err(no_decimal("the scale of a decimal is too large")) }
}

/// The first argument, a decimal as it is stored: an integer times 10^scale, or ordered text.
fn stored_decimal(context: &rusqlite::functions::Context<'_>, scale: Option<u32>) -> rusqlite::Result<Option<Decimal>> {
    use rusqlite::types::ValueRef;
    match context.get_raw(0) {
        ValueRef::Null => Ok(None),
        // Without its scale it would be another amount.
        ValueRef::Integer(value) => match scale {
            Some(scale) => Ok(Some(Decimal::from_scaled(value, scale))),
            None => Err(no_decimal("an integer is stored of a `Decimal(p, s)`: give its `s` as the second argument")),
        },
        ValueRef::Text(text) => std::str::from_utf8(text)
            .ok()
            .and_then(unsortable)
            .and_then(|plain| Decimal::of_any_length(&plain).ok())
            .map(Some)
            .ok_or_else(|| no_decimal("a text is not the stored form of a decimal")),
        ValueRef::Real(_) | ValueRef::Blob(_) => Err(no_decimal("a value is not the stored form of a decimal")),
    }
}

fn no_decimal(text: &str) -> rusqlite::Error {
    rusqlite::Error::UserFunctionError(text.into())
}

/// `cratestack_sum`: SQLite's own `sum` ends with an error beyond 64 bits, and makes a float of text.
struct Sum;

/// The sum so far, and the scale.
type Summed = (Option<Decimal>, Option<u32>);

impl rusqlite::functions::Aggregate<Summed, Option<String>> for Sum {
    fn init(&self, context: &mut rusqlite::functions::Context<'_>) -> rusqlite::Result<Summed> {
        Ok((None, stored_scale(context)?))
    }

    fn step(&self, context: &mut rusqlite::functions::Context<'_>, (sum, scale): &mut Summed) -> rusqlite::Result<()> {
        if stored_scale(context)? != *scale {
            return Err(no_decimal("the scale of a sum is one for all rows"));
        }
        if let Some(value) = stored_decimal(context, *scale)? {
            *sum = Some(sum.take().unwrap_or_default().add(&value));
        }
        Ok(())
    }

    fn finalize(
        &self,
        _: &mut rusqlite::functions::Context<'_>,
        sum: Option<Summed>,
    ) -> rusqlite::Result<Option<String>> {
        Ok(sum.and_then(|(sum, scale)| Some(sum?.padded(scale.unwrap_or(0)))))
    }
}
