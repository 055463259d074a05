//! The command as a user meets it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::fs;
use std::process::Stdio;
use std::time::Instant;

use support::{PATIENCE, Server, bearer, command, run, text};
use tempfile::tempdir;

const NOTES: &str = r#"auth Principal {
  id   String
  role String?
}

model Note {
  id      Uuid   @id @default(uuid())
  title   String @length(max: 40)
  version Int    @version

  @@allow("all", auth() != null)
}
"#;

const ANN: &str = r#"{"id":"ann"}"#;

#[test]
fn check_exits_with_0_1_and_2() {
    let folder = tempdir().unwrap();
    fs::write(folder.path().join("good.cstack"), NOTES).unwrap();
    fs::write(folder.path().join("bad.cstack"), NOTES.replace("Uuid   @id", "Uid    @id")).unwrap();
    let good = run(folder.path(), &["check", "good.cstack"]);
    assert_eq!(good.status.code(), Some(0), "{good:?}");
    assert!(text(&good.stdout).contains("`good.cstack` is valid"));
    let bad = run(folder.path(), &["check", "good.cstack", "bad.cstack"]);
    assert_eq!(bad.status.code(), Some(1));
    let shown = text(&bad.stderr);
    assert!(
        shown.contains("`Uid`") && shown.contains("CST") && shown.contains("Uuid") && shown.contains("1 error"),
        "{shown}"
    );
    assert!(!shown.contains('\u{1b}'), "colours without a terminal: {shown}");
    fs::write(folder.path().join("empty.cstack"), "").unwrap();
    let empty = run(folder.path(), &["check", "empty.cstack"]);
    assert_eq!(empty.status.code(), Some(0));
    assert!(text(&empty.stderr).contains("declares no model"), "{empty:?}");
    let missing = run(folder.path(), &["check", "missing.cstack"]);
    assert_eq!(missing.status.code(), Some(2));
    assert!(text(&missing.stderr).contains("help:"));
    let unknown = run(folder.path(), &["chekc"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(text(&unknown.stderr).contains("check"));
}

#[test]
fn findings_in_formats_for_machines() {
    let folder = tempdir().unwrap();
    fs::write(folder.path().join("bad.cstack"), NOTES.replace("@length", "@lenght")).unwrap();
    for (format, part) in [("json", "\"code\""), ("sarif", "\"2.1.0\""), ("github", "::error ")] {
        let output = run(folder.path(), &["check", "bad.cstack", "--format", format]);
        assert_eq!(output.status.code(), Some(1));
        let shown = text(&output.stdout);
        assert!(shown.contains(part) && shown.contains("bad.cstack"), "{format}: {shown}");
        if format != "github" {
            serde_json::from_str::<serde_json::Value>(&shown).unwrap();
        }
    }
}

#[test]
fn fmt_writes_once_and_check_says_so() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("a.cstack");
    fs::write(&file, "model   A{\n id Uuid @id\n\n\n @@allow(\"all\",true)\n}\n").unwrap();
    let check = run(folder.path(), &["fmt", "--check", "a.cstack"]);
    assert_eq!(check.status.code(), Some(1));
    assert_eq!(run(folder.path(), &["fmt", "a.cstack"]).status.code(), Some(0));
    let once = fs::read_to_string(&file).unwrap();
    assert_eq!(once, "model A {\n  id Uuid @id\n\n  @@allow(\"all\", true)\n}\n");
    assert_eq!(run(folder.path(), &["fmt", "--check", "a.cstack"]).status.code(), Some(0));
    fs::write(&file, "model {").unwrap();
    assert_eq!(run(folder.path(), &["fmt", "a.cstack"]).status.code(), Some(1));
    assert_eq!(fs::read_to_string(&file).unwrap(), "model {");
}

#[test]
fn explain_knows_every_code_and_suggests() {
    let folder = tempdir().unwrap();
    let list = run(folder.path(), &["explain"]);
    let first = text(&list.stdout).split_whitespace().next().unwrap().to_owned();
    for spelling in [&first.to_lowercase(), first.trim_start_matches("CST0")] {
        let page = run(folder.path(), &["explain", spelling]);
        assert!(page.status.success() && text(&page.stdout).contains(&first), "{page:?}");
    }
    let unknown = run(folder.path(), &["explain", "CST000x"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(text(&unknown.stderr).contains("`CST000x` is not a diagnostic code"));
}

#[test]
fn token_checks_what_it_is_given() {
    let folder = tempdir().unwrap();
    fs::write(folder.path().join("notes.cstack"), NOTES).unwrap();
    let token = run(folder.path(), &["token", ANN]);
    assert_eq!(text(&token.stdout), "dev.eyJpZCI6ImFubiJ9\n");
    for (claims, part) in [("{", "not JSON"), ("[1]", "not a JSON object")] {
        let refused = run(folder.path(), &["token", claims]);
        assert_eq!(refused.status.code(), Some(2));
        assert!(text(&refused.stderr).contains(part), "{refused:?}");
    }
    let typed = run(folder.path(), &["token", r#"{"id":7}"#, "--schema", "notes.cstack"]);
    assert_eq!(typed.status.code(), Some(2));
    assert!(text(&typed.stderr).contains("auth block"), "{typed:?}");
    let unread = run(folder.path(), &["token", r#"{"id":"ann","rol":"x"}"#, "--schema", "notes.cstack"]);
    assert_eq!(unread.status.code(), Some(0));
    assert!(text(&unread.stderr).contains("`rol`; did you mean `role`?"), "{unread:?}");
}

/// A reader that has seen enough is no failure.
#[test]
fn a_closed_pipe_is_quiet() {
    for args in [&["completions", "bash"][..], &["explain"], &["--help"]] {
        let mut child = command(std::path::Path::new("."))
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()), "{args:?}");
    }
}

#[test]
fn completions_for_shells() {
    for shell in ["bash", "zsh", "fish"] {
        let output = run(std::path::Path::new("."), &["completions", shell]);
        assert!(output.status.success() && text(&output.stdout).contains("cratestack"));
    }
}

#[test]
fn a_new_project_has_a_name_that_a_shell_can_read() {
    let folder = tempdir().unwrap();
    for (dir, line) in [
        ("my app", "  cd 'my app' && cratestack dev my-app.cstack"),
        ("\u{fc}ber", "  cd '\u{fc}ber' && cratestack dev ber.cstack"),
        ("a/b", "  cd a/b && cratestack dev b.cstack"),
    ] {
        let made = run(folder.path(), &["new", dir]);
        assert!(text(&made.stdout).lines().any(|shown| shown == line), "{made:?}");
        let again = run(folder.path(), &["new", dir]);
        assert!(again.status.code() == Some(2) && text(&again.stderr).contains("is not empty"), "{again:?}");
    }
    // A fresh repository is an empty folder.
    fs::create_dir_all(folder.path().join("repo/.git")).unwrap();
    assert!(run(&folder.path().join("repo"), &["new", "."]).status.success());
    assert!(folder.path().join("repo/repo.cstack").exists());
}

#[test]
fn a_new_project_runs_at_once() {
    let folder = tempdir().unwrap();
    let made = run(folder.path(), &["new", "todo"]);
    assert!(made.status.success(), "{made:?}");
    assert!(text(&made.stdout).contains("cd todo && cratestack dev todo.cstack"));
    let again = run(folder.path(), &["new", "todo"]);
    assert_eq!(again.status.code(), Some(2));
    let project = folder.path().join("todo");
    let check = run(&project, &["check", "todo.cstack"]);
    assert_eq!((check.status.code(), text(&check.stderr)), (Some(0), String::new()));
    let formatted = run(&project, &["fmt", "--check", "todo.cstack"]);
    assert!(formatted.status.success(), "{formatted:?}");
    let mut server = Server::start(&project, &["dev", "todo.cstack", "--addr", "127.0.0.1:0"]);
    curl_lines_work(&mut server, &project, 3);
    assert!(project.join(".cratestack/todo.db").exists());
}

/// What `dev` prints to try can be pasted as it is, whatever the schema asks for.
#[test]
fn curl_lines_fit_the_schema() {
    let folder = tempdir().unwrap();
    let thing = r#"model Thing {
  id    Uuid          @id @default(uuid())
  code  String        @regex("[A-Z]{3}-\\d{2,4}(x|y)? it's")
  n     Int           @range(max: -5)
  d     Decimal(5, 2) @range(max: 3)
  t     DateTime      @range(max: "2020-01-01T00:00:00Z")
  s     String        @length(min: 2, max: 2)
  short String        @length(max: 1)
  b     Bytes         @length(min: 5)
  big   BigInt        @range(min: 5, max: 6)
  tags  String[]
  @@allow("all", true)
}
"#;
    for (schema, tries) in [
        (thing, 3),
        ("auth U { id String }\nmodel A { id Int @id  @@allow(\"read\", auth() != null) }\n", 1),
        ("model A { id Int @id  @@internal(\"list\")  @@allow(\"all\", true) }\n", 1),
        ("procedure ping(): Boolean @allow(true)\n", 0),
    ] {
        fs::write(folder.path().join("odd.cstack"), schema).unwrap();
        let mut server = Server::start(folder.path(), &["dev", "odd.cstack", "--addr", "127.0.0.1:0", "--reset"]);
        curl_lines_work(&mut server, folder.path(), tries);
    }
}

/// Pastes each `curl` line into a shell.
fn curl_lines_work(server: &mut Server, folder: &std::path::Path, tries: usize) {
    server.wait_for("follows; Ctrl-C ends it");
    let lines: Vec<String> =
        server.seen.iter().map(|line| line.trim().to_owned()).filter(|line| line.starts_with("curl ")).collect();
    assert_eq!(lines.len(), tries, "{:#?}", server.seen);
    for line in lines {
        let script = format!("{line} -o /dev/null -w '%{{http_code}}'");
        let output = std::process::Command::new("sh").args(["-c", &script]).current_dir(folder).output().unwrap();
        let status = text(&output.stdout);
        assert!(status.starts_with('2'), "{line}: {status} {}", text(&output.stderr));
    }
    let listening = server.seen.iter().filter(|line| line.contains("listening on http://")).count();
    assert_eq!(listening, 1);
}

#[test]
fn dev_follows_edits_and_survives_broken_ones() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("notes.cstack");
    fs::write(&file, NOTES).unwrap();
    let mut server = Server::start(folder.path(), &["dev", "notes.cstack", "--addr", "127.0.0.1:0"]);
    server.wait_for("follows; Ctrl-C ends it");
    let ann = bearer(ANN);
    let auth = [("Authorization", ann.as_str())];
    let created = server.request("POST", "/api/notes", &auth, r#"{"title":"one"}"#);
    assert_eq!(created.status, 201, "{created:?}");

    fs::write(&file, NOTES.replace("title", "title String @lenght(max: 3)\n  other")).unwrap();
    server.wait_for("the version before it keeps serving");
    assert!(
        server.seen.iter().any(|line| line.contains("`@lenght`") || line.contains("`lenght`")),
        "{:#?}",
        server.seen
    );
    assert_eq!(server.request("GET", "/api/notes", &auth, "").json()["items"][0]["title"], "one");

    fs::write(&file, NOTES.replace("  version", "  done    Boolean @default(false)\n  version")).unwrap();
    let reloaded = server.wait_for("reloaded `notes.cstack` in ");
    let took: u64 = reloaded.split(" in ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!(took < 300, "{reloaded}");
    let list = server.request("GET", "/api/notes", &auth, "").json();
    assert_eq!((&list["items"][0]["title"], &list["items"][0]["done"]), (&"one".into(), &false.into()));

    // Without a terminal nobody can agree to a loss.
    fs::write(&file, NOTES.replace("  title   String @length(max: 40)\n", "")).unwrap();
    server.wait_for("would lose data");
    server.wait_for("the version before it keeps serving");
    assert_eq!(server.request("GET", "/api/notes", &auth, "").json()["items"][0]["done"], false);
    server.stop();

    // The file is still the one that would lose data: a start refuses as well, and `--reset` begins anew.
    let refused = run(folder.path(), &["dev", "notes.cstack", "--addr", "127.0.0.1:0"]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(text(&refused.stderr).contains("--reset"));
    let server = Server::start(folder.path(), &["dev", "notes.cstack", "--addr", "127.0.0.1:0", "--reset"]);
    let list = server.request("GET", "/api/notes", &auth, "").json();
    assert_eq!(list["items"], serde_json::json!([]));
}

/// Until the file is whole again, whatever became of it, the version before it serves.
#[test]
fn dev_survives_what_happens_to_a_file() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("notes.cstack");
    let real = folder.path().join("v1.cstack");
    fs::write(&real, NOTES).unwrap();
    std::os::unix::fs::symlink(&real, &file).unwrap();
    let mut server = Server::start(folder.path(), &["dev", "notes.cstack", "--addr", "127.0.0.1:0"]);
    server.wait_for("follows; Ctrl-C ends it");
    let ann = bearer(ANN);
    let auth = [("Authorization", ann.as_str())];
    assert_eq!(server.request("POST", "/api/notes", &auth, r#"{"title":"one"}"#).status, 201);
    let with = |field: &str| NOTES.replace("  version", &format!("  {field} Int?\n  version"));

    // A link that leads elsewhere, and an edit there.
    let other = folder.path().join("v2.cstack");
    fs::write(&other, with("a")).unwrap();
    std::os::unix::fs::symlink(&other, folder.path().join("new")).unwrap();
    fs::rename(folder.path().join("new"), &file).unwrap();
    server.wait_for("reloaded `notes.cstack`");
    fs::write(&other, with("b")).unwrap();
    server.wait_for("reloaded `notes.cstack`");

    fs::remove_file(&file).unwrap();
    server.wait_for("no such file");
    server.wait_for("keeps serving");
    fs::write(&file, "").unwrap();
    // An empty file is no schema without models, whose rows may go.
    fs::write(&file, b"\xff").unwrap();
    assert_eq!(server.request("GET", "/api/notes", &auth, "").json()["items"][0]["title"], "one");
    fs::write(folder.path().join("new"), with("c")).unwrap();
    fs::rename(folder.path().join("new"), &file).unwrap();
    server.wait_for("reloaded `notes.cstack`");
    assert_eq!(server.request("GET", "/api/notes", &auth, "").json()["items"][0]["title"], "one");
    fs::write(&file, "").unwrap();
    server.wait_for("is empty");

    let status = server.terminate();
    assert_eq!(status.code(), Some(0));
    assert!(!folder.path().join(".cratestack/notes.db-wal").exists(), "the engines were not closed");
}

/// A refused edit is told in the words of the schema, and so is a refused token.
#[test]
fn dev_says_what_stands_in_the_way() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("notes.cstack");
    let notes = format!("enum Kind {{ plain urgent }}\n{}", NOTES.replace("  version", "  kind    Kind\n  version"));
    fs::write(&file, &notes).unwrap();
    let mut server = Server::start(folder.path(), &["dev", "notes.cstack", "--addr", "127.0.0.1:0"]);
    server.wait_for("follows; Ctrl-C ends it");
    let ann = bearer(ANN);
    let auth = [("Authorization", ann.as_str())];
    for _ in 0..2 {
        let created = server.request("POST", "/api/notes", &auth, r#"{"title":"one","kind":"urgent"}"#);
        assert_eq!(created.status, 201, "{created:?}");
    }
    for (from, to, says) in [
        ("plain urgent", "plain", "rows of `Note` have a `kind` that is no value of `Kind`"),
        ("@length(max: 40)", "@unique", "several rows of `Note` have the same `title`"),
        ("@length(max: 40)", "@length(max: 2) @db_enforce", "rows of `Note` have a `title` that its `@length` refuses"),
        ("  title   String", "  name    String", "if it is the new name of `title`, write `@rename(from: \"title\")`"),
        ("  title   String", "  name    String?", "`@rename(from: \"old\")`"),
    ] {
        fs::write(&file, notes.replace(from, to)).unwrap();
        server.wait_for(says);
        server.wait_for("the version before it keeps serving");
    }
    let nobody = bearer(r#"{"id":7}"#);
    let refused = server.request("GET", "/api/notes", &[("Authorization", &nobody)], "");
    assert_eq!(refused.status, 401);
    assert!(!refused.body.contains("claim"), "{refused:?}");
    server.wait_for("a token was refused (401): claim `id` must be a string");
}

/// A request meets the tables of its own version, whenever it comes.
#[test]
fn a_reload_fails_no_request() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("notes.cstack");
    fs::write(&file, NOTES).unwrap();
    let mut server = Server::start(folder.path(), &["dev", "notes.cstack", "--addr", "127.0.0.1:0"]);
    server.wait_for("follows; Ctrl-C ends it");
    let (address, ann) = (server.address, bearer(ANN));
    let over = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let callers: Vec<_> = (0..4)
        .map(|n| {
            let (over, ann) = (over.clone(), ann.clone());
            std::thread::spawn(move || {
                let (method, body) = if n % 2 == 0 { ("GET", "") } else { ("POST", r#"{"title":"x"}"#) };
                while !over.load(std::sync::atomic::Ordering::Relaxed) {
                    let answer =
                        support::request(address, method, "/api/notes", &[("Authorization", &ann)], body).unwrap();
                    assert!(answer.status < 300, "{answer:?}");
                }
            })
        })
        .collect();
    for round in 0..6 {
        let field = if round % 2 == 0 { "  extra Int?\n" } else { "" };
        fs::write(&file, NOTES.replace("  version", &format!("{field}  version"))).unwrap();
        server.wait_for("reloaded `notes.cstack`");
    }
    over.store(true, std::sync::atomic::Ordering::Relaxed);
    for caller in callers {
        caller.join().unwrap();
    }
}

#[test]
fn serve_refuses_what_is_not_safe() {
    let folder = tempdir().unwrap();
    let path = folder.path();
    fs::write(path.join("notes.cstack"), NOTES).unwrap();
    let base = ["serve", "notes.cstack", "--addr", "127.0.0.1:0"];
    let refuse = |more: &[&str], part: &str| {
        let output = run(path, &[&base[..], more].concat());
        assert_eq!(output.status.code(), Some(2), "{more:?}: {output:?}");
        let shown = text(&output.stderr);
        assert!(!shown.contains("secret") && !shown.contains("os error"), "{more:?}: {shown}");
        assert!(shown.contains(part) && shown.contains("help:"), "{more:?}: {shown}");
    };
    let db = ["--database", "sqlite:notes.db"];
    let with =
        |more: &[&'static str]| -> Vec<&'static str> { db.iter().copied().chain(more.iter().copied()).collect() };
    refuse(&db, "no authentication provider");
    refuse(&with(&["--auth", "dev"]), "--allow-dev-auth");
    refuse(&with(&["--auth", "jwt"]), "not supported yet");
    refuse(&with(&["--auth", "none"]), "auth block");
    refuse(&["--auth", "dev", "--allow-dev-auth"], "no database");
    refuse(&with(&["--auth", "dev", "--allow-dev-auth"]), "carries no schema yet");
    refuse(&with(&["--auth", "dev", "--allow-dev-auth", "--apply", "--decimal", "float"]), "one of the words");
    let on = |url: &'static str| ["--auth", "dev", "--allow-dev-auth", "--apply", "--database", url];
    refuse(&on("mysql://u:secret@h/x"), "not a database URL");
    refuse(&on("postgres://u:secret@h/x?sslmod=require"), "did you mean `sslmode`?");
    refuse(&on("postgres://u:se#cr/et@h/x"), "the PostgreSQL URL is malformed");
    refuse(&on("postgres://u:secret@127.0.0.1:1/x"), "connection refused");
    refuse(&on("sqlite:notes.cstack"), "it is no SQLite database");
    refuse(&on("sqlite:."), "it is a folder");
    refuse(&on("sqlite:a.db\nsqlite:b.db"), "not one line of text");
    // The address is taken before the database is touched.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = run(path, &[&["serve", "notes.cstack", "--addr", &address][..], &on("sqlite:untouched.db")].concat());
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("address already in use\n  help:"), "{output:?}");
    assert!(!path.join("untouched.db").exists());
    let unknown = command(path).args(base).env("CRATESTACK_DATABSE", "sqlite:x").output().unwrap();
    assert_eq!(unknown.status.code(), Some(2));
    assert!(text(&unknown.stderr).contains("did you mean `CRATESTACK_DATABASE`?"), "{unknown:?}");

    let args = [&base[..], &db, &["--auth", "dev", "--allow-dev-auth", "--apply"]].concat();
    let server = Server::start(path, &args);
    let ann = bearer(ANN);
    let auth = [("Authorization", ann.as_str())];
    assert_eq!(server.request("POST", "/api/notes", &auth, r#"{"title":"one"}"#).status, 201);
    assert_eq!(server.request("GET", "/api/notes", &[], "").status, 401);
    assert_eq!(server.request("GET", "/livez", &[], "").status, 200);
    assert_eq!(server.request("GET", "/readyz", &[], "").status, 200);
    server.stop();

    // What code with `rust_decimal` could not read is not taken.
    let prices = "model Price { id Int @id  value Decimal  @@allow(\"all\", true) }";
    fs::write(path.join("prices.cstack"), prices).unwrap();
    let serve = ["serve", "prices.cstack", "--addr", "127.0.0.1:0", "--database", "sqlite::memory:", "--auth", "none"];
    for (decimal, status) in [("rust_decimal", 422), ("bigdecimal", 201)] {
        let server = Server::start(path, &[&serve[..], &["--decimal", decimal]].concat());
        let body = r#"{"id":1,"value":"123456789012345678901234567890"}"#;
        assert_eq!(server.request("POST", "/api/prices", &[], body).status, status, "{decimal}");
        server.stop();
    }

    // Another schema does not fit the database, and `--apply` is for empty ones.
    fs::write(path.join("notes.cstack"), NOTES.replace("max: 40", "max: 4")).unwrap();
    refuse(&args[4..], "another version of the schema");
}

#[test]
fn a_sink_needs_its_companion_and_something_to_deliver() {
    let folder = tempdir().unwrap();
    let path = folder.path();
    fs::write(path.join("notes.cstack"), NOTES).unwrap();
    let serve = ["serve", "notes.cstack", "--auth", "dev", "--allow-dev-auth", "--apply", "--database", "sqlite:n.db"];
    let refuse = |command: &[&str], more: &[&str], part: &str| {
        let output = run(path, &[command, &["--addr", "127.0.0.1:0"], more].concat());
        assert_eq!(output.status.code(), Some(2), "{more:?}: {output:?}");
        let shown = text(&output.stderr);
        assert!(!shown.contains("confidential"), "{more:?}: {shown}");
        assert!(shown.contains(part) && shown.contains("help:"), "{more:?}: {shown}");
    };
    for command in [&serve[..], &["dev", "notes.cstack"]] {
        for (log, nothing) in [
            ("audit", "`notes` has no audit trail, and a sink for it is configured"),
            ("event", "`notes` emits no events, and a sink for them is configured"),
        ] {
            let flag = |rest: &str| format!("--{log}-{rest}");
            let alone = |rest: &str, value: &str, other: &str| {
                let part = format!("`--{log}-{rest}` is set, and `{log}-{other}` is not");
                refuse(command, &[&flag(rest), value], &part);
            };
            let (url, secret) = ("https://hook.example/confidential", "whsec_confidential");
            alone("webhook", url, "webhook-secret");
            alone("webhook-secret", secret, "webhook");
            alone("nats-subject", "a", "nats");
            alone("file-size", "1MiB", "file");
            refuse(command, &[&flag("file"), "log.jsonl"], nothing);
            refuse(command, &[&flag("nats"), "nats://confidential@127.0.0.1"], nothing);
            refuse(command, &[&flag("webhook"), url, &flag("webhook-secret"), secret], nothing);
        }
    }
    // Nothing was made for it.
    assert!(!path.join("log.jsonl").exists() && !path.join("n.db").exists());
}

#[test]
fn the_audit_trail_reaches_its_file_and_a_shutdown_says_what_has_not() {
    let folder = tempdir().unwrap();
    let path = folder.path();
    fs::write(path.join("a.cstack"), "model Note {\n  id Int @id\n  @@audit\n  @@allow(\"all\", true)\n}\n").unwrap();
    let serve =
        ["serve", "a.cstack", "--auth", "none", "--apply", "--database", "sqlite:a.db", "--audit-file", "a.jsonl"];
    // The receiver is gone as soon as its port is known.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let start = || {
        let mut command = command(path);
        command.args(serve).args([
            "--addr",
            "127.0.0.1:0",
            "--audit-webhook",
            &format!("http://127.0.0.1:{port}/hook"),
        ]);
        Server::spawn(
            command.env("CRATESTACK_AUDIT_WEBHOOK_SECRET", "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="),
        )
    };
    let end = |mut server: Server| {
        let why = server.wait_for("the sink is unavailable sink=\"webhook\"");
        assert!(why.contains("cannot be reached: connection refused"), "{why}");
        server.signal();
        server.wait_for("events wait for the next start sink=\"webhook\"");
        assert_eq!(server.child.wait().unwrap().code(), Some(0), "{:#?}", server.seen);
    };
    let keys = || -> Vec<i64> {
        let text = fs::read_to_string(path.join("a.jsonl")).unwrap_or_default();
        let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        lines.map(|event| event["after"]["id"].as_i64().unwrap()).collect()
    };
    let wait_for = |wanted: &[i64]| {
        let until = Instant::now() + PATIENCE;
        while keys() != wanted {
            assert!(Instant::now() < until, "{:?}", keys());
            std::thread::yield_now();
        }
    };
    let server = start();
    assert_eq!(server.request("POST", "/api/notes", &[], r#"{"id":1}"#).status, 201);
    wait_for(&[1]);
    let second = run(path, &[&serve[..], &["--addr", "127.0.0.1:0"]].concat());
    assert_eq!(second.status.code(), Some(2));
    assert!(text(&second.stderr).contains("another process writes the file `a.jsonl`"), "{second:?}");
    end(server);
    let server = start();
    assert_eq!(server.request("POST", "/api/notes", &[], r#"{"id":2}"#).status, 201);
    wait_for(&[1, 2]);
    end(server);
}

#[test]
fn settings_come_from_the_environment_and_files() {
    let folder = tempdir().unwrap();
    let path = folder.path();
    fs::write(path.join("notes.cstack"), NOTES).unwrap();
    fs::write(path.join("url"), "sqlite:env.db\n").unwrap();
    fs::write(path.join("cratestack.toml"), "list-max = 2\naddr = \"127.0.0.1:0\"\n").unwrap();
    let server = Server::spawn(
        command(path)
            .args(["serve", "notes.cstack"])
            .env("CRATESTACK_DATABASE_FILE", path.join("url"))
            .env("CRATESTACK_AUTH", "dev")
            .env("CRATESTACK_ALLOW_DEV_AUTH", "true")
            .env("CRATESTACK_APPLY", "true"),
    );
    let ann = bearer(ANN);
    let auth = [("Authorization", ann.as_str())];
    assert_eq!(server.request("GET", "/api/notes?limit=2", &auth, "").status, 200);
    let refused = server.request("GET", "/api/notes?limit=3", &auth, "");
    assert_eq!((refused.status, refused.json()["code"].as_str()), (400, Some("invalid_query")));
    assert!(path.join("env.db").exists());
}

/// `kill -9` under write load: whatever was acknowledged is there.
#[test]
fn acknowledged_writes_survive_kill_9() {
    const ROUNDS: usize = 20;
    let folder = tempdir().unwrap();
    fs::write(folder.path().join("notes.cstack"), NOTES).unwrap();
    let ann = bearer(ANN);
    let mut acknowledged: Vec<String> = Vec::new();
    for round in 0..ROUNDS {
        let server = Server::start(folder.path(), &["dev", "notes.cstack", "--addr", "127.0.0.1:0"]);
        let address = server.address;
        let (sender, receiver) = std::sync::mpsc::channel();
        let writers: Vec<_> = (0..8)
            .map(|writer| {
                let (sender, ann) = (sender.clone(), ann.clone());
                std::thread::spawn(move || {
                    for n in 0.. {
                        let body = format!(r#"{{"title":"{round}-{writer}-{n}"}}"#);
                        let answer = support::request(address, "POST", "/api/notes", &[("Authorization", &ann)], &body);
                        let Ok(answer) = answer else { return };
                        assert_eq!(answer.status, 201, "{answer:?}");
                        sender.send(answer.json()["id"].as_str().unwrap().to_owned()).unwrap();
                    }
                })
            })
            .collect();
        drop(sender);
        // The kill comes after a number of acknowledgements that differs from round to round.
        let begun = Instant::now();
        let enough = 10 + round * 7;
        for id in receiver.iter().take(enough) {
            acknowledged.push(id);
        }
        assert!(begun.elapsed() < support::PATIENCE);
        server.stop();
        acknowledged.extend(receiver.iter());
        for writer in writers {
            writer.join().unwrap();
        }
    }
    let server = Server::start(folder.path(), &["dev", "notes.cstack", "--addr", "127.0.0.1:0"]);
    assert!(acknowledged.len() > ROUNDS * 10);
    for id in &acknowledged {
        let found = server.request("GET", &format!("/api/notes/{id}"), &[("Authorization", &ann)], "");
        assert_eq!(found.status, 200, "lost {id}: {found:?}");
    }
}
