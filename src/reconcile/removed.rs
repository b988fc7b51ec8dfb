//! Rows that were deleted to make room for an incoming INSERT, until it is known whether that was in vain.

use super::ask::Side;
use super::bring::{Committed, Content, Writer, end};
use super::difference::Difference;
use super::judge::{Found, Verdict};
use super::reach::Reach;
use super::rows::KeyText;
use super::write::Did;
use crate::pg::spill::{Place, Shelf};
use crate::recover::error::RecoverError;
use std::collections::HashMap;

/// Rows of the replay that were deleted because an INSERT of another node seemed to need their place. Their values are
/// in a temporary file.
#[derive(Default)]
pub(super) struct Removed {
    rows: HashMap<(u32, KeyText), (Committed, Place)>,
    shelf: Shelf,
    /// How often the target had failed to apply changes from each node, when the last of the rows was deleted.
    errors_at_removal: HashMap<String, i64>,
    /// Whether rows that were deleted in vain stay deleted until the pending rows of other recoveries have been
    /// compared: one transaction may wait for rows of several recoveries.
    pub holds: bool,
    held: Vec<Difference>,
}

impl Removed {
    /// The target's error counts when the last of the rows was deleted; None if there are no such rows.
    pub fn errors_before(&self) -> Option<&HashMap<String, i64>> {
        (!self.rows.is_empty()).then_some(&self.errors_at_removal)
    }

    /// Leaves the row deleted for now.
    pub fn hold(&mut self, difference: Difference) {
        self.held.push(difference);
    }

    /// Whether rows that were deleted in vain so far are waiting to be restored.
    pub fn holds_something(&self) -> bool {
        !self.held.is_empty()
    }

    /// Returns the rows that are waiting to be restored, to be judged for the last time.
    pub fn let_go(&mut self) -> Vec<Difference> {
        self.holds = false;
        std::mem::take(&mut self.held)
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

    /// Deletes a row of the target, and keeps its values until it is known that this was not in vain.
    pub(super) fn take_away(
        &mut self,
        writer: &mut Writer<'_, '_>,
        difference: &Difference,
        target: &Found,
        theirs: &Reach,
        errors_now: &HashMap<String, i64>,
    ) -> Result<(), RecoverError> {
        let Ok(values) = writer.values_of(Side::Target, difference, target, |_| true)? else { return Ok(()) };
        let content = Content { values, columns: None };
        if writer.bring(difference, Verdict::Delete, (None, Some(target)), theirs, false)? == Did::Written {
            self.keep(difference, target.committed.clone(), &content);
            self.errors_at_removal.clone_from(errors_now);
        }
        Ok(())
    }

    /// Restores a row that was deleted for an INSERT that has not arrived.
    pub(super) fn put_back(
        &mut self,
        writer: &mut Writer<'_, '_>,
        difference: &Difference,
        target: Option<&Found>,
        theirs: &Reach,
    ) {
        if let (Some((committed, content)), None) = (self.take(difference), target) {
            let did = writer.write_content(difference.relation, Verdict::Insert, &content, None);
            end(did, committed.as_ref(), theirs);
        }
    }
}
