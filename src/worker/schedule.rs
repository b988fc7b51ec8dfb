//! Makes restore points by the clock (spock.restore_point_interval). Of all nodes that answer, the one with the lowest
//! name does so, whether the others know the setting or not. While a node is away, the points are those of the others.

use super::start;
use crate::guc;
use crate::node::provider::Peer;
use crate::node_name::NodeName;
use crate::pg::clock::{Monotonic, Timestamp};
use crate::pg::process;
use crate::shmem::{self, JobState, PeerKey, PeerState, PointJob};
use std::time::Duration;

/// The lease of these points: that of create_restore_point().
const LEASE_MS: u32 = 1_000;

pub struct Schedule {
    index: usize,
    /// When the last point was asked for, or this manager began.
    last: Monotonic,
    /// The number of the last job, while its outcome was not looked at.
    asked: Option<u64>,
}

impl Schedule {
    pub fn new(index: usize) -> Schedule {
        Schedule { index, last: Monotonic::now(), asked: None }
    }

    /// Asks for a restore point if one is due. Returns how long to sleep at most.
    pub fn keep(&mut self, local: &NodeName, peers: &[Peer]) -> Duration {
        self.tell_outcome();
        let now = Monotonic::now();
        let silent = self.silent();
        let is_away = |peer: &Peer| silent.contains(&PeerKey::Node(peer.id));
        let is_lowest = peers.iter().all(|peer| *local < peer.name || is_away(peer));
        let Some(wait) = time_left(guc::restore_point_interval(), is_lowest, now.since(self.last)) else {
            // Another node's business, or nobody's.
            self.note_made();
            return Duration::MAX;
        };
        if !wait.is_zero() {
            return wait;
        }
        self.last = now;
        self.asked = self.ask(!peers.iter().any(is_away));
        guc::manager_naptime()
    }

    /// The peers that have been asked and do not answer.
    fn silent(&self) -> Vec<PeerKey> {
        let mut shared = shmem::lock();
        let peers = shared.peers(self.index).iter();
        peers.filter(|peer| peer.state == PeerState::Unreachable).map(|peer| peer.key).collect()
    }

    /// Puts the job into shared memory and starts its worker. None: another point is being made, or no worker is free.
    ///
    /// The name holds the moment and the database: WAL is that of the whole server, and recovery stops at the first record
    /// of a name.
    fn ask(&self, drain: bool) -> Option<u64> {
        let name = format!("auto-{}-{}", Timestamp::now().in_a_name(), process::my_database().to_u32());
        let wanted = PointJob { lease_ms: LEASE_MS, drain, is_automatic: true, ..PointJob::FREE };
        let Some(number) = shmem::lock().ask_for_point(self.index, &name, wanted) else {
            // A lasting one would be a fault as well.
            self.note_failed("another restore point was being made");
            return None;
        };
        if start::start_restore_point_worker(self.index, &name).is_err() {
            shmem::lock().give_up_point(self.index, number);
            pgrx::warning!("restore point \"{name}\" was not made: no background worker is free");
            self.note_failed("no background worker is free");
            return None;
        }
        Some(number)
    }

    /// For the health check.
    fn note_failed(&self, why: &str) {
        let mut shared = shmem::lock();
        let manager = &mut shared.databases()[self.index].manager;
        manager.points_failed = manager.points_failed.saturating_add(1);
        manager.point_failure.set(why);
    }

    fn note_made(&self) {
        shmem::lock().databases()[self.index].manager.points_failed = 0;
    }

    fn tell_outcome(&mut self) {
        let Some(asked) = self.asked else { return };
        let job = *shmem::lock().point_job(self.index);
        match job.state {
            _ if job.number != asked => self.asked = None,
            JobState::Asked | JobState::Running => (),
            JobState::None => self.asked = None,
            JobState::Done => {
                self.asked = None;
                self.note_made();
            }
            JobState::Failed => {
                self.asked = None;
                self.note_failed(job.error.message.as_str());
                pgrx::warning!("restore point \"{}\" was not made: {}", job.name.as_str(), job.error.message.as_str());
            }
        }
    }
}

/// How long until the next point is due (pure); None: this node makes none.
fn time_left(interval: Option<Duration>, is_lowest: bool, since_last: Duration) -> Option<Duration> {
    interval.filter(|_| is_lowest).map(|interval| interval.saturating_sub(since_last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_lowest_node_makes_points_and_only_if_it_is_told_to() {
        let (minute, second) = (Duration::from_secs(60), Duration::from_secs(1));
        for (interval, is_lowest, since, expected) in [
            (None, true, minute, None),
            (Some(minute), false, minute, None),
            (Some(minute), true, second, Some(minute - second)),
            (Some(minute), true, minute, Some(Duration::ZERO)),
            (Some(minute), true, minute * 2, Some(Duration::ZERO)),
        ] {
            assert_eq!(time_left(interval, is_lowest, since), expected, "{interval:?} {is_lowest} {since:?}");
        }
    }
}
