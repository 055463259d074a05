#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::fmt::Write as _;

use super::*;
use crate::api::Principal;
use crate::plan::write;
use crate::policy::Policies;

const BANK: &str = r#"
    enum Role { teller manager }
    auth Principal { id String @id  role Role  tenantId String }
    model Customer {
      id       Uuid   @id @default(uuid())
      tenantId String @default(auth().tenantId)
      country  String
      @@soft_delete
      @@allow("read", tenantId == auth().tenantId)
      accounts Account[]
    }
    model Account {
      id         Uuid @id @default(uuid())
      tenantId   String @default(auth().tenantId)
      customerId Uuid
      owner      String @unique
      balance    Decimal(18, 4) @default(0)
      updatedAt  DateTime @updatedAt
      version    Int @version
      customer   Customer @relation(fields: [customerId], references: [id])
      @@check(balance >= 0, "insufficient funds", name: "funds")
      @@soft_delete
      @@deny("all", tenantId != auth().tenantId)
      @@allow("read", true)
      @@allow("create", auth().role == teller && customer.country == "DE")
      @@allow("update", auth().role == teller)
      @@deny("update", changed(balance) && auth().role != manager)
      @@allow("delete", auth().role == manager && balance == 0)
      @@allow("restore", auth().role == manager)
    }
    model Note {
      a    Int
      b    Int
      text String?
      @@id([a, b])
      @@allow("all", auth() != null)
    }"#;

/// The statements of one write, line by line.
fn statements(who: &str, model: &str, kind: Kind, fields: &[&str], versions: VersionTest) -> String {
    let (schema, diagnostics) = cratestack_schema::compile("bank", BANK);
    let schema = Arc::new(schema.unwrap_or_else(|| panic!("{diagnostics:#?}")));
    let text = |text: &str| Value::Text(text.to_owned());
    let principal = Principal { claims: vec![text("ann"), text(who), text("t1")] };
    let policies = Policies::new(&schema);
    let view = policies.view(Some(&principal), "2026-01-31T10:00:00.000000Z");
    let id = schema.model_named(model).unwrap();
    let declared = schema.model(id);
    let mut fields: Vec<FieldId> = match kind {
        Kind::Create => bound_fields(declared).map(|(id, _)| id).collect(),
        _ => fields.iter().map(|name| declared.field_named(name).unwrap()).collect(),
    };
    fields.sort_unstable();
    let values: Vec<(FieldId, Value)> = fields.iter().map(|id| (*id, text("x"))).collect();
    let references = references(declared, &values, |_| true);
    let form =
        Form { kind, model: id, atoms: view.key_near(id), fields: fields.into(), references, versions, keyed: false };
    let mut out = String::new();
    for dialect in [Dialect::Postgres, Dialect::Sqlite] {
        let Some(plan) = write::plan(&view, dialect, &form) else { return "refused".to_owned() };
        let write = plan.write.map_or_else(|| "-".into(), |template| template.sql.clone());
        writeln!(out, "{dialect:?}\n{}\n\n{}\n", broken(&write), broken(&plan.diagnosis.sql)).unwrap();
    }
    out
}

/// Clauses on lines of their own.
fn broken(sql: &str) -> String {
    [" FROM (", " FROM \"", " WHERE ", " SET ", " SELECT ", " RETURNING ", " AND "]
        .iter()
        .fold(sql.to_owned(), |text, clause| text.replace(clause, &format!("\n {clause}")))
}

#[test]
fn text_of_writes() {
    let one = VersionTest::OneOf;
    let cases = [
        ("create", statements("teller", "Account", Kind::Create, &[], VersionTest::Any)),
        ("patch", statements("teller", "Account", Kind::Patch, &["owner", "customerId"], one)),
        ("patch of what a manager may change", statements("teller", "Account", Kind::Patch, &["balance"], one)),
        ("nothing to patch", statements("teller", "Account", Kind::Patch, &[], one)),
        ("tombstone", statements("manager", "Account", Kind::Tombstone, &[], one)),
        ("refused", statements("teller", "Account", Kind::Tombstone, &[], one)),
        ("restore", statements("manager", "Account", Kind::Restore, &[], one)),
        ("patch without version", statements("teller", "Note", Kind::Patch, &["text"], VersionTest::Any)),
        ("delete", statements("teller", "Note", Kind::Delete, &[], VersionTest::Any)),
    ];
    let text = cases.map(|(name, text)| format!("### {name}\n\n{text}\n")).concat();
    insta::assert_snapshot!(text);
}
