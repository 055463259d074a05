//! `cargo xtask ci`: everything that has to pass before a merge. Every step runs, whatever the one before it said.

use std::time::{Duration, Instant};

use crate::{links, run, tests};

/// A step: its name and what it does.
type Step = (&'static str, fn() -> Result<(), String>);

const STEPS: [Step; 10] = [
    ("format", || {
        run::cargo(["fmt", "--all", "--check"], &[])?;
        run::cargo(["fmt", "--check", "--manifest-path", "fips/Cargo.toml"], &[])
    }),
    ("links", links::main),
    ("dependencies", dependencies),
    ("lints", || {
        let args = ["clippy", "--workspace", "--all-targets"].into_iter().chain(tests::FEATURES);
        run::cargo(args.chain(["--", "-D", "warnings"]), &[])
    }),
    ("tests", || tests::run(false, &[])),
    ("fips", tests::fips),
    // After the FIPS module, whose tools this needs as well.
    ("all features", || {
        run::cargo(["check", "--workspace", "--all-features"], &[])?;
        run::cargo(["test", "--package", "cratestack", "--all-features", "--lib", "crypto::"], &[])
    }),
    ("documentation", || {
        let args = ["doc", "--workspace", "--lib", "--no-deps"].into_iter().chain(tests::FEATURES);
        run::cargo(args, &[("RUSTDOCFLAGS", "-D warnings".to_owned())])
    }),
    ("wasm", wasm),
    ("licences", licences),
];

/// Runs the steps and prints what each took.
pub(crate) fn main() -> Result<(), String> {
    let results: Vec<_> = STEPS.iter().enumerate().map(|(index, step)| announce(index, *step)).collect();
    println!("\nsteps:");
    for (name, took, outcome) in &results {
        let mark = if outcome.is_ok() { "ok    " } else { "FAILED" };
        println!("  {mark} {name:<14} {:>6.1} s", took.as_secs_f64());
    }
    let failed: Vec<_> = results.iter().filter(|(_, _, outcome)| outcome.is_err()).map(|(name, ..)| *name).collect();
    if failed.is_empty() { Ok(()) } else { Err(format!("failed: {}", failed.join(", "))) }
}

fn announce(index: usize, (name, step): Step) -> (&'static str, Duration, Result<(), String>) {
    println!("\n[{}/{}] {name}", index + 1, STEPS.len());
    let start = Instant::now();
    let outcome = step();
    let took = start.elapsed();
    match &outcome {
        Ok(()) => println!("[{name}] ok in {:.1} s", took.as_secs_f64()),
        Err(error) => println!("[{name}] FAILED after {:.1} s: {error}", took.as_secs_f64()),
    }
    (name, took, outcome)
}

/// What a package must never depend on: the crate boundaries of ARCHITECTURE.md.
const FORBIDDEN: [(&str, &[&str]); 4] = [
    (
        "cratestack-schema",
        &["tokio", "sqlx", "sqlx-core", "rusqlite", "libsqlite3-sys", "hyper", "http", "axum", "clap", "mio"],
    ),
    ("cratestack-engine", &["axum", "hyper", "hyper-util", "http", "tower-http", "clap"]),
    (
        "cratestack-macros",
        &["cratestack-engine", "tokio", "sqlx", "sqlx-core", "rusqlite", "libsqlite3-sys", "axum", "hyper"],
    ),
    ("cratestack", &["clap", "notify"]),
];

fn dependencies() -> Result<(), String> {
    let [flag, features] = tests::FEATURES;
    run::no_ring(&["--workspace"])?;
    run::no_ring(&["--workspace", flag, features])?;
    run::no_ring(&["--workspace", "--all-features"])?;
    run::no_ring(&["--manifest-path", "fips/Cargo.toml", "--locked"])?;
    for (package, forbidden) in FORBIDDEN {
        let tree = run::captured(&mut run::cargo_command([
            "tree",
            "--package",
            package,
            "--edges",
            "normal",
            "--prefix",
            "none",
            "--format",
            "{p}",
        ]))?;
        let found: Vec<&str> = tree
            .lines()
            .filter_map(|line| line.split_whitespace().next())
            .filter(|name| forbidden.contains(name))
            .collect();
        if !found.is_empty() {
            return Err(format!("`{package}` must not depend on {}", found.join(", ")));
        }
        println!("  {package}: none of {}", forbidden.join(", "));
    }
    Ok(())
}

/// `schema` does no IO: it builds where there is none.
fn wasm() -> Result<(), String> {
    const TARGET: &str = "wasm32-unknown-unknown";
    let installed = std::process::Command::new("rustc")
        .args(["--print", "target-libdir", "--target", TARGET])
        .current_dir(run::root())
        .output()
        .is_ok_and(|output| std::path::Path::new(String::from_utf8_lossy(&output.stdout).trim()).is_dir());
    if installed {
        run::cargo(["check", "--package", "cratestack-schema", "--target", TARGET], &[])
    } else {
        println!("  NOT RUN: the target {TARGET} is not installed (rustup target add {TARGET})");
        Ok(())
    }
}

fn licences() -> Result<(), String> {
    if tests::has_subcommand("deny") {
        run::cargo(["deny", "check", "bans", "licenses", "sources"], &[])
    } else {
        println!("  NOT RUN: cargo-deny is not installed (cargo install cargo-deny)");
        Ok(())
    }
}
