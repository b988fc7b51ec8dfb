//! How far this node's own outgoing slots let the recovery slot advance: pure, except for [`beside`], which reads them.
//!
//! After a restore of this node from a backup its slots are gone, except for the recovery slot, whose files are saved
//! (saved.rs). Each outgoing slot is then made anew as a copy of it, and delivers what its subscriber lacks only if the
//! recovery slot has not passed what that subscriber had confirmed. Staying behind costs no WAL, because the outgoing
//! slots hold it anyway.
//!
//! Every persistent logical slot of this database counts, whoever reads it. So does the slot of a subscriber's table
//! synchronization (`pg_<subscription>_sync_<table>_<system>`): a table whose rows have been copied, and which has not
//! caught up yet, goes on with that slot and cannot without. A temporary slot does not count: it ends with its session,
//! and no restore could give it back. An invalidated slot delivers nothing any more, and one that is still being created
//! will begin at the end of WAL.

use super::clone::PLUGIN;
use super::clone_name::is_clone_name;
use crate::lsn::LocalLsn;
use crate::pg::slot::{self, Slot};
use std::collections::BTreeSet;

/// An outgoing slot, and what its reader has confirmed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outgoing {
    pub name: String,
    pub confirmed: LocalLsn,
}

/// The outgoing slots of this database, beside the recovery slot of that name. Needs a snapshot.
pub fn beside(recovery: &str) -> Result<Vec<Outgoing>, pgrx::spi::Error> {
    Ok(among(slot::persistent_here()?, recovery))
}

/// The outgoing slots among the persistent logical slots of this database: all but the recovery slot and its clones.
fn among(slots: Vec<Slot>, recovery: &str) -> Vec<Outgoing> {
    let is_clone = |slot: &Slot| slot.plugin.as_deref() == Some(PLUGIN) && is_clone_name(&slot.name);
    let counts = |slot: &Slot| slot.name != recovery && !slot.is_invalid && !slot.is_unfinished && !is_clone(slot);
    let outgoing = slots.into_iter().filter(counts);
    outgoing.map(|slot| Outgoing { name: slot.name, confirmed: slot.confirmed }).collect()
}

/// The slot that holds the recovery slot most; None: none does. `floor`: if the retention budget is exceeded, the
/// position below which no WAL may be kept. Slots that are behind it are given up.
pub fn slowest(outgoing: &[Outgoing], floor: Option<LocalLsn>) -> Option<&Outgoing> {
    let holds = |slot: &&Outgoing| floor.is_none_or(|floor| slot.confirmed >= floor);
    outgoing.iter().filter(holds).min_by_key(|slot| slot.confirmed)
}

/// The names of the slots that the recovery slot has passed because of the budget. `recovery`: where the recovery slot
/// stands; `floor`: the position below which it may keep no WAL, whether it does or not. None: there is no budget.
pub fn given_up(outgoing: &[Outgoing], recovery: LocalLsn, floor: Option<LocalLsn>) -> BTreeSet<String> {
    let is_given_up = |slot: &&Outgoing| slot.confirmed < recovery && floor.is_some_and(|floor| slot.confirmed < floor);
    outgoing.iter().filter(is_given_up).map(|slot| slot.name.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::clone_name::clone_name;
    use super::*;

    fn outgoing(positions: &[(&str, u64)]) -> Vec<Outgoing> {
        let of =
            |(name, confirmed): &(&str, u64)| Outgoing { name: (*name).to_owned(), confirmed: LocalLsn(*confirmed) };
        positions.iter().map(of).collect()
    }

    fn slot(name: &str) -> Slot {
        Slot {
            name: name.to_owned(),
            database: None,
            plugin: Some("pgoutput".to_owned()),
            restart: LocalLsn(50),
            confirmed: LocalLsn(100),
            is_invalid: false,
            is_unfinished: false,
            is_active: false,
            inactive_since: None,
        }
    }

    #[test]
    fn neither_the_recovery_slot_nor_its_clones_nor_slots_that_deliver_nothing_count() {
        let slots = vec![
            slot("spk_recovery_d"),
            Slot { plugin: Some(PLUGIN.to_owned()), ..slot(&clone_name("d", 0)) },
            slot("sub_n2_n1"),
            slot("pg_16400_sync_16385_7"),
            Slot { is_invalid: true, ..slot("lost") },
            Slot { is_unfinished: true, ..slot("young") },
        ];
        let found = among(slots, "spk_recovery_d");
        assert_eq!(found, outgoing(&[("sub_n2_n1", 100), ("pg_16400_sync_16385_7", 100)]));
    }

    #[test]
    fn the_slowest_slot_holds_unless_the_budget_gives_it_up() {
        let slots = outgoing(&[("a", 300), ("b", 100), ("c", 200)]);
        let name = |floor: Option<u64>| slowest(&slots, floor.map(LocalLsn)).map(|slot| slot.name.as_str());
        assert_eq!(name(None), Some("b"));
        assert_eq!(name(Some(100)), Some("b"), "at the budget it is not given up");
        assert_eq!(name(Some(101)), Some("c"));
        assert_eq!(name(Some(301)), None);
        assert_eq!(slowest(&[], None), None);
    }

    #[test]
    fn a_slot_is_given_up_if_it_was_passed_and_keeps_more_than_the_budget() {
        let slots = outgoing(&[("a", 300), ("b", 100), ("c", 200)]);
        let names = |recovery, floor: Option<u64>| {
            given_up(&slots, LocalLsn(recovery), floor.map(LocalLsn)).into_iter().collect::<Vec<_>>()
        };
        assert_eq!(names(250, Some(150)), ["b"]);
        assert_eq!(names(100, Some(150)), [""; 0], "it is not passed yet");
        assert_eq!(names(250, Some(50)), [""; 0], "what is passed for another reason is not the budget's doing");
        assert_eq!(names(250, None), [""; 0]);
    }
}
