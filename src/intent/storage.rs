//! Reads and writes the journal, in the label on the extension's schema. All of this needs a transaction, whose commit
//! makes a change durable.
//!
//! A journal that cannot be read is never taken for empty: whoever needs it gets an error, and it is not written over.

use super::document::Journal;
use super::error::IntentError;
use crate::document::{self, DocumentError, DocumentKind, Stored, Unreadable};
use crate::intent_id::IntentId;
use crate::node::error::RegistryError;
use crate::node::servers;
use crate::pg::seclabel::{self, LabelTarget};
use crate::pg::{catalog, large_object, random, references};
use pgrx::Spi;
use pgrx::pg_sys::Oid;
use pgrx::spi::quote_identifier;
use std::collections::BTreeSet;

/// Returns the schema whose label is the journal: the extension's, or after DROP EXTENSION the one that still has a
/// journal of this database, which only a superuser can have put there.
pub fn schema() -> Option<Oid> {
    catalog::extension_schema().or_else(|| left_behind().ok().flatten())
}

fn left_behind() -> Result<Option<Oid>, pgrx::spi::Error> {
    Spi::connect(|client| {
        // The label of spock_internal is the list of restore points.
        let question =
            "SELECT objoid, label FROM pg_catalog.pg_seclabel WHERE objsubid = 0 AND provider = 'spock_recovery'
                           AND classoid = 'pg_catalog.pg_namespace'::pg_catalog.regclass
                           AND objoid IS DISTINCT FROM pg_catalog.to_regnamespace('spock_internal')";
        for row in client.select(question, None, &[])? {
            let text = row.get::<String>(2)?;
            if matches!(Journal::read(text.as_deref(), servers::here()), Stored::Own(_) | Stored::Unreadable(_)) {
                return row.get(1);
            }
        }
        Ok(None)
    })
}

fn text_in(schema: Option<Oid>) -> Option<String> {
    seclabel::label(LabelTarget::Schema(schema?))
}

fn understood(schema: Option<Oid>, text: Option<&str>) -> Result<Journal, RegistryError> {
    let here = servers::here();
    let found = Journal::read(text, here).own().map_err(|error| unreadable(schema, error))?;
    Ok(found.unwrap_or_else(|| Journal::new(here)))
}

fn unreadable(schema: Option<Oid>, error: DocumentError) -> Unreadable {
    let name = schema.and_then(catalog::schema_name).unwrap_or_default();
    Unreadable { kind: DocumentKind::Journal, object: format!("SCHEMA {}", quote_identifier(name)), error }
}

/// Returns the journal; an empty one if there is none, or if it was written elsewhere.
///
/// # Errors
/// If the label cannot be read as a journal.
pub fn read() -> Result<Journal, RegistryError> {
    let schema = schema();
    understood(schema, text_in(schema).as_deref())
}

/// Returns the journal as the active snapshot sees it, for a caller that reads by the same snapshot what the journal
/// names.
pub fn read_by_snapshot() -> Result<Journal, RegistryError> {
    let Some(schema) = schema() else { return understood(None, None) };
    let question =
        "SELECT label FROM pg_catalog.pg_seclabel WHERE objoid = $1 AND objsubid = 0 AND provider = 'spock_recovery'
                       AND classoid = 'pg_catalog.pg_namespace'::pg_catalog.regclass";
    let text = Spi::connect(|client| match client.select(question, Some(1), &[schema.into()])?.next() {
        Some(row) => row.get::<String>(1),
        None => Ok(None),
    })?;
    understood(Some(schema), text.as_deref())
}

/// Changes the journal under the lock of SECURITY LABEL, which serialises all writers. Nothing is written if `change`
/// fails or changes nothing.
///
/// # Errors
/// If there is no schema for the journal, if the journal cannot be read (it is not written over then), or if `change`
/// fails.
pub fn update<T, E: From<IntentError>>(change: impl FnOnce(&mut Journal) -> Result<T, E>) -> Result<T, E> {
    let schema = schema().ok_or(IntentError::NoSchema)?;
    seclabel::lock(LabelTarget::Schema(schema));
    let text = text_in(Some(schema));
    let before = understood(Some(schema), text.as_deref()).map_err(IntentError::from)?;
    let mut journal = before.clone();
    let value = change(&mut journal)?;
    if journal != before {
        let written = document::written_over(text.as_deref(), &journal, servers::here());
        let written =
            written.map_err(|error| IntentError::from(RegistryError::from(unreadable(Some(schema), error))))?;
        seclabel::set_label(LabelTarget::Schema(schema), Some(&written));
        let objects = journal.objects();
        if objects != before.objects() {
            // Without the reference vacuumlo would remove the large objects.
            references::refer_to(schema, &objects);
        }
    }
    Ok(value)
}

/// Like `update`, but returns None if another session holds the journal's lock: for the manager, which must not wait.
pub fn try_update<T, E: From<IntentError>>(change: impl FnOnce(&mut Journal) -> Result<T, E>) -> Result<Option<T>, E> {
    match schema() {
        Some(schema) if !seclabel::try_lock_schema(schema) => Ok(None),
        _ => update(change).map(Some),
    }
}

/// Whether there is a journal of this database, even an empty one.
///
/// # Errors
/// If the label cannot be read as a journal.
pub fn exists() -> Result<bool, RegistryError> {
    let schema = schema();
    let found = Journal::read(text_in(schema).as_deref(), servers::here()).own();
    Ok(found.map_err(|error| unreadable(schema, error))?.is_some())
}

/// Removes the journal of a database that is not a node any more, if it is this database's journal, the saved files of
/// its recovery slot, the manifests of its rebuilds, and what comparisons have kept. Returns false if another session
/// holds the journal's lock.
///
/// # Errors
/// If the label cannot be read as a journal: it then stays.
pub fn forget() -> Result<bool, RegistryError> {
    match schema() {
        Some(schema) if !seclabel::try_lock_schema(schema) => Ok(false),
        Some(schema) if exists()? => {
            let journal = read()?;
            let of_comparisons =
                journal.comparisons.iter().flat_map(|record| [record.progress_object, record.keys_object]);
            let manifests = journal.manifests.iter().map(|manifest| manifest.object);
            for object in of_comparisons.chain(journal.slot_files).chain(manifests) {
                large_object::remove(object)?;
            }
            seclabel::set_label(LabelTarget::Schema(schema), None);
            references::refer_to(schema, &BTreeSet::new());
            Ok(true)
        }
        _ => Ok(true),
    }
}

/// Returns a new random id.
pub fn new_id() -> IntentId {
    IntentId::from_random(random::bytes())
}
