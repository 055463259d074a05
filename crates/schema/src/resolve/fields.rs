//! Fields: types, attributes, defaults and validators, each checked against the others.

use super::attributes::{self, FIELD, Given, OnField, Place, bad};
use super::expr::type_name;
use super::names::{MAX_IDENTIFIER, snake};
use super::suggest::{a, listing, suggest};
use super::{Declared, Resolver, doc};
use crate::ast::{self, ExprKind, Modifier};
use crate::diag::{Code, Diagnostic, Span};
use crate::ir::{Auth, Default, EnumId, Field, FieldId, FieldType, Scalar, TypeDef, TypeId, Validator, ValidatorKind};
use crate::value::{self, Value};

/// A field that was read, and what its attributes mean beyond itself.
pub(super) struct ReadField {
    pub(super) field: Field,
    /// `@unique`
    pub(super) unique: Option<Span>,
    /// `@tenant`
    pub(super) tenant: Option<Span>,
}

/// Literals, which an expression would never take for a member.
const LITERALS: [&str; 3] = ["null", "true", "false"];

/// Attributes that contradict or repeat one another.
const CONFLICTS: &[(OnField, OnField, &str)] = &[
    (OnField::Version, OnField::Default, "versions start at 1"),
    (OnField::Version, OnField::Readonly, "a version is never in an input"),
    (OnField::Version, OnField::Immutable, "a version changes with every write"),
    (OnField::Version, OnField::ServerOnly, "callers must know the version that they have seen"),
    (OnField::Id, OnField::Version, "a version changes with every write, a key never"),
    (OnField::Version, OnField::Unique, "many rows have the same version"),
    (OnField::UpdatedAt, OnField::Default, "the engine writes the time itself"),
    (OnField::UpdatedAt, OnField::Readonly, "the time is never in an input"),
    (OnField::UpdatedAt, OnField::Immutable, "the time changes with every write"),
    (OnField::Id, OnField::UpdatedAt, "the time changes with every write, a key never"),
    (OnField::Readonly, OnField::Immutable, "`@readonly` keeps it out of create inputs as well"),
    (OnField::ServerOnly, OnField::Readonly, "`@server_only` keeps it out of inputs as well"),
    (OnField::ServerOnly, OnField::Immutable, "`@server_only` keeps it out of inputs as well"),
    (OnField::Id, OnField::ServerOnly, "callers name rows by their key"),
    (OnField::Id, OnField::Immutable, "a key never changes"),
    (OnField::Id, OnField::Unique, "a key is unique"),
];

impl<'a> Resolver<'a> {
    // The `auth` block and the value objects

    pub(super) fn claims(&mut self) {
        let Some(record) = self.auth else { return };
        let (mut fields, mut id, mut tenant) = (Vec::new(), None, None);
        for written in self.record_fields(record, Place::Auth) {
            let read = self.read_field(written, Place::AuthField).filter(|read| match read.field.ty {
                FieldType::Scalar(_) | FieldType::Enum(_) => true,
                FieldType::Type(_) | FieldType::Model(_) => {
                    self.type_not_here(written, "a claim is a scalar, an enum, or a list of them");
                    false
                }
            });
            let Some(read) = read else {
                self.broken.add_claim(&written.name.name);
                continue;
            };
            let at = FieldId(super::count(&fields));
            for (mark, slot, word) in
                [(read.field.id.then_some(()), &mut id, "@id"), (read.tenant.map(|_| ()), &mut tenant, "@tenant")]
            {
                if mark.is_none() {
                    continue;
                }
                if read.field.list {
                    self.diags.push(
                        Diagnostic::new(Code::AttributeNotHere, written.span, format!("`{word}` needs a single value"))
                            .help("remove the `[]`"),
                    );
                } else if slot.replace(at).is_some() {
                    self.diags.push(
                        Diagnostic::new(
                            Code::DuplicateAttribute,
                            written.span,
                            format!("a second field is marked `{word}`"),
                        )
                        .help("mark one field"),
                    );
                }
            }
            fields.push(read.field);
        }
        let named = |fields: &[Field], name: &str| {
            let at = fields.iter().position(|field| field.name == name && !field.list)?;
            u32::try_from(at).ok().map(FieldId)
        };
        self.schema.auth = Some(Auth {
            name: record.name.name.clone(),
            subject: id.or_else(|| named(&fields, "id")),
            tenant: tenant.or_else(|| named(&fields, "tenantId")),
            fields,
        });
    }

    pub(super) fn value_objects(&mut self) {
        for record in self.types.clone() {
            let mut fields = Vec::new();
            for written in self.record_fields(record, Place::Type) {
                let Some(read) = self.read_field(written, Place::TypeField) else { continue };
                if let FieldType::Model(_) = read.field.ty {
                    self.type_not_here(written, "a model is the answer of a procedure, not a member of a `type`");
                    continue;
                }
                fields.push(read.field);
            }
            if record.members.is_empty() {
                let message = format!("the type `{}` has no fields", record.name.name);
                self.report(Diagnostic::new(Code::EmptyBlock, record.name.span, message).help("add a field"));
            }
            self.schema.types.push(TypeDef { name: record.name.name.clone(), doc: doc(record.doc.as_ref()), fields });
        }
        self.endless_types();
    }

    /// A type that needs itself has no finite value.
    fn endless_types(&mut self) {
        for (at, record) in self.types.clone().into_iter().enumerate() {
            let Ok(start) = u32::try_from(at).map(TypeId) else { continue };
            let mut reached = vec![start];
            let mut next = 0;
            while let Some(id) = reached.get(next).copied() {
                next += 1;
                let Some(def) = self.schema.types.get(id.index()) else { continue };
                let needed = def.fields.iter().filter(|field| !field.optional && !field.list);
                let needed: Vec<TypeId> = needed
                    .filter_map(|field| match field.ty {
                        FieldType::Type(id) => Some(id),
                        _ => None,
                    })
                    .collect();
                if needed.contains(&start) {
                    let message = format!("the type `{}` contains itself, so it has no finite value", record.name.name);
                    self.report(
                        Diagnostic::new(Code::EndlessType, record.name.span, message)
                            .help("make one of the fields on the way optional (`?`) or a list (`[]`)"),
                    );
                    break;
                }
                reached.extend(needed.into_iter().filter(|id| !reached.contains(id)).collect::<Vec<_>>());
            }
        }
    }

    /// The fields of a block that has nothing but fields.
    fn record_fields(&mut self, record: &'a ast::Record, place: Place) -> Vec<&'a ast::Field> {
        let mut fields: Vec<&'a ast::Field> = Vec::new();
        for member in &record.members {
            match member {
                ast::Member::Field(field) => match fields.iter().find(|first| first.name.name == field.name.name) {
                    Some(first) => self.duplicate_member(&field.name, first.name.span),
                    None => fields.push(field),
                },
                ast::Member::Use(attribute) => {
                    attributes::read(attributes::USE, "@", place, [attribute], &mut self.diags);
                }
                ast::Member::Attribute(attribute) => {
                    attributes::read(attributes::BLOCK, "@@", place, [attribute], &mut self.diags);
                }
            }
        }
        fields
    }

    pub(super) fn duplicate_member(&mut self, name: &ast::Ident, first: Span) {
        self.report(
            Diagnostic::new(Code::DuplicateMember, name.span, format!("`{}` is declared twice", name.name))
                .with(first, "first here")
                .help("remove or rename one of the two"),
        );
    }

    pub(super) fn type_not_here(&mut self, written: &ast::Field, help: &str) {
        let message = format!("`{}` cannot be the type of `{}`", written.ty.name.name, written.name.name);
        self.report(Diagnostic::new(Code::TypeNotHere, written.ty.span, message).help(help));
    }

    // One field

    /// Reads a field of any block, or a parameter. `None` after an error that leaves nothing to work with.
    pub(super) fn read_field(&mut self, written: &'a ast::Field, place: Place) -> Option<ReadField> {
        let ty = self.type_of(&written.ty);
        let given = attributes::read(FIELD, "@", place, &written.attributes, &mut self.diags);
        let stored = matches!(place, Place::ModelField | Place::MixinField);
        if stored {
            self.check_member_name(&written.name);
        }
        let field = Field {
            doc: doc(written.doc.as_ref()),
            optional: written.ty.modifier == Modifier::Optional,
            list: written.ty.modifier == Modifier::List,
            ..Field::new(&written.name.name, snake(&written.name.name), ty?)
        };
        let mut read = ReadField { field, unique: None, tenant: None };
        if stored && !self.storable(&read.field, written) {
            return None;
        }
        self.conflicts(&given);
        for one in &given {
            self.apply(&mut read, one, &given);
        }
        if stored && read.field.column.len() > MAX_IDENTIFIER {
            let message = format!("the column `{}` is longer than {MAX_IDENTIFIER} octets", read.field.column);
            self.report(
                Diagnostic::new(Code::BadDatabaseName, written.name.span, message)
                    .help("give it a shorter one with `@map(\"..\")`"),
            );
        }
        Some(read)
    }

    pub(super) fn check_member_name(&mut self, name: &ast::Ident) {
        if LITERALS.contains(&name.name.as_str()) {
            let message = format!("`{}` is a literal in expressions", name.name);
            self.report(
                Diagnostic::new(Code::ReservedName, name.span, message)
                    .help("rules and filters could not name it: choose another name, and `@map` the column"),
            );
        }
    }

    /// Whether a model's column can have the type.
    fn storable(&mut self, field: &Field, written: &ast::Field) -> bool {
        match field.ty {
            FieldType::Type(_) => {
                self.type_not_here(written, "a `type` is for procedures; store it as `Json`, or as a model of its own");
                false
            }
            FieldType::Scalar(Scalar::String | Scalar::Int | Scalar::Uuid) => true,
            FieldType::Scalar(_) | FieldType::Enum(_) if field.list => {
                let message = format!("a list of `{}` cannot be stored", written.ty.name.name);
                self.report(
                    Diagnostic::new(Code::TypeNotHere, written.ty.span, message)
                        .help("lists of `String`, `Int` and `Uuid` can; use a related model for the others"),
                );
                false
            }
            FieldType::Scalar(_) | FieldType::Enum(_) => true,
            // Relation members are not read as fields.
            FieldType::Model(_) => false,
        }
    }

    fn conflicts(&mut self, given: &[Given<'a, OnField>]) {
        for (a, b, why) in CONFLICTS {
            let find = |kind: OnField| given.iter().find(|one| one.kind == kind);
            if let (Some(a), Some(b)) = (find(*a), find(*b)) {
                let message = format!("`@{}` cannot stand beside `@{}`", b.attribute.name.name, a.attribute.name.name);
                self.report(
                    Diagnostic::new(Code::ConflictingAttributes, b.span, message)
                        .with(a.span, "because of this")
                        .help(format!("{why}: remove `@{}`", b.attribute.name.name))
                        .fix("remove it", b.span, ""),
                );
            }
        }
    }

    fn apply(&mut self, read: &mut ReadField, given: &Given<'a, OnField>, all: &[Given<'a, OnField>]) {
        let field = &mut read.field;
        if !self.applicable(field, given) {
            return;
        }
        match given.kind {
            OnField::Id => field.id = true,
            OnField::Unique => read.unique = Some(given.span),
            OnField::Tenant => read.tenant = Some(given.span),
            OnField::Default => {
                if let Some(value) = given.arg("value") {
                    field.default = self.default(field, value);
                }
            }
            OnField::UpdatedAt => field.updated_at = true,
            // Relations are read elsewhere; the table keeps this one away from fields.
            OnField::Relation => {}
            OnField::Map => {
                let name = given.arg("name").and_then(|value| self.database_name(value, "the column's name"));
                if let Some(name) = name {
                    field.column = name;
                }
            }
            OnField::Readonly => field.readonly = true,
            OnField::Immutable => field.immutable = true,
            OnField::ServerOnly => field.server_only = true,
            OnField::Version => field.version = true,
            OnField::Pii => field.pii = true,
            OnField::Sensitive => field.sensitive = true,
            OnField::Deprecated => field.deprecated = self.sentence(given, "why", "the reason"),
            OnField::Rename => {
                let from = given.arg("from");
                field.rename_from = from
                    .and_then(|value| attributes::string(value, "the old name", &mut self.diags))
                    .map(str::to_owned);
            }
            OnField::DbEnforce => self.db_enforce(given, all),
            _ => {
                let db_enforce = all.iter().any(|one| one.kind == OnField::DbEnforce)
                    && matches!(given.kind, OnField::Length | OnField::Range | OnField::Iso4217);
                if let Some(kind) = self.validator(field, given) {
                    field.validators.push(Validator { kind, db_enforce });
                }
            }
        }
    }

    /// A text argument that says something.
    pub(super) fn sentence<K>(&mut self, given: &Given<'a, K>, arg: &str, what: &str) -> Option<String> {
        let value = given.arg(arg)?;
        let text = attributes::string(value, what, &mut self.diags)?;
        if text.trim().is_empty() {
            self.report(bad(value.span, format!("{what} is empty")).help("say it in a few words"));
            return None;
        }
        Some(text.to_owned())
    }

    /// The name of a table, column or constraint, as it goes between double quotes into SQL.
    pub(super) fn database_name(&mut self, value: &ast::Expr, what: &str) -> Option<String> {
        let text = attributes::string(value, what, &mut self.diags)?;
        let sound = !text.is_empty()
            && text.len() <= MAX_IDENTIFIER
            && !text.chars().any(|c| c.is_control() || c == '"' || c == '`');
        if !sound {
            self.report(
                Diagnostic::new(
                    Code::BadDatabaseName,
                    value.span,
                    format!("{what} is no name that both databases take"),
                )
                .help(format!("use 1 to {MAX_IDENTIFIER} octets without quotes and control characters")),
            );
            return None;
        }
        Some(text.to_owned())
    }

    /// Whether the attribute makes sense for the field's type.
    fn applicable(&mut self, field: &Field, given: &Given<'a, OnField>) -> bool {
        use Scalar::{BigInt, Bytes, Cuid, Date, DateTime, Decimal, Float, Int, Json, String as Text, Uuid};
        let scalar = field.scalar();
        let single = !field.list && !field.optional;
        let (fits, wanted) = match given.kind {
            OnField::Id => (
                !field.list && !field.optional && !matches!(scalar, Some(Float | Decimal(_) | Bytes | Json)),
                "a key is a single `String`, `Int`, `BigInt`, `Uuid`, `Cuid`, `Date`, `DateTime`, `Boolean` or enum, never `?`",
            ),
            OnField::Unique => (!field.list && scalar != Some(Json), "lists and `Json` cannot be unique"),
            OnField::Version => (single && scalar == Some(Int), "a version is an `Int`, never `?`"),
            OnField::UpdatedAt => (single && scalar == Some(DateTime), "it is a `DateTime`, never `?`"),
            OnField::Length => {
                (!field.list && matches!(scalar, Some(Text | Bytes)), "`String` and `Bytes` have a length")
            }
            OnField::Range => (
                !field.list && matches!(scalar, Some(Int | BigInt | Float | Decimal(_) | Date | DateTime)),
                "`Int`, `BigInt`, `Float`, `Decimal`, `Date` and `DateTime` have a range",
            ),
            OnField::Email
            | OnField::Regex
            | OnField::Uri
            | OnField::Iso4217
            | OnField::Iban
            | OnField::Bic
            | OnField::Lei => (!field.list && scalar == Some(Text), "it checks a single `String`"),
            OnField::Tenant => (
                matches!(scalar, Some(Text | Int | BigInt | Uuid | Cuid)) || matches!(field.ty, FieldType::Enum(_)),
                "a tenant is a `String`, `Int`, `BigInt`, `Uuid`, `Cuid` or enum",
            ),
            _ => (true, ""),
        };
        if !fits {
            let mut ty = type_name(&self.schema, field.ty);
            ty.push_str(if field.list {
                "[]"
            } else if field.optional {
                "?"
            } else {
                ""
            });
            let message = format!("`@{}` does not fit {}", given.attribute.name.name, a(&ty));
            self.report(Diagnostic::new(Code::AttributeNotHere, given.span, message).help(wanted));
        }
        fits
    }

    fn db_enforce(&mut self, given: &Given<'a, OnField>, all: &[Given<'a, OnField>]) {
        let enforceable = all.iter().any(|one| matches!(one.kind, OnField::Length | OnField::Range | OnField::Iso4217));
        if !enforceable {
            self.report(
                Diagnostic::new(
                    Code::DbEnforceAlone,
                    given.span,
                    "`@db_enforce` has nothing that a database can enforce",
                )
                .help("it stands beside `@range`, `@length` or `@iso4217`; the other validators run in the engine")
                .fix("remove it", given.span, ""),
            );
        }
    }

    // Defaults

    fn default(&mut self, field: &Field, written: &'a ast::Expr) -> Option<Default> {
        let scalar = field.scalar().filter(|_| !field.list);
        let generated = |fits: bool, default: Default, wanted: &'static str| (fits, default, wanted);
        let (name, (fits, default, wanted)) = match &written.kind {
            ExprKind::Call { name, args } => {
                if name.name != "dbgenerated"
                    && let Some(first) = args.first()
                {
                    let message = format!("`{}()` takes no arguments", name.name);
                    self.report(bad(first.span, message).help("remove them"));
                    return None;
                }
                let of = |wanted: &[Scalar]| scalar.is_some_and(|scalar| wanted.contains(&scalar));
                let kind = match name.name.as_str() {
                    "now" => generated(of(&[Scalar::DateTime]), Default::Now, "a `DateTime`"),
                    "uuid" => generated(of(&[Scalar::Uuid, Scalar::String]), Default::Uuid, "a `Uuid`, or its text"),
                    "cuid" => generated(of(&[Scalar::Cuid, Scalar::String]), Default::Cuid, "a `Cuid`, or its text"),
                    "autoincrement" => generated(
                        of(&[Scalar::Int, Scalar::BigInt]) && !field.optional,
                        Default::AutoIncrement,
                        "an `Int` or `BigInt` that is the single `@id`",
                    ),
                    "dbgenerated" => return self.dbgenerated(written, args),
                    "auth" => {
                        self.report(
                            bad(written.span, "the caller as a whole is no value")
                                .help("name a claim: `auth().tenantId`"),
                        );
                        return None;
                    }
                    _ => return self.unknown_default(name),
                };
                (format!("{}()", name.name), kind)
            }
            ExprKind::Select { base, name } => return self.claim_default(field, base, name),
            ExprKind::Null => {
                self.report(
                    bad(written.span, "`null` is no default")
                        .help("an optional field (`?`) is null when it is not given, and a required one never is"),
                );
                return None;
            }
            _ => return self.literal_default(field, written).map(Default::Value),
        };
        if !fits {
            self.report(
                Diagnostic::new(Code::BadDefault, written.span, format!("`{name}` is no default of `{}`", field.name))
                    .help(format!("it gives {wanted}")),
            );
            return None;
        }
        Some(default)
    }

    fn unknown_default(&mut self, name: &ast::Ident) -> Option<Default> {
        const FUNCTIONS: [&str; 6] = ["now", "uuid", "cuid", "autoincrement", "dbgenerated", "auth"];
        let message = format!("there is no default function `{}()`", name.name);
        let diagnostic = Diagnostic::new(Code::UnknownFunction, name.span, message);
        let known =
            "the functions are `now()`, `uuid()`, `cuid()`, `autoincrement()`, `dbgenerated(\"sql\")` and `auth().x`";
        self.report(suggest(diagnostic, &name.name, FUNCTIONS, known));
        None
    }

    fn dbgenerated(&mut self, written: &'a ast::Expr, args: &'a [ast::Expr]) -> Option<Default> {
        let [sql] = args else {
            self.report(
                bad(written.span, "`dbgenerated()` takes one SQL expression").help("write `dbgenerated(\"..\")`"),
            );
            return None;
        };
        let text = attributes::string(sql, "the SQL expression", &mut self.diags)?;
        if text.trim().is_empty() {
            self.report(bad(sql.span, "the SQL expression is empty").help("write the expression in quotes"));
            return None;
        }
        Some(Default::DbGenerated(text.to_owned()))
    }

    fn claim_default(&mut self, field: &Field, base: &ast::Expr, name: &ast::Ident) -> Option<Default> {
        if !matches!(&base.kind, ExprKind::Call { name, args } if name.name == "auth" && args.is_empty()) {
            self.report(bad(name.span, "this is no default").help("only `auth()` has members"));
            return None;
        }
        let Some(auth) = &self.schema.auth else {
            self.report(
                Diagnostic::new(Code::NoAuthBlock, base.span, "the schema has no `auth` block")
                    .help("declare what a caller carries: `auth Principal { id String }`"),
            );
            return None;
        };
        let Some((claim, id)) = auth.fields.iter().zip(0..).find(|(claim, _)| claim.name == name.name) else {
            let claims: Vec<&str> = auth.fields.iter().map(|claim| claim.name.as_str()).collect();
            let message = format!("`{}` has no field `{}`", auth.name, name.name);
            let known = format!("its fields are {}", listing(&claims));
            let diagnostic = Diagnostic::new(Code::UnknownName, name.span, message);
            let diagnostic = suggest(diagnostic, &name.name, claims, known);
            if !self.broken.has_claim(&name.name) {
                self.report(diagnostic);
            }
            return None;
        };
        if claim.ty != field.ty || claim.list != field.list {
            let (wanted, found) = (type_name(&self.schema, field.ty), type_name(&self.schema, claim.ty));
            let lists = if claim.list == field.list { "" } else { ", and one of them is a list" };
            let message =
                format!("`{}` is {}, but `auth().{}` is {}{lists}", field.name, a(&wanted), name.name, a(&found));
            self.report(
                Diagnostic::new(Code::BadDefault, name.span, message).help("both must have exactly the same type"),
            );
            return None;
        }
        Some(Default::Auth(FieldId(id)))
    }

    fn literal_default(&mut self, field: &Field, written: &ast::Expr) -> Option<Value> {
        if !field.list {
            return self.literal(field.ty, written, Code::BadDefault);
        }
        let ExprKind::List(items) = &written.kind else {
            self.report(
                Diagnostic::new(
                    Code::BadDefault,
                    written.span,
                    format!("`{}` is a list, so its default is one", field.name),
                )
                .help("write `[]` or `[a, b]`"),
            );
            return None;
        };
        let values: Vec<Option<Value>> =
            items.iter().map(|item| self.literal(field.ty, item, Code::BadDefault)).collect();
        values.into_iter().collect::<Option<_>>().map(Value::List)
    }

    /// A constant of a type, outside of expressions.
    fn literal(&mut self, of: FieldType, written: &ast::Expr, code: Code) -> Option<Value> {
        let wanted = type_name(&self.schema, of);
        let text = match (&written.kind, of) {
            (ExprKind::Path(path), FieldType::Enum(id)) => return self.enum_literal(id, path),
            (ExprKind::Bool(value), FieldType::Scalar(Scalar::Boolean)) => return Some(Value::Bool(*value)),
            (
                ExprKind::Number(text),
                FieldType::Scalar(Scalar::Int | Scalar::BigInt | Scalar::Float | Scalar::Decimal(_)),
            ) => text,
            (ExprKind::String(text), FieldType::Scalar(scalar))
                if !matches!(scalar, Scalar::Int | Scalar::Float | Scalar::Boolean) =>
            {
                text
            }
            _ => {
                let help = match of {
                    FieldType::Enum(id) => {
                        let variants = &self.schema.enumeration(id).variants;
                        let names: Vec<&str> = variants.iter().map(|variant| variant.name.as_str()).collect();
                        format!("its values are {}, without quotes", listing(&names))
                    }
                    FieldType::Scalar(Scalar::Boolean) => "write `true` or `false`".to_owned(),
                    FieldType::Scalar(Scalar::Int | Scalar::Float) => "write a number without quotes".to_owned(),
                    _ => "write it in quotes".to_owned(),
                };
                self.report(Diagnostic::new(code, written.span, format!("{} is expected", a(&wanted))).help(help));
                return None;
            }
        };
        let FieldType::Scalar(scalar) = of else { return None };
        match value::parse_text(scalar, text) {
            Ok(value) => Some(value),
            Err(invalid) => {
                let message = format!("this is no `{wanted}`");
                self.report(Diagnostic::new(code, written.span, message).help(format!("it {invalid}")));
                None
            }
        }
    }

    fn enum_literal(&mut self, id: EnumId, path: &[ast::Ident]) -> Option<Value> {
        let wanted = self.schema.enumeration(id);
        let name = match path {
            [name] => name,
            [first, name] if first.name == wanted.name => name,
            [first, ..] => first,
            [] => return None,
        };
        if let Some(variant) = wanted.variants.iter().find(|variant| variant.name == name.name) {
            return Some(Value::Text(variant.stored.clone()));
        }
        let names: Vec<&str> = wanted.variants.iter().map(|variant| variant.name.as_str()).collect();
        let message = format!("`{}` is no value of the enum `{}`", name.name, wanted.name);
        let diagnostic = Diagnostic::new(Code::UnknownVariant, name.span, message);
        let known = format!("its values are {}", listing(&names));
        let diagnostic = suggest(diagnostic, &name.name, names, known);
        self.report(diagnostic);
        None
    }

    // Validators

    fn validator(&mut self, field: &Field, given: &Given<'a, OnField>) -> Option<ValidatorKind> {
        match given.kind {
            OnField::Length => self.length(given),
            OnField::Range => self.range(field, given),
            OnField::Regex => self.regex(given),
            OnField::Iso4217 => self.iso4217(given),
            OnField::Email => Some(ValidatorKind::Email),
            OnField::Uri => Some(ValidatorKind::Uri),
            OnField::Iban => Some(ValidatorKind::Iban),
            OnField::Bic => Some(ValidatorKind::Bic),
            OnField::Lei => Some(ValidatorKind::Lei),
            _ => None,
        }
    }

    fn has_bound(&mut self, given: &Given<'a, OnField>) -> bool {
        let bounded = given.arg("min").is_some() || given.arg("max").is_some();
        if !bounded {
            let message = format!("`@{}` without a bound checks nothing", given.attribute.name.name);
            self.report(
                Diagnostic::new(Code::MissingArgument, given.span, message).help("give `min:`, `max:` or both"),
            );
        }
        bounded
    }

    fn empty_range(&mut self, span: Span) -> Option<ValidatorKind> {
        self.report(
            Diagnostic::new(Code::EmptyRange, span, "no value is this large and this small")
                .help("`min:` must not be above `max:`"),
        );
        None
    }

    fn length(&mut self, given: &Given<'a, OnField>) -> Option<ValidatorKind> {
        if !self.has_bound(given) {
            return None;
        }
        let mut bound = |name: &str| match given.arg(name) {
            Some(value) => attributes::count(value, &format!("`{name}:`"), &mut self.diags).map(Some),
            None => Some(None),
        };
        let (min, max) = (bound("min"), bound("max"));
        let (min, max) = (min?, max?);
        if min.zip(max).is_some_and(|(min, max)| min > max) {
            return self.empty_range(given.span);
        }
        Some(ValidatorKind::Length { min, max })
    }

    fn range(&mut self, field: &Field, given: &Given<'a, OnField>) -> Option<ValidatorKind> {
        if !self.has_bound(given) {
            return None;
        }
        let mut bound = |name: &str| match given.arg(name) {
            Some(value) => self.literal(field.ty, value, Code::BadArgument).map(Some),
            None => Some(None),
        };
        let (min, max) = (bound("min"), bound("max"));
        let (min, max) = (min?, max?);
        let scalar = field.scalar()?;
        let order = min.as_ref().zip(max.as_ref()).and_then(|(min, max)| min.compare(max, scalar));
        if order == Some(std::cmp::Ordering::Greater) {
            return self.empty_range(given.span);
        }
        Some(ValidatorKind::Range { min, max })
    }

    fn regex(&mut self, given: &Given<'a, OnField>) -> Option<ValidatorKind> {
        let value = given.arg("pattern")?;
        let pattern = attributes::string(value, "the pattern", &mut self.diags)?;
        // Most of a schema's time would go into compiling the patterns that its fields share.
        let problem = self.patterns.entry(pattern).or_insert_with(|| crate::pattern::compile(pattern).err());
        match problem.clone() {
            None => Some(ValidatorKind::Regex(pattern.to_owned())),
            Some(why) => {
                let message = format!("this pattern does not compile: {why}");
                self.report(
                    Diagnostic::new(Code::BadRegex, value.span, message)
                        .help("patterns are those of the Rust crate `regex`, without look-around and back-references"),
                );
                None
            }
        }
    }

    fn iso4217(&mut self, given: &Given<'a, OnField>) -> Option<ValidatorKind> {
        let Some(value) = given.arg("any") else {
            return Some(ValidatorKind::Iso4217 { any: false });
        };
        let name = attributes::name(value, "the argument of `@iso4217`", &mut self.diags)?;
        if name.name != "any" {
            self.report(
                bad(value.span, format!("`@iso4217` does not know `{}`", name.name))
                    .help("write `@iso4217` or `@iso4217(any)`"),
            );
            return None;
        }
        Some(ValidatorKind::Iso4217 { any: true })
    }

    /// A literal default that the field's own validators would refuse.
    pub(super) fn check_default(&mut self, field: &Field, written: &ast::Field) {
        let Some(Default::Value(default)) = &field.default else { return };
        let refused = field.validators.iter().any(|validator| match (&validator.kind, default) {
            (ValidatorKind::Range { min, max }, value) => {
                let Some(scalar) = field.scalar() else { return false };
                let order = |bound: &Option<Value>| bound.as_ref().and_then(|bound| value.compare(bound, scalar));
                order(min) == Some(std::cmp::Ordering::Less) || order(max) == Some(std::cmp::Ordering::Greater)
            }
            (ValidatorKind::Length { min, max }, Value::Text(text)) => {
                let length = text.chars().count() as u64;
                min.is_some_and(|min| length < min) || max.is_some_and(|max| length > max)
            }
            (ValidatorKind::Regex(pattern), Value::Text(text)) => {
                crate::pattern::compile(pattern).is_ok_and(|regex| !regex.is_match(text))
            }
            _ => false,
        });
        if refused {
            let message = format!("the default of `{}` is refused by its own validators", field.name);
            let default = written.attributes.iter().find(|attribute| attribute.name.name == "default");
            let span = default.map_or(written.span, |attribute| attribute.span);
            self.report(Diagnostic::new(Code::BadDefault, span, message).help("change the one or the other"));
        }
    }

    /// What a `@use` names.
    pub(super) fn mixin_named(&mut self, name: &'a ast::Ident) -> Option<&'a ast::Record> {
        match self.declared.get(name.name.as_str()) {
            Some((Declared::Mixin(at), _)) => {
                self.used.insert(&name.name);
                self.mixins.get(*at).copied()
            }
            Some((other, _)) => {
                let message = format!("`{}` is {}, not a mixin", name.name, other.words());
                self.report(Diagnostic::new(Code::UnknownMixin, name.span, message).help("`@use` takes a mixin"));
                None
            }
            None => {
                let message = format!("there is no mixin `{}`", name.name);
                let diagnostic = Diagnostic::new(Code::UnknownMixin, name.span, message);
                let known = self.mixins.iter().map(|mixin| mixin.name.name.as_str());
                let help = format!("declare it: `mixin {} {{ .. }}`", name.name);
                self.report(suggest(diagnostic, &name.name, known, help));
                None
            }
        }
    }
}
