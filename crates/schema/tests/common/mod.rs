//! Diagnostics as the plain text that expectations are written in.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]

use std::fmt::Write;

use cratestack_schema::diag::{Diagnostic, Lines, Span};

/// Whether expectations are to be written instead of compared.
pub fn updating() -> bool {
    std::env::var_os("UPDATE_EXPECT").is_some()
}

/// Every diagnostic with the exact text that it underlines.
pub fn render(text: &str, found: &[Diagnostic]) -> String {
    let lines = Lines::new(text);
    let place = |span: Span| {
        let at = lines.position(span.start);
        format!("{}:{} `{}`", at.line, at.column, visible(span.slice(text)))
    };
    let mut out = String::new();
    for one in found {
        let about = |words: &str| if words.is_empty() { String::new() } else { format!(" {words}") };
        writeln!(out, "{}[{}]: {}", one.severity.word(), one.code, visible(&one.message)).unwrap();
        writeln!(out, "  at {}{}", place(one.primary.span), about(&one.primary.text)).unwrap();
        for label in &one.labels {
            writeln!(out, "  and {}{}", place(label.span), about(&label.text)).unwrap();
        }
        if let Some(help) = &one.help {
            writeln!(out, "  help: {}", visible(help)).unwrap();
        }
        if let Some(fix) = &one.fix {
            let edits: Vec<String> =
                fix.edits.iter().map(|edit| format!("{} -> `{}`", place(edit.span), visible(&edit.text))).collect();
            writeln!(out, "  fix: {}: {}", fix.title, edits.join(", ")).unwrap();
        }
    }
    out
}

/// One line, with nothing in it that cannot be seen.
fn visible(text: &str) -> String {
    text.chars()
        .map(|next| match next {
            '\n' => "\\n".to_owned(),
            '\t' => "\\t".to_owned(),
            next if next.is_control() || matches!(next, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}') => {
                format!("\\u{{{:x}}}", u32::from(next))
            }
            next => next.to_string(),
        })
        .collect()
}

/// The text with the fix of a diagnostic applied.
pub fn mend(text: &str, one: &Diagnostic) -> Option<String> {
    let mut edits = one.fix.as_ref()?.edits.clone();
    edits.sort_by_key(|edit| std::cmp::Reverse(edit.span.start));
    let mut text = text.to_owned();
    for edit in edits {
        text.replace_range(edit.span.start as usize..edit.span.end as usize, &edit.text);
    }
    Some(text)
}

/// Messages are one lower-case sentence without a full stop; a help line begins in lower case too.
pub fn check_style(one: &Diagnostic) {
    let lower = |text: &str| !text.starts_with(char::is_uppercase) && !text.ends_with('.') && !text.contains('\n');
    assert!(lower(&one.message), "{}: {}", one.code, one.message);
    assert!(one.message.matches('`').count().is_multiple_of(2), "{}: {}", one.code, one.message);
    if let Some(help) = &one.help {
        assert!(lower(help) || help.ends_with("(..)`") || help.ends_with(".."), "{}: {help}", one.code);
    }
    for label in one.labels.iter().chain([&one.primary]) {
        assert!(lower(&label.text), "{}: {}", one.code, label.text);
    }
}
