#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use super::*;
use crate::audit::tests::{BANK, ID, sql};
use crate::engine::tests::{Base, compile};
use crate::engine::{Database, Options};
use crate::migrate::{self, Db};

/// What differs, as lines, sorted; and the summary.
async fn found(engine: &Engine) -> (Vec<String>, Summary) {
    let (mut lines, mut last) = (Vec::new(), (0, 0));
    let mut tell = |report| match report {
        Report::Progress { done, total, .. } => last = (done, total),
        Report::Difference(Difference { model, primary_key, kind }) => {
            lines.push(match kind {
                Kind::Changed(fields) => format!("changed {model} {primary_key} [{}]", fields.join(" ")),
                Kind::MissingRow => format!("missing {model} {primary_key}"),
                Kind::NoEvent => format!("no event {model} {primary_key}"),
            });
        }
    };
    let summary = reconcile(engine, &mut tell).await.unwrap();
    assert_eq!(last.0, last.1, "the progress ends at its total");
    assert_eq!(summary.differences, lines.len() as u64);
    lines.sort();
    (lines, summary)
}

async fn clean(engine: &Engine, name: &str) -> Summary {
    let (lines, summary) = found(engine).await;
    assert_eq!(lines, [""; 0], "{name}");
    summary
}

/// Runs SQL on a table while its triggers are off.
async fn behind(base: &Base, table: &str, text: &str) {
    if base.postgres.is_some() {
        let text = format!("ALTER TABLE {table} DISABLE TRIGGER ALL; {text}; ALTER TABLE {table} ENABLE TRIGGER ALL");
        return sql(base, &text).await.unwrap();
    }
    let connection = rusqlite::Connection::open(base.directory.as_ref().unwrap().path().join("test.db")).unwrap();
    let mut read =
        connection.prepare("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = ?1").unwrap();
    let triggers: Vec<(String, String)> =
        read.query_map([table], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().collect::<Result<_, _>>().unwrap();
    assert!(!triggers.is_empty());
    let drop: Vec<String> = triggers.iter().map(|(name, _)| format!("DROP TRIGGER \"{name}\";")).collect();
    let make: Vec<String> = triggers.iter().map(|(_, sql)| format!("{sql};")).collect();
    let (drop, make) = (drop.concat(), make.concat());
    connection.execute_batch(&format!("BEGIN; {drop} {text}; {make} COMMIT")).unwrap();
}

#[tokio::test]
async fn what_went_through_the_triggers_is_clean() {
    for base in Base::durable(BANK).await {
        let name = base.name;
        assert_eq!(clean(&base.engine, name).await, Summary { models: 3, ..Summary::default() });
        base.create("teller", "Customer", r#"{"id":1,"name":"Ann"}"#).await.unwrap();
        let account = format!(
            r#"{{"id":"{ID}","customerId":1,"owner":"Ann \"é\" \u0001","email":"a@b.c","status":"closed","balance":"12.5",
            "rate":"-0.0012","big":"-9007199254740993","factor":0.1,"flag":true,"born":"2001-02-03","data":"AP8=",
            "extra":{{"b":[1,"x"],"a":null}},"tags":["x","\"y\""]}}"#
        );
        base.create("teller", "Account", &account).await.unwrap();
        base.patch("manager", "Account", ID, 1, r#"{"email":null,"pin":"9","balance":"7","tags":[]}"#).await.unwrap();
        base.patch("auditor", "Account", ID, 2, r#"{"balance":"8"}"#).await.unwrap_err();
        clean(&base.engine, name).await;
        base.delete("teller", "Customer", "1", 1).await.unwrap();
        assert_eq!(clean(&base.engine, name).await.rows, 2, "{name}: tombstones are rows");
        base.restore("teller", "Customer", "1", 2).await.unwrap();
        base.create("teller", "Branch", r#"{"a":1,"b":"x"}"#).await.unwrap();
        base.create("teller", "Desk", r#"{"branchA":1,"branchB":"x"}"#).await.unwrap();
        for text in [
            "INSERT INTO customers (id, name, version) VALUES (2, 'Bob', 1), (3, 'Eve', 1), (4, 'Joe', 1)",
            "UPDATE customers SET id = 5 WHERE id = 4",
            "UPDATE branches SET a = 2",
            "DELETE FROM customers WHERE id = 2",
            "UPDATE customers SET deleted_at = '2026-01-31T10:00:00.000000Z', \
             deletion_id = '01890a5d-ac96-774b-bcce-b302099a8057' WHERE id = 3",
            "DELETE FROM customers WHERE id = 3",
        ] {
            sql(&base, text).await.unwrap();
        }
        let long = |length: usize| format!(r#"{{"name":"{}"}}"#, "é".repeat(length));
        base.patch("teller", "Customer", "5", 1, &long(40_000)).await.unwrap();
        let summary = clean(&base.engine, name).await;
        assert_eq!(summary, Summary { models: 3, rows: 4, keys: 7, differences: 0, unchecked: 0 }, "{name}");
        // A digest of a row that is small by itself: it shares the entry with the long one.
        base.patch("teller", "Customer", "5", 2, &long(15_000)).await.unwrap();
        base.patch("teller", "Customer", "5", 3, &long(18_000)).await.unwrap();
        clean(&base.engine, name).await;
    }
}

#[tokio::test]
async fn what_went_past_the_triggers_is_found() {
    for base in Base::durable(BANK).await {
        let name = base.name;
        for id in 1..=6 {
            base.create("teller", "Customer", &format!(r#"{{"id":{id},"name":"n{id}"}}"#)).await.unwrap();
        }
        base.delete("teller", "Customer", "4", 1).await.unwrap();
        let long = format!(r#"{{"name":"{}"}}"#, "é".repeat(40_000));
        base.patch("teller", "Customer", "5", 1, &long).await.unwrap();
        sql(&base, "DELETE FROM customers WHERE id = 6").await.unwrap();
        base.create("teller", "Account", &format!(r#"{{"id":"{ID}","owner":"a","email":"a@b.c"}}"#)).await.unwrap();
        base.create("teller", "Branch", r#"{"a":1,"b":"x"}"#).await.unwrap();
        base.create("teller", "Desk", r#"{"branchA":1,"branchB":"x"}"#).await.unwrap();
        let edits = [
            (
                "customers",
                "UPDATE customers SET name = 'x', version = 7 WHERE id = 1",
                "changed Customer 1 [name version]",
            ),
            ("customers", "DELETE FROM customers WHERE id = 2", "missing Customer 2"),
            ("customers", "INSERT INTO customers (id, name, version) VALUES (9, 'new', 1)", "no event Customer 9"),
            (
                "customers",
                "UPDATE customers SET deleted_at = NULL, deletion_id = NULL WHERE id = 4",
                "changed Customer 4 [deletedAt]",
            ),
            ("customers", "UPDATE customers SET name = 'short' WHERE id = 5", "changed Customer 5 []"),
            // After its event said that it is gone.
            ("customers", "INSERT INTO customers (id, name, version) VALUES (6, 'n6', 1)", "no event Customer 6"),
            (
                "accounts",
                "UPDATE accounts SET email = NULL, pin = 'not seen', secret = 'not seen'",
                "changed Account 01890a5d-ac96-774b-bcce-b302099a8057 [email]",
            ),
            ("desks", "UPDATE desks SET id = 77", "missing Desk 1"),
        ];
        let mut expected = vec!["no event Desk 77".to_owned()];
        for (table, text, line) in edits {
            behind(&base, table, text).await;
            expected.push(line.to_owned());
            expected.sort();
            assert!(text.contains("desks") || found(&base.engine).await.0.contains(&line.to_owned()), "{name} {text}");
        }
        assert_eq!(found(&base.engine).await.0, expected, "{name}");
        // A write through the triggers makes the trail whole again, from here on.
        sql(&base, "UPDATE customers SET version = version + 1 WHERE id = 1").await.unwrap();
        expected.retain(|line| !line.starts_with("changed Customer 1 "));
        assert_eq!(found(&base.engine).await.0, expected, "{name}");
    }
}

#[tokio::test]
async fn keys_of_every_kind_over_several_pieces() {
    const KEYS: &str = r#"
enum Kind { a b @map("B") }
model Part {
  kind Kind
  name String
  at   DateTime
  big  BigInt
  on   Boolean
  day  Date
  @@id([kind, name, at, big, on, day])
  @@audit
  @@allow("all", true)
}
model Name {
  id String @id
  @@audit
  @@allow("all", true)
}
"#;
    for base in Base::durable(KEYS).await {
        let name = base.name;
        let rows = PIECE * 2 + 3;
        let values = (0..rows).map(|at| {
            let on = if base.postgres.is_some() { "false" } else { "0" };
            format!(
                "('B', '\"/{at}é', '2026-01-31T10:00:00.000001Z', {}, {on}, '2026-01-31')",
                u64::from(u32::MAX) * 3 + at as u64
            )
        });
        let values: Vec<String> = values.collect();
        let insert = format!("INSERT INTO parts (kind, name, at, big, \"on\", day) VALUES {}", values.join(", "));
        sql(&base, &insert).await.unwrap();
        let names: Vec<String> = (0..rows).map(|at| format!("('{at}')")).collect();
        sql(&base, &format!("INSERT INTO names (id) VALUES ('[\"x\"]'), (''), {}", names.join(", "))).await.unwrap();
        let summary = clean(&base.engine, name).await;
        let both = 2 * rows as u64 + 2;
        assert_eq!(summary, Summary { models: 2, rows: both, keys: both, differences: 0, unchecked: 0 }, "{name}");
        behind(&base, "parts", "DELETE FROM parts").await;
        behind(&base, "names", "DELETE FROM names WHERE id = ''").await;
        assert_eq!(found(&base.engine).await.1.differences, rows as u64 + 1, "{name}");
    }
}

const BEFORE: &str = r#"
enum Status { open closed }
model Account {
  id      Int @id
  balance Decimal(18, 4)
  number  Int
  name    String
  note    String @default("")
  status  Status @default(open)
  @@audit
  @@allow("all", true)
}
"#;

/// Applies another version of the schema; the engine of it.
async fn changed(base: &Base, text: &str) -> Engine {
    let schema = compile(text);
    let database = if let Some(database) = &base.postgres {
        let mut connection = database.connect().await;
        migrate::apply_diff(&mut Db::Postgres(&mut connection), &schema, &[], &mut |_| ()).await.unwrap();
        Database::Postgres(database.url.clone())
    } else {
        let path = base.directory.as_ref().unwrap().path().join("test.db");
        let mut connection = rusqlite::Connection::open(&path).unwrap();
        migrate::apply_diff(&mut Db::Sqlite(&mut connection), &schema, &[], &mut |_| ()).await.unwrap();
        Database::SqliteFile(path)
    };
    Engine::open(schema, &database, Options::default()).await.unwrap()
}

#[tokio::test]
async fn a_change_of_the_schema_is_no_difference() {
    for base in Base::durable(BEFORE).await {
        let name = base.name;
        let long = "é".repeat(40_000);
        for (id, note) in [(1, "x"), (2, &long)] {
            let data = format!(r#"{{"id":{id},"balance":"12.5","number":7,"name":"Ann","note":"{note}"}}"#);
            base.create("teller", "Account", &data).await.unwrap();
        }
        let after = BEFORE
            .replace("Decimal(18, 4)", "Decimal(30, 6)")
            .replace("number  Int", "number  BigInt")
            .replace("enum Status { open", "enum Status { active @map(\"open\")")
            .replace("default(open)", "default(active)")
            .replace("name    String", "name    String @pii\n  more    Int? \n  extra   String @default(\"d\")");
        let engine = changed(&base, &after).await;
        assert_eq!(clean(&engine, name).await.unchecked, 1, "{name}");
        // Of a redacted field whether it is null, of the others the value.
        behind(&base, "accounts", "UPDATE accounts SET number = 8, name = 'other', extra = 'e' WHERE id = 1").await;
        assert_eq!(found(&engine).await.0, ["changed Account 1 [number]"], "{name}");
    }
}

#[tokio::test]
async fn writers_at_work_are_no_false_alarm() {
    for base in Base::all(BANK).await {
        base.create("teller", "Customer", r#"{"id":1,"name":"Ann"}"#).await.unwrap();
        let write = async {
            for at in 1..=60 {
                base.patch("teller", "Customer", "1", at, &format!(r#"{{"name":"n{at}"}}"#)).await.unwrap();
                base.create("teller", "Customer", &format!(r#"{{"id":{},"name":"x"}}"#, 1000 - at)).await.unwrap();
                let desk = base.create("teller", "Desk", "{}").await.unwrap();
                base.delete("teller", "Desk", &desk.key[0], -1).await.unwrap();
            }
        };
        let compare = async {
            for _ in 0..30 {
                clean(&base.engine, base.name).await;
            }
        };
        tokio::join!(write, compare);
    }
}

#[tokio::test]
async fn without_a_trail_there_is_nothing_to_compare_with() {
    for base in Base::all("model A {\n id Int @id\n @@allow(\"all\", true)\n}\n").await {
        let error = reconcile(&base.engine, &mut |_| ()).await.unwrap_err();
        assert!(matches!(error, Error::NoTrail), "{} {error}", base.name);
    }
}
