//! Every scalar, extremes included, through both databases: the value that went in comes out, and the JSON is the same
//! whether the column is read at the top level or inside an include.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use std::sync::Arc;

use cratestack_schema::ir::{Enum, EnumId, ModelId, Precision};
use proptest::prelude::*;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};

use super::*;
use crate::sql::{Member, Slot, Sql};
use crate::testing::PgDatabase;

fn schema() -> Schema {
    let variant = |name: &str, stored: &str| Variant { name: name.into(), stored: stored.into(), doc: None };
    Schema {
        enums: vec![Enum {
            name: "Status".into(),
            doc: None,
            variants: vec![variant("open", "open"), variant("cancelled", "CAN'CELED")],
        }],
        ..Schema::new("test")
    }
}

const STATUS: SqlType = SqlType { ty: FieldType::Enum(EnumId(0)), list: false };

fn decimal(precision: u32, scale: u32) -> SqlType {
    SqlType::scalar(Scalar::Decimal(Some(Precision { precision, scale })))
}

fn list(scalar: Scalar) -> SqlType {
    SqlType { ty: FieldType::Scalar(scalar), list: true }
}

fn text(value: &str) -> Value {
    Value::Text(value.to_owned())
}

/// Every character but NUL, in the basic plane and a few beyond.
fn every_character() -> String {
    (1..=0xFFFF).chain([0x1_0000, 0x1_F600, 0x10_FFFF]).filter_map(char::from_u32).collect()
}

/// A type, a canonical value of it, and its JSON.
fn cases() -> Vec<(SqlType, Value, String)> {
    let scalar = SqlType::scalar;
    let mut cases: Vec<(SqlType, Value, String)> = Vec::new();
    let mut case = |ty: SqlType, value: Value, json: &str| cases.push((ty, value, json.to_owned()));
    for (value, json) in [("", r#""""#), ("a\"b\\c\n\u{1}", r#""a\"b\\c\n\u0001""#), ("[1,\"x\"]", r#""[1,\"x\"]""#)] {
        case(scalar(Scalar::String), text(value), json);
    }
    case(scalar(Scalar::String), text(&every_character()), &serde_json::to_string(&every_character()).unwrap());
    case(scalar(Scalar::Cuid), text("ck1234567890123456789012"), "\"ck1234567890123456789012\"");
    case(STATUS, text("open"), "\"open\"");
    case(STATUS, text("CAN'CELED"), "\"cancelled\"");
    for value in [0, 1, -1, 9_007_199_254_740_991, i64::MAX, i64::MIN, 10, -1000] {
        case(scalar(Scalar::Int), Value::Int(value), &value.to_string());
        case(scalar(Scalar::BigInt), Value::Int(value), &format!("\"{value}\""));
    }
    for (value, json) in [
        (0.0, "0.0"),
        (1.0, "1.0"),
        (-0.1, "-0.1"),
        (0.1 + 0.2, "0.30000000000000004"),
        (f64::MAX, "1.7976931348623157e+308"),
        (f64::MIN, "-1.7976931348623157e+308"),
        (f64::MIN_POSITIVE, "2.2250738585072014e-308"),
        (5e-324, "5e-324"),
        (1e23, "1e+23"),
        (9_007_199_254_740_993.0, "9007199254740992.0"),
    ] {
        case(scalar(Scalar::Float), Value::Float(value), json);
    }
    case(scalar(Scalar::Boolean), Value::Bool(true), "true");
    case(scalar(Scalar::Boolean), Value::Bool(false), "false");
    for (ty, value, json) in [
        (decimal(18, 4), "0", "0.0000"),
        (decimal(18, 4), "-0.0001", "-0.0001"),
        (decimal(18, 4), "12.5", "12.5000"),
        (decimal(18, 4), "99999999999999.9999", "99999999999999.9999"),
        (decimal(18, 4), "-99999999999999.9999", "-99999999999999.9999"),
        (decimal(18, 0), "-999999999999999999", "-999999999999999999"),
        (decimal(18, 0), "100", "100"),
        (decimal(18, 18), "0.000000000000000001", "0.000000000000000001"),
        (decimal(18, 18), "-0.999999999999999999", "-0.999999999999999999"),
        (decimal(1, 1), "0.1", "0.1"),
        (decimal(38, 10), "0", "0.0000000000"),
        (decimal(38, 10), "-9999999999999999999999999999.0000000001", "-9999999999999999999999999999.0000000001"),
        (decimal(38, 10), "1000", "1000.0000000000"),
        (decimal(19, 0), "9999999999999999999", "9999999999999999999"),
        (SqlType::scalar(Scalar::Decimal(None)), "0", "0"),
        (SqlType::scalar(Scalar::Decimal(None)), "-1200", "-1200"),
        (SqlType::scalar(Scalar::Decimal(None)), "10000", "10000"),
        (SqlType::scalar(Scalar::Decimal(None)), "99999999", "99999999"),
        (SqlType::scalar(Scalar::Decimal(None)), "-100000000.00000001", "-100000000.00000001"),
        (SqlType::scalar(Scalar::Decimal(None)), "12345.0006", "12345.0006"),
        (SqlType::scalar(Scalar::Decimal(None)), "0.000000001", "0.000000001"),
        (SqlType::scalar(Scalar::Decimal(None)), "0.00123", "0.00123"),
        (SqlType::scalar(Scalar::Decimal(None)), "1.5", "1.5"),
    ] {
        case(ty, text(value), &format!("\"{json}\""));
    }
    let huge = format!("-{}.{}7", "9".repeat(1000), "0".repeat(999));
    case(scalar(Scalar::Decimal(None)), text(&huge), &format!("\"{huge}\""));
    let tiny = format!("0.{}1", "0".repeat(999));
    case(scalar(Scalar::Decimal(None)), text(&tiny), &format!("\"{tiny}\""));
    for value in [
        "0001-01-01T00:00:00.000000Z",
        "1969-12-31T23:59:59.999999Z",
        "1999-12-31T23:59:59.999999Z",
        "2000-01-01T00:00:00.000000Z",
        "2024-02-29T12:34:56.000001Z",
        "9999-12-31T23:59:59.999999Z",
    ] {
        case(scalar(Scalar::DateTime), text(value), &format!("\"{value}\""));
    }
    for value in ["0001-01-01", "1600-02-29", "1999-12-31", "2000-03-01", "9999-12-31"] {
        case(scalar(Scalar::Date), text(value), &format!("\"{value}\""));
    }
    for value in ["00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-fffffffffffe"] {
        case(scalar(Scalar::Uuid), text(value), &format!("\"{value}\""));
    }
    case(scalar(Scalar::Bytes), Value::Bytes(Vec::new()), "\"\"");
    case(scalar(Scalar::Bytes), Value::Bytes((0..=255).collect()), &{
        let all: Vec<u8> = (0..=255).collect();
        format!("\"{}\"", BASE64.encode(all))
    });
    for value in ["{}", "[]", "\"a b\"", "1.50", "true", r#"{"a":[1,{"b c":" \" : , "}],"aa":"\\"}"#] {
        case(scalar(Scalar::Json), text(value), value);
    }
    case(list(Scalar::String), Value::List(Vec::new()), "[]");
    let strings = ["", "NULL", "a,b", "{\"x\"}", "back\\slash", "new\nline", "é"];
    case(list(Scalar::String), Value::List(strings.map(text).to_vec()), &serde_json::to_string(&strings).unwrap());
    case(list(Scalar::Int), Value::List(vec![Value::Int(-1), Value::Int(i64::MAX)]), "[-1,9223372036854775807]");
    case(list(Scalar::Uuid), Value::List(vec![text("0198aaaa-bbbb-7ccc-8ddd-eeeeeeeeeeee")]), {
        "[\"0198aaaa-bbbb-7ccc-8ddd-eeeeeeeeeeee\"]"
    });
    let types: Vec<SqlType> = cases.iter().map(|(ty, ..)| *ty).collect();
    cases.extend(types.into_iter().map(|ty| (ty, Value::Null, "null".to_owned())));
    cases
}

/// What one case is stored and read with: the table, the insert with its bind, and the query, which gives the column at
/// the top level, as a to-one include and as a to-many include.
struct Trip {
    create: String,
    insert: String,
    bind: Bind,
    query: String,
}

fn trip(codec: Codec<'_>, value: &Value) -> Trip {
    let column = "\"c\"";
    let check = codec.check(column).map(|check| format!(" CHECK ({check})")).unwrap_or_default();
    let mut sql = Sql::new(codec.dialect);
    let placeholder = sql.placeholder(Slot::Now, codec.ty);
    let element = codec.select_element(column);
    let (strict, array, aggregate) = match codec.dialect {
        Dialect::Postgres => ("", "json_build_array", "json_agg"),
        Dialect::Sqlite => (" STRICT", "json_array", "json_group_array"),
    };
    Trip {
        create: format!("CREATE TABLE t ({column} {}{check}){strict}", codec.column_type()),
        insert: format!("INSERT INTO t (c) SELECT n.c FROM (SELECT {placeholder} AS c) AS n"),
        bind: codec.bind(value).unwrap(),
        query: format!(
            "SELECT {column}, (SELECT {array}({element}) FROM t), \
             (SELECT {aggregate}({array}({element}, {array}({element}))) FROM t) FROM t"
        ),
    }
}

fn shape(ty: SqlType) -> Shape {
    let inner = Shape { members: vec![Member::new("deep", 0, Content::Cell(ty))] };
    let many = Many {
        model: ModelId(0),
        control: Vec::new(),
        key: 0,
        back: Vec::new(),
        limit: 2,
        shape: Shape {
            members: vec![Member::new("many", 0, Content::Cell(ty)), Member::new("child", 1, Content::One(inner))],
        },
    };
    let one = Shape { members: vec![Member::new("it", 0, Content::Cell(ty))] };
    Shape {
        members: vec![
            Member::new("top", 0, Content::Cell(ty)),
            Member::new("one", 1, Content::One(one)),
            Member::new("all", 2, Content::Many(many)),
        ],
    }
}

struct NoPages;

impl Pager for NoPages {
    fn next(&mut self, _: &Many, _: &[Value]) -> Result<String, StorageError> {
        panic!("no include has more rows than it shows")
    }
}

fn read<R: Cells + ?Sized>(codec: Codec<'_>, row: &R) -> (Value, String) {
    let reader = RowReader { schema: codec.schema, dialect: codec.dialect };
    let control = reader.control(&Column::row(&[codec.ty]), row).unwrap();
    let mut body = String::new();
    reader.body(&shape(codec.ty), row, &mut NoPages, &mut body).unwrap();
    (control.into_iter().next().unwrap(), body)
}

fn expected(json: &str) -> String {
    format!(
        "{{\"top\":{json},\"one\":{{\"it\":{json}}},\
         \"all\":{{\"items\":[{{\"many\":{json},\"child\":{{\"deep\":{json}}}}}],\"next\":null}}}}"
    )
}

#[test]
fn sqlite_keeps_every_value() {
    let schema = schema();
    for (ty, value, json) in cases() {
        let codec = Codec { schema: &schema, dialect: Dialect::Sqlite, ty };
        let trip = trip(codec, &value);
        let database = rusqlite::Connection::open_in_memory().unwrap();
        register_functions(&database).unwrap();
        database.execute_batch(&trip.create).unwrap();
        database.execute(&trip.insert, [&trip.bind]).unwrap_or_else(|error| panic!("{ty:?} {error}"));
        let (read, body) = database.query_row(&trip.query, [], |row| Ok(read(codec, row))).unwrap();
        assert_eq!(read, value, "{ty:?}");
        assert_eq!(body, expected(&json), "{ty:?}");
    }
}

#[tokio::test]
async fn postgres_keeps_every_value() {
    let Some(database) = PgDatabase::new().await else { return };
    let mut connection = database.connect().await;
    // Nothing may depend on the session.
    connection
        .execute("SET TimeZone = 'America/New_York'; SET DateStyle = 'SQL, DMY'; SET bytea_output = 'escape'")
        .await
        .unwrap();
    let schema = schema();
    for (ty, value, json) in cases() {
        let codec = Codec { schema: &schema, dialect: Dialect::Postgres, ty };
        let trip = trip(codec, &value);
        let mut transaction = connection.begin().await.unwrap();
        transaction.execute(AssertSqlSafe(trip.create)).await.unwrap();
        let mut arguments = sqlx::postgres::PgArguments::default();
        add_argument(&trip.bind, &mut arguments).unwrap();
        let insert = sqlx::query_with(AssertSqlSafe(trip.insert), arguments).persistent(false);
        insert.execute(&mut *transaction).await.unwrap_or_else(|error| panic!("{ty:?} {error}"));
        let row = sqlx::query(AssertSqlSafe(trip.query)).persistent(false).fetch_one(&mut *transaction).await.unwrap();
        let (read, body) = read(codec, &row);
        transaction.rollback().await.unwrap();
        assert_eq!(read, value, "{ty:?}");
        assert_eq!(body, expected(&json), "{ty:?}");
    }
}

/// What another writer could put into a column, and the engine could not answer.
#[test]
fn sqlite_checks_refuse_what_cannot_be_answered() {
    let schema = schema();
    for (ty, bad) in [
        (SqlType::BOOL, "2"),
        (STATUS, "'cancelled'"),
        (SqlType::scalar(Scalar::Float), "9e999"),
        (SqlType::DATE_TIME, "'2026-01-31 10:00:00'"),
        (SqlType::DATE_TIME, "'2026-01-31T10:00:00Z'"),
        (SqlType::scalar(Scalar::Date), "'20260131'"),
        (SqlType::scalar(Scalar::Uuid), "'FFFFFFFF-ffff-ffff-ffff-ffffffffffff'"),
        (SqlType::scalar(Scalar::Uuid), "'x'"),
        (SqlType::scalar(Scalar::Json), "'{'"),
        (decimal(3, 1), "1000"),
        (decimal(3, 1), "-1000"),
        (decimal(20, 1), "'12'"),
        (list(Scalar::Int), "'{}'"),
        (list(Scalar::Int), "'['"),
        (SqlType::INT, "'a'"),
        (SqlType::TEXT, "x'00'"),
    ] {
        let codec = Codec { schema: &schema, dialect: Dialect::Sqlite, ty };
        let database = rusqlite::Connection::open_in_memory().unwrap();
        database.execute_batch(&trip(codec, &Value::Null).create).unwrap();
        assert!(database.execute(&format!("INSERT INTO t (c) VALUES ({bad})"), []).is_err(), "{ty:?} {bad}");
    }
}

#[tokio::test]
async fn postgres_checks_refuse_what_cannot_be_answered() {
    let Some(database) = PgDatabase::new().await else { return };
    let mut connection = database.connect().await;
    let schema = schema();
    for (ty, bad) in [
        (STATUS, "'cancelled'"),
        (SqlType::scalar(Scalar::Float), "'NaN'"),
        (SqlType::scalar(Scalar::Float), "'Infinity'"),
        (SqlType::scalar(Scalar::Float), "'-Infinity'"),
        (SqlType::scalar(Scalar::Decimal(None)), "'NaN'"),
        (SqlType::scalar(Scalar::Decimal(None)), "'-Infinity'"),
        (decimal(18, 4), "'NaN'"),
        (SqlType::DATE_TIME, "'infinity'"),
        (SqlType::DATE_TIME, "'-infinity'"),
        (SqlType::DATE_TIME, "'10000-01-01 00:00:00Z'"),
        (SqlType::DATE_TIME, "'0001-12-31 00:00:00Z BC'"),
        (SqlType::scalar(Scalar::Date), "'infinity'"),
        (SqlType::scalar(Scalar::Date), "'10000-01-01'"),
        (list(Scalar::Int), "'{1,NULL}'"),
    ] {
        let codec = Codec { schema: &schema, dialect: Dialect::Postgres, ty };
        let mut transaction = connection.begin().await.unwrap();
        transaction.execute(AssertSqlSafe(trip(codec, &Value::Null).create)).await.unwrap();
        let error = transaction.execute(AssertSqlSafe(format!("INSERT INTO t (c) VALUES ({bad})"))).await.unwrap_err();
        let code = error.as_database_error().and_then(|error| error.code().map(Cow::into_owned));
        assert_eq!(code.as_deref(), Some("23514"), "{ty:?} {bad}");
        transaction.rollback().await.unwrap();
    }
}

#[test]
fn values_of_another_form_are_errors() {
    let schema = schema();
    let sqlite = |ty| Codec { schema: &schema, dialect: Dialect::Sqlite, ty };
    assert!(sqlite(SqlType::INT).bind(&text("1")).is_err());
    assert!(sqlite(SqlType::INT_LIST).bind(&Value::Int(1)).is_err());
    assert!(sqlite(decimal(18, 2)).bind(&text("0.001")).is_err());
    assert!(sqlite(decimal(18, 2)).bind(&text("99999999999999999999")).is_err());
    let mut out = String::new();
    for (ty, cell) in [
        (SqlType::INT, Cell::Text("x")),
        (SqlType::BOOL, Cell::Int(2)),
        (SqlType::DATE_TIME, Cell::Text("\"")),
        (SqlType::scalar(Scalar::Decimal(None)), Cell::Text("p12")),
        (SqlType::scalar(Scalar::Decimal(None)), Cell::Text("é")),
        (SqlType::scalar(Scalar::Uuid), Cell::Pg(&[1, 2])),
        (SqlType::scalar(Scalar::Float), Cell::Real(f64::NAN)),
        (SqlType::INT_LIST, Cell::Pg(&[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 127, 0, 0, 0, 0, 0, 0, 1])),
    ] {
        assert!(sqlite(ty).decode(cell).is_err(), "{ty:?} {cell:?}");
        assert!(sqlite(ty).render(cell, &mut out).is_err(), "{ty:?} {cell:?}");
    }
    assert!(sqlite(STATUS).render(Cell::Text("un\"known"), &mut out).is_ok());
    assert!(out.ends_with("\"un\\\"known\""), "an unknown stored value is answered as stored");
}

/// A to-many include shows at most its limit, and the cursor is made from the last row shown.
#[test]
fn json_strings_are_escaped_wherever_it_is_needed() {
    for c in (0..0x80).filter_map(char::from_u32).chain(['é', '€', '\u{10FFFF}']) {
        for at in 0..18 {
            for tail in [0, 1, 7, 9] {
                let text = format!("{}{c}{}", "a".repeat(at), "z".repeat(tail));
                let mut out = String::new();
                push_json_string(&mut out, &text);
                assert_eq!(out, serde_json::to_string(&text).unwrap());
            }
        }
    }
}

#[test]
fn includes_are_cut_at_their_limit() {
    struct Keys;
    impl Pager for Keys {
        fn next(&mut self, include: &Many, control: &[Value]) -> Result<String, StorageError> {
            assert_eq!(include.key, 1);
            Ok(format!("after {control:?}"))
        }
    }
    let schema = schema();
    let reader = RowReader { schema: &schema, dialect: Dialect::Sqlite };
    let many = Many {
        model: ModelId(0),
        control: Column::row(&[SqlType::INT, SqlType::TEXT]),
        key: 1,
        back: Vec::new(),
        limit: 2,
        shape: Shape { members: vec![Member::new("n", 2, Content::Cell(SqlType::INT))] },
    };
    let shape = Shape { members: vec![Member::new("rows", 0, Content::Many(many))] };
    for (json, expected) in [
        ("[]", r#"{"rows":{"items":[],"next":null}}"#),
        (" [ [1, \"a\", 10] ,\n [2,\"b\",20]]", r#"{"rows":{"items":[{"n":10},{"n":20}],"next":null}}"#),
        (
            r#"[[1,"a",10],[2,"b\"]",20],[3,"c",30]]"#,
            r#"{"rows":{"items":[{"n":10},{"n":20}],"next":"after [Int(2), Text(\"b\\\"]\")]"}}"#,
        ),
    ] {
        let mut out = String::new();
        reader.body(&shape, &[Cell::Text(json)][..], &mut Keys, &mut out).unwrap();
        // The test's cursor is a debug form, whose own escapes are escaped once more.
        assert!(serde_json::from_str::<serde_json::Value>(&out).is_ok(), "{out}");
        if json.contains("30") {
            assert!(out.starts_with(r#"{"rows":{"items":[{"n":10},{"n":20}],"next":"after [Int(2)"#), "{out}");
        } else {
            assert_eq!(out, expected);
        }
    }
    for bad in ["", "{}", "[1]", "[[1,\"a\",10]", "[[1,\"a", "[,"] {
        let mut out = String::new();
        assert!(reader.body(&shape, &[Cell::Text(bad)][..], &mut Keys, &mut out).is_err(), "{bad}");
    }
}

/// A Decimal with up to 80 digits and exponents near and far.
fn any_decimal() -> impl Strategy<Value = Decimal> {
    let digits = prop_oneof!["[0-9]{1,4}", "[0-9]{1,80}", "1", "10{0,9}", "9{1,30}"];
    let exponent = prop_oneof![Just(0_i32), -8..8_i32, -900..900_i32];
    (any::<bool>(), digits, exponent).prop_map(|(negative, digits, exponent)| {
        format!("{}{digits}e{exponent}", if negative { "-" } else { "" }).parse().unwrap()
    })
}

proptest! {
    #[test]
    fn sorted_text_orders_like_numbers(a in any_decimal(), b in any_decimal()) {
        let (x, y) = (sortable(&a.to_string()).unwrap(), sortable(&b.to_string()).unwrap());
        prop_assert_eq!(x.as_bytes().cmp(y.as_bytes()), a.cmp(&b));
        prop_assert_eq!(unsortable(&x).unwrap(), a.to_string());
        prop_assert_eq!(x.as_bytes().cmp(b"o"), a.cmp(&Decimal::default()));
    }

    #[test]
    fn neighbours_order_too(a in any_decimal(), step in any_decimal()) {
        let b = a.add(&step);
        if let (Some(x), Some(y)) = (sortable(&a.to_string()), sortable(&b.to_string())) {
            prop_assert_eq!(x.cmp(&y), a.cmp(&b));
        }
    }

    #[test]
    fn strings_escape_like_serde_json(text: String) {
        let mut out = String::new();
        push_json_string(&mut out, &text);
        prop_assert_eq!(out, serde_json::to_string(&text).unwrap());
    }

    #[test]
    fn integers_print(value: i64) {
        let mut out = String::new();
        push_int(&mut out, value);
        prop_assert_eq!(out, value.to_string());
    }

    #[test]
    fn days_and_instants_print(micros in -62_135_596_800_000_000_i64..253_402_300_800_000_000) {
        let pg = micros - PG_EPOCH_DAYS * DAY_MICROS;
        let mut out = String::new();
        write_date_time(Cell::Pg(&pg.to_be_bytes()), &mut out).unwrap();
        prop_assert_eq!(Some(out), cratestack_schema::value::instant::from_unix_micros(micros));
    }

    #[test]
    fn binary_arrays_never_panic(octets in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = array_elements(&octets);
    }

    #[test]
    fn database_json_never_panics(text in r#"[\[\]",\\a1 nul]{0,24}"#) {
        if let Ok(cells) = row_cells(&text) {
            prop_assert!(cells.len() <= text.len());
        }
    }
}

/// Floats cross SQLite's text inside of includes without loss.
#[test]
fn sqlite_floats_cross_includes() {
    let schema = schema();
    let codec = Codec { schema: &schema, dialect: Dialect::Sqlite, ty: SqlType::scalar(Scalar::Float) };
    let database = rusqlite::Connection::open_in_memory().unwrap();
    register_functions(&database).unwrap();
    let query = format!("SELECT json_array({})", codec.select_element("?1"));
    let mut query = database.prepare(&query).unwrap();
    // A fixed sequence over all bit patterns.
    let mut bits = 0x9E37_79B9_7F4A_7C15_u64;
    for _ in 0..200_000 {
        bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let value = f64::from_bits(bits);
        if !value.is_finite() {
            continue;
        }
        let json: String = query.query_row([value], |row| row.get(0)).unwrap();
        assert_eq!(codec.decode(row_cells(&json).unwrap()[0]).unwrap(), Value::Float(value + 0.0), "{json}");
    }
}

/// SQLite's `Json` has the form that PostgreSQL gives to `jsonb`.
#[tokio::test]
async fn json_is_alike_on_both() {
    let Some(database) = PgDatabase::new().await else { return };
    let mut connection = database.connect().await;
    let schema = Arc::new(schema());
    for json in [
        r#"{"b":1,"a":2,"aa":{"é":1,"zz":2,"z":[]},"":0}"#,
        "[0,-0,-0.0,1.50,1e2,1.5E+3,1e-7,12.50e1,0e5,0e-3,-1.0e-2,1e399,4.9406564584124654e-324]",
        r#"["\u0001\u001f\u007f\u2028\/\b\f\n\r\t\"\\é😀"]"#,
        "\"plain\"",
        "123456789012345678901234567890.123456789",
    ] {
        let value = {
            let mut out = String::new();
            json::parse(json.as_bytes(), 64).unwrap().write(&mut out);
            text(&out)
        };
        let ty = SqlType::scalar(Scalar::Json);
        let stored = Codec { schema: &schema, dialect: Dialect::Sqlite, ty }.bind(&value).unwrap();
        let row = sqlx::query("SELECT $1::text::jsonb").bind(json).fetch_one(&mut connection).await.unwrap();
        let codec = Codec { schema: &schema, dialect: Dialect::Postgres, ty };
        let mut out = String::new();
        codec.render(row.cell(0).unwrap(), &mut out).unwrap();
        assert_eq!(stored, Bind::Text(out));
    }
}

/// Text order is by code point on PostgreSQL, also for binds that are seen through a subquery.
#[tokio::test]
async fn postgres_text_binds_compare_by_code_point() {
    let Some(database) = PgDatabase::new().await else { return };
    let mut connection = database.connect().await;
    let mut sql = Sql::new(Dialect::Postgres);
    let (a, b) = (sql.placeholder(Slot::Key(0), SqlType::TEXT), sql.placeholder(Slot::Key(1), SqlType::TEXT));
    let query = format!("SELECT n.a < n.b FROM (SELECT {a} AS a, {b} AS b) AS n");
    let row = sqlx::query(AssertSqlSafe(query)).bind("Z").bind("a").fetch_one(&mut connection).await.unwrap();
    assert!(row.get::<bool, _>(0));
}

#[test]
fn decimals_in_sql_of_a_service() {
    let connection = rusqlite::Connection::open_in_memory().unwrap();
    register_functions(&connection).unwrap();
    let text = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, Option<String>>(0));
    let given = |sql: &str| text(&format!("SELECT {sql}")).unwrap();
    assert_eq!(given("cratestack_plain(12345, 4)").as_deref(), Some("1.2345"));
    assert_eq!(given("cratestack_plain(-5, 0)").as_deref(), Some("-5"));
    assert_eq!(given("cratestack_plain(cratestack_stored('-1.5', 4), 4)").as_deref(), Some("-1.5000"));
    assert_eq!(given("cratestack_plain(cratestack_stored('-1.5'))").as_deref(), Some("-1.5"));
    assert_eq!(given("CAST(cratestack_stored('1.5', 4) AS TEXT)").as_deref(), Some("15000"));
    assert_eq!(given("cratestack_stored(NULL, 4)"), None);
    for (call, part) in [
        ("cratestack_stored('1.23456', 4)", "more digits"),
        ("cratestack_stored('1000000000000000000', 0)", "more digits"),
        ("cratestack_stored('1e3', 4)", "plain notation"),
        ("cratestack_stored('12,5')", "plain notation"),
        ("cratestack_plain(5)", "give its `s`"),
        ("cratestack_sum(5)", "give its `s`"),
    ] {
        let error = text(&format!("SELECT {call}")).unwrap_err().to_string();
        assert!(error.contains(part), "{call}: {error}");
    }
    assert_eq!(given("cratestack_plain(cratestack_sortable('-0.5'))").as_deref(), Some("-0.5"));
    assert_eq!(given("cratestack_plain(cratestack_sortable('7'), 10)").as_deref(), Some("7.0000000000"));
    assert_eq!(given("cratestack_plain(NULL, 2)"), None);
    let of = |values: &str, call: &str| text(&format!("WITH t (x) AS (VALUES {values}) SELECT {call} FROM t"));
    let max = i64::MAX;
    assert_eq!(
        of(&format!("({max}), ({max})"), "cratestack_sum(x, 2)").unwrap().as_deref(),
        Some("184467440737095516.14")
    );
    let mixed = "(cratestack_sortable('0.1')), (NULL), (cratestack_sortable('0.2'))";
    assert_eq!(of(mixed, "cratestack_sum(x)").unwrap().as_deref(), Some("0.3"));
    assert_eq!(of("(NULL)", "cratestack_sum(x)").unwrap(), None);
    assert_eq!(text("SELECT cratestack_sum(1, 2) WHERE 0").unwrap(), None);
    for (value, scale, part) in [
        ("'12'", "0", "not the stored form"),
        ("1.5", "0", "not the stored form"),
        ("x'00'", "0", "not the stored form"),
        ("1", "-1", "cratestack"),
        ("1", "2000", "scale"),
        ("1", "'a'", "cratestack"),
        ("x", "x", "one for all rows"),
    ] {
        if value == "x" {
            let error = of("(1), (2)", "cratestack_sum(x, x)").unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
            continue;
        }
        for name in ["cratestack_sum", "cratestack_plain"] {
            let error = text(&format!("SELECT {name}({value}, {scale})")).unwrap_err().to_string();
            assert!(part == "cratestack" || error.contains(part), "{error}");
        }
    }
}
