//! Running other programs.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The root folder of the workspace.
pub(crate) fn root() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.parent().map_or(here.clone(), PathBuf::from)
}

/// `cargo` in the workspace's root, the one that runs this program.
pub(crate) fn cargo_command<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(args: I) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(root()).args(args);
    command
}

/// Runs `cargo`, showing its output.
pub(crate) fn cargo<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(args: I, env: &[(&str, String)]) -> Result<(), String> {
    let mut command = cargo_command(args);
    command.envs(env.iter().map(|(name, value)| (name, value)));
    shown(&mut command)
}

/// One crypto provider, aws-lc-rs: `ring` is not in the tree. Cargo exits with 101 when the lock file does not have the
/// package at all, and with 0 and no tree when it is locked but unused: both are proofs.
pub(crate) fn no_ring(args: &[&str]) -> Result<(), String> {
    let tree = ["tree", "--invert", "ring", "--edges", "normal,build"].iter().chain(args);
    let tree = cargo_command(tree).output().map_err(|error| format!("`cargo tree` could not start: {error}"))?;
    let said = String::from_utf8_lossy(&tree.stderr);
    if !tree.stdout.is_empty() {
        return Err(format!("`ring` is in the dependency tree:\n{}", String::from_utf8_lossy(&tree.stdout)));
    }
    if !tree.status.success() && !said.contains("did not match any packages") {
        return Err(format!("`cargo tree` failed:\n{said}"));
    }
    println!("  ring: not in the tree of `{}`", args.join(" "));
    Ok(())
}

/// Runs a command, showing its output; anything but success is an error that quotes the command.
pub(crate) fn shown(command: &mut Command) -> Result<(), String> {
    let line = quote(command);
    println!("  $ {line}");
    let status = command.status().map_err(|error| format!("`{line}` could not start: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("`{line}` failed: {status}")) }
}

/// Runs a command and gives its standard output; on failure the error carries what it printed.
pub(crate) fn captured(command: &mut Command) -> Result<String, String> {
    let line = quote(command);
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("`{line}` could not start: {error}"))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        Ok(stdout)
    } else {
        let stderr = String::from_utf8_lossy(&output.stderr);
        Err(format!("`{line}` failed: {}\n{stdout}{stderr}", output.status))
    }
}

/// Whether a command starts and succeeds; its output is dropped.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Installs a package where that is ours to do: as root on a Debian-like machine. False where it is not.
pub(crate) fn install(package: &str) -> Result<bool, String> {
    let apt = Path::new("/usr/bin/apt-get");
    if !is_root() || !apt.is_file() {
        return Ok(false);
    }
    println!("{package}: not installed; installing it with apt-get (about a minute)");
    let apt_get = |args: &[&str]| {
        shown(Command::new(apt).args(args).env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null()))
    };
    apt_get(&["update", "-q"])?;
    apt_get(&["install", "-q", "-y", "--no-install-recommends", package])?;
    Ok(true)
}

pub(crate) fn is_root() -> bool {
    captured(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0")
}

fn quote(command: &Command) -> String {
    let program = PathBuf::from(command.get_program());
    let name = program.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    command.get_args().fold(name, |line, arg| format!("{line} {}", arg.to_string_lossy()))
}
