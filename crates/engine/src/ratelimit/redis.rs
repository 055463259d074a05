//! Buckets in Redis or Valkey, for all processes.

use std::fmt::{self, Debug};

use redis::{Script, ScriptInvocation};

use super::{Adjustment, BoxFuture, Charge, Key, RateLimitStore, StoreDown, Taken};
use crate::redis_server::Server;

/// What all scripts begin with. A number of Lua has 53 bits, and the time in nanoseconds more: so seconds and the rest are kept
/// apart, and what is calculated with is the difference to now, which is less than 100 days. Functions and formats
/// are few, since a script is as quick as it has steps.
const BEGIN: &str = "local time = redis.call('TIME')
local seconds, nanos = time[1], time[2] * 1000
";

/// What the key `key` owes, at most `capacity`; `beyond` when the clock has gone back since it was written.
const OWED: &str = "  local full_at, debt, beyond = redis.call('GET', key), 0, false
  if full_at then
    debt = (string.sub(full_at, 1, -11) - seconds) * 1e9 + string.sub(full_at, -9) - nanos
    if debt < 0 then debt = 0 elseif debt > capacity then debt, beyond = capacity, true end
  end
";

/// Writes down what the key `key` owes: `debt`.
const WRITE: &str = "    local rest = (nanos + debt) % 1e9
    local full_at = string.format('%d.%09d', seconds + (nanos + debt - rest) / 1e9, rest)
    redis.call('SET', key, full_at, 'PX', math.ceil(debt / 1e6))
";

/// `ARGV`: increment, capacity, cost and most of each key. Gives what each owed before.
const TAKE: [&str; 8] = [
    BEGIN,
    "local debts, all = {}, true
for at = 1, #KEYS do
  local key, increment, capacity = KEYS[at], ARGV[4 * at - 3] + 0, ARGV[4 * at - 2] + 0
  local cost, most = ARGV[4 * at - 1] + 0, ARGV[4 * at] + 0
",
    OWED,
    "  if beyond then
",
    WRITE,
    "  end
  local taken = cost * increment
  if debt + taken > capacity then
    all = all and cost == 0
    taken = 0
  elseif most > cost then
    taken = math.min(most, math.floor((capacity - debt) / increment)) * increment
  end
  debts[at], ARGV[at] = debt, taken
end
for at = 1, all and #KEYS or 0 do
  local key, debt = KEYS[at], debts[at] + ARGV[at]
  if debt > debts[at] then
",
    WRITE,
    "  end
end
return debts",
];

/// `ARGV`: capacity and change of each key, in nanoseconds.
const ADJUST: [&str; 7] = [
    BEGIN,
    "for at = 1, #KEYS do
  local key, capacity = KEYS[at], ARGV[2 * at - 1] + 0
",
    OWED,
    "  debt = math.min(debt + ARGV[2 * at], capacity)
  if debt <= 0 then
    redis.call('DEL', key)
  else
",
    WRITE,
    "  end
end
",
    "return 1",
];

/// Buckets in Redis 6 or newer, or Valkey: every process that uses the same server and name counts in the same ones.
///
/// A decision about any number of buckets is one script and one round trip, by the clock of the server. A refusal
/// writes nothing. A bucket that is full is not there, so that Redis needs memory for those alone that owe something.
///
/// All keys have the deployment as their hash tag: a cluster keeps them on one server, as it must to decide about
/// several of them at once. Redirections are not followed. After a failover or an eviction buckets may be full again,
/// which allows a burst too much.
///
/// The connection is made by the first decision, and made again after it was lost. No TLS: `rediss://` is refused.
pub struct RedisRateLimitStore {
    server: Server,
    prefix: String,
    take: Script,
    adjust: Script,
}

impl RedisRateLimitStore {
    /// A store on the server at `url`: `redis://USER:PASSWORD@HOST:PORT/DATABASE`, or `redis+unix:///PATH`. Those that
    /// name the same `deployment` count together. Nothing is sent yet.
    ///
    /// ```no_run
    /// use cratestack_engine::ratelimit::RedisRateLimitStore;
    ///
    /// # fn run() -> Result<(), Box<dyn std::error::Error>> {
    /// let store = RedisRateLimitStore::new("redis://127.0.0.1:6379", "bank")?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When the URL is none, or asks for TLS.
    pub fn new(url: &str, deployment: &str) -> Result<Self, StoreDown> {
        // What stands between the first braces is what a cluster goes by.
        let deployment = deployment.replace('{', "(").replace('}', ")");
        Ok(Self {
            server: Server::new(url)?,
            prefix: format!("cratestack:ratelimit:{{{deployment}}}:"),
            take: Script::new(&TAKE.concat()),
            adjust: Script::new(&ADJUST.concat()),
        })
    }

    fn name(&self, key: Key) -> String {
        format!("{}{key}", self.prefix)
    }
}

impl RateLimitStore for RedisRateLimitStore {
    fn take<'a>(&'a self, charges: &'a [Charge]) -> BoxFuture<'a, Result<Taken, StoreDown>> {
        Box::pin(async move {
            let mut invocation: ScriptInvocation<'_> = self.take.prepare_invoke();
            for charge in charges {
                invocation.key(self.name(charge.key));
                let quota = charge.quota;
                for number in [quota.increment(), quota.capacity(), charge.cost, charge.most] {
                    invocation.arg(number);
                }
            }
            let debts: Vec<u64> = self.server.run(&invocation).await?;
            if debts.len() == charges.len() {
                Ok(Taken::of(charges, debts))
            } else {
                Err(StoreDown::new("Redis: the script gave another answer than was expected"))
            }
        })
    }

    fn adjust<'a>(&'a self, adjustments: &'a [Adjustment]) -> BoxFuture<'a, Result<(), StoreDown>> {
        Box::pin(async move {
            let mut invocation = self.adjust.prepare_invoke();
            for adjustment in adjustments {
                invocation.key(self.name(adjustment.key));
                invocation.arg(adjustment.quota.capacity()).arg(adjustment.change());
            }
            self.server.run::<i64>(&invocation).await.map(|_| ())
        })
    }
}

/// Without the client, whose URL may have a password.
impl Debug for RedisRateLimitStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisRateLimitStore").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}
