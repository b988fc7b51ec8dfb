//! Rebuilding a table by comparing: the two pinned snapshots are compared, and where they differ the row is brought to
//! the source's, in one transaction that also makes the table ready.
//!
//! A row that this node has changed since its own snapshot is never written over: such a change is later than the
//! source's snapshot, and the source receives it.

use super::super::rescue::{Rescue, goes_on, with_entry};
use super::super::trouble::Trouble;
use super::tables::{Filled, Unfit};
use crate::apply::touched::Relation;
use crate::compare::comparison::{CompareFailure, Comparison, Visitor};
use crate::compare::found::{Found, FoundKeys, Kind};
use crate::compare::pace::Pace;
use crate::compare::progress::Progress;
use crate::compare::side::{Here, There};
use crate::compare::table::{Incomparable, Request, Table as Compared};
use crate::intent::document::Intent;
use crate::intent::rebuild::{Cut, Method, Pinned, Table};
use crate::pg::spill::Spill;
use crate::pg::{random, transaction};
use crate::reconcile::fetch;
use crate::reconcile::rows::KeyText;
use crate::recover::error::RecoverError;
use crate::recover::rebuild;
use crate::recover::source::Source;
use crate::remote::error::RemoteError;
use serde::{Deserialize, Serialize};

/// How many keys are asked for at once.
pub(super) const BATCH: usize = 500;
/// After so many rows it is decided whether comparing is worth while.
const FIRST_ROWS: u64 = 20_000;

/// A key that differs, and what this node's snapshot has for it.
#[derive(Serialize, Deserialize)]
pub(super) struct Differing {
    pub key: KeyText,
    pub kind: Kind,
    /// The transaction that has written this node's version; None: there is no row.
    pub before: Option<u32>,
}

/// The keys that differ, in the order in which they were found.
#[derive(Default)]
pub(super) struct DifferingKeys(Spill);

impl DifferingKeys {
    pub fn push(&mut self, key: &Differing) {
        self.0.push(&serde_json::to_vec(key).unwrap_or_default());
    }

    pub fn rewind(&mut self) {
        self.0.rewind();
    }

    pub fn count(&self) -> u64 {
        self.0.count
    }

    /// The next keys, at most so many.
    pub fn next(&mut self, most: usize) -> Vec<Differing> {
        let mut keys = Vec::new();
        while keys.len() < most
            && let Some(record) = self.0.next()
        {
            keys.extend(serde_json::from_slice::<Differing>(&record).ok());
        }
        keys
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
        rebuild::take_snapshot(&mut source, &pinned.snapshot)?;
        let may_copy = intent.request.rebuild.as_ref().is_some_and(|wanted| wanted.method == Method::Auto);
        let mut progress = Progress::default();
        let found = self.differences(intent, table, &mut source, cut, may_copy, &mut progress)?;
        let (compared, mut keys) = match found {
            Ok(found) => found,
            Err(unfit) => return Ok(Err(unfit)),
        };
        if !goes_on(self.index) {
            return Err(Trouble::MustStop);
        }
        let done =
            Filled { method: Method::Compare, rows: progress.rows, differing: keys.count(), bytes: progress.bytes };
        self.bring(intent, table, &compared, &mut source, &mut keys, pinned, &done)?;
        Ok(Ok(done))
    }

    /// Compares the two snapshots.
    fn differences(
        &mut self,
        intent: &Intent,
        table: &Table,
        source: &mut Source,
        cut: &Cut,
        may_copy: bool,
        progress: &mut Progress,
    ) -> Result<Result<(Compared, DifferingKeys), Unfit>, Trouble> {
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
            let keys = versions_here(&compared, &mut seen.keys)?;
            Ok(Ok((compared, keys)))
        })
    }
}

/// Adds to each key which version this node's snapshot has. Runs in that snapshot.
fn versions_here(table: &Compared, found: &mut FoundKeys) -> Result<DifferingKeys, RecoverError> {
    let mut keys = DifferingKeys::default();
    found.rewind();
    loop {
        let batch: Vec<Found> = std::iter::from_fn(|| found.next()).take(BATCH).collect();
        if batch.is_empty() {
            return Ok(keys);
        }
        let names: Vec<KeyText> = batch.iter().map(|found| found.key.clone()).collect();
        let versions = fetch::versions_here(&relation_of(table), &table.key, &names)?;
        for Found { key, kind } in batch {
            let before = versions.get(&key).copied();
            keys.push(&Differing { key, kind, before });
        }
    }
}

/// The table as questions about single rows name it.
pub(super) fn relation_of(table: &Compared) -> Relation {
    Relation { schema: table.schema.clone(), name: table.name.clone(), columns: table.columns.clone() }
}

fn lost(node: &str, error: RemoteError) -> RecoverError {
    RecoverError::Remote { source_node: node.to_owned(), error }
}
