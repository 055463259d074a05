//! Schemas with one attribute, or one argument of an attribute, taken out.

use std::collections::BTreeMap;

use cratestack_schema::ast::{Attribute, Block, Member, RecordKind};
use cratestack_schema::diag::Span;
use cratestack_schema::parse::parse;

/// A piece of a schema that can be deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deletion {
    /// What it is: `model field @unique`, `model @@unique(where:)`.
    pub kind: String,
    /// Octets to take out.
    pub range: std::ops::Range<usize>,
}

impl Deletion {
    /// The schema without the piece.
    pub fn apply(&self, text: &str) -> String {
        let mut out = text.to_owned();
        out.replace_range(self.range.clone(), "");
        out
    }
}

/// Every attribute of a schema, and every named argument of one.
pub fn deletions(text: &str) -> Vec<Deletion> {
    let mut finder = Finder { text, found: Vec::new() };
    let tree = parse(0, text).tree;
    for block in &tree.blocks {
        match block {
            Block::Datasource(_) => {}
            Block::Enum(one) => {
                finder.all("enum", &one.attributes);
                one.variants.iter().for_each(|variant| finder.all("variant", &variant.attributes));
            }
            Block::Record(record) => {
                let (here, field) = match record.kind {
                    RecordKind::Auth => ("auth", "auth field"),
                    RecordKind::Type => ("type", "type field"),
                    // A mixin's members are those of the models that use it.
                    RecordKind::Mixin | RecordKind::Model => ("model", "model field"),
                };
                for member in &record.members {
                    match member {
                        Member::Field(one) => finder.all(field, &one.attributes),
                        Member::Use(one) | Member::Attribute(one) => finder.attribute(here, one),
                    }
                }
            }
            Block::Procedure(one) => {
                finder.all("procedure", &one.attributes);
                one.params.iter().for_each(|param| finder.all("parameter", &param.attributes));
            }
        }
    }
    finder.found
}

struct Finder<'t> {
    text: &'t str,
    found: Vec<Deletion>,
}

impl Finder<'_> {
    fn all(&mut self, place: &str, attributes: &[Attribute]) {
        for attribute in attributes {
            self.attribute(place, attribute);
        }
    }

    fn attribute(&mut self, place: &str, attribute: &Attribute) {
        let name = &self.text[range(attribute.name.span)];
        let kind = format!("{place} {name}");
        for argument in attribute.arguments() {
            if let Some(argument_name) = &argument.name {
                let kind = format!("{kind}({}:)", argument_name.name);
                self.found.push(Deletion { kind, range: self.with_comma(range(argument.span)) });
            }
        }
        self.found.push(Deletion { kind, range: range(attribute.span) });
    }

    /// The argument and the comma after it, or the one before it.
    fn with_comma(&self, argument: std::ops::Range<usize>) -> std::ops::Range<usize> {
        let after = &self.text[argument.end..];
        let trimmed = after.trim_start();
        if trimmed.starts_with(',') {
            return argument.start..argument.end + (after.len() - trimmed.len()) + 1;
        }
        let before = self.text[..argument.start].trim_end();
        match before.strip_suffix(',') {
            Some(rest) => rest.len()..argument.end,
            None => argument,
        }
    }
}

fn range(span: Span) -> std::ops::Range<usize> {
    span.start as usize..span.end as usize
}

/// Deletions by kind, over named schemas.
pub fn by_kind<'t>(schemas: impl Iterator<Item = (&'t str, &'t str)>) -> BTreeMap<String, Vec<(&'t str, Deletion)>> {
    let mut kinds = BTreeMap::<String, Vec<(&str, Deletion)>>::new();
    for (name, text) in schemas {
        for deletion in deletions(text) {
            kinds.entry(deletion.kind.clone()).or_default().push((name, deletion));
        }
    }
    kinds
}

#[cfg(test)]
mod tests {
    use super::deletions;

    #[test]
    fn attributes_and_named_arguments_are_found() {
        let text = "model A {\n  id Int @id\n  n Int @range(min: 1, max: 2)\n  @@unique([n], where: n > 1)\n}\n";
        let found = deletions(text);
        let kinds: Vec<_> = found.iter().map(|deletion| deletion.kind.as_str()).collect();
        let field = ["model field @id", "model field @range(min:)", "model field @range(max:)", "model field @range"];
        assert_eq!(kinds[..4], field);
        assert_eq!(kinds[4..], ["model @@unique(where:)", "model @@unique"]);
        assert!(found[1].apply(text).contains("@range( max: 2)"));
        assert!(found[2].apply(text).contains("@range(min: 1)"));
        assert!(found[4].apply(text).contains("@@unique([n])"));
    }
}
