//! From written expressions to typed ones: one implementation for rules, checks, index filters and request-time
//! filters. It reports every error of an expression, not just the first.

use std::collections::HashSet;

use super::exact::{self, Inexact};
use super::suggest::{a, listing, suggest};
use crate::ast::{self, BinaryOp, ExprKind, Ident, LogicalOp, UnaryOp};
use crate::decimal::Decimal;
use crate::diag::{Code, Diagnostic, Span};
use crate::fuzzy::nearest;
use crate::ir::{
    ArithOp, Auth, CompareOp, Expr, Field, FieldId, FieldPath, FieldType, Model, ModelId, Precision, Quantifier,
    RelationId, RelationKind, Scalar, Schema, Side, StringOp,
};
use crate::value::{self, Value};

/// Where an expression stands, which decides what it may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// `@@allow`, `@@deny`.
    Rule {
        /// The rule speaks of `update` alone, so that `old.`, `new.` and `changed()` mean something.
        update: bool,
    },
    /// `@@check`.
    Check,
    /// `where:` of an index.
    IndexFilter,
    /// `@allow`, `@deny` of a procedure.
    Procedure,
    /// A filter in a request: `@server_only` fields do not exist.
    Request,
}

impl Use {
    /// Whether only the row itself may be read, because the database keeps the expression.
    fn own_row_only(self) -> bool {
        matches!(self, Self::Check | Self::IndexFilter)
    }

    fn words(self) -> &'static str {
        match self {
            Self::Rule { .. } => "a rule",
            Self::Check => "a `@@check`",
            Self::IndexFilter => "the `where:` of an index",
            Self::Procedure => "the rule of a procedure",
            Self::Request => "a filter",
        }
    }
}

/// Members that are declared, but whose declaration has an error: naming one is not an error of its own.
#[derive(Debug, Default)]
pub(super) struct Broken {
    members: HashSet<(ModelId, String)>,
    claims: HashSet<String>,
}

impl Broken {
    pub(super) fn add(&mut self, model: ModelId, member: &str) {
        self.members.insert((model, member.to_owned()));
    }

    pub(super) fn add_claim(&mut self, name: &str) {
        self.claims.insert(name.to_owned());
    }

    pub(super) fn has_claim(&self, name: &str) -> bool {
        self.claims.contains(name)
    }

    pub(super) fn has(&self, model: ModelId, member: &str) -> bool {
        !self.members.is_empty() && self.members.contains(&(model, member.to_owned()))
    }
}

/// Types a condition. `None` when there are diagnostics in `diags`, or when it names a broken member.
pub(super) fn condition(
    schema: &Schema,
    broken: &Broken,
    row: Option<ModelId>,
    used: Use,
    written: &ast::Expr,
    diags: &mut Vec<Diagnostic>,
) -> Option<Expr> {
    let mut typer = Typer { schema, broken, row, used, nested: false, diags };
    typer.condition(written)
}

/// The type of an expression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Type {
    of: FieldType,
    list: bool,
}

const fn scalar(scalar: Scalar) -> Type {
    Type { of: FieldType::Scalar(scalar), list: false }
}

const BOOLEAN: Type = scalar(Scalar::Boolean);

impl Type {
    fn is_decimal(self) -> bool {
        matches!(self.of, FieldType::Scalar(Scalar::Decimal(_)))
    }

    fn is_int(self) -> bool {
        self.of == FieldType::Scalar(Scalar::Int)
    }
}

/// An operand before its partner is known.
#[derive(Debug, Clone)]
enum Operand<'e> {
    Typed(Expr, Type),
    /// `null`, or a literal or name that takes the type of its partner.
    Literal(Literal<'e>, Span),
}

#[derive(Debug, Clone, Copy)]
enum Literal<'e> {
    Null,
    Number(&'e str),
    Text(&'e str),
    /// A name that is no member of the row: perhaps an enum's value.
    Name(&'e Ident),
}

struct Typer<'a> {
    schema: &'a Schema,
    broken: &'a Broken,
    row: Option<ModelId>,
    used: Use,
    /// Inside of a quantifier, where the row is another one.
    nested: bool,
    diags: &'a mut Vec<Diagnostic>,
}

impl<'a> Typer<'a> {
    fn report(&mut self, diagnostic: Diagnostic) {
        self.diags.push(diagnostic);
    }

    fn error<T>(&mut self, code: Code, span: Span, message: impl Into<String>, help: impl Into<String>) -> Option<T> {
        self.report(Diagnostic::new(code, span, message).help(help));
        None
    }

    fn describe(&self, ty: Type) -> String {
        let name = type_name(self.schema, ty.of);
        if ty.list { format!("{name}[]") } else { name }
    }

    // Conditions

    fn condition(&mut self, written: &ast::Expr) -> Option<Expr> {
        match self.operand(written)? {
            Operand::Typed(expr, BOOLEAN) => Some(expr),
            Operand::Typed(_, ty) => {
                let found = self.describe(ty);
                self.error(
                    Code::NotACondition,
                    written.span,
                    format!("a condition is expected, not {}", a(&found)),
                    "compare it with something",
                )
            }
            Operand::Literal(Literal::Name(name), _) => self.unknown_name(name),
            Operand::Literal(..) => self.error(
                Code::NotACondition,
                written.span,
                "a condition is expected, not a literal",
                "write a comparison, `true` or `false`",
            ),
        }
    }

    fn logical(&mut self, op: LogicalOp, operands: &[ast::Expr]) -> Option<Expr> {
        let typed: Vec<Option<Expr>> = operands.iter().map(|operand| self.condition(operand)).collect();
        let typed: Vec<Expr> = typed.into_iter().collect::<Option<_>>()?;
        Some(match op {
            LogicalOp::And => Expr::And(typed),
            LogicalOp::Or => Expr::Or(typed),
        })
    }

    fn operand<'e>(&mut self, written: &'e ast::Expr) -> Option<Operand<'e>> {
        let boolean = |expr| Operand::Typed(expr, BOOLEAN);
        match &written.kind {
            ExprKind::Null => Some(Operand::Literal(Literal::Null, written.span)),
            ExprKind::Number(text) => Some(Operand::Literal(Literal::Number(text), written.span)),
            ExprKind::String(text) => Some(Operand::Literal(Literal::Text(text), written.span)),
            ExprKind::Bool(value) => Some(boolean(Expr::Const(BOOLEAN.of, Value::Bool(*value)))),
            ExprKind::Path(path) => self.path(path, written.span),
            ExprKind::List(_) => {
                self.error(Code::TypeMismatch, written.span, "a list can only stand after `in`", "write `x in [a, b]`")
            }
            ExprKind::Call { name, args } => self.call(name, args, written.span),
            ExprKind::Select { base, name } => self.select(base, name),
            ExprKind::Method { base, name, args } => self.method(base, name, args, written.span),
            ExprKind::Unary { op: UnaryOp::Not, operand, .. } => {
                Some(boolean(Expr::Not(Box::new(self.condition(operand)?))))
            }
            ExprKind::Unary { op: UnaryOp::Neg, operand, .. } => self.negated(operand),
            ExprKind::Logical { op, operands } => self.logical(*op, operands).map(boolean),
            ExprKind::Binary { op, op_span, left, right } => match binary(*op) {
                Binary::Compare(op) => self.compare(op, *op_span, left, right).map(boolean),
                Binary::Arith(op) => self.arith(op, *op_span, left, right),
            },
            ExprKind::In { negated, op_span, value, list } => {
                let test = self.membership(value, list, *op_span)?;
                Some(boolean(if *negated { Expr::Not(Box::new(test)) } else { test }))
            }
        }
    }

    // Names

    fn model(&self) -> Option<&'a Model> {
        self.row.map(|row| self.schema.model(row))
    }

    /// A field as an expression of this kind may see it.
    fn visible(&self, model: &'a Model, name: &str) -> Option<(FieldId, &'a Field)> {
        let id = model.field_named(name)?;
        let field = model.field(id);
        (self.used != Use::Request || !field.server_only).then_some((id, field))
    }

    fn path<'e>(&mut self, path: &'e [Ident], span: Span) -> Option<Operand<'e>> {
        let (first, rest) = path.split_first()?;
        if !rest.is_empty() && matches!(first.name.as_str(), "old" | "new") {
            let side = self.side(first)?;
            return self.member_path(side, rest, span);
        }
        if self.model().is_some_and(|model| self.is_member(model, &first.name)) {
            return self.member_path(Side::Row, path, span);
        }
        match rest {
            [] => Some(Operand::Literal(Literal::Name(first), span)),
            [variant] if self.schema.enums.iter().any(|e| e.name == first.name) => {
                let of = self.enum_type(&first.name)?;
                let expr = self.variant(of, variant)?;
                Some(Operand::Typed(expr, Type { of, list: false }))
            }
            _ => self.unknown_qualifier(first),
        }
    }

    /// An unknown name in front of a dot: of an enum, perhaps.
    fn unknown_qualifier<T>(&mut self, name: &Ident) -> Option<T> {
        let Some(meant) = nearest(&name.name, self.schema.enums.iter().map(|one| one.name.as_str())) else {
            return self.unknown_name(name);
        };
        self.report(
            Diagnostic::new(Code::UnknownName, name.span, format!("there is nothing named `{}` here", name.name))
                .help(format!("did you mean `{meant}`?"))
                .fix(format!("write `{meant}`"), name.span, meant),
        );
        None
    }

    /// Whether the row has a member of that name, visible or broken.
    fn is_member(&self, model: &'a Model, name: &str) -> bool {
        self.visible(model, name).is_some()
            || model.relation_named(name).is_some()
            || self.row.is_some_and(|row| self.broken.has(row, name))
    }

    fn enum_type(&self, name: &str) -> Option<FieldType> {
        let at = self.schema.enums.iter().position(|e| e.name == name)?;
        u32::try_from(at).ok().map(|at| FieldType::Enum(crate::ir::EnumId(at)))
    }

    /// `old` or `new` in front of a path.
    fn side(&mut self, word: &Ident) -> Option<Side> {
        self.update_only(word.span, &format!("`{}.`", word.name))?;
        Some(if word.name == "old" { Side::Old } else { Side::New })
    }

    fn update_only(&mut self, span: Span, what: &str) -> Option<()> {
        if self.nested {
            return self.error(
                Code::UpdateOnly,
                span,
                format!("{what} speaks of the updated row, not of the related rows here"),
                "a plain name is a field of the related row",
            );
        }
        match self.used {
            Use::Rule { update: true } => Some(()),
            Use::Rule { update: false } => self.error(
                Code::UpdateOnly,
                span,
                format!("{what} can only stand in a rule for `update` alone"),
                "split the rule: one for `\"update\"`, one for the other actions",
            ),
            other => self.error(
                Code::UpdateOnly,
                span,
                format!("{what} cannot stand in {}", other.words()),
                "only `@@allow(\"update\", ..)` and `@@deny(\"update\", ..)` know an old and a new row",
            ),
        }
    }

    /// A path over to-one relations to a field.
    fn member_path<'e>(&mut self, side: Side, path: &[Ident], span: Span) -> Option<Operand<'e>> {
        let (last, hops) = path.split_last()?;
        let (hops, model) = self.hops(hops)?;
        let of = self.schema.model(model);
        if let Some((field, found)) = self.visible(of, &last.name) {
            let ty = Type { of: found.ty, list: found.list };
            return Some(Operand::Typed(Expr::Field(FieldPath { side, hops, field }), ty));
        }
        if of.relation_named(&last.name).is_some() {
            let target = self.schema.model(of.relation_named(&last.name).map(|id| of.relation(id).target)?);
            let example = target.fields.iter().find(|field| !field.server_only).map_or("id", |field| &field.name);
            let many = of.relation_named(&last.name).is_some_and(|id| of.relation(id).kind == RelationKind::Many);
            let help = if many {
                format!("write `{}.some(..)`, `.every(..)` or `.none(..)`", last.name)
            } else {
                format!("name a field of it, such as `{}.{example}`", last.name)
            };
            let holder = self.schema.enums.iter().find(|of| of.variants.iter().any(|v| v.name == last.name));
            let help = match holder {
                Some(holder) if path.len() == 1 => {
                    format!("{help}; the value of an enum is `{}.{}` here", holder.name, last.name)
                }
                _ => help,
            };
            return self.error(
                Code::RelationAsValue,
                span,
                format!("`{}` is a relation, not a value", last.name),
                help,
            );
        }
        self.unknown_member(model, last)
    }

    /// To-one relations in front of a path, from the row in scope.
    fn hops(&mut self, names: &[Ident]) -> Option<(Vec<RelationId>, ModelId)> {
        let Some(mut model) = self.row else {
            return names.first().and_then(|name| self.unknown_name(name));
        };
        let mut hops = Vec::with_capacity(names.len());
        for name in names {
            let of = self.schema.model(model);
            let Some(id) = of.relation_named(&name.name) else {
                if self.visible(of, &name.name).is_some() {
                    return self.error(
                        Code::NotARelation,
                        name.span,
                        format!("`{}` is a field, so nothing can follow its dot", name.name),
                        "only relations have members",
                    );
                }
                return self.unknown_member(model, name);
            };
            let relation = of.relation(id);
            if relation.kind == RelationKind::Many {
                return self.error(
                    Code::RelationAsValue,
                    name.span,
                    format!("`{}` has many rows, so a path cannot cross it", name.name),
                    format!("write `{}.some(..)`, `.every(..)` or `.none(..)`", name.name),
                );
            }
            self.relation_allowed(name.span, &name.name)?;
            hops.push(id);
            model = relation.target;
        }
        Some((hops, model))
    }

    fn relation_allowed(&mut self, span: Span, name: &str) -> Option<()> {
        if !self.used.own_row_only() {
            return Some(());
        }
        self.error(
            Code::NotInStored,
            span,
            format!("`{name}` reads another row, which {} cannot do", self.used.words()),
            "the database checks one row at a time: use fields of this row alone",
        )
    }

    fn unknown_name<T>(&mut self, name: &Ident) -> Option<T> {
        if let Some(row) = self.row {
            return self.unknown_member(row, name);
        }
        let message = format!("there is nothing named `{}` here", name.name);
        let diagnostic = Diagnostic::new(Code::UnknownName, name.span, message);
        let help = "the rules of a procedure see `auth()`, `now()` and literals; its arguments are checked by its body";
        self.report(self.claim_meant(name, diagnostic).unwrap_or_else(|diagnostic| diagnostic.help(help)));
        None
    }

    /// A claim of the caller that was written without `auth()`. Gives the diagnostic back if there is none.
    fn claim_meant(&self, name: &Ident, diagnostic: Diagnostic) -> Result<Diagnostic, Diagnostic> {
        let claims = self.schema.auth.iter().flat_map(|auth| &auth.fields);
        if self.used.own_row_only() || !claims.into_iter().any(|claim| claim.name == name.name) {
            return Err(diagnostic);
        }
        let meant = format!("auth().{}", name.name);
        Ok(diagnostic.help(format!("did you mean `{meant}`?")).fix(format!("write `{meant}`"), name.span, meant))
    }

    /// The answer is the same for a name that does not exist and for one that the caller may not see.
    fn unknown_member<T>(&mut self, model: ModelId, name: &Ident) -> Option<T> {
        if self.broken.has(model, &name.name) {
            return None;
        }
        let of = self.schema.model(model);
        let hidden = |field: &&Field| self.used == Use::Request && field.server_only;
        let members = of.fields.iter().filter(|field| !hidden(field)).map(|field| field.name.as_str());
        let members: Vec<&str> = members.chain(of.relations.iter().map(|relation| relation.name.as_str())).collect();
        let message = format!("`{}` has no member `{}`", of.name, name.name);
        let diagnostic = Diagnostic::new(Code::UnknownName, name.span, message);
        let known = format!("its members are {}", listing(&members));
        let diagnostic = match self.claim_meant(name, diagnostic) {
            Ok(diagnostic) => diagnostic,
            Err(diagnostic) => suggest(diagnostic, &name.name, members, known),
        };
        self.report(diagnostic);
        None
    }

    fn variant(&mut self, of: FieldType, name: &Ident) -> Option<Expr> {
        let FieldType::Enum(id) = of else {
            return self.unknown_name(name);
        };
        let wanted = self.schema.enumeration(id);
        if let Some(variant) = wanted.variants.iter().find(|variant| variant.name == name.name) {
            return Some(Expr::Const(of, Value::Text(variant.stored.clone())));
        }
        let variants: Vec<&str> = wanted.variants.iter().map(|variant| variant.name.as_str()).collect();
        let message = format!("`{}` is no value of the enum `{}`", name.name, wanted.name);
        let diagnostic = Diagnostic::new(Code::UnknownVariant, name.span, message);
        let known = format!("its values are {}", listing(&variants));
        self.report(suggest(diagnostic, &name.name, variants, known));
        None
    }

    // Functions

    fn call<'e>(&mut self, name: &Ident, args: &[ast::Expr], span: Span) -> Option<Operand<'e>> {
        match name.name.as_str() {
            "now" => {
                self.no_arguments(name, args)?;
                self.outside_world(span, "now()")?;
                Some(Operand::Typed(Expr::Now, scalar(Scalar::DateTime)))
            }
            "auth" => self.error(
                Code::TypeMismatch,
                span,
                "the caller as a whole is no value",
                "name a claim, as in `auth().id`, or test `auth() == null`",
            ),
            "changed" => self.changed(args, span),
            other => {
                let message = format!("there is no function `{other}()` in an expression");
                let diagnostic = Diagnostic::new(Code::UnknownFunction, name.span, message);
                let known = "the functions are `auth()`, `now()` and `changed(field)`";
                self.report(suggest(diagnostic, other, ["now", "auth", "changed"], known));
                None
            }
        }
    }

    fn no_arguments(&mut self, name: &Ident, args: &[ast::Expr]) -> Option<()> {
        match args.first() {
            None => Some(()),
            Some(first) => self.error(
                Code::WrongArguments,
                first.span,
                format!("`{}()` takes no arguments", name.name),
                "remove them",
            ),
        }
    }

    /// What changes from request to request cannot be part of what the database keeps.
    fn outside_world(&mut self, span: Span, what: &str) -> Option<()> {
        if !self.used.own_row_only() {
            return Some(());
        }
        self.error(
            Code::NotInStored,
            span,
            format!("`{what}` cannot stand in {}", self.used.words()),
            "it must hold for a row whoever looks at it and whenever: use fields and literals alone",
        )
    }

    fn changed<'e>(&mut self, args: &[ast::Expr], span: Span) -> Option<Operand<'e>> {
        self.update_only(span, "`changed()`")?;
        let [ast::Expr { kind: ExprKind::Path(path), .. }] = args else {
            return self.wrong_changed(span);
        };
        let [name] = path.as_slice() else {
            return self.wrong_changed(span);
        };
        let (row, model) = (self.row?, self.model()?);
        if let Some((id, _)) = self.visible(model, &name.name) {
            return Some(Operand::Typed(Expr::Changed(id), BOOLEAN));
        }
        if let Some(relation) = model.relation_named(&name.name) {
            let fields = match &model.relation(relation).kind {
                RelationKind::Owning { fields, .. } => fields.iter().map(|id| model.field(*id).name.as_str()).collect(),
                _ => Vec::new(),
            };
            return self.error(
                Code::RelationAsValue,
                name.span,
                format!("`{}` is a relation, and `changed()` takes a field", name.name),
                if fields.is_empty() {
                    "a row cannot change the rows that point to it".to_owned()
                } else {
                    format!("its fields are {}", listing(&fields))
                },
            );
        }
        self.unknown_member(row, name)
    }

    fn wrong_changed<T>(&mut self, span: Span) -> Option<T> {
        self.error(Code::WrongArguments, span, "`changed()` takes one field of the row", "write `changed(owner)`")
    }

    fn auth(&mut self, span: Span) -> Option<&'a Auth> {
        let schema = self.schema;
        self.outside_world(span, "auth()")?;
        let Some(auth) = schema.auth.as_ref() else {
            return self.error(
                Code::NoAuthBlock,
                span,
                "the schema has no `auth` block, so every caller is anonymous",
                "declare what a caller carries: `auth Principal { id String }`",
            );
        };
        Some(auth)
    }

    fn claim(&mut self, name: &Ident) -> Option<(FieldId, &'a Field)> {
        let auth = self.auth(name.span)?;
        let found = auth.fields.iter().zip(0..).find(|(field, _)| field.name == name.name);
        if let Some((field, id)) = found {
            return Some((FieldId(id), field));
        }
        if self.broken.has_claim(&name.name) {
            return None;
        }
        let claims: Vec<&str> = auth.fields.iter().map(|field| field.name.as_str()).collect();
        let message = format!("`{}` has no field `{}`", auth.name, name.name);
        let diagnostic = Diagnostic::new(Code::UnknownName, name.span, message);
        let known = format!("its fields are {}", listing(&claims));
        self.report(suggest(diagnostic, &name.name, claims, known));
        None
    }

    fn select<'e>(&mut self, base: &ast::Expr, name: &Ident) -> Option<Operand<'e>> {
        if is_auth(base) {
            let (id, field) = self.claim(name)?;
            return Some(Operand::Typed(Expr::Auth(id), Type { of: field.ty, list: field.list }));
        }
        self.error(
            Code::NotARelation,
            name.span,
            format!("nothing named `{}` can follow this", name.name),
            "a dot follows a relation, an enum, `old`, `new` or `auth()`",
        )
    }

    fn method<'e>(&mut self, base: &ast::Expr, name: &Ident, args: &[ast::Expr], span: Span) -> Option<Operand<'e>> {
        let quantifier = match name.name.as_str() {
            "some" => Quantifier::Some,
            "every" => Quantifier::Every,
            "none" => Quantifier::None,
            "hasRole" => return self.has_role(base, name, args),
            "length" => {
                self.no_arguments(name, args)?;
                let text = self.text(base)?;
                return Some(Operand::Typed(Expr::Length(Box::new(text)), scalar(Scalar::Int)));
            }
            "startsWith" => return self.string_test(StringOp::StartsWith, base, name, args),
            "endsWith" => return self.string_test(StringOp::EndsWith, base, name, args),
            "contains" => return self.string_test(StringOp::Contains, base, name, args),
            other => {
                const METHODS: [&str; 8] =
                    ["some", "every", "none", "startsWith", "endsWith", "contains", "length", "hasRole"];
                let message = format!("there is no function `.{other}()`");
                let diagnostic = Diagnostic::new(Code::UnknownFunction, name.span, message);
                let known = "strings have `.startsWith(x)`, `.endsWith(x)`, `.contains(x)` and `.length()`; to-many \
                             relations have `.some(..)`, `.every(..)` and `.none(..)`";
                self.report(suggest(diagnostic, other, METHODS, known));
                return None;
            }
        };
        self.quantified(quantifier, base, name, args, span)
    }

    fn quantified<'e>(
        &mut self,
        quantifier: Quantifier,
        base: &ast::Expr,
        name: &Ident,
        args: &[ast::Expr],
        span: Span,
    ) -> Option<Operand<'e>> {
        let [written] = args else {
            return self.error(
                Code::WrongArguments,
                span,
                format!("`.{}()` takes one condition on the related rows", name.name),
                format!("write `.{}(true)` if any row will do", name.name),
            );
        };
        let ExprKind::Path(path) = &base.kind else {
            return self.error(
                Code::NotARelation,
                base.span,
                format!("`.{}()` follows a to-many relation", name.name),
                "write the name of the relation before the dot",
            );
        };
        let (mut names, mut side) = (path.as_slice(), Side::Row);
        if let [first, rest @ ..] = names
            && !rest.is_empty()
            && matches!(first.name.as_str(), "old" | "new")
        {
            side = self.side(first)?;
            names = rest;
        }
        let (last, hops) = names.split_last()?;
        let (hops, model) = self.hops(hops)?;
        let of = self.schema.model(model);
        let Some(relation) = of.relation_named(&last.name) else {
            if self.visible(of, &last.name).is_some() {
                return self.error(
                    Code::NotARelation,
                    last.span,
                    format!("`{}` is a field, and `.{}()` follows a to-many relation", last.name, name.name),
                    "compare the field itself",
                );
            }
            return self.unknown_member(model, last);
        };
        self.relation_allowed(last.span, &last.name)?;
        let found = of.relation(relation);
        if found.kind != RelationKind::Many {
            return self.error(
                Code::NotARelation,
                last.span,
                format!("`{}` has one row at most, and `.{}()` follows a to-many relation", last.name, name.name),
                format!("name a field of it, as in `{}.id`", last.name),
            );
        }
        let mut inner = Typer {
            schema: self.schema,
            broken: self.broken,
            row: Some(found.target),
            used: self.used,
            nested: true,
            diags: self.diags,
        };
        let body = Box::new(inner.condition(written)?);
        Some(Operand::Typed(Expr::Quantified { hops, side, relation, quantifier, body }, BOOLEAN))
    }

    fn has_role<'e>(&mut self, base: &ast::Expr, name: &Ident, args: &[ast::Expr]) -> Option<Operand<'e>> {
        if !is_auth(base) {
            return self.error(
                Code::UnknownFunction,
                name.span,
                "`.hasRole()` is a question to the caller",
                "write `auth().hasRole(\"teller\")`",
            );
        }
        let auth = self.auth(base.span)?;
        let roles = auth.fields.iter().find(|field| field.name == "roles");
        if !roles.is_some_and(|field| field.list && field.ty == FieldType::Scalar(Scalar::String)) {
            if self.broken.has_claim("roles") {
                return None;
            }
            return self.error(
                Code::NoRoles,
                name.span,
                format!("`{}` has no field `roles String[]`", auth.name),
                "add the field, or compare the one that you have",
            );
        }
        let [role] = args else {
            return self.error(
                Code::WrongArguments,
                name.span,
                "`.hasRole()` takes the name of one role",
                "write `auth().hasRole(\"teller\")`",
            );
        };
        let role = self.text(role)?;
        Some(Operand::Typed(Expr::HasRole(Box::new(role)), BOOLEAN))
    }

    fn string_test<'e>(
        &mut self,
        op: StringOp,
        base: &ast::Expr,
        name: &Ident,
        args: &[ast::Expr],
    ) -> Option<Operand<'e>> {
        let [wanted] = args else {
            return self.error(
                Code::WrongArguments,
                name.span,
                format!("`.{}()` takes one string", name.name),
                format!("write `.{}(\"..\")`", name.name),
            );
        };
        let (text, wanted) = (self.text(base), self.text(wanted));
        Some(Operand::Typed(Expr::StringTest(op, Box::new(text?), Box::new(wanted?)), BOOLEAN))
    }

    /// An operand that must be a `String`.
    fn text(&mut self, written: &ast::Expr) -> Option<Expr> {
        const STRING: Type = scalar(Scalar::String);
        match self.operand(written)? {
            Operand::Typed(expr, STRING) => Some(expr),
            Operand::Typed(_, ty) => {
                let found = self.describe(ty);
                self.error(
                    Code::TypeMismatch,
                    written.span,
                    format!("a `String` is expected, not {}", a(&found)),
                    "there are no implicit conversions",
                )
            }
            Operand::Literal(literal, span) => self.adopt(literal, span, STRING.of),
        }
    }

    // Comparisons

    fn compare(&mut self, op: CompareOp, op_span: Span, left: &ast::Expr, right: &ast::Expr) -> Option<Expr> {
        if left.kind == ExprKind::Null || right.kind == ExprKind::Null {
            return self.null_test(op, op_span, left, right);
        }
        let (x, y) = (self.operand(left), self.operand(right));
        let ((x, x_ty), (y, y_ty)) = self.pair((x?, left), (y?, right))?;
        if !comparable(x_ty, y_ty) {
            return self.mismatch((x_ty, left.span), (y_ty, right.span), op_span);
        }
        self.check_operator(op, op_span, x_ty)?;
        self.check_exact(&x, &y, x_ty.is_decimal() || y_ty.is_decimal(), op_span)?;
        Some(Expr::Compare(op, Box::new(x), Box::new(y)))
    }

    /// `x == null`, `x != null` and `auth() == null`.
    fn null_test(&mut self, op: CompareOp, op_span: Span, left: &ast::Expr, right: &ast::Expr) -> Option<Expr> {
        let operand = if left.kind == ExprKind::Null { right } else { left };
        let negated = match op {
            CompareOp::Eq => false,
            CompareOp::Ne => true,
            _ => {
                return self.error(
                    Code::NullOperand,
                    op_span,
                    "`null` has no order",
                    "test it with `== null` or `!= null`",
                );
            }
        };
        let test = if is_auth(operand) {
            self.outside_world(operand.span, "auth()")?;
            if negated {
                // Never true where nobody can say who they are, which nobody means.
                self.auth(operand.span)?;
            }
            Expr::Anonymous
        } else {
            match self.operand(operand)? {
                Operand::Typed(expr, _) => Expr::IsNull(Box::new(expr)),
                Operand::Literal(Literal::Name(name), _) => return self.unknown_name(name),
                Operand::Literal(..) => {
                    return self.error(
                        Code::NullOperand,
                        operand.span,
                        "a literal is compared with `null`",
                        "compare a field with `null`",
                    );
                }
            }
        };
        Some(if negated { Expr::Not(Box::new(test)) } else { test })
    }

    /// Gives literals the type of their partner.
    fn pair(
        &mut self,
        (a, left): (Operand<'_>, &ast::Expr),
        (b, right): (Operand<'_>, &ast::Expr),
    ) -> Option<((Expr, Type), (Expr, Type))> {
        match (a, b) {
            (Operand::Typed(a, a_ty), Operand::Typed(b, b_ty)) => {
                self.not_ambiguous(a_ty, right)?;
                self.not_ambiguous(b_ty, left)?;
                Some(((a, a_ty), (b, b_ty)))
            }
            (Operand::Typed(a, ty), Operand::Literal(literal, span)) => {
                let (b, b_ty) = self.adopt_beside(literal, span, &a, ty)?;
                Some(((a, ty), (b, b_ty)))
            }
            (Operand::Literal(literal, span), Operand::Typed(b, ty)) => {
                let (a, a_ty) = self.adopt_beside(literal, span, &b, ty)?;
                Some(((a, a_ty), (b, ty)))
            }
            // Were the one of them a field, the other could be a value of its enum.
            (Operand::Literal(Literal::Name(a), _), Operand::Literal(Literal::Name(b), _)) => {
                self.unknown_name(if self.is_variant(a) { b } else { a })
            }
            (Operand::Literal(a, a_span), Operand::Literal(b, b_span)) => {
                let (a, b) = (self.alone(a, a_span), self.alone(b, b_span));
                Some((a?, b?))
            }
        }
    }

    fn is_variant(&self, name: &Ident) -> bool {
        let mut variants = self.schema.enums.iter().flat_map(|of| &of.variants);
        variants.any(|variant| variant.name == name.name)
    }

    /// A bare name that is a field of the row *and* a value of the enum on the other side could be read both ways.
    fn not_ambiguous(&mut self, other: Type, written: &ast::Expr) -> Option<()> {
        let (FieldType::Enum(id), ExprKind::Path(path)) = (other.of, &written.kind) else {
            return Some(());
        };
        let ([name], wanted) = (path.as_slice(), self.schema.enumeration(id)) else {
            return Some(());
        };
        if !wanted.variants.iter().any(|variant| variant.name == name.name) {
            return Some(());
        }
        let qualified = format!("{}.{}", wanted.name, name.name);
        let message = format!("`{}` is a field here and also a value of the enum `{}`", name.name, wanted.name);
        self.report(
            Diagnostic::new(Code::AmbiguousName, name.span, message)
                .help(format!("write `{qualified}` for the value"))
                .fix(format!("write `{qualified}`"), name.span, qualified),
        );
        None
    }

    /// The literal with the type of its partner; beside computed Decimals it keeps its own digits.
    fn adopt_beside(&mut self, literal: Literal<'_>, span: Span, partner: &Expr, ty: Type) -> Option<(Expr, Type)> {
        if ty.list {
            let found = self.describe(ty);
            return self.error(
                Code::TypeMismatch,
                span,
                format!("{} cannot be compared", a(&found)),
                "lists can only be tested with `== null`",
            );
        }
        if let (Literal::Number(text), true) = (literal, ty.is_decimal())
            && !matches!(partner, Expr::Field(_) | Expr::Auth(_))
        {
            return self.number(text, span);
        }
        if let (Literal::Number(text), true) = (literal, ty.is_int())
            && text.contains('.')
        {
            return self.number(text, span);
        }
        Some((self.adopt(literal, span, ty.of)?, ty))
    }

    /// A literal without a partner that has a type.
    fn alone(&mut self, literal: Literal<'_>, span: Span) -> Option<(Expr, Type)> {
        match literal {
            Literal::Number(text) => self.number(text, span),
            Literal::Text(_) => {
                let ty = scalar(Scalar::String);
                Some((self.adopt(literal, span, ty.of)?, ty))
            }
            Literal::Name(name) => self.unknown_name(name),
            Literal::Null => self.null_here(span),
        }
    }

    fn null_here<T>(&mut self, span: Span) -> Option<T> {
        self.error(Code::NullOperand, span, "`null` can only stand beside `==` or `!=`", "write `x == null`")
    }

    /// A number with the type that its digits ask for.
    fn number(&mut self, text: &str, span: Span) -> Option<(Expr, Type)> {
        if !text.contains('.') {
            let ty = scalar(Scalar::Int);
            return Some((self.adopt(Literal::Number(text), span, ty.of)?, ty));
        }
        let Ok(number) = text.parse::<Decimal>() else {
            return self.bad_literal(span, "Decimal", "must be a decimal number");
        };
        let digits = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let scale = digits(number.fraction_digits());
        let precision = Precision { precision: digits(number.integer_digits()).saturating_add(scale).max(1), scale };
        let ty = scalar(Scalar::Decimal(Some(precision)));
        Some((Expr::Const(ty.of, Value::Text(number.to_string())), ty))
    }

    /// A literal as a constant of the type.
    fn adopt(&mut self, literal: Literal<'_>, span: Span, of: FieldType) -> Option<Expr> {
        let wanted = type_name(self.schema, of);
        let text = match (literal, of) {
            (Literal::Null, _) => return self.null_here(span),
            (Literal::Name(name), FieldType::Enum(_)) => return self.variant(of, name),
            (Literal::Name(name), _) => return self.unknown_name(name),
            (Literal::Text(text), FieldType::Enum(_)) => {
                return self.variant(of, &Ident { name: text.to_owned(), span });
            }
            (Literal::Number(text), FieldType::Scalar(to)) if takes_number(to) => text,
            (Literal::Text(text), FieldType::Scalar(to)) if takes_text(to) => text,
            (literal, _) => {
                let found = if matches!(literal, Literal::Number(_)) { "a number" } else { "a string" };
                return self.error(
                    Code::TypeMismatch,
                    span,
                    format!("{} is expected, not {found}", a(&wanted)),
                    "there are no implicit conversions",
                );
            }
        };
        let FieldType::Scalar(to) = of else { return None };
        match value::parse_text(to, text) {
            Ok(value) => Some(Expr::Const(of, value)),
            Err(invalid) => self.bad_literal(span, &wanted, &invalid.to_string()),
        }
    }

    fn bad_literal<T>(&mut self, span: Span, wanted: &str, why: &str) -> Option<T> {
        self.error(Code::BadLiteral, span, format!("this literal is no `{wanted}`"), format!("it {why}"))
    }

    fn mismatch<T>(&mut self, left: (Type, Span), right: (Type, Span), op_span: Span) -> Option<T> {
        let (found, other) = (self.describe(left.0), self.describe(right.0));
        let message = if right.0.list && !left.0.list {
            format!("cannot look for {} in {}", a(&found), a(&other))
        } else {
            format!("cannot compare {} with {}", a(&found), a(&other))
        };
        self.report(
            Diagnostic::new(Code::TypeMismatch, op_span, message)
                .with(left.1, format!("this is {}", a(&found)))
                .with(right.1, format!("this is {}", a(&other)))
                .help("there are no implicit conversions: both sides must have the same type"),
        );
        None
    }

    /// Whether the type has an equality, and an order if the operator needs one, that both databases agree on.
    fn check_operator(&mut self, op: CompareOp, op_span: Span, ty: Type) -> Option<()> {
        let found = self.describe(ty);
        let orders = !matches!(op, CompareOp::Eq | CompareOp::Ne);
        match ty.of {
            _ if ty.list => self.error(
                Code::TypeMismatch,
                op_span,
                format!("{} cannot be compared", a(&found)),
                "lists can only be tested with `== null`",
            ),
            FieldType::Scalar(Scalar::Json) => self.error(
                Code::TypeMismatch,
                op_span,
                "a `Json` value cannot be compared",
                "it can only be tested with `== null`",
            ),
            FieldType::Enum(_) | FieldType::Scalar(Scalar::Boolean) if orders => self.error(
                Code::TypeMismatch,
                op_span,
                format!("{} has no order", a(&found)),
                "compare it with `==`, `!=` or `in`",
            ),
            _ => Some(()),
        }
    }

    /// What the database keeps must be exact on both databases without the help of the engine.
    fn check_exact(&mut self, left: &Expr, right: &Expr, decimal: bool, op_span: Span) -> Option<()> {
        let computed = |expr: &Expr| matches!(expr, Expr::Arith(..) | Expr::Neg(_));
        if !self.used.own_row_only() || (!decimal && !computed(left) && !computed(right)) {
            return Some(());
        }
        match exact::comparison(self.schema, self.row, left, right) {
            Ok(()) => Some(()),
            Err(Inexact::Wide(name)) => self.error(
                Code::InexactArithmetic,
                op_span,
                format!("`{name}` has no bounded number of digits, so SQLite cannot compute with it exactly"),
                format!(
                    "declare it as `Decimal(p, s)` with at most {} digits, or compare it as it is with a literal or with \
                     a field of the same type",
                    exact::MAX_SCALED_PRECISION
                ),
            ),
            Err(Inexact::TooLarge) => self.error(
                Code::InexactArithmetic,
                op_span,
                "this can pass 64 bits, so SQLite cannot compute it exactly",
                "use fewer digits, or the same number of digits after the point on both sides; rules have no such limit",
            ),
        }
    }

    fn membership(&mut self, value: &ast::Expr, list: &ast::Expr, op_span: Span) -> Option<Expr> {
        if let ExprKind::Select { base, name } = &list.kind
            && is_auth(base)
        {
            return self.in_claim(value, name, op_span);
        }
        let ExprKind::List(items) = &list.kind else {
            return self.error(
                Code::TypeMismatch,
                list.span,
                "a list is expected after `in`",
                "write `in [a, b]`, or `in auth().x` where `x` is a list",
            );
        };
        if items.is_empty() {
            return self.error(
                Code::WrongArguments,
                list.span,
                "nothing is in an empty list",
                "name at least one value",
            );
        }
        let tested = self.operand(value)?;
        let Operand::Typed(tested, ty) = tested else {
            return self.error(
                Code::TypeMismatch,
                value.span,
                "a field or a claim is expected before `in`",
                "write the field first: `role in [teller, manager]`",
            );
        };
        self.check_operator(CompareOp::Eq, op_span, ty)?;
        let typed: Vec<Option<Expr>> =
            items.iter().map(|item| self.element(&tested, (ty, value.span), item, op_span)).collect();
        Some(Expr::In(Box::new(tested), typed.into_iter().collect::<Option<_>>()?))
    }

    fn element(&mut self, tested: &Expr, ty: (Type, Span), item: &ast::Expr, op_span: Span) -> Option<Expr> {
        let (expr, found) = match self.operand(item)? {
            Operand::Typed(expr, found) => {
                self.not_ambiguous(ty.0, item)?;
                (expr, found)
            }
            Operand::Literal(literal, span) => self.adopt_beside(literal, span, tested, ty.0)?,
        };
        if !comparable(ty.0, found) {
            return self.mismatch(ty, (found, item.span), op_span);
        }
        self.check_exact(tested, &expr, ty.0.is_decimal() || found.is_decimal(), op_span)?;
        Some(expr)
    }

    fn in_claim(&mut self, value: &ast::Expr, name: &Ident, op_span: Span) -> Option<Expr> {
        let tested = self.operand(value);
        let (id, claim) = self.claim(name)?;
        let of = Type { of: claim.ty, list: false };
        if !claim.list {
            let found = self.describe(of);
            return self.error(
                Code::TypeMismatch,
                name.span,
                format!("`{}` is a single `{found}`, not a list", name.name),
                "compare it with `==`",
            );
        }
        self.check_operator(CompareOp::Eq, op_span, of)?;
        let (expr, ty) = match tested? {
            Operand::Typed(expr, ty) => {
                self.not_ambiguous(of, value)?;
                (expr, ty)
            }
            Operand::Literal(literal, span) => (self.adopt(literal, span, of.of)?, of),
        };
        if ty != of {
            let list = Type { list: true, ..of };
            return self.mismatch((ty, value.span), (list, name.span), op_span);
        }
        Some(Expr::InAuth(Box::new(expr), id))
    }

    // Arithmetic

    fn negated<'e>(&mut self, operand: &ast::Expr) -> Option<Operand<'e>> {
        let (expr, ty) = self.numeric(operand)?;
        Some(Operand::Typed(Expr::Neg(Box::new(expr)), ty))
    }

    fn arith<'e>(&mut self, op: ArithOp, op_span: Span, left: &ast::Expr, right: &ast::Expr) -> Option<Operand<'e>> {
        let (a, b) = (self.numeric(left), self.numeric(right));
        let ((a, a_ty), (b, b_ty)) = (a?, b?);
        let ty = match (a_ty.of, b_ty.of) {
            (a, b) if a == b => a_ty,
            _ => scalar(Scalar::Decimal(None)),
        };
        let result = Expr::Arith(op, Box::new(a), Box::new(b));
        // A comparison with zero needs nothing but the result itself.
        let zero = Expr::Const(FieldType::Scalar(Scalar::Int), Value::Int(0));
        self.check_exact(&result, &zero, true, op_span)?;
        Some(Operand::Typed(result, ty))
    }

    fn numeric(&mut self, written: &ast::Expr) -> Option<(Expr, Type)> {
        match self.operand(written)? {
            Operand::Typed(expr, ty) if !ty.list && (ty.is_int() || ty.is_decimal()) => Some((expr, ty)),
            Operand::Typed(_, ty) => {
                let found = self.describe(ty);
                self.error(
                    Code::TypeMismatch,
                    written.span,
                    format!("arithmetic needs `Int` or `Decimal`, not `{found}`"),
                    "`+`, `-` and `*` are exact; there are no implicit conversions",
                )
            }
            Operand::Literal(Literal::Text(_), span) => self.error(
                Code::TypeMismatch,
                span,
                "arithmetic needs a number, not a string",
                "write the number without quotes",
            ),
            Operand::Literal(literal, span) => self.alone(literal, span),
        }
    }
}

enum Binary {
    Compare(CompareOp),
    Arith(ArithOp),
}

fn binary(op: BinaryOp) -> Binary {
    match op {
        BinaryOp::Eq => Binary::Compare(CompareOp::Eq),
        BinaryOp::Ne => Binary::Compare(CompareOp::Ne),
        BinaryOp::Lt => Binary::Compare(CompareOp::Lt),
        BinaryOp::Le => Binary::Compare(CompareOp::Le),
        BinaryOp::Gt => Binary::Compare(CompareOp::Gt),
        BinaryOp::Ge => Binary::Compare(CompareOp::Ge),
        BinaryOp::Add => Binary::Arith(ArithOp::Add),
        BinaryOp::Sub => Binary::Arith(ArithOp::Sub),
        BinaryOp::Mul => Binary::Arith(ArithOp::Mul),
    }
}

/// `auth()` itself.
fn is_auth(expr: &ast::Expr) -> bool {
    matches!(&expr.kind, ExprKind::Call { name, args } if name.name == "auth" && args.is_empty())
}

/// Types that may be compared: the same, up to the digits of a Decimal, or Int with Decimal (both exact).
fn comparable(a: Type, b: Type) -> bool {
    a == b || (!a.list && !b.list && (a.is_decimal() || a.is_int()) && (b.is_decimal() || b.is_int()))
}

fn takes_number(scalar: Scalar) -> bool {
    matches!(scalar, Scalar::Int | Scalar::BigInt | Scalar::Float | Scalar::Decimal(_))
}

fn takes_text(scalar: Scalar) -> bool {
    !matches!(scalar, Scalar::Int | Scalar::Float | Scalar::Boolean | Scalar::Json)
}

/// A type as the author writes it.
pub(super) fn type_name(schema: &Schema, of: FieldType) -> String {
    match of {
        FieldType::Scalar(scalar) => scalar_name(scalar),
        FieldType::Enum(id) => schema.enumeration(id).name.clone(),
        FieldType::Type(id) => schema.type_def(id).name.clone(),
        FieldType::Model(id) => schema.model(id).name.clone(),
    }
}

fn scalar_name(scalar: Scalar) -> String {
    match scalar {
        Scalar::Decimal(Some(Precision { precision, scale })) => format!("Decimal({precision}, {scale})"),
        Scalar::Decimal(None) => "Decimal".to_owned(),
        other => format!("{other:?}"),
    }
}
