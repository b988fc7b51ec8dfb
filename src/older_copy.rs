//! Whether a node that is back may go on where it was (pure).
//!
//! It may if it has kept its WAL: what it writes now lies beyond everything that was applied of it here. A node that
//! was restored from an older copy, or promoted on a timeline that forked too early, writes its new transactions at
//! positions that were passed long ago, and these transactions would silently be skipped. A node that was never
//! restarted, but hung or was cut off, has all that it had.

use crate::lsn::{LocalLsn, OriginLsn};
use crate::pg::clock::Timestamp;

/// How many timelines a node reports: forks further back lie below these.
pub const MAX_FORKS: usize = 8;

/// The oids of subscriptions that come from the node; zero: there are no more.
pub type Subscriptions = [u32; 4];

/// Returns the first of them.
pub fn first_of(all: impl IntoIterator<Item = u32>) -> Subscriptions {
    let mut all = all.into_iter();
    std::array::from_fn(|_| all.next().unwrap_or(0))
}

/// What is known of the run of the node that has last answered, as of that answer: what was applied by then cannot be
/// of a later run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Former {
    /// How far the node was applied here; zero: nothing was applied, or the node has not answered yet.
    pub applied: OriginLsn,
    /// The subscriptions that come from the node, and their replication origins.
    pub subscriptions: Subscriptions,
    pub origins: [u16; 4],
    /// How many apply workers, on all of this server, had committed something by then. What those of this node receive,
    /// as long as they live, is of this run or of an earlier one.
    pub lives: u64,
}

impl Former {
    pub const NONE: Former = Former { applied: OriginLsn::ZERO, subscriptions: [0; 4], origins: [0; 4], lives: 0 };
}

/// An apply worker. It has one connection in its life, and so receives from one run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Life {
    /// The worker's place in the order of all workers' first commits.
    pub number: u64,
    /// The worker had committed something before the node was first asked in vain, or the node was never asked in vain.
    pub began_before_loss: bool,
    /// The last transaction that the worker has applied, and when the node had committed it, by the node's clock.
    pub applied: OriginLsn,
    pub committed_at: Timestamp,
}

/// Returns how far the node was applied here by all of its runs before the one that began at `began`, by the node's
/// clock.
///
/// What was applied when the former run last answered is of a former run. So is everything that the workers of that
/// time receive, whenever they apply it, because their connections end with that run. A later worker may have received
/// from either run. If it has received from the former run, its last transaction was committed before the new run
/// began. If it has received from the new run, its last transaction is a later one, or one that the new run has in its
/// WAL below its start, which does no harm to count. This comparison relies on the node's clock, which may be set back
/// just after the machine has started, while the new run is already busy; so it is made only for workers that began
/// before the node was asked in vain. (A poller asks at once when a worker begins. So only a worker that began within
/// the time of one question before the node was lost is not of the time of an answer.)
///
/// A standby that was promoted had begun to run before it wrote: for such a run, only the workers of the last answer's
/// time count.
pub fn applied_of_former_runs(former: &Former, lives: impl IntoIterator<Item = Life>, began: Timestamp) -> OriginLsn {
    let is_former = |life: &Life| life.number <= former.lives || (life.began_before_loss && life.committed_at < began);
    let applied = lives.into_iter().filter(is_former).map(|life| life.applied);
    applied.fold(former.applied, OriginLsn::max)
}

/// What was known of the node before it came back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KnownRun {
    /// How far the node was applied here, and by which subscriptions.
    pub applied: OriginLsn,
    pub subscriptions: Subscriptions,
    /// None: the node has never reported it.
    pub system_identifier: Option<u64>,
    pub timeline: Option<u32>,
    /// When the run began in which the node wrote what was applied, by the node's clock; None: that is not known.
    pub run: Option<Timestamp>,
}

/// What the node reports about itself now.
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
    /// Another server answers under the old name.
    OtherServer,
    /// The node was restored from an older copy.
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

/// Judges a node that is back, by what was known of it and by what it reports now.
pub fn judge(known: KnownRun, now: &Now) -> ReturnVerdict {
    if known.system_identifier.is_some_and(|known| known != now.system_identifier) {
        return ReturnVerdict::OtherServer;
    }
    if known.run == Some(now.run) {
        return ReturnVerdict::GoesOn;
    }
    let applied = known.applied;
    // If the known timeline is not in the node's history, the node has left it somewhere: at the earliest fork that the
    // node reports, at the latest.
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
    /// Whether a subscription may have applied something of what the node was. A subscription that was created since
    /// has not, and skips nothing of what the node sends now. If the node had more subscriptions than are remembered,
    /// any may have.
    pub fn concerns(&self, subscription: u32) -> bool {
        self.subscriptions.contains(&subscription) || !self.subscriptions.contains(&0)
    }
}

impl ReturnVerdict {
    /// Returns why the node may not go on, for the log and the health check; None if it may.
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

/// Returns the forks in the form of node_identity(): `timeline@position`, separated by commas.
pub fn forks_to_text(forks: &[(u32, LocalLsn)]) -> String {
    let told: Vec<String> = forks.iter().map(|(timeline, begin)| format!("{timeline}@{begin}")).collect();
    told.join(",")
}

/// Reads that form; None if the text is not in it.
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
        // A worker that was there when the node last answered counts, whatever the clock says.
        assert_eq!(applied(&[life(3, 170, 990)]), 170);
        assert_eq!(applied(&[life(3, 170, 5000)]), 170);
        // A worker that has begun since counts if it received from the former run.
        assert_eq!(applied(&[life(3, 120, 900), life(4, 170, 999)]), 170);
        // A worker of the new run, which is busy from its first moment, does not count.
        assert_eq!(applied(&[life(3, 120, 900), life(4, 9000, 1000)]), 120);
        assert_eq!(applied(&[life(3, 120, 900), life(4, 170, 999), life(5, 9000, 1001)]), 170);
        // The node's clock was set back after its start, but the worker began after the node was asked in vain.
        let after_loss = |life: Life| Life { began_before_loss: false, ..life };
        assert_eq!(applied(&[life(3, 120, 900), after_loss(life(4, 9000, 950))]), 120);
        // What the new run has kept of the former one lies below its start.
        let kept = applied(&[life(3, 120, 900), life(4, 150, 950)]);
        assert_eq!(
            judge(KnownRun { applied: OriginLsn(kept), ..known(0, Some(1)) }, &now(150, &[(1, 0)])),
            ReturnVerdict::GoesOn
        );
        // The result is never below what was known.
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
