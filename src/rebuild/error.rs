//! The errors of a rebuild.

use crate::barrier::BarrierError;
use crate::error::{SqlError, known_sqlstate};
use crate::node::error::RegistryError;
use crate::node::incomplete;
use crate::pg::owned_table::OwnedTableError;
use crate::quoted::literal;
use pgrx::PgSqlErrorCode;

#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    #[error("permission denied for function {function}: role \"{role}\" needs REPLICATION")]
    NotPrivileged { function: &'static str, role: String },
    #[error("database is not a node")]
    NoNode,
    #[error("{argument} must not be null")]
    NullArgument { argument: &'static str },
    #[error("{argument} is outside its range")]
    BadTime { argument: &'static str, range: &'static str },
    #[error("no tables are given")]
    NoTables,
    #[error("node \"{name}\" is not a peer of this node")]
    NoPeer { name: String },
    #[error("intent {intent} has a pin of other tables")]
    OtherTables { intent: String },
    #[error("too many rebuilds use this node as their source")]
    TooManyPins,
    #[error("no worker can hold the snapshot")]
    NoWorker,
    #[error("the worker that was to hold the snapshot has ended")]
    WorkerEnded,
    #[error("no manager of spock_recovery runs for this database")]
    NoManager,
    #[error("a table is being copied from node \"{provider}\" to this node")]
    Unsettled { provider: String },
    #[error("table {table} of node \"{node}\" is incomplete")]
    Incomplete { node: String, table: String },
    #[error("prepared transaction \"{gid}\" belongs to a two-phase subscription")]
    Prepared { gid: String },
    #[error("commits could not be held back for as long as it takes to take a snapshot")]
    NotHeld,
    /// What a worker has reported.
    #[error("{message}")]
    Reported { sqlstate: String, message: String, detail: String, hint: String },
    #[error(transparent)]
    Table(#[from] OwnedTableError),
    #[error(transparent)]
    Barrier(#[from] BarrierError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

impl From<pgrx::spi::Error> for RebuildError {
    fn from(error: pgrx::spi::Error) -> RebuildError {
        RebuildError::Registry(error.into())
    }
}

impl SqlError for RebuildError {
    fn sqlstate(&self) -> PgSqlErrorCode {
        use RebuildError as E;
        match self {
            E::NotPrivileged { .. } => PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            E::NoNode | E::NoManager | E::Unsettled { .. } | E::Incomplete { .. } | E::Prepared { .. } => {
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE
            }
            E::NullArgument { .. } => PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
            E::BadTime { .. } | E::NoTables => PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            E::NoPeer { .. } => PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            E::OtherTables { .. } => PgSqlErrorCode::ERRCODE_OBJECT_IN_USE,
            E::TooManyPins | E::NoWorker => PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
            E::WorkerEnded => PgSqlErrorCode::ERRCODE_OPERATOR_INTERVENTION,
            E::NotHeld => PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE,
            E::Reported { sqlstate, .. } => known_sqlstate(sqlstate).unwrap_or(PgSqlErrorCode::ERRCODE_INTERNAL_ERROR),
            E::Table(error) => error.sqlstate(),
            E::Barrier(error) => error.sqlstate(),
            E::Registry(error) => error.sqlstate(),
        }
    }

    fn detail(&self) -> Option<String> {
        use RebuildError as E;
        Some(match self {
            E::BadTime { range, .. } => format!("It may be {range}."),
            E::TooManyPins => "The snapshots of eight can be held at the same time.".to_owned(),
            E::NoWorker => "No worker slot is free (max_worker_processes).".to_owned(),
            E::Unsettled { .. } => "Its positions say nothing of that table.".to_owned(),
            E::Incomplete { .. } => incomplete::DETAIL.to_owned(),
            E::Prepared { .. } => {
                "Its changes are not in the snapshot, and the target would not receive them afterwards.".to_owned()
            }
            E::NotHeld => "Other transactions commit again.".to_owned(),
            E::Reported { detail, .. } if !detail.is_empty() => detail.clone(),
            E::Table(error) => return error.detail(),
            E::Barrier(error) => return error.detail(),
            E::Registry(error) => return error.detail(),
            _ => return None,
        })
    }

    fn hint(&self) -> Option<String> {
        use RebuildError as E;
        Some(match self {
            E::NotPrivileged { role, .. } => {
                format!("ALTER ROLE {} REPLICATION;", pgrx::spi::quote_identifier(role))
            }
            E::NoNode => "Make it one with SELECT spock.node_create('n1', 'host=… port=5432 dbname=…');".to_owned(),
            E::NullArgument { .. } | E::BadTime { .. } | E::NoTables => {
                "The target's CALL spock.rebuild_run() passes it.".to_owned()
            }
            E::NoPeer { name } => {
                format!("SELECT spock.peer_create({}, 'host=… port=5432 dbname=…');", literal(name))
            }
            E::OtherTables { intent } => {
                format!("SELECT spock_internal.release_pin({}); and try again.", literal(intent))
            }
            E::TooManyPins => "SELECT * FROM spock_internal.pins();".to_owned(),
            E::NoWorker => "Raise max_worker_processes and restart the server.".to_owned(),
            E::WorkerEnded => "See the server's log, and try again.".to_owned(),
            E::NoManager => "Raise max_worker_processes, or see the server's log for what ends the manager.".to_owned(),
            E::Unsettled { .. } => "Wait until the table is ready: SELECT * FROM pg_subscription_rel;".to_owned(),
            E::Incomplete { node, table } => incomplete::hint(node, table),
            E::Prepared { gid } => {
                format!("End it where it was begun, or here: ROLLBACK PREPARED {};", literal(gid))
            }
            E::NotHeld => "Try again, with a longer lease if storage is slow.".to_owned(),
            E::Reported { hint, .. } if !hint.is_empty() => hint.clone(),
            E::Table(error) => return error.hint(),
            E::Barrier(error) => return error.hint(),
            E::Registry(error) => return error.hint(),
            E::Reported { .. } => return None,
        })
    }
}
