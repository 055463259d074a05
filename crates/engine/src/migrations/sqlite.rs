//! What only SQLite needs: tables that are made anew, because much cannot be altered, without loss.

use super::session::{Refusal, Session, Texts};
use super::{MigrationError, Statement, Step};
use crate::sql::Dialect;

/// SQLite removes the rows of a table that is dropped one by one, and those that refer to them, unless foreign keys are
/// off; the switch does nothing inside a transaction. With the legacy renaming a table takes the place of one that was
/// dropped, and views and references are left by name alone.
pub(super) async fn for_drops(session: &mut Session, step: &Step) -> Result<(), MigrationError> {
    let dropped: Vec<&str> = step.statements.iter().filter_map(Statement::dropped_table).collect();
    if session.dialect() == Dialect::Postgres || dropped.is_empty() {
        return Ok(());
    }
    let renamed: Vec<&str> = step.statements.iter().filter_map(Statement::renamed_table).collect();
    let (places, others): (Vec<&str>, Vec<&str>) =
        renamed.into_iter().partition(|to| dropped.iter().any(|name| name.eq_ignore_ascii_case(to)));
    let doing = "switch foreign keys";
    let failed = |refusal: Refusal| refusal.while_doing(doing);
    if let (Some(_), Some(other)) = (places.first(), others.first()) {
        let message = format!(
            "the step puts a table in the place of one that it drops, and renames another one to `{other}`: give each \
             its own step"
        );
        return Err(MigrationError::Database { doing: "rename tables".to_owned(), message });
    }
    let legacy = if places.is_empty() { "OFF" } else { "ON" };
    let switch = format!("PRAGMA foreign_keys = OFF; PRAGMA legacy_alter_table = {legacy}");
    session.batch(&switch).await.map_err(failed)?;
    let is = session.query("PRAGMA foreign_keys", &[]).await.map_err(failed)?;
    if is == [[Some("0".to_owned())]] {
        return Ok(());
    }
    let message = "the connection does not do it".to_owned();
    Err(MigrationError::Database { doing: doing.to_owned(), message })
}

/// What an SQLite file had before a step, and must not lose by it.
#[derive(Debug, Default)]
pub(super) struct Before {
    /// References without their rows: where, and how many. `None` where SQLite cannot tell, because a reference is to
    /// columns that are no key.
    orphans: Option<Vec<Texts>>,
    /// Indexes and triggers of tables that are made anew: name and table.
    parts: Vec<Texts>,
}

const ORPHANS: &str = "SELECT \"table\", \"parent\", count(*) FROM pragma_foreign_key_check GROUP BY 1, 2";
const PARTS: &str = "SELECT name, tbl_name FROM sqlite_schema WHERE type IN ('index', 'trigger') AND sql IS NOT NULL";

async fn orphans(session: &mut Session) -> Result<Option<Vec<Texts>>, MigrationError> {
    match session.query(ORPHANS, &[]).await {
        Ok(rows) => Ok(Some(rows)),
        Err(refusal) if refusal.message.contains("foreign key mismatch") => Ok(None),
        Err(refusal) => Err(refusal.while_doing("check the references")),
    }
}

fn cell(row: &Texts, at: usize) -> &str {
    row.get(at).and_then(Option::as_deref).unwrap_or_default()
}

impl Before {
    pub(super) async fn look(session: &mut Session, step: &Step) -> Result<Self, MigrationError> {
        if session.dialect() == Dialect::Postgres {
            return Ok(Self::default());
        }
        let orphans = orphans(session).await?;
        let mut anew: Vec<&str> = step.statements.iter().filter_map(Statement::dropped_table).collect();
        // One that is renamed first, and dropped under its new name.
        let renamed = step.statements.iter().filter_map(|one| Some((one.renamed_from()?, one.renamed_table()?)));
        let aside = renamed.filter(|(_, to)| anew.iter().any(|name| name.eq_ignore_ascii_case(to)));
        anew.extend(aside.map(|(from, _)| from).collect::<Vec<_>>());
        let parts = session.query(PARTS, &[]).await;
        let mut parts = parts.map_err(|refusal| refusal.while_doing("look at the indexes and triggers"))?;
        parts.retain(|part| anew.iter().any(|name| name.eq_ignore_ascii_case(cell(part, 1))));
        Ok(Self { orphans, parts })
    }

    /// That no reference is without its row that was not before, and that a table that was made anew has its indexes and
    /// triggers again, unless the step says that they go.
    pub(super) async fn compare(self, session: &mut Session, step: &Step) -> Result<(), MigrationError> {
        if session.dialect() == Dialect::Postgres {
            return Ok(());
        }
        if let (Some(old), Some(new)) = (&self.orphans, orphans(session).await?) {
            let count = |row: &Texts| cell(row, 2).parse::<u64>().unwrap_or_default();
            let grown = new.iter().filter(|row| {
                let same = old.iter().find(|old| cell(old, 0) == cell(row, 0) && cell(old, 1) == cell(row, 1));
                same.is_none_or(|old| count(old) < count(row))
            });
            let grown: Vec<String> =
                grown.map(|row| format!("in `{}` of rows of `{}`", cell(row, 0), cell(row, 1))).collect();
            if !grown.is_empty() {
                let message = format!("there would be references without rows: {}", grown.join(", "));
                return Err(MigrationError::Database { doing: "keep the references whole".to_owned(), message });
            }
        }
        let failed = |refusal: Refusal| refusal.while_doing("look at the indexes and triggers");
        let tables = session.query("SELECT name FROM sqlite_schema WHERE type = 'table'", &[]).await.map_err(failed)?;
        let parts = session.query(PARTS, &[]).await.map_err(failed)?;
        let meant: Vec<&str> = step.statements.iter().filter_map(Statement::dropped_part).collect();
        let same = |one: &str, other: &str| one.eq_ignore_ascii_case(other);
        let lost = self.parts.iter().filter(|part| {
            let (name, of) = (cell(part, 0), cell(part, 1));
            tables.iter().any(|table| same(cell(table, 0), of))
                && !parts.iter().any(|part| same(cell(part, 0), name) && same(cell(part, 1), of))
                && !meant.iter().any(|meant| same(meant, name))
        });
        let lost: Vec<String> = lost.map(|part| format!("`{}` of `{}`", cell(part, 0), cell(part, 1))).collect();
        if lost.is_empty() {
            return Ok(());
        }
        let message =
            format!("the table is made anew without {}: make them again, or drop them first", lost.join(", "));
        Err(MigrationError::Database { doing: "rebuild a table".to_owned(), message })
    }
}
