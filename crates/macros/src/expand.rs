//! From a compiled schema to Rust items. A pure function: the golden files in `golden/` show what it gives.

mod fields;
mod inputs;
mod models;
mod procedures;

use std::ops::Deref;

use cratestack_schema::decimal::{Backend, defaults_beyond};
use cratestack_schema::ir::{Enum, Field, FieldType, Scalar, Schema, TypeId};
use proc_macro2::TokenStream;
use quote::quote;

use crate::names::{Scope, ident, pascal, snake};

/// A schema, and what its scalars are in Rust.
pub(crate) struct Face<'s> {
    pub(crate) schema: &'s Schema,
    pub(crate) decimal: Backend,
}

impl Deref for Face<'_> {
    type Target = Schema;

    fn deref(&self) -> &Schema {
        self.schema
    }
}

/// The items of a schema. `absolute` is the path of its file.
///
/// # Errors
/// Two names of the schema that become one in Rust.
pub(crate) fn expand(schema: &Face<'_>, absolute: &str) -> Result<TokenStream, String> {
    check_names(schema)?;
    if let [first, ..] = defaults_beyond(schema, schema.decimal).as_slice() {
        let name = schema.decimal.name();
        return Err(format!(
            "the default of `{first}` has more digits than `{name}` holds; say `decimal = \"bigdecimal\"`"
        ));
    }
    let name = &schema.name;
    let fingerprint = schema.fingerprint();
    let enums: TokenStream = schema.enums.iter().map(enumeration).collect::<Result<_, _>>()?;
    let types: TokenStream =
        schema.types.iter().map(|of| inputs::value_object(schema, of)).collect::<Result<_, _>>()?;
    let principal = schema.auth.as_ref().map(|auth| inputs::principal(schema, auth)).transpose()?;
    let models: TokenStream =
        schema.models().map(|(id, of)| models::model(schema, id, of)).collect::<Result<_, _>>()?;
    let (decimal, decimals) = decimals(schema);
    let database = database(schema);
    let session = session(schema);
    let (answers, procedures) = (procedures::answers(schema), procedures::procedures(schema)?);
    Ok(quote! {
        /// The schema's text, as it was when this crate was compiled.
        pub const SOURCE: &str = ::core::include_str!(#absolute);
        /// Identifies what the schema means; a database carries the fingerprint of its schema.
        pub const FINGERPRINT: &str = #fingerprint;
        const SCHEMA: ::cratestack::typed::Source =
            ::cratestack::typed::Source { name: #name, text: SOURCE, fingerprint: FINGERPRINT, decimal: #decimal };
        #decimals
        #database
        #session
        #principal
        #enums
        #types
        #models
        #answers
        #procedures
    })
}

/// The backend as Rust says it, and what is an error of the compiler where `cratestack` does not have it.
fn decimals(schema: &Face<'_>) -> (TokenStream, TokenStream) {
    let has = |fields: &[Field]| fields.iter().any(|field| matches!(field.ty, FieldType::Scalar(Scalar::Decimal(_))));
    let returned = |procedure: &cratestack_schema::ir::Procedure| {
        matches!(procedure.returns.ty, FieldType::Scalar(Scalar::Decimal(_)))
    };
    let used = schema.models.iter().any(|model| has(&model.fields))
        || schema.types.iter().any(|of| has(&of.fields))
        || schema.auth.iter().any(|auth| has(&auth.fields))
        || schema.procedures.iter().any(|procedure| has(&procedure.params) || returned(procedure));
    let (name, needs) = match schema.decimal {
        Backend::RustDecimal => (quote!(RustDecimal), quote!(::cratestack::needs_rust_decimal!();)),
        Backend::BigDecimal => (quote!(BigDecimal), quote!(::cratestack::needs_bigdecimal!();)),
    };
    (quote!(::cratestack::typed::Backend::#name), if used { needs } else { TokenStream::new() })
}

/// Names of items, modules and accessors are each used once.
fn check_names(schema: &Face<'_>) -> Result<(), String> {
    let mut items = Scope::with(&[
        "Db",
        "Session",
        "Tx",
        "ReadTx",
        "Procedures",
        "ProcedureBodies",
        "SessionAccess",
        "SOURCE",
        "FINGERPRINT",
        "SCHEMA",
    ]);
    let mut modules = Scope::default();
    let mut accessors = Scope::with(&[
        "within",
        "transaction",
        "as_principal",
        "as_system",
        "without_rules",
        "sqlx",
        "sqlite",
        "emit",
        "after_commit",
    ]);
    let rename = "rename one of them";
    for of in &schema.enums {
        items.take(&of.name, &format!("the enum `{}`", of.name), rename)?;
    }
    for of in &schema.types {
        items.take(&of.name, &format!("the type `{}`", of.name), rename)?;
    }
    if let Some(auth) = &schema.auth {
        items.take(&auth.name, &format!("the auth block `{}`", auth.name), rename)?;
    }
    for of in &schema.models {
        let what = format!("the model `{}`", of.name);
        items.take(&of.name, &what, rename)?;
        items.take(&format!("New{}", of.name), &format!("the create input of {what}"), rename)?;
        items.take(&format!("{}Patch", of.name), &format!("the patch of {what}"), rename)?;
        modules.take(&snake(&of.name), &what, rename)?;
        accessors.take(&snake(&of.path), &what, "give one of them another `@@path`")?;
    }
    Ok(())
}

/// The documentation of the author, or ours.
fn doc(author: Option<&str>, ours: &str) -> TokenStream {
    let text = author.filter(|text| !text.trim().is_empty()).unwrap_or(ours);
    text.lines().map(|line| format!(" {}", line.trim())).map(|line| quote!(#[doc = #line])).collect()
}

/// The documentation of a field.
fn field_doc(field: &Field) -> TokenStream {
    let ours = if field.synthetic {
        "When the row was deleted; on tombstones alone.".to_owned()
    } else {
        format!("The field `{}`.", field.name)
    };
    let doc = doc(field.doc.as_deref(), &ours);
    let deprecated = field.deprecated.as_ref().map(|why| {
        let line = format!(" **Deprecated:** {why}");
        quote!(#[doc = ""] #[doc = #line])
    });
    quote!(#doc #deprecated)
}

fn enumeration(of: &Enum) -> Result<TokenStream, String> {
    let mut variants = Scope::with(&["Unrecognized"]);
    for variant in &of.variants {
        let what = format!("the value `{}` of `{}`", variant.name, of.name);
        variants.take(&pascal(&variant.name), &what, "rename one of them, and keep what is stored with `@map`")?;
    }
    let name = ident(&of.name);
    let docs = doc(of.doc.as_deref(), &format!("The enum `{}`.", of.name));
    let idents: Vec<_> = of.variants.iter().map(|variant| ident(&pascal(&variant.name))).collect();
    let words: Vec<_> = of.variants.iter().map(|variant| &variant.name).collect();
    let variant_docs = of.variants.iter().map(|one| doc(one.doc.as_deref(), &format!("The value `{}`.", one.name)));
    Ok(quote! {
        #docs
        #[derive(Debug, Clone, PartialEq, Eq, Hash)]
        pub enum #name {
            #(#variant_docs #idents,)*
            /// A stored text that the schema does not know. It can be read, and never sent.
            Unrecognized(::std::string::String),
        }
        impl ::cratestack::typed::Enumeration for #name {
            fn known(&self) -> ::core::option::Option<&'static str> {
                match self {
                    #(Self::#idents => ::core::option::Option::Some(#words),)*
                    Self::Unrecognized(_) => ::core::option::Option::None,
                }
            }
            fn of(name: ::std::string::String) -> Self {
                match name.as_str() {
                    #(#words => Self::#idents,)*
                    _ => Self::Unrecognized(name),
                }
            }
        }
        impl ::cratestack::typed::Value for #name {
            fn encode(&self) -> ::core::result::Result<::cratestack::typed::Json, ::cratestack::typed::ValueError> {
                ::cratestack::typed::encode_enum(self)
            }
            fn decode(
                json: ::cratestack::typed::Json,
            ) -> ::core::result::Result<Self, ::cratestack::typed::ValueError> {
                ::cratestack::typed::decode_enum(json)
            }
        }
        impl ::cratestack::typed::Comparable for #name {}
    })
}

fn database(schema: &Face<'_>) -> TokenStream {
    let docs = format!(" A database that carries the schema `{}`. Clones share everything.", schema.name);
    let principal = schema.auth.as_ref().map(|auth| {
        let principal = ident(&auth.name);
        quote! {
            /// What a caller does whom the host has authenticated by `method`, which the audit trail tells.
            ///
            /// # Errors
            /// When a claim is no value of its type.
            pub fn as_principal(
                &self,
                principal: &#principal,
                method: ::cratestack::typed::AuthMethod,
            ) -> ::core::result::Result<Session<'static>, ::cratestack::typed::Error> {
                ::cratestack::typed::Session::anonymous(&self.0)
                    .principal(principal, method)
                    .map(::cratestack::typed::Face::of)
            }
        }
    });
    quote! {
        #[doc = #docs]
        #[derive(Debug, Clone)]
        pub struct Db(::cratestack::typed::Engine);
        impl Db {
            /// Makes the tables in the empty database of a URL, so that it can be opened. A database that carries this very
            /// schema stays as it is.
            ///
            /// # Errors
            /// When the database cannot be reached, or something else is there.
            pub async fn apply(url: &str) -> ::core::result::Result<(), ::cratestack::typed::OpenError> {
                SCHEMA.apply(url).await
            }
            /// Opens the database of a URL: `postgres://..` or `sqlite:PATH`, which carry the schema already, or
            /// `sqlite::memory:`, which is made.
            pub async fn connect(url: &str) -> ::core::result::Result<Self, ::cratestack::typed::OpenError> {
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
            #principal
            /// What a job of the service itself does. No rule is asked, so this is not for what a caller has sent; fields can be
            /// `put` that no request may send. The audit trail has the name of the job.
            pub fn as_system(&self, job: &str) -> Session<'static> {
                ::cratestack::typed::Face::of(::cratestack::typed::Session::anonymous(&self.0).system(job))
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
    }
}

fn session(schema: &Face<'_>) -> TokenStream {
    let accessors = schema.models.iter().map(|of| {
        let (accessor, name) = (ident(&snake(&of.path)), ident(&of.name));
        let docs = format!(" The rows of [`{}`].", of.name);
        quote! {
            #[doc = #docs]
            pub fn #accessor(&self) -> ::cratestack::typed::Table<'_, #name, SessionAccess> {
                ::cratestack::typed::Table::new(&self.0)
            }
        }
    });
    let principal = schema.auth.as_ref().map(|auth| ident(&auth.name));
    let principal = principal.map_or(quote!(::cratestack::typed::Nobody), |name| quote!(#name));
    quote! {
        /// A running transaction, as the body of a mutation procedure and `transaction` get it. Beside its own methods it
        /// has the accessors of a [`Session`].
        pub type Tx<'t> = ::cratestack::typed::Tx<'t, Session<'t>>;
        /// A running transaction that only reads, all of one snapshot, as the body of any other procedure gets it.
        pub type ReadTx<'t> = ::cratestack::typed::Tx<'t, Session<'t, ::cratestack::typed::ReadOnly>>;
        /// The database as one caller sees it: every rule of the schema holds. `'t` is the transaction that it is in, if any.
        #[derive(Debug, Clone)]
        pub struct Session<'t, SessionAccess = ::cratestack::typed::ReadWrite>(
            ::cratestack::typed::Session<'t>,
            ::core::marker::PhantomData<fn() -> SessionAccess>,
        );
        impl<'t, SessionAccess> ::cratestack::typed::Face<'t> for Session<'t, SessionAccess> {
            type Principal = #principal;
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
            #(#accessors)*
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
                ::core::result::Result::Ok(::cratestack::typed::run_in_isolated_tx_with(self, &options, body).await?)
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
    }
}

/// The Rust type of one value.
fn value_type(schema: &Face<'_>, ty: FieldType, from: &TokenStream) -> TokenStream {
    match ty {
        FieldType::Scalar(scalar) => match scalar {
            Scalar::String | Scalar::Cuid => quote!(::std::string::String),
            Scalar::Int | Scalar::BigInt => quote!(i64),
            Scalar::Float => quote!(f64),
            Scalar::Boolean => quote!(bool),
            Scalar::Decimal(_) => match schema.decimal {
                Backend::RustDecimal => quote!(::cratestack::typed::Decimal),
                Backend::BigDecimal => quote!(::cratestack::typed::BigDecimal),
            },
            Scalar::DateTime => quote!(::cratestack::typed::DateTime<::cratestack::typed::Utc>),
            Scalar::Date => quote!(::cratestack::typed::NaiveDate),
            Scalar::Uuid => quote!(::cratestack::typed::Uuid),
            Scalar::Bytes => quote!(::std::vec::Vec<u8>),
            Scalar::Json => quote!(::cratestack::typed::JsonValue),
        },
        FieldType::Enum(id) => {
            let name = ident(&schema.enumeration(id).name);
            quote!(#from #name)
        }
        FieldType::Type(id) => {
            let name = ident(&schema.type_def(id).name);
            quote!(#from #name)
        }
        FieldType::Model(id) => {
            let name = ident(&schema.model(id).name);
            quote!(#from #name)
        }
    }
}

/// The Rust type of a field without its `?`. `from` is the way to the module of the schema's items.
fn element_type(schema: &Face<'_>, field: &Field, from: &TokenStream) -> TokenStream {
    let one = value_type(schema, field.ty, from);
    if field.list { quote!(::std::vec::Vec<#one>) } else { one }
}

/// The Rust type of a field.
fn field_type(schema: &Face<'_>, field: &Field) -> TokenStream {
    let element = element_type(schema, field, &TokenStream::new());
    if field.optional { quote!(::core::option::Option<#element>) } else { element }
}

/// Whether a value object is reached again from its own fields, so that they need a box.
fn recursive(schema: &Face<'_>, owner: TypeId, from: TypeId) -> bool {
    let mut seen = vec![from];
    let mut at = 0;
    while let Some(id) = seen.get(at).copied() {
        if id == owner {
            return true;
        }
        at += 1;
        for field in schema.type_def(id).fields.iter().filter(|field| !field.list) {
            if let FieldType::Type(next) = field.ty
                && !seen.contains(&next)
            {
                seen.push(next);
            }
        }
    }
    false
}

/// `Debug` that does not show personal and sensitive values: derived where there are none.
fn debug(name: &proc_macro2::Ident, fields: &[&Field]) -> (TokenStream, TokenStream) {
    if !fields.iter().any(|field| field.pii || field.sensitive) {
        return (quote!(Debug,), TokenStream::new());
    }
    let text = name.to_string();
    let members = fields.iter().map(|field| {
        let (ident, name) = (ident(&snake(&field.name)), snake(&field.name));
        if field.pii || field.sensitive {
            quote!(.field(#name, &::cratestack::typed::Redacted))
        } else {
            quote!(.field(#name, &self.#ident))
        }
    });
    let implementation = quote! {
        /// Personal and sensitive values are not shown.
        impl ::core::fmt::Debug for #name {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                f.debug_struct(#text)#(#members)*.finish()
            }
        }
    };
    (TokenStream::new(), implementation)
}

/// Names of fields in Rust, each once.
fn check_fields<'f>(owner: &str, names: impl Iterator<Item = &'f str>) -> Result<(), String> {
    let mut scope = Scope::default();
    for name in names {
        let mend = "rename one of them, and keep its column with `@map`";
        scope.take(&snake(name), &format!("the member `{name}` of `{owner}`"), mend)?;
    }
    Ok(())
}

/// Whether it is sent as a string of digits.
fn is_big(field: &Field) -> bool {
    field.ty == FieldType::Scalar(Scalar::BigInt)
}
