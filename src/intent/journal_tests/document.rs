//! The journal as a document: it gives back what was written, is inert elsewhere, and has no field for a secret.

use super::*;
use crate::document::{self, Stored};
use crate::intent::document::ComparisonRecord;
use crate::tally::compared::{Counts, Why};
use crate::tally::conflict::{ConflictKind, Resolution, Tally};
use std::collections::BTreeSet;

/// A journal with everything in it.
pub fn full() -> Journal {
    let mut journal = journal_in(State::Replaying);
    let request = &mut journal.intents[0].request;
    request.failed = "größe \"n1\" 😀".to_owned();
    (request.skip, request.stop, request.stop_timestamp) =
        (Some(RANGE.0), Some(OriginLsn(u64::MAX)), Some(Timestamp(i64::MIN)));
    let failed = request.failed.clone();
    journal.fail(id(1), failure(Some(FAILING)), done(3)).expect("unfinished");
    journal.skip(&failed, FAILING).expect("it fails");
    journal.ask_to_abort(&failed).expect("running");
    let mut ended = journal_in(State::Completed).intents.remove(0);
    (ended.id, ended.clone, ended.has_own_dsn) = (id(2), Some("made".to_owned()), true);
    ended.touched_from = Some(RANGE.0);
    let unjudged = [(Why::SourceLags, 2)].into();
    ended.reconciled = Some(Counts { compared: 9, updated: 3, deleted: 1, unjudged, ..Counts::default() });
    ended.kept_rows = Some(16385);
    let totals = &mut ended.checkpoint.as_mut().expect("completed").totals;
    totals.tallies.push(Tally {
        relation: 16384,
        kind: ConflictKind::InsertExists,
        resolution: Resolution::KeepLocal,
        count: 2,
    });
    journal.intents.push(ended);
    journal.suspensions.push(Suspension::new(u32::MAX, failed.clone(), Until::Returned));
    journal.slot_files = Some(16386);
    journal.comparisons.push(ComparisonRecord {
        id: id(9),
        other: "n2".to_owned(),
        is_automatic: true,
        is_partial: true,
        begun_at: Timestamp(1),
        ended_at: Some(Timestamp(2)),
        progress_object: 16387,
        keys_object: 16388,
        differing: 3,
        undecided: 1,
        incomparable: 0,
    });
    journal.manifests.push(ManifestRecord { intent: id(1), object: 16387 });
    journal.register_clone(CloneRecord {
        slot: "c".to_owned(),
        created_at: Timestamp(1),
        failed: Some(failed),
        target: Some("n2".to_owned()),
        intent: Some(id(1)),
    });
    journal
}

#[test]
fn the_document_gives_back_the_journal_and_is_ascii() {
    for journal in STATES.map(journal_in).into_iter().chain([full(), journal_with_two()]) {
        let text = journal.to_text();
        assert!(text.is_ascii(), "{text}");
        assert_eq!(Journal::read(Some(&text), HERE), Stored::Own(journal), "{text}");
    }
}

#[test]
fn a_document_from_elsewhere_is_inert_and_one_of_a_later_version_or_another_shape_cannot_be_read() {
    let text = full().to_text();
    let unreadable = |text: &str| matches!(Journal::read(Some(text), HERE), Stored::Unreadable(_));
    for elsewhere in [DatabaseIdentity { system_identifier: 1, ..HERE }, DatabaseIdentity { database: 6, ..HERE }] {
        assert_eq!(Journal::read(Some(&text), elsewhere), Stored::Foreign);
    }
    for wrong in [
        String::new(),
        "{}".to_owned(),
        "null".to_owned(),
        text.replace("\"version\":1", "\"version\":0"),
        text.replace("\"version\":1", "\"version\":2"),
        text.replace("\"replaying\"", "\"dreaming\""),
        text.replace(&id(1).to_string(), "1"),
        text.replace("\"clones\"", "\"klones\""),
        text.replace("\\u00f6", "ö"),
        format!("{text}x"),
    ] {
        assert_ne!(wrong, text);
        assert!(unreadable(&wrong), "{wrong}");
        assert!(document::written_over(Some(&wrong), &Journal::new(HERE), HERE).is_err(), "{wrong}");
    }
}

/// Collects every name in a document, at any depth.
fn names(value: &serde_json::Value, found: &mut BTreeSet<String>) {
    match value {
        serde_json::Value::Object(map) => {
            for (name, inner) in map {
                found.insert(name.clone());
                names(inner, found);
            }
        }
        serde_json::Value::Array(items) => items.iter().for_each(|item| names(item, found)),
        _ => (),
    }
}

/// The names of all fields. Everybody can read labels, so a field that is added here must be fit for that.
const FIELDS: [&str; 72] = [
    "version",
    "system_identifier",
    "database",
    "intents",
    "suspensions",
    "clones",
    "id",
    "subscription",
    "request",
    "failed",
    "source",
    "target",
    "clone",
    "has_own_dsn",
    "skip",
    "stop",
    "stop_timestamp",
    "applied_before",
    "passed_before",
    "begun_at",
    "since_transaction",
    "touched_from",
    "reconciled",
    "compared",
    "updated",
    "deleted",
    "unjudged",
    "source_lags",
    "kept_rows",
    "slot_files",
    "comparisons",
    "other",
    "is_automatic",
    "is_partial",
    "ended_at",
    "progress_object",
    "keys_object",
    "differing",
    "undecided",
    "incomparable",
    "manifests",
    "object",
    "tallies",
    "kind",
    "resolution",
    "count",
    "checkpoint",
    "steps",
    "number",
    "phase",
    "at",
    "totals",
    "transactions",
    "rows",
    "bytes",
    "conflicts",
    "skipped",
    "failure",
    "sqlstate",
    "reason",
    "relation",
    "origin_lsn",
    "skips",
    "must_abort",
    "end",
    "outcome",
    "position",
    "origin",
    "until",
    "slot",
    "created_at",
    "intent",
];

#[test]
fn there_is_no_field_that_could_hold_a_secret() {
    let document: serde_json::Value = serde_json::from_str(&full().to_text()).expect("JSON");
    let mut found = BTreeSet::new();
    names(&document, &mut found);
    assert_eq!(found, FIELDS.map(str::to_owned).into());
}
