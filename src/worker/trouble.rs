//! Why an attempt at a recovery has ended before the recovery was finished, and what is recorded and logged of it.

use crate::error::{SqlError, unpack_sqlstate};
use crate::intent::document::{Failure, Intent};
use crate::intent::fault;
use crate::lsn::OriginLsn;
use crate::pg::clock::Timestamp;
use crate::pg::last_error::{self, ServerError};
use crate::pg::transaction;
use crate::recover::error::RecoverError;
use crate::recover::said::Said;
use crate::remote::error::RemoteError;
use crate::remote::report::PeerReport;
use pgrx::PgSqlErrorCode;
use pgrx::pg_sys::panic::ErrorReportWithLevel;

/// Why an attempt has ended before the recovery was finished.
pub(super) enum Trouble {
    /// An error that our own checks have found, here or on the source.
    Recover(RecoverError),
    /// An ERROR while a transaction was applied, or while the stream was read.
    Raised { report: Box<ErrorReportWithLevel>, relation: Option<String>, origin_lsn: Option<OriginLsn> },
    /// The stream has broken off: within the transaction at `origin_lsn`, if that is known.
    Streaming { error: Box<RecoverError>, origin_lsn: Option<OriginLsn> },
    /// An ERROR where none is expected.
    Unexpected(Box<ErrorReportWithLevel>),
    /// recover_abort() was called.
    MustStop,
}

impl<E: Into<RecoverError>> From<E> for Trouble {
    fn from(error: E) -> Self {
        Trouble::Recover(error.into())
    }
}

/// Returns what is recorded of a failure, and what the server has said of it. The latter may quote a row's value; so it
/// goes only to the log and to superusers, because everybody can read the label with the record.
pub(super) fn failure_of(trouble: Trouble) -> (Failure, Said) {
    match trouble {
        Trouble::Recover(error) => of_error(&error, None),
        Trouble::Streaming { error, origin_lsn } => of_error(&error, origin_lsn),
        Trouble::Raised { report, relation, origin_lsn } => of_raised(&report, relation, origin_lsn),
        Trouble::Unexpected(report) => {
            let error = last_error::of(&report);
            let what = format!("the attempt ended by an error: {}", condition(report.sql_error_code()));
            (failure(&error.sqlstate, what), Said { node: None, error })
        }
        // The caller handles an abort itself.
        Trouble::MustStop => (failure("57014", "aborted".to_owned()), Said::default()),
    }
}

fn failure(sqlstate: &str, reason: String) -> Failure {
    Failure {
        sqlstate: sqlstate.to_owned(),
        reason,
        relation: None,
        column: None,
        constraint: None,
        origin_lsn: None,
        at: Timestamp::now(),
    }
}

fn of_raised(
    report: &ErrorReportWithLevel,
    relation: Option<String>,
    origin_lsn: Option<OriginLsn>,
) -> (Failure, Said) {
    let error = last_error::of(report);
    let names = transaction::caught(|| error.known_names()).unwrap_or_default();
    let what = if error.sqlstate == fault::LOCK {
        "could not obtain a lock within spock.rescue_lock_timeout"
    } else if origin_lsn.is_some() {
        "a transaction could not be applied"
    } else {
        "the stream could not be read"
    };
    let failure = Failure {
        relation: relation.or(names.relation),
        column: names.column,
        constraint: names.constraint,
        origin_lsn,
        ..failure(&error.sqlstate, format!("{what}: {}", condition(report.sql_error_code())))
    };
    (failure, Said { node: None, error })
}

fn of_error(error: &RecoverError, origin_lsn: Option<OriginLsn>) -> (Failure, Said) {
    let own = sqlstate_text(error.sqlstate() as i32);
    let (reason, said) = match error {
        RecoverError::Remote { source_node, error: remote } => {
            // What libpq or a peer says may name hosts and roles, so it is not part of the record.
            let said = Said { node: Some(source_node.clone()), error: said_by_peer(remote, own) };
            (format!("node \"{source_node}\": {}", remote.kind()), said)
        }
        _ => {
            let said = ServerError {
                sqlstate: own,
                message: error.to_string(),
                detail: error.detail(),
                hint: error.hint(),
                ..ServerError::default()
            };
            (error.to_string(), Said { node: None, error: said })
        }
    };
    (Failure { origin_lsn, ..failure(&said.error.sqlstate, reason) }, said)
}

/// Returns what the peer, or libpq, has said. `own`: the SQLSTATE if it has named none.
fn said_by_peer(error: &RemoteError, own: String) -> ServerError {
    let report = match error {
        RemoteError::Stream(report) => (**report).clone(),
        RemoteError::Peer { sqlstate, message, detail, hint } => PeerReport {
            sqlstate: sqlstate.clone(),
            message: message.clone(),
            detail: detail.clone(),
            hint: hint.clone(),
            ..PeerReport::default()
        },
        other => PeerReport { message: other.to_string(), ..PeerReport::default() },
    };
    ServerError {
        sqlstate: if report.sqlstate.is_empty() { own } else { report.sqlstate },
        message: report.message,
        detail: report.detail,
        hint: report.hint,
        context: report.context,
        ..ServerError::default()
    }
}

/// Returns the condition's name in words, such as `check violation`.
fn condition(code: PgSqlErrorCode) -> String {
    format!("{code:?}").trim_start_matches("ERRCODE_").to_lowercase().replace('_', " ")
}

/// The five characters of a SQLSTATE that core has packed into an integer.
pub(super) fn sqlstate_text(packed: i32) -> String {
    unpack_sqlstate(packed).map(char::from).iter().collect()
}

pub(super) fn remote(intent: &Intent, error: crate::remote::error::RemoteError) -> RecoverError {
    RecoverError::Remote { source_node: intent.request.source.clone(), error }
}
