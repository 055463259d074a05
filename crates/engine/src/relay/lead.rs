//! One sink's task: lead, take, deliver, note.

use std::collections::HashSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::watch;

use super::link::Link;
use super::text::{self, Due, Fate, Texts};
use super::{AuditEvent, AuditSink, Hooks, Log, RelayOptions, SinkError};
use crate::engine::Engine;
use crate::fault::StoreError;

/// How often one who does not lead asks again.
const CANDIDATE: Duration = Duration::from_secs(1);
/// The pause between two looks at what changes slowly.
const TIDY: Duration = Duration::from_mins(1);
/// Characters of an error that are kept.
const ERROR: usize = 500;

/// The task of one sink.
pub(super) struct Leader {
    engine: Engine,
    texts: Texts,
    sink: Arc<dyn AuditSink>,
    name: String,
    options: RelayOptions,
    hooks: Hooks,
    stop: watch::Receiver<bool>,
    /// How many calls in a row found the sink unavailable.
    outages: u32,
    /// When an unavailable sink is called again.
    resume: i64,
    /// Whether the last batch was full.
    full: bool,
    /// When a take is due although it was.
    next_take: i64,
    /// No event below is pending, but for those that a replay has put there in the last minute.
    floor: i64,
    /// When deliveries are purged again.
    tidy: i64,
    /// Before then no delivery was done that is still there.
    purged: i64,
}

/// Why a term of leadership ended.
#[derive(Debug)]
enum End {
    Database(StoreError),
    Standby,
    Backwards,
    Forgotten,
}

impl From<StoreError> for End {
    fn from(error: StoreError) -> Self {
        Self::Database(error)
    }
}

/// Whether to go on with the events at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    On,
    /// The sink is unavailable, or the relay stops.
    Pause,
}

impl Leader {
    pub(super) fn new(
        engine: Engine,
        log: &'static Log,
        sink: Arc<dyn AuditSink>,
        options: RelayOptions,
        hooks: Hooks,
        stop: watch::Receiver<bool>,
    ) -> Self {
        let texts = Texts::new(log, engine.store().dialect());
        let name = sink.name().to_owned();
        Self {
            engine,
            texts,
            sink,
            name,
            options,
            hooks,
            stop,
            outages: 0,
            resume: 0,
            full: false,
            next_take: 0,
            floor: i64::MIN,
            tidy: 0,
            purged: 0,
        }
    }

    /// Works until it is stopped.
    pub(super) async fn run(mut self) {
        let mut failures = 0;
        while !self.stopped() {
            let Err(end) = self.term(&mut failures).await else { return };
            failures += 1;
            let sink = self.name.as_str();
            match end {
                End::Database(error) => {
                    tracing::warn!(sink, failures, class = ?error.class, error = error.message, "a step of the relay failed");
                }
                End::Standby => tracing::warn!(sink, failures, "the relay needs the primary, and this is a standby"),
                End::Backwards => tracing::error!(
                    sink,
                    failures,
                    "the transaction ids of the database are behind the position of the relay: it was restored to another \
                     server; forget the sink to deliver everything again"
                ),
                End::Forgotten => tracing::warn!(sink, "the sink was forgotten while the relay ran"),
            }
            let pause = self.pause(failures);
            self.sleep(pause).await;
        }
    }

    /// Leads, once the lock is granted, until it is stopped or something fails.
    async fn term(&mut self, failures: &mut u32) -> Result<(), End> {
        let mut link = Link::open(&self.engine, self.hooks.clone()).await?;
        while !self.leads(&mut link).await? {
            self.sleep(CANDIDATE).await;
            if self.stopped() {
                return Ok(());
            }
        }
        // Another may have led meanwhile.
        (self.full, self.floor, self.tidy, self.purged) = (false, i64::MIN, 0, 0);
        link.write("enrol", vec![self.texts.enrol(&self.name, self.now())]).await?;
        tracing::debug!(sink = self.name, "the relay leads");
        while !self.stopped() {
            let more = self.round(&mut link).await?;
            *failures = 0;
            if !more {
                self.sleep(self.options.poll).await;
            }
        }
        Ok(())
    }

    async fn leads(&self, link: &mut Link) -> Result<bool, End> {
        let Some(lead) = self.texts.lead(&self.name) else { return Ok(true) };
        let rows = link.read("lead", lead).await?;
        let row = rows.control(0);
        if text::flag(row, 0) {
            return Err(End::Standby);
        }
        match (text::flag(row, 1) || self.hooks.unlocked, text::flag(row, 2)) {
            (true, true) => Err(End::Backwards),
            (leads, _) => Ok(leads),
        }
    }

    /// Takes, delivers and tidies up once; whether there is more to do at once.
    async fn round(&mut self, link: &mut Link) -> Result<bool, End> {
        let mut more = false;
        // While full batches follow each other there is no hurry to take what comes after them.
        if !self.full || self.now() >= self.next_take {
            more |= self.take(link).await?;
        }
        if self.may_call() {
            self.full = self.deliver(link).await?;
            more |= self.full;
        }
        more |= self.tidy(link).await?;
        Ok(more && self.may_call())
    }

    /// Takes what is new; whether there may be more.
    async fn take(&mut self, link: &mut Link) -> Result<bool, End> {
        self.next_take = self.now().saturating_add(micros(self.options.poll));
        let taken = link.take(self.texts.take(&self.name, self.now(), self.floor)).await?;
        let Some(first) = taken.last().filter(|rows| !rows.is_empty()) else { return Err(End::Forgotten) };
        self.floor = text::number(first.control(0), 0).unwrap_or(i64::MAX);
        Ok(taken.len() > 1 && taken.first().is_some_and(|rows| rows.len() == text::PIECE))
    }

    /// Whether the sink is not resting. A clock that was set back must not make it rest for longer than it may.
    fn may_call(&self) -> bool {
        let wait = self.resume.saturating_sub(self.now());
        wait <= 0 || wait > micros(self.options.longest_pause)
    }

    /// Delivers what is due, as far as one batch goes; whether the batch was full.
    async fn deliver(&mut self, link: &mut Link) -> Result<bool, End> {
        let options = &self.options;
        let due = self.texts.due(&self.name, self.now(), self.floor, options.batch, options.batch_bytes);
        let rows = link.read("due", due).await?;
        let found = usize::try_from(text::int(rows.control(0), 5)).unwrap_or(0);
        let full = found >= options.batch || found > rows.len();
        let due: Vec<Due> = (0..rows.len()).filter_map(|row| self.texts.due_row(rows.control(row))).collect();
        drop(rows);
        // Keys whose event was refused just now: their later events must not overtake it.
        let mut held = HashSet::new();
        for (alone, events) in groups(due) {
            if self.group(link, alone, events, &mut held).await? == Next::Pause {
                return Ok(false);
            }
        }
        Ok(full)
    }

    /// Delivers events together; if the sink refuses them, each alone.
    async fn group(
        &mut self,
        link: &mut Link,
        alone: Option<u32>,
        events: Vec<AuditEvent>,
        held: &mut HashSet<(String, String)>,
    ) -> Result<Next, End> {
        let free = |event: &AuditEvent, held: &HashSet<_>| {
            held.is_empty() || !held.contains(&(event.model.clone(), event.primary_key.clone()))
        };
        let events: Vec<AuditEvent> = events.into_iter().filter(|event| free(event, held)).collect();
        if events.is_empty() {
            return Ok(Next::On);
        }
        if events.len() > 1 {
            match self.attempt(link, &events).await? {
                Attempt::Delivered => return Ok(Next::On),
                Attempt::Pause => return Ok(Next::Pause),
                Attempt::Refused(_) => {}
            }
        }
        for event in events {
            if !free(&event, held) {
                continue;
            }
            match self.attempt(link, std::slice::from_ref(&event)).await? {
                Attempt::Delivered => {}
                Attempt::Pause => return Ok(Next::Pause),
                Attempt::Refused(error) => {
                    let refusals = alone.unwrap_or(0).saturating_add(1);
                    let fate = self.fate(refusals);
                    let error = kept(&error);
                    let note = self.texts.refused(&self.name, event.seq, &error, fate);
                    link.write("refused", vec![note]).await?;
                    let (sink, seq) = (self.name.as_str(), event.seq);
                    if fate == Fate::Dead {
                        tracing::error!(sink, seq, refusals, error, "an event has become a dead letter");
                    } else {
                        tracing::warn!(sink, seq, refusals, error, "the sink refuses an event");
                        held.insert((event.model, event.primary_key));
                    }
                }
            }
        }
        Ok(Next::On)
    }

    /// Calls the sink, and notes what there is to note but for a refusal.
    async fn attempt(&mut self, link: &mut Link, events: &[AuditEvent]) -> Result<Attempt, End> {
        if self.stopped() {
            return Ok(Attempt::Pause);
        }
        let seqs: Vec<i64> = events.iter().map(|event| event.seq).collect();
        self.hooks.at("sink", "before");
        let answer = self.call(events).await;
        self.hooks.at("sink", "after");
        match answer {
            Ok(()) => {
                self.outages = 0;
                link.write("delivered", vec![self.texts.delivered(&self.name, &seqs, self.now())]).await?;
                Ok(Attempt::Delivered)
            }
            Err(error) if error.is_unavailable() => {
                self.outages = self.outages.saturating_add(1);
                let pause = self.pause(self.outages);
                self.resume = self.now().saturating_add(micros(pause));
                let error = kept(&error);
                tracing::warn!(sink = self.name, outages = self.outages, ?pause, error, "the sink is unavailable");
                link.write("waits", vec![self.texts.waits(&self.name, &seqs, &error)]).await?;
                Ok(Attempt::Pause)
            }
            Err(error) => {
                self.outages = 0;
                Ok(Attempt::Refused(error))
            }
        }
    }

    async fn call(&self, events: &[AuditEvent]) -> Result<(), SinkError> {
        let call = AssertUnwindSafe(async { self.sink.deliver(events).await }).catch_unwind();
        tokio::select! {
            biased;
            answer = call => answer.unwrap_or_else(|_| Err(SinkError::refused("the sink panicked"))),
            () = self.options.sleep.sleep(self.options.call_deadline) => {
                Err(SinkError::unavailable("the sink did not answer in time"))
            }
        }
    }

    fn fate(&self, refusals: u32) -> Fate {
        if refusals >= self.options.max_attempts {
            return Fate::Dead;
        }
        Fate::Again(self.now().saturating_add(micros(self.pause(refusals))))
    }

    /// Once a minute looks at what a replay has asked for, and deletes old deliveries, a piece at a time; whether there
    /// may be more.
    async fn tidy(&mut self, link: &mut Link) -> Result<bool, End> {
        let now = self.now();
        if now < self.tidy {
            return Ok(false);
        }
        let cutoff = now.saturating_sub(micros(self.options.keep));
        let rows = link.write("purge", self.texts.purge(&self.name, self.purged, cutoff)).await?;
        let more = rows.last().is_some_and(|rows| rows.len() == text::PIECE);
        if !more {
            self.floor = i64::MIN;
            self.tidy = now.saturating_add(micros(TIDY));
            self.purged = cutoff;
        }
        Ok(more)
    }

    /// Before try number `tries` + 1: at random between the half and the whole of a time that doubles.
    fn pause(&self, tries: u32) -> Duration {
        let mut octets = [0; 4];
        self.engine.ids().random(&mut octets);
        let part = f64::from(u32::from_be_bytes(octets)) / f64::from(u32::MAX);
        let doubled = self.options.first_pause.saturating_mul(1 << tries.saturating_sub(1).min(30));
        doubled.min(self.options.longest_pause).mul_f64(0.5 + part / 2.0)
    }

    fn now(&self) -> i64 {
        self.engine.clock().now()
    }

    fn stopped(&self) -> bool {
        // Nobody is left who could stop it otherwise.
        *self.stop.borrow() || self.stop.has_changed().is_err()
    }

    async fn sleep(&mut self, duration: Duration) {
        let slept = self.options.sleep.sleep(duration);
        tokio::select! {
            () = slept => {}
            _ = self.stop.wait_for(|stop| *stop) => {}
        }
    }
}

enum Attempt {
    Delivered,
    Refused(SinkError),
    Pause,
}

/// Cuts what is due into calls: an event that was refused before goes alone, so that it takes no others with it, and
/// comes with the number of its refusals.
fn groups(due: Vec<Due>) -> Vec<(Option<u32>, Vec<AuditEvent>)> {
    let mut groups: Vec<(Option<u32>, Vec<AuditEvent>)> = Vec::new();
    for Due { event, refusals } in due {
        match groups.last_mut() {
            Some((None, events)) if refusals == 0 => events.push(event),
            _ => groups.push(((refusals > 0).then_some(refusals), vec![event])),
        }
    }
    groups
}

/// What is kept of a message: without control characters, which the database might refuse.
fn kept(error: &SinkError) -> String {
    error.message().chars().map(|c| if c.is_control() { ' ' } else { c }).take(ERROR).collect()
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
