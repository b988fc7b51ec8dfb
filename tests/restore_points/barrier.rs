//! Who waits at the gate and who does not, and that nobody waits longer than the lease.

use super::*;
use crate::slot_keeps::start;

const INSERT: &str = "INSERT INTO t (node, v) VALUES ('x', 1)";

/// Begins each of the commits in a session of its own, and returns when all have come to the gate. They end when it opens.
fn begin_commits<'scope, 'env>(
    scope: &'scope thread::Scope<'scope, 'env>,
    node: &'env Node,
    commits: &'env [&'env [&'env str]],
) -> Vec<thread::ScopedJoinHandle<'scope, ()>> {
    let handles: Vec<_> = commits
        .iter()
        .map(|statements| {
            let mut session = node.session();
            scope.spawn(move || statements.iter().for_each(|statement| session.sql(statement)))
        })
        .collect();
    node.wait_until(WAITING, &commits.len().to_string());
    handles
}

#[test]
fn own_commits_wait_and_what_is_applied_goes_on() {
    let cluster = mesh_of("restore_points_own", 2);
    let [n1, n2] = cluster.all();
    n1.sql(&format!("BEGIN; {INSERT}; PREPARE TRANSACTION 'here'; BEGIN; {INSERT}; PREPARE TRANSACTION 'there'"));
    let before = n1.value("SELECT count(*) FROM t");
    close(n1, 1, false, 60_000);
    let commits: [&[&str]; 5] = [
        &[INSERT],
        &["BEGIN", INSERT, "PREPARE TRANSACTION 'new'"],
        &["COMMIT PREPARED 'here'"],
        &["ROLLBACK PREPARED 'there'"],
        &["CREATE TABLE made_meanwhile (id int)"],
    ];
    thread::scope(|scope| {
        let waiting = begin_commits(scope, n1, &commits);
        // Neither reading nor what comes from n2 waits, nor a rollback.
        n1.sql(&format!("BEGIN; {INSERT}; ROLLBACK"));
        n2.sql("INSERT INTO t (node, v) VALUES ('n2', 7)");
        n1.wait_until("SELECT count(*) FROM t WHERE node = 'n2'", "1");
        assert_eq!(n1.value("SELECT count(*) FROM t WHERE node <> 'n2'"), before);
        assert_eq!(n1.value("SELECT string_agg(gid, ',' ORDER BY gid) FROM pg_prepared_xacts"), "here,there");
        assert!(open(n1, 1), "it was closed all the time");
        for commit in waiting {
            commit.join().expect("the commit ends when the gate opens");
        }
    });
    assert_eq!(n1.value("SELECT string_agg(gid, ',') FROM pg_prepared_xacts"), "new");
    assert_eq!(n1.value("SELECT count(*) FROM t WHERE node = 'x'"), "2");
    n1.sql("ROLLBACK PREPARED 'new'");
}

#[test]
fn in_mode_all_nothing_commits() {
    let cluster = mesh_of("restore_points_all", 2);
    let [n1, n2] = cluster.all();
    close(n1, 5, true, 60_000);
    n2.sql("INSERT INTO t (node, v) VALUES ('n2', 7)");
    // The apply worker waits like a session.
    n1.wait_until(WAITING, "1");
    assert_eq!(n1.value("SELECT count(*) FROM t"), "0");
    assert!(open(n1, 5));
    n1.wait_until("SELECT count(*) FROM t", "1");
}

/// One server serves these cases.
#[test]
fn nobody_waits_longer_than_the_lease() {
    let cluster = start(quick("restore_points_lease", 1));
    let [n1] = cluster.all();
    n1.sql(TABLE);
    a_lease_runs_out_by_itself_and_opening_says_so(n1);
    a_gate_is_closed_by_one_at_a_time_and_for_a_minute_at_most(n1);
    a_commit_that_waits_can_be_cancelled_and_is_undone(n1);
    a_commit_that_waits_for_a_synchronous_standby_does_not_hold_up_the_closing(n1);
    a_closing_ends_with_its_lease_when_a_commit_does_not_end(n1);
}

fn a_lease_runs_out_by_itself_and_opening_says_so(n1: &Node) {
    n1.sql("TRUNCATE t");
    close(n1, 1, false, 300);
    // It waits and goes on, without anybody who opens.
    n1.sql(INSERT);
    assert!(!open(n1, 1), "the lease has run out before");
    // What has run out does not stand in the way of the next one.
    close(n1, 2, false, 300);
    n1.sql(INSERT);
    close(n1, 3, false, 60_000);
    assert!(open(n1, 3));
    assert_eq!(n1.value("SELECT count(*) FROM t"), "2");
}

fn a_gate_is_closed_by_one_at_a_time_and_for_a_minute_at_most(n1: &Node) {
    n1.sql("TRUNCATE t");
    close(n1, 1, false, 3_600_000);
    let again = step(n1, "close", r#"{"number":2,"holds_all":false,"lease_ms":10}"#).expect_err("it is closed");
    assert_eq!(again.sqlstate, "55006");
    let detail = again.detail.clone().unwrap_or_default();
    let left: u64 = detail.split_whitespace().rev().nth(1).and_then(|word| word.parse().ok()).expect("milliseconds");
    assert!(left <= 60_001, "{detail}");
    assert!(!open(n1, 2), "somebody else's number opens nothing");
    assert!(open(n1, 1));
}

fn a_commit_that_waits_can_be_cancelled_and_is_undone(n1: &Node) {
    n1.sql("TRUNCATE t");
    close(n1, 1, false, 60_000);
    thread::scope(|scope| {
        let mut session = n1.session();
        let pid = session.backend_pid();
        let waiting = scope.spawn(move || session.try_sql(INSERT));
        n1.wait_until(WAITING, "1");
        n1.sql(&format!("SELECT pg_cancel_backend({pid})"));
        let error = waiting.join().expect("the session ends").expect_err("it was cancelled");
        assert_eq!(error.sqlstate, "57014");
        n1.expect_log("canceling statement due to user request");
        let mut session = n1.session();
        let pid = session.backend_pid();
        let waiting = scope.spawn(move || session.try_sql(INSERT));
        n1.wait_until(WAITING, "1");
        n1.expect_log("terminating connection due to administrator command");
        n1.sql(&format!("SELECT pg_terminate_backend({pid})"));
        assert!(waiting.join().expect("the session ends").is_err());
    });
    assert!(open(n1, 1));
    // Neither has left a mark that the next closing would wait for.
    close(n1, 2, false, 60_000);
    assert!(open(n1, 2));
    assert_eq!(n1.value("SELECT count(*) FROM t"), "0");
}

/// It is written, and on disk: to wait for its standby would be to wait for ever if the standby is gone.
fn a_commit_that_waits_for_a_synchronous_standby_does_not_hold_up_the_closing(n1: &Node) {
    n1.sql("TRUNCATE t");
    n1.set(&[("synchronous_standby_names", "nobody")]);
    thread::scope(|scope| {
        let mut session = n1.session();
        let pid = session.backend_pid();
        let waiting = scope.spawn(move || session.try_sql(INSERT));
        n1.wait_until(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query LIKE 'INSERT%'",
            "1",
        );
        let end = close(n1, 1, false, 30_000);
        // The end that is told covers it.
        assert_eq!(n1.value(&format!("SELECT '{end}'::pg_lsn <= pg_current_wal_flush_lsn()")), "t");
        assert!(open(n1, 1));
        n1.sql(&format!("SELECT pg_cancel_backend({pid})"));
        waiting.join().expect("the session ends").expect("its commit stands, with a warning");
    });
    n1.set(&[("synchronous_standby_names", "")]);
}

/// A commit that hangs in its middle: another library's callback, or storage.
fn a_closing_ends_with_its_lease_when_a_commit_does_not_end(n1: &Node) {
    n1.sql("TRUNCATE t");
    let mut session = n1.session();
    let pid = session.backend_pid();
    session.sql("BEGIN; INSERT INTO t (node, v) VALUES ('x', 1)");
    // A deferred trigger runs before the gate. What comes after it is quick, so the process is stopped at the gate.
    close(n1, 1, false, 1_000);
    thread::scope(|scope| {
        let committing = scope.spawn(move || session.sql("COMMIT"));
        n1.wait_until(WAITING, "1");
        n1.pause_process(pid);
        // It passes when the lease has run out.
        n1.sql(INSERT);
        assert!(!open(n1, 1));
        // It has no mark while it waits: others may go on.
        close(n1, 2, false, 10_000);
        assert!(open(n1, 2));
        n1.resume();
        committing.join().expect("the commit ends");
    });
}
