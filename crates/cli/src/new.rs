//! `new`: a project small enough to read in a minute.

use std::path::Path;

use crate::Outcome;
use crate::ui::{self, Failure, Style, Ui};

const SCHEMA: &str = include_str!("../templates/new.cstack");
const README: &str = include_str!("../templates/README.md");
const IGNORE: &str = ".cratestack/\n";

/// `cratestack new DIR`.
pub(crate) fn run(ui: Ui, dir: &str) -> Result<Outcome, Failure> {
    let folder = Path::new(dir);
    let failed = |error: std::io::Error| {
        Failure::new(format!("cannot make the project in `{dir}`: {}", ui::cause(&error)))
            .help("choose a folder that you may write to")
    };
    if dir.is_empty() {
        return Err(Failure::new("the folder has no name").help("write `cratestack new bank`, or `.` for this folder"));
    }
    match std::fs::read_dir(folder) {
        Ok(entries) => {
            // A fresh repository counts as empty.
            if entries.flatten().any(|entry| entry.file_name() != ".git") {
                return Err(Failure::new(format!("the folder `{dir}` is not empty"))
                    .help("choose another name, or remove what is in it"));
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    std::fs::create_dir_all(folder).map_err(failed)?;
    let name = file_stem(&std::fs::canonicalize(folder).map_err(failed)?);
    let files = [
        (format!("{name}.cstack"), SCHEMA.to_owned()),
        ("README.md".to_owned(), README.replace("{name}", &name)),
        (".gitignore".to_owned(), IGNORE.to_owned()),
    ];
    for (file, text) in &files {
        std::fs::write(folder.join(file), text).map_err(failed)?;
    }
    ui.say(&format!("made `{dir}` with {}", files.each_ref().map(|(file, _)| format!("`{file}`")).join(", ")));
    let plain = |c: char| c.is_ascii_alphanumeric() || "./_-".contains(c);
    let enter = match dir {
        "." => String::new(),
        dir if dir.chars().all(plain) => format!("cd {dir} && "),
        dir => format!("cd '{}' && ", dir.replace('\'', r"'\''")),
    };
    ui.say(&format!("\nnext:\n  {}", ui.paint(Style::Cyan, &format!("{enter}cratestack dev {name}.cstack"))));
    Ok(Outcome::Clean)
}

/// The folder's name as a file stem: whatever is not a letter, a digit, `-` or `_` becomes `-`.
fn file_stem(folder: &Path) -> String {
    let name = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let plain: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' || c == '-' { c } else { '-' }).collect();
    // A leading `-` would read as a flag.
    let plain = plain.trim_matches('-');
    if plain.is_empty() { "app".to_owned() } else { plain.to_owned() }
}
