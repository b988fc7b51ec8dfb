//! A row is brought to the version that was judged the later one, or is taken away and put back: each in a transaction of its own.
//!
//! Long values were compared by their hashes. They are fetched here, of one row at a time.

use super::ask::{Refused, Side, Texts};
use super::judge::{Author, Found, Verdict};
use super::rows::{KeyText, name};
use super::run::{Difference, Reconciler};
use super::views::View;
use super::write::{Did, write};
use crate::apply::touched::Touched;
use crate::pg::clock::Timestamp;
use crate::pg::spill::{Place, Shelf};
use crate::pg::{interrupts, origin, transaction, untrusted_user};
use crate::recover::error::RecoverError;
use crate::tally::compared::Why;
use std::collections::HashMap;

/// What a row is written with.
pub(super) struct Content {
    /// In the order of the columns that are compared.
    values: Texts,
    /// Of a row that is there no other columns are touched; None: all are.
    columns: Option<Vec<usize>>,
}

type Committed = Option<(Timestamp, Author)>;

/// Rows of the replay that were taken away for what a node's INSERT was thought to bring. What they held is in a file.
#[derive(Default)]
pub(super) struct Removed {
    rows: HashMap<(u32, KeyText), (Committed, Place)>,
    shelf: Shelf,
}

impl Removed {
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub fn has(&self, difference: &Difference) -> bool {
        self.rows.contains_key(&(difference.relation, difference.key.clone()))
    }

    pub fn forget(&mut self, difference: &Difference) {
        self.rows.remove(&(difference.relation, difference.key.clone()));
    }

    fn keep(&mut self, difference: &Difference, committed: Committed, content: &Content) {
        let record = serde_json::to_vec(&content.values).unwrap_or_default();
        let place = self.shelf.put(&record);
        self.rows.insert((difference.relation, difference.key.clone()), (committed, place));
    }

    fn take(&mut self, difference: &Difference) -> Option<(Committed, Content)> {
        let (committed, place) = self.rows.remove(&(difference.relation, difference.key.clone()))?;
        let values = serde_json::from_slice(&self.shelf.get(place)).ok()?;
        Some((committed, Content { values, columns: None }))
    }
}

impl Reconciler<'_> {
    /// Writes one row, with the time of the source's commit. `must_look_again`: the source is asked whether it still has that
    /// version, once ours is in place.
    pub(super) fn bring(
        &mut self,
        touched: &Touched,
        difference: &Difference,
        verdict: Verdict,
        (source, target): (Option<&Found>, Option<&Found>),
        theirs: &View,
        must_look_again: bool,
    ) -> Result<Did, RecoverError> {
        let content = match self.content(touched, difference, verdict, (source, target))? {
            Ok(content) => content,
            Err(did) => return Ok(did),
        };
        let before = target.map(|target| target.transaction);
        let mut did = self.write_content(touched, difference.relation, verdict, &content, before);
        if did == Did::Written && must_look_again {
            match self.transaction_at_source(touched, difference.relation, &difference.key) {
                Ok(now) if now == source.map(|source| source.transaction) => (),
                Ok(_) => did = Did::Again,
                Err(error) => {
                    end(Did::Again, None, theirs);
                    return Err(error);
                }
            }
        }
        end(did, source.and_then(|source| source.committed.as_ref()), theirs);
        Ok(did)
    }

    /// Takes away a row of the target's, which is kept until it is known that it was not in vain.
    pub(super) fn take_away(
        &mut self,
        touched: &Touched,
        difference: &Difference,
        target: &Found,
        theirs: &View,
    ) -> Result<(), RecoverError> {
        let Ok(values) = self.values_of(Side::Target, touched, difference, target, |_| true)? else { return Ok(()) };
        let content = Content { values, columns: None };
        if self.bring(touched, difference, Verdict::Delete, (None, Some(target)), theirs, false)? == Did::Written {
            self.removed.keep(difference, target.committed.clone(), &content);
            self.errors_at_removal.clone_from(&self.errors_now);
        }
        Ok(())
    }

    /// What was taken away for an INSERT that has not come after all.
    pub(super) fn put_back(
        &mut self,
        touched: &Touched,
        difference: &Difference,
        target: Option<&Found>,
        theirs: &View,
    ) {
        if let (Some((committed, content)), None) = (self.removed.take(difference), target) {
            let did = self.write_content(touched, difference.relation, Verdict::Insert, &content, None);
            end(did, committed.as_ref(), theirs);
        }
    }

    /// What to write. The Err is what becomes of a row that cannot be had as it was judged.
    fn content(
        &mut self,
        touched: &Touched,
        difference: &Difference,
        verdict: Verdict,
        (source, target): (Option<&Found>, Option<&Found>),
    ) -> Result<Result<Content, Did>, RecoverError> {
        let Some(key) = touched.key_columns(difference.relation) else { return Ok(Err(Did::Again)) };
        let (side, found, columns) = match (source, target) {
            (_, Some(target)) if verdict == Verdict::Delete => (Side::Target, target, Some(key.to_vec())),
            (Some(source), Some(target)) => (Side::Source, source, source.to_write_over(target)),
            (Some(source), None) => (Side::Source, source, None),
            (None, _) => return Ok(Err(Did::Again)),
        };
        let is_needed = |index| key.contains(&index) || columns.as_ref().is_none_or(|columns| columns.contains(&index));
        let values = self.values_of(side, touched, difference, found, is_needed)?;
        Ok(values.map(|values| Content { values, columns }))
    }

    /// The values of a row, those that are needed at least.
    fn values_of(
        &mut self,
        side: Side,
        touched: &Touched,
        difference: &Difference,
        found: &Found,
        is_needed: impl Fn(usize) -> bool,
    ) -> Result<Result<Texts, Did>, RecoverError> {
        if let Some(values) = found.texts(is_needed) {
            return Ok(Ok(values));
        }
        // As whom core's apply worker connects may not be allowed to read it.
        untrusted_user::leave_session();
        match self.whole_row(side, touched, difference.relation, &difference.key, found)? {
            Ok(values) => Ok(values.ok_or(Did::Again)),
            Err(refused) => {
                pgrx::log!("a row of {} could not be fetched: {refused}", name(touched, difference.relation));
                self.note_refused(touched, difference.relation, &refused);
                Ok(Err(Did::Refused))
            }
        }
    }

    /// Writes one row in a transaction that stays open.
    fn write_content(
        &mut self,
        touched: &Touched,
        relation: u32,
        verdict: Verdict,
        content: &Content,
        before: Option<u32>,
    ) -> Did {
        let apply_as = self.apply_as;
        let Some(key) = touched.key_columns(relation) else { return Did::Again };
        let columns = content.columns.as_deref();
        // What waits for the commit runs as whom core's apply worker connects.
        if !untrusted_user::is_session_of(apply_as.owner) {
            transaction::run(|| untrusted_user::enter_session_of(apply_as.owner));
        }
        let written = interrupts::catch(|| {
            // One that was not committed has left it.
            origin::take_up();
            transaction::begin_if_none();
            transaction::step(|| write(relation, apply_as, verdict, &content.values, columns, key, before))
        });
        written.unwrap_or_else(|report| {
            use pgrx::PgSqlErrorCode as Code;
            match report.sql_error_code() {
                Code::ERRCODE_UNIQUE_VIOLATION
                | Code::ERRCODE_T_R_DEADLOCK_DETECTED
                | Code::ERRCODE_T_R_SERIALIZATION_FAILURE
                | Code::ERRCODE_LOCK_NOT_AVAILABLE => Did::Again,
                _ => {
                    pgrx::log!("a row of {} could not be reconciled: {}", name(touched, relation), report.message());
                    self.note_refused(touched, relation, &Refused::by(self.local, &report));
                    Did::Refused
                }
            }
        })
    }

    /// Counts what has become of a row that was to be written. True: it is to be looked at again.
    pub(super) fn count_brought(
        &mut self,
        touched: &Touched,
        difference: &Difference,
        verdict: Verdict,
        did: Did,
    ) -> bool {
        match did {
            Did::Again => return true,
            Did::Refused => self.leave(touched, difference.relation, &difference.key, Why::Refused),
            Did::Written => {
                self.counts.compared += 1;
                let is_delete = verdict == Verdict::Delete;
                *(if is_delete { &mut self.counts.deleted } else { &mut self.counts.updated }) += 1;
            }
        }
        false
    }
}

/// Ends the transaction of a row: commits what was written, with the time at which the source's version was.
fn end(did: Did, committed: Option<&(Timestamp, Author)>, theirs: &View) {
    if did == Did::Written {
        // Of an unknown age, hence older than all that is known: no time at all would stand for now.
        let at = committed.map_or(1, |(at, _)| at.0);
        origin::stamp_commit(theirs.wal_end, at);
        transaction::commit_applied();
    } else {
        origin::forget_stamp();
        transaction::abort_current();
    }
}
