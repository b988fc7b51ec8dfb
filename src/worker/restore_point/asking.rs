//! How the worker asks all peers at the same time: it gives their pollers a command and waits for the answers.

use crate::guc;
use crate::node::provider::Peer;
use crate::pg::clock::Monotonic;
use crate::pg::interrupts;
use crate::pg::latch::{self, WaitEvent};
use crate::remote::argument;
use crate::restore_point::error::RestorePointError;
use crate::restore_point::step;
use crate::shmem::{self, AnswerState, PeerKey, PeerState};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::time::Duration;

/// A question to all peers.
pub struct Asked {
    text: String,
    limit: Duration,
}

fn call(step: &str, json: &str) -> String {
    format!("SELECT spock_internal.restore_point_step({}, {})", argument::text(Some(step)), argument::text(Some(json)))
}

fn limited(limit: Duration) -> String {
    format!("SET LOCAL statement_timeout = {}", limit.as_millis())
}

impl Asked {
    /// A step that writes nothing.
    pub fn reading(step: &str, json: &str, limit: Duration) -> Asked {
        // Statements in one message are one transaction.
        Asked { text: format!("{}; {}", limited(limit), call(step, json)), limit: limit + guc::peer_timeout() }
    }

    /// A step whose changes are committed when it is answered.
    pub fn writing(step: &str, json: &str, limit: Duration) -> Asked {
        let text = format!("SET TRANSACTION READ WRITE; {}; {}", limited(limit), call(step, json));
        Asked { text, limit }
    }

    /// The steps save and mark: the first is committed before the second one begins.
    pub fn marking(json: &str, limit: Duration) -> Asked {
        let (limits, save, mark) = (limited(limit), call(step::SAVE, "{}"), call(step::MARK, json));
        Asked { text: format!("BEGIN READ WRITE; {limits}; {save}; COMMIT; {limits}; {mark}"), limit }
    }
}

pub fn json(value: &impl Serialize) -> String {
    crate::document::to_text(value)
}

/// Reads a node's answer.
pub fn answer<T: DeserializeOwned>(node: &str, text: &str) -> Result<T, RestorePointError> {
    serde_json::from_str(text).map_err(|_| RestorePointError::PeerFailed {
        node: node.to_owned(),
        sqlstate: String::new(),
        message: "its answer has another form".to_owned(),
    })
}

/// The peers that take part.
pub struct Peers {
    index: usize,
    /// Their places in shared memory, and their names.
    present: Vec<(usize, String)>,
    /// The names of those that do not answer, with the reason.
    pub absent: Vec<(String, String)>,
}

/// A command that was given.
#[derive(Clone, Copy)]
pub struct Sent {
    number: u64,
    until: Monotonic,
}

pub type Answer = (String, Result<String, RestorePointError>);

impl Peers {
    /// Finds the peers and which of them answer.
    pub fn find(index: usize, peers: &[Peer]) -> Peers {
        let mut found = Peers { index, present: Vec::new(), absent: Vec::new() };
        let mut shared = shmem::lock();
        for peer in peers {
            let entries = shared.peers(index);
            let place = entries.iter().position(|entry| entry.key == PeerKey::Node(peer.id));
            let name = peer.name.to_string();
            match place.map(|place| (place, &entries[place])) {
                Some((place, entry)) if entry.state == PeerState::Connected && entry.poller_pid != 0 => {
                    found.present.push((place, name));
                }
                Some((_, entry)) if !entry.error.as_str().is_empty() => {
                    found.absent.push((name, format!("This node finds: {}", entry.error.as_str())));
                }
                _ => found.absent.push((name, "It has not answered yet".to_owned())),
            }
        }
        found
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.present.iter().map(|(_, name)| name.as_str())
    }

    /// Asks all peers, and returns their answers.
    pub fn ask(&self, asked: &Asked) -> Result<Vec<Answer>, RestorePointError> {
        Ok(self.collect(self.send(asked)?))
    }

    /// Gives the command to the pollers.
    pub fn send(&self, asked: &Asked) -> Result<Sent, RestorePointError> {
        let until = Monotonic(Monotonic::now().0 + asked.limit.as_micros() as u64);
        let places: Vec<usize> = self.present.iter().map(|(place, _)| *place).collect();
        let number = shmem::lock().broadcast(self.index, &places, &asked.text, until);
        Ok(Sent { number: number.ok_or(RestorePointError::TooManyNodes)?, until })
    }

    /// Waits for the answers to a command, each peer's with its name.
    pub fn collect(&self, sent: Sent) -> Vec<Answer> {
        loop {
            let answers = self.look(sent);
            let now = Monotonic::now();
            if answers.iter().all(|(_, answer)| answer.is_some()) || now >= sent.until {
                return answers
                    .into_iter()
                    .map(|(name, answer)| {
                        let silent = || RestorePointError::PeerSilent {
                            node: name.clone(),
                            why: "It has not answered in time".to_owned(),
                        };
                        let answer = answer.unwrap_or_else(|| Err(silent()));
                        (name, answer)
                    })
                    .collect();
            }
            interrupts::check();
            latch::wait(Some(sent.until.since(now)), WaitEvent::RestorePoint);
        }
    }

    /// The answers that are there.
    fn look(&self, sent: Sent) -> Vec<(String, Option<Result<String, RestorePointError>>)> {
        let mut shared = shmem::lock();
        let answers = shared.answers(self.index);
        let look = |(place, name): &(usize, String)| {
            let answer = &answers[*place];
            let text = answer.text.as_str().to_owned();
            let found = match answer.state {
                _ if answer.number != sent.number => None,
                AnswerState::Pending => None,
                AnswerState::Done => Some(Ok(text)),
                AnswerState::Failed => Some(Err(RestorePointError::PeerFailed {
                    node: name.clone(),
                    sqlstate: String::from_utf8_lossy(&answer.sqlstate).trim_matches('\0').to_owned(),
                    message: text,
                })),
            };
            (name.clone(), found)
        };
        self.present.iter().map(look).collect()
    }
}
