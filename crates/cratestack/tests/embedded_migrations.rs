//! Migrations of a host: embedded, and on a pool of its own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "support/servers.rs"]
mod servers;

use cratestack::engine::Database as Place;
use cratestack::migrations::MigrationState;
use cratestack::{Migration, MigrationStatus, apply_pending, ensure_migrations_table, include_migrations, status};
use servers::Database;

fn states(statuses: &[MigrationStatus]) -> Vec<(&str, &str, MigrationState)> {
    statuses.iter().map(|one| (one.id.as_str(), one.description.as_str(), one.state)).collect()
}

#[tokio::test]
async fn a_pool_of_the_hosts_is_migrated() {
    let Some(database) = Database::new().await else { return };
    let pool = database.pool().await;
    let migrations = include_migrations!("tests/migrations").unwrap();
    ensure_migrations_table(&pool).await.unwrap();
    let pending = status(&pool, &migrations).await.unwrap();
    assert_eq!(
        states(&pending),
        [("0001_notes", "keep notes", MigrationState::Pending), ("0002_by_text", "by text", MigrationState::Pending)]
    );
    assert_eq!(apply_pending(&pool, &migrations).await.unwrap().ids, ["0001_notes", "0002_by_text"]);
    let applied = status(&pool, &migrations).await.unwrap();
    assert!(applied.iter().all(|one| one.state.is_clean()));
    // One connection is enough for a pool: a runner has its own.
    let index: bool =
        sqlx::query_scalar("SELECT indisvalid FROM pg_index WHERE indexrelid = 'notes_by_text'::regclass")
            .fetch_one(&pool)
            .await
            .unwrap();
    assert!(index);
}

#[tokio::test]
async fn a_file_of_sqlite_is_migrated() {
    let folder = tempfile::tempdir().unwrap();
    let file = Place::SqliteFile(folder.path().join("notes.db"));
    let mut migrations = include_migrations!("tests/migrations").unwrap();
    migrations.push(Migration::new("0003_first", "the first note", "INSERT INTO notes VALUES (1, 'a')"));
    assert_eq!(apply_pending(&file, &migrations).await.unwrap().ids.len(), 3);
    let error = apply_pending(&file, &migrations[..2]).await.unwrap_err();
    assert!(error.is_drift());
    assert!(error.to_string().starts_with("the migration `0003_first` (`the first note`) was applied at "), "{error}");
}

#[test]
fn the_folder_and_what_is_embedded_of_it_are_the_same() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/migrations");
    let read = cratestack::migrations::from_folder(folder.as_ref()).unwrap();
    assert_eq!(read, include_migrations!("tests/migrations").unwrap());
}
