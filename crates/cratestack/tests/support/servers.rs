//! Servers of the tests' own: databases of PostgreSQL, and Redis, for which `CRATESTACK_TEST_REDIS` names the program
//! `redis-server` or `valkey-server`.

#![allow(dead_code, reason = "not every test needs all of it")]

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _, PgPool};

/// How long something may take in real time before the test has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn only_sqlite() -> bool {
    std::env::var("CRATESTACK_TEST_ONLY").is_ok_and(|only| only == "sqlite")
}

/// A database of PostgreSQL that lives as long as this value.
pub(crate) struct Database {
    server: PgConnectOptions,
    name: String,
}

impl Database {
    pub(crate) async fn new() -> Option<Self> {
        if only_sqlite() {
            return None;
        }
        let url = std::env::var("CRATESTACK_TEST_POSTGRES")
            .expect("set CRATESTACK_TEST_POSTGRES to a server's URL, or CRATESTACK_TEST_ONLY=sqlite");
        let server: PgConnectOptions = url.parse().unwrap();
        let name = format!("test_{}", uuid::Uuid::now_v7().simple());
        run_on(&server, format!("CREATE DATABASE {name}")).await;
        Some(Self { server, name })
    }

    pub(crate) fn url(&self) -> String {
        let server = std::env::var("CRATESTACK_TEST_POSTGRES").unwrap();
        let (base, options) = server
            .split_once('?')
            .map_or((server.as_str(), String::new()), |(base, options)| (base, format!("?{options}")));
        format!("{}/{}{options}", base.rsplit_once('/').unwrap().0, self.name)
    }

    pub(crate) async fn pool(&self) -> PgPool {
        self.pool_with(&[]).await
    }

    pub(crate) async fn pool_with(&self, settings: &[(&str, &str)]) -> PgPool {
        let options = self.server.clone().database(&self.name).options(settings.iter().copied());
        PgPoolOptions::new().max_connections(8).connect_with(options).await.unwrap()
    }
}

async fn run_on(server: &PgConnectOptions, sql: String) {
    let mut connection = server.connect().await.unwrap();
    connection.execute(AssertSqlSafe(sql)).await.unwrap();
    connection.close().await.unwrap();
}

impl Drop for Database {
    fn drop(&mut self) {
        // A runtime cannot be entered twice on one thread.
        let (server, sql) = (self.server.clone(), format!("DROP DATABASE {} WITH (FORCE)", self.name));
        let drop = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(run_on(&server, sql));
        };
        std::thread::spawn(drop).join().unwrap();
    }
}

/// Waits until `done`.
pub(crate) async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !done().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{what}: it takes too long"));
}

/// A server of Redis without persistence, which ends with the value.
pub(crate) struct Redis {
    folder: tempfile::TempDir,
    port: u16,
    /// Another server that has got hold of the port does not know it.
    password: String,
    child: Option<Child>,
}

impl Redis {
    /// `None` when only SQLite is to be tested; a missing program is a failure, never a silent skip.
    pub(crate) async fn start() -> Option<Self> {
        if only_sqlite() {
            return None;
        }
        let password = uuid::Uuid::now_v7().simple().to_string();
        let mut server = Self { folder: tempfile::tempdir().unwrap(), port: 0, password, child: None };
        while server.child.is_none() {
            server.port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
            server.run().await;
        }
        Some(server)
    }

    /// Runs it, with nothing in it, on the port that it has; without a child when the port is taken.
    pub(crate) async fn run(&mut self) {
        let program = std::env::var("CRATESTACK_TEST_REDIS").expect(
            "set CRATESTACK_TEST_REDIS to the program `redis-server` or `valkey-server`, or CRATESTACK_TEST_ONLY=sqlite",
        );
        let child = Command::new(program)
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"])
            .arg(self.folder.path())
            .args(["--port", &self.port.to_string(), "--requirepass", &self.password])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.child = Some(child);
        until("the start of Redis", async || {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap().is_some();
            if ended {
                self.child = None;
            }
            ended || self.ask("PING").is_ok_and(|answer| answer.contains("+PONG"))
        })
        .await;
    }

    /// What it says to a command.
    pub(crate) fn ask(&self, command: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        write!(stream, "AUTH {}\r\n{command}\r\nQUIT\r\n", self.password)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://:{}@127.0.0.1:{}", self.password, self.port)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}
