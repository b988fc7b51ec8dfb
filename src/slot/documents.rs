//! The documents in this database's labels, and which of them cannot be read. Needs a snapshot.

use super::record_storage;
use crate::document::Unreadable;
use crate::intent::storage;
use crate::node::error::RegistryError;
use crate::node::labelling::unreadable_label;
use crate::node::native::NativeProvider;
use crate::node::provider::{Origin, ReplicationProvider};

/// Those that cannot be read.
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

/// An error where one cannot be read: nothing is begun then that would be noted down there, or go by what it says.
pub fn require_readable() -> Result<(), RegistryError> {
    unreadable()?.into_iter().next().map_or(Ok(()), |unreadable| Err(unreadable.into()))
}
