//! Reads and writes the list of restore points, in the label of the schema spock_internal. All of this needs a
//! transaction, whose commit makes a change durable.
//!
//! A list that cannot be read is never taken for empty: whoever needs it gets an error, and it is not written over.

use super::error::RestorePointError;
use super::list::RestorePoints;
use crate::document::{self, DocumentError, DocumentKind, Unreadable};
use crate::node::error::RegistryError;
use crate::node::servers;
use crate::pg::catalog;
use crate::pg::seclabel::{self, LabelTarget};

fn target() -> Option<LabelTarget> {
    catalog::internal_schema().map(LabelTarget::Schema)
}

fn is_unreadable(error: DocumentError) -> RegistryError {
    Unreadable { kind: DocumentKind::RestorePoints, object: "SCHEMA spock_internal".to_owned(), error }.into()
}

/// The list; an empty one if there is none, or if it was written elsewhere.
///
/// # Errors
/// If the label cannot be read as a list.
pub fn read() -> Result<RestorePoints, RegistryError> {
    Ok(own(target().and_then(seclabel::label).as_deref())?.unwrap_or_else(|| RestorePoints::new(servers::here())))
}

/// The list of this database in the text of the label; None: there is none.
fn own(text: Option<&str>) -> Result<Option<RestorePoints>, RegistryError> {
    RestorePoints::read(text, servers::here()).own().map_err(is_unreadable)
}

/// Changes the list under the lock of SECURITY LABEL, which serialises all writers. Nothing is written if `change` fails
/// or changes nothing.
///
/// # Errors
/// If there is no schema for the list, if the list cannot be read (it is not written over then), or if `change` fails.
pub fn update<T>(
    change: impl FnOnce(&mut RestorePoints) -> Result<T, RestorePointError>,
) -> Result<T, RestorePointError> {
    let target = target().ok_or(RestorePointError::NoSchema)?;
    seclabel::lock(target);
    let text = seclabel::label(target);
    let before = own(text.as_deref())?.unwrap_or_else(|| RestorePoints::new(servers::here()));
    let mut list = before.clone();
    let value = change(&mut list)?;
    if list != before {
        let text = document::written_over(text.as_deref(), &list, servers::here());
        seclabel::set_label(target, Some(&text.map_err(is_unreadable)?));
    }
    Ok(value)
}

/// The list, if it cannot be read.
pub fn unreadable() -> Option<Unreadable> {
    match read() {
        Err(RegistryError::Unreadable(unreadable)) => Some(unreadable),
        _ => None,
    }
}

/// Removes the list of a database that is not a node any more, if it was written here.
///
/// # Errors
/// If the list cannot be read: it then stays.
pub fn forget() -> Result<(), RegistryError> {
    let Some(target) = target() else { return Ok(()) };
    seclabel::lock(target);
    if own(seclabel::label(target).as_deref())?.is_some() {
        seclabel::set_label(target, None);
    }
    Ok(())
}
