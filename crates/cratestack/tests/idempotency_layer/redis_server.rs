//! Redis, on servers of the tests' own: `CRATESTACK_TEST_REDIS` names the program `redis-server` or `valkey-server`.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use cratestack::RedisIdempotencyStore;

use crate::places::{Place, only_sqlite, until};

/// A server without persistence, which ends with the value.
pub(crate) struct Server {
    folder: tempfile::TempDir,
    port: u16,
    /// Another server that has got hold of the port does not know it.
    password: String,
    child: Option<Child>,
}

pub(crate) async fn place() -> Option<Place> {
    let server = Server::start().await?;
    Some(Place::new(RedisIdempotencyStore::new(&server.url()).unwrap(), server))
}

impl Server {
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

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
