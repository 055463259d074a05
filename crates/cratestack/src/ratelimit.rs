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
//! read and the caller is known, all others when the caller is. A refusal is counted by those by address alone.

use std::fmt::Debug;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use cratestack_engine::api::Code;
use cratestack_engine::ratelimit::{
    Adjustment, Admission, Asked, Charge, Key, LeasedRateLimitStore, Limiter, LimiterOptions, OnFailure,
    RateLimitStore, Standing, Verdict,
};
use cratestack_schema::ir::Schema;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use tokio::time::Instant;

use crate::address::neighbourhood;
use crate::caller::CallerScope;
use crate::problem::{Problem, ProblemCode};
use crate::router::sweep;
use crate::routes::{RouteTarget, routes};

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
    /// Set when somebody removes full buckets from the store now and then.
    sweeping: Arc<OnceLock<()>>,
    /// When the store was asked last whether it is ready, and whether it was.
    readiness: Arc<Mutex<Option<(Instant, bool)>>>,
}

/// How long an answer about readiness is good enough: whoever asks all the time does not keep the store busy.
const READINESS: Duration = Duration::from_secs(1);

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
    /// Requests that counted towards it.
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
        let mut enforced: Vec<Enforced> = Vec::new();
        for policy in policies {
            // Two of one name count apart.
            let others = enforced.iter().filter(|other| other.policy.name() == policy.name()).count();
            let policy = policy.after(others);
            enforced.push(Enforced { item: policy.item(), policy, counts: Arc::default() });
        }
        let store = if store.shared() && !store.remembers() {
            Arc::new(LeasedRateLimitStore::remembering(store))
        } else {
            store
        };
        Self {
            limiter: Arc::new(Limiter::new(store, options)),
            policies: enforced.into(),
            costs: Arc::default(),
            prefix: 64,
            sweeping: Arc::default(),
            readiness: Arc::default(),
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
        let tenants = schema.auth.as_ref().is_some_and(|auth| auth.tenant.is_some());
        if let Some(policy) = policies.iter().map(|enforced| &enforced.policy).find(|policy| policy.is_by_tenant())
            && !tenants
        {
            return Err(RateLimitError::NoTenants(policy.name().to_owned()));
        }
        for route in &routes {
            let procedure = match route.target {
                RouteTarget::Procedure(at) => schema.procedures.get(at),
                RouteTarget::Model(_) | RouteTarget::Trail => None,
            };
            let reads = procedure.map_or(route.method.is_safe(), |procedure| !procedure.mutation);
            let named = procedure.map_or(&[][..], |procedure| &procedure.rate_limits);
            let cost = self.costs.of(&route.op, None);
            let never = |policy: &&RateLimitPolicy| policy.applies(reads, named) && cost > policy.quota().burst();
            if let Some(policy) = policies.iter().map(|enforced| &enforced.policy).find(never) {
                return Err(RateLimitError::NeverFits { op: route.op.to_string(), policy: policy.name().to_owned() });
            }
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

    /// Whether the store answers, as of the last second.
    pub(crate) async fn store_is_ready(&self, patience: Duration) -> bool {
        let now = Instant::now();
        {
            let mut last = self.readiness.lock().unwrap_or_else(PoisonError::into_inner);
            match *last {
                Some((at, ready)) if now.duration_since(at) < READINESS => return ready,
                // Others get to hear what was known before, while this one asks.
                Some((_, ready)) => *last = Some((now, ready)),
                None => {}
            }
        }
        // On a task of its own: who asked may give up, and what is found out is for all.
        let (store, readiness) = (Arc::clone(self.store()), Arc::clone(&self.readiness));
        let asked = tokio::spawn(async move {
            let ready = matches!(tokio::time::timeout(patience, store.ready()).await, Ok(Ok(())));
            *readiness.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), ready));
            ready
        });
        asked.await.unwrap_or(false)
    }

    /// Has full buckets removed from a shared store from time to time, as long as it is there.
    fn sweep(&self) {
        if !self.store().shared() {
            return;
        }
        self.sweeping.get_or_init(|| {
            sweep(Arc::downgrade(self.store()), "rate limits", |store| async move {
                store.sweep().await.map_err(|down| Some(down.to_string()))
            });
        });
    }

    /// A request that has just come.
    pub(crate) fn tally(&self, address: Option<IpAddr>, reads: bool, op: Arc<str>, named: &[String]) -> Tally {
        self.sweep();
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
    /// A route that costs more than a policy ever allows.
    #[error("`{op}` costs more than the rate limit `{policy}` ever allows, so that nobody could use it")]
    NeverFits {
        /// The route.
        op: String,
        /// The policy.
        policy: String,
    },
    /// A policy by tenant, where there are none.
    #[error("the rate limit `{0}` counts by tenant, and the auth block of the schema has no field of that name")]
    NoTenants(String),
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
        let asked = self.asks(&limits, phase, cost)?;
        if asked.is_empty() {
            return Ok(());
        }
        let charges: Vec<Asked> = asked.iter().map(|(_, asked)| *asked).collect();
        let Admission::Decided(taken) = limits.limiter.take(&charges).await else {
            return Err(limits.unavailable(&asked));
        };
        let all = taken.allowed();
        for ((at, asked), standing) in asked.iter().zip(taken.standings()) {
            match standing.verdict {
                Verdict::Allowed if all => limits.count(*at, 0),
                Verdict::Allowed => {}
                Verdict::Later => limits.count(*at, 1),
                Verdict::Never => limits.count(*at, 2),
            }
            // Of what came with the request a part was charged then: the same again has to fit in beside it.
            let before = self.asked.iter().position(|(other, ..)| other == at);
            let mut standing = *standing;
            if before.is_some() && standing.verdict == Verdict::Later {
                standing.retry += Duration::from_nanos(asked.charge.quota.increment());
            }
            match before.and_then(|before| self.asked.get_mut(before)) {
                Some(entry) => entry.2 = standing,
                None => self.asked.push((*at, asked.charge, standing)),
            }
        }
        self.asked.sort_by_key(|(at, ..)| *at);
        if all { Ok(()) } else { Err(self.refusal(cost)) }
    }

    /// The charges of a phase, with their policies.
    fn asks(&self, limits: &RateLimits, phase: Phase, cost: u64) -> Result<Vec<(usize, Asked)>, Problem> {
        let mut asks = Vec::new();
        for (at, Enforced { policy, .. }) in limits.policies.iter().enumerate() {
            let before = policy.is_by_address();
            let units = match (phase, before) {
                (Phase::Before, false) => continue,
                (Phase::Before, true) => 1,
                // One was taken when it came.
                (Phase::After, true) => cost.saturating_sub(1),
                (Phase::After, false) | (Phase::Only, _) => cost,
            };
            if units == 0 || !policy.applies(self.reads, &self.named) {
                continue;
            }
            if cost > policy.quota().burst() {
                limits.count(at, 2);
                return Err(never(policy, cost));
            }
            let charge = Charge::new(self.key(policy)?, policy.quota()).units(units);
            asks.push((at, Asked { charge, on_failure: policy.when_store_fails() }));
        }
        Ok(asks)
    }

    /// The refusal by the policy that is in the way for the longest time.
    fn refusal(&self, cost: u64) -> Problem {
        let refused = self.asked.iter().filter(|(.., standing)| standing.verdict != Verdict::Allowed);
        let worst = refused.max_by_key(|(.., standing)| (standing.verdict == Verdict::Never, standing.retry));
        let found = worst.and_then(|(at, charge, standing)| Some((self.limits.policies.get(*at)?, charge, standing)));
        let Some((Enforced { policy, .. }, charge, standing)) = found else {
            return Problem::internal("a rate limit refuses without a reason");
        };
        if standing.verdict == Verdict::Never {
            return never(policy, cost);
        }
        let name = policy.name();
        let wait = seconds(standing.retry).max(1);
        let unit = if wait == 1 { "second" } else { "seconds" };
        let detail = format!("the rate limit `{name}` is used up; there will be room in {wait} {unit}");
        let problem = Problem::new(ProblemCode::RateLimited, detail);
        let problem = Problem { internal: Some(format!("bucket {} of `{name}`", charge.key)), ..problem };
        problem.with(header::RETRY_AFTER, HeaderValue::from(wait))
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

    /// What follows from the answer: refused credentials cost more.
    pub(crate) async fn settle(&mut self, status: StatusCode) {
        if status != StatusCode::UNAUTHORIZED {
            return;
        }
        let limits = self.limits.clone();
        let mut adjustments = Vec::new();
        for (at, charge, standing) in &mut self.asked {
            let Some(Enforced { policy, .. }) = limits.policies.get(*at) else { continue };
            let units = i64::try_from(policy.penalty()).unwrap_or(i64::MAX);
            if units > 0 {
                adjustments.push(Adjustment { key: charge.key, quota: policy.quota(), units });
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
            if standing.known && (policy.is_somebodys() || standing.verdict != Verdict::Allowed) {
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
    /// The refusal while nobody can say.
    fn unavailable(&self, asked: &[(usize, Asked)]) -> Problem {
        let mut names = Vec::new();
        for (at, asked) in asked.iter().filter(|(_, asked)| asked.on_failure != OnFailure::Open) {
            self.count(*at, 3);
            let name = self.policies.get(*at).map_or("", |enforced| enforced.policy.name());
            names.push(format!("`{name}` for {}", asked.charge.cost));
        }
        let problem = Problem::new(Code::Unavailable, "the rate limit cannot be checked now");
        let internal = format!("the store of the rate limits does not answer, and has to say of {}", names.join(", "));
        let problem = Problem { internal: Some(internal), ..problem };
        problem.with(header::RETRY_AFTER, HeaderValue::from_static("1"))
    }

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

/// The refusal of what costs more than there ever is.
fn never(policy: &RateLimitPolicy, cost: u64) -> Problem {
    Problem::bad_request(format!(
        "this request counts as {cost}, and the rate limit `{}` never allows more than {} at once",
        policy.name(),
        policy.quota().burst()
    ))
}
