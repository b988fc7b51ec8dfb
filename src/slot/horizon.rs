//! How far the recovery slot may advance (pure).
//!
//! This server, S, must keep every transaction of every origin X that some other subscriber P of X has not durably
//! applied. S pairs, again and again, a position of its own WAL with how far it had applied X then; the slot may go to
//! the newest such position whose X part every P has passed. S's own outgoing slots say nothing about this: with
//! origin = none they move past X's transactions whether P has them or not.

use crate::lsn::{LocalLsn, OriginLsn};
use std::collections::VecDeque;

/// Samples that are kept of one origin. With two seconds between them the newest quarter covers four minutes one by
/// one; what is older is thinned out, never forgotten, so that a peer that lags for days still frees WAL in steps.
const CAPACITY: usize = 512;

/// X's commits that stand in this server's WAL before `local` have origin positions up to `origin`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sample {
    pub origin: OriginLsn,
    pub local: LocalLsn,
    /// Microseconds since 2000, when `origin` was first seen.
    pub taken_at: i64,
}

/// The samples of one origin, oldest first, strictly rising in both positions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Samples(VecDeque<Sample>);

impl Samples {
    /// Adds a sample. One that says no more than the newest is ignored; one with the same origin position replaces it,
    /// for an idle X makes no new transaction while this server's WAL grows.
    pub fn push(&mut self, sample: Sample) {
        if let Some(newest) = self.0.back_mut() {
            if sample.local <= newest.local || sample.origin < newest.origin {
                return;
            }
            if sample.origin == newest.origin {
                newest.local = sample.local;
                return;
            }
        }
        if self.0.len() == CAPACITY {
            self.thin_out();
        }
        self.0.push_back(sample);
    }

    /// Every second one of the older three quarters goes. A sample that is missing makes the slot keep more and
    /// `released` larger, never the other way round.
    fn thin_out(&mut self) {
        let older = CAPACITY / 4 * 3;
        let mut index = 0;
        self.0.retain(|_| {
            index += 1;
            index > older || index % 2 == 1
        });
    }

    /// The newest sample whose transactions `passed` covers.
    pub fn newest_within(&self, passed: OriginLsn) -> Option<&Sample> {
        let count = self.0.partition_point(|sample| sample.origin <= passed);
        count.checked_sub(1).and_then(|index| self.0.get(index))
    }

    /// The oldest sample at or beyond a position of this server's WAL: what went before that position is at most its
    /// `origin`.
    pub fn oldest_at_or_beyond(&self, local: LocalLsn) -> Option<&Sample> {
        self.0.get(self.0.partition_point(|sample| sample.local < local))
    }

    /// The oldest sample with transactions that `passed` does not cover.
    pub fn oldest_beyond(&self, passed: OriginLsn) -> Option<&Sample> {
        self.0.get(self.0.partition_point(|sample| sample.origin <= passed))
    }

    pub fn newest(&self) -> Option<&Sample> {
        self.0.back()
    }

    /// Forgets what the slot has left behind, but the last of it.
    pub fn forget_before(&mut self, local: LocalLsn) {
        let behind = self.0.partition_point(|sample| sample.local < local);
        self.0.drain(..behind.saturating_sub(1));
    }
}

/// What is known of a peer's progress through one origin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// It does not subscribe to the origin, or is the origin itself: it needs nothing of it.
    NotSubscribed,
    /// Never heard of, or it does not know itself. Holds everything.
    Unknown,
    Passed(OriginLsn),
}

/// Why an origin holds the slot back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hold {
    /// Nothing is known of what this server has of the origin.
    NoSample,
    /// The peer of this index.
    Peer(usize),
}

/// How far one origin lets the slot go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Allowance {
    /// None: not at all.
    pub local: Option<LocalLsn>,
    /// What keeps it from the newest sample; None if nothing does.
    pub hold: Option<Hold>,
}

/// How far origin X lets the slot go, given how far each peer has passed X.
pub fn allowance(samples: &Samples, peers: &[Progress]) -> Allowance {
    let Some(newest) = samples.newest() else {
        return Allowance { local: None, hold: Some(Hold::NoSample) };
    };
    let mut least: Option<(usize, OriginLsn)> = None;
    for (index, progress) in peers.iter().enumerate() {
        match *progress {
            Progress::NotSubscribed => (),
            Progress::Unknown => {
                return Allowance { local: None, hold: Some(Hold::Peer(index)) };
            }
            Progress::Passed(passed) => {
                if least.is_none_or(|(_, so_far)| passed < so_far) {
                    least = Some((index, passed));
                }
            }
        }
    }
    match least {
        Some((index, passed)) if passed < newest.origin => {
            Allowance { local: samples.newest_within(passed).map(|sample| sample.local), hold: Some(Hold::Peer(index)) }
        }
        _ => Allowance { local: Some(newest.local), hold: None },
    }
}

/// How far the slot may go over all origins: the least counts. `end`: where there is no origin, nothing needs keeping.
pub fn horizon(allowances: &[Allowance], end: LocalLsn) -> Option<LocalLsn> {
    allowances.iter().map(|allowance| allowance.local).min().unwrap_or(Some(end))
}

#[cfg(test)]
#[path = "horizon_tests.rs"]
mod tests;
