//! What cannot be made is said before anything is touched, all of it at once.

use std::fs;

use spockctl::node::{Error, Options, create};

use super::{Made, create_node, ended, mesh, options};
use crate::cluster::Node;

/// How many findings there are, and that each of these words is in one.
fn refused(given: &Options, findings: usize, words: &[&str]) {
    let (text, result) = create_node(given);
    assert!(matches!(result, Err(Error::Findings(count)) if count == findings), "{result:?}, after\n{text}");
    for word in words {
        assert!(text.contains(word), "\"{word}\" is not in\n{text}");
    }
}

fn assert_untouched(new: &Node, others: &[&Node], slots: &[String]) {
    assert!(!new.data().with_extension("node").exists());
    for (node, slots) in others.iter().zip(slots) {
        assert_eq!(node.value(SLOTS), *slots, "{}", node.name());
        assert_eq!(node.value("SELECT count(*) FROM spock.node"), "2");
    }
}

const SLOTS: &str = "SELECT string_agg(slot_name, ',' ORDER BY slot_name) FROM pg_replication_slots";

#[test]
fn everything_that_does_not_fit_is_said_and_nothing_is_touched() {
    let mut cluster = mesh("node_refused", 2);
    cluster.add_place();
    let cluster = Made::of(cluster);
    let [n1, n2, n3] = cluster.all();
    let slots = [n1, n2].map(|node| node.value(SLOTS));
    let given = options(&cluster, n1, n3);
    let shown = ended(|screen| create::check(&given, screen).map(drop));
    assert!(shown.1.is_ok() && shown.0.contains("sub_n3_n1"), "{:?}, after\n{}", shown.1, shown.0);

    // A folder in use, and a name that is taken.
    fs::create_dir(n3.data()).expect("a folder");
    fs::write(n3.data().join("precious"), "").expect("a file");
    refused(&given, 1, &["is not empty"]);
    assert!(n3.data().join("precious").exists());
    fs::remove_dir_all(n3.data()).expect("it is there");
    let taken = Options { name: "n2".into(), ..given.clone() };
    refused(&taken, 3, &["there is a node \"n2\" already", "has a slot \"sub_n2_n1\" already"]);

    // Where a server answers; a program of nobody; a tablespace that is not there.
    let wrong = Options {
        dsn: Some(n2.dsn("postgres")),
        bin_folder: Some("/nonexistent".into()),
        tablespaces: vec![("/a".into(), "/b".into())],
        ..given.clone()
    };
    refused(&wrong, 3, &["a server answers where", "there is no server in", "has no tablespace in \"/a\""]);
    for (wrong, usage) in [
        (Options { dsn: None, ..given.clone() }, "--dsn"),
        (Options { slot_names: Some("slot".into()), ..given.clone() }, "--slot-names"),
        (Options { dsn: Some("nonsense".into()), ..given.clone() }, "connection string"),
    ] {
        let result = create_node(&wrong).1;
        assert!(matches!(&result, Err(error) if error.is_usage() && error.to_string().contains(usage)), "{result:?}");
    }

    // A node that lives is not replaced, and one that is unknown neither.
    let alive = Options { replaces: Some("n2".into()), ..given.clone() };
    let result = create_node(&alive).1;
    assert!(matches!(&result, Err(Error::SlotInUse { .. } | Error::Alive { .. })), "{result:?}");
    let unknown = Options { replaces: Some("n7".into()), ..given.clone() };
    refused(&unknown, 1, &["knows no node \"n7\""]);
    assert_untouched(n3, &[n1, n2], &slots);

    // Slots that are used up, and a node that does not answer.
    n2.sql(
        "SELECT pg_create_physical_replication_slot('full_' || n) FROM generate_series(1, current_setting('max_replication_slots')::int
                - (SELECT count(*) FROM pg_replication_slots)) n",
    );
    refused(&given, 1, &["node \"n2\" has 32 of 32 in use", "raise max_replication_slots"]);
    n2.sql("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name LIKE 'full%'");
    n1.sql("ALTER SUBSCRIPTION sub_n1_n2 DISABLE");
    refused(&given, 1, &["its subscription \"sub_n1_n2\" is disabled"]);
    n1.sql("ALTER SUBSCRIPTION sub_n1_n2 ENABLE");
    assert_untouched(n3, &[n1, n2], &slots);
    n2.kill9();
    refused(&given, 1, &["node \"n2\" does not answer"]);
    assert!(!n3.data().exists());
}
