//! What the compiler says, as data: `diagnostics/CST0001-words.cstack` holds a schema and, behind a line of dashes,
//! what compiling it says. `UPDATE_EXPECT=1` writes the expectations.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod common;

use std::collections::BTreeSet;
use std::path::PathBuf;

use cratestack_schema::compile;
use cratestack_schema::diag::{Code, Diagnostic};

/// Between the schema and what is expected of it.
const MARK: &str = "// ---- expected ----\n";

/// Codes that no file of a sensible size can show; `limits` below shows them.
const WITHOUT_FILE: &[Code] = &[Code::FileTooLarge, Code::ExpressionTooLarge];

fn files() -> Vec<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/diagnostics");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn every_file_gives_what_it_expects() {
    let mut wrong = Vec::new();
    for path in files() {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let whole = std::fs::read_to_string(&path).unwrap();
        let (text, expected) = whole.split_once(MARK).unwrap_or((&whole, ""));
        let (schema, found) = compile("test", text);
        assert_eq!(schema.is_none(), found.iter().any(Diagnostic::is_error), "{name}");
        let meant = name.split(['-', '.']).next().unwrap();
        if meant.starts_with("CST") {
            let codes: Vec<&str> = found.iter().map(|one| one.code.id()).collect();
            if !codes.contains(&meant) {
                wrong.push(format!("{name} gives {codes:?}\n"));
            }
        }
        found.iter().for_each(common::check_style);
        wrong.extend(bad_fixes(&name, text, &found));
        let said: String = common::render(text, &found).lines().flat_map(|line| ["// ", line, "\n"]).collect();
        if said == expected {
            continue;
        }
        if common::updating() {
            std::fs::write(&path, format!("{text}{MARK}{said}")).unwrap();
        } else {
            wrong.push(format!("{name}\n-- expected\n{expected}-- found\n{said}"));
        }
    }
    assert!(wrong.is_empty(), "{}\nrun with UPDATE_EXPECT=1 to accept", wrong.join("\n"));
}

/// A fix removes its diagnostic and brings none of the same kind.
fn bad_fixes(name: &str, text: &str, found: &[Diagnostic]) -> Vec<String> {
    let count = |found: &[Diagnostic], code: Code| found.iter().filter(|one| one.code == code).count();
    let mut wrong = Vec::new();
    for one in found {
        let Some(mended) = common::mend(text, one) else { continue };
        let (_, after) = compile("test", &mended);
        if count(&after, one.code) >= count(found, one.code) {
            let (said, left) = (common::render(text, std::slice::from_ref(one)), common::render(&mended, &after));
            wrong.push(format!("{name}: the fix of\n{said}leaves\n{left}in\n{mended}"));
        }
    }
    wrong
}

#[test]
fn every_code_has_a_file() {
    let shown: BTreeSet<String> = files()
        .iter()
        .map(|path| path.file_name().unwrap().to_str().unwrap().split(['-', '.']).next().unwrap().to_owned())
        .collect();
    let missing: Vec<&str> = Code::ALL
        .iter()
        .filter(|code| !WITHOUT_FILE.contains(code))
        .map(|code| code.id())
        .filter(|id| !shown.contains(*id))
        .collect();
    assert_eq!(missing, Vec::<&str>::new(), "codes without a file in tests/diagnostics");
}

#[test]
fn limits() {
    let large = " ".repeat(cratestack_schema::lex::MAX_FILE + 1);
    assert_eq!(compile("test", &large).1[0].code, Code::FileTooLarge);
    let long =
        format!("model A {{\n  id Int @id\n  @@check(id in [{}], \"x\", name: \"x\")\n}}\n", "1,".repeat(10_001));
    assert_eq!(compile("test", &long).1[0].code, Code::ExpressionTooLarge);
}

#[test]
fn the_registry_is_in_order() {
    let ids: Vec<&str> = Code::ALL.iter().map(|code| code.id()).collect();
    let mut sorted = ids.clone();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!(ids, sorted);
    for code in Code::ALL {
        let info = code.info();
        assert!(info.id.len() == 7 && info.id.starts_with("CST"), "{info:?}");
        assert!(!info.summary.starts_with(char::is_uppercase) && !info.summary.ends_with('.'), "{info:?}");
        assert_eq!(Code::from_id(&info.id.to_lowercase()), Some(*code));
    }
}
