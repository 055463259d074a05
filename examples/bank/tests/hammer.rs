//! Transfers under fire: 32 clients move money at random among 50 accounts, while the bank is killed again and again, and
//! so are its connections to PostgreSQL. Whatever happens, no money is made or lost, and every effect is in the trail.
//!
//! `CRATESTACK_HAMMER_SECONDS` says for how long on each database; 20 without it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use cratestack::engine::audit::reconcile::reconcile;
use cratestack::sqlx::{self, Connection as _, PgConnection};
use cratestack::{Decimal, Error, dec};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep_until, timeout};

use support::{House, Kept, token};

const CLIENTS: u64 = 32;
const ACCOUNTS: usize = 50;
const OPENING: Decimal = dec!(100);
/// How long a bank or a connection lives.
const CALM: [Duration; 2] = [Duration::from_millis(2500), Duration::from_millis(300)];

/// The same each time, for the same seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % sides
    }
}

/// What the clients have seen, by status and code.
#[derive(Default)]
struct Seen {
    answers: Mutex<BTreeMap<String, u64>>,
    done: AtomicU64,
}

impl Seen {
    fn note(&self, what: String) {
        *self.answers.lock().unwrap().entry(what).or_default() += 1;
    }
}

async fn open(url: &str) -> (Child, SocketAddr) {
    let mut bank = Command::new(env!("CARGO_BIN_EXE_bank"))
        .env("DATABASE_URL", url)
        .env("ADDRESS", "127.0.0.1:0")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(bank.stdout.take().unwrap()).lines();
    let line = timeout(Duration::from_secs(60), lines.next_line()).await.unwrap().unwrap().unwrap();
    let address = line.split("http://").nth(1).and_then(|rest| rest.split('/').next()).unwrap().parse().unwrap();
    (bank, address)
}

/// One request on a connection of its own. `None` when the bank went away before its answer.
async fn post(address: SocketAddr, path: &str, token: &str, body: &Value) -> Option<(u16, Value)> {
    let body = body.to_string();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: {token}\r\nContent-Type: application/json\r\n\
         Connection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(body.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.map(|_| answer)
    };
    let answer =
        timeout(Duration::from_secs(60), exchange).await.expect("an answer, or the end of the connection").ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, serde_json::from_str(body).ok()?))
}

async fn client(
    seed: u64,
    address: Arc<RwLock<SocketAddr>>,
    ids: Arc<Vec<String>>,
    over: Arc<AtomicBool>,
    seen: Arc<Seen>,
) {
    let mut dice = Dice(seed);
    let teller = token(&format!("teller-{seed}"), "teller");
    while !over.load(Ordering::Relaxed) {
        let (from, to) = (dice.roll(ids.len()), dice.roll(ids.len() - 1));
        let to = if to >= from { to + 1 } else { to };
        let order = json!({"fromId": ids[from], "toId": ids[to], "amount": (dice.roll(4000) + 1).to_string()});
        let order = match dice.roll(3) {
            // Most accounts do not hold that much.
            0 => order,
            _ => json!({"fromId": ids[from], "toId": ids[to], "amount": format!("{}.5", dice.roll(20))}),
        };
        let at = *address.read().unwrap();
        match post(at, "/api/rpc/transfer", &teller, &order).await {
            None => {
                seen.note("no answer".to_owned());
                tokio::task::yield_now().await;
            }
            Some((status, answer)) => {
                let code = answer["code"].as_str().unwrap_or("done");
                seen.note(format!("{status} {code}"));
                if status == 201 {
                    seen.done.fetch_add(1, Ordering::Relaxed);
                } else {
                    let expected = [(409, "insufficient_funds"), (409, "transaction_aborted"), (503, "unavailable")];
                    assert!(expected.contains(&(status, code)), "{answer}");
                }
            }
        }
    }
}

/// Ends the connections of the bank, as an administrator or a proxy does it.
async fn cut(connection: &mut PgConnection) {
    let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
               WHERE application_name = 'cratestack' AND datname = current_database() AND random() < 0.5";
    sqlx::query(cut).execute(connection).await.unwrap();
}

async fn hammer(house: House) {
    let seconds = std::env::var("CRATESTACK_HAMMER_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(20);
    let accounts = house.accounts(ACCOUNTS, OPENING).await.unwrap();
    let ids: Arc<Vec<String>> = Arc::new(accounts.iter().map(|account| account.id.to_string()).collect());
    let url = house.kept.url();
    let mut knife = match &house.kept {
        Kept::File(_) => None,
        Kept::Postgres { url, .. } => Some(PgConnection::connect(url).await.unwrap()),
    };

    let (mut bank, at) = open(&url).await;
    let address = Arc::new(RwLock::new(at));
    let (over, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Seen::default()));
    let client = |seed| client(seed, Arc::clone(&address), Arc::clone(&ids), Arc::clone(&over), Arc::clone(&seen));
    let clients: Vec<_> = (1..=CLIENTS).map(|seed| tokio::spawn(client(seed))).collect();

    let end = Instant::now() + Duration::from_secs(seconds);
    let [life, connected] = CALM;
    let (mut kill, mut cutting) = (Instant::now() + life, Instant::now() + connected);
    while Instant::now() < end {
        sleep_until(end.min(kill).min(cutting)).await;
        if kill <= Instant::now() {
            bank.kill().await.unwrap();
            let (next, at) = open(&url).await;
            bank = next;
            *address.write().unwrap() = at;
            kill = Instant::now() + life;
        }
        if cutting <= Instant::now() {
            if let Some(knife) = &mut knife {
                cut(knife).await;
            }
            cutting = Instant::now() + connected;
        }
    }
    over.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    bank.kill().await.unwrap();

    let answers = seen.answers.lock().unwrap().clone();
    println!("{}: {answers:?}", if knife.is_some() { "PostgreSQL" } else { "SQLite" });
    house.audit(OPENING * Decimal::from(ACCOUNTS), OPENING).await;
    trail(&house, seen.done.load(Ordering::Relaxed)).await.unwrap();
    house.close().await;
}

/// Each effect has its event, and each event its effect; and what was acknowledged is there.
async fn trail(house: &House, acknowledged: u64) -> Result<(), Error> {
    let job = house.db.as_system("audit");
    let versions: i64 = job.accounts().all().fetch().await?.iter().map(|account| account.version).sum();
    let transfers = job.transfers().all().count().await?;
    assert!(
        transfers >= acknowledged && transfers > 0,
        "{acknowledged} transfers were acknowledged, {transfers} are there"
    );
    let mut differences = Vec::new();
    let summary = reconcile(house.db.engine(), &mut |report| differences.push(format!("{report:?}"))).await.unwrap();
    assert_eq!(summary.differences, 0, "{summary:?} {differences:?}");
    for (model, expected) in [("Account", versions), ("Transfer", i64::try_from(transfers).unwrap())] {
        assert_eq!(house.events(model).await?, expected, "{model}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_money_is_made_or_lost_on_sqlite() {
    hammer(House::sqlite().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_money_is_made_or_lost_on_postgres() {
    if let Some(house) = House::postgres().await {
        hammer(house).await;
    }
}
