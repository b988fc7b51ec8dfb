//! PostgreSQL's own logical replication as a replication engine (catalog pg_subscription).

use super::dsn::Dsn;
use super::error::RegistryError;
use super::label::SubscriptionLabel;
use super::provider::{ApplyProcess, LocalNode, Origin, Peer, ReplicationProvider, Route, Subscription};
use super::servers::{self, Role};
use crate::lsn::OriginLsn;
use crate::node_name::NodeName;
use crate::pg::name::Name;
use crate::pg::text::Text;
use crate::pg::{foreign_server, origin, prepared, subscription};
use pgrx::Spi;
use pgrx::pg_sys::Oid;

pub struct NativeProvider;

impl ReplicationProvider for NativeProvider {
    type Error = RegistryError;

    fn local_node(&self) -> Result<Option<LocalNode>, RegistryError> {
        let servers = servers::servers()?;
        Ok(servers
            .into_iter()
            .find(|server| server.role == Role::Local)
            .map(|server| LocalNode { id: server.id, name: server.name }))
    }

    fn peers(&self) -> Result<Vec<Peer>, RegistryError> {
        let servers = servers::servers()?;
        Ok(servers
            .into_iter()
            .filter(|server| server.role == Role::Peer)
            .map(|server| Peer { id: server.id, name: server.name })
            .collect())
    }

    fn subscriptions(&self) -> Result<Vec<Subscription>, RegistryError> {
        let here = servers::here();
        let nodes: Vec<NodeName> = servers::servers()?.into_iter().map(|server| server.name).collect();
        Spi::connect(|client| {
            let rows = prepared::select(
                client,
                "SELECT s.oid, s.subname, s.subenabled, s.subpublications, l.label, w.rolsuper,
                        EXISTS (SELECT FROM pg_catalog.pg_subscription_rel r WHERE r.srsubid = s.oid),
                        coalesce(o.roident, 0)::pg_catalog.int4, w.rolname
                   FROM pg_catalog.pg_subscription s
                   JOIN pg_catalog.pg_roles w ON w.oid = s.subowner
                   LEFT JOIN pg_catalog.pg_replication_origin o ON o.roname = 'pg_' || s.oid
                   LEFT JOIN pg_catalog.pg_shseclabel l
                          ON l.objoid = s.oid AND l.classoid = 'pg_catalog.pg_subscription'::pg_catalog.regclass
                         AND l.provider = 'spock_recovery'
                  WHERE s.subdbid = $1
                  ORDER BY s.subname",
                None,
                &[Oid::from_u32(here.database).into()],
            )?;
            let mut subscriptions = Vec::new();
            for row in rows {
                let (Some(id), Some(name)) = (row.get::<Oid>(1)?, row.get::<Name>(2)?) else {
                    continue;
                };
                let label = row.get::<Text>(5)?.map(|text| text.to_utf8());
                let label = SubscriptionLabel::read(label.as_deref(), here).own();
                let is_enabled = row.get::<bool>(3)?.unwrap_or(false);
                let is_trusted = row.get::<bool>(6)?.unwrap_or(false);
                let knows_tables = row.get::<bool>(7)?.unwrap_or(false);
                let origin_id = row.get::<i32>(8)?.unwrap_or(0) as u16;
                subscriptions.push(Subscription {
                    id,
                    name: name.0,
                    owner: row.get::<Name>(9)?.map(|owner| owner.0).unwrap_or_default(),
                    is_enabled,
                    // If the foreign server of the node was dropped, the label's node is not known any more, and the
                    // origin is unknown.
                    origin: match label {
                        Ok(label) => origin_by(label.filter(|label| is_known(label, &nodes)), id, is_trusted),
                        Err(error) => Origin::Unreadable(error),
                    },
                    is_trusted,
                    has_connected: is_enabled || knows_tables || origin::progress(origin_id) != OriginLsn::ZERO,
                    publications: row
                        .get::<Vec<Option<Text>>>(4)?
                        .unwrap_or_default()
                        .iter()
                        .flatten()
                        .map(Text::to_utf8)
                        .collect(),
                });
            }
            Ok(subscriptions)
        })
    }

    fn route_to_peer(&self, peer: Oid) -> Result<Option<Route>, RegistryError> {
        if let Some(dsn) = dsn_of_server(peer)? {
            return Ok(Some(Route { dsn, must_use_password: false }));
        }
        let Some(peer) = self.peers()?.into_iter().find(|candidate| candidate.id == peer) else {
            return Ok(None);
        };
        let mut coming: Vec<Subscription> = self
            .subscriptions()?
            .into_iter()
            .filter(|subscription| subscription.origin.node() == Some(&peer.name))
            .collect();
        // The connection of a subscription whose owner is not a superuser is used only if there is no other one.
        coming.sort_by_key(|subscription| (!subscription.is_trusted, !subscription.is_enabled));
        match coming.first() {
            Some(subscription) => self.route_of_subscription(subscription.id),
            None => Ok(None),
        }
    }

    fn route_of_subscription(&self, subscription: Oid) -> Result<Option<Route>, RegistryError> {
        Spi::connect(|client| {
            let rows = prepared::select(
                client,
                "SELECT s.subconninfo, s.subpasswordrequired AND NOT r.rolsuper
                   FROM pg_catalog.pg_subscription s JOIN pg_catalog.pg_authid r ON r.oid = s.subowner
                  WHERE s.oid = $1",
                Some(1),
                &[subscription.into()],
            )?;
            match rows.into_iter().next() {
                Some(row) => Ok(row.get::<Text>(1)?.map(|conninfo| Route {
                    dsn: Dsn::of_catalog(conninfo),
                    must_use_password: row.get::<bool>(2).ok().flatten().unwrap_or(true),
                })),
                None => Ok(None),
            }
        })
    }

    fn suspend(&self, subscription: Oid) -> bool {
        subscription::set_enabled(subscription, false)
    }

    fn resume(&self, subscription: Oid) -> bool {
        subscription::set_enabled(subscription, true)
    }

    fn processes(&self, subscriptions: &[Oid]) -> Result<Vec<ApplyProcess>, RegistryError> {
        Spi::connect(|client| {
            let rows = prepared::select(
                client,
                "SELECT pid, subid FROM pg_catalog.pg_stat_get_subscription(NULL) WHERE pid IS NOT NULL",
                None,
                &[],
            )?;
            let mut processes = Vec::new();
            for row in rows {
                if let (Some(pid), Some(subscription)) = (row.get::<i32>(1)?, row.get::<Oid>(2)?)
                    && subscriptions.contains(&subscription)
                {
                    processes.push(ApplyProcess { pid, subscription });
                }
            }
            Ok(processes)
        })
    }
}

fn is_known(label: &SubscriptionLabel, nodes: &[NodeName]) -> bool {
    label.origin.as_ref().is_none_or(|origin| nodes.contains(origin))
}

/// The origin that a subscription's label states. A label whose subscription has an owner without superuser rights is
/// believed only for the connection for which it was written; otherwise that owner could lead this node to another
/// server.
pub fn origin_by(label: Option<SubscriptionLabel>, subscription: Oid, is_trusted: bool) -> Origin {
    match label {
        None => Origin::Unknown,
        Some(SubscriptionLabel { origin: None, .. }) => Origin::Foreign,
        Some(SubscriptionLabel { origin: Some(node), set_by, connection, .. }) => {
            let is_same = || connection.is_some() && connection == subscription::connection_digest(subscription);
            if is_trusted || is_same() { Origin::Node(node, set_by) } else { Origin::Doubted(node) }
        }
    }
}

/// The connection string of a node, which is in the user mapping for PUBLIC. Only superusers can read it.
pub fn dsn_of_server(server: Oid) -> Result<Option<Dsn>, RegistryError> {
    dsn_of_mapping(server, Oid::INVALID)
}

/// The connection string that was given for the running recovery, if there is one.
pub fn dsn_for_recovery(server: Oid) -> Result<Option<Dsn>, RegistryError> {
    dsn_of_mapping(server, foreign_server::BOOTSTRAP_SUPERUSER)
}

/// The invalid oid stands for PUBLIC. pgrx passes it to the query as NULL.
fn dsn_of_mapping(server: Oid, user: Oid) -> Result<Option<Dsn>, RegistryError> {
    Spi::connect(|client| {
        let rows = prepared::select(
            client,
            "SELECT o.option_value
               FROM pg_catalog.pg_user_mapping m, pg_catalog.pg_options_to_table(m.umoptions) o
              WHERE m.umserver = $1 AND m.umuser = coalesce($2, 0::pg_catalog.oid) AND o.option_name = 'dsn'",
            Some(1),
            &[server.into(), user.into()],
        )?;
        match rows.into_iter().next() {
            Some(row) => Ok(row.get::<Text>(1)?.map(Dsn::of_catalog)),
            None => Ok(None),
        }
    })
}
