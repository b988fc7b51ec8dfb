//! The comparison of a table, span by span.

use super::comparison::{CompareFailure, Comparison, Visitor};
use super::progress::Progress;
use super::question::SPAN_BYTES;
use super::side::Side;
use super::span::Both;
use crate::pg::interrupts;
use crate::pg::latch::{self, WaitEvent};
use std::time::{Duration, Instant};

/// The longest wait between two looks at whether the comparison is to stop.
const LONGEST_REST: Duration = Duration::from_millis(200);

impl Comparison<'_> {
    /// Compares the table from a position on, and returns how far that has come: to the end, or to where the visitor
    /// has stopped it.
    ///
    /// # Errors
    /// See [`CompareFailure`]. What the visitor was told before still holds.
    pub fn run(
        &self,
        mut progress: Progress,
        here: &mut dyn Side,
        there: &mut dyn Side,
        visitor: &mut dyn Visitor,
    ) -> Result<Progress, CompareFailure> {
        progress.begin(self.table.rows);
        let mut both = Both::new(here, there);
        while !progress.is_over {
            interrupts::check();
            let begun = Instant::now();
            let sums = self.sums(&mut both, progress.after.as_ref(), self.pace.at_once(SPAN_BYTES))?;
            progress.differing += self.find(&mut both, &sums, visitor)?;
            let (rows, bytes) = sums.read();
            let ranges = sums.span.ends.len();
            progress.add(ranges, rows, bytes, sums.span.ends.into_iter().next_back().flatten());
            if !visitor.goes_on(&progress) || !self.rest(bytes, begun, &progress, visitor) {
                break;
            }
        }
        Ok(progress)
    }

    /// Waits as the pace demands. Returns false if the visitor has stopped the comparison meanwhile.
    fn rest(&self, bytes: u64, begun: Instant, progress: &Progress, visitor: &mut dyn Visitor) -> bool {
        if progress.is_over {
            return true;
        }
        loop {
            let rest = self.pace.rest(bytes, begun.elapsed());
            if rest.is_zero() {
                return true;
            }
            latch::wait(Some(rest.min(LONGEST_REST)), WaitEvent::Compare);
            interrupts::check();
            if !visitor.goes_on(progress) {
                return false;
            }
        }
    }
}
