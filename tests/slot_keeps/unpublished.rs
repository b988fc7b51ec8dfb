//! Transactions that move nobody's replication origin, or not everybody's, do not make the slot stick.

use super::{quick, start_mesh, wait_follows};

#[test]
fn a_change_that_hits_no_row_on_one_peer_does_not_make_the_slot_stick() {
    let cluster = start_mesh(quick("slot_keeps_no_row", 3), "CREATE TABLE t (id int PRIMARY KEY, v int)");
    let [n1, n2, n3] = cluster.all();
    n2.sql(
        "CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
         CREATE TRIGGER never BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION nothing();
         ALTER TABLE t ENABLE REPLICA TRIGGER never",
    );
    n1.sql("INSERT INTO t VALUES (1, 0)");
    n3.wait_until("SELECT v FROM t", "0");
    n1.sql("UPDATE t SET v = 1");
    n3.wait_until("SELECT v FROM t", "1");
    wait_follows(n3);
    // It was the case that was meant: n2's origin stands where it stood.
    let own = n3.value("SELECT own_lsn FROM spock.recovery_horizon() WHERE origin_node = 'n1' AND peer_node = 'n2'");
    assert_eq!(
        n2.value(&format!(
            "SELECT applied_lsn < '{own}', passed_lsn >= '{own}' FROM spock.node_positions() WHERE origin_node = 'n1'"
        )),
        "t|t"
    );
    assert_eq!(n2.value("SELECT count(*) FROM t"), "0");
}

#[test]
fn transactions_that_publish_nothing_do_not_make_the_slot_stick() {
    let cluster = start_mesh(quick("slot_keeps_unpublished", 3), "CREATE TABLE t (id int PRIMARY KEY)");
    let [n1, _, n3] = cluster.all();
    let before = n3.value("SELECT own_lsn FROM spock.recovery_horizon() WHERE origin_node = 'n1' AND peer_node = 'n2'");
    n1.sql("CREATE UNLOGGED TABLE unlogged (id int); CREATE ROLE nobody");
    n1.sql("DO $$ BEGIN FOR id IN 1 .. 500 LOOP INSERT INTO unlogged VALUES (id); COMMIT; END LOOP; END $$");
    // On n3 its WAL grows by what concerns nobody either.
    n3.sql("CREATE ROLE nobody_either; CREATE TABLE scratch (id int); DROP TABLE scratch");
    wait_follows(n3);
    let after = n3.value("SELECT own_lsn FROM spock.recovery_horizon() WHERE origin_node = 'n1' AND peer_node = 'n2'");
    assert_eq!(before, after, "n1 has published something: it is not the case that was meant");
    // The next one that publishes is held for n2, and let go when n2 has it.
    n1.sql("INSERT INTO t VALUES (1)");
    n3.wait_until("SELECT count(*) FROM t", "1");
    wait_follows(n3);
}
