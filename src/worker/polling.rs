//! A manager's pollers: which are wanted, which run, and when a poller that has ended is started again.

use super::error::NoRoom;
use super::start;
use crate::pg::clock::Monotonic;
use crate::pg::interrupts;
use crate::shmem::{self, PeerEntry, PeerKey};
use crate::{backoff, guc};
use std::time::Duration;

/// A poller that has not started within this time never will.
const START_LIMIT: Duration = Duration::from_secs(30);

/// Time until the next attempt when the server has no free worker slot.
const NO_ROOM_RETRY: Duration = Duration::from_secs(10);

/// A poller is taken to hang, and is terminated, when its question has been open for this many times
/// spock.peer_timeout: name resolution has no time limit of its own.
const HANGING: u32 = 6;

/// A poller that should run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedPoller {
    pub key: PeerKey,
    /// The peer or subscription, as the process title names it.
    pub name: String,
}

/// What to do about one peer's poller (pure).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Nothing,
    Start,
    /// Start it after this time, because it has failed lately.
    Wait(Duration),
    /// Terminate it; a later round starts it again.
    End,
}

pub struct Pollers {
    index: usize,
    said_full: bool,
    said_no_slot: bool,
}

impl Pollers {
    pub fn new(index: usize) -> Pollers {
        Pollers { index, said_full: false, said_no_slot: false }
    }

    /// Starts and terminates pollers until exactly the wanted ones run. Returns how long to sleep.
    pub fn keep(&mut self, wanted: &[WantedPoller]) -> Duration {
        let mut end = Vec::new();
        let mut start = Vec::new();
        let mut nap = guc::manager_naptime();
        let mut overflow = false;
        {
            let now = Monotonic::now();
            let mut shared = shmem::lock();
            let peers = shared.peers(self.index);
            for peer in peers.iter_mut().filter(|peer| peer.key != PeerKey::None) {
                if !wanted.iter().any(|wanted| wanted.key == peer.key) {
                    end.push(peer.poller_pid);
                    // A poller that still runs keeps its entry until it has exited.
                    if peer.poller_pid == 0 {
                        *peer = PeerEntry::FREE;
                    }
                }
            }
            for wanted in wanted {
                let known = peers.iter().position(|peer| peer.key == wanted.key);
                let free = || peers.iter().position(|peer| peer.key == PeerKey::None);
                let Some(place) = known.or_else(free) else {
                    overflow = true;
                    continue;
                };
                let peer = &mut peers[place];
                if known.is_none() {
                    *peer = PeerEntry::new(wanted.key);
                }
                match action(peer, now, guc::peer_timeout()) {
                    Action::Nothing => (),
                    Action::Wait(wait) => nap = nap.min(wait),
                    Action::End => end.push(peer.poller_pid),
                    Action::Start => {
                        let run = now.since(peer.started_at);
                        peer.failures = backoff::failures_after(run, peer.failures);
                        peer.started_at = now;
                        peer.is_coming_up = true;
                        start.push((place, wanted.name.clone()));
                    }
                }
            }
        }
        end.into_iter().for_each(interrupts::terminate);
        for (place, name) in start {
            if !self.start(place, &name) {
                nap = nap.min(NO_ROOM_RETRY);
            }
        }
        if overflow && !self.said_full {
            NoRoom::Peers { max_peers: guc::max_peers() }.warn();
        }
        self.said_full = overflow;
        nap
    }

    /// Returns false if the server has no free worker slot.
    fn start(&mut self, place: usize, name: &str) -> bool {
        let started = start::start_poller(self.index, place, name).is_ok();
        if !started {
            // No process was started, so the next attempt need not wait as it would after a failure.
            let mut shared = shmem::lock();
            let peer = &mut shared.peers(self.index)[place];
            peer.started_at = Monotonic::NEVER;
            peer.is_coming_up = false;
        }
        if !started && !self.said_no_slot {
            NoRoom::Poller { peer: name.to_owned() }.warn();
        }
        self.said_no_slot = !started;
        started
    }
}

/// What to do about a peer's poller. `started_at` is when a poller was last requested; a pid of zero means that none
/// runs.
fn action(peer: &PeerEntry, now: Monotonic, peer_timeout: Duration) -> Action {
    if peer.poller_pid != 0 {
        let hangs = peer.asked_at > peer.answered_at && now.since(peer.asked_at) > peer_timeout * HANGING;
        return if hangs { Action::End } else { Action::Nothing };
    }
    if peer.started_at.is_never() {
        return Action::Start;
    }
    let since = now.since(peer.started_at);
    if peer.is_coming_up && since < START_LIMIT {
        return Action::Wait(START_LIMIT - since);
    }
    let due = backoff::delay(peer.failures);
    if since >= due { Action::Start } else { Action::Wait(due - since) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(5);
    const T0: Monotonic = Monotonic(1_000_000_000);

    fn at(seconds: u64) -> Monotonic {
        Monotonic(T0.0 + seconds * 1_000_000)
    }

    fn peer() -> PeerEntry {
        PeerEntry::new(PeerKey::Node(pgrx::pg_sys::Oid::from_u32(1)))
    }

    #[test]
    fn a_peer_without_a_poller_gets_one_at_once() {
        assert_eq!(action(&peer(), T0, TIMEOUT), Action::Start);
    }

    #[test]
    fn a_poller_that_is_coming_up_is_waited_for_but_not_for_ever() {
        let mut starting = peer();
        (starting.started_at, starting.is_coming_up) = (T0, true);
        assert_eq!(action(&starting, at(1), TIMEOUT), Action::Wait(START_LIMIT - Duration::from_secs(1)));
        assert_eq!(action(&starting, at(30), TIMEOUT), Action::Start);
    }

    #[test]
    fn a_poller_that_has_ended_is_started_again_the_later_the_more_often_it_failed() {
        let mut ended = peer();
        ended.started_at = T0;
        assert_eq!(action(&ended, at(0), TIMEOUT), Action::Start);
        let mut failed = ended;
        failed.failures = 4;
        assert_eq!(action(&failed, at(1), TIMEOUT), Action::Wait(Duration::from_secs(3)));
        assert_eq!(action(&failed, at(4), TIMEOUT), Action::Start);
    }

    #[test]
    fn a_poller_is_ended_only_when_it_hangs_far_beyond_the_time_limit() {
        let mut running = peer();
        (running.poller_pid, running.started_at, running.asked_at) = (7, T0, T0);
        assert_eq!(action(&running, at(30), TIMEOUT), Action::Nothing);
        assert_eq!(action(&running, at(31), TIMEOUT), Action::End);
        let mut answered = running;
        answered.answered_at = at(1);
        assert_eq!(action(&answered, at(3600), TIMEOUT), Action::Nothing);
    }
}
