//! From syntax trees to the [`Schema`]: order-independent passes over immutable trees.
//!
//! | pass | gives |
//! |---|---|
//! | declare | every top-level name, with its id |
//! | enums, claims, value objects | what fields are made of |
//! | members | fields and relation members of each model, mixins merged in |
//! | keys | primary keys, unique constraints, indexes, table names, flags |
//! | relations | both ends of every relation |
//! | expressions | index filters, checks, rules, procedures |
//! | names, lints | what can only be said of the whole |
//!
//! No pass stops at an error. What has an error is left out and remembered as broken, so that it is reported once.

mod attributes;
mod exact;
mod expr;
mod fields;
mod keys;
mod lints;
mod models;
mod names;
mod procedures;
mod relations;
mod suggest;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};

use self::attributes::{Given, OnBlock};
use self::expr::{Broken, Use};
use self::suggest::{listing, suggest};
use crate::ast::{self, Block, Ident, RecordKind, Tree};
use crate::diag::{Code, Diagnostic, Span};
use crate::fuzzy::nearest;
use crate::ir::{
    Datasource, Enum, EnumId, Expr, FieldId, FieldPath, FieldType, Model, ModelId, Provider, RelationKind, Scalar,
    Schema, Side, TypeId, UrlSource, Variant,
};
use crate::parse;

pub use attributes::{Word, vocabulary};
pub use names::{database_name, hex};

/// Resolves the trees of one schema. The schema is `None` if any diagnostic is an error.
pub(crate) fn resolve(name: &str, trees: &[Tree]) -> (Option<Schema>, Vec<Diagnostic>) {
    let mut resolver = Resolver::new(name);
    let blocks: Vec<&Block> = trees.iter().flat_map(|tree| &tree.blocks).collect();
    resolver.declare(&blocks);
    resolver.datasource(&blocks);
    resolver.enums();
    resolver.claims();
    resolver.value_objects();
    resolver.members();
    resolver.keys();
    resolver.relations();
    resolver.model_expressions();
    resolver.procedures(&blocks);
    resolver.database_names();
    resolver.lints(&blocks);
    resolver.finish()
}

/// Types a request-time filter over the rows of `model`.
///
/// Hidden names (`@server_only`) give the diagnostic of a name that does not exist. Spans are of file 0.
///
/// # Errors
/// The first error of the text.
pub fn filter(schema: &Schema, model: ModelId, text: &str, limits: parse::Limits) -> Result<Expr, Diagnostic> {
    let written = parse::parse_expression(text, limits)?;
    let mut diags = Vec::new();
    let typed = expr::condition(schema, &Broken::default(), Some(model), Use::Request, &written, &mut diags);
    match (typed, diags.into_iter().next()) {
        (Some(typed), None) => Ok(typed),
        (_, Some(first)) => Err(first),
        (None, None) => Err(Diagnostic::new(Code::UnknownName, written.span, "the filter cannot be understood")),
    }
}

/// A dotted name of a request's filter or sort (`customer.country`): a visible field of `model`, or one reached over
/// to-one relations. `None` for anything else, hidden fields included.
pub fn resolve_path(schema: &Schema, model: ModelId, path: &str) -> Option<FieldPath> {
    let mut hops = Vec::new();
    let mut at = model;
    let mut names = path.split('.').peekable();
    while let Some(name) = names.next() {
        let of = schema.model(at);
        if names.peek().is_none() {
            let field = of.field_named(name).filter(|id| !of.field(*id).server_only)?;
            return Some(FieldPath { side: Side::Row, hops, field });
        }
        let id = of.relation_named(name).filter(|id| of.relation(*id).kind != RelationKind::Many)?;
        hops.push(id);
        at = of.relation(id).target;
    }
    None
}

/// What a top-level name stands for.
#[derive(Debug, Clone, Copy)]
enum Declared {
    Enum(EnumId),
    Auth,
    Mixin(usize),
    Type(TypeId),
    Model(ModelId),
}

impl Declared {
    fn words(self) -> &'static str {
        match self {
            Self::Enum(_) => "an enum",
            Self::Auth => "the `auth` block",
            Self::Mixin(_) => "a mixin",
            Self::Type(_) => "a `type`",
            Self::Model(_) => "a model",
        }
    }
}

/// What the passes know of a model beside its [`Model`].
struct Draft<'a> {
    record: &'a ast::Record,
    /// Beside [`Model::fields`]; `None` for synthetic ones.
    fields: Vec<Option<&'a ast::Field>>,
    relations: Vec<relations::End<'a>>,
    /// The `@@` attributes, mixins' included, in the order of their places.
    attributes: Vec<Given<'a, OnBlock>>,
    /// Mixins' records by `@use`, for labels.
    mixins: Vec<&'a ast::Record>,
    /// Fields with `@unique`.
    unique_fields: Vec<(FieldId, Span)>,
    /// Sources of [`Model::uniques`] and [`Model::indexes`].
    filters: Vec<keys::Filter<'a>>,
}

impl Draft<'_> {
    /// Where a field is declared: its name, or the model's for synthetic ones.
    fn span(&self, id: FieldId) -> Span {
        self.fields.get(id.index()).copied().flatten().map_or(self.record.name.span, |field| field.name.span)
    }

    /// Where the relation member of that name is declared.
    fn relation_named(&self, name: &str) -> Option<Span> {
        self.relations.iter().find(|end| end.name() == name).map(relations::End::span)
    }
}

struct Resolver<'a> {
    schema: Schema,
    diags: Vec<Diagnostic>,
    broken: Broken,
    declared: HashMap<&'a str, (Declared, Span)>,
    enums: Vec<&'a ast::Enum>,
    auth: Option<&'a ast::Record>,
    mixins: Vec<&'a ast::Record>,
    types: Vec<&'a ast::Record>,
    models: Vec<&'a ast::Record>,
    drafts: Vec<Draft<'a>>,
    /// What is wrong with each pattern of a `@regex`, if anything is.
    patterns: HashMap<&'a str, Option<String>>,
    /// Names of enums, mixins and types that something refers to.
    used: HashSet<&'a str>,
}

impl<'a> Resolver<'a> {
    fn new(name: &str) -> Self {
        Self {
            schema: Schema::new(name),
            diags: Vec::new(),
            broken: Broken::default(),
            declared: HashMap::new(),
            enums: Vec::new(),
            auth: None,
            mixins: Vec::new(),
            types: Vec::new(),
            models: Vec::new(),
            drafts: Vec::new(),
            patterns: HashMap::new(),
            used: HashSet::new(),
        }
    }

    fn finish(mut self) -> (Option<Schema>, Vec<Diagnostic>) {
        // A mixin is read once for each model that uses it, and says the same each time.
        let mut seen = HashSet::new();
        self.diags.retain(|one| seen.insert((one.code, one.primary.span, one.message.clone())));
        self.diags.sort_by_key(|one| (one.primary.span, one.code));
        let clean = !self.diags.iter().any(Diagnostic::is_error);
        (clean.then_some(self.schema), self.diags)
    }

    fn report(&mut self, diagnostic: Diagnostic) {
        self.diags.push(diagnostic);
    }

    #[expect(clippy::indexing_slicing, reason = "ids are made by `declare`, one model for each")]
    fn model_mut(&mut self, id: ModelId) -> &mut Model {
        &mut self.schema.models[id.index()]
    }

    fn model_ids(&self) -> impl Iterator<Item = ModelId> + use<> {
        (0..u32::try_from(self.models.len()).unwrap_or(u32::MAX)).map(ModelId)
    }

    // Pass 1: names

    fn declare(&mut self, blocks: &[&'a Block]) {
        for block in blocks {
            let name = block.name();
            let declared = match block {
                Block::Datasource(_) | Block::Procedure(_) => continue,
                Block::Enum(_) => Declared::Enum(EnumId(count(&self.enums))),
                Block::Record(record) => match record.kind {
                    RecordKind::Auth => Declared::Auth,
                    RecordKind::Mixin => Declared::Mixin(self.mixins.len()),
                    RecordKind::Type => Declared::Type(TypeId(count(&self.types))),
                    RecordKind::Model => Declared::Model(ModelId(count(&self.models))),
                },
            };
            if !self.name_is_free(name, declared) {
                continue;
            }
            match block {
                Block::Enum(one) => self.enums.push(one),
                Block::Record(record) => match record.kind {
                    RecordKind::Auth => self.auth = Some(record),
                    RecordKind::Mixin => self.mixins.push(record),
                    RecordKind::Type => self.types.push(record),
                    RecordKind::Model => self.models.push(record),
                },
                Block::Datasource(_) | Block::Procedure(_) => continue,
            }
            self.declared.insert(&name.name, (declared, name.span));
        }
    }

    fn name_is_free(&mut self, name: &Ident, declared: Declared) -> bool {
        if SCALARS.iter().any(|(scalar, _)| *scalar == name.name) {
            let message = format!("`{}` is the name of a built-in type", name.name);
            self.report(Diagnostic::new(Code::ReservedName, name.span, message).help("choose another name"));
            return false;
        }
        if let Some((other, first)) = self.declared.get(name.name.as_str()) {
            let message = format!("`{}` is declared twice", name.name);
            let diagnostic = Diagnostic::new(Code::DuplicateName, name.span, message)
                .with(*first, format!("first as {}", other.words()))
                .help("enums, mixins, types, models and the `auth` block share one space of names");
            self.report(diagnostic);
            return false;
        }
        if let (Declared::Auth, Some(first)) = (declared, self.auth) {
            let diagnostic = Diagnostic::new(Code::DuplicateBlock, name.span, "there is a second `auth` block")
                .with(first.name.span, "the first one")
                .help("a schema has one kind of caller: merge the two");
            self.report(diagnostic);
            return false;
        }
        true
    }

    // Pass 2: datasource and enums

    fn datasource(&mut self, blocks: &[&'a Block]) {
        let mut first: Option<&ast::Datasource> = None;
        for block in blocks {
            let Block::Datasource(found) = block else { continue };
            if let Some(first) = first {
                let diagnostic =
                    Diagnostic::new(Code::DuplicateBlock, found.name.span, "there is a second `datasource` block")
                        .with(first.name.span, "the first one")
                        .help("a schema lives in one database: keep one of the two");
                self.report(diagnostic);
                continue;
            }
            first = Some(found);
            self.schema.datasource = self.read_datasource(found);
        }
    }

    fn read_datasource(&mut self, block: &ast::Datasource) -> Option<Datasource> {
        const KEYS: [&str; 2] = ["provider", "url"];
        let (mut provider, mut url) = (None, None);
        let mut misspelt = false;
        let mut seen: Vec<&Ident> = Vec::new();
        for setting in &block.settings {
            let name = &setting.name;
            if let Some(first) = seen.iter().find(|first| first.name == name.name) {
                let diagnostic =
                    Diagnostic::new(Code::DuplicateMember, name.span, format!("`{}` is set twice", name.name))
                        .with(first.span, "first here")
                        .help("keep one of the two");
                self.report(diagnostic);
                continue;
            }
            seen.push(name);
            match name.name.as_str() {
                "provider" => provider = self.provider(&setting.value),
                "url" => url = self.url(&setting.value),
                other => {
                    let message = format!("a datasource has no setting `{other}`");
                    let diagnostic = Diagnostic::new(Code::UnknownSetting, name.span, message);
                    misspelt |= nearest(other, KEYS) == Some("provider");
                    self.report(suggest(diagnostic, other, KEYS, "its settings are `provider` and `url`"));
                }
            }
        }
        if !misspelt && !seen.iter().any(|name| name.name == "provider") {
            self.report(
                Diagnostic::new(Code::MissingSetting, block.name.span, "the datasource does not say its `provider`")
                    .help("add `provider = \"postgresql\"` or `provider = \"sqlite\"`"),
            );
        }
        Some(Datasource { name: block.name.name.clone(), provider: provider?, url })
    }

    fn provider(&mut self, value: &ast::Expr) -> Option<Provider> {
        const PROVIDERS: [(&str, Provider); 2] = [("postgresql", Provider::Postgresql), ("sqlite", Provider::Sqlite)];
        let text = attributes::string(value, "the provider", &mut self.diags)?;
        if let Some((_, provider)) = PROVIDERS.iter().find(|(name, _)| *name == text) {
            return Some(*provider);
        }
        let meant = if text.starts_with("postgres") { "postgresql" } else { "sqlite" };
        let diagnostic = attributes::bad(value.span, format!("there is no provider `{text}`"))
            .help("the providers are `\"postgresql\"` and `\"sqlite\"`");
        let known = text.starts_with("postgres") || text.starts_with("sqlite");
        self.report(if known { diagnostic.fix("mend it", value.span, format!("\"{meant}\"")) } else { diagnostic });
        None
    }

    fn url(&mut self, value: &ast::Expr) -> Option<UrlSource> {
        match &value.kind {
            ast::ExprKind::String(text) => return Some(UrlSource::Literal(text.clone())),
            ast::ExprKind::Call { name, args } if name.name == "env" => {
                if let [ast::Expr { kind: ast::ExprKind::String(variable), .. }] = args.as_slice()
                    && !variable.is_empty()
                {
                    return Some(UrlSource::Env(variable.clone()));
                }
            }
            _ => {}
        }
        self.report(
            attributes::bad(value.span, "the URL must be a string or `env(\"NAME\")`")
                .help("write `url = env(\"DATABASE_URL\")`"),
        );
        None
    }

    fn enums(&mut self) {
        for one in self.enums.clone() {
            attributes::read(attributes::BLOCK, "@@", attributes::Place::Enum, &one.attributes, &mut self.diags);
            let mut variants: Vec<Variant> = Vec::new();
            for written in &one.variants {
                if let Some(variant) = self.variant(one, &variants, written) {
                    variants.push(variant);
                }
            }
            if one.variants.is_empty() {
                let message = format!("the enum `{}` has no values", one.name.name);
                self.report(Diagnostic::new(Code::EmptyBlock, one.name.span, message).help("name at least one value"));
            }
            self.schema.enums.push(Enum { name: one.name.name.clone(), doc: doc(one.doc.as_ref()), variants });
        }
    }

    fn variant(&mut self, of: &ast::Enum, before: &[Variant], written: &'a ast::Variant) -> Option<Variant> {
        let name = &written.name;
        if before.iter().any(|variant| variant.name == name.name) {
            let first = of.variants.iter().find(|first| first.name.name == name.name);
            let diagnostic =
                Diagnostic::new(Code::DuplicateMember, name.span, format!("`{}` is declared twice", name.name))
                    .with(first.map_or(name.span, |first| first.name.span), "first here")
                    .help("remove one of the two");
            self.report(diagnostic);
            return None;
        }
        let given =
            attributes::read(attributes::FIELD, "@", attributes::Place::Variant, &written.attributes, &mut self.diags);
        let map = given.first().and_then(|given| given.arg("name"));
        let stored = match map {
            Some(value) => attributes::string(value, "the stored text", &mut self.diags)?.to_owned(),
            None => name.name.clone(),
        };
        if before.iter().any(|variant| variant.stored == stored) {
            let span = map.map_or(name.span, |value| value.span);
            let message = format!("two values of `{}` are stored as `{stored}`", of.name.name);
            self.report(Diagnostic::new(Code::DuplicateMember, span, message).help("choose another `@map`"));
            return None;
        }
        Some(Variant { name: name.name.clone(), stored, doc: doc(written.doc.as_ref()) })
    }

    // Types

    /// Looks the name of a type up, digits of a Decimal included.
    fn type_of(&mut self, written: &'a ast::Type) -> Option<FieldType> {
        let name = &written.name;
        if let Some((_, scalar)) = SCALARS.iter().find(|(word, _)| *word == name.name) {
            return self.scalar_of(*scalar, written).map(FieldType::Scalar);
        }
        let Some((declared, _)) = self.declared.get(name.name.as_str()).copied() else {
            let unknown = self.unknown_type(name);
            self.report(unknown);
            return None;
        };
        if let Some(first) = written.args.first() {
            let message = format!("`{}` takes no arguments", name.name);
            self.report(Diagnostic::new(Code::BadTypeArguments, first.span, message).help("remove the parenthesis"));
        }
        match declared {
            Declared::Enum(id) => {
                self.used.insert(&name.name);
                Some(FieldType::Enum(id))
            }
            Declared::Type(id) => {
                self.used.insert(&name.name);
                Some(FieldType::Type(id))
            }
            Declared::Model(id) => Some(FieldType::Model(id)),
            Declared::Auth | Declared::Mixin(_) => {
                let message = format!("`{}` is {}, not a type", name.name, declared.words());
                self.report(
                    Diagnostic::new(Code::TypeNotHere, name.span, message)
                        .help("a field's type is a scalar or an enum"),
                );
                None
            }
        }
    }

    fn unknown_type(&self, name: &Ident) -> Diagnostic {
        let diagnostic = Diagnostic::new(Code::UnknownType, name.span, format!("there is no type `{}`", name.name));
        let foreign = FOREIGN_TYPES.iter().find(|(word, _)| word.eq_ignore_ascii_case(&name.name));
        // Names from a map have no order of their own, and a suggestion must not depend on chance.
        let mut declared: Vec<&str> = self.declared.keys().copied().collect();
        declared.sort_unstable();
        let known = SCALARS.iter().map(|(word, _)| *word).chain(declared);
        let scalars: Vec<&str> = SCALARS.iter().map(|(word, _)| *word).collect();
        let word = foreign.map_or(name.name.as_str(), |(_, meant)| *meant);
        suggest(diagnostic, word, known, format!("the scalars are {}", listing(&scalars)))
    }

    fn scalar_of(&mut self, scalar: Scalar, written: &ast::Type) -> Option<Scalar> {
        let Scalar::Decimal(_) = scalar else {
            if let Some(first) = written.args.first() {
                let message = format!("`{}` takes no arguments", written.name.name);
                let help = "only `Decimal(p, s)` does; lengths are `@length(max: ..)`";
                self.report(Diagnostic::new(Code::BadTypeArguments, first.span, message).help(help));
            }
            return Some(scalar);
        };
        if written.args.is_empty() {
            return Some(scalar);
        }
        let digits = |argument: &ast::Argument| match (&argument.name, &argument.value.kind) {
            (None, ast::ExprKind::Number(text)) => text.parse::<u32>().ok(),
            _ => None,
        };
        let precision = match written.args.as_slice() {
            [p, s] => digits(p).zip(digits(s)).map(|(precision, scale)| crate::ir::Precision { precision, scale }),
            _ => None,
        };
        match precision {
            Some(p) if (1..=MAX_PRECISION).contains(&p.precision) && p.scale <= p.precision => {
                Some(Scalar::Decimal(precision))
            }
            _ => {
                self.report(
                    Diagnostic::new(Code::BadTypeArguments, written.span, "these are no digits of a `Decimal`").help(
                        format!("write `Decimal(p, s)`: p digits in all (1 to {MAX_PRECISION}), s of them after the point (0 to p)"),
                    ),
                );
                None
            }
        }
    }

    // Expressions that need the whole schema

    fn condition(&mut self, row: Option<ModelId>, used: Use, written: &ast::Expr) -> Option<Expr> {
        expr::condition(&self.schema, &self.broken, row, used, written, &mut self.diags)
    }
}

/// Most digits of a `Decimal(p, s)`: PostgreSQL's limit.
const MAX_PRECISION: u32 = 1000;

/// The built-in types.
const SCALARS: &[(&str, Scalar)] = &[
    ("String", Scalar::String),
    ("Int", Scalar::Int),
    ("BigInt", Scalar::BigInt),
    ("Float", Scalar::Float),
    ("Boolean", Scalar::Boolean),
    ("Decimal", Scalar::Decimal(None)),
    ("DateTime", Scalar::DateTime),
    ("Date", Scalar::Date),
    ("Uuid", Scalar::Uuid),
    ("Cuid", Scalar::Cuid),
    ("Bytes", Scalar::Bytes),
    ("Json", Scalar::Json),
];

/// What other languages call them.
const FOREIGN_TYPES: &[(&str, &str)] = &[
    ("Text", "String"),
    ("Varchar", "String"),
    ("Str", "String"),
    ("Integer", "Int"),
    ("Long", "BigInt"),
    ("I64", "Int"),
    ("Double", "Float"),
    ("F64", "Float"),
    ("Bool", "Boolean"),
    ("Numeric", "Decimal"),
    ("Money", "Decimal"),
    ("BigDecimal", "Decimal"),
    ("Timestamp", "DateTime"),
    ("TimestampTz", "DateTime"),
    ("Instant", "DateTime"),
    ("Blob", "Bytes"),
    ("Bytea", "Bytes"),
    ("Jsonb", "Json"),
];

fn count<T>(items: &[T]) -> u32 {
    u32::try_from(items.len()).unwrap_or(u32::MAX)
}

fn doc(doc: Option<&ast::Doc>) -> Option<String> {
    doc.map(|doc| doc.text.clone())
}
