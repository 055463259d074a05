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
