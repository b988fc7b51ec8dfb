//! The memory of the commit barrier: a mark for each backend, and a gate for each database.
//!
//! A backend sets its mark before it commits, and clears it when the commit is over. Who closes a gate waits until no
//! mark of that database is set. Each mark has a cache line of its own: marks of neighbouring backends in one line cost
//! 5 to 12 % of a minimal transaction. Marks and gates are atomics, because a commit must not take a lock; gates are
//! changed under the lock of the rest of this memory ([`Shared`]).
//!
//! The order of the accesses is what makes the barrier hold (it is Dekker's algorithm). A backend sets its mark, and
//! then looks whether the gate is closed; who closes the gate closes it, and then looks at the marks. Both use
//! sequentially consistent operations, so that at least one of the two sees the other.

use super::Shared;
use crate::lsn::LocalLsn;
use crate::pg::clock::Monotonic;
use crate::pg::latch::WaitEvent;
use crate::pg::process;
use pgrx::pg_sys;
use std::cell::Cell;
use std::ffi::CStr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

const NAME: &CStr = c"spock_recovery barrier";

/// Whose transactions a closed gate holds back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Holds {
    /// Those that begin on this node. What is applied from other nodes goes on.
    Own,
    /// All.
    All,
}

/// Where a transaction comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Author {
    ThisNode,
    /// It is applied: an apply worker has received it from another node.
    AnotherNode,
}

impl Holds {
    pub fn concerns(self, author: Author) -> bool {
        self == Holds::All || author == Author::ThisNode
    }
}

/// The mark of one backend.
#[repr(C, align(128))]
struct Mark {
    /// Zero, or what `word` makes of the committing transaction.
    state: AtomicU64,
    /// The end of the last commit or prepare record that a transaction of this server has written in this place.
    end: AtomicU64,
}

fn word(database: pg_sys::Oid, author: Author) -> u64 {
    u64::from(database.to_u32()) << 1 | u64::from(author == Author::AnotherNode)
}

fn is_held(state: u64, database: pg_sys::Oid, holds: Holds) -> bool {
    let author = if state & 1 == 0 { Author::ThisNode } else { Author::AnotherNode };
    state != 0 && state >> 1 == u64::from(database.to_u32()) && holds.concerns(author)
}

/// The gate of one database.
#[repr(C, align(128))]
struct Gate {
    /// Zero: the place is free.
    database: AtomicU32,
    /// 1 if the gate holds all transactions.
    holds_all: AtomicU32,
    /// The number that its closer has given; zero: the gate is open.
    closed_by: AtomicU64,
    /// When it was last opened, by the same clock.
    opened_at: AtomicU64,
    /// When it was closed and until when, in microseconds of the monotonic clock.
    closed_at: AtomicU64,
    until: AtomicU64,
    opened: pg_sys::ConditionVariable,
}

#[repr(C, align(128))]
struct Head {
    /// How many gates are closed. A commit looks at the gates only if this is not zero.
    closed: AtomicU32,
}

thread_local! {
    static BASE: Cell<*mut Head> = const { Cell::new(std::ptr::null_mut()) };
}

fn gates_offset() -> usize {
    size_of::<Head>()
}

fn marks_offset() -> usize {
    gates_offset() + gate_count() * size_of::<Gate>()
}

fn gate_count() -> usize {
    crate::guc::max_databases()
}

/// Every process that can commit a transaction has a number below this one.
fn mark_count() -> usize {
    // SAFETY: computed before shared memory is requested (postmaster.c).
    unsafe { pg_sys::MaxBackends }.max(0) as usize
}

fn total_size() -> usize {
    marks_offset() + mark_count() * size_of::<Mark>()
}

/// Reserves the memory. Within shmem_request_hook.
pub(super) fn request() {
    // SAFETY: within shmem_request_hook, where this is allowed. Alignment to a cache line of 128 bytes is
    // ShmemInitStruct's own (PG_CACHE_LINE_SIZE).
    unsafe { pg_sys::RequestAddinShmemSpace(total_size() + align_of::<Head>()) };
}

/// Lays out the memory, or attaches to it. Within shmem_startup_hook.
pub(super) fn startup() {
    let mut found = false;
    // SAFETY: as in `shmem::startup`; all-zero bytes are valid atomics.
    unsafe {
        let base = pg_sys::ShmemInitStruct(NAME.as_ptr(), total_size(), &mut found).cast::<u8>();
        BASE.set(base.cast());
        if !found {
            base.write_bytes(0, total_size());
            let gates = base.add(gates_offset()).cast::<Gate>();
            for index in 0..gate_count() {
                pg_sys::ConditionVariableInit(&raw mut (*gates.add(index)).opened);
            }
        }
    }
}

fn head() -> Option<&'static Head> {
    // SAFETY: null, or laid out in `startup` and never freed while this process runs.
    unsafe { BASE.get().as_ref() }
}

fn gates() -> &'static [Gate] {
    let base = BASE.get();
    if base.is_null() {
        return &[];
    }
    // SAFETY: laid out in `startup`; changed through atomics, and the condition variable by core alone.
    unsafe { std::slice::from_raw_parts(base.cast::<u8>().add(gates_offset()).cast::<Gate>(), gate_count()) }
}

fn marks() -> &'static [Mark] {
    let base = BASE.get();
    if base.is_null() {
        return &[];
    }
    // SAFETY: as in `gates`.
    unsafe { std::slice::from_raw_parts(base.cast::<u8>().add(marks_offset()).cast::<Mark>(), mark_count()) }
}

/// The mark of this process; None in a process that cannot commit.
fn own_mark() -> Option<&'static Mark> {
    // SAFETY: a variable of this process, -1 before it has a PGPROC.
    let number = unsafe { pg_sys::MyProcNumber };
    usize::try_from(number).ok().and_then(|number| marks().get(number))
}

/// A gate stays open for at least this long: a transaction that has waited passes, and does not meet the next closing
/// before it ran. The time is far longer than it takes to wake all that wait.
const REST: Duration = Duration::from_millis(50);

/// How long the gate of a database must stay open; None: it may be closed, or is.
pub fn rests(database: pg_sys::Oid) -> Option<Duration> {
    let gate = gates().iter().find(|gate| gate.database.load(Ordering::SeqCst) == database.to_u32())?;
    rest(gate, Monotonic::now()).filter(|_| gate.closed_by.load(Ordering::SeqCst) == 0)
}

fn rest(gate: &Gate, now: Monotonic) -> Option<Duration> {
    let opened_at = Monotonic(gate.opened_at.load(Ordering::SeqCst));
    let left = REST.saturating_sub(now.since(opened_at));
    (!opened_at.is_never() && !left.is_zero()).then_some(left)
}

/// A gate that holds a transaction back.
#[derive(Clone, Copy)]
pub struct Closed {
    place: usize,
    closed_by: u64,
    until: Monotonic,
}

/// Sets this process's mark, and looks whether the gate of its database is closed for `author`. If it is, the mark is
/// cleared again and the gate is returned: the caller waits and calls this function again.
pub fn set_mark(database: pg_sys::Oid, author: Author) -> Option<Closed> {
    let (head, mark) = head().zip(own_mark())?;
    mark.state.store(word(database, author), Ordering::SeqCst);
    if head.closed.load(Ordering::SeqCst) == 0 {
        return None;
    }
    let closed = closed_gate(database, author)?;
    mark.state.store(0, Ordering::SeqCst);
    Some(closed)
}

fn closed_gate(database: pg_sys::Oid, author: Author) -> Option<Closed> {
    let gates = gates().iter().enumerate();
    for (place, gate) in gates.filter(|(_, gate)| gate.database.load(Ordering::SeqCst) == database.to_u32()) {
        let closed_by = gate.closed_by.load(Ordering::SeqCst);
        let holds = if gate.holds_all.load(Ordering::SeqCst) == 1 { Holds::All } else { Holds::Own };
        let until = Monotonic(gate.until.load(Ordering::SeqCst));
        // The place may have been given to another database meanwhile.
        let is_still_ours = gate.database.load(Ordering::SeqCst) == database.to_u32();
        if is_still_ours && closed_by != 0 && holds.concerns(author) && Monotonic::now() < until {
            return Some(Closed { place, closed_by, until });
        }
    }
    None
}

/// Waits until the gate is opened or its lease has run out. Checks for interrupts: a cancel ends the wait, and the
/// transaction.
pub fn wait_at(closed: Closed) {
    let gate = &gates()[closed.place];
    let variable = (&raw const gate.opened).cast_mut();
    // SAFETY: a condition variable in shared memory, initialised at start-up; core's abort cancels the sleep.
    unsafe { pg_sys::ConditionVariablePrepareToSleep(variable) };
    loop {
        let now = Monotonic::now();
        if gate.closed_by.load(Ordering::SeqCst) != closed.closed_by || now >= closed.until {
            break;
        }
        // Rounded up, so that a wait does not end just before the lease does.
        let left = closed.until.since(now).as_millis() as core::ffi::c_long + 1;
        // SAFETY: as above.
        unsafe { pg_sys::ConditionVariableTimedSleep(variable, left, WaitEvent::CommitBarrier.id()) };
    }
    // SAFETY: as above.
    unsafe { pg_sys::ConditionVariableCancelSleep() };
}

/// Clears this process's mark. `end`: the end of the record that was written meanwhile; None: none was.
pub fn clear_mark(end: Option<LocalLsn>) {
    let Some(mark) = own_mark() else { return };
    if let Some(end) = end {
        mark.end.fetch_max(end.0, Ordering::SeqCst);
    }
    mark.state.store(0, Ordering::Release);
}

/// Whether some commit that the gate holds back is still under way. One that waits for a synchronous standby is not: it
/// is written and on disk, and waits after its commit record. Its end is returned through `end`.
pub fn is_busy(database: pg_sys::Oid, holds: Holds, end: &mut LocalLsn) -> bool {
    let mut is_busy = false;
    for (number, mark) in marks().iter().enumerate() {
        if is_held(mark.state.load(Ordering::SeqCst), database, holds) {
            match process::waits_for_standby(number) {
                Some(written) => *end = (*end).max(written),
                None => is_busy = true,
            }
        }
    }
    is_busy
}

/// The end of the last commit of a transaction of this server, since it was started. Transactions of other databases
/// count too: a position that is too far on only makes the caller wait for it.
pub fn last_end() -> LocalLsn {
    LocalLsn(marks().iter().map(|mark| mark.end.load(Ordering::SeqCst)).max().unwrap_or(0))
}

/// Why a gate cannot be closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// It is closed already, for so long.
    IsClosed(Duration),
    NoPlace,
}

/// How a gate was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Opened {
    /// It was closed all the time from its closing until now.
    pub held: bool,
    pub closed_for: Duration,
}

impl Shared {
    /// Closes the gate of a database until `lease` has passed.
    ///
    /// # Errors
    /// If somebody else has closed it and that lease has not run out, or if there are too many databases.
    pub fn close_gate(
        &mut self,
        database: pg_sys::Oid,
        closed_by: u64,
        holds: Holds,
        lease: Duration,
    ) -> Result<(), Refused> {
        let now = Monotonic::now();
        self.forget_expired(now);
        let of = |gate: &Gate| gate.database.load(Ordering::SeqCst);
        let gate = gates().iter().find(|gate| of(gate) == database.to_u32());
        let is_free = |gate: &&Gate| gate.closed_by.load(Ordering::SeqCst) == 0 && rest(gate, now).is_none();
        let gate = gate.or_else(|| gates().iter().find(is_free));
        let (Some(gate), Some(head)) = (gate, head()) else { return Err(Refused::NoPlace) };
        if gate.closed_by.load(Ordering::SeqCst) != 0 {
            return Err(Refused::IsClosed(Monotonic(gate.until.load(Ordering::SeqCst)).since(now)));
        }
        let is_own = of(gate) == database.to_u32();
        if let Some(left) = rest(gate, now).filter(|_| is_own) {
            return Err(Refused::IsClosed(left));
        }
        gate.database.store(database.to_u32(), Ordering::SeqCst);
        gate.holds_all.store(u32::from(holds == Holds::All), Ordering::SeqCst);
        gate.closed_at.store(now.0, Ordering::SeqCst);
        gate.until.store(now.0 + lease.as_micros() as u64, Ordering::SeqCst);
        gate.closed_by.store(closed_by, Ordering::SeqCst);
        head.closed.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    /// Opens the gate that `closed_by` has closed. None: it is not closed by that one, or not any more.
    pub fn open_gate(&mut self, database: pg_sys::Oid, closed_by: u64) -> Option<Opened> {
        let gate = gates().iter().find(|gate| {
            gate.database.load(Ordering::SeqCst) == database.to_u32()
                && gate.closed_by.load(Ordering::SeqCst) == closed_by
        })?;
        let now = Monotonic::now();
        let closed_for = now.since(Monotonic(gate.closed_at.load(Ordering::SeqCst)));
        let held = now < Monotonic(gate.until.load(Ordering::SeqCst));
        open(gate);
        Some(Opened { held, closed_for })
    }

    /// Opens the gates whose lease has run out: their closer has died, or is too late.
    pub fn forget_expired(&mut self, now: Monotonic) {
        for gate in gates() {
            if gate.closed_by.load(Ordering::SeqCst) != 0 && now >= Monotonic(gate.until.load(Ordering::SeqCst)) {
                open(gate);
            }
        }
    }
}

/// Under the lock of shared memory.
fn open(gate: &Gate) {
    gate.opened_at.store(Monotonic::now().0, Ordering::SeqCst);
    gate.closed_by.store(0, Ordering::SeqCst);
    if let Some(head) = head() {
        head.closed.fetch_sub(1, Ordering::SeqCst);
    }
    // SAFETY: a condition variable in shared memory; the broadcast takes its spinlock for a moment and raises nothing.
    unsafe { pg_sys::ConditionVariableBroadcast((&raw const gate.opened).cast_mut()) };
}

/// Whether any gate's lease has run out without its having been opened: commits look at the gates until it is.
pub fn has_expired() -> bool {
    let now = Monotonic::now();
    gates()
        .iter()
        .any(|gate| gate.closed_by.load(Ordering::SeqCst) != 0 && now >= Monotonic(gate.until.load(Ordering::SeqCst)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_held_only_by_the_gate_of_its_database_and_only_if_that_holds_its_author() {
        let (one, two) = (pg_sys::Oid::from_u32(16_384), pg_sys::Oid::from_u32(u32::MAX));
        for database in [one, two] {
            for (author, by_own) in [(Author::ThisNode, true), (Author::AnotherNode, false)] {
                let state = word(database, author);
                assert_eq!(is_held(state, database, Holds::Own), by_own);
                assert!(is_held(state, database, Holds::All));
                for holds in [Holds::Own, Holds::All] {
                    assert!(!is_held(state, pg_sys::Oid::from_u32(5), holds));
                }
            }
        }
        assert!(!is_held(0, pg_sys::InvalidOid, Holds::All), "no mark is set");
    }
}
