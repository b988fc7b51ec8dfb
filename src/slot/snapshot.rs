//! What the manager and the pollers have found out, copied from shared memory for the status functions. These answer
//! from the copy, whatever the peers are doing.

use super::error::SlotError;
use crate::error::raise;
use crate::guc;
use crate::lsn::OriginLsn;
use crate::node::servers::NodeServer;
use crate::pg::clock::Timestamp;
use crate::pg::slot::{self, Slot};
use crate::pg::{process, role, wal};
use crate::shmem::{self, OriginEntry, PeerEntry, PeerKey, PositionEntry, SlotEntry};
use pgrx::pg_sys;

/// The entries of this database in shared memory.
pub struct Snapshot {
    pub slot: SlotEntry,
    pub peers: Vec<(PeerEntry, Vec<PositionEntry>)>,
    pub origins: Vec<OriginEntry>,
}

impl Snapshot {
    /// The confirmed position of a subscription's slot at its provider, as the poller has read it; 0/0: unknown.
    pub fn confirmed_of(&self, subscription: pg_sys::Oid) -> OriginLsn {
        let mut read = self.peers.iter().flat_map(|(peer, _)| peer.own_confirmed);
        read.find(|(read, _)| *read == subscription).map_or(OriginLsn::ZERO, |(_, confirmed)| confirmed)
    }

    /// When the last transaction that this server applied from a subscription was committed, as far as commit
    /// timestamps tell.
    pub fn committed_of(&self, subscription: pg_sys::Oid) -> Timestamp {
        let origin = self.origins.iter().find(|origin| origin.subscription == subscription);
        origin.map_or(Timestamp::NEVER, |origin| origin.committed_at)
    }
}

/// Copies the entries; None if this database has none.
pub fn snapshot() -> Option<Snapshot> {
    let mut shared = shmem::lock();
    let index = shared.index_of(process::my_database())?;
    let entries: Vec<PeerEntry> = shared.peers(index).to_vec();
    let peers = entries
        .into_iter()
        .enumerate()
        .filter(|(_, peer)| peer.key != PeerKey::None)
        .map(|(place, peer)| {
            let positions = shared.positions(index, place).iter();
            (peer, positions.filter(|position| position.origin != pg_sys::InvalidOid).copied().collect())
        })
        .collect();
    let origins = shared.origins(index).iter().filter(|origin| origin.node != pg_sys::InvalidOid).copied().collect();
    Some(Snapshot { slot: shared.databases()[index].slot, peers, origins })
}

/// Raises an ERROR if the caller may not read positions.
pub fn require_reader(function: &'static str) {
    if !role::may_read_positions() {
        raise(&SlotError::NotPrivileged { function });
    }
}

/// The name of the peer that holds the slot.
pub fn blocking_peer(snapshot: &Snapshot, servers: &[NodeServer]) -> Option<String> {
    let node = snapshot.slot.blocked_by;
    servers.iter().find(|server| server.id == node).map(|server| server.name.to_string())
}

/// The names of the peers that were given up because of the retention budget.
pub fn unprotected_peers(snapshot: &Snapshot, servers: &[NodeServer]) -> Vec<String> {
    let is_given_up = |server: &&NodeServer| {
        snapshot.peers.iter().any(|(peer, _)| peer.is_unprotected && peer.key == PeerKey::Node(server.id))
    };
    servers.iter().filter(is_given_up).map(|server| server.name.to_string()).collect()
}

/// The amount of WAL that the slot keeps, in bytes.
pub fn retained_bytes(found: &Slot) -> u64 {
    wal::flushed().bytes_since(found.restart)
}

/// The amount of WAL that the slot may keep, in bytes: spock.recovery_slot_max_wal, else max_slot_wal_keep_size; None:
/// no limit.
pub fn budget_bytes() -> Option<u64> {
    guc::recovery_slot_max_wal().or_else(slot::max_slot_wal_keep_bytes)
}
