//! The parser alone: what is accepted, what is recovered from, and what bounds it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use cratestack_schema::ast::{Block, ExprKind, Member, Tree};
use cratestack_schema::diag::Code;
use cratestack_schema::parse::{Limits, parse, parse_expression};

fn codes(text: &str) -> Vec<&'static str> {
    parse(0, text).found.iter().map(|one| one.code.id()).collect()
}

/// Field names per record, to see what recovery kept.
fn shape(tree: &Tree) -> Vec<(String, Vec<String>)> {
    let member = |member: &Member| match member {
        Member::Field(field) => field.name.name.clone(),
        Member::Use(attribute) => format!("@{}", attribute.name.name),
        Member::Attribute(attribute) => format!("@@{}", attribute.name.name),
    };
    let block = |block: &Block| {
        let inside = match block {
            Block::Record(record) => record.members.iter().map(member).collect(),
            Block::Enum(block) => block.variants.iter().map(|one| one.name.name.clone()).collect(),
            Block::Datasource(block) => block.settings.iter().map(|one| one.name.name.clone()).collect(),
            Block::Procedure(block) => block.attributes.iter().map(|one| one.name.name.clone()).collect(),
        };
        (block.name().name.clone(), inside)
    };
    tree.blocks.iter().map(block).collect()
}

/// An expression with every node in parentheses.
fn grouped(kind: &ExprKind) -> String {
    use cratestack_schema::ast::{BinaryOp, LogicalOp, UnaryOp};
    let all = |items: &[cratestack_schema::ast::Expr], between: &str| {
        items.iter().map(|item| grouped(&item.kind)).collect::<Vec<_>>().join(between)
    };
    match kind {
        ExprKind::Null => "null".to_owned(),
        ExprKind::Bool(value) => value.to_string(),
        ExprKind::Number(text) => text.clone(),
        ExprKind::String(text) => format!("{text:?}"),
        ExprKind::Path(names) => names.iter().map(|name| name.name.as_str()).collect::<Vec<_>>().join("."),
        ExprKind::List(items) => format!("[{}]", all(items, ", ")),
        ExprKind::Call { name, args } => format!("{}({})", name.name, all(args, ", ")),
        ExprKind::Select { base, name } => format!("{}.{}", grouped(&base.kind), name.name),
        ExprKind::Method { base, name, args } => {
            format!("{}.{}({})", grouped(&base.kind), name.name, all(args, ", "))
        }
        ExprKind::Unary { op, operand, .. } => {
            format!("({}{})", if *op == UnaryOp::Not { "!" } else { "-" }, grouped(&operand.kind))
        }
        ExprKind::Logical { op, operands } => {
            format!("({})", all(operands, if *op == LogicalOp::And { " && " } else { " || " }))
        }
        ExprKind::Binary { op, left, right, .. } => {
            let op = match op {
                BinaryOp::Eq => "==",
                BinaryOp::Ne => "!=",
                BinaryOp::Lt => "<",
                BinaryOp::Le => "<=",
                BinaryOp::Gt => ">",
                BinaryOp::Ge => ">=",
                BinaryOp::Add => "+",
                BinaryOp::Sub => "-",
                BinaryOp::Mul => "*",
            };
            format!("({} {op} {})", grouped(&left.kind), grouped(&right.kind))
        }
        ExprKind::In { negated, value, list, .. } => {
            format!("({}{} {})", grouped(&value.kind), if *negated { " not in" } else { " in" }, grouped(&list.kind))
        }
    }
}

#[test]
fn the_example_of_the_contract_parses() {
    let parsed = parse(0, include_str!("schemas/contract.cstack"));
    assert_eq!(parsed.found, []);
    insta::assert_debug_snapshot!(shape(&parsed.tree));
}

#[test]
fn precedence_is_that_of_rust() {
    for (text, expected) in [
        ("a + b * c - d", "((a + (b * c)) - d)"),
        ("!a && b || c && d", "(((!a) && b) || (c && d))"),
        ("a == b && c != d", "((a == b) && (c != d))"),
        ("a - b + c >= 0", "(((a - b) + c) >= 0)"),
        ("a && b && c || d || e", "((a && b && c) || d || e)"),
        ("a && (b && c)", "(a && (b && c))"),
        ("(a == b) == c", "((a == b) == c)"),
        ("-a * -1.50", "((-a) * -1.50)"),
        ("- 1", "-1"),
        ("x not in [a, 1, \"s\",]", "(x not in [a, 1, \"s\"])"),
        ("auth().role in [teller] && x in auth().tags", "((auth().role in [teller]) && (x in auth().tags))"),
        (
            "entries.some(amount > 0 && memo.startsWith(\"x\"))",
            "entries.some(((amount > 0) && memo.startsWith(\"x\")))",
        ),
        ("customer.country.length() < 3", "(customer.country.length() < 3)"),
        ("auth().hasRole(\"x\")", "auth().hasRole(\"x\")"),
        ("changed(f) || old.f == new.f", "(changed(f) || (old.f == new.f))"),
        ("a\n== // why\nb", "(a == b)"),
        (
            "in in [not, in] && not not in [in] || not == in",
            "(((in in [not, in]) && (not not in [in])) || (not == in))",
        ),
        ("\"\\u{1F4B6}\\n\\\"\" == x", "(\"💶\\n\\\"\" == x)"),
    ] {
        let parsed = parse_expression(text, Limits::default());
        assert_eq!(parsed.map(|expr| grouped(&expr.kind)), Ok(expected.to_owned()), "{text}");
    }
}

#[test]
fn a_text_that_is_not_one_expression_is_refused() {
    for (text, code) in [
        ("", Code::UnexpectedToken),
        ("a b", Code::UnexpectedToken),
        ("a ==", Code::UnexpectedToken),
        ("(a", Code::UnclosedBracket),
        ("a)", Code::UnexpectedToken),
        ("a < b < c", Code::ChainedComparison),
        ("a == b in [c]", Code::ChainedComparison),
        ("a and b", Code::ForeignOperator),
        ("a / b", Code::ForeignOperator),
        ("a = b", Code::ForeignOperator),
        ("not a", Code::ForeignOperator),
        ("a; drop table x", Code::UnexpectedCharacter),
        ("'a'", Code::UnexpectedCharacter),
        ("\"a", Code::UnterminatedString),
        ("\"\\x\"", Code::BadEscape),
        ("\"\\u{0}\"", Code::BadEscape),
        ("\"\\u{110000}\"", Code::BadEscape),
        ("1e5", Code::BadNumber),
        ("007", Code::BadNumber),
        ("\u{0}", Code::ControlCharacter),
        ("a in", Code::UnexpectedToken),
        ("a.", Code::UnexpectedToken),
        ("(a, b)", Code::UnexpectedToken),
    ] {
        let parsed = parse_expression(text, Limits::default());
        assert_eq!(parsed.map_err(|found| found.code), Err(code), "{text:?}");
    }
}

#[test]
fn depth_and_size_are_bounded_whatever_the_shape() {
    const MANY: usize = 10_000;
    let deep = [
        format!("{}a{}", "(".repeat(MANY), ")".repeat(MANY)),
        format!("{}a{}", "[".repeat(MANY), "]".repeat(MANY)),
        format!("{}a", "!".repeat(MANY)),
        format!("{}a", "- ".repeat(MANY)),
        format!("a{}", " + a".repeat(MANY)),
        format!("a{}", ".f(1)".repeat(MANY)),
        format!("f(){}", ".x".repeat(MANY)),
        format!("{}a{}", "f(".repeat(MANY), ")".repeat(MANY)),
        format!("{}a{}", "a.some(".repeat(MANY), ")".repeat(MANY)),
        format!("{}a{}", "a || a && a == a + a * (".repeat(MANY), ")".repeat(MANY)),
        format!("{}a{}", "a || a && a in [a + a * -!f(".repeat(MANY), ")]".repeat(MANY)),
        "(".repeat(1_000_000),
    ];
    for text in deep {
        let found = parse_expression(&text, Limits::default()).unwrap_err();
        assert_eq!(found.code, Code::ExpressionTooDeep, "{}..", &text[..20]);
        let unlimited = Limits { depth: usize::MAX, nodes: usize::MAX };
        assert_eq!(parse_expression(&text, unlimited).unwrap_err().code, Code::ExpressionTooDeep, "{}..", &text[..20]);
        let schema = format!("model A {{\n  id Int @id @default({text})\n  @@check({text})\n}}\n");
        let found = codes(&schema);
        assert_eq!(found.iter().filter(|code| **code == "CST0021").count(), 2, "{}.. {found:?}", &text[..20]);
    }
    for text in
        [format!("a{}", " && a".repeat(MANY)), format!("[{}]", "a, ".repeat(MANY)), format!("a{}", ".b".repeat(MANY))]
    {
        let found = parse_expression(&text, Limits::default()).unwrap_err();
        assert_eq!(found.code, Code::ExpressionTooLarge, "{}..", &text[..20]);
    }
    let limits = Limits { depth: 3, nodes: 5 };
    assert!(parse_expression("a + b + c", limits).is_ok());
    assert_eq!(parse_expression("a + b + c + d", limits).unwrap_err().code, Code::ExpressionTooLarge);
    assert_eq!(parse_expression("!(!(!a))", limits).unwrap_err().code, Code::ExpressionTooDeep);
}

#[test]
fn recovery_keeps_what_is_sound() {
    let text = "
model A {
  id Int @id
  broken
  other String @default(
  later Int
  @@unique([later)
  last Int @range(min: 1 max: 2)
  @@check(
    a >< b,
    \"text\"
  )
  final Int
}
modle B { id Int @id }
nonsense C { x { y } z }
enum E { one, two three }
procedure p(a: Int): Int
  @allow(true)
  @@deny(true)
model C {
  id Int @id
model D {
  id Int @id
}
}
model F { id Int @id }
";
    let parsed = parse(0, text);
    insta::assert_debug_snapshot!(shape(&parsed.tree));
    let found: Vec<String> = parsed
        .found
        .iter()
        .map(|one| format!("{} {:?} {}", one.code, one.primary.span.slice(text), one.message))
        .collect();
    insta::assert_debug_snapshot!(found);
}

#[test]
fn nothing_makes_it_panic_or_lose_its_place() {
    for text in [
        "",
        "\u{feff}",
        "\u{feff}\u{feff}",
        "\r",
        "\r\n",
        "model",
        "model A",
        "model A {",
        "model A { id",
        "model A { id Int",
        "model A { id Int @",
        "model A { id Int @@",
        "@@@",
        "@",
        "@@",
        "}",
        "{",
        ")",
        "]",
        "procedure",
        "mutation",
        "mutation model",
        "procedure p(",
        "procedure p(a",
        "procedure p(a:",
        "procedure p(a: Int",
        "procedure p(a: Int)",
        "procedure p(a: Int):",
        "///",
        "/",
        "/*",
        "/**/",
        "#",
        "\"",
        "'",
        "\\",
        "\"\\",
        "\"\\u",
        "\"\\u{",
        "\"\\u{41",
        "datasource d { a = }",
        "datasource d { = 1 }",
        "enum E {",
        "enum E { @ }",
        "enum E { @@map }",
        "model A { @use }",
        "model A { \u{0} }",
        "é",
        "model é {}",
        "model A { a Int[ }",
        "model A { a Int?[]?? }",
        "model A { a Decimal( }",
    ] {
        let parsed = parse(0, text);
        for one in &parsed.found {
            assert!(one.primary.span.end as usize <= text.len(), "{text:?} {one:?}");
            assert!(text.is_char_boundary(one.primary.span.start as usize), "{text:?} {one:?}");
        }
        let wrong = !matches!(
            text,
            "" | "\u{feff}" | "\r\n" | "enum E { @@map }" | "model A { @use }" | "procedure p(a: Int): Int"
        );
        assert_eq!(!parsed.found.is_empty(), wrong, "{text:?} {:?}", parsed.found);
    }
}

#[test]
fn line_ends_of_every_system_are_the_same() {
    let text = "model A {\n  /// doc\n  id Int @id\n}\n";
    let plain = shape(&parse(0, text).tree);
    assert_eq!(shape(&parse(0, &text.replace('\n', "\r\n")).tree), plain);
    assert_eq!(codes(&text.replace('\n', "\r\n")), Vec::<&str>::new());
    assert_eq!(codes(&text.replace('\n', "\r")), ["CST0005"; 4]);
}

#[test]
fn documentation_belongs_to_what_follows() {
    let text = "/// one\n/// two\n\n// plain\nmodel A {\n  /// field\n  id Int @id /// after\n  /// end\n}\n/// file\n";
    let parsed = parse(0, text);
    let Block::Record(record) = &parsed.tree.blocks[0] else { panic!("{:?}", parsed.tree) };
    assert_eq!(record.doc.as_ref().unwrap().text, "one\ntwo");
    let Member::Field(field) = &record.members[0] else { panic!("{record:?}") };
    assert_eq!(field.doc.as_ref().unwrap().text, "field");
    let stray: Vec<&str> = parsed.found.iter().map(|one| one.primary.span.slice(text)).collect();
    assert_eq!(stray, ["/// after", "/// end", "/// file"]);
}
