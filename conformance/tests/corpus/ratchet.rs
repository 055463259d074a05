//! What must stay true as the language grows: every attribute, and every argument of one, has a case that fails when it
//! is deleted from the case's schema. So no attribute can parse and do nothing.
//!
//! Exceptions stand in `exceptions.txt`, each with its reason. The file may only shrink: an exception that is no longer
//! needed is a failure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cratestack_conformance::case::{Case, Way};
use cratestack_conformance::database::Backend;
use cratestack_conformance::mutate::{self, Deletion};
use cratestack_conformance::transcript::Transcript;
use libtest_mimic::{Failed, Trial};

const EXCEPTIONS: &str = include_str!("../../exceptions.txt");

/// The vocabulary's places, and how [`mutate`] calls them.
const PLACES: [(&str, &str); 8] = [
    ("an enum's variant", "variant"),
    ("a field of the `auth` block", "auth field"),
    ("a field of a `type`", "type field"),
    ("a model", "model"),
    ("a field of a model", "model field"),
    ("a relation", "model field"),
    ("a procedure", "procedure"),
    ("a parameter of a procedure", "parameter"),
];

/// Kind of attribute to reason.
fn exceptions() -> BTreeMap<&'static str, &'static str> {
    let lines = EXCEPTIONS.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| line.split_once(" -- ").unwrap_or((line, ""))).collect()
}

/// One test per attribute and argument that some case uses, and one that holds them against the language.
pub(crate) fn trials(cases: &[Arc<Case>]) -> Vec<Trial> {
    let mut kinds = BTreeMap::<String, Vec<(Arc<Case>, Deletion)>>::new();
    for case in cases {
        for deletion in mutate::deletions(&case.schema) {
            kinds.entry(deletion.kind.clone()).or_default().push((Arc::clone(case), deletion));
        }
    }
    let used: BTreeSet<String> = kinds.keys().cloned().collect();
    let mut trials: Vec<_> = kinds
        .into_iter()
        .map(|(kind, places)| {
            Trial::test(format!("ratchet::deleting::{kind}"), move || deleting_is_noticed(&kind, &places))
        })
        .collect();
    trials.push(Trial::test("ratchet::every_attribute_of_the_language_has_a_case", move || vocabulary(&used)));
    trials
}

/// What a deletion does.
#[derive(PartialEq)]
enum Effect {
    Nothing,
    /// The schema no longer compiles: the deletion is noticed, but no enforcement is shown.
    Refused,
    OtherTranscript,
}

fn deleting_is_noticed(kind: &str, places: &[(Arc<Case>, Deletion)]) -> Result<(), Failed> {
    let effects = places.iter().map(|(case, deletion)| (case, effect(case, &deletion.apply(&case.schema))));
    let mut refused = 0;
    for (case, effect) in effects {
        match effect {
            Effect::Nothing => {}
            Effect::Refused => refused += 1,
            Effect::OtherTranscript if exceptions().contains_key(kind) => {
                return Err(format!("{} fails without it: remove `{kind}` from exceptions.txt", case.name).into());
            }
            Effect::OtherTranscript => return Ok(()),
        }
    }
    if refused == places.len() || exceptions().contains_key(kind) {
        return Ok(());
    }
    let names: BTreeSet<&str> = places.iter().map(|(case, _)| case.name.as_str()).collect();
    let names: Vec<&str> = names.into_iter().collect();
    Err(format!("deleting `{kind}` changes no transcript; cases that use it: {}", names.join(", ")).into())
}

fn effect(case: &Case, schema: &str) -> Effect {
    if cratestack_schema::compile("schema", schema).0.is_none() {
        return Effect::Refused;
    }
    let Ok(expected) = case.expected().and_then(|text| Transcript::parse(&text)) else { return Effect::Nothing };
    match case.run(schema, Backend::Sqlite, Way::Http) {
        Ok(found) if found == expected => Effect::Nothing,
        Ok(_) | Err(_) => Effect::OtherTranscript,
    }
}

fn vocabulary(used: &BTreeSet<String>) -> Result<(), Failed> {
    let exceptions = exceptions();
    let mut missing = Vec::new();
    for word in cratestack_schema::vocabulary().iter().filter(|word| word.supported) {
        // A mixin's members are those of the models that use it.
        for place in word.places.iter().filter_map(|place| PLACES.iter().find(|(words, _)| words == place)) {
            let place = place.1;
            let kind = format!("{place} {}{}", word.sigil, word.name);
            let arguments = word.options.iter().map(|option| format!("{kind}({option}:)"));
            let kinds = std::iter::once(kind.clone()).chain(arguments);
            missing.extend(kinds.filter(|kind| !used.contains(kind) && !exceptions.contains_key(kind.as_str())));
        }
    }
    if missing.is_empty() { Ok(()) } else { Err(format!("no case uses: {}", missing.join("; ")).into()) }
}
