//! Shared memory: one entry per database with the extension, one per peer of each, and what wakes the launcher.
//!
//! Laid out once at start-up by `spock.max_databases` and `spock.max_peers`. One lightweight lock guards all of it:
//! entries are copied out or changed in a few instructions, and nothing that can raise an ERROR runs under the lock.
//! After a crash of any process the postmaster lays it out anew, so an entry's pid is always that of a living
//! process or of one that is just leaving.
#![allow(unsafe_code)]

use crate::guc;
use crate::pg::clock::Timestamp;
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
    pub node_name: pg_sys::NameData,
    pub system_identifier: u64,
    pub database: u32,
    error_length: u8,
    error: [u8; MAX_ERROR],
}

impl DatabaseEntry {
    const FREE: DatabaseEntry = DatabaseEntry {
        database: pg_sys::InvalidOid,
        phase: Phase::Free,
        manager_pid: 0,
        started_at: Timestamp::NEVER,
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
        node_name: pg_sys::NameData { data: [0; 64] },
        system_identifier: 0,
        database: 0,
        error_length: 0,
        error: [0; MAX_ERROR],
    };

    /// An entry for a peer that was not asked yet.
    pub fn new(key: PeerKey) -> PeerEntry {
        PeerEntry { key, ..PeerEntry::FREE }
    }

    pub fn error(&self) -> &str {
        std::str::from_utf8(&self.error[..usize::from(self.error_length)]).unwrap_or_default()
    }

    pub fn set_error(&mut self, message: &str) {
        let end = message.floor_char_boundary(MAX_ERROR);
        self.error[..end].copy_from_slice(&message.as_bytes()[..end]);
        self.error_length = end as u8;
    }

    pub fn node_name(&self) -> &str {
        let length = self
            .node_name
            .data
            .iter()
            .position(|byte| *byte == 0)
            .unwrap_or(self.node_name.data.len());
        // SAFETY: c_char and u8 have the same layout; the length is within the array.
        let bytes = unsafe { std::slice::from_raw_parts(self.node_name.data.as_ptr().cast::<u8>(), length) };
        std::str::from_utf8(bytes).unwrap_or_default()
    }

    /// Keeps the name, if it is one that a node can have.
    pub fn set_node_name(&mut self, name: &str) {
        self.node_name = pg_sys::NameData { data: [0; 64] };
        let end = name.floor_char_boundary(self.node_name.data.len() - 1);
        for (to, from) in self.node_name.data.iter_mut().zip(&name.as_bytes()[..end]) {
            *to = *from as core::ffi::c_char;
        }
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

fn total_size() -> usize {
    peers_offset() + entry_count() * guc::max_peers() * size_of::<PeerEntry>()
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
        unsafe { pg_sys::ffi::pg_guard_ffi_boundary(|| previous()) };
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
        unsafe { pg_sys::ffi::pg_guard_ffi_boundary(|| previous()) };
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
                stand_asides: [StandAside {
                    database: pg_sys::InvalidOid,
                    session_pid: 0,
                }; MAX_STAND_ASIDES],
            });
            for index in 0..entry_count() {
                base.add(databases_offset())
                    .cast::<DatabaseEntry>()
                    .add(index)
                    .write(DatabaseEntry::FREE);
            }
            for index in 0..entry_count() * guc::max_peers() {
                base.add(peers_offset())
                    .cast::<PeerEntry>()
                    .add(index)
                    .write(PeerEntry::FREE);
            }
        }
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

    /// The entry of a database, by its oid.
    pub fn index_of(&mut self, database: pg_sys::Oid) -> Option<usize> {
        self.databases()
            .iter()
            .position(|entry| entry.phase != Phase::Free && entry.database == database)
    }

    /// Takes an entry for a database: a free one, else the spare one. None if that is in use too.
    pub fn take_entry(&mut self, database: pg_sys::Oid) -> Option<usize> {
        let index = self.databases().iter().position(|entry| entry.phase == Phase::Free)?;
        self.databases()[index] = DatabaseEntry {
            database,
            phase: Phase::Starting,
            manager_pid: 0,
            started_at: Timestamp::NEVER,
        };
        self.peers(index).fill(PeerEntry::FREE);
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
        if places
            .iter()
            .any(|place| place.session_pid == session_pid && place.database == database)
        {
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

    /// The processes that work in a database: manager and pollers.
    pub fn workers_of(&mut self, database: pg_sys::Oid) -> Vec<i32> {
        let mut pids = Vec::new();
        for index in 0..entry_count() {
            let entry = self.databases()[index];
            if entry.phase == Phase::Free || entry.database != database {
                continue;
            }
            pids.push(entry.manager_pid);
            pids.extend(self.peers(index).iter().map(|peer| peer.poller_pid));
        }
        pids.retain(|pid| *pid != 0);
        pids
    }
}
