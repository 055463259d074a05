//! The commands of the README, of docs/http.md, docs/idempotency.md and docs/tls.md, run as a reader runs them, give what is
//! printed there. `…` stands for what differs from run to run.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::format_push_string,
    reason = "tests"
)]

mod support;

use std::path::Path;
use std::process::Command;

use support::{Server, text};
use tempfile::tempdir;

const README: &str = include_str!("../../../README.md");
const HTTP: &str = include_str!("../../../docs/http.md");
const IDEMPOTENCY: &str = include_str!("../../../docs/idempotency.md");
const TLS: &str = include_str!("../../../docs/tls.md");
const FIRST_COMMAND: &str = "cargo run -- dev examples/bank/bank.cstack";
const MARK: &str = "--8<--";

/// Commands and the lines that follow each.
fn console(page: &str) -> Vec<(String, String)> {
    let blocks = page.split("```console\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let mut commands: Vec<(String, String)> = Vec::new();
    for line in blocks.flat_map(str::lines) {
        if let Some(command) = line.strip_prefix("$ ") {
            commands.push((command.to_owned(), String::new()));
        } else {
            let (_, answer) = commands.last_mut().expect("an answer follows a command");
            answer.push_str(line);
            answer.push('\n');
        }
    }
    commands
}

/// Whether `shown` is `printed` with something in the place of each `…`.
fn agrees(printed: &str, shown: &str) -> bool {
    let mut parts = printed.split('…');
    let Some(mut rest) = shown.strip_prefix(parts.next().unwrap_or("")) else { return false };
    let mut last = None;
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
        last = Some(part);
    }
    rest.is_empty() || last == Some("")
}

#[test]
fn the_commands_give_what_the_readme_prints() {
    assert!(README.contains(&format!("    {FIRST_COMMAND}\n")));
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let schema = root.join("examples/bank/bank.cstack").canonicalize().unwrap();
    run_console(README, &schema);
}

#[test]
fn the_commands_give_what_the_guide_prints() {
    shop(HTTP);
}

#[test]
fn the_commands_give_what_the_page_of_idempotency_keys_prints() {
    shop(IDEMPOTENCY);
}

/// The certificates come first, then the server, then what is asked of it.
#[test]
fn the_commands_give_what_the_page_of_tls_prints() {
    let folder = tempdir().unwrap();
    let block = |head: &str| TLS.split_once(&format!("```{head}\n")).unwrap().1.split_once("```").unwrap().0;
    for (head, name) in [
        ("cstack", "payments.cstack"),
        ("toml clients.toml", "clients.toml"),
        ("toml cratestack.toml", "cratestack.toml"),
    ] {
        std::fs::write(folder.path().join(name), block(head)).unwrap();
    }
    let (certificates, requests): (Vec<_>, Vec<_>) =
        console(TLS).into_iter().partition(|(command, _)| command.contains("-out "));
    assert!(certificates.len() == 5 && requests.len() == 7, "the page has lost its commands");
    run_commands(folder.path(), &certificates, &[]);
    assert!(TLS.contains("`cratestack serve payments.cstack --apply`"));
    let serve = ["serve", "payments.cstack", "--apply", "--addr", "127.0.0.1:0"];
    let mut server = Server::start(folder.path(), &serve);
    let (address, pid) = (format!("localhost:{}", server.address.port()), server.child.id().to_string());
    run_commands(folder.path(), &requests, &[("localhost:8443", &address), ("$(pgrep -x cratestack)", &pid)]);
    server.wait_for("the certificates were read again");
}

/// Runs the commands of a page about the shop of docs/http.md.
fn shop(page: &str) {
    let folder = tempdir().unwrap();
    let schema = folder.path().join("shop.cstack");
    let text = HTTP.split_once("```cstack\n").unwrap().1.split_once("```").unwrap().0;
    assert!(page.contains("`cratestack dev shop.cstack`"));
    std::fs::write(&schema, text).unwrap();
    run_console(page, &schema);
}

/// Serves the schema and runs the commands of a page.
fn run_console(page: &str, schema: &Path) {
    let folder = tempdir().unwrap();
    // Where a reader has it.
    std::fs::copy(schema, folder.path().join(schema.file_name().unwrap())).unwrap();
    let server = Server::start(folder.path(), &["dev", schema.to_str().unwrap(), "--addr", "127.0.0.1:0"]);

    let commands = console(page);
    assert!(commands.len() > 10, "the page has lost its commands");
    run_commands(folder.path(), &commands, &[("127.0.0.1:8080", &server.address.to_string())]);
}

/// Runs commands, with something in the place of something else, and compares what they give.
fn run_commands(folder: &Path, commands: &[(String, String)], instead: &[(&str, &str)]) {
    let mut script = String::new();
    for (command, _) in commands {
        let command = command
            .replace("cargo run -q --", env!("CARGO_BIN_EXE_cratestack"))
            .replace("$(cratestack ", concat!("$(", env!("CARGO_BIN_EXE_cratestack"), " "));
        let command = instead.iter().fold(command, |command, (from, to)| command.replace(from, to));
        let command = match command.strip_prefix("cratestack ") {
            Some(rest) => format!("{} {rest}", env!("CARGO_BIN_EXE_cratestack")),
            None => command,
        };
        script.push_str(&format!("{command}\necho '{MARK}'\n"));
    }
    let mut bash = Command::new("bash");
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CRATESTACK_")) {
        bash.env_remove(name);
    }
    let output = bash.args(["-c", &script]).current_dir(folder).output().unwrap();
    let shown = text(&output.stdout);
    let mark = format!("{MARK}\n");
    let answers: Vec<&str> = shown.split(mark.as_str()).collect();
    assert_eq!(answers.len(), commands.len() + 1, "{shown}{}", text(&output.stderr));
    for ((command, printed), shown) in commands.iter().zip(answers) {
        assert!(agrees(printed, shown), "$ {command}\nthe page prints:\n{printed}\nit gives:\n{shown}");
    }
}

#[test]
fn the_default_address_is_the_readmes() {
    let help = text(&support::run(Path::new("."), &["dev", "--help"]).stdout);
    // Help is wrapped to the terminal.
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(help.contains("[default: 127.0.0.1:8080]") && README.contains("http://127.0.0.1:8080/api"), "{help}");
}

#[test]
fn what_differs_may_differ_and_nothing_else() {
    assert!(agrees("a…c\n", "abc\n") && agrees("a…c…", "abcd") && agrees("x\n", "x\n") && agrees("", ""));
    assert!(!agrees("a…c\n", "abd\n") && !agrees("x\n", "xy\n") && !agrees("", "x"));
}
