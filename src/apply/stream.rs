//! The receiving end of a rescue's stream: receives what the source sends, answers the source, and knows when
//! everything has arrived (the counterpart of worker.c's LogicalRepApplyLoop).
//!
//! The clone's position is never confirmed: a rescue that starts again must find everything there, and skips by origin
//! LSN what it has applied.

use crate::lsn::LocalLsn;
use crate::node::provider::Route;
use crate::pg::clock::Timestamp;
use crate::pg::interrupts;
use crate::pg::latch::{self, WaitEvent};
use crate::pg::text::to_server;
use crate::pg::timeout::{TimedOut, with_limit};
use crate::pg::transaction;
use crate::pg::walreceiver::{self, ConnectionAnswer, Received, StreamFailure, WalReceiverConnection};
use crate::remote::error::RemoteError;
use crate::remote::report::PeerReport;
use std::ffi::{CStr, CString};
use std::time::{Duration, Instant};

/// How often a source that sends nothing is asked for its position: the end of the range may hold nothing for the
/// target.
const ASK_INTERVAL: Duration = Duration::from_millis(100);

/// The length in bytes of an XLogData message's header: its kind, where it starts and ends, and when it was sent.
const DATA_HEADER: usize = 25;

/// The number of messages between two questions whether to go on.
const MESSAGES_BETWEEN_LOOKS: u32 = 1_024;

/// The number of messages between two looks at the clock. It is small, because a row may take a second if a trigger is
/// slow.
const MESSAGES_BETWEEN_CLOCKS: u32 = 16;

/// The memory in bytes that is kept for a pack. Only a pack with a large row is longer; its memory is given back.
const KEPT_BYTES: usize = 256 << 10;

pub struct Stream {
    connection: WalReceiverConnection,
    /// Messages that arrived as one, followed by a NUL that bounds what core's readers take for a string.
    pack: Vec<u8>,
    /// How many bytes of the pack have been handled.
    taken: usize,
    /// The position in the source's WAL up to which it has sent everything that there was to send.
    sent: LocalLsn,
    heard_at: Instant,
    told_at: Instant,
}

/// What has arrived from the source.
enum Arrived {
    Pack,
    /// A message that holds no change.
    Message {
        asks_for_answer: bool,
    },
    /// Nothing yet; the socket becomes readable when there is something.
    Nothing(pgrx::pg_sys::pgsocket),
}

/// Handles what is streamed.
pub trait Receiver {
    /// Handles the first of these messages and returns its length in bytes. An ERROR leaves the transaction open: the
    /// caller aborts it.
    fn handle(&mut self, messages: &[u8]) -> usize;
    /// Whether no transaction is being received.
    fn is_idle(&self) -> bool;
}

/// Why the stream has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// Everything has arrived.
    Complete,
    /// `goes_on` has returned false.
    Stopped,
}

impl Stream {
    /// Connects, sets what the plugin is to send, and starts the stream. `settings` are names and values of the
    /// plugin's session settings.
    ///
    /// # Errors
    ///
    /// If the source does not answer within `limit`, or refuses a setting or the stream.
    pub fn open(
        route: &Route,
        clone: &str,
        settings: &[(&str, String)],
        limit: Duration,
    ) -> Result<Stream, RemoteError> {
        let mut connection = with_limit(limit, || {
            WalReceiverConnection::connect_for_streaming(
                route.dsn.as_c_str(),
                route.must_use_password,
                c"spock_recovery rescue",
            )
        })
        .map_err(|TimedOut| RemoteError::TimedOut(limit))?
        .map_err(RemoteError::Connect)?;
        for (name, value) in settings {
            let command = format!("SET {name} = {}", pgrx::spi::quote_literal(value));
            let command = to_server(&command).ok_or_else(|| RemoteError::Unexpected("a null byte".to_owned()))?;
            execute(&mut connection, &command, limit)?;
        }
        let clone = CString::new(clone).map_err(|_| RemoteError::Unexpected("a null byte".to_owned()))?;
        // The source searches the WAL that the clone has kept for the place to begin at; the receiver's own limit
        // bounds this.
        connection.start_streaming(&clone).map_err(failed)?;
        let now = Instant::now();
        Ok(Stream { connection, pack: Vec::new(), taken: 0, sent: LocalLsn::ZERO, heard_at: now, told_at: now })
    }

    /// Receives until everything that the source had in its WAL before `until` has arrived. ERRORs raised in applying
    /// pass through.
    ///
    /// # Errors
    ///
    /// If the source ends the stream, or is silent for wal_receiver_timeout.
    pub fn run<R: Receiver>(
        &mut self,
        receiver: &mut R,
        until: LocalLsn,
        mut is_complete: impl FnMut(&R) -> bool,
        mut goes_on: impl FnMut(&R) -> bool,
    ) -> Result<Ended, RemoteError> {
        let mut messages = 0;
        loop {
            interrupts::check_signals();
            if receiver.is_idle() && (self.sent >= until || is_complete(receiver)) {
                return Ok(Ended::Complete);
            }
            let mut must_answer = false;
            let mut socket = None;
            let end = self.pack.len().saturating_sub(1);
            if self.taken < end {
                self.taken += receiver.handle(&self.pack[self.taken..end]);
                messages += 1;
            } else {
                match self.receive()? {
                    Arrived::Pack => continue,
                    Arrived::Nothing(readable) => socket = Some(readable),
                    Arrived::Message { asks_for_answer } => {
                        must_answer = asks_for_answer;
                        messages += 1;
                    }
                }
            }
            let has_come = messages > 0;
            // The receiver may be stopped within a transaction as well: an unfinished transaction is rolled back,
            // however large.
            if socket.is_some() || messages >= MESSAGES_BETWEEN_LOOKS {
                messages = 0;
                interrupts::check();
                interrupts::reload_config_if_asked();
                if !goes_on(receiver) {
                    return Ok(Ended::Stopped);
                }
            }
            if must_answer {
                self.tell(false);
            } else if messages.is_multiple_of(MESSAGES_BETWEEN_CLOCKS) {
                self.tell_in_time(has_come);
            }
            if let Some(socket) = socket {
                self.wait(socket)?;
            }
        }
    }

    /// Takes what has arrived from the connection, without waiting. A pack is kept for [`Stream::run`] to handle.
    fn receive(&mut self) -> Result<Arrived, RemoteError> {
        let message = match self.connection.receive() {
            Received::End => return Err(RemoteError::Lost("the source has ended the stream".to_owned())),
            Received::Failed(failure) => return Err(failed(failure)),
            Received::Nothing(readable) => return Ok(Arrived::Nothing(readable)),
            Received::Message(message) => message,
        };
        match message.first() {
            // The message is copied, because the connection is needed while the message is handled.
            Some(b'w') if message.len() > DATA_HEADER => {
                self.pack.clear();
                self.pack.shrink_to(KEPT_BYTES);
                self.pack.extend_from_slice(&message[DATA_HEADER..]);
                self.pack.push(0);
                self.taken = 0;
                Ok(Arrived::Pack)
            }
            Some(b'k') => {
                if let Some(end) = message.get(1..9).and_then(|bytes| bytes.try_into().ok()) {
                    self.sent = self.sent.max(LocalLsn(u64::from_be_bytes(end)));
                }
                Ok(Arrived::Message { asks_for_answer: message.get(17) == Some(&1) })
            }
            _ => Ok(Arrived::Message { asks_for_answer: false }),
        }
    }

    /// Looks at the clock. `has_come`: something has arrived. The source gets a report every
    /// wal_receiver_status_interval.
    fn tell_in_time(&mut self, has_come: bool) {
        let now = Instant::now();
        if has_come {
            self.heard_at = now;
        }
        if walreceiver::status_interval().is_some_and(|interval| now - self.told_at >= interval) {
            self.tell(false);
        }
    }

    /// Nothing has arrived: asks the source for its position, and waits for its answer.
    fn wait(&mut self, socket: pgrx::pg_sys::pgsocket) -> Result<(), RemoteError> {
        if let Some(limit) = walreceiver::receiver_timeout()
            && self.heard_at.elapsed() >= limit
        {
            return Err(RemoteError::TimedOut(limit));
        }
        if self.told_at.elapsed() >= ASK_INTERVAL {
            self.tell(true);
        }
        latch::wait_for_socket(socket, ASK_INTERVAL, WaitEvent::RescueReceive);
        Ok(())
    }

    /// Sends a standby status update. What has arrived is reported as written, and nothing as flushed or applied (0/0),
    /// so that nothing is confirmed. A walsender that shuts down waits until its last position is reported as written.
    fn tell(&mut self, asks_for_reply: bool) {
        let mut message = Vec::with_capacity(34);
        message.push(b'r');
        message.extend_from_slice(&self.sent.0.to_be_bytes());
        message.extend_from_slice(&[0; 16]);
        message.extend_from_slice(&Timestamp::now().0.to_be_bytes());
        message.push(u8::from(asks_for_reply));
        self.connection.send(&message);
        self.told_at = Instant::now();
    }
}

/// The error for a stream that has ended. A source that ends it because it is shutting down counts as lost.
fn failed(failure: StreamFailure) -> RemoteError {
    let report = PeerReport::parse(&failure.message);
    if failure.is_lost || report.sqlstate.starts_with("57P") {
        RemoteError::Lost(report.message)
    } else {
        RemoteError::Stream(Box::new(report))
    }
}

fn execute(connection: &mut WalReceiverConnection, command: &CStr, limit: Duration) -> Result<(), RemoteError> {
    let answer = transaction::run_without_snapshot(|| with_limit(limit, || connection.execute(command, 0)))
        .map_err(|TimedOut| RemoteError::TimedOut(limit))?;
    match answer {
        ConnectionAnswer::Error { sqlstate: None, message } => Err(RemoteError::Lost(message)),
        ConnectionAnswer::Error { sqlstate: code, message } => {
            Err(RemoteError::of_peer(PeerReport::parse(&message).with_sqlstate(code)))
        }
        _ => Ok(()),
    }
}
