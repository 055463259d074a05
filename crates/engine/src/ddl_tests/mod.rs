//! The DDL on both databases: what it says, and what it does.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use cratestack_schema::ir::*;
use cratestack_schema::value::Value;
use rusqlite::Connection;
use sqlx::{AssertSqlSafe, PgConnection, Row as _};

use crate::ddl::create;
use crate::migrate::{self, Db, Error, Outcome, State};
use crate::sql::Dialect;
use crate::testing::PgDatabase;

mod interplay;

pub(crate) const KEY: [u8; 32] = [7; 32];

// Schemas.

pub(crate) fn field(name: &str, ty: Scalar) -> Field {
    Field { id: name == "id", ..Field::new(name, name, FieldType::Scalar(ty)) }
}

pub(crate) fn optional(field: Field) -> Field {
    Field { optional: true, ..field }
}

pub(crate) fn version() -> Field {
    Field { version: true, ..field("version", Scalar::Int) }
}

pub(crate) fn with(default: Value, field: Field) -> Field {
    Field { default: Some(Default::Value(default)), ..field }
}

pub(crate) fn model(name: &str, fields: Vec<Field>) -> Model {
    let key = fields.iter().position(|field| field.id).map(|at| FieldId(u32::try_from(at).unwrap()));
    let blank = Model::new(name, format!("{}s", name.to_lowercase()), name.to_lowercase());
    Model { fields, key: key.into_iter().collect(), ..blank }
}

pub(crate) fn soft(mut model: Model) -> Model {
    let deleted_at = Field { column: "deleted_at".to_owned(), synthetic: true, ..field("deletedAt", Scalar::DateTime) };
    model.fields.push(optional(deleted_at));
    model.soft_delete = model.field_named("deletedAt");
    model
}

pub(crate) fn unique(mut model: Model, fields: &[&str]) -> Model {
    let ids: Vec<FieldId> = fields.iter().map(|name| model.field_named(name).unwrap()).collect();
    let name = format!("{}_{}_key", model.table, fields.join("_"));
    model.uniques.push(Index { name, fields: ids, filter: None, using: None });
    model
}

pub(crate) fn schema(models: Vec<Model>) -> Schema {
    Schema { models, ..Schema::new("test") }
}

/// `child.column -> parent.id`
pub(crate) fn refer(schema: &mut Schema, child: &str, column: &str, parent: &str, on_delete: ReferentialAction) {
    let target = schema.model_named(parent).unwrap();
    let id = schema.model_named(child).unwrap();
    let references = schema.model(target).key.clone();
    let model = &mut schema.models[id.index()];
    let fields = vec![model.field_named(column).unwrap()];
    let constraint = format!("{}_{column}_fkey", model.table);
    model.relations.push(Relation {
        name: format!("{column}_row"),
        doc: None,
        target,
        inverse: None,
        kind: RelationKind::Owning {
            fields,
            references,
            on_delete,
            on_update: ReferentialAction::NoAction,
            constraint,
            optional: false,
        },
    });
}

pub(crate) fn id() -> Field {
    field("id", Scalar::Int)
}

// Databases.

/// A database of either kind.
pub(crate) enum Base {
    Sqlite(Connection),
    /// The second is dropped with the first.
    Postgres(PgConnection, PgDatabase),
}

/// What a statement was refused with: constraint or message.
pub(crate) type Refusal = String;

impl Base {
    pub(crate) async fn both() -> Vec<Self> {
        let mut all = vec![Self::sqlite()];
        if let Some(database) = PgDatabase::new().await {
            all.push(Self::Postgres(database.connect().await, database));
        }
        all
    }

    pub(crate) fn sqlite() -> Self {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch("PRAGMA foreign_keys = ON; PRAGMA recursive_triggers = ON").unwrap();
        Self::Sqlite(connection)
    }

    pub(crate) fn db(&mut self) -> Db<'_> {
        match self {
            Self::Sqlite(connection) => Db::Sqlite(connection),
            Self::Postgres(connection, _) => Db::Postgres(connection),
        }
    }

    pub(crate) fn is_sqlite(&self) -> bool {
        matches!(self, Self::Sqlite(_))
    }

    pub(crate) async fn apply(&mut self, schema: &Schema) {
        let done = migrate::apply_create(&mut self.db(), schema, KEY, &mut |_| {}).await.unwrap();
        assert_eq!(done, Outcome::Done);
    }

    pub(crate) async fn attempt(&mut self, sql: &str) -> Result<(), Refusal> {
        match self {
            Self::Sqlite(connection) => connection.execute_batch(sql).map_err(|error| match error {
                rusqlite::Error::SqliteFailure(_, Some(text)) => text,
                other => other.to_string(),
            }),
            Self::Postgres(connection, _) => match sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await {
                Ok(_) => Ok(()),
                Err(sqlx::Error::Database(error)) => {
                    let names = [error.constraint(), error.table()].map(Option::unwrap_or_default).join(" ");
                    Err(format!("{} {names} {}", error.code().unwrap(), error.message()))
                }
                Err(other) => panic!("{other}"),
            },
        }
    }

    pub(crate) async fn run(&mut self, sql: &str) {
        self.attempt(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// Refused, with these words in the refusal of the one and of the other.
    pub(crate) async fn refuses(&mut self, sql: &str, sqlite: &str, postgres: &str) {
        let wanted = if self.is_sqlite() { sqlite } else { postgres };
        let refusal = self.attempt(sql).await.expect_err(sql);
        assert!(refusal.contains(wanted), "{sql}: {refusal}");
    }

    /// All rows of a query in one line.
    pub(crate) async fn read(&mut self, sql: &str) -> String {
        self.rows(sql).await.join(" ")
    }

    /// All rows of a query, cells separated by `|`, `-` for NULL.
    pub(crate) async fn rows(&mut self, sql: &str) -> Vec<String> {
        match self {
            Self::Sqlite(connection) => {
                let mut statement = connection.prepare(sql).unwrap();
                let count = statement.column_count();
                let cell = |row: &rusqlite::Row<'_>, at| match row.get_ref(at).unwrap() {
                    rusqlite::types::ValueRef::Null => "-".to_owned(),
                    rusqlite::types::ValueRef::Integer(value) => value.to_string(),
                    rusqlite::types::ValueRef::Real(value) => value.to_string(),
                    rusqlite::types::ValueRef::Text(text) => String::from_utf8(text.to_vec()).unwrap(),
                    rusqlite::types::ValueRef::Blob(octets) => format!("{octets:?}"),
                };
                let line =
                    |row: &rusqlite::Row<'_>| Ok((0..count).map(|at| cell(row, at)).collect::<Vec<_>>().join("|"));
                let rows = statement.query_map([], line).unwrap();
                rows.map(Result::unwrap).collect()
            }
            Self::Postgres(connection, _) => {
                let sql = format!(
                    "SELECT array_to_string(ARRAY(SELECT coalesce(e.value, '-') FROM json_each_text(row_to_json(q)) e), '|') \
                     FROM ({sql}) q"
                );
                let rows = sqlx::query(AssertSqlSafe(sql)).persistent(false).fetch_all(connection).await.unwrap();
                rows.iter().map(|row| row.get(0)).collect()
            }
        }
    }

    /// Another database of the same kind.
    pub(crate) async fn beside(other: &Self) -> Self {
        match other {
            Self::Sqlite(_) => Self::sqlite(),
            Self::Postgres(..) => {
                let database = PgDatabase::new().await.unwrap();
                Self::Postgres(database.connect().await, database)
            }
        }
    }
}

// What the text says.

pub(crate) fn bank() -> Schema {
    let mut customer =
        soft(unique(model("Customer", vec![id(), field("email", Scalar::String), version()]), &["email"]));
    customer.fields[1].validators =
        vec![Validator { kind: ValidatorKind::Length { min: Some(3), max: Some(254) }, db_enforce: true }];
    let money = Scalar::Decimal(Some(Precision { precision: 18, scale: 4 }));
    let mut account = model(
        "Account",
        vec![
            Field { default: Some(Default::Uuid), ..field("id", Scalar::Uuid) },
            field("owner", Scalar::Int),
            with(Value::Text("0".to_owned()), field("balance", money)),
            Field {
                ty: FieldType::Enum(EnumId(0)),
                ..with(Value::Text("open".to_owned()), field("state", Scalar::String))
            },
            with(Value::Bool(true), field("active", Scalar::Boolean)),
            Field { list: true, ..field("tags", Scalar::String) },
            optional(field("extra", Scalar::Json)),
            Field { updated_at: true, ..field("updated", Scalar::DateTime) },
            version(),
        ],
    );
    account = soft(unique(account, &["owner", "state"]));
    let constant = |text: &str| Expr::Const(FieldType::Scalar(Scalar::Decimal(None)), Value::Text(text.to_owned()));
    let balance = Expr::Field(FieldPath { side: Side::Row, hops: Vec::new(), field: FieldId(2) });
    account.checks.push(Check {
        name: "funds".to_owned(),
        constraint: "accounts_funds_check".to_owned(),
        expr: Expr::Compare(CompareOp::Ge, Box::new(balance), Box::new(constant("-0.5"))),
        message: "insufficient funds".to_owned(),
    });
    let mut entry = model(
        "Entry",
        vec![
            Field { default: Some(Default::AutoIncrement), ..id() },
            field("account", Scalar::Uuid),
            optional(field("reverses", Scalar::Int)),
            field("amount", Scalar::Decimal(None)),
        ],
    );
    entry = unique(entry, &["account", "amount"]);
    entry.append_only = true;
    let mut schema = schema(vec![entry, account, customer]);
    let variant = |name: &str, stored: &str| Variant { name: name.to_owned(), stored: stored.to_owned(), doc: None };
    schema.enums.push(Enum {
        name: "State".to_owned(),
        doc: None,
        variants: vec![variant("open", "open"), variant("shut", "it's shut")],
    });
    refer(&mut schema, "Entry", "account", "Account", ReferentialAction::Restrict);
    refer(&mut schema, "Entry", "reverses", "Entry", ReferentialAction::NoAction);
    refer(&mut schema, "Account", "owner", "Customer", ReferentialAction::Cascade);
    schema
}

pub(crate) fn compiled(text: &str) -> Schema {
    let (schema, diagnostics) = cratestack_schema::compile("test", text);
    schema.unwrap_or_else(|| panic!("{diagnostics:#?}"))
}

/// A schema with a bit of everything that the DDL knows, and its statements on both databases.
#[tokio::test]
async fn statements_of_every_kind() {
    let schema = compiled(include_str!("every.cstack"));
    for (name, dialect) in [("postgres", Dialect::Postgres), ("sqlite", Dialect::Sqlite)] {
        insta::assert_snapshot!(format!("every_{name}"), create(&schema, dialect).join(";\n\n"));
    }
    for mut base in Base::both().await {
        base.apply(&schema).await;
    }
}

#[tokio::test]
async fn a_bank_is_made_once() {
    for mut base in Base::both().await {
        assert_eq!(migrate::inspect(&mut base.db()).await.unwrap(), State::Empty);
        base.apply(&bank()).await;
        let State::Applied(applied) = migrate::inspect(&mut base.db()).await.unwrap() else { panic!() };
        assert_eq!(applied.schema, bank());
        let again = migrate::apply_create(&mut base.db(), &bank(), [8; 32], &mut |_| {}).await.unwrap();
        assert_eq!(again, Outcome::Already);
        assert_eq!(migrate::cursor_key(&mut base.db()).await.unwrap(), KEY);
        let other = migrate::apply_create(&mut base.db(), &schema(vec![]), KEY, &mut |_| {}).await;
        assert!(matches!(other, Err(Error::Different { .. })));
    }
}

// What the triggers do.

pub(crate) const T1: &str = "2026-01-01T10:00:00.000000Z";
pub(crate) const D1: &str = "00000000-0000-4000-8000-000000000001";
const D2: &str = "00000000-0000-4000-8000-000000000002";

pub(crate) fn bury(table: &str, id: i64, deletion: &str) -> String {
    format!(
        "UPDATE {table} SET deleted_at = '{T1}', deletion_id = '{deletion}', version = version + 1 WHERE id = {id} AND deleted_at IS NULL"
    )
}

fn raise(table: &str, id: i64) -> String {
    format!("UPDATE {table} SET deleted_at = NULL, deletion_id = NULL, version = version + 1 WHERE id = {id}")
}

/// Rows with their parents, as a family of `on_delete`.
pub(crate) fn family(on_delete: ReferentialAction) -> Schema {
    let parent = soft(model("Parent", vec![id(), version()]));
    let child = soft(model("Child", vec![id(), field("parent", Scalar::Int), version()]));
    let grand = soft(model("Grand", vec![id(), field("child", Scalar::Int), version()]));
    let plain = model("Plain", vec![id(), field("parent", Scalar::Int), version()]);
    let mut schema = schema(vec![parent, child, grand, plain]);
    refer(&mut schema, "Child", "parent", "Parent", on_delete);
    refer(&mut schema, "Grand", "child", "Child", on_delete);
    refer(&mut schema, "Plain", "parent", "Parent", ReferentialAction::Cascade);
    schema
}

pub(crate) const FAMILY: &str =
    "INSERT INTO parents (id) VALUES (1), (2); INSERT INTO childs (id, parent) VALUES (1, 1), (2, 1), (3, 2);
    INSERT INTO grands (id, child) VALUES (1, 1), (2, 2), (3, 3); INSERT INTO plains (id, parent) VALUES (1, 1)";

const LIVE: &str = "SELECT (SELECT count(*) FROM parents WHERE deleted_at IS NULL) AS p, \
    (SELECT count(*) FROM childs WHERE deleted_at IS NULL) AS c, (SELECT count(*) FROM grands WHERE deleted_at IS NULL) AS g, \
    (SELECT count(*) FROM plains) AS l";

#[tokio::test]
async fn a_tombstone_takes_its_family_along_and_brings_it_back() {
    for mut base in Base::both().await {
        base.apply(&family(ReferentialAction::Cascade)).await;
        base.run(FAMILY).await;
        base.run(&bury("childs", 2, D2)).await;
        assert_eq!(base.read(LIVE).await, "2|2|2|1");
        base.run(&bury("parents", 1, D1)).await;
        assert_eq!(base.read(LIVE).await, "1|1|1|1");
        let rows = "SELECT id, version, deletion_id FROM grands ORDER BY id";
        assert_eq!(base.read(rows).await, format!("1|2|{D1} 2|2|{D2} 3|1|-"));
        // What was deleted before on its own stays deleted.
        base.run(&raise("parents", 1)).await;
        assert_eq!(base.read(LIVE).await, "2|2|2|1");
        assert_eq!(base.read(rows).await, format!("1|3|- 2|2|{D2} 3|1|-"));
        assert_eq!(base.read("SELECT id, version FROM childs ORDER BY id").await, "1|3 2|2 3|1");
    }
}

#[tokio::test]
async fn live_children_restrict_and_dead_parents_forbid() {
    for action in [ReferentialAction::Restrict, ReferentialAction::NoAction] {
        for mut base in Base::both().await {
            base.apply(&family(action)).await;
            base.run(FAMILY).await;
            base.refuses(
                &bury("parents", 1, D1),
                "cratestack:restrict:childs_parent_fkey",
                "23001 childs_parent_fkey childs",
            )
            .await;
            for child in [1, 2] {
                base.run(&bury("grands", child, D1)).await;
                base.run(&bury("childs", child, D1)).await;
            }
            base.run(&bury("parents", 1, D1)).await;
            assert_eq!(base.read(LIVE).await, "1|1|1|1");
            base.refuses(
                &raise("childs", 1),
                "cratestack:parent:childs_parent_fkey",
                "23503 childs_parent_fkey childs",
            )
            .await;
            base.run(&raise("parents", 1)).await;
            base.run(&raise("childs", 1)).await;
            assert_eq!(base.read(LIVE).await, "2|2|1|1");
        }
    }
}

#[tokio::test]
async fn what_goes_along_does_not_restrict_in_whatever_order_it_is_reached() {
    // A thread with its messages and notes, messages that answer each other, notes about messages. The notes come first
    // in the schema, and the answers before what they answer.
    let note =
        soft(model("Note", vec![id(), field("thread", Scalar::Int), optional(field("about", Scalar::Int)), version()]));
    let answers = optional(field("answers", Scalar::Int));
    let message = soft(model("Message", vec![id(), field("thread", Scalar::Int), answers, version()]));
    let thread = soft(model("Thread", vec![id(), optional(field("pinned", Scalar::Int)), version()]));
    for action in [ReferentialAction::Restrict, ReferentialAction::NoAction] {
        for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
            let models = order.map(|at| [&note, &message, &thread][at].clone());
            let mut schema = schema(models.to_vec());
            refer(&mut schema, "Note", "thread", "Thread", ReferentialAction::Cascade);
            refer(&mut schema, "Note", "about", "Message", action);
            refer(&mut schema, "Message", "thread", "Thread", ReferentialAction::Cascade);
            refer(&mut schema, "Message", "answers", "Message", action);
            refer(&mut schema, "Thread", "pinned", "Message", ReferentialAction::SetNull);
            for mut base in Base::both().await {
                base.apply(&schema).await;
                base.run("INSERT INTO threads (id) VALUES (1), (2)").await;
                base.run("INSERT INTO messages (id, thread) VALUES (1, 1), (2, 1), (3, 1)").await;
                base.run("UPDATE messages SET answers = CASE id WHEN 1 THEN 3 WHEN 2 THEN 1 WHEN 3 THEN 2 END").await;
                base.run("INSERT INTO notes (id, thread, about) VALUES (1, 1, 2), (2, 2, NULL)").await;
                base.run("UPDATE threads SET pinned = 2 WHERE id = 1").await;
                let live = "SELECT (SELECT count(*) FROM threads WHERE deleted_at IS NULL) AS t, \
                    (SELECT count(*) FROM messages WHERE deleted_at IS NULL) AS m, \
                    (SELECT count(*) FROM notes WHERE deleted_at IS NULL) AS n";
                base.refuses(&bury("messages", 3, D1), "restrict:messages_answers_fkey", "23001 messages_answers_fkey")
                    .await;
                base.run(&bury("threads", 1, D1)).await;
                assert_eq!(base.read(live).await, "1|0|1");
                // Alone they do not come back, only together.
                base.refuses(&raise("messages", 1), "parent:messages_", "23503 messages_").await;
                base.refuses(&raise("notes", 1), "parent:notes_", "23503 notes_").await;
                base.run(&raise("threads", 1)).await;
                assert_eq!(base.read(live).await, "2|3|2");
                // A note of another thread does not go along.
                base.run("UPDATE notes SET about = 2 WHERE id = 2").await;
                base.refuses(&bury("threads", 1, D2), "restrict:notes_about_fkey", "23001 notes_about_fkey notes")
                    .await;
                assert_eq!(base.read(live).await, "2|3|2");
            }
        }
    }
}

#[tokio::test]
async fn rows_that_take_each_other_along_come_back_by_either() {
    let side = |name: &str| soft(model(name, vec![id(), optional(field("other", Scalar::Int)), version()]));
    let mut schema = schema(vec![side("Left"), side("Right"), model("Guard", vec![id(), field("left", Scalar::Int)])]);
    refer(&mut schema, "Left", "other", "Right", ReferentialAction::Cascade);
    refer(&mut schema, "Right", "other", "Left", ReferentialAction::Cascade);
    refer(&mut schema, "Guard", "left", "Left", ReferentialAction::Restrict);
    for mut base in Base::both().await {
        base.apply(&schema).await;
        base.run("INSERT INTO lefts (id) VALUES (1); INSERT INTO rights (id, other) VALUES (1, 1); UPDATE lefts SET other = 1").await;
        let live = "SELECT (SELECT count(*) FROM lefts WHERE deleted_at IS NULL AND deletion_id IS NULL) AS l, \
            (SELECT count(*) FROM rights WHERE deleted_at IS NULL AND deletion_id IS NULL) AS r";
        for (down, up) in [("lefts", "lefts"), ("lefts", "rights"), ("rights", "lefts"), ("rights", "rights")] {
            base.run(&bury(down, 1, D1)).await;
            assert_eq!(base.read(live).await, "0|0");
            base.run(&raise(up, 1)).await;
            assert_eq!(base.read(live).await, "1|1");
        }
        // Whichever of them is deleted, the guard of the one stops both.
        base.run("INSERT INTO guards (id, \"left\") VALUES (1, 1)").await;
        for down in ["lefts", "rights"] {
            base.refuses(&bury(down, 1, D1), "restrict:guards_left_fkey", "23001 guards_left_fkey guards").await;
            assert_eq!(base.read(live).await, "1|1");
        }
    }
}

fn tree() -> Schema {
    let node = soft(model("Node", vec![id(), optional(field("parent", Scalar::Int)), version()]));
    let mut schema = schema(vec![node]);
    refer(&mut schema, "Node", "parent", "Node", ReferentialAction::Cascade);
    schema
}

#[tokio::test]
async fn a_tree_falls_and_rises_as_one() {
    const DEPTH: i64 = 100;
    for mut base in Base::both().await {
        base.apply(&tree()).await;
        for node in 1..=DEPTH {
            let parent = if node == 1 { "NULL".to_owned() } else { (node - 1).to_string() };
            base.run(&format!("INSERT INTO nodes (id, parent) VALUES ({node}, {parent})")).await;
        }
        let live = "SELECT count(*) FROM nodes WHERE deleted_at IS NULL";
        base.run(&bury("nodes", 2, D1)).await;
        assert_eq!(base.read(live).await, "1");
        base.refuses(&raise("nodes", 50), "cratestack:parent:nodes_parent_fkey", "23503 nodes_parent_fkey").await;
        base.run(&raise("nodes", 2)).await;
        assert_eq!(base.read(live).await, "100");
        // A row that is its own parent is no reason to stay.
        base.run("UPDATE nodes SET parent = 1 WHERE id = 1").await;
        base.run(&bury("nodes", 1, D1)).await;
        base.run(&raise("nodes", 1)).await;
        assert_eq!(base.read(live).await, "100");
        if base.is_sqlite() {
            base.run("PRAGMA recursive_triggers = OFF").await;
            base.refuses(&bury("nodes", 2, D1), "cratestack:pragma:recursive_triggers", "").await;
        }
    }
}

#[tokio::test]
async fn tombstones_carry_both_columns_and_free_their_unique_values() {
    for mut base in Base::both().await {
        base.apply(&bank()).await;
        base.run("INSERT INTO customers (id, email) VALUES (1, 'a@b')").await;
        let check = "customers_deletion_check";
        base.refuses(&format!("UPDATE customers SET deleted_at = '{T1}'"), check, check).await;
        base.refuses("INSERT INTO customers (id, email) VALUES (2, 'a@b')", "UNIQUE", "23505 customers_email_key")
            .await;
        base.run(&bury("customers", 1, D1)).await;
        base.run("INSERT INTO customers (id, email) VALUES (2, 'a@b')").await;
        base.refuses(&raise("customers", 1), "UNIQUE", "23505 customers_email_key").await;
        base.refuses(
            "INSERT INTO customers (id, email) VALUES (3, 'ab')",
            "customers_email_length_check",
            "customers_email_length_check",
        )
        .await;
    }
}

#[tokio::test]
async fn append_only_rows_stay() {
    for mut base in Base::both().await {
        base.apply(&bank()).await;
        let account = "00000000-0000-4000-8000-0000000000aa";
        base.run("INSERT INTO customers (id, email) VALUES (1, 'a@b')").await;
        base.run(&format!(
            "INSERT INTO accounts (id, owner, tags, updated) VALUES ('{account}', 1, '{}', '{T1}')",
            if base.is_sqlite() { "[]" } else { "{}" }
        ))
        .await;
        let insert = |verb: &str, id: &str, amount: &str| {
            format!("{verb} INTO entrys (id, account, amount) VALUES ({id}, '{account}', {amount})")
        };
        let (one, two) = if base.is_sqlite() { ("'p00011'", "'p00012'") } else { ("1", "2") };
        base.run(&insert("INSERT", "1", one)).await;
        let (sqlite, postgres) = ("cratestack:append_only:entrys", "CS001  entrys");
        base.refuses("UPDATE entrys SET reverses = 1", sqlite, postgres).await;
        base.refuses("DELETE FROM entrys", sqlite, postgres).await;
        base.run("DELETE FROM entrys WHERE id = 7").await;
        if base.is_sqlite() {
            for recursive in ["ON", "OFF"] {
                base.run(&format!("PRAGMA recursive_triggers = {recursive}")).await;
                base.refuses(&insert("INSERT OR REPLACE", "1", two), "cratestack:unique:entrys_pkey", "").await;
                base.refuses(&insert("INSERT OR REPLACE", "2", one), "cratestack:unique:entrys_account_amount_key", "")
                    .await;
                base.refuses(&insert("INSERT OR REPLACE", "-1", two), "entrys_id_positive_check", "").await;
                base.refuses("UPDATE OR REPLACE entrys SET id = 1", sqlite, "").await;
            }
            base.run(&format!("INSERT INTO entrys (account, amount) VALUES ('{account}', {two})")).await;
            assert_eq!(base.read("SELECT id FROM entrys").await, "1 2");
        } else {
            base.refuses("TRUNCATE entrys", sqlite, postgres).await;
            base.refuses("SET session_replication_role = replica; DELETE FROM entrys", sqlite, postgres).await;
            base.refuses(&insert("INSERT", "1", two), "", "23505 entrys_pkey").await;
        }
    }
}

/// Waits until a session of the database waits for a lock.
async fn blocked(watch: &mut PgConnection) {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    loop {
        if sqlx::query_scalar::<_, i64>(sql).fetch_one(&mut *watch).await.unwrap() > 0 {
            return;
        }
        tokio::task::yield_now().await;
    }
}

async fn pg(connection: &mut PgConnection, sql: &str) -> Result<u64, sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.map(|done| done.rows_affected())
}

#[tokio::test]
async fn a_child_that_races_with_its_parents_tombstone_is_no_live_orphan() {
    let Some(database) = PgDatabase::new().await else { return };
    let mut watch = database.connect().await;
    let mut writer = database.connect().await;
    let mut other = database.connect().await;
    migrate::apply_create(&mut Db::Postgres(&mut watch), &family(ReferentialAction::Cascade), KEY, &mut |_| {})
        .await
        .unwrap();
    pg(&mut watch, "INSERT INTO parents (id) VALUES (1), (2); INSERT INTO childs (id, parent) VALUES (9, 2)")
        .await
        .unwrap();
    // As the engine inserts: the parent must be live, and is held.
    let insert = "INSERT INTO childs (id, parent) SELECT n.id, n.parent FROM (SELECT 1 AS id, 1 AS parent) AS n \
        WHERE EXISTS (SELECT FROM parents WHERE id = n.parent AND deleted_at IS NULL FOR SHARE)";

    // The child comes first: the tombstone waits for it and takes it along.
    pg(&mut other, "BEGIN").await.unwrap();
    assert_eq!(pg(&mut other, insert).await.unwrap(), 1);
    let bury_parent = bury("parents", 1, D1);
    let burial = async { pg(&mut writer, &bury_parent).await.unwrap() };
    let commit = async {
        blocked(&mut watch).await;
        pg(&mut other, "COMMIT").await.unwrap();
    };
    assert_eq!(tokio::join!(burial, commit).0, 1);
    let live = "SELECT count(*) FROM childs WHERE deleted_at IS NULL AND id = ";
    let count = async |watch: &mut PgConnection, id: i64| {
        sqlx::query_scalar::<_, i64>(AssertSqlSafe(format!("{live}{id}"))).fetch_one(watch).await.unwrap()
    };
    assert_eq!(count(&mut watch, 1).await, 0);

    // The tombstone comes first: the child finds no parent.
    pg(&mut watch, &raise("parents", 1)).await.unwrap();
    pg(&mut watch, "DELETE FROM childs WHERE id = 1").await.unwrap();
    pg(&mut writer, "BEGIN").await.unwrap();
    pg(&mut writer, &bury_parent).await.unwrap();
    let birth = async { pg(&mut other, insert).await.unwrap() };
    let commit = async {
        blocked(&mut watch).await;
        pg(&mut writer, "COMMIT").await.unwrap();
    };
    assert_eq!(tokio::join!(birth, commit).0, 0);

    // A restored child holds its parent like a new one.
    pg(&mut watch, &bury("childs", 9, D2)).await.unwrap();
    pg(&mut other, "BEGIN").await.unwrap();
    pg(&mut other, &raise("childs", 9)).await.unwrap();
    let bury_second = bury("parents", 2, D1);
    let burial = async { pg(&mut writer, &bury_second).await.unwrap() };
    let commit = async {
        blocked(&mut watch).await;
        pg(&mut other, "COMMIT").await.unwrap();
    };
    assert_eq!(tokio::join!(burial, commit).0, 1);
    assert_eq!(count(&mut watch, 9).await, 0);
    // And one whose parent is being deleted waits, and is refused.
    pg(&mut watch, &raise("parents", 2)).await.unwrap();
    pg(&mut watch, &bury("childs", 9, D2)).await.unwrap();
    pg(&mut writer, "BEGIN").await.unwrap();
    pg(&mut writer, &bury_second).await.unwrap();
    let raise_child = raise("childs", 9);
    let restoration = async { pg(&mut other, &raise_child).await };
    let commit = async {
        blocked(&mut watch).await;
        pg(&mut writer, "COMMIT").await.unwrap();
    };
    let refused = tokio::join!(restoration, commit).0.unwrap_err();
    assert_eq!(refused.as_database_error().unwrap().constraint(), Some("childs_parent_fkey"));
}

#[tokio::test]
async fn of_two_servers_that_start_together_one_does_the_work() {
    let both = |first, second| {
        let mut outcomes = [first, second];
        outcomes.sort_by_key(|outcome| *outcome == Outcome::Done);
        assert_eq!(outcomes, [Outcome::Already, Outcome::Done]);
    };
    if let Some(database) = PgDatabase::new().await {
        let (mut a, mut b) = (database.connect().await, database.connect().await);
        let (schema, mut silent, mut quiet) = (bank(), |_: migrate::Progress<'_>| {}, |_: migrate::Progress<'_>| {});
        let (mut a, mut b) = (Db::Postgres(&mut a), Db::Postgres(&mut b));
        let (a, b) = tokio::join!(
            migrate::apply_create(&mut a, &schema, KEY, &mut silent),
            migrate::apply_create(&mut b, &schema, KEY, &mut quiet),
        );
        both(a.unwrap(), b.unwrap());
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("two.db");
    let start = || {
        let path = path.clone();
        std::thread::spawn(move || {
            let mut connection = Connection::open(path).unwrap();
            connection.busy_timeout(std::time::Duration::from_secs(10)).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                migrate::apply_create(&mut Db::Sqlite(&mut connection), &bank(), KEY, &mut |_| {}).await.unwrap()
            })
        })
    };
    let (a, b) = (start(), start());
    both(a.join().unwrap(), b.join().unwrap());
}

#[tokio::test]
async fn a_database_of_somebody_else_is_left_alone() {
    for mut base in Base::both().await {
        base.run("CREATE TABLE invoices (id int)").await;
        let refused = migrate::apply_create(&mut base.db(), &bank(), KEY, &mut |_| {}).await.unwrap_err();
        assert_eq!(refused.to_string(), "the database has tables that CrateStack did not make: `invoices`");
        assert!(!refused.help().is_empty());
        base.run("DROP TABLE invoices").await;
        base.apply(&bank()).await;
        base.run("UPDATE cratestack_meta SET value = '0' WHERE name = 'ddl'").await;
        assert!(matches!(migrate::inspect(&mut base.db()).await, Err(Error::Damaged(_))));
    }
}

#[tokio::test]
async fn a_default_that_the_database_does_not_know_is_told_at_once() {
    for mut base in Base::both().await {
        let odd = |default: &str| {
            let generated =
                Field { default: Some(Default::DbGenerated(default.to_owned())), ..field("token", Scalar::String) };
            schema(vec![model("Thing", vec![id(), generated])])
        };
        let refused =
            migrate::apply_create(&mut base.db(), &odd("no_such_function()"), KEY, &mut |_| {}).await.unwrap_err();
        assert!(refused.to_string().contains("no_such_function"), "{refused}");
        assert_eq!(migrate::inspect(&mut base.db()).await.unwrap(), State::Empty);
        base.apply(&odd("lower('X')")).await;
        let refused =
            migrate::apply_diff(&mut base.db(), &odd("no_such_function()"), &[], &mut |_| {}).await.unwrap_err();
        assert!(refused.to_string().contains("no_such_function"), "{refused}");
        base.run("INSERT INTO things (id) VALUES (1)").await;
        assert_eq!(base.read("SELECT token FROM things").await, "x");
    }
}
