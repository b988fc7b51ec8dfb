//! What is to be done about one row (pure).
//!
//! The source is not authoritative: the later commit stays, whichever node has it. The target's row is deleted for lack
//! of a row on the source in two cases only. Either it is the very version that the replay wrote: then another node had
//! deleted it before it arrived late. Or another node has deleted it while reconciling its own recovery: such a
//! deletion stands for a DELETE or a changed key that the other node had skipped, and is not replicated.

use super::value::Value;
use crate::pg::clock::Timestamp;

/// The node that has committed a version of a row.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Author {
    Node(String),
    /// The target, while reconciling; the commit time is that of the version that was copied.
    Reconcile,
    /// Unknown: the origin belongs to no subscription. The source's own `spock_reconcile` is such an origin.
    Unknown,
}

/// A row as one of the two nodes has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// None if the version is too old for its commit time to be known.
    pub committed: Option<(Timestamp, Author)>,
    /// The id of the transaction that has written the version on that node. It tells whether the row has changed since.
    pub transaction: u32,
    /// In the order of the compared columns.
    pub values: Vec<Option<Value>>,
    /// Which values are stored out of line (TOAST), and hence are not sent by an UPDATE that leaves them unchanged;
    /// empty if this was not asked for.
    pub out_of_line: Vec<bool>,
}

impl Found {
    /// The columns that differ from the other version's, and that an UPDATE may not have sent: where the author stored
    /// a value out of line and left it unchanged, every other node kept the value that it had.
    pub fn unsent(&self, other: &Found) -> Vec<usize> {
        let differs = |index: &usize| self.values.get(*index) != other.values.get(*index);
        let is_out_of_line = |found: &Found, index: usize| found.out_of_line.get(index).copied().unwrap_or(true);
        (0..self.values.len())
            .filter(|index| differs(index) && (is_out_of_line(self, *index) || is_out_of_line(other, *index)))
            .collect()
    }

    /// The columns that are written over the row `other`. If that is the same version, these are the columns that an
    /// UPDATE may not have sent; if it is another version, all except long values that both have, which then need not
    /// be fetched. None: all columns.
    pub fn to_write_over(&self, other: &Found) -> Option<Vec<usize>> {
        if self.is_version_of(other) {
            return Some(self.unsent(other));
        }
        let is_alike = |index: &usize| {
            let value = self.values.get(*index).and_then(Option::as_ref);
            value.is_some_and(|value| value.text().is_none())
                && value == other.values.get(*index).and_then(Option::as_ref)
        };
        let (alike, others): (Vec<usize>, Vec<usize>) = (0..self.values.len()).partition(is_alike);
        (!alike.is_empty()).then_some(others)
    }

    /// The texts of the needed values, and None in the place of the others. None if only a hash is known of a needed
    /// value.
    pub fn texts(&self, is_needed: impl Fn(usize) -> bool) -> Option<Vec<Option<String>>> {
        let text = |(index, value): (usize, &Option<Value>)| match value {
            Some(value) if is_needed(index) => value.text().map(|text| Some(text.to_owned())),
            _ => Some(None),
        };
        self.values.iter().enumerate().map(text).collect()
    }

    /// The texts of all values. None if only a hash is known of one of them.
    pub fn into_texts(self) -> Option<Vec<Option<String>>> {
        let text = |value| match value {
            None => Some(None),
            Some(Value::Text(text)) => Some(Some(text)),
            Some(Value::Hash { .. } | Value::Bytes { .. }) => None,
        };
        self.values.into_iter().map(text).collect()
    }

    /// The total length of the values as text, in bytes.
    pub fn bytes(&self) -> u64 {
        self.values.iter().flatten().map(Value::bytes).fold(0, u64::saturating_add)
    }

    /// The approximate size in memory, in bytes.
    pub fn kept_bytes(&self) -> usize {
        let values: usize =
            self.values.iter().map(|value| value.as_ref().map_or(size_of::<Value>(), Value::kept_bytes)).sum();
        size_of::<Self>() + values + self.out_of_line.len()
    }

    /// Whether both are the same version: one that the same node has committed at the same time.
    pub fn is_version_of(&self, other: &Found) -> bool {
        match (&self.committed, &other.committed) {
            (Some((at, Author::Node(one))), Some((other_at, Author::Node(other)))) => at == other_at && one == other,
            _ => false,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Both nodes have the same row or version, or neither has a row.
    Settled,
    /// The target's row stays: it is the later version, or nothing proves that it was deleted.
    Keep,
    /// The source's version is the later one, or the same version with values that were not sent.
    Update,
    /// The target has no row.
    Insert,
    /// The source has no row, and the target's row is what the replay wrote, or what a recovery elsewhere has deleted.
    Delete,
    /// The rows differ, and neither commit time is known.
    OfUnknownAge,
}

/// What distinguishes the versions that the replay has written from those that the failed node had written before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Replay<'a> {
    pub failed: &'a str,
    /// The target's first transaction id that the replay may have used.
    pub since: u32,
    /// Whether the rows at hand are those that another node has deleted while reconciling its own recovery.
    pub is_of_gone: bool,
}

impl Replay<'_> {
    /// Whether the replay has written the version. A row that was deleted to make room, and restored, counts as well.
    pub fn has_written(self, found: &Found) -> bool {
        let is_of_failed = match &found.committed {
            Some((_, Author::Node(name))) => name == self.failed,
            Some((_, Author::Reconcile)) => true,
            _ => false,
        };
        // Transaction ids wrap around.
        is_of_failed && found.transaction.wrapping_sub(self.since).cast_signed() >= 0
    }

    /// Whether a row that the source lacks was deleted for good. The caller makes sure that the source receives from
    /// the row's author, and that each of the two nodes has passed what the other had: then the source has had the row.
    fn is_gone(self, found: &Found) -> bool {
        self.is_of_gone && matches!(found.committed, Some((_, Author::Node(_))))
    }
}

/// Decides what is to be done about a row that the two nodes have in these versions.
pub fn judge(source: Option<&Found>, target: Option<&Found>, replay: Replay<'_>) -> Verdict {
    let (source, target) = match (source, target) {
        (None, None) => return Verdict::Settled,
        (Some(_), None) => return Verdict::Insert,
        (None, Some(target)) => {
            let is_gone = replay.has_written(target) || replay.is_gone(target);
            return if is_gone { Verdict::Delete } else { Verdict::Keep };
        }
        (Some(source), Some(target)) => (source, target),
    };
    if source.values == target.values {
        return Verdict::Settled;
    }
    if source.is_version_of(target) {
        // Types, triggers and generated columns of the target may make something else of the same version, which stays
        // so. Values that were not sent are written.
        return if source.unsent(target).is_empty() { Verdict::Settled } else { Verdict::Update };
    }
    match (&source.committed, &target.committed) {
        (None, None) => Verdict::OfUnknownAge,
        (None, Some(_)) => Verdict::Keep,
        (Some(_), None) => Verdict::Update,
        (Some((at_source, author)), Some((at_target, other))) => match at_source.cmp(at_target) {
            std::cmp::Ordering::Less => Verdict::Keep,
            std::cmp::Ordering::Greater => Verdict::Update,
            // Both were committed in the same microsecond: the node with the higher name wins.
            std::cmp::Ordering::Equal if name(author) < name(other) => Verdict::Keep,
            std::cmp::Ordering::Equal => Verdict::Update,
        },
    }
}

fn name(author: &Author) -> &str {
    match author {
        Author::Node(name) => name,
        Author::Reconcile | Author::Unknown => "",
    }
}

/// The nodes whose transactions the target must have passed, as far as the source had them, before a row may be judged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Passed<'a> {
    Of(&'a str),
    OfEverybody,
}

pub fn must_be_passed(source: Option<&Found>) -> Passed<'_> {
    match source.and_then(|source| source.committed.as_ref()) {
        Some((_, Author::Node(name))) => Passed::Of(name),
        _ => Passed::OfEverybody,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: &str) -> Option<Value> {
        Some(Value::Text(value.to_owned()))
    }

    fn found(committed: Option<(i64, &str)>, value: &str) -> Found {
        let author = |name: &str| match name {
            "copied" => Author::Unknown,
            "put back" => Author::Reconcile,
            name => Author::Node(name.to_owned()),
        };
        Found {
            committed: committed.map(|(at, name)| (Timestamp(at), author(name))),
            transaction: 1_000,
            values: vec![text("1"), text(value)],
            out_of_line: vec![false, true],
        }
    }

    #[test]
    fn every_case_of_two_versions_is_judged() {
        use Verdict::{Delete, Insert, Keep, OfUnknownAge, Settled, Update};
        let of = |at, name| Some(found(Some((at, name)), "a"));
        let other = |at, name| Some(found(Some((at, name)), "b"));
        let old = |value| Some(found(None, value));
        for (what, source, target, expected) in [
            ("nobody has it", None, None, Settled),
            ("the source alone", of(10, "n3"), None, Insert),
            ("what the replay wrote is gone on the source", None, of(10, "n1"), Delete),
            ("the target's own row is not on the source", None, of(10, "n2"), Keep),
            ("nor is a peer's", None, of(10, "n3"), Keep),
            ("nor what another's reconcile brought", None, of(10, "copied"), Keep),
            ("what a reconcile here has put back is gone on the source", None, of(10, "put back"), Delete),
            ("the source's is as old as what was put back", of(10, "n1"), other(10, "put back"), Update),
            ("nor one of unknown age", None, old("a"), Keep),
            ("the same", of(10, "n1"), of(10, "n1"), Settled),
            ("the same content by others", of(10, "n1"), of(12, "n2"), Settled),
            ("the same version, other content", of(10, "n1"), other(10, "n1"), Update),
            ("the source's is later", of(11, "n3"), other(10, "n1"), Update),
            ("the source's is earlier", of(9, "n3"), other(10, "n1"), Keep),
            ("at once, the source's author is higher", of(10, "n3"), other(10, "n1"), Update),
            ("at once, the target's author is higher", of(10, "n1"), other(10, "n2"), Keep),
            ("the source's is a copy", of(11, "copied"), other(10, "n1"), Update),
            ("the target's age is unknown", of(10, "n3"), old("b"), Update),
            ("the source's age is unknown", old("a"), other(10, "n1"), Keep),
            ("neither's age is known", old("a"), old("b"), OfUnknownAge),
            ("neither's age is known, and they are alike", old("a"), old("a"), Settled),
        ] {
            let replay = Replay { failed: "n1", since: 1_000, is_of_gone: false };
            assert_eq!(judge(source.as_ref(), target.as_ref(), replay), expected, "{what}");
        }
    }

    #[test]
    fn what_a_recovery_has_deleted_elsewhere_is_deleted_whoever_wrote_it_if_that_is_known() {
        let replay = Replay { failed: "n1", since: 1_000, is_of_gone: true };
        for (author, expected) in [
            ("n1", Verdict::Delete),
            ("n2", Verdict::Delete),
            ("n3", Verdict::Delete),
            ("put back", Verdict::Delete),
            ("copied", Verdict::Keep),
        ] {
            let target = found(Some((10, author)), "a");
            assert_eq!(judge(None, Some(&target), replay), expected, "{author}");
            let earlier = Found { transaction: 999, ..target };
            let expected = if author == "put back" { Verdict::Keep } else { expected };
            assert_eq!(judge(None, Some(&earlier), replay), expected, "{author}, before the replay");
        }
        assert_eq!(judge(None, Some(&found(None, "a")), replay), Verdict::Keep);
        assert_eq!(judge(None, None, replay), Verdict::Settled);
        // If both nodes have a row, the later version stays as usual.
        let (early, late) = (found(Some((10, "n2")), "a"), found(Some((11, "n3")), "b"));
        assert_eq!(judge(Some(&early), Some(&late), replay), Verdict::Keep);
        assert_eq!(judge(Some(&late), Some(&early), replay), Verdict::Update);
    }

    #[test]
    fn only_what_the_replay_wrote_is_deleted_also_where_transaction_ids_have_wrapped() {
        for (since, transaction, expected) in [
            (1_000, 999, Verdict::Keep),
            (1_000, 1_000, Verdict::Delete),
            (u32::MAX - 5, 3, Verdict::Delete),
            (3, u32::MAX - 5, Verdict::Keep),
        ] {
            let target = Found { transaction, ..found(Some((10, "n1")), "a") };
            assert_eq!(
                judge(None, Some(&target), Replay { failed: "n1", since, is_of_gone: false }),
                expected,
                "{since} {transaction}"
            );
        }
    }

    #[test]
    fn of_the_same_version_only_what_may_not_have_been_sent_is_brought() {
        let replay = Replay { failed: "n1", since: 1_000, is_of_gone: false };
        let mut target = found(Some((10, "n3")), "b");
        target.out_of_line = vec![false, false];
        let mut source = found(Some((10, "n3")), "a");
        for (out_of_line, expected) in
            [(vec![false, true], Verdict::Update), (vec![true, false], Verdict::Settled), (vec![], Verdict::Update)]
        {
            source.out_of_line = out_of_line;
            assert_eq!(judge(Some(&source), Some(&target), replay), expected, "{:?}", source.out_of_line);
        }
        source.out_of_line = vec![false, true];
        assert_eq!(source.unsent(&target), [1]);
        // Only the target stores the value out of line.
        (source.out_of_line, target.out_of_line) = (vec![false, false], vec![false, true]);
        assert_eq!(source.unsent(&target), [1]);
    }

    #[test]
    fn a_long_value_that_both_have_is_not_written_and_one_that_differs_must_be_fetched() {
        let long = |of: &str| Some(Value::Hash { bytes: 5_000, sha256: of.to_owned() });
        let row = |at, by, values: [Option<Value>; 3]| Found { values: values.to_vec(), ..found(Some((at, by)), "") };
        let target = row(10, "n1", [text("1"), long("a"), text("x")]);
        let alike = row(11, "n3", [text("1"), long("a"), text("y")]);
        assert_eq!(alike.to_write_over(&target), Some(vec![0, 2]));
        assert_eq!(alike.texts(|index| index != 1), Some(vec![Some("1".to_owned()), None, Some("y".to_owned())]));
        let differs = row(11, "n3", [text("1"), long("b"), None]);
        assert_eq!(differs.to_write_over(&target), None);
        assert_eq!(differs.texts(|_| true), None);
        // Of the same version, only the long value is written, which was not sent.
        let unsent = row(10, "n1", [text("1"), long("b"), text("x")]);
        assert_eq!(unsent.to_write_over(&target), Some(vec![1]));
        let short = [row(11, "n3", [text("1"), None, text("y")]), row(10, "n1", [text("1"), None, text("x")])];
        assert_eq!(short[0].to_write_over(&short[1]), None);
    }

    #[test]
    fn whom_the_target_must_have_passed_depends_on_who_wrote_the_sources_version() {
        assert_eq!(must_be_passed(Some(&found(Some((1, "n4")), "a"))), Passed::Of("n4"));
        for source in [Some(found(Some((1, "copied")), "a")), Some(found(None, "a")), None] {
            assert_eq!(must_be_passed(source.as_ref()), Passed::OfEverybody);
        }
    }
}
