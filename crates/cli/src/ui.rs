//! What the terminal shows: failures with a next step, diagnostics with carets.

use std::fmt;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use cratestack_schema::diag::{Diagnostic, Severity, Span};
use miette::{GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, SourceSpan};

/// Why a command could not do its work: exit code 2.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    help: Option<String>,
}

impl Failure {
    /// One lower-case sentence, without a full stop.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), help: None }
    }

    /// The next step.
    #[must_use]
    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.help {
            Some(help) => write!(f, "\n  help: {help}"),
            None => Ok(()),
        }
    }
}

/// What the operating system says, as a part of a sentence: without Rust's error numbers.
pub(crate) fn cause(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error ").next().unwrap_or_default();
    let mut letters = text.chars();
    letters.next().map(|first| first.to_ascii_lowercase().to_string() + letters.as_str()).unwrap_or_default()
}

/// When to write colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Color {
    /// On a terminal, unless `NO_COLOR` is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// How this run talks to its user.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ui {
    out: bool,
    err: bool,
}

/// The few styles that the command uses (ECMA-48 SGR).
#[derive(Debug, Clone, Copy)]
pub(crate) enum Style {
    /// Headings and results.
    Bold,
    /// What can be skipped.
    Dim,
    /// Failures.
    Red,
    /// Things that went well.
    Green,
    /// Text to copy.
    Cyan,
    /// Things to look at.
    Yellow,
}

#[expect(clippy::unused_self, reason = "whoever writes holds the one value that says how, whether it matters or not")]
impl Ui {
    /// Decides about colours once.
    pub(crate) fn new(color: Color) -> Self {
        let decide = |terminal: bool| match color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => terminal && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()),
        };
        Self { out: decide(std::io::stdout().is_terminal()), err: decide(std::io::stderr().is_terminal()) }
    }

    /// `text` in a style, for stdout.
    pub(crate) fn paint(self, style: Style, text: &str) -> String {
        paint(self.out, style, text)
    }

    /// Prints a failure on stderr.
    pub(crate) fn failure(self, failure: &Failure) {
        self.complain(&format!("{} {}", paint(self.err, Style::Red, "error:"), failure.message));
        if let Some(help) = &failure.help {
            self.complain(&format!("  {} {help}", paint(self.err, Style::Cyan, "help:")));
        }
    }

    /// Prints a line that needs attention, but stops nothing, on stderr.
    pub(crate) fn warn(self, text: &str) {
        self.complain(&format!("{} {text}", paint(self.err, Style::Yellow, "warning:")));
    }

    /// Prints a line on stdout. A closed pipe (`cratestack check | head`) is no failure.
    pub(crate) fn say(self, text: &str) {
        let _closed = self.tell(text);
    }

    /// Prints a line on stdout; whether anybody can read another one.
    pub(crate) fn tell(self, text: &str) -> bool {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{text}").and_then(|()| out.flush()).is_ok()
    }

    /// Prints a line on stderr.
    pub(crate) fn complain(self, text: &str) {
        let _closed = writeln!(std::io::stderr().lock(), "{text}");
    }

    /// A bar for work that may take long.
    pub(crate) fn progress(self, what: &'static str) -> Progress {
        Progress { what, on: std::io::stderr().is_terminal(), begun: Instant::now(), shown: false }
    }

    /// Prints diagnostics with carets on stderr, an empty line after each.
    pub(crate) fn diagnostics(self, path: &str, text: &str, diagnostics: &[Diagnostic]) {
        for diagnostic in diagnostics {
            self.complain(&format!("{}\n", render(path, text, diagnostic, self.err)));
        }
    }
}

/// A line on stderr that shows how far work has come; only on a terminal, and only once it takes noticeable time.
pub(crate) struct Progress {
    what: &'static str,
    on: bool,
    begun: Instant,
    shown: bool,
}

impl Progress {
    /// Shows that `done` of `total` steps are done and `step` begins.
    pub(crate) fn show(&mut self, done: usize, total: usize, step: &str) {
        const WIDTH: usize = 24;
        if !self.on || self.begun.elapsed() < Duration::from_millis(300) {
            return;
        }
        let filled = WIDTH * done / total.max(1);
        let bar = format!("{}{}", "#".repeat(filled), ".".repeat(WIDTH - filled.min(WIDTH)));
        let step: String = step.chars().take(40).collect();
        let _closed = write!(std::io::stderr().lock(), "\r\u{1b}[K{} [{bar}] {done}/{total} {step}", self.what);
        self.shown = true;
    }

    /// Whether anybody can see it.
    pub(crate) fn is_on(&self) -> bool {
        self.on
    }

    /// Takes the line away.
    pub(crate) fn clear(&mut self) {
        if self.shown {
            let _closed = write!(std::io::stderr().lock(), "\r\u{1b}[K");
            self.shown = false;
        }
    }
}

fn paint(on: bool, style: Style, text: &str) -> String {
    if !on {
        return text.to_owned();
    }
    let code = match style {
        Style::Bold => "1",
        Style::Dim => "2",
        Style::Red => "1;31",
        Style::Green => "32",
        Style::Cyan => "36",
        Style::Yellow => "1;33",
    };
    format!("\u{1b}[{code}m{text}\u{1b}[0m")
}

/// A diagnostic as a person reads it.
pub(crate) fn render(path: &str, text: &str, diagnostic: &Diagnostic, color: bool) -> String {
    let theme = if color { GraphicalTheme::unicode() } else { GraphicalTheme::none() };
    let handler = GraphicalReportHandler::new_themed(theme).with_links(false).with_context_lines(1);
    let report = Report { diagnostic, source: NamedSource::new(path, text.to_owned()) };
    let mut out = String::new();
    match handler.render_report(&mut out, &report) {
        Ok(()) => out.trim_end().to_owned(),
        // The handler fails on spans outside the text; the sentence alone still helps.
        Err(fmt::Error) => format!("{path}: {}: {}", diagnostic.code.info().id, diagnostic.message),
    }
}

/// Lends a diagnostic to miette.
#[derive(Debug)]
struct Report<'a> {
    diagnostic: &'a Diagnostic,
    source: NamedSource<String>,
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.diagnostic.message)
    }
}

impl std::error::Error for Report<'_> {}

fn source_span(span: Span) -> SourceSpan {
    let (start, end) = (span.start as usize, span.end as usize);
    SourceSpan::from((start, end.saturating_sub(start)))
}

impl miette::Diagnostic for Report<'_> {
    fn code<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new(self.diagnostic.code.info().id))
    }

    fn severity(&self) -> Option<miette::Severity> {
        Some(match self.diagnostic.severity {
            Severity::Warning => miette::Severity::Warning,
            Severity::Error => miette::Severity::Error,
        })
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.diagnostic.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn miette::SourceCode> {
        Some(&self.source)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let primary = std::iter::once(&self.diagnostic.primary);
        Some(Box::new(primary.chain(&self.diagnostic.labels).enumerate().map(|(at, label)| {
            let text = (!label.text.is_empty()).then(|| label.text.clone());
            if at == 0 {
                LabeledSpan::new_primary_with_span(text, source_span(label.span))
            } else {
                LabeledSpan::new_with_span(text, source_span(label.span))
            }
        })))
    }
}
