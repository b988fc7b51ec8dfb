//! Brings a row to the version that was judged the later one.
//!
//! Long values were compared by their hashes. They are fetched here, of one row at a time.

use super::ask::{Side, Texts};
use super::difference::Difference;
use super::judge::{Author, Found, Verdict};
use super::ledger::Ledger;
use super::pair::Pair;
use super::reach::Reach;
use super::refused::Refused;
use super::rows::name;
use super::write::{Did, write};
use crate::apply::touched::Touched;
use crate::pg::apply_as::ApplyAs;
use crate::pg::clock::Timestamp;
use crate::pg::{interrupts, origin, transaction, untrusted_user};
use crate::recover::error::RecoverError;

/// What a row is written with.
pub(super) struct Content {
    /// In the order of the columns that are compared.
    pub values: Texts,
    /// Of a row that is there no other columns are touched; None: all are.
    pub columns: Option<Vec<usize>>,
}

pub(super) type Committed = Option<(Timestamp, Author)>;

/// Writes rows of the target, each in a transaction of its own.
pub(super) struct Writer<'w, 'a> {
    pub pair: &'w mut Pair<'a>,
    pub ledger: &'w mut Ledger,
    pub touched: &'w Touched,
    pub apply_as: ApplyAs,
}

impl Writer<'_, '_> {
    /// Writes one row, with the time of the source's commit. `must_look_again`: the source is asked whether it still has that
    /// version, once ours is in place.
    pub fn bring(
        &mut self,
        difference: &Difference,
        verdict: Verdict,
        (source, target): (Option<&Found>, Option<&Found>),
        theirs: &Reach,
        must_look_again: bool,
    ) -> Result<Did, RecoverError> {
        let content = match self.content(difference, verdict, (source, target))? {
            Ok(content) => content,
            Err(did) => return Ok(did),
        };
        let before = target.map(|target| target.transaction);
        let mut did = self.write_content(difference.relation, verdict, &content, before);
        if did == Did::Written && must_look_again {
            match self.pair.transaction_at_source(self.touched, difference.relation, &difference.key) {
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

    /// What to write. The Err is what becomes of a row that cannot be had as it was judged.
    fn content(
        &mut self,
        difference: &Difference,
        verdict: Verdict,
        (source, target): (Option<&Found>, Option<&Found>),
    ) -> Result<Result<Content, Did>, RecoverError> {
        let Some(key) = self.touched.key_columns(difference.relation) else { return Ok(Err(Did::Again)) };
        let (side, found, columns) = match (source, target) {
            (_, Some(target)) if verdict == Verdict::Delete => (Side::Target, target, Some(key.to_vec())),
            (Some(source), Some(target)) => (Side::Source, source, source.to_write_over(target)),
            (Some(source), None) => (Side::Source, source, None),
            (None, _) => return Ok(Err(Did::Again)),
        };
        let is_needed = |index| key.contains(&index) || columns.as_ref().is_none_or(|columns| columns.contains(&index));
        let values = self.values_of(side, difference, found, is_needed)?;
        Ok(values.map(|values| Content { values, columns }))
    }

    /// The values of a row, those that are needed at least.
    pub fn values_of(
        &mut self,
        side: Side,
        difference: &Difference,
        found: &Found,
        is_needed: impl Fn(usize) -> bool,
    ) -> Result<Result<Texts, Did>, RecoverError> {
        if let Some(values) = found.texts(is_needed) {
            return Ok(Ok(values));
        }
        // As whom core's apply worker connects may not be allowed to read it.
        untrusted_user::leave_session();
        match self.pair.whole_row(side, self.touched, difference.relation, &difference.key, found)? {
            Ok(values) => Ok(values.ok_or(Did::Again)),
            Err(refused) => {
                pgrx::log!("a row of {} could not be fetched: {refused}", name(self.touched, difference.relation));
                self.ledger.note_refused(self.touched, difference.relation, &refused);
                Ok(Err(Did::Refused))
            }
        }
    }

    /// Writes one row in a transaction that stays open.
    pub fn write_content(&mut self, relation: u32, verdict: Verdict, content: &Content, before: Option<u32>) -> Did {
        let apply_as = self.apply_as;
        let Some(key) = self.touched.key_columns(relation) else { return Did::Again };
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
                    pgrx::log!(
                        "a row of {} could not be reconciled: {}",
                        name(self.touched, relation),
                        report.message()
                    );
                    self.ledger.note_refused(self.touched, relation, &Refused::by(self.pair.local, &report));
                    Did::Refused
                }
            }
        })
    }
}

/// Ends the transaction of a row: commits what was written, with the time at which the source's version was.
pub(super) fn end(did: Did, committed: Option<&(Timestamp, Author)>, theirs: &Reach) {
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
