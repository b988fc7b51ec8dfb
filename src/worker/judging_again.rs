//! Rows that earlier recoveries could not judge are looked at again: within the next recovery on this node, whoever's it is,
//! and by a worker of their own when there is none (src/worker/rescues.rs). What still cannot be judged stays kept.

use super::reconciling::while_reconciling;
use super::rescue::{Rescue, Trouble, failure_of, goes_on};
use crate::failpoint::{self, names};
use crate::intent::document::Intent;
use crate::intent::storage;
use crate::node::native::NativeProvider;
use crate::node::provider::{ReplicationProvider, Subscription};
use crate::pg::logicalrep;
use crate::pg::{interrupts, process, transaction, wal};
use crate::reconcile::counts::{Counts, Why};
use crate::reconcile::kept;
use crate::reconcile::run::Reconciler;
use crate::recover::error::RecoverError;
use crate::recover::source::{Source, route_to};
use pgrx::pg_sys::Oid;
use std::cell::RefCell;

impl Rescue {
    /// Looks again at all that is kept, as far as that can be done now. Never fails: a later look may do better.
    pub(super) fn judge_again(&mut self) {
        let intents: Vec<Intent> = transaction::run(|| storage::read().with_kept_rows().cloned().collect());
        for intent in intents {
            process::report_activity(&format!("comparing rows of node {} again", intent.request.failed));
            let done = interrupts::catch(|| self.judge_kept(&intent));
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
            let (failure, message) = failure_of(trouble);
            pgrx::log!(
                "rows that the recovery of node \"{}\" has touched are still not compared: {} (SQLSTATE {}) {message}",
                intent.request.failed,
                failure.reason,
                failure.sqlstate
            );
        }
    }

    fn judge_kept(&mut self, intent: &Intent) -> Result<(), Trouble> {
        let Some(object) = intent.kept_rows else { return Ok(()) };
        failpoint::hit(names::RESCUE_JUDGING_AGAIN);
        let Some(mut reconciler) = reconciler_for(intent)? else { return Ok(()) };
        let Some(mut touched) = transaction::run(|| kept::touched(object))? else {
            pgrx::warning!(
                "rows that the recovery of node \"{}\" has touched are not compared any more: large object {object} is gone",
                intent.request.failed
            );
            return self.note(intent, Counts::default(), None);
        };
        let index = self.index;
        if !while_reconciling(|| reconciler.run(&mut touched, |_| goes_on(index)))? {
            return Err(Trouble::MustStop);
        }
        let Reconciler { counts, kept, .. } = reconciler;
        let cannot = counts.unjudged.keys().any(|why| matches!(why, Why::Policy | Why::NoCommitTimestamps));
        let is_known = counts.compared == 0 && intent.reconciled.as_ref().is_some_and(|known| known.has(&counts));
        if cannot || is_known {
            return Ok(());
        }
        failpoint::hit(names::RESCUE_JUDGED_AGAIN);
        self.note(intent, counts, Some(kept))
    }

    fn note(&mut self, intent: &Intent, counts: Counts, kept: Option<kept::Keeper>) -> Result<(), Trouble> {
        // What was written with asynchronous commits is on disk before it is forgotten.
        wal::flush();
        let kept = RefCell::new(kept);
        Ok(self.write(|journal, _| {
            let kept = kept.borrow_mut().as_mut().map_or(Ok(None), kept::Keeper::store)?;
            match journal.note_judged_again(intent.id, counts.clone(), kept) {
                Some(before) => kept::forget(before),
                None => Ok(()),
            }
        })?)
    }
}

/// With the node that rows are compared with: the source of their recovery, or another one that has at least as much of the
/// failed node as this one. None if none answers now. This process then applies for one of their subscriptions.
fn reconciler_for(intent: &Intent) -> Result<Option<Reconciler<'_>>, RecoverError> {
    let request = &intent.request;
    let mut peers: Vec<String> =
        transaction::run(|| NativeProvider.peers())?.into_iter().map(|peer| peer.name.to_string()).collect();
    peers.retain(|peer| *peer != request.failed && *peer != request.target);
    peers.sort_by_key(|peer| *peer != request.source);
    for peer in peers {
        let Some(subscription) = transaction::run(|| subscription_of([&request.failed, &peer]))? else { continue };
        let Ok(route) = transaction::run(|| route_to(&peer)) else { continue };
        let Ok(source) = Source::open(&peer, &route) else { continue };
        let Some(apply_as) = transaction::run(|| logicalrep::become_applier_of(subscription)) else { continue };
        let mut reconciler = Reconciler::new(source, intent, apply_as);
        reconciler.is_hasty = true;
        // The recovery was its plan's choice: if its subscription was dropped since it is not asked for that again.
        if reconciler.source_has_enough()?.unwrap_or(peer == request.source) {
            return Ok(Some(reconciler));
        }
    }
    Ok(None)
}

/// The subscription from the first of these nodes which has one.
fn subscription_of(nodes: [&str; 2]) -> Result<Option<Oid>, RecoverError> {
    let all = NativeProvider.subscriptions()?;
    let is_from = |known: &&Subscription, node| known.origin.as_ref().is_some_and(|(name, _)| name.as_str() == node);
    let of = |node| all.iter().find(|known| is_from(known, node)).map(|known| known.id);
    Ok(nodes.into_iter().find_map(of))
}
