//! The list of restore points, which every node has, in the label of the schema spock_internal (pure).

use super::error::RestorePointError;
use crate::document::{self, Document, Stored};
use crate::identity::DatabaseIdentity;
use crate::lsn::LocalLsn;
use crate::pg::clock::Timestamp;
use serde::{Deserialize, Serialize};

/// How many names of dropped points are remembered. Recovery stops at the first record of a name in WAL, so a name must
/// not come back while that WAL may still be replayed.
const USED_NAMES: usize = 1000;

/// What a restore to the point will find, the worst first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quality {
    /// It is not known to be a cut: commits were not held back all the time on every node. A restore computes a cut
    /// just before it.
    Loose,
    /// No node holds a transaction of another one beyond that one's position; some transactions are on their way.
    Cut,
    /// The same, and nothing is on its way.
    Drained,
}

impl Quality {
    pub fn as_str(self) -> &'static str {
        match self {
            Quality::Loose => "loose",
            Quality::Cut => "cut",
            Quality::Drained => "drained",
        }
    }
}

/// A restore point on one node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PointNode {
    pub node: String,
    /// The end of the restore point's record in this node's WAL; None: it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lsn: Option<LocalLsn>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline: Option<u32>,
    /// For how long commits were held back, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_us: Option<u64>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Point {
    pub name: String,
    pub created_at: Timestamp,
    /// Names the attempt to make it, so that an attempt that fails takes back what it has entered itself and nothing else.
    #[serde(default)]
    pub attempt: u64,
    /// Made by spock.restore_point_interval, and dropped when there are more than spock.restore_points_kept of these.
    #[serde(default)]
    pub is_automatic: bool,
    pub quality: Quality,
    /// The nodes that take part, by name.
    pub nodes: Vec<PointNode>,
}

/// A base backup, as the program that has taken it reports it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Backup {
    pub node: String,
    pub begun_at: Timestamp,
    /// Any point beyond this position of the node can be restored from it.
    pub stop_lsn: LocalLsn,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RestorePoints {
    version: u32,
    system_identifier: u64,
    database: u32,
    /// The oldest first.
    pub points: Vec<Point>,
    /// Names that were used before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub used: Vec<String>,
    /// The last backups of each node, the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backups: Vec<Backup>,
}

impl Document for RestorePoints {
    const VERSION: u32 = 1;
}

/// How many backups of each node are remembered.
const BACKUPS: usize = 20;

impl RestorePoints {
    pub fn new(here: DatabaseIdentity) -> RestorePoints {
        RestorePoints {
            version: RestorePoints::VERSION,
            system_identifier: here.system_identifier,
            database: here.database,
            points: Vec::new(),
            used: Vec::new(),
            backups: Vec::new(),
        }
    }

    /// Reads the list from the text of a label.
    pub fn read(text: Option<&str>, here: DatabaseIdentity) -> Stored<RestorePoints> {
        document::read(text, here)
    }

    pub fn point(&self, name: &str) -> Option<&Point> {
        self.points.iter().find(|point| point.name == name)
    }

    /// Whether WAL may hold a record of that name.
    pub fn has_used(&self, name: &str) -> bool {
        self.point(name).is_some() || self.used.iter().any(|used| used == name)
    }

    /// Refuses a name that WAL may hold a record of.
    ///
    /// # Errors
    /// If it does.
    pub fn require_unused(&self, name: &str) -> Result<(), RestorePointError> {
        if !self.has_used(name) {
            return Ok(());
        }
        Err(RestorePointError::NameUsed { name: name.to_owned(), by_dropped: self.point(name).is_none() })
    }

    /// Enters a point, in place of what is known of it.
    pub fn enter(&mut self, point: Point) {
        match self.points.iter_mut().find(|known| known.name == point.name) {
            Some(known) => *known = point,
            None => self.points.push(point),
        }
    }

    /// Removes a point. Its name stays used, because WAL may hold its record. False: there is none of that name.
    pub fn remove(&mut self, name: &str) -> bool {
        let Some(place) = self.points.iter().position(|point| point.name == name) else { return false };
        let point = self.points.remove(place);
        if !point.is_automatic {
            self.note_used(name);
        }
        true
    }

    /// Removes what an attempt to make a point has entered, and nothing else. `was_written`: WAL may hold its record, so
    /// that its name stays used.
    pub fn take_back(&mut self, name: &str, attempt: u64, was_written: bool) -> bool {
        let is_own = |point: &Point| point.attempt == attempt && point.nodes.iter().all(|node| node.lsn.is_none());
        let Some(point) = self.point(name).filter(|point| is_own(point)) else { return false };
        let must_note = was_written && !point.is_automatic;
        self.points.retain(|point| point.name != name);
        if must_note {
            self.note_used(name);
        }
        true
    }

    /// The name of an automatic point holds a moment and does not come back, so it is not noted.
    fn note_used(&mut self, name: &str) {
        self.used.push(name.to_owned());
        let surplus = self.used.len().saturating_sub(USED_NAMES);
        self.used.drain(..surplus);
    }

    /// Removes the oldest automatic points beyond `kept`. Points that a person has named stay until they are dropped.
    pub fn prune(&mut self, kept: usize) {
        let automatic = self.points.iter().filter(|point| point.is_automatic).count();
        let mut surplus = automatic.saturating_sub(kept);
        self.points.retain(|point| {
            let goes = point.is_automatic && surplus > 0;
            surplus -= usize::from(goes);
            !goes
        });
    }

    pub fn note_backup(&mut self, backup: Backup) {
        let node = backup.node.clone();
        self.backups.push(backup);
        let mut surplus = self.backups.iter().filter(|known| known.node == node).count().saturating_sub(BACKUPS);
        self.backups.retain(|known| {
            let goes = known.node == node && surplus > 0;
            surplus -= usize::from(goes);
            !goes
        });
    }

    /// When the base backups began from which every node can be restored to the point: of each node the last one before
    /// it, of these the first. None: some node has none.
    pub fn backup_before(&self, point: &Point) -> Option<Timestamp> {
        let of_node = |node: &PointNode| {
            let before = |backup: &&Backup| backup.node == node.node && Some(backup.stop_lsn) <= node.lsn;
            self.backups.iter().filter(before).map(|backup| backup.begun_at).max()
        };
        point.nodes.iter().map(of_node).collect::<Option<Vec<_>>>()?.into_iter().min()
    }
}

/// What has come of one node's part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Part {
    /// Commits were held back on this node from before the first node's record until after the last one's.
    pub held: bool,
    /// This node had passed every other one.
    pub drained: bool,
}

/// The quality of a point, of all nodes' parts. `is_whole`: every node of the mesh takes part. What a node that does not
/// has sent to one of the others and not to another is on its way.
pub fn quality(parts: &[Part], is_whole: bool) -> Quality {
    if parts.is_empty() || parts.iter().any(|part| !part.held) {
        Quality::Loose
    } else if is_whole && parts.iter().all(|part| part.drained) {
        Quality::Drained
    } else {
        Quality::Cut
    }
}

#[cfg(test)]
#[path = "list_tests.rs"]
mod tests;
