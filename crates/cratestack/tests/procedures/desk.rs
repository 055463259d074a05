//! What bodies get, what callers get of them, and what the trail says of it; and transactions beside the API.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::extract::{Path, State};
use axum::routing::post;
use cratestack::axum::{self, Router};
use cratestack::engine::audit::read::{Filter, Reader};
use cratestack::{AuthMethod, Code, DevAuth, Error, IsolationLevel, run_in_isolated_tx, serde_json::json};

use crate::support::{Postgres, call};

pub(crate) mod office {
    cratestack::include_schema!("tests/procedures/desk.cstack");
}

use office::{Clerk, CountInput, Db, NewTicket, ReadTx, Ticket, Tx, ticket};

pub(crate) struct Office {
    pub(crate) closed: Arc<AtomicUsize>,
}

impl office::Procedures for Office {
    async fn close(&self, tx: &mut Tx<'_>, caller: &Clerk, id: i64) -> Result<Ticket, Error> {
        let ticket = tx.tickets().get(id).await?;
        if ticket.closed_by.is_some() {
            return Err(Error::reject("already_closed", 409, "the ticket is closed already"));
        }
        // What no request may send.
        let refused = tx.tickets().update(id).any_version().put(ticket::closed_by(), "eve").await.unwrap_err();
        assert!(matches!(refused.code(), Code::Forbidden | Code::ValidationFailed), "{refused:?}");
        let code = tx.without_rules();
        let update = code.tickets().update(id).if_version(ticket.version);
        let closed = update.put(ticket::closed_by(), caller.id.clone()).await?.into_row()?;
        tx.emit("ticket_closed", id, json!({"by": caller.id})).await?;
        let counter = Arc::clone(&self.closed);
        tx.after_commit(move || {
            counter.fetch_add(1, Ordering::SeqCst);
        });
        Ok(closed)
    }

    async fn count(&self, tx: &mut ReadTx<'_>, caller: Option<&Clerk>, args: CountInput) -> Result<i64, Error> {
        if !args.open && caller.is_none() {
            return Err(Error::reject("strangers_see_open_ones", 403, "say who you are to count all"));
        }
        let mut tickets = tx.tickets().all();
        if args.open {
            tickets = tickets.filter(ticket::closed_by().is_null());
        }
        Ok(i64::try_from(tickets.count().await?).unwrap())
    }
}

/// A route beside the API, whose future must be `Send`.
async fn rename(State(db): State<Db>, Path((id, text)): Path<(i64, String)>) -> Result<String, String> {
    let renamed = run_in_isolated_tx(&db, IsolationLevel::Serializable, async move |tx| {
        let ticket = tx.tickets().get(id).await?;
        let patch = office::TicketPatch { text: text.clone().into() };
        let job = tx.as_system("rename");
        job.tickets().update(id).if_version(ticket.version).set(patch).await?.into_row()
    });
    renamed.await.map(|ticket| ticket.text).map_err(|error| error.to_string())
}

pub(crate) async fn bases() -> Vec<(Db, Option<Postgres>)> {
    let mut all = Vec::new();
    for postgres in [None, Postgres::new().await] {
        let url = postgres.as_ref().map_or("sqlite::memory:", |database| &database.url);
        if all.is_empty() || postgres.is_some() {
            Db::apply(url).await.unwrap();
            all.push((Db::connect(url).await.unwrap(), postgres));
        }
    }
    all
}

#[tokio::test]
async fn tickets_are_closed_and_counted() {
    let (ann, bob) = (r#"{"id":"ann"}"#, r#"{"id":"bob"}"#);
    for (db, postgres) in bases().await {
        let closed = Arc::new(AtomicUsize::new(0));
        let api = cratestack::router(db.clone(), Office { closed: Arc::clone(&closed) }).auth(DevAuth::new());
        let router = api.into_router();
        let clerk = db.as_principal(&Clerk { id: "ann".into() }, AuthMethod::Mtls).unwrap();
        for text in ["a", "b"] {
            clerk.tickets().create(NewTicket { text: text.into() }).await.unwrap();
        }

        let (status, ticket) = call(&router, "close", bob, r#"{"id":"1"}"#).await;
        assert_eq!(
            (status, ticket),
            (200, json!({"id": "1", "text": "a", "closedBy": "bob", "version": 2})),
            "without what only the server sees"
        );
        let (status, problem) = call(&router, "close", ann, r#"{"id":"1"}"#).await;
        assert_eq!((status, &problem["code"]), (409, &json!("already_closed")), "{problem}");
        assert_eq!(problem["type"], "https://cratestack.dev/problems/already_closed");
        for (claims, body, status, code) in [
            ("", "{}", 401, "unauthenticated"),
            (ann, r#"{"id":1}"#, 422, "validation_failed"),
            (ann, r#"{"id":"9"}"#, 404, "not_found"),
            (ann, "[]", 422, "validation_failed"),
        ] {
            let (answered, problem) = call(&router, "close", claims, body).await;
            assert_eq!((answered, problem["code"].as_str()), (status, Some(code)), "{problem}");
        }
        assert_eq!(closed.load(Ordering::SeqCst), 1);

        assert_eq!(call(&router, "count", "", r#"{"open":true}"#).await, (200, json!({"value": "1"})));
        assert_eq!(call(&router, "count", ann, r#"{"open":false}"#).await, (200, json!({"value": "2"})));
        let (status, problem) = call(&router, "count", "", r#"{"open":false}"#).await;
        assert_eq!((status, &problem["code"]), (403, &json!("strangers_see_open_ones")));

        let renamed = rename(State(db.clone()), Path((2, "c".to_owned()))).await;
        assert_eq!(renamed.unwrap(), "c");
        let _mounted: Router = Router::new().route("/{id}/{text}", post(rename)).with_state(db.clone());
        let mut events = Reader::open(db.engine()).await.unwrap();
        let told: Vec<String> = events
            .list(&Filter::default(), None, 10)
            .await
            .unwrap()
            .iter()
            .map(|event| {
                let entry: cratestack::serde_json::Value = cratestack::serde_json::from_str(&event.entry).unwrap();
                let word = |name: &str| entry[name].as_str().unwrap_or("-").to_owned();
                let subject = entry["actor"]["subject"].as_str().unwrap_or("-");
                format!("{subject} {} {} {}", word("auth"), word("op"), word("operation"))
            })
            .collect();
        assert_eq!(
            told,
            [
                "rename system tickets.update update",
                "bob dev POST /rpc/close update",
                "ann mtls tickets.create create",
                "ann mtls tickets.create create",
            ]
        );
        db.engine().close().await;
        if let Some(postgres) = postgres {
            postgres.drop().await;
        }
    }
}

#[tokio::test]
async fn the_deadline_of_a_request_is_that_of_its_transaction() {
    for (db, postgres) in bases().await {
        let request = cratestack::RequestContext {
            deadline: std::time::Duration::from_millis(200),
            ..cratestack::RequestContext::default()
        };
        let clerk = db.as_principal(&Clerk { id: "ann".into() }, AuthMethod::Jwt).unwrap().within(request);
        let late = clerk.transaction(async move |tx| {
            tx.tickets().create(NewTicket { text: "a".into() }).await?;
            std::future::pending::<Result<(), Error>>().await
        });
        assert_eq!(late.await.unwrap_err().code(), Code::Unavailable);
        assert_eq!(db.anonymous().tickets().all().count().await.unwrap(), 0);
        db.engine().close().await;
        if let Some(postgres) = postgres {
            postgres.drop().await;
        }
    }
}

/// What is spawned, and what an axum handler awaits, moves between threads.
#[tokio::test]
async fn transactions_move_between_threads() {
    for (db, postgres) in bases().await {
        let new = || NewTicket { text: "a".into() };
        let (one, two, three) = (db.clone(), db.clone(), db.clone());
        let anonymous = tokio::spawn(async move {
            let done = one.transaction(async move |tx| tx.tickets().create(new()).await.map(|_| ()));
            done.await.unwrap_err().code()
        });
        assert_eq!(anonymous.await.unwrap(), Code::Unauthenticated);
        let job = tokio::spawn(async move {
            let job = two.as_system("import");
            job.transaction(async move |tx| tx.tickets().create(new()).await?.into_row()).await.map(|ticket| ticket.id)
        });
        assert_eq!(job.await.unwrap(), Ok(1));
        let clerk = tokio::spawn(async move {
            let clerk = three.as_principal(&Clerk { id: "ann".into() }, AuthMethod::Jwt)?;
            let body = async move |tx: &mut Tx<'_>| tx.tickets().create(new()).await?.into_row();
            Ok::<_, Error>(run_in_isolated_tx(&clerk, IsolationLevel::Serializable, body).await?.id)
        });
        assert_eq!(clerk.await.unwrap(), Ok(2));

        let nested = db.transaction(async move |tx| {
            let job = tx.as_system("nested");
            job.transaction(async move |tx| tx.tickets().all().count().await).await
        });
        assert_eq!(nested.await.unwrap_err().code(), Code::Internal);
        db.engine().close().await;
        if let Some(postgres) = postgres {
            postgres.drop().await;
        }
    }
}

#[tokio::test]
async fn what_is_put_twice_is_what_was_put_last() {
    let db = Db::connect("sqlite::memory:").await.unwrap();
    let job = db.as_system("import");
    let new = job.tickets().create(NewTicket { text: "a".into() });
    let new = new.put(ticket::closed_by(), "bob").put(ticket::text(), "b").put(ticket::closed_by(), "eve");
    let ticket = new.await.unwrap().into_row().unwrap();
    assert_eq!((ticket.text.as_str(), ticket.closed_by.as_deref()), ("b", Some("eve")));
    let opened = job.tickets().update(1).if_version(1).put(ticket::text(), "c").put_null(ticket::closed_by());
    let patch = office::TicketPatch { text: "d".into() };
    let ticket = opened.set(patch).await.unwrap().into_row().unwrap();
    assert_eq!((ticket.text.as_str(), ticket.closed_by, ticket.version), ("d", None, 2));
}

/// A route of one's own answers with the problem that the API would.
#[tokio::test]
async fn an_error_is_an_answer() {
    let response = axum::response::IntoResponse::into_response(Error::reject("too_late", 410, "the desk is closed"));
    assert_eq!(response.status().as_u16(), 410);
    let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
    let problem: cratestack::serde_json::Value = cratestack::serde_json::from_slice(&body).unwrap();
    assert_eq!(
        (&problem["type"], &problem["status"], &problem["detail"]),
        (&json!("https://cratestack.dev/problems/too_late"), &json!(410), &json!("the desk is closed"))
    );
}
