//! Database URLs.

use std::fmt;
use std::path::PathBuf;

use cratestack_engine::Database;
use cratestack_schema::fuzzy;

/// Why a text is no database URL. It may carry a password, so that it is never shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadUrl {
    /// What is wrong with it, as what follows its name: `names no SQLite file`.
    pub reason: String,
    /// What to write.
    pub help: String,
}

impl fmt::Display for BadUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the database URL {}; {}", self.reason, self.help)
    }
}

impl std::error::Error for BadUrl {}

/// Reads `sqlite:PATH`, `sqlite::memory:` or `postgres://USER@HOST/NAME`.
pub fn parse(url: &str) -> Result<Database, BadUrl> {
    let bad = |reason: String, help: String| Err(BadUrl { reason, help });
    if url == "sqlite::memory:" {
        return Ok(Database::SqliteMemory);
    }
    if let Some(path) = url.strip_prefix("sqlite:") {
        let path = path.strip_prefix("//").unwrap_or(path);
        if path.is_empty() || path.contains('\0') {
            return bad("names no SQLite file".to_owned(), "write `sqlite:path/to/file.db`".to_owned());
        }
        return Ok(Database::SqliteFile(PathBuf::from(path)));
    }
    if url.starts_with("postgres://") || url.starts_with("postgresql://") {
        return match unknown_parameter(url) {
            None => Ok(Database::Postgres(url.to_owned())),
            Some(name) => {
                let help = match fuzzy::nearest(&name, PARAMETERS) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("the parameters are {}", PARAMETERS.map(|known| format!("`{known}`")).join(", ")),
                };
                bad(format!("has a parameter that cratestack does not know: `{name}`"), help)
            }
        };
    }
    bad(
        "is not a database URL that cratestack knows".to_owned(),
        "write `sqlite:PATH`, `sqlite::memory:` or `postgres://USER@HOST/NAME`".to_owned(),
    )
}

/// What a PostgreSQL URL may carry after its `?`. The driver passes over any other, as if it had been heeded.
const PARAMETERS: [&str; 12] = [
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
];

fn unknown_parameter(url: &str) -> Option<String> {
    let (_, query) = url.split_once('?')?;
    let query = query.split('#').next().unwrap_or_default();
    let names = query.split('&').filter(|part| !part.is_empty()).map(|part| part.split('=').next().unwrap_or_default());
    let known = |name: &str| PARAMETERS.contains(&name) || name.starts_with("options[") && name.ends_with(']');
    names.into_iter().find(|name| !known(name)).map(str::to_owned)
}
