//! Values in canonical form, and the one place where text becomes a value.

use serde::{Deserialize, Serialize};

/// A value of a [`Scalar`](crate::ir::Scalar) or an enum, in canonical form.
///
/// The variant follows from the type; equality of canonical values is equality of values:
///
/// | type | variant | canonical form |
/// |---|---|---|
/// | `Boolean` | `Bool` | |
/// | `Int`, `BigInt` | `Int` | |
/// | `Float` | `Float` | finite, `-0` made `0` |
/// | `String`, `Cuid` | `Text` | as given, no NUL |
/// | enums | `Text` | the *stored* text |
/// | `Decimal` | `Text` | plain notation, no exponent, no `-0`, no leading zeros, no trailing fraction zeros |
/// | `DateTime` | `Text` | `2026-01-31T10:00:00.000000Z`, six digits, years 0001 to 9999 |
/// | `Date` | `Text` | `2026-01-31` |
/// | `Uuid` | `Text` | lower case with hyphens |
/// | `Json` | `Text` | compact JSON text |
/// | `Bytes` | `Bytes` | |
/// | lists | `List` | of the element's form |
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Value {
    /// SQL NULL, JSON null.
    Null,
    /// A boolean.
    Bool(bool),
    /// A 64-bit integer.
    Int(i64),
    /// A finite float.
    Float(f64),
    /// Text; see the table above.
    Text(String),
    /// Octets.
    Bytes(Vec<u8>),
    /// A scalar list.
    List(Vec<Value>),
}
