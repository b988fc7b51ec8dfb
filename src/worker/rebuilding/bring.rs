//! The rows of a table that differ are brought to the source's, in the transaction that makes the table ready.
//!
//! Rows that the source does not have are deleted first, because they may be in the way of others. A row that another
//! one is in the way of, by a unique index, is written once that one was; where two are in each other's way both are
//! deleted before they are written. Young rows come before all that, in transactions of their own (young.rs).
//!
//! Whatever is written here is written over the version that this node's snapshot has, and over no other. A row that was
//! changed since is left as it is, and kept to be compared again: a value that is stored out of line is not sent by an
//! UPDATE that leaves it unchanged, so that only the source has it. So it also does no harm if an attempt has ended after
//! some transactions: the next one finds other versions there, and leaves them.

use super::super::rescue::{Rescue, goes_on};
use super::super::trouble::Trouble;
use super::compare::{BATCH, Differences, Differing, relation_of};
use super::tables::Filled;
use crate::apply::touched::Relation;
use crate::compare::found::{Keys, Kind};
use crate::compare::table::Table as Compared;
use crate::failpoint::{self, names};
use crate::intent::document::Intent;
use crate::intent::rebuild::{Pinned, Table};
use crate::lsn::OriginLsn;
use crate::pg::apply_as::ApplyAs;
use crate::pg::logicalrep;
use crate::pg::open_table::OpenTables;
use crate::pg::{memory, origin, transaction, untrusted_user};
use crate::rebuild::park;
use crate::reconcile::fetch::{self, Texts};
use crate::reconcile::judge::Verdict;
use crate::reconcile::kept::KeptRows;
use crate::reconcile::rows::{Columns, KeyText};
use crate::reconcile::write::{Did, begin_writing, end_writing, write_into};
use crate::recover::error::RecoverError;
use crate::recover::rebuild_error::RebuildError;
use crate::recover::source::Source;
use crate::recover::{rebuild, rebuild_apart};
use crate::tally::compared::Why;
use pgrx::pg_sys::Oid;
use std::collections::HashMap;

/// What a pass over the keys does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Pass {
    /// Deletes the rows that the source does not have.
    DeleteMissing,
    /// Writes young rows, in transactions of their own.
    WriteYoung,
    /// Writes the source's rows, in the open transaction.
    Write,
    /// Deletes the rows that could not be written over, so that none is in another's way.
    DeleteStuck,
}

/// A table whose rows are brought to the source's.
pub(super) struct Writing<'w> {
    described: &'w Relation,
    source: &'w mut Source,
    pub writer: Writer<'w>,
}

/// What writes one row.
pub(super) struct Writer<'w> {
    relation: u32,
    key: &'w [usize],
    apply_as: ApplyAs,
    pub tables: OpenTables,
    /// The position that commits under `spock_reconcile` carry.
    pub position: OriginLsn,
    /// The rows that were left because they have changed since this node's snapshot.
    kept: Keys<Differing>,
}

impl Rescue {
    /// Writes the rows that differ, and makes the table ready in the last commit.
    #[allow(clippy::too_many_arguments)] // what the comparison has found, and of which table
    pub(super) fn bring(
        &mut self,
        intent: &Intent,
        table: &Table,
        compared: &Compared,
        source: &mut Source,
        keys: Differences,
        pinned: &Pinned,
        done: &Filled,
    ) -> Result<(), Trouble> {
        let node = &intent.request.source;
        let found = transaction::run(|| {
            let subscription = rebuild::subscription_from(node)?;
            Ok::<_, RecoverError>(subscription.and_then(logicalrep::become_applier_of))
        })?;
        let Some(apply_as) = found else { return Err(RecoverError::NoSubscription { failed: node.clone() }.into()) };
        begin_writing();
        transaction::run(|| untrusted_user::enter_session_of(apply_as.owner));
        origin::take_up();
        transaction::begin_if_none();
        let described = relation_of(compared);
        transaction::step(|| {
            logicalrep::announce(table.oid, &table.schema, &table.name, &described.columns, &compared.key);
        });
        let position = pinned.vector.get(node).copied().unwrap_or_default();
        let (relation, key) = (table.oid, compared.key.as_slice());
        let writer = Writer { relation, key, apply_as, tables: OpenTables::default(), position, kept: Keys::default() };
        let mut writing = Writing { described: &described, source, writer };
        let written = writing.all(keys, pinned, &|| goes_on(self.index));
        writing.writer.tables.forget_all();
        let mut left = std::mem::take(&mut writing.writer.kept);
        if !matches!(written, Ok(true)) {
            origin::forget_stamp();
            transaction::abort_current();
            end_writing();
            return Err(written.err().map_or(Trouble::MustStop, Trouble::from));
        }
        let mut kept = kept_of(&mut left, &described, &compared.key);
        self.make_ready(intent, table, pinned, done, &mut kept)?;
        end_writing();
        let kept = left.count();
        if kept > 0 {
            pgrx::log!("{kept} rows of {} that were changed here meanwhile are left as they are", table.shown());
        }
        Ok(())
    }

    /// Makes the table ready in the open transaction, which also records that it is, and commits it.
    pub(super) fn make_ready(
        &mut self,
        intent: &Intent,
        table: &Table,
        pinned: &Pinned,
        done: &Filled,
        kept: &mut KeptRows,
    ) -> Result<(), Trouble> {
        let going_on = self.going_on();
        transaction::fire_deferred();
        let recorded = transaction::step(|| {
            crate::pg::role::as_superuser(|| {
                rebuild::require_same(table)?;
                park::unpark(&[Oid::from_u32(table.oid)])?;
                rebuild_apart::set_done(table.oid, &pinned.vector, &going_on)?;
                Self::note_ready(intent.id, table.oid, done, kept)
            })
        });
        if let Err(error) = recorded {
            origin::forget_stamp();
            transaction::abort_current();
            return Err(error.into());
        }
        failpoint::hit(names::REBUILD_BEFORE_READY);
        let position = pinned.vector.get(&intent.request.source).copied().unwrap_or_default();
        origin::stamp_commit(position, pinned.old_time().0);
        transaction::commit_applied();
        self.look_again()?;
        Ok(())
    }
}

/// The rows that are left, to be compared again when the source has received what this node has made of them.
fn kept_of(left: &mut Keys<Differing>, relation: &Relation, key: &[usize]) -> KeptRows {
    let mut kept = KeptRows::default();
    left.rewind();
    while let Some(differing) = left.next() {
        kept.add(&Columns { relation, key }, Why::Busy, &differing.key, false);
    }
    kept
}

impl Writing<'_> {
    /// Writes all of them; the last transaction stays open. False: it is to stop.
    fn all(
        &mut self,
        Differences { mut young, mut old }: Differences,
        pinned: &Pinned,
        goes_on: &dyn Fn() -> bool,
    ) -> Result<bool, RecoverError> {
        let Some(mut left) = self.pass(&mut old, Pass::DeleteMissing, goes_on)? else { return Ok(false) };
        drop(old);
        if young.count() > 0 {
            // What was deleted must not be in the way of the young.
            self.writer.commit(self.writer.position, pinned.old_time());
            let Some(mut stuck) = self.young(&mut young, goes_on)? else { return Ok(false) };
            stuck.rewind();
            while let Some(key) = stuck.next() {
                left.push(&key);
            }
            transaction::begin_if_none();
        }
        drop(young);
        let mut deleted = false;
        loop {
            let before = left.count();
            if before == 0 {
                return Ok(true);
            }
            let Some(now) = self.pass(&mut left, Pass::Write, goes_on)? else { return Ok(false) };
            left = now;
            if left.count() < before {
                continue;
            }
            if std::mem::replace(&mut deleted, true) {
                left.rewind();
                while let Some(key) = left.next() {
                    self.writer.kept.push(&key);
                }
                return Ok(true);
            }
            let Some(now) = self.pass(&mut left, Pass::DeleteStuck, goes_on)? else { return Ok(false) };
            left = now;
        }
    }

    /// Goes over the keys once. Returns those that are still to be written; None: it is to stop.
    pub(super) fn pass(
        &mut self,
        keys: &mut Keys<Differing>,
        pass: Pass,
        goes_on: &dyn Fn() -> bool,
    ) -> Result<Option<Keys<Differing>>, RecoverError> {
        let mut left = Keys::default();
        keys.rewind();
        loop {
            if !goes_on() {
                return Ok(None);
            }
            let batch = keys.next_batch(BATCH);
            if batch.is_empty() {
                return Ok(Some(left));
            }
            memory::apart(|| match pass {
                Pass::Write => self.write(batch, &mut left),
                Pass::WriteYoung => self.write_young(batch, &mut left),
                Pass::DeleteMissing | Pass::DeleteStuck => self.delete(batch, pass, &mut left),
            })?;
        }
    }

    fn delete(&mut self, batch: Vec<Differing>, pass: Pass, left: &mut Keys<Differing>) -> Result<(), RecoverError> {
        for mut differing in batch {
            let is_missing = differing.kind == Kind::MissingThere;
            if pass == Pass::DeleteMissing && !is_missing {
                left.push(&differing);
                continue;
            }
            let did = match differing.before {
                Some(_) => self.delete_one(&differing)?,
                None => Did::Again,
            };
            if pass == Pass::DeleteStuck && did != Did::Changed {
                if did == Did::Written {
                    differing.before = None;
                }
                left.push(&differing);
            }
        }
        Ok(())
    }

    fn delete_one(&mut self, differing: &Differing) -> Result<Did, RecoverError> {
        let mut values: Texts = vec![None; self.described.columns.len()];
        for (column, value) in self.writer.key.iter().zip(&differing.key) {
            values[*column] = Some(value.clone());
        }
        let columns = Some(self.writer.key);
        self.writer.write(self.described, Verdict::Delete, (&values, columns), differing)
    }

    fn write(&mut self, batch: Vec<Differing>, left: &mut Keys<Differing>) -> Result<(), RecoverError> {
        let (described, writer) = (self.described, &mut self.writer);
        each_fetched(self.source, described, writer.key, batch, |rows| {
            rows.into_iter().try_for_each(|(differing, values)| writer.bring(described, &differing, &values, left))
        })
    }

    fn write_young(&mut self, batch: Vec<Differing>, left: &mut Keys<Differing>) -> Result<(), RecoverError> {
        let (described, writer) = (self.described, &mut self.writer);
        each_fetched(self.source, described, writer.key, batch, |rows| writer.bring_young(described, rows, left))
    }
}

/// Passes the differing rows, as the source has them, to `see`, some at a time.
fn each_fetched(
    source: &mut Source,
    described: &Relation,
    key: &[usize],
    batch: Vec<Differing>,
    mut see: impl FnMut(Vec<(Differing, Texts)>) -> Result<(), RecoverError>,
) -> Result<(), RecoverError> {
    let names: Vec<KeyText> = batch.iter().map(|differing| differing.key.clone()).collect();
    let mut wanted: HashMap<KeyText, Differing> =
        batch.into_iter().map(|differing| (differing.key.clone(), differing)).collect();
    fetch::whole_rows(source, described, key, &names, |rows| {
        see(rows.into_iter().filter_map(|(name, values)| Some((wanted.remove(&name)?, values))).collect())
    })?;
    // Its snapshot has had them a moment before.
    if wanted.is_empty() { Ok(()) } else { Err(source.unexpected("fewer rows than it has")) }
}

impl Writer<'_> {
    /// Writes the source's row. If another row is in the way, its key is left for later.
    pub(super) fn bring(
        &mut self,
        described: &Relation,
        differing: &Differing,
        values: &Texts,
        left: &mut Keys<Differing>,
    ) -> Result<(), RecoverError> {
        let verdict = if differing.before.is_some() { Verdict::Update } else { Verdict::Insert };
        if self.write(described, verdict, (values, None), differing)? == Did::Again {
            left.push(differing);
        }
        Ok(())
    }

    fn write(
        &mut self,
        described: &Relation,
        verdict: Verdict,
        content: (&[Option<String>], Option<&[usize]>),
        differing: &Differing,
    ) -> Result<Did, RecoverError> {
        let (relation, apply_as, key, before) = (self.relation, self.apply_as, self.key, differing.before);
        let did = transaction::step(|| write_into(&mut self.tables, relation, apply_as, verdict, content, key, before));
        match did {
            Did::Changed => self.kept.push(differing),
            Did::Refused => {
                let table = format!("{}.{}", described.schema, described.name);
                let reason = "a value cannot be expressed in the encoding of this database".to_owned();
                return Err(RebuildError::NotRebuilt { table, reason }.into());
            }
            Did::Written | Did::Again => (),
        }
        Ok(did)
    }
}
