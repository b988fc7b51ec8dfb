//! Rows that conflict with another row by a unique index (executor/executor.h).

use super::executor::{Change, Leaf, Row, lock};
use super::{compat, guarded, interrupts, logicalrep};
use pgrx::pg_sys::{self, Oid};

/// A row with the key that another row is to have.
#[derive(Clone, Copy)]
pub struct InTheWay {
    pub row: Row,
    /// The unique index by which the two rows conflict.
    pub index: Oid,
}

impl Change {
    /// The rows that conflict with a new one by a unique index, locked, each of them once. `own` is the row that the
    /// new one is to replace, which is not a conflict. Deferrable constraints are left to core.
    pub fn rows_in_the_way(&mut self, leaf: &Leaf, row: Row, own: Option<Row>) -> Vec<InTheWay> {
        // SAFETY: the leaf's indexes are open; index descriptors and infos are parallel arrays.
        unsafe {
            let info = leaf.info;
            let mut found: Vec<(pg_sys::ItemPointerData, InTheWay)> = Vec::new();
            let own_place = own.map(|own| {
                pg_sys::slot_getallattrs(own.0);
                (*own.0).tts_tid
            });
            for place in 0..(*info).ri_NumIndices as usize {
                let index = *(*info).ri_IndexRelationDescs.add(place);
                let index_info = *(*info).ri_IndexRelationInfo.add(place);
                let is_judged = (*index_info).ii_Unique && (*(*index).rd_index).indimmediate;
                if !is_judged || own.is_some_and(|own| has_same_key(index_info, own, row)) {
                    continue;
                }
                if (*index_info).ii_UniqueOps.is_null() {
                    let previous = pg_sys::MemoryContextSwitchTo((*self.table.estate).es_query_cxt);
                    pg_sys::BuildSpeculativeIndexInfo(index, index_info);
                    pg_sys::MemoryContextSwitchTo(previous);
                }
                let index = (*index).rd_id;
                let one = pg_sys::lappend_oid(std::ptr::null_mut(), index);
                // If a row disappears while it is being locked, the search is repeated, because another row may have
                // taken its place.
                while let Some(mut place) = self.conflict(info, row, one) {
                    let is_known = found.iter().any(|(known, _)| same_place(known, &place));
                    if is_known || own_place.is_some_and(|own| same_place(&own, &place)) {
                        break;
                    }
                    let slot = self.new_slot(leaf);
                    if lock(leaf.table(), &mut place, slot) {
                        found.push((place, InTheWay { row: Row(slot), index }));
                        break;
                    }
                    interrupts::check();
                }
            }
            found.into_iter().map(|(_, in_the_way)| in_the_way).collect()
        }
    }

    /// Whether one of the rows conflicts by the key that identifies rows.
    pub fn has_identity_of(&self, leaf: &Leaf, in_the_way: &[InTheWay]) -> bool {
        // SAFETY: an open table.
        let identity = unsafe { logicalrep::identity_of(leaf.table()) };
        in_the_way.iter().any(|other| other.index == identity)
    }

    unsafe fn conflict(
        &mut self,
        info: *mut pg_sys::ResultRelInfo,
        row: Row,
        indexes: *mut pg_sys::List,
    ) -> Option<pg_sys::ItemPointerData> {
        let mut place = pg_sys::ItemPointerData::default();
        // SAFETY: the caller guarantees unique indexes that are open and prepared.
        let is_free =
            unsafe { compat::exec_check_index_constraints(info, row.0, self.table.estate, &mut place, indexes) };
        (!is_free).then_some(place)
    }
}

/// Whether an update leaves a row's key in the index unchanged.
unsafe fn has_same_key(index: *mut pg_sys::IndexInfo, old: Row, new: Row) -> bool {
    // SAFETY: the caller guarantees an index of the rows' table, and rows whose attributes have been read.
    unsafe {
        // The results of expressions and predicates are not compared.
        (*index).ii_Expressions.is_null()
            && (*index).ii_Predicate.is_null()
            && (0..(*index).ii_NumIndexKeyAttrs as usize)
                .all(|key| is_same_value(old, new, (*index).ii_IndexAttrNumbers[key]))
    }
}

fn same_place(one: &pg_sys::ItemPointerData, other: &pg_sys::ItemPointerData) -> bool {
    (one.ip_blkid.bi_hi, one.ip_blkid.bi_lo, one.ip_posid)
        == (other.ip_blkid.bi_hi, other.ip_blkid.bi_lo, other.ip_posid)
}

unsafe extern "C-unwind" {
    fn datum_image_eq(one: pg_sys::Datum, other: pg_sys::Datum, by_value: bool, length: core::ffi::c_int) -> bool;
}

/// Whether two rows of a table have the same bytes in a column, which is numbered from 1.
///
/// # Safety
/// Rows of the same table whose attributes have been read.
unsafe fn is_same_value(one: Row, other: Row, column: i16) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        let attribute = compat::attribute((*one.0).tts_tupleDescriptor, i32::from(column) - 1);
        let at = |row: Row| {
            let index = column as usize - 1;
            (*(*row.0).tts_values.add(index), *(*row.0).tts_isnull.add(index))
        };
        match (at(one), at(other)) {
            ((_, true), (_, true)) => true,
            ((one, false), (other, false)) => {
                guarded!(datum_image_eq(one, other, (*attribute).attbyval, i32::from((*attribute).attlen)))
            }
            _ => false,
        }
    }
}
