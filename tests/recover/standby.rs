//! A synchronous standby that is not there, for it was on the node that is lost: nothing of ours waits for it, and what users
//! have asked of their own commits stays as it was.

use std::thread;
use std::time::Duration;

use super::{assert_tidy, with_gap};
use crate::cluster::Node;
use crate::rescue::{assert_identical, drain};

/// Runs it as a statement by itself. A wait for the standby has no limit: it is ended here, which is a WARNING.
fn alone(node: &Node, database: &str, statement: &str) {
    let notices = thread::scope(|scope| {
        let running = scope.spawn(|| {
            let mut session = node.db(database).session();
            session.sql(statement);
            session.notices()
        });
        while !running.is_finished() {
            node.sql("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'");
            thread::sleep(Duration::from_millis(50));
        }
        running.join().expect("the statement returns")
    });
    let waited = notices.iter().find(|notice| notice.contains("synchronous replication"));
    assert!(waited.is_none(), "{statement}: {notices:?}");
}

#[test]
fn nothing_of_a_recovery_waits_for_a_synchronous_standby_that_is_lost() {
    let cluster = with_gap("recover_standby");
    let [_, n2, n3] = cluster.all();
    n2.sql("CREATE DATABASE second");
    n2.db("second").sql("CREATE EXTENSION spock_recovery");
    for node in [n2, n3] {
        node.set(&[("synchronous_standby_names", "nobody")]);
        // The checkpointer tells everybody of it.
        node.wait_until("SELECT setting FROM pg_settings WHERE name = 'synchronous_standby_names'", "nobody");
    }
    // From another node, so that what is begun there by a session of ours is committed there, too.
    alone(n3, "postgres", "CALL spock.recover_phase_clone('n1', 'n3', NULL, 'n2', NULL)");
    alone(n3, "postgres", "CALL spock.recover_run('n1', target_node_name := 'n2')");
    alone(n2, "postgres", "CALL spock.recover_failed_node('n1')");
    n2.wait_until("SELECT count(*) FROM spock.recovery_intents() WHERE ended_at IS NULL", "0");
    alone(n2, "postgres", "SELECT * FROM spock.clone_recovery_slot('n1', 'n3')");
    n2.sql("SELECT pg_drop_replication_slot(slot_name) FROM spock.recovery_clones()");
    let dsn = n3.dsn("postgres");
    for statement in [
        format!("SELECT spock.peer_create('n9', '{dsn} application_name=nine')"),
        "SELECT spock.node_drop('n9')".to_owned(),
        "SELECT spock.sub_set_origin('sub_n2_n3', 'n3')".to_owned(),
        "SELECT spock.drop_recovery_slot()".to_owned(),
        "SELECT spock.create_recovery_slot()".to_owned(),
        "SELECT spock.advance_recovery_slot()".to_owned(),
    ] {
        alone(n2, "postgres", &statement);
    }
    alone(n2, "second", &format!("SELECT spock.node_create('second', '{}')", n2.dsn("second")));
    alone(n2, "second", "SELECT spock.node_drop('second')");

    // A user's own transaction is durable as the user has said.
    let mut user = n2.session();
    user.sql("BEGIN; INSERT INTO t VALUES (1000, 'of a user'); SELECT spock.sub_set_origin('sub_n2_n3', 'n3')");
    assert_eq!(user.value("SHOW synchronous_commit"), "on");
    user.sql("ROLLBACK");
    for node in [n2, n3] {
        node.set(&[("synchronous_standby_names", "")]);
    }
    assert_tidy(&[n2, n3], &["n1"]);
    drain(n2, n3);
    assert_identical(n2, n3);
}
