//! The retention record, in the security label of the database: up to where the recovery slot may have released each
//! origin's transactions (pure).
//!
//! The record is written before the slot moves, so it is never behind what the slot has really released. If it is
//! missing, or was written for another database or server, it proves nothing, and every transaction may have been
//! released. If it cannot be read, nothing is done with the slot.

use crate::document::{self, Document, Stored};
use crate::identity::DatabaseIdentity;
use crate::lsn::{LocalLsn, OriginLsn};
use crate::pg::clock::Timestamp;
use serde::{Deserialize, Serialize};

/// What is recorded of one subscription to an origin.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct OriginRecord {
    pub node: String,
    /// The subscription by which this server receives the origin, and its replication origin. Ids are reused: another
    /// pair of them is another history.
    pub subscription: u32,
    pub origin_id: u16,
    /// Digest of the subscription's tables and their states.
    pub tables: i64,
    /// All tables that were added without copying by a transaction with a full id below this one are known: the
    /// origin's transactions beyond `released` include their rows. None: written by a version that compared digests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tables_before: Option<u64>,
    /// The full id of the transaction that added the newest such table, while an older transaction is still open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest_table: Option<u64>,
    /// The position of the origin up to which the slot may have released its transactions.
    pub released: OriginLsn,
    /// The progress of the replication origin when the pair or a table changed. While it is set, `released` is
    /// infinite; it is cleared when the stream is known to be unbroken from some position.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_beyond: Option<OriginLsn>,
    /// When `waits_beyond` was set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_since: Option<Timestamp>,
    /// Set if the subscription had applied nothing when this was read first: up to this position the origin held
    /// nothing for it. What the subscription lacks begins here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begins: Option<OriginLsn>,
    /// The same, as read last: this node has passed the origin up to here, whether it has applied anything or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passed: Option<OriginLsn>,
    /// Tables that have left the subscription. Their earlier changes are still in the WAL that the slot keeps.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gone: Vec<GoneTable>,
}

/// A table that was dropped, or taken out of the subscription.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GoneTable {
    pub oid: u32,
    pub schema: String,
    pub name: String,
    /// Rows up to this position came with the initial copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copied: Option<OriginLsn>,
    /// At or beyond this position, this server's WAL contains no change that the subscription brought for the table.
    pub until: LocalLsn,
}

/// How far a peer has reported that it has passed an origin.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PassedRecord {
    pub origin: String,
    pub subscription: u32,
    pub origin_id: u16,
    pub passed: OriginLsn,
}

/// What a peer has reported. It stays true after the peer itself has lost that knowledge, but only for the same server,
/// timeline, subscription and replication origin.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PeerRecord {
    pub peer: String,
    pub system_identifier: u64,
    pub timeline: u32,
    /// The peer has a subscription and does not know from which node it receives.
    pub has_unknown_origin: bool,
    pub passed: Vec<PassedRecord>,
}

impl PeerRecord {
    pub fn passed_of(&self, origin: &str) -> Option<&PassedRecord> {
        self.passed.iter().find(|passed| passed.origin == origin)
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RetentionRecord {
    version: u32,
    system_identifier: u64,
    database: u32,
    /// The number of the slot among all recovery slots that this database has had, from 1.
    pub generation: u64,
    /// The slot's name, which stays the same when the database is renamed.
    pub slot: String,
    /// While the slot stands at or before this position, `origins` is true. None: the slot is about to be created.
    pub position: Option<LocalLsn>,
    pub origins: Vec<OriginRecord>,
    pub peers: Vec<PeerRecord>,
    /// The names of the peers that were given up because of the retention budget.
    pub unprotected: Vec<String>,
}

impl OriginRecord {
    /// How far this node has recorded that it is past its provider's WAL while it had applied nothing of it.
    pub fn recorded_passed(&self) -> OriginLsn {
        self.passed.max(self.begins).unwrap_or(OriginLsn::ZERO)
    }
}

impl RetentionRecord {
    /// The record of a slot that is about to be created.
    pub fn before_creation(here: DatabaseIdentity, generation: u64, slot: String) -> RetentionRecord {
        RetentionRecord {
            version: RetentionRecord::VERSION,
            system_identifier: here.system_identifier,
            database: here.database,
            generation,
            slot,
            position: None,
            origins: Vec::new(),
            peers: Vec::new(),
            unprotected: Vec::new(),
        }
    }

    /// Reads the record from the text of the database's label.
    pub fn read(text: Option<&str>, here: DatabaseIdentity) -> Stored<RetentionRecord> {
        document::read(text, here)
    }

    #[cfg(test)]
    pub fn to_text(&self) -> String {
        document::to_text(self)
    }

    /// The record of one subscription to `node`. There may be several such subscriptions, each of which receives a part
    /// of that node's transactions.
    pub fn origin(&self, node: &str, subscription: u32) -> Option<&OriginRecord> {
        self.origins.iter().find(|origin| origin.node == node && origin.subscription == subscription)
    }

    /// The record of a subscription with this replication origin. Ids are reused: another pair of them is another
    /// history.
    pub fn of_pair(&self, subscription: u32, origin_id: u16) -> Option<&OriginRecord> {
        self.origins.iter().find(|origin| (origin.subscription, origin.origin_id) == (subscription, origin_id))
    }

    pub fn peer(&self, name: &str) -> Option<&PeerRecord> {
        self.peers.iter().find(|known| known.peer == name)
    }
}

impl Document for RetentionRecord {
    const VERSION: u32 = 1;
}

#[cfg(test)]
pub mod tests {
    use super::*;

    const HERE: DatabaseIdentity = DatabaseIdentity { system_identifier: 7, database: 5 };

    fn passed(subscription: u32, origin_id: u16, passed: u64) -> PassedRecord {
        PassedRecord { origin: "n1".to_owned(), subscription, origin_id, passed: OriginLsn(passed) }
    }

    pub fn record() -> RetentionRecord {
        let mut record = RetentionRecord::before_creation(HERE, 3, "spk_recovery_demo".to_owned());
        record.position = Some(LocalLsn(0x1_0000_0001));
        record.origins.push(OriginRecord {
            node: "n1".to_owned(),
            subscription: 16_400,
            origin_id: 1,
            tables: -5,
            tables_before: Some(800),
            newest_table: Some(801),
            released: OriginLsn::INFINITY,
            waits_beyond: Some(OriginLsn(77)),
            waits_since: Some(Timestamp(9)),
            begins: Some(OriginLsn(70)),
            passed: Some(OriginLsn(75)),
            gone: vec![GoneTable {
                oid: 16_500,
                schema: "public".to_owned(),
                name: "t".to_owned(),
                copied: None,
                until: LocalLsn(90),
            }],
        });
        record.peers.push(PeerRecord {
            peer: "n2".to_owned(),
            system_identifier: 8,
            timeline: 1,
            has_unknown_origin: false,
            passed: vec![passed(11, 2, 100)],
        });
        record
    }

    #[test]
    fn a_record_survives_being_written_and_read() {
        assert_eq!(RetentionRecord::read(Some(&record().to_text()), HERE), Stored::Own(record()));
    }

    #[test]
    fn a_record_of_elsewhere_is_inert_and_one_of_a_later_version_cannot_be_read() {
        let text = record().to_text();
        for elsewhere in [DatabaseIdentity { system_identifier: 8, ..HERE }, DatabaseIdentity { database: 6, ..HERE }] {
            assert_eq!(RetentionRecord::read(Some(&text), elsewhere), Stored::Foreign);
        }
        let later = text.replace("\"version\":1", "\"version\":2");
        assert!(matches!(RetentionRecord::read(Some(&later), HERE), Stored::Unreadable(_)));
        assert!(matches!(RetentionRecord::read(Some("{}"), HERE), Stored::Unreadable(_)));
        assert_eq!(RetentionRecord::read(None, HERE), Stored::Absent);
    }
}
