//! The engine's writes and the DDL's triggers together: soft deletion, restoration and foreign keys.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::api::{Answer, Authority, Caller, Code, Expected, Failure, Operation, Origin, Row, Verb};
use crate::json;
use crate::predicate::register_functions;
use crate::{Database, Engine, Options};

/// An engine, and a way round it.
struct Bank {
    engine: Engine,
    base: Base,
    _directory: tempfile::TempDir,
}

impl Bank {
    async fn both(text: &str) -> Vec<Self> {
        let schema = Arc::new(compiled(text));
        let mut all = Vec::new();
        for base in Base::both().await {
            let directory = tempfile::tempdir().unwrap();
            let (database, mut base) = match base {
                Base::Sqlite(_) => {
                    let path = directory.path().join("bank.db");
                    let connection = Connection::open(&path).unwrap();
                    register_functions(&connection).unwrap();
                    connection.busy_timeout(Duration::from_secs(10)).unwrap();
                    connection.execute_batch("PRAGMA foreign_keys = ON; PRAGMA recursive_triggers = ON").unwrap();
                    (Database::SqliteFile(path), Base::Sqlite(connection))
                }
                Base::Postgres(connection, database) => {
                    (Database::Postgres(database.url.clone()), Base::Postgres(connection, database))
                }
            };
            base.apply(&schema).await;
            let engine = Engine::open(Arc::clone(&schema), &database, Options::default()).await.unwrap();
            all.push(Self { engine, base, _directory: directory });
        }
        all
    }

    fn seat(&self) -> Seat {
        Seat { engine: self.engine.clone() }
    }

    async fn end(self) {
        self.engine.close().await;
    }
}

/// Somebody who writes.
#[derive(Clone)]
struct Seat {
    engine: Engine,
}

impl Seat {
    async fn run(&self, model: &str, verb: Verb) -> Result<Answer, Failure> {
        let caller = Caller {
            principal: None,
            authority: Authority::Rules,
            request_id: "r".to_owned(),
            deadline: Duration::from_secs(30),
            origin: Origin::default(),
        };
        let model = self.engine.schema().model_named(model).unwrap();
        self.engine.run(&caller, Operation { model, verb }).await
    }

    async fn create(&self, model: &str, data: &str) -> Result<Row, Failure> {
        let data = json::parse(data.as_bytes(), 64).unwrap();
        self.run(model, Verb::Create { data }).await.map(row)
    }

    async fn patch(&self, model: &str, key: &str, data: &str) -> Result<Row, Failure> {
        let data = json::parse(data.as_bytes(), 64).unwrap();
        self.run(model, Verb::Patch { key: keys(key), expected: Expected::Any, data }).await.map(row)
    }

    async fn delete(&self, model: &str, key: &str) -> Result<Option<i64>, Failure> {
        match self.run(model, Verb::Delete { key: keys(key), expected: Expected::Any }).await? {
            Answer::Deleted { version } => Ok(version),
            other => panic!("{other:?}"),
        }
    }

    async fn restore(&self, model: &str, key: &str) -> Result<Row, Failure> {
        self.run(model, Verb::Restore { key: keys(key), expected: Expected::Any }).await.map(row)
    }
}

fn row(answer: Answer) -> Row {
    match answer {
        Answer::Row(row) => row,
        other => panic!("{other:?}"),
    }
}

fn keys(key: &str) -> Vec<String> {
    key.split('/').map(str::to_owned).collect()
}

/// Code, sentence and pointers of a refusal.
fn told<T: std::fmt::Debug>(result: Result<T, Failure>) -> String {
    let failure = result.unwrap_err();
    let errors: Vec<String> = failure.errors.iter().map(|error| format!("{} {}", error.pointer, error.code)).collect();
    format!("{:?}: {} [{}]", failure.code, failure.detail, errors.join(", "))
}

const FAMILIES: &str = r#"
model Parent {
  id       Int     @id
  version  Int     @version
  children Child[]
  guests   Guest[]
  @@soft_delete
  @@allow("all", true)
  @@allow("restore", true)
}
model Child {
  id       Int     @id
  name     String  @unique
  parentId Int?
  version  Int     @version
  touched  DateTime @updatedAt
  parent   Parent? @relation(fields: [parentId], references: [id], onDelete: Cascade)
  @@soft_delete
  @@allow("all", true)
  @@allow("restore", true)
}
model Guest {
  id       Int     @id
  parentId Int?
  parent   Parent? @relation(fields: [parentId], references: [id], onDelete: SetNull)
  @@allow("all", true)
}
model Line {
  id       BigInt  @id @default(autoincrement())
  text     String  @unique
  @@append_only
  @@allow("read", true)
  @@allow("create", true)
}
"#;

#[tokio::test]
async fn refusals_of_triggers_are_answers() {
    for mut bank in Bank::both(FAMILIES).await {
        let seat = bank.seat();
        seat.create("Parent", r#"{"id": 1}"#).await.unwrap();
        seat.create("Child", r#"{"id": 1, "name": "ann", "parentId": 1}"#).await.unwrap();
        seat.create("Guest", r#"{"id": 1, "parentId": 1}"#).await.unwrap();
        seat.create("Line", r#"{"text": "a"}"#).await.unwrap();
        // A unique value in an append-only table, where on SQLite a trigger speaks.
        let taken = told(seat.create("Line", r#"{"text": "a"}"#).await);
        assert_eq!(taken, "UniqueViolation: another row has the same `text` [#/text unique]");

        // The version of a tombstone is its own; the child's moved too.
        assert_eq!(seat.delete("Parent", "1").await.unwrap(), Some(2));
        let rows = "SELECT version, deletion_id = (SELECT deletion_id FROM parents) AS same, touched = deleted_at AS at FROM childs";
        let same = if bank.base.is_sqlite() { "2|1|1" } else { "2|true|true" };
        assert_eq!(bank.base.read(rows).await, same);
        assert_eq!(told(seat.delete("Child", "1").await), "NotFound: there is no row of `Child` with this key []");
        let dead = told(seat.restore("Child", "1").await);
        assert_eq!(dead, "ForeignKeyViolation: it refers to a row that is gone [#/parentId foreign_key]");
        for data in [r#"{"id": 2, "name": "bob", "parentId": 1}"#, r#"{"id": 2, "name": "bob", "parentId": 7}"#] {
            let nobody = told(seat.create("Child", data).await);
            assert_eq!(nobody, "ValidationFailed: 1 field is not valid [#/parentId reference_not_found]");
        }
        // A guest stays, and may go on without naming the parent again.
        seat.patch("Guest", "1", r#"{"parentId": 1}"#).await.unwrap_err();
        seat.patch("Guest", "1", r#"{"parentId": null}"#).await.unwrap();
        // A key is never used again, a unique value is; then the family cannot come back as it was.
        let used = told(seat.create("Parent", r#"{"id": 1}"#).await);
        assert_eq!(used, "UniqueViolation: another row has the same `id` [#/id unique]");
        seat.create("Child", r#"{"id": 2, "name": "ann"}"#).await.unwrap();
        assert_eq!(seat.restore("Parent", "1").await.unwrap_err().code, Code::UniqueViolation);
        assert_eq!(bank.base.read("SELECT count(*) FROM parents WHERE deleted_at IS NULL").await, "0");
        seat.delete("Child", "2").await.unwrap();
        assert_eq!(seat.restore("Parent", "1").await.unwrap().version, Some(3));
        assert_eq!(bank.base.read("SELECT id, version FROM childs WHERE deleted_at IS NULL").await, "1|3");
        assert_eq!(seat.restore("Parent", "1").await.unwrap_err().code, Code::NotFound);

        bank.end().await;
    }
}

#[tokio::test]
async fn a_real_deletion_names_the_model_that_stands_in_its_way() {
    let text = r#"
model Owner {
  id    Int    @id
  pets  Pet[]
  debts Debt[]
  @@allow("all", true)
}
model Pet {
  id      Int    @id
  ownerId Int
  owner   Owner  @relation(fields: [ownerId], references: [id], onDelete: Cascade)
  @@allow("all", true)
}
model Debt {
  id      Int    @id
  ownerId Int
  owner   Owner  @relation(fields: [ownerId], references: [id], onDelete: Restrict)
  @@allow("all", true)
}
"#;
    for bank in Bank::both(text).await {
        let seat = bank.seat();
        seat.create("Owner", r#"{"id": 1}"#).await.unwrap();
        seat.create("Pet", r#"{"id": 1, "ownerId": 1}"#).await.unwrap();
        seat.create("Debt", r#"{"id": 1, "ownerId": 1}"#).await.unwrap();
        let refused = told(seat.delete("Owner", "1").await);
        assert_eq!(refused, "ForeignKeyViolation: rows of `Debt` depend on this row []");
        seat.delete("Debt", "1").await.unwrap();
        seat.delete("Owner", "1").await.unwrap();
        assert_eq!(seat.delete("Pet", "1").await.unwrap_err().code, Code::NotFound);
        bank.end().await;
    }
}

const TREE: &str = r#"
model Node {
  tenant  String
  id      Int
  up      Int?
  version Int     @version
  parent  Node?   @relation(fields: [tenant, up], references: [tenant, id], onDelete: Cascade)
  nodes   Node[]
  @@id([tenant, id])
  @@soft_delete
  @@allow("all", true)
  @@allow("restore", true)
}
"#;

#[tokio::test]
async fn a_tree_too_deep_to_fall_is_a_refusal_and_stays_whole() {
    const DEPTH: i64 = 3000;
    for mut bank in Bank::both(TREE).await {
        let seat = bank.seat();
        let rows: Vec<String> = (1..=DEPTH)
            .map(|id| format!("('t', {id}, {})", if id == 1 { "NULL".to_owned() } else { (id - 1).to_string() }))
            .collect();
        bank.base.run(&format!("INSERT INTO nodes (tenant, id, up) VALUES {}", rows.join(", "))).await;
        let live = "SELECT count(*) FROM nodes WHERE deleted_at IS NULL";
        seat.delete("Node", &format!("t/{}", DEPTH - 200)).await.unwrap();
        assert_eq!(bank.base.read(live).await, (DEPTH - 201).to_string());
        seat.restore("Node", &format!("t/{}", DEPTH - 200)).await.unwrap();
        assert_eq!(bank.base.read(live).await, DEPTH.to_string());
        let refused = told(seat.delete("Node", "t/1").await);
        assert_eq!(refused, "ForeignKeyViolation: too many levels of rows depend on this row []");
        assert_eq!(bank.base.read(live).await, DEPTH.to_string());
        bank.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_races_no_live_child_has_a_dead_parent() {
    const ROUNDS: i64 = 150;
    for mut bank in Bank::both(FAMILIES).await {
        let seat = bank.seat();
        for parent in 1..=2 {
            seat.create("Parent", &format!(r#"{{"id": {parent}}}"#)).await.unwrap();
        }
        let work = |seat: Seat, worker: i64| async move {
            let mut codes = Vec::new();
            for round in 0..ROUNDS {
                let parent = (round + worker) % 2 + 1;
                let child = 100 * worker + round % 5;
                let name = format!("c{child}");
                let done = match (worker, round % 4) {
                    (0, _) => seat.delete("Parent", &parent.to_string()).await.map(|_| ()),
                    (1, _) => seat.restore("Parent", &parent.to_string()).await.map(|_| ()),
                    (_, 0) => {
                        let data = format!(r#"{{"id": {child}, "name": "{name}", "parentId": {parent}}}"#);
                        seat.create("Child", &data).await.map(|_| ())
                    }
                    (_, 1) => seat
                        .patch("Child", &child.to_string(), &format!(r#"{{"parentId": {parent}}}"#))
                        .await
                        .map(|_| ()),
                    (_, 2) => seat.delete("Child", &child.to_string()).await.map(|_| ()),
                    _ => seat.restore("Child", &child.to_string()).await.map(|_| ()),
                };
                codes.push(done.err().map(|failure| failure.code));
            }
            codes
        };
        let workers: Vec<_> = (0..6).map(|worker| tokio::spawn(work(seat.clone(), worker))).collect();
        // At any moment, not only at the end: a later deletion would take an orphan along.
        let orphans = "SELECT count(*) FROM childs c JOIN parents p ON p.id = c.parent_id \
                       WHERE c.deleted_at IS NULL AND p.deleted_at IS NOT NULL";
        while workers.iter().any(|worker| !worker.is_finished()) {
            assert_eq!(bank.base.read(orphans).await, "0");
            tokio::task::yield_now().await;
        }
        let mut codes = Vec::new();
        for worker in workers {
            codes.extend(worker.await.unwrap());
        }
        assert_eq!(bank.base.read(orphans).await, "0");
        let expected = [
            None,
            Some(Code::NotFound),
            Some(Code::UniqueViolation),
            Some(Code::ForeignKeyViolation),
            Some(Code::ValidationFailed),
        ];
        for code in &codes {
            assert!(expected.contains(code), "{code:?}");
        }
        assert!(codes.iter().filter(|code| code.is_none()).count() > 20, "{codes:?}");
        bank.end().await;
    }
}
