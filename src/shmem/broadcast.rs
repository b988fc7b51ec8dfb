//! A command that the pollers of a database run on their peers at the same time, and the job of the worker that gives
//! such commands. One process cannot ask several peers at once (libpqwalreceiver waits for each answer); pollers can,
//! and each already has a connection.

use super::{LongText, Shared, ShortName, ShortText};
use crate::guc;
use crate::pg::clock::Monotonic;
use crate::pg::{latch, process};
use std::time::Duration;

/// The command that the pollers of one database are to run. Its text is kept apart, because its length depends on the
/// number of peers.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct BroadcastEntry {
    /// The number of the command; each is run once. Zero: no command was ever given.
    pub number: u64,
    /// The peers that are to run it, by their places: one bit each.
    pub to: [u64; 2],
    /// The number of the sender's first command. A poller that did not run that one runs none of the others: the place
    /// may belong to another peer by now.
    pub first: u64,
    /// Whom to wake when an answer is there.
    pub sender_pid: i32,
    /// Until then a peer may answer.
    pub until: Monotonic,
    /// Until then pollers wait for further commands and ask nothing of their own; never: the sender has finished.
    pub attention_until: Monotonic,
    length: u32,
}

/// What has become of a command at one peer.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AnswerState {
    Pending,
    Done,
    Failed,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct BroadcastAnswer {
    /// The number of the command that is answered.
    pub number: u64,
    pub state: AnswerState,
    /// The SQLSTATE of a failure; zeros: the peer has reported none.
    pub sqlstate: [u8; 5],
    /// The value that the command has returned, or the message of its failure.
    pub text: LongText,
}

/// A restore point that is to be made, or was.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct PointJob {
    /// Counts the jobs of this database.
    pub number: u64,
    pub state: JobState,
    pub asked_at: Monotonic,
    /// The worker that makes it.
    pub worker_pid: i32,
    /// The session that has asked for it.
    pub asked_by: i32,
    pub name: ShortName,
    pub lease_ms: u32,
    /// Every node is to take part, and to be drained.
    pub drain: bool,
    /// The manager has asked for it, by spock.restore_point_interval.
    pub is_automatic: bool,
    pub error: JobError,
    /// Why the point that was made is no better than it is.
    pub note: ShortText,
}

#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum JobState {
    None,
    Asked,
    Running,
    Done,
    Failed,
}

/// Why a job has failed.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct JobError {
    pub sqlstate: [u8; 5],
    pub message: ShortText,
    pub detail: ShortText,
    pub hint: ShortText,
}

impl JobError {
    pub const NONE: JobError =
        JobError { sqlstate: *b"00000", message: ShortText::EMPTY, detail: ShortText::EMPTY, hint: ShortText::EMPTY };
}

impl BroadcastEntry {
    /// Whether the peer at this place is to run the command.
    pub fn is_to(&self, place: usize) -> bool {
        self.to[place / 64] >> (place % 64) & 1 == 1
    }

    pub const FREE: BroadcastEntry = BroadcastEntry {
        number: 0,
        to: [0; 2],
        first: 0,
        sender_pid: 0,
        until: Monotonic::NEVER,
        attention_until: Monotonic::NEVER,
        length: 0,
    };
}

impl BroadcastAnswer {
    pub const FREE: BroadcastAnswer =
        BroadcastAnswer { number: 0, state: AnswerState::Pending, sqlstate: [0; 5], text: LongText::EMPTY };
}

impl PointJob {
    pub const FREE: PointJob = PointJob {
        number: 0,
        state: JobState::None,
        asked_at: Monotonic::NEVER,
        worker_pid: 0,
        asked_by: 0,
        name: ShortName::EMPTY,
        lease_ms: 0,
        drain: true,
        is_automatic: false,
        error: JobError::NONE,
        note: ShortText::EMPTY,
    };
}

/// The longest command: what is said of each node takes less than 512 bytes. Of these its name takes at most 413: 59
/// characters of one byte, or fewer of which each takes six in JSON and a seventh as its backslash is doubled.
pub(super) fn capacity() -> usize {
    (guc::max_peers() + 4) * 512
}

/// A worker that has not begun within this time after it was asked for never will.
const START_LIMIT: Duration = Duration::from_secs(60);

impl Shared {
    /// Gives the pollers of the peers at these places a command, and wakes them. Returns the command's number; None if its
    /// text is too long.
    pub fn broadcast(&mut self, index: usize, to: &[usize], text: &str, until: Monotonic) -> Option<u64> {
        let bytes = self.broadcast_text(index);
        bytes.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
        let entry = self.broadcast_entry(index);
        entry.number += 1;
        let is_first = entry.sender_pid != process::my_pid() || entry.attention_until.is_never();
        if is_first {
            entry.first = entry.number;
        }
        entry.to = [0; 2];
        to.iter().for_each(|place| entry.to[place / 64] |= 1 << (place % 64));
        entry.sender_pid = process::my_pid();
        entry.until = until;
        entry.attention_until = until;
        entry.length = text.len() as u32;
        let number = entry.number;
        for place in to {
            latch::wake(self.peers(index)[*place].poller_pid);
        }
        Some(number)
    }

    /// Asks for a restore point. Returns the number of the job; None: another one is under way.
    pub fn ask_for_point(&mut self, index: usize, name: &str, wanted: PointJob) -> Option<u64> {
        let now = Monotonic::now();
        let job = self.point_job(index);
        let is_under_way = match job.state {
            JobState::Asked => now.since(job.asked_at) < START_LIMIT,
            JobState::Running => process::is_backend(job.worker_pid),
            JobState::None | JobState::Done | JobState::Failed => false,
        };
        if is_under_way {
            return None;
        }
        *job = PointJob { number: job.number + 1, state: JobState::Asked, asked_at: now, ..wanted };
        job.name.set(name);
        Some(job.number)
    }

    /// Takes back a job that no worker has begun. False: it has begun, or is another one.
    pub fn give_up_point(&mut self, index: usize, number: u64) -> bool {
        let job = self.point_job(index);
        let is_waiting = job.number == number && job.state == JobState::Asked;
        if is_waiting {
            job.state = JobState::None;
        }
        is_waiting
    }

    /// Lets the pollers go back to their own questions.
    pub fn end_broadcasts(&mut self, index: usize) {
        self.broadcast_entry(index).attention_until = Monotonic::NEVER;
    }

    /// The command and its text.
    pub fn broadcast_of(&mut self, index: usize) -> (BroadcastEntry, String) {
        let entry = *self.broadcast_entry(index);
        let bytes = &self.broadcast_text(index)[..entry.length as usize];
        (entry, String::from_utf8_lossy(bytes).into_owned())
    }
}
