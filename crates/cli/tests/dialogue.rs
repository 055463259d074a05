//! What the command does only where somebody or something answers: a person at a terminal, and a PostgreSQL server that
//! does not take the password.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};

use support::{Server, command, run, text};
use tempfile::tempdir;

const NOTES: &str = "model Note {\n  id   Int    @id\n  text String @default(\"\")\n\n  @@allow(\"all\", true)\n}\n";

/// Runs the command at a terminal of its own (util-linux `script`), so that it asks.
#[cfg(target_os = "linux")]
#[test]
fn an_edit_that_loses_data_needs_a_yes() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("notes.cstack");
    fs::write(&file, NOTES).unwrap();
    let line = format!("exec {} dev notes.cstack --addr 127.0.0.1:0", env!("CARGO_BIN_EXE_cratestack"));
    let mut at_terminal = command(folder.path());
    let mut script = std::process::Command::new("script");
    script.args(["--quiet", "--flush", "--return", "--command", &line, "/dev/null"]).current_dir(folder.path());
    for (name, value) in at_terminal.env("NO_COLOR", "1").env("TERM", "dumb").get_envs() {
        match value {
            Some(value) => script.env(name, value),
            None => script.env_remove(name),
        };
    }
    let mut server = Server::spawn(script.stdin(std::process::Stdio::piped()));
    let mut keys = server.child.stdin.take().unwrap();
    server.wait_for("follows; Ctrl-C ends it");
    assert_eq!(server.request("POST", "/api/notes", &[], r#"{"id":1,"text":"one"}"#).status, 201);
    let texts = |server: &Server| server.request("GET", "/api/notes", &[], "").json()["items"][0]["text"].clone();

    let without = NOTES.replace("  text String @default(\"\")\n", "");
    for (answer, edit) in [("n", &without), ("", &format!("{without}// again\n"))] {
        fs::write(&file, edit).unwrap();
        server.wait_for("`text`");
        writeln!(keys, "{answer}").unwrap();
        server.wait_for("the version before it keeps serving");
        assert_eq!(texts(&server), "one", "answered `{answer}`");
    }
    assert!(server.seen.iter().any(|line| line.contains("lose this data? [y/N]")), "{:#?}", server.seen);
    fs::write(&file, format!("{without}// once more\n")).unwrap();
    server.wait_for("`text`");
    writeln!(keys, "y").unwrap();
    server.wait_for("reloaded `notes.cstack`");
    let list = server.request("GET", "/api/notes", &[], "").json();
    assert_eq!(list["items"], serde_json::json!([{"id": 1}]));
    // Ctrl-C, as a terminal sends it.
    keys.write_all(b"\x03").unwrap();
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
}

/// A server that asks for a password and does not take it, however often.
fn refusing() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            refuse(stream.unwrap());
        }
    });
    addr
}

/// PostgreSQL's part of the protocol up to the refusal.
fn refuse(mut stream: TcpStream) {
    const TLS: [u8; 4] = 80_877_103_u32.to_be_bytes();
    loop {
        let first = body(&mut stream);
        if first != TLS {
            break;
        }
        stream.write_all(b"N").unwrap();
    }
    // AuthenticationCleartextPassword.
    stream.write_all(&[b'R', 0, 0, 0, 8, 0, 0, 0, 3]).unwrap();
    let mut kind = [0];
    stream.read_exact(&mut kind).unwrap();
    assert_eq!((kind, body(&mut stream)), ([b'p'], b"secret\0".to_vec()));
    let fields = b"SFATAL\0VFATAL\0C28P01\0Mpassword authentication failed for user \"bank\"\0\0";
    let length = u32::try_from(fields.len() + 4).unwrap();
    stream.write_all(&[&b"E"[..], &length.to_be_bytes(), fields].concat()).unwrap();
}

/// What follows a length that counts itself.
fn body(stream: &mut TcpStream) -> Vec<u8> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let mut body = vec![0; u32::from_be_bytes(length) as usize - 4];
    stream.read_exact(&mut body).unwrap();
    body
}

#[test]
fn a_wrong_password_is_told_with_the_next_step() {
    let folder = tempdir().unwrap();
    fs::write(folder.path().join("notes.cstack"), NOTES).unwrap();
    let url = format!("postgres://bank:secret@{}/bank", refusing());
    let common = ["notes.cstack", "--addr", "127.0.0.1:0", "--database", &url];
    for args in [
        [&["dev"][..], &common].concat(),
        [&["serve"][..], &common, &["--auth", "none"]].concat(),
        [&["serve"][..], &common, &["--auth", "none", "--apply"]].concat(),
    ] {
        let output = run(folder.path(), &args);
        let shown = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {shown}");
        assert!(shown.contains("password authentication failed for user \"bank\""), "{args:?}: {shown}");
        assert!(shown.contains("help: check the user and the password of the URL"), "{args:?}: {shown}");
        assert!(!shown.contains("secret") && !text(&output.stdout).contains("secret"), "{args:?}: {shown}");
    }
}
