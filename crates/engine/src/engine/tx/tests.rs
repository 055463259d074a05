//! Transactions of code, on all databases.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::super::procedures::{self, Bodies};
use super::super::tests::{Base, caller, json};
use super::*;
use crate::api::{Authority, Expected, Row, Verb};
use crate::engine::tests::at;
use crate::isolated::{IsolationLevel, TxError, run_in_isolated_tx, run_in_isolated_tx_with};
use crate::json::Json;

const TEXT: &str = r#"
auth User {
  id   String
  role String
  team String @tenant
}

model Account {
  id       Int @id
  owner    String @length(min: 1, max: 20)
  email    String? @unique
  balance  Decimal(18, 4) @default(0) @readonly
  secret   String? @server_only
  teamId   String @default(auth().team)
  madeAt   DateTime @default(now())
  code     String @default("c") @immutable
  version  Int @version

  @@check(balance >= 0, "insufficient funds", name: "funds")
  @@audit(denials)
  @@emit(created, updated)
  @@allow("read",   teamId == auth().team)
  @@allow("update", auth().role == "teller")
}

model Entry {
  id   Int @id
  text String
  @@append_only
  @@allow("read", true)
}

mutation procedure move(amount: Decimal(18, 4), note: String?): Account
  @isolation("serializable")
  @allow(auth().role == "teller")

procedure total(): Decimal(18, 4)
  @allow(auth() != null)
"#;

fn who(base: &Base, authority: Authority) -> Caller {
    let claims = json(r#"{"id":"ann","role":"teller","team":"t1"}"#);
    let principal = Some(base.engine.principal(&claims).unwrap());
    let mut caller = Caller { principal, authority, ..caller_of_nobody(base) };
    caller.origin.op = "move".into();
    caller
}

fn caller_of_nobody(base: &Base) -> Caller {
    caller(&base.engine, "")
}

async fn run(base: &Base, tx: &Tx, authority: Authority, model: &str, verb: Verb) -> Result<Row, Failure> {
    let model = base.engine.schema().model_named(model).unwrap();
    match tx.run(&who(base, authority), Operation { model, verb }).await? {
        Answer::Row(row) => Ok(row),
        Answer::Page { items, .. } => Ok(Row { body: Some(items), ..nothing() }),
        _ => Ok(nothing()),
    }
}

fn nothing() -> Row {
    Row { body: None, key: Vec::new(), version: None, full: false, created: false }
}

fn create(data: &str) -> Verb {
    Verb::Create { data: json(data) }
}

fn patch(key: &str, expected: Expected, data: &str) -> Verb {
    Verb::Patch { key: vec![key.to_owned()], expected, data: json(data) }
}

fn read(key: &str) -> Verb {
    Verb::Read { key: vec![key.to_owned()], params: Vec::new() }
}

fn opener(base: &Base) -> Opener {
    Opener::new(&base.engine, &who(base, Authority::Rules))
}

/// Runs a body at `read_committed`.
async fn within<T>(base: &Base, body: impl AsyncFnMut(&mut &Tx) -> Result<T, Failure>) -> Result<T, Failure> {
    let done = run_in_isolated_tx(&opener(base), IsolationLevel::ReadCommitted, body).await;
    done.map_err(procedures::failure)
}

/// The rows, the events of the trail and those of the outbox.
async fn counts(base: &Base) -> [i64; 3] {
    let mut counts = [0; 3];
    for (count, table) in counts.iter_mut().zip(["accounts", "cratestack_audit", "cratestack_outbox"]) {
        let sql = format!("SELECT count(*) FROM {table}");
        *count = within(base, async |tx: &mut &Tx| int(tx, &sql).await).await.unwrap();
    }
    counts
}

/// Waits until it is so.
async fn eventually(so: impl AsyncFn() -> bool) {
    let wait = async { while !so().await {} };
    tokio::time::timeout(Duration::from_secs(20), wait).await.expect("it is so in the end");
}

/// A number, by SQL of one's own.
async fn int(tx: &Tx, sql: &str) -> Result<i64, Failure> {
    if matches!(tx.core.store, Store::Sqlite(_)) {
        let sql = sql.to_owned();
        tx.sqlite(move |connection| connection.query_row(&sql, [], |row| row.get(0))).await
    } else {
        let fetched = sqlx::query_scalar(sqlx::AssertSqlSafe(sql.to_owned())).fetch_one(&mut *tx.sqlx().await?).await;
        fetched.map_err(|error| procedures::sql_failure(&error))
    }
}

async fn execute(tx: &Tx, sql: &'static str) -> Result<(), Failure> {
    if matches!(tx.core.store, Store::Sqlite(_)) {
        tx.sqlite(move |connection| connection.execute_batch(sql)).await
    } else {
        let done = sqlx::raw_sql(sql).execute(&mut *tx.sqlx().await?).await;
        done.map(|_| ()).map_err(|error| procedures::sql_failure(&error))
    }
}

#[tokio::test]
async fn all_of_it_or_nothing() {
    for base in Base::all(TEXT).await {
        let name = base.name;
        let two = async |tx: &mut &Tx| {
            run(&base, tx, Authority::Service, "Account", create(r#"{"id":1,"owner":"Ann","balance":"5"}"#)).await?;
            // It sees what it has done itself.
            let row = run(&base, tx, Authority::Rules, "Account", read("1")).await?;
            assert!(row.body.unwrap().contains(r#""balance":"5.0000","teamId":"t1""#), "{name}");
            let patched = patch("1", at(1), r#"{"balance":"4.5","secret":"s"}"#);
            run(&base, tx, Authority::Service, "Account", patched).await
        };
        assert_eq!(within(&base, two).await.unwrap().version, Some(2), "{name}");
        assert_eq!(counts(&base).await, [1, 2, 2], "{name}");

        let refused = within(&base, async |tx: &mut &Tx| {
            run(&base, tx, Authority::Service, "Account", create(r#"{"id":2,"owner":"Bob"}"#)).await?;
            Err::<(), _>(Failure::reject("no_more", 409, "there are enough accounts"))
        });
        let refused = refused.await.unwrap_err();
        assert_eq!((refused.code, refused.rejection.unwrap().code.as_str()), (Code::Rejected, "no_more"), "{name}");
        assert_eq!(counts(&base).await, [1, 2, 2], "{name}");
    }
}

#[tokio::test]
async fn what_rules_refuse_goes_on_and_what_the_database_refuses_ends_it() {
    for base in Base::all(TEXT).await {
        let name = base.name;
        let done = within(&base, async |tx: &mut &Tx| {
            let new = create(r#"{"id":1,"owner":"Ann","email":"a@b.c"}"#);
            run(&base, tx, Authority::Service, "Account", new.clone()).await?;
            for (authority, verb, code) in [
                (Authority::Rules, new, Code::Forbidden),
                (Authority::Rules, read("7"), Code::NotFound),
                (Authority::Rules, patch("1", at(1), r#"{"balance":"1"}"#), Code::ValidationFailed),
                (Authority::Rules, patch("1", at(9), r#"{"owner":"Bob"}"#), Code::VersionMismatch),
                (Authority::Service, patch("1", at(1), r#"{"owner":""}"#), Code::ValidationFailed),
                (Authority::Service, patch("1", at(1), r#"{"code":"d"}"#), Code::ValidationFailed),
                (Authority::Service, patch("1", at(1), r#"{"version":7}"#), Code::ValidationFailed),
                (Authority::Service, patch("1", Expected::Missing, r#"{"owner":"Bob"}"#), Code::VersionRequired),
            ] {
                let refused = run(&base, tx, authority, "Account", verb).await.unwrap_err();
                assert_eq!(refused.code, code, "{name} {refused:?}");
            }
            run(&base, tx, Authority::Rules, "Account", patch("1", at(1), r#"{"owner":"Bob"}"#)).await
        });
        assert_eq!(done.await.unwrap().version, Some(2), "{name}");
        // Two events of what was done, and two of what was refused: recorded once it was over.
        eventually(async || counts(&base).await == [1, 4, 2]).await;

        for (bad, code, detail) in [
            (r#"{"id":1,"owner":"Eve"}"#, Code::UniqueViolation, "another row has the same `id`"),
            (r#"{"id":2,"owner":"Eve","email":"a@b.c"}"#, Code::UniqueViolation, "another row has the same `email`"),
            (r#"{"id":2,"owner":"Eve","balance":"-1"}"#, Code::ValidationFailed, "insufficient funds"),
        ] {
            let tries = AtomicUsize::new(0);
            let swallowed = within(&base, async |tx: &mut &Tx| {
                tries.fetch_add(1, Ordering::SeqCst);
                run(&base, tx, Authority::Service, "Account", create(r#"{"id":3,"owner":"Ann"}"#)).await?;
                let refused = run(&base, tx, Authority::Service, "Account", create(bad)).await.unwrap_err();
                assert_eq!((refused.code, refused.detail.as_str()), (code, detail), "{name}");
                assert_eq!(
                    run(&base, tx, Authority::Rules, "Account", read("1")).await.unwrap_err(),
                    refused,
                    "{name}"
                );
                assert_eq!(execute(tx, "SELECT 1").await.unwrap_err(), refused, "{name}");
                Ok(())
            });
            assert_eq!(swallowed.await.unwrap_err().code, code, "{name}");
            assert_eq!(tries.into_inner(), 1, "{name}");
        }
        assert_eq!(counts(&base).await, [1, 4, 2], "{name}");
    }
}

#[tokio::test]
async fn a_service_without_a_caller_gives_what_claims_would() {
    for base in Base::all(TEXT).await {
        let refused = within(&base, async |tx: &mut &Tx| {
            let model = base.engine.schema().model_named("Account").unwrap();
            let job = Caller { authority: Authority::Service, ..caller_of_nobody(&base) };
            let new = |data| Operation { model, verb: create(data) };
            tx.run(&job, new(r#"{"id":1,"owner":"Ann","teamId":"t9","madeAt":"2020-01-01T00:00:00Z"}"#)).await?;
            tx.run(&job, new(r#"{"id":2,"owner":"Ann"}"#)).await
        });
        let refused = refused.await.unwrap_err();
        assert_eq!(refused.code, Code::ValidationFailed, "{}", base.name);
        assert_eq!((refused.errors[0].pointer.as_str(), refused.errors[0].code.as_str()), ("#/teamId", "required"));
        // Append-only means everybody.
        let gone = within(&base, async |tx: &mut &Tx| {
            run(&base, tx, Authority::Service, "Entry", create(r#"{"id":1,"text":"a"}"#)).await?;
            let verb = Verb::Delete { key: vec!["1".to_owned()], expected: Expected::Missing };
            run(&base, tx, Authority::Service, "Entry", verb).await
        });
        assert_eq!(gone.await.unwrap_err().code, Code::Forbidden, "{}", base.name);
    }
}

#[tokio::test]
async fn own_sql_takes_part_and_is_the_callers() {
    for base in Base::all(TEXT).await {
        let name = base.name;
        within(&base, async |tx: &mut &Tx| {
            // The claims hold quotes, dollars and what ends quoted text.
            execute(
                tx,
                "INSERT INTO accounts (id, owner, balance, team_id, made_at, code, version) \
                         SELECT 1, 'Ann', 0, 't1', '2026-01-31T10:00:00.000000Z', 'c', 1",
            )
            .await?;
            run(&base, tx, Authority::Service, "Account", patch("1", at(1), r#"{"owner":"Bob"}"#)).await?;
            execute(tx, "UPDATE accounts SET owner = 'Cat', version = 3").await
        })
        .await
        .unwrap();
        let outside = "SELECT count(*) FROM cratestack_audit WHERE out_of_band OR entry NOT LIKE '%\"op\":\"move\"%' \
                       OR entry NOT LIKE '%\"subject\":\"ann\"%'";
        let [rows, events, _] = counts(&base).await;
        assert_eq!((rows, events), (1, 3), "{name}");
        assert_eq!(within(&base, async |tx: &mut &Tx| int(tx, outside).await).await.unwrap(), 0, "{name}");
        // A swallowed error of one's own SQL is no commit either.
        let swallowed = within(&base, async |tx: &mut &Tx| {
            run(&base, tx, Authority::Service, "Account", patch("1", at(3), r#"{"owner":"Dan"}"#)).await?;
            let _ = execute(tx, "SELECT nothing").await;
            Ok(())
        });
        swallowed.await.unwrap_err();
        assert_eq!(counts(&base).await[1], 3, "{name}");
    }
}

/// The text that tells PostgreSQL's triggers who acts goes without a bound value.
#[tokio::test]
async fn claims_cannot_end_the_text_that_holds_them() {
    let Some(base) = Base::postgres(TEXT).await else { return };
    let bad = r#"$told$ $told_$; DROP TABLE accounts; -- ' '' \\' \" $$"#;
    let claims = format!(r#"{{"id":"{bad}","role":"teller","team":"{bad}"}}"#);
    let mut caller = who(&base, Authority::Service);
    caller.principal = Some(base.engine.principal(&json(&claims)).unwrap());
    let opener = Opener::new(&base.engine, &caller);
    let body = async |tx: &mut &Tx| {
        let new = "INSERT INTO accounts (id, owner, balance, team_id, made_at, code, version) \
                   VALUES (1, 'Ann', 0, 't1', now(), 'c', 1)";
        execute(tx, new).await?;
        int(tx, "SELECT count(*) FROM cratestack_audit WHERE NOT out_of_band AND entry LIKE '%DROP TABLE%'").await
    };
    assert_eq!(run_in_isolated_tx(&opener, IsolationLevel::Serializable, body).await.unwrap(), 1);
}

#[tokio::test]
async fn what_only_reads_sees_one_snapshot_and_changes_nothing() {
    for base in Base::durable(TEXT).await {
        let name = base.name;
        let options = TxOptions { read_only: true, ..TxOptions::new(IsolationLevel::RepeatableRead) };
        let opener = opener(&base);
        let body = async |tx: &mut &Tx| {
            let before = int(tx, "SELECT count(*) FROM accounts").await?;
            let made = within(&base, async |tx: &mut &Tx| {
                run(&base, tx, Authority::Service, "Account", create(r#"{"id":1,"owner":"Ann"}"#)).await
            });
            made.await?;
            let page = run(&base, tx, Authority::Rules, "Account", Verb::List { params: Vec::new() }).await?;
            assert_eq!((before, page.body.as_deref()), (0, Some("[]")), "{name}");
            let refused = run(&base, tx, Authority::Service, "Account", create(r#"{"id":2,"owner":"Bob"}"#)).await;
            assert_eq!(refused.unwrap_err().detail, "a transaction that only reads cannot change rows", "{name}");
            execute(tx, "DELETE FROM accounts").await
        };
        let refused = run_in_isolated_tx_with(&opener, &options, body).await.map_err(procedures::failure).unwrap_err();
        assert_eq!(refused.code, Code::Unavailable, "{name} {refused:?}");
        assert_eq!(counts(&base).await[0], 1, "{name}");
    }
    // In memory the one connection does it, and is free for changes again.
    let base = Base::all(TEXT).await.remove(0);
    let options = TxOptions { read_only: true, ..TxOptions::new(IsolationLevel::RepeatableRead) };
    let body = async |tx: &mut &Tx| execute(tx, "DELETE FROM entries").await;
    run_in_isolated_tx_with(&opener(&base), &options, body).await.unwrap_err();
    within(&base, async |tx: &mut &Tx| execute(tx, "DELETE FROM accounts").await).await.unwrap();
}

#[tokio::test]
async fn what_is_given_up_leaves_nothing_and_holds_nobody_up() {
    for base in Base::all(TEXT).await {
        let name = base.name;
        let new = || create(r#"{"id":1,"owner":"Ann"}"#);
        let options =
            TxOptions { deadline: Duration::from_millis(300), ..TxOptions::new(IsolationLevel::Serializable) };
        let hang = async |tx: &mut &Tx| {
            run(&base, tx, Authority::Service, "Account", new()).await?;
            std::future::pending::<Result<(), Failure>>().await
        };
        let late = run_in_isolated_tx_with(&opener(&base), &options, hang).await.unwrap_err();
        assert!(matches!(late, TxError::Deadline), "{name} {late:?}");

        // One whose caller goes away in the middle of a statement.
        let given_up = within(&base, async |tx: &mut &Tx| {
            let mut pending_write = Box::pin(run(&base, tx, Authority::Service, "Account", new()));
            let in_the_middle = crate::testing::pending(pending_write.as_mut()).await;
            drop(pending_write);
            let after = run(&base, tx, Authority::Rules, "Account", read("1")).await;
            // The database may have been quicker.
            if in_the_middle { after } else { Err(Failure::new(Code::Internal, GIVEN_UP)) }
        });
        let given_up = given_up.await.unwrap_err();
        assert_eq!(given_up.detail, GIVEN_UP, "{name}");

        let panicking = {
            let engine = base.engine.clone();
            let opener = opener(&base);
            tokio::spawn(async move {
                let model = engine.schema().model_named("Entry").unwrap();
                let caller = Caller { authority: Authority::Service, ..caller(&engine, "") };
                let body = async move |tx: &mut &Tx| -> Result<(), Failure> {
                    tx.run(&caller, Operation { model, verb: create(r#"{"id":1,"text":"a"}"#) }).await?;
                    panic!("the body");
                };
                run_in_isolated_tx(&opener, IsolationLevel::Serializable, body).await
            })
        };
        assert!(panicking.await.unwrap_err().is_panic(), "{name}");
        assert_eq!(counts(&base).await, [0, 0, 0], "{name}");
    }
}

#[tokio::test]
async fn afterwards_is_after_the_commit() {
    for base in Base::all(TEXT).await {
        let told = Arc::new(AtomicUsize::new(0));
        for (commit, expected) in [(true, 1), (false, 1), (true, 2)] {
            let counter = Arc::clone(&told);
            let done = within(&base, async |tx: &mut &Tx| {
                let counter = Arc::clone(&counter);
                // The transaction is committed, and the next one comes all the same.
                tx.after_commit(|| panic!("of no consequence"));
                tx.after_commit(move || {
                    counter.fetch_add(1, Ordering::SeqCst);
                });
                if commit { Ok(()) } else { Err(Failure::reject("no", 409, "no")) }
            });
            assert_eq!(done.await.is_ok(), commit);
            assert_eq!(told.load(Ordering::SeqCst), expected, "{}", base.name);
        }
    }
}

/// The events of the outbox, oldest first.
async fn events(base: &Base) -> Vec<serde_json::Value> {
    let sql = "SELECT coalesce(max(seq), 0) FROM cratestack_outbox";
    let last = within(base, async |tx: &mut &Tx| int(tx, sql).await).await.unwrap();
    let mut events = Vec::new();
    for seq in 1..=last {
        let sql = format!("SELECT entry FROM cratestack_outbox WHERE seq = {seq}");
        let entry = within(base, async |tx: &mut &Tx| match tx.core.store {
            Store::Sqlite(_) => {
                let sql = sql.clone();
                tx.sqlite(move |connection| connection.query_row(&sql, [], |row| row.get::<_, String>(0))).await
            }
            Store::Postgres(_) => {
                let sql = sqlx::AssertSqlSafe(sql.clone());
                let entry = sqlx::query_scalar(sql).fetch_optional(&mut *tx.sqlx().await?).await.unwrap();
                Ok(entry.unwrap_or_default())
            }
        });
        let entry = entry.await.unwrap();
        // What was rolled back has left a gap.
        events.extend(serde_json::from_str::<serde_json::Value>(&entry).ok());
    }
    events
}

#[tokio::test]
async fn events_of_ones_own_are_committed_with_the_rest() {
    for base in Base::all(TEXT).await {
        let name = base.name;
        let data = json(r#"{"b":"ä\"\u0001","a":[1,2.50,null]}"#);
        let who = who(&base, Authority::Service);
        for commit in [false, true] {
            let done = within(&base, async |tx: &mut &Tx| {
                run(&base, tx, Authority::Service, "Account", create(r#"{"id":1,"owner":"Ann"}"#)).await?;
                tx.emit(&who, "account_opened", "a \"b\"", &data).await?;
                if commit { Ok(()) } else { Err(Failure::reject("no", 409, "no")) }
            });
            assert_eq!(done.await.is_ok(), commit, "{name}");
        }
        let [created, own] = events(&base).await.try_into().unwrap();
        assert_eq!(created["type"], "bank.Account.created", "{name}");
        let id = own["id"].as_str().unwrap();
        assert_eq!((id.len(), id.as_bytes()[14]), (36, b'7'), "{name}");
        assert!(own["time"].as_str().unwrap().ends_with('Z'), "{name}");
        assert_eq!(
            own,
            serde_json::json!({
                "data": {"a": [1, 2.50, null], "b": "ä\"\u{1}"}, "datacontenttype": "application/json", "id": id,
                "source": "/cratestack/bank", "specversion": "1.0", "subject": "a \"b\"", "time": own["time"],
                "type": "bank.account_opened"
            }),
            "{name}"
        );

        let (text, long) = (json("\"x\""), Json::String("x".repeat(65_535)));
        for (event, subject, data) in
            [("Bad", "1", &text), ("a.b", "1", &text), ("", "1", &text), ("big", "1", &long), ("nul", "\0", &text)]
        {
            let refused = within(&base, async |tx: &mut &Tx| {
                tx.emit(&who, event, subject, data).await.unwrap_err();
                // It was not asked of the database, so that the transaction goes on.
                tx.emit(&who, "fine", "1", &text).await?;
                Err::<(), _>(Failure::reject("no", 409, "no"))
            });
            assert_eq!(refused.await.unwrap_err().code, Code::Rejected, "{name} {event}");
        }
        assert_eq!(events(&base).await.len(), 2, "{name}");
    }
    let without = TEXT.replace("@@emit(created, updated)", "");
    for base in Base::all(&without).await {
        let who = who(&base, Authority::Service);
        let refused = within(&base, async |tx: &mut &Tx| tx.emit(&who, "event", "1", &json("1")).await);
        assert_eq!(refused.await.unwrap_err().code, Code::NotImplemented, "{}", base.name);
    }
}

/// Otherwise the second one could commit first, under the greater number.
#[tokio::test]
async fn events_of_one_subject_wait_for_each_other() {
    let Some(base) = Base::postgres(TEXT).await else { return };
    let who = who(&base, Authority::Service);
    let order = Mutex::new(Vec::new());
    let begun = tokio::sync::Notify::new();
    let first = within(&base, async |tx: &mut &Tx| {
        tx.emit(&who, "moved", "1", &json("1")).await?;
        begun.notify_one();
        let waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND database = \
                       (SELECT oid FROM pg_database WHERE datname = current_database())";
        while int(tx, waiting).await? == 0 {}
        order.lock().unwrap().push("first");
        Ok(())
    });
    let second = async {
        begun.notified().await;
        let done = within(&base, async |tx: &mut &Tx| {
            // Another subject waits for nobody.
            tx.emit(&who, "moved", "2", &json("2")).await?;
            tx.emit(&who, "moved", "1", &json("3")).await?;
            order.lock().unwrap().push("second");
            Ok(())
        });
        done.await
    };
    let (first, second) = tokio::join!(first, second);
    first.and(second).unwrap();
    assert_eq!(*order.lock().unwrap(), ["first", "second"]);
    let data: Vec<i64> = events(&base).await.iter().map(|event| event["data"].as_i64().unwrap()).collect();
    assert_eq!(data, [1, 2, 3]);
}

/// While one transaction writes, others wait for it, and none is lost.
#[tokio::test]
async fn writers_wait_for_each_other() {
    for base in Base::all(TEXT).await {
        let one = within(&base, async |tx: &mut &Tx| {
            run(&base, tx, Authority::Service, "Account", create(r#"{"id":1,"owner":"Ann"}"#)).await
        });
        one.await.unwrap();
        let add = async || {
            let body = async |tx: &mut &Tx| {
                let row = run(&base, tx, Authority::Rules, "Account", read("1")).await?;
                let text = row.body.unwrap();
                let balance: i64 =
                    text.split_once(r#""balance":""#).unwrap().1.split_once('.').unwrap().0.parse().unwrap();
                tokio::task::yield_now().await;
                let data = format!(r#"{{"balance":"{}"}}"#, balance + 1);
                run(&base, tx, Authority::Service, "Account", patch("1", at(row.version.unwrap()), &data)).await
            };
            let options = TxOptions { tries: 100, ..TxOptions::new(IsolationLevel::Serializable) };
            run_in_isolated_tx_with(&opener(&base), &options, body).await.map_err(procedures::failure)
        };
        let all = futures_util::future::join_all((0..12).map(|_| add())).await;
        assert!(all.iter().all(Result::is_ok), "{} {all:?}", base.name);
        let sum = "SELECT CAST(version AS bigint) FROM accounts";
        assert_eq!(within(&base, async |tx: &mut &Tx| int(tx, sum).await).await.unwrap(), 13, "{}", base.name);
    }
}

/// Bodies that count their runs.
struct Counting {
    runs: AtomicUsize,
    started: tokio::sync::Notify,
    go_on: tokio::sync::Semaphore,
}

impl Bodies for Arc<Counting> {
    fn call<'t>(
        &'t self,
        tx: &'t Tx,
        procedure: &'t cratestack_schema::ir::Procedure,
        caller: &'t Caller,
        arguments: Vec<Json>,
    ) -> futures_util::future::BoxFuture<'t, Result<Json, Failure>> {
        Box::pin(async move {
            self.runs.fetch_add(1, Ordering::SeqCst);
            let model = tx.core.schema.model_named("Account").unwrap();
            if !procedure.mutation {
                tx.run(caller, Operation { model, verb: Verb::List { params: Vec::new() } }).await?;
                return Ok(json("\"1.5\""));
            }
            let [Json::String(amount), note] = arguments.as_slice() else { panic!("{arguments:?}") };
            if *note != Json::Null {
                self.started.notify_one();
                self.go_on.acquire().await.unwrap().forget();
            }
            let service = Caller { authority: Authority::Service, ..caller.clone() };
            let data = format!(r#"{{"id":{},"owner":"Ann","balance":"{amount}"}}"#, self.runs.load(Ordering::SeqCst));
            match tx.run(&service, Operation { model, verb: create(&data) }).await? {
                Answer::Row(row) if amount == "13.0000" => Ok(Json::String(row.body.unwrap())),
                Answer::Row(row) => Ok(json(&row.body.unwrap())),
                other => panic!("{other:?}"),
            }
        })
    }
}

#[tokio::test]
async fn the_life_of_a_call() {
    for base in Base::all(TEXT).await {
        let name = base.name;
        let counting = Arc::new(Counting {
            runs: AtomicUsize::new(0),
            started: tokio::sync::Notify::new(),
            go_on: tokio::sync::Semaphore::new(0),
        });
        let bodies: Arc<dyn Bodies> = Arc::new(Arc::clone(&counting));
        let find =
            |called: &str| base.engine.schema().procedures.iter().find(|one| one.name == called).unwrap().clone();
        let (moving, total) = (find("move"), find("total"));
        let teller = who(&base, Authority::Rules);
        let clerk = base.engine.principal(&json(r#"{"id":"bob","role":"clerk","team":"t1"}"#)).unwrap();
        let clerk = Caller { principal: Some(clerk), ..teller.clone() };
        let nobody = caller_of_nobody(&base);
        for (caller, body, code) in [
            (&nobody, "{}", Code::Unauthenticated),
            (&clerk, r#"{"amount":"x"}"#, Code::ValidationFailed),
            (&clerk, r#"{"amount":"1"}"#, Code::Forbidden),
            (&teller, r#"{"amount":"1","more":1}"#, Code::ValidationFailed),
        ] {
            let refused = base.engine.call(caller, &moving, Some(json(body)), &bodies).await.unwrap_err();
            assert_eq!(refused.code, code, "{name}");
        }
        assert_eq!(counting.runs.load(Ordering::SeqCst), 0, "{name}");

        let answered = base.engine.call(&teller, &moving, Some(json(r#"{"amount":"2.5"}"#)), &bodies).await.unwrap();
        assert!(answered.starts_with(r#"{"id":1,"owner":"Ann","email":null,"balance":"2.5000""#), "{name} {answered}");
        assert!(!answered.contains("secret"), "{name} {answered}");
        assert_eq!(base.engine.call(&clerk, &total, None, &bodies).await.unwrap(), r#"{"value":"1.5000"}"#, "{name}");

        // What cannot be told is not done, and the caller is not told what it was.
        let broken = base.engine.call(&teller, &moving, Some(json(r#"{"amount":"13"}"#)), &bodies).await.unwrap_err();
        assert_eq!((broken.code, broken.detail.as_str()), (Code::Internal, "an internal error"), "{name}");
        assert!(broken.internal.unwrap().ends_with("`#` must be an object"), "{name}");
        assert_eq!(counts(&base).await, [1, 1, 1], "{name}");

        // A caller who hangs up when the body has begun.
        let body = Some(json(r#"{"amount":"1","note":"n"}"#));
        let mut call = Box::pin(base.engine.call(&teller, &moving, body, &bodies));
        tokio::select! {
            _ = &mut call => panic!("{name}: it waits"),
            () = counting.started.notified() => {}
        }
        drop(call);
        counting.go_on.add_permits(1);
        eventually(async || counts(&base).await[0] == 2).await;
    }
}

/// What was refused is recorded once, however often the body ran, and also when it never came to its end. On SQLite the
/// record needs the writer that the transaction has.
#[tokio::test]
async fn refusals_are_recorded_once_whatever_became_of_it() {
    for base in Base::all(TEXT).await {
        let name = base.name;
        let denied = async || {
            let sql = "SELECT count(*) FROM cratestack_audit WHERE entry LIKE '%\"operation\":\"denied\"%'";
            within(&base, async |tx: &mut &Tx| int(tx, sql).await).await.unwrap()
        };
        within(&base, async |tx: &mut &Tx| {
            run(&base, tx, Authority::Service, "Account", create(r#"{"id":1,"owner":"Ann"}"#)).await
        })
        .await
        .unwrap();
        let stale = || patch("1", at(9), r#"{"owner":"Bob"}"#);

        // The database refuses, and the body goes on as if nothing were.
        let options = TxOptions { deadline: Duration::from_secs(4), ..TxOptions::new(IsolationLevel::Serializable) };
        let swallowed = async |tx: &mut &Tx| {
            run(&base, tx, Authority::Rules, "Account", stale()).await.unwrap_err();
            run(&base, tx, Authority::Service, "Account", create(r#"{"id":1,"owner":"Eve"}"#)).await.unwrap_err();
            Ok::<_, Failure>(())
        };
        let refused = run_in_isolated_tx_with(&opener(&base), &options, swallowed).await.unwrap_err();
        assert!(matches!(refused, TxError::Database(_)), "{name} {refused:?}");
        eventually(async || denied().await == 1).await;

        // Twice in the way of others.
        let tries = AtomicUsize::new(0);
        let again = async |tx: &mut &Tx| {
            run(&base, tx, Authority::Rules, "Account", stale()).await.unwrap_err();
            match tries.fetch_add(1, Ordering::SeqCst) {
                0 | 1 => Err(Failure::new(Code::TransactionAborted, "others were in the way")),
                _ => Ok(()),
            }
        };
        within(&base, again).await.unwrap();
        eventually(async || denied().await == 2).await;

        // In the way of others each time, and only the commit tells.
        let lost = async |tx: &mut &Tx| {
            run(&base, tx, Authority::Rules, "Account", stale()).await.unwrap_err();
            tx.state.lock().await.failed = Some(Failure::new(Code::TransactionAborted, "others were in the way"));
            tx.state.lock().await.prospect = Prospect::Better;
            Ok::<_, Failure>(())
        };
        let lost = run_in_isolated_tx_with(&opener(&base), &options, lost).await.unwrap_err();
        assert!(matches!(lost, TxError::Aborted { tries: 5 }), "{name} {lost:?}");
        eventually(async || denied().await == 3).await;

        let options = TxOptions { deadline: Duration::from_millis(300), ..options };
        let hang = async |tx: &mut &Tx| {
            run(&base, tx, Authority::Rules, "Account", stale()).await.unwrap_err();
            std::future::pending::<Result<(), Failure>>().await
        };
        run_in_isolated_tx_with(&opener(&base), &options, hang).await.unwrap_err();
        eventually(async || denied().await == 4).await;
    }
}

/// A body may report an error of its own SQL, or pass over it and meet the consequences.
#[tokio::test]
async fn own_sql_that_lost_to_others_runs_again() {
    let Some(base) = Base::postgres(TEXT).await else { return };
    for swallowed in [false, true] {
        let tries = AtomicUsize::new(0);
        let fail = "DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '40001'; END $$";
        let done = within(&base, async |tx: &mut &Tx| {
            if tries.fetch_add(1, Ordering::SeqCst) < 2 {
                let lost = execute(tx, fail).await;
                if !swallowed {
                    lost?;
                }
            }
            run(&base, tx, Authority::Rules, "Account", Verb::List { params: Vec::new() }).await
        });
        done.await.unwrap();
        assert_eq!(tries.into_inner(), 3, "{swallowed}");
    }
    // What the body refuses itself has nothing to do with that, and is told once.
    let tries = AtomicUsize::new(0);
    let refused = within(&base, async |tx: &mut &Tx| {
        tries.fetch_add(1, Ordering::SeqCst);
        let _ = execute(tx, "SELECT nothing").await;
        let _ = run(&base, tx, Authority::Rules, "Account", Verb::List { params: Vec::new() }).await;
        Err::<(), _>(Failure::reject("no", 409, "no"))
    });
    assert_eq!((refused.await.unwrap_err().code, tries.into_inner()), (Code::Rejected, 1));
    // What cannot become better ends, and is told as it was.
    let syntax = within(&base, async |tx: &mut &Tx| {
        let _ = execute(tx, "SELECT nothing").await;
        run(&base, tx, Authority::Rules, "Account", Verb::List { params: Vec::new() }).await
    });
    assert_eq!(syntax.await.unwrap_err().code, Code::Internal);
}

#[tokio::test]
async fn the_trail_of_own_sql_names_who_began() {
    for base in Base::all(TEXT).await {
        let name = base.name;
        within(&base, async |tx: &mut &Tx| {
            let model = base.engine.schema().model_named("Account").unwrap();
            let mut job = Caller { authority: Authority::Service, ..caller_of_nobody(&base) };
            job.origin.job = Some("interest".into());
            job.origin.op = "accounts.create".into();
            let data = r#"{"id":1,"owner":"Ann","teamId":"t1"}"#;
            tx.run(&job, Operation { model, verb: create(data) }).await?;
            execute(tx, "UPDATE accounts SET owner = 'Bob', version = 2").await
        })
        .await
        .unwrap();
        for (event, subject, op) in [(1, "interest", "accounts.create"), (2, "ann", "move")] {
            let sql = format!(
                "SELECT count(*) FROM cratestack_audit WHERE seq = {event} AND entry LIKE '%\"subject\":\"{subject}\"%' \
                 AND entry LIKE '%\"op\":\"{op}\"%'"
            );
            assert_eq!(within(&base, async |tx: &mut &Tx| int(tx, &sql).await).await.unwrap(), 1, "{name} {event}");
        }
    }
}

#[tokio::test]
async fn own_sql_stays_in_the_transaction() {
    let refused = || Failure::reject("no", 409, "no");
    let base = Base::all(TEXT).await.remove(0);
    for sql in [
        "COMMIT",
        "ROLLBACK",
        "COMMIT; BEGIN",
        "SAVEPOINT job",
        "ROLLBACK TO job",
        "RELEASE s",
        "PRAGMA query_only = 0",
        "ATTACH ':memory:' AS other",
        "INSERT OR ROLLBACK INTO entries (id, text) VALUES (1, 'a')",
    ] {
        let done = within(&base, async |tx: &mut &Tx| {
            run(&base, tx, Authority::Service, "Entry", create(r#"{"id":1,"text":"a"}"#)).await?;
            let sql = sql.to_owned();
            let passed_over = tx.sqlite(move |connection| {
                let _ = connection.execute_batch(&sql);
                // What would be a transaction of its own, after one that was ended.
                let _ = connection.execute_batch("INSERT INTO entries (id, text) VALUES (2, 'b')");
                Ok(())
            });
            let _ = passed_over.await;
            Err::<(), _>(refused())
        });
        assert_eq!(done.await.unwrap_err().code, Code::Rejected, "{sql}");
        let left = within(&base, async |tx: &mut &Tx| int(tx, "SELECT count(*) FROM entries").await).await;
        assert_eq!(left.unwrap(), 0, "{sql}");
    }
    // What would outlive the transaction, and hide what is there, is refused; so is what panics, and nothing of it stays.
    for sql in ["CREATE TEMP TABLE accounts (id)", "CREATE TEMP VIEW entries AS SELECT 1"] {
        let done = within(&base, async |tx: &mut &Tx| execute(tx, sql).await);
        assert_eq!(done.await.unwrap_err().code, Code::Internal, "{sql}");
    }
    let panicked = within(&base, async |tx: &mut &Tx| tx.sqlite::<()>(|_| panic!("the closure")).await);
    assert_eq!(panicked.await.unwrap_err().code, Code::Internal);
    let columns = "SELECT count(*) FROM pragma_table_info('entries')";
    assert_eq!(within(&base, async |tx: &mut &Tx| int(tx, columns).await).await.unwrap(), 2);
    // A savepoint of one's own, and a row that is not there: neither ends it.
    within(&base, async |tx: &mut &Tx| {
        execute(tx, "SAVEPOINT mine; INSERT INTO entries (id, text) VALUES (3, 'c'); ROLLBACK TO mine; RELEASE mine")
            .await?;
        let none =
            tx.sqlite(|connection| connection.query_row("SELECT id FROM entries", [], |row| row.get::<_, i64>(0)));
        assert_eq!(none.await.unwrap_err().code, Code::Internal);
        execute(tx, "INSERT INTO entries (id, text) VALUES (4, 'd')").await
    })
    .await
    .unwrap();
    assert_eq!(within(&base, async |tx: &mut &Tx| int(tx, "SELECT max(id) FROM entries").await).await.unwrap(), 4);

    let Some(base) = Base::postgres(TEXT).await else { return };
    let opener = opener(&base);
    for (sql, body) in [("COMMIT", true), ("COMMIT", false), ("ROLLBACK", true), ("COMMIT; BEGIN", false)] {
        let left = async |tx: &mut &Tx| {
            execute(tx, sql).await?;
            if body { Ok(()) } else { Err(refused()) }
        };
        let unknown = run_in_isolated_tx(&opener, IsolationLevel::ReadCommitted, left).await.unwrap_err();
        assert!(matches!(unknown, TxError::OutcomeUnknown(Some(_))), "{sql} {unknown:?}");
    }
    // What sqlx begins itself is a savepoint.
    for commit in [true, false] {
        let nested = within(&base, async |tx: &mut &Tx| {
            let insert = |id: i64| format!("INSERT INTO entries (id, text) VALUES ({id}, 'a')");
            for (id, keep) in [(1, true), (2, false)] {
                let mut connection = tx.sqlx().await?;
                let mut inner = sqlx::Connection::begin(&mut *connection).await.unwrap();
                sqlx::raw_sql(sqlx::AssertSqlSafe(insert(id))).execute(&mut *inner).await.unwrap();
                if keep { inner.commit().await.unwrap() } else { inner.rollback().await.unwrap() }
            }
            if commit { Ok(()) } else { Err(refused()) }
        });
        assert_eq!(nested.await.is_ok(), commit);
        let ids = within(&base, async |tx: &mut &Tx| int(tx, "SELECT coalesce(sum(id), 0)::bigint FROM entries").await);
        assert_eq!(ids.await.unwrap(), 1);
        if commit {
            // The table takes no deletions.
            within(&base, async |tx: &mut &Tx| int(tx, "SELECT count(*) FROM entries").await).await.unwrap();
            break;
        }
    }
}

#[tokio::test]
async fn what_code_does_to_its_session_is_nobody_elses() {
    let Some(database) = crate::testing::PgDatabase::new().await else { return };
    let schema = crate::engine::tests::compile(TEXT);
    let kept = crate::engine::Database::Postgres(database.url.clone());
    Engine::apply(Arc::clone(&schema), &kept).await.unwrap();
    let pool = crate::store::postgres::PoolOptions { connections: 1, ..Default::default() };
    let options = crate::engine::Options { pool, ..Default::default() };
    let engine = Engine::open(schema, &kept, options).await.unwrap();
    let base = Base { name: "postgres", engine, postgres: Some(database), directory: None };
    let statements = [
        "SET search_path = nowhere",
        "SET statement_timeout = 1",
        "SELECT pg_advisory_lock(7)",
        "CREATE TEMP TABLE accounts (id int)",
        "LISTEN news",
        "DEALLOCATE ALL",
    ];
    for sql in statements {
        for commit in [true, false] {
            let done = within(&base, async |tx: &mut &Tx| {
                execute(tx, sql).await?;
                if commit { Ok(()) } else { Err(Failure::reject("no", 409, "no")) }
            });
            assert_eq!(done.await.is_ok(), commit, "{sql}");
            base.run("", "Entry", Verb::List { params: Vec::new() }).await.unwrap();
            let state = "SELECT (current_schema() = 'public' AND to_regclass('pg_temp.accounts') IS NULL)::int::bigint \
                         + (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()) \
                         + (SELECT count(*) FROM pg_listening_channels())";
            assert_eq!(within(&base, async |tx: &mut &Tx| int(tx, state).await).await.unwrap(), 1, "{sql} {commit}");
        }
    }
    // A plan of one's own that became stale goes with its connection.
    for expected in [true, false, true] {
        let read = within(&base, async |tx: &mut &Tx| {
            let all = sqlx::query("SELECT * FROM entries").fetch_all(&mut *tx.sqlx().await?).await;
            all.map(|_| ()).map_err(|error| procedures::sql_failure(&error))
        });
        assert_eq!(read.await.is_ok(), expected);
        if expected {
            let mut other = base.postgres.as_ref().unwrap().connect().await;
            sqlx::raw_sql("ALTER TABLE entries ADD COLUMN IF NOT EXISTS more int").execute(&mut other).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_connection_that_is_lent_waits_for_nobody() {
    let Some(base) = Base::postgres(TEXT).await else { return };
    within(&base, async |tx: &mut &Tx| {
        let mut connection = tx.sqlx().await?;
        let refused = run(&base, tx, Authority::Rules, "Account", read("1")).await.unwrap_err();
        assert!(refused.detail.starts_with("what `sqlx()` gave is still in use"), "{refused:?}");
        sqlx::raw_sql("SELECT 1").execute(&mut *connection).await.unwrap();
        drop(connection);
        assert_eq!(run(&base, tx, Authority::Rules, "Account", read("1")).await.unwrap_err().code, Code::NotFound);
        Ok(())
    })
    .await
    .unwrap();
}

/// What sqlx counts is looked at before anything else is sent.
#[tokio::test]
async fn what_sqlx_begins_and_does_not_end_commits_nothing() {
    let Some(base) = Base::postgres(TEXT).await else { return };
    let insert = "INSERT INTO entries (id, text) VALUES (1, 'a')";
    let rows =
        async || within(&base, async |tx: &mut &Tx| int(tx, "SELECT count(*) FROM entries").await).await.unwrap();

    // A begin that is given up rolls all of it back, when sqlx comes to it.
    let cancelled = async |tx: &mut &Tx| {
        execute(tx, insert).await?;
        let mut connection = tx.sqlx().await?;
        let mut begin = Box::pin(sqlx::Connection::begin(&mut *connection));
        let in_the_middle = crate::testing::pending(begin.as_mut()).await;
        drop(begin);
        drop(connection);
        if !in_the_middle {
            // The database was quicker, and sqlx has ended what it began.
            return Err(Failure::new(Code::Internal, GIVEN_UP));
        }
        run(&base, tx, Authority::Service, "Entry", create(r#"{"id":2,"text":"b"}"#)).await.map(|_| ())
    };
    let opener = opener(&base);
    let unknown = run_in_isolated_tx(&opener, IsolationLevel::Serializable, cancelled).await.unwrap_err();
    let quick = matches!(&unknown, TxError::Body(failure) if failure.detail == GIVEN_UP);
    assert!(quick || matches!(unknown, TxError::OutcomeUnknown(Some(_))), "{unknown:?}");
    assert_eq!(rows().await, 0);

    let leaked = async |tx: &mut &Tx| {
        let mut connection = tx.sqlx().await?;
        let mut inner = sqlx::Connection::begin(&mut *connection).await.unwrap();
        sqlx::raw_sql(insert).execute(&mut *inner).await.unwrap();
        std::mem::forget(inner);
        Ok::<_, Failure>(())
    };
    let unknown = run_in_isolated_tx(&opener, IsolationLevel::Serializable, leaked).await.unwrap_err();
    assert!(matches!(unknown, TxError::OutcomeUnknown(Some(_))), "{unknown:?}");
    assert_eq!(rows().await, 0);
    base.run("", "Entry", Verb::List { params: Vec::new() }).await.unwrap();
}

/// After SQL of one's own, too, what the database refuses is what the caller hears.
#[tokio::test]
async fn a_refusal_is_told_as_it_is() {
    for base in Base::all(TEXT).await {
        let refused = within(&base, async |tx: &mut &Tx| {
            int(tx, "SELECT count(*) FROM accounts").await?;
            run(&base, tx, Authority::Service, "Account", create(r#"{"id":1,"owner":"Ann","balance":"-1"}"#)).await
        });
        let refused = refused.await.unwrap_err();
        assert_eq!(refused.detail, "insufficient funds", "{} {refused:?}", base.name);
    }
}

/// Whoever may write may make up a context, but nothing that makes the trail or the outbox unreadable; and whoever may add
/// events of its own, none of rows.
#[tokio::test]
async fn what_is_made_up_can_be_read() {
    let Some(base) = Base::postgres(TEXT).await else { return };
    let actor = r#"{"claims":{},"client_ip":null,"roles":[],"subject":"ann"}"#;
    let context = |auth: &str| [actor, auth, "null", "null", "null", "null", "null", "null", "null"].join("\n");
    let insert = "INSERT INTO accounts (id, owner, balance, team_id, made_at, code, version) \
                  VALUES (1, 'Ann', 0, 't1', now(), 'c', 1)";
    for (auth, fine) in [
        (r#""\u0000""#, false),
        (r#""\ud800""#, false),
        (r#""\u0001 and \\u0000""#, true),
        ("7", false),
        (r#""a","b""#, false),
    ] {
        let written = within(&base, async |tx: &mut &Tx| {
            let set = sqlx::query("SELECT set_config('cratestack.context', $1, true)").bind(context(auth));
            set.execute(&mut *tx.sqlx().await?).await.map_err(|error| procedures::sql_failure(&error))?;
            execute(tx, insert).await?;
            execute(tx, "SELECT auth, actor FROM cratestack_audit_events").await?;
            Err::<(), _>(Failure::reject("no", 409, "no"))
        });
        assert_eq!(written.await.unwrap_err().code == Code::Rejected, fine, "{auth}");
    }
    for (call, fine) in [
        ("cratestack_audit_denied('', NULL, NULL, 'Account', '1')", false),
        ("cratestack_audit_denied('', 's', 'v', 'Account', '1')", true),
        ("cratestack_outbox_emit('', 'bank', 'Account.created', '1', '{}')", false),
        ("cratestack_outbox_emit('', 'bank.Account', 'created', '1', '{}')", false),
        ("cratestack_outbox_emit('', NULL, '', '', NULL)", false),
        ("cratestack_outbox_emit('', 'bank', 'moved', '1', NULL)", false),
        (r#"cratestack_outbox_emit('', 'bank', 'moved', '1', E'{"a":\n1}')"#, false),
        (r#"cratestack_outbox_emit('', 'bank', 'moved', '1', '1,"id":"2"')"#, false),
        (r#"cratestack_outbox_emit('', 'bank', 'moved', '1', '{"a":1}')"#, true),
    ] {
        let called = within(&base, async |tx: &mut &Tx| {
            let sql = sqlx::AssertSqlSafe(format!("SELECT {call}"));
            let done = sqlx::raw_sql(sql).execute(&mut *tx.sqlx().await?).await;
            done.map(|_| ()).map_err(|error| procedures::sql_failure(&error))
        });
        assert_eq!(called.await.is_ok(), fine, "{call}");
    }
    let event = events(&base).await.pop().unwrap();
    assert_eq!((&event["type"], &event["source"]), (&"bank.moved".into(), &"/cratestack".into()));
    // A host may say anything.
    let mut who = who(&base, Authority::Service);
    who.request_id = "a\0b".to_owned();
    let model = base.engine.schema().model_named("Account").unwrap();
    base.engine.run(&who, Operation { model, verb: create(r#"{"id":1,"owner":"Ann"}"#) }).await.unwrap();
    within(&base, async |tx: &mut &Tx| execute(tx, "SELECT request_id FROM cratestack_audit_events").await)
        .await
        .unwrap();
}
