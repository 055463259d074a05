//! What is applied, recorded and refused.

use super::*;

/// How long something may take before the test has failed.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn what_is_pending_is_applied_once_and_in_order() {
    for house in House::all().await {
        let migrations = two();
        assert_eq!(
            house.states(&migrations).await,
            [("0001_notes".into(), "pending"), ("0002_more".into(), "pending")]
        );
        let first = house.apply(&migrations[..1]).await.unwrap();
        assert_eq!(first, Applied { ids: vec!["0001_notes".into()], waited: false });
        assert_eq!(
            house.states(&migrations).await,
            [("0001_notes".into(), "applied"), ("0002_more".into(), "pending")]
        );
        assert_eq!(house.apply(&migrations).await.unwrap().ids, ["0002_more"]);
        assert_eq!(house.apply(&migrations).await.unwrap(), Applied::default());
        house.run("INSERT INTO notes (id, text, author) VALUES (1, 'a', 'b')").await;
        let status = status(&house.database, &migrations).await.unwrap();
        assert!(status[0].applied_at.as_ref().is_some_and(|at| at.ends_with('Z') && at.len() == 24), "{status:?}");
        assert_eq!(status[0].steps.iter().map(|step| step.state).collect::<Vec<_>>(), [StepState::Done]);
        let recorded = house.texts("SELECT checksum FROM cratestack_migrations ORDER BY id").await;
        let now: Vec<String> = migrations.iter().map(|one| one.checksum(house.dialect()).unwrap()).collect();
        assert_eq!(recorded, now);
        // Nobody has the lease any more.
        assert_eq!(house.texts("SELECT token FROM cratestack_migration_lease").await, [""]);
    }
}

#[tokio::test]
async fn a_broken_second_statement_leaves_nothing_behind_and_no_record() {
    for house in House::all().await {
        let broken = [Migration::new("1", "broken", "CREATE TABLE a (id integer);\n\nINSERT INTO nowhere VALUES (1);")];
        let error = house.apply(&broken).await.unwrap_err();
        let MigrationError::Statement { id, step, steps, line, .. } = &error else { panic!("{error:?}") };
        assert_eq!((id.as_str(), *step, *steps, *line), ("1", 1, 1, 3));
        assert!(error.to_string().contains("nowhere"), "{error}");
        assert!(house.catalog().await.is_empty());
        for table in ["cratestack_migrations", "cratestack_migration_steps"] {
            assert_eq!(house.texts(&format!("SELECT CAST(count(*) AS text) FROM {table}")).await, ["0"]);
        }
        assert_eq!(house.states(&broken).await, [("1".into(), "pending")]);
        // It was never recorded, and so may be mended.
        let mended = [Migration::new("1", "broken", "CREATE TABLE a (id integer);\n\nINSERT INTO a VALUES (1);")];
        assert_eq!(house.apply(&mended).await.unwrap().ids, ["1"]);
        assert_eq!(house.texts("SELECT CAST(count(*) AS text) FROM a").await, ["1"]);
    }
}

#[tokio::test]
async fn bodies_with_semicolons_apply() {
    for house in House::all().await {
        let sql = match house.dialect() {
            Dialect::Postgres => {
                "CREATE TABLE a (id integer, note text);
                 CREATE FUNCTION mark() RETURNS trigger LANGUAGE plpgsql AS $body$
                 BEGIN
                   -- it's marked;
                   NEW.note := 'x;y';
                   RETURN NEW;
                 END $body$;
                 CREATE TRIGGER mark BEFORE INSERT ON a FOR EACH ROW EXECUTE FUNCTION mark();
                 INSERT INTO a (id) VALUES (1);"
            }
            Dialect::Sqlite => {
                "CREATE TABLE a (id integer, note text);
                 CREATE TRIGGER mark AFTER INSERT ON a BEGIN
                   -- it's marked;
                   UPDATE a SET note = CASE WHEN id = 1 THEN 'x;y' END WHERE rowid = NEW.rowid;
                   SELECT 1;
                 END;
                 INSERT INTO a (id) VALUES (1);"
            }
        };
        house.apply(&[Migration::new("1", "a body", sql)]).await.unwrap();
        assert_eq!(house.texts("SELECT note FROM a").await, ["x;y"]);
    }
}

/// What `apply` and `status` say, which is the same; and nothing is run.
async fn refusal(house: &House, migrations: &[Migration]) -> (String, String) {
    let before = house.catalog().await;
    let error = house.apply(migrations).await.unwrap_err();
    assert!(error.is_drift());
    let told = status(&house.database, migrations).await.unwrap_err();
    assert_eq!(told.to_string(), error.to_string());
    assert_eq!(plan(&house.database, migrations).await.unwrap_err().to_string(), error.to_string());
    assert_eq!(house.catalog().await, before);
    (error.to_string(), error.help())
}

#[tokio::test]
async fn another_history_is_refused_with_what_was_and_what_is() {
    for house in House::all().await {
        let migrations = two();
        house.apply(&migrations).await.unwrap();
        let pending = Migration::new("0003_late", "not yet", "CREATE TABLE late (id integer)");

        let edited = Migration::new("0002_more", "an author", "ALTER TABLE notes ADD COLUMN writer text");
        let (message, help) = refusal(&house, &[migrations[0].clone(), edited, pending.clone()]).await;
        let [recorded, given] = ["author", "writer"].map(|name| {
            let sql = format!("ALTER TABLE notes ADD COLUMN {name} text");
            Migration::new("0002_more", "an author", sql).checksum(house.dialect()).unwrap()[..12].to_owned()
        });
        let at = house.texts("SELECT substr(CAST(applied_at AS text), 1, 4) FROM cratestack_migrations LIMIT 1").await;
        assert!(
            message.starts_with(&format!("the migration `0002_more` was edited after it was applied at {}", at[0])),
            "{message}"
        );
        let rest = format!(
            "recorded is the checksum `{recorded}`, there now `{given}`; step 1 was `alter table notes add column author text`, \
             and is `alter table notes add column writer text`"
        );
        assert!(message.ends_with(&rest), "{message}");
        assert_eq!(help, "put it back as it was, and write a new migration for what is to change");

        let renamed = Migration { description: "a writer".into(), ..migrations[1].clone() };
        let (message, _) = refusal(&house, &[migrations[0].clone(), renamed]).await;
        assert!(message.ends_with("its description was `an author`, and is `a writer`"), "{message}");

        let (message, help) = refusal(&house, &[migrations[0].clone(), pending.clone()]).await;
        assert!(message.starts_with("the migration `0002_more` (`an author`) was applied at 20"), "{message}");
        assert!(message.ends_with(", and is not there now"), "{message}");
        assert!(help.starts_with("put it back ("), "{help}");

        let older = Migration::new("0001_older", "in between", "CREATE TABLE older (id integer)");
        let (message, help) = refusal(&house, &[migrations[0].clone(), older, migrations[1].clone()]).await;
        assert_eq!(
            message,
            "the migration `0001_older` (`in between`) was not applied, and stands before `0002_more`, which was"
        );
        assert_eq!(help, "give it a later id: what was applied was not made for it");

        // All of it at once is said in one go.
        let (statuses, drift) =
            survey(&house.database, &[Migration::new("0000", "x", "SELECT 1"), migrations[1].clone()]).await.unwrap();
        assert_eq!(drift.unwrap().changes.len(), 2);
        let states: Vec<_> = statuses.iter().map(|status| status.state.name()).collect();
        assert_eq!(states, ["out of order", "missing", "applied"]);

        // A comment is no change, nor are spaces and line ends.
        let same = [
            Migration::new(
                "0001_notes",
                "create notes",
                "-- notes\r\ncreate table notes\r\n(id integer primary key, text text not null)",
            ),
            migrations[1].clone(),
            pending,
        ];
        assert_eq!(house.apply(&same).await.unwrap().ids, ["0003_late"]);
    }
}

#[tokio::test]
async fn a_migration_goes_on_where_it_failed() {
    for house in House::all().await {
        let migration = |second: &str| {
            let sql = format!(
                "CREATE TABLE a (id integer);\n-- cratestack: step\n{second};\n-- cratestack: step last\nINSERT INTO a VALUES (3)"
            );
            [Migration::new("1", "three steps", sql)]
        };
        let error = house.apply(&migration("INSERT INTO b VALUES (2)")).await.unwrap_err();
        assert!(error.to_string().starts_with("migration `1`, step 2 of 3, `expand.sql` line 3: "), "{error}");
        assert_eq!(house.states(&migration("INSERT INTO b VALUES (2)")).await, [("1".into(), "interrupted")]);
        let left = plan(&house.database, &migration("INSERT INTO a VALUES (2)")).await.unwrap();
        assert_eq!(left[0].steps.iter().map(|step| step.number).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(left[0].steps[1].title, "last");
        // What is done may not change any more, and what is not done may.
        let other = [Migration::new("1", "three steps", "CREATE TABLE b (id integer)")];
        assert!(house.apply(&other).await.unwrap_err().is_drift());
        assert!(house.apply(&[]).await.unwrap_err().is_drift());
        assert_eq!(house.apply(&migration("INSERT INTO a VALUES (2)")).await.unwrap().ids, ["1"]);
        assert_eq!(house.texts("SELECT CAST(id AS text) FROM a ORDER BY id").await, ["2", "3"]);
        let (statuses, _) = survey(&house.database, &migration("INSERT INTO a VALUES (2)")).await.unwrap();
        assert_eq!(statuses[0].state, MigrationState::Applied);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_ten_runners_one_applies_and_nine_wait_and_report() {
    for house in House::all().await {
        let house = Arc::new(house);
        let mut migrations = two();
        migrations.push(Migration::new("0003", "two steps", "SELECT 1;\n-- cratestack: step\nSELECT 1"));
        ensure_migrations_table(&house.database).await.unwrap();
        let start = Arc::new(tokio::sync::Barrier::new(10));
        // How many have said that they wait. The one that applies stands still until all do.
        let waiting = Arc::new((std::sync::Mutex::new(0), std::sync::Condvar::new()));
        let runner = || {
            let (house, migrations, start) = (Arc::clone(&house), migrations.clone(), Arc::clone(&start));
            let waiting = Arc::clone(&waiting);
            tokio::spawn(async move {
                let (count, changed) = &*waiting;
                let mut waits = 0;
                let mut report = |event: &Event<'_>| match event {
                    Event::Waiting { holder } if waits == 0 && holder.starts_with("the process ") => {
                        waits += 1;
                        *count.lock().unwrap() += 1;
                        changed.notify_all();
                    }
                    Event::Done { id: "0003", step: 1 } => {
                        // Nobody else is to wait for the thread that this is on.
                        let all = tokio::task::block_in_place(|| {
                            changed.wait_timeout_while(count.lock().unwrap(), PATIENCE, |count| *count < 9)
                        });
                        assert!(!all.unwrap().1.timed_out());
                    }
                    _ => {}
                };
                start.wait().await;
                let options = RunnerOptions::default();
                let applied = apply_pending_with(&house.database, &migrations, &options, &mut report).await;
                (applied.unwrap(), waits)
            })
        };
        let runners: Vec<_> = std::iter::repeat_with(runner).take(10).collect();
        let mut done = Vec::new();
        for runner in runners {
            done.push(runner.await.unwrap());
        }
        let (first, others): (Vec<_>, Vec<_>) = done.into_iter().partition(|(applied, _)| !applied.ids.is_empty());
        assert_eq!(first.len(), 1);
        assert_eq!(first[0].0.ids, ["0001_notes", "0002_more", "0003"]);
        for (applied, waits) in others {
            assert!(applied.waited && waits == 1, "{applied:?}");
        }
        let attempts = house.texts("SELECT CAST(sum(attempts) AS text) FROM cratestack_migration_steps").await;
        assert_eq!(attempts, ["4"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runner_whose_lease_went_to_another_records_nothing() {
    let steal = "UPDATE cratestack_migration_lease SET token = 'another', epoch = epoch + 1";
    for house in House::all().await {
        // SQLite has one writer, who is the runner itself.
        let own = if house.dialect() == Dialect::Sqlite { steal } else { "SELECT 1" };
        let stolen = Migration::new("1", "loses its lease", format!("CREATE TABLE a (id integer); {own}"));
        let mut report = |event: &Event<'_>| {
            if matches!(event, Event::Written { .. }) && house.dialect() == Dialect::Postgres {
                let handle = tokio::runtime::Handle::current();
                tokio::task::block_in_place(|| handle.block_on(house.run(steal)));
            }
        };
        let options = RunnerOptions::default();
        let error = apply_pending_with(&house.database, &[stolen], &options, &mut report).await.unwrap_err();
        assert!(matches!(error, MigrationError::Fenced), "{error:?}");
        assert!(house.catalog().await.is_empty());
        assert_eq!(house.texts("SELECT CAST(count(*) AS text) FROM cratestack_migrations").await, ["0"]);
    }
}

#[tokio::test]
async fn what_was_left_to_do_may_be_taken_out() {
    for house in House::all().await {
        let broken = "CREATE TABLE a (id integer);\n-- cratestack: step\nINSERT INTO nowhere VALUES (1)";
        house.apply(&[Migration::new("1", "two steps", broken)]).await.unwrap_err();
        let whole = [Migration::new("1", "two steps", "CREATE TABLE a (id integer)")];
        assert_eq!(house.apply(&whole).await.unwrap().ids, ["1"]);
        assert_eq!(house.states(&whole).await, [("1".into(), "applied")]);
        assert_eq!(house.apply(&whole).await.unwrap(), Applied::default());
    }
}

#[tokio::test]
async fn what_a_step_makes_for_itself_is_gone_with_it() {
    for house in House::all().await {
        let sql = "CREATE TEMP TABLE mine (id integer); CREATE TABLE a (id integer);\n-- cratestack: step\nINSERT INTO mine VALUES (1)";
        let error = house.apply(&[Migration::new("1", "temporary", sql)]).await.unwrap_err();
        assert!(error.to_string().contains("mine"), "{error}");
    }
    let Some(house) = House::postgres().await else { return };
    // The records are not those.
    let sql = "CREATE TEMP TABLE cratestack_migration_steps (id integer); CREATE TABLE a (id integer)";
    house.apply(&[Migration::new("1", "a name", sql)]).await.unwrap();
    assert_eq!(house.texts("SELECT state FROM public.cratestack_migration_steps").await, ["done"]);
}

#[tokio::test]
async fn tables_of_sqlite_keep_what_belongs_to_them() {
    let house = House::sqlite();
    let first = Migration::new(
        "1",
        "users and posts",
        "CREATE TABLE users (id integer PRIMARY KEY, name text); CREATE TABLE junk (id integer);
         CREATE TABLE posts (id integer PRIMARY KEY, author integer REFERENCES users (id));
         CREATE VIEW names AS SELECT name FROM users; CREATE INDEX by_name ON users (name)",
    );
    // Something is dropped, and something else renamed: everybody follows.
    let second = Migration::new("2", "people", "DROP TABLE junk; ALTER TABLE users RENAME TO people");
    house.apply(&[first.clone(), second.clone()]).await.unwrap();
    house.run("INSERT INTO people VALUES (1, 'a'); INSERT INTO posts VALUES (1, 1); SELECT * FROM names").await;
    let rebuild = |more: &str| {
        let sql = format!(
            "CREATE TABLE new_people (id integer PRIMARY KEY, name text NOT NULL); INSERT INTO new_people SELECT * FROM people;
             DROP TABLE people; ALTER TABLE new_people RENAME TO people;{more}"
        );
        vec![first.clone(), second.clone(), Migration::new("3", "names are needed", sql)]
    };
    let error = house.apply(&rebuild("")).await.unwrap_err().to_string();
    assert!(
        error.ends_with("the table is made anew without `by_name` of `people`: make them again, or drop them first"),
        "{error}"
    );
    let both = "ALTER TABLE posts RENAME TO entries";
    let error = house.apply(&rebuild(both)).await.unwrap_err().to_string();
    assert!(error.contains("and renames another one to `entries`: give each its own step"), "{error}");
    house.apply(&rebuild("CREATE INDEX by_name ON people (name)")).await.unwrap();
    // What was wrong before is no migration's fault.
    house.run("PRAGMA foreign_keys = OFF; INSERT INTO posts VALUES (2, 7)").await;
    let fourth = Migration::new("4", "another", "CREATE TABLE other (id integer)");
    let all = [rebuild("CREATE INDEX by_name ON people (name)"), vec![fourth]].concat();
    house.apply(&all).await.unwrap();
    let fifth = Migration::new("5", "one more", "INSERT INTO posts VALUES (3, 8); DROP TABLE other");
    let error = house.apply(&[all, vec![fifth]].concat()).await.unwrap_err().to_string();
    assert!(error.ends_with("there would be references without rows: in `posts` of rows of `people`"), "{error}");
}

#[tokio::test]
async fn what_sqlite_cannot_tell_of_references_stops_nobody() {
    let house = House::sqlite();
    house
        .run("CREATE TABLE p (id integer PRIMARY KEY, code text); CREATE TABLE c (code text REFERENCES p (code))")
        .await;
    let mend = Migration::new("1", "mend it", "CREATE UNIQUE INDEX by_code ON p (code)");
    house.apply(std::slice::from_ref(&mend)).await.unwrap();
    // Renamed first, and then dropped: the index is gone all the same.
    let aside = "ALTER TABLE p RENAME TO old; CREATE TABLE p (id integer PRIMARY KEY, code text UNIQUE); \
                 INSERT INTO p SELECT * FROM old; DROP TABLE old;";
    let error = house.apply(&[mend.clone(), Migration::new("2", "aside", aside)]).await.unwrap_err().to_string();
    assert!(error.contains("without `by_code` of `p`"), "{error}");
    let said = format!("DROP INDEX By_Code; {aside}");
    house.apply(&[mend, Migration::new("2", "aside", said)]).await.unwrap();
}

#[tokio::test]
async fn a_password_in_a_statement_is_not_kept() {
    for house in House::all().await {
        let sql = "CREATE TABLE a (secret text); INSERT INTO a VALUES ('hunter2')";
        house.apply(&[Migration::new("1", "a password", sql)]).await.unwrap();
        assert_eq!(
            house.texts("SELECT sql FROM cratestack_migration_steps").await,
            ["create table a ( secret text );\ninsert into a values ( '..' )"]
        );
        let other = Migration::new("1", "a password", "CREATE TABLE a (secret text); INSERT INTO a VALUES ('hunter3')");
        let error = house.apply(&[other]).await.unwrap_err().to_string();
        assert!(error.ends_with("texts in step 1, or lines about it, differ") && !error.contains("hunter"), "{error}");
    }
}

#[tokio::test]
async fn a_live_runner_is_waited_for_until_the_deadline() {
    for house in House::all().await {
        ensure_migrations_table(&house.database).await.unwrap();
        let until = ledger::in_seconds(house.dialect(), 3600.0);
        house
            .run(&format!(
                "UPDATE cratestack_migration_lease SET token = 'x', holder = 'the process 1', expires_at = {until}"
            ))
            .await;
        let options = RunnerOptions { wait: Duration::from_millis(300), ..RunnerOptions::default() };
        let error = apply_pending_with(&house.database, &two(), &options, &mut |_| ()).await.unwrap_err();
        assert_eq!(error.to_string(), "the process 1 has been applying migrations for 300ms and is not done");
        // One that is not heard of any more is succeeded.
        let past = ledger::now(house.dialect());
        house.run(&format!("UPDATE cratestack_migration_lease SET expires_at = {past}")).await;
        assert_eq!(house.apply(&two()).await.unwrap().ids.len(), 2);
        assert_eq!(house.texts("SELECT CAST(epoch AS text) FROM cratestack_migration_lease").await, ["1"]);
    }
}

#[tokio::test]
async fn what_a_step_sets_ends_with_it() {
    let Some(house) = House::postgres().await else { return };
    let sql = "SET search_path = pg_catalog; SET lock_timeout = '1h'; SET ROLE pg_monitor;
               -- cratestack: step
               CREATE TABLE a AS SELECT current_setting('search_path') AS path, current_user::text AS who, session_user::text AS own";
    house.apply(&[Migration::new("1", "settings", sql)]).await.unwrap();
    assert_eq!(house.texts("SELECT path FROM public.a WHERE who = own").await, ["\"$user\", public"]);
}

#[tokio::test]
async fn a_table_of_sqlite_is_rebuilt_without_loss() {
    let house = House::sqlite();
    let first = Migration::new(
        "1",
        "parents and children",
        "CREATE TABLE parent (id integer PRIMARY KEY, name text);
         CREATE TABLE child (id integer PRIMARY KEY, parent integer NOT NULL REFERENCES parent (id) ON DELETE CASCADE);
         INSERT INTO parent VALUES (1, 'a'), (2, 'b');
         INSERT INTO child VALUES (1, 1), (2, 1), (3, 2);",
    );
    let rebuild = Migration::new(
        "2",
        "names are needed",
        "CREATE TABLE new_parent (id integer PRIMARY KEY, name text NOT NULL);
         INSERT INTO new_parent SELECT id, name FROM parent;
         DROP TABLE parent;
         ALTER TABLE new_parent RENAME TO parent;",
    );
    house.apply(&[first.clone(), rebuild.clone()]).await.unwrap();
    assert_eq!(house.texts("SELECT CAST(count(*) AS text) FROM child").await, ["3"]);
    // Without a table to drop they act as ever.
    let delete = Migration::new("3", "one goes", "DELETE FROM parent WHERE id = 2");
    house.apply(&[first.clone(), rebuild.clone(), delete.clone()]).await.unwrap();
    assert_eq!(house.texts("SELECT CAST(count(*) AS text) FROM child").await, ["2"]);
    // A reference without its row is refused.
    let lost = Migration::new(
        "4",
        "the parents go",
        "DELETE FROM parent; DROP TABLE parent; CREATE TABLE parent (id integer PRIMARY KEY)",
    );
    let error = house.apply(&[first, rebuild, delete, lost]).await.unwrap_err();
    assert!(
        error.to_string().ends_with("there would be references without rows: in `child` of rows of `parent`"),
        "{error}"
    );
    assert_eq!(house.texts("SELECT CAST(count(*) AS text) FROM child").await, ["2"]);
}

#[tokio::test]
async fn a_statement_outside_of_a_transaction_is_done_when_its_query_says_so() {
    for house in House::all().await {
        house.apply(&[Migration::new("1", "a table", "CREATE TABLE a (id integer PRIMARY KEY)")]).await.unwrap();
        let insert = |id: &str, wanted: &str| {
            let sql = format!(
                "-- cratestack: no-transaction\n-- cratestack: done-when SELECT count(*) = {wanted} FROM a;\nINSERT INTO a VALUES ({id})"
            );
            vec![
                Migration::new("1", "a table", "CREATE TABLE a (id integer PRIMARY KEY)"),
                Migration::new("2", "a row", sql),
            ]
        };
        house.apply(&insert("1", "1")).await.unwrap();
        let error = house.apply(&[insert("1", "1"), vec![Migration::new(
            "3",
            "a row that is none",
            "-- cratestack: no-transaction\n-- cratestack: done-when SELECT count(*) = 7 FROM a\nINSERT INTO a VALUES (2)",
        )]].concat()).await.unwrap_err();
        assert!(
            error.to_string().starts_with("migration `3`, step 1 of 1: the statement was run, and the catalog"),
            "{error}"
        );
        let (statuses, _) = survey(&house.database, &[insert("1", "1"), vec![Migration::new(
            "3",
            "a row that is none",
            "-- cratestack: no-transaction\n-- cratestack: done-when SELECT count(*) = 2 FROM a\nINSERT INTO a VALUES (2)",
        )]].concat()).await.unwrap();
        assert_eq!(statuses[2].state, MigrationState::Failed);
        assert!(statuses[2].steps[0].error.as_ref().unwrap().contains("catalog does not show"));
        // With another query it is seen to be done, and is not run again.
        house.apply(&[insert("1", "1"), vec![Migration::new(
            "3",
            "a row that is none",
            "-- cratestack: no-transaction\n-- cratestack: done-when SELECT count(*) = 2 FROM a\nINSERT INTO a VALUES (2)",
        )]].concat()).await.unwrap();
        assert_eq!(house.texts("SELECT CAST(count(*) AS text) FROM a").await, ["2"]);
    }
}

const SCHEMA: &str = "model Note {\n  id Int @id\n  text String\n\n  @@allow(\"all\", true)\n}\n";

#[tokio::test]
async fn a_migration_says_which_schema_the_database_carries() {
    for house in House::all().await {
        let (schema, _) = cratestack_schema::compile("notes", SCHEMA);
        let schema = schema.unwrap();
        let sql = crate::ddl::create(&schema, house.dialect()).join(";\n");
        let json = serde_json::to_string(&schema).unwrap();
        let migrations = [Migration { schema: Some(json.clone().into()), ..Migration::new("1", "notes", sql) }];
        house.apply(&migrations).await.unwrap();
        let engine =
            crate::Engine::open(Arc::new(schema.clone()), &house.database, crate::Options::default()).await.unwrap();
        engine.ready().await.unwrap();
        engine.close().await;
        // Tables that are there already are marked, if they are.
        let other = match house.dialect() {
            Dialect::Sqlite => House::sqlite(),
            Dialect::Postgres => House::postgres().await.unwrap(),
        };
        let nothing = baseline(&other.database, &migrations, None).await.unwrap_err().to_string();
        assert!(
            ["there is no such database", "the database is empty: `apply` runs the migrations"]
                .contains(&nothing.as_str())
        );
        other.run("CREATE TABLE something (id integer)").await;
        let lacks = baseline(&other.database, &migrations, None).await.unwrap_err();
        assert_eq!(
            lacks.to_string(),
            "with the migration `1` the database would not have what its `schema.json` says: there is no table \
             `cratestack_idempotency`; there is no table `notes`"
        );
        assert_eq!(
            baseline(&other.database, &migrations, Some("7")).await.unwrap_err().to_string(),
            "there is no migration `7`"
        );
        let tables: Vec<String> = crate::ddl::create(&schema, house.dialect())
            .into_iter()
            .filter(|sql| !sql.contains("cratestack_meta"))
            .collect();
        other.run(&tables.join(";\n")).await;
        assert_eq!(baseline(&other.database, &migrations, None).await.unwrap(), ["1"]);
        assert_eq!(baseline(&other.database, &migrations, None).await.unwrap(), [] as [&str; 0]);
        assert_eq!(other.states(&migrations).await, [("1".into(), "baseline")]);
        assert_eq!(other.apply(&migrations).await.unwrap(), Applied::default());
        crate::Engine::open(Arc::new(schema), &other.database, crate::Options::default()).await.unwrap().close().await;
    }
}

#[tokio::test]
async fn a_database_in_memory_has_no_migrations() {
    let error = apply_pending(&Database::SqliteMemory, &two()).await.unwrap_err();
    assert_eq!(error.to_string(), "a database in memory has no migrations");
}

#[tokio::test]
async fn looking_makes_nothing() {
    for house in House::all().await {
        let statuses = status(&house.database, &two()).await.unwrap();
        assert!(statuses.iter().all(|status| status.state == MigrationState::Pending));
        assert_eq!(plan(&house.database, &two()).await.unwrap().len(), 2);
        if let Database::SqliteFile(path) = &house.database {
            assert!(!path.exists());
        } else {
            assert!(
                house.texts("SELECT relname::text FROM pg_class WHERE relname LIKE 'cratestack%'").await.is_empty()
            );
        }
    }
}
