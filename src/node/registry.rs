//! Nodes as foreign servers of the wrapper `spock_node`, with connection strings as options of user mappings.
//!
//! The local node's foreign server carries the identity of the server and database in which it was created. That
//! identity does not match in a copy of the database, and the copy does nothing until node_create() is called there.

use super::dsn::Dsn;
use super::error::RegistryError;
use super::label::{SetBy, SubscriptionLabel};
use super::labelling::{set_label, unreadable_label, write_label};
use super::native::{self, NativeProvider};
use super::provider::{ReplicationProvider, Subscription};
use super::servers::{DSN, NodeServer, Role, WRAPPER, here, servers};
use crate::document::{Stored, Unreadable};
use crate::failpoint;
use crate::identity::DatabaseIdentity;
use crate::node_name::NodeName;
use crate::pg::foreign_server::{self, MappingFor, OptionAction};
use crate::pg::name::Name;
use crate::pg::seclabel::{self, LabelTarget};
use crate::pg::text;
use crate::pg::{prepared, process, subscription};
use crate::shmem::{self, PeerEntry, PeerKey, PeerState};
use pgrx::Spi;
use pgrx::pg_sys::Oid;
use std::ffi::{CStr, CString};

/// Makes this database a node. Returns the node's id.
///
/// # Errors
/// The user is not a superuser, the name or connection string is invalid or the name is taken, the database already is
/// a node, or it is a copy of another node.
pub fn create_local(name: &str, dsn: &CStr) -> Result<Oid, RegistryError> {
    require_superuser("node_create")?;
    foreign_server::lock_servers_of(WRAPPER);
    let name = NodeName::parse(name)?;
    let dsn = Dsn::parse(dsn)?;
    let servers = servers()?;
    if let Some(local) = servers.iter().find(|server| server.role == Role::Local) {
        return Err(RegistryError::SecondLocalNode { name: local.name.clone() });
    }
    let options = here().server_options();
    if let Some(copy) = servers.iter().find(|server| server.role == Role::LocalElsewhere) {
        if copy.name != name {
            return Err(RegistryError::CopyOfNode { name: copy.name.clone() });
        }
        let (server, options) = (text(name.as_str())?, c_options(&options)?);
        foreign_server::alter_server_options(&server, &borrowed(&options), OptionAction::Set);
        foreign_server::drop_mapping(&server, MappingFor::Public);
        foreign_server::create_mapping(&server, MappingFor::Public, &[(&text(DSN)?, dsn.as_c_str())]);
        adopt_labels(copy.identity)?;
        return Ok(copy.id);
    }
    create_server(&name, &options, Some(&dsn))
}

/// Adopts the labels of subscriptions from the node whose place this database takes, because a dead peer cannot be
/// asked for its name again. An unreadable label is an error: it would count as another database's from then on, and
/// could be overwritten.
fn adopt_labels(former: Option<DatabaseIdentity>) -> Result<(), RegistryError> {
    if let Some(unreadable) = unadoptable_labels(former)?.into_iter().next() {
        return Err(unreadable.into());
    }
    for subscription in NativeProvider.subscriptions()? {
        let Some(former) = former else { continue };
        let text = seclabel::label(LabelTarget::Subscription(subscription.id));
        if let Stored::Own(label) = SubscriptionLabel::read(text.as_deref(), former) {
            // If the owner is not a superuser, the label is valid only for the connection for which it was written.
            let connection = match subscription.is_trusted {
                true => subscription::connection_digest(subscription.id),
                false => label.connection,
            };
            set_label(subscription.id, &SubscriptionLabel { identity: here(), connection, ..label })?;
        }
    }
    Ok(())
}

/// The unreadable labels that come from the node of which this database is a copy. node_create() is refused while there
/// are any.
pub fn unadoptable_labels(former: Option<DatabaseIdentity>) -> Result<Vec<Unreadable>, RegistryError> {
    let Some(former) = former else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for subscription in NativeProvider.subscriptions()? {
        let text = seclabel::label(LabelTarget::Subscription(subscription.id));
        if let Stored::Unreadable(error) = SubscriptionLabel::read(text.as_deref(), former) {
            found.push(unreadable_label(&subscription.name, error));
        }
    }
    Ok(found)
}

/// The checks that layers above the registry make before a node is removed.
#[derive(Clone, Copy)]
pub struct Leave {
    /// An error if a document of this database cannot be read, because it may name the node.
    pub documents_are_readable: fn() -> Result<(), RegistryError>,
    /// An error if a recovery is unfinished here, or if kept rows cannot be read: only the journal, which is removed
    /// with the node, says where they are.
    pub nothing_is_unfinished: fn() -> Result<(), RegistryError>,
}

/// Makes a peer known to which no subscription leads. Returns the node's id.
///
/// # Errors
/// The user is not a superuser, the name or connection string is invalid or the name is taken, or a document is
/// unreadable whose peer would be replaced.
pub fn create_peer(name: &str, dsn: &CStr, leave: Leave) -> Result<Oid, RegistryError> {
    require_superuser("peer_create")?;
    foreign_server::lock_servers_of(WRAPPER);
    let name = NodeName::parse(name)?;
    let dsn = Dsn::parse(dsn)?;
    if let Some(known) = servers()?.iter().find(|server| server.name == name) {
        // A peer that was discovered through a subscription gets a connection string of its own. If another server
        // answers in a peer's place, that server is the peer from now on.
        let is_replaced = is_replaced(known);
        if known.role == Role::Peer && (is_replaced || native::dsn_of_server(known.id)?.is_none()) {
            if is_replaced {
                // This forgets the server that was the peer, which an unreadable document may be about.
                (leave.documents_are_readable)()?;
            }
            let server = text(name.as_str())?;
            if native::dsn_of_server(known.id)?.is_some() {
                foreign_server::drop_mapping(&server, MappingFor::Public);
            }
            foreign_server::create_mapping(&server, MappingFor::Public, &[(&text(DSN)?, dsn.as_c_str())]);
            if let Some(bound) = known.bound.filter(|_| is_replaced) {
                let options = c_options(&bound.peer_options())?;
                foreign_server::alter_server_options(&server, &borrowed(&options), OptionAction::Drop);
            }
            return Ok(known.id);
        }
    }
    create_server(&name, &[], Some(&dsn))
}

/// Stores the connection string that the caller has given for the recovery that begins. If the node is not known, it
/// becomes known by this.
pub fn keep_recovery_dsn(name: &str, dsn: &CStr) -> Result<(), RegistryError> {
    foreign_server::lock_servers_of(WRAPPER);
    let name = NodeName::parse(name)?;
    let dsn = Dsn::parse(dsn)?;
    if servers()?.iter().all(|server| server.name != name) {
        return create_server(&name, &[], Some(&dsn)).map(|_| ());
    }
    forget_recovery_dsn(name.as_str())?;
    let server = text(name.as_str())?;
    foreign_server::create_mapping(&server, MappingFor::Workers, &[(&text(DSN)?, dsn.as_c_str())]);
    Ok(())
}

/// Removes the connection string that [`keep_recovery_dsn`] has stored, after the recovery has ended.
pub fn forget_recovery_dsn(name: &str) -> Result<(), RegistryError> {
    foreign_server::lock_servers_of(WRAPPER);
    let Some(server) = servers()?.into_iter().find(|server| server.name.as_str() == name) else { return Ok(()) };
    if native::dsn_for_recovery(server.id)?.is_some() {
        foreign_server::drop_mapping(&text(name)?, MappingFor::Workers);
    }
    Ok(())
}

/// Makes a peer known to which a subscription has led, and binds it to the given database.
pub fn create_discovered_peer(name: &NodeName, identity: DatabaseIdentity) -> Result<Oid, RegistryError> {
    foreign_server::lock_servers_of(WRAPPER);
    create_server(name, &identity.peer_options(), None)
}

/// Binds a peer to the database that was the first to answer for it.
pub fn bind_peer(name: &NodeName, identity: DatabaseIdentity) -> Result<(), RegistryError> {
    foreign_server::lock_servers_of(WRAPPER);
    let options = c_options(&identity.peer_options())?;
    foreign_server::alter_server_options(&text(name.as_str())?, &borrowed(&options), OptionAction::Add);
    Ok(())
}

/// The identity to which a peer is bound; None if the peer is unknown or has not answered yet. Needs a transaction, but
/// no snapshot.
pub fn bound_identity(name: &str) -> Option<DatabaseIdentity> {
    let options = foreign_server::server_options(&text::to_server(name)?, WRAPPER)?;
    DatabaseIdentity::from_peer_options(options.iter().map(String::as_str))
}

/// Whether the provider of a subscription has answered and is another server than the one to which the node is bound.
/// The answer is that of the subscription's own poller, or else the identity of the node from which the subscription
/// has come so far.
fn leads_elsewhere(subscription: &Subscription, node: &NodeServer, servers: &[NodeServer]) -> bool {
    let asked = entry_of(PeerKey::Subscription(subscription.id)).and_then(|entry| entry.said);
    let so_far = subscription.origin.node().and_then(|origin| servers.iter().find(|server| server.name == *origin));
    asked.or(so_far.and_then(|server| server.bound)).zip(node.bound).is_some_and(|(said, bound)| said != bound)
}

/// Whether another server has answered under the peer's name, either to the peer's own poller or to that of a
/// subscription.
fn is_replaced(peer: &NodeServer) -> bool {
    let mut shared = shmem::lock();
    let Some(index) = shared.index_of(process::my_database()) else { return false };
    shared.peers(index).iter().any(|entry| match entry.key {
        PeerKey::Node(id) => id == peer.id && entry.state == PeerState::OtherServer,
        PeerKey::Subscription(_) => {
            entry.node_name.as_str() == peer.name.as_str() && entry.said.is_some() && entry.said != peer.bound
        }
        PeerKey::None => false,
    })
}

/// What the poller of a peer or subscription has found out.
fn entry_of(key: PeerKey) -> Option<PeerEntry> {
    let mut shared = shmem::lock();
    let index = shared.index_of(process::my_database())?;
    shared.peers(index).iter().find(|entry| entry.key == key).copied()
}

fn create_server(name: &NodeName, options: &[(&str, String)], dsn: Option<&Dsn>) -> Result<Oid, RegistryError> {
    if let Some(wrapper) = wrapper_of_server(name.as_str())? {
        return Err(if wrapper.as_bytes() == WRAPPER.to_bytes() {
            RegistryError::DuplicateNode { name: name.clone() }
        } else {
            RegistryError::ForeignWrapper { name: name.clone(), wrapper }
        });
    }
    let (server, options) = (text(name.as_str())?, c_options(options)?);
    let id = foreign_server::create_server(&server, WRAPPER, &borrowed(&options));
    failpoint::hit(failpoint::names::NODE_CREATE_BEFORE_MAPPING);
    if let Some(dsn) = dsn {
        foreign_server::create_mapping(&server, MappingFor::Public, &[(&text(DSN)?, dsn.as_c_str())]);
    }
    Ok(id)
}

/// Removes a node. Removing the local node also removes every peer and label, so that this database is no node any
/// more. Otherwise the node is a peer that is lost for good. Returns false if the node does not exist and `if_exists`
/// is true.
///
/// # Errors
/// The user is not a superuser, the node is unknown, a subscription comes from it, a recovery is unfinished, or a
/// document is unreadable: it may name the node, assign a subscription to it, or be lost with it.
pub fn drop_node(name: &str, if_exists: bool, leave: Leave) -> Result<bool, RegistryError> {
    require_superuser("node_drop")?;
    foreign_server::lock_servers_of(WRAPPER);
    let servers = servers()?;
    let Some(node) = servers.iter().find(|server| server.name.as_str() == name) else {
        return if if_exists { Ok(false) } else { Err(RegistryError::UnknownNode { name: name.to_owned() }) };
    };
    (leave.documents_are_readable)()?;
    let subscriptions = NativeProvider.subscriptions()?;
    match node.role {
        Role::Peer => {
            let still = subscriptions.iter().find(|subscription| subscription.origin.node() == Some(&node.name));
            if let Some(subscription) = still {
                return Err(RegistryError::StillSubscribed {
                    name: node.name.clone(),
                    subscription: subscription.name.clone(),
                    is_enabled: subscription.is_enabled,
                });
            }
            drop_server(node)?;
            forget_askers(&node.name);
        }
        Role::Local | Role::LocalElsewhere => {
            (leave.nothing_is_unfinished)()?;
            for server in &servers {
                drop_server(server)?;
            }
            for subscription in &subscriptions {
                if seclabel::label(LabelTarget::Subscription(subscription.id)).is_some() {
                    seclabel::set_label(LabelTarget::Subscription(subscription.id), None);
                }
            }
        }
    }
    Ok(true)
}

/// Without this the health check would warn of a successor's predecessor for a minute.
fn forget_askers(name: &NodeName) {
    let mut shared = shmem::lock();
    if let Some(index) = shared.index_of(process::my_database()) {
        shared.databases()[index].forget_askers(name.as_str());
    }
}

/// Removes the entry of a peer that has been given another name.
pub fn drop_renamed_peer(peer: &NodeServer) -> Result<(), RegistryError> {
    foreign_server::lock_servers_of(WRAPPER);
    drop_server(peer)
}

/// Drops a node's foreign server with its connection string. Other objects of users that depend on the server are
/// dropped too, with a NOTICE.
fn drop_server(server: &NodeServer) -> Result<(), RegistryError> {
    // The mapping is dropped first and separately: if it were dropped with the server, a NOTICE would report it.
    // Whether it exists is checked because core reports a missing mapping, too.
    if native::dsn_of_server(server.id)?.is_some() {
        foreign_server::drop_mapping(&text(server.name.as_str())?, MappingFor::Public);
    }
    foreign_server::drop_server(server.id);
    Ok(())
}

/// Sets by hand which node a subscription comes from; None for no node of the mesh. An unknown node becomes known by
/// this if the subscription's provider has answered with that name.
///
/// # Errors
/// The user is not a superuser, the subscription or node is unknown, the node is the local one, or the provider is
/// another server than that node.
pub fn set_origin(subscription: &str, origin: Option<&str>) -> Result<(), RegistryError> {
    require_superuser("sub_set_origin")?;
    foreign_server::lock_servers_of(WRAPPER);
    let servers = servers()?;
    let local = servers.iter().find(|server| server.role == Role::Local).ok_or(RegistryError::NoLocalNode)?;
    let subscriptions = NativeProvider.subscriptions()?;
    let found = subscriptions
        .iter()
        .find(|candidate| candidate.name == subscription)
        .ok_or_else(|| RegistryError::UnknownSubscription { name: subscription.to_owned() })?;
    let Some(origin) = origin else {
        return write_label(found.id, None, SetBy::User);
    };
    let node = match servers.iter().find(|server| server.name.as_str() == origin) {
        Some(node) if node.id == local.id => return Err(RegistryError::OriginIsLocal { name: node.name.clone() }),
        // Otherwise the provider would be asked instead of that node.
        Some(node) if leads_elsewhere(found, node, &servers) => {
            return Err(RegistryError::ProviderIsAnother { name: node.name.clone(), subscription: found.name.clone() });
        }
        Some(node) => node.name.clone(),
        None => {
            let said = entry_of(PeerKey::Subscription(found.id))
                .filter(|entry| entry.state == PeerState::Connected && entry.node_name.as_str() == origin)
                .and_then(|entry| entry.said);
            let identity = said.ok_or_else(|| RegistryError::UnknownNode { name: origin.to_owned() })?;
            let name = NodeName::parse(origin)?;
            create_discovered_peer(&name, identity)?;
            name
        }
    };
    write_label(found.id, Some(&node), SetBy::User)
}

/// Called for DROP EXTENSION without CASCADE. PostgreSQL refuses it while nodes exist; this error says what to do.
///
/// # Errors
/// There are nodes.
pub fn refuse_drop_while_nodes_exist() -> Result<(), RegistryError> {
    let names: Vec<String> = servers()?.iter().map(|server| server.name.to_string()).collect();
    if names.is_empty() { Ok(()) } else { Err(RegistryError::NodesExist { names }) }
}

fn wrapper_of_server(name: &str) -> Result<Option<String>, RegistryError> {
    Spi::connect(|client| {
        let rows = prepared::select(
            client,
            "SELECT w.fdwname
               FROM pg_catalog.pg_foreign_server s
               JOIN pg_catalog.pg_foreign_data_wrapper w ON w.oid = s.srvfdw
              WHERE s.srvname = $1",
            Some(1),
            &[Name(name.to_owned()).into()],
        )?;
        match rows.into_iter().next() {
            Some(row) => Ok(row.get::<Name>(1)?.map(|name| name.0)),
            None => Ok(None),
        }
    })
}

fn require_superuser(action: &'static str) -> Result<(), RegistryError> {
    if !process::is_superuser() {
        return Err(RegistryError::NotSuperuser { action });
    }
    process::require_writable(action);
    Ok(())
}

fn text(value: &str) -> Result<CString, RegistryError> {
    text::to_server(value).ok_or(RegistryError::NullByte)
}

fn c_options(options: &[(&str, String)]) -> Result<Vec<(CString, CString)>, RegistryError> {
    options.iter().map(|(name, value)| Ok((text(name)?, text(value)?))).collect()
}

fn borrowed(options: &[(CString, CString)]) -> Vec<(&CStr, &CStr)> {
    options.iter().map(|(name, value)| (name.as_c_str(), value.as_c_str())).collect()
}
