//! Databases for tests: one of its own per test, dropped at the end.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::str::FromStr as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use crate::sql::{Bind, SqlType, Statement, Template};

/// A PostgreSQL database that lives as long as this value.
pub(crate) struct PgDatabase {
    server: PgConnectOptions,
    name: String,
    pub(crate) url: String,
}

impl PgDatabase {
    /// `None` when only SQLite is to be tested; a missing server is a failure, never a silent skip.
    pub(crate) async fn new() -> Option<Self> {
        if std::env::var("CRATESTACK_TEST_ONLY").is_ok_and(|only| only == "sqlite") {
            return None;
        }
        let url = std::env::var("CRATESTACK_TEST_POSTGRES")
            .expect("set CRATESTACK_TEST_POSTGRES to a server's URL, or CRATESTACK_TEST_ONLY=sqlite");
        let server = PgConnectOptions::from_str(&url).unwrap();
        let name = format!("engine_{}", uuid::Uuid::now_v7().simple());
        let mut connection = server.clone().connect().await.unwrap();
        connection.execute(AssertSqlSafe(format!("CREATE DATABASE {name}"))).await.unwrap();
        connection.close().await.unwrap();
        let (base, options) = url.split_once('?').map_or((url.as_str(), None), |(base, options)| (base, Some(options)));
        let (base, _) = base.rsplit_once('/').filter(|(base, _)| base.contains("://")).unwrap();
        let options = options.map(|options| format!("?{options}")).unwrap_or_default();
        Some(Self { server, url: format!("{base}/{name}{options}"), name })
    }

    /// A connection beside the engine's.
    pub(crate) async fn connect(&self) -> PgConnection {
        PgConnectOptions::from_str(&self.url).unwrap().connect().await.unwrap()
    }
}

impl Drop for PgDatabase {
    fn drop(&mut self) {
        let (server, name) = (self.server.clone(), std::mem::take(&mut self.name));
        let drop = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut connection = server.connect().await.unwrap();
                let text = format!("DROP DATABASE {name} WITH (FORCE)");
                connection.execute(AssertSqlSafe(text)).await.unwrap();
            });
        };
        std::thread::spawn(drop).join().unwrap();
    }
}

/// Stands between an engine and PostgreSQL and counts what the client asks an answer for: each `Sync` and each simple
/// `Query` is one round trip.
pub(crate) struct Proxy {
    pub(crate) url: String,
    trips: Arc<AtomicU64>,
}

impl Proxy {
    pub(crate) async fn before(database: &PgDatabase) -> Self {
        let options = PgConnectOptions::from_str(&database.url).unwrap();
        let server = (options.get_host().to_owned(), options.get_port());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let trips = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&trips);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(&server).await.unwrap();
                let (from_client, mut to_client) = client.into_split();
                let (mut from_server, to_server) = server.into_split();
                tokio::spawn(forward(from_client, to_server, Arc::clone(&count)));
                tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
            }
        });
        let authority = database.url.split("://").nth(1).and_then(|rest| rest.split('/').next()).unwrap();
        let credentials = authority.rsplit_once('@').map_or("", |(credentials, _)| credentials);
        let url = format!("postgres://{credentials}@127.0.0.1:{port}/{}?sslmode=disable", database.name);
        Self { url, trips }
    }

    /// Round trips so far.
    pub(crate) fn trips(&self) -> u64 {
        self.trips.load(Ordering::SeqCst)
    }
}

async fn forward(mut client: OwnedReadHalf, mut server: OwnedWriteHalf, trips: Arc<AtomicU64>) -> std::io::Result<()> {
    // The first message has no type.
    let length = client.read_u32().await?;
    let mut rest = vec![0; length as usize - 4];
    client.read_exact(&mut rest).await?;
    server.write_u32(length).await?;
    server.write_all(&rest).await?;
    loop {
        let kind = client.read_u8().await?;
        let length = client.read_u32().await?;
        let mut rest = vec![0; length as usize - 4];
        client.read_exact(&mut rest).await?;
        if matches!(kind, b'S' | b'Q') {
            trips.fetch_add(1, Ordering::SeqCst);
        }
        let mut message = vec![kind];
        message.extend(length.to_be_bytes());
        message.extend(rest);
        server.write_all(&message).await?;
    }
}

/// A statement that returns only control columns.
pub(crate) fn statement(sql: &str, control: &[SqlType], binds: Vec<Bind>) -> Statement {
    Statement { template: Arc::new(Template::fixed(sql, control)), binds }
}

/// Polls a future once; whether it is still pending.
pub(crate) async fn pending<F: Future>(mut future: std::pin::Pin<&mut F>) -> bool {
    std::future::poll_fn(|context| std::task::Poll::Ready(future.as_mut().poll(context).is_pending())).await
}
