//! The manager saves the recovery slot's files after each move of the slot, so that they are in WAL and in every backup
//! (src/slot/saved.rs). It does so in a subtransaction of its own: a slot whose files cannot be saved goes on moving.

use super::{Keeper, KeeperRound, SlotFiles};
use crate::lsn::LocalLsn;
use crate::node::error::RegistryError;
use crate::slot::saved_storage::{self, SaveError, SaveOutcome, Saver};
use std::time::{Duration, Instant};

/// How often the saved files are compared with those of a slot that does not move: somebody may have removed the large
/// object. Nothing is written if they are the same.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);

/// When the saved files were last found to be those of the slot.
#[derive(Debug, Default)]
pub(super) struct Saving(Option<(Instant, Stand)>);

/// The slot's generation, its restart_lsn and its confirmed position.
type Stand = (u64, LocalLsn, LocalLsn);

impl Keeper {
    /// Saves the files of the slot that the round has found, if it has moved. Runs in the manager's transaction, after
    /// [`Keeper::look`].
    ///
    /// # Errors
    /// If the files cannot be saved: those that were saved before stay.
    pub fn save(&mut self, round: Option<&KeeperRound>) -> Result<(), SaveError> {
        let Some(round) = round else { return Ok(()) };
        match (round.files, &round.view.slot) {
            (SlotFiles::Save, Some(found)) => {
                let stand = (round.view.generation, found.restart, found.confirmed);
                let is_saved = |(at, saved): &(Instant, Stand)| *saved == stand && at.elapsed() < LOOK_INTERVAL;
                if self.saving.0.as_ref().is_some_and(is_saved) {
                    return Ok(());
                }
                let (outcome, _) = saved_storage::save(&found.name, round.view.generation, Saver::Manager)?;
                self.saving.0 = (outcome != SaveOutcome::Busy).then(|| (Instant::now(), stand));
                Ok(())
            }
            (SlotFiles::Forget, _) => {
                self.saving.0 = None;
                saved_storage::forget().map(|_| ()).map_err(RegistryError::into)
            }
            _ => Ok(()),
        }
    }
}
