//! Rate limits of requests: policies, whose requests they count, and what callers are told.
//!
//! ```
//! use std::time::Duration;
//!
//! use cratestack::axum::{Router, routing::get};
//! use cratestack::{InMemoryRateLimitStore, Part, RateLimitLayer, RateLimitPolicy};
//!
//! # fn app() -> Result<Router, Box<dyn std::error::Error>> {
//! let policies = [
//!     RateLimitPolicy::new("per-caller", 100, Duration::from_secs(1))?,
//!     RateLimitPolicy::new("per-address", 1000, Duration::from_mins(1))?.by([Part::Address]).unauthorized(10),
//! ];
//! let limits = RateLimitLayer::new(InMemoryRateLimitStore::default(), policies);
//! let app = Router::new().route("/quotes", get(|| async { "42" })).layer(limits);
//! # Ok(app)
//! # }
//! # app().unwrap();
//! ```
//!
//! The routes of a [schema](crate::router()) take them with
//! [`RouterBuilder::rate_limits`](crate::RouterBuilder::rate_limits): policies by address are decided before the body is
//! read and the caller is known, all others when the caller is. What is refused costs nothing.

use std::fmt::Debug;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cratestack_engine::api::Code;
use cratestack_engine::ratelimit::{
    Adjustment, Admission, Asked, Charge, Key, Limiter, LimiterOptions, OnFailure, RateLimitStore, Standing, Verdict,
};
use cratestack_schema::ir::Schema;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use crate::address::neighbourhood;
use crate::caller::CallerScope;
use crate::problem::{Problem, ProblemCode};
use crate::routes::routes;

pub mod layer;
mod policy;

pub use self::policy::{Class, CostError, Costs, KeyError, LimitKey, Part, PolicyError, RateLimitPolicy, policies};

/// `RateLimit-Policy`, of draft-ietf-httpapi-ratelimit-headers-10.
const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
/// `RateLimit`, of the same.
const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// Policies on a store. Clones count together.
#[derive(Debug, Clone)]
pub struct RateLimits {
    limiter: Arc<Limiter>,
    policies: Arc<[Enforced]>,
    costs: Arc<Costs>,
    /// Bits of an IPv6 address that are counted together.
    prefix: u8,
}

/// A policy with what it has counted.
#[derive(Debug, Clone)]
struct Enforced {
    policy: RateLimitPolicy,
    /// Its item of `RateLimit-Policy`.
    item: String,
    counts: Arc<[AtomicU64; 4]>,
}

/// How often a policy has decided what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateLimitCounts {
    /// Its name.
    pub policy: String,
    /// Requests that it let through, though another may not have.
    pub allowed: u64,
    /// Requests that it refused with a 429.
    pub limited: u64,
    /// Requests that cost more than it ever allows.
    pub never: u64,
    /// Requests that were refused with a 503, because the store did not answer and the policy is closed then.
    pub unavailable: u64,
}

impl RateLimits {
    /// These policies on this store.
    pub fn new(store: impl RateLimitStore, policies: impl IntoIterator<Item = RateLimitPolicy>) -> Self {
        Self::on(Arc::new(store), policies, LimiterOptions::default())
    }

    /// The same with all that can be set: see [`LimiterOptions`].
    pub fn on(
        store: Arc<dyn RateLimitStore>,
        policies: impl IntoIterator<Item = RateLimitPolicy>,
        options: LimiterOptions,
    ) -> Self {
        let enforced = |policy: RateLimitPolicy| Enforced { item: policy.item(), policy, counts: Arc::default() };
        Self {
            limiter: Arc::new(Limiter::new(store, options)),
            policies: policies.into_iter().map(enforced).collect(),
            costs: Arc::default(),
            prefix: 64,
        }
    }

    /// What routes cost.
    #[must_use]
    pub fn costs(self, costs: Costs) -> Self {
        Self { costs: Arc::new(costs), ..self }
    }

    /// Bits of an IPv6 address that are counted together. Default 64.
    #[must_use]
    pub fn ipv6_prefix(self, bits: u8) -> Self {
        Self { prefix: bits.min(128), ..self }
    }

    /// Whether the routes of a schema can be limited so: what [`RouterBuilder::rate_limits`](crate::RouterBuilder::rate_limits)
    /// asks for.
    ///
    /// # Errors
    /// As there.
    pub fn check(&self, schema: &Schema) -> Result<(), RateLimitError> {
        self.clone().fit(schema).map(|_| ())
    }

    /// As the routes of a schema need them: policies that a procedure names count the calls that do, unless they say
    /// otherwise.
    ///
    /// # Errors
    /// When the schema names a policy that is not there, or these name something that the schema does not have.
    pub(crate) fn fit(self, schema: &Schema) -> Result<Self, RateLimitError> {
        let names: Vec<&str> =
            schema.procedures.iter().flat_map(|procedure| &procedure.rate_limits).map(String::as_str).collect();
        for procedure in &schema.procedures {
            for name in &procedure.rate_limits {
                if !self.policies().any(|policy| policy.name() == name) {
                    let (policy, procedure) = (name.clone(), procedure.name.clone());
                    return Err(RateLimitError::NoPolicy { policy, procedure });
                }
            }
        }
        let fitted =
            |enforced: &Enforced| Enforced { policy: enforced.policy.clone().named(&names), ..enforced.clone() };
        let policies: Arc<[Enforced]> = self.policies.iter().map(fitted).collect();
        let idle = |policy: &&RateLimitPolicy| policy.class() == Class::Named && !names.contains(&policy.name());
        if let Some(policy) = policies.iter().map(|enforced| &enforced.policy).find(idle) {
            return Err(RateLimitError::NobodyNames(policy.name().to_owned()));
        }
        let routes = routes(schema);
        let absent = |op: &&str| !routes.iter().any(|route| *route.op == **op);
        if let Some(op) = self.costs.routes().find(absent) {
            return Err(RateLimitError::NoRoute(op.to_owned()));
        }
        Ok(Self { policies, ..self })
    }

    /// What the policies have decided in this process.
    pub fn counts(&self) -> Vec<RateLimitCounts> {
        let of = |enforced: &Enforced| {
            let [allowed, limited, never, unavailable] =
                enforced.counts.each_ref().map(|count| count.load(Ordering::Relaxed));
            RateLimitCounts { policy: enforced.policy.name().to_owned(), allowed, limited, never, unavailable }
        };
        self.policies.iter().map(of).collect()
    }

    /// The same as [text for Prometheus](https://prometheus.io/docs/instrumenting/exposition_formats/).
    pub fn prometheus(&self) -> String {
        use std::fmt::Write as _;
        let mut text = String::from(
            "# HELP cratestack_rate_limit_decisions_total Decisions of each policy.\n\
             # TYPE cratestack_rate_limit_decisions_total counter\n",
        );
        for counts in self.counts() {
            let RateLimitCounts { policy, allowed, limited, never, unavailable } = counts;
            let outcomes = [("allowed", allowed), ("limited", limited), ("never", never), ("unavailable", unavailable)];
            for (outcome, count) in outcomes {
                let name = "cratestack_rate_limit_decisions_total";
                // Writing into a string does not fail.
                let _ = writeln!(text, "{name}{{policy=\"{policy}\",outcome=\"{outcome}\"}} {count}");
            }
        }
        let _ = write!(
            text,
            "# HELP cratestack_rate_limit_store_failures_total Times that the store did not answer in time.\n\
             # TYPE cratestack_rate_limit_store_failures_total counter\n\
             cratestack_rate_limit_store_failures_total {}\n\
             # HELP cratestack_rate_limit_store_down Whether the store is left alone, and limits do without it.\n\
             # TYPE cratestack_rate_limit_store_down gauge\n\
             cratestack_rate_limit_store_down {}\n",
            self.limiter.failed(),
            u8::from(self.limiter.is_broken()),
        );
        text
    }

    /// The store.
    pub fn store(&self) -> &Arc<dyn RateLimitStore> {
        self.limiter.store()
    }

    /// The policies.
    pub fn policies(&self) -> impl Iterator<Item = &RateLimitPolicy> {
        self.policies.iter().map(|enforced| &enforced.policy)
    }

    /// Whether requests are refused while the store does not answer.
    pub(crate) fn needs_store(&self) -> bool {
        self.policies().any(|policy| policy.when_store_fails() == OnFailure::Closed)
    }

    /// What a request costs.
    pub(crate) fn cost(&self, op: &str, items: Option<usize>) -> u64 {
        self.costs.of(op, items)
    }

    /// A request that has just come.
    pub(crate) fn tally(&self, address: Option<IpAddr>, reads: bool, op: Arc<str>, named: &[String]) -> Tally {
        Tally {
            limits: self.clone(),
            address: address.map(|address| neighbourhood(address, self.prefix)),
            reads,
            op,
            named: named.to_vec(),
            caller: None,
            asked: Vec::new(),
        }
    }
}

/// Why limits do not fit a schema.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RateLimitError {
    /// A procedure names a policy that is not there.
    #[error("`@rate_limit(\"{policy}\")` of the procedure `{procedure}` names a rate limit that is not set")]
    NoPolicy {
        /// The policy.
        policy: String,
        /// The procedure.
        procedure: String,
    },
    /// A policy is for procedures that name it, and none does.
    #[error("the rate limit `{0}` counts procedures that name it, and none does: write `@rate_limit(\"{0}\")` at one")]
    NobodyNames(String),
    /// The cost of a route that is not there.
    #[error("the schema has no route `{0}` that could cost anything")]
    NoRoute(String),
}

/// When a policy decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Before the caller is known.
    Before,
    /// When it is.
    After,
    /// All at once.
    Only,
}

/// One request and what it was charged.
#[derive(Debug)]
pub(crate) struct Tally {
    limits: RateLimits,
    /// What is counted of where it comes from.
    address: Option<String>,
    reads: bool,
    /// The route, once it is known.
    op: Arc<str>,
    /// The policies that the procedure names.
    named: Vec<String>,
    caller: Option<CallerScope>,
    /// Policy, charge, and how the bucket stands.
    asked: Vec<(usize, Charge, Standing)>,
}

impl Tally {
    /// Counts the request towards the policies that decide in this phase. A refusal is a problem.
    pub(crate) async fn charge(&mut self, phase: Phase, cost: u64) -> Result<(), Problem> {
        let limits = self.limits.clone();
        let mut asked: Vec<(usize, Asked)> = Vec::new();
        for (at, Enforced { policy, .. }) in limits.policies.iter().enumerate() {
            let before = policy.is_by_address();
            let cost = match (phase, before) {
                (Phase::Before, false) => continue,
                (Phase::Before, true) => 1,
                // One was taken when it came.
                (Phase::After, true) => cost.saturating_sub(1),
                (Phase::After, false) | (Phase::Only, _) => cost,
            };
            if cost > 0 && policy.applies(self.reads, &self.named) {
                let charge = Charge::new(self.key(policy)?, policy.quota()).units(cost);
                asked.push((at, Asked { charge, on_failure: policy.when_store_fails() }));
            }
        }
        if asked.is_empty() {
            return Ok(());
        }
        let charges: Vec<Asked> = asked.iter().map(|(_, asked)| *asked).collect();
        let Admission::Decided(taken) = limits.limiter.take(&charges).await else {
            for (at, asked) in &asked {
                if asked.on_failure == OnFailure::Closed {
                    limits.count(*at, 3);
                }
            }
            let problem = Problem::new(Code::Unavailable, "the rate limit cannot be checked now");
            return Err(problem.with(header::RETRY_AFTER, HeaderValue::from_static("1")));
        };
        for ((at, asked), standing) in asked.iter().zip(taken.standings()) {
            limits.count(
                *at,
                match standing.verdict {
                    Verdict::Allowed => 0,
                    Verdict::Later => 1,
                    Verdict::Never => 2,
                },
            );
            // What was charged when it came is part of the same.
            let units = self.asked.iter().find(|(other, ..)| other == at).map_or(0, |(_, charge, _)| charge.cost);
            self.asked.retain(|(other, ..)| other != at);
            let granted = if taken.allowed() { asked.charge.cost } else { 0 };
            self.asked.push((*at, asked.charge.units(units + granted), *standing));
        }
        self.asked.sort_by_key(|(at, ..)| *at);
        if taken.allowed() { Ok(()) } else { Err(refusal(&limits, &asked, taken.standings())) }
    }

    /// The caller, once it is known.
    pub(crate) fn identify(&mut self, caller: Option<CallerScope>) {
        self.caller = caller;
    }

    /// The limits that it counts towards.
    pub(crate) fn limits(&self) -> &RateLimits {
        &self.limits
    }

    fn key(&self, policy: &RateLimitPolicy) -> Result<Key, Problem> {
        let key = policy.key(self.caller.as_ref(), self.address.as_deref(), &self.op);
        key.ok_or_else(|| {
            Problem::internal(
                "a rate limit counts addresses, and nobody knows where the request comes from: serve the router with \
                 `into_make_service_with_connect_info::<SocketAddr>()`, or with `cratestack::serve`",
            )
        })
    }

    /// What follows from the answer: refused credentials cost more, a replay costs as much as any other request.
    pub(crate) async fn settle(&mut self, status: StatusCode, replayed: bool) {
        let limits = self.limits.clone();
        let mut adjustments = Vec::new();
        for (at, charge, standing) in &mut self.asked {
            let Some(Enforced { policy, .. }) = limits.policies.get(*at) else { continue };
            let units = if status == StatusCode::UNAUTHORIZED && policy.is_by_address() {
                i64::try_from(policy.penalty()).unwrap_or(i64::MAX)
            } else if replayed {
                1_i64.saturating_sub(i64::try_from(charge.cost).unwrap_or(i64::MAX)).min(0)
            } else {
                0
            };
            if units != 0 {
                let quota = policy.quota();
                adjustments.push(Adjustment { key: charge.key, quota, units });
                *standing = standing.adjusted(units);
            }
        }
        if !adjustments.is_empty() {
            limits.limiter.adjust(&adjustments).await;
        }
    }

    /// `RateLimit-Policy` and `RateLimit`, beside what an inner layer has said.
    pub(crate) fn tell(&self, headers: &mut HeaderMap) {
        let mut policies = String::new();
        let mut states = String::new();
        for (at, _, standing) in &self.asked {
            let Some(Enforced { policy, item, .. }) = self.limits.policies.get(*at) else { continue };
            list(&mut policies, item);
            // What others have used is not told, but to whom it is in the way.
            if policy.is_somebodys() || standing.verdict != Verdict::Allowed {
                let wait = if standing.verdict == Verdict::Later { standing.retry } else { standing.next() };
                list(&mut states, &format!("\"{}\";r={};t={}", policy.name(), standing.remaining(), seconds(wait)));
            }
        }
        for (name, text) in [(RATELIMIT_POLICY, policies), (RATELIMIT, states)] {
            if let (false, Ok(value)) = (text.is_empty(), HeaderValue::try_from(text)) {
                headers.append(name, value);
            }
        }
    }
}

impl RateLimits {
    fn count(&self, at: usize, which: usize) {
        if let Some(count) = self.policies.get(at).and_then(|enforced| enforced.counts.get(which)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn list(text: &mut String, item: &str) {
    if !text.is_empty() {
        text.push_str(", ");
    }
    text.push_str(item);
}

/// Whole seconds, never less than it takes.
fn seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

/// The refusal by the policy that is in the way for the longest time.
fn refusal(limits: &RateLimits, asked: &[(usize, Asked)], standings: &[Standing]) -> Problem {
    let refused = asked.iter().zip(standings).filter(|(_, standing)| standing.verdict != Verdict::Allowed);
    let worst = refused.max_by_key(|(_, standing)| (standing.verdict == Verdict::Never, standing.retry));
    let Some(((at, asked), standing)) = worst else { return Problem::internal("a refusal without a reason") };
    let name = limits.policies.get(*at).map_or("", |enforced| enforced.policy.name());
    if standing.verdict == Verdict::Never {
        return Problem::bad_request(format!(
            "this request counts as {}, and the rate limit `{name}` never allows more than {} at once",
            asked.charge.cost,
            asked.charge.quota.burst()
        ));
    }
    let wait = seconds(standing.retry).max(1);
    let unit = if wait == 1 { "second" } else { "seconds" };
    let detail = format!("the rate limit `{name}` is used up; there will be room in {wait} {unit}");
    Problem::new(ProblemCode::RateLimited, detail).with(header::RETRY_AFTER, HeaderValue::from(wait))
}
