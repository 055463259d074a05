//! `cratestack audit` as an auditor meets it, on both databases. PostgreSQL is the server that `CRATESTACK_TEST_POSTGRES`
//! names; `CRATESTACK_TEST_ONLY=sqlite` goes without.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::fs;
use std::process::{Output, Stdio};

use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _};
use support::{Server, bearer, command, text};
use tempfile::{TempDir, tempdir};

const BANK: &str = r#"auth Principal {
  id   String
  role String?
}

model Account {
  id      Int            @id
  owner   String         @pii
  pin     String         @default("0") @server_only
  balance Decimal(18, 4) @default(0)
  text    String         @default("")
  version Int            @version

  @@soft_delete
  @@audit(denials)
  @@allow("all", auth() != null)
}

model Desk {
  branch String
  number Int

  @@id([branch, number])
  @@audit
  @@allow("all", true)
}

model Free {
  id Int @id

  @@allow("all", true)
}
"#;

/// A database with a schema and some past, in a folder with the schema's file.
struct Bank {
    name: &'static str,
    folder: TempDir,
    url: String,
    /// The PostgreSQL server, and the database to drop at the end.
    server: Option<(String, String)>,
}

fn on_postgres(url: &str, statements: &str) {
    let run = async {
        let mut connection = sqlx::PgConnection::connect(url).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(statements.to_owned())).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    };
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run);
}

impl Bank {
    /// One on each database, empty.
    fn empty() -> Vec<Self> {
        let folder = || {
            let folder = tempdir().unwrap();
            fs::write(folder.path().join("bank.cstack"), BANK).unwrap();
            folder
        };
        let mut all = vec![Self { name: "sqlite", folder: folder(), url: "sqlite:bank.db".to_owned(), server: None }];
        if std::env::var("CRATESTACK_TEST_ONLY").is_ok_and(|only| only == "sqlite") {
            return all;
        }
        let server = std::env::var("CRATESTACK_TEST_POSTGRES")
            .expect("set CRATESTACK_TEST_POSTGRES to a server's URL, or CRATESTACK_TEST_ONLY=sqlite");
        let folder = folder();
        // The folder's name is nobody else's.
        let unique = folder.path().file_name().unwrap().to_string_lossy().to_lowercase().replace('.', "_");
        let database = format!("cli{unique}_{}", std::process::id());
        on_postgres(&server, &format!("CREATE DATABASE {database}"));
        let (base, options) = server.split_once('?').map_or((server.as_str(), ""), |(base, options)| (base, options));
        let (base, _) = base.rsplit_once('/').unwrap();
        let url = format!("{base}/{database}?{options}").trim_end_matches('?').to_owned();
        all.push(Self { name: "postgres", folder, url, server: Some((server, database)) });
        all
    }

    /// With four events of an account, one of a desk and one beside the service.
    fn all() -> Vec<Self> {
        let all = Self::empty();
        for bank in &all {
            let server = bank.serve();
            let bearer = bearer(r#"{"id":"ann","role":"teller"}"#);
            let send = |method: &str, path: &str, version: &str, id: &str, body: &str| {
                let head = [("Authorization", bearer.as_str()), ("If-Match", version), ("X-Request-Id", id)];
                let head = if version.is_empty() { vec![head[0], head[2]] } else { head.to_vec() };
                server.request(method, path, &head, body).status
            };
            assert_eq!(send("POST", "/api/accounts", "", "r-1", r#"{"id":1,"owner":"Ann","balance":"12.5"}"#), 201);
            let patch = r#"{"owner":"Bob","balance":"7","text":"a\u001b[2J\u202e"}"#;
            assert_eq!(send("PATCH", "/api/accounts/1", "\"1\"", "r-2", patch), 200);
            assert_eq!(send("PATCH", "/api/accounts/1", "\"1\"", "r-3", r#"{"balance":"8"}"#), 412);
            assert_eq!(send("DELETE", "/api/accounts/1", "\"2\"", "r-4", ""), 204);
            assert_eq!(send("POST", "/api/desks", "", "r-5", r#"{"branch":"a/b","number":3}"#), 201);
            assert!(server.terminate().success());
            bank.sql("INSERT INTO accounts (id, owner, version) VALUES (2, 'Eve', 1)");
        }
        all
    }

    fn serve(&self) -> Server {
        self.serve_with(&[])
    }

    fn serve_with(&self, more: &[&str]) -> Server {
        let args = ["serve", "bank.cstack", "--database", &self.url, "--apply", "--auth", "dev", "--allow-dev-auth"];
        Server::start(self.folder.path(), &[&args[..], &["--addr", "127.0.0.1:0"], more].concat())
    }

    /// Runs SQL beside the service.
    fn sql(&self, statements: &str) {
        if self.server.is_some() {
            return on_postgres(&self.url, statements);
        }
        let connection = rusqlite::Connection::open(self.folder.path().join("bank.db")).unwrap();
        connection.execute_batch(statements).unwrap();
    }

    /// Changes accounts while their triggers are off.
    fn behind(&self, statements: &str) {
        if self.server.is_some() {
            return self.sql(&format!(
                "ALTER TABLE accounts DISABLE TRIGGER ALL; {statements}; ALTER TABLE accounts ENABLE TRIGGER ALL"
            ));
        }
        let connection = rusqlite::Connection::open(self.folder.path().join("bank.db")).unwrap();
        let mut find = connection.prepare("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'").unwrap();
        let triggers = find.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))).unwrap();
        let (names, texts): (Vec<_>, Vec<_>) = triggers.map(Result::unwrap).unzip();
        let drop: Vec<String> = names.iter().map(|name| format!("DROP TRIGGER \"{name}\"")).collect();
        let all = [drop.join(";\n"), statements.to_owned(), texts.join(";\n")].join(";\n");
        connection.execute_batch(&all).unwrap();
    }

    /// Runs `audit` with these words, the file after the first ones.
    fn audit(&self, words: &str, more: &[&str]) -> Output {
        let mut command = command(self.folder.path());
        command.arg("audit").args(words.split(' ')).arg("bank.cstack").args(more);
        command.env("CRATESTACK_DATABASE", &self.url).output().unwrap()
    }

    /// What it prints on stdout, once it ends with `code` and says nothing else but that a list of one has more.
    fn told(&self, words: &str, more: &[&str], code: i32) -> String {
        let output = self.audit(words, more);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        let full = words == "list" && err.starts_with("there are more; `--limit` shows more than ");
        assert!(
            output.status.code() == Some(code) && (full || err.is_empty()),
            "{} {words} {more:?}: {out}{err}",
            self.name
        );
        assert!(
            !out.contains('\u{1b}') && !out.contains('\u{202e}') || out.contains("\"entry\""),
            "{}: {out:?}",
            self.name
        );
        out
    }

    /// What it prints on stderr when it cannot run.
    fn refused(&self, words: &str, more: &[&str]) -> String {
        let output = self.audit(words, more);
        let err = text(&output.stderr);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{} {words} {more:?}: {err}", self.name);
        err
    }

    /// The entries that `list` gives, newest first.
    fn entries(&self, more: &[&str]) -> Vec<Value> {
        let told = self.told("list", &[&["--format", "json"][..], more].concat(), 0);
        let entry = |line: &str| serde_json::from_str::<Value>(line).unwrap()["entry"].clone();
        told.lines().map(entry).collect()
    }
}

impl Drop for Bank {
    fn drop(&mut self) {
        if let Some((server, database)) = &self.server {
            on_postgres(server, &format!("DROP DATABASE {database} WITH (FORCE)"));
        }
    }
}

/// With `ID` and `TIME` for what differs from run to run.
fn steady(text: &str) -> String {
    let steady = |part: &str| {
        let word = part.trim_end_matches([' ', '"', '\n']);
        let rest = &part[word.len()..];
        match word.len() {
            36 if word.matches('-').count() == 4 => format!("ID{rest}"),
            27 if word.contains('T') && word.ends_with('Z') => format!("TIME{rest}"),
            _ => part.to_owned(),
        }
    };
    text.split_inclusive([' ', '"', '\n']).map(steady).collect()
}

#[test]
fn list_filters_and_pages() {
    for bank in Bank::all() {
        let outside = if bank.server.is_some() { "database user postgres" } else { "SQL beside the service" };
        let all = [
            &format!("ID  TIME  create   Account 2  {outside}"),
            r#"ID  TIME  create   Desk ["a/b",3]  ann (teller)  POST /desks"#,
            "ID  TIME  delete   Account 1  ann (teller)  DELETE /accounts/{id}",
            "ID  TIME  denied   Account 1  ann (teller)  PATCH /accounts/{id}",
            "ID  TIME  update   Account 1  ann (teller)  PATCH /accounts/{id}",
            "ID  TIME  create   Account 1  ann (teller)  POST /accounts",
        ];
        for (more, expected) in [
            (&[][..], &all[..]),
            (&["--limit", "1"], &all[..1]),
            (&["--model", "Desk"], &all[1..2]),
            (&["--model", "Account", "--key", "01", "--limit", "2"], &all[2..4]),
            (&["--actor", "ann", "--from", "2020-01-01"], &all[1..]),
            (&["--request", "r-2"], &all[4..5]),
            (&["--operation", "denied", "--to", "2999-01-01T00:00:00+01:00"], &all[3..4]),
            (&["--out-of-band"], &all[..1]),
        ] {
            let told = steady(&bank.told("list", more, 0));
            assert_eq!(told.lines().collect::<Vec<_>>(), expected, "{} {more:?}", bank.name);
        }
        let none = bank.audit("list", &["--to", "2020-01-01"]);
        assert_eq!((none.status.code(), text(&none.stderr)), (Some(0), "no event fits\n".to_owned()));
        let line = bank.told("list", &["--limit", "1", "--format", "json"], 0);
        let line: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(line.as_object().unwrap().keys().collect::<Vec<_>>(), ["entry", "seq"], "{}", bank.name);
        assert_eq!((&line["entry"]["typ"], &line["entry"]["primary_key"]), (&json!("audit.event"), &json!("2")));
    }
}

#[test]
fn history_is_a_series_of_differences() {
    for bank in Bank::all() {
        let expected = r#"TIME create by ann (teller), POST /accounts, request r-1
  event ID
  + balance: "12.5000"
  + id: 1
  + owner: redacted (pii)
  ~ pin: not recorded
  + text: ""
  + version: 1

TIME update by ann (teller), PATCH /accounts/{id}, request r-2
  event ID
  - balance: "12.5000"
  + balance: "7.0000"
  - owner: redacted (pii)
  + owner: redacted (pii)
  - text: ""
  + text: "a\u001b[2J\u{202e}"
  - version: 1
  + version: 2

TIME denied by ann (teller), PATCH /accounts/{id}, request r-3
  event ID

TIME delete by ann (teller), DELETE /accounts/{id}, request r-4
  event ID
  - deletedAt: null
  + deletedAt: "TIME"
  - version: 2
  + version: 3

"#;
        assert_eq!(steady(&bank.told("history", &["Account", "1"], 0)), expected, "{}", bank.name);
        let one = bank.told("history", &["Desk", r#"["a/b",3]"#, "--format", "json"], 0);
        assert_eq!(one.lines().count(), 1, "{one}");
        // Colours where they are asked for.
        let coloured = text(&bank.audit("history", &["Account", "1", "--color", "always"]).stdout);
        assert!(coloured.contains("\u{1b}[32m  + balance: \"7.0000\"\u{1b}[0m"), "{coloured}");
    }
}

#[test]
fn show_says_everything() {
    for bank in Bank::all() {
        let entries = bank.entries(&["--request", "r-4"]);
        let id = entries[0]["event_id"].as_str().unwrap();
        let told = steady(&bank.told("show", &[id], 0));
        for line in ["delete Account 1", "  by                ann (teller)", "  client            127.0.0.1"] {
            assert!(told.lines().any(|shown| shown == line), "{} {line}: {told}", bank.name);
        }
        for line in
            ["  event             ID", "  request           r-4", "  claim role        \"teller\"", "  + version: 3"]
        {
            assert!(told.lines().any(|shown| shown == line), "{} {line}: {told}", bank.name);
        }
        let told: Value = serde_json::from_str(&bank.told("show", &[id, "--format", "json"], 0)).unwrap();
        assert_eq!(told["entry"], entries[0], "{}", bank.name);
    }
}

#[test]
fn reconcile_is_0_1_or_2() {
    for bank in Bank::all() {
        let clean = "compared 3 rows with 3 keys in the trail, of 2 models: no difference\n";
        assert_eq!(bank.told("reconcile", &[], 0), clean, "{}", bank.name);
        bank.behind("UPDATE accounts SET text = 'secret', balance = balance + 1 WHERE id = 1");
        bank.behind("DELETE FROM accounts WHERE id = 2");
        bank.behind("INSERT INTO accounts (id, owner, version) VALUES (3, 'Joe', 1)");
        let found = "\
changed     Account 1 differs from its newest event in `balance`, `text`
no_event    Account 3 is there, and no event says so
missing_row Account 2 is gone, and no event says so
compared 3 rows with 3 keys in the trail, of 2 models: 3 differences
";
        assert_eq!(bank.told("reconcile", &[], 1), found, "{}", bank.name);
        let told = bank.told("reconcile", &["--format", "json"], 1);
        let lines: Vec<Value> = told.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let difference = |kind: &str, key: &str, fields: Value| json!({"type": "difference", "kind": kind, "model": "Account", "primary_key": key, "fields": fields});
        assert_eq!(
            lines,
            [
                difference("changed", "1", json!(["balance", "text"])),
                difference("no_event", "3", Value::Null),
                difference("missing_row", "2", Value::Null),
                json!({"type": "summary", "models": 2, "rows": 3, "keys": 3, "differences": 3, "unchecked": 0}),
            ],
            "{}",
            bank.name
        );
    }
}

#[test]
fn sinks_have_a_status_and_get_events_again() {
    for bank in Bank::all() {
        let none = bank.audit("sinks status", &[]);
        assert_eq!(text(&none.stderr), "no sink has ever run on this database\n", "{}", bank.name);
        let refused = bank.refused("sinks replay", &["ledger"]);
        assert!(refused.contains("the database knows no sink `ledger`"), "{refused}");
        // As a relay leaves them that has taken all and was refused two.
        let place = if bank.server.is_some() {
            "snapshot) SELECT 'ledger', 1, now(), pg_current_snapshot()::text"
        } else {
            "seq) SELECT 'ledger', 1, '2026-01-31T10:00:00.000000Z', max(seq) FROM cratestack_audit"
        };
        bank.sql(&format!(
            "INSERT INTO cratestack_audit_relay (sink, batch, taken_at, {place}; \
             INSERT INTO cratestack_audit_delivery (sink, seq, model, primary_key, state, last_error) \
             SELECT 'ledger', seq, model, primary_key, CASE WHEN seq <= 2 THEN 'dead' ELSE 'delivered' END, \
             CASE WHEN seq <= 2 THEN 'no such account' END FROM cratestack_audit"
        ));
        let dead = "ledger  0 pending, 2 dead\n  last error: no such account\n  \
                    `cratestack audit sinks replay bank.cstack ledger` delivers the dead ones again\n";
        assert_eq!(bank.told("sinks status", &[], 0), dead, "{}", bank.name);
        let refused = bank.refused("sinks replay", &["legder"]);
        assert_eq!(refused, "error: the database knows no sink `legder`\n  help: did you mean `ledger`?\n");
        for (more, told) in [
            (&[][..], "`ledger` would get 2 dead events again; `--confirm` does it\n"),
            (&["--since", "3"], "`ledger` would get 4 events again; `--confirm` does it\n"),
            (&["--all"], "`ledger` would get 6 events again; `--confirm` does it\n"),
            (&["--confirm"], "`ledger` gets 2 dead events again\n"),
            (&["--dead"], "there are no dead events that `ledger` could get again\n"),
        ] {
            assert_eq!(bank.told("sinks replay", &[&["ledger"][..], more].concat(), 0), told, "{}", bank.name);
        }
        let told: Value =
            serde_json::from_str(&bank.told("sinks replay", &["ledger", "--all", "--format", "json"], 0)).unwrap();
        assert_eq!(told, json!({"sink": "ledger", "which": "all", "events": 6, "confirmed": false}));
        bank.sql("DELETE FROM cratestack_audit_delivery WHERE seq = 4");
        let told: Value =
            serde_json::from_str(&bank.told("sinks status", &["--skipped", "--format", "json"], 1)).unwrap();
        let members: Vec<&String> = told.as_object().unwrap().keys().collect();
        assert_eq!(members, ["dead", "lag_seconds", "last_error", "name", "pending", "skipped"]);
        assert_eq!((&told["pending"], &told["dead"], &told["skipped"]), (&json!(2), &json!(0), &json!(1)));
        let both = bank.audit("sinks replay", &["ledger", "--all", "--dead"]);
        assert_eq!(both.status.code(), Some(2), "{both:?}");
    }
}

#[test]
fn mistakes_are_told_with_the_next_step() {
    for bank in Bank::all() {
        for (words, more, parts) in [
            ("history", &["Acount", "1"][..], ["there is no model `Acount`", "did you mean `Account`?"]),
            ("history", &["Zebra", "1"], ["there is no model `Zebra`", "audited are `Account`, `Desk`"]),
            ("list", &["--model", "Free"], ["`Free` has no `@@audit`", "write `@@audit` into the model"]),
            ("show", &["12"], ["`12` is no id of an event", "audit list bank.cstack"]),
            (
                "show",
                &["01890a5d-ac96-774b-bcce-b302099a8057"],
                ["the trail has no event `01890a5d-", "audit list bank.cstack"],
            ),
            ("list", &["--from", "2026-02-01", "--to", "2026-02-01"], ["before `--to`", "`--to` is not included"]),
            ("list", &["--from", "yesterday"], ["'yesterday'", "write `2026-01-31`"]),
            ("list", &["--operation", "updte"], ["'updte'", "'update'"]),
            ("list", &["--limit", "0"], ["--limit", "0"]),
        ] {
            let shown = bank.refused(words, more);
            assert!(parts.iter().all(|part| shown.contains(part)), "{} {words} {more:?}: {shown}", bank.name);
        }
        let odd = bank.audit("history", &["Account", "x"]);
        let said = "warning: no row of `Account` can have the key `x`\nthe trail has no event of `Account` `x`\n";
        assert_eq!((odd.status.code(), text(&odd.stderr).as_str()), (Some(0), said), "{}", bank.name);
        // Another version of the schema, and another schema.
        let file = bank.folder.path().join("bank.cstack");
        fs::write(&file, BANK.replace("number Int", "number BigInt")).unwrap();
        let shown = bank.refused("reconcile", &[]);
        assert!(shown.contains("another version of the schema") && shown.contains("that the service runs"), "{shown}");
        fs::write(&file, "model {").unwrap();
        let shown = bank.refused("reconcile", &[]);
        assert!(shown.contains("CST") && shown.contains("error: `bank.cstack` is not valid"), "{shown}");
    }
}

#[test]
fn events_reach_their_file_and_have_a_status() {
    for bank in Bank::all() {
        let says = "no model of `bank.cstack` has `@@emit`, and the database has no outbox";
        let shown = bank.refused("sinks status", &["--log", "events"]);
        assert!(shown.contains(says) && shown.contains("help: write `@@emit(..)`"), "{}: {shown}", bank.name);
    }
    for bank in Bank::empty() {
        let emits = "  @@emit(created, updated, deleted)\n  @@allow(\"all\", true)\n";
        let schema = BANK.replace("  @@audit\n", "").replace("  @@allow(\"all\", true)\n", emits);
        fs::write(bank.folder.path().join("bank.cstack"), schema).unwrap();
        let server = bank.serve_with(&["--event-file", "events.jsonl", "--service", "branch"]);
        assert_eq!(server.request("POST", "/api/desks", &[], r#"{"branch":"a/b","number":3}"#).status, 201);
        bank.sql("INSERT INTO frees (id) VALUES (1)");
        assert_eq!(server.request("DELETE", "/api/frees/1", &[], "").status, 204);
        let lines = || fs::read_to_string(bank.folder.path().join("events.jsonl")).unwrap_or_default();
        let until = std::time::Instant::now() + std::time::Duration::from_mins(1);
        while lines().lines().count() < 3 {
            assert!(std::time::Instant::now() < until, "{}: {}", bank.name, lines());
            std::thread::yield_now();
        }
        assert!(server.terminate().success());
        let events: Vec<Value> = lines().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let told: Vec<Value> = events
            .iter()
            .map(|event| json!([event["type"], event["subject"], event["source"], event["data"]]))
            .collect();
        assert_eq!(
            told,
            [
                json!(["bank.Desk.created", "[\"a/b\",3]", "/branch/bank", {"branch": "a/b", "number": 3}]),
                json!(["bank.Free.created", "1", "/cratestack/bank", {"id": 1}]),
                json!(["bank.Free.deleted", "1", "/branch/bank", {"id": 1}]),
            ],
            "{}",
            bank.name
        );
        let log = ["--log", "events"];
        assert_eq!(bank.told("sinks status", &log, 0), "file  0 pending, 0 dead\n", "{}", bank.name);
        bank.sql("UPDATE cratestack_outbox_delivery SET state = 'dead' WHERE seq = 1");
        let dead = "file  0 pending, 1 dead\n  \
                    `cratestack audit sinks replay bank.cstack file --log events` delivers the dead ones again\n";
        assert_eq!(bank.told("sinks status", &log, 0), dead, "{}", bank.name);
        let replay = ["file", "--log", "events", "--confirm"];
        assert_eq!(bank.told("sinks replay", &replay, 0), "`file` gets 1 dead events again\n", "{}", bank.name);
        // The sinks of the trail are others.
        assert_eq!(text(&bank.audit("sinks status", &[]).stderr), "no sink has ever run on this database\n");
    }
}

#[test]
fn nothing_is_made_or_changed() {
    for bank in Bank::empty() {
        let shown = bank.refused("list", &[]);
        let expected =
            if bank.server.is_some() { "carries no schema yet" } else { "there is no SQLite file `bank.db`" };
        assert!(shown.contains(expected) && shown.contains("help: name the database"), "{shown}");
        let files = || fs::read_dir(bank.folder.path()).unwrap().count();
        assert_eq!(files(), 1, "{}", bank.name);
        bank.sql("CREATE TABLE other (id INTEGER)");
        let before = files();
        let shown = bank.refused("reconcile", &[]);
        assert!(shown.contains("did not make: `other`"), "{}: {shown}", bank.name);
        let shown = bank.refused("list", &["--database", "sqlite::memory:"]);
        assert!(shown.contains("in memory"), "{shown}");
        let shown = bank.refused("list", &["--database", "sqlite:bank.cstack"]);
        assert!(shown.contains("it is no SQLite database"), "{shown}");
        assert_eq!(files(), before, "{}", bank.name);
    }
    for bank in Bank::empty() {
        let file = bank.folder.path().join("bank.cstack");
        fs::write(&file, BANK.replace("  @@audit(denials)\n", "").replace("  @@audit\n", "")).unwrap();
        bank.serve().stop();
        for words in ["list", "reconcile", "sinks status"] {
            let shown = bank.refused(words, &[]);
            let says = "no model of `bank.cstack` has `@@audit`, and the database has no audit trail";
            assert!(shown.contains(says) && shown.contains("help: write `@@audit`"), "{}: {shown}", bank.name);
        }
    }
}

#[test]
fn a_reader_that_has_seen_enough_ends_it() {
    for bank in Bank::all() {
        for args in
            [&["list", "bank.cstack"][..], &["history", "bank.cstack", "Account", "1"], &["reconcile", "bank.cstack"]]
        {
            let mut child = command(bank.folder.path())
                .arg("audit")
                .args(args)
                .env("CRATESTACK_DATABASE", &bank.url)
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            drop(child.stdout.take());
            let output = child.wait_with_output().unwrap();
            assert_eq!(
                (output.status.code(), text(&output.stderr)),
                (Some(0), String::new()),
                "{} {args:?}",
                bank.name
            );
        }
    }
}

#[test]
fn help_has_examples_that_parse() {
    let folder = tempdir().unwrap();
    for words in ["list", "show", "history", "reconcile", "sinks status", "sinks replay"] {
        let help =
            support::run(folder.path(), &[&["audit"][..], &words.split(' ').collect::<Vec<_>>(), &["--help"]].concat());
        let help = text(&help.stdout);
        let examples: Vec<&str> = help.lines().filter(|line| line.starts_with("  cratestack audit ")).collect();
        assert!(!examples.is_empty(), "{help}");
        for example in examples {
            let args: Vec<&str> = example.split_whitespace().skip(1).collect();
            let shown = text(&support::run(folder.path(), &args).stderr);
            assert!(shown.contains("cannot read `bank.cstack`"), "{example}: {shown}");
        }
    }
}

#[test]
fn old_tombstones_are_purged_after_a_dry_run() {
    for bank in Bank::all() {
        bank.sql("UPDATE accounts SET deleted_at = '2015-01-31T10:00:00.000000Z' WHERE id = 1");
        let purge = |more: &[&str]| {
            let mut command = command(bank.folder.path());
            command.args(["purge", "bank.cstack"]).args(more).env("CRATESTACK_DATABASE", &bank.url);
            let output = command.output().unwrap();
            (output.status.code(), steady(&(text(&output.stdout) + &text(&output.stderr))))
        };
        let (code, said) = purge(&["--model", "Account", "--older-than", "7y"]);
        let dry =
            said.starts_with("1 rows of `Account` were deleted before ") && said.ends_with("removes them for good\n");
        assert_eq!((code, dry), (Some(0), true), "{said}");
        let (code, said) = purge(&["--model", "Account", "--older-than", "99y"]);
        assert_eq!((code, said.as_str()), (Some(0), "no row of `Account` was deleted before TIME\n"), "{}", bank.name);
        let (code, said) = purge(&["--model", "Account", "--older-than", "90d", "--confirm"]);
        assert_eq!((code, said.starts_with("removed 1 rows of `Account`")), (Some(0), true), "{said}");
        let newest = bank.entries(&["--limit", "1"]).remove(0);
        assert_eq!(
            (&newest["operation"], &newest["op"], &newest["auth"]),
            (&json!("erase"), &json!("purge"), &json!("system"))
        );
        bank.told("reconcile", &[], 0);
        for (more, part) in [
            (["--model", "Acount", "--older-than", "7y"], "did you mean `Account`?"),
            (["--model", "Desk", "--older-than", "7y"], "`Desk` has no `@@soft_delete`"),
            (["--model", "Account", "--older-than", "7"], "write a number and `y`"),
            (["--model", "Account", "--older-than", "7000y"], "before the year 1"),
        ] {
            let (code, said) = purge(&more);
            assert!(code == Some(2) && said.contains(part), "{code:?} {said}");
        }
    }
}

/// Keys as an operator meets them; and that an erased row does not live on in a stored answer.
#[test]
fn keys_are_listed_shown_and_removed() {
    for bank in Bank::all() {
        let server = bank.serve();
        let bearer = bearer(r#"{"id":"ann","role":"teller"}"#);
        let send = |method: &str, path: &str, key: &str, body: &str| {
            let head = [("Authorization", bearer.as_str()), ("If-Match", "*"), ("Idempotency-Key", key)];
            let head = if method == "POST" { vec![head[0], head[2]] } else { head.to_vec() };
            server.request(method, path, &head, body)
        };
        assert_eq!(send("POST", "/api/accounts", "create", r#"{"id":7,"owner":"Ann"}"#).status, 201);
        assert_eq!(send("POST", "/api/accounts", "other", r#"{"id":8,"owner":"Ann"}"#).status, 201);
        assert_eq!(send("DELETE", "/api/accounts/7", "delete", "").status, 204);
        let run = |args: &[&str]| {
            let mut command = command(bank.folder.path());
            command.arg("idempotency").args(args).env("CRATESTACK_DATABASE", &bank.url);
            let output = command.output().unwrap();
            (output.status.code(), steady(&(text(&output.stdout) + &text(&output.stderr))))
        };
        let (code, said) = run(&["list", "bank.cstack", "--model", "Account", "--limit", "2"]);
        let listed = "TIME  delete  204  DELETE /accounts/{id}  Account 7\n\
                      TIME  other  201  POST /accounts  Account 8\n\
                      there are more; `--limit` shows more than 2\n";
        assert_eq!((code, said.as_str()), (Some(0), listed), "{}", bank.name);
        let (code, said) = run(&["show", "bank.cstack", "create", "--subject", "ann", "--format", "json"]);
        let shown: Value = serde_json::from_str(&said).unwrap();
        assert_eq!((code, &shown["status"], &shown["state"]), (Some(0), &json!(201), &json!("done")));
        assert!(shown["body"].as_str().unwrap().contains("\"owner\":\"Ann\""), "{said}");
        for (args, part) in [
            (
                &["show", "bank.cstack", "create", "--subject", "bob"][..],
                "no request with the key `create` is recorded",
            ),
            (&["show", "bank.cstack", "nope"], "no request with the key `nope` is recorded"),
            (
                &["purge", "bank.cstack", "--key", "create", "--subject", "ann", "--confirm"],
                "was done, with the status 201",
            ),
            (&["purge", "bank.cstack", "--key", "nope", "--subject", "ann"], "no request with the key `nope`"),
            (&["list", "bank.cstack", "--state", "gone"], "invalid value 'gone'"),
        ] {
            let (code, said) = run(args);
            assert!(code == Some(2) && said.contains(part), "{args:?}: {code:?} {said}");
        }
        assert_eq!(run(&["list", "bank.cstack", "--state", "unknown"]), (Some(0), "no key fits\n".to_owned()));
        fs::write(bank.folder.path().join("cratestack.toml"), "idempotency-deployment = \"elsewhere\"\n").unwrap();
        let ann = ["show", "bank.cstack", "create", "--subject", "ann"];
        let (code, said) = run(&ann);
        assert!(code == Some(2) && said.contains("no request with the key"), "the keys of another deployment: {said}");
        assert_eq!(run(&[&ann[..], &["--idempotency-deployment", "bank"]].concat()).0, Some(0));
        fs::remove_file(bank.folder.path().join("cratestack.toml")).unwrap();

        bank.sql("UPDATE accounts SET deleted_at = '2015-01-31T10:00:00.000000Z' WHERE id = 7");
        let mut purge = command(bank.folder.path());
        purge.args(["purge", "bank.cstack", "--model", "Account", "--older-than", "7y", "--confirm"]);
        assert!(purge.env("CRATESTACK_DATABASE", &bank.url).output().unwrap().status.success());
        let again = send("POST", "/api/accounts", "create", r#"{"id":7,"owner":"Ann"}"#);
        assert_eq!(
            (again.status, again.body.as_str()),
            (201, ""),
            "{}: done once, and told without the row",
            bank.name
        );
        assert_eq!(send("POST", "/api/accounts", "other", r#"{"id":8,"owner":"Ann"}"#).body.len(), 63);

        bank.sql("UPDATE cratestack_idempotency SET state = 4, status = NULL, body = NULL WHERE key = 'delete'");
        let free = ["purge", "bank.cstack", "--key", "delete", "--subject", "ann"];
        let (code, said) = run(&free);
        assert!(code == Some(0) && said.contains("`--confirm` frees it"), "{said}");
        let confirmed = [&free[..], &["--confirm"]].concat();
        assert_eq!(run(&confirmed), (Some(0), "the key `delete` is free\n".to_owned()));
        let (code, said) = run(&confirmed);
        assert!(code == Some(2) && said.contains("this caller has no request with the key `delete`"), "{said}");

        bank.sql("UPDATE cratestack_idempotency SET expires_at = '2015-01-31T10:00:00.000000Z' WHERE key = 'other'");
        assert_eq!(run(&["purge", "bank.cstack"]), (Some(0), "1 key had expired, and is gone\n".to_owned()));
        assert!(server.terminate().success());
    }
}

#[test]
fn the_grants_are_printed_as_sql() {
    let folder = tempdir().unwrap();
    fs::write(folder.path().join("bank.cstack"), BANK).unwrap();
    let output = support::run(folder.path(), &["migrate", "grants", "bank.cstack", "--role", "bank_app"]);
    let expected = r#"BEGIN;
DO $cratestack$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'bank_app') THEN EXECUTE format('CREATE ROLE %I LOGIN', 'bank_app'); END IF; END $cratestack$;
REVOKE ALL ON ALL TABLES IN SCHEMA "public" FROM "bank_app";
REVOKE CREATE ON SCHEMA "public" FROM "bank_app";
GRANT USAGE ON SCHEMA "public" TO "bank_app";
GRANT SELECT, INSERT, UPDATE, DELETE ON "public"."accounts", "public"."desks", "public"."frees" TO "bank_app";
GRANT SELECT ON "public"."cratestack_meta" TO "bank_app";
GRANT SELECT, INSERT, UPDATE, DELETE ON "public"."cratestack_idempotency" TO "bank_app";
DO $cratestack$ BEGIN IF to_regclass('"public"."cratestack_rate_limits"') IS NOT NULL THEN GRANT SELECT, INSERT, UPDATE, DELETE ON "public"."cratestack_rate_limits" TO "bank_app"; END IF; END $cratestack$;
DO $cratestack$ BEGIN IF to_regclass('"public"."cratestack_migrations"') IS NOT NULL THEN GRANT SELECT ON "public"."cratestack_migrations" TO "bank_app"; END IF; END $cratestack$;
DO $cratestack$ BEGIN IF to_regclass('"public"."cratestack_migration_steps"') IS NOT NULL THEN GRANT SELECT ON "public"."cratestack_migration_steps" TO "bank_app"; END IF; END $cratestack$;
DO $cratestack$ BEGIN IF to_regclass('"public"."cratestack_migration_lease"') IS NOT NULL THEN GRANT SELECT ON "public"."cratestack_migration_lease" TO "bank_app"; END IF; END $cratestack$;
GRANT SELECT ON "public"."cratestack_audit", "public"."cratestack_audit_events" TO "bank_app";
GRANT SELECT, INSERT, UPDATE, DELETE ON "public"."cratestack_audit_delivery", "public"."cratestack_audit_relay" TO "bank_app";
GRANT EXECUTE ON FUNCTION "public".cratestack_audit_denied(text, text, text, text, text) TO "bank_app";
COMMIT;
"#;
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(0), expected));
}
