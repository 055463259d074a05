//! Diagnostics as text for other programs. Lines and columns count from 1, columns in Unicode scalar values.

use serde_json::{Value, json};

use super::{Code, Diagnostic, Severity, Span};

/// What compiling one file found. Labels and edits in other files are left out.
#[derive(Debug, Clone, Copy)]
pub struct File<'a> {
    /// Its name, as the user gave it.
    pub path: &'a str,
    /// Its text.
    pub text: &'a str,
    /// Diagnostics with their primary span in this file.
    pub diagnostics: &'a [Diagnostic],
}

/// A place in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Line, from 1.
    pub line: usize,
    /// Column in Unicode scalar values, from 1.
    pub column: usize,
}

/// Where the lines of a text start.
#[derive(Debug, Clone)]
pub struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    /// Reads the whole text once.
    pub fn new(text: &'a str) -> Self {
        let breaks = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        Self { text, starts: std::iter::once(0).chain(breaks).collect() }
    }

    /// The place of an octet; beyond the text, its end.
    pub fn position(&self, offset: u32) -> Position {
        let offset = (offset as usize).min(self.text.len());
        let line = self.starts.partition_point(|start| *start <= offset);
        let start = line.checked_sub(1).and_then(|index| self.starts.get(index)).copied().unwrap_or(0);
        let before = self.text.get(start..offset).unwrap_or("");
        Position { line, column: before.chars().count() + 1 }
    }
}

/// A JSON array with one object per diagnostic.
pub fn json(files: &[File<'_>]) -> String {
    let all: Vec<Value> = each(files, |file, lines, one| {
        let place = |span: Span| {
            let point = |offset: u32| {
                let Position { line, column } = lines.position(offset);
                json!({ "line": line, "column": column, "offset": offset })
            };
            (point(span.start), point(span.end))
        };
        let (start, end) = place(one.primary.span);
        let labels = one.labels.iter().filter(|label| label.span.file == one.primary.span.file).map(|label| {
            let (start, end) = place(label.span);
            json!({ "start": start, "end": end, "text": label.text })
        });
        let fix = fix(one).map(|fix| {
            let edits = fix.edits.iter().map(|edit| {
                let (start, end) = place(edit.span);
                json!({ "start": start, "end": end, "text": edit.text })
            });
            json!({ "title": fix.title, "edits": edits.collect::<Value>() })
        });
        json!({
            "code": one.code.id(),
            "severity": one.severity.word(),
            "message": one.message,
            "file": file.path,
            "start": start,
            "end": end,
            "label": one.primary.text,
            "labels": labels.collect::<Value>(),
            "help": one.help,
            "fix": fix,
        })
    });
    format!("{:#}\n", Value::Array(all))
}

/// SARIF 2.1.0 with one run.
pub fn sarif(files: &[File<'_>]) -> String {
    let mut codes: Vec<Code> = files.iter().flat_map(|file| file.diagnostics).map(|one| one.code).collect();
    codes.sort_unstable();
    codes.dedup();
    let level = |severity: Severity| severity.word();
    let rules: Value = codes
        .iter()
        .map(|code| {
            let info = code.info();
            json!({
                "id": info.id,
                "shortDescription": { "text": info.summary },
                "help": { "text": info.summary, "markdown": super::explain(*code) },
                "defaultConfiguration": { "level": level(info.severity) },
            })
        })
        .collect();
    let results: Vec<Value> = each(files, |file, lines, one| {
        let artifact = json!({ "uri": uri(file.path) });
        let region = |span: Span| {
            let (start, end) = (lines.position(span.start), lines.position(span.end));
            json!({
                "startLine": start.line,
                "startColumn": start.column,
                "endLine": end.line,
                "endColumn": end.column,
            })
        };
        let place = |span: Span| json!({ "artifactLocation": artifact, "region": region(span) });
        let related = one.labels.iter().filter(|label| label.span.file == one.primary.span.file);
        let related =
            related.map(|label| json!({ "message": { "text": label.text }, "physicalLocation": place(label.span) }));
        let mut result = json!({
            "ruleId": one.code.id(),
            "ruleIndex": codes.binary_search(&one.code).unwrap_or(0),
            "level": level(one.severity),
            "message": { "text": sentence(one) },
            "locations": [{ "physicalLocation": place(one.primary.span) }],
            "relatedLocations": related.collect::<Value>(),
        });
        if let (Some(fix), Some(result)) = (fix(one), result.as_object_mut()) {
            let edits = fix
                .edits
                .iter()
                .map(|edit| json!({ "deletedRegion": region(edit.span), "insertedContent": { "text": edit.text } }));
            let change = json!({ "artifactLocation": artifact, "replacements": edits.collect::<Value>() });
            let fixes = json!([{ "description": { "text": fix.title }, "artifactChanges": [change] }]);
            result.insert("fixes".to_owned(), fixes);
        }
        result
    });
    let log = json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "cratestack",
                "version": env!("CARGO_PKG_VERSION"),
                "informationUri": env!("CARGO_PKG_REPOSITORY"),
                "rules": rules,
            } },
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    });
    format!("{log:#}\n")
}

/// Workflow commands that GitHub shows beside the lines of a pull request; one line per diagnostic.
pub fn github(files: &[File<'_>]) -> String {
    let lines = each(files, |file, lines, one| {
        let (start, end) = (lines.position(one.primary.span.start), lines.position(one.primary.span.end));
        // GitHub takes columns only where the range stays on one line.
        let columns = if start.line == end.line {
            format!(",col={},endColumn={}", start.column, end.column)
        } else {
            String::new()
        };
        format!(
            "::{} file={},line={},endLine={}{columns},title={}::{}\n",
            one.severity.word(),
            command_property(file.path),
            start.line,
            end.line,
            one.code,
            command_data(&sentence(one)),
        )
    });
    lines.concat()
}

fn each<T>(files: &[File<'_>], mut render: impl FnMut(&File<'_>, &Lines<'_>, &Diagnostic) -> T) -> Vec<T> {
    let mut all = Vec::new();
    for file in files {
        let lines = Lines::new(file.text);
        all.extend(file.diagnostics.iter().map(|one| render(file, &lines, one)));
    }
    all
}

/// The fix, if all of it is in the file of the diagnostic.
fn fix(one: &Diagnostic) -> Option<&super::Fix> {
    one.fix.as_ref().filter(|fix| fix.edits.iter().all(|edit| edit.span.file == one.primary.span.file))
}

fn sentence(one: &Diagnostic) -> String {
    match &one.help {
        Some(help) => format!("{}\nhelp: {help}", one.message),
        None => one.message.clone(),
    }
}

/// A path as a relative reference (RFC 3986).
fn uri(path: &str) -> String {
    let mut text = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            b'\\' => text.push('/'),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => text.push(char::from(byte)),
            byte => {
                let digit = |nibble: u8| char::from_digit(nibble.into(), 16).unwrap_or('0').to_ascii_uppercase();
                text.extend(['%', digit(byte >> 4), digit(byte & 15)]);
            }
        }
    }
    text
}

fn command_data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

fn command_property(text: &str) -> String {
    command_data(text).replace(':', "%3A").replace(',', "%2C")
}
