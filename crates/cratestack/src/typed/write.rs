//! Writes of one row.

use std::marker::PhantomData;

use cratestack_engine::api::{Answer, Code, Expected, Failure, Key as Segments, Row, Verb};
use cratestack_engine::json::Json;
use cratestack_schema::ir::{ModelId, Scalar};

use super::error::Error;
use super::filter::Field;
use super::record::Writer;
use super::session::{Boxed, Reading, Session, Target, written};
use super::table::{Changeable, Creatable, Input, Model, Versioned};
use super::value::{Key as _, Value};

/// What a write left behind. It is committed, whatever the caller may see of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Written<M> {
    /// The row; `None` when the rules do not let the caller read it.
    pub row: Option<M>,
    /// The key as text, in the order of `@@id`.
    pub key: Segments,
    /// The version of a `@version` model.
    pub version: Option<i64>,
}

impl<M> Written<M> {
    /// The row.
    ///
    /// # Errors
    /// [`Code::Forbidden`] when the rules do not let the caller read what was written, and committed.
    pub fn into_row(self) -> Result<M, Error> {
        let hidden =
            || Failure::new(Code::Forbidden, "the row was written, and the rules do not let this caller read it");
        self.row.ok_or_else(|| hidden().into())
    }
}

/// A key as the engine takes it. A value that is no text is no row's key.
pub(crate) fn segments<M: Model>(key: &M::Key) -> Result<Segments, Error> {
    let bad = |error| Failure::new(Code::BadRequest, format!("the key of `{}` {error}", M::NAME)).into();
    key.segments().map_err(bad)
}

/// The object of an input.
pub(crate) fn object(input: &impl Input) -> Result<Json, Error> {
    let mut out = Writer::default();
    input.write(&mut out);
    out.finish()
}

macro_rules! preconditions {
    ($($builder:ident)*) => { $(
        impl<M: Model> $builder<'_, M> {
            /// Only while the row is at that version, which the caller has seen; else [`Code::VersionMismatch`].
            pub fn if_version(self, version: i64) -> Self
            where
                M: Versioned,
            {
                Self { expected: Expected::OneOf(vec![version]), ..self }
            }

            /// Whatever its version. Without this and [`if_version`](Self::if_version) the answer is
            /// [`Code::VersionRequired`].
            pub fn any_version(self) -> Self
            where
                M: Versioned,
            {
                Self { expected: Expected::Any, ..self }
            }
        }
    )* };
}

preconditions!(Update Delete Restore);

/// Adds a member to the object of an input. A `BigInt` is a string of digits there.
fn put<M: Model, T>(
    session: &Session<'_>,
    data: Result<Json, Error>,
    field: &Field<M, T>,
    value: &impl Value,
) -> Result<Json, Error> {
    let name = field.name();
    let schema = session.engine().schema();
    let model = schema.model(ModelId(M::ID));
    let big = model.field_named(name).is_some_and(|id| model.field(id).scalar() == Some(Scalar::BigInt));
    let mut out = Writer::of(data?);
    out.put(name, value);
    if big {
        out.big(name);
    }
    out.finish()
}

macro_rules! puts {
    ($($builder:ident: $bound:ident)*) => { $(
        impl<M: $bound> $builder<'_, M> {
            /// Gives a field a value that no input has: one that is `@readonly`, or whose default is `now()` or a claim.
            /// Sessions that rules bind get [`Code::ValidationFailed`].
            pub fn put<T: Value>(self, field: Field<M, T>, value: impl Into<T>) -> Self {
                let data = put(self.session, self.data, &field, &value.into());
                Self { data, ..self }
            }

            /// Leaves such a field without a value.
            pub fn put_null<T: Value>(self, field: Field<M, T>) -> Self {
                let data = put(self.session, self.data, &field, &None::<T>);
                Self { data, ..self }
            }
        }
    )* };
}

puts!(Create: Creatable Update: Changeable);

/// A new row. Awaited, it gives what was written.
#[derive(Debug)]
#[must_use = "nothing is written before it is awaited"]
pub struct Create<'s, M> {
    pub(crate) session: &'s Session<'s>,
    pub(crate) data: Result<Json, Error>,
    pub(crate) of: PhantomData<fn() -> M>,
}

impl<'s, M: Creatable> IntoFuture for Create<'s, M> {
    type Output = Result<Written<M>, Error>;
    type IntoFuture = Reading<'s, Row, Written<M>>;

    fn into_future(self) -> Self::IntoFuture {
        let verb = self.data.map(|data| Verb::Create { data });
        Reading::new(self.session.row(Target::of::<M>("create"), verb), written)
    }
}

/// A change of one row. Awaited, it makes what was [`put`](Self::put), and gives what was written.
#[derive(Debug)]
#[must_use = "nothing changes before `set`, or before it is awaited"]
pub struct Update<'s, M: Model> {
    pub(crate) session: &'s Session<'s>,
    pub(crate) key: M::Key,
    pub(crate) expected: Expected,
    pub(crate) data: Result<Json, Error>,
}

impl<'s, M: Changeable> Update<'s, M> {
    /// Changes what the patch sets, and nothing else but what was [`put`](Self::put).
    #[expect(clippy::needless_pass_by_value, reason = "a patch is made once")]
    pub fn set(self, patch: M::Patch) -> Reading<'s, Row, Written<M>> {
        let data = self.data.and_then(|data| {
            let mut out = Writer::of(data);
            patch.write(&mut out);
            out.finish()
        });
        Self { data, ..self }.into_future()
    }
}

impl<'s, M: Changeable> IntoFuture for Update<'s, M> {
    type Output = Result<Written<M>, Error>;
    type IntoFuture = Reading<'s, Row, Written<M>>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { session, key, expected, data } = self;
        let verb = segments::<M>(&key).and_then(|key| Ok(Verb::Patch { key, expected, data: data? }));
        Reading::new(session.row(Target::of::<M>("update"), verb), written)
    }
}

/// The removal of one row. Awaited, it gives the version of the tombstone, if there is one.
#[derive(Debug)]
#[must_use = "nothing is removed before it is awaited"]
pub struct Delete<'s, M: Model> {
    pub(crate) session: &'s Session<'s>,
    pub(crate) key: M::Key,
    pub(crate) expected: Expected,
}

impl<'s, M: Model> IntoFuture for Delete<'s, M> {
    type Output = Result<Option<i64>, Error>;
    type IntoFuture = Boxed<'s, Option<i64>>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { session, key, expected } = self;
        let verb = segments::<M>(&key).map(|key| Verb::Delete { key, expected });
        deleted(session, Target::of::<M>("delete"), verb)
    }
}

fn deleted<'s>(session: &'s Session<'s>, target: Target, verb: Result<Verb, Error>) -> Boxed<'s, Option<i64>> {
    Box::pin(async move {
        match session.run(target, verb?).await? {
            Answer::Deleted { version } => Ok(version),
            other => Err(unforeseen(&other)),
        }
    })
}

/// The end of one tombstone. Awaited, it gives the row.
#[derive(Debug)]
#[must_use = "nothing is restored before it is awaited"]
pub struct Restore<'s, M: Model> {
    pub(crate) session: &'s Session<'s>,
    pub(crate) key: M::Key,
    pub(crate) expected: Expected,
}

impl<'s, M: Model> IntoFuture for Restore<'s, M> {
    type Output = Result<Written<M>, Error>;
    type IntoFuture = Reading<'s, Row, Written<M>>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { session, key, expected } = self;
        let verb = segments::<M>(&key).map(|key| Verb::Restore { key, expected });
        Reading::new(session.row(Target::of::<M>("restore"), verb), written)
    }
}

/// An answer of another kind than the operation has.
pub(crate) fn unforeseen(answer: &Answer) -> Error {
    let kind = match answer {
        Answer::Page { .. } => "a page",
        Answer::Row(_) => "a row",
        Answer::Deleted { .. } => "a deletion",
        Answer::Batch(_) => "a batch",
    };
    Failure::new(Code::Internal, "the engine gave another kind of answer")
        .with_internal(format!("it was {kind}"))
        .into()
}
