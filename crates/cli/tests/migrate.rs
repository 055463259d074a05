//! `migrate`: what it prints is what `serve --apply` does.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

#[path = "../../cratestack/tests/support/servers.rs"]
mod servers;
mod support;

use std::path::Path;

use servers::Database;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, Row as _};
use support::{Server, bearer, text};

/// Everything that makes tables, triggers and functions: the audit trail, events, tombstones, versions.
const SCHEMA: &str = r#"
auth Clerk {
  id String @id
}

model Customer {
  id      Int     @id
  name    String  @pii
  version Int     @version
  orders  Order[]

  @@soft_delete
  @@audit
  @@emit(created)
  @@allow("all", auth() != null)
  @@allow("restore", auth() != null)
}

model Order {
  id         Int            @id @default(autoincrement())
  customerId Int
  amount     Decimal(18, 2) @range(min: 0) @db_enforce
  customer   Customer       @relation(fields: [customerId], references: [id], onDelete: Cascade)

  @@soft_delete
  @@allow("all", auth() != null)
}
"#;

const SERVE: [&str; 7] = ["serve", "shop.cstack", "--addr", "127.0.0.1:0", "--auth", "dev", "--allow-dev-auth"];

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("shop.cstack"), SCHEMA).unwrap();
    folder
}

fn script(folder: &Path, provider: &str) -> String {
    let output = support::run(folder, &["migrate", "sql", "shop.cstack", "--provider", provider]);
    assert!(output.status.success(), "{output:?}");
    text(&output.stdout)
}

/// Serves it, without applying anything, and writes and reads.
fn works(folder: &Path, url: &str) {
    let server = Server::start(folder, &[&SERVE[..], &["--database", url]].concat());
    let bearer = bearer(r#"{"id":"ann"}"#);
    let head = [("Authorization", bearer.as_str())];
    let send = |path: &str, body: &str| server.request(if body.is_empty() { "GET" } else { "POST" }, path, &head, body);
    assert_eq!(send("/api/customers", r#"{"id":1,"name":"Bo"}"#).status, 201);
    assert_eq!(send("/api/orders", r#"{"customerId":1,"amount":"10.50"}"#).status, 201);
    let page = send("/api/orders?limit=1", "");
    assert!(page.status == 200 && page.body.contains("10.50"), "{page:?}");
}

#[test]
fn the_sql_of_a_schema_makes_the_same_sqlite_database() {
    let folder = folder();
    let path = |name: &str| folder.path().join(name);
    let by_hand = rusqlite::Connection::open(path("by-hand.db")).unwrap();
    by_hand.execute_batch(&script(folder.path(), "sqlite")).unwrap();
    Server::start(folder.path(), &[&SERVE[..], &["--apply", "--database", "sqlite:applied.db"]].concat()).stop();
    let catalog = |connection: &rusqlite::Connection| -> Vec<(String, Option<String>)> {
        let mut query = connection.prepare("SELECT name, sql FROM sqlite_schema ORDER BY type, name").unwrap();
        query.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect()
    };
    assert_eq!(catalog(&by_hand), catalog(&rusqlite::Connection::open(path("applied.db")).unwrap()));
    drop(by_hand);
    works(folder.path(), "sqlite:by-hand.db");
}

#[tokio::test]
async fn the_sql_of_a_schema_makes_the_same_postgresql_database() {
    let (Some(by_hand), Some(applied)) = (Database::new().await, Database::new().await) else { return };
    let folder = folder();
    let mut owner = sqlx::PgConnection::connect(&by_hand.url()).await.unwrap();
    owner.execute(AssertSqlSafe(script(folder.path(), "postgresql"))).await.unwrap();
    Server::start(folder.path(), &[&SERVE[..], &["--apply", "--database", &applied.url()]].concat()).stop();
    let catalog = async |connection: &mut sqlx::PgConnection| -> Vec<String> {
        let sql = "SELECT 'column ' || table_name || '.' || column_name || ' ' || data_type || ' ' || coalesce(column_default, '') \
                   || is_nullable FROM information_schema.columns WHERE table_schema = 'public' \
                   UNION ALL SELECT 'constraint ' || conname || ' ' || pg_get_constraintdef(oid) FROM pg_constraint \
                   WHERE connamespace = 'public'::regnamespace \
                   UNION ALL SELECT 'index ' || indexdef FROM pg_indexes WHERE schemaname = 'public' \
                   UNION ALL SELECT 'trigger ' || pg_get_triggerdef(oid) || tgenabled::text FROM pg_trigger WHERE NOT tgisinternal \
                   UNION ALL SELECT 'function ' || pg_get_functiondef(oid) FROM pg_proc \
                   WHERE pronamespace = 'public'::regnamespace ORDER BY 1";
        connection.fetch_all(sql).await.unwrap().iter().map(|row| row.get(0)).collect()
    };
    let mut other = sqlx::PgConnection::connect(&applied.url()).await.unwrap();
    let (ours, theirs) = (catalog(&mut owner).await, catalog(&mut other).await);
    assert!(ours.len() > 40, "{ours:?}");
    assert_eq!(ours, theirs);
    works(folder.path(), &by_hand.url());
    // With the table of rate limits, for a service that may not make it.
    let output =
        support::run(folder.path(), &["migrate", "sql", "shop.cstack", "--provider", "postgresql", "--rate-limits"]);
    let more = text(&output.stdout).split_once("COMMIT;").unwrap().1.to_owned();
    owner.execute(AssertSqlSafe(more)).await.unwrap();
    let limits = ["--rate-limits", "api = 9/s", "--rate-limit-store", "database", "--rate-limit-nodes", "1"];
    Server::start(folder.path(), &[&SERVE[..], &["--database", &by_hand.url()], &limits].concat()).stop();
}

#[test]
fn it_has_to_be_known_for_which_database() {
    let folder = folder();
    let output = support::run(folder.path(), &["migrate", "sql", "shop.cstack"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("it is not said for which database"), "{output:?}");
    let own = format!("datasource db {{\n  provider = \"sqlite\"\n  url      = \"sqlite:x.db\"\n}}\n{SCHEMA}");
    std::fs::write(folder.path().join("shop.cstack"), own).unwrap();
    let output = support::run(folder.path(), &["migrate", "sql", "shop.cstack"]);
    assert!(output.status.success() && text(&output.stdout).contains("STRICT"), "{output:?}");
}

/// A folder with the schema, and its tables as the first migration.
fn begun() -> tempfile::TempDir {
    let folder = folder();
    let made = done(folder.path(), &["migrate", "new", "Create the tables", "shop.cstack"]);
    assert!(
        made.contains(
            "_create_the_tables` with `plan.toml`, `expand.postgres.sql`, `expand.sqlite.sql`, `schema.json`"
        ),
        "{made}"
    );
    folder
}

/// What a command says that goes well.
fn done(folder: &Path, args: &[&str]) -> String {
    let output = support::run(folder, args);
    assert!(output.status.success(), "{args:?}: {output:?}");
    text(&output.stdout)
}

/// What a command says that does not, and its exit code.
fn refused(folder: &Path, args: &[&str]) -> (i32, String) {
    let output = support::run(folder, args);
    assert!(!output.status.success(), "{args:?}: {output:?}");
    (output.status.code().unwrap(), text(&output.stderr))
}

/// A migration by hand, after all others.
fn add(folder: &Path, id: &str, sql: &str) -> std::path::PathBuf {
    let made = folder.join("migrations").join(id);
    std::fs::create_dir_all(&made).unwrap();
    std::fs::write(made.join("expand.sql"), sql).unwrap();
    made
}

/// The folders of migrations, in order.
fn ids(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder.join("migrations")).unwrap();
    let mut ids: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    ids.sort();
    ids
}

/// URLs of empty databases, and what keeps them.
async fn databases(folder: &Path) -> Vec<(String, Option<Database>)> {
    let sqlite = (format!("sqlite:{}/by-migrations.db", folder.display()), None);
    let postgres = Database::new().await.map(|database| (database.url(), Some(database)));
    std::iter::once(sqlite).chain(postgres).collect()
}

#[tokio::test]
async fn a_history_is_applied_shown_and_served() {
    let folder = begun();
    let folder = folder.path();
    let [first] = &ids(folder)[..] else { panic!("one") };
    for (url, _kept) in databases(folder).await {
        let serve = [&SERVE[..], &["--database", &url]].concat();
        let migrate = |command: &'static str| vec!["migrate", command, "--database", &url];
        let output = support::run(folder, &migrate("status"));
        assert_eq!(
            (output.status.code(), text(&output.stdout).starts_with("pending      ")),
            (Some(1), true),
            "{output:?}"
        );
        let (code, why) = refused(folder, &serve);
        assert_eq!(code, 2);
        assert!(
            why.starts_with(&format!(
                "error: a migration is pending: `{first}`\n  help: run `cratestack migrate apply`"
            )),
            "{why}"
        );
        let planned = done(folder, &[&migrate("apply")[..], &["--dry-run"]].concat());
        assert!(planned.starts_with(&format!(
            "-- migration {first}: Create the tables\n-- step 1 (expand, one transaction): CREATE TABLE "
        )));
        assert_eq!(done(folder, &migrate("apply")), format!("applied {first}\n"));
        assert_eq!(
            done(folder, &migrate("apply")),
            "there is nothing to apply: the database has the one migration that there is\n"
        );
        assert!(done(folder, &migrate("status")).starts_with(&format!("applied      {first}  Create the tables  20")));
        let json: serde_json::Value =
            serde_json::from_str(&done(folder, &[&migrate("status")[..], &["--format", "json"]].concat())).unwrap();
        assert_eq!(json["migrations"][0]["steps"][0]["state"], "done");
        works(folder, &url);
    }
}

#[tokio::test]
async fn another_history_stops_apply_status_and_serve() {
    let folder = begun();
    let folder = folder.path();
    let second = add(folder, "29990101T000000_note", "CREATE TABLE note (id integer)");
    for (url, _kept) in databases(folder).await {
        done(folder, &["migrate", "apply", "--database", &url]);
        let stops = |message: &str| {
            for (command, code) in [(&["migrate", "apply"][..], 2), (&["migrate", "status"], 1), (&SERVE, 2)] {
                let (exit, why) = refused(folder, &[command, &["--database", &url]].concat());
                assert!(
                    exit == code && why.contains(message) && why.contains("\n  help: "),
                    "{command:?}: {exit} {why}"
                );
            }
            let (_, why) = refused(folder, &[&SERVE[..], &["--database", &url, "--apply"]].concat());
            assert!(why.contains(message), "{why}");
        };
        std::fs::write(second.join("expand.sql"), "CREATE TABLE note (id bigint)").unwrap();
        stops("the migration `29990101T000000_note` was edited after it was applied at 20");
        std::fs::write(second.join("expand.sql"), "-- a comment\ncreate table note (id integer);").unwrap();
        let older = add(folder, "20000101T000000_older", "SELECT 1");
        stops(
            "the migration `20000101T000000_older` (`older`) was not applied, and stands before `29990101T000000_note`, which was",
        );
        std::fs::remove_dir_all(older).unwrap();
        std::fs::rename(&second, folder.join("away")).unwrap();
        stops("the migration `29990101T000000_note` (`note`) was applied at 20");
        std::fs::rename(folder.join("away"), &second).unwrap();
        works(folder, &url);
    }
}

#[tokio::test]
async fn a_service_that_applies_first_says_so_and_then_serves() {
    let Some(database) = Database::new().await else { return };
    let folder = begun();
    let folder = folder.path();
    add(folder, "29990101T000000_slow", "SELECT 1;\n-- cratestack: step\nSELECT pg_advisory_xact_lock(7)");
    let mut holder = sqlx::PgConnection::connect(&database.url()).await.unwrap();
    holder.execute("SELECT pg_advisory_lock(7)").await.unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("127.0.0.1:{port}");
    let starting = std::thread::spawn({
        let (folder, url, address) = (folder.to_owned(), database.url(), address.clone());
        move || {
            let args = ["serve", "shop.cstack", "--addr", &address, "--auth", "dev", "--allow-dev-auth", "--apply"];
            Server::start(&folder, &[&args[..], &["--database", &url]].concat())
        }
    });
    let address = address.parse().unwrap();
    let waits = r#""detail":"migrations are being applied: `29990101T000000_slow`, step 2 of 2""#;
    servers::until("the service says what it is at", async || {
        support::request(address, "GET", "/readyz", &[], "").is_ok_and(|answer| answer.body.contains(waits))
    })
    .await;
    let ready = support::request(address, "GET", "/readyz", &[], "").unwrap();
    assert_eq!(ready.status, 503);
    assert!(
        ready.body.contains(r#""code":"unavailable""#) && ready.head.to_lowercase().contains("retry-after: 1"),
        "{ready:?}"
    );
    assert_eq!(support::request(address, "GET", "/livez", &[], "").unwrap().body, r#"{"status":"live"}"#);
    let other = support::request(address, "GET", "/api/orders", &[], "").unwrap();
    assert!(other.status == 503 && !other.body.contains("29990101"), "{other:?}");
    holder.execute("SELECT pg_advisory_unlock(7)").await.unwrap();
    let server = starting.join().unwrap();
    assert_eq!(server.request("GET", "/readyz", &[], "").status, 200);
    // A database that has lost one, as from an older backup, is not what this service needs.
    holder
        .execute("UPDATE cratestack_migrations SET checksum = 'other' WHERE id = '29990101T000000_slow'")
        .await
        .unwrap();
    let answer = server.request("GET", "/readyz", &[], "");
    assert!(
        answer.status == 503 && answer.body.contains("`29990101T000000_slow` was applied in another version"),
        "{answer:?}"
    );
    holder.execute("DELETE FROM cratestack_migrations WHERE id = '29990101T000000_slow'").await.unwrap();
    let answer = server.request("GET", "/readyz", &[], "");
    assert!(
        answer.status == 503 && answer.body.contains("the migration `29990101T000000_slow` is pending"),
        "{answer:?}"
    );
}

#[tokio::test]
async fn a_service_that_is_ended_while_it_applies_leaves_what_is_done() {
    let Some(database) = Database::new().await else { return };
    let folder = begun();
    add(folder.path(), "29990101T000000_slow", "SELECT pg_advisory_xact_lock(7)");
    let mut holder = sqlx::PgConnection::connect(&database.url()).await.unwrap();
    holder.execute("SELECT pg_advisory_lock(7)").await.unwrap();
    let mut child = support::command(folder.path())
        .args([&SERVE[..], &["--apply", "--database", &database.url()]].concat())
        .stderr(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'advisory'";
    servers::until("it waits", async || holder.fetch_optional(waiting).await.unwrap().is_some()).await;
    let sent = std::process::Command::new("sh").args(["-c", &format!("kill -TERM {}", child.id())]).status().unwrap();
    assert!(sent.success());
    let mut why = String::new();
    std::io::Read::read_to_string(child.stderr.as_mut().unwrap(), &mut why).unwrap();
    assert!(why.contains("it was ended before it could serve"), "{why}");
    assert_eq!(child.wait().unwrap().code(), Some(2));
    let applied = "SELECT count(*) FROM cratestack_migrations WHERE applied_at IS NOT NULL";
    assert_eq!(holder.fetch_one(applied).await.unwrap().get::<i64, _>(0), 1);
}

#[tokio::test]
async fn a_database_that_is_in_use_is_marked_once() {
    let folder = begun();
    let folder = folder.path();
    let [first] = &ids(folder)[..] else { panic!("one") };
    for (url, _kept) in databases(folder).await {
        // As it was before there were migrations.
        let plain = [&SERVE[..], &["--database", &url, "--migrations", "none", "--apply"]].concat();
        Server::start(folder, &plain).stop();
        let (code, why) = refused(folder, &["migrate", "apply", "--database", &url]);
        assert!(code == 2 && why.contains("already exists"), "{why}");
        assert_eq!(done(folder, &["migrate", "baseline", "--database", &url]), format!("marked as applied {first}\n"));
        assert_eq!(
            done(folder, &["migrate", "baseline", "--database", &url]),
            "there is nothing to mark: all of them are applied\n"
        );
        assert!(done(folder, &["migrate", "status", "--database", &url]).starts_with("baseline "));
        works(folder, &url);
    }
}

#[tokio::test]
async fn what_a_migration_says_of_the_tables_must_be_so() {
    let folder = begun();
    let folder = folder.path();
    let migrations = folder.join("migrations");
    let first = ids(folder).remove(0);
    let drafted = ["postgres", "sqlite"].map(|of| {
        let path = migrations.join(&first).join(format!("expand.{of}.sql"));
        let text = std::fs::read_to_string(&path).unwrap();
        (path, text)
    });
    for (from, to, part) in [
        (
            "\"amount\" numeric(18,2) NOT NULL",
            "\"amount\" numeric(18,4) NOT NULL",
            "the column `amount` of `orders` is `numeric(18,4)`, and not `numeric(18,2)`",
        ),
        (
            "\"amount\" INTEGER NOT NULL",
            "\"amount\" INTEGER",
            "the column `amount` of `orders` is free to be null, and not `NOT NULL`",
        ),
        (
            "CREATE TRIGGER \"cratestack_audit_insert_customers\"",
            "CREATE TRIGGER \"other\"",
            "`customers` lacks the trigger `cratestack_audit_insert_customers`",
        ),
    ] {
        for (path, text) in &drafted {
            std::fs::write(path, text.replacen(from, to, 1)).unwrap();
        }
        let mut lacked = false;
        for (url, _kept) in databases(folder).await {
            let output = support::run(folder, &["migrate", "apply", "--database", &url]);
            let why = text(&output.stderr);
            lacked |= why.contains(&format!("error: with the migration `{first}` the database would not have what"))
                && why.contains(part);
            let _gone = std::fs::remove_file(folder.join("by-migrations.db"));
        }
        assert!(lacked, "{from}");
    }
    for (path, text) in &drafted {
        std::fs::write(path, text).unwrap();
    }
    for (url, _kept) in databases(folder).await {
        done(folder, &["migrate", "apply", "--database", &url]);
        works(folder, &url);
    }
}

#[test]
fn of_two_branches_the_second_is_made_again() {
    let folder = begun();
    let folder = folder.path();
    let migrations = folder.join("migrations");
    std::fs::rename(migrations.join(ids(folder).remove(0)), migrations.join("20000101T000000_first")).unwrap();
    let branch = |field: &str, id: &str| {
        let changed = SCHEMA
            .replace("  version Int     @version\n", &format!("  version Int     @version\n  {field}    String?\n"));
        std::fs::write(folder.join("shop.cstack"), changed).unwrap();
        done(folder, &["migrate", "new", field, "shop.cstack", "--provider", "sqlite"]);
        std::fs::rename(migrations.join(ids(folder).pop().unwrap()), folder.join(id)).unwrap();
    };
    branch("nick", "20000102T000000_nick");
    branch("size", "20000103T000000_size");
    for id in ["20000102T000000_nick", "20000103T000000_size"] {
        std::fs::rename(folder.join(id), migrations.join(id)).unwrap();
    }
    let (_, why) = refused(folder, &["migrate", "apply", "--database", "sqlite:a.db"]);
    assert!(why.starts_with("error: the migration `20000103T000000_size` was made from another schema than `20000102T000000_nick` leaves\n  help: "), "{why}");
}

#[tokio::test]
async fn a_draft_without_an_index_says_so_itself() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let versions = [
        "  a String?\n  x String? @unique\n  y Int\n  @@index([a])\n",
        "  a String?\n  @@index([a])\n",
        "  b String? @rename(from: \"a\")\n  @@index([b])\n",
        "  x String?\n",
    ];
    let databases = databases(folder).await;
    for (at, version) in versions.into_iter().enumerate() {
        let text = format!("model Note {{\n  id Int @id\n{version}  @@allow(\"all\", true)\n}}\n");
        std::fs::write(folder.join("notes.cstack"), text).unwrap();
        done(folder, &["migrate", "new", &format!("version {at}"), "notes.cstack", "--provider", "both"]);
        for (url, _) in &databases {
            done(folder, &["migrate", "apply", "notes.cstack", "--database", url]);
        }
    }
}

#[test]
fn a_password_of_the_schema_stays_in_the_schema() {
    let folder = tempfile::tempdir().unwrap();
    let datasource = "datasource db {\n  provider = \"postgresql\"\n  url = \"postgres://owner:secretpw@h/db\"\n}\n";
    std::fs::write(folder.path().join("shop.cstack"), format!("{datasource}{SCHEMA}")).unwrap();
    done(folder.path(), &["migrate", "new", "first", "shop.cstack", "--provider", "both"]);
    let made = folder.path().join("migrations").join(ids(folder.path()).remove(0));
    for file in std::fs::read_dir(made).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        assert!(!text.contains("secretpw"));
    }
    done(folder.path(), &["migrate", "apply", "--database", "sqlite:a.db"]);
    let database = rusqlite::Connection::open(folder.path().join("a.db")).unwrap();
    let kept: i64 = database
        .query_row("SELECT count(*) FROM cratestack_meta WHERE value LIKE '%secretpw%'", [], |row| row.get(0))
        .unwrap();
    assert_eq!(kept, 0);
}

#[test]
fn a_database_with_migrations_is_not_taken_for_one_without() {
    let folder = begun();
    let folder = folder.path();
    done(folder, &["migrate", "apply", "--database", "sqlite:a.db"]);
    add(folder, "29990101T000000_note", "CREATE TABLE note (id integer)");
    let (_, why) = refused(folder, &["migrate", "baseline", "--database", "sqlite:a.db"]);
    assert!(
        why.starts_with("error: the database has migrations already: name the last one to mark\n  help: "),
        "{why}"
    );
    assert!(
        done(folder, &["migrate", "baseline", "--database", "sqlite:a.db", "--to", "29990101T000000_note"])
            .contains("_note")
    );
    let (_, why) = refused(folder, &["dev", "shop.cstack", "--database", "sqlite:a.db", "--addr", "127.0.0.1:0"]);
    assert!(why.contains("error: SQLite `a.db` has migrations\n  help: "), "{why}");
    std::fs::rename(folder.join("migrations"), folder.join("elsewhere")).unwrap();
    let (_, why) = refused(folder, &[&SERVE[..], &["--database", "sqlite:a.db"]].concat());
    assert!(
        why.contains("error: SQLite `a.db` has migrations, and there is no folder `migrations` here\n  help: "),
        "{why}"
    );
    Server::start(folder, &[&SERVE[..], &["--database", "sqlite:a.db", "--migrations", "none"]].concat()).stop();
}

#[test]
fn what_cannot_be_is_said_with_the_next_step() {
    let empty = folder();
    let (code, why) = refused(empty.path(), &["migrate", "apply", "--database", "sqlite:a.db"]);
    assert!(code == 2 && why.starts_with("error: there is no folder `migrations`\n  help: "), "{why}");
    let idle = ["migrate", "apply", "--dry-run", "--wait", "1s", "--database", "sqlite:a.db"];
    assert!(refused(empty.path(), &idle).1.contains("cannot be used with"));
    let (_, why) = refused(empty.path(), &["migrate", "status"]);
    assert!(why.starts_with("error: no database is named\n"), "{why}");
    let (_, why) = refused(empty.path(), &["migrate", "new", "!!"]);
    assert!(why.starts_with("error: a name has 1 to 100 letters and digits\n"), "{why}");
    let folder = begun();
    let folder = folder.path();
    let memory = [&SERVE[..], &["--database", "sqlite::memory:", "--migrations", "migrations"]].concat();
    let (_, why) = refused(folder, &memory);
    assert!(why.starts_with("error: `--migrations` is set, and the database is in memory\n"), "{why}");
    let (_, why) = refused(folder, &["migrate", "apply", "--database", "sqlite::memory:"]);
    assert!(why.starts_with("error: a database in memory has no migrations\n"), "{why}");
    add(folder, "29990101T000000_bad", "SELECT 1;\nCOMMIT");
    let (_, why) = refused(folder, &["migrate", "apply", "--database", "sqlite:a.db"]);
    let wanted = "error: migration `29990101T000000_bad`, `expand.sql` line 2: `COMMIT` ends or begins a transaction\n  help: remove it";
    assert!(why.starts_with(wanted), "{why}");
    let (_, why) = refused(folder, &["migrate", "new", "next"]);
    assert!(why.starts_with("error: the last migration, `29990101T000000_bad`, comes after `"), "{why}");
    std::fs::remove_dir_all(folder.join("migrations")).unwrap();
    add(folder, "1", "CREATE TABLE a (id integer)");
    let (_, why) = refused(folder, &[&SERVE[..], &["--database", "sqlite:b.db", "--apply"]].concat());
    assert!(why.contains("error: no migration says which schema the database carries\n  help: "), "{why}");
}

#[tokio::test]
async fn a_change_of_the_schema_is_drafted_in_the_next_migration() {
    let folder = begun();
    let folder = folder.path();
    // Not in the same second, by its name.
    let old = ids(folder).remove(0);
    let migrations = folder.join("migrations");
    std::fs::rename(migrations.join(&old), migrations.join("20000101T000000_first")).unwrap();
    let databases = databases(folder).await;
    for (url, _) in &databases {
        done(folder, &["migrate", "apply", "--database", url]);
        works(folder, url);
    }
    let changed = SCHEMA
        .replace("  version Int     @version\n", "  version Int     @version\n  nick    String?\n")
        .replace("amount     Decimal(18, 2) @range(min: 0) @db_enforce", "amount     Decimal(18, 2) @range(min: 0)");
    std::fs::write(folder.join("shop.cstack"), changed).unwrap();
    for (url, _) in &databases {
        let (_, why) = refused(folder, &[&SERVE[..], &["--database", url]].concat());
        assert!(
            why.contains(
                "the schema is another one than the migrations lead to: it was changed after `20000101T000000_first`"
            ),
            "{why}"
        );
        // Nor is the database changed for it.
        let (_, why) = refused(folder, &[&SERVE[..], &["--database", url, "--apply"]].concat());
        assert!(why.contains("the schema is another one than the migrations lead to"), "{why}");
        let shown = support::run(folder, &["migrate", "status", "shop.cstack", "--database", url]);
        assert_eq!(shown.status.code(), Some(1));
        for command in ["apply", "baseline"] {
            let (_, why) = refused(folder, &["migrate", command, "shop.cstack", "--database", url]);
            assert!(why.contains("the schema is another one than the migrations lead to"), "{why}");
        }
    }
    done(folder, &["migrate", "new", "nicknames", "shop.cstack", "--provider", "both"]);
    let new = migrations.join(ids(folder).remove(1));
    let sql = std::fs::read_to_string(new.join("expand.postgres.sql")).unwrap();
    assert!(sql.starts_with("-- A draft: ") && sql.contains("ADD COLUMN \"nick\" text"), "{sql}");
    for (url, _) in &databases {
        done(folder, &["migrate", "apply", "--database", url]);
        let server = Server::start(folder, &[&SERVE[..], &["--database", url]].concat());
        let bearer = bearer(r#"{"id":"ann"}"#);
        let page = server.request("GET", "/api/customers", &[("Authorization", &bearer)], "");
        assert!(
            page.status == 200 && page.body.contains(r#""name":"Bo""#) && page.body.contains(r#""nick":null"#),
            "{page:?}"
        );
    }
    // The same schema once more is no change.
    let made = support::run(folder, &["migrate", "new", "again", "shop.cstack"]);
    assert!(
        text(&made.stderr).contains("warning: the schema is the one that the migrations lead to already"),
        "{made:?}"
    );
    let made = done(folder, &["migrate", "new", "zz later", "shop.cstack", "--migrations", "elsewhere"]);
    assert!(made.contains("schema.json"), "{made}");
}

#[tokio::test]
async fn a_long_build_shows_how_far_it_is_on_a_terminal() {
    let Some(database) = Database::new().await else { return };
    let folder = tempfile::tempdir().unwrap();
    add(
        folder.path(),
        "1",
        "CREATE TABLE a AS SELECT i AS id, md5(i::text) AS text FROM generate_series(1, 1000000) AS i",
    );
    add(folder.path(), "2", "-- cratestack: no-transaction\nCREATE INDEX CONCURRENTLY a_by_text ON a (text)");
    let program = env!("CARGO_BIN_EXE_cratestack");
    let mut command = std::process::Command::new("script");
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CRATESTACK_")) {
        command.env_remove(name);
    }
    let output = command
        .args(["-qec", &format!("{program} migrate apply --database {}", database.url()), "/dev/null"])
        .current_dir(folder.path())
        .output()
        .expect("the program `script` of util-linux");
    let shown = text(&output.stdout);
    assert!(output.status.success() && shown.contains("2\r\n"), "{shown:?}");
    assert!(shown.contains("migrating [") && shown.contains(" building index"), "{shown:?}");
    // And nothing of it where nobody looks.
    let quiet = support::run(folder.path(), &["migrate", "apply", "--database", &database.url()]);
    assert_eq!(text(&quiet.stderr), "");
}

/// As a reader of docs/migrations.md does it.
#[tokio::test]
async fn the_guide_works() {
    const GUIDE: &str = include_str!("../../../docs/migrations.md");
    let block =
        |kind: &str| GUIDE.split_once(&format!("```{kind}\n")).unwrap().1.split_once("```").unwrap().0.to_owned();
    let Some(database) = Database::new().await else { return };
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(
        concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/bank/bank.cstack"),
        folder.path().join("bank.cstack"),
    )
    .unwrap();
    let commands = block("console");
    let lines: Vec<&str> = commands.lines().map(|line| line.strip_prefix("$ cratestack ").unwrap()).collect();
    assert_eq!(lines.len(), 3);
    for line in lines {
        let line = line
            .replace("postgres://owner@db/bank", &database.url())
            .replace("postgres://bank@db/bank", &database.url());
        let words: Vec<&str> = line
            .split('"')
            .enumerate()
            .flat_map(|(at, part)| if at % 2 == 1 { vec![part] } else { part.split_whitespace().collect() })
            .collect();
        if words[0] == "serve" {
            let address = ["--addr", "127.0.0.1:0"];
            let server = Server::start(folder.path(), &[&words[..], &address].concat());
            assert_eq!(server.request("GET", "/readyz", &[], "").status, 200);
        } else {
            done(folder.path(), &words);
        }
    }
    add(folder.path(), "29990101T000000_by_age", &block("sql"));
    let applied = done(folder.path(), &["migrate", "apply", "--database", &database.url()]);
    assert_eq!(applied, "applied 29990101T000000_by_age\n");
}
