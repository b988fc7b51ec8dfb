//! Young rows: those of the source that may be later than something that is still to be delivered here. They are written
//! under the replication origin of their author and with their commit time, so that a change that arrives is compared with
//! what they are. A transaction has one author and one commit time, so there are as many transactions as pairs of both.
//!
//! No origin's progress moves by that (see [`origin::write_for`]), and the author's own apply worker may be running.

use super::bring::{Pass, Writer, Writing};
use super::compare::{Differing, Stamp};
use crate::apply::touched::Relation;
use crate::compare::found::Keys;
use crate::lsn::OriginLsn;
use crate::pg::clock::Timestamp;
use crate::pg::{origin, transaction};
use crate::reconcile::fetch::Texts;
use crate::recover::error::RecoverError;
use std::collections::BTreeMap;

impl Writing<'_> {
    /// Writes the young rows. Returns those that other rows are in the way of; they are written with the old ones, because
    /// two transactions cannot make room for each other. None: it is to stop.
    pub(super) fn young(
        &mut self,
        young: &mut Keys<Differing>,
        goes_on: &dyn Fn() -> bool,
    ) -> Result<Option<Keys<Differing>>, RecoverError> {
        let mut before = young.count();
        let Some(mut left) = self.pass(young, Pass::WriteYoung, goes_on)? else { return Ok(None) };
        while left.count() > 0 && left.count() < before {
            before = left.count();
            let Some(now) = self.pass(&mut left, Pass::WriteYoung, goes_on)? else { return Ok(None) };
            left = now;
        }
        Ok(Some(left))
    }
}

impl Writer<'_> {
    /// Writes young rows, those with the same author and commit time in one transaction.
    pub(super) fn bring_young(
        &mut self,
        described: &Relation,
        rows: Vec<(Differing, Texts)>,
        left: &mut Keys<Differing>,
    ) -> Result<(), RecoverError> {
        let mut transactions: BTreeMap<Stamp, Vec<(Differing, Texts)>> = BTreeMap::new();
        for (differing, values) in rows {
            if let Some(stamp) = differing.stamp {
                transactions.entry(stamp).or_default().push((differing, values));
            }
        }
        for (Stamp { at, origin: author }, rows) in transactions {
            transaction::begin_if_none();
            let is_authors = author.is_some_and(origin::write_for);
            for (differing, values) in rows {
                self.bring(described, &differing, &values, left)?;
            }
            self.commit(if is_authors { OriginLsn::ZERO } else { self.position }, at);
        }
        Ok(())
    }

    /// Commits the open transaction with this commit time.
    pub(super) fn commit(&mut self, position: OriginLsn, at: Timestamp) {
        self.tables.close_all();
        transaction::fire_deferred();
        origin::stamp_commit(position, at.0);
        transaction::commit_applied();
        origin::take_up();
    }
}
