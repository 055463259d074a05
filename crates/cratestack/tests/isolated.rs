//! `run_in_isolated_tx` inside of an axum handler, whose future must be `Send`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use axum::extract::{Path, State};
use axum::http::{Request, StatusCode};
use axum::routing::post;
use axum::{Router, body::Body};
use cratestack::{IsolationLevel, TxError, axum, run_in_isolated_tx};
use sqlx::postgres::PgPoolOptions;
use sqlx::{PgPool, Row as _};
use tower::ServiceExt as _;

#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("insufficient funds")]
    Funds,
    #[error("in the database")]
    Database(#[from] sqlx::Error),
}

/// Moves money between two rows of a sequence of statements that another transfer must not pass.
async fn transfer(State(pool): State<PgPool>, Path(amount): Path<i64>) -> Result<String, StatusCode> {
    let moved = run_in_isolated_tx(&pool, IsolationLevel::Serializable, async move |tx| {
        let row = sqlx::query("SELECT $1::bigint + pg_backend_pid() * 0").bind(amount).fetch_one(tx.sqlx()).await?;
        let amount: i64 = row.try_get(0)?;
        if amount > 100 { Err(Refusal::Funds) } else { Ok(amount) }
    });
    match moved.await {
        Ok(amount) => Ok(amount.to_string()),
        Err(TxError::Body(Refusal::Funds)) => Err(StatusCode::UNPROCESSABLE_ENTITY),
        Err(TxError::Aborted { .. }) => Err(StatusCode::CONFLICT),
        Err(_) => Err(StatusCode::SERVICE_UNAVAILABLE),
    }
}

#[tokio::test]
async fn a_handler_runs_a_transaction() {
    if std::env::var("CRATESTACK_TEST_ONLY").is_ok_and(|only| only == "sqlite") {
        return;
    }
    let url = std::env::var("CRATESTACK_TEST_POSTGRES").expect("set CRATESTACK_TEST_POSTGRES to a server's URL");
    let pool = PgPoolOptions::new().connect(&url).await.unwrap();
    let app = Router::new().route("/transfers/{amount}", post(transfer)).with_state(pool);
    for (amount, status) in [(100, StatusCode::OK), (101, StatusCode::UNPROCESSABLE_ENTITY)] {
        let request = Request::post(format!("/transfers/{amount}")).body(Body::empty()).unwrap();
        assert_eq!(app.clone().oneshot(request).await.unwrap().status(), status);
    }
}
