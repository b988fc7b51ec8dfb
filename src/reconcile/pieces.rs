//! How many rows are asked for at once (pure): as many as are allowed, but fewer if rows turn out to be large, or if a
//! node refuses some of them.

use super::answer::BUDGET;
use super::rows::KeyText;

/// The most bytes of keys in one question. libpqwalreceiver waits without a limit for a peer that does not read what it
/// is sent; about this much fits into a socket's buffers.
const KEY_BYTES: usize = 256 << 10;

/// After so many refusals of single rows in a row, all rows of the table count as refused.
const REFUSALS: u32 = 3;

/// The same after so many refusals in all: a node that refuses some rows and not others costs a question for each.
const ALL_REFUSALS: u32 = 20;

pub struct Pieces {
    most: usize,
    now: usize,
    refusals: u32,
    all_refusals: u32,
}

/// What a refusal is blamed on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Blame {
    /// Not known yet: fewer rows are asked for.
    Unknown,
    /// The row that was asked for.
    Row,
    /// The whole table.
    Table,
}

impl Pieces {
    pub fn of(most: usize) -> Pieces {
        Pieces { most, now: most, refusals: 0, all_refusals: 0 }
    }

    /// The keys to ask for next: the first of those that are left, at least one.
    pub fn next<'k>(&self, keys: &'k [KeyText]) -> &'k [KeyText] {
        let mut bytes = 0;
        let fits = |key: &&KeyText| {
            bytes += key.iter().map(String::len).sum::<usize>();
            bytes <= KEY_BYTES
        };
        let count = keys.iter().take(self.now).take_while(fits).count();
        &keys[..count.max(1).min(keys.len())]
    }

    /// Notes that `asked` rows were too many, and that `fit` of them would fit.
    pub fn shrink(&mut self, asked: usize, fit: usize) {
        self.now = fit.min(asked.saturating_sub(1)).max(1);
    }

    /// Notes that `asked` rows were refused. `is_costly`: asking for fewer takes longer than it is worth.
    pub fn refuse(&mut self, asked: usize, is_costly: bool) -> Blame {
        if is_costly {
            return Blame::Table;
        }
        if asked > 1 {
            self.shrink(asked, asked / 2);
            return Blame::Unknown;
        }
        self.refusals += 1;
        self.all_refusals += 1;
        if self.refusals >= REFUSALS || self.all_refusals >= ALL_REFUSALS { Blame::Table } else { Blame::Row }
    }

    /// Notes a complete answer of so many bytes: if twice as much fits, twice as many rows are asked for next.
    pub fn grow(&mut self, bytes: u64) {
        self.refusals = 0;
        if bytes.saturating_mul(2) <= BUDGET {
            self.now = self.now.saturating_mul(2).min(self.most);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn keys(count: usize, bytes: usize) -> Vec<KeyText> {
        (0..count).map(|_| vec!["k".repeat(bytes)]).collect()
    }

    #[test]
    fn rows_are_asked_for_in_as_many_as_fit_and_more_where_there_is_room() {
        let mut pieces = Pieces::of(500);
        assert_eq!(pieces.next(&keys(700, 4)).len(), 500);
        pieces.shrink(500, 3);
        assert_eq!(pieces.next(&keys(200, 4)).len(), 3);
        pieces.grow(BUDGET * 3 / 4);
        assert_eq!(pieces.next(&keys(200, 4)).len(), 3);
        pieces.grow(BUDGET / 2);
        assert_eq!(pieces.next(&keys(200, 4)).len(), 6);
        (0..100).for_each(|_| pieces.grow(0));
        assert_eq!(pieces.next(&keys(700, 4)).len(), 500);
    }

    #[test]
    fn fewer_are_asked_for_where_keys_are_long() {
        let pieces = Pieces::of(500);
        assert_eq!(pieces.next(&keys(10, KEY_BYTES / 3)).len(), 3);
        assert_eq!(pieces.next(&keys(10, KEY_BYTES * 2)).len(), 1);
        assert!(pieces.next(&[]).is_empty());
    }

    #[test]
    fn a_row_that_is_refused_is_found_and_a_table_that_is_refused_costs_few_questions() {
        let all = keys(500, 4);
        for refused in [vec![7], vec![0, 499], (0..500).collect::<Vec<usize>>()] {
            let (mut pieces, mut at, mut questions, mut left) = (Pieces::of(500), 0, 0, Vec::new());
            while at < all.len() {
                let piece = pieces.next(&all[at..]).len();
                questions += 1;
                if !refused.iter().any(|bad| (at..at + piece).contains(bad)) {
                    pieces.grow(0);
                    at += piece;
                    continue;
                }
                match pieces.refuse(piece, false) {
                    Blame::Unknown => continue,
                    Blame::Row => left.push(at),
                    Blame::Table => left.extend(at..all.len()),
                }
                at = left.last().map_or(at, |last| last + 1);
            }
            assert_eq!(left, refused);
            assert!(questions < 50, "{questions} questions for {} refusals", refused.len());
        }
        assert_eq!(Pieces::of(500).refuse(500, true), Blame::Table);
    }

    proptest! {
        /// Asking comes to an end, whatever a node answers.
        #[test]
        fn what_was_too_much_is_asked_for_in_less(asked in 2_usize..3000, fit: usize) {
            let mut pieces = Pieces::of(3000);
            pieces.shrink(asked, fit);
            prop_assert!((1..asked).contains(&pieces.next(&keys(3000, 1)).len()));
        }
    }
}
