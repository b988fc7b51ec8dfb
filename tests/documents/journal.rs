//! The journal of recoveries, in the label of the extension's schema.

use super::*;
use crate::rescue::{disable, drain, enabled, fail, hold_back, rescue, start};
use crate::rescue_clone::INTENT;
use crate::slot_life::health;

const CLONES: &str = "SELECT count(*) FROM pg_replication_slots WHERE plugin = 'spock_recovery'";

#[test]
fn an_unreadable_journal_is_not_written_over_and_what_it_says_holds_until_it_can_be_read() {
    let cluster = start("documents_journal", "CREATE TABLE t (id int PRIMARY KEY, v text)");
    let [n1, n2, n3] = cluster.all();
    hold_back(n2);
    n1.sql("INSERT INTO t SELECT g, 'of n1' FROM generate_series(1, 5) g");
    drain(n1, n3);
    fail(&cluster);
    rescue(n2, n3, "");
    assert_eq!(enabled(n2), "sub_n2_n1|f\nsub_n2_n3|t");
    let journal = Label::journal(n2);
    let known = n2.value("SELECT intent_id, phase FROM spock.recovery_intents()");
    let clone = n2.value("SELECT cloned_slot_name FROM spock.clone_recovery_slot()");
    assert_eq!(n2.value(CLONES), "1");
    cluster.expect_log("cannot be read");

    let unreadable = journal.edit(LATER);
    assert_critical(
        n2.db("postgres"),
        "journal",
        &["the journal of recoveries in the label of SCHEMA spock", "version 2", "Install the version"],
    );
    for statement in [
        "CALL spock.recover_run(failed_node_name := 'n1', source_node_name := 'n3')",
        "CALL spock.recover_abort('n1')",
        "SELECT * FROM spock.clone_recovery_slot()",
        "SELECT * FROM spock.recovery_intents()",
        "SELECT * FROM spock.recovery_clones()",
        "SELECT * FROM spock.node_positions()",
        "SELECT spock.node_drop('n2')",
        "SELECT spock.node_drop('n3')",
        &format!("SELECT spock_internal.recovery_is_open('{INTENT}')"),
    ] {
        assert_refused(n2, statement);
    }
    // The clone is looked at in each round, and would go after this.
    n2.set(&[("spock.rescue_clone_ttl", "100ms")]);
    n1.start();
    n2.wait_until("SELECT state FROM spock.peer_status() WHERE node_name = 'n1'", "connected");
    rounds(n2);
    n2.restart();
    n2.wait_until("SELECT state FROM spock.peer_status() WHERE node_name = 'n1'", "connected");
    rounds(n2);
    assert_eq!(journal.text(), unreadable);
    assert_eq!(n2.value(CLONES), "1");
    assert_eq!(enabled(n2), "sub_n2_n1|f\nsub_n2_n3|t");
    assert_eq!(
        n2.value("SELECT sub_rescue_suspended FROM spock.subscription WHERE sub_name = 'sub_n2_n1'"),
        "",
        "nobody knows"
    );
    assert_eq!(n2.value("SELECT in_recovery FROM spock.get_recovery_slot_status()"), "t");
    // Its peers do not let go of what it may still need, and it goes on with everything else.
    n3.wait_until("SELECT state FROM spock.peer_status() WHERE node_name = 'n2'", "not a node");
    // It is a node, and says so: it answers with an error of its own.
    let error = n3.value("SELECT error FROM spock.peer_status() WHERE node_name = 'n2'");
    let told = "it answers with an error of its own, SQLSTATE 0A000 (SELECT * FROM spock.quick_health_check() there tells more): \
                the journal of recoveries in the label of SCHEMA spock cannot be read";
    assert_eq!(error, told);
    let check = health(n3.db("postgres"), "peer n2");
    assert!(check.starts_with(&format!("CRITICAL|{told}; last answer ")), "{check}");
    n3.sql("INSERT INTO t VALUES (100, 'of n3')");
    drain(n3, n2);

    // The package that can read it is back.
    journal.replace((LATER.1, LATER.0));
    assert_eq!(n2.value("SELECT intent_id, phase FROM spock.recovery_intents()"), known);
    n2.wait_until("SELECT subenabled FROM pg_subscription WHERE subname = 'sub_n2_n1'", "t");
    n2.wait_until(CLONES, "0");
    assert!(!journal.text().contains(&clone));
    assert_eq!(verdict(n2.db("postgres"), "journal"), "");
    n3.wait_until("SELECT state FROM spock.peer_status() WHERE node_name = 'n2'", "connected");

    // A damaged one can be removed, as the health check says; a new one begins.
    journal.edit((r#""intents""#, r#""wreck""#));
    assert_critical(
        n2.db("postgres"),
        "journal",
        &["does not validate", "SECURITY LABEL FOR spock_recovery ON SCHEMA spock IS NULL;", "are forgotten"],
    );
    n2.sql("SECURITY LABEL FOR spock_recovery ON SCHEMA spock IS NULL");
    assert_eq!(n2.value("SELECT count(*) FROM spock.recovery_intents()"), "0");
    assert_eq!(n2.value("SELECT success FROM spock.clone_recovery_slot()"), "t");
}

#[test]
fn what_a_newer_library_of_the_same_version_has_noted_is_kept_when_the_journal_is_written() {
    let cluster = start("documents_newer", "CREATE TABLE t (id int PRIMARY KEY, v text)");
    let [n1, n2, n3] = cluster.all();
    hold_back(n2);
    n1.sql("INSERT INTO t SELECT g, 'of n1' FROM generate_series(1, 5) g");
    drain(n1, n3);
    fail(&cluster);
    rescue(n2, n3, "");
    let journal = Label::journal(n2);
    journal.edit(NEWER);
    journal.edit((r#""until":"#, r#""newer":"of a suspension","until":"#));
    journal.edit((r#""failed":"#, r#""newer":"of a request","failed":"#));
    assert_eq!(n2.value("SELECT count(*) FROM spock.recovery_intents()"), "1");
    let clone = n2.value("SELECT cloned_slot_name FROM spock.clone_recovery_slot()");
    let text = journal.text();
    for part in [clone.as_str(), NEWER_FIELD, "of a suspension", "of a request"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(n2.value("SELECT sub_rescue_suspended FROM spock.subscription WHERE sub_name = 'sub_n2_n1'"), "t");
    n1.start();
    n2.wait_until("SELECT subenabled FROM pg_subscription WHERE subname = 'sub_n2_n1'", "t");
    let text = journal.text();
    assert!(text.contains("of a request") && !text.contains("of a suspension"), "{text}");
    disable(n2, "sub_n2_n1");
}
