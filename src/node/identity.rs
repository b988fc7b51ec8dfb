//! Which database of which server a document belongs to (pure). What was written elsewhere is inert here.

use serde::{Deserialize, Serialize};

/// A database of a server. Two nodes never share both; a physical copy shares both with its original.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct DatabaseIdentity {
    /// pg_control's system identifier, made anew by each initdb.
    pub system_identifier: u64,
    /// The database's oid there.
    pub database: u32,
}

impl DatabaseIdentity {
    /// The options that make a foreign server the local node of this database.
    pub fn server_options(self) -> [(&'static str, String); 2] {
        [(SYSTEM_IDENTIFIER, self.system_identifier.to_string()), (DATABASE, self.database.to_string())]
    }

    /// The identity that a server's options carry, in catalog form (`name=value`); None for a peer's server.
    pub fn from_server_options<'a>(options: impl IntoIterator<Item = &'a str>) -> Option<DatabaseIdentity> {
        let (mut system_identifier, mut database) = (None, None);
        for option in options {
            match option.split_once('=') {
                Some((SYSTEM_IDENTIFIER, value)) => system_identifier = value.parse().ok(),
                Some((DATABASE, value)) => database = value.parse().ok(),
                _ => (),
            }
        }
        Some(DatabaseIdentity { system_identifier: system_identifier?, database: database? })
    }
}

/// Option of a local node's server: the system identifier of the server it was created on.
pub const SYSTEM_IDENTIFIER: &str = "system_identifier";
/// Option of a local node's server: the oid of the database it was created in.
pub const DATABASE: &str = "database";

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
    fn a_server_without_both_options_is_no_local_node() {
        for options in
            [vec![], vec!["database=1"], vec!["system_identifier=1"], vec!["system_identifier=x", "database=1"]]
        {
            assert_eq!(DatabaseIdentity::from_server_options(options), None);
        }
    }
}
