//! Clones that belong to a recovery elsewhere, as the manager tells the pollers of them, and what their targets say.

use super::ShortName;
use crate::intent_id::IntentId;
use pgrx::pg_sys;

/// Clones of one database whose targets are asked at a time. A target has one recovery at a time, and a source that
/// serves eight at once has lost most of its cluster; those beyond wait until a place is free.
pub const MAX_CLONES: usize = 8;

/// What the target of a clone says of the recovery that the clone belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum TargetSays {
    /// It has not answered since it is asked.
    Nothing,
    Unfinished,
    /// It has ended, or the target knows of none: that is final, for a target commits its intent before it claims a clone.
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
