//! What each step of a store does, whoever calls it.

use std::sync::Arc;
use std::time::Duration;

use cratestack::engine::idempotency::store::{Reservation, Reserved, Token};
use cratestack::engine::idempotency::{Identity, Record};
use cratestack::engine::sources::RandomIds;
use cratestack::{IdempotencyStore, SqliteIdempotencyStore, SqlxIdempotencyStore};

use crate::host::DAY;
use crate::places::{Database, Place, on_every_store, until};

const LONG: Duration = Duration::from_mins(5);
const SHORT: Duration = Duration::from_millis(1);

fn identity(key: &str) -> Identity {
    Identity { scope: [1; 32], key: key.to_owned(), fingerprint: [2; 32] }
}

fn reservation(lease: Duration) -> Reservation {
    Reservation {
        token: Token::fresh(&RandomIds::default()).unwrap(),
        op: "POST /payments".to_owned(),
        request_id: "r".to_owned(),
        lease,
        retention: DAY,
    }
}

fn record(body: Option<&[u8]>) -> Record {
    let headers = vec![("location".to_owned(), "/payments/1".to_owned()), ("link".to_owned(), "<a>: b".to_owned())];
    Record { status: 201, headers, body: body.map(<[u8]>::to_vec) }
}

/// What the lease of `holder` has become of, once it has ended.
async fn ended(store: &dyn IdempotencyStore, identity: &Identity, holder: &Reservation) {
    let other = reservation(LONG);
    until("the end of a lease", async || {
        store.reserve(identity, &other).await.unwrap() == Reserved::Unknown(holder.token)
    })
    .await;
}

on_every_store! {
    a_reservation_is_completed
    what_is_released_is_free
    what_is_unknown_stays_so_until_it_is_taken_over
    a_lease_ends
    of_two_that_take_over_one_does
    of_many_that_reserve_one_does
    a_holder_that_was_taken_over_is_fenced
    steps_may_be_asked_for_twice
    keys_have_any_printable_characters
}

async fn a_reservation_is_completed(place: Place) {
    let store = &place.store;
    for (key, record) in
        [("kept", record(Some(b"\0\xff{}"))), ("empty", record(Some(b""))), ("effect only", record(None))]
    {
        let (identity, holder, other) = (identity(key), reservation(LONG), reservation(LONG));
        assert_eq!(store.reserve(&identity, &holder).await.unwrap(), Reserved::Granted);
        assert_eq!(store.reserve(&identity, &other).await.unwrap(), Reserved::InFlight);
        let foreign = Identity { fingerprint: [3; 32], ..identity.clone() };
        assert_eq!(store.reserve(&foreign, &other).await.unwrap(), Reserved::Reused);
        assert!(store.extend(&identity, &holder).await.unwrap());
        assert!(store.complete(&identity, &holder, &record).await.unwrap());
        let found = store.reserve(&identity, &other).await.unwrap();
        let wanted =
            if record.body.is_some() { Reserved::Done(record.clone()) } else { Reserved::EffectOnly(record.clone()) };
        assert_eq!(found, wanted);
        assert_eq!(store.reserve(&foreign, &other).await.unwrap(), Reserved::Reused);
        // What is done can be neither released nor forgotten.
        assert!(!store.extend(&identity, &holder).await.unwrap());
        assert!(!store.release(&identity, &holder).await.unwrap());
        assert!(!store.mark_unknown(&identity, &holder).await.unwrap());
        assert!(!store.take_over(&identity, &other, holder.token).await.unwrap());
        assert_eq!(store.reserve(&identity, &other).await.unwrap(), wanted);
    }
    let elsewhere = Identity { scope: [9; 32], ..identity("kept") };
    assert_eq!(store.reserve(&elsewhere, &reservation(LONG)).await.unwrap(), Reserved::Granted);
}

async fn what_is_released_is_free(place: Place) {
    let (store, identity) = (&place.store, identity("k"));
    let (first, second) = (reservation(LONG), reservation(LONG));
    assert_eq!(store.reserve(&identity, &first).await.unwrap(), Reserved::Granted);
    assert!(!store.release(&identity, &second).await.unwrap());
    assert!(store.release(&identity, &first).await.unwrap());
    assert_eq!(store.reserve(&identity, &second).await.unwrap(), Reserved::Granted);
    // The first one's word counts no more, though it once had the same key.
    assert!(!store.release(&identity, &first).await.unwrap());
    assert!(!store.extend(&identity, &first).await.unwrap());
    assert!(!store.complete(&identity, &first, &record(None)).await.unwrap());
}

async fn what_is_unknown_stays_so_until_it_is_taken_over(place: Place) {
    let (store, identity) = (&place.store, identity("k"));
    let (first, second) = (reservation(LONG), reservation(LONG));
    store.reserve(&identity, &first).await.unwrap();
    // It is under way: nobody may take over.
    assert!(!store.take_over(&identity, &second, first.token).await.unwrap());
    assert!(!store.mark_unknown(&identity, &second).await.unwrap());
    assert!(store.mark_unknown(&identity, &first).await.unwrap());
    assert!(!store.extend(&identity, &first).await.unwrap());
    assert_eq!(store.reserve(&identity, &second).await.unwrap(), Reserved::Unknown(first.token));
    assert!(!store.take_over(&identity, &second, second.token).await.unwrap());
    assert!(store.take_over(&identity, &second, first.token).await.unwrap());
    assert_eq!(store.reserve(&identity, &first).await.unwrap(), Reserved::InFlight);
    assert!(store.complete(&identity, &second, &record(Some(b"x"))).await.unwrap());
}

async fn a_lease_ends(place: Place) {
    let (store, identity) = (&place.store, identity("k"));
    let (short, long) = (reservation(SHORT), reservation(LONG));
    store.reserve(&identity, &short).await.unwrap();
    ended(&**store, &identity, &short).await;
    // The holder comes back before anybody has taken over.
    let longer = Reservation { lease: LONG, ..short.clone() };
    assert!(store.extend(&identity, &longer).await.unwrap());
    assert_eq!(store.reserve(&identity, &long).await.unwrap(), Reserved::InFlight);
    assert!(!store.take_over(&identity, &long, short.token).await.unwrap());
    // It may say how it went even when its lease has ended.
    assert!(store.extend(&identity, &short).await.unwrap());
    ended(&**store, &identity, &short).await;
    assert!(store.complete(&identity, &short, &record(Some(b"x"))).await.unwrap());
}

async fn of_two_that_take_over_one_does(place: Place) {
    let store = &place.store;
    for round in 0..20 {
        let (identity, first) = (identity(&format!("k{round}")), reservation(LONG));
        store.reserve(&identity, &first).await.unwrap();
        store.mark_unknown(&identity, &first).await.unwrap();
        let (a, b) = (reservation(LONG), reservation(LONG));
        let (one, other) =
            tokio::join!(store.take_over(&identity, &a, first.token), store.take_over(&identity, &b, first.token));
        assert!(one.unwrap() ^ other.unwrap());
    }
}

async fn of_many_that_reserve_one_does(place: Place) {
    for round in 0..10 {
        let tasks: Vec<_> = (0..32)
            .map(|_| {
                let store = Arc::clone(&place.store);
                tokio::spawn(async move {
                    store.reserve(&identity(&format!("k{round}")), &reservation(LONG)).await.unwrap()
                })
            })
            .collect();
        let mut granted = 0;
        for task in tasks {
            match task.await.unwrap() {
                Reserved::Granted => granted += 1,
                other => assert_eq!(other, Reserved::InFlight),
            }
        }
        assert_eq!(granted, 1);
    }
}

async fn a_holder_that_was_taken_over_is_fenced(place: Place) {
    let (store, identity) = (&place.store, identity("k"));
    let (slow, next) = (reservation(SHORT), reservation(LONG));
    store.reserve(&identity, &slow).await.unwrap();
    ended(&**store, &identity, &slow).await;
    assert!(store.take_over(&identity, &next, slow.token).await.unwrap());
    assert!(!store.extend(&identity, &slow).await.unwrap());
    assert!(!store.complete(&identity, &slow, &record(Some(b"slow"))).await.unwrap());
    assert!(!store.release(&identity, &slow).await.unwrap());
    assert!(!store.mark_unknown(&identity, &slow).await.unwrap());
    assert!(store.complete(&identity, &next, &record(Some(b"next"))).await.unwrap());
    assert!(!store.complete(&identity, &slow, &record(Some(b"slow"))).await.unwrap());
    let found = store.reserve(&identity, &slow).await.unwrap();
    assert_eq!(found, Reserved::Done(record(Some(b"next"))));
}

async fn steps_may_be_asked_for_twice(place: Place) {
    let (store, identity) = (&place.store, identity("k"));
    let (first, second) = (reservation(LONG), reservation(LONG));
    for _ in 0..2 {
        assert_eq!(store.reserve(&identity, &first).await.unwrap(), Reserved::Granted);
    }
    for _ in 0..2 {
        assert!(store.mark_unknown(&identity, &first).await.unwrap());
    }
    assert!(store.take_over(&identity, &second, first.token).await.unwrap());
    for _ in 0..2 {
        assert!(store.complete(&identity, &second, &record(Some(b"x"))).await.unwrap());
    }
    // Where there is no record any more, what was done is written down all the same.
    let gone = Identity { key: "gone".to_owned(), ..identity };
    assert!(store.complete(&gone, &first, &record(Some(b"x"))).await.unwrap());
    assert_eq!(store.reserve(&gone, &second).await.unwrap(), Reserved::Done(record(Some(b"x"))));
}

async fn keys_have_any_printable_characters(place: Place) {
    let store = &place.store;
    let all: String = (' '..='~').collect();
    for key in [all.as_str(), "{}", "}{", "{", "'; DROP TABLE x; --", "$1", &"k".repeat(255)] {
        let (identity, holder) = (identity(key), reservation(LONG));
        assert_eq!(store.reserve(&identity, &holder).await.unwrap(), Reserved::Granted, "{key}");
        assert!(store.complete(&identity, &holder, &record(Some(key.as_bytes()))).await.unwrap());
        let found = store.reserve(&identity, &reservation(LONG)).await.unwrap();
        assert_eq!(found, Reserved::Done(record(Some(key.as_bytes()))));
    }
}

#[tokio::test]
async fn several_processes_make_the_table_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.db");
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let path = path.clone();
            tokio::spawn(async move {
                let store = tokio::task::spawn_blocking(|| SqliteIdempotencyStore::open(path)).await.unwrap().unwrap();
                store.create_table().await.unwrap();
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let Some(database) = Database::new().await else { return };
    let pool = database.pool().await;
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let store = SqlxIdempotencyStore::new(pool.clone());
            tokio::spawn(async move { store.create_table().await.unwrap() })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

/// Two processes, each with a connection of its own, on one file.
#[tokio::test]
async fn two_processes_share_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.db");
    let stores = [(); 2].map(|()| SqliteIdempotencyStore::open(&path).unwrap());
    stores[0].create_table().await.unwrap();
    for round in 0..50 {
        let identity = identity(&format!("k{round}"));
        let (a, b) = (reservation(LONG), reservation(LONG));
        let (one, other) = tokio::join!(stores[0].reserve(&identity, &a), stores[1].reserve(&identity, &b));
        let both = [one.unwrap(), other.unwrap()];
        assert!(both.contains(&Reserved::Granted) && both.contains(&Reserved::InFlight), "{both:?}");
    }
}

/// A database without the table, or that is not there, is a store that cannot answer.
#[tokio::test]
async fn a_store_without_a_table_says_so() {
    let folder = tempfile::tempdir().unwrap();
    assert!(SqliteIdempotencyStore::open(folder.path().join("no/such/folder/keys.db")).is_err());
    let store = SqliteIdempotencyStore::open(folder.path().join("keys.db")).unwrap();
    let down = store.reserve(&identity("k"), &reservation(LONG)).await.unwrap_err();
    assert!(down.to_string().starts_with("the store cannot answer: SQLite says 1"), "{down}");
    let Some(database) = Database::new().await else { return };
    let store = SqlxIdempotencyStore::new(database.pool().await);
    let down = store.reserve(&identity("k"), &reservation(LONG)).await.unwrap_err();
    assert_eq!(down.to_string(), "the store cannot answer: PostgreSQL says 42P01");
    assert!(!format!("{store:?}").contains("postgres"));
}

/// Where every transaction is serializable unless it says otherwise, a race is told as a failure.
#[tokio::test]
async fn serializable_databases_give_one_reservation_too() {
    let Some(database) = Database::new().await else { return };
    let store =
        SqlxIdempotencyStore::new(database.pool_with(&[("default_transaction_isolation", "serializable")]).await);
    store.create_table().await.unwrap();
    of_many_that_reserve_one_does(Place::new(store, database)).await;
}

/// The lease and the record end at different times.
#[tokio::test]
async fn a_record_is_kept_for_its_retention_and_a_little_longer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.db");
    let store = SqliteIdempotencyStore::open(&path).unwrap();
    store.create_table().await.unwrap();
    store.reserve(&identity("k"), &reservation(LONG)).await.unwrap();
    let sql = "SELECT CAST(round((julianday(expires_at) - julianday(created_at)) * 86400) AS INTEGER), \
               CAST(round((julianday(lease_until) - julianday(created_at)) * 86400) AS INTEGER), op, request_id, state \
               FROM cratestack_idempotency";
    let row = rusqlite::Connection::open(&path).unwrap();
    let row: (i64, i64, String, String, i64) =
        row.query_row(sql, (), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))).unwrap();
    assert_eq!(row, (87_000, 300, "POST /payments".to_owned(), "r".to_owned(), 3));
    let Some(database) = Database::new().await else { return };
    let pool = database.pool().await;
    let store = SqlxIdempotencyStore::new(pool.clone());
    store.create_table().await.unwrap();
    // The longest times there are.
    let endless = Reservation { lease: Duration::MAX, retention: Duration::MAX, ..reservation(LONG) };
    assert_eq!(store.reserve(&identity("endless"), &endless).await.unwrap(), Reserved::Granted);
    store.reserve(&identity("k"), &reservation(LONG)).await.unwrap();
    let sql = "SELECT round(extract(epoch from expires_at - created_at))::bigint, \
               round(extract(epoch from lease_until - created_at))::bigint, op, request_id, state::bigint \
               FROM cratestack_idempotency WHERE key = 'k'";
    let row: (i64, i64, String, String, i64) = sqlx::query_as(sql).fetch_one(&pool).await.unwrap();
    assert_eq!(row, (87_000, 300, "POST /payments".to_owned(), "r".to_owned(), 3));
}

#[cfg(feature = "redis")]
mod redis {
    use cratestack::RedisIdempotencyStore;

    use super::*;
    use crate::servers::Redis;

    #[tokio::test]
    async fn a_record_ends_by_itself() {
        let Some(server) = Redis::start().await else { return };
        let store = RedisIdempotencyStore::new(&server.url()).unwrap().prefix("bank{x}");
        let (identity, holder) = (identity("k"), reservation(SHORT));
        store.reserve(&identity, &holder).await.unwrap();
        let name = "bank(x):{AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE:k}";
        let kept =
            |answer: String| -> i64 { answer.rsplit(':').next().unwrap().split('\r').next().unwrap().parse().unwrap() };
        assert!((86_990..=87_000).contains(&kept(server.ask(&format!("TTL {name}")).unwrap())));
        ended(&store, &identity, &holder).await;
        assert!(store.complete(&identity, &holder, &record(None)).await.unwrap());
        assert!((86_980..=87_000).contains(&kept(server.ask(&format!("TTL {name}")).unwrap())));
        // The clocks of this machine play no part, and Redis forgets in its own time.
        server.ask(&format!("PEXPIRE {name} 1")).unwrap();
        until("the end of a record", async || {
            store.reserve(&identity, &reservation(LONG)).await.unwrap() == Reserved::Granted
        })
        .await;
    }

    #[test]
    fn what_it_cannot_do_it_says() {
        for (url, says) in [
            (
                "rediss://h",
                "`rediss://` asks for TLS, which this store does not have: let a proxy on this machine do it",
            ),
            (
                "VALKEYS://h",
                "`valkeys://` asks for TLS, which this store does not have: let a proxy on this machine do it",
            ),
            ("http://user:secret@h", "the URL is none of a Redis server"),
            ("", "the URL is none of a Redis server"),
        ] {
            let error = RedisIdempotencyStore::new(url).unwrap_err().to_string();
            assert_eq!(error, format!("the store cannot answer: {says}"), "{url}");
        }
        let store = RedisIdempotencyStore::new("redis://user:secret@127.0.0.1:1").unwrap();
        assert!(!format!("{store:?}").contains("secret"));
    }
}

/// Long ago for both databases.
const EXPIRED: &str = "UPDATE cratestack_idempotency SET expires_at = '2015-01-31T10:00:00.000000Z' WHERE key = 'old'";

/// Two completed requests.
async fn two(store: &dyn IdempotencyStore) {
    for key in ["old", "new"] {
        let (identity, reservation) = (identity(key), reservation(LONG));
        assert_eq!(store.reserve(&identity, &reservation).await.unwrap(), Reserved::Granted);
        assert!(store.complete(&identity, &reservation, &record(None)).await.unwrap());
    }
}

#[tokio::test]
async fn what_has_expired_is_removed_from_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.db");
    let store = SqliteIdempotencyStore::open(&file).unwrap();
    store.create_table().await.unwrap();
    two(&store).await;
    assert_eq!(store.purge().await.unwrap(), 0);
    rusqlite::Connection::open(&file).unwrap().execute(EXPIRED, ()).unwrap();
    assert_eq!(store.purge().await.unwrap(), 1);
    assert_eq!(store.reserve(&identity("old"), &reservation(LONG)).await.unwrap(), Reserved::Granted);
    assert!(matches!(store.reserve(&identity("new"), &reservation(LONG)).await.unwrap(), Reserved::EffectOnly(_)));
}

#[tokio::test]
async fn what_has_expired_is_removed_from_postgres() {
    let Some(database) = Database::new().await else { return };
    let pool = database.pool().await;
    let store = SqlxIdempotencyStore::new(pool.clone());
    store.create_table().await.unwrap();
    two(&store).await;
    assert_eq!(store.purge().await.unwrap(), 0);
    sqlx::query(EXPIRED).execute(&pool).await.unwrap();
    assert_eq!(store.purge().await.unwrap(), 1);
    assert_eq!(store.reserve(&identity("old"), &reservation(LONG)).await.unwrap(), Reserved::Granted);
}
