//! A runner that is killed at each of its moments. The one after it brings the database to where it would have been.
//!
//! The runner is a child process: this test program with [`child`] as its only test. At the moment that it was told it
//! says so and stands still; then it gets a SIGKILL, as from `kill -9`.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};

use super::*;

const DATABASE: &str = "CRATESTACK_TEST_MIGRATIONS_DATABASE";
const KILL_AT: &str = "CRATESTACK_TEST_MIGRATIONS_KILL_AT";

/// Short, so that nobody waits long for a runner that is dead.
fn options() -> RunnerOptions {
    RunnerOptions { lease: Duration::from_millis(200), ..RunnerOptions::default() }
}

fn migrations(dialect: Dialect) -> Vec<Migration> {
    let outside = match dialect {
        Dialect::Postgres => {
            "-- cratestack: step\n-- cratestack: no-transaction\n\
             CREATE INDEX CONCURRENTLY a_by_text ON a (text);\n\
             ALTER TABLE a VALIDATE CONSTRAINT positive;\n\
             -- cratestack: step\n-- cratestack: no-transaction\n-- cratestack: done-when SELECT count(*) = 4 FROM a\n\
             INSERT INTO a (id, text) VALUES (4, 'd');\n"
        }
        Dialect::Sqlite => {
            "-- cratestack: step\n-- cratestack: no-transaction\nVACUUM;\n\
             -- cratestack: step\n-- cratestack: no-transaction\n-- cratestack: done-when SELECT count(*) = 4 FROM a\n\
             INSERT INTO a (id, text) VALUES (4, 'd');\n"
        }
    };
    let check = match dialect {
        Dialect::Postgres => "ALTER TABLE a ADD CONSTRAINT positive CHECK (id > 0) NOT VALID",
        Dialect::Sqlite => "CREATE INDEX positive ON a (id) WHERE id > 0",
    };
    vec![
        Migration::new(
            "1",
            "a table",
            "CREATE TABLE a (id integer PRIMARY KEY, text text); INSERT INTO a VALUES (1, 'a')",
        ),
        Migration::new(
            "2",
            "steps",
            format!(
                "INSERT INTO a VALUES (2, 'b'); {check};\n-- cratestack: step\nINSERT INTO a VALUES (3, 'c');\n{outside}\
                 -- cratestack: step\nUPDATE a SET text = text || '!'"
            ),
        ),
    ]
}

fn say(line: &str) {
    let mut out = std::io::stdout();
    writeln!(out, "\n{line}").unwrap();
    out.flush().unwrap();
}

/// What can be told apart of a run.
fn moment(event: &Event<'_>) -> Option<String> {
    match event {
        Event::Migration { id, .. } => Some(format!("begin {id}")),
        Event::Step { id, step, .. } => Some(format!("step {id} {step}")),
        Event::Written { id, step } => Some(format!("written {id} {step}")),
        Event::Done { id, step } => Some(format!("done {id} {step}")),
        Event::Applied { id } => Some(format!("applied {id}")),
        Event::Progress { .. } => Some("progress".to_owned()),
        _ => None,
    }
}

/// Applies until the given moment.
#[tokio::test]
#[ignore = "started by the tests of this module"]
async fn child() {
    let Ok(database) = std::env::var(DATABASE) else { return };
    let kill_at = std::env::var(KILL_AT).unwrap();
    let (database, dialect) = match database.strip_prefix("sqlite:") {
        Some(path) => (Database::SqliteFile(path.into()), Dialect::Sqlite),
        None => (Database::Postgres(database), Dialect::Postgres),
    };
    let mut report = |event: &Event<'_>| {
        if moment(event).as_ref() == Some(&kill_at) {
            say("here");
            loop {
                std::thread::park();
            }
        }
    };
    apply_pending_with(&database, &migrations(dialect), &options(), &mut report).await.unwrap();
    say("all is done");
}

fn start(house: &House, kill_at: &str) -> (Child, impl Iterator<Item = String> + use<>) {
    let database = match &house.database {
        Database::SqliteFile(path) => format!("sqlite:{}", path.display()),
        Database::Postgres(url) => url.clone(),
        Database::SqliteMemory => unreachable!(),
    };
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["migrations::tests::kill::child", "--exact", "--ignored", "--nocapture"])
        .env(DATABASE, database)
        .env(KILL_AT, kill_at)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    (child, lines)
}

/// Runs a child to that moment and kills it.
fn kill_at(house: &House, moment: &str) {
    let (mut child, mut lines) = start(house, moment);
    let said = lines.find(|line| line == "here" || line == "all is done");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(said.as_deref(), Some("here"), "{moment}");
}

/// All of the moments, the catalog and the rows of a run that nobody disturbs.
async fn undisturbed(house: &House) -> (Vec<String>, Vec<String>, Vec<String>) {
    let mut moments = Vec::new();
    let mut report = |event: &Event<'_>| moments.extend(moment(event).filter(|moment| moment != "progress"));
    apply_pending_with(&house.database, &migrations(house.dialect()), &options(), &mut report).await.unwrap();
    (moments, house.catalog().await, rows(house).await)
}

async fn rows(house: &House) -> Vec<String> {
    house.texts("SELECT CAST(id AS text) || text FROM a ORDER BY id").await
}

#[tokio::test]
async fn killed_at_each_moment_the_next_runner_ends_in_the_same_place() {
    for house in House::all().await {
        let dialect = house.dialect();
        let (moments, catalog, lines) = undisturbed(&house).await;
        assert!(moments.len() > 16, "{moments:?}");
        assert_eq!(lines, ["1a!", "2b!", "3c!", "4d!"]);
        for moment in moments {
            let house = match dialect {
                Dialect::Sqlite => House::sqlite(),
                Dialect::Postgres => House::postgres().await.unwrap(),
            };
            kill_at(&house, &moment);
            let next = apply_pending_with(&house.database, &migrations(dialect), &options(), &mut |_| ()).await;
            next.unwrap_or_else(|error| panic!("{moment}: {error}"));
            assert_eq!((house.catalog().await, rows(&house).await), (catalog.clone(), lines.clone()), "{moment}");
            let states: Vec<_> = house.states(&migrations(dialect)).await.into_iter().map(|(_, state)| state).collect();
            assert_eq!(states, ["applied", "applied"], "{moment}");
        }
    }
}

#[tokio::test]
async fn a_runner_that_is_killed_with_the_lease_is_succeeded_when_the_lease_ends() {
    for house in House::all().await {
        kill_at(&house, "done 2 1");
        let mut waits = 0;
        let mut report = |event: &Event<'_>| waits += usize::from(matches!(event, Event::Waiting { .. }));
        let applied =
            apply_pending_with(&house.database, &migrations(house.dialect()), &options(), &mut report).await.unwrap();
        assert_eq!(applied, Applied { ids: vec!["2".into()], waited: true });
        assert!(waits > 0);
        // The steps that were done have the epoch of the one that was killed.
        let epochs =
            house.texts("SELECT DISTINCT CAST(lease_epoch AS text) FROM cratestack_migration_steps ORDER BY 1").await;
        assert_eq!(epochs, ["1", "2"]);
    }
}

#[tokio::test]
async fn killed_in_the_middle_of_an_index_build_the_next_runner_builds_it_whole() {
    let Some(house) = House::postgres().await else { return };
    let (_, catalog, lines) = undisturbed(&House::postgres().await.unwrap()).await;
    kill_at(&house, "done 2 2");
    // Somebody who has written and is not done: the build waits for them.
    let mut writer = house.postgres.as_ref().unwrap().connect().await;
    sqlx::raw_sql("BEGIN; INSERT INTO a VALUES (9, 'x')").execute(&mut writer).await.unwrap();
    let invalid = "SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid";
    kill_at(&house, "progress");
    let left = house.texts(invalid).await;
    assert_eq!(left, ["a_by_text"]);
    sqlx::raw_sql("ROLLBACK").execute(&mut writer).await.unwrap();
    let mut cleaned = Vec::new();
    let mut report = |event: &Event<'_>| {
        if let Event::Cleaned { index } = event {
            cleaned.push((*index).to_owned());
        }
    };
    apply_pending_with(&house.database, &migrations(Dialect::Postgres), &options(), &mut report).await.unwrap();
    assert_eq!(house.texts(invalid).await, [] as [&str; 0]);
    assert_eq!((house.catalog().await, rows(&house).await), (catalog, lines));
    // Either it was removed, or the server had ended the build itself before anybody looked.
    assert!(cleaned.is_empty() || cleaned == ["a_by_text"], "{cleaned:?}");
}
