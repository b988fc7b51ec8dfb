//! What the journal records of a rebuild (pure). A rebuild is carried by the same intent as a recovery: its target's
//! subscriptions are suspended, its tables are brought to a snapshot that the source has pinned, and core's own apply
//! goes on from there.
//!
//! begun → suspending → rebuilding → resuming → reconciling → completed, as src/intent/journal.rs has it; what that
//! calls replaying is the rebuilding.

use crate::lsn::{LocalLsn, OriginLsn};
use crate::pg::clock::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// How a table is brought to the source's snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// By comparing where the table has rows and a key, else by copying.
    Auto,
    Compare,
    Copy,
}

impl Method {
    pub fn name(self) -> &'static str {
        match self {
            Method::Auto => "auto",
            Method::Compare => "compare",
            Method::Copy => "copy",
        }
    }

    /// The method of that name.
    pub fn of_name(name: &str) -> Option<Method> {
        [Method::Auto, Method::Compare, Method::Copy].into_iter().find(|method| method.name() == name)
    }
}

/// What is to be rebuilt.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Wanted {
    pub method: Method,
    /// Schema and name of each table; empty: all that the target receives from the source.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<(String, String)>,
}

/// The moment on the target from which its own changes are newer than the snapshot.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Cut {
    /// The end of the target's last own commit before that.
    pub end: LocalLsn,
    /// The name under which the target has exported its snapshot then: what that does not see was changed since.
    pub snapshot: String,
}

/// The snapshot that the source has pinned.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Pinned {
    /// The name under which the source has exported it.
    pub snapshot: String,
    /// How far it contains each node's transactions, the source's own included.
    pub vector: BTreeMap<String, OriginLsn>,
    /// Tells this pin from a later one.
    #[serde(default)]
    pub pin: String,
    /// When it was taken, by the source's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// Everything that anybody may still deliver to the target was committed later than this, by its author's clock.
    /// None: no such time is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub horizon: Option<Timestamp>,
}

impl Pinned {
    /// Whether a version of a row with this commit time may be later than one that is still delivered.
    pub fn is_young(&self, committed_at: Timestamp) -> bool {
        self.horizon.is_none_or(|horizon| committed_at >= horizon)
    }

    /// The commit time for rows that are older than all that is still delivered, or of unknown age.
    pub fn old_time(&self) -> Timestamp {
        // Zero would mean now.
        self.horizon.unwrap_or(Timestamp(1))
    }

    /// Whether it looks like what a source answers. It is kept in the journal, and its positions become those of tables: the
    /// infinite one would leave a table alone for ever.
    pub fn is_sound(&self) -> bool {
        let is_hex = |text: &str, most: usize| {
            (1..=most).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
        };
        is_hex(&self.snapshot, 64)
            && is_hex(&self.pin, 32)
            && self.vector.len() <= MOST_NODES
            && self.vector.iter().all(|(node, at)| (1..=NAME_BYTES).contains(&node.len()) && *at < OriginLsn::INFINITY)
    }
}

/// The most nodes in a vector: far more than a mesh has.
const MOST_NODES: usize = 1_000;
/// A node's name is a `name`.
const NAME_BYTES: usize = 63;

/// A slot that is made on a node for the time of the rebuild, and holds what the target is to receive from there.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HeldSlot {
    pub subscription: u32,
    pub node: String,
    /// The name of the subscription's own slot.
    pub slot: String,
    /// The name of the slot that holds the WAL there until the rebuild is over.
    pub holder: String,
    /// Where the holder begins; None: it is about to be made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begins: Option<OriginLsn>,
    /// How far the tables had the node's changes when they were set apart; None: they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied: Option<OriginLsn>,
}

/// What has become of a table.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TablePhase {
    Waiting,
    /// It is being copied, and incomplete until that has ended.
    Copying,
    Ready,
}

impl TablePhase {
    pub fn name(self) -> &'static str {
        match self {
            TablePhase::Waiting => "waiting",
            TablePhase::Copying => "copying",
            TablePhase::Ready => "ready",
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Table {
    pub oid: u32,
    pub schema: String,
    pub name: String,
    pub phase: TablePhase,
    /// How it was, or is being, brought to the snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<Method>,
    /// The pin that was there when users' writes to the table began to be refused: a later one is copied, which has
    /// everything that was written here before. None: there was none yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parked_under: Option<String>,
    #[serde(default)]
    pub rows: u64,
    #[serde(default)]
    pub differing: u64,
    #[serde(default)]
    pub bytes: u64,
}

impl Table {
    /// Its name as it is written in messages.
    pub fn shown(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }
}

/// How far a rebuild has come.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Rebuild {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut: Option<Cut>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pinned: Option<Pinned>,
    /// How far every table that is ready has the failed node's transactions: the least of all pins that were used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_at: Option<OriginLsn>,
    /// Slots that take the place of those that were lost.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost_slots: Vec<HeldSlot>,
    /// Slots of subscriptions that go on with their other tables.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub set_apart: Vec<HeldSlot>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<Table>,
}

impl Rebuild {
    pub fn table(&mut self, oid: u32) -> Option<&mut Table> {
        self.tables.iter_mut().find(|table| table.oid == oid)
    }

    /// The subscriptions that go on with their other tables while these are rebuilt.
    pub fn going_on(&self) -> BTreeSet<u32> {
        self.set_apart.iter().filter(|held| held.applied.is_some()).map(|held| held.subscription).collect()
    }

    /// Whether a subscription may run between two attempts: apply would leave out what comes for a table that is being
    /// copied, for good.
    pub fn may_run(&self, subscription: u32) -> bool {
        let is_copied = self.tables.iter().any(|table| table.phase == TablePhase::Copying);
        !is_copied || self.going_on().contains(&subscription)
    }

    /// Whether a table may still be compared, which takes the target's own snapshot as well. What is copied does without it:
    /// a copy that was interrupted by the target's restart goes on under the same pin.
    pub fn may_compare(&self) -> bool {
        self.tables.iter().any(|table| table.phase == TablePhase::Waiting)
    }

    /// Whether the pin still serves: nothing that the target has applied by now is missing in it.
    pub fn serves(&self, applied: &BTreeMap<String, OriginLsn>) -> bool {
        let Some(pinned) = &self.pinned else { return false };
        let is_too_old = |table: &Table| {
            table.phase == TablePhase::Copying && table.parked_under.as_deref() == Some(pinned.pin.as_str())
        };
        if self.tables.iter().any(is_too_old) {
            return false;
        }
        self.cut.is_some() && applied.iter().all(|(node, at)| pinned.vector.get(node).is_some_and(|has| has >= at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vector(entries: &[(&str, u64)]) -> BTreeMap<String, OriginLsn> {
        entries.iter().map(|(node, at)| ((*node).to_owned(), OriginLsn(*at))).collect()
    }

    #[test]
    fn a_pin_serves_as_long_as_it_has_all_that_the_target_has_applied() {
        let mut rebuild = Rebuild {
            cut: Some(Cut { end: LocalLsn(5), snapshot: "3:3:".to_owned() }),
            pinned: Some(Pinned {
                snapshot: "0-1-1".to_owned(),
                vector: vector(&[("n1", 10), ("n3", 20)]),
                pin: "p".to_owned(),
                at: None,
                horizon: None,
            }),
            ..Rebuild::default()
        };
        assert!(rebuild.serves(&vector(&[])));
        assert!(rebuild.serves(&vector(&[("n1", 10), ("n3", 19)])));
        assert!(!rebuild.serves(&vector(&[("n1", 11)])));
        assert!(!rebuild.serves(&vector(&[("n4", 1)])));
        // A table whose writes were refused only later must be copied from a later one.
        let parked = |under: Option<&str>| Table {
            oid: 1,
            schema: "public".to_owned(),
            name: "t".to_owned(),
            phase: TablePhase::Copying,
            method: Some(Method::Copy),
            parked_under: under.map(str::to_owned),
            rows: 0,
            differing: 0,
            bytes: 0,
        };
        for (under, expected) in [(None, true), (Some("o"), true), (Some("p"), false)] {
            rebuild.tables = vec![parked(under)];
            assert_eq!(rebuild.serves(&vector(&[])), expected, "{under:?}");
        }
        rebuild.tables.clear();
        rebuild.cut = None;
        assert!(!rebuild.serves(&vector(&[])));
    }

    #[test]
    fn a_row_is_young_unless_everything_that_may_come_is_later() {
        let pinned = |horizon| Pinned {
            snapshot: String::new(),
            vector: BTreeMap::new(),
            pin: String::new(),
            at: Some(Timestamp(9)),
            horizon,
        };
        let known = pinned(Some(Timestamp(5)));
        assert_eq!([4, 5, 6].map(|at| known.is_young(Timestamp(at))), [false, true, true]);
        assert_eq!(known.old_time(), Timestamp(5));
        let unknown = pinned(None);
        assert!(unknown.is_young(Timestamp(-4)));
        assert!(!unknown.old_time().is_never());
    }

    #[test]
    fn a_pin_that_no_source_answers_is_not_sound() {
        let sound = Pinned {
            snapshot: "00000003-0000001B-1".to_owned(),
            vector: vector(&[("n1", 10)]),
            pin: "0123456789abcdef".to_owned(),
            at: None,
            horizon: None,
        };
        assert!(sound.is_sound());
        let wrong: [fn(&mut Pinned); 6] = [
            |pin| pin.snapshot = "../../base".to_owned(),
            |pin| pin.snapshot.clear(),
            |pin| pin.pin = "a".repeat(33),
            |pin| pin.vector.extend([("n2".to_owned(), OriginLsn::INFINITY)]),
            |pin| pin.vector.extend([("n".repeat(64), OriginLsn(1))]),
            |pin| pin.vector.extend((0..=MOST_NODES).map(|node| (node.to_string(), OriginLsn(1)))),
        ];
        for change in wrong {
            let mut pin = sound.clone();
            change(&mut pin);
            assert!(!pin.is_sound(), "{:?}", pin.snapshot);
        }
    }

    #[test]
    fn a_method_is_found_by_its_name() {
        for method in [Method::Auto, Method::Compare, Method::Copy] {
            assert_eq!(Method::of_name(method.name()), Some(method));
        }
        assert_eq!(Method::of_name("dump"), None);
    }
}
