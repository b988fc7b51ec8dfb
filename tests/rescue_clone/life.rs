//! Who keeps a clone, and for how long: its time if nobody has claimed it, else what its target says.

use std::process::{Child, Stdio};

use super::*;
use crate::cluster::Action;
use crate::failpoint_names as names;

/// n3 on the first server, n2 on the second; n2 has an unfinished intent.
fn pair(name: &str) -> Cluster {
    let cluster = quick(name).nodes(2).setting("spock.peer_timeout", "500ms").start();
    let [source, target] = cluster.all();
    cluster.expect_log("schema \"spock\" does not exist");
    make_node(target.db("postgres"), "n2", &target.dsn("postgres"));
    set_journal(target.db("postgres"), &journal_of(target.db("postgres"), None, &[intent(INTENT, "n1", "")]));
    make_node(source.db("postgres"), "n3", &source.dsn("postgres"));
    source.sql("SELECT spock.peer_create('n1', 'host=/nonexistent')");
    source.sql(&format!("SELECT spock.peer_create('n2', '{}')", target.dsn("postgres")));
    wait_slot(source.db("postgres"), 1);
    cluster
}

fn says(source: &Node, expected: &str) {
    source.wait_until("SELECT target_says FROM spock.recovery_clones()", expected);
}

/// A clone of the intent, about which its target was heard.
fn claimed(source: &Node) -> String {
    let clone = made(source.db("postgres"), "'n1', 'n2'");
    source.sql(&claim(&clone, INTENT));
    says(source, "unfinished");
    clone
}

fn assert_stays(source: &Node, clone: &str) {
    wait_rounds(source.db("postgres"), 5);
    assert_eq!(source.value("SELECT slot_name, usable FROM spock.recovery_clones()"), format!("{clone}|t"));
    assert_eq!(source.value(CLONES), "1");
}

const IN_RECOVERY: &str = "SELECT in_recovery, blocked_reason FROM spock.get_recovery_slot_status()";

#[test]
fn a_claimed_clone_outlives_its_time_a_silent_target_and_restarts_and_goes_when_the_recovery_has_ended() {
    let cluster = pair("rescue_clone_silent");
    let [source, target] = cluster.all();
    let clone = claimed(source);
    source.wait_until(IN_RECOVERY, "t|rescue_in_progress");
    source.set(&[("spock.rescue_clone_ttl", "100ms")]);
    assert_stays(source, &clone);
    assert_eq!(health(source.db("postgres"), &format!("clone {clone}")), "");

    target.pause();
    says(source, "silent");
    assert_stays(source, &clone);
    let row = health(source.db("postgres"), &format!("clone {clone}"));
    assert!(row.starts_with("WARNING|keeps ") && row.contains("node \"n2\"") && row.contains(INTENT), "{row}");
    assert!(row.contains(&format!("SELECT pg_drop_replication_slot('{clone}')")), "{row}");
    assert!(health(source.db("postgres"), "rescue_capacity").starts_with("HEALTHY|"));

    // The source forgets what it has heard, and nothing else.
    source.kill9();
    source.start();
    wait_slot(source.db("postgres"), 1);
    says(source, "silent");
    source.wait_until(IN_RECOVERY, "t|rescue_in_progress");
    assert_stays(source, &clone);

    target.resume();
    says(source, "unfinished");
    target.restart();
    says(source, "unfinished");
    assert_stays(source, &clone);

    let ended = journal_of(target.db("postgres"), None, &[intent(INTENT, "n1", ENDED)]);
    set_journal(target.db("postgres"), &ended);
    source.wait_until(CLONES, "0");
    source.wait_until(REGISTERED, "0");
    source.wait_until(IN_RECOVERY, "f|");
    let line =
        format!("dropped clone \"{clone}\" of the recovery slot: node \"n2\" reports that intent {INTENT} has ended");
    assert_logged_once(source, &line);
    assert_logged_once(source, "dropped clone");
}

#[test]
fn a_clone_of_an_intent_that_its_target_does_not_know_goes_when_the_target_is_back_and_says_so() {
    let cluster = pair("rescue_clone_unknown");
    let [source, target] = cluster.all();
    let clone = claimed(source);
    target.kill9();
    says(source, "silent");
    assert_stays(source, &clone);
    // It comes back having forgotten: before its poller can ask, the journal must be another one.
    target.start();
    says(source, "unfinished");
    set_journal(target.db("postgres"), &journal_of(target.db("postgres"), None, &[intent(OTHER_INTENT, "n1", "")]));
    source.wait_until(CLONES, "0");
    source.wait_until(REGISTERED, "0");
    assert_logged_once(source, &format!("dropped clone \"{clone}\""));
}

#[test]
fn only_the_target_itself_can_say_that_a_recovery_has_ended() {
    let cluster = quick("rescue_clone_other_node").start();
    let [server] = cluster.all();
    make_source(server);
    server.sql("CREATE DATABASE other STRATEGY file_copy");
    make_node(server.db("other"), "n9", &server.dsn("other"));
    let clone = made(server.db("postgres"), "'n1', 'n2'");
    server.sql(&claim(&clone, INTENT));
    // Another node answers in n2's place: it knows of no such intent, and is asked by nobody.
    server.sql("SELECT spock.node_drop('n2')");
    wait_rounds(server.db("postgres"), 2);
    server.sql(&format!("SELECT spock.peer_create('n2', '{}')", server.dsn("other")));
    server.wait_until("SELECT state FROM spock.peer_status() WHERE node_name = 'n2'", "other node");
    wait_rounds(server.db("postgres"), 5);
    assert_eq!(server.value("SELECT slot_name, target_says FROM spock.recovery_clones()"), format!("{clone}|silent"));
    // A target that is dropped as dead for good leaves the clone to the administrator.
    server.sql("SELECT spock.node_drop('n2')");
    wait_rounds(server.db("postgres"), 5);
    assert_eq!(server.value("SELECT slot_name, target_says FROM spock.recovery_clones()"), format!("{clone}|silent"));
    server.sql(&format!("SELECT pg_drop_replication_slot('{clone}')"));
    server.wait_until(REGISTERED, "0");
    server.wait_until("SELECT in_recovery FROM spock.get_recovery_slot_status()", "f");
    assert_logged_once(server, &format!("clone \"{clone}\" of the recovery slot does not exist any more"));
}

/// A client that has a slot.
struct Receiver(Child);

impl Receiver {
    fn start(cluster: &Cluster, node: &Node, slot: &str) -> Receiver {
        let child = cluster
            .user()
            .command(&cluster.installation().bindir.join("pg_recvlogical"))
            .args(["--dbname", &node.dsn("postgres"), "--slot", slot, "--start", "--no-loop", "--file", "/dev/null"])
            .env(
                "PGOPTIONS",
                "-c spock.rescue_origin=1 -c spock.rescue_skip_lsn=0/0 -c spock.rescue_stop_lsn=0/1 -c spock.rescue_tables=1",
            )
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("pg_recvlogical");
        node.wait_until(&format!("SELECT active FROM pg_replication_slots WHERE slot_name = '{slot}'"), "t");
        Receiver(child)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn an_unclaimed_clone_goes_when_its_time_is_over_and_nobody_uses_it() {
    let cluster = source("rescue_clone_ttl");
    let [n3] = cluster.all();
    let (used, idle) = (made(n3.db("postgres"), "'n1', 'n2'"), made(n3.db("postgres"), ""));
    assert_eq!(n3.value("SHOW spock.rescue_clone_ttl"), "1d");
    wait_rounds(n3.db("postgres"), 5);
    assert_eq!(n3.value(REGISTERED), "2");
    let receiver = Receiver::start(&cluster, n3, &used);
    n3.set(&[("spock.rescue_clone_ttl", "100ms")]);
    n3.wait_until("SELECT slot_name, active FROM spock.recovery_clones()", &format!("{used}|t"));
    wait_rounds(n3.db("postgres"), 5);
    assert_eq!(n3.value(CLONES), "1");
    drop(receiver);
    n3.wait_until(CLONES, "0");
    n3.wait_until(REGISTERED, "0");
    for clone in [used, idle] {
        assert_logged_once(n3, &format!("dropped clone \"{clone}\" of the recovery slot: no recovery has claimed it"));
    }
    assert_eq!(log_count(n3, "could not maintain"), 0);
    wait_slot(n3.db("postgres"), 1);
}

#[test]
fn a_claim_wins_over_a_drop_that_was_decided_before_it() {
    let cluster = source("rescue_clone_race");
    let [n3] = cluster.all();
    let clone = made(n3.db("postgres"), "'n1', 'n2'");
    let (head, decided) = (names::MANAGER_TICK, names::MANAGER_RECORD_WRITTEN);
    let go_on = |from: &str, to: &str| {
        n3.arm(to, Action::Wait);
        n3.disarm(from);
        n3.wait_hit(to);
    };
    n3.arm(head, Action::Wait);
    n3.wait_hit(head);
    n3.set(&[("spock.rescue_clone_ttl", "100ms")]);
    // A round reads the setting before it comes to its head: the one under way still has the old one.
    go_on(head, decided);
    go_on(decided, head);
    go_on(head, decided);
    n3.sql(&claim(&clone, INTENT));
    n3.disarm(decided);
    wait_rounds(n3.db("postgres"), 5);
    assert_eq!(n3.value("SELECT slot_name, intent_id FROM spock.recovery_clones()"), format!("{clone}|{INTENT}"));
    assert_eq!(n3.value(CLONES), "1");
    assert_eq!(log_count(n3, "dropped clone"), 0);
}

#[test]
fn what_is_being_claimed_is_not_waited_for_and_a_claim_that_is_rolled_back_is_none() {
    let cluster = source("rescue_clone_held");
    let [n3] = cluster.all();
    let clone = made(n3.db("postgres"), "'n1', 'n2'");
    let other = made(n3.db("postgres"), "'n1', 'n2'");
    let mut session = n3.session();
    session.sql("BEGIN");
    session.sql(&claim(&clone, INTENT));
    session.sql("SAVEPOINT before");
    session.sql(&claim(&other, OTHER_INTENT));
    session.sql("ROLLBACK TO before");
    n3.set(&[("spock.rescue_clone_ttl", "100ms")]);
    // The session holds the journal; the manager goes round and round.
    wait_rounds(n3.db("postgres"), 5);
    assert_eq!(n3.value(CLONES), "2");
    session.sql("COMMIT");
    assert_logged_once(n3, &format!("dropped clone \"{other}\" of the recovery slot: no recovery has claimed it"));
    wait_rounds(n3.db("postgres"), 5);
    assert_eq!(n3.value("SELECT slot_name, intent_id FROM spock.recovery_clones()"), format!("{clone}|{INTENT}"));
    assert_logged_once(n3, "dropped clone");
}
