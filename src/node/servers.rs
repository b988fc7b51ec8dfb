//! The nodes that this database knows, as the catalogs list them: foreign servers of the wrapper `spock_node`.
//!
//! The local node's foreign server carries the identity of the server and database in which it was created. That
//! identity does not match in a copy elsewhere.

use super::error::RegistryError;
use crate::identity::DatabaseIdentity;
use crate::node_name::NodeName;
use crate::pg::name::Name;
use crate::pg::text::Text;
use crate::pg::{prepared, process};
use pgrx::Spi;
use pgrx::pg_sys::Oid;
use std::ffi::CStr;

/// The foreign-data wrapper that makes a foreign server a node.
pub const WRAPPER: &CStr = c"spock_node";

/// The option of a user mapping that holds a connection string.
pub const DSN: &str = "dsn";

/// A foreign server of the wrapper `spock_node`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeServer {
    pub id: Oid,
    pub name: NodeName,
    pub role: Role,
    /// The database whose local node this is; None for a peer.
    pub identity: Option<DatabaseIdentity>,
    /// The database to which a peer is bound since it first answered. The name alone does not identify a peer, because
    /// any server may answer with it.
    pub bound: Option<DatabaseIdentity>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Local,
    /// The local node of the database from which this one was copied.
    LocalElsewhere,
    Peer,
}

/// The identity of this database.
pub fn here() -> DatabaseIdentity {
    DatabaseIdentity { system_identifier: process::system_identifier(), database: process::my_database().to_u32() }
}

/// All nodes that this database knows, ordered by name. Every user who may call node_identity() must be able to run
/// this query. Hence it reads no user mappings, and uses no operator that a search_path could replace.
pub fn servers() -> Result<Vec<NodeServer>, RegistryError> {
    let here = here();
    Spi::connect(|client| {
        let rows = prepared::select(
            client,
            "SELECT s.oid, s.srvname, s.srvoptions
               FROM pg_catalog.pg_foreign_server s
               JOIN pg_catalog.pg_foreign_data_wrapper w ON w.oid = s.srvfdw
              WHERE w.fdwname = 'spock_node'
              ORDER BY s.srvname",
            None,
            &[],
        )?;
        let mut servers = Vec::new();
        for row in rows {
            let (Some(id), Some(name)) = (row.get::<Oid>(1)?, row.get::<Name>(2)?) else {
                continue;
            };
            let options: Vec<String> =
                row.get::<Vec<Option<Text>>>(3)?.unwrap_or_default().iter().flatten().map(Text::to_utf8).collect();
            let identity = DatabaseIdentity::from_server_options(options.iter().map(String::as_str));
            let bound = DatabaseIdentity::from_peer_options(options.iter().map(String::as_str));
            let role = match identity {
                Some(identity) if identity == here => Role::Local,
                Some(_) => Role::LocalElsewhere,
                None => Role::Peer,
            };
            // A server that was created by hand under a name that no node can have is not a node.
            if let Ok(name) = NodeName::parse(&name.0) {
                servers.push(NodeServer { id, name, role, identity, bound });
            }
        }
        Ok(servers)
    })
}

/// The identity in a server's options, which only the server of a local node has.
pub fn identity_of(options: &[Option<Text>]) -> Option<DatabaseIdentity> {
    let options: Vec<String> = options.iter().flatten().map(Text::to_utf8).collect();
    DatabaseIdentity::from_server_options(options.iter().map(String::as_str))
}
