//! Where statements end, and what of them counts.

use super::super::split::{Effect, sections};
use super::*;

fn statements(text: &str, dialect: Dialect) -> Vec<String> {
    let sections = sections(text, dialect).unwrap();
    sections.into_iter().flat_map(|section| section.statements).map(|statement| statement.sql).collect()
}

fn normal(text: &str) -> Vec<String> {
    let sections = sections(text, Dialect::Postgres).unwrap();
    sections.into_iter().flat_map(|section| section.statements).map(|statement| statement.normal).collect()
}

fn refused(text: &str, dialect: Dialect) -> (usize, String) {
    let fault = sections(text, dialect).unwrap_err();
    assert!(!fault.help.is_empty());
    (fault.line, fault.message)
}

#[test]
fn a_semicolon_ends_a_statement_unless_something_hides_it() {
    let both = [
        ("SELECT 1; SELECT 2;", 2),
        ("SELECT 1;;;\n-- nothing\n/* no more */", 1),
        ("SELECT ';', 'it''s;'; SELECT \"a;b\"", 2),
        ("SELECT 1 -- one; two\n; SELECT /* ; */ 2", 2),
        ("SELECT 'a -- b'; SELECT 2", 2),
        ("", 0),
        ("-- only a comment", 0),
    ];
    for (text, count) in both {
        for dialect in [Dialect::Postgres, Dialect::Sqlite] {
            assert_eq!(statements(text, dialect).len(), count, "{text}");
        }
    }
    let postgres = [
        ("DO $$ BEGIN PERFORM 1; END $$; SELECT 2", 2),
        ("DO $a$ SELECT $b$;$b$; $$;$$ $a$; SELECT 2", 2),
        ("SELECT E'it\\'s; so'; SELECT 2", 2),
        ("SELECT e'a''b;' ; SELECT 2", 2),
        ("/* a /* b; */ c; */ SELECT 1", 1),
        ("SELECT a$b$c; SELECT 2", 2),
        ("CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT CASE WHEN true THEN 1 END; END; SELECT 2", 2),
        ("SELECT $1; SELECT 2", 2),
        ("SELECT a[1]; SELECT 2", 2),
        (
            "CREATE FUNCTION f(begin int) RETURNS int LANGUAGE sql AS $$ SELECT 1 $$; CREATE TABLE a (x int); SELECT 1",
            3,
        ),
        ("CREATE RULE r AS ON INSERT TO a DO ALSO (INSERT INTO b VALUES (1); INSERT INTO b VALUES (2)); SELECT 2", 2),
        ("SELECT E'a'\n  'b\\'; c'; SELECT 2", 2),
        ("SELECT U&'d\\0061;', X'00', U&\"a;b\" FROM c; SELECT 2", 2),
        ("SELECT \u{1F600}$$; SELECT 2", 2),
        ("DO $\u{1F600}$ ; $\u{1F600}$; SELECT 2", 2),
    ];
    for (text, count) in postgres {
        assert_eq!(statements(text, Dialect::Postgres).len(), count, "{text}");
    }
    let sqlite = [
        ("CREATE TRIGGER t AFTER INSERT ON a BEGIN SELECT 1; SELECT CASE WHEN 1 THEN 2 END; END; SELECT 2", 2),
        ("CREATE TEMP TRIGGER t AFTER INSERT ON a BEGIN SELECT 1; END", 1),
        ("SELECT `a;b`, [c;d]; SELECT 2", 2),
        (
            "CREATE TRIGGER t AFTER UPDATE ON r WHEN new.begin > 1 BEGIN UPDATE r SET end = 1; SELECT end FROM r; END; SELECT 2",
            2,
        ),
        ("/* a /* b; */ SELECT 1; SELECT 2", 2),
    ];
    for (text, count) in sqlite {
        assert_eq!(statements(text, Dialect::Sqlite).len(), count, "{text}");
    }
}

#[test]
fn comments_spaces_and_the_case_of_words_do_not_count() {
    let plain = normal("CREATE TABLE a (id integer, \"B\" text DEFAULT 'X y');");
    assert_eq!(plain, ["create table a ( id integer , \"B\" text default 'X y' )"]);
    let same =
        "\u{feff}-- made by hand\r\ncreate  table A(\r\n  ID integer, -- the key\r\n \"B\" text/**/default 'X y' )";
    assert_eq!(normal(same), plain);
    for other in [
        "CREATE TABLE a (id integer, \"b\" text DEFAULT 'X y')",
        "CREATE TABLE a (id integer, \"B\" text DEFAULT 'X  y')",
        "CREATE TABLE a (id integer, \"B\" text DEFAULT 'X -- y')",
        "CREATE TABLE a (id integer, \"B\" text)",
    ] {
        assert_ne!(normal(other), plain, "{other}");
    }
    // Signs that mean something together stay together.
    assert_ne!(normal("SELECT a <= b"), normal("SELECT a < = b"));
    assert_eq!(normal("SELECT a<=b"), normal("SELECT a <= b"));
    assert_eq!(normal("SELECT a-- b\n-1"), normal("SELECT a - 1"));
    assert_ne!(normal("SELECT U&'\\0041'"), normal("SELECT U & '\\0041'"));
    assert_ne!(normal("SELECT x'41'"), normal("SELECT x '41'"));
    // To PostgreSQL this is a letter.
    assert_ne!(normal("CREATE TABLE a (b\u{a0}int int)"), normal("CREATE TABLE a (b int int)"));
}

#[test]
fn what_does_not_end_is_said_with_its_line() {
    let cases = [
        ("SELECT 1;\nSELECT 'a", 2, "a text in quotes begins here and does not end"),
        ("SELECT \"a", 1, "a name in quotes begins here and does not end"),
        ("\n\n/* a", 3, "a comment begins here and does not end"),
        ("SELECT (1;\nSELECT 2", 1, "a parenthesis of the statement that begins here does not end"),
        ("SELECT 1;\n-- a\rDROP TABLE b", 2, "there is a carriage return without a line feed"),
        ("SELECT 1\0", 1, "there is a NUL"),
        ("DO $x$ a $$", 1, "a dollar quote begins here and does not end"),
        ("SELECT E'a\\'", 1, "a text in quotes begins here and does not end"),
        (
            "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1;",
            1,
            "a body begins with `BEGIN` here and does not end",
        ),
    ];
    for (text, line, message) in cases {
        assert_eq!(refused(text, Dialect::Postgres), (line, message.to_owned()), "{text}");
    }
}

#[test]
fn what_is_not_for_a_migration_is_said() {
    let cases = [
        ("BEGIN; SELECT 1", "`BEGIN` ends or begins a transaction"),
        ("SELECT 1;\nCOMMIT", "`COMMIT` ends or begins a transaction"),
        ("START TRANSACTION", "`START` ends or begins a transaction"),
        ("\\set x 1\nSELECT 1", "a command of `psql` is no SQL"),
        ("SELECT 1\n\\gexec", "a command of `psql` is no SQL"),
        ("COPY a FROM STDIN;", "`COPY` has nobody to read from or to write to here"),
        ("CREATE INDEX CONCURRENTLY a ON b (c)", "this statement cannot be run in a transaction"),
        ("VACUUM a", "this statement cannot be run in a transaction"),
        (
            "-- cratestack: no-transaction\nUPDATE a SET b = 1",
            "nobody can tell whether this statement has been done, should it be interrupted",
        ),
        (
            "-- cratestack: no-transaction\nCREATE INDEX CONCURRENTLY ON b (c)",
            "nobody can tell whether this statement has been done, should it be interrupted",
        ),
        ("SELECT 1;\n-- cratestack: no-transaction\nVACUUM", "this comes after the first statement of its step"),
        (
            "-- cratestack: no-transactions\nVACUUM",
            "`no-transactions` is nothing that the runner knows; did you mean `no-transaction`?",
        ),
        ("-- cratestack: no-transaction please\nVACUUM", "`no-transaction` takes nothing: `please`"),
        ("-- cratestack: done-when\nVACUUM", "`done-when` needs a query"),
        ("-- cratestack: done-when SELECT true\nSELECT 1", "`done-when` is for one statement outside of a transaction"),
        ("-- cratestack: no-transaction", "the step has no statements"),
        ("SELECT 1;\n-- cratestack: step", "the step has no statements"),
        ("-- cratestack: step one\n-- cratestack: step two\nSELECT 1", "the step `one` has no statements"),
        ("SELECT 1 -- cratestack: step\n, 2", "`-- cratestack: step` stands in a statement"),
    ];
    for (text, message) in cases {
        assert_eq!(refused(text, Dialect::Postgres).1, message, "{text}");
    }
    assert_eq!(
        refused("PRAGMA foreign_keys = OFF", Dialect::Sqlite).1,
        "`PRAGMA foreign_keys` would do nothing: settings end with the step, and nobody reads rows"
    );
}

#[test]
fn a_comment_that_was_meant_for_the_runner_is_no_mere_comment() {
    for comment in [
        "-- Cratestack: step",
        "-- cratestack step",
        "--cratestak: step",
        "/* cratestack: step */",
        "-- cratestack no-transactions",
    ] {
        let (_, message) = refused(&format!("SELECT 1;\n{comment}\nSELECT 2"), Dialect::Sqlite);
        assert_eq!(message, format!("`{comment}` is a comment, and looks as if it was for the runner"));
    }
    for comment in ["-- cratestack makes these tables", "-- crates: 5", "-- a step", "-- cratestack_audit is its trail"]
    {
        assert_eq!(statements(&format!("SELECT 1;\n{comment}\nSELECT 2"), Dialect::Sqlite).len(), 2, "{comment}");
    }
}

#[test]
fn effects_outside_of_transactions_are_known_by_their_first_words() {
    let effect = |text: &str| {
        sections(&format!("-- cratestack: no-transaction\n{text}"), Dialect::Postgres).unwrap()[0].statements[0]
            .effect()
    };
    let named = |text: &str| format!("\"{text}\"");
    assert_eq!(
        effect("CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS By_Text ON ONLY app.notes USING btree (text)"),
        Effect::Index { name: named("by_text"), table: "\"app\".\"notes\"".into(), if_not_exists: true }
    );
    assert_eq!(
        effect("CREATE INDEX CONCURRENTLY \"By Text\" ON \"Notes\" (text)"),
        Effect::Index { name: named("By Text"), table: named("Notes"), if_not_exists: false }
    );
    assert_eq!(
        effect("DROP INDEX CONCURRENTLY IF EXISTS a.b"),
        Effect::NoIndex { name: "\"a\".\"b\"".into(), if_exists: true }
    );
    assert_eq!(effect("REINDEX INDEX CONCURRENTLY a"), Effect::Reindex { name: named("a") });
    assert_eq!(
        effect("ALTER TABLE IF EXISTS ONLY a VALIDATE CONSTRAINT b"),
        Effect::Valid { table: named("a"), constraint: named("b") }
    );
    assert_eq!(
        effect("ALTER TYPE mood ADD VALUE IF NOT EXISTS 'sad'"),
        Effect::Value { of: named("mood"), value: "sad".into() }
    );
    assert_eq!(effect("VACUUM (ANALYZE) a"), Effect::Repeatable);
}

#[test]
fn what_sqlite_would_lose_without_a_transaction_is_refused() {
    let text = "-- cratestack: no-transaction\n-- cratestack: done-when SELECT 1\nDROP TABLE a";
    let (_, message) = refused(text, Dialect::Sqlite);
    assert_eq!(message, "a table that is dropped outside of a transaction takes the rows that refer to it along");
    for pragma in ["PRAGMA main.foreign_keys = OFF", "PRAGMA ignore_check_constraints = ON", "PRAGMA integrity_check"] {
        assert!(
            refused(pragma, Dialect::Sqlite).1.contains("would do nothing: settings end with the step"),
            "{pragma}"
        );
    }
    assert_eq!(statements("PRAGMA user_version = 3; PRAGMA main.user_version = 4", Dialect::Sqlite).len(), 2);
}

#[test]
fn a_checksum_is_one_of_id_description_and_statements() {
    let sum = |id: &'static str, description: &'static str, sql: &'static str| {
        Migration::new(id, description, sql).checksum(Dialect::Postgres).unwrap()
    };
    let one = sum("1", "a", "SELECT 1; SELECT 2");
    assert_eq!(one, sum("1", "a", "-- new\nselect 1;\n\nselect 2;"));
    assert_eq!(one.len(), 64);
    for other in [
        sum("2", "a", "SELECT 1; SELECT 2"),
        sum("1", "b", "SELECT 1; SELECT 2"),
        sum("1", "a", "SELECT 1; SELECT 3"),
        sum("1", "a", "SELECT 1"),
        sum("1", "a", "SELECT 1;\n-- cratestack: step\nSELECT 2"),
    ] {
        assert_ne!(one, other);
    }
}
