//! The closed vocabulary of attributes: what exists, where it may stand, and which arguments it takes.
//!
//! Everything that can be said about an attribute without knowing its field is said here, from tables.

use super::suggest::{suggest, suggest_as};
use crate::ast;
use crate::diag::{Code, Diagnostic, Span};

/// Where attributes stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Enum,
    Variant,
    Auth,
    AuthField,
    Type,
    TypeField,
    Mixin,
    MixinField,
    Model,
    ModelField,
    Relation,
    Procedure,
    Parameter,
}

impl Place {
    fn words(self) -> &'static str {
        match self {
            Self::Enum => "an enum",
            Self::Variant => "an enum's variant",
            Self::Auth => "the `auth` block",
            Self::AuthField => "a field of the `auth` block",
            Self::Type => "a `type`",
            Self::TypeField => "a field of a `type`",
            Self::Mixin => "a mixin",
            Self::MixinField => "a field of a mixin",
            Self::Model => "a model",
            Self::ModelField => "a field of a model",
            Self::Relation => "a relation",
            Self::Procedure => "a procedure",
            Self::Parameter => "a parameter of a procedure",
        }
    }
}

/// An argument of an attribute.
#[derive(Debug, Clone, Copy)]
pub(super) struct Param {
    /// Written by name (`min: 1`) or by position; the name of a positional one is for help texts.
    name: &'static str,
    named: bool,
    required: bool,
}

const fn value(name: &'static str) -> Param {
    Param { name, named: false, required: true }
}

const fn optional_value(name: &'static str) -> Param {
    Param { name, named: false, required: false }
}

const fn option(name: &'static str) -> Param {
    Param { name, named: true, required: false }
}

const fn required_option(name: &'static str) -> Param {
    Param { name, named: true, required: true }
}

/// An attribute of the language.
#[derive(Debug)]
pub(super) struct Spec<K: 'static> {
    name: &'static str,
    /// `None`: in the vocabulary, enforced by no stage yet.
    kind: Option<K>,
    places: &'static [Place],
    params: &'static [Param],
    /// May stand more than once.
    repeatable: bool,
}

/// Attributes with one `@` on fields, relations, variants and parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnField {
    Id,
    Unique,
    Default,
    UpdatedAt,
    Relation,
    Map,
    Readonly,
    Immutable,
    ServerOnly,
    Version,
    Pii,
    Sensitive,
    Deprecated,
    Rename,
    Tenant,
    Length,
    Range,
    Email,
    Regex,
    Uri,
    Iso4217,
    Iban,
    Bic,
    Lei,
    DbEnforce,
}

/// Attributes with `@@`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnBlock {
    Id,
    Unique,
    Index,
    Check,
    Map,
    Path,
    SoftDelete,
    AppendOnly,
    Audit,
    Emit,
    Internal,
    Idempotent,
    Allow,
    Deny,
}

/// Attributes of procedures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnProcedure {
    Allow,
    Deny,
    Isolation,
    Status,
    Deprecated,
    Idempotent,
    RateLimit,
}

const STORED: &[Place] = &[Place::ModelField, Place::MixinField];
const VALIDATED: &[Place] = &[Place::ModelField, Place::MixinField, Place::TypeField, Place::Parameter];

const fn field(name: &'static str, kind: OnField, places: &'static [Place], params: &'static [Param]) -> Spec<OnField> {
    Spec { name, kind: Some(kind), places, params, repeatable: false }
}

const fn unsupported<K>(name: &'static str, places: &'static [Place]) -> Spec<K> {
    Spec { name, kind: None, places, params: &[], repeatable: true }
}

/// Every `@` attribute of fields.
pub(super) const FIELD: &[Spec<OnField>] = &[
    field("id", OnField::Id, &[Place::ModelField, Place::AuthField], &[]),
    field("unique", OnField::Unique, STORED, &[]),
    field("default", OnField::Default, STORED, &[value("value")]),
    field("updatedAt", OnField::UpdatedAt, STORED, &[]),
    field(
        "relation",
        OnField::Relation,
        &[Place::Relation],
        &[option("fields"), option("references"), option("name"), option("onDelete"), option("onUpdate")],
    ),
    field("map", OnField::Map, &[Place::ModelField, Place::MixinField, Place::Variant], &[value("name")]),
    field("readonly", OnField::Readonly, STORED, &[]),
    field("immutable", OnField::Immutable, STORED, &[]),
    field("server_only", OnField::ServerOnly, STORED, &[]),
    field("version", OnField::Version, STORED, &[]),
    field("pii", OnField::Pii, STORED, &[]),
    field("sensitive", OnField::Sensitive, STORED, &[]),
    field("deprecated", OnField::Deprecated, VALIDATED, &[value("why")]),
    field("rename", OnField::Rename, STORED, &[required_option("from")]),
    field("tenant", OnField::Tenant, &[Place::AuthField], &[]),
    field("length", OnField::Length, VALIDATED, &[option("min"), option("max")]),
    field("range", OnField::Range, VALIDATED, &[option("min"), option("max")]),
    field("email", OnField::Email, VALIDATED, &[]),
    field("regex", OnField::Regex, VALIDATED, &[value("pattern")]),
    field("uri", OnField::Uri, VALIDATED, &[]),
    field("iso4217", OnField::Iso4217, VALIDATED, &[optional_value("any")]),
    field("iban", OnField::Iban, VALIDATED, &[]),
    field("bic", OnField::Bic, VALIDATED, &[]),
    field("lei", OnField::Lei, VALIDATED, &[]),
    field("db_enforce", OnField::DbEnforce, STORED, &[]),
    unsupported("allow", VALIDATED),
    unsupported("deny", VALIDATED),
    unsupported("mask", VALIDATED),
    unsupported("encrypted", VALIDATED),
];

const MODEL: &[Place] = &[Place::Model];
const MODEL_AND_MIXIN: &[Place] = &[Place::Model, Place::Mixin];

const fn once(name: &'static str, kind: OnBlock, places: &'static [Place], params: &'static [Param]) -> Spec<OnBlock> {
    Spec { name, kind: Some(kind), places, params, repeatable: false }
}

const fn many(name: &'static str, kind: OnBlock, places: &'static [Place], params: &'static [Param]) -> Spec<OnBlock> {
    Spec { name, kind: Some(kind), places, params, repeatable: true }
}

/// Every `@@` attribute.
pub(super) const BLOCK: &[Spec<OnBlock>] = &[
    once("id", OnBlock::Id, MODEL, &[value("fields")]),
    many("unique", OnBlock::Unique, MODEL, &[value("fields"), option("where"), option("name")]),
    many(
        "index",
        OnBlock::Index,
        MODEL_AND_MIXIN,
        &[value("fields"), option("where"), option("using"), option("name")],
    ),
    many("check", OnBlock::Check, MODEL_AND_MIXIN, &[value("expression"), value("message"), option("name")]),
    once("map", OnBlock::Map, MODEL, &[value("table")]),
    once("path", OnBlock::Path, MODEL, &[value("segment")]),
    once("soft_delete", OnBlock::SoftDelete, MODEL, &[]),
    once("append_only", OnBlock::AppendOnly, MODEL, &[]),
    once("audit", OnBlock::Audit, MODEL, &[optional_value("denials")]),
    once(
        "emit",
        OnBlock::Emit,
        MODEL,
        &[optional_value("created"), optional_value("updated"), optional_value("deleted")],
    ),
    many("internal", OnBlock::Internal, MODEL, &[value("action")]),
    many("allow", OnBlock::Allow, MODEL_AND_MIXIN, &[value("action"), value("expression")]),
    many("deny", OnBlock::Deny, MODEL_AND_MIXIN, &[value("action"), value("expression")]),
    once("idempotent", OnBlock::Idempotent, MODEL, &[value("required")]),
];

const fn procedure(
    name: &'static str,
    kind: OnProcedure,
    repeatable: bool,
    params: &'static [Param],
) -> Spec<OnProcedure> {
    Spec { name, kind: Some(kind), places: &[Place::Procedure], params, repeatable }
}

/// Every attribute of procedures.
pub(super) const PROCEDURE: &[Spec<OnProcedure>] = &[
    procedure("allow", OnProcedure::Allow, true, &[value("expression")]),
    procedure("deny", OnProcedure::Deny, true, &[value("expression")]),
    procedure("isolation", OnProcedure::Isolation, false, &[value("level")]),
    procedure("status", OnProcedure::Status, false, &[value("status")]),
    procedure("deprecated", OnProcedure::Deprecated, false, &[value("why")]),
    procedure("idempotent", OnProcedure::Idempotent, false, &[value("required | optional | none")]),
    procedure("rate_limit", OnProcedure::RateLimit, true, &[value("policy")]),
];

/// The only attribute that stands alone on a line.
pub(super) const USE: &[Spec<()>] =
    &[Spec { name: "use", kind: Some(()), places: &[Place::Model], params: &[value("mixin")], repeatable: true }];

/// An attribute of the language, for tools and for tests that must not forget one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// `@` or `@@`.
    pub sigil: &'static str,
    /// The name after it.
    pub name: &'static str,
    /// Where it may stand: `a model`, `a field of a model`, ..
    pub places: Vec<&'static str>,
    /// The arguments that are given by name.
    pub options: Vec<&'static str>,
    /// Whether something enforces it; otherwise using it is an error that says so.
    pub supported: bool,
}

/// Every attribute of the language.
pub fn vocabulary() -> Vec<Word> {
    fn words<K>(sigil: &'static str, specs: &'static [Spec<K>]) -> impl Iterator<Item = Word> {
        specs.iter().map(move |spec| Word {
            sigil,
            name: spec.name,
            places: spec.places.iter().map(|place| place.words()).collect(),
            options: spec.params.iter().filter(|param| param.named).map(|param| param.name).collect(),
            supported: spec.kind.is_some(),
        })
    }
    words("@", FIELD).chain(words("@@", BLOCK)).chain(words("@", PROCEDURE)).chain(words("@", USE)).collect()
}

/// An attribute that exists, may stand where it stands, and has the arguments that it needs.
#[derive(Debug)]
pub(super) struct Given<'a, K: 'static> {
    pub(super) kind: K,
    pub(super) span: Span,
    pub(super) attribute: &'a ast::Attribute,
    params: &'static [Param],
    values: Vec<Option<&'a ast::Expr>>,
}

impl<'a, K> Given<'a, K> {
    /// The argument of that name, positional ones included.
    pub(super) fn arg(&self, name: &str) -> Option<&'a ast::Expr> {
        self.params.iter().zip(&self.values).find(|(param, _)| param.name == name).and_then(|(_, value)| *value)
    }
}

/// Reads the attributes of one thing against a table.
pub(super) fn read<'a, K: Copy>(
    table: &'static [Spec<K>],
    sigil: &str,
    place: Place,
    attributes: impl IntoIterator<Item = &'a ast::Attribute>,
    diags: &mut Vec<Diagnostic>,
) -> Vec<Given<'a, K>> {
    let mut given: Vec<Given<'a, K>> = Vec::new();
    let mut seen: Vec<&'a ast::Ident> = Vec::new();
    for attribute in attributes {
        let name = &attribute.name;
        let Some(spec) = table.iter().find(|spec| spec.name == name.name) else {
            diags.push(unknown(table, sigil, name));
            continue;
        };
        if !spec.places.contains(&place) {
            diags.push(misplaced(spec, sigil, place, name));
            continue;
        }
        let Some(kind) = spec.kind else {
            diags.push(not_supported(attribute, sigil));
            continue;
        };
        if let Some(first) = seen.iter().find(|first| first.name == name.name && !spec.repeatable) {
            diags.push(
                Diagnostic::new(
                    Code::DuplicateAttribute,
                    name.span,
                    format!("`{sigil}{}` is written twice", name.name),
                )
                .with(first.span, "first here")
                .help("keep one of the two")
                .fix("remove the second one", attribute.span, ""),
            );
            continue;
        }
        seen.push(name);
        if let Some(values) = arguments(spec, sigil, attribute, diags) {
            given.push(Given { kind, span: attribute.span, attribute, params: spec.params, values });
        }
    }
    given
}

fn unknown<K>(table: &[Spec<K>], sigil: &str, name: &ast::Ident) -> Diagnostic {
    let message = format!("there is no attribute `{sigil}{}`", name.name);
    let diagnostic = Diagnostic::new(Code::UnknownAttribute, name.span, message);
    if let Some(place) = elsewhere(&name.name) {
        return diagnostic.help(place);
    }
    suggest_as(
        diagnostic,
        &name.name,
        table.iter().map(|spec| spec.name),
        |meant| format!("{sigil}{meant}"),
        "the attributes of the language are a closed list, which has none that is spelled like this",
    )
}

fn misplaced<K>(spec: &Spec<K>, sigil: &str, place: Place, name: &ast::Ident) -> Diagnostic {
    let message = format!("`{sigil}{}` cannot stand on {}", spec.name, place.words());
    Diagnostic::new(Code::AttributeNotHere, name.span, message).help(stands_on(sigil, spec.name, spec.places))
}

fn stands_on(sigil: &str, name: &str, places: &[Place]) -> String {
    let words: Vec<&str> = places.iter().map(|place| place.words()).collect();
    match words.split_last() {
        Some((last, rest)) if !rest.is_empty() => {
            format!("`{sigil}{name}` stands on {} or {last}", rest.join(", "))
        }
        _ => format!("`{sigil}{name}` stands on {}", words.concat()),
    }
}

/// Where an attribute of that name stands, if not where it was written.
fn elsewhere(name: &str) -> Option<String> {
    fn find<K>(table: &[Spec<K>], sigil: &str, name: &str) -> Option<String> {
        let spec = table.iter().find(|spec| spec.name == name)?;
        Some(stands_on(sigil, name, spec.places))
    }
    find(FIELD, "@", name)
        .or_else(|| find(BLOCK, "@@", name))
        .or_else(|| find(PROCEDURE, "@", name))
        .or_else(|| find(USE, "@", name))
}

/// The values in the order of the parameters; `None` after an error.
fn arguments<'a, K>(
    spec: &Spec<K>,
    sigil: &str,
    attribute: &'a ast::Attribute,
    diags: &mut Vec<Diagnostic>,
) -> Option<Vec<Option<&'a ast::Expr>>> {
    let before = diags.len();
    let mut values: Vec<Option<&'a ast::Expr>> = vec![None; spec.params.len()];
    let usage = || format!("write `{}`", usage(spec, sigil));
    for argument in attribute.arguments() {
        let slot = match &argument.name {
            Some(name) => spec.params.iter().position(|param| param.named && param.name == name.name),
            None => spec.params.iter().zip(&values).position(|(param, value)| !param.named && value.is_none()),
        };
        match (slot.and_then(|slot| values.get_mut(slot)), &argument.name) {
            (Some(value), _) if value.is_none() => *value = Some(&argument.value),
            (Some(_), _) => diags.push(
                Diagnostic::new(Code::BadArgument, argument.span, "this argument is written twice").help(usage()),
            ),
            (None, Some(name)) => {
                let message = format!("`{sigil}{}` has no argument `{}`", spec.name, name.name);
                let diagnostic = Diagnostic::new(Code::UnknownArgument, name.span, message);
                let options = spec.params.iter().filter(|param| param.named).map(|param| param.name);
                diags.push(suggest(diagnostic, &name.name, options, usage()));
            }
            (None, None) => {
                let message = format!("`{sigil}{}` does not take this argument", spec.name);
                diags.push(Diagnostic::new(Code::UnknownArgument, argument.span, message).help(usage()));
            }
        }
    }
    for (param, value) in spec.params.iter().zip(&values) {
        if param.required && value.is_none() {
            let message = format!("`{sigil}{}` needs its argument `{}`", spec.name, param.name);
            diags.push(Diagnostic::new(Code::MissingArgument, attribute.span, message).help(usage()));
        }
    }
    (diags.len() == before).then_some(values)
}

/// `@@unique(fields, where: .., name: ..)`
fn usage<K>(spec: &Spec<K>, sigil: &str) -> String {
    let params: Vec<String> = spec
        .params
        .iter()
        .map(|param| if param.named { format!("{}: ..", param.name) } else { param.name.to_owned() })
        .collect();
    let name = spec.name;
    if params.is_empty() { format!("{sigil}{name}") } else { format!("{sigil}{name}({})", params.join(", ")) }
}

fn not_supported(attribute: &ast::Attribute, sigil: &str) -> Diagnostic {
    let message = format!("`{sigil}{}` is not supported yet", attribute.name.name);
    Diagnostic::new(Code::NotSupportedYet, attribute.span, message)
        .help("nothing would enforce it, so it is refused instead of being ignored; remove it for now")
        .fix("remove it", attribute.span, "")
}

/// A string literal.
pub(super) fn string<'a>(value: &'a ast::Expr, what: &str, diags: &mut Vec<Diagnostic>) -> Option<&'a str> {
    match &value.kind {
        ast::ExprKind::String(text) if text.contains('\0') => {
            diags.push(bad(value.span, format!("{what} must not contain a NUL character")).help("remove `\\u{0}`"));
            None
        }
        ast::ExprKind::String(text) => Some(text),
        ast::ExprKind::Path(path) => {
            let name = path.iter().map(|ident| ident.name.as_str()).collect::<Vec<_>>().join(".");
            let fixed = format!("\"{name}\"");
            diags.push(
                bad(value.span, format!("{what} must be a string"))
                    .help(format!("write `{fixed}`"))
                    .fix("quote it", value.span, fixed),
            );
            None
        }
        _ => {
            diags.push(bad(value.span, format!("{what} must be a string")).help("write text in quotes"));
            None
        }
    }
}

/// A bare name.
pub(super) fn name<'a>(value: &'a ast::Expr, what: &str, diags: &mut Vec<Diagnostic>) -> Option<&'a ast::Ident> {
    match &value.kind {
        ast::ExprKind::Path(path) => match path.as_slice() {
            [name] => return Some(name),
            _ => {
                diags
                    .push(bad(value.span, format!("{what} must be a single name")).help("write the name without dots"));
            }
        },
        ast::ExprKind::String(text) => diags.push(
            bad(value.span, format!("{what} is written without quotes")).help(format!("write `{text}`")).fix(
                "remove the quotes",
                value.span,
                text.clone(),
            ),
        ),
        _ => diags.push(bad(value.span, format!("{what} must be a name")).help("write a bare name")),
    }
    None
}

/// `[a, b]`: at least one name, none twice.
pub(super) fn name_list<'a>(
    value: &'a ast::Expr,
    what: &str,
    diags: &mut Vec<Diagnostic>,
) -> Option<Vec<&'a ast::Ident>> {
    let ast::ExprKind::List(items) = &value.kind else {
        let diagnostic = bad(value.span, format!("{what} must be a list of names"));
        diags.push(match &value.kind {
            ast::ExprKind::Path(path) if path.len() == 1 => diagnostic
                .help("write it in brackets")
                .fix("add the brackets", value.span.before(), "[")
                .fix("", value.span.after(), "]"),
            _ => diagnostic.help("write `[a, b]`"),
        });
        return None;
    };
    let before = diags.len();
    if items.is_empty() {
        diags.push(bad(value.span, format!("{what} must name at least one field")).help("write `[a]` or `[a, b]`"));
    }
    let names: Vec<&ast::Ident> = items.iter().filter_map(|item| name(item, "each of the fields", diags)).collect();
    for (at, ident) in names.iter().enumerate() {
        if names.iter().take(at).any(|first| first.name == ident.name) {
            diags.push(
                bad(ident.span, format!("`{}` stands in the list twice", ident.name)).help("name each field once"),
            );
        }
    }
    (diags.len() == before).then_some(names)
}

/// A whole number of at most 64 bits, not negative.
pub(super) fn count(value: &ast::Expr, what: &str, diags: &mut Vec<Diagnostic>) -> Option<u64> {
    let number = match &value.kind {
        ast::ExprKind::Number(text) => text.parse().ok(),
        _ => None,
    };
    if number.is_none() {
        diags.push(
            bad(value.span, format!("{what} must be a whole number, 0 or more")).help("write digits alone, as in `80`"),
        );
    }
    number
}

/// An argument of the wrong kind.
pub(super) fn bad(span: Span, message: impl Into<String>) -> Diagnostic {
    Diagnostic::new(Code::BadArgument, span, message)
}
