//! The functions for pins. Their CREATE FUNCTION, grants and comments are in sql/.
#![allow(unsafe_code)] // pg_extern generates the C entry points

use super::manager::entry_with_manager;
use crate::error::OrRaise;
use crate::guc;
use crate::intent_id::IntentId;
use crate::node::native::NativeProvider;
use crate::node::provider::ReplicationProvider;
use crate::pg::clock::Monotonic;
use crate::pg::dsm::Segment;
use crate::pg::latch::{self, WaitEvent};
use crate::pg::name::Name;
use crate::pg::text::Text;
use crate::pg::{catalog, interrupts, process, role, transaction};
use crate::rebuild::error::RebuildError;
use crate::rebuild::pin::{PinAnswer, PinOutcome, PinQuestion};
use crate::shmem::{self, PinEntry, PinPlace, PinState, TargetSays};
use crate::slot::snapshot::require_reader;
use crate::worker::start;
use pgrx::prelude::*;
use pgrx::{JsonB, Uuid};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

/// As for a restore point.
const LEASE_MS: RangeInclusive<f64> = 10.0..=60_000.0;

/// Up to ten years.
const LIFETIME_MS: RangeInclusive<f64> = 100.0..=3.2e11;

/// A worker that has not begun within this time never will: its start was refused after it was registered.
const START_PATIENCE: Duration = Duration::from_secs(30);

const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The room for the answer: of each node its name and a position.
fn room() -> usize {
    (guc::max_peers() + 16) * 512
}

/// Has a worker take a snapshot of the tables and hold it for the target. Returns what `rebuild::pin::PinAnswer` says.
#[pg_extern(sql = false)]
fn pin_tables(
    intent_id: Option<Uuid>,
    target_node: Option<Name>,
    tables: Option<Vec<Option<Text>>>,
    lease: Option<pgrx::datum::Interval>,
    lifetime: Option<pgrx::datum::Interval>,
) -> JsonB {
    let pin = || {
        require_slot_user("pin_tables")?;
        process::require_writable("pin_tables");
        let null = |argument| RebuildError::NullArgument { argument };
        let intent = IntentId(*intent_id.ok_or(null("intent_id"))?.as_bytes());
        let Name(target) = target_node.ok_or(null("target_node"))?;
        let tables = tables.ok_or(null("tables"))?.into_iter().map(|table| table.map(|table| table.to_utf8()));
        let tables = tables.collect::<Option<Vec<String>>>().ok_or(null("tables"))?;
        let lease = milliseconds("lease", lease.ok_or(null("lease"))?, LEASE_MS, "from 10 ms to 60 s")?;
        let lifetime_ms = match lifetime {
            Some(lifetime) => milliseconds("lifetime", lifetime, LIFETIME_MS, "from 100 ms to ten years")?,
            None => guc::rescue_clone_ttl().as_millis() as u64,
        };
        let wanted = PinEntry { intent, lease_ms: lease as u32, lifetime_ms, ..PinEntry::FREE };
        take(wanted, &target, &PinQuestion { tables })
    };
    let answer: PinAnswer = pin().or_raise();
    JsonB(serde_json::to_value(answer).unwrap_or_default())
}

fn require_slot_user(function: &'static str) -> Result<(), RebuildError> {
    match role::may_use_slots() {
        true => Ok(()),
        false => Err(RebuildError::NotPrivileged { function, role: role::current_name() }),
    }
}

fn milliseconds(
    argument: &'static str,
    given: pgrx::datum::Interval,
    limits: RangeInclusive<f64>,
    range: &'static str,
) -> Result<u64, RebuildError> {
    let whole_days = f64::from(given.months()) * 30.0 + f64::from(given.days());
    let milliseconds = whole_days * 86_400_000.0 + given.micros() as f64 / 1000.0;
    if limits.contains(&milliseconds) {
        Ok(milliseconds.round() as u64)
    } else {
        Err(RebuildError::BadTime { argument, range })
    }
}

/// Finds the pin of the intent, or has one taken. If the statement ends first, the worker goes on: the next call for this
/// intent finds its pin.
fn take(mut wanted: PinEntry, target: &str, question: &PinQuestion) -> Result<PinAnswer, RebuildError> {
    let local = NativeProvider.local_node()?.ok_or(RebuildError::NoNode)?;
    // A target holds a snapshot of its own, too, and locks nothing for that.
    if local.name.as_str() == target && question.tables.is_empty() {
        wanted.target = local.id;
    } else if question.tables.is_empty() {
        return Err(RebuildError::NoTables);
    } else {
        // A poller asks the target whether the intent is unfinished.
        let peer = NativeProvider.peers()?.into_iter().find(|peer| peer.name.as_str() == target);
        wanted.target = peer.ok_or_else(|| RebuildError::NoPeer { name: target.to_owned() })?.id;
    }
    wanted.target_name.set(target);
    let index = entry_with_manager(WaitEvent::Pin).ok_or(RebuildError::NoManager)?;
    let segment = Segment::create(&serde_json::to_vec(question).unwrap_or_default(), room());
    wanted.segment = segment.handle();
    wanted.asked_by = process::my_pid();
    let asked = shmem::lock().ask_for_pin(index, &mut wanted);
    match asked {
        PinPlace::Full => Err(RebuildError::TooManyPins),
        PinPlace::Known(place) => {
            let known = shmem::lock().databases()[index].pins[place];
            drop(segment);
            let answer = wait_for(index, place, &known, None)?;
            let its_question = Segment::attach(known.segment).map(|segment| segment.question()).unwrap_or_default();
            match serde_json::from_slice::<PinQuestion>(&its_question) {
                Ok(its_question) if its_question == *question => Ok(answer),
                Ok(_) => Err(RebuildError::OtherTables { intent: known.intent.to_string() }),
                Err(_) => Err(RebuildError::WorkerEnded),
            }
        }
        PinPlace::New(place) => {
            if start::start_pin_worker(index, place, &catalog::my_database_name()).is_err() {
                give_up(index, place, &wanted);
                return Err(RebuildError::NoWorker);
            }
            wait_for(index, place, &wanted, Some(&segment))
        }
    }
}

/// Frees the place of a pin that is not held.
fn give_up(index: usize, place: usize, mine: &PinEntry) {
    if let Some(pin) = shmem::lock().pin(index, place, mine.number)
        && matches!(pin.state, PinState::Asked | PinState::Failed)
    {
        pin.state = PinState::Free;
    }
}

/// Waits until the worker has answered. `own`: the segment that this session has made.
fn wait_for(index: usize, place: usize, pin: &PinEntry, own: Option<&Segment>) -> Result<PinAnswer, RebuildError> {
    let begun = Instant::now();
    loop {
        let now = shmem::lock().pin(index, place, pin.number).copied().ok_or(RebuildError::WorkerEnded)?;
        match now.state {
            PinState::Free => return Err(RebuildError::WorkerEnded),
            PinState::Asked if begun.elapsed() > START_PATIENCE => {
                give_up(index, place, pin);
                return Err(RebuildError::NoWorker);
            }
            PinState::Asked | PinState::Taking => {
                interrupts::check();
                latch::wait(Some(LOOK_AGAIN), WaitEvent::Pin);
            }
            PinState::Held | PinState::Failed => {
                let answer = match own {
                    Some(own) => own.answer(),
                    None => Segment::attach(now.segment).map(|segment| segment.answer()).unwrap_or_default(),
                };
                if own.is_some() {
                    give_up(index, place, pin);
                }
                return match serde_json::from_slice(&answer) {
                    Ok(PinOutcome::Taken(answer)) if now.state == PinState::Held => Ok(answer),
                    Ok(PinOutcome::Failed(failure)) => Err(failure.into()),
                    Ok(PinOutcome::Taken(_)) | Err(_) => Err(RebuildError::WorkerEnded),
                };
            }
        }
    }
}

/// Ends the pin of an intent. Returns whether there was one.
#[pg_extern(sql = false)]
fn release_pin(intent_id: Option<Uuid>) -> bool {
    let release = || {
        require_slot_user("release_pin")?;
        let intent = IntentId(*intent_id.ok_or(RebuildError::NullArgument { argument: "intent_id" })?.as_bytes());
        let mut shared = shmem::lock();
        let Some(index) = shared.index_of(process::my_database()) else { return Ok(None) };
        let pins = shared.databases()[index].pins.iter_mut();
        let pin = pins.into_iter().find(|pin| {
            pin.intent == intent && matches!(pin.state, PinState::Asked | PinState::Taking | PinState::Held)
        });
        Ok(pin.map(|pin| {
            pin.is_released = true;
            pin.worker_pid
        }))
    };
    let released: Result<Option<i32>, RebuildError> = release();
    let worker = released.or_raise();
    latch::wake(worker.unwrap_or_default());
    worker.is_some()
}

/// The snapshots that are held on this node for the rebuilds of others.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)] // the row type of a set-returning function
fn pins() -> TableIterator<
    'static,
    (
        name!(intent_id, Uuid),
        name!(target_node, Name),
        name!(since, TimestampWithTimeZone),
        name!(snapshot_age, i64),
        name!(tables, Vec<Text>),
        name!(worker_pid, i32),
        name!(target_says, &'static str),
        name!(silent_for, Option<Interval>),
    ),
> {
    require_reader("pins");
    let (held, now) = (held_pins(), Monotonic::now());
    let next = transaction::next_id();
    let rows = held.into_iter().map(|pin| {
        let question = Segment::attach(pin.segment).map(|segment| segment.question()).unwrap_or_default();
        let question: PinQuestion = serde_json::from_slice(&question).unwrap_or(PinQuestion { tables: Vec::new() });
        (
            Uuid::from_bytes(pin.intent.0),
            Name(pin.target_name.as_str().to_owned()),
            pin.since.into(),
            i64::from(next.wrapping_sub(pin.xmin)),
            question.tables.iter().map(|table| Text::of_message(table)).collect(),
            pin.worker_pid,
            says(&pin),
            Interval::from_seconds(pin.silent_for(now).as_secs_f64()).into(),
        )
    });
    TableIterator::new(rows.collect::<Vec<_>>())
}

/// The pins of this database that are held now.
pub fn held_pins() -> Vec<PinEntry> {
    let mut shared = shmem::lock();
    let Some(index) = shared.index_of(process::my_database()) else { return Vec::new() };
    shared.databases()[index].pins.into_iter().filter(|pin| pin.state == PinState::Held).collect()
}

fn says(pin: &PinEntry) -> &'static str {
    match pin.says {
        TargetSays::Ended => "ended",
        TargetSays::Unfinished => "unfinished",
        TargetSays::Nothing => "nothing yet",
    }
}
