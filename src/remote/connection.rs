//! A connection to a peer for SQL, with a time limit on everything, because libpqwalreceiver has none.

use super::row::Row;
use crate::node::provider::Route;
use crate::pg::text::to_server;
use crate::pg::timeout::{TimedOut, with_limit};
use crate::pg::walreceiver::{self, Answer, WalReceiverConnection};
use std::ffi::CString;
use std::time::Duration;

/// One row where the extension is.
const HAS_EXTENSION: &str = "SELECT FROM pg_catalog.pg_extension WHERE extname = 'spock_recovery'";

/// What every session of ours relies on, each of which a role may set for itself. The role comes first: another one might not be
/// allowed to set the rest.
const KNOWN_STATE: &str = "SET ROLE NONE; SET search_path = pg_catalog, pg_temp; \
    SET default_transaction_isolation = 'read committed'; SET default_transaction_read_only = on; SET default_transaction_deferrable = off; \
    SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0; SET transaction_timeout = 0; SET row_security = off; \
    SET datestyle = 'ISO'; SET intervalstyle = 'postgres'; SET extra_float_digits = 3; SET timezone = 'UTC'; SET bytea_output = 'hex';";

/// What went wrong with a peer. Holds libpq's or the peer's message, neither of which repeats the connection string.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RemoteError {
    #[error("could not connect: {0}")]
    Connect(String),
    #[error("no answer within {} ms", .0.as_millis())]
    TimedOut(Duration),
    #[error("connection lost: {0}")]
    Lost(String),
    #[error("the peer reports: {message}")]
    Peer { sqlstate: String, message: String },
    #[error("unexpected answer: {0}")]
    Unexpected(String),
}

pub struct Connection {
    inner: WalReceiverConnection,
    limit: Duration,
}

impl Connection {
    /// Connects; `limit` bounds this and each question. After `TimedOut` on PostgreSQL 17 the attempt leaks its socket
    /// until the process ends.
    pub fn open(route: &Route, role: &str, limit: Duration) -> Result<Connection, RemoteError> {
        let name = CString::new(format!("spock_recovery {role}"))
            .map_err(|_| RemoteError::Unexpected("role with a null byte".to_owned()))?;
        let inner =
            with_limit(limit, || WalReceiverConnection::connect(&route.conninfo, route.must_use_password, &name))
                .map_err(|TimedOut| RemoteError::TimedOut(limit))?
                .map_err(|message| RemoteError::Connect(one_line(&message)))?;
        Ok(Connection { inner, limit })
    }

    /// Puts the session into a known state, whatever defaults the role and the database have there (ALTER ROLE, ALTER DATABASE
    /// … SET): it is the role that has connected, finds names in pg_catalog alone, ends when this side says so, and answers in
    /// this database's encoding and in one style. Needs a transaction.
    pub fn prepare(&mut self) -> Result<(), RemoteError> {
        let encoding = walreceiver::database_encoding();
        let encoding = pgrx::spi::quote_literal(encoding.to_string_lossy());
        self.command(&format!(
            "{KNOWN_STATE} SET client_encoding = {encoding}; SET statement_timeout = {}",
            self.limit.as_millis()
        ))
    }

    /// An error where the peer has no extension of ours; asked so, its log holds none. Needs a transaction.
    pub fn require_extension(&mut self) -> Result<(), RemoteError> {
        if self.query(HAS_EXTENSION, 0)?.is_empty() {
            return Err(RemoteError::Unexpected("the extension spock_recovery is not there".to_owned()));
        }
        Ok(())
    }

    /// Runs a question that returns `columns` columns. Needs a transaction.
    pub fn query(&mut self, question: &str, columns: usize) -> Result<Vec<Row>, RemoteError> {
        match self.ask(question, columns)? {
            Answer::Rows(rows) => Ok(rows.into_iter().map(Row::new).collect()),
            _ => Err(RemoteError::Unexpected("no rows".to_owned())),
        }
    }

    /// Runs a command without a result. Needs a transaction.
    pub fn command(&mut self, command: &str) -> Result<(), RemoteError> {
        self.ask(command, 0).map(|_| ())
    }

    fn ask(&mut self, text: &str, columns: usize) -> Result<Answer, RemoteError> {
        let text = c_string(text)?;
        let inner = &mut self.inner;
        match with_limit(self.limit, || inner.execute(&text, columns)) {
            Err(TimedOut) => Err(RemoteError::TimedOut(self.limit)),
            Ok(Answer::Error { sqlstate: None, message }) => Err(RemoteError::Lost(one_line(&message))),
            Ok(Answer::Error { sqlstate: Some(code), message }) => Err(RemoteError::Peer {
                sqlstate: String::from_utf8_lossy(&code).into_owned(),
                message: one_line(&message),
            }),
            Ok(answer) => Ok(answer),
        }
    }
}

/// What a peer is sent, in this database's encoding: `prepare` says so to the peer.
fn c_string(text: &str) -> Result<CString, RemoteError> {
    to_server(text).ok_or_else(|| RemoteError::Unexpected("text with a null byte".to_owned()))
}

/// The first line: libpq's messages go on with an excerpt of the query, or with advice to a person at a prompt.
fn one_line(message: &str) -> String {
    let message = message.strip_prefix("ERROR:").unwrap_or(message);
    let line = message.trim().lines().next().unwrap_or_default();
    line.chars().map(|character| if character.is_control() { ' ' } else { character }).collect()
}
