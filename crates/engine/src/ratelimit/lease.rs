//! Buckets that each process spends from in advance.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use smallvec::SmallVec;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::memory::{SteadyClock, Ticks};
use super::{Adjustment, BoxFuture, Charge, Key, RateLimitStore, Standing, StoreDown, Taken, Verdict};
use crate::sources::{Ids as _, RandomIds};

/// Leases of a line.
const WAYS: usize = 4;
/// Lines of a store: 65 536 keys in 7 MiB.
const LINES: usize = 1 << 14;
/// Leases that are asked for before they are needed, at once.
const REFILLS: usize = 64;
/// How long a refusal is remembered while the store answers: so long it may take until what is given back elsewhere is
/// noticed here. Nanoseconds.
const REMEMBERED: u64 = 1_000_000_000;

/// Units of one key that were paid for in the shared store, and die with their time.
#[derive(Debug, Clone, Copy, Default)]
struct Chunk {
    units: u64,
    /// Nanoseconds by the clock of this process.
    until: u64,
}

/// What is known here of a key.
#[derive(Debug, Clone, Copy)]
struct Lease {
    now: Chunk,
    /// Asked for before it was needed.
    next: Chunk,
    /// How many to ask for.
    size: u64,
    /// When the chunk came that is being spent, and how many it had.
    since: u64,
    had: u64,
    /// Until when somebody asks.
    asking: u64,
    /// So many are too much until then.
    too_much: (u64, u64),
    /// Until when nobody need ask whether they still are.
    sure: u64,
    /// What the shared bucket had left.
    left: u64,
    /// When somebody asked for it last.
    touched: u64,
}

impl Default for Lease {
    fn default() -> Self {
        let nothing = Chunk::default();
        Self {
            now: nothing,
            next: nothing,
            size: 1,
            since: 0,
            had: 0,
            asking: 0,
            too_much: (u64::MAX, 0),
            sure: 0,
            left: 0,
            touched: 0,
        }
    }
}

/// Keys side by side, so that they are found in one line of the cache.
#[derive(Debug, Default)]
struct Line {
    keys: [Option<Key>; WAYS],
    leases: [Lease; WAYS],
}

impl Lease {
    fn units(&self) -> u64 {
        self.now.units + self.next.units
    }

    /// What is lost when it is forgotten: units, then a refusal, then the memory of who came lately.
    fn worth(&self, now: u64) -> (u64, bool, u64) {
        let live = |chunk: &Chunk| if chunk.until > now { chunk.units } else { 0 };
        (live(&self.now) + live(&self.next), self.too_much.1 > now, self.touched)
    }

    /// The refusal that is remembered, if it still holds.
    fn refusal(&self, charge: &Charge, now: u64) -> Option<Standing> {
        let (cost, until) = self.too_much;
        let holds = (cost..=charge.quota.burst()).contains(&charge.cost) && until > now;
        let retry = || until - now + (charge.cost - cost) * charge.quota.increment();
        holds.then(|| Standing {
            verdict: Verdict::Later,
            granted: 0,
            retry: Duration::from_nanos(retry()),
            ..standing(charge, self)
        })
    }

    /// Forgets what is too old, goes on to the next chunk, and learns how much is needed in the time of a lease.
    fn turn(&mut self, now: u64, lease: u64, largest: impl FnOnce() -> u64) {
        let over = self.now.until <= now;
        if self.now.units > 0 && !over {
            return;
        }
        if self.had > 0 {
            let used = self.had - self.now.units.min(self.had);
            let took = if over { lease } else { now.saturating_sub(self.since).clamp(1, lease) };
            // A fifth more than were used in the time of a lease; not more than eight times as many as before.
            let wanted = u128::from(used) * u128::from(lease) * 6 / (u128::from(took) * 5);
            let wanted = u64::try_from(wanted).unwrap_or(u64::MAX).min(self.size.saturating_mul(8));
            self.size = (self.size / 2).saturating_add(wanted.div_ceil(2)).clamp(1, largest());
        }
        let next = if self.next.until > now { self.next } else { Chunk::default() };
        (self.now, self.next) = (next, Chunk::default());
        (self.since, self.had) = (now, next.units);
    }

    /// Says until when they could have been spent.
    fn spend(&mut self, units: u64) -> Option<u64> {
        if self.units() < units {
            return None;
        }
        let first = self.now.units.min(units);
        self.now.units -= first;
        self.next.units -= units - first;
        Some(self.now.until)
    }

    /// Units that have not become older than their chunk.
    fn give_back(&mut self, units: u64, until: u64) {
        let chunks = [&mut self.now, &mut self.next];
        if let Some(chunk) = chunks.into_iter().find(|chunk| chunk.until == until) {
            chunk.units += units;
        }
    }
}

/// A shared store of which each process takes a little more than it needs, and spends it on its own.
///
/// Most decisions then cost no round trip. What a process has taken counts as used everywhere at once, and is lost when
/// it is not used within the *lease*: so over any time *W* all processes together allow at most what the limit does,
/// and besides *min(sum of the chunks, rate x lease)*; over a long time nothing besides. A chunk is what the process
/// used of the key in the time of a lease lately, and a fifth more, and never more than its part of *rate x lease*: a
/// limit of fewer than `nodes` units in the time of a lease is as good as without leases.
///
/// A refusal is remembered for a second at most, so that an attack does not reach the shared store, and for as long as it
/// holds where the store does not answer. Units that are [given back](RateLimitStore::adjust) are noticed by other
/// processes after that second.
#[derive(Debug, Clone)]
pub struct LeasedRateLimitStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    store: Arc<dyn RateLimitStore>,
    /// Nanoseconds.
    lease: u64,
    nodes: u64,
    clock: Arc<dyn Ticks>,
    lines: Box<[Mutex<Line>]>,
    /// What the places of keys are mixed with, so that nobody can choose keys of one line.
    secret: u64,
    refills: Arc<Semaphore>,
}

impl LeasedRateLimitStore {
    /// On a shared store: chunks that live for `lease` (100 ms is usual), in one of `nodes` processes.
    pub fn new(store: Arc<dyn RateLimitStore>, lease: Duration, nodes: u64) -> Self {
        Self::with_clock(store, lease, nodes, Arc::new(SteadyClock::default()))
    }

    /// Without leases: every decision asks the store, unless it is known to be a refusal.
    pub fn remembering(store: Arc<dyn RateLimitStore>) -> Self {
        Self::new(store, Duration::ZERO, 1)
    }

    /// The same by another clock.
    pub fn with_clock(store: Arc<dyn RateLimitStore>, lease: Duration, nodes: u64, clock: Arc<dyn Ticks>) -> Self {
        let lease = u64::try_from(lease.min(super::LONGEST).as_nanos()).unwrap_or(u64::MAX).max(1);
        let lines = (0..LINES).map(|_| Mutex::default()).collect();
        let refills = Arc::new(Semaphore::new(REFILLS));
        let mut octets = [0; 8];
        RandomIds::default().random(&mut octets);
        let secret = u64::from_ne_bytes(octets) | 1;
        Self { shared: Arc::new(Shared { store, lease, nodes: nodes.max(1), clock, lines, secret, refills }) }
    }
}

/// What is known here without asking.
enum Known {
    Spent(Standing, Spending),
    TooMuch(Standing),
    Nothing,
}

/// Units that were spent here.
#[derive(Clone, Copy)]
struct Spending {
    /// Until when they could have been.
    until: u64,
    /// Whether it is time to ask for more.
    soon: bool,
}

impl Shared {
    /// The largest chunk of a key.
    fn largest(&self, charge: &Charge) -> u64 {
        (self.lease / charge.quota.increment() / self.nodes).clamp(1, charge.quota.burst())
    }

    /// Does something with the lease of a key.
    fn with<T>(&self, key: Key, work: impl FnOnce(&mut Lease) -> T) -> Option<T> {
        let line = (((key.0 >> 64) as u64).wrapping_mul(self.secret) >> 32) as usize % self.lines.len();
        let (line, now) = (self.lines.get(line)?, self.clock.nanos());
        let mut line = line.lock().unwrap_or_else(PoisonError::into_inner);
        let Line { keys, leases } = &mut *line;
        let found = keys.iter().position(|other| *other == Some(key));
        let at = found.or_else(|| {
            // The one that loses least.
            let loss = |(key, lease): (&Option<Key>, &Lease)| key.map(|_| lease.worth(now));
            keys.iter().zip(leases.iter()).map(loss).enumerate().min_by_key(|(_, loss)| *loss).map(|(at, _)| at)
        })?;
        let lease = leases.get_mut(at)?;
        if found.is_none() {
            *keys.get_mut(at)? = Some(key);
            *lease = Lease::default();
        }
        lease.touched = now;
        Some(work(lease))
    }

    /// Spends what is here.
    fn spend(&self, charge: &Charge, now: u64) -> Known {
        if charge.cost == 0 {
            return Known::Nothing;
        }
        let known = self.with(charge.key, |lease| {
            lease.turn(now, self.lease, || self.largest(charge));
            if let Some(until) = lease.spend(charge.cost) {
                // In time for the next chunk to be here when this one is used up.
                let soon = lease.next.units == 0 && lease.now.units <= lease.size / 2 && lease.asking <= now;
                return Known::Spent(standing(charge, lease), Spending { until, soon: soon && lease.size > 1 });
            }
            match lease.refusal(charge, now) {
                Some(refused) if lease.sure > now => Known::TooMuch(refused),
                _ => Known::Nothing,
            }
        });
        known.unwrap_or(Known::Nothing)
    }

    fn give_back(&self, charge: &Charge, spending: Spending) {
        self.with(charge.key, |lease| lease.give_back(charge.cost, spending.until));
    }

    /// How many to ask for: only one asker gets more than it needs.
    fn ask(&self, charge: &Charge, now: u64) -> Charge {
        let largest = self.largest(charge);
        let most = self.with(charge.key, |lease| {
            let size = lease.size.min(largest);
            if lease.asking > now || size <= charge.cost {
                return charge.cost;
            }
            lease.asking = now.saturating_add(self.lease);
            size
        });
        Charge { most: most.unwrap_or(0).max(charge.cost), ..*charge }
    }

    /// Writes down what the store said to [`Self::ask`], which was at `asked`.
    fn keep(&self, charge: &Charge, standing: &Standing, asked: u64, now: u64) {
        self.with(charge.key, |lease| {
            // Who got no more than it needed has not asked for all.
            if charge.most > charge.cost {
                lease.asking = 0;
            }
            lease.left = standing.remaining();
            match standing.verdict {
                Verdict::Later => {
                    let retry = u64::try_from(standing.retry.as_nanos()).unwrap_or(u64::MAX);
                    lease.too_much = (charge.cost, now.saturating_add(retry));
                    lease.sure = now.saturating_add(retry.min(REMEMBERED));
                }
                Verdict::Allowed => lease.too_much = (u64::MAX, 0),
                Verdict::Never => {}
            }
            let chunk = Chunk {
                units: standing.granted.saturating_sub(charge.cost),
                // Not from now: it was taken some time after it was asked for.
                until: asked.saturating_add(self.lease),
            };
            if lease.now.units == 0 || lease.now.until <= now {
                (lease.now, lease.since, lease.had) = (chunk, asked, standing.granted);
            } else if lease.next.units < chunk.units || lease.next.until <= now {
                lease.next = chunk;
            }
        });
    }

    /// Gets the next chunk while this one lasts.
    fn refill(self: &Arc<Self>, charge: &Charge) {
        let Ok(runtime) = Handle::try_current() else { return };
        let Ok(permit) = Arc::clone(&self.refills).try_acquire_owned() else { return };
        let (shared, charge) = (Arc::clone(self), charge.units(0));
        let asked = self.clock.nanos();
        let charge = self.ask(&charge, asked);
        if charge.most == 0 {
            return;
        }
        runtime.spawn(async move {
            if let Ok(taken) = shared.store.take(&[charge]).await
                && let Some(standing) = taken.standings().first()
            {
                shared.keep(&charge, standing, asked, shared.clock.nanos());
            }
            drop(permit);
        });
    }

    fn spend_all(self: &Arc<Self>, charges: &[Charge], now: u64) -> Spent {
        if let [charge] = charges
            && let Known::Spent(standing, spending) = self.spend(charge, now)
        {
            if spending.soon {
                self.refill(charge);
            }
            return Spent::Decided(Taken { standings: SmallVec::from_slice(&[standing]) });
        }
        let known: SmallVec<[Known; 2]> = charges.iter().map(|charge| self.spend(charge, now)).collect();
        let refused = known.iter().any(|known| matches!(known, Known::TooMuch(_)));
        let missing = known.iter().any(|known| matches!(known, Known::Nothing));
        for (charge, known) in charges.iter().zip(&known) {
            match known {
                Known::Spent(_, spending) if refused => self.give_back(charge, *spending),
                Known::Spent(_, Spending { soon: true, .. }) => self.refill(charge),
                _ => {}
            }
        }
        if missing && !refused {
            return Spent::Some(known);
        }
        let standings = charges.iter().zip(&known).map(|(charge, known)| match known {
            Known::Spent(standing, _) if refused => Standing { granted: 0, ..*standing },
            Known::Spent(standing, _) | Known::TooMuch(standing) => *standing,
            // Nobody has asked it, since another one refuses.
            Known::Nothing => Standing::unknown(charge.quota),
        });
        Spent::Decided(Taken { standings: standings.collect() })
    }

    async fn take(self: &Arc<Self>, charges: &[Charge]) -> Result<Taken, StoreDown> {
        let now = self.clock.nanos();
        let known = match self.spend_all(charges, now) {
            Spent::Decided(taken) => return Ok(taken),
            Spent::Some(known) => known,
        };
        let mut held = Held { shared: self, charges: SmallVec::new() };
        let mut asked: SmallVec<[Charge; 2]> = SmallVec::new();
        for (charge, known) in charges.iter().zip(&known) {
            match known {
                Known::Spent(_, spending) => held.charges.push((*charge, *spending)),
                _ if charge.cost == 0 => asked.push(*charge),
                _ => asked.push(self.ask(charge, now)),
            }
        }
        let taken = match self.store.take(&asked).await {
            Ok(taken) => taken,
            Err(down) => return self.remembered(charges).ok_or(down),
        };
        let after = self.clock.nanos();
        for (charge, standing) in asked.iter().zip(taken.standings()).filter(|(charge, _)| charge.cost > 0) {
            self.keep(charge, standing, now, after);
        }
        let all = taken.allowed();
        if all {
            held.charges.clear();
        }
        let mut answers = asked.iter().zip(taken.standings());
        let standings = charges.iter().zip(&known).filter_map(|(charge, known)| match known {
            Known::Spent(standing, _) if all => Some(*standing),
            Known::Spent(standing, _) => Some(Standing { granted: 0, ..*standing }),
            _ => answers.next().map(|(_, standing)| {
                let here = self.with(charge.key, |lease| lease.units()).unwrap_or_default();
                let standing = standing.adjusted(0_i64.saturating_sub_unsigned(here));
                Standing { granted: standing.granted.min(charge.cost), ..standing }
            }),
        });
        Ok(Taken { standings: standings.collect() })
    }
}

impl Shared {
    /// The refusal that is remembered, for when the store does not answer.
    fn remembered(&self, charges: &[Charge]) -> Option<Taken> {
        let now = self.clock.nanos();
        let refusals: SmallVec<[Option<Standing>; 2]> =
            charges.iter().map(|charge| self.with(charge.key, |lease| lease.refusal(charge, now)).flatten()).collect();
        refusals.iter().any(Option::is_some).then(|| {
            let known = |(charge, refusal): (&Charge, Option<Standing>)| {
                refusal.unwrap_or_else(|| Standing::unknown(charge.quota))
            };
            Taken { standings: charges.iter().zip(refusals).map(known).collect() }
        })
    }
}

enum Spent {
    Decided(Taken),
    Some(SmallVec<[Known; 2]>),
}

/// Units that were spent here for a request that needs others too; given back unless it gets them.
struct Held<'a> {
    shared: &'a Shared,
    charges: SmallVec<[(Charge, Spending); 2]>,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        for (charge, spending) in &self.charges {
            self.shared.give_back(charge, *spending);
        }
    }
}

/// As far as it is known here.
fn standing(charge: &Charge, lease: &Lease) -> Standing {
    let remaining = lease.left.saturating_add(lease.units()).min(charge.quota.burst());
    Standing { granted: charge.cost, ..Standing::left(charge.quota, remaining) }
}

impl RateLimitStore for LeasedRateLimitStore {
    fn try_take(&self, charges: &[Charge]) -> Option<Taken> {
        match self.shared.spend_all(charges, self.shared.clock.nanos()) {
            Spent::Decided(taken) => Some(taken),
            Spent::Some(known) => {
                for (charge, known) in charges.iter().zip(&known) {
                    if let Known::Spent(_, spending) = known {
                        self.shared.give_back(charge, *spending);
                    }
                }
                None
            }
        }
    }

    fn take<'a>(&'a self, charges: &'a [Charge]) -> BoxFuture<'a, Result<Taken, StoreDown>> {
        Box::pin(self.shared.take(charges))
    }

    fn adjust<'a>(&'a self, adjustments: &'a [Adjustment]) -> BoxFuture<'a, Result<(), StoreDown>> {
        for adjustment in adjustments.iter().filter(|adjustment| adjustment.units < 0) {
            self.shared.with(adjustment.key, |lease| lease.too_much = (u64::MAX, 0));
        }
        self.shared.store.adjust(adjustments)
    }

    fn sweep(&self) -> BoxFuture<'_, Result<u64, StoreDown>> {
        self.shared.store.sweep()
    }

    fn ready(&self) -> BoxFuture<'_, Result<(), StoreDown>> {
        self.shared.store.ready()
    }

    fn shared(&self) -> bool {
        self.shared.store.shared()
    }

    fn remembers(&self) -> bool {
        true
    }

    fn remembered(&self, charges: &[Charge]) -> Option<Taken> {
        self.shared.remembered(charges)
    }
}
