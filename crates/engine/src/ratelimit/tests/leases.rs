//! Many nodes that spend in advance, on a clock that does not wait: how much they may do is what was proved.

use std::sync::Mutex;

use proptest::test_runner::{Config, TestRunner};

use super::*;

/// The clock of a runtime whose time is paused.
#[derive(Debug)]
struct Paused(tokio::time::Instant);

impl Ticks for Paused {
    fn nanos(&self) -> u64 {
        START + u64::try_from((tokio::time::Instant::now() - self.0).as_nanos()).unwrap()
    }
}

/// A store that is some way off, and knows what it gave.
#[derive(Debug)]
struct Far {
    memory: InMemoryRateLimitStore,
    way: Duration,
    /// Time and units of each grant.
    grants: Mutex<Vec<(u64, u64)>>,
    clock: Arc<Paused>,
    trips: AtomicU64,
}

impl RateLimitStore for Far {
    fn take<'a>(&'a self, charges: &'a [Charge]) -> BoxFuture<'a, Result<Taken, StoreDown>> {
        Box::pin(async move {
            self.trips.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(self.way).await;
            let taken = self.memory.take_now(charges);
            let granted = taken.standings().iter().map(|standing| standing.granted).sum();
            self.grants.lock().unwrap().push((self.clock.nanos(), granted));
            tokio::time::sleep(self.way).await;
            Ok(taken)
        })
    }

    fn adjust<'a>(&'a self, adjustments: &'a [Adjustment]) -> BoxFuture<'a, Result<(), StoreDown>> {
        self.memory.adjust_now(adjustments);
        Box::pin(std::future::ready(Ok(())))
    }
}

#[derive(Debug, Clone)]
struct Setting {
    quota: Quota,
    nodes: u64,
    lease: u64,
    way: u64,
    /// Requests: node, microseconds after the one before it on the node, cost.
    load: Vec<(u64, u64, u64)>,
}

fn setting() -> impl Strategy<Value = Setting> {
    let quota =
        (1_u64..3_000, 1_u64..300).prop_map(|(rate, burst)| Quota::new(rate, Duration::from_secs(1), burst).unwrap());
    // Rests in which the bucket fills up while chunks are held, and loads between them, on all nodes: how long the rest,
    // how many requests on each node, how long between them, and what they cost.
    let phase = (
        0_u64..400_000,
        1_u64..150,
        prop_oneof![0_u64..300, 0_u64..5_000],
        prop_oneof![5 => Just(1_u64), 1 => 2_u64..5],
    );
    (quota, 1_u64..8, 1_u64..200, 0_u64..10, prop::collection::vec(phase, 1..12)).prop_map(
        |(quota, nodes, lease, way, phases)| {
            let load = phases.into_iter().flat_map(|(rest, requests, between, cost)| {
                (0..requests)
                    .flat_map(move |at| (0..nodes).map(move |node| (node, if at == 0 { rest } else { between }, cost)))
            });
            Setting { quota, nodes, lease, way, load: load.collect() }
        },
    )
}

/// What was spent when, and what was granted when.
type History = Vec<(u64, u64)>;

fn simulate(setting: &Setting) -> (History, History, u64) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let clock = Arc::new(Paused(tokio::time::Instant::now()));
        let far = Arc::new(Far {
            memory: InMemoryRateLimitStore::with_clock(64, clock.clone()),
            way: Duration::from_millis(setting.way),
            grants: Mutex::default(),
            clock: clock.clone(),
            trips: AtomicU64::new(0),
        });
        let lease = Duration::from_millis(setting.lease);
        let nodes: Vec<_> = (0..setting.nodes)
            .map(|at| {
                let node = LeasedRateLimitStore::with_clock(far.clone(), lease, setting.nodes, clock.clone());
                let load: Vec<(u64, u64)> = setting
                    .load
                    .iter()
                    .filter(|(node, ..)| *node == at)
                    .map(|(_, pause, cost)| (*pause, *cost))
                    .collect();
                (node, load)
            })
            .collect();
        let mut tasks = tokio::task::JoinSet::new();
        for (node, load) in nodes {
            let (clock, quota) = (clock.clone(), setting.quota);
            tasks.spawn(async move {
                let mut calls = tokio::task::JoinSet::new();
                for (pause, cost) in load {
                    tokio::time::sleep(Duration::from_micros(pause)).await;
                    let (node, clock) = (node.clone(), clock.clone());
                    // As the limiter does it.
                    calls.spawn(async move {
                        let charge = [Charge::new(Key(5), quota).units(cost)];
                        let at = clock.nanos();
                        match node.try_take(&charge) {
                            Some(taken) => taken.allowed().then_some((at, cost)),
                            // It counts from when it was asked for: the chunk dies by that time too.
                            None => node.take(&charge).await.unwrap().allowed().then(|| (clock.nanos(), cost)),
                        }
                    });
                }
                calls.join_all().await.into_iter().flatten().collect::<History>()
            });
        }
        let mut spent: History = tasks.join_all().await.into_iter().flatten().collect();
        spent.sort_unstable();
        let grants = std::mem::take(&mut *far.grants.lock().unwrap());
        (spent, grants, far.trips.load(Ordering::Relaxed))
    })
}

/// The most that was spent beyond `burst + rate * W` in any window: Kadane's algorithm.
fn overshoot(history: &History, quota: Quota) -> i128 {
    let increment = i128::from(quota.increment());
    let (mut most, mut here, mut before) = (0_i128, 0_i128, None);
    for (at, units) in history {
        let passed = before.map_or(0, |before: u64| i128::from(at - before));
        here = (here - passed).max(0) + i128::from(*units) * increment;
        most = most.max(here);
        before = Some(*at);
    }
    // Nanoseconds of debt beyond the bucket, in units.
    (most - i128::from(quota.capacity())).max(0) / increment
}

#[test]
fn whatever_the_nodes_do_the_bound_holds() {
    let mut runner = TestRunner::new(Config { cases: 96, ..Config::default() });
    let outcome = runner.run(&setting(), |setting| {
        let (spent, grants, _) = simulate(&setting);
        let total = |history: &History| history.iter().map(|(_, units)| units).sum::<u64>();
        // In the long run nothing besides what the shared bucket gave, which allows no more than the limit.
        prop_assert!(total(&spent) <= total(&grants));
        prop_assert_eq!(overshoot(&grants, setting.quota), 0);
        // Over any time, what is granted in the time of a lease. Answers that were on their way are part of it.
        let slack = setting.lease + 2 * setting.way;
        let bound = i128::from(slack * 1_000_000 / setting.quota.increment()) + 1;
        prop_assert!(overshoot(&spent, setting.quota) <= bound, "{} of {bound}", overshoot(&spent, setting.quota));
        Ok(())
    });
    outcome.unwrap();
}

/// What it is for: the store is asked seldom, and the limit is used up.
#[test]
fn a_steady_load_needs_few_trips() {
    let quota = Quota::new(1000, Duration::from_secs(1), 200).unwrap();
    let nodes = 4;
    let load = (0..4000).map(|at| (at % nodes, 5_000, 1)).collect();
    let (spent, _, trips) = simulate(&Setting { quota, nodes, lease: 100, way: 1, load });
    // 800 in a second, for 5 s, of 1000 that are allowed.
    assert!(spent.len() >= 3960, "{}", spent.len());
    assert!(trips <= 600, "{trips} trips for 4000 requests");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_remembered_and_a_reset_forgets_it() {
    let clock = Hand::at(START);
    let memory = Arc::new(InMemoryRateLimitStore::with_clock(64, clock.clone()));
    let node = LeasedRateLimitStore::with_clock(memory.clone(), Duration::from_millis(100), 2, clock.clone());
    let quota = Quota::new(1, Duration::from_secs(10), 2).unwrap();
    let charge = [Charge::new(Key(1), quota)];
    for _ in 0..2 {
        assert!(node.take(&charge).await.unwrap().allowed());
    }
    assert!(!node.take(&charge).await.unwrap().allowed());
    clock.add(500_000_000);
    let refused = node.try_take(&charge).unwrap();
    assert_eq!((refused.allowed(), refused.standings()[0].retry), (false, Duration::from_millis(9_500)));
    // After a second somebody may have given it back, and the store is asked; where it is away, this is still known.
    clock.add(500_000_000);
    assert_eq!(node.try_take(&charge), None);
    assert_eq!(node.remembered(&charge).unwrap().standings()[0].retry, Duration::from_secs(9));
    assert!(!node.take(&charge).await.unwrap().allowed());
    node.adjust(&[Adjustment::reset(Key(1), quota)]).await.unwrap();
    assert!(node.take(&charge).await.unwrap().allowed());
}

#[tokio::test(start_paused = true)]
async fn what_was_spent_here_for_nothing_is_given_back() {
    let clock = Hand::at(START);
    let memory = Arc::new(InMemoryRateLimitStore::with_clock(64, clock.clone()));
    let node = LeasedRateLimitStore::with_clock(memory.clone(), Duration::from_secs(1), 1, clock.clone());
    let (wide, narrow) =
        (Quota::new(1000, Duration::from_secs(1), 100).unwrap(), Quota::new(1, Duration::from_secs(100), 1).unwrap());
    let wide = Charge::new(Key(1), wide);
    // Until a chunk is here.
    while node.try_take(&[wide]).is_none() {
        node.take(&[wide]).await.unwrap();
        clock.add(1_000_000);
    }
    let both = [wide, Charge::new(Key(2), narrow)];
    assert!(node.take(&both).await.unwrap().allowed());
    let left = async || node.take(&[wide.units(0)]).await.unwrap().standings()[0].remaining();
    let before = left().await;
    for _ in 0..10 {
        assert!(!node.take(&both).await.unwrap().allowed());
    }
    assert_eq!(left().await, before);
}
