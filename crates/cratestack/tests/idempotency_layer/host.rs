//! A host with one route, whose handler counts and does what the test says.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use cratestack::{CallerScope, IdempotencyLayer, IdempotencyStore};
use http::{HeaderMap, StatusCode};
use tower::ServiceExt as _;

pub(crate) const DAY: Duration = Duration::from_hours(24);

/// The host, and how often its handler has begun.
#[derive(Clone)]
pub(crate) struct Host {
    app: Router,
    runs: Arc<AtomicUsize>,
}

/// An answer that has arrived.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

pub(crate) fn layer(store: &Arc<dyn IdempotencyStore>) -> IdempotencyLayer {
    IdempotencyLayer::new(Arc::clone(store), DAY)
}

impl Host {
    /// The handler is told how often it has run before.
    pub(crate) fn new<F, Fut>(layer: IdempotencyLayer, handler: F) -> Self
    where
        F: Fn(usize) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Response> + Send + 'static,
    {
        let runs = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&runs);
        let handler = move |_: Request| {
            let before = counted.fetch_add(1, Ordering::SeqCst);
            handler(before)
        };
        let routes = Router::new().route("/payments", any(handler.clone())).route("/refunds", any(handler));
        Self { app: routes.layer(layer), runs }
    }

    /// One that answers 201 with the number of the run.
    pub(crate) fn counting(layer: IdempotencyLayer) -> Self {
        Self::new(layer, async |before| (StatusCode::CREATED, format!("run {before}")).into_response())
    }

    pub(crate) fn app(&self) -> Router {
        self.app.clone()
    }

    pub(crate) fn runs(&self) -> usize {
        self.runs.load(Ordering::SeqCst)
    }

    /// The answer, whose body is still to come.
    pub(crate) async fn begin(&self, request: Request) -> Response {
        self.app.clone().oneshot(request).await.unwrap()
    }

    pub(crate) async fn answer(&self, request: Request) -> Answer {
        let (head, body) = self.begin(request).await.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap().to_vec();
        Answer { status: head.status, headers: head.headers, body }
    }

    /// A payment with that key by Ann.
    pub(crate) async fn pay(&self, key: &str) -> Answer {
        self.answer(payment(key)).await
    }
}

pub(crate) fn post(path: &str, key: &str) -> http::request::Builder {
    Request::post(path)
        .header("idempotency-key", key)
        .header("authorization", "Bearer of something")
        .header("content-type", "application/json")
        .extension(CallerScope::new(None, "ann"))
}

pub(crate) fn payment(key: &str) -> Request {
    post("/payments", key).body(Body::from(r#"{"amount":"10.00"}"#)).unwrap()
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// The code of a problem.
    pub(crate) fn code(&self) -> String {
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        assert_eq!(self.header("cache-control"), "no-store");
        let problem: serde_json::Value = serde_json::from_slice(&self.body).unwrap();
        assert_eq!(problem["status"], self.status.as_u16());
        assert_eq!(problem["requestId"], self.header("x-request-id"));
        let code = problem["code"].as_str().unwrap();
        assert_eq!(problem["type"], format!("https://cratestack.dev/problems/{code}"));
        code.to_owned()
    }

    /// Fails unless it is this problem.
    pub(crate) fn is(&self, status: u16, code: &str) {
        assert_eq!((self.status.as_u16(), self.code().as_str()), (status, code), "{self:?}");
    }

    pub(crate) fn is_replay(&self) -> bool {
        let marked = self.headers.contains_key("idempotent-replayed");
        assert!(!marked || (self.header("idempotent-replayed"), self.header("cache-control")) == ("true", "no-store"));
        marked
    }
}
