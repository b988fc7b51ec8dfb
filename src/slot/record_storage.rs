//! The retention record in the label of the database. Its functions need a transaction; what they write becomes durable
//! with its commit.

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

/// The record if it was written in this database of this server; else None.
///
/// # Errors
/// If the record cannot be read. The slot must then be left alone.
pub fn read() -> Result<Option<RetentionRecord>, RegistryError> {
    RetentionRecord::read(seclabel::label(target()).as_deref(), servers::here()).own().map_err(unreadable)
}

/// Writes the record in place of the present one. Fields of that one which only a newer library knows are kept.
///
/// # Errors
/// If the present record cannot be read: it is not overwritten.
pub fn write(record: &RetentionRecord) -> Result<(), RegistryError> {
    // Another session may be changing the label.
    seclabel::lock(target());
    let before = seclabel::label(target());
    let text = document::written_over(before.as_deref(), record, servers::here()).map_err(unreadable)?;
    seclabel::set_label(target(), Some(&text));
    Ok(())
}

/// Removes the record of a database that is no longer a node, if the record was written here.
///
/// # Errors
/// If the record cannot be read.
pub fn forget() -> Result<(), RegistryError> {
    seclabel::lock(target());
    if read()?.is_some() {
        seclabel::set_label(target(), None);
    }
    Ok(())
}
