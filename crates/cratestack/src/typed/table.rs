//! The rows of one model, as one caller sees them.

use std::marker::PhantomData;

use cratestack_engine::api::{Code, Expected, Row, Verb};
use cratestack_engine::json::Json;

use super::filter::Filter;
use super::query::{Plain, Query};
use super::record::{Reader, Writer};
use super::session::{self, Boxed, Reading, Session, Target};
use super::value::{Key, ValueError};
use super::write::{Create, Delete, Restore, Update, object, segments};

/// A model of the schema. Generated.
pub trait Model: Sized {
    /// The primary key: its value, or a tuple.
    type Key: Key;
    /// The position among the schema's models.
    const ID: u32;
    /// The name in the schema.
    const NAME: &'static str;
    /// The method of a session that leads to its rows; the audit trail's `op` begins with it.
    const ACCESSOR: &'static str;

    /// A row.
    fn read(row: &mut Reader) -> Result<Self, ValueError>;
}

/// A model whose rows can be made.
pub trait Creatable: Model {
    /// The members of a new row.
    type New: Input;
}

/// A model whose rows can be changed and removed.
#[diagnostic::on_unimplemented(message = "rows of `{Self}` are never changed or removed: the model is `@@append_only`")]
pub trait Changeable: Model {
    /// A change of a row.
    type Patch: Input;
}

/// A model with `@version`.
#[diagnostic::on_unimplemented(message = "rows of `{Self}` have no version: the model has no field with `@version`")]
pub trait Versioned: Model {}

/// A model with `@@soft_delete`.
#[diagnostic::on_unimplemented(message = "rows of `{Self}` leave no tombstones: the model has no `@@soft_delete`")]
pub trait SoftDelete: Model {}

/// What is sent with a write. Generated.
pub trait Input {
    /// Its members.
    fn write(&self, out: &mut Writer);
}

/// What may be done through a handle: reads and changes.
#[derive(Debug)]
pub enum ReadWrite {}

/// What may be done through a handle: reads alone.
#[derive(Debug)]
pub enum ReadOnly {}

/// The rows of `M`. In a procedure that is no mutation, `A` is [`ReadOnly`], and there are no changes.
#[derive(Debug)]
pub struct Table<'s, M, A = ReadWrite> {
    session: &'s Session<'s>,
    of: PhantomData<fn() -> (M, A)>,
}

impl<'s, M: Model, A> Table<'s, M, A> {
    /// The rows that the caller of the session may see.
    pub fn new(session: &'s Session<'s>) -> Self {
        Self { session, of: PhantomData }
    }

    /// All rows.
    pub fn all(&self) -> Query<'s, M, Plain<M>> {
        Query::new(self.session)
    }

    /// The rows that fulfil a filter.
    pub fn filter(&self, filter: Filter<M>) -> Query<'s, M, Plain<M>> {
        self.all().filter(filter)
    }

    /// The row with that key, or [`Code::NotFound`].
    pub fn get(&self, key: impl Into<M::Key>) -> Reading<'s, Row, M> {
        Reading::new(self.read(&key.into()), |row| session::found::<M>(row)?.into_row())
    }

    /// The row with that key, if there is one that the caller may see.
    pub fn find(&self, key: impl Into<M::Key>) -> Reading<'s, Option<Row>, Option<M>> {
        Reading::new(found(self.read(&key.into())), |row| {
            row.map(|row| session::found::<M>(row)?.into_row()).transpose()
        })
    }

    fn read(&self, key: &M::Key) -> Boxed<'s, Row> {
        let verb = segments::<M>(key).map(|key| Verb::Read { key, params: Vec::new() });
        self.session.row(Target::of::<M>("get"), verb)
    }
}

/// What is not there is no error.
fn found(row: Boxed<'_, Row>) -> Boxed<'_, Option<Row>> {
    Box::pin(async move {
        match row.await {
            Ok(row) => Ok(Some(row)),
            Err(error) if error.code() == Code::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    })
}

impl<'s, M: Model> Table<'s, M> {
    /// A new row, made when it is awaited.
    #[expect(clippy::needless_pass_by_value, reason = "a row is made of it once")]
    pub fn create(&self, new: M::New) -> Create<'s, M>
    where
        M: Creatable,
    {
        Create { session: self.session, data: object(&new), of: PhantomData }
    }

    /// A change of the row with that key; nothing happens before [`Update::set`], or before it is awaited.
    pub fn update(&self, key: impl Into<M::Key>) -> Update<'s, M>
    where
        M: Changeable,
    {
        let data = Ok(Json::Object(Vec::new()));
        Update { session: self.session, key: key.into(), expected: Expected::Missing, data }
    }

    /// The removal of the row with that key (a tombstone under `@@soft_delete`), when it is awaited.
    pub fn delete(&self, key: impl Into<M::Key>) -> Delete<'s, M>
    where
        M: Changeable,
    {
        Delete { session: self.session, key: key.into(), expected: Expected::Missing }
    }

    /// The end of the tombstone of the row with that key, when it is awaited.
    pub fn restore(&self, key: impl Into<M::Key>) -> Restore<'s, M>
    where
        M: SoftDelete,
    {
        Restore { session: self.session, key: key.into(), expected: Expected::Missing }
    }
}
