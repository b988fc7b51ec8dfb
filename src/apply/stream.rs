//! The receiving end of a rescue's stream: takes what the source sends, answers it, and knows when all has come (the
//! counterpart of worker.c's LogicalRepApplyLoop).
//!
//! The clone's position is never confirmed: a rescue that starts again must find everything there, and skips by origin
//! position what it has applied.

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

/// How often a source that sends nothing is asked how far it is: the end of the range may hold nothing for us.
const ASK_INTERVAL: Duration = Duration::from_millis(100);

/// Of the bytes of an XLogData message: its kind, where it starts and ends, when it was sent.
const DATA_HEADER: usize = 25;

/// Messages between two looks at whether to go on.
const MESSAGES_BETWEEN_LOOKS: u32 = 1_024;

/// Messages between two looks at the clock: few, for a row may take a second where a trigger is slow.
const MESSAGES_BETWEEN_CLOCKS: u32 = 16;

/// A pack is shorter, but for one of a large row, whose memory is given back.
const KEPT_BYTES: usize = 256 << 10;

pub struct Stream {
    connection: WalReceiverConnection,
    /// Messages that came as one, with a NUL behind them that bounds what core's readers take for a string; and how many bytes
    /// of them are taken.
    pack: Vec<u8>,
    taken: usize,
    /// Up to where of its WAL the source has sent what there is to send.
    sent: LocalLsn,
    heard_at: Instant,
    told_at: Instant,
}

/// Who takes what is streamed.
pub trait Receiver {
    /// Takes the first of some messages and returns its length in bytes. An ERROR leaves the transaction open: the caller
    /// aborts it.
    fn handle(&mut self, messages: &[u8]) -> usize;
    /// Between two transactions.
    fn is_idle(&self) -> bool;
}

/// Why the stream has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// All has come.
    Complete,
    /// `goes_on` said no.
    Stopped,
}

impl Stream {
    /// Connects, tells the plugin what to send, and starts. `settings`: name and value of the plugin's session settings.
    pub fn open(
        route: &Route,
        clone: &str,
        settings: &[(&str, String)],
        limit: Duration,
    ) -> Result<Stream, RemoteError> {
        let mut connection = with_limit(limit, || {
            WalReceiverConnection::connect_for_streaming(
                &route.conninfo,
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
        // The source looks for where to begin in the WAL that the clone has kept: bounded by the receiver's own limit.
        connection.start_streaming(&clone).map_err(failed)?;
        let now = Instant::now();
        Ok(Stream { connection, pack: Vec::new(), taken: 0, sent: LocalLsn::ZERO, heard_at: now, told_at: now })
    }

    /// Receives until everything that the source had in its WAL before `until` has come. Loses a source that
    /// is silent for wal_receiver_timeout. ERRORs of applying pass through.
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
                match self.connection.receive() {
                    Received::End => return Err(RemoteError::Lost("the source has ended the stream".to_owned())),
                    Received::Failed(failure) => return Err(failed(failure)),
                    Received::Nothing(readable) => socket = Some(readable),
                    Received::Message(message) => match message.first() {
                        // Copied, for the connection is needed meanwhile.
                        Some(b'w') if message.len() > DATA_HEADER => {
                            self.pack.clear();
                            self.pack.shrink_to(KEPT_BYTES);
                            self.pack.extend_from_slice(&message[DATA_HEADER..]);
                            self.pack.push(0);
                            self.taken = 0;
                            continue;
                        }
                        Some(b'k') => {
                            if let Some(end) = message.get(1..9).and_then(|bytes| bytes.try_into().ok()) {
                                self.sent = self.sent.max(LocalLsn(u64::from_be_bytes(end)));
                            }
                            must_answer = message.get(17) == Some(&1);
                            messages += 1;
                        }
                        _ => messages += 1,
                    },
                }
            }
            let has_come = messages > 0;
            // Also within a transaction: one that is not finished is rolled back, however large.
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

    /// Looks at the clock: something `has_come` until now, and the source is to hear of us every so often.
    fn tell_in_time(&mut self, has_come: bool) {
        let now = Instant::now();
        if has_come {
            self.heard_at = now;
        }
        if walreceiver::status_interval().is_some_and(|interval| now - self.told_at >= interval) {
            self.tell(false);
        }
    }

    /// Nothing has come: asks how far the source is, and waits for what it says.
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

    /// Standby status update: what has come is written, nothing is confirmed (flush and apply 0/0). A sender that shuts
    /// down waits until its last position was written.
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

/// What the source has said of an ERROR that ended the stream. One that says that it leaves is as good as lost.
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
