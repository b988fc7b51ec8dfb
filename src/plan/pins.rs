//! Pins: the resources that a recovery reserves so that they cannot disappear while it runs, and whether they are
//! available (pure).

use super::Wishes;
use super::facts::{Limit, NodeFacts};
use super::outcome::Reason;
use super::readiness;
use serde::Serialize;

/// One resource on one node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Pin {
    pub what: &'static str,
    pub node: String,
    /// Whether the resource is available.
    pub is_free: bool,
    pub finding: String,
    #[serde(skip)]
    pub reason: Reason,
}

/// All resources that a recovery of `target` from `source` reserves.
pub fn needed(failed: &str, target: &NodeFacts, source: &NodeFacts, wishes: &Wishes) -> Vec<Pin> {
    // A running recovery from the loss of the same node already holds its resources.
    let running = target.recovery_of(failed);
    let has_clone = wishes.has_clone || running.is_some_and(|running| running.source == source.node);
    let origin_is_active = target.only_subscription().is_some_and(|subscription| subscription.origin_is_active);
    vec![
        pin(
            "clone of the recovery slot",
            &source.node,
            i64::from(!has_clone),
            &source.capacity.slots,
            Reason::NoFreeSlot,
        ),
        pin("walsender", &source.node, 1, &source.capacity.walsenders, Reason::NoFreeWalsender),
        pin(
            "background worker",
            &target.node,
            i64::from(running.is_none()),
            &target.capacity.workers,
            Reason::NoFreeWorker,
        ),
        pin(
            "replication origin",
            &target.node,
            i64::from(!origin_is_active),
            &target.capacity.origins,
            Reason::NoFreeOrigin,
        ),
    ]
}

fn pin(what: &'static str, node: &str, count: i64, limit: &Limit, reason: Reason) -> Pin {
    let found = readiness::is_free(node, count, limit);
    let is_free = found.is_ok();
    let finding = match found {
        Ok(finding) | Err(finding) => finding,
    };
    Pin { what, node: node.to_owned(), is_free, finding, reason }
}
