#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt as _;
use serde_json::{Value as Json, json};

use super::*;
use crate::api::{Answer, BatchItem, Code, Verb};
use crate::audit::tests::{ID, edit, reopened, reopened_with, sql, texts};
use crate::engine::tests::{Base, at, json as parsed, split};
use crate::relay::{AuditEvent, AuditSink, BoxFuture, Relay, RelayOptions, SinkError};

const BANK: &str = r#"
enum Role { teller manager auditor }

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
  @@soft_delete
  @@emit(created, updated, deleted)
  @@allow("all", true)
  @@allow("restore", true)
}

model Account {
  id         Uuid   @id @default(uuid())
  customerId Int?
  email      String? @pii
  pin        String @default("1234") @sensitive
  secret     String @default("x") @server_only
  balance    Decimal(18, 4) @default(0)
  version    Int    @version
  customer   Customer? @relation(fields: [customerId], references: [id], onDelete: Cascade)
  @@soft_delete
  @@audit
  @@emit(deleted, created)
  @@check(balance >= 0, "insufficient funds", name: "funds")
  @@allow("all", auth() != null)
  @@allow("restore", true)
}

model Branch {
  a     Int
  b     String
  desks Desk[]
  @@id([a, b])
  @@emit(deleted)
  @@allow("all", true)
}

model Desk {
  id      Int @id @default(autoincrement())
  note    String?
  branchA Int?
  branchB String?
  branch  Branch? @relation(fields: [branchA, branchB], references: [a, b], onDelete: Cascade, onUpdate: Cascade)
  @@emit(updated, deleted)
  @@allow("all", true)
}

model Entry {
  id Int @id
  @@append_only
  @@emit(created)
  @@allow("all", true)
}
"#;

/// The events, oldest first.
async fn events(base: &Base) -> Vec<Json> {
    let entries = texts(&base.engine, "SELECT entry FROM cratestack_outbox ORDER BY seq").await;
    let parsed = entries.iter().map(|text| {
        let value: Json = serde_json::from_str(text).unwrap();
        // Compact, with sorted members: serde_json's maps are sorted.
        assert_eq!(serde_json::to_string(&value).unwrap(), *text, "{}", base.name);
        value
    });
    parsed.collect()
}

/// What happened to which row.
async fn story(base: &Base) -> Vec<String> {
    let line = |event: &Json| {
        let kind = event["type"].as_str().unwrap().strip_prefix("bank.").unwrap();
        format!("{kind} {}", event["subject"].as_str().unwrap())
    };
    events(base).await.iter().map(line).collect()
}

#[tokio::test]
async fn an_event_is_a_cloud_event() {
    for base in Base::all(BANK).await {
        let name = base.name;
        let data = format!(r#"{{"id":"{ID}","email":"a@b.c","balance":"12.5"}}"#);
        base.create("teller", "Account", &data).await.unwrap();
        let mut event = events(&base).await.remove(0);
        let id = event["id"].as_str().unwrap();
        assert_eq!(uuid::Uuid::parse_str(id).unwrap().get_version_num(), 7, "{name} {id}");
        let time = event["time"].as_str().unwrap();
        let micros = cratestack_schema::value::instant::to_unix_micros(time);
        assert_eq!(
            micros.and_then(cratestack_schema::value::instant::from_unix_micros).as_deref(),
            Some(time),
            "{name}"
        );
        for member in ["id", "time"] {
            event.as_object_mut().unwrap().remove(member);
        }
        let expected = json!({
            "data": {
                "balance": "12.5000", "customerId": null, "deletedAt": null, "email": {"redacted": "pii"}, "id": ID,
                "pin": {"redacted": "sensitive"}, "version": 1,
            },
            "datacontenttype": "application/json",
            "source": "/cratestack/bank",
            "specversion": "1.0",
            "subject": ID,
            "type": "bank.Account.created",
        });
        assert_eq!(event, expected, "{name}");
        // One mechanism, two logs: the trail has the same row.
        let trail = crate::audit::tests::entries(&base).await.remove(0);
        assert_eq!((&trail["after"], trail.get("source")), (&expected["data"], None), "{name}");
    }
}

#[tokio::test]
async fn the_source_names_service_and_schema() {
    for mut base in Base::durable(BANK).await {
        let schema = Arc::clone(base.engine.schema());
        let options = crate::engine::Options { service: "a bank/é".to_owned(), ..crate::engine::Options::default() };
        reopened_with(&mut base, schema, options).await;
        base.create("teller", "Customer", r#"{"id":1,"name":"Ann"}"#).await.unwrap();
        sql(&base, "UPDATE customers SET name = 'x'").await.unwrap();
        let sources: Vec<Json> = events(&base).await.iter().map(|event| event["source"].clone()).collect();
        assert_eq!(sources, ["/a%20bank%2F%C3%A9/bank", "/cratestack/bank"], "{}", base.name);
    }
}

#[tokio::test]
async fn each_operation_is_an_event_where_it_is_asked_for() {
    for base in Base::all(BANK).await {
        let name = base.name;
        base.create("teller", "Customer", r#"{"id":1,"name":"Ann"}"#).await.unwrap();
        base.patch("teller", "Customer", "1", 1, r#"{"name":"Bob"}"#).await.unwrap();
        // Nothing changes, and nothing happened.
        base.patch("teller", "Customer", "1", 2, r#"{"name":"Bob"}"#).await.unwrap();
        base.delete("teller", "Customer", "1", 2).await.unwrap();
        base.restore("teller", "Customer", "1", 3).await.unwrap();
        assert_eq!(
            story(&base).await,
            ["Customer.created 1", "Customer.updated 1", "Customer.deleted 1", "Customer.created 1"],
            "{name}"
        );
        let all = events(&base).await;
        let states: Vec<_> = all.iter().map(|event| (&event["data"]["version"], &event["data"]["deletedAt"])).collect();
        // Of a deleted row, how it was before.
        let version = |version: i64| json!(version);
        let null = Json::Null;
        let expected = [version(1), version(2), version(2), version(4)];
        assert_eq!(states, expected.iter().map(|version| (version, &null)).collect::<Vec<_>>(), "{name}");
        // Not asked for.
        base.create("teller", "Branch", r#"{"a":1,"b":"x"}"#).await.unwrap();
        base.create("teller", "Desk", r#"{"branchA":1,"branchB":"x"}"#).await.unwrap();
        base.create("teller", "Account", &format!(r#"{{"id":"{ID}"}}"#)).await.unwrap();
        base.patch("teller", "Account", ID, 1, r#"{"balance":"1"}"#).await.unwrap();
        base.patch("teller", "Desk", "1", -1, r#"{"note":"x"}"#).await.unwrap();
        base.delete("teller", "Desk", "1", -1).await.unwrap();
        base.delete("teller", "Branch", "1/x", -1).await.unwrap();
        base.create("teller", "Entry", r#"{"id":1}"#).await.unwrap();
        let created = format!("Account.created {ID}");
        assert_eq!(
            story(&base).await[4..],
            [created.as_str(), "Desk.updated 1", "Desk.deleted 1", "Branch.deleted [1,\"x\"]", "Entry.created 1"],
            "{name}"
        );
    }
}

#[tokio::test]
async fn cascades_emit_too() {
    for base in Base::all(BANK).await {
        let name = base.name;
        let sorted = |mut lines: Vec<String>| {
            // Which of two triggers comes first is the database's choice.
            lines.sort();
            lines
        };
        base.create("teller", "Customer", r#"{"id":1,"name":"Ann"}"#).await.unwrap();
        base.create("teller", "Account", &format!(r#"{{"id":"{ID}","customerId":1}}"#)).await.unwrap();
        base.delete("teller", "Customer", "1", 1).await.unwrap();
        let deleted = [format!("Account.deleted {ID}"), "Customer.deleted 1".to_owned()];
        assert_eq!(sorted(story(&base).await.split_off(2)), deleted, "{name}");
        base.restore("teller", "Customer", "1", 2).await.unwrap();
        let created = [format!("Account.created {ID}"), "Customer.created 1".to_owned()];
        assert_eq!(sorted(story(&base).await.split_off(4)), created, "{name}");
        // A foreign key's own action, from a model whose deletions are events to one whose are too.
        base.create("teller", "Branch", r#"{"a":1,"b":"x"}"#).await.unwrap();
        base.create("teller", "Desk", r#"{"branchA":1,"branchB":"x"}"#).await.unwrap();
        base.delete("manager", "Branch", "1/x", -1).await.unwrap();
        let deleted = ["Branch.deleted [1,\"x\"]", "Desk.deleted 1"];
        assert_eq!(sorted(story(&base).await.split_off(6)), deleted, "{name}");
        assert!(events(&base).await.iter().all(|event| event["source"] == "/cratestack/bank"), "{name}");
    }
}

#[tokio::test]
async fn what_is_refused_or_rolled_back_is_no_event() {
    for base in Base::all(BANK).await {
        let name = base.name;
        let create = |id: i64| Verb::Create { data: parsed(&format!(r#"{{"id":{id},"name":"x"}}"#)) };
        let item = |verb| BatchItem { verb };
        let items = vec![
            item(create(1)),
            item(create(2)),
            item(create(1)),
            item(Verb::Delete { key: split("2"), expected: at(1) }),
        ];
        let answer = base.run("teller", "Customer", Verb::Batch { atomic: false, items }).await.unwrap();
        let Answer::Batch(answers) = answer else { panic!("{name}") };
        assert_eq!(answers.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, true, false, true], "{name}");
        let items = vec![item(create(3)), item(create(3))];
        base.run("teller", "Customer", Verb::Batch { atomic: true, items }).await.unwrap_err();
        base.patch("teller", "Customer", "1", 9, r#"{"name":"y"}"#).await.unwrap_err();
        base.create("teller", "Account", r#"{"balance":"-1"}"#).await.unwrap_err();
        assert_eq!(story(&base).await, ["Customer.created 1", "Customer.created 2", "Customer.deleted 2"], "{name}");
    }
    for base in Base::durable(BANK).await {
        let undone = "BEGIN; INSERT INTO customers (id, name, version) VALUES (1, 'Ann', 1); ROLLBACK";
        sql(&base, undone).await.unwrap();
        assert!(story(&base).await.is_empty(), "{}", base.name);
    }
}

#[tokio::test]
async fn whoever_writes_sql_emits_too() {
    for base in Base::durable(BANK).await {
        let name = base.name;
        let deletion = "deletion_id = '01890a5d-ac96-774b-bcce-b302099a8057'";
        for text in [
            "INSERT INTO customers (id, name, version) VALUES (1, 'Ann', 1), (2, 'Bob', 1), (3, 'Eve', 1)",
            "UPDATE customers SET name = name",
            "UPDATE customers SET name = upper(name) WHERE id <= 2",
            "UPDATE customers SET id = 4 WHERE id = 3",
            "DELETE FROM customers WHERE id = 1",
            &format!("UPDATE customers SET deleted_at = '2026-01-31T10:00:00.000000Z', {deletion} WHERE id = 2"),
            // A tombstone is no row: neither its changes nor its end are events.
            "UPDATE customers SET name = 'x' WHERE id = 2",
            "UPDATE customers SET id = 5 WHERE id = 2",
            "DELETE FROM customers WHERE id = 5",
            &format!(
                "INSERT INTO customers (id, name, version, deleted_at, deletion_id) VALUES (6, 'x', 1, \
                      '2026-01-31T10:00:00.000000Z', '{ID}')"
            ),
            // Back to life under another key.
            "UPDATE customers SET id = 7, deleted_at = NULL WHERE id = 6",
        ] {
            sql(&base, text).await.unwrap_or_else(|error| panic!("{name} {text}: {error}"));
        }
        let mut told = vec![
            "Customer.created 1",
            "Customer.created 2",
            "Customer.created 3",
            "Customer.updated 1",
            "Customer.updated 2",
            "Customer.deleted 3",
            "Customer.created 4",
            "Customer.deleted 1",
            "Customer.deleted 2",
            "Customer.created 7",
        ];
        if base.postgres.is_some() {
            sql(&base, "SET session_replication_role = replica; UPDATE customers SET name = 'r' WHERE id = 7")
                .await
                .unwrap();
            told.push("Customer.updated 7");
            sql(&base, "TRUNCATE customers CASCADE").await.unwrap();
            told.extend(["Customer.deleted 4", "Customer.deleted 7"]);
        } else {
            let error = sql(&base, "REPLACE INTO customers (id, name, version) VALUES (4, 'x', 1)").await.unwrap_err();
            assert!(error.starts_with("cratestack:unique:"), "{error}");
        }
        assert_eq!(story(&base).await, told, "{name}");
    }
}

#[tokio::test]
async fn a_write_whose_event_cannot_be_written_fails() {
    for base in Base::durable(BANK).await {
        let name = base.name;
        let fail = if base.postgres.is_some() {
            "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''full''; END'; \
             CREATE TRIGGER fail BEFORE INSERT ON cratestack_outbox FOR EACH ROW EXECUTE FUNCTION fail()"
        } else {
            "CREATE TRIGGER fail BEFORE INSERT ON cratestack_outbox BEGIN SELECT RAISE(ABORT, 'full'); END"
        };
        sql(&base, fail).await.unwrap();
        let failure = base.create("teller", "Customer", r#"{"id":2,"name":"Bob"}"#).await.unwrap_err();
        assert_eq!(failure.code, Code::Unavailable, "{name} {failure:?}");
        assert_eq!(failure.detail, "the audit trail or the outbox cannot be written; nothing was changed", "{name}");
        assert_eq!(texts(&base.engine, "SELECT name FROM customers").await, [""; 0], "{name}");
    }
}

#[tokio::test]
async fn nothing_beside_it_hides_or_forges_an_event() {
    for base in Base::durable(BANK).await {
        let name = base.name;
        base.create("teller", "Customer", r#"{"id":1,"name":"Ann"}"#).await.unwrap();
        let attempts = if base.postgres.is_some() {
            [
                r#"SELECT set_config('cratestack.context', E'{}\n"x"', false); UPDATE customers SET name = 'x'"#,
                "BEGIN ISOLATION LEVEL REPEATABLE READ; TRUNCATE customers CASCADE; COMMIT",
            ]
        } else {
            [
                "CREATE TEMP TRIGGER t BEFORE INSERT ON main.cratestack_outbox BEGIN SELECT RAISE(IGNORE); END; \
                 UPDATE OR IGNORE customers SET name = 'x'",
                "UPDATE OR REPLACE customers SET rowid = 2, name = 'x' WHERE id = 3; \
                 INSERT OR REPLACE INTO customers (rowid, name, version) VALUES (1, 'x', 1)",
            ]
        };
        for text in attempts {
            let refused = sql(&base, text).await.unwrap_err();
            let named = texts(&base.engine, "SELECT name FROM customers").await;
            assert_eq!(named, ["Ann"], "{name} {text}: {refused}");
        }
        assert_eq!(story(&base).await, ["Customer.created 1"], "{name}");
    }
    let text = "model Note {\n  id String @id\n  @@emit(created, deleted)\n  @@allow(\"all\", true)\n}\n";
    for base in Base::durable(text).await {
        let insert = |word: &str| format!("INSERT {word} INTO notes (id) VALUES ('a'), ('{}')", "k".repeat(3_000));
        for word in if base.postgres.is_some() { &[""][..] } else { &["OR IGNORE", "OR FAIL", ""] } {
            let refused = sql(&base, &insert(word)).await.unwrap_err();
            let says = if base.postgres.is_some() { "the event does not fit" } else { "cratestack:outbox:size of key" };
            assert!(refused.contains(says), "{} {word}: {refused}", base.name);
            assert!(story(&base).await.is_empty(), "{} {word}", base.name);
        }
    }
}

#[tokio::test]
async fn data_that_do_not_fit_are_named_by_their_length() {
    for base in Base::all(BANK).await {
        let name = base.name;
        let create = |id: i64, length: usize| format!(r#"{{"id":{id},"name":"{}"}}"#, "é".repeat(length));
        base.create("teller", "Customer", &create(1, 32_000)).await.unwrap();
        base.create("teller", "Customer", &create(2, 33_000)).await.unwrap();
        let all = events(&base).await;
        assert_eq!(all[0]["data"]["name"].as_str().unwrap().len(), 64_000, "{name}");
        let row = r#"{"deletedAt":null,"id":2,"name":"","version":1}"#.len() + 66_000;
        assert_eq!(all[1]["data"]["omitted"]["length"], row, "{name}");
        assert_eq!(all[1]["data"]["omitted"].get("sha256").is_some(), base.postgres.is_some(), "{name}");
    }
}

#[tokio::test]
async fn a_purge_of_tombstones_emits_nothing() {
    for base in Base::durable(BANK).await {
        let name = base.name;
        base.create("teller", "Customer", r#"{"id":1,"name":"Ann"}"#).await.unwrap();
        base.create("teller", "Account", &format!(r#"{{"id":"{ID}","customerId":1}}"#)).await.unwrap();
        base.delete("teller", "Customer", "1", 1).await.unwrap();
        let before = story(&base).await;
        let customer = base.engine.schema().model_named("Customer").unwrap();
        let purged = base.engine.purge(customer, "2099-01-01T00:00:00.000000Z", &mut |_| ()).await.unwrap();
        assert_eq!(purged.removed, 1, "{name}");
        assert_eq!(story(&base).await, before, "{name}");
    }
}

#[tokio::test]
async fn the_outbox_follows_the_schema_and_outlives_it() {
    let note = |fields: &str, emit: &str| {
        format!("model Note {{\n  id String @id\n  {fields}\n  {emit}\n  @@allow(\"all\", true)\n}}\n")
    };
    for mut base in Base::durable(&note("text String", "")).await {
        let name = base.name;
        base.create("", "Note", r#"{"id":"a","text":"1"}"#).await.unwrap();
        let schema = edit(&base, &note("text String", "@@emit(updated)")).await;
        reopened(&mut base, schema).await;
        base.patch("", "Note", "a", 0, r#"{"text":"2"}"#).await.unwrap();
        let fields = "body String @rename(from: \"text\")\n  more Int @default(7)";
        let schema = edit(&base, &note(fields, "@@audit\n  @@emit(created, updated, deleted)")).await;
        reopened(&mut base, schema).await;
        base.patch("", "Note", "a", 0, r#"{"body":"3"}"#).await.unwrap();
        base.create("", "Note", r#"{"id":"b","body":"x"}"#).await.unwrap();
        // Only the trail is left.
        let schema = edit(&base, &note("body String\n  more Int @default(7)", "@@audit")).await;
        reopened(&mut base, schema).await;
        base.delete("", "Note", "b", 0).await.unwrap();
        let schema = edit(&base, &note("body String\n  more Int @default(7)", "@@emit(deleted)")).await;
        reopened(&mut base, schema).await;
        base.delete("", "Note", "a", 0).await.unwrap();
        let told = ["Note.updated a", "Note.updated a", "Note.created b", "Note.deleted a"];
        assert_eq!(story(&base).await, told, "{name}");
        assert_eq!(events(&base).await[1]["data"], json!({"body": "3", "id": "a", "more": 7}), "{name}");
        // It is no trail: what was delivered may be deleted.
        sql(&base, "DELETE FROM cratestack_outbox WHERE seq = 1").await.unwrap();

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

#[tokio::test]
async fn a_role_that_serves_writes_events_and_cannot_forge_them() {
    let Some(base) = Base::postgres(BANK).await else { return };
    let role = "cratestack_outbox_teller";
    let grants = crate::audit::grants(base.engine.schema(), role, "public").join("\n");
    let make = format!(
        "DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{role}') THEN CREATE ROLE {role}; END IF; END $$; \
         {grants}"
    );
    sql(&base, &make).await.unwrap();
    sql(&base, &format!("SET ROLE {role}; INSERT INTO customers (id, name, version) VALUES (1, 'x', 1)"))
        .await
        .unwrap();
    assert_eq!(story(&base).await, ["Customer.created 1"]);
    for forged in [
        "INSERT INTO cratestack_outbox (occurred_at, model, primary_key, entry) VALUES (now(), 'Customer', '1', '{}')",
        "UPDATE cratestack_outbox SET entry = '{}'",
        "DELETE FROM cratestack_outbox",
    ] {
        let error = sql(&base, &format!("SET ROLE {role}; {forged}")).await.unwrap_err();
        assert!(error.contains("permission denied"), "{error}");
    }
    sql(
        &base,
        &format!("SET ROLE {role}; SELECT entry FROM cratestack_outbox; DELETE FROM cratestack_outbox_delivery"),
    )
    .await
    .unwrap();
    sql(&base, &format!("DROP OWNED BY {role}; DROP ROLE {role}")).await.unwrap();
}

/// Keeps what it gets, and says when there is something new.
#[derive(Clone, Default)]
struct Keeper(Arc<Mutex<Vec<AuditEvent>>>, Arc<tokio::sync::Notify>);

impl AuditSink for Keeper {
    fn name(&self) -> &'static str {
        "keeper"
    }

    fn deliver<'a>(&'a self, events: &'a [AuditEvent]) -> BoxFuture<'a, Result<(), SinkError>> {
        self.0.lock().unwrap().extend_from_slice(events);
        self.1.notify_one();
        std::future::ready(Ok(())).boxed()
    }
}

#[tokio::test]
async fn the_relay_delivers_in_the_order_of_each_key() {
    for base in Base::durable(BANK).await {
        let name = base.name;
        let (keeper, other) = (Keeper::default(), Keeper::default());
        let options = RelayOptions { poll: Duration::from_millis(5), ..RelayOptions::default() };
        // Each log has deliveries of its own, so that a name may stand for a sink of each.
        let relay = Relay::start(&base.engine, &OUTBOX, keeper.clone(), &options).unwrap();
        let trail = Relay::start(&base.engine, &crate::relay::AUDIT, other.clone(), &options).unwrap();
        for key in ["1", "2"] {
            base.create("teller", "Customer", &format!(r#"{{"id":{key},"name":"x"}}"#)).await.unwrap();
        }
        for version in 1..10 {
            for key in ["2", "1"] {
                base.patch("teller", "Customer", key, version, &format!(r#"{{"name":"{version}"}}"#)).await.unwrap();
            }
        }
        base.create("teller", "Account", &format!(r#"{{"id":"{ID}"}}"#)).await.unwrap();
        let all = async {
            while keeper.0.lock().unwrap().len() < 21 {
                keeper.1.notified().await;
            }
            while other.0.lock().unwrap().is_empty() {
                other.1.notified().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), all).await.unwrap_or_else(|_| panic!("{name}"));
        assert!(relay.stop(Duration::from_secs(60)).await && trail.stop(Duration::from_secs(60)).await, "{name}");
        let taken = keeper.0.lock().unwrap().clone();
        assert!(taken.iter().all(|event| *event.log == OUTBOX), "{name}");
        for key in ["1", "2"] {
            let of_key = taken.iter().filter(|event| event.primary_key == key);
            let versions = of_key.map(|event| {
                let entry: Json = serde_json::from_str(&event.entry).unwrap();
                assert_eq!(entry["subject"], key, "{name}");
                entry["data"]["version"].as_i64().unwrap()
            });
            assert_eq!(versions.collect::<Vec<_>>(), (1..=10).collect::<Vec<_>>(), "{name} {key}");
        }
        let trail: Vec<String> = other.0.lock().unwrap().iter().map(|event| event.model.clone()).collect();
        assert_eq!(trail, ["Account"], "{name}");
        let status = OUTBOX.status(&base.engine, true).await.unwrap().remove(0);
        assert_eq!(
            (status.name.as_str(), status.pending, status.dead, status.skipped),
            ("keeper", 0, 0, Some(0)),
            "{name}"
        );
    }
}
