//! What stands between a service and PostgreSQL, and cuts connections where the database says so: by a notice, which a trigger
//! of the test's raises.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

/// Cuts the connection at once.
pub(crate) const UNPLUG: &str = "cratestack_test_unplug";
/// Lets the transaction be committed, and cuts the connection before anybody is told.
pub(crate) const LOSE: &str = "cratestack_test_lose";
/// The same, and takes no connection until it is told to.
pub(crate) const LEAVE: &str = "cratestack_test_leave";

pub(crate) struct Proxy {
    pub(crate) url: String,
    closed: Arc<AtomicBool>,
}

impl Proxy {
    /// Before the database of `url`.
    pub(crate) async fn before(url: &str) -> Self {
        let (credentials, rest) = url.split_once("://").unwrap().1.rsplit_once('@').unwrap();
        let (server, name) = rest.split_once('/').unwrap();
        let name = name.split('?').next().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let closed = Arc::new(AtomicBool::new(false));
        let (gate, server) = (Arc::clone(&closed), server.to_owned());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if gate.load(Ordering::SeqCst) {
                    continue;
                }
                let (server, gate) = (server.clone(), Arc::clone(&gate));
                tokio::spawn(async move {
                    let Ok(server) = TcpStream::connect(&server).await else { return };
                    // Each message by itself is waited for.
                    let _ = (client.set_nodelay(true), server.set_nodelay(true));
                    let (mut from_client, to_client) = client.into_split();
                    let (from_server, mut to_server) = server.into_split();
                    // Whichever ends takes the other along.
                    tokio::select! {
                        _ = tokio::io::copy(&mut from_client, &mut to_server) => {}
                        _ = answers(from_server, to_client, &gate) => {}
                    }
                });
            }
        });
        let url = format!("postgres://{credentials}@127.0.0.1:{port}/{name}?sslmode=disable");
        Self { url, closed }
    }

    /// Takes connections again.
    pub(crate) fn open(&self) {
        self.closed.store(false, Ordering::SeqCst);
    }
}

/// Passes on what the server says, until the connection is to be cut.
async fn answers(mut server: OwnedReadHalf, mut client: OwnedWriteHalf, gate: &AtomicBool) -> std::io::Result<()> {
    let mut held: Option<Vec<u8>> = None;
    loop {
        let kind = server.read_u8().await?;
        let length = server.read_u32().await?;
        let mut body = vec![0; length as usize - 4];
        server.read_exact(&mut body).await?;
        let says = |what: &str| kind == b'N' && body.windows(what.len()).any(|part| part == what.as_bytes());
        if says(UNPLUG) {
            return Ok(());
        }
        let leaves = says(LEAVE);
        if leaves {
            gate.store(true, Ordering::SeqCst);
        }
        if leaves || says(LOSE) {
            held = Some(Vec::new());
        }
        let mut message = vec![kind];
        message.extend(length.to_be_bytes());
        message.extend(&body);
        match &mut held {
            // The transaction is over.
            Some(_) if kind == b'Z' && body == b"I" => return Ok(()),
            Some(all) if kind == b'Z' => {
                all.extend(message);
                client.write_all(all).await?;
                all.clear();
            }
            Some(all) => all.extend(message),
            None => client.write_all(&message).await?,
        }
    }
}
