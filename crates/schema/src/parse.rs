//! Text to [`Tree`]: a recursive-descent parser that recovers, so that one run reports every error.
//!
//! A member that cannot be parsed is left out of the tree, and its text is remembered as [`Parsed::damage`].
//! Recursion happens only inside expressions and is counted; everything else is a loop.

use crate::ast::{
    Argument, Arguments, Attribute, BinaryOp, Block, Datasource, Doc, Enum, Expr, ExprKind, Field, Ident, LogicalOp,
    Member, Modifier, Procedure, Record, RecordKind, Setting, Tree, Type, UnaryOp, Variant,
};
use crate::diag::{Code, Diagnostic, Label, Span};
use crate::fuzzy::nearest;
use crate::lex::{Token, TokenKind, lex, unescape};

/// Bounds on one expression, so that every later recursion over it is safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest height of the tree.
    pub depth: usize,
    /// Largest number of nodes.
    pub nodes: usize,
}

/// Larger values of [`Limits::depth`] count as this one: it is what a thread's usual stack holds in every stage.
pub const MAX_DEPTH: usize = 128;

impl Default for Limits {
    /// The limits of a schema's own expressions.
    fn default() -> Self {
        Self { depth: 64, nodes: 10_000 }
    }
}

/// What parsing gives.
#[derive(Debug, Clone, Default)]
pub struct Parsed {
    /// Everything that could be understood.
    pub tree: Tree,
    /// Findings, in source order.
    pub found: Vec<Diagnostic>,
    /// The texts that are missing from the tree, in source order.
    pub damage: Vec<Span>,
    /// The names that may have been declared in them.
    pub lost: Vec<String>,
}

/// Parses one file; `file` goes into every span.
pub fn parse(file: u32, text: &str) -> Parsed {
    parse_tokens(file, text, lex(file, text))
}

/// [`parse`] for a text that is already cut into tokens.
pub fn parse_tokens(file: u32, text: &str, (tokens, found): (Vec<Token>, Vec<Diagnostic>)) -> Parsed {
    let mut parser = Parser::new(file, text, &tokens, found, Limits::default());
    let mut tree = Tree::default();
    while !parser.at(TokenKind::End) {
        let start = parser.next;
        if let Ok(Some(block)) = parser.block() {
            tree.blocks.push(block);
        } else {
            parser.skip_block(start);
        }
    }
    parser.stray_docs();
    let Parser { mut found, damage, lost, .. } = parser;
    found.sort_by_key(|one| (one.primary.span.start, one.code));
    Parsed { tree, found, damage, lost }
}

/// Parses a text that is one expression and nothing else (request-time `where`).
///
/// # Errors
/// The first syntax error, with spans of file 0.
pub fn parse_expression(text: &str, limits: Limits) -> Result<Expr, Diagnostic> {
    let (tokens, found) = lex(0, text);
    let mut parser = Parser::new(0, text, &tokens, found, limits);
    // Line breaks mean nothing in a text that is one expression.
    parser.brackets.push(WHOLE_TEXT);
    let parsed = parser.expression();
    if parsed.is_ok() && !parser.at(TokenKind::End) {
        parser.unexpected("an operator or the end of the expression");
    }
    let first = parser.found.into_iter().min_by_key(|one| one.primary.span.start);
    match (parsed, first) {
        (Ok(expr), None) => Ok(expr),
        (_, Some(diagnostic)) => Err(diagnostic),
        (Err(Failed), None) => {
            let span = Span { file: 0, start: 0, end: 0 };
            Err(Diagnostic::new(Code::UnexpectedToken, span, "expected an expression"))
        }
    }
}

/// Stands below all brackets when the text is one expression, and no token.
const WHOLE_TEXT: usize = usize::MAX;

/// A production gave up; the reason is reported already, and the caller recovers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Failed;

type Parse<T> = Result<T, Failed>;

/// The words that open a block.
const BLOCK_WORDS: [&str; 8] = ["auth", "datasource", "enum", "mixin", "model", "mutation", "procedure", "type"];

/// What they open.
const BLOCKS: &str =
    "the blocks are `datasource`, `enum`, `auth`, `mixin`, `type`, `model`, `procedure` and `mutation procedure`";

/// What to do where something else was expected, by the start of what was.
const HELP: &[(&str, &str)] = &[
    ("a value", "a value is a literal, a name, a call such as `now()`, or a list `[a, b]`"),
    ("`,` or `)`", "separate arguments with commas"),
    ("`,` or `]`", "separate values with commas"),
    ("a name after", "after a dot stands a field, a relation or a method"),
    ("a block", BLOCKS),
    ("`procedure` after", "only a procedure can be a `mutation`"),
    ("the name of", "a name starts with a letter, and has letters, digits and `_`"),
    ("`{` after", "the members of a block stand in braces: `model Account { .. }`"),
    ("`(` after", "write the parameters in parentheses, even if there are none: `procedure ping(): Boolean`"),
    ("`:` and the type of the answer", "every procedure has an answer: `procedure ping(): Boolean`"),
    ("`:` and the type of", "write a parameter as `name: Type`"),
    ("a parameter", "write a parameter as `name: Type`"),
    ("a type", "write `Int`, `Account`, `Decimal(18, 4)` or another type"),
    ("a setting", "the settings are `provider` and `url`, one on each line"),
    ("`=` after", "write `provider = \"postgresql\"`"),
    ("a field or an attribute", "write `name Type`, or an attribute that starts with `@@`"),
    ("a variant", "a variant is a name, with `@map(\"..\")` if it is stored as another text"),
    ("an operator or the end", "combine conditions with `&&` or `||`"),
];

struct Parser<'a> {
    file: u32,
    text: &'a str,
    /// Without comments; `breaks` counts from the token before in this list. Ends with `End`.
    tokens: Vec<Token>,
    /// Documentation, each with the index of the token that it stands before. Taken once.
    docs: Vec<(usize, Option<Doc>)>,
    /// Index of the token to read.
    next: usize,
    /// Index of each open `(` or `[`. Inside brackets, line breaks mean nothing.
    brackets: Vec<usize>,
    limits: Limits,
    /// Nesting of the expression being parsed.
    depth: usize,
    /// Nodes of the expression being parsed.
    nodes: usize,
    found: Vec<Diagnostic>,
    damage: Vec<Span>,
    lost: Vec<String>,
}

/// An expression with the height of its tree.
struct Tall {
    expr: Expr,
    height: usize,
}

impl<'a> Parser<'a> {
    fn new(file: u32, text: &'a str, all: &[Token], found: Vec<Diagnostic>, limits: Limits) -> Self {
        let limits = Limits { depth: limits.depth.min(MAX_DEPTH), ..limits };
        let mut parser = Self {
            file,
            text,
            tokens: Vec::with_capacity(all.len()),
            docs: Vec::new(),
            next: 0,
            brackets: Vec::new(),
            limits,
            depth: 0,
            nodes: 0,
            found,
            damage: Vec::new(),
            lost: Vec::new(),
        };
        let mut breaks = 0;
        for token in all {
            breaks += token.breaks;
            match token.kind {
                TokenKind::Comment => {}
                TokenKind::Doc if token.breaks == 0 && !parser.tokens.is_empty() => {
                    parser.stray(parser.span_of(*token), "it follows code on its line");
                }
                TokenKind::Doc => parser.document(*token),
                _ => {
                    parser.tokens.push(Token { breaks, ..*token });
                    breaks = 0;
                }
            }
        }
        parser
    }

    /// Adds a line of documentation to what stands before the next token.
    fn document(&mut self, token: Token) {
        let span = self.span_of(token);
        let line = self.text_of(token);
        let line = line.strip_prefix("///").unwrap_or(line);
        let line = line.strip_prefix(' ').unwrap_or(line).trim_end();
        let index = self.tokens.len();
        match self.docs.last_mut() {
            Some((at, Some(doc))) if *at == index => {
                doc.text.push('\n');
                doc.text.push_str(line);
                doc.span = doc.span.to(span);
            }
            _ => self.docs.push((index, Some(Doc { text: line.to_owned(), span }))),
        }
    }

    fn stray(&mut self, span: Span, why: &str) {
        self.found.push(
            Diagnostic::new(Code::StrayDoc, span, "this doc comment documents nothing")
                .label(why)
                .help("put it on the line above a block, field, variant or parameter, or make it a comment with `//`"),
        );
    }

    /// Reports documentation that nothing took. Where members were skipped, nobody knows.
    fn stray_docs(&mut self) {
        if self.found.iter().any(Diagnostic::is_error) {
            return;
        }
        let left: Vec<Span> = self.docs.iter().filter_map(|(_, doc)| doc.as_ref().map(|doc| doc.span)).collect();
        for span in left {
            self.stray(span, "nothing that can be documented follows");
        }
    }

    /// The documentation before the next token.
    fn doc(&mut self) -> Option<Doc> {
        let at = self.docs.binary_search_by_key(&self.next, |(index, _)| *index).ok()?;
        self.docs.get_mut(at).and_then(|(_, doc)| doc.take())
    }

    // Tokens.

    fn peek(&self) -> Token {
        self.ahead(0)
    }

    /// The token `count` places after the next one; the last one when there are not so many.
    fn ahead(&self, count: usize) -> Token {
        let end = Token { kind: TokenKind::End, start: 0, end: 0, breaks: 0 };
        self.tokens.get(self.next + count).or(self.tokens.last()).copied().unwrap_or(end)
    }

    fn at(&self, kind: TokenKind) -> bool {
        self.peek().kind == kind
    }

    fn at_word(&self, word: &str) -> bool {
        let token = self.peek();
        token.kind == TokenKind::Ident && self.text_of(token) == word
    }

    fn text_of(&self, token: Token) -> &'a str {
        self.text.get(token.start as usize..token.end as usize).unwrap_or("")
    }

    fn span_of(&self, token: Token) -> Span {
        Span { file: self.file, start: token.start, end: token.end }
    }

    fn bump(&mut self) -> Token {
        let token = self.peek();
        if token.kind != TokenKind::End {
            self.next += 1;
        }
        token
    }

    fn eat(&mut self, kind: TokenKind) -> Option<Token> {
        self.at(kind).then(|| self.bump())
    }

    /// Whether the next token belongs to the member being parsed.
    fn same_line(&self) -> bool {
        !self.brackets.is_empty() || self.peek().breaks == 0
    }

    fn eat_same_line(&mut self, kind: TokenKind) -> Option<Token> {
        if self.same_line() { self.eat(kind) } else { None }
    }

    /// The span of the token before the next one.
    fn previous(&self) -> Span {
        let token = self.next.checked_sub(1).and_then(|index| self.tokens.get(index));
        token.map_or(Span { file: self.file, start: 0, end: 0 }, |token| self.span_of(*token))
    }

    /// From the token with that index to the token before the next one.
    fn since(&self, start: usize) -> Span {
        let first = self.tokens.get(start).map_or_else(|| self.previous(), |token| self.span_of(*token));
        if start < self.next { first.to(self.previous()) } else { first }
    }

    fn ident(&mut self, what: &str) -> Parse<Ident> {
        if self.at(TokenKind::Ident) && self.same_line() {
            let token = self.bump();
            return Ok(Ident { name: self.text_of(token).to_owned(), span: self.span_of(token) });
        }
        self.unexpected(what);
        Err(Failed)
    }

    // Reports.

    fn report(&mut self, diagnostic: Diagnostic) {
        self.found.push(diagnostic);
    }

    /// What the next token is, for "found ..".
    fn found_text(&self) -> String {
        let token = self.peek();
        match token.kind {
            TokenKind::End if self.brackets.first() == Some(&WHOLE_TEXT) => "the end of the expression".to_owned(),
            TokenKind::End => "the end of the file".to_owned(),
            _ if !self.same_line() => "the end of the line".to_owned(),
            _ => format!("`{}`", shorten(self.text_of(token))),
        }
    }

    /// Where the next token was expected: at the token itself, or at the end of the line that ended too soon.
    fn found_span(&self) -> Span {
        let token = self.peek();
        if (token.kind == TokenKind::End || !self.same_line()) && self.next > 0 {
            self.previous().after()
        } else {
            self.span_of(token)
        }
    }

    /// Reports that the next token is not `expected`. Where a member starts on its line although a bracket is
    /// open, the bracket is what is wrong, and the line is read again as that member.
    fn unexpected(&mut self, expected: &str) {
        // The lexer has explained it.
        if self.at(TokenKind::Bad) && self.same_line() {
            return;
        }
        let opened = self.brackets.last().and_then(|open| self.tokens.get(*open)).copied();
        let Some(open) = opened else {
            let report = self.expected(expected);
            return self.report(report);
        };
        let line = self.line_start();
        let ended = matches!(self.peek().kind, TokenKind::End | TokenKind::RightBrace);
        if ended || (self.brackets.last().is_some_and(|open| *open < line) && self.starts_member(line)) {
            self.next = if ended { self.next } else { line };
            let written = self.text_of(open);
            let close = if written == "(" { ")" } else { "]" };
            let report =
                Diagnostic::new(Code::UnclosedBracket, self.span_of(open), format!("this `{written}` is never closed"))
                    .with(self.previous().after(), format!("`{close}` is missing here"))
                    .help(format!("close it with `{close}`"));
            return self.report(report);
        }
        let report = self.expected(expected).with(self.span_of(open), "inside this bracket");
        self.report(report);
    }

    fn expected(&self, expected: &str) -> Diagnostic {
        let message = format!("expected {expected}, found {}", self.found_text());
        let report = Diagnostic::new(Code::UnexpectedToken, self.found_span(), message);
        match HELP.iter().find(|(start, _)| expected.starts_with(start)) {
            Some((_, help)) => report.help(*help),
            None => report,
        }
    }

    /// Index of the first token on the line of the next one.
    fn line_start(&self) -> usize {
        let before = self.tokens.get(..=self.next).unwrap_or(&[]);
        before.iter().rposition(|token| token.breaks > 0).unwrap_or(0)
    }

    // Blocks.

    /// One declaration. `None`: reported, and nothing was consumed that the caller has to skip beyond.
    fn block(&mut self) -> Parse<Option<Block>> {
        self.brackets.clear();
        let start = self.next;
        let token = self.peek();
        match token.kind {
            TokenKind::Ident => {}
            TokenKind::Attribute | TokenKind::BlockAttribute => {
                let written = self.text_of(token);
                let message = format!("`{written}` stands outside of a block");
                let help = if token.kind == TokenKind::BlockAttribute && self.after_procedure(start) {
                    "attributes of a procedure have one `@`"
                } else {
                    "attributes stand in a model, or after a procedure's signature"
                };
                self.report(Diagnostic::new(Code::MisplacedAttribute, self.span_of(token), message).help(help));
                return Err(Failed);
            }
            TokenKind::RightBrace => {
                let report = Diagnostic::new(Code::UnclosedBracket, self.span_of(token), "this `}` closes nothing")
                    .help("remove it, or look for a `{` that is missing above")
                    .fix("remove it", self.span_of(token), "");
                self.report(report);
                return Err(Failed);
            }
            _ => {
                self.unexpected("a block");
                return Err(Failed);
            }
        }
        let doc = self.doc();
        self.bump();
        match self.block_word(token)? {
            "datasource" => self.datasource(start, doc).map(|block| Some(Block::Datasource(block))),
            "enum" => self.enumeration(start, doc).map(|block| Some(Block::Enum(block))),
            "auth" => self.record(start, doc, RecordKind::Auth).map(|block| Some(Block::Record(block))),
            "mixin" => self.record(start, doc, RecordKind::Mixin).map(|block| Some(Block::Record(block))),
            "type" => self.record(start, doc, RecordKind::Type).map(|block| Some(Block::Record(block))),
            "model" => self.record(start, doc, RecordKind::Model).map(|block| Some(Block::Record(block))),
            "mutation" => {
                if !self.at_word("procedure") {
                    self.unexpected("`procedure` after `mutation`");
                    return Err(Failed);
                }
                self.bump();
                self.procedure(start, doc, true).map(|block| Some(Block::Procedure(block)))
            }
            _ => self.procedure(start, doc, false).map(|block| Some(Block::Procedure(block))),
        }
    }

    /// The block word that `token` is, or is certainly meant to be.
    fn block_word(&mut self, token: Token) -> Parse<&'static str> {
        let written = self.text_of(token);
        if let Some(word) = BLOCK_WORDS.iter().find(|word| **word == written) {
            return Ok(word);
        }
        let span = self.span_of(token);
        let report = Diagnostic::new(Code::UnknownBlock, span, format!("`{}` opens no block", shorten(written)));
        let report = report.label("unknown word");
        if let Some(word) = nearest(written, BLOCK_WORDS) {
            let help = format!("did you mean `{word}`?");
            self.report(report.help(help).fix(format!("write `{word}`"), span, word));
            return Ok(word);
        }
        self.report(report.help(BLOCKS));
        Err(Failed)
    }

    /// Whether the tokens before `index` look like the end of a procedure's signature or attributes.
    fn after_procedure(&self, index: usize) -> bool {
        let before = self.tokens.get(..index).unwrap_or(&[]);
        let last = before.iter().rev().find(|token| {
            matches!(token.kind, TokenKind::RightBrace)
                || (token.kind == TokenKind::Ident && self.text_of(**token) == "procedure")
        });
        last.is_some_and(|token| token.kind == TokenKind::Ident)
    }

    /// Skips what is left of a block that could not be parsed; at least one token.
    fn skip_block(&mut self, start: usize) {
        if self.next == start {
            self.bump();
        }
        let mut open = 0_usize;
        while !self.at(TokenKind::End) {
            if self.peek().breaks > 0 && self.starts_block() {
                break;
            }
            match self.bump().kind {
                TokenKind::LeftBrace => open += 1,
                TokenKind::RightBrace if open <= 1 => break,
                TokenKind::RightBrace => open -= 1,
                _ => {}
            }
        }
        self.give_up(start);
    }

    /// Remembers that the tokens from that index on are missing from the tree, and the names that they may declare:
    /// those at the start of a line, and those before a brace.
    fn give_up(&mut self, start: usize) {
        for (index, token) in self.tokens.iter().enumerate().take(self.next).skip(start) {
            let second = self.tokens.get(index + 1).map(|token| token.kind);
            let declares = index == start || token.breaks > 0 || second == Some(TokenKind::LeftBrace);
            if token.kind == TokenKind::Ident && declares {
                self.lost.push(self.text_of(*token).to_owned());
            }
        }
        self.damage.push(self.since(start));
    }

    /// Whether a new block certainly starts at the next token, even inside a block that was never closed.
    fn starts_block(&self) -> bool {
        let kinds = |count: usize| self.ahead(count).kind;
        let word = self.text_of(self.peek());
        if self.peek().kind != TokenKind::Ident || kinds(1) != TokenKind::Ident || self.ahead(1).breaks > 0 {
            return false;
        }
        match word {
            "mutation" => self.text_of(self.ahead(1)) == "procedure" && kinds(2) == TokenKind::Ident,
            "procedure" => {
                kinds(2) == TokenKind::LeftParen
                    && (kinds(3) == TokenKind::RightParen
                        || (kinds(3) == TokenKind::Ident && kinds(4) == TokenKind::Colon))
            }
            word => BLOCK_WORDS.contains(&word) && kinds(2) == TokenKind::LeftBrace,
        }
    }

    /// `{`, members, `}`. A member that fails is skipped.
    fn braces(&mut self, what: &str, mut member: impl FnMut(&mut Self) -> Parse<()>) -> Parse<()> {
        if !self.at(TokenKind::LeftBrace) {
            self.unexpected(&format!("`{{` after the name of the {what}"));
            return Err(Failed);
        }
        let open = self.bump();
        loop {
            if self.eat(TokenKind::RightBrace).is_some() {
                return Ok(());
            }
            if self.at(TokenKind::End) || (self.peek().breaks > 0 && self.starts_block()) {
                let report = Diagnostic::new(
                    Code::UnclosedBracket,
                    self.span_of(open),
                    format!("the `{{` of this {what} is never closed"),
                );
                let end = self.previous().after();
                self.report(report.with(end, "`}` is missing here").help("close the block with `}`"));
                return Ok(());
            }
            let start = self.next;
            self.brackets.clear();
            if member(self).is_err() {
                self.skip_member(start);
            } else {
                self.foreign_separator();
            }
        }
    }

    /// `a Int,` or `teller, manager`: reported, and no harm done.
    fn foreign_separator(&mut self) {
        if let Some(comma) = self.eat(TokenKind::Comma) {
            let span = self.span_of(comma);
            self.report(
                Diagnostic::new(Code::UnexpectedToken, span, "expected the next member, found `,`")
                    .help("members are separated by line breaks")
                    .fix("remove it", span, ""),
            );
        }
    }

    /// Skips to the next member: a token at the start of a line, outside of brackets that the member opened, or
    /// one that certainly starts a member.
    fn skip_member(&mut self, start: usize) {
        let mut brackets = self.brackets.len();
        let mut braces = 0_usize;
        let mut first = self.next == start;
        while !self.at(TokenKind::End) {
            let token = self.peek();
            if token.breaks > 0 && !first && braces == 0 && (brackets == 0 || self.starts_member(self.next)) {
                break;
            }
            match token.kind {
                TokenKind::LeftBrace => braces += 1,
                TokenKind::RightBrace if braces == 0 => break,
                TokenKind::RightBrace => braces -= 1,
                TokenKind::LeftParen | TokenKind::LeftBracket => brackets += 1,
                TokenKind::RightParen | TokenKind::RightBracket => brackets = brackets.saturating_sub(1),
                _ => {}
            }
            self.bump();
            first = false;
        }
        self.give_up(start);
    }

    /// Whether a member certainly starts at the token with that index, even inside a bracket.
    fn starts_member(&self, index: usize) -> bool {
        let Some(token) = self.tokens.get(index) else { return false };
        match token.kind {
            TokenKind::BlockAttribute => true,
            TokenKind::Attribute => self.text_of(*token) == "@use",
            // Types start with a capital letter; in an expression no name follows a name.
            TokenKind::Ident => self.tokens.get(index + 1).is_some_and(|second| {
                second.kind == TokenKind::Ident
                    && second.breaks == 0
                    && self.text_of(*second).starts_with(|first: char| first.is_ascii_uppercase())
            }),
            _ => false,
        }
    }

    fn datasource(&mut self, start: usize, doc: Option<Doc>) -> Parse<Datasource> {
        let name = self.ident("the name of the datasource")?;
        let mut settings = Vec::new();
        self.braces("datasource", |parser| {
            settings.push(parser.setting()?);
            Ok(())
        })?;
        Ok(Datasource { doc, name, settings, span: self.since(start) })
    }

    fn setting(&mut self) -> Parse<Setting> {
        let name = self.member_name("a setting such as `provider = \"postgresql\"`")?;
        if self.eat_same_line(TokenKind::Assign).is_none() {
            self.unexpected(&format!("`=` after `{}`", shorten(&name.name)));
            return Err(Failed);
        }
        let value = self.expression()?;
        let span = name.span.to(value.span);
        Ok(Setting { name, value, span })
    }

    /// A name at the start of a member, where line breaks before it are free.
    fn member_name(&mut self, what: &str) -> Parse<Ident> {
        match self.eat(TokenKind::Ident) {
            Some(token) => Ok(Ident { name: self.text_of(token).to_owned(), span: self.span_of(token) }),
            None if self.at(TokenKind::Bad) => Err(Failed),
            None => {
                let token = self.peek();
                let message = format!("expected {what}, found `{}`", shorten(self.text_of(token)));
                let report = self.expected(what);
                let primary = Label { span: self.span_of(token), text: String::new() };
                self.report(Diagnostic { message, primary, ..report });
                Err(Failed)
            }
        }
    }

    fn enumeration(&mut self, start: usize, doc: Option<Doc>) -> Parse<Enum> {
        let name = self.ident("the name of the enum")?;
        let mut variants = Vec::new();
        let mut attributes = Vec::new();
        self.braces("enum", |parser| {
            if parser.at(TokenKind::BlockAttribute) {
                attributes.push(parser.attribute()?);
                return Ok(());
            }
            let doc = parser.doc();
            let name = parser.member_name("a variant")?;
            let start = parser.next - 1;
            let attributes = parser.attributes()?;
            variants.push(Variant { doc, name, attributes, span: parser.since(start) });
            Ok(())
        })?;
        Ok(Enum { doc, name, variants, attributes, span: self.since(start) })
    }

    fn record(&mut self, start: usize, doc: Option<Doc>, kind: RecordKind) -> Parse<Record> {
        let name = self.ident(&format!("the name of the {}", kind.word()))?;
        let mut members = Vec::new();
        let brace = self.next;
        let mut after_field = false;
        self.braces(kind.word(), |parser| {
            let member = parser.member(after_field && !parser.one_line(brace))?;
            after_field = matches!(member, Member::Field(_));
            members.push(member);
            Ok(())
        })?;
        Ok(Record { doc, kind, name, members, span: self.since(start) })
    }

    /// Whether no line ended between the token with that index and the next one.
    fn one_line(&self, index: usize) -> bool {
        self.tokens.get(index + 1..=self.next).unwrap_or(&[]).iter().all(|token| token.breaks == 0)
    }

    /// A member of a record. `strict`: a `@@` attribute must stand on a line of its own.
    fn member(&mut self, strict: bool) -> Parse<Member> {
        let token = self.peek();
        let written = self.text_of(token);
        match token.kind {
            TokenKind::BlockAttribute if strict && token.breaks == 0 => {
                let single = written.strip_prefix('@').unwrap_or(written);
                let report = Diagnostic::new(
                    Code::MisplacedAttribute,
                    self.span_of(token),
                    format!("`{written}` stands on the line of a field"),
                );
                self.report(
                    report.help(format!("write `{single}` for the field, or put `{written}` on a line of its own")),
                );
                Err(Failed)
            }
            TokenKind::BlockAttribute => self.attribute().map(Member::Attribute),
            TokenKind::Attribute if written == "@use" => self.attribute().map(Member::Use),
            TokenKind::Attribute => {
                let span = self.span_of(token);
                let report =
                    Diagnostic::new(Code::MisplacedAttribute, span, format!("`{written}` belongs to no field"));
                let report = match nearest(written, ["@use"]) {
                    Some(meant) => {
                        report.help(format!("did you mean `{meant}`?")).fix(format!("write `{meant}`"), span, meant)
                    }
                    None => {
                        report.help("attributes of a field stand on its line; those of the whole block start with `@@`")
                    }
                };
                self.report(report);
                Err(Failed)
            }
            _ => {
                let doc = self.doc();
                let name = self.member_name("a field or an attribute")?;
                self.field(doc, name).map(Member::Field)
            }
        }
    }

    /// A field, from behind its name.
    fn field(&mut self, doc: Option<Doc>, name: Ident) -> Parse<Field> {
        if let Some(colon) = self.eat_same_line(TokenKind::Colon) {
            let span = self.span_of(colon);
            self.report(
                Diagnostic::new(
                    Code::UnexpectedToken,
                    span,
                    format!("expected the type of `{}`, found `:`", shorten(&name.name)),
                )
                .help("a field is written without a colon: `name Type`")
                .fix("remove it", span, ""),
            );
        }
        if !self.at(TokenKind::Ident) || !self.same_line() {
            return self.missing_type(&name);
        }
        let start = name.span;
        let ty = self.field_type()?;
        let attributes = self.attributes()?;
        let span = start.to(self.previous());
        Ok(Field { doc, name, ty, attributes, span })
    }

    fn missing_type(&mut self, name: &Ident) -> Parse<Field> {
        if self.at(TokenKind::Bad) && self.same_line() {
            return Err(Failed);
        }
        let written = shorten(&name.name);
        let report = Diagnostic::new(Code::MissingType, name.span, format!("the field `{written}` has no type"))
            .label("a type is missing after this name");
        let before = self.next.checked_sub(2).and_then(|index| self.tokens.get(index));
        let continues = self.tokens.get(self.next.saturating_sub(1)).is_some_and(|token| token.breaks == 0)
            && before.is_some_and(|token| token.kind != TokenKind::LeftBrace);
        let help = if continues {
            format!("write `name Type`, or `@{written}` if an attribute is meant")
        } else {
            format!("write `{written} String`, or another type")
        };
        self.report(report.help(help));
        Err(Failed)
    }

    fn field_type(&mut self) -> Parse<Type> {
        let name = self.ident("a type")?;
        let start = name.span;
        let args = if self.at(TokenKind::LeftParen) && self.same_line() { self.arguments()?.items } else { Vec::new() };
        let modifier = self.modifier(&name)?;
        Ok(Type { name, args, modifier, span: start.to(self.previous()) })
    }

    fn modifier(&mut self, name: &Ident) -> Parse<Modifier> {
        let start = self.next;
        let mut seen = Vec::new();
        loop {
            if self.eat_same_line(TokenKind::Question).is_some() {
                seen.push(Modifier::Optional);
            } else if self.at(TokenKind::LeftBracket) && self.same_line() {
                let open = self.bump();
                if self.eat(TokenKind::RightBracket).is_none() {
                    let message = format!("expected `]`, found {}", self.found_text());
                    let report = Diagnostic::new(Code::UnexpectedToken, self.found_span(), message);
                    self.report(
                        report
                            .with(self.span_of(open), "opened here")
                            .help(format!("a list is written `{}[]`, without a size", shorten(&name.name))),
                    );
                    return Err(Failed);
                }
                seen.push(Modifier::List);
            } else if let Some(bang) = self.eat_same_line(TokenKind::Bang) {
                let span = self.span_of(bang);
                self.report(
                    Diagnostic::new(Code::BadModifier, span, "a type has no `!`")
                        .help("a field must have a value unless its type ends in `?`")
                        .fix("remove it", span, ""),
                );
            } else {
                break;
            }
        }
        match seen.as_slice() {
            [] => Ok(Modifier::One),
            [one] => Ok(*one),
            [first, ..] => {
                let list = seen.contains(&Modifier::List);
                let help = if list {
                    "a list is never absent, only empty: use `[]` alone; lists of lists do not exist"
                } else {
                    "one `?` is enough"
                };
                let report =
                    Diagnostic::new(Code::BadModifier, self.since(start), "a type has one `?` or one `[]`, not more");
                self.report(report.help(help));
                Ok(*first)
            }
        }
    }

    /// `@x @y(..)` on the line of what they belong to.
    fn attributes(&mut self) -> Parse<Vec<Attribute>> {
        let mut attributes = Vec::new();
        while self.at(TokenKind::Attribute) && self.same_line() {
            attributes.push(self.attribute()?);
        }
        Ok(attributes)
    }

    fn attribute(&mut self) -> Parse<Attribute> {
        let start = self.next;
        let token = self.bump();
        let name = Ident { name: self.text_of(token).trim_start_matches('@').to_owned(), span: self.span_of(token) };
        let args = if self.at(TokenKind::LeftParen) && self.same_line() { Some(self.arguments()?) } else { None };
        Ok(Attribute { name, args, span: self.since(start) })
    }

    fn procedure(&mut self, start: usize, doc: Option<Doc>, mutation: bool) -> Parse<Procedure> {
        let name = self.ident("the name of the procedure")?;
        if !self.at(TokenKind::LeftParen) {
            self.unexpected(&format!("`(` after `{}`", shorten(&name.name)));
            return Err(Failed);
        }
        let params = self.params()?;
        if self.eat(TokenKind::Colon).is_none() {
            self.unexpected("`:` and the type of the answer");
            return Err(Failed);
        }
        let returns = self.field_type()?;
        let mut attributes = Vec::new();
        while self.at(TokenKind::Attribute) {
            attributes.push(self.attribute()?);
        }
        Ok(Procedure { doc, mutation, name, params, returns, attributes, span: self.since(start) })
    }

    fn params(&mut self) -> Parse<Vec<Field>> {
        self.brackets.push(self.next);
        self.bump();
        let mut params = Vec::new();
        while !self.at(TokenKind::RightParen) {
            let doc = self.doc();
            let name = self.ident("a parameter or `)`")?;
            let start = name.span;
            if self.eat(TokenKind::Colon).is_none() {
                self.unexpected(&format!("`:` and the type of `{}`", shorten(&name.name)));
                return Err(Failed);
            }
            let ty = self.field_type()?;
            let attributes = self.attributes()?;
            params.push(Field { doc, name, ty, attributes, span: start.to(self.previous()) });
            self.comma(TokenKind::RightParen)?;
        }
        self.bump();
        self.brackets.pop();
        Ok(params)
    }

    /// After an item of a list: `,`, or the closing bracket, which stays.
    fn comma(&mut self, closing: TokenKind) -> Parse<()> {
        if self.eat(TokenKind::Comma).is_some() || self.at(closing) {
            return Ok(());
        }
        self.unexpected(if closing == TokenKind::RightParen { "`,` or `)`" } else { "`,` or `]`" });
        Err(Failed)
    }

    /// `(`, values with or without names, `)`.
    fn arguments(&mut self) -> Parse<Arguments> {
        let start = self.next;
        self.brackets.push(start);
        self.bump();
        let mut items = Vec::new();
        while !self.at(TokenKind::RightParen) {
            items.push(self.argument()?);
            self.comma(TokenKind::RightParen)?;
        }
        self.bump();
        self.brackets.pop();
        Ok(Arguments { items, span: self.since(start) })
    }

    fn argument(&mut self) -> Parse<Argument> {
        let start = self.next;
        let name = if self.at(TokenKind::Ident) && self.ahead(1).kind == TokenKind::Colon {
            let name = self.ident("a name")?;
            self.bump();
            Some(name)
        } else {
            None
        };
        let value = self.expression()?;
        Ok(Argument { name, value, span: self.since(start) })
    }

    // Expressions.

    /// A whole expression, with fresh counts of depth and nodes.
    fn expression(&mut self) -> Parse<Expr> {
        self.depth = 0;
        self.nodes = 0;
        self.binary(Level::Or).map(|tall| tall.expr)
    }

    /// Makes a node above children of that height, within the limits.
    fn node(&mut self, kind: ExprKind, span: Span, below: usize) -> Parse<Tall> {
        self.count(span)?;
        let height = below + 1;
        if height > self.limits.depth {
            return self.too_deep(span);
        }
        Ok(Tall { expr: Expr { kind, span }, height })
    }

    /// Counts one more node.
    fn count(&mut self, span: Span) -> Parse<()> {
        self.nodes += 1;
        if self.nodes <= self.limits.nodes {
            return Ok(());
        }
        let message = format!("the expression has more than {} parts", self.limits.nodes);
        self.report(Diagnostic::new(Code::ExpressionTooLarge, span.first(), message).help("write a smaller one"));
        Err(Failed)
    }

    fn too_deep<T>(&mut self, span: Span) -> Parse<T> {
        let message = format!("the expression is nested more than {} levels deep", self.limits.depth);
        self.report(
            Diagnostic::new(Code::ExpressionTooDeep, span.first(), message)
                .help("write a flatter expression, or split it over several rules"),
        );
        Err(Failed)
    }

    /// Runs `inner` one level deeper; the only way that this parser recurses.
    fn deeper<T>(&mut self, inner: impl FnOnce(&mut Self) -> Parse<T>) -> Parse<T> {
        if self.depth >= self.limits.depth {
            let span = self.span_of(self.peek());
            return self.too_deep(span);
        }
        self.depth += 1;
        let result = inner(self);
        self.depth -= 1;
        result
    }

    /// The operator that the next token is, if it binds at least as strongly as `min`. Nothing is consumed.
    fn operator(&mut self, min: Level) -> Parse<Option<Found>> {
        if !self.same_line() {
            return Ok(None);
        }
        let token = self.peek();
        let written = self.text_of(token);
        let second = self.ahead(1);
        let known = |text: &str| OPERATORS.iter().find(|(word, _)| *word == text).map(|(_, operator)| *operator);
        let found = if token.kind == TokenKind::Ident
            && matches!(written, "not" | "NOT")
            && second.kind == TokenKind::Ident
            && self.text_of(second).eq_ignore_ascii_case("in")
        {
            let exact = written == "not" && self.text_of(second) == "in";
            let meant = if exact { None } else { Some("not in") };
            Some(Found { operator: Operator::In { negated: true }, tokens: 2, meant })
        } else if let Some(operator) = known(written) {
            Some(Found { operator, tokens: 1, meant: None })
        } else if let Some((_, meant, why)) = FOREIGN.iter().find(|(text, ..)| *text == written) {
            match known(meant) {
                Some(operator) => Some(Found { operator, tokens: 1, meant: Some(meant) }),
                None => return self.foreign_operator(token, why),
            }
        } else {
            None
        };
        Ok(found.filter(|found| found.operator.level() >= min))
    }

    fn foreign_operator<T>(&mut self, token: Token, why: &str) -> Parse<T> {
        let message = format!("`{}` is not an operator here", self.text_of(token));
        self.report(Diagnostic::new(Code::ForeignOperator, self.span_of(token), message).help(why));
        Err(Failed)
    }

    /// Consumes an operator. One of another language is reported and read as what it means.
    fn take_operator(&mut self, found: Found) -> Span {
        let start = self.next;
        for _ in 0..found.tokens {
            self.bump();
        }
        let span = self.since(start);
        if let Some(meant) = found.meant {
            let written = span.slice(self.text);
            let report = Diagnostic::new(Code::ForeignOperator, span, format!("`{written}` is not an operator here"));
            self.report(report.help(format!("write `{meant}`")).fix(format!("write `{meant}`"), span, meant));
        }
        span
    }

    /// Operators of at least that level, with their operands.
    fn binary(&mut self, min: Level) -> Parse<Tall> {
        let mut left = self.unary()?;
        let mut compared: Option<Span> = None;
        while let Some(found) = self.operator(min)? {
            let op_span = self.take_operator(found);
            let level = found.operator.level();
            let first = if level == Level::Compare { compared.replace(op_span) } else { None };
            let middle = middle(&left.expr);
            left = match found.operator {
                Operator::Logical(op) => self.logical(op, left)?,
                Operator::Binary(op) => {
                    let right = self.deeper(|parser| parser.binary(level.above()))?;
                    let span = left.expr.span.to(right.expr.span);
                    let below = left.height.max(right.height);
                    let (left, right) = (Box::new(left.expr), Box::new(right.expr));
                    self.node(ExprKind::Binary { op, op_span, left, right }, span, below)?
                }
                Operator::In { negated } => {
                    let list = self.deeper(|parser| parser.binary(level.above()))?;
                    let span = left.expr.span.to(list.expr.span);
                    let below = left.height.max(list.height);
                    let (value, list) = (Box::new(left.expr), Box::new(list.expr));
                    self.node(ExprKind::In { negated, op_span, value, list }, span, below)?
                }
            };
            if let Some(first) = first {
                self.chained(left.expr.span, first, op_span, middle);
            }
        }
        Ok(left)
    }

    /// The rest of `first && b && c`, from behind the first operator: one node, however long the chain.
    fn logical(&mut self, op: LogicalOp, first: Tall) -> Parse<Tall> {
        let level = Operator::Logical(op).level();
        let mut height = first.height;
        let mut span = first.expr.span;
        let mut operands = vec![first.expr];
        loop {
            let next = self.deeper(|parser| parser.binary(level.above()))?;
            height = height.max(next.height);
            span = span.to(next.expr.span);
            operands.push(next.expr);
            match self.operator(level)? {
                Some(found) if found.operator == Operator::Logical(op) => {
                    self.take_operator(found);
                }
                _ => return self.node(ExprKind::Logical { op, operands }, span, height),
            }
        }
    }

    fn chained(&mut self, whole: Span, first: Span, second: Span, middle: Option<Span>) {
        let report = Diagnostic::new(Code::ChainedComparison, whole, "comparisons cannot stand in a row")
            .with(first, "the first comparison")
            .with(second, "the second comparison")
            .help("write `a < b && b < c`, or use parentheses");
        let ordered = |span: Span| matches!(span.slice(self.text), "<" | "<=" | ">" | ">=");
        let report = match middle.map(|middle| middle.slice(self.text)) {
            Some(middle) if ordered(first) && ordered(second) => {
                report.fix("compare twice", second.before(), format!("&& {middle} "))
            }
            _ => report,
        };
        self.report(report);
    }

    fn unary(&mut self) -> Parse<Tall> {
        let token = self.peek();
        let op = match token.kind {
            _ if !self.same_line() => None,
            TokenKind::Bang => Some(UnaryOp::Not),
            TokenKind::Minus => Some(UnaryOp::Neg),
            TokenKind::Ident if matches!(self.text_of(token), "not" | "NOT") && self.operand_follows() => {
                let span = self.span_of(token);
                let message = format!("`{}` is not an operator here", self.text_of(token));
                let report = Diagnostic::new(Code::ForeignOperator, span, message);
                self.report(report.help("write `!`, and `not` before `in` alone"));
                Some(UnaryOp::Not)
            }
            _ => None,
        };
        let Some(op) = op else { return self.postfix() };
        self.bump();
        let op_span = self.span_of(token);
        if op == UnaryOp::Neg && self.at(TokenKind::Number) && self.same_line() {
            let number = self.bump();
            let text = format!("-{}", self.text_of(number));
            return self.node(ExprKind::Number(text), op_span.to(self.span_of(number)), 0);
        }
        let operand = self.deeper(Self::unary)?;
        let span = op_span.to(operand.expr.span);
        self.node(ExprKind::Unary { op, op_span, operand: Box::new(operand.expr) }, span, operand.height)
    }

    /// Whether the token after the next one starts an operand, so that the next one is no field named `not`.
    fn operand_follows(&self) -> bool {
        let second = self.ahead(1);
        match second.kind {
            TokenKind::Ident => !matches!(self.text_of(second), "in" | "not"),
            TokenKind::LeftParen | TokenKind::Bang | TokenKind::Number | TokenKind::String => true,
            _ => false,
        }
    }

    /// A value and what follows it after dots.
    fn postfix(&mut self) -> Parse<Tall> {
        let mut base = self.primary()?;
        while self.at(TokenKind::Dot) && self.same_line() {
            self.bump();
            let name = self.ident("a name after `.`")?;
            let span = base.expr.span.to(name.span);
            if self.at(TokenKind::LeftParen) && self.same_line() {
                let start = self.next;
                let (args, below) = self.items(TokenKind::RightParen)?;
                let span = span.to(self.since(start));
                let below = below.max(base.height);
                base = self.node(ExprKind::Method { base: Box::new(base.expr), name, args }, span, below)?;
            } else if let ExprKind::Path(names) = &mut base.expr.kind {
                names.push(name);
                base.expr.span = span;
                self.count(span)?;
            } else {
                base = self.node(ExprKind::Select { base: Box::new(base.expr), name }, span, base.height)?;
            }
        }
        Ok(base)
    }

    fn primary(&mut self) -> Parse<Tall> {
        if !self.same_line() {
            self.unexpected("a value");
            return Err(Failed);
        }
        let token = self.peek();
        let span = self.span_of(token);
        let written = self.text_of(token);
        let kind = match token.kind {
            TokenKind::Number => ExprKind::Number(written.to_owned()),
            TokenKind::String => ExprKind::String(unescape(written)),
            TokenKind::Ident => match written {
                "true" => ExprKind::Bool(true),
                "false" => ExprKind::Bool(false),
                "null" => ExprKind::Null,
                _ => return self.name(),
            },
            TokenKind::LeftBracket => {
                let start = self.next;
                let (items, below) = self.items(TokenKind::RightBracket)?;
                return self.node(ExprKind::List(items), self.since(start), below);
            }
            TokenKind::LeftParen => return self.parenthesis(),
            _ => {
                self.unexpected("a value");
                return Err(Failed);
            }
        };
        self.bump();
        self.node(kind, span, 0)
    }

    /// A name, or a call of a function with that name.
    fn name(&mut self) -> Parse<Tall> {
        let start = self.next;
        let name = self.ident("a name")?;
        if self.at(TokenKind::LeftParen) && self.same_line() {
            let (args, below) = self.items(TokenKind::RightParen)?;
            return self.node(ExprKind::Call { name, args }, self.since(start), below);
        }
        let span = name.span;
        self.node(ExprKind::Path(vec![name]), span, 0)
    }

    fn parenthesis(&mut self) -> Parse<Tall> {
        let start = self.next;
        self.brackets.push(start);
        self.bump();
        let mut inside = self.deeper(|parser| parser.binary(Level::Or))?;
        if self.eat(TokenKind::RightParen).is_none() {
            self.comma(TokenKind::RightParen)?;
            self.report_tuple(start);
            return Err(Failed);
        }
        self.brackets.pop();
        inside.expr.span = self.since(start);
        Ok(inside)
    }

    fn report_tuple(&mut self, start: usize) {
        let report = Diagnostic::new(Code::UnexpectedToken, self.previous(), "expected `)`, found `,`");
        let open = self.tokens.get(start).copied();
        let report = match open {
            Some(open) => report.with(self.span_of(open), "opened here"),
            None => report,
        };
        self.report(report.help("a list of values stands in square brackets: `[a, b]`"));
    }

    /// The bracket at the next token: expressions with commas between them, and the height of the highest.
    fn items(&mut self, closing: TokenKind) -> Parse<(Vec<Expr>, usize)> {
        self.brackets.push(self.next);
        self.bump();
        let mut items = Vec::new();
        let mut below = 0;
        while !self.at(closing) {
            let item = self.deeper(|parser| parser.binary(Level::Or))?;
            below = below.max(item.height);
            items.push(item.expr);
            self.comma(closing)?;
        }
        self.bump();
        self.brackets.pop();
        Ok((items, below))
    }
}

/// An operator that was found, but not consumed.
#[derive(Debug, Clone, Copy)]
struct Found {
    operator: Operator,
    /// How many tokens it takes.
    tokens: usize,
    /// Set when another operator was written; this one is meant.
    meant: Option<&'static str>,
}

/// What stands between two comparisons in a row, the first of which is `left`.
fn middle(left: &Expr) -> Option<Span> {
    match &left.kind {
        ExprKind::Binary { right, .. } => Some(right.span),
        _ => None,
    }
}

/// A text that is fit for a message.
fn shorten(text: &str) -> String {
    const LONGEST: usize = 40;
    if text.chars().count() <= LONGEST {
        return text.to_owned();
    }
    let start: String = text.chars().take(LONGEST).collect();
    format!("{start}..")
}

/// Precedence, weakest first, as in Rust.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Or,
    And,
    Compare,
    Sum,
    Product,
    Unary,
}

impl Level {
    /// The next stronger level.
    fn above(self) -> Self {
        match self {
            Self::Or => Self::And,
            Self::And => Self::Compare,
            Self::Compare => Self::Sum,
            Self::Sum => Self::Product,
            Self::Product | Self::Unary => Self::Unary,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Logical(LogicalOp),
    Binary(BinaryOp),
    In { negated: bool },
}

impl Operator {
    fn level(self) -> Level {
        match self {
            Self::Logical(LogicalOp::Or) => Level::Or,
            Self::Logical(LogicalOp::And) => Level::And,
            Self::Binary(BinaryOp::Add | BinaryOp::Sub) => Level::Sum,
            Self::Binary(BinaryOp::Mul) => Level::Product,
            Self::Binary(_) | Self::In { .. } => Level::Compare,
        }
    }
}

const OPERATORS: &[(&str, Operator)] = &[
    ("||", Operator::Logical(LogicalOp::Or)),
    ("&&", Operator::Logical(LogicalOp::And)),
    ("==", Operator::Binary(BinaryOp::Eq)),
    ("!=", Operator::Binary(BinaryOp::Ne)),
    ("<", Operator::Binary(BinaryOp::Lt)),
    ("<=", Operator::Binary(BinaryOp::Le)),
    (">", Operator::Binary(BinaryOp::Gt)),
    (">=", Operator::Binary(BinaryOp::Ge)),
    ("+", Operator::Binary(BinaryOp::Add)),
    ("-", Operator::Binary(BinaryOp::Sub)),
    ("*", Operator::Binary(BinaryOp::Mul)),
    ("in", Operator::In { negated: false }),
];

/// Operators of other languages: what is meant by them, or why there is no such thing.
const FOREIGN: &[(&str, &str, &str)] = &[
    ("=", "==", ""),
    ("===", "==", ""),
    ("!==", "!=", ""),
    ("<>", "!=", ""),
    ("=>", ">=", ""),
    ("&", "&&", ""),
    ("|", "||", ""),
    ("and", "&&", ""),
    ("or", "||", ""),
    ("AND", "&&", ""),
    ("OR", "||", ""),
    ("IN", "in", ""),
    ("is", "==", ""),
    ("/", "", "division is not exact: multiply the other side instead"),
    ("%", "", "there is no remainder; the arithmetic is `+`, `-` and `*`"),
    ("^", "", "there are no powers; the arithmetic is `+`, `-` and `*`"),
    ("like", "", "use `.startsWith(..)`, `.endsWith(..)` or `.contains(..)`"),
    ("?", "", "there is no `? :`; write `(a && b) || (!a && c)`"),
];
