//! The errors of a comparison. No variant can hold a row's value or a connection string.

use crate::error::{SqlError, known_sqlstate};
use crate::intent::IntentError;
use crate::intent_id::IntentId;
use crate::node::error::RegistryError;
use crate::recover::error::RecoverError;
use pgrx::PgSqlErrorCode;
use pgrx::spi::quote_literal;

#[derive(Debug, thiserror::Error)]
pub enum ComparisonError {
    #[error("permission denied for {function}")]
    NotSuperuser { function: &'static str },
    #[error("{argument} must not be null")]
    NullArgument { argument: &'static str },
    #[error("pace_mb_per_s must not be negative")]
    NegativePace,
    #[error("this database is not a node")]
    NoNode,
    #[error("node \"{node}\" does not exist")]
    UnknownNode { node: String },
    #[error("node \"{node}\" is this node")]
    ThisNode { node: String },
    #[error("this node does not subscribe to node \"{node}\"")]
    NoSubscription { node: String },
    #[error("table \"{table}\" is not replicated from node \"{node}\"")]
    NotReplicated { table: String, node: String },
    #[error("node \"{node}\" has an older version of spock_recovery, which cannot be asked for hashes")]
    PeerTooOld { node: String },
    #[error("comparison {id} does not exist")]
    Unknown { id: IntentId },
    #[error("another comparison is running in this database")]
    Running,
    #[error("large object {object}, which kept the comparison, was removed")]
    Lost { object: u32 },
    #[error("no manager of spock_recovery runs in this database")]
    NoManager,
    #[error("no background worker is free for the comparison")]
    NoWorker,
    #[error("the worker that compares has ended")]
    WorkerEnded,
    /// An ERROR where none is expected. The server's log has its message, which may quote a row.
    #[error("the comparison has failed")]
    Failed { sqlstate: PgSqlErrorCode },
    /// What the worker has reported.
    #[error("{message}")]
    Reported { sqlstate: String, message: String, detail: String, hint: String },
    #[error(transparent)]
    Recover(#[from] RecoverError),
    #[error(transparent)]
    Intent(#[from] IntentError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error("a query of the catalogs failed: {0}")]
    Spi(#[from] pgrx::spi::Error),
}

/// What to do where a comparison that has stopped goes on.
const GOES_ON: &str = "CALL spock.compare() with the same arguments again: it goes on where it stopped.";

impl SqlError for ComparisonError {
    fn sqlstate(&self) -> PgSqlErrorCode {
        use ComparisonError as E;
        match self {
            E::NotSuperuser { .. } => PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            E::NullArgument { .. } => PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
            E::NegativePace | E::ThisNode { .. } => PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            E::UnknownNode { .. } | E::Unknown { .. } | E::Lost { .. } => PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            E::NotReplicated { .. } => PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE,
            E::NoNode | E::NoSubscription { .. } | E::PeerTooOld { .. } | E::NoManager | E::WorkerEnded => {
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE
            }
            E::Running => PgSqlErrorCode::ERRCODE_OBJECT_IN_USE,
            E::NoWorker => PgSqlErrorCode::ERRCODE_INSUFFICIENT_RESOURCES,
            E::Failed { sqlstate } => *sqlstate,
            E::Reported { sqlstate, .. } => known_sqlstate(sqlstate).unwrap_or(PgSqlErrorCode::ERRCODE_INTERNAL_ERROR),
            E::Recover(error) => error.sqlstate(),
            E::Intent(error) => error.sqlstate(),
            E::Registry(error) => error.sqlstate(),
            E::Spi(_) => PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
        }
    }

    fn detail(&self) -> Option<String> {
        use ComparisonError as E;
        match self {
            E::Failed { .. } => Some("The server's log has the error.".to_owned()),
            E::Running => Some("One comparison runs at a time.".to_owned()),
            E::Reported { detail, .. } => Some(detail.clone()).filter(|detail| !detail.is_empty()),
            E::Recover(error) => error.detail(),
            E::Intent(error) => error.detail(),
            E::Registry(error) => error.detail(),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        use ComparisonError as E;
        Some(match self {
            E::NotSuperuser { .. } => "Call it as a superuser.".to_owned(),
            E::NullArgument { .. } => "CALL spock.compare('n2');".to_owned(),
            E::NegativePace => "Zero sets no limit.".to_owned(),
            E::NoNode => "SELECT spock.node_create('n1', 'host=… dbname=…'); makes it one.".to_owned(),
            E::UnknownNode { .. } | E::ThisNode { .. } => {
                "SELECT node_name FROM spock.node WHERE NOT is_local; shows the others.".to_owned()
            }
            E::NoSubscription { node } => format!(
                "A table is compared with that of a node from which it is replicated. If a subscription leads there: SELECT spock.sub_set_origin('…', {});",
                quote_literal(node)
            ),
            E::NotReplicated { .. } => {
                "SELECT srrelid::regclass FROM pg_subscription_rel; shows the tables that are.".to_owned()
            }
            E::PeerTooOld { node } => {
                format!("Upgrade node \"{node}\", and ALTER EXTENSION spock_recovery UPDATE; there.")
            }
            E::Unknown { .. } => "SELECT * FROM spock.comparisons; shows those that are known.".to_owned(),
            E::Running => "SELECT * FROM spock.comparisons; shows how far it is.".to_owned(),
            E::NoManager => "See the server's log, and CALL it again.".to_owned(),
            E::NoWorker => "Raise max_worker_processes, or wait until a worker has ended.".to_owned(),
            E::Lost { .. } => "CALL spock.compare() begins anew.".to_owned(),
            E::WorkerEnded | E::Failed { .. } => format!("See the server's log, and {GOES_ON}"),
            E::Reported { hint, .. } => return Some(hint.clone()).filter(|hint| !hint.is_empty()),
            E::Recover(RecoverError::Remote { .. }) => GOES_ON.to_owned(),
            E::Recover(error) => return error.hint(),
            E::Intent(error) => return error.hint(),
            E::Registry(error) => return error.hint(),
            E::Spi(_) => return None,
        })
    }
}
