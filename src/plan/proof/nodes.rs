//! Conditions on the two nodes and on the failed one: what they are, how far they are, and what they are doing (pure).

use super::super::facts::{NodeFacts, RecoveryFacts, TableFacts};
use super::super::readiness;
use super::{Case, Finding, found, named};
use crate::protocol;
use std::cmp::Ordering;

fn none_runs(node: &NodeFacts, is_meant: impl Fn(&RecoveryFacts) -> bool) -> Finding {
    match node.recoveries.iter().find(|recovery| is_meant(recovery)) {
        None => Ok(format!("no such recovery is running on node \"{}\"", node.node)),
        Some(recovery) => Err(format!(
            "node \"{}\" is being recovered from the loss of node \"{}\" by node \"{}\" (intent {}, at phase {})",
            node.node, recovery.failed, recovery.source, recovery.intent, recovery.phase
        )),
    }
}

impl<'a> Case<'a> {
    /// A recovery from the loss of the same node is no obstacle: a second call joins it.
    pub(super) fn no_other_recovery(&self) -> Finding {
        none_runs(self.target, |recovery| recovery.failed != self.failed)
    }

    /// While the source is itself being recovered, its position moves and its rows are not final.
    pub(super) fn source_is_not_in_recovery(&self) -> Finding {
        none_runs(self.source, |recovery| recovery.failed == self.failed)
    }

    pub(super) fn versions_understand_each_other(&self) -> Finding {
        let told = |node: &NodeFacts| {
            format!("version {} (protocol {}) on node \"{}\"", node.extension, node.protocol, node.node)
        };
        let both = format!("{}, {}", told(self.target), told(self.source));
        match protocol::lags(self.target.protocol, self.source.protocol) {
            Ordering::Equal => Ok(both),
            Ordering::Less => Err(format!("{both}: upgrade node \"{}\"", self.target.node)),
            Ordering::Greater => Err(format!("{both}: upgrade node \"{}\"", self.source.node)),
        }
    }

    pub(super) fn subscribes(&self, node: &NodeFacts) -> Finding {
        let names: Vec<String> = node.subscriptions.iter().map(|subscription| subscription.name.clone()).collect();
        if names.is_empty() {
            return Err(format!("node \"{}\" has no subscription from node \"{}\"", node.node, self.failed));
        }
        Ok(format!("node \"{}\" has subscription {}", node.node, named(&names)))
    }

    pub(super) fn subscribes_once(&self, node: &NodeFacts) -> Finding {
        let count = node.subscriptions.len();
        let finding = format!("subscriptions of node \"{}\" from node \"{}\": {count}", node.node, self.failed);
        found(count == 1, finding)
    }

    pub(super) fn progress_is_known(&self, node: &'a NodeFacts) -> Finding {
        let subscription = self.subscription(node)?;
        match (subscription.applied, subscription.begins) {
            // Without the replication origin the target could not apply under it, and the source's WAL could not be
            // searched for it.
            _ if subscription.origin_id == 0 => Err(format!(
                "subscription \"{}\" of node \"{}\" has no replication origin",
                subscription.name, node.node
            )),
            (Some(applied), _) => Ok(format!("node \"{}\" has applied up to {applied}", node.node)),
            (None, Some(begins)) => {
                Ok(format!("node \"{}\" has applied nothing yet; it lacks nothing up to {begins}", node.node))
            }
            (None, None) => Err(format!(
                "subscription \"{}\" of node \"{}\" has applied nothing since it was created, and it is not known where it \
                 began: node \"{}\" has not been asked since then",
                subscription.name, node.node, self.failed
            )),
        }
    }

    pub(super) fn is_not_behind(&self) -> Finding {
        let (ours, theirs) = (self.lacks_from()?, self.has_up_to()?);
        found(
            theirs >= ours,
            format!(
                "node \"{}\" has applied up to {theirs}, node \"{}\" up to {ours}",
                self.source.node, self.target.node
            ),
        )
    }

    /// Being attached is not enough to count as streaming: a node that hangs keeps its connections for a minute.
    pub(super) fn does_not_stream(&self, node: &NodeFacts) -> Finding {
        let is_attached = node.subscriptions.iter().any(|subscription| subscription.is_attached);
        let answers = self.wishes.failed_answers || node.failed_answers;
        let finding = match (is_attached, answers) {
            (true, true) => "is connected to it, and it answers: it has not failed",
            (true, false) => "is still connected to it, but it does not answer",
            (false, true) => "receives nothing from it, but it answers",
            (false, false) => "receives nothing from it, and it does not answer",
        };
        found(!(is_attached && answers), format!("node \"{}\" {finding}", node.node))
    }

    pub(super) fn has_applied_all(&self) -> Finding {
        let subscription = self.subscription(self.source)?;
        found(
            !subscription.is_applying,
            format!(
                "node \"{}\" {} node \"{}\"",
                self.source.node,
                if subscription.is_applying { "is still applying a change of" } else { "is applying nothing of" },
                self.failed
            ),
        )
    }

    pub(super) fn wal_level_is_logical(&self) -> Finding {
        readiness::wal_level_is_logical(&self.source.node, &self.source.settings)
    }

    pub(super) fn plugin_is_listed(&self) -> Finding {
        readiness::plugin_is_listed(&self.source.node, &self.source.settings)
    }

    pub(super) fn target_reaches_source(&self) -> Finding {
        let (target, source) = (&self.target.node, &self.source.node);
        if self.wishes.knows_the_way {
            return Ok(format!("node \"{target}\" has a connection string"));
        }
        match self.target.peers.iter().find(|peer| peer.node == *source) {
            None => Err(format!("node \"{source}\" is not a peer of node \"{target}\"")),
            Some(peer) => found(
                !peer.is_unreachable,
                format!("node \"{target}\" has node \"{source}\" as a peer in state \"{}\"", peer.state),
            ),
        }
    }

    pub(super) fn role_may_replicate(&self) -> Finding {
        if !self.wishes.asked_by_target {
            return Ok("the role is checked when the target asks".to_owned());
        }
        readiness::role_may_replicate(&self.source.node, &self.source.asked_by)
    }

    pub(super) fn role_may_read(&self) -> Finding {
        if !self.wishes.asked_by_target {
            return Ok("the role is checked when the target asks".to_owned());
        }
        let hidden: Vec<String> = self
            .pairs()?
            .iter()
            .filter_map(|(_, theirs)| *theirs)
            .filter(|table| !table.is_readable)
            .map(TableFacts::full_name)
            .collect();
        readiness::role_may_read(&self.source.node, &self.source.asked_by, &hidden)
    }
}
