//! JSON as it was sent: numbers as text, members in order, so that nothing is lost before validation.

/// A JSON value as sent by a caller.
#[derive(Debug, Clone, PartialEq)]
pub enum Json {
    /// `null`
    Null,
    /// `true`, `false`
    Bool(bool),
    /// The number's text, exactly as sent; any magnitude.
    Number(String),
    /// A string; may contain NUL (refused by validation).
    String(String),
    /// An array.
    Array(Vec<Json>),
    /// An object: members in the order sent, names unique.
    Object(Vec<(String, Json)>),
}
