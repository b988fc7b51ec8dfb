//! The documents in the labels of this database, and which of them cannot be read. The functions need a snapshot.

use super::record_storage;
use crate::document::Unreadable;
use crate::intent::storage;
use crate::node::error::RegistryError;
use crate::node::labelling::unreadable_label;
use crate::node::native::NativeProvider;
use crate::node::provider::{Origin, ReplicationProvider};

/// The documents that cannot be read.
pub fn unreadable() -> Result<Vec<Unreadable>, RegistryError> {
    let mut found = Vec::new();
    for outcome in [storage::read().map(|_| ()), record_storage::read().map(|_| ())] {
        match outcome {
            Ok(()) => (),
            Err(RegistryError::Unreadable(unreadable)) => found.push(unreadable),
            Err(error) => return Err(error),
        }
    }
    for subscription in NativeProvider.subscriptions()? {
        if let Origin::Unreadable(error) = subscription.origin {
            found.push(unreadable_label(&subscription.name, error));
        }
    }
    Ok(found)
}

/// Checks that all documents can be read.
///
/// # Errors
/// If one cannot. Nothing may then be begun that has to be recorded in that document or depends on its content.
pub fn require_readable() -> Result<(), RegistryError> {
    unreadable()?.into_iter().next().map_or(Ok(()), |unreadable| Err(unreadable.into()))
}
