#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use serde_json::Value as Json;

use super::*;
use crate::api::{Operation, Verb};
use crate::audit::tests::{BANK, ID, entries, sql};
use crate::engine::tests::{Base, caller, compile, json};

/// Operation and key of each event.
fn story(events: &[AuditEvent]) -> Vec<String> {
    let line = |event: &AuditEvent| {
        let entry: Json = serde_json::from_str(&event.entry).unwrap();
        format!("{} {} {}", entry["operation"].as_str().unwrap(), event.model, event.primary_key)
    };
    events.iter().map(line).collect()
}

async fn filled() -> Vec<Base> {
    let all = Base::durable(BANK).await;
    for base in &all {
        base.create("teller", "Customer", r#"{"id":1,"name":"Ann"}"#).await.unwrap();
        base.create("teller", "Customer", r#"{"id":2,"name":"Bob"}"#).await.unwrap();
        let mut who = caller(&base.engine, "teller");
        who.request_id = "req-7".to_owned();
        let account = base.engine.schema().model_named("Account").unwrap();
        let data = json(&format!(r#"{{"id":"{ID}","owner":"it's"}}"#));
        base.engine.run(&who, Operation { model: account, verb: Verb::Create { data } }).await.unwrap();
        base.patch("auditor", "Account", ID, 1, r#"{"owner":"b"}"#).await.unwrap_err();
        sql(base, "UPDATE customers SET name = 'x' WHERE id = 1").await.unwrap();
        base.delete("manager", "Customer", "1", 1).await.unwrap();
    }
    all
}

#[tokio::test]
async fn filters_and_pages() {
    for base in filled().await {
        let name = base.name;
        let mut reader = Reader::open(&base.engine).await.unwrap();
        let text = |text: &str| Some(text.to_owned());
        let account = format!("Account {ID}");
        let rows: [(Filter, Vec<String>); 9] = [
            (
                Filter::default(),
                [
                    "delete Customer 1",
                    "update Customer 1",
                    &format!("denied {account}"),
                    &format!("create {account}"),
                    "create Customer 2",
                    "create Customer 1",
                ]
                .map(str::to_owned)
                .to_vec(),
            ),
            (
                Filter { model: text("Account"), ..Filter::default() },
                vec![format!("denied {account}"), format!("create {account}")],
            ),
            (
                Filter { model: text("Customer"), primary_key: text("2"), ..Filter::default() },
                vec!["create Customer 2".to_owned()],
            ),
            (Filter { request_id: text("req-7"), ..Filter::default() }, vec![format!("create {account}")]),
            (Filter { operation: text("denied"), ..Filter::default() }, vec![format!("denied {account}")]),
            (Filter { out_of_band: true, ..Filter::default() }, vec!["update Customer 1".to_owned()]),
            (
                Filter { actor: text("ann"), operation: text("delete"), ..Filter::default() },
                vec!["delete Customer 1".to_owned()],
            ),
            (Filter { actor: text("ann' OR '1'='1"), ..Filter::default() }, Vec::new()),
            (Filter { model: text("account"), ..Filter::default() }, Vec::new()),
        ];
        for (filter, expected) in rows {
            assert_eq!(story(&reader.list(&filter, None, PAGE).await.unwrap()), expected, "{name} {filter:?}");
        }
        let all = reader.list(&Filter::default(), None, PAGE).await.unwrap();
        assert_eq!(all.last().unwrap().entry, entries(&base).await[0].to_string(), "{name}: as it was stored");
        let (mut paged, mut before) = (Vec::new(), None);
        loop {
            let page = reader.list(&Filter::default(), before, 2).await.unwrap();
            let Some(last) = page.last() else { break };
            before = Some(last.seq);
            paged.extend(page);
        }
        assert_eq!(paged, all, "{name}");
    }
}

#[tokio::test]
async fn times_are_from_and_up_to() {
    for base in filled().await {
        let mut reader = Reader::open(&base.engine).await.unwrap();
        let all = reader.list(&Filter::default(), None, PAGE).await.unwrap();
        let at = |event: &AuditEvent| {
            let entry: Json = serde_json::from_str(&event.entry).unwrap();
            instant::to_unix_micros(entry["at"].as_str().unwrap()).unwrap()
        };
        let middle = at(&all[2]);
        let later = reader.list(&Filter { from: Some(middle), ..Filter::default() }, None, PAGE).await.unwrap();
        let earlier = reader.list(&Filter { to: Some(middle), ..Filter::default() }, None, PAGE).await.unwrap();
        assert!(later.contains(&all[2]) && !earlier.contains(&all[2]), "{}", base.name);
        assert_eq!([later, earlier].concat(), all, "{}", base.name);
    }
}

#[tokio::test]
async fn one_event_and_the_history_of_a_row() {
    for base in filled().await {
        let name = base.name;
        let mut reader = Reader::open(&base.engine).await.unwrap();
        let history = reader.history("Customer", "1", None, PAGE).await.unwrap();
        assert_eq!(story(&history), ["create Customer 1", "update Customer 1", "delete Customer 1"], "{name}");
        let rest = reader.history("Customer", "1", Some(history[0].seq), 1).await.unwrap();
        assert_eq!(rest, history[1..2], "{name}");
        for event in &history {
            let entry: Json = serde_json::from_str(&event.entry).unwrap();
            let found = reader.event(&entry["event_id"].as_str().unwrap().to_uppercase()).await.unwrap();
            assert_eq!(found.as_ref(), Some(event), "{name}");
        }
        assert_eq!(reader.event(ID).await.unwrap(), None, "{name}");
        assert!(reader.knows("Customer").await.unwrap() && !reader.knows("Desk").await.unwrap(), "{name}");
        // An id that does not begin with the time of its event.
        let forged = "ffffffff-ffff-7fff-bfff-ffffffffffff";
        let entry = format!(r#"{{"event_id":"{forged}"}}"#);
        let values = format!(
            "'2026-01-31T10:00:00.000000Z', 'M', 'k', {}, '{entry}'",
            if base.postgres.is_some() { "false" } else { "0" }
        );
        let insert = format!(
            "INSERT INTO cratestack_audit (occurred_at, model, primary_key, out_of_band, entry) VALUES ({values})"
        );
        sql(&base, &insert).await.unwrap();
        assert_eq!(reader.event(forged).await.unwrap().unwrap().entry, entry, "{name}");
    }
}

#[tokio::test]
async fn a_database_without_a_trail_says_so() {
    for base in Base::all("model A {\n id Int @id\n @@allow(\"all\", true)\n}\n").await {
        let error = Reader::open(&base.engine).await.unwrap_err();
        assert!(matches!(error, Error::NoTrail), "{} {error}", base.name);
    }
}

#[test]
fn keys_as_people_write_them() {
    let schema = compile(BANK);
    let named = |model: &str, text: &str| key_named(&schema, schema.model_named(model).unwrap(), text);
    for (model, text, key) in [
        ("Account", "01890A5D-AC96-774B-BCCE-B302099A8057", Some(ID)),
        ("Account", "1", None),
        ("Customer", "007", Some("7")),
        ("Branch", "1/x", Some(r#"[1,"x"]"#)),
        ("Branch", r#" [1, "a/b"]"#, Some(r#"[1,"a/b"]"#)),
        ("Branch", "1", None),
        ("Branch", "[1,null]", None),
    ] {
        assert_eq!(named(model, text).as_deref(), key, "{model} {text}");
    }
}

/// The pages of one row's events come from the index of keys, all others in the order of the table.
#[tokio::test]
async fn pages_come_from_an_index() {
    for base in Base::durable(BANK).await {
        let (postgres, word) =
            (base.postgres.is_some(), if base.postgres.is_some() { "EXPLAIN" } else { "EXPLAIN QUERY PLAN" });
        let mut reader = Reader::open(&base.engine).await.unwrap();
        let of_row = Filter { model: Some("M".to_owned()), primary_key: Some("k".to_owned()), ..Filter::default() };
        for (filter, index) in [
            (of_row, "cratestack_audit_key_idx"),
            (Filter::default(), if postgres { "cratestack_audit_pkey" } else { "SCAN" }),
        ] {
            let mut query = Query::new(reader.link.dialect());
            query.filter(&filter);
            let mut statement = query.finish("DESC", PAGE);
            let sql = format!("{word} {}", statement.template.sql);
            let control = if postgres {
                vec![SqlType::TEXT]
            } else {
                vec![SqlType::INT, SqlType::INT, SqlType::INT, SqlType::TEXT]
            };
            statement.template = std::sync::Arc::new(crate::sql::Template::fixed(&sql, &control));
            let rows = reader.link.fetch(statement).await.unwrap();
            let plan: Vec<String> =
                (0..rows.len()).map(|at| format!("{:?}", rows.control(at).last().unwrap())).collect();
            let plan = plan.join("\n");
            assert!(
                plan.contains(index) && !plan.contains("Sort") && !plan.contains("TEMP B-TREE"),
                "{} {plan}",
                base.name
            );
        }
    }
}
