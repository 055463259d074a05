//! What to do when a store does not answer.

use std::fmt::Debug;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use smallvec::SmallVec;

use super::memory::{SteadyClock, Ticks};
use super::{Adjustment, Charge, InMemoryRateLimitStore, RateLimitStore, Standing, StoreDown, Taken};

/// Failures one after the other, after which a store is not asked for a while. Of a store that is only late this is not
/// enough: it has to be late for as long as the pause, or anybody who keeps it busy could make it count as down.
const FAILURES: u32 = 5;

/// What a limit does when its store does not answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnFailure {
    /// Counts in this process, which has its share of the limit: nothing is allowed beyond it.
    #[default]
    Local,
    /// Refuses: for what must not be tried often, as logins.
    Closed,
    /// Allows: for what must not fail, as paying customers.
    Open,
}

/// A charge, and what to do when nobody can say whether there is enough.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    /// The charge.
    pub charge: Charge,
    /// What to do then.
    pub on_failure: OnFailure,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// By the store, or by what replaces it.
    Decided(Taken),
    /// Nobody can say, and a limit is [closed](OnFailure::Closed) then, or the request is more than this process may allow alone.
    Unavailable,
}

/// How long a store may take, and what happens when it takes longer.
#[derive(Debug, Clone)]
pub struct LimiterOptions {
    /// How long it may take for an answer. Default 5 ms.
    pub budget: Duration,
    /// How long it is left alone after five errors one after the other, or when it was late for as long as this. Then one
    /// request tries. Default 1 s.
    pub pause: Duration,
    /// Processes that share the limits, at most: each has this part of them while the store does not answer. Default 1.
    pub nodes: u64,
    /// Slots of the table that counts then. Default [`InMemoryRateLimitStore::SLOTS`]; the memory is taken when it is
    /// needed for the first time.
    pub slots: usize,
    /// By which the pause is measured.
    pub clock: Arc<dyn Ticks>,
}

impl Default for LimiterOptions {
    fn default() -> Self {
        Self {
            budget: Duration::from_millis(5),
            pause: Duration::from_secs(1),
            nodes: 1,
            slots: InMemoryRateLimitStore::SLOTS,
            clock: Arc::new(SteadyClock::default()),
        }
    }
}

/// A request that asks. Where it was to find out for all, and gives up before it has, the next one may.
struct Probe<'a> {
    closed_until: &'a AtomicU64,
    /// What was set before, and what it has set.
    of: Option<(u64, u64)>,
}

impl Probe<'_> {
    fn done(mut self) {
        self.of = None;
    }
}

impl Drop for Probe<'_> {
    fn drop(&mut self) {
        if let Some((before, now)) = self.of {
            let _others_have = self.closed_until.compare_exchange(now, before, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}

/// A store that always answers in time, by itself or by the rule of each limit.
#[derive(Debug)]
pub struct Limiter {
    store: Arc<dyn RateLimitStore>,
    options: LimiterOptions,
    /// Counts while the store is down.
    local: OnceLock<InMemoryRateLimitStore>,
    /// One after the other.
    failures: AtomicU32,
    /// Until when the store is left alone; 0 when it is not.
    closed_until: AtomicU64,
    /// When it failed first, since it answered; 0 when it has answered.
    failing: AtomicU64,
    /// All.
    failed: AtomicU64,
}

impl Limiter {
    /// On a store.
    pub fn new(store: Arc<dyn RateLimitStore>, options: LimiterOptions) -> Self {
        Self {
            store,
            options,
            local: OnceLock::new(),
            failures: AtomicU32::new(0),
            closed_until: AtomicU64::new(0),
            failing: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }

    /// The store.
    pub fn store(&self) -> &Arc<dyn RateLimitStore> {
        &self.store
    }

    /// How often the store did not answer in time.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// Whether the store is left alone at present.
    pub fn is_broken(&self) -> bool {
        self.closed_until.load(Ordering::Relaxed) != 0
    }

    /// Takes from all buckets what is asked for, or from none.
    pub async fn take(&self, asked: &[Asked]) -> Admission {
        let charges: SmallVec<[Charge; 2]> = asked.iter().map(|asked| asked.charge).collect();
        if let Some(taken) = self.store.try_take(&charges) {
            return Admission::Decided(taken);
        }
        match self.in_time(self.store.take(&charges)).await {
            Some(taken) => Admission::Decided(taken),
            // Who was refused a moment ago is not let in because the store is busy.
            None => self.store.remembered(&charges).map_or_else(|| self.without(asked), Admission::Decided),
        }
    }

    /// Takes or gives back. Where the store does not answer this is lost.
    pub async fn adjust(&self, adjustments: &[Adjustment]) {
        if self.in_time(self.store.adjust(adjustments)).await.is_none()
            && let Some(local) = self.local.get()
        {
            let share = |adjustment: &Adjustment| Adjustment {
                quota: adjustment.quota.share(self.options.nodes),
                ..*adjustment
            };
            local.adjust_now(&adjustments.iter().map(share).collect::<SmallVec<[Adjustment; 2]>>());
        }
    }

    /// Asks the store, if it is worth trying.
    async fn in_time<T>(&self, work: impl Future<Output = Result<T, StoreDown>>) -> Option<T> {
        let probe = self.may_ask()?;
        let outcome = tokio::time::timeout(self.options.budget, work).await;
        probe.done();
        let late = outcome.is_err();
        let outcome = outcome.unwrap_or_else(|_| Err(StoreDown::new("no answer in time")));
        let now = self.options.clock.nanos();
        match outcome {
            Ok(answer) => {
                self.failures.store(0, Ordering::Relaxed);
                self.failing.store(0, Ordering::Relaxed);
                if self.closed_until.swap(0, Ordering::Relaxed) != 0 {
                    tracing::warn!("the store of the rate limits answers again");
                }
                Some(answer)
            }
            Err(down) => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(internal = %down, "the store of the rate limits did not answer");
                let many = self.failures.fetch_add(1, Ordering::Relaxed) + 1 >= FAILURES;
                let since = match self.failing.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed) {
                    Ok(_) => now,
                    Err(since) => since,
                };
                let silent = now.saturating_sub(since) >= self.pause();
                if many && (silent || !late) {
                    let until = now.saturating_add(self.pause());
                    if self.closed_until.swap(until, Ordering::Relaxed) == 0 {
                        tracing::warn!(internal = %down, "the store of the rate limits is down: each limit does what it says for that");
                    }
                }
                None
            }
        }
    }

    fn pause(&self) -> u64 {
        u64::try_from(self.options.pause.as_nanos()).unwrap_or(u64::MAX)
    }

    /// One request tries when the pause is over, and the others wait for how that ends.
    fn may_ask(&self) -> Option<Probe<'_>> {
        let until = self.closed_until.load(Ordering::Relaxed);
        if until == 0 {
            return Some(Probe { closed_until: &self.closed_until, of: None });
        }
        let now = self.options.clock.nanos();
        let next = now.saturating_add(self.pause());
        let won = now >= until
            && self.closed_until.compare_exchange(until, next, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        won.then(|| Probe { closed_until: &self.closed_until, of: Some((until, next)) })
    }

    /// Decides without the store.
    fn without(&self, asked: &[Asked]) -> Admission {
        let nodes = self.options.nodes;
        let beyond =
            |charge: &Charge| charge.cost > charge.quota.share(nodes).burst() && charge.cost <= charge.quota.burst();
        // What is more than the share of one process nobody can allow alone.
        if asked.iter().any(|asked| match asked.on_failure {
            OnFailure::Closed => true,
            OnFailure::Local => beyond(&asked.charge),
            OnFailure::Open => false,
        }) {
            return Admission::Unavailable;
        }
        let local = asked.iter().filter(|asked| asked.on_failure == OnFailure::Local);
        let share = |asked: &Asked| Charge { quota: asked.charge.quota.share(nodes), ..asked.charge };
        let shares: SmallVec<[Charge; 2]> = local.map(share).collect();
        let taken = self.local().take_now(&shares);
        let (all, mut counted) = (taken.allowed(), taken.standings().iter());
        let standings = asked.iter().filter_map(|asked| match asked.on_failure {
            OnFailure::Local => counted.next().copied(),
            OnFailure::Open | OnFailure::Closed => Some(Standing {
                granted: if all { asked.charge.cost } else { 0 },
                ..Standing::unknown(asked.charge.quota)
            }),
        });
        Admission::Decided(Taken { standings: standings.collect() })
    }

    fn local(&self) -> &InMemoryRateLimitStore {
        self.local
            .get_or_init(|| InMemoryRateLimitStore::with_clock(self.options.slots, Arc::clone(&self.options.clock)))
    }
}
