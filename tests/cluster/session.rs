//! SQL on a node: each verb in a session that knows nothing of those before, or several in one `Session`.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use postgres::{Client, NoTls};
use spock_recovery_cluster::client::{self, Rows};
use spock_recovery_cluster::deadline;

use super::{LIMIT, Node};

/// Ends a statement that hangs, so that its test fails instead of the whole run.
const STATEMENT_TIMEOUT: &str = "-c statement_timeout=180s";

/// Connection failures, told from errors of the server: 08006 is what PostgreSQL calls them.
const CONNECTION_FAILURE: &str = "08006";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqlError {
    pub severity: String,
    pub sqlstate: String,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
}

impl SqlError {
    fn new(error: &postgres::Error) -> SqlError {
        match error.as_db_error() {
            Some(error) => SqlError {
                severity: error.severity().into(),
                sqlstate: error.code().code().into(),
                message: error.message().into(),
                detail: error.detail().map(str::to_owned),
                hint: error.hint().map(str::to_owned),
            },
            None => SqlError {
                severity: "FATAL".into(),
                sqlstate: CONNECTION_FAILURE.into(),
                message: client::describe(error),
                detail: None,
                hint: None,
            },
        }
    }

    /// Not the statement's fault: the server is away, starting, stopping, or ended the session (classes 08 and 57P).
    pub fn is_disconnection(&self) -> bool {
        self.sqlstate.starts_with("08") || self.sqlstate.starts_with("57P")
    }
}

impl fmt::Display for SqlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:  {} ({})", self.severity, self.message, self.sqlstate)?;
        for (name, text) in [("DETAIL", &self.detail), ("HINT", &self.hint)] {
            if let Some(text) = text {
                write!(f, "\n{name}:  {text}")?;
            }
        }
        Ok(())
    }
}

/// One database of a node. A verb in the database `postgres` as the superuser reuses an idle session of an earlier verb, reset to
/// what a new one is: a backend costs as much as the statements of many tests. Any other connects anew and leaves nothing behind.
#[derive(Clone, Copy)]
pub struct Database<'a> {
    pub(super) node: &'a Node,
    pub(super) name: &'a str,
    pub(super) role: &'a str,
}

impl<'a> Database<'a> {
    /// The same database as another role.
    pub fn role(self, role: &'a str) -> Database<'a> {
        Database { role, ..self }
    }

    pub fn try_session(self) -> Result<Session<'a>, SqlError> {
        if !self.is_pooled() {
            // It may be about to copy or to drop the database that an idle session is connected to.
            self.node.end_idle();
        }
        let notices = Notices::default();
        let collected = notices.clone();
        let mut config = self.node.server().config(self.name);
        config.user(self.role).application_name("test").options(STATEMENT_TIMEOUT);
        config.notice_callback(move |notice| collected.push(notice.message()));
        match config.connect(NoTls) {
            Ok(client) => Ok(Session { node: self.node, client, notices }),
            Err(error) => Err(self.node.received(SqlError::new(&error))),
        }
    }

    pub fn session(self) -> Session<'a> {
        self.try_session().unwrap_or_else(|error| panic!("{}, database \"{}\": {error}", self.node.name(), self.name))
    }

    pub fn sql(self, statements: &str) {
        self.rows(statements);
    }

    /// Rows, or the error, which its server's log may then hold.
    pub fn try_sql(self, statements: &str) -> Result<Rows, SqlError> {
        let mut session = self.idle_or_new()?;
        let rows = session.try_sql(statements)?;
        self.leave(session);
        Ok(rows)
    }

    fn idle_or_new(self) -> Result<Session<'a>, SqlError> {
        match self.is_pooled().then(|| self.node.take_idle()).flatten() {
            Some(Idle(client, notices)) => Ok(Session { node: self.node, client, notices }),
            None => self.try_session(),
        }
    }

    fn leave(self, session: Session<'a>) {
        if self.is_pooled() {
            self.node.leave_idle(Idle(session.client, session.notices));
        }
    }

    pub fn rows(self, statement: &str) -> Rows {
        self.try_sql(statement).unwrap_or_else(|error| {
            panic!("{}, database \"{}\": {error}\nSTATEMENT:  {statement}", self.node.name(), self.name)
        })
    }

    /// As psql -At prints it: columns divided by `|`, rows by newlines, NULL empty.
    pub fn value(self, statement: &str) -> String {
        psql_text(&self.rows(statement))
    }

    fn is_pooled(self) -> bool {
        self.name == "postgres" && self.role == "postgres"
    }

    /// Runs the query until it returns this value (as `value` writes it); rides out disconnections, panics at any other error.
    pub fn wait_until(self, statement: &str, expected: &str) {
        let mut session: Option<Session<'a>> = None;
        let mut last = String::new();
        let reached = deadline::poll(LIMIT, || {
            let connected = session.take().map_or_else(|| self.idle_or_new(), Ok);
            match connected.and_then(|mut fresh| fresh.try_sql(statement).inspect(|_| session = Some(fresh))) {
                Ok(rows) => last = psql_text(&rows),
                Err(error) if error.is_disconnection() => last = error.to_string(),
                Err(error) => panic!("{}: {error}\nSTATEMENT:  {statement}", self.node.name()),
            }
            (last == expected).then_some(())
        });
        if let Some(session) = session {
            self.leave(session);
        }
        if reached.is_none() {
            let (name, waited) = (self.node.name(), LIMIT.as_secs());
            panic!("{name}: after {waited} s still not \"{expected}\" but \"{last}\"\nSTATEMENT:  {statement}");
        }
    }
}

/// A session that stays, for transactions, locks and SET.
pub struct Session<'a> {
    node: &'a Node,
    client: Client,
    notices: Notices,
}

impl Session<'_> {
    pub fn try_sql(&mut self, statements: &str) -> Result<Rows, SqlError> {
        client::rows(&mut self.client, statements).map_err(|error| self.node.received(SqlError::new(&error)))
    }

    pub fn rows(&mut self, statements: &str) -> Rows {
        self.try_sql(statements)
            .unwrap_or_else(|error| panic!("{}: {error}\nSTATEMENT:  {statements}", self.node.name()))
    }

    pub fn sql(&mut self, statements: &str) {
        self.rows(statements);
    }

    pub fn value(&mut self, statement: &str) -> String {
        psql_text(&self.rows(statement))
    }

    pub fn backend_pid(&mut self) -> i32 {
        self.value("SELECT pg_backend_pid()").parse().expect("a process id is a number")
    }

    /// The messages of NOTICEs and WARNINGs since the last call.
    pub fn notices(&mut self) -> Vec<String> {
        self.notices.take()
    }
}

/// A session between two verbs.
pub(super) struct Idle(Client, Notices);

impl Idle {
    /// As a new one; None if it has ended, or is within a transaction.
    pub(super) fn reset(mut self) -> Option<Idle> {
        self.0.simple_query("DISCARD ALL").ok()?;
        Some(self)
    }
}

#[derive(Clone, Default)]
struct Notices(Arc<Mutex<Vec<String>>>);

impl Notices {
    fn push(&self, message: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(message.into());
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn psql_text(rows: &Rows) -> String {
    let lines: Vec<String> = rows
        .iter()
        .map(|row| row.iter().map(|value| value.as_deref().unwrap_or_default()).collect::<Vec<_>>().join("|"))
        .collect();
    lines.join("\n")
}
