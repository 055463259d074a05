//! All stages in a row.

use crate::ast::{Block, Tree};
use crate::diag::{Diagnostic, Span};
use crate::ir::Schema;
use crate::parse::{Parsed, parse};
use crate::resolve::resolve;

/// Compiles a schema of one file. `name` is the stem of its file name.
///
/// The schema is there if and only if no diagnostic is an error.
pub fn compile(name: &str, text: &str) -> (Option<Schema>, Vec<Diagnostic>) {
    compile_files(name, &[text])
}

/// Compiles a schema of several files, which all see each other; a span's `file` is the index into `texts`.
///
/// The schema is there if and only if no diagnostic is an error.
pub fn compile_files(name: &str, texts: &[&str]) -> (Option<Schema>, Vec<Diagnostic>) {
    let mut trees = Vec::with_capacity(texts.len());
    let mut syntax = Syntax::default();
    for (file, text) in (0..).zip(texts) {
        trees.push(syntax.add(parse(file, text)));
    }
    let (schema, meaning) = resolve(name, &trees);
    let mut found: Vec<Diagnostic> = meaning.into_iter().filter(|one| !syntax.explains(one, &trees)).collect();
    found.append(&mut syntax.found);
    found.sort_by_key(|one| (one.primary.span, one.code));
    let schema = schema.filter(|_| !found.iter().any(Diagnostic::is_error));
    (schema, found)
}

/// What the parser had to say, and what it had to leave out.
#[derive(Default)]
struct Syntax {
    found: Vec<Diagnostic>,
    damage: Vec<Span>,
    lost: Vec<String>,
}

impl Syntax {
    fn add(&mut self, parsed: Parsed) -> Tree {
        self.found.extend(parsed.found);
        self.damage.extend(parsed.damage);
        self.lost.extend(parsed.lost);
        parsed.tree
    }

    /// Whether a diagnostic of the resolver may only be there because of a syntax error: it is about the same text,
    /// it names what is missing from the trees, or it is about a whole block that lost something.
    fn explains(&self, one: &Diagnostic, trees: &[Tree]) -> bool {
        let here = one.primary.span;
        let about = |span: Span| span.file == here.file && span.start < here.end && here.start < span.end;
        if self.found.iter().any(|error| error.is_error() && about(error.primary.span)) {
            return true;
        }
        if self.damage.is_empty() {
            return false;
        }
        let words = one.message.split('`').skip(1).step_by(2);
        let named = words.flat_map(|text| text.split(|next: char| !next.is_ascii_alphanumeric() && next != '_'));
        if named.into_iter().any(|word| self.lost.iter().any(|lost| lost == word)) {
            return true;
        }
        let blocks = trees.iter().flat_map(|tree| &tree.blocks);
        let whole = blocks.filter(|block| block.name().span == here).map(Block::span);
        whole.into_iter().any(|block| {
            self.damage.iter().any(|lost| lost.file == block.file && block.start <= lost.start && lost.end <= block.end)
        })
    }
}
