//! The comparison of one span of ranges: first the sums of its ranges, and then the rows of those ranges that differ.

use super::comparison::{CompareFailure, Comparison, Visitor};
use super::found::{Found, Kind};
use super::question::{
    Answer, Asked, CutRange, FOLLOWED_BYTES, KEY_BYTES, KEYS, KeyText, RANGES, ROWS_AT_ONCE, Span, Sum,
};

use super::side::Side;
use super::table::{Incomparable, Which};
use crate::pg::{digest, memory};
use crate::refused::Refused;
use crate::remote::error::RemoteError;
use std::collections::{HashMap, HashSet};

/// The most keys for which it is remembered that they were reported. Only where the nodes order keys differently may
/// ranges of two spans overlap.
const REMEMBERED: usize = 1 << 20;

/// Both nodes, and the keys that were reported before.
pub(super) struct Both<'s> {
    pub here: &'s mut dyn Side,
    pub there: &'s mut dyn Side,
    pub reported: HashSet<i64>,
    /// The ranges after a key as this node divides them, which it did while the other node was summing up those before.
    ahead: Option<(KeyText, Vec<CutRange>)>,
}

impl<'s> Both<'s> {
    pub fn new(here: &'s mut dyn Side, there: &'s mut dyn Side) -> Both<'s> {
        Both { here, there, reported: HashSet::new(), ahead: None }
    }
}

/// A span, with the sums of its ranges on the node that has divided it and on the other one.
pub(super) struct Sums {
    pub span: Span,
    /// The node that has divided it.
    leader: Which,
    led: Vec<Sum>,
    followed: Vec<Sum>,
}

impl Sums {
    /// The number of rows, and of bytes, on the node that has more of them.
    pub fn read(&self) -> (u64, u64) {
        let of = |value: fn(&Sum) -> u64| {
            let total = |sums: &[Sum]| sums.iter().map(value).fold(0, u64::saturating_add);
            total(&self.led).max(total(&self.followed))
        };
        (of(|sum| sum.rows), of(|sum| sum.bytes))
    }

    fn differing(&self) -> Vec<usize> {
        let pairs = self.led.iter().zip(&self.followed).enumerate();
        pairs.filter(|(_, (one, other))| !one.is_like(other)).map(|(place, _)| place).collect()
    }
}

fn other(node: Which) -> Which {
    match node {
        Which::Here => Which::There,
        Which::There => Which::Here,
    }
}

fn missing_on(node: Which) -> Kind {
    match node {
        Which::Here => Kind::MissingHere,
        Which::There => Kind::MissingThere,
    }
}

fn unexpected(what: &str) -> CompareFailure {
    CompareFailure::Remote(RemoteError::Unexpected(what.to_owned()))
}

fn refused(refused: Refused) -> CompareFailure {
    CompareFailure::Incomparable(Incomparable::Refused(refused))
}

impl Comparison<'_> {
    fn ask(&self, both: &mut Both<'_>, node: Which, asked: Asked) -> Result<Answer, CompareFailure> {
        let question = self.table.question(node, self.seed, asked);
        let side: &mut dyn Side = match node {
            Which::Here => both.here,
            Which::There => both.there,
        };
        memory::apart(|| side.ask(&question))?.map_err(refused)
    }

    /// The sums of the next span. This node divides it, unless the other one has far more rows between its boundaries.
    pub(super) fn sums(
        &self,
        both: &mut Both<'_>,
        after: Option<&KeyText>,
        bytes: u64,
    ) -> Result<Sums, CompareFailure> {
        for leader in [Which::Here, Which::There] {
            let ahead = both.ahead.take().filter(|(from, _)| leader == Which::Here && Some(from) == after);
            let answer = match ahead {
                Some((_, ranges)) => Answer::Cut(ranges),
                None => self.ask(both, leader, Asked::Cut { after: after.cloned(), bytes })?,
            };
            let ranges = match answer {
                Answer::Cut(ranges) if self.are_sound(&ranges, after) => ranges,
                _ => return Err(unexpected("no ranges")),
            };
            let (ends, led): (Vec<_>, Vec<_>) = ranges.into_iter().map(|range| (range.end, range.sum)).unzip();
            let span = Span { after: after.cloned(), ends };
            // If the nodes order keys differently, taking turns might not come to an end.
            let bound = self.table.orders_alike.then_some(FOLLOWED_BYTES);
            let asked = Asked::Sums { span: span.clone(), bytes: bound };
            let answer = match leader {
                Which::Here => self.ask_and_cut_ahead(both, asked, span.ends.last().cloned().flatten(), bytes)?,
                Which::There => self.ask(both, Which::Here, asked)?,
            };
            match answer {
                Answer::Sums(followed) if followed.len() == led.len() => {
                    return Ok(Sums { span, leader, led, followed });
                }
                Answer::TooMuch => (),
                _ => return Err(unexpected("no sums")),
            }
        }
        Err(CompareFailure::Incomparable(Incomparable::OtherOrder))
    }

    /// Asks the other node, and divides what follows `after` on this one meanwhile. If that fails it is done again.
    fn ask_and_cut_ahead(
        &self,
        both: &mut Both<'_>,
        asked: Asked,
        after: Option<KeyText>,
        bytes: u64,
    ) -> Result<Answer, CompareFailure> {
        let question = self.table.question(Which::There, self.seed, asked);
        let Both { here, there, ahead, .. } = both;
        let mut cut = || {
            let Some(after) = after.clone() else { return };
            let asked = Asked::Cut { after: Some(after.clone()), bytes };
            if let Ok(Ok(Answer::Cut(ranges))) = here.ask(&self.table.question(Which::Here, self.seed, asked)) {
                *ahead = Some((after, ranges));
            }
        };
        memory::apart(|| there.ask_while(&question, &mut cut))?.map_err(refused)
    }

    /// Asks both nodes the same, at the same time if that is possible.
    fn ask_both(&self, both: &mut Both<'_>, asked: Asked) -> Result<[Answer; 2], CompareFailure> {
        let [ours, theirs] =
            [Which::Here, Which::There].map(|node| self.table.question(node, self.seed, asked.clone()));
        let Both { here, there, .. } = both;
        let mut answered = None;
        let mut meanwhile = || answered = Some(here.ask(&ours));
        let there = memory::apart(|| there.ask_while(&theirs, &mut meanwhile))?;
        let here = match answered {
            Some(answer) => answer?,
            None => memory::apart(|| both.here.ask(&ours))?,
        };
        Ok([here.map_err(refused)?, there.map_err(refused)?])
    }

    /// Whether ranges lead on, so that a comparison comes to its end.
    fn are_sound(&self, ranges: &[CutRange], after: Option<&KeyText>) -> bool {
        let Some((last, others)) = ranges.split_last() else { return false };
        ranges.len() <= RANGES
            && others.iter().all(|range| range.end.is_some())
            && ranges.iter().all(|range| range.end.as_ref().is_none_or(|key| self.table.is_key(key)))
            && (last.end.is_none() || last.end.as_ref() != after)
    }

    /// Finds the keys that differ in a span.
    pub(super) fn find(
        &self,
        both: &mut Both<'_>,
        sums: &Sums,
        visitor: &mut dyn Visitor,
    ) -> Result<u64, CompareFailure> {
        let wanted = sums.differing();
        if wanted.is_empty() {
            return Ok(0);
        }
        let [here, there] =
            self.ask_both(both, Asked::Rows { span: sums.span.clone(), wanted: wanted.clone(), from: None })?;
        let mut seen = Seen { comparison: self, both, visitor, one_sided: Vec::new(), bytes: 0, reported: 0 };
        let (mut led, follower) = (HashMap::new(), other(sums.leader));
        let (of_leader, of_follower) = if sums.leader == Which::Here { (here, there) } else { (there, here) };
        seen.each_row(of_leader, sums.leader, &sums.span, &wanted, |_, key, hash| {
            led.insert(key, hash);
            Ok(())
        })?;
        seen.each_row(of_follower, follower, &sums.span, &wanted, |seen, key, hash| match led.remove(&key) {
            Some(known) if known == hash => Ok(()),
            Some(_) => {
                seen.report(key, Kind::Different);
                Ok(())
            }
            None => seen.on_one_side(key, missing_on(sums.leader)),
        })?;
        for key in led.into_keys() {
            seen.on_one_side(key, missing_on(follower))?;
        }
        seen.look_up()?;
        Ok(seen.reported)
    }
}

/// What was found in a span.
struct Seen<'f, 's, 't> {
    comparison: &'f Comparison<'t>,
    both: &'f mut Both<'s>,
    visitor: &'f mut dyn Visitor,
    /// Keys that one node alone seems to have, and that are to be looked up.
    one_sided: Vec<KeyText>,
    /// The length of these keys.
    bytes: usize,
    reported: u64,
}

impl Seen<'_, '_, '_> {
    /// Passes the key and the hash of each row in these ranges of a node to `see`. `answer`: what it has told first.
    fn each_row(
        &mut self,
        mut answer: Answer,
        node: Which,
        span: &Span,
        wanted: &[usize],
        mut see: impl FnMut(&mut Self, KeyText, i64) -> Result<(), CompareFailure>,
    ) -> Result<(), CompareFailure> {
        let mut from: Option<KeyText> = None;
        loop {
            let Answer::Rows { rows, has_more } = answer else {
                return Err(unexpected("no rows"));
            };
            let last = rows.last().map(|(key, _)| key.clone());
            if rows.len() > ROWS_AT_ONCE || rows.iter().any(|(key, _)| !self.comparison.table.is_key(key)) {
                return Err(unexpected("rows that were not asked for"));
            }
            if has_more && (last.is_none() || last == from) {
                return Err(unexpected("the same rows again"));
            }
            for (key, hash) in rows {
                see(self, key, hash)?;
            }
            if !has_more {
                return Ok(());
            }
            from = last;
            let asked = Asked::Rows { span: span.clone(), wanted: wanted.to_vec(), from: from.clone() };
            answer = self.comparison.ask(self.both, node, asked)?;
        }
    }

    fn report(&mut self, key: KeyText, kind: Kind) {
        let table = self.comparison.table;
        if !table.orders_alike {
            let text = key.join("\0");
            let is_new = self.both.reported.len() >= REMEMBERED
                || self.both.reported.insert(digest::quick(text.as_bytes(), self.comparison.seed));
            if !is_new {
                return;
            }
        }
        self.reported += 1;
        self.visitor.found(&Found { key, kind });
    }

    /// Notes a key that one node alone seems to have.
    fn on_one_side(&mut self, key: KeyText, kind: Kind) -> Result<(), CompareFailure> {
        if !self.comparison.table.must_look_up {
            self.report(key, kind);
            return Ok(());
        }
        self.bytes += key.iter().map(String::len).sum::<usize>();
        self.one_sided.push(key);
        if self.one_sided.len() >= KEYS / 4 || self.bytes >= KEY_BYTES / 4 {
            self.look_up()?;
        }
        Ok(())
    }

    /// Looks up on both nodes the keys that one of them alone seems to have, and reports those that differ.
    fn look_up(&mut self) -> Result<(), CompareFailure> {
        let keys = std::mem::take(&mut self.one_sided);
        self.bytes = 0;
        if keys.is_empty() {
            return Ok(());
        }
        let here = self.rows_with(Which::Here, &keys)?;
        let there = self.rows_with(Which::There, &keys)?;
        for key in keys {
            let kind = match (here.get(&key), there.get(&key)) {
                (None, None) => continue,
                (Some(one), Some(other)) if one == other => continue,
                (Some(_), Some(_)) => Kind::Different,
                (None, Some(_)) => Kind::MissingHere,
                (Some(_), None) => Kind::MissingThere,
            };
            self.report(key, kind);
        }
        Ok(())
    }

    fn rows_with(&mut self, node: Which, keys: &[KeyText]) -> Result<HashMap<KeyText, i64>, CompareFailure> {
        match self.comparison.ask(self.both, node, Asked::Keys { keys: keys.to_vec() })? {
            // Half as many rows as there may be: a key is unique.
            Answer::Rows { rows, .. } if rows.len() <= 2 * keys.len() => Ok(rows.into_iter().collect()),
            _ => Err(unexpected("no rows")),
        }
    }
}
