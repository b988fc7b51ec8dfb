//! Suspending this node's subscriptions for the time of a replay, and resuming exactly those.
//!
//! What was enabled is written down with the very transaction that disables it; it is taken out with the one that enables
//! it. The subscription from the failed node stays, until that node is back and was judged.

use super::error::RecoverError;
use super::facts;
use crate::intent::document::{Journal, Suspension, Until};
use crate::lsn::OriginLsn;
use crate::node::native::NativeProvider;
use crate::node::provider::{ReplicationProvider, Subscription};
use crate::pg::latch::{self, WaitEvent};
use crate::pg::{interrupts, process, transaction};
use crate::shmem::PeerKey;
use crate::slot::record_storage;
use crate::slot::snapshot::snapshot;
use pgrx::pg_sys::Oid;
use pgrx::pg_sys::panic::CaughtError;
use std::time::{Duration, Instant};

/// How long processes may take to end: one that applies a transaction ends after it.
const PATIENCE: Duration = Duration::from_secs(60);

/// A process of a subscription from a node that does not answer hangs in connecting to it if it still runs after this, with
/// the origin in its hands.
const HANGING: Duration = Duration::from_secs(2);

/// Disables every subscription that is enabled, and notes it in the journal of the present transaction.
pub fn suspend(journal: &mut Journal, failed: &str) -> Result<(), RecoverError> {
    // What the peers were when they last reported stands in the retention record.
    let record = record_storage::read()?;
    // One that does not count is its owner's business, and must not hold up a recovery.
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

/// When the present run of a node began, as its poller has heard it. One that is still to be judged counts for nothing.
fn run_of(node: &str) -> Result<Option<i64>, RecoverError> {
    let Some(node) = NativeProvider.peers()?.into_iter().find(|peer| peer.name.as_str() == node) else {
        return Ok(None);
    };
    let seen = snapshot().map(|seen| seen.peers).unwrap_or_default();
    let entry = seen.iter().map(|(entry, _)| entry).find(|entry| entry.key == PeerKey::Node(node.id));
    let judged = entry.filter(|entry| entry.start != OriginLsn::ZERO && entry.to_judge.is_none());
    Ok(judged.map(|entry| entry.server_started_at.0))
}

/// Enables what [`suspend`] has disabled, but for the subscription from the failed node. One that core does not enable, for
/// somebody has taken its slot away, say, is left to the manager, and does not keep the recovery from ending.
pub fn resume(journal: &mut Journal) {
    for suspension in journal.take_suspended(Until::Replayed) {
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

/// Waits until no process works for any subscription of this database: disabling returns before they are gone. A healthy
/// peer's is never ended by us. One that waits for a lock itself is not waited for longer than `lock_limit`.
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
