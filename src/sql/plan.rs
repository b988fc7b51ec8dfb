//! The functions that show plans. Their CREATE FUNCTION, grants and comments are in sql/plan.sql.
#![allow(unsafe_code)] // pg_extern generates the C entry points

use crate::error::{OrRaise, raise};
use crate::identity::DatabaseIdentity;
use crate::lsn::OriginLsn;
use crate::node::servers;
use crate::node_name::NodeName;
use crate::pg::json::Json;
use crate::pg::name::Name;
use crate::pg::process;
use crate::pg::text::Text;
use crate::plan::Plan;
use crate::plan::outcome::Outcome;
use crate::recover::error::RecoverError;
use crate::recover::gather::{self, Request, Ways};
use crate::recover::plan_error::PlanError;
use crate::recover::{facts, readiness, source};
use crate::slot::snapshot::require_reader;
use pgrx::pg_sys::Oid;
use pgrx::prelude::*;

const RECOVER_PLAN: &str = "SELECT * FROM spock.recover_plan('n1')";
const FIND_RESCUE_SOURCE: &str = "SELECT * FROM spock.find_rescue_source('n1')";
const CHOOSE: &str = "CALL spock.recover_run(failed_node_name := 'n1')";

fn required<T>(value: Option<T>, argument: &'static str, example: &'static str) -> T {
    value.ok_or(PlanError::NullArgument { argument, example }).or_raise()
}

/// A plan for each survivor of a failed node.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)] // the row type of a set-returning function
fn recover_plan_2(
    failed_node_name: Option<Name>,
    target_node_name: Option<Name>,
) -> TableIterator<
    'static,
    (
        name!(target_node, Name),
        name!(source_node, Option<Name>),
        name!(outcome, Option<String>),
        name!(reason, String),
        name!(target_lsn, Option<OriginLsn>),
        name!(source_lsn, Option<OriginLsn>),
        name!(released_lsn, Option<OriginLsn>),
        name!(gap_bytes, Option<i64>),
        name!(plan, Json),
        name!(rebuild, Option<Json>),
    ),
> {
    require_reader("recover_plan");
    let failed = required(failed_node_name, "failed_node_name", RECOVER_PLAN).0;
    let plans = plans(&failed, target_node_name.map(|name| name.0)).or_raise();
    TableIterator::new(plans.into_iter().map(|plan| {
        let json = Json::of(&plan);
        (
            Name(plan.target),
            plan.source.map(Name),
            plan.outcome.map(|outcome| outcome.as_str().to_owned()),
            plan.reason.as_str().to_owned(),
            plan.target_lsn,
            plan.source_lsn,
            plan.released_lsn,
            plan.gap_bytes.map(|bytes| bytes as i64),
            json,
            plan.rebuild.as_ref().map(Json::of),
        )
    }))
}

/// Like [`recover_plan_2`], for the SQL of version 0.1.0.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)] // the row type of a set-returning function
fn recover_plan(
    failed_node_name: Option<Name>,
    target_node_name: Option<Name>,
) -> TableIterator<
    'static,
    (
        name!(target_node, Name),
        name!(source_node, Option<Name>),
        name!(outcome, Option<String>),
        name!(reason, String),
        name!(target_lsn, Option<OriginLsn>),
        name!(source_lsn, Option<OriginLsn>),
        name!(released_lsn, Option<OriginLsn>),
        name!(gap_bytes, Option<i64>),
        name!(plan, Json),
    ),
> {
    TableIterator::new(recover_plan_2(failed_node_name, target_node_name).map(
        |(target, source, outcome, reason, target_lsn, source_lsn, released_lsn, gap_bytes, plan, _)| {
            (target, source, outcome, reason, target_lsn, source_lsn, released_lsn, gap_bytes, plan)
        },
    ))
}

fn plans(failed: &str, target: Option<String>) -> Result<Vec<Plan>, PlanError> {
    if target.as_deref() == Some(failed) {
        return Err(PlanError::SameNode { name: failed.to_owned(), one: "target node", other: "failed node" });
    }
    let gathered = gather::gather(failed, Ways::new())?;
    match target {
        Some(target) => Ok(vec![gathered.best(gathered.survivor(&target)?)]),
        None => Ok(gathered.survivors.iter().map(|survivor| gathered.best(survivor)).collect()),
    }
}

/// The best source for a failed node's transactions.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)] // the row type of a set-returning function
fn find_rescue_source(
    failed_node_name: Option<Text>,
) -> TableIterator<
    'static,
    (
        name!(origin_node_id, Option<Oid>),
        name!(source_node_id, Option<Oid>),
        name!(last_lsn, Option<OriginLsn>),
        name!(last_commit_timestamp, Option<TimestampWithTimeZone>),
        name!(confidence_level, Option<String>),
        name!(source_node_name, Option<Name>),
    ),
> {
    require_reader("find_rescue_source");
    let failed = required(failed_node_name, "failed_node_name", FIND_RESCUE_SOURCE).to_utf8();
    let gathered = match gather::gather(&failed, Ways::new()) {
        Ok(gathered) => gathered,
        Err(PlanError::UnknownNode { .. }) => return TableIterator::once((None, None, None, None, None, None)),
        Err(error) => raise(&error),
    };
    let servers = servers::servers().or_raise();
    let id_of = |name: &str| servers.iter().find(|server| server.name.as_str() == name).map(|server| server.id);
    let origin = id_of(&gathered.failed);
    TableIterator::once(match gathered.best_source() {
        None => (origin, None, None, None, None, None),
        Some(best) => (
            origin,
            id_of(&best.node),
            Some(best.applied),
            best.committed_at.map(Into::into),
            Some(best.confidence.as_str().to_owned()),
            Some(Name(best.node)),
        ),
    })
}

/// What recover_run() and similar procedures are to do: target, source and plan.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)] // the row type of a set-returning function
fn choose_recovery(
    failed: Option<Text>,
    source: Option<Text>,
    source_dsn: Option<Text>,
    target: Option<Text>,
    target_dsn: Option<Text>,
) -> TableIterator<
    'static,
    (
        name!(target_node, Option<Name>),
        name!(source_node, Option<Name>),
        name!(outcome, Option<String>),
        name!(reason, String),
        name!(finding, Option<Text>),
        name!(advice, Text),
        name!(target_lsn, Option<OriginLsn>),
        name!(source_lsn, Option<OriginLsn>),
        name!(gap_bytes, Option<i64>),
        name!(plan, Json),
    ),
> {
    // This server connects to where the caller says, as its own operating system user.
    if !process::is_superuser() {
        raise(&PlanError::NotSuperuser { function: "recover_run" });
    }
    let failed = required(failed, "failed_node_name", CHOOSE).to_utf8();
    let mut ways = Ways::new();
    let source = named("source_dsn", source, source_dsn, &mut ways).or_raise();
    let target = named("target_dsn", target, target_dsn, &mut ways).or_raise();
    let request = Request { failed: &failed, source: source.as_deref(), target: target.as_deref(), ways };
    let chosen = gather::plan_for(request).or_raise();
    for (node, finding) in &chosen.silent {
        pgrx::warning!("node \"{node}\" could not be asked, and may have more: {finding}");
    }
    let json = Json::of(&chosen.plan);
    let finding = chosen.plan.finding().map(Text::of_message);
    let is_needed = chosen.plan.outcome != Some(Outcome::ZeroGap);
    TableIterator::once((
        chosen.target.map(Name),
        chosen.source.filter(|_| is_needed).map(Name),
        chosen.plan.outcome.map(|outcome| outcome.as_str().to_owned()),
        chosen.plan.reason.as_str().to_owned(),
        finding,
        Text::of_message(&chosen.plan.advice),
        chosen.plan.target_lsn,
        chosen.plan.source_lsn,
        chosen.plan.gap_bytes.map(|bytes| bytes as i64),
        json,
    ))
}

/// The name of a node that was given by its name or by its connection string.
fn named(
    argument: &'static str,
    name: Option<Text>,
    dsn: Option<Text>,
    ways: &mut Ways,
) -> Result<Option<String>, PlanError> {
    // A malformed connection string is an error of the caller; otherwise it would only count as a node that does not
    // answer.
    let route = dsn.map(|dsn| source::given_route(&dsn.0)).transpose()?;
    let name = match (name, &route) {
        (Some(name), _) => Some(name.to_utf8()),
        (None, Some(route)) => Some(gather::name_behind(argument, route)?),
        (None, None) => None,
    };
    if let (Some(name), Some(route)) = (&name, route) {
        ways.insert(name.clone(), route);
    }
    Ok(name)
}

/// What a plan needs to know of this node with regard to a failed one.
#[pg_extern(sql = false)]
fn recovery_facts(failed_node_name: Option<Name>) -> Json {
    require_reader("recovery_facts");
    let hint = "SELECT spock_internal.recovery_facts('n1');";
    let failed = failed_node_name.ok_or(RecoverError::NullArgument { argument: "failed_node_name", hint }).or_raise();
    Json::of(&facts::gather(&failed.0).or_raise())
}

/// What a node needs to know of this one before another node fails. Null if this database is not a node, and on a
/// standby.
#[pg_extern(sql = false)]
fn peer_readiness(node_name: Option<Name>, system_identifier: Option<Text>, database: Option<Oid>) -> Option<Json> {
    require_reader("peer_readiness");
    let asker = asker(node_name, system_identifier, database);
    readiness::readiness(asker).or_raise().map(|readiness| Json::of(&readiness))
}

/// The asking node, if a node asks.
fn asker(
    name: Option<Name>,
    system_identifier: Option<Text>,
    database: Option<Oid>,
) -> Option<(NodeName, DatabaseIdentity)> {
    let name = NodeName::parse(&name?.0).ok()?;
    let system_identifier = system_identifier?.to_utf8().parse().ok()?;
    Some((name, DatabaseIdentity { system_identifier, database: database?.to_u32() }))
}
