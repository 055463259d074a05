//! Diagnostics as JSON, SARIF and workflow commands.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use cratestack_schema::compile;
use cratestack_schema::diag::{File, Lines, Position, github, json, sarif};

/// Two findings behind characters of several octets, one with a label and one with a fix.
const TEXT: &str = "// 💶 money\nmodel Account {\n  id Uuid @id\n  a  Int @default(\"💶\") @uniqe\n  @@allow(\"read\", a > 1 > 2)\n}\n";

fn emitted(emit: impl Fn(&[File<'_>]) -> String) -> String {
    let (_, diagnostics) = compile("bank", TEXT);
    let (_, clean) = compile("clean", "");
    emit(&[
        File { path: "a b/bank.cstack", text: TEXT, diagnostics: &diagnostics },
        File { path: "clean.cstack", text: "", diagnostics: &clean },
    ])
}

#[test]
fn as_json() {
    insta::assert_snapshot!(emitted(json));
    assert_eq!(json(&[]), "[]\n");
}

#[test]
fn as_sarif() {
    let text = emitted(sarif).replace(env!("CARGO_PKG_VERSION"), "VERSION");
    let mut log: serde_json::Value = serde_json::from_str(&text).unwrap();
    // The pages have tests of their own.
    for rule in log["runs"][0]["tool"]["driver"]["rules"].as_array_mut().unwrap() {
        assert!(rule["help"]["markdown"].as_str().unwrap().starts_with("# CST"));
        rule["help"]["markdown"] = "..".into();
    }
    insta::assert_snapshot!(format!("{log:#}"));
}

#[test]
fn as_workflow_commands() {
    insta::assert_snapshot!(emitted(github));
    assert_eq!(github(&[]), "");
}

#[test]
fn positions_count_characters_from_one() {
    let lines = Lines::new("ab\n💶c\r\n\nd");
    for (offset, line, column) in
        [(0, 1, 1), (2, 1, 3), (3, 2, 1), (7, 2, 2), (8, 2, 3), (10, 3, 1), (11, 4, 1), (12, 4, 2), (99, 4, 2)]
    {
        assert_eq!(lines.position(offset), Position { line, column }, "{offset}");
    }
}
