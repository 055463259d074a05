//! `cargo xtask bench`: this project, a hand-written axum + sqlx service and `pgbench`, in turn and in one run, on one
//! PostgreSQL with fsync on. What counts are the ratios of a row; the rates depend on the machine.

mod baseline;
mod distance;
mod limits;
mod load;

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use base64::Engine as _;
use sqlx::PgPool;
use sqlx::postgres::PgConnectOptions;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};

use crate::load::{Client, Figures};

const ROWS: usize = 10_000;
const CLIENTS: usize = 16;
/// Clients, and the way to PostgreSQL, where it is at a distance: half a millisecond there and another back, as between two
/// zones of a region.
const FEW: usize = 4;
const WAY: Duration = Duration::from_micros(500);
const SCHEMA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/bench.cstack");

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(words: &[String]) -> Result<()> {
    if words.first().is_some_and(|word| word == "baseline") {
        return tokio::runtime::Runtime::new()?.block_on(serve_baseline());
    }
    if words.first().is_some_and(|word| word == "limits") {
        return limits::run(words.get(1..).unwrap_or_default());
    }
    // One thread is enough for the load, and leaves more to the services.
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(compare(words))
}

fn variable(name: &str) -> Result<String> {
    std::env::var(name).map_err(|_| format!("`{name}` is not set; run `cargo xtask bench`").into())
}

async fn serve_baseline() -> Result<()> {
    let pool = PgPool::connect(&variable("BENCH_DATABASE")?).await?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, baseline::router(pool)).await?;
    Ok(())
}

/// A service under test; killed when dropped.
struct Service {
    _child: Child,
    address: SocketAddr,
}

async fn start(mut command: Command) -> Result<Service> {
    let mut child = command.stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
    let output = child.stdout.take().ok_or("no standard output")?;
    let mut lines = BufReader::new(output).lines();
    while let Some(line) = tokio::time::timeout(Duration::from_secs(60), lines.next_line()).await?? {
        if let Some(address) = line.trim().strip_prefix("listening on http://") {
            let address = address.parse()?;
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            return Ok(Service { _child: child, address });
        }
    }
    Err("the service ended before it listened".into())
}

/// Which request a client sends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Get,
    List,
    Patch,
    AuditedPatch,
    KeyedPatch,
}

impl Kind {
    /// The rows that CrateStack, and those that the hand-written service is asked for.
    fn tables(self) -> [&'static str; 2] {
        if matches!(self, Self::AuditedPatch | Self::KeyedPatch) {
            ["audited_accounts", "hand_accounts"]
        } else {
            ["accounts"; 2]
        }
    }

    fn patches(self) -> bool {
        matches!(self, Self::Patch | Self::AuditedPatch | Self::KeyedPatch)
    }
}

struct Caller {
    kind: Kind,
    token: String,
    /// Rows of its own, so that a patch never loses a race.
    rows: Vec<(String, i64)>,
    turn: usize,
}

impl Client for Caller {
    fn request(&mut self, out: &mut Vec<u8>) {
        self.turn += 1;
        let at = self.turn % self.rows.len().max(1);
        let (id, version) = self.rows.get(at).map_or(("", 0), |(id, version)| (id.as_str(), *version));
        let token = &self.token;
        // Writing into a vector does not fail.
        let _ = match self.kind {
            Kind::Get => write!(out, "GET /api/accounts/{id} HTTP/1.1\r\n"),
            Kind::List => write!(out, "GET /api/accounts?limit=50 HTTP/1.1\r\n"),
            Kind::Patch => write!(out, "PATCH /api/accounts/{id} HTTP/1.1\r\n"),
            Kind::AuditedPatch | Kind::KeyedPatch => write!(out, "PATCH /api/audited-accounts/{id} HTTP/1.1\r\n"),
        };
        let _ = write!(out, "Host: bench\r\nAuthorization: Bearer {token}\r\n");
        if self.kind == Kind::KeyedPatch {
            let _ = write!(out, "Idempotency-Key: {}\r\n", uuid::Uuid::now_v7());
        }
        let _ = if self.kind.patches() {
            let body = format!("{{\"owner\":\"owner {} of version {version}\"}}", self.turn);
            let length = body.len();
            write!(
                out,
                "If-Match: \"{version}\"\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
            )
        } else {
            write!(out, "\r\n")
        };
    }

    fn answer(&mut self, status: u16, head: &[u8], body: &[u8]) -> std::result::Result<(), String> {
        let text = |octets| String::from_utf8_lossy(octets).into_owned();
        if status != 200 {
            return Err(format!("status {status}: {}{}", text(head), text(body)));
        }
        if self.kind.patches() {
            // Not simply one more: a patch that changes nothing keeps the version.
            let version = load::field(head, "etag").and_then(|tag| tag.trim_matches('"').parse().ok());
            let at = self.turn % self.rows.len().max(1);
            match (self.rows.get_mut(at), version) {
                (Some((_, current)), Some(version)) => *current = version,
                _ => return Err(format!("no version in the answer: {}", text(head))),
            }
        }
        Ok(())
    }
}

async fn callers(pool: &PgPool, kind: Kind, table: &str, token: &str) -> Result<Vec<Caller>> {
    let sql = format!("SELECT id, version FROM {table} ORDER BY id");
    let rows: Vec<(uuid::Uuid, i64)> = sqlx::query_as(sqlx::AssertSqlSafe(sql)).fetch_all(pool).await?;
    Ok(rows
        .chunks(rows.len().div_ceil(CLIENTS))
        .map(|part| Caller {
            kind,
            token: token.to_owned(),
            rows: part.iter().map(|(id, version)| (id.to_string(), *version)).collect(),
            turn: 0,
        })
        .collect())
}

/// What `pgbench` runs: the statement that the engine sends, as near as its variables allow.
fn script(kind: Kind) -> String {
    match kind {
        Kind::AuditedPatch | Kind::KeyedPatch => script(Kind::Patch).replace("UPDATE accounts", "UPDATE audited_accounts"),
        Kind::Get => {
            "\\set n random(1, 10000)\nSELECT id, tenant_id, owner, email, balance::text, overdraft::text, currency, created_at, version FROM accounts WHERE id = ('00000000-0000-7000-8000-' || lpad(:n::text, 12, '0'))::uuid AND tenant_id = 'acme';\n".to_owned()
        }
        Kind::List => {
            "SELECT id, tenant_id, owner, email, balance::text, overdraft::text, currency, created_at, version FROM accounts WHERE tenant_id = 'acme' ORDER BY id LIMIT 51;\n".to_owned()
        }
        Kind::Patch => {
            "\\set n random(1, 10000)\nUPDATE accounts SET owner = 'owner ' || :n, version = version + 1 WHERE id = ('00000000-0000-7000-8000-' || lpad(:n::text, 12, '0'))::uuid AND tenant_id = 'acme' AND version > 0 RETURNING id, tenant_id, owner, email, balance::text, overdraft::text, currency, created_at, version;\n".to_owned()
        }
    }
}

async fn pgbench(url: &str, kind: Kind, time: Duration) -> Result<Figures> {
    let folder = std::env::temp_dir().join(format!("cratestack-bench-{}", std::process::id()));
    tokio::fs::create_dir_all(&folder).await?;
    let file = folder.join("script.sql");
    tokio::fs::File::create(&file).await?.write_all(script(kind).as_bytes()).await?;
    let seconds = time.as_secs().max(1).to_string();
    let clients = CLIENTS.to_string();
    let output = Command::new(variable("BENCH_PGBENCH").unwrap_or_else(|_| "pgbench".to_owned()))
        .current_dir(&folder)
        .args(["-n", "-M", "prepared", "-j", "2", "-c", &clients, "-T", &seconds, "-l", "-f"])
        .arg(&file)
        .arg(url)
        .output()
        .await?;
    if !output.status.success() {
        return Err(format!("pgbench failed: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    // The per-transaction log: client, transaction, microseconds, ..
    let mut latencies = Vec::new();
    let mut entries = tokio::fs::read_dir(&folder).await?;
    while let Some(entry) = entries.next_entry().await? {
        if entry.file_name().to_string_lossy().starts_with("pgbench_log") {
            let text = tokio::fs::read_to_string(entry.path()).await?;
            let times =
                text.lines().filter_map(|line| line.split_whitespace().nth(2)).filter_map(|word| word.parse().ok());
            latencies.extend(times.map(Duration::from_micros));
        }
    }
    tokio::fs::remove_dir_all(&folder).await?;
    Ok(Figures::of(latencies, time))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

fn middle(figures: &[Figures]) -> Figures {
    let duration = |of: fn(&Figures) -> Duration| {
        let mut all: Vec<Duration> = figures.iter().map(of).collect();
        all.sort_unstable();
        all.get(all.len() / 2).copied().unwrap_or_default()
    };
    Figures {
        rate: median(figures.iter().map(|f| f.rate).collect()),
        p50: duration(|f| f.p50),
        p99: duration(|f| f.p99),
    }
}

/// The two services, on one database.
struct Pair {
    ours: Service,
    other: Service,
}

impl Pair {
    async fn start(url: &str) -> Result<Self> {
        let mut ours = Command::new(variable("BENCH_CRATESTACK")?);
        // Settings of whoever runs this are no part of what is measured.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CRATESTACK_")) {
            ours.env_remove(name);
        }
        ours.args([
            "serve",
            SCHEMA,
            "--database",
            url,
            "--addr",
            "127.0.0.1:0",
            "--apply",
            "--auth",
            "dev",
            "--allow-dev-auth",
        ]);
        let ours = start(ours).await?;
        let mut other = Command::new(std::env::current_exe()?);
        other.arg("baseline").env("BENCH_DATABASE", url);
        Ok(Self { ours, other: start(other).await? })
    }
}

/// A benchmark: where it runs, and for how long.
struct Run {
    url: String,
    pool: PgPool,
    token: String,
    rounds: usize,
    time: Duration,
    /// Kinds whose names have it.
    only: Option<String>,
}

const KINDS: [(&str, Kind); 5] = [
    ("get by id", Kind::Get),
    ("list of 50", Kind::List),
    ("versioned patch", Kind::Patch),
    ("audited patch", Kind::AuditedPatch),
    ("keyed audited patch", Kind::KeyedPatch),
];

impl Run {
    fn kinds(&self) -> impl Iterator<Item = (&'static str, Kind)> {
        KINDS.into_iter().filter(|(name, _)| self.only.as_ref().is_none_or(|only| name.contains(only.as_str())))
    }

    /// What a service answers to so many clients.
    async fn load(&self, service: &Service, kind: Kind, table: &str, clients: usize) -> Result<Figures> {
        let mut callers = callers(&self.pool, kind, table, &self.token).await?;
        callers.truncate(clients);
        Ok(load::run(service.address, callers, Duration::from_secs(1), self.time).await?)
    }

    /// Both services and `pgbench` beside each other on PostgreSQL itself.
    async fn near(&self, pair: &Pair) -> Result<()> {
        let rounds = self.rounds;
        println!("{CLIENTS} connections, {rounds} rounds of {} s each, medians\n", self.time.as_secs());
        println!(
            "| operation | CrateStack /s | p50 ms | p99 ms | hand-written /s | p50 ms | p99 ms | pgbench /s | p50 ms | p99 ms | ratio to hand-written | ratio to pgbench |"
        );
        println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
        let mut rates = Vec::new();
        for (name, kind) in self.kinds() {
            let [own, others] = kind.tables();
            let (mut a, mut b, mut c) = (Vec::new(), Vec::new(), Vec::new());
            let mut without = Vec::new();
            for round in 0..rounds {
                progress(name, round, rounds);
                a.push(self.load(&pair.ours, kind, own, CLIENTS).await?);
                b.push(self.load(&pair.other, kind, others, CLIENTS).await?);
                c.push(pgbench(&self.url, kind, self.time).await?);
                if kind == Kind::KeyedPatch {
                    without.push(self.load(&pair.ours, Kind::AuditedPatch, own, CLIENTS).await?);
                }
            }
            eprint!("\r                                        \r");
            let (ours, other, raw) = (middle(&a), middle(&b), middle(&c));
            rates.push((kind, ours.rate));
            println!(
                "| {name} | {} | {} | {} | {:.2} | {:.2} |",
                cells(ours),
                cells(other),
                cells(raw),
                ratio(&a, &b),
                ratio(&a, &c)
            );
            let rate = |wanted| rates.iter().find(|(kind, _)| *kind == wanted).map(|(_, rate)| rate);
            if let (Kind::AuditedPatch, Some(plain)) = (kind, rate(Kind::Patch)) {
                println!("\naudited patch beside the versioned patch: {:.2}", ours.rate / plain);
            }
            if kind == Kind::KeyedPatch {
                let beside = ratio(&a, &without);
                println!("\nkeyed audited patch beside the one without a key, in the same rounds: {beside:.2}");
            }
        }
        Ok(())
    }

    /// One client, and how often the log is flushed for it.
    async fn alone(&self, pair: &Pair) -> Result<()> {
        let changes = |kind: &Kind| matches!(kind, Kind::AuditedPatch | Kind::KeyedPatch);
        if !self.kinds().any(|(_, kind)| changes(&kind)) {
            return Ok(());
        }
        println!(
            "\n| one client | CrateStack /s | WAL flushes | hand-written /s | WAL flushes | ratio |\n|---|---|---|---|---|---|"
        );
        for (name, kind) in self.kinds().filter(|(_, kind)| changes(kind)) {
            let [own, others] = kind.tables();
            let (a, flushed) = self.flushes(&pair.ours, kind, own).await?;
            let (b, others) = self.flushes(&pair.other, kind, others).await?;
            println!("| {name} | {a:.0} | {flushed:.2} | {b:.0} | {others:.2} | {:.2} |", a / b);
        }
        Ok(())
    }

    /// Both services on PostgreSQL at a distance, as on another machine: there a round trip is what costs, and few clients
    /// leave time enough to the processors.
    async fn far(&self) -> Result<()> {
        let server: PgConnectOptions = self.url.parse()?;
        let host = tokio::net::lookup_host((server.get_host(), server.get_port())).await?.next();
        let address = distance::away(host.ok_or("the server has no address")?, WAY)?;
        let near = format!("@{}:{}", server.get_host(), server.get_port());
        let pair = Pair::start(&self.url.replacen(&near, &format!("@{address}"), 1)).await?;
        println!("\nPostgreSQL {} us away, there and back; {FEW} connections\n", 2 * WAY.as_micros());
        println!(
            "| operation | CrateStack /s | p50 ms | p99 ms | hand-written /s | p50 ms | p99 ms | ratio |\n|---|---|---|---|---|---|---|---|"
        );
        let (mut all, rounds) = (Vec::new(), self.rounds);
        for (name, kind) in self.kinds() {
            let [own, others] = kind.tables();
            let (mut a, mut b) = (Vec::new(), Vec::new());
            for round in 0..rounds {
                progress(name, round, rounds);
                a.push(self.load(&pair.ours, kind, own, FEW).await?);
                b.push(self.load(&pair.other, kind, others, FEW).await?);
            }
            eprint!("\r                                        \r");
            println!("| {name} | {} | {} | {:.2} |", cells(middle(&a)), cells(middle(&b)), ratio(&a, &b));
            all.push((kind, a));
        }
        let of = |wanted: Kind| all.iter().find(|(kind, _)| *kind == wanted).map(|(_, figures)| figures);
        if let (Some(keyed), Some(plain)) = (of(Kind::KeyedPatch), of(Kind::AuditedPatch)) {
            println!("\nkeyed audited patch beside the one without a key: {:.2}", ratio(keyed, plain));
        }
        Ok(())
    }

    /// Answers per second to one client, and how often PostgreSQL flushes its log to the disk for each, told by
    /// `pg_stat_wal`. Of several clients one flush serves many.
    async fn flushes(&self, service: &Service, kind: Kind, table: &str) -> Result<(f64, f64)> {
        let mut callers = callers(&self.pool, kind, table, &self.token).await?;
        callers.truncate(1);
        let before = self.syncs().await?;
        let time = Duration::from_secs(3);
        let figures = load::run(service.address, callers, Duration::ZERO, time).await?;
        let after = self.syncs().await?;
        #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
        let flushes = (after - before) as f64;
        Ok((figures.rate, flushes / (figures.rate * time.as_secs_f64())))
    }

    async fn syncs(&self) -> Result<i64> {
        // Backends tell of what they did once a second at most, and of the rest when they have been idle for ten.
        tokio::time::sleep(Duration::from_secs(11)).await;
        Ok(sqlx::query_scalar("SELECT wal_sync FROM pg_stat_wal").fetch_one(&self.pool).await?)
    }
}

fn progress(name: &str, round: usize, rounds: usize) {
    eprint!("\r{name}: round {} of {rounds}  ", round + 1);
}

fn ratio(x: &[Figures], y: &[Figures]) -> f64 {
    median(x.iter().zip(y).map(|(x, y)| x.rate / y.rate).collect())
}

fn cells(f: Figures) -> String {
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    format!("{:.0} | {:.2} | {:.2}", f.rate, ms(f.p50), ms(f.p99))
}

/// `bench [SECONDS [ROUNDS [NAME]]]`.
async fn compare(words: &[String]) -> Result<()> {
    let url = variable("BENCH_DATABASE")?;
    let pair = Pair::start(&url).await?;
    let pool = PgPool::connect(&url).await?;
    seed(&pool).await?;
    let claims = r#"{"id":"ann","tenantId":"acme"}"#;
    let run = Run {
        token: format!("dev.{}", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(claims)),
        rounds: words.get(1).map_or(Ok(7), |word| word.parse())?,
        time: Duration::from_secs(words.first().map_or(Ok(3), |word| word.parse())?),
        only: words.get(2).cloned(),
        url,
        pool,
    };
    run.near(&pair).await?;
    run.alone(&pair).await?;
    drop(pair);
    run.far().await
}

async fn seed(pool: &PgPool) -> Result<()> {
    sqlx::raw_sql(baseline::TABLES).execute(pool).await?;
    for table in ["accounts", "audited_accounts", "hand_accounts"] {
        seed_table(pool, table).await?;
    }
    Ok(())
}

async fn seed_table(pool: &PgPool, table: &str) -> Result<()> {
    let sql = "INSERT INTO {table} (id, tenant_id, owner, email, balance, overdraft, currency, created_at, version)
        SELECT ('00000000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid, 'acme', 'owner ' || n, 'ann@example.com',
               n, 0, 'EUR', now(), 1
        FROM generate_series(1, $1::bigint) AS n";
    let sql = sql.replace("{table}", table);
    sqlx::query(sqlx::AssertSqlSafe(sql)).bind(i64::try_from(ROWS)?).execute(pool).await?;
    sqlx::query(sqlx::AssertSqlSafe(format!("VACUUM ANALYZE {table}"))).execute(pool).await?;
    Ok(())
}
