//! What the slots and subscriptions of a mesh are called, found from those that are there (pure).

use std::collections::BTreeSet;
use std::fmt;

const TARGET: &str = "{target}";
const SOURCE: &str = "{source}";

/// A name with places for the names of the node that receives, `{target}`, and of the one that sends, `{source}`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pattern(String);

/// A name that is there: of the receiving node, the sending node, and what is called so.
pub type Known<'a> = (&'a str, &'a str, &'a str);

impl Pattern {
    /// None: no place would tell one node from another.
    pub fn parse(text: &str) -> Option<Pattern> {
        (text.contains(TARGET) || text.contains(SOURCE)).then(|| Pattern(text.to_owned()))
    }

    pub fn name(&self, target: &str, source: &str) -> String {
        // Not one after the other: the first name may hold the second place.
        let mut parts = self.0.split(TARGET).map(|part| part.replace(SOURCE, source));
        let first = parts.next().unwrap_or_default();
        parts.fold(first, |name, part| name + target + &part)
    }

    /// The one pattern by which all that is there has its name; with as many places as possible. None: there is none, or more than
    /// one.
    pub fn derive(known: &[Known<'_>]) -> Option<Pattern> {
        let (target, source, name) = known.first()?;
        let fits = |pattern: &Pattern| known.iter().all(|(target, source, name)| pattern.name(target, source) == *name);
        let candidates: BTreeSet<Pattern> = candidates(name, target, source).into_iter().filter(fits).collect();
        let most = candidates.iter().map(Pattern::places).max().filter(|places| *places > 0)?;
        let mut best = candidates.into_iter().filter(|pattern| pattern.places() == most);
        best.next().filter(|_| best.next().is_none())
    }

    fn places(&self) -> usize {
        usize::from(self.0.contains(TARGET)) + usize::from(self.0.contains(SOURCE))
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Every way to put at most one place for each of the two into a name.
fn candidates(name: &str, target: &str, source: &str) -> Vec<Pattern> {
    let mut found = vec![name.to_owned()];
    for (value, place) in [(target, TARGET), (source, SOURCE)] {
        for text in found.clone() {
            for (at, _) in text.match_indices(value) {
                // Not inside the other place.
                let inside = text.find(TARGET).is_some_and(|start| (start..start + TARGET.len()).contains(&at));
                if !inside {
                    found.push(format!("{}{place}{}", &text[..at], &text[at + value.len()..]));
                }
            }
        }
    }
    found.into_iter().map(Pattern).collect()
}

/// Whether a slot may be called so (ReplicationSlotValidateName, slot.c).
pub fn is_slot_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    !name.is_empty() && name.len() < 64 && name.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn derived(known: &[Known<'_>]) -> Option<String> {
        Pattern::derive(known).map(|pattern| pattern.to_string())
    }

    #[test]
    fn the_pattern_of_a_mesh_is_found_from_its_names() {
        let mesh = [("n1", "n2", "sub_n1_n2"), ("n3", "n1", "sub_n3_n1")];
        assert_eq!(derived(&mesh).as_deref(), Some("sub_{target}_{source}"));
        assert_eq!(derived(&[("n2", "n1", "n1_to_n2")]).as_deref(), Some("{source}_to_{target}"));
        assert_eq!(
            derived(&[("n2", "n1", "from_n1"), ("n2", "n3", "from_n3")]).as_deref(),
            Some("from_{source}"),
            "a subscription's name need not name its own node"
        );
    }

    #[test]
    fn names_that_are_parts_of_each_other_are_told_apart() {
        assert_eq!(derived(&[("n1", "n2", "n1_n1_n2")]), None, "both readings fit one name");
        assert_eq!(derived(&[("n1", "n11", "n11_n1")]).as_deref(), Some("{source}_{target}"));
        let two = [("n1", "n11", "n11_n1"), ("n11", "n2", "n2_n11")];
        assert_eq!(derived(&two).as_deref(), Some("{source}_{target}"));
    }

    #[test]
    fn names_without_a_rule_are_none() {
        assert_eq!(derived(&[("n1", "n2", "a"), ("n3", "n2", "b")]), None);
        assert_eq!(derived(&[]), None);
        assert!(Pattern::parse("fixed").is_none() && Pattern::parse("x_{target}").is_some());
    }

    #[test]
    fn a_name_may_hold_what_looks_like_a_place() {
        let pattern = Pattern::parse("{target}-{source}").expect("a pattern");
        assert_eq!(pattern.name("{source}", "b"), "{source}-b");
    }

    #[test]
    fn slots_take_few_characters() {
        assert!(is_slot_name("sub_n4_n1"));
        for refused in ["", "Sub", "a-b", "ä", &"x".repeat(64)] {
            assert!(!is_slot_name(refused), "{refused}");
        }
    }
}
