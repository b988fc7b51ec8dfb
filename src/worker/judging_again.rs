//! Rows that earlier recoveries could not judge are compared again: within the next recovery on this node, of whichever
//! failed node, and by a worker of their own while there is no recovery (src/worker/recoveries.rs). Rows that still
//! cannot be judged stay kept.

use super::reconciling::{compare_moved, while_reconciling};
use super::rescue::{Rescue, goes_on};
use super::trouble::{Trouble, failure_of};

use crate::counted::counted;
use crate::failpoint::{self, names};
use crate::intent::document::{Intent, Request};
use crate::intent::storage;
use crate::intent_id::IntentId;
use crate::node::error::RegistryError;
use crate::node::native::NativeProvider;
use crate::node::provider::{ReplicationProvider, Subscription};
use crate::pg::{interrupts, large_object, logicalrep, process, transaction, wal};
use crate::reconcile::kept;
use crate::reconcile::moves::KnownKeys;
use crate::reconcile::run::Reconciler;
use crate::recover::error::RecoverError;
use crate::recover::source::{Source, route_to};
use crate::tally::compared::{Counts, Why};
use pgrx::pg_sys::Oid;
use std::cell::RefCell;
use std::time::{Duration, Instant};

/// The longest time that a recovery spends on the kept rows of other recoveries.
const LONGEST: Duration = Duration::from_secs(15);

impl Rescue {
    /// Compares all kept rows again, as far as that is possible now, except for those of the intents in `but`, which
    /// are being compared already. Never fails, because a later comparison may succeed.
    pub(super) fn judge_again(&mut self, but: &[IntentId]) {
        let begun = Instant::now();
        let read = || Ok::<Vec<Intent>, RegistryError>(storage::read()?.with_kept_rows().cloned().collect());
        // The health check reports a journal that cannot be read.
        let Ok(intents) = transaction::run(read) else { return };
        for intent in intents.into_iter().filter(|intent| !but.contains(&intent.id)) {
            failpoint::hit(names::RESCUE_JUDGING_AGAIN);
            process::report_activity(&format!("comparing rows of node {} again", intent.request.failed));
            // What one node cannot tell now, another one may.
            for peer in peers_of(&intent) {
                if self.carries_one() && begun.elapsed() >= LONGEST {
                    // The recovery must not wait for this; the manager has the rows compared once no recovery runs.
                    return;
                }
                let done = interrupts::catch(|| self.judge_kept(intent.id, &peer, but));
                let trouble = match done {
                    Ok(Ok(())) => continue,
                    Ok(Err(Trouble::MustStop)) => return,
                    Ok(Err(trouble)) => trouble,
                    Err(report) => {
                        transaction::abort_current();
                        Trouble::Raised { report, relation: None, origin_lsn: None }
                    }
                };
                process::keep_books();
                let (failure, said) = failure_of(trouble);
                pgrx::log!(
                    "rows that the recovery of node \"{}\" has touched are still not compared with those of node \"{peer}\": {} \
                     (SQLSTATE {}) {}",
                    intent.request.failed,
                    failure.reason,
                    failure.sqlstate,
                    said.error.message
                );
            }
        }
    }

    /// Compares the rows that are left of recovery `id` with those of one node.
    fn judge_kept(&mut self, id: IntentId, peer: &str, but: &[IntentId]) -> Result<(), Trouble> {
        let Some(intent) = transaction::run(|| storage::read().map(|journal| journal.intent(id).cloned()))? else {
            return Ok(());
        };
        let Some(object) = intent.kept_rows else { return Ok(()) };
        let Some(mut reconciler) = reconciler_with(&intent, peer)? else { return Ok(()) };
        let kept = transaction::run(|| kept::touched(object))?.unwrap_or_default();
        let mut known = Counts::default();
        known.leave(Why::NotComparable, kept.incomparable);
        known.leave(Why::Lost, lost_of(&intent, kept.rows) as usize);
        if known.lost() > 0 {
            warn_of_lost(&intent, object, known.lost());
        }
        let (mut touched, mut gone) = (kept.touched, kept.gone);
        let index = self.index;
        reconciler.hold_removed();
        reconciler.ledger.counts = known;
        let goes_on = |_: &Counts| goes_on(index);
        if !while_reconciling(|| reconciler.run(&mut touched, goes_on))? {
            return Err(Trouble::MustStop);
        }
        if reconciler.holds_something() {
            self.judge_again(&[but, &[id]].concat());
        }
        let is_done = while_reconciling(|| {
            reconciler.let_held_go(&touched)?;
            if !reconciler.run_gone(&mut gone, goes_on)? {
                return Ok(false);
            }
            // A kept row that this node does not have may have been given another key since, which this node has
            // skipped. So the changes of keys are followed, too; a row that stays kept is compared with them in a later
            // look. The rows that a rebuild keeps are this node's own, and its source has received them.
            if intent.is_rebuild()
                || reconciler.ledger.counts.compared == 0
                || !(reconciler.may_have_moved || reconciler.has_missed() || reconciler.source_was_recovered()?)
            {
                return Ok(true);
            }
            let mut known = KnownKeys::of(&mut touched);
            let nodes: Vec<String> = std::iter::once(peer.to_owned()).chain(reconciler.behind.clone()).collect();
            compare_moved(&mut reconciler, &intent, nodes, Some(peer), &mut known, index, goes_on)
        })?;
        if !is_done {
            return Err(Trouble::MustStop);
        }
        let (counts, kept) = (reconciler.ledger.counts, reconciler.ledger.kept);
        let cannot = counts.unjudged.keys().any(|why| matches!(why, Why::Policy | Why::NoCommitTimestamps));
        let is_known = counts.compared == 0
            && counts.lost() == 0
            && intent.reconciled.as_ref().is_some_and(|known| known.has(&counts));
        if cannot || is_known {
            return Ok(());
        }
        failpoint::hit(names::RESCUE_JUDGED_AGAIN);
        self.note(&intent, counts, Some(kept))
    }

    fn note(&mut self, intent: &Intent, counts: Counts, kept: Option<kept::KeptRows>) -> Result<(), Trouble> {
        // What was written with asynchronous commits must be on disk before the kept rows are forgotten.
        wal::flush();
        let kept = RefCell::new(kept);
        Ok(self.write(|journal, _| {
            let kept = kept.borrow_mut().as_mut().map_or(Ok(None), kept::KeptRows::store)?;
            match journal.note_judged_again(intent.id, counts.clone(), kept) {
                Some(before) => Ok(large_object::remove(before)?),
                None => Ok(()),
            }
        })?)
    }
}

/// How many kept rows are missing if only `there` rows are still stored.
fn lost_of(intent: &Intent, there: u64) -> u64 {
    intent.reconciled.as_ref().map_or(0, |counts| counts.kept().saturating_sub(there))
}

fn warn_of_lost(intent: &Intent, object: u32, rows: u64) {
    let Request { failed, source, target, .. } = &intent.request;
    pgrx::warning!(
        "{} that the recovery of node \"{failed}\" has touched can never be compared: large object {object}, which \
         kept them, was removed; compare the tables of node \"{target}\" by hand with those of node \"{source}\"",
        counted(rows, "row")
    );
}

/// Returns the nodes whose rows may be compared with the kept ones, the source of their recovery first.
fn peers_of(intent: &Intent) -> Vec<String> {
    let request = &intent.request;
    let peers = transaction::run(|| NativeProvider.peers()).unwrap_or_default();
    let mut peers: Vec<String> = peers.into_iter().map(|peer| peer.name.to_string()).collect();
    peers.retain(|peer| *peer != request.failed && *peer != request.target);
    peers.sort_by_key(|peer| *peer != request.source);
    peers
}

/// Returns a reconciler with `peer`, if that node answers and has at least as much of the failed node as this node;
/// else None. This process then acts as the apply worker of a subscription from the failed node or from `peer`.
fn reconciler_with<'a>(intent: &'a Intent, peer: &str) -> Result<Option<Reconciler<'a>>, RecoverError> {
    let request = &intent.request;
    let Some(subscription) = transaction::run(|| subscription_of([&request.failed, peer]))? else { return Ok(None) };
    let Ok(route) = transaction::run(|| route_to(peer)) else { return Ok(None) };
    let Ok(source) = Source::open(peer, &route) else { return Ok(None) };
    let Some(apply_as) = transaction::run(|| logicalrep::become_applier_of(subscription)) else { return Ok(None) };
    let mut reconciler = Reconciler::new(source, intent, apply_as);
    reconciler.waits.is_hasty = true;
    // If one of the two nodes has no subscription from the failed node any more, that comparison is impossible. The
    // recovery's own source is accepted all the same, because the plan has proved that it has enough.
    let has_enough = reconciler.source_has_enough()?.unwrap_or(peer == request.source);
    Ok(has_enough.then_some(reconciler))
}

/// Returns the subscription from the first of these nodes that has one here.
fn subscription_of(nodes: [&str; 2]) -> Result<Option<Oid>, RecoverError> {
    let all = NativeProvider.subscriptions()?;
    let is_from = |known: &&Subscription, node| known.origin.node().is_some_and(|name| name.as_str() == node);
    let of = |node| all.iter().find(|known| is_from(known, node)).map(|known| known.id);
    Ok(nodes.into_iter().find_map(of))
}
