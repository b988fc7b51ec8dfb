//! Rows with certain keys for the rebuild of a table: as they are to be written, from the source, and the versions that
//! this node has.

use super::answer::Answer;
use super::ask::{CHUNK, Texts};
use super::pieces::Pieces;
use super::rows::{Columns, KeyText, Question};
use crate::apply::touched::Relation;
use crate::error::OrRaise;
use crate::guc;
use crate::recover::error::RecoverError;
use crate::recover::source::Source;
use std::collections::HashMap;
use std::time::Duration;

/// The time that the source has for one answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// The rows that the source has, with all their values, as its connection's transaction sees them. Keys without a row
/// are left out. An answer is bounded by bytes, and so is the memory that this takes beyond one row.
///
/// # Errors
/// If the source cannot be asked, refuses, or answers with something else.
pub fn whole_rows(
    source: &mut Source,
    relation: &Relation,
    key: &[usize],
    keys: &[KeyText],
    mut see: impl FnMut(KeyText, Texts) -> Result<(), RecoverError>,
) -> Result<(), RecoverError> {
    let columns = Columns { relation, key };
    let limit = ANSWER_LIMIT.max(guc::peer_timeout());
    let (mut pieces, mut rest) = (Pieces::of(CHUNK), keys);
    while !rest.is_empty() {
        let piece = pieces.next(rest);
        let question = Question::whole_rows(&columns, piece);
        let text = source.touched_rows(&question.to_text(), limit)?;
        let answer: Answer = serde_json::from_str(&text).map_err(|_| source.unexpected("rows in an unknown form"))?;
        let answer = answer.exact();
        let bytes = answer.bytes();
        match answer {
            Answer::ExactRows(versions) if versions.len() <= piece.len() => {
                for version in versions {
                    let values: Option<Texts> = version
                        .values
                        .into_iter()
                        .map(|value| value.map_or(Some(None), |value| value.text().map(|text| Some(text.to_owned()))))
                        .collect();
                    let Some(values) = values else { return Err(source.unexpected("values that are no text")) };
                    let Some(key) = key_of(&values, key) else { return Err(source.unexpected("a row without a key")) };
                    see(key, values)?;
                }
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
    let columns = Columns { relation, key };
    let (mut versions, mut pieces, mut rest) = (HashMap::new(), Pieces::of(CHUNK), keys);
    while !rest.is_empty() {
        let piece = pieces.next(rest);
        match Question::rows(&columns, piece, false).answer().or_raise() {
            Answer::ExactRows(found) => {
                for version in found {
                    let values: Texts = version
                        .values
                        .iter()
                        .map(|value| value.as_ref().and_then(|value| value.text()).map(str::to_owned))
                        .collect();
                    if let Some(key) = key_of(&values, key) {
                        versions.insert(key, version.transaction);
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

fn key_of(values: &[Option<String>], key: &[usize]) -> Option<KeyText> {
    key.iter().map(|column| values.get(*column).cloned().flatten()).collect()
}
