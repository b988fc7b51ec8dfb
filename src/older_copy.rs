//! Whether a node that is back may go on where it was (pure).
//!
//! It may if it kept its WAL: what it writes now lies beyond everything that was applied of it here. One that was restored
//! from an older copy, or promoted on a timeline that forked too early, writes its new transactions at positions that were
//! passed long ago, and they would be skipped without a word. One that was never restarted, but hung or was cut off, has what
//! it had.

use crate::lsn::{LocalLsn, OriginLsn};
use crate::pg::clock::Timestamp;

/// Timelines that are told: forks further back lie below any others.
pub const MAX_FORKS: usize = 8;

/// Subscriptions that came from the node, by oid; zero: there were no more.
pub type Subscriptions = [u32; 4];

/// The first of them.
pub fn first_of(all: impl IntoIterator<Item = u32>) -> Subscriptions {
    let mut all = all.into_iter();
    std::array::from_fn(|_| all.next().unwrap_or(0))
}

/// What is known of a run of the node, as of its last answer: of what was applied by then, nothing can be of a later run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Former {
    /// How far it was applied here; zero: nothing was, or it has not answered yet.
    pub applied: OriginLsn,
    /// The subscriptions that come from it, and their replication origins.
    pub subscriptions: Subscriptions,
    pub origins: [u16; 4],
    /// Apply workers that had committed something by then, on all of this server: what those of this node receive is of this run,
    /// or of one before it, as long as they live.
    pub lives: u64,
}

impl Former {
    pub const NONE: Former = Former { applied: OriginLsn::ZERO, subscriptions: [0; 4], origins: [0; 4], lives: 0 };
}

/// An apply worker, whose life is one connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Life {
    /// Workers are counted in the order of their first commits.
    pub number: u64,
    /// It had committed something before the node was first asked in vain, or the node never was.
    pub began_before_loss: bool,
    /// The last transaction that it has applied, and when the node had committed that, by the node's clock.
    pub applied: OriginLsn,
    pub committed_at: Timestamp,
}

/// How far the node was applied here by all its runs before the one that began at `began`, by the node's clock.
///
/// What was applied when the former run last answered is of a former run. So is all that is received by the workers of that time,
/// whenever they apply it, for their connections end with that run. A later worker may have received from either. If it received
/// from the former run, its last transaction was committed before the new run began. If from the new run, its last transaction is
/// a later one, or one that the new run has in its WAL below its start, where it does no harm to count it. That comparison relies
/// on the node's clock, which may be set back just after the machine has started, while a new run is busy already; so it is made
/// only of workers that began before the node was asked in vain. (A poller asks at once when a worker begins: only one that began
/// within a question's time before the node was lost is not of the time of an answer.)
///
/// A standby that was promoted had begun before it wrote: there the workers of the last answer's time alone are told.
pub fn applied_of_former_runs(former: &Former, lives: impl IntoIterator<Item = Life>, began: Timestamp) -> OriginLsn {
    let is_former = |life: &Life| life.number <= former.lives || (life.began_before_loss && life.committed_at < began);
    let applied = lives.into_iter().filter(is_former).map(|life| life.applied);
    applied.fold(former.applied, OriginLsn::max)
}

/// What was known of the node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KnownRun {
    /// How far it was applied here before it came back, and by which subscriptions.
    pub applied: OriginLsn,
    pub subscriptions: Subscriptions,
    /// None: it has never told.
    pub system_identifier: Option<u64>,
    pub timeline: Option<u32>,
    /// When the run began in which it wrote what was applied; None: that is not known.
    pub run: Option<Timestamp>,
}

/// What the node says of itself now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Now {
    pub system_identifier: u64,
    /// When its present run began, by its own clock, and where it began to write.
    pub run: Timestamp,
    pub start: OriginLsn,
    /// Its timelines and where each forked, the present one first.
    pub forks: Vec<(u32, OriginLsn)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReturnVerdict {
    GoesOn,
    /// Another server under the old name.
    OtherServer,
    /// Restored from an older copy.
    HasLess {
        start: OriginLsn,
        applied: OriginLsn,
    },
    /// A standby that had not received everything was promoted.
    ForkedBelow {
        timeline: u32,
        fork: OriginLsn,
        applied: OriginLsn,
    },
}

pub fn judge(known: KnownRun, now: &Now) -> ReturnVerdict {
    if known.system_identifier.is_some_and(|known| known != now.system_identifier) {
        return ReturnVerdict::OtherServer;
    }
    if known.run == Some(now.run) {
        return ReturnVerdict::GoesOn;
    }
    let applied = known.applied;
    // A timeline that is not in its history was left somewhere: by the earliest fork that it tells of, at the latest.
    let is_new = |timeline: u32| {
        known.timeline.is_some_and(|known| timeline > known || !now.forks.iter().any(|(told, _)| *told == known))
    };
    let forks = now.forks.iter().filter(|(timeline, fork)| is_new(*timeline) && *fork != OriginLsn::ZERO);
    if let Some((timeline, fork)) = forks.min_by_key(|(_, fork)| *fork)
        && *fork < applied
    {
        return ReturnVerdict::ForkedBelow { timeline: *timeline, fork: *fork, applied };
    }
    if now.start < applied { ReturnVerdict::HasLess { start: now.start, applied } } else { ReturnVerdict::GoesOn }
}

impl KnownRun {
    /// Whether a subscription had applied something of what the node was. One that was made since has not, and skips nothing of
    /// what the node is now. Of more than are remembered any may have.
    pub fn concerns(&self, subscription: u32) -> bool {
        self.subscriptions.contains(&subscription) || !self.subscriptions.contains(&0)
    }
}

impl ReturnVerdict {
    /// Why it may not go on, for a log and the health check; None if it may.
    pub fn reason(self, node: &str) -> Option<String> {
        match self {
            ReturnVerdict::GoesOn => None,
            ReturnVerdict::OtherServer => {
                Some(format!("node \"{node}\" is back as another server (its system identifier is not the one it had)"))
            }
            ReturnVerdict::HasLess { start, applied } => Some(format!(
                "node \"{node}\" is back from an older copy: it began to write at {start}, and this node has applied it up \
                 to {applied}"
            )),
            ReturnVerdict::ForkedBelow { timeline, fork, applied } => Some(format!(
                "node \"{node}\" is back on timeline {timeline}, which forked at {fork}, and this node has applied it up to \
                 {applied}"
            )),
        }
    }
}

/// `timeline@position`, separated by commas: how node_identity() tells it.
pub fn forks_to_text(forks: &[(u32, LocalLsn)]) -> String {
    let told: Vec<String> = forks.iter().map(|(timeline, begin)| format!("{timeline}@{begin}")).collect();
    told.join(",")
}

/// None where it is not in that form.
pub fn forks_from_text(text: &str) -> Option<Vec<(u32, OriginLsn)>> {
    text.split(',')
        .filter(|part| !part.is_empty())
        .map(|part| {
            let (timeline, begin) = part.split_once('@')?;
            Some((timeline.parse().ok()?, begin.parse().ok()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(applied: u64, timeline: Option<u32>) -> KnownRun {
        KnownRun {
            applied: OriginLsn(applied),
            subscriptions: first_of([5]),
            system_identifier: Some(7),
            timeline,
            run: Some(Timestamp(1)),
        }
    }

    fn now(start: u64, forks: &[(u32, u64)]) -> Now {
        let forks = forks.iter().map(|(timeline, begin)| (*timeline, OriginLsn(*begin))).collect();
        Now { system_identifier: 7, run: Timestamp(2), start: OriginLsn(start), forks }
    }

    #[test]
    fn one_that_was_never_restarted_goes_on_wherever_it_began() {
        let same_run = Now { run: Timestamp(1), ..now(5, &[(1, 0)]) };
        assert_eq!(judge(known(100, Some(1)), &same_run), ReturnVerdict::GoesOn);
        let unknown_run = KnownRun { run: None, ..known(100, Some(1)) };
        assert!(matches!(judge(unknown_run, &same_run), ReturnVerdict::HasLess { .. }));
        assert_eq!(judge(known(100, Some(1)), &Now { system_identifier: 8, ..same_run }), ReturnVerdict::OtherServer);
    }

    #[test]
    fn a_node_with_its_own_wal_goes_on() {
        for start in [100, 101, 5000] {
            assert_eq!(judge(known(100, Some(1)), &now(start, &[(1, 0)])), ReturnVerdict::GoesOn, "{start}");
        }
    }

    #[test]
    fn a_subscription_that_was_made_since_is_not_judged_by_what_the_node_was() {
        let of = |subscriptions: &[u32]| KnownRun {
            subscriptions: first_of(subscriptions.iter().copied()),
            ..known(100, None)
        };
        assert!(of(&[5]).concerns(5) && !of(&[5]).concerns(6) && !of(&[]).concerns(5));
        assert!(of(&[1, 2, 3, 4, 5]).concerns(5) && of(&[1, 2, 3, 4]).concerns(6));
        assert!(!of(&[1, 2, 3]).concerns(4));
    }

    #[test]
    fn what_the_former_run_had_sent_since_its_last_answer_counts() {
        let former = Former { applied: OriginLsn(100), subscriptions: first_of([5]), origins: [1, 0, 0, 0], lives: 3 };
        let life = |number, applied, at| Life {
            number,
            began_before_loss: true,
            applied: OriginLsn(applied),
            committed_at: Timestamp(at),
        };
        let applied = |lives: &[Life]| applied_of_former_runs(&former, lives.iter().copied(), Timestamp(1000)).0;
        assert_eq!(applied(&[]), 100);
        // The worker that was there when it last answered: whatever its clock says.
        assert_eq!(applied(&[life(3, 170, 990)]), 170);
        assert_eq!(applied(&[life(3, 170, 5000)]), 170);
        // One that has begun since, and received from the former run.
        assert_eq!(applied(&[life(3, 120, 900), life(4, 170, 999)]), 170);
        // The new run's, busy from its first moment.
        assert_eq!(applied(&[life(3, 120, 900), life(4, 9000, 1000)]), 120);
        assert_eq!(applied(&[life(3, 120, 900), life(4, 170, 999), life(5, 9000, 1001)]), 170);
        // Its clock was set back after its start: it was asked in vain before.
        let after_loss = |life: Life| Life { began_before_loss: false, ..life };
        assert_eq!(applied(&[life(3, 120, 900), after_loss(life(4, 9000, 950))]), 120);
        // What the new run has kept of the former one lies below its start.
        let kept = applied(&[life(3, 120, 900), life(4, 150, 950)]);
        assert_eq!(
            judge(KnownRun { applied: OriginLsn(kept), ..known(0, Some(1)) }, &now(150, &[(1, 0)])),
            ReturnVerdict::GoesOn
        );
        // It never goes below what was known.
        assert_eq!(applied(&[life(2, 50, 10)]), 100);
    }

    #[test]
    fn one_byte_less_is_an_older_copy() {
        let verdict = judge(known(100, Some(1)), &now(99, &[(1, 0)]));
        assert_eq!(verdict, ReturnVerdict::HasLess { start: OriginLsn(99), applied: OriginLsn(100) });
        assert!(verdict.reason("n1").is_some_and(|reason| reason.contains("older copy")));
    }

    #[test]
    fn a_promoted_standby_goes_on_if_its_fork_is_not_below() {
        assert_eq!(judge(known(100, Some(1)), &now(100, &[(2, 100), (1, 0)])), ReturnVerdict::GoesOn);
        let below = ReturnVerdict::ForkedBelow { timeline: 2, fork: OriginLsn(99), applied: OriginLsn(100) };
        assert_eq!(judge(known(100, Some(1)), &now(300, &[(2, 99), (1, 0)])), below);
    }

    #[test]
    fn of_several_forks_since_the_known_timeline_the_earliest_counts() {
        let history = [(4, 500), (3, 50), (2, 40), (1, 0)];
        let below = ReturnVerdict::ForkedBelow { timeline: 3, fork: OriginLsn(50), applied: OriginLsn(100) };
        assert_eq!(judge(known(100, Some(2)), &now(600, &history)), below);
        // Forks that were known before are part of what was applied.
        assert_eq!(judge(known(100, Some(3)), &now(600, &history)), ReturnVerdict::GoesOn);
    }

    #[test]
    fn a_history_without_the_known_timeline_is_another_branch() {
        let below = ReturnVerdict::ForkedBelow { timeline: 2, fork: OriginLsn(60), applied: OriginLsn(100) };
        assert_eq!(judge(known(100, Some(3)), &now(600, &[(4, 500), (2, 60), (1, 0)])), below);
    }

    #[test]
    fn another_server_under_the_old_name_never_goes_on() {
        let other = Now { system_identifier: 8, ..now(500, &[(1, 0)]) };
        assert_eq!(judge(known(100, Some(1)), &other), ReturnVerdict::OtherServer);
        assert_eq!(judge(KnownRun { system_identifier: None, ..known(100, None) }, &other), ReturnVerdict::GoesOn);
    }

    #[test]
    fn forks_survive_being_written_and_read() {
        let text = forks_to_text(&[(2, LocalLsn(0x1_0000_0060)), (1, LocalLsn::ZERO)]);
        assert_eq!(text, "2@1/60,1@0/0");
        assert_eq!(forks_from_text(&text), Some(vec![(2, OriginLsn(0x1_0000_0060)), (1, OriginLsn::ZERO)]));
        assert_eq!(forks_from_text("2@x"), None);
        assert_eq!(forks_from_text(""), Some(Vec::new()));
    }
}
