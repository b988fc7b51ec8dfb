//! What the log says of a conflict (pure): in the words of PostgreSQL 18's own apply worker (documentation, "Conflicts" in
//! logical replication, "Logging"), on every major alike, and what has become of it.

use crate::pg::row_text::{RowAuthor, Writer};
use crate::tally::conflict::{Kind, Resolution};

/// One row that is there, and what it was met with. None: not to be shown to the role that applies.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rows {
    /// `(id)=(1)`
    pub key: Option<String>,
    pub existing: Option<String>,
    pub incoming: Option<String>,
    /// `(id)=(1)`, or the whole row where the replica identity is full.
    pub identity: Option<String>,
    pub is_identity_full: bool,
}

pub fn message(relation: &str, kind: Kind) -> String {
    format!("conflict detected on relation \"{relation}\": conflict={}", kind.name())
}

/// What has happened, in a sentence. `index`: the unique index whose key is there.
pub fn explanation(kind: Kind, index: Option<&str>, author: Option<&RowAuthor>) -> String {
    let index = index.unwrap_or_default();
    match kind {
        Kind::UpdateMissing => "Could not find the row to be updated.".to_owned(),
        Kind::DeleteMissing => "Could not find the row to be deleted.".to_owned(),
        Kind::InsertExists | Kind::UpdateExists | Kind::MultipleUniqueConflicts => {
            let by = author.map_or_else(String::new, |author| format!(", modified{}", by(author, "")));
            format!("Key already exists in unique index \"{index}\"{by}.")
        }
        Kind::UpdateOriginDiffers => {
            format!(
                "Updating the row that was modified{}.",
                author.map_or_else(String::new, |author| by(author, "different "))
            )
        }
        Kind::DeleteOriginDiffers => {
            format!(
                "Deleting the row that was modified{}.",
                author.map_or_else(String::new, |author| by(author, "different "))
            )
        }
        Kind::TruncateOriginDiffers => "Rows were committed after the TRUNCATE.".to_owned(),
    }
}

fn by(author: &RowAuthor, different: &str) -> String {
    let transaction = author.transaction;
    match &author.committed {
        None => format!(" in transaction {transaction}"),
        Some((Writer::Here, at)) => format!(" locally in transaction {transaction} at {at}"),
        Some((Writer::Origin(name), at)) => {
            let article = if different.is_empty() { "" } else { "a " };
            format!(" by {article}{different}origin \"{name}\" in transaction {transaction} at {at}")
        }
        Some((Writer::Gone, at)) => format!(" by a non-existent origin in transaction {transaction} at {at}"),
    }
}

/// The rows, in a sentence; empty where none may be shown.
pub fn rows(rows: &Rows) -> String {
    let identity = if rows.is_identity_full { "replica identity full" } else { "replica identity" };
    let parts = [
        ("key", &rows.key),
        ("existing local row", &rows.existing),
        ("remote row", &rows.incoming),
        (identity, &rows.identity),
    ];
    let shown: Vec<String> =
        parts.iter().filter_map(|(name, text)| text.as_ref().map(|text| format!("{name} {text}"))).collect();
    let mut sentence = shown.join("; ");
    if let Some(first) = sentence.get(..1).map(str::to_uppercase) {
        sentence.replace_range(..1, &first);
        sentence.push('.');
    }
    sentence
}

/// Whose transaction met it, and how it was resolved.
pub fn outcome(failed_node: &str, origin_lsn: crate::lsn::OriginLsn, resolution: Option<Resolution>) -> String {
    let resolution = resolution.map_or_else(String::new, |resolution| format!("; resolution: {}", resolution.name()));
    format!("Transaction of node \"{failed_node}\" that ended at {origin_lsn}{resolution}.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn author(writer: Option<Writer>) -> RowAuthor {
        RowAuthor { transaction: 742, committed: writer.map(|writer| (writer, "2026-11-20 10:00:00+00".to_owned())) }
    }

    #[test]
    fn a_conflict_is_explained_in_the_words_of_postgresql_18() {
        let n3 = || Some(Writer::Origin("pg_16394".to_owned()));
        for (kind, writer, expected) in [
            (
                Kind::InsertExists,
                Some(Writer::Here),
                "Key already exists in unique index \"t_pkey\", modified locally in transaction 742 at 2026-11-20 10:00:00+00.",
            ),
            (
                Kind::UpdateExists,
                n3(),
                "Key already exists in unique index \"t_pkey\", modified by origin \"pg_16394\" in transaction 742 at \
                 2026-11-20 10:00:00+00.",
            ),
            (
                Kind::MultipleUniqueConflicts,
                None,
                "Key already exists in unique index \"t_pkey\", modified in transaction 742.",
            ),
            (
                Kind::UpdateOriginDiffers,
                n3(),
                "Updating the row that was modified by a different origin \"pg_16394\" in transaction 742 at 2026-11-20 \
                 10:00:00+00.",
            ),
            (
                Kind::DeleteOriginDiffers,
                Some(Writer::Gone),
                "Deleting the row that was modified by a non-existent origin in transaction 742 at 2026-11-20 10:00:00+00.",
            ),
            (
                Kind::DeleteOriginDiffers,
                Some(Writer::Here),
                "Deleting the row that was modified locally in transaction 742 at 2026-11-20 10:00:00+00.",
            ),
        ] {
            assert_eq!(explanation(kind, Some("t_pkey"), Some(&author(writer))), expected);
        }
        assert_eq!(explanation(Kind::UpdateMissing, None, None), "Could not find the row to be updated.");
        assert_eq!(explanation(Kind::DeleteMissing, None, None), "Could not find the row to be deleted.");
    }

    #[test]
    fn rows_are_shown_as_far_as_they_may_be() {
        let text = |text: &str| Some(text.to_owned());
        let all = Rows {
            key: text("(id)=(1)"),
            existing: text("(1, there)"),
            incoming: text("(1, come)"),
            identity: text("(id)=(1)"),
            is_identity_full: false,
        };
        assert_eq!(
            rows(&all),
            "Key (id)=(1); existing local row (1, there); remote row (1, come); replica identity (id)=(1)."
        );
        let few = Rows { identity: text("(1, x)"), is_identity_full: true, ..Rows::default() };
        assert_eq!(rows(&few), "Replica identity full (1, x).");
        assert_eq!(rows(&Rows::default()), "");
    }
}
