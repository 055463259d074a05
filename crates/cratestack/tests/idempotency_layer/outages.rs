//! Stores that are down before or after the effect.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::response::IntoResponse;
use cratestack::engine::idempotency::store::{BoxFuture, Reservation, Reserved, StoreDown, Token};
use cratestack::engine::idempotency::{Identity, Record};
use cratestack::{Crashed, IdempotencyLayer, IdempotencyStore, NoEffect};
use http::StatusCode;
use tokio::sync::Notify;

use crate::behaviour::{begun, gated};
use crate::host::{DAY, Host, layer};
use crate::places::{PATIENCE, Place, on_every_store, until};

on_every_store! {
    nothing_runs_while_the_store_is_down
    a_reservation_whose_answer_got_lost_is_released
    a_reservation_that_is_made_late_is_released
    a_takeover_whose_answer_got_lost_stays_unknown
    the_answer_is_given_and_written_down_later
    what_is_known_to_have_no_effect_is_released_later
}

/// A step of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Reserve,
    TakeOver,
    Complete,
    Release,
    Unknown,
}

/// How a step fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// It is not done.
    Before,
    /// It is done, and the answer gets lost.
    After,
    /// There is no answer at all.
    Silence,
    /// It is done when somebody has already taken it back (reservations).
    Late,
}

/// A store that fails as it is told, and notes what it was asked for.
#[derive(Clone)]
struct Faulty {
    store: Arc<dyn IdempotencyStore>,
    faults: Arc<Mutex<VecDeque<(Step, Fault)>>>,
    asked: Arc<Mutex<Vec<Step>>>,
    /// What was to be late is done.
    late: Arc<Notify>,
}

impl Faulty {
    fn new(store: &Arc<dyn IdempotencyStore>) -> Self {
        Self { store: Arc::clone(store), faults: Arc::default(), asked: Arc::default(), late: Arc::default() }
    }

    /// The next of these steps fail so, one after the other.
    fn fail(&self, faults: &[(Step, Fault)]) {
        self.faults.lock().unwrap().extend(faults);
    }

    fn asked(&self, step: Step) -> usize {
        self.asked.lock().unwrap().iter().filter(|asked| **asked == step).count()
    }

    fn layer(&self) -> IdempotencyLayer {
        IdempotencyLayer::new(self.clone(), DAY)
    }

    async fn step<T>(&self, step: Step, work: BoxFuture<'_, Result<T, StoreDown>>) -> Result<T, StoreDown> {
        self.asked.lock().unwrap().push(step);
        let fault = {
            let mut faults = self.faults.lock().unwrap();
            let at = faults.iter().position(|(failing, _)| *failing == step);
            at.and_then(|at| faults.remove(at)).map(|(_, fault)| fault)
        };
        match fault {
            None => work.await,
            Some(Fault::Silence) => std::future::pending().await,
            Some(fault) => {
                if fault == Fault::After {
                    work.await?;
                }
                Err(StoreDown::new("as the test has it"))
            }
        }
    }
}

impl IdempotencyStore for Faulty {
    fn reserve<'a>(
        &'a self,
        identity: &'a Identity,
        reservation: &'a Reservation,
    ) -> BoxFuture<'a, Result<Reserved, StoreDown>> {
        if self.faults.lock().unwrap().front() == Some(&(Step::Reserve, Fault::Late)) {
            let (same, identity, reservation) = (self.clone(), identity.clone(), reservation.clone());
            tokio::spawn(async move {
                while same.asked(Step::Release) == 0 {
                    tokio::task::yield_now().await;
                }
                assert_eq!(same.store.reserve(&identity, &reservation).await, Ok(Reserved::Granted));
                same.late.notify_one();
            });
        }
        Box::pin(self.step(Step::Reserve, self.store.reserve(identity, reservation)))
    }

    fn take_over<'a>(
        &'a self,
        identity: &'a Identity,
        reservation: &'a Reservation,
        from: Token,
    ) -> BoxFuture<'a, Result<bool, StoreDown>> {
        Box::pin(self.step(Step::TakeOver, self.store.take_over(identity, reservation, from)))
    }

    fn extend<'a>(
        &'a self,
        identity: &'a Identity,
        reservation: &'a Reservation,
    ) -> BoxFuture<'a, Result<bool, StoreDown>> {
        self.store.extend(identity, reservation)
    }

    fn complete<'a>(
        &'a self,
        identity: &'a Identity,
        reservation: &'a Reservation,
        record: &'a Record,
    ) -> BoxFuture<'a, Result<bool, StoreDown>> {
        Box::pin(self.step(Step::Complete, self.store.complete(identity, reservation, record)))
    }

    fn release<'a>(
        &'a self,
        identity: &'a Identity,
        reservation: &'a Reservation,
    ) -> BoxFuture<'a, Result<bool, StoreDown>> {
        Box::pin(self.step(Step::Release, self.store.release(identity, reservation)))
    }

    fn mark_unknown<'a>(
        &'a self,
        identity: &'a Identity,
        reservation: &'a Reservation,
    ) -> BoxFuture<'a, Result<bool, StoreDown>> {
        Box::pin(self.step(Step::Unknown, self.store.mark_unknown(identity, reservation)))
    }
}

async fn nothing_runs_while_the_store_is_down(place: Place) {
    let faulty = Faulty::new(&place.store);
    let host = Host::counting(faulty.layer());
    faulty.fail(&[(Step::Reserve, Fault::Before)]);
    let answer = host.pay("key").await;
    answer.is(503, "unavailable");
    assert_eq!((answer.header("retry-after"), host.runs()), ("1", 0));
    assert!(!answer.text().contains("as the test has it"));
    assert_eq!(host.pay("key").await.text(), "run 0");
}

/// The reservation was made, and nobody runs: the key must not be frozen.
async fn a_reservation_whose_answer_got_lost_is_released(place: Place) {
    let faulty = Faulty::new(&place.store);
    let host = Host::counting(faulty.layer().wait(Duration::ZERO));
    faulty.fail(&[(Step::Reserve, Fault::After), (Step::Release, Fault::Before)]);
    host.pay("key").await.is(503, "unavailable");
    host.pay("key").await.is(409, "idempotency_in_flight");
    until("the release", async || host.pay("key").await.status == 201).await;
    assert_eq!((host.runs(), faulty.asked(Step::Release)), (1, 2));
}

/// As a database does whose disk stands still for a while.
async fn a_reservation_that_is_made_late_is_released(place: Place) {
    let faulty = Faulty::new(&place.store);
    let host = Host::counting(faulty.layer().wait(Duration::ZERO).lease(2 * PATIENCE));
    faulty.fail(&[(Step::Reserve, Fault::Late)]);
    host.pay("key").await.is(503, "unavailable");
    faulty.late.notified().await;
    host.pay("key").await.is(409, "idempotency_in_flight");
    until("the release", async || host.pay("key").await.status == 201).await;
    assert_eq!(host.runs(), 1);
}

async fn a_takeover_whose_answer_got_lost_stays_unknown(place: Place) {
    let faulty = Faulty::new(&place.store);
    // A lease beyond the patience of the test.
    let keys = faulty.layer().on_crash(Crashed::Reexecute).wait(Duration::ZERO).lease(2 * PATIENCE);
    let host = Host::new(keys, async |before| match before {
        0 => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        _ => StatusCode::CREATED.into_response(),
    });
    assert_eq!(host.pay("key").await.status, 500);
    faulty.fail(&[(Step::TakeOver, Fault::After)]);
    host.pay("key").await.is(503, "unavailable");
    assert_eq!(host.runs(), 1);
    until("the end of the takeover", async || host.pay("key").await.status == 201).await;
    assert_eq!(host.runs(), 2);
}

async fn the_answer_is_given_and_written_down_later(place: Place) {
    let faulty = Faulty::new(&place.store);
    let host = Host::counting(faulty.layer());
    for fault in [Fault::Before, Fault::After] {
        let key = format!("{fault:?}");
        let before = faulty.asked(Step::Complete);
        faulty.fail(&[(Step::Complete, fault); 3]);
        let first = host.pay(&key).await;
        assert_eq!((first.status.as_u16(), first.is_replay()), (201, false));
        // Whoever comes meanwhile waits for it, or finds it.
        let again = host.pay(&key).await;
        assert_eq!((again.is_replay(), &again.body), (true, &first.body));
        until("the last try", async || faulty.asked(Step::Complete) == before + 4).await;
    }
    assert_eq!((host.runs(), faulty.asked(Step::Release)), (2, 0));
}

async fn what_is_known_to_have_no_effect_is_released_later(place: Place) {
    let faulty = Faulty::new(&place.store);
    let host = Host::new(faulty.layer(), async |before| {
        let mut response = (StatusCode::BAD_GATEWAY, format!("run {before}")).into_response();
        response.extensions_mut().insert(NoEffect);
        response
    });
    faulty.fail(&[(Step::Release, Fault::Before); 2]);
    assert_eq!(host.pay("key").await.text(), "run 0");
    // The second one waits for the release, and runs.
    assert_eq!(host.pay("key").await.text(), "run 1");
}

/// A store in memory, so that time can be paused.
#[derive(Default)]
struct Memory {
    rows: Mutex<std::collections::HashMap<String, Row>>,
}

struct Row {
    token: Token,
    lease: tokio::time::Instant,
    state: Result<Record, bool>,
}

impl Memory {
    fn held(&self, identity: &Identity, reservation: &Reservation, change: impl FnOnce(&mut Row)) -> bool {
        let mut rows = self.rows.lock().unwrap();
        let row = rows.get_mut(&identity.key).filter(|row| row.token == reservation.token);
        row.map(change).is_some()
    }
}

/// Does it when it is awaited, and not before.
fn later<'a, T>(work: impl FnOnce() -> T + Send + 'a) -> BoxFuture<'a, Result<T, StoreDown>> {
    Box::pin(async { Ok(work()) })
}

impl IdempotencyStore for Memory {
    fn reserve<'a>(
        &'a self,
        identity: &'a Identity,
        reservation: &'a Reservation,
    ) -> BoxFuture<'a, Result<Reserved, StoreDown>> {
        later(move || {
            let now = tokio::time::Instant::now();
            let mut rows = self.rows.lock().unwrap();
            match rows.get(&identity.key) {
                None => {
                    let row = Row { token: reservation.token, lease: now + reservation.lease, state: Err(false) };
                    rows.insert(identity.key.clone(), row);
                    Reserved::Granted
                }
                Some(Row { state: Ok(record), .. }) => Reserved::Done(record.clone()),
                Some(row) if row.state == Err(true) || row.lease <= now => Reserved::Unknown(row.token),
                Some(_) => Reserved::InFlight,
            }
        })
    }

    fn take_over<'a>(
        &'a self,
        _: &'a Identity,
        _: &'a Reservation,
        _: Token,
    ) -> BoxFuture<'a, Result<bool, StoreDown>> {
        later(|| false)
    }

    fn extend<'a>(
        &'a self,
        identity: &'a Identity,
        reservation: &'a Reservation,
    ) -> BoxFuture<'a, Result<bool, StoreDown>> {
        later(|| self.held(identity, reservation, |row| row.lease = tokio::time::Instant::now() + reservation.lease))
    }

    fn complete<'a>(
        &'a self,
        identity: &'a Identity,
        reservation: &'a Reservation,
        record: &'a Record,
    ) -> BoxFuture<'a, Result<bool, StoreDown>> {
        later(|| self.held(identity, reservation, |row| row.state = Ok(record.clone())))
    }

    fn release<'a>(
        &'a self,
        identity: &'a Identity,
        reservation: &'a Reservation,
    ) -> BoxFuture<'a, Result<bool, StoreDown>> {
        later(|| {
            let held = self.held(identity, reservation, |_| ());
            if held {
                self.rows.lock().unwrap().remove(&identity.key);
            }
            held
        })
    }

    fn mark_unknown<'a>(
        &'a self,
        identity: &'a Identity,
        reservation: &'a Reservation,
    ) -> BoxFuture<'a, Result<bool, StoreDown>> {
        later(|| self.held(identity, reservation, |row| row.state = Err(true)))
    }
}

fn memory() -> Faulty {
    Faulty::new(&(Arc::new(Memory::default()) as Arc<dyn IdempotencyStore>))
}

/// The background gives up at some time; then the lease ends, and the key is frozen, never free.
#[tokio::test(start_paused = true)]
async fn what_cannot_be_written_down_becomes_unknown() {
    let faulty = memory();
    let host = Host::counting(faulty.layer().wait(Duration::ZERO));
    faulty.fail(&[(Step::Complete, Fault::Before); 100]);
    assert_eq!(host.pay("key").await.status, 201);
    let mut answers = Vec::new();
    for _ in 0..300 {
        let code = host.pay("key").await.code();
        if answers.last() != Some(&code) {
            answers.push(code);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(answers, ["idempotency_in_flight", "idempotency_outcome_unknown"]);
    assert_eq!((host.runs(), faulty.asked(Step::Complete), faulty.asked(Step::Release)), (1, 21, 0));
}

/// A store that says nothing is one that is down.
#[tokio::test(start_paused = true)]
async fn a_silent_store_is_down() {
    let faulty = memory();
    let host = Host::counting(faulty.layer());
    faulty.fail(&[(Step::Reserve, Fault::Silence)]);
    let started = tokio::time::Instant::now();
    host.pay("key").await.is(503, "unavailable");
    assert_eq!((started.elapsed().as_secs(), host.runs()), (5, 0));
    faulty.fail(&[(Step::Complete, Fault::Silence)]);
    let first = host.pay("key").await;
    assert_eq!((first.status.as_u16(), host.runs()), (201, 1));
    assert!(host.pay("key").await.is_replay());
}

/// What waits for a store that is down has a bound; beyond it the lease ends at once.
#[tokio::test(start_paused = true)]
async fn what_waits_for_the_store_has_a_bound() {
    let faulty = memory();
    let host = Host::counting(faulty.layer().wait(Duration::ZERO));
    faulty.fail(&[(Step::Complete, Fault::Before); 5_000]);
    for at in 0..70 {
        assert_eq!(host.pay(&format!("key{at}")).await.status, 201);
    }
    tokio::time::sleep(Duration::from_secs(40)).await;
    host.pay("key0").await.is(409, "idempotency_in_flight");
    host.pay("key69").await.is(409, "idempotency_outcome_unknown");
    assert_eq!(host.runs(), 70);
}

/// One that waits, and whose caller hangs up, does not begin when its turn would come.
#[tokio::test(start_paused = true)]
async fn nobody_begins_for_a_caller_that_is_gone() {
    let faulty = memory();
    let (host, gate) = gated(faulty.layer());
    let same = host.clone();
    let first = tokio::spawn(async move { same.pay("key").await });
    begun(&host, 1).await;
    let asked = faulty.asked(Step::Reserve);
    let same = host.clone();
    let second = tokio::spawn(async move { same.pay("key").await });
    until("the second", async || faulty.asked(Step::Reserve) > asked).await;
    second.abort();
    assert!(second.await.unwrap_err().is_cancelled());
    let asked = faulty.asked(Step::Reserve);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(faulty.asked(Step::Reserve) <= asked + 1);
    gate.add_permits(1);
    assert_eq!(first.await.unwrap().status, 201);
    assert_eq!(host.runs(), 1);
}

/// A database that nobody listens at.
#[tokio::test]
async fn a_database_that_is_not_there_is_a_store_that_is_down() {
    let pool = sqlx::postgres::PgPoolOptions::new().connect_lazy("postgres://nobody@127.0.0.1:1/none").unwrap();
    let store: Arc<dyn IdempotencyStore> = Arc::new(cratestack::SqlxIdempotencyStore::new(pool));
    let host = Host::counting(layer(&store).store_timeout(Duration::from_millis(100)));
    host.pay("key").await.is(503, "unavailable");
    assert_eq!(host.runs(), 0);
}

#[cfg(feature = "redis")]
mod redis {
    use std::time::Instant;

    use cratestack::RedisIdempotencyStore;

    use super::*;
    use crate::servers::Redis;

    fn shared(server: &Redis) -> Arc<dyn IdempotencyStore> {
        Arc::new(RedisIdempotencyStore::new(&server.url()).unwrap())
    }

    /// Without Redis nothing runs, and that is said quickly; with it, it goes on by itself.
    #[tokio::test]
    async fn it_is_down_before() {
        let Some(mut server) = Redis::start().await else { return };
        let host = Host::counting(layer(&shared(&server)));
        assert_eq!(host.pay("first").await.text(), "run 0");
        server.kill();
        for _ in 0..3 {
            let started = Instant::now();
            host.pay("key").await.is(503, "unavailable");
            assert!(started.elapsed() < Duration::from_secs(5));
        }
        assert_eq!(host.runs(), 1);
        server.run().await;
        assert_eq!(host.pay("key").await.text(), "run 1");
        assert!(host.pay("key").await.is_replay());
        // Its memory is gone: this is what best effort means.
        assert_eq!(host.pay("first").await.text(), "run 2");
    }

    /// Down when the answer is there: the caller gets it, and it is written down when Redis is back.
    #[tokio::test]
    async fn it_is_down_after() {
        let Some(mut server) = Redis::start().await else { return };
        let (host, gate) = gated(layer(&shared(&server)));
        let same = host.clone();
        let first = tokio::spawn(async move { same.pay("key").await });
        begun(&host, 1).await;
        server.kill();
        gate.add_permits(1);
        assert_eq!(first.await.unwrap().text(), "run 0");
        host.pay("key").await.is(503, "unavailable");
        server.run().await;
        let store = shared(&server);
        let probe = Host::counting(layer(&store).deployment("elsewhere"));
        assert_eq!(probe.pay("key").await.status, 201);
        until("the record", async || server.ask("DBSIZE").unwrap().contains(":2")).await;
        let again = host.pay("key").await;
        assert_eq!((again.text(), again.is_replay(), host.runs()), ("run 0", true, 1));
    }

    /// It loses its memory while the handler runs: what is done is written down all the same.
    #[tokio::test]
    async fn it_forgets_in_between() {
        let Some(mut server) = Redis::start().await else { return };
        let (host, gate) = gated(layer(&shared(&server)));
        let same = host.clone();
        let first = tokio::spawn(async move { same.pay("key").await });
        begun(&host, 1).await;
        server.kill();
        server.run().await;
        gate.add_permits(1);
        assert_eq!(first.await.unwrap().text(), "run 0");
        until("the record", async || server.ask("DBSIZE").unwrap().contains(":1")).await;
        let again = host.pay("key").await;
        assert_eq!((again.text(), again.is_replay(), host.runs()), ("run 0", true, 1));
    }

    /// The same, and a duplicate comes before the first one is done: both run. This is declared, and is why Redis is
    /// not for money.
    #[tokio::test]
    async fn it_forgets_and_a_duplicate_comes() {
        let Some(mut server) = Redis::start().await else { return };
        let (host, gate) = gated(layer(&shared(&server)));
        let same = host.clone();
        let first = tokio::spawn(async move { same.pay("key").await });
        begun(&host, 1).await;
        server.kill();
        server.run().await;
        let same = host.clone();
        let second = tokio::spawn(async move { same.pay("key").await });
        begun(&host, 2).await;
        gate.add_permits(2);
        let (first, second) = (first.await.unwrap(), second.await.unwrap());
        assert_eq!((first.status, second.status, host.runs()), (StatusCode::CREATED, StatusCode::CREATED, 2));
        // The reservation is the second one's, and so is the record.
        let again = host.pay("key").await;
        assert_eq!((again.text(), again.is_replay()), ("run 1", true));
    }
}
