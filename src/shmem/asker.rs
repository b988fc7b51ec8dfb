//! Nodes that ask this node and that it does not know. They subscribe to this node, but no node keeps WAL for them.

use super::{DatabaseEntry, ShortName};
use crate::identity::DatabaseIdentity;
use crate::pg::clock::Monotonic;
use std::time::Duration;

/// How many askers are remembered for each database. Whoever may ask can give any name; all that this achieves is that
/// askers displace each other from these places.
pub const MAX_ASKERS: usize = 8;

/// A node that has not asked for this long counts as no longer asking.
pub const ASKER_LIMIT: Duration = Duration::from_secs(60);

/// A node that has asked.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct AskerEntry {
    /// The name and the identity that the node gives.
    pub name: ShortName,
    pub said: Option<DatabaseIdentity>,
    /// The role under which it asks.
    pub role: ShortName,
    /// When it last asked; never: the place is free.
    pub asked_at: Monotonic,
}

impl AskerEntry {
    pub const FREE: AskerEntry =
        AskerEntry { name: ShortName::EMPTY, said: None, role: ShortName::EMPTY, asked_at: Monotonic::NEVER };
}

impl DatabaseEntry {
    /// Notes a node that has asked just now: in the place that it has, else in the place of the node that has not asked
    /// for longest.
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

    /// Forgets who has asked under a name, because the node of that name was dropped: another one may take it at once.
    pub fn forget_askers(&mut self, name: &str) {
        self.askers.iter_mut().filter(|asker| asker.name.as_str() == name).for_each(|asker| *asker = AskerEntry::FREE);
    }
}
