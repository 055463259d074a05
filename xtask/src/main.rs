//! The project's own commands: `cargo xtask test`, `cargo xtask ci`, `cargo xtask bench`.
//!
//! No dependencies, so that the first thing that a newcomer runs starts in seconds.

mod ci;
mod expansion;
mod links;
mod postgres;
mod programs;
mod run;
mod tests;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask <command>

  test [--only sqlite] [FILTER..]   run everything, on SQLite and PostgreSQL; FILTERs name tests
  test --fips                       build the command on the FIPS module, and prove it (installs cmake and Go)
  ci                                format, lints, proofs, tests, documents: what has to pass before a merge
  bench [SECONDS [ROUNDS [NAME]]]   run the benchmarks, or those whose names hold NAME, in a release build
  bench-limits [ROUNDS]             measure rate limits beside `governor` and Redis, and attack them
  bench-macro [MODELS]              measure what `include_schema!` costs the compiler
  links                             check the relative links of all Markdown files

environment:
  DATABASE_URL, CRATESTACK_TEST_POSTGRES   use this PostgreSQL server in place of a private one;
                                           tests make databases `cratestack_test_<n>` in it
  CRATESTACK_TEST_NATS                     use this program `nats-server` in place of the installed one
  CRATESTACK_TEST_REDIS                    use this program `redis-server` or `valkey-server` in place of the installed one
  CRATESTACK_TEST_PGBOUNCER                use this program `pgbouncer` in place of the installed one
  UPDATE_EXPECT=1                          rewrite the expected transcripts from SQLite over HTTP";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let rest = args.get(1..).unwrap_or_default();
    let outcome = match args.first().map(String::as_str) {
        Some("test") => tests::main(rest),
        Some("ci") => ci::main(),
        Some("bench") => bench(rest),
        Some("bench-limits") => bench_limits(rest),
        Some("bench-macro") => expansion::main(rest),
        Some("links") => links::main(),
        Some("help" | "--help" | "-h") => {
            println!("{USAGE}");
            Ok(())
        }
        Some(other) => Err(format!("unknown command `{other}`\n\n{USAGE}")),
        None => Err(format!("a command is missing\n\n{USAGE}")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}

/// What is measured lives in one process, and in a Redis that it starts.
fn bench_limits(args: &[String]) -> Result<(), String> {
    println!("building in release mode (some minutes the first time)");
    run::cargo(["build", "--release", "--package", "cratestack-bench"], &[])?;
    let target = std::env::var("CARGO_TARGET_DIR").unwrap_or_else(|_| "target".to_owned());
    let mut command = std::process::Command::new(std::path::Path::new(&target).join("release/bench"));
    run::shown(command.arg("limits").args(args).env("BENCH_REDIS", programs::REDIS.find()?))
}

/// Benchmarks need an optimised build and a PostgreSQL with fsync on, which must be a private one: its tables are
/// made in the `postgres` database.
fn bench(args: &[String]) -> Result<(), String> {
    println!("building in release mode (some minutes the first time)");
    run::cargo(["build", "--release", "--package", "cratestack-cli", "--package", "cratestack-bench"], &[])?;
    let server = postgres::Server::private(postgres::Purpose::Bench)?;
    let target = std::env::var("CARGO_TARGET_DIR").unwrap_or_else(|_| "target".to_owned());
    let program = |name: &str| std::path::Path::new(&target).join("release").join(name);
    // Debian puts it beside the server's programs, others on the path alone.
    let beside = server.programs.join("pgbench");
    let pgbench = if beside.is_file() { beside } else { "pgbench".into() };
    let mut command = std::process::Command::new(program("bench"));
    command
        .args(args)
        .env("BENCH_DATABASE", &server.url)
        .env("BENCH_PGBENCH", pgbench)
        .env("BENCH_CRATESTACK", program("cratestack"));
    run::shown(&mut command)
}
