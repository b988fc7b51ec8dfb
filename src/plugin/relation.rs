//! What the plugin knows of a relation: whether its rows are sent, as which table, and whether its columns were
//! announced (core counterpart: pgoutput.c's RelationSyncEntry). An entry is forgotten when the relation cache reports
//! a change.

use super::parameters::Parameters;
use crate::pg::guarded;
use pgrx::pg_sys;
use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

// Not in pgrx's bindings (catalog/partition.h).
unsafe extern "C-unwind" {
    fn get_partition_ancestors(relation: pg_sys::Oid) -> *mut pg_sys::List;
}

/// A relation of which changes were seen.
#[derive(Clone, Copy)]
pub struct KnownRelation {
    /// The table as which its rows are sent: itself, or an ancestor. None: they are not sent.
    pub sent_as: Option<pg_sys::Oid>,
    /// Whether the receiver knows its columns.
    pub is_told: bool,
}

thread_local! {
    static KNOWN: RefCell<HashMap<pg_sys::Oid, KnownRelation>> = RefCell::new(HashMap::new());
}

/// Registers for invalidations of the relation cache. Only the first call in a process does anything.
pub fn watch_invalidations() {
    thread_local! {
        static IS_WATCHING: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
    }
    if !IS_WATCHING.replace(true) {
        // SAFETY: the callback is a function of this library, which is never unloaded.
        unsafe { pg_sys::CacheRegisterRelcacheCallback(Some(forget), pg_sys::Datum::from(0)) };
    }
}

/// Forgets all relations: another stream has another list of tables, and its receiver knows no columns.
pub fn forget_all() {
    KNOWN.with_borrow_mut(HashMap::clear);
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn forget(_argument: pg_sys::Datum, relation: pg_sys::Oid) {
    KNOWN.with_borrow_mut(|known| {
        if relation == pg_sys::InvalidOid {
            known.clear();
        } else {
            known.remove(&relation);
        }
    });
}

/// What is known of the relation. It is looked up if it is new.
///
/// # Safety
/// `relation` must be open, in a transaction with a (historic) snapshot.
pub unsafe fn of(relation: pg_sys::Relation, parameters: &Parameters) -> KnownRelation {
    // SAFETY: the caller's promise.
    let oid = unsafe { (*relation).rd_id };
    if let Some(known) = KNOWN.with_borrow(|known| known.get(&oid).copied()) {
        return known;
    }
    // SAFETY: the caller's promise. The look-up may forget entries, so no borrow is held meanwhile.
    let known = KnownRelation { sent_as: unsafe { sent_as(relation, parameters) }, is_told: false };
    KNOWN.with_borrow_mut(|all| all.insert(oid, known));
    known
}

/// Notes that the receiver knows the relation's columns. An entry that was forgotten meanwhile stays forgotten.
pub fn note_told(oid: pg_sys::Oid) {
    KNOWN.with_borrow_mut(|known| {
        if let Entry::Occupied(mut entry) = known.entry(oid) {
            entry.get_mut().is_told = true;
        }
    });
}

/// The listed table as which a relation's rows are sent: the topmost listed ancestor, or else the relation itself if it
/// is listed.
unsafe fn sent_as(relation: pg_sys::Relation, parameters: &Parameters) -> Option<pg_sys::Oid> {
    // SAFETY: the caller's promise; a list of oids from the nearest ancestor to the root.
    unsafe {
        let oid = (*relation).rd_id;
        if (*(*relation).rd_rel).relispartition {
            let ancestors = guarded!(get_partition_ancestors(oid));
            let count = if ancestors.is_null() { 0 } else { (*ancestors).length };
            for index in (0..count).rev() {
                let ancestor = (*(*ancestors).elements.add(index as usize)).oid_value;
                if parameters.lists(ancestor.to_u32()) {
                    return Some(ancestor);
                }
            }
        }
        parameters.lists(oid.to_u32()).then_some(oid)
    }
}
