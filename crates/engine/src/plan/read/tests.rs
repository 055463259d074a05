//! Reads through the engine on both databases: every answer must be the same on the two.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

use std::cmp::Ordering;
use std::time::Duration;

use sqlx::{AssertSqlSafe, Executor as _, Row as _};

use super::*;
use crate::api::{Answer, Authority, Caller, Code, Limits, Operation, Origin, Verb};
use crate::json::{self, Json};
use crate::migrate::{self, Db};
use crate::plan::Values;
use crate::policy::Policies;
use crate::sources::Fixed;
use crate::storage::add_argument;
use crate::testing::PgDatabase;
use crate::{Database, Engine, Options};

/// 2026-01-31T10:00:00Z
const NOW: i64 = 1_769_853_600_000_000;

const BANK: &str = r#"
enum Status { open closed @map("CLOSED") }

auth Principal {
  id       String @id
  role     String
  tenantId String @tenant
}

model Customer {
  id       Int     @id
  tenantId String
  name     String?
  country  String?
  secret   String? @server_only
  managerId Int?
  manager  Customer? @relation(name: "manages", fields: [managerId], references: [id])
  reports  Customer[] @relation(name: "manages")
  accounts Account[]
  profile  Profile?
  @@soft_delete
  @@index([country])
  @@allow("all", tenantId == auth().tenantId)
  @@allow("restore", auth().role == "manager")
}

model Profile {
  id         Int @id
  customerId Int @unique
  bio        String?
  customer   Customer @relation(fields: [customerId], references: [id])
  @@allow("all", true)
}

model Account {
  id         Uuid   @id
  customerId Int?
  owner      String
  status     Status @default(open)
  balance    Decimal(18, 4) @default(0)
  limit      Int?
  version    Int    @version
  customer   Customer? @relation(fields: [customerId], references: [id])
  entries    Entry[]
  @@index([customerId])
  @@index([limit, id])
  @@allow("all", auth() != null)
  @@deny("detail", status == closed && auth().role != "manager")
}

model Entry {
  id        Int @id
  accountId Uuid
  amount    Decimal(18, 4)
  memo      String?
  account   Account @relation(fields: [accountId], references: [id])
  tags      Tag[]
  @@index([accountId, id])
  @@allow("all", amount >= 0 || auth().role == "manager")
}

model Tag {
  entryId Int
  name    String
  entry   Entry @relation(fields: [entryId], references: [id])
  @@id([entryId, name])
  @@allow("all", true)
}

model Everything {
  id     Int @id
  text   String?
  int    Int?
  big    BigInt?
  float  Float?
  flag   Boolean?
  money  Decimal(18, 4)?
  wide   Decimal(30, 10)?
  loose  Decimal?
  at     DateTime?
  day    Date?
  uuid   Uuid?
  cuid   Cuid?
  bytes  Bytes?
  json   Json?
  status Status?
  texts  String[]
  ints   Int[]
  uuids  Uuid[]
  parts  Part[]
  @@allow("all", true)
}

model Part {
  id      Int @id
  wholeId Int
  whole   Everything @relation(fields: [wholeId], references: [id])
  @@allow("all", true)
}

model Staff {
  id Int @id
  @@allow("all", auth().role == "manager")
}
"#;

fn schema(text: &str) -> Arc<Schema> {
    let (schema, diagnostics) = cratestack_schema::compile("bank", text);
    Arc::new(schema.unwrap_or_else(|| panic!("{diagnostics:#?}")))
}

/// Names and values of parameters.
type Params<'p> = &'p [(&'p str, &'p str)];

/// The same rows on both databases.
struct Bases {
    schema: Arc<Schema>,
    engines: Vec<(&'static str, Engine)>,
    path: std::path::PathBuf,
    postgres: Option<PgDatabase>,
    _directory: tempfile::TempDir,
}

fn options() -> Options {
    let sources = Arc::new(Fixed::at(NOW));
    let limits = Limits { include_limit: 2, ..Limits::default() };
    Options { clock: sources.clone(), ids: sources, limits, ..Options::default() }
}

impl Bases {
    async fn new(text: &str) -> Self {
        let schema = schema(text);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("test.db");
        let mut connection = rusqlite::Connection::open(&path).unwrap();
        migrate::apply_create(&mut Db::Sqlite(&mut connection), &schema, [7; 32], &mut |_| ()).await.unwrap();
        drop(connection);
        let sqlite = Database::SqliteFile(path.clone());
        let mut engines = vec![("sqlite", Engine::open(Arc::clone(&schema), &sqlite, options()).await.unwrap())];
        let postgres = PgDatabase::new().await;
        if let Some(database) = &postgres {
            let mut connection = database.connect().await;
            migrate::apply_create(&mut Db::Postgres(&mut connection), &schema, [7; 32], &mut |_| ()).await.unwrap();
            let database = Database::Postgres(database.url.clone());
            engines.push(("postgres", Engine::open(Arc::clone(&schema), &database, options()).await.unwrap()));
        }
        Self { schema, engines, path, postgres, _directory: directory }
    }

    /// Runs SQL that means the same on both.
    async fn execute(&self, text: &str) {
        rusqlite::Connection::open(&self.path).unwrap().execute_batch(text).unwrap();
        if let Some(database) = &self.postgres {
            database.connect().await.execute(AssertSqlSafe(text.to_owned())).await.unwrap();
        }
    }

    async fn run(&self, caller: &Caller, model: &str, verb: Verb) -> Result<Answer, Failure> {
        let model = self.schema.model_named(model).unwrap();
        let mut answers = Vec::new();
        for (name, engine) in &self.engines {
            answers.push((name, engine.run(caller, Operation { model, verb: verb.clone() }).await));
        }
        let (_, first) = answers.remove(0);
        for (name, other) in answers {
            assert_eq!(plain(&first), plain(&other), "sqlite (left) and {name} disagree on {verb:?}");
        }
        first
    }

    async fn list(&self, caller: &Caller, model: &str, params: &[(&str, &str)]) -> Result<Answer, Failure> {
        let params = params.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        self.run(caller, model, Verb::List { params }).await
    }

    async fn read(
        &self,
        caller: &Caller,
        model: &str,
        key: &[&str],
        params: &[(&str, &str)],
    ) -> Result<Answer, Failure> {
        let params = params.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let key = key.iter().map(|part| (*part).to_owned()).collect();
        self.run(caller, model, Verb::Read { key, params }).await
    }

    async fn create(&self, model: &str, data: &str) {
        let data = json::parse(data.as_bytes(), json::MAX_DEPTH).unwrap();
        self.run(&manager(), model, Verb::Create { data }).await.unwrap_or_else(|failure| panic!("{failure:#?}"));
    }
}

/// An answer without its cursors, which differ from one engine to the other.
fn plain(answer: &Result<Answer, Failure>) -> Result<Answer, (Code, String)> {
    match answer {
        Ok(Answer::Page { items, next, total }) => Ok(Answer::Page {
            items: without_cursors(items),
            next: next.as_ref().map(|_| "..".to_owned()),
            total: *total,
        }),
        Ok(Answer::Row(row)) => {
            let body = row.body.as_ref().map(|body| without_cursors(body));
            Ok(Answer::Row(crate::api::Row { body, ..row.clone() }))
        }
        Ok(other) => Ok(other.clone()),
        Err(failure) => Err((failure.code, failure.detail.clone())),
    }
}

/// Replaces what stands in `"next":"..."`.
fn without_cursors(json: &str) -> String {
    let mut parts = json.split("\"next\":\"");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        text.push_str("\"next\":\"..\"");
        text.push_str(part.split_once('"').unwrap().1);
    }
    text
}

fn caller(claims: Option<[&str; 3]>) -> Caller {
    let principal = claims
        .map(|claims| Principal { claims: claims.iter().map(|claim| Value::Text((*claim).to_owned())).collect() });
    Caller {
        principal,
        authority: Authority::Rules,
        request_id: "test".to_owned(),
        deadline: Duration::from_secs(10),
        origin: Origin::default(),
    }
}

fn manager() -> Caller {
    caller(Some(["mia", "manager", "acme"]))
}

fn clerk() -> Caller {
    caller(Some(["carl", "clerk", "acme"]))
}

fn shown(answer: &Result<Answer, Failure>) -> String {
    match plain(answer) {
        Ok(Answer::Page { items, next, total }) => {
            let mut text = items.replace("},{", "},\n {");
            if next.is_some() {
                text.push_str("\nnext");
            }
            if let Some(total) = total {
                let _ = write!(text, "\ntotal {total}");
            }
            text
        }
        Ok(Answer::Row(row)) => format!("{} version {:?} full {}", row.body.unwrap(), row.version, row.full),
        Ok(other) => format!("{other:?}"),
        Err((code, detail)) => format!("{code:?}: {detail}"),
    }
}

async fn bank() -> Bases {
    let bases = Bases::new(BANK).await;
    bases
        .execute(
            "INSERT INTO customers (id, tenant_id, name, country, secret, manager_id) VALUES
               (1, 'acme', 'Ann', 'DE', 's3', NULL), (2, 'acme', 'Bob', NULL, 's1', 1),
               (3, 'acme', NULL, 'FR', 's2', 2), (4, 'other', 'Oz', 'DE', 's0', NULL), (5, 'acme', 'Éva, \"x\"', 'de', NULL, 4);
             UPDATE customers SET deleted_at = '2026-01-01T00:00:00.000000Z',
               deletion_id = '00000000-0000-7000-8000-0000000000ff' WHERE id = 3;
             INSERT INTO profiles (id, customer_id, bio) VALUES (1, 1, 'first'), (2, 4, 'hidden');",
        )
        .await;
    for (at, customer, owner, status, balance, limit) in [
        (1, "1", "ann", "open", "10.5", "5"),
        (2, "1", "ann", "closed", "-3", "null"),
        (3, "2", "bob", "open", "0", "5"),
        (4, "null", "nobody", "open", "99999999999999.9999", "null"),
        (5, "1", "Ann", "open", "10.5", "7"),
    ] {
        let data = format!(
            "{{\"id\":\"00000000-0000-7000-8000-00000000000{at}\",\"customerId\":{customer},\"owner\":\"{owner}\",\
             \"status\":\"{status}\",\"balance\":\"{balance}\",\"limit\":{limit}}}"
        );
        bases.create("Account", &data).await;
    }
    bases
        .execute(
            "INSERT INTO accounts (id, customer_id, owner, status, balance, \"limit\", version) VALUES
               ('00000000-0000-7000-8000-000000000006', 4, 'oz', 'open', 0, NULL, 1),
               ('00000000-0000-7000-8000-000000000007', 3, 'gone', 'open', 0, 1, 1);",
        )
        .await;
    for (id, account, amount) in [(1, 1, "1"), (2, 1, "-2"), (3, 1, "3"), (4, 1, "4"), (5, 2, "5")] {
        let data = format!(
            "{{\"id\":{id},\"accountId\":\"00000000-0000-7000-8000-00000000000{account}\",\"amount\":\"{amount}\"}}"
        );
        bases.create("Entry", &data).await;
    }
    for (entry, name) in [(1, "a"), (1, "b"), (1, "c"), (3, "d")] {
        bases.create("Tag", &format!("{{\"entryId\":{entry},\"name\":\"{name}\"}}")).await;
    }
    bases
}

const A1: &str = "00000000-0000-7000-8000-000000000001";
const A2: &str = "00000000-0000-7000-8000-000000000002";

#[tokio::test]
async fn lists_and_reads() {
    let bases = bank().await;
    let mut transcript = String::new();
    let lists: &[(&str, &str, Params<'_>)] = &[
        ("clerk", "Customer", &[]),
        ("anonymous", "Customer", &[]),
        ("anonymous", "Account", &[]),
        ("clerk", "Staff", &[]),
        ("anonymous", "Staff", &[]),
        ("clerk", "Customer", &[("country", "DE")]),
        ("clerk", "Customer", &[("country.ne", "DE")]),
        ("clerk", "Customer", &[("country.isNull", "true")]),
        ("clerk", "Customer", &[("country.isNull", "false")]),
        ("clerk", "Customer", &[("name.startsWith", "É")]),
        ("clerk", "Customer", &[("name.in", "Ann,Éva\\, \"x\"")]),
        ("clerk", "Customer", &[("name.notIn", "Ann")]),
        ("clerk", "Customer", &[("name.contains", "n"), ("country", "DE")]),
        ("clerk", "Customer", &[("manager.name", "Ann")]),
        ("clerk", "Customer", &[("manager.name.isNull", "true"), ("fields", "id")]),
        ("clerk", "Customer", &[("sort", "country,-id"), ("fields", "id,country")]),
        ("clerk", "Customer", &[("sort", "-country"), ("fields", "id,country")]),
        ("clerk", "Customer", &[("sort", "manager.name"), ("fields", "id")]),
        ("clerk", "Customer", &[("include", "manager,profile,accounts"), ("fields", "id")]),
        ("clerk", "Customer", &[("include", "reports.reports"), ("fields", "id,reports.id,reports.reports.id")]),
        ("clerk", "Customer", &[("count", "exact"), ("limit", "1"), ("fields", "id")]),
        ("clerk", "Customer", &[("count", "exact"), ("country", "nowhere")]),
        ("clerk", "Customer", &[("deleted", "only")]),
        ("manager", "Customer", &[("deleted", "only")]),
        ("clerk", "Account", &[("limit.eq", "5"), ("fields", "id,limit")]),
        ("clerk", "Account", &[("status", "closed"), ("fields", "id,status")]),
        ("clerk", "Account", &[("balance.gte", "10.49999"), ("fields", "balance")]),
        ("clerk", "Account", &[("balance.in", "10.5000,0"), ("fields", "balance")]),
        ("clerk", "Account", &[("customer.country", "DE"), ("fields", "id")]),
        ("clerk", "Account", &[("where", "customer.country == \"DE\" || entries.some(amount > 4)"), ("fields", "id")]),
        ("clerk", "Account", &[("where", "entries.every(amount > 0)"), ("fields", "id")]),
        ("manager", "Account", &[("where", "entries.every(amount > 0)"), ("fields", "id")]),
        ("clerk", "Account", &[("where", "balance * 2 - 1 == 20"), ("fields", "id")]),
        ("clerk", "Account", &[("sort", "customer.name,-balance"), ("fields", "owner")]),
        ("clerk", "Account", &[("include", "customer,entries.tags"), ("fields", "id,customer.name,entries.amount")]),
        ("manager", "Account", &[("include", "entries"), ("fields", "id"), ("owner", "ann")]),
        ("clerk", "Entry", &[("include", "account"), ("fields", "id,account.owner")]),
        ("clerk", "Tag", &[("include", "entry.account.customer"), ("fields", "name")]),
    ];
    let callers = [("clerk", clerk()), ("manager", manager()), ("anonymous", caller(None))];
    let who = |name: &str| &callers.iter().find(|(known, _)| *known == name).unwrap().1;
    for (name, model, params) in lists {
        let answer = bases.list(who(name), model, params).await;
        let _ = write!(transcript, "{name}: {model} {params:?}\n{}\n\n", shown(&answer));
    }
    let reads: &[(&str, &str, &[&str], Params<'_>)] = &[
        ("clerk", "Customer", &["1"], &[]),
        ("clerk", "Customer", &["3"], &[]),
        ("clerk", "Customer", &["4"], &[]),
        ("clerk", "Customer", &["x"], &[]),
        ("clerk", "Customer", &["1"], &[("include", "accounts.entries"), ("fields", "name")]),
        ("clerk", "Account", &[A1], &[]),
        ("clerk", "Account", &[A2], &[]),
        ("manager", "Account", &[A2], &[]),
        ("anonymous", "Account", &[A1], &[]),
        ("clerk", "Staff", &["1"], &[]),
        ("clerk", "Tag", &["1", "b"], &[]),
        ("clerk", "Tag", &["1"], &[]),
        ("clerk", "Account", &[A1], &[("owner", "ann")]),
        ("clerk", "Account", &[A1], &[("sort", "owner")]),
    ];
    for (name, model, key, params) in reads {
        let answer = bases.read(who(name), model, key, params).await;
        let _ = write!(transcript, "{name}: {model} {key:?} {params:?}\n{}\n\n", shown(&answer));
    }
    insta::assert_snapshot!(transcript);
}

/// Items and cursor of a page.
fn parts(answer: Answer) -> (Vec<Json>, Option<String>) {
    let Answer::Page { items, next, .. } = answer else { panic!("{answer:?}") };
    let Json::Array(items) = json::parse(items.as_bytes(), json::MAX_DEPTH).unwrap() else { panic!("{items}") };
    (items, next)
}

fn member<'j>(json: &'j Json, name: &str) -> &'j Json {
    let Json::Object(members) = json else { panic!("{json:?}") };
    &members.iter().find(|(known, _)| known == name).unwrap_or_else(|| panic!("no {name} in {json:?}")).1
}

impl Bases {
    /// One engine alone: cursors of one are none of the other.
    async fn list_on(
        &self,
        at: usize,
        caller: &Caller,
        model: &str,
        params: &[(&str, &str)],
    ) -> Result<Answer, Failure> {
        let model = self.schema.model_named(model).unwrap();
        let params = params.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        self.engines[at].1.run(caller, Operation { model, verb: Verb::List { params } }).await
    }
}

const SORTED: &str = r#"
model Row {
  id   Int @id
  a    Int?
  b    String?
  c    Decimal(30, 10)?
  d    Int
  up   Int?
  over Row? @relation(fields: [up], references: [id])
  under Row[]
  @@index([a, id])
  @@allow("all", true)
}
"#;

#[derive(Debug, Clone, PartialEq)]
struct Sample {
    id: i64,
    a: Option<i64>,
    b: Option<&'static str>,
    c: Option<&'static str>,
    d: i64,
    up: Option<i64>,
}

/// Nulls are the largest values.
fn ordered<T: PartialOrd>(a: Option<&T>, b: Option<&T>) -> Ordering {
    match (a, b) {
        (Some(a), Some(b)) => a.partial_cmp(b).unwrap(),
        (None, None) => Ordering::Equal,
        (None, _) => Ordering::Greater,
        (_, None) => Ordering::Less,
    }
}

fn compare(rows: &[Sample], x: &Sample, y: &Sample, sort: &str) -> Ordering {
    let mut descending = false;
    for key in sort.split(',') {
        let (down, name) = key.strip_prefix('-').map_or((false, key), |name| (true, name));
        let number = |row: &Sample| row.c.map(|text| text.parse::<f64>().unwrap());
        let over = |row: &Sample| row.up.and_then(|up| rows.iter().find(|row| row.id == up)).and_then(|row| row.a);
        let order = match name {
            "id" => x.id.cmp(&y.id),
            "a" => ordered(x.a.as_ref(), y.a.as_ref()),
            "b" => ordered(x.b.as_ref(), y.b.as_ref()),
            "c" => ordered(number(x).as_ref(), number(y).as_ref()),
            "d" => x.d.cmp(&y.d),
            "over.a" => ordered(over(x).as_ref(), over(y).as_ref()),
            other => panic!("{other}"),
        };
        descending = down;
        let order = if down { order.reverse() } else { order };
        if order.is_ne() {
            return order;
        }
    }
    if descending { y.id.cmp(&x.id) } else { x.id.cmp(&y.id) }
}

#[tokio::test]
async fn pages_follow_the_order_and_never_overlap_or_skip() {
    let bases = Bases::new(SORTED).await;
    let mut rows = Vec::new();
    let mut state = 7_u64;
    let mut roll = |sides: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) % sides
    };
    for id in 1..=40_i64 {
        rows.push(Sample {
            id,
            a: (roll(3) > 0).then(|| roll(3).cast_signed()),
            b: [None, Some("a"), Some("B"), Some("é")][roll(4) as usize],
            c: [None, Some("-1.5"), Some("10"), Some("9.25")][roll(4) as usize],
            d: roll(2).cast_signed(),
            up: (roll(2) > 0).then(|| 1 + roll(40).cast_signed()),
        });
    }
    let fixed = std::mem::take(&mut rows);
    for row in &fixed {
        let text = |value: Option<&str>| value.map_or("null".to_owned(), |value| format!("\"{value}\""));
        let int = |value: Option<i64>| value.map_or("null".to_owned(), |value| value.to_string());
        let data = format!(
            "{{\"id\":{},\"a\":{},\"b\":{},\"c\":{},\"d\":{}}}",
            row.id,
            int(row.a),
            text(row.b),
            text(row.c),
            row.d
        );
        bases.create("Row", &data).await;
    }
    for row in &fixed {
        if let Some(up) = row.up {
            bases.execute(&format!("UPDATE rows SET up = {up} WHERE id = {}", row.id)).await;
        }
    }
    let sorts = [
        "id",
        "-id",
        "a",
        "-a",
        "b",
        "-b",
        "c",
        "-c",
        "d",
        "-d",
        "a,b",
        "-a,-b",
        "a,-b",
        "-a,b",
        "d,a",
        "-d,a",
        "d,-a",
        "a,d,-c",
        "over.a",
        "-over.a,b",
        "b,over.a,-d",
        "a,-id",
        "-a,id",
        "d,-c,b",
        "id,a",
    ];
    for sort in sorts {
        let mut expected = fixed.clone();
        expected.sort_by(|x, y| compare(&fixed, x, y, sort));
        let expected: Vec<i64> = expected.iter().map(|row| row.id).collect();
        for at in 0..bases.engines.len() {
            for (limit, include) in
                [("1", None), ("7", None), ("7", Some(("include", "over"))), ("3", Some(("count", "exact")))]
            {
                let (mut found, mut cursor) = (Vec::<i64>::new(), None::<String>);
                loop {
                    let mut params = vec![("sort", sort), ("limit", limit)];
                    params.extend(include);
                    if let Some(cursor) = &cursor {
                        params.push(("cursor", cursor));
                    }
                    let answer = bases.list_on(at, &caller(None), "Row", &params).await.unwrap();
                    if let Answer::Page { total, .. } = &answer {
                        assert_eq!(*total, (include == Some(("count", "exact"))).then_some(40));
                    }
                    let (items, next) = parts(answer);
                    assert!(!items.is_empty(), "{} by {sort}, {limit} at a time, after {found:?}", bases.engines[at].0);
                    for item in &items {
                        let Json::Number(id) = member(item, "id") else { panic!("{item:?}") };
                        found.push(id.parse().unwrap());
                    }
                    cursor = next;
                    if cursor.is_none() {
                        break;
                    }
                }
                assert_eq!(found, expected, "{} by {sort}, {limit} at a time", bases.engines[at].0);
            }
        }
    }
}

#[tokio::test]
async fn a_cursor_is_good_for_its_list_alone() {
    let bases = bank().await;
    for at in 0..bases.engines.len() {
        let first = bases.list_on(at, &clerk(), "Account", &[("limit", "1"), ("owner.ne", "bob")]).await.unwrap();
        let cursor = parts(first).1.unwrap();
        let go_on = async |caller: &Caller, model: &str, params: &[(&str, &str)]| {
            let mut params = params.to_vec();
            params.push(("cursor", &cursor));
            bases.list_on(at, caller, model, &params).await
        };
        // The page may differ in size and in what it shows, and the claims that name nobody may change.
        let promoted = caller(Some(["carl", "manager", "acme"]));
        for (who, params) in [
            (&clerk(), &[("owner.ne", "bob"), ("limit", "2")][..]),
            (&clerk(), &[("fields", "id"), ("owner.ne", "bob")]),
            (&promoted, &[("owner.ne", "bob")]),
        ] {
            let (items, _) = parts(go_on(who, "Account", params).await.unwrap());
            assert_eq!(member(&items[0], "id"), &Json::String(A2.to_owned()));
        }
        let other = caller(Some(["dora", "clerk", "acme"]));
        for (who, model, params) in [
            (&other, "Account", &[("owner.ne", "bob")][..]),
            (&caller(Some(["carl", "clerk", "other"])), "Account", &[("owner.ne", "bob")]),
            (&clerk(), "Account", &[]),
            (&clerk(), "Account", &[("owner.ne", "ann")]),
            (&clerk(), "Account", &[("owner", "bob")]),
            (&clerk(), "Account", &[("owner.ne", "bob"), ("balance.gt", "0")]),
            (&clerk(), "Account", &[("owner.ne", "bob"), ("sort", "owner")]),
            (&clerk(), "Account", &[("owner.ne", "bob"), ("sort", "-id")]),
            (&clerk(), "Account", &[("where", "owner != \"bob\"")]),
            (&manager(), "Customer", &[]),
            (&manager(), "Customer", &[("deleted", "only")]),
        ] {
            let failure = go_on(who, model, params).await.unwrap_err();
            assert_eq!(failure.code, Code::InvalidCursor, "{model} {params:?}");
        }
        for forged in ["", "x", &cursor[1..], &format!("{cursor}AAAA")] {
            let params = [("owner.ne", "bob"), ("cursor", forged)];
            let failure = bases.list_on(at, &clerk(), "Account", &params).await.unwrap_err();
            assert_eq!(failure.code, Code::InvalidCursor, "{forged}");
        }
    }
}

#[tokio::test]
async fn the_cursor_of_an_include_goes_on_at_the_childs_route() {
    let bases = bank().await;
    for at in 0..bases.engines.len() {
        let params = [("include", "entries.tags"), ("owner", "ann"), ("limit", "1")];
        let (items, _) = parts(bases.list_on(at, &manager(), "Account", &params).await.unwrap());
        let entries = member(&items[0], "entries");
        let Json::String(cursor) = member(entries, "next") else { panic!("{entries:?}") };
        let behind = [("accountId", A1), ("cursor", cursor)];
        let (rest, _) = parts(bases.list_on(at, &manager(), "Entry", &behind).await.unwrap());
        let ids: Vec<&Json> = rest.iter().map(|row| member(row, "id")).collect();
        assert_eq!(ids, [&Json::Number("3".to_owned()), &Json::Number("4".to_owned())]);
        let failure = bases.list_on(at, &manager(), "Entry", &[("cursor", cursor)]).await.unwrap_err();
        assert_eq!(failure.code, Code::InvalidCursor);

        let Json::Array(entries) = member(entries, "items") else { panic!("{entries:?}") };
        let tags = member(&entries[0], "tags");
        let Json::String(cursor) = member(tags, "next") else { panic!("{tags:?}") };
        let behind = [("entryId.eq", "1"), ("cursor", cursor)];
        let (rest, _) = parts(bases.list_on(at, &manager(), "Tag", &behind).await.unwrap());
        assert_eq!(rest.len(), 1);
        assert_eq!(member(&rest[0], "name"), &Json::String("c".to_owned()));
    }
}

/// What is shown inside of another row is what its own route shows.
#[tokio::test]
async fn an_included_row_is_the_row() {
    let bases = Bases::new(BANK).await;
    for data in [
        "{\"id\":1}",
        r#"{"id":2,"text":"é\"\\\n\u2028","int":-5,"big":"9223372036854775807","float":0.1,"flag":true,"money":"-1.5",
            "wide":"12345678901234567890.0123456789","loose":"-0.00000000000000000000001","at":"0001-01-01T00:00:00Z",
            "day":"9999-12-31","uuid":"00000000-0000-7000-8000-00000000000A","cuid":"abcdefghijklmnopqrstuvwx",
            "bytes":"AP8=","json":{"b":[1,null,"x\u0001"],"a":1.50},"status":"closed","texts":["a","\"b\"",""],
            "ints":[1,-2],"uuids":["00000000-0000-7000-8000-00000000000b"]}"#,
        r#"{"id":3,"text":"","float":-1.7976931348623157e308,"flag":false,"money":"99999999999999.9999","wide":"0",
            "loose":"0","json":null,"bytes":"","texts":[]}"#,
        r#"{"id":4,"float":5e-324,"json":"text","big":"-9223372036854775808","int":9007199254740991}"#,
    ] {
        bases.create("Everything", data).await;
    }
    let mut bodies = Vec::new();
    for id in 1..=4 {
        bases.create("Part", &format!("{{\"id\":{id},\"wholeId\":{id}}}")).await;
        let key = id.to_string();
        let Answer::Row(row) = bases.read(&manager(), "Everything", &[&key], &[]).await.unwrap() else { panic!() };
        let alone = row.body.unwrap();
        let params = [("include", "whole"), ("fields", "id")];
        let Answer::Row(row) = bases.read(&manager(), "Part", &[&key], &params).await.unwrap() else { panic!() };
        assert_eq!(row.body.unwrap(), format!("{{\"id\":{id},\"whole\":{alone}}}"));
        let params = [("include", "parts.whole"), ("fields", "parts.id")];
        let Answer::Row(row) = bases.read(&manager(), "Everything", &[&key], &params).await.unwrap() else { panic!() };
        assert!(row.body.unwrap().contains(&format!("{{\"id\":{id},\"whole\":{alone}}}")));
        bodies.push(alone);
    }
    insta::assert_snapshot!(bodies.join("\n"));
}

/// What a filter asks of the caller is asked again for each caller, though the statement looks the same.
#[tokio::test]
async fn a_filter_over_the_caller_is_the_callers_own() {
    let bases = bank().await;
    let params = [("where", "auth().role == \"clerk\" && owner == \"bob\" || owner == auth().id"), ("fields", "owner")];
    let ann = caller(Some(["ann", "clerk", "acme"]));
    let oz = caller(Some(["oz", "visitor", "acme"]));
    for (who, expected) in [
        (&ann, r#"[{"owner":"ann"},{"owner":"ann"},{"owner":"bob"}]"#),
        (&oz, r#"[{"owner":"oz"}]"#),
        (&ann, r#"[{"owner":"ann"},{"owner":"ann"},{"owner":"bob"}]"#),
    ] {
        let Answer::Page { items, .. } = bases.list(who, "Account", &params).await.unwrap() else { panic!() };
        assert_eq!(items, expected);
    }
}

/// A JSON array of PostgreSQL's functions has at most 100 elements.
#[tokio::test]
async fn a_row_of_many_columns_can_be_included() {
    let columns = (0..130).map(|at| format!("  f{at} Int?\n")).collect::<Vec<_>>().concat();
    let text = format!(
        "model Wide {{\n  id Int @id\n{columns}  parts Part[]\n  @@allow(\"all\", true)\n}}\n\
         model Part {{\n  id Int @id\n  wideId Int\n  wide Wide @relation(fields: [wideId], references: [id])\n  \
         @@allow(\"all\", true)\n}}\n"
    );
    let bases = Bases::new(&text).await;
    bases.create("Wide", "{\"id\":1,\"f0\":10,\"f98\":98,\"f99\":99,\"f100\":100,\"f129\":129}").await;
    bases.create("Part", "{\"id\":1,\"wideId\":1}").await;
    let row = async |model: &str, params: Params<'_>| {
        let Answer::Row(row) = bases.read(&manager(), model, &["1"], params).await.unwrap() else { panic!() };
        row.body.unwrap()
    };
    let alone = row("Wide", &[]).await;
    let nested = row("Part", &[("include", "wide.parts.wide"), ("fields", "wide.parts.id,wide.id")]).await;
    assert_eq!(
        nested,
        format!(
            "{{\"id\":1,\"wideId\":1,\"wide\":{{\"id\":1,\"parts\":{{\"items\":[{{\"id\":1,\"wide\":{alone}}}],\"next\":null}}}}}}"
        )
    );
}

/// Lists that nobody thought of: the same answer from both databases, and never a failure of one.
#[tokio::test]
async fn random_lists_are_the_same_on_both_databases() {
    let bases = bank().await;
    for data in [
        "{\"id\":1}",
        r#"{"id":2,"text":"é","int":-5,"big":"9223372036854775807","float":0.1,"flag":true,"money":"-1.5",
            "wide":"12345678901234567890.0123456789","loose":"-0.00000000000000000000001","at":"2026-01-31T10:00:00Z",
            "day":"2026-01-31","uuid":"00000000-0000-7000-8000-00000000000A","cuid":"abcdefghijklmnopqrstuvwx",
            "bytes":"AP8=","json":{"a":1},"status":"closed","texts":["a"]}"#,
        r#"{"id":3,"text":"","int":3,"float":-1e300,"flag":false,"money":"1.5","wide":"1.5","loose":"1.5","bytes":""}"#,
    ] {
        bases.create("Everything", data).await;
    }
    let mut state = 11_u64;
    let mut roll = |sides: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        ((state >> 33) % sides as u64) as usize
    };
    let models = [
        (
            "Everything",
            &[
                "id", "text", "int", "big", "float", "flag", "money", "wide", "loose", "at", "day", "uuid", "cuid",
                "bytes", "json", "status", "texts", "nothing",
            ][..],
            &["parts", "parts.whole", "whole"][..],
        ),
        (
            "Account",
            &[
                "id",
                "customerId",
                "owner",
                "status",
                "balance",
                "limit",
                "version",
                "customer.name",
                "customer.manager.country",
                "customer.secret",
                "entries",
            ],
            &["customer", "entries", "entries.tags", "customer.manager"],
        ),
        (
            "Customer",
            &["id", "name", "country", "managerId", "manager.name", "deletedAt", "profile.bio", "secret"],
            &["manager", "reports", "accounts", "profile"],
        ),
        (
            "Entry",
            &["id", "accountId", "amount", "memo", "account.owner", "account.customer.name"],
            &["account", "tags", "account.customer"],
        ),
    ];
    let words =
        ["eq", "ne", "lt", "lte", "gt", "gte", "in", "notIn", "startsWith", "endsWith", "contains", "isNull", "is"];
    let values = [
        "1",
        "-5",
        "1.5",
        "1.50,2",
        "true",
        "false",
        "Ann",
        "é",
        "",
        "open",
        "closed",
        "a,b",
        "AP8=",
        "0.1",
        "2026-01-31",
        "2026-01-31T10:00:00Z",
        A1,
        "abcdefghijklmnopqrstuvwx",
        "12345678901234567890.0123456789",
        "1e300",
    ];
    let wheres = [
        "id > 0",
        "id == 2 || id == 3",
        "!(id == 1)",
        "id in [1, 2]",
        "owner.startsWith(\"a\")",
        "balance * 2 > limit",
        "money == wide",
        "wide + loose > money",
        "loose * loose < 1",
        "int < money",
        "text.length() == 1",
        "at < now()",
        "entries.some(memo == null)",
        "entries.every(tags.none(name == \"a\"))",
        "customer == null",
        "auth().id == owner",
        "name in [auth().id, \"Ann\"]",
        "!reports.some(country != \"DE\")",
        "flag",
        "flag != true",
        "-big < 0",
        "account.customer.name == null",
        "amount > 1 && !(account.status == closed)",
    ];
    let (mut answered, mut shown) = (0, 0);
    for _ in 0..1000 {
        let (model, fields, includes) = models[roll(models.len())];
        let mut params: Vec<(String, String)> = Vec::new();
        for _ in 0..roll(3) {
            let name = format!("{}.{}", fields[roll(fields.len())], words[roll(words.len())]);
            params.push((name, values[roll(values.len())].to_owned()));
        }
        if roll(3) == 0 {
            params.push(("where".to_owned(), wheres[roll(wheres.len())].to_owned()));
        }
        if roll(2) == 0 {
            let key = |at: usize| format!("{}{}", ["", "-"][at % 2], fields[at / 2 % fields.len()]);
            params.push(("sort".to_owned(), format!("{},{}", key(roll(100)), key(roll(100)))));
        }
        if roll(3) == 0 {
            params.push(("include".to_owned(), includes[roll(includes.len())].to_owned()));
        }
        if roll(4) == 0 {
            params.push(("fields".to_owned(), fields[roll(fields.len())].to_owned()));
        }
        if roll(4) == 0 {
            params.push(("count".to_owned(), "exact".to_owned()));
        }
        if model == "Customer" && roll(5) == 0 {
            params.push(("deleted".to_owned(), "only".to_owned()));
        }
        let params: Vec<(&str, &str)> = params.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let who = [manager(), clerk(), caller(Some(["ann", "visitor", "other"])), caller(None)][roll(4)].clone();
        match bases.list(&who, model, &params).await {
            Ok(answer) => {
                answered += 1;
                shown += usize::from(!parts(answer).0.is_empty());
            }
            Err(failure) => assert!(
                matches!(failure.code, Code::InvalidQuery | Code::Unauthenticated | Code::Forbidden),
                "{params:?}: {failure:?}"
            ),
        }
    }
    // Enough of them must have meant something.
    assert!(answered > 150 && shown > 80, "{answered} {shown}");
}

/// The largest requests that the limits let through are answered, and never by a failure of the database.
#[tokio::test]
async fn the_limits_are_within_what_the_databases_bear() {
    let bases = bank().await;
    let hops = format!("{}name", "manager.".repeat(8));
    let nested = |open: &str, body: &str, close: &str, times: usize| {
        format!("{}{body}{}", open.repeat(times), close.repeat(times))
    };
    let ids = (0..990).map(|id| id.to_string()).collect::<Vec<_>>().join(",");
    let chain = vec!["id > 0"; 249].join(" && ");
    let choice = vec!["id == 1"; 249].join(" || ");
    let product = vec!["amount"; 30].join(" * ");
    let sorts =
        ["name", "country", "managerId", "manager.name", "manager.country", "manager.manager.name", "-id"].join(",");
    let prefix = "a".repeat(4000);
    let cases: &[(&str, Params<'_>)] = &[
        ("Customer", &[(&hops, "Ann")]),
        ("Customer", &[("sort", &hops)]),
        ("Customer", &[("sort", &sorts)]),
        ("Customer", &[("id.in", &ids)]),
        ("Customer", &[("id.notIn", &ids)]),
        ("Customer", &[("where", &chain)]),
        ("Customer", &[("where", &choice)]),
        ("Customer", &[("where", &nested("!(", "id == 1", ")", 30))]),
        ("Customer", &[("where", &nested("reports.some(", "id == 1", ")", 8))]),
        ("Customer", &[("where", &nested("reports.every(manager.reports.none(", "manager.name == null", "))", 2))]),
        ("Customer", &[("where", &nested("(id == 1 || (", "id == 2", "))", 15))]),
        ("Customer", &[("name.startsWith", &prefix), ("name.contains", &prefix), ("name.endsWith", &prefix)]),
        ("Customer", &[("name.startsWith", "\u{10FFFF}"), ("name.ne", "'\"; DROP TABLE customers; --")]),
        ("Entry", &[("where", &format!("{product} > 0"))]),
        ("Entry", &[("amount", &"9".repeat(900))]),
    ];
    for (model, params) in cases {
        let answer = bases.list(&manager(), model, params).await;
        assert!(answer.is_ok(), "{params:.200?}: {answer:?}");
    }
}

// The text of the statements, and how the databases run them.

/// The statement of a list, behind a cursor with these sort values if there are any.
fn list_text(
    schema: &Arc<Schema>,
    dialect: Dialect,
    who: &Caller,
    model: &str,
    params: Params<'_>,
    cursor: &[Value],
) -> Arc<Template> {
    let policies = Policies::new(schema);
    let view = policies.view(who.principal.as_ref(), "2026-01-31T10:00:00.000000Z");
    let params: Vec<(String, String)> =
        params.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let limits = Limits { include_limit: 2, ..Limits::default() };
    let query = crate::query::list(schema, schema.model_named(model).unwrap(), &limits, &params).unwrap();
    let nulls: Vec<bool> = cursor.iter().map(|value| *value == Value::Null).collect();
    let nulls = (!cursor.is_empty()).then_some(&nulls[..]);
    list(&view, dialect, 2, &query, nulls).unwrap().template
}

fn row_text(schema: &Arc<Schema>, dialect: Dialect, who: &Caller, model: &str, params: Params<'_>) -> One {
    let policies = Policies::new(schema);
    let view = policies.view(who.principal.as_ref(), "2026-01-31T10:00:00.000000Z");
    let params: Vec<(String, String)> =
        params.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let model = schema.model_named(model).unwrap();
    let projection = crate::query::read(schema, model, &Limits::default(), &params).unwrap();
    one(&view, dialect, 2, model, &projection).unwrap()
}

/// One clause per line.
fn folded(text: &str) -> String {
    let mut text = text.to_owned();
    for word in [" FROM ", " WHERE ", " ORDER BY ", " LEFT JOIN ", " CROSS JOIN ", " UNION ALL ", " AND "] {
        text = text.replace(word, &format!("\n  {}", word.trim_start()));
    }
    text
}

/// Every kind of read: who, what, parameters, cursor.
fn statements() -> Vec<(&'static str, Caller, &'static str, Params<'static>, Vec<Value>)> {
    let id = || Value::Text(A1.to_owned());
    vec![
        ("first page", clerk(), "Account", &[("limit", "10")], Vec::new()),
        ("next page", clerk(), "Account", &[], vec![id()]),
        ("rules with a claim", clerk(), "Customer", &[], Vec::new()),
        ("rules that the claims decide", manager(), "Entry", &[], Vec::new()),
        ("nullable, values first", clerk(), "Account", &[("sort", "limit")], vec![Value::Int(5), id()]),
        ("nullable, among nulls", clerk(), "Account", &[("sort", "limit")], vec![Value::Null, id()]),
        ("nullable, falling", clerk(), "Account", &[("sort", "-limit")], vec![Value::Int(5), id()]),
        ("nullable, falling, among nulls", clerk(), "Account", &[("sort", "-limit")], vec![Value::Null, id()]),
        ("mixed directions", clerk(), "Account", &[("sort", "owner,-id")], vec![Value::Text("b".to_owned()), id()]),
        ("foreign key", clerk(), "Entry", &[("accountId", A1)], vec![Value::Int(1)]),
        ("to-one", clerk(), "Entry", &[("include", "account"), ("fields", "id")], Vec::new()),
        ("to-many", manager(), "Account", &[("include", "entries"), ("fields", "id")], Vec::new()),
        ("total", manager(), "Entry", &[("count", "exact"), ("fields", "id")], Vec::new()),
        ("path", clerk(), "Account", &[("customer.country", "DE"), ("fields", "id")], Vec::new()),
        ("quantifier", clerk(), "Account", &[("where", "entries.none(amount > 3)"), ("fields", "id")], Vec::new()),
    ]
}

#[test]
fn text_of_the_statements() {
    let schema = schema(BANK);
    let mut text = String::new();
    for dialect in [Dialect::Postgres, Dialect::Sqlite] {
        for (what, who, model, params, cursor) in statements() {
            let template = list_text(&schema, dialect, &who, model, params, &cursor);
            let _ = write!(text, "-- {dialect:?}, {what}\n{}\n\n", folded(&template.sql));
        }
        for (model, params) in [("Account", &[][..]), ("Tag", &[("include", "entry"), ("fields", "name")])] {
            let one = row_text(&schema, dialect, &clerk(), model, params);
            let _ = write!(text, "-- {dialect:?}, one {model}\n{}\n\n", folded(&one.template.sql));
            if let Some(together) = one.together {
                let _ = write!(text, "-- {dialect:?}, several {model}\n{}\n\n", folded(&together.template.sql));
            }
        }
    }
    insta::assert_snapshot!(text);
}

/// No keyed access needs to look at a whole table.
#[tokio::test]
async fn keyed_access_uses_an_index() {
    let bases = Bases::new(BANK).await;
    // These look at every row by their nature.
    let scans = ["total", "mixed directions"];
    let sqlite = rusqlite::Connection::open(&bases.path).unwrap();
    crate::predicate::register_functions(&sqlite).unwrap();
    let mut plans = String::new();
    let templates = |dialect| {
        let lists = statements().into_iter().map(move |(what, who, model, params, cursor)| {
            let schema = schema(BANK);
            (what.to_owned(), list_text(&schema, dialect, &who, model, params, &cursor))
        });
        let rows = ["Account", "Customer", "Tag"].into_iter().flat_map(move |model| {
            let one = row_text(&schema(BANK), dialect, &clerk(), model, &[]);
            let several = one.together.map(|together| (format!("several {model}"), together.template));
            std::iter::once((format!("one {model}"), one.template)).chain(several)
        });
        lists.chain(rows)
    };
    for (what, template) in templates(Dialect::Sqlite) {
        let mut statement = sqlite.prepare(&format!("EXPLAIN QUERY PLAN {}", template.sql)).unwrap();
        let steps = statement.raw_query().mapped(|row| row.get::<_, String>(3)).collect::<Result<Vec<_>, _>>().unwrap();
        let _ = write!(plans, "-- {what}\n{}\n\n", steps.join("\n"));
    }
    insta::assert_snapshot!(plans);
    let Some(database) = &bases.postgres else { return };
    let mut connection = database.connect().await;
    connection.execute("SET enable_seqscan = off").await.unwrap();
    connection.execute("SET plan_cache_mode = force_generic_plan").await.unwrap();
    for (what, template) in templates(Dialect::Postgres) {
        let nulls = vec!["NULL"; template.slots.len()].join(", ");
        let execute = if nulls.is_empty() { "s".to_owned() } else { format!("s({nulls})") };
        connection.execute(AssertSqlSafe(format!("PREPARE s AS {}", template.sql))).await.unwrap();
        let rows =
            sqlx::query(AssertSqlSafe(format!("EXPLAIN EXECUTE {execute}"))).fetch_all(&mut connection).await.unwrap();
        let plan: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        let plan = plan.join("\n");
        assert!(!plan.contains("Seq Scan") || scans.contains(&what.as_str()), "{what}: {}\n{plan}", template.sql);
        connection.execute("DEALLOCATE s").await.unwrap();
    }
}

/// A page in the middle of many rows costs as much as the first one.
#[tokio::test]
async fn a_page_reads_no_more_rows_than_it_shows() {
    let bases = Bases::new(SORTED).await;
    let Some(database) = &bases.postgres else { return };
    let mut connection = database.connect().await;
    let fill = "INSERT INTO rows (id, a, d) SELECT n, CASE WHEN n % 2 = 0 THEN n / 4 END, n % 3 FROM generate_series(1, 20000) AS n";
    connection.execute(fill).await.unwrap();
    connection.execute("CREATE INDEX d_and_id ON rows (d, id)").await.unwrap();
    connection.execute("ANALYZE rows").await.unwrap();
    let int = |value: i64| Value::Int(value);
    for (sort, cursor) in [
        ("id", vec![int(15_000)]),
        ("-id", vec![int(15_000)]),
        ("a", vec![int(4000), int(16_000)]),
        ("a", vec![Value::Null, int(15_000)]),
        ("a", vec![int(4999), int(19_999)]),
        ("-a", vec![int(4000), int(16_000)]),
        ("-a", vec![Value::Null, int(15_000)]),
        ("d,id", vec![int(1), int(15_000)]),
    ] {
        let params = [("sort", sort), ("limit", "50")];
        let template = list_text(&bases.schema, Dialect::Postgres, &caller(None), "Row", &params, &cursor);
        let values = Values {
            cursor: &cursor,
            ..Values::new(&bases.schema, Dialect::Postgres, None, "2026-01-31T10:00:00.000000Z")
        };
        let mut arguments = sqlx::postgres::PgArguments::default();
        for slot in &template.slots {
            add_argument(&values.bind(slot).unwrap(), &mut arguments).unwrap();
        }
        let text = format!("EXPLAIN (ANALYZE, TIMING OFF, SUMMARY OFF) {}", template.sql);
        let rows = sqlx::query_with(AssertSqlSafe(text), arguments).fetch_all(&mut connection).await.unwrap();
        let plan: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        for step in &plan {
            let counted = step.split("actual rows=").nth(1).or_else(|| step.split("Removed by Filter: ").nth(1));
            let count = counted.map(|text| text.chars().take_while(char::is_ascii_digit).collect::<String>());
            let count: u64 = count.map_or(0, |count| count.parse().unwrap());
            assert!(count <= 102, "{sort} {cursor:?}: {}\n{}", template.sql, plan.join("\n"));
        }
    }
}
