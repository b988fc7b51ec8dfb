//! The retention record in the label of the database. Needs a transaction, with whose commit it becomes durable.

use super::record::RetentionRecord;
use crate::document::{self, DocumentError, DocumentKind, Unreadable};
use crate::node::error::RegistryError;
use crate::node::servers;
use crate::pg::seclabel::{self, LabelTarget};
use crate::pg::{catalog, process};
use pgrx::spi::quote_identifier;

fn target() -> LabelTarget {
    LabelTarget::Database(process::my_database())
}

fn unreadable(error: DocumentError) -> RegistryError {
    let object = format!("DATABASE {}", quote_identifier(catalog::my_database_name()));
    Unreadable { kind: DocumentKind::RetentionRecord, object, error }.into()
}

/// The record, if it was written in this database of this server. One that cannot be read is an error: nothing may be done
/// with the slot then.
pub fn read() -> Result<Option<RetentionRecord>, RegistryError> {
    RetentionRecord::read(seclabel::label(target()).as_deref(), servers::here()).own().map_err(unreadable)
}

/// Writes the record over the one that is there, whose fields of a newer library it keeps.
pub fn write(record: &RetentionRecord) -> Result<(), RegistryError> {
    // Somebody may be putting down another one.
    seclabel::lock(target());
    let before = seclabel::label(target());
    let text = document::written_over(before.as_deref(), record, servers::here()).map_err(unreadable)?;
    seclabel::set_label(target(), Some(&text));
    Ok(())
}

/// Removes the record of a database that is no node any more, if it is ours.
pub fn forget() -> Result<(), RegistryError> {
    seclabel::lock(target());
    if read()?.is_some() {
        seclabel::set_label(target(), None);
    }
    Ok(())
}
