//! A service in a database of its own.

use std::net::SocketAddr;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::ConnectInfo;
use axum::http::{Request, header};
use cratestack::sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use cratestack::{DevAuth, Uuid, axum};
use serde_json::Value;
use tower::ServiceExt as _;

/// A new database on the server of the tests, if there is one.
pub(crate) struct Postgres {
    server: String,
    name: String,
    pub(crate) url: String,
}

impl Postgres {
    pub(crate) async fn new() -> Option<Self> {
        if std::env::var("CRATESTACK_TEST_ONLY").is_ok_and(|only| only == "sqlite") {
            return None;
        }
        let server = std::env::var("CRATESTACK_TEST_POSTGRES").expect("set CRATESTACK_TEST_POSTGRES to a server's URL");
        let name = format!("procedures_{}", Uuid::now_v7().simple());
        let mut connection = PgConnection::connect(&server).await.unwrap();
        connection.execute(AssertSqlSafe(format!("CREATE DATABASE {name}"))).await.unwrap();
        let (base, options) = server
            .split_once('?')
            .map_or((server.as_str(), String::new()), |(base, options)| (base, format!("?{options}")));
        let url = format!("{}/{name}{options}", base.rsplit_once('/').unwrap().0);
        Some(Self { server, name, url })
    }

    pub(crate) async fn drop(self) {
        let mut connection = PgConnection::connect(&self.server).await.unwrap();
        connection.execute(AssertSqlSafe(format!("DROP DATABASE {} WITH (FORCE)", self.name))).await.unwrap();
    }
}

/// Calls a procedure as `claims`, or as nobody for an empty text.
pub(crate) async fn call(router: &Router, name: &str, claims: &str, body: &str) -> (u16, Value) {
    let mut request = Request::post(format!("/rpc/{name}")).header(header::CONTENT_TYPE, "application/json");
    if !claims.is_empty() {
        request = request.header(header::AUTHORIZATION, DevAuth::header(claims));
    }
    let peer = ConnectInfo(SocketAddr::from(([127, 0, 0, 1], 1)));
    let request = request.extension(peer).body(Body::from(body.to_owned())).unwrap();
    let response = router.clone().oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    (status, serde_json::from_slice(&body).unwrap())
}
