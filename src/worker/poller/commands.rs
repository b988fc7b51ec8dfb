//! Runs on the peer what a worker of this database gives to all pollers at the same time (shmem/broadcast.rs).

use super::Poller;
use crate::pg::clock::Monotonic;
use crate::pg::latch::{self, WaitEvent};
use crate::pg::{interrupts, transaction};
use crate::remote::error::RemoteError;
use crate::shmem::{self, AnswerState, BroadcastAnswer, LongText};
use std::time::Duration;

/// How long to wait at a time for the next command: the sender may have died.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

struct Command {
    number: u64,
    text: String,
    limit: Duration,
}

impl Poller {
    /// Runs the commands for this peer, until the sender has no more of them.
    pub(super) fn serve(&mut self) {
        while let Some(command) = self.next_command() {
            let answer = self.run_command(&command);
            let sender = {
                let mut shared = shmem::lock();
                shared.answers(self.index)[self.peer] = answer;
                let (entry, _) = shared.broadcast_of(self.index);
                entry.sender_pid
            };
            latch::wake(sender);
        }
    }

    fn next_command(&mut self) -> Option<Command> {
        loop {
            if interrupts::shutdown_requested() {
                return None;
            }
            interrupts::check();
            let (entry, text, answered) = {
                let mut shared = shmem::lock();
                let (entry, text) = shared.broadcast_of(self.index);
                (entry, text, shared.answers(self.index)[self.peer].number)
            };
            let now = Monotonic::now();
            if entry.number != entry.first && self.serves != entry.first {
                return None;
            }
            if !entry.is_to(self.peer) || now >= entry.attention_until {
                return None;
            }
            if entry.number != answered {
                self.serves = entry.first;
                return Some(Command { number: entry.number, text, limit: entry.until.since(now) });
            }
            latch::wait(Some(entry.attention_until.since(now).min(LOOK_AGAIN)), WaitEvent::PollerMain);
        }
    }

    fn run_command(&mut self, command: &Command) -> BroadcastAnswer {
        let connection = self.connection.as_mut().map(|(_, connection)| connection);
        let answer = connection.ok_or_else(|| RemoteError::Lost("no connection".to_owned())).and_then(|connection| {
            transaction::run_without_snapshot(|| connection.query_for(command.limit, &command.text, 1))
        });
        let value = answer.and_then(|rows| match rows.first() {
            Some(row) => row.value::<String>(0),
            None => Err(RemoteError::Unexpected("no row".to_owned())),
        });
        let mut text = LongText::EMPTY;
        let (state, sqlstate) = match &value {
            Ok(value) => {
                text.set(value);
                (AnswerState::Done, [0; 5])
            }
            Err(error) => {
                let code = error.said().and_then(|(code, ..)| code.as_bytes().try_into().ok()).unwrap_or([0; 5]);
                let message = match error {
                    RemoteError::Peer { message, .. } => message.clone(),
                    other => other.to_string(),
                };
                text.set(&message[..message.floor_char_boundary(LongText::CAPACITY)]);
                (AnswerState::Failed, code)
            }
        };
        if value.is_err() {
            self.recover_session();
        }
        BroadcastAnswer { number: command.number, state, sqlstate, text }
    }

    /// After a failure the session may be within an aborted transaction, or gone.
    fn recover_session(&mut self) {
        let Some((_, connection)) = &mut self.connection else { return };
        if transaction::run_without_snapshot(|| connection.command("ROLLBACK")).is_err() {
            self.connection = None;
        }
    }
}
