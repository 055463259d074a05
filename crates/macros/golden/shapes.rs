/// The schema's text, as it was when this crate was compiled.
pub const SOURCE: &str = ::core::include_str!("/schemas/shapes.cstack");
/// Identifies what the schema means; a database carries the fingerprint of its schema.
pub const FINGERPRINT: &str = "c9e0b451c54dc63aac11004144c7d2f922180bb4c082b5243a1ba92652ce860b";
const SCHEMA: ::cratestack::typed::Source = ::cratestack::typed::Source {
    name: "shapes",
    text: SOURCE,
    fingerprint: FINGERPRINT,
    decimal: ::cratestack::typed::Backend::RustDecimal,
};
::cratestack::needs_rust_decimal!();
/// A database that carries the schema `shapes`. Clones share everything.
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
    /// What a caller does whom the host has authenticated by `method`, which the audit trail tells.
    ///
    /// # Errors
    /// When a claim is no value of its type.
    pub fn as_principal(
        &self,
        principal: &Caller,
        method: ::cratestack::typed::AuthMethod,
    ) -> ::core::result::Result<Session<'static>, ::cratestack::typed::Error> {
        ::cratestack::typed::Session::anonymous(&self.0)
            .principal(principal, method)
            .map(::cratestack::typed::Face::of)
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
    type Principal = Caller;
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
    /// The rows of [`Thing`].
    pub fn things(&self) -> ::cratestack::typed::Table<'_, Thing, SessionAccess> {
        ::cratestack::typed::Table::new(&self.0)
    }
    /// The rows of [`Owner`].
    pub fn owners(&self) -> ::cratestack::typed::Table<'_, Owner, SessionAccess> {
        ::cratestack::typed::Table::new(&self.0)
    }
    /// The rows of [`Part`].
    pub fn thing_parts(&self) -> ::cratestack::typed::Table<'_, Part, SessionAccess> {
        ::cratestack::typed::Table::new(&self.0)
    }
    /// The rows of [`Seal`].
    pub fn seals(&self) -> ::cratestack::typed::Table<'_, Seal, SessionAccess> {
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
/// The authenticated caller, as the `auth` block declares it.
#[derive(Debug, Clone, PartialEq)]
pub struct Caller {
    /// The field `id`.
    pub id: ::std::string::String,
    /// The field `state`.
    pub state: ::core::option::Option<State>,
    /// The field `tenantId`.
    pub tenant_id: ::std::string::String,
    /// The field `roles`.
    pub roles: ::std::vec::Vec<::std::string::String>,
}
impl ::cratestack::typed::Input for Caller {
    fn write(&self, out: &mut ::cratestack::typed::Writer) {
        out.put("id", &self.id);
        out.put("state", &self.state);
        out.put("tenantId", &self.tenant_id);
        out.put("roles", &self.roles);
    }
}
impl ::cratestack::typed::Claims for Caller {
    fn read(
        row: &mut ::cratestack::typed::Reader,
    ) -> ::core::result::Result<Self, ::cratestack::typed::ValueError> {
        ::core::result::Result::Ok(Self {
            id: row.take("id")?,
            state: row.take("state")?,
            tenant_id: row.take("tenantId")?,
            roles: row.take("roles")?,
        })
    }
}
/// How it stands.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum State {
    /// Not done yet.
    Open,
    /// The value `in_progress`.
    InProgress,
    /// The value `unknown`.
    Unknown,
    /// A stored text that the schema does not know. It can be read, and never sent.
    Unrecognized(::std::string::String),
}
impl ::cratestack::typed::Enumeration for State {
    fn known(&self) -> ::core::option::Option<&'static str> {
        match self {
            Self::Open => ::core::option::Option::Some("open"),
            Self::InProgress => ::core::option::Option::Some("in_progress"),
            Self::Unknown => ::core::option::Option::Some("unknown"),
            Self::Unrecognized(_) => ::core::option::Option::None,
        }
    }
    fn of(name: ::std::string::String) -> Self {
        match name.as_str() {
            "open" => Self::Open,
            "in_progress" => Self::InProgress,
            "unknown" => Self::Unknown,
            _ => Self::Unrecognized(name),
        }
    }
}
impl ::cratestack::typed::Value for State {
    fn encode(
        &self,
    ) -> ::core::result::Result<
        ::cratestack::typed::Json,
        ::cratestack::typed::ValueError,
    > {
        ::cratestack::typed::encode_enum(self)
    }
    fn decode(
        json: ::cratestack::typed::Json,
    ) -> ::core::result::Result<Self, ::cratestack::typed::ValueError> {
        ::cratestack::typed::decode_enum(json)
    }
}
impl ::cratestack::typed::Comparable for State {}
/// The type `Money`.
#[derive(Debug, Clone, PartialEq)]
pub struct Money {
    /// In the currency.
    pub amount: ::cratestack::typed::Decimal,
    /// The field `currency`.
    pub currency: ::std::string::String,
    /// The field `large`.
    pub large: ::std::vec::Vec<i64>,
    /// The field `parts`.
    pub parts: ::std::vec::Vec<Money>,
    /// The field `change`.
    pub change: ::core::option::Option<::std::boxed::Box<Money>>,
}
impl ::cratestack::typed::Value for Money {
    fn encode(
        &self,
    ) -> ::core::result::Result<
        ::cratestack::typed::Json,
        ::cratestack::typed::ValueError,
    > {
        let mut out = ::cratestack::typed::Writer::default();
        out.put("amount", &self.amount);
        out.put("currency", &self.currency);
        out.put("large", &self.large);
        out.big("large");
        out.put("parts", &self.parts);
        out.put("change", &self.change);
        out.nested()
    }
    fn decode(
        json: ::cratestack::typed::Json,
    ) -> ::core::result::Result<Self, ::cratestack::typed::ValueError> {
        let mut row = ::cratestack::typed::Reader::new(json)?;
        ::core::result::Result::Ok(Self {
            amount: row.take("amount")?,
            currency: row.take("currency")?,
            large: row.take("large")?,
            parts: row.take("parts")?,
            change: row.given("change")?,
        })
    }
}
/// Whatever can be stored.
#[derive(Clone, PartialEq)]
pub struct Thing {
    /// The field `id`.
    pub id: ::cratestack::typed::Uuid,
    /// The field `ownerId`.
    pub owner_id: ::std::string::String,
    /// What it is called.
    ///
    /// Two paragraphs.
    pub name: ::std::string::String,
    /// The field `count`.
    pub count: i64,
    /// The field `large`.
    pub large: i64,
    /// The field `ratio`.
    pub ratio: ::core::option::Option<f64>,
    /// The field `done`.
    pub done: bool,
    /// The field `price`.
    pub price: ::cratestack::typed::Decimal,
    /// The field `exact`.
    pub exact: ::core::option::Option<::cratestack::typed::Decimal>,
    /// The field `at`.
    pub at: ::cratestack::typed::DateTime<::cratestack::typed::Utc>,
    /// The field `day`.
    pub day: ::core::option::Option<::cratestack::typed::NaiveDate>,
    /// The field `code`.
    pub code: ::std::string::String,
    /// The field `octets`.
    pub octets: ::std::vec::Vec<u8>,
    /// The field `extra`.
    pub extra: ::core::option::Option<::cratestack::typed::JsonValue>,
    /// The field `state`.
    pub state: State,
    /// The field `label`.
    pub label: ::core::option::Option<::std::string::String>,
    /// The field `tags`.
    pub tags: ::std::vec::Vec<::std::string::String>,
    /// The field `numbers`.
    pub numbers: ::std::vec::Vec<i64>,
    /// The field `links`.
    pub links: ::std::vec::Vec<::cratestack::typed::Uuid>,
    /// The field `email`.
    pub email: ::core::option::Option<::std::string::String>,
    /// The field `balance`.
    pub balance: ::cratestack::typed::Decimal,
    /// The field `type`.
    ///
    /// **Deprecated:** use `label`
    pub r#type: ::core::option::Option<::std::string::String>,
    /// The field `tenantId`.
    pub tenant_id: ::std::string::String,
    /// The field `createdAt`.
    pub created_at: ::cratestack::typed::DateTime<::cratestack::typed::Utc>,
    /// The field `updatedAt`.
    pub updated_at: ::cratestack::typed::DateTime<::cratestack::typed::Utc>,
    /// The field `version`.
    pub version: i64,
    /// When the row was deleted; on tombstones alone.
    pub deleted_at: ::core::option::Option<
        ::cratestack::typed::DateTime<::cratestack::typed::Utc>,
    >,
}
/// Personal and sensitive values are not shown.
impl ::core::fmt::Debug for Thing {
    fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
        f.debug_struct("Thing")
            .field("id", &self.id)
            .field("owner_id", &self.owner_id)
            .field("name", &self.name)
            .field("count", &self.count)
            .field("large", &self.large)
            .field("ratio", &self.ratio)
            .field("done", &self.done)
            .field("price", &self.price)
            .field("exact", &self.exact)
            .field("at", &self.at)
            .field("day", &self.day)
            .field("code", &self.code)
            .field("octets", &self.octets)
            .field("extra", &self.extra)
            .field("state", &self.state)
            .field("label", &self.label)
            .field("tags", &::cratestack::typed::Redacted)
            .field("numbers", &self.numbers)
            .field("links", &self.links)
            .field("email", &::cratestack::typed::Redacted)
            .field("balance", &self.balance)
            .field("type", &self.r#type)
            .field("tenant_id", &self.tenant_id)
            .field("created_at", &self.created_at)
            .field("updated_at", &self.updated_at)
            .field("version", &self.version)
            .field("deleted_at", &self.deleted_at)
            .finish()
    }
}
impl ::cratestack::typed::Model for Thing {
    type Key = ::cratestack::typed::Uuid;
    const ID: u32 = 0u32;
    const NAME: &'static str = "Thing";
    const ACCESSOR: &'static str = "things";
    fn read(
        row: &mut ::cratestack::typed::Reader,
    ) -> ::core::result::Result<Self, ::cratestack::typed::ValueError> {
        ::core::result::Result::Ok(Self {
            id: row.take("id")?,
            owner_id: row.take("ownerId")?,
            name: row.take("name")?,
            count: row.take("count")?,
            large: row.take("large")?,
            ratio: row.take("ratio")?,
            done: row.take("done")?,
            price: row.take("price")?,
            exact: row.take("exact")?,
            at: row.take("at")?,
            day: row.take("day")?,
            code: row.take("code")?,
            octets: row.take("octets")?,
            extra: row.take("extra")?,
            state: row.take("state")?,
            label: row.take("label")?,
            tags: row.take("tags")?,
            numbers: row.take("numbers")?,
            links: row.take("links")?,
            email: row.take("email")?,
            balance: row.take("balance")?,
            r#type: row.take("type")?,
            tenant_id: row.take("tenantId")?,
            created_at: row.take("createdAt")?,
            updated_at: row.take("updatedAt")?,
            version: row.take("version")?,
            deleted_at: row.maybe("deletedAt")?,
        })
    }
}
/// A new row of [`Thing`].
///
/// What is `None` gets its default, or no value.
#[derive(Clone, PartialEq)]
pub struct NewThing {
    /// The field `id`.
    pub id: ::core::option::Option<::cratestack::typed::Uuid>,
    /// The field `ownerId`.
    pub owner_id: ::std::string::String,
    /// What it is called.
    ///
    /// Two paragraphs.
    pub name: ::std::string::String,
    /// The field `count`.
    pub count: i64,
    /// The field `large`.
    pub large: ::core::option::Option<i64>,
    /// The field `ratio`.
    pub ratio: ::core::option::Option<f64>,
    /// The field `done`.
    pub done: ::core::option::Option<bool>,
    /// The field `price`.
    pub price: ::cratestack::typed::Decimal,
    /// The field `exact`.
    pub exact: ::core::option::Option<::cratestack::typed::Decimal>,
    /// The field `at`.
    pub at: ::cratestack::typed::DateTime<::cratestack::typed::Utc>,
    /// The field `day`.
    pub day: ::core::option::Option<::cratestack::typed::NaiveDate>,
    /// The field `code`.
    pub code: ::core::option::Option<::std::string::String>,
    /// The field `octets`.
    pub octets: ::std::vec::Vec<u8>,
    /// The field `extra`.
    pub extra: ::core::option::Option<::cratestack::typed::JsonValue>,
    /// The field `state`.
    pub state: ::core::option::Option<State>,
    /// The field `label`.
    pub label: ::core::option::Option<::core::option::Option<::std::string::String>>,
    /// The field `tags`.
    pub tags: ::std::vec::Vec<::std::string::String>,
    /// The field `numbers`.
    pub numbers: ::std::vec::Vec<i64>,
    /// The field `links`.
    pub links: ::std::vec::Vec<::cratestack::typed::Uuid>,
    /// The field `email`.
    pub email: ::core::option::Option<::std::string::String>,
    /// The field `type`.
    ///
    /// **Deprecated:** use `label`
    pub r#type: ::core::option::Option<::std::string::String>,
}
/// Personal and sensitive values are not shown.
impl ::core::fmt::Debug for NewThing {
    fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
        f.debug_struct("NewThing")
            .field("id", &self.id)
            .field("owner_id", &self.owner_id)
            .field("name", &self.name)
            .field("count", &self.count)
            .field("large", &self.large)
            .field("ratio", &self.ratio)
            .field("done", &self.done)
            .field("price", &self.price)
            .field("exact", &self.exact)
            .field("at", &self.at)
            .field("day", &self.day)
            .field("code", &self.code)
            .field("octets", &self.octets)
            .field("extra", &self.extra)
            .field("state", &self.state)
            .field("label", &self.label)
            .field("tags", &::cratestack::typed::Redacted)
            .field("numbers", &self.numbers)
            .field("links", &self.links)
            .field("email", &::cratestack::typed::Redacted)
            .field("type", &self.r#type)
            .finish()
    }
}
impl ::cratestack::typed::Input for NewThing {
    fn write(&self, out: &mut ::cratestack::typed::Writer) {
        out.given("id", self.id.as_ref());
        out.put("ownerId", &self.owner_id);
        out.put("name", &self.name);
        out.put("count", &self.count);
        out.given("large", self.large.as_ref());
        out.big("large");
        out.put("ratio", &self.ratio);
        out.given("done", self.done.as_ref());
        out.put("price", &self.price);
        out.put("exact", &self.exact);
        out.put("at", &self.at);
        out.put("day", &self.day);
        out.given("code", self.code.as_ref());
        out.put("octets", &self.octets);
        out.put("extra", &self.extra);
        out.given("state", self.state.as_ref());
        out.given("label", self.label.as_ref());
        out.put("tags", &self.tags);
        out.put("numbers", &self.numbers);
        out.put("links", &self.links);
        out.put("email", &self.email);
        out.put("type", &self.r#type);
    }
}
/// A change of a row of [`Thing`]; the default keeps everything.
#[derive(Clone, PartialEq, Default)]
pub struct ThingPatch {
    /// What it is called.
    ///
    /// Two paragraphs.
    pub name: ::cratestack::typed::Change<::std::string::String>,
    /// The field `count`.
    pub count: ::cratestack::typed::Change<i64>,
    /// The field `large`.
    pub large: ::cratestack::typed::Change<i64>,
    /// The field `ratio`.
    pub ratio: ::cratestack::typed::Change<::core::option::Option<f64>>,
    /// The field `done`.
    pub done: ::cratestack::typed::Change<bool>,
    /// The field `price`.
    pub price: ::cratestack::typed::Change<::cratestack::typed::Decimal>,
    /// The field `exact`.
    pub exact: ::cratestack::typed::Change<
        ::core::option::Option<::cratestack::typed::Decimal>,
    >,
    /// The field `at`.
    pub at: ::cratestack::typed::Change<
        ::cratestack::typed::DateTime<::cratestack::typed::Utc>,
    >,
    /// The field `day`.
    pub day: ::cratestack::typed::Change<
        ::core::option::Option<::cratestack::typed::NaiveDate>,
    >,
    /// The field `code`.
    pub code: ::cratestack::typed::Change<::std::string::String>,
    /// The field `octets`.
    pub octets: ::cratestack::typed::Change<::std::vec::Vec<u8>>,
    /// The field `extra`.
    pub extra: ::cratestack::typed::Change<
        ::core::option::Option<::cratestack::typed::JsonValue>,
    >,
    /// The field `state`.
    pub state: ::cratestack::typed::Change<State>,
    /// The field `label`.
    pub label: ::cratestack::typed::Change<
        ::core::option::Option<::std::string::String>,
    >,
    /// The field `tags`.
    pub tags: ::cratestack::typed::Change<::std::vec::Vec<::std::string::String>>,
    /// The field `numbers`.
    pub numbers: ::cratestack::typed::Change<::std::vec::Vec<i64>>,
    /// The field `links`.
    pub links: ::cratestack::typed::Change<::std::vec::Vec<::cratestack::typed::Uuid>>,
    /// The field `email`.
    pub email: ::cratestack::typed::Change<
        ::core::option::Option<::std::string::String>,
    >,
    /// The field `type`.
    ///
    /// **Deprecated:** use `label`
    pub r#type: ::cratestack::typed::Change<
        ::core::option::Option<::std::string::String>,
    >,
}
/// Personal and sensitive values are not shown.
impl ::core::fmt::Debug for ThingPatch {
    fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
        f.debug_struct("ThingPatch")
            .field("name", &self.name)
            .field("count", &self.count)
            .field("large", &self.large)
            .field("ratio", &self.ratio)
            .field("done", &self.done)
            .field("price", &self.price)
            .field("exact", &self.exact)
            .field("at", &self.at)
            .field("day", &self.day)
            .field("code", &self.code)
            .field("octets", &self.octets)
            .field("extra", &self.extra)
            .field("state", &self.state)
            .field("label", &self.label)
            .field("tags", &::cratestack::typed::Redacted)
            .field("numbers", &self.numbers)
            .field("links", &self.links)
            .field("email", &::cratestack::typed::Redacted)
            .field("type", &self.r#type)
            .finish()
    }
}
impl ::cratestack::typed::Input for ThingPatch {
    fn write(&self, out: &mut ::cratestack::typed::Writer) {
        out.change("name", &self.name);
        out.change("count", &self.count);
        out.change("large", &self.large);
        out.big("large");
        out.change("ratio", &self.ratio);
        out.change("done", &self.done);
        out.change("price", &self.price);
        out.change("exact", &self.exact);
        out.change("at", &self.at);
        out.change("day", &self.day);
        out.change("code", &self.code);
        out.change("octets", &self.octets);
        out.change("extra", &self.extra);
        out.change("state", &self.state);
        out.change("label", &self.label);
        out.change("tags", &self.tags);
        out.change("numbers", &self.numbers);
        out.change("links", &self.links);
        out.change("email", &self.email);
        out.change("type", &self.r#type);
    }
}
impl ::cratestack::typed::Creatable for Thing {
    type New = NewThing;
}
impl ::cratestack::typed::Changeable for Thing {
    type Patch = ThingPatch;
}
impl ::cratestack::typed::Versioned for Thing {}
impl ::cratestack::typed::SoftDelete for Thing {}
pub mod thing {
    //! Fields and relations of [`Thing`](super::Thing), for filters, orders and includes.
    /// A row of [`Thing`](super::Thing) that is reached from `R` over relations.
    #[derive(Debug)]
    pub struct Related<R>(pub(super) ::cratestack::typed::Path<R>);
    impl<R> ::cratestack::typed::Include<R> for Related<R> {
        type Output = ::core::option::Option<super::Thing>;
        fn path(self) -> ::cratestack::typed::Path<R> {
            self.0
        }
    }
    /// The field `id`.
    pub fn id() -> ::cratestack::typed::Field<super::Thing, ::cratestack::typed::Uuid> {
        ::cratestack::typed::Field::new(::cratestack::typed::Path::new("id"))
    }
    /// The field `ownerId`.
    pub fn owner_id() -> ::cratestack::typed::Field<
        super::Thing,
        ::std::string::String,
    > {
        ::cratestack::typed::Field::new(::cratestack::typed::Path::new("ownerId"))
    }
    /// What it is called.
    ///
    /// Two paragraphs.
    pub fn name() -> ::cratestack::typed::Field<super::Thing, ::std::string::String> {
        ::cratestack::typed::Field::new(::cratestack::typed::Path::new("name"))
    }
    /// The field `count`.
    pub fn count() -> ::cratestack::typed::Field<super::Thing, i64> {
        ::cratestack::typed::Field::new(::cratestack::typed::Path::new("count"))
    }
    /// The field `large`.
    pub fn large() -> ::cratestack::typed::Field<super::Thing, i64> {
        ::cratestack::typed::Field::new(::cratestack::typed::Path::new("large"))
    }
    /// The field `ratio`.
    pub fn ratio() -> ::cratestack::typed::Field<super::Thing, f64> {
        ::cratestack::typed::Field::new(::cratestack::typed::Path::new("ratio"))
    }
    /// The field `done`.
    pub fn done() -> ::cratestack::typed::Field<super::Thing, bool> {
        ::cratestack::typed::Field::new(::cratestack::typed::Path::new("done"))
    }
    /// The field `price`.
    pub fn price() -> ::cratestack::typed::Field<
        super::Thing,
        ::cratestack::typed::Decimal,
    > {
        ::cratestack::typed::Field::new(::cratestack::typed::Path::new("price"))
    }
    /// The field `exact`.
    pub fn exact() -> ::cratestack::typed::Field<
        super::Thing,
        ::cratestack::typed::Decimal,
    > {
        ::cratestack::typed::Field::new(::cratestack::typed::Path::new("exact"))
    }
    /// The field `at`.
    pub fn at() -> ::cratestack::typed::Field<
        super::Thing,
        ::cratestack::typed::DateTime<::cratestack::typed::Utc>,
    > {
        ::cratestack::typed::Field::new(::cratestack::typed::Path::new("at"))
    }
    /// The field `day`.
    pub fn day() -> ::cratestack::typed::Field<
        super::Thing,
        ::cratestack::typed::NaiveDate,
    > {
        ::cratestack::typed::Field::new(::cratestack::typed::Path::new("day"))
    }
    /// The field `code`.
    pub fn code() -> ::cratestack::typed::Field<super::Thing, ::std::string::String> {
        ::cratestack::typed::Field::new(::cratestack::typed::Path::new("code"))
    }
    /// The field `octets`.
    pub fn octets() -> ::cratestack::typed::Field<super::Thing, ::std::vec::Vec<u8>> {
        ::cratestack::typed::Field::new(::cratestack::typed::Path::new("octets"))
    }
    /// The field `extra`.
    pub fn extra() -> ::cratestack::typed::Field<
        super::Thing,
        ::cratestack::typed::JsonValue,
    > {
        ::cratestack::typed::Field::new(::cratestack::typed::Path::new("extra"))
    }
    /// The field `state`.
    pub fn state() -> ::cratestack::typed::Field<super::Thing, super::State> {
        ::cratestack::typed::Field::new(::cratestack::typed::Path::new("state"))
    }
    /// The field `label`.
    pub fn label() -> ::cratestack::typed::Field<super::Thing, ::std::string::String> {
        ::cratestack::typed::Field::new(::cratestack::typed::Path::new("label"))
    }
    /// The field `tags`.
    pub fn tags() -> ::cratestack::typed::Field<
        super::Thing,
        ::std::vec::Vec<::std::string::String>,
    > {
        ::cratestack::typed::Field::new(::cratestack::typed::Path::new("tags"))
    }
    /// The field `numbers`.
    pub fn numbers() -> ::cratestack::typed::Field<super::Thing, ::std::vec::Vec<i64>> {
        ::cratestack::typed::Field::new(::cratestack::typed::Path::new("numbers"))
    }
    /// The field `links`.
    pub fn links() -> ::cratestack::typed::Field<
        super::Thing,
        ::std::vec::Vec<::cratestack::typed::Uuid>,
    > {
        ::cratestack::typed::Field::new(::cratestack::typed::Path::new("links"))
    }
    /// The field `email`.
    pub fn email() -> ::cratestack::typed::Field<super::Thing, ::std::string::String> {
        ::cratestack::typed::Field::new(::cratestack::typed::Path::new("email"))
    }
    /// The field `balance`.
    pub fn balance() -> ::cratestack::typed::Field<
        super::Thing,
        ::cratestack::typed::Decimal,
    > {
        ::cratestack::typed::Field::new(::cratestack::typed::Path::new("balance"))
    }
    /// The field `type`.
    ///
    /// **Deprecated:** use `label`
    pub fn r#type() -> ::cratestack::typed::Field<super::Thing, ::std::string::String> {
        ::cratestack::typed::Field::new(::cratestack::typed::Path::new("type"))
    }
    /// The field `tenantId`.
    pub fn tenant_id() -> ::cratestack::typed::Field<
        super::Thing,
        ::std::string::String,
    > {
        ::cratestack::typed::Field::new(::cratestack::typed::Path::new("tenantId"))
    }
    /// The field `createdAt`.
    pub fn created_at() -> ::cratestack::typed::Field<
        super::Thing,
        ::cratestack::typed::DateTime<::cratestack::typed::Utc>,
    > {
        ::cratestack::typed::Field::new(::cratestack::typed::Path::new("createdAt"))
    }
    /// The field `updatedAt`.
    pub fn updated_at() -> ::cratestack::typed::Field<
        super::Thing,
        ::cratestack::typed::DateTime<::cratestack::typed::Utc>,
    > {
        ::cratestack::typed::Field::new(::cratestack::typed::Path::new("updatedAt"))
    }
    /// The field `version`.
    pub fn version() -> ::cratestack::typed::Field<super::Thing, i64> {
        ::cratestack::typed::Field::new(::cratestack::typed::Path::new("version"))
    }
    /// When the row was deleted; on tombstones alone.
    pub fn deleted_at() -> ::cratestack::typed::Field<
        super::Thing,
        ::cratestack::typed::DateTime<::cratestack::typed::Utc>,
    > {
        ::cratestack::typed::Field::new(::cratestack::typed::Path::new("deletedAt"))
    }
    /// The relation `owner`.
    pub fn owner() -> super::owner::Related<super::Thing> {
        super::owner::Related(::cratestack::typed::Path::new("owner"))
    }
    /// The relation `parts`.
    pub fn parts() -> ::cratestack::typed::Many<super::Thing, super::Part> {
        ::cratestack::typed::Many::new(::cratestack::typed::Path::new("parts"))
    }
    /// The relation `seal`.
    pub fn seal() -> super::seal::Related<super::Thing> {
        super::seal::Related(::cratestack::typed::Path::new("seal"))
    }
    impl<R> Related<R> {
        /// The field `id`.
        pub fn id(&self) -> ::cratestack::typed::Field<R, ::cratestack::typed::Uuid> {
            ::cratestack::typed::Field::new(self.0.then("id"))
        }
        /// The field `ownerId`.
        pub fn owner_id(&self) -> ::cratestack::typed::Field<R, ::std::string::String> {
            ::cratestack::typed::Field::new(self.0.then("ownerId"))
        }
        /// What it is called.
        ///
        /// Two paragraphs.
        pub fn name(&self) -> ::cratestack::typed::Field<R, ::std::string::String> {
            ::cratestack::typed::Field::new(self.0.then("name"))
        }
        /// The field `count`.
        pub fn count(&self) -> ::cratestack::typed::Field<R, i64> {
            ::cratestack::typed::Field::new(self.0.then("count"))
        }
        /// The field `large`.
        pub fn large(&self) -> ::cratestack::typed::Field<R, i64> {
            ::cratestack::typed::Field::new(self.0.then("large"))
        }
        /// The field `ratio`.
        pub fn ratio(&self) -> ::cratestack::typed::Field<R, f64> {
            ::cratestack::typed::Field::new(self.0.then("ratio"))
        }
        /// The field `done`.
        pub fn done(&self) -> ::cratestack::typed::Field<R, bool> {
            ::cratestack::typed::Field::new(self.0.then("done"))
        }
        /// The field `price`.
        pub fn price(
            &self,
        ) -> ::cratestack::typed::Field<R, ::cratestack::typed::Decimal> {
            ::cratestack::typed::Field::new(self.0.then("price"))
        }
        /// The field `exact`.
        pub fn exact(
            &self,
        ) -> ::cratestack::typed::Field<R, ::cratestack::typed::Decimal> {
            ::cratestack::typed::Field::new(self.0.then("exact"))
        }
        /// The field `at`.
        pub fn at(
            &self,
        ) -> ::cratestack::typed::Field<
            R,
            ::cratestack::typed::DateTime<::cratestack::typed::Utc>,
        > {
            ::cratestack::typed::Field::new(self.0.then("at"))
        }
        /// The field `day`.
        pub fn day(
            &self,
        ) -> ::cratestack::typed::Field<R, ::cratestack::typed::NaiveDate> {
            ::cratestack::typed::Field::new(self.0.then("day"))
        }
        /// The field `code`.
        pub fn code(&self) -> ::cratestack::typed::Field<R, ::std::string::String> {
            ::cratestack::typed::Field::new(self.0.then("code"))
        }
        /// The field `octets`.
        pub fn octets(&self) -> ::cratestack::typed::Field<R, ::std::vec::Vec<u8>> {
            ::cratestack::typed::Field::new(self.0.then("octets"))
        }
        /// The field `extra`.
        pub fn extra(
            &self,
        ) -> ::cratestack::typed::Field<R, ::cratestack::typed::JsonValue> {
            ::cratestack::typed::Field::new(self.0.then("extra"))
        }
        /// The field `state`.
        pub fn state(&self) -> ::cratestack::typed::Field<R, super::State> {
            ::cratestack::typed::Field::new(self.0.then("state"))
        }
        /// The field `label`.
        pub fn label(&self) -> ::cratestack::typed::Field<R, ::std::string::String> {
            ::cratestack::typed::Field::new(self.0.then("label"))
        }
        /// The field `tags`.
        pub fn tags(
            &self,
        ) -> ::cratestack::typed::Field<R, ::std::vec::Vec<::std::string::String>> {
            ::cratestack::typed::Field::new(self.0.then("tags"))
        }
        /// The field `numbers`.
        pub fn numbers(&self) -> ::cratestack::typed::Field<R, ::std::vec::Vec<i64>> {
            ::cratestack::typed::Field::new(self.0.then("numbers"))
        }
        /// The field `links`.
        pub fn links(
            &self,
        ) -> ::cratestack::typed::Field<R, ::std::vec::Vec<::cratestack::typed::Uuid>> {
            ::cratestack::typed::Field::new(self.0.then("links"))
        }
        /// The field `email`.
        pub fn email(&self) -> ::cratestack::typed::Field<R, ::std::string::String> {
            ::cratestack::typed::Field::new(self.0.then("email"))
        }
        /// The field `balance`.
        pub fn balance(
            &self,
        ) -> ::cratestack::typed::Field<R, ::cratestack::typed::Decimal> {
            ::cratestack::typed::Field::new(self.0.then("balance"))
        }
        /// The field `type`.
        ///
        /// **Deprecated:** use `label`
        pub fn r#type(&self) -> ::cratestack::typed::Field<R, ::std::string::String> {
            ::cratestack::typed::Field::new(self.0.then("type"))
        }
        /// The field `tenantId`.
        pub fn tenant_id(&self) -> ::cratestack::typed::Field<R, ::std::string::String> {
            ::cratestack::typed::Field::new(self.0.then("tenantId"))
        }
        /// The field `createdAt`.
        pub fn created_at(
            &self,
        ) -> ::cratestack::typed::Field<
            R,
            ::cratestack::typed::DateTime<::cratestack::typed::Utc>,
        > {
            ::cratestack::typed::Field::new(self.0.then("createdAt"))
        }
        /// The field `updatedAt`.
        pub fn updated_at(
            &self,
        ) -> ::cratestack::typed::Field<
            R,
            ::cratestack::typed::DateTime<::cratestack::typed::Utc>,
        > {
            ::cratestack::typed::Field::new(self.0.then("updatedAt"))
        }
        /// The field `version`.
        pub fn version(&self) -> ::cratestack::typed::Field<R, i64> {
            ::cratestack::typed::Field::new(self.0.then("version"))
        }
        /// When the row was deleted; on tombstones alone.
        pub fn deleted_at(
            &self,
        ) -> ::cratestack::typed::Field<
            R,
            ::cratestack::typed::DateTime<::cratestack::typed::Utc>,
        > {
            ::cratestack::typed::Field::new(self.0.then("deletedAt"))
        }
        /// The relation `owner`.
        pub fn owner(&self) -> super::owner::Related<R> {
            super::owner::Related(self.0.then("owner"))
        }
        /// The relation `parts`.
        pub fn parts(&self) -> ::cratestack::typed::Many<R, super::Part> {
            ::cratestack::typed::Many::new(self.0.then("parts"))
        }
        /// The relation `seal`.
        pub fn seal(&self) -> super::seal::Related<R> {
            super::seal::Related(self.0.then("seal"))
        }
    }
}
/// A row of the model `Owner`.
#[derive(Debug, Clone, PartialEq)]
pub struct Owner {
    /// The field `id`.
    pub id: ::std::string::String,
}
impl ::cratestack::typed::Model for Owner {
    type Key = ::std::string::String;
    const ID: u32 = 1u32;
    const NAME: &'static str = "Owner";
    const ACCESSOR: &'static str = "owners";
    fn read(
        row: &mut ::cratestack::typed::Reader,
    ) -> ::core::result::Result<Self, ::cratestack::typed::ValueError> {
        ::core::result::Result::Ok(Self { id: row.take("id")? })
    }
}
/// A new row of [`Owner`].
///
/// What is `None` gets its default, or no value.
#[derive(Debug, Clone, PartialEq)]
pub struct NewOwner {
    /// The field `id`.
    pub id: ::std::string::String,
}
impl ::cratestack::typed::Input for NewOwner {
    fn write(&self, out: &mut ::cratestack::typed::Writer) {
        out.put("id", &self.id);
    }
}
/// A change of a row of [`Owner`]; the default keeps everything.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct OwnerPatch {}
impl ::cratestack::typed::Input for OwnerPatch {
    fn write(&self, _: &mut ::cratestack::typed::Writer) {}
}
impl ::cratestack::typed::Creatable for Owner {
    type New = NewOwner;
}
impl ::cratestack::typed::Changeable for Owner {
    type Patch = OwnerPatch;
}
pub mod owner {
    //! Fields and relations of [`Owner`](super::Owner), for filters, orders and includes.
    /// A row of [`Owner`](super::Owner) that is reached from `R` over relations.
    #[derive(Debug)]
    pub struct Related<R>(pub(super) ::cratestack::typed::Path<R>);
    impl<R> ::cratestack::typed::Include<R> for Related<R> {
        type Output = ::core::option::Option<super::Owner>;
        fn path(self) -> ::cratestack::typed::Path<R> {
            self.0
        }
    }
    /// The field `id`.
    pub fn id() -> ::cratestack::typed::Field<super::Owner, ::std::string::String> {
        ::cratestack::typed::Field::new(::cratestack::typed::Path::new("id"))
    }
    /// The relation `things`.
    pub fn things() -> ::cratestack::typed::Many<super::Owner, super::Thing> {
        ::cratestack::typed::Many::new(::cratestack::typed::Path::new("things"))
    }
    impl<R> Related<R> {
        /// The field `id`.
        pub fn id(&self) -> ::cratestack::typed::Field<R, ::std::string::String> {
            ::cratestack::typed::Field::new(self.0.then("id"))
        }
        /// The relation `things`.
        pub fn things(&self) -> ::cratestack::typed::Many<R, super::Thing> {
            ::cratestack::typed::Many::new(self.0.then("things"))
        }
    }
}
/// A row of the model `Part`.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// The field `thingId`.
    pub thing_id: ::cratestack::typed::Uuid,
    /// The field `line`.
    pub line: i64,
    /// The field `text`.
    pub text: ::core::option::Option<::std::string::String>,
}
impl ::cratestack::typed::Model for Part {
    type Key = (::cratestack::typed::Uuid, i64);
    const ID: u32 = 2u32;
    const NAME: &'static str = "Part";
    const ACCESSOR: &'static str = "thing_parts";
    fn read(
        row: &mut ::cratestack::typed::Reader,
    ) -> ::core::result::Result<Self, ::cratestack::typed::ValueError> {
        ::core::result::Result::Ok(Self {
            thing_id: row.take("thingId")?,
            line: row.take("line")?,
            text: row.take("text")?,
        })
    }
}
/// A new row of [`Part`].
///
/// What is `None` gets its default, or no value.
#[derive(Debug, Clone, PartialEq)]
pub struct NewPart {
    /// The field `thingId`.
    pub thing_id: ::cratestack::typed::Uuid,
    /// The field `line`.
    pub line: i64,
    /// The field `text`.
    pub text: ::core::option::Option<::std::string::String>,
}
impl ::cratestack::typed::Input for NewPart {
    fn write(&self, out: &mut ::cratestack::typed::Writer) {
        out.put("thingId", &self.thing_id);
        out.put("line", &self.line);
        out.put("text", &self.text);
    }
}
impl ::cratestack::typed::Creatable for Part {
    type New = NewPart;
}
pub mod part {
    //! Fields and relations of [`Part`](super::Part), for filters, orders and includes.
    /// A row of [`Part`](super::Part) that is reached from `R` over relations.
    #[derive(Debug)]
    pub struct Related<R>(pub(super) ::cratestack::typed::Path<R>);
    impl<R> ::cratestack::typed::Include<R> for Related<R> {
        type Output = ::core::option::Option<super::Part>;
        fn path(self) -> ::cratestack::typed::Path<R> {
            self.0
        }
    }
    /// The field `thingId`.
    pub fn thing_id() -> ::cratestack::typed::Field<
        super::Part,
        ::cratestack::typed::Uuid,
    > {
        ::cratestack::typed::Field::new(::cratestack::typed::Path::new("thingId"))
    }
    /// The field `line`.
    pub fn line() -> ::cratestack::typed::Field<super::Part, i64> {
        ::cratestack::typed::Field::new(::cratestack::typed::Path::new("line"))
    }
    /// The field `text`.
    pub fn text() -> ::cratestack::typed::Field<super::Part, ::std::string::String> {
        ::cratestack::typed::Field::new(::cratestack::typed::Path::new("text"))
    }
    /// The relation `thing`.
    pub fn thing() -> super::thing::Related<super::Part> {
        super::thing::Related(::cratestack::typed::Path::new("thing"))
    }
    impl<R> Related<R> {
        /// The field `thingId`.
        pub fn thing_id(
            &self,
        ) -> ::cratestack::typed::Field<R, ::cratestack::typed::Uuid> {
            ::cratestack::typed::Field::new(self.0.then("thingId"))
        }
        /// The field `line`.
        pub fn line(&self) -> ::cratestack::typed::Field<R, i64> {
            ::cratestack::typed::Field::new(self.0.then("line"))
        }
        /// The field `text`.
        pub fn text(&self) -> ::cratestack::typed::Field<R, ::std::string::String> {
            ::cratestack::typed::Field::new(self.0.then("text"))
        }
        /// The relation `thing`.
        pub fn thing(&self) -> super::thing::Related<R> {
            super::thing::Related(self.0.then("thing"))
        }
    }
}
/// A row of the model `Seal`.
#[derive(Debug, Clone, PartialEq)]
pub struct Seal {
    /// The field `id`.
    pub id: i64,
    /// The field `thingId`.
    pub thing_id: ::core::option::Option<::cratestack::typed::Uuid>,
}
impl ::cratestack::typed::Model for Seal {
    type Key = i64;
    const ID: u32 = 3u32;
    const NAME: &'static str = "Seal";
    const ACCESSOR: &'static str = "seals";
    fn read(
        row: &mut ::cratestack::typed::Reader,
    ) -> ::core::result::Result<Self, ::cratestack::typed::ValueError> {
        ::core::result::Result::Ok(Self {
            id: row.take("id")?,
            thing_id: row.take("thingId")?,
        })
    }
}
/// A new row of [`Seal`].
///
/// What is `None` gets its default, or no value.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NewSeal {
    /// The field `thingId`.
    pub thing_id: ::core::option::Option<::cratestack::typed::Uuid>,
}
impl ::cratestack::typed::Input for NewSeal {
    fn write(&self, out: &mut ::cratestack::typed::Writer) {
        out.put("thingId", &self.thing_id);
    }
}
/// A change of a row of [`Seal`]; the default keeps everything.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SealPatch {
    /// The field `thingId`.
    pub thing_id: ::cratestack::typed::Change<
        ::core::option::Option<::cratestack::typed::Uuid>,
    >,
}
impl ::cratestack::typed::Input for SealPatch {
    fn write(&self, out: &mut ::cratestack::typed::Writer) {
        out.change("thingId", &self.thing_id);
    }
}
impl ::cratestack::typed::Creatable for Seal {
    type New = NewSeal;
}
impl ::cratestack::typed::Changeable for Seal {
    type Patch = SealPatch;
}
pub mod seal {
    //! Fields and relations of [`Seal`](super::Seal), for filters, orders and includes.
    /// A row of [`Seal`](super::Seal) that is reached from `R` over relations.
    #[derive(Debug)]
    pub struct Related<R>(pub(super) ::cratestack::typed::Path<R>);
    impl<R> ::cratestack::typed::Include<R> for Related<R> {
        type Output = ::core::option::Option<super::Seal>;
        fn path(self) -> ::cratestack::typed::Path<R> {
            self.0
        }
    }
    /// The field `id`.
    pub fn id() -> ::cratestack::typed::Field<super::Seal, i64> {
        ::cratestack::typed::Field::new(::cratestack::typed::Path::new("id"))
    }
    /// The field `thingId`.
    pub fn thing_id() -> ::cratestack::typed::Field<
        super::Seal,
        ::cratestack::typed::Uuid,
    > {
        ::cratestack::typed::Field::new(::cratestack::typed::Path::new("thingId"))
    }
    /// The relation `thing`.
    pub fn thing() -> super::thing::Related<super::Seal> {
        super::thing::Related(::cratestack::typed::Path::new("thing"))
    }
    impl<R> Related<R> {
        /// The field `id`.
        pub fn id(&self) -> ::cratestack::typed::Field<R, i64> {
            ::cratestack::typed::Field::new(self.0.then("id"))
        }
        /// The field `thingId`.
        pub fn thing_id(
            &self,
        ) -> ::cratestack::typed::Field<R, ::cratestack::typed::Uuid> {
            ::cratestack::typed::Field::new(self.0.then("thingId"))
        }
        /// The relation `thing`.
        pub fn thing(&self) -> super::thing::Related<R> {
            super::thing::Related(self.0.then("thing"))
        }
    }
}
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no bodies for the procedures of the schema `shapes`",
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
