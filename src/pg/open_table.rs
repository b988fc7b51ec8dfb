//! Tables to which changes are applied, kept open from one change to the next (executor/executor.h, utils/inval.h).
//!
//! For every row core's apply worker opens a table with its indexes and builds an executor state. Here that is done
//! once: a plain table stays open until its transaction ends, and what was built for it without expressions of users is
//! kept until the relation cache reports that a table has changed. Relations, slots and scans may be held only within
//! the transaction that opened them ([`OpenTables::close_all`]). Tables with triggers that fire here, with partitions
//! or with generated columns are opened for each change, and nothing of them is kept.
//!
//! Nothing is undone while an ERROR unwinds. The code that catches it forgets these tables, and the abort frees the
//! rest.

use super::apply_as::ApplyAs;
use super::compat;
use super::find::Finder;
use super::held::Held;
use super::logicalrep::{self, Opened, RelMapEntry};
use super::row_slots::{Slots, new_slot};
use super::table_kind::{Lifetime, fires_any, index_of, lifetime_of, may_batch};
use super::tuple::{Input, TupleColumns};
use super::untrusted_user::AppliesAs;
use pgrx::pg_sys::{self, Oid};
use std::cell::Cell;
use std::collections::HashMap;

thread_local! {
    /// Counts the invalidations of any relation in the relation cache. They are few, and building anew is cheap.
    static INVALIDATIONS: Cell<u64> = const { Cell::new(0) };
    static IS_WATCHING: Cell<bool> = const { Cell::new(false) };
}

fn watch_invalidations() {
    if !IS_WATCHING.replace(true) {
        // SAFETY: the callback is a function of this library, which is never unloaded.
        unsafe { pg_sys::CacheRegisterRelcacheCallback(Some(note_invalidation), pg_sys::Datum::from(0)) };
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn note_invalidation(_argument: pg_sys::Datum, _relation: Oid) {
    INVALIDATIONS.set(INVALIDATIONS.get() + 1);
}

/// One table, with everything that is needed to change it.
pub(super) struct OpenTable {
    relation: u32,
    pub(super) entry: *mut RelMapEntry,
    pub(super) estate: *mut pg_sys::EState,
    pub(super) root: *mut pg_sys::ResultRelInfo,
    pub(super) lifetime: Lifetime,
    /// Whether rows may be stored later than the next ones are judged: no code of users reads them in between.
    pub(super) may_batch: bool,
    /// Whether a unique index could refuse a row.
    pub(super) is_unique: bool,
    /// The input functions that convert a column's text to its value, by the table's columns.
    inputs: *mut Input,
    /// The defaults of the columns that the sender does not have.
    pub(super) defaults: Option<Vec<(usize, *mut pg_sys::ExprState)>>,
    /// None: not searched yet.
    finder: Option<Option<Finder>>,
    oid: Oid,
    indexes: Vec<Oid>,
    pub(super) descriptor: pg_sys::TupleDesc,
    virtual_slots: Slots,
    table_slots: Slots,
    /// Rows that are held back to be stored together.
    pub(super) held: Held,
    /// The privileges that were found granted in this transaction, and the role that has them.
    allowed: (Oid, u32),
    is_open: bool,
    invalidations: u64,
}

impl OpenTable {
    /// Locks the local table for the sender's, switches to the user who applies its changes, and only then opens it:
    /// opening its indexes folds the constants of their expressions and predicates, which runs functions of the owner.
    /// Needs a transaction with an active snapshot.
    fn open(relation: u32, apply_as: ApplyAs) -> (Box<OpenTable>, AppliesAs) {
        watch_invalidations();
        let invalidations = INVALIDATIONS.get();
        // SAFETY: within a transaction; everything is closed and freed in `close_and_free`, or by the abort.
        unsafe {
            let Opened { entry, user } = logicalrep::open(relation, pg_sys::RowExclusiveLock, apply_as);
            let local = (*entry).localrel;
            let estate = pg_sys::CreateExecutorState();
            let previous = pg_sys::MemoryContextSwitchTo((*estate).es_query_cxt);
            list_in_range_table(estate, local);
            let root = new_result_relation(estate, local);
            let columns = (*(*local).rd_att).natts as usize;
            let inputs = pg_sys::palloc0(columns * size_of::<Input>()).cast();
            let lifetime = lifetime_of(entry, root);
            let descriptor = match lifetime {
                Lifetime::Change => (*local).rd_att,
                // A separate copy, because the transaction counts references to the table's own descriptor.
                _ => pg_sys::CreateTupleDescCopyConstr((*local).rd_att),
            };
            match lifetime {
                Lifetime::Change => (),
                Lifetime::Transaction => {
                    pg_sys::MemoryContextSetParent((*estate).es_query_cxt, pg_sys::TopTransactionContext)
                }
                Lifetime::Process => pg_sys::MemoryContextSetParent((*estate).es_query_cxt, pg_sys::TopMemoryContext),
            }
            pg_sys::MemoryContextSwitchTo(previous);
            let indexes = (0..(*root).ri_NumIndices as usize).map(|place| index_of(root, place));
            let table = Box::new(OpenTable {
                relation,
                entry,
                estate,
                root,
                lifetime,
                may_batch: lifetime > Lifetime::Change && may_batch(entry, root),
                is_unique: indexes.clone().any(|index| (*(*index).rd_index).indisunique),
                inputs,
                defaults: None,
                finder: None,
                oid: (*local).rd_id,
                indexes: indexes.map(|index| (*index).rd_id).collect(),
                descriptor,
                virtual_slots: Slots::default(),
                table_slots: Slots::default(),
                held: Held::default(),
                allowed: (Oid::INVALID, 0),
                is_open: true,
                invalidations,
            });
            (table, user)
        }
    }

    fn owner(&self) -> Oid {
        // SAFETY: the table has been open and locked since, so its owner cannot change.
        unsafe { (*(*(*self.entry).localrel).rd_rel).relowner }
    }

    fn is_current(&self) -> bool {
        self.invalidations == INVALIDATIONS.get()
    }

    /// Opens the relations again in a new transaction, as the user who applies their changes. None: they have changed,
    /// and everything must be built anew.
    fn reopen(&mut self, apply_as: ApplyAs) -> Option<AppliesAs> {
        // SAFETY: within a transaction; taking a lock processes invalidations, so they are checked after it.
        unsafe {
            let Opened { entry, user } = logicalrep::open(self.relation, pg_sys::RowExclusiveLock, apply_as);
            self.entry = entry;
            self.is_open = true;
            let local = (*self.entry).localrel;
            (*self.root).ri_RelationDesc = local;
            if (*local).rd_id == self.oid && self.is_current() {
                for (place, index) in self.indexes.iter().enumerate() {
                    let opened = pg_sys::index_open(*index, pg_sys::RowExclusiveLock as i32);
                    *(*self.root).ri_IndexRelationDescs.add(place) = opened;
                }
                if self.is_current() {
                    return Some(user);
                }
            } else {
                // Only the table is open.
                (*self.root).ri_NumIndices = 0;
            }
            user.end();
            None
        }
    }

    /// Closes the relations. Their locks are kept until the transaction ends.
    fn close(&mut self) {
        // SAFETY: opened in `open` or `reopen`.
        unsafe {
            if let Some(Some(finder)) = &mut self.finder {
                finder.end_scan();
            }
            self.clear_slots();
            self.held.is_refused = false;
            pg_sys::ExecCloseIndices(self.root);
            logicalrep::close(self.entry);
        }
        self.is_open = false;
        self.allowed = (Oid::INVALID, 0);
    }

    fn close_and_free(mut self: Box<Self>) {
        if self.is_open {
            self.close();
        }
        // SAFETY: none of it is used afterwards.
        unsafe {
            pg_sys::ExecResetTupleTable((*self.estate).es_tupleTable, false);
            pg_sys::FreeExecutorState(self.estate);
        }
    }

    /// Whether triggers may be queued for the end of a change.
    pub(super) fn fires_triggers(&self) -> bool {
        self.lifetime == Lifetime::Change
    }

    pub(super) fn columns(&self) -> TupleColumns {
        // SAFETY: the entry is open, the executor state alive.
        unsafe {
            let context = (*self.estate).es_query_cxt;
            TupleColumns {
                map: (*self.entry).attrmap,
                sent_types: (*self.entry).remoterel.atttyps,
                inputs: Some(self.inputs),
                context,
            }
        }
    }

    /// Forgets which indexes the previous update left unchanged: the next one may change the keys of others.
    pub(super) fn forget_unchanged_indexes(&mut self) {
        for place in 0..self.indexes.len() {
            // SAFETY: an open table's indexes.
            unsafe { (**(*self.root).ri_IndexRelationInfo.add(place)).ii_CheckedUnchanged = false };
        }
    }

    /// Releases everything that belongs to the rows of the previous change.
    pub(super) fn clear(&mut self) {
        self.clear_slots();
        // SAFETY: the executor state is alive; the bitmap of changed columns is in a context that is emptied here.
        unsafe {
            let context = (*self.estate).es_per_tuple_exprcontext;
            if !context.is_null() {
                (*context).ecxt_scantuple = std::ptr::null_mut();
                pg_sys::MemoryContextReset((*context).ecxt_per_tuple_memory);
            }
            (*self.permissions()).updatedCols = std::ptr::null_mut();
        }
    }

    /// Finds the row with the key's values without locking it. None if [`Finder`] does not support the table's key.
    pub(super) fn find(&mut self, key: *mut pg_sys::TupleTableSlot, row: *mut pg_sys::TupleTableSlot) -> Option<bool> {
        if self.lifetime == Lifetime::Change {
            return None;
        }
        // SAFETY: an open table with open indexes, and slots of it.
        unsafe {
            let key_index = (*self.entry).localindexoid;
            let place = self.indexes.iter().position(|index| *index == key_index)?;
            let (table, index) = ((*self.root).ri_RelationDesc, index_of(self.root, place));
            let previous = pg_sys::MemoryContextSwitchTo((*self.estate).es_query_cxt);
            let info = *(*self.root).ri_IndexRelationInfo.add(place);
            let finder = self.finder.get_or_insert_with(|| Finder::new(table, index, info));
            let found = finder.as_mut().map(|finder| finder.find(table, index, key, row));
            pg_sys::MemoryContextSwitchTo(previous);
            found
        }
    }

    fn clear_slots(&mut self) {
        self.virtual_slots.clear();
        self.table_slots.clear();
    }

    /// A slot for values, valid until the change ends.
    pub(super) fn virtual_slot(&mut self) -> *mut pg_sys::TupleTableSlot {
        // SAFETY: an open table.
        self.virtual_slots.next(|| unsafe { new_slot(self.estate, self.descriptor, &pg_sys::TTSOpsVirtual) })
    }

    /// A slot for rows in the form in which the table stores them, valid until the change ends.
    pub(super) fn table_slot(&mut self) -> *mut pg_sys::TupleTableSlot {
        // SAFETY: an open table.
        self.table_slots.next(|| unsafe {
            let kind = pg_sys::table_slot_callbacks((*self.root).ri_RelationDesc);
            let slot = new_slot(self.estate, self.descriptor, kind);
            (*slot).tts_tableOid = self.oid;
            slot
        })
    }

    /// The permissions that are recorded for the only range table entry.
    pub(super) fn permissions(&self) -> *mut pg_sys::RTEPermissionInfo {
        // SAFETY: the executor state has one range table entry with its permissions.
        unsafe { (*(*(*self.estate).es_rteperminfos).elements).ptr_value.cast() }
    }

    /// Whether the privilege was found granted in this transaction. As in core, a revocation takes effect with the next
    /// lock that is taken.
    pub(super) fn is_allowed(&self, user: Oid, privilege: u32) -> bool {
        self.allowed.0 == user && self.allowed.1 & privilege != 0
    }

    pub(super) fn note_allowed(&mut self, user: Oid, privilege: u32) {
        let before = if self.allowed.0 == user { self.allowed.1 } else { 0 };
        self.allowed = (user, before | privilege);
    }
}

/// The open tables, by the sender's ids.
#[derive(Default)]
pub struct OpenTables {
    /// The table that was used last, so that it is found at once when it is used again.
    last: Option<Box<OpenTable>>,
    others: HashMap<u32, Box<OpenTable>>,
    /// The table whose rows are held back.
    holding: Option<u32>,
}

impl OpenTables {
    /// Whether another row for the table can be held together with the present ones.
    pub fn takes_more(&self, relation: u32) -> bool {
        self.holding == Some(relation) && self.last.as_ref().is_some_and(|table| !table.held.is_full())
    }

    /// The table whose rows are held back. The caller must store them from now on.
    pub fn take_holding(&mut self) -> Option<u32> {
        self.holding.take()
    }

    /// The table, open and locked, while this process acts as the user who applies its changes, until that is ended.
    /// Raises an ERROR if the table or one of its columns is missing.
    pub(super) fn take(&mut self, relation: u32, apply_as: ApplyAs) -> (Box<OpenTable>, AppliesAs) {
        let known = match self.last.take_if(|table| table.relation == relation) {
            Some(table) => Some(table),
            None => self.others.remove(&relation),
        };
        if let Some(mut table) = known {
            // Rows that it holds back depend on the present state of the entry, so they are stored before anything is
            // built anew.
            if table.is_open && (!table.held.is_empty() || table.is_current()) {
                let user = AppliesAs::begin(apply_as, table.owner());
                return (table, user);
            }
            if !table.is_open
                && table.is_current()
                && let Some(user) = table.reopen(apply_as)
            {
                return (table, user);
            }
            table.close_and_free();
        }
        let (table, user) = OpenTable::open(relation, apply_as);
        if table.lifetime == Lifetime::Change {
            // The table's triggers may run commands that need all tables closed, such as ALTER TABLE.
            self.close_all();
        }
        (table, user)
    }

    pub(super) fn give_back(&mut self, mut table: Box<OpenTable>) {
        if table.lifetime == Lifetime::Change {
            table.close_and_free();
        } else {
            table.clear();
            if !table.held.is_empty() {
                self.holding = Some(table.relation);
            }
            if let Some(before) = self.last.replace(table) {
                self.others.insert(before.relation, before);
            }
        }
    }

    /// Must be called before a commit. Tables of unlimited lifetime stay known. Held rows must have been stored.
    pub fn close_all(&mut self) {
        self.others.extend(self.last.take().map(|table| (table.relation, table)));
        let mut ended = Vec::new();
        for table in self.others.values_mut().filter(|table| table.is_open) {
            table.close();
            if table.lifetime != Lifetime::Process {
                ended.push(table.relation);
            }
        }
        for table in ended.iter().filter_map(|relation| self.others.remove(relation)) {
            table.close_and_free();
        }
    }

    /// Must be called before other code opens these tables.
    pub fn forget_all(&mut self) {
        for table in self.last.take().into_iter().chain(self.others.drain().map(|(_, table)| table)) {
            table.close_and_free();
        }
    }

    /// Must be called before the sender describes the table anew.
    pub fn forget(&mut self, relation: u32) {
        let known = self.last.take_if(|table| table.relation == relation).or_else(|| self.others.remove(&relation));
        if let Some(table) = known {
            table.close_and_free();
        }
    }
}

/// Makes the table the only entry of the executor state's range table. Allocates in the current memory context.
unsafe fn list_in_range_table(estate: *mut pg_sys::EState, local: pg_sys::Relation) {
    // SAFETY: the caller guarantees a new executor state and an open table.
    unsafe {
        let rte = new_node::<pg_sys::RangeTblEntry>(pg_sys::NodeTag::T_RangeTblEntry);
        (*rte).rtekind = pg_sys::RTEKind::RTE_RELATION;
        (*rte).relid = (*local).rd_id;
        (*rte).relkind = (*(*local).rd_rel).relkind;
        (*rte).rellockmode = pg_sys::AccessShareLock as i32;
        let mut permissions = std::ptr::null_mut();
        pg_sys::addRTEPermissionInfo(&mut permissions, rte);
        let tables = pg_sys::lappend(std::ptr::null_mut(), rte.cast());
        compat::exec_init_range_table(estate, tables, permissions);
    }
}

/// The table as the executor changes it, with its indexes open. Allocates in the current memory context.
unsafe fn new_result_relation(estate: *mut pg_sys::EState, local: pg_sys::Relation) -> *mut pg_sys::ResultRelInfo {
    // SAFETY: the caller guarantees an executor state whose range table has the table, and an open table.
    unsafe {
        let root = new_node::<pg_sys::ResultRelInfo>(pg_sys::NodeTag::T_ResultRelInfo);
        pg_sys::InitResultRelInfo(root, local, 1, std::ptr::null_mut(), 0);
        if !fires_any(root) {
            // The table is treated as one without triggers, because none of them would fire.
            (*root).ri_TrigDesc = std::ptr::null_mut();
        }
        // The executor has not opened the table, but it is listed, so that triggers find it.
        (*estate).es_opened_result_relations = pg_sys::lappend((*estate).es_opened_result_relations, root.cast());
        if (*(*local).rd_rel).relkind as u8 == pg_sys::RELKIND_RELATION {
            pg_sys::ExecOpenIndices(root, false);
        }
        root
    }
}

/// makeNode, which is a macro in C.
///
/// # Safety
/// `T` must be a node that begins with its tag.
pub(super) unsafe fn new_node<T>(tag: pg_sys::NodeTag) -> *mut T {
    // SAFETY: zeroed memory of the node's size, whose first field is its tag.
    unsafe {
        let node = pg_sys::palloc0(size_of::<T>());
        node.cast::<pg_sys::Node>().write(pg_sys::Node { type_: tag });
        node.cast()
    }
}
