//! The program `redis-server` or `valkey-server`, which tests of the stores of keys and of rate limits start for themselves: they stop and
//! restart it.

use std::path::PathBuf;
use std::process::Command;

use crate::run;

/// The variable that names the program to tests, and to us where it is set already.
pub(crate) const PROGRAM: &str = "CRATESTACK_TEST_REDIS";

/// The program that the environment names, else the installed one.
pub(crate) fn program() -> Result<PathBuf, String> {
    if let Some(program) = std::env::var_os(PROGRAM) {
        return Ok(program.into());
    }
    if let Some(program) = find() {
        return Ok(program);
    }
    if !run::install("redis-server")? {
        return Err(format!(
            "neither `redis-server` nor `valkey-server` is installed, and tests of stores need one\n\
             install it:   sudo apt-get install redis-server      (or your system's package)\n\
             or name one:  {PROGRAM}=/path/to/redis-server cargo xtask test\n\
             or leave it out: cargo xtask test --only sqlite"
        ));
    }
    find().ok_or_else(|| "apt-get installed `redis-server`, but it does not start".to_owned())
}

fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    folders
        .flat_map(|folder: PathBuf| ["redis-server", "valkey-server"].map(|name| folder.join(name)))
        .find(|program| run::succeeds(Command::new(program).arg("--version")))
}
