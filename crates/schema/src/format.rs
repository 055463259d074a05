//! The one layout of a `.cstack` file.
//!
//! Two spaces of indentation, one member per line, columns aligned within a run of members, at most one blank
//! line. Line breaks that the author put inside brackets stay, as do one-line blocks and all comments. The
//! printer copies tokens and never the tree, so that it cannot lose a thing; the tree says where members are.

use std::ops::Range;

use crate::ast::{Attribute, Block, Enum, Field, Member, Procedure, Record, Setting, Variant};
use crate::diag::{Diagnostic, Span};
use crate::lex::{Token, TokenKind, lex};
use crate::parse::parse_tokens;

/// One level of indentation.
const INDENT: &str = "  ";

/// A block that was written on one line stays there up to this width.
const WIDTH: usize = 100;

/// The text in its one layout; idempotent, and the same schema to the last comment.
///
/// # Errors
/// The syntax errors of a text that has some: it is left alone.
pub fn format(text: &str) -> Result<String, Vec<Diagnostic>> {
    let (tokens, found) = lex(0, text);
    let parsed = parse_tokens(0, text, (tokens.clone(), found));
    if parsed.found.iter().any(Diagnostic::is_error) {
        return Err(parsed.found);
    }
    let mut printer =
        Printer { text, tokens: &tokens, next: 0, out: String::with_capacity(text.len()), last: Last::Nothing };
    for block in &parsed.tree.blocks {
        printer.top_comments(block.span().start);
        printer.block(block);
        printer.last = Last::Block;
    }
    printer.top_comments(u32::MAX);
    Ok(printer.out)
}

/// What was printed last at the top level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Last {
    Nothing,
    Comment,
    Block,
}

struct Printer<'a> {
    text: &'a str,
    /// All tokens, comments included.
    tokens: &'a [Token],
    /// Index of the token to print.
    next: usize,
    out: String,
    last: Last,
}

/// What a line of a block holds. Only lines of the same kind share columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Comment,
    Field,
    Setting,
    Variant,
    Rule,
    Other,
}

/// A member or a comment of a block.
struct Line {
    kind: Kind,
    /// A blank line stands before it.
    blank: bool,
    /// Its columns, without padding.
    cells: Vec<String>,
    /// Further lines of a member that its author broke inside brackets, indented from the member on.
    more: Vec<String>,
    /// The comment at its end.
    comment: Option<String>,
}

impl<'a> Printer<'a> {
    fn peek(&self) -> Option<Token> {
        self.tokens.get(self.next).copied().filter(|token| token.kind != TokenKind::End)
    }

    fn text_of(&self, token: Token) -> &'a str {
        self.text.get(token.start as usize..token.end as usize).unwrap_or("").trim_end()
    }

    fn push_line(&mut self, parts: &[&str]) {
        for part in parts {
            self.out.push_str(part);
        }
        self.out.push('\n');
    }

    /// Appends a comment to the line that was printed last.
    fn append(&mut self, comment: &str) {
        if self.out.ends_with('\n') {
            self.out.pop();
        }
        self.push_line(&[" ", comment]);
    }

    // The top level.

    /// Comments between blocks, up to that position, and the blank line before what follows.
    fn top_comments(&mut self, until: u32) {
        while let Some(token) = self.peek().filter(|token| token.start < until) {
            if !is_comment(token) {
                break;
            }
            let text = self.text_of(token);
            self.next += 1;
            if token.breaks == 0 && self.last != Last::Nothing {
                self.append(text);
                continue;
            }
            self.top_gap(token);
            self.push_line(&[text]);
            self.last = Last::Comment;
        }
        if let Some(token) = self.peek() {
            self.top_gap(token);
        }
    }

    fn top_gap(&mut self, token: Token) {
        let blank = match self.last {
            Last::Nothing => false,
            Last::Comment => token.breaks > 1,
            Last::Block => true,
        };
        if blank && !self.out.ends_with("\n\n") {
            self.out.push('\n');
        }
    }

    fn block(&mut self, block: &Block) {
        match block {
            Block::Datasource(block) => self.braces(block.span, INDENT, &block.settings, Self::setting),
            Block::Enum(block) => self.enumeration(block),
            Block::Record(record) => self.record(record),
            Block::Procedure(procedure) => self.procedure(procedure),
        }
    }

    fn enumeration(&mut self, block: &Enum) {
        if block.attributes.is_empty() {
            return self.braces(block.span, " ", &block.variants, Self::variant);
        }
        let mut members: Vec<Entry<'_>> = block.variants.iter().map(Entry::Variant).collect();
        members.extend(block.attributes.iter().map(Entry::Attribute));
        members.sort_by_key(Entry::start);
        self.braces(block.span, INDENT, &members, |printer, entry| match entry {
            Entry::Variant(variant) => printer.variant(variant),
            Entry::Attribute(attribute) => printer.attribute(attribute),
        });
    }

    fn record(&mut self, record: &Record) {
        self.braces(record.span, INDENT, &record.members, |printer, member| match member {
            Member::Field(field) => printer.field(field),
            Member::Use(attribute) | Member::Attribute(attribute) => printer.attribute(attribute),
        });
    }

    /// The tokens before that position, which stand outside of brackets, on one line. Comments among them are
    /// printed first.
    fn header(&mut self, until: u32) -> Vec<String> {
        let mut hoisted = Vec::new();
        let lines = self.inline(until, &mut hoisted);
        for comment in hoisted {
            // As documentation it would now belong to the block.
            let plain = if comment.starts_with("///") { comment.get(1..).unwrap_or("") } else { comment };
            self.push_line(&[plain]);
        }
        lines
    }

    fn procedure(&mut self, procedure: &Procedure) {
        let signature = self.header(procedure.returns.span.end);
        for line in signature {
            self.push_line(&[&line]);
        }
        for attribute in &procedure.attributes {
            while let Some(token) = self.peek().filter(|token| token.start < attribute.span.start) {
                let text = self.text_of(token);
                self.next += 1;
                if token.breaks == 0 {
                    self.append(text);
                } else {
                    self.push_line(&[INDENT, text]);
                }
            }
            for line in self.inline(attribute.span.end, &mut Vec::new()) {
                self.push_line(&[INDENT, &line]);
            }
        }
    }

    /// A block in braces. `between` separates the members of a block on one line.
    fn braces<T: Spanned>(
        &mut self,
        span: Span,
        between: &str,
        members: &[T],
        mut print: impl FnMut(&mut Self, &T) -> Line,
    ) {
        let rest = self.tokens.get(self.next..).unwrap_or(&[]);
        let brace = rest.iter().find(|token| token.kind == TokenKind::LeftBrace).map_or(span.end, |token| token.start);
        let one_line = rest
            .iter()
            .take_while(|token| token.start < span.end)
            .filter(|token| token.start > brace)
            .all(|token| token.breaks == 0 && !is_comment(*token));
        let header = self.header(brace).join(" ");
        self.next += 1;

        let mut lines: Vec<Line> = Vec::with_capacity(members.len());
        let mut opening = None;
        for member in members {
            self.comments(member.start(), &mut lines, &mut opening);
            let blank = !lines.is_empty() && self.peek().is_some_and(|token| token.breaks > 1);
            let line = print(self, member);
            lines.push(Line { blank, ..line });
        }
        self.comments(span.end - 1, &mut lines, &mut opening);
        self.next += 1;

        if lines.is_empty() && opening.is_none() {
            return self.push_line(&[&header, " {}"]);
        }
        if one_line {
            let inside: Vec<String> = lines.iter().map(|line| line.cells.join(" ")).collect();
            let whole = format!("{header} {{ {} }}", inside.join(between));
            if whole.chars().count() <= WIDTH {
                return self.push_line(&[&whole]);
            }
        }
        self.push_line(&[&header, " {"]);
        if let Some(comment) = opening {
            self.append(comment);
        }
        self.print(&mut lines);
        self.push_line(&["}"]);
    }

    /// Takes the comments up to that position: at the end of the line before, or as lines of their own.
    fn comments(&mut self, until: u32, lines: &mut Vec<Line>, opening: &mut Option<&'a str>) {
        while let Some(token) = self.peek().filter(|token| token.start < until && is_comment(*token)) {
            let text = self.text_of(token);
            self.next += 1;
            match lines.last_mut() {
                Some(line) if token.breaks == 0 => line.comment = Some(text.to_owned()),
                None if token.breaks == 0 => *opening = Some(text),
                last => {
                    let blank = last.is_some() && token.breaks > 1;
                    let cells = vec![text.to_owned()];
                    lines.push(Line { kind: Kind::Comment, blank, cells, more: Vec::new(), comment: None });
                }
            }
        }
    }

    // Members.

    /// A member whose columns end at those positions; in one column if it breaks lines before the last one.
    fn columns(&mut self, kind: Kind, ends: &[u32]) -> Line {
        let start = self.next;
        let mut cells = Vec::with_capacity(ends.len());
        let mut more = Vec::new();
        for (column, end) in ends.iter().enumerate() {
            let mut lines = self.inline(*end, &mut Vec::new()).into_iter();
            cells.extend(lines.next().filter(|cell| !cell.is_empty()));
            more.extend(lines);
            if !more.is_empty() && column + 1 < ends.len() {
                self.next = start;
                return self.columns(Kind::Other, ends.get(ends.len() - 1..).unwrap_or(&[]));
            }
        }
        Line { kind, blank: false, cells, more, comment: None }
    }

    fn field(&mut self, field: &Field) -> Line {
        self.columns(Kind::Field, &[field.name.span.end, field.ty.span.end, field.span.end])
    }

    fn variant(&mut self, variant: &Variant) -> Line {
        self.columns(Kind::Variant, &[variant.name.span.end, variant.span.end])
    }

    fn setting(&mut self, setting: &Setting) -> Line {
        self.columns(Kind::Setting, &[setting.name.span.end, setting.span.end])
    }

    /// Rules on one line have two columns, the second of which starts behind the first argument.
    fn attribute(&mut self, attribute: &Attribute) -> Line {
        let broken = self
            .tokens
            .get(self.next + 1..)
            .unwrap_or(&[])
            .iter()
            .take_while(|token| token.start < attribute.span.end)
            .any(|token| token.breaks > 0);
        match (attribute.name.name.as_str(), attribute.arguments()) {
            ("allow" | "deny", [_, second, ..]) if !broken => {
                self.columns(Kind::Rule, &[second.span.start, attribute.span.end])
            }
            _ => self.columns(Kind::Other, &[attribute.span.end]),
        }
    }

    // Tokens.

    /// The tokens before that position: one line, and one more for each line break inside brackets. Comments
    /// outside of brackets go to `hoisted`.
    fn inline(&mut self, until: u32, hoisted: &mut Vec<&'a str>) -> Vec<String> {
        let mut lines = Vec::new();
        let mut line = String::new();
        // For each open bracket, the number of the line that it stands on.
        let mut open: Vec<usize> = Vec::new();
        let mut before: Option<Token> = None;
        // The token before is a sign of what follows, not an operator.
        let mut sign = false;
        while let Some(token) = self.peek().filter(|token| token.start < until) {
            self.next += 1;
            let text = self.text_of(token);
            if is_comment(token) && open.is_empty() {
                hoisted.push(text);
                continue;
            }
            let closing = |token: Token| matches!(token.kind, TokenKind::RightParen | TokenKind::RightBracket);
            if token.kind == TokenKind::Comma && self.peek().is_some_and(|next| next.breaks == 0 && closing(next)) {
                continue;
            }
            let breaks = token.breaks > 0 && !open.is_empty();
            // A closing bracket stands as deep as the line of its partner.
            let partner = if closing(token) { open.pop() } else { None };
            if breaks {
                lines.push(std::mem::take(&mut line));
                let mut levels = open.clone();
                levels.retain(|line| Some(*line) != partner);
                levels.dedup();
                line.push_str(&INDENT.repeat(levels.len()));
            } else if before.is_some_and(|before| !sign && self.spaced(before, token)) {
                line.push(' ');
            }
            line.push_str(text);
            if matches!(token.kind, TokenKind::LeftParen | TokenKind::LeftBracket) {
                open.push(lines.len());
            }
            sign = token.kind == TokenKind::Bang
                || (token.kind == TokenKind::Minus && !before.is_some_and(|before| self.ends_value(before)));
            before = Some(token);
        }
        lines.push(line);
        lines
    }

    /// Whether a space stands between two neighbours on a line.
    fn spaced(&self, before: Token, token: Token) -> bool {
        use TokenKind::{
            Attribute, BlockAttribute, Colon, Comma, Dot, Ident, LeftBracket, LeftParen, Question, RightBracket,
            RightParen,
        };
        match (before.kind, token.kind) {
            (_, Comma | Dot | Colon | Question | RightParen | RightBracket)
            | (LeftParen | LeftBracket | Dot, _)
            | (Attribute | BlockAttribute, LeftParen)
            | (RightParen, LeftBracket) => false,
            (Ident, LeftParen | LeftBracket) => self.is_operator(before),
            _ => true,
        }
    }

    /// Whether an operator after that token has it as its left operand.
    fn ends_value(&self, token: Token) -> bool {
        match token.kind {
            TokenKind::Ident => !self.is_operator(token),
            TokenKind::Number | TokenKind::String | TokenKind::RightParen | TokenKind::RightBracket => true,
            _ => false,
        }
    }

    fn is_operator(&self, token: Token) -> bool {
        matches!(self.text_of(token), "in" | "not")
    }

    // Lines.

    fn print(&mut self, lines: &mut [Line]) {
        for run in runs(lines, |line| line.kind) {
            pad_columns(lines.get_mut(run).unwrap_or(&mut []));
        }
        for run in runs(lines, |line| line.comment.is_some()) {
            pad_comments(lines.get_mut(run).unwrap_or(&mut []));
        }
        for line in lines {
            if line.blank {
                self.out.push('\n');
            }
            self.push_line(&[INDENT, &line.cells.join(" ")]);
            for more in &line.more {
                self.push_line(&[INDENT, more]);
            }
            if let Some(comment) = &line.comment {
                self.append(comment);
            }
        }
    }
}

/// The runs of lines that share columns: neighbours with the same key, up to a blank line or to a member of
/// several lines. A comment on its own line is part of the run that it stands in.
fn runs<K: PartialEq>(lines: &[Line], key: impl Fn(&Line) -> K) -> Vec<Range<usize>> {
    let mut runs = Vec::new();
    let mut start = 0;
    let mut current: Option<K> = None;
    let mut ended = false;
    for (index, line) in lines.iter().enumerate() {
        let comment = line.kind == Kind::Comment;
        let other = !comment && current.as_ref().is_some_and(|current| *current != key(line));
        if line.blank || ended || other {
            runs.push(start..index);
            start = index;
            current = None;
        }
        if !comment {
            current = Some(key(line));
        }
        ended = !line.more.is_empty();
    }
    runs.push(start..lines.len());
    runs
}

fn pad_columns(run: &mut [Line]) {
    let columns = run.iter().map(|line| line.cells.len()).max().unwrap_or(0);
    for column in 0..columns.saturating_sub(1) {
        let width = |line: &Line| line.cells.get(column).map_or(0, |cell| cell.chars().count());
        let members = run.iter().filter(|line| line.kind != Kind::Comment);
        let widest = members.map(width).max().unwrap_or(0);
        for line in run.iter_mut().filter(|line| line.cells.len() > column + 1) {
            if let Some(cell) = line.cells.get_mut(column) {
                pad(cell, widest);
            }
        }
    }
}

/// Moves the comments at the ends of the lines into one column.
fn pad_comments(run: &mut [Line]) {
    let width = |line: &Line| line.cells.iter().map(|cell| cell.chars().count() + 1).sum::<usize>();
    let single = |line: &&mut Line| line.comment.is_some() && line.more.is_empty();
    let widest = run.iter_mut().filter(single).map(|line| width(line)).max().unwrap_or(0);
    for line in run.iter_mut().filter(single) {
        let missing = widest - width(line);
        if let Some(cell) = line.cells.last_mut() {
            let own = cell.chars().count();
            pad(cell, own + missing);
        }
    }
}

fn pad(cell: &mut String, width: usize) {
    let missing = width.saturating_sub(cell.chars().count());
    cell.extend(std::iter::repeat_n(' ', missing));
}

fn is_comment(token: Token) -> bool {
    matches!(token.kind, TokenKind::Comment | TokenKind::Doc)
}

/// What a block in braces consists of.
trait Spanned {
    fn start(&self) -> u32;
}

impl Spanned for Setting {
    fn start(&self) -> u32 {
        self.span.start
    }
}

impl Spanned for Variant {
    fn start(&self) -> u32 {
        self.span.start
    }
}

impl Spanned for Member {
    fn start(&self) -> u32 {
        self.span().start
    }
}

/// A member of an enum.
enum Entry<'a> {
    Variant(&'a Variant),
    Attribute(&'a Attribute),
}

impl Spanned for Entry<'_> {
    fn start(&self) -> u32 {
        match self {
            Self::Variant(variant) => variant.span.start,
            Self::Attribute(attribute) => attribute.span.start,
        }
    }
}
