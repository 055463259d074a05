//! From the path in the macro's call to a compiled schema.

use std::path::Path;

use cratestack_schema::diag::{Diagnostic, Lines};
use cratestack_schema::ir::Schema;

/// A schema and where it is.
#[derive(Debug)]
pub(crate) struct File {
    pub(crate) schema: Schema,
    /// For `include_str!`, which is how Cargo learns that the crate depends on the file.
    pub(crate) absolute: String,
}

/// Reads and compiles `path`, which is relative to `root`.
///
/// # Errors
/// One message for each thing that is wrong.
pub(crate) fn load(root: &Path, path: &str) -> Result<File, Vec<String>> {
    let absolute = root.join(path);
    let text = std::fs::read_to_string(&absolute).map_err(|error| {
        vec![format!("cannot read the schema `{path}`: {error}; the path is relative to the folder of `Cargo.toml`")]
    })?;
    let name = absolute.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let schema = compile(name, path, &text)?;
    let absolute = absolute.to_str().ok_or_else(|| vec![format!("the path of `{path}` is no Unicode text")])?;
    Ok(File { schema, absolute: absolute.to_owned() })
}

/// Compiles a schema; warnings are left to `cratestack check`.
///
/// # Errors
/// The errors as text.
pub(crate) fn compile(name: &str, path: &str, text: &str) -> Result<Schema, Vec<String>> {
    let (schema, diagnostics) = cratestack_schema::compile(name, text);
    schema.ok_or_else(|| {
        let lines = Lines::new(text);
        diagnostics.iter().filter(|one| one.is_error()).map(|one| message(path, &lines, one)).collect()
    })
}

/// `bank.cstack:12:3: error[CST0101]: ..`, with its labels and help below.
fn message(path: &str, lines: &Lines<'_>, one: &Diagnostic) -> String {
    let at = |offset| {
        let place = lines.position(offset);
        format!("{path}:{}:{}", place.line, place.column)
    };
    let mut lines = vec![format!("{}: error[{}]: {}", at(one.primary.span.start), one.code, one.message)];
    if !one.primary.text.is_empty() {
        lines.push(format!("  {}", one.primary.text));
    }
    lines.extend(one.labels.iter().map(|label| format!("  {}: {}", at(label.span.start), label.text)));
    lines.extend(one.help.iter().map(|help| format!("  help: {help}")));
    lines.join("\n")
}
