//! Procedures: typed signatures, and rules that see the caller alone.

use super::attributes::{self, Given, OnProcedure, PROCEDURE, Place, bad};
use super::expr::Use;
use super::suggest::{listing, suggest_as};
use super::{Resolver, doc};
use crate::ast::{self, Block, Modifier};
use crate::diag::{Code, Diagnostic, Span};
use crate::ir::{Effect, Field, FieldType, Idempotent, Isolation, Procedure, ProcedureRule, Returns, is_policy_name};

const ISOLATIONS: [(&str, Isolation); 3] = [
    ("read_committed", Isolation::ReadCommitted),
    ("repeatable_read", Isolation::RepeatableRead),
    ("serializable", Isolation::Serializable),
];

impl<'a> Resolver<'a> {
    pub(super) fn procedures(&mut self, blocks: &[&'a Block]) {
        let mut seen: Vec<(&'a str, Span)> = Vec::new();
        for block in blocks {
            let Block::Procedure(written) = block else { continue };
            let name = &written.name;
            if let Some((_, first)) = seen.iter().find(|(seen, _)| *seen == name.name) {
                self.report(
                    Diagnostic::new(Code::DuplicateName, name.span, format!("`{}` is declared twice", name.name))
                        .with(*first, "first here")
                        .help("remove or rename one of the two procedures"),
                );
                continue;
            }
            seen.push((&name.name, name.span));
            let procedure = self.procedure(written);
            self.schema.procedures.extend(procedure);
        }
    }

    fn procedure(&mut self, written: &'a ast::Procedure) -> Option<Procedure> {
        let params = self.params(written);
        let returns = self.returns(&written.returns);
        let given = attributes::read(PROCEDURE, "@", Place::Procedure, &written.attributes, &mut self.diags);
        let args_is_body = matches!(
            params.as_slice(),
            [only] if only.name == "args" && matches!(only.ty, FieldType::Type(_)) && !only.list && !only.optional
        );
        // Without a type the attributes are read all the same, for their errors.
        let (known, returns) = match returns {
            Some(returns) => (true, returns),
            None => (false, Returns { ty: BOOLEAN, list: false, optional: false }),
        };
        let mut procedure = Procedure {
            name: written.name.name.clone(),
            doc: doc(written.doc.as_ref()),
            mutation: written.mutation,
            params,
            args_is_body,
            returns,
            rules: Vec::new(),
            isolation: None,
            status: None,
            deprecated: None,
            idempotent: Idempotent::default(),
            rate_limits: Vec::new(),
        };
        for one in &given {
            self.procedure_attribute(&mut procedure, one);
        }
        known.then_some(procedure)
    }

    fn params(&mut self, written: &'a ast::Procedure) -> Vec<Field> {
        let mut params: Vec<Field> = Vec::new();
        for param in &written.params {
            if let Some(first) = written.params.iter().find(|first| first.name.name == param.name.name)
                && !std::ptr::eq(first, param)
            {
                self.duplicate_member(&param.name, first.name.span);
                continue;
            }
            let Some(read) = self.read_field(param, Place::Parameter) else { continue };
            if let FieldType::Model(_) = read.field.ty {
                self.type_not_here(param, "a parameter is a scalar, an enum or a `type`; models are answers");
                continue;
            }
            params.push(read.field);
        }
        params
    }

    fn returns(&mut self, written: &'a ast::Type) -> Option<Returns> {
        let ty = self.type_of(written)?;
        Some(Returns { ty, list: written.modifier == Modifier::List, optional: written.modifier == Modifier::Optional })
    }

    fn procedure_attribute(&mut self, procedure: &mut Procedure, given: &Given<'a, OnProcedure>) {
        match given.kind {
            OnProcedure::Allow => self.procedure_rule(procedure, Effect::Allow, given),
            OnProcedure::Deny => self.procedure_rule(procedure, Effect::Deny, given),
            OnProcedure::Isolation => procedure.isolation = self.isolation(procedure.mutation, given),
            OnProcedure::Status => procedure.status = given.arg("status").and_then(|value| self.status(value)),
            OnProcedure::Deprecated => procedure.deprecated = self.sentence(given, "why", "the reason"),
            OnProcedure::Idempotent if !procedure.mutation => {
                let message = "a procedure that changes nothing may be called any number of times";
                let conflict = Diagnostic::new(Code::ConflictingAttributes, given.span, message);
                self.report(conflict.help("remove `@idempotent`, or write `mutation procedure`"));
            }
            OnProcedure::Idempotent => {
                if let Some(value) = given.arg("required | optional | none") {
                    const HELP: &str = "write `@idempotent(required)`, `(optional)`, which is the default, or `(none)`";
                    procedure.idempotent = self.idempotent("@idempotent", value, &IDEMPOTENT, HELP);
                }
            }
            OnProcedure::RateLimit => {
                let policy = self.policy(&procedure.rate_limits, given);
                procedure.rate_limits.extend(policy);
            }
        }
    }

    fn procedure_rule(&mut self, procedure: &mut Procedure, effect: Effect, given: &Given<'a, OnProcedure>) {
        let expr = given.arg("expression").and_then(|written| self.condition(None, Use::Procedure, written));
        procedure.rules.extend(expr.map(|expr| ProcedureRule { effect, expr }));
    }

    fn isolation(&mut self, mutation: bool, given: &Given<'a, OnProcedure>) -> Option<Isolation> {
        let value = given.arg("level")?;
        let word = attributes::string(value, "the isolation level", &mut self.diags)?;
        let Some((_, level)) = ISOLATIONS.iter().find(|(name, _)| *name == word) else {
            let words: Vec<&str> = ISOLATIONS.iter().map(|(word, _)| *word).collect();
            let diagnostic = bad(value.span, format!("there is no isolation level `{word}`"));
            let normal = word.to_lowercase().replace([' ', '-'], "_");
            let known = format!("the levels are {}", listing(&words));
            self.report(suggest_as(diagnostic, &normal, words, |meant| format!("\"{meant}\""), known));
            return None;
        };
        if !mutation && *level == Isolation::ReadCommitted {
            self.report(
                bad(value.span, "a procedure that is no mutation runs in a snapshot, which `read_committed` is not")
                    .help("remove `@isolation`, or write `mutation procedure`"),
            );
            return None;
        }
        Some(*level)
    }

    fn policy(&mut self, others: &[String], given: &Given<'a, OnProcedure>) -> Option<String> {
        let value = given.arg("policy")?;
        let name = attributes::string(value, "the name of the policy", &mut self.diags)?;
        let problem = if !is_policy_name(name) {
            bad(value.span, "this is no name of a rate limit")
                .help("use 1 to 64 letters, digits, `_`, `-` and `.`; how much it allows is set where the service runs")
        } else if others.iter().any(|other| other == name) {
            Diagnostic::new(Code::DuplicateAttribute, given.span, format!("calls count towards `{name}` already"))
                .help("remove one of the two")
        } else {
            return Some(name.to_owned());
        };
        self.report(problem);
        None
    }

    fn status(&mut self, value: &ast::Expr) -> Option<u16> {
        let status = match &value.kind {
            ast::ExprKind::Number(text) => text.parse::<u16>().ok(),
            _ => None,
        };
        // 204, 205 and 206 have no body, or a part of one.
        let found = status.filter(|status| (200..300).contains(status) && !(204..=206).contains(status));
        if found.is_none() {
            self.report(
                bad(value.span, "this is no status that a successful answer with a body can have")
                    .help("write 200, 201 or 202"),
            );
        }
        found
    }
}

/// The words of `@idempotent`.
const IDEMPOTENT: [(&str, Idempotent); 3] =
    [("required", Idempotent::Required), ("optional", Idempotent::Optional), ("none", Idempotent::None)];

const BOOLEAN: FieldType = FieldType::Scalar(crate::ir::Scalar::Boolean);
