//! A bank in a database of its own, asked over HTTP.

#![allow(dead_code, reason = "each test binary uses a part")]

use std::net::SocketAddr;

use bank::Bank;
use bank::schema::{Account, Db, Direction, Entry, NewAccount, NewCustomer, account, customer};
use cratestack::axum::Router;
use cratestack::axum::body::{Body, to_bytes};
use cratestack::axum::extract::ConnectInfo;
use cratestack::axum::http::{Request, StatusCode, header};
use cratestack::sqlx::{self, AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use cratestack::{Decimal, DevAuth, Error, Uuid};
use serde_json::Value;
use tower::ServiceExt as _;

pub(crate) struct House {
    pub(crate) db: Db,
    pub(crate) router: Router,
    pub(crate) kept: Kept,
}

pub(crate) enum Kept {
    File(tempfile::TempDir),
    Postgres { server: String, url: String, name: String },
}

pub(crate) fn token(id: &str, role: &str) -> String {
    DevAuth::header(&format!(r#"{{"id":"{id}","role":"{role}","tenantId":"berlin"}}"#))
}

impl Kept {
    pub(crate) fn url(&self) -> String {
        match self {
            Self::File(folder) => format!("sqlite:{}", folder.path().join("bank.db").display()),
            Self::Postgres { url, .. } => url.clone(),
        }
    }
}

impl House {
    /// One on each database.
    pub(crate) async fn all() -> Vec<Self> {
        let mut all = vec![Self::sqlite().await];
        all.extend(Self::postgres().await);
        all
    }

    pub(crate) async fn sqlite() -> Self {
        let kept = Kept::File(tempfile::tempdir().unwrap());
        Self::open(&kept.url().clone(), kept).await
    }

    pub(crate) async fn postgres() -> Option<Self> {
        if std::env::var("CRATESTACK_TEST_ONLY").is_ok_and(|only| only == "sqlite") {
            return None;
        }
        let server = std::env::var("CRATESTACK_TEST_POSTGRES").expect("set CRATESTACK_TEST_POSTGRES to a server's URL");
        let name = format!("bank_{}", Uuid::now_v7().simple());
        let mut connection = PgConnection::connect(&server).await.unwrap();
        connection.execute(AssertSqlSafe(format!("CREATE DATABASE {name}"))).await.unwrap();
        let (base, options) = server
            .split_once('?')
            .map_or((server.as_str(), String::new()), |(base, options)| (base, format!("?{options}")));
        let url = format!("{}/{name}{options}", base.rsplit_once('/').unwrap().0);
        Some(Self::open(&url.clone(), Kept::Postgres { server, url, name }).await)
    }

    async fn open(url: &str, kept: Kept) -> Self {
        Db::apply(url).await.unwrap();
        Db::apply(url).await.unwrap();
        let db = Db::connect(url).await.unwrap();
        let router = cratestack::router(db.clone(), Bank).auth(DevAuth::new()).into_service();
        Self { db, router, kept }
    }

    /// Ends it, and what it held.
    pub(crate) async fn close(self) {
        self.db.engine().close().await;
        if let Kept::Postgres { server, name, .. } = self.kept {
            let mut connection = PgConnection::connect(&server).await.unwrap();
            let _ = connection.execute(AssertSqlSafe(format!("DROP DATABASE {name} WITH (FORCE)"))).await;
        }
    }

    /// Accounts of one customer, with that balance each, made by a job of the bank.
    pub(crate) async fn accounts(&self, count: usize, balance: Decimal) -> Result<Vec<Account>, Error> {
        let job = self.db.as_system("opening");
        let new = NewCustomer {
            name: "Ann".into(),
            email: "ann@example.com".into(),
            country: "DE".into(),
            id: None,
            birth_date: None,
            status: None,
        };
        let owner = job.customers().create(new).put(customer::tenant_id(), "berlin").await?.into_row()?;
        let mut accounts = Vec::new();
        for number in 0..count {
            let new = NewAccount {
                id: None,
                customer_id: owner.id,
                iban: iban(number),
                currency: "EUR".into(),
                overdraft: None,
            };
            let new = job.accounts().create(new).put(account::tenant_id(), "berlin").put(account::balance(), balance);
            accounts.push(new.await?.into_row()?);
        }
        Ok(accounts)
    }

    pub(crate) async fn post(&self, path: &str, token: &str, body: &Value) -> (StatusCode, Value) {
        let request = Request::post(path)
            .header(header::AUTHORIZATION, token)
            .header(header::CONTENT_TYPE, "application/json")
            .extension(ConnectInfo(SocketAddr::from(([127, 0, 0, 1], 1))))
            .body(Body::from(body.to_string()))
            .unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        (status, serde_json::from_slice(&body).unwrap())
    }

    /// How many events the trail has of a model.
    pub(crate) async fn events(&self, model: &'static str) -> Result<i64, Error> {
        let sql = "SELECT count(*) FROM cratestack_audit WHERE model = $1";
        let postgres = matches!(self.kept, Kept::Postgres { .. });
        let counted = self.db.transaction(async move |tx| {
            if postgres {
                return Ok(sqlx::query_scalar(sql).bind(model).fetch_one(&mut *tx.sqlx().await?).await?);
            }
            tx.sqlite(move |connection| connection.query_row(sql, [model], |row| row.get(0))).await
        });
        counted.await
    }

    /// Whether the books are in order: the sum of all balances is `total`, none is negative, each is the one of the
    /// account's last entry, and the entries of each transfer cancel out.
    pub(crate) async fn audit(&self, total: Decimal, opening: Decimal) {
        let job = self.db.as_system("audit");
        let accounts = job.accounts().all().fetch().await.unwrap();
        let entries = job.entries().all().fetch().await.unwrap();
        assert_eq!(accounts.iter().map(|account| account.balance).sum::<Decimal>(), total);
        for account in &accounts {
            assert!(account.balance >= Decimal::ZERO, "{account:?}");
            let own: Vec<&Entry> = entries.iter().filter(|entry| entry.account_id == account.id).collect();
            let moved: Decimal = own.iter().map(|entry| signed(entry)).sum();
            assert_eq!(opening + moved, account.balance, "{account:?}");
            assert_eq!(account.version, 1 + i64::try_from(own.len()).unwrap(), "{account:?}");
        }
        for transfer in job.transfers().all().fetch().await.unwrap() {
            let sides: Vec<&Entry> = entries.iter().filter(|entry| entry.transfer_id == transfer.id).collect();
            assert_eq!(sides.len(), 2, "{transfer:?}");
            assert_eq!(sides.iter().map(|entry| signed(entry)).sum::<Decimal>(), Decimal::ZERO, "{transfer:?}");
        }
    }
}

fn signed(entry: &Entry) -> Decimal {
    match entry.direction {
        Direction::Credit => entry.amount,
        _ => -entry.amount,
    }
}

/// With the check digits of ISO 7064.
fn iban(number: usize) -> String {
    let bban = format!("10000000{number:010}");
    // `DE00` behind it, with letters as numbers.
    let digits = format!("{bban}131400");
    let rest = digits.bytes().fold(0_u32, |rest, digit| (rest * 10 + u32::from(digit - b'0')) % 97);
    format!("DE{:02}{bban}", 98 - rest)
}
