//! Folders of migrations.

use super::*;

fn load(files: &[(&'static str, &'static str)]) -> Result<Vec<Migration>, String> {
    from_files(files.iter().copied()).map_err(|error| format!("{error} | {}", error.help))
}

#[test]
fn a_folder_has_migrations_in_the_order_of_their_names() {
    let folder = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("20260102T000000_more_notes/expand.postgres.sql", "SELECT 2");
    write("20260102T000000_more_notes/expand.sqlite.sql", "SELECT 3");
    write("20260102T000000_more_notes/contract.sql", "SELECT 4");
    write("20260102T000000_more_notes/README.md", "for people");
    write("20260101T000000_notes/expand.sql", "SELECT 1");
    write("20260101T000000_notes/plan.toml", "description = \"create the notes\"");
    write(".gitkeep", "");
    let migrations = from_folder(folder.path()).unwrap();
    let told: Vec<_> =
        migrations.iter().map(|one| (one.id.as_ref(), one.description.as_ref(), one.scripts.len())).collect();
    assert_eq!(
        told,
        [("20260101T000000_notes", "create the notes", 1), ("20260102T000000_more_notes", "more notes", 3)]
    );
    let of = |dialect| {
        let prepared = Prepared::new(&migrations[1], dialect).unwrap();
        prepared.steps.iter().map(|step| format!("{} {}", step.phase, step.statements[0].sql)).collect::<Vec<_>>()
    };
    assert_eq!(of(Dialect::Postgres), ["expand SELECT 2", "contract SELECT 4"]);
    assert_eq!(of(Dialect::Sqlite), ["expand SELECT 3", "contract SELECT 4"]);
    let missing = from_folder(&folder.path().join("nowhere")).unwrap_err();
    assert!(missing.message.starts_with("cannot be read: no such file"), "{missing}");
}

#[test]
fn what_no_migration_has_is_said() {
    let cases: [(&[(&str, &str)], &str); 8] = [
        (&[("a/expnd.sql", "")], "`a/expnd.sql`: no file of a migration; did you mean `expand.sql`?"),
        (
            &[("a/expand.mysql.sql", "")],
            "`a/expand.mysql.sql`: no file of a migration; did you mean `expand.sqlite.sql`?",
        ),
        (&[("a.sql", "")], "`a.sql`: a file where only folders are"),
        (
            &[("a/expand.sql", ""), ("a/expand.sqlite.sql", "")],
            "`a`: `expand.sql` is there, and `expand` for one database too",
        ),
        (&[("a/plan.toml", "description = \"x\"")], "`a`: a migration without SQL"),
        (&[("a/plan.toml", "descripton = \"x\"")], "`a/plan.toml`: unknown field `descripton`"),
        (&[("a/plan.toml", "steps = []")], "`a/plan.toml`: unknown field `steps`"),
        (&[("a/deep/expand.sql", "")], "`a/deep/expand.sql`: no file of a migration"),
    ];
    for (files, message) in cases {
        let error = load(files).unwrap_err();
        assert!(error.starts_with(message), "{error}");
        assert!(error.split(" | ").nth(1).is_some_and(|help| !help.is_empty()));
    }
}

#[test]
fn ids_ascend_and_a_half_for_the_other_database_is_no_migration() {
    let prepare = |migrations: &[Migration]| Prepared::all(migrations, Dialect::Sqlite).unwrap_err().to_string();
    let one = |id: &'static str| Migration::new(id, "x", "SELECT 1");
    assert_eq!(
        prepare(&[one("2"), one("1")]),
        "the migration `1` stands behind `2`, and its id does not come after that one's"
    );
    assert_eq!(
        prepare(&[one("2"), one("2")]),
        "the migration `2` stands behind `2`, and its id does not come after that one's"
    );
    assert_eq!(prepare(&[one("a/b")]), "`a/b` is not an id of a migration");
    assert_eq!(prepare(&[one("")]), "`` is not an id of a migration");
    let half = load(&[("a/expand.postgres.sql", "SELECT 1")]).unwrap();
    assert_eq!(prepare(&half), "migration `a` has SQL of expand, and none for SQLite");
    let both = load(&[("a/expand.postgres.sql", "SELECT 1"), ("a/expand.sqlite.sql", "-- nothing to do")]).unwrap();
    assert!(Prepared::all(&both, Dialect::Sqlite).unwrap()[0].steps.is_empty());
    let wrong = Migration { schema: Some("{".into()), ..one("1") };
    assert!(prepare(&[wrong]).starts_with("the schema of the migration `1` cannot be read: "));
}
