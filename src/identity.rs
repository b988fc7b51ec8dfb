//! The identity of the database and server to which a document belongs (pure). A document that was written elsewhere
//! has no effect here.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A database of a server. No two nodes have the same identity, but a physical copy has the identity of its original.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct DatabaseIdentity {
    /// The system identifier in pg_control, which each initdb generates anew.
    pub system_identifier: u64,
    /// The oid of the database on that server.
    pub database: u32,
}

impl DatabaseIdentity {
    /// The options that make a foreign server the local node of this database.
    pub fn server_options(self) -> [(&'static str, String); 2] {
        [(SYSTEM_IDENTIFIER, self.system_identifier.to_string()), (DATABASE, self.database.to_string())]
    }

    /// The options that bind a peer's foreign server to this database.
    pub fn peer_options(self) -> [(&'static str, String); 2] {
        [(PEER_SYSTEM_IDENTIFIER, self.system_identifier.to_string()), (PEER_DATABASE, self.database.to_string())]
    }

    /// The identity in a foreign server's options, which have the catalog's form (`name=value`); None for a peer.
    pub fn from_server_options<'a>(options: impl IntoIterator<Item = &'a str>) -> Option<DatabaseIdentity> {
        DatabaseIdentity::from_options(options, SYSTEM_IDENTIFIER, DATABASE)
    }

    /// The identity to which a peer's foreign server is bound; None if the peer has not answered yet.
    pub fn from_peer_options<'a>(options: impl IntoIterator<Item = &'a str>) -> Option<DatabaseIdentity> {
        DatabaseIdentity::from_options(options, PEER_SYSTEM_IDENTIFIER, PEER_DATABASE)
    }

    fn from_options<'a>(
        options: impl IntoIterator<Item = &'a str>,
        of_server: &str,
        of_database: &str,
    ) -> Option<DatabaseIdentity> {
        let (mut system_identifier, mut database) = (None, None);
        for (name, value) in options.into_iter().filter_map(|option| option.split_once('=')) {
            if name == of_server {
                system_identifier = value.parse().ok();
            } else if name == of_database {
                database = value.parse().ok();
            }
        }
        Some(DatabaseIdentity { system_identifier: system_identifier?, database: database? })
    }
}

impl fmt::Display for DatabaseIdentity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "system identifier {}, database oid {}", self.system_identifier, self.database)
    }
}

/// Option of the local node's foreign server: the system identifier of the server on which the node was created.
pub const SYSTEM_IDENTIFIER: &str = "system_identifier";
/// Option of the local node's foreign server: the oid of the database in which the node was created.
pub const DATABASE: &str = "database";
/// Option of a peer's foreign server: the system identifier with which the peer first answered.
pub const PEER_SYSTEM_IDENTIFIER: &str = "peer_system_identifier";
/// Option of a peer's foreign server: the oid of the peer's database at that time.
pub const PEER_DATABASE: &str = "peer_database";

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: DatabaseIdentity = DatabaseIdentity { system_identifier: u64::MAX, database: 16384 };

    #[test]
    fn options_give_back_the_identity_they_were_made_of() {
        let options = HERE.server_options().map(|(name, value)| format!("{name}={value}"));
        assert_eq!(DatabaseIdentity::from_server_options(options.iter().map(String::as_str)), Some(HERE));
    }

    #[test]
    fn what_a_peer_is_bound_to_does_not_make_it_the_local_node() {
        let options = HERE.peer_options().map(|(name, value)| format!("{name}={value}"));
        assert_eq!(DatabaseIdentity::from_peer_options(options.iter().map(String::as_str)), Some(HERE));
        assert_eq!(DatabaseIdentity::from_server_options(options.iter().map(String::as_str)), None);
    }

    #[test]
    fn a_server_without_both_options_is_no_local_node() {
        for options in
            [vec![], vec!["database=1"], vec!["system_identifier=1"], vec!["system_identifier=x", "database=1"]]
        {
            assert_eq!(DatabaseIdentity::from_server_options(options), None);
        }
    }
}
