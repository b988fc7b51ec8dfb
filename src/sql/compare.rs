//! The functions that compare tables with those of another node. Their CREATE FUNCTION, grants and comments are in
//! sql/compare.sql.
#![allow(unsafe_code)] // pg_extern generates the C entry points

use crate::compare::question::Question;
use crate::document;
use crate::error::{OrRaise, SqlError, raise};
use crate::pg::text::{Text, to_server};
use crate::slot::clone::require_slot_user;
use pgrx::prelude::*;

/// Returns hashes over ranges of a table's keys; question and answer are JSON documents in ASCII, whatever the encodings
/// of the two databases are. The caller must be allowed to read the table. The table is read as its owner, whose code
/// receives the caller's values; therefore the caller needs REPLICATION as well.
#[pg_extern(sql = false)]
fn range_hashes(question: Text) -> Option<Text> {
    require_slot_user("range_hashes").or_raise();
    let Some(question) = Question::of_text(&question.to_utf8()) else { raise(&NoQuestion) };
    let answer = question.answer().or_raise();
    to_server(&document::to_text(&answer)).map(Text)
}

/// The document is not a question that this version understands.
#[derive(Debug, thiserror::Error)]
#[error("invalid request for range_hashes()")]
struct NoQuestion;

impl SqlError for NoQuestion {
    fn sqlstate(&self) -> PgSqlErrorCode {
        PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE
    }

    fn hint(&self) -> Option<String> {
        Some("Install the same version of spock_recovery on both nodes.".to_owned())
    }
}
