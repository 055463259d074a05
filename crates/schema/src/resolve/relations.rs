//! Relations: each has an owning end, which has the foreign key, and an inverse end in the other model.

use super::attributes::{self, FIELD, OnField, Place, bad};
use super::expr::type_name;
use super::names::{database_name, member};
use super::suggest::{a, listing, suggest};
use super::{Resolver, doc};
use crate::ast::{self, Ident, Modifier};
use crate::diag::{Code, Diagnostic, Span};
use crate::ir::{Default, FieldId, ModelId, ReferentialAction, Relation, RelationId, RelationKind};

/// A relation member as written.
pub(super) struct End<'a> {
    written: &'a ast::Field,
    target: ModelId,
    /// `name:`
    name: Option<String>,
    owning: Option<Owning<'a>>,
}

/// The arguments of the owning end.
struct Owning<'a> {
    fields: Vec<&'a Ident>,
    references: Vec<&'a Ident>,
    on_delete: Option<(ReferentialAction, Span)>,
    on_update: Option<(ReferentialAction, Span)>,
    span: Span,
}

const ACTIONS: [(&str, ReferentialAction); 5] = [
    ("Cascade", ReferentialAction::Cascade),
    ("Restrict", ReferentialAction::Restrict),
    ("SetNull", ReferentialAction::SetNull),
    ("SetDefault", ReferentialAction::SetDefault),
    ("NoAction", ReferentialAction::NoAction),
];

impl<'a> End<'a> {
    /// Reads the member; `None` after an error that leaves nothing to match.
    pub(super) fn read(written: &'a ast::Field, target: ModelId, diags: &mut Vec<Diagnostic>) -> Option<Self> {
        let before = diags.len();
        if let Some(first) = written.ty.args.first() {
            let message = format!("`{}` takes no arguments", written.ty.name.name);
            diags.push(Diagnostic::new(Code::BadTypeArguments, first.span, message).help("remove the parenthesis"));
        }
        let given = attributes::read(FIELD, "@", Place::Relation, &written.attributes, diags);
        let Some(given) = given.iter().find(|one| one.kind == OnField::Relation) else {
            return (diags.len() == before).then_some(Self { written, target, name: None, owning: None });
        };
        let name = match given.arg("name") {
            Some(value) => attributes::string(value, "the relation's name", diags).map(str::to_owned),
            None => None,
        };
        let fields = given.arg("fields").and_then(|value| attributes::name_list(value, "`fields:`", diags));
        let references = given.arg("references").and_then(|value| attributes::name_list(value, "`references:`", diags));
        let on_delete = given.arg("onDelete").and_then(|value| action(value, diags));
        let on_update = given.arg("onUpdate").and_then(|value| action(value, diags));
        if diags.len() > before {
            return None;
        }
        let owning = match (fields, references) {
            (Some(fields), Some(references)) => {
                Some(Owning { fields, references, on_delete, on_update, span: given.span })
            }
            (None, None) => {
                for (action, option) in [(on_delete, "onDelete"), (on_update, "onUpdate")] {
                    if let Some((_, span)) = action {
                        let message = format!("`{option}:` belongs to the end that has the foreign key");
                        diags.push(bad(span, message).help(format!(
                            "write it beside `fields:` and `references:` in `{}`",
                            written.ty.name.name
                        )));
                    }
                }
                None
            }
            (fields, _) => {
                let missing = if fields.is_some() { "references" } else { "fields" };
                let message = format!("`@relation` needs `{missing}:` as well");
                diags.push(
                    Diagnostic::new(Code::MissingArgument, given.span, message)
                        .help("write `@relation(fields: [customerId], references: [id])`"),
                );
                None
            }
        };
        (diags.len() == before).then_some(Self { written, target, name, owning })
    }

    /// The member's name.
    pub(super) fn name(&self) -> &'a str {
        &self.written.name.name
    }

    /// The own fields of the foreign key; empty for an inverse end.
    pub(super) fn field_names(&self) -> Vec<&'a str> {
        self.owning.iter().flat_map(|owning| owning.fields.iter().map(|field| field.name.as_str())).collect()
    }

    /// Where the name stands.
    pub(super) fn span(&self) -> Span {
        self.written.name.span
    }

    fn many(&self) -> bool {
        self.written.ty.modifier == Modifier::List
    }
}

fn action(value: &ast::Expr, diags: &mut Vec<Diagnostic>) -> Option<(ReferentialAction, Span)> {
    let name = attributes::name(value, "the action", diags)?;
    if let Some((_, action)) = ACTIONS.iter().find(|(word, _)| *word == name.name) {
        return Some((*action, value.span));
    }
    let words: Vec<&str> = ACTIONS.iter().map(|(word, _)| *word).collect();
    let diagnostic = bad(value.span, format!("there is no referential action `{}`", name.name));
    let known = format!("the actions are {}", listing(&words));
    diags.push(suggest(diagnostic, &name.name, words, known));
    None
}

/// A relation member by its place: model, and position in the draft.
type At = (ModelId, usize);

impl<'a> Resolver<'a> {
    pub(super) fn relations(&mut self) {
        let ends: Vec<Vec<End<'a>>> =
            self.drafts.iter_mut().map(|draft| std::mem::take(&mut draft.relations)).collect();
        let kinds = self.kinds(&ends);
        let partners = self.partners(&ends);
        // A member without a partner or with an error is left out, so that positions become ids only now.
        let sound = |at: At| {
            kinds.get(at.0.index()).and_then(|kinds| kinds.get(at.1)).is_some_and(Option::is_some)
                && partners.get(at.0.index()).and_then(|ends| ends.get(at.1)).copied().flatten().is_some()
        };
        let kept: Vec<Vec<bool>> = ends
            .iter()
            .zip(self.model_ids())
            .map(|(ends, id)| (0..ends.len()).map(|at| sound((id, at))).collect())
            .collect();
        let id_of = |(model, at): At| {
            let kept = kept.get(model.index())?;
            let before = kept.iter().take(at).filter(|kept| **kept).count();
            kept.get(at).filter(|kept| **kept)?;
            u32::try_from(before).ok().map(RelationId)
        };
        for (model, (ends, kinds)) in self.model_ids().zip(ends.iter().zip(&kinds)) {
            for (at, (end, kind)) in ends.iter().zip(kinds).enumerate() {
                let (Some(_), Some(kind)) = (id_of((model, at)), kind.clone()) else {
                    self.broken.add(model, &end.written.name.name);
                    continue;
                };
                let partner = partners.get(model.index()).and_then(|ends| ends.get(at)).copied().flatten();
                let relation = Relation {
                    name: end.written.name.name.clone(),
                    doc: doc(end.written.doc.as_ref()),
                    target: end.target,
                    inverse: partner.and_then(id_of),
                    kind,
                };
                self.model_mut(model).relations.push(relation);
            }
        }
        for (draft, ends) in self.drafts.iter_mut().zip(ends) {
            draft.relations = ends;
        }
    }

    /// The kind of each end; `None` after an error.
    fn kinds(&mut self, ends: &[Vec<End<'a>>]) -> Vec<Vec<Option<RelationKind>>> {
        let mut kinds = Vec::with_capacity(ends.len());
        for (model, ends) in self.model_ids().zip(ends) {
            kinds.push(ends.iter().map(|end| self.kind(model, end)).collect());
        }
        kinds
    }

    fn kind(&mut self, model: ModelId, end: &End<'a>) -> Option<RelationKind> {
        match (&end.owning, end.many()) {
            (Some(owning), true) => {
                let message = format!("`{}` has the foreign key, so it has one row at most", end.written.name.name);
                self.report(
                    Diagnostic::new(Code::BadRelation, owning.span, message)
                        .help("remove the `[]`, or remove `fields:` and `references:`"),
                );
                None
            }
            (Some(owning), false) => self.owning(model, end, owning),
            (None, true) => Some(RelationKind::Many),
            (None, false) => Some(RelationKind::One),
        }
    }

    fn owning(&mut self, model: ModelId, end: &End<'a>, owning: &Owning<'a>) -> Option<RelationKind> {
        // The target's names are looked up even if the own ones fail, so that both are reported.
        let fields: Vec<Option<FieldId>> = owning.fields.iter().map(|name| self.own_field(model, name)).collect();
        let references: Vec<Option<FieldId>> =
            owning.references.iter().map(|name| self.own_field(end.target, name)).collect();
        let fields: Vec<FieldId> = fields.into_iter().collect::<Option<_>>()?;
        let references: Vec<FieldId> = references.into_iter().collect::<Option<_>>()?;
        let before = self.diags.len();
        self.same_types(model, end, owning, &fields, &references);
        self.reference_identifies(end, owning, &references);
        self.optionality(model, end, &fields);
        let on_delete = self.on_delete(model, end, owning, &fields);
        let on_update = self.on_update(model, owning, &fields);
        if self.diags.len() > before {
            return None;
        }
        let of = self.schema.model(model);
        let columns = fields.iter().map(|field| of.field(*field).column.as_str());
        let constraint = database_name(std::iter::once(of.table.as_str()).chain(columns).chain(["fkey"]));
        let optional = end.written.ty.modifier == Modifier::Optional;
        Some(RelationKind::Owning { fields, references, on_delete, on_update, constraint, optional })
    }

    fn same_types(
        &mut self,
        model: ModelId,
        end: &End<'a>,
        owning: &Owning<'a>,
        fields: &[FieldId],
        references: &[FieldId],
    ) {
        if fields.len() != references.len() {
            self.report(
                Diagnostic::new(Code::BadRelation, owning.span, "`fields:` and `references:` have different lengths")
                    .help("each field of the one points to a field of the other"),
            );
            return;
        }
        let mut found = Vec::new();
        for ((field, reference), name) in fields.iter().zip(references).zip(&owning.fields) {
            let (field, reference) =
                (self.schema.model(model).field(*field), self.schema.model(end.target).field(*reference));
            if field.ty == reference.ty && !field.list && !reference.list {
                continue;
            }
            let (own, other) = (type_name(&self.schema, field.ty), type_name(&self.schema, reference.ty));
            let target = &self.schema.model(end.target).name;
            let message = if field.list || reference.list {
                format!("`{}` or `{target}.{}` is a list, and a list points to nothing", field.name, reference.name)
            } else {
                format!("`{}` is {}, but `{target}.{}` is {}", field.name, a(&own), reference.name, a(&other))
            };
            found.push(
                Diagnostic::new(Code::BadRelation, name.span, message).help("both must have exactly the same type"),
            );
        }
        self.diags.extend(found);
    }

    fn reference_identifies(&mut self, end: &End<'a>, owning: &Owning<'a>, references: &[FieldId]) {
        let target = self.schema.model(end.target);
        if target.key.is_empty() {
            return;
        }
        let names: Vec<&str> = owning.references.iter().map(|name| name.name.as_str()).collect();
        let span = owning.references.iter().map(|name| name.span).reduce(Span::to).unwrap_or(owning.span);
        let key: Vec<&str> = target.key.iter().map(|field| target.field(*field).name.as_str()).collect();
        let is_key = key.len() == references.len() && target.key.iter().all(|field| references.contains(field));
        if target.soft_delete.is_some() && !is_key {
            let message = format!("`{}` is soft-deleted, so a relation can reference nothing but its key", target.name);
            let help =
                format!("reference {}: other unique values are free again once their row is deleted", listing(&key));
            self.report(Diagnostic::new(Code::BadReference, span, message).help(help));
        } else if !self.identifies(end.target, references) {
            let message = format!("{} of `{}` can be the same in several rows", listing(&names), target.name);
            let help = if let [name] = names.as_slice() {
                format!("mark `{name}` as `@unique`, or reference the key, {}", listing(&key))
            } else {
                format!("add `@@unique([{}])` there, or reference the key, {}", names.join(", "), listing(&key))
            };
            self.report(Diagnostic::new(Code::BadReference, span, message).help(help));
        }
    }

    fn optionality(&mut self, model: ModelId, end: &End<'a>, fields: &[FieldId]) {
        let of = self.schema.model(model);
        let nullable = fields.iter().map(|field| of.field(*field)).find(|field| field.optional);
        let written = end.written;
        let diagnostic = match (written.ty.modifier == Modifier::Optional, nullable) {
            (true, None) => {
                let message = format!("`{}` is optional, but its fields are not", written.name.name);
                Diagnostic::new(Code::BadRelation, written.ty.span, message)
                    .help("make a field of it optional (`?`), or remove the `?` here")
            }
            (false, Some(field)) => {
                let message = format!("`{}` always has a row, but `{}` can be null", written.name.name, field.name);
                Diagnostic::new(Code::BadRelation, written.ty.span, message)
                    .help(format!("write `{}?`, or remove the `?` of `{}`", written.ty.name.name, field.name))
                    .fix("make the relation optional", written.ty.span.after(), "?")
            }
            _ => return,
        };
        self.report(diagnostic);
    }

    /// As Prisma does: an optional relation is cleared, a required one keeps its parent.
    fn on_delete(
        &mut self,
        model: ModelId,
        end: &End<'a>,
        owning: &Owning<'a>,
        fields: &[FieldId],
    ) -> ReferentialAction {
        let of = self.schema.model(model);
        if let Some((action, span)) = owning.on_delete {
            self.action_fits(model, "onDelete", action, span, fields);
            return action;
        }
        let clearable = fields.iter().all(|field| of.field(*field).optional) && !of.append_only;
        if end.written.ty.modifier == Modifier::Optional && clearable {
            ReferentialAction::SetNull
        } else {
            ReferentialAction::Restrict
        }
    }

    /// As Prisma does: children follow, unless they can never change.
    fn on_update(&mut self, model: ModelId, owning: &Owning<'a>, fields: &[FieldId]) -> ReferentialAction {
        match owning.on_update {
            Some((action, span)) => {
                self.action_fits(model, "onUpdate", action, span, fields);
                action
            }
            None if self.schema.model(model).append_only => ReferentialAction::Restrict,
            None => ReferentialAction::Cascade,
        }
    }

    fn action_fits(&mut self, model: ModelId, option: &str, action: ReferentialAction, span: Span, fields: &[FieldId]) {
        let of = self.schema.model(model);
        let changes = !matches!(action, ReferentialAction::Restrict | ReferentialAction::NoAction);
        if of.append_only && changes {
            let message = format!("`{}` is append-only, so nothing may delete or change its rows", of.name);
            self.report(
                Diagnostic::new(Code::BadReferentialAction, span, message)
                    .help(format!("write `{option}: Restrict`"))
                    .fix("write `Restrict`", span, "Restrict"),
            );
            return;
        }
        let unable = |test: fn(&crate::ir::Field) -> bool| {
            fields.iter().map(|field| of.field(*field)).find(|field| !test(field)).map(|field| field.name.clone())
        };
        let problem = match action {
            ReferentialAction::SetNull => unable(|field| field.optional)
                .map(|name| (format!("`{name}` cannot be null"), "make it optional (`?`)")),
            ReferentialAction::SetDefault => unable(|field| {
                field.optional || matches!(field.default, Some(Default::Value(_) | Default::DbGenerated(_)))
            })
            .map(|name| (format!("`{name}` has no default in the database"), "give it a literal `@default(..)`")),
            _ => None,
        };
        if let Some((message, help)) = problem {
            self.report(
                Diagnostic::new(Code::BadReferentialAction, span, message)
                    .help(format!("{help}, or choose another action")),
            );
        }
    }

    // Partners

    /// The other end of each end; `None` after an error.
    fn partners(&mut self, ends: &[Vec<End<'a>>]) -> Vec<Vec<Option<At>>> {
        let mut partners = Vec::with_capacity(ends.len());
        for (model, own) in self.model_ids().zip(ends) {
            let found = (0..own.len()).map(|at| self.partner(ends, (model, at))).collect();
            partners.push(found);
        }
        partners
    }

    fn partner(&mut self, ends: &[Vec<End<'a>>], (model, at): At) -> Option<At> {
        let own = ends.get(model.index())?;
        let end = own.get(at)?;
        let same = |other: &End<'a>, owning: bool, target: ModelId| {
            other.target == target && other.owning.is_some() == owning && other.name == end.name
        };
        let owning = end.owning.is_some();
        let rivals: Vec<&End<'a>> = own.iter().filter(|other| same(other, owning, end.target)).collect();
        let candidates: Vec<(usize, &End<'a>)> = ends
            .get(end.target.index())?
            .iter()
            .enumerate()
            .filter(|(position, other)| same(other, !owning, model) && (end.target, *position) != (model, at))
            .collect();
        if let [first, second, ..] = rivals.as_slice() {
            if std::ptr::eq(*second, end) {
                let diagnostic = self.ambiguous(end, first);
                self.report(diagnostic);
            }
            return None;
        }
        match candidates.as_slice() {
            [(position, other)] => {
                self.one_to_one(model, end, other)?;
                Some((end.target, *position))
            }
            // Reported over there, where two ends compete.
            [_, _, ..] => None,
            [] => {
                let diagnostic = self.no_partner(ends, model, end);
                self.diags.extend(diagnostic);
                None
            }
        }
    }

    fn ambiguous(&self, end: &End<'a>, first: &End<'a>) -> Diagnostic {
        let target = &self.schema.model(end.target).name;
        let message = match &end.name {
            None => format!("there are several relations to `{target}`, and nothing tells them apart"),
            Some(name) => format!("there are several relations named `{name}` to `{target}`"),
        };
        Diagnostic::new(Code::AmbiguousRelation, end.span(), message).with(first.span(), "the other one").help(format!(
            "give each a name, the same at both ends: `@relation(name: \"{}\", ..)`",
            end.written.name.name
        ))
    }

    /// The inverse of a one-to-one needs a foreign key that no two rows share.
    fn one_to_one(&mut self, model: ModelId, end: &End<'a>, other: &End<'a>) -> Option<()> {
        let single = |end: &End<'a>| end.owning.is_none() && !end.many();
        if single(end) && end.written.ty.modifier == Modifier::One {
            let message = format!("`{}` may have no row, so it is optional", end.written.name.name);
            self.report(
                Diagnostic::new(Code::BadRelation, end.written.ty.span, message)
                    .help(format!("write `{}?`: the foreign key is in the other model", end.written.ty.name.name))
                    .fix("make it optional", end.written.ty.span.after(), "?"),
            );
            return None;
        }
        let (Some(owning), true) = (&end.owning, single(other)) else { return Some(()) };
        let of = self.schema.model(model);
        let fields: Vec<FieldId> =
            owning.fields.iter().map(|name| of.field_named(&name.name)).collect::<Option<_>>()?;
        if self.identifies(model, &fields) {
            return Some(());
        }
        let names = end.field_names();
        let message = format!(
            "`{}` has one `{}` at most, but {} can be the same in several rows",
            self.schema.model(end.target).name,
            of.name,
            listing(&names)
        );
        let help = match names.as_slice() {
            [name] => format!("mark `{name}` as `@unique`, or write `{}[]` at the other end", of.name),
            _ => format!("add `@@unique([{}])`, or write `{}[]` at the other end", names.join(", "), of.name),
        };
        self.report(
            Diagnostic::new(Code::BadRelation, owning.span, message).with(other.span(), "the other end").help(help),
        );
        None
    }

    fn no_partner(&self, ends: &[Vec<End<'a>>], model: ModelId, end: &End<'a>) -> Option<Diagnostic> {
        let (own, target) = (self.schema.model(model), self.schema.model(end.target));
        // A broken end over there has been reported, and may be the partner.
        let suspect = self.drafts.get(end.target.index())?.record.members.iter().any(|member| match member {
            ast::Member::Field(field) => {
                field.ty.name.name == own.name && self.broken.has(end.target, &field.name.name)
            }
            _ => false,
        });
        if suspect {
            return None;
        }
        // Ends that would match but for their `name:`.
        let misnamed = ends.get(end.target.index())?.iter().find(|other| {
            other.target == model && other.owning.is_some() != end.owning.is_some() && other.name != end.name
        });
        if let Some(other) = misnamed {
            let message = format!("no relation of `{}` has the same name as `{}`", target.name, end.written.name.name);
            let label = match &other.name {
                Some(name) => format!("this one is named `{name}`"),
                None => "this one has no name".to_owned(),
            };
            return Some(
                Diagnostic::new(Code::NoInverse, end.span(), message)
                    .with(other.span(), label)
                    .help("write the same `name:` at both ends"),
            );
        }
        if end.owning.is_some() {
            return Some(self.no_inverse(model, end));
        }
        let both_many =
            end.many() && ends.get(end.target.index())?.iter().any(|other| other.target == model && other.many());
        if both_many && end.target != model {
            let message = format!("`{}` and `{}` are lists at both ends", end.written.name.name, own.name);
            return Some(
                Diagnostic::new(Code::ManyToMany, end.span(), format!("{message}, which no foreign key can hold"))
                    .help("declare a model between the two, with a relation to each"),
            );
        }
        Some(self.no_owner(model, end))
    }

    /// An owning end without its inverse; the fix writes it.
    fn no_inverse(&self, model: ModelId, end: &End<'a>) -> Diagnostic {
        let (own, target) = (self.schema.model(model), self.schema.model(end.target));
        let mut name = member(&own.name, true);
        if target.field_named(&name).is_some()
            || self.drafts.get(end.target.index()).is_some_and(|draft| {
                draft
                    .record
                    .members
                    .iter()
                    .any(|member| matches!(member, ast::Member::Field(field) if field.name.name == name))
            })
        {
            name = format!("{name}By{}", capital(&end.written.name.name));
        }
        let attribute = end.name.as_ref().map(|name| format!(" @relation(name: \"{name}\")")).unwrap_or_default();
        let line = format!("{name} {}[]{attribute}", own.name);
        let message = format!("`{}` does not declare the other end of `{}`", target.name, end.written.name.name);
        let diagnostic =
            Diagnostic::new(Code::NoInverse, end.span(), message).help(format!("add `{line}` to `{}`", target.name));
        let place = self.drafts.get(end.target.index()).and_then(|draft| {
            let mut members = draft.record.members.iter().rev();
            members.find(|member| matches!(member, ast::Member::Field(_))).map(|member| member.span().after())
        });
        match place {
            Some(place) => diagnostic.fix(format!("add `{line}`"), place, format!("\n  {line}")),
            None => diagnostic,
        }
    }

    /// An inverse end without an owning one.
    fn no_owner(&self, model: ModelId, end: &End<'a>) -> Diagnostic {
        let (own, target) = (self.schema.model(model), self.schema.model(end.target));
        if end.many() {
            let message = format!("no relation of `{}` points to `{}`", target.name, own.name);
            let name = member(&own.name, false);
            return Diagnostic::new(Code::NoOwner, end.span(), message).help(format!(
                "add to `{}`: `{name} {} @relation(fields: [{name}Id], references: [..])`",
                target.name, own.name
            ));
        }
        let message = format!("`{}` does not say which field points to `{}`", end.written.name.name, target.name);
        let diagnostic = Diagnostic::new(Code::NoOwner, end.span(), message);
        let key: Vec<&str> = target.key.iter().map(|field| target.field(*field).name.as_str()).collect();
        let field = format!("{}Id", end.written.name.name);
        let attribute = format!("@relation(fields: [{field}], references: [{}])", key.join(", "));
        if own.field_named(&field).is_some() && key.len() == 1 && end.written.attributes.is_empty() {
            return diagnostic.help(format!("add `{attribute}`")).fix(
                "add the attribute",
                end.written.span.after(),
                format!(" {attribute}"),
            );
        }
        diagnostic.help(format!("declare the foreign key and name it: `{attribute}`"))
    }
}

fn capital(name: &str) -> String {
    let mut name = name.to_owned();
    if let Some(first) = name.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    name
}
