//! After a replay with others writing to the same rows: the survivors hold the same, and nothing that is later was lost.

mod interrupted;
mod races;
mod versions;

use crate::cluster::{Cluster, Node};
use crate::rescue::{LAST_INTENT, end_gap, start, wait_arrived};

/// What the reconcile of the last recovery has counted.
fn counted(target: &Node, what: &str) -> String {
    target.value(&format!("SELECT summary->'reconciled'->>'{what}' FROM {LAST_INTENT}"))
}

/// n1 dies, and n2 is recovered from n3.
fn recover(cluster: &Cluster) {
    let [n1, n2, n3] = ["n1", "n2", "n3"].map(|name| cluster.node(name));
    wait_arrived(n1);
    n1.kill9();
    n3.wait_until(
        "SELECT count(*) FROM pg_stat_subscription WHERE subname = 'sub_n3_n1' AND received_lsn IS NOT NULL",
        "0",
    );
    n2.sql("CALL spock.recover_run('n1', 'n3')");
}

/// All that n3 and n2 have written has arrived at the other one.
fn drain_survivors(n2: &Node, n3: &Node) {
    crate::rescue::drain(n2, n3);
    crate::rescue::drain(n3, n2);
}

/// Enables or disables a subscription, and waits until its process has gone.
fn set_alone(node: &Node, subscription: &str, how: &str) {
    node.sql(&format!("ALTER SUBSCRIPTION {subscription} {how}"));
    if how == "DISABLE" {
        node.wait_until(
            &format!("SELECT count(*) FROM pg_stat_subscription WHERE subname = '{subscription}' AND pid IS NOT NULL"),
            "0",
        );
    }
}

const VERSIONS: &str = "SELECT t.*, (pg_xact_commit_timestamp_origin(xmin)).timestamp FROM t ORDER BY id";
