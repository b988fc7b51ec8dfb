//! Brings a row of the target to the version that was judged the later one.
//!
//! Long values were compared by their hashes. They are fetched here, for one row at a time.

use super::ask::{Side, Texts};
use super::difference::Difference;
use super::judge::{Author, Found, Verdict};
use super::ledger::Ledger;
use super::pair::Pair;
use super::reach::Reach;
use super::rows::name;
use super::write::{Did, write};
use crate::apply::touched::Touched;
use crate::pg::apply_as::ApplyAs;
use crate::pg::clock::Timestamp;
use crate::pg::{interrupts, origin, transaction, untrusted_user};
use crate::recover::error::RecoverError;
use crate::refused::Refused;

/// The content that a row is written with.
pub(super) struct Content {
    /// In the order of the compared columns.
    pub values: Texts,
    /// The columns of an existing row that are written; None: all.
    pub columns: Option<Vec<usize>>,
}

/// The commit time and author of a version; None if they are not known.
pub(super) type Committed = Option<(Timestamp, Author)>;

/// Writes rows on the target, each in a transaction of its own.
pub(super) struct Writer<'w, 'a> {
    pub pair: &'w mut Pair<'a>,
    pub ledger: &'w mut Ledger,
    pub touched: &'w Touched,
    pub apply_as: ApplyAs,
}

impl Writer<'_, '_> {
    /// Writes one row, and commits it with the time of the source's commit. If `must_look_again`, the source is asked
    /// whether it still has its version once the row is in place.
    ///
    /// # Errors
    ///
    /// If the source cannot be asked, or gives an unexpected answer.
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

    /// The content to write. The inner Err is the outcome for a row that cannot be read as it was judged.
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

    /// The values of a row, at least the needed ones.
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
        // The subscription's owner, in whose session rows are written, may not be allowed to read the row.
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

    /// Writes one row in a transaction that stays open. `before` is the id of the transaction that wrote the present
    /// version.
    pub fn write_content(&mut self, relation: u32, verdict: Verdict, content: &Content, before: Option<u32>) -> Did {
        let apply_as = self.apply_as;
        let Some(key) = self.touched.key_columns(relation) else { return Did::Again };
        let columns = content.columns.as_deref();
        // Triggers that wait for the commit run in the session of the subscription's owner, as in core's apply worker.
        if !untrusted_user::is_session_of(apply_as.owner) {
            transaction::run(|| untrusted_user::enter_session_of(apply_as.owner));
        }
        let written = interrupts::catch(|| {
            // A transaction that was not committed has left the origin.
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

/// Ends the transaction of a row: commits what was written, with the time of the source's commit, or aborts.
pub(super) fn end(did: Did, committed: Option<&(Timestamp, Author)>, theirs: &Reach) {
    if did == Did::Written {
        // A version of unknown age gets the oldest time, which is older than all that are known. Without any time the
        // commit would have the present one.
        let at = committed.map_or(1, |(at, _)| at.0);
        origin::stamp_commit(theirs.wal_end, at);
        transaction::commit_applied();
    } else {
        origin::forget_stamp();
        transaction::abort_current();
    }
}
