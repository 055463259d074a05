//! SQLite and PostgreSQL give the same answers, octet for octet: statuses, headers, bodies, cursors.

use cratestack_conformance::database::{Backend, sqlite_only};

use crate::requests::{Author, Reach};
use crate::setting;
use crate::world::{World, schema};

const CALLERS: [Option<&str>; 6] = [
    None,
    Some(r#"{"id":"ta","role":"teller","tenantId":"A","roles":["x"],"level":2}"#),
    Some(r#"{"id":"ma","role":"manager","tenantId":"A","roles":[]}"#),
    Some(r#"{"id":"ma","role":"manager","tenantId":"A","roles":["x"],"level":1}"#),
    Some(r#"{"id":"aa","role":"auditor","tenantId":"A","roles":[]}"#),
    Some(r#"{"id":"mb","role":"manager","tenantId":"B","roles":[]}"#),
];

const ALL: Reach = Reach {
    models: &["Customer", "Customer", "Account", "Account", "Note", "Note", "Profile", "Rate", "Fee"],
    own: &['a', 'b'],
    others: &['a', 'b'],
    secrecy: &["none", "none", "none", "secret"],
};

#[tokio::test]
async fn both_databases_answer_alike() {
    if sqlite_only() {
        return;
    }
    let schema = schema();
    let seed = setting("CRATESTACK_FUZZ_SEED", 1);
    let mut author = Author::new(&schema, seed);
    let worlds = [World::new(&schema, Backend::Sqlite).await, World::new(&schema, Backend::Postgres).await];
    let mut seen = std::collections::BTreeMap::<u16, usize>::new();
    for step in 1..=setting("CRATESTACK_FUZZ_REQUESTS", 1500) {
        let who = author.dice.pick(&CALLERS);
        let ask = author.request(who, ALL);
        let sqlite = worlds[0].send(step, &ask).await;
        let postgres = worlds[1].send(step, &ask).await;
        assert_eq!(sqlite, postgres, "seed {seed}, step {step}: SQLite and PostgreSQL differ on {ask:#?}");
        assert!(sqlite.status < 500, "seed {seed}, step {step}: {ask:#?}\n{sqlite:#?}");
        *seen.entry(sqlite.status).or_default() += 1;
        if let Some(cursor) = sqlite.next().filter(|_| ask.method == "GET" && !ask.target.contains("cursor=")) {
            author.pages.push((ask.who, ask.target, cursor));
        }
    }
    // Requests that are all refused would prove nothing.
    for status in [200, 201, 204, 207, 400, 401, 403, 404, 409, 412, 422] {
        assert!(seen.contains_key(&status), "no request was answered with {status}: {seen:?}");
    }
    for world in worlds {
        world.end().await;
    }
}
