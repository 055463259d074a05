//! Every case on both databases, in process and over HTTP; the ratchets; and the formatter over every schema.
//!
//! A harness of its own, because there is one test per case and run.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod differential;
mod matrix;
mod races;
mod ratchet;

use std::sync::Arc;

use cratestack_conformance::case::{Case, Way, cases};
use cratestack_conformance::database::{Backend, sqlite_only};
use cratestack_conformance::transcript::{Transcript, diff};
use libtest_mimic::{Arguments, Failed, Trial};

fn main() {
    let arguments = Arguments::from_args();
    let cases: Vec<Arc<Case>> = match cases_for(&arguments) {
        Ok(cases) => cases.into_iter().map(Arc::new).collect(),
        Err(error) => {
            eprintln!("{error}");
            std::process::exit(1);
        }
    };
    let update = std::env::var_os("UPDATE_EXPECT").is_some();
    let mut trials = Vec::new();
    for case in &cases {
        for backend in Backend::ALL.into_iter().filter(|backend| case.runs_on(*backend)) {
            for way in case.ways() {
                trials.push(run(case, backend, way, update));
            }
        }
        trials.push(format(case));
    }
    trials.extend(ratchet::trials(&cases));
    trials.extend(matrix::trials(update));
    trials.extend(races::trials());
    trials.extend(differential::trials());
    if update {
        // Only what writes an expectation; everything else would compare with the one being rewritten.
        trials.retain(|trial| trial.name().ends_with("sqlite_http") || trial.name().starts_with("matrix::"));
    }
    libtest_mimic::run(&arguments, trials).exit();
}

/// The cases that the arguments can mean. A test runner that starts a process per test names one test exactly, and
/// need not wait for all the others to be read.
fn cases_for(arguments: &Arguments) -> Result<Vec<Case>, String> {
    let one = arguments.filter.as_deref().filter(|_| arguments.exact);
    match one.and_then(|name| name.strip_prefix("corpus::").or_else(|| name.strip_prefix("format::"))) {
        Some(rest) => Ok(vec![Case::named(rest.split("::").next().unwrap_or(rest))?]),
        None => cases(),
    }
}

/// One run of a case, held to the case's one expectation.
fn run(case: &Arc<Case>, backend: Backend, way: Way, update: bool) -> Trial {
    let name = format!("corpus::{}::{}_{}", case.name, backend.word(), way.word());
    let case = Arc::clone(case);
    let ignored = backend == Backend::Postgres && sqlite_only();
    let trial = Trial::test(name, move || {
        let found = case.run(&case.schema, backend, way)?;
        let about = &case.script.about;
        if update {
            std::fs::write(case.snapshot(), found.render(about)).map_err(|error| error.to_string())?;
            return Ok(());
        }
        let expected = case.comparable(Transcript::parse(&case.expected()?)?, way).render(about);
        let found = case.comparable(found, way).render(about);
        match diff(&expected, &found) {
            None => Ok(()),
            Some(diff) => Err(Failed::from(format!("{}\n{diff}", case.snapshot().display()))),
        }
    });
    trial.with_ignored_flag(ignored)
}

/// The formatter loses nothing and is idempotent: a formatted schema means the same and stays as it is.
fn format(case: &Arc<Case>) -> Trial {
    let name = format!("format::{}", case.name);
    let case = Arc::clone(case);
    Trial::test(name, move || {
        let refused = |found: Vec<cratestack_schema::diag::Diagnostic>| format!("{found:?}");
        let once = cratestack_schema::format(&case.schema).map_err(refused)?;
        let twice = cratestack_schema::format(&once).map_err(refused)?;
        if once != twice {
            return Err(Failed::from(format!(
                "formatting twice differs:\n{}",
                diff(&once, &twice).unwrap_or_default()
            )));
        }
        let meaning = |text: &str| cratestack_schema::compile("schema", text).0;
        if meaning(&case.schema) != meaning(&once) {
            return Err(Failed::from("the formatted schema means something else"));
        }
        match diff(&once, &case.schema) {
            Some(diff) => Err(Failed::from(format!("`cratestack fmt` would change schema.cstack:\n{diff}"))),
            None => Ok(()),
        }
    })
}
