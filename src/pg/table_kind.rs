//! What the definition of a table allows when changes are applied to it: how long what was built for it may be used,
//! whether its triggers fire, and whether rows may be stored together (utils/rel.h, nodes/execnodes.h).

use super::compat;
use super::logicalrep::RelMapEntry;
use pgrx::pg_sys;

/// How long the objects that were opened and built for a table may be used.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Lifetime {
    /// Until the change ends: triggers, partitions and generated columns depend on it.
    Change,
    /// Until the transaction ends: expressions of users are prepared, and a function in them may be replaced at any
    /// time.
    Transaction,
    /// Until the relation cache reports a change.
    Process,
}

pub(super) unsafe fn index_of(root: *mut pg_sys::ResultRelInfo, place: usize) -> pg_sys::Relation {
    // SAFETY: the caller guarantees one of the open indexes.
    unsafe { *(*root).ri_IndexRelationDescs.add(place) }
}

/// Whether any trigger of the table fires for changes that a replica applies.
pub(super) unsafe fn fires_any(root: *mut pg_sys::ResultRelInfo) -> bool {
    // SAFETY: the caller guarantees an open table; its triggers are an array of that length.
    unsafe {
        let triggers = (*root).ri_TrigDesc;
        if triggers.is_null() {
            return false;
        }
        let is_replica = pg_sys::SessionReplicationRole == pg_sys::SESSION_REPLICATION_ROLE_REPLICA as i32;
        let fires = |kind: u8| kind == b'A' || kind == b'R';
        !is_replica
            || (0..(*triggers).numtriggers as usize).any(|i| fires((*(*triggers).triggers.add(i)).tgenabled as u8))
    }
}

pub(super) unsafe fn lifetime_of(entry: *mut RelMapEntry, root: *mut pg_sys::ResultRelInfo) -> Lifetime {
    // SAFETY: the caller guarantees an open table with open indexes.
    unsafe {
        let table = (*entry).localrel;
        let constraints = (*(*table).rd_att).constr;
        if (*(*table).rd_rel).relkind as u8 != pg_sys::RELKIND_RELATION
            || (*(*table).rd_rel).relispartition
            || !(*root).ri_TrigDesc.is_null()
            || (!constraints.is_null() && compat::has_generated_columns(constraints))
        {
            return Lifetime::Change;
        }
        let is_simple = |place: usize| {
            let info = *(*root).ri_IndexRelationInfo.add(place);
            (*info).ii_Am == pg_sys::BTREE_AM_OID
                && (*info).ii_Expressions.is_null()
                && (*info).ii_Predicate.is_null()
                && (*info).ii_ExclusionOps.is_null()
        };
        let has_expressions = has_own_columns(entry)
            || (!constraints.is_null() && (*constraints).num_check > 0)
            || !(0..(*root).ri_NumIndices as usize).all(is_simple);
        if has_expressions { Lifetime::Transaction } else { Lifetime::Process }
    }
}

/// Whether there are columns that the sender does not have, whose defaults must be computed.
unsafe fn has_own_columns(entry: *mut RelMapEntry) -> bool {
    // SAFETY: the caller guarantees an open entry.
    unsafe { (*(*(*entry).localrel).rd_att).natts != (*entry).remoterel.natts }
}

pub(super) unsafe fn may_batch(entry: *mut RelMapEntry, root: *mut pg_sys::ResultRelInfo) -> bool {
    // SAFETY: the caller guarantees an open table with open indexes.
    unsafe {
        let constraints = (*(*(*entry).localrel).rd_att).constr;
        let is_plain_check = |place: usize| {
            let text = (*(*constraints).check.add(place)).ccbin;
            !pg_sys::contain_mutable_functions(pg_sys::stringToNode(text).cast())
        };
        let is_plain_index = |place: usize| {
            let (index, info) = (index_of(root, place), *(*root).ri_IndexRelationInfo.add(place));
            (*info).ii_ExclusionOps.is_null()
                && (!(*info).ii_Unique || (*(*index).rd_index).indimmediate)
                // Such an index keeps a page pinned from one row to the next, which does not survive the end of a
                // subtransaction.
                && (*(*index).rd_indam).aminsertcleanup.is_none()
        };
        !has_own_columns(entry)
            && (constraints.is_null() || (0..(*constraints).num_check as usize).all(is_plain_check))
            && (0..(*root).ri_NumIndices as usize).all(is_plain_index)
    }
}
