//! The check of the last comparisons of tables with other nodes (pure).

use super::{Check, Status, check};
use crate::counted::counted;
use crate::quoted::literal;

/// A comparison that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComparisonHealth {
    pub other: String,
    pub id: String,
    /// When it was begun, for ordering and for reading.
    pub begun_at: String,
    /// Whether only some tables were compared: then it says nothing of the others.
    pub is_partial: bool,
    pub differing: u64,
    pub undecided: u64,
    pub incomparable: u64,
}

/// None: nothing was ever compared, and nothing is to be.
pub fn comparison(ended: &[ComparisonHealth], is_automatic: bool) -> Option<Check> {
    let name = "comparison";
    let counting = counting(ended);
    if counting.is_empty() {
        return is_automatic.then(|| check(name, Status::Healthy, "no comparison of tables has ended yet"));
    }
    let differing = counting.iter().any(|facts| facts.differing > 0);
    let told: Vec<String> = counting.into_iter().map(told).collect();
    Some(check(name, if differing { Status::Warning } else { Status::Healthy }, told.join("; ")))
}

/// With each node the last comparison of all tables, and what was compared since.
fn counting(ended: &[ComparisonHealth]) -> Vec<&ComparisonHealth> {
    let is_displaced = |facts: &ComparisonHealth| {
        ended.iter().any(|later| later.other == facts.other && !later.is_partial && later.begun_at > facts.begun_at)
    };
    let mut counting: Vec<&ComparisonHealth> = ended.iter().filter(|facts| !is_displaced(facts)).collect();
    counting.sort_by_key(|facts| (&facts.other, &facts.begun_at));
    counting
}

fn told(facts: &ComparisonHealth) -> String {
    let ComparisonHealth { other, id, begun_at, differing, undecided, incomparable, .. } = facts;
    let mut told = match differing {
        0 => format!("no difference with node \"{other}\""),
        _ => format!("{} with node \"{other}\"", counted(*differing, "difference")),
    };
    told += &format!(", compared at {begun_at}");
    if *undecided > 0 {
        told += &format!(", {} could not be judged", counted(*undecided, "row"));
    }
    if *incomparable > 0 {
        told += &format!(", {} could not be compared", counted(*incomparable, "table"));
    }
    if *differing > 0 {
        told += &format!(
            ": SELECT * FROM spock.compare_differences({}) shows them, CALL spock.compare({}, repair := true) brings \
             this node to the later versions",
            literal(id),
            literal(other)
        );
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(other: &str, begun_at: &str, is_partial: bool, differing: u64) -> ComparisonHealth {
        let (other, id, begun_at) = (other.to_owned(), "i".to_owned(), begun_at.to_owned());
        ComparisonHealth { other, id, begun_at, is_partial, differing, undecided: 0, incomparable: 1 }
    }

    #[test]
    fn differences_are_a_warning_until_all_tables_were_compared_again() {
        assert_eq!(comparison(&[], false), None);
        assert_eq!(comparison(&[], true).map(|check| check.status), Some(Status::Healthy));
        let status = |ended: &[ComparisonHealth]| comparison(ended, false).map(|check| check.status);
        let (first, partial, second) =
            (facts("n2", "1", false, 3), facts("n2", "2", true, 0), facts("n2", "3", false, 0));
        assert_eq!(status(std::slice::from_ref(&first)), Some(Status::Warning));
        assert_eq!(status(&[partial.clone(), first.clone()]), Some(Status::Warning), "the other tables still differ");
        assert_eq!(status(&[first.clone(), partial, second]), Some(Status::Healthy));
        assert_eq!(status(&[first.clone(), facts("n3", "9", false, 0)]), Some(Status::Warning), "that is another node");
        let details = comparison(&[first], false).map(|check| check.details).unwrap_or_default();
        for part in ["3 differences with node \"n2\"", "1 table could not", "CALL spock.compare('n2', repair := true)"]
        {
            assert!(details.contains(part), "{details}");
        }
    }
}
