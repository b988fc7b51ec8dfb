//! A node's physical standby takes its place, with its slot and its record, though the two were not carried over at one
//! moment.

use super::*;

const RECORD: &str = "SELECT label::jsonb->>'position' FROM pg_shseclabel WHERE classoid = 'pg_database'::regclass";
const RELEASED: &str =
    "SELECT (o->>'released')::pg_lsn FROM pg_shseclabel, jsonb_array_elements(label::jsonb->'origins') o
                         WHERE classoid = 'pg_database'::regclass AND o->>'node' = 'n1'";
const CONFIRMED: &str =
    "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = 'spk_recovery_postgres'";
const OWN: &str = "SELECT max(remote_lsn) FROM pg_replication_origin_status s JOIN pg_subscription u ON 'pg_' || u.oid = s.external_id
                    WHERE u.subname = 'sub_n3_n1'";

/// Brings the standby all that the primary has, its slot too, which core takes over only once it has come as far as what
/// the standby itself still has.
fn synchronise(n3: &Node, standby: &Node) {
    wait_for("the slot on the standby", || {
        n3.sql("SELECT pg_log_standby_snapshot(); SELECT spock.advance_recovery_slot()");
        let end = n3.value("SELECT pg_current_wal_flush_lsn()");
        standby.wait_until(&format!("SELECT pg_last_wal_replay_lsn() >= '{end}'"), "t");
        standby.value(&format!("SELECT synced AND NOT temporary FROM pg_replication_slots WHERE slot_name = '{SLOT}'"))
            == "t"
    });
}

#[test]
fn a_promoted_standby_whose_slot_is_ahead_of_its_record_vouches_for_nothing_before_its_own_position() {
    let mut cluster = mesh_of_three("slot_life_failover");
    for node in cluster.nodes() {
        node.sql("CREATE TABLE u (id int PRIMARY KEY)");
    }
    cluster.refresh_mesh();
    cluster.node("n3").set(&[("spock.recovery_slot_failover", "on"), ("spock.recovery_slot_advance_interval", "1h")]);
    cluster.node("n3").sql("SELECT spock.drop_recovery_slot()");
    wait_slot(cluster.node("n3").db("postgres"), 2);
    cluster.add_standby("n3b", "n3");
    let [n1, n2, n3, standby] = cluster.all();
    assert_eq!(n3.value("SELECT failover FROM pg_replication_slots WHERE slot_name = 'spk_recovery_postgres'"), "t");
    n1.sql("INSERT INTO t VALUES (100, 'before')");
    for node in [n2, n3] {
        node.wait_until("SELECT count(*) FROM t WHERE id = 100", "1");
    }
    wait_for("n3 to know what it keeps", || {
        n1.sql("UPDATE t SET v = v || '.' WHERE id = 100");
        n3.value(&format!("SELECT ({RELEASED}) < 'FFFFFFFF/FFFFFFFF'")) == "t"
    });
    synchronise(n3, standby);

    // n2 passes the next transaction of n1, and not the one after: there the horizon stays.
    let mut held = n2.session();
    held.sql("BEGIN; LOCK TABLE u");
    n1.sql("INSERT INTO t VALUES (101, 'passed by n2')");
    n2.wait_until("SELECT count(*) FROM t WHERE id = 101", "1");
    n3.wait_until("SELECT count(*) FROM t WHERE id = 101", "1");
    wait_rounds(n3.db("postgres"), 3);
    n1.sql("INSERT INTO u VALUES (1)");
    n3.wait_until("SELECT count(*) FROM u", "1");
    wait_rounds(n3.db("postgres"), 3);
    n3.wait_until("SELECT blocked_reason FROM spock.recovery_horizon() WHERE peer_node = 'n2'", "peer_lagging");
    flush_wal(n3.db("postgres"));
    let end = n3.value("SELECT pg_current_wal_flush_lsn()");
    standby.wait_until(&format!("SELECT pg_last_wal_replay_lsn() >= '{end}'"), "t");

    // From here on the standby gets no WAL: not the record of the move that its slot is told of.
    let sender = n3.value(
        "SELECT pid FROM pg_stat_replication WHERE application_name IN ('walreceiver', 'n3b') AND state = 'streaming'",
    );
    n3.pause_process(sender.parse().expect("one walsender"));
    let before = standby.value(CONFIRMED);
    n3.wait_until(&format!("SELECT spock.advance_recovery_slot() > '{before}'"), "t");
    standby.wait_until(&format!("SELECT ({CONFIRMED}) > '{before}'"), "t");
    let (record, confirmed) = (standby.value(RECORD), standby.value(CONFIRMED));
    assert_eq!(
        standby.value(&format!("SELECT '{record}'::pg_lsn < '{confirmed}'::pg_lsn")),
        "t",
        "{record}, {confirmed}"
    );
    let vouched_before = standby.value(RELEASED);

    n3.kill9();
    standby.arm(crate::failpoint_names::MANAGER_START, crate::cluster::Action::Wait);
    standby.promote();
    standby.wait_hit(crate::failpoint_names::MANAGER_START);
    let own = standby.value(OWN);
    assert_eq!(standby.value(&format!("SELECT '{own}'::pg_lsn > '{vouched_before}'::pg_lsn")), "t");
    standby.disarm(crate::failpoint_names::MANAGER_START);
    wait_slot(standby.db("postgres"), 2);
    standby.wait_log("which the retention record covers: it may have released");
    standby.wait_until(&format!("SELECT ({RELEASED}) >= '{own}'"), "t");
    assert_eq!(standby.value(&format!("SELECT ({RECORD})::pg_lsn >= '{confirmed}'")), "t");
    // The slot is kept, and goes on where n3's has stopped.
    assert_eq!(
        standby.value("SELECT slot_name FROM pg_replication_slots WHERE plugin = 'pgoutput' AND slot_name LIKE 'spk%'"),
        SLOT
    );
    held.sql("COMMIT");
    n1.sql("INSERT INTO t VALUES (102, 'after')");
    for node in [n2, standby] {
        node.wait_until("SELECT count(*) FROM t WHERE id = 102", "1");
    }
    let end = standby.value("SELECT pg_current_wal_insert_lsn()");
    standby.wait_until(&format!("SELECT spock.advance_recovery_slot() >= '{end}'"), "t");
}
