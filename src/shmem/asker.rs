//! Nodes that ask this one and that it does not know: they subscribe here, and nobody keeps WAL for them.

use super::{DatabaseEntry, ShortName};
use crate::identity::DatabaseIdentity;
use crate::pg::clock::Monotonic;
use std::time::Duration;

/// Askers that are remembered for each database. A name is what anybody may give who may ask: what they can do by that is to
/// take these places from each other.
pub const MAX_ASKERS: usize = 8;

/// A node that has not asked for this long does not ask any more.
pub const ASKER_LIMIT: Duration = Duration::from_secs(60);

#[repr(C)]
#[derive(Clone, Copy)]
pub struct AskerEntry {
    /// What it says of itself.
    pub name: ShortName,
    pub said: Option<DatabaseIdentity>,
    /// The role by which it asks.
    pub role: ShortName,
    /// Never: the place is free.
    pub asked_at: Monotonic,
}

impl AskerEntry {
    pub const FREE: AskerEntry =
        AskerEntry { name: ShortName::EMPTY, said: None, role: ShortName::EMPTY, asked_at: Monotonic::NEVER };
}

impl DatabaseEntry {
    /// Notes one that has asked just now: in its own place, else in that of the one that has been silent for longest.
    pub fn note_asker(&mut self, name: &str, said: DatabaseIdentity, role: &str) {
        let asked_at = Monotonic::now();
        let mut entry = AskerEntry { said: Some(said), asked_at, ..AskerEntry::FREE };
        entry.name.set(name);
        entry.role.set(role);
        let known = self.askers.iter().position(|asker| asker.said == entry.said && asker.name.as_str() == name);
        let oldest = || (0..MAX_ASKERS).min_by_key(|index| self.askers[*index].asked_at);
        if let Some(index) = known.or_else(oldest) {
            self.askers[index] = entry;
        }
    }
}
