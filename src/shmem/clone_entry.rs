//! Clones of this database's slot that belong to a recovery on another node, as the manager passes them to the pollers,
//! and what the targets of these recoveries answer.

use super::ShortName;
use crate::intent_id::IntentId;
use pgrx::pg_sys;

/// The clones of one database whose targets are asked at the same time. A target has one recovery at a time, and a
/// source that serves eight at once is in a cluster that has lost most of its nodes. Further clones wait until a place
/// is free.
pub const MAX_CLONES: usize = 8;

/// What the target says of the recovery that a clone belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum TargetSays {
    /// The target has not answered since it was first asked about this clone.
    Nothing,
    Unfinished,
    /// The recovery has ended, or the target knows of no such recovery. That is final, because a target commits its
    /// intent before it claims a clone.
    Ended,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct CloneEntry {
    pub slot: ShortName,
    pub intent: IntentId,
    /// The target's foreign server; invalid: the place is free.
    pub target: pg_sys::Oid,
    pub says: TargetSays,
}

impl CloneEntry {
    pub const FREE: CloneEntry = CloneEntry {
        slot: ShortName::EMPTY,
        intent: IntentId([0; 16]),
        target: pg_sys::InvalidOid,
        says: TargetSays::Nothing,
    };

    pub fn is_of(&self, slot: &str, intent: IntentId) -> bool {
        self.target != pg_sys::InvalidOid && self.slot.as_str() == slot && self.intent == intent
    }
}
