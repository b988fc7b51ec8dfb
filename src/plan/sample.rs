//! Facts of a small cluster for tests: n1 has failed, n2 has applied up to 20, n3 up to 90, and every condition holds.

use super::facts::*;
use crate::lsn::OriginLsn;
use std::collections::{BTreeMap, BTreeSet};

pub fn limit(setting: &str) -> Limit {
    Limit { setting: setting.to_owned(), used: 3, limit: 10 }
}

pub fn table(name: &str) -> TableFacts {
    TableFacts {
        schema: "public".to_owned(),
        name: name.to_owned(),
        state: "r".to_owned(),
        copied: None,
        triggers: Vec::new(),
        is_readable: true,
    }
}

/// A survivor that has applied the failed node up to the given position.
pub fn node(name: &str, applied: u64) -> NodeFacts {
    let subscription = SubscriptionFacts {
        subscription: 100,
        name: format!("sub_{name}_n1"),
        origin_id: 7,
        origin_is_active: true,
        publications: vec!["mesh".to_owned(), "more".to_owned()],
        applied: Some(OriginLsn(applied)),
        tables_digest: 5,
        tables: vec![table("a"), table("b")],
        ..SubscriptionFacts::default()
    };
    NodeFacts {
        version: VERSION,
        node: name.to_owned(),
        extension: "1.0".to_owned(),
        protocol: crate::protocol::OURS,
        slot: SlotFacts {
            is_enabled: true,
            name: Some("spk_recovery_db".to_owned()),
            state: SlotState::Usable,
            is_covered: true,
            generation: 1,
            released: vec![ReleasedFacts {
                subscription: subscription.subscription,
                origin_id: subscription.origin_id,
                tables_digest: subscription.tables_digest,
                released: OriginLsn(10),
            }],
            unprotected: Vec::new(),
        },
        subscriptions: vec![subscription],
        others: BTreeMap::new(),
        unknown_origins: Vec::new(),
        failed_answers: false,
        peers: ["n2", "n3", "n4"]
            .iter()
            .filter(|peer| **peer != name)
            .map(|peer| PeerFacts { node: (*peer).to_owned(), state: "connected".to_owned(), is_unreachable: false })
            .collect(),
        askers: Vec::new(),
        settings: SettingsFacts {
            wal_level: "logical".to_owned(),
            track_commit_timestamp: true,
            output_plugin_libraries: Some("pgoutput, spock_recovery".to_owned()),
        },
        capacity: CapacityFacts {
            slots: limit("max_replication_slots"),
            walsenders: limit("max_wal_senders"),
            workers: limit("max_worker_processes"),
            origins: limit("max_active_replication_origins"),
        },
        recoveries: Vec::new(),
        recovered: BTreeSet::new(),
        table_bytes: None,
        asked_by: AskerFacts { role: "postgres".to_owned(), is_superuser: true, may_replicate: true },
    }
}
