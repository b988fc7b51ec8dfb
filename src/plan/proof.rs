//! The proof that a source can supply a target, condition by condition (docs/design/architecture.md, "The proof")
//! (pure).
//!
//! Every condition is examined and shown, whatever the others say. The first one that does not hold gives the plan its
//! reason; hence their order is that in which a user has to resolve them. A condition that cannot be judged does not
//! hold.

mod nodes;
mod slot;
mod tables;

use super::Wishes;
use super::facts::{NodeFacts, SubscriptionFacts};
use super::outcome::Reason;
use super::readiness::{Finding, found, named};
use crate::lsn::OriginLsn;
use serde::{Serialize, Serializer};

/// One condition, and what was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Condition {
    pub name: &'static str,
    pub holds: bool,
    pub finding: String,
    /// The plan's reason if the condition does not hold.
    pub reason: Reason,
}

impl Serialize for Condition {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Shown<'a> {
            name: &'a str,
            holds: bool,
            finding: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            reason: Option<Reason>,
        }
        let reason = (!self.holds).then_some(self.reason);
        Shown { name: self.name, holds: self.holds, finding: &self.finding, reason }.serialize(serializer)
    }
}

/// All conditions, in the order in which they give the plan its reason.
pub fn prove(failed: &str, target: &NodeFacts, source: &NodeFacts, wishes: &Wishes) -> Vec<Condition> {
    let case = Case { failed, target, source, wishes };
    let conditions: [(&'static str, Reason, Finding); 37] = [
        ("no_other_recovery_runs_on_target", Reason::RecoveryRunning, case.no_other_recovery()),
        ("versions_understand_each_other", Reason::VersionDiffers, case.versions_understand_each_other()),
        ("target_knows_its_origins", Reason::TargetOriginUnknown, knows_its_origins(target)),
        ("target_subscribes", Reason::TargetNotSubscribed, case.subscribes(target)),
        ("target_subscribes_once", Reason::TargetSubscribesTwice, case.subscribes_once(target)),
        ("target_progress_is_known", Reason::TargetProgressUnknown, case.progress_is_known(target)),
        ("source_knows_its_origins", Reason::SourceOriginUnknown, knows_its_origins(source)),
        ("source_subscribes", Reason::SourceNotSubscribed, case.subscribes(source)),
        ("source_subscribes_once", Reason::SourceSubscribesTwice, case.subscribes_once(source)),
        ("source_progress_is_known", Reason::SourceProgressUnknown, case.progress_is_known(source)),
        ("source_is_not_behind", Reason::SourceBehindTarget, case.is_not_behind()),
        ("failed_node_does_not_stream_to_target", Reason::FailedStreamsToTarget, case.does_not_stream(target)),
        ("failed_node_does_not_stream_to_source", Reason::FailedStreamsToSource, case.does_not_stream(source)),
        ("source_is_not_in_recovery", Reason::SourceInRecovery, case.source_is_not_in_recovery()),
        ("source_has_applied_all", Reason::SourceStillApplying, case.has_applied_all()),
        ("recovery_slots_are_enabled", Reason::SlotsDisabled, case.slots_are_enabled()),
        ("recovery_slot_exists", Reason::SlotMissing, case.slot_exists()),
        ("recovery_slot_is_valid", Reason::SlotInvalid, case.slot_is_valid()),
        ("recovery_slot_is_in_use", Reason::SlotNotInUse, case.slot_is_in_use()),
        ("recovery_slot_is_within_its_record", Reason::SlotMoved, case.slot_is_covered()),
        ("released_is_of_this_subscription", Reason::SourceSubscriptionChanged, case.released_is_of_this_pair()),
        ("released_is_known", Reason::ReleasedUnknown, case.released_is_known()),
        ("released_is_passed_by_target", Reason::ReleasedBeyondTarget, case.released_is_passed()),
        ("target_tables_are_ready", Reason::TargetTableNotReady, case.target_tables_are_ready()),
        ("source_has_the_tables", Reason::SourceLacksTable, case.source_has_the_tables()),
        ("source_tables_are_ready", Reason::SourceTableNotReady, case.source_tables_are_ready()),
        ("source_tables_were_copied_before", Reason::SourceTableCopiedLater, case.source_tables_were_copied_before()),
        ("same_publications", Reason::PublicationsDiffer, case.same_publications()),
        ("source_skipped_nothing", Reason::SourceSkippedTransaction, case.source_skipped_nothing()),
        ("nothing_is_prepared_on_target", Reason::TargetPreparedTransaction, case.nothing_is_prepared(target)),
        ("nothing_is_prepared_on_source", Reason::SourcePreparedTransaction, case.nothing_is_prepared(source)),
        ("no_replica_trigger_on_source", Reason::SourceReplicaTrigger, case.no_replica_trigger()),
        ("wal_level_is_logical", Reason::WalLevel, case.wal_level_is_logical()),
        ("plugin_is_listed", Reason::PluginNotListed, case.plugin_is_listed()),
        ("target_reaches_source", Reason::SourceUnreachableFromTarget, case.target_reaches_source()),
        ("source_role_may_replicate", Reason::SourceRoleLacksRights, case.role_may_replicate()),
        ("source_role_may_read", Reason::SourceRoleLacksRights, case.role_may_read()),
    ];
    conditions
        .into_iter()
        .map(|(name, reason, found)| {
            let holds = found.is_ok();
            let finding = match found {
                Ok(finding) | Err(finding) => finding,
            };
            Condition { name, holds, finding, reason }
        })
        .collect()
}

fn knows_its_origins(node: &NodeFacts) -> Finding {
    match node.unknown_origins.as_slice() {
        [] => Ok("the provider of every subscription is known".to_owned()),
        unknown => Err(format!(
            "the provider node of subscription {} of node \"{}\" is not known: it may be the failed node",
            named(unknown),
            node.node
        )),
    }
}

fn unknown_progress(node: &NodeFacts) -> String {
    format!("cannot be judged: the progress of node \"{}\" is unknown", node.node)
}

struct Case<'a> {
    failed: &'a str,
    target: &'a NodeFacts,
    source: &'a NodeFacts,
    wishes: &'a Wishes,
}

impl<'a> Case<'a> {
    /// The subscription of a node to the failed node. Err if there is not exactly one.
    fn subscription(&self, node: &'a NodeFacts) -> Result<&'a SubscriptionFacts, String> {
        let several = || {
            format!(
                "cannot be judged: node \"{}\" does not have exactly one subscription from node \"{}\"",
                node.node, self.failed
            )
        };
        node.only_subscription().ok_or_else(several)
    }

    /// The position after which the target may lack transactions.
    fn lacks_from(&self) -> Result<OriginLsn, String> {
        self.subscription(self.target)?.lacks_from().ok_or_else(|| unknown_progress(self.target))
    }

    /// How far the source has applied the failed node.
    fn has_up_to(&self) -> Result<OriginLsn, String> {
        self.subscription(self.source)?.has_up_to().ok_or_else(|| unknown_progress(self.source))
    }

    /// The position from which the target needs the source's WAL: what it has passed, or the caller's lower bound if
    /// that is later.
    fn needed_from(&self) -> Result<OriginLsn, String> {
        let from = self.lacks_from()?;
        let passed = self.subscription(self.target)?.passed().unwrap_or(from);
        Ok(passed.max(self.wishes.skip.unwrap_or(OriginLsn::ZERO)))
    }
}
