//! Transactions that cannot be applied: n2 stays between two transactions, says why, lives on, and goes on once the cause
//! is mended.

use super::{
    applied, assert_identical, assert_replicate, begin, clone_slot, create_rescue, drain, end_gap, fail, hold_back,
    origin_position, rescue, start, summary, wait_applied_lsn, wait_completed, wait_error, wait_held, wait_tidy,
};
use crate::cluster::{Action, Cluster, Node};
use crate::failpoint_names as names;

const TABLES: &str = "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE u (id int PRIMARY KEY, v text);";

/// Waits until the error of the rescue tells of a transaction that ended there, by node, SQLSTATE and relation; n2 then has
/// exactly what came before, and lives on with its peer.
fn assert_waits(n2: &Node, n3: &Node, failed_at: &str, sqlstate: &str, relation: &str, done_until: &str) -> String {
    let error = wait_error(n2, failed_at);
    for part in [sqlstate, relation, "n1"] {
        assert!(error.contains(part), "\"{part}\" is not in: {error}");
    }
    assert_eq!(origin_position(n2), done_until, "n2 stands at the end of the transaction before");
    n2.wait_until("SELECT subenabled FROM pg_subscription WHERE subname = 'sub_n2_n3'", "t");
    assert_replicate(n2, n3);
    n2.wait_until("SELECT sub_rescue_failed FROM spock.subscription WHERE sub_rescue_temporary", "t");
    error
}

/// Three transactions, of which the second is this one; the ends of all three.
fn three(n1: &Node, n3: &Node, number: u32, statements: &str) -> [String; 3] {
    let (before, after) = (1000 + number, 2000 + number);
    [
        format!("INSERT INTO t VALUES ({before}, 'before')"),
        format!("BEGIN; INSERT INTO t VALUES ({number}, 'with it'); {statements}; COMMIT"),
        format!("INSERT INTO t VALUES ({after}, 'after')"),
    ]
    .map(|transaction| {
        n1.sql(&transaction);
        wait_applied_lsn(n1, n3)
    })
}

#[test]
fn a_row_that_violates_a_constraint_holds_the_rescue_alone_until_it_is_mended_or_given_up() {
    let cluster = start("rescue_constraint", TABLES);
    let [n1, n2, n3] = cluster.all();
    cluster.node("n2").expect_log("violates check constraint");
    hold_back(n2);
    n2.sql("ALTER TABLE u ADD CONSTRAINT is_good CHECK (v <> 'secret')");
    let mended = three(n1, n3, 1, "INSERT INTO u VALUES (1, 'secret')");
    let given_up = three(n1, n3, 2, "INSERT INTO u VALUES (2, 'secret'); UPDATE t SET v = 'later' WHERE id = 1");
    fail(&cluster);

    begin(n2, n3, &format!(", stop_lsn => '{}'", mended[2]));
    let error = assert_waits(n2, n3, &mended[1], "23514", "public.u", &mended[0]);
    assert!(!error.contains("secret"), "a row's value is in {error}");
    assert_eq!(n2.value("SELECT id FROM t ORDER BY id"), "1001");
    let refused = n2.try_sql(&format!("SELECT spock.recover_skip('n1', '{}')", mended[0])).expect_err("another");
    assert_eq!(refused.sqlstate, "22023", "{refused}");
    let refused = n2.try_sql(&format!("SELECT spock.recover_skip('n3', '{}')", mended[1])).expect_err("another node");
    assert_eq!(refused.sqlstate, "42704", "{refused}");
    n2.sql("ALTER TABLE u DROP CONSTRAINT is_good");
    wait_completed(n2);
    wait_tidy(n2, n3);
    assert_eq!(n2.value(&format!("SELECT error IS NULL FROM {}", super::LAST_INTENT)), "t");
    assert_eq!(n2.value("SELECT id FROM t ORDER BY id"), "1\n1001\n2001");
    assert_eq!(n2.value("SELECT id FROM u ORDER BY id"), "1");
    assert_eq!((summary(n2, "transactions"), summary(n2, "skipped_transactions")), ("3".into(), "0".into()));

    n2.sql("ALTER TABLE u ADD CONSTRAINT is_good CHECK (v <> 'secret') NOT VALID");
    begin(n2, n3, "");
    assert_waits(n2, n3, &given_up[1], "23514", "public.u", &given_up[0]);
    n2.sql(&format!("SELECT spock.recover_skip('n1', '{}')", given_up[1]));
    wait_completed(n2);
    wait_tidy(n2, n3);
    assert_eq!(n2.value("SELECT id FROM t ORDER BY id"), "1\n1001\n1002\n2001\n2002", "2 was given up, and all of it");
    // The first recovery has brought this row, and could not compare it before: now it is as on n3.
    assert_eq!(n2.value("SELECT v FROM t WHERE id = 1"), "later");
    assert_eq!(n2.value("SELECT id FROM u ORDER BY id"), "1");
    assert_eq!((summary(n2, "transactions"), summary(n2, "skipped_transactions")), ("2".into(), "1".into()));
    assert_eq!(n2.value(&format!("SELECT summary->'skipped_lsns'->>0 FROM {}", super::LAST_INTENT)), given_up[1]);
    assert_eq!(applied(n2), applied(n3));
}

/// What keeps rows out of u, how that shows, and what mends it.
struct Cause {
    breaks: &'static str,
    mends: &'static str,
    sqlstate: &'static str,
}

/// n2 lacks three transactions for each number, of which the second writes to u; their ends.
fn gaps(cluster: &Cluster, count: u32) -> Vec<[String; 3]> {
    let [n1, n2, n3] = cluster.all();
    hold_back(n2);
    let ends =
        (1..=count).map(|number| three(n1, n3, number, &format!("INSERT INTO u VALUES ({number}, 'of n1')"))).collect();
    end_gap(n1);
    ends
}

/// The rescue of three transactions stands before the second until the cause is mended.
fn assert_holds_until_mended(n2: &Node, n3: &Node, cause: &Cause, ends: &[String; 3]) {
    n2.sql(cause.breaks);
    begin(n2, n3, &format!(", stop_lsn => '{}'", ends[2]));
    assert_waits(n2, n3, &ends[1], cause.sqlstate, "public.u", &ends[0]);
    n2.sql(cause.mends);
    assert_completes(n2, n3, ends);
}

fn assert_completes(n2: &Node, n3: &Node, ends: &[String; 3]) {
    wait_completed(n2);
    wait_tidy(n2, n3);
    assert_eq!((origin_position(n2).as_str(), summary(n2, "transactions").as_str()), (ends[2].as_str(), "3"));
}

#[test]
fn what_is_missing_or_full_on_the_target_holds_the_rescue_until_it_is_there() {
    let cluster = start("rescue_schema", TABLES);
    let [_, n2, n3] = cluster.all();
    n2.sql(
        "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN RAISE EXCEPTION 'no space left on the test''s device' USING ERRCODE = 'disk_full'; END $$",
    );
    let ends = gaps(&cluster, 3);
    let column = Cause {
        breaks: "ALTER TABLE u RENAME COLUMN v TO gone",
        mends: "ALTER TABLE u RENAME COLUMN gone TO v",
        sqlstate: "55000",
    };
    assert_holds_until_mended(n2, n3, &column, &ends[0]);
    let disk = Cause {
        breaks: "CREATE TRIGGER full_disk BEFORE INSERT ON u FOR EACH ROW EXECUTE FUNCTION full_disk();
                 ALTER TABLE u ENABLE REPLICA TRIGGER full_disk",
        mends: "DROP TRIGGER full_disk ON u",
        sqlstate: "53100",
    };
    assert_holds_until_mended(n2, n3, &disk, &ends[1]);

    // A table that is missing is missed before anything is suspended; one that goes later is an error, no gap.
    n2.sql("ALTER TABLE u RENAME TO gone");
    let refused = n2.try_sql(&create_rescue(&clone_slot(n3), "")).expect_err("a table is missing");
    let names_it = refused.detail.as_ref().is_some_and(|detail| detail.contains("public.gone"));
    assert_eq!((refused.sqlstate.as_str(), names_it), ("42P01", true), "{refused}");
    n2.sql("ALTER TABLE gone RENAME TO u");
    n2.arm(names::RESCUE_SUSPENDED, Action::Wait);
    begin(n2, n3, "");
    n2.wait_hit(names::RESCUE_SUSPENDED);
    n2.sql("ALTER TABLE u RENAME TO gone");
    n2.disarm(names::RESCUE_SUSPENDED);
    wait_error(n2, "\"public.gone\" (SQLSTATE 42P01)");
    assert_eq!(origin_position(n2), ends[2][0]);
    assert_replicate(n2, n3);
    n2.sql("ALTER TABLE gone RENAME TO u");
    n3.sql("SELECT pg_drop_replication_slot(slot_name) FROM spock.recovery_clones() WHERE intent_id IS NULL");
    assert_completes(n2, n3, &ends[2]);
    drain(n2, n3);
    assert_identical(n2, n3);
}

#[test]
fn triggers_fire_as_in_cores_apply() {
    let cluster = start("rescue_triggers", &format!("{TABLES} CREATE TABLE fired (what text, n int)"));
    let [n1, n2, n3] = cluster.all();
    hold_back(n2);
    n2.sql(
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN INSERT INTO public.fired VALUES (TG_NAME || ' ' || TG_OP || ' ' || TG_LEVEL, NEW.id); RETURN NULL; END $$;
         CREATE TRIGGER origin_only AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION note();
         CREATE TRIGGER replica AFTER INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION note();
         CREATE TRIGGER always AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION note();
         ALTER TABLE t ENABLE REPLICA TRIGGER replica; ALTER TABLE t ENABLE ALWAYS TRIGGER always",
    );
    n1.sql("INSERT INTO t VALUES (1, NULL)");
    n1.sql("INSERT INTO t VALUES (2, NULL)");
    n1.sql("UPDATE t SET v = 'changed' WHERE id = 1");
    fail(&cluster);
    rescue(n2, n3, "");
    assert_eq!(
        n2.value("SELECT what, string_agg(n::text, ',' ORDER BY n) FROM fired GROUP BY what ORDER BY what"),
        "always INSERT ROW|1,2\nreplica INSERT ROW|1,2\nreplica UPDATE ROW|1"
    );
}

#[test]
fn a_foreign_key_that_is_checked_nowhere_else_does_not_hold_the_rescue() {
    // Core's apply checks none, for its session is a replica; a row whose parent n2 has not yet is not lost for that.
    let tables = "CREATE TABLE parent (id int PRIMARY KEY);
                  CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent)";
    let cluster = start("rescue_foreign_key", tables);
    let [n1, n2, n3] = cluster.all();
    hold_back(n2);
    n3.sql("INSERT INTO parent VALUES (1)");
    drain(n1, n3);
    n2.wait_until("SELECT count(*) FROM parent", "1");
    n1.wait_until("SELECT count(*) FROM parent", "1");
    n1.sql("INSERT INTO child VALUES (1, 1)");
    fail(&cluster);
    n2.sql("SET session_replication_role = replica; DELETE FROM parent");
    drain(n2, n3);
    rescue(n2, n3, "");
    assert_eq!(n2.value("SELECT id, parent FROM child"), "1|1");
}

#[test]
fn a_deadlock_with_a_users_transaction_is_tried_again() {
    let cluster = start("rescue_deadlock", TABLES);
    let [n1, n2, n3] = cluster.all();
    n1.sql("INSERT INTO t VALUES (1, 'before'), (2, 'before'), (3, 'before')");
    drain(n1, n2);
    hold_back(n2);
    n1.sql("BEGIN; UPDATE t SET v = 'of n1' WHERE id = 1; UPDATE t SET v = 'of n1' WHERE id = 2; COMMIT");
    n1.sql("UPDATE t SET v = 'of n1' WHERE id = 3");
    fail(&cluster);
    // Each looks for a deadlock once, so long after its wait began: the rescue first, and not before the user waits too.
    n2.set(&[("deadlock_timeout", "5s")]);
    let mut user = n2.session();
    user.sql("SET deadlock_timeout = '1min'; BEGIN; UPDATE t SET v = 'of n2, later' WHERE id = 2");
    begin(n2, n3, "");
    wait_held(n2);
    user.sql("UPDATE t SET v = 'of n2, later' WHERE id = 1");
    wait_error(n2, "40P01");
    user.sql("COMMIT");
    wait_completed(n2);
    wait_tidy(n2, n3);
    drain(n2, n3);
    assert_eq!(n2.value("SELECT v FROM t ORDER BY id"), "of n2, later\nof n2, later\nof n1");
    assert_identical(n2, n3);
}

#[test]
fn a_commit_that_fails_after_a_deferred_trigger_has_caught_an_error_is_not_taken_for_done() {
    let cluster = start("rescue_deferred", TABLES);
    let [n1, n2, n3] = cluster.all();
    n2.expect_log("not yet");
    hold_back(n2);
    // The first one aborts a subtransaction that has written, which moves the origin to where the commit was stamped.
    n2.sql(
        "CREATE TABLE tried (id int);
         CREATE FUNCTION first() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN INSERT INTO public.tried VALUES (1); PERFORM 1 / 0; RETURN NULL;
            EXCEPTION WHEN division_by_zero THEN RETURN NULL; END $$;
         CREATE FUNCTION second() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not yet'; END $$;
         CREATE CONSTRAINT TRIGGER a_first AFTER INSERT ON u DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION first();
         CREATE CONSTRAINT TRIGGER b_second AFTER INSERT ON u DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION second();
         ALTER TABLE u ENABLE ALWAYS TRIGGER a_first; ALTER TABLE u ENABLE ALWAYS TRIGGER b_second",
    );
    let ends = three(n1, n3, 1, "INSERT INTO u VALUES (1, 'it')");
    fail(&cluster);
    begin(n2, n3, "");
    assert_waits(n2, n3, &ends[1], "P0001", "n1", &ends[0]);
    n2.sql("DROP TRIGGER b_second ON u");
    wait_completed(n2);
    assert_eq!(n2.value("SELECT count(*) FROM u"), "1");
    assert_eq!(n2.value("SELECT count(*) FROM t WHERE id IN (1, 1001, 2001)"), "3");
}
