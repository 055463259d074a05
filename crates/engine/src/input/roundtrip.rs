//! Every scalar through the whole engine, on both databases: what a caller sends, patches to, and is answered.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use crate::api::{Answer, Authority, Caller, Code, Expected, Failure, Operation, Origin, Row, Verb};
use crate::json::{self, Json};
use crate::testing::PgDatabase;
use crate::{Database, Engine, Options, migrate};
use cratestack_schema::ir::{ModelId, Schema};

const SCHEMA: &str = r#"
enum Status {
  open
  cancelled @map("CANCELED")
}

model Thing {
  id       Int      @id
  string   String?
  int      Int?
  big      BigInt?
  float    Float?
  flag     Boolean?
  money    Decimal(18, 4)?
  wide     Decimal(40, 10)?
  any      Decimal?
  at       DateTime?
  day      Date?
  uuid     Uuid?
  cuid     Cuid?
  bytes    Bytes?
  json     Json?
  status   Status?
  strings  String[]
  ints     Int[]
  uuids    Uuid[]
  parentId Int?
  parent   Thing?   @relation(fields: [parentId], references: [id], name: "tree")
  children Thing[]  @relation(name: "tree")

  @@allow("all", true)
}
"#;

/// A field, what is sent, and what is answered.
const CASES: &[(&str, &str, &str)] = &[
    ("string", r#""""#, r#""""#),
    (
        "string",
        r#""O'Neil \"x\" \\ \u0001\u2028é😀; DROP TABLE things; --""#,
        "\"O'Neil \\\"x\\\" \\\\ \\u0001\u{2028}é😀; DROP TABLE things; --\"",
    ),
    ("string", r#""null""#, r#""null""#),
    ("int", "9007199254740991", "9007199254740991"),
    ("int", "-9007199254740991", "-9007199254740991"),
    ("big", r#""9223372036854775807""#, r#""9223372036854775807""#),
    ("big", r#""-9223372036854775808""#, r#""-9223372036854775808""#),
    ("float", "0.1", "0.1"),
    ("float", "1.7976931348623157e308", "1.7976931348623157e+308"),
    ("float", "5e-324", "5e-324"),
    ("float", "-0", "0.0"),
    ("flag", "true", "true"),
    ("flag", "false", "false"),
    ("money", r#""0""#, r#""0.0000""#),
    ("money", r#""-99999999999999.9999""#, r#""-99999999999999.9999""#),
    ("money", r#""12.50000000""#, r#""12.5000""#),
    ("wide", r#""123456789012345678901234567890.0123456789""#, r#""123456789012345678901234567890.0123456789""#),
    ("wide", r#""-0.5""#, r#""-0.5000000000""#),
    ("any", r#""-100.0""#, r#""-100""#),
    ("any", r#""0.000000000000000000000000000001""#, r#""0.000000000000000000000000000001""#),
    ("at", r#""2026-01-31T11:00:00.5+01:00""#, r#""2026-01-31T10:00:00.500000Z""#),
    ("at", r#""0001-01-01T00:00:00Z""#, r#""0001-01-01T00:00:00.000000Z""#),
    ("at", r#""9999-12-31T23:59:59.999999Z""#, r#""9999-12-31T23:59:59.999999Z""#),
    ("day", r#""0001-01-01""#, r#""0001-01-01""#),
    ("day", r#""9999-12-31""#, r#""9999-12-31""#),
    ("uuid", r#""0198AAAA-BBBB-7CCC-8DDD-EEEEEEEEEEEE""#, r#""0198aaaa-bbbb-7ccc-8ddd-eeeeeeeeeeee""#),
    ("cuid", r#""ck1234567890123456789012""#, r#""ck1234567890123456789012""#),
    ("bytes", r#""""#, r#""""#),
    ("bytes", r#""AP8Q""#, r#""AP8Q""#),
    ("json", r#"{"bb": [1.50, 1e2, -0], "a": {"x y": " , : "}}"#, r#"{"a":{"x y":" , : "},"bb":[1.50,100,0]}"#),
    ("json", "false", "false"),
    ("json", r#""text""#, r#""text""#),
    ("json", "[]", "[]"),
    ("status", r#""cancelled""#, r#""cancelled""#),
    ("strings", r#"["", "NULL", "a,\"b\\", "{}"]"#, r#"["","NULL","a,\"b\\","{}"]"#),
    ("ints", "[-1, 0, 9007199254740991]", "[-1,0,9007199254740991]"),
    ("uuids", r#"["0198aaaa-bbbb-7ccc-8ddd-eeeeeeeeeeee"]"#, r#"["0198aaaa-bbbb-7ccc-8ddd-eeeeeeeeeeee"]"#),
    ("strings", "[]", "[]"),
];

async fn run_any(engine: &Engine, verb: Verb) -> Result<Answer, Failure> {
    let caller = Caller {
        principal: None,
        authority: Authority::Rules,
        request_id: "test".into(),
        deadline: Duration::from_secs(30),
        origin: Origin::default(),
    };
    engine.run(&caller, Operation { model: ModelId(0), verb }).await
}

async fn run(engine: &Engine, verb: Verb) -> Result<Row, Failure> {
    match run_any(engine, verb).await? {
        Answer::Row(row) => Ok(row),
        other => panic!("{other:?}"),
    }
}

fn read(text: &str) -> Json {
    json::parse(text.as_bytes(), json::MAX_DEPTH).unwrap()
}

/// The text of one member of an answered row.
fn member(row: &Row, name: &str) -> String {
    let body = row.body.as_deref().unwrap();
    read(body).member(name).unwrap().to_string()
}

async fn every_scalar(engine: &Engine) {
    let patch = |data: &str| Verb::Patch { key: vec!["1000".into()], expected: Expected::Missing, data: read(data) };
    let empty = run(engine, Verb::Create { data: read(r#"{"id": 0}"#) }).await.unwrap();
    assert_eq!(member(&empty, "strings"), "[]");
    let mut rows = vec![empty.body.clone().unwrap()];
    run(engine, Verb::Create { data: read(r#"{"id": 1000}"#) }).await.unwrap();
    for (number, (field, sent, answered)) in (1..).zip(CASES) {
        let data = read(&format!("{{\"id\": {number}, \"parentId\": 0, \"{field}\": {sent}}}"));
        let row = run(engine, Verb::Create { data }).await.unwrap_or_else(|error| panic!("{field} {sent}: {error:?}"));
        assert_eq!(member(&row, field), *answered, "create {field} {sent}");
        rows.push(row.body.clone().unwrap());
        let patched = run(engine, patch(&format!("{{\"{field}\": {sent}}}"))).await;
        let patched = patched.unwrap_or_else(|error| panic!("{field} {sent}: {error:?}"));
        assert_eq!(member(&patched, field), *answered, "patch {field} {sent}");
        // Once more: nothing changes, and the row that is answered is the stored one.
        let same = run(engine, patch(&format!("{{\"{field}\": {sent}}}"))).await.unwrap();
        assert_eq!(same, patched, "patch again {field} {sent}");
        if !field.ends_with('s') || matches!(*field, "bytes" | "status") {
            let cleared = run(engine, patch(&format!("{{\"{field}\": null}}"))).await.unwrap();
            assert_eq!(member(&cleared, field), "null", "{field}");
        }
    }
    let key = vec!["1000".to_owned()];
    run_any(engine, Verb::Delete { key, expected: Expected::Missing }).await.unwrap();
    every_way_to_read(engine, &rows).await;
}

/// A row reads alike by its key, in a list, as the parent and as a child of another.
async fn every_way_to_read(engine: &Engine, rows: &[String]) {
    let read_one = |key: String, params: &[(&str, &str)]| {
        let params = params.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        run(engine, Verb::Read { key: vec![key], params })
    };
    for (key, body) in rows.iter().enumerate() {
        assert_eq!(read_one(key.to_string(), &[]).await.unwrap().body.as_ref(), Some(body));
    }
    let parent = member(&read_one("1".into(), &[("include", "parent")]).await.unwrap(), "parent");
    assert_eq!(parent, rows[0]);
    let children = member(&read_one("0".into(), &[("include", "children")]).await.unwrap(), "children");
    assert_eq!(children, format!("{{\"items\":[{}],\"next\":null}}", rows[1..].join(",")));
    let verb = Verb::List { params: vec![("limit".into(), "1000".into())] };
    match run_any(engine, verb).await.unwrap() {
        Answer::Page { items, next: None, .. } => assert_eq!(items, format!("[{}]", rows.join(","))),
        other => panic!("{other:?}"),
    }
}

fn schema() -> Arc<Schema> {
    let (schema, diagnostics) = cratestack_schema::compile("things", SCHEMA);
    Arc::new(schema.unwrap_or_else(|| panic!("{diagnostics:?}")))
}

#[tokio::test]
async fn sqlite_answers_every_scalar() {
    every_scalar(&Engine::open(schema(), &Database::SqliteMemory, Options::default()).await.unwrap()).await;
}

#[tokio::test]
async fn postgres_answers_every_scalar() {
    let Some(database) = PgDatabase::new().await else { return };
    let mut connection = database.connect().await;
    let mut db = migrate::Db::Postgres(&mut connection);
    migrate::apply_create(&mut db, &schema(), [7; 32], &mut |_| {}).await.unwrap();
    let url = Database::Postgres(database.url.clone());
    let engine = Engine::open(schema(), &url, Options::default()).await.unwrap();
    every_scalar(&engine).await;
    engine.close().await;
}

/// Something that a caller may send for any field: of the right kind, nearly so, or not at all.
fn anything() -> impl Strategy<Value = String> {
    let string = prop_oneof![
        ".*",
        "[\\u{0}-\\u{40}]{0,8}",
        "-?[0-9]{0,40}(\\.[0-9]{0,40})?(e-?[0-9]{1,6})?",
        "[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9]{2}:[0-9]{2}:[0-9]{2}(\\.[0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})?)?",
        "[0-9a-fA-F]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
        "[A-Za-z0-9+/]{0,12}={0,2}",
        Just("open".to_owned()),
    ];
    let string = string.prop_map(|text| serde_json::to_string(&text).unwrap());
    let number = "-?(0|[1-9][0-9]{0,40})(\\.[0-9]{1,40})?([eE][+-]?[0-9]{1,6})?";
    let leaf = prop_oneof![string.clone(), number, Just("null".to_owned()), Just("true".to_owned())];
    leaf.prop_recursive(3, 16, 4, move |inner| {
        let members = prop::collection::btree_map(string.clone(), inner.clone(), 0..4);
        prop_oneof![
            prop::collection::vec(inner, 0..4).prop_map(|items| format!("[{}]", items.join(","))),
            members.prop_map(|members| {
                let members: Vec<String> = members.iter().map(|(name, value)| format!("{name}:{value}")).collect();
                format!("{{{}}}", members.join(","))
            }),
        ]
    })
}

/// Whatever is sent is stored alike on both databases, or refused alike, and never a fault of ours.
#[test]
fn anything_is_stored_alike_or_refused_alike() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let Some(database) = runtime.block_on(PgDatabase::new()) else { return };
    let (sqlite, postgres) = runtime.block_on(async {
        let mut connection = database.connect().await;
        let mut db = migrate::Db::Postgres(&mut connection);
        migrate::apply_create(&mut db, &schema(), [7; 32], &mut |_| {}).await.unwrap();
        let url = Database::Postgres(database.url.clone());
        let sqlite = Engine::open(schema(), &Database::SqliteMemory, Options::default()).await.unwrap();
        (sqlite, Engine::open(schema(), &url, Options::default()).await.unwrap())
    });
    let fields: Vec<String> = schema().models[0].fields.iter().skip(1).map(|field| field.name.clone()).collect();
    let fields: Vec<String> = fields.into_iter().filter(|name| name != "parentId").collect();
    let keys = std::cell::Cell::new(0);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(500));
    let strategy = (prop::sample::select(fields), anything());
    let result = runner.run(&strategy, |(field, sent)| {
        let key = keys.get() + 1;
        keys.set(key);
        let data = read(&format!("{{\"id\": {key}, \"{field}\": {sent}}}"));
        let one = runtime.block_on(run(&sqlite, Verb::Create { data: data.clone() }));
        let other = runtime.block_on(run(&postgres, Verb::Create { data }));
        if let Err(failure) = &one {
            prop_assert_eq!(failure.code, Code::ValidationFailed, "{:?}", failure);
        }
        prop_assert_eq!(one, other);
        Ok(())
    });
    result.unwrap();
    runtime.block_on(postgres.close());
}
