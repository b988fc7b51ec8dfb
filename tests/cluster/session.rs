//! SQL on a node: each verb in a session of its own, or several in one `Session`.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use postgres::{Client, NoTls};
use spockctl::client::{self, Rows};
use spockctl::deadline;

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

/// One database of a node; every verb connects anew, so that no session stays behind.
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
        self.session().sql(statements);
    }

    /// Rows, or the error, which its server's log may then hold.
    pub fn try_sql(self, statements: &str) -> Result<Rows, SqlError> {
        self.try_session()?.try_sql(statements)
    }

    pub fn rows(self, statement: &str) -> Rows {
        self.session().rows(statement)
    }

    /// As psql -At prints it: columns divided by `|`, rows by newlines, NULL empty.
    pub fn value(self, statement: &str) -> String {
        self.session().value(statement)
    }

    /// Runs the query until it returns this value (as `value` writes it); rides out disconnections, panics at any other error.
    pub fn wait_until(self, statement: &str, expected: &str) {
        let mut session: Option<Session<'a>> = None;
        let mut last = String::new();
        let reached = deadline::poll(LIMIT, || {
            let connected = session.take().map_or_else(|| self.try_session(), Ok);
            match connected.and_then(|mut fresh| fresh.try_sql(statement).inspect(|_| session = Some(fresh))) {
                Ok(rows) => last = psql_text(&rows),
                Err(error) if error.is_disconnection() => last = error.to_string(),
                Err(error) => panic!("{}: {error}\nSTATEMENT:  {statement}", self.node.name()),
            }
            (last == expected).then_some(())
        });
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
