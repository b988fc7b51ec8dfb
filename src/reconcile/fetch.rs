//! Rows with certain keys for the rebuild of a table: as they are to be written, and by whom and when they were
//! committed, from the source; and the versions that this node has.

use super::answer::{Answer, Version};
use super::ask::CHUNK;
pub use super::ask::Texts;
use super::pieces::Pieces;
use super::rows::{Columns, KeyText, Question};
use crate::apply::touched::Relation;
use crate::error::OrRaise;
use crate::guc;
use crate::pg::memory;
use crate::recover::error::RecoverError;
use crate::recover::source::Source;
use std::collections::HashMap;
use std::time::Duration;

/// The time that the source has for one answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// Passes the rows that the source has, with all their values, as its connection's transaction sees them, to `see`, those
/// of one answer at a time. Keys without a row are left out. An answer is bounded by bytes, and so is the memory that this
/// takes beyond one row.
///
/// # Errors
/// If the source cannot be asked, refuses, or answers with something else.
pub fn whole_rows(
    source: &mut Source,
    relation: &Relation,
    key: &[usize],
    keys: &[KeyText],
    mut see: impl FnMut(Vec<(KeyText, Texts)>) -> Result<(), RecoverError>,
) -> Result<(), RecoverError> {
    let columns = Columns { relation, key };
    each_answer(source, &columns, keys, Question::whole_rows, |source, versions| {
        let mut rows = Vec::with_capacity(versions.len());
        for version in versions {
            let Some(values) = texts_of(version) else { return Err(source.unexpected("values that are no text")) };
            let Some(key) = key_of(&values, key) else { return Err(source.unexpected("a row without a key")) };
            rows.push((key, values));
        }
        see(rows)
    })
}

/// When the source's rows with these keys were committed, and the id of the replication origin there, as its connection's
/// transaction sees them; None: that is not known any more. Keys without a row are left out.
///
/// # Errors
/// As [`whole_rows`].
pub fn commits_there(
    source: &mut Source,
    relation: &Relation,
    key: &[usize],
    keys: &[KeyText],
) -> Result<HashMap<KeyText, Option<(i64, u16)>>, RecoverError> {
    let (relation, key) = only_key(relation, key);
    let (columns, mut commits) = (Columns { relation: &relation, key: &key }, HashMap::new());
    let question = |columns: &Columns<'_>, keys: &[KeyText]| Question::rows(columns, keys, false);
    each_answer(source, &columns, keys, question, |source, versions| {
        for version in versions {
            let committed = version.committed;
            let found = texts_of(version).and_then(|values| key_of(&values, &key));
            let Some(key) = found else { return Err(source.unexpected("a row without a key")) };
            commits.insert(key, committed);
        }
        Ok(())
    })?;
    Ok(commits)
}

/// Asks the source for the rows with these keys, in as many questions as that takes, and passes each answer to `see`.
fn each_answer(
    source: &mut Source,
    columns: &Columns<'_>,
    keys: &[KeyText],
    question: impl Fn(&Columns<'_>, &[KeyText]) -> Question,
    mut see: impl FnMut(&Source, Vec<Version>) -> Result<(), RecoverError>,
) -> Result<(), RecoverError> {
    let limit = ANSWER_LIMIT.max(guc::peer_timeout());
    let (mut pieces, mut rest) = (Pieces::of(CHUNK), keys);
    while !rest.is_empty() {
        let piece = pieces.next(rest);
        let question = question(columns, piece);
        let text = memory::apart(|| source.touched_rows(&question.to_text(), limit))?;
        let answer: Answer = serde_json::from_str(&text).map_err(|_| source.unexpected("rows in an unknown form"))?;
        let answer = answer.exact();
        let bytes = answer.bytes();
        match answer {
            Answer::ExactRows(versions) if versions.len() <= piece.len() => {
                see(source, versions)?;
                rest = &rest[piece.len()..];
                pieces.grow(bytes);
            }
            Answer::TooMuch { fit } if !question.is_single() => pieces.shrink(piece.len(), fit),
            _ => return Err(source.unexpected("other rows than were asked for")),
        }
    }
    Ok(())
}

/// The transactions that have written the rows with these keys on this node, as the present snapshot sees them. Keys
/// without a row are left out. Needs a transaction with a snapshot.
///
/// # Errors
/// If the table cannot be read.
pub fn versions_here(
    relation: &Relation,
    key: &[usize],
    keys: &[KeyText],
) -> Result<HashMap<KeyText, u32>, RecoverError> {
    let (relation, key) = only_key(relation, key);
    let columns = Columns { relation: &relation, key: &key };
    let (mut versions, mut pieces, mut rest) = (HashMap::new(), Pieces::of(CHUNK), keys);
    while !rest.is_empty() {
        let piece = pieces.next(rest);
        match memory::apart(|| Question::rows(&columns, piece, false).answer().or_raise()) {
            Answer::ExactRows(found) => {
                for version in found {
                    let transaction = version.transaction;
                    if let Some(key) = texts_of(version).and_then(|values| key_of(&values, &key)) {
                        versions.insert(key, transaction);
                    }
                }
                rest = &rest[piece.len()..];
            }
            Answer::TooMuch { fit } => pieces.shrink(piece.len(), fit),
            Answer::Rows(_) | Answer::Sums(_) | Answer::Places(_) => rest = &rest[piece.len()..],
        }
    }
    Ok(versions)
}

/// The table as one that has no other columns than its key's, for questions in which no other value matters.
fn only_key(relation: &Relation, key: &[usize]) -> (Relation, Vec<usize>) {
    let columns: Vec<String> = key.iter().filter_map(|column| relation.columns.get(*column).cloned()).collect();
    let key = (0..columns.len()).collect();
    (Relation { schema: relation.schema.clone(), name: relation.name.clone(), columns }, key)
}

/// The values of a row as text; None if one of them is not text.
fn texts_of(version: Version) -> Option<Texts> {
    let text = |value: Option<super::value::Value>| value.map_or(Some(None), |value| value.into_text().map(Some));
    version.values.into_iter().map(text).collect()
}

fn key_of(values: &[Option<String>], key: &[usize]) -> Option<KeyText> {
    key.iter().map(|column| values.get(*column).cloned().flatten()).collect()
}
