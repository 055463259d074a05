//! `cargo xtask bench-limits`: rate limits beside the `governor` crate, beside a bare script of Redis, and under an attack
//! with ever new keys. Fails where what was promised of memory or of limits does not hold.

use std::hash::{BuildHasher, Hasher};
use std::num::NonZeroU32;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cratestack_engine::ratelimit::{
    Charge, InMemoryRateLimitStore, Key, LeasedRateLimitStore, Quota, RateLimitStore, RedisRateLimitStore, SteadyClock,
    Ticks, Verdict,
};
use governor::clock::{FakeRelativeClock, QuantaClock};
use governor::state::keyed::DashMapStateStore;

use crate::{Result, variable};

/// `governor` by a clock that is set.
type Governor = governor::RateLimiter<
    u128,
    DashMapStateStore<u128, Half>,
    FakeRelativeClock,
    governor::middleware::NoOpMiddleware<governor::nanos::Nanos>,
>;

const KEYS: usize = 1_000_000;
/// Of the attack.
const ATTACKERS: u64 = 100_000_000;
/// Decisions that are measured together: a clock takes as long as one.
const BATCH: usize = 64;

pub(crate) fn run(words: &[String]) -> Result<()> {
    let rounds = words.first().map_or(Ok(5), |word| word.parse())?;
    in_memory(rounds)?;
    attack()?;
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?.block_on(shared(rounds))
}

/// Numbers that look random: Weyl's sequence through the mixer of SplitMix64.
fn mixed(number: u64) -> u64 {
    let mut mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn key(number: u64) -> Key {
    Key((u128::from(mixed(number)) << 64) | u128::from(mixed(!number)))
}

/// The keys are digests: half of one is its hash, for both.
#[derive(Clone, Copy, Default)]
struct Half(u64);

impl Hasher for Half {
    fn write(&mut self, octets: &[u8]) {
        self.0 = octets.first_chunk().map_or(0, |half| u64::from_ne_bytes(*half));
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl BuildHasher for Half {
    type Hasher = Self;

    fn build_hasher(&self) -> Self {
        Self(0)
    }
}

/// The median.
fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of.get(of.len() / 2).copied().unwrap_or_default()
}

/// Nanoseconds of a decision: the median of the batches' means.
fn measured(keys: &[Key], mut decide: impl FnMut(Key)) -> f64 {
    let batches = keys.chunks_exact(BATCH).map(|batch| {
        let start = Instant::now();
        for key in batch {
            decide(*key);
        }
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52 nanoseconds")]
        let nanos = start.elapsed().as_nanos() as f64;
        nanos / 64.0
    });
    median(batches.collect())
}

/// The same by several threads at once, each on its own part of the keys: the slowest's median.
fn together(threads: usize, keys: &[Key], decide: impl Fn(Key) + Sync) -> f64 {
    std::thread::scope(|scope| {
        let part = keys.len() / threads;
        let parts: Vec<_> = keys.chunks(part.max(1)).take(threads).collect();
        let running: Vec<_> = parts.into_iter().map(|part| scope.spawn(|| measured(part, &decide))).collect();
        running.into_iter().filter_map(|thread| thread.join().ok()).fold(0.0, f64::max)
    })
}

/// KiB that the process has in memory.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}

/// A clock that stands still between batches.
#[derive(Debug, Default)]
struct Standing(AtomicU64);

impl Ticks for Standing {
    fn nanos(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One limiter with what it has been measured at.
struct Measured<'a> {
    decide: &'a (dyn Fn(Key) + Sync),
    any: Vec<f64>,
    two: Vec<f64>,
    hot: Vec<f64>,
}

impl<'a> Measured<'a> {
    fn new(decide: &'a (dyn Fn(Key) + Sync)) -> Self {
        Self { decide, any: vec![], two: vec![], hot: vec![] }
    }

    fn round(&mut self, keys: &[Key], same: &[Key]) {
        self.any.push(measured(keys, self.decide));
        self.two.push(together(2, keys, self.decide));
        self.hot.push(measured(same, self.decide));
    }
}

fn in_memory(rounds: usize) -> Result<()> {
    // Digests: in the order of their numbers they are in no order in the tables.
    let keys: Vec<Key> = (0..KEYS as u64).map(key).collect();
    let same = vec![key(7); 1 << 18];
    let quota = Quota::new(10, Duration::from_secs(1), 10)?;
    let theirs = governor::Quota::per_second(NonZeroU32::new(10).ok_or("0")?);
    let hand = Arc::new(Standing::default());
    let fake = FakeRelativeClock::default();
    let before = resident();
    let table = InMemoryRateLimitStore::with_clock(KEYS, hand.clone());
    let taken = (resident() - before) * 1024;
    let slots = table.slots();
    let tables = [table, InMemoryRateLimitStore::with_clock(KEYS, Arc::new(SteadyClock::default()))];
    let [given, read] = tables.each_ref().map(|table| {
        move |key: Key| {
            std::hint::black_box(table.take_one(&Charge::new(key, quota)).verdict == Verdict::Allowed);
        }
    });
    keys.iter().copied().for_each(&given);
    let before = resident();
    let governor = Governor::dashmap_with_clock_and_hasher(theirs, fake.clone(), Half(0));
    let governor_given = |key: Key| {
        std::hint::black_box(governor.check_key(&key.0).is_ok());
    };
    keys.iter().copied().for_each(governor_given);
    let theirs_taken = (resident() - before) * 1024;
    let governor = governor::RateLimiter::<u128, DashMapStateStore<u128, Half>, _>::dashmap_with_clock_and_hasher(
        theirs,
        QuantaClock::default(),
        Half(0),
    );
    let governor_read = |key: Key| {
        std::hint::black_box(governor.check_key(&key.0).is_ok());
    };
    for decide in [&read as &dyn Fn(Key), &governor_read] {
        keys.iter().copied().for_each(decide);
    }
    let mut pairs = [
        ("the time is given", [Measured::new(&given), Measured::new(&governor_given)]),
        ("each reads the clock", [Measured::new(&read), Measured::new(&governor_read)]),
    ];
    for round in 1..=rounds {
        eprint!("\r\x1b[Kin memory: round {round} of {rounds}");
        for pair in &mut pairs {
            for measured in &mut pair.1 {
                // A fifth of a second for each round of all keys, in which two units come back.
                hand.0.fetch_add(200_000_000, Ordering::Relaxed);
                fake.advance(Duration::from_millis(200));
                measured.round(&keys, &same);
            }
        }
    }
    eprint!("\r\x1b[K");
    println!("\n{KEYS} keys, {slots} slots of 16 octets, {rounds} rounds, medians\n");
    println!("| a decision in memory | CrateStack ns | governor ns | ratio |\n|---|---|---|---|");
    for (time, [ours, theirs]) in pairs {
        let rows = [
            ("any of the keys", ours.any, theirs.any),
            ("the same, two threads", ours.two, theirs.two),
            ("one key", ours.hot, theirs.hot),
        ];
        for (name, ours, theirs) in rows {
            let (ours, theirs) = (median(ours), median(theirs));
            println!("| {name}, {time} | {ours:.0} | {theirs:.0} | {:.2} |", theirs / ours);
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52 octets")]
    let each = |octets: u64| octets as f64 / KEYS as f64;
    let (ours, theirs) = (each(taken), each(theirs_taken));
    println!("| octets of memory for a key | {ours:.1} | {theirs:.1} | {:.2} |", theirs / ours);
    println!("\nReading the clock, and then memory that is not in the cache: {:.0} ns.", floor());
    Ok(())
}

/// What a decision takes at least that reads the clock: the instruction waits for the memory of the one before.
fn floor() -> f64 {
    let clock = SteadyClock::default();
    let lines: Vec<[u64; 8]> = (0..KEYS as u64 / 4).map(|number| [number; 8]).collect();
    let keys: Vec<Key> = (0..KEYS as u64).map(key).collect();
    measured(&keys, |key| {
        let now = clock.nanos();
        let line = lines.get(key.0 as usize % lines.len());
        std::hint::black_box(line.map_or(now, |line| line[0] ^ now));
    })
}

/// Ever new keys, and between them one that has used up its limit.
fn attack() -> Result<()> {
    let quota = Quota::new(1, Duration::from_secs(1), 5)?;
    let table = InMemoryRateLimitStore::new(1 << 20);
    let victim = Charge::new(key(u64::MAX), quota);
    table.take_now(&[victim]);
    for number in 0..4_000_000 {
        table.take_now(&[Charge::new(key(number), quota)]);
    }
    let (before, start) = (resident(), Instant::now());
    let mut allowed = 0_u64;
    for number in 4_000_000..4_000_000 + ATTACKERS {
        table.take_now(&[Charge::new(key(number), quota)]);
        if number % 16 == 0 {
            allowed += u64::from(table.take_now(&[victim]).allowed());
        }
        if number % 4_000_000 == 0 {
            eprint!("\r\x1b[Kattack: {} million keys", number / 1_000_000);
        }
    }
    eprint!("\r\x1b[K");
    let (took, grown) = (start.elapsed(), resident().saturating_sub(before));
    let most = 5 + took.as_secs() + 1;
    println!(
        "\nAttack: {} million keys in {:.1} s; the memory grew by {grown} KiB; the limited key was let through {allowed} \
         times, of {most} that it may at most.",
        ATTACKERS / 1_000_000,
        took.as_secs_f64()
    );
    if grown > 1024 {
        return Err(format!("the memory grew by {grown} KiB").into());
    }
    if allowed > most { Err("a limited key was let through".into()) } else { Ok(()) }
}

/// A server of Redis that ends with the value.
struct Redis {
    child: Child,
    url: String,
    folder: std::path::PathBuf,
}

impl Redis {
    async fn start() -> Result<Self> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let folder = std::env::temp_dir().join(format!("cratestack-bench-{port}"));
        std::fs::create_dir_all(&folder)?;
        let child = Command::new(variable("BENCH_REDIS")?)
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port", &port.to_string(), "--dir"])
            .arg(&folder)
            .stdout(Stdio::null())
            .spawn()?;
        let redis = Self { child, url: format!("redis://127.0.0.1:{port}"), folder };
        for _ in 0..500 {
            if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Ok(redis);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Err("Redis does not start".into())
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _ended = self.child.wait();
        let _gone = std::fs::remove_dir_all(&self.folder);
    }
}

/// Microseconds of each of many steps: the median.
async fn trips(count: u32, mut step: impl AsyncFnMut(u32) -> Result<()>) -> Result<f64> {
    let mut times = Vec::new();
    for at in 0..count {
        let start = Instant::now();
        step(at).await?;
        times.push(start.elapsed().as_secs_f64() * 1e6);
    }
    Ok(median(times))
}

/// Redis, and leases of it.
async fn shared(rounds: usize) -> Result<()> {
    let redis = Redis::start().await?;
    let store = RedisRateLimitStore::new(&redis.url, "bench")?;
    let mut connection = redis::Client::open(redis.url.as_str())?.get_multiplexed_async_connection().await?;
    let bare = redis::Script::new("return 1");
    let quota = Quota::new(1_000_000, Duration::from_secs(1), 1_000_000)?;
    let (mut ours, mut three, mut theirs) = (vec![], vec![], vec![]);
    for round in 1..=rounds {
        eprint!("\r\x1b[KRedis: round {round} of {rounds}");
        theirs.push(trips(5000, async |_| Ok(bare.key("bench").invoke_async::<()>(&mut connection).await?)).await?);
        ours.push(
            trips(5000, async |at| Ok(store.take(&[Charge::new(key(at.into()), quota)]).await.map(|_| ())?)).await?,
        );
        let several = async |at: u32| {
            let charges = [0, 1, 2].map(|limit| Charge::new(key(u64::from(at) * 3 + limit), quota));
            Ok(store.take(&charges).await.map(|_| ())?)
        };
        three.push(trips(5000, several).await?);
    }
    let (ours, three, theirs) = (median(ours), median(three), median(theirs));
    eprint!("\r\x1b[K");
    println!("\n| a decision in Redis | µs | ratio to a bare `EVALSHA` |\n|---|---|---|");
    println!("| a bare `EVALSHA` (`return 1`) | {theirs:.1} | 1 |");
    println!("| one limit | {ours:.1} | {:.2} |", ours / theirs);
    println!("| three limits | {three:.1} | {:.2} |", three / theirs);
    leases(rounds, store)
}

/// Each on 1000 keys, of which a lease has something left.
fn leases(rounds: usize, store: RedisRateLimitStore) -> Result<()> {
    let order: Vec<Key> = (0..1_u64 << 18).map(|at| key(mixed(at) % 1000)).collect();
    let quota = Quota::new(100_000_000, Duration::from_secs(1), 100_000_000)?;
    let memory = InMemoryRateLimitStore::new(1 << 16);
    let leased = LeasedRateLimitStore::new(Arc::new(store), Duration::from_secs(10), 1);
    let runtime = tokio::runtime::Handle::current();
    let (mut ours, mut theirs, mut asked) = (vec![], vec![], 0_u64);
    for _ in 0..rounds {
        theirs.push(measured(&order, |key| {
            std::hint::black_box(memory.take_now(&[Charge::new(key, quota)]).allowed());
        }));
        ours.push(measured(&order, |key| {
            let charge = [Charge::new(key, quota)];
            if leased.try_take(&charge).is_none() {
                asked += 1;
                // What waits for the store is not what is measured: it is not in the median.
                let _ = tokio::task::block_in_place(|| runtime.block_on(leased.take(&charge)));
            }
        }));
    }
    let (ours, theirs) = (median(ours), median(theirs));
    println!("\n| a decision by a lease, of 1000 keys | ns | ratio to memory |\n|---|---|---|");
    println!("| in memory | {theirs:.0} | 1 |\n| by a lease | {ours:.0} | {:.2} |", ours / theirs);
    println!("\n{asked} of {} decisions by leases asked Redis.", order.len() * rounds);
    Ok(())
}
