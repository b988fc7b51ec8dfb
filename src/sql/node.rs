//! The SQL functions of the node registry. Their CREATE FUNCTION, grants and comments are in sql/.
//!
//! Arguments are optional so that NULL raises an error; a strict function would return NULL and do nothing.
#![allow(unsafe_code)] // pg_extern generates the C entry points

use crate::document::{self, Stored};
use crate::error::{OrRaise, raise};
use crate::identity::DatabaseIdentity;
use crate::intent::document::Journal;
use crate::intent::storage;
use crate::lsn::LocalLsn;
use crate::node::error::RegistryError;
use crate::node::label::{LabelError, SubscriptionLabel};
use crate::node::native::NativeProvider;
use crate::node::provider::ReplicationProvider;
use crate::node::registry::{self, Leave};
use crate::node::servers;
use crate::pg::clock::Timestamp;
use crate::pg::name::Name;
use crate::pg::seclabel::LabelTarget;
use crate::pg::text::Text;
use crate::pg::{catalog, process, wal};
use crate::reconcile::kept;
use crate::restore_point::list::RestorePoints;
use crate::restore_point::list_storage;
use crate::shmem::{self, PeerEntry, PeerKey};
use crate::slot::documents;
use crate::slot::record::RetentionRecord;
use crate::{older_copy, protocol};
use pgrx::pg_sys::Oid;
use pgrx::prelude::*;

/// Example calls of each function, for the hint of an error.
const NODE_CREATE: &str = "node_create('n1', 'host=… port=5432 dbname=…')";
const NODE_DROP: &str = "node_drop('n1')";
const PEER_CREATE: &str = "peer_create('n2', 'host=… port=5432 dbname=…')";
const SUB_SET_ORIGIN: &str = "sub_set_origin('sub_n2', 'n2')";

fn required<T>(value: Option<T>, argument: &'static str, example: &'static str) -> T {
    value.ok_or(RegistryError::NullArgument { argument, example }).or_raise()
}

const LEAVE: Leave =
    Leave { documents_are_readable: documents::require_readable, nothing_is_unfinished: require_nothing_unfinished };

/// Checks that this node may be dropped: no recovery is unfinished here, and the kept rows can be read.
fn require_nothing_unfinished() -> Result<(), RegistryError> {
    let journal = storage::read()?;
    // The recovery has suspended subscriptions, which nothing would resume.
    if let Some(intent) = journal.unfinished().next() {
        return Err(match intent.is_rebuild() {
            true => RegistryError::RebuildRuns,
            false => RegistryError::RecoveryRuns { failed: intent.request.failed.clone() },
        });
    }
    // Only the journal, which is removed with the node, says where the kept rows are.
    journal
        .kept_objects()
        .into_iter()
        .find_map(kept::unreadable_head)
        .map_or(Ok(()), |unreadable| Err(unreadable.into()))
}

#[pg_extern(sql = false)]
fn node_create(node_name: Option<Name>, dsn: Option<Text>) -> Oid {
    let name = required(node_name, "node_name", NODE_CREATE);
    registry::create_local(&name.0, &required(dsn, "dsn", NODE_CREATE).0).or_raise()
}

#[pg_extern(sql = false)]
fn node_drop(node_name: Option<Name>, ifexists: Option<bool>) -> bool {
    let name = required(node_name, "node_name", NODE_DROP);
    let is_dropped = registry::drop_node(&name.0, required(ifexists, "ifexists", NODE_DROP), LEAVE).or_raise();
    // The local node goes with its peers.
    if is_dropped && servers::servers().or_raise().is_empty() {
        list_storage::forget().or_raise();
    }
    is_dropped
}

#[pg_extern(sql = false)]
fn peer_create(node_name: Option<Name>, dsn: Option<Text>) -> Oid {
    let name = required(node_name, "node_name", PEER_CREATE);
    registry::create_peer(&name.0, &required(dsn, "dsn", PEER_CREATE).0, LEAVE).or_raise()
}

#[pg_extern(sql = false)]
fn sub_set_origin(sub_name: Option<Name>, node_name: Option<Name>) {
    let subscription = required(sub_name, "sub_name", SUB_SET_ORIGIN);
    registry::set_origin(&subscription.0, node_name.as_ref().map(|name| name.0.as_str())).or_raise();
}

/// The identity of this database, for which pollers of peers ask. There is no row if the database is not a node, or is
/// a copy of a node.
///
/// The C symbol differs from that of version 0.1.0, whose function has one column less: if the SQL declares more
/// columns than the library's function returns, reading them would run past the end of the row.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)] // the row type of a set-returning function
fn node_identity_2() -> TableIterator<
    'static,
    (
        name!(node_name, Name),
        name!(system_identifier, String),
        name!(database, Oid),
        name!(version, String),
        name!(timeline, i32),
        name!(wal_end, LocalLsn),
        name!(started_at_lsn, Option<LocalLsn>),
        name!(timeline_forks, String),
        name!(started_at, TimestampWithTimeZone),
        name!(protocol_version, i32),
    ),
> {
    TableIterator::new(identity().map(|found| {
        let started_at = Timestamp::of_server_start().into();
        (
            found.name,
            found.system_identifier,
            process::my_database(),
            found.version,
            found.timeline,
            found.wal_end,
            found.start,
            found.forks,
            started_at,
            protocol::OURS as i32,
        )
    }))
}

/// Like [`node_identity_2`], for the SQL of version 0.1.0 until ALTER EXTENSION spock_recovery UPDATE.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)] // the row type of a set-returning function
fn node_identity() -> TableIterator<
    'static,
    (
        name!(node_name, Name),
        name!(system_identifier, String),
        name!(database, Oid),
        name!(version, String),
        name!(timeline, i32),
        name!(wal_end, LocalLsn),
        name!(started_at_lsn, Option<LocalLsn>),
        name!(timeline_forks, String),
        name!(started_at, TimestampWithTimeZone),
    ),
> {
    TableIterator::new(identity().map(|found| {
        let started_at = Timestamp::of_server_start().into();
        (
            found.name,
            found.system_identifier,
            process::my_database(),
            found.version,
            found.timeline,
            found.wal_end,
            found.start,
            found.forks,
            started_at,
        )
    }))
}

struct Identity {
    name: Name,
    system_identifier: String,
    version: String,
    timeline: i32,
    wal_end: LocalLsn,
    start: Option<LocalLsn>,
    forks: String,
}

fn identity() -> Option<Identity> {
    let local = NativeProvider.local_node().or_raise().filter(|_| !wal::is_in_recovery())?;
    let start = shmem::lock().started_at();
    Some(Identity {
        name: Name(local.name.to_string()),
        system_identifier: process::system_identifier().to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        timeline: wal::timeline() as i32,
        wal_end: wal::flushed(),
        start: start.known(),
        forks: older_copy::forks_to_text(&wal::timeline_history()),
    })
}

/// Whether a foreign server's options are those of the local node of exactly this database on this server.
#[pg_extern(sql = false)]
fn is_local_node(options: Option<Vec<Option<Text>>>) -> bool {
    servers::identity_of(&options.unwrap_or_default()) == Some(servers::here())
}

/// The name of the node from which a subscription of this database comes.
#[pg_extern(sql = false)]
fn subscription_origin(subscription: Option<Oid>) -> Option<Name> {
    let id = subscription?;
    let known = NativeProvider.subscriptions().or_raise().into_iter().find(|known| known.id == id)?;
    known.origin.node().map(|node| Name(node.to_string()))
}

/// What this database's pollers have found out about each peer.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)] // the row type of a set-returning function
fn peer_status() -> TableIterator<
    'static,
    (
        name!(node_name, Option<Name>),
        name!(sub_name, Option<Name>),
        name!(state, String),
        name!(last_contact, Option<TimestampWithTimeZone>),
        name!(system_identifier, Option<String>),
        name!(error, Option<Text>),
    ),
> {
    let peers: Vec<PeerEntry> = {
        let mut shared = shmem::lock();
        match shared.index_of(process::my_database()) {
            Some(index) => shared.peers(index).iter().filter(|peer| peer.key != PeerKey::None).copied().collect(),
            None => Vec::new(),
        }
    };
    let servers = servers::servers().or_raise();
    let subscriptions = NativeProvider.subscriptions().or_raise();
    TableIterator::new(peers.into_iter().map(move |peer| {
        let (node, subscription) = match peer.key {
            PeerKey::Node(id) => {
                (servers.iter().find(|server| server.id == id).map(|server| Name(server.name.to_string())), None)
            }
            PeerKey::Subscription(id) => {
                (None, subscriptions.iter().find(|candidate| candidate.id == id).map(|found| Name(found.name.clone())))
            }
            PeerKey::None => (None, None),
        };
        let reached = !peer.last_contact_at.is_never();
        (
            node,
            subscription,
            peer.state.as_str().to_owned(),
            reached.then(|| peer.last_contact_at.into()),
            peer.said.map(|said| said.system_identifier.to_string()),
            Some(peer.error.as_str()).filter(|error| !error.is_empty()).map(Text::of_message),
        )
    }))
}

/// Validator of the foreign-data wrapper. It checks which options a server or user mapping has, and that a superuser
/// defines them, because a poller connects to where they point, as the operating system user of the server.
#[pg_extern(sql = false)]
fn node_options_validator(options: Vec<Option<Text>>, catalog: Oid) {
    crate::node::options::check(&options, catalog).or_raise();
}

/// Raises an error for a document that is unreadable to the database that wrote it. Documents from elsewhere are
/// accepted, because they may be adopted.
fn refuse_unreadable<T>(document: Stored<T>) {
    document.own().map_err(|error| LabelError::Invalid { reason: error.to_string() }).or_raise();
}

fn home(text: &str) -> DatabaseIdentity {
    document::home(text).unwrap_or_else(servers::here)
}

/// The check of the label provider: only superusers set labels, and only documents that can be read.
pub fn check_label(target: LabelTarget, text: Option<&str>) {
    if !process::is_superuser() {
        raise(&LabelError::NotSuperuser);
    }
    match (target, text) {
        (_, None) => (),
        (LabelTarget::Subscription(_), Some(text)) => {
            refuse_unreadable(SubscriptionLabel::read(Some(text), home(text)));
        }
        (LabelTarget::Database(_), Some(text)) => {
            refuse_unreadable(RetentionRecord::read(Some(text), home(text)));
        }
        (LabelTarget::Schema(schema), Some(text)) if catalog::internal_schema() == Some(schema) => {
            refuse_unreadable(RestorePoints::read(Some(text), home(text)));
        }
        (LabelTarget::Schema(schema), Some(text)) if catalog::extension_schema().is_none_or(|own| own == schema) => {
            refuse_unreadable(Journal::read(Some(text), home(text)));
        }
        (LabelTarget::Schema(_) | LabelTarget::Other, Some(_)) => raise(&LabelError::WrongObject),
    }
}
