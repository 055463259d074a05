//! The service, in a process of its own that can be killed: this very test binary, which starts itself again.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use cratestack::axum::extract::Path;
use cratestack::axum::routing::post;
use cratestack::engine::faults::{self, Fault, Point};
use cratestack::{DevAuth, Error, HttpConfig, IdempotencyConfig, ServerConfig, sqlx};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::time::timeout;

mod desk {
    cratestack::include_schema!("tests/keyed/keyed.cstack");
}

pub(crate) use desk::Db;
use desk::{Entry, NewEntry, TransferInput, Tx, User, account};

/// Where the service finds its database.
const URL: &str = "CRATESTACK_TEST_KEYED_URL";
/// How long requests with one key wait for each other there, in milliseconds.
const WAITS: &str = "CRATESTACK_TEST_KEYED_WAIT";
/// Octets of an answer's body at most that are kept there.
const LIMIT: &str = "CRATESTACK_TEST_KEYED_LIMIT";

/// How a service is set up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    /// How long requests with one key wait for each other.
    pub(crate) wait: Duration,
    /// Octets of an answer's body at most that are kept.
    pub(crate) limit: usize,
}

/// What they are unless a test says otherwise.
pub(crate) const SETTINGS: Settings = Settings { wait: Duration::from_secs(5), limit: 1024 * 1024 };

/// How long anything may take.
pub(crate) const LONG: Duration = Duration::from_secs(60);

struct Desk;

impl desk::Procedures for Desk {
    async fn transfer(&self, tx: &mut Tx<'_>, _: &User, args: TransferInput) -> Result<Entry, Error> {
        moved(tx, args).await
    }

    async fn snap(&self, tx: &mut Tx<'_>, _: &User, args: TransferInput) -> Result<Entry, Error> {
        moved(tx, args).await
    }

    async fn settle(&self, tx: &mut Tx<'_>, _: &User, args: TransferInput) -> Result<Entry, Error> {
        moved(tx, args).await
    }

    async fn leave(&self, tx: &mut Tx<'_>, _: &User, args: TransferInput) -> Result<Entry, Error> {
        tx.entries().create(NewEntry { text: args.text }).await?;
        sqlx::raw_sql("COMMIT").execute(&mut *tx.sqlx().await?).await?;
        Err(Error::reject("sorry", 409, "it was a mistake"))
    }
}

async fn moved(tx: &mut Tx<'_>, args: TransferInput) -> Result<Entry, Error> {
    let (from, to) = (tx.accounts().get(args.from).await?, tx.accounts().get(args.to).await?);
    if from.balance < args.amount {
        faults::at(Point::Body)?;
        return Err(Error::reject("insufficient_funds", 409, "the account does not hold that much"));
    }
    for (account, balance) in [(&from, from.balance - args.amount), (&to, to.balance + args.amount)] {
        tx.accounts().update(account.id).if_version(account.version).put(account::balance(), balance).await?;
    }
    faults::at(Point::Body)?;
    tx.entries().create(NewEntry { text: args.text }).await?.into_row()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it is what the others start"]
async fn the_service() {
    let url = std::env::var(URL).expect("it is the other tests that start this one");
    let db = Db::connect(&url).await.unwrap();
    let wait = Duration::from_millis(std::env::var(WAITS).unwrap().parse().unwrap());
    let response_limit = std::env::var(LIMIT).unwrap().parse().unwrap();
    let idempotency = IdempotencyConfig { wait, response_limit, ..IdempotencyConfig::default() };
    let config = HttpConfig { idempotency, ..HttpConfig::default() };
    let service = cratestack::router(db, Desk).auth(DevAuth::new()).config(config).into_service();
    let app = service.route("/faults/{point}/{fault}/{times}", post(order)).route("/faults/none", post(over));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("\nthe service is at {}", listener.local_addr().unwrap());
    cratestack::serve(listener, app, ServerConfig::default(), std::future::pending()).await.unwrap();
}

/// Orders a fault.
async fn order(Path((point, fault, times)): Path<(String, String, u32)>) {
    let point = match point.as_str() {
        "claimed" => Point::Claimed,
        "locked" => Point::Locked,
        "presented" => Point::Written,
        "committed" => Point::Committed,
        "body" => Point::Body,
        // A few octets for each fault of a test.
        name => Point::Trigger(Box::leak(name.strip_prefix("at-").unwrap().into())),
    };
    let fault = match fault.as_str() {
        "error" => Fault::Error,
        "panic" => Fault::Panic,
        "kill" => Fault::Kill,
        "full" => Fault::Full,
        number => Fault::Told(number.parse().unwrap()),
    };
    faults::arm(point, fault, times);
}

async fn over() -> String {
    faults::disarm().to_string()
}

/// A service that runs, or is gone.
pub(crate) struct Service {
    url: String,
    settings: Settings,
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Service {
    /// Starts, several times where its first look at the database is disturbed.
    pub(crate) async fn start(url: &str) -> Self {
        Self::start_with(url, SETTINGS).await
    }

    /// The same, set up in another way.
    pub(crate) async fn start_with(url: &str, settings: Settings) -> Self {
        let started = async {
            loop {
                if let Some(service) = Self::try_start(url, settings).await {
                    return service;
                }
            }
        };
        timeout(LONG, started).await.expect("the service starts")
    }

    async fn try_start(url: &str, settings: Settings) -> Option<Self> {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "service::the_service", "--ignored", "--nocapture"])
            .env(URL, url)
            .env(WAITS, settings.wait.as_millis().to_string())
            .env(LIMIT, settings.limit.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        while let Some(line) = lines.next_line().await.unwrap() {
            if let Some(address) = line.strip_prefix("the service is at ") {
                let address = address.parse().unwrap();
                // What it says further is of no use, and must not fill the pipe.
                tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
                return Some(Self { url: url.to_owned(), settings, child, address });
            }
        }
        None
    }

    /// SIGKILL.
    pub(crate) async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }

    /// Waits for its end, which it brings about itself.
    pub(crate) async fn gone(&mut self) {
        timeout(LONG, self.child.wait()).await.expect("the service kills itself").unwrap();
    }

    pub(crate) async fn restart(&mut self) {
        *self = Self::start_with(&self.url.clone(), self.settings).await;
    }

    pub(crate) fn is_gone(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Orders a fault in the process.
    pub(crate) async fn order(&self, point: &str, fault: &str, times: u32) {
        self.try_order(point, fault, times).await.expect("an order is taken");
    }

    /// The same, unless the service is gone.
    pub(crate) async fn try_order(&self, point: &str, fault: &str, times: u32) -> Option<()> {
        self.control(&format!("/faults/{point}/{fault}/{times}")).await.map(|_| ())
    }

    /// Takes it back; says how often it has happened, unless the service is gone.
    pub(crate) async fn over(&self) -> Option<u32> {
        String::from_utf8(self.control("/faults/none").await?).unwrap().parse().ok()
    }

    async fn control(&self, path: &str) -> Option<Vec<u8>> {
        let request =
            Request { method: "POST", path: path.to_owned(), body: String::new(), key: String::new(), version: None };
        let answer = request.send(self.address).await?;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        Some(answer.body)
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: &'static str,
    pub(crate) path: String,
    pub(crate) body: String,
    /// Empty for none.
    pub(crate) key: String,
    pub(crate) version: Option<String>,
}

/// What every try of a request that was done gets, and whether it was said to be another try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Those that are given again.
    pub(crate) headers: Vec<String>,
    pub(crate) body: Vec<u8>,
    pub(crate) replayed: bool,
}

/// The headers that are given again.
const ALLOWED: [&str; 7] =
    ["content-type", "content-language", "content-location", "location", "etag", "last-modified", "link"];

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The same, as far as an answer goes of which only the effect is kept, unless both come from what is kept.
    pub(crate) fn alike(&self, other: &Self, large: bool) -> bool {
        if !large || self.replayed && other.replayed {
            return self.same(other);
        }
        let outline = |answer: &Self| {
            let header = |name| answer.header(name).map(str::to_owned);
            (answer.status, header("location"), header("etag"))
        };
        outline(self) == outline(other)
    }

    pub(crate) fn same(&self, other: &Self) -> bool {
        (self.status, &self.headers, &self.body) == (other.status, &other.headers, &other.body)
    }

    fn read(octets: &[u8]) -> Option<Self> {
        let end = octets.windows(4).position(|part| part == b"\r\n\r\n")?;
        let (head, body) = (std::str::from_utf8(&octets[..end]).ok()?, octets[end + 4..].to_vec());
        let mut lines = head.split("\r\n");
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let lines: Vec<String> = lines
            .map(|line| line.split_once(": ").map(|(name, value)| format!("{}: {value}", name.to_ascii_lowercase())))
            .collect::<Option<_>>()?;
        let length = lines.iter().find_map(|line| line.strip_prefix("content-length: "));
        // The end of the connection is no end of an answer.
        if length.is_some_and(|length| length.parse() != Ok(body.len())) {
            return None;
        }
        let replayed = lines.contains(&"idempotent-replayed: true".to_owned());
        let allowed = |line: &String| ALLOWED.iter().any(|name| line.split(':').next() == Some(name));
        let mut headers: Vec<String> = lines.iter().filter(|line| allowed(line)).cloned().collect();
        headers.sort();
        Some(Self { status, headers, body, replayed })
    }
}

impl Request {
    fn text(&self, address: SocketAddr) -> String {
        let mut text = format!(
            "{} {} HTTP/1.1\r\nhost: {address}\r\nauthorization: {}\r\nconnection: close\r\n",
            self.method,
            self.path,
            DevAuth::header(r#"{"id":"ann"}"#)
        );
        for (name, value) in [("idempotency-key", Some(self.key.as_str())), ("if-match", self.version.as_deref())] {
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                text.push_str(&format!("{name}: {value}\r\n"));
            }
        }
        if !self.body.is_empty() {
            let media = if self.method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
            text.push_str(&format!("content-type: {media}\r\ncontent-length: {}\r\n", self.body.len()));
        }
        format!("{text}\r\n{}", self.body)
    }

    /// On a connection of its own. `None` when that ends before the answer does.
    pub(crate) async fn send(&self, address: SocketAddr) -> Option<Answer> {
        let exchange = async {
            let mut stream = TcpStream::connect(address).await?;
            stream.write_all(self.text(address).as_bytes()).await?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.map(|_| answer)
        };
        let answer = timeout(LONG, exchange).await.expect("an answer, or the end of the connection").ok()?;
        Answer::read(&answer)
    }

    /// Asks, and goes away.
    pub(crate) async fn hang_up(&self, address: SocketAddr) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(self.text(address).as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
    }
}
