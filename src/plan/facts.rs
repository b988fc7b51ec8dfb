//! What a node says of itself and of a failed node: all that a plan needs to know of it (pure).
//!
//! It travels as JSON between nodes, by recovery_facts(). It holds no connection string and no row value.

use crate::lsn::OriginLsn;
use crate::protocol;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// A later one is of nodes whose answers this library cannot judge. Fields that may be ignored, as a newer library adds them, are
/// no new version; what an older library does not tell has a default.
pub const VERSION: u32 = 1;

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeFacts {
    pub version: u32,
    pub node: String,
    /// The extension's.
    pub extension: String,
    /// Version 0.1.0 does not tell.
    #[serde(default = "untold_protocol")]
    pub protocol: u32,
    /// Those that come from the failed node.
    pub subscriptions: Vec<SubscriptionFacts>,
    /// How far it has applied each other node.
    pub others: BTreeMap<String, OtherFacts>,
    /// Subscriptions of which nobody knows where they come from: any of them may come from the failed node.
    pub unknown_origins: Vec<String>,
    pub slot: SlotFacts,
    /// The failed node answers to this node's poller.
    pub failed_answers: bool,
    /// How this node's pollers find the others.
    pub peers: Vec<PeerFacts>,
    /// Nodes that have asked it lately, and that it does not know.
    #[serde(default)]
    pub askers: Vec<String>,
    pub settings: SettingsFacts,
    pub capacity: CapacityFacts,
    /// Unfinished recoveries of which it is the target.
    pub recoveries: Vec<RecoveryFacts>,
    /// The nodes of whose loss it was recovered, as far as it remembers: until then it lacked rows, and has skipped what others did
    /// to them.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub recovered: BTreeSet<String>,
    pub asked_by: AskerFacts,
}

fn untold_protocol() -> u32 {
    protocol::UNTOLD
}

/// How far a node is with another one than the failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct OtherFacts {
    pub applied: OriginLsn,
    pub passed: OriginLsn,
    /// Something may still come.
    pub is_enabled: bool,
}

/// A subscription to the failed node.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SubscriptionFacts {
    pub subscription: u32,
    pub name: String,
    /// 0: the replication origin is gone.
    pub origin_id: u16,
    /// Its progress is in memory, and takes no further place there.
    pub origin_is_active: bool,
    pub publications: Vec<String>,
    /// Durable. None: unknown.
    pub applied: Option<OriginLsn>,
    /// Of one that has applied nothing yet: up to here nothing was for it. None: unknown, or it has applied something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begins: Option<OriginLsn>,
    /// How far its slot at the failed node was confirmed, by this node's own reading; durable.
    pub confirmed: Option<OriginLsn>,
    /// When the last transaction of it was committed, as far as commit timestamps tell; microseconds since 2000.
    pub committed_at: Option<i64>,
    /// A worker of it has received something from the failed node, and is still there.
    pub is_attached: bool,
    /// A worker of it is applying.
    pub is_applying: bool,
    /// What ALTER SUBSCRIPTION SKIP has asked for and was not met yet.
    pub pending_skip: Option<OriginLsn>,
    /// The catalog shows that a transaction was skipped.
    pub has_skipped: bool,
    pub apply_errors: i64,
    /// Digest of the tables and their states, as in the retention record.
    pub tables_digest: i64,
    pub tables: Vec<TableFacts>,
    /// Tables that have left it, and whose changes the recovery slot still keeps.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gone: Vec<GoneFacts>,
    /// Transactions that are prepared and not yet committed, by their gid.
    pub prepared: Vec<String>,
}

impl SubscriptionFacts {
    /// How far this node is durably past the failed node's WAL.
    pub fn passed(&self) -> Option<OriginLsn> {
        self.lacks_from().map(|from| from.max(self.confirmed.unwrap_or(OriginLsn::ZERO)))
    }

    /// Where what it lacks begins: how far it has applied, or, if it has applied nothing, where it began.
    pub fn lacks_from(&self) -> Option<OriginLsn> {
        self.applied.or(self.begins)
    }

    /// Up to where there are transactions that it has applied: 0/0 if it is known that there are none.
    pub fn has_up_to(&self) -> Option<OriginLsn> {
        self.applied.or(self.begins.map(|_| OriginLsn::ZERO))
    }

    pub fn table(&self, schema: &str, name: &str) -> Option<&TableFacts> {
        self.tables.iter().find(|table| table.schema == schema && table.name == name)
    }

    /// A table of that name that has left it.
    pub fn gone(&self, schema: &str, name: &str) -> Option<&GoneFacts> {
        self.gone.iter().find(|table| table.schema == schema && table.name == name)
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TableFacts {
    pub schema: String,
    pub name: String,
    /// pg_subscription_rel.srsubstate; `r`: ready.
    pub state: String,
    /// Rows up to here came with the initial copy.
    pub copied: Option<OriginLsn>,
    /// Triggers that fire when the failed node's changes are applied, those of its partitions included.
    pub triggers: Vec<String>,
    /// The asking role may read it.
    pub is_readable: bool,
}

/// A table that was dropped, or taken out of the subscription.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GoneFacts {
    pub oid: u32,
    pub schema: String,
    pub name: String,
    /// Rows up to here came with the initial copy.
    pub copied: Option<OriginLsn>,
}

impl TableFacts {
    pub fn is_ready(&self) -> bool {
        self.state == "r"
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
    /// It was created just now, and nothing is written down of it.
    NotInUse,
    Usable,
}

/// The recovery slot, and what the retention record says of the failed node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SlotFacts {
    pub is_enabled: bool,
    pub name: Option<String>,
    pub state: SlotState,
    /// It is not beyond the position that the record covers.
    pub is_covered: bool,
    pub generation: u64,
    pub released: Vec<ReleasedFacts>,
    /// Peers that were given up for the retention budget.
    pub unprotected: Vec<String>,
}

impl SlotFacts {
    /// What was recorded for this very subscription, replication origin and state of tables.
    pub fn record_for(&self, subscription: &SubscriptionFacts) -> Option<&ReleasedFacts> {
        self.released.iter().find(|record| {
            record.subscription == subscription.subscription
                && record.origin_id == subscription.origin_id
                && record.tables_digest == subscription.tables_digest
        })
    }

    /// Up to where the slot may have let go. None: unknown.
    pub fn released_for(&self, subscription: &SubscriptionFacts) -> Option<OriginLsn> {
        self.record_for(subscription).map(|record| record.released).filter(|released| *released != OriginLsn::INFINITY)
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReleasedFacts {
    pub subscription: u32,
    pub origin_id: u16,
    pub tables_digest: i64,
    /// Infinite: everything may have been let go.
    pub released: OriginLsn,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PeerFacts {
    pub node: String,
    /// As peer_status() shows it.
    pub state: String,
    /// It has been asked, in vain.
    pub is_unreachable: bool,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SettingsFacts {
    pub wal_level: String,
    pub track_commit_timestamp: bool,
    /// None: the server does not know the setting, and refuses no plugin.
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

/// The role that has asked.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct AskerFacts {
    pub role: String,
    pub is_superuser: bool,
    /// It may stream.
    pub may_replicate: bool,
}

impl NodeFacts {
    /// The document of another node. Err: it has another version, or is none.
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

    /// The unfinished recovery from the loss of that node, if there is one.
    pub fn recovery_of(&self, failed: &str) -> Option<&RecoveryFacts> {
        self.recoveries.iter().find(|recovery| recovery.failed == failed)
    }

    /// Up to where the one subscription to the failed node has applied; 0/0: nothing.
    pub fn has_up_to(&self) -> Option<OriginLsn> {
        self.only_subscription().and_then(SubscriptionFacts::has_up_to)
    }

    /// Where what the one subscription to the failed node lacks begins.
    pub fn lacks_from(&self) -> Option<OriginLsn> {
        self.only_subscription().and_then(SubscriptionFacts::lacks_from)
    }

    /// Whether it lacks something that another survivor has, which has applied up to `most`.
    pub fn lacks_of(&self, most: OriginLsn) -> bool {
        self.lacks_from().is_none_or(|from| from < most)
    }
}
