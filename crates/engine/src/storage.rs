//! How a value of the schema stands in the database: column types, binds, and the way back, straight into JSON text.
//!
//! Everything that depends on a column's type is a method of [`Codec`]. Rows come back as [`Cell`]s, and a [`RowReader`]
//! renders them as JSON objects without an intermediate tree.
//!
//! | scalar | PostgreSQL | bound as | SQLite | bound as |
//! |---|---|---|---|---|
//! | `String`, `Cuid`, enums | `TEXT COLLATE "C"` | text | `TEXT` | text |
//! | `Int`, `BigInt` | `BIGINT` | integer | `INTEGER` | integer |
//! | `Float` | `DOUBLE PRECISION` | float | `REAL` | float |
//! | `Boolean` | `BOOLEAN` | boolean | `INTEGER` 0/1 | integer |
//! | `Decimal(p <= 18, s)` | `NUMERIC(p, s)` | text, cast | `INTEGER`, times 10^s | integer |
//! | other `Decimal`s | `NUMERIC`, `NUMERIC(p, s)` | text, cast | `TEXT`, see [`sortable`] | text |
//! | `DateTime` | `TIMESTAMPTZ` | text, cast | `TEXT`, canonical form | text |
//! | `Date` | `DATE` | text, cast | `TEXT`, canonical form | text |
//! | `Uuid` | `UUID` | UUID | `TEXT`, canonical form | text |
//! | `Bytes` | `BYTEA` | octets | `BLOB` | octets |
//! | `Json` | `JSONB` | text, cast | `TEXT`, canonical ([`json::Json::write_canonical`]) | text |
//! | lists | arrays | array, cast | `TEXT`, JSON array of the elements' binds | text |
//!
//! The wire type of a bind depends on the type alone, never on the value, because PostgreSQL fixes parameter types when
//! a statement is prepared.

mod functions;

use std::borrow::Cow;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use cratestack_schema::decimal::Decimal;
use cratestack_schema::ir::{FieldType, Scalar, Schema, Variant};
use cratestack_schema::value::{Value, instant};
use sqlx::{Row as _, ValueRef as _};
use uuid::Uuid;

pub use self::functions::register_functions;
use crate::json;
use crate::sql::{Bind, BindKind, Column, Content, Dialect, Many, SCALED_DIGITS, Shape, SqlType};

/// A stored value or a bind that does not have the form of its column. Always a fault of the engine or of somebody
/// who writes to the database beside it; the sentence holds no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct StorageError(String);

impl StorageError {
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }
}

/// Appends a bind to the arguments of a PostgreSQL statement.
///
/// # Errors
/// When the value is too long for the protocol.
pub fn add_argument(bind: &Bind, arguments: &mut sqlx::postgres::PgArguments) -> Result<(), StorageError> {
    use sqlx::Arguments as _;
    let added = match bind {
        Bind::Null(BindKind::Bool) => arguments.add(None::<bool>),
        Bind::Null(BindKind::Int) => arguments.add(None::<i64>),
        Bind::Null(BindKind::Float) => arguments.add(None::<f64>),
        Bind::Null(BindKind::Text) => arguments.add(None::<String>),
        Bind::Null(BindKind::Bytes) => arguments.add(None::<Vec<u8>>),
        Bind::Null(BindKind::Uuid) => arguments.add(None::<Uuid>),
        Bind::Null(BindKind::TextList) => arguments.add(None::<Vec<String>>),
        Bind::Null(BindKind::IntList) => arguments.add(None::<Vec<i64>>),
        Bind::Bool(value) => arguments.add(*value),
        Bind::Int(value) => arguments.add(*value),
        Bind::Float(value) => arguments.add(*value),
        Bind::Text(value) => arguments.add(value.as_str()),
        Bind::Bytes(value) => arguments.add(value.as_slice()),
        Bind::Uuid(value) => arguments.add(*value),
        Bind::TextList(value) => arguments.add(value.as_slice()),
        Bind::IntList(value) => arguments.add(value.as_slice()),
    };
    added.map_err(|_| too_long())
}

fn too_long() -> StorageError {
    StorageError::new("a value is too long to send to the database")
}

/// Adds an array of values of one kind, which is not that of lists, to the arguments of a PostgreSQL statement.
///
/// # Errors
/// When they are too long for the protocol, or of another kind.
pub fn add_array<'b>(
    kind: BindKind,
    binds: impl Iterator<Item = &'b Bind>,
    arguments: &mut sqlx::postgres::PgArguments,
) -> Result<(), StorageError> {
    use sqlx::Arguments as _;
    macro_rules! array {
        ($variant:ident, $type:ty, $value:ident => $element:expr) => {{
            let elements = binds.map(|bind| match bind {
                Bind::Null(_) => Ok(None),
                Bind::$variant($value) => Ok(Some($element)),
                _ => Err(mismatch()),
            });
            arguments.add(elements.collect::<Result<Vec<Option<$type>>, _>>()?)
        }};
    }
    let added = match kind {
        BindKind::Bool => array!(Bool, bool, value => *value),
        BindKind::Int => array!(Int, i64, value => *value),
        BindKind::Float => array!(Float, f64, value => *value),
        BindKind::Text => array!(Text, &str, value => value.as_str()),
        BindKind::Bytes => array!(Bytes, &[u8], value => value.as_slice()),
        BindKind::Uuid => array!(Uuid, Uuid, value => *value),
        BindKind::TextList | BindKind::IntList => return Err(mismatch()),
    };
    added.map_err(|_| too_long())
}

impl rusqlite::ToSql for Bind {
    fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
        use rusqlite::types::{ToSqlOutput, ValueRef};
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null(_) => ValueRef::Null,
            Self::Bool(value) => ValueRef::Integer(i64::from(*value)),
            Self::Int(value) => ValueRef::Integer(*value),
            Self::Float(value) => ValueRef::Real(*value),
            Self::Text(value) => ValueRef::Text(value.as_bytes()),
            Self::Bytes(value) => ValueRef::Blob(value),
            Self::Uuid(_) | Self::TextList(_) | Self::IntList(_) => {
                let error = Box::new(StorageError::new("SQLite has no such type"));
                return Err(rusqlite::Error::ToSqlConversionFailure(error));
            }
        }))
    }
}

/// One column value of a fetched row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Cell<'a> {
    /// NULL.
    Null,
    /// PostgreSQL's binary format.
    Pg(&'a [u8]),
    /// An SQLite integer.
    Int(i64),
    /// An SQLite float.
    Real(f64),
    /// SQLite text.
    Text(&'a str),
    /// An SQLite blob.
    Blob(&'a [u8]),
    /// A scalar inside the JSON of an include: what stands between the quotes, escapes and all, or a bare number or
    /// boolean.
    Token(&'a str),
    /// An array inside the JSON of an include: a nested include.
    Array(&'a str),
}

/// A fetched row.
pub trait Cells {
    /// The cell of a column.
    fn cell(&self, column: usize) -> Result<Cell<'_>, StorageError>;
}

impl Cells for sqlx::postgres::PgRow {
    fn cell(&self, column: usize) -> Result<Cell<'_>, StorageError> {
        let raw = self.try_get_raw(column).map_err(|_| no_column(column))?;
        if raw.is_null() {
            return Ok(Cell::Null);
        }
        match raw.format() {
            sqlx::postgres::PgValueFormat::Binary => raw.as_bytes().map(Cell::Pg).map_err(|_| no_column(column)),
            sqlx::postgres::PgValueFormat::Text => Err(StorageError::new("the database answered in text format")),
        }
    }
}

impl Cells for rusqlite::Row<'_> {
    fn cell(&self, column: usize) -> Result<Cell<'_>, StorageError> {
        use rusqlite::types::ValueRef;
        Ok(match self.get_ref(column).map_err(|_| no_column(column))? {
            ValueRef::Null => Cell::Null,
            ValueRef::Integer(value) => Cell::Int(value),
            ValueRef::Real(value) => Cell::Real(value),
            ValueRef::Text(text) => Cell::Text(utf8(text)?),
            ValueRef::Blob(octets) => Cell::Blob(octets),
        })
    }
}

impl Cells for [Cell<'_>] {
    fn cell(&self, column: usize) -> Result<Cell<'_>, StorageError> {
        self.get(column).copied().ok_or_else(|| no_column(column))
    }
}

fn no_column(column: usize) -> StorageError {
    StorageError::new(format!("the row has no column {column}"))
}

/// SQL for the text of a value, by what it takes to make JSON of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TextForm {
    /// JSON as it is, and no JSON string: a number or a boolean.
    Bare(String),
    /// A JSON string once quotes stand around it.
    Plain(String),
    /// A JSON string once it is escaped.
    Text(String),
    /// A JSON array.
    Json(String),
}

impl TextForm {
    /// The text, without quotes.
    pub(crate) fn text(self) -> String {
        match self {
            Self::Bare(sql) | Self::Plain(sql) | Self::Text(sql) | Self::Json(sql) => sql,
        }
    }

    /// The JSON text.
    pub(crate) fn json(self, dialect: Dialect) -> String {
        match self {
            Self::Bare(sql) | Self::Json(sql) => sql,
            Self::Plain(sql) => format!("'\"' || {sql} || '\"'"),
            Self::Text(sql) => match dialect {
                Dialect::Postgres => format!("to_json({sql})::text"),
                Dialect::Sqlite => format!("json_quote({sql})"),
            },
        }
    }
}

/// How one column is stored: everything that depends on its type.
#[derive(Debug, Clone, Copy)]
pub struct Codec<'s> {
    /// Names the values of enums.
    pub schema: &'s Schema,
    /// The database product.
    pub dialect: Dialect,
    /// The column's type.
    pub ty: SqlType,
}

/// How one value is stored, dialects apart: enums looked up, scalars of the same form together.
#[derive(Debug, Clone, Copy)]
enum Kind<'s> {
    Text,
    Enum(&'s [Variant]),
    Int,
    BigInt,
    Float,
    Boolean,
    /// On SQLite a scaled integer with that scale.
    Scaled(u32),
    /// Everywhere else; with the fraction digits to pad to.
    Decimal(Option<u32>),
    DateTime,
    Date,
    Uuid,
    Bytes,
    Json,
}

impl<'s> Codec<'s> {
    fn kind(self) -> Kind<'s> {
        match self.ty.ty {
            FieldType::Enum(id) => Kind::Enum(&self.schema.enumeration(id).variants),
            // Never columns.
            FieldType::Type(_) | FieldType::Model(_) => Kind::Json,
            FieldType::Scalar(scalar) => match scalar {
                Scalar::String | Scalar::Cuid => Kind::Text,
                Scalar::Int => Kind::Int,
                Scalar::BigInt => Kind::BigInt,
                Scalar::Float => Kind::Float,
                Scalar::Boolean => Kind::Boolean,
                Scalar::Decimal(Some(p)) if self.dialect == Dialect::Sqlite && p.precision <= SCALED_DIGITS => {
                    Kind::Scaled(p.scale)
                }
                Scalar::Decimal(precision) => Kind::Decimal(precision.map(|p| p.scale)),
                Scalar::DateTime => Kind::DateTime,
                Scalar::Date => Kind::Date,
                Scalar::Uuid => Kind::Uuid,
                Scalar::Bytes => Kind::Bytes,
                Scalar::Json => Kind::Json,
            },
        }
    }

    fn element(self) -> Self {
        Self { ty: SqlType { list: false, ..self.ty }, ..self }
    }

    /// The type in `CREATE TABLE`, collation included.
    pub fn column_type(self) -> String {
        match self.dialect {
            Dialect::Postgres => match self.ty.stored() {
                Scalar::String | Scalar::Cuid => format!("{} COLLATE \"C\"", self.ty.postgres()),
                _ => self.ty.postgres(),
            },
            Dialect::Sqlite => match self.ty.bind_kind(self.dialect) {
                BindKind::Bool | BindKind::Int => "INTEGER",
                BindKind::Float => "REAL",
                BindKind::Bytes => "BLOB",
                BindKind::Text | BindKind::Uuid | BindKind::TextList | BindKind::IntList => "TEXT",
            }
            .to_owned(),
        }
    }

    /// The condition that keeps a column to forms that can be answered; `column` is a quoted identifier. It guards
    /// against writers beside the engine, and holds for NULL.
    pub fn check(self, column: &str) -> Option<String> {
        if self.ty.list {
            return match self.dialect {
                Dialect::Sqlite => Some(format!("json_valid({column}) AND json_type({column}) = 'array'")),
                Dialect::Postgres => Some(format!("array_position({column}, NULL) IS NULL")),
            };
        }
        Some(match (self.dialect, self.kind()) {
            (_, Kind::Enum(variants)) => {
                let list: Vec<String> = variants.iter().map(|variant| literal(&variant.stored)).collect();
                format!("{column} IN ({})", list.join(", "))
            }
            (Dialect::Sqlite, Kind::Boolean) => format!("{column} IN (0, 1)"),
            (Dialect::Sqlite, Kind::Json) => format!("json_valid({column})"),
            (Dialect::Sqlite, Kind::Float) => format!("abs({column}) <= 1.7976931348623157e308"),
            (Dialect::Sqlite, Kind::DateTime) => format!("{column} GLOB '{DATE_GLOB}T{TIME_GLOB}'"),
            (Dialect::Sqlite, Kind::Date) => format!("{column} GLOB '{DATE_GLOB}'"),
            (Dialect::Sqlite, Kind::Uuid) => {
                format!("length({column}) = 36 AND {column} NOT GLOB '*[^0-9a-f-]*'")
            }
            (Dialect::Sqlite, Kind::Scaled(_)) => {
                let bound = "9".repeat(self.ty.precision().map_or(SCALED_DIGITS, |p| p.precision) as usize);
                format!("{column} BETWEEN -{bound} AND {bound}")
            }
            (Dialect::Sqlite, Kind::Decimal(_)) => format!("{column} GLOB '[nop]*'"),
            (Dialect::Postgres, Kind::Float | Kind::Decimal(None)) => {
                format!("{column} > '-Infinity' AND {column} < 'Infinity'")
            }
            (Dialect::Postgres, Kind::Decimal(Some(_))) => format!("{column} <> 'NaN'"),
            (Dialect::Postgres, Kind::DateTime) => {
                format!("{column} >= '0001-01-01 00:00:00+00' AND {column} < '10000-01-01 00:00:00+00'")
            }
            (Dialect::Postgres, Kind::Date) => format!("{column} >= '0001-01-01' AND {column} <= '9999-12-31'"),
            _ => return None,
        })
    }

    /// A canonical value in the form that its placeholder takes ([`SqlType::bind_kind`]).
    ///
    /// # Errors
    /// When the value is not of the column's type, or is a Decimal beyond its precision.
    pub fn bind(self, value: &Value) -> Result<Bind, StorageError> {
        match value {
            Value::Null => Ok(Bind::Null(self.ty.bind_kind(self.dialect))),
            Value::List(items) if self.ty.list => self.bind_list(items),
            _ if self.ty.list => Err(mismatch()),
            value => self.bind_one(value),
        }
    }

    fn bind_one(self, value: &Value) -> Result<Bind, StorageError> {
        match (self.kind(), value) {
            (Kind::Boolean, Value::Bool(value)) => Ok(match self.dialect {
                Dialect::Postgres => Bind::Bool(*value),
                Dialect::Sqlite => Bind::Int(i64::from(*value)),
            }),
            (Kind::Int | Kind::BigInt, Value::Int(value)) => Ok(Bind::Int(*value)),
            (Kind::Float, Value::Float(value)) => Ok(Bind::Float(*value)),
            (Kind::Bytes, Value::Bytes(value)) => Ok(Bind::Bytes(value.clone())),
            (Kind::Scaled(scale), Value::Text(text)) => scaled(text, scale).map(Bind::Int).ok_or_else(mismatch),
            (Kind::Decimal(_), Value::Text(text)) if self.dialect == Dialect::Sqlite => {
                sortable(text).map(Bind::Text).ok_or_else(mismatch)
            }
            (Kind::Uuid, Value::Text(text)) if self.dialect == Dialect::Postgres => {
                Uuid::try_parse(text).map(Bind::Uuid).map_err(|_| mismatch())
            }
            // PostgreSQL brings `jsonb` into this form itself.
            (Kind::Json, Value::Text(text)) if self.dialect == Dialect::Sqlite => {
                let json = json::parse(text.as_bytes(), json::MAX_DEPTH).map_err(|_| mismatch())?;
                Ok(Bind::Text(built(|out| json.write_canonical(out))))
            }
            (
                Kind::Decimal(_) | Kind::Text | Kind::Enum(_) | Kind::DateTime | Kind::Date | Kind::Uuid | Kind::Json,
                Value::Text(text),
            ) => Ok(Bind::Text(text.clone())),
            _ => Err(mismatch()),
        }
    }

    fn bind_list(self, items: &[Value]) -> Result<Bind, StorageError> {
        let binds = items.iter().map(|item| self.element().bind_one(item));
        match self.ty.bind_kind(self.dialect) {
            BindKind::IntList => {
                let ints = binds.map(|bind| if let Bind::Int(value) = bind? { Ok(value) } else { Err(mismatch()) });
                ints.collect::<Result<_, _>>().map(Bind::IntList)
            }
            BindKind::TextList => {
                let texts = binds.map(|bind| {
                    Ok(match bind? {
                        Bind::Text(text) => text,
                        Bind::Float(value) => built(|out| push_float(out, value)),
                        Bind::Bool(value) => value.to_string(),
                        Bind::Bytes(octets) => built(|out| push_hex(out, "\\x", &octets)),
                        Bind::Uuid(value) => value.to_string(),
                        _ => return Err(mismatch()),
                    })
                });
                texts.collect::<Result<_, _>>().map(Bind::TextList)
            }
            _ => {
                let mut out = String::from("[");
                for (at, bind) in binds.enumerate() {
                    if at > 0 {
                        out.push(',');
                    }
                    match bind? {
                        Bind::Int(value) => push_int(&mut out, value),
                        Bind::Float(value) => push_float(&mut out, value),
                        Bind::Text(text) => push_json_string(&mut out, &text),
                        Bind::Bytes(octets) => push_json_string(&mut out, &built(|out| push_hex(out, "", &octets))),
                        _ => return Err(mismatch()),
                    }
                }
                out.push(']');
                Ok(Bind::Text(out))
            }
        }
    }

    /// The expression of a column as an element of an include's `json_build_array(..)` / `json_array(..)`. Independent
    /// of session settings, and exact.
    pub fn select_element(self, column: &str) -> String {
        if self.ty.list {
            return match self.dialect {
                Dialect::Postgres => format!("to_json({column})::text"),
                Dialect::Sqlite => column.to_owned(),
            };
        }
        match (self.dialect, self.kind()) {
            (Dialect::Postgres, Kind::DateTime) => {
                format!("to_char({column} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')")
            }
            (Dialect::Postgres, Kind::Bytes) => format!("encode({column}, 'hex')"),
            (Dialect::Postgres, Kind::Json | Kind::Decimal(_)) => format!("{column}::text"),
            // `hex(NULL)` is the empty text.
            (Dialect::Sqlite, Kind::Bytes) => format!("iif({column} IS NULL, NULL, hex({column}))"),
            // SQLite's own text of a float is inexact for very large and very small ones.
            (Dialect::Sqlite, Kind::Float) => format!("cratestack_float({column})"),
            _ => column.to_owned(),
        }
    }

    /// The text of a column that is not null, in SQL that needs no function of ours: tools beside the engine write
    /// rows too. Independent of session settings but for PostgreSQL's `extra_float_digits`, which must be 1.
    pub(crate) fn text_form(self, column: &str) -> TextForm {
        if self.ty.list {
            return TextForm::Json(match self.dialect {
                Dialect::Postgres => format!("to_json({column})::text"),
                Dialect::Sqlite => format!("json({column})"),
            });
        }
        match (self.dialect, self.kind()) {
            (_, Kind::Text) | (Dialect::Sqlite, Kind::Json) => TextForm::Text(column.to_owned()),
            (_, Kind::Enum(variants)) => {
                let moved = variants.iter().filter(|variant| variant.name != variant.stored);
                let cases: Vec<String> = moved
                    .map(|variant| format!("WHEN {} THEN {} ", literal(&variant.stored), literal(&variant.name)))
                    .collect();
                // An unknown stored value is shown as it is stored.
                TextForm::Text(if cases.is_empty() {
                    column.to_owned()
                } else {
                    format!("CASE {column} {}ELSE {column} END", cases.concat())
                })
            }
            (Dialect::Postgres, Kind::Json) => TextForm::Text(format!("{column}::text")),
            (Dialect::Postgres, Kind::Int | Kind::Boolean) => TextForm::Bare(format!("{column}::text")),
            (Dialect::Sqlite, Kind::Int) => TextForm::Bare(column.to_owned()),
            (Dialect::Sqlite, Kind::Boolean) => TextForm::Bare(format!("iif({column}, 'true', 'false')")),
            (Dialect::Postgres, Kind::Decimal(None)) => TextForm::Plain(format!("trim_scale({column})::text")),
            (Dialect::Postgres, Kind::DateTime) => TextForm::Plain(self.select_element(column)),
            (Dialect::Postgres, Kind::Date) => TextForm::Plain(format!("to_char({column}, 'YYYY-MM-DD')")),
            (Dialect::Postgres, Kind::Bytes) => TextForm::Plain(format!("encode({column}, 'hex')")),
            (Dialect::Postgres, _) => TextForm::Plain(format!("{column}::text")),
            (Dialect::Sqlite, Kind::Bytes) => TextForm::Plain(format!("lower(hex({column}))")),
            (Dialect::Sqlite, Kind::Float) => TextForm::Plain(sqlite_float(column)),
            (Dialect::Sqlite, Kind::Scaled(scale)) => TextForm::Plain(sqlite_scaled(column, scale)),
            (Dialect::Sqlite, Kind::Decimal(scale)) => TextForm::Plain(sqlite_unsorted(column, scale)),
            (Dialect::Sqlite, Kind::BigInt | Kind::DateTime | Kind::Date | Kind::Uuid) => {
                TextForm::Plain(column.to_owned())
            }
        }
    }

    /// PostgreSQL: the text of a column that is not null as [`Self::render`] writes it. `None` where SQL cannot write it to the
    /// octet: floats and documents.
    pub(crate) fn answer_form(self, column: &str) -> Option<TextForm> {
        if self.ty.list {
            let element = self.element().answer_form("u.v")?.json(Dialect::Postgres);
            return Some(TextForm::Json(format!(
                "'[' || coalesce((SELECT string_agg({element}, ',' ORDER BY u.n) \
                 FROM unnest({column}) WITH ORDINALITY AS u(v, n)), '') || ']'"
            )));
        }
        match self.kind() {
            Kind::Float | Kind::Json => None,
            // Lines of 76 characters, which JSON has none of.
            Kind::Bytes => Some(TextForm::Plain(format!("translate(encode({column}, 'base64'), chr(10), '')"))),
            _ => Some(self.text_form(column)),
        }
    }

    /// The stored form of a field that an entry of the audit trail has in `side`, and the condition that the entry has
    /// it in a form from which that can be made. Null where it is null, or is not.
    pub(crate) fn recorded(self, entry: &str, side: &str, field: &str) -> (String, String) {
        let (value, kind) = match self.dialect {
            Dialect::Postgres => {
                let object = format!("({entry}::json->'{side}')");
                (format!("({object}->>'{field}')"), format!("json_typeof({object}->'{field}')"))
            }
            Dialect::Sqlite => {
                let path = format!("'$.{side}.{field}'");
                (format!("({entry} ->> {path})"), format!("json_type({entry}, {path})"))
            }
        };
        let postgres = self.dialect == Dialect::Postgres;
        let wanted = match (self.kind(), postgres) {
            (Kind::Int, true) => "'number'",
            (Kind::Int, false) => "'integer'",
            (Kind::Boolean, true) => "'boolean'",
            (Kind::Boolean, false) => "'true', 'false'",
            (_, true) => "'string'",
            (_, false) => "'text'",
        };
        let sound = format!("{kind} IN ({wanted}, 'null')");
        match self.of_text(&value) {
            (cast, Some(form)) => (cast, format!("({sound} AND ({value} IS NULL OR {value} ~ {}))", literal(form))),
            (cast, None) => (cast, sound),
        }
    }

    /// The stored form of what [`TextForm::text`] gives, an expression that is text or null, and the form that the text
    /// must have on PostgreSQL: null where it has not.
    pub(crate) fn of_text(self, text: &str) -> (String, Option<&'static str>) {
        let postgres = self.dialect == Dialect::Postgres;
        let (cast, form) = match self.kind() {
            Kind::Enum(variants) => {
                let moved = variants.iter().filter(|variant| variant.name != variant.stored);
                let cases: Vec<String> = moved
                    .map(|variant| format!("WHEN {} THEN {} ", literal(&variant.name), literal(&variant.stored)))
                    .collect();
                let mapped = format!("CASE {text} {}ELSE {text} END", cases.concat());
                (if cases.is_empty() { text.to_owned() } else { mapped }, None)
            }
            Kind::Int | Kind::BigInt if postgres => (format!("{text}::bigint"), Some("^-?[0-9]{1,19}$")),
            Kind::Int | Kind::BigInt => (format!("CAST({text} AS INTEGER)"), None),
            Kind::Float if postgres => {
                (format!("{text}::double precision"), Some(r"^-?[0-9]{1,17}(\.[0-9]{1,20})?(e[+-][0-3]?[0-9]{1,2})?$"))
            }
            Kind::Float => (format!("CAST({text} AS REAL)"), None),
            Kind::Boolean if postgres => (format!("{text}::boolean"), Some("^(true|false)$")),
            Kind::Scaled(scale) => (format!("cratestack_scaled({text}, {scale})"), None),
            Kind::Decimal(_) if postgres => (format!("{text}::numeric"), Some(r"^-?[0-9]+(\.[0-9]+)?$")),
            Kind::Decimal(_) => (format!("cratestack_sortable({text})"), None),
            Kind::DateTime if postgres => {
                (format!("{text}::timestamptz"), Some(r"^[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-9:.]{15}Z$"))
            }
            Kind::Date if postgres => (format!("{text}::date"), Some("^[0-9]{4}-[01][0-9]-[0-3][0-9]$")),
            Kind::Uuid if postgres => {
                (format!("{text}::uuid"), Some("^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"))
            }
            Kind::Text | Kind::Json | Kind::Boolean | Kind::DateTime | Kind::Date | Kind::Uuid => {
                (text.to_owned(), None)
            }
            Kind::Bytes if postgres => (format!("decode({text}, 'hex')"), Some("^([0-9a-f]{2})*$")),
            Kind::Bytes => (format!("unhex({text})"), None),
        };
        // Conditions are not always tried in the order in which they are written: a cast must guard itself.
        let guarded = |form: &str| format!("CASE WHEN {text} ~ {} THEN {cast} END", literal(form));
        (form.map_or_else(|| cast.clone(), guarded), form)
    }

    /// A cell as a canonical value.
    ///
    /// # Errors
    /// When the cell does not have the column's form.
    pub fn decode(self, cell: Cell<'_>) -> Result<Value, StorageError> {
        if cell == Cell::Null {
            return Ok(Value::Null);
        }
        if self.ty.list {
            return self.decode_list(cell);
        }
        Ok(match self.kind() {
            Kind::Boolean => Value::Bool(boolean(cell)?),
            Kind::Int | Kind::BigInt => Value::Int(integer(cell)?),
            Kind::Float => Value::Float(float(cell)?),
            Kind::Bytes => Value::Bytes(octets(cell)?.into_owned()),
            Kind::Text | Kind::Enum(_) => Value::Text(text(cell)?.into_owned()),
            Kind::Scaled(_) | Kind::Decimal(_) => Value::Text(written(|out| self.write_decimal(cell, None, out))?),
            Kind::DateTime => Value::Text(written(|out| write_date_time(cell, out))?),
            Kind::Date => Value::Text(written(|out| write_date(cell, out))?),
            Kind::Uuid => Value::Text(written(|out| write_uuid(cell, out))?),
            Kind::Json => Value::Text(written(|out| write_json(cell, out))?),
        })
    }

    fn decode_list(self, cell: Cell<'_>) -> Result<Value, StorageError> {
        let element = self.element();
        if let Cell::Pg(array) = cell {
            let items = array_elements(array)?.into_iter().map(|item| element.decode(Cell::Pg(item)));
            return items.collect::<Result<_, _>>().map(Value::List);
        }
        let json = text(cell)?;
        let mut scan = Scan::open(&json)?;
        let mut items = Vec::new();
        while let Some(item) = scan.next_cell()? {
            items.push(element.decode(item)?);
        }
        Ok(Value::List(items))
    }

    /// Writes a cell as JSON.
    ///
    /// # Errors
    /// When the cell does not have the column's form; `out` may then hold a part of it.
    pub fn render(self, cell: Cell<'_>, out: &mut String) -> Result<(), StorageError> {
        if cell == Cell::Null {
            out.push_str("null");
            return Ok(());
        }
        if self.ty.list {
            return self.render_list(cell, out);
        }
        match self.kind() {
            Kind::Text => push_text_cell(out, cell),
            Kind::Enum(variants) => render_enum(variants, cell, out),
            Kind::Int => {
                push_int(out, integer(cell)?);
                Ok(())
            }
            Kind::Boolean => {
                out.push_str(if boolean(cell)? { "true" } else { "false" });
                Ok(())
            }
            Kind::Float => {
                push_float(out, float(cell)?);
                Ok(())
            }
            Kind::Json => write_json(cell, out),
            Kind::BigInt => quoted(out, |out| {
                push_int(out, integer(cell)?);
                Ok(())
            }),
            Kind::Scaled(scale) => quoted(out, |out| self.write_decimal(cell, Some(scale), out)),
            Kind::Decimal(scale) => quoted(out, |out| self.write_decimal(cell, scale, out)),
            Kind::DateTime => quoted(out, |out| write_date_time(cell, out)),
            Kind::Date => quoted(out, |out| write_date(cell, out)),
            Kind::Uuid => quoted(out, |out| write_uuid(cell, out)),
            Kind::Bytes => quoted(out, |out| {
                BASE64.encode_string(octets(cell)?, out);
                Ok(())
            }),
        }
    }

    fn render_list(self, cell: Cell<'_>, out: &mut String) -> Result<(), StorageError> {
        let element = self.element();
        out.push('[');
        if let Cell::Pg(array) = cell {
            for (at, item) in array_elements(array)?.into_iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                element.render(Cell::Pg(item), out)?;
            }
        } else {
            let json = text(cell)?;
            let mut scan = Scan::open(&json)?;
            let mut first = true;
            while let Some(item) = scan.next_cell()? {
                if !std::mem::take(&mut first) {
                    out.push(',');
                }
                element.render(item, out)?;
            }
        }
        out.push(']');
        Ok(())
    }

    /// Plain notation with exactly `pad` fraction digits, or without trailing zeros.
    fn write_decimal(self, cell: Cell<'_>, pad: Option<u32>, out: &mut String) -> Result<(), StorageError> {
        let start = out.len();
        match (self.dialect, self.kind()) {
            (_, Kind::Scaled(scale)) => push_scaled(out, integer(cell)?, scale),
            (Dialect::Sqlite, _) => push_unsorted(out, &text(cell)?)?,
            (Dialect::Postgres, _) => match cell {
                Cell::Pg(octets) => push_numeric(out, octets)?,
                cell => {
                    let plain = text(cell)?;
                    if !plain.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-' || byte == b'.') {
                        return Err(not_finite());
                    }
                    out.push_str(&plain);
                }
            },
        }
        let fraction = |out: &str| out.bytes().skip(start).rev().position(|byte| byte == b'.');
        let shown = fraction(out);
        if shown == pad.map(|scale| scale as usize).filter(|scale| *scale > 0) {
            return Ok(());
        }
        if shown.is_some() {
            let kept = out.trim_end_matches('0').trim_end_matches('.').len();
            out.truncate(kept);
        }
        if let Some(scale) = pad.filter(|scale| *scale > 0) {
            let shown = fraction(out);
            if shown.is_none() {
                out.push('.');
            }
            out.extend(std::iter::repeat_n('0', (scale as usize).saturating_sub(shown.unwrap_or(0))));
        }
        Ok(())
    }
}

const DATE_GLOB: &str = "[0-9][0-9][0-9][0-9]-[0-1][0-9]-[0-3][0-9]";
const TIME_GLOB: &str = "[0-2][0-9]:[0-5][0-9]:[0-5][0-9].[0-9][0-9][0-9][0-9][0-9][0-9]Z";

/// A text that is selected even where it is none: SQLite takes any octets from SQL for text. What is not UTF-8 is read as
/// replacement characters.
pub(crate) fn lossy(dialect: Dialect, text: &str) -> String {
    match dialect {
        Dialect::Postgres => text.to_owned(),
        Dialect::Sqlite => format!("CAST({text} AS BLOB)"),
    }
}

/// A string literal, for DDL alone: statements bind their values.
pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn mismatch() -> StorageError {
    StorageError::new("a value does not have the form of its column")
}

fn not_finite() -> StorageError {
    StorageError::new("a decimal of the database is not finite")
}

fn utf8(octets: &[u8]) -> Result<&str, StorageError> {
    std::str::from_utf8(octets).map_err(|_| StorageError::new("text of the database is not UTF-8"))
}

fn built(write: impl FnOnce(&mut String)) -> String {
    let mut out = String::new();
    write(&mut out);
    out
}

fn written(write: impl FnOnce(&mut String) -> Result<(), StorageError>) -> Result<String, StorageError> {
    let mut out = String::new();
    write(&mut out)?;
    Ok(out)
}

fn quoted(out: &mut String, write: impl FnOnce(&mut String) -> Result<(), StorageError>) -> Result<(), StorageError> {
    out.push('"');
    write(out)?;
    out.push('"');
    Ok(())
}

// Cells to plain values.

fn fixed<const N: usize>(octets: &[u8]) -> Result<[u8; N], StorageError> {
    octets.try_into().map_err(|_| mismatch())
}

fn integer(cell: Cell<'_>) -> Result<i64, StorageError> {
    match cell {
        Cell::Int(value) => Ok(value),
        Cell::Pg(octets) => match octets.len() {
            4 => Ok(i64::from(i32::from_be_bytes(fixed(octets)?))),
            _ => Ok(i64::from_be_bytes(fixed(octets)?)),
        },
        Cell::Token(text) | Cell::Text(text) => text.parse().map_err(|_| mismatch()),
        _ => Err(mismatch()),
    }
}

fn float(cell: Cell<'_>) -> Result<f64, StorageError> {
    let value = match cell {
        Cell::Real(value) => value,
        Cell::Pg(octets) => f64::from_be_bytes(fixed(octets)?),
        Cell::Token(text) => text.parse().map_err(|_| mismatch())?,
        _ => return Err(mismatch()),
    };
    if value.is_finite() {
        // Adding zero turns -0 into 0, the canonical form.
        Ok(value + 0.0)
    } else {
        Err(StorageError::new("a float of the database is not finite"))
    }
}

fn boolean(cell: Cell<'_>) -> Result<bool, StorageError> {
    match cell {
        Cell::Int(0) | Cell::Pg([0]) | Cell::Token("0" | "false") => Ok(false),
        Cell::Int(1) | Cell::Pg([1]) | Cell::Token("1" | "true") => Ok(true),
        _ => Err(mismatch()),
    }
}

fn text(cell: Cell<'_>) -> Result<Cow<'_, str>, StorageError> {
    match cell {
        Cell::Text(text) | Cell::Array(text) => Ok(Cow::Borrowed(text)),
        Cell::Pg(octets) => utf8(octets).map(Cow::Borrowed),
        Cell::Token(token) => unescape(token),
        // What `lossy` asks for; no column of text holds any itself.
        Cell::Blob(octets) => Ok(String::from_utf8_lossy(octets)),
        _ => Err(mismatch()),
    }
}

fn octets(cell: Cell<'_>) -> Result<Cow<'_, [u8]>, StorageError> {
    match cell {
        Cell::Pg(octets) | Cell::Blob(octets) => Ok(Cow::Borrowed(octets)),
        Cell::Token(hex) => {
            let digits = hex.as_bytes().chunks(2).map(|pair| {
                std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok()).ok_or_else(mismatch)
            });
            digits.collect::<Result<_, _>>().map(Cow::Owned)
        }
        _ => Err(mismatch()),
    }
}

/// The elements of a one-dimensional array in PostgreSQL's binary format: dimensions, a null flag and the element
/// type, then length and lower bound, then each element with its length.
fn array_elements(octets: &[u8]) -> Result<Vec<&[u8]>, StorageError> {
    fn word(octets: &mut &[u8]) -> Result<usize, StorageError> {
        let (word, rest) = octets.split_first_chunk::<4>().ok_or_else(mismatch)?;
        *octets = rest;
        usize::try_from(i32::from_be_bytes(*word)).map_err(|_| StorageError::new("a list of the database holds null"))
    }
    let mut rest = octets;
    let dimensions = word(&mut rest)?;
    let (_flag, _element_type) = (word(&mut rest)?, word(&mut rest)?);
    if dimensions == 0 {
        return Ok(Vec::new());
    }
    let (length, _lower) = (word(&mut rest)?, word(&mut rest)?);
    if dimensions != 1 || length > octets.len() {
        return Err(mismatch());
    }
    let mut items = Vec::with_capacity(length);
    for _ in 0..length {
        let size = word(&mut rest)?;
        let (item, after) = rest.split_at_checked(size).ok_or_else(mismatch)?;
        items.push(item);
        rest = after;
    }
    Ok(items)
}

// Plain values to text.

fn push_text_cell(out: &mut String, cell: Cell<'_>) -> Result<(), StorageError> {
    match cell {
        // The databases escape as we do, so that a token is already our JSON.
        Cell::Token(token) => {
            out.push('"');
            out.push_str(token);
            out.push('"');
        }
        cell => push_json_string(out, &text(cell)?),
    }
    Ok(())
}

fn render_enum(variants: &[Variant], cell: Cell<'_>, out: &mut String) -> Result<(), StorageError> {
    let stored = text(cell)?;
    let name = variants.iter().find(|variant| variant.stored == stored).map_or(&*stored, |variant| &variant.name);
    push_json_string(out, name);
    Ok(())
}

/// Appends ASCII that was put together in an array.
fn push_ascii(out: &mut String, ascii: &[u8]) {
    out.push_str(std::str::from_utf8(ascii).unwrap_or_default());
}

/// Appends an integer.
pub fn push_int(out: &mut String, value: i64) {
    out.push_str(itoa::Buffer::new().format(value));
}

/// Appends a finite float in the shortest form that reads back as the same float.
pub fn push_float(out: &mut String, value: f64) {
    struct Sink<'a>(&'a mut String);
    impl std::io::Write for Sink<'_> {
        fn write(&mut self, octets: &[u8]) -> std::io::Result<usize> {
            self.0.push_str(std::str::from_utf8(octets).map_err(std::io::Error::other)?);
            Ok(octets.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    // A String takes every write, so that there is no error to see.
    let _ = serde_json::to_writer(Sink(out), &value);
}

/// How a byte stands in a JSON string: 0 as it is, else the letter after the backslash (`u` for `\u00xx`).
const fn escape(byte: u8) -> u8 {
    match byte {
        0x08 => b'b',
        b'\t' => b't',
        b'\n' => b'n',
        0x0C => b'f',
        b'\r' => b'r',
        b'"' | b'\\' => byte,
        0..0x20 => b'u',
        _ => 0,
    }
}

/// Whether nothing of the text needs an escape. Eight bytes are tested as one word.
fn is_plain(text: &str) -> bool {
    const ONES: u64 = u64::MAX / 0xFF;
    const HIGH: u64 = ONES << 7;
    // A byte below `bound` borrows into its high bit; a byte that had the high bit set is part of a longer character.
    let below = |word: u64, bound: u64| word.wrapping_sub(ONES * bound) & !word & HIGH;
    let equals = |word: u64, byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
    let (words, rest) = text.as_bytes().as_chunks::<8>();
    let special = words
        .iter()
        .map(|word| u64::from_le_bytes(*word))
        .fold(0, |found, word| found | below(word, 0x20) | equals(word, b'"') | equals(word, b'\\'));
    special == 0 && rest.iter().all(|byte| escape(*byte) == 0)
}

/// Appends a JSON string, quotes included; escapes exactly what RFC 8259 demands, as both databases do.
pub fn push_json_string(out: &mut String, text: &str) {
    out.reserve(text.len() + 2);
    out.push('"');
    let mut rest = text;
    if is_plain(text) {
        out.push_str(std::mem::take(&mut rest));
    }
    while let Some((at, byte)) = rest.bytes().enumerate().find(|(_, byte)| escape(*byte) != 0) {
        let (plain, after) = rest.split_at(at);
        out.push_str(plain);
        out.push('\\');
        out.push(char::from(escape(byte)));
        if escape(byte) == b'u' {
            // A String takes every write, so that there is no error to see.
            let _ = write!(out, "{byte:04x}");
        }
        rest = after.get(1..).unwrap_or_default();
    }
    out.push_str(rest);
    out.push('"');
}

fn push_hex(out: &mut String, prefix: &str, octets: &[u8]) {
    out.push_str(prefix);
    for nibble in octets.iter().flat_map(|octet| [octet >> 4, octet & 15]) {
        out.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
    }
}

/// Appends a number with leading zeros to that width.
fn push_padded(out: &mut String, value: u64, width: u32) {
    let mut buffer = itoa::Buffer::new();
    let digits = buffer.format(value);
    let zeros = (width as usize).saturating_sub(digits.len());
    out.push_str("00000000000000000000".get(..zeros).unwrap_or_default());
    out.push_str(digits);
}

const DAY_MICROS: i64 = 86_400_000_000;
/// Days from 1970-01-01 to PostgreSQL's epoch, 2000-01-01.
const PG_EPOCH_DAYS: i64 = 10_957;

/// The canonical text of an instant: days since 1970-01-01 and microseconds of that day.
fn instant(days: i64, micros: i64) -> Result<[u8; 27], StorageError> {
    instant::canonical(days, micros)
        .ok_or_else(|| StorageError::new("a date of the database is outside the years 0001 to 9999"))
}

fn write_date(cell: Cell<'_>, out: &mut String) -> Result<(), StorageError> {
    let Cell::Pg(octets) = cell else {
        return push_plain(out, &text(cell)?);
    };
    let text = instant(i64::from(i32::from_be_bytes(fixed(octets)?)) + PG_EPOCH_DAYS, 0)?;
    push_ascii(out, text.get(..10).unwrap_or_default());
    Ok(())
}

fn write_date_time(cell: Cell<'_>, out: &mut String) -> Result<(), StorageError> {
    let Cell::Pg(octets) = cell else {
        return push_plain(out, &text(cell)?);
    };
    let micros = i64::from_be_bytes(fixed(octets)?);
    let text = instant(micros.div_euclid(DAY_MICROS) + PG_EPOCH_DAYS, micros.rem_euclid(DAY_MICROS))?;
    push_ascii(out, &text);
    Ok(())
}

fn write_uuid(cell: Cell<'_>, out: &mut String) -> Result<(), StorageError> {
    let Cell::Pg(octets) = cell else {
        return push_plain(out, &text(cell)?);
    };
    let uuid = Uuid::from_bytes(fixed(octets)?);
    out.push_str(uuid.hyphenated().encode_lower(&mut Uuid::encode_buffer()));
    Ok(())
}

/// Text that stands between JSON quotes as it is.
fn push_plain(out: &mut String, text: &str) -> Result<(), StorageError> {
    if !is_plain(text) {
        return Err(mismatch());
    }
    out.push_str(text);
    Ok(())
}

/// JSON text without white space between tokens: PostgreSQL writes some. Its binary format has a version before the
/// text.
fn write_json(cell: Cell<'_>, out: &mut String) -> Result<(), StorageError> {
    let json = match cell {
        Cell::Pg([1, json @ ..]) => utf8(json)?.into(),
        Cell::Pg(_) => return Err(mismatch()),
        cell => text(cell)?,
    };
    // (inside a string, after a backslash)
    let (mut string, mut escape) = (false, false);
    let mut rest: &str = &json;
    let mut from = 0;
    let bytes = json.as_bytes();
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'"' if !escape => string = !string,
            b' ' | b'\n' | b'\r' | b'\t' if !string => {
                let (before, after) = rest.split_at(at - from);
                out.push_str(before);
                rest = after.get(1..).unwrap_or_default();
                from = at + 1;
            }
            _ => {}
        }
        escape = *byte == b'\\' && !escape;
    }
    out.push_str(rest);
    Ok(())
}

// Decimals.

/// Appends a `numeric` of PostgreSQL's binary format with the fraction digits that it came with: counts of digits, the
/// weight of the first, sign and fraction digits to show, then digits of base 10 000.
fn push_numeric(out: &mut String, octets: &[u8]) -> Result<(), StorageError> {
    const NEGATIVE: u16 = 0x4000;
    let (words, []) = octets.as_chunks::<2>() else { return Err(mismatch()) };
    let (head, digits) = words.split_first_chunk::<4>().ok_or_else(mismatch)?;
    let [count, weight, sign, scale] = head.map(u16::from_be_bytes);
    let (weight, scale) = (weight.cast_signed(), usize::from(scale));
    if sign != 0 && sign != NEGATIVE {
        return Err(not_finite());
    }
    if digits.len() != usize::from(count) {
        return Err(mismatch());
    }
    // The digit that stands for 10000^power; none stands for zero.
    let digit = |power: i32| {
        let at = usize::try_from(i32::from(weight) - power).ok();
        u64::from(at.and_then(|at| digits.get(at)).map_or(0, |digit| u16::from_be_bytes(*digit)))
    };
    if sign == NEGATIVE {
        out.push('-');
    }
    let first = i32::from(weight).max(0);
    out.push_str(itoa::Buffer::new().format(digit(first)));
    (0..first).rev().for_each(|power| push_padded(out, digit(power), 4));
    if scale > 0 {
        out.push('.');
        let end = out.len() + scale;
        (1..).map(|power| digit(-power)).take(scale.div_ceil(4)).for_each(|digit| push_padded(out, digit, 4));
        out.truncate(end);
    }
    Ok(())
}

/// A canonical Decimal times 10^scale, for a column that is stored so; `None` when it has more fraction digits or does
/// not fit.
pub fn scaled(decimal: &str, scale: u32) -> Option<i64> {
    decimal.parse::<Decimal>().ok()?.to_scaled(scale)
}

/// Appends `value / 10^scale`, with `scale` fraction digits.
fn push_scaled(out: &mut String, value: i64, scale: u32) {
    let Some(unit) = 10_u64.checked_pow(scale) else { return };
    let magnitude = value.unsigned_abs();
    if value < 0 {
        out.push('-');
    }
    out.push_str(itoa::Buffer::new().format(magnitude / unit));
    if scale > 0 {
        out.push('.');
        push_padded(out, magnitude % unit, scale);
    }
}

/// Half of the range of exponents that [`sortable`] can write; a Decimal has at most 1000 digits on each side.
const EXPONENT_BIAS: i64 = 5_000;
const EXPONENT_DIGITS: u32 = 4;

/// A canonical Decimal as text whose byte order is the numbers' order.
///
/// A number that is not zero is `±0.d1d2..dn × 10^e` with `d1` and `dn` not zero. It is written as
///
/// - `o` for zero;
/// - `p`, four digits of `e + 5000`, `d1d2..dn` for a positive number: a larger exponent wins, then the digits decide,
///   and a prefix is the smaller number;
/// - `n`, four digits of `4999 - e`, the digits subtracted from nine, `~` for a negative number: everything turned
///   round, and the `~`, larger than any digit, makes a prefix the larger number.
///
/// `n < o < p`. The form is unique, so that equality of text is equality of numbers. `None` when the text is not a
/// canonical Decimal or the exponent is beyond ±4999.
pub fn sortable(decimal: &str) -> Option<String> {
    let (negative, magnitude) = match decimal.strip_prefix('-') {
        Some(magnitude) => (true, magnitude),
        None => (false, decimal),
    };
    let (whole, fraction) = magnitude.split_once('.').unwrap_or((magnitude, ""));
    let all = [whole, fraction].concat();
    if all.is_empty() || !all.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let significant = all.trim_start_matches('0');
    if significant.is_empty() {
        return Some("o".to_owned());
    }
    let leading = all.len() - significant.len();
    let exponent = i64::try_from(whole.len()).ok()? - i64::try_from(leading).ok()?;
    if exponent.abs() >= EXPONENT_BIAS {
        return None;
    }
    let digits = significant.trim_end_matches('0');
    let mut out = String::with_capacity(digits.len() + 8);
    if negative {
        out.push('n');
        push_padded(&mut out, (EXPONENT_BIAS - 1 - exponent).unsigned_abs(), EXPONENT_DIGITS);
        out.extend(digits.bytes().map(complement));
        out.push('~');
    } else {
        out.push('p');
        push_padded(&mut out, (EXPONENT_BIAS + exponent).unsigned_abs(), EXPONENT_DIGITS);
        out.push_str(digits);
    }
    Some(out)
}

fn complement(digit: u8) -> char {
    char::from(b'0' + b'9'.saturating_sub(digit))
}

/// The shortest text that SQLite makes of a float without loss. Beyond 15 digits it is not always PostgreSQL's.
fn sqlite_float(column: &str) -> String {
    format!(
        "CASE WHEN CAST(printf('%.15g', {column}) AS REAL) = {column} THEN printf('%.15g', {column}) \
         ELSE printf('%!.17g', {column}) END"
    )
}

/// The decimal text of a scaled integer.
fn sqlite_scaled(column: &str, scale: u32) -> String {
    if scale == 0 {
        return format!("CAST({column} AS TEXT)");
    }
    let unit = format!("1{}", "0".repeat(scale as usize));
    format!("printf('%s%d.%0{scale}d', iif({column} < 0, '-', ''), abs({column}) / {unit}, abs({column}) % {unit})")
}

/// The decimal text of what [`sortable`] wrote, with `scale` digits after the point, or as many as there are.
fn sqlite_unsorted(column: &str, scale: Option<u32>) -> String {
    // In steps beside each other: nested calls, in a trigger, are more than the parser of a SQLite with its default
    // settings takes, and then no table of the file can be read.
    let mut steps = vec![format!(
        "p (sign, digits, e) AS (SELECT iif({column} < 'o', '-', ''), rtrim(substr({column}, 6), '~'), \
         CASE WHEN {column} < 'o' THEN 4999 - substr({column}, 2, 4) WHEN {column} = 'o' THEN 0 \
         ELSE substr({column}, 2, 4) - 5000 END)"
    )];
    // Nine minus each digit, by way of letters.
    let turns = ["0a", "1b", "2c", "3d", "4e", "54", "63", "72", "81", "90", "a9", "b8", "c7", "d6", "e5"];
    for (at, few) in turns.chunks(3).enumerate() {
        let replaced = few.iter().fold("t".to_owned(), |text, turn| {
            let (from, to) = turn.split_at(1);
            format!("replace({text}, '{from}', '{to}')")
        });
        let source = if at == 0 { "(SELECT digits AS t FROM p)".to_owned() } else { format!("t{}", at - 1) };
        steps.push(format!("t{at} (t) AS (SELECT {replaced} FROM {source})"));
    }
    steps.push("n (sign, digits, e) AS (SELECT sign, iif(sign = '-', t, digits), e FROM p, t4)".to_owned());
    let zeros = |count: &str| format!("replace(hex(zeroblob(max({count}, 0))), '00', '0')");
    steps.push(format!(
        "d (text, size, e) AS (SELECT sign || CASE WHEN digits = '' THEN '0' WHEN e <= 0 THEN '0.' || {leading} || digits \
         WHEN e >= length(digits) THEN digits || {trailing} ELSE substr(digits, 1, e) || '.' || substr(digits, e + 1) END, \
         length(digits), e FROM n)",
        leading = zeros("-e"),
        trailing = zeros("e - length(digits)"),
    ));
    let padding = scale.map_or_else(String::new, |scale| {
        let point = if scale > 0 { "'.'" } else { "''" };
        format!(" || iif(size > e, '', {point}) || {}", zeros(&format!("{scale} - max(size - e, 0)")))
    });
    format!("(WITH {} SELECT text{padding} FROM d)", steps.join(", "))
}

/// The canonical Decimal that [`sortable`] wrote.
pub fn unsortable(sorted: &str) -> Option<String> {
    let mut out = String::new();
    push_unsorted(&mut out, sorted).ok()?;
    Some(out)
}

fn push_unsorted(out: &mut String, sorted: &str) -> Result<(), StorageError> {
    let bad = || StorageError::new("a decimal of the database does not have its stored form");
    if sorted == "o" {
        out.push('0');
        return Ok(());
    }
    let (sign, rest) = sorted.split_at_checked(1).ok_or_else(bad)?;
    let (exponent, digits) = rest.split_at_checked(EXPONENT_DIGITS as usize).ok_or_else(bad)?;
    let biased: i64 = exponent.parse().map_err(|_| bad())?;
    let (exponent, digits): (i64, Cow<'_, str>) = match sign {
        "p" => (biased - EXPONENT_BIAS, digits.into()),
        "n" => {
            out.push('-');
            let digits = digits.strip_suffix('~').ok_or_else(bad)?;
            (EXPONENT_BIAS - 1 - biased, digits.bytes().map(complement).collect::<String>().into())
        }
        _ => return Err(bad()),
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(bad());
    }
    match usize::try_from(exponent) {
        Ok(0) | Err(_) => {
            out.push_str("0.");
            out.extend(std::iter::repeat_n('0', usize::try_from(-exponent).unwrap_or(0)));
            out.push_str(&digits);
        }
        Ok(whole) => match digits.split_at_checked(whole) {
            Some((before, "")) => out.push_str(before),
            Some((before, after)) => {
                out.push_str(before);
                out.push('.');
                out.push_str(after);
            }
            None => {
                out.push_str(&digits);
                out.extend(std::iter::repeat_n('0', whole - digits.len()));
            }
        },
    }
    Ok(())
}

// Rows.

/// Makes the cursors of to-many includes.
pub trait Pager {
    /// The cursor behind a row of an include, given the values of its [`Many::control`] elements.
    ///
    /// # Errors
    /// When no cursor can be made.
    fn next(&mut self, include: &Many, control: &[Value]) -> Result<String, StorageError>;
}

/// Reads the rows of one statement.
#[derive(Debug, Clone, Copy)]
pub struct RowReader<'s> {
    /// Names the values of enums.
    pub schema: &'s Schema,
    /// The database product.
    pub dialect: Dialect,
}

impl<'s> RowReader<'s> {
    fn codec(self, ty: SqlType) -> Codec<'s> {
        Codec { schema: self.schema, dialect: self.dialect, ty }
    }

    /// Columns of a row as values.
    ///
    /// # Errors
    /// When a cell does not have its column's form.
    pub fn control<R: Cells + ?Sized>(self, columns: &[Column], row: &R) -> Result<Vec<Value>, StorageError> {
        columns.iter().map(|column| self.codec(column.ty).decode(row.cell(column.at)?)).collect()
    }

    /// Writes a row as a JSON object.
    ///
    /// # Errors
    /// When a cell does not have its column's form; `out` then holds a part of the row.
    pub fn body<R: Cells + ?Sized>(
        self,
        shape: &Shape,
        row: &R,
        pager: &mut dyn Pager,
        out: &mut String,
    ) -> Result<(), StorageError> {
        out.push('{');
        for (at, member) in shape.members.iter().enumerate() {
            if at > 0 {
                out.push(',');
            }
            out.push_str(&member.label);
            let cell = row.cell(member.at)?;
            match &member.content {
                Content::Cell(ty) => self.codec(*ty).render(cell, out)?,
                Content::One(_) if cell == Cell::Null => out.push_str("null"),
                Content::One(shape) => {
                    let json = text(cell)?;
                    self.body(shape, &*row_cells(&json)?, pager, out)?;
                }
                Content::Many(many) => self.many(many, cell, pager, out)?,
            }
        }
        out.push('}');
        Ok(())
    }

    /// `json_agg` gives NULL over no rows: the empty list.
    fn many(self, many: &Many, cell: Cell<'_>, pager: &mut dyn Pager, out: &mut String) -> Result<(), StorageError> {
        let limit = many.limit as usize;
        let json = if cell == Cell::Null { Cow::Borrowed("[]") } else { text(cell)? };
        let rows = row_cells(&json)?;
        out.push_str("{\"items\":[");
        let mut last = Vec::new();
        for (at, row) in rows.iter().take(limit).enumerate() {
            let Cell::Array(row) = row else { return Err(mismatch()) };
            if at > 0 {
                out.push(',');
            }
            last = row_cells(row)?;
            self.body(&many.shape, &*last, pager, out)?;
        }
        out.push_str("],\"next\":");
        if rows.len() > limit {
            let cursor = pager.next(many, &self.control(&many.control, &*last)?)?;
            push_json_string(out, &cursor);
        } else {
            out.push_str("null");
        }
        out.push('}');
        Ok(())
    }
}

fn row_cells(json: &str) -> Result<Vec<Cell<'_>>, StorageError> {
    let mut scan = Scan::open(json)?;
    let mut cells = Vec::with_capacity(16);
    while let Some(cell) = scan.next_cell()? {
        cells.push(cell);
    }
    Ok(cells)
}

/// Splits a JSON array that a database wrote into its elements, without looking into them.
struct Scan<'a> {
    rest: &'a str,
}

impl<'a> Scan<'a> {
    fn open(json: &'a str) -> Result<Self, StorageError> {
        let rest = json.trim_ascii_start().strip_prefix('[').ok_or_else(not_json)?;
        Ok(Self { rest })
    }

    /// The next element; `None` at the closing bracket.
    fn next_cell(&mut self) -> Result<Option<Cell<'a>>, StorageError> {
        let rest = self.rest.trim_ascii_start();
        let rest = rest.strip_prefix(',').map_or(rest, str::trim_ascii_start);
        let (cell, length) = match rest.as_bytes().first() {
            Some(b']') => return Ok(None),
            Some(b'"') => {
                let end = 1 + string_end(rest.as_bytes().get(1..).unwrap_or_default())?;
                (Cell::Token(rest.get(1..end).ok_or_else(not_json)?), end + 1)
            }
            Some(b'[') => {
                let end = array_end(rest.as_bytes())?;
                (Cell::Array(rest.get(..end).ok_or_else(not_json)?), end)
            }
            _ => {
                let end = rest.find([',', ']', ' ', '\n']).ok_or_else(not_json)?;
                match rest.get(..end).ok_or_else(not_json)? {
                    "null" => (Cell::Null, end),
                    "" => return Err(not_json()),
                    token => (Cell::Token(token), end),
                }
            }
        };
        self.rest = rest.get(length..).ok_or_else(not_json)?;
        Ok(Some(cell))
    }
}

fn not_json() -> StorageError {
    StorageError::new("an include of the database is not the JSON that was asked for")
}

/// Where the closing quote of a string stands, from behind its opening quote.
fn string_end(octets: &[u8]) -> Result<usize, StorageError> {
    let mut escape = false;
    for (at, octet) in octets.iter().enumerate() {
        match octet {
            _ if escape => escape = false,
            b'\\' => escape = true,
            b'"' => return Ok(at),
            _ => {}
        }
    }
    Err(not_json())
}

/// Where an array ends, closing bracket included.
fn array_end(octets: &[u8]) -> Result<usize, StorageError> {
    let (mut depth, mut string, mut escape) = (0_usize, false, false);
    for (at, octet) in octets.iter().enumerate() {
        match octet {
            _ if escape => escape = false,
            b'\\' => escape = string,
            b'"' => string = !string,
            b'[' if !string => depth += 1,
            b']' if !string => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return Ok(at + 1);
                }
            }
            _ => {}
        }
    }
    Err(not_json())
}

/// The text of a JSON string that a database wrote.
fn unescape(token: &str) -> Result<Cow<'_, str>, StorageError> {
    if !token.contains('\\') {
        return Ok(Cow::Borrowed(token));
    }
    let quoted = format!("\"{token}\"");
    serde_json::from_str::<String>(&quoted).map(Cow::Owned).map_err(|_| not_json())
}

#[cfg(test)]
mod tests;
