//! Filters and orders: typed handles of fields that become the text of docs/http.md's `where` and `sort`.

use std::fmt::{self, Write as _};
use std::marker::PhantomData;

use cratestack_engine::api::{Code, Failure};
use cratestack_engine::json::Json;

use super::error::Error;
use super::query::{Include, Included};
use super::record::Reader;
use super::table::Model;
use super::value::{Comparable, Ordered, Value, ValueError};

/// The way from a row of `R` over relations to a name.
#[derive(Debug)]
pub struct Path<R> {
    text: String,
    from: PhantomData<fn() -> R>,
}

impl<R> Path<R> {
    /// A member of `R` itself.
    pub fn new(name: &str) -> Self {
        Self { text: name.to_owned(), from: PhantomData }
    }

    /// A member of the row at the end of this path.
    #[must_use]
    pub fn then(&self, name: &str) -> Self {
        Self::new(&format!("{}.{name}", self.text))
    }

    /// `customer.country`.
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// A field of `R`, or one that is reached from it, with values of `T`.
#[derive(Debug)]
pub struct Field<R, T> {
    path: Path<R>,
    of: PhantomData<fn() -> T>,
}

impl<R, T> Field<R, T> {
    /// The field at the end of a path.
    pub fn new(path: Path<R>) -> Self {
        Self { path, of: PhantomData }
    }

    /// The name, after the relations that lead to it.
    pub(crate) fn name(&self) -> &str {
        &self.path.text
    }

    /// Whether it has no value; never unknown.
    pub fn is_null(&self) -> Filter<R> {
        Filter::atom(format!("{} == null", self.path.text))
    }

    /// Whether it has a value; never unknown.
    pub fn is_not_null(&self) -> Filter<R> {
        Filter::atom(format!("{} != null", self.path.text))
    }
}

impl<R, T: Value> Field<R, T> {
    fn compare(&self, operator: &str, value: &T) -> Filter<R> {
        let path = &self.path.text;
        match literal(value) {
            Ok(literal) => Filter::atom(format!("{path} {operator} {literal}")),
            Err(error) => Filter::broken(path, &error),
        }
    }

    fn list(&self, operator: &str, otherwise: bool, values: impl IntoIterator<Item = impl Into<T>>) -> Filter<R> {
        let path = &self.path.text;
        let literals: Result<Vec<String>, _> = values.into_iter().map(|value| literal(&value.into())).collect();
        match literals {
            Ok(literals) if literals.is_empty() => Filter::atom(otherwise.to_string()),
            Ok(literals) => Filter::atom(format!("{path} {operator} [{}]", literals.join(", "))),
            Err(error) => Filter::broken(path, &error),
        }
    }

    /// Equal.
    pub fn eq(&self, value: impl Into<T>) -> Filter<R>
    where
        T: Comparable,
    {
        self.compare("==", &value.into())
    }

    /// Not equal. Unknown, as every comparison, where the field has no value.
    pub fn ne(&self, value: impl Into<T>) -> Filter<R>
    where
        T: Comparable,
    {
        self.compare("!=", &value.into())
    }

    /// One of these. Each counts towards [`Limits::expression_nodes`](crate::engine::Limits::expression_nodes).
    pub fn is_in(&self, values: impl IntoIterator<Item = impl Into<T>>) -> Filter<R>
    where
        T: Comparable,
    {
        self.list("in", false, values)
    }

    /// None of these.
    pub fn not_in(&self, values: impl IntoIterator<Item = impl Into<T>>) -> Filter<R>
    where
        T: Comparable,
    {
        self.list("not in", true, values)
    }

    /// Smallest first; no value last.
    pub fn asc(&self) -> Sort<R>
    where
        T: Comparable,
    {
        Sort { text: self.path.text.clone(), of: PhantomData }
    }

    /// Largest first; no value first.
    pub fn desc(&self) -> Sort<R>
    where
        T: Comparable,
    {
        Sort { text: format!("-{}", self.path.text), of: PhantomData }
    }

    /// Less.
    pub fn lt(&self, value: impl Into<T>) -> Filter<R>
    where
        T: Ordered,
    {
        self.compare("<", &value.into())
    }

    /// At most.
    pub fn lte(&self, value: impl Into<T>) -> Filter<R>
    where
        T: Ordered,
    {
        self.compare("<=", &value.into())
    }

    /// More.
    pub fn gt(&self, value: impl Into<T>) -> Filter<R>
    where
        T: Ordered,
    {
        self.compare(">", &value.into())
    }

    /// At least.
    pub fn gte(&self, value: impl Into<T>) -> Filter<R>
    where
        T: Ordered,
    {
        self.compare(">=", &value.into())
    }
}

impl<R> Field<R, String> {
    fn test(&self, method: &str, text: &str) -> Filter<R> {
        Filter::atom(format!("{}.{method}({})", self.path.text, quoted(text)))
    }

    /// Begins with that text; case matters.
    pub fn starts_with(&self, text: impl AsRef<str>) -> Filter<R> {
        self.test("startsWith", text.as_ref())
    }

    /// Ends with that text; case matters.
    pub fn ends_with(&self, text: impl AsRef<str>) -> Filter<R> {
        self.test("endsWith", text.as_ref())
    }

    /// Has that text in it; case matters.
    pub fn contains(&self, text: impl AsRef<str>) -> Filter<R> {
        self.test("contains", text.as_ref())
    }
}

/// A to-many relation of `R`, or one that is reached from it, to rows of `C`.
#[derive(Debug)]
pub struct Many<R, C> {
    path: Path<R>,
    of: PhantomData<fn() -> C>,
}

impl<R, C> Many<R, C> {
    /// The relation at the end of a path.
    pub fn new(path: Path<R>) -> Self {
        Self { path, of: PhantomData }
    }

    fn quantified(&self, word: &str, filter: Filter<C>) -> Filter<R> {
        match filter.text {
            Ok(text) => Filter::atom(format!("{}.{word}({text})", self.path.text)),
            Err(error) => Filter { text: Err(error), joined: None, of: PhantomData },
        }
    }

    /// At least one of its rows fulfils the filter.
    pub fn some(&self, filter: Filter<C>) -> Filter<R> {
        self.quantified("some", filter)
    }

    /// None of its rows fulfils the filter.
    pub fn none(&self, filter: Filter<C>) -> Filter<R> {
        self.quantified("none", filter)
    }

    /// None of its rows fails the filter; true where there are no rows.
    pub fn every(&self, filter: Filter<C>) -> Filter<R> {
        self.quantified("every", filter)
    }
}

impl<R, C: Model> Include<R> for Many<R, C> {
    type Output = Children<C>;

    fn path(self) -> Path<R> {
        self.path
    }
}

/// The rows of a to-many relation that a row shows: at most
/// [`Limits::include_limit`](crate::engine::Limits::include_limit).
#[derive(Debug, Clone, PartialEq)]
pub struct Children<C> {
    /// The first of them, by primary key.
    pub items: Vec<C>,
    /// Whether there are more: list them with a filter of their own.
    pub more: bool,
}

impl<C: Model> Included for Children<C> {
    fn decode(json: Json) -> Result<Self, ValueError> {
        let mut page = Reader::new(json)?;
        let items = match page.json("items")? {
            Json::Array(items) => items.into_iter().map(|item| C::read(&mut Reader::new(item)?)),
            _ => return Err(ValueError::new("is no page")),
        };
        Ok(Self { items: items.collect::<Result<_, _>>()?, more: page.json("next")? != Json::Null })
    }
}

/// A part of an order.
#[derive(Debug, Clone)]
pub struct Sort<R> {
    pub(crate) text: String,
    of: PhantomData<fn() -> R>,
}

/// How the parts of a filter are joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Joined {
    And,
    Or,
}

/// A condition on rows of `R`. A row that it is unknown for does not fulfil it.
#[derive(Clone)]
#[must_use = "a filter does nothing until it is given to a query"]
pub struct Filter<R> {
    pub(crate) text: Result<String, Error>,
    joined: Option<Joined>,
    of: PhantomData<fn() -> R>,
}

/// Without the text, which holds values.
impl<R> fmt::Debug for Filter<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Filter").finish_non_exhaustive()
    }
}

impl<R> Filter<R> {
    fn atom(text: String) -> Self {
        Self { text: Ok(text), joined: None, of: PhantomData }
    }

    /// A value that no literal can stand for is told when the query runs, so that handles stay easy to write.
    fn broken(path: &str, error: &ValueError) -> Self {
        let failure = Failure::new(Code::InvalidQuery, format!("the value that `{path}` is compared with {error}"));
        Self { text: Err(failure.into()), joined: None, of: PhantomData }
    }

    /// The text as an operand of a stronger operator.
    fn operand(text: String, joined: Option<Joined>, inside: Joined) -> String {
        if joined.is_none_or(|joined| joined == inside) { text } else { format!("({text})") }
    }

    fn join(self, other: Self, with: Joined, word: &str) -> Self {
        let text = self.text.and_then(|left| {
            let right = Self::operand(other.text?, other.joined, with);
            Ok(format!("{} {word} {right}", Self::operand(left, self.joined, with)))
        });
        Self { text, joined: Some(with), of: PhantomData }
    }

    /// Both.
    pub fn and(self, other: Self) -> Self {
        self.join(other, Joined::And, "&&")
    }

    /// One of them, or both.
    pub fn or(self, other: Self) -> Self {
        self.join(other, Joined::Or, "||")
    }
}

/// The opposite; what is unknown stays unknown.
impl<R> std::ops::Not for Filter<R> {
    type Output = Self;

    fn not(self) -> Self {
        Self { text: self.text.map(|text| format!("!({text})")), joined: None, of: PhantomData }
    }
}

/// A value in the grammar of the schema language.
fn literal(value: &impl Value) -> Result<String, ValueError> {
    Ok(match value.encode()? {
        Json::String(text) => quoted(&text),
        json => json.to_string(),
    })
}

fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => {
                // Writing to a `String` cannot fail.
                let _ = write!(quoted, "\\u{{{:x}}}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    struct Row;

    fn field<T>(name: &str) -> Field<Row, T> {
        Field::new(Path::new(name))
    }

    fn text(filter: Filter<Row>) -> String {
        filter.text.unwrap()
    }

    #[test]
    fn operators_bind_as_they_are_called() {
        let (a, b, c) = (|| field::<i64>("a").eq(1), || field::<bool>("b").eq(true), || field::<f64>("c").gt(-1.5));
        assert_eq!(text(a().and(b()).and(c())), "a == 1 && b == true && c > -1.5");
        assert_eq!(text(a().and(b().or(c()))), "a == 1 && (b == true || c > -1.5)");
        assert_eq!(text(a().and(b()).or(c())), "(a == 1 && b == true) || c > -1.5");
        assert_eq!(text(!a().or(!b())), "!(a == 1 || !(b == true))");
        assert_eq!(
            text(Many::<Row, Row>::new(Path::new("rows").then("more")).every(a().or(b()))),
            "rows.more.every(a == 1 || b == true)"
        );
    }

    #[test]
    fn values_are_literals() {
        let text = |value: &str| text(field::<String>("a").is_in([value]));
        assert_eq!(text("x"), "a in [\"x\"]");
        assert_eq!(text("\" \\ ü"), "a in [\"\\\" \\\\ ü\"]");
        assert_eq!(text("\n\u{85}"), "a in [\"\\u{a}\\u{85}\"]");
        assert_eq!(super::tests::text(field::<f64>("a").lt(1e21)), "a < 1000000000000000000000");
        assert_eq!(super::tests::text(field::<i64>("a").not_in([1, -2])), "a not in [1, -2]");
    }
}
