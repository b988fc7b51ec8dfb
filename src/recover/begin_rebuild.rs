//! The beginning of a rebuild on its target: everything is checked, then the intent is recorded, and nothing else is
//! changed. The rescue worker carries the intent out once the caller has committed.

use super::error::RecoverError;
use super::source::{Source, route_to};
use super::{begin, rebuild};
use crate::intent::document::Request;
use crate::intent::journal::Beginning;
use crate::intent::storage;
use crate::intent_id::IntentId;
use crate::node::native::NativeProvider;
use crate::node::provider::ReplicationProvider;
use crate::pg::clock::Timestamp;
use crate::pg::hooks::CatalogChange;
use crate::pg::{catalog, transaction};
use crate::slot::documents;
use crate::wake;

/// Checks the request and records the intent in the caller's transaction.
///
/// # Errors
/// If the request does not fit the nodes, the source cannot be asked, or another recovery runs here.
pub fn begin(request: &Request) -> Result<IntentId, RecoverError> {
    check_rebuild(request)?;
    if let Some(running) = begin::running(request)? {
        return Ok(running.0);
    }
    let wanted = request.rebuild.as_ref().ok_or(RecoverError::NoLocalNode)?;
    let tables = rebuild::tables(&request.source, wanted)?;
    let mut source = Source::open(&request.source, &route_to(&request.source)?)?;
    rebuild::require_complete(&mut source, &tables)?;
    record(request)
}

/// Checks what can be checked of a rebuild without asking the source.
fn check_rebuild(request: &Request) -> Result<(), RecoverError> {
    documents::require_readable()?;
    begin::check(request)?;
    if !NativeProvider.peers()?.iter().any(|peer| peer.name.as_str() == request.source) {
        return Err(RecoverError::UnknownNode { name: request.source.clone() });
    }
    Ok(())
}

/// Records the intent of a rebuild, and returns its id.
fn record(request: &Request) -> Result<IntentId, RecoverError> {
    let applied = rebuild::applied(&rebuild::streams()?);
    let before = applied.get(&request.failed).copied().unwrap_or_default();
    let beginning = Beginning {
        id: storage::new_id(),
        subscription: catalog::new_object_id().to_u32(),
        request: request.clone(),
        has_own_dsn: false,
        applied_before: before,
        passed_before: before,
        transaction: transaction::next_id(),
        at: Timestamp::now(),
    };
    let id = storage::update(|journal| Ok::<_, RecoverError>(journal.begin(beginning)?))?;
    wake::note(CatalogChange::ThisDatabase);
    Ok(id)
}
