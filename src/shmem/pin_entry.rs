//! The pins of a database: workers that hold an exported snapshot for the rebuild of another node (src/rebuild/pin.rs).

use super::{Shared, ShortName, TargetSays};
use crate::intent_id::IntentId;
use crate::pg::clock::{Monotonic, Timestamp};
use crate::pg::process;
use pgrx::pg_sys;
use std::time::Duration;

/// The pins of one database. A node has one rebuild at a time, and a source that serves eight at once is in a cluster that
/// has lost most of its nodes.
pub const MAX_PINS: usize = 8;

/// A worker that has not begun within this time after it was asked for never will.
const START_LIMIT: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum PinState {
    /// The place is free.
    Free,
    /// A session has asked for a worker.
    Asked,
    /// The worker takes the snapshot.
    Taking,
    /// The worker holds the snapshot, and its answer is in the segment.
    Held,
    /// The worker could not take it. Why is in the segment, if it could say so.
    Failed,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct PinEntry {
    pub intent: IntentId,
    pub state: PinState,
    /// Tells the pins of this place apart.
    pub number: u64,
    /// The target's foreign server, for the poller that asks it.
    pub target: pg_sys::Oid,
    pub target_name: ShortName,
    /// The segment of dynamic shared memory with question and answer.
    pub segment: u32,
    pub worker_pid: i32,
    /// The session that has asked for the worker.
    pub asked_by: i32,
    pub asked_at: Monotonic,
    /// For how long commits may be held back while the snapshot is taken.
    pub lease_ms: u32,
    /// How long the snapshot is held at most.
    pub lifetime_ms: u64,
    /// When the snapshot was taken.
    pub since: Timestamp,
    pub held_at: Monotonic,
    /// When the target last said that the rebuild is unfinished; never: it has not answered yet.
    pub heard_at: Monotonic,
    pub says: TargetSays,
    /// release_pin() was called.
    pub is_released: bool,
    /// The oldest transaction that the snapshot does not see as over.
    pub xmin: u32,
}

impl PinEntry {
    pub const FREE: PinEntry = PinEntry {
        intent: IntentId([0; 16]),
        state: PinState::Free,
        number: 0,
        target: pg_sys::InvalidOid,
        target_name: ShortName::EMPTY,
        segment: 0,
        worker_pid: 0,
        asked_by: 0,
        asked_at: Monotonic::NEVER,
        lease_ms: 0,
        lifetime_ms: 0,
        since: Timestamp::NEVER,
        held_at: Monotonic::NEVER,
        heard_at: Monotonic::NEVER,
        says: TargetSays::Nothing,
        is_released: false,
        xmin: 0,
    };

    /// For how long the target has not said that the rebuild is unfinished, since the pin was taken.
    pub fn silent_for(&self, now: Monotonic) -> Duration {
        now.since(self.heard_at.max(self.held_at))
    }

    /// Whether a process works for this pin, or is about to.
    fn is_alive(&self, now: Monotonic) -> bool {
        match self.state {
            PinState::Free => false,
            PinState::Asked => now.since(self.asked_at) < START_LIMIT && process::is_backend(self.asked_by),
            PinState::Taking | PinState::Held => process::is_backend(self.worker_pid),
            PinState::Failed => process::is_backend(self.asked_by),
        }
    }
}

/// What a session that asks for a pin finds.
pub enum PinPlace {
    /// The place that was entered.
    New(usize),
    /// The pin of this intent is there, or is being taken.
    Known(usize),
    /// All places are in use.
    Full,
}

impl Shared {
    /// Enters a pin that a session asks for, unless its intent has one. The pin's number is written into `wanted`.
    pub fn ask_for_pin(&mut self, index: usize, wanted: &mut PinEntry) -> PinPlace {
        let now = Monotonic::now();
        let pins = &mut self.databases()[index].pins;
        // One that was released is about to end, and its snapshot with it.
        let is_known = |pin: &PinEntry| {
            pin.intent == wanted.intent && pin.is_alive(now) && pin.state != PinState::Failed && !pin.is_released
        };
        if let Some(place) = pins.iter().position(is_known) {
            return PinPlace::Known(place);
        }
        let Some(place) = pins.iter().position(|pin| !pin.is_alive(now)) else { return PinPlace::Full };
        wanted.number = pins.iter().map(|pin| pin.number).max().unwrap_or(0) + 1;
        *wanted = PinEntry { state: PinState::Asked, asked_at: now, ..*wanted };
        pins[place] = *wanted;
        PinPlace::New(place)
    }

    /// The pin at a place, if it is still the one with this number.
    pub fn pin(&mut self, index: usize, place: usize, number: u64) -> Option<&mut PinEntry> {
        let pin = self.databases().get_mut(index)?.pins.get_mut(place)?;
        (pin.state != PinState::Free && pin.number == number).then_some(pin)
    }
}
