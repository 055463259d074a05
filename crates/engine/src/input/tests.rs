#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use std::sync::LazyLock;

use cratestack_schema::ir::{
    self, Auth, Default as FieldDefault, Enum, Precision, Relation, Returns, TypeDef, Validator, ValidatorKind, Variant,
};
use proptest::prelude::*;

use super::*;
use crate::json;

fn field(name: &str, ty: FieldType) -> Field {
    Field::new(name, name, ty)
}

fn scalar(name: &str, scalar: Scalar) -> Field {
    field(name, FieldType::Scalar(scalar))
}

fn optional(mut field: Field) -> Field {
    field.optional = true;
    field
}

fn list(mut field: Field) -> Field {
    field.list = true;
    field
}

fn validated(mut field: Field, kinds: impl IntoIterator<Item = ValidatorKind>) -> Field {
    field.validators = kinds.into_iter().map(|kind| Validator { kind, db_enforce: false }).collect();
    field
}

const ROLE: FieldType = FieldType::Enum(EnumId(0));

fn model(fields: Vec<Field>, relations: Vec<Relation>) -> Model {
    Model { fields, relations, key: vec![FieldId(0)], ..Model::new("Account", "accounts", "accounts") }
}

fn relation(name: &str, kind: RelationKind) -> Relation {
    Relation { name: name.into(), doc: None, target: ModelId(0), inverse: None, kind }
}

/// One model with a field of every kind, a nested value object, and an `auth` block.
fn schema() -> Schema {
    let money = Scalar::Decimal(Some(Precision { precision: 18, scale: 4 }));
    let mut id = scalar("id", Scalar::Uuid);
    id.id = true;
    id.default = Some(FieldDefault::Uuid);
    let mut version = scalar("version", Scalar::Int);
    version.version = true;
    let mut secret = scalar("riskScore", Scalar::Int);
    secret.server_only = true;
    let mut iban = optional(validated(scalar("iban", Scalar::String), [ValidatorKind::Iban]));
    iban.immutable = true;
    let mut tenant = scalar("tenantId", Scalar::String);
    tenant.default = Some(FieldDefault::Auth(FieldId(0)));
    let mut balance = scalar("balance", money);
    balance.default = Some(FieldDefault::Value(Value::Text("0".into())));
    let fields = vec![
        id,
        validated(scalar("owner", Scalar::String), [ValidatorKind::Length { min: Some(1), max: Some(5) }]),
        optional(validated(
            scalar("email", Scalar::String),
            [ValidatorKind::Email, ValidatorKind::Regex(".*@bank[.]example".into())],
        )),
        balance,
        version,
        secret,
        iban,
        tenant,
        optional(scalar("int", Scalar::Int)),
        optional(scalar("big", Scalar::BigInt)),
        optional(scalar("float", Scalar::Float)),
        optional(scalar("flag", Scalar::Boolean)),
        optional(scalar("at", Scalar::DateTime)),
        optional(scalar("day", Scalar::Date)),
        optional(scalar("uuid", Scalar::Uuid)),
        optional(scalar("cuid", Scalar::Cuid)),
        optional(scalar("bytes", Scalar::Bytes)),
        optional(scalar("json", Scalar::Json)),
        optional(field("role", ROLE)),
        list(scalar("tags", Scalar::String)),
        optional(scalar("any", Scalar::Decimal(None))),
        optional(scalar("customerId", Scalar::Uuid)),
    ];
    let owning = RelationKind::Owning {
        fields: vec![FieldId(21)],
        references: vec![FieldId(0)],
        on_delete: ir::ReferentialAction::Restrict,
        on_update: ir::ReferentialAction::NoAction,
        constraint: String::new(),
        optional: true,
    };
    let relations = vec![relation("customer", owning), relation("entries", RelationKind::Many)];
    let fee = TypeDef {
        name: "Fee".into(),
        doc: None,
        fields: vec![
            validated(scalar("label", Scalar::String), [ValidatorKind::Length { min: None, max: Some(3) }]),
            optional(scalar("amount", money)),
        ],
    };
    let transfer = TypeDef {
        name: "Transfer".into(),
        doc: None,
        fields: vec![
            list(field("fees", FieldType::Type(TypeId(0)))),
            list(field("roles", ROLE)),
            optional(field("main", FieldType::Type(TypeId(0)))),
            optional(field("next", FieldType::Type(TypeId(1)))),
        ],
    };
    let variant = |name: &str, stored: &str| Variant { name: name.into(), stored: stored.into(), doc: None };
    Schema {
        enums: vec![Enum {
            name: "Role".into(),
            doc: None,
            variants: vec![variant("teller", "teller"), variant("manager", "MGR")],
        }],
        auth: Some(Auth {
            name: "Principal".into(),
            fields: vec![
                scalar("id", Scalar::String),
                field("role", ROLE),
                optional(scalar("limit", money)),
                list(scalar("scopes", Scalar::String)),
            ],
            subject: Some(FieldId(0)),
            tenant: None,
        }),
        types: vec![fee, transfer],
        models: vec![model(fields, relations)],
        ..Schema::new("test")
    }
}

fn procedure(params: Vec<Field>, args_is_body: bool) -> Procedure {
    Procedure {
        name: "transfer".into(),
        doc: None,
        mutation: true,
        params,
        args_is_body,
        returns: Returns { ty: FieldType::Scalar(Scalar::Int), list: false, optional: false },
        rules: Vec::new(),
        isolation: None,
        status: None,
        deprecated: None,
        idempotent: cratestack_schema::ir::Idempotent::default(),
        rate_limits: Vec::new(),
    }
}

fn read(text: &str) -> Json {
    json::parse(text.as_bytes(), json::MAX_DEPTH).unwrap()
}

type Row = Result<Vec<(FieldId, Value)>, Vec<FieldError>>;

type Test = fn(&Schema, &Validators, ModelId, Authority, &Json) -> Row;

fn run(test: Test, text: &str) -> Row {
    run_as(Authority::Rules, test, text)
}

fn run_as(authority: Authority, test: Test, text: &str) -> Row {
    static COMPILED: LazyLock<(Schema, Validators)> = LazyLock::new(|| {
        let schema = schema();
        let validators = Validators::compile(&schema).unwrap();
        (schema, validators)
    });
    let (schema, validators) = &*COMPILED;
    test(schema, validators, ModelId(0), authority, &read(text))
}

fn lines(errors: &[FieldError]) -> Vec<String> {
    errors.iter().map(|error| format!("{} {}: {}", error.pointer, error.code, error.detail)).collect()
}

#[test]
fn every_failing_member_is_reported_at_once() {
    let errors = run(
        create,
        r#"{"ownr": "x", "email": "nobody", "balance": "0.00001", "version": 1, "riskScore": 1, "riskScor": 1,
            "iban": "DE00", "tenantId": "t", "customer": {}, "entries": [], "a/b~ é": 1, "role": "boss", "tags": ["a", 1, null]}"#,
    );
    assert_eq!(
        lines(&errors.unwrap_err()),
        [
            "#/ownr unknown_field: is not a known field; did you mean `owner`?",
            "#/email email: must be an email address",
            "#/email regex: must have the form that is asked for",
            "#/balance precision: must have at most 4 digits after the point",
            "#/version read_only: is set by the service and cannot be sent",
            "#/riskScore unknown_field: is not a known field",
            "#/riskScor unknown_field: is not a known field",
            "#/iban iban: must be an IBAN without spaces, with valid check digits",
            "#/tenantId read_only: is set by the service and cannot be sent",
            "#/customer unknown_field: is a relation; send `customerId` instead",
            "#/entries unknown_field: is a relation and cannot be sent",
            "#/a~1b~0%20%C3%A9 unknown_field: is not a known field",
            "#/role enum: must be one of `teller`, `manager`",
            "#/tags/1 type: must be a string",
            "#/tags/2 required: must not be null",
            "#/owner required: is required",
        ]
    );
}

#[test]
fn rows_come_in_the_order_of_their_fields() {
    let row =
        run(create, r#"{"tags": ["b"], "role": "manager", "owner": "Ann", "balance": "1.50", "email": null}"#).unwrap();
    let text = |text: &str| Value::Text(text.into());
    assert_eq!(
        row,
        [
            (FieldId(1), text("Ann")),
            (FieldId(2), Value::Null),
            (FieldId(3), text("1.5")),
            (FieldId(18), text("MGR")),
            (FieldId(19), Value::List(vec![text("b")])),
        ]
    );
    assert_eq!(run(create, r#"{"owner": "Ann"}"#).unwrap()[1], (FieldId(19), Value::List(Vec::new())));
}

#[test]
fn patches_need_nothing_and_change_less() {
    assert_eq!(run(patch, "{}").unwrap(), []);
    assert_eq!(run(patch, r#"{"email": null}"#).unwrap(), [(FieldId(2), Value::Null)]);
    let errors = run(patch, r#"{"id": "x", "iban": null, "owner": null, "tags": null, "balance": null, "idd": 1}"#);
    assert_eq!(
        lines(&errors.unwrap_err()),
        [
            "#/id read_only: cannot be changed once the row exists",
            "#/iban read_only: cannot be changed once the row exists",
            "#/owner required: must not be null",
            "#/tags required: must not be null",
            "#/balance required: must not be null",
            "#/idd unknown_field: is not a known field",
        ]
    );
    for text in ["[]", "null", "1", "\"x\""] {
        for test in [create, patch] {
            assert_eq!(lines(&run(test, text).unwrap_err()), ["# type: must be an object"]);
        }
    }
}

#[test]
fn values_of_every_type() {
    let long = "9".repeat(30);
    let deep = format!("{}1{}", "[".repeat(60), "]".repeat(60));
    let bad = |code: &'static str| Err(code);
    for (name, json, expected) in [
        ("int", "1", Ok(Value::Int(1))),
        ("int", "-0", Ok(Value::Int(0))),
        ("int", "1.0", Ok(Value::Int(1))),
        ("int", "12e1", Ok(Value::Int(120))),
        ("int", "9007199254740991", Ok(Value::Int(9_007_199_254_740_991))),
        ("int", "9007199254740992", bad("out_of_range")),
        ("int", "-9007199254740992", bad("out_of_range")),
        ("int", "9223372036854775808", bad("out_of_range")),
        ("int", &long, bad("out_of_range")),
        ("int", "1.5", bad("type")),
        ("int", "1e400", bad("type")),
        ("int", "1e99999999999999999999", bad("type")),
        ("int", "\"1\"", bad("type")),
        ("int", "true", bad("type")),
        ("int", "{}", bad("type")),
        ("big", "\"9223372036854775807\"", Ok(Value::Int(i64::MAX))),
        ("big", "\"9223372036854775808\"", bad("out_of_range")),
        ("big", "1", bad("type")),
        ("big", "\"1.0\"", bad("type")),
        ("float", "1e308", Ok(Value::Float(1e308))),
        ("float", "-0.0", Ok(Value::Float(0.0))),
        ("float", "1e400", bad("out_of_range")),
        ("float", "-1e400", bad("out_of_range")),
        ("float", "1e-400", Ok(Value::Float(0.0))),
        ("float", "\"1\"", bad("type")),
        ("float", "\"NaN\"", bad("type")),
        ("flag", "true", Ok(Value::Bool(true))),
        ("flag", "1", bad("type")),
        ("flag", "\"true\"", bad("type")),
        ("balance", "\"99999999999999.9999\"", Ok(Value::Text("99999999999999.9999".into()))),
        ("balance", "\"1.50000000\"", Ok(Value::Text("1.5".into()))),
        ("balance", "\"-0.0\"", Ok(Value::Text("0".into()))),
        ("balance", "\"100000000000000\"", bad("precision")),
        ("balance", "\"123456789012345678901234567890\"", bad("precision")),
        ("balance", "\"1e2\"", bad("type")),
        ("balance", "\"NaN\"", bad("type")),
        ("balance", "\"\"", bad("type")),
        ("balance", "1.5", bad("type")),
        ("at", "\"2026-01-31T11:00:00+01:00\"", Ok(Value::Text("2026-01-31T10:00:00.000000Z".into()))),
        ("at", "\"2026-01-31T11:00:00\"", bad("type")),
        ("at", "\"2026-01-31T11:00:00.1234567Z\"", bad("precision")),
        ("at", "\"0000-01-31T11:00:00Z\"", bad("type")),
        ("at", "\"9999-12-31T23:59:59-01:00\"", bad("out_of_range")),
        ("at", "1700000000", bad("type")),
        ("day", "\"2024-02-29\"", Ok(Value::Text("2024-02-29".into()))),
        ("day", "\"2025-02-29\"", bad("type")),
        (
            "uuid",
            "\"FFFFFFFF-0000-0000-0000-000000000000\"",
            Ok(Value::Text("ffffffff-0000-0000-0000-000000000000".into())),
        ),
        ("uuid", "\"x\"", bad("type")),
        ("cuid", "\"CK\"", bad("type")),
        ("bytes", "\"AAE=\"", Ok(Value::Bytes(vec![0, 1]))),
        ("bytes", "\"AAE\"", bad("type")),
        ("bytes", "\"****\"", bad("type")),
        ("owner", "\"a\\u0000b\"", bad("nul")),
        ("owner", "\"ééééé\"", Ok(Value::Text("ééééé".into()))),
        ("owner", "\"123456\"", bad("length")),
        ("owner", "\"\"", bad("length")),
        ("role", "\"MGR\"", bad("enum")),
        ("role", "1", bad("type")),
        ("tags", "\"a\"", bad("type")),
        ("tags", "[]", Ok(Value::List(Vec::new()))),
        ("json", "{\"b\": [1, 1.50], \"a\": null}", Ok(Value::Text("{\"b\":[1,1.50],\"a\":null}".into()))),
        ("json", &deep, Ok(Value::Text(deep.clone()))),
        ("json", "1e399", Ok(Value::Text("1e399".into()))),
        ("json", "1e400", bad("out_of_range")),
        ("json", "\"\\u0000\"", bad("nul")),
    ] {
        let row = run(patch, &format!("{{\"{name}\": {json}}}"));
        match (row, expected) {
            (Ok(row), Ok(value)) => assert_eq!(row[0].1, value, "{name} {json}"),
            (Err(errors), Err(code)) => {
                assert_eq!(
                    (errors[0].code.as_str(), errors[0].pointer.as_str()),
                    (code, &*format!("#/{name}")),
                    "{json}"
                );
                assert_eq!(errors.len(), 1, "{name} {json}");
            }
            (row, _) => panic!("{name} {json}: {row:?}"),
        }
    }
}

#[test]
fn json_faults_have_pointers_of_their_own() {
    let errors = run(patch, r#"{"json": {"a": [1, "x\u0000"], "b\u0000": {"c": 1e999}}}"#).unwrap_err();
    assert_eq!(
        lines(&errors),
        [
            "#/json/a/1 nul: must not contain a NUL character",
            "#/json/b%00 nul: must not contain a NUL character",
            "#/json/b%00/c out_of_range: must have at most 400 digits in plain notation",
        ]
    );
    let many = format!("{{\"json\": [{}]}}", ["1e399"; 200].join(","));
    assert_eq!(run(patch, &many).unwrap_err()[0].code, "out_of_range");
    assert!(run(patch, &format!("{{\"json\": [{}]}}", ["1e30"; 200].join(","))).is_ok());
}

#[test]
fn errors_are_bounded() {
    let members: Vec<String> = (0..200_000).map(|n| format!("\"x{n}\": 1")).collect();
    assert_eq!(run(create, &format!("{{{}}}", members.join(","))).unwrap_err().len(), MAX_ERRORS);
    let nuls = format!("{{\"json\": [{}]}}", ["\"\\u0000\""; 1000].join(","));
    assert_eq!(run(patch, &nuls).unwrap_err().len(), MAX_ERRORS);
    let long = format!("{{\"{}\": 1}}", "o".repeat(500_000));
    let error = run(create, &long).unwrap_err().swap_remove(0);
    assert_eq!((error.detail.as_str(), error.pointer.len()), ("is not a known field", MAX_NAME + 2));
}

#[test]
fn arguments_are_typed_to_every_depth() {
    let schema = schema();
    let validators = Validators::compile(&schema).unwrap();
    let body = procedure(vec![field("args", FieldType::Type(TypeId(1)))], true);
    let read_body = |text: &str| arguments(&schema, &validators, &body, Some(&read(text)));
    let text = |text: &str| Argument::Value(Value::Text(text.into()));
    let null = || Argument::Value(Value::Null);
    assert_eq!(
        read_body(r#"{"fees": [{"label": "a", "amount": "1.0"}, {"label": "b"}], "roles": ["manager"]}"#).unwrap(),
        [Argument::Object(vec![
            Argument::List(vec![
                Argument::Object(vec![text("a"), text("1")]),
                Argument::Object(vec![text("b"), null()])
            ]),
            Argument::Value(Value::List(vec![Value::Text("MGR".into())])),
            null(),
            null(),
        ])]
    );
    assert_eq!(
        lines(&read_body(
            r#"{"fees": [{"label": "long"}, {"lable": "b"}, 1, null], "roles": ["boss"], "main": [], "next": {"fees": null, "roles": []}}"#
        ).unwrap_err()),
        [
            "#/fees/0/label length: must have at most 3 characters",
            "#/fees/1/lable unknown_field: is not a known field; did you mean `label`?",
            "#/fees/1/label required: is required",
            "#/fees/2 type: must be an object",
            "#/fees/3 required: must not be null",
            "#/roles/0 enum: must be one of `teller`, `manager`",
            "#/main type: must be an object",
            "#/next/fees required: must not be null",
        ]
    );
    assert_eq!(lines(&read_body("[]").unwrap_err()), ["# type: must be an object"]);
    let missing = arguments(&schema, &validators, &body, None).unwrap_err();
    assert_eq!(lines(&missing), ["#/fees required: is required", "#/roles required: is required"]);

    let plain = procedure(vec![scalar("from", Scalar::Uuid), optional(scalar("note", Scalar::String))], false);
    let read_plain = |json: Option<&str>| arguments(&schema, &validators, &plain, json.map(read).as_ref());
    assert_eq!(
        read_plain(Some(r#"{"from": "00000000-0000-0000-0000-000000000001"}"#)).unwrap(),
        [text("00000000-0000-0000-0000-000000000001"), null()]
    );
    assert_eq!(
        lines(&read_plain(Some(r#"{"form": 1, "note": 1}"#)).unwrap_err()),
        [
            "#/form unknown_field: is not a known parameter; did you mean `from`?",
            "#/note type: must be a string",
            "#/from required: is required",
        ]
    );
    assert_eq!(lines(&read_plain(None).unwrap_err()), ["#/from required: is required"]);

    let none = procedure(Vec::new(), false);
    assert_eq!(arguments(&schema, &validators, &none, None).unwrap(), []);
    assert_eq!(arguments(&schema, &validators, &none, Some(&read("{}"))).unwrap(), []);
    assert!(arguments(&schema, &validators, &none, Some(&read("{\"a\":1}"))).is_err());
}

#[test]
fn claims_are_typed() {
    let schema = schema();
    let claims = |text: &str| principal(&schema, &read(text));
    assert_eq!(
        claims(r#"{"iss": "x", "id": "ann", "role": "manager", "scopes": ["a"], "exp": 1.5}"#).unwrap().claims,
        [Value::Text("ann".into()), Value::Text("MGR".into()), Value::Null, Value::List(vec![Value::Text("a".into())]),]
    );
    for (text, message) in [
        ("[]", "the claims of the caller must be a JSON object"),
        (r#"{"id": "a", "role": "teller"}"#, "claim `scopes` is required"),
        (
            r#"{"id": 1, "role": "MGR", "scopes": []}"#,
            "claim `id` must be a string; claim `role` must be one of `teller`, `manager`",
        ),
        (r#"{"id": "a", "role": null, "scopes": []}"#, "claim `role` must not be null"),
        (r#"{"id": "a", "role": "teller", "scopes": ["\u0000"]}"#, "claim `scopes/0` must not contain a NUL character"),
        (
            r#"{"id": "a", "role": "teller", "scopes": [], "limit": 1}"#,
            "claim `limit` must be a string, such as `\"12.34\"`, since JSON numbers may lose digits",
        ),
    ] {
        assert_eq!(claims(text).unwrap_err(), message);
    }
    let anonymous = Schema { auth: None, ..schema };
    assert_eq!(principal(&anonymous, &read("{\"a\": 1}")).unwrap().claims, []);
}

proptest! {
    /// Whatever is sent, the answer is a row or errors, and no error repeats a text of the input.
    #[test]
    fn details_never_contain_the_value(name in "[a-z]{1,8}", value in "zz[a-z0-9]{6,20}") {
        for field in ["owner", "email", "balance", "int", "big", "float", "flag", "at", "day", "uuid", "bytes", "role"] {
            for text in [format!("{{\"{field}\": \"{value}\"}}"), format!("{{\"{field}\": {{\"{name}\": \"{value}\"}}}}")] {
                if let Err(errors) = run(patch, &text) {
                    for error in errors {
                        prop_assert!(!error.detail.contains(&value) && !error.pointer.contains(&value), "{}", error.detail);
                    }
                }
            }
        }
    }
}
