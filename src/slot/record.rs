//! The retention record: what the recovery slot may have let go, in the database's security label (pure).
//!
//! It is written before the slot moves, so it is never behind what the slot has really let go. A record that is missing or
//! comes from elsewhere proves nothing: everything may have been let go. With one that cannot be read nothing is done.

use crate::document::{self, Document, Stored};
use crate::identity::DatabaseIdentity;
use crate::lsn::{LocalLsn, OriginLsn};
use serde::{Deserialize, Serialize};

/// What is written down of one origin.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct OriginRecord {
    pub node: String,
    /// The subscription and the replication origin by which this server receives it. Ids are reused: another pair is
    /// another history.
    pub subscription: u32,
    pub origin_id: u16,
    /// Digest of the subscription's tables and their states.
    pub tables: i64,
    /// Tables that were added without copying by a transaction with a full id below this one are known: the origin's
    /// transactions beyond `released` hold their rows. None: written by a version that compared digests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tables_before: Option<u64>,
    /// The full transaction id that added the newest of them, for as long as an older transaction is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest_table: Option<u64>,
    /// Up to where the slot may have let the origin's transactions go.
    pub released: OriginLsn,
    /// Where the origin stood when the pair or a table changed: released is infinite until the stream is known to be
    /// unbroken from some position.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_beyond: Option<OriginLsn>,
    /// Microseconds since 2000: since when nothing can be vouched for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_since: Option<i64>,
    /// Up to here nothing was for this subscription, which had applied nothing by then: what it lacks begins here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begins: Option<OriginLsn>,
    /// The same as it was last read: this node is past it, whatever it has applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passed: Option<OriginLsn>,
    /// Tables that have left the subscription: what came for them before is still in the WAL that the slot keeps.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gone: Vec<GoneTable>,
}

/// A table that was dropped, or taken out of the subscription.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GoneTable {
    pub oid: u32,
    pub schema: String,
    pub name: String,
    /// Rows up to here came with the initial copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copied: Option<OriginLsn>,
    /// This server's WAL holds no change of it as a part of the subscription at or beyond this position.
    pub until: LocalLsn,
}

/// How far a peer has said that it has passed an origin.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PassedRecord {
    pub origin: String,
    pub subscription: u32,
    pub origin_id: u16,
    pub passed: OriginLsn,
}

/// What a peer has reported. It stays true after the peer has forgotten it, for the same server, timeline, subscription
/// and replication origin only.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PeerRecord {
    pub peer: String,
    pub system_identifier: u64,
    pub timeline: u32,
    /// It has a subscription of which it does not know the origin.
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
    /// Counts the slots that there were, from 1.
    pub generation: u64,
    /// The slot's name; it stays the same when the database is renamed.
    pub slot: String,
    /// The position of the slot that `origins` covers. None: the slot is about to be created.
    pub position: Option<LocalLsn>,
    pub origins: Vec<OriginRecord>,
    pub peers: Vec<PeerRecord>,
    /// Peers that were given up for the retention budget.
    pub unprotected: Vec<String>,
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

    /// What stands in the label of the database.
    pub fn read(text: Option<&str>, here: DatabaseIdentity) -> Stored<RetentionRecord> {
        document::read(text, here)
    }

    #[cfg(test)]
    pub fn to_text(&self) -> String {
        document::to_text(self)
    }

    /// By subscription: a node may have several to one other, each of which receives another part of its transactions.
    pub fn origin(&self, node: &str, subscription: u32) -> Option<&OriginRecord> {
        self.origins.iter().find(|origin| origin.node == node && origin.subscription == subscription)
    }

    /// By subscription and replication origin: ids are reused, and another pair is another history.
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
            waits_since: Some(9),
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
