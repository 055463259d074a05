//! What compiles, and what it means. What does not compile is in `tests/diagnostics`.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::fmt::Write as _;
use std::time::Instant;

use proptest::prelude::*;

use super::{attributes, filter, models, resolve_path};
use crate::compile;
use crate::diag::Code;
use crate::ir::*;
use crate::parse::Limits;
use crate::value::Value;

const BANK: &str = include_str!("../../../../examples/bank/bank.cstack");

/// The schema of a text without any finding.
fn clean(text: &str) -> Schema {
    let (schema, found) = compile("test", text);
    assert!(found.is_empty(), "{found:#?}");
    schema.unwrap()
}

fn bank() -> (Schema, ModelId, ModelId) {
    let schema = clean(BANK);
    let (account, entry) = (schema.model_named("Account").unwrap(), schema.model_named("Entry").unwrap());
    (schema, account, entry)
}

#[test]
fn the_bank_is_clean_and_formatted() {
    assert_eq!(crate::format(BANK).unwrap(), BANK);
    let (schema, account, entry) = bank();
    let account = schema.model(account);
    assert_eq!((account.table.as_str(), account.path.as_str()), ("accounts", "accounts"));
    assert_eq!(account.field(account.key[0]).name, "id");
    assert_eq!(account.version, account.field_named("version"));
    assert_eq!(
        account.checks.iter().map(|check| check.constraint.as_str()).collect::<Vec<_>>(),
        ["accounts_check_funds", "accounts_check_hold"]
    );
    assert_eq!(account.uniques[0].name, "accounts_iban_key");
    let RelationKind::Owning { constraint, on_delete, .. } = &account.relations[0].kind else { panic!() };
    assert_eq!((constraint.as_str(), *on_delete), ("accounts_customer_id_fkey", ReferentialAction::Restrict));
    assert_eq!(schema.model(entry).path, "entries");
    let auth = schema.auth.as_ref().unwrap();
    assert_eq!(auth.fields[auth.subject.unwrap().index()].name, "id");
    assert_eq!(auth.fields[auth.tenant.unwrap().index()].name, "tenantId");
    let customer = schema.model(schema.model_named("Customer").unwrap());
    let deleted = customer.field(customer.soft_delete.unwrap());
    assert!(deleted.synthetic && deleted.optional && deleted.column == "deleted_at");
    assert!(schema.procedures[0].args_is_body && schema.procedures[0].status == Some(201));
}

/// Both ends of every relation point to each other.
#[test]
fn relations_have_two_ends() {
    let (schema, ..) = bank();
    let mut owning = 0;
    for (id, model) in schema.models() {
        for (at, relation) in model.relations.iter().enumerate() {
            let other = schema.model(relation.target).relation(relation.inverse.unwrap());
            assert_eq!((other.target, other.inverse.unwrap().index()), (id, at), "{}.{}", model.name, relation.name);
            let owns = |relation: &Relation| matches!(relation.kind, RelationKind::Owning { .. });
            assert_ne!(owns(relation), owns(other));
            owning += usize::from(owns(relation));
        }
    }
    assert_eq!(owning, 5);
}

#[test]
fn relations_of_every_shape() {
    use ReferentialAction::{Cascade, Restrict, SetNull};
    let schema = clean(
        r#"
        model User {
          id       Uuid  @id
          email    String @unique
          bossId   Uuid?
          boss     User? @relation(name: "boss", fields: [bossId], references: [id])
          reports  User[] @relation(name: "boss")
          profile  Profile?
          orders   Order[]
          @@allow("all", true)
        }
        model Profile {
          userId Uuid @id
          user   User @relation(fields: [userId], references: [id], onDelete: Cascade)
          @@allow("all", true)
        }
        model Order {
          region Int
          number Int
          mail   String?
          user   User? @relation(fields: [mail], references: [email])
          lines  Line[]
          @@id([region, number])
          @@allow("all", true)
        }
        model Line {
          id     Int @id @default(autoincrement())
          number Int
          region Int
          order  Order @relation(fields: [number, region], references: [number, region])
          @@allow("all", true)
        }
        "#,
    );
    let relation = |model: &str, name: &str| {
        let model = schema.model(schema.model_named(model).unwrap());
        model.relation(model.relation_named(name).unwrap()).clone()
    };
    assert_eq!(relation("User", "profile").kind, RelationKind::One);
    assert_eq!(relation("User", "reports").kind, RelationKind::Many);
    let actions = |model, name| match relation(model, name).kind {
        RelationKind::Owning { on_delete, on_update, optional, .. } => (on_delete, on_update, optional),
        _ => panic!(),
    };
    assert_eq!(actions("User", "boss"), (SetNull, Cascade, true));
    assert_eq!(actions("Profile", "user"), (Cascade, Cascade, false));
    assert_eq!(actions("Line", "order"), (Restrict, Cascade, false));
    assert_eq!(actions("Order", "user"), (SetNull, Cascade, true));
}

#[test]
fn mixins_stand_where_they_are_used() {
    let schema = clean(
        r#"
        mixin Owned {
          owner String
          size  Int @default(1)
          @@deny("all", owner == "nobody")
          @@check(size > 0, "too small", name: "size")
          @@index([owner])
        }
        model Note {
          id Uuid @id
          @use(Owned)
          text String
          @@allow("read", true)
          @@allow("restore", true)
          @@soft_delete
        }
        model Other {
          @use(Owned)
          id Uuid @id
          @@allow("all", size > 1)
        }
        "#,
    );
    let note = schema.model(ModelId(0));
    assert_eq!(
        note.fields.iter().map(|field| field.name.as_str()).collect::<Vec<_>>(),
        ["id", "owner", "size", "text", "deletedAt"]
    );
    assert_eq!(
        note.rules.iter().map(|rule| rule.effect).collect::<Vec<_>>(),
        [Effect::Deny, Effect::Allow, Effect::Allow]
    );
    // `all` never allows a restore, and always denies it.
    assert_eq!(note.rules[0].actions, Action::ALL);
    assert!(!schema.model(ModelId(1)).rules[1].actions.contains(&Action::Restore));
    assert_eq!(note.checks[0].constraint, "notes_check_size");
    assert_eq!(schema.model(ModelId(1)).indexes[0].name, "others_owner_idx");
}

#[test]
fn defaults_and_bounds_are_canonical() {
    let schema = clean(
        r#"
        enum Status { open closed @map("CLOSED") }
        model Note {
          id     Int @id @default(autoincrement())
          status Status @default(closed)
          other  Status @default(Status.open)
          amount Decimal(9, 2) @default(1.50) @range(min: -0.50, max: 99)
          at     DateTime @default("2026-01-31T10:00:00+01:00") @range(min: "2026-01-01T00:00:00Z")
          tags   String[] @default(["a", "b"])
          none   Int[] @default([])
          raw    Bytes @default("aGk=")
          big    BigInt @default("9223372036854775807")
          data   Json @default("{ \"a\": [1.0] }")
          @@allow("all", true)
        }
        "#,
    );
    let text = |text: &str| Some(Default::Value(Value::Text(text.to_owned())));
    let note = schema.model(ModelId(0));
    let default = |name: &str| note.field(note.field_named(name).unwrap()).default.clone();
    assert_eq!(default("id"), Some(Default::AutoIncrement));
    assert_eq!(default("status"), text("CLOSED"));
    assert_eq!(default("other"), text("open"));
    assert_eq!(default("amount"), text("1.5"));
    assert_eq!(default("at"), text("2026-01-31T09:00:00.000000Z"));
    assert_eq!(default("data"), text("{\"a\":[1.0]}"));
    assert_eq!(default("raw"), Some(Default::Value(Value::Bytes(b"hi".to_vec()))));
    assert_eq!(default("big"), Some(Default::Value(Value::Int(i64::MAX))));
    assert_eq!(default("none"), Some(Default::Value(Value::List(Vec::new()))));
    let amount = note.field(note.field_named("amount").unwrap());
    let bound = |text: &str| Some(Value::Text(text.to_owned()));
    assert_eq!(amount.validators[0].kind, ValidatorKind::Range { min: bound("-0.5"), max: bound("99") });
}

#[test]
fn literals_take_the_type_of_their_partner() {
    let (schema, account, entry) = bank();
    let limits = Limits::default();
    let constant = |model, text: &str| match filter(&schema, model, text, limits) {
        Ok(Expr::Compare(_, _, right)) => match *right {
            Expr::Const(ty, value) => (ty, value),
            other => panic!("{other:?}"),
        },
        other => panic!("{text}: {other:?}"),
    };
    let money = FieldType::Scalar(Scalar::Decimal(Some(Precision { precision: 18, scale: 4 })));
    assert_eq!(constant(account, "balance > 1.50"), (money, Value::Text("1.5".to_owned())));
    assert_eq!(constant(account, "balance == \"1.50\""), (money, Value::Text("1.5".to_owned())));
    assert_eq!(constant(entry, "id > 7"), (FieldType::Scalar(Scalar::BigInt), Value::Int(7)));
    assert_eq!(constant(entry, "id > \"7\""), (FieldType::Scalar(Scalar::BigInt), Value::Int(7)));
    let (ty, value) = constant(account, "customer.status == blocked");
    assert!(matches!(ty, FieldType::Enum(_)));
    assert_eq!(value, Value::Text("BLOCKED_BY_COMPLIANCE".to_owned()));
    assert_eq!(
        constant(account, "createdAt >= \"2026-01-01T00:00:00+01:00\"").1,
        Value::Text("2025-12-31T23:00:00.000000Z".to_owned())
    );
    // Beside a computed number, a literal keeps its own digits.
    let digits = FieldType::Scalar(Scalar::Decimal(Some(Precision { precision: 6, scale: 5 })));
    assert_eq!(constant(account, "balance - held > 1.00001"), (digits, Value::Text("1.00001".to_owned())));
    assert_eq!(constant(account, "balance - held > 1"), (FieldType::Scalar(Scalar::Int), Value::Int(1)));
}

#[test]
fn filters_reach_over_relations() {
    let (schema, account, entry) = bank();
    for (model, text) in [
        (entry, "account.customer.country == \"DE\" && amount >= 10"),
        (account, "entries.some(amount > 3 && transfer.status == settled)"),
        (account, "customer.accounts.none(balance < 0) || !(currency in [\"EUR\", \"USD\"])"),
        (account, "iban.startsWith(\"DE\") && iban.length() == 22 && customer.email not in [\"a\", \"b\"]"),
        (account, "tenantId == auth().tenantId && auth() != null && createdAt < now()"),
        (account, "customer.birthDate == null || customer.birthDate > \"1990-01-01\""),
    ] {
        let typed = filter(&schema, model, text, Limits::default());
        assert!(typed.is_ok(), "{text}: {typed:?}");
    }
    for (text, code) in [
        ("changed(balance)", Code::UpdateOnly),
        ("old.balance > 3", Code::UpdateOnly),
        ("balance", Code::NotACondition),
        ("entries.amount > 3", Code::RelationAsValue),
        ("balance ==", Code::UnexpectedToken),
        ("iban == 3", Code::TypeMismatch),
        ("balance > 1.00001", Code::BadLiteral),
        ("customer == null", Code::RelationAsValue),
        ("env(\"HOME\") == \"x\"", Code::UnknownFunction),
    ] {
        assert_eq!(filter(&schema, account, text, Limits::default()).unwrap_err().code, code, "{text}");
    }
}

/// A name that the caller may not know gives exactly what a name that nobody has gives.
#[test]
fn hidden_names_do_not_exist() {
    let (schema, account, _) = bank();
    let customer = schema.model_named("Customer").unwrap();
    // Of the same length, and as far from every visible name.
    let (hidden, absent) = ("riskNote", "qzxwvkjy");
    for pattern in [
        "@ == \"x\"",
        "@ == null",
        "\"x\" == @",
        "name == @",
        "status == @",
        "@ in [\"x\"]",
        "name in [@]",
        "@.startsWith(\"x\")",
        "@.length() > 3",
        "@.some(true)",
        "@.x == 3",
        "accounts.some(customer.@ == \"x\")",
        "!@",
        "@",
        "@ + 1 > 2",
        "auth().@ == 3",
    ] {
        let answer = |model, name: &str| {
            let error = filter(&schema, model, &pattern.replace('@', name), Limits::default()).unwrap_err();
            serde_json::to_string(&error).unwrap().replace(name, "@")
        };
        assert_eq!(answer(customer, hidden), answer(customer, absent), "{pattern}");
    }
    assert_eq!(resolve_path(&schema, customer, hidden), None);
    assert_eq!(resolve_path(&schema, account, "customer.riskNote"), None);
}

#[test]
fn paths_of_requests() {
    let (schema, account, entry) = bank();
    let path = resolve_path(&schema, entry, "account.customer.country").unwrap();
    assert_eq!(path.hops.len(), 2);
    assert_eq!(schema.path_field(entry, &path).name, "country");
    for absent in ["", ".", "account", "account.", ".id", "entries.id", "nope", "id.x", "account.nope", "account..id"] {
        assert_eq!(resolve_path(&schema, entry, absent), None, "{absent}");
    }
    assert_eq!(resolve_path(&schema, account, "entries.id"), None);
}

#[test]
fn the_fingerprint_is_stable_and_tells_schemas_apart() {
    let (schema, ..) = bank();
    assert_eq!(schema.fingerprint(), clean(BANK).fingerprint());
    assert_eq!(schema.fingerprint().len(), 64);
    let other = clean(&BANK.replace("max: 140", "max: 141"));
    assert_ne!(schema.fingerprint(), other.fingerprint());
    let json = serde_json::to_string(&schema).unwrap();
    assert_eq!(serde_json::from_str::<Schema>(&json).unwrap(), schema);
}

/// The promise is 500 models in 50 ms with optimisation; this guards against anything worse than linear.
#[test]
fn many_models_are_quick() {
    let mut text = String::from("enum Status { open closed }\n");
    for at in 0..500 {
        let other = (at + 1) % 500;
        let before = (at + 499) % 500;
        writeln!(
            text,
            "model Thing{at} {{\n  id Uuid @id @default(uuid())\n  owner String @length(max: 9)\n  status Status\n  \
             nextId Uuid\n  next Thing{other} @relation(fields: [nextId], references: [id])\n  \
             things Thing{before}[]\n  @@index([owner])\n  @@check(owner != \"\", \"no\", name: \"owner\")\n  \
             @@allow(\"all\", status == open && next.owner == owner && things.some(owner == \"x\"))\n}}"
        )
        .unwrap();
    }
    let start = Instant::now();
    let schema = clean(&text);
    let taken = start.elapsed();
    assert_eq!(schema.models.len(), 500);
    assert!(taken.as_millis() < 2000, "{taken:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever an editor leaves behind, the compiler answers.
    #[test]
    fn damaged_schemas_are_answered(cuts in prop::collection::vec((0..400_usize, 0..400_usize, 0..3_u8), 1..4)) {
        let mut words: Vec<&str> = BANK.split_inclusive([' ', '\n', '(', ')', '.']).collect();
        for (from, to, what) in cuts {
            let (from, to) = (from % words.len(), to % words.len());
            match what {
                0 => { words.remove(from); }
                1 => words.swap(from, to),
                _ => { let word = words[to]; words.insert(from, word); }
            }
        }
        let text = words.concat();
        let (schema, found) = compile("test", &text);
        prop_assert_eq!(schema.is_none(), found.iter().any(crate::diag::Diagnostic::is_error));
        for one in found {
            prop_assert!(text.get(one.primary.span.start as usize..one.primary.span.end as usize).is_some());
        }
    }
}

// What docs/ says, against the tables.

fn page(name: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(name);
    std::fs::read_to_string(path).unwrap()
}

/// The code in the cell of that number of every row of the tables between two headings.
fn code_in<'p>(page: &'p str, from: &str, to: &str, cell: usize) -> Vec<&'p str> {
    let (_, rest) = page.split_once(from).unwrap();
    let part = if to.is_empty() { rest } else { rest.split_once(to).unwrap().0 };
    let rows = part.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| ---"));
    rows.filter_map(|row| row.split(" | ").nth(cell)).flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect()
}

#[test]
fn the_reference_of_the_language_has_every_word() {
    let page = page("language.md");
    let written = |from, to, supported: bool| {
        let words = code_in(&page, from, to, 0).into_iter().filter(|code| code.starts_with('@'));
        words.map(move |code| (code.to_owned(), supported))
    };
    let written: Vec<(String, bool)> =
        written("## Fields", "## Reserved words", true).chain(written("## Reserved words", "", false)).collect();
    let known = attributes::vocabulary();
    let name = |code: &str| code.split('(').next().unwrap().to_owned();
    for word in &known {
        let name_of = format!("{}{}", word.sigil, word.name);
        let rows: Vec<_> = written.iter().filter(|(code, on)| name(code) == name_of && *on == word.supported).collect();
        assert!(!rows.is_empty(), "`{name_of}` has no row in docs/language.md");
        for option in &word.options {
            let shown = rows.iter().any(|(code, _)| code.contains(&format!("{option}: ")));
            assert!(shown, "the row of `{name_of}` does not show `{option}:`");
        }
    }
    for (code, supported) in &written {
        let real = known
            .iter()
            .any(|word| format!("{}{}", word.sigil, word.name) == name(code) && word.supported == *supported);
        assert!(real, "docs/language.md has `{code}`, which the language has not");
    }
    let types: Vec<&str> = code_in(&page, "## Scalars", "## Fields", 0);
    let known: Vec<&str> = super::SCALARS.iter().map(|(name, _)| *name).collect();
    let plain: Vec<&str> = types.into_iter().filter(|name| !name.contains('(')).collect();
    assert_eq!(plain, known);
}

#[test]
fn no_check_may_be_called_like_a_code_of_the_api() {
    let page = page("http.md");
    let mut written = code_in(&page, "## Problems", "`errors` are objects", 1);
    written.extend(code_in(&page, "`errors` are objects", "## Order of refusals", 0));
    written.retain(|code| !code.starts_with('@'));
    for code in &written {
        assert!(models::BUILT_IN_CODES.contains(code), "`{code}`");
    }
    for code in models::BUILT_IN_CODES {
        assert!(written.contains(code), "`{code}`");
    }
}
