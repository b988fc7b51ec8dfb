//! Shared memory: one entry per database with the extension, its slot, origins and peers, and what wakes the launcher.
//!
//! Laid out once at start-up by `spock.max_databases` and `spock.max_peers`. One lightweight lock guards all of it:
//! entries are copied out or changed in a few instructions, and nothing that can raise an ERROR runs under the lock.
//! After a crash of any process the postmaster lays it out anew, so an entry's pid is always that of a living
//! process or of one that is just leaving.
#![allow(unsafe_code)]

use crate::guc;
use crate::lsn::{LocalLsn, OriginLsn};
use crate::pg::clock::Timestamp;
use crate::pg::guarded;
use crate::pg::lwlock::LwLockGuard;
use crate::pg::process;
use pgrx::pg_sys;
use std::cell::Cell;
use std::ffi::CStr;

const NAME: &CStr = c"spock_recovery";

/// Databases whose CREATE EXTENSION the launcher has not seen yet. When they do not fit it looks at every database.
const MAX_WAKES: usize = 32;

/// Sessions that run DROP DATABASE, RENAME or CREATE DATABASE at the same moment. A session beyond that runs into
/// PostgreSQL's own "is being accessed by other users" if the manager does not leave in time.
const MAX_STAND_ASIDES: usize = 32;

/// Bytes of an error message that are kept for a peer.
const MAX_ERROR: usize = 255;

#[repr(C)]
struct Header {
    launcher_pid: i32,
    wake_all: bool,
    wake_count: u32,
    wakes: [pg_sys::Oid; MAX_WAKES],
    stand_asides: [StandAside; MAX_STAND_ASIDES],
}

/// A session that needs a database free of workers.
#[repr(C)]
#[derive(Clone, Copy)]
struct StandAside {
    database: pg_sys::Oid,
    /// Zero: the place is free. A session that died holding it is found by its pid.
    session_pid: i32,
}

/// What the launcher and the manager of a database tell each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Phase {
    /// Nobody's.
    Free,
    /// The launcher has registered a manager, which has not come up yet.
    Starting,
    /// A manager is up, and has not yet seen whether the extension is there.
    Looking,
    /// A manager runs, in a database with the extension.
    Running,
    /// The manager has ended; the launcher has not taken note of it yet.
    Ended,
    /// The manager has left because a session needs the database free: no failure.
    StoodAside,
    /// The launcher has taken note, and starts another manager when it is time. Pollers go on meanwhile.
    Waiting,
    /// The manager has found no extension: the launcher frees the entry.
    NoExtension,
    /// The manager has found the extension, but only in the spare entry.
    NoRoom,
}

/// One database. The last entry of all is a spare one: a database beyond spock.max_databases is looked at there, so
/// that only one that has the extension is complained about.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct DatabaseEntry {
    pub database: pg_sys::Oid,
    pub phase: Phase,
    pub manager_pid: i32,
    pub started_at: Timestamp,
    /// Counts the calls of the manager: one that comes while it works must not be lost with its latch, which a wait for a
    /// lock resets.
    pub calls: u32,
    pub slot: SlotEntry,
}

/// What the slot worker of a database is to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub enum SlotJob {
    Nothing,
    Create,
    /// To this position of this server's WAL.
    Advance(LocalLsn),
    /// Acquire and release, so that the slot does not count as idle.
    Touch,
    Drop,
}

/// Why the slot does not advance.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum BlockedReason {
    None,
    PeerUnreachable,
    PeerLagging,
    PeerUnknown,
    NoSample,
    RescueInProgress,
    OpenTransaction,
    SlotCreationPending,
    BudgetExceeded,
    Disabled,
}

impl BlockedReason {
    /// The word for it in get_recovery_slot_status() and recovery_horizon(); None if nothing blocks.
    pub fn as_str(self) -> Option<&'static str> {
        match self {
            BlockedReason::None => None,
            BlockedReason::PeerUnreachable => Some("peer_unreachable"),
            BlockedReason::PeerLagging => Some("peer_lagging"),
            BlockedReason::PeerUnknown => Some("peer_unknown"),
            BlockedReason::NoSample => Some("no_sample"),
            BlockedReason::RescueInProgress => Some("rescue_in_progress"),
            BlockedReason::OpenTransaction => Some("open_transaction"),
            BlockedReason::SlotCreationPending => Some("slot_creation_pending"),
            BlockedReason::BudgetExceeded => Some("budget_exceeded"),
            BlockedReason::Disabled => Some("disabled"),
        }
    }
}

/// The recovery slot of a database.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct SlotEntry {
    /// The slot worker, and what it was started for. It resets the job when it is done.
    pub worker_pid: i32,
    pub job: SlotJob,
    pub job_ended_at: Timestamp,
    /// How often a job has failed in a row, and why the last one did.
    pub failures: u32,
    pub error: ShortText,
    /// Requests by hand are counted; an answer answers all up to its number.
    pub requested: u32,
    pub answered: u32,
    /// What will be answered in the round after the job under way.
    pub serving: u32,
    /// What the manager has seen and decided last.
    pub name: ShortName,
    pub exists: bool,
    pub is_usable: bool,
    pub in_recovery: bool,
    pub generation: u64,
    pub blocked: BlockedReason,
    /// The peer that blocks, by its foreign server; invalid: none.
    pub blocked_by: pg_sys::Oid,
    pub min_unacknowledged_at: Timestamp,
    pub wal_bytes_per_s: f64,
}

/// An origin of a database, as the manager has seen it last.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct OriginEntry {
    /// The node's foreign server; invalid: the place is free.
    pub node: pg_sys::Oid,
    pub subscription: pg_sys::Oid,
    pub own: OriginLsn,
    pub released: OriginLsn,
    /// When this server last applied a transaction of it, as far as commit timestamps tell.
    pub committed_at: Timestamp,
    pub blocked: BlockedReason,
}

/// What a peer has said of an origin, and what the manager makes of it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct PositionEntry {
    /// The origin's foreign server here; invalid: the place is free.
    pub origin: pg_sys::Oid,
    /// The subscription and the replication origin at the peer.
    pub subscription: u32,
    pub origin_id: u16,
    pub is_ready: bool,
    pub applied: OriginLsn,
    pub passed: OriginLsn,
    pub committed_at: Timestamp,
    /// By the manager: what counts as passed (the peer may have forgotten what it once reported), and how far it lets the
    /// slot go.
    pub counted: OriginLsn,
    pub local: LocalLsn,
    pub blocked: BlockedReason,
}

/// What a poller is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub enum PeerKey {
    None,
    /// A peer with a node: its foreign server.
    Node(pg_sys::Oid),
    /// A subscription of which nobody knows yet which node it comes from.
    Subscription(pg_sys::Oid),
}

/// How a poller fares.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum PeerState {
    /// Not asked yet.
    Unknown,
    Connecting,
    /// It has answered, and is known by name.
    Connected,
    /// Reached, but the answer is of no use; `error` says why (no extension, no local node).
    NotANode,
    /// Reached, but it is another node than the one that it is taken for.
    OtherNode,
    Unreachable,
}

impl PeerState {
    /// The word for it in spock.peer_status().
    pub fn as_str(self) -> &'static str {
        match self {
            PeerState::Unknown => "unknown",
            PeerState::Connecting => "connecting",
            PeerState::Connected => "connected",
            PeerState::NotANode => "not a node",
            PeerState::OtherNode => "other node",
            PeerState::Unreachable => "unreachable",
        }
    }
}

/// One peer of one database.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct PeerEntry {
    pub key: PeerKey,
    pub state: PeerState,
    pub poller_pid: i32,
    /// When the manager last registered a poller for it, and how often one ended at once since.
    pub started_at: Timestamp,
    pub failures: u32,
    /// A poller was registered at `started_at` and has not come up yet.
    pub is_coming_up: bool,
    /// When the present question was asked, and when the last one was answered.
    pub asked_at: Timestamp,
    pub answered_at: Timestamp,
    /// When the peer last said who it is.
    pub last_contact_at: Timestamp,
    /// What the peer says it is.
    pub node_name: ShortName,
    pub system_identifier: u64,
    pub database: u32,
    pub error: ShortText,
    pub timeline: u32,
    /// The end of its WAL.
    pub wal_end: OriginLsn,
    /// When it last told its positions; what follows is of that moment.
    pub reported_at: Timestamp,
    /// It has a subscription of which it does not know the origin: anything may still be needed.
    pub has_unknown_origin: bool,
    /// The subscription here that comes from it, and how far its slot there was confirmed.
    pub own_subscription: pg_sys::Oid,
    pub own_confirmed: OriginLsn,
    /// By the manager: it was given up for the retention budget.
    pub is_unprotected: bool,
}

/// A message, cut to what fits.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ShortText {
    length: u8,
    bytes: [u8; MAX_ERROR],
}

impl ShortText {
    pub const EMPTY: ShortText = ShortText { length: 0, bytes: [0; MAX_ERROR] };

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.length)]).unwrap_or_default()
    }

    pub fn set(&mut self, text: &str) {
        let end = text.floor_char_boundary(MAX_ERROR);
        self.bytes[..end].copy_from_slice(&text.as_bytes()[..end]);
        self.length = end as u8;
    }
}

/// A name of at most 63 bytes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ShortName {
    length: u8,
    bytes: [u8; 63],
}

impl ShortName {
    pub const EMPTY: ShortName = ShortName { length: 0, bytes: [0; 63] };

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.length)]).unwrap_or_default()
    }

    pub fn set(&mut self, name: &str) {
        let end = name.floor_char_boundary(self.bytes.len());
        self.bytes[..end].copy_from_slice(&name.as_bytes()[..end]);
        self.length = end as u8;
    }
}

impl SlotEntry {
    const FREE: SlotEntry = SlotEntry {
        worker_pid: 0,
        job: SlotJob::Nothing,
        job_ended_at: Timestamp::NEVER,
        failures: 0,
        error: ShortText::EMPTY,
        requested: 0,
        answered: 0,
        serving: 0,
        name: ShortName::EMPTY,
        exists: false,
        is_usable: false,
        in_recovery: false,
        generation: 0,
        blocked: BlockedReason::None,
        blocked_by: pg_sys::InvalidOid,
        min_unacknowledged_at: Timestamp::NEVER,
        wal_bytes_per_s: 0.0,
    };

    /// A job has failed. That answers who has asked for it: the next try waits as after any failure.
    pub fn note_failure(&mut self) {
        self.failures = self.failures.saturating_add(1);
        self.job_ended_at = Timestamp::now();
        (self.serving, self.answered) = (self.requested, self.requested);
    }
}

impl OriginEntry {
    pub const FREE: OriginEntry = OriginEntry {
        node: pg_sys::InvalidOid,
        subscription: pg_sys::InvalidOid,
        own: OriginLsn::ZERO,
        released: OriginLsn::INFINITY,
        committed_at: Timestamp::NEVER,
        blocked: BlockedReason::None,
    };
}

impl PositionEntry {
    pub const FREE: PositionEntry = PositionEntry {
        origin: pg_sys::InvalidOid,
        subscription: 0,
        origin_id: 0,
        is_ready: false,
        applied: OriginLsn::ZERO,
        passed: OriginLsn::ZERO,
        committed_at: Timestamp::NEVER,
        counted: OriginLsn::ZERO,
        local: LocalLsn::ZERO,
        blocked: BlockedReason::None,
    };
}

impl DatabaseEntry {
    const FREE: DatabaseEntry = DatabaseEntry {
        database: pg_sys::InvalidOid,
        phase: Phase::Free,
        manager_pid: 0,
        started_at: Timestamp::NEVER,
        calls: 0,
        slot: SlotEntry::FREE,
    };
}

impl PeerEntry {
    pub const FREE: PeerEntry = PeerEntry {
        key: PeerKey::None,
        state: PeerState::Unknown,
        poller_pid: 0,
        started_at: Timestamp::NEVER,
        failures: 0,
        is_coming_up: false,
        asked_at: Timestamp::NEVER,
        answered_at: Timestamp::NEVER,
        last_contact_at: Timestamp::NEVER,
        node_name: ShortName::EMPTY,
        system_identifier: 0,
        database: 0,
        error: ShortText::EMPTY,
        timeline: 0,
        wal_end: OriginLsn::ZERO,
        reported_at: Timestamp::NEVER,
        has_unknown_origin: false,
        own_subscription: pg_sys::InvalidOid,
        own_confirmed: OriginLsn::ZERO,
        is_unprotected: false,
    };

    /// An entry for a peer that was not asked yet.
    pub fn new(key: PeerKey) -> PeerEntry {
        PeerEntry { key, ..PeerEntry::FREE }
    }
}

thread_local! {
    static BASE: Cell<*mut Header> = const { Cell::new(std::ptr::null_mut()) };
    static PREVIOUS_REQUEST: Cell<pg_sys::shmem_request_hook_type> = const { Cell::new(None) };
    static PREVIOUS_STARTUP: Cell<pg_sys::shmem_startup_hook_type> = const { Cell::new(None) };
}

fn entry_count() -> usize {
    guc::max_databases() + 1
}

/// Index of the spare entry.
pub fn spare_entry() -> usize {
    guc::max_databases()
}

fn databases_offset() -> usize {
    size_of::<Header>().next_multiple_of(align_of::<DatabaseEntry>())
}

fn peers_offset() -> usize {
    (databases_offset() + entry_count() * size_of::<DatabaseEntry>()).next_multiple_of(align_of::<PeerEntry>())
}

fn origins_offset() -> usize {
    (peers_offset() + peer_count() * size_of::<PeerEntry>()).next_multiple_of(align_of::<OriginEntry>())
}

fn positions_offset() -> usize {
    (origins_offset() + peer_count() * size_of::<OriginEntry>()).next_multiple_of(align_of::<PositionEntry>())
}

fn total_size() -> usize {
    positions_offset() + peer_count() * guc::max_peers() * size_of::<PositionEntry>()
}

/// Places for peers over all databases; there are as many for origins, which are peers too.
fn peer_count() -> usize {
    entry_count() * guc::max_peers()
}

/// Takes the hooks by which the postmaster reserves and lays out shared memory.
pub fn register() {
    // SAFETY: called in the postmaster's _PG_init; the previous hooks are kept and called.
    unsafe {
        PREVIOUS_REQUEST.set(pg_sys::shmem_request_hook);
        pg_sys::shmem_request_hook = Some(request);
        PREVIOUS_STARTUP.set(pg_sys::shmem_startup_hook);
        pg_sys::shmem_startup_hook = Some(startup);
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn request() {
    if let Some(previous) = PREVIOUS_REQUEST.get() {
        // SAFETY: another library's hook, called as core would.
        unsafe { guarded!(previous()) };
    }
    // SAFETY: within shmem_request_hook, where these are allowed.
    unsafe {
        pg_sys::RequestAddinShmemSpace(total_size());
        pg_sys::RequestNamedLWLockTranche(NAME.as_ptr(), 1);
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn startup() {
    if let Some(previous) = PREVIOUS_STARTUP.get() {
        // SAFETY: another library's hook, called as core would.
        unsafe { guarded!(previous()) };
    }
    let mut found = false;
    // SAFETY: core calls this under its own lock on shared memory's index; the segment has the size that was requested,
    // and is aligned to the largest alignment (ShmemAlloc: a cache line).
    unsafe {
        let base = pg_sys::ShmemInitStruct(NAME.as_ptr(), total_size(), &mut found).cast::<u8>();
        BASE.set(base.cast());
        if !found {
            base.cast::<Header>().write(Header {
                launcher_pid: 0,
                wake_all: false,
                wake_count: 0,
                wakes: [pg_sys::InvalidOid; MAX_WAKES],
                stand_asides: [StandAside { database: pg_sys::InvalidOid, session_pid: 0 }; MAX_STAND_ASIDES],
            });
            fill(base.add(databases_offset()), entry_count(), DatabaseEntry::FREE);
            fill(base.add(peers_offset()), peer_count(), PeerEntry::FREE);
            fill(base.add(origins_offset()), peer_count(), OriginEntry::FREE);
            fill(base.add(positions_offset()), peer_count() * guc::max_peers(), PositionEntry::FREE);
        }
    }
}

/// # Safety
/// `base` must be aligned for `T`, with room for `count` of them.
unsafe fn fill<T: Copy>(base: *mut u8, count: usize, value: T) {
    for index in 0..count {
        // SAFETY: within the room that the caller vouches for.
        unsafe { base.cast::<T>().add(index).write(value) };
    }
}

/// Shared memory, locked against everybody else. Hold it for a few instructions, and raise nothing meanwhile.
pub struct Shared {
    base: *mut Header,
    _lock: LwLockGuard,
}

pub fn lock() -> Shared {
    let base = BASE.get();
    assert!(!base.is_null(), "spock_recovery's shared memory is not attached");
    // SAFETY: the tranche was requested; one lock, which nobody takes twice (a Shared never escapes its function).
    let lock = unsafe {
        let lock = &raw mut (*pg_sys::GetNamedLWLockTranche(NAME.as_ptr())).lock;
        LwLockGuard::acquire(lock, pg_sys::LWLockMode::LW_EXCLUSIVE)
    };
    Shared { base, _lock: lock }
}

impl Shared {
    fn header(&mut self) -> &mut Header {
        // SAFETY: laid out at start-up; exclusive while the lock is held.
        unsafe { &mut *self.base }
    }

    /// All databases' entries, the spare one last.
    pub fn databases(&mut self) -> &mut [DatabaseEntry] {
        // SAFETY: as laid out in `startup`; exclusive while the lock is held.
        unsafe {
            let first = self.base.cast::<u8>().add(databases_offset()).cast::<DatabaseEntry>();
            std::slice::from_raw_parts_mut(first, entry_count())
        }
    }

    /// The peers of the database at `index`.
    pub fn peers(&mut self, index: usize) -> &mut [PeerEntry] {
        assert!(index < entry_count());
        // SAFETY: as laid out in `startup`; exclusive while the lock is held.
        unsafe {
            let first = self.base.cast::<u8>().add(peers_offset()).cast::<PeerEntry>();
            std::slice::from_raw_parts_mut(first.add(index * guc::max_peers()), guc::max_peers())
        }
    }

    /// The origins of the database at `index`.
    pub fn origins(&mut self, index: usize) -> &mut [OriginEntry] {
        assert!(index < entry_count());
        // SAFETY: as laid out in `startup`; exclusive while the lock is held.
        unsafe {
            let first = self.base.cast::<u8>().add(origins_offset()).cast::<OriginEntry>();
            std::slice::from_raw_parts_mut(first.add(index * guc::max_peers()), guc::max_peers())
        }
    }

    /// What the peer `peer` of the database at `index` has said of each origin.
    pub fn positions(&mut self, index: usize, peer: usize) -> &mut [PositionEntry] {
        assert!(index < entry_count() && peer < guc::max_peers());
        // SAFETY: as laid out in `startup`; exclusive while the lock is held.
        unsafe {
            let first = self.base.cast::<u8>().add(positions_offset()).cast::<PositionEntry>();
            let offset = (index * guc::max_peers() + peer) * guc::max_peers();
            std::slice::from_raw_parts_mut(first.add(offset), guc::max_peers())
        }
    }

    /// The entry of a database, by its oid.
    pub fn index_of(&mut self, database: pg_sys::Oid) -> Option<usize> {
        self.databases().iter().position(|entry| entry.phase != Phase::Free && entry.database == database)
    }

    /// Takes an entry for a database: a free one, else the spare one. None if that is in use too.
    pub fn take_entry(&mut self, database: pg_sys::Oid) -> Option<usize> {
        let index = self.databases().iter().position(|entry| entry.phase == Phase::Free)?;
        self.free_entry(index);
        let entry = &mut self.databases()[index];
        entry.database = database;
        entry.phase = Phase::Starting;
        Some(index)
    }

    /// Entries that are neither free nor of a manager that has found its extension: databases that are being looked at,
    /// until the look's worker slot is free again.
    pub fn looks(&mut self) -> usize {
        let is_look = |entry: &&DatabaseEntry| !matches!(entry.phase, Phase::Free | Phase::Running | Phase::Waiting);
        self.databases().iter().filter(is_look).count()
    }

    pub fn free_entry(&mut self, index: usize) {
        self.databases()[index] = DatabaseEntry::FREE;
        self.peers(index).fill(PeerEntry::FREE);
        self.origins(index).fill(OriginEntry::FREE);
        for peer in 0..guc::max_peers() {
            self.positions(index, peer).fill(PositionEntry::FREE);
        }
    }

    /// Notes that the manager has something to do; its pid, to be woken after the lock was released.
    pub fn call_manager(&mut self, index: usize) -> i32 {
        let entry = &mut self.databases()[index];
        entry.calls = entry.calls.wrapping_add(1);
        entry.manager_pid
    }

    pub fn set_launcher(&mut self, pid: i32) {
        self.header().launcher_pid = pid;
    }

    pub fn launcher(&mut self) -> i32 {
        self.header().launcher_pid
    }

    /// Leaves a note that the extension may have come to a database.
    pub fn ask_to_look_at(&mut self, database: pg_sys::Oid) {
        let header = self.header();
        let count = header.wake_count as usize;
        if header.wakes[..count].contains(&database) {
            return;
        }
        if count == MAX_WAKES {
            header.wake_all = true;
        } else {
            header.wakes[count] = database;
            header.wake_count += 1;
        }
    }

    /// The databases of those notes, and whether there were too many to note.
    pub fn take_asked(&mut self) -> (Vec<pg_sys::Oid>, bool) {
        let header = self.header();
        let asked = header.wakes[..header.wake_count as usize].to_vec();
        header.wake_count = 0;
        (asked, std::mem::take(&mut header.wake_all))
    }

    /// Keeps workers away from a database until [`Shared::stop_standing_aside`]. False if there is no room for that.
    pub fn stand_aside(&mut self, database: pg_sys::Oid, session_pid: i32) -> bool {
        let places = &mut self.header().stand_asides;
        if places.iter().any(|place| place.session_pid == session_pid && place.database == database) {
            return true;
        }
        let free = places.iter_mut().find(|place| place.session_pid == 0);
        free.is_some_and(|place| {
            *place = StandAside { database, session_pid };
            true
        })
    }

    pub fn stop_standing_aside(&mut self, session_pid: i32) {
        for place in &mut self.header().stand_asides {
            if place.session_pid == session_pid {
                place.session_pid = 0;
            }
        }
    }

    /// Whether a session, still alive, needs the database free.
    pub fn must_stand_aside(&mut self, database: pg_sys::Oid) -> bool {
        self.header().stand_asides.iter_mut().any(|place| {
            if place.session_pid == 0 || place.database != database {
                return false;
            }
            if !process::is_backend(place.session_pid) {
                place.session_pid = 0;
                return false;
            }
            true
        })
    }

    /// The processes that work in a database: manager, slot worker and pollers.
    pub fn workers_of(&mut self, database: pg_sys::Oid) -> Vec<i32> {
        let mut pids = Vec::new();
        for index in 0..entry_count() {
            let entry = self.databases()[index];
            if entry.phase == Phase::Free || entry.database != database {
                continue;
            }
            pids.push(entry.manager_pid);
            pids.push(entry.slot.worker_pid);
            pids.extend(self.peers(index).iter().map(|peer| peer.poller_pid));
        }
        pids.retain(|pid| *pid != 0);
        pids
    }
}
