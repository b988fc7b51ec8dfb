//! The journal in the label on the extension's schema. Needs a transaction, with whose commit it becomes durable.

use super::document::Journal;
use super::error::IntentError;
use super::id::IntentId;
use crate::node::registry;
use crate::pg::seclabel::{self, LabelTarget};
use crate::pg::{catalog, random, references};
use pgrx::Spi;
use pgrx::pg_sys::Oid;
use std::collections::BTreeSet;

/// The schema whose label the journal is: the extension's; after DROP EXTENSION the one that still has a journal of this
/// database, which only a superuser can have put there.
pub fn schema() -> Option<Oid> {
    catalog::extension_schema().or_else(|| left_behind().ok().flatten())
}

fn left_behind() -> Result<Option<Oid>, pgrx::spi::Error> {
    Spi::connect(|client| {
        let question =
            "SELECT objoid, label FROM pg_catalog.pg_seclabel WHERE objsubid = 0 AND provider = 'spock_recovery'
                           AND classoid = 'pg_catalog.pg_namespace'::pg_catalog.regclass";
        for row in client.select(question, None, &[])? {
            let text = row.get::<String>(2)?.unwrap_or_default();
            if Journal::parse(&text).is_ok_and(|journal| journal.belongs_to(registry::here())) {
                return row.get(1);
            }
        }
        Ok(None)
    })
}

/// The journal as it stands; empty where there is none, or where it was written elsewhere.
pub fn read() -> Journal {
    let text = schema().and_then(|schema| seclabel::label(LabelTarget::Schema(schema)));
    match text {
        Some(text) => Journal::parse_local(&text, registry::here()),
        None => Journal::new(registry::here()),
    }
}

/// The journal as the active snapshot sees it, for who reads beside it what it names.
pub fn read_by_snapshot() -> Result<Journal, pgrx::spi::Error> {
    let here = registry::here();
    let Some(schema) = schema() else { return Ok(Journal::new(here)) };
    let question =
        "SELECT label FROM pg_catalog.pg_seclabel WHERE objoid = $1 AND objsubid = 0 AND provider = 'spock_recovery'
                       AND classoid = 'pg_catalog.pg_namespace'::pg_catalog.regclass";
    let text = Spi::connect(|client| match client.select(question, Some(1), &[schema.into()])?.next() {
        Some(row) => row.get::<String>(1),
        None => Ok(None),
    })?;
    Ok(text.map_or_else(|| Journal::new(here), |text| Journal::parse_local(&text, here)))
}

/// Changes the journal under the lock of SECURITY LABEL, which serialises all who do. Nothing is written where `change`
/// fails or changes nothing.
pub fn update<T, E: From<IntentError>>(change: impl FnOnce(&mut Journal) -> Result<T, E>) -> Result<T, E> {
    let schema = schema().ok_or(IntentError::NoSchema)?;
    seclabel::lock(LabelTarget::Schema(schema));
    let before = read();
    let mut journal = before.clone();
    let value = change(&mut journal)?;
    if journal != before {
        seclabel::set_label(LabelTarget::Schema(schema), Some(&journal.to_text()));
        let objects = journal.kept_objects();
        if objects != before.kept_objects() {
            // Or vacuumlo would remove them.
            references::refer_to(schema, &objects);
        }
    }
    Ok(value)
}

/// The same for who must not wait, as the manager: None where somebody else is just changing the journal.
pub fn try_update<T, E: From<IntentError>>(change: impl FnOnce(&mut Journal) -> Result<T, E>) -> Result<Option<T>, E> {
    match schema() {
        Some(schema) if !seclabel::try_lock_schema(schema) => Ok(None),
        _ => update(change).map(Some),
    }
}

/// Whether there is a journal of this database here, be it empty.
pub fn exists() -> bool {
    let text = schema().and_then(|schema| seclabel::label(LabelTarget::Schema(schema)));
    text.and_then(|text| Journal::parse(&text).ok()).is_some_and(|journal| journal.belongs_to(registry::here()))
}

/// Removes the journal of a database that is no node any more, if it is ours. False where somebody else is just changing
/// it.
pub fn forget() -> bool {
    match schema() {
        Some(schema) if !seclabel::try_lock_schema(schema) => false,
        Some(schema) if exists() => {
            seclabel::set_label(LabelTarget::Schema(schema), None);
            references::refer_to(schema, &BTreeSet::new());
            true
        }
        _ => true,
    }
}

pub fn new_id() -> IntentId {
    IntentId::from_random(random::bytes())
}
