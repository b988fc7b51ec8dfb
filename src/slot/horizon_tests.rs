//! Random histories of commits, flushes, crashes, peers and polls against the horizon.

use super::*;
use proptest::prelude::*;

fn sample(origin: u64, local: u64) -> Sample {
    Sample { origin: OriginLsn(origin), local: LocalLsn(local), taken_at: Timestamp(local as i64) }
}

fn samples(pairs: &[(u64, u64)]) -> Samples {
    let mut samples = Samples::default();
    for (origin, local) in pairs {
        samples.push(sample(*origin, *local));
    }
    samples
}

fn passed(origin: u64) -> Progress {
    Progress::Passed(OriginLsn(origin))
}

#[test]
fn the_least_advanced_peer_decides_and_is_named() {
    let samples = samples(&[(10, 100), (20, 200), (30, 300)]);
    let allowance = allowance(&samples, &[passed(30), passed(25), Progress::NotSubscribed]);
    assert_eq!(allowance, Allowance { local: Some(LocalLsn(200)), hold: Some(Hold::Peer(1)) });
}

#[test]
fn at_the_boundary_a_sample_counts_as_passed_and_one_below_it_does_not() {
    let samples = samples(&[(10, 100), (20, 200)]);
    assert_eq!(allowance(&samples, &[passed(20)]).local, Some(LocalLsn(200)));
    assert_eq!(allowance(&samples, &[passed(19)]).local, Some(LocalLsn(100)));
    assert_eq!(allowance(&samples, &[passed(10)]).local, Some(LocalLsn(100)));
    assert_eq!(allowance(&samples, &[passed(9)]).local, None);
}

#[test]
fn an_unknown_peer_holds_everything_and_one_that_does_not_subscribe_holds_nothing() {
    let samples = samples(&[(10, 100)]);
    assert_eq!(allowance(&samples, &[passed(10), Progress::Unknown]).hold, Some(Hold::Peer(1)));
    assert_eq!(allowance(&samples, &[Progress::NotSubscribed]).local, Some(LocalLsn(100)));
    assert_eq!(allowance(&samples, &[]).local, Some(LocalLsn(100)));
}

#[test]
fn without_a_sample_nothing_is_let_go() {
    assert_eq!(
        allowance(&Samples::default(), &[passed(u64::MAX)]),
        Allowance { local: None, hold: Some(Hold::NoSample) }
    );
}

#[test]
fn over_all_origins_the_least_counts_and_without_any_the_end() {
    let at = |local| Allowance { local, hold: None };
    assert_eq!(horizon(&[at(Some(LocalLsn(5))), at(Some(LocalLsn(3)))], LocalLsn(9)), Some(LocalLsn(3)));
    assert_eq!(horizon(&[at(Some(LocalLsn(5))), at(None)], LocalLsn(9)), None);
    assert_eq!(horizon(&[], LocalLsn(9)), Some(LocalLsn(9)));
}

#[test]
fn an_idle_origin_gets_fresh_positions_and_keeps_the_time_of_its_first_sample() {
    let mut samples = samples(&[(10, 100)]);
    samples.push(Sample { origin: OriginLsn(10), local: LocalLsn(500), taken_at: Timestamp(9_999) });
    assert_eq!(
        samples.newest(),
        Some(&Sample { origin: OriginLsn(10), local: LocalLsn(500), taken_at: Timestamp(100) })
    );
}

#[test]
fn released_is_rounded_up_to_the_oldest_sample_at_or_beyond() {
    let samples = samples(&[(10, 100), (20, 200), (30, 300)]);
    assert_eq!(samples.oldest_at_or_beyond(LocalLsn(100)).map(|sample| sample.origin), Some(OriginLsn(10)));
    assert_eq!(samples.oldest_at_or_beyond(LocalLsn(101)).map(|sample| sample.origin), Some(OriginLsn(20)));
    assert_eq!(samples.oldest_at_or_beyond(LocalLsn(301)), None);
}

#[test]
fn a_full_buffer_thins_out_old_samples_instead_of_forgetting_them() {
    let many: Vec<(u64, u64)> = (1..=10_000).map(|index| (index, index * 10)).collect();
    let samples = samples(&many);
    assert!(samples.0.len() <= CAPACITY);
    assert_eq!(samples.0.front().map(|sample| sample.origin), Some(OriginLsn(1)));
    assert_eq!(samples.newest().map(|sample| sample.origin), Some(OriginLsn(10_000)));
    // A lagging peer still frees WAL: for every position that it may have passed, there is a sample at or below it.
    for position in [10u64, 100, 1_000, 5_000, 9_000] {
        let found = samples.newest_within(OriginLsn(position)).expect("a sample").origin.0;
        assert!(found >= 1 && found <= position);
    }
}

#[test]
fn forgetting_what_is_behind_keeps_what_rounds_up() {
    let mut samples = samples(&[(10, 100), (20, 200), (30, 300), (40, 400)]);
    samples.forget_before(LocalLsn(300));
    assert_eq!(samples.newest_within(OriginLsn(35)).map(|sample| sample.local), Some(LocalLsn(300)));
    assert_eq!(samples.oldest_at_or_beyond(LocalLsn(250)).map(|sample| sample.origin), Some(OriginLsn(30)));
}

/// One server S, one origin X whose transactions have the origin positions 1, 2, 3, …, and peers that subscribe to X.
#[derive(Default)]
struct World {
    /// The local position at which the commit of X's n-th transaction begins in S's WAL.
    commits: Vec<u64>,
    local_end: u64,
    /// For each peer: the transaction up to which it has applied X in memory, the same on disk, and its last report.
    peers: Vec<(u64, u64, Option<u64>)>,
    samples: Samples,
    slot: u64,
    released: u64,
}

#[derive(Clone, Debug)]
enum Step {
    /// S applies the next transactions of X.
    Apply(u8),
    /// S writes other WAL.
    Other(u8),
    /// A peer applies transactions, in memory only.
    PeerApply(usize, u8),
    /// A peer's WAL is flushed.
    PeerFlush(usize),
    /// A peer loses what is not on disk.
    PeerCrash(usize),
    /// A peer reports what is durable.
    Poll(usize),
    TakeSample,
    /// S crashes. Its samples, which are in memory, are lost; its slot may be where an older checkpoint saved it.
    Crash(u8),
    Advance,
}

fn step(peers: usize) -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1u8..5).prop_map(Step::Apply),
        2 => (1u8..50).prop_map(Step::Other),
        4 => (0..peers, 1u8..6).prop_map(|(peer, count)| Step::PeerApply(peer, count)),
        3 => (0..peers).prop_map(Step::PeerFlush),
        1 => (0..peers).prop_map(Step::PeerCrash),
        4 => (0..peers).prop_map(Step::Poll),
        5 => Just(Step::TakeSample),
        1 => (0u8..30).prop_map(Step::Crash),
        5 => Just(Step::Advance),
    ]
}

impl World {
    fn apply(&mut self, step: &Step) {
        match *step {
            Step::Apply(count) => {
                for _ in 0..count {
                    self.commits.push(self.local_end);
                    self.local_end += 10;
                }
            }
            Step::Other(bytes) => self.local_end += u64::from(bytes),
            Step::PeerApply(peer, count) => {
                let most = self.commits.len() as u64;
                self.peers[peer].0 = (self.peers[peer].0 + u64::from(count)).min(most);
            }
            Step::PeerFlush(peer) => self.peers[peer].1 = self.peers[peer].0,
            Step::PeerCrash(peer) => self.peers[peer].0 = self.peers[peer].1,
            Step::Poll(peer) => self.peers[peer].2 = Some(self.peers[peer].1),
            Step::TakeSample => self.samples.push(sample(self.commits.len() as u64, self.local_end)),
            Step::Crash(back) => {
                self.samples = Samples::default();
                self.slot = self.slot.saturating_sub(u64::from(back));
            }
            Step::Advance => {
                let progress: Vec<Progress> =
                    self.peers.iter().map(|peer| peer.2.map_or(Progress::Unknown, passed)).collect();
                let allowance = allowance(&self.samples, &progress);
                if let Some(target) = horizon(&[allowance], LocalLsn(self.local_end))
                    && target.0 > self.slot
                {
                    let up_to = self.samples.oldest_at_or_beyond(target).expect("the sample that allowed it").origin.0;
                    self.released = self.released.max(up_to);
                    self.slot = target.0;
                    self.samples.forget_before(target);
                }
            }
        }
    }

    /// Every transaction that some peer does not have on disk can still be decoded from the slot, and every released
    /// transaction is at or below `released`.
    fn check(&self) -> Result<(), TestCaseError> {
        for (index, begins_at) in self.commits.iter().enumerate() {
            let transaction = index as u64 + 1;
            let gone = *begins_at < self.slot;
            for peer in &self.peers {
                prop_assert!(
                    !gone || peer.1 >= transaction,
                    "transaction {} let go, a peer has {}",
                    transaction,
                    peer.1
                );
            }
            prop_assert!(!gone || self.released >= transaction, "released {} hides {}", self.released, transaction);
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_slot_never_passes_what_a_peer_lacks_and_reaches_the_end_once_all_have_it(
        steps in prop::collection::vec(step(3), 1..400)
    ) {
        let mut world = World { peers: vec![(0, 0, None); 3], ..World::default() };
        for step in &steps {
            world.apply(step);
            world.check()?;
        }
        for peer in 0..3 {
            world.peers[peer].0 = world.commits.len() as u64;
            world.apply(&Step::PeerFlush(peer));
            world.apply(&Step::Poll(peer));
        }
        world.apply(&Step::Other(1));
        world.apply(&Step::TakeSample);
        world.apply(&Step::Advance);
        world.check()?;
        prop_assert_eq!(world.slot, world.local_end);
    }
}
