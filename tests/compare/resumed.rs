//! A comparison that was broken off goes on where it stopped.

use super::{compare, differences, past_replication, start};
use crate::cluster::{Action, Node};
use crate::failpoint_names as names;
use crate::rescue::drain;
use std::thread;

const NOT_RUNNING: &str = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'spock_recovery comparison'";

/// Calls a comparison in a session of its own, cancels that when `ready` has returned, and returns what it says.
fn cancelled(n1: &Node, call: &str, ready: impl FnOnce()) -> String {
    thread::scope(|scope| {
        let caller = scope.spawn(|| n1.try_sql(call).expect_err("cancelled").to_string());
        ready();
        let cancel = format!(
            "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE query LIKE '{}%' AND pid <> pg_backend_pid()",
            call.replace('\'', "''")
        );
        assert_eq!(n1.value(&cancel), "1");
        caller.join().expect("the caller")
    })
}

#[test]
fn a_comparison_that_was_cancelled_or_has_crashed_goes_on_where_it_stopped() {
    let cluster = start(
        "compare_resumed",
        "CREATE TABLE a (id int PRIMARY KEY, v text); CREATE TABLE b (id int PRIMARY KEY, v text)",
    );
    let [n1, n2] = cluster.all();
    n1.sql("INSERT INTO a SELECT g, md5(g::text) FROM generate_series(1, 1000) g; INSERT INTO b SELECT g, repeat(md5(g::text), 10) FROM generate_series(1, 60000) g");
    drain(n1, n2);
    past_replication(n2, "UPDATE a SET v = 'x' WHERE id = 1; UPDATE b SET v = 'x' WHERE id IN (2, 59999)");
    // At 1 MB/s b takes twenty seconds; what was compared by then is kept every five.
    let slow = "CALL spock.compare('n2', pace_mb_per_s := 1, verb := true)";
    let position = "SELECT tables_done, rows_compared > 5000 FROM spock.comparisons";
    let said = cancelled(n1, slow, || n1.wait_until(position, "1|t"));
    assert!(said.contains("canceled the comparison") && said.contains("57014"), "{said}");
    n1.wait_until(NOT_RUNNING, "0");
    let run = n1.value("SELECT run_id FROM spock.comparisons");
    let done = n1.value("SELECT rows_compared FROM spock.comparisons");
    // The server crashes while the next call goes on; what is not committed by then is compared again.
    n1.arm(names::COMPARISON_NOTING, Action::Crash);
    let error = n1.try_sql("CALL spock.compare('n2', pace_mb_per_s := 1)").expect_err("crashed");
    assert!(error.is_disconnection(), "{error}");
    n1.wait_until(&format!("SELECT run_id, rows_compared >= {done} FROM spock.comparisons"), &format!("{run}|t"));
    let mut session = n1.session();
    let report = session.value("CALL spock.compare('n2', verb := true)");
    let notices = session.notices().join("\n");
    assert!(notices.contains("goes on with the comparison that was broken off"), "{notices}");
    let report: serde_json::Value = serde_json::from_str(&report).expect("a report");
    assert_eq!((report["run_id"].as_str(), &report["went_on"]), (Some(run.as_str()), &true.into()));
    assert_eq!(report["rows"], 61_002, "no range was compared twice: {report}");
    assert_eq!(
        differences(n1, &report),
        "a|{\"id\": \"1\"}|different|there\nb|{\"id\": \"2\"}|different|there\nb|{\"id\": \"59999\"}|different|there"
    );
    // It has ended: the next one begins anew.
    let report = compare(n1, "");
    assert_ne!(report["run_id"].as_str(), Some(run.as_str()));
    assert_eq!(report["went_on"], false);
}

#[test]
fn one_comparison_runs_at_a_time_and_ends_with_its_caller() {
    let cluster = start("compare_alone", "CREATE TABLE t (id int PRIMARY KEY, v text)");
    let [n1, n2] = cluster.all();
    n1.sql("INSERT INTO t SELECT g, repeat(md5(g::text), 10) FROM generate_series(1, 60000) g");
    drain(n1, n2);
    n1.expect_log("terminating connection due to administrator command");
    let running = "SELECT is_running FROM spock.comparisons";
    thread::scope(|scope| {
        let caller = scope.spawn(|| n1.try_sql("CALL spock.compare('n2', pace_mb_per_s := 1)").expect_err("ended"));
        n1.wait_until(running, "t");
        let error = n1.try_sql("CALL spock.compare('n2')").expect_err("running");
        assert_eq!(error.sqlstate, "55006", "{error}");
        // The caller is ended and cannot say anything.
        let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE query LIKE 'CALL spock.compare%' AND pid <> pg_backend_pid()";
        assert_eq!(n1.value(end), "1");
        caller.join().expect("the caller");
    });
    // Nobody has to wait until the claim has run out.
    assert_eq!(compare(n1, "")["differing"], 0);
}
