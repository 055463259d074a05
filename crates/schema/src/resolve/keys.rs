//! What a table is apart from its columns: names, keys, unique constraints, indexes, and how it may be changed.

use super::attributes::{self, Given, OnBlock, bad};
use super::expr::Use;
use super::names::{MAX_IDENTIFIER, database_name};
use super::suggest::{listing, suggest, suggest_as};
use super::{Draft, Resolver};
use crate::ast;
use crate::diag::{Code, Diagnostic, Span};
use crate::ir::{
    Action, Audit, Default, Effect, Emitted, Field, FieldId, FieldType, Idempotent, Index, ModelId, Provider, Scalar,
};

/// The source of an entry of [`crate::ir::Model::uniques`] or [`crate::ir::Model::indexes`].
pub(super) struct Filter<'a> {
    /// Of `uniques`, not of `indexes`.
    unique: bool,
    /// Position there.
    at: usize,
    /// `where:`, typed when every model is known.
    pub(super) written: Option<&'a ast::Expr>,
    /// The attribute.
    pub(super) span: Span,
}

/// URL segments at the top of the API that are no model.
const RESERVED_SEGMENTS: [&str; 4] = ["rpc", "audit", "docs", "openapi.json"];

/// PostgreSQL has a hidden column of each of these names in every table.
const SYSTEM_COLUMNS: [&str; 6] = ["tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"];

/// Index methods that work on the language's types without further operator classes.
const METHODS: [&str; 4] = ["btree", "hash", "brin", "gin"];

impl<'a> Resolver<'a> {
    pub(super) fn keys(&mut self) {
        for id in self.model_ids() {
            let Some(draft) = self.drafts.get_mut(id.index()) else { continue };
            let given = std::mem::take(&mut draft.attributes);
            let unique_fields = draft.unique_fields.clone();
            self.table_names(id, &given);
            self.flags(id, &given);
            self.primary_key(id, &given);
            for (field, span) in unique_fields {
                self.add_index(id, true, vec![field], None, None, None, span);
            }
            for one in &given {
                match one.kind {
                    OnBlock::Unique => self.index(id, true, one),
                    OnBlock::Index => self.index(id, false, one),
                    _ => {}
                }
            }
            if let Some(draft) = self.drafts.get_mut(id.index()) {
                draft.attributes = given;
            }
            self.columns(id);
        }
    }

    // Names

    fn table_names(&mut self, id: ModelId, given: &[Given<'a, OnBlock>]) {
        for one in given {
            match one.kind {
                OnBlock::Map => {
                    let name = one.arg("table").and_then(|value| self.database_name(value, "the table's name"));
                    if let Some(name) = name {
                        self.model_mut(id).table = name;
                    }
                }
                OnBlock::Path => {
                    let segment = one.arg("segment").and_then(|value| self.segment(value));
                    if let Some(segment) = segment {
                        self.model_mut(id).path = segment;
                    }
                }
                _ => {}
            }
        }
    }

    fn segment(&mut self, value: &ast::Expr) -> Option<String> {
        let text = attributes::string(value, "the URL segment", &mut self.diags)?;
        let sound = text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.len() <= 100
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~'));
        if !sound {
            self.report(
                bad(value.span, "this is no URL segment")
                    .help("use letters, digits, `-`, `_`, `.` and `~`, a letter or digit first, without `/`"),
            );
            return None;
        }
        Some(text.to_owned())
    }

    /// Names that must be distinct over the whole schema, or within a table.
    pub(super) fn database_names(&mut self) {
        self.distinct("table", |model| model.table.clone(), "@@map(\"..\")");
        self.distinct("URL segment", |model| model.path.clone(), "@@path(\"..\")");
        for id in self.model_ids() {
            let Some(draft) = self.drafts.get(id.index()) else { continue };
            let (span, model) = (draft.record.name.span, self.schema.model(id));
            let (table, path) = (model.table.to_ascii_lowercase(), model.path.clone());
            if RESERVED_SEGMENTS.contains(&path.as_str()) {
                let message = format!("the URL segment `{path}` belongs to the API itself");
                self.report(
                    Diagnostic::new(Code::ReservedName, span, message).help("choose another with `@@path(\"..\")`"),
                );
            }
            if ["sqlite_", "cratestack_", "pg_"].iter().any(|prefix| table.starts_with(prefix)) {
                let message = format!("the table name `{table}` belongs to a database or to the engine");
                self.report(
                    Diagnostic::new(Code::ReservedName, span, message).help("choose another with `@@map(\"..\")`"),
                );
            }
            if table.len() > MAX_IDENTIFIER {
                let message = format!("the table name `{table}` is longer than {MAX_IDENTIFIER} octets");
                self.report(
                    Diagnostic::new(Code::BadDatabaseName, span, message)
                        .help("give it a shorter one with `@@map(\"..\")`"),
                );
            }
        }
        self.distinct_constraints();
    }

    fn distinct(&mut self, what: &str, name: impl Fn(&crate::ir::Model) -> String, attribute: &str) {
        let mut seen: std::collections::HashMap<String, ModelId> = std::collections::HashMap::new();
        for id in self.model_ids() {
            let model = self.schema.model(id);
            let name = name(model);
            let Some(first) = seen.insert(name.to_ascii_lowercase(), id) else { continue };
            let span = |id: ModelId| self.drafts.get(id.index()).map(|draft| draft.record.name.span);
            let (Some(here), Some(there)) = (span(id), span(first)) else { continue };
            let message =
                format!("`{}` and `{}` have the same {what}, `{name}`", self.schema.model(first).name, model.name);
            self.report(
                Diagnostic::new(Code::DuplicateDatabaseName, here, message)
                    .with(there, "the other model")
                    .help(format!("give one of them another with `{attribute}`")),
            );
        }
    }

    /// Tables, indexes and constraints share one space of names, without regard to case.
    fn distinct_constraints(&mut self) {
        let mut seen: std::collections::HashMap<String, Span> = std::collections::HashMap::new();
        for model in self.schema.models.iter().zip(&self.drafts) {
            let span = model.1.record.name.span;
            seen.insert(model.0.table.to_ascii_lowercase(), span);
            seen.insert(database_name([model.0.table.as_str(), "pkey"]).to_ascii_lowercase(), span);
        }
        let mut found = Vec::new();
        for (model, draft) in self.schema.models.iter().zip(&self.drafts) {
            let indexes = draft.filters.iter().filter_map(|filter| {
                let list = if filter.unique { &model.uniques } else { &model.indexes };
                list.get(filter.at).map(|index| (index.name.clone(), filter.span))
            });
            for (name, span) in indexes {
                if let Some(first) = seen.insert(name.to_ascii_lowercase(), span) {
                    found.push((name, span, first));
                }
            }
        }
        for (name, span, first) in found {
            self.report(
                Diagnostic::new(
                    Code::DuplicateDatabaseName,
                    span,
                    format!("the name `{name}` is taken in the database"),
                )
                .with(first, "taken here")
                .help("give it another with `name: \"..\"`, or remove it if it is the same twice"),
            );
        }
    }

    /// Columns must differ in more than case, since SQLite does not tell them apart otherwise.
    fn columns(&mut self, id: ModelId) {
        let Some(draft) = self.drafts.get(id.index()) else { return };
        let model = self.schema.model(id);
        let mut found = Vec::new();
        for (at, field) in model.fields() {
            let column = field.column.to_ascii_lowercase();
            let first = model.fields().take(at.index()).find(|(_, first)| first.column.eq_ignore_ascii_case(&column));
            if let Some((first, _)) = first {
                let message =
                    format!("`{}` and `{}` have the same column, `{column}`", model.field(first).name, field.name);
                found.push(
                    Diagnostic::new(Code::DuplicateDatabaseName, draft.span(at), message)
                        .with(draft.span(first), "the other field")
                        .help("give one of them another with `@map(\"..\")`"),
                );
            }
            let system = SYSTEM_COLUMNS.contains(&column.as_str());
            if system || (model.soft_delete.is_some() && column == "deletion_id") {
                let owner = if system { "PostgreSQL has of its own in every table" } else { "`@@soft_delete` adds" };
                let message = format!("`{column}` is a column that {owner}");
                found.push(
                    Diagnostic::new(Code::ReservedName, draft.span(at), message)
                        .help("choose another with `@map(\"..\")`"),
                );
            }
            if let Some(old) = &field.rename_from
                && model.field_named(old).is_some()
            {
                let message = format!("`{old}` still exists, so `{}` is not its new name", field.name);
                found.push(
                    Diagnostic::new(Code::BadArgument, draft.span(at), message)
                        .help("remove the old field, or the `@rename`"),
                );
            }
        }
        self.diags.extend(found);
    }

    // Flags

    fn flags(&mut self, id: ModelId, given: &[Given<'a, OnBlock>]) {
        let find = |kind: OnBlock| given.iter().find(|one| one.kind == kind);
        let (soft_delete, append_only) = (find(OnBlock::SoftDelete), find(OnBlock::AppendOnly));
        if let (Some(soft_delete), Some(append_only)) = (soft_delete, append_only) {
            self.report(
                Diagnostic::new(
                    Code::ConflictingAttributes,
                    soft_delete.span,
                    "`@@soft_delete` cannot stand beside `@@append_only`",
                )
                .with(append_only.span, "because of this")
                .help("rows of an append-only model are never deleted: remove one of the two"),
            );
        }
        if soft_delete.is_some() {
            self.soft_delete(id);
        }
        self.model_mut(id).append_only = append_only.is_some();
        if let Some(given) = find(OnBlock::Audit) {
            self.model_mut(id).audit = self.audit(given);
        }
        if let Some(given) = find(OnBlock::Emit) {
            self.model_mut(id).emit = self.emit(given, append_only.map(|given| given.span));
        }
        for one in given.iter().filter(|one| one.kind == OnBlock::Internal) {
            self.internal(id, one);
        }
        if let Some(value) = find(OnBlock::Idempotent).and_then(|given| given.arg("required")) {
            const HELP: &str = "write `@@idempotent(required)`; without it a request may have a key";
            self.model_mut(id).idempotent =
                self.idempotent("@@idempotent", value, &[("required", Idempotent::Required)], HELP);
        }
        self.version_field(id);
    }

    fn audit(&mut self, given: &Given<'a, OnBlock>) -> Option<Audit> {
        let Some(value) = given.arg("denials") else { return Some(Audit { denials: false }) };
        let name = attributes::name(value, "what is recorded besides writes", &mut self.diags)?;
        if name.name != "denials" {
            let unknown = bad(name.span, format!("`@@audit` does not know `{}`", name.name));
            let help = "write `@@audit` or `@@audit(denials)`";
            self.report(suggest_as(unknown, &name.name, ["denials"], str::to_owned, help));
            return None;
        }
        Some(Audit { denials: true })
    }

    /// What a route makes of keys, by one of these words.
    pub(super) fn idempotent(
        &mut self,
        attribute: &str,
        value: &'a ast::Expr,
        words: &[(&'static str, Idempotent)],
        help: &'static str,
    ) -> Idempotent {
        let Some(name) = attributes::name(value, "whether a key is needed", &mut self.diags) else {
            return Idempotent::default();
        };
        let Some((_, rule)) = words.iter().find(|(word, _)| *word == name.name) else {
            let unknown = bad(name.span, format!("`{attribute}` does not know `{}`", name.name));
            self.report(suggest_as(unknown, &name.name, words.iter().map(|(word, _)| *word), str::to_owned, help));
            return Idempotent::default();
        };
        *rule
    }

    fn emit(&mut self, given: &Given<'a, OnBlock>, append_only: Option<Span>) -> Vec<Emitted> {
        const HELP: &str = "write the changes that are events, as in `@@emit(created, updated, deleted)`";
        let values: Vec<&ast::Expr> = given.attribute.arguments().iter().map(|argument| &argument.value).collect();
        if values.is_empty() {
            let missing = Diagnostic::new(Code::MissingArgument, given.span, "`@@emit` does not say what is an event");
            self.report(missing.help(HELP));
        }
        let mut emitted = Vec::new();
        for value in values {
            let Some(name) = attributes::name(value, "what is an event", &mut self.diags) else { continue };
            let Some(word) = Emitted::ALL.into_iter().find(|known| known.word() == name.name) else {
                let unknown = bad(name.span, format!("`@@emit` does not know `{}`", name.name));
                self.report(suggest_as(unknown, &name.name, Emitted::ALL.map(Emitted::word), str::to_owned, HELP));
                continue;
            };
            if emitted.contains(&word) {
                self.report(
                    bad(name.span, format!("`{}` stands there twice", name.name)).help("name each change once"),
                );
            } else if let (Some(append_only), true) = (append_only, word != Emitted::Created) {
                let message = format!("no row of an append-only model is ever {}", name.name);
                self.report(
                    Diagnostic::new(Code::ConflictingAttributes, name.span, message)
                        .with(append_only, "because of this")
                        .help("write `@@emit(created)`"),
                );
            } else {
                emitted.push(word);
            }
        }
        emitted.sort_unstable();
        emitted
    }

    fn internal(&mut self, id: ModelId, given: &Given<'a, OnBlock>) {
        // As in a deny, `all` reaches every action.
        let actions = given.arg("action").and_then(|value| self.actions(value, Effect::Deny)).unwrap_or_default();
        let model = self.schema.model(id);
        let absent = match actions.as_slice() {
            [Action::Restore] => model.soft_delete.is_none(),
            [Action::Audit] => model.audit.is_none(),
            [Action::Update | Action::Delete] => model.append_only,
            _ => false,
        };
        if absent {
            self.report(
                Diagnostic::new(Code::RuleWithoutEffect, given.span, "the model does not have this action")
                    .help("there is no route to hide: remove it")
                    .fix("remove it", given.span, ""),
            );
            return;
        }
        let known = &mut self.model_mut(id).internal;
        let new: Vec<Action> = actions.iter().copied().filter(|action| !known.contains(action)).collect();
        let repeated = new.is_empty() && !actions.is_empty();
        known.extend(new);
        known.sort_unstable();
        if repeated {
            self.report(
                Diagnostic::new(Code::DuplicateAttribute, given.span, "these actions are internal already")
                    .help("remove this one")
                    .fix("remove it", given.span, ""),
            );
        }
    }

    fn soft_delete(&mut self, id: ModelId) {
        const NAME: &str = "deletedAt";
        let model = self.schema.model(id);
        let Some(found) = model.field_named(NAME) else {
            if self.broken.has(id, NAME) {
                return;
            }
            if let Some(relation) = self.drafts.get(id.index()).and_then(|draft| draft.relation_named(NAME)) {
                let diagnostic = Diagnostic::new(
                    Code::BadDeletedAt,
                    relation,
                    "`@@soft_delete` needs the name `deletedAt` for the time of the deletion",
                );
                self.report(diagnostic.help("give the relation another name"));
                return;
            }
            let at = FieldId(super::count(&model.fields));
            let model = self.model_mut(id);
            model.fields.push(deleted_at(NAME));
            model.soft_delete = Some(at);
            if let Some(draft) = self.drafts.get_mut(id.index()) {
                draft.fields.push(None);
            }
            return;
        };
        let field = model.field(found);
        let sound = field.scalar() == Some(Scalar::DateTime) && field.optional && field.default.is_none();
        let written = field.updated_at || field.version || field.id;
        if !sound || written {
            let span = self.drafts.get(id.index()).map(|draft| draft.span(found));
            if let Some(span) = span {
                self.report(
                    Diagnostic::new(
                        Code::BadDeletedAt,
                        span,
                        "`@@soft_delete` needs `deletedAt` to be a plain `DateTime?`",
                    )
                    .help("declare it as `deletedAt DateTime?`, or leave it out: `@@soft_delete` adds it"),
                );
            }
            return;
        }
        let model = self.model_mut(id);
        model.soft_delete = Some(found);
        // The engine alone writes it.
        if let Some(field) = model.fields.get_mut(found.index()) {
            field.readonly = true;
        }
    }

    fn version_field(&mut self, id: ModelId) {
        let model = self.schema.model(id);
        let versions: Vec<FieldId> = model.fields().filter(|(_, field)| field.version).map(|(id, _)| id).collect();
        if let [first, second, ..] = versions.as_slice()
            && let Some(draft) = self.drafts.get(id.index())
        {
            let diagnostic =
                Diagnostic::new(Code::DuplicateAttribute, draft.span(*second), "a second field is marked `@version`")
                    .with(draft.span(*first), "the first one")
                    .help("a row has one version: remove one of the two");
            self.report(diagnostic);
        }
        self.model_mut(id).version = versions.first().copied();
    }

    // Keys

    fn primary_key(&mut self, id: ModelId, given: &[Given<'a, OnBlock>]) {
        let model = self.schema.model(id);
        let marked: Vec<FieldId> = model.fields().filter(|(_, field)| field.id).map(|(id, _)| id).collect();
        let composite = given.iter().find(|one| one.kind == OnBlock::Id);
        let Some(draft) = self.drafts.get(id.index()) else { return };
        let key = match (marked.as_slice(), composite) {
            ([], None) => {
                let failed = draft.record.members.iter().any(|member| match member {
                    ast::Member::Field(field) => field.attributes.iter().any(|one| one.name.name == "id"),
                    _ => false,
                });
                if !failed {
                    let diagnostic = no_key(draft);
                    self.report(diagnostic);
                }
                return;
            }
            ([one], None) => vec![*one],
            ([first, second, ..], None) => {
                let names: Vec<&str> = marked.iter().map(|id| model.field(*id).name.as_str()).collect();
                let diagnostic =
                    Diagnostic::new(Code::DuplicateKey, draft.span(*second), "a second field is marked `@id`")
                        .with(draft.span(*first), "the first one")
                        .help(format!("for a key of several fields write `@@id([{}])`", names.join(", ")));
                self.report(diagnostic);
                vec![*first]
            }
            ([first, ..], Some(one)) => {
                let diagnostic = Diagnostic::new(Code::DuplicateKey, one.span, "the model has a key already")
                    .with(draft.span(*first), "this `@id`")
                    .help("keep `@id` or `@@id`");
                self.report(diagnostic);
                vec![*first]
            }
            ([], Some(one)) => match self.composite_key(id, one) {
                Some(key) => key,
                None => return,
            },
        };
        let model = self.model_mut(id);
        for field in &key {
            if let Some(field) = model.fields.get_mut(field.index()) {
                field.id = true;
            }
        }
        model.key = key;
        self.autoincrement(id);
    }

    fn composite_key(&mut self, id: ModelId, given: &Given<'a, OnBlock>) -> Option<Vec<FieldId>> {
        let key = self.field_list(id, given)?;
        let model = self.schema.model(id);
        for (field, ident) in &key {
            let found = model.field(*field);
            let fits = !found.list
                && !found.optional
                && !matches!(found.scalar(), Some(Scalar::Float | Scalar::Decimal(_) | Scalar::Bytes | Scalar::Json));
            let fixed = !found.version && !found.updated_at && !found.server_only;
            if !fits || !fixed {
                let message = format!("`{}` cannot be part of a key", ident.name);
                self.report(Diagnostic::new(Code::BadKeyField, ident.span, message).help(
                    "a key is made of `String`, `Int`, `BigInt`, `Uuid`, `Cuid`, `Date`, `DateTime`, `Boolean` and enums, \
                     never optional, never hidden, and never changing",
                ));
                return None;
            }
        }
        Some(key.into_iter().map(|(field, _)| field).collect())
    }

    /// A sequence makes sense for a key of one column alone.
    fn autoincrement(&mut self, id: ModelId) {
        let model = self.schema.model(id);
        let Some(draft) = self.drafts.get(id.index()) else { return };
        let misplaced: Vec<Diagnostic> = model
            .fields()
            .filter(|(at, field)| field.default == Some(Default::AutoIncrement) && model.key != [*at])
            .map(|(at, field)| {
                let message = format!("`{}` counts up, but it is not the single `@id`", field.name);
                Diagnostic::new(Code::BadDefault, draft.span(at), message)
                    .help("`autoincrement()` stands on the single `@id` of a model alone")
            })
            .collect();
        self.diags.extend(misplaced);
    }

    /// The fields of `@@id`, `@@unique` or `@@index`.
    fn field_list(&mut self, id: ModelId, given: &Given<'a, OnBlock>) -> Option<Vec<(FieldId, &'a ast::Ident)>> {
        let names = attributes::name_list(given.arg("fields")?, "the argument", &mut self.diags)?;
        let found: Vec<Option<FieldId>> = names.iter().map(|name| self.own_field(id, name)).collect();
        found.into_iter().zip(names).map(|(field, name)| field.map(|field| (field, name))).collect()
    }

    /// A field of the model, by the name that an attribute gives.
    pub(super) fn own_field(&mut self, id: ModelId, name: &ast::Ident) -> Option<FieldId> {
        let model = self.schema.model(id);
        if let Some(field) = model.field_named(&name.name) {
            return Some(field);
        }
        if self.broken.has(id, &name.name) {
            return None;
        }
        let relation =
            self.drafts.get(id.index()).and_then(|draft| draft.relations.iter().find(|end| end.name() == name.name));
        let diagnostic = if let Some(end) = relation {
            let fields = end.field_names();
            let message = format!("`{}` is a relation, and a field is expected", name.name);
            let help = if fields.is_empty() {
                "name fields of this model".to_owned()
            } else {
                format!("name its fields: {}", listing(&fields))
            };
            Diagnostic::new(Code::UnknownName, name.span, message).help(help)
        } else {
            let fields: Vec<&str> = model.fields.iter().map(|field| field.name.as_str()).collect();
            let message = format!("`{}` has no field `{}`", model.name, name.name);
            let known = format!("its fields are {}", listing(&fields));
            suggest(Diagnostic::new(Code::UnknownName, name.span, message), &name.name, fields, known)
        };
        self.report(diagnostic);
        None
    }

    // Unique constraints and indexes

    fn index(&mut self, id: ModelId, unique: bool, given: &Given<'a, OnBlock>) {
        let fields = self.field_list(id, given);
        let name = match given.arg("name") {
            Some(value) => match self.database_name(value, "the name") {
                Some(name) => Some(name),
                None => return,
            },
            None => None,
        };
        let Some(fields) = fields else { return };
        let using = given.arg("using").and_then(|value| self.method(id, value, &fields));
        for (field, ident) in &fields {
            let found = self.schema.model(id).field(*field);
            if unique && (found.list || found.scalar() == Some(Scalar::Json)) {
                let message = format!("`{}` cannot be part of a unique constraint", ident.name);
                self.report(
                    Diagnostic::new(Code::BadKeyField, ident.span, message).help("lists and `Json` cannot be unique"),
                );
                return;
            }
        }
        let fields = fields.into_iter().map(|(field, _)| field).collect();
        self.add_index(id, unique, fields, name, using, given.arg("where"), given.span);
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of an index, each written by the author or not")]
    fn add_index(
        &mut self,
        id: ModelId,
        unique: bool,
        fields: Vec<FieldId>,
        name: Option<String>,
        using: Option<String>,
        written: Option<&'a ast::Expr>,
        span: Span,
    ) {
        let model = self.schema.model(id);
        let name = name.unwrap_or_else(|| {
            let columns = fields.iter().map(|field| model.field(*field).column.as_str());
            let suffix = if unique { "key" } else { "idx" };
            database_name(std::iter::once(model.table.as_str()).chain(columns).chain([suffix]))
        });
        let model = self.model_mut(id);
        let list = if unique { &mut model.uniques } else { &mut model.indexes };
        let at = list.len();
        list.push(Index { name, fields, filter: None, using });
        if let Some(draft) = self.drafts.get_mut(id.index()) {
            draft.filters.push(Filter { unique, at, written, span });
        }
    }

    /// `using:`, which PostgreSQL alone knows.
    fn method(&mut self, id: ModelId, value: &ast::Expr, fields: &[(FieldId, &ast::Ident)]) -> Option<String> {
        let text = attributes::string(value, "the index method", &mut self.diags)?;
        let model = self.schema.model(id);
        let composite = |field: &FieldId| {
            let field = model.field(*field);
            field.list || field.scalar() == Some(Scalar::Json)
        };
        let fits = match text {
            "btree" => true,
            "brin" => !fields.iter().any(|(field, _)| {
                composite(field) || matches!(model.field(*field).ty, FieldType::Scalar(Scalar::Boolean))
            }),
            "hash" => fields.len() == 1,
            "gin" => fields.iter().all(|(field, _)| composite(field)),
            _ => {
                self.report(
                    bad(value.span, format!("there is no index method `{text}`"))
                        .help(format!("the methods are {}", listing(&METHODS))),
                );
                return None;
            }
        };
        let sqlite = self.schema.datasource.as_ref().is_some_and(|source| source.provider == Provider::Sqlite);
        if sqlite && text != "btree" {
            self.report(
                bad(value.span, format!("SQLite has no index method `{text}`"))
                    .help("remove `using:`, or name PostgreSQL as the provider"),
            );
            return None;
        }
        if !fits {
            self.report(
                bad(value.span, format!("an index of the method `{text}` cannot hold these fields"))
                    .help("`hash` takes one field, `gin` lists and `Json`, `brin` what has an order"),
            );
            return None;
        }
        Some(text.to_owned())
    }

    pub(super) fn index_filters(&mut self, id: ModelId) {
        let Some(draft) = self.drafts.get(id.index()) else { return };
        let filters: Vec<(bool, usize, &'a ast::Expr)> = draft
            .filters
            .iter()
            .filter_map(|filter| filter.written.map(|written| (filter.unique, filter.at, written)))
            .collect();
        for (unique, at, written) in filters {
            let expr = self.condition(Some(id), Use::IndexFilter, written);
            let model = self.model_mut(id);
            let list = if unique { &mut model.uniques } else { &mut model.indexes };
            if let Some(index) = list.get_mut(at) {
                index.filter = expr;
            }
        }
    }

    /// Whether the fields, in any order, are the primary key or a unique constraint over all rows.
    pub(super) fn identifies(&self, id: ModelId, fields: &[FieldId]) -> bool {
        let same = |key: &[FieldId]| key.len() == fields.len() && key.iter().all(|field| fields.contains(field));
        let model = self.schema.model(id);
        let partial = |at: usize| {
            self.drafts.get(id.index()).is_some_and(|draft| {
                draft.filters.iter().any(|filter| filter.unique && filter.at == at && filter.written.is_some())
            })
        };
        same(&model.key) || model.uniques.iter().enumerate().any(|(at, unique)| same(&unique.fields) && !partial(at))
    }
}

fn no_key(draft: &Draft<'_>) -> Diagnostic {
    let name = &draft.record.name;
    let diagnostic = Diagnostic::new(Code::NoKey, name.span, format!("the model `{}` has no key", name.name));
    match draft.record.members.first() {
        Some(first) => diagnostic
            .help("add `id Uuid @id @default(uuid())`, or name existing fields with `@@id([..])`")
            .fix("add a key", first.span().before(), "id Uuid @id @default(uuid())\n  "),
        None => diagnostic.help("add fields, one of them `id Uuid @id @default(uuid())`"),
    }
}

/// The field that `@@soft_delete` adds.
fn deleted_at(name: &str) -> Field {
    let field = Field::new(name, "deleted_at", FieldType::Scalar(Scalar::DateTime));
    Field { optional: true, synthetic: true, ..field }
}
