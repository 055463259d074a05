//! Migrations from a folder, at run time or embedded.
//!
//! ```text
//! migrations/
//!   20261123T101500_create_accounts/
//!     plan.toml               description = "create accounts", and the schema that it was made from
//!     expand.sql              for both databases, or `expand.postgres.sql` and `expand.sqlite.sql`
//!     backfill.sql  validate.sql  contract.sql
//!     schema.json             what the database carries afterwards
//! ```

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cratestack_schema::fuzzy;

use super::{Migration, Phase, Script};
use crate::sql::Dialect;

/// What is wrong with a folder of migrations.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{path}`: {message}")]
pub struct FilesError {
    /// Of the file or folder.
    pub path: String,
    /// One sentence.
    pub message: String,
    /// The next step.
    pub help: String,
}

fn failed<T>(path: &str, message: impl Into<String>, help: impl Into<String>) -> Result<T, FilesError> {
    Err(FilesError { path: path.to_owned(), message: message.into(), help: help.into() })
}

/// The migrations of a folder, in the order of their names.
///
/// # Errors
/// When it cannot be read, or has what no migration has.
pub fn from_folder(folder: &Path) -> Result<Vec<Migration>, FilesError> {
    let mut files = Vec::new();
    for (name, path) in listed(folder)? {
        if !path.is_dir() {
            files.push((name, String::new()));
            continue;
        }
        let inside = listed(&path)?;
        if inside.is_empty() {
            return failed(&path.display().to_string(), "a migration without files", EXPECTED);
        }
        for (file, path) in inside {
            let text = std::fs::read_to_string(&path).or_else(|error| unreadable(&path, &error))?;
            files.push((format!("{name}/{file}"), text));
        }
    }
    from_files(files)
}

/// What is in a folder, but for hidden files.
fn listed(folder: &Path) -> Result<Vec<(String, PathBuf)>, FilesError> {
    let entries = std::fs::read_dir(folder).or_else(|error| unreadable(folder, &error))?;
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.or_else(|error| unreadable(folder, &error))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        found.push((name, entry.path()));
    }
    found.retain(|(name, _)| !name.starts_with('.'));
    found.sort();
    Ok(found)
}

fn unreadable<T>(path: &Path, error: &std::io::Error) -> Result<T, FilesError> {
    let text = error.to_string();
    let text = text.split(" (os error ").next().unwrap_or_default().to_lowercase();
    failed(&path.display().to_string(), format!("cannot be read: {text}"), "check that it is there, and may be read")
}

const EXPECTED: &str = "a migration has `expand.sql`, `backfill.sql`, `validate.sql` or `contract.sql`, each also as \
                        `expand.postgres.sql` and `expand.sqlite.sql`, and may have `plan.toml` and `schema.json`";

/// The migrations of files, whose paths are `ID/FILE`. Those whose names end in `.md` are for people.
///
/// # Errors
/// When there is a file that no migration has.
pub fn from_files<P, T>(files: impl IntoIterator<Item = (P, T)>) -> Result<Vec<Migration>, FilesError>
where
    P: AsRef<str>,
    T: Into<Cow<'static, str>>,
{
    let mut migrations: BTreeMap<String, Migration> = BTreeMap::new();
    for (path, text) in files {
        let (path, text) = (path.as_ref(), text.into());
        if Path::new(path).extension().is_some_and(|extension| extension == "md") {
            continue;
        }
        let Some((id, file)) = path.split_once('/') else {
            return failed(
                path,
                "a file where only folders are",
                "each migration is a folder; `migrate new` makes one",
            );
        };
        let migration = migrations.entry(id.to_owned()).or_insert_with(|| {
            let words = id.split_once('_').map_or(id, |(_, name)| name).replace('_', " ");
            Migration { id: id.to_owned().into(), description: words.into(), ..Migration::default() }
        });
        match file {
            "plan.toml" => {
                let PlanFile { description, base } = plan(path, &text)?;
                migration.description = description.into();
                migration.base = base.map(Into::into);
            }
            "schema.json" => migration.schema = Some(text),
            _ => migration.scripts.push(script(path, file, text)?),
        }
    }
    for (id, migration) in &migrations {
        whole(id, migration)?;
    }
    Ok(migrations.into_values().collect())
}

fn script(path: &str, file: &str, sql: Cow<'static, str>) -> Result<Script, FilesError> {
    let mut parts = file.split('.');
    let phase = parts.next().and_then(|name| Phase::ALL.into_iter().find(|phase| phase.name() == name));
    let dialect = match (parts.next(), parts.next(), parts.next()) {
        (Some("sql"), None, None) => Some(None),
        (Some("postgres"), Some("sql"), None) => Some(Some(Dialect::Postgres)),
        (Some("sqlite"), Some("sql"), None) => Some(Some(Dialect::Sqlite)),
        _ => None,
    };
    if let (Some(phase), Some(dialect)) = (phase, dialect) {
        return Ok(Script { phase, dialect, sql });
    }
    let known =
        Phase::ALL.into_iter().flat_map(|phase| ["", ".postgres", ".sqlite"].map(|of| format!("{phase}{of}.sql")));
    let known: Vec<String> = known.chain(["plan.toml".to_owned(), "schema.json".to_owned()]).collect();
    let near = fuzzy::nearest(file, known.iter().map(String::as_str));
    let near = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
    failed(path, format!("no file of a migration{near}"), EXPECTED)
}

/// That each phase has SQL for both databases, or is the same for both.
fn whole(id: &str, migration: &Migration) -> Result<(), FilesError> {
    for phase in Phase::ALL {
        let has = |dialect| migration.scripts.iter().any(|script| script.phase == phase && script.dialect == dialect);
        let (both, postgres, sqlite) = (has(None), has(Some(Dialect::Postgres)), has(Some(Dialect::Sqlite)));
        if both && (postgres || sqlite) {
            let help = format!("keep `{phase}.sql` for both databases, or the two others");
            return failed(id, format!("`{phase}.sql` is there, and `{phase}` for one database too"), help);
        }
    }
    if migration.scripts.is_empty() {
        return failed(id, "a migration without SQL", EXPECTED);
    }
    Ok(())
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct PlanFile {
    description: String,
    base: Option<String>,
}

fn plan(path: &str, text: &str) -> Result<PlanFile, FilesError> {
    let help = "it has `description = \"what the migration is for\"`, and where `migrate new` has written it `base`";
    toml::from_str(text).or_else(|error: toml::de::Error| failed(path, error.message(), help))
}
