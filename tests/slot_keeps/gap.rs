//! A peer that lags behind a dead node, however much was advanced meanwhile.

use super::{
    FLUSHED, advance, advance_by_fresh_reports, decoded, insert_each, missing, quick, released, start_mesh,
    wait_confirmed, wait_follows,
};

const GAP: u32 = 100_000;

/// What n2 has before it stops to listen to n1.
const HAD: u32 = 10;

#[test]
fn what_a_lagging_peer_lacks_of_a_dead_node_stays_decodable_and_goes_once_it_has_caught_up() {
    let cluster = start_mesh(quick("slot_keeps_gap", 3), "CREATE TABLE t (id int PRIMARY KEY)");
    let [n1, n2, n3] = cluster.all();
    insert_each(n1, 1, HAD);
    for node in [n2, n3] {
        node.wait_until("SELECT count(*) FROM t", &HAD.to_string());
    }
    n2.sql("ALTER SUBSCRIPTION sub_n2_n1 DISABLE");
    n2.wait_until("SELECT count(*) FROM pg_stat_subscription WHERE subname = 'sub_n2_n1' AND pid IS NOT NULL", "0");
    advance_by_fresh_reports(n3, "'n2'");
    let segment = n3.value("SELECT pg_walfile_name(restart_lsn) FROM spock.get_recovery_slot_status()");

    // n3 still applies while the advances are asked for.
    for part in 0..4 {
        insert_each(n1, HAD + 1 + part * GAP / 4, HAD + (part + 1) * GAP / 4);
        n3.sql("CHECKPOINT");
        advance_by_fresh_reports(n3, "'n2'");
    }
    n3.wait_until("SELECT count(*) FROM t", &(HAD + GAP).to_string());
    // By what n3 sends to n2, the slot could go: with origin = none nothing of n1 is in it.
    wait_confirmed(n3, "sub_n2_n3");
    for _ in 0..2 {
        n3.sql("CHECKPOINT");
        advance_by_fresh_reports(n3, "'n2'");
    }
    n1.stop_immediate();
    n3.sql("CHECKPOINT");
    advance(n3);
    assert_eq!(n2.value("SELECT count(*) FROM t"), HAD.to_string());
    assert_eq!(decoded(n3, &missing(HAD + 1, HAD + GAP)), "0", "transactions of n1 that n3's slot has let go");

    n1.start();
    n2.sql("ALTER SUBSCRIPTION sub_n2_n1 ENABLE");
    n2.wait_until("SELECT count(*) FROM t", &(HAD + GAP).to_string());
    wait_follows(n3);
    assert_eq!(decoded(n3, "SELECT count(*) FROM change WHERE data LIKE 'table public.t: INSERT%'"), "0");
    assert_eq!(
        released(n3, "n1"),
        n3.value("SELECT own_lsn FROM spock.recovery_horizon() WHERE origin_node = 'n1' AND peer_node = 'n2'")
    );
    // restart_lsn follows from one record of running transactions to the next; a checkpoint writes one.
    let end = n3.value(FLUSHED);
    n3.wait_until(
        &format!(
            "SELECT restart_lsn >= '{end}' FROM spock.get_recovery_slot_status(), LATERAL (SELECT pg_log_standby_snapshot()) x"
        ),
        "t",
    );
    n3.sql("CHECKPOINT");
    assert_eq!(
        n3.value(&format!("SELECT count(*) FROM pg_ls_waldir() WHERE name = '{segment}'")),
        "0",
        "is still there"
    );
}
