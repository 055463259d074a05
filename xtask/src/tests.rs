//! `cargo xtask test`.

use std::path::PathBuf;
use std::process::Command;

use crate::postgres::Server;
use crate::{programs, run};

/// What nothing in the workspace turns on, and is to be tested all the same. `nats` is on: the command has it.
pub(crate) const FEATURES: [&str; 2] = ["--features", "cratestack/redis,cratestack/decimal-bigdecimal"];

/// Parses the arguments and runs the tests.
pub(crate) fn main(args: &[String]) -> Result<(), String> {
    if args == ["--fips"] {
        return fips();
    }
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
            "--fips" => return Err("`--fips` stands alone: it runs the tests of the workspace `fips/`".to_owned()),
            flag if flag.starts_with('-') => return Err(format!("unknown option `{flag}`")),
            filter => filters.push(filter.to_owned()),
        }
    }
    run(sqlite_only, &filters)
}

/// Runs unit tests, the corpus and documentation tests. Without `sqlite_only` a missing server is a failure.
pub(crate) fn run(sqlite_only: bool, filters: &[String]) -> Result<(), String> {
    // The lines that the documents print are run as they stand.
    tools()?;
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

/// Builds the command on the FIPS module and runs the tests of TLS on it, and those that it is the validated one.
pub(crate) fn fips() -> Result<(), String> {
    for (program, package) in [("cc", "build-essential"), ("cmake", "cmake"), ("go", "golang-go")] {
        let version = if program == "go" { "version" } else { "--version" };
        if !run::succeeds(Command::new(program).arg(version)) && !run::install(package)? {
            return Err(format!(
                "`{program}` is not installed, and the FIPS module is built with it\n\
                 install it: sudo apt-get install build-essential cmake golang-go      (or your system's packages)"
            ));
        }
    }
    tools()?;
    let workspace = ["--manifest-path", "fips/Cargo.toml", "--locked"];
    run::no_ring(&workspace)?;
    println!("building the FIPS module and the command on it (3 to 5 minutes the first time)");
    let server = Server::get()?;
    let env = [("CRATESTACK_TEST_POSTGRES", server.url.clone())];
    let nextest = run::succeeds(&mut run::cargo_command(["nextest", "--version"]));
    let test: &[&str] = if nextest { &["nextest", "run"] } else { &["test"] };
    run::cargo(test.iter().chain(&workspace), &env)
}

/// Programs that tests run.
fn tools() -> Result<(), String> {
    for (program, version) in [("curl", "--version"), ("openssl", "version")] {
        if !run::succeeds(Command::new(program).arg(version)) && !run::install(program)? {
            return Err(format!(
                "`{program}` is not installed, and tests need it\n\
                 install it: sudo apt-get install {program}      (or your system's package)"
            ));
        }
    }
    Ok(())
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
