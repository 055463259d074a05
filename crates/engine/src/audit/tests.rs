#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

use super::*;
use crate::api::{Answer, BatchItem, Code, Operation, Verb};
use crate::engine::tests::{Base, at, caller, json as parsed, split};
use crate::engine::{Engine, Store};
use crate::sql::SqlType;
use crate::store::{NoPages, Session as _};
use crate::testing::statement;

pub(crate) const BANK: &str = r#"
enum Role { teller manager auditor }
enum Status { open closed @map("CLOSED") }

auth Principal {
  id       String @id
  role     Role
  tenantId String @tenant
}

model Customer {
  id       Int    @id
  name     String
  version  Int    @version
  accounts Account[]
  loans    Loan[]
  @@soft_delete
  @@audit
  @@allow("all", true)
  @@allow("restore", true)
}

model Loan {
  id         Int @id
  customerId Int
  customer   Customer @relation(fields: [customerId], references: [id], onDelete: Restrict)
  @@soft_delete
  @@allow("all", true)
}

model Account {
  id         Uuid   @id @default(uuid())
  customerId Int?
  owner      String @length(min: 1)
  email      String? @pii
  pin        String @default("1234") @sensitive
  secret     String @default("x") @server_only
  status     Status @default(open)
  balance    Decimal(18, 4) @default(0)
  rate       Decimal @default(0)
  big        BigInt @default(0)
  factor     Float @default(0)
  flag       Boolean @default(false)
  born       Date?
  data       Bytes?
  extra      Json?
  tags       String[]
  createdAt  DateTime @default(now())
  version    Int    @version
  customer   Customer? @relation(fields: [customerId], references: [id], onDelete: Cascade)
  @@soft_delete
  @@audit(denials)
  @@unique([owner])
  @@check(balance >= 0, "insufficient funds", name: "funds")
  @@deny("update", auth().role == auditor)
  @@allow("all", auth() != null)
  @@allow("restore", true)
}

model Branch {
  a    Int
  b    String
  text String?
  desks Desk[]
  @@id([a, b])
  @@allow("all", true)
}

model Desk {
  id      Int @id @default(autoincrement())
  branchA Int?
  branchB String?
  branch  Branch? @relation(fields: [branchA, branchB], references: [a, b], onDelete: Cascade, onUpdate: Cascade)
  @@audit
  @@allow("all", true)
}
"#;

/// Runs SQL as somebody beside the engine would.
pub(crate) async fn sql(base: &Base, text: &str) -> Result<(), String> {
    match (&base.postgres, &base.directory) {
        (Some(database), _) => {
            let mut connection = database.connect().await;
            let done = sqlx::raw_sql(sqlx::AssertSqlSafe(text)).execute(&mut connection).await;
            done.map(|_| ()).map_err(|error| error.to_string())
        }
        (None, Some(directory)) => {
            // Without our functions and pragmas, as any other tool.
            let connection = rusqlite::Connection::open(directory.path().join("test.db")).unwrap();
            connection.busy_timeout(Duration::from_secs(5)).unwrap();
            connection.execute_batch("PRAGMA foreign_keys = ON").unwrap();
            connection.execute_batch(text).map_err(|error| error.to_string())
        }
        (None, None) => panic!("nobody else can reach a database in memory"),
    }
}

/// A text column of each row, as the engine's connection reads it.
pub(crate) async fn texts(engine: &Engine, text: &str) -> Vec<String> {
    let statement = statement(text, &[SqlType::TEXT], Vec::new());
    let deadline = Instant::now() + Duration::from_secs(10);
    let rows = match engine.store() {
        Store::Postgres(pool) => {
            pool.session(deadline.into()).await.unwrap().fetch(&statement, &mut NoPages).await.unwrap()
        }
        Store::Sqlite(database) => {
            use futures_util::FutureExt as _;
            let work = move |session: &mut crate::store::sqlite::SqliteSession<'_>| {
                session.fetch(&statement, &mut NoPages).now_or_never().unwrap()
            };
            database.read(deadline, work).await.unwrap()
        }
    };
    let cell = |row: usize| match &rows.control(row)[0] {
        cratestack_schema::value::Value::Text(text) => text.clone(),
        other => panic!("{other:?}"),
    };
    (0..rows.len()).map(cell).collect()
}

/// The entries, oldest first.
pub(crate) async fn entries(base: &Base) -> Vec<Json> {
    let texts = texts(&base.engine, "SELECT entry FROM cratestack_audit ORDER BY seq").await;
    let parsed = texts.iter().map(|text| {
        let value: Json = serde_json::from_str(text).unwrap();
        // Compact, with sorted members: serde_json's maps are sorted.
        assert_eq!(serde_json::to_string(&value).unwrap(), *text, "{}", base.name);
        value
    });
    parsed.collect()
}

/// What happened to which row.
async fn story(base: &Base) -> Vec<String> {
    let line = |entry: &Json| {
        let text = |name: &str| entry[name].as_str().unwrap().to_owned();
        let changed: Vec<&str> =
            entry["changed"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
        let by = if entry["out_of_band"] == true { " out of band" } else { "" };
        format!("{} {} {} [{}]{by}", text("operation"), text("model"), text("primary_key"), changed.join(" "))
    };
    entries(base).await.iter().map(line).collect()
}

pub(crate) const ID: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

#[tokio::test]
async fn an_event_says_who_did_what() {
    for base in Base::all(BANK).await {
        let name = base.name;
        let data = format!(
            r#"{{"id":"{ID}","owner":"Ann \"é\" \u0001","email":"a@b.c","status":"closed","balance":"12.5","rate":"-0.0012",
            "big":"-9007199254740993","factor":0.1,"flag":true,"born":"2001-02-03","data":"AP8=","extra":{{"b":[1,"x"],"a":null}},
            "tags":["x","\"y\""]}}"#
        );
        let account = base.engine.schema().model_named("Account").unwrap();
        let mut who = caller(&base.engine, "teller");
        who.request_id = "req-1".to_owned();
        who.origin = Origin {
            op: "POST /accounts".into(),
            auth: Some(crate::api::AuthMethod::Dev),
            job: None,
            client_ip: Some("::ffff:10.0.0.1".parse().unwrap()),
            trace_id: Some("0af7651916cd43dd8448eb211c80319c".to_owned()),
            idempotency_key: None,
        };
        let operation = Operation { model: account, verb: Verb::Create { data: parsed(&data) } };
        base.engine.run(&who, operation).await.unwrap();
        base.patch("manager", "Account", ID, 1, r#"{"email":null,"pin":"9","balance":"7"}"#).await.unwrap();
        // Nothing changes, and nothing happened.
        base.patch("manager", "Account", ID, 2, r#"{"balance":"7.0"}"#).await.unwrap();

        let all = entries(&base).await;
        assert_eq!(all.len(), 2, "{name} {all:#?}");
        let mut first = all[0].clone();
        let event_id = first["event_id"].as_str().unwrap().to_owned();
        assert_eq!(uuid::Uuid::parse_str(&event_id).unwrap().get_version_num(), 7, "{name} {event_id}");
        let at = first["at"].as_str().unwrap().to_owned();
        assert!(instant_is_canonical(&at), "{name} {at}");
        let user = if base.postgres.is_some() { json!("postgres") } else { Json::Null };
        assert_eq!(first["db_user"], user, "{name}");
        for member in ["event_id", "at", "db_user"] {
            first.as_object_mut().unwrap().remove(member);
        }
        assert_eq!(
            first,
            json!({
                "actor": {
                    "claims": {"id": "ann", "role": "teller", "tenantId": "t1"},
                    "client_ip": "10.0.0.1",
                    "roles": ["teller"],
                    "subject": "ann",
                },
                "after": {
                    "balance": "12.5000", "big": "-9007199254740993", "born": "2001-02-03",
                    "createdAt": "2026-01-31T10:00:00.000000Z", "customerId": null, "data": "00ff", "deletedAt": null,
                    "email": {"redacted": "pii"}, "extra": first["after"]["extra"], "factor": "0.1", "flag": true, "id": ID,
                    "owner": "Ann \"é\" \u{1}", "pin": {"redacted": "sensitive"}, "rate": "-0.0012", "status": "closed",
                    "tags": ["x", "\"y\""], "version": 1,
                },
                "auth": "dev",
                "before": null,
                "changed": [
                    "balance", "big", "born", "createdAt", "data", "email", "extra", "factor", "flag", "id", "owner", "pin",
                    "rate", "secret", "status", "tags", "version",
                ],
                "idempotency_key": null,
                "model": "Account",
                "op": "POST /accounts",
                "operation": "create",
                "out_of_band": false,
                "outcome": "done",
                "primary_key": ID,
                "request_id": "req-1",
                "schema_name": "bank",
                "schema_version": base.engine.schema().fingerprint(),
                "service": "cratestack",
                "tenant": "t1",
                "trace_id": "0af7651916cd43dd8448eb211c80319c",
                "typ": "audit.event",
                "v": 1,
            }),
            "{name}"
        );
        // A string of the stored text, which is the database's own.
        let extra: Json = serde_json::from_str(first["after"]["extra"].as_str().unwrap()).unwrap();
        assert_eq!(extra, json!({"a": null, "b": [1, "x"]}), "{name}");
        let second = &all[1];
        assert_eq!(second["changed"], json!(["balance", "email", "pin", "version"]), "{name}");
        assert_eq!(second["before"], first["after"], "{name}");
        assert_eq!((&second["after"]["email"], &second["after"]["balance"]), (&Json::Null, &json!("7.0000")), "{name}");
        assert_eq!(second["auth"], Json::Null, "{name}");
    }
}

fn instant_is_canonical(text: &str) -> bool {
    use cratestack_schema::value::instant;
    instant::to_unix_micros(text).and_then(instant::from_unix_micros).as_deref() == Some(text)
}

#[tokio::test]
async fn every_way_to_change_a_row_is_recorded() {
    for base in Base::all(BANK).await {
        let name = base.name;
        base.create("teller", "Customer", r#"{"id":1,"name":"Ann"}"#).await.unwrap();
        base.create("teller", "Account", &format!(r#"{{"id":"{ID}","owner":"a","customerId":1}}"#)).await.unwrap();
        // A cascade of tombstones, and back.
        base.delete("teller", "Customer", "1", 1).await.unwrap();
        base.restore("teller", "Customer", "1", 2).await.unwrap();
        let account = format!("Account {ID}");
        let columns = "[balance big createdAt customerId factor flag id owner pin rate secret status tags version]";
        let mut told = story(&base).await;
        // Which of the two triggers comes first is the database's choice.
        told[2..4].sort();
        told[4..6].sort();
        assert_eq!(
            told,
            [
                "create Customer 1 [id name version]".to_owned(),
                format!("create {account} {columns}"),
                format!("delete {account} [deletedAt version]"),
                "delete Customer 1 [deletedAt version]".to_owned(),
                format!("restore {account} [deletedAt version]"),
                "restore Customer 1 [deletedAt version]".to_owned(),
            ],
            "{name}"
        );
        // All by the same request.
        assert!(entries(&base).await.iter().all(|entry| entry["actor"]["subject"] == "ann"), "{name}");
    }
    for base in Base::all(BANK).await {
        let name = base.name;
        // A batch: items that are refused leave nothing.
        let item = |verb| BatchItem { verb };
        let create = |id: i64| item(Verb::Create { data: parsed(&format!(r#"{{"id":{id},"name":"x"}}"#)) });
        let items = vec![create(1), create(2), create(1), item(Verb::Delete { key: split("2"), expected: at(1) })];
        let answer = base.run("teller", "Customer", Verb::Batch { atomic: false, items }).await.unwrap();
        let Answer::Batch(answers) = answer else { panic!("{name}") };
        assert_eq!(answers.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, true, false, true], "{name}");
        let items = vec![create(3), create(3)];
        base.run("teller", "Customer", Verb::Batch { atomic: true, items }).await.unwrap_err();
        assert_eq!(
            story(&base).await,
            [
                "create Customer 1 [id name version]",
                "create Customer 2 [id name version]",
                "delete Customer 2 [deletedAt version]",
            ],
            "{name}"
        );
        // A write to a model without a trail that reaches one with a trail.
        base.create("teller", "Branch", r#"{"a":1,"b":"x"}"#).await.unwrap();
        base.create("teller", "Desk", r#"{"branchA":1,"branchB":"x"}"#).await.unwrap();
        base.delete("manager", "Branch", "1/x", -1).await.unwrap();
        let all = entries(&base).await;
        let last = &all[all.len() - 1];
        assert_eq!(
            story(&base).await[3..],
            ["create Desk 1 [branchA branchB id]", "delete Desk 1 [branchA branchB id]"]
        );
        assert_eq!((&last["out_of_band"], &last["actor"]["roles"]), (&json!(false), &json!(["manager"])), "{name}");
    }
}

#[tokio::test]
async fn whoever_writes_sql_is_recorded_too() {
    for base in Base::durable(BANK).await {
        let name = base.name;
        for text in [
            "INSERT INTO customers (id, name, version) VALUES (1, 'Ann', 1), (2, 'Bob', 1), (3, 'Eve', 1)",
            "UPDATE customers SET name = name",
            "UPDATE customers SET name = upper(name) WHERE id <= 2",
            "UPDATE customers SET id = 4 WHERE id = 3",
            "DELETE FROM customers WHERE id = 1",
            "UPDATE customers SET deleted_at = '2026-01-31T10:00:00.000000Z', \
             deletion_id = '01890a5d-ac96-774b-bcce-b302099a8057' WHERE id = 2",
            "DELETE FROM customers WHERE id = 2",
        ] {
            sql(&base, text).await.unwrap_or_else(|error| panic!("{name} {text}: {error}"));
        }
        let mut told = vec![
            "create Customer 1 [id name version]",
            "create Customer 2 [id name version]",
            "create Customer 3 [id name version]",
            "update Customer 1 [name]",
            "update Customer 2 [name]",
            "delete Customer 3 [id name version]",
            "create Customer 4 [id name version]",
            "delete Customer 1 [id name version]",
            "delete Customer 2 [deletedAt]",
            "erase Customer 2 [deletedAt id name version]",
        ];
        if base.postgres.is_some() {
            sql(&base, "TRUNCATE customers CASCADE").await.unwrap();
            told.push("delete Customer 4 [id name version]");
            sql(&base, "COPY customers (id, name, version) FROM PROGRAM 'printf \"7\\tCopy\\t1\\n\"'").await.unwrap();
            told.push("create Customer 7 [id name version]");
            sql(&base, "SET session_replication_role = replica; UPDATE customers SET name = 'r'").await.unwrap();
            told.push("update Customer 7 [name]");
        }
        let told: Vec<String> = told.into_iter().map(|line| format!("{line} out of band")).collect();
        assert_eq!(story(&base).await, told, "{name}");
        let user = if base.postgres.is_some() { json!("postgres") } else { Json::Null };
        for entry in entries(&base).await {
            let actor = json!({"claims": {}, "client_ip": null, "roles": [], "subject": user});
            assert_eq!((&entry["actor"], &entry["auth"], &entry["op"]), (&actor, &json!("sql"), &Json::Null), "{name}");
        }
    }
}

#[tokio::test]
async fn a_replacement_is_refused_where_it_would_go_unseen() {
    for base in Base::durable(BANK).await.into_iter().filter(|base| base.postgres.is_none()) {
        base.create("teller", "Customer", r#"{"id":1,"name":"Ann"}"#).await.unwrap();
        base.create("teller", "Customer", r#"{"id":2,"name":"Bob"}"#).await.unwrap();
        base.create("teller", "Account", &format!(r#"{{"id":"{ID}","owner":"a"}}"#)).await.unwrap();
        let other = ID.replace("8057", "8058");
        base.create("teller", "Account", &format!(r#"{{"id":"{other}","owner":"b"}}"#)).await.unwrap();
        let before = story(&base).await;
        for text in [
            "INSERT OR REPLACE INTO customers (id, name, version) VALUES (1, 'x', 1)",
            "UPDATE OR REPLACE customers SET id = 1 WHERE id = 2",
            &format!("UPDATE OR REPLACE accounts SET owner = 'a' WHERE id = '{other}'"),
            "REPLACE INTO accounts (id, owner, tags, created_at) VALUES ('01890a5d-ac96-774b-bcce-b302099a8059', 'a', '[]', \
             '2026-01-31T10:00:00.000000Z')",
            "INSERT OR REPLACE INTO cratestack_audit (seq, occurred_at, model, primary_key, out_of_band, entry) \
             VALUES (1, '', '', '', 0, '{}')",
            "UPDATE cratestack_audit SET model = 'x'",
            "DELETE FROM cratestack_audit",
        ] {
            let error = sql(&base, text).await.unwrap_err();
            assert!(error.starts_with("cratestack:"), "{text}: {error}");
        }
        assert_eq!(story(&base).await, before);
        // A row keeps its own key.
        sql(&base, "UPDATE customers SET id = 1, name = 'y' WHERE id = 1").await.unwrap();
    }
}

/// What somebody can do to SQLite beside `REPLACE`.
#[tokio::test]
async fn no_conflict_clause_and_no_name_of_the_key_goes_past_the_trail() {
    for base in Base::durable(BANK).await.into_iter().filter(|base| base.postgres.is_none()) {
        base.create("teller", "Customer", r#"{"id":1,"name":"Ann"}"#).await.unwrap();
        base.create("teller", "Customer", r#"{"id":2,"name":"Bob"}"#).await.unwrap();
        for key in ["rowid", "oid", "_rowid_"] {
            sql(&base, &format!("UPDATE customers SET {key} = 5 WHERE id = 1")).await.unwrap();
            sql(&base, &format!("UPDATE customers SET {key} = 1 WHERE id = 5")).await.unwrap();
        }
        let told = story(&base).await;
        let moved = ["delete Customer 1", "create Customer 5", "delete Customer 5", "create Customer 1"].repeat(3);
        for (line, start) in told[2..].iter().zip(&moved) {
            assert!(line.starts_with(start), "{told:#?}");
        }
        assert_eq!(told.len(), 2 + moved.len());
        let huge = "printf('%.70000c', 'k')";
        for text in [
            "UPDATE OR REPLACE customers SET _rowid_ = 2 WHERE id = 1",
            "INSERT OR REPLACE INTO customers (rowid, name, version) VALUES (2, 'x', 1)",
            // What does not fit, by what it says of itself.
            &format!(
                "INSERT INTO cratestack_context SELECT 1, json_object('subject', {huge}), 'null', 'null', 'null', 'null', 'null', \
                 'null', 'null', 'null'; UPDATE OR IGNORE customers SET name = 'stolen'"
            ),
            "INSERT OR REPLACE INTO cratestack_context VALUES (1, '{}', '\"jwt\",\"db_user\":1', 'null', 'null', 'null', 'null', \
             'null', 'null', 'null')",
            "INSERT OR REPLACE INTO cratestack_context VALUES (1, '[]', 'null', 'null', 'null', 'null', 'null', 'null', 'null', \
             'null')",
            "CREATE TEMP TRIGGER t BEFORE INSERT ON main.cratestack_audit BEGIN SELECT RAISE(IGNORE); END; \
             UPDATE customers SET name = 'stolen'",
            &format!("INSERT OR IGNORE INTO desks (id, branch_a, branch_b) VALUES (1, 1, {huge})"),
        ] {
            let done = sql(&base, text).await;
            let named = texts(&base.engine, "SELECT group_concat(name) FROM customers").await;
            assert_eq!(named, ["Ann,Bob"], "{text}: {done:?}");
            let _ = sql(&base, "DELETE FROM cratestack_context").await;
        }
        assert_eq!(story(&base).await, told);
        // A key that the trail cannot hold.
        let text = BANK.replace("  id      Int @id @default(autoincrement())", "  id String @id");
        let base = Base::durable(&text).await.into_iter().find(|base| base.postgres.is_none()).unwrap();
        for word in ["IGNORE", "FAIL", "ABORT"] {
            let insert = format!("INSERT OR {word} INTO desks (id) VALUES ('a'), (printf('%.3000c', 'k'))");
            let refused = sql(&base, &insert).await.unwrap_err();
            assert_eq!(refused, "cratestack:audit:size of key", "{word}");
            assert!(story(&base).await.is_empty(), "{word}");
        }
    }
}

/// A context that somebody left behind, and a text that is none.
#[tokio::test]
async fn what_sql_leaves_behind_stops_nobody() {
    for base in Base::durable(BANK).await.into_iter().filter(|base| base.postgres.is_none()) {
        sql(
            &base,
            "INSERT INTO cratestack_context VALUES (1, '{}', 'null', 'null', 'null', 'null', 'null', 'null', 'null', 'null')",
        )
        .await
        .unwrap();
        base.create("teller", "Customer", r#"{"id":1,"name":"Ann"}"#).await.unwrap();
        assert_eq!(entries(&base).await[0]["actor"]["roles"], json!(["teller"]));
        sql(&base, "UPDATE customers SET name = CAST(x'ff61' AS TEXT)").await.unwrap();
        let mut reader = read::Reader::open(&base.engine).await.unwrap();
        let shown = reader.list(&read::Filter::default(), None, 10).await.unwrap();
        assert!(shown[0].entry.contains("\"name\":\"\u{fffd}a\""), "{}", shown[0].entry);
    }
}

#[tokio::test]
async fn a_write_whose_event_cannot_be_written_fails() {
    for base in Base::durable(BANK).await {
        let name = base.name;
        base.create("teller", "Customer", r#"{"id":1,"name":"Ann"}"#).await.unwrap();
        let fail = if base.postgres.is_some() {
            "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''full''; END'; \
             CREATE TRIGGER fail BEFORE INSERT ON cratestack_audit FOR EACH ROW EXECUTE FUNCTION fail()"
        } else {
            "CREATE TRIGGER fail BEFORE INSERT ON cratestack_audit BEGIN SELECT RAISE(ABORT, 'full'); END"
        };
        sql(&base, fail).await.unwrap();
        let create = base.create("teller", "Customer", r#"{"id":2,"name":"Bob"}"#).await.unwrap_err();
        let patch = base.patch("teller", "Customer", "1", 1, r#"{"name":"x"}"#).await.unwrap_err();
        let delete = base.delete("teller", "Customer", "1", 1).await.unwrap_err();
        for failure in [create, patch, delete] {
            assert_eq!(failure.code, Code::Unavailable, "{name} {failure:?}");
            assert_eq!(
                failure.detail, "the audit trail or the outbox cannot be written; nothing was changed",
                "{name}"
            );
        }
        sql(&base, if base.postgres.is_some() { "DROP TRIGGER fail ON cratestack_audit" } else { "DROP TRIGGER fail" })
            .await
            .unwrap();
        base.patch("teller", "Customer", "1", 1, r#"{"name":"x"}"#).await.unwrap();
        assert_eq!(story(&base).await, ["create Customer 1 [id name version]", "update Customer 1 [name version]"]);
    }
}

#[tokio::test]
async fn a_full_disk_leaves_nothing() {
    for base in Base::durable(BANK).await {
        let name = base.name;
        base.create("teller", "Customer", r#"{"id":1,"name":"Ann"}"#).await.unwrap();
        let long = format!(r#"{{"name":"{}"}}"#, "x".repeat(20_000));
        if base.postgres.is_some() {
            let full = "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
                        RAISE EXCEPTION 'full' USING ERRCODE = '53100'; END $$; \
                        CREATE TRIGGER fail BEFORE INSERT ON cratestack_audit FOR EACH ROW EXECUTE FUNCTION fail()";
            sql(&base, full).await.unwrap();
        } else {
            // No page more than there are: the row itself would still fit, the event does not.
            limit_pages(&base, "SELECT page_count FROM pragma_page_count").await;
        }
        let failure = base.patch("teller", "Customer", "1", 1, &long).await.unwrap_err();
        assert_eq!((failure.code, failure.detail.as_str()), (Code::Unavailable, FULL), "{name}");
        if base.postgres.is_some() {
            sql(&base, "DROP TRIGGER fail ON cratestack_audit").await.unwrap();
        } else {
            limit_pages(&base, "SELECT 4294967294").await;
        }
        base.patch("teller", "Customer", "1", 1, &long).await.unwrap();
        assert_eq!(story(&base).await, ["create Customer 1 [id name version]", "update Customer 1 [name version]"]);
    }
}

const FULL: &str = "the database has no space left; nothing was changed";

/// Bounds the file as the writer sees it.
async fn limit_pages(base: &Base, pages: &str) {
    let Store::Sqlite(database) = base.engine.store() else { return };
    let pages = texts(&base.engine, &format!("SELECT CAST(({pages}) AS TEXT)")).await.remove(0);
    let statement = statement(&format!("PRAGMA max_page_count = {pages}"), &[SqlType::INT], Vec::new());
    let work = move |session: &mut crate::store::sqlite::SqliteSession<'_>| {
        use futures_util::FutureExt as _;
        session.fetch(&statement, &mut NoPages).now_or_never().unwrap().map(|_| ())
    };
    database.write::<_, (), crate::fault::StoreError>(Instant::now() + Duration::from_secs(10), work).await.unwrap();
}

#[tokio::test]
async fn what_does_not_fit_is_named_by_its_length() {
    for base in Base::all(BANK).await {
        let name = base.name;
        let create = |id: i64, length: usize| format!(r#"{{"id":{id},"name":"{}"}}"#, "é".repeat(length));
        base.create("teller", "Customer", &create(1, 30_000)).await.unwrap();
        base.create("teller", "Customer", &create(2, 33_000)).await.unwrap();
        base.patch("teller", "Customer", "1", 1, r#"{"name":"x"}"#).await.unwrap();
        base.patch("teller", "Customer", "2", 1, &format!(r#"{{"name":"{}"}}"#, "y".repeat(70_000))).await.unwrap();
        let all = entries(&base).await;
        assert_eq!(all[0]["after"]["name"].as_str().unwrap().len(), 60_000, "{name}");
        let digest = |row: &Json| {
            let row = &row["omitted"];
            assert_eq!(row.get("sha256").is_some(), base.postgres.is_some(), "{name} {row}");
            row["length"].as_u64().unwrap()
        };
        let length = |name: usize| (r#"{"deletedAt":null,"id":2,"name":"","version":1}"#.len() + name) as u64;
        assert_eq!(digest(&all[1]["after"]), length(66_000), "{name}");
        assert_eq!((all[2]["before"]["name"].as_str().unwrap().len(), &all[2]["after"]["name"]), (60_000, &json!("x")));
        assert_eq!((digest(&all[3]["before"]), digest(&all[3]["after"])), (length(66_000), length(70_000)), "{name}");
    }
}

#[tokio::test]
async fn refusals_are_recorded_where_they_are_asked_for() {
    for base in Base::all(BANK).await {
        let name = base.name;
        base.create("teller", "Account", &format!(r#"{{"id":"{ID}","owner":"a"}}"#)).await.unwrap();
        base.create("teller", "Customer", r#"{"id":1,"name":"Ann"}"#).await.unwrap();
        let stale = base.patch("teller", "Account", ID, 9, r#"{"owner":"b"}"#).await.unwrap_err();
        assert_eq!(stale.code, Code::VersionMismatch, "{name}");
        let denied = base.patch("auditor", "Account", ID, 1, r#"{"owner":"b"}"#).await.unwrap_err();
        assert_eq!(denied.code, Code::Forbidden, "{name}");
        // Not on this model, and not these.
        base.patch("teller", "Customer", "1", 9, r#"{"name":"b"}"#).await.unwrap_err();
        base.patch("teller", "Account", ID, 1, r#"{"owner":""}"#).await.unwrap_err();
        base.patch("teller", "Account", &ID.replace('1', "2"), 1, r#"{"owner":"b"}"#).await.unwrap_err();
        let items = vec![
            BatchItem { verb: Verb::Create { data: parsed(r#"{"owner":"c"}"#) } },
            BatchItem { verb: Verb::Delete { key: split(ID), expected: at(7) } },
        ];
        let refused = base.run("teller", "Account", Verb::Batch { atomic: true, items }).await.unwrap_err();
        assert_eq!((refused.code, refused.item), (Code::VersionMismatch, Some(1)), "{name}");
        let told = format!("denied Account {ID} []");
        assert_eq!(story(&base).await[2..], [told.as_str(), &told, &told], "{name}");
        let all = entries(&base).await;
        let last = &all[3];
        assert_eq!((&last["outcome"], &last["before"], &last["after"]), (&json!("denied"), &Json::Null, &Json::Null));
        assert_eq!((&last["actor"]["roles"], &last["out_of_band"]), (&json!(["auditor"]), &json!(false)), "{name}");
        // An allowance for each principal.
        for _ in 0..70 {
            base.patch("teller", "Account", ID, 9, r#"{"owner":"b"}"#).await.unwrap_err();
        }
        let denials = story(&base).await.iter().filter(|line| line.starts_with("denied")).count();
        assert_eq!(denials, 61, "{name}");
    }
}

#[tokio::test]
async fn the_role_of_the_application_cannot_touch_the_trail() {
    let Some(base) = Base::postgres(BANK).await else { return };
    let database = base.postgres.as_ref().unwrap();
    let mut connection = database.connect().await;
    let role = format!("app_{}", uuid::Uuid::now_v7().simple());
    let script = grants(base.engine.schema(), &role, "public").join("\n");
    for _ in 0..2 {
        sqlx::raw_sql(sqlx::AssertSqlSafe(script.as_str())).execute(&mut connection).await.unwrap();
    }
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!("ALTER ROLE {role} PASSWORD 'secret'")))
        .execute(&mut connection)
        .await
        .unwrap();
    let (scheme, rest) = database.url.split_once("://").unwrap();
    let url = format!("{scheme}://{role}:secret@{}", rest.split_once('@').map_or(rest, |(_, host)| host));

    // It serves everything.
    let options = crate::engine::Options::default();
    let schema = Arc::clone(base.engine.schema());
    let engine = Engine::open(schema, &crate::engine::Database::Postgres(url.clone()), options).await.unwrap();
    let served = Base { name: "role", engine, postgres: None, directory: None };
    served.create("teller", "Customer", r#"{"id":1,"name":"Ann"}"#).await.unwrap();
    served.create("teller", "Account", &format!(r#"{{"id":"{ID}","owner":"a","customerId":1}}"#)).await.unwrap();
    served.create("teller", "Branch", r#"{"a":1,"b":"x"}"#).await.unwrap();
    served.create("teller", "Desk", r#"{"branchA":1,"branchB":"x"}"#).await.unwrap();
    served.patch("auditor", "Account", ID, 1, r#"{"owner":"b"}"#).await.unwrap_err();
    served.delete("teller", "Customer", "1", 1).await.unwrap();
    served.restore("teller", "Customer", "1", 2).await.unwrap();
    served.delete("teller", "Branch", "1/x", -1).await.unwrap();
    assert_eq!(story(&served).await.len(), 9);
    assert!(entries(&served).await.iter().all(|entry| entry["db_user"] == role.as_str()));
    served.engine.close().await;

    let mut app = <sqlx::PgConnection as sqlx::Connection>::connect(&url).await.unwrap();
    for text in [
        "UPDATE cratestack_audit SET entry = '{}'",
        "DELETE FROM cratestack_audit",
        "TRUNCATE cratestack_audit",
        "INSERT INTO cratestack_audit (occurred_at, model, primary_key, out_of_band, entry) VALUES (now(), '', '', false, '{}')",
        "INSERT INTO cratestack_audit (seq, xid, occurred_at, model, primary_key, out_of_band, entry) \
         OVERRIDING SYSTEM VALUE VALUES (1, 1, now(), '', '', false, '{}')",
        "ALTER TABLE customers DISABLE TRIGGER ALL",
        "ALTER TABLE cratestack_audit DISABLE TRIGGER ALL",
        "DROP TRIGGER cratestack_audit_rows_customers ON customers",
        "CREATE OR REPLACE FUNCTION cratestack_audit_rows_customers() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN END'",
        "SET session_replication_role = replica",
        "TRUNCATE customers",
        "CREATE TABLE cratestack_audit (x text)",
    ] {
        let refused = sqlx::raw_sql(sqlx::AssertSqlSafe(text)).execute(&mut app).await.unwrap_err().to_string();
        assert!(refused.contains("denied") || refused.contains("must be owner"), "{text}: {refused}");
    }
    // A table of its own of the same name is none that the triggers would write to.
    let own = "CREATE TEMP TABLE cratestack_audit (LIKE public.cratestack_audit); \
               UPDATE pg_temp.cratestack_audit SET entry = ''; UPDATE customers SET name = 'seen'";
    sqlx::raw_sql(own).execute(&mut app).await.unwrap();
    assert_eq!(story(&base).await.last().unwrap(), "update Customer 1 [name] out of band");
    // Whatever a context says, it says no more than a context can.
    let good = r#"{"claims":{},"client_ip":null,"roles":[],"subject":"ceo"}"#;
    let rest = r"\nnull".repeat(Context::MEMBERS.len() - 2);
    for context in [
        format!(r#"{good}\n"jwt"{rest},"outcome":"done""#),
        format!(r#"{good}\n"jwt","db_user":"x"{rest}"#),
        format!(r"{good}\n[]{rest}"),
        format!(r#"{good}\n"jwt"{rest}\nnull"#),
        format!(r#""ceo"\n"jwt"{rest}"#),
        format!(r#"{{"subject":"ceo"}}\n"jwt"{rest}"#),
        format!(r#"{}\n"jwt"{rest}"#, good.replace("ceo", r"\\u0000")),
        "x".to_owned(),
    ] {
        for text in [
            format!("SELECT cratestack_audit_denied(E'{context}', 't', 'v', 'Customer', '1')"),
            format!(
                "SELECT set_config('cratestack.context', E'{context}', false); UPDATE customers SET name = 'forged'"
            ),
        ] {
            let refused = sqlx::raw_sql(sqlx::AssertSqlSafe(text.as_str())).execute(&mut app).await;
            assert!(refused.is_err(), "{text}");
        }
    }
    assert_eq!(story(&base).await.last().unwrap(), "update Customer 1 [name] out of band");
    // Nobody makes the functions, which have their owner's rights, work on tables of their own.
    for text in [
        "CREATE TEMP TABLE t (id text, name text); CREATE TRIGGER t AFTER INSERT ON t FOR EACH ROW \
         EXECUTE FUNCTION public.cratestack_audit_rows_customers()",
        "SELECT cratestack_audit_rows_customers()",
    ] {
        let refused = sqlx::raw_sql(sqlx::AssertSqlSafe(text)).execute(&mut app).await.unwrap_err().to_string();
        assert!(refused.contains("permission denied for function"), "{text}: {refused}");
    }
    // Nor do they find what others have put where it would fit better.
    let bait = "CREATE FUNCTION concat(text, text, text, text, text) RETURNS text LANGUAGE sql AS $$ SELECT 1 / 0 $$; \
                CREATE FUNCTION to_json(text) RETURNS json LANGUAGE sql AS $$ SELECT (1 / 0)::text::json $$";
    sql(&base, &bait.replace("SELECT 1 / 0", "SELECT (1 / 0)::text")).await.unwrap();
    sql(&base, "UPDATE customers SET name = 'unharmed'").await.unwrap();
    // TRUNCATE takes no row that its DELETE does not see.
    sql(&base, "CREATE TEMP TABLE loans (id int); CREATE TEMP TABLE desks (id int); TRUNCATE public.desks")
        .await
        .unwrap();
    let refused = sql(&base, "BEGIN ISOLATION LEVEL REPEATABLE READ; TRUNCATE desks").await.unwrap_err();
    assert!(refused.contains("READ COMMITTED only"), "{refused}");
    // The owner meets the triggers of the trail.
    for text in
        ["UPDATE cratestack_audit SET entry = '{}'", "DELETE FROM cratestack_audit", "TRUNCATE cratestack_audit"]
    {
        let refused = sql(&base, &format!("SET session_replication_role = replica; {text}")).await.unwrap_err();
        assert!(refused.contains("are never changed or deleted"), "{text}: {refused}");
    }
    drop(app);
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!("DROP OWNED BY {role}; DROP ROLE {role}")))
        .execute(&mut connection)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_purge_erases_old_tombstones() {
    for base in Base::all(BANK).await {
        let name = base.name;
        let customer = base.engine.schema().model_named("Customer").unwrap();
        for id in 1..=3 {
            base.create("teller", "Customer", &format!(r#"{{"id":{id},"name":"n"}}"#)).await.unwrap();
        }
        base.create("teller", "Account", &format!(r#"{{"id":"{ID}","owner":"a","customerId":2}}"#)).await.unwrap();
        base.delete("teller", "Customer", "1", 1).await.unwrap();
        base.delete("teller", "Customer", "2", 1).await.unwrap();
        let before = story(&base).await.len();
        // The engine's clock stands at 10:00:00.
        let (early, late) = ("2026-01-31T10:00:00.000000Z", "2026-01-31T10:00:00.000001Z");
        assert_eq!(base.engine.tombstones(customer, early).await.unwrap(), 0, "{name}");
        assert_eq!(base.engine.tombstones(customer, late).await.unwrap(), 2, "{name}");
        let none = base.engine.purge(customer, early, &mut |_| ()).await.unwrap();
        assert_eq!((none.removed, none.kept, story(&base).await.len()), (0, 0, before), "{name}");
        let mut reports = Vec::new();
        let purged = base.engine.purge(customer, late, &mut |purged| reports.push(purged)).await.unwrap();
        assert_eq!((purged.removed, purged.kept, reports), (2, 0, vec![purged]), "{name}");
        let told = story(&base).await.split_off(before);
        let account = format!(
            "erase Account {ID} [balance big createdAt customerId deletedAt factor flag id owner pin rate \
                               secret status tags version]"
        );
        let mut expected = vec![
            "erase Customer 1 [deletedAt id name version]".to_owned(),
            account,
            "erase Customer 2 [deletedAt id name version]".to_owned(),
        ];
        expected.sort();
        let mut sorted = told.clone();
        sorted.sort();
        assert_eq!(sorted, expected, "{name}");
        let last = entries(&base).await.pop().unwrap();
        assert_eq!(
            (&last["auth"], &last["op"], &last["out_of_band"]),
            (&json!("system"), &json!("purge"), &json!(false))
        );
        // What others still refer to stays, though they are tombstones themselves.
        base.create("teller", "Loan", r#"{"id":1,"customerId":3}"#).await.unwrap();
        base.delete("teller", "Loan", "1", 0).await.unwrap();
        base.delete("teller", "Customer", "3", 1).await.unwrap();
        let kept = base.engine.purge(customer, late, &mut |_| ()).await.unwrap();
        assert_eq!((kept.removed, kept.kept), (0, 1), "{name}");
        let loan = base.engine.schema().model_named("Loan").unwrap();
        assert_eq!(base.engine.purge(loan, late, &mut |_| ()).await.unwrap().removed, 1, "{name}");
        assert_eq!(base.engine.purge(customer, late, &mut |_| ()).await.unwrap().removed, 1, "{name}");
        let account = base.engine.schema().model_named("Branch").unwrap();
        assert_eq!(base.engine.tombstones(account, late).await.unwrap_err().code, Code::BadRequest, "{name}");
    }
}

/// What `dev` does with an edit.
pub(crate) async fn edit(base: &Base, text: &str) -> Arc<Schema> {
    let schema = crate::engine::tests::compile(text);
    match (&base.postgres, &base.directory) {
        (Some(database), _) => {
            let mut connection = database.connect().await;
            let mut db = crate::migrate::Db::Postgres(&mut connection);
            crate::migrate::apply_diff(&mut db, &schema, &[], &mut |_| ()).await.unwrap();
        }
        (None, Some(directory)) => {
            let mut connection = rusqlite::Connection::open(directory.path().join("test.db")).unwrap();
            let mut db = crate::migrate::Db::Sqlite(&mut connection);
            crate::migrate::apply_diff(&mut db, &schema, &[], &mut |_| ()).await.unwrap();
        }
        (None, None) => panic!("a database in memory has one schema"),
    }
    schema
}

/// An engine for the schema that the database carries now.
pub(crate) async fn reopened(base: &mut Base, schema: Arc<Schema>) {
    let limits = crate::api::Limits { trail_window: 3, ..Default::default() };
    reopened_with(base, schema, crate::engine::Options { limits, ..Default::default() }).await;
}

pub(crate) async fn reopened_with(base: &mut Base, schema: Arc<Schema>, options: crate::engine::Options) {
    base.engine.close().await;
    let database = match (&base.postgres, &base.directory) {
        (Some(database), _) => crate::engine::Database::Postgres(database.url.clone()),
        (_, Some(directory)) => crate::engine::Database::SqliteFile(directory.path().join("test.db")),
        _ => panic!("a database in memory is gone"),
    };
    base.engine = Engine::open(schema, &database, options).await.unwrap();
}

#[tokio::test]
async fn a_page_of_the_trail_looks_at_so_many_events() {
    let text = "auth P {\n  id String @id\n  role String\n}\n\nmodel Note {\n  id Int @id\n  body String\n  hidden String?\n  @@audit\n  \
                @@allow(\"all\", true)\n  @@allow(\"audit\", body == \"shown\")\n}\n";
    for mut base in Base::durable(text).await {
        let name = base.name;
        for id in 1..=7 {
            let body = if id % 3 == 1 { "shown" } else { "not" };
            base.create("a", "Note", &format!(r#"{{"id":{id},"body":"{body}","hidden":"h"}}"#)).await.unwrap();
        }
        // What is hidden now was not then; and what is no field any more may be one by another name.
        let mut shown = Vec::new();
        for field in ["hidden String? @sensitive", "kept String? @map(\"hidden\")"] {
            let schema = edit(&base, &text.replace("hidden String?", field)).await;
            reopened(&mut base, schema).await;
            let mut pages = Vec::new();
            let mut params: Vec<(String, String)> = Vec::new();
            loop {
                let Answer::Page { items, next, .. } =
                    base.engine.trail(&caller(&base.engine, "a"), &params).await.unwrap()
                else {
                    panic!("{name}: no page");
                };
                let items: Vec<Json> = serde_json::from_str(&items).unwrap();
                pages.push(items.iter().map(|entry| entry["primary_key"].clone()).collect::<Vec<_>>());
                shown.extend(items);
                let Some(next) = next else { break };
                params = vec![("cursor".to_owned(), next)];
            }
            assert_eq!(pages, [vec![json!("7")], vec![json!("4")], vec![json!("1")]], "{name}");
            // With a key all of its events are looked at.
            let params = [("key".to_owned(), "1".to_owned())];
            let page = base.engine.trail(&caller(&base.engine, "a"), &params).await.unwrap();
            assert!(matches!(page, Answer::Page { next: None, .. }), "{name} {page:?}");
        }
        assert_eq!(shown[0]["after"], json!({"body": "shown", "hidden": {"redacted": "sensitive"}, "id": 7}), "{name}");
        assert_eq!(shown[3]["after"], json!({"body": "shown", "id": 7}), "{name}");
        assert_eq!(shown[3]["changed"], json!(["body", "id"]), "{name}");
    }
}

#[tokio::test]
async fn an_event_begins_where_the_one_before_it_ended() {
    let text = "model Team {\n  id Int @id\n  staff Member[]\n  @@allow(\"all\", true)\n}\n\nmodel Member {\n  id Int @id\n  teamId \
                Int?\n  version Int @version\n  team Team? @relation(fields: [teamId], references: [id], onDelete: SetNull)\n  \
                @@audit\n  @@allow(\"all\", true)\n}\n";
    for mut base in Base::durable(text).await {
        // Made again by an edit, in whatever order.
        let edited = text.replace("  teamId", "  note String?\n  teamId");
        let schema = edit(&base, &edited).await;
        reopened(&mut base, schema).await;
        base.create("", "Team", r#"{"id":1}"#).await.unwrap();
        base.create("", "Member", r#"{"id":1,"teamId":1}"#).await.unwrap();
        base.delete("", "Team", "1", -1).await.unwrap();
        base.create("", "Team", r#"{"id":2}"#).await.unwrap();
        base.patch("", "Member", "1", 2, r#"{"teamId":2}"#).await.unwrap();
        sql(&base, "DELETE FROM teams").await.unwrap();
        let all = entries(&base).await;
        for pair in all.windows(2) {
            assert_eq!(pair[0]["after"], pair[1]["before"], "{}", base.name);
        }
        assert_eq!(all.last().unwrap()["after"], json!({"id": 1, "note": null, "teamId": null, "version": 4}));
    }
}

#[tokio::test]
async fn whoever_hangs_up_is_refused_all_the_same() {
    use futures_util::FutureExt as _;
    for base in Base::durable(BANK).await {
        base.create("teller", "Account", &format!(r#"{{"id":"{ID}","owner":"a"}}"#)).await.unwrap();
        // Where the machine has much to do, an answer may be there at the first look.
        let (mut sent, mut hung_up) = (0, 0);
        while hung_up < 3 && sent < 40 {
            sent += 1;
            hung_up += usize::from(base.patch("teller", "Account", ID, 9, r#"{"owner":"b"}"#).now_or_never().is_none());
        }
        assert!(hung_up > 0, "{}", base.name);
        let recorded = async {
            while story(&base).await.len() < sent + 1 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), recorded).await.unwrap_or_else(|_| panic!("{}", base.name));
    }
}

#[tokio::test]
async fn a_trail_follows_the_schema_and_outlives_it() {
    let note = |fields: &str, audit: &str| {
        format!("model Note {{\n  id String @id\n  {fields}\n  {audit}\n  @@allow(\"all\", true)\n}}\n")
    };
    for mut base in Base::durable(&note("text String", "")).await {
        let name = base.name;
        let story_of = |who: &'static str, fields: &str| format!("{who} [{fields}]");
        base.create("", "Note", r#"{"id":"a","text":"1"}"#).await.unwrap();

        // A trail begins, with what is there.
        let schema = edit(&base, &note("text String", "@@audit")).await;
        reopened(&mut base, schema).await;
        base.patch("", "Note", "a", 0, r#"{"text":"2"}"#).await.unwrap();
        // A column more, and one that has another name.
        let schema = edit(&base, &note("body String @rename(from: \"text\")\n  more Int @default(7)", "@@audit")).await;
        reopened(&mut base, schema).await;
        base.patch("", "Note", "a", 0, r#"{"body":"3","more":8}"#).await.unwrap();
        base.create("", "Note", r#"{"id":"b","body":"x"}"#).await.unwrap();
        let mut told = vec![
            story_of("create Note a", "id text"),
            story_of("update Note a", "text"),
            story_of("update Note a", "body more"),
            story_of("create Note b", "body id more"),
        ];
        assert_eq!(story(&base).await, told, "{name}");
        let versions: Vec<Json> = entries(&base).await.iter().map(|entry| entry["schema_version"].clone()).collect();
        assert_ne!(versions[1], versions[2], "{name}");
        assert_eq!(versions[3], base.engine.schema().fingerprint(), "{name}");
        let first = entries(&base).await.remove(0);
        assert_eq!(
            (&first["auth"], &first["op"], &first["out_of_band"]),
            (&json!("system"), &json!("migrate"), &json!(false))
        );
        assert_eq!((&first["before"], &first["after"]), (&Json::Null, &json!({"id": "a", "text": "1"})), "{name}");

        // The model loses its trail, and what was written stays.
        let schema = edit(&base, &note("body String\n  more Int @default(7)", "")).await;
        reopened(&mut base, schema).await;
        base.patch("", "Note", "a", 0, r#"{"body":"4"}"#).await.unwrap();
        assert_eq!(story(&base).await, told, "{name}");
        assert!(sql(&base, "DELETE FROM cratestack_audit").await.is_err(), "{name}");

        // And again one: what happened meanwhile is not known, so that it begins anew.
        let schema = edit(&base, &note("body String\n  more Int @default(7)", "@@audit(denials)")).await;
        reopened(&mut base, schema).await;
        base.patch("", "Note", "a", 0, r#"{"body":"5"}"#).await.unwrap();
        told.extend([story_of("create Note a", "body id more"), story_of("create Note b", "body id more")]);
        told.push(story_of("update Note a", "body"));
        assert_eq!(story(&base).await, told, "{name}");
        if base.postgres.is_none() {
            let error = sql(&base, "INSERT OR REPLACE INTO notes (id, body) VALUES ('a', 'x')").await.unwrap_err();
            assert!(error.starts_with("cratestack:unique:"), "{error}");
        }

        // The view has the members as columns.
        let view = "SELECT operation || ' ' || schema_name || ' ' || outcome FROM cratestack_audit_events ORDER BY seq";
        assert_eq!(texts(&base.engine, view).await[0], "create bank done", "{name}");

        // A reset removes everything.
        base.engine.close().await;
        match (&base.postgres, &base.directory) {
            (Some(database), _) => {
                let mut connection = database.connect().await;
                let mut db = crate::migrate::Db::Postgres(&mut connection);
                crate::migrate::reset(&mut db).await.unwrap();
                assert_eq!(crate::migrate::inspect(&mut db).await.unwrap(), crate::migrate::State::Empty);
            }
            (_, Some(directory)) => {
                let mut connection = rusqlite::Connection::open(directory.path().join("test.db")).unwrap();
                let mut db = crate::migrate::Db::Sqlite(&mut connection);
                crate::migrate::reset(&mut db).await.unwrap();
                assert_eq!(crate::migrate::inspect(&mut db).await.unwrap(), crate::migrate::State::Empty);
            }
            _ => {}
        }
    }
}
