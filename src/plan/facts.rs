//! Facts: what a node reports about itself and about a failed node, which is all that a plan needs (pure).
//!
//! recovery_facts() passes them between nodes as JSON. They contain no connection string and no row value.

use crate::lsn::OriginLsn;
use crate::pg::clock::Timestamp;
use crate::protocol;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The version of the facts. This library cannot judge facts of a later version. Fields that may be ignored can be
/// added without a new version, and fields that an older library does not send have a default.
pub const VERSION: u32 = 1;

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeFacts {
    pub version: u32,
    pub node: String,
    /// The version of the extension.
    pub extension: String,
    /// Version 0.1.0 does not report its protocol.
    #[serde(default = "untold_protocol")]
    pub protocol: u32,
    /// The subscriptions that come from the failed node.
    pub subscriptions: Vec<SubscriptionFacts>,
    /// How far this node has applied each other node.
    pub others: BTreeMap<String, OtherFacts>,
    /// Subscriptions of unknown origin, each of which may come from the failed node.
    pub unknown_origins: Vec<String>,
    pub slot: SlotFacts,
    /// Whether the failed node answers this node's poller.
    pub failed_answers: bool,
    /// The peers, as this node's pollers see them.
    pub peers: Vec<PeerFacts>,
    /// Nodes that have asked this node recently and that it does not know.
    #[serde(default)]
    pub askers: Vec<String>,
    pub settings: SettingsFacts,
    pub capacity: CapacityFacts,
    /// Unfinished recoveries whose target is this node.
    pub recoveries: Vec<RecoveryFacts>,
    /// The failed nodes from whose loss this node has been recovered, as far as it has recorded that. Before such a
    /// recovery it lacked rows, and has skipped other nodes' changes to them.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub recovered: BTreeSet<String>,
    /// The size of the tables that this node receives, without their indexes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table_bytes: Option<u64>,
    pub asked_by: AskerFacts,
}

fn untold_protocol() -> u32 {
    protocol::UNTOLD
}

/// How far a node has applied another node than the failed one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct OtherFacts {
    pub applied: OriginLsn,
    pub passed: OriginLsn,
    /// Whether the subscription is enabled, so that more may arrive.
    pub is_enabled: bool,
}

/// A subscription to the failed node.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SubscriptionFacts {
    pub subscription: u32,
    pub name: String,
    /// 0: the replication origin does not exist any more.
    pub origin_id: u16,
    /// Whether the origin's progress is already in shared memory, so that a rescue needs no further place there.
    pub origin_is_active: bool,
    pub publications: Vec<String>,
    /// Durable. None: unknown.
    pub applied: Option<OriginLsn>,
    /// If nothing was applied yet: the position up to which the failed node had nothing for this subscription. None if
    /// that is unknown, or if something was applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begins: Option<OriginLsn>,
    /// How far the subscription's slot on the failed node was confirmed, as this node has read there; durable.
    pub confirmed: Option<OriginLsn>,
    /// When the last applied transaction was committed, if commit timestamps tell.
    pub committed_at: Option<Timestamp>,
    /// Whether a worker of this subscription has received something from the failed node and is still running.
    pub is_attached: bool,
    /// Whether a worker of this subscription is applying a transaction.
    pub is_applying: bool,
    /// The position that ALTER SUBSCRIPTION … SKIP has set and that was not reached yet.
    pub pending_skip: Option<OriginLsn>,
    /// Whether the catalog shows that a transaction was skipped.
    pub has_skipped: bool,
    pub apply_errors: i64,
    /// A digest of the tables and their states, as in the retention record.
    pub tables_digest: i64,
    pub tables: Vec<TableFacts>,
    /// Tables that have left the subscription, and whose changes the recovery slot still keeps.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gone: Vec<GoneFacts>,
    /// The gids of transactions that are prepared and not committed yet.
    pub prepared: Vec<String>,
}

impl SubscriptionFacts {
    /// How far this node is durably past the failed node's WAL.
    pub fn passed(&self) -> Option<OriginLsn> {
        self.lacks_from().map(|from| from.max(self.confirmed.unwrap_or(OriginLsn::ZERO)))
    }

    /// The position after which the node may lack transactions: how far it has applied, or, if it has applied nothing,
    /// where it began.
    pub fn lacks_from(&self) -> Option<OriginLsn> {
        self.applied.or(self.begins)
    }

    /// The position up to which the node has applied transactions; 0/0 if it is known that there are none.
    pub fn has_up_to(&self) -> Option<OriginLsn> {
        self.applied.or(self.begins.map(|_| OriginLsn::ZERO))
    }

    pub fn table(&self, schema: &str, name: &str) -> Option<&TableFacts> {
        self.tables.iter().find(|table| table.schema == schema && table.name == name)
    }

    /// The table of that name that has left the subscription.
    pub fn gone(&self, schema: &str, name: &str) -> Option<&GoneFacts> {
        self.gone.iter().find(|table| table.schema == schema && table.name == name)
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TableFacts {
    pub schema: String,
    pub name: String,
    /// pg_subscription_rel.srsubstate; `r` is ready. With `s` everything up to `copied` is there, and apply leaves out
    /// what lies below: after an initial copy, or a rebuild.
    pub state: String,
    /// The position up to which rows came with the initial copy.
    pub copied: Option<OriginLsn>,
    /// Triggers that fire when the failed node's changes are applied, including those of partitions.
    pub triggers: Vec<String>,
    /// Whether the role that asks may read the table.
    pub is_readable: bool,
}

/// A table that was dropped or removed from the subscription.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GoneFacts {
    pub oid: u32,
    pub schema: String,
    pub name: String,
    /// The position up to which rows came with the initial copy.
    pub copied: Option<OriginLsn>,
}

impl TableFacts {
    pub fn is_ready(&self) -> bool {
        self.state == "r" || self.state == "s" && !self.is_incomplete()
    }

    /// Whether it lacks rows, because a copy of it is under way or was ended before it was complete: apply leaves it
    /// alone (src/node/incomplete.rs).
    pub fn is_incomplete(&self) -> bool {
        self.state == "s" && self.copied == Some(OriginLsn::INFINITY)
    }

    pub fn full_name(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SlotState {
    Missing,
    BeingCreated,
    Invalid,
    /// It has just been created, and the retention record does not cover it yet.
    NotInUse,
    Usable,
}

/// The recovery slot, and what the retention record says about the failed node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SlotFacts {
    pub is_enabled: bool,
    pub name: Option<String>,
    pub state: SlotState,
    /// Whether the slot is not beyond the position that the retention record covers.
    pub is_covered: bool,
    pub generation: u64,
    pub released: Vec<ReleasedFacts>,
    /// Peers that were given up because of the retention budget.
    pub unprotected: Vec<String>,
}

impl SlotFacts {
    /// The record for exactly this subscription, replication origin and state of the tables.
    pub fn record_for(&self, subscription: &SubscriptionFacts) -> Option<&ReleasedFacts> {
        self.released.iter().find(|record| {
            record.subscription == subscription.subscription
                && record.origin_id == subscription.origin_id
                && record.tables_digest == subscription.tables_digest
        })
    }

    /// The position up to which the slot may have released transactions. None: unknown.
    pub fn released_for(&self, subscription: &SubscriptionFacts) -> Option<OriginLsn> {
        self.record_for(subscription).map(|record| record.released).filter(|released| *released != OriginLsn::INFINITY)
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReleasedFacts {
    pub subscription: u32,
    pub origin_id: u16,
    pub tables_digest: i64,
    /// [`OriginLsn::INFINITY`]: everything may have been released.
    pub released: OriginLsn,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PeerFacts {
    pub node: String,
    /// The state that peer_status() shows.
    pub state: String,
    /// Whether the peer was asked and did not answer.
    pub is_unreachable: bool,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SettingsFacts {
    pub wal_level: String,
    pub track_commit_timestamp: bool,
    /// None: the server does not have the setting, and accepts every output plugin.
    pub output_plugin_libraries: Option<String>,
}

/// A limit of the server, and how much of it is in use.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Limit {
    pub setting: String,
    pub used: i64,
    pub limit: i64,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CapacityFacts {
    pub slots: Limit,
    pub walsenders: Limit,
    pub workers: Limit,
    pub origins: Limit,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RecoveryFacts {
    pub intent: String,
    pub failed: String,
    pub source: String,
    pub phase: String,
}

/// The role that asks.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct AskerFacts {
    pub role: String,
    pub is_superuser: bool,
    /// Whether the role has REPLICATION or is a superuser.
    pub may_replicate: bool,
}

impl NodeFacts {
    /// Parses the facts of another node.
    ///
    /// # Errors
    /// The text is not valid, or has another version.
    pub fn parse(text: &str) -> Result<NodeFacts, String> {
        let facts: NodeFacts = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if facts.version != VERSION {
            return Err(format!("facts of version {}, not {VERSION}", facts.version));
        }
        Ok(facts)
    }

    /// The subscription to the failed node, if there is exactly one.
    pub fn only_subscription(&self) -> Option<&SubscriptionFacts> {
        match self.subscriptions.as_slice() {
            [one] => Some(one),
            _ => None,
        }
    }

    /// The unfinished recovery from the loss of the given node, if there is one.
    pub fn recovery_of(&self, failed: &str) -> Option<&RecoveryFacts> {
        self.recoveries.iter().find(|recovery| recovery.failed == failed)
    }

    /// The position up to which the only subscription to the failed node has applied; 0/0 for nothing.
    pub fn has_up_to(&self) -> Option<OriginLsn> {
        self.only_subscription().and_then(SubscriptionFacts::has_up_to)
    }

    /// The position after which the only subscription to the failed node may lack transactions.
    pub fn lacks_from(&self) -> Option<OriginLsn> {
        self.only_subscription().and_then(SubscriptionFacts::lacks_from)
    }

    /// Whether this node lacks something of another survivor, which has applied up to `most`.
    pub fn lacks_of(&self, most: OriginLsn) -> bool {
        self.lacks_from().is_none_or(|from| from < most)
    }
}
