//! Cases: where they are, and one run of one of them.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cratestack_engine::Engine;
use cratestack_schema::ir::Schema;

use crate::clock::Seeded;
use crate::database::{Backend, TestDatabase};
use crate::json::Node;
use crate::steps::{Answered, Answers, Before, Request, Script, Step};
use crate::transcript::{Content, Section, Shown, Transcript};
use crate::{client, in_process};

/// A folder of `cases/`.
pub struct Case {
    /// `<area>/<case>`.
    pub name: String,
    /// The folder.
    pub folder: PathBuf,
    /// Text of `schema.cstack`.
    pub schema: String,
    /// `steps.http`.
    pub script: Script,
}

/// How a request reaches the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Over TCP to the facade's server.
    Http,
    /// As an operation.
    InProcess,
    /// Over TCP, each request that changes something with an idempotency key, and twice: the second answer must be the
    /// first one, and everything after it as if it had not been sent.
    Keyed,
}

impl Way {
    /// All.
    pub const ALL: [Self; 3] = [Self::Http, Self::InProcess, Self::Keyed];

    /// For names of tests.
    pub fn word(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::InProcess => "in_process",
            Self::Keyed => "keyed",
        }
    }
}

/// The folder of the corpus.
pub fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("cases")
}

/// Every case, by name.
pub fn cases() -> Result<Vec<Case>, String> {
    let mut cases = Vec::new();
    for area in folders(&corpus())? {
        for folder in folders(&area)? {
            cases.push(Case::load(folder)?);
        }
    }
    Ok(cases)
}

fn folders(parent: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = std::fs::read_dir(parent).map_err(|error| format!("{}: {error}", parent.display()))?;
    let mut folders: Vec<_> = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    folders.sort();
    Ok(folders)
}

impl Case {
    /// The case `<area>/<case>`.
    pub fn named(name: &str) -> Result<Self, String> {
        Self::load(corpus().join(name))
    }

    fn load(folder: PathBuf) -> Result<Self, String> {
        let read = |file: &str| {
            let path = folder.join(file);
            std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))
        };
        let (schema, steps) = (read("schema.cstack")?, read("steps.http")?);
        let script = Script::parse(&steps).map_err(|error| format!("{}/steps.http: {error}", folder.display()))?;
        let name = folder.strip_prefix(corpus()).unwrap_or(&folder).to_string_lossy().into_owned();
        Ok(Self { name, folder, schema, script })
    }

    /// Whether the case is meant for that database.
    pub fn runs_on(&self, backend: Backend) -> bool {
        self.script.backend.as_ref().is_none_or(|(name, _)| name == backend.word())
    }

    /// The ways that its requests can take: keys that are its own subject are not to be joined by others.
    pub fn ways(&self) -> impl Iterator<Item = Way> {
        let key = |(name, _): &(String, String)| name.eq_ignore_ascii_case("idempotency-key");
        let own = self.script.steps.iter().any(|step| step.headers.iter().any(key));
        Way::ALL.into_iter().filter(move |way| *way != Way::Keyed || !own)
    }

    /// The transcript that every run must give.
    pub fn expected(&self) -> Result<String, String> {
        let path = self.snapshot();
        std::fs::read_to_string(&path)
            .map_err(|error| format!("{}: {error}\nUPDATE_EXPECT=1 writes it", path.display()))
    }

    /// The file of the expected transcript.
    pub fn snapshot(&self) -> PathBuf {
        self.folder.join("expected.snap")
    }

    /// Runs the case with a schema, its own or a changed one. The error is a failure of the run, not of an expectation.
    pub fn run(&self, schema: &str, backend: Backend, way: Way) -> Result<Transcript, String> {
        let compiled = compile(schema)?;
        let runtime = runtime()?;
        let mut run = runtime.block_on(Run::start(self, Arc::new(compiled), backend, way))?;
        let outcome = run.steps(&runtime);
        runtime.block_on(run.end(outcome))
    }

    /// An expected transcript as far as that way can be held to it.
    pub fn comparable(&self, transcript: Transcript, way: Way) -> Transcript {
        match way {
            Way::Http | Way::Keyed => transcript,
            Way::InProcess => {
                let left_out: BTreeSet<&str> = self.left_out().collect();
                transcript.in_process(|title| !left_out.contains(title.split(':').next().unwrap_or(title)))
            }
        }
    }

    /// Names of the steps that are not run in process.
    fn left_out(&self) -> impl Iterator<Item = &str> {
        let whole = self.script.http_only.is_some();
        self.script.steps.iter().filter(move |step| whole || step.http_only.is_some()).map(|step| step.name.as_str())
    }
}

/// A case on its way.
struct Run<'c> {
    case: &'c Case,
    schema: Arc<Schema>,
    database: TestDatabase,
    engine: Engine,
    clock: Arc<Seeded>,
    way: Way,
    server: Option<(SocketAddr, tokio::sync::oneshot::Sender<()>)>,
    sections: Vec<Section>,
}

impl<'c> Run<'c> {
    async fn start(case: &'c Case, schema: Arc<Schema>, backend: Backend, way: Way) -> Result<Self, String> {
        let mut database = TestDatabase::new(backend).await;
        database.create(&schema).await;
        let clock = Arc::new(Seeded::default());
        let engine = open(&schema, &database, &clock).await?;
        let server = match way {
            Way::Http | Way::Keyed => Some(serve(engine.clone()).await?),
            Way::InProcess => None,
        };
        Ok(Self { case, schema, database, engine, clock, way, server, sections: Vec::new() })
    }

    fn steps(&mut self, runtime: &tokio::runtime::Runtime) -> Result<(), String> {
        let mut answers = Answers::new();
        for (number, step) in (1..).zip(&self.case.script.steps) {
            self.clock.step(number);
            for before in &step.before {
                match before {
                    Before::Advance(seconds) => self.clock.advance(*seconds),
                    Before::Sql(sql) => {
                        let outcome = runtime.block_on(self.database.execute(sql));
                        let title = format!("sql: {sql}");
                        self.sections.push(Section { title, content: Content::Lines(vec![outcome]) });
                    }
                }
            }
            let left_out = step.http_only.is_some() || self.case.script.http_only.is_some();
            if left_out && self.way == Way::InProcess {
                continue;
            }
            let fail = |error: String| format!("line {}: step `{}`: {error}", step.line, step.name);
            let request = step.request(&self.case.script, &answers).map_err(fail)?;
            let (answered, shown) = self.step(runtime, step, request.clone()).map_err(fail)?;
            answers.insert(step.name.clone(), answered);
            let title = format!("{}: {} {}", step.name, request.method, short(&request.target));
            self.sections.push(Section { title, content: Content::Answer(shown) });
        }
        for table in &self.case.script.tables {
            let lines = runtime.block_on(self.database.dump(&self.schema, table))?;
            self.sections.push(Section { title: format!("table {table}"), content: Content::Lines(lines) });
        }
        for table in &self.case.script.indexes {
            let lines = runtime.block_on(self.database.indexes(table));
            self.sections.push(Section { title: format!("indexes of {table}"), content: Content::Lines(lines) });
        }
        if self.case.script.trail {
            let lines = runtime.block_on(self.database.trail(&self.schema));
            self.sections.push(Section { title: "trail".to_owned(), content: Content::Lines(lines) });
        }
        if self.case.script.outbox {
            let lines = runtime.block_on(self.database.outbox(&self.schema));
            self.sections.push(Section { title: "outbox".to_owned(), content: Content::Lines(lines) });
        }
        Ok(())
    }

    fn step(
        &mut self,
        runtime: &tokio::runtime::Runtime,
        step: &Step,
        mut request: Request,
    ) -> Result<(Answered, Shown), String> {
        let Some((address, _)) = &self.server else {
            let shown = runtime
                .block_on(in_process::run(&self.engine, &request, &step.name))
                .map_err(|reason| format!("no operation: {}; declare it `# @http-only reason`", reason.0))?;
            let headers = shown.headers.iter().map(|(name, value)| (name.to_lowercase(), value.clone())).collect();
            return Ok((Answered { headers, body: Node::parse(&shown.raw) }, shown));
        };
        if !request.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("x-request-id")) {
            request.headers.push(("X-Request-Id".to_owned(), step.name.clone()));
        }
        let keyed = self.way == Way::Keyed && give_key(&mut request, &step.name);
        let response = client::send(*address, &request)?;
        // All of whose items the rules refuse outright: nothing was done, and nothing is kept.
        let idle = response.status == 207 && !String::from_utf8_lossy(&response.body).contains("\"status\":2");
        if keyed && (200..300).contains(&response.status) && !idle {
            same_again(&response, &client::send(*address, &request)?)?;
        }
        let shown = Shown::new(response.status, &response.headers, &response.body, &self.case.script.show);
        Ok((Answered { headers: response.headers, body: Node::parse(&shown.raw) }, shown))
    }

    async fn end(mut self, outcome: Result<(), String>) -> Result<Transcript, String> {
        if self.way == Way::Keyed {
            self.sections.iter_mut().for_each(|section| forget_keys(&mut section.content));
        }
        if let Some((_, stop)) = self.server {
            let _already_gone = stop.send(());
        }
        self.engine.close().await;
        self.database.remove().await;
        outcome.map(|()| Transcript { sections: self.sections })
    }
}

/// Adds a key to a request that changes something, unless it has one.
fn give_key(request: &mut Request, key: &str) -> bool {
    let has = request.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("idempotency-key"));
    let changes = matches!(request.method.as_str(), "POST" | "PATCH" | "DELETE") && !has;
    if changes {
        request.headers.push(("Idempotency-Key".to_owned(), format!("key-of-{key}")));
    }
    changes
}

/// What other ways have where these keys are: none.
fn forget_keys(content: &mut Content) {
    let forget = |text: &mut String| {
        while let Some((before, rest)) = text.split_once("\"key-of-") {
            let after = rest.split_once('"').map_or("", |(_, after)| after);
            *text = format!("{before}null{after}");
        }
    };
    match content {
        Content::Answer(shown) => forget(&mut shown.body),
        Content::Lines(lines) => lines.iter_mut().for_each(forget),
    }
}

/// That the second answer is the first one.
fn same_again(first: &client::Response, second: &client::Response) -> Result<(), String> {
    const KEPT: [&str; 7] =
        ["content-type", "content-language", "content-location", "location", "etag", "last-modified", "link"];
    if second.header("idempotent-replayed") != Some("true") {
        return Err(format!("the second request with the key was not answered with a replay, but {}", second.status));
    }
    let same = first.status == second.status
        && first.body == second.body
        && KEPT.iter().all(|name| first.header(name) == second.header(name));
    if same { Ok(()) } else { Err(format!("the replay differs:\n{first:?}\n{second:?}")) }
}

/// A schema served over HTTP on a database of its own, for tests that are no cases.
pub struct Service {
    runtime: tokio::runtime::Runtime,
    database: TestDatabase,
    engine: Engine,
    address: SocketAddr,
    clock: Arc<Seeded>,
    stop: tokio::sync::oneshot::Sender<()>,
}

impl Service {
    /// Compiles, makes the tables, and serves.
    pub fn start(schema: &str, backend: Backend) -> Result<Self, String> {
        let schema = Arc::new(compile(schema)?);
        let runtime = runtime()?;
        let clock = Arc::new(Seeded::default());
        let (database, engine, address, stop) = runtime.block_on(async {
            let mut database = TestDatabase::new(backend).await;
            database.create(&schema).await;
            let engine = open(&schema, &database, &clock).await?;
            let (address, stop) = serve(engine.clone()).await?;
            Ok::<_, String>((database, engine, address, stop))
        })?;
        Ok(Self { runtime, database, engine, address, clock, stop })
    }

    /// Sets clock and ids to those of a step.
    pub fn step(&self, number: u64) {
        self.clock.step(number);
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends one request.
    pub fn send(&self, request: &Request) -> Result<client::Response, String> {
        client::send(self.address, request)
    }

    /// Runs a statement past the engine.
    pub fn execute(&mut self, sql: &str) -> String {
        self.runtime.block_on(self.database.execute(sql))
    }

    /// The events of the audit trail ([`TestDatabase::trail`]).
    pub fn trail(&mut self) -> Vec<String> {
        self.runtime.block_on(self.database.trail(self.engine.schema()))
    }

    /// Stops, and removes the database.
    pub fn end(self) {
        let _already_gone = self.stop.send(());
        self.runtime.block_on(async {
            self.engine.close().await;
            self.database.remove().await;
        });
    }
}

fn compile(schema: &str) -> Result<Schema, String> {
    let (compiled, found) = cratestack_schema::compile("schema", schema);
    compiled.ok_or_else(|| {
        let found: Vec<_> = found.iter().map(|one| one.message.clone()).collect();
        format!("the schema does not compile: {}", found.join("; "))
    })
}

fn runtime() -> Result<tokio::runtime::Runtime, String> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    runtime.map_err(|error| error.to_string())
}

async fn open(schema: &Arc<Schema>, database: &TestDatabase, clock: &Arc<Seeded>) -> Result<Engine, String> {
    Engine::open(Arc::clone(schema), &database.database(), clock.options())
        .await
        .map_err(|error| format!("the engine does not open: {error:?}"))
}

/// The facade's own server on a free port, mounted and authenticated as `dev` does.
async fn serve(engine: Engine) -> Result<(SocketAddr, tokio::sync::oneshot::Sender<()>), String> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.map_err(|error| error.to_string())?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    let router = cratestack::router(engine, cratestack::NoProcedures).auth(cratestack::DevAuth::new()).into_service();
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let shutdown = async move {
        let _dropped_is_as_good = stopped.await;
    };
    tokio::spawn(cratestack::serve(listener, router, cratestack::ServerConfig::default(), shutdown));
    Ok((address, stop))
}

/// A target for the transcript: cursors masked, not too long.
fn short(target: &str) -> String {
    let target = match target.split_once("cursor=") {
        Some((before, after)) if after.len() > 40 => {
            let end = after.find('&').unwrap_or(after.len());
            format!("{before}cursor=<cursor>{}", &after[end..])
        }
        _ => target.to_owned(),
    };
    match target.char_indices().nth(200) {
        Some((at, _)) => format!("{}.. ({} characters)", &target[..at], target.chars().count()),
        None => target,
    }
}
