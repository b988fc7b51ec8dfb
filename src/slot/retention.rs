//! The retention budget: which peers to give up when the slot keeps more WAL than it may (pure), and how long the
//! budget will last.

use super::horizon::{Allowance, Hold, Progress, Samples, allowance, horizon};
use crate::lsn::LocalLsn;
use crate::pg::clock::Timestamp;

/// The part of the budget at which the log and the health check warn.
pub const ANNOUNCED_AT: f64 = 0.75;

/// Half-life of the averaged rate, in seconds: long enough that a burst does not look like a trend, short enough that a
/// new load shows within a minute.
const RATE_HALF_LIFE_S: f64 = 30.0;

/// How fast this server writes WAL, as an exponentially weighted average in bytes per second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rate {
    bytes_per_s: f64,
    last: Option<(LocalLsn, Timestamp)>,
}

impl Rate {
    /// Takes into account where WAL ended at a time `at`.
    pub fn observe(&mut self, end: LocalLsn, at: Timestamp) {
        if let Some((before, then)) = self.last {
            let seconds = at.by_the_wall_since(then).as_secs_f64();
            if seconds <= 0.0 {
                return;
            }
            let now = end.bytes_since(before) as f64 / seconds;
            let weight = 1.0 - 0.5_f64.powf(seconds / RATE_HALF_LIFE_S);
            self.bytes_per_s += (now - self.bytes_per_s) * weight;
        }
        self.last = Some((end, at));
    }

    pub fn bytes_per_s(&self) -> f64 {
        self.bytes_per_s
    }

    /// Seconds until `bytes` more bytes are written; None if almost nothing is written (less than one byte per second).
    pub fn seconds_for(&self, bytes: u64) -> Option<f64> {
        (self.bytes_per_s >= 1.0).then(|| bytes as f64 / self.bytes_per_s)
    }
}

/// An origin's samples, and each peer's progress through it.
#[derive(Debug)]
pub struct OriginRetention<'a> {
    pub samples: &'a Samples,
    pub peers: Vec<Progress>,
}

/// How far the slot may advance, and which peers are given up for that.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decision {
    /// None: the slot may not advance.
    pub target: Option<LocalLsn>,
    pub allowances: Vec<Allowance>,
    /// Indexes of the peers that are given up, the one that holds most first.
    pub given_up: Vec<usize>,
}

/// Decides how far the slot may advance. `end`: the end of WAL. `floor`: if the budget is exceeded, the position below
/// which no WAL may be kept. Then the peer that holds most is given up, and the next one only if that was not enough.
/// An origin without samples holds the slot, and no peer is given up for that.
pub fn decide(origins: &[OriginRetention<'_>], end: LocalLsn, floor: Option<LocalLsn>) -> Decision {
    let mut given_up: Vec<usize> = Vec::new();
    loop {
        let allowances: Vec<Allowance> = origins
            .iter()
            .map(|origin| {
                let peers: Vec<Progress> = origin
                    .peers
                    .iter()
                    .enumerate()
                    .map(
                        |(index, progress)| {
                            if given_up.contains(&index) { Progress::NotSubscribed } else { *progress }
                        },
                    )
                    .collect();
                allowance(origin.samples, &peers)
            })
            .collect();
        let target = horizon(&allowances, end);
        let enough = floor.is_none_or(|floor| target.is_some_and(|target| target >= floor));
        // The origin that holds the slot most, and the peer that holds it there.
        let slowest = allowances.iter().min_by_key(|allowance| allowance.local).and_then(|allowance| allowance.hold);
        match slowest {
            Some(Hold::Peer(peer)) if !enough => given_up.push(peer),
            _ => {
                return Decision { target, allowances, given_up };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lsn::OriginLsn;
    use crate::slot::horizon::Sample;

    fn samples() -> Samples {
        let mut samples = Samples::default();
        for index in 1..=10u64 {
            samples.push(Sample { origin: OriginLsn(index), local: LocalLsn(index * 100), taken_at: Timestamp(0) });
        }
        samples
    }

    fn passed(origin: u64) -> Progress {
        Progress::Passed(OriginLsn(origin))
    }

    const END: LocalLsn = LocalLsn(1_000);

    #[test]
    fn without_a_budget_nobody_is_given_up() {
        let samples = samples();
        let origin = OriginRetention { samples: &samples, peers: vec![passed(2), passed(9)] };
        let decision = decide(&[origin], END, None);
        assert_eq!((decision.target, decision.given_up), (Some(LocalLsn(200)), vec![]));
    }

    #[test]
    fn the_slowest_peer_alone_is_given_up_when_that_is_enough() {
        let samples = samples();
        for slow in [passed(2), Progress::Unknown] {
            let origin = OriginRetention { samples: &samples, peers: vec![passed(9), slow, passed(7)] };
            let decision = decide(&[origin], END, Some(LocalLsn(600)));
            assert_eq!((decision.target, decision.given_up), (Some(LocalLsn(700)), vec![1]));
        }
    }

    #[test]
    fn more_are_given_up_only_while_the_budget_is_exceeded() {
        let samples = samples();
        let origin = OriginRetention { samples: &samples, peers: vec![passed(9), passed(2), passed(3)] };
        let decision = decide(&[origin], END, Some(LocalLsn(800)));
        assert_eq!((decision.target, decision.given_up), (Some(LocalLsn(900)), vec![1, 2]));
    }

    #[test]
    fn at_the_budget_nobody_is_given_up_and_one_byte_past_it_somebody_is() {
        let samples = samples();
        let origin = || OriginRetention { samples: &samples, peers: vec![passed(5)] };
        assert_eq!(decide(&[origin()], END, Some(LocalLsn(500))).given_up, Vec::<usize>::new());
        assert_eq!(decide(&[origin()], END, Some(LocalLsn(501))).given_up, vec![0]);
    }

    #[test]
    fn a_missing_sample_is_nobodys_fault() {
        let empty = Samples::default();
        let origin = OriginRetention { samples: &empty, peers: vec![passed(5)] };
        let decision = decide(&[origin], END, Some(LocalLsn(900)));
        assert_eq!((decision.target, decision.given_up), (None, vec![]));
    }

    #[test]
    fn the_rate_settles_on_a_steady_load_and_gives_the_time_left() {
        let mut rate = Rate::default();
        for second in 0..600i64 {
            rate.observe(LocalLsn(second as u64 * 1_000), Timestamp(second * 1_000_000));
        }
        assert!((rate.bytes_per_s() - 1_000.0).abs() < 1.0);
        let left = rate.seconds_for(60_000).expect("a rate");
        assert!((left - 60.0).abs() < 1.0);
        assert_eq!(Rate::default().seconds_for(1), None);
    }
}
