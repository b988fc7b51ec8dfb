//! The errors of the node registry.

use super::dsn::DsnError;
use crate::document::Unreadable;
use crate::error::SqlError;
use crate::node_name::{NodeName, NodeNameError};
use pgrx::PgSqlErrorCode;

#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error(transparent)]
    Name(#[from] NodeNameError),
    #[error(transparent)]
    Dsn(#[from] DsnError),
    #[error("{argument} must not be null")]
    NullArgument { argument: &'static str, example: &'static str },
    #[error("permission denied for {action}")]
    NotSuperuser { action: &'static str },
    #[error("node \"{name}\" already exists")]
    DuplicateNode { name: NodeName },
    #[error("database already is node \"{name}\"")]
    SecondLocalNode { name: NodeName },
    #[error("database is a copy of node \"{name}\"")]
    CopyOfNode { name: NodeName },
    #[error("server \"{name}\" already exists")]
    ForeignWrapper { name: NodeName, wrapper: String },
    #[error("node \"{name}\" does not exist")]
    UnknownNode { name: String },
    #[error("database is not a node")]
    NoLocalNode,
    #[error("cannot drop node \"{name}\" because a subscription comes from it")]
    StillSubscribed { name: NodeName, subscription: String, is_enabled: bool },
    #[error("subscription \"{name}\" does not exist")]
    UnknownSubscription { name: String },
    #[error("node \"{name}\" is the local node")]
    OriginIsLocal { name: NodeName },
    #[error("subscription \"{subscription}\" does not lead to node \"{name}\"")]
    ProviderIsAnother { name: NodeName, subscription: String },
    #[error("cannot drop extension spock_recovery because nodes depend on it")]
    NodesExist { names: Vec<String> },
    #[error("cannot drop the local node because a recovery of node \"{failed}\" is running on it")]
    RecoveryRuns { failed: String },
    #[error("cannot drop the local node because a rebuild is running on it")]
    RebuildRuns,
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    #[error("text must not contain a null byte")]
    NullByte,
    #[error(transparent)]
    Spi(#[from] pgrx::spi::Error),
}

impl SqlError for RegistryError {
    fn sqlstate(&self) -> PgSqlErrorCode {
        match self {
            RegistryError::Name(error) => error.sqlstate(),
            RegistryError::Dsn(error) => error.sqlstate(),
            RegistryError::Unreadable(error) => error.sqlstate(),
            RegistryError::NullArgument { .. } => PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
            RegistryError::NotSuperuser { .. } => PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            RegistryError::DuplicateNode { .. }
            | RegistryError::SecondLocalNode { .. }
            | RegistryError::ForeignWrapper { .. } => PgSqlErrorCode::ERRCODE_DUPLICATE_OBJECT,
            RegistryError::CopyOfNode { .. } | RegistryError::NoLocalNode | RegistryError::ProviderIsAnother { .. } => {
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE
            }
            RegistryError::UnknownNode { .. } | RegistryError::UnknownSubscription { .. } => {
                PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT
            }
            RegistryError::RecoveryRuns { .. } | RegistryError::RebuildRuns => PgSqlErrorCode::ERRCODE_OBJECT_IN_USE,
            RegistryError::StillSubscribed { .. } | RegistryError::NodesExist { .. } => {
                PgSqlErrorCode::ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST
            }
            RegistryError::OriginIsLocal { .. } | RegistryError::NullByte => {
                PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE
            }
            RegistryError::Spi(_) => PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
        }
    }

    fn detail(&self) -> Option<String> {
        match self {
            RegistryError::Name(error) => error.detail(),
            RegistryError::Unreadable(error) => error.detail(),
            RegistryError::Dsn(error) => error.detail(),
            RegistryError::NotSuperuser { .. } => Some("Only a superuser may do this.".to_owned()),
            RegistryError::SecondLocalNode { .. } => Some("A database can be only one node.".to_owned()),
            RegistryError::CopyOfNode { name } => Some(format!(
                "Node \"{name}\" was created on another server or in another database; the registration that was \
                 copied here is inert."
            )),
            RegistryError::ForeignWrapper { name, wrapper } => Some(format!(
                "A node is a foreign server, and \"{name}\" is one of the foreign-data wrapper \"{wrapper}\"."
            )),
            RegistryError::StillSubscribed { subscription, is_enabled, .. } => Some(format!(
                "Subscription \"{subscription}\" comes from it and is {}.",
                if *is_enabled { "enabled" } else { "disabled" }
            )),
            RegistryError::ProviderIsAnother { .. } => {
                Some("Its provider has another identity than the one that is known for the node.".to_owned())
            }
            RegistryError::RecoveryRuns { .. } | RegistryError::RebuildRuns => {
                Some("It has suspended subscriptions, which would stay disabled.".to_owned())
            }
            RegistryError::NodesExist { names } => Some(format!("Nodes: {}.", names.join(", "))),
            RegistryError::NullArgument { .. }
            | RegistryError::DuplicateNode { .. }
            | RegistryError::UnknownNode { .. }
            | RegistryError::NoLocalNode
            | RegistryError::UnknownSubscription { .. }
            | RegistryError::OriginIsLocal { .. }
            | RegistryError::NullByte
            | RegistryError::Spi(_) => None,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            RegistryError::Name(error) => error.hint(),
            RegistryError::Dsn(error) => error.hint(),
            RegistryError::Unreadable(error) => error.hint(),
            RegistryError::NullArgument { example, .. } => Some(format!("Example: SELECT spock.{example};")),
            RegistryError::NotSuperuser { action } => Some(format!("Call spock.{action}() as a superuser.")),
            RegistryError::DuplicateNode { name } => Some(format!(
                "To change its connection string: ALTER USER MAPPING FOR PUBLIC SERVER {} OPTIONS (SET dsn 'host=…'); for another \
                 node choose another name, or drop that one with spock.node_drop().",
                pgrx::spi::quote_identifier(name.as_str())
            )),
            RegistryError::SecondLocalNode { name } => Some(format!(
                "Use spock.peer_create() for another node, or SELECT spock.node_drop({}); first.",
                pgrx::spi::quote_literal(name.as_str())
            )),
            RegistryError::CopyOfNode { name } => Some(format!(
                "SELECT spock.node_drop({0}); removes what was copied. If this database takes the place of \"{name}\", call \
                 spock.node_create({0}, …) instead.",
                pgrx::spi::quote_literal(name.as_str())
            )),
            RegistryError::ForeignWrapper { .. } => Some("Choose another name for the node.".to_owned()),
            RegistryError::UnknownNode { .. } => {
                Some("SELECT * FROM spock.node; shows the nodes that this database knows.".to_owned())
            }
            RegistryError::NoLocalNode => {
                Some("Make it one with SELECT spock.node_create('n1', 'host=… port=5432 dbname=…');".to_owned())
            }
            RegistryError::StillSubscribed { subscription, .. } => {
                let name = pgrx::spi::quote_identifier(subscription);
                Some(format!(
                    "If that node is lost for good: ALTER SUBSCRIPTION {name} DISABLE; ALTER SUBSCRIPTION {name} SET \
                     (slot_name = NONE); DROP SUBSCRIPTION {name};"
                ))
            }
            RegistryError::RecoveryRuns { failed } => {
                Some(format!("End it with CALL spock.recover_abort({});", pgrx::spi::quote_literal(failed)))
            }
            RegistryError::RebuildRuns => Some("End it with CALL spock.rebuild_abort();".to_owned()),
            RegistryError::UnknownSubscription { .. } => {
                Some("SELECT subname FROM pg_subscription; shows them.".to_owned())
            }
            RegistryError::ProviderIsAnother { name, subscription } => Some(format!(
                "If the node was rebuilt there: SELECT spock.peer_create({}, 'host=… port=5432 dbname=…'); if the subscription comes \
                 from no node of the mesh: SELECT spock.sub_set_origin({}, NULL);",
                pgrx::spi::quote_literal(name.as_str()),
                pgrx::spi::quote_literal(subscription)
            )),
            RegistryError::OriginIsLocal { .. } => {
                Some("Name the node that the subscription's connection string leads to.".to_owned())
            }
            RegistryError::NodesExist { .. } => Some(
                "Call spock.node_drop() for the local node first, or use DROP EXTENSION spock_recovery CASCADE."
                    .to_owned(),
            ),
            RegistryError::NullByte | RegistryError::Spi(_) => None,
        }
    }
}
