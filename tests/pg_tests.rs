//! Runs the extension's `#[pg_test]` functions, without cargo-pgrx: it would want a server and a user of its own.
//!
//! Built with the feature `pg_test`, the library has a function for each test, and says so in its own section. Each is made known to
//! the database, and runs in a transaction that is rolled back. What `#[pg_test(error = "…")]` expects is read from the source.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::Path;

use crate::cluster::{Cluster, Node, SqlError};
use crate::library;

#[test]
fn the_extensions_pg_tests_pass() {
    let cluster = Cluster::new("pg_tests").start();
    let [node] = cluster.all();
    // What a connection of ours has asked for too long.
    node.expect_log("canceling statement due to statement timeout");
    node.expect_log("relation \"public.no such table\" does not exist");
    node.sql("CREATE EXTENSION spock_recovery");
    node.sql("CREATE SCHEMA tests");
    let section = library::section_of(cluster.installation());
    let mut names: Vec<String> =
        library::test_functions(&section).iter().map(|function| function.unaliased_name.to_owned()).collect();
    names.sort();
    for name in &names {
        let function = format!("tests.\"{name}\"() RETURNS void LANGUAGE c");
        node.sql(&format!("CREATE FUNCTION {function} AS '$libdir/spock_recovery', '{name}_wrapper'"));
    }
    let expected = expected_errors(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../src"));
    let mut failures = Vec::new();
    for name in &names {
        match outcome(run(node, name), expected.get(name)) {
            Ok(()) => println!("pg_test {name} ... ok"),
            Err(reason) => {
                println!("pg_test {name} ... FAILED: {reason}");
                failures.push(format!("{name}: {reason}"));
            }
        }
    }
    // Past libtest's capture: scripts/test.sh adds these to its sum.
    let _ = writeln!(io::stdout(), "pg_test: {} passed, {} failed", names.len() - failures.len(), failures.len());
    assert!(!names.is_empty(), "the library has no tests: was it built with the feature pg_test?");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn run(node: &Node, name: &str) -> Result<(), SqlError> {
    let mut session = node.session();
    session.sql("BEGIN");
    let result = session.try_sql(&format!("SELECT tests.\"{name}\"()"));
    // A session that the test brought down has nothing to roll back.
    let _ = session.try_sql("ROLLBACK");
    result.map(drop)
}

fn outcome(result: Result<(), SqlError>, expected: Option<&String>) -> Result<(), String> {
    match (result, expected) {
        (Ok(()), None) => Ok(()),
        (Ok(()), Some(message)) => Err(format!("expected the error \"{message}\"")),
        (Err(error), Some(message)) if error.message == *message => Ok(()),
        (Err(error), _) => Err(error.to_string()),
    }
}

/// Test name and message of every `#[pg_test(error = "…")]` below a folder.
fn expected_errors(folder: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).expect("the extension's source is there").flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(expected_errors(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.extend(in_source(&fs::read_to_string(&path).expect("source is text")));
        }
    }
    found
}

fn in_source(source: &str) -> Vec<(String, String)> {
    let attributes = source.split("#[pg_test(").skip(1);
    attributes
        .filter_map(|rest| {
            let (_, rest) =
                rest.split_once('"').filter(|(before, _)| matches!(before.trim(), "error =" | "expected ="))?;
            let (message, rest) = rest.split_once("\")]")?;
            let (_, rest) = rest.split_once("fn ")?;
            let (name, _) = rest.split_once('(')?;
            Some((name.trim().to_owned(), message.replace("\\\"", "\"")))
        })
        .collect()
}

#[test]
fn an_expected_error_is_read_from_its_attribute() {
    let source = "#[pg_test]\nfn a() {}\n#[pg_test(error = \"no node \\\"x\\\"\")]\nfn b() {}";
    assert_eq!(in_source(source), [("b".to_owned(), "no node \"x\"".to_owned())]);
}
