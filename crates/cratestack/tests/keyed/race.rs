//! Two services have one request at the same time. One of them waits at a point of it, while the other gets as far as it gets.
//! Both answer the same, and it happens once.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::database::{Database, WAITING};
use crate::matrix::{House, POINTS, reaches};
use crate::operations::{OPERATIONS, Operation};
use crate::service::{LONG, Request, SETTINGS, Service, Settings};

/// Counts what waits for somebody else.
const BLOCKED: &str =
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
/// Ends the connection that waits in a trigger.
const TERMINATE: &str = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                         WHERE datname = current_database() AND wait_event = 'PgSleep'";

/// What becomes of the one that waits.
#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    GoesOn,
    Terminated,
    Killed,
}

async fn case(house: &mut House, other: &Service, operation: &Operation, point: &str, end: End) -> Result<(), String> {
    let request = house.prepare(operation).await?;
    house.database.hold().await;
    house.database.order(point, "wait", 1).await;
    let ask = |request: &Request, address| {
        let request = request.clone();
        tokio::spawn(async move { request.send(address).await })
    };
    let first = ask(&request, house.service.address);
    house.database.until(WAITING, 1).await;
    let second = ask(&request, other.address);
    let deadline = Instant::now() + LONG;
    while !second.is_finished() && house.database.number(BLOCKED).await == 0 {
        if Instant::now() > deadline {
            return Err("the second is neither done nor waiting".to_owned());
        }
        tokio::task::yield_now().await;
    }
    match end {
        End::GoesOn => {}
        // It may be between two sleeps.
        End::Terminated => while house.database.number(TERMINATE).await == 0 {},
        End::Killed => house.service.kill().await,
    }
    house.database.release().await;
    let answers = [first.await.unwrap(), second.await.unwrap()];
    house.database.over().await;
    if end == End::Killed {
        house.service.restart().await;
    }
    let last = house.settled(&request).await?;
    if last.status != operation.status || !last.replayed {
        return Err(format!("in the end it is answered with {last:?}"));
    }
    for (answer, may_miss) in answers.into_iter().zip([end == End::Killed, false]) {
        match answer {
            Some(answer) if answer.same(&last) => {}
            None if may_miss => {}
            answer => return Err(format!("answered with {answer:?}, and then with {last:?}")),
        }
    }
    match house.found(operation, &request).await {
        found if found == (operation.effects.1, operation.events) => Ok(()),
        found => Err(format!("effects and events are {found:?}")),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_services_do_it_once() {
    let Some(database) = Database::postgres().await else { return };
    let mut house = House::open(database).await;
    let other = Service::start(&house.database.url()).await;
    let (mut cases, mut wrong) = (0, Vec::new());
    for operation in OPERATIONS {
        for point in POINTS.into_iter().filter(|point| reaches(operation, point, true)) {
            for end in [End::GoesOn, End::Terminated, End::Killed] {
                cases += 1;
                let done = timeout(2 * LONG, case(&mut house, &other, operation, point, end)).await;
                if let Err(why) = done.unwrap_or(Err("it takes too long".to_owned())) {
                    wrong.push(format!("PostgreSQL: {}: waits when {point}: {end:?}: {why}", operation.name));
                }
            }
        }
    }
    println!("{cases} cases");
    drop((house.service, other));
    house.database.close().await;
    assert!(wrong.is_empty(), "{} of {cases} cases:\n{}", wrong.len(), wrong.join("\n"));
}

/// Who waits longer than it may is told so, by the service that is at it and by another one; and gets the answer when there is one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_too_long_is_told() {
    let Some(database) = Database::postgres().await else { return };
    let settings = Settings { wait: Duration::from_millis(300), ..SETTINGS };
    let mut house = House::open_with(database, settings).await;
    let other = Service::start_with(&house.database.url(), settings).await;
    for operation in OPERATIONS {
        let request = house.prepare(operation).await.unwrap();
        house.database.hold().await;
        house.database.order("recorded", "wait", 1).await;
        let (asked, address) = (request.clone(), house.service.address);
        let first = tokio::spawn(async move { asked.send(address).await });
        house.database.until(WAITING, 1).await;
        for address in [house.service.address, other.address] {
            let answer = request.send(address).await.unwrap();
            let told = answer.text().contains("\"idempotency_in_flight\"");
            assert!(answer.status == 409 && told, "{}: {answer:?} {}", operation.name, answer.text());
        }
        house.database.release().await;
        let first = first.await.unwrap().unwrap();
        house.database.over().await;
        assert_eq!(first.status, operation.status, "{}: {}", operation.name, first.text());
        let again = request.send(other.address).await.unwrap();
        assert!(again.same(&first) && again.replayed, "{}: {again:?}, not {first:?}", operation.name);
        let found = house.found(operation, &request).await;
        assert_eq!(found, (operation.effects.1, operation.events), "{}: effects and events", operation.name);
    }
    drop((house.service, other));
    house.database.close().await;
}
