//! What came out of a look at the code rather than of the faults of the matrix.

use tokio::time::Instant;

use crate::database::{Database, WAITING};
use crate::operations::uuid;
use crate::service::{LONG, Request, Service};

fn post(path: &str, body: &str, key: &str) -> Request {
    Request { method: "POST", path: format!("/api{path}"), body: body.to_owned(), key: key.to_owned(), version: None }
}

async fn databases() -> Vec<Database> {
    std::iter::once(Database::sqlite().await).chain(Database::postgres().await).collect()
}

/// A body that commits by itself does what it must not do. It is not run again for that, or it would do it several times.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_commits_by_itself_runs_once() {
    let Some(mut database) = Database::postgres().await else { return };
    let service = Service::start(&database.url()).await;
    let order = format!(r#"{{"from":"{0}","to":"{0}","amount":1,"text":"left"}}"#, uuid(0, 1));
    let answer = post("/rpc/leave", &order, "k").send(service.address).await.unwrap();
    assert_eq!(answer.status, 500, "{}", answer.text());
    assert_eq!(database.number("SELECT count(*) FROM entries WHERE text = 'left'").await, 1);
    drop(service);
    database.close().await;
}

/// What PostgreSQL fills in stands nowhere in what the caller has sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_not_taken_for_a_mark() {
    for database in databases().await {
        let service = Service::start(&database.url()).await;
        for id in ["~cratestack-version~", "~cratestack-digest~", "~cratestack-key~", "<cratestack-version>"] {
            let ticket = format!(r#"{{"id":"{id}","text":"a"}}"#);
            let answer = post("/tickets", &ticket, id).send(service.address).await.unwrap();
            let written = id.replace('<', "%3C").replace('>', "%3E");
            assert_eq!(
                (answer.status, answer.header("location"), answer.header("etag")),
                (201, Some(format!("/api/tickets/{written}").as_str()), Some("\"1\"")),
                "{answer:?}"
            );
        }
        drop(service);
        database.close().await;
    }
}

/// Serializable calls with different keys and different rows are not in each other's way: neither runs twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_keys_of_two_calls_do_not_conflict() {
    let Some(mut database) = Database::postgres().await else { return };
    let service = Service::start(&database.url()).await;
    let call = |number: u64, key: &str| {
        let (from, to) = (uuid(0, number), uuid(1, number));
        let order = format!(r#"{{"from":"{from}","to":"{to}","amount":1,"text":"a"}}"#);
        post("/rpc/settle", &order, key)
    };
    for (at, keys) in (0..).zip([["", ""], ["one", "two"]]) {
        for id in [2 * at, 2 * at + 1].into_iter().flat_map(|number| [uuid(0, number), uuid(1, number)]) {
            let account = post("/accounts", &format!(r#"{{"id":"{id}","owner":"a"}}"#), "");
            assert_eq!(account.send(service.address).await.unwrap().status, 201);
        }
        database.hold().await;
        database.order("audited", "wait", 1).await;
        let (first, address) = (call(2 * at, keys[0]), service.address);
        let first = tokio::spawn(async move { first.send(address).await });
        database.until(WAITING, 1).await;
        let second = call(2 * at + 1, keys[1]).send(service.address).await.unwrap();
        database.release().await;
        let first = first.await.unwrap().unwrap();
        database.over().await;
        assert_eq!((first.status, second.status), (200, 200), "{} {}", first.text(), second.text());
        // A call that runs again leaves a gap.
        let made = database.number("SELECT max(id) FROM entries").await;
        assert_eq!(made, 2 * i64::try_from(at + 1).unwrap(), "with the keys {keys:?}");
    }
    drop(service);
    database.close().await;
}

/// SQLite: requests that share a commit, which fails. Each is done by itself then, and once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_fails_for_many_is_made_for_each() {
    const MANY: usize = 16;
    let mut database = Database::sqlite().await;
    let service = Service::start(&database.url()).await;
    let deadline = Instant::now() + LONG;
    for round in 0.. {
        assert!(Instant::now() < deadline, "requests never share a commit");
        // The first one has a commit of its own, and while that waits the others queue up.
        service.order("at-committing", "1", 2).await;
        let locked = database.locked();
        let all: Vec<Request> = (0..MANY)
            .map(|at| post("/tickets", &format!(r#"{{"id":"g{round}-{at}","text":"a"}}"#), &format!("g-{round}-{at}-")))
            .collect();
        let asked: Vec<_> = all
            .iter()
            .map(|request| {
                let (request, address) = (request.clone(), service.address);
                tokio::spawn(async move { request.send(address).await.unwrap() })
            })
            .collect();
        drop(locked);
        let mut refused = 0;
        for (asked, request) in asked.into_iter().zip(&all) {
            let answer = asked.await.unwrap();
            if answer.status != 201 {
                assert!(answer.text().contains("\"foreign_key_violation\""), "{}", answer.text());
                refused += 1;
                continue;
            }
            let again = request.send(service.address).await.unwrap();
            assert!(again.same(&answer) && again.replayed, "{again:?}, not {answer:?}");
            assert_eq!(database.number(&Database::events(&request.key)).await, 1, "{request:?}");
        }
        let there = database.number(&format!("SELECT count(*) FROM tickets WHERE id LIKE 'g{round}-%'")).await;
        assert_eq!(there, i64::try_from(MANY - refused).unwrap());
        if service.over().await == Some(2) && refused < 2 {
            break;
        }
    }
    drop(service);
}
