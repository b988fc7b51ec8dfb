//! The entry of a database, which the launcher and the manager share.

use super::{
    AskerEntry, CloneEntry, ComparisonEntry, MAX_ASKERS, MAX_CLONES, MAX_PINS, PinEntry, RescueEntry, ShortText,
    SlotEntry,
};
use crate::pg::clock::Monotonic;
use pgrx::pg_sys;

/// How far the manager of a database is. The launcher and the manager inform each other by this.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum ManagerPhase {
    /// The entry is free.
    Free,
    /// The launcher has registered a manager that has not started yet.
    Starting,
    /// A manager has started, and does not know yet whether the database has the extension.
    Looking,
    /// A manager runs in a database with the extension.
    Running,
    /// The manager has ended, and the launcher has not noticed it yet.
    Ended,
    /// The manager has exited because a session needs the database without workers. This is no failure.
    StoodAside,
    /// The launcher has noticed the end, and will start another manager when it is time. Pollers continue meanwhile.
    Waiting,
    /// The manager has found no extension, and the launcher will free the entry.
    NoExtension,
    /// The manager has found the extension, but it has only the spare entry.
    NoRoom,
}

/// How many workers may copy tables into one database at the same time.
pub const MAX_COPIERS: usize = 16;

/// One database. The last entry is a spare one, for a look at a database beyond spock.max_databases: the launcher then
/// warns only of a database that has the extension.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct DatabaseEntry {
    pub database: pg_sys::Oid,
    pub phase: ManagerPhase,
    pub manager_pid: i32,
    /// When the launcher last registered a manager.
    pub started_at: Monotonic,
    /// Counts the calls of the manager. Its latch alone is not enough: a wait for a lock resets the latch, so that a
    /// call during the manager's work would be lost.
    pub calls: u32,
    pub manager: ManagerEntry,
    pub slot: SlotEntry,
    pub rescue: RescueEntry,
    pub comparison: ComparisonEntry,
    pub clones: [CloneEntry; MAX_CLONES],
    pub pins: [PinEntry; MAX_PINS],
    /// The pids of the workers that copy tables; zero: the place is free.
    pub copiers: [i32; MAX_COPIERS],
    pub askers: [AskerEntry; MAX_ASKERS],
}

impl DatabaseEntry {
    pub const FREE: DatabaseEntry = DatabaseEntry {
        database: pg_sys::InvalidOid,
        phase: ManagerPhase::Free,
        manager_pid: 0,
        started_at: Monotonic::NEVER,
        calls: 0,
        manager: ManagerEntry::FREE,
        slot: SlotEntry::FREE,
        rescue: RescueEntry::FREE,
        comparison: ComparisonEntry::FREE,
        clones: [CloneEntry::FREE; MAX_CLONES],
        pins: [PinEntry::FREE; MAX_PINS],
        copiers: [0; MAX_COPIERS],
        askers: [AskerEntry::FREE; MAX_ASKERS],
    };
}

/// What the manager of a database has noted of its own rounds.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ManagerEntry {
    /// When the manager last finished a round in which it saw everything that it could read.
    pub good_round_at: Monotonic,
    /// How many objects the manager skipped in its last round because of an error; at least 1 if the round itself
    /// failed.
    pub skips: u32,
    /// The first of these objects with the reason, or why the round failed.
    pub skipped: ShortText,
    /// How many restore points by spock.restore_point_interval were not made since the last one that was.
    pub points_failed: u32,
    /// Why the last of these was not.
    pub point_failure: ShortText,
}

impl ManagerEntry {
    pub const FREE: ManagerEntry = ManagerEntry {
        good_round_at: Monotonic::NEVER,
        skips: 0,
        skipped: ShortText::EMPTY,
        points_failed: 0,
        point_failure: ShortText::EMPTY,
    };
}
