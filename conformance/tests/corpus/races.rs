//! Many writers at once, over HTTP.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Mutex;

use cratestack_conformance::MOUNT;
use cratestack_conformance::case::Service;
use cratestack_conformance::client;
use cratestack_conformance::database::{Backend, sqlite_only};
use cratestack_conformance::steps::Request;
use libtest_mimic::{Failed, Trial};

const SCHEMA: &str = "
model Counter {
  id      Int @id
  value   Int
  version Int @version

  @@allow(\"all\", true)
}
";

const WRITERS: usize = 64;
/// Wins that each writer wants before it stops.
const WINS: usize = 3;

pub(crate) fn trials() -> Vec<Trial> {
    Backend::ALL
        .map(|backend| {
            let name = format!("races::one_writer_wins_per_version::{}", backend.word());
            Trial::test(name, move || one_writer_wins_per_version(backend))
                .with_ignored_flag(backend == Backend::Postgres && sqlite_only())
        })
        .into()
}

/// 64 writers on one versioned row: each reads the version, and writes with it until it has won a few times. Exactly
/// one wins per version, the final version counts the wins, and the losers are told 412 and nothing else.
fn one_writer_wins_per_version(backend: Backend) -> Result<(), Failed> {
    let service = Service::start(SCHEMA, backend)?;
    let created = service.send(&request("POST", "/counters", None, Some(r#"{"id": 1, "value": 0}"#)))?;
    assert_eq!(created.status, 201);
    let address = service.address();
    let versions = Mutex::new(BTreeSet::new());
    let failed: Vec<String> = std::thread::scope(|scope| {
        let versions = &versions;
        let spawn = |writer| scope.spawn(move || write(address, writer, versions));
        let writers: Vec<_> = (0..WRITERS).map(spawn).collect();
        writers.into_iter().filter_map(|writer| writer.join().unwrap().err()).collect()
    });
    let last = service.send(&request("GET", "/counters/1", None, None))?;
    service.end();
    assert_eq!(failed, Vec::<String>::new());
    let wins = versions.into_inner().unwrap();
    assert_eq!(wins.len(), WRITERS * WINS);
    let expected = format!("\"{}\"", 1 + WRITERS * WINS);
    assert_eq!(last.header("etag"), Some(expected.as_str()));
    assert_eq!(wins, (2..=1 + WRITERS * WINS).map(|version| format!("\"{version}\"")).collect());
    Ok(())
}

fn write(address: SocketAddr, writer: usize, versions: &Mutex<BTreeSet<String>>) -> Result<(), String> {
    let mut wins = 0;
    let mut value = writer * 1_000_000;
    while wins < WINS {
        let row = client::send(address, &request("GET", "/counters/1", None, None))?;
        let tag = row.header("etag").ok_or("a row without an entity tag")?.to_owned();
        value += 1;
        let patch = format!("{{\"value\": {value}}}");
        let answer = client::send(address, &request("PATCH", "/counters/1", Some(&tag), Some(&patch)))?;
        match answer.status {
            200 => {
                wins += 1;
                let version = answer.header("etag").ok_or("a 200 without an entity tag")?.to_owned();
                if !versions.lock().unwrap().insert(version.clone()) {
                    return Err(format!("{version} was won twice"));
                }
            }
            412 => {}
            status => return Err(format!("{status}: {}", String::from_utf8_lossy(&answer.body))),
        }
    }
    Ok(())
}

fn request(method: &str, path: &str, if_match: Option<&str>, body: Option<&str>) -> Request {
    let mut headers = Vec::new();
    headers.extend(if_match.map(|tag| ("If-Match".to_owned(), tag.to_owned())));
    headers.extend(body.map(|_| ("Content-Type".to_owned(), "application/json".to_owned())));
    let body = body.map(|body| body.as_bytes().to_vec());
    Request { method: method.to_owned(), target: format!("{MOUNT}{path}"), headers, body }
}
