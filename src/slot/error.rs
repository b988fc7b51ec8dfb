//! Errors of the functions for the recovery slot.

use crate::error::SqlError;
use pgrx::PgSqlErrorCode;

#[derive(Debug, thiserror::Error)]
pub enum SlotError {
    #[error("permission denied for {function}")]
    NotPrivileged { function: &'static str },
    #[error("permission denied for {function}")]
    NotSuperuser { function: &'static str },
    #[error("database is not a node")]
    NoNode,
    #[error("recovery slots are switched off")]
    Disabled,
    #[error("{function} cannot run in a transaction that has performed writes")]
    HasWritten { function: &'static str },
    #[error("no manager of spock_recovery runs for this database")]
    NoManager,
    #[error("could not {action} the recovery slot: {reason}")]
    Failed { action: &'static str, reason: String },
}

impl SqlError for SlotError {
    fn sqlstate(&self) -> PgSqlErrorCode {
        match self {
            SlotError::NotPrivileged { .. } | SlotError::NotSuperuser { .. } => {
                PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE
            }
            SlotError::NoNode | SlotError::Disabled | SlotError::NoManager => {
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE
            }
            SlotError::HasWritten { .. } => PgSqlErrorCode::ERRCODE_ACTIVE_SQL_TRANSACTION,
            SlotError::Failed { .. } => PgSqlErrorCode::ERRCODE_OPERATOR_INTERVENTION,
        }
    }

    fn detail(&self) -> Option<String> {
        match self {
            SlotError::NotPrivileged { .. } => {
                Some("It is for superusers, roles with REPLICATION and members of pg_monitor.".to_owned())
            }
            SlotError::HasWritten { .. } => Some(
                "Creating a slot waits for all transactions that have written, this one included, and ROLLBACK does not \
                 undo what was done to a slot."
                    .to_owned(),
            ),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            SlotError::NotSuperuser { .. } => "Call it as a superuser.".to_owned(),
            SlotError::NotPrivileged { .. } => "GRANT pg_monitor TO …, or ALTER ROLE … REPLICATION.".to_owned(),
            SlotError::NoNode => {
                "Make it one with SELECT spock.node_create('n1', 'host=… port=5432 dbname=…');".to_owned()
            }
            SlotError::Disabled => {
                "ALTER SYSTEM SET spock.enable_recovery_slots = on; SELECT pg_reload_conf();".to_owned()
            }
            SlotError::HasWritten { .. } => "End the transaction first.".to_owned(),
            SlotError::NoManager => {
                "Raise max_worker_processes, or see the server's log for what ends the manager.".to_owned()
            }
            SlotError::Failed { .. } => "SELECT * FROM spock.quick_health_check();".to_owned(),
        })
    }
}
