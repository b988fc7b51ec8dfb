//! The rows of a table that differ are brought to the source's, in the transaction that makes the table ready.
//!
//! Rows that the source does not have are deleted first, because they may be in the way of others. A row that another
//! one is in the way of, by a unique index, is written once that one was; where two are in each other's way both are
//! deleted before they are written.
//!
//! A row that this node has changed since its snapshot is left as it is, and kept to be compared again: a value that is
//! stored out of line is not sent by an UPDATE that leaves it unchanged, so that only the source has it.

use super::super::rescue::{Rescue, goes_on};
use super::super::trouble::Trouble;
use super::compare::{BATCH, Differing, DifferingKeys, relation_of};
use super::tables::Filled;
use crate::apply::touched::Relation;
use crate::compare::found::Kind;
use crate::compare::table::Table as Compared;
use crate::failpoint::{self, names};
use crate::intent::document::Intent;
use crate::intent::rebuild::{Pinned, Table};
use crate::pg::apply_as::ApplyAs;
use crate::pg::clock::Timestamp;
use crate::pg::logicalrep;
use crate::pg::open_table::OpenTables;
use crate::pg::{origin, transaction, untrusted_user};
use crate::reconcile::fetch;
use crate::reconcile::judge::Verdict;
use crate::reconcile::kept::KeptRows;
use crate::reconcile::rows::{Columns, KeyText};
use crate::reconcile::write::{Did, begin_writing, end_writing, write_into};
use crate::recover::error::RecoverError;
use crate::recover::source::Source;
use crate::recover::{rebuild, rebuild_apart};
use crate::tally::compared::Why;
use std::collections::HashMap;

/// What a pass over the keys does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    /// Deletes the rows that the source does not have.
    DeleteMissing,
    /// Writes the source's rows.
    Write,
    /// Deletes the rows that could not be written over, so that none is in another's way.
    DeleteStuck,
}

struct Writing<'w> {
    relation: u32,
    described: &'w Relation,
    key: &'w [usize],
    apply_as: ApplyAs,
    tables: OpenTables,
    /// The source's rows of the present batch.
    source: &'w mut Source,
}

impl Rescue {
    /// Writes the rows that differ, and makes the table ready, in one commit.
    #[allow(clippy::too_many_arguments)] // what the comparison has found, and of which table
    pub(super) fn bring(
        &mut self,
        intent: &Intent,
        table: &Table,
        compared: &Compared,
        source: &mut Source,
        keys: &mut DifferingKeys,
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
        let mut writing = Writing {
            relation: table.oid,
            described: &described,
            key: &compared.key,
            apply_as,
            tables: OpenTables::default(),
            source,
        };
        let written = writing.all(keys, || goes_on(self.index));
        writing.tables.forget_all();
        let mut left = match written {
            Ok(Some(left)) => left,
            outcome => {
                origin::forget_stamp();
                transaction::abort_current();
                end_writing();
                return Err(outcome.err().map_or(Trouble::MustStop, Trouble::from));
            }
        };
        let mut kept = kept_of(&mut left, &described, &compared.key);
        self.make_ready(intent, table, pinned, done, &mut kept)?;
        end_writing();
        let kept = left.count();
        if kept > 0 {
            pgrx::log!("{kept} rows of {} that this node has changed meanwhile are left as they are", table.shown());
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
        origin::stamp_commit(position, pinned.at.unwrap_or_else(Timestamp::now).0);
        transaction::commit_applied();
        self.look_again()?;
        Ok(())
    }
}

/// The rows that are left, to be compared again when the source has received what this node has made of them.
fn kept_of(left: &mut DifferingKeys, relation: &Relation, key: &[usize]) -> KeptRows {
    let mut kept = KeptRows::default();
    left.rewind();
    loop {
        let batch = left.next(BATCH);
        if batch.is_empty() {
            return kept;
        }
        for differing in batch {
            kept.add(&Columns { relation, key }, Why::Busy, &differing.key, false);
        }
    }
}

impl Writing<'_> {
    /// Writes all of them. Returns the rows that are left because this node has changed them; None: it is to stop.
    fn all(
        &mut self,
        keys: &mut DifferingKeys,
        goes_on: impl Fn() -> bool,
    ) -> Result<Option<DifferingKeys>, RecoverError> {
        let Some(mut left) = self.pass(keys, Pass::DeleteMissing, &goes_on)? else { return Ok(None) };
        let mut deleted = false;
        loop {
            let before = left.count();
            if before == 0 {
                return Ok(Some(left));
            }
            let Some(now) = self.pass(&mut left, Pass::Write, &goes_on)? else { return Ok(None) };
            left = now;
            if left.count() < before {
                continue;
            }
            if std::mem::replace(&mut deleted, true) {
                return Ok(Some(left));
            }
            let Some(now) = self.pass(&mut left, Pass::DeleteStuck, &goes_on)? else { return Ok(None) };
            left = now;
        }
    }

    /// Goes over the keys once. Returns those that are still to be written; None: it is to stop.
    fn pass(
        &mut self,
        keys: &mut DifferingKeys,
        pass: Pass,
        goes_on: &impl Fn() -> bool,
    ) -> Result<Option<DifferingKeys>, RecoverError> {
        let mut left = DifferingKeys::default();
        keys.rewind();
        loop {
            if !goes_on() {
                return Ok(None);
            }
            let batch = keys.next(BATCH);
            if batch.is_empty() {
                return Ok(Some(left));
            }
            match pass {
                Pass::Write => self.write(batch, &mut left)?,
                Pass::DeleteMissing | Pass::DeleteStuck => self.delete(batch, pass, &mut left),
            }
        }
    }

    fn delete(&mut self, batch: Vec<Differing>, pass: Pass, left: &mut DifferingKeys) {
        for mut key in batch {
            let is_wanted = if pass == Pass::DeleteMissing { key.kind == Kind::MissingThere } else { true };
            if !is_wanted || key.before.is_none() {
                left.push(&key);
                continue;
            }
            let mut values: Vec<Option<String>> = vec![None; self.described.columns.len()];
            for (column, value) in self.key.iter().zip(&key.key) {
                values[*column] = Some(value.clone());
            }
            let did = self.write_one(Verdict::Delete, &values, Some(self.key), key.before);
            if pass == Pass::DeleteStuck {
                if did == Did::Written {
                    key.before = None;
                }
                left.push(&key);
            }
        }
    }

    fn write(&mut self, batch: Vec<Differing>, left: &mut DifferingKeys) -> Result<(), RecoverError> {
        let names: Vec<KeyText> = batch.iter().map(|key| key.key.clone()).collect();
        let mut versions: HashMap<KeyText, Differing> =
            batch.into_iter().map(|differing| (differing.key.clone(), differing)).collect();
        let (relation, key, tables, apply_as) = (self.relation, self.key, &mut self.tables, self.apply_as);
        let see = |name: KeyText, values: Vec<Option<String>>| {
            if let Some(differing) = versions.remove(&name) {
                let verdict = if differing.before.is_some() { Verdict::Update } else { Verdict::Insert };
                let did = transaction::step(|| {
                    write_into(tables, relation, apply_as, verdict, (&values, None), key, differing.before)
                });
                if did != Did::Written {
                    left.push(&differing);
                }
            }
            Ok(())
        };
        fetch::whole_rows(self.source, self.described, key, &names, see)
    }

    fn write_one(
        &mut self,
        verdict: Verdict,
        values: &[Option<String>],
        columns: Option<&[usize]>,
        before: Option<u32>,
    ) -> Did {
        let (relation, apply_as, key) = (self.relation, self.apply_as, self.key);
        transaction::step(|| write_into(&mut self.tables, relation, apply_as, verdict, (values, columns), key, before))
    }
}
