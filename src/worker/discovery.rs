//! The manager's part in finding out which node each subscription receives from, and which server and database each
//! peer is. Any server can claim any node name. So a name is believed only if a superuser's subscription leads to it,
//! and a peer is bound to the database that has answered under its name first.

use super::skips::Skips;
use crate::document::Stored;
use crate::identity::DatabaseIdentity;
use crate::node::error::RegistryError;
use crate::node::label::{SetBy, SubscriptionLabel};
use crate::node::native::{self, NativeProvider};
use crate::node::provider::{Origin, ReplicationProvider, Subscription};
use crate::node::servers::{self, NodeServer, Role};
use crate::node::{labelling, registry};
use crate::node_name::NodeName;
use crate::pg::prepared;
use crate::pg::seclabel::{self, LabelTarget};
use crate::shmem::{PeerEntry, PeerKey, PeerState};
use crate::slot::documents;
use pgrx::Spi;
use pgrx::pg_sys::Oid;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// The shortest time between two changes of the node that a subscription is said to come from: a provider that claims
/// another name every second must not cause a write to the catalogs every second.
const RENAME_INTERVAL: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub struct Discovery {
    /// When a subscription was last found to come from another node than before.
    followed: HashMap<Oid, Instant>,
}

/// What a peer or a provider has answered about itself.
struct Said {
    name: NodeName,
    identity: DatabaseIdentity,
}

fn said(entry: &PeerEntry) -> Option<Said> {
    Some(Said { name: NodeName::parse(entry.node_name.as_str()).ok()?, identity: entry.said? })
}

impl Discovery {
    /// Records in the catalogs what the pollers have found out. What fails for one object is noted in `skips`.
    pub fn look(
        &mut self,
        local: &NodeServer,
        servers: &[NodeServer],
        peers: &[PeerEntry],
        skips: &mut Skips,
    ) -> Result<(), RegistryError> {
        let subscriptions = NativeProvider.subscriptions()?;
        for subscription in subscriptions.iter().filter(|known| known.is_trusted && known.origin.node().is_some()) {
            let what = || format!("subscription \"{}\"", subscription.name);
            skips.each(what, || labelling::note_connection(subscription));
        }
        self.followed.retain(|id, _| subscriptions.iter().any(|subscription| subscription.id == *id));
        for entry in peers {
            let Some(said) = said(entry) else { continue };
            match entry.key {
                PeerKey::Node(id) => {
                    let Some(peer) = servers.iter().find(|server| server.id == id) else { continue };
                    let what = || format!("peer \"{}\"", peer.name);
                    if entry.state == PeerState::Connected && peer.bound.is_none() && said.name == peer.name {
                        skips.each(what, || registry::bind_peer(&peer.name, said.identity));
                    } else if entry.state == PeerState::OtherNode {
                        skips.each(what, || self.follow(local, servers, peer, &subscriptions, &said));
                    }
                }
                PeerKey::Subscription(id) if entry.state == PeerState::Connected => {
                    let is_waiting = |candidate: &&Subscription| {
                        candidate.id == id && candidate.origin == Origin::Unknown && candidate.is_trusted
                    };
                    if let Some(subscription) = subscriptions.iter().find(is_waiting) {
                        let what = || format!("subscription \"{}\"", subscription.name);
                        skips.each(what, || label(local, servers, subscription, &said));
                    }
                }
                PeerKey::Subscription(_) | PeerKey::None => (),
            }
        }
        Ok(())
    }

    /// Deals with a peer that is reached by subscriptions alone and answers under another name. Its subscriptions
    /// follow to that name where no stranger can gain by it: if a superuser's subscription leads to a node that is
    /// known, or if the peer was renamed.
    fn follow(
        &mut self,
        local: &NodeServer,
        servers: &[NodeServer],
        peer: &NodeServer,
        subscriptions: &[Subscription],
        said: &Said,
    ) -> Result<(), RegistryError> {
        // A connection string of the peer's own is the administrator's statement; only what was discovered is
        // discovered anew.
        if said.name == local.name || native::dsn_of_server(peer.id)?.is_some() {
            return Ok(());
        }
        let known = servers.iter().find(|server| server.name == said.name);
        let is_renamed = known.is_none() && peer.bound.is_none_or(|bound| bound == said.identity);
        let leads_to_known = known.is_some_and(|known| is_that_one(known, said));
        if !is_renamed && !leads_to_known {
            return Ok(());
        }
        let (coming, others): (Vec<_>, Vec<_>) = subscriptions
            .iter()
            .filter(|subscription| subscription.origin.node() == Some(&peer.name))
            .partition(|subscription| subscription.is_trusted && is_discovered(subscription));
        let is_due = |subscription: &&Subscription| {
            self.followed.get(&subscription.id).is_none_or(|at| at.elapsed() >= RENAME_INTERVAL)
        };
        if coming.is_empty() || !coming.iter().all(is_due) {
            return Ok(());
        }
        // The old peer is dropped when all of its subscriptions have followed. A subscription whose label cannot be
        // read may be one of them.
        documents::require_readable()?;
        if is_renamed {
            registry::create_discovered_peer(&said.name, said.identity)?;
        }
        for subscription in &coming {
            labelling::write_label(subscription.id, Some(&said.name), SetBy::Discovery)?;
            self.followed.insert(subscription.id, Instant::now());
            pgrx::log!(
                "subscription \"{}\" comes from node \"{}\" now, and not from node \"{}\" any more",
                subscription.name,
                said.name,
                peer.name
            );
        }
        if is_renamed && others.is_empty() {
            // What the node may lack is kept for it under its new name, whose progress is unknown until it has
            // answered.
            registry::drop_renamed_peer(peer)?;
        }
        Ok(())
    }
}

fn is_discovered(subscription: &Subscription) -> bool {
    matches!(subscription.origin, Origin::Node(_, SetBy::Discovery))
}

/// Whether the database that has answered may be the node that is known by that name.
fn is_that_one(known: &NodeServer, said: &Said) -> bool {
    known.role == Role::Peer && known.bound.is_none_or(|bound| bound == said.identity)
}

/// Records which node a subscription comes from, and creates the peer if that node is new.
fn label(
    local: &NodeServer,
    servers: &[NodeServer],
    subscription: &Subscription,
    said: &Said,
) -> Result<(), RegistryError> {
    if said.name == local.name {
        // Two nodes of one name are reported by the health check, and nothing is recorded.
        return Ok(());
    }
    match servers.iter().find(|server| server.name == said.name) {
        Some(known) if !is_that_one(known, said) => return Ok(()),
        Some(_) => (),
        None => {
            match registry::create_discovered_peer(&said.name, said.identity) {
                // Another subscription has led to that node in this round: the next round compares the two.
                Err(RegistryError::DuplicateNode { .. }) => return Ok(()),
                created => created.map(|_| ())?,
            }
            pgrx::log!("node \"{}\" became known through subscription \"{}\"", said.name, subscription.name);
        }
    }
    labelling::write_label(subscription.id, Some(&said.name), SetBy::Discovery)
}

/// Removes the labels that dropped subscriptions of this database have left behind (DROP SUBSCRIPTION does not remove
/// them).
pub fn sweep_labels(skips: &mut Skips) -> Result<(), RegistryError> {
    let here = servers::here();
    let left_behind = Spi::connect(|client| {
        let rows = prepared::select(
            client,
            "SELECT l.objoid, l.label FROM pg_catalog.pg_shseclabel l
              WHERE l.classoid = 'pg_catalog.pg_subscription'::pg_catalog.regclass AND l.provider = 'spock_recovery'
                AND NOT EXISTS (SELECT FROM pg_catalog.pg_subscription s WHERE s.oid = l.objoid)",
            None,
            &[],
        )?;
        let mut found = Vec::new();
        for row in rows {
            if let (Some(subscription), Some(text)) = (row.get::<Oid>(1)?, row.get::<String>(2)?) {
                found.push((subscription, text));
            }
        }
        Ok::<_, pgrx::spi::Error>(found)
    })?;
    for (subscription, text) in left_behind {
        // Only labels that this database has written are removed: another database's manager removes its own.
        if matches!(SubscriptionLabel::read(Some(&text), here), Stored::Own(_)) {
            remove_label(subscription, || format!("the label of a dropped subscription (oid {subscription})"), skips);
        }
    }
    Ok(())
}

/// Removes everything of ours from this database's subscriptions after DROP EXTENSION, except for what cannot be read.
pub fn remove_labels(subscriptions: &[Subscription], skips: &mut Skips) {
    for subscription in subscriptions {
        let what = || format!("the label of subscription \"{}\"", subscription.name);
        if let Origin::Unreadable(error) = &subscription.origin {
            let unreadable = labelling::unreadable_label(&subscription.name, error.clone());
            skips.each(what, || Err::<(), _>(RegistryError::from(unreadable)));
        } else if seclabel::label(LabelTarget::Subscription(subscription.id)).is_some()
            && remove_label(subscription.id, what, skips)
        {
            pgrx::log!("removed the spock_recovery label of subscription \"{}\"", subscription.name);
        }
    }
}

fn remove_label(subscription: Oid, what: impl FnOnce() -> String, skips: &mut Skips) -> bool {
    let removed = skips.each(what, || {
        seclabel::set_label(LabelTarget::Subscription(subscription), None);
        Ok::<_, RegistryError>(())
    });
    removed.is_some()
}
