/// The schema's text, as it was when this crate was compiled.
pub const SOURCE: &str = ::core::include_str!("/schemas/small.cstack");
/// Identifies what the schema means; a database carries the fingerprint of its schema.
pub const FINGERPRINT: &str = "d56fdd527bce3a619b49438c85613443ff439c2d4a539a0c8cc2c5efd8b61931";
const SCHEMA: ::cratestack::typed::Source = ::cratestack::typed::Source {
    name: "small",
    text: SOURCE,
    fingerprint: FINGERPRINT,
    decimal: ::cratestack::typed::Backend::RustDecimal,
};
/// A database that carries the schema `small`. Clones share everything.
#[derive(Debug, Clone)]
pub struct Db(::cratestack::typed::Engine);
impl Db {
    /// Makes the tables in the empty database of a URL, so that it can be opened. A database that carries this very
    /// schema stays as it is.
    ///
    /// # Errors
    /// When the database cannot be reached, or something else is there.
    pub async fn apply(
        url: &str,
    ) -> ::core::result::Result<(), ::cratestack::typed::OpenError> {
        SCHEMA.apply(url).await
    }
    /// Opens the database of a URL: `postgres://..` or `sqlite:PATH`, which carry the schema already, or
    /// `sqlite::memory:`, which is made.
    pub async fn connect(
        url: &str,
    ) -> ::core::result::Result<Self, ::cratestack::typed::OpenError> {
        Self::connect_with(url, ::cratestack::typed::Options::default()).await
    }
    /// Opens the database of a URL, with options.
    pub async fn connect_with(
        url: &str,
        options: ::cratestack::typed::Options,
    ) -> ::core::result::Result<Self, ::cratestack::typed::OpenError> {
        SCHEMA.connect(url, options).await.map(Self)
    }
    /// The same on an engine that the host has opened already.
    ///
    /// # Errors
    /// When it serves another schema.
    pub fn from_engine(
        engine: ::cratestack::typed::Engine,
    ) -> ::core::result::Result<Self, ::cratestack::typed::OpenError> {
        SCHEMA.check(&engine).map(|()| Self(engine))
    }
    /// The engine that it works with.
    pub fn engine(&self) -> &::cratestack::typed::Engine {
        &self.0
    }
    /// What a caller without credentials does.
    pub fn anonymous(&self) -> Session<'static> {
        ::cratestack::typed::Face::of(::cratestack::typed::Session::anonymous(&self.0))
    }
    /// What a job of the service itself does. No rule is asked, so this is not for what a caller has sent; fields can be
    /// `put` that no request may send. The audit trail has the name of the job.
    pub fn as_system(&self, job: &str) -> Session<'static> {
        ::cratestack::typed::Face::of(
            ::cratestack::typed::Session::anonymous(&self.0).system(job),
        )
    }
    /// Runs `body` in a transaction of level `read_committed` and commits it, again from the beginning where the
    /// database asks for that. What is done through `tx` itself is done without credentials; `tx.as_principal(..)`
    /// and `tx.as_system(..)` are for others. [`Session::transaction`] begins as its caller, and
    /// `cratestack::run_in_isolated_tx` at another level.
    ///
    /// # Errors
    /// The body's own, for which everything was rolled back; and those of the database.
    pub async fn transaction<T>(
        &self,
        body: impl ::core::ops::AsyncFnMut(
            &mut Tx<'_>,
        ) -> ::core::result::Result<T, ::cratestack::typed::Error>,
    ) -> ::core::result::Result<T, ::cratestack::typed::Error> {
        self.anonymous().transaction(body).await
    }
}
impl ::cratestack::typed::Host for Db {
    type Begun = ::cratestack::typed::Begun;
    type Tx<'t> = Tx<'t>;
    async fn begin(
        &self,
        options: &::cratestack::typed::TxOptions,
        deadline: ::cratestack::typed::Instant,
    ) -> ::core::result::Result<Self::Begun, ::cratestack::typed::BoxError> {
        ::cratestack::typed::Host::begin(&self.anonymous(), options, deadline).await
    }
    fn lend<'t>(
        &self,
        begun: &'t mut Self::Begun,
    ) -> ::core::result::Result<Tx<'t>, ::cratestack::typed::BoxError> {
        ::cratestack::typed::Host::lend(&self.anonymous(), begun)
    }
}
/// A running transaction, as the body of a mutation procedure and `transaction` get it. Beside its own methods it
/// has the accessors of a [`Session`].
pub type Tx<'t> = ::cratestack::typed::Tx<'t, Session<'t>>;
/// A running transaction that only reads, all of one snapshot, as the body of any other procedure gets it.
pub type ReadTx<'t> = ::cratestack::typed::Tx<
    't,
    Session<'t, ::cratestack::typed::ReadOnly>,
>;
/// The database as one caller sees it: every rule of the schema holds. `'t` is the transaction that it is in, if any.
#[derive(Debug, Clone)]
pub struct Session<'t, SessionAccess = ::cratestack::typed::ReadWrite>(
    ::cratestack::typed::Session<'t>,
    ::core::marker::PhantomData<fn() -> SessionAccess>,
);
impl<'t, SessionAccess> ::cratestack::typed::Face<'t> for Session<'t, SessionAccess> {
    type Principal = ::cratestack::typed::Nobody;
    fn of(session: ::cratestack::typed::Session<'t>) -> Self {
        Self(session, ::core::marker::PhantomData)
    }
    fn session(&self) -> &::cratestack::typed::Session<'t> {
        &self.0
    }
}
impl<SessionAccess> Session<'_, SessionAccess> {
    /// The same caller, within a request of the host.
    #[must_use]
    pub fn within(self, request: ::cratestack::typed::RequestContext) -> Self {
        Self(self.0.within(request), ::core::marker::PhantomData)
    }
    /// The rows of [`Note`].
    pub fn notes(&self) -> ::cratestack::typed::Table<'_, Note, SessionAccess> {
        ::cratestack::typed::Table::new(&self.0)
    }
}
impl Session<'_> {
    /// Runs `body` in a transaction of level `read_committed`, as this caller, and commits it, again from the
    /// beginning where the database asks for that. `cratestack::run_in_isolated_tx` takes another level.
    ///
    /// # Errors
    /// The body's own, for which everything was rolled back; those of the database; and that this session is in a
    /// transaction already.
    pub async fn transaction<T>(
        &self,
        body: impl ::core::ops::AsyncFnMut(
            &mut Tx<'_>,
        ) -> ::core::result::Result<T, ::cratestack::typed::Error>,
    ) -> ::core::result::Result<T, ::cratestack::typed::Error> {
        let options = ::cratestack::typed::options(&self.0);
        ::core::result::Result::Ok(
            ::cratestack::typed::run_in_isolated_tx_with(self, &options, body).await?,
        )
    }
}
impl ::cratestack::typed::Host for Session<'_> {
    type Begun = ::cratestack::typed::Begun;
    type Tx<'t> = Tx<'t>;
    async fn begin(
        &self,
        options: &::cratestack::typed::TxOptions,
        deadline: ::cratestack::typed::Instant,
    ) -> ::core::result::Result<Self::Begun, ::cratestack::typed::BoxError> {
        ::cratestack::typed::begin(&self.0, options, deadline).await
    }
    fn lend<'t>(
        &self,
        begun: &'t mut Self::Begun,
    ) -> ::core::result::Result<Tx<'t>, ::cratestack::typed::BoxError> {
        ::core::result::Result::Ok(::cratestack::typed::lend(&self.0, begun))
    }
}
/// A row of the model `Note`.
#[derive(Debug, Clone, PartialEq)]
pub struct Note {
    /// The field `id`.
    pub id: i64,
    /// The field `text`.
    pub text: ::core::option::Option<::std::string::String>,
}
impl ::cratestack::typed::Model for Note {
    type Key = i64;
    const ID: u32 = 0u32;
    const NAME: &'static str = "Note";
    const ACCESSOR: &'static str = "notes";
    fn read(
        row: &mut ::cratestack::typed::Reader,
    ) -> ::core::result::Result<Self, ::cratestack::typed::ValueError> {
        ::core::result::Result::Ok(Self {
            id: row.take("id")?,
            text: row.take("text")?,
        })
    }
}
/// A new row of [`Note`].
///
/// What is `None` gets its default, or no value.
#[derive(Debug, Clone, PartialEq)]
pub struct NewNote {
    /// The field `id`.
    pub id: i64,
    /// The field `text`.
    pub text: ::core::option::Option<::std::string::String>,
}
impl ::cratestack::typed::Input for NewNote {
    fn write(&self, out: &mut ::cratestack::typed::Writer) {
        out.put("id", &self.id);
        out.put("text", &self.text);
    }
}
/// A change of a row of [`Note`]; the default keeps everything.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NotePatch {
    /// The field `text`.
    pub text: ::cratestack::typed::Change<::core::option::Option<::std::string::String>>,
}
impl ::cratestack::typed::Input for NotePatch {
    fn write(&self, out: &mut ::cratestack::typed::Writer) {
        out.change("text", &self.text);
    }
}
impl ::cratestack::typed::Creatable for Note {
    type New = NewNote;
}
impl ::cratestack::typed::Changeable for Note {
    type Patch = NotePatch;
}
pub mod note {
    //! Fields and relations of [`Note`](super::Note), for filters, orders and includes.
    /// A row of [`Note`](super::Note) that is reached from `R` over relations.
    #[derive(Debug)]
    pub struct Related<R>(pub(super) ::cratestack::typed::Path<R>);
    impl<R> ::cratestack::typed::Include<R> for Related<R> {
        type Output = ::core::option::Option<super::Note>;
        fn path(self) -> ::cratestack::typed::Path<R> {
            self.0
        }
    }
    /// The field `id`.
    pub fn id() -> ::cratestack::typed::Field<super::Note, i64> {
        ::cratestack::typed::Field::new(::cratestack::typed::Path::new("id"))
    }
    /// The field `text`.
    pub fn text() -> ::cratestack::typed::Field<super::Note, ::std::string::String> {
        ::cratestack::typed::Field::new(::cratestack::typed::Path::new("text"))
    }
    impl<R> Related<R> {
        /// The field `id`.
        pub fn id(&self) -> ::cratestack::typed::Field<R, i64> {
            ::cratestack::typed::Field::new(self.0.then("id"))
        }
        /// The field `text`.
        pub fn text(&self) -> ::cratestack::typed::Field<R, ::std::string::String> {
            ::cratestack::typed::Field::new(self.0.then("text"))
        }
    }
}
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no bodies for the procedures of the schema `small`",
    label = "without bodies",
    note = "implement the trait `Procedures` for it"
)]
/// The bodies of the procedures. Each runs in a transaction, which is committed when it returns `Ok`, and rolled back
/// when it returns `Err`; where other transactions got in the way it runs again from its beginning.
pub trait Procedures: ::core::marker::Send + ::core::marker::Sync + 'static {}
impl Procedures for ::cratestack::typed::NoProcedures {}
impl<ProcedureBodies: Procedures> ::cratestack::typed::Implements<ProcedureBodies>
for Db {
    fn into_engine(self) -> ::cratestack::typed::Engine {
        self.0
    }
    #[allow(unused_mut, unused_variables)]
    fn call<'t>(
        bodies: &'t ProcedureBodies,
        mut call: ::cratestack::typed::Call<'t>,
    ) -> ::cratestack::typed::BoxFuture<
        't,
        ::core::result::Result<::cratestack::typed::Json, ::cratestack::typed::Error>,
    > {
        match call.name() {
            _ => call.missing(),
        }
    }
}
