//! Shared memory: for each database with the extension an entry, its peers, its origins and their positions; and what
//! wakes the launcher. Entries are plain values, which are copied in and out under the lock.
//!
//! It is laid out once at start-up, by `spock.max_databases` and `spock.max_peers`. One lightweight lock guards all of
//! it: entries are copied out or changed in a few instructions, and nothing that can raise an ERROR runs under the
//! lock. After a crash of any process the postmaster lays it out anew, so the pid in an entry is always that of a
//! running process or of one that is just exiting.
#![allow(unsafe_code)]

mod apply_life;
mod asker;
mod broadcast;
mod clone_entry;
mod comparison;
mod database;
pub mod gate;
mod peer;
mod pin_entry;
mod readiness;
mod rescue;
mod slot;
mod text;

pub use apply_life::*;
pub use asker::*;
pub use broadcast::*;
pub use clone_entry::*;
pub use comparison::*;
pub use database::*;
pub use peer::*;
pub use pin_entry::*;
pub use readiness::*;
pub use rescue::*;
pub use slot::*;
pub use text::*;

use crate::guc;
use crate::lsn::LocalLsn;
use crate::pg::clock::Monotonic;
use crate::pg::guarded;
use crate::pg::lwlock::LwLockGuard;
use crate::pg::{process, wal};
use pgrx::pg_sys;
use std::cell::Cell;
use std::ffi::CStr;
use std::time::Duration;

const NAME: &CStr = c"spock_recovery";

/// Databases in which CREATE EXTENSION has been run, that the launcher has not looked at yet. If there are more, it
/// looks at every database.
const MAX_WAKES: usize = 32;

/// Sessions that run DROP DATABASE, RENAME or CREATE DATABASE at the same moment. A further session gets PostgreSQL's
/// own error "is being accessed by other users" if the manager does not exit in time.
const MAX_STAND_ASIDES: usize = 32;

#[repr(C)]
struct Header {
    launcher_pid: i32,
    /// The position at which this run of the server began to write WAL; zero until the first launcher has noted it.
    started_at: LocalLsn,
    /// How many apply workers have committed something since this server was started.
    lives: u64,
    /// The server was shut down in order before this run; then an attempt of that time was ended by the shutdown, not
    /// by a crash.
    was_shut_down: bool,
    /// There were too many databases to note: the launcher is to look at all of them.
    wake_all: bool,
    wake_count: u32,
    wakes: [pg_sys::Oid; MAX_WAKES],
    stand_asides: [StandAside; MAX_STAND_ASIDES],
}

/// A session that needs a database in which none of our workers runs.
#[repr(C)]
#[derive(Clone, Copy)]
struct StandAside {
    database: pg_sys::Oid,
    /// Zero: the place is free. If the session has died without freeing it, that is found by the pid.
    session_pid: i32,
    since: Monotonic,
}

/// How long the workers stay away at most. No command needs longer once it has the database to itself; if its
/// transaction stays open longer, the workers come back.
const STAND_ASIDE_LIMIT: Duration = Duration::from_secs(300);

thread_local! {
    static BASE: Cell<*mut Header> = const { Cell::new(std::ptr::null_mut()) };
    static PREVIOUS_REQUEST: Cell<pg_sys::shmem_request_hook_type> = const { Cell::new(None) };
    static PREVIOUS_STARTUP: Cell<pg_sys::shmem_startup_hook_type> = const { Cell::new(None) };
}

fn entry_count() -> usize {
    guc::max_databases() + 1
}

/// The index of the spare entry, at which a database beyond spock.max_databases is looked at.
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

fn applied_offset() -> usize {
    (positions_offset() + peer_count() * guc::max_peers() * size_of::<PositionEntry>())
        .next_multiple_of(align_of::<AppliedEntry>())
}

fn answers_offset() -> usize {
    (applied_offset() + peer_count() * size_of::<AppliedEntry>()).next_multiple_of(align_of::<BroadcastAnswer>())
}

fn broadcasts_offset() -> usize {
    (answers_offset() + peer_count() * size_of::<BroadcastAnswer>()).next_multiple_of(align_of::<BroadcastEntry>())
}

fn jobs_offset() -> usize {
    (broadcasts_offset() + entry_count() * size_of::<BroadcastEntry>()).next_multiple_of(align_of::<PointJob>())
}

fn texts_offset() -> usize {
    jobs_offset() + entry_count() * size_of::<PointJob>()
}

fn total_size() -> usize {
    texts_offset() + entry_count() * broadcast::capacity()
}

/// The number of places for peers, over all databases. There are as many for origins, because origins are peers too.
fn peer_count() -> usize {
    entry_count() * guc::max_peers()
}

/// Sets the hooks by which the postmaster reserves and lays out shared memory.
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
    gate::request();
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
                started_at: LocalLsn::ZERO,
                lives: 0,
                was_shut_down: wal::was_shut_down(),
                wake_all: false,
                wake_count: 0,
                wakes: [pg_sys::InvalidOid; MAX_WAKES],
                stand_asides: [StandAside { database: pg_sys::InvalidOid, session_pid: 0, since: Monotonic::NEVER };
                    MAX_STAND_ASIDES],
            });
            fill(base.add(databases_offset()), entry_count(), DatabaseEntry::FREE);
            fill(base.add(peers_offset()), peer_count(), PeerEntry::FREE);
            fill(base.add(origins_offset()), peer_count(), OriginEntry::FREE);
            fill(base.add(positions_offset()), peer_count() * guc::max_peers(), PositionEntry::FREE);
            fill(base.add(applied_offset()), peer_count(), AppliedEntry::FREE);
            fill(base.add(answers_offset()), peer_count(), BroadcastAnswer::FREE);
            fill(base.add(broadcasts_offset()), entry_count(), BroadcastEntry::FREE);
            fill(base.add(jobs_offset()), entry_count(), PointJob::FREE);
            fill(base.add(texts_offset()), entry_count() * broadcast::capacity(), 0_u8);
        }
    }
    gate::startup();
}

/// # Safety
/// `base` must be aligned for `T`, with room for `count` of them.
unsafe fn fill<T: Copy>(base: *mut u8, count: usize, value: T) {
    for index in 0..count {
        // SAFETY: within the room that the caller guarantees.
        unsafe { base.cast::<T>().add(index).write(value) };
    }
}

/// Shared memory while this process holds its lock. Hold it for a few instructions only, and raise nothing meanwhile.
pub struct Shared {
    base: *mut Header,
    _lock: LwLockGuard,
}

/// Waits for the lock on shared memory and acquires it.
pub fn lock() -> Shared {
    let base = BASE.get();
    assert!(!base.is_null(), "spock_recovery's shared memory is not attached");
    // SAFETY: the tranche was requested with one lock, which a process never takes twice (a Shared never escapes its
    // function).
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

    /// What peer `peer` of the database at `index` has reported of each origin.
    pub fn positions(&mut self, index: usize, peer: usize) -> &mut [PositionEntry] {
        assert!(index < entry_count() && peer < guc::max_peers());
        // SAFETY: as laid out in `startup`; exclusive while the lock is held.
        unsafe {
            let first = self.base.cast::<u8>().add(positions_offset()).cast::<PositionEntry>();
            let offset = (index * guc::max_peers() + peer) * guc::max_peers();
            std::slice::from_raw_parts_mut(first.add(offset), guc::max_peers())
        }
    }

    /// The replication origins of this server, with what apply workers have applied of each.
    fn applied(&mut self) -> &mut [AppliedEntry] {
        // SAFETY: as laid out in `startup`; exclusive while the lock is held.
        unsafe {
            let first = self.base.cast::<u8>().add(applied_offset()).cast::<AppliedEntry>();
            std::slice::from_raw_parts_mut(first, peer_count())
        }
    }

    /// What the peers of the database at `index` have answered to the last command.
    pub fn answers(&mut self, index: usize) -> &mut [BroadcastAnswer] {
        assert!(index < entry_count());
        // SAFETY: as laid out in `startup`; exclusive while the lock is held.
        unsafe {
            let first = self.base.cast::<u8>().add(answers_offset()).cast::<BroadcastAnswer>();
            std::slice::from_raw_parts_mut(first.add(index * guc::max_peers()), guc::max_peers())
        }
    }

    fn broadcast_entry(&mut self, index: usize) -> &mut BroadcastEntry {
        assert!(index < entry_count());
        // SAFETY: as laid out in `startup`; exclusive while the lock is held.
        unsafe { &mut *self.base.cast::<u8>().add(broadcasts_offset()).cast::<BroadcastEntry>().add(index) }
    }

    fn broadcast_text(&mut self, index: usize) -> &mut [u8] {
        assert!(index < entry_count());
        // SAFETY: as laid out in `startup`; exclusive while the lock is held.
        unsafe {
            let first = self.base.cast::<u8>().add(texts_offset() + index * broadcast::capacity());
            std::slice::from_raw_parts_mut(first, broadcast::capacity())
        }
    }

    /// The restore point that the database at `index` makes, or has made last.
    pub fn point_job(&mut self, index: usize) -> &mut PointJob {
        assert!(index < entry_count());
        // SAFETY: as laid out in `startup`; exclusive while the lock is held.
        unsafe { &mut *self.base.cast::<u8>().add(jobs_offset()).cast::<PointJob>().add(index) }
    }

    /// Gives the next apply worker its number.
    fn next_life(&mut self) -> u64 {
        let header = self.header();
        header.lives += 1;
        header.lives
    }

    /// How many apply workers have committed something by now. They are numbered from 1 to this number.
    pub fn lives(&mut self) -> u64 {
        self.header().lives
    }

    /// The index of a database's entry; None: it has none.
    pub fn index_of(&mut self, database: pg_sys::Oid) -> Option<usize> {
        self.databases().iter().position(|entry| entry.phase != ManagerPhase::Free && entry.database == database)
    }

    /// Takes an entry for a database, a free one or else the spare one, and returns its index; None if all are in use.
    pub fn take_entry(&mut self, database: pg_sys::Oid) -> Option<usize> {
        let index = self.databases().iter().position(|entry| entry.phase == ManagerPhase::Free)?;
        self.free_entry(index);
        let entry = &mut self.databases()[index];
        entry.database = database;
        entry.phase = ManagerPhase::Starting;
        Some(index)
    }

    /// How many databases are being looked at for the extension: entries that are neither free nor those of a manager
    /// that has found the extension. A look is over when its worker slot is free again.
    pub fn looks(&mut self) -> usize {
        let is_look = |entry: &&DatabaseEntry| {
            !matches!(entry.phase, ManagerPhase::Free | ManagerPhase::Running | ManagerPhase::Waiting)
        };
        self.databases().iter().filter(is_look).count()
    }

    /// Frees an entry, with its peers, origins and positions.
    pub fn free_entry(&mut self, index: usize) {
        self.databases()[index] = DatabaseEntry::FREE;
        self.peers(index).fill(PeerEntry::FREE);
        self.origins(index).fill(OriginEntry::FREE);
        self.end_broadcasts(index);
        self.point_job(index).state = JobState::None;
        for peer in 0..guc::max_peers() {
            self.positions(index, peer).fill(PositionEntry::FREE);
        }
    }

    /// Notes that the manager has something to do. Returns the manager's pid (zero: none), which the caller wakes after
    /// it has released the lock.
    pub fn call_manager(&mut self, index: usize) -> i32 {
        let entry = &mut self.databases()[index];
        entry.calls = entry.calls.wrapping_add(1);
        entry.manager_pid
    }

    pub fn set_launcher(&mut self, pid: i32) {
        self.header().launcher_pid = pid;
    }

    /// Notes the position at which this run of the server began to write WAL. Only the first launcher's word counts.
    pub fn note_start(&mut self, position: LocalLsn) {
        let header = self.header();
        if header.started_at == LocalLsn::ZERO {
            header.started_at = position;
        }
    }

    /// The position at which this run of the server began to write WAL; zero: not known yet.
    pub fn started_at(&mut self) -> LocalLsn {
        self.header().started_at
    }

    /// The launcher's pid.
    pub fn launcher(&mut self) -> i32 {
        self.header().launcher_pid
    }

    /// Asks the launcher to look whether a database has the extension.
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

    /// Takes the databases that the launcher was asked to look at, and whether there were too many to note.
    pub fn take_asked(&mut self) -> (Vec<pg_sys::Oid>, bool) {
        let header = self.header();
        let asked = header.wakes[..header.wake_count as usize].to_vec();
        header.wake_count = 0;
        (asked, std::mem::take(&mut header.wake_all))
    }

    /// Keeps workers away from a database until [`Shared::stop_standing_aside`]. False if there is no place for another
    /// session.
    pub fn stand_aside(&mut self, database: pg_sys::Oid, session_pid: i32) -> bool {
        let places = &mut self.header().stand_asides;
        if places.iter().any(|place| place.session_pid == session_pid && place.database == database) {
            return true;
        }
        let free = places.iter_mut().find(|place| place.session_pid == 0);
        free.is_some_and(|place| {
            *place = StandAside { database, session_pid, since: Monotonic::now() };
            true
        })
    }

    /// Lets workers come back, as far as this session is concerned.
    pub fn stop_standing_aside(&mut self, database: pg_sys::Oid, session_pid: i32) {
        for place in &mut self.header().stand_asides {
            if place.session_pid == session_pid && place.database == database {
                place.session_pid = 0;
            }
        }
    }

    /// Whether a running session needs the database without workers.
    pub fn must_stand_aside(&mut self, database: pg_sys::Oid) -> bool {
        self.header().stand_asides.iter_mut().any(|place| {
            if place.session_pid == 0 || place.database != database {
                return false;
            }
            let is_over = Monotonic::now().since(place.since) > STAND_ASIDE_LIMIT;
            if is_over || !process::is_backend(place.session_pid) {
                place.session_pid = 0;
                return false;
            }
            true
        })
    }

    /// Whether the server was shut down in order before this run.
    pub fn was_shut_down(&mut self) -> bool {
        self.header().was_shut_down
    }

    /// The pids of our workers in a database: manager, slot worker, rescue worker, pins, copiers, pollers, and those of
    /// a restore point and of a comparison.
    pub fn workers_of(&mut self, database: pg_sys::Oid) -> Vec<i32> {
        let mut pids = Vec::new();
        for index in 0..entry_count() {
            let entry = self.databases()[index];
            if entry.phase == ManagerPhase::Free || entry.database != database {
                continue;
            }
            pids.push(entry.manager_pid);
            pids.push(entry.slot.worker_pid);
            pids.push(entry.rescue.worker_pid);
            pids.push(entry.comparison.worker_pid);
            pids.push(self.point_job(index).worker_pid);
            pids.extend(entry.copiers);
            pids.extend(entry.pins.iter().map(|pin| pin.worker_pid));
            pids.extend(self.peers(index).iter().map(|peer| peer.poller_pid));
        }
        pids.retain(|pid| *pid != 0);
        pids
    }
}
