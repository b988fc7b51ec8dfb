//! TRUNCATE of several tables, and the deletion of single rows in its place (commands/tablecmds.h).

use super::apply_as::ApplyAs;
use super::commit_ts::RowVersion;
use super::executor::require_privilege;
use super::guarded;
use super::logicalrep::{self, Opened, RelMapEntry};
use super::relation_name;
use super::untrusted_user::AppliesAs;
use super::{commit_ts, interrupts};
use pgrx::pg_sys::{self, Oid};

unsafe extern "C-unwind" {
    fn find_all_inheritors(parent: Oid, lock: pg_sys::LOCKMODE, counts: *mut *mut pg_sys::List) -> *mut pg_sys::List;
}

/// Tables that are to be truncated, under an exclusive lock.
pub struct Truncation {
    entries: Vec<*mut RelMapEntry>,
    tables: Vec<pg_sys::Relation>,
    /// Those of `tables` that are partitions of others.
    partitions: Vec<pg_sys::Relation>,
    user: AppliesAs,
    apply_as: ApplyAs,
}

impl Truncation {
    /// Opens the tables, and the partitions of partitioned ones. `wanted` decides by the local table's oid whether it
    /// is to be truncated. Needs a transaction with an active snapshot.
    pub fn open(relations: &[u32], apply_as: ApplyAs, wanted: impl Fn(Oid) -> bool) -> Truncation {
        // This runs as the subscription's owner. ExecuteTruncateGuts itself switches to the owners of the tables.
        let as_subscription_owner = ApplyAs { run_as_owner: true, ..apply_as };
        let user = AppliesAs::begin(as_subscription_owner, apply_as.owner);
        let mut truncation =
            Truncation { entries: Vec::new(), tables: Vec::new(), partitions: Vec::new(), user, apply_as };
        let lock = pg_sys::AccessExclusiveLock;
        // SAFETY: opened here, closed in `close` or by the abort.
        unsafe {
            for relation in relations {
                let Opened { entry, user } = logicalrep::open(*relation, lock, apply_as);
                // What follows opens no index, and ExecuteTruncateGuts itself switches to the owner when it does.
                user.end();
                if !wanted((*entry).localreloid) {
                    logicalrep::close(entry);
                    continue;
                }
                truncation.entries.push(entry);
                let table = (*entry).localrel;
                truncation.add(table);
                if (*(*table).rd_rel).relkind as u8 == pg_sys::RELKIND_PARTITIONED_TABLE {
                    let children = guarded!(find_all_inheritors((*table).rd_id, lock as i32, std::ptr::null_mut()));
                    for index in 0..(*children).length as usize {
                        let child = (*(*children).elements.add(index)).oid_value;
                        if truncation.tables.iter().any(|known| (**known).rd_id == child) {
                            continue;
                        }
                        let child = pg_sys::table_open(child, pg_sys::NoLock as i32);
                        truncation.add(child);
                        truncation.partitions.push(child);
                    }
                }
            }
        }
        truncation
    }

    unsafe fn add(&mut self, table: pg_sys::Relation) {
        // SAFETY: the caller guarantees an open relation.
        unsafe { require_privilege(table, pg_sys::ACL_TRUNCATE) };
        self.tables.push(table);
    }

    pub fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// The names of the tables, for messages.
    pub fn names(&self) -> String {
        // SAFETY: open tables.
        let names: Vec<String> =
            self.entries.iter().map(|entry| unsafe { relation_name::name_of((**entry).localrel) }).collect();
        names.join(", ")
    }

    /// Whether any table has a row for which `survives` is true.
    pub fn any_row(&self, survives: &impl Fn(RowVersion) -> bool) -> bool {
        let mut found = false;
        for table in &self.tables {
            // SAFETY: open tables, locked.
            unsafe {
                visit(*table, |row| {
                    found = survives(row.version);
                    !found
                });
            }
            if found {
                break;
            }
        }
        found
    }

    /// Empties the tables.
    pub fn truncate(&self, restart_sequences: bool) {
        // SAFETY: lists of open relations and their oids, in the current memory context.
        unsafe {
            let (mut tables, mut oids, mut logged) = (std::ptr::null_mut(), std::ptr::null_mut(), std::ptr::null_mut());
            for table in &self.tables {
                tables = pg_sys::lappend(tables, table.cast());
                oids = pg_sys::lappend_oid(oids, (**table).rd_id);
                if is_logically_logged(*table) {
                    logged = pg_sys::lappend_oid(logged, (**table).rd_id);
                }
            }
            // The sender's list already contains the tables that its CASCADE has reached. As in core, TRUNCATE does not
            // cascade further here.
            pg_sys::ExecuteTruncateGuts(
                tables,
                oids,
                logged,
                pg_sys::DropBehavior::DROP_RESTRICT,
                restart_sequences,
                !self.apply_as.run_as_owner,
            );
        }
    }

    /// Deletes the rows for which `survives` is false. Returns the tables that still have rows.
    pub fn delete_all_but(&self, survives: &impl Fn(RowVersion) -> bool) -> Vec<Oid> {
        let mut kept = Vec::new();
        for table in &self.tables {
            let mut has_survivors = false;
            // SAFETY: open tables under an exclusive lock, so that no row can change between the check and its
            // deletion.
            unsafe {
                visit(*table, |mut row| {
                    if survives(row.version) {
                        has_survivors = true;
                    } else {
                        pg_sys::simple_table_tuple_delete(*table, &mut row.place, pg_sys::GetActiveSnapshot());
                    }
                    true
                });
                if has_survivors {
                    kept.push((**table).rd_id);
                }
            }
        }
        kept
    }

    /// Closes the tables. Their locks are kept until the transaction ends.
    pub fn close(self) {
        // SAFETY: opened in `open`.
        unsafe {
            for entry in self.entries {
                logicalrep::close(entry);
            }
            for partition in self.partitions {
                pg_sys::table_close(partition, pg_sys::NoLock as i32);
            }
        }
        self.user.end();
    }
}

struct SeenRow {
    place: pg_sys::ItemPointerData,
    version: RowVersion,
}

/// Passes the rows of a table to `f` until that returns false.
unsafe fn visit(table: pg_sys::Relation, mut f: impl FnMut(SeenRow) -> bool) {
    // SAFETY: the caller guarantees an open table. Everything is released unless an ERROR unwinds.
    unsafe {
        if (*(*table).rd_rel).relkind as u8 == pg_sys::RELKIND_PARTITIONED_TABLE {
            return;
        }
        pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot());
        let slot = pg_sys::table_slot_create(table, std::ptr::null_mut());
        let scan = pg_sys::table_beginscan(table, pg_sys::GetActiveSnapshot(), 0, std::ptr::null_mut());
        while pg_sys::table_scan_getnextslot(scan, pg_sys::ScanDirection::ForwardScanDirection, slot) {
            interrupts::check();
            let mut is_null = false;
            let xid = pg_sys::slot_getsysattr(slot, pg_sys::MinTransactionIdAttributeNumber, &mut is_null);
            let version = commit_ts::version_of(pg_sys::TransactionId::from(xid.value() as u32));
            if !f(SeenRow { place: (*slot).tts_tid, version }) {
                break;
            }
        }
        pg_sys::table_endscan(scan);
        pg_sys::ExecDropSingleTupleTableSlot(slot);
        pg_sys::PopActiveSnapshot();
    }
}

/// `RelationIsLogicallyLogged` (utils/rel.h), which is a macro in C: true for a permanent table that is not a catalog,
/// if wal_level is logical.
unsafe fn is_logically_logged(table: pg_sys::Relation) -> bool {
    // SAFETY: the caller guarantees an open relation.
    unsafe {
        pg_sys::wal_level >= pg_sys::WalLevel::WAL_LEVEL_LOGICAL as i32
            && (*(*table).rd_rel).relpersistence as u8 == pg_sys::RELPERSISTENCE_PERMANENT
            && !pg_sys::IsCatalogRelation(table)
    }
}
