//! What the workers cannot do because there is no room: each kind is reported by one WARNING, and again only after
//! there was room in between.

use crate::error::{SqlError, report_of};
use pgrx::{PgLogLevel, PgSqlErrorCode};

#[derive(Debug, thiserror::Error)]
pub enum NoRoom {
    #[error("no background worker left for the spock_recovery manager of database \"{database}\"")]
    Manager { database: String },
    #[error("no background worker left for the spock_recovery poller {peer}")]
    Poller { peer: String },
    #[error("database \"{database}\" has the extension spock_recovery, but there is no room for it")]
    Database { database: String, max_databases: usize },
    #[error("no background worker left for a recovery in database \"{database}\"")]
    Rescue { database: String },
    #[error("some peers are not watched, because there is no room for them")]
    Peers { max_peers: usize },
}

impl NoRoom {
    pub fn warn(&self) {
        report_of(self).report(PgLogLevel::WARNING);
    }
}

impl SqlError for NoRoom {
    fn sqlstate(&self) -> PgSqlErrorCode {
        PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED
    }

    fn detail(&self) -> Option<String> {
        match self {
            NoRoom::Manager { .. } | NoRoom::Poller { .. } | NoRoom::Rescue { .. } => {
                Some("It is tried again, and starts as soon as another worker has ended.".to_owned())
            }
            NoRoom::Database { max_databases, .. } => Some(format!("spock.max_databases is {max_databases}.")),
            NoRoom::Peers { max_peers } => Some(format!("spock.max_peers is {max_peers}.")),
        }
    }

    fn hint(&self) -> Option<String> {
        let setting = match self {
            NoRoom::Manager { .. } | NoRoom::Poller { .. } | NoRoom::Rescue { .. } => "max_worker_processes",
            NoRoom::Database { .. } => "spock.max_databases",
            NoRoom::Peers { .. } => "spock.max_peers",
        };
        Some(format!("Raise {setting} (ALTER SYSTEM SET {setting} = …) and restart the server."))
    }
}
