//! PostgreSQL at a distance: a proxy that hands every octet on a while after it came, in both directions.
//!
//! Threads and not tasks, since the timer of the runtime counts in milliseconds.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

/// Octets that are read at once.
const CHUNK: usize = 64 * 1024;

/// Where the server behind `server` is `way` farther away, each way. The proxy lives as long as the process.
pub(crate) fn away(server: SocketAddr, way: Duration) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for near in listener.incoming().map_while(Result::ok) {
            // Who cannot be connected is hung up on.
            let _ = connect(near, server, way);
        }
    });
    Ok(address)
}

fn connect(near: TcpStream, server: SocketAddr, way: Duration) -> std::io::Result<()> {
    let far = TcpStream::connect(server)?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    carry(near.try_clone()?, far.try_clone()?, way);
    carry(far, near, way);
    Ok(())
}

fn carry(from: TcpStream, to: TcpStream, way: Duration) {
    let (sender, receiver) = channel();
    thread::spawn(move || collect(from, way, &sender));
    thread::spawn(move || deliver(to, &receiver));
}

fn collect(mut from: TcpStream, way: Duration, sender: &Sender<(Instant, Vec<u8>)>) {
    let mut buffer = vec![0; CHUNK];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let octets = buffer.get(..count).unwrap_or_default().to_vec();
        if sender.send((Instant::now() + way, octets)).is_err() {
            return;
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the distance is a time")]
fn deliver(mut to: TcpStream, receiver: &Receiver<(Instant, Vec<u8>)>) {
    while let Ok((due, octets)) = receiver.recv() {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if to.write_all(&octets).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Both);
}
