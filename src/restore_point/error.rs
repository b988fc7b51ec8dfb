//! The errors of restore points.

use crate::barrier::BarrierError;
use crate::error::{SqlError, known_sqlstate};
use crate::node::error::RegistryError;
use crate::quoted::literal;
use crate::slot::saved_storage::SaveError;
use pgrx::PgSqlErrorCode;

#[derive(Debug, thiserror::Error)]
pub enum RestorePointError {
    #[error("database is not a node")]
    NoNode,
    #[error("the schema spock_internal does not exist")]
    NoSchema,
    #[error("name of a restore point {0}")]
    BadName(&'static str),
    #[error("{argument} must not be null")]
    NullArgument { argument: &'static str },
    #[error("drop_restore_point() cannot run inside a transaction block")]
    WithinBlock,
    #[error("lease is outside its range")]
    BadLease,
    #[error("name \"{name}\" is used already")]
    NameUsed { name: String, by_dropped: bool },
    #[error("restore point \"{name}\" does not exist")]
    Unknown { name: String },
    #[error("node \"{node}\" does not answer")]
    PeerSilent { node: String, why: String },
    #[error("node \"{node}\" could not take part: {message}")]
    PeerFailed { node: String, sqlstate: String, message: String },
    #[error("node \"{node}\" knows a node \"{stranger}\" that this node does not know")]
    Stranger { node: String, stranger: String },
    #[error("too many nodes take part")]
    TooManyNodes,
    #[error("no worker can make the restore point")]
    NoWorker,
    #[error("the worker that made the restore point has ended")]
    WorkerEnded,
    #[error("another restore point of this database is being made")]
    Busy,
    #[error("no manager of spock_recovery runs for this database")]
    NoManager,
    #[error("argument of step \"{step}\" is malformed")]
    BadStep { step: String },
    /// What a worker has reported.
    #[error("{message}")]
    Reported { sqlstate: String, message: String, detail: String, hint: String },
    #[error(transparent)]
    Barrier(#[from] BarrierError),
    #[error(transparent)]
    Save(#[from] SaveError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

impl From<pgrx::spi::Error> for RestorePointError {
    fn from(error: pgrx::spi::Error) -> RestorePointError {
        RestorePointError::Registry(error.into())
    }
}

impl SqlError for RestorePointError {
    fn sqlstate(&self) -> PgSqlErrorCode {
        use RestorePointError as E;
        match self {
            E::NoNode | E::NoSchema | E::NoManager | E::Stranger { .. } => {
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE
            }
            E::WithinBlock => PgSqlErrorCode::ERRCODE_ACTIVE_SQL_TRANSACTION,
            E::BadName(_) => PgSqlErrorCode::ERRCODE_INVALID_NAME,
            E::NullArgument { .. } => PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
            E::BadLease | E::BadStep { .. } => PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            E::NameUsed { .. } => PgSqlErrorCode::ERRCODE_DUPLICATE_OBJECT,
            E::Unknown { .. } => PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            E::PeerSilent { .. } => PgSqlErrorCode::ERRCODE_CONNECTION_FAILURE,
            E::TooManyNodes => PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
            E::NoWorker => PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
            E::WorkerEnded => PgSqlErrorCode::ERRCODE_OPERATOR_INTERVENTION,
            E::Busy => PgSqlErrorCode::ERRCODE_OBJECT_IN_USE,
            E::PeerFailed { sqlstate, .. } | E::Reported { sqlstate, .. } => {
                known_sqlstate(sqlstate).unwrap_or(PgSqlErrorCode::ERRCODE_CONNECTION_FAILURE)
            }
            E::Barrier(error) => error.sqlstate(),
            E::Save(error) => error.sqlstate(),
            E::Registry(error) => error.sqlstate(),
        }
    }

    fn detail(&self) -> Option<String> {
        use RestorePointError as E;
        Some(match self {
            E::NameUsed { by_dropped: true, .. } => {
                "A restore point of this name was dropped. WAL still holds its record, and recovery stops at the first \
                 record of a name."
                    .to_owned()
            }
            E::NameUsed { .. } => "Recovery stops at the first record of a name.".to_owned(),
            E::PeerSilent { why, .. } => format!("{why}."),
            E::WithinBlock => {
                "The other nodes drop the restore point at once, and a ROLLBACK here would not bring it back there."
                    .to_owned()
            }
            E::BadLease => "It may be from 10 ms to 60 s.".to_owned(),
            E::Stranger { .. } => "A restore point needs every node of the mesh.".to_owned(),
            E::NoWorker => "No worker slot is free (max_worker_processes).".to_owned(),
            E::WorkerEnded => {
                "Commits are held back nowhere once the lease has run out. The restore point may be listed as loose."
                    .to_owned()
            }
            E::Reported { detail, .. } if !detail.is_empty() => detail.clone(),
            E::Barrier(error) => return error.detail(),
            E::Save(error) => return error.detail(),
            E::Registry(error) => return error.detail(),
            _ => return None,
        })
    }

    fn hint(&self) -> Option<String> {
        use RestorePointError as E;
        Some(match self {
            E::NoNode => "Make it one with SELECT spock.node_create('n1', 'host=… port=5432 dbname=…');".to_owned(),
            E::NoSchema => "ALTER EXTENSION spock_recovery UPDATE;".to_owned(),
            E::BadName(_) | E::NullArgument { .. } => {
                "Give it a name: SELECT * FROM spock.create_restore_point('before-release-42');".to_owned()
            }
            E::WithinBlock => "COMMIT or ROLLBACK first, then call it by itself.".to_owned(),
            E::BadLease => "SELECT * FROM spock.create_restore_point('…', lease := '1 s');".to_owned(),
            E::NameUsed { name, .. } => {
                format!("Choose another name, such as {}.", literal(&format!("{name}-2")))
            }
            E::Unknown { .. } => "SELECT * FROM spock.restore_points();".to_owned(),
            E::PeerSilent { .. } => {
                "Bring it back, or make a restore point of the others: SELECT * FROM spock.create_restore_point('…', \
                 drain := false); drop a node that is gone for good with spock.node_drop()."
                    .to_owned()
            }
            E::PeerFailed { sqlstate, .. } if sqlstate == "42501" => {
                "On that node, let the role with which this node connects take part: GRANT EXECUTE \
                 ON FUNCTION spock_internal.restore_point_step TO …;"
                    .to_owned()
            }
            E::PeerFailed { sqlstate, .. } if matches!(sqlstate.as_str(), "42883" | "3F000") => {
                "Install this version of spock_recovery there, and run ALTER EXTENSION spock_recovery UPDATE;"
                    .to_owned()
            }
            E::PeerFailed { .. } => "SELECT * FROM spock.quick_health_check(); on that node.".to_owned(),
            E::Stranger { stranger, .. } => {
                format!("SELECT spock.peer_create({}, 'host=… port=5432 dbname=…');", literal(stranger))
            }
            E::TooManyNodes => return None,
            E::NoWorker => "Raise max_worker_processes and restart the server.".to_owned(),
            E::WorkerEnded => "See the server's log, and SELECT * FROM spock.restore_points();".to_owned(),
            E::Busy => "Try again.".to_owned(),
            E::NoManager => "Raise max_worker_processes, or see the server's log for what ends the manager.".to_owned(),
            E::BadStep { .. } => "Nodes must have the same version of spock_recovery.".to_owned(),
            E::Reported { hint, .. } if !hint.is_empty() => hint.clone(),
            E::Reported { .. } => return None,
            E::Barrier(error) => return error.hint(),
            E::Save(error) => return error.hint(),
            E::Registry(error) => return error.hint(),
        })
    }
}
