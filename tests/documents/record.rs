//! The retention record, in the label of the database.

use super::*;
use crate::slot_life::{SLOT, fill_wal, make_node, quick, wait_blocked, wait_slot};

const THERE: &str = "SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE 'spk_recovery%'";

#[test]
fn with_an_unreadable_retention_record_nothing_is_done_with_the_slot() {
    let cluster = quick("documents_record").start();
    let [node] = cluster.all();
    let database = node.db("postgres");
    make_node(database, "n1", &node.dsn("postgres"));
    for peer in ["n2", "n3"] {
        node.sql(&format!("SELECT spock.peer_create('{peer}', 'host=/nonexistent')"));
    }
    wait_slot(database, 1);
    cluster.expect_log("cannot be read");
    let record = Label::record(node);
    record.wait_for();
    let unreadable = record.edit(LATER);
    wait_blocked(database, "record_unreadable");
    assert_critical(database, "retention record", &["DATABASE postgres", "version 2", "Install the version"]);
    let position = format!("SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = '{SLOT}'");
    let before = node.value(&position);
    fill_wal(database, 2);
    for statement in [
        "SELECT * FROM spock.clone_recovery_slot()",
        "SELECT spock.advance_recovery_slot()",
        "SELECT spock.drop_recovery_slot()",
        "SELECT spock.node_drop('n1')",
        "SELECT spock.node_drop('n2')",
        "CALL spock.recover_run('n2', 'n3')",
    ] {
        assert_refused(node, statement);
    }
    rounds(node);
    assert_eq!(node.value(&position), before, "the slot was moved");
    // Neither is it dropped where no slot is to be, nor made anew where there is none.
    node.set(&[("spock.enable_recovery_slots", "off")]);
    rounds(node);
    node.restart();
    wait_blocked(database, "record_unreadable");
    assert_eq!(node.value(THERE), "1");
    assert_eq!(node.value("SELECT slot_name FROM spock.get_recovery_slot_status()"), SLOT);
    node.set(&[("spock.enable_recovery_slots", "on")]);
    node.sql(&format!("SELECT pg_drop_replication_slot('{SLOT}')"));
    rounds(node);
    assert_eq!(node.value(THERE), "0");
    assert_eq!(record.text(), unreadable);

    record.replace((LATER.1, LATER.0));
    // It is known again that there was a slot, and that it is gone.
    cluster.expect_log("is missing; creating generation 2");
    wait_slot(database, 2);
    assert_eq!(verdict(database, "retention record"), "");
    // A newer library's field stays when the slot moves on.
    node.sql("SELECT spock.node_drop('n2'), spock.node_drop('n3')");
    record.edit(NEWER);
    let end = node.value("SELECT pg_current_wal_insert_lsn()");
    fill_wal(database, 1);
    node.wait_until(&position.replace("confirmed_flush_lsn", &format!("confirmed_flush_lsn > '{end}'")), "t");
    assert!(record.text().contains(NEWER_FIELD), "{}", record.text());
}

#[test]
fn after_the_extension_is_dropped_an_unreadable_record_still_holds_the_slot() {
    let cluster = quick("documents_record_dropped").start();
    let [node] = cluster.all();
    let database = node.db("postgres");
    make_node(database, "n1", &node.dsn("postgres"));
    wait_slot(database, 1);
    cluster.expect_log("cannot be read");
    let record = Label::record(node);
    let unreadable = record.edit(LATER);
    node.sql("DROP EXTENSION spock_recovery CASCADE");
    node.wait_log("spock_recovery skips the recovery slot: the retention record in the label of DATABASE postgres");
    rounds(node);
    assert_eq!((node.value(THERE).as_str(), record.text()), ("1", unreadable));
    record.replace((LATER.1, LATER.0));
    node.wait_until(THERE, "0");
    node.wait_until("SELECT count(*) FROM pg_shseclabel", "0");
}
