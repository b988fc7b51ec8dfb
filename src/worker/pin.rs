//! The worker that holds a pin (src/rebuild/pin.rs): it takes the snapshot, answers the session that has asked for it,
//! and stays in its transaction until the pin is over. Nothing of it is durable: with the process everything is gone,
//! and the target asks for a new pin.
//!
//! It is a process of its own, because the connection by which the target has asked may break in the course of a copy
//! that takes hours, and another one then finds the snapshot again.

use crate::counted::counted;
use crate::guc;
use crate::pg::clock::Monotonic;
use crate::pg::dsm::Segment;
use crate::pg::latch::{self, WaitEvent};
use crate::pg::{interrupts, process, transaction};
use crate::rebuild::error::RebuildError;
use crate::rebuild::pin::{self, PinFailure, PinOutcome, PinQuestion, Taken};
use crate::rebuild::pin_fate::{PinEnd, PinLimits, PinSeen, fate};
use crate::shmem::{self, PinEntry, PinState};
use pgrx::pg_sys::Oid;
use pgrx::pg_sys::panic::CaughtError;
use std::cell::Cell;
use std::time::Duration;

/// The longest time between two looks at whether the pin is over: settings may have changed.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Waiting for the locks and for the gate may each take this fraction of spock.peer_timeout (1/3), so that the target, which
/// waits that long for the answer, gets it.
const WAIT_FRACTION: u32 = 3;

/// A session whose client has closed it ends within this time.
const READERS_GRACE: Duration = Duration::from_secs(5);
const READERS_INTERVAL: Duration = Duration::from_millis(100);

#[derive(Clone, Copy)]
struct Place {
    index: usize,
    place: usize,
    number: u64,
}

thread_local! {
    static PLACE: Cell<Option<Place>> = const { Cell::new(None) };
}

impl Place {
    /// Changes the pin's entry. None: the place was given to another pin.
    fn with<T>(self, f: impl FnOnce(&mut PinEntry) -> T) -> Option<T> {
        let mut shared = shmem::lock();
        shared.pin(self.index, self.place, self.number).filter(|pin| pin.worker_pid == process::my_pid()).map(f)
    }
}

/// Takes the pin that the entry of `database` at `index` asks for in `place`, holds it, and exits.
pub fn run(index: usize, place: usize, database: Oid) -> ! {
    let Some((at, asked)) = take_place(index, place, database) else { interrupts::exit(0) };
    interrupts::at_exit(on_exit);
    let Some(mut segment) = Segment::attach(asked.segment) else { interrupts::exit(0) };
    process::connect_worker(database);
    let target = asked.target_name.as_str().to_owned();
    process::report_activity(&format!("taking a snapshot for the rebuild of node {target}"));
    let outcome = take(&segment.question(), Duration::from_millis(u64::from(asked.lease_ms)));
    let taken = publish(at, &mut segment, outcome);
    latch::wake(asked.asked_by);
    if let Some(taken) = taken {
        process::report_activity(&format!("holding a snapshot for the rebuild of node {target}"));
        let held_ms = taken.held_for.as_secs_f64() * 1000.0;
        pgrx::log!(
            "pinned snapshot {} for node \"{target}\"; commits were held back for {held_ms:.1} ms",
            taken.answer.snapshot
        );
        let end = hold(at);
        transaction::abort_current();
        pgrx::log!("released snapshot {} of node \"{target}\": {}", taken.answer.snapshot, why(end));
        if interrupts::catch(|| end_readers(taken.xmin)).is_err() {
            transaction::abort_current();
        }
    }
    transaction::abort_current();
    interrupts::exit(0)
}

fn take_place(index: usize, place: usize, database: Oid) -> Option<(Place, PinEntry)> {
    let mut shared = shmem::lock();
    if shared.must_stand_aside(database) || shared.databases().get(index)?.database != database {
        return None;
    }
    let pin = shared.databases()[index].pins.get_mut(place)?;
    if pin.state != PinState::Asked {
        return None;
    }
    pin.state = PinState::Taking;
    pin.worker_pid = process::my_pid();
    let at = Place { index, place, number: pin.number };
    PLACE.set(Some(at));
    Some((at, *pin))
}

/// The worker ends, for whatever reason: the place is free, except for a failure that somebody is to read.
fn on_exit() {
    pin::open_gate();
    let Some(place) = PLACE.take() else { return };
    let asked_by = place.with(|pin| {
        pin.worker_pid = 0;
        pin.state = match pin.state {
            PinState::Taking | PinState::Failed => PinState::Failed,
            PinState::Free | PinState::Asked | PinState::Held => PinState::Free,
        };
        pin.asked_by
    });
    latch::wake(asked_by.unwrap_or_default());
}

fn take(question: &[u8], lease: Duration) -> Result<Taken, PinFailure> {
    let question: PinQuestion =
        serde_json::from_slice(question).map_err(|_| PinFailure::of(&RebuildError::WorkerEnded))?;
    process::wait_for_locks(guc::peer_timeout() / WAIT_FRACTION);
    let taken = transaction::caught_open(|| pin::take(&question, lease).map_err(|error| PinFailure::of(&error)));
    pin::open_gate();
    let failed = |cause: Box<CaughtError>| match *cause {
        CaughtError::PostgresError(report) | CaughtError::ErrorReport(report) => PinFailure::of_report(&report),
        rust_panic @ CaughtError::RustPanic { .. } => rust_panic.rethrow(),
    };
    taken.map_err(failed)?
}

/// Writes what has come of it into the segment, and tells it in the entry. Returns the snapshot that is to be held.
fn publish(at: Place, segment: &mut Segment, outcome: Result<Taken, PinFailure>) -> Option<Taken> {
    let (said, taken) = match outcome {
        Ok(taken) => (PinOutcome::Taken(taken.answer.clone()), Some(taken)),
        Err(failure) => (PinOutcome::Failed(failure), None),
    };
    let text = serde_json::to_vec(&said).unwrap_or_default();
    let is_told = segment.set_answer(&text);
    let is_ours = at.with(|pin| match &taken {
        Some(taken) if is_told => {
            *pin = PinEntry {
                state: PinState::Held,
                since: taken.answer.since,
                held_at: Monotonic::now(),
                xmin: taken.xmin,
                ..*pin
            };
        }
        _ => pin.state = PinState::Failed,
    });
    taken.filter(|_| is_told && is_ours.is_some())
}

/// Holds the snapshot until the pin is over.
fn hold(at: Place) -> PinEnd {
    loop {
        if interrupts::shutdown_requested() {
            interrupts::exit(0);
        }
        interrupts::check();
        interrupts::reload_config_if_asked();
        let now = Monotonic::now();
        let seen = at.with(|pin| {
            let seen = PinSeen {
                is_released: pin.is_released,
                says: pin.says,
                held_for: now.since(pin.held_at),
                silent_for: pin.silent_for(now),
            };
            (seen, Duration::from_millis(pin.lifetime_ms))
        });
        let lifetime = seen.map_or(Duration::ZERO, |(_, lifetime)| lifetime);
        let limits = PinLimits { lifetime, silence: guc::rebuild_pin_silence() };
        match fate(seen.map(|(seen, _)| seen), &limits) {
            Ok(nap) => latch::wait(Some(nap.min(LOOK_AGAIN)), WaitEvent::Pin),
            Err(end) => return end,
        }
    }
}

/// Ends the sessions that have imported the snapshot and do not end by themselves: where the link to the target has stalled
/// they would hold it for as long as the kernel waits.
fn end_readers(xmin: u32) {
    let asked = Monotonic::now();
    while transaction::run(|| pin::readers(xmin, false)) > 0 {
        if interrupts::shutdown_requested() {
            interrupts::exit(0);
        }
        interrupts::check();
        if Monotonic::now().since(asked) >= READERS_GRACE {
            let ended = transaction::run(|| pin::readers(xmin, true));
            pgrx::log!("ended {} that read a snapshot which is not held any more", counted(ended, "session"));
            return;
        }
        latch::wait(Some(READERS_INTERVAL), WaitEvent::Pin);
    }
}

fn why(end: PinEnd) -> &'static str {
    match end {
        PinEnd::Released => "it is not needed any more",
        PinEnd::IntentOver => "the node reports that its rebuild has ended or does not exist",
        PinEnd::TargetSilent => "the node has been silent for spock.rebuild_pin_silence",
        PinEnd::Expired => "its time is over",
        PinEnd::NoNode => "this database is not a node any more",
    }
}
