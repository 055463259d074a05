//! What is allowed, but probably not meant; and what can only be said of a model as a whole.

use std::collections::HashSet;

use super::attributes::OnBlock;
use super::{Resolver, suggest::listing};
use crate::ast::Block;
use crate::diag::{Code, Diagnostic, Span};
use crate::ir::{Action, Effect, Expr, FieldId, Model, ModelId, Rule, Scalar, Writable};
use crate::value::Value;

impl<'a> Resolver<'a> {
    pub(super) fn lints(&mut self, blocks: &[&'a Block]) {
        self.unused();
        for id in self.model_ids() {
            self.without_allow(id);
            self.impossible_creates(id);
            self.odd_denies(id);
            self.unknown_checks(id);
            self.personal_audit_key(id);
            self.blind_audit_rules(id);
        }
        for block in blocks {
            let Block::Procedure(written) = block else { continue };
            if !written.attributes.iter().any(|one| one.name.name == "allow") {
                let message = format!("nobody can call `{}`", written.name.name);
                self.report(
                    Diagnostic::new(Code::NoAllow, written.name.span, message)
                        .help("what no rule allows is denied: add `@allow(..)`"),
                );
            }
        }
    }

    /// Declarations that nothing refers to.
    fn unused(&mut self) {
        let enums = self.enums.iter().map(|one| (&one.name, "enum"));
        let mixins = self.mixins.iter().map(|one| (&one.name, "mixin"));
        let types = self.types.iter().map(|one| (&one.name, "type"));
        let found: Vec<Diagnostic> = enums
            .chain(mixins)
            .chain(types)
            .filter(|(name, _)| !self.used.contains(name.name.as_str()))
            .map(|(name, word)| {
                Diagnostic::new(Code::Unused, name.span, format!("the {word} `{}` is never used", name.name))
                    .help("use it or remove it")
            })
            .collect();
        self.diags.extend(found);
    }

    fn has_attribute(&self, id: ModelId, kind: OnBlock) -> bool {
        self.drafts.get(id.index()).is_some_and(|draft| draft.attributes.iter().any(|given| given.kind == kind))
    }

    fn name_span(&self, id: ModelId) -> Option<Span> {
        self.drafts.get(id.index()).map(|draft| draft.record.name.span)
    }

    fn without_allow(&mut self, id: ModelId) {
        let Some(span) = self.name_span(id) else { return };
        if !self.has_attribute(id, OnBlock::Allow) {
            let message = format!("nobody can do anything with `{}`", self.schema.model(id).name);
            self.report(
                Diagnostic::new(Code::NoAllow, span, message)
                    .help("what no rule allows is denied: add `@@allow(\"read\", ..)` and the like"),
            );
        }
    }

    /// A create that every input must fail, because a required field can neither be sent nor be made up.
    fn impossible_creates(&mut self, id: ModelId) {
        let model = self.schema.model(id);
        let creatable =
            model.rules.iter().any(|rule| rule.effect == Effect::Allow && rule.actions.contains(&Action::Create));
        if !creatable || model.internal.contains(&Action::Create) {
            return;
        }
        let Some(draft) = self.drafts.get(id.index()) else { return };
        let found: Vec<Diagnostic> = model
            .fields()
            .filter(|(_, field)| {
                let made = field.default.is_some() || field.version || field.updated_at || field.optional;
                field.writable() == Writable::Never && !made
            })
            .map(|(at, field)| {
                let message = format!("`{}` can never get a value, so no `{}` can be created", field.name, model.name);
                Diagnostic::new(Code::ImpossibleCreate, draft.span(at), message)
                    .help("it is required, and never in an input: give it a `@default(..)`, or make it optional (`?`)")
            })
            .collect();
        self.diags.extend(found);
    }

    /// Denies over actions that nothing allows, that are constantly false, or that a null lets fire.
    fn odd_denies(&mut self, id: ModelId) {
        let model = self.schema.model(id);
        let Some(draft) = self.drafts.get(id.index()) else { return };
        let allowed: HashSet<Action> = model
            .rules
            .iter()
            .filter(|rule| rule.effect == Effect::Allow)
            .flat_map(|rule| rule.actions.iter().copied())
            .collect();
        let denies = draft.attributes.iter().filter(|given| given.kind == OnBlock::Deny);
        let typed: Vec<_> = model.rules.iter().filter(|rule| rule.effect == Effect::Deny).collect();
        // Denies with an error are missing from the model; without them the two lists run in step.
        if denies.clone().count() != typed.len() || allowed.is_empty() {
            return;
        }
        let idle = |message| Some((Code::IdleDeny, message, "remove it, or mend its action or condition".to_owned()));
        let found: Vec<Diagnostic> = denies
            .zip(typed)
            .filter_map(|(given, rule)| {
                let (code, message, help) = if always_false(&rule.expr) {
                    idle("this deny never fires, since its condition is always false".to_owned())
                } else if !rule.actions.iter().any(|action| allowed.contains(action)) {
                    let words: Vec<&str> = rule.actions.iter().map(|action| action.word()).collect();
                    idle(format!("this deny changes nothing, since no rule allows {}", listing(&words)))
                } else {
                    fired_by_null(model, &rule.expr)
                }?;
                Some(Diagnostic::new(code, given.span, message).help(help))
            })
            .collect();
        self.diags.extend(found);
    }

    /// Events hold keys as they are. Of the trail nothing is ever taken out, and what was delivered is out of reach.
    fn personal_audit_key(&mut self, id: ModelId) {
        let model = self.schema.model(id);
        let Some(draft) = self.drafts.get(id.index()) else { return };
        let (shows, help) = match (model.audit.is_some(), model.emit.is_empty()) {
            (true, true) => ("the audit trail shows", "what is written there stays for good"),
            (false, false) => ("the events of `@@emit` show", "what others have received cannot be taken back"),
            (true, false) => {
                ("the audit trail and the events of `@@emit` show", "what is written there stays for good")
            }
            (false, true) => return,
        };
        let personal = |at: &&FieldId| model.field(**at).pii || model.field(**at).sensitive;
        let found: Vec<Diagnostic> = model
            .key
            .iter()
            .filter(personal)
            .map(|at| {
                let message = format!("{shows} the key `{}` as it is", model.field(*at).name);
                Diagnostic::new(Code::PersonalAuditKey, draft.span(*at), message)
                    .help(format!("{help}: give the rows a key without meaning, as in `Uuid @id`"))
            })
            .collect();
        self.diags.extend(found);
    }

    /// Events do not pass a rule over values that they do not hold.
    fn blind_audit_rules(&mut self, id: ModelId) {
        let model = self.schema.model(id);
        let Some(draft) = self.drafts.get(id.index()).filter(|_| model.audit.is_some()) else { return };
        let about = |rule: &&Rule| rule.actions.contains(&Action::Audit);
        if !model.rules.iter().filter(about).any(|rule| rule.effect == Effect::Allow) {
            return;
        }
        let written: Vec<_> =
            draft.attributes.iter().filter(|given| matches!(given.kind, OnBlock::Allow | OnBlock::Deny)).collect();
        // Rules with an error are missing from the model; without them the two lists run in step.
        if written.len() != model.rules.len() {
            return;
        }
        let found: Vec<Diagnostic> = written
            .into_iter()
            .zip(&model.rules)
            .filter(|(_, rule)| about(rule))
            .filter_map(|(given, rule)| {
                let names = not_held(model, &rule.expr);
                let first = names.first()?;
                let message =
                    format!("no event passes this rule, since the audit trail does not hold {}", listing(&names));
                let help =
                    format!("leave `{first}` out of the rules for `audit`: a rule over the caller alone shows events");
                Some(Diagnostic::new(Code::BlindAuditRule, given.span, message).help(help))
            })
            .collect();
        self.diags.extend(found);
    }

    /// A CHECK passes when it is unknown, so a null lets a row through that the author may have meant to refuse.
    fn unknown_checks(&mut self, id: ModelId) {
        let model = self.schema.model(id);
        let Some(draft) = self.drafts.get(id.index()) else { return };
        let checks: Vec<_> = draft.attributes.iter().filter(|given| given.kind == OnBlock::Check).collect();
        if checks.len() != model.checks.len() {
            return;
        }
        let found: Vec<Diagnostic> = checks
            .into_iter()
            .zip(&model.checks)
            .filter_map(|(given, check)| {
                let names = unguarded(model, &check.expr);
                let first = names.first()?;
                let message = format!("the check `{}` passes whenever {} is null", check.name, listing(&names));
                Some(Diagnostic::new(Code::CheckMayBeUnknown, given.span, message).help(format!(
                    "a check refuses what is false, and a comparison with null is not: if that is meant, say \
                         `{first} == null || ..`; if not, `{first} != null && ..`"
                )))
            })
            .collect();
        self.diags.extend(found);
    }
}

/// Fields of the row that the expression reads, and of which the trail holds no value that could be compared.
fn not_held<'m>(model: &'m Model, expr: &Expr) -> Vec<&'m str> {
    let mut names = Vec::new();
    expr.visit(&mut |part| {
        let Expr::Field(path) = part else { return };
        let field = model.fields.get(path.field.index()).filter(|_| path.hops.is_empty());
        let Some(field) = field else { return };
        let held =
            !field.pii && !field.sensitive && !field.server_only && !field.list && field.scalar() != Some(Scalar::Json);
        if !held && !names.contains(&field.name.as_str()) {
            names.push(field.name.as_str());
        }
    });
    names
}

/// A deny fires when it is unknown, so a null hides or locks a row that the author may have meant to leave alone.
fn fired_by_null(model: &Model, deny: &Expr) -> Option<(Code, String, String)> {
    let names = unguarded(model, deny);
    let first = names.first()?;
    let help = format!(
        "a deny fires unless it is false, and null is neither: if that is meant, say `{first} == null || ..`; if not, \
         `{first} != null && ..`"
    );
    Some((Code::DenyOfNull, format!("this deny can fire for nothing but a null in {}", listing(&names)), help))
}

/// Nullable fields of the row that the expression reads, but never tests for null.
fn unguarded<'m>(model: &'m Model, expr: &Expr) -> Vec<&'m str> {
    let (mut read, mut tested) = (Vec::new(), Vec::new());
    null_uses(expr, &mut read, &mut tested);
    let open = |field: &FieldId| model.field(*field).optional && !tested.contains(field);
    read.into_iter().filter(open).map(|field| model.field(field).name.as_str()).collect()
}

/// The row's own fields that an expression reads, and those that it tests for null.
fn null_uses(expr: &Expr, read: &mut Vec<FieldId>, tested: &mut Vec<FieldId>) {
    let own = |expr: &Expr| match expr {
        Expr::Field(path) if path.hops.is_empty() => Some(path.field),
        _ => None,
    };
    if let Expr::IsNull(inner) = expr {
        tested.extend(own(inner));
    } else if let Some(field) = own(expr) {
        if !read.contains(&field) {
            read.push(field);
        }
    } else if !matches!(expr, Expr::Quantified { .. }) {
        expr.children().into_iter().for_each(|child| null_uses(child, read, tested));
    }
}

fn always_false(expr: &Expr) -> bool {
    match expr {
        Expr::Const(_, Value::Bool(value)) => !value,
        Expr::And(parts) => parts.iter().any(always_false),
        Expr::Or(parts) => parts.iter().all(always_false),
        Expr::Not(inner) => matches!(inner.as_ref(), Expr::Const(_, Value::Bool(true))),
        _ => false,
    }
}
