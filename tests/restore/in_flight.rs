//! What was on its way at that moment arrives afterwards, once.

use spockctl::restore::Moment;

use super::{Restores, done, settled};
use crate::restore_points::mesh_of;

/// Rows of n1 that n2 has not applied.
const IN_FLIGHT: u32 = 2000;

#[test]
fn what_was_in_flight_arrives_once_and_what_was_open_is_gone() {
    let cluster = mesh_of("what_was_in_flight", 3);
    let [n1, n2, n3] = cluster.all();
    let restores = Restores::of(&cluster);
    for node in cluster.nodes() {
        node.sql(&format!("INSERT INTO t (node, v) SELECT '{}', n FROM generate_series(1, 100) n", node.name()));
    }
    assert_eq!(settled(&cluster, "SELECT count(*) FROM t"), "300");
    restores.drained("early");

    // n2 applies nothing, n1 goes on writing, and n3 has an open transaction and a prepared one.
    let mut lock = n2.session();
    lock.sql("BEGIN; LOCK TABLE t IN EXCLUSIVE MODE");
    n1.sql(&format!(
        "DO $$ BEGIN FOR n IN 1 .. {IN_FLIGHT} LOOP INSERT INTO t (node, v) VALUES ('n1', 1000 + n); COMMIT; END LOOP; END $$"
    ));
    let mut open = n3.session();
    open.sql("BEGIN; INSERT INTO t (node, v) VALUES ('open', 1)");
    n3.sql("BEGIN; INSERT INTO t (node, v) VALUES ('prepared', 1); PREPARE TRANSACTION 'wait'");
    n3.wait_until("SELECT count(*) FROM t", &(300 + IN_FLIGHT).to_string());
    restores.cut("busy");
    open.sql("COMMIT");
    lock.sql("COMMIT");
    n1.sql("UPDATE t SET v = -v");
    n3.wait_until("SELECT count(*) > 0 FROM t WHERE v < 0", "t");

    let shown = done(restores.start(Moment::Point("busy".into())));
    assert!(shown.contains("n2           n1   what is in"), "{shown}");
    assert_eq!(restores.paused(n2, "SELECT count(*) FROM t"), "300");
    assert_eq!(restores.paused(n3, "SELECT count(*) FROM t WHERE node IN ('open', 'prepared')"), "0");
    let shown = done(restores.finish());
    assert!(shown.contains("n3: prepared transactions wait as they did then: wait"), "{shown}");
    let expected = (300 + IN_FLIGHT).to_string();
    assert_eq!(settled(&cluster, "SELECT count(*) FROM t"), expected);
    assert_eq!(settled(&cluster, "SELECT count(*) FROM t WHERE v < 0"), "0");
    n3.sql("COMMIT PREPARED 'wait'");
    assert_eq!(settled(&cluster, "SELECT count(*) FROM t WHERE node IN ('open', 'prepared')"), "1");

    // From the new timelines to a moment before all of that, and with a point of the same second mesh.
    done(restores.start(Moment::Point("early".into())));
    done(restores.finish());
    assert_eq!(settled(&cluster, "SELECT count(*) FROM t"), "300");
    for node in cluster.nodes() {
        assert_eq!(node.value("SELECT timeline_id FROM pg_control_checkpoint()"), "3", "{}", node.name());
        node.sql(&format!("INSERT INTO t (node, v) VALUES ('{}', -7)", node.name()));
    }
    for node in cluster.nodes() {
        node.wait_until("SELECT count(*) FROM t WHERE v = -7", "3");
    }
}
