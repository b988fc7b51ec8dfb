//! The checks of versions: whether the SQL objects in the database match the library, and whether peers speak a
//! protocol that this node understands (pure).

use super::judge::{Check, Status};
use crate::protocol;
use std::cmp::Ordering;

/// Compares the version of the extension's SQL objects in this database with that of the loaded library. None: they are
/// equal.
pub fn sql(installed: &str, library: &str) -> Option<Check> {
    let details = match of(installed).cmp(&of(library)) {
        Ordering::Equal => return None,
        Ordering::Less => format!(
            "the server has loaded version {library}, but the SQL objects in this database are of version \
             {installed}, and functions that are new are missing: ALTER EXTENSION spock_recovery UPDATE;"
        ),
        Ordering::Greater => format!(
            "the SQL objects in this database are of version {installed}, but the server has loaded the older version \
             {library}: functions that are new fail; install the package of version {installed} and restart the \
             server"
        ),
    };
    Some(Check { name: "extension".to_owned(), status: Status::Warning, details })
}

/// The numbers of a version, so that 0.10.0 comes after 0.9.0.
fn of(version: &str) -> Vec<u32> {
    version.split(['.', '-', '+']).map(|part| part.parse().unwrap_or(0)).collect()
}

/// The check of a peer's protocol. None: the two nodes understand each other.
pub fn peer(name: &str, theirs: u32) -> Option<Check> {
    let node = match protocol::lags(protocol::OURS, theirs) {
        Ordering::Equal => return None,
        Ordering::Less => "this node".to_owned(),
        Ordering::Greater => format!("node \"{name}\""),
    };
    let ours = protocol::OURS;
    let details = format!(
        "its protocol version is {theirs}, that of this node is {ours}: neither can be recovered from the other; \
         upgrade {node}: install the package there, restart the server, and ALTER EXTENSION spock_recovery UPDATE;"
    );
    Some(Check { name: format!("version of peer {name}"), status: Status::Critical, details })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sql_of_another_version_is_told_with_what_to_type() {
        assert_eq!(sql("0.2.0", "0.2.0"), None);
        let details = |installed, library| sql(installed, library).map(|check| check.details).unwrap_or_default();
        assert!(details("0.9.0", "0.10.0").ends_with("ALTER EXTENSION spock_recovery UPDATE;"));
        assert!(details("0.10.0", "0.9.0").contains("install the package of version 0.10.0"));
    }

    #[test]
    fn of_peers_that_do_not_understand_each_other_the_older_one_is_named() {
        assert_eq!(peer("n2", protocol::OURS + 1), None);
        assert!(peer("n2", protocol::OURS + 2).is_some_and(|check| check.details.contains("upgrade this node")));
    }
}
