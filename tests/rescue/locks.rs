//! Locks that somebody holds on the target: while the rescue waits everybody can see for whom, and when it has waited long
//! enough peers go on and it waits aloud.

use std::thread;

use super::{
    HELD, LAST_INTENT, Node, assert_identical, assert_replicate, begin, drain, end_gap, hold_back, start,
    wait_applied_lsn, wait_completed, wait_error, wait_held, wait_tidy,
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

/// Attempts in a row that have failed.
const FAILURES: &str = "SELECT (spock_internal.recovery_state(NULL, NULL) ->> 'failures')::int";

#[test]
fn between_two_attempts_the_living_have_as_long_as_one_has_held_them_up_and_who_calls_is_told_once_when_the_next_comes()
{
    let cluster = start("rescue_lock_pauses", &format!("CREATE TABLE t (id int PRIMARY KEY); {HELD}"));
    let [n1, n2, n3] = cluster.all();
    hold_back(n2);
    n1.sql("INSERT INTO held VALUES (1)");
    wait_applied_lsn(n1, n3);
    end_gap(n1);
    n2.set(&[("spock.rescue_lock_timeout", "3s")]);
    let mut busy = n2.session();
    busy.sql("BEGIN; LOCK TABLE held IN EXCLUSIVE MODE");
    let pid = busy.backend_pid().to_string();
    let notices = thread::scope(|scope| {
        let call = scope.spawn(|| {
            let mut caller = n2.session();
            caller.sql("CALL spock.recover_run('n1', verb => true)");
            caller.notices()
        });
        wait_held(n2);
        // Who is in the way works meanwhile: that is no other one each time.
        wait_told("the view to name who holds the lock", || n2.value(BLOCKED), &[&pid]);
        busy.sql("SELECT 'other work'");
        n2.wait_until(FAILURES, "1");
        assert_replicate(n2, n3);
        wait_held(n2);
        // From the end of one attempt to the beginning of the next, by one clock.
        let room = n2.value(
            "SELECT extract(epoch FROM a.backend_start - (timestamptz '2000-01-01 00:00:00+00'
                        + (spock_internal.recovery_state(NULL, NULL) ->> 'error_at')::bigint * interval '1 microsecond'))
               FROM pg_stat_activity a WHERE a.backend_type = 'spock_recovery rescue'",
        );
        assert!(
            room.parse::<f64>().expect("seconds") >= 2.5,
            "the living had {room} s for the 3 s that they were held up"
        );
        busy.sql("SELECT 'more of it'");
        wait_told("the view to name who holds the lock", || n2.value(BLOCKED), &[&pid]);
        n2.wait_until(FAILURES, "2");
        busy.sql("COMMIT");
        call.join().expect("the call returns")
    });
    wait_completed(n2);
    wait_tidy(n2, n3);
    assert_eq!(n2.value(&format!("SELECT phase FROM {LAST_INTENT}")), "completed");
    let with = |part: &str| notices.iter().filter(|notice| notice.contains(part)).collect::<Vec<_>>();
    assert_eq!(with("waits for a lock: ").len(), 1, "{notices:?}");
    assert_eq!(with("between two attempts"), Vec::<&String>::new(), "{notices:?}");
    // One line for each attempt that has failed.
    let next = with("the next attempt begins in ");
    assert!((2..=4).contains(&next.len()), "{notices:?}");
    assert!(next.iter().all(|line| line.contains(&format!("held by process {pid} of user "))), "{notices:?}");
    // The next attempt's seconds are those of the pause.
    assert!(next[0].contains(" begins in 3 s") || next[0].contains(" begins in 4 s"), "{notices:?}");
}
