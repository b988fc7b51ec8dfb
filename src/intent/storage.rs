//! The journal in the label on the extension's schema. Needs a transaction, with whose commit it becomes durable.

use super::document::Journal;
use super::error::IntentError;
use super::id::IntentId;
use crate::node::registry;
use crate::pg::seclabel::{self, LabelTarget};
use crate::pg::{catalog, random};

/// The journal as it stands; empty where there is none, or where it was written elsewhere.
pub fn read() -> Journal {
    let text = catalog::extension_schema().and_then(|schema| seclabel::label(LabelTarget::Schema(schema)));
    match text {
        Some(text) => Journal::parse_local(&text, registry::here()),
        None => Journal::new(registry::here()),
    }
}

/// Changes the journal under the lock of SECURITY LABEL, which serialises all who do. Nothing is written where `change`
/// fails or changes nothing.
pub fn update<T, E: From<IntentError>>(change: impl FnOnce(&mut Journal) -> Result<T, E>) -> Result<T, E> {
    let schema = catalog::extension_schema().ok_or(IntentError::NoSchema)?;
    seclabel::lock(LabelTarget::Schema(schema));
    let before = read();
    let mut journal = before.clone();
    let value = change(&mut journal)?;
    if journal != before {
        seclabel::set_label(LabelTarget::Schema(schema), Some(&journal.to_text()));
    }
    Ok(value)
}

pub fn new_id() -> IntentId {
    IntentId::from_random(random::bytes())
}
