//! One request with a key, on a task of its own: from the question whether it was done to its answer.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Weak};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use cratestack_engine::api::Code;
use cratestack_engine::idempotency::store::{IdempotencyStore as _, Reservation, Reserved, StoreDown, Token};
use cratestack_engine::idempotency::{Identity, Record};
use futures_util::FutureExt as _;
use http::{HeaderValue, header};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::Instrument as _;

use super::answer::{Verdict, keep, mark, replay};
use super::running::Underway;
use super::{Crashed, Handler, Interrupted, Recovered, Recovery, Settings, target};
use crate::exchange::panic_text;
use crate::problem::{Problem, ProblemCode};

/// How long a request that waits for another one first waits before it asks again, and at most.
const LOOK: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));
/// The same for a reservation that could not be ended, and how often it is tried.
const AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
const TRIES: u32 = 20;
/// Octets of what is done, for people.
const OP: usize = 255;

/// Twice the pause, within bounds.
fn longer(pause: Duration, (_, most): (Duration, Duration)) -> Duration {
    pause.saturating_mul(2).min(most)
}

pub(super) struct Attempt {
    settings: Arc<Settings>,
    request: Interrupted,
    request_id: String,
    /// Gone with the caller.
    caller: Weak<()>,
}

/// What is to be done with it.
enum Entry {
    /// Run the handler.
    Run(Held),
    /// Find out how it ended.
    Recover(Held, Recovery),
    /// Give the answer again.
    Replay(Record),
}

impl Attempt {
    pub(super) fn new(settings: Arc<Settings>, request: Interrupted, request_id: String, caller: Weak<()>) -> Self {
        Self { settings, request, request_id, caller }
    }

    pub(super) async fn answer(self, handler: Handler) -> Response {
        let outcome = match self.enter().await {
            Ok(Entry::Run(held)) => held.run(handler, &self.request).await,
            Ok(Entry::Recover(held, recovery)) => held.recover(&recovery, handler, &self.request).await,
            Ok(Entry::Replay(record)) => Ok(replay(record)),
            Err(problem) => Err(problem),
        };
        outcome.unwrap_or_else(|problem| problem.refuse(&self.settings.problem_base, &self.request_id))
    }

    /// Gets the reservation, or hears why there is none.
    async fn enter(&self) -> Result<Entry, Problem> {
        let identity = &self.request.identity;
        let until = Instant::now() + self.settings.wait;
        let mut pause = LOOK.0;
        let wanted = self.hold(self.token()?);
        loop {
            let reserved = wanted.within(self.settings.store.reserve(identity, &wanted.reservation)).await;
            let reserved = match reserved {
                Ok(reserved) => reserved,
                Err(down) => {
                    // It may have been made all the same, or be made yet; and nothing has run.
                    wanted.settle_later(End::Withdraw);
                    return Err(unavailable(&down));
                }
            };
            match reserved {
                Reserved::Granted => return Ok(Entry::Run(wanted.begun())),
                Reserved::Done(record) | Reserved::EffectOnly(record) => return Ok(Entry::Replay(record)),
                Reserved::Reused => {
                    return Err(Problem::new(
                        Code::IdempotencyKeyReused,
                        "`Idempotency-Key` was used for another request; every request needs a new one",
                    ));
                }
                Reserved::Unknown(from) => {
                    if let Some(entry) = self.take_over(from).await? {
                        return Ok(entry);
                    }
                }
                Reserved::InFlight => {}
            }
            if Instant::now() >= until {
                return Err(in_flight());
            }
            tokio::select! {
                () = sleep_until(until.min(Instant::now() + pause)) => pause = longer(pause, LOOK),
                () = self.settings.running.over(identity) => {}
            }
            // Nobody waits for it any more, so it does not begin.
            if self.caller.strong_count() == 0 {
                return Err(in_flight());
            }
        }
    }

    /// What to do about a request that was broken off. `None` when another one is faster.
    async fn take_over(&self, from: Token) -> Result<Option<Entry>, Problem> {
        if matches!(self.settings.on_crash, Crashed::Freeze) {
            return Err(outcome_unknown());
        }
        // With another token than a reservation would have: it must not look like the first one.
        let wanted = self.hold(self.token()?);
        let step = self.settings.store.take_over(&self.request.identity, &wanted.reservation, from);
        match wanted.within(step).await {
            Ok(false) => Ok(None),
            Ok(true) => Ok(Some(match &self.settings.on_crash {
                Crashed::Recover(recovery) => Entry::Recover(wanted.begun(), Arc::clone(recovery)),
                Crashed::Freeze | Crashed::Reexecute => Entry::Run(Held { doubtful: true, ..wanted.begun() }),
            })),
            Err(down) => {
                wanted.settle_later(End::Unknown);
                Err(unavailable(&down))
            }
        }
    }

    fn token(&self) -> Result<Token, Problem> {
        Token::fresh(&*self.settings.ids).map_err(|down| unavailable(&down))
    }

    fn hold(&self, token: Token) -> Held {
        let head = &self.request.head;
        let mut op = format!("{} {}", head.method, target(head).path());
        op.truncate(op.floor_char_boundary(OP));
        let reservation = Reservation {
            token,
            op,
            request_id: self.request_id.clone(),
            lease: self.settings.lease,
            retention: self.settings.retention,
        };
        Held {
            settings: Arc::clone(&self.settings),
            identity: self.request.identity.clone(),
            reservation,
            doubtful: false,
            underway: None,
            heartbeat: None,
        }
    }
}

/// A reservation. When this is dropped before it was settled, its lease ends and the outcome is unknown.
#[derive(Clone)]
struct Held {
    settings: Arc<Settings>,
    identity: Identity,
    reservation: Reservation,
    /// Whether an earlier try may have had an effect, so that the key is never free again.
    doubtful: bool,
    /// While it is worked on: what others in this process see of it, and what others elsewhere do.
    underway: Option<Arc<Underway>>,
    heartbeat: Option<Arc<Heartbeat>>,
}

/// Extends the lease until it is dropped.
struct Heartbeat(AbortHandle);

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// How a reservation ends.
#[derive(Clone)]
enum End {
    Complete(Record),
    Release,
    /// A release of what may be reserved only later: the store was too slow to say whether it is.
    Withdraw,
    Unknown,
}

impl Held {
    /// Gives signs of life from now on.
    fn begun(mut self) -> Self {
        self.underway = Some(Arc::new(self.settings.running.begin(&self.identity)));
        self.heartbeat = Some(self.heartbeat());
        self
    }

    fn heartbeat(&self) -> Arc<Heartbeat> {
        let heart = Self { underway: None, heartbeat: None, ..self.clone() };
        let beating = tokio::spawn(async move { heart.beat().await }.in_current_span());
        Arc::new(Heartbeat(beating.abort_handle()))
    }

    async fn beat(&self) {
        let pause = (self.reservation.lease / 3).max(Duration::from_millis(1));
        loop {
            sleep(pause).await;
            let step = self.settings.store.extend(&self.identity, &self.reservation);
            match self.within(step).await {
                Ok(true) => {}
                Ok(false) => return self.lost("the handler is still at work"),
                Err(down) => tracing::warn!(op = self.reservation.op, %down, "a lease could not be extended"),
            }
        }
    }

    /// Runs the handler.
    async fn run(self, handler: Handler, request: &Interrupted) -> Result<Response, Problem> {
        let again = Request::from_parts(request.head.clone(), Body::from(request.body.clone()));
        // In here, so that a panic before the first `.await` is one of the handler, too.
        let response = self.guard(async move { handler(again).await }).await?;
        match Verdict::of(&response) {
            Verdict::Settled => return Ok(self.record(response).await),
            Verdict::NoEffect if !self.doubtful => self.settle(End::Release).await,
            Verdict::NoEffect | Verdict::Unknown => self.settle(End::Unknown).await,
        }
        Ok(response)
    }

    /// Finds out how it ended before, and runs the handler where nothing has happened.
    async fn recover(self, recovery: &Recovery, handler: Handler, request: &Interrupted) -> Result<Response, Problem> {
        match self.guard(async { recovery(request.clone()).await }).await? {
            Recovered::Done(response) => {
                let mut response = self.record(response).await;
                mark(&mut response);
                Ok(response)
            }
            Recovered::NotDone => self.run(handler, request).await,
            Recovered::Unknown => {
                self.settle(End::Unknown).await;
                Err(outcome_unknown())
            }
        }
    }

    /// Runs code of the host within its deadline. When it panics or takes too long, nobody knows what it has done.
    async fn guard<T>(&self, work: impl Future<Output = T>) -> Result<T, Problem> {
        let problem = match timeout(self.settings.deadline, AssertUnwindSafe(work).catch_unwind()).await {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(panic)) => Problem::internal(format!("panic: {}", panic_text(&*panic))),
            Err(_) => Problem::new(Code::Unavailable, "the request took too long, and may or may not have been done"),
        };
        self.clone().settle(End::Unknown).await;
        Err(problem)
    }

    async fn record(self, response: Response) -> Response {
        let (limit, patience) = (self.settings.response_limit, self.settings.response_timeout);
        let (record, response) = keep(response, limit, patience).await;
        self.settle(End::Complete(record)).await;
        response
    }

    /// Ends the reservation; later, when the store is down. Whatever comes of it, the caller gets the answer.
    async fn settle(self, end: End) {
        // What has ended has no lease to extend.
        if let Some(Heartbeat(beating)) = self.heartbeat.as_deref() {
            beating.abort();
        }
        match self.end(&end).await {
            Ok(true) => {}
            Ok(false) => self.lost("its end is not written down"),
            Err(down) => {
                tracing::error!(op = self.reservation.op, %down, "the end of a request with a key is not written down yet");
                self.settle_later(end);
            }
        }
    }

    /// Tries for a while, in the background. A lease that is extended meanwhile ends when this gives up.
    fn settle_later(mut self, end: End) {
        // What was never begun has no record to lose, and must not take the place of one.
        let places = if matches!(end, End::Withdraw) { &self.settings.withdrawals } else { &self.settings.backlog };
        let Ok(place) = Arc::clone(places).try_acquire_owned() else {
            tracing::error!(
                op = self.reservation.op,
                "too many requests with a key wait for the store: one is given up"
            );
            return;
        };
        if self.underway.is_some() {
            self.heartbeat = Some(self.heartbeat());
        }
        let work = async move {
            let _place = place;
            let mut pause = AGAIN.0;
            let mut last = Ok(true);
            for _ in 0..TRIES {
                sleep(pause).await;
                pause = longer(pause, AGAIN);
                last = self.end(&end).await;
                match (&last, &end) {
                    (Ok(true), _) => return,
                    // Most are: it was never made.
                    (Ok(false), End::Withdraw) | (Err(_), _) => {}
                    (Ok(false), _) => return self.lost("its end is not written down"),
                }
            }
            if let Err(down) = last {
                tracing::error!(op = self.reservation.op, %down, "the end of a request with a key is given up");
            }
        };
        tokio::spawn(work.in_current_span());
    }

    async fn end(&self, end: &End) -> Result<bool, StoreDown> {
        let (store, identity, reservation) = (&self.settings.store, &self.identity, &self.reservation);
        self.within(match end {
            End::Complete(record) => store.complete(identity, reservation, record),
            End::Release | End::Withdraw => store.release(identity, reservation),
            End::Unknown => store.mark_unknown(identity, reservation),
        })
        .await
    }

    async fn within<T>(&self, step: impl Future<Output = Result<T, StoreDown>>) -> Result<T, StoreDown> {
        let most = self.settings.store_timeout;
        timeout(most, step).await.unwrap_or_else(|_| Err(StoreDown::new(format!("it took longer than {most:?}"))))
    }

    fn lost(&self, consequence: &str) {
        tracing::error!(
            request_id = self.reservation.request_id,
            op = self.reservation.op,
            "the reservation of a request with a key is somebody else's by now, or gone: {consequence}"
        );
    }
}

fn unavailable(down: &StoreDown) -> Problem {
    let problem =
        Problem::new(Code::Unavailable, "the store of idempotency keys cannot answer, so that nothing was begun");
    let problem = problem.with(header::RETRY_AFTER, HeaderValue::from_static("1"));
    Problem { internal: Some(down.to_string()), ..problem }
}

fn in_flight() -> Problem {
    let problem = Problem::new(Code::IdempotencyInFlight, "the same request is being worked on: ask again soon");
    problem.with(header::RETRY_AFTER, HeaderValue::from_static("1"))
}

fn outcome_unknown() -> Problem {
    Problem::new(
        ProblemCode::OutcomeUnknown,
        "the request was begun before and broke off, and nobody knows whether it was done",
    )
}
