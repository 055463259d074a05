#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::collections::BTreeMap;

use super::*;
use crate::api::{Authority, BatchItem, Origin};
use crate::sources::Fixed;
use crate::testing::{PgDatabase, Proxy, pending};

/// 2026-01-31T10:00:00Z
const NOW: i64 = 1_769_853_600_000_000;
const NOW_TEXT: &str = "2026-01-31T10:00:00.000000Z";

const BANK: &str = r#"
enum Role { teller manager }
enum Status { open closed @map("CLOSED") }

auth Principal {
  id       String @id
  role     Role
  tenantId String @tenant
}

model Customer {
  id       Int    @id
  tenantId String @default(auth().tenantId)
  name     String
  version  Int    @version
  accounts Account[]
  @@soft_delete
  @@allow("all", tenantId == auth().tenantId)
  @@allow("restore", auth().role == manager)
}

model Account {
  id         Uuid   @id @default(uuid())
  tenantId   String @default(auth().tenantId)
  customerId Int?
  owner      String @length(min: 1, max: 20)
  email      String @unique
  secret     String? @server_only
  status     Status @default(open)
  balance    Decimal(18, 4) @default(0)
  overdraft  Decimal(18, 4) @default(0) @range(min: 0) @db_enforce
  createdAt  DateTime @default(now())
  updatedAt  DateTime @updatedAt
  version    Int    @version
  customer   Customer? @relation(fields: [customerId], references: [id], onDelete: Cascade)
  entries    Entry[]

  @@check(balance + overdraft >= 0, "insufficient funds", name: "funds")
  @@soft_delete
  @@deny("all", tenantId != auth().tenantId)
  @@allow("read", status != closed || auth().role == manager)
  @@allow("create", auth().role == teller && balance >= 0)
  @@allow("update", auth().role == manager || status == open)
  @@deny("update", changed(overdraft) && auth().role != manager)
  @@allow("delete", auth().role == manager && balance == 0)
  @@allow("restore", auth().role == manager)
}

model Entry {
  id        BigInt @id @default(autoincrement())
  accountId Uuid
  amount    Decimal(18, 4)
  account   Account @relation(fields: [accountId], references: [id], onDelete: Restrict)
  @@allow("read", true)
  @@allow("create", true)
  @@allow("delete", true)
}

model Note {
  a    Int
  b    String
  text String?
  @@id([a, b])
  @@allow("all", true)
}
"#;

/// An engine with its database; the database goes when this does.
pub(crate) struct Base {
    pub(crate) name: &'static str,
    pub(crate) engine: Engine,
    pub(crate) postgres: Option<PgDatabase>,
    pub(crate) directory: Option<tempfile::TempDir>,
}

pub(crate) fn compile(text: &str) -> Arc<Schema> {
    let (schema, diagnostics) = cratestack_schema::compile("bank", text);
    Arc::new(schema.unwrap_or_else(|| panic!("{diagnostics:#?}")))
}

fn fixed() -> Options {
    let sources = Arc::new(Fixed::at(NOW));
    Options { clock: sources.clone(), ids: sources, ..Options::default() }
}

impl Base {
    async fn memory(text: &str) -> Self {
        let engine = Engine::open(compile(text), &Database::SqliteMemory, fixed()).await.unwrap();
        Self { name: "memory", engine, postgres: None, directory: None }
    }

    async fn file(text: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("test.db");
        let schema = compile(text);
        let mut connection = rusqlite::Connection::open(&path).unwrap();
        migrate::apply_create(&mut Db::Sqlite(&mut connection), &schema, [7; 32], &mut |_| ()).await.unwrap();
        drop(connection);
        let engine = Engine::open(schema, &Database::SqliteFile(path), fixed()).await.unwrap();
        Self { name: "file", engine, postgres: None, directory: Some(directory) }
    }

    pub(crate) async fn postgres(text: &str) -> Option<Self> {
        let database = PgDatabase::new().await?;
        let schema = compile(text);
        let mut connection = database.connect().await;
        migrate::apply_create(&mut Db::Postgres(&mut connection), &schema, [7; 32], &mut |_| ()).await.unwrap();
        let engine = Engine::open(schema, &Database::Postgres(database.url.clone()), fixed()).await.unwrap();
        Some(Self { name: "postgres", engine, postgres: Some(database), directory: None })
    }

    pub(crate) async fn all(text: &str) -> Vec<Self> {
        let mut all = vec![Self::memory(text).await, Self::file(text).await];
        all.extend(Self::postgres(text).await);
        all
    }

    pub(crate) async fn durable(text: &str) -> Vec<Self> {
        let mut all = vec![Self::file(text).await];
        all.extend(Self::postgres(text).await);
        all
    }

    pub(crate) async fn run(&self, who: &str, model: &str, verb: Verb) -> Result<Answer, Failure> {
        let model = self.engine.schema().model_named(model).unwrap();
        self.engine.run(&caller(&self.engine, who), Operation { model, verb }).await
    }

    pub(crate) async fn create(&self, who: &str, model: &str, data: &str) -> Result<Row, Failure> {
        self.run(who, model, Verb::Create { data: json(data) }).await.map(row)
    }

    pub(crate) async fn patch(
        &self,
        who: &str,
        model: &str,
        key: &str,
        version: i64,
        data: &str,
    ) -> Result<Row, Failure> {
        self.run(who, model, patch(key, version, data)).await.map(row)
    }

    pub(crate) async fn delete(&self, who: &str, model: &str, key: &str, version: i64) -> Result<Option<i64>, Failure> {
        match self.run(who, model, Verb::Delete { key: split(key), expected: at(version) }).await? {
            Answer::Deleted { version } => Ok(version),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn restore(&self, who: &str, model: &str, key: &str, version: i64) -> Result<Row, Failure> {
        self.run(who, model, Verb::Restore { key: split(key), expected: at(version) }).await.map(row)
    }

    /// An account of Ann's with this balance; its key.
    async fn account(&self, email: &str, balance: &str) -> String {
        let data = format!(r#"{{"owner":"Ann","email":"{email}","balance":"{balance}"}}"#);
        self.create("teller", "Account", &data).await.unwrap().key.remove(0)
    }
}

pub(crate) fn split(key: &str) -> Key {
    key.split('/').map(str::to_owned).collect()
}

pub(crate) fn at(version: i64) -> Expected {
    match version {
        0 => Expected::Missing,
        -1 => Expected::Any,
        version => Expected::OneOf(vec![version]),
    }
}

fn patch(key: &str, version: i64, data: &str) -> Verb {
    Verb::Patch { key: split(key), expected: at(version), data: json(data) }
}

pub(crate) fn json(text: &str) -> Json {
    crate::json::parse(text.as_bytes(), 64).unwrap()
}

fn row(answer: Answer) -> Row {
    match answer {
        Answer::Row(row) => row,
        other => panic!("{other:?}"),
    }
}

/// `""` is anonymous, `teller` and `manager` work for the tenant `t1`, `teller@t2` for another.
pub(crate) fn caller(engine: &Engine, who: &str) -> Caller {
    let principal = (!who.is_empty()).then(|| {
        let (role, tenant) = who.split_once('@').unwrap_or((who, "t1"));
        engine.principal(&json(&format!(r#"{{"id":"ann","role":"{role}","tenantId":"{tenant}"}}"#))).unwrap()
    });
    Caller {
        principal,
        authority: Authority::Rules,
        request_id: "r".to_owned(),
        deadline: Duration::from_secs(20),
        origin: Origin::default(),
    }
}

fn members(row: &Row) -> BTreeMap<String, serde_json::Value> {
    serde_json::from_str(row.body.as_deref().unwrap()).unwrap()
}

fn codes(failure: &Failure) -> Vec<(&str, &str)> {
    failure.errors.iter().map(|error| (error.pointer.as_str(), error.code.as_str())).collect()
}

#[tokio::test]
async fn the_life_of_a_row() {
    for base in Base::all(BANK).await {
        let name = base.name;
        let created = base.create("teller", "Account", r#"{"owner":"Ann","email":"a@b.c"}"#).await.unwrap();
        assert!(created.created && created.full, "{name}");
        assert_eq!(created.version, Some(1));
        let id = created.key[0].clone();
        assert_eq!(
            created.body.as_deref().unwrap(),
            format!(
                r#"{{"id":"{id}","tenantId":"t1","customerId":null,"owner":"Ann","email":"a@b.c","status":"open","balance":"0.0000","overdraft":"0.0000","createdAt":"2026-01-31T10:00:00.000000Z","updatedAt":"2026-01-31T10:00:00.000000Z","version":1}}"#
            ),
            "{name}"
        );
        let patched = base.patch("teller", "Account", &id, 1, r#"{"owner":"Bob","balance":"1.50"}"#).await.unwrap();
        assert_eq!(
            (patched.version, patched.created, patched.key[0].as_str()),
            (Some(2), false, id.as_str()),
            "{name}"
        );
        let row = members(&patched);
        assert_eq!((row["owner"].as_str(), row["balance"].as_str()), (Some("Bob"), Some("1.5000")), "{name}");

        // Nothing changes, so nothing is written.
        for same in [r#"{"owner":"Bob","balance":"1.5"}"#, "{}"] {
            let unchanged = base.patch("teller", "Account", &id, 2, same).await.unwrap();
            assert_eq!((unchanged.version, unchanged.body.as_deref()), (Some(2), patched.body.as_deref()), "{name}");
        }
        let stale = base.patch("teller", "Account", &id, 1, r#"{"owner":"Cat"}"#).await.unwrap_err();
        assert_eq!((stale.code, stale.current_version), (Code::VersionMismatch, Some(2)), "{name}");
        let any = base.patch("teller", "Account", &id, -1, r#"{"owner":"Cat","balance":"0"}"#).await.unwrap();
        assert_eq!(any.version, Some(3));

        assert_eq!(base.delete("manager", "Account", &id, 3).await.unwrap(), Some(4), "{name}");
        let gone = base.delete("manager", "Account", &id, 4).await.unwrap_err();
        assert_eq!(gone.code, Code::NotFound, "{name}");
        let back = base.restore("manager", "Account", &id, 4).await.unwrap();
        assert_eq!((back.version, members(&back)["owner"].as_str()), (Some(5), Some("Cat")), "{name}");
    }
}

#[tokio::test]
async fn which_refusal() {
    for base in Base::all(BANK).await {
        let name = base.name;
        let open = base.account("open@b.c", "5").await;
        let closed = base.account("closed@b.c", "0").await;
        base.patch("manager", "Account", &closed, 1, r#"{"status":"closed"}"#).await.unwrap();
        let create = r#"{"owner":"Ann","email":"x@b.c"}"#;
        let absent = "00000000-0000-7000-8000-00000000ffff";

        // Creates.
        let code = |result: Result<Row, Failure>| result.map(|_| ()).unwrap_err().code;
        assert_eq!(code(base.create("", "Account", create).await), Code::Unauthenticated, "{name}");
        assert_eq!(code(base.create("manager", "Account", create).await), Code::Forbidden, "{name}");
        let negative = r#"{"owner":"Ann","email":"x@b.c","balance":"-1","overdraft":"9"}"#;
        assert_eq!(code(base.create("teller", "Account", negative).await), Code::Forbidden, "{name}");

        // Patches: 401, 422, 428, 403 for everybody alike, 404, 403, 412.
        let owner = r#"{"owner":"Bob"}"#;
        for (who, key, version, data, expected) in [
            ("", open.as_str(), 1, r#"{"wrong":1}"#, Code::Unauthenticated),
            ("teller", &open, 0, r#"{"wrong":1}"#, Code::ValidationFailed),
            ("teller", &open, 0, owner, Code::VersionRequired),
            ("teller", &open, 0, "{}", Code::VersionRequired),
            ("teller", absent, 9, owner, Code::NotFound),
            ("teller", "no-uuid", 9, owner, Code::NotFound),
            ("teller@t2", &open, 9, owner, Code::NotFound),
            ("teller", &closed, 9, owner, Code::NotFound),
            ("teller", &open, 9, r#"{"overdraft":"1"}"#, Code::Forbidden),
            ("teller", &open, 9, r#"{"status":"closed"}"#, Code::Forbidden),
            ("teller", &open, 9, owner, Code::VersionMismatch),
            ("teller", &open, 9, "{}", Code::VersionMismatch),
        ] {
            let refused = base.patch(who, "Account", key, version, data).await.unwrap_err();
            assert_eq!(refused.code, expected, "{name} {who} {key} {version} {data}");
        }
        // An overdraft that stays what it is has not changed.
        base.patch("teller", "Account", &open, 1, r#"{"overdraft":"0","owner":"Eve"}"#).await.unwrap();

        // Deletions.
        for (who, key, version, expected) in [
            ("", open.as_str(), 2, Code::Unauthenticated),
            ("teller", &open, 2, Code::Forbidden),
            ("teller", absent, 2, Code::Forbidden),
            ("manager", absent, 2, Code::NotFound),
            ("manager@t2", &open, 2, Code::NotFound),
            ("manager", &open, 9, Code::Forbidden),
            ("manager", &closed, 9, Code::VersionMismatch),
            ("manager", &closed, 0, Code::VersionRequired),
        ] {
            let refused = base.delete(who, "Account", key, version).await.unwrap_err();
            assert_eq!(refused.code, expected, "{name} {who} {key} {version}");
        }
        // Only tombstones come back.
        assert_eq!(code(base.restore("manager", "Account", &open, 2).await), Code::NotFound, "{name}");
        base.delete("manager", "Account", &closed, 2).await.unwrap();
        assert_eq!(code(base.restore("manager@t2", "Account", &closed, 3).await), Code::NotFound, "{name}");
        assert_eq!(code(base.restore("teller", "Account", &closed, 3).await), Code::Forbidden, "{name}");
        assert_eq!(code(base.restore("manager", "Account", &closed, 2).await), Code::VersionMismatch, "{name}");
        base.restore("manager", "Account", &closed, 3).await.unwrap();
    }
}

#[tokio::test]
async fn a_result_that_the_caller_may_not_read_has_no_body() {
    let text = r#"
        model Note {
          id   Int @id
          text String
          version Int @version
          @@allow("read", text != "hidden")
          @@allow("create", true)
          @@allow("update", true)
        }"#;
    for base in Base::all(text).await {
        let hidden = base.create("", "Note", r#"{"id":1,"text":"hidden"}"#).await.unwrap();
        assert_eq!((hidden.body, hidden.version, hidden.key.as_slice()), (None, None, &["1".to_owned()][..]));
        base.create("", "Note", r#"{"id":2,"text":"seen"}"#).await.unwrap();
        let hidden = base.patch("", "Note", "2", 1, r#"{"text":"hidden"}"#).await.unwrap();
        assert_eq!((hidden.body, hidden.version), (None, None));
        assert_eq!(base.patch("", "Note", "2", 2, r#"{"text":"seen"}"#).await.unwrap_err().code, Code::NotFound);
    }
}

#[tokio::test]
async fn references_name_live_rows_that_the_caller_may_read() {
    for base in Base::all(BANK).await {
        let name = base.name;
        base.create("teller", "Customer", r#"{"id":1,"name":"C"}"#).await.unwrap();
        base.create("teller@t2", "Customer", r#"{"id":2,"name":"D"}"#).await.unwrap();
        base.create("teller", "Customer", r#"{"id":3,"name":"E"}"#).await.unwrap();
        base.delete("teller", "Customer", "3", 1).await.unwrap();
        let data = |customer: &str| format!(r#"{{"owner":"A","email":"{customer}@x","customerId":{customer}}}"#);
        let own = base.create("teller", "Account", &data("1")).await.unwrap().key.remove(0);
        for customer in ["2", "3", "4"] {
            let created = base.create("teller", "Account", &data(customer)).await.unwrap_err();
            let patch = format!(r#"{{"customerId":{customer}}}"#);
            let patched = base.patch("teller", "Account", &own, 1, &patch).await.unwrap_err();
            for refused in [created, patched] {
                assert_eq!(refused.code, Code::ValidationFailed, "{name}");
                assert_eq!(codes(&refused), [("#/customerId", "reference_not_found")], "{name}");
            }
        }
        base.patch("teller", "Account", &own, 1, r#"{"customerId":null}"#).await.unwrap();
    }
}

#[tokio::test]
async fn what_the_database_refuses_names_what_it_concerns() {
    for base in Base::all(BANK).await {
        let name = base.name;
        let one = base.account("one@x", "5").await;
        let two = base.account("two@x", "0").await;
        let taken = base.create("teller", "Account", r#"{"owner":"A","email":"one@x"}"#).await.unwrap_err();
        assert_eq!((taken.code, codes(&taken)), (Code::UniqueViolation, vec![("#/email", "unique")]), "{name}");
        let taken = base.patch("teller", "Account", &two, 1, r#"{"email":"one@x"}"#).await.unwrap_err();
        assert_eq!(taken.detail, "another row has the same `email`", "{name}");
        let key = format!(r#"{{"id":"{one}","owner":"A","email":"new@x"}}"#);
        let taken = base.create("teller", "Account", &key).await.unwrap_err();
        assert_eq!((taken.code, codes(&taken)), (Code::UniqueViolation, vec![("#/id", "unique")]), "{name}");

        let poor = base.patch("teller", "Account", &one, 1, r#"{"balance":"-1"}"#).await.unwrap_err();
        assert_eq!((poor.code, codes(&poor)), (Code::ValidationFailed, vec![("#", "funds")]), "{name}");
        assert_eq!((poor.errors[0].detail.as_str(), poor.internal), ("insufficient funds", None), "{name}");

        // A key is never used again, a value of a tombstone is.
        base.delete("manager", "Account", &two, 1).await.unwrap();
        let key = format!(r#"{{"id":"{two}","owner":"A","email":"new@x"}}"#);
        assert_eq!(base.create("teller", "Account", &key).await.unwrap_err().code, Code::UniqueViolation, "{name}");
        base.account("two@x", "0").await;
        let taken = base.restore("manager", "Account", &two, 2).await.unwrap_err();
        assert_eq!((taken.code, codes(&taken)), (Code::UniqueViolation, vec![("#/email", "unique")]), "{name}");

        // Rows that others depend on.
        base.create("teller", "Entry", &format!(r#"{{"accountId":"{one}","amount":"1"}}"#)).await.unwrap();
        base.patch("teller", "Account", &one, 1, r#"{"balance":"0"}"#).await.unwrap();
        let needed = base.delete("manager", "Account", &one, 2).await.unwrap_err();
        assert_eq!(needed.code, Code::ForeignKeyViolation, "{name}");
        assert_eq!(needed.detail, "rows of `Entry` depend on this row", "{name}");
        base.run("", "Entry", Verb::Delete { key: split("1"), expected: Expected::Missing }).await.unwrap();
        base.delete("manager", "Account", &one, 2).await.unwrap();
    }
}

#[tokio::test]
async fn a_real_deletion_names_who_depends_on_the_row() {
    let text = r#"
        model Parent { id Int @id  children Child[]  @@allow("all", true) }
        model Child {
          id Int @id
          parentId Int
          parent Parent @relation(fields: [parentId], references: [id], onDelete: Restrict)
          @@allow("all", true)
        }"#;
    for base in Base::all(text).await {
        base.create("", "Parent", r#"{"id":1}"#).await.unwrap();
        base.create("", "Child", r#"{"id":1,"parentId":1}"#).await.unwrap();
        let needed = base.delete("", "Parent", "1", 0).await.unwrap_err();
        assert_eq!(needed.code, Code::ForeignKeyViolation, "{}", base.name);
        assert_eq!(needed.detail, "rows of `Child` depend on this row", "{}", base.name);
        assert_eq!(base.delete("", "Child", "1", 0).await.unwrap(), None);
        assert_eq!(base.delete("", "Parent", "1", 0).await.unwrap(), None);
        assert_eq!(base.delete("", "Parent", "1", 0).await.unwrap_err().code, Code::NotFound);
    }
}

#[tokio::test]
async fn tombstones_reach_their_children_and_come_back_with_them() {
    for base in Base::all(BANK).await {
        let name = base.name;
        base.create("teller", "Customer", r#"{"id":1,"name":"C"}"#).await.unwrap();
        let data = |email: &str| format!(r#"{{"owner":"A","email":"{email}","customerId":1}}"#);
        let kept = base.create("teller", "Account", &data("kept@x")).await.unwrap().key.remove(0);
        let gone = base.create("teller", "Account", &data("gone@x")).await.unwrap().key.remove(0);
        base.delete("manager", "Account", &gone, 1).await.unwrap();
        assert_eq!(base.delete("teller", "Customer", "1", 1).await.unwrap(), Some(2), "{name}");
        let refused = base.patch("teller", "Account", &kept, 2, r#"{"owner":"B"}"#).await.unwrap_err();
        assert_eq!(refused.code, Code::NotFound, "{name}");
        // Under a tombstone nothing comes back.
        let refused = base.restore("manager", "Account", &kept, 2).await.unwrap_err();
        assert_eq!(
            (refused.code, codes(&refused)),
            (Code::ForeignKeyViolation, vec![("#/customerId", "foreign_key")]),
            "{name}"
        );
        assert_eq!(base.restore("manager", "Customer", "1", 2).await.unwrap().version, Some(3), "{name}");
        assert_eq!(
            base.patch("teller", "Account", &kept, 3, r#"{"owner":"B"}"#).await.unwrap().version,
            Some(4),
            "{name}"
        );
        let refused = base.patch("teller", "Account", &gone, 2, r#"{"owner":"B"}"#).await.unwrap_err();
        assert_eq!(refused.code, Code::NotFound, "{name}");
    }
}

#[tokio::test]
async fn composite_keys_and_models_without_a_version() {
    for base in Base::all(BANK).await {
        let created = base.create("", "Note", r#"{"a":1,"b":"x y"}"#).await.unwrap();
        assert_eq!((created.key, created.version), (vec!["1".to_owned(), "x y".to_owned()], None));
        base.create("", "Note", r#"{"a":1,"b":"z"}"#).await.unwrap();
        let patched = base.patch("", "Note", "1/x y", 0, r#"{"text":"t"}"#).await.unwrap();
        assert_eq!(patched.body.unwrap(), r#"{"a":1,"b":"x y","text":"t"}"#);
        // There is no version that could be the expected one.
        assert_eq!(
            base.patch("", "Note", "1/x y", 1, r#"{"text":"u"}"#).await.unwrap_err().code,
            Code::VersionMismatch
        );
        assert_eq!(base.patch("", "Note", "2/x y", 1, r#"{"text":"u"}"#).await.unwrap_err().code, Code::NotFound);
        assert_eq!(base.patch("", "Note", "1", 0, r#"{"text":"u"}"#).await.unwrap_err().code, Code::NotFound);
        assert_eq!(base.delete("", "Note", "1/z", -1).await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_server_under_which_the_schema_changed_is_not_ready() {
    let changed = compile(&BANK.replace("owner      String @length(min: 1, max: 20)", "owner      String"));
    for base in Base::durable(BANK).await {
        let name = base.name;
        base.engine.ready().await.unwrap();
        for (schema, ready) in [(&changed, false), (base.engine.schema(), true)] {
            if let Some(database) = &base.postgres {
                let mut connection = database.connect().await;
                migrate::apply_diff(&mut Db::Postgres(&mut connection), schema, &[], &mut |_| ()).await.unwrap();
            } else {
                let path = base.directory.as_ref().unwrap().path().join("test.db");
                let mut connection = rusqlite::Connection::open(path).unwrap();
                migrate::apply_diff(&mut Db::Sqlite(&mut connection), schema, &[], &mut |_| ()).await.unwrap();
            }
            let answer = base.engine.ready().await;
            assert_eq!(answer.is_ok(), ready, "{name}");
            if let Err(failure) = answer {
                assert_eq!(failure.code, Code::Unavailable, "{name}");
                assert_eq!(failure.detail, "the database carries another version of the schema", "{name}");
            }
        }
    }
    Base::memory(BANK).await.engine.ready().await.unwrap();
}

#[tokio::test]
async fn batches() {
    for base in Base::all(BANK).await {
        let name = base.name;
        let id = base.account("a@x", "0").await;
        let batch = |atomic, second: &str| Verb::Batch {
            atomic,
            items: vec![
                BatchItem { verb: patch(&id, 1, r#"{"owner":"Bob"}"#) },
                BatchItem { verb: patch(&id, 2, second) },
                BatchItem { verb: Verb::Create { data: json(r#"{"owner":"C","email":"c@x"}"#) } },
            ],
        };
        let run = async |verb| base.run("teller", "Account", verb).await;
        for (second, code) in [
            (r#"{"overdraft":"-1"}"#, Code::ValidationFailed),
            (r#"{"status":"closed"}"#, Code::Forbidden),
            (r#"{"balance":"-1"}"#, Code::ValidationFailed),
        ] {
            let refused = run(batch(true, second)).await.unwrap_err();
            assert_eq!((refused.code, refused.item), (code, Some(1)), "{name}");
        }
        // Nothing of them was kept.
        let Answer::Batch(answers) = run(batch(false, r#"{"balance":"-1"}"#)).await.unwrap() else { panic!() };
        assert_eq!(row(answers[0].clone().unwrap()).version, Some(2), "{name}");
        assert_eq!(answers[1].clone().unwrap_err().code, Code::ValidationFailed, "{name}");
        assert!(row(answers[2].clone().unwrap()).created, "{name}");

        let several = Verb::Batch {
            atomic: true,
            items: vec![
                BatchItem { verb: patch(&id, 2, r#"{"owner":"Cat"}"#) },
                BatchItem { verb: patch(&id, 3, r#"{"owner":"Dan"}"#) },
            ],
        };
        let Answer::Batch(answers) = run(several).await.unwrap() else { panic!() };
        assert_eq!(row(answers[1].clone().unwrap()).version, Some(4), "{name}");
        let many = (0..1001).map(|_| BatchItem { verb: patch(&id, 2, "{}") }).collect();
        let refused = run(Verb::Batch { atomic: true, items: many }).await.unwrap_err();
        assert_eq!(refused.code, Code::BadRequest);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_64_concurrent_writers_one_wins_per_version() {
    for base in Base::durable(BANK).await {
        let base = Arc::new(base);
        let id = base.account("a@x", "0").await;
        let mut tasks = Vec::new();
        for writer in 0..64 {
            let (base, id) = (Arc::clone(&base), id.clone());
            tasks.push(tokio::spawn(async move {
                let (mut wins, mut version) = (0, 1);
                for round in 0..4 {
                    let data = format!(r#"{{"owner":"{writer} {round}"}}"#);
                    match base.patch("teller", "Account", &id, version, &data).await {
                        Ok(row) => {
                            wins += 1;
                            version = row.version.unwrap();
                        }
                        Err(failure) => {
                            assert_eq!(failure.code, Code::VersionMismatch, "{failure:?}");
                            assert!(failure.current_version.unwrap() > version);
                            version = failure.current_version.unwrap();
                        }
                    }
                }
                wins
            }));
        }
        let mut wins = 0;
        for task in tasks {
            wins += task.await.unwrap();
        }
        let last = base.patch("teller", "Account", &id, -1, "{}").await.unwrap();
        assert_eq!(last.version, Some(1 + wins), "{}", base.name);
        assert!(wins >= 4);
    }
}

#[tokio::test]
async fn a_dropped_mutation_runs_to_its_end() {
    for base in Base::durable(BANK).await {
        let id = base.account("a@x", "0").await;
        {
            let mut write = Box::pin(base.patch("teller", "Account", &id, 1, r#"{"owner":"Bob"}"#));
            // Done at once if the writer's thread is quick, which is as good.
            pending(write.as_mut()).await;
        }
        base.engine.close().await;
        assert_eq!(base.patch("teller", "Account", &id, 1, "{}").await.unwrap_err().code, Code::Unavailable);
        let owner = if let Some(database) = &base.postgres {
            let row = sqlx::query("SELECT owner FROM accounts").fetch_one(&mut database.connect().await).await.unwrap();
            sqlx::Row::get::<String, _>(&row, 0)
        } else {
            let path = base.directory.as_ref().unwrap().path().join("test.db");
            let connection = rusqlite::Connection::open(path).unwrap();
            connection.query_row("SELECT owner FROM accounts", [], |row| row.get(0)).unwrap()
        };
        assert_eq!(owner, "Bob", "{}", base.name);
    }
}

#[tokio::test]
async fn a_lost_connection_leaves_the_outcome_of_a_mutation_unknown() {
    let Some(base) = Base::postgres(BANK).await else { return };
    let id = base.account("a@x", "0").await;
    let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'cratestack' AND \
                datname = current_database()";
    sqlx::query(kill).execute(&mut base.postgres.as_ref().unwrap().connect().await).await.unwrap();
    let lost = base.patch("teller", "Account", &id, 1, r#"{"owner":"Bob"}"#).await.unwrap_err();
    assert_eq!(lost.code, Code::Unavailable);
    assert!(lost.detail.contains("the outcome is unknown"), "{}", lost.detail);
    base.patch("teller", "Account", &id, 1, r#"{"owner":"Bob"}"#).await.unwrap();
}

#[tokio::test]
async fn a_write_is_one_statement_and_one_round_trip() {
    one_round_trip(BANK).await;
}

#[tokio::test]
async fn a_write_with_its_audit_event_is_one_statement_and_one_round_trip() {
    one_round_trip(&BANK.replace("  @@soft_delete\n", "  @@soft_delete\n  @@audit\n")).await;
}

#[tokio::test]
async fn a_write_with_its_event_of_the_outbox_is_one_statement_and_one_round_trip() {
    let emits = "  @@soft_delete\n  @@audit\n  @@emit(created, updated, deleted)\n";
    one_round_trip(&BANK.replace("  @@soft_delete\n", emits)).await;
}

async fn one_round_trip(text: &str) {
    let Some(mut base) = Base::postgres(text).await else { return };
    let proxy = Proxy::before(base.postgres.as_ref().unwrap()).await;
    let schema = Arc::clone(base.engine.schema());
    base.engine = Engine::open(schema, &Database::Postgres(proxy.url.clone()), fixed()).await.unwrap();
    base.create("teller", "Customer", r#"{"id":1,"name":"C"}"#).await.unwrap();
    let data = |email: &str| format!(r#"{{"owner":"A","email":"{email}","customerId":1}}"#);
    let id = base.create("teller", "Account", &data("a@x")).await.unwrap().key.remove(0);
    base.patch("teller", "Account", &id, 1, r#"{"owner":"B"}"#).await.unwrap();
    base.delete("manager", "Account", &id, 2).await.unwrap();
    base.restore("manager", "Account", &id, 3).await.unwrap();

    // Everything is prepared now.
    let count = || (base.engine.statistics().statements(), proxy.trips());
    let mut before = count();
    let mut cost = || {
        let now = count();
        let cost = (now.0 - before.0, now.1 - before.1);
        before = now;
        cost
    };
    base.create("teller", "Account", &data("b@x")).await.unwrap();
    assert_eq!(cost(), (1, 1), "create");
    base.patch("teller", "Account", &id, 4, r#"{"owner":"C"}"#).await.unwrap();
    assert_eq!(cost(), (1, 1), "patch");
    base.delete("manager", "Account", &id, 5).await.unwrap();
    assert_eq!(cost(), (1, 1), "tombstone");
    base.restore("manager", "Account", &id, 6).await.unwrap();
    assert_eq!(cost(), (1, 1), "restore");
    base.patch("teller", "Account", &id, 1, r#"{"owner":"C"}"#).await.unwrap_err();
    assert_eq!(cost().0, 2, "a refusal and its diagnosis");
    base.patch("teller", "Account", &id, 1, r#"{"owner":"C"}"#).await.unwrap_err();
    assert_eq!(cost(), (2, 2), "a refusal and its diagnosis, prepared");
    base.patch("teller", "Account", &id, 0, r#"{"owner":"C"}"#).await.unwrap_err();
    base.patch("teller", "Account", "no-uuid", 1, r#"{"owner":"C"}"#).await.unwrap_err();
    assert_eq!(cost(), (0, 0), "what needs no row asks for none");
}

#[tokio::test]
async fn a_read_survives_lost_connections() {
    let Some(base) = Base::postgres(BANK).await else { return };
    let id = base.account("a@x", "0").await;
    let read = || base.run("teller", "Account", Verb::Read { key: split(&id), params: Vec::new() });
    let (one, two) = tokio::join!(read(), read());
    one.and(two).unwrap();
    let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'cratestack' AND \
                datname = current_database()";
    sqlx::query(kill).execute(&mut base.postgres.as_ref().unwrap().connect().await).await.unwrap();
    assert_eq!(row(read().await.unwrap()).version, Some(1));
}

/// Children come and go under a parent that becomes a tombstone and comes back: no live child is ever left under it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_row_is_born_under_a_tombstone() {
    for base in Base::durable(BANK).await {
        let base = Arc::new(base);
        base.create("manager", "Customer", r#"{"id":1,"name":"C"}"#).await.unwrap();
        let mut tasks = Vec::new();
        for writer in 0..6 {
            let base = Arc::clone(&base);
            tasks.push(tokio::spawn(async move {
                for round in 0..12 {
                    let data = format!(r#"{{"owner":"A","email":"{writer} {round}@x","customerId":1}}"#);
                    match base.create("teller", "Account", &data).await {
                        Ok(row) => {
                            // Reaches for the parent again while others change it.
                            let patch = r#"{"customerId":1,"owner":"B"}"#;
                            if let Err(failure) = base.patch("teller", "Account", &row.key[0], -1, patch).await {
                                let gone = [Code::NotFound, Code::ValidationFailed];
                                assert!(gone.contains(&failure.code), "{failure:?}");
                            }
                        }
                        Err(failure) => assert_eq!(failure.code, Code::ValidationFailed, "{failure:?}"),
                    }
                }
            }));
        }
        for _ in 0..6 {
            base.delete("manager", "Customer", "1", -1).await.unwrap();
            tokio::task::yield_now().await;
            base.restore("manager", "Customer", "1", -1).await.unwrap();
            tokio::task::yield_now().await;
        }
        base.delete("manager", "Customer", "1", -1).await.unwrap();
        for task in tasks {
            task.await.unwrap();
        }
        let Answer::Page { total, .. } = base
            .run("manager", "Account", Verb::List { params: vec![("count".to_owned(), "exact".to_owned())] })
            .await
            .unwrap()
        else {
            panic!()
        };
        assert_eq!(total, Some(0), "{}", base.name);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_that_block_each_other_run_again() {
    for base in Base::durable(BANK).await {
        let base = Arc::new(base);
        let (one, two) = (base.account("1@x", "0").await, base.account("2@x", "0").await);
        let mut tasks = Vec::new();
        for writer in 0..3 {
            let base = Arc::clone(&base);
            let (first, second) = if writer % 2 == 0 { (one.clone(), two.clone()) } else { (two.clone(), one.clone()) };
            tasks.push(tokio::spawn(async move {
                let data = format!(r#"{{"owner":"{writer}"}}"#);
                let items = [first, second].map(|key| BatchItem { verb: patch(&key, -1, &data) });
                base.run("teller", "Account", Verb::Batch { atomic: true, items: items.into() }).await
            }));
        }
        for task in tasks {
            task.await.unwrap().unwrap();
        }
        for key in [&one, &two] {
            assert_eq!(base.patch("teller", "Account", key, -1, "{}").await.unwrap().version, Some(4), "{}", base.name);
        }
    }
}

#[tokio::test]
async fn credentials_that_lack_what_a_row_takes_from_them() {
    let text = r#"
        auth Principal { id String @id  branch String? }
        model Note {
          id     Int @id
          branch String @default(auth().branch)
          text   String?
          @@allow("all", true)
        }"#;
    for base in Base::all(text).await {
        let model = base.engine.schema().model_named("Note").unwrap();
        let create = |principal| {
            let caller = Caller {
                principal,
                authority: Authority::Rules,
                request_id: String::new(),
                deadline: Duration::from_secs(5),
                origin: Origin::default(),
            };
            let operation = Operation { model, verb: Verb::Create { data: json(r#"{"id":1}"#) } };
            let engine = base.engine.clone();
            async move { engine.run(&caller, operation).await }
        };
        let without = base.engine.principal(&json(r#"{"id":"ann"}"#)).unwrap();
        let with = base.engine.principal(&json(r#"{"id":"ann","branch":"north"}"#)).unwrap();
        assert_eq!(create(None).await.unwrap_err().code, Code::Unauthenticated, "{}", base.name);
        assert_eq!(create(Some(without)).await.unwrap_err().code, Code::Forbidden, "{}", base.name);
        let body = row(create(Some(with)).await.unwrap()).body.unwrap();
        assert_eq!(body, r#"{"id":1,"branch":"north","text":null}"#, "{}", base.name);
    }
}

#[tokio::test]
async fn values_that_the_database_makes() {
    let text = r#"
        model Note {
          id    Int    @id @default(autoincrement())
          label String @default(dbgenerated("upper('abc')"))
          tag   Cuid   @default(cuid())
          tags  String[]
          @@allow("read", true)
          @@allow("create", label == "ABC")
          @@deny("create", label != "ABC")
        }
        model Empty {
          id Int @id @default(autoincrement())
          @@allow("all", true)
        }"#;
    for base in Base::all(text).await {
        let first = base.create("", "Note", "{}").await.unwrap();
        assert_eq!(first.key, ["1"], "{}", base.name);
        let row = members(&first);
        assert_eq!((row["label"].as_str(), row["tags"].to_string().as_str()), (Some("ABC"), "[]"), "{}", base.name);
        assert_eq!(base.create("", "Note", r#"{"tags":["a","b"]}"#).await.unwrap().key, ["2"], "{}", base.name);
        assert_eq!(base.create("", "Empty", "{}").await.unwrap().body.as_deref(), Some(r#"{"id":1}"#), "{}", base.name);
    }
}

#[tokio::test]
async fn a_filter_over_the_caller_is_worked_out_for_each_caller() {
    // No rule tells these callers apart, so that nothing but the filter itself can keep their statements apart.
    let text = r#"
        auth Principal { id String @id  level Int?  roles String[] }
        model Note {
          id Int @id
          @@allow("all", true)
        }"#;
    for base in Base::all(text).await {
        let model = base.engine.schema().model_named("Note").unwrap();
        base.create("", "Note", r#"{"id":3}"#).await.unwrap();
        let list = |claims: &'static str, filter: &'static str| {
            let principal = (!claims.is_empty()).then(|| base.engine.principal(&json(claims)).unwrap());
            let caller = Caller {
                principal,
                authority: Authority::Rules,
                request_id: String::new(),
                deadline: Duration::from_secs(5),
                origin: Origin::default(),
            };
            let params = vec![("where".to_owned(), filter.to_owned())];
            let engine = base.engine.clone();
            async move {
                match engine.run(&caller, Operation { model, verb: Verb::List { params } }).await.unwrap() {
                    Answer::Page { items, .. } => items != "[]",
                    other => panic!("{other:?}"),
                }
            }
        };
        let (ann, bob) = (r#"{"id":"ann","level":3,"roles":["x"]}"#, r#"{"id":"bob","roles":[]}"#);
        for filter in
            ["auth().id == \"ann\"", "auth().level == id", "auth().hasRole(\"x\")", "auth() != null && id != 1"]
        {
            for (claims, expected) in [(ann, true), (bob, filter.starts_with("auth() ")), ("", false), (ann, true)] {
                assert_eq!(list(claims, filter).await, expected, "{}: {filter} as {claims}", base.name);
            }
        }
    }
}

#[tokio::test]
async fn numbers_of_json_that_are_written_otherwise_are_a_change() {
    let text = "model Note {\n  id Int @id\n  data Json?\n  version Int @version\n  @@allow(\"all\", true)\n}";
    for base in Base::all(text).await {
        base.create("", "Note", r#"{"id":1,"data":[1,{"a":0}]}"#).await.unwrap();
        for (version, data, next) in [(1, "[1,{\"a\":0}]", 1), (1, "[1.0,{\"a\":0}]", 2), (2, "[1.0,{\"a\":0.0}]", 3)] {
            let row = base.patch("", "Note", "1", version, &format!("{{\"data\":{data}}}")).await.unwrap();
            assert_eq!(row.version, Some(next), "{}: {data}", base.name);
            assert!(row.body.unwrap().contains(data), "{}", base.name);
        }
    }
}

#[tokio::test]
async fn keys_and_indexed_values_are_as_long_on_one_database_as_on_the_other() {
    // Nothing that a compression would shorten.
    let noise = |length: usize| -> String {
        let mut seed = 1_u32;
        let next = |()| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            char::from(b'!' + (seed >> 24) as u8 % 90)
        };
        std::iter::repeat_n((), length).map(next).filter(|c| !matches!(c, '"' | '\\')).collect::<String>()
    };
    let text = r#"
        model Note {
          a     String
          b     Int
          email String? @unique
          body  String?
          tag   String?
          blob  Bytes?
          @@id([a, b])
          @@index([tag, blob, b])
          @@allow("all", true)
        }"#;
    for base in Base::all(text).await {
        let mut made = 0;
        let mut create = async |member: &str, value: String| {
            made += 1;
            let (key, more) = if member == "a" {
                (value, String::new())
            } else {
                (made.to_string(), format!(",\"{member}\":\"{value}\""))
            };
            base.create("", "Note", &format!("{{\"a\":\"{key}\",\"b\":{made}{more}}}")).await.map(|_| ())
        };
        for (member, most) in [("a", 2552), ("email", 2576), ("tag", 1264)] {
            let longest = noise(3000)[..most].to_owned();
            create(member, longest.clone())
                .await
                .unwrap_or_else(|failure| panic!("{}: {member}: {failure:?}", base.name));
            let failure = create(member, longest + "x").await.unwrap_err();
            let pointer = format!("#/{member}");
            assert_eq!(codes(&failure), [(pointer.as_str(), "too_long")], "{}", base.name);
            assert!(failure.errors[0].detail.contains(&most.to_string()));
        }
        // Both of an index at their longest; and what is in none has no such limit.
        let (tag, blob) = (&noise(3000)[..1264], "BqZ7".repeat(421));
        let both = format!(r#"{{"a":"both","b":1,"tag":"{tag}","blob":"{blob}"}}"#);
        base.create("", "Note", &both).await.unwrap();
        create("body", noise(100_000)).await.unwrap();
    }
}

/// A generator of choices, the same for the same seed.
struct Choices(u64);

impl Choices {
    fn below(&mut self, limit: usize) -> usize {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from(self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33).unwrap() % limit
    }

    fn of<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list[self.below(list.len())]
    }

    /// An operation on the bank, as likely refused as not.
    fn operation(&mut self) -> (&'static str, &'static str, Verb) {
        let who = self.of(&["teller", "teller", "manager", "manager", "teller@t2", ""]);
        let model = self.of(&["Customer", "Account", "Account", "Account", "Entry", "Note"]);
        let key = match model {
            "Customer" => self.of(&["1", "2", "3"]).to_owned(),
            "Account" => format!("00000000-0000-7000-8000-00000000aaa{}", self.below(4)),
            "Entry" => self.of(&["1", "2", "3", "4", "5", "6"]).to_owned(),
            _ => format!("{}/{}", self.below(2), self.of(&["a", "b"])),
        };
        let expected = at([-1, -1, 0, 1, 2, 3, 4][self.below(7)]);
        let verb = match self.below(12) {
            0..4 => Verb::Create { data: json(&self.row(model, &key)) },
            4..7 => Verb::Patch { key: split(&key), expected, data: json(&self.changes(model)) },
            9 if matches!(model, "Customer" | "Account") => Verb::Restore { key: split(&key), expected },
            // Numbers that a transaction has drawn are gone on PostgreSQL, and come again on SQLite.
            10..12 if model != "Entry" => self.batch(&key, model),
            _ => Verb::Delete { key: split(&key), expected },
        };
        (who, model, verb)
    }

    fn batch(&mut self, key: &str, model: &str) -> Verb {
        let items = (0..=self.below(3)).map(|_| match self.below(3) {
            0 => Verb::Create { data: json(&self.row(model, key)) },
            1 => Verb::Patch { key: split(key), expected: Expected::Any, data: json(&self.changes(model)) },
            _ => Verb::Delete { key: split(key), expected: Expected::Any },
        });
        let items = items.map(|verb| BatchItem { verb }).collect();
        Verb::Batch { atomic: self.below(2) == 0, items }
    }

    fn row(&mut self, model: &str, key: &str) -> String {
        match model {
            "Customer" => format!(r#"{{"id":{key},"name":"C"}}"#),
            "Account" => format!(
                r#"{{"id":"{key}","owner":"Ann","email":"{}@x","balance":"{}","customerId":{}}}"#,
                self.below(3),
                self.of(&["0", "1.5", "-1"]),
                self.of(&["1", "2", "3", "null", "null"])
            ),
            "Entry" => {
                format!(r#"{{"accountId":"00000000-0000-7000-8000-00000000aaa{}","amount":"1"}}"#, self.below(4))
            }
            _ => {
                let (a, b) = key.split_once('/').unwrap();
                format!(r#"{{"a":{a},"b":"{b}"}}"#)
            }
        }
    }

    fn changes(&mut self, model: &str) -> String {
        match model {
            "Account" => self.of(&[
                "{}",
                r#"{"owner":"Ann"}"#,
                r#"{"owner":"Bob"}"#,
                r#"{"balance":"0","overdraft":"0"}"#,
                r#"{"balance":"-2","overdraft":"2"}"#,
                r#"{"balance":"-2"}"#,
                r#"{"status":"closed"}"#,
                r#"{"status":"open","customerId":1}"#,
                r#"{"customerId":2}"#,
                r#"{"customerId":null,"email":"1@x"}"#,
            ]),
            "Customer" => self.of(&["{}", r#"{"name":"D"}"#, r#"{"id":1}"#]),
            "Note" => self.of(&["{}", r#"{"text":"t"}"#, r#"{"text":null}"#]),
            _ => r#"{"amount":"2"}"#,
        }
        .to_owned()
    }
}

/// What callers see of an answer: everything but the text for the log.
fn seen(answer: Result<Answer, Failure>) -> String {
    let clean = |failure: Failure| Failure { internal: None, ..failure };
    let answer = answer.map_err(clean).map(|answer| match answer {
        Answer::Batch(items) => Answer::Batch(items.into_iter().map(|item| item.map_err(clean)).collect()),
        answer => answer,
    });
    format!("{answer:?}")
}

#[tokio::test]
async fn both_databases_answer_any_history_alike() {
    let Some(postgres) = Base::postgres(BANK).await else { return };
    let memory = Base::memory(BANK).await;
    let mut choices = Choices(0x5EED);
    let mut codes: BTreeMap<String, usize> = BTreeMap::new();
    for step in 0..1500 {
        let (who, model, verb) = choices.operation();
        let one = memory.run(who, model, verb.clone()).await;
        let two = postgres.run(who, model, verb.clone()).await;
        if let Err(failure) = &one {
            assert!(
                !matches!(failure.code, Code::Internal | Code::Unavailable | Code::TransactionAborted),
                "{failure:?}"
            );
        }
        *codes
            .entry(one.as_ref().map_or_else(|failure| format!("{:?}", failure.code), |_| "ok".to_owned()))
            .or_default() += 1;
        assert_eq!(seen(one), seen(two), "step {step}: {who} {model} {verb:?}");
    }
    // The histories are worth something: every kind of answer was among them.
    for code in [
        "ok",
        "NotFound",
        "Forbidden",
        "Unauthenticated",
        "VersionMismatch",
        "VersionRequired",
        "ValidationFailed",
        "UniqueViolation",
        "ForeignKeyViolation",
    ] {
        assert!(codes.get(code).is_some_and(|count| *count > 3), "{code}: {codes:?}");
    }
}

#[tokio::test]
async fn every_objection_is_named_and_not_the_first_alone() {
    let text = r#"
        model Thing {
          id    Int    @id
          a     String? @unique
          b     String?
          c     String?
          low   Int    @default(1)
          high  Int    @default(9)
          state String @default("on")
          @@unique([b, c])
          @@unique([high], where: state == "on", name: "one_on")
          @@check(low >= 0, "too low", name: "zzz_low")
          @@check(high <= 9, "too high", name: "aaa_high")
          @@check(low == high || low < high, "out of order", name: "order")
          @@allow("all", true)
        }"#;
    for base in Base::all(text).await {
        let name = base.name;
        base.create("", "Thing", r#"{"id":1,"a":"a","b":"b","c":"c"}"#).await.unwrap();
        base.create("", "Thing", r#"{"id":2,"high":8}"#).await.unwrap();
        let row = r#"{"id":1,"a":"a","b":"b","c":"c"}"#;
        let all =
            vec![("#/id", "unique"), ("#/a", "unique"), ("#/b", "unique"), ("#/c", "unique"), ("#/high", "unique")];
        let taken = base.create("", "Thing", row).await.unwrap_err();
        assert_eq!((taken.code, codes(&taken)), (Code::UniqueViolation, all), "{name}");
        assert_eq!(
            taken.detail,
            "another row has the same `id`; another has the same `a`; another has the same `b`, `c`; another has the same `high`"
        );
        // A row does not stand in its own way, nor does one that the condition leaves out.
        base.patch("", "Thing", "1", 0, r#"{"c":"d"}"#).await.unwrap();
        base.create("", "Thing", r#"{"id":3,"state":"off"}"#).await.unwrap();
        let taken = base.patch("", "Thing", "2", 0, r#"{"a":"a","high":9}"#).await.unwrap_err();
        assert_eq!(codes(&taken), [("#/a", "unique"), ("#/high", "unique")], "{name}");

        let broken = base.patch("", "Thing", "1", 0, r#"{"low":-1,"high":10}"#).await.unwrap_err();
        assert_eq!(
            (broken.code, codes(&broken)),
            (Code::ValidationFailed, vec![("#", "zzz_low"), ("#", "aaa_high")]),
            "{name}"
        );
        assert_eq!(broken.detail, "too low; too high", "{name}");
        let batch = |atomic| Verb::Batch { atomic, items: vec![BatchItem { verb: Verb::Create { data: json(row) } }] };
        let atomic = base.run("", "Thing", batch(true)).await.unwrap_err();
        let Answer::Batch(items) = base.run("", "Thing", batch(false)).await.unwrap() else { panic!() };
        for refused in [&atomic, items[0].as_ref().unwrap_err()] {
            assert_eq!(codes(refused), [("#/id", "unique"), ("#/a", "unique"), ("#/high", "unique")], "{name}");
        }
    }
}

#[tokio::test]
async fn a_table_may_have_the_name_of_an_alias() {
    let text = r#"
        model Parent { id Int @id  secret Boolean  children Child[]  @@allow("all", true)  @@map("r") }
        model Child {
          id       Int @id
          parentId Int
          parent   Parent @relation(fields: [parentId], references: [id])
          @@map("T1")
          @@allow("read", !parent.secret)
          @@allow("create", true)
        }"#;
    for base in Base::all(text).await {
        base.create("", "Parent", r#"{"id":1,"secret":true}"#).await.unwrap();
        base.create("", "Parent", r#"{"id":2,"secret":false}"#).await.unwrap();
        for (id, parent, seen) in [(1, 1, false), (2, 2, true)] {
            let child = base.create("", "Child", &format!(r#"{{"id":{id},"parentId":{parent}}}"#)).await.unwrap();
            assert_eq!(child.body.is_some(), seen, "{}", base.name);
        }
    }
}

#[tokio::test]
async fn products_of_the_longest_decimals_are_exact() {
    let text = "model Note {\n  id Int @id\n  d Decimal\n  @@allow(\"all\", true)\n}";
    for base in Base::all(text).await {
        let longest = format!("{}.{}", "9".repeat(1000), "9".repeat(1000));
        for (id, d) in [(1, longest.as_str()), (2, "1"), (3, &format!("-0.{}1", "0".repeat(999)))] {
            base.create("", "Note", &format!(r#"{{"id":{id},"d":"{d}"}}"#)).await.unwrap();
        }
        for (filter, expected) in [
            ("d * d * d * d == d", r#"[{"id":2}]"#),
            ("d * d * d - d > 1", r#"[{"id":1}]"#),
            ("d * d * d < 0", r#"[{"id":3}]"#),
        ] {
            let params = [("where", filter), ("fields", "id")].map(|(name, value)| (name.to_owned(), value.to_owned()));
            match base.run("", "Note", Verb::List { params: params.to_vec() }).await.unwrap() {
                Answer::Page { items, .. } => assert_eq!(items, expected, "{}: {filter}", base.name),
                other => panic!("{other:?}"),
            }
        }
    }
}

#[tokio::test]
async fn what_a_foreign_key_does_to_a_row_moves_its_version() {
    let text = r#"
        model Parent {
          id       Int     @id
          code     String? @unique
          children Child[] @relation(name: "id")
          coded    Child[] @relation(name: "code")
          @@allow("all", true)
        }
        model Child {
          id        Int      @id
          parentId  Int?
          code      String?
          updatedAt DateTime @updatedAt
          version   Int      @version
          parent    Parent?  @relation(name: "id", fields: [parentId], references: [id], onDelete: SetNull)
          coded     Parent?  @relation(name: "code", fields: [code], references: [code], onUpdate: Cascade, onDelete: SetNull)
          children  Grand[]
          @@unique([id, code])
          @@allow("all", true)
        }
        model Grand {
          id      Int    @id
          childId Int
          code    String
          version Int    @version
          child   Child  @relation(fields: [childId, code], references: [id, code], onUpdate: Cascade)
          @@allow("all", true)
        }"#;
    for base in Base::all(text).await {
        let name = base.name;
        base.create("", "Parent", r#"{"id":1,"code":"a"}"#).await.unwrap();
        base.create("", "Parent", r#"{"id":2,"code":"z"}"#).await.unwrap();
        base.create("", "Child", r#"{"id":1,"parentId":2,"code":"a"}"#).await.unwrap();
        base.create("", "Child", r#"{"id":2,"parentId":1}"#).await.unwrap();
        base.create("", "Grand", r#"{"id":1,"childId":1,"code":"a"}"#).await.unwrap();
        let version = async |model, key: &str| base.patch("", model, key, -1, "{}").await.unwrap().version.unwrap();
        // Along a chain, each row once; those that nothing happens to stay.
        base.patch("", "Parent", "1", 0, r#"{"code":"b"}"#).await.unwrap();
        assert_eq!(
            [version("Child", "1").await, version("Child", "2").await, version("Grand", "1").await],
            [2, 1, 2],
            "{name}"
        );
        base.delete("", "Parent", "2", 0).await.unwrap();
        assert_eq!([version("Child", "1").await, version("Child", "2").await], [3, 1], "{name}");
        let stale = base.patch("", "Child", "1", 2, r#"{"code":null}"#).await.unwrap_err();
        assert_eq!((stale.code, stale.current_version), (Code::VersionMismatch, Some(3)), "{name}");
        let row = base.patch("", "Child", "2", 1, r#"{"parentId":null,"code":"b"}"#).await.unwrap();
        assert_eq!(row.version, Some(2), "{name}: the engine's own patch counts once");
    }
}

#[tokio::test]
async fn an_atomic_batch_that_failed_is_explained_without_its_own_rows() {
    let text = "model Thing {\n  id Int @id\n  a Int? @unique\n  b Int? @unique\n  @@allow(\"all\", true)\n}";
    for base in Base::all(text).await {
        let create = |data: &str| BatchItem { verb: Verb::Create { data: json(data) } };
        base.create("", "Thing", r#"{"id":1,"a":1}"#).await.unwrap();
        let items = vec![create(r#"{"id":2,"a":2,"b":2}"#), create(r#"{"id":1,"a":3,"b":2}"#)];
        let each = base.run("", "Thing", Verb::Batch { atomic: false, items: items.clone() }).await.unwrap();
        let Answer::Batch(each) = each else { panic!() };
        assert_eq!(codes(each[1].as_ref().unwrap_err()), [("#/id", "unique"), ("#/b", "unique")], "{}", base.name);
        base.delete("", "Thing", "2", 0).await.unwrap();
        // Nothing of it has happened, so that one row alone stands in the way.
        let all = base.run("", "Thing", Verb::Batch { atomic: true, items }).await.unwrap_err();
        assert_eq!((codes(&all), all.item), (vec![("#/id", "unique")], Some(1)), "{}", base.name);
    }
}

#[tokio::test]
async fn batches_in_opposite_orders_do_not_stand_in_each_others_way() {
    let text = r#"
        enum Kind { one two @map("TWO") }
        auth Principal { id String @id  role String  tenantId String @tenant }
        model Thing {
          s       String
          i       Int
          u       Uuid
          d       Date
          at      DateTime
          kind    Kind
          text    String?
          owner   String @default(auth().tenantId)
          version Int    @version
          @@id([s, i, u, d, at, kind])
          @@allow("all", owner == auth().tenantId)
        }"#;
    let key = |i: usize| {
        let u = "00000000-0000-7000-8000-000000000001";
        [
            format!("{}é", 9 - i),
            i.to_string(),
            u.to_owned(),
            "2026-01-31".to_owned(),
            NOW_TEXT.to_owned(),
            "two".to_owned(),
        ]
    };
    for base in Base::durable(text).await {
        for i in 0..4 {
            let [s, i, u, d, at, kind] = key(i);
            let row = format!(r#"{{"s":"{s}","i":{i},"u":"{u}","d":"{d}","at":"{at}","kind":"{kind}"}}"#);
            base.create("teller", "Thing", &row).await.unwrap();
        }
        let batch = |order: Vec<usize>, round: usize| {
            let item = |i: &usize| BatchItem {
                verb: patch(&key(*i).join("/"), -1, &format!(r#"{{"text":"{order:?}{round}"}}"#)),
            };
            Verb::Batch { atomic: true, items: order.iter().map(item).collect() }
        };
        // A deadlock would take a second each, and more clients than tries run into it at once.
        let begun = Instant::now();
        let clients = (0..12).map(|client: usize| {
            let order: Vec<usize> = if client.is_multiple_of(2) { vec![0, 1, 2, 3] } else { vec![3, 2, 1, 0] };
            let (base, batch) = (&base, &batch);
            async move {
                for round in 0..5 {
                    base.run("teller", "Thing", batch(order.clone(), client * 10 + round)).await.unwrap();
                }
            }
        });
        futures_util::future::join_all(clients).await;
        assert!(begun.elapsed() < Duration::from_secs(10), "{}: {:?}", base.name, begun.elapsed());
        for i in 0..4 {
            let row = base.patch("teller", "Thing", &key(i).join("/"), -1, "{}").await.unwrap();
            assert_eq!(row.version, Some(61), "{}", base.name);
        }
        // Rows of another tenant are neither changed nor waited for.
        if let Some(database) = &base.postgres {
            let mut beside = database.connect().await;
            sqlx::query("BEGIN").execute(&mut beside).await.unwrap();
            sqlx::query("SELECT 1 FROM things FOR UPDATE").execute(&mut beside).await.unwrap();
            let refused = base.run("teller@t2", "Thing", batch(vec![0, 1], 0)).await.unwrap_err();
            assert_eq!((refused.code, refused.item), (Code::NotFound, Some(0)));
        }
    }
}
