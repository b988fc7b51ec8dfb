//! What each of two nodes lacks of the other's transactions, and hence which verdicts must wait (pure).

use super::judge::{self, Author, Found, Passed, Replay, Verdict};
use crate::lsn::OriginLsn;
use crate::tally::compared::Why;
use std::collections::{BTreeSet, HashMap, HashSet};

/// How the two nodes stand when their rows have been read.
#[derive(Clone, Copy)]
pub(super) struct Standing<'s> {
    pub replay: Replay<'s>,
    pub local: &'s str,
    pub source: &'s str,
    /// The nodes, the target included, of whose transactions the source lacks some that the target had.
    pub source_lacks: &'s BTreeSet<String>,
    /// The nodes, the source included, of whose transactions the target lacks some that the source had.
    pub target_lacks: &'s BTreeSet<String>,
    /// The nodes whose rows the source received late, and has yet to reconcile.
    pub late_at_source: &'s BTreeSet<String>,
    /// The nodes whose changes the target has failed to apply since the comparison began.
    pub stuck: &'s HashSet<String>,
    /// How far the source is past each node that it receives from.
    pub passed_by_source: &'s HashMap<String, OriginLsn>,
}

impl Standing<'_> {
    /// What is to be done about a row.
    pub fn verdict(&self, source: Option<&Found>, target: Option<&Found>) -> Verdict {
        match judge::judge(source, target, self.replay) {
            Verdict::Delete if !self.source_knows_author(target) => Verdict::Keep,
            verdict => verdict,
        }
    }

    /// The reason why a verdict must wait, if it must: one node has something that bears on it and that the other has
    /// not passed.
    pub fn lacks(&self, verdict: Verdict, source: Option<&Found>, target: Option<&Found>) -> Option<Why> {
        if self.source_lags(verdict, target) || self.is_late(verdict, source) {
            return Some(Why::SourceLags);
        }
        let is_behind = match judge::must_be_passed(source) {
            Passed::Of(node) => self.target_lacks.contains(node),
            Passed::OfEverybody => !self.target_lacks.is_empty(),
        };
        is_behind.then_some(Why::TargetLags)
    }

    /// Whether the source lacks something that bears on the verdict. If the target has a row, that row's version tells
    /// whether what the source lacks bears on it.
    fn source_lags(&self, verdict: Verdict, target: Option<&Found>) -> bool {
        let lacks_something = !self.source_lacks.is_empty();
        let lacks_of_others = self.source_lacks.iter().any(|node| node != self.local);
        let was_replayed = target.is_some_and(|target| self.replay.has_written(target));
        match verdict {
            Verdict::Insert => lacks_something,
            // The target may have had the source's version, and have deleted it before the late version took its place.
            Verdict::Update if was_replayed => lacks_something,
            // What the source has yet to receive from other nodes, the target may have skipped. The target has skipped
            // none of its own changes.
            Verdict::Settled | Verdict::Update => lacks_of_others,
            // The target has another node's version. If the source lacks nothing, it has had that version, and has
            // deleted it for good.
            Verdict::Delete if target.is_some() && !was_replayed => lacks_something || !self.late_at_source.is_empty(),
            // The source has all of the failed node's transactions, but perhaps not what was brought from another
            // source.
            Verdict::Delete if is_brought(target) => lacks_of_others,
            // It has not reconciled its own recovery of the failed node yet, and may have skipped what came to the row.
            Verdict::Delete => self.source_lacks.contains(self.replay.failed),
            Verdict::Keep | Verdict::OfUnknownAge => false,
        }
    }

    /// Whether the source received its version late: other nodes may have deleted or changed that row, and the source
    /// has skipped that.
    fn is_late(&self, verdict: Verdict, source: Option<&Found>) -> bool {
        let is_late = match source.and_then(|source| source.committed.as_ref()) {
            Some((_, Author::Node(node))) => node != self.replay.failed && self.late_at_source.contains(node),
            // The source has brought or restored the row while reconciling its own recovery.
            Some(_) => !self.late_at_source.is_empty(),
            None => false,
        };
        is_late && matches!(verdict, Verdict::Insert | Verdict::Update)
    }

    /// Whether the target fails again and again to apply changes from the author of the source's later version. If the
    /// source has no row, changes from any node count: the row that needs room may have come and gone on the source.
    pub fn is_stuck(&self, verdict: Verdict, source: Option<&Found>) -> bool {
        let is_stuck = |node: &String| self.stuck.contains(node) && self.target_lacks.contains(node);
        match (verdict, source.and_then(|source| source.committed.as_ref())) {
            (Verdict::Update, Some((_, Author::Node(node)))) => is_stuck(node),
            (Verdict::Delete, _) => self.target_lacks.iter().any(is_stuck),
            _ => false,
        }
    }

    /// Whether the source has had the target's version, if it has passed the version's author: it has had what the
    /// replay wrote, what it receives from other nodes, and what it has written itself.
    fn source_knows_author(&self, target: Option<&Found>) -> bool {
        target.is_none_or(|target| {
            self.replay.has_written(target)
                || match &target.committed {
                    Some((_, Author::Node(author))) => {
                        *author == self.source || self.passed_by_source.contains_key(author)
                    }
                    _ => false,
                }
        })
    }
}

fn is_brought(target: Option<&Found>) -> bool {
    matches!(target.and_then(|target| target.committed.as_ref()), Some((_, Author::Reconcile)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::clock::Timestamp;

    /// The replay's first transaction id.
    const SINCE: u32 = 100;

    fn found(author: Author, transaction: u32) -> Found {
        Found { committed: Some((Timestamp(1), author)), transaction, values: Vec::new(), out_of_line: Vec::new() }
    }

    fn of(node: &str) -> Found {
        found(Author::Node(node.to_owned()), 1)
    }

    fn replayed() -> Found {
        found(Author::Node("n1".to_owned()), SINCE)
    }

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    /// n1 has failed, n2 is the target and n3 the source.
    #[derive(Default)]
    struct Facts<'f> {
        source_lacks: &'f [&'f str],
        target_lacks: &'f [&'f str],
        late_at_source: &'f [&'f str],
        stuck: &'f [&'f str],
        passed_by_source: &'f [&'f str],
    }

    fn with<T>(facts: &Facts<'_>, tell: impl FnOnce(&Standing<'_>) -> T) -> T {
        let passed = facts.passed_by_source.iter().map(|node| ((*node).to_owned(), OriginLsn(1))).collect();
        tell(&Standing {
            replay: Replay { failed: "n1", since: SINCE, is_of_gone: false },
            local: "n2",
            source: "n3",
            source_lacks: &names(facts.source_lacks),
            target_lacks: &names(facts.target_lacks),
            late_at_source: &names(facts.late_at_source),
            stuck: &facts.stuck.iter().map(|node| (*node).to_owned()).collect(),
            passed_by_source: &passed,
        })
    }

    fn lacks(facts: &Facts<'_>, verdict: Verdict, source: Option<Found>, target: Option<Found>) -> Option<Why> {
        with(facts, |standing| standing.lacks(verdict, source.as_ref(), target.as_ref()))
    }

    #[test]
    fn nothing_waits_where_nobody_lacks_anything() {
        for verdict in [Verdict::Settled, Verdict::Update, Verdict::Insert, Verdict::Delete] {
            for source in [None, Some(of("n1")), Some(of("n4"))] {
                for target in [None, Some(replayed()), Some(of("n5"))] {
                    assert_eq!(lacks(&Facts::default(), verdict, source.clone(), target), None, "{verdict:?}");
                }
            }
        }
    }

    #[test]
    fn what_the_source_lacks_of_the_target_itself_bears_on_rows_that_the_target_may_have_lost() {
        let facts = Facts { source_lacks: &["n2"], ..Facts::default() };
        for (verdict, target, expected) in [
            (Verdict::Insert, None, true),
            (Verdict::Update, Some(replayed()), true),
            (Verdict::Update, Some(of("n4")), false),
            (Verdict::Settled, None, false),
            (Verdict::Settled, Some(replayed()), false),
            (Verdict::Delete, Some(of("n4")), true),
            (Verdict::Delete, Some(replayed()), false),
            (Verdict::Delete, Some(found(Author::Reconcile, SINCE)), false),
        ] {
            let why = lacks(&facts, verdict, Some(of("n1")), target.clone());
            assert_eq!(why, expected.then_some(Why::SourceLags), "{verdict:?} {target:?}");
        }
    }

    #[test]
    fn what_the_source_lacks_of_others_bears_on_all_but_what_the_replay_wrote_and_it_has_not() {
        let facts = Facts { source_lacks: &["n4"], ..Facts::default() };
        for (verdict, target, expected) in [
            (Verdict::Insert, None, true),
            (Verdict::Update, Some(of("n5")), true),
            (Verdict::Settled, Some(of("n1")), true),
            (Verdict::Delete, Some(of("n5")), true),
            (Verdict::Delete, Some(replayed()), false),
            (Verdict::Delete, Some(found(Author::Reconcile, SINCE)), true),
        ] {
            let why = lacks(&facts, verdict, Some(of("n1")), target.clone());
            assert_eq!(why, expected.then_some(Why::SourceLags), "{verdict:?} {target:?}");
        }
    }

    #[test]
    fn nothing_is_deleted_for_a_source_that_has_yet_to_reconcile_its_own_recovery_of_the_failed_node() {
        let facts = Facts { source_lacks: &["n1"], ..Facts::default() };
        for target in [replayed(), of("n4"), found(Author::Reconcile, SINCE)] {
            assert_eq!(lacks(&facts, Verdict::Delete, None, Some(target.clone())), Some(Why::SourceLags), "{target:?}");
        }
        let others = Facts { source_lacks: &["n4"], ..Facts::default() };
        assert_eq!(lacks(&others, Verdict::Delete, None, Some(replayed())), None);
    }

    #[test]
    fn what_came_late_at_the_source_is_no_version_to_take() {
        let facts = Facts { late_at_source: &["n4"], ..Facts::default() };
        for verdict in [Verdict::Insert, Verdict::Update] {
            assert_eq!(lacks(&facts, verdict, Some(of("n4")), None), Some(Why::SourceLags));
            assert_eq!(lacks(&facts, verdict, Some(found(Author::Unknown, 1)), None), Some(Why::SourceLags));
            assert_eq!(lacks(&facts, verdict, Some(of("n5")), None), None);
        }
        assert_eq!(lacks(&facts, Verdict::Delete, None, Some(of("n5"))), Some(Why::SourceLags));
        // The target has received all that there is of the failed node.
        let failed = Facts { late_at_source: &["n1"], ..Facts::default() };
        assert_eq!(lacks(&failed, Verdict::Insert, Some(of("n1")), None), None);
    }

    #[test]
    fn the_target_waits_for_the_author_of_what_it_is_to_take_and_for_everybody_where_there_is_none() {
        let facts = Facts { target_lacks: &["n4"], ..Facts::default() };
        assert_eq!(lacks(&facts, Verdict::Update, Some(of("n4")), Some(of("n5"))), Some(Why::TargetLags));
        assert_eq!(lacks(&facts, Verdict::Update, Some(of("n5")), Some(of("n4"))), None);
        assert_eq!(lacks(&facts, Verdict::Delete, None, Some(replayed())), Some(Why::TargetLags));
    }

    #[test]
    fn room_is_made_for_what_a_node_sends_and_the_target_cannot_apply() {
        let stuck = |facts: &Facts<'_>, verdict, source: Option<Found>| {
            with(facts, |standing| standing.is_stuck(verdict, source.as_ref()))
        };
        let facts = Facts { stuck: &["n4"], target_lacks: &["n4"], ..Facts::default() };
        assert!(stuck(&facts, Verdict::Update, Some(of("n4"))));
        assert!(!stuck(&facts, Verdict::Update, Some(of("n5"))));
        assert!(stuck(&facts, Verdict::Delete, None));
        assert!(!stuck(&facts, Verdict::Insert, Some(of("n4"))), "there is nothing to take away");
        let passed = Facts { stuck: &["n4"], ..Facts::default() };
        assert!(!stuck(&passed, Verdict::Update, Some(of("n4"))));
        assert!(!stuck(&passed, Verdict::Delete, None));
    }

    #[test]
    fn that_the_source_lacks_a_row_says_nothing_where_it_never_heard_of_its_author() {
        let verdict = |passed: &[&str], target: Found| {
            let facts = Facts { passed_by_source: passed, ..Facts::default() };
            with(&facts, |standing| {
                let standing = Standing { replay: Replay { is_of_gone: true, ..standing.replay }, ..*standing };
                standing.verdict(None, Some(&target))
            })
        };
        assert_eq!(verdict(&["n4"], of("n4")), Verdict::Delete);
        assert_eq!(verdict(&[], of("n4")), Verdict::Keep);
        assert_eq!(verdict(&[], of("n3")), Verdict::Delete, "it wrote it itself");
        assert_eq!(verdict(&[], replayed()), Verdict::Delete);
    }
}
