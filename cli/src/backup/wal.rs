//! Files of a WAL archive by their names, and what can be replayed with those that are there (pure).
//!
//! Names and the choice of a segment's timeline are those of xlog_internal.h and XLogFileReadAnyTLI (xlogrecovery.c).

use std::collections::BTreeMap;
use std::fmt;

use crate::lsn::Lsn;

/// One WAL segment of a timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Segment {
    pub timeline: u32,
    pub number: u64,
}

impl Segment {
    /// The one that holds the byte at a position.
    pub fn holding(timeline: u32, lsn: Lsn, segment_size: u64) -> Segment {
        Segment { timeline, number: lsn.0 / segment_size }
    }

    pub fn start(self, segment_size: u64) -> Lsn {
        Lsn(self.number * segment_size)
    }

    pub fn end(self, segment_size: u64) -> Lsn {
        Lsn((self.number + 1) * segment_size)
    }

    pub fn next(self) -> Segment {
        Segment { number: self.number + 1, ..self }
    }

    /// 24 hexadecimal digits: timeline, and the number in two halves of which the second counts the segments of 4 GB.
    pub fn file_name(self, segment_size: u64) -> String {
        let per_half = 0x1_0000_0000 / segment_size;
        format!("{:08X}{:08X}{:08X}", self.timeline, self.number / per_half, self.number % per_half)
    }

    /// None where the name is not exactly that of a segment of this size.
    pub fn parse(name: &str, segment_size: u64) -> Option<Segment> {
        let hex = name.len() == 24 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F'));
        let part = |from: usize| hex.then(|| u64::from_str_radix(&name[from..from + 8], 16).ok()).flatten();
        let per_half = 0x1_0000_0000 / segment_size;
        let (high, low) = (part(8)?, part(16)?);
        let timeline = u32::try_from(part(0)?).ok()?;
        (low < per_half).then_some(Segment { timeline, number: high * per_half + low })
    }
}

/// Where a timeline came from: its ancestors, each with the position at which it was left, oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    pub timeline: u32,
    pub ancestors: Vec<(u32, Lsn)>,
}

impl History {
    /// Timeline 1 has no file.
    pub fn first() -> History {
        History { timeline: 1, ancestors: Vec::new() }
    }

    /// `0000000A.history`
    pub fn file_name(timeline: u32) -> String {
        format!("{timeline:08X}.history")
    }

    pub fn timeline_of(name: &str) -> Option<u32> {
        let digits = name.strip_suffix(".history")?;
        let hex = digits.len() == 8 && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F'));
        hex.then(|| u32::from_str_radix(digits, 16).ok()).flatten()
    }

    /// The file's text, by readTimeLineHistory (timeline.c): a line for each ancestor, comments begin with #.
    pub fn parse(timeline: u32, text: &str) -> Option<History> {
        let mut ancestors = Vec::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let mut fields = line.split_whitespace();
            ancestors.push((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?));
        }
        Some(History { timeline, ancestors })
    }

    /// Where a timeline of the history was left; None for the last one, which goes on, and for a stranger.
    pub fn left_at(&self, timeline: u32) -> Option<Lsn> {
        self.ancestors.iter().find(|(ancestor, _)| *ancestor == timeline).map(|&(_, lsn)| lsn)
    }

    /// Whether a position that a server had on `timeline` belongs to the past of this one.
    pub fn contains(&self, timeline: u32, lsn: Lsn) -> bool {
        timeline == self.timeline || self.left_at(timeline).is_some_and(|left| lsn <= left)
    }

    /// The timeline on which a position was first reached. A recovery that ends there must be told this one: a later one would be
    /// recorded as left before it began.
    pub fn timeline_at(&self, lsn: Lsn) -> u32 {
        let ancestor = self.ancestors.iter().find(|&&(_, left)| lsn <= left);
        ancestor.map_or(self.timeline, |&(timeline, _)| timeline)
    }

    /// The segments that a replay reads from `from` until it has read up to `to`: each of the newest timeline that had begun in it.
    pub fn segments(&self, from: Lsn, to: Lsn, segment_size: u64) -> Vec<Segment> {
        let last = to.0.saturating_sub(1).max(from.0) / segment_size;
        (from.0 / segment_size..=last)
            .map(|number| {
                let left = |&&(_, left): &&(u32, Lsn)| left.0 / segment_size > number;
                let ancestor = self.ancestors.iter().find(left);
                Segment { timeline: ancestor.map_or(self.timeline, |&(timeline, _)| timeline), number }
            })
            .collect()
    }
}

/// A stretch of WAL of one timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Range {
    pub timeline: u32,
    pub from: Lsn,
    pub to: Lsn,
}

/// What a node's archive holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archive {
    pub segment_size: u64,
    /// With the bytes of each file; None where the driver does not know them (compressed, or not asked).
    pub segments: BTreeMap<Segment, Option<u64>>,
    /// Timeline 1 is always among them.
    pub histories: BTreeMap<u32, History>,
}

impl Archive {
    pub fn new(segment_size: u64) -> Archive {
        let histories = BTreeMap::from([(1, History::first())]);
        Archive { segment_size, segments: BTreeMap::new(), histories }
    }

    /// There with its full size, as far as that is known.
    pub fn has(&self, segment: Segment) -> bool {
        self.segments.get(&segment).is_some_and(|size| size.is_none_or(|bytes| bytes == self.segment_size))
    }

    /// What is lacking for a replay along a history from `from` to `to`.
    pub fn missing(&self, history: &History, from: Lsn, to: Lsn) -> Vec<Segment> {
        let needed = history.segments(from, to, self.segment_size);
        needed.into_iter().filter(|&segment| !self.has(segment)).collect()
    }

    /// How far a replay along a history gets that has come to `from` already.
    pub fn reach(&self, history: &History, from: Lsn) -> Lsn {
        let mut reached = from;
        loop {
            let next = history.segments(reached, reached, self.segment_size);
            match next.first().filter(|&&segment| self.has(segment)) {
                Some(segment) => reached = segment.end(self.segment_size),
                None => return reached,
            }
        }
    }

    /// Everything that can be restored to from a backup that stopped at `stop` of `timeline`: its own timeline first, then those
    /// that have branched off since.
    pub fn ranges(&self, timeline: u32, stop: Lsn) -> Vec<Range> {
        let mut ranges = Vec::new();
        for history in self.histories.values().filter(|history| history.contains(timeline, stop)) {
            let to = self.reach(history, stop);
            let begin = history.ancestors.last().map_or(stop, |&(_, left)| left.max(stop));
            if history.timeline == timeline || to > begin {
                ranges.push(Range { timeline: history.timeline, from: begin, to });
            }
        }
        // A history file that is missing does not take away what needs none.
        if !self.histories.contains_key(&timeline) {
            let history = History { timeline, ancestors: Vec::new() };
            ranges.insert(0, Range { timeline, from: stop, to: self.reach(&history, stop) });
        }
        ranges
    }
}

impl fmt::Display for Range {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} to {} of timeline {}", self.from, self.to, self.timeline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB16: u64 = 16 << 20;

    fn segment(timeline: u32, number: u64) -> Segment {
        Segment { timeline, number }
    }

    fn archive(segments: &[(u32, u64)], histories: &[(u32, &[(u32, u64)])]) -> Archive {
        let mut archive = Archive::new(MB16);
        archive.segments.extend(segments.iter().map(|&(timeline, number)| (segment(timeline, number), Some(MB16))));
        for (timeline, ancestors) in histories {
            let ancestors = ancestors.iter().map(|&(timeline, lsn)| (timeline, Lsn(lsn))).collect();
            archive.histories.insert(*timeline, History { timeline: *timeline, ancestors });
        }
        archive
    }

    #[test]
    fn names_of_segments_are_postgresqls() {
        assert_eq!(segment(1, 0x1ff).file_name(MB16), "0000000100000001000000FF");
        assert_eq!(segment(0xA, 3).file_name(1 << 20), "0000000A0000000000000003");
        for size in [1 << 20, MB16, 1 << 30] {
            for number in [0, 1, 3, 4, 255, 256, 4096, 123_456] {
                let segment = segment(7, number);
                assert_eq!(Segment::parse(&segment.file_name(size), size), Some(segment));
            }
        }
        // 16 MB: a second half counts to FF.
        for other in
            ["000000010000000000000100", "00000001000000000000000a", "00000001000000000000000A.partial", "", "é"]
        {
            assert_eq!(Segment::parse(other, MB16), None, "{other}");
        }
        assert_eq!(History::timeline_of("0000000A.history"), Some(10));
        assert_eq!(History::timeline_of("0000000a.history"), None);
    }

    #[test]
    fn a_history_is_read_with_its_comments() {
        let text = "1\t0/5000000\tno recovery target specified\n\n# x\n2\t0/90000A0\tat restore point \"a b\"\n";
        let history = History::parse(3, text).expect("it is one");
        assert_eq!(history.ancestors, [(1, Lsn(0x500_0000)), (2, Lsn(0x900_00A0))]);
        assert!(history.contains(1, Lsn(0x500_0000)) && !history.contains(1, Lsn(0x500_0001)));
        assert!(history.contains(3, Lsn(u64::MAX)) && !history.contains(4, Lsn(1)));
        let at = [0x500_0000, 0x500_0001, 0x900_00A0, 0x900_00A1].map(|lsn| history.timeline_at(Lsn(lsn)));
        assert_eq!(at, [1, 2, 2, 3]);
        assert_eq!(History::parse(2, "x"), None);
    }

    #[test]
    fn a_segment_is_read_on_the_newest_timeline_that_had_begun_in_it() {
        let history = History { timeline: 3, ancestors: vec![(1, Lsn(3 * MB16 + 40)), (2, Lsn(5 * MB16))] };
        let read = history.segments(Lsn(2 * MB16 + 1), Lsn(6 * MB16 + 1), MB16);
        assert_eq!(read, [segment(1, 2), segment(2, 3), segment(2, 4), segment(3, 5), segment(3, 6)]);
        // What ends at a boundary needs nothing of the next segment.
        assert_eq!(history.segments(Lsn(6 * MB16), Lsn(7 * MB16), MB16), [segment(3, 6)]);
        assert_eq!(history.segments(Lsn(6 * MB16 + 9), Lsn(6 * MB16 + 9), MB16), [segment(3, 6)]);
    }

    #[test]
    fn a_backup_reaches_to_the_first_gap() {
        let there = archive(&[(1, 4), (1, 5), (1, 7)], &[]);
        let range = |from, to| Range { timeline: 1, from: Lsn(from), to: Lsn(to) };
        assert_eq!(there.ranges(1, Lsn(4 * MB16 + 100)), [range(4 * MB16 + 100, 6 * MB16)]);
        // Its own WAL is part of the backup: to its stop it needs nothing.
        assert_eq!(there.ranges(1, Lsn(6 * MB16 + 100)), [range(6 * MB16 + 100, 6 * MB16 + 100)]);
        assert_eq!(there.missing(&History::first(), Lsn(4 * MB16), Lsn(8 * MB16)), [segment(1, 6)]);
    }

    #[test]
    fn a_segment_that_is_cut_short_is_missing() {
        let mut there = archive(&[(1, 4), (1, 5)], &[]);
        there.segments.insert(segment(1, 5), Some(8192));
        assert_eq!(there.reach(&History::first(), Lsn(4 * MB16)), Lsn(5 * MB16));
        there.segments.insert(segment(1, 5), None);
        assert_eq!(there.reach(&History::first(), Lsn(4 * MB16)), Lsn(6 * MB16));
    }

    #[test]
    fn a_backup_reaches_into_timelines_that_left_after_it_and_no_others() {
        let there = archive(
            &[(1, 4), (1, 5), (1, 6), (2, 5), (2, 6), (3, 4)],
            &[(2, &[(1, 5 * MB16 + 50)]), (3, &[(1, 4 * MB16 + 20)])],
        );
        let ranges = there.ranges(1, Lsn(4 * MB16 + 100));
        assert_eq!(ranges.len(), 2);
        assert_eq!(ranges[0], Range { timeline: 1, from: Lsn(4 * MB16 + 100), to: Lsn(7 * MB16) });
        assert_eq!(ranges[1], Range { timeline: 2, from: Lsn(5 * MB16 + 50), to: Lsn(7 * MB16) });
    }

    #[test]
    fn a_backup_of_a_timeline_without_history_file_reaches_along_its_own_segments() {
        let there = archive(&[(2, 5)], &[]);
        assert_eq!(
            there.ranges(2, Lsn(5 * MB16 + 1)),
            [Range { timeline: 2, from: Lsn(5 * MB16 + 1), to: Lsn(6 * MB16) }]
        );
    }
}
