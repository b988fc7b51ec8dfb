//! The interface between this extension and a replication engine. `native` is the first engine; Spock and pglogical are
//! to be added behind the same trait.

use super::dsn::Dsn;
use super::label::SetBy;
use crate::document::DocumentError;
use crate::node_name::NodeName;
use pgrx::pg_sys::Oid;

/// The node that this database is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LocalNode {
    pub id: Oid,
    pub name: NodeName,
}

/// Another node that this node knows.
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
    /// Whether the owner is a superuser. What the provider of another user's subscription says is not believed until a
    /// superuser confirms it: a user with pg_create_subscription may point a subscription to a server of his own.
    pub is_trusted: bool,
    /// Whether the subscription receives, has received, or knows its tables. A subscription that was created without
    /// connecting and has not been enabled since has received nothing.
    pub has_connected: bool,
    pub publications: Vec<String>,
}

/// Where a subscription comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    /// It is not known yet.
    Unknown,
    /// The node, and who has said so.
    Node(NodeName, SetBy),
    /// A superuser has named this node, but the owner, who is not a superuser, has changed the connection since. Where
    /// the subscription comes from is therefore not known.
    Doubted(NodeName),
    /// From no node of the mesh, as a superuser has said.
    Foreign,
    /// The label cannot be read. The subscription may come from any node; the label is left unchanged.
    Unreadable(DocumentError),
}

impl Origin {
    pub fn node(&self) -> Option<&NodeName> {
        match self {
            Origin::Node(node, _) => Some(node),
            Origin::Unknown | Origin::Doubted(_) | Origin::Foreign | Origin::Unreadable(_) => None,
        }
    }

    /// Whether a user still has to say where the subscription comes from.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Origin::Unknown | Origin::Doubted(_))
    }
}

impl Subscription {
    /// Whether the subscription counts in what slots retain and in plans. A subscription of unknown origin counts,
    /// because it may come from any node.
    pub fn counts(&self) -> bool {
        match self.origin {
            Origin::Node(..) => true,
            Origin::Foreign | Origin::Doubted(_) => false,
            Origin::Unknown => self.is_trusted && self.has_connected,
            // A label may contain more than an owner without superuser rights could have caused.
            Origin::Unreadable(_) => true,
        }
    }
}

/// How to connect to a peer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Route {
    pub dsn: Dsn,
    /// Whether the connection must be authenticated with a password from the connection string, which core demands of a
    /// subscription whose owner is not a superuser.
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

    /// None if this database is not a node, or is a copy of a node that is elsewhere.
    fn local_node(&self) -> Result<Option<LocalNode>, Self::Error>;
    fn peers(&self) -> Result<Vec<Peer>, Self::Error>;
    fn subscriptions(&self) -> Result<Vec<Subscription>, Self::Error>;
    /// How to connect to a peer: by its own connection string, otherwise by that of a subscription that comes from it.
    fn route_to_peer(&self, peer: Oid) -> Result<Option<Route>, Self::Error>;
    /// How to connect to the provider of a subscription.
    fn route_of_subscription(&self, subscription: Oid) -> Result<Option<Route>, Self::Error>;
    /// Disables a subscription, whose processes end a little later. Returns false if it does not exist any more.
    fn suspend(&self, subscription: Oid) -> bool;
    /// Enables a subscription again. Returns false if it does not exist any more.
    fn resume(&self, subscription: Oid) -> bool;
    /// The running processes of these subscriptions: apply workers, parallel apply workers, and table synchronisation
    /// workers.
    fn processes(&self, subscriptions: &[Oid]) -> Result<Vec<ApplyProcess>, Self::Error>;
}
