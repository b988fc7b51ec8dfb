//! Changes of one table through core's executor: find, insert, update and delete, with indexes, constraints, triggers
//! and partitions (executor/executor.h, execPartition.h; the counterpart of worker.c's apply_handle_*).
//!
//! A [`Change`] is opened for each change and closed after it. Its table may stay open for the next change
//! (src/pg/open_table.rs). Nothing is undone while an ERROR unwinds, because the abort of the transaction frees
//! everything.

use super::apply_as::ApplyAs;
use super::commit_ts::RowVersion;
use super::guarded;
use super::logicalproto::Tuple;
use super::logicalrep::{self, RelMapEntry};
use super::open_table::{OpenTable, OpenTables, new_node};
use super::relation_name;
use super::tuple::{self, TupleColumns};
use super::untrusted_user::AppliesAs;
use super::{commit_ts, interrupts};
use pgrx::PgSqlErrorCode;
use pgrx::pg_sys::{self, Oid};
use std::ffi::CStr;

/// Opaque in C (executor/execPartition.h).
#[repr(C)]
struct PartitionTupleRouting {
    _opaque: [u8; 0],
}

unsafe extern "C-unwind" {
    fn ExecSetupPartitionTupleRouting(
        estate: *mut pg_sys::EState,
        root: pg_sys::Relation,
    ) -> *mut PartitionTupleRouting;
    fn ExecFindPartition(
        state: *mut pg_sys::ModifyTableState,
        root: *mut pg_sys::ResultRelInfo,
        routing: *mut PartitionTupleRouting,
        slot: *mut pg_sys::TupleTableSlot,
        estate: *mut pg_sys::EState,
    ) -> *mut pg_sys::ResultRelInfo;
    fn ExecCleanupTupleRouting(state: *mut pg_sys::ModifyTableState, routing: *mut PartitionTupleRouting);
}

/// The operation that changes a row, which determines the privilege that it needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RowOperation {
    Insert,
    Update,
    Delete,
}

/// A row in a slot of the change in which it was made or found. It is valid until that change is closed.
#[derive(Clone, Copy)]
pub struct Row(pub(super) *mut pg_sys::TupleTableSlot);

/// The table that contains a row: the change's table itself, or one of its partitions.
pub struct Leaf {
    pub(super) info: *mut pg_sys::ResultRelInfo,
    /// For an update or delete: the entry whose index finds the row. Null for an insert into a partition.
    entry: *mut RelMapEntry,
}

impl Leaf {
    pub(super) fn table(&self) -> pg_sys::Relation {
        // SAFETY: open as long as the change is.
        unsafe { (*self.info).ri_RelationDesc }
    }
}

pub struct Change {
    pub(super) table: Box<OpenTable>,
    routing: Option<(*mut pg_sys::ModifyTableState, *mut PartitionTupleRouting)>,
    operation: RowOperation,
    user: AppliesAs,
}

impl Change {
    /// Opens and locks the table of a change, and switches to the user who applies it. Needs a transaction with an
    /// active snapshot.
    pub fn open(tables: &mut OpenTables, relation: u32, operation: RowOperation, apply_as: ApplyAs) -> Change {
        let (table, user) = tables.take(relation, apply_as);
        // SAFETY: within a transaction; everything is closed in `close`, or by the abort.
        unsafe {
            if operation != RowOperation::Insert {
                require_updatable(table.entry);
            }
            (*table.estate).es_output_cid = pg_sys::GetCurrentCommandId(true);
            if table.fires_triggers() {
                pg_sys::AfterTriggerBeginQuery();
            }
            Change { table, routing: None, operation, user }
        }
    }

    /// Fires the triggers that were queued by the change. The table may stay open among `tables`; its lock is kept in
    /// any case.
    pub fn close(self, tables: &mut OpenTables) {
        // SAFETY: opened in `open`.
        unsafe {
            if self.table.fires_triggers() {
                pg_sys::AfterTriggerEndQuery(self.table.estate);
            }
            if let Some((state, routing)) = self.routing {
                guarded!(ExecCleanupTupleRouting(state, routing));
            }
        }
        self.user.end();
        tables.give_back(self.table);
    }

    /// The oid of the table on this server.
    pub fn table(&self) -> Oid {
        // SAFETY: open.
        unsafe { (*self.table.entry).localreloid }
    }

    /// `schema.table`, for messages.
    pub fn name(&self) -> String {
        // SAFETY: open.
        unsafe { relation_name::name_of((*self.table.entry).localrel) }
    }

    /// The row that an insert brings, with defaults for the columns that the sender does not have.
    pub fn new_row(&mut self, new: &Tuple) -> Row {
        let slot = self.table.virtual_slot();
        let columns = self.table.columns();
        // SAFETY: a slot of the open table.
        unsafe {
            in_tuple_context(self.table.estate, || {
                tuple::store(slot, columns, new);
                tuple::fill_defaults(slot, &mut self.table);
            });
        }
        Row(slot)
    }

    /// The row for which an update or delete searches: its key, or all its columns.
    pub fn key_row(&mut self, key: &Tuple) -> Row {
        let slot = self.table.virtual_slot();
        // SAFETY: a slot of the open table.
        unsafe { in_tuple_context(self.table.estate, || tuple::store(slot, self.table.columns(), key)) };
        Row(slot)
    }

    /// Records which columns an update changes, for triggers and generated columns.
    pub fn note_changed_columns(&mut self, row: Row, new: &Tuple) {
        // SAFETY: a row of the open table; cleared with the change.
        unsafe {
            in_tuple_context(self.table.estate, || {
                let changed = tuple::changed_columns(row.0, (*self.table.entry).attrmap, new);
                (*self.table.permissions()).updatedCols = changed;
            });
        }
        self.table.forget_unchanged_indexes();
    }

    /// The table that contains the row, or is to contain it, and the row converted to that table's columns.
    pub fn leaf_of(&mut self, row: Row) -> (Leaf, Row) {
        // SAFETY: open; routing needs a bare ModifyTableState, as in core's apply worker.
        unsafe {
            let (entry, root, estate) = (self.table.entry, self.table.root, self.table.estate);
            let table = (*entry).localrel;
            if (*(*table).rd_rel).relkind as u8 != pg_sys::RELKIND_PARTITIONED_TABLE {
                return (Leaf { info: root, entry }, row);
            }
            let (state, routing) = match self.routing {
                Some(routing) => routing,
                None => {
                    let state = new_node::<pg_sys::ModifyTableState>(pg_sys::NodeTag::T_ModifyTableState);
                    (*state).ps.state = estate;
                    (*state).operation = match self.operation {
                        RowOperation::Insert => pg_sys::CmdType::CMD_INSERT,
                        RowOperation::Update => pg_sys::CmdType::CMD_UPDATE,
                        RowOperation::Delete => pg_sys::CmdType::CMD_DELETE,
                    };
                    (*state).resultRelInfo = root;
                    let routing = guarded!(ExecSetupPartitionTupleRouting(estate, table));
                    self.routing = Some((state, routing));
                    (state, routing)
                }
            };
            let context = (*tuple::per_tuple_context(estate)).ecxt_per_tuple_memory;
            let previous = pg_sys::MemoryContextSwitchTo(context);
            let info = guarded!(ExecFindPartition(state, root, routing, row.0, estate));
            let partition = (*info).ri_RelationDesc;
            let schema = pg_sys::get_namespace_name((*(*partition).rd_rel).relnamespace);
            pg_sys::CheckSubscriptionRelkind(
                (*(*partition).rd_rel).relkind,
                schema,
                (*(*partition).rd_rel).relname.data.as_ptr(),
            );
            let mut slot = (*info).ri_PartitionTupleSlot;
            if slot.is_null() {
                slot = pg_sys::table_slot_create(partition, &mut (*estate).es_tupleTable);
            }
            let map = pg_sys::ExecGetRootToChildMap(info, estate);
            let attributes = if map.is_null() { std::ptr::null_mut() } else { (*map).attrMap };
            let slot = if map.is_null() {
                let slot = pg_sys::ExecCopySlot(slot, row.0);
                pg_sys::slot_getallattrs(slot);
                slot
            } else {
                pg_sys::execute_attr_map_slot(attributes, row.0, slot)
            };
            pg_sys::MemoryContextSwitchTo(previous);
            let entry = if self.operation == RowOperation::Insert {
                std::ptr::null_mut()
            } else {
                let entry = logicalrep::open_partition(entry, partition, attributes);
                require_updatable(entry);
                entry
            };
            (Leaf { info, entry }, Row(slot))
        }
    }

    /// Finds and locks the row that an update or delete affects; None if there is none.
    pub fn find(&mut self, leaf: &Leaf, key: Row) -> Option<Row> {
        self.require_privilege(leaf, pg_sys::ACL_SELECT);
        let slot = self.new_slot(leaf);
        // SAFETY: the leaf belongs to this change, and has an entry for updates and deletes.
        unsafe {
            let table = leaf.table();
            if leaf.info == self.table.root {
                while let Some(is_there) = self.table.find(key.0, slot) {
                    if !is_there {
                        return None;
                    }
                    if lock(table, &mut (*slot).tts_tid, slot) {
                        return Some(Row(slot));
                    }
                    interrupts::check();
                }
            }
            let index = (*leaf.entry).localindexoid;
            let mode = pg_sys::LockTupleMode::LockTupleExclusive;
            let found = if index != pg_sys::InvalidOid {
                pg_sys::RelationFindReplTupleByIndex(table, index, mode, key.0, slot)
            } else {
                pg_sys::RelationFindReplTupleSeq(table, mode, key.0, slot)
            };
            found.then_some(Row(slot))
        }
    }

    /// Which transaction wrote the row that was found, and when.
    pub fn version_of(&self, row: Row) -> RowVersion {
        let mut is_null = false;
        // SAFETY: a row of a table, whose slot returns the raw xmin; freezing preserves it.
        let xid = unsafe { pg_sys::slot_getsysattr(row.0, pg_sys::MinTransactionIdAttributeNumber, &mut is_null) };
        commit_ts::version_of(pg_sys::TransactionId::from(xid.value() as u32))
    }

    /// The row that was found, with the columns that were sent replaced.
    pub fn modified(&mut self, leaf: &Leaf, key: Row, found: Row, new: &Tuple) -> Row {
        // SAFETY: rows of the leaf; the key's slot is not needed any more.
        unsafe {
            let columns = if leaf.info == self.table.root {
                self.table.columns()
            } else {
                TupleColumns {
                    map: (*leaf.entry).attrmap,
                    sent_types: (*leaf.entry).remoterel.atttyps,
                    inputs: None,
                    context: std::ptr::null_mut(),
                }
            };
            in_tuple_context(self.table.estate, || tuple::modify(key.0, found.0, columns, new));
        }
        key
    }

    /// Whether the changed row stays in its partition.
    pub fn stays(&mut self, leaf: &Leaf, row: Row) -> bool {
        // SAFETY: a row of the leaf.
        unsafe {
            let table = (*leaf.info).ri_RelationDesc;
            std::ptr::eq(leaf.info, self.table.root)
                || !(*(*table).rd_rel).relispartition
                || pg_sys::ExecPartitionCheck(leaf.info, row.0, self.table.estate, false)
        }
    }

    /// A row of a partition, converted to the columns of the partitioned table.
    pub fn row_of_root(&mut self, leaf: &Leaf, row: Row) -> Row {
        // SAFETY: open tables; a null map means that their columns are the same.
        unsafe {
            let slot = self.table.virtual_slot();
            let map = pg_sys::convert_tuples_by_name(
                (*(*leaf.info).ri_RelationDesc).rd_att,
                (*(*self.table.entry).localrel).rd_att,
            );
            let slot = if map.is_null() {
                let slot = pg_sys::ExecCopySlot(slot, row.0);
                pg_sys::slot_getallattrs(slot);
                slot
            } else {
                pg_sys::execute_attr_map_slot((*map).attrMap, row.0, slot)
            };
            Row(slot)
        }
    }

    pub fn insert(&mut self, leaf: &Leaf, row: Row) {
        // SAFETY: a row of the leaf, whose indexes are open.
        unsafe {
            self.require_privilege(leaf, pg_sys::ACL_INSERT);
            pg_sys::ExecSimpleRelationInsert(leaf.info, self.table.estate, row.0);
        }
    }

    pub fn update(&mut self, leaf: &Leaf, found: Row, row: Row) {
        // SAFETY: rows of the leaf, whose indexes are open; the state is ended right after.
        unsafe {
            self.require_privilege(leaf, pg_sys::ACL_UPDATE);
            let mut recheck = pg_sys::EPQState::default();
            let nothing = std::ptr::null_mut;
            pg_sys::EvalPlanQualInit(&mut recheck, self.table.estate, std::ptr::null_mut(), nothing(), -1, nothing());
            recheck.origslot = row.0;
            pg_sys::ExecSimpleRelationUpdate(leaf.info, self.table.estate, &mut recheck, found.0, row.0);
            pg_sys::EvalPlanQualEnd(&mut recheck);
        }
    }

    pub fn delete(&mut self, leaf: &Leaf, found: Row) {
        // SAFETY: as `update`.
        unsafe {
            self.require_privilege(leaf, pg_sys::ACL_DELETE);
            let mut recheck = pg_sys::EPQState::default();
            let nothing = std::ptr::null_mut;
            pg_sys::EvalPlanQualInit(&mut recheck, self.table.estate, std::ptr::null_mut(), nothing(), -1, nothing());
            recheck.origslot = found.0;
            pg_sys::ExecSimpleRelationDelete(leaf.info, self.table.estate, &mut recheck, found.0);
            pg_sys::EvalPlanQualEnd(&mut recheck);
        }
    }

    /// A slot for rows of the leaf in the form in which its table stores them.
    pub(super) fn new_slot(&mut self, leaf: &Leaf) -> *mut pg_sys::TupleTableSlot {
        if leaf.info == self.table.root {
            return self.table.table_slot();
        }
        // SAFETY: an open table; freed with the executor state.
        unsafe { pg_sys::table_slot_create(leaf.table(), &mut (*self.table.estate).es_tupleTable) }
    }

    pub(super) fn expression_context(&self) -> *mut pg_sys::ExprContext {
        // SAFETY: the executor state is alive as long as the change.
        unsafe { tuple::per_tuple_context(self.table.estate) }
    }

    pub(super) fn require_insert_privilege(&mut self) {
        let leaf = Leaf { info: self.table.root, entry: self.table.entry };
        self.require_privilege(&leaf, pg_sys::ACL_INSERT);
    }

    pub(super) fn require_privilege(&mut self, leaf: &Leaf, privilege: u32) {
        // SAFETY: within a transaction; the leaf is open.
        unsafe {
            let user = pg_sys::GetUserId();
            if leaf.info != self.table.root {
                require_privilege(leaf.table(), privilege);
            } else if !self.table.is_allowed(user, privilege) {
                require_privilege(leaf.table(), privilege);
                self.table.note_allowed(user, privilege);
            }
        }
    }
}

/// Runs `f` in the memory context for the values of one change.
unsafe fn in_tuple_context(estate: *mut pg_sys::EState, f: impl FnOnce()) {
    // SAFETY: the caller guarantees an executor state that is alive; the context is emptied after the change.
    unsafe {
        let context = (*tuple::per_tuple_context(estate)).ecxt_per_tuple_memory;
        let previous = pg_sys::MemoryContextSwitchTo(context);
        f();
        pg_sys::MemoryContextSwitchTo(previous);
    }
}

/// Locks the row at `place` and reads its latest version into `slot`. Returns false if the row was deleted or changed
/// concurrently.
///
/// # Safety
/// An open table and a slot of it.
pub(super) unsafe fn lock(
    table: pg_sys::Relation,
    place: *mut pg_sys::ItemPointerData,
    slot: *mut pg_sys::TupleTableSlot,
) -> bool {
    // SAFETY: the caller's promise; the snapshot is popped on every path that does not unwind.
    unsafe {
        let mut failure = pg_sys::TM_FailureData::default();
        pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot());
        let result = pg_sys::table_tuple_lock(
            table,
            place,
            pg_sys::GetActiveSnapshot(),
            slot,
            pg_sys::GetCurrentCommandId(false),
            pg_sys::LockTupleMode::LockTupleExclusive,
            pg_sys::LockWaitPolicy::LockWaitBlock,
            0,
            &mut failure,
        );
        pg_sys::PopActiveSnapshot();
        result == pg_sys::TM_Result::TM_Ok
    }
}

/// Like core's TargetPrivilegesCheck: requires the privilege, and that no row security applies, which replication
/// cannot enforce.
///
/// # Safety
/// An open relation, in a transaction.
pub unsafe fn require_privilege(table: pg_sys::Relation, privilege: u32) {
    // SAFETY: the caller's promise.
    unsafe {
        let oid = (*table).rd_id;
        let user = pg_sys::GetUserId();
        let result = pg_sys::pg_class_aclcheck(oid, user, privilege.into());
        if result != pg_sys::AclResult::ACLCHECK_OK {
            let kind = pg_sys::get_relkind_objtype((*(*table).rd_rel).relkind);
            pg_sys::aclcheck_error(result, kind, pg_sys::get_rel_name(oid));
        }
        if pg_sys::check_enable_rls(oid, pg_sys::InvalidOid, false) == pg_sys::CheckEnableRlsResult::RLS_ENABLED as i32
        {
            let user = super::text::to_utf8(CStr::from_ptr(pg_sys::GetUserNameFromId(user, true)));
            let table = relation_name::name_of(table);
            pgrx::ereport!(
                ERROR,
                PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
                format!("user \"{user}\" cannot replicate into relation with row-level security enabled: \"{table}\"")
            );
        }
    }
}

/// Like core's check_relation_updatable.
unsafe fn require_updatable(entry: *mut RelMapEntry) {
    // SAFETY: the caller guarantees an open entry. Each partition of a partitioned table is checked separately.
    unsafe {
        let table = (*entry).localrel;
        if (*entry).updatable || (*(*table).rd_rel).relkind as u8 == pg_sys::RELKIND_PARTITIONED_TABLE {
            return;
        }
        let name = relation_name::name_of(table);
        let message = if logicalrep::identity_of(table) != pg_sys::InvalidOid {
            format!("the source did not send the replica identity columns of relation \"{name}\"")
        } else {
            format!(
                "relation \"{name}\" has neither a replica identity index nor a primary key, and the source's has no \
                 REPLICA IDENTITY FULL"
            )
        };
        pgrx::ereport!(ERROR, PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message);
    }
}
