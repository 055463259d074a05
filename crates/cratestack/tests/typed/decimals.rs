//! PostgreSQL's NUMERIC, what SQLite stores and both Rust types agree: on what is taken, how it is written, its order,
//! ranges, sums, and checks. What is right is said by the exact decimals of the language, which have tests of their own.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use axum::Router;
use axum::body::Body;
use cratestack::schema::decimal::{Backend, Decimal as Exact};
use cratestack::schema::ir::Precision;
use cratestack::typed::{Exact as _, Json};
use cratestack::{BigDecimal, Code, Decimal, Error, NoAuth, NoProcedures, router};
use http::{Request, StatusCode};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::databases::{self, Database};

/// With `BigDecimal`.
mod big {
    cratestack::include_schema!("tests/typed/amounts.cstack", decimal = "bigdecimal");
}

/// The same with `rust_decimal`.
mod small {
    cratestack::include_schema!("tests/typed/amounts.cstack", decimal = "rust_decimal");
}

const MONEY: Precision = Precision { precision: 16, scale: 4 };
const FEE: Precision = Precision { precision: 10, scale: 4 };
const WIDE: Precision = Precision { precision: 38, scale: 10 };

/// One row as it is sent.
type Sent = BTreeMap<&'static str, String>;

struct Service {
    _database: Database,
    db: big::Db,
    api: Router,
}

impl Service {
    async fn on(database: Database) -> Self {
        let db = big::Db::connect(&database.url).await.unwrap();
        let api = router(db.engine().clone(), NoProcedures).auth(NoAuth).into_router();
        Self { _database: database, db, api }
    }

    async fn all() -> Vec<Self> {
        let schema = cratestack::schema::compile("amounts", big::SOURCE).0.unwrap();
        let mut services = Vec::new();
        for database in databases::all(&schema).await {
            services.push(Self::on(database).await);
        }
        services
    }

    async fn call(&self, method: &str, path: &str, body: Option<Value>) -> (StatusCode, Value) {
        let mut request = Request::builder().method(method).uri(path);
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        let answer = self.api.clone().oneshot(request.body(body).unwrap()).await.unwrap();
        let status = answer.status();
        let octets = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
        (status, serde_json::from_slice(&octets).unwrap_or(Value::Null))
    }

    /// The status, and the row or the pointers and codes of what was refused.
    async fn create(&self, id: usize, sent: &Sent) -> (StatusCode, Vec<String>) {
        let mut body = json!(sent);
        body["id"] = json!(id);
        let (status, answer) = self.call("POST", "/amounts", Some(body)).await;
        if status == StatusCode::CREATED {
            let row = sent.keys().map(|name| format!("{name}={}", answer[name].as_str().unwrap()));
            return (status, row.collect());
        }
        let errors = answer["errors"].as_array().into_iter().flatten();
        let errors =
            errors.map(|error| format!("{} {}", error["pointer"].as_str().unwrap(), error["code"].as_str().unwrap()));
        (status, errors.collect())
    }

    async fn ids(&self, query: &str) -> Vec<u64> {
        let (status, answer) = self.call("GET", &format!("/amounts?limit=1000&{query}"), None).await;
        assert_eq!(status, StatusCode::OK, "{query}: {answer}");
        answer["items"].as_array().unwrap().iter().map(|row| row["id"].as_u64().unwrap()).collect()
    }

    /// The exact sums of the columns, by SQL of one's own.
    async fn sums(&self) -> [Option<String>; 3] {
        let job = self.db.as_system("sums");
        let transaction = job.transaction(async |tx: &mut big::Tx<'_>| -> Result<_, Error> {
            if tx.dialect() == cratestack::Dialect::Sqlite {
                let sql = "SELECT cratestack_sum(money, 4), cratestack_sum(wide, 10), cratestack_sum(any) FROM amounts";
                let sums = move |connection: &rusqlite::Connection| {
                    connection.query_row(sql, [], |row| Ok([row.get(0)?, row.get(1)?, row.get(2)?]))
                };
                return tx.sqlite(sums).await;
            }
            let sql = r#"SELECT sum(money)::text, sum(wide)::text, trim_scale(sum("any"))::text FROM amounts"#;
            let sums: (Option<String>, Option<String>, Option<String>) =
                sqlx::query_as(sql).fetch_one(&mut *tx.sqlx().await?).await?;
            Ok([sums.0, sums.1, sums.2])
        });
        transaction.await.unwrap()
    }

    async fn clear(&self) {
        let job = self.db.as_system("clear");
        for row in job.amounts().all().fetch().await.unwrap() {
            job.amounts().delete(row.id).await.unwrap();
        }
    }
}

/// A decimal of up to `digits` digits, with the point and zeros anywhere. JSON takes plain notation alone.
fn text(digits: usize) -> impl Strategy<Value = String> {
    let number = proptest::string::string_regex(&format!("-?[0-9]{{1,{digits}}}")).unwrap();
    let rest = prop_oneof![Just(String::new()), r"\.[0-9]{1,4}", r"\.[0-9]{1,12}0{0,3}"];
    let small = prop_oneof!["-?[0-9]", "0\\.0{0,30}[1-9]"];
    let named = prop_oneof![Just("0"), Just("-0"), Just("0.1"), Just("0.2"), Just("0.30")].prop_map(str::to_owned);
    prop_oneof![
        4 => (number, rest).prop_map(|(number, rest)| number + &rest),
        1 => small,
        1 => named,
    ]
}

fn sent() -> impl Strategy<Value = Sent> {
    let fields = ["money", "wide", "any", "fee", "bound", "cap", "floor"];
    let lengths = [14, 28, 38, 7, 14, 28, 38];
    let one = fields
        .into_iter()
        .zip(lengths)
        .map(|(name, digits)| proptest::option::weighted(0.7, text(digits)).prop_map(move |text| (name, text)).boxed());
    one.collect::<Vec<_>>()
        .prop_map(|fields| fields.into_iter().filter_map(|(name, text)| Some((name, text?))).collect())
}

fn precision(name: &str) -> Option<Precision> {
    match name {
        "money" | "bound" => Some(MONEY),
        "fee" => Some(FEE),
        "wide" | "cap" => Some(WIDE),
        _ => None,
    }
}

/// What must become of a row.
fn oracle(sent: &Sent) -> (StatusCode, Vec<String>) {
    let value = |name: &str| sent.get(name).map(|text| text.parse::<Exact>().unwrap());
    let beyond = |name: &&str| precision(name).is_some_and(|p| value(name).is_some_and(|value| !value.fits(p)));
    let beyond: Vec<String> = sent.keys().copied().filter(beyond).map(|name| format!("#/{name} precision")).collect();
    if !beyond.is_empty() {
        return (StatusCode::UNPROCESSABLE_ENTITY, beyond);
    }
    let exceeds = |a: Option<Exact>, b: Option<Exact>| a.zip(b).is_some_and(|(a, b)| a > b);
    let sum = value("money").zip(value("fee")).map(|(a, b)| a.add(&b));
    let checks =
        [("bound", sum, value("bound")), ("cap", value("wide"), value("cap")), ("floor", value("floor"), value("any"))];
    let broken = checks.into_iter().filter(|(_, a, b)| exceeds(a.clone(), b.clone()));
    let broken: Vec<String> = broken.map(|(name, ..)| format!("# {name}")).collect();
    if !broken.is_empty() {
        return (StatusCode::UNPROCESSABLE_ENTITY, broken);
    }
    let row = sent.iter().map(|(name, text)| {
        let value: Exact = text.parse().unwrap();
        format!("{name}={}", value.padded(precision(name).map_or(0, |precision| precision.scale)))
    });
    (StatusCode::CREATED, row.collect())
}

type Holds = fn(Ordering) -> bool;

/// Rows go in, and everything that is asked of them is compared.
async fn agree(service: &Service, rows: &[Sent], pivot: &str) -> Result<(), TestCaseError> {
    service.clear().await;
    let mut kept: Vec<(u64, &Sent)> = Vec::new();
    for (id, sent) in rows.iter().enumerate() {
        let (status, found) = service.create(id, sent).await;
        let (expected_status, expected) = oracle(sent);
        prop_assert_eq!(status, expected_status, "{:?}: {:?}", sent, found);
        if status == StatusCode::CREATED {
            kept.push((id as u64, sent));
        }
        if status != StatusCode::CREATED && expected.iter().all(|one| one.starts_with("# ")) {
            // A database names one broken check.
            prop_assert!(
                !found.is_empty() && found.iter().all(|one| expected.contains(one)),
                "{:?}: {:?}",
                sent,
                found
            );
        } else {
            prop_assert_eq!(&found, &expected, "{:?}", sent);
        }
    }
    let value = |sent: &Sent, name: &str| sent.get(name).map(|text| text.parse::<Exact>().unwrap());
    let pivot_value: Exact = pivot.parse().unwrap();
    for name in ["money", "wide", "any"] {
        let mut there: Vec<(Exact, u64)> =
            kept.iter().filter_map(|(id, sent)| Some((value(sent, name)?, *id))).collect();
        there.sort();
        let sorted: Vec<u64> = there.iter().map(|(_, id)| *id).collect();
        let found = service.ids(&format!("where={name}!=null&sort={name},id")).await;
        prop_assert_eq!(found, sorted, "order of {}", name);
        for (operator, holds) in [("gte", Ordering::is_ge as Holds), ("lt", Ordering::is_lt), ("eq", Ordering::is_eq)] {
            let found = there.iter().filter(|(value, _)| holds(value.cmp(&pivot_value)));
            let mut expected: Vec<u64> = found.map(|(_, id)| *id).collect();
            expected.sort_unstable();
            let found = service.ids(&format!("{name}.{operator}={pivot}&sort=id")).await;
            prop_assert_eq!(found, expected, "{} {} {}", name, operator, pivot);
        }
    }
    let sum = |name: &str, scale: u32| {
        let values: Vec<Exact> = kept.iter().filter_map(|(_, sent)| value(sent, name)).collect();
        (!values.is_empty()).then(|| values.iter().fold(Exact::default(), |sum, value| sum.add(value)).padded(scale))
    };
    prop_assert_eq!(service.sums().await, [sum("money", 4), sum("wide", 10), sum("any", 0)]);
    in_rust(service, &kept).await
}

/// Both Rust types read what was written, or say that they cannot.
async fn in_rust(service: &Service, kept: &[(u64, &Sent)]) -> Result<(), TestCaseError> {
    let small = small::Db::from_engine(service.db.engine().clone()).unwrap();
    for (id, sent) in kept {
        let id = i64::try_from(*id).unwrap();
        let value = |name: &str| sent.get(name).map(|text| text.parse::<Exact>().unwrap());
        let row = service.db.anonymous().amounts().get(id).await.unwrap();
        let read = |value: Option<BigDecimal>| value.map(|value| value.to_exact().unwrap());
        prop_assert_eq!(read(row.money.clone()), value("money"));
        prop_assert_eq!(read(row.wide.clone()), value("wide"));
        prop_assert_eq!(read(row.any.clone()), value("any"));
        if let (Some(any), Some(text)) = (&row.any, sent.get("any")) {
            prop_assert_eq!(any, &text.parse::<BigDecimal>().unwrap());
        }
        let held = sent.keys().all(|name| value(name).is_none_or(|value| Backend::RustDecimal.holds(&value)));
        match small.anonymous().amounts().get(id).await {
            Ok(row) => {
                prop_assert!(held, "{:?}", sent);
                let read = |value: Option<Decimal>| value.map(|value| value.to_exact().unwrap());
                prop_assert_eq!(read(row.money), value("money"));
                prop_assert_eq!(read(row.wide), value("wide"));
                prop_assert_eq!(read(row.any), value("any"));
            }
            Err(error) => {
                prop_assert!(!held, "{:?}: {}", sent, error);
                prop_assert_eq!(error.code(), Code::Internal);
                prop_assert!(error.detail().ends_with("has more digits than `Decimal` holds exactly"));
            }
        }
    }
    Ok(())
}

#[test]
fn databases_and_rust_types_agree() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for service in runtime.block_on(Service::all()) {
        let mut runner = TestRunner::new(Config { cases: 48, failure_persistence: None, ..Config::default() });
        let rows = (proptest::collection::vec(sent(), 1..10), text(28));
        runner.run(&rows, |(rows, pivot)| runtime.block_on(agree(&service, &rows, &pivot))).unwrap();
        runtime.block_on(service.db.engine().close());
    }
}

/// Numbers that have a name, each with what is written of it in a `Decimal`, a `Decimal(16, 4)` and a `Decimal(38, 10)`,
/// `None` where it does not fit.
const NAMED: [(&str, &str, Option<&str>, Option<&str>); 12] = [
    ("0.1", "0.1", Some("0.1000"), Some("0.1000000000")),
    ("0.00000000000000000000000000001", "0.00000000000000000000000000001", None, None),
    ("-0", "0", Some("0.0000"), Some("0.0000000000")),
    ("-0.000", "0", Some("0.0000"), Some("0.0000000000")),
    ("1.500000000000000000", "1.5", Some("1.5000"), Some("1.5000000000")),
    ("0001000", "1000", Some("1000.0000"), Some("1000.0000000000")),
    ("999999999999.9999", "999999999999.9999", Some("999999999999.9999"), Some("999999999999.9999000000")),
    (
        "1234567890123456789012345678",
        "1234567890123456789012345678",
        None,
        Some("1234567890123456789012345678.0000000000"),
    ),
    ("0.1234567890123456789012345678", "0.1234567890123456789012345678", None, None),
    (
        "99999999999999999999999999.9999999999",
        "99999999999999999999999999.9999999999",
        None,
        Some("99999999999999999999999999.9999999999"),
    ),
    (
        "123456789012345678901234567890123456789012345678901234567890",
        "123456789012345678901234567890123456789012345678901234567890",
        None,
        None,
    ),
    (
        "-123456789012345678901234567890.123456789012345678901234567890",
        "-123456789012345678901234567890.12345678901234567890123456789",
        None,
        None,
    ),
];

#[tokio::test]
async fn numbers_with_a_name() {
    for service in Service::all().await {
        for (at, (number, any, money, wide)) in NAMED.into_iter().enumerate() {
            for (name, expected) in [("any", Some(any)), ("money", money), ("wide", wide)] {
                service.clear().await;
                let sent = Sent::from([(name, number.to_owned())]);
                let (status, found) = service.create(at, &sent).await;
                let expected = match expected {
                    Some(text) => (StatusCode::CREATED, vec![format!("{name}={text}")]),
                    None => (StatusCode::UNPROCESSABLE_ENTITY, vec![format!("#/{name} precision")]),
                };
                assert_eq!((status, found), expected, "{number}");
            }
        }
        // What has an exponent is no plain notation, whatever it is worth.
        for number in ["1E-29", "1e3", "NaN", "Infinity", ".5", "5.", "0x10", " 1"] {
            let sent = Sent::from([("any", number.to_owned())]);
            let expected = (StatusCode::UNPROCESSABLE_ENTITY, vec!["#/any type".to_owned()]);
            assert_eq!(service.create(90, &sent).await, expected, "{number}");
        }
        // 0.1 + 0.2 is 0.3: in a CHECK, in a condition, and in a sum.
        service.clear().await;
        let row = |bound: &str| {
            Sent::from([("money", "0.1".to_owned()), ("fee", "0.2".to_owned()), ("bound", bound.to_owned())])
        };
        assert_eq!(service.create(1, &row("0.3")).await.0, StatusCode::CREATED);
        let least = "0.2999";
        assert_eq!(service.create(2, &row(least)).await, (StatusCode::UNPROCESSABLE_ENTITY, oracle(&row(least)).1));
        assert_eq!(service.ids("where=money%20%2B%20fee%20==%200.3").await, [1]);
        assert_eq!(service.create(3, &Sent::from([("money", "0.2".to_owned())])).await.0, StatusCode::CREATED);
        assert_eq!(service.sums().await, [Some("0.3000".to_owned()), None, None]);
        service.db.engine().close().await;
    }
}

/// What Rust code could not read does not come in: the schema says `rust_decimal`, which is the default.
#[tokio::test]
async fn what_the_rust_type_does_not_hold_is_refused() {
    let schema = cratestack::schema::compile("amounts", small::SOURCE).0.unwrap();
    for database in databases::all(&schema).await {
        let db = small::Db::connect(&database.url).await.unwrap();
        let api = router(db.engine().clone(), NoProcedures).auth(NoAuth).into_router();
        // A claim may become a row.
        for (limit, taken) in [("1234567890123456789012345678", true), ("123456789012345678901234567890", false)] {
            let text = |text: &str| Json::String(text.to_owned());
            let claims = Json::Object(vec![("id".to_owned(), text("ann")), ("limit".to_owned(), text(limit))]);
            assert_eq!(db.engine().principal(&claims).is_ok(), taken, "{limit}");
        }
        for (at, (field, number, taken)) in [
            ("any", "79228162514264337593543950335", true),
            ("any", "79228162514264337593543950336", false),
            ("any", "0.0000000000000000000000000001", true),
            ("any", "0.00000000000000000000000000001", false),
            ("wide", "1234567890123456789012345678", true),
            ("wide", "1234567890123456789012345678.1234567891", false),
        ]
        .into_iter()
        .enumerate()
        {
            let body = Body::from(json!({"id": at, field: number}).to_string());
            let request = Request::post("/amounts").header("content-type", "application/json").body(body).unwrap();
            let answer = api.clone().oneshot(request).await.unwrap();
            assert_eq!(answer.status().is_success(), taken, "{number}");
            let id = i64::try_from(at).unwrap();
            if taken {
                assert!(db.anonymous().amounts().get(id).await.is_ok(), "{number}");
            } else {
                let octets = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
                let problem: Value = serde_json::from_slice(&octets).unwrap();
                let error = &problem["errors"][0];
                assert_eq!((&error["pointer"], &error["code"]), (&json!(format!("#/{field}")), &json!("precision")));
            }
        }
        db.engine().close().await;
    }
}

#[test]
fn numbers_of_rust_there_and_back() {
    use cratestack::typed::Value as _;
    let there = |number: &str| {
        let big: BigDecimal = number.parse().unwrap();
        let json = big.encode().unwrap();
        assert_eq!(BigDecimal::decode(json.clone()).unwrap(), big, "{number}");
        json.to_string()
    };
    for (number, any, ..) in NAMED {
        assert_eq!(there(number), format!("\"{any}\""));
        let held = Backend::RustDecimal.holds(&number.parse().unwrap());
        let decoded = Decimal::decode(cratestack::typed::Json::String(any.to_owned()));
        assert_eq!(decoded.is_ok(), held, "{number}");
        if let Ok(decimal) = decoded {
            assert_eq!(decimal.encode().unwrap().to_string(), format!("\"{any}\""));
        }
    }
    // Trailing zeros are kept where they fit, and are no reason to refuse a value.
    let padded = |text: &str| Decimal::decode(cratestack::typed::Json::String(text.to_owned())).unwrap().to_string();
    assert_eq!(padded("12.5000"), "12.5000");
    assert_eq!(padded("1234567890123456789012345678.0000000000"), "1234567890123456789012345678");
    assert_eq!(there("1E-29"), "\"0.00000000000000000000000000001\"");
    assert_eq!(there("-1.50e3"), "\"-1500\"");
    assert!("1e1001".parse::<BigDecimal>().unwrap().encode().is_err());
    let ten = cratestack::bigdecimal::num_bigint::BigInt::from(10);
    assert_eq!(BigDecimal::new(ten.pow(3000), 3000).encode().unwrap().to_string(), "\"1\"");
    assert!(BigDecimal::new(1.into(), i64::MAX).encode().is_err());
    assert!(BigDecimal::new(1.into(), i64::MIN).encode().is_err());
    assert!(BigDecimal::new(cratestack::bigdecimal::num_bigint::BigInt::from(1) << 100_000, 0).encode().is_err());
}

#[test]
fn money_of_both_types() {
    use cratestack::dec;
    use cratestack::money::{AllocationError, Currency, MoneyError, Rounding, allocate};
    let currency = |code: &str| code.parse::<Currency>().unwrap();
    let digits = ["EUR", "JPY", "BHD", "CLF", "XAU"].map(|code| currency(code).minor_units());
    assert_eq!(digits, [Some(2), Some(0), Some(3), Some(4), None]);
    assert_eq!("ZZZ".parse::<Currency>(), Err(MoneyError::UnknownCurrency));
    assert_eq!("eur".parse::<Currency>(), Err(MoneyError::UnknownCurrency));
    assert_eq!(Currency::all().count(), cratestack::engine::validate::currency_codes().count());
    let big = |text: &str| text.parse::<BigDecimal>().unwrap();
    for (code, amount, rounded) in [
        ("EUR", "2.345", "2.34"),
        ("EUR", "-2.355", "-2.36"),
        ("JPY", "2.5", "2"),
        ("BHD", "0.0005", "0.000"),
        ("EUR", "7", "7.00"),
    ] {
        let currency = currency(code);
        let decimal = currency.round(&amount.parse::<Decimal>().unwrap(), Rounding::default()).unwrap();
        assert_eq!(decimal.to_string(), rounded, "{code} {amount}");
        assert_eq!(currency.round(&big(amount), Rounding::default()).unwrap().to_plain_string(), rounded);
    }
    let error = currency("XAU").round(&dec!(1.5), Rounding::HalfUp).unwrap_err();
    assert_eq!(error.to_string(), "`XAU` has no smallest unit");
    let shares = currency("EUR").allocate(&big("0.05"), &[big("3"), big("7")]).unwrap();
    assert_eq!(shares, [big("0.02"), big("0.03")]);
    let error = currency("JPY").allocate(&dec!(0.5), &[dec!(1)]).unwrap_err();
    assert_eq!(error, MoneyError::Allocation(AllocationError::PartOfUnit));
    // A result that the type does not hold is an error, not another number.
    assert!(matches!(cratestack::money::round(&Decimal::MAX, 0, Rounding::Up), Ok(max) if max == Decimal::MAX));
    let error = cratestack::money::round(&dec!(7.9228162514264337593543950335), 28, Rounding::Up);
    assert_eq!(error, Ok(dec!(7.9228162514264337593543950335)));
    assert_eq!(allocate(&Decimal::MAX, &[dec!(1), dec!(0)], 0).unwrap(), [Decimal::MAX, Decimal::ZERO]);
    assert_eq!(allocate(&big("1e999"), &[big("1")], 0).unwrap(), [big("1e999")]);
    // No scale is too large for an answer, and none for the memory.
    let small = MoneyError::Allocation(AllocationError::TooSmall);
    assert_eq!(allocate(&dec!(1), &[dec!(1)], u32::MAX), Err(small));
    assert_eq!(cratestack::money::round(&dec!(1.5), u32::MAX, Rounding::Up), Ok(dec!(1.5)));
    assert_eq!(cratestack::money::round(&big("1.5"), u32::MAX, Rounding::Up), Ok(big("1.5")));
}
