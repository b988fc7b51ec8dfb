//! The closed lists of words, and the names of settings: every word of the sources is in its table, and nothing else is.

use std::collections::BTreeSet;

use crate::pages::{quoted, read, rows, section};
use crate::sources::{rust, words_of_the_list_with, words_of_the_match_with};

/// The first column of a table: what is in backquotes.
fn documented(file: &str, heading: &str) -> Vec<String> {
    let document = read(file);
    let rows = rows(section(&document, heading));
    rows.iter().flat_map(|row| quoted(row[0])).map(str::to_owned).collect()
}

fn assert_same(what: &str, documented: Vec<String>, in_sources: Vec<String>) {
    let (mut documented, mut in_sources) = (documented, in_sources);
    documented.sort();
    in_sources.sort();
    let twice: Vec<_> = documented.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| &pair[0]).collect();
    assert!(twice.is_empty(), "{what}: twice in its table: {twice:?}");
    let (documented, in_sources): (BTreeSet<_>, BTreeSet<_>) =
        (documented.into_iter().collect(), in_sources.into_iter().collect());
    let missing: Vec<_> = in_sources.difference(&documented).collect();
    let unknown: Vec<_> = documented.difference(&in_sources).collect();
    assert!(
        missing.is_empty() && unknown.is_empty(),
        "{what}: not in its table: {missing:?}; in its table alone: {unknown:?}"
    );
}

#[test]
fn every_reason_and_state_is_in_its_table_and_nothing_else() {
    let rust = rust();
    let page = "docs/reference/reasons.md";
    assert_same("reasons", documented(page, "## Reasons of a plan"), words_of_the_list_with(&rust, "gap_covered"));
    for (what, heading, word) in [
        ("outcomes", "## Outcomes", "zero_gap"),
        ("blocked reasons", "## Why the slot does not advance", "peer_lagging"),
        ("reasons of rows", "## Why a row could not be compared", "source_lags"),
        ("peer states", "## Peer states", "other server"),
        ("confidence", "## Confidence", "MEDIUM"),
    ] {
        assert_same(what, documented(page, heading), words_of_the_match_with(&rust, word));
    }
}

#[test]
fn every_setting_is_in_its_table_and_nothing_else() {
    let rust = rust();
    // C literals name settings where they are defined.
    let defined: BTreeSet<String> = rust
        .split("c\"spock.")
        .skip(1)
        .map(|rest| format!("spock.{}", rest.split('"').next().unwrap_or_default()))
        .filter(|name| name.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c == '.'))
        .collect();
    let page = "docs/reference/settings.md";
    let mut names = documented(page, "## Settings of the server");
    names.extend(documented(page, "## Settings of the output plugin"));
    assert_same("settings", names, defined.into_iter().collect());
}
