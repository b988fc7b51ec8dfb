//! Plans: what can be done for a survivor that lacks transactions of a failed node, from which source, why, and what it
//! requires (pure).
//!
//! A plan follows from the facts that each node reports about itself. It consists of the proof, condition by condition,
//! the range to replay and the resources to reserve. It fails closed: a condition that is not known to hold counts as
//! violated, and nothing is changed unless the outcome is catch_up.

pub mod advice;
pub mod choice;
pub mod facts;
pub mod outcome;
pub mod pins;
pub mod proof;
pub mod range;
pub mod readiness;
pub mod rebuild;

#[cfg(test)]
mod choice_tests;
#[cfg(test)]
mod plan_tests;
#[cfg(test)]
mod sample;

use crate::lsn::OriginLsn;
use facts::{NodeFacts, TableFacts};
use outcome::{Outcome, Reason};
use pins::Pin;
use proof::Condition;
use range::{Range, RangeError};
use serde::Serialize;

/// What the caller wants, and what is known beyond the nodes' facts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wishes {
    /// Bounds that the caller has given. None: everything that the source has and the target lacks.
    pub skip: Option<OriginLsn>,
    pub stop: Option<OriginLsn>,
    /// Whether the target can connect to the source regardless of what its poller reports, because it will be given a
    /// connection string or has itself just asked the source.
    pub knows_the_way: bool,
    /// Whether the target has asked the source, with the connection string that the rescue will use. Only then are the
    /// rights of that role known.
    pub asked_by_target: bool,
    /// Whether the failed node has just answered the node that makes the plan.
    pub failed_answers: bool,
    /// Whether the clone already exists.
    pub has_clone: bool,
}

/// What can be done for one target from one source.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Plan {
    pub failed: String,
    pub target: String,
    /// None: there is no source to ask.
    pub source: Option<String>,
    /// None: nothing is known about the target, because it does not answer or does not subscribe to the failed node.
    pub outcome: Option<Outcome>,
    pub reason: Reason,
    /// What the user should do.
    pub advice: String,
    /// How far the target has applied the failed node.
    pub target_lsn: Option<OriginLsn>,
    /// How far the target is past the failed node's WAL; never less than `target_lsn`.
    pub target_passed_lsn: Option<OriginLsn>,
    /// How far the source has applied the failed node.
    pub source_lsn: Option<OriginLsn>,
    /// The position up to which the source may have released the failed node's transactions.
    pub released_lsn: Option<OriginLsn>,
    /// The range to be replayed.
    pub range: Option<Range>,
    /// Bytes of the failed node's WAL between target_lsn and source_lsn.
    pub gap_bytes: Option<u64>,
    pub proof: Vec<Condition>,
    pub pins: Vec<Pin>,
    /// Remarks about things that do not prevent the recovery, but that the user should know.
    pub notes: Vec<String>,
    /// Nodes that survivors know, or that ask survivors, and that are unknown to the node that makes the plan. Nothing
    /// is known about what they have.
    pub unknown_nodes: Vec<String>,
    /// The other survivors that were examined as a source.
    pub others: Vec<Other>,
    /// The ways to rebuild the target; None: it does not need that. Shown beside the plan, not in it.
    #[serde(skip)]
    pub rebuild: Option<Vec<rebuild::Way>>,
}

/// A survivor that was not chosen as the source.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Other {
    pub source: String,
    pub source_lsn: Option<OriginLsn>,
    /// Why the survivor cannot be the source; gap_covered if it could be, but has less.
    pub reason: Reason,
    pub finding: String,
}

impl Plan {
    /// The finding of the first condition or pin that does not hold.
    pub fn finding(&self) -> Option<&str> {
        let condition = self.proof.iter().find(|condition| !condition.holds);
        let pin = self.pins.iter().find(|pin| !pin.is_free);
        match self.outcome {
            Some(Outcome::NeedsRebuild) | None => {
                condition.map(|condition| condition.finding.as_str()).or(pin.map(|pin| pin.finding.as_str()))
            }
            Some(Outcome::ZeroGap | Outcome::CatchUp) => None,
        }
    }

    /// A plan about which only the reason is known.
    pub fn without_source(failed: &str, target: &str, outcome: Option<Outcome>, reason: Reason) -> Plan {
        let mut plan = Plan {
            failed: failed.to_owned(),
            target: target.to_owned(),
            source: None,
            outcome,
            reason,
            advice: String::new(),
            target_lsn: None,
            target_passed_lsn: None,
            source_lsn: None,
            released_lsn: None,
            range: None,
            gap_bytes: None,
            proof: Vec::new(),
            pins: Vec::new(),
            notes: Vec::new(),
            unknown_nodes: Vec::new(),
            others: Vec::new(),
            rebuild: None,
        };
        plan.advice = advice::of(&plan);
        plan
    }
}

/// Plans the recovery of `target` from `source`.
///
/// # Errors
/// The bounds that the caller has given are not possible.
pub fn from_source(failed: &str, target: &NodeFacts, source: &NodeFacts, wishes: &Wishes) -> Result<Plan, RangeError> {
    let (ours, theirs) = (target.only_subscription(), source.only_subscription());
    let (target_lsn, passed) = (ours.and_then(|ours| ours.lacks_from()), ours.and_then(|ours| ours.passed()));
    let source_lsn = theirs.and_then(|theirs| theirs.has_up_to());
    let released_lsn = theirs.and_then(|theirs| source.slot.released_for(theirs));
    let proof = proof::prove(failed, target, source, wishes);
    let pins = pins::needed(failed, target, source, wishes);
    let range = match (target_lsn, source_lsn) {
        (Some(target), Some(source)) if source >= target => {
            Some(range::range(wishes.skip, wishes.stop, target, source)?)
        }
        _ => None,
    };
    // A target that has applied nothing, and began after everything that the source has applied, lacks none of it
    // either.
    let has_begun_later =
        ours.is_some_and(|ours| ours.applied.is_none()) && source_lsn.is_some() && source_lsn <= target_lsn;
    let is_equal = (target_lsn.is_some() && target_lsn == source_lsn) || has_begun_later;
    let failing = proof.iter().find(|condition| !condition.holds).map(|condition| condition.reason);
    let failing = failing.or(pins.iter().find(|pin| !pin.is_free).map(|pin| pin.reason));
    // What it has passed says nothing of a table that apply has left alone.
    let is_incomplete = ours.is_some_and(|ours| ours.tables.iter().any(TableFacts::is_incomplete));
    let (outcome, reason) = match failing {
        _ if is_equal && is_incomplete => (Outcome::NeedsRebuild, Reason::TargetTableNotReady),
        _ if is_equal => (Outcome::ZeroGap, Reason::NothingMissing),
        None => (Outcome::CatchUp, Reason::GapCovered),
        Some(reason) => (Outcome::NeedsRebuild, reason),
    };
    let mut plan = Plan {
        source: Some(source.node.clone()),
        target_lsn,
        target_passed_lsn: passed,
        source_lsn,
        released_lsn,
        range: range.filter(|_| outcome != Outcome::NeedsRebuild),
        gap_bytes: target_lsn.zip(source_lsn).map(|(ours, theirs)| theirs.bytes_since(ours)),
        proof,
        pins,
        notes: notes(failed, target, source, wishes),
        ..Plan::without_source(failed, &target.node, Some(outcome), reason)
    };
    plan.advice = advice::of(&plan);
    plan.rebuild = rebuild::ways(&plan, target, Some(source));
    Ok(plan)
}

fn notes(failed: &str, target: &NodeFacts, source: &NodeFacts, wishes: &Wishes) -> Vec<String> {
    let mut notes = Vec::new();
    let answers = wishes.failed_answers || target.failed_answers || source.failed_answers;
    if answers {
        notes.push(format!("node \"{failed}\" answers: is it really to be recovered from a survivor?"));
    }
    if let Some(running) = target.recovery_of(failed) {
        notes.push(format!(
            "node \"{}\" is being recovered already, from node \"{}\" (intent {}): calling again joins",
            target.node, running.source, running.intent
        ));
    }
    if !target.settings.track_commit_timestamp {
        notes.push(format!(
            "track_commit_timestamp is off on node \"{}\": which of two versions of a row is the later one cannot be told, what \
             comes replaces what is there, and rows are not compared afterwards",
            target.node
        ));
    }
    notes
}
