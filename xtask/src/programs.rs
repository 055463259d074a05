//! Programs of others that tests start for themselves, because they stop and restart them.

use std::path::PathBuf;
use std::process::Command;

use crate::run;

/// One of them.
pub(crate) struct Program {
    /// The variable that names it to tests, and to us where it is set already.
    pub(crate) variable: &'static str,
    /// What it may be called; the first is its Debian package too.
    names: &'static [&'static str],
    needed_by: &'static str,
}

pub(crate) static NATS: Program =
    Program { variable: "CRATESTACK_TEST_NATS", names: &["nats-server"], needed_by: "tests of the audit sinks" };
pub(crate) static REDIS: Program = Program {
    variable: "CRATESTACK_TEST_REDIS",
    names: &["redis-server", "valkey-server"],
    needed_by: "tests of stores of keys and of rate limits",
};
pub(crate) static PGBOUNCER: Program =
    Program { variable: "CRATESTACK_TEST_PGBOUNCER", names: &["pgbouncer"], needed_by: "tests of migrations" };

impl Program {
    /// The one that the environment names, else the installed one.
    pub(crate) fn find(&self) -> Result<PathBuf, String> {
        if let Some(program) = std::env::var_os(self.variable) {
            return Ok(program.into());
        }
        if let Some(program) = self.installed() {
            return Ok(program);
        }
        let (variable, names, needed_by) = (self.variable, self.names, self.needed_by);
        let package = names.first().copied().unwrap_or_default();
        if !run::install(package)? {
            return Err(format!(
                "`{}` is not installed, and {needed_by} need it\n\
                 install it:   sudo apt-get install {package}      (or your system's package)\n\
                 or name it:   {variable}=/path/to/{package} cargo xtask test\n\
                 or leave it out: cargo xtask test --only sqlite",
                names.join("` or `")
            ));
        }
        self.installed().ok_or_else(|| format!("apt-get installed `{package}`, but it does not start"))
    }

    /// Debian puts it where the PATH of many users does not lead.
    fn installed(&self) -> Option<PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
        folders
            .flat_map(|folder: PathBuf| self.names.iter().map(move |name| folder.join(name)))
            .find(|program| run::succeeds(Command::new(program).arg("--version")))
    }
}
