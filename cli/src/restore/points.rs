//! The list of restore points, as a node stores it (pure).

use serde::Deserialize;
use serde_json::Value;

use super::instant::Instant;
use crate::lsn::Lsn;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quality {
    Loose,
    Cut,
    Drained,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct PointNode {
    pub node: String,
    /// The end of the point's record.
    #[serde(default)]
    pub lsn: Option<Lsn>,
    #[serde(default)]
    pub timeline: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Point {
    pub name: String,
    created_at: i64,
    pub quality: Quality,
    pub nodes: Vec<PointNode>,
}

impl Point {
    pub fn created_at(&self) -> Instant {
        Instant::of_postgres(self.created_at)
    }

    pub fn node(&self, name: &str) -> Option<&PointNode> {
        self.nodes.iter().find(|node| node.node == name)
    }

    /// Whether its record is known on every node.
    pub fn is_complete(&self) -> bool {
        self.nodes.iter().all(|node| node.lsn.is_some() && node.timeline.is_some())
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Points {
    #[serde(default)]
    pub points: Vec<Point>,
}

impl Points {
    pub fn parse(text: &str) -> Result<Points, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// Adds what another node knows; of two entries for a name the better one counts.
    pub fn merge(&mut self, other: Points) {
        for point in other.points {
            match self.points.iter_mut().find(|known| known.name == point.name) {
                Some(known) if (known.quality, known.is_complete()) < (point.quality, point.is_complete()) => {
                    *known = point
                }
                Some(_) => {}
                None => self.points.push(point),
            }
        }
        self.points.sort_by_key(|point| point.created_at);
    }

    /// The best that any of these lists says of a point whose positions are known, word for word.
    pub fn words_of<'a>(lists: impl IntoIterator<Item = &'a str>, name: &str) -> Option<String> {
        let values = lists.into_iter().filter_map(|list| serde_json::from_str::<Value>(list).ok());
        let all = values.flat_map(|mut list| match list["points"].take() {
            Value::Array(points) => points,
            _ => Vec::new(),
        });
        let known = all.filter_map(|words| Some((Point::deserialize(&words).ok()?, words)));
        let best = known.filter(|(point, _)| point.name == name && point.is_complete());
        best.max_by_key(|(point, _)| point.quality).map(|(_, words)| words.to_string())
    }

    pub fn find(&self, name: &str) -> Option<&Point> {
        self.points.iter().find(|point| point.name == name)
    }

    /// The names most like a mistyped one, the most alike first.
    pub fn nearest(&self, name: &str) -> Vec<&str> {
        let mut names: Vec<(usize, &str)> =
            self.points.iter().rev().map(|point| (distance(name, &point.name), point.name.as_str())).collect();
        names.sort_by_key(|(distance, _)| *distance);
        names.into_iter().take(5).map(|(_, name)| name).collect()
    }

    /// The last moment before an instant of which it is proved that the nodes fit together.
    pub fn cut_before(&self, instant: Instant) -> Option<&Point> {
        let proved = |point: &&Point| point.quality > Quality::Loose && point.is_complete();
        self.points.iter().filter(proved).rfind(|point| point.created_at() <= instant)
    }
}

/// How many characters must be put in, left out or replaced.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (line, character) in one.chars().enumerate() {
        let mut diagonal = line;
        row[0] = line + 1;
        for (column, against) in other.iter().enumerate() {
            let replaced = diagonal + usize::from(character != *against);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = r#"{"version":1,"points":[
        {"name":"before-release-42","created_at":100,"is_automatic":false,"quality":"drained",
         "nodes":[{"node":"n1","lsn":"0/90","timeline":1,"held_us":9},{"node":"n2","lsn":"0/A0","timeline":2}]},
        {"name":"nightly","created_at":200,"quality":"loose","nodes":[{"node":"n1"},{"node":"n2","lsn":"0/B0","timeline":2}]}],
        "used":["old"]}"#;

    #[test]
    fn a_list_is_read_with_what_it_does_not_know() {
        let list = Points::parse(LIST).expect("it is one");
        let point = list.find("before-release-42").expect("it is there");
        assert!(point.is_complete() && point.quality == Quality::Drained);
        assert_eq!(point.node("n2").and_then(|node| node.lsn), Some(Lsn(0xA0)));
        assert!(!list.find("nightly").expect("it is there").is_complete());
        assert_eq!(
            list.cut_before(Instant::of_postgres(300)).map(|point| point.name.as_str()),
            Some("before-release-42")
        );
        assert_eq!(list.cut_before(Instant::of_postgres(99)), None);
    }

    #[test]
    fn a_mistyped_name_finds_the_one_that_was_meant() {
        let list = Points::parse(LIST).expect("it is one");
        assert_eq!(list.nearest("before-relase-42")[0], "before-release-42");
        assert_eq!(list.nearest("nigthly")[0], "nightly");
    }

    #[test]
    fn what_is_known_of_a_point_is_passed_on_as_it_was_written() {
        let loose = LIST.replace("\"drained\"", "\"loose\"");
        let words = Points::words_of([loose.as_str(), "no list", LIST], "before-release-42").expect("it is known");
        assert!(words.contains("\"drained\"") && words.contains("\"held_us\":9"), "{words}");
        assert_eq!(Points::words_of([LIST], "nightly"), None, "a node has no record of it");
        assert_eq!(Points::words_of([LIST], "nothing"), None);
    }

    #[test]
    fn the_better_of_two_entries_counts() {
        let loose = LIST.replace("\"drained\"", "\"loose\"");
        for (first, second) in [(LIST, loose.as_str()), (&loose, LIST)] {
            let mut list = Points::parse(first).expect("it is one");
            list.merge(Points::parse(second).expect("it is one"));
            assert_eq!(list.find("before-release-42").map(|point| point.quality), Some(Quality::Drained));
            assert_eq!(list.points.len(), 2);
        }
    }
}
