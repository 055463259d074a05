//! The program `nats-server`, which tests of the NATS sink start for themselves: they stop and restart it.

use std::path::PathBuf;
use std::process::Command;

use crate::run;

/// The variable that names the program to tests, and to us where it is set already.
pub(crate) const PROGRAM: &str = "CRATESTACK_TEST_NATS";

/// The program that the environment names, else the installed one.
pub(crate) fn program() -> Result<PathBuf, String> {
    if let Some(program) = std::env::var_os(PROGRAM) {
        return Ok(program.into());
    }
    if let Some(program) = find() {
        return Ok(program);
    }
    if !run::install("nats-server")? {
        return Err(format!(
            "`nats-server` is not installed, and tests of the audit sinks need it\n\
             install it:   sudo apt-get install nats-server      (or your system's package)\n\
             or name one:  {PROGRAM}=/path/to/nats-server cargo xtask test\n\
             or leave it out: cargo xtask test --only sqlite"
        ));
    }
    find().ok_or_else(|| "apt-get installed `nats-server`, but it does not start".to_owned())
}

/// Debian puts it where the PATH of many users does not lead.
fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
        .map(|folder| folder.join("nats-server"))
        .find(|program| run::succeeds(Command::new(program).arg("--version")))
}
