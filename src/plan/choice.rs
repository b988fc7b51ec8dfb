//! The choice of the best source for a target, and the confidence in that choice (pure).
//!
//! The best source is the survivor that has the most of the failed node, among those whose proof holds. Among equals it
//! is the one that lacks the least of other silent nodes, then the one that was recovered the least, then the first by
//! name. A survivor that does not answer cannot be a source, but may have more than all others; the plan says so, and
//! the confidence is lower.

use super::facts::NodeFacts;
use super::outcome::{Outcome, Reason};
use super::proof::Condition;
use super::{Other, Plan, Wishes, from_source, rebuild};
use crate::lsn::OriginLsn;
use crate::node_name::NodeName;
use crate::pg::clock::Timestamp;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// The answer of a survivor.
#[derive(Clone, Debug)]
pub enum SurvivorAnswer {
    Facts(Box<NodeFacts>),
    /// The survivor could not be asked, or its answer cannot be trusted.
    Silent {
        reason: Reason,
        finding: String,
    },
}

#[derive(Clone, Debug)]
pub struct Survivor {
    pub node: String,
    pub answer: SurvivorAnswer,
}

impl Survivor {
    pub fn facts(&self) -> Option<&NodeFacts> {
        match &self.answer {
            SurvivorAnswer::Facts(facts) => Some(facts),
            SurvivorAnswer::Silent { .. } => None,
        }
    }

    /// Whether the survivor receives the failed node's transactions, as far as is known.
    fn is_concerned(&self) -> bool {
        self.facts().is_some_and(|facts| !facts.subscriptions.is_empty() || !facts.unknown_origins.is_empty())
    }
}

/// What is wanted for a pair of a target and a source, given by their names.
pub type WishesOf<'a> = dyn Fn(&str, &str) -> Wishes + 'a;

/// The plan for one survivor, from the best source among the others.
pub fn best(failed: &str, target: &Survivor, survivors: &[Survivor], wishes: &WishesOf<'_>) -> Plan {
    let facts = match &target.answer {
        SurvivorAnswer::Facts(facts) => facts,
        SurvivorAnswer::Silent { reason, finding } => {
            return unanswered(failed, &target.node, None, "target_answers", *reason, finding);
        }
    };
    if !target.is_concerned() {
        let finding = format!("node \"{}\" has no subscription from node \"{failed}\"", target.node);
        return unanswered(failed, &target.node, None, "target_subscribes", Reason::TargetNotSubscribed, &finding);
    }
    let others: Vec<&Survivor> = survivors.iter().filter(|survivor| survivor.node != target.node).collect();
    // Without bounds of the caller no range is an error.
    let mut plans: Vec<Plan> = others
        .iter()
        .filter(|survivor| survivor.is_concerned())
        .filter_map(|survivor| survivor.facts())
        .filter_map(|source| {
            let wishes = Wishes { skip: None, stop: None, ..wishes(&target.node, &source.node) };
            from_source(failed, facts, source, &wishes).ok()
        })
        .collect();
    plans.sort_by_cached_key(|plan| {
        let (lacks, recovered) = plan
            .source
            .as_ref()
            .map_or((0, 0), |source| (lacked(source, survivors).len(), recovered(source, survivors).count()));
        (Reverse(plan.source_lsn), lacks, recovered, plan.source.clone())
    });
    let mut plan = match chosen(&plans) {
        Some(index) => {
            let mut plan = plans.remove(index);
            plan.others = plans.iter().map(other).collect();
            plan
        }
        None => nobody(failed, target, &others),
    };
    note_lacked(&mut plan, survivors);
    if plan.source_lsn.is_some() && plan.source_lsn < plan.target_lsn {
        // No survivor has more than the target.
        plan = Plan {
            source: None,
            outcome: Some(Outcome::ZeroGap),
            reason: Reason::NothingMissing,
            gap_bytes: Some(0),
            ..plan
        };
        plan.advice = super::advice::of(&plan);
    }
    note_written_late(&mut plan, survivors);
    plan.notes.extend(others.into_iter().filter_map(note_silent));
    if plan.source.is_none() {
        plan.rebuild = rebuild::ways(&plan, facts, None);
    }
    plan
}

/// What a survivor that gives no usable answer may mean for a plan.
fn note_silent(survivor: &Survivor) -> Option<String> {
    let SurvivorAnswer::Silent { finding, .. } = &survivor.answer else { return None };
    let own = format!("node \"{}\": ", survivor.node);
    let finding = finding.strip_prefix(&own).unwrap_or(finding);
    Some(format!("node \"{}\" may have more transactions, but gives no usable answer: {finding}", survivor.node))
}

/// The nodes, other than the failed one, of which the source has less than another survivor and from which it receives
/// nothing, because they do not answer or the source's subscription is disabled.
fn lacked<'a>(source: &str, survivors: &'a [Survivor]) -> Vec<&'a str> {
    let answered = || survivors.iter().filter_map(Survivor::facts);
    let Some(source) = answered().find(|facts| facts.node == source) else { return Vec::new() };
    let mut most: BTreeMap<&str, OriginLsn> = BTreeMap::new();
    for (node, other) in answered().flat_map(|facts| &facts.others) {
        let known = most.entry(node).or_insert(other.applied);
        *known = (*known).max(other.applied);
    }
    let answers = |node: &str| answered().any(|facts| facts.node == node);
    let is_lacked = |node: &str, most: OriginLsn| {
        let known = source.others.get(node);
        known.is_some_and(|other| other.passed < most && (!other.is_enabled || !answers(node)))
    };
    most.into_iter().filter(|(node, most)| is_lacked(node, *most)).map(|(node, _)| node).collect()
}

/// The failed nodes from whose loss the source has been recovered.
fn recovered<'a>(source: &str, survivors: &'a [Survivor]) -> impl Iterator<Item = &'a str> {
    let facts = survivors.iter().filter_map(Survivor::facts).find(|facts| facts.node == source);
    facts.into_iter().flat_map(|facts| &facts.recovered).map(String::as_str)
}

/// Adds notes about changes that are missing from the source's WAL: the failed node's changes to rows that the source
/// did not have.
pub fn note_lacked(plan: &mut Plan, survivors: &[Survivor]) {
    let Some(source) = plan.source.as_ref().filter(|_| plan.outcome == Some(Outcome::CatchUp)) else { return };
    let notes = lacked(source, survivors).into_iter().map(|node| {
        format!(
            "node \"{source}\" lacks transactions of node \"{node}\" and receives no more of them: changes of node \
             \"{}\" to their rows are not in its WAL",
            plan.failed
        )
    });
    let late = recovered(source, survivors).filter(|node| *node != plan.failed).map(|node| {
        format!(
            "node \"{source}\" received rows of node \"{node}\" late, by a recovery: earlier deletes of these rows by \
             node \"{}\" are not in its WAL",
            plan.failed
        )
    });
    let notes: Vec<String> = notes.chain(late).collect();
    plan.notes.extend(notes);
}

/// Adds notes about survivors that may have more than their position tells. A survivor that lacked rows has skipped the
/// failed node's changes to them, and a transaction whose changes were all skipped does not move the position. The
/// survivor's own recovery may have brought the result of those changes later. The target may lack it, even at the same
/// position.
pub fn note_written_late(plan: &mut Plan, survivors: &[Survivor]) {
    if plan.outcome != Some(Outcome::ZeroGap) {
        return;
    }
    let others = survivors.iter().filter(|survivor| survivor.node != plan.target);
    let late = others.flat_map(|survivor| recovered(&survivor.node, survivors).map(|of| (survivor.node.as_str(), of)));
    let notes: Vec<String> = late
        .filter(|(_, of)| *of != plan.failed)
        .map(|(node, of)| {
            format!(
                "node \"{node}\" received rows of node \"{of}\" late, by a recovery: it may have changes of node \
                 \"{}\" to these rows without a transaction of that node, and node \"{}\" may lack these changes",
                plan.failed, plan.target
            )
        })
        .collect();
    plan.notes.extend(notes);
}

/// How many unknown nodes are named at most, because a survivor may report any number.
const UNKNOWN_NODES: usize = 32;

/// The nodes that survivors know, or that ask survivors, and that were not examined. They may subscribe to the failed
/// node as well, and have less or more than the others.
pub fn unknown_nodes(failed: &str, survivors: &[Survivor]) -> Vec<String> {
    let told = survivors.iter().filter_map(Survivor::facts);
    let told = told.flat_map(|facts| facts.peers.iter().map(|peer| &peer.node).chain(&facts.askers));
    // A text that cannot be the name of a node is not repeated.
    let is_known = |name: &String| {
        name == failed || survivors.iter().any(|survivor| survivor.node == *name) || NodeName::parse(name).is_err()
    };
    let unknown: BTreeSet<&String> = told.filter(|name| !is_known(name)).collect();
    unknown.into_iter().take(UNKNOWN_NODES).cloned().collect()
}

/// Chooses from plans that are ordered by how much their sources have: a plan that works, otherwise the one that would
/// help most.
fn chosen(plans: &[Plan]) -> Option<usize> {
    let is = |outcome| move |plan: &Plan| plan.outcome == Some(outcome);
    let lacks = |plan: &Plan| plan.target_lsn.is_none() || plan.source_lsn > plan.target_lsn;
    plans
        .iter()
        .position(is(Outcome::CatchUp))
        .or_else(|| plans.iter().position(lacks))
        .or_else(|| plans.iter().position(is(Outcome::ZeroGap)))
        // A source of unknown progress may have more than the target; one that is behind has not.
        .or_else(|| plans.iter().position(|plan| plan.source_lsn.is_none()))
        .or((!plans.is_empty()).then_some(0))
}

/// The plan if there is no source to examine.
fn nobody(failed: &str, target: &Survivor, others: &[&Survivor]) -> Plan {
    let silent = others.iter().find_map(|survivor| match &survivor.answer {
        SurvivorAnswer::Silent { reason, finding } => Some((*reason, finding.clone())),
        SurvivorAnswer::Facts(_) => None,
    });
    let mut plan = match silent {
        Some((reason, finding)) => {
            unanswered(failed, &target.node, Some(Outcome::NeedsRebuild), "source_answers", reason, &finding)
        }
        None => {
            let finding = format!("no other survivor that subscribes to node \"{failed}\" is known here");
            unanswered(failed, &target.node, None, "a_source_is_known", Reason::NoSource, &finding)
        }
    };
    let ours = target.facts().and_then(NodeFacts::only_subscription);
    plan.target_lsn = ours.and_then(|ours| ours.lacks_from());
    plan.target_passed_lsn = ours.and_then(|ours| ours.passed());
    plan
}

fn unanswered(
    failed: &str,
    target: &str,
    outcome: Option<Outcome>,
    name: &'static str,
    reason: Reason,
    finding: &str,
) -> Plan {
    let mut plan = Plan::without_source(failed, target, outcome, reason);
    plan.proof.push(Condition { name, holds: false, finding: finding.to_owned(), reason });
    plan
}

fn other(plan: &Plan) -> Other {
    Other {
        source: plan.source.clone().unwrap_or_default(),
        source_lsn: plan.source_lsn,
        reason: plan.reason,
        finding: plan.finding().unwrap_or_default().to_owned(),
    }
}

/// How certain it is that no survivor has more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Confidence {
    /// Every survivor has answered.
    High,
    /// Some survivors have not answered.
    Medium,
    /// Only one survivor could be asked.
    Low,
}

impl Confidence {
    pub fn as_str(self) -> &'static str {
        match self {
            Confidence::High => "HIGH",
            Confidence::Medium => "MEDIUM",
            Confidence::Low => "LOW",
        }
    }
}

/// The survivor that can be the source.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Best {
    pub node: String,
    pub applied: OriginLsn,
    pub committed_at: Option<Timestamp>,
    pub confidence: Confidence,
}

/// The best source for any target: among the survivors that can be the source for one that lags, or among all if none
/// lags. None if no survivor can.
pub fn best_source(failed: &str, survivors: &[Survivor], wishes: &WishesOf<'_>) -> Option<Best> {
    let concerned: Vec<&NodeFacts> =
        survivors.iter().filter(|survivor| survivor.is_concerned()).filter_map(Survivor::facts).collect();
    let most = concerned.iter().filter_map(|facts| facts.has_up_to()).max()?;
    let lagging: Vec<&&NodeFacts> = concerned.iter().filter(|facts| facts.lacks_of(most)).collect();
    let serves = |source: &NodeFacts| {
        lagging.iter().any(|target| {
            let wishes = Wishes { skip: None, stop: None, ..wishes(&target.node, &source.node) };
            from_source(failed, target, source, &wishes).is_ok_and(|plan| plan.outcome == Some(Outcome::CatchUp))
        })
    };
    let mut candidates: Vec<&&NodeFacts> = concerned
        .iter()
        .filter(|facts| facts.has_up_to().is_some())
        .filter(|facts| if lagging.is_empty() { true } else { serves(facts) })
        .collect();
    candidates.sort_by_key(|facts| {
        (Reverse(facts.has_up_to()), lacked(&facts.node, survivors).len(), facts.recovered.len(), &facts.node)
    });
    let source = candidates.first()?;
    let is_silent = |survivor: &Survivor| matches!(survivor.answer, SurvivorAnswer::Silent { .. });
    let confidence = if concerned.len() == 1 {
        Confidence::Low
    } else if survivors.iter().any(is_silent) || !unknown_nodes(failed, survivors).is_empty() {
        Confidence::Medium
    } else {
        Confidence::High
    };
    Some(Best {
        node: source.node.clone(),
        applied: source.has_up_to()?,
        committed_at: source.only_subscription().and_then(|subscription| subscription.committed_at),
        confidence,
    })
}
