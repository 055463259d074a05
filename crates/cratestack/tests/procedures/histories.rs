//! Each history does harm without the attribute, and none with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cratestack::axum::Router;
use cratestack::{DevAuth, Error};
use tokio::sync::{Barrier, Semaphore};

use crate::support::{Postgres, call};

mod hospital {
    cratestack::include_schema!("tests/procedures/histories.cstack");
}

use hospital::{Caller, Db, NewBooking, NewDoctor, NewPurse, ReadTx, Tx, booking, doctor, purse};

/// Where bodies meet, so that they run at the same time.
enum Meeting {
    /// Nowhere: on SQLite one comes after the other.
    None,
    /// After they have read, on their first tries.
    Both { barrier: Barrier, tries: AtomicUsize },
    /// The first one waits for the others to be done.
    First { has_read: Semaphore, go_on: Semaphore, tries: AtomicUsize },
}

struct Bodies(Arc<Meeting>);

impl Bodies {
    async fn meet(&self) {
        match &*self.0 {
            Meeting::Both { barrier, tries } if tries.fetch_add(1, Ordering::SeqCst) < 2 => {
                barrier.wait().await;
            }
            Meeting::First { has_read, go_on, tries } if tries.fetch_add(1, Ordering::SeqCst) == 0 => {
                has_read.add_permits(1);
                go_on.acquire().await.unwrap().forget();
            }
            _ => {}
        }
    }

    async fn leave(&self, tx: &mut Tx<'_>, name: String) -> Result<bool, Error> {
        let others = tx.doctors().filter(doctor::on_call().eq(true)).count().await?;
        self.meet().await;
        if others < 2 {
            return Ok(false);
        }
        tx.without_rules().doctors().update(name).put(doctor::on_call(), false).await?;
        Ok(true)
    }

    async fn book(&self, tx: &mut Tx<'_>, room: i64) -> Result<bool, Error> {
        let taken = tx.bookings().filter(booking::room().eq(room)).count().await? > 0;
        self.meet().await;
        if !taken {
            tx.without_rules().bookings().create(NewBooking { room }).await?;
        }
        Ok(!taken)
    }

    async fn add(&self, tx: &mut Tx<'_>) -> Result<i64, Error> {
        let amount = tx.purses().get("checking".to_owned()).await?.amount + 10;
        self.meet().await;
        tx.without_rules().purses().update("checking".to_owned()).put(purse::amount(), amount).await?;
        Ok(amount)
    }

    async fn withdraw(&self, tx: &mut Tx<'_>) -> Result<bool, Error> {
        let purses = tx.purses().all().fetch().await?;
        let fee = i64::from(purses.iter().map(|purse| purse.amount).sum::<i64>() < 10);
        self.meet().await;
        let checking = tx.purses().get("checking".to_owned()).await?.amount;
        let left = checking - 10 - fee;
        tx.without_rules().purses().update("checking".to_owned()).put(purse::amount(), left).await?;
        Ok(fee == 1)
    }
}

async fn deposit(tx: &mut Tx<'_>) -> Result<i64, Error> {
    tx.without_rules().purses().update("savings".to_owned()).put(purse::amount(), 20).await?;
    Ok(20)
}

async fn report(tx: &mut ReadTx<'_>) -> Result<i64, Error> {
    Ok(tx.purses().all().fetch().await?.iter().map(|purse| purse.amount).sum())
}

impl hospital::Procedures for Bodies {
    async fn leave(&self, tx: &mut Tx<'_>, caller: &Caller, name: String) -> Result<bool, Error> {
        assert_eq!(caller.id, name);
        self.leave(tx, name).await
    }

    async fn leave_weakly(&self, tx: &mut Tx<'_>, _: &Caller, name: String) -> Result<bool, Error> {
        self.leave(tx, name).await
    }

    async fn book(&self, tx: &mut Tx<'_>, caller: Option<&Caller>, room: i64) -> Result<bool, Error> {
        assert!(caller.is_none());
        self.book(tx, room).await
    }

    async fn book_weakly(&self, tx: &mut Tx<'_>, _: Option<&Caller>, room: i64) -> Result<bool, Error> {
        self.book(tx, room).await
    }

    async fn add(&self, tx: &mut Tx<'_>, _: Option<&Caller>) -> Result<i64, Error> {
        self.add(tx).await
    }

    async fn add_weakly(&self, tx: &mut Tx<'_>, _: Option<&Caller>) -> Result<i64, Error> {
        self.add(tx).await
    }

    async fn withdraw(&self, tx: &mut Tx<'_>, _: Option<&Caller>) -> Result<bool, Error> {
        self.withdraw(tx).await
    }

    async fn withdraw_weakly(&self, tx: &mut Tx<'_>, _: Option<&Caller>) -> Result<bool, Error> {
        self.withdraw(tx).await
    }

    async fn deposit(&self, tx: &mut Tx<'_>, _: Option<&Caller>) -> Result<i64, Error> {
        deposit(tx).await
    }

    async fn deposit_weakly(&self, tx: &mut Tx<'_>, _: Option<&Caller>) -> Result<i64, Error> {
        deposit(tx).await
    }

    async fn report(&self, tx: &mut ReadTx<'_>, _: Option<&Caller>) -> Result<i64, Error> {
        report(tx).await
    }

    async fn report_weakly(&self, tx: &mut ReadTx<'_>, _: Option<&Caller>) -> Result<i64, Error> {
        report(tx).await
    }
}

struct Base {
    db: Db,
    postgres: Option<Postgres>,
}

impl Base {
    /// A new database, on PostgreSQL if `postgres` is there.
    async fn new(postgres: Option<Postgres>) -> Self {
        let url = postgres.as_ref().map_or("sqlite::memory:", |database| &database.url);
        Db::apply(url).await.unwrap();
        let db = Db::connect(url).await.unwrap();
        db.as_system("setup")
            .transaction(async move |tx| {
                for name in ["ann", "bob"] {
                    tx.doctors().create(NewDoctor { name: name.to_owned() }).await?;
                }
                for kind in ["checking", "savings"] {
                    tx.purses().create(NewPurse { kind: kind.to_owned() }).await?;
                }
                Ok(())
            })
            .await
            .unwrap();
        Self { db, postgres }
    }

    fn router(&self, meeting: &Arc<Meeting>) -> Router {
        cratestack::router(self.db.clone(), Bodies(Arc::clone(meeting))).auth(DevAuth::new()).into_router()
    }

    /// Two calls at the same time.
    async fn both(&self, name: &str, claims: [&str; 2], bodies: [&str; 2]) {
        let meeting = match self.postgres {
            Some(_) => Meeting::Both { barrier: Barrier::new(2), tries: AtomicUsize::new(0) },
            None => Meeting::None,
        };
        let router = self.router(&Arc::new(meeting));
        let (one, other) =
            tokio::join!(call(&router, name, claims[0], bodies[0]), call(&router, name, claims[1], bodies[1]));
        assert_eq!((one.0, other.0), (200, 200), "{name} {one:?} {other:?}");
    }

    async fn close(self) {
        self.db.engine().close().await;
        if let Some(postgres) = self.postgres {
            postgres.drop().await;
        }
    }
}

/// Runs a history on new databases and gives what it comes to: without the attribute on PostgreSQL, and with it on both.
async fn outcomes<T>(history: impl AsyncFn(&Base, bool) -> T) -> (Option<T>, Vec<T>) {
    let (mut weak, mut strong) = (None, Vec::new());
    for postgres in [false, true] {
        for isolated in [false, true] {
            let database = if postgres { Postgres::new().await } else { None };
            if postgres && database.is_none() {
                continue;
            }
            let base = Base::new(database).await;
            let outcome = history(&base, isolated).await;
            match (postgres, isolated) {
                (true, false) => weak = Some(outcome),
                // On SQLite every transaction is serialisable.
                _ => strong.push(outcome),
            }
            base.close().await;
        }
    }
    (weak, strong)
}

fn named(name: &'static str, weakly: &'static str, isolated: bool) -> &'static str {
    if isolated { name } else { weakly }
}

#[tokio::test]
async fn write_skew() {
    let (weak, strong) = outcomes(async |base: &Base, isolated| {
        let name = named("leave", "leaveWeakly", isolated);
        base.both(name, [r#"{"id":"ann"}"#, r#"{"id":"bob"}"#], [r#"{"name":"ann"}"#, r#"{"name":"bob"}"#]).await;
        base.db.anonymous().doctors().filter(doctor::on_call().eq(true)).count().await.unwrap()
    })
    .await;
    assert_eq!(weak.unwrap_or(0), 0, "without the attribute nobody stays");
    assert!(strong.iter().all(|left| *left == 1), "{strong:?}");
}

#[tokio::test]
async fn phantom() {
    let (weak, strong) = outcomes(async |base: &Base, isolated| {
        base.both(named("book", "bookWeakly", isolated), ["", ""], [r#"{"room":7}"#, r#"{"room":7.0}"#]).await;
        base.db.anonymous().bookings().all().count().await.unwrap()
    })
    .await;
    assert_eq!(weak.unwrap_or(2), 2, "without the attribute two have the room");
    assert!(strong.iter().all(|bookings| *bookings == 1), "{strong:?}");
}

#[tokio::test]
async fn lost_update() {
    let (weak, strong) = outcomes(async |base: &Base, isolated| {
        base.both(named("add", "addWeakly", isolated), ["", ""], ["{}", "{}"]).await;
        base.db.anonymous().purses().get("checking".to_owned()).await.unwrap().amount
    })
    .await;
    assert_eq!(weak.unwrap_or(10), 10, "without the attribute one of the two is lost");
    assert!(strong.iter().all(|amount| *amount == 20), "{strong:?}");
}

/// Fekete's: a report that sees a deposit and not the withdrawal before it, which then has a fee as if there had been no
/// deposit.
#[tokio::test]
async fn read_only_anomaly() {
    let (weak, strong) = outcomes(async |base: &Base, isolated| {
        let meeting = match base.postgres {
            Some(_) => {
                Meeting::First { has_read: Semaphore::new(0), go_on: Semaphore::new(0), tries: AtomicUsize::new(0) }
            }
            None => Meeting::None,
        };
        let meeting = Arc::new(meeting);
        let router = base.router(&meeting);
        let withdrawal = call(&router, named("withdraw", "withdrawWeakly", isolated), "", "{}");
        let others = async {
            if let Meeting::First { has_read, .. } = &*meeting {
                has_read.acquire().await.unwrap().forget();
            }
            let (deposited, _) = call(&router, named("deposit", "depositWeakly", isolated), "", "{}").await;
            let (reported, report) = call(&router, named("report", "reportWeakly", isolated), "", "{}").await;
            assert_eq!((deposited, reported), (200, 200));
            if let Meeting::First { go_on, .. } = &*meeting {
                go_on.add_permits(1);
            }
            report["value"].as_i64().unwrap()
        };
        let ((status, withdrawn), reported) = tokio::join!(withdrawal, others);
        assert_eq!(status, 200, "{withdrawn}");
        // Who saw twenty saw a bank where the withdrawal was yet to come, and would have no fee.
        reported == 20 && withdrawn["value"] == true
    })
    .await;
    assert!(weak.unwrap_or(true), "without the attribute the report is wrong");
    assert!(strong.iter().all(|wrong| !wrong), "{strong:?}");
}
