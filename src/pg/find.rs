//! Finds rows by a table's key, one after the other with a single index scan (the counterpart of execReplication.c's
//! RelationFindReplTupleByIndex, which begins a scan for each row).
//!
//! This is only for a unique btree index on plain columns that identifies rows. For all others core's own routine is
//! called.

use super::{compat, logicalrep};
use pgrx::pg_sys::{self, Oid};

pub(super) struct Finder {
    /// The scan of the present transaction.
    scan: Option<pg_sys::IndexScanDesc>,
    /// The key's columns in the table, counted from 0.
    columns: Vec<usize>,
    keys: Vec<pg_sys::ScanKeyData>,
    snapshot: Box<pg_sys::SnapshotData>,
}

impl Finder {
    /// None if the index is not of the supported kind.
    ///
    /// # Safety
    /// An open table, an open index of it with its IndexInfo; the current memory context must live as long as the
    /// Finder.
    pub(super) unsafe fn new(
        table: pg_sys::Relation,
        index: pg_sys::Relation,
        info: *mut pg_sys::IndexInfo,
    ) -> Option<Finder> {
        // SAFETY: the caller's promise; the arrays have a place for each of the index's key columns.
        unsafe {
            let count = (*info).ii_NumIndexKeyAttrs as usize;
            let columns = &(&(*info).ii_IndexAttrNumbers)[..count];
            let is_plain = (*info).ii_Am == pg_sys::BTREE_AM_OID
                && (*info).ii_Unique
                && (*info).ii_Expressions.is_null()
                && (*info).ii_Predicate.is_null()
                && columns.iter().all(|column| *column > 0)
                && logicalrep::identity_of(table) == (*index).rd_id;
            if !is_plain {
                return None;
            }
            let mut keys = vec![pg_sys::ScanKeyData::default(); count];
            for (place, key) in keys.iter_mut().enumerate() {
                let (family, of) = (*(*index).rd_opfamily.add(place), *(*index).rd_opcintype.add(place));
                let equal = pg_sys::BTEqualStrategyNumber as i16;
                let operator = pg_sys::get_opfamily_member(family, of, of, equal);
                if operator == Oid::INVALID {
                    return None;
                }
                pg_sys::ScanKeyEntryInitialize(
                    key,
                    0,
                    place as i16 + 1,
                    equal as u16,
                    Oid::INVALID,
                    *(*index).rd_indcollation.add(place),
                    pg_sys::get_opcode(operator),
                    pg_sys::Datum::from(0),
                );
            }
            let snapshot = Box::new(pg_sys::SnapshotData {
                snapshot_type: pg_sys::SnapshotType::SNAPSHOT_DIRTY,
                ..Default::default()
            });
            let columns = columns.iter().map(|column| *column as usize - 1).collect();
            Some(Finder { scan: None, columns, keys, snapshot })
        }
    }

    /// Must be called before the relations are closed.
    pub(super) fn end_scan(&mut self) {
        if let Some(scan) = self.scan.take() {
            // SAFETY: the scan was begun, and its relations are still open.
            unsafe { pg_sys::index_endscan(scan) };
        }
    }

    /// Finds the row with the key's values without locking it, and waits for transactions that are writing it. Copies
    /// the row into the slot `row`. Returns false if there is none.
    ///
    /// # Safety
    /// The relations must stay open until [`Finder::end_scan`], and the current memory context must live as long. Both
    /// slots belong to the table, and the attributes of the key are set.
    pub(super) unsafe fn find(
        &mut self,
        table: pg_sys::Relation,
        index: pg_sys::Relation,
        key: *mut pg_sys::TupleTableSlot,
        row: *mut pg_sys::TupleTableSlot,
    ) -> bool {
        // SAFETY: the caller's promise.
        unsafe {
            for (scan_key, column) in self.keys.iter_mut().zip(&self.columns) {
                if *(*key).tts_isnull.add(*column) {
                    // No row of a primary key or replica identity has a key with nulls.
                    return false;
                }
                scan_key.sk_argument = *(*key).tts_values.add(*column);
            }
            let scan = match self.scan {
                Some(scan) => scan,
                None => {
                    let count = self.keys.len() as core::ffi::c_int;
                    *self.scan.insert(compat::index_beginscan(table, index, &mut *self.snapshot, count))
                }
            };
            loop {
                pg_sys::index_rescan(scan, self.keys.as_mut_ptr(), self.keys.len() as i32, std::ptr::null_mut(), 0);
                if !pg_sys::index_getnext_slot(scan, pg_sys::ScanDirection::ForwardScanDirection, row) {
                    return false;
                }
                pg_sys::ExecMaterializeSlot(row);
                let writers = [self.snapshot.xmin, self.snapshot.xmax];
                let Some(writer) = writers.into_iter().find(|xid| *xid != pg_sys::InvalidTransactionId) else {
                    return true;
                };
                pg_sys::XactLockTableWait(
                    writer,
                    std::ptr::null_mut(),
                    std::ptr::null_mut(),
                    pg_sys::XLTW_Oper::XLTW_None,
                );
            }
        }
    }
}
