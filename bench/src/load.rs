//! A closed-loop load: a fixed number of HTTP/1.1 connections, each sending its next request when the last one was
//! answered. It shares the machine with what it measures, so it does as little as it can.

use std::io::{Error, ErrorKind};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// What a run gave.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Figures {
    /// Answers per second.
    pub(crate) rate: f64,
    /// Median latency.
    pub(crate) p50: Duration,
    /// 99th percentile.
    pub(crate) p99: Duration,
}

impl Figures {
    /// From the latencies of a run.
    pub(crate) fn of(mut latencies: Vec<Duration>, elapsed: Duration) -> Self {
        latencies.sort_unstable();
        let at = |part: usize| latencies.get(latencies.len() * part / 100).copied().unwrap_or_default();
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52 answers")]
        let rate = latencies.len() as f64 / elapsed.as_secs_f64();
        Self { rate, p50: at(50), p99: at(99) }
    }
}

/// One client: makes its next request from the answer before it.
pub(crate) trait Client: Send + 'static {
    /// Writes the request's octets behind `out`, which is empty.
    fn request(&mut self, out: &mut Vec<u8>);
    /// Sees status, head and body; an error ends the benchmark.
    fn answer(&mut self, status: u16, head: &[u8], body: &[u8]) -> Result<(), String>;
}

/// The value of a field in the head of an answer.
pub(crate) fn field<'h>(head: &'h [u8], name: &str) -> Option<&'h str> {
    head.split(|octet| *octet == b'\n').find_map(|line| {
        let (found, value) = line.split_at_checked(name.len())?;
        let value = found.eq_ignore_ascii_case(name.as_bytes()).then(|| value.strip_prefix(b":"))??;
        std::str::from_utf8(value).ok().map(str::trim)
    })
}

/// Runs the clients, one connection each, for `time` after `warm_up`.
pub(crate) async fn run<C: Client>(
    address: SocketAddr,
    clients: Vec<C>,
    warm_up: Duration,
    time: Duration,
) -> Result<Figures, Error> {
    let start = Instant::now();
    let (from, until) = (start + warm_up, start + warm_up + time);
    let mut set = JoinSet::new();
    for client in clients {
        set.spawn(drive(address, client, from, until));
    }
    let mut latencies = Vec::new();
    while let Some(done) = set.join_next().await {
        latencies.extend(done.map_err(Error::other)??);
    }
    Ok(Figures::of(latencies, time))
}

async fn drive<C: Client>(
    address: SocketAddr,
    mut client: C,
    from: Instant,
    until: Instant,
) -> Result<Vec<Duration>, Error> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut latencies = Vec::new();
    let (mut request, mut buffer) = (Vec::new(), Vec::with_capacity(64 * 1024));
    loop {
        let start = Instant::now();
        if start >= until {
            return Ok(latencies);
        }
        request.clear();
        client.request(&mut request);
        stream.write_all(&request).await?;
        buffer.clear();
        let (status, head, end) = answer(&mut stream, &mut buffer).await?;
        let elapsed = start.elapsed();
        let (head, body) = buffer.get(..end).and_then(|all| all.split_at_checked(head)).unwrap_or_default();
        client.answer(status, head, body).map_err(Error::other)?;
        if start >= from {
            latencies.push(elapsed);
        }
    }
}

/// Reads one answer with a `Content-Length`: status, where the body starts, where it ends.
async fn answer(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<(u16, usize, usize), Error> {
    let (mut seen, mut ends) = (0, None);
    loop {
        if stream.read_buf(buffer).await? == 0 {
            return Err(Error::new(ErrorKind::UnexpectedEof, "the service closed the connection"));
        }
        if ends.is_none() {
            let new = buffer.get(seen..).unwrap_or_default();
            if let Some(at) = new.windows(4).position(|window| window == b"\r\n\r\n") {
                let body = seen + at + 4;
                let head = buffer.get(..body).unwrap_or_default();
                let status = head.get(9..12).and_then(|status| std::str::from_utf8(status).ok()?.parse().ok());
                let status: u16 = status.ok_or_else(|| Error::new(ErrorKind::InvalidData, "no status line"))?;
                let length: usize = field(head, "content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
                ends = Some((status, body, body + length));
            }
            seen = buffer.len().saturating_sub(3);
        }
        if let Some((status, head, end)) = ends
            && buffer.len() >= end
        {
            return Ok((status, head, end));
        }
    }
}
