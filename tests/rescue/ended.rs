//! Attempts that end without a word, by a signal, a FATAL or with the server: what they could not do is done for them. Peers'
//! subscriptions run, the reason is known, and each such end makes the next attempt come later.

use std::thread;

use super::{
    HELD, LAST_INTENT, Node, assert_identical, assert_replicate, begin, drain, end_gap, hold, hold_back, start,
    summary, wait_applied_lsn, wait_completed, wait_error, wait_held, wait_tidy,
};
use crate::cluster::Action;
use crate::failpoint_names as names;

const RECOVERY: &str = "SELECT status || ' ' || details FROM spock.quick_health_check() WHERE check_name = 'recovery'";

/// n2 lives on with its peer, and says why the recovery waits.
fn assert_lives_on(n2: &Node, n3: &Node, sqlstate: &str) {
    wait_error(n2, sqlstate);
    n2.wait_until("SELECT subenabled FROM pg_subscription WHERE subname = 'sub_n2_n3'", "t");
    let health = n2.value(RECOVERY);
    assert!(health.starts_with("WARNING") && health.contains(sqlstate), "{health}");
    assert_replicate(n2, n3);
}

fn assert_completes(n2: &Node, n3: &Node) {
    wait_completed(n2);
    wait_tidy(n2, n3);
    assert_eq!(n2.value(&format!("SELECT error IS NULL FROM {LAST_INTENT}")), "t");
    assert_eq!(summary(n2, "transactions"), "1");
}

const UNHURRIED: &str = "
    CREATE FUNCTION unhurried() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM set_config('transaction_timeout', '50ms', true); PERFORM pg_sleep(60); RETURN NEW; END $$;
    CREATE TRIGGER unhurried BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION unhurried();
    ALTER TABLE t ENABLE REPLICA TRIGGER unhurried";

#[test]
fn an_attempt_that_ends_without_a_word_is_told_of_and_leaves_peers_running() {
    let cluster = start("rescue_ended", &format!("CREATE TABLE t (id int PRIMARY KEY); {HELD}"));
    let [n1, n2, n3] = cluster.all();
    n2.expect_log("terminating background worker");
    n2.expect_log("terminating connection due to transaction timeout");
    // The lock's limit would be another reason, on a machine that is slow.
    n2.set(&[("spock.rescue_lock_timeout", "1h")]);
    hold_back(n2);
    let ends = ["held VALUES (1)", "t VALUES (2)", "t VALUES (3)", "t VALUES (4)"].map(|row| {
        n1.sql(&format!("INSERT INTO {row}"));
        wait_applied_lsn(n1, n3)
    });
    end_gap(n1);
    let until = |end: &str| format!(", stop_lsn => '{end}'");

    // Somebody's job ends whatever waits for long: the next attempt comes at once, and later each time.
    let held = hold(n2);
    begin(n2, n3, &until(&ends[0]));
    // The manager has seen it go on, and only then it ends.
    let pid = wait_held(n2);
    n2.arm(names::MANAGER_RECORD_WRITTEN, Action::Wait);
    n2.wait_hit(names::MANAGER_RECORD_WRITTEN);
    n2.value(&format!("SELECT pg_terminate_backend({pid}, 60000)"));
    n2.disarm(names::MANAGER_RECORD_WRITTEN);
    wait_error(n2, "57P01");
    for _ in 0..3 {
        let pid = wait_held(n2);
        let before = n2.value(&format!("SELECT coalesce(error, '') FROM {LAST_INTENT}"));
        n2.value(&format!("SELECT pg_terminate_backend({pid}, 60000)"));
        assert!(before.is_empty() || before.contains("57P01"), "{before}");
        wait_error(n2, "57P01");
    }
    assert_lives_on(n2, n3, "57P01");
    assert_eq!(n2.value("SELECT count(*) FROM spock.recover_status() WHERE state = 'waiting'"), "1");
    drop(held);
    n2.sql("SELECT spock_internal.retry_recovery()");
    assert_completes(n2, n3);

    // A FATAL of core: who calls is told of it.
    n2.sql(UNHURRIED);
    let notices = thread::scope(|scope| {
        let call = scope.spawn(|| {
            let mut caller = n2.session();
            caller.sql(&format!("CALL spock.recover_run('n1', stop_lsn => '{}')", ends[1]));
            caller.notices()
        });
        wait_error(n2, "25P04");
        n2.sql("DROP TRIGGER unhurried ON t");
        call.join().expect("the call returns")
    });
    assert!(notices.iter().any(|notice| notice.contains("25P04")), "{notices:?}");
    assert_completes(n2, n3);

    // A crash of the server: what it has left disabled is enabled before anything else.
    n2.arm(names::RESCUE_BEFORE_COMMIT, Action::Wait);
    begin(n2, n3, &until(&ends[2]));
    n2.wait_hit(names::RESCUE_BEFORE_COMMIT);
    n2.arm(names::RESCUE_BEGUN, Action::Wait);
    n2.kill9_process(n2.rescue_worker());
    n2.wait_hit(names::RESCUE_BEGUN);
    n2.disarm(names::RESCUE_BEFORE_COMMIT);
    assert_lives_on(n2, n3, "57P02");
    n2.disarm(names::RESCUE_BEGUN);
    assert_completes(n2, n3);

    // A restart by its administrator is no failure.
    n2.arm(names::RESCUE_BEFORE_COMMIT, Action::Wait);
    begin(n2, n3, &until(&ends[3]));
    n2.wait_hit(names::RESCUE_BEFORE_COMMIT);
    n2.arm(names::RESCUE_BEGUN, Action::Wait);
    n2.restart();
    n2.disarm(names::RESCUE_BEFORE_COMMIT);
    n2.wait_hit(names::RESCUE_BEGUN);
    assert_eq!(n2.value(&format!("SELECT error IS NULL, phase FROM {LAST_INTENT}")), "t|replaying");
    assert!(n2.value(RECOVERY).starts_with("HEALTHY"));
    n2.disarm(names::RESCUE_BEGUN);
    assert_completes(n2, n3);
    drain(n2, n3);
    assert_eq!(n2.value("SELECT id FROM t ORDER BY id"), "2\n3\n4");
    assert_identical(n2, n3);
}
