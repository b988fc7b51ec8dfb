//! Errors of the functions for clones, which the caller can remedy.

use super::error::SlotError;
use crate::error::SqlError;
use crate::intent::IntentError;
use crate::intent_id::IntentId;
use crate::node::error::RegistryError;
use pgrx::PgSqlErrorCode;
use pgrx::spi::{quote_identifier, quote_literal};

#[derive(Debug, thiserror::Error)]
pub enum CloneError {
    #[error("permission denied for {function}")]
    NotPrivileged { function: &'static str, role: String },
    #[error("{function} cannot run in a transaction that has performed writes")]
    HasWritten { function: &'static str },
    #[error("{argument} must not be null")]
    NullArgument { argument: &'static str },
    #[error("node \"{name}\" does not exist")]
    UnknownNode { argument: &'static str, name: String },
    #[error("node \"{name}\" is this node")]
    IsLocal { argument: &'static str, name: String },
    #[error("node \"{name}\" cannot be both the failed and the target node")]
    SameNode { name: String },
    #[error("clone \"{slot}\" does not exist")]
    NoSuchClone { slot: String },
    #[error("replication slot \"{slot}\" is not a clone of this database's recovery slot")]
    NotAClone { slot: String },
    #[error("clone \"{slot}\" was invalidated")]
    Invalid { slot: String },
    #[error("clone \"{slot}\" belongs to another recovery")]
    Taken { slot: String, intent: IntentId },
    #[error("clone \"{slot}\" was made for another recovery")]
    ForOthers { slot: String, failed: Option<String>, target: Option<String> },
    #[error(transparent)]
    Slot(#[from] SlotError),
    #[error(transparent)]
    Intent(#[from] IntentError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Spi(#[from] pgrx::spi::Error),
}

const CLAIM: &str = "SELECT spock_internal.claim_clone('…', '…', failed_node => 'n1', target_node => 'n2');";

impl SqlError for CloneError {
    fn sqlstate(&self) -> PgSqlErrorCode {
        match self {
            CloneError::NotPrivileged { .. } => PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            CloneError::HasWritten { .. } => PgSqlErrorCode::ERRCODE_ACTIVE_SQL_TRANSACTION,
            CloneError::NullArgument { .. } => PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
            CloneError::UnknownNode { .. } | CloneError::NoSuchClone { .. } => PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            CloneError::IsLocal { .. } | CloneError::SameNode { .. } | CloneError::ForOthers { .. } => {
                PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE
            }
            CloneError::NotAClone { .. } => PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
            CloneError::Invalid { .. } => PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            CloneError::Taken { .. } => PgSqlErrorCode::ERRCODE_OBJECT_IN_USE,
            CloneError::Slot(error) => error.sqlstate(),
            CloneError::Intent(error) => error.sqlstate(),
            CloneError::Registry(error) => error.sqlstate(),
            CloneError::Spi(error) => error.sqlstate(),
        }
    }

    fn detail(&self) -> Option<String> {
        let named =
            |name: &Option<String>| name.as_ref().map_or("any node".to_owned(), |name| format!("node \"{name}\""));
        match self {
            CloneError::NotPrivileged { .. } => Some(
                "Only superusers and roles with REPLICATION may copy a replication slot and stream from it.".to_owned(),
            ),
            CloneError::HasWritten { .. } => Some(
                "PostgreSQL does not create a logical slot in such a transaction, and rolling it back would not drop \
                 the slot."
                    .to_owned(),
            ),
            CloneError::NullArgument { .. } => None,
            CloneError::NoSuchClone { .. } => Some(
                "No slot has that name, or it is still being created. A clone that no recovery has claimed is dropped \
                 after spock.rescue_clone_ttl."
                    .to_owned(),
            ),
            CloneError::UnknownNode { argument, .. } => Some(format!("It was given as {argument}.")),
            CloneError::IsLocal { argument, .. } => Some(format!(
                "It was given as {argument}. A clone on this node is for recovering one other node on another one; name \
                 two nodes other than this one."
            )),
            CloneError::SameNode { .. } => {
                Some("The target is the survivor that lacks transactions of the failed node.".to_owned())
            }
            CloneError::NotAClone { .. } => Some(
                "A clone is a copy of this database's recovery slot with the output plugin spock_recovery.".to_owned(),
            ),
            CloneError::Invalid { .. } => {
                Some("WAL that it needs was removed, so nothing can be streamed from it.".to_owned())
            }
            CloneError::Taken { intent, .. } => Some(format!("It belongs to intent {intent}.")),
            CloneError::ForOthers { failed, target, .. } => Some(format!(
                "It was made to recover transactions of {} on {}, and may have released what other recoveries need.",
                named(failed),
                named(target)
            )),
            CloneError::Slot(error) => error.detail(),
            CloneError::Intent(error) => error.detail(),
            CloneError::Registry(error) => error.detail(),
            CloneError::Spi(error) => error.detail(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            CloneError::NotPrivileged { role, .. } => {
                Some(format!("ALTER ROLE {} REPLICATION;", quote_identifier(role)))
            }
            CloneError::HasWritten { .. } => {
                Some("End the transaction first, and call it in one of its own.".to_owned())
            }
            CloneError::NullArgument { .. } => Some(CLAIM.to_owned()),
            CloneError::UnknownNode { name, .. } => Some(format!(
                "SELECT * FROM spock.node; shows the nodes that this one knows; SELECT spock.peer_create({}, 'host=…'); \
                 makes it known.",
                quote_literal(name)
            )),
            CloneError::IsLocal { .. } | CloneError::SameNode { .. } => Some(
                "SELECT * FROM spock.clone_recovery_slot(failed_node_name => 'n1', target_node_name => 'n2');"
                    .to_owned(),
            ),
            CloneError::NoSuchClone { .. } | CloneError::NotAClone { .. } => {
                Some("SELECT * FROM spock.recovery_clones(); shows the clones of this node.".to_owned())
            }
            CloneError::Invalid { .. } | CloneError::Taken { .. } | CloneError::ForOthers { .. } => {
                Some("Make another one: SELECT * FROM spock.clone_recovery_slot('n1', 'n2');".to_owned())
            }
            CloneError::Slot(error) => error.hint(),
            CloneError::Intent(error) => error.hint(),
            CloneError::Registry(error) => error.hint(),
            CloneError::Spi(error) => error.hint(),
        }
    }
}
