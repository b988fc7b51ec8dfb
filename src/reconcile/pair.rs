//! The two nodes whose rows are compared: which they are, and what each knows of the other nodes.

use super::judge::{Author, Found, Replay};
use super::reach::{self, Reach};
use crate::apply::touched::Touched;
use crate::intent::document::Intent;
use crate::node::native::NativeProvider;
use crate::node::provider::ReplicationProvider;
use crate::pg::{origin, transaction};
use crate::recover::error::RecoverError;
use crate::recover::source::Source;
use std::collections::{HashMap, HashSet};

pub struct Pair<'a> {
    pub(super) source: Source,
    pub(super) source_name: String,
    /// The target, which is this node.
    pub(super) local: &'a str,
    pub(super) failed: &'a str,
    /// The target's first transaction id that the replay may have used.
    since: u32,
    /// The nodes that the source receives from, by the ids of their replication origins on the source.
    pub(super) origins: HashMap<u16, String>,
    /// The nodes that the target receives from, by the ids of their replication origins on the target.
    pub(super) own_origins: HashMap<u16, String>,
    /// The target's replication origin for what it writes while reconciling (`spock_reconcile`).
    pub(super) own_reconcile: Option<u16>,
    /// The oids of the tables that the target replicates, by the node that they are replicated from.
    tables: HashMap<String, HashSet<u32>>,
    /// Whether there are nodes other than these two and the failed one: such a node may know what neither of these two
    /// does.
    pub(super) has_others: bool,
}

impl<'a> Pair<'a> {
    pub(super) fn new(source: Source, intent: &'a Intent) -> Pair<'a> {
        Pair::of(source, &intent.request.target, &intent.request.failed, intent.since_transaction)
    }

    /// Two nodes of which neither was recovered: no version counts as one that a replay has written.
    pub(super) fn without_recovery(source: Source, local: &'a str) -> Pair<'a> {
        // Transaction ids wrap around: from here no id that is in use now or soon will be counts as later.
        let since = transaction::next_id().wrapping_add(1 << 30);
        Pair::of(source, local, "", since)
    }

    fn of(source: Source, local: &'a str, failed: &'a str, since: u32) -> Pair<'a> {
        Pair {
            source_name: source.name().to_owned(),
            source,
            local,
            failed,
            since,
            origins: HashMap::new(),
            own_origins: HashMap::new(),
            own_reconcile: None,
            tables: HashMap::new(),
            has_others: false,
        }
    }
}

impl Pair<'_> {
    /// Reads what does not change while rows are compared.
    pub(super) fn learn(&mut self) -> Result<(), RecoverError> {
        self.tables = transaction::run(reach::tables)?;
        self.own_reconcile = Some(transaction::run(origin::of_reconcile));
        let among = [self.local, self.failed, self.source_name.as_str()];
        let peers = transaction::run(|| NativeProvider.peers())?;
        self.has_others = peers.iter().any(|peer| !among.contains(&peer.name.as_str()));
        Ok(())
    }

    pub(super) fn view_target(&mut self) -> Result<Reach, RecoverError> {
        let view = transaction::run(|| reach::of_target(None))?;
        self.own_origins.clone_from(&view.origins);
        Ok(view)
    }

    pub(super) fn view_source(&mut self, ours: &Reach) -> Result<Reach, RecoverError> {
        let view = reach::of_source(&mut self.source, ours.slots.get(&self.source_name).map(String::as_str))?;
        self.origins.clone_from(&view.origins);
        Ok(view)
    }

    /// Whether the source has all that the target has of the failed node's transactions; None if one of the two does
    /// not subscribe to the failed node.
    pub(super) fn source_has_enough(&mut self) -> Result<Option<bool>, RecoverError> {
        let ours = self.view_target()?;
        let theirs = self.view_source(&ours)?;
        let both = theirs.passed.get(self.failed).zip(ours.applied.get(self.failed));
        Ok(both.map(|(theirs, ours)| theirs >= ours))
    }

    pub(super) fn replay(&self, is_of_gone: bool) -> Replay<'_> {
        Replay { failed: self.failed, since: self.since, is_of_gone }
    }

    /// Whether the target replicates the table from the author of the source's version, or is that author itself. If
    /// the source has no row, the source counts as the author.
    pub(super) fn is_replicated(&self, touched: &Touched, relation: u32, source: Option<&Found>) -> bool {
        let author = match source.and_then(|source| source.committed.as_ref()) {
            Some((_, Author::Node(node))) => node,
            _ => &self.source_name,
        };
        let Some(table) = touched.table(relation) else { return false };
        author == self.local || self.tables.get(author).is_some_and(|tables| tables.contains(&table))
    }
}
