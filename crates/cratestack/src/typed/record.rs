//! What generated structs are read from and written to.

use cratestack_engine::api::{Code, Failure, FieldError};
use cratestack_engine::json::{Json, push_pointer};

use super::error::Error;
use super::value::{Value, ValueError};

/// What a patch does with a field.
///
/// ```
/// use cratestack::Change;
///
/// assert_eq!(Change::<i64>::default(), Change::Keep);
/// assert_eq!(Change::from(5), Change::Set(5));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Change<T> {
    /// Leaves it as it is.
    #[default]
    Keep,
    /// Gives it that value; `Set(None)` clears an optional field.
    Set(T),
}

impl<T> From<T> for Change<T> {
    fn from(value: T) -> Self {
        Self::Set(value)
    }
}

impl From<&str> for Change<String> {
    fn from(value: &str) -> Self {
        Self::Set(value.to_owned())
    }
}

/// Shown by `Debug` in place of a personal or sensitive value.
#[derive(Debug, Clone, Copy)]
pub struct Redacted;

/// The members of an object that is being written. Failing members are all kept.
#[derive(Debug, Default)]
pub struct Writer {
    members: Vec<(String, Json)>,
    errors: Vec<FieldError>,
}

impl Writer {
    /// Goes on with an object.
    pub(crate) fn of(object: Json) -> Self {
        let members = if let Json::Object(members) = object { members } else { Vec::new() };
        Self { members, errors: Vec::new() }
    }

    /// A member that is always sent, in place of one of that name.
    pub fn put<T: Value>(&mut self, name: &str, value: &T) {
        match value.encode() {
            Ok(json) => match self.members.iter_mut().find(|(member, _)| member == name) {
                Some((_, before)) => *before = json,
                None => self.members.push((name.to_owned(), json)),
            },
            Err(error) => {
                let mut pointer = "#".to_owned();
                push_pointer(&mut pointer, name);
                self.errors.push(FieldError { pointer, code: "type".to_owned(), detail: error.to_string() });
            }
        }
    }

    /// A member that is sent if it is there.
    pub fn given<T: Value>(&mut self, name: &str, value: Option<&T>) {
        if let Some(value) = value {
            self.put(name, value);
        }
    }

    /// A member of a patch.
    pub fn change<T: Value>(&mut self, name: &str, change: &Change<T>) {
        if let Change::Set(value) = change {
            self.put(name, value);
        }
    }

    /// Turns a member, if it is there, from a number to the string of digits of a `BigInt`.
    pub fn big(&mut self, name: &str) {
        if let Some((_, json)) = self.members.iter_mut().find(|(member, _)| member == name) {
            digits(json);
        }
    }

    /// The object, if every member could be written.
    pub(crate) fn finish(self) -> Result<Json, Error> {
        if self.errors.is_empty() {
            Ok(Json::Object(self.members))
        } else {
            Err(Failure::validation(self.errors).into())
        }
    }

    /// The object as a member of another.
    pub fn nested(self) -> Result<Json, ValueError> {
        match self.errors.first() {
            None => Ok(Json::Object(self.members)),
            Some(error) => {
                let name = error.pointer.strip_prefix("#/").unwrap_or(&error.pointer);
                Err(ValueError::new(format!("holds `{name}`, which {}", error.detail)))
            }
        }
    }
}

pub(crate) fn digits(json: &mut Json) {
    match json {
        Json::Number(text) => *json = Json::String(std::mem::take(text)),
        Json::Array(items) => items.iter_mut().for_each(digits),
        _ => {}
    }
}

/// The members of an object that is being read.
#[derive(Debug)]
pub struct Reader(Vec<(String, Json)>);

impl Reader {
    /// The members of `json`.
    pub fn new(json: Json) -> Result<Self, ValueError> {
        match json {
            Json::Object(members) => Ok(Self(members)),
            _ => Err(ValueError::new("is no object")),
        }
    }

    /// The value of a member.
    pub fn take<T: Value>(&mut self, name: &str) -> Result<T, ValueError> {
        T::decode(self.json(name)?).map_err(|error| ValueError::new(format!("`{name}` {error}")))
    }

    /// The value of a member that is not on every row; `None` where it is not.
    pub fn maybe<T: Value>(&mut self, name: &str) -> Result<Option<T>, ValueError> {
        if self.0.iter().any(|(member, _)| member == name) { self.take(name) } else { Ok(None) }
    }

    /// The value of a member that may be missing or null.
    pub fn given<T: Value>(&mut self, name: &str) -> Result<Option<T>, ValueError> {
        self.maybe::<Option<T>>(name).map(Option::flatten)
    }

    /// A member as it was sent.
    pub(crate) fn json(&mut self, name: &str) -> Result<Json, ValueError> {
        let found = self.0.iter_mut().find(|(member, _)| member == name);
        let (_, json) = found.ok_or_else(|| ValueError::new(format!("`{name}` is missing")))?;
        Ok(std::mem::replace(json, Json::Null))
    }
}

/// The error for an answer that the typed API cannot hold.
pub(crate) fn unreadable(model: &str, error: &ValueError) -> Error {
    Failure::new(Code::Internal, format!("a row of `{model}` cannot be read: {error}")).into()
}
