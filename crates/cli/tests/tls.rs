//! `serve` with certificates, and `crypto status`.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

#[path = "../../cratestack/tests/support/certificates.rs"]
mod certificates;
mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use certificates::{Authority, Issued, Leaf, Valid, write};
use support::{Server, command, run, text};
use tempfile::{TempDir, tempdir};

const NOTES: &str = r#"
auth Caller { id String @id  level Int }
model Note {
  id Int @id
  by String @default(auth().id)
  @@allow("create", auth() != null)
  @@allow("read", auth() != null)
}
"#;

const CLIENTS: &str = "[clients.\"uri:spiffe://bank.example/payments\"]\nid = \"payments\"\nlevel = 3\n";

/// A folder with a schema, certificates and clients.
fn house() -> (TempDir, Authority) {
    let (folder, authority) = (tempdir().unwrap(), Authority::new("CA"));
    let path = folder.path();
    write(path, "notes.cstack", NOTES);
    write(path, "open.cstack", "model Note { id Int @id  @@allow(\"all\", true) }");
    write(path, "ca.pem", &authority.pem());
    show(path, "server", &authority.issue(&Leaf::server()));
    show(path, "client", &authority.issue(&Leaf::client()));
    write(path, "clients.toml", CLIENTS);
    (folder, authority)
}

fn show(folder: &Path, name: &str, issued: &Issued) {
    write(folder, &format!("{name}.pem"), &issued.certificate);
    write(folder, &format!("{name}.key"), &issued.key);
}

const SERVE: [&str; 6] = ["serve", "notes.cstack", "--addr", "127.0.0.1:0", "--database", "sqlite::memory:"];
const KEYS: [&str; 4] = ["--tls-cert", "server.pem", "--tls-key", "server.key"];
const MTLS: [&str; 6] = ["--auth", "mtls", "--tls-client-ca", "ca.pem", "--mtls-clients", "clients.toml"];

/// What curl says: the status, 000 where there was no answer, and the body.
fn curl(folder: &Path, server: &Server, own: Option<&str>, path: &str, more: &[&str]) -> (String, String) {
    let mut curl = Command::new("curl");
    curl.args(["-s", "-w", "\n%{http_code}", "--cacert", "ca.pem"]).args(more).current_dir(folder);
    if let Some(own) = own {
        curl.args(["--cert", &format!("{own}.pem"), "--key", &format!("{own}.key")]);
    }
    let output = curl.arg(format!("https://localhost:{}{path}", server.address.port())).output().unwrap();
    let shown = text(&output.stdout);
    let (body, status) = shown.rsplit_once('\n').unwrap();
    (status.to_owned(), body.to_owned())
}

const POST: [&str; 2] = ["-H", "content-type: application/json"];

fn hang_up(server: &Server) {
    let kill = format!("kill -HUP {}", server.child.id());
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
}

#[test]
fn callers_are_known_by_their_certificates_until_they_are_not() {
    let (folder, authority) = house();
    let path = folder.path();
    let mut server = Server::start(path, &[&SERVE[..], &KEYS, &MTLS].concat());
    let post = |id: i32| [POST[0].to_owned(), POST[1].to_owned(), "-d".to_owned(), format!("{{\"id\":{id}}}")];
    let create = |server: &Server, own, id| {
        let more = post(id);
        curl(path, server, own, "/api/notes", &more.each_ref().map(String::as_str))
    };
    let made = create(&server, Some("client"), 1);
    assert_eq!(made, ("201".to_owned(), r#"{"id":1,"by":"payments"}"#.to_owned()));
    assert_eq!(curl(path, &server, None, "/readyz", &[]).0, "000", "nobody comes in without a certificate");
    show(path, "expired", &authority.issue(&Leaf { valid: Valid::Expired, ..Leaf::client() }));
    assert_eq!(create(&server, Some("expired"), 2).0, "000");
    show(path, "other", &authority.issue(&Leaf { uri: Some("spiffe://bank.example/cards"), ..Leaf::client() }));
    assert_eq!(create(&server, Some("other"), 2).0, "401", "a valid certificate of nobody who is known");

    // What is wrong changes nothing, and is told.
    write(path, "clients.toml", "[clients.\"uri:spiffe://bank.example/cards\"]\nid = 7\n");
    hang_up(&server);
    server.wait_for("`uri:spiffe://bank.example/cards` does not fit the auth block");
    server.wait_for("the certificates stay as they were");
    assert_eq!(create(&server, Some("client"), 3).0, "201");

    write(path, "clients.toml", &CLIENTS.replace("/payments", "/cards").replace("\"payments\"", "\"cards\""));
    hang_up(&server);
    server.wait_for("the certificates were read again");
    assert_eq!(create(&server, Some("client"), 4).0, "401", "removed from the list");
    assert_eq!(create(&server, Some("other"), 5).1, r#"{"id":5,"by":"cards"}"#);

    write(path, "ca.pem", &Authority::new("CA").pem());
    hang_up(&server);
    server.wait_for("the certificates were read again");
    write(path, "ca.pem", &authority.pem());
    assert_eq!(create(&server, Some("other"), 6).0, "000", "the authority is gone");
    let status = server.terminate();
    assert!(status.success());
}

#[test]
fn a_certificate_is_known_by_any_of_its_names_but_by_one() {
    let (folder, authority) = house();
    let path = folder.path();
    let issued = authority.issue(&Leaf { hosts: &["Pay.bank.example"], ..Leaf::client() });
    show(path, "client", &issued);
    let output = Command::new("openssl")
        .args(["x509", "-in", "client.pem", "-noout", "-fingerprint", "-sha256"])
        .current_dir(path)
        .output()
        .unwrap();
    let shown = text(&output.stdout);
    let sha256 = format!("sha256:{}", shown.trim().rsplit_once('=').unwrap().1);
    let claims = |key: &str| format!("[clients.\"{key}\"]\nid = \"x\"\nlevel = 1\n");
    write(path, "clients.toml", &claims("cn:nobody"));
    let mut server = Server::start(path, &[&SERVE[..], &KEYS, &MTLS].concat());
    for (clients, expected) in [
        (claims("dns:pay.BANK.example"), "200"),
        (claims("cn:payments"), "401"),
        (claims(&sha256), "200"),
        (claims("uri:spiffe://bank.example/payments"), "200"),
        (claims("uri:spiffe://bank.example/Payments"), "401"),
        (claims("dns:pay.bank.example") + &claims(&sha256), "401"),
    ] {
        write(path, "clients.toml", &clients);
        hang_up(&server);
        server.wait_for("the certificates were read again");
        assert_eq!(curl(path, &server, Some("client"), "/api/notes", &[]).0, expected, "{clients}");
    }
}

#[test]
fn settings_that_do_not_go_together() {
    let (folder, _) = house();
    let path = folder.path();
    let refuse = |more: &[&str], part: &str| {
        let output = run(path, &[&SERVE[..], more].concat());
        let shown = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{more:?}: {shown}");
        assert!(shown.contains(part) && shown.contains("help:"), "{more:?}: {shown}");
    };
    let with = |more: &[&'static str]| [&KEYS[..], more].concat();
    refuse(&["--tls-cert", "server.pem"], "`--tls-cert` is set, and `tls-key` is not");
    refuse(&["--tls-key", "server.key"], "`--tls-key` is set, and `tls-cert` is not");
    refuse(&["--tls-client-ca", "ca.pem"], "`--tls-client-ca` is set, and `tls-cert` is not");
    refuse(&with(&["--tls-client-crl", "ca.pem"]), "`--tls-client-crl` is set, and `tls-client-ca` is not");
    refuse(&with(&["--tls-client-auth", "optional"]), "`--tls-client-auth` is set, and `tls-client-ca` is not");
    refuse(
        &with(&["--tls-client-ca", "ca.pem", "--tls-client-auth", "maybe"]),
        "`--tls-client-auth` is not one of the words that it can be",
    );
    refuse(&with(&["--auth", "mtls"]), "`--auth mtls` needs to know whose certificate is whose");
    refuse(&with(&["--auth", "mtls", "--mtls-clients", "clients.toml"]), "and `tls-client-ca` is not");
    let dev = ["--auth", "dev", "--allow-dev-auth", "--tls-client-ca", "ca.pem", "--mtls-clients", "clients.toml"];
    refuse(&with(&dev), "callers are not known by it");
    refuse(&["--tls-cert", "no.pem", "--tls-key", "server.key"], "cannot be read from `no.pem`");
    refuse(
        &["--tls-cert", "server.pem", "--tls-key", "client.key"],
        "the key `client.key` is not that of the certificate `server.pem`",
    );
    let key = "-----BEGIN PRIVATE KEY-----\\nMIGHAgEAMBMG";
    let output = run(path, &[&SERVE[..], &["--tls-cert", "server.pem", "--tls-key", key]].concat());
    let shown = text(&output.stderr);
    assert!(shown.contains("`--tls-key` is not the path of a file") && !shown.contains("MIGH"), "{shown}");
    refuse(
        &["--tls-cert", "server.pem", "--tls-key", "MIGHAgEAMBMG"],
        "the private key cannot be read: entity not found",
    );
    let optional = ["--tls-client-ca", "ca.pem", "--tls-client-auth", "optional", "--auth", "dev", "--allow-dev-auth"];
    refuse(&with(&optional), "`--tls-client-auth` is `optional`, and callers are not known by it");
    refuse(&["--tls-cert", "", "--tls-key", "server.key"], "`--tls-cert` is not to be empty");
    for (clients, part) in [
        ("", "there is no table `clients`"),
        ("clients = 1", "there is no table `clients`"),
        ("[clients]\n[client.a]", "nobody reads the key `client`"),
        ("[clients.payments]\nid = \"a\"", "`payments` is not a name of a client: it has no kind"),
        ("[clients.\"uri:\"]\nid = \"a\"", "`uri:` is not a name of a client: it has no kind"),
        ("[clients.\"sha256:00\"]\nid = \"a\"", "a SHA-256 has 64 hexadecimal digits"),
        ("[clients]\n\"cn:a\" = 3", "`cn:a` has no claims"),
        ("[clients.\"cn:a\"]\nid = \"a\"\nlevel = nan", "`cn:a` has no claims"),
        ("[clients.\"cn:a\"]\nid = \"a\"", "`cn:a` does not fit the auth block"),
        ("[clients.\"dns:a\"]\nid = \"a\"\nlevel = 1\n[clients.\"dns:A\"]\nid = \"b\"\nlevel = 1", "is there twice"),
        ("[clients.\n", "line 1 is not valid TOML"),
        ("[clients.\"dns:*.a\"]\nid = \"a\"\nlevel = 1", "without wildcards"),
        ("[clients.\"DNS:a\"]\nid = \"a\"\nlevel = 1", "in small letters"),
        ("[clients.\"cn:a\"]\nid = \"a\"\nlevel = 1\nlevl = 2", "did you mean `level`?"),
    ] {
        write(path, "clients.toml", clients);
        refuse(&with(&MTLS), part);
    }
    fs::remove_file(path.join("clients.toml")).unwrap();
    refuse(&with(&MTLS), "cannot be read: no such file or directory");
    let open = ["serve", "open.cstack", "--database", "sqlite::memory:"];
    let output = run(path, &[&open[..], &KEYS, &MTLS].concat());
    assert_eq!(output.status.code(), Some(2));
    let clients = text(&output.stderr);
    assert!(clients.contains("cannot be read") || clients.contains("without an auth block"), "{clients}");
}

/// A name that no constraint of an authority binds counts where there is no other.
#[test]
fn a_common_name_is_for_certificates_without_others() {
    let (folder, authority) = house();
    let path = folder.path();
    show(path, "client", &authority.issue(&Leaf { uri: None, ..Leaf::client() }));
    show(path, "other", &authority.issue(&Leaf::client()));
    write(path, "clients.toml", "[clients.\"cn:payments\"]\nid = \"x\"\nlevel = 1\n");
    let mut server = Server::start(path, &[&SERVE[..], &KEYS, &MTLS].concat());
    assert_eq!(curl(path, &server, Some("client"), "/api/notes", &[]).0, "200");
    assert_eq!(curl(path, &server, Some("other"), "/api/notes", &[]).0, "401");
    server.wait_for("a certificate belongs to no client");

    // What is read again is read as a whole.
    write(path, "clients.toml", CLIENTS);
    write(path, "server.pem", "broken");
    hang_up(&server);
    server.wait_for("the certificates stay as they were");
    assert_eq!(curl(path, &server, Some("client"), "/api/notes", &[]).0, "200");
    assert_eq!(curl(path, &server, Some("other"), "/api/notes", &[]).0, "401");
    write(path, "cratestack.toml", "list-max = 7\n");
    server.stop();
}

/// Settings are read at the start. Whoever changes them and sends a SIGHUP is told.
#[test]
fn a_change_of_the_settings_is_not_taken_for_read() {
    let (folder, _) = house();
    let path = folder.path();
    let settings =
        "tls-cert = \"server.pem\"\ntls-key = \"server.key\"\nauth = \"none\"\nlog-format = \"json\"\nlog = \"info\"\n";
    write(path, "cratestack.toml", settings);
    let serve = ["serve", "open.cstack", "--addr", "127.0.0.1:0", "--database", "sqlite::memory:"];
    let mut server = Server::start(path, &serve);
    write(path, "cratestack.toml", &format!("{settings}tls-client-ca = \"ca.pem\"\n"));
    hang_up(&server);
    let read = server.wait_for("the certificates were read again");
    assert!(read.starts_with('{'), "{read}");
    server.wait_for("settings are read at the start alone");
}

/// A file is named by the variable of the setting, and by that of its secrets.
#[test]
fn variables_name_files() {
    let (folder, _) = house();
    let path = folder.path();
    let serve = ["serve", "open.cstack", "--addr", "127.0.0.1:0", "--database", "sqlite::memory:", "--auth", "none"];
    let mut start = command(path);
    start.args(serve).env("CRATESTACK_TLS_CERT", "server.pem").env("CRATESTACK_TLS_KEY_FILE", "server.key");
    let server = Server::spawn(&mut start);
    assert!(server.seen.iter().any(|line| line.starts_with("listening on https://127.0.0.1:")), "{:?}", server.seen);
    assert_eq!(curl(path, &server, None, "/livez", &[]).0, "200");
    server.stop();
    let both = start.env("CRATESTACK_TLS_KEY", "server.key").output().unwrap();
    assert!(text(&both.stderr).contains("`CRATESTACK_TLS_KEY` and `CRATESTACK_TLS_KEY_FILE` are both set"), "{both:?}");
}

/// The workspace `fips/` has its own of this.
#[cfg(not(feature = "crypto-aws-lc-rs"))]
#[test]
fn the_program_says_what_its_crypto_is() {
    let (folder, _) = house();
    let shown = text(&run(folder.path(), &["crypto", "status"]).stdout);
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(lines[..2], ["provider  aws-lc-rs", "mode      standard"]);
    assert!(lines[2].starts_with("module    AWS-LC ") && lines[2].ends_with(", no FIPS module"), "{shown}");
    let json = text(&run(folder.path(), &["crypto", "status", "--json"]).stdout);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["mode"], &json["validated"]), (&"standard".into(), &false.into()));

    let output = run(folder.path(), &[&SERVE[..], &["--require-fips", "--auth", "none"]].concat());
    let shown = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{shown}");
    assert!(shown.contains("this build has no FIPS module\n  help: build the workspace `fips/`"), "{shown}");
}
