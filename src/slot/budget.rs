//! Log messages about the retention budget: one before it is used up, and one for each peer or outgoing slot that is
//! given up.

use super::decision::{Block, Outcome, PeerInput};
use super::record::RetentionRecord;
use super::retention::{ANNOUNCED_AT, Rate};
use crate::guc;
use crate::lsn::LocalLsn;
use crate::pg::slot::Slot;
use std::collections::BTreeSet;

/// Remembers what the log has already been told.
#[derive(Debug, Default)]
pub struct Budget {
    is_announced: bool,
    /// The outgoing slots that were passed.
    given_up: BTreeSet<String>,
}

/// The position below which the slot may keep no WAL, whether it keeps any or not; None: there is no budget. `end`: the
/// end of WAL.
pub fn lowest(end: LocalLsn) -> Option<LocalLsn> {
    guc::recovery_slot_max_wal().map(|most| LocalLsn(end.0.saturating_sub(most)))
}

impl Budget {
    /// The position below which no WAL may be kept; None: the slot keeps less than the budget allows. `end`: the end of
    /// WAL.
    pub fn floor(&self, end: LocalLsn, found: &Slot) -> Option<LocalLsn> {
        let most = guc::recovery_slot_max_wal()?;
        lowest(end).filter(|_| end.bytes_since(found.restart) > most)
    }

    /// Warns once of each outgoing slot that the recovery slot has passed because of the budget.
    pub fn tell_outgoing(&mut self, found: &Slot, given_up: BTreeSet<String>) {
        for name in given_up.difference(&self.given_up) {
            pgrx::warning!(
                "recovery slot \"{}\" has passed the outgoing slot \"{name}\" to stay within \
                 spock.recovery_slot_max_wal: if this node is restored from a backup, the subscriber of \"{name}\" cannot \
                 go on where it stood",
                found.name
            );
        }
        self.given_up = given_up;
    }

    /// Warns once when the budget is nearly used up, and once for each peer that is given up. `before`, `after`: the
    /// retention record before and after this round.
    #[allow(clippy::too_many_arguments)] // what there is to tell
    pub fn tell(
        &mut self,
        before: &RetentionRecord,
        after: &RetentionRecord,
        found: &Slot,
        end: LocalLsn,
        rate: &Rate,
        outcome: &Outcome,
        peers: &[PeerInput],
    ) {
        let Some(most) = guc::recovery_slot_max_wal() else {
            self.is_announced = false;
            return;
        };
        for name in after.unprotected.iter().filter(|name| !before.unprotected.contains(name)) {
            pgrx::warning!(
                "recovery slot \"{}\" has given up node \"{name}\": it kept more than spock.recovery_slot_max_wal = {} MB for \
                 it, and what \"{name}\" lacks of other nodes cannot be recovered from this node any more",
                found.name,
                most >> 20
            );
        }
        let kept = end.bytes_since(found.restart);
        let is_near = kept as f64 >= most as f64 * ANNOUNCED_AT;
        if is_near && !self.is_announced && kept <= most {
            let who = match outcome.block {
                Some(Block::PeerUnreachable(peer) | Block::PeerUnknown(peer) | Block::PeerLagging(peer)) => {
                    format!(", for node \"{}\"", peers[peer].name)
                }
                Some(Block::NoSample | Block::OriginUnknown | Block::OutgoingSlot) | None => String::new(),
            };
            let left = rate.seconds_for(most - kept).map(|seconds| format!("; about {seconds:.0} s are left"));
            pgrx::warning!(
                "recovery slot \"{}\" keeps {} MB of spock.recovery_slot_max_wal = {} MB{who}{}",
                found.name,
                kept >> 20,
                most >> 20,
                left.unwrap_or_default()
            );
        }
        self.is_announced = is_near;
    }
}
