//! Comparisons by the clock (spock.compare_interval): all tables, one after the other, with one node, and the next time
//! with the next node.

use super::start;
use crate::comparing::begin::{self, Wanted};
use crate::comparing::error::ComparisonError;
use crate::guc;
use crate::node::native::NativeProvider;
use crate::node::provider::{Peer, ReplicationProvider};
use crate::pg::clock::Monotonic;
use crate::pg::transaction;
use crate::shmem::{self, ComparisonEntry, JobState};
use std::time::Duration;

#[derive(Debug)]
pub struct Comparisons {
    index: usize,
    /// When the last comparison was begun, or this manager was.
    last: Monotonic,
    /// The node that was compared with last.
    last_with: String,
}

impl Comparisons {
    pub fn new(index: usize) -> Comparisons {
        Comparisons { index, last: Monotonic::now(), last_with: String::new() }
    }

    /// Begins a comparison if one is due and none runs. Returns how long to sleep at most.
    pub fn keep(&mut self, peers: &[Peer]) -> Duration {
        let Some(interval) = guc::compare_interval() else { return Duration::MAX };
        let now = Monotonic::now();
        let wait = interval.saturating_sub(now.since(self.last));
        if !wait.is_zero() {
            return wait;
        }
        if shmem::lock().databases()[self.index].comparison.is_under_way() {
            return guc::manager_naptime();
        }
        self.last = now;
        match transaction::caught(|| self.begin(peers)) {
            Ok(Ok(())) => (),
            Ok(Err(error)) => pgrx::warning!("no comparison was begun: {error}"),
            Err(report) => pgrx::warning!("no comparison was begun: {}", super::skips::in_one_line(&report)),
        }
        self.start();
        guc::manager_naptime()
    }

    /// Begins a comparison with the next node to which a subscription leads, or goes on with the last one with it. Takes
    /// effect with the commit.
    fn begin(&mut self, peers: &[Peer]) -> Result<(), ComparisonError> {
        let subscriptions = NativeProvider.subscriptions()?;
        let leads_to = |peer: &&Peer| {
            subscriptions
                .iter()
                .any(|known| known.is_enabled && known.origin.node().is_some_and(|node| *node == peer.name))
        };
        let mut names: Vec<String> = peers.iter().filter(leads_to).map(|peer| peer.name.to_string()).collect();
        names.sort();
        let next = names.iter().find(|name| **name > self.last_with).or_else(|| names.first());
        let Some(next) = next.cloned() else { return Ok(()) };
        let begun = begin::begin(Wanted { other: &next, tables: None, repair: false, is_automatic: true })?;
        self.last_with = next;
        let mut shared = shmem::lock();
        let entry = &mut shared.databases()[self.index].comparison;
        if !entry.is_under_way() {
            *entry = ComparisonEntry {
                state: JobState::Asked,
                run: begun.id.0,
                asked_at: Monotonic::now(),
                is_automatic: true,
                pace_mb_per_s: guc::compare_pace(),
                ..ComparisonEntry::FREE
            };
        }
        Ok(())
    }

    /// Starts the worker, after the commit.
    fn start(&self) {
        let is_asked = {
            let entry = shmem::lock().databases()[self.index].comparison;
            entry.state == JobState::Asked && entry.is_automatic
        };
        if is_asked && start::start_comparison_worker(self.index, &self.last_with).is_err() {
            shmem::lock().databases()[self.index].comparison.state = JobState::None;
            pgrx::warning!("no comparison was begun: no background worker is free");
        }
    }
}
