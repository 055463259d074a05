//! SQL files into statements: where each ends, what it does that a runner has to know, and what of its text counts.
//!
//! This is no parser. It knows what can hide a semicolon (quotes, dollar quotes, comments, bodies of functions and
//! triggers), and the first words of a statement.

use aws_lc_rs::digest;
use cratestack_schema::{fuzzy, hex};

use crate::sql::Dialect;

/// One statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Statement {
    /// As it is run.
    pub(super) sql: String,
    /// Its first line in the file, from 1.
    pub(super) line: usize,
    /// What of it counts: without comments, one space between the words, words in lower case.
    pub(super) normal: String,
    /// The same without what is in its texts.
    pub(super) shown: String,
    /// The words, names and signs of it, names without their quotes.
    words: Vec<Word>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Word {
    text: String,
    piece: Piece,
}

/// What a comment tells the runner.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Directive {
    /// `step [NAME]`: what follows is a step of its own.
    Step(Option<String>),
    /// `no-transaction`.
    NoTransaction,
    /// `done-when QUERY`.
    DoneWhen(String),
}

/// Some statements that belong together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Section {
    /// Its name, if it has one.
    pub(super) name: Option<String>,
    /// Whether its statements are run one by one, each outside of a transaction.
    pub(super) no_transaction: bool,
    /// A query that tells whether it has been done.
    pub(super) done_when: Option<String>,
    /// At least one, but for a file with none.
    pub(super) statements: Vec<Statement>,
}

/// What is wrong in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// From 1.
    pub line: usize,
    /// One sentence.
    pub message: String,
    /// The next step.
    pub help: String,
}

fn fault<T>(line: usize, message: impl Into<String>, help: impl Into<String>) -> Result<T, Fault> {
    Err(Fault { line, message: message.into(), help: help.into() })
}

/// A piece of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Piece {
    Space,
    Comment,
    Word,
    Name,
    Text,
    Sign,
    End,
}

struct Lexer<'a> {
    text: &'a str,
    dialect: Dialect,
    at: usize,
    line: usize,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    /// The next piece and its text.
    fn next(&mut self) -> Result<Option<(Piece, &'a str)>, Fault> {
        let rest = self.rest();
        let Some(first) = rest.chars().next() else { return Ok(None) };
        let postgres = self.dialect == Dialect::Postgres;
        let prefixed = |prefix: &str| rest.get(..prefix.len()).is_some_and(|head| head.eq_ignore_ascii_case(prefix));
        let (piece, length) = match first {
            _ if is_space(first) => (Piece::Space, run(rest, is_space)),
            '-' if rest.starts_with("--") => (Piece::Comment, rest.find('\n').unwrap_or(rest.len())),
            '/' if rest.starts_with("/*") => (Piece::Comment, self.block_comment()?),
            '\'' => (Piece::Text, self.quoted(0, '\'')?),
            'e' | 'E' if postgres && prefixed("e'") => (Piece::Text, self.escaped()?),
            'u' | 'U' if postgres && prefixed("u&'") => (Piece::Text, self.quoted(2, '\'')?),
            'u' | 'U' if postgres && prefixed("u&\"") => (Piece::Text, self.quoted(2, '"')?),
            'x' | 'X' | 'b' | 'B' | 'n' | 'N' if rest.get(1..2) == Some("'") => (Piece::Text, self.quoted(1, '\'')?),
            '"' => (Piece::Name, self.quoted(0, '"')?),
            '`' if !postgres => (Piece::Name, self.quoted(0, '`')?),
            '[' if !postgres => (Piece::Name, self.until("]", 1, "a name in brackets")?),
            '$' if postgres => match dollar_tag(rest) {
                Some(tag) => (Piece::Text, self.until(tag, tag.len(), "a dollar quote")?),
                None => (Piece::Sign, 1),
            },
            ';' => (Piece::End, 1),
            _ if is_word(first) => (Piece::Word, run(rest, |c| is_word(c) || c == '$')),
            _ if OPERATORS.contains(first) => (Piece::Sign, self.operator()),
            _ => (Piece::Sign, first.len_utf8()),
        };
        let text = rest.get(..length).unwrap_or(rest);
        self.at += text.len();
        self.line += text.matches('\n').count();
        Ok(Some((piece, text)))
    }

    /// Signs that mean something together, up to where a comment begins.
    fn operator(&self) -> usize {
        let rest = self.rest();
        let length = run(rest, |c| OPERATORS.contains(c));
        let signs = rest.get(..length).unwrap_or_default();
        ["--", "/*"].iter().filter_map(|comment| signs.find(comment)).min().unwrap_or(length).max(1)
    }

    fn until(&self, end: &str, from: usize, what: &str) -> Result<usize, Fault> {
        match self.rest().get(from..).and_then(|rest| rest.find(end)) {
            Some(at) => Ok(from + at + end.len()),
            None => fault(self.line, format!("{what} begins here and does not end"), "close it"),
        }
    }

    /// What is in quotes that begin at `from`; a doubled quote in it is one of the text.
    fn quoted(&self, from: usize, quote: char) -> Result<usize, Fault> {
        let what = if quote == '\'' { "a text in quotes" } else { "a name in quotes" };
        let mut from = from + 1;
        loop {
            let end = self.until(quote.encode_utf8(&mut [0; 4]), from, what)?;
            if !self.rest().get(end..).is_some_and(|rest| rest.starts_with(quote)) {
                return Ok(end);
            }
            from = end + 1;
        }
    }

    /// The length of an `E` text, in which a backslash may stand before a quote, with the texts on the next lines that
    /// continue it.
    fn escaped(&self) -> Result<usize, Fault> {
        let mut end = self.escaped_part(2)?;
        loop {
            let rest = self.rest().get(end..).unwrap_or_default();
            let space = run(rest, is_space);
            let lines = rest.get(..space).unwrap_or_default();
            if !lines.contains('\n') || !rest.get(space..).is_some_and(|rest| rest.starts_with('\'')) {
                return Ok(end);
            }
            end = self.escaped_part(end + space + 1)?;
        }
    }

    /// Where the text ends whose first sign is at `from`.
    fn escaped_part(&self, from: usize) -> Result<usize, Fault> {
        let mut signs = self.rest().get(from..).unwrap_or_default().char_indices().peekable();
        while let Some((at, sign)) = signs.next() {
            match sign {
                '\\' => {
                    signs.next();
                }
                '\'' if signs.peek().is_some_and(|(_, next)| *next == '\'') => {
                    signs.next();
                }
                '\'' => return Ok(from + at + 1),
                _ => {}
            }
        }
        fault(self.line, "a text in quotes begins here and does not end", "close it")
    }

    /// PostgreSQL has comments in comments.
    fn block_comment(&self) -> Result<usize, Fault> {
        let rest = self.rest();
        let (mut depth, mut at) = (0_usize, 0);
        loop {
            let here = rest.get(at..).unwrap_or_default();
            if here.starts_with("/*") && (depth == 0 || self.dialect == Dialect::Postgres) {
                depth += 1;
                at += 2;
            } else if here.starts_with("*/") {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return Ok(at);
                }
            } else if let Some(next) = here.chars().next() {
                at += next.len_utf8();
            } else {
                return fault(self.line, "a comment begins here and does not end", "close it with `*/`");
            }
        }
    }
}

const OPERATORS: &str = "+-*/<>=~!@#%^&|?:";

/// To both databases, which know no others.
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\u{b}' | '\u{c}')
}

/// Of a name without quotes, or of a number. Whatever is not ASCII may stand in a name.
fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || !c.is_ascii()
}

fn run(text: &str, of: impl Fn(char) -> bool) -> usize {
    text.find(|c: char| !of(c)).unwrap_or(text.len())
}

/// `$$` or `$tag$`.
fn dollar_tag(text: &str) -> Option<&str> {
    let inner = text.get(1..)?;
    let length = run(inner, is_word);
    let digit = inner.starts_with(|c: char| c.is_ascii_digit());
    (inner.get(length..)?.starts_with('$') && !digit).then(|| text.get(..length + 2))?
}

/// The sections of a file.
///
/// # Errors
/// Where something does not end, or is not for a migration.
pub(super) fn sections(text: &str, dialect: Dialect) -> Result<Vec<Section>, Fault> {
    // An editor's line ends and mark are no change.
    let text = text.trim_start_matches('\u{feff}').replace("\r\n", "\n");
    // One database ends a comment at the one, the other its statement at the other.
    for (sign, name) in [('\r', "a carriage return without a line feed"), ('\0', "a NUL")] {
        if let Some((before, _)) = text.split_once(sign) {
            let help = "save the file as text, with the line ends of Unix";
            return fault(1 + before.matches('\n').count(), format!("there is {name}"), help);
        }
    }
    let mut lexer = Lexer { text: &text, dialect, at: 0, line: 1 };
    let mut sections = Vec::new();
    let mut section = Section::default();
    let mut statement = Building::default();
    loop {
        let line = lexer.line;
        let Some((piece, text)) = lexer.next()? else { break };
        match piece {
            Piece::Comment => {
                if let Some(directive) = directive(text, line)? {
                    if !statement.words.is_empty() {
                        let help = "end the statement before it with `;`, or move the line before the statement";
                        return fault(line, format!("`{}` stands in a statement", text.trim_end()), help);
                    }
                    section.obey(directive, &mut sections, line)?;
                }
                statement.pass(text);
            }
            Piece::End if !statement.is_open() => section.statements.extend(statement.finish(dialect)?),
            _ => statement.push(piece, text, line, dialect),
        }
    }
    section.statements.extend(statement.finish(dialect)?);
    sections.push(section);
    // Before the first line about a step there may be nothing.
    let unsaid = |(at, section): &(usize, &Section)| section.statements.is_empty() && (*at > 0 || !section.is_plain());
    if let Some((_, empty)) = sections.iter().enumerate().find(unsaid) {
        let name = empty.name.as_deref().map(|name| format!(" `{name}`")).unwrap_or_default();
        let help = "remove its lines, or write what it does";
        return fault(lexer.line, format!("the step{name} has no statements"), help);
    }
    sections.retain(|section| !section.statements.is_empty());
    for section in &sections {
        section.check(dialect)?;
    }
    Ok(sections)
}

/// A statement that is being read.
#[derive(Default)]
struct Building {
    sql: String,
    normal: String,
    shown: String,
    line: usize,
    words: Vec<Word>,
    /// Whether this is in the body of a function or of a trigger.
    body: bool,
    /// How many parentheses are open.
    parentheses: usize,
}

impl Building {
    /// A part of the text that does not count.
    fn pass(&mut self, text: &str) {
        if !self.words.is_empty() {
            self.sql.push_str(text);
        }
    }

    fn push(&mut self, piece: Piece, text: &str, line: usize, dialect: Dialect) {
        if piece == Piece::Space {
            return self.pass(text);
        }
        if self.words.is_empty() {
            self.line = line;
        }
        self.sql.push_str(text);
        let word = match piece {
            Piece::Word => text.to_ascii_lowercase(),
            Piece::Name => unquoted(text),
            _ => text.to_owned(),
        };
        match text {
            "(" => self.parentheses += 1,
            ")" => self.parentheses = self.parentheses.saturating_sub(1),
            _ => {}
        }
        if piece == Piece::Word && self.parentheses == 0 {
            let before = self.words.last().map_or("", |word| word.text.as_str());
            if self.body {
                // That of a `CASE` comes after an expression.
                self.body = !(word == "end" && matches!(before, ";" | "atomic"));
            } else {
                self.body = match self.has_body(dialect) {
                    Some(Dialect::Sqlite) => word == "begin" && before != ".",
                    Some(Dialect::Postgres) => word == "atomic" && before == "begin",
                    None => false,
                };
            }
        }
        if !self.normal.is_empty() {
            self.normal.push(' ');
            self.shown.push(' ');
        }
        self.normal.push_str(if piece == Piece::Word { &word } else { text });
        self.shown.push_str(match piece {
            Piece::Word => &word,
            Piece::Text => "'..'",
            _ => text,
        });
        self.words.push(Word { text: word, piece });
    }

    /// Whether a semicolon does not end it.
    fn is_open(&self) -> bool {
        self.body || self.parentheses > 0
    }

    /// Whether statements may stand in it: a trigger's on SQLite, those of `BEGIN ATOMIC` on PostgreSQL.
    fn has_body(&self, dialect: Dialect) -> Option<Dialect> {
        let mut head = self.words.iter().map(|word| word.text.as_str());
        if head.next() != Some("create") {
            return None;
        }
        let kind = head.find(|word| !["or", "replace", "temp", "temporary"].contains(word));
        let has = match dialect {
            Dialect::Sqlite => kind == Some("trigger"),
            Dialect::Postgres => matches!(kind, Some("function" | "procedure")),
        };
        has.then_some(dialect)
    }

    fn finish(&mut self, dialect: Dialect) -> Result<Option<Statement>, Fault> {
        let Self { sql, normal, shown, line, words, body, parentheses } = std::mem::take(self);
        let Some(first) = words.first() else { return Ok(None) };
        if body {
            return fault(line, "a body begins with `BEGIN` here and does not end", "write its `END`");
        }
        if parentheses > 0 {
            return fault(line, "a parenthesis of the statement that begins here does not end", "close it");
        }
        let has = |wanted: &str| words.iter().any(|word| word.piece == Piece::Word && word.text == wanted);
        let second = words.get(1).map_or("", |word| word.text.as_str());
        match (first.text.as_str(), second) {
            ("begin" | "commit" | "rollback" | "end" | "abort" | "savepoint" | "release", _)
            | ("start" | "prepare", "transaction") => fault(
                line,
                format!("`{}` ends or begins a transaction", first.text.to_uppercase()),
                "remove it: each step is a transaction; `-- cratestack: step` begins another one, and `-- cratestack: \
                 no-transaction` goes without",
            ),
            ("copy", _) if has("stdin") || has("stdout") => {
                fault(line, "`COPY` has nobody to read from or to write to here", "write `INSERT` statements")
            }
            ("\\", _) => fault(line, "a command of `psql` is no SQL", "remove it"),
            _ if dialect == Dialect::Postgres && words.iter().any(|word| word.text == "\\") => {
                fault(line, "a command of `psql` is no SQL", "remove it, and end the statement before it with `;`")
            }
            _ => Ok(Some(Statement { sql: sql.trim_end().to_owned(), line, normal, shown, words })),
        }
    }
}

/// A name without its quotes.
fn unquoted(text: &str) -> String {
    let quote = text.chars().next().unwrap_or_default();
    let inner = text.get(1..text.len().saturating_sub(1)).unwrap_or_default();
    if quote == '[' { inner.to_owned() } else { inner.replace(&format!("{quote}{quote}"), &quote.to_string()) }
}

/// The words that the runner knows.
const DIRECTIVES: [&str; 3] = ["step", "no-transaction", "done-when"];

/// Whether a comment that is not for the runner was probably meant to be.
fn is_misspelt(comment: &str) -> bool {
    let text = comment.trim_start_matches(['-', '/', '*', ' ', '\t']);
    let head = run(text, |c| c.is_alphanumeric() || c == '_');
    let rest = text.get(head..).unwrap_or_default();
    let word = rest.trim_start_matches([':', ' ', '\t']);
    let word = word.get(..run(word, |c| c.is_alphanumeric() || c == '-')).unwrap_or_default();
    let addressed = text.get(..head).and_then(|head| fuzzy::nearest(head, ["cratestack"])).is_some();
    addressed && (rest.starts_with(':') || fuzzy::nearest(word, DIRECTIVES).is_some())
}

/// What a comment tells the runner, if it is for the runner.
fn directive(comment: &str, line: usize) -> Result<Option<Directive>, Fault> {
    let text = comment.strip_prefix("--").and_then(|text| text.trim().strip_prefix("cratestack:"));
    let Some(text) = text.map(str::trim) else {
        if is_misspelt(comment) {
            let shown = comment.lines().next().unwrap_or_default().trim_end();
            return fault(
                line,
                format!("`{shown}` is a comment, and looks as if it was for the runner"),
                "write `-- cratestack: ` and what it is to do, or other words",
            );
        }
        return Ok(None);
    };
    let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let rest = rest.trim();
    if rest.contains(char::is_control) {
        return fault(line, "there is a control character behind `-- cratestack:`", "remove it");
    }
    match word {
        "step" => Ok(Some(Directive::Step((!rest.is_empty()).then(|| rest.to_owned())))),
        "no-transaction" if rest.is_empty() => Ok(Some(Directive::NoTransaction)),
        "done-when" if !rest.is_empty() => Ok(Some(Directive::DoneWhen(rest.trim_end_matches(';').to_owned()))),
        "no-transaction" => fault(line, format!("`no-transaction` takes nothing: `{rest}`"), "remove what follows it"),
        "done-when" => fault(
            line,
            "`done-when` needs a query",
            "write one that gives one row with a boolean: `-- cratestack: done-when SELECT EXISTS (..)`",
        ),
        _ => {
            let near = fuzzy::nearest(word, DIRECTIVES);
            let near = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
            fault(
                line,
                format!("`{word}` is nothing that the runner knows{near}"),
                "it knows `step [NAME]`, `no-transaction` and `done-when QUERY`",
            )
        }
    }
}

impl Section {
    /// Whether nothing was said of it.
    fn is_plain(&self) -> bool {
        self.name.is_none() && !self.no_transaction && self.done_when.is_none()
    }

    fn obey(&mut self, directive: Directive, before: &mut Vec<Self>, line: usize) -> Result<(), Fault> {
        if !matches!(directive, Directive::Step(_)) && !self.statements.is_empty() {
            return fault(
                line,
                "this comes after the first statement of its step",
                "move it before that one, or begin another step with `-- cratestack: step`",
            );
        }
        match directive {
            Directive::Step(name) => {
                let next = Self { name, ..Self::default() };
                before.push(std::mem::replace(self, next));
            }
            Directive::NoTransaction => self.no_transaction = true,
            Directive::DoneWhen(_) if self.done_when.is_some() => {
                return fault(line, "the step has a second `done-when`", "write both into one query, with `AND`");
            }
            Directive::DoneWhen(query) => self.done_when = Some(query),
        }
        Ok(())
    }

    /// That each statement can be run the way that its step is.
    fn check(&self, dialect: Dialect) -> Result<(), Fault> {
        let Some(first) = self.statements.first() else { return Ok(()) };
        if self.done_when.is_some() && (!self.no_transaction || self.statements.len() > 1) {
            let help = "give each its own step: `-- cratestack: step`, `no-transaction`, `done-when ..`";
            return fault(first.line, "`done-when` is for one statement outside of a transaction", help);
        }
        for statement in &self.statements {
            let effect = statement.effect();
            let line = statement.line;
            if self.no_transaction {
                if dialect == Dialect::Sqlite && statement.drops_a_table() {
                    let help = "run it in a transaction: without `no-transaction`";
                    return fault(
                        line,
                        "a table that is dropped outside of a transaction takes the rows that refer to it along",
                        help,
                    );
                }
                if effect == Effect::Other && self.done_when.is_none() {
                    return fault(
                        line,
                        "nobody can tell whether this statement has been done, should it be interrupted",
                        "run it in a transaction (without `no-transaction`), or say how one sees that it is done: \
                         `-- cratestack: done-when SELECT EXISTS (..)`",
                    );
                }
            } else if statement.never_in_a_transaction() {
                let help = "write `-- cratestack: no-transaction` before it, in a step of its own";
                return fault(line, "this statement cannot be run in a transaction", help);
            }
            if let Some(pragma) = statement.passing_pragma() {
                return fault(
                    line,
                    format!("`PRAGMA {pragma}` would do nothing: settings end with the step, and nobody reads rows"),
                    "remove it: foreign keys are off in a step with a `DROP TABLE`, and all references are checked at its end",
                );
            }
        }
        Ok(())
    }
}

/// A name in a statement, as it is written: of a table, an index or a constraint.
pub(super) type Name = String;

/// What a statement outside of a transaction leaves in the catalog, by which one sees whether it has been done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Effect {
    /// `CREATE [UNIQUE] INDEX CONCURRENTLY`: this index.
    Index {
        /// Its name.
        name: Name,
        /// Its table.
        table: Name,
        /// With `IF NOT EXISTS`.
        if_not_exists: bool,
    },
    /// `DROP INDEX CONCURRENTLY`: this one is gone.
    NoIndex {
        /// Its name.
        name: Name,
        /// With `IF EXISTS`.
        if_exists: bool,
    },
    /// `REINDEX .. CONCURRENTLY`: nothing half made of these indexes or of this table's.
    Reindex {
        /// Of the index, or of the table.
        name: Name,
    },
    /// `ALTER TABLE .. VALIDATE CONSTRAINT`: it is valid.
    Valid {
        /// Its table.
        table: Name,
        /// Its name.
        constraint: Name,
    },
    /// `ALTER TYPE .. ADD VALUE`: it is there.
    Value {
        /// The type.
        of: Name,
        /// The value.
        value: String,
    },
    /// Doing it again does no harm: `VACUUM`, `ANALYZE` and the like.
    Repeatable,
    /// Nobody knows.
    Other,
}

impl Statement {
    /// The word at a place, in lower case; empty behind the last.
    fn word(&self, at: usize) -> &str {
        self.words.get(at).filter(|word| word.piece != Piece::Name).map_or("", |word| &word.text)
    }

    fn is(&self, first: &str) -> bool {
        self.word(0) == first
    }

    /// Where a word is.
    fn find(&self, wanted: &str) -> Option<usize> {
        self.words.iter().position(|word| word.piece == Piece::Word && word.text == wanted)
    }

    /// The name that begins at a place, with the name of the schema before it, as SQL has it; and where it ends.
    fn name_at(&self, at: usize) -> Option<(Name, usize)> {
        let part = |at: usize| {
            let word = self.words.get(at)?;
            let digit = word.text.starts_with(|c: char| c.is_ascii_digit());
            let name = word.piece == Piece::Name || (word.piece == Piece::Word && !digit);
            name.then(|| crate::sql::ident(&word.text))
        };
        let (mut name, mut end) = (part(at)?, at + 1);
        while self.word(end) == "." {
            name = format!("{name}.{}", part(end + 1)?);
            end += 2;
        }
        Some((name, end))
    }

    /// The same behind `IF [NOT] EXISTS` and `ONLY`.
    fn name_after(&self, mut at: usize) -> Option<(Name, usize)> {
        while ["if", "not", "exists", "only"].contains(&self.word(at)) {
            at += 1;
        }
        self.name_at(at)
    }

    /// What it leaves, if it is run outside of a transaction.
    pub(super) fn effect(&self) -> Effect {
        self.known_effect().unwrap_or(Effect::Other)
    }

    fn known_effect(&self) -> Option<Effect> {
        let concurrently = self.find("concurrently");
        match (self.word(0), self.word(1)) {
            ("create", "index" | "unique") => {
                let (name, end) = self.name_after(concurrently? + 1)?;
                let on = (self.word(end) == "on").then_some(end + 1)?;
                let if_not_exists = self.word(concurrently? + 1) == "if";
                Some(Effect::Index { name, table: self.name_after(on)?.0, if_not_exists })
            }
            ("drop", "index") => {
                let (name, end) = self.name_after(concurrently? + 1)?;
                let if_exists = self.word(concurrently? + 1) == "if";
                (self.word(end) != ",").then_some(Effect::NoIndex { name, if_exists })
            }
            ("reindex", _) if concurrently.is_some() => {
                let of_one = self.find("index").or_else(|| self.find("table"));
                of_one.and_then(|_| self.name_after(concurrently? + 1)).map(|(name, _)| Effect::Reindex { name })
            }
            ("alter", "table") => {
                let (table, end) = self.name_after(2)?;
                let validates = self.word(end) == "validate" && self.word(end + 1) == "constraint";
                let (constraint, end) = self.name_at(end + 2).filter(|_| validates)?;
                (self.words.len() == end).then_some(Effect::Valid { table, constraint })
            }
            ("alter", "type") => {
                let (of, end) = self.name_at(2)?;
                let adds = self.word(end) == "add" && self.word(end + 1) == "value";
                let at = (end + 2..self.words.len()).find(|at| !["if", "not", "exists"].contains(&self.word(*at)))?;
                let text = &self.words.get(at)?.text;
                let plain = text.strip_prefix('\'')?.strip_suffix('\'')?.replace("''", "'");
                adds.then_some(Effect::Value { of, value: plain })
            }
            ("vacuum", _) if self.find("into").is_some() => None,
            ("vacuum" | "analyze" | "reindex" | "refresh" | "pragma", _) => Some(Effect::Repeatable),
            _ => None,
        }
    }

    /// Whether both databases refuse it in a transaction, or it waits there for itself.
    fn never_in_a_transaction(&self) -> bool {
        let concurrently = matches!(self.word(0), "create" | "drop" | "reindex" | "alter")
            && (self.find("concurrently").is_some_and(|at| at < 4 || self.is("reindex") || self.is("alter")));
        concurrently || self.is("vacuum") || matches!((self.word(0), self.word(1)), ("create" | "drop", "database"))
    }

    /// A pragma that changes the connection and not the file, or gives rows that nobody reads.
    fn passing_pragma(&self) -> Option<&str> {
        const LASTING: [&str; 5] =
            ["application_id", "defer_foreign_keys", "optimize", "user_version", "wal_checkpoint"];
        let name = self.words.get(if self.word(2) == "." { 3 } else { 1 }).filter(|_| self.is("pragma"))?;
        (!LASTING.contains(&name.text.to_ascii_lowercase().as_str())).then_some(&name.text)
    }

    /// The table that it removes, without quotes.
    pub(super) fn dropped_table(&self) -> Option<&str> {
        let name = (2..self.words.len()).find(|at| !["if", "exists"].contains(&self.word(*at)))?;
        let name = if self.word(name + 1) == "." { name + 2 } else { name };
        self.words.get(name).filter(|_| self.drops_a_table()).map(|word| word.text.as_str())
    }

    /// What a table is renamed to, without quotes.
    pub(super) fn renamed_table(&self) -> Option<&str> {
        let to = self
            .find("to")
            .filter(|at| self.is("alter") && self.word(1) == "table" && self.word(at - 1) == "rename")?;
        self.words.get(to + 1).map(|word| word.text.as_str())
    }

    /// The table that is renamed, without quotes.
    pub(super) fn renamed_from(&self) -> Option<&str> {
        let to = self.find("to").filter(|_| self.renamed_table().is_some())?;
        self.words.get(to.checked_sub(2)?).map(|word| word.text.as_str())
    }

    /// The index or trigger that it removes, without quotes.
    pub(super) fn dropped_part(&self) -> Option<&str> {
        let part = self.is("drop") && ["index", "trigger"].contains(&self.word(1));
        self.words.last().filter(|_| part).map(|word| word.text.as_str())
    }

    /// Whether it removes a table, which on SQLite removes the rows of others first.
    pub(super) fn drops_a_table(&self) -> bool {
        self.is("drop") && self.word(1) == "table"
    }

    /// The name of the table that it makes, without quotes.
    pub(super) fn makes_table(&self) -> Option<String> {
        let table = self.find("table").filter(|at| self.is("create") && *at < 4)?;
        let name = (table + 1..self.words.len()).find(|at| !["if", "not", "exists"].contains(&self.word(*at)))?;
        self.words.get(name).map(|word| word.text.clone())
    }

    /// The tables that it takes a lock of, as far as its first words tell.
    pub(super) fn tables(&self) -> Vec<Name> {
        let at = match (self.word(0), self.word(1)) {
            ("alter" | "drop" | "lock" | "truncate", "table") => Some(2),
            ("truncate" | "lock", _) => Some(1),
            ("create", _)
                if matches!(self.effect(), Effect::Index { .. }) || self.find("index").is_some_and(|at| at < 3) =>
            {
                self.find("on").map(|on| on + 1)
            }
            ("create", _) if self.find("trigger").is_some_and(|at| at < 5) => self.find("on").map(|on| on + 1),
            _ => None,
        };
        at.and_then(|at| self.name_after(at)).map(|(name, _)| name).into_iter().collect()
    }
}

/// SHA-256 of parts, of which the boundaries count too: 64 hexadecimal digits.
pub(super) fn digest<'a>(parts: impl IntoIterator<Item = &'a str>) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part.as_bytes());
    }
    hex(context.finish().as_ref())
}
