//! The states of every kind of document, and which fields of a newer library are kept when a document is written back.

use crate::document::*;
use crate::identity::DatabaseIdentity;
use crate::intent::document::Journal;
use crate::intent::journal_tests::document::full;
use crate::slot::record::RetentionRecord;
use crate::slot::record::tests::record;
use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

const HERE: DatabaseIdentity = DatabaseIdentity { system_identifier: 7, database: 5 };

/// The complete document of each kind, and a function that reads and rewrites it.
struct Sample {
    text: String,
    /// Reads the first text, and writes the result over the second one.
    rewrite: fn(&str, &str) -> Result<String, DocumentError>,
}

fn rewritten<T: Document>(read_from: &str, over: &str) -> Result<String, DocumentError> {
    let here = home_of(read_from);
    match read::<T>(Some(read_from), here) {
        Stored::Own(document) => written_over(Some(over), &document, here),
        Stored::Unreadable(error) => Err(error),
        Stored::Absent | Stored::Foreign => panic!("it is its own"),
    }
}

fn home_of(text: &str) -> DatabaseIdentity {
    let value: Value = serde_json::from_str(text).expect("JSON");
    let number = |name: &str| value[name].as_u64().expect("a number");
    DatabaseIdentity { system_identifier: number("system_identifier"), database: number("database") as u32 }
}

fn samples() -> [Sample; 2] {
    [
        Sample { text: full().to_text(), rewrite: rewritten::<Journal> },
        Sample { text: record().to_text(), rewrite: rewritten::<RetentionRecord> },
    ]
}

/// The paths to every object in a document whose keys are names of fields instead of data.
fn objects(value: &Value, path: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            if !path.ends_with("/unjudged") {
                found.push(path.to_owned());
            }
            map.iter().for_each(|(name, inner)| objects(inner, &format!("{path}/{name}"), found));
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(index, inner)| objects(inner, &format!("{path}/{index}"), found));
        }
        _ => (),
    }
}

fn with(text: &str, place: &str, name: &str, value: &Value) -> String {
    let mut document: Value = serde_json::from_str(text).expect("JSON");
    let object = document.pointer_mut(place).and_then(Value::as_object_mut).expect("an object");
    object.insert(name.to_owned(), value.clone());
    to_text(&document)
}

#[test]
fn an_unknown_field_at_any_level_is_read_over_and_kept() {
    for Sample { text, rewrite } in samples() {
        let mut places = Vec::new();
        objects(&serde_json::from_str(&text).expect("JSON"), "", &mut places);
        assert!(places.len() >= 4, "{places:?}");
        for place in places {
            let newer = with(&text, &place, "newer", &json!({"deep": [1, null, {"er": u64::MAX}]}));
            let back = rewrite(&newer, &newer).unwrap_or_else(|error| panic!("{place}: {error}"));
            let (back, newer): (Value, Value) =
                (serde_json::from_str(&back).expect("JSON"), serde_json::from_str(&newer).expect("JSON"));
            assert_eq!(back, newer, "{place}");
        }
    }
}

#[test]
fn members_of_a_list_keep_their_own_fields_when_others_come_and_go() {
    let mut journal = full();
    let text = with(&journal.to_text(), "/intents/1", "newer", &json!("of the second"));
    let text = with(&text, "/intents/1/checkpoint/totals/tallies/0", "newer", &json!("of its tally"));
    let second = journal.intents[1].id;
    journal.intents.swap(0, 1);
    journal.intents[0].kept_rows = None;
    let written = written_over(Some(&text), &journal, home_of(&text)).expect("it can be read");
    let written: Value = serde_json::from_str(&written).expect("JSON");
    assert_eq!(written["intents"][0]["id"], json!(second.to_string()));
    assert_eq!(written["intents"][0]["newer"], "of the second");
    assert_eq!(written["intents"][0]["checkpoint"]["totals"]["tallies"][0]["newer"], "of its tally");
    assert_eq!(written["intents"][0].get("kept_rows"), None, "what was known and was taken away stays away");
    assert_eq!(written["intents"][1].get("newer"), None);
    journal.intents.remove(0);
    let gone = written_over(Some(&text), &journal, home_of(&text)).expect("it can be read");
    assert!(!gone.contains("of the second"), "what a member had goes with it: {gone}");
}

#[test]
fn what_stands_there_is_absent_foreign_readable_or_not_and_only_what_cannot_be_read_is_not_written_over() {
    for Sample { text, rewrite } in samples() {
        let elsewhere = with(&text, "", "database", &json!(home_of(&text).database + 1));
        assert_eq!(rewrite(&text, &text).as_deref(), Ok(text.as_str()));
        assert_eq!(rewrite(&text, &elsewhere).as_deref(), Ok(text.as_str()));
        // The version does not matter here, because the document belongs to another database.
        assert_eq!(rewrite(&text, &with(&elsewhere, "", "version", &json!(9))).as_deref(), Ok(text.as_str()));
        let later = with(&text, "", "version", &json!(9));
        assert_eq!(rewrite(&text, &later), Err(DocumentError::Later { found: 9, known: 1 }));
        assert_eq!(rewrite(&later, &text), Err(DocumentError::Later { found: 9, known: 1 }));
        for damaged in ["", "{", "[]", "7", &text[..text.len() - 1], &with(&text, "", "database", &json!("x"))] {
            assert!(matches!(rewrite(&text, damaged), Err(DocumentError::Malformed(_))), "{damaged}");
        }
    }
    assert_eq!(read::<Journal>(None, HERE), Stored::Absent);
}

#[test]
fn a_later_version_is_told_as_one_whatever_it_has_left_out_or_changed() {
    for Sample { text, rewrite } in samples() {
        let later = DocumentError::Later { found: 9, known: 1 };
        let places: Vec<String> = serde_json::from_str::<Value>(&text)
            .expect("JSON")
            .as_object()
            .expect("an object")
            .keys()
            .cloned()
            .collect();
        for name in places.iter().filter(|name| *name != "version") {
            let mut document: Value = serde_json::from_str(&with(&text, "", "version", &json!(9))).expect("JSON");
            document.as_object_mut().expect("an object").remove(name);
            assert_eq!(rewrite(&text, &document.to_string()), Err(later.clone()), "without {name}");
            document[name] = json!({"of": "another kind"});
            assert_eq!(rewrite(&text, &document.to_string()), Err(later.clone()), "another {name}");
        }
        assert_eq!(rewrite(&text, r#"{"version":9}"#), Err(later.clone()));
        // A document of this version without its fields is damaged, and so is one without a version.
        for damaged in [r#"{"version":1}"#, r#"{"version":"9"}"#, r#"{"version":0}"#, "{}"] {
            assert!(matches!(rewrite(&text, damaged), Err(DocumentError::Malformed(_))), "{damaged}");
        }
    }
}

/// A kind of document that had other fields in its first version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Third {
    version: u32,
    system_identifier: u64,
    database: u32,
    names: Vec<String>,
}

impl Document for Third {
    const VERSION: u32 = 3;

    fn bring_forward(document: &mut Value, from: u32) {
        if from == 1 {
            let name = document["name"].take();
            document["names"] = json!([name]);
            document.as_object_mut().expect("an object").remove("name");
        }
    }
}

#[test]
fn a_library_reads_the_versions_before_its_own_and_keeps_what_it_does_not_know_of_them() {
    let old = json!({"version": 1, "system_identifier": 7, "database": 5, "name": "n1", "newer": 1}).to_string();
    let Stored::Own(read) = read::<Third>(Some(&old), HERE) else { panic!("version 1 can be read") };
    assert_eq!(read, Third { version: 3, system_identifier: 7, database: 5, names: vec!["n1".to_owned()] });
    let written: Value = serde_json::from_str(&written_over(Some(&old), &read, HERE).expect("readable")).expect("JSON");
    let expected = json!({"version": 3, "system_identifier": 7, "database": 5, "names": ["n1"], "newer": 1});
    assert_eq!(written, expected);
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "\\PC{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 8, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map("[a-z]{1,4}", inner, 0..3).prop_map(Value::from_iter),
        ]
    })
}

proptest! {
    #[test]
    fn whatever_a_newer_library_has_added_anywhere_survives_any_number_of_rewrites(
        kind in 0..2_usize,
        added in prop::collection::vec((any::<prop::sample::Index>(), "x_[a-z]{1,6}", any_json()), 0..6),
    ) {
        let Sample { text, rewrite } = &samples()[kind];
        let mut newer = to_text(&serde_json::from_str::<Value>(text).expect("JSON"));
        for (place, name, value) in added {
            let mut places = Vec::new();
            objects(&serde_json::from_str(text).expect("JSON"), "", &mut places);
            let place = place.get(&places[..]);
            newer = to_text(&serde_json::from_str::<Value>(&with(&newer, place, &name, &value)).expect("JSON"));
        }
        let mut at = newer.clone();
        for _ in 0..3 {
            at = rewrite(&at, &at).expect("readable");
            let (one, other): (Value, Value) = (serde_json::from_str(&at).expect("JSON"), serde_json::from_str(&newer).expect("JSON"));
            prop_assert_eq!(one, other);
        }
    }

    #[test]
    fn whatever_a_later_version_holds_it_is_told_as_one_or_as_anothers(
        version in 2..u64::MAX,
        fields in prop::collection::btree_map("[a-z]{1,4}|system_identifier|database|intents", any_json(), 0..5),
    ) {
        let mut document = Value::from_iter(fields);
        document["version"] = version.into();
        let text = to_text(&document);
        let later = DocumentError::Later { found: version, known: 1 };
        let found = read::<Journal>(Some(&text), HERE);
        prop_assert!(found == Stored::Unreadable(later.clone()) || found == Stored::Foreign, "{found:?}");
        let found = read::<RetentionRecord>(Some(&text), HERE);
        prop_assert!(found == Stored::Unreadable(later) || found == Stored::Foreign, "{found:?}");
    }

    #[test]
    fn no_text_is_taken_for_an_own_document_that_is_none(text in "\\PC{0,100}") {
        prop_assert!(matches!(read::<Journal>(Some(&text), HERE), Stored::Unreadable(_)));
        prop_assert!(matches!(read::<RetentionRecord>(Some(&text), HERE), Stored::Unreadable(_)));
    }
}
