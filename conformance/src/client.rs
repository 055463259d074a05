//! A small HTTP/1.1 client: it sends exactly what a case says, well-formed or not.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::steps::Request;

/// An answer as it came.
#[derive(Debug, Clone, Default)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Response {
    /// The value of a header, named in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }
}

/// Sends one request on a connection of its own.
pub fn send(address: SocketAddr, request: &Request) -> Result<Response, String> {
    let mut stream = TcpStream::connect(address).map_err(|error| format!("no connection: {error}"))?;
    let patience = Some(Duration::from_mins(1));
    stream.set_read_timeout(patience).and_then(|()| stream.set_write_timeout(patience)).map_err(|e| e.to_string())?;
    let mut head = format!("{} {} HTTP/1.1\r\nConnection: close\r\n", request.method, request.target);
    let mut field = |name: &str, value: &str| head.push_str(&format!("{name}: {value}\r\n"));
    let has = |name: &str| request.headers.iter().any(|(other, _)| other.eq_ignore_ascii_case(name));
    if !has("host") {
        field("Host", &address.to_string());
    }
    request.headers.iter().for_each(|(name, value)| field(name, value));
    let empty = Vec::new();
    let body = request.body.as_ref().unwrap_or(&empty);
    if !has("content-length") && !has("transfer-encoding") && (request.body.is_some() || request.method != "GET") {
        field("Content-Length", &body.len().to_string());
    }
    head.push_str("\r\n");
    // A server may answer and close before it has read everything (413, 431): the answer still counts.
    let sent = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
    let mut bytes = Vec::new();
    let received = stream.read_to_end(&mut bytes);
    parse(&bytes, request.method == "HEAD")
        .ok_or_else(|| format!("no HTTP answer; sent: {sent:?}, received: {received:?}, {} bytes", bytes.len()))
}

fn parse(bytes: &[u8], head_only: bool) -> Option<Response> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let (head, body) = bytes.split_at_checked(end + 4)?;
    let head = String::from_utf8_lossy(head);
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let header = |name: &str| headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str());
    let body = if head_only {
        Vec::new()
    } else if header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
        unchunk(body)?
    } else if let Some(length) = header("content-length") {
        body.get(..length.parse().ok()?)?.to_vec()
    } else {
        body.to_vec()
    };
    Some(Response { status, headers, body })
}

fn unchunk(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    loop {
        let end = rest.windows(2).position(|window| window == b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(rest.get(..end)?).ok()?.trim(), 16).ok()?;
        rest = rest.get(end + 2..)?;
        if size == 0 {
            return Some(out);
        }
        out.extend_from_slice(rest.get(..size)?);
        rest = rest.get(size + 2..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn bodies_are_framed() {
        let plain = parse(b"HTTP/1.1 200 OK\r\nETag: \"1\"\r\nContent-Length: 2\r\n\r\nhi", false).unwrap();
        assert_eq!((plain.status, plain.body.as_slice()), (200, b"hi".as_slice()));
        assert_eq!(plain.headers[0], ("etag".to_owned(), "\"1\"".to_owned()));
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n1\r\n!\r\n0\r\n\r\n";
        assert_eq!(parse(chunked, false).unwrap().body, b"hi!");
        assert!(parse(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi", false).is_none(), "cut short");
    }
}
