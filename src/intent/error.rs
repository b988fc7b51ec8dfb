//! The errors of intents and of the journal.

use crate::error::SqlError;
use crate::intent_id::IntentId;
use crate::lsn::OriginLsn;
use crate::node::error::RegistryError;
use pgrx::PgSqlErrorCode;

#[derive(Debug, thiserror::Error)]
pub enum IntentError {
    #[error("a recovery of node \"{failed}\" is running on this node")]
    AlreadyRunning { failed: String, source_node: String, id: IntentId },
    #[error("a rebuild from node \"{source_node}\" is running on this node")]
    RebuildRuns { source_node: String, id: IntentId },
    #[error("intent {id} does not exist")]
    Unknown { id: IntentId },
    #[error("intent {id} has ended")]
    Ended { id: IntentId },
    #[error("intent {id} is not in the phase that this step requires")]
    OutOfOrder { id: IntentId },
    #[error("no recovery of node \"{failed}\" is running on this node")]
    NotRunning { failed: String },
    #[error("the recovery of node \"{failed}\" does not wait at {asked}")]
    NotFailing { failed: String, asked: OriginLsn, failing: Option<OriginLsn>, is_at_fault: bool },
    #[error("permission denied for {function}")]
    NotSuperuser { function: &'static str },
    #[error("{argument} must not be null")]
    NullArgument { argument: &'static str, hint: &'static str },
    #[error("the extension's schema does not exist")]
    NoSchema,
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

impl SqlError for IntentError {
    fn sqlstate(&self) -> PgSqlErrorCode {
        match self {
            IntentError::AlreadyRunning { .. } | IntentError::RebuildRuns { .. } => {
                PgSqlErrorCode::ERRCODE_OBJECT_IN_USE
            }
            IntentError::Unknown { .. } | IntentError::NotRunning { .. } => PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            IntentError::Ended { .. } | IntentError::OutOfOrder { .. } | IntentError::NoSchema => {
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE
            }
            IntentError::NotFailing { .. } => PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            IntentError::NotSuperuser { .. } => PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            IntentError::NullArgument { .. } => PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
            IntentError::Registry(error) => error.sqlstate(),
        }
    }

    fn detail(&self) -> Option<String> {
        match self {
            IntentError::AlreadyRunning { source_node, id, .. } => {
                Some(format!("It is intent {id}, with source node \"{source_node}\"; one recovery runs at a time."))
            }
            IntentError::RebuildRuns { id, .. } => Some(format!("It is intent {id}; one runs at a time.")),
            IntentError::NotFailing { failing: Some(failing), .. } => {
                Some(format!("The transaction that it cannot apply ended at {failing}."))
            }
            IntentError::NotFailing { failing: None, .. } => {
                Some("No transaction has failed: the recovery is applying, or waits for something else.".to_owned())
            }
            IntentError::Registry(error) => error.detail(),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            IntentError::AlreadyRunning { failed, .. } => Some(format!(
                "Wait until it has ended (SELECT * FROM spock.recovery_progress), or end it with CALL spock.recover_abort({}).",
                quoted(failed)
            )),
            IntentError::RebuildRuns { .. } => Some(
                "Wait until it has ended (SELECT * FROM spock.rebuild_progress), or end it with CALL spock.rebuild_abort()."
                    .to_owned(),
            ),
            IntentError::NotFailing { failed, failing: Some(failing), is_at_fault: true, .. } => {
                Some(format!("SELECT spock.recover_skip({}, '{failing}') skips that transaction.", quoted(failed)))
            }
            IntentError::NotFailing { .. }
            | IntentError::Unknown { .. }
            | IntentError::Ended { .. }
            | IntentError::OutOfOrder { .. }
            | IntentError::NotRunning { .. } => Some("SELECT * FROM spock.recovery_intents();".to_owned()),
            IntentError::NotSuperuser { .. } => Some("Call it as a superuser.".to_owned()),
            IntentError::NullArgument { hint, .. } => Some((*hint).to_owned()),
            IntentError::NoSchema => Some("CREATE EXTENSION spock_recovery;".to_owned()),
            IntentError::Registry(error) => error.hint(),
        }
    }
}

fn quoted(name: &str) -> String {
    format!("'{}'", name.replace('\'', "''"))
}
