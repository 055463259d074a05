//! One table from database errors to refusals.
//!
//! A store turns what its driver says into a [`StoreError`]: a [`Class`], found by code alone, and the names that the
//! database gave (constraint, table, columns). [`failure`] turns that into what the caller is told. Texts of the
//! database never reach the caller: they may contain values.

use cratestack_schema::database_name;
use cratestack_schema::ir::{Check, Field, FieldId, Model, ModelId, RelationKind, Schema, ValidatorKind};
use rusqlite::ffi;

use crate::api::{Code, Failure, FieldError};
use crate::ddl::primary_key_name;
use crate::relay::{AUDIT, OUTBOX};

#[cfg(test)]
mod tests;

/// What the name of each function begins with that writes the trail or the outbox on PostgreSQL.
const RECORDERS: [&str; 2] = ["cratestack_audit_rows_", "cratestack_outbox_rows_"];

/// A kind of database error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// A value that another row has.
    Unique,
    /// A parent that is not there, or a row that others depend on.
    ForeignKey,
    /// The same, raised by the triggers of soft deletion.
    Restrict,
    /// A CHECK constraint.
    Check,
    /// A null where none may be.
    NotNull,
    /// Text or bytes beyond what a column, an index entry or the database holds.
    TooLong,
    /// A number beyond its type.
    NumericOverflow,
    /// Text that is no value of the column's type.
    InvalidText,
    /// A row of an `@@append_only` table was to be changed.
    AppendOnly,
    /// A deletion that would go through too many levels of rows.
    TooDeep,
    /// Two transactions waited for each other.
    Deadlock,
    /// Concurrent transactions could not be put in an order.
    Serialization,
    /// The database ended the statement for its length.
    Timeout,
    /// The deadline passed while the database was at work; what was under way may or may not have happened.
    Deadline,
    /// A lock was not granted in time.
    LockTimeout,
    /// The connection is gone; what was under way may or may not have happened.
    ConnectionLost,
    /// No connection could be had; nothing was under way.
    NoConnection,
    /// The database accepts no writes.
    ReadOnly,
    /// The service's role may not do this.
    Rights,
    /// No space left.
    DiskFull,
    /// No memory left.
    OutOfMemory,
    /// The database could not read or write its files.
    Io,
    /// A prepared statement is older than the tables.
    StalePlan,
    /// The audit trail or the outbox could not be written, and so nothing was.
    Recorder,
    /// A trigger that is not ours refused (SQLite).
    Raised,
    /// A statement of the transaction had failed before (PostgreSQL).
    Doomed,
    /// Anything else: a bug of ours, or a damaged or foreign database.
    Other,
}

/// What is left to do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// Nothing: tell the caller.
    None,
    /// Nothing was committed: run the transaction again.
    Again,
    /// Run what does no harm twice (a read) again on another connection.
    Reconnect,
}

/// One row of the table.
struct Fault {
    class: Class,
    code: Code,
    remedy: Remedy,
    /// What the caller is told; classes that can name members add them.
    detail: &'static str,
    /// SQLSTATEs; two characters stand for the whole class.
    postgres: &'static [&'static str],
    /// Extended result codes; a primary code stands for all its extensions that have no row of their own.
    sqlite: &'static [i32],
}

/// The table. PostgreSQL codes are looked up whole, then by their first two characters.
const FAULTS: &[Fault] = &[
    Fault {
        class: Class::Unique,
        code: Code::UniqueViolation,
        remedy: Remedy::None,
        detail: "another row has the same value",
        postgres: &["23505", "23P01"],
        sqlite: &[ffi::SQLITE_CONSTRAINT_UNIQUE, ffi::SQLITE_CONSTRAINT_PRIMARYKEY, ffi::SQLITE_CONSTRAINT_ROWID],
    },
    Fault {
        class: Class::ForeignKey,
        code: Code::ForeignKeyViolation,
        remedy: Remedy::None,
        detail: "rows that depend on each other would be torn apart",
        postgres: &["23503"],
        sqlite: &[ffi::SQLITE_CONSTRAINT_FOREIGNKEY],
    },
    Fault {
        class: Class::Restrict,
        code: Code::ForeignKeyViolation,
        remedy: Remedy::None,
        detail: "other rows depend on this row",
        postgres: &["23001"],
        sqlite: &[],
    },
    Fault {
        class: Class::Check,
        code: Code::ValidationFailed,
        remedy: Remedy::None,
        detail: "the row would break a rule of its model",
        postgres: &["23514", "44000"],
        sqlite: &[ffi::SQLITE_CONSTRAINT_CHECK],
    },
    Fault {
        class: Class::NotNull,
        code: Code::ValidationFailed,
        remedy: Remedy::None,
        detail: "a required value is missing",
        postgres: &["23502", "22004"],
        sqlite: &[ffi::SQLITE_CONSTRAINT_NOTNULL],
    },
    Fault {
        class: Class::TooLong,
        code: Code::ValidationFailed,
        remedy: Remedy::None,
        detail: "a value is longer than the database can store",
        postgres: &["22001", "54000"],
        sqlite: &[ffi::SQLITE_TOOBIG],
    },
    Fault {
        class: Class::NumericOverflow,
        code: Code::ValidationFailed,
        remedy: Remedy::None,
        detail: "a number is out of range",
        postgres: &["22003", "22008"],
        sqlite: &[],
    },
    Fault {
        class: Class::InvalidText,
        code: Code::ValidationFailed,
        remedy: Remedy::None,
        detail: "a value is not of its type",
        postgres: &["22P02", "22P03", "22021", "22P05", "22007", "22032"],
        sqlite: &[ffi::SQLITE_MISMATCH, ffi::SQLITE_CONSTRAINT_DATATYPE],
    },
    Fault {
        class: Class::AppendOnly,
        code: Code::Forbidden,
        remedy: Remedy::None,
        detail: "rows of this model are never changed or deleted",
        postgres: &["CS001"],
        sqlite: &[],
    },
    Fault {
        class: Class::TooDeep,
        code: Code::ForeignKeyViolation,
        remedy: Remedy::None,
        detail: "too many levels of rows depend on this row",
        postgres: &["54001"],
        // SQLite has no code for it: see `StoreError::sqlite`.
        sqlite: &[],
    },
    Fault {
        class: Class::Deadlock,
        code: Code::TransactionAborted,
        remedy: Remedy::Again,
        detail: "concurrent changes got in each other's way; nothing was committed",
        postgres: &["40P01"],
        sqlite: &[ffi::SQLITE_LOCKED],
    },
    Fault {
        class: Class::Serialization,
        code: Code::TransactionAborted,
        remedy: Remedy::Again,
        detail: "concurrent changes got in each other's way; nothing was committed",
        postgres: &["40001", "40"],
        sqlite: &[ffi::SQLITE_BUSY_SNAPSHOT],
    },
    Fault {
        class: Class::Timeout,
        code: Code::Unavailable,
        remedy: Remedy::None,
        detail: "the database took too long",
        postgres: &["57014"],
        sqlite: &[ffi::SQLITE_INTERRUPT],
    },
    Fault {
        class: Class::Deadline,
        code: Code::Unavailable,
        remedy: Remedy::None,
        detail: "the database took too long",
        postgres: &[],
        sqlite: &[],
    },
    Fault {
        class: Class::LockTimeout,
        code: Code::Unavailable,
        remedy: Remedy::None,
        detail: "the database is busy; nothing was changed",
        postgres: &["55P03"],
        sqlite: &[ffi::SQLITE_BUSY],
    },
    Fault {
        class: Class::ConnectionLost,
        code: Code::Unavailable,
        remedy: Remedy::Reconnect,
        detail: "the connection to the database was lost",
        postgres: &["40003", "08", "57P01", "57P02", "57P03", "57P05", "25P03", "25P04"],
        sqlite: &[],
    },
    Fault {
        class: Class::NoConnection,
        code: Code::Unavailable,
        remedy: Remedy::None,
        detail: "the database cannot be reached; nothing was changed",
        postgres: &["53300", "28", "3D000", "57P04"],
        sqlite: &[ffi::SQLITE_CANTOPEN],
    },
    Fault {
        class: Class::ReadOnly,
        code: Code::Unavailable,
        remedy: Remedy::None,
        detail: "the database accepts no writes at present",
        postgres: &["25006"],
        sqlite: &[ffi::SQLITE_READONLY, ffi::SQLITE_PERM],
    },
    Fault {
        class: Class::DiskFull,
        code: Code::Unavailable,
        remedy: Remedy::None,
        detail: "the database has no space left; nothing was changed",
        postgres: &["53100"],
        sqlite: &[ffi::SQLITE_FULL],
    },
    Fault {
        class: Class::OutOfMemory,
        code: Code::Unavailable,
        remedy: Remedy::None,
        detail: "the database has too few resources; nothing was changed",
        postgres: &["53"],
        sqlite: &[ffi::SQLITE_NOMEM],
    },
    Fault {
        class: Class::Rights,
        code: Code::Unavailable,
        remedy: Remedy::None,
        detail: "the database does not let the service do this; nothing was changed",
        postgres: &["42501"],
        sqlite: &[ffi::SQLITE_AUTH],
    },
    Fault {
        class: Class::Io,
        code: Code::Unavailable,
        remedy: Remedy::None,
        detail: "the database could not use its files; nothing was changed",
        postgres: &["58"],
        sqlite: &[ffi::SQLITE_IOERR],
    },
    Fault {
        class: Class::StalePlan,
        code: Code::Unavailable,
        remedy: Remedy::Again,
        detail: "the database's tables were changed meanwhile; nothing was committed",
        postgres: &["26000"],
        sqlite: &[ffi::SQLITE_SCHEMA],
    },
    Fault {
        class: Class::Recorder,
        code: Code::Unavailable,
        remedy: Remedy::None,
        detail: "the audit trail or the outbox cannot be written; nothing was changed",
        postgres: &[],
        sqlite: &[],
    },
    Fault {
        class: Class::Raised,
        code: Code::Internal,
        remedy: Remedy::None,
        detail: "an internal error",
        postgres: &[],
        sqlite: &[],
    },
    Fault {
        class: Class::Doomed,
        code: Code::Internal,
        remedy: Remedy::None,
        detail: "a statement of the transaction had failed, and its code went on; nothing was committed",
        postgres: &["25P02"],
        sqlite: &[],
    },
    Fault {
        class: Class::Other,
        code: Code::Internal,
        remedy: Remedy::None,
        detail: "an internal error",
        postgres: &[],
        sqlite: &[],
    },
];

impl Class {
    fn fault(self) -> Option<&'static Fault> {
        FAULTS.iter().find(|fault| fault.class == self)
    }

    /// What is left to do about errors of this class.
    pub fn remedy(self) -> Remedy {
        self.fault().map_or(Remedy::None, |fault| fault.remedy)
    }

    /// Whether a mutation that failed like this may have been committed.
    pub fn outcome_unknown(self) -> bool {
        matches!(self, Self::ConnectionLost | Self::Deadline)
    }

    /// What the caller is told where no model is at hand.
    pub(crate) fn failure(self, internal: &str) -> Failure {
        let detail = self.fault().map_or("an internal error", |fault| fault.detail);
        Failure::new(self.code(), detail).with_internal(internal)
    }

    /// The code of the answer.
    pub fn code(self) -> Code {
        self.fault().map_or(Code::Internal, |fault| fault.code)
    }

    /// What an error becomes that came up while the trail was written. Whatever the trail objects to is not the
    /// caller's fault; what would have hit any other statement as well keeps its class.
    #[must_use]
    pub fn of_trail(self) -> Self {
        match self.code() {
            Code::Unavailable | Code::TransactionAborted => self,
            _ => Self::Recorder,
        }
    }

    fn of_sqlstate(code: &str) -> Self {
        let find = |wanted: &str| FAULTS.iter().find(|fault| fault.postgres.contains(&wanted));
        find(code).or_else(|| find(code.get(..2)?)).map_or(Self::Other, |fault| fault.class)
    }

    fn of_sqlite(extended: i32) -> Self {
        let find = |wanted: i32| FAULTS.iter().find(|fault| fault.sqlite.contains(&wanted));
        find(extended).or_else(|| find(extended & 0xff)).map_or(Self::Other, |fault| fault.class)
    }
}

/// An error of the database, classified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreError {
    /// What kind it is.
    pub class: Class,
    /// The table that it concerns, where the database says so.
    pub table: Option<String>,
    /// The constraint that it concerns, where the database says so.
    pub constraint: Option<String>,
    /// The columns that it concerns, where the database says so.
    pub columns: Vec<String>,
    /// Code and text of the database, for the log. May contain values.
    pub message: String,
}

impl StoreError {
    /// An error that names nothing.
    pub fn new(class: Class, message: impl Into<String>) -> Self {
        Self { class, table: None, constraint: None, columns: Vec::new(), message: message.into() }
    }

    /// The same error where it is certain that nothing was changed.
    #[must_use]
    pub fn harmless(self) -> Self {
        let class = match self.class {
            Class::ConnectionLost => Class::NoConnection,
            Class::Deadline => Class::Timeout,
            class => class,
        };
        Self { class, ..self }
    }

    /// What PostgreSQL or its driver says.
    pub fn postgres(error: &sqlx::Error) -> Self {
        use sqlx::postgres::PgDatabaseError;
        match error {
            sqlx::Error::Database(inner) => match inner.try_downcast_ref::<PgDatabaseError>() {
                Some(inner) => Self::of_postgres(inner),
                None => Self::new(Class::Other, error.to_string()),
            },
            sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => {
                Self::new(Class::ConnectionLost, error.to_string())
            }
            _ => Self::new(Class::Other, error.to_string()),
        }
    }

    fn of_postgres(error: &sqlx::postgres::PgDatabaseError) -> Self {
        let stale = error.code() == "0A000" && error.routine() == Some("RevalidateCachedQuery");
        let class = if stale { Class::StalePlan } else { Class::of_sqlstate(error.code()) };
        // The stack of what was called; names are not translated.
        let trail = error.r#where().is_some_and(|stack| RECORDERS.iter().any(|function| stack.contains(function)));
        Self {
            class: if trail { class.of_trail() } else { class },
            table: error.table().map(str::to_owned),
            constraint: error.constraint().map(str::to_owned),
            columns: error.column().map(str::to_owned).into_iter().collect(),
            message: format!("{}: {}", error.code(), error.message()),
        }
    }

    /// What SQLite says.
    pub fn sqlite(error: &rusqlite::Error) -> Self {
        use rusqlite::Error as E;
        let (code, text) = match error {
            E::SqliteFailure(code, text) => (code.extended_code, text.as_deref()),
            E::SqlInputError { error, msg, .. } => (error.extended_code, Some(msg.as_str())),
            other => return Self::new(Class::Other, other.to_string()),
        };
        let text = text.unwrap_or_default();
        let found = Self::new(Class::of_sqlite(code), format!("{code}: {text}"));
        match found.class {
            Class::Unique | Class::NotNull => found.with_sqlite_columns(text),
            Class::Check => {
                let constraint = text.strip_prefix("CHECK constraint failed: ").map(str::to_owned);
                let trail = constraint
                    .as_deref()
                    .is_some_and(|name| [AUDIT, OUTBOX].iter().any(|log| name.starts_with(log.table)));
                Self { class: if trail { Class::Recorder } else { found.class }, constraint, ..found }
            }
            // `ON DELETE RESTRICT` is a trigger of SQLite's own.
            _ if code == ffi::SQLITE_CONSTRAINT_TRIGGER && text == "FOREIGN KEY constraint failed" => {
                Self { class: Class::ForeignKey, ..found }
            }
            _ if code == ffi::SQLITE_CONSTRAINT_TRIGGER => found.with_raised(text),
            _ if code == ffi::SQLITE_ERROR && text == "too many levels of trigger recursion" => {
                Self { class: Class::TooDeep, ..found }
            }
            _ => found,
        }
    }

    /// `UNIQUE constraint failed: accounts.tenant_id, accounts.owner` or `.. failed: index 'name'`.
    fn with_sqlite_columns(mut self, text: &str) -> Self {
        let names = text.split_once(" constraint failed: ").map_or("", |(_, names)| names);
        if let Some(index) = names.strip_prefix("index '") {
            self.constraint = Some(index.trim_end_matches('\'').to_owned());
            return self;
        }
        for name in names.split(", ") {
            if let Some((table, column)) = name.split_once('.') {
                self.table = Some(table.to_owned());
                self.columns.push(column.to_owned());
            }
        }
        self
    }

    /// `RAISE(ABORT, 'cratestack:<kind>:<name>')` of the triggers that the schema asks for.
    fn with_raised(mut self, text: &str) -> Self {
        let mut parts = text.splitn(3, ':');
        if parts.next() != Some("cratestack") {
            self.class = Class::Raised;
            return self;
        }
        match (parts.next(), parts.next()) {
            (Some("append_only"), table) => {
                self.class = Class::AppendOnly;
                self.table = table.map(str::to_owned);
            }
            (Some(kind), constraint) => {
                self.class = match kind {
                    "restrict" => Class::Restrict,
                    "parent" => Class::ForeignKey,
                    "unique" => Class::Unique,
                    "audit" | "outbox" => Class::Recorder,
                    _ => return self,
                };
                self.constraint = constraint.map(str::to_owned);
            }
            _ => {}
        }
        self
    }
}

/// What the caller of an operation on `model` is told about `error`: a code, a sentence and, where the database named
/// what it concerns, the members. Members that no caller may see (`@server_only`) and other models' are not named.
pub fn failure(schema: &Schema, id: ModelId, error: &StoreError) -> Failure {
    let detail = error.class.fault().map_or("an internal error", |fault| fault.detail);
    let mut failure = Failure::new(error.class.code(), detail);
    let model = schema.model(id);
    let here = error.table.as_deref().is_none_or(|table| table == model.table);
    match error.class {
        Class::Unique if here => unique(&mut failure, model, error),
        Class::ForeignKey | Class::Restrict => foreign_key(&mut failure, schema, id, error),
        Class::Check => check(&mut failure, schema, model, error),
        _ if here => failure.errors = errors_at(model, &columns(model, &error.columns), "invalid", detail),
        _ => {}
    }
    if failure.code == Code::ValidationFailed && failure.errors.is_empty() {
        failure.errors.push(whole("invalid", detail));
    }
    if matches!(failure.code, Code::Internal | Code::Unavailable | Code::TransactionAborted) {
        failure.internal = Some(error.message.clone());
    }
    failure
}

/// The refusal of a row with values that other rows have: the fields of each unique constraint that they have them in.
/// `None` without any.
pub fn taken<'a>(model: &Model, constraints: impl Iterator<Item = &'a [FieldId]>) -> Option<Failure> {
    let mut failure = Failure::new(Code::UniqueViolation, "");
    for fields in constraints {
        let errors = errors_at(model, fields, "unique", "another row has this value");
        let names: Vec<String> =
            errors.iter().map(|error| format!("`{}`", error.pointer.trim_start_matches("#/"))).collect();
        let start = if failure.detail.is_empty() { "another row has the same " } else { "; another has the same " };
        failure.detail.push_str(start);
        failure.detail.push_str(if names.is_empty() { "value" } else { "" });
        failure.detail.push_str(&names.join(", "));
        for error in errors {
            if !failure.errors.contains(&error) {
                failure.errors.push(error);
            }
        }
    }
    (!failure.detail.is_empty()).then_some(failure)
}

/// The refusal of a row that breaks these checks; `None` without any.
pub fn broken<'a>(checks: impl Iterator<Item = &'a Check>) -> Option<Failure> {
    let errors: Vec<FieldError> = checks.map(|check| whole(&check.name, &check.message)).collect();
    let detail = errors.iter().map(|error| error.detail.as_str()).collect::<Vec<_>>().join("; ");
    (!errors.is_empty()).then(|| Failure { detail, ..Failure::validation(errors) })
}

/// The constraint that the database names. PostgreSQL gives its name, SQLite its columns.
fn unique(failure: &mut Failure, model: &Model, error: &StoreError) {
    let key = (primary_key_name(model), &model.key);
    let mut declared = model.uniques.iter().map(|index| (index.name.clone(), &index.fields)).chain([key]);
    let named = columns(model, &error.columns);
    let same = |fields: &[FieldId]| fields.len() == named.len() && fields.iter().all(|id| named.contains(id));
    let found = match &error.constraint {
        Some(constraint) => declared.find(|(name, _)| name == constraint),
        None => declared.find(|(_, fields)| same(fields)),
    };
    let fields = found.map_or(named.as_slice(), |(_, fields)| fields);
    if let Some(named) = taken(model, std::iter::once(fields)) {
        *failure = named;
    }
}

/// The constraint belongs either to the model itself, whose reference then names no row, or to a model whose rows
/// depend on it. One that a cascade met further away is not named, since SQLite does not know it.
fn foreign_key(failure: &mut Failure, schema: &Schema, id: ModelId, error: &StoreError) {
    let Some(wanted) = error.constraint.as_deref() else { return };
    let owned = |model: &Model| -> Option<(ModelId, Vec<FieldId>)> {
        model.relations.iter().find_map(|relation| match &relation.kind {
            RelationKind::Owning { constraint, fields, .. } if constraint == wanted => {
                Some((relation.target, fields.clone()))
            }
            _ => None,
        })
    };
    let model = schema.model(id);
    if error.class == Class::ForeignKey
        && let Some((_, fields)) = owned(model)
        && error.table.as_deref().is_none_or(|table| table == model.table)
    {
        failure.errors = errors_at(model, &fields, "foreign_key", "the row that it names is gone");
        "it refers to a row that is gone".clone_into(&mut failure.detail);
    } else if let Some(child) = schema.models.iter().find(|model| owned(model).is_some_and(|(target, _)| target == id))
    {
        failure.detail = format!("rows of `{}` depend on this row", child.name);
    }
}

fn check(failure: &mut Failure, schema: &Schema, model: &Model, error: &StoreError) {
    let Some(wanted) = error.constraint.as_deref() else { return };
    // The row at fault may be another model's: a referential action set its columns.
    let declared = std::iter::once(model).chain(&schema.models).flat_map(|model| &model.checks);
    if let Some(named) = broken(declared.into_iter().filter(|check| check.constraint == wanted).take(1)) {
        *failure = named;
        return;
    }
    for (id, field) in model.fields() {
        for validator in field.validators.iter().filter(|validator| validator.db_enforce) {
            let word = validator_word(&validator.kind);
            if enforced_name(model, field, word) == wanted {
                "1 field is not valid".clone_into(&mut failure.detail);
                failure.errors = errors_at(model, &[id], word, "is not in the range that the model allows");
                return;
            }
        }
    }
}

/// The code that a validator's errors carry.
pub fn validator_word(kind: &ValidatorKind) -> &'static str {
    match kind {
        ValidatorKind::Length { .. } => "length",
        ValidatorKind::Range { .. } => "range",
        ValidatorKind::Email => "email",
        ValidatorKind::Regex(_) => "regex",
        ValidatorKind::Uri => "uri",
        ValidatorKind::Iso4217 { .. } => "iso4217",
        ValidatorKind::Iban => "iban",
        ValidatorKind::Bic => "bic",
        ValidatorKind::Lei => "lei",
    }
}

/// The name of the CHECK constraint behind `@db_enforce`.
pub fn enforced_name(model: &Model, field: &Field, word: &str) -> String {
    database_name([&model.table, &field.column, word, "check"])
}

fn columns(model: &Model, names: &[String]) -> Vec<FieldId> {
    model.fields().filter(|(_, field)| names.contains(&field.column)).map(|(id, _)| id).collect()
}

fn errors_at(model: &Model, fields: &[FieldId], code: &str, detail: &str) -> Vec<FieldError> {
    let visible = fields.iter().map(|id| model.field(*id)).filter(|field| !field.server_only);
    visible
        .map(|field| FieldError {
            pointer: format!("#/{}", field.name),
            code: code.to_owned(),
            detail: detail.to_owned(),
        })
        .collect()
}

fn whole(code: &str, detail: &str) -> FieldError {
    FieldError { pointer: "#".to_owned(), code: code.to_owned(), detail: detail.to_owned() }
}
