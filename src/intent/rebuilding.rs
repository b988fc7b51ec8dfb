//! Which changes the record of a rebuild may undergo (pure).

use super::document::{Intent, Journal};
use super::error::IntentError;
use super::rebuild::{Pinned, Rebuild};
use crate::intent_id::IntentId;

impl Intent {
    pub fn is_rebuild(&self) -> bool {
        self.request.rebuild.is_some()
    }
}

impl Journal {
    /// Changes how far a rebuild has come.
    ///
    /// # Errors
    /// If the intent is not known, has ended, or is no rebuild.
    pub fn rebuild(&mut self, id: IntentId, change: impl FnOnce(&mut Rebuild)) -> Result<(), IntentError> {
        let intent = self.running_rebuild(id)?;
        change(intent.rebuild.get_or_insert_default());
        Ok(())
    }

    /// Asks the rescue worker to end the rebuild. Returns its id; None: there is none.
    pub fn ask_to_abort_rebuild(&mut self) -> Option<IntentId> {
        let running = self.intents.iter_mut().find(|intent| intent.is_unfinished() && intent.is_rebuild())?;
        running.must_abort = true;
        Some(running.id)
    }

    /// Records the pin by which tables are rebuilt from now on.
    pub fn note_pin(&mut self, id: IntentId, pinned: Pinned) -> Result<(), IntentError> {
        let intent = self.running_rebuild(id)?;
        let failed_at = pinned.vector.get(&intent.request.failed).copied();
        let rebuild = intent.rebuild.get_or_insert_default();
        rebuild.failed_at = match (rebuild.failed_at, failed_at) {
            (Some(known), Some(now)) => Some(known.min(now)),
            (known, now) => known.or(now),
        };
        rebuild.pinned = Some(pinned);
        Ok(())
    }
}
