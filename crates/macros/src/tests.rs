//! The expansion as text. `UPDATE_EXPECT=1 cargo test -p cratestack-macros` rewrites the golden files.

use std::path::{Path, PathBuf};

use cratestack_schema::decimal::Backend;

use crate::names::{ident, pascal, snake};
use crate::{expand, file, include};

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(path)
}

fn expanded(name: &str, text: &str) -> Result<String, String> {
    let schema = file::compile(name, &format!("{name}.cstack"), text).map_err(|errors| errors.join("\n"))?;
    let face = expand::Face { schema: &schema, decimal: Backend::default() };
    let tokens = expand::expand(&face, &format!("/schemas/{name}.cstack"))?;
    Ok(prettyplease::unparse(&syn::parse2(tokens).unwrap()))
}

#[test]
fn golden_files() {
    for name in ["shapes", "small"] {
        let text = std::fs::read_to_string(here(&format!("{name}.cstack"))).unwrap();
        let found = expanded(name, &text).unwrap();
        let path = here(&format!("{name}.rs"));
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            std::fs::write(&path, &found).unwrap();
        }
        let expected = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            expected == found,
            "{} is not what `{name}.cstack` expands to; UPDATE_EXPECT=1 rewrites it",
            path.display()
        );
    }
}

/// Compile time grows with these lines, so that logic belongs into `cratestack::typed`.
#[test]
fn lines_of_a_model() {
    let model = |name: &str| {
        format!(
            "model {name} {{\n  id Uuid @id @default(uuid())\n  a Int\n  b String\n  c String?\n  d Decimal\n  e DateTime\n  \
             f Boolean @default(true)\n  g Date?\n  version Int @version\n  @@allow(\"all\", true)\n}}\n"
        )
    };
    let lines = |text: &str| expanded("a", text).unwrap().lines().count();
    let one = lines(&(model("A") + &model("B"))) - lines(&model("A"));
    assert!(one <= 230, "a model of nine fields expands to {one} lines");
}

#[test]
fn errors_of_the_schema_have_place_code_and_help() {
    let text = "model A {\n  id Int @id\n  id Strin\n  @@allow(\"all\", true)\n}\n";
    let errors = file::compile("a", "schemas/a.cstack", text).unwrap_err();
    assert_eq!(
        errors,
        ["schemas/a.cstack:3:3: error[CST0101]: `id` is declared twice
  schemas/a.cstack:2:3: first here
  help: remove or \
          rename one of the two"]
    );
}

#[test]
fn what_cannot_be_included() {
    let message = |tokens: &str| include(tokens.parse().unwrap()).to_string();
    assert!(message("12").contains("takes one string"));
    assert!(message("").contains("takes one string"));
    for (call, error) in [
        (r#""no.cstack", decimals = "bigdecimal""#, "`include_schema!` has no option `decimals`; it has `decimal`"),
        (
            r#""no.cstack", decimal = "float""#,
            r#"decimals can be `\"rust_decimal\"` (the default) or `\"bigdecimal\"`"#,
        ),
        (r#""no.cstack", decimal = "bigdecimal", decimal = "bigdecimal""#, "`decimal` is given twice"),
        (r#""no.cstack" decimal"#, "expected `,`"),
    ] {
        assert!(message(call).contains(error), "{}", message(call));
    }
    let missing = message("\"no.cstack\"");
    assert!(missing.starts_with(":: core :: compile_error ! (\"cannot read the schema `no.cstack`: "), "{missing}");
}

#[test]
fn decimals_are_what_was_asked_for() {
    let text = "model A {\n  id Int @id\n  price Decimal(18, 4)\n  @@allow(\"all\", true)\n}\n";
    let schema = file::compile("a", "a.cstack", text).unwrap();
    for (decimal, ty, needs) in [
        (Backend::RustDecimal, "typed::Decimal", "needs_rust_decimal!()"),
        (Backend::BigDecimal, "typed::BigDecimal", "needs_bigdecimal!()"),
    ] {
        let tokens = expand::expand(&expand::Face { schema: &schema, decimal }, "/a.cstack").unwrap();
        let text = prettyplease::unparse(&syn::parse2(tokens).unwrap());
        assert!(text.contains(&format!("pub price: ::cratestack::{ty},")), "{text}");
        assert!(text.contains(needs), "{text}");
    }
}

#[test]
fn a_default_that_the_type_does_not_hold() {
    let digits = "1".repeat(30);
    let text = format!("model A {{\n  id Int @id\n  price Decimal @default({digits})\n  @@allow(\"all\", true)\n}}\n");
    let schema = file::compile("a", "a.cstack", &text).unwrap();
    let expanded = |decimal| expand::expand(&expand::Face { schema: &schema, decimal }, "/a.cstack");
    assert!(expanded(Backend::BigDecimal).is_ok());
    let error = expanded(Backend::RustDecimal).unwrap_err();
    assert!(error.starts_with("the default of `A.price` has more digits than `rust_decimal` holds"), "{error}");
}

#[test]
fn names_that_become_one() {
    let model = |members: &str| format!("model A {{\n  id Int @id\n{members}\n  @@allow(\"all\", true)\n}}\n");
    let error = |text: &str| expanded("a", text).unwrap_err();
    assert_eq!(
        error(&model("fooBar Int\nfoo_bar Int @map(\"other\")")),
        "the member `foo_bar` of `A` and the member `fooBar` of `A` are both called `foo_bar` in Rust; rename one of them, \
         and keep its column with `@map`"
    );
    let two = format!("{}{}", model(""), model("").replace("model A", "model NewA"));
    assert!(
        error(&two).starts_with("the model `NewA` and the create input of the model `A` are both"),
        "{}",
        error(&two)
    );
    let values = format!("enum E {{ a_b aB }}\n{}", model("e E"));
    assert!(error(&values).contains("are both called `AB` in Rust"), "{}", error(&values));
    let accessor = model("").replace("@@allow", "@@path(\"within\")\n  @@allow");
    assert!(error(&accessor).contains("give one of them another `@@path`"));
}

#[test]
fn names_in_rust() {
    for (name, expected) in [
        ("id", "id"),
        ("createdAt", "created_at"),
        ("tenantID", "tenant_id"),
        ("IBANCode", "iban_code"),
        ("line2Text", "line2_text"),
        ("ledger-entries", "ledger_entries"),
        ("already_snake", "already_snake"),
    ] {
        assert_eq!(snake(name), expected);
    }
    for (name, expected) in
        [("pending", "Pending"), ("in_progress", "InProgress"), ("inProgress", "InProgress"), ("EUR", "Eur")]
    {
        assert_eq!(pascal(name), expected);
    }
    for (name, expected) in
        [("type", "r#type"), ("self", "self_"), ("Self", "Self_"), ("owner", "owner"), ("gen", "gen")]
    {
        assert_eq!(ident(name).to_string(), expected);
    }
}
