//! The errors of a rebuild. No variant can hold a row value or a connection string.

use crate::error::SqlError;
use crate::lsn::OriginLsn;
use crate::node::incomplete;
use crate::quoted::literal;
use pgrx::PgSqlErrorCode;

#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    #[error("this node does not receive table \"{table}\" from node \"{source_node}\"")]
    NotReceived { table: String, source_node: String },
    #[error("unknown method \"{method}\"")]
    UnknownMethod { method: String },
    #[error("no rebuild is running on this node")]
    NotRunning,
    #[error("source node \"{source_node}\" has node \"{node}\" up to {is_at} and gets no further")]
    SourceLags { source_node: String, node: String, is_at: OriginLsn, must: OriginLsn },
    #[error("table {table} of source node \"{source_node}\" is incomplete")]
    SourceIncomplete { source_node: String, table: String },
    #[error("source node \"{source_node}\" did not take its snapshot while the commits of this node were held back")]
    NoCut { source_node: String },
    #[error("source node \"{source_node}\" does not hold its snapshot any more")]
    PinLost { source_node: String },
    #[error("table \"{table}\" could not be copied: {message}")]
    NotCopied { table: String, sqlstate: PgSqlErrorCode, message: String, detail: Option<String>, hint: Option<String> },
    #[error("table \"{table}\" cannot be rebuilt: {reason}")]
    NotRebuilt { table: String, reason: String },
}

impl SqlError for RebuildError {
    fn sqlstate(&self) -> PgSqlErrorCode {
        match self {
            Self::NotReceived { .. } => PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE,
            Self::UnknownMethod { .. } => PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            Self::NotRunning => PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            Self::NotCopied { sqlstate, .. } => *sqlstate,
            Self::NoCut { .. } => PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE,
            Self::SourceLags { .. }
            | Self::SourceIncomplete { .. }
            | Self::PinLost { .. }
            | Self::NotRebuilt { .. } => PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        }
    }

    fn detail(&self) -> Option<String> {
        Some(match self {
            Self::NotReceived { .. } => "A table is rebuilt from a node that sends all its changes.".to_owned(),
            Self::SourceLags { node, must, .. } => {
                format!("This node has node \"{node}\" up to {must}. A snapshot without that would take it back.")
            }
            Self::SourceIncomplete { .. } => incomplete::DETAIL.to_owned(),
            Self::NoCut { .. } => {
                "Commits are held back for some seconds at most, so that the source's snapshot has no change of this \
                 node that this node's own does not have."
                    .to_owned()
            }
            Self::NotCopied { detail, .. } => return detail.clone(),
            _ => return None,
        })
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NotReceived { .. } => {
                "SELECT srrelid::regclass FROM pg_subscription_rel; shows what this node receives.".to_owned()
            }
            Self::UnknownMethod { .. } => "The methods are auto, compare and copy.".to_owned(),
            Self::NotRunning => {
                "SELECT * FROM spock.rebuild_progress; shows the rebuild of a node on that node.".to_owned()
            }
            Self::SourceLags { source_node, node, .. } => format!(
                "If node \"{node}\" is lost, end this rebuild with CALL spock.rebuild_abort(); and recover it on node \
                 \"{source_node}\" first, from this node: CALL spock.recover_run({}, target_node_name := {}); else look at \
                 SELECT * FROM spock.peer_status(); there.",
                literal(node),
                literal(source_node)
            ),
            Self::SourceIncomplete { source_node, table } => incomplete::hint(source_node, table),
            Self::NoCut { .. } => "It is tried again by itself.".to_owned(),
            Self::PinLost { .. } => "It is tried again by itself, with another snapshot.".to_owned(),
            Self::NotCopied { hint, .. } => return hint.clone(),
            Self::NotRebuilt { .. } => return None,
        })
    }
}
