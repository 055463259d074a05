//! Handlers that do not come to an end, and what becomes of their keys.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::response::{IntoResponse, Response};
use cratestack::engine::idempotency::store::{BoxFuture, Reservation, Reserved, StoreDown, Token};
use cratestack::engine::idempotency::{Identity, Record};
use cratestack::{Crashed, IdempotencyLayer, IdempotencyStore, Interrupted, Recovered};
use futures_util::future::join_all;
use http::StatusCode;

use crate::behaviour::{begun, gated};
use crate::host::{Host, layer, post};
use crate::places::{Place, on_every_store, until};

on_every_store! {
    a_panic_leaves_the_outcome_unknown
    a_deadline_leaves_the_outcome_unknown
    what_broke_off_may_run_again
    what_broke_off_is_never_free_again
    what_broke_off_may_be_found_out
    of_many_retries_one_takes_over
    a_handler_that_was_taken_over_records_nothing
    a_handler_that_lives_is_not_taken_over
}

/// Fails the first time, then answers 201.
fn failing_once(layer: IdempotencyLayer) -> Host {
    Host::new(layer, async |before| match before {
        0 => StatusCode::BAD_GATEWAY.into_response(),
        _ => (StatusCode::CREATED, format!("run {before}")).into_response(),
    })
}

async fn panicking(before: usize) -> Response {
    panic!("run {before} has a secret");
}

async fn a_panic_leaves_the_outcome_unknown(place: Place) {
    for host in [
        Host::new(layer(&place.store), panicking),
        // Before there is even a future.
        Host::new(layer(&place.store), |before| -> BoxFuture<'static, Response> { panic!("run {before}") }),
    ] {
        let key = uuid::Uuid::now_v7().to_string();
        let answer = host.pay(&key).await;
        answer.is(500, "internal");
        assert!(!answer.text().contains("run"));
        host.pay(&key).await.is(409, "idempotency_outcome_unknown");
        assert_eq!(host.runs(), 1);
    }
}

async fn a_deadline_leaves_the_outcome_unknown(place: Place) {
    let (host, _gate) = gated(layer(&place.store).deadline(Duration::from_millis(20)));
    host.pay("key").await.is(503, "unavailable");
    host.pay("key").await.is(409, "idempotency_outcome_unknown");
    assert_eq!(host.runs(), 1);
}

async fn what_broke_off_may_run_again(place: Place) {
    let host = failing_once(layer(&place.store).on_crash(Crashed::Reexecute));
    assert_eq!(host.pay("key").await.status, 502);
    let second = host.pay("key").await;
    assert_eq!((second.text(), second.is_replay()), ("run 1", false));
    let third = host.pay("key").await;
    assert_eq!((third.text(), third.is_replay(), host.runs()), ("run 1", true, 2));
}

/// The second try has no effect, and the first one may have had one.
async fn what_broke_off_is_never_free_again(place: Place) {
    let host = Host::new(layer(&place.store).on_crash(Crashed::Reexecute), async |before| match before {
        0 => StatusCode::BAD_GATEWAY.into_response(),
        1 => StatusCode::TOO_MANY_REQUESTS.into_response(),
        _ => StatusCode::CREATED.into_response(),
    });
    assert_eq!(host.pay("key").await.status, 502);
    assert_eq!(host.pay("key").await.status, 429);
    let other = post("/payments", "key").body(axum::body::Body::from("another payment")).unwrap();
    host.answer(other).await.is(422, "idempotency_key_reused");
    assert_eq!(host.pay("key").await.status, 201);
    assert!(host.pay("key").await.is_replay());
    assert_eq!(host.runs(), 3);
}

async fn what_broke_off_may_be_found_out(place: Place) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let recover = Crashed::recover(move |interrupted: Interrupted| {
        let before = count.fetch_add(1, Ordering::SeqCst);
        assert_eq!((&*interrupted.body, interrupted.head.uri.path()), (&br#"{"amount":"10.00"}"#[..], "/payments"));
        async move {
            match (interrupted.identity.key.as_str(), before % 2) {
                (_, 0) => Recovered::Unknown,
                ("done", _) => Recovered::Done((StatusCode::ACCEPTED, "found").into_response()),
                ("not done", _) => Recovered::NotDone,
                _ => panic!("nobody knows"),
            }
        }
    });
    for (key, status, text) in [("done", 202, "found"), ("\"not done\"", 201, "run 1"), ("panic", 500, "")] {
        let host = failing_once(layer(&place.store).on_crash(recover.clone()));
        assert_eq!(host.pay(key).await.status, 502);
        host.pay(key).await.is(409, "idempotency_outcome_unknown");
        let found = host.pay(key).await;
        assert_eq!(found.status, status);
        if status == 500 {
            found.is(500, "internal");
            host.pay(key).await.is(409, "idempotency_outcome_unknown");
            continue;
        }
        assert_eq!((found.text(), found.is_replay()), (text, key == "done"));
        let again = host.pay(key).await;
        assert_eq!((again.status, again.text(), again.is_replay()), (found.status, text, true));
        assert_eq!(host.runs(), if key == "done" { 1 } else { 2 });
    }
}

async fn of_many_retries_one_takes_over(place: Place) {
    let host = failing_once(layer(&place.store).on_crash(Crashed::Reexecute));
    assert_eq!(host.pay("key").await.status, 502);
    let answers = join_all((0..20).map(|_| {
        let host = host.clone();
        tokio::spawn(async move { host.pay("key").await })
    }));
    for answer in answers.await {
        assert_eq!(answer.unwrap().text(), "run 1");
    }
    assert_eq!(host.runs(), 2);
}

/// A store that never hears a sign of life, as from a process that stands still.
struct Deaf {
    store: Arc<dyn IdempotencyStore>,
    signs: Arc<AtomicUsize>,
    silent: bool,
}

impl IdempotencyStore for Deaf {
    fn reserve<'a>(
        &'a self,
        identity: &'a Identity,
        reservation: &'a Reservation,
    ) -> BoxFuture<'a, Result<Reserved, StoreDown>> {
        self.store.reserve(identity, reservation)
    }

    fn take_over<'a>(
        &'a self,
        identity: &'a Identity,
        reservation: &'a Reservation,
        from: Token,
    ) -> BoxFuture<'a, Result<bool, StoreDown>> {
        self.store.take_over(identity, reservation, from)
    }

    fn extend<'a>(
        &'a self,
        identity: &'a Identity,
        reservation: &'a Reservation,
    ) -> BoxFuture<'a, Result<bool, StoreDown>> {
        self.signs.fetch_add(1, Ordering::SeqCst);
        if self.silent {
            return Box::pin(async { Err(StoreDown::new("it is deaf")) });
        }
        self.store.extend(identity, reservation)
    }

    fn complete<'a>(
        &'a self,
        identity: &'a Identity,
        reservation: &'a Reservation,
        record: &'a Record,
    ) -> BoxFuture<'a, Result<bool, StoreDown>> {
        self.store.complete(identity, reservation, record)
    }

    fn release<'a>(
        &'a self,
        identity: &'a Identity,
        reservation: &'a Reservation,
    ) -> BoxFuture<'a, Result<bool, StoreDown>> {
        self.store.release(identity, reservation)
    }

    fn mark_unknown<'a>(
        &'a self,
        identity: &'a Identity,
        reservation: &'a Reservation,
    ) -> BoxFuture<'a, Result<bool, StoreDown>> {
        self.store.mark_unknown(identity, reservation)
    }
}

async fn a_handler_that_was_taken_over_records_nothing(place: Place) {
    let deaf = Deaf { store: Arc::clone(&place.store), signs: Arc::default(), silent: true };
    let keys = IdempotencyLayer::new(deaf, crate::host::DAY).lease(Duration::from_millis(1));
    let (slow, gate) = gated(keys);
    let quick = Host::new(layer(&place.store).on_crash(Crashed::Reexecute), async |_| "the other one".into_response());
    let same = slow.clone();
    let first = tokio::spawn(async move { same.pay("key").await });
    begun(&slow, 1).await;
    // Those whose layer freezes hear that nobody knows.
    let frozen = Host::counting(layer(&place.store).wait(Duration::ZERO));
    until("the end of the lease", async || {
        let answer = frozen.pay("key").await;
        assert_eq!(answer.status, 409);
        answer.code() == "idempotency_outcome_unknown"
    })
    .await;
    assert_eq!(quick.pay("key").await.text(), "the other one");
    gate.add_permits(1);
    // Its caller gets its answer, which is true; the record is that of the other one.
    assert_eq!(first.await.unwrap().text(), "run 0");
    let again = slow.pay("key").await;
    assert_eq!((again.text(), again.is_replay()), ("the other one", true));
    assert_eq!((slow.runs(), quick.runs(), frozen.runs()), (1, 1, 0));
}

async fn a_handler_that_lives_is_not_taken_over(place: Place) {
    let lease = Duration::from_millis(300);
    let signs = Arc::new(AtomicUsize::new(0));
    let counting = Deaf { store: Arc::clone(&place.store), signs: Arc::clone(&signs), silent: false };
    let keys = IdempotencyLayer::new(counting, crate::host::DAY).lease(lease).on_crash(Crashed::Reexecute);
    let (host, gate) = gated(keys.wait(Duration::ZERO));
    let same = host.clone();
    let first = tokio::spawn(async move { same.pay("key").await });
    begun(&host, 1).await;
    // Two leases long.
    until("signs of life", async || signs.load(Ordering::SeqCst) >= 7).await;
    host.pay("key").await.is(409, "idempotency_in_flight");
    gate.add_permits(1);
    assert_eq!(first.await.unwrap().status, 201);
    // No more of them, once it is over.
    let last = signs.load(Ordering::SeqCst);
    assert!(host.pay("key").await.is_replay());
    assert_eq!((host.runs(), signs.load(Ordering::SeqCst)), (1, last));
}
