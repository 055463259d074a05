//! What `include_schema!` and typed code say when something is wrong. `TRYBUILD=overwrite` writes the expected text anew.

#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use std::path::{Path, PathBuf};

/// The package that trybuild makes for the cases: paths of schemas are relative to it.
fn package() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    target.join("tests/trybuild/cratestack")
}

#[test]
fn errors_of_the_compiler() {
    let package = package();
    std::fs::create_dir_all(&package).unwrap();
    for schema in ["bank.cstack", "broken.cstack"] {
        std::fs::copy(Path::new("tests/ui").join(schema), package.join(schema)).unwrap();
    }
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
