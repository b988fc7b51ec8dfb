//! After a replay with others writing to the same rows: the survivors hold the same, and nothing that is later was lost.

mod inheritance;
mod interrupted;
pub mod kept;
mod large;
mod limits;
mod races;
mod versions;

use crate::cluster::{Cluster, Node};
use crate::rescue::{LAST_INTENT, end_gap, start};

/// What the reconcile of the last recovery has counted.
fn counted(target: &Node, what: &str) -> String {
    target.value(&format!("SELECT summary->'reconciled'->>'{what}' FROM {LAST_INTENT}"))
}

/// n1 dies, and n3 knows it.
fn fail(cluster: &Cluster) {
    let [n1, n3] = ["n1", "n3"].map(|name| cluster.node(name));
    end_gap(n1);
    n3.wait_until(
        "SELECT count(*) FROM pg_stat_subscription WHERE subname = 'sub_n3_n1' AND received_lsn IS NOT NULL",
        "0",
    );
}

/// n1 dies, and n2 is recovered from n3.
pub fn recover(cluster: &Cluster) {
    fail(cluster);
    cluster.node("n2").sql("CALL spock.recover_run('n1', 'n3')");
}

pub const VERSIONS: &str = "SELECT t.*, (pg_xact_commit_timestamp_origin(xmin)).timestamp FROM t ORDER BY id";
