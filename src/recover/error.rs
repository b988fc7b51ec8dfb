//! The errors of a recovery. No variant can hold a row value or a connection string.

use super::rebuild_error::RebuildError;
use crate::error::{SqlError, known_sqlstate, unpack_sqlstate};
use crate::identity::DatabaseIdentity;
use crate::intent::IntentError;
use crate::lsn::OriginLsn;
use crate::node::error::RegistryError;
use crate::plan::outcome::Reason;
use crate::quoted::literal;
use crate::remote::error::RemoteError;
use pgrx::PgSqlErrorCode;

#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    #[error("permission denied for {function}")]
    NotSuperuser { function: String },
    #[error("{argument} must not be null")]
    NullArgument { argument: &'static str, hint: &'static str },
    #[error("database is not a node")]
    NoLocalNode,
    #[error("this server is a standby")]
    Standby,
    #[error("target node \"{target}\" is not the local node")]
    TargetElsewhere { target: String, local: String },
    #[error("node \"{name}\" does not exist")]
    UnknownNode { name: String },
    #[error("source node and {other} are both \"{name}\"")]
    SameNode { name: String, other: &'static str },
    #[error("target node and failed node are both \"{name}\"")]
    TargetIsFailed { name: String },
    #[error("the failed node of clone \"{clone}\" is not known")]
    FailedNodeUnknown { clone: String },
    #[error("this node has no subscription that comes from node \"{failed}\"")]
    NoSubscription { failed: String },
    #[error("several subscriptions of node \"{node}\" come from node \"{failed}\"")]
    SeveralSubscriptions { node: String, failed: String },
    #[error("it is not known how far this node has applied node \"{failed}\"")]
    ProgressUnknown { failed: String },
    #[error("initial copy of table \"{table}\" from node \"{failed}\" is not finished")]
    TableNotReady { table: String, failed: String },
    #[error("source node \"{source_node}\" has no table \"{table}\"")]
    TableMissing { source_node: String, table: String },
    #[error("no connection string is known for node \"{source_node}\"")]
    NoRoute { source_node: String },
    #[error("node \"{source_node}\": {error}")]
    Remote { source_node: String, error: RemoteError },
    /// An error of a connection string whose node is not known by name yet.
    #[error("{argument} does not lead to a node: {error}")]
    NoNodeBehind { argument: &'static str, error: RemoteError },
    #[error("node \"{source_node}\" says that it is node \"{found}\"")]
    OtherNode { source_node: String, found: String },
    #[error("node \"{source_node}\" has another identity than before")]
    OtherServer { source_node: String, known: DatabaseIdentity, found: DatabaseIdentity },
    #[error("node \"{source_node}\" has version {theirs} of spock_recovery, this node has {ours}")]
    OtherVersion {
        source_node: String,
        theirs: String,
        ours: &'static str,
        /// The node that must be upgraded; None: this node.
        must_be_upgraded: Option<String>,
    },
    #[error("no recovery is running on node \"{target}\"")]
    NotRunningThere { target: String },
    #[error("source node \"{source_node}\" has applied nothing of node \"{failed}\"")]
    SourceHasNothing { source_node: String, failed: String },
    #[error("there is no replication slot \"{clone}\" on source node \"{source_node}\"")]
    NoClone { source_node: String, clone: String },
    #[error("replication slot \"{clone}\" on source node \"{source_node}\" is not a clone of a recovery slot")]
    NotAClone { source_node: String, clone: String },
    #[error("clone \"{clone}\" on source node \"{source_node}\" is not usable: it was invalidated")]
    CloneInvalid { source_node: String, clone: String },
    #[error("source node \"{source_node}\" cannot clone its recovery slot: {message}")]
    CloneRefused { source_node: String, message: String },
    #[error("skip_lsn {skip} is before {applied}, up to which this node has applied node \"{failed}\"")]
    SkipBelowApplied { failed: String, skip: OriginLsn, applied: OriginLsn },
    #[error(
        "stop_lsn {stop} is beyond {applied}, up to which source node \"{source_node}\" has applied node \"{failed}\""
    )]
    StopBeyondSource { source_node: String, failed: String, stop: OriginLsn, applied: OriginLsn },
    #[error("stop_lsn {stop} is before skip_lsn {skip}")]
    StopBeforeSkip { skip: OriginLsn, stop: OriginLsn },
    #[error("node \"{failed}\" cannot be recovered on node \"{target}\": {}", .reason.as_str())]
    NotProved { failed: String, target: String, reason: Reason, finding: String, advice: String },
    #[error("processes of subscription \"{subscription}\" have not ended within {seconds} s")]
    StillApplying { subscription: String, seconds: u64 },
    #[error("could not compare the rows that the recovery has touched")]
    NotCompared { sqlstate: PgSqlErrorCode },
    #[error("could not obtain a lock within {seconds} s")]
    Locked { seconds: u64 },
    #[error("journal of recoveries is locked by another session")]
    JournalBusy,
    #[error(transparent)]
    Rebuild(#[from] RebuildError),
    #[error(transparent)]
    Intent(#[from] IntentError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Spi(#[from] pgrx::spi::Error),
}

impl RecoverError {
    /// The origin LSN of the failed node's transaction at which the source has ended a stream.
    pub fn origin_lsn(&self) -> Option<OriginLsn> {
        match self {
            RecoverError::Remote { error: RemoteError::Stream(report), .. } => report.origin_lsn,
            _ => None,
        }
    }
}

const CREATE_CLONE: &str =
    "SELECT * FROM spock.clone_recovery_slot(failed_node_name := 'n1', target_node_name := 'n2');";

impl SqlError for RecoverError {
    fn sqlstate(&self) -> PgSqlErrorCode {
        use RecoverError as E;
        match self {
            E::NotSuperuser { .. } => PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            E::NullArgument { .. } => PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
            E::TargetElsewhere { .. }
            | E::SameNode { .. }
            | E::TargetIsFailed { .. }
            | E::FailedNodeUnknown { .. }
            | E::SkipBelowApplied { .. }
            | E::StopBeyondSource { .. }
            | E::StopBeforeSkip { .. } => PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            E::UnknownNode { .. } | E::NotRunningThere { .. } | E::NoSubscription { .. } | E::NoClone { .. } => {
                PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT
            }
            E::TableMissing { .. } => PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE,
            E::NotAClone { .. } => PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
            E::NoLocalNode
            | E::Standby
            | E::SeveralSubscriptions { .. }
            | E::ProgressUnknown { .. }
            | E::TableNotReady { .. }
            | E::NoRoute { .. }
            | E::OtherNode { .. }
            | E::OtherServer { .. }
            | E::OtherVersion { .. }
            | E::SourceHasNothing { .. }
            | E::CloneInvalid { .. }
            | E::CloneRefused { .. } => PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            E::Remote { error, .. } | E::NoNodeBehind { error, .. } => match error {
                RemoteError::Connect(_) | RemoteError::TimedOut(_) => {
                    PgSqlErrorCode::ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION
                }
                RemoteError::Lost(_) => PgSqlErrorCode::ERRCODE_CONNECTION_FAILURE,
                RemoteError::Peer { sqlstate, .. } => sqlstate_of_peer(sqlstate),
                RemoteError::Stream(report) if report.sqlstate.is_empty() => PgSqlErrorCode::ERRCODE_PROTOCOL_VIOLATION,
                RemoteError::Stream(report) => sqlstate_of_peer(&report.sqlstate),
                RemoteError::Unexpected(_) => PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            },
            E::NotProved { reason, .. } => match reason {
                Reason::RecoveryRunning => PgSqlErrorCode::ERRCODE_OBJECT_IN_USE,
                Reason::TargetNotSubscribed => PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
                Reason::SourceLacksTable => PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE,
                Reason::SourceRoleLacksRights => PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
                Reason::NoFreeSlot | Reason::NoFreeWalsender | Reason::NoFreeWorker | Reason::NoFreeOrigin => {
                    PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED
                }
                _ => PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            },
            E::StillApplying { .. } => PgSqlErrorCode::ERRCODE_OBJECT_IN_USE,
            E::NotCompared { sqlstate } => *sqlstate,
            E::Locked { .. } | E::JournalBusy => PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE,
            E::Rebuild(error) => error.sqlstate(),
            E::Intent(error) => error.sqlstate(),
            E::Registry(error) => error.sqlstate(),
            E::Spi(error) => error.sqlstate(),
        }
    }

    fn detail(&self) -> Option<String> {
        use RecoverError as E;
        Some(match self {
            E::NotSuperuser { .. } => {
                "It connects to other nodes with this node's connection strings, or changes subscriptions and tables."
                    .to_owned()
            }
            E::TargetElsewhere { local, .. } => {
                format!("This node is \"{local}\". A recovery is called on its target, which applies the transactions.")
            }
            E::SameNode { .. } => "A source supplies what another node lacks.".to_owned(),
            E::FailedNodeUnknown { .. } => "The clone was made without failed_node_name.".to_owned(),
            E::SeveralSubscriptions { .. } => {
                "The WAL does not show which of them has applied a transaction.".to_owned()
            }
            E::ProgressUnknown { .. } => {
                "Its subscription has no replication origin, or has applied nothing since it was created.".to_owned()
            }
            E::TableNotReady { .. } => "No WAL has the rows of an initial copy as transactions of that node, so they \
                                        cannot be replayed."
                .to_owned(),
            E::OtherServer { known, found, .. } => format!("It was known with {known}, and answers with {found}."),
            E::SkipBelowApplied { .. } => "A transaction that was applied is never applied again.".to_owned(),
            E::NotProved { finding, .. } if !finding.is_empty() => format!("{}.", sentence(finding)),
            E::StillApplying { .. } => "They first complete the transaction that they are applying.".to_owned(),
            E::Remote { error, .. } | E::NoNodeBehind { error, .. } => return detail_of_peer(error),
            E::Rebuild(error) => return error.detail(),
            E::Intent(error) => return error.detail(),
            E::Registry(error) => return error.detail(),
            _ => return None,
        })
    }

    fn hint(&self) -> Option<String> {
        use RecoverError as E;
        Some(match self {
            E::NotSuperuser { .. } => "Call it as a superuser.".to_owned(),
            E::NullArgument { hint, .. } => (*hint).to_owned(),
            E::NoLocalNode => {
                "Make it one with SELECT spock.node_create('n2', 'host=… port=5432 dbname=…');".to_owned()
            }
            E::Standby => "Call it on the primary, or promote this server with SELECT pg_promote();".to_owned(),
            E::TargetElsewhere { target, .. } => format!("Call it on node \"{target}\"."),
            E::UnknownNode { .. } => "SELECT node_name FROM spock.node; lists the nodes.".to_owned(),
            E::SameNode { .. } | E::TargetIsFailed { .. } => "Name another node.".to_owned(),
            E::FailedNodeUnknown { .. } => "Add failed_node := 'n1'.".to_owned(),
            E::NoSubscription { .. } => {
                "SELECT sub_name, sub_origin FROM spock.subscription; shows the subscriptions. Where sub_origin is \
                 null, name the provider: SELECT spock.sub_set_origin('sub', 'n1');"
                    .to_owned()
            }
            E::SeveralSubscriptions { .. } | E::ProgressUnknown { .. } => {
                "Rebuild this node's copy of that node's tables.".to_owned()
            }
            E::TableNotReady { table, .. } => format!(
                "Rebuild it from another node, or all tables that are behind: CALL spock.rebuild_run(tables := \
                 ARRAY[{}::regclass]);",
                literal(table)
            ),
            E::TableMissing { .. } => "Use another source, one that has it.".to_owned(),
            E::NoRoute { source_node } => {
                format!("SELECT spock.peer_create({}, 'host=… port=5432 dbname=…');", literal(source_node))
            }
            E::Remote { error: RemoteError::Peer { sqlstate, .. }, .. } if sqlstate == "42501" => {
                "The role of its connection string needs REPLICATION and SELECT on the tables, or SUPERUSER.".to_owned()
            }
            E::Remote { error: RemoteError::Unexpected(_), .. }
            | E::NoNodeBehind { error: RemoteError::Unexpected(_), .. } => {
                "Correct its connection string; or make that database a node: CREATE EXTENSION spock_recovery; SELECT \
                 spock.node_create('n3', 'host=… port=5432 dbname=…');"
                    .to_owned()
            }
            E::NoNodeBehind { .. } => "Correct the connection string, or start that node.".to_owned(),
            E::Remote { .. } | E::SourceHasNothing { .. } | E::CloneRefused { .. } => {
                "See SELECT * FROM spock.peer_status(); if that node is the source, another survivor may serve \
                 instead."
                    .to_owned()
            }
            E::OtherNode { .. } => {
                "Its connection string leads to another node: correct it with spock.peer_create().".to_owned()
            }
            E::OtherServer { source_node, .. } => format!(
                "If it was rebuilt: SELECT spock.peer_create({}, 'host=… port=5432 dbname=…'); otherwise another \
                 server is answering in its place.",
                literal(source_node)
            ),
            E::OtherVersion { must_be_upgraded, .. } => {
                let node = must_be_upgraded.as_ref().map_or("this node".to_owned(), |node| format!("node \"{node}\""));
                format!(
                    "Upgrade {node}: install the package there, restart the server, and ALTER EXTENSION spock_recovery UPDATE;"
                )
            }
            E::NoClone { .. } | E::NotAClone { .. } | E::CloneInvalid { .. } => {
                format!("Make one there: {CREATE_CLONE}")
            }
            E::SkipBelowApplied { applied, .. } => format!("Leave skip_lsn out, or give {applied} or more."),
            E::StopBeyondSource { applied, .. } => format!("Leave stop_lsn out, or give {applied} or less."),
            E::StopBeforeSkip { .. } => "Give a stop_lsn that is not before skip_lsn.".to_owned(),
            E::NotProved { advice, .. } => advice.clone(),
            E::StillApplying { .. } | E::NotCompared { .. } | E::Locked { .. } | E::JournalBusy => {
                "It is retried automatically.".to_owned()
            }
            E::Rebuild(error) => return error.hint(),
            E::Intent(error) => return error.hint(),
            E::Registry(error) => return error.hint(),
            E::NotRunningThere { .. } => {
                "SELECT * FROM spock.recovery_intents(); on that node shows its recoveries.".to_owned()
            }
            E::Spi(_) => return None,
        })
    }
}

/// The SQLSTATE under which a peer's error is raised here: the peer's own, unless that would say something about this
/// session or the connection, such as a cancel, a deadlock or a lost connection.
fn sqlstate_of_peer(text: &str) -> PgSqlErrorCode {
    let is_of_a_session = ["00", "01", "02", "08", "25", "40", "57"].iter().any(|class| text.starts_with(class));
    known_sqlstate(text)
        .filter(|_| !is_of_a_session)
        .unwrap_or(PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE)
}

/// The peer's own detail and hint, and its SQLSTATE if another one is raised here.
fn detail_of_peer(error: &RemoteError) -> Option<String> {
    let (sqlstate, detail, hint) = error.said()?;
    let mut parts: Vec<String> = Vec::new();
    if !sqlstate.is_empty() && unpack_sqlstate(sqlstate_of_peer(sqlstate) as i32) != sqlstate.as_bytes() {
        parts.push(format!("Its SQLSTATE is {sqlstate}."));
    }
    parts.extend(detail.map(str::to_owned));
    parts.extend(hint.map(|hint| format!("Its hint: {hint}")));
    (!parts.is_empty()).then(|| parts.join("\n"))
}

/// A finding of a proof as a sentence for a DETAIL.
pub fn sentence(finding: &str) -> String {
    let mut characters = finding.chars();
    match characters.next() {
        Some(first) => first.to_uppercase().chain(characters).collect(),
        None => String::new(),
    }
}
