//! The intermediate representation: what a `.cstack` file means once every name is resolved.
//!
//! A [`Schema`] is immutable, serialisable and free of source positions. Every later stage (planner, DDL,
//! router, emitters) works from it alone, and may assume that it is free of errors: ids are in range, types
//! agree, rules are typed. Ids are indices into the vectors of their owner.

use serde::{Deserialize, Serialize};

use crate::value::Value;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u32);

        impl $name {
            /// The position in the owner's vector.
            pub fn index(self) -> usize {
                self.0 as usize
            }
        }
    };
}

id!(
    /// Index into [`Schema::models`].
    ModelId
);
id!(
    /// Index into [`Model::fields`] (or [`Auth::fields`], [`TypeDef::fields`]).
    FieldId
);
id!(
    /// Index into [`Model::relations`].
    RelationId
);
id!(
    /// Index into [`Schema::enums`].
    EnumId
);
id!(
    /// Index into [`Schema::types`].
    TypeId
);

/// A whole schema.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Schema {
    /// The stem of the file that it came from (`bank` for `bank.cstack`).
    pub name: String,
    /// The `datasource` block, if there is one.
    pub datasource: Option<Datasource>,
    /// Enums, in source order.
    pub enums: Vec<Enum>,
    /// The shape of the authenticated caller. Without it every caller is anonymous.
    pub auth: Option<Auth>,
    /// Value objects of procedures.
    pub types: Vec<TypeDef>,
    /// Models, in source order, mixins already merged in.
    pub models: Vec<Model>,
    /// Procedures, in source order.
    pub procedures: Vec<Procedure>,
}

/// Where the data lives, as the schema's author sees it; `--database` overrides it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Datasource {
    /// The block's name.
    pub name: String,
    /// The database product.
    pub provider: Provider,
    /// The URL, literal or from the environment.
    pub url: Option<UrlSource>,
}

/// A database product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// PostgreSQL 14 or newer.
    Postgresql,
    /// The embedded SQLite.
    Sqlite,
}

/// How a datasource gives its URL.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum UrlSource {
    /// Written in the schema.
    Literal(String),
    /// `env("NAME")`.
    Env(String),
}

/// A closed set of names, stored as text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Enum {
    /// Name in the schema.
    pub name: String,
    /// `///` text.
    pub doc: Option<String>,
    /// Variants, in source order.
    pub variants: Vec<Variant>,
}

/// One variant of an [`Enum`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Variant {
    /// Name in schema and JSON.
    pub name: String,
    /// Text in the database: the name, unless `@map` says otherwise.
    pub stored: String,
    /// `///` text.
    pub doc: Option<String>,
}

/// The `auth` block: what a verified principal carries.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Auth {
    /// Name of the block.
    pub name: String,
    /// Claims. `optional` ones may be absent; the others must be there.
    pub fields: Vec<Field>,
    /// The subject (`@id`, else the field named `id`).
    pub subject: Option<FieldId>,
    /// The tenant (`@tenant`, else the field named `tenantId`).
    pub tenant: Option<FieldId>,
}

/// A value object: input or output of procedures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TypeDef {
    /// Name in the schema.
    pub name: String,
    /// `///` text.
    pub doc: Option<String>,
    /// Members.
    pub fields: Vec<Field>,
}

/// The type of a stored or transported value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Scalar {
    /// Unicode text without NUL.
    String,
    /// 64-bit integer, within ±(2^53-1) in JSON.
    Int,
    /// 64-bit integer, a string of digits in JSON.
    BigInt,
    /// IEEE 754 binary64, finite.
    Float,
    /// true or false.
    Boolean,
    /// Exact decimal; `None` is unbounded.
    Decimal(Option<Precision>),
    /// UTC instant with microseconds.
    DateTime,
    /// Calendar date.
    Date,
    /// RFC 9562 UUID.
    Uuid,
    /// Collision-resistant id, checked for shape.
    Cuid,
    /// Octets, base64 in JSON.
    Bytes,
    /// Any JSON value.
    Json,
}

/// `Decimal(p, s)`: at most `precision` digits, `scale` of them after the point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Precision {
    /// Total digits, 1..=1000.
    pub precision: u32,
    /// Fraction digits, 0..=precision.
    pub scale: u32,
}

/// The type of a field or of a procedure's parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FieldType {
    /// A scalar.
    Scalar(Scalar),
    /// An enum.
    Enum(EnumId),
    /// A value object (in `type`s and procedures only).
    Type(TypeId),
    /// A model's row (procedure answers only).
    Model(ModelId),
}

/// A column of a model, or a member of a `type` or of the `auth` block.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "one for each attribute that is there or not")]
pub struct Field {
    /// Name in schema and JSON.
    pub name: String,
    /// `///` text.
    pub doc: Option<String>,
    /// Column name (`@map`, else snake_case of the name).
    pub column: String,
    /// Type of one value.
    pub ty: FieldType,
    /// `T?`.
    pub optional: bool,
    /// `T[]`.
    pub list: bool,
    /// `@default(..)`.
    pub default: Option<Default>,
    /// Validators, in source order.
    pub validators: Vec<Validator>,
    /// Part of the primary key.
    pub id: bool,
    /// `@version`.
    pub version: bool,
    /// `@updatedAt`.
    pub updated_at: bool,
    /// `@readonly`.
    pub readonly: bool,
    /// `@immutable`.
    pub immutable: bool,
    /// `@server_only`: never visible to any caller.
    pub server_only: bool,
    /// `@pii`.
    pub pii: bool,
    /// `@sensitive`.
    pub sensitive: bool,
    /// `@deprecated("why")`.
    pub deprecated: Option<String>,
    /// `@rename(from: "old")`: the field's previous name.
    pub rename_from: Option<String>,
    /// Declared by the engine, not the author (`deletedAt` of `@@soft_delete`).
    pub synthetic: bool,
}

/// Whether a field may stand in an input, and in which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writable {
    /// Never: sending it is a `read_only` error.
    Never,
    /// In create inputs only.
    Create,
    /// In create and patch inputs.
    Always,
}

impl Field {
    /// A required field without attributes.
    pub fn new(name: impl Into<String>, column: impl Into<String>, ty: FieldType) -> Self {
        Self {
            name: name.into(),
            doc: None,
            column: column.into(),
            ty,
            optional: false,
            list: false,
            default: None,
            validators: Vec::new(),
            id: false,
            version: false,
            updated_at: false,
            readonly: false,
            immutable: false,
            server_only: false,
            pii: false,
            sensitive: false,
            deprecated: None,
            rename_from: None,
            synthetic: false,
        }
    }

    /// Where the field may be sent (docs/language.md, "Never in an input").
    pub fn writable(&self) -> Writable {
        let generated = matches!(
            self.default,
            Some(Default::Now | Default::AutoIncrement | Default::Auth(_) | Default::DbGenerated(_))
        );
        if self.version || self.updated_at || self.readonly || self.server_only || self.synthetic || generated {
            Writable::Never
        } else if self.id || self.immutable {
            Writable::Create
        } else {
            Writable::Always
        }
    }

    /// Where code of the service may write the field: where nobody but the database or the engine has to.
    pub fn writable_by_service(&self) -> Writable {
        let generated = matches!(self.default, Some(Default::AutoIncrement | Default::DbGenerated(_)));
        if self.version || self.updated_at || self.synthetic || generated {
            Writable::Never
        } else if self.id || self.immutable || matches!(self.default, Some(Default::Now | Default::Auth(_))) {
            Writable::Create
        } else {
            Writable::Always
        }
    }

    /// The scalar of a non-list scalar field.
    pub fn scalar(&self) -> Option<Scalar> {
        match self.ty {
            FieldType::Scalar(scalar) => Some(scalar),
            _ => None,
        }
    }
}

/// What a column gets when the input does not carry it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Default {
    /// A literal or an enum value (its stored text), in canonical form.
    Value(Value),
    /// The engine's clock at the start of the operation.
    Now,
    /// UUID version 7 from the engine's generator.
    Uuid,
    /// A cuid from the engine's generator.
    Cuid,
    /// A database sequence.
    AutoIncrement,
    /// A claim of the caller: index into [`Auth::fields`].
    Auth(FieldId),
    /// An SQL expression, written by the schema's author.
    DbGenerated(String),
}

/// A check of one value. Messages come from the engine and never contain the value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Validator {
    /// What is checked.
    pub kind: ValidatorKind,
    /// `@db_enforce`: also a CHECK constraint.
    pub db_enforce: bool,
}

/// The closed list of validators.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ValidatorKind {
    /// Unicode scalar values, or octets for `Bytes`.
    Length {
        /// Smallest length.
        min: Option<u64>,
        /// Largest length.
        max: Option<u64>,
    },
    /// Inclusive bounds, canonical values of the field's type.
    Range {
        /// Smallest value.
        min: Option<Value>,
        /// Largest value.
        max: Option<Value>,
    },
    /// An address of the shape that HTML's `input type=email` accepts, with at most 254 octets.
    Email,
    /// The whole value must match.
    Regex(String),
    /// An absolute RFC 3986 URI.
    Uri,
    /// ISO 4217 alphabetic code; `any` checks the shape alone.
    Iso4217 {
        /// `@iso4217(any)`.
        any: bool,
    },
    /// ISO 13616 IBAN with check digits.
    Iban,
    /// ISO 9362 business identifier code.
    Bic,
    /// ISO 17442 legal entity identifier with check digits.
    Lei,
}

/// A table with a route.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// Name in the schema.
    pub name: String,
    /// `///` text.
    pub doc: Option<String>,
    /// Table name.
    pub table: String,
    /// URL segment.
    pub path: String,
    /// Columns in source order; mixin fields stand where `@use` stands.
    pub fields: Vec<Field>,
    /// Relation members, in source order.
    pub relations: Vec<Relation>,
    /// The primary key, in `@id`/`@@id` order; never empty.
    pub key: Vec<FieldId>,
    /// Unique constraints, `@unique` included.
    pub uniques: Vec<Index>,
    /// Secondary indexes.
    pub indexes: Vec<Index>,
    /// `@@check`s.
    pub checks: Vec<Check>,
    /// `@@allow` and `@@deny`, in source order.
    pub rules: Vec<Rule>,
    /// The `@version` field.
    pub version: Option<FieldId>,
    /// `@@soft_delete`: the `deletedAt` field. The column `deletion_id` exists beside it and is no field.
    pub soft_delete: Option<FieldId>,
    /// `@@append_only`.
    pub append_only: bool,
    /// `@@audit`.
    pub audit: Option<Audit>,
    /// `@@emit`: the changes that are events, in the order of [`Emitted::ALL`]; empty without it.
    pub emit: Vec<Emitted>,
    /// Actions without a route (`@@internal`).
    pub internal: Vec<Action>,
    /// `@@idempotent(required)`: whether requests that change rows need an idempotency key.
    #[serde(default, skip_serializing_if = "Idempotent::is_default")]
    pub idempotent: Idempotent,
}

impl Model {
    /// A model without members and attributes.
    pub fn new(name: impl Into<String>, table: impl Into<String>, path: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            doc: None,
            table: table.into(),
            path: path.into(),
            fields: Vec::new(),
            relations: Vec::new(),
            key: Vec::new(),
            uniques: Vec::new(),
            indexes: Vec::new(),
            checks: Vec::new(),
            rules: Vec::new(),
            version: None,
            soft_delete: None,
            append_only: false,
            audit: None,
            emit: Vec::new(),
            internal: Vec::new(),
            idempotent: Idempotent::default(),
        }
    }

    /// The field with that id. Ids of this model are always in range.
    #[expect(clippy::indexing_slicing, reason = "ids are made by the resolver, in range by construction")]
    pub fn field(&self, id: FieldId) -> &Field {
        &self.fields[id.index()]
    }

    /// The relation with that id. Ids of this model are always in range.
    #[expect(clippy::indexing_slicing, reason = "ids are made by the resolver, in range by construction")]
    pub fn relation(&self, id: RelationId) -> &Relation {
        &self.relations[id.index()]
    }

    /// Looks a field up by its schema name.
    pub fn field_named(&self, name: &str) -> Option<FieldId> {
        position(&self.fields, |field| field.name == name).map(FieldId)
    }

    /// Looks a relation up by its schema name.
    pub fn relation_named(&self, name: &str) -> Option<RelationId> {
        position(&self.relations, |relation| relation.name == name).map(RelationId)
    }

    /// Every field with its id.
    pub fn fields(&self) -> impl Iterator<Item = (FieldId, &Field)> {
        (0..).map(FieldId).zip(&self.fields)
    }

    /// Whether any field is personal or sensitive, so that answers must not be cached.
    pub fn personal(&self) -> bool {
        self.fields.iter().any(|field| field.pii || field.sensitive)
    }
}

fn position<T>(items: &[T], test: impl Fn(&T) -> bool) -> Option<u32> {
    items.iter().position(test).and_then(|at| u32::try_from(at).ok())
}

/// A unique constraint or an index.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Index {
    /// Name in the database.
    pub name: String,
    /// Columns, in order.
    pub fields: Vec<FieldId>,
    /// `where:`, over literals and own fields only.
    pub filter: Option<Expr>,
    /// `using:` (PostgreSQL access method).
    pub using: Option<String>,
}

/// `@@check(expr, "message", name: "funds")`; the name is `check` if none is given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// Code of the 422.
    pub name: String,
    /// Constraint name in the database.
    pub constraint: String,
    /// What must not be false.
    pub expr: Expr,
    /// What the caller is told.
    pub message: String,
}

/// A relation member of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Relation {
    /// Member name.
    pub name: String,
    /// `///` text.
    pub doc: Option<String>,
    /// The other model.
    pub target: ModelId,
    /// The member of `target` that is the other end; always there in a compiled schema.
    pub inverse: Option<RelationId>,
    /// Which end this is.
    pub kind: RelationKind,
}

/// The end of a relation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum RelationKind {
    /// Has the foreign key.
    Owning {
        /// Own columns.
        fields: Vec<FieldId>,
        /// Columns of the target that they point to.
        references: Vec<FieldId>,
        /// On delete of the target.
        on_delete: ReferentialAction,
        /// On change of the referenced columns.
        on_update: ReferentialAction,
        /// Constraint name in the database.
        constraint: String,
        /// Declared `Model?`.
        optional: bool,
    },
    /// The inverse of a one-to-one.
    One,
    /// The inverse of a one-to-many.
    Many,
}

/// SQL referential actions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReferentialAction {
    /// Change or delete the children too.
    Cascade,
    /// Refuse.
    Restrict,
    /// Clear the children's columns.
    SetNull,
    /// Set the children's columns to their defaults.
    SetDefault,
    /// Refuse at the end of the statement.
    NoAction,
}

/// `@@audit` and its options.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    /// `@@audit(denials)`.
    pub denials: bool,
}

/// A change of a row that `@@emit` names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Emitted {
    /// The row is there: a create, and the restoration of a tombstone.
    Created,
    /// The row differs in a field.
    Updated,
    /// The row is gone: a delete, a tombstone included.
    Deleted,
}

impl Emitted {
    /// Every one, in the order of the language's page.
    pub const ALL: [Self; 3] = [Self::Created, Self::Updated, Self::Deleted];

    /// The word in the language, and at the end of an event's type.
    pub fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Updated => "updated",
            Self::Deleted => "deleted",
        }
    }
}

/// What a rule speaks about. `read` is written out as `list` and `detail`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// `GET /rows`.
    List,
    /// `GET /rows/{id}`.
    Detail,
    /// `POST /rows`.
    Create,
    /// `PATCH /rows/{id}`.
    Update,
    /// `DELETE /rows/{id}`.
    Delete,
    /// `POST /rows/{id}/restore`.
    Restore,
    /// `GET /audit`: what happened to rows of the model.
    Audit,
}

impl Action {
    /// Every action, in the order of the language's page.
    pub const ALL: [Self; 7] =
        [Self::List, Self::Detail, Self::Create, Self::Update, Self::Delete, Self::Restore, Self::Audit];

    /// The word in the language.
    pub fn word(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Detail => "detail",
            Self::Create => "create",
            Self::Update => "update",
            Self::Delete => "delete",
            Self::Restore => "restore",
            Self::Audit => "audit",
        }
    }
}

/// One `@@allow` or `@@deny`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rule {
    /// Allow or deny.
    pub effect: Effect,
    /// The actions, `read` and `all` written out. An allow of an append-only model has no `update` and no `delete`.
    pub actions: Vec<Action>,
    /// The condition.
    pub expr: Expr,
}

/// The direction of a [`Rule`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Effect {
    /// Lets in when true.
    Allow,
    /// Keeps out unless false.
    Deny,
}

/// A procedure: policy and types here, body in Rust.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Procedure {
    /// Name, also the URL segment under `rpc/`.
    pub name: String,
    /// `///` text.
    pub doc: Option<String>,
    /// `mutation procedure`.
    pub mutation: bool,
    /// Parameters.
    pub params: Vec<Field>,
    /// The body of the request is the sole parameter itself (named `args`, of a `type`).
    pub args_is_body: bool,
    /// Answer type.
    pub returns: Returns,
    /// `@allow` and `@deny`; expressions have no row.
    pub rules: Vec<ProcedureRule>,
    /// `@isolation`.
    pub isolation: Option<Isolation>,
    /// `@status(2xx)`.
    pub status: Option<u16>,
    /// `@deprecated("why")`.
    pub deprecated: Option<String>,
    /// `@idempotent`.
    #[serde(default, skip_serializing_if = "Idempotent::is_default")]
    pub idempotent: Idempotent,
    /// `@rate_limit("policy")`: the policies that calls count towards, by name. What they allow is set where the service
    /// runs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rate_limits: Vec<String>,
}

/// Whether a rate limit may be called so: 1 to 64 ASCII letters, digits, `_`, `-` and `.`.
///
/// ```
/// use cratestack_schema::ir::is_policy_name;
///
/// assert!(is_policy_name("transfers-per-day"));
/// assert!(!is_policy_name("per day"));
/// ```
pub fn is_policy_name(name: &str) -> bool {
    let sound = |octet: u8| octet.is_ascii_alphanumeric() || matches!(octet, b'_' | b'-' | b'.');
    (1..=64).contains(&name.len()) && name.bytes().all(sound)
}

/// What a route makes of idempotency keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Idempotent {
    /// A request may have one.
    #[default]
    Optional,
    /// A request without one is refused.
    Required,
    /// A request with one is refused: nothing is kept.
    None,
}

impl Idempotent {
    /// Whether it is what a schema gets that says nothing: it is left out of what is written then, so that the fingerprints of
    /// such schemas stay as they are.
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// The answer of a procedure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Returns {
    /// Type of one value.
    pub ty: FieldType,
    /// `T[]`.
    pub list: bool,
    /// `T?`.
    pub optional: bool,
}

/// `@allow` or `@deny` of a procedure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProcedureRule {
    /// Allow or deny.
    pub effect: Effect,
    /// The condition, over `auth()` and `now()` alone.
    pub expr: Expr,
}

/// SQL isolation levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    /// `READ COMMITTED`.
    ReadCommitted,
    /// `REPEATABLE READ`.
    RepeatableRead,
    /// `SERIALIZABLE`.
    Serializable,
}

/// Which version of the row a field of an `update` rule reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Side {
    /// The row; in an update rule the old *and* the new one.
    Row,
    /// `old.f`.
    Old,
    /// `new.f`.
    New,
}

/// A typed expression. Three-valued: a comparison with a null is unknown.
///
/// Types are fixed by the resolver: the two operands of a comparison always have the same [`FieldType`]
/// up to the precision of a `Decimal`, and Int against Decimal is allowed (both exact).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Expr {
    /// A constant with its type, in canonical form ([`Value`]). An enum constant is its stored text.
    Const(FieldType, Value),
    /// A field of the row in scope, or of a row reached over to-one relations.
    Field(FieldPath),
    /// `auth().field`: unknown when anonymous or absent.
    Auth(FieldId),
    /// `auth() == null`; never unknown.
    Anonymous,
    /// The clock of the operation.
    Now,
    /// `!x`.
    Not(Box<Expr>),
    /// `a && b && ..`; at least two.
    And(Vec<Expr>),
    /// `a || b || ..`; at least two.
    Or(Vec<Expr>),
    /// A comparison.
    Compare(CompareOp, Box<Expr>, Box<Expr>),
    /// `x == null`; never unknown. `x != null` is `Not(IsNull)`.
    IsNull(Box<Expr>),
    /// `x in [a, b]`; `not in` is `Not(In)`.
    In(Box<Expr>, Vec<Expr>),
    /// `x in auth().list`.
    InAuth(Box<Expr>, FieldId),
    /// Exact arithmetic on Int and Decimal.
    Arith(ArithOp, Box<Expr>, Box<Expr>),
    /// `-x`.
    Neg(Box<Expr>),
    /// `entries.some(expr)` and its kin.
    Quantified {
        /// To-one relations crossed first, from the row in scope.
        hops: Vec<RelationId>,
        /// Side of the row that the path starts at.
        side: Side,
        /// The to-many relation of the model that the hops end at.
        relation: RelationId,
        /// some, every or none.
        quantifier: Quantifier,
        /// The condition, in the scope of the related model.
        body: Box<Expr>,
    },
    /// Case-sensitive test of a string against a string.
    StringTest(StringOp, Box<Expr>, Box<Expr>),
    /// `.length()` in Unicode scalar values.
    Length(Box<Expr>),
    /// `auth().hasRole(x)`; false when anonymous.
    HasRole(Box<Expr>),
    /// `changed(f)`; update rules only, never unknown.
    Changed(FieldId),
}

impl Expr {
    /// The expressions that this one is directly made of, in source order.
    pub fn children(&self) -> Vec<&Self> {
        match self {
            Self::Const(..) | Self::Field(_) | Self::Auth(_) | Self::Anonymous | Self::Now | Self::Changed(_) => {
                Vec::new()
            }
            Self::Not(inner)
            | Self::IsNull(inner)
            | Self::InAuth(inner, _)
            | Self::Neg(inner)
            | Self::Length(inner)
            | Self::HasRole(inner)
            | Self::Quantified { body: inner, .. } => vec![inner],
            Self::Compare(_, left, right) | Self::Arith(_, left, right) | Self::StringTest(_, left, right) => {
                vec![left, right]
            }
            Self::And(parts) | Self::Or(parts) => parts.iter().collect(),
            Self::In(needle, items) => std::iter::once(needle.as_ref()).chain(items).collect(),
        }
    }

    /// Calls `see` with this expression and every one inside it, parents first.
    pub fn visit<'a>(&'a self, see: &mut dyn FnMut(&'a Self)) {
        see(self);
        for child in self.children() {
            child.visit(see);
        }
    }
}

/// A field reached from the row in scope.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FieldPath {
    /// Which version of the row the path starts at.
    pub side: Side,
    /// To-one relations to cross, each of the model before it.
    pub hops: Vec<RelationId>,
    /// The field of the model that the hops end at.
    pub field: FieldId,
}

/// `== != < <= > >=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum CompareOp {
    /// `==`
    Eq,
    /// `!=`
    Ne,
    /// `<`
    Lt,
    /// `<=`
    Le,
    /// `>`
    Gt,
    /// `>=`
    Ge,
}

/// `+ - *`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ArithOp {
    /// `+`
    Add,
    /// `-`
    Sub,
    /// `*`
    Mul,
}

/// `.some(..)`, `.every(..)`, `.none(..)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Quantifier {
    /// At least one row is true.
    Some,
    /// No row is false.
    Every,
    /// No row is true.
    None,
}

/// `.startsWith(..)`, `.endsWith(..)`, `.contains(..)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum StringOp {
    /// Prefix.
    StartsWith,
    /// Suffix.
    EndsWith,
    /// Substring.
    Contains,
}

impl Schema {
    /// A schema that declares nothing.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            datasource: None,
            enums: Vec::new(),
            auth: None,
            types: Vec::new(),
            models: Vec::new(),
            procedures: Vec::new(),
        }
    }

    /// SHA-256 of the schema's JSON form in lower-case hexadecimal: equal for schemas that mean the same.
    ///
    /// The JSON form has a fixed order of members, since the IR has no maps. Where the database is says nothing of what the
    /// schema means.
    pub fn fingerprint(&self) -> String {
        use sha2::{Digest, Sha256};
        let json = serde_json::to_vec(&self.portable()).unwrap_or_default();
        crate::resolve::hex(&Sha256::digest(json))
    }

    /// The schema without the URL of its datasource, which may have a password: what is kept in databases and in files.
    #[must_use]
    pub fn portable(&self) -> Self {
        let mut schema = self.clone();
        if let Some(datasource) = &mut schema.datasource {
            datasource.url = None;
        }
        schema
    }

    /// The model with that id. Ids of this schema are always in range.
    #[expect(clippy::indexing_slicing, reason = "ids are made by the resolver, in range by construction")]
    pub fn model(&self, id: ModelId) -> &Model {
        &self.models[id.index()]
    }

    /// The enum with that id. Ids of this schema are always in range.
    #[expect(clippy::indexing_slicing, reason = "ids are made by the resolver, in range by construction")]
    pub fn enumeration(&self, id: EnumId) -> &Enum {
        &self.enums[id.index()]
    }

    /// The value object with that id. Ids of this schema are always in range.
    #[expect(clippy::indexing_slicing, reason = "ids are made by the resolver, in range by construction")]
    pub fn type_def(&self, id: TypeId) -> &TypeDef {
        &self.types[id.index()]
    }

    /// Every model with its id.
    pub fn models(&self) -> impl Iterator<Item = (ModelId, &Model)> {
        (0..).map(ModelId).zip(&self.models)
    }

    /// Looks a model up by its schema name.
    pub fn model_named(&self, name: &str) -> Option<ModelId> {
        position(&self.models, |model| model.name == name).map(ModelId)
    }

    /// The model that `hops` end at, starting from `from`.
    pub fn walk(&self, from: ModelId, hops: &[RelationId]) -> ModelId {
        hops.iter().fold(from, |model, hop| self.model(model).relation(*hop).target)
    }

    /// The type of a field path that starts at `from`.
    pub fn path_field(&self, from: ModelId, path: &FieldPath) -> &Field {
        self.model(self.walk(from, &path.hops)).field(path.field)
    }
}
