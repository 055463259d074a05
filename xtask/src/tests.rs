//! `cargo xtask test`.

use std::path::PathBuf;
use std::process::Command;

use crate::postgres::Server;
use crate::{programs, run};

/// What nothing in the workspace turns on, and is to be tested all the same. `nats` is on: the command has it.
pub(crate) const FEATURES: [&str; 2] = ["--features", "cratestack/redis,cratestack/decimal-bigdecimal"];

/// Parses the arguments and runs the tests.
pub(crate) fn main(args: &[String]) -> Result<(), String> {
    let mut sqlite_only = false;
    let mut filters = Vec::new();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--only" => match args.next().map(String::as_str) {
                Some("sqlite") => sqlite_only = true,
                Some(other) => {
                    return Err(format!("`--only {other}` is unknown; it takes `sqlite`"));
                }
                None => return Err("`--only` needs a value: `sqlite`".to_owned()),
            },
            flag if flag.starts_with('-') => return Err(format!("unknown option `{flag}`")),
            filter => filters.push(filter.to_owned()),
        }
    }
    run(sqlite_only, &filters)
}

/// Runs unit tests, the corpus and documentation tests. Without `sqlite_only` a missing server is a failure.
pub(crate) fn run(sqlite_only: bool, filters: &[String]) -> Result<(), String> {
    // The lines that the README prints are run as they stand.
    if !run::succeeds(Command::new("curl").arg("--version")) && !run::install("curl")? {
        return Err("`curl` is not installed, and the tests of the documentation need it\n\
                    install it: sudo apt-get install curl      (or your system's package)"
            .to_owned());
    }
    let server = if sqlite_only { None } else { Some(Server::get()?) };
    let env = match &server {
        Some(server) => {
            let mut env = vec![("CRATESTACK_TEST_POSTGRES", server.url.clone())];
            for program in [&programs::NATS, &programs::REDIS, &programs::PGBOUNCER] {
                env.push((program.variable, program.find()?.to_string_lossy().into_owned()));
            }
            env
        }
        None => vec![("CRATESTACK_TEST_ONLY", "sqlite".to_owned())],
    };
    // Each suite runs even if the one before it failed: one run tells everything.
    let unit = if run::succeeds(&mut run::cargo_command(["nextest", "--version"])) {
        let args = ["nextest", "run", "--workspace", "--no-fail-fast"].into_iter().chain(FEATURES).map(str::to_owned);
        let args: Vec<String> = args.collect();
        run::cargo(args.iter().chain(filters), &env)
    } else {
        println!("cargo-nextest is not installed; `cargo test` does the same, only slower");
        let args = ["test", "--workspace", "--lib", "--bins", "--tests", "--no-fail-fast"];
        let args: Vec<String> = args.into_iter().chain(FEATURES).map(str::to_owned).collect();
        // `cargo test` takes one filter a run.
        if filters.is_empty() {
            run::cargo(&args, &env)
        } else {
            filters.iter().try_for_each(|filter| run::cargo(args.iter().chain([filter]), &env))
        }
    };
    let doc = if filters.is_empty() {
        run::cargo(["test", "--workspace", "--doc"].into_iter().chain(FEATURES), &env)
    } else {
        Ok(())
    };
    drop(server);
    declared();
    if sqlite_only {
        println!("only SQLite was tested: every run on PostgreSQL, or with NATS or Redis, was left out, as asked");
    }
    unit.and(doc)
}

/// Says aloud what the corpus declares not to run everywhere; the reasons stand in the cases.
fn declared() {
    let folders = |parent: PathBuf| {
        std::fs::read_dir(parent).into_iter().flatten().flatten().map(|entry| entry.path()).filter(|path| path.is_dir())
    };
    let cases = folders(run::root().join("conformance/cases")).flat_map(folders);
    let (mut count, mut whole, mut steps, mut one_database) = (0, 0, 0, 0);
    for case in cases {
        let text = std::fs::read_to_string(case.join("steps.http")).unwrap_or_default();
        let (head, rest) = text.split_once("###").unwrap_or((&text, ""));
        let lines = |text: &str, word: &str| text.lines().filter(|line| line.starts_with(word)).count();
        count += 1;
        whole += lines(head, "# @http-only ");
        steps += lines(rest, "# @http-only ");
        one_database += lines(head, "# @backend ");
    }
    println!(
        "corpus: {count} cases, each on both databases, in process and over HTTP; but {whole} whole cases and {steps} \
         steps of others are about HTTP alone, and {one_database} cases run on one database alone"
    );
}

/// Whether a cargo subcommand is installed.
pub(crate) fn has_subcommand(name: &str) -> bool {
    run::succeeds(Command::new("cargo").args([name, "--version"]))
}
