//! A store that does not answer.

use std::sync::atomic::AtomicBool;

use super::*;

/// Answers from memory, or not at all, or with an error.
#[derive(Debug)]
struct Moody {
    memory: InMemoryRateLimitStore,
    down: AtomicBool,
    mute: AtomicBool,
    asked: AtomicU64,
}

impl Moody {
    async fn mood(&self) -> Result<(), StoreDown> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if self.mute.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        if self.down.load(Ordering::Relaxed) { Err(StoreDown::new("in a mood")) } else { Ok(()) }
    }
}

impl RateLimitStore for Moody {
    fn take<'a>(&'a self, charges: &'a [Charge]) -> BoxFuture<'a, Result<Taken, StoreDown>> {
        Box::pin(async move { self.mood().await.map(|()| self.memory.take_now(charges)) })
    }

    fn adjust<'a>(&'a self, adjustments: &'a [Adjustment]) -> BoxFuture<'a, Result<(), StoreDown>> {
        Box::pin(async move { self.mood().await.map(|()| self.memory.adjust_now(adjustments)) })
    }
}

fn moody() -> (Arc<Moody>, Arc<Hand>, Limiter) {
    let clock = Hand::at(START);
    let store = Arc::new(Moody {
        memory: InMemoryRateLimitStore::with_clock(64, clock.clone()),
        down: AtomicBool::new(false),
        mute: AtomicBool::new(false),
        asked: AtomicU64::new(0),
    });
    let options = LimiterOptions { nodes: 4, slots: 64, clock: clock.clone(), ..LimiterOptions::default() };
    (store.clone(), clock, Limiter::new(store, options))
}

fn asked(on_failure: OnFailure) -> Asked {
    Asked { charge: Charge::new(Key(9), Quota::new(8, Duration::from_secs(8), 8).unwrap()), on_failure }
}

async fn allowed(limiter: &Limiter, asked: Asked) -> Option<bool> {
    match limiter.take(&[asked]).await {
        Admission::Decided(taken) => Some(taken.allowed()),
        Admission::Unavailable => None,
    }
}

#[tokio::test(start_paused = true)]
async fn each_limit_does_what_it_says() {
    let (store, _, limiter) = moody();
    store.down.store(true, Ordering::Relaxed);
    // A quarter of eight.
    for expected in [true, true, false] {
        assert_eq!(allowed(&limiter, asked(OnFailure::Local)).await, Some(expected));
    }
    assert_eq!(allowed(&limiter, asked(OnFailure::Closed)).await, None);
    for _ in 0..20 {
        assert_eq!(allowed(&limiter, asked(OnFailure::Open)).await, Some(true));
    }
    // Together: closed wins, and what is refused here takes nothing there.
    let key = |key, on_failure| Asked { charge: Charge { key: Key(key), ..asked(on_failure).charge }, on_failure };
    assert_eq!(limiter.take(&[key(1, OnFailure::Open), key(2, OnFailure::Closed)]).await, Admission::Unavailable);
    let both = [key(9, OnFailure::Local), key(3, OnFailure::Open), key(4, OnFailure::Local)];
    let Admission::Decided(taken) = limiter.take(&both).await else { panic!("unavailable") };
    let verdicts: Vec<Verdict> = taken.standings().iter().map(|standing| standing.verdict).collect();
    assert_eq!(verdicts, [Verdict::Later, Verdict::Allowed, Verdict::Allowed]);
    assert!(taken.standings().iter().all(|standing| standing.granted == 0));
    for expected in [true, true, false] {
        assert_eq!(allowed(&limiter, key(4, OnFailure::Local)).await, Some(expected));
    }
}

#[tokio::test(start_paused = true)]
async fn what_can_never_be_stays_so_and_nobody_allows_more_than_a_share_alone() {
    let (store, _, limiter) = moody();
    store.down.store(true, Ordering::Relaxed);
    let units = |cost| Asked { charge: asked(OnFailure::Local).charge.units(cost), on_failure: OnFailure::Local };
    let Admission::Decided(taken) = limiter.take(&[units(9)]).await else { panic!("unavailable") };
    assert_eq!(taken.standings()[0].verdict, Verdict::Never);
    for _ in 0..3 {
        assert_eq!(allowed(&limiter, units(3)).await, None);
    }
    assert_eq!(allowed(&limiter, units(2)).await, Some(true));
    assert_eq!(allowed(&limiter, units(1)).await, Some(false));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_mute_costs_the_budget_and_soon_nothing() {
    let (store, clock, limiter) = moody();
    store.mute.store(true, Ordering::Relaxed);
    let start = tokio::time::Instant::now();
    for _ in 0..5 {
        assert!(!limiter.is_broken());
        assert_eq!(allowed(&limiter, asked(OnFailure::Open)).await, Some(true));
        clock.add(250_000_000);
    }
    assert!(limiter.is_broken());
    assert_eq!((start.elapsed().as_millis() / 5, store.asked.load(Ordering::Relaxed)), (5, 5));
    clock.add(750_000_000);
    // Who gives up has found out nothing, and the next one tries.
    let gone = tokio::time::timeout(Duration::from_millis(1), limiter.take(&[asked(OnFailure::Open)])).await;
    assert!(gone.is_err());
    store.asked.store(4, Ordering::Relaxed);
    allowed(&limiter, asked(OnFailure::Open)).await;
    assert_eq!(store.asked.load(Ordering::Relaxed), 5);
    for _ in 0..1000 {
        assert_eq!(allowed(&limiter, asked(OnFailure::Open)).await, Some(true));
    }
    assert_eq!(store.asked.load(Ordering::Relaxed), 5);
    // One tries when the pause is over; while it does, others do not.
    clock.add(1_000_000_000);
    allowed(&limiter, asked(OnFailure::Open)).await;
    allowed(&limiter, asked(OnFailure::Open)).await;
    assert_eq!((store.asked.load(Ordering::Relaxed), limiter.failed()), (6, 7));
    store.mute.store(false, Ordering::Relaxed);
    clock.add(1_000_000_000);
    for _ in 0..8 {
        assert_eq!(allowed(&limiter, asked(OnFailure::Open)).await, Some(true));
    }
    assert!(!limiter.is_broken());
    assert_eq!(allowed(&limiter, asked(OnFailure::Open)).await, Some(false), "the store counts again");
}

/// Somebody keeps it so busy that it is late, again and again: it is not down for everybody.
#[tokio::test(start_paused = true)]
async fn a_store_that_is_late_now_and_then_is_not_left_alone() {
    let (store, clock, limiter) = moody();
    assert!(allowed(&limiter, asked(OnFailure::Closed)).await.is_some());
    for _ in 0..20 {
        store.mute.store(true, Ordering::Relaxed);
        for _ in 0..10 {
            assert_eq!(allowed(&limiter, asked(OnFailure::Closed)).await, None);
            clock.add(50_000_000);
        }
        store.mute.store(false, Ordering::Relaxed);
        assert!(allowed(&limiter, asked(OnFailure::Closed)).await.is_some());
    }
    store.mute.store(true, Ordering::Relaxed);
    for _ in 0..21 {
        allowed(&limiter, asked(OnFailure::Closed)).await;
        clock.add(50_000_000);
    }
    assert!(limiter.is_broken());
}

#[tokio::test(start_paused = true)]
async fn penalties_count_here_while_the_store_is_down() {
    let (store, _, limiter) = moody();
    store.down.store(true, Ordering::Relaxed);
    assert_eq!(allowed(&limiter, asked(OnFailure::Local)).await, Some(true));
    let charge = asked(OnFailure::Local).charge;
    limiter.adjust(&[Adjustment { key: charge.key, quota: charge.quota, units: 1 }]).await;
    assert_eq!(allowed(&limiter, asked(OnFailure::Local)).await, Some(false));
}
