//! The routes of a schema.

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use cratestack::{
    DevAuth, Error, HttpConfig, InMemoryRateLimitStore, RateLimitError, RateLimits, SqlxRateLimitStore, policies,
};

use crate::layer::{Answer, from, send};
use crate::servers::Database;

mod limited {
    cratestack::include_schema!("tests/rate_limits/limited.cstack");
}

use limited::{Clerk, Db, ReadTx, Tx};

struct Bodies;

impl limited::Procedures for Bodies {
    async fn transfer(&self, _: &mut Tx<'_>, _: &Clerk, amount: i64) -> Result<bool, Error> {
        Ok(amount > 0)
    }

    async fn quote(&self, _: &mut ReadTx<'_>, _: Option<&Clerk>) -> Result<i64, Error> {
        Ok(42)
    }
}

const NAMED: &str = "transfers = 2/1h; quotes = 100/1h by address; door = 100/1h by address";

fn limits(text: &str) -> RateLimits {
    RateLimits::new(InMemoryRateLimitStore::new(1024), policies(&format!("{NAMED};{text}")).unwrap())
}

struct Service {
    app: Router,
    _database: Option<Database>,
}

impl Service {
    async fn new(limits: RateLimits) -> Self {
        let db = Db::connect("sqlite::memory:").await.unwrap();
        let api = cratestack::router(db, Bodies).auth(DevAuth::new()).rate_limits(limits).unwrap();
        Self { app: api.into_service(), _database: None }
    }

    /// On PostgreSQL, and counting there too.
    async fn postgres(text: &str) -> Option<Self> {
        let database = Database::new().await?;
        let pool = database.pool().await;
        Db::apply(&database.url()).await.unwrap();
        let db = Db::connect(&database.url()).await.unwrap();
        let store = SqlxRateLimitStore::new(pool);
        store.create_table().await.unwrap();
        let policies = policies(&format!("{NAMED};{text}")).unwrap();
        let options = cratestack::LimiterOptions {
            // The machine of the tests may be slow.
            budget: crate::servers::PATIENCE,
            ..cratestack::LimiterOptions::default()
        };
        let limits = RateLimits::on(std::sync::Arc::new(store), policies, options);
        let api = cratestack::router(db, Bodies).auth(DevAuth::new()).rate_limits(limits).unwrap();
        Some(Self { app: api.into_service(), _database: Some(database) })
    }

    /// Both databases.
    async fn each(text: &str) -> Vec<Self> {
        let sqlite = Self::new(limits(text)).await;
        [sqlite].into_iter().chain(Self::postgres(text).await).collect()
    }

    async fn send(&self, claims: &str, method: &str, path: &str, body: &str) -> Answer {
        self.send_with(claims, method, path, body, &[]).await
    }

    async fn send_with(&self, claims: &str, method: &str, path: &str, body: &str, headers: &[(&str, &str)]) -> Answer {
        let mut request = Request::builder().method(method).uri(path).extension(from("127.0.0.1"));
        if !body.is_empty() {
            request = request.header("content-type", "application/json");
        }
        if claims == "wrong" {
            request = request.header("authorization", "Bearer nonsense");
        } else if !claims.is_empty() {
            request = request.header("authorization", DevAuth::header(claims));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        send(&self.app, request.body(Body::from(body.to_owned())).unwrap()).await
    }
}

const ANN: &str = r#"{"id":"ann","tenantId":"berlin"}"#;
const BOB: &str = r#"{"id":"bob","tenantId":"berlin"}"#;
const NOTE: &str = r#"{"text":"hello"}"#;

#[tokio::test]
async fn every_answer_of_every_route_says_how_it_stands() {
    for service in Service::each("api = 9/1h").await {
        let answers = [
            (service.send(ANN, "POST", "/api/notes", NOTE).await, 201, 8),
            (service.send(ANN, "GET", "/api/notes", "").await, 200, 7),
            (service.send(ANN, "GET", "/api/notes/1", "").await, 200, 6),
            (service.send(ANN, "GET", "/api/notes/99", "").await, 404, 5),
            (service.send(ANN, "PATCH", "/api/notes/1", r#"{"text":"far too long to be allowed"}"#).await, 422, 4),
            (service.send(ANN, "DELETE", "/api/notes/1", "").await, 204, 3),
        ];
        for (answer, status, left) in answers {
            assert_eq!(answer.status, status, "{}", answer.body);
            assert_eq!(answer.header("ratelimit-policy"), "\"api\";q=9;w=3600");
            assert_eq!(answer.header("ratelimit"), format!("\"api\";r={left};t=400"));
        }
        // What is not well formed is refused before anybody knows whose it is.
        let malformed = service.send(ANN, "POST", "/api/notes", "{").await;
        assert_eq!((malformed.status, malformed.header("ratelimit").as_str()), (400, ""));
        let options = service.send(ANN, "OPTIONS", "/api/notes", "").await;
        assert_eq!((options.status, options.header("ratelimit").as_str()), (204, ""));
        for _ in 0..3 {
            assert_eq!(service.send(ANN, "GET", "/api/notes", "").await.status, 200);
        }
        let refused = service.send(ANN, "GET", "/api/notes", "").await;
        assert_eq!((refused.status, refused.header("retry-after").as_str()), (429, "400"));
        assert!(refused.body.contains(r#""type":"https://cratestack.dev/problems/rate_limited""#), "{}", refused.body);
        assert_eq!(service.send(BOB, "GET", "/api/notes", "").await.status, 200);
        // Whether the service lives is another matter.
        assert_eq!(service.send("", "GET", "/livez", "").await.status, 200);
        assert_eq!(service.send("", "GET", "/readyz", "").await.status, 200);
        let metrics = service.send("", "GET", "/metrics", "").await;
        assert_eq!(metrics.header("content-type"), "text/plain; version=0.0.4");
        assert!(metrics.body.contains("{policy=\"api\",outcome=\"limited\"} 1\n"), "{}", metrics.body);
    }
}

#[tokio::test]
async fn a_procedure_counts_towards_the_policies_that_it_names() {
    for service in Service::each("api = 100/1h").await {
        for (wanted, left) in [(200, 1), (200, 0), (429, 0)] {
            let answer = service.send(ANN, "POST", "/api/rpc/transfer", r#"{"amount":5}"#).await;
            assert_eq!(answer.status, wanted, "{}", answer.body);
            assert!(answer.header("ratelimit").contains(&format!("\"transfers\";r={left};")), "{:?}", answer.headers);
        }
        assert_eq!(service.send(BOB, "POST", "/api/rpc/transfer", r#"{"amount":5}"#).await.status, 200);
        let quote = service.send("", "POST", "/api/rpc/quote", "").await;
        assert_eq!(quote.header("ratelimit"), "\"quotes\";r=99;t=36, \"door\";r=99;t=36, \"api\";r=99;t=36");
        // Nothing else does.
        let list = service.send(ANN, "GET", "/api/notes", "").await;
        assert_eq!(list.header("ratelimit-policy"), "\"api\";q=100;w=3600");
    }
}

#[tokio::test]
async fn addresses_are_limited_before_anything_is_read() {
    let service = Service::new(limits("ip = 4/1h by address unauthorized 1")).await;
    // A body that nobody reads, a route that is not there, and credentials that are wrong.
    assert_eq!(service.send("", "POST", "/api/notes", "{").await.header("ratelimit"), "\"ip\";r=3;t=900");
    assert_eq!(service.send("", "GET", "/api/nothing", "").await.header("ratelimit"), "\"ip\";r=2;t=900");
    let wrong = service.send("wrong", "GET", "/api/notes", "").await;
    assert_eq!((wrong.status, wrong.header("ratelimit").as_str()), (401, "\"ip\";r=0;t=900"));
    let refused = service.send("wrong", "POST", "/api/notes", "{").await;
    assert_eq!((refused.status, refused.header("ratelimit").as_str()), (429, "\"ip\";r=0;t=900"));
    assert_eq!(service.send(ANN, "GET", "/api/notes", "").await.status, 429);
}

#[tokio::test]
async fn batches_cost_as_much_as_their_items() {
    for service in Service::each("api = 10/1h; ip = 20/1h by address; reads = 1/1h for reads").await {
        let batch = |items: usize| {
            let item = format!(r#"{{"op":"create","data":{NOTE}}}"#);
            format!(r#"{{"items":[{}]}}"#, vec![item; items].join(","))
        };
        let answer = service.send(ANN, "POST", "/api/notes/batch", &batch(4)).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        assert_eq!(answer.header("ratelimit"), "\"api\";r=6;t=360, \"ip\";r=16;t=180");
        let later = service.send(ANN, "POST", "/api/notes/batch", &batch(7)).await;
        // The address has paid for the request itself.
        assert_eq!((later.status, later.header("ratelimit").as_str()), (429, "\"api\";r=6;t=360, \"ip\";r=15;t=180"));
        let never = service.send(ANN, "POST", "/api/notes/batch", &batch(11)).await;
        assert_eq!(never.status, 400);
        assert!(
            never.body.contains("counts as 11, and the rate limit `api` never allows more than 10"),
            "{}",
            never.body
        );
        assert_eq!(service.send(ANN, "GET", "/api/notes", "").await.status, 200);
        assert_eq!(service.send(ANN, "GET", "/api/notes", "").await.status, 429);
    }
}

#[tokio::test]
async fn routes_have_costs() {
    let costs = "GET /notes = 5; POST /notes/batch = 3".parse().unwrap();
    let service = Service::new(limits("api = 10/1h").costs(costs)).await;
    assert_eq!(service.send(ANN, "GET", "/api/notes", "").await.header("ratelimit"), "\"api\";r=5;t=360");
    let batch = format!(r#"{{"items":[{{"op":"create","data":{NOTE}}}]}}"#);
    assert_eq!(service.send(ANN, "POST", "/api/notes/batch", &batch).await.header("ratelimit"), "\"api\";r=2;t=360");
}

/// Whoever comes again at the time that it was told is let in, though each try costs the address something.
#[tokio::test]
async fn large_requests_get_in_at_the_time_they_were_told() {
    let hand = std::sync::Arc::new(Hand(std::sync::atomic::AtomicU64::new(1)));
    let store = InMemoryRateLimitStore::with_clock(1024, hand.clone());
    let policies = policies(&format!("{NAMED}; ip = 5/5s by address")).unwrap();
    let service = Service::new(RateLimits::new(store, policies)).await;
    let batch = |items: usize| {
        format!(r#"{{"items":[{}]}}"#, vec![format!(r#"{{"op":"create","data":{NOTE}}}"#); items].join(","))
    };
    let send = async |items| service.send(ANN, "POST", "/api/notes/batch", &batch(items)).await;
    assert_eq!(send(5).await.status, 200);
    for _ in 0..3 {
        // Too early, so that the request itself is refused; and early enough for that, and not for its items.
        for millis in [0, 1_500] {
            hand.0.fetch_add(millis * 1_000_000, std::sync::atomic::Ordering::Relaxed);
            assert_eq!(send(5).await.status, 429);
        }
        let refused = send(5).await;
        let mut wait: u64 = refused.header("retry-after").parse().unwrap();
        while wait > 0 {
            hand.0.fetch_add(wait * 1_000_000_000, std::sync::atomic::Ordering::Relaxed);
            let answer = send(5).await;
            // The first refusal may be of the request itself, and names the time for that.
            wait = if answer.status == 200 { 0 } else { answer.header("retry-after").parse().unwrap() };
            assert!(wait == 0 || wait == 5, "{wait}");
        }
    }
    hand.0.fetch_add(60_000_000_000, std::sync::atomic::Ordering::Relaxed);
    let never = send(6).await;
    assert_eq!(never.status, 400);
    assert!(never.body.contains("counts as 6, and the rate limit `ip` never allows more than 5"), "{}", never.body);
}

#[derive(Debug)]
struct Hand(std::sync::atomic::AtomicU64);

impl cratestack::engine::ratelimit::Ticks for Hand {
    fn nanos(&self) -> u64 {
        self.0.load(std::sync::atomic::Ordering::Relaxed)
    }
}

/// A replay is a request as any other.
#[tokio::test]
async fn a_replay_costs_as_much() {
    for service in Service::each("api = 20/1h").await {
        let batch = format!(r#"{{"items":[{}]}}"#, vec![format!(r#"{{"op":"create","data":{NOTE}}}"#); 5].join(","));
        let send =
            async || service.send_with(ANN, "POST", "/api/notes/batch", &batch, &[("idempotency-key", "k")]).await;
        assert_eq!(send().await.header("ratelimit"), "\"api\";r=15;t=180");
        let replay = send().await;
        assert_eq!(replay.header("idempotent-replayed"), "true");
        assert_eq!(replay.header("ratelimit"), "\"api\";r=10;t=180");
    }
}

#[tokio::test]
async fn limits_have_to_fit_the_schema() {
    let db = Db::connect("sqlite::memory:").await.unwrap();
    let fit = |text: &str, costs: &str| {
        let limits = RateLimits::new(InMemoryRateLimitStore::new(64), policies(text).unwrap());
        cratestack::router(db.clone(), Bodies).rate_limits(limits.costs(costs.parse().unwrap())).map(|_| ())
    };
    let missing = fit("transfers = 1/s; quotes = 1/s", "").unwrap_err();
    assert_eq!(
        missing.to_string(),
        "`@rate_limit(\"door\")` of the procedure `quote` names a rate limit that is not set"
    );
    let idle = fit(&format!("{NAMED}; other = 1/s for named"), "").unwrap_err();
    assert_eq!(idle, RateLimitError::NobodyNames("other".to_owned()));
    assert_eq!(fit(NAMED, "GET /nodes = 3").unwrap_err(), RateLimitError::NoRoute("GET /nodes".to_owned()));
    assert_eq!(fit(NAMED, "GET /notes/{id} = 3"), Ok(()));
    let never = fit(&format!("{NAMED}; api = 9/1h for reads"), "GET /notes = 10; POST /notes = 10").unwrap_err();
    assert_eq!(
        never.to_string(),
        "`GET /notes` costs more than the rate limit `api` ever allows, so that nobody could use it"
    );
    // Without any, what names one is refused, and the rest goes on.
    let app = cratestack::router(db, Bodies).auth(DevAuth::new()).into_service();
    let service = Service { app, _database: None };
    assert_eq!(service.send(ANN, "POST", "/api/rpc/transfer", r#"{"amount":5}"#).await.status, 500);
    let list = service.send(ANN, "GET", "/api/notes", "").await;
    assert_eq!((list.status, list.header("ratelimit-policy").as_str()), (200, ""));
    assert_eq!(service.send("", "GET", "/metrics", "").await.status, 404);
}

/// A policy that says for which requests counts those besides the ones that name it.
#[tokio::test]
async fn a_named_policy_may_be_for_more() {
    let text = "transfers = 3/1h for reads; quotes = 9/1h; door = 9/1h";
    let limits = RateLimits::new(InMemoryRateLimitStore::new(64), policies(text).unwrap());
    let service = Service::new(limits).await;
    assert_eq!(service.send(ANN, "GET", "/api/notes", "").await.header("ratelimit"), "\"transfers\";r=2;t=1200");
    let call = service.send(ANN, "POST", "/api/rpc/transfer", r#"{"amount":5}"#).await;
    assert_eq!(call.header("ratelimit"), "\"transfers\";r=1;t=1200");
    let write = service.send(ANN, "POST", "/api/notes", NOTE).await;
    assert_eq!((write.status, write.header("ratelimit").as_str()), (201, ""));
}

/// Where the audit trail and limits say a request comes from is one answer.
#[tokio::test]
async fn proxies_of_ours_are_believed() {
    let db = Db::connect("sqlite::memory:").await.unwrap();
    let limits = limits("ip = 1/1h by address");
    let config = HttpConfig { trusted_proxies: "127.0.0.0/8".parse().unwrap(), ..HttpConfig::default() };
    let api = cratestack::router(db, Bodies).config(config).rate_limits(limits).unwrap();
    let service = Service { app: api.into_service(), _database: None };
    let seen =
        async |address| service.send_with("", "GET", "/api/notes", "", &[("x-forwarded-for", address)]).await.status;
    assert_eq!(seen("198.51.100.1").await, 200);
    assert_eq!(seen("198.51.100.1").await, 429);
    assert_eq!(seen("198.51.100.2").await, 200);
}
