//! `RateLimitLayer` around routes of a host.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request};
use axum::response::IntoResponse as _;
use axum::routing::any;
use cratestack::engine::idempotency::store::StoreDown;
use cratestack::engine::ratelimit::{Adjustment, BoxFuture, Charge, Taken};
use cratestack::{
    CallerScope, Class, InMemoryRateLimitStore, LimiterOptions, OnFailure, Part, RateLimitLayer, RateLimitPolicy,
    RateLimitStore,
};
use http::{HeaderMap, Method, StatusCode};
use tower::ServiceExt as _;

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> String {
        let values = self.headers.get_all(name).iter();
        values.map(|value| value.to_str().unwrap()).collect::<Vec<_>>().join(", ")
    }
}

pub(crate) async fn send(app: &Router, request: Request) -> Answer {
    let (head, body) = app.clone().oneshot(request).await.unwrap().into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    Answer { status: head.status.as_u16(), headers: head.headers, body: String::from_utf8(body.to_vec()).unwrap() }
}

pub(crate) fn from(address: &str) -> ConnectInfo<SocketAddr> {
    ConnectInfo(SocketAddr::new(address.parse().unwrap(), 1))
}

fn policy(text: &str) -> RateLimitPolicy {
    text.parse().unwrap()
}

fn layer(texts: &[&str]) -> RateLimitLayer {
    RateLimitLayer::new(InMemoryRateLimitStore::new(1024), texts.iter().map(|text| policy(text)))
}

/// Answers with the status that the header `x-answer` says.
fn app(layer: RateLimitLayer) -> Router {
    let handler = async |request: Request| {
        let status = request.headers().get("x-answer").map_or("200", |value| value.to_str().unwrap()).to_owned();
        StatusCode::from_bytes(status.as_bytes()).unwrap().into_response()
    };
    Router::new().route("/quotes", any(handler)).layer(layer)
}

fn get(address: &str) -> http::request::Builder {
    Request::get("/quotes").extension(from(address))
}

fn by(subject: &str, tenant: Option<&str>) -> Request {
    let request = get("203.0.113.7").extension(CallerScope::new(tenant, subject)).header("authorization", "x");
    request.body(Body::empty()).unwrap()
}

fn at(address: &str) -> Request {
    get(address).body(Body::empty()).unwrap()
}

#[tokio::test]
async fn answers_say_what_is_left_and_refusals_when_to_come_again() {
    let app = app(layer(&["api = 2/1h"]));
    let first = send(&app, by("ann", None)).await;
    assert_eq!(first.status, 200);
    assert_eq!(first.header("ratelimit-policy"), "\"api\";q=2;w=3600");
    assert_eq!(first.header("ratelimit"), "\"api\";r=1;t=1800");
    assert_eq!(send(&app, by("ann", None)).await.header("ratelimit"), "\"api\";r=0;t=1800");
    let refused = send(&app, by("ann", None)).await;
    assert_eq!((refused.status, refused.header("retry-after").as_str()), (429, "1800"));
    assert_eq!(refused.header("ratelimit"), "\"api\";r=0;t=1800");
    assert_eq!(refused.header("content-type"), "application/problem+json");
    let problem: serde_json::Value = serde_json::from_str(&refused.body).unwrap();
    assert_eq!(problem["code"], "rate_limited");
    assert_eq!(problem["detail"], "the rate limit `api` is used up; there will be room in 1800 seconds");
    assert_eq!(problem["requestId"], refused.header("x-request-id"));
    // Others go on.
    assert_eq!(send(&app, by("bob", None)).await.status, 200);
    assert_eq!(send(&app, by("ann", Some("berlin"))).await.status, 200);
    // A question about what may be asked does not count.
    let options = get("203.0.113.7").method(Method::OPTIONS).extension(CallerScope::new(None, "ann"));
    let options = send(&app, options.body(Body::empty()).unwrap()).await;
    assert_eq!((options.status, options.header("ratelimit").as_str()), (200, ""));
}

#[tokio::test]
async fn all_policies_have_to_agree_and_nobody_hears_what_others_used() {
    let app = app(layer(&["own = 3/1h", "team = 2/1h by tenant", "all = 100/1h by nobody"]));
    let first = send(&app, by("ann", Some("berlin"))).await;
    assert_eq!(first.header("ratelimit-policy"), "\"own\";q=3;w=3600, \"team\";q=2;w=3600, \"all\";q=100;w=3600");
    assert_eq!(first.header("ratelimit"), "\"own\";r=2;t=1200, \"team\";r=1;t=1800");
    assert_eq!(send(&app, by("bob", Some("berlin"))).await.status, 200);
    let refused = send(&app, by("ann", Some("berlin"))).await;
    assert_eq!(refused.status, 429);
    assert!(refused.body.contains("the rate limit `team`"), "{}", refused.body);
    // What was refused is not charged.
    assert_eq!(refused.header("ratelimit"), "\"own\";r=2;t=1200, \"team\";r=0;t=1800");
    assert_eq!(
        send(&app, by("ann", Some("bern"))).await.header("ratelimit"),
        "\"own\";r=2;t=1200, \"team\";r=1;t=1800"
    );
    let crowd = layer(&["all = 1/1h by nobody"]);
    let limits = crowd.limits().clone();
    let app = super::layer::app(crowd);
    assert_eq!(send(&app, by("ann", None)).await.header("ratelimit"), "");
    let refused = send(&app, by("bob", None)).await;
    assert_eq!((refused.status, refused.header("ratelimit").as_str()), (429, "\"all\";r=0;t=3600"));
    let counts = &limits.counts()[0];
    assert_eq!((counts.allowed, counts.limited, counts.never, counts.unavailable), (1, 1, 0, 0));
    let text = limits.prometheus();
    assert!(text.contains("cratestack_rate_limit_decisions_total{policy=\"all\",outcome=\"limited\"} 1\n"), "{text}");
    assert!(text.contains("cratestack_rate_limit_store_down 0\n"), "{text}");
}

#[tokio::test]
async fn costs_are_units_and_too_much_is_never_allowed() {
    let cost = |head: &http::request::Parts| {
        head.headers.get("x-cost").map_or(1, |value| value.to_str().unwrap().parse().unwrap())
    };
    let app = app(layer(&["api = 10/1h"]).cost(cost));
    let costing = |units: &str| {
        let request = get("203.0.113.7").extension(CallerScope::new(None, "ann")).header("x-cost", units);
        request.body(Body::empty()).unwrap()
    };
    assert_eq!(send(&app, costing("4")).await.header("ratelimit"), "\"api\";r=6;t=360");
    let never = send(&app, costing("11")).await;
    assert_eq!(never.status, 400);
    assert!(
        never.body.contains("counts as 11, and the rate limit `api` never allows more than 10 at once"),
        "{}",
        never.body
    );
    let later = send(&app, costing("7")).await;
    assert_eq!((later.status, later.header("retry-after").as_str()), (429, "360"));
    let free = send(&app, costing("0")).await;
    assert_eq!((free.status, free.header("ratelimit").as_str()), (200, ""));
}

#[tokio::test]
async fn addresses_are_those_that_proxies_of_ours_have_seen() {
    let app = app(layer(&["door = 2/1h by address"]).trusted_proxies("10.0.0.0/8".parse().unwrap()));
    let through = |proxy: &str, seen: &str| get(proxy).header("x-forwarded-for", seen).body(Body::empty()).unwrap();
    for wanted in [200, 200, 429] {
        assert_eq!(send(&app, through("10.0.0.1", "1.2.3.4, 198.51.100.1")).await.status, wanted);
    }
    // Whoever invents an address counts as the one that the proxy has seen.
    assert_eq!(send(&app, through("10.0.0.2", "9.9.9.9, 198.51.100.1")).await.status, 429);
    assert_eq!(send(&app, through("10.0.0.1", "198.51.100.2")).await.status, 200);
    // One that comes from elsewhere counts as itself.
    for wanted in [200, 200, 429] {
        assert_eq!(send(&app, through("203.0.113.9", "198.51.100.7")).await.status, wanted);
    }
    for (address, wanted) in
        [("2001:db8::1", 200), ("2001:db8::2", 200), ("2001:db8:0:0:9::3", 429), ("2001:db8:0:1::1", 200)]
    {
        assert_eq!(send(&app, at(address)).await.status, wanted, "{address}");
    }
    let nowhere = Request::get("/quotes").body(Body::empty()).unwrap();
    assert_eq!(send(&app, nowhere).await.status, 500);
}

#[tokio::test]
async fn refused_credentials_cost_more() {
    let app = app(layer(&["door = 10/1h by address unauthorized 4"]));
    let wrong = || get("203.0.113.7").header("x-answer", "401").body(Body::empty()).unwrap();
    let first = send(&app, wrong()).await;
    assert_eq!((first.status, first.header("ratelimit").as_str()), (401, "\"door\";r=5;t=360"));
    assert_eq!(send(&app, wrong()).await.header("ratelimit"), "\"door\";r=0;t=360");
    assert_eq!(send(&app, at("203.0.113.7")).await.status, 429);
    assert_eq!(send(&app, at("203.0.113.8")).await.status, 200);
}

#[tokio::test]
async fn anonymous_callers_count_by_address_and_unknown_ones_not_at_all() {
    let app = app(layer(&["api = 1/1h"]));
    assert_eq!(send(&app, at("203.0.113.7")).await.status, 200);
    assert_eq!(send(&app, at("203.0.113.7")).await.status, 429);
    assert_eq!(send(&app, at("203.0.113.8")).await.status, 200);
    // Somebody of whom nobody has said who it is.
    let request = get("203.0.113.9").header("cookie", "session=1").body(Body::empty()).unwrap();
    let refused = send(&app, request).await;
    assert_eq!(refused.status, 500);
    assert!(!refused.body.contains("CallerScope"));
    // Limits by address need not know.
    let door = super::layer::app(layer(&["door = 1/1h by address"]));
    let request = get("203.0.113.9").header("cookie", "session=1").body(Body::empty()).unwrap();
    assert_eq!(send(&door, request).await.status, 200);
}

#[tokio::test]
async fn classes_and_routes() {
    let app = app(layer(&["reads = 1/1h for reads", "writes = 2/1h for writes"]));
    let with = |method: Method| {
        get("203.0.113.7").method(method).extension(CallerScope::new(None, "ann")).body(Body::empty()).unwrap()
    };
    assert_eq!(send(&app, with(Method::GET)).await.header("ratelimit"), "\"reads\";r=0;t=3600");
    assert_eq!(send(&app, with(Method::POST)).await.header("ratelimit"), "\"writes\";r=1;t=1800");
    assert_eq!(send(&app, with(Method::HEAD)).await.status, 429);
    assert_eq!(send(&app, with(Method::PUT)).await.status, 200);
    assert_eq!(send(&app, with(Method::DELETE)).await.status, 429);

    // One store for two layers.
    let store = Arc::new(InMemoryRateLimitStore::new(1024));
    let each = |name: &str| {
        let each = policy("each = 1/1h by principal+route");
        let limits = cratestack::RateLimits::on(store.clone(), [each], LimiterOptions::default());
        super::layer::app(RateLimitLayer::of(limits).route(name))
    };
    for (name, wanted) in [("quotes", 200), ("quotes", 429), ("orders", 200)] {
        assert_eq!(send(&each(name), by("ann", None)).await.status, wanted);
    }
    assert_eq!(policy("x = 1/s").only(Class::Reads), policy("x = 1/s for reads"));
    assert_eq!(
        RateLimitPolicy::new("x", 1, Duration::from_secs(1)).unwrap().by([Part::Address]),
        policy("x = 1/s by address")
    );
}

/// Never answers.
#[derive(Debug)]
struct Mute;

impl RateLimitStore for Mute {
    fn take<'a>(&'a self, _: &'a [Charge]) -> BoxFuture<'a, Result<Taken, StoreDown>> {
        Box::pin(std::future::pending())
    }

    fn adjust<'a>(&'a self, _: &'a [Adjustment]) -> BoxFuture<'a, Result<(), StoreDown>> {
        Box::pin(std::future::pending())
    }
}

/// A clock that goes on when it is looked at.
#[derive(Debug)]
struct Running(std::sync::atomic::AtomicU64);

impl cratestack::engine::ratelimit::Ticks for Running {
    fn nanos(&self) -> u64 {
        self.0.fetch_add(300_000_000, std::sync::atomic::Ordering::Relaxed)
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_store_each_policy_does_what_it_says() {
    let of = |text: &str| {
        // Late for a second after four answers.
        let clock = Arc::new(Running(std::sync::atomic::AtomicU64::new(1)));
        let options = LimiterOptions { nodes: 3, slots: 64, clock, ..LimiterOptions::default() };
        let layer = RateLimitLayer::with_options(Mute, [policy(text)], options);
        (layer.limits().clone(), app(layer))
    };
    let (limits, closed) = of("api = 9/1h on-failure closed");
    for _ in 0..7 {
        let refused = send(&closed, by("ann", None)).await;
        assert_eq!((refused.status, refused.header("retry-after").as_str()), (503, "1"));
        assert!(refused.body.contains("the rate limit cannot be checked now"));
    }
    assert_eq!((limits.counts()[0].unavailable, limits.counts()[0].allowed), (7, 0));
    assert!(limits.prometheus().contains("cratestack_rate_limit_store_failures_total 5\n"));
    assert!(limits.prometheus().contains("cratestack_rate_limit_store_down 1\n"));
    let (_, open) = of("api = 1/1h on-failure open");
    for _ in 0..7 {
        assert_eq!(send(&open, by("ann", None)).await.status, 200);
    }
    let (_, local) = of("api = 9/1h");
    for wanted in [200, 200, 200, 429] {
        assert_eq!(send(&local, by("ann", None)).await.status, wanted);
    }
    assert_eq!(policy("x = 1/s on-failure closed"), policy("x = 1/s").on_failure(OnFailure::Closed));
}

/// Nothing would count it.
#[tokio::test]
async fn a_limit_of_procedures_has_none_in_a_layer() {
    let app = app(layer(&["transfers = 5/1h for named"]));
    let refused = send(&app, by("ann", None)).await;
    assert_eq!(refused.status, 500);
    assert!(!refused.body.contains("transfers"));
}

/// An inner layer's limits are not taken away.
#[tokio::test]
async fn layers_in_layers() {
    let inner = app(layer(&["inner = 5/1h"]));
    let app = inner.layer(layer(&["outer = 3/1h by address"]));
    let answer = send(&app, by("ann", None)).await;
    assert_eq!(answer.header("ratelimit"), "\"inner\";r=4;t=720, \"outer\";r=2;t=1200");
}
