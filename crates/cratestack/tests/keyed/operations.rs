//! What is asked for, and how to count what came of it.

use crate::service::Request;

/// A request, with what it needs and what it leaves. In its texts `{t}` is a number that is new for each use, `{u}` and `{v}` are
/// UUIDs made of that, and `{s}` and `{z}` those of accounts that many share.
pub(crate) struct Operation {
    pub(crate) name: &'static str,
    /// Requests that make what it needs. One that changes a row names the version that the one before has answered with.
    pub(crate) before: &'static [Call],
    pub(crate) call: Call,
    pub(crate) status: u16,
    /// SQL that gives 0 before, and the number after.
    pub(crate) effects: (&'static str, i64),
    /// Events in the trail.
    pub(crate) events: i64,
    /// Whose triggers it reaches.
    pub(crate) table: Option<&'static str>,
    /// Whether it is one statement on PostgreSQL.
    pub(crate) statement: bool,
    /// Whether the body of a procedure runs.
    pub(crate) body: bool,
}

/// Method, path and body.
pub(crate) type Call = (&'static str, &'static str, &'static str);

/// Accounts that many share.
pub(crate) const SHARED: u64 = 5;

const ACCOUNT: Call = ("POST", "/accounts", r#"{"id":"{u}","owner":"a{t}"}"#);
const OTHER: Call = ("POST", "/accounts", r#"{"id":"{v}","owner":"b{t}"}"#);
const TICKET: Call = ("POST", "/tickets", r#"{"id":"t{t}","text":"a"}"#);
const SAMPLE: Call = ("POST", "/samples", r#"{"id":{t},"value":0.1,"data":{"b":[1,2.50],"a":null}}"#);
const SEAT: Call = ("POST", "/seats", r#"{"line":{t},"number":7,"guest":"ann"}"#);
const BURY: Call = ("DELETE", "/accounts/{u}", "");
const MOVED: &str = "SELECT CAST((SELECT count(*) FROM entries WHERE text = 't{t}') \
                     + (SELECT 100 - balance FROM accounts WHERE id = '{u}') AS bigint)";

const fn plain(name: &'static str, call: Call, status: u16, effects: &'static str, table: &'static str) -> Operation {
    let table = Some(table);
    Operation { name, before: &[], call, status, effects: (effects, 1), events: 1, table, statement: true, body: false }
}

const fn procedure(name: &'static str, path: &'static str) -> Operation {
    let call = ("POST", path, r#"{"from":"{u}","to":"{v}","amount":10,"text":"t{t}"}"#);
    Operation {
        before: &[ACCOUNT, OTHER],
        effects: (MOVED, 11),
        events: 3,
        statement: false,
        body: true,
        ..plain(name, call, 200, "", "entries")
    }
}

/// All of them.
pub(crate) const OPERATIONS: &[Operation] = &[
    plain(
        "a create whose key the service makes",
        ("POST", "/accounts", r#"{"owner":"t{t}"}"#),
        201,
        "SELECT count(*) FROM accounts WHERE owner = 't{t}'",
        "accounts",
    ),
    plain("a create with a key", TICKET, 201, "SELECT count(*) FROM tickets WHERE id = 't{t}'", "tickets"),
    plain(
        "a create whose key the database makes",
        ("POST", "/entries", r#"{"text":"t{t}"}"#),
        201,
        "SELECT count(*) FROM entries WHERE text = 't{t}'",
        "entries",
    ),
    plain("a create with a key of two fields", SEAT, 201, "SELECT count(*) FROM seats WHERE line = {t}", "seats"),
    Operation {
        before: &[SEAT],
        ..plain(
            "a patch of a row with a key of two fields",
            ("PATCH", "/seats/{t}/7", r#"{"guest":"bob"}"#),
            200,
            "SELECT CAST(version - 1 AS bigint) FROM seats WHERE line = {t}",
            "seats",
        )
    },
    Operation {
        before: &[ACCOUNT],
        ..plain(
            "a patch",
            ("PATCH", "/accounts/{u}", r#"{"owner":"t{t}"}"#),
            200,
            "SELECT CAST(version - 1 AS bigint) FROM accounts WHERE id = '{u}'",
            "accounts",
        )
    },
    Operation {
        before: &[ACCOUNT],
        effects: ("SELECT CAST(version - 1 AS bigint) FROM accounts WHERE id = '{u}'", 0),
        events: 0,
        table: None,
        ..plain("a patch that changes nothing", ("PATCH", "/accounts/{u}", r#"{"owner":"a{t}"}"#), 200, "", "accounts")
    },
    Operation {
        before: &[TICKET],
        ..plain(
            "a deletion for good",
            ("DELETE", "/tickets/t{t}", ""),
            204,
            "SELECT 1 - count(*) FROM tickets WHERE id = 't{t}'",
            "tickets",
        )
    },
    Operation {
        before: &[ACCOUNT],
        ..plain(
            "a deletion that leaves a tombstone",
            BURY,
            204,
            "SELECT CAST(version - 1 AS bigint) FROM accounts WHERE id = '{u}'",
            "accounts",
        )
    },
    Operation {
        before: &[ACCOUNT, BURY],
        ..plain(
            "a restoration",
            ("POST", "/accounts/{u}/restore", ""),
            200,
            "SELECT CAST(version - 2 AS bigint) FROM accounts WHERE id = '{u}'",
            "accounts",
        )
    },
    Operation {
        statement: false,
        ..plain("a create of floats", SAMPLE, 201, "SELECT count(*) FROM samples WHERE id = {t}", "samples")
    },
    Operation {
        before: &[SAMPLE],
        statement: false,
        ..plain(
            "a patch of JSON",
            ("PATCH", "/samples/{t}", r#"{"data":[1e2]}"#),
            200,
            "SELECT CAST(version - 1 AS bigint) FROM samples WHERE id = {t}",
            "samples",
        )
    },
    Operation {
        before: &[TICKET],
        effects: (
            "SELECT count(*) + CAST(sum(version) AS bigint) - 2 FROM tickets WHERE id = 't{t}' OR id LIKE 't{t}-%'",
            5,
        ),
        events: 3,
        statement: false,
        ..plain(
            "a batch",
            (
                "POST",
                "/tickets/batch",
                r#"{"items":[{"op":"create","data":{"id":"t{t}-1","text":"a"}},
                {"op":"update","id":"t{t}","ifMatch":1,"data":{"text":"b"}},
                {"op":"create","data":{"id":"t{t}-2","text":"c"}}]}"#,
            ),
            200,
            "",
            "tickets",
        )
    },
    Operation {
        before: &[TICKET],
        effects: (
            "SELECT count(*) + CAST(sum(version) AS bigint) - 2 FROM tickets WHERE id = 't{t}' OR id LIKE 't{t}-%'",
            3,
        ),
        events: 2,
        statement: false,
        ..plain(
            "a batch of which a part is refused",
            (
                "POST",
                "/tickets/batch",
                r#"{"atomic":false,"items":[{"op":"create","data":{"id":"t{t}-1","text":"a"}},
                {"op":"update","id":"t{t}","ifMatch":9,"data":{"text":"b"}},
                {"op":"create","data":{"id":"t{t}","text":"c"}},
                {"op":"update","id":"t{t}","ifMatch":1,"data":{"text":"c"}}]}"#,
            ),
            207,
            "",
            "tickets",
        )
    },
    procedure("a procedure", "/rpc/transfer"),
    procedure("a procedure with one snapshot", "/rpc/snap"),
    procedure("a serializable procedure", "/rpc/settle"),
    Operation {
        effects: ("SELECT count(*) FROM entries WHERE text = 't{t}'", 0),
        events: 0,
        table: None,
        call: ("POST", "/rpc/transfer", r#"{"from":"{u}","to":"{v}","amount":1000,"text":"t{t}"}"#),
        status: 409,
        ..procedure("a procedure that refuses", "")
    },
];

/// Those that wait for each other, whatever their keys.
pub(crate) const CROWDED: &[Operation] = &[
    Operation {
        before: &[],
        effects: ("SELECT count(*) FROM entries WHERE text = 't{t}'", 1),
        call: ("POST", "/rpc/transfer", r#"{"from":"{s}","to":"{z}","amount":1,"text":"t{t}"}"#),
        ..procedure("a procedure on accounts that many share", "")
    },
    Operation {
        before: &[],
        effects: ("SELECT count(*) FROM entries WHERE text = 't{t}'", 1),
        call: ("POST", "/rpc/settle", r#"{"from":"{s}","to":"{z}","amount":1,"text":"t{t}"}"#),
        ..procedure("a serializable procedure on accounts that many share", "")
    },
];

/// The key of an account.
pub(crate) fn uuid(kind: u64, number: u64) -> String {
    format!("00000000-0000-4000-{:04x}-{number:012}", 0x8000 + kind)
}

/// Fills a text in.
pub(crate) fn filled(text: &str, number: u64) -> String {
    text.replace("{t}", &number.to_string())
        .replace("{u}", &uuid(0, number))
        .replace("{v}", &uuid(1, number))
        .replace("{s}", &uuid(2, number % SHARED))
        .replace("{z}", &uuid(2, (number + 1 + number % (SHARED - 1)) % SHARED))
}

/// The request of a call.
pub(crate) fn request((method, path, body): Call, number: u64, key: &str, version: Option<&str>) -> Request {
    let changes = matches!(method, "PATCH" | "DELETE") || path.ends_with("/restore");
    Request {
        method,
        path: format!("/api{}", filled(path, number)),
        body: filled(body, number),
        key: key.to_owned(),
        version: version.filter(|_| changes).map(str::to_owned),
    }
}
