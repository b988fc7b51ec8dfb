//! The proof that a source can serve a target, condition by condition (docs/architecture.md, "The proof") (pure).
//!
//! Every condition is looked at and shown, whatever the others say; the first that does not hold gives the plan its
//! reason. So their order is that of what a person has to mend first. What cannot be judged does not hold.

use super::Wishes;
use super::facts::{NodeFacts, RecoveryFacts, SlotState, SubscriptionFacts, TableFacts};
use super::outcome::Reason;
use crate::health::judge;
use crate::lsn::OriginLsn;
use serde::{Serialize, Serializer};

/// One condition, and what was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Condition {
    pub name: &'static str,
    pub holds: bool,
    pub finding: String,
    /// The plan's reason, should it not hold.
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

/// What a condition comes to: what was found, and whether that is as it must be.
type Found = Result<String, String>;

/// At most this many things are named in a finding.
const NAMED: usize = 5;

/// All conditions, in the order of their reasons.
pub fn prove(failed: &str, target: &NodeFacts, source: &NodeFacts, wishes: &Wishes) -> Vec<Condition> {
    let case = Case { failed, target, source, wishes };
    let conditions: [(&'static str, Reason, Found); 37] = [
        ("no_other_recovery_runs_on_target", Reason::RecoveryRunning, case.no_other_recovery()),
        ("same_version", Reason::VersionDiffers, case.same_version()),
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

fn found(holds: bool, finding: String) -> Found {
    if holds { Ok(finding) } else { Err(finding) }
}

/// The first of many, quoted.
fn named(names: &[String]) -> String {
    let mut text = names.iter().take(NAMED).map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
    if names.len() > NAMED {
        text.push_str(&format!(" and {} more", names.len() - NAMED));
    }
    text
}

fn knows_its_origins(node: &NodeFacts) -> Found {
    match node.unknown_origins.as_slice() {
        [] => Ok("every subscription's node is known".to_owned()),
        unknown => Err(format!(
            "nobody knows from which node subscription {} of node \"{}\" comes: it may be the failed one",
            named(unknown),
            node.node
        )),
    }
}

fn none_runs(node: &NodeFacts, is_meant: impl Fn(&RecoveryFacts) -> bool) -> Found {
    match node.recoveries.iter().find(|recovery| is_meant(recovery)) {
        None => Ok(format!("none stands in the way on node \"{}\"", node.node)),
        Some(recovery) => Err(format!(
            "node \"{}\" is being recovered from the loss of node \"{}\" by node \"{}\" (intent {}, at phase {})",
            node.node, recovery.failed, recovery.source, recovery.intent, recovery.phase
        )),
    }
}

struct Case<'a> {
    failed: &'a str,
    target: &'a NodeFacts,
    source: &'a NodeFacts,
    wishes: &'a Wishes,
}

impl<'a> Case<'a> {
    /// The subscription of a node to the failed one; Err: there is not exactly one.
    fn subscription(&self, node: &'a NodeFacts) -> Result<&'a SubscriptionFacts, String> {
        let several = || {
            format!("cannot be judged: node \"{}\" has not one subscription from node \"{}\"", node.node, self.failed)
        };
        node.only_subscription().ok_or_else(several)
    }

    fn applied(&self, node: &'a NodeFacts) -> Result<OriginLsn, String> {
        let unknown = || format!("cannot be judged: the progress of node \"{}\" is unknown", node.node);
        self.subscription(node)?.applied.ok_or_else(unknown)
    }

    /// Beyond what is recovered: where the target needs the source's WAL from.
    fn needed_from(&self) -> Result<OriginLsn, String> {
        let applied = self.applied(self.target)?;
        let passed = self.subscription(self.target)?.passed().unwrap_or(applied);
        Ok(passed.max(self.wishes.skip.unwrap_or(OriginLsn::ZERO)))
    }

    /// One of the same failed node is no obstacle: who asks for it again joins it.
    fn no_other_recovery(&self) -> Found {
        none_runs(self.target, |recovery| recovery.failed != self.failed)
    }

    /// Its position moves, and its rows are not yet what they will be.
    fn source_is_not_in_recovery(&self) -> Found {
        none_runs(self.source, |recovery| recovery.failed == self.failed)
    }

    fn same_version(&self) -> Found {
        let (ours, theirs) = (&self.target.extension, &self.source.extension);
        found(
            ours == theirs,
            format!("version {ours} on node \"{}\", {theirs} on node \"{}\"", self.target.node, self.source.node),
        )
    }

    fn subscribes(&self, node: &NodeFacts) -> Found {
        let names: Vec<String> = node.subscriptions.iter().map(|subscription| subscription.name.clone()).collect();
        if names.is_empty() {
            return Err(format!("node \"{}\" has no subscription from node \"{}\"", node.node, self.failed));
        }
        Ok(format!("node \"{}\" by subscription {}", node.node, named(&names)))
    }

    fn subscribes_once(&self, node: &NodeFacts) -> Found {
        let count = node.subscriptions.len();
        let finding = format!("node \"{}\" has {count} subscriptions from node \"{}\"", node.node, self.failed);
        found(count == 1, finding)
    }

    fn progress_is_known(&self, node: &'a NodeFacts) -> Found {
        let subscription = self.subscription(node)?;
        match subscription.applied {
            // Without its origin nothing could be applied under it, nor told apart in WAL.
            _ if subscription.origin_id == 0 => Err(format!(
                "subscription \"{}\" of node \"{}\" has no replication origin",
                subscription.name, node.node
            )),
            Some(applied) => Ok(format!("node \"{}\" has applied up to {applied}", node.node)),
            None => Err(format!(
                "subscription \"{}\" of node \"{}\" has applied nothing since it was created",
                subscription.name, node.node
            )),
        }
    }

    fn is_not_behind(&self) -> Found {
        let (ours, theirs) = (self.applied(self.target)?, self.applied(self.source)?);
        found(
            theirs >= ours,
            format!("node \"{}\" up to {theirs}, node \"{}\" up to {ours}", self.source.node, self.target.node),
        )
    }

    /// Attached alone is not streaming: a node that hangs keeps its connections for a minute.
    fn does_not_stream(&self, node: &NodeFacts) -> Found {
        let is_attached = node.subscriptions.iter().any(|subscription| subscription.is_attached);
        let answers = self.wishes.failed_answers || node.failed_answers;
        let finding = match (is_attached, answers) {
            (true, true) => "is attached and answers: it has not failed",
            (true, false) => "is attached, but does not answer",
            (false, true) => "answers, but is not attached",
            (false, false) => "is not attached, and does not answer",
        };
        found(!(is_attached && answers), format!("to node \"{}\" it {finding}", node.node))
    }

    fn has_applied_all(&self) -> Found {
        let subscription = self.subscription(self.source)?;
        found(
            !subscription.is_applying,
            format!(
                "node \"{}\" {} node \"{}\"",
                self.source.node,
                if subscription.is_applying { "is just applying a change of" } else { "is applying nothing of" },
                self.failed
            ),
        )
    }

    fn slots_are_enabled(&self) -> Found {
        let is_enabled = self.source.slot.is_enabled;
        let finding = format!(
            "spock.enable_recovery_slots is {} on node \"{}\"",
            if is_enabled { "on" } else { "off" },
            self.source.node
        );
        found(is_enabled, finding)
    }

    fn slot_name(&self) -> &str {
        self.source.slot.name.as_deref().unwrap_or_default()
    }

    fn slot_exists(&self) -> Found {
        match self.source.slot.state {
            SlotState::Missing => Err(format!("node \"{}\" has no recovery slot", self.source.node)),
            SlotState::BeingCreated => {
                Err(format!("slot \"{}\" is still being created: it waits for running transactions", self.slot_name()))
            }
            SlotState::Invalid | SlotState::NotInUse | SlotState::Usable => {
                Ok(format!("slot \"{}\", generation {}", self.slot_name(), self.source.slot.generation))
            }
        }
    }

    fn slot_is_valid(&self) -> Found {
        match self.source.slot.state {
            SlotState::Usable | SlotState::NotInUse => Ok("all its WAL is there".to_owned()),
            SlotState::Invalid => Err(format!("slot \"{}\" was invalidated: its WAL is gone", self.slot_name())),
            SlotState::Missing | SlotState::BeingCreated => Err("cannot be judged: there is no slot".to_owned()),
        }
    }

    fn slot_is_in_use(&self) -> Found {
        match self.source.slot.state {
            SlotState::Usable => Ok("what it has let go is written down".to_owned()),
            SlotState::NotInUse => Err("it was created just now, and nothing is written down of it yet".to_owned()),
            _ => Err("cannot be judged: there is no usable slot".to_owned()),
        }
    }

    fn slot_is_covered(&self) -> Found {
        if !matches!(self.source.slot.state, SlotState::Usable) {
            return Err("cannot be judged: there is no usable slot".to_owned());
        }
        if self.source.slot.is_covered {
            return Ok("it is where the retention record says, or before".to_owned());
        }
        Err("it is beyond the position that the retention record covers: somebody else has moved it".to_owned())
    }

    fn released_is_of_this_pair(&self) -> Found {
        let subscription = self.subscription(self.source)?;
        let pair = format!("subscription {} with origin {}", subscription.subscription, subscription.origin_id);
        match self.source.slot.record_for(subscription) {
            Some(_) => Ok(format!("recorded for {pair}")),
            None => Err(format!(
                "nothing is recorded for {pair} with its present tables: it was created or changed just now, or before the \
                 slot was"
            )),
        }
    }

    fn released_is_known(&self) -> Found {
        let subscription = self.subscription(self.source)?;
        match self.source.slot.released_for(subscription) {
            Some(released) => Ok(format!("node \"{}\" may have let go up to {released}", self.source.node)),
            None => Err(format!(
                "node \"{}\" cannot vouch for anything of node \"{}\" before its subscription has moved again",
                self.source.node, self.failed
            )),
        }
    }

    fn released_is_passed(&self) -> Found {
        let needed_from = self.needed_from()?;
        let subscription = self.subscription(self.source)?;
        let unknown = || "cannot be judged: what was let go is unknown".to_owned();
        let released = self.source.slot.released_for(subscription).ok_or_else(unknown)?;
        let stop = self.wishes.stop.or(subscription.applied).unwrap_or(OriginLsn::INFINITY);
        let given_up = if self.source.slot.unprotected.contains(&self.target.node) {
            "; it was given up for the retention budget"
        } else {
            ""
        };
        let finding = format!(
            "let go up to {released}; node \"{}\" needs what is beyond {needed_from}{given_up}",
            self.target.node
        );
        // Where nothing is wanted nothing need be there.
        found(released <= needed_from || needed_from >= stop, finding)
    }

    fn target_tables_are_ready(&self) -> Found {
        let tables = &self.subscription(self.target)?.tables;
        let copying: Vec<String> = tables.iter().filter(|table| !table.is_ready()).map(TableFacts::full_name).collect();
        if copying.is_empty() {
            return Ok(format!("{} tables are ready on node \"{}\"", tables.len(), self.target.node));
        }
        Err(format!("the initial copy of {} on node \"{}\" is not finished", named(&copying), self.target.node))
    }

    /// Each table of the target beside the source's of that name.
    fn pairs(&self) -> Result<Vec<(&'a TableFacts, Option<&'a TableFacts>)>, String> {
        let (ours, theirs) = (self.subscription(self.target)?, self.subscription(self.source)?);
        Ok(ours.tables.iter().map(|table| (table, theirs.table(&table.schema, &table.name))).collect())
    }

    fn source_has_the_tables(&self) -> Found {
        let pairs = self.pairs()?;
        let lacking: Vec<String> =
            pairs.iter().filter(|(_, theirs)| theirs.is_none()).map(|(ours, _)| ours.full_name()).collect();
        if lacking.is_empty() {
            return Ok(format!("node \"{}\" replicates the same {} tables", self.source.node, pairs.len()));
        }
        Err(format!("node \"{}\" does not replicate {}", self.source.node, named(&lacking)))
    }

    fn source_tables_are_ready(&self) -> Found {
        let pairs = self.pairs()?;
        let copying: Vec<String> = pairs
            .iter()
            .filter_map(|(_, theirs)| *theirs)
            .filter(|table| !table.is_ready())
            .map(TableFacts::full_name)
            .collect();
        if copying.is_empty() {
            return Ok(format!("they are on node \"{}\"", self.source.node));
        }
        Err(format!("the initial copy of {} on node \"{}\" is not finished", named(&copying), self.source.node))
    }

    /// Rows that the source has got by an initial copy are not in its WAL as the failed node's transactions.
    fn source_tables_were_copied_before(&self) -> Found {
        let passed = self.needed_from()?;
        let pairs = self.pairs()?;
        let later: Vec<String> = pairs
            .iter()
            .filter_map(|(_, theirs)| *theirs)
            .filter(|table| table.copied.is_some_and(|copied| copied > passed))
            .map(TableFacts::full_name)
            .collect();
        if later.is_empty() {
            return Ok(format!("what node \"{}\" lacks came by changes, not by a copy", self.target.node));
        }
        Err(format!(
            "node \"{}\" has got rows of {} that node \"{}\" lacks by an initial copy",
            self.source.node,
            named(&later),
            self.target.node
        ))
    }

    fn same_publications(&self) -> Found {
        let sorted = |node| {
            let mut names = self.subscription(node)?.publications.clone();
            names.sort();
            names.dedup();
            Ok::<_, String>(names)
        };
        let (ours, theirs) = (sorted(self.target)?, sorted(self.source)?);
        if ours == theirs {
            return Ok(format!("both: {}", named(&ours)));
        }
        Err(format!(
            "node \"{}\" subscribes to {}, node \"{}\" to {}",
            self.target.node,
            named(&ours),
            self.source.node,
            named(&theirs)
        ))
    }

    fn source_skipped_nothing(&self) -> Found {
        let subscription = self.subscription(self.source)?;
        let name = &subscription.name;
        match subscription.pending_skip {
            Some(lsn) => Err(format!("subscription \"{name}\" of node \"{}\" is to skip {lsn}", self.source.node)),
            None if subscription.has_skipped => {
                Err(format!("subscription \"{name}\" of node \"{}\" has skipped a transaction", self.source.node))
            }
            None => Ok(format!(
                "nothing shows that subscription \"{name}\" did; {} errors were counted",
                subscription.apply_errors
            )),
        }
    }

    fn nothing_is_prepared(&self, node: &'a NodeFacts) -> Found {
        match self.subscription(node)?.prepared.as_slice() {
            [] => Ok(format!("nothing of it on node \"{}\"", node.node)),
            prepared => Err(format!("on node \"{}\": {}", node.node, named(prepared))),
        }
    }

    fn no_replica_trigger(&self) -> Found {
        let triggers: Vec<String> = self
            .pairs()?
            .iter()
            .filter_map(|(_, theirs)| *theirs)
            .flat_map(|table| table.triggers.iter().map(|trigger| format!("{} of {}", trigger, table.full_name())))
            .collect();
        if triggers.is_empty() {
            return Ok(format!("none on node \"{}\"", self.source.node));
        }
        let accepted = self.wishes.accepts_replica_triggers;
        let finding = format!(
            "on node \"{}\": {}{}",
            self.source.node,
            named(&triggers),
            if accepted { "; accepted" } else { "" }
        );
        found(accepted, finding)
    }

    fn wal_level_is_logical(&self) -> Found {
        let wal_level = &self.source.settings.wal_level;
        found(wal_level == "logical", format!("wal_level = {wal_level} on node \"{}\"", self.source.node))
    }

    fn plugin_is_listed(&self) -> Found {
        let settings = judge::Settings {
            output_plugin_libraries: self.source.settings.output_plugin_libraries.clone(),
            ..judge::Settings::default()
        };
        let verdict = judge::output_plugin(&settings);
        let finding = format!("output_plugin_libraries of node \"{}\": {}", self.source.node, verdict.details);
        found(verdict.status == judge::Status::Healthy, finding)
    }

    fn target_reaches_source(&self) -> Found {
        let (target, source) = (&self.target.node, &self.source.node);
        if self.wishes.knows_the_way {
            return Ok(format!("node \"{target}\" has a connection string"));
        }
        match self.target.peers.iter().find(|peer| peer.node == *source) {
            None => Err(format!("node \"{target}\" does not know node \"{source}\"")),
            Some(peer) if peer.is_unreachable => {
                Err(format!("to node \"{target}\", node \"{source}\" is: {}", peer.state))
            }
            Some(peer) => Ok(format!("to node \"{target}\", node \"{source}\" is: {}", peer.state)),
        }
    }

    fn role_may_replicate(&self) -> Found {
        let asker = &self.source.asked_by;
        if !self.wishes.asked_by_target {
            return Ok("the role is known when node is asked by the target".to_owned());
        }
        found(
            asker.may_replicate,
            format!(
                "role \"{}\" on node \"{}\" {} REPLICATION",
                asker.role,
                self.source.node,
                if asker.may_replicate { "has" } else { "has not" }
            ),
        )
    }

    fn role_may_read(&self) -> Found {
        if !self.wishes.asked_by_target {
            return Ok("the role is known when node is asked by the target".to_owned());
        }
        let role = &self.source.asked_by.role;
        let hidden: Vec<String> = self
            .pairs()?
            .iter()
            .filter_map(|(_, theirs)| *theirs)
            .filter(|table| !table.is_readable)
            .map(TableFacts::full_name)
            .collect();
        if hidden.is_empty() {
            return Ok(format!("role \"{role}\" may read the tables on node \"{}\"", self.source.node));
        }
        Err(format!("role \"{role}\" has no SELECT on {} on node \"{}\"", named(&hidden), self.source.node))
    }
}
