//! The bank: rules, filters, orders, pages, includes, versions, tombstones, the trail.

use cratestack::Change::{Keep, Set};
use cratestack::{AuthMethod, Code, Error, RequestContext, Uuid, dec};

use crate::bank::{
    AccountPatch, Customer, CustomerPatch, CustomerStatus, Db, NewAccount, NewCustomer, Principal, Role, Session,
    account, customer,
};
use crate::databases;

async fn banks() -> Vec<(databases::Database, Db)> {
    let (schema, _) = cratestack::schema::compile("bank", crate::bank::SOURCE);
    let mut banks = Vec::new();
    for database in databases::all(&schema.unwrap()).await {
        let db = Db::connect(&database.url).await.unwrap();
        banks.push((database, db));
    }
    banks
}

fn as_role(db: &Db, id: &str, role: Role) -> Session<'static> {
    let principal = Principal { id: id.to_owned(), role, tenant_id: "berlin".to_owned() };
    db.as_principal(&principal, AuthMethod::Jwt).unwrap()
}

fn person(name: &str, country: &str) -> NewCustomer {
    NewCustomer {
        id: None,
        name: name.to_owned(),
        email: format!("{name}@example.com"),
        country: country.to_owned(),
        birth_date: None,
        status: None,
    }
}

/// A customer who may open accounts.
async fn active(db: &Db, name: &str, country: &str) -> Customer {
    let max = as_role(db, "max", Role::Manager);
    let made = max.customers().create(person(name, country)).await.unwrap().into_row().unwrap();
    let patch = CustomerPatch { status: Set(CustomerStatus::Active), ..CustomerPatch::default() };
    max.customers().update(made.id).if_version(made.version).set(patch).await.unwrap().into_row().unwrap()
}

const IBANS: [&str; 3] = ["DE89370400440532013000", "GB82WEST12345698765432", "FR1420041010050500013M02606"];

fn account_of(customer: &Customer, iban: &str, currency: &str) -> NewAccount {
    NewAccount {
        id: None,
        customer_id: customer.id,
        iban: iban.to_owned(),
        currency: currency.to_owned(),
        overdraft: None,
    }
}

fn code<T: std::fmt::Debug>(outcome: Result<T, Error>) -> Code {
    outcome.unwrap_err().code()
}

#[tokio::test]
async fn a_row_from_its_making_to_its_tombstone_and_back() {
    for (_database, db) in banks().await {
        let (tina, max) = (as_role(&db, "tina", Role::Teller), as_role(&db, "max", Role::Manager));
        let made = tina.customers().create(person("ann", "DE")).await.unwrap();
        assert_eq!((made.version, made.key.len()), (Some(1), 1));
        let ann = made.into_row().unwrap();
        assert_eq!(
            (ann.status.clone(), ann.tenant_id.as_str(), ann.birth_date),
            (CustomerStatus::Prospect, "berlin", None)
        );
        assert_eq!(tina.customers().get(ann.id).await.unwrap(), ann);
        assert_eq!(tina.customers().find(Uuid::nil()).await.unwrap(), None);
        assert_eq!(code(tina.customers().get(Uuid::nil()).await), Code::NotFound);

        // A patch with a value, with null, and with nothing.
        let day = "1990-02-28".parse().unwrap();
        let update = |version: i64, birth_date| {
            let patch = CustomerPatch { birth_date, ..CustomerPatch::default() };
            tina.customers().update(ann.id).if_version(version).set(patch)
        };
        assert_eq!(update(1, Set(Some(day))).await.unwrap().into_row().unwrap().birth_date, Some(day));
        assert_eq!(update(2, Keep).await.unwrap().into_row().unwrap().birth_date, Some(day));
        let now = tina.customers().get(ann.id).await.unwrap().version;
        assert_eq!(update(now, Set(None)).await.unwrap().into_row().unwrap().birth_date, None);

        // Versions.
        let late = update(1, Set(Some(day))).await.unwrap_err();
        assert_eq!((late.code(), late.current_version()), (Code::VersionMismatch, Some(now + 1)));
        let patch = || CustomerPatch { name: Set("Anna".to_owned()), ..CustomerPatch::default() };
        assert_eq!(code(tina.customers().update(ann.id).set(patch()).await), Code::VersionRequired);
        tina.customers().update(ann.id).any_version().set(patch()).await.unwrap();

        // Rules and validators.
        let status = CustomerPatch { status: Set(CustomerStatus::Active), ..CustomerPatch::default() };
        assert_eq!(code(tina.customers().update(ann.id).any_version().set(status).await), Code::Forbidden);
        assert_eq!(code(tina.customers().delete(ann.id).any_version().await), Code::Forbidden);
        assert_eq!(code(db.anonymous().customers().create(person("bob", "DE")).await), Code::Unauthenticated);
        let bad = tina.customers().create(person("", "Germany")).await.unwrap_err();
        assert_eq!(bad.code(), Code::ValidationFailed);
        let pointers: Vec<_> = bad.field_errors().iter().map(|error| error.pointer.as_str()).collect();
        assert_eq!(pointers, ["#/name", "#/email", "#/country"]);
        let unknown =
            NewCustomer { status: Some(CustomerStatus::Unrecognized("gone".to_owned())), ..person("eve", "DE") };
        let unknown = max.customers().create(unknown).await.unwrap_err();
        assert_eq!((unknown.code(), unknown.field_errors()[0].pointer.as_str()), (Code::ValidationFailed, "#/status"));
        assert!(!unknown.to_string().contains("gone"));

        // A tombstone.
        let version = max.customers().delete(ann.id).any_version().await.unwrap();
        assert!(version.is_some());
        assert_eq!(tina.customers().find(ann.id).await.unwrap(), None);
        assert_eq!(max.customers().all().deleted().count().await.unwrap(), 1);
        let back = max.customers().restore(ann.id).if_version(version.unwrap()).await.unwrap().into_row().unwrap();
        assert_eq!((back.id, back.name.as_str()), (ann.id, "Anna"));
        db.engine().close().await;
    }
}

#[tokio::test]
async fn filters_orders_pages_and_includes() {
    for (_database, db) in banks().await {
        let tina = as_role(&db, "tina", Role::Teller);
        let (ann, bob) = (active(&db, "ann", "DE").await, active(&db, "bob", "FR").await);
        for (owner, iban, currency) in [(&ann, IBANS[0], "EUR"), (&ann, IBANS[1], "GBP"), (&bob, IBANS[2], "EUR")] {
            tina.accounts().create(account_of(owner, iban, currency)).await.unwrap();
        }
        let ibans = async |filter| -> Vec<String> {
            let rows = tina.accounts().filter(filter).order_by(account::iban().asc()).fetch().await.unwrap();
            rows.into_iter().map(|row| row.iban).collect()
        };
        assert_eq!(ibans(account::balance().gte(0).and(account::currency().eq("EUR"))).await, [IBANS[0], IBANS[2]]);
        assert_eq!(ibans(account::balance().lt(dec!(-0.5)).or(account::currency().ne("EUR"))).await, [IBANS[1]]);
        assert_eq!(ibans(!account::currency().is_in(["EUR", "USD"])).await, [IBANS[1]]);
        assert_eq!(ibans(account::currency().not_in(Vec::<String>::new())).await.len(), 3);
        assert_eq!(ibans(account::currency().is_in(Vec::<String>::new())).await.len(), 0);
        assert_eq!(
            ibans(account::iban().starts_with("DE").or(account::iban().ends_with("606"))).await,
            [IBANS[0], IBANS[2]]
        );
        assert_eq!(ibans(account::iban().contains("WEST").and(account::customer_id().eq(ann.id))).await, [IBANS[1]]);
        assert_eq!(ibans(account::customer().country().eq("DE")).await, [IBANS[0], IBANS[1]]);
        assert_eq!(ibans(account::customer().birth_date().is_not_null()).await.len(), 0);
        assert_eq!(ibans(account::customer().status().eq(CustomerStatus::Active)).await.len(), 3);
        assert_eq!(ibans(account::created_at().gt(chrono::DateTime::UNIX_EPOCH)).await.len(), 3);
        assert_eq!(ibans(account::entries().some(crate::bank::entry::amount().gt(0))).await.len(), 0);
        assert_eq!(ibans(account::entries().none(crate::bank::entry::amount().gt(0))).await.len(), 3);
        // `(a || b) && c` is not `a || b && c`.
        let either = || account::currency().eq("GBP").or(account::currency().eq("EUR"));
        assert_eq!(ibans(either().and(account::customer().name().eq("bob"))).await, [IBANS[2]]);
        assert_eq!(ibans(account::customer().name().eq("bob").and(either())).await, [IBANS[2]]);

        let many =
            tina.customers().filter(customer::accounts().some(account::currency().eq("GBP"))).fetch().await.unwrap();
        assert_eq!(many, std::slice::from_ref(&ann));
        let all =
            tina.customers().filter(customer::accounts().every(account::currency().eq("EUR"))).fetch().await.unwrap();
        assert_eq!(all, std::slice::from_ref(&bob));

        // Hostile text is a value, whatever is in it.
        for text in ["\" || true || \"", "\\", "\\\"", "line\nbreak\t\u{7f}", "`;--", "ü😀", "${x}"] {
            assert_eq!(ibans(account::currency().eq(text)).await.len(), 0, "{text:?}");
        }
        let nul = tina.accounts().filter(account::currency().eq("a\0b")).fetch().await;
        assert_eq!(code(nul), Code::InvalidQuery);
        let unknown = account::customer().status().eq(CustomerStatus::Unrecognized("x".to_owned()));
        assert_eq!(code(tina.accounts().filter(!unknown).count().await), Code::InvalidQuery);

        // Orders and pages.
        let by = || tina.accounts().all().order_by(account::customer().name().desc()).order_by(account::iban().asc());
        let rows: Vec<_> = by().fetch().await.unwrap().into_iter().map(|row| row.iban).collect();
        assert_eq!(rows, [IBANS[2], IBANS[0], IBANS[1]]);
        assert_eq!(by().first().await.unwrap().unwrap().iban, IBANS[2]);
        assert_eq!(by().limit(2).fetch().await.unwrap().len(), 2);
        assert_eq!(by().limit(0).fetch().await.unwrap().len(), 0);
        let page = by().limit(2).page().await.unwrap();
        assert_eq!(page.items.len(), 2);
        let rest = by().limit(2).after(page.next.unwrap()).page().await.unwrap();
        assert_eq!((rest.items.len(), rest.items[0].iban.as_str(), rest.next), (1, IBANS[1], None));
        assert_eq!(code(by().after("forged").page().await), Code::InvalidCursor);
        assert_eq!(by().limit(1).count().await.unwrap(), 3);

        // Includes.
        let with = by().include(account::customer()).include(account::entries()).fetch().await.unwrap();
        let ((first, owner), entries) = &with[0];
        assert_eq!((first.iban.as_str(), owner.as_ref()), (IBANS[2], Some(&bob)));
        assert_eq!((entries.items.len(), entries.more), (0, false));
        let owners = tina.customers().all().order_by(customer::name().asc()).include(customer::accounts());
        let (found, accounts) = owners.first().await.unwrap().unwrap();
        assert_eq!((found, accounts.items.len()), (ann, 2));
        let far = tina.accounts().all().include(account::customer().accounts()).fetch().await;
        assert_eq!(code(far), Code::InvalidQuery);
        db.engine().close().await;
    }
}

#[tokio::test]
async fn long_lists_are_read_page_by_page() {
    for (database, db) in banks().await {
        db.engine().close().await;
        let mut options = cratestack::engine::Options::default();
        options.limits.list_max = 3;
        options.limits.list_default = 2;
        let small = Db::connect_with(&database.url, options).await.unwrap();
        let tina = as_role(&small, "tina", Role::Teller);
        for n in 0..8 {
            tina.customers().create(person(&format!("n{n}"), "DE")).await.unwrap();
        }
        let names = async |limit: Option<u64>| {
            let query = tina.customers().all().order_by(customer::name().asc());
            let query = if let Some(limit) = limit { query.limit(limit) } else { query };
            query.fetch().await.unwrap().into_iter().map(|row| row.name).collect::<Vec<_>>().join(",")
        };
        assert_eq!(names(None).await, "n0,n1,n2,n3,n4,n5,n6,n7");
        assert_eq!(names(Some(7)).await, "n0,n1,n2,n3,n4,n5,n6");
        assert_eq!(tina.customers().all().page().await.unwrap().items.len(), 2);
        assert_eq!(code(tina.customers().all().limit(4).page().await), Code::InvalidQuery);
        small.engine().close().await;
    }
}

/// Handlers of a web server run on threads that the runtime picks.
#[tokio::test]
async fn futures_can_move_between_threads() {
    let db = Db::connect("sqlite::memory:").await.unwrap();
    let work = tokio::spawn(async move {
        let max = as_role(&db, "max", Role::Manager);
        let ann = max.customers().create(person("ann", "DE")).await?.into_row()?;
        let patch = CustomerPatch { name: Set("Anna".to_owned()), ..CustomerPatch::default() };
        max.customers().update(ann.id).if_version(1).set(patch).await?;
        let rows = max.customers().all().include(customer::accounts()).fetch().await?;
        max.customers().delete(ann.id).any_version().await?;
        max.customers().restore(ann.id).any_version().await?;
        Ok::<_, Error>(rows.len() + usize::from(max.customers().find(ann.id).await?.is_some()))
    });
    assert_eq!(work.await.unwrap().unwrap(), 2);
}

#[tokio::test]
async fn what_the_rules_refuse() {
    for (_database, db) in banks().await {
        let tina = as_role(&db, "tina", Role::Teller);
        let prospect = tina.customers().create(person("ann", "DE")).await.unwrap().into_row().unwrap();
        assert_eq!(code(tina.accounts().create(account_of(&prospect, IBANS[0], "EUR")).await), Code::Forbidden);
        let nobody = Customer { id: Uuid::nil(), ..prospect };
        let missing = tina.accounts().create(account_of(&nobody, IBANS[0], "EUR")).await.unwrap_err();
        assert_eq!(missing.code(), Code::ValidationFailed);
        assert_eq!(missing.field_errors()[0].code, "reference_not_found");
        let paris = Principal { id: "pia".to_owned(), role: Role::Manager, tenant_id: "paris".to_owned() };
        let pia = db.as_principal(&paris, AuthMethod::Jwt).unwrap();
        assert_eq!(pia.customers().all().count().await.unwrap(), 0);
        let rich = active(&db, "bob", "DE").await;
        let made = tina.accounts().create(account_of(&rich, IBANS[0], "EUR")).await.unwrap().into_row().unwrap();
        let overdraft = AccountPatch { overdraft: Set(dec!(100)) };
        assert_eq!(code(tina.accounts().update(made.id).if_version(1).set(overdraft.clone()).await), Code::Forbidden);
        let max = as_role(&db, "max", Role::Manager);
        let changed = max.accounts().update(made.id).if_version(1).set(overdraft).await.unwrap().into_row().unwrap();
        assert_eq!(changed.overdraft, dec!(100));
        let strange =
            Principal { id: "x".to_owned(), role: Role::Unrecognized("boss".to_owned()), tenant_id: String::new() };
        assert_eq!(code(db.as_principal(&strange, AuthMethod::Dev)), Code::ValidationFailed);
        db.engine().close().await;
    }
}

#[tokio::test]
async fn the_trail_tells_who_did_what_and_how() {
    for (_database, db) in banks().await {
        let request = RequestContext {
            request_id: Some("req-7".to_owned()),
            client_ip: Some([10, 0, 0, 7].into()),
            ..RequestContext::default()
        };
        let tina = as_role(&db, "tina", Role::Teller).within(request);
        let ann = tina.customers().create(person("ann", "DE")).await.unwrap().into_row().unwrap();
        let patch = CustomerPatch { country: Set("FR".to_owned()), ..CustomerPatch::default() };
        tina.customers().update(ann.id).if_version(1).set(patch).await.unwrap();
        as_role(&db, "max", Role::Manager).customers().delete(ann.id).if_version(2).await.unwrap();

        let engine = db.engine();
        let auditor = r#"{"id":"ada","role":"auditor","tenantId":"berlin"}"#;
        let claims = cratestack::engine::json::parse(auditor.as_bytes(), 8).unwrap();
        let caller = cratestack::engine::api::Caller {
            principal: Some(engine.principal(&claims).unwrap()),
            authority: cratestack::engine::api::Authority::Rules,
            request_id: "r".to_owned(),
            deadline: std::time::Duration::from_secs(10),
            origin: cratestack::engine::api::Origin::default(),
        };
        let cratestack::engine::api::Answer::Page { items, .. } = engine.trail(&caller, &[]).await.unwrap() else {
            panic!("no page");
        };
        let entries: serde_json::Value = serde_json::from_str(&items).unwrap();
        let told: Vec<String> = entries
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| {
                format!("{} {} {} {}", entry["op"], entry["auth"], entry["actor"]["subject"], entry["operation"])
            })
            .collect();
        assert_eq!(
            told,
            [
                r#""customers.delete" "jwt" "max" "delete""#,
                r#""customers.update" "jwt" "tina" "update""#,
                r#""customers.create" "jwt" "tina" "create""#,
            ]
        );
        assert_eq!(
            (&entries[2]["request_id"], &entries[2]["actor"]["client_ip"]),
            (&"req-7".into(), &"10.0.0.7".into())
        );
        assert!(!format!("{ann:?}").contains("example.com"), "{ann:?}");
        assert!(format!("{ann:?}").contains("country: \"DE\""), "{ann:?}");
        db.engine().close().await;
    }
}

#[tokio::test]
async fn what_cannot_be_opened() {
    let error = async |url: &str| Db::connect(url).await.unwrap_err().to_string();
    assert_eq!(
        error("mysql://x").await,
        "the database URL is not a database URL that cratestack knows; write `sqlite:PATH`, `sqlite::memory:` or \
         `postgres://USER@HOST/NAME`"
    );
    assert!(error("postgres://u:secret@h/n?sslmod=x").await.ends_with("`sslmod`; did you mean `sslmode`?"));
    let shapes = crate::shapes::Db::connect("sqlite::memory:").await.unwrap();
    let other = Db::from_engine(shapes.engine().clone()).unwrap_err();
    assert_eq!(other.to_string(), "the engine serves another schema than `bank`: `shapes`");
    assert!(crate::shapes::Db::from_engine(shapes.engine().clone()).is_ok());
}
