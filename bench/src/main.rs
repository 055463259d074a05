//! `cargo xtask bench`: this project, a hand-written axum + sqlx service and `pgbench`, in turn and in one run, on one
//! PostgreSQL with fsync on. What counts are the ratios of a row; the rates depend on the machine.

mod baseline;
mod limits;
mod load;

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use base64::Engine as _;
use sqlx::PgPool;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};

use crate::load::{Client, Figures};

const ROWS: usize = 10_000;
const CLIENTS: usize = 16;
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

async fn compare(words: &[String]) -> Result<()> {
    let seconds: u64 = words.first().map_or(Ok(3), |word| word.parse())?;
    let rounds: usize = words.get(1).map_or(Ok(7), |word| word.parse())?;
    let (warm_up, time) = (Duration::from_secs(1), Duration::from_secs(seconds));
    let url = variable("BENCH_DATABASE")?;

    let mut ours = Command::new(variable("BENCH_CRATESTACK")?);
    ours.args([
        "serve",
        SCHEMA,
        "--database",
        &url,
        "--addr",
        "127.0.0.1:0",
        "--apply",
        "--auth",
        "dev",
        "--allow-dev-auth",
    ]);
    let ours = start(ours).await?;
    let pool = PgPool::connect(&url).await?;
    seed(&pool).await?;
    let mut other = Command::new(std::env::current_exe()?);
    other.arg("baseline");
    let other = start(other).await?;

    let claims = r#"{"id":"ann","tenantId":"acme"}"#;
    let token = format!("dev.{}", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(claims));
    println!("{CLIENTS} connections, {rounds} rounds of {seconds} s each, medians\n");
    println!(
        "| operation | CrateStack /s | p50 ms | p99 ms | hand-written /s | p50 ms | p99 ms | pgbench /s | p50 ms | p99 ms | ratio to hand-written | ratio to pgbench |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
    let mut plain = 0.0;
    for (name, kind) in [
        ("get by id", Kind::Get),
        ("list of 50", Kind::List),
        ("versioned patch", Kind::Patch),
        ("audited patch", Kind::AuditedPatch),
        ("keyed audited patch", Kind::KeyedPatch),
    ] {
        if words.get(2).is_some_and(|only| !name.contains(only.as_str())) {
            continue;
        }
        let [own, others] = kind.tables();
        let (mut a, mut b, mut c) = (Vec::new(), Vec::new(), Vec::new());
        let mut without = Vec::new();
        for round in 0..rounds {
            eprint!("\r{name}: round {} of {rounds}  ", round + 1);
            a.push(load::run(ours.address, callers(&pool, kind, own, &token).await?, warm_up, time).await?);
            b.push(load::run(other.address, callers(&pool, kind, others, &token).await?, warm_up, time).await?);
            c.push(pgbench(&url, kind, time).await?);
            if kind == Kind::KeyedPatch {
                let callers = callers(&pool, Kind::AuditedPatch, own, &token).await?;
                without.push(load::run(ours.address, callers, warm_up, time).await?);
            }
        }
        eprint!("\r                                \r");
        let ratio = |x: &[Figures], y: &[Figures]| median(x.iter().zip(y).map(|(x, y)| x.rate / y.rate).collect());
        let cells = |f: Figures| {
            let ms = |time: Duration| time.as_secs_f64() * 1000.0;
            format!("{:.0} | {:.2} | {:.2}", f.rate, ms(f.p50), ms(f.p99))
        };
        println!(
            "| {name} | {} | {} | {} | {:.2} | {:.2} |",
            cells(middle(&a)),
            cells(middle(&b)),
            cells(middle(&c)),
            ratio(&a, &b),
            ratio(&a, &c)
        );
        let rate = middle(&a).rate;
        match kind {
            Kind::Patch => plain = rate,
            Kind::AuditedPatch if plain > 0.0 => {
                println!("\naudited patch beside the versioned patch: {:.2}", rate / plain);
            }
            Kind::KeyedPatch => {
                println!(
                    "\nkeyed audited patch beside the one without a key, in the same rounds: {:.2}",
                    ratio(&a, &without)
                );
                println!(
                    "\n| one client | CrateStack /s | WAL flushes | hand-written /s | WAL flushes | ratio |\n|---|---|---|---|---|---|"
                );
                for (name, kind) in [("audited patch", Kind::AuditedPatch), ("keyed audited patch", Kind::KeyedPatch)] {
                    let [own, others] = kind.tables();
                    let (a, flushed) = alone(&pool, ours.address, kind, own, &token).await?;
                    let (b, others) = alone(&pool, other.address, kind, others, &token).await?;
                    println!("| {name} | {a:.0} | {flushed:.2} | {b:.0} | {others:.2} | {:.2} |", a / b);
                }
            }
            Kind::Get | Kind::List | Kind::AuditedPatch => {}
        }
    }
    Ok(())
}

/// Answers per second to one client, and how often PostgreSQL flushes its log to the disk for each, told by `pg_stat_wal`. Of
/// several clients one flush serves many.
async fn alone(pool: &PgPool, address: SocketAddr, kind: Kind, table: &str, token: &str) -> Result<(f64, f64)> {
    async fn syncs(pool: &PgPool) -> Result<i64> {
        // Backends tell of what they did once a second at most, and of the rest when they have been idle for ten.
        tokio::time::sleep(Duration::from_secs(11)).await;
        Ok(sqlx::query_scalar("SELECT wal_sync FROM pg_stat_wal").fetch_one(pool).await?)
    }
    let mut callers = callers(pool, kind, table, token).await?;
    callers.truncate(1);
    let before = syncs(pool).await?;
    let time = Duration::from_secs(3);
    let figures = load::run(address, callers, Duration::ZERO, time).await?;
    let after = syncs(pool).await?;
    #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
    let flushes = (after - before) as f64;
    Ok((figures.rate, flushes / (figures.rate * time.as_secs_f64())))
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
