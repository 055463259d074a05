//! Policies, costs and keys, and how they are written.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use cratestack_engine::ratelimit::{Key, OnFailure, Quota, QuotaError};
use cratestack_schema::fuzzy;
use cratestack_schema::ir::is_policy_name;
use percent_encoding::percent_decode_str;

use crate::caller::CallerScope;

/// What tells requests apart that are counted separately.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The verified caller; where there is none, the address.
    Principal,
    /// The tenant of the verified caller; where there is none, as [`Self::Principal`].
    Tenant,
    /// The address, of IPv6 its network.
    Address,
    /// The route.
    Route,
}

impl Part {
    const ALL: [(&'static str, Self); 4] =
        [("principal", Self::Principal), ("tenant", Self::Tenant), ("address", Self::Address), ("route", Self::Route)];
}

/// Which requests a policy counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Class {
    /// All of them.
    #[default]
    All,
    /// Those that change nothing.
    Reads,
    /// Those that may change something.
    Writes,
    /// Calls of the procedures that name it by `@rate_limit`.
    Named,
}

impl Class {
    const ALL: [(&'static str, Self); 4] =
        [("all", Self::All), ("reads", Self::Reads), ("writes", Self::Writes), ("named", Self::Named)];
}

const ON_FAILURE: [(&str, OnFailure); 3] =
    [("local", OnFailure::Local), ("closed", OnFailure::Closed), ("open", OnFailure::Open)];

/// A named limit: how much, of what, and whose.
///
/// As text, in the configuration of the command:
///
/// ```
/// use cratestack::RateLimitPolicy;
///
/// let policy: RateLimitPolicy = "logins = 5/1m burst 10 by address on-failure closed unauthorized 4".parse()?;
/// assert_eq!((policy.name(), policy.quota().burst()), ("logins", 10));
///
/// let error = "logins = 5/1m by adress".parse::<RateLimitPolicy>().unwrap_err();
/// assert_eq!(error.to_string(), "the rate limit `logins`: `adress` is nothing to count by: did you mean `address`?");
/// # Ok::<(), cratestack::PolicyError>(())
/// ```
///
/// | | |
/// |---|---|
/// | `NAME = LIMIT/PERIOD` | a period is `s`, `m`, `h`, `d`, or so many of them: `500ms`, `10s` |
/// | `burst N` | units at once after a rest; as many as the limit unless it says so |
/// | `by PART+PART` | `principal`, `tenant`, `address`, `route`, or `nobody` for one that all requests share; `principal` unless it says so |
/// | `for CLASS` | `reads`, `writes`, `named` (procedures with `@rate_limit("NAME")`); `all` unless it says so, and `named` where a procedure names it |
/// | `on-failure WHAT` | `local`, `closed`, `open`, when the store does not answer; `local` unless it says so |
/// | `unauthorized N` | units that a 401 costs besides, of a policy by `address` |
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateLimitPolicy {
    name: Box<str>,
    quota: Quota,
    by: Vec<Part>,
    class: Class,
    /// Whether somebody has said for which requests.
    classed: bool,
    on_failure: OnFailure,
    penalty: u64,
    /// How many others of the name come before it.
    nth: usize,
}

/// Why there is no such policy. `Display` is for whoever wrote it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// The name.
    #[error("`{0}` is no name of a rate limit: it has 1 to 64 letters, digits, `_`, `-` and `.`")]
    Name(String),
    /// The numbers.
    #[error("the rate limit `{name}` is none: {why}")]
    Quota {
        /// Of which policy.
        name: String,
        /// What is wrong with them.
        why: QuotaError,
    },
    /// The text.
    #[error("{0}")]
    Text(String),
}

impl RateLimitPolicy {
    /// `limit` requests per `period`, by [principal](Part::Principal), and as many at once after a rest.
    ///
    /// # Errors
    /// When the name has other characters than letters, digits, `_`, `-` and `.`, or the numbers are no [`Quota`].
    pub fn new(name: &str, limit: u64, period: Duration) -> Result<Self, PolicyError> {
        Self::with_burst(name, limit, period, limit)
    }

    /// The same, with `burst` requests at once after a rest.
    ///
    /// # Errors
    /// As there.
    pub fn with_burst(name: &str, limit: u64, period: Duration, burst: u64) -> Result<Self, PolicyError> {
        if !is_policy_name(name) {
            return Err(PolicyError::Name(name.to_owned()));
        }
        let quota =
            Quota::new(limit, period, burst).map_err(|why| PolicyError::Quota { name: name.to_owned(), why })?;
        Ok(Self {
            name: name.into(),
            quota,
            by: vec![Part::Principal],
            class: Class::All,
            classed: false,
            on_failure: OnFailure::Local,
            penalty: 0,
            nth: 0,
        })
    }

    /// Sets whose requests count together. With nothing, all do.
    #[must_use]
    pub fn by(mut self, parts: impl IntoIterator<Item = Part>) -> Self {
        self.by = parts.into_iter().collect();
        self.by.sort_unstable();
        self.by.dedup();
        self
    }

    /// Sets which requests it counts.
    #[must_use]
    pub fn only(mut self, class: Class) -> Self {
        (self.class, self.classed) = (class, true);
        self
    }

    /// Sets what happens when the store does not answer.
    #[must_use]
    pub fn on_failure(mut self, on_failure: OnFailure) -> Self {
        self.on_failure = on_failure;
        self
    }

    /// Sets what a 401 costs besides, of a policy that has counted the request: by [address](Part::Address) that is
    /// every one, by principal that of nobody whose credentials are not valid.
    #[must_use]
    pub fn unauthorized(mut self, units: u64) -> Self {
        self.penalty = units;
        self
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How much it allows.
    pub fn quota(&self) -> Quota {
        self.quota
    }

    /// Tells it from as many others of its name.
    pub(super) fn after(self, others: usize) -> Self {
        Self { nth: others, ..self }
    }

    /// Whether it needs callers to have tenants.
    pub(super) fn is_by_tenant(&self) -> bool {
        self.by.contains(&Part::Tenant)
    }

    /// Makes it count the procedures that name it, unless it says otherwise.
    pub(super) fn named(mut self, names: &[&str]) -> Self {
        if !self.classed && names.contains(&self.name()) {
            self.class = Class::Named;
        }
        self
    }

    pub(super) fn class(&self) -> Class {
        self.class
    }

    /// What happens when the store does not answer.
    pub fn when_store_fails(&self) -> OnFailure {
        self.on_failure
    }

    pub(super) fn penalty(&self) -> u64 {
        self.penalty
    }

    /// Whether it needs nothing of the caller but its address.
    pub(super) fn is_by_address(&self) -> bool {
        self.by.contains(&Part::Address) && !self.is_by_caller()
    }

    pub(crate) fn is_by_caller(&self) -> bool {
        self.by.contains(&Part::Principal) || self.by.contains(&Part::Tenant)
    }

    /// Whether each of its buckets is somebody's, and not everybody's.
    pub(super) fn is_somebodys(&self) -> bool {
        self.is_by_caller() || self.by.contains(&Part::Address)
    }

    /// Whether it counts such a request. Who is named counts, whatever else does.
    pub(super) fn applies(&self, reads: bool, named: &[String]) -> bool {
        let class = match self.class {
            Class::All => true,
            Class::Reads => reads,
            Class::Writes => !reads,
            Class::Named => false,
        };
        class || named.iter().any(|name| **name == *self.name)
    }

    /// Its item of `RateLimit-Policy`.
    pub(super) fn item(&self) -> String {
        // Where a period is not divided evenly, each unit takes up to a nanosecond more, which nobody means.
        let window = (self.quota.capacity() - (self.quota.burst() - 1)).div_ceil(1_000_000_000);
        format!("\"{}\";q={};w={window}", self.name, self.quota.burst())
    }

    /// What is counted of a request; `None` when that is an address, and there is none.
    pub(super) fn key(&self, caller: Option<&CallerScope>, address: Option<&str>, op: &str) -> Option<Key> {
        let nth = self.nth.to_string();
        let mut parts: Vec<&str> = vec![&self.name];
        if self.nth > 0 {
            parts.extend(["again", &nth]);
        }
        for part in &self.by {
            match (part, caller) {
                (Part::Route, _) => parts.extend(["route", op]),
                (Part::Address, _) | (Part::Principal | Part::Tenant, None) => parts.extend(["address", address?]),
                (Part::Tenant, Some(CallerScope { tenant: Some(tenant), .. })) => parts.extend(["tenant", tenant]),
                (Part::Principal, Some(CallerScope { tenant: Some(tenant), subject })) => {
                    parts.extend(["principal", subject, "of", tenant]);
                }
                (Part::Principal | Part::Tenant, Some(CallerScope { subject, .. })) => {
                    parts.extend(["principal", subject]);
                }
            }
        }
        Some(Key::of(parts))
    }
}

/// The words of a policy's text.
const WORDS: &str = "`burst`, `by`, `for`, `on-failure` or `unauthorized`";

impl FromStr for RateLimitPolicy {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let wrong = |text: String| Err(PolicyError::Text(text));
        let Some((name, rest)) = text.split_once('=') else {
            return wrong(format!("`{}` is no rate limit: write `NAME = LIMIT/PERIOD`, as `api = 100/s`", text.trim()));
        };
        let name = name.trim();
        let mut words = rest.split_whitespace();
        let rate = words.next().unwrap_or_default();
        if !is_policy_name(name) {
            return Err(PolicyError::Name(name.to_owned()));
        }
        let wrong = |text: String| Err(PolicyError::Text(format!("the rate limit `{name}`: {text}")));
        if rate.ends_with(',') {
            return wrong(format!("`{rate}` is no rate: between rate limits is a `;`"));
        }
        let Some((limit, period)) =
            rate.split_once('/').and_then(|(limit, period)| Some((limit.parse::<u64>().ok()?, duration(period)?)))
        else {
            return wrong(format!(
                "`{rate}` is no rate: write it as `100/s` or `5/10m`, with `ms`, `s`, `m`, `h` or `d`"
            ));
        };
        let mut policy = Self::new(name, limit, period);
        let mut seen: Vec<&str> = Vec::new();
        while let Some(word) = words.next() {
            let Some(value) = words.next() else {
                return wrong(format!("`{word}` at the end of a rate limit has no value, or is none of {WORDS}"));
            };
            if seen.contains(&word) {
                return wrong(format!("`{word}` is there twice"));
            }
            seen.push(word);
            policy = match word {
                "burst" => match value.parse() {
                    Ok(burst) => policy.and_then(|policy| {
                        let Self { quota, .. } = Self::with_burst(name, limit, period, burst)?;
                        Ok(Self { quota, ..policy })
                    }),
                    Err(_) => return wrong(format!("`{value}` is no number of requests at once")),
                },
                "unauthorized" => match value.parse() {
                    Ok(units) => policy.map(|policy| policy.unauthorized(units)),
                    Err(_) => return wrong(format!("`{value}` is no number of units that a 401 costs")),
                },
                "by" => match parts(value) {
                    Ok(parts) => policy.map(|policy| policy.by(parts)),
                    Err(why) => return wrong(why),
                },
                "for" => match choice(value, &Class::ALL, "no class of requests") {
                    Ok(class) => policy.map(|policy| policy.only(class)),
                    Err(why) => return wrong(why),
                },
                "on-failure" => match choice(value, &ON_FAILURE, "nothing to do when the store does not answer") {
                    Ok(what) => policy.map(|policy| policy.on_failure(what)),
                    Err(why) => return wrong(why),
                },
                _ => return wrong(format!("`{word}` is nothing that a rate limit has: it is {WORDS}")),
            };
            policy = Ok(policy?);
        }
        let policy = policy?;
        if policy.penalty > 0 && !policy.is_by_address() {
            return wrong("`unauthorized` is for limits `by address`".to_owned());
        }
        if policy.penalty > policy.quota.burst() {
            return wrong(format!("`unauthorized {}` is more than it ever allows", policy.penalty));
        }
        Ok(policy)
    }
}

fn choice<T: Copy>(word: &str, table: &[(&str, T)], what: &str) -> Result<T, String> {
    let found = table.iter().find(|(name, _)| *name == word).map(|(_, value)| *value);
    found.ok_or_else(|| {
        let names = table.iter().map(|(name, _)| *name);
        if let Some(meant) = fuzzy::nearest(word, names.clone()) {
            return format!("`{word}` is {what}: did you mean `{meant}`?");
        }
        let names: Vec<String> = names.map(|name| format!("`{name}`")).collect();
        let (last, first) = names.split_last().map_or(("", String::new()), |(last, first)| (last, first.join(", ")));
        format!("`{word}` is {what}: it is {first} or {last}")
    })
}

fn parts(text: &str) -> Result<Vec<Part>, String> {
    if text == "nobody" {
        return Ok(Vec::new());
    }
    let mut parts = Vec::new();
    for word in text.split('+') {
        if word == "nobody" {
            return Err(format!("`{text}` is nobody and somebody: `by nobody` stands alone"));
        }
        let part = choice(word, &Part::ALL, "nothing to count by")
            .map_err(|why| if why.ends_with('?') { why } else { format!("{why}, several with `+`, or `nobody`") })?;
        if parts.contains(&part) {
            return Err(format!("`{word}` is there twice"));
        }
        parts.push(part);
    }
    Ok(parts)
}

/// `s`, `10s`, `500ms`, `5m`, `1h`, `1d`.
fn duration(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let number = if number.is_empty() { 1 } else { number.parse::<u64>().ok()? };
    let millis = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.checked_mul(millis).map(Duration::from_millis)
}

/// Policies with `;` or ends of lines between them, as the command has them.
///
/// # Errors
/// When one is none, or two have the same name.
pub fn policies(text: &str) -> Result<Vec<RateLimitPolicy>, PolicyError> {
    let mut all: Vec<RateLimitPolicy> = Vec::new();
    for part in text.split([';', '\n']).filter(|part| !part.trim().is_empty()) {
        let policy: RateLimitPolicy = part.parse()?;
        if all.iter().any(|other| other.name == policy.name) {
            return Err(PolicyError::Text(format!("there are two rate limits `{}`", policy.name)));
        }
        all.push(policy);
    }
    Ok(all)
}

/// What requests cost: one unit each, a batch one for each item, unless it says otherwise.
///
/// ```
/// use cratestack::Costs;
///
/// let costs: Costs = "GET /accounts = 5; POST /accounts/batch = 2".parse()?;
/// assert_eq!(costs.of("GET /accounts", None), 5);
/// assert_eq!(costs.of("POST /accounts/batch", Some(10)), 20);
/// assert_eq!(costs.of("GET /accounts/{id}", None), 1);
/// # Ok::<(), cratestack::CostError>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Costs(BTreeMap<String, u64>);

/// A text that says of no route what it costs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no cost of a route, or there twice: write `METHOD /path = UNITS`, as `GET /accounts = 5`, with `;` between"
)]
pub struct CostError(String);

impl FromStr for Costs {
    type Err = CostError;

    fn from_str(text: &str) -> Result<Self, CostError> {
        let mut costs = Self::default();
        for part in text.split([';', '\n']).filter(|part| !part.trim().is_empty()) {
            let wrong = || CostError(part.trim().to_owned());
            let (op, units) = part.rsplit_once('=').ok_or_else(wrong)?;
            let op = op.split_whitespace().collect::<Vec<_>>().join(" ");
            let units = units.trim().parse().ok().filter(|units| *units > 0).ok_or_else(wrong)?;
            if op.is_empty() || op.contains([',', '=']) || costs.0.insert(op, units).is_some() {
                return Err(wrong());
            }
        }
        Ok(costs)
    }
}

impl Costs {
    /// What a request to a route costs, of a batch with so many items.
    pub fn of(&self, op: &str, items: Option<usize>) -> u64 {
        let units = self.0.get(op).copied().unwrap_or(1);
        units.saturating_mul(u64::try_from(items.unwrap_or(1)).unwrap_or(u64::MAX).max(1))
    }

    /// The routes that it names.
    pub(super) fn routes(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

/// A bucket as an operator writes it: `POLICY`, or `POLICY:PART=VALUE,PART=VALUE`.
///
/// ```
/// use cratestack::LimitKey;
///
/// let key: LimitKey = "api:principal=ann,tenant=berlin".parse()?;
/// assert_eq!(key.policy(), "api");
/// # Ok::<(), cratestack::LimitKeyError>(())
/// ```
///
/// Parts are `principal` (with `tenant`, where the caller has one), `tenant`, `address` and `route`: those that the
/// policy counts by. Octets of a value can be written as in a URL: `%2C` is a comma.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitKey {
    policy: String,
    values: Vec<(Part, String)>,
}

/// Why there is no such bucket. `Display` is for whoever wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyError(String);

impl Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for KeyError {}

impl FromStr for LimitKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let (policy, rest) = text.split_once(':').unwrap_or((text, ""));
        if !is_policy_name(policy) {
            return Err(KeyError(format!("`{text}` is no key: write it as `api:principal=ann`")));
        }
        let mut values: Vec<(Part, String)> = Vec::new();
        for pair in rest.split(',').filter(|pair| !pair.is_empty()) {
            let Some((part, value)) = pair.split_once('=') else {
                return Err(KeyError(format!("`{pair}` has no value: write `{pair}=..`")));
            };
            let part = choice(part, &Part::ALL, "nothing to count by").map_err(KeyError)?;
            if values.iter().any(|(other, _)| *other == part) {
                return Err(KeyError(format!("`{pair}` is there twice")));
            }
            let value = percent_decode_str(value).decode_utf8();
            let value = value.map_err(|_| KeyError(format!("`{pair}` is no UTF-8")))?.into_owned();
            if value.is_empty() {
                return Err(KeyError(format!("`{pair}` has no value")));
            }
            values.push((part, value));
        }
        Ok(Self { policy: policy.to_owned(), values })
    }
}

impl LimitKey {
    /// The policy.
    pub fn policy(&self) -> &str {
        &self.policy
    }

    /// What it says of a part.
    pub fn value(&self, part: Part) -> Option<&str> {
        self.values.iter().find(|(other, _)| *other == part).map(|(_, value)| value.as_str())
    }

    /// The bucket, of the policy with the name. IPv6 addresses are cut to `prefix` bits.
    ///
    /// # Errors
    /// When the policy counts by something else.
    pub fn of(&self, policy: &RateLimitPolicy, prefix: u8) -> Result<Key, KeyError> {
        let value = |part| self.value(part);
        let address = match value(Part::Address) {
            Some(text) => {
                let bare = text.split_once('/').map_or(text, |(address, _)| address);
                let address: IpAddr = bare.parse().map_err(|_| KeyError(format!("`{text}` is no IP address")))?;
                Some(crate::address::neighbourhood(address.to_canonical(), prefix))
            }
            None => None,
        };
        let (tenant, principal, route) = (value(Part::Tenant), value(Part::Principal), value(Part::Route));
        let by = |part| policy.by.contains(&part);
        let callers = policy.is_by_caller();
        let anybody = principal.is_some() || address.is_some();
        let fits = route.is_some() == by(Part::Route)
            && (callers || principal.is_none() && tenant.is_none())
            && (callers || address.is_some() == by(Part::Address))
            && (!by(Part::Address) || address.is_some())
            && (!by(Part::Principal) || anybody)
            && (!by(Part::Tenant) || anybody || tenant.is_some());
        if !fits {
            let names = Part::ALL.iter().filter(|(_, part)| by(*part)).map(|(name, _)| format!("`{name}`"));
            let names: Vec<String> = names.collect();
            let what = if names.is_empty() { "nothing: write its name alone".to_owned() } else { names.join(" and ") };
            return Err(KeyError(format!("`{}` counts by {what}", self.policy)));
        }
        let known = principal.or(tenant);
        let caller = known.map(|subject| CallerScope::new(tenant, subject));
        policy
            .key(caller.as_ref(), address.as_deref(), route.unwrap_or_default())
            .ok_or_else(|| KeyError(format!("`{}` counts by address too", self.policy)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        policies(text).unwrap_err().to_string()
    }

    #[test]
    fn policies_are_read() {
        let all = policies("api = 100/s;logins=5/10m burst 10 by address on-failure closed unauthorized 4 for writes; all=1000/500ms by nobody;").unwrap();
        let names: Vec<&str> = all.iter().map(RateLimitPolicy::name).collect();
        assert_eq!(names, ["api", "logins", "all"]);
        assert_eq!(all[0].item(), "\"api\";q=100;w=1");
        assert_eq!(all[1].item(), "\"logins\";q=10;w=1200");
        assert_eq!(all[2].item(), "\"all\";q=1000;w=1");
        assert_eq!((all[1].penalty, all[1].on_failure, all[1].class), (4, OnFailure::Closed, Class::Writes));
        assert!(all[1].is_by_address() && !all[0].is_by_address() && !all[2].is_somebodys());
        let both = "both=1/d by route+tenant".parse::<RateLimitPolicy>().unwrap();
        assert_eq!(both.by, [Part::Tenant, Part::Route]);
        assert_eq!(policies("").unwrap(), []);
        assert_eq!(policies("a=1/s\nb=2/s\n").unwrap().len(), 2);
        // What a period is divided by has nothing to do with how long it is.
        for (text, item) in
            [("x=3/s", "q=3;w=1"), ("x=7/1m", "q=7;w=60"), ("x=1/d", "q=1;w=86400"), ("x=3/s burst 4", "q=4;w=2")]
        {
            assert_eq!(text.parse::<RateLimitPolicy>().unwrap().item(), format!("\"x\";{item}"));
        }
    }

    #[test]
    fn what_is_no_policy_says_why() {
        let table = [
            ("api", "`api` is no rate limit: write `NAME = LIMIT/PERIOD`, as `api = 100/s`"),
            (
                "api=",
                "the rate limit `api`: `` is no rate: write it as `100/s` or `5/10m`, with `ms`, `s`, `m`, `h` or `d`",
            ),
            (
                "api=100",
                "the rate limit `api`: `100` is no rate: write it as `100/s` or `5/10m`, with `ms`, `s`, `m`, `h` or `d`",
            ),
            (
                "api=1/min",
                "the rate limit `api`: `1/min` is no rate: write it as `100/s` or `5/10m`, with `ms`, `s`, `m`, `h` or `d`",
            ),
            ("api=1/s, b=2/s", "the rate limit `api`: `1/s,` is no rate: between rate limits is a `;`"),
            ("a b=1/s", "`a b` is no name of a rate limit: it has 1 to 64 letters, digits, `_`, `-` and `.`"),
            ("api=0/s", "the rate limit `api` is none: limit, period and burst must be more than 0"),
            ("api=1/s burst 0", "the rate limit `api` is none: limit, period and burst must be more than 0"),
            ("api=1/s burst x", "the rate limit `api`: `x` is no number of requests at once"),
            (
                "api=1/s burst",
                "the rate limit `api`: `burst` at the end of a rate limit has no value, or is none of `burst`, `by`, `for`, `on-failure` or `unauthorized`",
            ),
            (
                "api=1/s burts 2",
                "the rate limit `api`: `burts` is nothing that a rate limit has: it is `burst`, `by`, `for`, `on-failure` or `unauthorized`",
            ),
            ("api=1/s burst 2 burst 3", "the rate limit `api`: `burst` is there twice"),
            ("api=1/s for read", "the rate limit `api`: `read` is no class of requests: did you mean `reads`?"),
            (
                "api=1/s for everything",
                "the rate limit `api`: `everything` is no class of requests: it is `all`, `reads`, `writes` or `named`",
            ),
            (
                "api=1/s by ip",
                "the rate limit `api`: `ip` is nothing to count by: it is `principal`, `tenant`, `address` or `route`, several with `+`, or `nobody`",
            ),
            (
                "api=1/s by nobody+route",
                "the rate limit `api`: `nobody+route` is nobody and somebody: `by nobody` stands alone",
            ),
            ("api=1/s by address+address", "the rate limit `api`: `address` is there twice"),
            (
                "api=1/s on-failure no",
                "the rate limit `api`: `no` is nothing to do when the store does not answer: it is `local`, `closed` or `open`",
            ),
            ("api=1/s unauthorized 2", "the rate limit `api`: `unauthorized` is for limits `by address`"),
            ("api=1/s by address unauthorized 2", "the rate limit `api`: `unauthorized 2` is more than it ever allows"),
            ("api=1/s by address unauthorized x", "the rate limit `api`: `x` is no number of units that a 401 costs"),
            (
                "api=1/101d",
                "the rate limit `api` is none: the whole burst takes more than 100 days to come back; allow less at once, or in a shorter period",
            ),
            ("api=1/s;api=2/s", "there are two rate limits `api`"),
        ];
        for (text, wanted) in table {
            assert_eq!(error(text), wanted, "{text}");
        }
    }

    #[test]
    fn costs_are_read() {
        for text in ["GET /x", "GET /x=0", "GET /x=a", "=3", "GET /x=1;GET  /x=2", "GET /x=1, GET /y=2"] {
            assert!(text.parse::<Costs>().is_err(), "{text}");
        }
        assert_eq!("".parse::<Costs>().unwrap(), Costs::default());
        assert_eq!("GET /x=2\nGET /y=3\n".parse::<Costs>().unwrap().of("GET /y", None), 3);
        assert_eq!(Costs::default().of("POST /a/batch", Some(0)), 1);
    }

    #[test]
    fn operators_name_the_buckets_of_requests() {
        let policy = |text: &str| text.parse::<RateLimitPolicy>().unwrap();
        let of = |key: &str, text: &str| key.parse::<LimitKey>().and_then(|key| key.of(&policy(text), 64));
        let caller = CallerScope::new(Some("berlin"), "ann, b");
        let alone = CallerScope::new(None, "ann");
        let request = |text: &str, caller: Option<&CallerScope>| {
            policy(text).key(caller, Some("2001:db8::/64"), "GET /x").unwrap()
        };
        let table = [
            ("p:principal=ann%2C b,tenant=berlin", "p=1/s", Some(&caller)),
            ("p:principal=ann", "p=1/s", Some(&alone)),
            ("p:address=2001:db8::7", "p=1/s", None),
            ("p:tenant=berlin", "p=1/s by tenant", Some(&caller)),
            ("p:principal=ann", "p=1/s by tenant", Some(&alone)),
            ("p:address=2001:db8::/64", "p=1/s by address", Some(&caller)),
            ("p:route=GET /x,address=2001:db8::1", "p=1/s by address+route", None),
            ("p", "p=1/s by nobody", Some(&caller)),
            ("p:route=GET /x", "p=1/s by route", Some(&caller)),
        ];
        for (key, text, caller) in table {
            assert_eq!(of(key, text).unwrap(), request(text, caller), "{key} {text}");
        }
        for (key, text, wanted) in [
            ("p", "p=1/s", "`p` counts by `principal`"),
            ("p:address=::1", "p=1/s by nobody", "`p` counts by nothing: write its name alone"),
            ("p:principal=ann", "p=1/s by address", "`p` counts by `address`"),
            ("p:principal=ann", "p=1/s by principal+route", "`p` counts by `principal` and `route`"),
            ("p:principal=ann,route=x", "p=1/s", "`p` counts by `principal`"),
            ("p:address=x", "p=1/s by address", "`x` is no IP address"),
            ("p:who=ann", "p=1/s", "`who` is nothing to count by: it is `principal`, `tenant`, `address` or `route`"),
            ("p:principal", "p=1/s", "`principal` has no value: write `principal=..`"),
            ("p:principal=", "p=1/s", "`principal=` has no value"),
            ("p:route=a,route=b", "p=1/s", "`route=b` is there twice"),
            ("p q", "p=1/s", "`p q` is no key: write it as `api:principal=ann`"),
        ] {
            assert_eq!(of(key, text).unwrap_err().to_string(), wanted, "{key} {text}");
        }
    }
}
