//! One recovery, by one call.

use super::{assert_tidy, mesh_of, report_of_last, run, with_gap, write};
use crate::cluster::Cluster;
use crate::rescue::{applied, assert_identical, assert_replicate, drain, enabled};
use std::thread;

#[test]
fn one_call_without_any_argument_but_the_failed_node_recovers_the_node_at_hand() {
    let cluster = with_gap("recover_local");
    let [_, n2, n3] = cluster.all();
    assert_eq!(run(n2, "'n1'", "transactions"), "50");
    assert_identical(n2, n3);
    assert_eq!(applied(n2), applied(n3));
    assert_eq!(enabled(n2), "sub_n2_n1|f\nsub_n2_n3|t");
    assert_tidy(&[n2, n3], &["n1"]);
    assert_replicate(n2, n3);
    // Again: nothing is missing, and nothing is done.
    n2.sql("CALL spock.recover_run('n1')");
    assert_eq!(n2.value("SELECT count(*) FROM spock.recovery_intents()"), "1");
}

#[test]
fn the_call_works_from_the_source_and_tells_its_story() {
    let cluster = with_gap("recover_source");
    let [_, n2, n3] = cluster.all();
    let mut session = n3.session();
    session.sql("CALL spock.recover_run('n1', verb => true)");
    let notices = session.notices().join("\n");
    for part in [
        "node \"n2\" lacks",
        "replaying from",
        "node \"n1\" is recovered on node \"n2\": 50 transactions, 50 rows from node \"n3\"",
    ] {
        assert!(notices.contains(part), "{part} is not in\n{notices}");
    }
    assert_eq!(report_of_last(n2, "transactions"), "50");
    assert_identical(n2, n3);
    assert_tidy(&[n2, n3], &["n1"]);
}

#[test]
fn a_third_node_coordinates_and_two_calls_at_once_do_it_once() {
    let cluster = mesh_of("recover_third", 4);
    let [n1, n2, n3, n4] = cluster.all();
    for node in [n2, n3, n4] {
        drain(n1, node);
    }
    crate::rescue::hold_back(n2);
    write(n1, 1, 40);
    for node in [n3, n4] {
        drain(n1, node);
    }
    n1.kill9();
    let call = "CALL spock.recover_run(failed_node_name => 'n1', source_node_name => 'n3', target_node_name => 'n2')";
    thread::scope(|scope| {
        let other = scope.spawn(|| n3.sql(call));
        n4.sql(call);
        other.join().expect("the other call succeeds too");
    });
    assert_eq!(n2.value("SELECT count(*) FROM spock.recovery_intents() WHERE phase = 'completed'"), "1");
    assert_eq!(report_of_last(n2, "transactions"), "40");
    assert_identical(n2, n3);
    // It was disabled before, and is not a recovery's business.
    assert!(enabled(n2).starts_with("sub_n2_n1|f\n"));
    assert_tidy(&[n2, n3, n4], &[]);
}

#[test]
fn phases_can_be_called_one_by_one() {
    let cluster = with_gap("recover_phases");
    let [_, n2, n3] = cluster.all();
    assert_eq!(n2.value("CALL spock.recover_precheck('n1')"), "t");
    assert_eq!(n2.value("SELECT count(*) FROM spock.recovery_intents()"), "0");
    let (source, target) = (n3.dsn("postgres"), n2.dsn("postgres"));
    let clone = n3.value(&format!("CALL spock.recover_phase_clone('n1', 'n3', '{source}', 'n2', '{target}')"));
    assert!(clone.starts_with("spk_recovery_postgres_clone_"), "{clone}");
    n3.sql(&format!("CALL spock.recover_finalize('{target}', 'n2', 'n1', '{source}', '{clone}')"));
    assert_eq!(report_of_last(n2, "transactions"), "50");
    assert_eq!(
        n2.value("SELECT count(*) FROM pg_user_mapping WHERE umuser = 10"),
        "0",
        "the connection string is gone"
    );
    assert_eq!(n2.value("CALL spock.recover_precheck('n1')"), "f");
    assert_tidy(&[n2, n3], &["n1"]);
}

/// n2 has applied one of n1's thirty transactions out of n3's WAL, and waits for n3, which is dead; n4 has all as well.
fn start_without_source(name: &str) -> Cluster {
    let cluster = mesh_of(name, 4);
    let [n1, n2, n3, n4] = cluster.all();
    for node in [n2, n3, n4] {
        drain(n1, node);
    }
    crate::rescue::hold_back(n2);
    // More than fits on the way between two nodes.
    n1.sql(
        "DO $$ BEGIN FOR i IN 1 .. 30 LOOP
             INSERT INTO t SELECT i * 10000 + g, repeat('x', 400) FROM generate_series(1, 2000) g; COMMIT;
         END LOOP; END $$",
    );
    for node in [n3, n4] {
        drain(n1, node);
    }
    n1.kill9();
    n2.arm(crate::failpoint_names::RESCUE_AFTER_COMMIT, crate::cluster::Action::Wait);
    n2.sql("SELECT spock_internal.begin_recovery('n1', 'n3', 'n2')");
    n2.wait_hit(crate::failpoint_names::RESCUE_AFTER_COMMIT);
    n3.kill9();
    n2.disarm(crate::failpoint_names::RESCUE_AFTER_COMMIT);
    n2.wait_until("SELECT count(*) FROM spock.recovery_intents() WHERE ended_at IS NULL AND error IS NOT NULL", "1");
    cluster
}

fn assert_switched(cluster: &Cluster) {
    let [_, n2, _, n4] = cluster.all();
    assert_eq!(n2.value("SELECT count(*) FROM t"), "60000");
    let total = "SELECT sum((summary->>'transactions')::int) FROM spock.recovery_intents()";
    assert_eq!(n2.value(total), "30", "each once, from two sources");
    assert_identical(n2, n4);
    assert_eq!(applied(n2), applied(n4));
    assert_tidy(&[n2, n4], &["n1"]);
}

#[test]
fn a_source_that_dies_is_replaced_by_another_survivor_at_the_position_reached() {
    let cluster = start_without_source("recover_switch");
    cluster.node("n2").sql("CALL spock.recover_run('n1')");
    assert_switched(&cluster);
}

#[test]
fn a_recovery_of_all_survivors_goes_on_from_another_source_too() {
    let cluster = start_without_source("recover_switch_all");
    let mut session = cluster.node("n4").session();
    session.sql("CALL spock.recover_failed_node('n1')");
    let notices = session.notices().join("\n");
    assert!(notices.contains("has lost its source, and goes on from node \"n4\""), "{notices}");
    assert_switched(&cluster);
}
