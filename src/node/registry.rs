//! Nodes as foreign servers of the wrapper `spock_node`, their connection strings as options of user mappings.
//!
//! The local node's server carries the identity of the server and database it was created in: in a copy elsewhere it
//! does not match, and the copy acts on nothing until somebody calls node_create there.

use super::conninfo::{self};
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
use crate::pg::text::{self};
use crate::pg::{prepared, process, subscription};
use crate::shmem::{self, PeerEntry, PeerKey, PeerState};
use pgrx::Spi;
use pgrx::pg_sys::Oid;
use std::ffi::{CStr, CString};

/// Makes this database a node. Returns the node's id.
pub fn create_local(name: &str, dsn: &CStr) -> Result<Oid, RegistryError> {
    require_superuser("node_create")?;
    foreign_server::lock_servers_of(WRAPPER);
    let name = NodeName::parse(name)?;
    conninfo::check(dsn)?;
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
        foreign_server::create_mapping(&server, MappingFor::Public, &[(&text(DSN)?, dsn)]);
        adopt_labels(copy.identity)?;
        return Ok(copy.id);
    }
    create_server(&name, &options, Some(dsn))
}

/// Takes over what the node that this database takes the place of knew about its subscriptions: a peer that is dead
/// cannot be asked again. One that cannot be read would count as another database's from then on, and be written over.
fn adopt_labels(former: Option<DatabaseIdentity>) -> Result<(), RegistryError> {
    if let Some(unreadable) = unadoptable_labels(former)?.into_iter().next() {
        return Err(unreadable.into());
    }
    for subscription in NativeProvider.subscriptions()? {
        let Some(former) = former else { continue };
        let text = seclabel::label(LabelTarget::Subscription(subscription.id));
        if let Stored::Own(label) = SubscriptionLabel::read(text.as_deref(), former) {
            // Of a subscription whose owner is no superuser the label holds for the connection that it was written for.
            let connection = match subscription.is_trusted {
                true => subscription::connection_digest(subscription.id),
                false => label.connection,
            };
            set_label(subscription.id, &SubscriptionLabel { identity: here(), connection, ..label })?;
        }
    }
    Ok(())
}

/// The labels of the node that this database is a copy of that cannot be read: node_create() is refused while there is one.
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

/// What is looked at above this layer before the registry lets a node go.
#[derive(Clone, Copy)]
pub struct Leave {
    /// An error where a document of this database cannot be read: whom it speaks of is not known.
    pub documents_are_readable: fn() -> Result<(), RegistryError>,
    /// An error where a recovery runs here, or rows are kept that could not be found again.
    pub nothing_is_unfinished: fn() -> Result<(), RegistryError>,
}

/// Makes a peer known that no subscription leads to. Returns the node's id.
pub fn create_peer(name: &str, dsn: &CStr, leave: Leave) -> Result<Oid, RegistryError> {
    require_superuser("peer_create")?;
    foreign_server::lock_servers_of(WRAPPER);
    let name = NodeName::parse(name)?;
    conninfo::check(dsn)?;
    if let Some(known) = servers()?.iter().find(|server| server.name == name) {
        // A peer that was found through a subscription gets a connection string of its own. Another server that answers in a
        // peer's place is that peer from now on.
        let is_replaced = is_replaced(known);
        if known.role == Role::Peer && (is_replaced || native::dsn_of_server(known.id)?.is_none()) {
            if is_replaced {
                // The server that was that peer is forgotten, and with it whom a document speaks of that cannot be read.
                (leave.documents_are_readable)()?;
            }
            let server = text(name.as_str())?;
            if native::dsn_of_server(known.id)?.is_some() {
                foreign_server::drop_mapping(&server, MappingFor::Public);
            }
            foreign_server::create_mapping(&server, MappingFor::Public, &[(&text(DSN)?, dsn)]);
            if let Some(bound) = known.bound.filter(|_| is_replaced) {
                let options = c_options(&bound.peer_options())?;
                foreign_server::alter_server_options(&server, &borrowed(&options), OptionAction::Drop);
            }
            return Ok(known.id);
        }
    }
    create_server(&name, &[], Some(dsn))
}

/// Keeps the connection string that a caller has given for the recovery that begins. A node that was not known becomes
/// known by it.
pub fn keep_recovery_dsn(name: &str, dsn: &CStr) -> Result<(), RegistryError> {
    foreign_server::lock_servers_of(WRAPPER);
    let name = NodeName::parse(name)?;
    conninfo::check(dsn)?;
    if servers()?.iter().all(|server| server.name != name) {
        return create_server(&name, &[], Some(dsn)).map(|_| ());
    }
    forget_recovery_dsn(name.as_str())?;
    let server = text(name.as_str())?;
    foreign_server::create_mapping(&server, MappingFor::Workers, &[(&text(DSN)?, dsn)]);
    Ok(())
}

/// Removes it when the recovery has ended.
pub fn forget_recovery_dsn(name: &str) -> Result<(), RegistryError> {
    foreign_server::lock_servers_of(WRAPPER);
    let Some(server) = servers()?.into_iter().find(|server| server.name.as_str() == name) else { return Ok(()) };
    if native::dsn_for_recovery(server.id)?.is_some() {
        foreign_server::drop_mapping(&text(name)?, MappingFor::Workers);
    }
    Ok(())
}

/// Makes a peer known that a subscription has led to, and that is this database.
pub fn create_discovered_peer(name: &NodeName, identity: DatabaseIdentity) -> Result<Oid, RegistryError> {
    foreign_server::lock_servers_of(WRAPPER);
    create_server(name, &identity.peer_options(), None)
}

/// Binds a peer to the database that has answered as it for the first time.
pub fn bind_peer(name: &NodeName, identity: DatabaseIdentity) -> Result<(), RegistryError> {
    foreign_server::lock_servers_of(WRAPPER);
    let options = c_options(&identity.peer_options())?;
    foreign_server::alter_server_options(&text(name.as_str())?, &borrowed(&options), OptionAction::Add);
    Ok(())
}

/// What a peer is bound to, if it is known and was heard. Needs a transaction, but no snapshot.
pub fn bound_identity(name: &str) -> Option<DatabaseIdentity> {
    let options = foreign_server::server_options(&text::to_server(name)?, WRAPPER)?;
    DatabaseIdentity::from_peer_options(options.iter().map(String::as_str))
}

/// The provider of a subscription has answered, and is another server than the one that the node is known as: to the subscription's
/// own poller, or to that of the node that it comes from so far.
fn leads_elsewhere(subscription: &Subscription, node: &NodeServer, servers: &[NodeServer]) -> bool {
    let asked = entry_of(PeerKey::Subscription(subscription.id)).and_then(|entry| entry.said);
    let so_far = subscription.origin.node().and_then(|origin| servers.iter().find(|server| server.name == *origin));
    asked.or(so_far.and_then(|server| server.bound)).zip(node.bound).is_some_and(|(said, bound)| said != bound)
}

/// Another server answers by the peer's name: to its own poller, or to that of a subscription.
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

/// What the poller of a peer or of a subscription has found out.
fn entry_of(key: PeerKey) -> Option<PeerEntry> {
    let mut shared = shmem::lock();
    let index = shared.index_of(process::my_database())?;
    shared.peers(index).iter().find(|entry| entry.key == key).copied()
}

fn create_server(name: &NodeName, options: &[(&str, String)], dsn: Option<&CStr>) -> Result<Oid, RegistryError> {
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
        foreign_server::create_mapping(&server, MappingFor::Public, &[(&text(DSN)?, dsn)]);
    }
    Ok(id)
}

/// Removes a node: the local one, with every peer and label, so that this database is no node any more; or a peer
/// that is dead for good. Returns false if there is none and `if_exists`. Refused while a document cannot be read: it may
/// name the node, say that a subscription comes from it, or be lost with it.
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

/// Removes a peer that has another name from now on.
pub fn drop_renamed_peer(peer: &NodeServer) -> Result<(), RegistryError> {
    foreign_server::lock_servers_of(WRAPPER);
    drop_server(peer)
}

/// With its connection string; what users have hung on it beside that is dropped too, with a NOTICE.
fn drop_server(server: &NodeServer) -> Result<(), RegistryError> {
    // The mapping first and by itself: dropped along with the server it would be told as a surprise; but core would say
    // also that there is none.
    if native::dsn_of_server(server.id)?.is_some() {
        foreign_server::drop_mapping(&text(server.name.as_str())?, MappingFor::Public);
    }
    foreign_server::drop_server(server.id);
    Ok(())
}

/// Says by hand which node a subscription comes from; None: from none of the mesh. A node that is not known becomes known by
/// it if the subscription's provider says that it is that one.
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
        // It would be asked in that node's place.
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

/// DROP EXTENSION without CASCADE: PostgreSQL refuses it while nodes exist; this says what to do.
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
