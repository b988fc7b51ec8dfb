//! How the horizon of a rebuild is found out (src/recover/horizon.rs): around the moment at which the snapshots are taken.

use super::super::rescue::Rescue;
use crate::intent::document::Intent;
use crate::intent::rebuild::Pinned;
use crate::pg::clock::Timestamp;
use crate::pg::transaction;
use crate::recover::error::RecoverError;
use crate::recover::horizon::{self, Clock};
use crate::recover::{facts, rebuild};
use std::collections::{BTreeMap, BTreeSet};

impl Rescue {
    /// The nodes from which this node receives, and what the clocks of those say that answer. This comes before the source
    /// takes its snapshot, which then has what was committed until now, as a rule.
    pub(super) fn read_clocks(&self, intent: &Intent) -> Result<(Vec<String>, BTreeMap<String, Clock>), RecoverError> {
        let request = &intent.request;
        let streams = transaction::run(rebuild::streams)?;
        let nodes: BTreeSet<String> = streams.into_iter().map(|stream| stream.node).collect();
        let mut clocks = BTreeMap::new();
        for node in nodes.iter().filter(|node| **node != request.source && **node != request.failed) {
            if transaction::run(|| facts::known_to_be_silent(node))?.is_some() {
                continue;
            }
            // A node that does not answer tells nothing, and is no reason to stop.
            if let Ok(clock) = self.open(node).and_then(|mut node| horizon::read_clock(&mut node)) {
                clocks.insert(node.clone(), clock);
            }
        }
        Ok((nodes.into_iter().collect(), clocks))
    }

    /// The horizon for the snapshot that was taken. None: every row may be younger than something that arrives later.
    pub(super) fn horizon(
        &self,
        intent: &Intent,
        pinned: &Pinned,
        (nodes, clocks): &(Vec<String>, BTreeMap<String, Clock>),
    ) -> Result<Option<Timestamp>, RecoverError> {
        let name = &intent.request.source;
        let mut last = BTreeMap::new();
        if !horizon::unbounded(nodes, name, pinned, clocks).is_empty() {
            let mut source = self.open(name)?;
            let origins = horizon::origins_there(&mut source)?;
            rebuild::take_snapshot(&mut source, &pinned.snapshot)?;
            last = horizon::last_commits(&mut source, &origins)?;
        }
        Ok(horizon::of(nodes, name, pinned, clocks, &last))
    }
}
