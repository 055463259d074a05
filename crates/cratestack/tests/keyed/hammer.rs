//! The same at random: clients repeat requests with a few keys at a time, at two services on one database, while the services are
//! killed, their connections cut, and faults happen at all points. In the end every key has had its effect once, and all its
//! answers were one.
//!
//! `CRATESTACK_HAMMER_SECONDS` says for how long on each database; 30 without it.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::database::Database;
use crate::matrix::POINTS;
use crate::operations::{CROWDED, OPERATIONS, Operation, SHARED, filled, request, uuid};
use crate::proxy::{LOSE, UNPLUG};
use crate::service::{Answer, LONG, Request, Service};

const CLIENTS: u64 = 16;
/// Keys that are asked for at a time.
const WINDOW: u64 = 20;
/// Answers after which a key has been asked for enough.
const ANSWERS: u32 = 4;
/// Between two kills, two cuts, two faults.
const CALM: [Duration; 3] = [Duration::from_millis(2000), Duration::from_millis(500), Duration::from_millis(100)];
/// What a shared account holds.
const RICH: i64 = 1_000_000;

/// The same each time, for the same seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % sides
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.roll(of.len())]
    }
}

/// What was answered to a key.
#[derive(Default)]
struct Told {
    answer: Option<Answer>,
    times: u32,
}

/// What the clients share.
struct Field {
    addresses: Mutex<[SocketAddr; 2]>,
    over: AtomicBool,
    /// The first key that has not been asked for enough.
    front: AtomicU64,
    told: Mutex<BTreeMap<u64, Told>>,
    /// By status and code.
    seen: Mutex<BTreeMap<String, u64>>,
}

fn operation(number: u64) -> &'static Operation {
    let at = usize::try_from(number).unwrap() % (OPERATIONS.len() + CROWDED.len());
    OPERATIONS.get(at).unwrap_or_else(|| &CROWDED[at - OPERATIONS.len()])
}

fn key(number: u64) -> String {
    format!("k-{number}-")
}

fn code(answer: &Answer) -> String {
    let text = answer.text();
    let code = text.split("\"code\":\"").nth(1).and_then(|rest| rest.split('"').next()).filter(|_| answer.status > 399);
    code.unwrap_or("done").to_owned()
}

/// Whether it is the answer for ever.
fn is_last(operation: &Operation, answer: &Answer) -> bool {
    answer.status == operation.status && !is_passing(answer) || is_constraint(operation, answer)
}

/// The refusal of a commit is the answer of a procedure, once it is recorded: the commit of the record may be refused as well.
fn is_constraint(operation: &Operation, answer: &Answer) -> bool {
    operation.body && answer.replayed && code(answer) == "foreign_key_violation"
}

/// What the next try may mend.
fn is_passing(answer: &Answer) -> bool {
    let codes = [
        "idempotency_in_flight",
        "transaction_aborted",
        "unavailable",
        "internal",
        "version_mismatch",
        "foreign_key_violation",
    ];
    codes.contains(&code(answer).as_str())
}

impl Field {
    fn note(&self, what: String) {
        *self.seen.lock().unwrap().entry(what).or_default() += 1;
    }

    /// One answer of all there are to a key.
    fn tell(&self, number: u64, answer: &Answer) {
        let mut all = self.told.lock().unwrap();
        let told = all.entry(number).or_default();
        told.times += 1;
        let first = told.answer.get_or_insert_with(|| answer.clone());
        assert!(first.same(answer), "{}: {first:?}, and then {answer:?}", operation(number).name);
        while all.get(&self.front.load(Ordering::SeqCst)).is_some_and(|told| told.times >= ANSWERS) {
            self.front.fetch_add(1, Ordering::SeqCst);
        }
    }

    async fn send(&self, dice: &mut Dice, request: &Request) -> Option<Answer> {
        let address = dice.pick(&*self.addresses.lock().unwrap());
        let answer = request.send(address).await;
        match &answer {
            None => {
                self.note("no answer".to_owned());
                tokio::task::yield_now().await;
            }
            Some(answer) => self.note(format!("{} {}", answer.status, code(answer))),
        }
        answer
    }

    /// Asks once, if what it needs is there.
    async fn ask(&self, dice: &mut Dice, number: u64) -> Option<Answer> {
        let operation = operation(number);
        let mut version: Option<String> = None;
        for (at, call) in (0..).zip(operation.before) {
            let request = request(*call, number, &format!("b{at}-{number}-"), version.as_deref());
            let answer = self.send(dice, &request).await?;
            if !(200..300).contains(&answer.status) {
                assert!(is_passing(&answer), "{}: {request:?} is answered with {answer:?}", operation.name);
                return None;
            }
            version = answer.header("etag").map(str::to_owned);
        }
        let request = request(operation.call, number, &key(number), version.as_deref());
        let answer = self.send(dice, &request).await?;
        if is_last(operation, &answer) {
            self.tell(number, &answer);
            return Some(answer);
        }
        assert!(is_passing(&answer), "{}: {request:?} is answered with {answer:?}", operation.name);
        None
    }

    async fn client(self: Arc<Self>, seed: u64) {
        let mut dice = Dice(seed);
        while !self.over.load(Ordering::SeqCst) {
            let some = u64::try_from(dice.roll(usize::try_from(WINDOW).unwrap())).unwrap();
            self.ask(&mut dice, self.front.load(Ordering::SeqCst) + some).await;
        }
    }
}

/// Orders a fault somewhere.
async fn disturb(database: &mut Database, services: &[Service; 2], dice: &mut Dice) {
    if dice.roll(3) == 0 {
        let (point, fault) = (dice.pick(&["claimed", "locked", "body", "presented"]), dice.pick(&["error", "panic"]));
        services[dice.roll(2)].try_order(point, fault, 1).await;
    } else if database.is_postgres() {
        let kinds = ["state XX000", "state 53100", "state 40001", "state 40P01", "terminate", UNPLUG, LOSE];
        database.order(dice.pick(&POINTS), dice.pick(&kinds), 1).await;
    } else {
        let point = dice.pick(&POINTS);
        let word = if point == "committing" { "1" } else { dice.pick(&["error", "panic", "1", "2", "3", "full"]) };
        services[dice.roll(2)].try_order(&format!("at-{point}"), word, 1).await;
    }
}

/// Makes the accounts that many share.
async fn share(service: &Service) {
    for number in 0..SHARED {
        let body = format!(r#"{{"id":"{}","owner":"all","balance":{RICH}}}"#, uuid(2, number));
        let request = Request { method: "POST", path: "/api/accounts".into(), body, key: String::new(), version: None };
        assert_eq!(request.send(service.address).await.unwrap().status, 201);
    }
}

async fn hammer(mut database: Database) {
    let seconds = std::env::var("CRATESTACK_HAMMER_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(30);
    let url = database.url();
    let mut services = [Service::start(&url).await, Service::start(&url).await];
    share(&services[0]).await;
    let field = Arc::new(Field {
        addresses: Mutex::new([services[0].address, services[1].address]),
        over: AtomicBool::new(false),
        front: AtomicU64::new(1),
        told: Mutex::default(),
        seen: Mutex::default(),
    });
    let clients: Vec<_> = (1..=CLIENTS).map(|seed| tokio::spawn(Arc::clone(&field).client(seed))).collect();

    let mut dice = Dice(0);
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut next = CALM.map(|calm| Instant::now() + calm);
    while Instant::now() < end && clients.iter().all(|client| !client.is_finished()) {
        let [kill, cut, fault] = next;
        sleep_until(end.min(kill).min(cut).min(fault)).await;
        let now = Instant::now();
        if kill <= now {
            let at = dice.roll(2);
            services[at].kill().await;
            services[at].restart().await;
            field.addresses.lock().unwrap()[at] = services[at].address;
            next[0] = Instant::now() + CALM[0];
        }
        if cut <= now {
            database.cut(0.3).await;
            next[1] = now + CALM[1];
        }
        if fault <= now {
            disturb(&mut database, &services, &mut dice).await;
            next[2] = now + CALM[2];
        }
    }
    field.over.store(true, Ordering::SeqCst);
    if database.is_postgres() {
        database.over().await;
    }
    for client in clients {
        client.await.unwrap();
    }
    for (at, service) in services.iter_mut().enumerate() {
        service.kill().await;
        service.restart().await;
        field.addresses.lock().unwrap()[at] = service.address;
    }
    let name = if database.is_postgres() { "PostgreSQL" } else { "SQLite" };
    println!("{name}: {:?}", field.seen.lock().unwrap());
    settle(&mut database, &field).await;
    drop(services);
    database.close().await;
}

/// Every key gets its answer, and has had its effect once.
async fn settle(database: &mut Database, field: &Field) {
    let last = field.front.load(Ordering::SeqCst) + WINDOW;
    let mut dice = Dice(1);
    let mut events: HashMap<String, i64> = HashMap::new();
    for number in 1..last {
        let deadline = Instant::now() + LONG;
        while field.ask(&mut dice, number).await.is_none() {
            assert!(Instant::now() < deadline, "{}: no answer", operation(number).name);
        }
    }
    for entry in database.texts("SELECT entry FROM cratestack_audit").await {
        let key = entry.split("\"idempotency_key\":\"").nth(1).and_then(|rest| rest.split('"').next());
        *events.entry(key.unwrap_or_default().to_owned()).or_default() += 1;
    }
    let mut keys = 0;
    for number in 1..last {
        let operation = operation(number);
        let answer = field.told.lock().unwrap()[&number].answer.clone().unwrap();
        let none = is_constraint(operation, &answer);
        let wanted = if none { (0, 0) } else { (operation.effects.1, operation.events) };
        let found = database.number(&filled(operation.effects.0, number)).await;
        let found = (found, events.get(&key(number)).copied().unwrap_or_default());
        assert_eq!(found, wanted, "{} {number}: effects and events", operation.name);
        keys += 1 + operation.before.len();
    }
    let kept = database.number("SELECT count(*) FROM cratestack_idempotency").await;
    assert_eq!(kept, i64::try_from(keys).unwrap(), "each key is recorded once");
    let sum = database.number("SELECT CAST(sum(balance - 100) AS bigint) FROM accounts").await;
    assert_eq!(sum, i64::try_from(SHARED).unwrap() * (RICH - 100), "money was made or lost");
    println!("{} keys", last - 1);
    assert!(last > WINDOW + 1, "hardly anything was done");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_key_has_one_effect_on_sqlite() {
    hammer(Database::sqlite().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_key_has_one_effect_on_postgres() {
    if let Some(database) = Database::postgres().await {
        hammer(database).await;
    }
}
