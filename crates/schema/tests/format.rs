//! The formatter: one layout, nothing lost, and nothing left to do the second time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use cratestack_schema::format::format;
use cratestack_schema::lex::{TokenKind, lex};
use cratestack_schema::parse::parse;
use proptest::prelude::*;

/// The pairs, one after the other.
fn joined<A: AsRef<str>, B: AsRef<str>>(pairs: &[(A, B)]) -> String {
    pairs.iter().flat_map(|(first, second)| [first.as_ref(), second.as_ref()]).collect()
}

/// The tree without positions.
fn tree(text: &str) -> String {
    let spans = regex::Regex::new(r"Span \{ file: \d+, start: \d+, end: \d+ \}").unwrap();
    spans.replace_all(&format!("{:?}", parse(0, text).tree), "").into_owned()
}

/// The comments in order, but for what layout may change in them.
fn comments(text: &str) -> Vec<String> {
    let is_comment = |kind| matches!(kind, TokenKind::Comment | TokenKind::Doc);
    let (tokens, _) = lex(0, text);
    tokens
        .iter()
        .filter(|token| is_comment(token.kind))
        .map(|token| {
            text.get(token.start as usize..token.end as usize).unwrap().trim_start_matches('/').trim().to_owned()
        })
        .collect()
}

/// Formats, and checks everything that must hold for any text.
fn check(text: &str) -> String {
    let once = format(text).unwrap_or_else(|found| panic!("{text}\n{found:?}"));
    let twice = format(&once).unwrap_or_else(|found| panic!("{once}\n{found:?}"));
    assert_eq!(twice, once, "the second time changes something; the text was\n{text}");
    assert_eq!(tree(&once), tree(text), "the tree changes\n{text}\n{once}");
    let sorted = |text: &str| {
        let mut all = comments(text);
        all.sort();
        all
    };
    assert_eq!(sorted(&once), sorted(text), "comments are lost\n{text}\n{once}");
    once
}

#[test]
fn layout() {
    let text = include_str!("schemas/untidy.cstack");
    insta::assert_snapshot!(check(text));
    insta::assert_snapshot!("contract", check(include_str!("schemas/contract.cstack")));
}

#[test]
fn small_things() {
    for (text, expected) in [
        ("", ""),
        ("\n\n", ""),
        ("\u{feff}// only a comment  \r\n\r\n\r\n// another", "// only a comment\n\n// another\n"),
        ("model A{}", "model A {}\n"),
        ("model A\n{\n\n}", "model A {}\n"),
        ("model A{// why\n}", "model A { // why\n}\n"),
        ("model A // head\n{ id Int }", "// head\nmodel A { id Int }\n"),
        ("type T{a Int   b String?}", "type T { a Int  b String? }\n"),
        ("enum E{a b\nc}", "enum E {\n  a\n  b\n  c\n}\n"),
        ("enum E { a @map( \"x\" ) b }", "enum E { a @map(\"x\") b }\n"),
        ("procedure  p ( ) :Int\n@allow( true )@status(201)", "procedure p(): Int\n  @allow(true)\n  @status(201)\n"),
        ("type A { a Int } type B { b Int }", "type A { a Int }\n\ntype B { b Int }\n"),
        (
            "model A {\n  @@check(a- -1>=( b+c )*2&&!d , \"m\" , )\n}",
            "model A {\n  @@check(a - -1 >= (b + c) * 2 && !d, \"m\")\n}\n",
        ),
        (
            "model A {\n  @@check(\n a\n > b, [\n c,\n ])\n}",
            "model A {\n  @@check(\n    a\n    > b, [\n      c,\n    ])\n}\n",
        ),
        (
            "model A {\n  @@index([\n a, // first\n b\n ])\n}",
            "model A {\n  @@index([\n    a, // first\n    b\n  ])\n}\n",
        ),
    ] {
        assert_eq!(check(text), expected, "{text:?}");
    }
}

#[test]
fn a_text_with_syntax_errors_is_left_alone() {
    let found = format("model A {\n  id\n}\n").unwrap_err();
    assert_eq!(found.len(), 1);
}

/// White space, line breaks and comments that may stand where line breaks mean nothing.
fn free() -> BoxedStrategy<&'static str> {
    prop_oneof![6 => Just(" "), 2 => Just("  "), 1 => Just("\n"), 1 => Just("\n\n\n"), 1 => Just(" // why\n"), 1 => Just("\n  // own\n\n")]
        .boxed()
}

/// What may stand between the parts of a member.
fn tight() -> BoxedStrategy<&'static str> {
    prop_oneof![Just(" "), Just("   "), Just("\t")].boxed()
}

/// What may stand between two members.
fn between() -> BoxedStrategy<&'static str> {
    prop_oneof![
        6 => Just("\n"),
        2 => Just("\n\n\n"),
        1 => Just(" // end\n"),
        1 => Just("\n// own\n"),
        1 => Just("\n\n// own\n/// doc\n"),
        1 => Just(" /// stray\n"),
        1 => Just("\r\n\t/// doc \r\n"),
    ]
    .boxed()
}

fn name() -> BoxedStrategy<&'static str> {
    prop_oneof![
        Just("a"),
        Just("balance"),
        Just("createdAt"),
        Just("x_1"),
        Just("model"),
        Just("type"),
        Just("procedure")
    ]
    .boxed()
}

// Strategies are boxed because, nested by value, they do not fit on the stack of a test's thread.
fn expression() -> BoxedStrategy<String> {
    let leaf = prop_oneof![
        name().prop_map(str::to_owned),
        Just("auth().role".to_owned()),
        Just("null".to_owned()),
        Just("-1".to_owned()),
        Just("- 12.50".to_owned()),
        Just("\"te\\\"xt // no comment\"".to_owned()),
        Just("customer.country".to_owned()),
        Just("now()".to_owned()),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        let operator = prop_oneof![
            Just("+"),
            Just("-"),
            Just("*"),
            Just("&&"),
            Just("||"),
            Just("=="),
            Just("<"),
            Just(" in "),
            Just("\nnot\nin ")
        ]
        .boxed();
        prop_oneof![
            (inner.clone(), free(), operator, free(), inner.clone())
                .prop_map(|(left, before, op, after, right)| format!("({left}{before}{op}{after}{right})"))
                .boxed(),
            (inner.clone(), free()).prop_map(|(operand, gap)| format!("!{gap}{operand}")).boxed(),
            (inner.clone(), free()).prop_map(|(operand, gap)| format!("-{gap}({operand})")).boxed(),
            (proptest::collection::vec(inner.clone(), 0..4), free(), any::<bool>())
                .prop_map(|(items, gap, comma)| {
                    let end = if comma && !items.is_empty() { "," } else { "" };
                    format!("[{gap}{}{end}{gap}]", items.join(&format!(",{gap}")))
                })
                .boxed(),
            (inner.clone(), inner, free())
                .prop_map(|(base, arg, gap)| format!("({base}){gap}.{gap}some({gap}{arg}{gap})"))
                .boxed(),
        ]
        .boxed()
    })
    .boxed()
}

fn arguments() -> BoxedStrategy<String> {
    let argument = (any::<bool>(), name(), expression())
        .prop_map(|(named, name, value)| if named { format!("{name}: {value}") } else { value });
    prop_oneof![
        Just(String::new()).boxed(),
        (proptest::collection::vec(argument, 0..4), free(), free())
            .prop_map(|(items, first, second)| format!("({first}{}{second})", items.join(&format!(",{second}"))))
            .boxed(),
    ]
    .boxed()
}

fn attribute(sign: &'static str) -> BoxedStrategy<String> {
    let name = prop_oneof![Just("allow"), Just("check"), Just("id"), Just("default"), Just("deny")];
    (name, arguments()).prop_map(move |(name, arguments)| format!("{sign}{name}{arguments}")).boxed()
}

fn ty() -> BoxedStrategy<&'static str> {
    prop_oneof![
        Just("Int"),
        Just("Decimal( 18,4 )"),
        Just("Entry [ ]"),
        Just("String ?"),
        Just("Decimal(\n18, // p\n4)?"),
        Just("DateTime")
    ]
    .boxed()
}

fn field() -> BoxedStrategy<String> {
    (name(), tight(), ty(), proptest::collection::vec((tight(), attribute("@")), 0..3))
        .prop_map(|(name, gap, ty, attributes)| {
            let attributes = joined(&attributes);
            format!("{name}{gap}{ty}{attributes}")
        })
        .boxed()
}

fn block() -> BoxedStrategy<String> {
    let member = prop_oneof![
        4 => field().boxed(),
        2 => attribute("@@").boxed(),
        1 => Just("@use(Owned)".to_owned()).boxed(),
    ];
    let members = proptest::collection::vec((member, between()), 0..6);
    let kind = prop_oneof![Just("model"), Just("type"), Just("auth"), Just("mixin")];
    let record = (kind, between(), between(), members).prop_map(|(kind, head, first, members)| {
        let members = joined(&members);
        format!("{kind} A{head}{{{first}{members}}}")
    });
    let variant = (name(), proptest::collection::vec(attribute("@"), 0..2))
        .prop_map(|(name, attributes)| format!("{name} {}", attributes.join(" ")));
    let variants = proptest::collection::vec(
        (prop_oneof![4 => variant, 1 => attribute("@@")], prop_oneof![Just(" "), between()]),
        0..6,
    );
    let enumeration = variants.prop_map(|variants| {
        let variants = joined(&variants);
        format!("enum E {{ {variants} }}")
    });
    let setting = (name(), tight(), expression()).prop_map(|(name, gap, value)| format!("{name}{gap}={gap}({value})"));
    let datasource = proptest::collection::vec((setting, between()), 0..4).prop_map(|settings| {
        let settings = joined(&settings);
        format!("datasource db {{ {settings} }}")
    });
    let parameter = (name(), ty(), free()).prop_map(|(name, ty, gap)| format!("{gap}{name}:{gap}{ty}"));
    let procedure = (
        any::<bool>(),
        proptest::collection::vec(parameter, 0..3),
        between(),
        ty(),
        proptest::collection::vec((prop_oneof![Just(" "), between()], attribute("@")), 0..3),
    )
        .prop_map(|(mutation, parameters, gap, ty, attributes)| {
            let attributes = joined(&attributes);
            let word = if mutation { "mutation procedure" } else { "procedure" };
            format!("{word} p({}){gap}: {ty}{attributes}", parameters.join(","))
        });
    prop_oneof![4 => record.boxed(), 1 => enumeration.boxed(), 1 => datasource.boxed(), 2 => procedure.boxed()].boxed()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn any_schema_is_formatted_once_and_for_all(blocks in proptest::collection::vec((between(), block()), 0..4), last in between()) {
        let text = joined(&blocks);
        check(&format!("{text}{last}"));
    }

    #[test]
    fn any_octets_are_survived(octets in proptest::collection::vec(any::<u8>(), 0..200)) {
        let text = String::from_utf8_lossy(&octets);
        let _ = format(&text);
    }

    #[test]
    fn any_mixture_of_tokens_is_survived(parts in proptest::collection::vec(prop_oneof![
        Just("model "), Just("A "), Just("{"), Just("}"), Just("("), Just(")"), Just("["), Just("]"), Just("\n"), Just("@x"),
        Just("@@x"), Just("\""), Just("// c\n"), Just("/// d\n"), Just(","), Just(":"), Just("="), Just("=="), Just("!"),
        Just("-"), Just("1"), Just("."), Just("procedure "), Just("mutation "), Just("enum "), Just("not "), Just("in "),
        Just("?"), Just("é"), Just("\r"), Just("datasource "), Just("\\"), Just("'"), Just("#"), Just("/*"),
    ], 0..60)) {
        let text = parts.concat();
        for one in parse(0, &text).found {
            prop_assert!((one.primary.span.end as usize) <= text.len());
        }
        if format(&text).is_ok() {
            check(&text);
        }
    }
}
