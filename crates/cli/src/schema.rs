//! `check`, `fmt` and `explain`: schema files as text.

use std::io::Read;

use cratestack_schema::diag::{self, Code, Diagnostic};
use cratestack_schema::fuzzy;
use cratestack_schema::ir::Schema;

use crate::Outcome;
use crate::ui::{self, Failure, Style, Ui};

/// How `check` writes its findings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// With carets, on stderr.
    Human,
    /// A JSON array on stdout.
    Json,
    /// SARIF 2.1.0 on stdout.
    Sarif,
    /// GitHub workflow annotations on stdout.
    Github,
}

/// Reads a schema file; `-` is standard input.
pub(crate) fn read(path: &str) -> Result<String, Failure> {
    let bytes = if path == "-" {
        let mut bytes = Vec::new();
        std::io::stdin().read_to_end(&mut bytes).map(|_| bytes)
    } else {
        std::fs::read(path)
    };
    let bytes = bytes.map_err(|error| {
        let help = match error.kind() {
            std::io::ErrorKind::PermissionDenied => "check the permissions of the file and its folders",
            _ => "name an existing `.cstack` file",
        };
        Failure::new(format!("cannot read {}: {}", shown(path), ui::cause(&error))).help(help)
    })?;
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Failure::new(format!("{} is not UTF-8 (octet {at})", shown(path))).help("save the file as UTF-8")
    })
}

/// The file in a sentence.
pub(crate) fn shown(path: &str) -> String {
    if path == "-" { "standard input".to_owned() } else { format!("`{path}`") }
}

/// The schema's name: the stem of its file.
pub(crate) fn name(path: &str) -> String {
    let stem = std::path::Path::new(path).file_stem().map(|stem| stem.to_string_lossy().into_owned());
    stem.filter(|stem| stem != "-").unwrap_or_else(|| "schema".to_owned())
}

/// Compiles a file and shows what is wrong with it; `None` when it has errors.
pub(crate) fn load(ui: Ui, path: &str) -> Result<Option<Schema>, Failure> {
    let text = read(path)?;
    let (schema, diagnostics) = cratestack_schema::compile(&name(path), &text);
    ui.diagnostics(path, &text, &diagnostics);
    Ok(schema)
}

struct Checked {
    path: String,
    text: String,
    diagnostics: Vec<Diagnostic>,
    /// Whether it is a schema, and serves nothing.
    bare: bool,
}

/// `cratestack check`.
pub(crate) fn check(ui: Ui, paths: &[String], format: Format) -> Result<Outcome, Failure> {
    let mut files = Vec::new();
    for path in paths {
        let text = read(path)?;
        let (schema, diagnostics) = cratestack_schema::compile(&name(path), &text);
        let bare = schema.is_some_and(|schema| schema.models.is_empty() && schema.procedures.is_empty());
        files.push(Checked { path: path.clone(), text, diagnostics, bare });
    }
    match format {
        Format::Human => human(ui, &files),
        Format::Json | Format::Sarif | Format::Github => {
            let files: Vec<diag::File<'_>> = files
                .iter()
                .map(|file| diag::File { path: &file.path, text: &file.text, diagnostics: &file.diagnostics })
                .collect();
            let text = match format {
                Format::Sarif => diag::sarif(&files),
                Format::Github => diag::github(&files),
                Format::Json | Format::Human => diag::json(&files),
            };
            if !text.is_empty() {
                ui.say(text.trim_end());
            }
        }
    }
    let errors = files.iter().flat_map(|file| &file.diagnostics).any(Diagnostic::is_error);
    Ok(if errors { Outcome::Findings } else { Outcome::Clean })
}

fn human(ui: Ui, files: &[Checked]) {
    for file in files {
        ui.diagnostics(&file.path, &file.text, &file.diagnostics);
    }
    let all = || files.iter().flat_map(|file| &file.diagnostics);
    let errors = all().filter(|diagnostic| diagnostic.is_error()).count();
    let warnings = all().count() - errors;
    for file in files.iter().filter(|file| file.bare) {
        ui.warn(&format!("{} declares no model and no procedure", shown(&file.path)));
    }
    if errors == 0 && warnings == 0 {
        let what = match files {
            [file] => format!("{} is valid", shown(&file.path)),
            files => format!("{} files are valid", files.len()),
        };
        return ui.say(&ui.paint(Style::Green, &what));
    }
    let plural = |n: usize, word: &str| format!("{n} {word}{}", if n == 1 { "" } else { "s" });
    ui.complain(&format!("{}, {}", plural(errors, "error"), plural(warnings, "warning")));
    if let Some(first) = all().find(|diagnostic| diagnostic.is_error()) {
        ui.complain(&format!("`cratestack explain {}` shows an example and its mend", first.code.info().id));
    }
}

/// `cratestack fmt`.
pub(crate) fn fmt(ui: Ui, paths: &[String], check: bool) -> Result<Outcome, Failure> {
    let mut outcome = Outcome::Clean;
    for path in paths {
        let text = read(path)?;
        let formatted = match cratestack_schema::format(&text) {
            Ok(formatted) => formatted,
            Err(diagnostics) => {
                ui.diagnostics(path, &text, &diagnostics);
                outcome = Outcome::Findings;
                continue;
            }
        };
        if check {
            if formatted != text {
                ui.complain(&format!("{} is not formatted; `cratestack fmt {path}` formats it", shown(path)));
                outcome = Outcome::Findings;
            }
        } else if path == "-" {
            ui.say(formatted.trim_end_matches('\n'));
        } else if formatted != text {
            replace(path, &formatted)?;
            ui.say(&format!("formatted `{path}`"));
        }
    }
    Ok(outcome)
}

/// Writes beside the file and renames, so that a crash leaves the old text or the new one.
fn replace(path: &str, text: &str) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        Failure::new(format!("cannot write `{path}`: {}", ui::cause(&error)))
            .help("check the permissions of the file and its folder")
    };
    let target = std::fs::canonicalize(path).map_err(failed)?;
    let mut name = target.as_os_str().to_owned();
    name.push(".cratestack-fmt");
    let draft = std::path::PathBuf::from(name);
    let permissions = std::fs::metadata(&target).map_err(failed)?.permissions();
    let written = std::fs::write(&draft, text)
        .and_then(|()| std::fs::set_permissions(&draft, permissions))
        .and_then(|()| std::fs::rename(&draft, &target));
    written.map_err(|error| {
        let _gone = std::fs::remove_file(&draft);
        failed(error)
    })
}

/// `cratestack explain`.
pub(crate) fn explain(ui: Ui, code: Option<&str>) -> Result<Outcome, Failure> {
    let Some(code) = code else {
        for code in Code::ALL {
            let info = code.info();
            ui.say(&format!("{}  {:7}  {}", ui.paint(Style::Bold, info.id), info.severity.word(), info.summary));
        }
        return Ok(Outcome::Clean);
    };
    // `101` and `cst101` can only mean `CST0101`.
    let number = code.to_uppercase().trim_start_matches("CST").parse::<u16>();
    let wanted = number.map_or_else(|_| code.to_uppercase(), |number| format!("CST{number:04}"));
    if let Some(found) = Code::ALL.iter().find(|known| known.info().id == wanted) {
        ui.say(diag::explain(*found).trim_end());
        return Ok(Outcome::Clean);
    }
    let near = fuzzy::nearest(&wanted, Code::ALL.iter().map(|code| code.info().id));
    let help = match near {
        Some(near) => format!("did you mean `{near}`? `cratestack explain` lists every code"),
        None => "`cratestack explain` lists every code".to_owned(),
    };
    Err(Failure::new(format!("`{code}` is not a diagnostic code")).help(help))
}
