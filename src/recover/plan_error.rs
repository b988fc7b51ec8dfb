//! The errors that occur before there is a plan, and a plan that does not let the recovery begin. No variant can hold a
//! connection string.

use super::error::{RecoverError, sentence};
use crate::error::SqlError;
use crate::node::error::RegistryError;
use crate::plan::outcome::Reason;
use crate::plan::range::RangeError;
use pgrx::PgSqlErrorCode;
use pgrx::spi::quote_literal;

#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    #[error("{argument} must not be null")]
    NullArgument { argument: &'static str, example: &'static str },
    #[error("permission denied for {function}")]
    NotSuperuser { function: &'static str },
    #[error("node \"{name}\" does not exist")]
    UnknownNode { name: String },
    #[error("failed node \"{name}\" is the local node")]
    FailedIsLocal { name: String },
    #[error("{one} and {other} are both \"{name}\"")]
    SameNode { name: String, one: &'static str, other: &'static str },
    #[error("several survivors of node \"{failed}\" lag: {}", .names.join(", "))]
    SeveralLag { failed: String, names: Vec<String> },
    /// Nothing is known about the target.
    #[error("nothing can be planned for node \"{target}\": {}", .reason.as_str())]
    NothingKnown { target: String, reason: Reason, finding: String, advice: String },
    #[error("{0}")]
    Bounds(RecoverError),
    /// A node that the caller has named could not be asked.
    #[error("{0}")]
    Node(RecoverError),
    #[error(transparent)]
    Recover(#[from] RecoverError),
}

impl PlanError {
    /// Bounds that make no sense, reported as create_rescue_subscription() reports them.
    pub fn bounds(error: RangeError, failed: &str, source: &str) -> PlanError {
        PlanError::Bounds(RecoverError::of_range(error, failed, source))
    }
}

impl From<RegistryError> for PlanError {
    fn from(error: RegistryError) -> Self {
        PlanError::Recover(error.into())
    }
}

impl RecoverError {
    pub fn of_range(error: RangeError, failed: &str, source: &str) -> RecoverError {
        let (failed, source_node) = (failed.to_owned(), source.to_owned());
        match error {
            RangeError::SkipBelowApplied { skip, applied } => RecoverError::SkipBelowApplied { failed, skip, applied },
            RangeError::StopBeyondSource { stop, applied } => {
                RecoverError::StopBeyondSource { source_node, failed, stop, applied }
            }
            RangeError::StopBeforeSkip { skip, stop } => RecoverError::StopBeforeSkip { skip, stop },
        }
    }
}

impl SqlError for PlanError {
    fn sqlstate(&self) -> PgSqlErrorCode {
        match self {
            PlanError::NullArgument { .. } => PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
            PlanError::NotSuperuser { .. } => PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            PlanError::UnknownNode { .. } => PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            PlanError::FailedIsLocal { .. } | PlanError::SameNode { .. } | PlanError::SeveralLag { .. } => {
                PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE
            }
            PlanError::NothingKnown { .. } => PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            PlanError::Bounds(error) | PlanError::Node(error) | PlanError::Recover(error) => error.sqlstate(),
        }
    }

    fn detail(&self) -> Option<String> {
        match self {
            PlanError::FailedIsLocal { .. } => Some("It answers: it has not failed.".to_owned()),
            PlanError::SeveralLag { .. } => Some("Each can be recovered, from its best source.".to_owned()),
            PlanError::NothingKnown { finding, .. } => Some(format!("{}.", sentence(finding))),
            PlanError::Bounds(error) | PlanError::Node(error) | PlanError::Recover(error) => error.detail(),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            PlanError::NullArgument { example, .. } => Some(format!("{example};")),
            PlanError::NotSuperuser { .. } => Some("Call it as a superuser.".to_owned()),
            PlanError::UnknownNode { .. } => {
                Some("SELECT * FROM spock.node; shows the nodes that this database knows.".to_owned())
            }
            PlanError::FailedIsLocal { .. } => Some("Name the node that is lost.".to_owned()),
            PlanError::SameNode { .. } => Some("Name another node.".to_owned()),
            PlanError::SeveralLag { failed, names } => Some(format!(
                "CALL spock.recover_failed_node({}); serves all of them; or add target_node_name := {}.",
                quote_literal(failed),
                quote_literal(names.first().map_or("", String::as_str))
            )),
            PlanError::NothingKnown { advice, .. } => Some(advice.clone()),
            PlanError::Bounds(error) | PlanError::Node(error) | PlanError::Recover(error) => error.hint(),
        }
    }
}
