//! What every scenario needs: the servers' installation, the screen, and how much is to be measured.

use spock_recovery_cluster::{Installation, ServerUser};
use spockctl::Screen;

pub struct Bench {
    pub installation: Installation,
    pub user: ServerUser,
    pub screen: Screen,
    pub quick: bool,
    /// None: as many as are usual.
    pub pairs: Option<u8>,
    /// Scenarios or curves; empty: all.
    pub wanted: Vec<String>,
}

impl Bench {
    pub fn wants(&self, scenario: &str) -> bool {
        self.wanted.is_empty() || self.wanted.iter().any(|name| means(name, scenario))
    }

    /// How often ours and the baseline are measured.
    pub fn pairs(&self) -> usize {
        match self.pairs {
            Some(pairs) => usize::from(pairs),
            None if self.quick => 1,
            None => 3,
        }
    }

    pub fn size(&self, full: u64, quick: u64) -> u64 {
        if self.quick { quick } else { full }
    }
}

/// Whether a name that was given means a scenario: `rebuild_copy` means `rebuild_copy/1` and `rebuild_copy/2`.
pub fn means(given: &str, scenario: &str) -> bool {
    scenario.strip_prefix(given).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
