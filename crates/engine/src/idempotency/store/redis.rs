//! Records in Redis or Valkey: best effort.

use std::fmt::{self, Debug};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use redis::{FromRedisValue, Script};

use super::{BoxFuture, Found, IdempotencyStore, Reservation, Reserved, StoreDown, Token, settled};
use crate::idempotency::{Identity, Record};
use crate::redis_server::Server;

/// The time of the server in milliseconds. `%.0f` because Lua would write large numbers with an exponent.
const NOW: &str = "local t = redis.call('TIME') local now = t[1] * 1000 + math.floor(t[2] / 1000)
local function after(millis) return string.format('%.0f', now + millis) end
local key = KEYS[1]
";

/// Goes on only for the holder of the token, `ARGV[1]`, of a reservation.
const HELD: &str = "if redis.call('HGET', key, 'token') ~= ARGV[1] then return 0 end
local state = redis.call('HGET', key, 'state')
if state ~= '3' and state ~= '4' then return 0 end
";

/// Records in Redis 6 or newer, or Valkey. Each step is one script, which the server runs as a whole; a lease is
/// measured by the clock of the server. Redis itself removes a record when its time is over.
///
/// **Best effort.** Redis acknowledges before its replicas have a write, and before the disk has it unless `appendfsync
/// always` says so: a failover or a restart may lose reservations and records that were acknowledged, and then a retry
/// has its effect again. So may an eviction: `maxmemory-policy` must be `noeviction`. Where that costs money, use a
/// database.
///
/// One server, or what looks like one; no cluster, whose redirections are not followed. No TLS: `rediss://` is refused,
/// not downgraded.
///
/// A dead server is noticed after 2 s at the latest. The first step makes the connection, later ones make it again.
pub struct RedisIdempotencyStore {
    server: Server,
    prefix: String,
    scripts: Scripts,
}

struct Scripts {
    reserve: Script,
    take_over: Script,
    extend: Script,
    complete: Script,
    release: Script,
    mark_unknown: Script,
}

impl RedisIdempotencyStore {
    /// A store on the server at `url`: `redis://USER:PASSWORD@HOST:PORT/DATABASE`, or `redis+unix:///PATH`. Nothing is
    /// sent yet.
    ///
    /// ```no_run
    /// use cratestack_engine::idempotency::store::RedisIdempotencyStore;
    ///
    /// # fn run() -> Result<(), Box<dyn std::error::Error>> {
    /// let store = RedisIdempotencyStore::new("redis://127.0.0.1:6379")?.prefix("bank:idempotency");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When the URL is none, or asks for TLS.
    pub fn new(url: &str) -> Result<Self, StoreDown> {
        Ok(Self { server: Server::new(url)?, prefix: "cratestack:idempotency".to_owned(), scripts: Scripts::new() })
    }

    /// Sets what the names of all keys begin with. Default: `cratestack:idempotency`. Braces become parentheses: what
    /// stands between the first two is what a cluster goes by.
    #[must_use]
    pub fn prefix(mut self, prefix: &str) -> Self {
        self.prefix = prefix.replace('{', "(").replace('}', ")");
        self
    }

    /// The name of a record, all of which is in its hash tag.
    fn name(&self, identity: &Identity) -> String {
        let scope = BASE64_URL_SAFE_NO_PAD.encode(identity.scope);
        format!("{}:{{{scope}:{}}}", self.prefix, identity.key)
    }

    async fn run<T: FromRedisValue>(
        &self,
        script: &Script,
        identity: &Identity,
        arguments: &[Argument<'_>],
    ) -> Result<T, StoreDown> {
        let mut invocation = script.key(self.name(identity));
        for argument in arguments {
            match argument {
                Argument::Octets(octets) => invocation.arg(*octets),
                Argument::Text(text) => invocation.arg(*text),
                Argument::Owned(text) => invocation.arg(text),
                Argument::Number(number) => invocation.arg(*number),
            };
        }
        self.server.run(&invocation).await
    }
}

enum Argument<'a> {
    Octets(&'a [u8]),
    Text(&'a str),
    Owned(String),
    Number(i64),
}

fn token(token: Token) -> Argument<'static> {
    // As text: Lua's numbers have 53 bits.
    Argument::Owned(token.number().to_string())
}

/// The arguments that begin a reservation, after one that says whose.
fn begun<'a>(whose: Argument<'a>, reservation: &'a Reservation) -> Vec<Argument<'a>> {
    vec![
        whose,
        token(reservation.token),
        Argument::Text(&reservation.op),
        Argument::Text(&reservation.request_id),
        Argument::Number(reservation.lease_millis()),
        Argument::Number(reservation.kept_millis()),
    ]
}

impl Scripts {
    fn new() -> Self {
        let script = |parts: &[&str]| Script::new(&parts.concat());
        let begin = "redis.call('HSET', key, 'state', '3', 'token', ARGV[2], 'op', ARGV[3], 'request_id', ARGV[4],
  'lease_until', after(ARGV[5]))
redis.call('PEXPIRE', key, ARGV[6])
";
        Self {
            reserve: script(&[
                NOW,
                "if redis.call('EXISTS', key) == 1 then
  local r = redis.call('HMGET', key, 'fingerprint', 'state', 'token', 'lease_until', 'status', 'headers', 'body')
  local ended = 0
  if r[4] and tonumber(r[4]) <= now then ended = 1 end
  return {r[1], r[2], r[3], ended, r[5], r[6], r[7]}
end
redis.call('HSET', key, 'fingerprint', ARGV[1], 'created_at', after(0))
",
                begin,
                "return false",
            ]),
            take_over: script(&[
                NOW,
                HELD,
                "if state == '3' and tonumber(redis.call('HGET', key, 'lease_until')) > now then return 0 end
",
                begin,
                "return 1",
            ]),
            extend: script(&[
                NOW,
                HELD,
                "if state ~= '3' then return 0 end
redis.call('HSET', key, 'lease_until', after(ARGV[2]))
return 1",
            ]),
            complete: script(&[
                NOW,
                "if redis.call('EXISTS', key) == 0 then
  redis.call('HSET', key, 'token', ARGV[1], 'fingerprint', ARGV[2], 'op', ARGV[3], 'request_id', ARGV[4],
    'created_at', after(0))
  redis.call('PEXPIRE', key, ARGV[5])
elseif redis.call('HGET', key, 'token') ~= ARGV[1] then
  return 0
end
redis.call('HSET', key, 'state', ARGV[6], 'status', ARGV[7], 'headers', ARGV[8])
redis.call('HDEL', key, 'lease_until', 'body')
if ARGV[9] then redis.call('HSET', key, 'body', ARGV[9]) end
return 1",
            ]),
            release: script(&[
                NOW,
                HELD,
                "redis.call('DEL', key)
return 1",
            ]),
            mark_unknown: script(&[
                NOW,
                HELD,
                "redis.call('HSET', key, 'state', '4')
redis.call('HDEL', key, 'lease_until')
return 1",
            ]),
        }
    }
}

/// What the script of a reservation answers where there is a record: the members of [`Found`].
type Row = (Vec<u8>, i64, Option<i64>, bool, Option<i64>, Option<String>, Option<Vec<u8>>);

impl IdempotencyStore for RedisIdempotencyStore {
    fn reserve<'a>(
        &'a self,
        identity: &'a Identity,
        reservation: &'a Reservation,
    ) -> BoxFuture<'a, Result<Reserved, StoreDown>> {
        Box::pin(async move {
            let arguments = begun(Argument::Octets(&identity.fingerprint), reservation);
            let row: Option<Row> = self.run(&self.scripts.reserve, identity, &arguments).await?;
            let Some((fingerprint, state, token, ended, status, headers, body)) = row else {
                return Ok(Reserved::Granted);
            };
            Found { fingerprint, state, token, ended, status, headers, body }.judge(identity, reservation)
        })
    }

    fn take_over<'a>(
        &'a self,
        identity: &'a Identity,
        reservation: &'a Reservation,
        from: Token,
    ) -> BoxFuture<'a, Result<bool, StoreDown>> {
        Box::pin(async move { self.run(&self.scripts.take_over, identity, &begun(token(from), reservation)).await })
    }

    fn extend<'a>(
        &'a self,
        identity: &'a Identity,
        reservation: &'a Reservation,
    ) -> BoxFuture<'a, Result<bool, StoreDown>> {
        let arguments = [token(reservation.token), Argument::Number(reservation.lease_millis())];
        Box::pin(async move { self.run(&self.scripts.extend, identity, &arguments).await })
    }

    fn complete<'a>(
        &'a self,
        identity: &'a Identity,
        reservation: &'a Reservation,
        record: &'a Record,
    ) -> BoxFuture<'a, Result<bool, StoreDown>> {
        let mut arguments = vec![
            token(reservation.token),
            Argument::Octets(&identity.fingerprint),
            Argument::Text(&reservation.op),
            Argument::Text(&reservation.request_id),
            Argument::Number(reservation.kept_millis()),
            Argument::Number(settled(record).code()),
            Argument::Number(record.status.into()),
            Argument::Owned(record.header_lines()),
        ];
        arguments.extend(record.body.as_deref().map(Argument::Octets));
        Box::pin(async move { self.run(&self.scripts.complete, identity, &arguments).await })
    }

    fn release<'a>(
        &'a self,
        identity: &'a Identity,
        reservation: &'a Reservation,
    ) -> BoxFuture<'a, Result<bool, StoreDown>> {
        Box::pin(async move { self.run(&self.scripts.release, identity, &[token(reservation.token)]).await })
    }

    fn mark_unknown<'a>(
        &'a self,
        identity: &'a Identity,
        reservation: &'a Reservation,
    ) -> BoxFuture<'a, Result<bool, StoreDown>> {
        Box::pin(async move { self.run(&self.scripts.mark_unknown, identity, &[token(reservation.token)]).await })
    }
}

/// Without the client, whose URL may have a password.
impl Debug for RedisIdempotencyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisIdempotencyStore").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}
