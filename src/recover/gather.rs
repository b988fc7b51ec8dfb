//! Asks every node that this one knows what a plan needs to know, and makes the plan.
//!
//! This node is asked by a direct call, the others over connections of this session, each with spock.peer_timeout. A
//! node whose poller has asked in vain is not waited for, so a node that does not answer holds up no other.

use super::error::RecoverError;
use super::facts;
use super::plan_error::PlanError;
use super::source::{self, Source, route_to};
use crate::node::native::NativeProvider;
use crate::node::provider::ReplicationProvider;
use crate::node::provider::Route;
use crate::node::servers::{self, Role};
use crate::pg::role;
use crate::plan::choice::{self, Survivor, SurvivorAnswer};
use crate::plan::facts::NodeFacts;
use crate::plan::outcome::{Outcome, Reason};
use crate::plan::{Plan, Wishes, from_source};
use crate::remote::error::RemoteError;
use crate::slot::documents;
use std::collections::HashMap;

/// The routes by the connection strings that the caller has given, by node. They are used in place of those that are
/// known here.
pub type Ways = HashMap<String, Route>;

/// What all nodes have answered.
pub struct Gathered {
    pub failed: String,
    /// The name of the node that this database is.
    pub local: String,
    /// All nodes but the failed one, sorted by name. This node is among them.
    pub survivors: Vec<Survivor>,
    /// Why a survivor could not be asked, by its name.
    errors: HashMap<String, RecoverError>,
    /// Whether the failed node has answered just now.
    pub failed_answers: bool,
    ways: Ways,
}

/// A target, a source for it, and the plan.
pub struct Chosen {
    /// None: no survivor lags.
    pub target: Option<String>,
    pub source: Option<String>,
    pub plan: Plan,
    /// Survivors that could not be asked, and why.
    pub silent: Vec<(String, String)>,
}

/// What a caller asks for.
#[derive(Debug, Default)]
pub struct Request<'a> {
    pub failed: &'a str,
    pub source: Option<&'a str>,
    pub target: Option<&'a str>,
    pub ways: Ways,
}

/// The plan for a recovery, as recover_run() chooses it. Without a target it is for this node if this node lags, or
/// else for the only survivor that lags. Without a source it uses the best one. A plan with the outcome needs_rebuild
/// is not an error.
///
/// # Errors
///
/// If the request makes no sense, or if nothing is known about the target.
pub fn plan_for(request: Request<'_>) -> Result<Chosen, PlanError> {
    let Request { failed, source, target, ways } = request;
    let same = |one, name: &str, other| PlanError::SameNode { name: name.to_owned(), one, other };
    match (source, target) {
        (Some(source), Some(target)) if source == target => return Err(same("source node", source, "target node")),
        (Some(source), _) if source == failed => return Err(same("source node", source, "failed node")),
        (_, Some(target)) if target == failed => return Err(same("target node", target, "failed node")),
        _ => (),
    }
    let gathered = gather(failed, ways)?;
    source.map_or(Ok(()), |source| gathered.survivor(source).map(|_| ()))?;
    let target = match target {
        Some(target) => Some(gathered.survivor(target)?),
        None => gathered.lagging()?,
    };
    let silent = gathered.silent();
    let Some(target) = target else {
        let plan = gathered.nobody_lags()?;
        return Ok(Chosen { target: None, source: None, plan, silent });
    };
    let facts = gathered.answer_of(target)?;
    let plan = match source {
        None => {
            let best = gathered.best(target);
            match best.outcome {
                None => return Err(nothing_known(best)),
                Some(_) => best,
            }
        }
        Some(source) => gathered.between(facts, source)?,
    };
    Ok(Chosen { target: Some(target.node.clone()), source: plan.source.clone(), plan, silent })
}

fn nothing_known(plan: Plan) -> PlanError {
    let finding = plan.proof.first().map(|condition| condition.finding.clone()).unwrap_or_default();
    PlanError::NothingKnown { target: plan.target, reason: plan.reason, finding, advice: plan.advice }
}

/// Asks all nodes. Needs a transaction with a snapshot.
///
/// # Errors
///
/// If the failed node is not a peer, or this node cannot be asked. Other nodes that cannot be asked are noted as
/// silent.
pub fn gather(failed: &str, ways: Ways) -> Result<Gathered, PlanError> {
    let servers = servers::servers()?;
    let local = servers.iter().find(|server| server.role == Role::Local).ok_or(RecoverError::NoLocalNode)?;
    let local = local.name.to_string();
    if failed == local {
        return Err(PlanError::FailedIsLocal { name: local });
    }
    let peers = NativeProvider.peers()?;
    if !peers.iter().any(|peer| peer.name.as_str() == failed) {
        return Err(PlanError::UnknownNode { name: failed.to_owned() });
    }
    documents::require_readable()?;
    let mut gathered = Gathered {
        failed: failed.to_owned(),
        local,
        survivors: Vec::new(),
        errors: HashMap::new(),
        // The failed node is asked first: if it hangs, the other nodes' pollers notice that meanwhile.
        failed_answers: answers(failed)?,
        ways,
    };
    let own = facts::gather(failed)?;
    gathered.survivors.push(Survivor { node: gathered.local.clone(), answer: SurvivorAnswer::Facts(Box::new(own)) });
    for peer in peers.iter().filter(|peer| peer.name.as_str() != failed) {
        let node = peer.name.to_string();
        let answer = match ask(&node, failed, &gathered.ways) {
            Ok(facts) => SurvivorAnswer::Facts(Box::new(facts)),
            Err(error) => {
                let answer = SurvivorAnswer::Silent { reason: reason_of(&error), finding: error.to_string() };
                gathered.errors.insert(node.clone(), error);
                answer
            }
        };
        gathered.survivors.push(Survivor { node, answer });
    }
    gathered.survivors.sort_by(|one, other| one.node.cmp(&other.node));
    Ok(gathered)
}

/// Whether a node answers now, within a part of spock.peer_timeout. A node whose poller has asked in vain is not asked.
pub fn answers(node: &str) -> Result<bool, RecoverError> {
    Ok(facts::known_to_be_silent(node)?.is_none() && source::answers(node))
}

fn ask(node: &str, failed: &str, ways: &Ways) -> Result<NodeFacts, RecoverError> {
    if !ways.contains_key(node)
        && let Some(error) = facts::known_to_be_silent(node)?
    {
        let error = RemoteError::Connect(format!("its poller says: {error}"));
        return Err(RecoverError::Remote { source_node: node.to_owned(), error });
    }
    connect(node, ways)?.node_facts(failed)
}

fn connect(node: &str, ways: &Ways) -> Result<Source, RecoverError> {
    match ways.get(node) {
        Some(given) => Source::open(node, given),
        // The connection string is read on behalf of the caller, who may not see it.
        None => Source::open(node, &role::as_superuser(|| route_to(node))?),
    }
}

/// The name of the node that a route leads to.
pub fn name_behind(argument: &'static str, route: &Route) -> Result<String, PlanError> {
    Source::name_behind(argument, route).map_err(PlanError::Node)
}

fn reason_of(error: &RecoverError) -> Reason {
    match error {
        RecoverError::OtherNode { .. } | RecoverError::OtherServer { .. } => Reason::OtherNode,
        RecoverError::OtherVersion { .. } => Reason::VersionDiffers,
        RecoverError::Remote { error: RemoteError::Peer { sqlstate, .. }, .. } if sqlstate == "42501" => {
            Reason::PermissionDenied
        }
        RecoverError::Remote { error: RemoteError::Peer { .. } | RemoteError::Unexpected(_), .. } => Reason::NotANode,
        _ => Reason::NodeUnreachable,
    }
}

impl Gathered {
    /// What the plan needs to know of a pair of nodes beyond their facts.
    fn wishes(&self, target: &str, source: &str) -> Wishes {
        // This node has just asked the source over the connection string that its rescue will use.
        let is_local = target == self.local && source != self.local;
        Wishes {
            skip: None,
            stop: None,
            knows_the_way: is_local || self.ways.contains_key(source),
            asked_by_target: is_local,
            failed_answers: self.failed_answers,
            has_clone: false,
        }
    }

    pub fn best(&self, target: &Survivor) -> Plan {
        let mut plan =
            choice::best(&self.failed, target, &self.survivors, &|target, source| self.wishes(target, source));
        plan.unknown_nodes = choice::unknown_nodes(&self.failed, &self.survivors);
        plan
    }

    pub fn best_source(&self) -> Option<choice::Best> {
        choice::best_source(&self.failed, &self.survivors, &|target, source| self.wishes(target, source))
    }

    pub fn survivor(&self, name: &str) -> Result<&Survivor, PlanError> {
        let found = self.survivors.iter().find(|survivor| survivor.node == name);
        found.ok_or_else(|| PlanError::UnknownNode { name: name.to_owned() })
    }

    /// The facts of a survivor.
    ///
    /// # Errors
    ///
    /// If the survivor has not answered.
    fn answer_of<'a>(&'a self, survivor: &'a Survivor) -> Result<&'a NodeFacts, PlanError> {
        match &survivor.answer {
            SurvivorAnswer::Facts(facts) => Ok(facts),
            SurvivorAnswer::Silent { .. } => Err(nothing_known(self.best(survivor))),
        }
    }

    /// The plan for a source that the caller has named.
    fn between(&self, target: &NodeFacts, source: &str) -> Result<Plan, PlanError> {
        let facts = self.answer_of(self.survivor(source)?)?;
        let mut plan = from_source(&self.failed, target, facts, &self.wishes(&target.node, source))
            .map_err(|error| PlanError::bounds(error, &self.failed, source))?;
        choice::note_lacked(&mut plan, &self.survivors);
        choice::note_written_late(&mut plan, &self.survivors);
        plan.unknown_nodes = choice::unknown_nodes(&self.failed, &self.survivors);
        Ok(plan)
    }

    /// The survivor to recover if none was named; None: no survivor lags.
    ///
    /// # Errors
    ///
    /// If several survivors lag, and this node does not.
    fn lagging(&self) -> Result<Option<&Survivor>, PlanError> {
        let lags = |survivor: &&Survivor| {
            matches!(self.best(survivor).outcome, Some(Outcome::CatchUp | Outcome::NeedsRebuild))
        };
        let mut lagging: Vec<&Survivor> = self.survivors.iter().filter(lags).collect();
        if let Some(local) = lagging.iter().position(|survivor| survivor.node == self.local) {
            return Ok(Some(lagging.swap_remove(local)));
        }
        if lagging.len() > 1 {
            let names = lagging.iter().map(|survivor| survivor.node.clone()).collect();
            return Err(PlanError::SeveralLag { failed: self.failed.clone(), names });
        }
        Ok(lagging.pop())
    }

    /// The plan of a survivor that lacks nothing, preferably of this node.
    ///
    /// # Errors
    ///
    /// If nothing is known about any survivor.
    fn nobody_lags(&self) -> Result<Plan, PlanError> {
        let own = self.best(self.survivor(&self.local)?);
        let is_complete = |plan: &Plan| plan.outcome == Some(Outcome::ZeroGap);
        if is_complete(&own) {
            return Ok(own);
        }
        let others = self.survivors.iter().filter(|survivor| survivor.node != self.local);
        others.map(|survivor| self.best(survivor)).find(is_complete).ok_or_else(|| nothing_known(own))
    }

    fn silent(&self) -> Vec<(String, String)> {
        let of = |survivor: &Survivor| match &survivor.answer {
            SurvivorAnswer::Silent { finding, .. } => Some((survivor.node.clone(), finding.clone())),
            SurvivorAnswer::Facts(_) => None,
        };
        self.survivors.iter().filter_map(of).collect()
    }
}
