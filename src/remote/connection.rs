//! A connection to a peer for SQL. Everything has a time limit, because libpqwalreceiver has none.

use super::error::RemoteError;
use super::report::PeerReport;
use super::row::PeerRow;
use crate::node::provider::Route;
use crate::pg::text::to_server;
use crate::pg::timeout::{TimedOut, with_limit};
use crate::pg::walreceiver::{self, ConnectionAnswer, Received, WalReceiverConnection};
use std::ffi::CString;
use std::time::Duration;

/// Returns one row if the extension is installed: whether what only its own code calls is in a schema of its own. A
/// function of that name there counts only if it is the extension's.
const HAS_EXTENSION: &str = "SELECT EXISTS (SELECT FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_proc p ON p.oid = d.objid \
                                             WHERE d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass \
                                               AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass \
                                               AND d.refobjid = e.oid AND d.deptype = 'e' AND p.proname = 'node_identity' \
                                               AND p.pronamespace = pg_catalog.to_regnamespace('spock_internal')) \
                               FROM pg_catalog.pg_extension e WHERE e.extname = 'spock_recovery'";

/// The settings that every session of this library relies on; a role or database may have other defaults for each of
/// them. The role is set first, because another role might not be allowed to set the rest. A commit on the peer does
/// not wait for a synchronous standby, which may be on the lost node. Where the network is gone without a word, the peer
/// ends the session after two minutes: by default its kernel would keep it, with whatever it holds, for hours.
const KNOWN_STATE: &str = "SET ROLE NONE; SET search_path = pg_catalog, pg_temp; \
    SET default_transaction_isolation = 'read committed'; SET default_transaction_read_only = on; SET default_transaction_deferrable = off; \
    SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0; SET transaction_timeout = 0; SET row_security = off; \
    SET idle_session_timeout = 0; SET exit_on_error = off; SET synchronous_commit = local; \
    SET tcp_keepalives_idle = 60; SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 6; SET tcp_user_timeout = '120s'; \
    SET datestyle = 'ISO'; SET intervalstyle = 'postgres'; SET extra_float_digits = 3; SET timezone = 'UTC'; SET bytea_output = 'hex';";

/// Why a connection gives no more answers.
const CLOSED: &str = "it was closed after a question that was not answered to its end";

pub struct Connection {
    /// None after the first query whose answer was not read to its end: the peer may still be running it, and its
    /// answer would be taken for that of the next query.
    inner: Option<WalReceiverConnection>,
    limit: Duration,
    internal_schema: &'static str,
}

impl Connection {
    /// Connects to a peer. `limit` bounds this call and each query. After `TimedOut` on PostgreSQL 17 the attempt leaks
    /// its socket until the process ends.
    pub fn open(route: &Route, role: &str, limit: Duration) -> Result<Connection, RemoteError> {
        let name = CString::new(format!("spock_recovery {role}"))
            .map_err(|_| RemoteError::Unexpected("role with a null byte".to_owned()))?;
        let inner =
            with_limit(limit, || WalReceiverConnection::connect(route.dsn.as_c_str(), route.must_use_password, &name))
                .map_err(|TimedOut| RemoteError::TimedOut(limit))?
                .map_err(|message| RemoteError::Connect(one_line(&message)))?;
        Ok(Connection { inner: Some(inner), limit, internal_schema: "spock_internal" })
    }

    /// Puts the session into a known state, whatever defaults the role and database have there (ALTER ROLE … SET, ALTER
    /// DATABASE … SET): it runs as the role that has connected, finds names in pg_catalog alone, ends only when this
    /// side closes it, and answers in this database's encoding and in a fixed style. Needs a transaction.
    pub fn prepare(&mut self) -> Result<(), RemoteError> {
        let encoding = walreceiver::database_encoding();
        let encoding = pgrx::spi::quote_literal(encoding.to_string_lossy());
        self.command(&format!(
            "{KNOWN_STATE} SET client_encoding = {encoding}; SET statement_timeout = {}",
            self.limit.as_millis()
        ))
    }

    /// Checks that the peer has this extension. The check is a query, so that its failure leaves no ERROR in the peer's
    /// log. Needs a transaction.
    ///
    /// # Errors
    /// The peer does not have the extension, or the query failed.
    pub fn require_extension(&mut self) -> Result<(), RemoteError> {
        let rows = self.query(HAS_EXTENSION, 1)?;
        let Some(row) = rows.first() else {
            return Err(RemoteError::Unexpected("the extension spock_recovery is not there".to_owned()));
        };
        self.internal_schema = if row.value::<String>(0)? == "t" { "spock_internal" } else { "spock" };
        Ok(())
    }

    /// The schema of the functions that only the extension's own code calls, as `require_extension` has found it. In
    /// version 0.1.0 of the extension's SQL they are in `spock`, among those that a person calls.
    pub fn internal_schema(&self) -> &'static str {
        self.internal_schema
    }

    /// Runs a query that returns `columns` columns. Needs a transaction.
    pub fn query(&mut self, question: &str, columns: usize) -> Result<Vec<PeerRow>, RemoteError> {
        rows_of(self.ask(question, columns, self.limit)?)
    }

    /// Like `query`, for a query that may take longer. The peer cancels it after `limit`, which leaves the connection
    /// usable. This side stops waiting later, and only if the peer has not answered even then.
    pub fn query_within(
        &mut self,
        limit: Duration,
        question: &str,
        columns: usize,
    ) -> Result<Vec<PeerRow>, RemoteError> {
        // Two statements in one message are one transaction, at whose end the setting is reverted.
        let question = format!("SET LOCAL statement_timeout = {}; {question}", limit.as_millis());
        rows_of(self.ask(&question, columns, limit + self.limit)?)
    }

    /// Like `query`, for statements that set their own limit on the peer: this side stops waiting after `limit`.
    pub fn query_for(&mut self, limit: Duration, question: &str, columns: usize) -> Result<Vec<PeerRow>, RemoteError> {
        rows_of(self.ask(question, columns, limit)?)
    }

    /// Runs a command without a result. Needs a transaction.
    pub fn command(&mut self, command: &str) -> Result<(), RemoteError> {
        self.ask(command, 0, self.limit).map(|_| ())
    }

    /// Begins a COPY … TO STDOUT, whose rows `receive` returns. Needs a transaction.
    pub fn begin_copy(&mut self, statement: &str) -> Result<(), RemoteError> {
        match self.ask(statement, 0, self.limit)? {
            ConnectionAnswer::CopyOut => Ok(()),
            _ => Err(RemoteError::Unexpected("no COPY".to_owned())),
        }
    }

    /// What has arrived of a COPY, without waiting. After an Err the connection is closed.
    pub fn receive(&mut self) -> Result<Received<'_>, RemoteError> {
        let Some(inner) = &mut self.inner else { return Err(RemoteError::Lost(CLOSED.to_owned())) };
        match inner.receive() {
            Received::Failed(failure) if failure.is_lost => Err(RemoteError::Lost(one_line(&failure.message))),
            Received::Failed(failure) => Err(RemoteError::of_peer(PeerReport::parse(&failure.message))),
            received => Ok(received),
        }
    }

    fn ask(&mut self, text: &str, columns: usize, limit: Duration) -> Result<ConnectionAnswer, RemoteError> {
        let text = c_string(text)?;
        let Some(mut inner) = self.inner.take() else { return Err(RemoteError::Lost(CLOSED.to_owned())) };
        // If this side stops waiting, or an ERROR unwinds, the connection is dropped and thereby closed.
        let answer = match with_limit(limit, || inner.execute(&text, columns)) {
            Err(TimedOut) => return Err(RemoteError::TimedOut(limit)),
            Ok(ConnectionAnswer::Error { sqlstate: None, message }) => {
                return Err(RemoteError::Lost(one_line(&message)));
            }
            Ok(answer) => answer,
        };
        self.inner = Some(inner);
        match answer {
            ConnectionAnswer::Error { sqlstate, message } => {
                Err(RemoteError::of_peer(PeerReport::parse(&message).with_sqlstate(sqlstate)))
            }
            answer => Ok(answer),
        }
    }
}

fn rows_of(answer: ConnectionAnswer) -> Result<Vec<PeerRow>, RemoteError> {
    match answer {
        ConnectionAnswer::Rows(rows) => Ok(rows.into_iter().map(PeerRow::new).collect()),
        _ => Err(RemoteError::Unexpected("no rows".to_owned())),
    }
}

/// Converts text for the peer into this database's encoding, which `prepare` has announced to the peer.
fn c_string(text: &str) -> Result<CString, RemoteError> {
    to_server(text).ok_or_else(|| RemoteError::Unexpected("text with a null byte".to_owned()))
}

/// The first line of a message: libpq's messages continue with an excerpt of the query, or with advice to an
/// interactive user.
fn one_line(message: &str) -> String {
    let message = message.strip_prefix("ERROR:").unwrap_or(message);
    let line = message.trim().lines().next().unwrap_or_default();
    line.chars().map(|character| if character.is_control() { ' ' } else { character }).collect()
}
