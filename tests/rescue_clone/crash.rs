//! What a crash, an error or a cancel in the midst of a call leaves behind.

use super::*;
use crate::cluster::Action;
use crate::failpoint_names as names;

#[test]
fn a_clone_whose_registration_a_crash_has_prevented_is_adopted_and_dropped_in_its_time() {
    let cluster = source("rescue_clone_crash");
    let [n3] = cluster.all();
    n3.arm(names::CLONE_COPIED, Action::Crash);
    let error = refused(n3.db("postgres"), &call("'n1', 'n2'"));
    assert!(error.is_disconnection(), "{error}");
    n3.wait_hit(names::CLONE_COPIED);
    n3.wait_until("SELECT slot_name = (SELECT slot_name FROM pg_replication_slots WHERE plugin = 'spock_recovery'), failed_node, intent_id FROM spock.recovery_clones()", "t||");
    let clone = n3.value("SELECT slot_name FROM spock.recovery_clones()");
    assert_logged_once(n3, &format!("found clone \"{clone}\" of the recovery slot, which no recovery has claimed"));
    n3.set(&[("spock.rescue_clone_ttl", "100ms")]);
    n3.wait_until(CLONES, "0");
    n3.wait_until(REGISTERED, "0");
    assert_logged_once(n3, &format!("dropped clone \"{clone}\""));
}

#[test]
fn a_clone_whose_registration_was_rolled_back_is_adopted_and_can_be_claimed_before() {
    let cluster = source("rescue_clone_rollback");
    let [n3] = cluster.all();
    let mut session = n3.session();
    session.sql("BEGIN");
    let first = answer(&session.rows(&call("'n1', 'n2'"))[0]);
    session.sql("ROLLBACK");
    session.sql("BEGIN");
    let second = answer(&session.rows(&call("'n1', 'n2'"))[0]);
    session.sql("ROLLBACK");
    assert_eq!(n3.value(REGISTERED), "0");
    n3.sql(&claim(&second.clone, INTENT));
    restart_manager(n3);
    n3.wait_until(
        "SELECT slot_name, intent_id FROM spock.recovery_clones() ORDER BY 1",
        &format!("{}|\n{}|{INTENT}", first.clone, second.clone),
    );
    wait_rounds(n3.db("postgres"), 3);
    assert_logged_once(n3, "which no recovery has claimed");
}

#[test]
fn an_error_or_a_cancel_after_the_copy_leaves_no_slot_behind() {
    let cluster = source("rescue_clone_error");
    let [n3] = cluster.all();
    n3.arm(names::CLONE_COPIED, Action::Error);
    let error = refused(n3.db("postgres"), &call(""));
    assert!(error.message.contains(names::CLONE_COPIED), "{error}");
    assert_eq!(n3.value(CLONES), "0");

    n3.arm(names::CLONE_COPIED, Action::Wait);
    let error = refused(n3.db("postgres"), &format!("SET statement_timeout = '300ms'; {}", call("")));
    assert_eq!(error.sqlstate, "57014", "{error}");
    n3.disarm(names::CLONE_COPIED);
    assert_eq!(n3.value(CLONES), "0");

    // Where the caller catches it, the session goes on, and holds no slot.
    n3.arm(names::CLONE_COPIED, Action::Error);
    let mut session = n3.session();
    session.sql(
        "DO $$ BEGIN PERFORM * FROM spock.clone_recovery_slot(); RAISE 'not reached';
               EXCEPTION WHEN internal_error THEN NULL; END $$; SELECT 1",
    );
    assert_eq!(session.value(CLONES), "0");
    assert!(answer(&session.rows(&call(""))[0]).success);
    assert_eq!(session.value(CLONES), "1");
}
