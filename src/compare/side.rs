//! The two nodes of a comparison, and how each is asked.

use super::question::{Answer, Asked, Question};
use crate::error::{SqlError, unpack_sqlstate};
use crate::guc;
use crate::pg::interrupts;
use crate::pg::latch::{self, WaitEvent};
use crate::pg::transaction::{self, is_cancel};
use crate::pg::walreceiver::Received;
use crate::refused::Refused;
use crate::remote::connection::Connection;
use crate::remote::error::RemoteError;
use crate::remote::row::PeerRow;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::spi::quote_literal;
use std::time::{Duration, Instant};

/// The time that a peer has for one answer, which is far more than a bounded answer takes.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// The same for sums without a bound.
const UNBOUNDED_LIMIT: Duration = Duration::from_secs(600);

/// The length of the message that a peer sends ahead of an answer: twice the buffer of its connection (PQ_SEND_BUFFER_SIZE in
/// pqcomm.c).
const AHEAD: usize = 16 << 10;
/// The time between two looks at whether this process is to end.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Marks the place to which an open transaction on a peer is rolled back when a question is refused.
const SAVEPOINT: &str = "spock_recovery_compare";

/// One of the two nodes.
pub trait Side {
    /// The node's name, for messages.
    fn node(&self) -> &str;

    /// Asks the node.
    ///
    /// # Errors
    /// The node cannot be asked. The inner Err is its refusal.
    fn ask(&mut self, question: &Question) -> Result<Result<Answer, Refused>, RemoteError>;

    /// Like [`Side::ask`]. A node that works on the answer by itself lets this process run `meanwhile` at the same time; the
    /// others do not run it.
    ///
    /// # Errors
    /// As [`Side::ask`]. After a refusal a node may not be asked again.
    fn ask_while(
        &mut self,
        question: &Question,
        _meanwhile: &mut dyn FnMut(),
    ) -> Result<Result<Answer, Refused>, RemoteError> {
        self.ask(question)
    }
}

/// This node. A question is asked in the caller's transaction if one is open, and else in one of its own.
pub struct Here {
    node: String,
}

impl Here {
    pub fn new(node: &str) -> Here {
        Here { node: node.to_owned() }
    }

    /// Answers within the open transaction, which stays usable if this node refuses.
    fn answer_within(&self, question: &Question) -> Result<Answer, Refused> {
        match transaction::nested(|| transaction::step(|| question.answer())) {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                let sqlstate = unpack_sqlstate(error.sqlstate() as i32).map(char::from).iter().collect();
                Err(Refused::new(&self.node, sqlstate, &error.to_string()))
            }
            Err(cause) => match *cause {
                CaughtError::PostgresError(ref report) | CaughtError::ErrorReport(ref report) if !is_cancel(report) => {
                    Err(Refused::by(&self.node, report))
                }
                cause => cause.rethrow(),
            },
        }
    }
}

impl Side for Here {
    fn node(&self) -> &str {
        &self.node
    }

    fn ask(&mut self, question: &Question) -> Result<Result<Answer, Refused>, RemoteError> {
        if transaction::is_open() {
            return Ok(self.answer_within(question));
        }
        use crate::error::OrRaise;
        let answer = transaction::caught(|| question.answer().or_raise());
        Ok(answer.map_err(|report| Refused::by(&self.node, &report)))
    }
}

/// A peer, over a connection that is prepared, and whose extension was checked for.
pub struct There<'c> {
    node: String,
    connection: &'c mut Connection,
    is_in_transaction: bool,
}

impl<'c> There<'c> {
    pub fn new(node: &str, connection: &'c mut Connection) -> There<'c> {
        There { node: node.to_owned(), connection, is_in_transaction: false }
    }

    /// The same within the transaction that is open on the connection; it stays usable if the peer refuses.
    ///
    /// # Errors
    /// The peer cannot be asked.
    pub fn in_transaction(node: &str, connection: &'c mut Connection) -> Result<There<'c>, RemoteError> {
        in_transaction(|| connection.command(&format!("SAVEPOINT {SAVEPOINT}")))?;
        Ok(There { node: node.to_owned(), connection, is_in_transaction: true })
    }
}

impl Side for There<'_> {
    fn node(&self) -> &str {
        &self.node
    }

    fn ask(&mut self, question: &Question) -> Result<Result<Answer, Refused>, RemoteError> {
        match in_transaction(|| {
            self.connection.query_within(limit_of(question), &call(self.connection.internal_schema(), question), 1)
        }) {
            Ok(rows) => answer_of(rows).map(Ok),
            Err(RemoteError::Peer { sqlstate, message, .. }) => {
                if self.is_in_transaction {
                    in_transaction(|| self.connection.command(&format!("ROLLBACK TO SAVEPOINT {SAVEPOINT}")))?;
                }
                Ok(Err(Refused::new(&self.node, sqlstate, &message)))
            }
            Err(error) => Err(error),
        }
    }

    /// Only under a snapshot: else the two nodes would look at the rows of `meanwhile` at different times.
    fn ask_while(
        &mut self,
        question: &Question,
        meanwhile: &mut dyn FnMut(),
    ) -> Result<Result<Answer, Refused>, RemoteError> {
        if !self.is_in_transaction {
            return self.ask(question);
        }
        let limit = limit_of(question);
        let call = call(self.connection.internal_schema(), question);
        // A message that fills the peer's buffer is sent at once, before there is an answer: so the COPY has begun here.
        let copy = format!(
            "SET LOCAL statement_timeout = {}; COPY (SELECT pg_catalog.repeat(' ', {AHEAD}) UNION ALL {call}) TO STDOUT",
            limit.as_millis()
        );
        let answer = in_transaction(|| self.connection.begin_copy(&copy)).and_then(|()| {
            meanwhile();
            last_line(self.connection, limit)
        });
        match answer {
            // COPY writes each backslash twice; the answer has no other character that it would change.
            Ok(line) => read_answer(&line.trim_end_matches('\n').replace("\\\\", "\\")).map(Ok),
            Err(RemoteError::Peer { sqlstate, message, .. }) => Ok(Err(Refused::new(&self.node, sqlstate, &message))),
            Err(error) => Err(error),
        }
    }
}

/// The last line of a COPY that has begun. After `limit` this side waits no longer.
fn last_line(connection: &mut Connection, limit: Duration) -> Result<String, RemoteError> {
    let (begun, mut last) = (Instant::now(), String::new());
    loop {
        let socket = match connection.receive()? {
            Received::End => return Ok(last),
            Received::Message(line) => {
                last = String::from_utf8(line.to_vec()).map_err(|_| unknown_form())?;
                continue;
            }
            Received::Nothing(socket) => socket,
            Received::Failed(failure) => return Err(RemoteError::Lost(failure.message)),
        };
        interrupts::check();
        if begun.elapsed() > limit + guc::peer_timeout() {
            return Err(RemoteError::TimedOut(limit));
        }
        latch::wait_for_socket(socket, LOOK_AGAIN, WaitEvent::Compare);
    }
}

/// The query that asks a peer, whose extension's own functions are in this schema.
fn call(schema: &str, question: &Question) -> String {
    format!("SELECT {schema}.range_hashes({}::pg_catalog.text)", quote_literal(question.to_text()))
}

fn limit_of(question: &Question) -> Duration {
    let is_unbounded = matches!(question.asked, Asked::Sums { bytes: None, .. });
    if is_unbounded { UNBOUNDED_LIMIT } else { ANSWER_LIMIT.max(guc::peer_timeout()) }
}

fn answer_of(mut rows: Vec<PeerRow>) -> Result<Answer, RemoteError> {
    let answer = rows.pop().and_then(|row| row.into_values().pop().flatten());
    read_answer(&answer.ok_or_else(|| RemoteError::Unexpected("no hashes".to_owned()))?)
}

fn read_answer(text: &str) -> Result<Answer, RemoteError> {
    serde_json::from_str(text).map_err(|_| unknown_form())
}

fn unknown_form() -> RemoteError {
    RemoteError::Unexpected("hashes in an unknown form".to_owned())
}

/// A session asks within its own transaction. A worker opens a transaction for each question, so as not to hold back
/// vacuum meanwhile.
fn in_transaction<T>(f: impl FnOnce() -> T) -> T {
    if transaction::is_open() { f() } else { transaction::run_without_snapshot(f) }
}
