//! What is to be done about one row (pure).
//!
//! The source is no authority: the later commit is. What the source lacks is deleted only if it is the very version that
//! the replay wrote, for then somebody had deleted it before it came; or if a recovery of a node's own has deleted it there,
//! for that stands for a deletion, or another key, which that node had skipped and hence has told nobody.

use super::value::Value;
use crate::pg::clock::Timestamp;

/// Who has committed a version.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Author {
    Node(String),
    /// A reconcile on the target, with the time of the commit that it has copied.
    Reconcile,
    /// By an origin that no subscription has: as a reconcile on the source.
    Unknown,
}

/// A row as one of the two nodes has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// None: too old for its age to be known.
    pub committed: Option<(Timestamp, Author)>,
    /// The transaction there that has written it: tells whether it has changed since.
    pub transaction: u32,
    /// In the order of the columns that are compared.
    pub values: Vec<Option<Value>>,
    /// Which of them are kept out of line, hence are not sent where an UPDATE leaves them alone; empty where nobody has asked.
    pub out_of_line: Vec<bool>,
}

impl Found {
    /// The columns that differ from the other's, and that an UPDATE may not have sent: where its author kept them out of
    /// line, and left them alone, each other node kept what it had.
    pub fn unsent(&self, other: &Found) -> Vec<usize> {
        let differs = |index: &usize| self.values.get(*index) != other.values.get(*index);
        let is_out_of_line = |found: &Found, index: usize| found.out_of_line.get(index).copied().unwrap_or(true);
        (0..self.values.len())
            .filter(|index| differs(index) && (is_out_of_line(self, *index) || is_out_of_line(other, *index)))
            .collect()
    }

    /// The columns that are written where the other one is there: what was not sent of the same version; of another, all. A long
    /// value that both have is left alone, so that it need not be fetched. None: all.
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

    /// Its values, of these columns and no others; None: one of them is long, and only its hash is known.
    pub fn texts(&self, is_needed: impl Fn(usize) -> bool) -> Option<Vec<Option<String>>> {
        let text = |(index, value): (usize, &Option<Value>)| match value {
            Some(value) if is_needed(index) => value.text().map(|text| Some(text.to_owned())),
            _ => Some(None),
        };
        self.values.iter().enumerate().map(text).collect()
    }

    /// Its values; None: one of them is long, and only its hash is known.
    pub fn into_texts(self) -> Option<Vec<Option<String>>> {
        let text = |value| match value {
            None => Some(None),
            Some(Value::Text(text)) => Some(Some(text)),
            Some(Value::Hash { .. } | Value::Bytes { .. }) => None,
        };
        self.values.into_iter().map(text).collect()
    }

    /// Bytes of its values as text.
    pub fn bytes(&self) -> u64 {
        self.values.iter().flatten().map(Value::bytes).fold(0, u64::saturating_add)
    }

    /// About what it takes in memory.
    pub fn kept_bytes(&self) -> usize {
        let values: usize =
            self.values.iter().map(|value| value.as_ref().map_or(size_of::<Value>(), Value::kept_bytes)).sum();
        size_of::<Self>() + values + self.out_of_line.len()
    }

    /// Both are the very same version.
    pub fn is_version_of(&self, other: &Found) -> bool {
        match (&self.committed, &other.committed) {
            (Some((at, Author::Node(one))), Some((other_at, Author::Node(other)))) => at == other_at && one == other,
            _ => false,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Both have the same, or both have nothing.
    Settled,
    /// The target's is the later one.
    Keep,
    /// The source's is the later one; the target has an earlier one, or the same with other content.
    Update,
    /// The target has none.
    Insert,
    /// The source has none, and the target what the replay wrote.
    Delete,
    /// They differ, and of neither the age is known.
    OfUnknownAge,
}

/// What tells the rows that the replay has written from those that the failed node had written before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Replay<'a> {
    pub failed: &'a str,
    /// The target's transactions from this one on.
    pub since: u32,
    /// The rows at hand are those that a node's own recovery has deleted there.
    pub is_of_gone: bool,
}

impl Replay<'_> {
    /// Also one that was taken away, and put back.
    pub fn has_written(self, found: &Found) -> bool {
        let is_of_failed = match &found.committed {
            Some((_, Author::Node(name))) => name == self.failed,
            Some((_, Author::Reconcile)) => true,
            _ => false,
        };
        // Transaction ids wrap around.
        is_of_failed && found.transaction.wrapping_sub(self.since).cast_signed() >= 0
    }

    /// Whether a row that the source lacks is gone for all, once each has passed what the other had: the source has had it, if it
    /// knows its author.
    fn is_gone(self, found: &Found) -> bool {
        self.is_of_gone && matches!(found.committed, Some((_, Author::Node(_))))
    }
}

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
        // Types and triggers of the target make of the same version what they make of it. What was not sent is another matter.
        return if source.unsent(target).is_empty() { Verdict::Settled } else { Verdict::Update };
    }
    match (&source.committed, &target.committed) {
        (None, None) => Verdict::OfUnknownAge,
        (None, Some(_)) => Verdict::Keep,
        (Some(_), None) => Verdict::Update,
        (Some((at_source, author)), Some((at_target, other))) => match at_source.cmp(at_target) {
            std::cmp::Ordering::Less => Verdict::Keep,
            std::cmp::Ordering::Greater => Verdict::Update,
            // Two at the same microsecond.
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

/// Whose transactions the target must have passed, as far as the source had them, before the row may be judged.
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
        // Of what is there, the later version counts as ever.
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
        // The target has written it, and kept it out of line.
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
        // Of the same version the long one alone, which was not sent.
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
