//! What the rest of the extension needs of a replication engine. `native` is the first engine; Spock and pglogical
//! clusters come behind the same trait.

use super::label::SetBy;
use crate::document::DocumentError;
use crate::node_name::NodeName;
use pgrx::pg_sys::Oid;
use std::ffi::CString;

/// The node that this database is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LocalNode {
    pub id: Oid,
    pub name: NodeName,
}

/// Another node that this one knows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    pub id: Oid,
    pub name: NodeName,
}

/// A subscription of this database.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Subscription {
    pub id: Oid,
    pub name: String,
    pub owner: String,
    pub is_enabled: bool,
    pub origin: Origin,
    /// Its owner is a superuser. What another one's provider says is not believed before a superuser says it too: whoever has
    /// pg_create_subscription may let one lead to a server of his own.
    pub is_trusted: bool,
    /// It receives, has received, or knows which tables it would: one that was made without connecting and has not been enabled
    /// since has nothing of anybody.
    pub has_connected: bool,
    pub publications: Vec<String>,
}

/// Where a subscription comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    /// Nobody knows yet.
    Unknown,
    /// The node, and who said so.
    Node(NodeName, SetBy),
    /// A superuser has said so, but its owner, who is none, has given it another connection since: nobody knows.
    Doubted(NodeName),
    /// From no node of the mesh, as a superuser has said.
    Foreign,
    /// Its label cannot be read: it is nobody's, may be anybody's, and is left as it is.
    Unreadable(DocumentError),
}

impl Origin {
    pub fn node(&self) -> Option<&NodeName> {
        match self {
            Origin::Node(node, _) => Some(node),
            Origin::Unknown | Origin::Doubted(_) | Origin::Foreign | Origin::Unreadable(_) => None,
        }
    }

    /// Whether somebody has to say where it comes from.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Origin::Unknown | Origin::Doubted(_))
    }
}

impl Subscription {
    /// Whether it has a say in what slots keep and in plans. One of unknown origin has: it may be anybody's.
    pub fn counts(&self) -> bool {
        match self.origin {
            Origin::Node(..) => true,
            Origin::Foreign | Origin::Doubted(_) => false,
            Origin::Unknown => self.is_trusted && self.has_connected,
            // What it says may be more than what an owner who is no superuser could make of it.
            Origin::Unreadable(_) => true,
        }
    }
}

/// How to reach a peer. Never shown: it may hold a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Route {
    /// In this database's encoding, as libpq gets it.
    pub conninfo: CString,
    /// The connection must be made with a password of the connection string alone, as core demands of a subscription
    /// whose owner is no superuser.
    pub must_use_password: bool,
}

/// A process that works for a subscription.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ApplyProcess {
    pub pid: i32,
    pub subscription: Oid,
}

pub trait ReplicationProvider {
    type Error: std::error::Error;

    /// None if this database is no node, or is a copy of one that lives elsewhere.
    fn local_node(&self) -> Result<Option<LocalNode>, Self::Error>;
    fn peers(&self) -> Result<Vec<Peer>, Self::Error>;
    fn subscriptions(&self) -> Result<Vec<Subscription>, Self::Error>;
    /// How to reach the peer, by its own connection string, else by that of a subscription that comes from it.
    fn route_to_peer(&self, peer: Oid) -> Result<Option<Route>, Self::Error>;
    /// How to reach the provider of a subscription.
    fn route_of_subscription(&self, subscription: Oid) -> Result<Option<Route>, Self::Error>;
    /// Disables a subscription; its processes end a little later. False if it does not exist any more.
    fn suspend(&self, subscription: Oid) -> bool;
    /// Enables it again.
    fn resume(&self, subscription: Oid) -> bool;
    /// The processes of these subscriptions that still run: leaders, parallel workers and those that copy a table.
    fn processes(&self, subscriptions: &[Oid]) -> Result<Vec<ApplyProcess>, Self::Error>;
}
