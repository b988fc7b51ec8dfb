//! One change of one table, through core's executor: find, insert, update, delete, with indexes, constraints, triggers and
//! partitions (executor/executor.h, execPartition.h; the counterpart of worker.c's apply_handle_*).
//!
//! A [`Change`] is opened for each change and closed after it. Nothing is undone while an ERROR unwinds: the abort of the
//! transaction frees all of it.

use super::clock::Timestamp;
use super::guarded;
use super::logicalrep::{self, ApplyAs, RelMapEntry, Tuple};
use super::tuple;
use super::untrusted_user::AppliesAs;
use super::{commit_ts, compat};
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

/// What changes a row; the privilege that it needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    Insert,
    Update,
    Delete,
}

/// A row in a slot of the change that it was made or found in, valid until that is closed.
#[derive(Clone, Copy)]
pub struct Row(pub(super) *mut pg_sys::TupleTableSlot);

/// Who wrote a row's present version, and when. None: not known (too old, or track_commit_timestamp was off).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RowVersion {
    pub transaction: u32,
    /// By the transaction that is being applied.
    pub is_own: bool,
    pub committed: Option<(Timestamp, u16)>,
}

/// The table that holds the row: the change's table itself, or one of its partitions.
pub struct Leaf {
    pub(super) info: *mut pg_sys::ResultRelInfo,
    /// For an update or delete: which index finds the row. Null for an insert into a partition.
    entry: *mut RelMapEntry,
    has_opened_indexes: bool,
}

impl Leaf {
    pub(super) fn table(&self) -> pg_sys::Relation {
        // SAFETY: open as long as its change is.
        unsafe { (*self.info).ri_RelationDesc }
    }
}

pub struct Change {
    entry: *mut RelMapEntry,
    pub(super) estate: *mut pg_sys::EState,
    root: *mut pg_sys::ResultRelInfo,
    routing: Option<(*mut pg_sys::ModifyTableState, *mut PartitionTupleRouting)>,
    operation: Operation,
    user: AppliesAs,
}

impl Change {
    /// Opens and locks the table of a change, and becomes who applies it. Needs a transaction with an active snapshot.
    pub fn open(relation: u32, operation: Operation, apply_as: ApplyAs) -> Change {
        // SAFETY: within a transaction; all is closed in `close`, or by the abort.
        unsafe {
            let entry = logicalrep::open(relation, pg_sys::RowExclusiveLock);
            let local = (*entry).localrel;
            if operation != Operation::Insert {
                require_updatable(entry);
            }
            let user = AppliesAs::begin(apply_as, (*(*local).rd_rel).relowner);
            let estate = pg_sys::CreateExecutorState();
            let rte = new_node::<pg_sys::RangeTblEntry>(pg_sys::NodeTag::T_RangeTblEntry);
            (*rte).rtekind = pg_sys::RTEKind::RTE_RELATION;
            (*rte).relid = (*local).rd_id;
            (*rte).relkind = (*(*local).rd_rel).relkind;
            (*rte).rellockmode = pg_sys::AccessShareLock as i32;
            let mut permissions = std::ptr::null_mut();
            pg_sys::addRTEPermissionInfo(&mut permissions, rte);
            let tables = pg_sys::lappend(std::ptr::null_mut(), rte.cast());
            compat::exec_init_range_table(estate, tables, permissions);
            let root = new_node::<pg_sys::ResultRelInfo>(pg_sys::NodeTag::T_ResultRelInfo);
            pg_sys::InitResultRelInfo(root, local, 1, std::ptr::null_mut(), 0);
            // Not opened by the executor, yet listed, so that triggers find it.
            (*estate).es_opened_result_relations = pg_sys::lappend((*estate).es_opened_result_relations, root.cast());
            (*estate).es_output_cid = pg_sys::GetCurrentCommandId(true);
            pg_sys::AfterTriggerBeginQuery();
            Change { entry, estate, root, routing: None, operation, user }
        }
    }

    /// Fires the triggers that waited for the change, and lets everything go but the table's lock.
    pub fn close(self, leaf: Leaf) {
        // SAFETY: opened in `open`; the leaf is of this change.
        unsafe {
            if leaf.has_opened_indexes {
                pg_sys::ExecCloseIndices(leaf.info);
            }
            pg_sys::AfterTriggerEndQuery(self.estate);
            if let Some((state, routing)) = self.routing {
                guarded!(ExecCleanupTupleRouting(state, routing));
            }
            pg_sys::ExecResetTupleTable((*self.estate).es_tupleTable, false);
            pg_sys::FreeExecutorState(self.estate);
            self.user.end();
            logicalrep::close(self.entry);
        }
    }

    /// Closes a change that is not applied: no row was looked at.
    pub fn close_unused(self) {
        let leaf = Leaf { info: self.root, entry: self.entry, has_opened_indexes: false };
        self.close(leaf);
    }

    /// The table's oid here.
    pub fn table(&self) -> Oid {
        // SAFETY: open.
        unsafe { (*self.entry).localreloid }
    }

    /// `schema.table`, for messages.
    pub fn name(&self) -> String {
        // SAFETY: open.
        unsafe { logicalrep::name_of((*self.entry).localrel) }
    }

    /// The row that an insert brings, with defaults for the columns that are ours alone.
    pub fn new_row(&mut self, new: &Tuple) -> Row {
        // SAFETY: a slot of the open table.
        unsafe {
            let slot = self.extra_slot();
            self.in_tuple_context(|| {
                tuple::store(slot, self.entry, new);
                tuple::fill_defaults(slot, self.entry, self.estate);
            });
            Row(slot)
        }
    }

    /// The row that an update or delete looks for: its key, or all of it.
    pub fn key_row(&mut self, key: &Tuple) -> Row {
        // SAFETY: a slot of the open table.
        unsafe {
            let slot = self.extra_slot();
            self.in_tuple_context(|| tuple::store(slot, self.entry, key));
            Row(slot)
        }
    }

    /// Tells triggers and generated columns which columns an update changes.
    pub fn note_changed_columns(&mut self, row: Row, new: &Tuple) {
        // SAFETY: the executor state has one range table entry with its permissions.
        unsafe {
            let permissions: *mut pg_sys::RTEPermissionInfo =
                pg_sys::list_nth((*self.estate).es_rteperminfos, 0).cast();
            (*permissions).updatedCols = tuple::changed_columns(row.0, self.entry, new);
        }
    }

    /// The table that holds the row, or is to hold it, and the row in its columns.
    pub fn leaf_of(&mut self, row: Row) -> (Leaf, Row) {
        // SAFETY: open; routing needs a bare ModifyTableState, as core's apply worker gives it.
        unsafe {
            let table = (*self.entry).localrel;
            if (*(*table).rd_rel).relkind as u8 != pg_sys::RELKIND_PARTITIONED_TABLE {
                pg_sys::ExecOpenIndices(self.root, false);
                return (Leaf { info: self.root, entry: self.entry, has_opened_indexes: true }, row);
            }
            let (state, routing) = match self.routing {
                Some(routing) => routing,
                None => {
                    let state = new_node::<pg_sys::ModifyTableState>(pg_sys::NodeTag::T_ModifyTableState);
                    (*state).ps.state = self.estate;
                    (*state).operation = match self.operation {
                        Operation::Insert => pg_sys::CmdType::CMD_INSERT,
                        Operation::Update => pg_sys::CmdType::CMD_UPDATE,
                        Operation::Delete => pg_sys::CmdType::CMD_DELETE,
                    };
                    (*state).resultRelInfo = self.root;
                    let routing = guarded!(ExecSetupPartitionTupleRouting(self.estate, table));
                    self.routing = Some((state, routing));
                    (state, routing)
                }
            };
            let context = (*tuple::per_tuple_context(self.estate)).ecxt_per_tuple_memory;
            let previous = pg_sys::MemoryContextSwitchTo(context);
            let info = guarded!(ExecFindPartition(state, self.root, routing, row.0, self.estate));
            let partition = (*info).ri_RelationDesc;
            let schema = pg_sys::get_namespace_name((*(*partition).rd_rel).relnamespace);
            pg_sys::CheckSubscriptionRelkind(
                (*(*partition).rd_rel).relkind,
                schema,
                (*(*partition).rd_rel).relname.data.as_ptr(),
            );
            let mut slot = (*info).ri_PartitionTupleSlot;
            if slot.is_null() {
                slot = pg_sys::table_slot_create(partition, &mut (*self.estate).es_tupleTable);
            }
            let map = pg_sys::ExecGetRootToChildMap(info, self.estate);
            let attributes = if map.is_null() { std::ptr::null_mut() } else { (*map).attrMap };
            let slot = if map.is_null() {
                let slot = pg_sys::ExecCopySlot(slot, row.0);
                pg_sys::slot_getallattrs(slot);
                slot
            } else {
                pg_sys::execute_attr_map_slot(attributes, row.0, slot)
            };
            pg_sys::MemoryContextSwitchTo(previous);
            let entry = if self.operation == Operation::Insert {
                std::ptr::null_mut()
            } else {
                let entry = logicalrep::open_partition(self.entry, partition, attributes);
                require_updatable(entry);
                entry
            };
            (Leaf { info, entry, has_opened_indexes: false }, Row(slot))
        }
    }

    /// The row that an update or delete is about, locked; None if there is none.
    pub fn find(&mut self, leaf: &Leaf, key: Row) -> Option<Row> {
        // SAFETY: the leaf is of this change; for updates and deletes its entry is set.
        unsafe {
            let table = (*leaf.info).ri_RelationDesc;
            require_privilege(table, pg_sys::ACL_SELECT);
            let slot = pg_sys::table_slot_create(table, &mut (*self.estate).es_tupleTable);
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

    /// Who wrote the row that was found, and when.
    pub fn version_of(&self, row: Row) -> RowVersion {
        let mut is_null = false;
        // SAFETY: a row of a table: its slot gives the raw xmin, which freezing keeps.
        let xid = unsafe { pg_sys::slot_getsysattr(row.0, pg_sys::MinTransactionIdAttributeNumber, &mut is_null) };
        commit_ts::version_of(pg_sys::TransactionId::from(xid.value() as u32))
    }

    /// The row that was found, with the columns that were sent.
    pub fn modified(&mut self, leaf: &Leaf, key: Row, found: Row, new: &Tuple) -> Row {
        // SAFETY: rows of the leaf; the key's slot is not needed any more.
        unsafe { self.in_tuple_context(|| tuple::modify(key.0, found.0, leaf.entry, new)) };
        key
    }

    /// Whether the changed row stays in its partition.
    pub fn stays(&mut self, leaf: &Leaf, row: Row) -> bool {
        // SAFETY: a row of the leaf.
        unsafe {
            let table = (*leaf.info).ri_RelationDesc;
            std::ptr::eq(leaf.info, self.root)
                || !(*(*table).rd_rel).relispartition
                || pg_sys::ExecPartitionCheck(leaf.info, row.0, self.estate, false)
        }
    }

    /// A row of a partition in the columns of the partitioned table.
    pub fn row_of_root(&mut self, leaf: &Leaf, row: Row) -> Row {
        // SAFETY: open tables; a null map means that their columns are alike.
        unsafe {
            let slot = self.extra_slot();
            let map = pg_sys::convert_tuples_by_name(
                (*(*leaf.info).ri_RelationDesc).rd_att,
                (*(*self.entry).localrel).rd_att,
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
            require_privilege((*leaf.info).ri_RelationDesc, pg_sys::ACL_INSERT);
            pg_sys::ExecSimpleRelationInsert(leaf.info, self.estate, row.0);
        }
    }

    pub fn update(&mut self, leaf: &Leaf, found: Row, row: Row) {
        // SAFETY: rows of the leaf, whose indexes are open; the state is ended right after.
        unsafe {
            require_privilege((*leaf.info).ri_RelationDesc, pg_sys::ACL_UPDATE);
            let mut recheck = pg_sys::EPQState::default();
            let nothing = std::ptr::null_mut;
            pg_sys::EvalPlanQualInit(&mut recheck, self.estate, std::ptr::null_mut(), nothing(), -1, nothing());
            recheck.origslot = row.0;
            pg_sys::ExecSimpleRelationUpdate(leaf.info, self.estate, &mut recheck, found.0, row.0);
            pg_sys::EvalPlanQualEnd(&mut recheck);
        }
    }

    pub fn delete(&mut self, leaf: &Leaf, found: Row) {
        // SAFETY: as `update`.
        unsafe {
            require_privilege((*leaf.info).ri_RelationDesc, pg_sys::ACL_DELETE);
            let mut recheck = pg_sys::EPQState::default();
            let nothing = std::ptr::null_mut;
            pg_sys::EvalPlanQualInit(&mut recheck, self.estate, std::ptr::null_mut(), nothing(), -1, nothing());
            recheck.origslot = found.0;
            pg_sys::ExecSimpleRelationDelete(leaf.info, self.estate, &mut recheck, found.0);
            pg_sys::EvalPlanQualEnd(&mut recheck);
        }
    }

    /// A slot for rows of the leaf, as its table stores them.
    pub(super) unsafe fn new_slot(&mut self, leaf: &Leaf) -> *mut pg_sys::TupleTableSlot {
        // SAFETY: an open table; freed with the executor state.
        unsafe { pg_sys::table_slot_create(leaf.table(), &mut (*self.estate).es_tupleTable) }
    }

    pub(super) fn expression_context(&self) -> *mut pg_sys::ExprContext {
        // SAFETY: the executor state is alive as long as the change.
        unsafe { tuple::per_tuple_context(self.estate) }
    }

    unsafe fn extra_slot(&mut self) -> *mut pg_sys::TupleTableSlot {
        // SAFETY: an open table; freed with the executor state.
        unsafe {
            let descriptor = (*(*self.entry).localrel).rd_att;
            pg_sys::ExecInitExtraTupleSlot(self.estate, descriptor, &pg_sys::TTSOpsVirtual)
        }
    }

    unsafe fn in_tuple_context(&self, f: impl FnOnce()) {
        // SAFETY: the executor state's own context, freed with it.
        unsafe {
            let context = (*tuple::per_tuple_context(self.estate)).ecxt_per_tuple_memory;
            let previous = pg_sys::MemoryContextSwitchTo(context);
            f();
            pg_sys::MemoryContextSwitchTo(previous);
        }
    }
}

/// As core's TargetPrivilegesCheck: the privilege, and no row security, which replication cannot honour.
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
            let table = logicalrep::name_of(table);
            pgrx::ereport!(
                ERROR,
                PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
                format!("user \"{user}\" cannot replicate into relation with row-level security enabled: \"{table}\"")
            );
        }
    }
}

/// As core's check_relation_updatable.
unsafe fn require_updatable(entry: *mut RelMapEntry) {
    // SAFETY: the caller's promise: an open entry. A partitioned table is checked by partition.
    unsafe {
        let table = (*entry).localrel;
        if (*entry).updatable || (*(*table).rd_rel).relkind as u8 == pg_sys::RELKIND_PARTITIONED_TABLE {
            return;
        }
        let name = logicalrep::name_of(table);
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

/// makeNode, a macro.
unsafe fn new_node<T>(tag: pg_sys::NodeTag) -> *mut T {
    // SAFETY: zeroed memory of the node's size, whose first field is its tag.
    unsafe {
        let node = pg_sys::palloc0(size_of::<T>());
        node.cast::<pg_sys::Node>().write(pg_sys::Node { type_: tag });
        node.cast()
    }
}
