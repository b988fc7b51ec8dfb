//! How far the recovery slot may advance (pure).
//!
//! This server, S, must keep every transaction of every origin X that some other subscriber P of X has not durably
//! applied. S takes samples: a position of its own WAL, paired with how far S had applied X at that moment. The slot
//! may advance to the newest such position whose part of X every P has passed. S's own outgoing slots say nothing about
//! this: with origin = none they move past X's transactions whether P has them or not.

use crate::lsn::{LocalLsn, OriginLsn};
use crate::pg::clock::Timestamp;
use std::collections::VecDeque;

/// Samples kept for each origin. At one sample every two seconds, the newest quarter covers four minutes without gaps.
/// Older samples are thinned out but never all dropped, so that a peer that lags for days still frees WAL in steps.
const CAPACITY: usize = 512;

/// The commits of X before `local` in this server's WAL have origin positions up to `origin`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sample {
    pub origin: OriginLsn,
    pub local: LocalLsn,
    /// When `origin` was first seen.
    pub taken_at: Timestamp,
}

/// The samples of one origin, oldest first, strictly rising in both positions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Samples(VecDeque<Sample>);

impl Samples {
    /// Adds a sample. It is ignored if it says no more than the newest one. It replaces the newest one if `origin` is
    /// the same: while X is idle, only this server's WAL grows.
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

    /// Drops every second sample of the older three quarters. A missing sample makes the slot keep more and `released`
    /// larger, never the reverse.
    fn thin_out(&mut self) {
        let older = CAPACITY / 4 * 3;
        let mut index = 0;
        self.0.retain(|_| {
            index += 1;
            index > older || index % 2 == 1
        });
    }

    /// The newest sample whose `origin` is not beyond `passed`.
    pub fn newest_within(&self, passed: OriginLsn) -> Option<&Sample> {
        let count = self.0.partition_point(|sample| sample.origin <= passed);
        count.checked_sub(1).and_then(|index| self.0.get(index))
    }

    /// The oldest sample at or beyond `local`, a position of this server's WAL. Transactions of X before `local` have
    /// origin positions up to the sample's `origin`.
    pub fn oldest_at_or_beyond(&self, local: LocalLsn) -> Option<&Sample> {
        self.0.get(self.0.partition_point(|sample| sample.local < local))
    }

    /// The oldest sample with transactions of X beyond `passed`.
    pub fn oldest_beyond(&self, passed: OriginLsn) -> Option<&Sample> {
        self.0.get(self.0.partition_point(|sample| sample.origin <= passed))
    }

    pub fn newest(&self) -> Option<&Sample> {
        self.0.back()
    }

    /// Drops the samples before `local`, where the slot is now, except the newest of these.
    pub fn forget_before(&mut self, local: LocalLsn) {
        let behind = self.0.partition_point(|sample| sample.local < local);
        self.0.drain(..behind.saturating_sub(1));
    }
}

/// What is known of a peer's progress through one origin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// The peer does not subscribe to the origin, or is the origin: it needs nothing of it.
    NotSubscribed,
    /// The peer has not reported, or does not know its own progress. It holds the slot where it is.
    Unknown,
    /// The peer is durably past this position of the origin.
    Passed(OriginLsn),
}

/// Why an origin holds the slot back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hold {
    /// There is no sample of the origin.
    NoSample,
    /// The peer with this index has passed the least.
    Peer(usize),
}

/// How far one origin lets the slot advance.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Allowance {
    /// None: the slot may not advance.
    pub local: Option<LocalLsn>,
    /// Why the slot may not advance to the newest sample; None if it may.
    pub hold: Option<Hold>,
}

/// How far origin X lets the slot advance, given how far each peer has passed X.
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

/// How far the slot may advance over all origins: the least of their allowances. Without origins nothing has to be
/// kept, and the slot may advance to `end`, the end of WAL.
pub fn horizon(allowances: &[Allowance], end: LocalLsn) -> Option<LocalLsn> {
    allowances.iter().map(|allowance| allowance.local).min().unwrap_or(Some(end))
}

#[cfg(test)]
#[path = "horizon_tests.rs"]
mod tests;
