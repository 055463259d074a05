//! The members of models, mixins merged in; and the checks and rules over them.

use super::attributes::{self, BLOCK, Given, OnBlock, Place, USE};
use super::expr::Use;
use super::suggest::{listing, suggest_as};
use super::{Draft, Resolver, doc, names, relations};
use crate::ast;
use crate::diag::{Code, Diagnostic, Span};
use crate::ir::{Action, Check, Effect, FieldId, Model, ModelId, Rule};

/// Codes of problems and of failing members that the product itself answers with (docs/http.md), so that no `@@check` may
/// take one: its name is the code of its 422.
pub(super) const BUILT_IN_CODES: &[&str] = &[
    "bad_request",
    "bic",
    "content_too_large",
    "email",
    "forbidden",
    "foreign_key_violation",
    "headers_too_large",
    "iban",
    "idempotency_in_flight",
    "idempotency_key_expired",
    "idempotency_key_invalid",
    "idempotency_key_required",
    "idempotency_key_reused",
    "idempotency_outcome_unknown",
    "internal",
    "invalid_cursor",
    "invalid_json",
    "invalid_query",
    "iso4217",
    "lei",
    "length",
    "method_not_allowed",
    "not_acceptable",
    "not_found",
    "not_implemented",
    "nul",
    "operation",
    "out_of_range",
    "precision",
    "range",
    "rate_limited",
    "read_only",
    "reference_not_found",
    "regex",
    "rejected",
    "request_timeout",
    "required",
    "transaction_aborted",
    "type",
    "unauthenticated",
    "unavailable",
    "unique_violation",
    "unknown_field",
    "unsupported_media_type",
    "uri",
    "uri_too_long",
    "validation_failed",
    "version_mismatch",
    "version_required",
];

/// The name of a check without one.
const UNNAMED: &str = "check";

/// The words of rules, with what they stand for.
fn actions(word: &str, effect: Effect) -> Option<Vec<Action>> {
    use Action::{Audit, Create, Delete, Detail, List, Restore, Update};
    match word {
        "read" => Some(vec![List, Detail]),
        // An allow never reaches further than the author saw; a deny always does.
        "all" => Some(match effect {
            Effect::Allow => vec![List, Detail, Create, Update, Delete],
            Effect::Deny => vec![List, Detail, Create, Update, Delete, Restore, Audit],
        }),
        _ => Action::ALL.into_iter().find(|action| action.word() == word).map(|action| vec![action]),
    }
}

const ACTION_WORDS: [&str; 9] = ["list", "detail", "read", "create", "update", "delete", "restore", "audit", "all"];

impl<'a> Resolver<'a> {
    /// Reads the fields and relation members of every model.
    pub(super) fn members(&mut self) {
        for id in self.model_ids() {
            let Some(record) = self.models.get(id.index()).copied() else { continue };
            let name = &record.name.name;
            let model = Model::new(name, names::table(name), names::segment(name));
            self.schema.models.push(Model { doc: doc(record.doc.as_ref()), ..model });
            let mut draft = Draft {
                record,
                fields: Vec::new(),
                relations: Vec::new(),
                attributes: Vec::new(),
                mixins: Vec::new(),
                unique_fields: Vec::new(),
                filters: Vec::new(),
            };
            self.read_members(id, &mut draft);
            self.drafts.push(draft);
        }
        self.unused_mixins();
    }

    fn read_members(&mut self, id: ModelId, draft: &mut Draft<'a>) {
        let record = draft.record;
        let own = record.members.iter().filter_map(|member| match member {
            ast::Member::Attribute(attribute) => Some(attribute),
            _ => None,
        });
        let mut placed: Vec<(u32, Given<'a, OnBlock>)> =
            attributes::read(BLOCK, "@@", Place::Model, own, &mut self.diags)
                .into_iter()
                .map(|given| (given.span.start, given))
                .collect();
        let mut seen: Vec<(&'a str, Span)> = Vec::new();
        for member in &record.members {
            match member {
                ast::Member::Field(field) => self.read_member(id, draft, field, Place::ModelField, &mut seen),
                ast::Member::Use(attribute) => {
                    let Some(mixin) = self.read_use(draft, attribute) else { continue };
                    for field in mixin_fields(mixin) {
                        self.read_member(id, draft, field, Place::MixinField, &mut seen);
                    }
                    let given = attributes::read(BLOCK, "@@", Place::Mixin, mixin_attributes(mixin), &mut self.diags);
                    placed.extend(given.into_iter().map(|given| (attribute.span.start, given)));
                }
                ast::Member::Attribute(_) => {}
            }
        }
        placed.sort_by_key(|(at, _)| *at);
        draft.attributes = placed.into_iter().map(|(_, given)| given).collect();
    }

    fn read_use(&mut self, draft: &mut Draft<'a>, attribute: &'a ast::Attribute) -> Option<&'a ast::Record> {
        let given = attributes::read(USE, "@", Place::Model, [attribute], &mut self.diags);
        let value = given.first()?.arg("mixin")?;
        let name = attributes::name(value, "the mixin", &mut self.diags)?;
        let mixin = self.mixin_named(name)?;
        if draft.mixins.iter().any(|used| std::ptr::eq(*used, mixin)) {
            self.report(
                Diagnostic::new(Code::DuplicateAttribute, attribute.span, format!("`{}` is used twice", name.name))
                    .help("its members are there already: remove this one")
                    .fix("remove it", attribute.span, ""),
            );
            return None;
        }
        draft.mixins.push(mixin);
        Some(mixin)
    }

    fn read_member(
        &mut self,
        id: ModelId,
        draft: &mut Draft<'a>,
        written: &'a ast::Field,
        place: Place,
        seen: &mut Vec<(&'a str, Span)>,
    ) {
        let name = &written.name;
        if let Some((_, first)) = seen.iter().find(|(seen, _)| *seen == name.name) {
            self.duplicate_member(name, *first);
            return;
        }
        seen.push((&name.name, name.span));
        if let Some(target) = self.relation_target(written) {
            if place == Place::MixinField {
                self.type_not_here(written, "a mixin has no relations: declare it in each model");
                self.broken.add(id, &name.name);
                return;
            }
            self.check_member_name(name);
            if matches!(name.name.as_str(), "old" | "new") {
                let message = format!("`{}.` is a version of the row in rules, not a relation", name.name);
                self.report(Diagnostic::new(Code::ReservedName, name.span, message).help("choose another name"));
            }
            match relations::End::read(written, target, &mut self.diags) {
                Some(end) => draft.relations.push(end),
                None => self.broken.add(id, &name.name),
            }
            return;
        }
        let Some(read) = self.read_field(written, place) else {
            self.broken.add(id, &name.name);
            return;
        };
        self.check_default(&read.field, written);
        if let Some(unique) = read.unique {
            draft.unique_fields.push((FieldId(super::count(&draft.fields)), unique));
        }
        draft.fields.push(Some(written));
        self.model_mut(id).fields.push(read.field);
    }

    /// The model that a member points to, if its type is one.
    fn relation_target(&self, written: &ast::Field) -> Option<ModelId> {
        match self.declared.get(written.ty.name.name.as_str()) {
            Some((super::Declared::Model(id), _)) => Some(*id),
            _ => None,
        }
    }

    /// A mixin that no model uses is read on its own, for its errors.
    fn unused_mixins(&mut self) {
        let mixins = self.mixins.clone();
        for mixin in mixins {
            for member in &mixin.members {
                if let ast::Member::Use(attribute) = member {
                    attributes::read(USE, "@", Place::Mixin, [attribute], &mut self.diags);
                }
            }
            if self.used.contains(mixin.name.name.as_str()) {
                continue;
            }
            for field in mixin_fields(mixin) {
                if self.relation_target(field).is_none() {
                    self.read_field(field, Place::MixinField);
                }
            }
            attributes::read(BLOCK, "@@", Place::Mixin, mixin_attributes(mixin), &mut self.diags);
        }
    }

    // Checks and rules

    /// Types the index filters, checks and rules of every model.
    pub(super) fn model_expressions(&mut self) {
        for id in self.model_ids() {
            self.index_filters(id);
            let Some(draft) = self.drafts.get_mut(id.index()) else { continue };
            let attributes = std::mem::take(&mut draft.attributes);
            for given in &attributes {
                match given.kind {
                    OnBlock::Check => self.check(id, given),
                    OnBlock::Allow => self.rule(id, Effect::Allow, given),
                    OnBlock::Deny => self.rule(id, Effect::Deny, given),
                    // Read with the keys.
                    OnBlock::Id
                    | OnBlock::Unique
                    | OnBlock::Index
                    | OnBlock::Map
                    | OnBlock::Path
                    | OnBlock::SoftDelete
                    | OnBlock::AppendOnly
                    | OnBlock::Audit
                    | OnBlock::Emit
                    | OnBlock::Internal
                    | OnBlock::Idempotent => {}
                }
            }
            if let Some(draft) = self.drafts.get_mut(id.index()) {
                draft.attributes = attributes;
            }
        }
    }

    fn check(&mut self, id: ModelId, given: &Given<'a, OnBlock>) {
        let message = self.sentence(given, "message", "the message");
        let name = match given.arg("name") {
            Some(value) => attributes::string(value, "the name of a check", &mut self.diags),
            None => Some(UNNAMED),
        };
        let name =
            name.and_then(|name| self.check_name(id, name, given.arg("name").map_or(given.span, |value| value.span)));
        let written = given.arg("expression");
        let expr = written.and_then(|written| self.condition(Some(id), Use::Check, written));
        let (Some(name), Some(message), Some(expr)) = (name, message, expr) else { return };
        let model = self.model_mut(id);
        // The engine's own CHECKs end in `_check`, so that no name of the author's can meet one of them.
        let constraint = names::database_name([model.table.as_str(), "check", &name]);
        model.checks.push(Check { name, constraint, expr, message });
    }

    fn check_name(&mut self, id: ModelId, name: &str, span: Span) -> Option<String> {
        let sound = name.starts_with(|c: char| c.is_ascii_alphabetic())
            && name.len() <= 40
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
        let problem = if !sound {
            Some(("is no code", "use 1 to 40 letters, digits, `_` and `-`, a letter first"))
        } else if BUILT_IN_CODES.contains(&name) {
            Some(("is a code of the product itself", "callers could not tell the two apart: choose another name"))
        } else if self.schema.model(id).checks.iter().any(|check| check.name == name) {
            Some(("is the name of another check of this model", "give each its own with `name: \"..\"`"))
        } else {
            None
        };
        match problem {
            None => Some(name.to_owned()),
            Some((what, help)) => {
                self.report(Diagnostic::new(Code::BadCheckName, span, format!("`{name}` {what}")).help(help));
                None
            }
        }
    }

    fn rule(&mut self, id: ModelId, effect: Effect, given: &Given<'a, OnBlock>) {
        let actions = given.arg("action").and_then(|value| self.actions(value, effect));
        let Some(mut actions) = actions else { return };
        if effect == Effect::Allow && self.schema.model(id).append_only {
            self.append_only_allow(given, &mut actions);
        }
        self.rule_fits(id, &actions, given);
        let used = Use::Rule { update: actions == [Action::Update] };
        let expr = given.arg("expression").and_then(|written| self.condition(Some(id), used, written));
        if let Some(expr) = expr {
            self.model_mut(id).rules.push(Rule { effect, actions, expr });
        }
    }

    pub(super) fn actions(&mut self, value: &ast::Expr, effect: Effect) -> Option<Vec<Action>> {
        let word = attributes::string(value, "the action", &mut self.diags)?;
        let found = actions(word, effect);
        if found.is_none() {
            let diagnostic = Diagnostic::new(Code::UnknownAction, value.span, format!("there is no action `{word}`"));
            let known = if word.contains([',', ' ']) {
                "write one attribute for each action".to_owned()
            } else {
                format!("the actions are {}", listing(&ACTION_WORDS))
            };
            self.report(suggest_as(diagnostic, word, ACTION_WORDS, |meant| format!("\"{meant}\""), known));
        }
        found
    }

    /// Rules over actions that the model does not have.
    fn rule_fits(&mut self, id: ModelId, actions: &[Action], given: &Given<'a, OnBlock>) {
        let model = self.schema.model(id);
        let span = given.arg("action").map_or(given.span, |value| value.span);
        let from_mixin = !self.drafts.get(id.index()).is_some_and(|draft| covers(draft.record.span, given.span));
        let missing = match actions {
            [Action::Restore] if model.soft_delete.is_none() => {
                ("nothing can be restored in this model", "add `@@soft_delete`, or remove the rule")
            }
            [Action::Audit] if model.audit.is_none() => {
                ("no trail is kept of this model", "add `@@audit`, or remove the rule")
            }
            _ => return,
        };
        if !from_mixin {
            self.report(Diagnostic::new(Code::RuleWithoutEffect, span, missing.0).help(missing.1));
        }
    }

    /// An append-only model has no update and no delete: `all` means the others, and naming one is a mistake.
    fn append_only_allow(&mut self, given: &Given<'a, OnBlock>, actions: &mut Vec<Action>) {
        actions.retain(|action| !matches!(action, Action::Update | Action::Delete));
        if actions.is_empty() {
            let span = given.arg("action").map_or(given.span, |value| value.span);
            self.report(
                Diagnostic::new(
                    Code::RuleWithoutEffect,
                    span,
                    "an append-only model never lets anyone update or delete",
                )
                .help("allow `\"read\"` and `\"create\"` instead, or remove `@@append_only`"),
            );
        }
    }
}

fn covers(outer: Span, inner: Span) -> bool {
    outer.file == inner.file && outer.start <= inner.start && inner.end <= outer.end
}

fn mixin_fields(mixin: &ast::Record) -> impl Iterator<Item = &ast::Field> {
    mixin.members.iter().filter_map(|member| match member {
        ast::Member::Field(field) => Some(field),
        _ => None,
    })
}

fn mixin_attributes(mixin: &ast::Record) -> impl Iterator<Item = &ast::Attribute> {
    mixin.members.iter().filter_map(|member| match member {
        ast::Member::Attribute(attribute) => Some(attribute),
        _ => None,
    })
}
