//! Locks that somebody holds on the target: while the rescue waits everybody can see for whom, and when it has waited long
//! enough peers go on and it waits aloud.

use std::thread;

use super::{
    HELD, Node, assert_identical, assert_replicate, begin, drain, end_gap, hold_back, start, wait_applied_lsn,
    wait_completed, wait_error, wait_tidy,
};

const BLOCKED: &str = "SELECT coalesce(blocked_by, '') FROM spock.recovery_progress";

fn wait_told(what: &str, mut read: impl FnMut() -> String, parts: &[&str]) {
    let mut last = String::new();
    crate::cluster::wait_for(what, || {
        last = read();
        parts.iter().all(|part| last.contains(part))
    });
}

fn health(node: &Node) -> String {
    node.value("SELECT status || ' ' || details FROM spock.quick_health_check() WHERE check_name = 'recovery'")
}

#[test]
fn who_holds_a_lock_is_named_and_peers_go_on_when_it_is_held_for_long() {
    let cluster = start("rescue_locks", &format!("CREATE TABLE t (id int PRIMARY KEY); {HELD}"));
    let [n1, n2, n3] = cluster.all();
    for node in [n2, n3] {
        node.sql("CREATE ROLE \"the \"\"idle\"\" one\" LOGIN SUPERUSER");
    }
    hold_back(n2);
    let ends = [1, 2, 3, 4].map(|id| {
        n1.sql(&format!("INSERT INTO held VALUES ({id})"));
        wait_applied_lsn(n1, n3)
    });
    end_gap(n1);
    // Long enough to look while it waits.
    n2.set(&[("spock.rescue_lock_timeout", "1h")]);
    let mut idle = n2.db("postgres").role("the \"idle\" one").session();
    idle.sql("SET application_name = 'a tool'; BEGIN; LOCK TABLE held IN EXCLUSIVE MODE; SELECT 'a secret'");
    let pid = idle.backend_pid().to_string();
    let who =
        [pid.as_str(), "\"the \"\"idle\"\" one\"", "\"a tool\"", "idle in transaction", "query started", "public.held"];
    let notices = thread::scope(|scope| {
        let call = scope.spawn(|| {
            let mut caller = n2.session();
            caller.sql("SET log_min_messages = notice");
            caller.sql(&format!("CALL spock.recover_run('n1', stop_lsn => '{}', verb => true)", ends[0]));
            caller.notices()
        });
        wait_told("the view to name who holds the lock", || n2.value(BLOCKED), &who);
        wait_told("the health check to name him", || health(n2), &["WARNING", pid.as_str(), "\"a tool\""]);
        n2.wait_log(&format!("waits for a lock that is held by process {pid}"));
        n2.wait_log(&format!("s: waits for a lock: process {pid}"));
        idle.sql("COMMIT");
        call.join().expect("the call returns")
    });
    let told: Vec<&String> = notices.iter().filter(|notice| notice.contains("waits for a lock")).collect();
    assert!(matches!(told.as_slice(), [one] if who.iter().all(|part| one.contains(part))), "{notices:?}");
    assert!(!notices.iter().any(|notice| notice.contains("NULL") || notice.contains("secret")), "{notices:?}");
    assert!(!n2.log().contains("a secret"), "nobody's queries are told");
    wait_completed(n2);
    wait_tidy(n2, n3);

    // When the limit has passed the peers' changes come in, and the lock is waited for again and again.
    n2.set(&[("spock.rescue_lock_timeout", "1500ms")]);
    idle.sql("BEGIN; LOCK TABLE held IN EXCLUSIVE MODE");
    begin(n2, n3, &format!(", stop_lsn => '{}'", ends[1]));
    let error = wait_error(n2, "55P03");
    assert!(error.contains(&format!("process {pid} of user \"the \"\"idle\"\" one\"")), "{error}");
    assert!(!error.contains("a tool") && error.contains("public.held"), "what all may read: {error}");
    assert_eq!(n2.value(&format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}")), "1", "nobody is ended");
    assert_replicate(n2, n3);
    idle.sql("COMMIT");
    wait_completed(n2);
    wait_tidy(n2, n3);

    // The same while subscriptions are suspended, and while what was done is written down.
    idle.sql("BEGIN; LOCK TABLE pg_subscription IN SHARE MODE");
    begin(n2, n3, &format!(", stop_lsn => '{}'", ends[2]));
    wait_told("the view to name who holds the catalog", || n2.value(BLOCKED), &[&pid, "pg_subscription"]);
    let error = wait_error(n2, "55P03");
    assert!(error.contains(&format!("process {pid}")), "{error}");
    idle.sql("COMMIT");
    wait_completed(n2);
    wait_tidy(n2, n3);

    // A subscription's own process that waits for a lock cannot end: who holds that holds the recovery.
    idle.sql("BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE");
    n3.sql("INSERT INTO t VALUES (1)");
    n2.wait_until("SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'logical replication%' AND wait_event_type = 'Lock'", "1");
    begin(n2, n3, "");
    let error = wait_error(n2, "55006");
    assert!(error.contains(&format!("process {pid}")), "{error}");
    idle.sql("COMMIT");
    wait_completed(n2);
    wait_tidy(n2, n3);
    drain(n2, n3);
    assert_eq!(n2.value("SELECT id FROM held ORDER BY id"), "1\n2\n3\n4");
    assert_identical(n2, n3);
}
