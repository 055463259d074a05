/// The schema's text, as it was when this crate was compiled.
pub const SOURCE: &str = ::core::include_str!("/schemas/small.cstack");
/// Identifies what the schema means; a database carries the fingerprint of its schema.
pub const FINGERPRINT: &str = "d56fdd527bce3a619b49438c85613443ff439c2d4a539a0c8cc2c5efd8b61931";
const SCHEMA: ::cratestack::typed::Source = ::cratestack::typed::Source {
    name: "small",
    text: SOURCE,
    fingerprint: FINGERPRINT,
};
/// A database that carries the schema `small`. Clones share everything.
#[derive(Debug, Clone)]
pub struct Db(::cratestack::typed::Engine);
impl Db {
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
    /// The engine, for `cratestack::router`.
    pub fn engine(&self) -> &::cratestack::typed::Engine {
        &self.0
    }
    /// What a caller without credentials does.
    pub fn anonymous(&self) -> Session {
        Session(::cratestack::typed::Session::anonymous(&self.0))
    }
}
/// The database as one caller sees it: every rule of the schema holds.
#[derive(Debug, Clone)]
pub struct Session(::cratestack::typed::Session);
impl Session {
    /// The same caller, within a request of the host.
    #[must_use]
    pub fn within(self, request: ::cratestack::typed::RequestContext) -> Self {
        Self(self.0.within(request))
    }
    /// The rows of [`Note`].
    pub fn notes(&self) -> ::cratestack::typed::Table<'_, Note> {
        ::cratestack::typed::Table::new(&self.0)
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
