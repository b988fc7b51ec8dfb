//! What ends comes back, alone, and not in a tight loop.

use std::time::{Duration, Instant};

use super::*;
use crate::cluster::Action;
use crate::failpoint_names as names;

/// The workers, without those of one kind in one database.
fn others(server: &Node, kind: &str, database: &str) -> Vec<Worker> {
    let mut all = workers(server);
    all.retain(|worker| (worker.kind.as_str(), worker.database.as_str()) != (kind, database));
    all
}

/// Both sides have been asked once more: whoever was to leave has left.
fn wait_answers(server: &Node) {
    wait_answer(server, "a", "n2");
    wait_answer(server, "b", "n1");
}

#[test]
fn a_terminated_manager_comes_back_and_nothing_else_restarts() {
    let cluster = without_naps("workers_manager_term").start();
    let [server] = cluster.all();
    two_nodes_in_one_server(server);
    let before = others(server, "manager", "a");
    let manager = wait_worker(server, "manager", "a");
    server.sigterm(manager);
    wait_another(server, "manager", "a", manager);
    wait_answers(server);
    assert_eq!(others(server, "manager", "a"), before);
    assert_eq!(super::names(&before), ["launcher", "manager b", "poller a", "poller b"]);
}

#[test]
fn a_terminated_poller_comes_back_and_nothing_else_restarts() {
    let cluster = without_naps("workers_poller_term").start();
    let [server] = cluster.all();
    two_nodes_in_one_server(server);
    let before = others(server, "poller", "a");
    let poller = wait_worker(server, "poller", "a");
    // Where it is interrupted within a question.
    server.expect_log("terminating background worker \"spock_recovery");
    server.sigterm(poller);
    wait_another(server, "poller", "a", poller);
    wait_answers(server);
    assert_eq!(others(server, "poller", "a"), before);
}

#[test]
fn a_poller_that_comes_back_is_registered_once() {
    let cluster = without_naps("workers_poller_once").setting("log_min_messages", "debug1").start();
    let [server] = cluster.all();
    two_nodes_in_one_server(server);
    server.expect_log("terminating background worker \"spock_recovery");
    let registered = log_count(server, "starting background worker process \"spock_recovery poller n2\"");
    let poller = wait_worker(server, "poller", "a");
    server.sigterm(poller);
    // The manager looks again and again while the new one comes up.
    while wait_count(server, poller) == 0 {
        server.db("a").sql("ALTER SERVER n2 OPTIONS (ADD database '1'); ALTER SERVER n2 OPTIONS (DROP database)");
    }
    wait_answer(server, "a", "n2");
    assert_eq!(log_count(server, "starting background worker process \"spock_recovery poller n2\""), registered + 1);
}

/// Pollers of `a` other than this one.
fn wait_count(server: &Node, pid: i32) -> usize {
    workers(server)
        .iter()
        .filter(|worker| worker.kind == "poller" && worker.database == "a" && worker.pid != pid)
        .count()
}

#[test]
fn a_new_launcher_adopts_the_managers_of_the_one_before_it() {
    let cluster = without_naps("workers_launcher_term").start();
    let [server] = cluster.all();
    two_nodes_in_one_server(server);
    let before = others(server, "launcher", "");
    let launcher = wait_worker(server, "launcher", "");
    server.sigterm(launcher);
    let adopter = wait_another(server, "launcher", "", launcher);
    wait_answers(server);
    assert_eq!(others(server, "launcher", ""), before);
    let manager = wait_worker(server, "manager", "b");
    server.sigterm(manager);
    wait_another(server, "manager", "b", manager);
    assert_eq!(wait_worker(server, "launcher", ""), adopter);
}

#[test]
fn after_kill_9_of_a_manager_the_reset_server_has_everything_running_again() {
    let cluster = without_naps("workers_manager_kill9").start();
    let [server] = cluster.all();
    two_nodes_in_one_server(server);
    let before = workers(server);
    server.kill9_process(wait_worker(server, "manager", "a"));
    server.wait_log("all server processes terminated; reinitializing");
    for (kind, database) in [("launcher", ""), ("manager", "a"), ("manager", "b"), ("poller", "a"), ("poller", "b")] {
        wait_worker(server, kind, database);
    }
    wait_answers(server);
    let after = workers(server);
    assert_eq!(super::names(&after), super::names(&before));
    assert!(after.iter().all(|worker| !before.contains(worker)));
}

#[test]
fn a_manager_that_fails_at_each_start_is_started_later_each_time() {
    let cluster = without_naps("workers_backoff").start();
    let [server] = cluster.all();
    server.sql("CREATE EXTENSION spock_recovery");
    let manager = wait_worker(server, "manager", "postgres");
    server.arm(names::MANAGER_START, Action::Error);
    server.sigterm(manager);
    server.wait_hit(names::MANAGER_START);
    let first = Instant::now();
    for _ in 0..2 {
        server.arm(names::MANAGER_START, Action::Error);
        server.wait_hit(names::MANAGER_START);
    }
    // One second, then two: backoff.rs. A start too many would show as a failure too many.
    assert!(first.elapsed() > Duration::from_millis(2_500), "{:?}", first.elapsed());
    // The last one logs after it has left its mark; the manager that comes up then shows that it was the last.
    wait_worker(server, "manager", "postgres");
    assert_eq!(log_count(server, "failpoint \"manager_start\" was armed"), 3);
}

#[test]
fn titles_and_pg_stat_activity_say_what_each_worker_does() {
    let cluster = without_naps("workers_titles").start();
    let [server] = cluster.all();
    two_nodes_in_one_server(server);
    for (kind, event, activity) in [
        ("launcher", "SpockRecoveryLauncherMain", "looking for databases"),
        ("manager", "SpockRecoveryManagerMain", "looking at nodes and subscriptions"),
        ("poller", "SpockRecoveryPollerMain", "asking"),
    ] {
        server.wait_until(
            &format!(
                "SELECT DISTINCT wait_event_type, wait_event, state, query FROM pg_stat_activity
                  WHERE backend_type = 'spock_recovery {kind}'"
            ),
            &format!("Extension|{event}|idle|{activity}"),
        );
    }
    for title in ["launcher idle", "manager a idle", "manager b idle", "poller n2 idle", "poller n1 idle"] {
        server.wait_process(&format!("spock_recovery {title}"));
    }
    server.arm(names::MANAGER_TICK, Action::Wait);
    server.db("a").sql("SELECT spock.peer_create('n3', 'dbname=postgres')");
    server.wait_until(
        "SELECT wait_event FROM pg_stat_activity WHERE backend_type = 'spock_recovery manager' AND datname = 'a'",
        "SpockRecoveryFailpoint",
    );
    server.disarm(names::MANAGER_TICK);
}
