//! Suspends this node's subscriptions during a replay, and resumes exactly those.
//!
//! Which subscriptions were enabled is recorded in the very transaction that disables them, and the record is removed
//! in the one that enables them. The subscription to the failed node stays suspended until that node is back and was
//! judged.

use super::error::RecoverError;
use super::facts;
use crate::intent::document::{Journal, Suspension, Until};
use crate::intent_id::IntentId;
use crate::lsn::OriginLsn;
use crate::node::native::NativeProvider;
use crate::node::provider::{ReplicationProvider, Subscription};
use crate::pg::clock::Timestamp;
use crate::pg::latch::{self, WaitEvent};
use crate::pg::{interrupts, process, transaction};
use crate::shmem::PeerKey;
use crate::slot::record_storage;
use crate::slot::snapshot::snapshot;
use pgrx::pg_sys::Oid;
use pgrx::pg_sys::panic::CaughtError;
use std::time::{Duration, Instant};

/// How long processes may take to end. A process that is applying a transaction ends after it.
const PATIENCE: Duration = Duration::from_secs(60);

/// A process of a subscription from a node that does not answer counts as hanging if it still runs after this time: it
/// is stuck in connecting, and holds the replication origin.
const HANGING: Duration = Duration::from_secs(2);

/// Disables every subscription that is enabled, and records it in `journal`, which the present transaction writes.
pub fn suspend(journal: &mut Journal, failed: &str) -> Result<(), RecoverError> {
    // The retention record has what the peers reported last.
    let record = record_storage::read()?;
    // A subscription that does not count is its owner's business, and must not hold up a recovery.
    let is_ours = |subscription: &&Subscription| subscription.is_enabled && subscription.counts();
    for subscription in NativeProvider.subscriptions()?.iter().filter(is_ours) {
        if !NativeProvider.suspend(subscription.id) {
            continue;
        }
        let origin = origin_of(subscription);
        let until = if origin == failed { Until::Returned } else { Until::Replayed };
        journal.suspensions.retain(|known| known.subscription != subscription.id.to_u32());
        let peer = record.as_ref().and_then(|record| record.peer(&origin));
        journal.suspensions.push(Suspension {
            system_identifier: peer.map(|peer| peer.system_identifier),
            timeline: peer.map(|peer| peer.timeline),
            run: run_of(&origin)?,
            ..Suspension::new(subscription.id.to_u32(), origin, until)
        });
    }
    Ok(())
}

/// When the present run of a node began, as the node's poller has heard. A run that
/// is still to be judged does not count.
fn run_of(node: &str) -> Result<Option<Timestamp>, RecoverError> {
    let Some(node) = NativeProvider.peers()?.into_iter().find(|peer| peer.name.as_str() == node) else {
        return Ok(None);
    };
    let seen = snapshot().map(|seen| seen.peers).unwrap_or_default();
    let entry = seen.iter().map(|(entry, _)| entry).find(|entry| entry.key == PeerKey::Node(node.id));
    let judged = entry.filter(|entry| entry.start != OriginLsn::ZERO && entry.to_judge.is_none());
    Ok(judged.map(|entry| entry.server_started_at))
}

/// Enables what [`suspend`] has disabled, except for the subscription to the failed node. A subscription that core
/// refuses to enable, perhaps because somebody has removed its slot, is left to the manager and does not keep the
/// recovery from ending.
pub fn resume(journal: &mut Journal) {
    resume_those(journal, |_| true);
}

/// Like [`resume`], between two attempts of what is not complete: not where a rebuild would lose something by that.
pub fn resume_meanwhile(journal: &mut Journal, id: IntentId) {
    let rebuild = journal.intent(id).and_then(|intent| intent.rebuild.clone()).unwrap_or_default();
    resume_those(journal, |subscription| rebuild.may_run(subscription));
}

/// Like [`resume`], for some of them alone.
pub fn resume_those(journal: &mut Journal, which: impl Fn(u32) -> bool) {
    for suspension in journal.take_suspended(Until::Replayed, which) {
        let resumed = transaction::nested(|| NativeProvider.resume(Oid::from_u32(suspension.subscription)));
        match resumed.map_err(|cause| *cause) {
            Ok(_) => (),
            Err(CaughtError::PostgresError(report) | CaughtError::ErrorReport(report))
                if !transaction::is_contention(&report) && !transaction::is_cancel(&report) =>
            {
                pgrx::warning!(
                    "the subscription from node \"{}\" cannot be enabled again: {}",
                    suspension.origin,
                    report.message()
                );
                journal.suspensions.push(Suspension { until: Until::Returned, ..suspension });
            }
            Err(cause) => cause.rethrow(),
        }
    }
}

/// Waits until no process works for any disabled subscription of this database: disabling one returns before its
/// processes have ended. A process of a subscription to a healthy peer is never terminated. If one of the processes
/// itself waits for a lock, the wait ends after `lock_limit`.
///
/// # Errors
///
/// If processes are still there after a minute, or after `lock_limit`.
pub fn wait_until_gone(failed: &str, lock_limit: Option<Duration>) -> Result<(), RecoverError> {
    let begun = Instant::now();
    let mut ended: Vec<i32> = Vec::new();
    loop {
        interrupts::check();
        let (subscriptions, silent, processes) = transaction::run(|| {
            let subscriptions: Vec<Subscription> = NativeProvider
                .subscriptions()?
                .into_iter()
                .filter(|known| !known.is_enabled && known.counts())
                .collect();
            let ids: Vec<Oid> = subscriptions.iter().map(|subscription| subscription.id).collect();
            let processes = NativeProvider.processes(&ids)?;
            let mut silent = vec![failed.to_owned()];
            for origin in subscriptions.iter().map(origin_of).filter(|origin| !origin.is_empty()) {
                if facts::known_to_be_silent(&origin)?.is_some() {
                    silent.push(origin);
                }
            }
            Ok::<_, RecoverError>((subscriptions, silent, processes))
        })?;
        let Some(first) = processes.first() else { return Ok(()) };
        let of = |id: Oid| subscriptions.iter().find(|subscription| subscription.id == id);
        let waits_for_lock = || processes.iter().any(|process| process::waits_for_lock(process.pid));
        if begun.elapsed() >= PATIENCE || lock_limit.is_some_and(|limit| begun.elapsed() >= limit) && waits_for_lock() {
            return Err(RecoverError::StillApplying {
                subscription: of(first.subscription).map(|found| found.name.clone()).unwrap_or_default(),
                seconds: begun.elapsed().as_secs(),
            });
        }
        for process in &processes {
            let origin = of(process.subscription).map(origin_of).unwrap_or_default();
            if silent.contains(&origin) && begun.elapsed() >= HANGING && !ended.contains(&process.pid) {
                pgrx::log!("ending process {} of the subscription from node \"{origin}\", which hangs", process.pid);
                interrupts::terminate(process.pid);
                ended.push(process.pid);
            }
        }
        latch::wait(Some(Duration::from_millis(20)), WaitEvent::RescueSuspend);
    }
}

fn origin_of(subscription: &Subscription) -> String {
    subscription.origin.node().map(ToString::to_string).unwrap_or_default()
}
