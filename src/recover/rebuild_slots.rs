//! Slots on other nodes that hold, for the time of a rebuild, what this node is to receive from there.

use super::error::RecoverError;
use super::source::Source;
use crate::intent::rebuild::HeldSlot;
use crate::lsn::OriginLsn;
use pgrx::spi::quote_literal;

/// The name of the slot that takes the place of a lost one until the rebuild is over. A name has room for 63 bytes.
pub fn holder_name(subscription: u32, intent: &str) -> String {
    let id: String = intent.chars().filter(char::is_ascii_hexdigit).take(16).collect();
    format!("spk_rebuild_{subscription}_{id}")
}

/// What became of a slot of this node on another one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SlotState {
    Usable,
    /// It does not exist, or keeps nothing any more.
    Lost {
        exists: bool,
    },
}

/// How a subscription's slot stands on its provider.
pub fn slot_state(provider: &mut Source, slot: &str) -> Result<SlotState, RecoverError> {
    let question = format!(
        "SELECT coalesce(wal_status = 'lost' OR pg_catalog.to_jsonb(s) OPERATOR(pg_catalog.->>) 'conflicting' = 'true'
                         OR pg_catalog.to_jsonb(s) OPERATOR(pg_catalog.->>) 'invalidation_reason' IS NOT NULL, false)::pg_catalog.text
           FROM pg_catalog.pg_replication_slots s WHERE slot_name = {}",
        quote_literal(slot)
    );
    Ok(match provider.read_one(&question)?.as_deref() {
        None => SlotState::Lost { exists: false },
        Some("true") => SlotState::Lost { exists: true },
        Some(_) => SlotState::Usable,
    })
}

/// Up to where a subscription's slot is confirmed on its provider, which sends nothing below that again. None: there is no
/// such slot.
///
/// # Errors
/// If the provider cannot be asked, or answers with something else.
pub fn confirmed(provider: &mut Source, slot: &str) -> Result<Option<OriginLsn>, RecoverError> {
    let name = quote_literal(slot);
    let at = provider.read_one(&format!(
        "SELECT confirmed_flush_lsn::pg_catalog.text FROM pg_catalog.pg_replication_slots WHERE slot_name = {name}"
    ))?;
    Ok(at.and_then(|at| at.parse().ok()))
}

/// Makes the slot that holds the provider's WAL from now on, unless it is there already. Returns where it begins.
pub fn make_holder(provider: &mut Source, lost: &HeldSlot) -> Result<OriginLsn, RecoverError> {
    let name = quote_literal(&lost.holder);
    if slot_state(provider, &lost.holder)? != SlotState::Usable {
        provider.write_one(&format!(
            "SELECT lsn::pg_catalog.text FROM pg_catalog.pg_create_logical_replication_slot({name}, 'pgoutput')"
        ))?;
    }
    begin_of_holder(provider, lost)
}

/// Where the holder begins.
pub(super) fn begin_of_holder(provider: &mut Source, held: &HeldSlot) -> Result<OriginLsn, RecoverError> {
    confirmed(provider, &held.holder)?.ok_or_else(|| provider.unexpected("no new slot"))
}

/// Puts a slot of the lost one's name in its place, which begins where the holder does.
pub fn replace_lost(provider: &mut Source, lost: &HeldSlot) -> Result<(), RecoverError> {
    if slot_state(provider, &lost.slot)? == SlotState::Usable {
        return Ok(());
    }
    drop_slot(provider, &lost.slot)?;
    copy_slot(provider, &lost.holder, &lost.slot)
}

/// Makes a slot that keeps what another one keeps now.
pub(super) fn copy_slot(provider: &mut Source, from: &str, to: &str) -> Result<(), RecoverError> {
    let (from, to) = (quote_literal(from), quote_literal(to));
    provider
        .write_one(&format!(
            "SELECT lsn::pg_catalog.text FROM pg_catalog.pg_copy_logical_replication_slot({from}, {to})"
        ))
        .map(drop)
}

/// Drops a slot, if it is there.
pub fn drop_slot(provider: &mut Source, name: &str) -> Result<(), RecoverError> {
    let name = quote_literal(name);
    provider
        .write_one(&format!(
            "SELECT pg_catalog.pg_drop_replication_slot(slot_name)::pg_catalog.text
               FROM pg_catalog.pg_replication_slots WHERE slot_name = {name}"
        ))
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_holder_fits() {
        let name = holder_name(u32::MAX, "0f0e0d0c-0b0a-0908-0706-050403020100");
        assert_eq!(name, "spk_rebuild_4294967295_0f0e0d0c0b0a0908");
        assert!(name.len() < 64);
    }
}
