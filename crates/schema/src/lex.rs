//! Text to tokens. Every octet of the text belongs to one token or is white space; nothing here can fail.

use crate::diag::{Code, Diagnostic, Span};

/// Largest file, in octets. Far beyond any schema; it keeps positions within 32 bits.
pub const MAX_FILE: usize = 16 * 1024 * 1024;

/// What a [`Token`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TokenKind {
    /// A name or a word of the language.
    Ident,
    /// `12`, `12.50`
    Number,
    /// `".."`, quotes included; [`unescape`] gives its value.
    String,
    /// `@name`
    Attribute,
    /// `@@name`
    BlockAttribute,
    /// `{`
    LeftBrace,
    /// `}`
    RightBrace,
    /// `(`
    LeftParen,
    /// `)`
    RightParen,
    /// `[`
    LeftBracket,
    /// `]`
    RightBracket,
    /// `,`
    Comma,
    /// `:`
    Colon,
    /// `.`
    Dot,
    /// `?`
    Question,
    /// `=`
    Assign,
    /// `==`
    Eq,
    /// `!=`
    Ne,
    /// `<`
    Lt,
    /// `<=`
    Le,
    /// `>`
    Gt,
    /// `>=`
    Ge,
    /// `&&`
    And,
    /// `||`
    Or,
    /// `!`
    Bang,
    /// `+`
    Plus,
    /// `-`
    Minus,
    /// `*`
    Star,
    /// An operator that other languages have, which the parser explains in its place.
    Foreign,
    /// `// ..` to the end of the line.
    Comment,
    /// `/// ..` to the end of the line.
    Doc,
    /// Characters that are no token; already reported.
    Bad,
    /// The end of the text.
    End,
}

/// One token. Its text is `text[start..end]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    /// What it is.
    pub kind: TokenKind,
    /// First octet.
    pub start: u32,
    /// One past the last octet.
    pub end: u32,
    /// Line breaks between the token before (comments are tokens too) and this one.
    pub breaks: u32,
}

/// Every token whose text is always the same, longest first where one is the start of another.
const FIXED: &[(&str, TokenKind)] = &[
    ("===", TokenKind::Foreign),
    ("!==", TokenKind::Foreign),
    ("==", TokenKind::Eq),
    ("!=", TokenKind::Ne),
    ("<=", TokenKind::Le),
    (">=", TokenKind::Ge),
    ("<>", TokenKind::Foreign),
    ("=>", TokenKind::Foreign),
    ("&&", TokenKind::And),
    ("||", TokenKind::Or),
    ("{", TokenKind::LeftBrace),
    ("}", TokenKind::RightBrace),
    ("(", TokenKind::LeftParen),
    (")", TokenKind::RightParen),
    ("[", TokenKind::LeftBracket),
    ("]", TokenKind::RightBracket),
    (",", TokenKind::Comma),
    (":", TokenKind::Colon),
    (".", TokenKind::Dot),
    ("?", TokenKind::Question),
    ("=", TokenKind::Assign),
    ("<", TokenKind::Lt),
    (">", TokenKind::Gt),
    ("!", TokenKind::Bang),
    ("+", TokenKind::Plus),
    ("-", TokenKind::Minus),
    ("*", TokenKind::Star),
    ("&", TokenKind::Foreign),
    ("|", TokenKind::Foreign),
    ("/", TokenKind::Foreign),
    ("%", TokenKind::Foreign),
    ("^", TokenKind::Foreign),
];

/// Cuts `text` into tokens, comments included, the last of which is [`TokenKind::End`].
pub fn lex(file: u32, text: &str) -> (Vec<Token>, Vec<Diagnostic>) {
    let mut lexer = Lexer { file, text, at: 0, breaks: 0, tokens: Vec::new(), found: Vec::new() };
    if text.len() > MAX_FILE {
        let span = Span { file, start: 0, end: 0 };
        lexer.found.push(
            Diagnostic::new(Code::FileTooLarge, span, format!("the file has more than {MAX_FILE} octets"))
                .help("split it into several files"),
        );
    } else {
        lexer.run();
    }
    lexer.push(TokenKind::End, lexer.at);
    (lexer.tokens, lexer.found)
}

struct Lexer<'a> {
    file: u32,
    text: &'a str,
    /// Always on a character boundary.
    at: usize,
    breaks: u32,
    tokens: Vec<Token>,
    found: Vec<Diagnostic>,
}

impl<'a> Lexer<'a> {
    fn run(&mut self) {
        // A byte order mark at the start says "UTF-8" and nothing else.
        if self.text.starts_with('\u{feff}') {
            self.at = '\u{feff}'.len_utf8();
        }
        while let Some(next) = self.peek() {
            match next {
                '\n' => {
                    self.at += 1;
                    self.breaks += 1;
                }
                '\r' => self.carriage_return(),
                ' ' | '\t' => self.at += 1,
                '"' | '\'' => self.string(next),
                '@' => self.attribute(),
                '0'..='9' => self.number(),
                'a'..='z' | 'A'..='Z' => self.word(TokenKind::Ident, self.at),
                '/' if self.rest().starts_with("//") => self.comment(),
                '/' if self.rest().starts_with("/*") => self.foreign_comment("/*", "*/"),
                '#' => self.foreign_comment("#", "\n"),
                _ => self.fixed(),
            }
        }
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or("")
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn span(&self, start: usize, end: usize) -> Span {
        Span { file: self.file, start: position(start), end: position(end) }
    }

    fn push(&mut self, kind: TokenKind, start: usize) {
        let breaks = std::mem::take(&mut self.breaks);
        self.tokens.push(Token { kind, start: position(start), end: position(self.at), breaks });
    }

    /// Advances while `test` holds and gives the text that was passed.
    fn take_while(&mut self, test: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let taken = rest.find(|next| !test(next)).map_or(rest, |end| rest.get(..end).unwrap_or(""));
        self.at += taken.len();
        taken
    }

    fn carriage_return(&mut self) {
        if !self.rest().starts_with("\r\n") {
            let span = self.span(self.at, self.at + 1);
            self.found.push(
                Diagnostic::new(Code::ControlCharacter, span, "a carriage return stands without a line feed")
                    .help("end lines with a line feed")
                    .fix("replace it with a line feed", span, "\n"),
            );
            self.breaks += 1;
        }
        self.at += 1;
    }

    fn word(&mut self, kind: TokenKind, start: usize) {
        self.take_while(is_word);
        self.push(kind, start);
    }

    fn attribute(&mut self) {
        let start = self.at;
        let signs = self.take_while(|next| next == '@').len();
        let named = self.peek().is_some_and(|next| next.is_ascii_alphabetic());
        match (signs, named) {
            (1, true) => self.word(TokenKind::Attribute, start),
            (2, true) => self.word(TokenKind::BlockAttribute, start),
            _ => {
                self.take_while(is_word);
                let written = self.text.get(start..self.at).unwrap_or("");
                let span = self.span(start, self.at);
                self.found.push(
                    Diagnostic::new(Code::UnexpectedCharacter, span, format!("`{written}` names no attribute"))
                        .help("write `@name` after a field, or `@@name` on a line of its own"),
                );
                self.push(TokenKind::Bad, start);
            }
        }
    }

    /// Digits with an optional fraction. Whatever else sticks to them belongs to the mistake.
    fn number(&mut self) {
        let start = self.at;
        let whole = self.take_while(|next| next.is_ascii_digit());
        let mut fraction = false;
        if self.rest().strip_prefix('.').is_some_and(|rest| rest.starts_with(|next: char| next.is_ascii_digit())) {
            self.at += 1;
            self.take_while(|next| next.is_ascii_digit());
            fraction = true;
        }
        let suffix = self.take_while(is_word);
        let written = self.text.get(start..self.at).unwrap_or("");
        let zeros = whole.len() > 1 && whole.starts_with('0');
        if !suffix.is_empty() || zeros {
            let span = self.span(start, self.at);
            let message = format!("`{written}` is not a number of this language");
            let mut report = Diagnostic::new(Code::BadNumber, span, message)
                .help("write digits, with a fraction after a point if you need one: `1000`, `12.50`");
            let digits: String = written.chars().filter(|next| *next != '_').collect();
            let mended = digits.trim_start_matches('0');
            if mended.bytes().all(|byte| byte.is_ascii_digit()) && !mended.is_empty() && !fraction {
                report = report.fix("write plain digits", span, mended);
            }
            self.found.push(report);
        }
        self.push(TokenKind::Number, start);
    }

    /// A string ends at its quote, or at the end of the line where the quote is missing.
    fn string(&mut self, quote: char) {
        let start = self.at;
        self.at += 1;
        let closed = loop {
            match self.peek() {
                None | Some('\n' | '\r') => break false,
                Some(next) if next == quote => {
                    self.at += 1;
                    break true;
                }
                Some('\\') => self.escape(),
                Some(next) => {
                    self.check_character(next);
                    self.at += next.len_utf8();
                }
            }
        };
        let span = self.span(start, self.at);
        if !closed {
            let opening = self.span(start, start + 1);
            self.found.push(
                Diagnostic::new(Code::UnterminatedString, opening, "this string has no closing quote on its line")
                    .label("opened here")
                    .help("close it with `\"`; a line break inside a string is written `\\n`"),
            );
        } else if quote == '\'' {
            let inside = self.text.get(start + 1..self.at - 1).unwrap_or("");
            let mut report = Diagnostic::new(Code::UnexpectedCharacter, span, "strings stand in double quotes")
                .help("replace `'` with `\"`");
            if !inside.contains(['"', '\\']) {
                report = report.fix("use double quotes", span, format!("\"{inside}\""));
            }
            self.found.push(report);
        }
        self.push(if closed { TokenKind::String } else { TokenKind::Bad }, start);
    }

    fn escape(&mut self) {
        let start = self.at;
        let (value, length) = read_escape(self.rest());
        self.at += length;
        if value.is_none() {
            let written = self.text.get(start..self.at).unwrap_or("");
            self.found.push(
                Diagnostic::new(Code::BadEscape, self.span(start, self.at), format!("`{written}` is not an escape"))
                    .help(
                        "the escapes are `\\\"`, `\\\\`, `\\n`, `\\t` and `\\u{1F4B6}`; a NUL character is not allowed",
                    ),
            );
        }
    }

    fn comment(&mut self) {
        let start = self.at;
        let doc = self.rest().starts_with("///") && !self.rest().starts_with("////");
        while let Some(next) = self.peek().filter(|next| !matches!(next, '\n' | '\r')) {
            self.check_character(next);
            self.at += next.len_utf8();
        }
        self.push(if doc { TokenKind::Doc } else { TokenKind::Comment }, start);
    }

    /// A comment of another language: reported, and skipped as its author meant it.
    fn foreign_comment(&mut self, opening: &str, closing: &str) {
        let start = self.at;
        let rest = self.rest();
        let inside = opening.len();
        let length = match rest.get(inside..).and_then(|after| after.find(closing)) {
            Some(end) if closing == "\n" => inside + end,
            Some(end) => inside + end + closing.len(),
            None => rest.len(),
        };
        let span = self.span(start, start + inside);
        self.found.push(
            Diagnostic::new(Code::UnexpectedCharacter, span, format!("`{opening}` does not start a comment"))
                .help("start comments with `//`"),
        );
        let skipped = rest.get(..length).unwrap_or("");
        self.breaks += position(skipped.matches('\n').count());
        self.at += length;
    }

    fn fixed(&mut self) {
        let start = self.at;
        let rest = self.rest();
        match FIXED.iter().find(|(text, _)| rest.starts_with(text)) {
            Some((text, kind)) => {
                self.at += text.len();
                self.push(*kind, start);
            }
            None => self.bad_characters(),
        }
    }

    /// Reports a run of characters that are no token, once.
    fn bad_characters(&mut self) {
        let start = self.at;
        let Some(first) = self.peek() else { return };
        if self.check_character(first) {
            self.at += first.len_utf8();
            self.push(TokenKind::Bad, start);
            return;
        }
        let run = self.take_while(|next| !next.is_ascii() && !is_forbidden(next));
        if run.is_empty() {
            self.at += first.len_utf8();
        }
        let written = self.text.get(start..self.at).unwrap_or("");
        let span = self.span(start, self.at);
        let plain = LOOKALIKES.iter().find(|(all, _)| all.contains(first)).map(|(_, plain)| *plain);
        let help = match (first, plain) {
            (_, Some(plain)) => format!("did you mean `{plain}`?"),
            (';', _) => "members end with their line, and arguments are separated by commas".to_owned(),
            ('_', _) => "a name starts with a letter".to_owned(),
            _ => "outside strings and comments, only ASCII letters, digits, `_` and the operators can stand".to_owned(),
        };
        let message = format!("`{written}` is not a character of this language");
        let report = Diagnostic::new(Code::UnexpectedCharacter, span, message).help(help);
        self.found.push(report);
        self.push(TokenKind::Bad, start);
    }

    /// Reports a character that may stand nowhere in a file; the caller is at it.
    fn check_character(&mut self, next: char) -> bool {
        if !is_forbidden(next) {
            return false;
        }
        let span = self.span(self.at, self.at + next.len_utf8());
        let message = format!("the text contains the control character U+{:04X}", u32::from(next));
        self.found.push(
            Diagnostic::new(Code::ControlCharacter, span, message)
                .help("remove it; inside a string write `\\u{..}` if you need the character")
                .fix("remove it", span, ""),
        );
        true
    }
}

/// Characters that editors and web pages put in the place of ASCII ones.
const LOOKALIKES: &[(&str, char)] = &[
    ("\u{201c}\u{201d}\u{201e}\u{00ab}\u{00bb}", '"'),
    ("\u{2018}\u{2019}`", '"'),
    ("\u{2013}\u{2014}\u{2212}", '-'),
    ("\u{00a0}\u{2003}\u{2009}\u{3000}\u{feff}\u{200b}", ' '),
    ("\u{00d7}", '*'),
    ("\u{ff08}", '('),
    ("\u{ff09}", ')'),
    ("\u{ff0c}", ','),
];

/// Control characters, and those that make a text look different from what it is.
fn is_forbidden(next: char) -> bool {
    (next.is_control() && !matches!(next, '\t' | '\n' | '\r'))
        || matches!(next, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}')
}

fn is_word(next: char) -> bool {
    next.is_ascii_alphanumeric() || next == '_'
}

fn position(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

/// Reads the escape that `text` starts with: its character, if it is one, and the octets that it takes.
fn read_escape(text: &str) -> (Option<char>, usize) {
    let mut rest = text.chars();
    rest.next();
    match rest.next() {
        Some('"') => (Some('"'), 2),
        Some('\\') => (Some('\\'), 2),
        Some('n') => (Some('\n'), 2),
        Some('t') => (Some('\t'), 2),
        Some('u') => {
            let digits = text.strip_prefix("\\u{").unwrap_or("");
            let count = digits.bytes().take_while(u8::is_ascii_hexdigit).count();
            let closed = digits.as_bytes().get(count) == Some(&b'}');
            if !closed || count == 0 || count > 6 {
                return (None, 2);
            }
            let value = digits.get(..count).and_then(|hex| u32::from_str_radix(hex, 16).ok()).and_then(char::from_u32);
            (value.filter(|value| *value != '\0'), count + 4)
        }
        Some(next) if next != '\n' && next != '\r' => (None, 1 + next.len_utf8()),
        _ => (None, 1),
    }
}

/// The value of a string token: quotes removed, escapes undone. What the lexer has reported is left out.
pub fn unescape(token: &str) -> String {
    let quote = token.chars().next().unwrap_or('"');
    let mut rest = token.strip_prefix(quote).unwrap_or(token);
    let mut value = String::with_capacity(rest.len());
    while let Some(next) = rest.chars().next() {
        let length = match next {
            '\\' => {
                let (character, length) = read_escape(rest);
                value.extend(character);
                length
            }
            next if next == quote => break,
            next => {
                value.push(next);
                next.len_utf8()
            }
        };
        rest = rest.get(length..).unwrap_or("");
    }
    value
}
