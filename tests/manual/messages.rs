//! The messages that the documents explain are messages of the sources.

use crate::pages::{quoted, read, rows, section};
use crate::sources::{rust, sql};

/// The sources' text as a user sees it: escapes are undone, a literal that goes on in the next line is one.
fn as_shown(source: &str) -> String {
    let mut joined = String::with_capacity(source.len());
    let mut lines = source.lines();
    while let Some(mut line) = lines.next() {
        while let Some(start) = line.strip_suffix('\\') {
            joined.push_str(start);
            line = lines.next().unwrap_or_default().trim_start();
        }
        joined.push_str(line);
        joined.push('\n');
    }
    joined.replace("\\\"", "\"").replace("''", "'")
}

/// What is the same whatever the message is about: without names in quotes, identifiers, numbers, and what is left out.
fn constant_parts(message: &str) -> Vec<String> {
    let is_name = |word: &str| word.contains('_') || word.contains('.') || word.chars().any(|c| c.is_ascii_digit());
    let mut parts = vec![String::new()];
    for (index, piece) in message.split('"').enumerate() {
        // What stands between quotes is a name.
        if index % 2 == 1 {
            parts.push(String::new());
            continue;
        }
        for segment in piece.split(['…', ':', ',']) {
            parts.push(String::new());
            for word in segment.split_inclusive(' ') {
                if is_name(word) {
                    parts.push(String::new());
                } else {
                    parts.last_mut().expect("one at least").push_str(word);
                }
            }
        }
    }
    // Shorter ones are in every source.
    let parts = parts.into_iter().map(|part| part.trim_matches([' ', '(', ')']).to_owned());
    parts.filter(|part| part.len() >= 8).collect()
}

/// Core's own.
const OF_CORE: &[&str] = &["cannot execute", "during recovery", "in a read-only transaction", "permission denied for"];

#[test]
fn every_message_that_the_documents_explain_is_in_the_sources() {
    let sources = as_shown(&(rust() + &sql()));
    let errors = read("docs/reference/errors.md");
    let runbook = read("docs/runbook.md");
    let mut rows_of_all = rows(&errors);
    rows_of_all.extend(rows(section(&runbook, "## 4. If something else happens")));
    let messages: Vec<&str> = rows_of_all.iter().flat_map(|row| quoted(row[0])).filter(|it| it.contains(' ')).collect();
    assert!(messages.len() > 60, "only {} messages were found", messages.len());
    let mut faults = Vec::new();
    for message in messages {
        for part in constant_parts(message).iter().filter(|part| !OF_CORE.contains(&part.as_str())) {
            if !sources.contains(part.as_str()) {
                faults.push(format!("{message}: the sources have no \"{part}\""));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn the_constant_parts_of_a_message_are_found() {
    assert_eq!(constant_parts("recovery of node \"n1\" waits: …"), ["recovery of node"]);
    assert_eq!(constant_parts("recovery slot \"…\" keeps … MB of spock.recovery_slot_max_wal"), ["recovery slot"]);
    assert_eq!(constant_parts("no answer within 5000 ms"), ["no answer within"]);
    assert_eq!(as_shown("\"a \\\"{b}\\\" \\\n    c\"\n"), "\"a \"{b}\" c\"\n");
}
