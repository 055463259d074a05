//! Procedures whose requests have an idempotency key.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::ConnectInfo;
use axum::http::{Request, header};
use cratestack::axum;
use cratestack::sqlx::{self, Executor as _};
use cratestack::{DevAuth, Error};
use tower::ServiceExt as _;

use crate::support::Postgres;

mod office {
    cratestack::include_schema!("tests/procedures/refusals.cstack");
}

use office::{Clerk, Db, Line, NewLine, Tx};

struct Office {
    runs: Arc<AtomicUsize>,
}

impl office::Procedures for Office {
    async fn leave(&self, tx: &mut Tx<'_>, _: Option<&Clerk>, text: String) -> Result<Line, Error> {
        self.runs.fetch_add(1, Ordering::SeqCst);
        let line = tx.lines().create(NewLine { text }).await?.into_row()?;
        (&mut *tx.sqlx().await?).execute(sqlx::AssertSqlSafe(line.text.clone())).await.unwrap();
        Ok(line)
    }

    async fn refuse(&self, _: &mut Tx<'_>, _: Option<&Clerk>, status: i64) -> Result<Line, Error> {
        self.runs.fetch_add(1, Ordering::SeqCst);
        Err(Error::reject("no", u16::try_from(status).unwrap(), "no"))
    }
}

async fn call(router: &Router, name: &str, key: &str, body: &str) -> (u16, bool, String) {
    let request = Request::post(format!("/rpc/{name}"))
        .header(header::CONTENT_TYPE, "application/json")
        .header("idempotency-key", key)
        .header(header::AUTHORIZATION, DevAuth::header(r#"{"id":"ann"}"#))
        .extension(ConnectInfo(SocketAddr::from(([127, 0, 0, 1], 1))))
        .body(Body::from(body.to_owned()))
        .unwrap();
    let response = router.clone().oneshot(request).await.unwrap();
    let (status, replayed) = (response.status().as_u16(), response.headers().contains_key("idempotent-replayed"));
    let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    (status, replayed, String::from_utf8(body.to_vec()).unwrap())
}

/// A body that commits by itself has broken its contract, but a key must not make more of its effect than there would be without.
#[tokio::test]
async fn a_body_that_leaves_its_transaction_runs_once() {
    let Some(postgres) = Postgres::new().await else { return };
    let mut told = Vec::new();
    Db::apply(&postgres.url).await.unwrap();
    let db = Db::connect(&postgres.url).await.unwrap();
    let runs = Arc::new(AtomicUsize::new(0));
    let api = cratestack::router(db.clone(), Office { runs: Arc::clone(&runs) }).auth(DevAuth::new());
    let router = api.into_router();
    for sql in ["COMMIT", "ROLLBACK", "COMMIT; BEGIN", "COMMIT AND CHAIN"] {
        runs.store(0, Ordering::SeqCst);
        let before = db.anonymous().lines().all().count().await.unwrap();
        for _ in 0..2 {
            let (status, ..) = call(&router, "leave", &format!("\"{sql}\""), &format!("{{\"text\":\"{sql}\"}}")).await;
            let lines = db.anonymous().lines().all().count().await.unwrap() - before;
            println!("{sql}: {status}, runs {}, lines {lines}", runs.load(Ordering::SeqCst));
            told.push((sql, status, runs.load(Ordering::SeqCst)));
        }
    }
    db.engine().close().await;
    postgres.drop().await;
    for pair in told.chunks(2) {
        let (sql, status, runs) = pair[0];
        assert_eq!((status, runs), (500, 1), "{sql}: one run, whose outcome nobody knows");
        let (_, again, _) = pair[1];
        assert_eq!(again, 500, "{sql}: nothing is recorded");
    }
}

/// docs/idempotency.md: 401, 403, 406, 408, 412, 413, 415, 428 and 429 are not recorded.
#[tokio::test]
async fn statuses_of_refusals() {
    let db = Db::connect("sqlite::memory:").await.unwrap();
    let runs = Arc::new(AtomicUsize::new(0));
    let router = cratestack::router(db.clone(), Office { runs: Arc::clone(&runs) }).auth(DevAuth::new()).into_router();
    let mut kept = Vec::new();
    for status in [400, 402, 403, 404, 405, 406, 408, 409, 410, 412, 413, 415, 421, 422, 423, 424, 425, 428, 429, 451] {
        let body = format!("{{\"status\":{status}}}");
        let _ = call(&router, "refuse", &format!("k{status}"), &body).await;
        let (_, replayed, _) = call(&router, "refuse", &format!("k{status}"), &body).await;
        if replayed {
            kept.push(status);
        }
    }
    println!("{kept:?}");
    assert!(!kept.iter().any(|status| [401, 403, 406, 408, 412, 413, 415, 428, 429].contains(status)), "{kept:?}");
}

/// The marks that PostgreSQL fills in are nothing that a caller can write: not even in the key of a row, which is in `Location`.
#[tokio::test]
async fn a_row_may_be_called_like_a_mark() {
    let Some(postgres) = Postgres::new().await else { return };
    Db::apply(&postgres.url).await.unwrap();
    let db = Db::connect(&postgres.url).await.unwrap();
    let office = Office { runs: Arc::default() };
    let router = cratestack::router(db.clone(), office).auth(DevAuth::new()).into_router();
    for mark in ["version", "digest", "key"] {
        for (id, url) in [
            (format!("~cratestack-{mark}~"), format!("~cratestack-{mark}~")),
            (format!("<cratestack-{mark}>"), format!("%3Ccratestack-{mark}%3E")),
        ] {
            for again in [false, true] {
                let request = Request::post("/boxes")
                    .header(header::CONTENT_TYPE, "application/json")
                    .header("idempotency-key", format!("\"{id}\""))
                    .header(header::AUTHORIZATION, DevAuth::header(r#"{"id":"ann"}"#))
                    .extension(ConnectInfo(SocketAddr::from(([127, 0, 0, 1], 1))))
                    .body(Body::from(format!("{{\"id\":\"{id}\"}}")))
                    .unwrap();
                let response = router.clone().oneshot(request).await.unwrap();
                assert_eq!(response.status(), 201, "{id}");
                assert_eq!(response.headers()[header::LOCATION], format!("/boxes/{url}"), "{id} {again}");
                assert_eq!(response.headers().contains_key("idempotent-replayed"), again, "{id}");
            }
        }
    }
    db.engine().close().await;
    postgres.drop().await;
}
