//! Every scalar there and back, defaults, keys of several parts, unknown stored text.

use cratestack::Change::Set;
use cratestack::{AuthMethod, Code, DateTime, Decimal, Utc, Uuid, dec};
use serde_json::json;

use crate::databases;
use crate::shapes::{
    Caller, Db, Money, NewOwner, NewPart, NewSeal, NewThing, Session, State, Thing, ThingPatch, part, seal, thing,
};

async fn opened(databases: Vec<databases::Database>) -> Vec<(databases::Database, Db)> {
    let mut all = Vec::new();
    for database in databases {
        let db = Db::connect(&database.url).await.unwrap();
        all.push((database, db));
    }
    all
}

fn schema() -> cratestack::schema::ir::Schema {
    cratestack::schema::compile("shapes", crate::shapes::SOURCE).0.unwrap()
}

fn session(db: &Db) -> Session<'static> {
    let caller = Caller {
        id: "ann".to_owned(),
        state: Some(State::InProgress),
        tenant_id: "berlin".to_owned(),
        roles: vec!["x".to_owned()],
    };
    db.as_principal(&caller, AuthMethod::System).unwrap()
}

fn instant(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

fn plain() -> NewThing {
    NewThing {
        id: None,
        owner_id: "o".to_owned(),
        name: "n".to_owned(),
        count: 1,
        large: None,
        ratio: None,
        done: None,
        price: dec!(1.5),
        exact: None,
        at: instant("2026-01-31T10:00:00.123456Z"),
        day: None,
        code: None,
        octets: vec![],
        extra: None,
        state: None,
        label: None,
        tags: vec![],
        numbers: vec![],
        links: vec![],
        email: None,
        r#type: None,
    }
}

fn full() -> NewThing {
    NewThing {
        id: Some(Uuid::from_u128(7)),
        name: "quote \" backslash \\ ü 😀".to_owned(),
        count: -9_007_199_254_740_991,
        large: Some(i64::MIN),
        ratio: Some(0.1 + 0.2),
        done: Some(true),
        price: dec!(-12345678901234.5678),
        exact: Some(Decimal::MAX),
        day: Some("2024-02-29".parse().unwrap()),
        code: Some("tz4a98xxat96iws9zmbrgj3a".to_owned()),
        octets: vec![0, 255, 10],
        extra: Some(json!({"a": [1, 2.5, null, true, "x"], "b": {}})),
        state: Some(State::Unknown),
        label: Some(None),
        tags: vec!["a".to_owned(), String::new()],
        numbers: vec![1, -2],
        links: vec![Uuid::from_u128(9)],
        email: Some("a@b.c".to_owned()),
        r#type: Some("t".to_owned()),
        ..plain()
    }
}

async fn make(session: &Session<'_>, new: NewThing) -> Thing {
    if session.owners().find("o").await.unwrap().is_none() {
        session.owners().create(NewOwner { id: "o".to_owned() }).await.unwrap();
    }
    session.things().create(new).await.unwrap().into_row().unwrap()
}

#[tokio::test]
async fn every_scalar_there_and_back() {
    for (_database, db) in opened(databases::all(&schema()).await).await {
        let ann = session(&db);
        let sent = full();
        let made = make(&ann, sent.clone()).await;
        assert_eq!(Some(made.id), sent.id);
        assert_eq!(made.name, sent.name);
        assert_eq!(made.count, sent.count);
        assert_eq!(Some(made.large), sent.large);
        assert_eq!(made.ratio, sent.ratio);
        assert_eq!(Some(made.done), sent.done);
        assert_eq!(made.price, sent.price);
        assert_eq!(made.exact, sent.exact);
        assert_eq!(made.at, sent.at);
        assert_eq!(made.day, sent.day);
        assert_eq!(Some(made.code.clone()), sent.code);
        assert_eq!(made.octets, sent.octets);
        assert_eq!(made.extra, sent.extra);
        assert_eq!(Some(made.state.clone()), sent.state);
        assert_eq!(made.label, None);
        assert_eq!((&made.tags, &made.numbers, &made.links), (&sent.tags, &sent.numbers, &sent.links));
        assert_eq!((&made.email, &made.r#type), (&sent.email, &sent.r#type));
        assert_eq!((made.tenant_id.as_str(), made.balance, made.version), ("berlin", dec!(0), 1));
        assert_eq!(ann.things().get(made.id).await.unwrap(), made);

        // Each value finds its row.
        let found = [
            thing::id().eq(made.id),
            thing::name().eq(&made.name),
            thing::count().eq(made.count),
            thing::large().lte(i64::MIN),
            thing::ratio().eq(made.ratio.unwrap()),
            thing::done().eq(true),
            thing::price().eq(made.price),
            thing::exact().gte(Decimal::MAX),
            thing::at().eq(made.at),
            thing::day().is_in([made.day.unwrap()]),
            thing::code().eq(&made.code),
            thing::octets().eq(made.octets.clone()),
            thing::extra().is_not_null(),
            thing::state().eq(State::Unknown),
            thing::label().is_null(),
            thing::tags().is_not_null(),
            thing::r#type().eq("t"),
            thing::owner().id().eq("o"),
        ];
        assert_eq!(format!("{:?}", found[1]), "Filter { .. }");
        for (at, filter) in found.into_iter().enumerate() {
            assert_eq!(ann.things().filter(filter).count().await.unwrap(), 1, "filter {at}");
        }
        db.engine().close().await;
    }
}

#[tokio::test]
async fn defaults_and_changes() {
    for (_database, db) in opened(databases::all(&schema()).await).await {
        let ann = session(&db);
        let made = make(&ann, plain()).await;
        assert_eq!((made.large, made.done, made.state.clone()), (9_007_199_254_740_993, false, State::Open));
        assert_eq!((made.label.as_deref(), made.ratio, &made.extra), (Some("none"), None, &None));
        assert!(made.tags.is_empty());

        let patch = ThingPatch {
            large: Set(5),
            price: dec!(2.25).into(),
            label: Set(None),
            extra: Set(Some(json!([1]))),
            numbers: Set(vec![4]),
            state: Set(State::InProgress),
            ..ThingPatch::default()
        };
        let next = ann.things().update(made.id).if_version(1).set(patch).await.unwrap().into_row().unwrap();
        let expected = Thing {
            large: 5,
            price: dec!(2.25),
            label: None,
            extra: Some(json!([1])),
            numbers: vec![4],
            state: State::InProgress,
            version: 2,
            updated_at: next.updated_at,
            ..made
        };
        assert_eq!(next, expected);

        // What no input can hold is said of each field, before anything is sent.
        let bad = NewThing { ratio: Some(f64::NAN), extra: Some(json!(null)), ..plain() };
        let bad = ann.things().create(bad).await.unwrap_err();
        let pointers: Vec<_> = bad.field_errors().iter().map(|error| error.pointer.as_str()).collect();
        assert_eq!(pointers, ["#/ratio", "#/extra"]);
        // And what the column cannot hold is said by the engine: nothing is rounded.
        let bad = NewThing { price: dec!(0.00001), at: instant("2026-01-31T10:00:00.123456789Z"), ..plain() };
        let bad = ann.things().create(bad).await.unwrap_err();
        let codes: Vec<_> = bad.field_errors().iter().map(|error| error.code.as_str()).collect();
        assert_eq!(codes, ["precision", "precision"], "{bad}");
        let nan = ann.things().filter(thing::ratio().gt(f64::NAN)).fetch().await.unwrap_err();
        assert_eq!(
            (nan.code(), nan.detail()),
            (Code::InvalidQuery, "the value that `ratio` is compared with must be finite")
        );
        db.engine().close().await;
    }
}

#[tokio::test]
async fn keys_of_several_parts_and_generated_keys() {
    for (_database, db) in opened(databases::all(&schema()).await).await {
        let ann = session(&db);
        let made = make(&ann, plain()).await;
        for line in [1, 2] {
            let text = (line == 2).then(|| "two".to_owned());
            ann.thing_parts().create(NewPart { thing_id: made.id, line, text }).await.unwrap();
        }
        let second = ann.thing_parts().get((made.id, 2)).await.unwrap();
        assert_eq!(second.text.as_deref(), Some("two"));
        assert_eq!(ann.thing_parts().find((made.id, 3)).await.unwrap(), None);
        let sealed = ann.seals().create(NewSeal { thing_id: Some(made.id) }).await.unwrap().into_row().unwrap();
        assert_eq!(ann.seals().filter(seal::id().eq(sealed.id)).first().await.unwrap().as_ref(), Some(&sealed));
        assert_eq!(ann.seals().get(sealed.id).await.unwrap(), sealed);
        ann.seals().create(NewSeal::default()).await.unwrap();

        let all = ann.seals().all().order_by(seal::id().asc()).include(seal::thing()).fetch().await.unwrap();
        assert_eq!((all[0].1.as_ref(), all[1].1.as_ref()), (Some(&made), None));
        let rows = ann.things().all().include(thing::seal()).include(thing::parts()).fetch().await.unwrap();
        let ((_, seal), parts) = &rows[0];
        assert_eq!((seal.as_ref(), parts.items.len()), (Some(&sealed), 2));
        let by = ann.things().filter(thing::seal().id().eq(sealed.id).and(thing::parts().some(part::line().gt(1))));
        assert_eq!(by.count().await.unwrap(), 1);
        assert_eq!(ann.seals().delete(sealed.id).await.unwrap(), None);
        db.engine().close().await;
    }
}

#[tokio::test]
async fn stored_values_that_the_schema_or_rust_does_not_know() {
    for (database, db) in opened(databases::reachable(&schema()).await).await {
        let ann = session(&db);
        let made = make(&ann, plain()).await;
        database.write_unchecked("things", "UPDATE things SET state = 'lost'").await;
        let read = ann.things().get(made.id).await.unwrap();
        assert_eq!(read.state, State::Unrecognized("lost".to_owned()));
        // It stays, when something else is changed.
        let patch = ThingPatch { count: Set(2), ..ThingPatch::default() };
        let next = ann.things().update(made.id).any_version().set(patch).await.unwrap().into_row().unwrap();
        assert_eq!((next.count, next.state), (2, State::Unrecognized("lost".to_owned())));

        // A Decimal of the column that Rust's cannot hold.
        let digits = "0.1234567890123456789012345678901234567890";
        let stored = cratestack::engine::storage::sortable(digits).unwrap();
        let text = if database.url.starts_with("sqlite") { format!("'{stored}'") } else { digits.to_owned() };
        database.write_unchecked("things", &format!("UPDATE things SET exact = {text}")).await;
        let error = ann.things().get(made.id).await.unwrap_err();
        assert_eq!(error.code(), Code::Internal);
        assert_eq!(
            error.detail(),
            "a row of `Thing` cannot be read: `exact` has more digits than `Decimal` holds exactly"
        );
        // A change of something else is done all the same, and must not be taken for one that was not.
        let patch = ThingPatch { count: Set(3), ..ThingPatch::default() };
        let error = ann.things().update(made.id).any_version().set(patch).await.unwrap_err();
        assert!(error.detail().contains("cannot be read: it was written, and `exact` has"), "{error}");
        db.engine().close().await;
    }
}

#[test]
fn value_objects_go_both_ways() {
    use cratestack::typed::Value as _;
    let change = Money { amount: dec!(0.5), currency: "EUR".to_owned(), large: vec![], parts: vec![], change: None };
    let money = Money {
        amount: dec!(1.50),
        large: vec![i64::MAX],
        parts: vec![change.clone()],
        change: Some(Box::new(change.clone())),
        ..change
    };
    let json = money.encode().unwrap();
    assert_eq!(
        json.to_string(),
        r#"{"amount":"1.5","currency":"EUR","large":["9223372036854775807"],"parts":[{"amount":"0.5","currency":"EUR","large":[],"parts":[],"change":null}],"change":{"amount":"0.5","currency":"EUR","large":[],"parts":[],"change":null}}"#
    );
    assert_eq!(Money::decode(json).unwrap(), money);
}
