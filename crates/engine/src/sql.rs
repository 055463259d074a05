//! SQL text and where its bound values come from.
//!
//! A [`Template`] is text that depends on the schema, the dialect and the shape of a request alone, never on a value;
//! it is built once per shape and kept. Its [`SlotSpec`]s say which value goes into which placeholder, so that one
//! request costs one pass over the slots ([`Template::fill`]). Identifiers come from the IR, values are always bound.

use std::fmt::Write as _;
use std::sync::Arc;

use cratestack_schema::ir::{FieldId, FieldPath, FieldType, Scalar};
use cratestack_schema::value::Value;
use uuid::Uuid;

/// A database product's SQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// PostgreSQL 14 or newer.
    Postgres,
    /// SQLite 3.45 or newer.
    Sqlite,
}

/// The type of a bound value or of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SqlType {
    /// Type of one value.
    pub ty: FieldType,
    /// Whether it is a list of such values.
    pub list: bool,
}

impl SqlType {
    /// 64-bit integer.
    pub const INT: Self = Self::scalar(Scalar::Int);
    /// Boolean.
    pub const BOOL: Self = Self::scalar(Scalar::Boolean);
    /// Text.
    pub const TEXT: Self = Self::scalar(Scalar::String);
    /// Instant.
    pub const DATE_TIME: Self = Self::scalar(Scalar::DateTime);
    /// List of 64-bit integers.
    pub const INT_LIST: Self = Self { ty: FieldType::Scalar(Scalar::Int), list: true };

    /// One scalar.
    pub const fn scalar(scalar: Scalar) -> Self {
        Self { ty: FieldType::Scalar(scalar), list: false }
    }

    /// The type of a field's column.
    pub fn of(field: &cratestack_schema::ir::Field) -> Self {
        Self { ty: field.ty, list: field.list }
    }

    /// Whether a column holds `Json`, one value or a list.
    pub fn is_document(self) -> bool {
        self.stored() == Scalar::Json
    }

    /// The scalar that one value is stored as. Enums are text; value objects and rows have no column.
    pub fn stored(self) -> Scalar {
        match self.ty {
            FieldType::Scalar(scalar) => scalar,
            FieldType::Enum(_) | FieldType::Type(_) | FieldType::Model(_) => Scalar::String,
        }
    }

    /// The precision of a `Decimal(p, s)`.
    pub fn precision(self) -> Option<cratestack_schema::ir::Precision> {
        match self.stored() {
            Scalar::Decimal(precision) => precision,
            _ => None,
        }
    }

    /// How a value of this type travels to the database.
    pub fn bind_kind(self, dialect: Dialect) -> BindKind {
        let scalar = self.stored();
        match (dialect, self.list) {
            (Dialect::Postgres, true) => match scalar {
                Scalar::Int | Scalar::BigInt => BindKind::IntList,
                _ => BindKind::TextList,
            },
            // A list is JSON text.
            (Dialect::Sqlite, true) => BindKind::Text,
            (Dialect::Postgres, false) => match scalar {
                Scalar::Boolean => BindKind::Bool,
                Scalar::Int | Scalar::BigInt => BindKind::Int,
                Scalar::Float => BindKind::Float,
                Scalar::Bytes => BindKind::Bytes,
                Scalar::Uuid => BindKind::Uuid,
                _ => BindKind::Text,
            },
            (Dialect::Sqlite, false) => match scalar {
                Scalar::Boolean | Scalar::Int | Scalar::BigInt => BindKind::Int,
                Scalar::Decimal(Some(precision)) if precision.precision <= SCALED_DIGITS => BindKind::Int,
                Scalar::Float => BindKind::Float,
                Scalar::Bytes => BindKind::Bytes,
                _ => BindKind::Text,
            },
        }
    }

    /// The PostgreSQL type of the column.
    pub fn postgres(self) -> String {
        let mut text = match self.stored() {
            Scalar::Int | Scalar::BigInt => "bigint".to_owned(),
            Scalar::Float => "double precision".to_owned(),
            Scalar::Boolean => "boolean".to_owned(),
            Scalar::Decimal(None) => "numeric".to_owned(),
            Scalar::Decimal(Some(p)) => format!("numeric({},{})", p.precision, p.scale),
            Scalar::DateTime => "timestamptz".to_owned(),
            Scalar::Date => "date".to_owned(),
            Scalar::Uuid => "uuid".to_owned(),
            Scalar::Bytes => "bytea".to_owned(),
            Scalar::Json => "jsonb".to_owned(),
            Scalar::String | Scalar::Cuid => "text".to_owned(),
        };
        if self.list {
            text.push_str("[]");
        }
        text
    }
}

/// SQLite keeps a `Decimal` of at most this many digits as a scaled 64-bit integer, a longer one as ordered text.
pub const SCALED_DIGITS: u32 = 18;

/// How a value travels to the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BindKind {
    /// Boolean (PostgreSQL alone).
    Bool,
    /// 64-bit integer.
    Int,
    /// Double.
    Float,
    /// Text.
    Text,
    /// Octets.
    Bytes,
    /// UUID (PostgreSQL alone).
    Uuid,
    /// `text[]` (PostgreSQL alone).
    TextList,
    /// `bigint[]` (PostgreSQL alone).
    IntList,
}

impl BindKind {
    /// PostgreSQL's type for it.
    pub fn postgres(self) -> &'static str {
        match self {
            Self::Bool => "boolean",
            Self::Int => "bigint",
            Self::Float => "double precision",
            Self::Text => "text",
            Self::Bytes => "bytea",
            Self::Uuid => "uuid",
            Self::TextList => "text[]",
            Self::IntList => "bigint[]",
        }
    }

    /// Whether it is a list.
    pub fn is_list(self) -> bool {
        matches!(self, Self::TextList | Self::IntList)
    }
}

/// A value on its way to the database.
#[derive(Debug, Clone, PartialEq)]
pub enum Bind {
    /// NULL, with the kind that the placeholder has for other values: a prepared statement keeps its parameter types.
    Null(BindKind),
    /// Boolean.
    Bool(bool),
    /// 64-bit integer.
    Int(i64),
    /// Double.
    Float(f64),
    /// Text.
    Text(String),
    /// Octets.
    Bytes(Vec<u8>),
    /// UUID.
    Uuid(Uuid),
    /// `text[]`.
    TextList(Vec<String>),
    /// `bigint[]`.
    IntList(Vec<i64>),
}

/// Where the value of a placeholder comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum Slot {
    /// The n-th field of the key in the request.
    Key(usize),
    /// The value that the operation gives to a field (input, default, clock or generator).
    Field(FieldId),
    /// A claim of the caller.
    Auth(FieldId),
    /// A constant of the schema or of the request.
    Const(Value),
    /// The clock of the operation.
    Now,
    /// The versions that the caller would accept (a list of integers).
    Expected,
    /// A fresh `deletion_id`.
    DeletionId,
    /// What the audit trail says of the caller ([`crate::audit::Context::lines`]).
    Context,
    /// What is recorded of a request with an idempotency key.
    Keyed(KeyedPart),
    /// The n-th sort value of the cursor.
    Cursor(usize),
    /// Rows to fetch.
    Limit,
}

impl Slot {
    /// Whether the value is the same for all who use the template.
    pub fn is_fixed(&self) -> bool {
        matches!(self, Self::Const(_))
    }
}

/// The parts of what is recorded of a request with an idempotency key ([`crate::idempotency`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyedPart {
    /// Whose it is.
    Scope,
    /// The key.
    Key,
    /// Which request.
    Fingerprint,
    /// The route.
    Op,
    /// The key of the row.
    PrimaryKey,
    /// The id of the request.
    RequestId,
    /// When it was made.
    Created,
    /// When it goes.
    Expires,
    /// The status for who may read the row.
    SeenStatus,
    /// The headers for who may read the row.
    SeenHeaders,
    /// The status for who may not.
    HiddenStatus,
    /// The headers for who may not.
    HiddenHeaders,
    /// Octets of a body that is kept.
    Limit,
    /// For how long another request with the key is waited for, as PostgreSQL's `lock_timeout`.
    Wait,
}

impl KeyedPart {
    /// What it is bound as.
    pub(crate) fn ty(self) -> SqlType {
        match self {
            Self::Scope | Self::Fingerprint => SqlType::scalar(Scalar::Bytes),
            Self::SeenStatus | Self::HiddenStatus | Self::Limit => SqlType::INT,
            Self::Created | Self::Expires => SqlType::DATE_TIME,
            Self::Key
            | Self::Op
            | Self::PrimaryKey
            | Self::RequestId
            | Self::SeenHeaders
            | Self::HiddenHeaders
            | Self::Wait => SqlType::TEXT,
        }
    }
}

/// A placeholder: its number is its position in [`Template::slots`] plus one.
#[derive(Debug, Clone, PartialEq)]
pub struct SlotSpec {
    /// Where the value comes from.
    pub slot: Slot,
    /// The type that it is bound as.
    pub ty: SqlType,
}

/// Text under construction, with its placeholders.
///
/// Placeholders are numbered, so that fragments may be made in any order, reused and left out.
#[derive(Debug, Clone)]
pub struct Sql {
    dialect: Dialect,
    text: String,
    slots: Vec<SlotSpec>,
    aliases: usize,
    /// A name that no alias may have.
    avoid: String,
}

impl Sql {
    /// Empty text.
    pub fn new(dialect: Dialect) -> Self {
        Self { dialect, text: String::new(), slots: Vec::new(), aliases: 0, avoid: String::new() }
    }

    /// Whose SQL it is.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// Appends text that contains no user data: keywords, fragments, [`ident`]s.
    pub fn push(&mut self, text: &str) -> &mut Self {
        self.text.push_str(text);
        self
    }

    /// Appends a quoted identifier of the IR.
    pub fn ident(&mut self, name: &str) -> &mut Self {
        push_ident(&mut self.text, name);
        self
    }

    /// Appends a placeholder.
    pub fn bind(&mut self, slot: Slot, ty: SqlType) -> &mut Self {
        let text = self.placeholder(slot, ty);
        self.text.push_str(&text);
        self
    }

    /// The text of a placeholder, for use in a fragment. Equal slots of equal type share one.
    pub fn placeholder(&mut self, slot: Slot, ty: SqlType) -> String {
        let spec = SlotSpec { slot, ty };
        let known = self.slots.iter().position(|known| *known == spec);
        let at = known.unwrap_or_else(|| {
            self.slots.push(spec);
            self.slots.len() - 1
        });
        placeholder(self.dialect, at + 1, ty)
    }

    /// A table alias that this statement does not use yet: `t1`, `t2`, ..
    pub fn alias(&mut self) -> String {
        loop {
            self.aliases += 1;
            let alias = format!("t{}", self.aliases);
            if !alias.eq_ignore_ascii_case(&self.avoid) {
                return alias;
            }
        }
    }

    /// Keeps aliases from hiding a table that the statement knows by its own name.
    pub fn avoid(&mut self, table: &str) {
        table.clone_into(&mut self.avoid);
    }

    /// Puts something else in place of the text so far, made of it.
    pub(crate) fn rewrite(&mut self, with: impl FnOnce(&str) -> String) {
        self.text = with(&self.text);
    }

    /// The text so far.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether an alias was made: the text has a subquery.
    pub fn has_aliases(&self) -> bool {
        self.aliases > 0
    }

    /// The finished text and its slots. Placeholders of fragments that were left out are gone.
    pub fn finish(self) -> (Arc<str>, Vec<SlotSpec>) {
        let sigil = self.sigil();
        let (text, slots) = self.named(&self.text, &|number, _| format!("{sigil}{number}"));
        (text.into(), slots)
    }

    fn sigil(&self) -> char {
        match self.dialect {
            Dialect::Postgres => '$',
            Dialect::Sqlite => '?',
        }
    }

    /// A text made of this one's fragments, with other names for its placeholders, and the slots of those that it has.
    /// `name` is given their numbers from 1 on, in the order in which they come.
    pub fn named(&self, with: &str, name: &dyn Fn(usize, &Slot) -> String) -> (String, Vec<SlotSpec>) {
        let sigil = self.sigil();
        let mut text = String::with_capacity(with.len());
        let mut used: Vec<usize> = Vec::new();
        let mut quote = None;
        let mut chars = with.chars().peekable();
        while let Some(c) = chars.next() {
            match (c, quote) {
                (_, Some(open)) if c == open => quote = None,
                ('"' | '\'', None) => quote = Some(c),
                (_, None) if c == sigil => {
                    let mut number = 0;
                    while let Some(digit) = chars.peek().and_then(|digit| digit.to_digit(10)) {
                        number = number * 10 + digit as usize;
                        chars.next();
                    }
                    // The schema author's own SQL may have the character for something else.
                    let Some(known) = number.checked_sub(1).and_then(|at| self.slots.get(at)) else {
                        text.push(c);
                        if number > 0 {
                            let _ = write!(text, "{number}");
                        }
                        continue;
                    };
                    let at = used.iter().position(|known| *known == number).unwrap_or_else(|| {
                        used.push(number);
                        used.len() - 1
                    });
                    text.push_str(&name(at + 1, &known.slot));
                    continue;
                }
                _ => {}
            }
            text.push(c);
        }
        let slots = used.iter().filter_map(|number| self.slots.get(number.checked_sub(1)?).cloned()).collect();
        (text, slots)
    }
}

/// A placeholder with the cast that turns the bound form into the column's type.
fn placeholder(dialect: Dialect, number: usize, ty: SqlType) -> String {
    match dialect {
        Dialect::Sqlite => format!("?{number}"),
        Dialect::Postgres => {
            let carried = ty.bind_kind(dialect).postgres();
            // A cast to numeric(p,s) would round in silence; the bare type keeps every digit, and the column's own
            // type has been checked before binding.
            let wanted = match (ty.stored(), ty.list) {
                (Scalar::Decimal(_), false) => "numeric".to_owned(),
                (Scalar::Decimal(_), true) => "numeric[]".to_owned(),
                // Two binds, or binds seen through a subquery, would compare in the database's own collation.
                (Scalar::String | Scalar::Cuid, false) => return format!("${number}::text COLLATE \"C\""),
                _ => ty.postgres(),
            };
            if carried == wanted { format!("${number}::{carried}") } else { format!("${number}::{carried}::{wanted}") }
        }
    }
}

/// A quoted identifier.
pub fn ident(name: &str) -> String {
    let mut text = String::with_capacity(name.len() + 2);
    push_ident(&mut text, name);
    text
}

fn push_ident(text: &mut String, name: &str) {
    text.push('"');
    for c in name.chars() {
        if c == '"' {
            text.push('"');
        }
        text.push(c);
    }
    text.push('"');
}

/// `alias."column"`.
pub fn column(alias: &str, name: &str) -> String {
    let mut text = String::with_capacity(alias.len() + name.len() + 3);
    let _ = write!(text, "{alias}.");
    push_ident(&mut text, name);
    text
}

/// A select list under construction. Equal expressions are selected once. Body columns are best added first: where they
/// are all of a table's columns in their order, PostgreSQL gives its rows as they are, without a projection.
#[derive(Debug, Clone, Default)]
pub struct SelectList {
    columns: Vec<String>,
}

impl SelectList {
    /// Adds an expression, unless it is there; where it stands.
    pub fn add(&mut self, text: String) -> usize {
        self.columns.iter().position(|known| *known == text).unwrap_or_else(|| {
            self.columns.push(text);
            self.columns.len() - 1
        })
    }

    /// The expressions in their order.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// The text between `SELECT` and `FROM`; of nothing a constant, since SQLite wants a column.
    pub fn text(&self) -> String {
        if self.columns.is_empty() { "1".to_owned() } else { self.columns.join(", ") }
    }
}

/// A column that is read as a [`Value`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// Where it stands in the select list.
    pub at: usize,
    /// What it holds.
    pub ty: SqlType,
}

impl Column {
    /// A select list of these types, whole.
    pub fn row(types: &[SqlType]) -> Vec<Self> {
        types.iter().enumerate().map(|(at, ty)| Self { at, ty: *ty }).collect()
    }
}

/// A statement's text with what a request must fill in and what comes back.
///
/// Of the columns some are read as [`Value`]s (`control`: flags, version, key, sort values), some are rendered straight
/// into JSON text (`shape`), and some are both.
#[derive(Debug, Clone, PartialEq)]
pub struct Template {
    /// The text.
    pub sql: Arc<str>,
    /// One per placeholder, in the order of their numbers.
    pub slots: Vec<SlotSpec>,
    /// What is read as values.
    pub control: Vec<Column>,
    /// How many rows a page shows: `control` is then read of the first row and of the last that is shown, and of no
    /// other. `None` reads it of every row.
    pub page: Option<usize>,
    /// What is rendered.
    pub shape: Arc<Shape>,
}

/// A template with its values.
#[derive(Debug, Clone, PartialEq)]
pub struct Statement {
    /// What to run, and how to read the answer.
    pub template: Arc<Template>,
    /// One per slot, in order.
    pub binds: Vec<Bind>,
}

impl Template {
    /// A text without values, whose columns are all read as values.
    pub fn fixed(sql: &str, control: &[SqlType]) -> Self {
        Self { sql: sql.into(), slots: Vec::new(), control: Column::row(control), page: None, shape: Arc::default() }
    }

    /// Fills the slots. `value` gives the bound form of a slot.
    pub fn fill<E>(self: &Arc<Self>, value: impl FnMut(&SlotSpec) -> Result<Bind, E>) -> Result<Statement, E> {
        let binds = self.slots.iter().map(value).collect::<Result<_, E>>()?;
        Ok(Statement { template: Arc::clone(self), binds })
    }
}

/// How columns become the members of a JSON object.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Shape {
    /// The members in their order.
    pub members: Vec<Member>,
}

/// One member of a [`Shape`].
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    /// The JSON name with its quotes and colon.
    pub label: String,
    /// Where its column stands in the row.
    pub at: usize,
    /// What the column holds.
    pub content: Content,
}

impl Member {
    /// A member of that name.
    pub fn new(name: &str, at: usize, content: Content) -> Self {
        let mut label = String::with_capacity(name.len() + 3);
        crate::storage::push_json_string(&mut label, name);
        label.push(':');
        Self { label, at, content }
    }
}

/// What a body column holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// One value of a field.
    Cell(SqlType),
    /// A to-one include: NULL, or a JSON array of the row's columns; cells are text or null.
    One(Shape),
    /// A to-many include: a JSON array of such arrays.
    Many(Many),
}

/// A to-many include.
#[derive(Debug, Clone, PartialEq)]
pub struct Many {
    /// The child.
    pub model: cratestack_schema::ir::ModelId,
    /// What is read as values of the last row that is shown: primary key fields, then those of `back`.
    pub control: Vec<Column>,
    /// How many of `control` are the primary key.
    pub key: usize,
    /// What the child's own list is filtered by to go on where the include ends.
    pub back: Vec<FieldPath>,
    /// At most this many rows are shown; one more is fetched to know whether there is a next page.
    pub limit: u32,
    /// The members of each row.
    pub shape: Shape,
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
mod tests {
    use super::*;
    use cratestack_schema::ir::Precision;

    #[test]
    fn equal_slots_share_a_placeholder_and_types_cast() {
        let mut sql = Sql::new(Dialect::Postgres);
        let decimal = SqlType::scalar(Scalar::Decimal(Some(Precision { precision: 18, scale: 4 })));
        assert_eq!(sql.placeholder(Slot::Now, SqlType::DATE_TIME), "$1::text::timestamptz");
        assert_eq!(sql.placeholder(Slot::Field(FieldId(1)), decimal), "$2::text::numeric");
        assert_eq!(sql.placeholder(Slot::Now, SqlType::DATE_TIME), "$1::text::timestamptz");
        assert_eq!(sql.placeholder(Slot::Expected, SqlType::INT_LIST), "$3::bigint[]");
    }

    #[test]
    fn placeholders_that_are_left_out_are_not_bound() {
        for (dialect, expected) in [
            (Dialect::Postgres, "SELECT \"$9\", '?1' '$1', $1::bigint, $2::bigint[], $1::bigint"),
            (Dialect::Sqlite, "SELECT \"$9\", '?1' '$1', ?1, ?2, ?1"),
        ] {
            let mut sql = Sql::new(dialect);
            let _unused = sql.placeholder(Slot::Now, SqlType::DATE_TIME);
            let list = sql.placeholder(Slot::Expected, SqlType::INT_LIST);
            sql.push("SELECT ").ident("$9").push(", '?1' '$1', ").bind(Slot::Key(0), SqlType::INT);
            sql.push(", ").push(&list).push(", ").bind(Slot::Key(0), SqlType::INT);
            let (text, slots) = sql.finish();
            assert_eq!(&*text, expected);
            let slots: Vec<Slot> = slots.into_iter().map(|spec| spec.slot).collect();
            assert_eq!(slots, [Slot::Key(0), Slot::Expected]);
        }
    }

    #[test]
    fn identifiers_are_quoted() {
        assert_eq!(ident("a\"b"), "\"a\"\"b\"");
        assert_eq!(column("t1", "order"), "t1.\"order\"");
    }
}
