//! What a node reports of its unfinished recoveries when it starts.

use super::document::Journal;
use super::journal::Resumable;

/// Logs each unfinished recovery, and warns if there are several, because then none is resumed.
pub fn tell(journal: &Journal) {
    for intent in journal.unfinished() {
        let why = intent.failure.as_ref().map_or_else(String::new, |failure| format!(": {}", intent.describe(failure)));
        pgrx::log!(
            "{} (intent {}) is unfinished, at phase {}{why}",
            intent.request.title(),
            intent.id,
            intent.phase_name()
        );
    }
    if let Resumable::Several(several) = journal.resumable() {
        pgrx::warning!(
            "{} recoveries are unfinished on this node where one is expected, and none is resumed: see \
             spock.recovery_intents(), and end those that are not to continue with spock.recover_abort()",
            several.len()
        );
    }
}
