//! What a restored mesh can do: everything that it could before.

use std::thread;

use spock_recovery_cluster::{extension, process};
use spockctl::restore::journal::Step;
use spockctl::restore::{Error, Moment, finish};

use super::{Restores, done, ended, running, settled};
use crate::cluster::Action;
use crate::failpoint_names as names;
use crate::restore_points::mesh_of;

/// Citus's own example, scaled down by a thousand: 15 million rows, a restore point, 15 million more.
const ROWS: u32 = 15_000;

#[test]
fn a_restored_mesh_has_its_subscriptions_as_they_were_and_recovers_from_a_loss() {
    let cluster = mesh_of("a_restored_mesh", 3);
    let [n1, n2, n3] = cluster.all();
    // One subscription with everything that a copy of a slot loses.
    n3.sql("DROP SUBSCRIPTION sub_n3_n2");
    n3.sql(&format!(
        "CREATE SUBSCRIPTION sub_n3_n2 CONNECTION '{}' PUBLICATION mesh
           WITH (origin = none, copy_data = false, two_phase = true, failover = true)",
        n2.dsn("postgres")
    ));
    n3.wait_until("SELECT subtwophasestate FROM pg_subscription WHERE subname = 'sub_n3_n2'", "e");
    let restores = Restores::of(&cluster);
    n2.sql("INSERT INTO t (node, v) VALUES ('n2', 1)");
    n2.sql("BEGIN; INSERT INTO t (node, v) VALUES ('two', 1); PREPARE TRANSACTION 'two'");
    n3.wait_until("SELECT count(*) FROM pg_prepared_xacts", "1");
    n1.sql(&format!("INSERT INTO t (node, v) SELECT 'n1', n FROM generate_series(1, {ROWS}) n"));
    let mut open = n1.session();
    open.sql("BEGIN; INSERT INTO t (node, v) VALUES ('open', 1)");
    let before = (ROWS + 1).to_string();
    assert_eq!(settled(&cluster, "SELECT count(*) FROM t"), before);
    assert_ne!(restores.point("fifteen", "30 s"), "loose");
    open.sql("COMMIT");
    n1.sql(&format!("INSERT INTO t (node, v) SELECT 'n1', n FROM generate_series(1, {ROWS}) n"));
    assert_eq!(settled(&cluster, "SELECT count(*) FROM t"), (2 * ROWS + 2).to_string());

    done(restores.start(Moment::Point("fifteen".into())));
    done(restores.finish());
    assert_eq!(settled(&cluster, "SELECT count(*) FROM t"), before);
    let lost = "SELECT two_phase AND failover FROM pg_replication_slots WHERE slot_name = 'sub_n3_n2'";
    assert_eq!(n2.value(lost), "t");
    n2.sql("COMMIT PREPARED 'two'");
    for node in [n1, n2, n3] {
        node.wait_until("SELECT count(*) FROM t WHERE node = 'two'", "1");
    }
    assert_eq!(n3.value("SELECT count(*) FROM pg_prepared_xacts"), "0");
    n2.sql("BEGIN; INSERT INTO t (node, v) VALUES ('two', 2); PREPARE TRANSACTION 'two'");
    n3.wait_until("SELECT count(*) FROM pg_prepared_xacts", "1");
    n2.sql("COMMIT PREPARED 'two'");
    assert_eq!(settled(&cluster, "SELECT count(*) FROM t WHERE node = 'two'"), "2");

    // A further loss: n2 lacks what n1 wrote last.
    n3.wait_until(&extension::vouches_for("n1"), "t");
    n2.sql("ALTER SUBSCRIPTION sub_n2_n1 DISABLE");
    n2.wait_until("SELECT count(*) FROM pg_stat_subscription WHERE subname = 'sub_n2_n1' AND pid IS NOT NULL", "0");
    n1.sql("DO $$ BEGIN FOR n IN 1 .. 50 LOOP INSERT INTO t (node, v) VALUES ('late', n); COMMIT; END LOOP; END $$");
    n3.wait_until("SELECT count(*) FROM t WHERE node = 'late'", "50");
    process::kill_all(running(n1.data()).expect("it runs")).expect("it can be killed");
    n2.sql("CALL spock.recover_run('n1', 'n3', NULL, 'n2')");
    assert_eq!(n2.value("SELECT count(*) FROM t WHERE node = 'late'"), "50");
}

/// It would go on as if nothing had happened since.
#[test]
fn a_recovery_that_was_under_way_at_that_moment_is_ended() {
    let cluster = mesh_of("a_recovery_under_way", 3);
    let [n1, n2, n3] = cluster.all();
    // The subscription is enabled while the recovery works at its origin.
    cluster.expect_log("is already active");
    let restores = Restores::of(&cluster);
    n3.wait_until(&extension::vouches_for("n1"), "t");
    n2.sql("ALTER SUBSCRIPTION sub_n2_n1 DISABLE");
    n2.wait_until("SELECT count(*) FROM pg_stat_subscription WHERE subname = 'sub_n2_n1' AND pid IS NOT NULL", "0");
    n1.sql("INSERT INTO t (node, v) VALUES ('n1', 1)");
    n3.wait_until("SELECT count(*) FROM t", "1");
    n1.kill9();
    n2.arm(names::RESCUE_BEFORE_COMMIT, Action::Wait);
    thread::scope(|scope| {
        let call = scope.spawn(|| n2.session().try_sql("CALL spock.recover_run('n1', 'n3')").is_ok());
        n2.wait_hit(names::RESCUE_BEFORE_COMMIT);
        n2.sql("ALTER SUBSCRIPTION sub_n2_n1 ENABLE");
        n1.start();
        n3.wait_until("SELECT state FROM spock.peer_status() WHERE node_name = 'n1'", "connected");
        n3.sql("SELECT spock.create_restore_point('under-way', lease := '30 s')");
        n2.disarm(names::RESCUE_BEFORE_COMMIT);
        call.join().expect("the call returns");
    });
    assert_eq!(settled(&cluster, "SELECT count(*) FROM t"), "1");
    done(restores.start(Moment::Point("under-way".into())));
    let open = "SELECT count(*) FROM spock.recovery_intents() WHERE ended_at IS NULL";
    assert_eq!(restores.paused(n2, open), "1");
    // Its workers run, and nobody has looked at the node yet: they have been told before.
    let mut options = restores.options(None);
    options.end_after = Some(("n2".to_owned(), Step::Open));
    assert!(matches!(ended(|screen| finish::run(&options, screen)).1, Err(Error::Ended(_))));
    n2.wait_until("SELECT phase FROM spock.recovery_intents()", "aborted");
    let told = done(restores.finish());
    assert!(
        told.contains("n2: the recovery for node \"n1\" that was under way at that moment is aborted: restored"),
        "{told}"
    );
    assert_eq!(n2.value(open), "0");
    assert_eq!(settled(&cluster, "SELECT count(*) FROM t"), "1");
}
