//! Migrations on both databases.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use std::sync::Arc;

use super::*;
use crate::engine::Database;
use crate::testing::PgDatabase;

mod files;
mod kill;
mod locks;
mod runs;
mod texts;

/// A database of its own.
struct House {
    database: Database,
    postgres: Option<PgDatabase>,
    _folder: tempfile::TempDir,
}

impl House {
    fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { database: Database::SqliteFile(folder.path().join("test.db")), postgres: None, _folder: folder }
    }

    async fn postgres() -> Option<Self> {
        let postgres = PgDatabase::new().await?;
        let database = Database::Postgres(postgres.url.clone());
        Some(Self { database, postgres: Some(postgres), _folder: tempfile::tempdir().unwrap() })
    }

    /// One on each database that is to be tested.
    async fn all() -> Vec<Self> {
        std::iter::once(Self::sqlite()).chain(Self::postgres().await).collect()
    }

    fn dialect(&self) -> Dialect {
        if self.postgres.is_some() { Dialect::Postgres } else { Dialect::Sqlite }
    }

    async fn apply(&self, migrations: &[Migration]) -> Result<Applied, MigrationError> {
        apply_pending(&self.database, migrations).await
    }

    /// What the first column of each row has.
    async fn texts(&self, sql: &str) -> Vec<String> {
        let mut session = session::Session::open(&self.database.place().unwrap()).await.unwrap();
        let rows = session.query(sql, &[]).await.unwrap();
        session.close().await;
        rows.into_iter().map(|row| row[0].clone().unwrap_or_default()).collect()
    }

    async fn run(&self, sql: &str) {
        let mut session = session::Session::open(&self.database.place().unwrap()).await.unwrap();
        session.batch(sql).await.unwrap();
        session.close().await;
    }

    /// Everything that is in the catalog, but for the records.
    async fn catalog(&self) -> Vec<String> {
        let sql = match self.dialect() {
            Dialect::Postgres => {
                "SELECT * FROM (SELECT 'column ' || table_name || '.' || column_name || ' ' || data_type || ' ' || is_nullable AS what \
                 FROM information_schema.columns WHERE table_schema = 'public' \
                 UNION ALL SELECT 'index ' || indexdef || CASE WHEN indisvalid AND indisready THEN '' ELSE ' INVALID' END \
                 FROM pg_indexes JOIN pg_index ON indexrelid = (quote_ident(schemaname) || '.' || quote_ident(indexname))::regclass \
                 WHERE schemaname = 'public' \
                 UNION ALL SELECT 'constraint ' || conname || ' ' || pg_get_constraintdef(oid) FROM pg_constraint \
                 WHERE connamespace = 'public'::regnamespace) AS all_of_it WHERE what NOT LIKE '%cratestack\\_migration%' ORDER BY what"
            }
            Dialect::Sqlite => {
                "SELECT type || ' ' || coalesce(sql, name) FROM sqlite_schema WHERE tbl_name NOT LIKE 'cratestack\\_migration%' \
                 ESCAPE '\\' ORDER BY 1"
            }
        };
        self.texts(sql).await
    }

    async fn states(&self, migrations: &[Migration]) -> Vec<(String, &'static str)> {
        let (statuses, _) = survey(&self.database, migrations).await.unwrap();
        statuses.into_iter().map(|status| (status.id, status.state.name())).collect()
    }
}

fn two() -> Vec<Migration> {
    vec![
        Migration::new(
            "0001_notes",
            "create notes",
            "CREATE TABLE notes (id integer PRIMARY KEY, text text NOT NULL);",
        ),
        Migration::new("0002_more", "an author", "ALTER TABLE notes ADD COLUMN author text"),
    ]
}
