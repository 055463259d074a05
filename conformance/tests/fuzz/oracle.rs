//! Nobody can tell apart two databases that differ only in what they may not read: whatever they send, octet for octet
//! the answers are the same.
//!
//! One world has what the other does not: rows of another tenant, rows that the rules hide, tombstones, values of
//! `@server_only` fields. Left out is what no service could keep to itself: that a key or a unique value is taken, and
//! what the author's own rules and referential actions do to visible rows. Keys and unique values of hidden rows
//! therefore have letters of their own, which the prober reads, changes and refers to, and never creates.

use cratestack_conformance::database::{Backend, sqlite_only};

use crate::requests::{Author, Reach};
use crate::setting;
use crate::world::{World, schema};

const PROBERS: [Option<&str>; 4] = [
    None,
    Some(r#"{"id":"ta","role":"teller","tenantId":"A","roles":["x"],"level":2}"#),
    Some(r#"{"id":"ta","role":"teller","tenantId":"A","roles":["x"],"level":2}"#),
    Some(r#"{"id":"aa","role":"auditor","tenantId":"A","roles":[]}"#),
];
const MANAGER: Option<&str> = Some(r#"{"id":"ma","role":"manager","tenantId":"A","roles":[]}"#);
const STRANGER: Option<&str> = Some(r#"{"id":"mb","role":"manager","tenantId":"B","roles":[]}"#);

const MODELS: &[&str] = &["Customer", "Customer", "Account", "Account", "Note", "Note", "Profile", "Rate", "Fee"];

/// What a prober may try: to create rows of its own, and anything with the rows of everybody.
const PROBE: Reach = Reach { models: MODELS, own: &['a'], others: &['a', 'a', 'b', 'c'], secrecy: &["none"] };
/// What happens in both worlds: visible rows come and go, and are hidden.
const COMMON: Reach =
    Reach { models: MODELS, own: &['a'], others: &['a'], secrecy: &["none", "none", "none", "secret"] };
/// What happens in one world: another tenant does what it likes with rows of its own,
const FOREIGN: Reach = Reach {
    models: &["Customer", "Account", "Note", "Profile"],
    own: &['b'],
    others: &['b'],
    secrecy: &["none", "secret"],
};
/// and customers that the prober must not see appear, change, go, and come back.
const HIDDEN: Reach = Reach { models: &["Customer"], own: &['c'], others: &['c'], secrecy: &["secret"] };

#[tokio::test]
async fn what_is_hidden_shows_nowhere_on_sqlite() {
    nothing_shows(Backend::Sqlite).await;
}

#[tokio::test]
async fn what_is_hidden_shows_nowhere_on_postgres() {
    if !sqlite_only() {
        nothing_shows(Backend::Postgres).await;
    }
}

async fn nothing_shows(backend: Backend) {
    let schema = schema();
    let seed = setting("CRATESTACK_FUZZ_SEED", 1);
    let mut author = Author::new(&schema, seed);
    let (plain, mut full) = (World::new(&schema, backend).await, World::new(&schema, backend).await);
    let (mut hidden, mut probes) = (0, 0);
    for step in 1..=setting("CRATESTACK_FUZZ_REQUESTS", 1500) {
        match author.dice.below(100) {
            0..20 => {
                let (who, reach) = if author.dice.chance(60) { (STRANGER, FOREIGN) } else { (MANAGER, HIDDEN) };
                let ask = author.write(who, reach);
                hidden += usize::from(full.send(step, &ask).await.status < 300);
            }
            20..23 => {
                for (table, column) in [("customers", "risk_note"), ("notes", "token")] {
                    let value = author.dice.below(3);
                    full.database.execute(&format!("UPDATE {table} SET {column} = 'v{value}'")).await;
                }
            }
            23..45 => {
                let ask = author.write(MANAGER, COMMON);
                let (one, other) = (plain.send(step, &ask).await, full.send(step, &ask).await);
                assert_eq!(
                    one.status, other.status,
                    "seed {seed}, step {step}: the worlds have drifted apart at {ask:#?}"
                );
            }
            _ => {
                let who = author.dice.pick(&PROBERS);
                let ask = author.request(who, PROBE);
                let (one, other) = (plain.send(step, &ask).await, full.send(step, &ask).await);
                assert_eq!(one, other, "seed {seed}, step {step}: the answer tells what is hidden from {ask:#?}");
                assert!(one.status < 500, "seed {seed}, step {step}: {ask:#?}\n{one:#?}");
                probes += usize::from(one.status < 300);
                if let Some(cursor) = one.next().filter(|_| ask.method == "GET" && !ask.target.contains("cursor=")) {
                    author.pages.push((ask.who, ask.target, cursor));
                }
            }
        }
    }
    assert!(
        hidden > 30 && probes > 150,
        "too little happened: {hidden} hidden writes, {probes} probes that did something"
    );
    plain.end().await;
    full.end().await;
}
