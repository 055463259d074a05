//! Every operation with every fault at every point.

use std::sync::Arc;

use tokio::time::{Instant, timeout_at};

use crate::database::{CONNECTED, Database, WAITING};
use crate::operations::{OPERATIONS, Operation, filled, request};
use crate::proxy::{LEAVE, LOSE, UNPLUG};
use crate::service::{Answer, LONG, Request, SETTINGS, Service, Settings};

/// What is done to a request.
#[derive(Debug, Clone, Copy, PartialEq)]
enum How {
    /// A fault in the service, so many times.
    Service(&'static str, u32),
    /// A fault in a trigger of PostgreSQL, so many times.
    Database(&'static str, i64),
    /// A trigger of PostgreSQL waits while the service is killed by SIGKILL. The database notices.
    Killed,
    /// The same, and the database goes on with what it was asked for.
    Orphaned,
    /// The caller asks, and goes away.
    HungUp,
    /// The service is killed by SIGKILL when it has answered.
    KilledAfterwards,
}

/// What its caller gets of it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum First {
    /// The answer, as if nothing were.
    Answer,
    /// That it failed.
    Failure,
    /// Nothing.
    Nothing,
}

/// Whether it has its effect.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Effect {
    None,
    Done,
    Unknown,
}

struct Fault {
    point: &'static str,
    kind: &'static str,
    how: How,
    first: First,
    effect: Effect,
}

const fn fault(point: &'static str, kind: &'static str, how: How, first: First, effect: Effect) -> Fault {
    Fault { point, kind, how, first, effect }
}

/// Those of the triggers on PostgreSQL: before and after the rows are written, when their trail and the record are, and when all is
/// committed.
pub(crate) const POINTS: [&str; 5] = ["checked", "written", "audited", "recorded", "committing"];

/// What is in the way every time.
const ALWAYS: i64 = 1000;

/// In the service, on both databases.
fn in_service() -> Vec<Fault> {
    let mut all = Vec::new();
    for point in ["claimed", "locked", "body", "presented", "committed"] {
        let effect = if point == "committed" { Effect::Done } else { Effect::None };
        for (kind, first) in [("error", First::Failure), ("panic", First::Failure), ("kill", First::Nothing)] {
            all.push(fault(point, kind, How::Service(kind, 1), first, effect));
        }
    }
    all.push(fault("claimed", "hung up", How::HungUp, First::Nothing, Effect::Unknown));
    all.push(fault("answered", "killed", How::KilledAfterwards, First::Answer, Effect::Done));
    all
}

/// In triggers of PostgreSQL, and between it and the service.
fn in_postgres() -> Vec<Fault> {
    let mut all = Vec::new();
    for point in POINTS {
        all.extend([
            fault(point, "error", How::Database("state XX000", 1), First::Failure, Effect::None),
            fault(point, "no space", How::Database("state 53100", 1), First::Failure, Effect::None),
            fault(point, "serialization failure", How::Database("state 40001", 1), First::Answer, Effect::Done),
            fault(point, "terminated", How::Database("terminate", 1), First::Answer, Effect::Done),
            fault(point, "terminated always", How::Database("terminate", ALWAYS), First::Failure, Effect::None),
            fault(point, "unplugged", How::Database(UNPLUG, 1), First::Answer, Effect::Done),
            fault(point, "killed", How::Killed, First::Nothing, Effect::None),
            fault(point, "killed, and the database goes on", How::Orphaned, First::Nothing, Effect::Unknown),
        ]);
    }
    all.push(fault("recorded", "acknowledged and lost", How::Database(LOSE, 1), First::Answer, Effect::Done));
    let gone = "acknowledged and lost, and then no connection";
    all.push(fault("recorded", gone, How::Database(LEAVE, 1), First::Failure, Effect::Done));
    all
}

/// In triggers of SQLite.
fn in_sqlite() -> Vec<Fault> {
    let mut all = Vec::new();
    for point in ["at-checked", "at-written", "at-audited", "at-recorded"] {
        for (kind, word) in [
            ("error", "error"),
            ("panic", "panic"),
            ("abort", "1"),
            ("fail", "2"),
            ("rollback", "3"),
            ("no space", "full"),
        ] {
            all.push(fault(point, kind, How::Service(word, 1), First::Failure, Effect::None));
        }
        all.push(fault(point, "killed", How::Service("kill", 1), First::Nothing, Effect::None));
    }
    all.push(fault("at-committing", "error", How::Service("1", 1), First::Failure, Effect::None));
    all
}

/// Whether an operation comes by a point.
pub(crate) fn reaches(operation: &Operation, point: &str, postgres: bool) -> bool {
    match point.trim_start_matches("at-") {
        // What a constraint refuses is the answer of a procedure, and recorded.
        "committing" if !postgres => !operation.body,
        "checked" | "written" | "audited" => operation.table.is_some(),
        "locked" | "presented" => !(postgres && operation.statement),
        "body" => operation.body,
        _ => true,
    }
}

pub(crate) struct House {
    pub(crate) database: Database,
    pub(crate) service: Service,
    number: u64,
    /// Whether of most answers only the effect is kept.
    large: bool,
}

impl House {
    pub(crate) async fn open(database: Database) -> Self {
        Self::open_with(database, SETTINGS).await
    }

    /// The same, set up in another way.
    pub(crate) async fn open_with(database: Database, settings: Settings) -> Self {
        let service = Service::start_with(&database.url(), settings).await;
        Self { database, service, number: 0, large: settings.limit < SETTINGS.limit }
    }

    /// Asks until it is answered: what is still under way, and what cannot be done just now, is to be asked again.
    pub(crate) async fn settled(&self, request: &Request) -> Result<Answer, String> {
        let deadline = Instant::now() + LONG;
        let settled = async {
            loop {
                let answer = request.send(self.service.address).await.ok_or("no answer to another try")?;
                let passing = answer.status == 503 || answer.text().contains("\"idempotency_in_flight\"");
                if !passing {
                    return Ok(answer);
                }
                tokio::task::yield_now().await;
            }
        };
        timeout_at(deadline, settled).await.map_err(|_| "no settled answer")?
    }

    /// Makes what the operation needs. Gives the request.
    pub(crate) async fn prepare(&mut self, operation: &Operation) -> Result<Request, String> {
        self.number += 1;
        let mut version: Option<String> = None;
        for call in operation.before {
            let request = request(*call, self.number, "", version.as_deref());
            let answer = self.settled(&request).await?;
            if !(200..300).contains(&answer.status) {
                return Err(format!("{request:?} gave {} {}", answer.status, answer.text()));
            }
            version = answer.header("etag").map(str::to_owned);
        }
        Ok(request(operation.call, self.number, &format!("k-{}-", self.number), version.as_deref()))
    }

    /// Sends the request, and lets the fault happen. Says whether it has.
    async fn provoke(&mut self, fault: &Fault, request: &Request) -> (Option<Answer>, bool) {
        match fault.how {
            How::Service(word, times) => {
                self.service.order(fault.point, word, times).await;
                let answer = request.send(self.service.address).await;
                if word == "kill" {
                    if answer.is_none() {
                        self.service.gone().await;
                    }
                    return (answer, self.service.is_gone());
                }
                let happened = self.service.over().await;
                (answer, happened.is_some_and(|times| times > 0))
            }
            How::Database(kind, most) => {
                self.database.order(fault.point, kind, most).await;
                let answer = request.send(self.service.address).await;
                (answer, self.database.over().await)
            }
            How::Killed | How::Orphaned => self.kill_while_it_waits(fault, request).await,
            How::HungUp => {
                request.hang_up(self.service.address).await;
                (None, true)
            }
            How::KilledAfterwards => {
                let answer = request.send(self.service.address).await;
                self.service.kill().await;
                (answer, true)
            }
        }
    }

    async fn kill_while_it_waits(&mut self, fault: &Fault, request: &Request) -> (Option<Answer>, bool) {
        self.database.order(fault.point, "wait", ALWAYS).await;
        self.database.hold().await;
        let (request, address) = (request.clone(), self.service.address);
        let asked = tokio::spawn(async move { request.send(address).await });
        self.database.until(WAITING, 1).await;
        self.service.kill().await;
        let answer = asked.await.unwrap();
        if fault.how == How::Killed {
            self.database.until(CONNECTED, 0).await;
        }
        self.database.release().await;
        (answer, self.database.over().await)
    }

    /// What has come of the operation: its effects, and the events of its trail. Seen at one moment.
    pub(crate) async fn found(&mut self, operation: &Operation, request: &Request) -> (i64, i64) {
        const PART: i64 = 1000;
        let events = Database::events(&request.key);
        let both = format!("SELECT ({}) * {PART} + ({events})", filled(operation.effects.0, self.number));
        let both = self.database.number(&both).await;
        (both.div_euclid(PART), both.rem_euclid(PART))
    }

    async fn case(&mut self, operation: &Operation, fault: &Fault) -> Result<(), String> {
        let request = self.prepare(operation).await?;
        let (first, happened) = self.provoke(fault, &request).await;
        if !happened {
            return Err("the fault has not happened".to_owned());
        }
        let (none, all) = ((0, 0), (operation.effects.1, operation.events));
        let found = self.found(operation, &request).await;
        check_first(operation, fault, first.as_ref(), found != none)?;
        let right = match fault.effect {
            Effect::None => found == none,
            Effect::Done => found == all,
            Effect::Unknown => found == none || found == all,
        };
        if !right {
            return Err(format!("effects and events are {found:?} after it"));
        }
        if self.service.is_gone() {
            self.service.restart().await;
        }
        let second = self.settled(&request).await?;
        if second.status != operation.status {
            return Err(format!("the next try is answered with {} {}", second.status, second.text()));
        }
        let found = self.found(operation, &request).await;
        if found != all {
            return Err(format!("effects and events are {found:?} after the next try"));
        }
        for again in 1..=2 {
            let third = self.settled(&request).await?;
            if !third.alike(&second, self.large) || !third.replayed {
                return Err(format!("try {again} after that is another: {third:?}, not {second:?}"));
            }
        }
        if let Some(first) = first.filter(|_| fault.first == First::Answer)
            && !first.alike(&second, self.large)
        {
            return Err(format!("the next answer is another: {second:?}, not {first:?}"));
        }
        let other = Request { path: format!("{}x", request.path), ..request.clone() };
        let other = other.send(self.service.address).await.ok_or("no answer to another request with the key")?;
        if other.status < 400 {
            return Err(format!("another request with the key is answered with {other:?}"));
        }
        match self.found(operation, &request).await {
            found if found == all => Ok(()),
            found => Err(format!("effects and events are {found:?} in the end")),
        }
    }
}

fn check_first(operation: &Operation, fault: &Fault, first: Option<&Answer>, done: bool) -> Result<(), String> {
    let right = match (fault.first, first) {
        (First::Answer, Some(answer)) => answer.status == operation.status,
        (First::Failure, Some(answer)) => {
            let aborted = answer.status == 409 && answer.text().contains("\"transaction_aborted\"");
            // What SQLite refuses to commit can only be a foreign key.
            let constraint = fault.point == "at-committing" && answer.text().contains("\"foreign_key_violation\"");
            answer.status >= 500 || aborted || constraint
        }
        (First::Nothing, None) => true,
        (First::Nothing, Some(_)) => fault.how == How::HungUp,
        (First::Answer | First::Failure, None) => false,
    };
    let text = first.map(Answer::text).unwrap_or_default();
    if !right {
        return Err(format!("it is answered with {:?} {text}", first.map(|first| first.status)));
    }
    // An answer that says so has to be right.
    if done && fault.first == First::Failure && text.contains("nothing was") {
        return Err(format!("it was done, and its caller is told: {text}"));
    }
    Ok(())
}

/// Operations that are tried side by side, each in a database of its own: most of the time is spent on waiting.
const LANES: usize = 6;

/// Tries every `LANES`th operation. Gives the number of cases, and what is wrong.
async fn lane(database: Database, lane: usize, faults: Arc<Vec<Fault>>, settings: Settings) -> (usize, Vec<String>) {
    let postgres = database.is_postgres();
    let name = if postgres { "PostgreSQL" } else { "SQLite" };
    let mut house = House::open_with(database, settings).await;
    let (mut cases, mut wrong) = (0, Vec::new());
    let only = std::env::var("CRATESTACK_TEST_KEYED").unwrap_or_default();
    for operation in OPERATIONS.iter().skip(lane).step_by(LANES) {
        for fault in faults.iter().filter(|fault| reaches(operation, fault.point, postgres)) {
            let case = format!("{name}: {}: {} {}", operation.name, fault.point, fault.kind);
            if !case.contains(&only) {
                continue;
            }
            cases += 1;
            if let Err(why) = house.case(operation, fault).await {
                wrong.push(format!("{case}: {why}"));
                // The next case begins anew.
                house.service.kill().await;
                house.service.restart().await;
            }
        }
    }
    let sum = house.database.number("SELECT CAST(coalesce(sum(balance - 100), 0) AS bigint) FROM accounts").await;
    if sum != 0 {
        wrong.push(format!("{name}: {sum} was made or lost"));
    }
    drop(house.service);
    house.database.close().await;
    (cases, wrong)
}

async fn run(databases: Vec<Database>, faults: Vec<Fault>, settings: Settings) {
    let faults = Arc::new(faults);
    let lanes: Vec<_> = databases
        .into_iter()
        .enumerate()
        .map(|(at, database)| tokio::spawn(lane(database, at, Arc::clone(&faults), settings)))
        .collect();
    let (mut cases, mut wrong) = (0, Vec::new());
    for lane in lanes {
        let (some, of_them) = lane.await.unwrap();
        cases += some;
        wrong.extend(of_them);
    }
    println!("{cases} cases");
    assert!(wrong.is_empty(), "{} of {cases} cases:\n{}", wrong.len(), wrong.join("\n"));
    assert!(cases > 0, "there is no such case");
}

async fn sqlites() -> Vec<Database> {
    let mut databases = Vec::new();
    for _ in 0..LANES {
        databases.push(Database::sqlite().await);
    }
    databases
}

/// None where there is no server.
async fn postgreses() -> Vec<Database> {
    let mut databases = Vec::new();
    for _ in 0..LANES {
        databases.extend(Database::postgres().await);
    }
    databases
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_on_sqlite_happens_once() {
    run(sqlites().await, in_service().into_iter().chain(in_sqlite()).collect(), SETTINGS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_on_postgres_happens_once() {
    let databases = postgreses().await;
    if !databases.is_empty() {
        run(databases, in_service().into_iter().chain(in_postgres()).collect(), SETTINGS).await;
    }
}

/// Of an answer that is too large the effect is kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_with_a_large_answer_happens_once() {
    let settings = Settings { limit: 8, ..SETTINGS };
    let late = |fault: &Fault| matches!(fault.point.trim_start_matches("at-"), "presented" | "recorded" | "committed");
    run(sqlites().await, in_service().into_iter().chain(in_sqlite()).filter(late).collect(), settings).await;
    let databases = postgreses().await;
    if !databases.is_empty() {
        run(databases, in_service().into_iter().chain(in_postgres()).filter(late).collect(), settings).await;
    }
}
