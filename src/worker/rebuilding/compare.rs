//! Rebuilding a table by comparing: the two pinned snapshots are compared, and where they differ the row is brought to
//! the source's. One transaction does so and makes the table ready; before it, young rows are written in transactions with
//! their authors and commit times (young.rs).
//!
//! A row that this node has changed since its own snapshot is never written over: such a change is later than the
//! source's snapshot, and the source receives it.

use super::super::rescue::{Rescue, goes_on, with_entry};
use super::super::trouble::Trouble;
use super::tables::{Filled, Unfit};
use crate::apply::touched::Relation;
use crate::compare::comparison::{CompareFailure, Comparison, Visitor};
use crate::compare::found::{Found, FoundKeys, Keys, Kind};
use crate::compare::pace::Pace;
use crate::compare::progress::Progress;
use crate::compare::side::{Here, There};
use crate::compare::table::{Incomparable, Request, Table as Compared};
use crate::intent::document::Intent;
use crate::intent::rebuild::{Cut, Method, Pinned, Table};
use crate::pg::clock::Timestamp;
use crate::pg::{commit_ts, origin, random, transaction};
use crate::reconcile::fetch;
use crate::reconcile::rows::KeyText;
use crate::recover::error::RecoverError;
use crate::recover::source::Source;
use crate::recover::{horizon, rebuild};
use crate::remote::error::RemoteError;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// How many keys are asked for at once.
pub(super) const BATCH: usize = 500;
/// From so many rows on it is decided, again and again, whether comparing is worth while.
const FIRST_ROWS: u64 = 20_000;

/// A key that differs, and what the two snapshots have for it.
#[derive(Serialize, Deserialize)]
pub(super) struct Differing {
    pub key: KeyText,
    pub kind: Kind,
    /// The transaction that has written this node's version; None: there is no row.
    pub before: Option<u32>,
    /// None: the source's version is older than everything that may still be delivered, or of unknown age.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stamp: Option<Stamp>,
}

/// When a young row was committed, and the replication origin of its author on this node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub(super) struct Stamp {
    pub at: Timestamp,
    /// None: its author has none here; it is this node itself, or no node that is known.
    pub origin: Option<u16>,
}

/// The keys that differ.
#[derive(Default)]
pub(super) struct Differences {
    /// Those of rows that must keep their author and commit time.
    pub young: Keys<Differing>,
    /// All others.
    pub old: Keys<Differing>,
}

impl Differences {
    pub fn count(&self) -> u64 {
        self.young.count() + self.old.count()
    }
}

/// What the comparison has found.
struct Seen<'r> {
    keys: FoundKeys,
    index: usize,
    /// Whether the comparison may be given up for a copy.
    may_copy: bool,
    is_mostly_different: bool,
    progress: &'r mut Progress,
}

impl Visitor for Seen<'_> {
    fn found(&mut self, found: &Found) {
        self.keys.push(found);
    }

    fn goes_on(&mut self, progress: &Progress) -> bool {
        *self.progress = progress.clone();
        with_entry(self.index, |entry| {
            let filling = &mut entry.filling;
            (filling.chunks_done, filling.chunks_total) = (progress.ranges_done, progress.ranges_total);
            (filling.rows, filling.differing, filling.bytes) = (progress.rows, progress.differing, progress.bytes);
        });
        self.is_mostly_different =
            self.may_copy && progress.rows >= FIRST_ROWS && progress.differing > progress.rows / 2;
        !self.is_mostly_different && goes_on(self.index)
    }
}

impl Rescue {
    /// Brings a table to the snapshot by comparing. The inner Err: it is better, or only possible, to copy it.
    pub(super) fn rebuild_by_comparing(
        &mut self,
        intent: &Intent,
        table: &Table,
        (pinned, cut): (&Pinned, &Cut),
    ) -> Result<Result<Filled, Unfit>, Trouble> {
        let mut source = self.open(&intent.request.source)?;
        let authors = authors(&mut source)?;
        rebuild::take_snapshot(&mut source, &pinned.snapshot)?;
        let may_copy = intent.request.rebuild.as_ref().is_some_and(|wanted| wanted.method == Method::Auto);
        let mut progress = Progress::default();
        let found = self.differences(intent, table, &mut source, (pinned, cut), &authors, may_copy, &mut progress)?;
        let (compared, keys) = match found {
            Ok(found) => found,
            Err(unfit) => return Ok(Err(unfit)),
        };
        if !goes_on(self.index) {
            return Err(Trouble::MustStop);
        }
        let done =
            Filled { method: Method::Compare, rows: progress.rows, differing: keys.count(), bytes: progress.bytes };
        self.bring(intent, table, &compared, &mut source, keys, pinned, &done)?;
        Ok(Ok(done))
    }

    /// Compares the two snapshots.
    #[allow(clippy::too_many_arguments)] // what is compared, in which snapshots, and who is told
    fn differences(
        &mut self,
        intent: &Intent,
        table: &Table,
        source: &mut Source,
        (pinned, cut): (&Pinned, &Cut),
        authors: &Authors,
        may_copy: bool,
        progress: &mut Progress,
    ) -> Result<Result<(Compared, Differences), Unfit>, Trouble> {
        let index = self.index;
        let node = intent.request.source.clone();
        let published = transaction::run(|| rebuild::publications_from(&node))?;
        transaction::run_at(&cut.snapshot, || {
            let mut here = Here::new(&intent.request.target);
            let mut there = There::in_transaction(&node, source.connection()).map_err(|error| lost(&node, error))?;
            let request = Request {
                schema: &table.schema,
                name: &table.name,
                published_here: &[],
                published_there: &published,
                may_be_incomplete_here: true,
            };
            let learned = Compared::learn(&request, &mut here, &mut there).map_err(|error| lost(&node, error))?;
            let compared = match learned {
                Ok(compared) => compared,
                Err(reason @ (Incomparable::Refused(_) | Incomparable::Incomplete { .. })) => {
                    return Ok(Err(Unfit::Refused(reason.to_string())));
                }
                Err(_) if may_copy => return Ok(Err(Unfit::BetterCopied)),
                Err(reason) => return Ok(Err(Unfit::Refused(reason.to_string()))),
            };
            let seed = random::number().cast_signed();
            let mut seen = Seen { keys: FoundKeys::default(), index, may_copy, is_mostly_different: false, progress };
            let ran = Comparison::new(&compared, Pace::default(), seed).run(
                Progress::default(),
                &mut here,
                &mut there,
                &mut seen,
            );
            match ran {
                Ok(_) => (),
                Err(CompareFailure::Incomparable(reason)) => return Ok(Err(Unfit::Refused(reason.to_string()))),
                Err(CompareFailure::Remote(error)) => return Err(lost(&node, error).into()),
            }
            if seen.is_mostly_different {
                return Ok(Err(Unfit::BetterCopied));
            }
            let keys = versions(&compared, &mut seen.keys, source, authors, pinned)?;
            Ok(Ok((compared, keys)))
        })
    }
}

/// Adds to each key which version this node's snapshot has, and by whom and when the source's version was committed. Runs in
/// this node's snapshot.
fn versions(
    table: &Compared,
    found: &mut FoundKeys,
    source: &mut Source,
    authors: &Authors,
    pinned: &Pinned,
) -> Result<Differences, RecoverError> {
    let (mut differences, relation) = (Differences::default(), relation_of(table));
    found.rewind();
    loop {
        let batch = found.next_batch(BATCH);
        if batch.is_empty() {
            return Ok(differences);
        }
        let names: Vec<KeyText> = batch.iter().map(|found| found.key.clone()).collect();
        let versions = fetch::versions_here(&relation, &table.key, &names)?;
        let there = batch.iter().filter(|found| found.kind != Kind::MissingThere).map(|found| found.key.clone());
        let there: Vec<KeyText> = there.collect();
        // Without commit timestamps here nobody could read them.
        let commits = match commit_ts::is_tracked() {
            true => fetch::commits_there(source, &relation, &table.key, &there)?,
            false => HashMap::new(),
        };
        for Found { key, kind } in batch {
            let (before, committed) = (versions.get(&key).copied(), commits.get(&key).copied().flatten());
            let committed = committed.filter(|(at, _)| pinned.is_young(Timestamp(*at)));
            let stamp =
                committed.map(|(at, origin)| Stamp { at: Timestamp(at), origin: authors.get(&origin).copied() });
            let kept = if stamp.is_some() { &mut differences.young } else { &mut differences.old };
            kept.push(&Differing { key, kind, before, stamp });
        }
    }
}

/// The replication origins on this node by those of the same authors on the source.
type Authors = HashMap<u16, u16>;

/// Of whom this node has a replication origin with a place in the shared memory, under which it may write.
fn authors(source: &mut Source) -> Result<Authors, RecoverError> {
    let mut there = horizon::origins_there(source)?;
    there.insert(origin::LOCAL, source.name().to_owned());
    let here = transaction::run(rebuild::origins_by_node)?;
    Ok(there.into_iter().filter_map(|(id, node)| Some((id, *here.get(&node)?))).collect())
}

/// The table as questions about single rows name it.
pub(super) fn relation_of(table: &Compared) -> Relation {
    Relation { schema: table.schema.clone(), name: table.name.clone(), columns: table.columns.clone() }
}

fn lost(node: &str, error: RemoteError) -> RecoverError {
    RecoverError::Remote { source_node: node.to_owned(), error }
}
