//! A clone that nobody uses for long is not taken by the server's time limit on idle slots.

use super::*;
use crate::cluster::wait_for;

#[test]
fn an_idle_clone_is_touched_in_time_for_idle_replication_slot_timeout() {
    let cluster = source("rescue_clone_idle");
    // 17 has no such setting.
    if cluster.major() < 18 {
        return;
    }
    let [n3] = cluster.all();
    let clone = made(n3.db("postgres"), "'n1', 'n2'");
    n3.sql(&claim(&clone, INTENT));
    wait_rounds(n3.db("postgres"), 2);
    // A nap longer than the limit: the limit decides.
    n3.set(&[("idle_replication_slot_timeout", "2s"), ("spock.manager_naptime", "1h")]);
    let now = n3.value("SELECT clock_timestamp()");
    wait_for("twice the limit to pass, with checkpoints", || {
        n3.sql("CHECKPOINT");
        n3.value(&format!("SELECT clock_timestamp() > '{now}'::timestamptz + interval '5 s'")) == "t"
    });
    assert_eq!(n3.value("SELECT slot_name, usable FROM spock.recovery_clones()"), format!("{clone}|t"));
    assert_eq!(n3.value("SELECT count(*) FROM pg_replication_slots WHERE invalidation_reason IS NOT NULL"), "0");
}
