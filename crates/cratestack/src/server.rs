//! A server for HTTP/1.1 and HTTP/2 in which everything has a bound: connections, heads, idle time, and the time that
//! a shutdown takes.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request};
use axum::response::Response;
use cratestack_engine::api::Code;
use futures_util::future::Either;
use http::{HeaderMap, HeaderValue, Version, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tower::util::Oneshot;
use tower::{Service, ServiceExt as _};

use crate::answer::sent;
use crate::config::ServerConfig;
use crate::crypto::CryptoError;
use crate::headers::{X_REQUEST_ID, host_fault, request_id};
use crate::problem::Problem;
use crate::tls::{ClientCertificate, Tls, explained};

/// Octets of a head that hyper reads before it gives up with a 431 of its own: the longest URL that it takes (64 KiB),
/// and as much again for header fields. The router's own limits are lower, so that most callers get a problem.
const HEAD_BUFFER: usize = 128 * 1024;
/// Header fields of an HTTP/2 request with its URL, in octets.
const HEADER_LIST: u32 = 128 * 1024;
/// What to wait after `accept` failed for want of file handles or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves a router until `shutdown` completes; then takes no more connections, lets requests under way finish, and
/// closes what is left when [`ServerConfig::drain_timeout`] has passed.
///
/// Handlers find the peer's address as [`ConnectInfo<SocketAddr>`](ConnectInfo), and over mTLS its
/// [`ClientCertificate`].
///
/// # Errors
/// With [`ServerConfig::require_fips`], before anything is accepted, when the crypto is not that of the validated module. A
/// connection's failure is its own, and failures to accept are waited out.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    config: ServerConfig,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    if config.require_fips {
        let refused = |error: CryptoError| io::Error::other(format!("{error}; {}", error.help()));
        crate::crypto::install_fips_crypto_provider().map_err(refused)?;
        config.tls.as_ref().map_or(Ok(()), Tls::check_fips).map_err(refused)?;
    }
    let slots = Arc::new(Semaphore::new(config.connections));
    let drain_timeout = config.drain_timeout;
    let host =
        Arc::new(Host { builder: builder(&config), router, config, started: Instant::now(), told: AtomicU64::new(0) });
    let draining = watch::Sender::new(false);
    let mut connections = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let next = async {
            // The semaphore is never closed, so that this always gives a slot.
            let slot = Arc::clone(&slots).acquire_owned().await;
            (slot, listener.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            biased;
            () = &mut shutdown => break,
            next = next => next,
        };
        while connections.try_join_next().is_some() {}
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) if is_of_one_connection(&error) => continue,
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Answers are written whole, so that waiting for more to send only delays them.
        let _ = stream.set_nodelay(true);
        let (host, draining) = (Arc::clone(&host), draining.subscribe());
        connections.spawn(async move {
            host.connection(stream, peer, draining).await;
            drop(slot);
        });
    }
    drop(listener);
    drain(&draining, connections, drain_timeout).await;
    Ok(())
}

/// What all connections share.
struct Host {
    builder: Builder<TokioExecutor>,
    router: Router,
    config: ServerConfig,
    started: Instant,
    /// The second since then in which a refused certificate was last told, counted from 1.
    told: AtomicU64,
}

/// Who is at the other end, and what tells that a connection is to end.
struct Peer {
    address: SocketAddr,
    certificate: Option<ClientCertificate>,
    draining: watch::Receiver<bool>,
    /// Grows when the certificates are read again; `None` where nobody has shown one.
    generation: Option<watch::Receiver<u64>>,
}

impl Peer {
    /// Completes when no further request is to be taken.
    async fn ended(&self) {
        let mut draining = self.draining.clone();
        let renewed = async {
            match self.generation.clone() {
                Some(mut generation) => generation.changed().await.is_ok(),
                None => std::future::pending().await,
            }
        };
        // The sender is gone when the server is.
        tokio::select! {
            _ = draining.wait_for(|draining| *draining) => {}
            _ = renewed => {}
        }
    }

    /// Whether the certificate may have been revoked since it was shown.
    fn is_stale(&self) -> bool {
        self.generation.as_ref().is_some_and(|generation| generation.has_changed().unwrap_or(true))
    }
}

impl Host {
    async fn connection(&self, stream: TcpStream, address: SocketAddr, draining: watch::Receiver<bool>) {
        let idle = self.config.idle_timeout;
        let mut peer = Peer { address, certificate: None, draining, generation: None };
        let Some(tls) = &self.config.tls else {
            return self.exchange(Watched::new(stream, idle), peer).await;
        };
        let secured = tokio::select! {
            biased;
            () = peer.ended() => return,
            secured = tokio::time::timeout(self.config.handshake_timeout, self.secure(tls, stream)) => secured,
        };
        match secured {
            Ok(Ok(Some((stream, certificate, generation)))) => {
                peer.generation = certificate.is_some().then_some(generation);
                peer.certificate = certificate;
                self.exchange(*stream, peer).await;
            }
            Ok(Ok(None)) => {}
            Ok(Err(error)) => self.failed(address, &error),
            Err(_) => tracing::info!(peer = %address, error = "too slow", "TLS handshake failed"),
        }
    }

    /// The handshake. `None` when that was no TLS, and the caller has been told.
    async fn secure(&self, tls: &Tls, mut stream: TcpStream) -> io::Result<Option<Secured>> {
        let mut first = [0];
        // Nothing at all is left to the handshake, whose error says so.
        if stream.peek(&mut first).await? > 0 && first != [HANDSHAKE] {
            return self.misdirected(&mut stream).await.map(|()| None);
        }
        let (config, generation) = tls.current();
        let stream = TlsAcceptor::from(config).accept(Watched::new(stream, self.config.idle_timeout)).await?;
        let certificate = match stream.get_ref().1.peer_certificates().and_then(<[_]>::first) {
            Some(der) => {
                let certificate = ClientCertificate::parse(der);
                Some(certificate.ok_or_else(|| io::Error::other("a certificate is malformed"))?)
            }
            None => None,
        };
        Ok(Some((Box::new(stream), certificate, generation)))
    }

    /// Tells whoever speaks HTTP where TLS is spoken, in HTTP/1.1 and without listening. All of it is inside of the time of a
    /// handshake: nobody has shown a certificate here.
    async fn misdirected(&self, stream: &mut TcpStream) -> io::Result<()> {
        let mut head = [0; 4096];
        let _ = stream.read(&mut head).await?;
        let problem = Problem::bad_request("this port speaks TLS: use `https`");
        let id = request_id(&HeaderMap::new());
        problem.log(&id);
        let body = problem.json(&self.config.problem_base, &id);
        let answer = format!(
            "HTTP/1.1 400 Bad Request\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\n\
             x-request-id: {id}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await?;
        // What is unread when a connection is closed takes the answer with it.
        while stream.read(&mut head).await? > 0 {}
        Ok(())
    }

    /// Notes a failed handshake. That a certificate was refused is for whoever runs the service; once a second, since anybody
    /// can make it happen.
    fn failed(&self, address: SocketAddr, error: &io::Error) {
        use rustls::Error::{InvalidCertificate, NoCertificatesPresented};
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        let Some(refused @ (InvalidCertificate(_) | NoCertificatesPresented)) = inner else {
            tracing::info!(peer = %address, %error, "TLS handshake failed");
            return;
        };
        let (now, why) = (self.started.elapsed().as_secs() + 1, explained(refused));
        if self.told.swap(now, Ordering::Relaxed) == now {
            tracing::info!(peer = %address, why, "a client was refused");
        } else {
            tracing::warn!(peer = %address, why, "a client was refused");
        }
    }

    /// Serves the requests of one connection, until it ends or is to end; those under way have the time of a shutdown then.
    async fn exchange<S>(&self, stream: S, peer: Peer)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let service = service_fn(|request: Request<Incoming>| self.answer(request, &peer));
        let mut connection = std::pin::pin!(self.builder.serve_connection(TokioIo::new(stream), service));
        let outcome = tokio::select! {
            biased;
            outcome = connection.as_mut() => Some(outcome),
            () = peer.ended() => None,
        };
        let outcome = if let Some(outcome) = outcome {
            outcome
        } else {
            connection.as_mut().graceful_shutdown();
            // A peer that takes no answers, or does not confirm the end of HTTP/2, must not stay for ever.
            match tokio::time::timeout(self.config.drain_timeout, connection).await {
                Ok(outcome) => outcome,
                Err(elapsed) => Err(elapsed.into()),
            }
        };
        if let Err(error) = outcome {
            tracing::debug!(peer = %peer.address, error, "connection failed");
        }
    }

    fn answer(
        &self,
        request: Request<Incoming>,
        peer: &Peer,
    ) -> Either<Ready<Result<Response, Infallible>>, Oneshot<Router, Request>> {
        let refused = if let Some(fault) = host_fault(request.version(), request.uri(), request.headers()) {
            Some(Problem::bad_request(fault))
        } else if peer.is_stale() {
            // No 401: most callers are who they were, and have only to show it once more.
            Some(ended("the certificates were read again: connect anew"))
        } else if request.version() == Version::HTTP_2 && *peer.draining.borrow() {
            // HTTP/2 takes new requests until the peer has confirmed the end, which is the peer's to do.
            Some(ended("the service is ending"))
        } else {
            None
        };
        if let Some(problem) = refused {
            return Either::Left(ready(Ok(refuse(problem, request.headers(), &self.config.problem_base))));
        }
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo(peer.address));
        if let Some(certificate) = &peer.certificate {
            request.extensions_mut().insert(certificate.clone());
        }
        Either::Right(self.router.clone().oneshot(request))
    }
}

/// The 503 of a request that came after the end of its connection. Nothing of it was done.
fn ended(why: &'static str) -> Problem {
    Problem::new(Code::Unavailable, why).with(header::RETRY_AFTER, HeaderValue::from_static("1"))
}

/// A connection with TLS, the client's certificate, and what tells that the certificates were read again.
type Secured = (Box<TlsStream<Watched<TcpStream>>>, Option<ClientCertificate>, watch::Receiver<u64>);

/// The first octet of every TLS connection: a record of the handshake.
const HANDSHAKE: u8 = 22;

/// Refuses a request before any router sees it. Who does not name its host as it must may not see requests begin and end
/// where this server does, so that nothing more is read from the connection.
fn refuse(problem: Problem, headers: &HeaderMap, problem_base: &str) -> Response {
    let request_id = request_id(headers);
    problem.log(&request_id);
    let mut response = sent(problem.into_response(problem_base, &request_id));
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    if let Ok(id) = HeaderValue::try_from(request_id) {
        response.headers_mut().insert(X_REQUEST_ID, id);
    }
    response
}

async fn drain(draining: &watch::Sender<bool>, mut connections: JoinSet<()>, timeout: Duration) {
    while connections.try_join_next().is_some() {}
    tracing::info!(open = connections.len(), "shutting down");
    draining.send_replace(true);
    let all = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(timeout, all).await.is_err() {
        tracing::warn!(open = connections.len(), "closing connections whose requests did not finish in time");
        connections.shutdown().await;
    }
}

fn builder(config: &ServerConfig) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    // Answers are small: head and body in one buffer cost less than a vectored write.
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(config.header_timeout)
        .max_buf_size(HEAD_BUFFER)
        .writev(false);
    // No pings: they would keep idle connections from being noticed.
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(config.streams).max_header_list_size(HEADER_LIST);
    builder
}

/// Whether `accept` failed because of the peer.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// A stream that fails once no octet has moved for `idle`: peers that send nothing, and peers that do not take their
/// answers.
struct Watched<S> {
    stream: S,
    idle: Duration,
    moved: Instant,
    timer: Pin<Box<Sleep>>,
}

impl<S> Watched<S> {
    fn new(stream: S, idle: Duration) -> Self {
        let moved = Instant::now();
        Self { stream, idle, moved, timer: Box::pin(tokio::time::sleep_until(moved + idle)) }
    }

    /// Notes progress, or looks at the clock when there is none. The timer is only moved when it fires, so that a busy
    /// stream costs no more than reading the clock.
    fn watch<T>(&mut self, cx: &mut Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            self.moved = Instant::now();
            return poll;
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            let until = self.moved + self.idle;
            if until <= Instant::now() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            self.timer.as_mut().reset(until);
        }
        Poll::Pending
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.watch(cx, poll)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.watch(cx, poll)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.watch(cx, poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A router that can be exchanged while it is served: requests under way finish on the one that they began on.
#[derive(Debug, Clone)]
pub struct Switch {
    current: Arc<RwLock<Router>>,
}

impl Switch {
    /// Begins with `router`.
    pub fn new(router: Router) -> Self {
        Self { current: Arc::new(RwLock::new(router)) }
    }

    /// Lets requests that arrive from now on go to `router`.
    pub fn set(&self, router: Router) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = router;
    }

    /// A router for [`serve`] that passes every request on to the current one.
    pub fn router(&self) -> Router {
        Router::new().fallback_service(self.clone())
    }
}

impl Service<Request> for Switch {
    type Response = Response;
    type Error = Infallible;
    type Future = Oneshot<Router, Request>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let router = self.current.read().unwrap_or_else(PoisonError::into_inner).clone();
        router.oneshot(request)
    }
}

/// What is served while a service cannot work yet, to be [exchanged](Switch) for the service: `/livez` answers as ever,
/// and everything else is a 503 (`unavailable`), at `/readyz` with the sentence of `why`. `problem_base` is that of
/// [`ServerConfig::problem_base`].
pub fn not_ready(problem_base: &str, why: impl Fn() -> String + Clone + Send + Sync + 'static) -> Router {
    let base: Arc<str> = problem_base.into();
    let refuse = move |request: Request| {
        // What is under way is for whoever runs the service.
        let probe = request.uri().path() == "/readyz";
        let (base, detail) = (Arc::clone(&base), if probe { why() } else { "the service is starting".to_owned() });
        async move {
            let problem = Problem::new(Code::Unavailable, detail);
            let problem = problem.with(header::RETRY_AFTER, HeaderValue::from_static("1"));
            problem.refuse(&base, &request_id(request.headers()))
        }
    };
    let live = || async { ([(header::CACHE_CONTROL, "no-store")], axum::Json(serde_json::json!({"status": "live"}))) };
    Router::new().route("/livez", axum::routing::get(live)).fallback(refuse)
}

/// Resolves on SIGTERM or Ctrl-C, to end [`serve`] in good order. Signals count from the call on, not from the first poll.
///
/// # Errors
/// When the process cannot listen for signals, or there is no tokio runtime with IO.
pub fn interrupted() -> std::io::Result<impl Future<Output = ()> + Send + 'static> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupted, mut terminated) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupted.recv() => {}
            _ = terminated.recv() => {}
        }
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;
    use axum::routing::get;
    use tokio::sync::{Notify, oneshot};
    use tokio::task::JoinHandle;

    struct Running {
        addr: SocketAddr,
        stop: oneshot::Sender<()>,
        task: JoinHandle<io::Result<()>>,
    }

    async fn start(router: Router, config: ServerConfig) -> Running {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(serve(listener, router, config, async { stopped.await.unwrap_or_default() }));
        Running { addr, stop, task }
    }

    async fn get_from(stream: &mut TcpStream, path: &str) -> String {
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
        head_and_body(stream).await
    }

    /// Reads until the end of an answer that ends in `!`.
    async fn head_and_body(stream: &mut TcpStream) -> String {
        let mut text = Vec::new();
        while text.last() != Some(&b'!') {
            match stream.read_u8().await {
                Ok(byte) => text.push(byte),
                Err(_) => break,
            }
        }
        String::from_utf8(text).unwrap()
    }

    #[tokio::test]
    async fn connections_are_kept_and_peers_are_known() {
        let peer = get(|ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { format!("{peer}!") });
        let server = start(Router::new().route("/", peer), ServerConfig::default()).await;
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        let own = stream.local_addr().unwrap();
        for _ in 0..3 {
            assert!(get_from(&mut stream, "/").await.ends_with(&format!("{own}!")));
        }
        server.stop.send(()).unwrap();
        server.task.await.unwrap().unwrap();
        assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0, "the idle connection is closed");
    }

    #[tokio::test]
    async fn a_shutdown_waits_for_requests_under_way() {
        let (begun, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let handler = {
            let (begun, go) = (Arc::clone(&begun), Arc::clone(&go));
            get(move || async move {
                begun.notify_one();
                go.notified().await;
                "done!"
            })
        };
        let server = start(Router::new().route("/", handler), ServerConfig::default()).await;
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        let answer = tokio::spawn(async move { get_from(&mut stream, "/").await });
        begun.notified().await;
        server.stop.send(()).unwrap();
        // The listener goes away, and the request does not.
        while TcpStream::connect(server.addr).await.is_ok() {
            tokio::task::yield_now().await;
        }
        assert!(!server.task.is_finished());
        go.notify_one();
        assert!(answer.await.unwrap().ends_with("done!"));
        server.task.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_shutdown_has_an_end() {
        let begun = Arc::new(Notify::new());
        let handler = {
            let begun = Arc::clone(&begun);
            get(move || async move {
                begun.notify_one();
                std::future::pending::<()>().await;
            })
        };
        let config = ServerConfig { drain_timeout: Duration::ZERO, ..ServerConfig::default() };
        let server = start(Router::new().route("/", handler), config).await;
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        begun.notified().await;
        server.stop.send(()).unwrap();
        server.task.await.unwrap().unwrap();
        assert!(matches!(stream.read(&mut [0; 1]).await, Ok(0) | Err(_)));
    }

    #[tokio::test]
    async fn connections_beyond_the_limit_wait() {
        let config = ServerConfig { connections: 1, ..ServerConfig::default() };
        let server = start(Router::new().route("/", get(|| async { "here!" })), config).await;
        let mut first = TcpStream::connect(server.addr).await.unwrap();
        assert!(get_from(&mut first, "/").await.ends_with("here!"));
        let mut second = TcpStream::connect(server.addr).await.unwrap();
        second.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        assert!(get_from(&mut first, "/").await.ends_with("here!"));
        assert!(second.try_read(&mut [0; 1]).is_err(), "not served while the first is open");
        drop(first);
        assert!(head_and_body(&mut second).await.ends_with("here!"));
    }

    #[tokio::test]
    async fn heads_are_bounded() {
        let server = start(Router::new(), ServerConfig::default()).await;
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        let (mut reading, mut writing) = stream.split();
        let head = format!("GET / HTTP/1.1\r\nx: {}", "x".repeat(2 * HEAD_BUFFER));
        let mut answer = vec![0; 12];
        let (_, read) = tokio::join!(writing.write_all(head.as_bytes()), reading.read_exact(&mut answer));
        read.unwrap();
        assert_eq!(answer, b"HTTP/1.1 431");
    }

    #[tokio::test]
    async fn a_request_names_its_host_once() {
        let config = ServerConfig { problem_base: "p:".to_owned(), ..ServerConfig::default() };
        let server = start(Router::new().route("/", get(|| async { "here!" })), config).await;
        let table = [
            ("GET / HTTP/1.1\r\nx-request-id: r1\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nhost: a\r\nHost: a\r\n\r\n", 400),
            ("GET / HTTP/1.0\r\nhost: a\r\nhost: b\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nhost: a b\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\ncontent-length: 5\r\n\r\nhello", 400),
            ("GET / HTTP/1.0\r\n\r\n", 200),
            ("GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n", 200),
        ];
        for (request, status) in table {
            let mut stream = TcpStream::connect(server.addr).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            // To the end: the server closes.
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(answer.split(' ').nth(1) == Some(&status.to_string()), "{request}: {answer}");
            assert_eq!(answer.contains("application/problem+json"), status == 400, "{answer}");
            assert_eq!(answer.contains("\"type\":\"p:bad_request\""), status == 400, "{answer}");
            assert_eq!(answer.contains("x-request-id: r1\r\n"), request.contains("r1"), "{answer}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn idle_streams_end() {
        let idle = Duration::from_secs(90);
        let (near, mut far) = tokio::io::duplex(4);
        let mut near = Watched::new(near, idle);
        let begin = Instant::now();
        let failure = near.read_u8().await.unwrap_err();
        assert_eq!((failure.kind(), begin.elapsed().as_secs()), (io::ErrorKind::TimedOut, 90));
        // Progress in either direction counts.
        let (near, _keep) = tokio::io::duplex(4);
        let mut near = Watched::new(near, idle);
        let begin = Instant::now();
        tokio::time::advance(Duration::from_mins(1)).await;
        near.write_all(b"1234").await.unwrap();
        assert!(near.read_u8().await.is_err());
        assert_eq!(begin.elapsed().as_secs(), 150);
        // So does a peer that never takes its answer.
        assert_eq!(near.write_all(b"5").await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        far.write_all(b"1").await.unwrap();
    }

    #[tokio::test]
    async fn a_switch_changes_what_is_served() {
        let page = |text: &'static str| Router::new().route("/", get(move || async move { text }));
        let switch = Switch::new(page("old!"));
        let server = start(switch.router(), ServerConfig::default()).await;
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        assert!(get_from(&mut stream, "/").await.ends_with("old!"));
        switch.set(page("new!"));
        assert!(get_from(&mut stream, "/").await.ends_with("new!"));
    }
}
