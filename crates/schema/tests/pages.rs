//! `docs/errors`: every page says what the compiler says, and its mended example is clean; so are the schemas of the
//! guides in `docs`.
//! `UPDATE_EXPECT=1` writes the messages.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod common;

use std::path::{Path, PathBuf};

use cratestack_schema::compile;
use cratestack_schema::diag::{Code, explain};
use cratestack_schema::format;

/// Codes that no example of a sensible size can show.
const WITHOUT_EXAMPLE: &[Code] = &[Code::FileTooLarge, Code::ExpressionTooLarge];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/errors")
}

/// The contents of every fenced block of that language.
fn fenced<'a>(page: &'a str, language: &str) -> Vec<&'a str> {
    let opening = format!("\n```{language}\n");
    page.split(&opening).skip(1).map(|rest| rest.split_once("```").unwrap().0).collect()
}

#[test]
fn every_code_has_a_page_that_is_true() {
    let mut wrong = Vec::new();
    for code in Code::ALL {
        let path = folder().join(format!("{code}.md"));
        let page = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let title = format!("# {code}: {}\n", code.info().summary);
        assert!(page.starts_with(&title), "{code}: the page must start with `{title}`");
        if WITHOUT_EXAMPLE.contains(code) {
            continue;
        }
        let (schemas, messages) = (fenced(&page, "cstack"), fenced(&page, "text"));
        let ([bad, mended], [message]) = (schemas.as_slice(), messages.as_slice()) else {
            panic!("{code}: a page has a bad example, a message and a mended example");
        };
        let (_, found) = compile("example", bad);
        if found.is_empty() {
            wrong.push(format!("{code}: the bad example is clean"));
        }
        let said = common::render(bad, &found);
        if found.iter().any(|one| one.code != *code) {
            wrong.push(format!("{code}: the bad example has another mistake\n{said}"));
        }
        let (schema, left) = compile("example", mended);
        if !left.is_empty() || schema.is_none() {
            wrong.push(format!("{code}: the mended example is not clean\n{}", common::render(mended, &left)));
        }
        if format(mended).as_deref() != Ok(*mended) {
            wrong.push(format!("{code}: the mended example is not formatted\n{:?}", format(mended)));
        }
        if said == *message {
            continue;
        }
        if common::updating() {
            let block = |inside: &str| format!("\n```text\n{inside}```");
            std::fs::write(&path, page.replacen(&block(message), &block(&said), 1)).unwrap();
        } else {
            wrong.push(format!("{code}\n-- page\n{message}-- compiler\n{said}"));
        }
    }
    assert!(wrong.is_empty(), "{}\nrun with UPDATE_EXPECT=1 to accept", wrong.join("\n"));
}

#[test]
fn the_pages_are_carried_along() {
    if common::updating() {
        return;
    }
    let mut files: Vec<String> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_str().unwrap().to_owned())
        .collect();
    files.sort();
    let codes: Vec<String> = Code::ALL.iter().map(|code| format!("{code}.md")).collect();
    assert_eq!(files, codes, "one page per code, and no others");
    for code in Code::ALL {
        let page = std::fs::read_to_string(folder().join(format!("{code}.md"))).unwrap();
        assert_eq!(explain(*code), page, "{code} is missing in src/diag/pages.rs, or changed since it was compiled");
    }
}

#[test]
fn the_schemas_of_the_guides_are_clean() {
    let guides = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    let mut count = 0;
    for entry in std::fs::read_dir(guides).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "md") {
            continue;
        }
        let page = std::fs::read_to_string(&path).unwrap();
        for text in fenced(&page, "cstack") {
            let (schema, found) = compile("example", text);
            assert!(schema.is_some() && found.is_empty(), "{}\n{}", path.display(), common::render(text, &found));
            assert_eq!(format(text).as_deref(), Ok(text), "{}", path.display());
            count += 1;
        }
    }
    assert!(count >= 5, "the guides have lost their schemas");
}
