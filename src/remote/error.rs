//! The errors of communication with a peer.

use super::report::PeerReport;
use std::time::Duration;

/// What has failed in the communication with a peer. It contains libpq's or the peer's message, neither of which
/// repeats the connection string.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RemoteError {
    #[error("could not connect: {0}")]
    Connect(String),
    #[error("no answer within {} ms", .0.as_millis())]
    TimedOut(Duration),
    #[error("connection lost: {0}")]
    Lost(String),
    #[error("the peer reports: {message}")]
    Peer { sqlstate: String, message: String, detail: Option<String>, hint: Option<String> },
    /// An ERROR on the peer that has ended a stream.
    #[error("the stream has ended: {}", .0.message)]
    Stream(Box<PeerReport>),
    #[error("unexpected answer: {0}")]
    Unexpected(String),
}

impl RemoteError {
    /// The error for a query that the peer has answered with an ERROR.
    pub fn of_peer(report: PeerReport) -> RemoteError {
        let PeerReport { sqlstate, message, detail, hint, .. } = report;
        // A line break would let the peer's text look like a line of this server's log.
        RemoteError::Peer { sqlstate, message: message.replace(char::is_control, " "), detail, hint }
    }

    /// SQLSTATE, detail and hint that the peer has reported. The SQLSTATE is empty if it is not known.
    pub fn said(&self) -> Option<(&str, Option<&str>, Option<&str>)> {
        match self {
            RemoteError::Peer { sqlstate, detail, hint, .. } => Some((sqlstate, detail.as_deref(), hint.as_deref())),
            RemoteError::Stream(report) => Some((&report.sqlstate, report.detail.as_deref(), report.hint.as_deref())),
            _ => None,
        }
    }

    /// What kind of failure this is, without text from the peer or from libpq.
    pub fn kind(&self) -> String {
        match self {
            RemoteError::Connect(_) => "could not connect".to_owned(),
            RemoteError::TimedOut(_) => self.to_string(),
            RemoteError::Lost(_) => "connection lost".to_owned(),
            RemoteError::Peer { sqlstate, .. } => format!("it reports SQLSTATE {sqlstate}"),
            RemoteError::Stream(report) if report.origin_lsn.is_some() => "it cannot send a transaction".to_owned(),
            RemoteError::Stream(_) => "it has ended the stream".to_owned(),
            RemoteError::Unexpected(_) => "unexpected answer".to_owned(),
        }
    }
}
