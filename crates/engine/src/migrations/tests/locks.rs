//! Locks of others, long builds, and poolers: PostgreSQL alone.

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::*;

/// How long something may take before the test has failed.
const PATIENCE: Duration = Duration::from_secs(60);

async fn execute(connection: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.unwrap();
}

fn notes() -> Migration {
    two().remove(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_do_not_stall_behind_a_runner_that_waits_for_a_long_reader() {
    let Some(house) = House::postgres().await else { return };
    house.apply(&[notes()]).await.unwrap();
    let database = house.postgres.as_ref().unwrap();
    let mut reader = database.connect().await;
    execute(&mut reader, "CREATE TABLE others (id integer PRIMARY KEY, text text NOT NULL)").await;
    execute(&mut reader, "BEGIN; SELECT * FROM notes").await;
    // All the time, into the table and into one that nobody changes: what each waits for longest.
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    for table in ["notes", "others"] {
        let (mut writer, stop) = (database.connect().await, Arc::clone(&stop));
        let insert = format!("INSERT INTO {table} (id, text) SELECT coalesce(max(id), 0) + 1, 'x' FROM {table}");
        writers.push(tokio::spawn(async move {
            let (mut longest, mut count) = (Duration::ZERO, 0);
            while !stop.load(Ordering::SeqCst) {
                let begun = Instant::now();
                execute(&mut writer, &insert).await;
                longest = longest.max(begun.elapsed());
                count += 1;
            }
            (longest, count)
        }));
    }
    let (told, mut tries) = tokio::sync::mpsc::unbounded_channel();
    let runner = tokio::spawn({
        let (database, migrations) = (house.database.clone(), two());
        async move {
            let mut report = |event: &Event<'_>| {
                if let Event::Blocked { by, tries } = event {
                    let _gone = told.send((*tries, by.to_vec()));
                }
            };
            apply_pending_with(&database, &migrations, &RunnerOptions::default(), &mut report).await
        }
    });
    let mut last = (0, Vec::new());
    // Somebody has said by now who has the lock.
    while last.0 < 4 || !last.1.iter().any(|session: &String| session.contains("idle in transaction")) {
        last = tokio::time::timeout(PATIENCE, tries.recv()).await.unwrap().unwrap();
    }
    assert!(!runner.is_finished());
    execute(&mut reader, "COMMIT").await;
    assert_eq!(tokio::time::timeout(PATIENCE, runner).await.unwrap().unwrap().unwrap().ids, ["0002_more"]);
    stop.store(true, Ordering::SeqCst);
    let mut seen = Vec::new();
    for writer in writers {
        seen.push(writer.await.unwrap());
    }
    println!("the longest write, and how many there were: {:?}; beside it {:?}", seen[0], seen[1]);
    // What the machine itself did meanwhile happened to both.
    let most = (RunnerOptions::default().lock_timeout + Duration::from_millis(50)).max(2 * seen[1].0);
    assert!(seen[0].0 <= most, "a writer waited for {:?}", seen[0].0);
}

#[tokio::test]
async fn a_lock_that_is_never_to_be_had_ends_in_an_error_that_names_who_has_it() {
    let Some(house) = House::postgres().await else { return };
    house.apply(&[notes()]).await.unwrap();
    let mut reader = house.postgres.as_ref().unwrap().connect().await;
    execute(&mut reader, "SET application_name = 'nightly report'; BEGIN; SELECT * FROM notes").await;
    let options = RunnerOptions {
        patience: Duration::from_secs(1),
        lock_timeout: Duration::from_millis(250),
        ..RunnerOptions::default()
    };
    let mut warned = Vec::new();
    // A moment passes before a transaction counts as a long one.
    let old = "SELECT pid::text FROM pg_stat_activity WHERE application_name = 'nightly report' AND clock_timestamp() - xact_start > interval '1 second'";
    while house.texts(old).await.is_empty() {
        tokio::task::yield_now().await;
    }
    let mut report = |event: &Event<'_>| {
        if let Event::Preflight { by } = event {
            warned.extend(by.to_vec());
        }
    };
    let error = apply_pending_with(&house.database, &two(), &options, &mut report).await.unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("migration `0002_more`, step 1 of 1: no lock within 1s ("), "{text}");
    assert!(text.contains("; it is held by session ") && text.contains("(nightly report, "), "{text}");
    assert!(warned.len() == 1 && warned[0].contains("nightly report"), "{warned:?}");
    assert_eq!(house.states(&two()).await[1].1, "pending");
}

#[tokio::test]
async fn an_index_of_a_million_rows_shows_how_far_it_is() {
    let Some(house) = House::postgres().await else { return };
    let fill = Migration::new(
        "1",
        "a million rows",
        "CREATE TABLE a AS SELECT i AS id, md5(i::text) AS text FROM generate_series(1, 1000000) AS i",
    );
    let index = Migration::new(
        "2",
        "an index",
        "-- cratestack: no-transaction\nCREATE INDEX CONCURRENTLY a_by_text ON a (text)",
    );
    let mut seen = Vec::new();
    let mut report = |event: &Event<'_>| {
        if let Event::Progress { phase, done, total, .. } = event {
            seen.push(((*phase).to_owned(), *done, *total));
        }
    };
    apply_pending_with(&house.database, &[fill, index], &RunnerOptions::default(), &mut report).await.unwrap();
    let counted = seen.iter().filter(|(_, done, total)| *total > 0 && done <= total).count();
    assert!(counted > 1, "{seen:?}");
    assert!(seen.iter().any(|(phase, ..)| phase.starts_with("building index")), "{seen:?}");
    assert!(house.catalog().await.iter().any(|line| line.starts_with("index ") && !line.ends_with("INVALID")));
}

#[tokio::test]
async fn an_index_that_cannot_be_unique_leaves_nothing_invalid() {
    let Some(house) = House::postgres().await else { return };
    let table = Migration::new("1", "doubles", "CREATE TABLE a (id integer); INSERT INTO a VALUES (1), (1)");
    let index =
        Migration::new("2", "unique", "-- cratestack: no-transaction\nCREATE UNIQUE INDEX CONCURRENTLY one ON a (id)");
    let migrations = [table, index];
    let error = house.apply(&migrations).await.unwrap_err();
    assert!(error.to_string().contains("could not create unique index"), "{error}");
    assert!(!error.to_string().contains("(1)"), "{error}");
    assert_eq!(house.texts("SELECT count(*)::text FROM pg_index WHERE indrelid = 'a'::regclass").await, ["0"]);
    assert_eq!(house.states(&migrations).await[1].1, "failed");
    house.run("DELETE FROM a WHERE ctid = (SELECT min(ctid) FROM a)").await;
    house.apply(&migrations).await.unwrap();
    assert_eq!(
        house.texts("SELECT count(*)::text FROM pg_index WHERE indrelid = 'a'::regclass AND indisvalid").await,
        ["1"]
    );
}

#[tokio::test]
async fn an_index_of_another_is_an_error_and_an_invalid_one_is_built_again() {
    let Some(house) = House::postgres().await else { return };
    let table = Migration::new("1", "a table", "CREATE TABLE a (id integer); INSERT INTO a VALUES (1), (1)");
    house.apply(std::slice::from_ref(&table)).await.unwrap();
    let mut connection = house.postgres.as_ref().unwrap().connect().await;
    // As somebody has left it who tried by hand.
    sqlx::raw_sql("CREATE UNIQUE INDEX CONCURRENTLY one ON a (id)").execute(&mut connection).await.unwrap_err();
    let index = |sql: &'static str| [table.clone(), Migration::new("2", "an index", sql)];
    let plain = index("-- cratestack: no-transaction\nCREATE INDEX CONCURRENTLY one ON a (id)");
    house.apply(&plain).await.unwrap();
    assert_eq!(house.texts("SELECT indisvalid::text FROM pg_index WHERE indrelid = 'a'::regclass").await, ["true"]);
    let again_of = || {
        Migration::new("3", "the same name", "-- cratestack: no-transaction\nCREATE INDEX CONCURRENTLY one ON a (id)")
    };
    let error = house.apply(&[plain.to_vec(), vec![again_of()]].concat()).await.unwrap_err();
    assert!(
        error.to_string().ends_with("there is an index \"one\" already, which this migration did not make"),
        "{error}"
    );
    // Nor is it believed the second time.
    assert_eq!(
        house.apply(&[plain.to_vec(), vec![again_of()]].concat()).await.unwrap_err().to_string(),
        error.to_string()
    );
    let lenient = Migration::new(
        "3",
        "if it is missing",
        "-- cratestack: no-transaction\nCREATE INDEX CONCURRENTLY IF NOT EXISTS one ON a (id)",
    );
    let rest =
        "-- cratestack: no-transaction\nREINDEX INDEX CONCURRENTLY one;\nDROP INDEX CONCURRENTLY one;\nVACUUM a;";
    let rest = Migration::new("4", "others", rest);
    house.apply(&[plain.to_vec(), vec![lenient, rest]].concat()).await.unwrap();
    assert_eq!(house.texts("SELECT count(*)::text FROM pg_index WHERE indrelid = 'a'::regclass").await, ["0"]);
}

/// `pgbouncer`, which gives each transaction another session.
struct Pooler {
    child: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Pooler {
    async fn start(database: &PgDatabase, mode: &str) -> Self {
        let program = std::env::var("CRATESTACK_TEST_PGBOUNCER")
            .expect("set CRATESTACK_TEST_PGBOUNCER to the program `pgbouncer`, or CRATESTACK_TEST_ONLY=sqlite");
        let folder = tempfile::tempdir().unwrap();
        let options: sqlx::postgres::PgConnectOptions = database.url.parse().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (host, user) = (options.get_host(), options.get_username());
        let authority = database.url.split("://").nth(1).and_then(|rest| rest.split('/').next()).unwrap();
        let credentials = authority.rsplit_once('@').map_or("", |(credentials, _)| credentials);
        let password =
            credentials.split_once(':').map(|(_, password)| format!(" password={password}")).unwrap_or_default();
        let text = format!(
            "[databases]\n* = host={host} port={} user={user}{password}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             auth_type = any\npool_mode = {mode}\nunix_socket_dir =\nlogfile = {folder}/log\npidfile = {folder}/pid\n\
             ignore_startup_parameters = extra_float_digits,statement_timeout\n",
            options.get_port(),
            folder = folder.path().display(),
        );
        let file = folder.path().join("pgbouncer.ini");
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new(program);
        command.arg("-q").arg(&file).stdout(Stdio::null()).stderr(Stdio::null());
        // It does not run as root.
        #[cfg(unix)]
        if std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0) {
            use std::os::unix::process::CommandExt as _;
            std::os::unix::fs::chown(folder.path(), Some(65534), Some(65534)).unwrap();
            std::os::unix::fs::chown(&file, Some(65534), Some(65534)).unwrap();
            command.uid(65534).gid(65534);
        }
        let child = command.spawn().unwrap();
        let pooler = Self { child, port, _folder: folder };
        let up = async {
            while PgConnection::connect(&pooler.url(database)).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, up).await.expect("pgbouncer does not answer");
        pooler
    }

    fn url(&self, database: &PgDatabase) -> String {
        let options: sqlx::postgres::PgConnectOptions = database.url.parse().unwrap();
        let name = options.get_database().unwrap();
        format!("postgres://{}@127.0.0.1:{}/{name}?sslmode=disable", options.get_username(), self.port)
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}

#[tokio::test]
async fn a_pooler_of_transactions_is_refused_and_one_of_sessions_is_not() {
    let Some(house) = House::postgres().await else { return };
    let database = house.postgres.as_ref().unwrap();
    let pooler = Pooler::start(database, "transaction").await;
    let error = apply_pending(&Database::Postgres(pooler.url(database)), &two()).await.unwrap_err();
    assert!(matches!(error, MigrationError::Pooler), "{error:?}");
    assert!(house.catalog().await.is_empty());
    // To look is nothing that needs one session.
    assert_eq!(status(&Database::Postgres(pooler.url(database)), &two()).await.unwrap().len(), 2);
    drop(pooler);
    let pooler = Pooler::start(database, "session").await;
    assert_eq!(apply_pending(&Database::Postgres(pooler.url(database)), &two()).await.unwrap().ids.len(), 2);
}

#[tokio::test]
async fn a_session_that_lives_keeps_others_away_even_without_its_lease() {
    let Some(house) = House::postgres().await else { return };
    ensure_migrations_table(&house.database).await.unwrap();
    let mut holder = house.postgres.as_ref().unwrap().connect().await;
    let key = crate::migrate::LOCK >> 32;
    execute(&mut holder, &format!("SELECT pg_advisory_lock({key}, hashtext(current_schema()))")).await;
    let options = RunnerOptions { wait: Duration::from_millis(100), ..RunnerOptions::default() };
    let error = apply_pending_with(&house.database, &two(), &options, &mut |_| ()).await.unwrap_err();
    assert!(matches!(error, MigrationError::Busy { .. }), "{error:?}");
    holder.close().await.unwrap();
    assert_eq!(house.apply(&two()).await.unwrap().ids.len(), 2);
}

#[tokio::test]
async fn what_was_begun_and_reads_otherwise_now_is_not_taken_for_done() {
    let Some(house) = House::postgres().await else { return };
    let table = Migration::new(
        "1",
        "a table",
        "CREATE TABLE a (id integer, other integer); INSERT INTO a VALUES (1, 1), (1, 2)",
    );
    let index = |column: &str| {
        let sql = format!("-- cratestack: no-transaction\nCREATE UNIQUE INDEX CONCURRENTLY one ON a ({column})");
        [table.clone(), Migration::new("2", "unique", sql)]
    };
    house.apply(&index("id")).await.unwrap_err();
    // Somebody helps, with the index that could not be built.
    house.run("DELETE FROM a WHERE other = 2; CREATE UNIQUE INDEX one ON a (id)").await;
    let error = house.apply(&index("other")).await.unwrap_err();
    assert!(
        error.to_string().ends_with("there is an index \"one\" already, which this migration did not make"),
        "{error}"
    );
}

#[tokio::test]
async fn what_failed_without_a_transaction_is_not_believed_to_be_done() {
    let Some(house) = House::postgres().await else { return };
    for sql in
        ["REINDEX INDEX CONCURRENTLY nope", "DROP INDEX CONCURRENTLY nope", "ALTER TABLE nope VALIDATE CONSTRAINT nope"]
    {
        let migration = [Migration::new("1", "nothing", format!("-- cratestack: no-transaction\n{sql}"))];
        let first = house.apply(&migration).await.unwrap_err().to_string();
        assert_eq!(house.apply(&migration).await.unwrap_err().to_string(), first);
        house.run("DELETE FROM cratestack_migrations; DELETE FROM cratestack_migration_steps").await;
    }
    let odd = "CREATE TYPE e AS ENUM ('x');\n-- cratestack: step\n-- cratestack: no-transaction\nALTER TYPE e ADD VALUE 'a\\b''c'";
    house.apply(&[Migration::new("1", "a value", odd)]).await.unwrap();
}

#[tokio::test]
async fn an_index_that_was_begun_under_another_name_is_not_left_behind() {
    let Some(house) = House::postgres().await else { return };
    let table = Migration::new(
        "1",
        "doubles",
        "CREATE TABLE a (id integer, other integer); INSERT INTO a VALUES (1, 1), (1, 2)",
    );
    let index =
        |text: &str| [table.clone(), Migration::new("2", "unique", format!("-- cratestack: no-transaction\n{text}"))];
    house.apply(&index("CREATE UNIQUE INDEX CONCURRENTLY old ON a (id)")).await.unwrap_err();
    // As if the runner had been killed before it could clean up.
    let mut connection = house.postgres.as_ref().unwrap().connect().await;
    sqlx::raw_sql("CREATE UNIQUE INDEX CONCURRENTLY old ON a (id)").execute(&mut connection).await.unwrap_err();
    house.run("UPDATE cratestack_migration_steps SET state = 'running' WHERE migration = '2'").await;
    house.apply(&index("CREATE UNIQUE INDEX CONCURRENTLY new ON a (other)")).await.unwrap();
    assert_eq!(
        house.texts("SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = 'a'::regclass").await,
        ["new"]
    );
}

#[tokio::test]
async fn records_that_are_elsewhere_are_not_taken_for_none() {
    let Some(house) = House::postgres().await else { return };
    let count = Migration::new("1", "count", "CREATE TABLE counter (n integer); INSERT INTO counter VALUES (1)");
    let own = "DO $$ BEGIN EXECUTE format('CREATE SCHEMA %I', current_user); END $$";
    let second = [count.clone(), Migration::new("2", "a schema of the role's own", own)];
    // Not even by a migration, which is then undone.
    let error = house.apply(&second).await.unwrap_err();
    assert!(matches!(error, MigrationError::Elsewhere { .. }), "{error}");
    assert_eq!(house.states(&second).await[1].1, "pending");
    house.run(own).await;
    let migrations = [count];
    let error = house.apply(&migrations).await.unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("the records of the migrations are in the schema `public`, and the search path leads to `"),
        "{error}"
    );
    assert_eq!(house.texts("SELECT count(*)::text FROM public.counter").await, ["1"]);
    assert!(error.help().contains("?options=-csearch_path%3Dpublic"), "{}", error.help());
    let Database::Postgres(url) = &house.database else { panic!("a URL") };
    let and = if url.contains('?') { "&" } else { "?" };
    let pinned = Database::Postgres(format!("{url}{and}options=-csearch_path%3Dpublic"));
    assert_eq!(apply_pending(&pinned, &migrations).await.unwrap(), Applied::default());
}

#[tokio::test]
async fn a_long_step_that_sees_an_older_moment_is_committed() {
    let Some(house) = House::postgres().await else { return };
    let sql = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; CREATE TABLE a (id integer); SELECT pg_sleep(0.5)";
    let options = RunnerOptions { lease: Duration::from_millis(200), ..RunnerOptions::default() };
    apply_pending_with(&house.database, &[Migration::new("1", "slow", sql)], &options, &mut |_| ()).await.unwrap();
}

#[tokio::test]
async fn a_session_that_watches_is_replaced_when_it_is_lost() {
    let Some(house) = House::postgres().await else { return };
    // Its own, in the middle of a statement of the other one.
    let sql = "DO $$ BEGIN
                 PERFORM pg_terminate_backend(pid) FROM pg_stat_activity
                 WHERE application_name = current_setting('application_name') AND pid <> pg_backend_pid();
                 PERFORM pg_sleep(0.6);
               END $$";
    let options = RunnerOptions { lease: Duration::from_millis(300), ..RunnerOptions::default() };
    apply_pending_with(&house.database, &[Migration::new("1", "slow", sql)], &options, &mut |_| ()).await.unwrap();
    // And where nobody has looked since.
    let short = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                 WHERE application_name = current_setting('application_name') AND pid <> pg_backend_pid()";
    let both = [Migration::new("1", "slow", sql), Migration::new("2", "short", short)];
    apply_pending_with(&house.database, &both, &options, &mut |_| ()).await.unwrap();
}

#[tokio::test]
async fn messages_have_no_values_of_rows() {
    let Some(house) = House::postgres().await else { return };
    for sql in [
        "SELECT 'secret'::integer",
        "SELECT '99999123999'::integer",
        "SELECT to_date('secr', 'YYYY')",
        "SELECT '2001-13-01'::date",
        "SELECT chr(1234123456)",
    ] {
        let error = house.apply(&[Migration::new("1", "wrong", sql)]).await.unwrap_err().to_string();
        assert!(["secr", "123", "2001"].iter().all(|value| !error.contains(value)), "{error}");
    }
}

#[tokio::test]
async fn a_step_may_lock_all_tables_there_are() {
    let Some(house) = House::postgres().await else { return };
    let all = "DO $$ DECLARE r record; BEGIN
                 FOR r IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' LOOP
                   EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', r.tablename);
                 END LOOP;
               END $$";
    house.apply(&[notes(), Migration::new("0002", "all of them", all)]).await.unwrap();
}

#[tokio::test]
async fn a_statement_without_a_transaction_has_the_settings_of_the_runner() {
    let Some(house) = House::postgres().await else { return };
    let sql = "-- cratestack: no-transaction
               -- cratestack: done-when SELECT to_regclass('seen') IS NOT NULL -- whether it is there
               CREATE TABLE seen AS SELECT current_setting('client_connection_check_interval') AS gone,
                 current_setting('application_name') AS name";
    house.apply(&[Migration::new("1", "settings", sql)]).await.unwrap();
    assert_eq!(house.texts("SELECT gone FROM seen WHERE name LIKE 'cratestack migrate %'").await, ["1s"]);
}

#[tokio::test]
async fn a_long_name_is_the_one_that_postgresql_makes_of_it() {
    let Some(house) = House::postgres().await else { return };
    let name = "i".repeat(70);
    let sql = format!(
        "CREATE TABLE a (id integer);\n-- cratestack: step\n-- cratestack: no-transaction\n\
         CREATE INDEX CONCURRENTLY {name} ON a (id)"
    );
    house.apply(&[Migration::new("1", "long", sql)]).await.unwrap();
}
