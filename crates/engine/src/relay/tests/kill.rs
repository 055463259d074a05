//! A relay that is killed before and after each of its steps, and within those that have several statements.
//!
//! The relay runs in a child process, which is this test program with [`child`] as its only test. At the point that
//! it was told it says so and stands still; then it gets a SIGKILL, as from `kill -9`, and the next child begins.

use std::collections::{HashMap, HashSet};
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

use super::*;
use crate::sources::{RandomIds, SystemClock};

const DATABASE: &str = "CRATESTACK_TEST_RELAY_DATABASE";
const FILE: &str = "CRATESTACK_TEST_RELAY_FILE";
const KILL_AT: &str = "CRATESTACK_TEST_RELAY_KILL_AT";
const EXPECTED: &str = "CRATESTACK_TEST_RELAY_EXPECTED";
/// How often the sink refuses a poison event.
const REFUSALS: usize = 2;

/// Lines `seq key entry`, or `refused seq`.
struct Lines(std::path::PathBuf);

impl Lines {
    fn read(&self) -> Vec<(i64, String, String)> {
        let text = std::fs::read_to_string(&self.0).unwrap_or_default();
        let line = |line: &str| {
            let mut parts = line.splitn(3, ' ').map(str::to_owned);
            Some((parts.next()?.parse().ok()?, parts.next()?, parts.next()?))
        };
        text.lines().filter_map(line).collect()
    }

    fn delivered(&self) -> usize {
        self.read().into_iter().map(|(seq, ..)| seq).collect::<HashSet<_>>().len()
    }

    fn append(&self, text: &str) {
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(&self.0).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    fn take(&self, events: &[AuditEvent]) -> Result<(), SinkError> {
        for AuditEvent { seq, .. } in events.iter().filter(|event| event.entry.starts_with("poison")) {
            let text = std::fs::read_to_string(&self.0).unwrap_or_default();
            if text.lines().filter(|line| *line == format!("refused {seq}")).count() < REFUSALS {
                self.append(&format!("refused {seq}\n"));
                return Err(SinkError::refused("poison"));
            }
        }
        let line = |event: &AuditEvent| format!("{} {} {}\n", event.seq, event.primary_key, event.entry);
        self.append(&events.iter().map(line).collect::<String>());
        Ok(())
    }
}

fn stand_still() -> ! {
    loop {
        std::thread::park();
    }
}

fn say(line: &str) {
    let mut out = std::io::stdout();
    writeln!(out, "\n{line}").unwrap();
    out.flush().unwrap();
}

/// Relays until all that is expected is in the file, or until the given point.
#[tokio::test]
#[ignore = "started by the tests of this module"]
async fn child() {
    let Ok(database) = std::env::var(DATABASE) else { return };
    let expected: usize = std::env::var(EXPECTED).unwrap().parse().unwrap();
    let kill_at = std::env::var(KILL_AT).unwrap();
    let file = std::path::PathBuf::from(std::env::var(FILE).unwrap());
    let database = match database.strip_prefix("sqlite:") {
        Some(path) => Database::SqliteFile(path.into()),
        None => Database::Postgres(database),
    };
    let options = Options { clock: Arc::new(SystemClock), ids: Arc::new(RandomIds::default()), ..Options::default() };
    let engine = Engine::open(schema(), &database, options).await.unwrap();
    let lines = Lines(file.clone());
    let (idle, comings) = (AtomicUsize::new(0), Mutex::new(HashMap::new()));
    let point = move |step: &'static str, moment: &'static str| {
        match (step, moment) {
            ("sink", _) => idle.store(0, Ordering::SeqCst),
            // Nothing was found twice, and nothing is missing.
            ("due", "after") if idle.fetch_add(1, Ordering::SeqCst) > 0 && lines.delivered() == expected => {
                say("all is done");
                stand_still();
            }
            _ => {}
        }
        let coming = {
            let mut comings = comings.lock().unwrap();
            *comings.entry((step, moment)).and_modify(|coming| *coming += 1).or_insert(0)
        };
        if format!("{moment} {step} {coming}") == kill_at {
            say("here");
            stand_still();
        }
    };
    let hooks = Hooks { point: Some(Arc::new(point)), ..Hooks::default() };
    let lines = Lines(file);
    let sink = Recorder::new(move |events| lines.take(events));
    let options = RelayOptions {
        batch: 3,
        poll: Duration::from_millis(1),
        first_pause: Duration::from_millis(1),
        ..RelayOptions::default()
    };
    let _relay = Relay::start_with(&engine, &AUDIT, sink.into(), &options, &hooks).unwrap();
    std::future::pending::<()>().await;
}

/// Runs a child and kills it; whether it came to that point, and had not done everything before.
fn run_child(database: &str, file: &std::path::Path, kill_at: &str, expected: usize) -> bool {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["relay::tests::kill::child", "--exact", "--ignored", "--nocapture"])
        .env(DATABASE, database)
        .env(FILE, file)
        .env(KILL_AT, kill_at)
        .env(EXPECTED, expected.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let said = lines.find(|line| line == "here" || line == "all is done");
    child.kill().unwrap();
    child.wait().unwrap();
    said.expect("the child ended by itself") == "here"
}

/// Steps, how often a child with enough to do comes to each, and whether they have several statements on SQLite.
const STEPS: &[(&str, usize, bool)] = &[
    ("enrol", 1, false),
    ("take", 3, true),
    ("due", 3, false),
    ("sink", 5, false),
    ("delivered", 3, false),
    ("refused", 1, false),
    ("purge", 1, true),
];

async fn kill_everywhere(base: Base, database: String) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("sink.txt");
    let mut points = Vec::new();
    for (step, comings, several) in STEPS {
        let inside = (*several && base.dialect() == Dialect::Sqlite).then_some("inside");
        for moment in ["before", "after"].into_iter().chain(inside) {
            points.extend((0..*comings).map(|coming| format!("{moment} {step} {coming}")));
        }
    }
    if base.dialect() == Dialect::Postgres {
        points.extend(["before lead 0", "after lead 0"].map(str::to_owned));
    }
    let mut counts: HashMap<&str, usize> = HashMap::new();
    let mut written = 0;
    for kill_at in points.into_iter().chain(["never".to_owned()]) {
        // New work for each child; what its predecessor has left comes on top.
        for keys in [["a", "b", "p", "a"], ["p", "c", "a", "p"]] {
            let mut next = |key: &'static str| {
                let count = counts.entry(key).or_default();
                *count += 1;
                let poison = key == "p" && *count % 3 == 2;
                (key, if poison { format!("poison {count}") } else { count.to_string() })
            };
            let events = keys.map(&mut next);
            let events: Vec<(&str, &str)> = events.iter().map(|(key, entry)| (*key, entry.as_str())).collect();
            base.log(&events).await;
            written += events.len();
        }
        let (database, file, at) = (database.clone(), file.clone(), kill_at.clone());
        let run = tokio::task::spawn_blocking(move || run_child(&database, &file, &at, written));
        assert_eq!(soon(run).await.unwrap(), kill_at != "never", "{kill_at}");
    }
    let mut seen = HashSet::new();
    let mut keys: HashMap<String, Vec<usize>> = HashMap::new();
    for (seq, key, entry) in Lines(file).read() {
        if seen.insert(seq) {
            keys.entry(key).or_default().push(entry.trim_start_matches("poison ").parse().unwrap());
        }
    }
    assert_eq!(seen.len(), written);
    for (key, count) in counts {
        assert_eq!(keys[key], (1..=count).collect::<Vec<_>>(), "{key}");
    }
    let status = base.status().await;
    assert_eq!((status.pending, status.dead, status.skipped), (0, 0, Some(0)));
}

#[tokio::test]
async fn sqlite() {
    let base = Base::new(Dialect::Sqlite).await.unwrap();
    let path = base.directory.as_ref().unwrap().path().join("test.db");
    kill_everywhere(base, format!("sqlite:{}", path.display())).await;
}

#[tokio::test]
async fn postgres() {
    let Some(base) = Base::new(Dialect::Postgres).await else { return };
    let url = base.postgres.as_ref().unwrap().url.clone();
    kill_everywhere(base, url).await;
}
