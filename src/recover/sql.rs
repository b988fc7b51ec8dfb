//! create_rescue_subscription(). Its CREATE FUNCTION, grants and comments stand in sql/.
#![allow(unsafe_code)] // pg_extern generates the C entry points

use super::error::RecoverError;
use super::plan::{self, Positions};
use super::source::{Source, route_to};
use super::target;
use crate::error::{OrRaise, raise};
use crate::intent::document::Request;
use crate::intent::journal::Beginning;
use crate::intent::storage;
use crate::lsn::OriginLsn;
use crate::node::native::NativeProvider;
use crate::node::provider::ReplicationProvider;
use crate::pg::clock::Timestamp;
use crate::pg::hooks::Change;
use crate::pg::name::Name;
use crate::pg::text::Text;
use crate::pg::{catalog, process};
use crate::worker::wake;
use pgrx::pg_sys::Oid;
use pgrx::prelude::*;

const FUNCTION: &str = "create_rescue_subscription";
const EXAMPLE: &str = "create_rescue_subscription('n2', 'n3', 'spk_recovery_db_clone_…', failed_node := 'n1')";

/// Writes down that this node is to replay, from a clone on the source, what it lacks of the failed node. It is carried out
/// when the caller has committed; nothing is changed before.
#[pg_extern(sql = false)]
fn create_rescue_subscription(
    target_node: Option<Name>,
    source_node: Option<Name>,
    cloned_slot: Option<Text>,
    skip_lsn: Option<i64>,
    stop_lsn: Option<i64>,
    stop_timestamp: Option<TimestampWithTimeZone>,
    failed_node: Option<Name>,
) -> Oid {
    if !process::is_superuser() {
        raise(&RecoverError::NotSuperuser { function: FUNCTION });
    }
    let mut request = Request {
        failed: failed_node.map(|name| name.0).unwrap_or_default(),
        source: required(source_node, "source_node").0,
        target: required(target_node, "target_node").0,
        clone: required(cloned_slot, "cloned_slot").to_utf8(),
        skip: skip_lsn.map(|lsn| OriginLsn(lsn as u64)),
        stop: stop_lsn.map(|lsn| OriginLsn(lsn as u64)),
        stop_timestamp: stop_timestamp.map(|at| Timestamp::from(at).0),
    };
    begin(&mut request).or_raise()
}

fn required<T>(value: Option<T>, argument: &'static str) -> T {
    value.ok_or(RecoverError::NullArgument { argument, example: EXAMPLE }).or_raise()
}

fn begin(request: &mut Request) -> Result<Oid, RecoverError> {
    let local = NativeProvider.local_node()?.ok_or(RecoverError::NoLocalNode)?;
    if local.name.as_str() != request.target {
        if !NativeProvider.peers()?.iter().any(|peer| peer.name.as_str() == request.target) {
            return Err(RecoverError::UnknownNode { name: request.target.clone() });
        }
        return Err(RecoverError::TargetElsewhere { target: request.target.clone(), local: local.name.to_string() });
    }
    if request.source == request.target {
        return Err(RecoverError::SameNode { name: request.source.clone(), other: "target node" });
    }
    // The same rescue a second time is the first one, wherever that stands now.
    let known = storage::read();
    let running = known.unfinished().find(|intent| {
        let same = Request { failed: intent.request.failed.clone(), ..request.clone() };
        intent.request == same && (request.failed.is_empty() || request.failed == intent.request.failed)
    });
    if let Some(running) = running
        && !running.must_abort
    {
        return Ok(Oid::from_u32(running.subscription));
    }
    let mut source = Source::open(&request.source, &route_to(&request.source)?)?;
    let clone = source.clone_facts(&request.clone)?;
    if request.failed.is_empty() {
        let unknown = || RecoverError::FailedNodeUnknown { clone: request.clone.clone() };
        request.failed = clone.failed.ok_or_else(unknown)?;
    }
    if request.failed == request.source {
        return Err(RecoverError::SameNode { name: request.source.clone(), other: "failed node" });
    }
    if request.failed == request.target {
        return Err(RecoverError::TargetIsFailed { name: request.failed.clone() });
    }
    if !NativeProvider.peers()?.iter().any(|peer| peer.name.as_str() == request.failed) {
        return Err(RecoverError::UnknownNode { name: request.failed.clone() });
    }
    let target = target::look(&request.failed)?;
    let facts = source.facts(&request.failed, &target.tables)?;
    plan::range(
        request,
        Positions {
            target_applied: target.applied,
            target_passed: target.passed,
            source_applied: facts.applied,
            released: facts.released,
        },
    )?;
    let subscription = catalog::new_object_id();
    let beginning = Beginning {
        id: storage::new_id(),
        subscription: subscription.to_u32(),
        request: request.clone(),
        applied_before: target.applied,
        passed_before: target.passed,
        at: Timestamp::now().0,
    };
    let id = storage::update(|journal| {
        let operation = journal.begin(beginning)?;
        let id = operation.id();
        operation.leave();
        Ok::<_, RecoverError>(id)
    })?;
    wake::note(Change::ThisDatabase);
    let begun = storage::read();
    Ok(begun.intent(id).map_or(subscription, |intent| Oid::from_u32(intent.subscription)))
}
