//! The nodes that have asked this node and that it does not know.

use crate::identity::DatabaseIdentity;
use crate::node::servers::{self, NodeServer, Role};
use crate::pg::clock::Monotonic;
use crate::pg::process;
use crate::shmem::{self, ASKER_LIMIT, AskerEntry};

/// Whether the asking node is this node, or one of its peers.
pub(super) fn knows(servers: &[NodeServer], name: &str, identity: DatabaseIdentity) -> bool {
    servers.iter().any(|server| match server.role {
        Role::Peer => server.name.as_str() == name && server.bound.is_none_or(|bound| bound == identity),
        Role::Local => servers::here() == identity,
        Role::LocalElsewhere => false,
    })
}

/// The nodes that have asked lately and that this node does not know. Nodes that have become known since are left out.
pub fn strangers(servers: &[NodeServer]) -> Vec<AskerEntry> {
    let askers = {
        let mut shared = shmem::lock();
        let Some(index) = shared.index_of(process::my_database()) else { return Vec::new() };
        shared.databases()[index].askers
    };
    let now = Monotonic::now();
    let is_stranger = |asker: &AskerEntry| {
        !asker.asked_at.is_never()
            && now.since(asker.asked_at) < ASKER_LIMIT
            && asker.said.is_some_and(|said| !knows(servers, asker.name.as_str(), said))
    };
    let mut strangers: Vec<AskerEntry> = askers.into_iter().filter(is_stranger).collect();
    strangers.sort_by(|one, other| one.name.as_str().cmp(other.name.as_str()));
    strangers
}
