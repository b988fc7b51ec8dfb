//! The check of rows that could not be compared yet and are lost (pure). If the large object that stores them is
//! removed, they cannot be compared any more, and without this check the recovery would look complete.

use super::judge::{Check, Status, check};
use crate::counted::counted;

/// The lost rows of one recovery.
#[derive(Clone, Debug, Default)]
pub struct KeptFacts {
    pub failed: String,
    pub source: String,
    /// Rows that have been recorded as lost.
    pub lost: u64,
    /// The large object that has disappeared, and how many rows it contained.
    pub removed: Option<(u32, u64)>,
}

/// None: no rows are lost.
pub fn check_kept(recoveries: &[KeptFacts]) -> Option<Check> {
    let lost: Vec<&KeptFacts> = recoveries.iter().filter(|facts| facts.lost > 0 || facts.removed.is_some()).collect();
    let told = |facts: &&KeptFacts| {
        let KeptFacts { failed, source, .. } = facts;
        let (rows, how) = match facts.removed {
            Some((object, rows)) => (facts.lost + rows, format!("large object {object}, which kept them, was removed")),
            None => (facts.lost, "they are not known any more".to_owned()),
        };
        format!(
            "{} that the recovery of node \"{failed}\" has touched can never be compared: {how}; compare the tables by \
             hand with those of node \"{source}\"",
            counted(rows, "row")
        )
    };
    let is_news = lost.iter().any(|facts| facts.removed.is_some());
    let status = if is_news { Status::Critical } else { Status::Warning };
    (!lost.is_empty()).then(|| check("kept_rows", status, lost.iter().map(told).collect::<Vec<_>>().join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_are_lost_are_told_before_and_after_that_was_written_down() {
        let facts = |lost, removed| KeptFacts { failed: "n1".to_owned(), source: "n3".to_owned(), lost, removed };
        for (what, recoveries, expected) in [
            ("no recovery", vec![], None),
            ("nothing is lost", vec![facts(0, None)], None),
            ("just removed", vec![facts(0, None), facts(0, Some((7, 2)))], Some((Status::Critical, "2 rows"))),
            ("again", vec![facts(3, Some((7, 2)))], Some((Status::Critical, "5 rows"))),
            ("written down", vec![facts(3, None)], Some((Status::Warning, "3 rows that"))),
            ("a single one", vec![facts(1, None)], Some((Status::Warning, "1 row that"))),
        ] {
            let found = check_kept(&recoveries);
            let matches = match (&found, expected) {
                (None, None) => true,
                (Some(found), Some((status, rows))) => {
                    found.status == status && found.details.starts_with(rows) && found.details.contains("\"n3\"")
                }
                _ => false,
            };
            assert!(matches, "{what}: {found:?}");
        }
    }
}
