//! A service on a database of its own, in process, with clock and identifiers that depend on the step alone.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::ConnectInfo;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cratestack_conformance::clock::Seeded;
use cratestack_conformance::database::{Backend, TestDatabase};
use cratestack_engine::Engine;
use cratestack_schema::ir::Schema;
use http::Request;
use tower::ServiceExt as _;

/// A request.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    /// The claims of the caller, as JSON; none for the anonymous one.
    pub(crate) who: Option<&'static str>,
    pub(crate) method: &'static str,
    /// Path and query below the mount point.
    pub(crate) target: String,
    pub(crate) if_match: Option<String>,
    pub(crate) body: Option<String>,
}

/// An answer, as far as it may be compared: all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Reply {
    /// The cursor of the next page.
    pub(crate) fn next(&self) -> Option<String> {
        let body: serde_json::Value = serde_json::from_str(&self.body).ok()?;
        body.get("next")?.as_str().map(str::to_owned)
    }
}

/// One service.
pub(crate) struct World {
    router: Router,
    engine: Engine,
    sources: Arc<Seeded>,
    pub(crate) database: TestDatabase,
}

impl World {
    pub(crate) async fn new(schema: &Arc<Schema>, backend: Backend) -> Self {
        let mut database = TestDatabase::new(backend).await;
        database.create(schema).await;
        let sources = Arc::new(Seeded::default());
        let mut options = sources.options();
        // Small, so that few rows fill pages.
        options.limits.include_limit = 2;
        options.limits.list_default = 5;
        let engine = Engine::open(Arc::clone(schema), &database.database(), options).await.unwrap();
        let router = cratestack::router(engine.clone(), cratestack::NoProcedures)
            .auth(cratestack::DevAuth::new())
            .into_service();
        Self { router, engine, sources, database }
    }

    pub(crate) async fn send(&self, step: u64, ask: &Ask) -> Reply {
        self.sources.step(step);
        let mut request = Request::builder()
            .method(ask.method)
            .uri(format!("{}{}", cratestack_conformance::MOUNT, ask.target))
            .header("x-request-id", "r");
        if let Some(claims) = ask.who {
            request = request.header("authorization", format!("Bearer dev.{}", URL_SAFE_NO_PAD.encode(claims)));
        }
        if let Some(versions) = &ask.if_match {
            request = request.header("if-match", versions);
        }
        if ask.body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let mut request = request.body(ask.body.clone().map_or_else(Body::empty, Body::from)).unwrap();
        request.extensions_mut().insert(ConnectInfo(SocketAddr::from(([127, 0, 0, 1], 9))));
        let (parts, body) = self.router.clone().oneshot(request).await.unwrap().into_parts();
        let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let headers = parts.headers.iter().map(|(name, value)| (name.to_string(), text(value)));
        let body = to_bytes(body, usize::MAX).await.unwrap();
        Reply {
            status: parts.status.as_u16(),
            headers: headers.collect(),
            body: String::from_utf8_lossy(&body).into_owned(),
        }
    }

    pub(crate) async fn end(self) {
        self.engine.close().await;
        self.database.remove().await;
    }
}

/// The schema of these tests.
pub(crate) fn schema() -> Arc<Schema> {
    let (schema, found) = cratestack_schema::compile("fuzz", include_str!("fuzz.cstack"));
    Arc::new(schema.unwrap_or_else(|| panic!("{found:#?}")))
}
