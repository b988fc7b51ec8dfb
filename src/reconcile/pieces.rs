//! How many rows are asked for at once (pure): as many as are allowed, and fewer where they turn out to be large.

use super::answer::BUDGET;
use super::rows::KeyText;

/// Bytes of keys in one question. libpqwalreceiver waits without a limit for a peer that does not read what it is sent: this much
/// the buffers of a socket take about.
const KEY_BYTES: usize = 256 << 10;

pub struct Pieces {
    most: usize,
    now: usize,
}

impl Pieces {
    pub fn of(most: usize) -> Pieces {
        Pieces { most, now: most }
    }

    /// The keys that are asked for next: the first of those that are left, at least one.
    pub fn next<'k>(&self, keys: &'k [KeyText]) -> &'k [KeyText] {
        let mut bytes = 0;
        let fits = |key: &&KeyText| {
            bytes += key.iter().map(String::len).sum::<usize>();
            bytes <= KEY_BYTES
        };
        let count = keys.iter().take(self.now).take_while(fits).count();
        &keys[..count.max(1).min(keys.len())]
    }

    /// So many were too much, and of them so many `fit`.
    pub fn shrink(&mut self, asked: usize, fit: usize) {
        self.now = fit.min(asked.saturating_sub(1)).max(1);
    }

    /// An answer came whole: for twice as many rows of so many bytes there is room.
    pub fn grow(&mut self, bytes: u64) {
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

    proptest! {
        /// Whatever is told, asking comes to an end.
        #[test]
        fn what_was_too_much_is_asked_for_in_less(asked in 2_usize..3000, fit: usize) {
            let mut pieces = Pieces::of(3000);
            pieces.shrink(asked, fit);
            prop_assert!((1..asked).contains(&pieces.next(&keys(3000, 1)).len()));
        }
    }
}
