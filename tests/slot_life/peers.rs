//! Peers that misbehave: the slot keeps what they may need, says whom it waits for, and goes on with the others.

use std::fs;
use std::time::{Duration, Instant};

use super::*;

/// What a status function may take on a machine that others use too: they wait for nobody.
const PROMPT: Duration = Duration::from_secs(1);

/// Lines of n3's own workers in a second of polls are none; what tells of the change comes before.
const QUIET: usize = 2;

/// Waits until n3 says that n2 holds the slot, and how; in a healthy mesh within two polls.
fn wait_held(n3: &Node, reason: &str) {
    n3.wait_until("SELECT DISTINCT blocked_reason FROM spock.recovery_horizon() WHERE peer_node = 'n2'", reason);
    wait_blocked(n3.db("postgres"), reason);
}

/// n1 writes what n2 lacks: whatever n3 is told to do, it can be decoded from its slot; and n1's readings go on, quietly.
fn keeps_what_n2_lacks(n1: &Node, n3: &Node, reason: &str) {
    let ids: Vec<u32> = (100..110).collect();
    for id in &ids {
        n1.sql(&format!("INSERT INTO t VALUES ({id}, 'missed')"));
    }
    n3.wait_until("SELECT count(*) FROM t WHERE v = 'missed'", "10");
    wait_held(n3, reason);
    let said = log_lines(n3);
    // Where n1 calls n2 by another name, n3 has no row for the two.
    let reported = "SELECT coalesce((SELECT reported_at FROM spock.recovery_horizon() WHERE peer_node = 'n1'),
                                    (SELECT last_contact FROM spock.peer_status() WHERE node_name = 'n1'))";
    // More than a dozen polls of n1 and tries of n2.
    let now = n3.value("SELECT clock_timestamp()");
    n3.wait_until(&format!("SELECT ({reported}) > '{now}'::timestamptz + interval '1500 ms'"), "t");
    fill_wal(n3.db("postgres"), 1);
    for _ in 0..3 {
        n3.sql("SELECT spock.advance_recovery_slot()");
    }
    n3.sql("CHECKPOINT");
    let kept = decodable(n3);
    assert!(ids.iter().all(|id| kept.contains(id)), "{kept:?}");
    wait_held(n3, reason);
    let said = log_lines(n3) - said;
    assert!(said <= QUIET, "{said} lines:\n{}", n3.log());
}

/// Lines that our own workers have written.
fn log_lines(node: &Node) -> usize {
    let is_ours =
        |line: &&str| line.contains("] spock_recovery ") && line.contains("LOG:  ") || line.contains("WARNING:  ");
    node.log().lines().filter(is_ours).count()
}

/// After n2 is itself again it gets what it missed, and the slot follows.
fn follows_again(n2: &Node, n3: &Node) {
    n2.wait_until("SELECT count(*) FROM t WHERE v = 'missed'", "10");
    wait_blocked(n3.db("postgres"), "");
    wait_follows(n3.db("postgres"));
}

#[test]
fn a_stopped_peer_holds_the_slot_until_it_is_back_or_was_dropped() {
    let cluster = mesh_of_three("slot_life_peer_stopped");
    let [n1, n2, n3] = cluster.all();
    n2.stop_fast();
    keeps_what_n2_lacks(n1, n3, "peer_unreachable");
    n2.start();
    follows_again(n2, n3);
    // Dead for good.
    n2.stop_immediate();
    n1.sql("INSERT INTO t VALUES (200, 'late')");
    wait_held(n3, "peer_unreachable");
    let verdict = health(n3.db("postgres"), "retention");
    assert!(verdict.starts_with("WARNING|"), "{verdict}");
    assert!(verdict.contains("held by node \"n2\" (peer_unreachable)"), "{verdict}");
    assert!(verdict.contains("SELECT spock.node_drop('n2')"), "{verdict}");
    n3.sql("ALTER SUBSCRIPTION sub_n3_n2 DISABLE");
    n3.sql("ALTER SUBSCRIPTION sub_n3_n2 SET (slot_name = NONE)");
    n3.sql("DROP SUBSCRIPTION sub_n3_n2; SELECT spock.node_drop('n2')");
    // The slot of n2's own subscription is left.
    wait_blocked(n3.db("postgres"), "outgoing_slot");
    let verdict = health(n3.db("postgres"), "retention");
    assert!(verdict.contains("held by the outgoing slot \"sub_n2_n3\" (outgoing_slot)"), "{verdict}");
    n3.sql("SELECT pg_drop_replication_slot('sub_n2_n3')");
    wait_blocked(n3.db("postgres"), "");
    wait_follows(n3.db("postgres"));
    assert!(health(n3.db("postgres"), "retention").starts_with("HEALTHY|"));
}

#[test]
fn a_paused_peer_holds_the_slot_and_nobody_waits_for_it() {
    let cluster = mesh_of_three("slot_life_peer_paused");
    let [n1, n2, n3] = cluster.all();
    n2.pause();
    keeps_what_n2_lacks(n1, n3, "peer_unreachable");
    n1.pause();
    n3.wait_until("SELECT count(*) FROM spock.peer_status() WHERE state = 'unreachable'", "2");
    let mut session = n3.session();
    for query in [
        "spock.get_recovery_slot_status()",
        "spock.recovery_horizon()",
        "spock.quick_health_check()",
        "spock.lag_tracker",
        "spock.node_positions()",
    ] {
        let begun = Instant::now();
        assert_ne!(session.value(&format!("SELECT count(*) FROM {query}")), "0", "{query}");
        assert!(begun.elapsed() < PROMPT, "{query}: {:?}", begun.elapsed());
    }
    for peer in ["n1", "n2"] {
        let verdict = health(n3.db("postgres"), &format!("peer {peer}"));
        assert!(verdict.starts_with("CRITICAL|unreachable: "), "{verdict}");
    }
    n1.resume();
    n2.resume();
    follows_again(n2, n3);
}

#[test]
fn a_peer_that_answers_by_another_name_holds_the_slot_as_unknown() {
    let cluster = mesh_of_three("slot_life_peer_renamed");
    let [n1, n2, n3] = cluster.all();
    // By the administrator's word: it is not looked for under another name.
    n3.sql(&format!("SELECT spock.peer_create('n2', '{}')", n2.dsn("postgres")));
    n2.sql("ALTER SUBSCRIPTION sub_n2_n1 DISABLE");
    n2.sql("ALTER SERVER n2 RENAME TO stranger");
    keeps_what_n2_lacks(n1, n3, "peer_unknown");
    let verdict = health(n3.db("postgres"), "peer n2");
    assert!(verdict.contains("it says that it is node \"stranger\""), "{verdict}");
    assert!(health(n3.db("postgres"), "retention").contains("held by node \"n2\" (peer_unknown)"));
    // What the stranger has passed is not n2's.
    n2.sql("ALTER SUBSCRIPTION sub_n2_n1 ENABLE");
    n2.wait_until("SELECT count(*) FROM t WHERE v = 'missed'", "10");
    wait_rounds(n3.db("postgres"), 5);
    n3.sql("SELECT spock.advance_recovery_slot()");
    assert_eq!(decodable(n3).iter().filter(|id| **id >= 100).count(), 10);
    n2.sql("ALTER SERVER stranger RENAME TO n2");
    follows_again(n2, n3);
}

#[test]
fn a_peer_that_was_made_anew_under_another_name_is_kept_for_under_that_name() {
    let cluster = mesh_of_three("slot_life_peer_anew");
    let [n1, n2, n3] = cluster.all();
    n2.sql("ALTER SUBSCRIPTION sub_n2_n1 DISABLE");
    n2.sql(&format!("SELECT spock.node_drop('n2'); SELECT spock.node_create('n4', '{}')", n2.dsn("postgres")));
    // It is the same server: nobody is left by the old name.
    n3.wait_until("SELECT string_agg(node_name, ' ' ORDER BY node_name) FROM spock.node", "n1 n3 n4");
    let ids: Vec<u32> = (100..110).collect();
    for id in &ids {
        n1.sql(&format!("INSERT INTO t VALUES ({id}, 'missed')"));
    }
    n3.wait_until("SELECT count(*) FROM t WHERE v = 'missed'", "10");
    n3.wait_until(
        "SELECT count(*) FROM spock.recovery_horizon() WHERE peer_node = 'n4' AND origin_node = 'n1' AND blocked_reason <> ''",
        "1",
    );
    fill_wal(n3.db("postgres"), 1);
    for _ in 0..3 {
        n3.sql("SELECT spock.advance_recovery_slot()");
    }
    let kept = decodable(n3);
    assert!(ids.iter().all(|id| kept.contains(id)), "{kept:?}");
    n2.sql("ALTER SUBSCRIPTION sub_n2_n1 ENABLE");
    n2.wait_until("SELECT count(*) FROM t WHERE v = 'missed'", "10");
    // The subscription of n4 is another history: its first transaction settles what the slot vouches for.
    n2.sql("INSERT INTO t VALUES (300, 'of n4')");
    wait_follows(n3.db("postgres"));
    wait_blocked(n3.db("postgres"), "");
}

#[test]
fn a_peer_that_refuses_the_password_holds_the_slot_and_the_password_is_shown_nowhere() {
    let cluster = mesh_of_three("slot_life_peer_password");
    let [n1, n2, n3] = cluster.all();
    n2.expect_log("password authentication failed");
    let hba = n2.data().join("pg_hba.conf");
    let trusting = fs::read_to_string(&hba).expect("pg_hba.conf can be read");
    fs::write(&hba, format!("local all polling scram-sha-256\n{trusting}")).expect("it can be written");
    n2.sql("CREATE ROLE polling LOGIN PASSWORD 'right' IN ROLE pg_monitor; SELECT pg_reload_conf()");
    let dsn = n2.dsn("postgres").replace("user=postgres", "user=polling");
    // Its subscription does not reach it either: what is asked of a peer and what it sends are two things.
    n2.sql("ALTER SUBSCRIPTION sub_n2_n1 DISABLE");
    n3.sql(&format!("SELECT spock.peer_create('n2', '{dsn} password=topsecret')"));
    keeps_what_n2_lacks(n1, n3, "peer_unreachable");
    let verdict = health(n3.db("postgres"), "peer n2");
    assert!(verdict.contains("password authentication failed"), "{verdict}");
    let written: Vec<String> =
        n3.log().lines().filter(|line| !line.contains("peer_create")).map(str::to_owned).collect();
    assert!(!verdict.contains("topsecret") && !written.iter().any(|line| line.contains("topsecret")));
    n2.sql("ALTER SUBSCRIPTION sub_n2_n1 ENABLE");
    n3.sql(&format!("ALTER USER MAPPING FOR PUBLIC SERVER n2 OPTIONS (SET dsn '{dsn} password=right')"));
    follows_again(n2, n3);
}
