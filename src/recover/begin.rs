//! The beginning of a recovery on its target: everything is checked, then the intent is recorded, and nothing else is
//! changed. The rescue worker carries the intent out once the caller has committed.

use super::error::RecoverError;
use super::prove::prove;
use super::source::{Source, route_to};
use super::target::{self, TargetFacts};
use super::{facts, gather};
use crate::intent::document::Request;
use crate::intent::journal::Beginning;
use crate::intent::storage;
use crate::intent_id::IntentId;
use crate::node::native::NativeProvider;
use crate::node::provider::ReplicationProvider;
use crate::node::registry;
use crate::pg::clock::Timestamp;
use crate::pg::hooks::CatalogChange;
use crate::pg::{catalog, transaction};
use crate::plan::Wishes;
use crate::slot::documents;
use crate::wake;
use pgrx::pg_sys::Oid;
use std::ffi::CStr;

/// Checks the request against both nodes and records the intent in the caller's transaction. `source_dsn` is the
/// connection string to use for the source in this recovery. Returns the intent, and the oid of its rescue
/// subscription.
///
/// # Errors
///
/// If the request does not fit the nodes, a node cannot be asked, or the recovery cannot be proved possible.
pub fn begin(request: &mut Request, source_dsn: Option<&CStr>) -> Result<(IntentId, Oid), RecoverError> {
    documents::require_readable()?;
    check(request)?;
    if let Some(running) = running(request)? {
        return Ok(running);
    }
    if let Some(dsn) = source_dsn {
        registry::keep_recovery_dsn(&request.source, dsn)?;
    }
    let mut source = Source::open(&request.source, &route_to(&request.source)?)?;
    if let Some(name) = &request.clone {
        let clone = source.clone_facts(name)?;
        if request.failed.is_empty() {
            let unknown = || RecoverError::FailedNodeUnknown { clone: name.clone() };
            request.failed = clone.failed.ok_or_else(unknown)?;
            look_at_failed(request)?;
        }
    }
    // The failed node is asked first: if it hangs, the source's poller notices that meanwhile.
    let failed_answers = gather::answers(&request.failed)?;
    let (ours, theirs) = (facts::gather(&request.failed)?, source.node_facts(&request.failed)?);
    let wishes = Wishes {
        skip: request.skip,
        stop: request.stop,
        has_clone: request.clone.is_some(),
        failed_answers,
        ..Wishes::default()
    };
    prove(request, &ours, &theirs, wishes)?;
    let target = target::look(&request.failed)?;
    // Checks that the source has the tables, by their names.
    source.facts(&request.failed, &target.tables)?;
    record(request, source_dsn.is_some(), &target)
}

/// Checks what can be checked without asking the source.
pub(super) fn check(request: &Request) -> Result<(), RecoverError> {
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
    if let (Some(skip), Some(stop)) = (request.skip, request.stop)
        && stop < skip
    {
        return Err(RecoverError::StopBeforeSkip { skip, stop });
    }
    if request.failed.is_empty() { Ok(()) } else { look_at_failed(request) }
}

/// Returns the running recovery that the request repeats, with its subscription: the request joins it, whatever phase
/// it has reached.
pub(super) fn running(request: &Request) -> Result<Option<(IntentId, Oid)>, RecoverError> {
    let known = storage::read()?;
    let running = known.unfinished().find(|intent| {
        let same = Request { failed: intent.request.failed.clone(), ..request.clone() };
        intent.request == same && (request.failed.is_empty() || request.failed == intent.request.failed)
    });
    let joined = running.filter(|running| !running.must_abort);
    Ok(joined.map(|running| (running.id, Oid::from_u32(running.subscription))))
}

/// Records the intent. Returns its id and the oid of its rescue subscription.
fn record(request: &Request, has_own_dsn: bool, target: &TargetFacts) -> Result<(IntentId, Oid), RecoverError> {
    let subscription = catalog::new_object_id();
    let beginning = Beginning {
        id: storage::new_id(),
        subscription: subscription.to_u32(),
        request: request.clone(),
        has_own_dsn,
        applied_before: target.applied,
        passed_before: target.passed,
        transaction: transaction::next_id(),
        at: Timestamp::now(),
    };
    let id = storage::update(|journal| Ok::<_, RecoverError>(journal.begin(beginning)?))?;
    wake::note(CatalogChange::ThisDatabase);
    let begun = storage::read()?;
    Ok((id, begun.intent(id).map_or(subscription, |intent| Oid::from_u32(intent.subscription))))
}

/// Checks that the failed node is a peer, and neither source nor target.
fn look_at_failed(request: &Request) -> Result<(), RecoverError> {
    if request.failed == request.source {
        return Err(RecoverError::SameNode { name: request.source.clone(), other: "failed node" });
    }
    if request.failed == request.target {
        return Err(RecoverError::TargetIsFailed { name: request.failed.clone() });
    }
    if !NativeProvider.peers()?.iter().any(|peer| peer.name.as_str() == request.failed) {
        return Err(RecoverError::UnknownNode { name: request.failed.clone() });
    }
    Ok(())
}
