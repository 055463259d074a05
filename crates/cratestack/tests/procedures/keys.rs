//! Calls with an `Idempotency-Key`.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::ConnectInfo;
use axum::http::{Request, header};
use cratestack::{DevAuth, axum};
use futures_util::FutureExt as _;
use tower::ServiceExt as _;

use crate::desk::{Office, bases, office};
use office::{NewTicket, TicketPatch, ticket};

const ANN: &str = r#"{"id":"ann"}"#;

fn request(claims: &str, key: &str, body: &str) -> Request<Body> {
    let request = Request::post("/rpc/close")
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::AUTHORIZATION, DevAuth::header(claims))
        .header("idempotency-key", key)
        .extension(ConnectInfo(SocketAddr::from(([127, 0, 0, 1], 1))));
    request.body(Body::from(body.to_owned())).unwrap()
}

/// Status, whether it is a replay, and the body.
async fn send(router: &Router, claims: &str, key: &str, body: &str) -> (u16, bool, String) {
    let response = router.clone().oneshot(request(claims, key, body)).await.unwrap();
    let replayed = response.headers().get("idempotent-replayed").is_some_and(|value| value == "true");
    let status = response.status().as_u16();
    let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    (status, replayed, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_with_a_key_happens_once() {
    for (db, postgres) in bases().await {
        let closed = Arc::new(AtomicUsize::new(0));
        let api = cratestack::router(db.clone(), Office { closed: Arc::clone(&closed) }).auth(DevAuth::new());
        let router = api.into_router();
        let job = db.as_system("test");
        for text in ["a", "b"] {
            job.tickets().create(NewTicket { text: text.into() }).await.unwrap();
        }

        // Fifty at once.
        let calls = (0..50).map(|_| {
            let router = router.clone();
            tokio::spawn(async move { send(&router, ANN, "fifty", r#"{"id":"1"}"#).await })
        });
        let mut answers = BTreeSet::new();
        let mut first = 0;
        for call in calls.collect::<Vec<_>>() {
            let (status, replayed, body) = call.await.unwrap();
            first += usize::from(!replayed);
            answers.insert((status, body));
        }
        assert_eq!((first, answers.len(), closed.load(Ordering::SeqCst)), (1, 1, 1), "{answers:?}");
        assert_eq!(answers.first().unwrap().0, 200);

        // Somebody else has nothing to do with it, and another request is another one.
        let (status, replayed, problem) = send(&router, r#"{"id":"bob"}"#, "fifty", r#"{"id":"1"}"#).await;
        assert_eq!((status, replayed, problem.contains("already_closed")), (409, false, true), "{problem}");
        let (status, _, problem) = send(&router, ANN, "fifty", r#"{"id":"2"}"#).await;
        assert_eq!((status, problem.contains("idempotency_key_reused")), (422, true), "{problem}");

        // What the body refused is its answer, whatever becomes of the ticket; what never reached it is not.
        let refused = send(&router, ANN, "refused", r#"{"id":"1"}"#).await;
        assert_eq!((refused.0, refused.1, refused.2.contains("already_closed")), (409, false, true));
        let text = TicketPatch { text: "again".into() };
        job.tickets().update(1).any_version().put_null(ticket::closed_by()).set(text).await.unwrap();
        assert_eq!(send(&router, ANN, "refused", r#"{"id":"1"}"#).await, (409, true, refused.2));
        let (status, _, problem) = send(&router, ANN, "invalid", r#"{"id":true}"#).await;
        assert_eq!((status, problem.contains("validation_failed")), (422, true), "{problem}");
        let (status, replayed, _) = send(&router, ANN, "invalid", r#"{"id":"1"}"#).await;
        assert_eq!((status, replayed, closed.load(Ordering::SeqCst)), (200, false, 2), "nothing was kept of it");

        // A caller that hangs up.
        let mut call = Box::pin(router.clone().oneshot(request(ANN, "gone", r#"{"id":"2"}"#)));
        // It has begun once its connection, or the writer, is asked for something. A writer that is quick has done it by then.
        let _ = (&mut call).now_or_never();
        drop(call);
        let (status, _, body) = send(&router, ANN, "gone", r#"{"id":"2"}"#).await;
        assert_eq!((status, closed.load(Ordering::SeqCst)), (200, 3), "{body}");
        assert_eq!(send(&router, ANN, "gone", r#"{"id":"2"}"#).await, (200, true, body));

        db.engine().close().await;
        if let Some(postgres) = postgres {
            postgres.drop().await;
        }
    }
}
