//! What every store does alike.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use cratestack::engine::ratelimit::{Adjustment, Charge, Key, Quota, Standing, Verdict};
use cratestack::{InMemoryRateLimitStore, LeasedRateLimitStore, RateLimitStore, SqlxRateLimitStore};

use crate::servers::Database;

/// A store, and what it needs to live.
pub(crate) struct Place {
    pub(crate) store: Arc<dyn RateLimitStore>,
    _kept: Box<dyn Any>,
}

impl Place {
    pub(crate) fn memory() -> Self {
        Self { store: Arc::new(InMemoryRateLimitStore::new(1024)), _kept: Box::new(()) }
    }

    pub(crate) async fn postgres() -> Option<Self> {
        let database = Database::new().await?;
        let store = SqlxRateLimitStore::new(database.pool().await);
        assert!(store.ready().await.unwrap_err().to_string().contains("the table of rate limits is not there"));
        store.create_table().await.unwrap();
        store.create_table().await.unwrap();
        store.ready().await.unwrap();
        Some(Self { store: Arc::new(store), _kept: Box::new(database) })
    }

    #[cfg(feature = "redis")]
    pub(crate) async fn redis() -> Option<Self> {
        let server = crate::servers::Redis::start().await?;
        let store = cratestack::RedisRateLimitStore::new(&server.url(), "bank").unwrap();
        store.ready().await.unwrap();
        Some(Self { store: Arc::new(store), _kept: Box::new(server) })
    }

    fn leased(self) -> Self {
        let store = LeasedRateLimitStore::new(self.store, Duration::from_millis(100), 2);
        Self { store: Arc::new(store), ..self }
    }
}

/// Makes of each function a test on each store.
macro_rules! on_every_store {
    ($($name:ident)*) => { $(
        mod $name {
            use super::Place;

            #[tokio::test]
            async fn memory() {
                super::$name(Place::memory()).await;
                super::$name(Place::memory().leased()).await;
            }

            #[tokio::test]
            async fn postgres() {
                if let Some(place) = Place::postgres().await {
                    super::$name(place).await;
                    super::$name(Place::postgres().await.unwrap().leased()).await;
                }
            }

            #[cfg(feature = "redis")]
            #[tokio::test]
            async fn redis() {
                if let Some(place) = Place::redis().await {
                    super::$name(place).await;
                    super::$name(Place::redis().await.unwrap().leased()).await;
                }
            }
        }
    )* };
}

on_every_store! {
    a_burst_and_not_one_more
    all_or_nothing
    what_is_given_back
    of_fifty_at_once_as_many_as_there_are
    the_largest_and_the_smallest_quotas
}

const HOUR: Duration = Duration::from_hours(1);

/// One that time does not help with during a test.
fn slow(key: u128, burst: u64) -> Charge {
    Charge::new(Key(key << 64 | key), Quota::new(1, HOUR, burst).unwrap())
}

impl Place {
    async fn take(&self, charge: Charge) -> Standing {
        self.all(&[charge]).await[0]
    }

    async fn all(&self, charges: &[Charge]) -> Vec<Standing> {
        let taken = match self.store.try_take(charges) {
            Some(taken) => taken,
            None => self.store.take(charges).await.unwrap(),
        };
        taken.standings().to_vec()
    }
}

async fn a_burst_and_not_one_more(place: Place) {
    for left in [2, 1, 0] {
        let standing = place.take(slow(1, 3)).await;
        assert_eq!((standing.verdict, standing.granted, standing.remaining()), (Verdict::Allowed, 1, left));
        assert!(standing.next() <= HOUR && !standing.next().is_zero());
    }
    let refused = place.take(slow(1, 3)).await;
    assert_eq!((refused.verdict, refused.granted), (Verdict::Later, 0));
    assert!(refused.retry <= HOUR && refused.retry > Duration::from_mins(58), "{:?}", refused.retry);
    let more = place.take(slow(1, 3).units(2)).await;
    assert!(more.retry <= 2 * HOUR && more.retry > Duration::from_mins(118), "{:?}", more.retry);
    assert_eq!(place.take(slow(1, 3).units(4)).await.verdict, Verdict::Never);
    // Others have nothing to do with it, and looking costs nothing.
    assert_eq!(place.take(slow(2, 3)).await.verdict, Verdict::Allowed);
    for _ in 0..3 {
        let seen = place.take(slow(3, 3).units(0)).await;
        assert_eq!((seen.verdict, seen.granted, seen.remaining()), (Verdict::Allowed, 0, 3));
    }
    // Time helps.
    let quick = Charge::new(Key(9 << 64), Quota::new(1, Duration::from_millis(20), 1).unwrap());
    assert_eq!(place.take(quick).await.verdict, Verdict::Allowed);
    let retry = place.take(quick).await.retry;
    if !retry.is_zero() {
        tokio::time::sleep(retry).await;
        assert_eq!(place.take(quick).await.verdict, Verdict::Allowed);
    }
}

async fn all_or_nothing(place: Place) {
    let (wide, narrow) = (slow(1, 5), slow(2, 1));
    assert!(place.all(&[wide, narrow]).await.iter().all(|standing| standing.verdict == Verdict::Allowed));
    for charges in [[wide, narrow], [narrow, wide]] {
        let standings = place.all(&charges).await;
        assert!(standings.iter().all(|standing| standing.granted == 0));
        assert_eq!(standings.iter().filter(|standing| standing.verdict == Verdict::Later).count(), 1);
    }
    for left in [3, 2, 1, 0] {
        assert_eq!(place.take(wide).await.remaining(), left);
    }
    assert_eq!(place.take(wide).await.verdict, Verdict::Later);
}

async fn what_is_given_back(place: Place) {
    let adjust = async |units| {
        let charge = slow(1, 3);
        place.store.adjust(&[Adjustment { key: charge.key, quota: charge.quota, units }]).await.unwrap();
    };
    assert_eq!(place.take(slow(1, 3).units(3)).await.verdict, Verdict::Allowed);
    assert_eq!(place.take(slow(1, 3)).await.verdict, Verdict::Later);
    adjust(-2).await;
    assert_eq!(place.take(slow(1, 3).units(2)).await.verdict, Verdict::Allowed);
    assert_eq!(place.take(slow(1, 3)).await.verdict, Verdict::Later);
    adjust(i64::MIN).await;
    assert_eq!(place.take(slow(1, 3).units(3)).await.verdict, Verdict::Allowed);
    adjust(-1).await;
    // More is not owed than there is.
    adjust(1000).await;
    let refused = place.take(slow(1, 3)).await;
    assert!(refused.verdict == Verdict::Later && refused.retry <= HOUR);
    adjust(i64::MIN).await;
    adjust(i64::MAX).await;
    assert_eq!(place.take(slow(1, 3)).await.verdict, Verdict::Later);
}

async fn of_fifty_at_once_as_many_as_there_are(place: Place) {
    let charges = [[slow(1, 20), slow(2, 40)], [slow(2, 40), slow(1, 20)]];
    let tries = (0..50).map(|at| {
        let store = Arc::clone(&place.store);
        tokio::spawn(async move { store.take(&charges[at % 2]).await.unwrap().allowed() })
    });
    let mut allowed = 0;
    for one in tries.collect::<Vec<_>>() {
        allowed += u64::from(one.await.unwrap());
    }
    assert_eq!(allowed, 20);
    assert_eq!(place.take(slow(2, 40).units(20)).await.verdict, Verdict::Allowed);
}

/// Numbers that no double could hold, if they were times and not differences.
async fn the_largest_and_the_smallest_quotas(place: Place) {
    let days = Duration::from_hours(24 * 100);
    let largest = Charge::new(Key(1 << 64), Quota::new(8_640_000_000, days, 8_640_000_000).unwrap());
    assert_eq!(place.take(largest.units(8_639_999_999)).await.verdict, Verdict::Allowed);
    let left = place.take(largest.units(0)).await.remaining();
    assert!(left <= 60_000, "a millisecond each, and the test has not taken a minute: {left}");
    let third = Charge::new(Key(2 << 64), Quota::new(3, 100 * HOUR, 3).unwrap());
    for left in [2, 1, 0] {
        assert_eq!(place.take(third).await.remaining(), left);
    }
    let retry = place.take(third).await.retry;
    assert!(retry <= Duration::from_nanos(120_000_000_000_000) && retry > 33 * HOUR, "{retry:?}");
    let fastest = Charge::new(Key(3 << 64), Quota::new(1_000_000_000, Duration::from_secs(1), 1).unwrap());
    assert_eq!(place.take(fastest).await.verdict, Verdict::Allowed);
    assert_eq!(place.take(fastest.units(2)).await.verdict, Verdict::Never);
}

#[tokio::test]
async fn buckets_that_are_full_are_removed_from_postgresql() {
    let Some(database) = Database::new().await else { return };
    let pool = database.pool().await;
    let store = SqlxRateLimitStore::new(pool.clone());
    store.create_table().await.unwrap();
    for key in 1..=3 {
        store.take(&[slow(key, 3)]).await.unwrap();
    }
    assert_eq!(store.sweep().await.unwrap(), 0);
    sqlx::query("UPDATE cratestack_rate_limits SET full_at = 1 WHERE key <> $1")
        .bind(uuid::Uuid::from_u128(slow(1, 3).key.0))
        .execute(&pool)
        .await
        .unwrap();
    assert_eq!(store.sweep().await.unwrap(), 2);
    assert_eq!(store.take(&[slow(1, 3)]).await.unwrap().standings()[0].remaining(), 1);
    assert_eq!(store.take(&[slow(2, 3)]).await.unwrap().standings()[0].remaining(), 2);
}

/// Decisions go on while rows are being removed.
#[tokio::test]
async fn a_sweep_loses_nothing() {
    let Some(database) = Database::new().await else { return };
    let pool = database.pool().await;
    let store = SqlxRateLimitStore::new(pool.clone());
    store.create_table().await.unwrap();
    for round in 0..20 {
        let key = slow(7, 5).key;
        sqlx::query("INSERT INTO cratestack_rate_limits VALUES ($1, 0) ON CONFLICT (key) DO UPDATE SET full_at = 0")
            .bind(uuid::Uuid::from_u128(key.0))
            .execute(&pool)
            .await
            .unwrap();
        let charge = [slow(7, 5)];
        let _ = tokio::join!(store.sweep(), store.take(&charge), store.sweep());
        let _ = tokio::join!(store.sweep(), store.take(&charge), store.sweep());
        let left = store.take(&[slow(7, 5).units(0)]).await.unwrap().standings()[0].remaining();
        assert_eq!(left, 3, "round {round}");
    }
}

/// A database without a table, and one that is gone.
#[tokio::test]
async fn a_store_that_cannot_says_so() {
    let Some(database) = Database::new().await else { return };
    let pool = database.pool().await;
    let store = SqlxRateLimitStore::new(pool.clone());
    assert!(store.take(&[slow(1, 1)]).await.is_err());
    pool.close().await;
    assert!(store.take(&[slow(1, 1)]).await.is_err());
}

#[cfg(feature = "redis")]
mod redis {
    use cratestack::RedisRateLimitStore;

    use super::*;
    use crate::servers::Redis;

    #[tokio::test]
    async fn deployments_count_apart_and_full_buckets_are_not_there() {
        let Some(server) = Redis::start().await else { return };
        let store = |deployment| RedisRateLimitStore::new(&server.url(), deployment).unwrap();
        for deployment in ["bank", "insurer", "{a}b", "{a}c"] {
            assert!(store(deployment).take(&[slow(1, 1)]).await.unwrap().allowed(), "{deployment}");
            assert!(!store(deployment).take(&[slow(1, 1)]).await.unwrap().allowed(), "{deployment}");
        }
        let keys = server.ask("KEYS *").unwrap();
        assert!(keys.contains("cratestack:ratelimit:{bank}:00000000000000010000000000000001"), "{keys}");
        assert!(server.ask("DBSIZE").unwrap().contains(":4"));
        let charge = slow(1, 1);
        let reset = Adjustment::reset(charge.key, charge.quota);
        store("bank").adjust(&[reset]).await.unwrap();
        assert!(server.ask("DBSIZE").unwrap().contains(":3"));
        // It ends with its debt.
        let ttl = server.ask("PTTL cratestack:ratelimit:{insurer}:00000000000000010000000000000001").unwrap();
        let ttl: u64 = ttl.lines().find_map(|line| line.strip_prefix(':')).unwrap().parse().unwrap();
        assert!(ttl <= 3_600_000 && ttl > 3_400_000, "{ttl}");
    }

    #[tokio::test]
    async fn it_comes_back_after_a_crash_and_has_forgotten() {
        let Some(mut server) = Redis::start().await else { return };
        let store = RedisRateLimitStore::new(&server.url(), "bank").unwrap();
        assert!(store.take(&[slow(1, 1)]).await.unwrap().allowed());
        server.kill();
        assert!(store.take(&[slow(1, 1)]).await.is_err());
        assert!(store.ready().await.is_err());
        server.run().await;
        crate::servers::until("the connection", async || store.ready().await.is_ok()).await;
        assert!(store.take(&[slow(1, 1)]).await.unwrap().allowed());
        assert!(!store.take(&[slow(1, 1)]).await.unwrap().allowed());
    }

    #[test]
    fn what_is_no_server() {
        for url in ["rediss://localhost", "http://localhost", "localhost", ""] {
            assert!(RedisRateLimitStore::new(url, "bank").is_err(), "{url}");
        }
    }

    /// The scripts calculate as the engine does, to the nanosecond.
    #[tokio::test]
    async fn a_script_takes_what_it_says() {
        let Some(server) = Redis::start().await else { return };
        let store = RedisRateLimitStore::new(&server.url(), "bank").unwrap();
        let mut seed = 42_u64;
        let mut next = |most: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % most + 1
        };
        for round in 0..300_u128 {
            let period = Duration::from_nanos(next(1 << 30) * next(2000));
            let Ok(quota) = Quota::new(next(50), period, next(2000)) else { continue };
            let charge = Charge { most: next(3000), ..Charge::new(Key(round << 64), quota).units(next(20)) };
            let before = std::time::Instant::now();
            let first = store.take(&[charge]).await.unwrap().standings()[0];
            let look = charge.units(0);
            let second = store.take(&[look]).await.unwrap().standings()[0];
            let passed = u64::try_from(before.elapsed().as_nanos()).unwrap();
            let wanted = charge.most.max(charge.cost).min(quota.burst());
            if charge.cost > quota.burst() {
                assert_eq!(first.verdict, Verdict::Never);
                continue;
            }
            assert_eq!(first.granted, wanted);
            let refilled = passed / quota.increment() + 1;
            let left = quota.burst() - wanted;
            assert!(second.remaining() >= left && second.remaining() <= left + refilled, "{charge:?} {second:?}");
        }
    }
}
