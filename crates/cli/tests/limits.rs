//! Rate limits as an operator meets them: settings, several processes on one store, a store that dies, `ratelimit`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

#[path = "../../cratestack/tests/support/servers.rs"]
mod servers;
mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use servers::{Database, Redis};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};
use support::{Server, bearer, command, request, text};

const SCHEMA: &str = r#"
auth Clerk {
  id String @id
}

model Note {
  id   Int    @id
  text String
  @@allow("all",  auth() != null)
  @@allow("read", true)
}

mutation procedure transfer(amount: Int): Boolean
  @rate_limit("transfers")
  @allow(auth() != null)
"#;

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("notes.cstack"), SCHEMA).unwrap();
    folder
}

const SERVE: [&str; 8] =
    ["serve", "notes.cstack", "--addr", "127.0.0.1:0", "--apply", "--auth", "dev", "--allow-dev-auth"];

/// A service on a database of its own, with these settings and limits.
fn serve(folder: &Path, url: &str, limits: &str, settings: &[&str]) -> Server {
    let limits = format!("transfers = 1000/s; {limits}");
    let mut command = command(folder);
    command.args(SERVE).args(["--database", url, "--rate-limits", &limits]).args(settings);
    Server::spawn(&mut command)
}

/// What it complains about.
fn refused(folder: &Path, args: &[&str]) -> String {
    let output = command(folder).args(args).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{args:?}: {output:?}");
    text(&output.stderr)
}

const MEMORY: &str = "sqlite::memory:";

fn status(server: &Server) -> u16 {
    server.request("GET", "/api/notes", &[], "").status
}

#[test]
fn settings_that_mean_nothing_are_refused() {
    let folder = folder();
    let on = |settings: &[&str]| refused(folder.path(), &[&SERVE[..], &["--database", MEMORY], settings].concat());
    let limits = ["--rate-limits", "transfers = 3/m"];
    let with = |settings: &[&str]| on(&[&limits[..], settings].concat());
    let table = [
        (on(&[]), "`@rate_limit(\"transfers\")` of the procedure `transfer` names a rate limit that is not set"),
        (on(&[]), "--rate-limits 'transfers = 10/m'"),
        (on(&["--rate-limits", "api = 3/m"]), "names a rate limit that is not set"),
        (
            on(&["--rate-limits", "transfers = 3"]),
            "`--rate-limits` cannot be read: the rate limit `transfers`: `3` is no rate",
        ),
        (on(&["--rate-limit-nodes", "3"]), "`--rate-limit-nodes` is set, and `rate-limits` is not"),
        (with(&["--rate-limit-costs", "GET /nodes = 3"]), "the schema has no route `GET /nodes`"),
        (with(&["--rate-limit-costs", "3"]), "`--rate-limit-costs` cannot be read: `3` is no cost of a route"),
        (with(&["--rate-limit-store", "database"]), "asks for the database, which is SQLite"),
        (with(&["--rate-limit-lease", "100ms"]), "the limits are kept in memory"),
        (with(&["--rate-limit-store", "redis://127.0.0.1:1"]), "how many processes share the rate limits"),
        (with(&["--rate-limit-store", "rediss://h"]), "asks for TLS"),
        (with(&["--rate-limit-deployment", "x"]), "the limits are kept in memory"),
        (with(&["--rate-limit-slots", "4000000000"]), "more than 1 GiB of memory"),
        (with(&["--rate-limit-nodes", "3"]), "the limits are kept in memory"),
        (with(&["--rate-limit-connections", "3"]), "the limits are kept in memory"),
        (with(&["--rate-limit-budget", "3s"]), "budgets are of a store that processes share"),
        (with(&["--rate-limit-store", "redis://h", "--rate-limit-connections", "3"]), "the limits are kept in Redis"),
        (with(&["--rate-limit-store", "postgres://h/x"]), "is no store of rate limits"),
        (with(&["--rate-limit-store", "redis"]), "is no store of rate limits"),
        (
            on(&["--rate-limits", "transfers = 3/s; api = 3/s", "--rate-limit-costs", "GET /notes = 9"]),
            "costs more than",
        ),
        (on(&["--rate-limits", "transfers = 3/s; api = 3/s by tenant"]), "counts by tenant, and the auth block"),
        (with(&["--rate-limit-ipv6-prefix", "129"]), "more bits than an address has"),
        (with(&["--trusted-proxies", "10.0.0.0/99"]), "is not addresses and networks"),
        (
            refused(
                folder.path(),
                &[&["ratelimit", "show", "notes.cstack", "transfers:principal=ann"], &limits[..]].concat(),
            ),
            "each process keeps these limits in its own memory",
        ),
        (refused(folder.path(), &["ratelimit", "show", "notes.cstack", "x"]), "no rate limits are set"),
    ];
    for (said, part) in table {
        assert!(said.contains(part), "{part}\n{said}");
    }
}

#[test]
fn limits_come_from_the_configuration_too() {
    let folder = folder();
    let toml = "rate-limits = [\n  \"transfers = 1/1h\",\n  \"api = 2/1h by address\",\n]\ntrusted-proxies = [\"10.0.0.1\", \"10.0.0.2\"]\n";
    std::fs::write(folder.path().join("cratestack.toml"), toml).unwrap();
    let server = Server::spawn(command(folder.path()).args(SERVE).args(["--database", MEMORY]));
    assert_eq!([status(&server), status(&server), status(&server)], [200, 200, 429]);
    let metrics = server.request("GET", "/metrics", &[], "");
    assert!(metrics.body.contains("{policy=\"api\",outcome=\"limited\"} 1"), "{}", metrics.body);
    server.stop();
    // `dev` has them as well.
    let server = Server::start(folder.path(), &["dev", "notes.cstack", "--addr", "127.0.0.1:0"]);
    assert_eq!([status(&server), status(&server), status(&server)], [200, 200, 429]);
    let bearer = bearer(r#"{"id":"ann"}"#);
    let answer = server.request("POST", "/api/rpc/transfer", &[("Authorization", &bearer)], r#"{"amount":1}"#);
    assert_eq!(answer.status, 429);
}

#[test]
fn an_edit_that_names_a_limit_that_is_not_set_is_not_served() {
    let folder = folder();
    let args =
        ["dev", "notes.cstack", "--addr", "127.0.0.1:0", "--rate-limits", "transfers = 9/s; api = 3/1h by address"];
    let mut server = Server::start(folder.path(), &args);
    assert_eq!(status(&server), 200);
    let file = folder.path().join("notes.cstack");
    std::fs::write(&file, SCHEMA.replace("\"transfers\"", "\"others\"")).unwrap();
    server.wait_for("names a rate limit that is not set");
    server.wait_for("keeps serving");
    assert_eq!(status(&server), 200);
    // What was counted survives an edit.
    std::fs::write(&file, format!("{SCHEMA}\n// edited\n").replace("text String", "text String @length(max: 9)"))
        .unwrap();
    server.wait_for("reloaded");
    assert_eq!([status(&server), status(&server)], [200, 429]);
}

/// Asks three services as fast as it can; gives how many were let through, and in how long.
fn load(addresses: Vec<SocketAddr>, time: Duration) -> (u64, u64, Duration) {
    let (allowed, others) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let start = Instant::now();
    let threads: Vec<_> = addresses
        .into_iter()
        .flat_map(|address| [address, address])
        .map(|address| {
            let (allowed, others) = (Arc::clone(&allowed), Arc::clone(&others));
            std::thread::spawn(move || {
                while start.elapsed() < time {
                    match request(address, "GET", "/api/notes", &[], "").unwrap().status {
                        200 => allowed.fetch_add(1, Ordering::Relaxed),
                        429 => 0,
                        _ => others.fetch_add(1, Ordering::Relaxed),
                    };
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    (allowed.load(Ordering::Relaxed), others.load(Ordering::Relaxed), start.elapsed())
}

const RATE: u64 = 200;
const BURST: u64 = 50;

/// With and without leases, on a store.
fn three_processes_stay_within(url: &str, store: &str) {
    for (lease, beyond) in [(&[][..], 0), (&["--rate-limit-lease", "100ms"], RATE / 10)] {
        let limit = format!("api{beyond} = {RATE}/s burst {BURST} by nobody on-failure closed");
        let settings = ["--rate-limit-store", store, "--rate-limit-nodes", "3", "--rate-limit-budget", "30s"];
        let folders = [folder(), folder(), folder()];
        let services =
            folders.each_ref().map(|folder| serve(folder.path(), url, &limit, &[&settings[..], lease].concat()));
        let (allowed, others, took) =
            load(services.iter().map(|service| service.address).collect(), Duration::from_secs(3));
        let bound = BURST + RATE * u64::try_from(took.as_millis()).unwrap() / 1000 + beyond + 1;
        assert_eq!(others, 0);
        assert!(allowed <= bound, "{allowed} of {bound}, leases: {lease:?}");
        assert!(allowed >= bound / 2, "{allowed} of {bound}, leases: {lease:?}");
    }
}

#[tokio::test]
async fn three_processes_on_one_redis_stay_within_the_limit() {
    let Some(redis) = Redis::start().await else { return };
    three_processes_stay_within(MEMORY, &redis.url());
}

#[tokio::test]
async fn three_processes_on_one_postgresql_stay_within_the_limit() {
    let Some(database) = Database::new().await else { return };
    three_processes_stay_within(&database.url(), "database");
}

/// Until the store is asked again after a failure, which is a second.
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + support::PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "{what}: it takes too long");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn redis_dies_and_comes_back() {
    let Some(mut redis) = Redis::start().await else { return };
    let folders = [folder(), folder(), folder()];
    let mut services: Vec<Server> = ["local", "closed", "open"]
        .into_iter()
        .zip(&folders)
        .map(|(on_failure, folder)| {
            let limit = format!("api = 6/1h by nobody on-failure {on_failure}");
            let settings = ["--rate-limit-store", &redis.url(), "--rate-limit-nodes", "3", "--rate-limit-budget", "2s"];
            let deployment = ["--rate-limit-deployment", on_failure, "--log", "cratestack_engine=info"];
            serve(folder.path(), MEMORY, &limit, &[&settings[..], &deployment].concat())
        })
        .collect();
    let ask = |services: &[Server], times: usize| -> Vec<Vec<u16>> {
        services.iter().map(|service| (0..times).map(|_| status(service)).collect()).collect()
    };
    assert_eq!(ask(&services, 6), vec![vec![200; 6]; 3]);

    redis.kill();
    let down = ask(&services, 7);
    assert_eq!(down[0], [200, 200, 429, 429, 429, 429, 429], "a third of six");
    assert_eq!(down[1], [503; 7]);
    assert_eq!(down[2], [200; 7]);
    for service in &mut services {
        service.wait_for("the store of the rate limits is down");
    }
    let answer = services[1].request("GET", "/api/notes", &[], "");
    assert!(answer.header("retry-after") == Some("1") && answer.body.contains("cannot be checked now"), "{answer:?}");
    let ready: Vec<u16> = services.iter().map(|service| service.request("GET", "/readyz", &[], "").status).collect();
    assert_eq!(ready, [200, 503, 200], "who refuses everything is not ready");
    assert!(services[0].request("GET", "/metrics", &[], "").body.contains("cratestack_rate_limit_store_down 1"));

    // It has forgotten everything.
    redis.run().await;
    until("the store counts for the first", || status(&services[0]) == 200);
    until("the store counts for the second", || status(&services[1]) == 200);
    until("the store counts for the third", || status(&services[2]) == 429);
    assert_eq!(ask(&services[..2], 6), vec![vec![200, 200, 200, 200, 200, 429]; 2]);
    for service in &mut services {
        service.wait_for("the store of the rate limits answers again");
    }
}

fn commands(url: &str, store: &str) {
    let folder = folder();
    let settings = ["--rate-limit-store", store, "--rate-limit-nodes", "1", "--rate-limit-budget", "30s"];
    let limits = "api = 3/1h; door = 10/1h burst 20000 by address";
    let service = serve(folder.path(), url, limits, &settings);
    let bearer = bearer(r#"{"id":"ann"}"#);
    let ask = || service.request("GET", "/api/notes", &[("Authorization", &bearer)], "").status;
    assert_eq!([ask(), ask(), ask(), ask()], [200, 200, 200, 429]);
    let ratelimit = |args: &[&str]| {
        let limits = format!("transfers = 1000/s; {limits}");
        let mut command = command(folder.path());
        command.arg("ratelimit").args(args).args([
            "--database",
            url,
            "--rate-limit-store",
            store,
            "--rate-limits",
            &limits,
        ]);
        let output = command.output().unwrap();
        (output.status.code(), text(&output.stdout) + &text(&output.stderr))
    };
    let (code, said) = ratelimit(&["show", "notes.cstack", "api:principal=ann"]);
    assert!(code == Some(0) && said.starts_with("api:principal=ann  0 of 3 left, one more in "), "{said}");
    let (code, said) = ratelimit(&["show", "notes.cstack", "door:address=127.0.0.1", "--format", "json"]);
    let shown: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, &shown["limit"], &shown["remaining"]), (Some(0), &20_000.into(), &19_996.into()));
    assert_eq!(ratelimit(&["show", "notes.cstack", "api:principal=bob"]).1, "api:principal=bob  3 of 3 left\n");
    let (code, said) = ratelimit(&["reset", "notes.cstack", "api:principal=ann"]);
    assert_eq!((code, said.as_str()), (Some(0), "`api:principal=ann` has all of its 3 again\n"));
    until("the service asks again", || ask() == 200);
    for (key, part) in [
        ("apo:principal=ann", "there is no rate limit `apo`"),
        ("api", "`api` counts by `principal`"),
        ("api:principal", "`principal` has no value"),
        ("api:principal=ann,tenant=north", "callers have no tenant"),
        ("api:principal=ann,route=/notes", "there is no route `/notes`"),
        ("a b", "`a b` is no key"),
    ] {
        let (code, said) = ratelimit(&["show", "notes.cstack", key]);
        assert!(code == Some(2) && said.contains(part), "{key}: {code:?} {said}");
    }
}

/// As a reader of docs/rate-limits.md does it: with its limits, and its commands.
#[tokio::test]
async fn the_guide_works() {
    const GUIDE: &str = include_str!("../../../docs/rate-limits.md");
    let block = |kind: &str, nth: usize| {
        let rest = GUIDE.split(&format!("```{kind}\n")).nth(nth + 1).unwrap();
        rest.split("```").next().unwrap().trim_end().to_owned()
    };
    let Some(database) = Database::new().await else { return };
    let folder = folder();
    let path = folder.path().join("bank.cstack");
    std::fs::write(&path, SCHEMA.replace("  @rate_limit(\"transfers\")\n", "")).unwrap();
    let auth = ["--auth", "dev", "--allow-dev-auth", "--addr", "127.0.0.1:0", "--apply", "--database"];

    let first = block("console", 0);
    let (words, limits) = first.strip_prefix("$ cratestack ").unwrap().split_once(" '").unwrap();
    let args: Vec<&str> = words.split(' ').chain([limits.trim_end_matches('\'')]).chain(auth).chain([MEMORY]).collect();
    Server::start(folder.path(), &args).stop();

    let named = "  @rate_limit(\"transfers\")\n  @rate_limit(\"logins\")\n";
    std::fs::write(&path, SCHEMA.replace("  @rate_limit(\"transfers\")\n", named)).unwrap();
    let settings = "rate-limit-store = \"database\"\nrate-limit-nodes = 2\nrate-limit-budget = \"30s\"\n";
    let toml =
        format!("{}\n{settings}trusted-proxies = \"127.0.0.1\"\ndatabase = \"{}\"\n", block("toml", 0), database.url());
    std::fs::write(folder.path().join("cratestack.toml"), toml).unwrap();
    let args: Vec<&str> =
        ["serve", "bank.cstack"].into_iter().chain(auth.into_iter().filter(|word| *word != "--database")).collect();
    let service = Server::start(folder.path(), &args);
    // 600 at once, and no request has that many items: wrong credentials cost 20 more.
    let wrong = [("X-Forwarded-For", "203.0.113.7"), ("Authorization", "Bearer nonsense")];
    let statuses: Vec<u16> = (0..40).map(|_| service.request("GET", "/api/notes", &wrong, "").status).collect();
    assert_eq!((statuses.first(), statuses.last()), (Some(&401), Some(&429)));
    let mut lines = block("console", 1);
    lines.push('\n');
    for step in lines.split("$ cratestack ").skip(1) {
        let (command, printed) = step.split_once('\n').unwrap();
        let output = support::run(folder.path(), &command.split(' ').collect::<Vec<_>>());
        let shown = text(&output.stdout);
        let (before, after) = printed.split_once('…').unwrap_or((printed, ""));
        assert!(shown.starts_with(before) && shown.ends_with(after), "$ {command}\n{printed}\n{output:?}");
    }
}

#[tokio::test]
async fn buckets_are_shown_and_filled_in_redis() {
    let Some(mut redis) = Redis::start().await else { return };
    commands(MEMORY, &redis.url());
    redis.kill();
    let folder = folder();
    let url = redis.url();
    let args = ["ratelimit", "show", "notes.cstack", "transfers:principal=ann", "--database", MEMORY, "--rate-limits"];
    let said = refused(folder.path(), &[&args[..], &["transfers = 3/m", "--rate-limit-store", &url]].concat());
    assert!(said.contains("the rate limits cannot be reached in Redis") && !said.contains(&url), "{said}");
}

#[tokio::test]
async fn buckets_are_shown_and_filled_in_postgresql() {
    let Some(database) = Database::new().await else { return };
    let url = database.url();
    // The table is made when that is asked for, in a database that is there too.
    let folder = folder();
    let server = serve(folder.path(), &url, "api = 1/s", &[]);
    server.stop();
    let without: Vec<&str> = SERVE.into_iter().filter(|word| *word != "--apply").collect();
    let limits = ["--rate-limits", "transfers = 3/m", "--rate-limit-store", "database", "--rate-limit-nodes", "2"];
    let said = refused(folder.path(), &[&without[..], &["--database", &url], &limits].concat());
    assert!(said.contains("the database has no table for rate limits") && said.contains("--apply"), "{said}");
    commands(&url, "database");
    Server::start(folder.path(), &[&without[..], &["--database", &url], &limits].concat()).stop();

    // The role that serves may count, and not make the table.
    let role = format!("limits_{}", uuid::Uuid::now_v7().simple());
    let output = support::run(folder.path(), &["migrate", "grants", "notes.cstack", "--role", &role]);
    let mut owner = sqlx::PgConnection::connect(&url).await.unwrap();
    owner.execute(AssertSqlSafe(text(&output.stdout))).await.unwrap();
    let take = "SELECT cratestack_rate_limit_take(ARRAY[gen_random_uuid()], '{1000}', '{1000}', '{1}', '{1}')";
    owner.execute(AssertSqlSafe(format!("SET ROLE {role}"))).await.unwrap();
    let debts: Vec<i64> = sqlx::query_scalar(take).fetch_one(&mut owner).await.unwrap();
    assert_eq!(debts, [0]);
    assert!(owner.execute("DROP TABLE cratestack_rate_limits").await.is_err());
    owner.execute(AssertSqlSafe(format!("RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role}"))).await.unwrap();
}
