use super::*;
use proptest::prelude::*;

const HERE: DatabaseIdentity = DatabaseIdentity { system_identifier: 7, database: 5 };

fn point(name: &str, is_automatic: bool) -> Point {
    let node = |node: &str, lsn| PointNode {
        node: node.to_owned(),
        lsn: Some(LocalLsn(lsn)),
        timeline: Some(1),
        held_us: None,
    };
    let nodes = vec![node("n1", 100), node("n2", 2000)];
    Point { name: name.to_owned(), created_at: Timestamp(9), attempt: 7, is_automatic, quality: Quality::Loose, nodes }
}

fn names(list: &RestorePoints) -> Vec<&str> {
    list.points.iter().map(|point| point.name.as_str()).collect()
}

#[test]
fn a_point_is_loose_unless_every_node_held_and_drained_only_if_every_node_is() {
    let part = |held, drained| Part { held, drained };
    for (parts, expected) in [
        (vec![part(true, true), part(true, true)], Quality::Drained),
        (vec![part(true, true), part(true, false)], Quality::Cut),
        (vec![part(true, true), part(false, true)], Quality::Loose),
        (vec![part(false, false), part(true, false)], Quality::Loose),
        (vec![], Quality::Loose),
    ] {
        assert_eq!(quality(&parts, true), expected, "{parts:?}");
        assert_eq!(quality(&parts, false), expected.min(Quality::Cut), "{parts:?}");
    }
}

#[test]
fn a_name_stays_used_when_its_point_is_dropped() {
    let mut list = RestorePoints::new(HERE);
    assert!(!list.has_used("a"));
    list.enter(point("a", false));
    assert!(list.has_used("a") && list.point("a").is_some());
    assert!(list.remove("a") && list.has_used("a") && list.point("a").is_none());
    assert!(!list.remove("a") && !list.remove("b"));
    list.enter(point("automatic", true));
    assert!(list.remove("automatic") && list.used == ["a"], "names of automatic points do not come back");
}

#[test]
fn an_attempt_takes_back_what_it_has_entered_and_nothing_else() {
    let mut list = RestorePoints::new(HERE);
    list.enter(point("made", false));
    assert!(!list.take_back("made", 7, false), "it has positions");
    let nodes = vec![PointNode { node: "n1".to_owned(), lsn: None, timeline: None, held_us: None }];
    for (name, was_written) in [("a", false), ("b", true)] {
        list.enter(Point { nodes: nodes.clone(), ..point(name, false) });
        assert!(!list.take_back(name, 8, was_written), "another attempt has entered it");
        assert!(list.take_back(name, 7, was_written) && list.point(name).is_none());
        assert_eq!(list.has_used(name), was_written);
    }
    assert!(list.point("made").is_some() && !list.take_back("nothing", 7, true));
}

#[test]
fn what_becomes_known_of_a_point_takes_the_place_of_what_was_known() {
    let mut list = RestorePoints::new(HERE);
    list.enter(point("a", false));
    list.enter(point("b", false));
    list.enter(Point { quality: Quality::Drained, ..point("a", false) });
    assert_eq!(names(&list), ["a", "b"]);
    assert_eq!(list.point("a").map(|point| point.quality), Some(Quality::Drained));
}

#[test]
fn only_automatic_points_are_pruned_and_the_oldest_first() {
    let mut list = RestorePoints::new(HERE);
    for (name, is_automatic) in [("a", true), ("mine", false), ("b", true), ("c", true), ("d", true)] {
        list.enter(point(name, is_automatic));
    }
    list.prune(2);
    assert_eq!(names(&list), ["mine", "c", "d"]);
    list.prune(0);
    assert_eq!(names(&list), ["mine"]);
}

#[test]
fn the_backup_before_a_point_is_the_last_one_of_each_node_and_of_these_the_first() {
    let mut list = RestorePoints::new(HERE);
    let mut note = |node: &str, at, stop| {
        list.note_backup(Backup { node: node.to_owned(), begun_at: Timestamp(at), stop_lsn: LocalLsn(stop) });
    };
    note("n1", 10, 50);
    note("n2", 20, 900);
    note("n1", 30, 100);
    note("n1", 40, 101);
    let before = list.backup_before(&point("a", false));
    assert_eq!(before, Some(Timestamp(20)));
    list.note_backup(Backup { node: "n2".to_owned(), begun_at: Timestamp(35), stop_lsn: LocalLsn(2000) });
    assert_eq!(list.backup_before(&point("a", false)), Some(Timestamp(30)));
    let mut third = point("a", false);
    third.nodes.push(PointNode { node: "n3".to_owned(), lsn: Some(LocalLsn(9)), timeline: None, held_us: None });
    assert_eq!(list.backup_before(&third), None);
}

#[test]
fn a_list_survives_being_written_and_read() {
    let mut list = RestorePoints::new(HERE);
    list.enter(point("größe \"1\"", true));
    list.enter(Point { nodes: Vec::new(), ..point("b", false) });
    list.remove("b");
    list.note_backup(Backup { node: "n1".to_owned(), begun_at: Timestamp(3), stop_lsn: LocalLsn(4) });
    let text = document::to_text(&list);
    assert!(text.is_ascii());
    assert_eq!(RestorePoints::read(Some(&text), HERE), Stored::Own(list));
    let elsewhere = DatabaseIdentity { database: 6, ..HERE };
    assert_eq!(RestorePoints::read(Some(&text), elsewhere), Stored::Foreign);
}

/// What a later version has written beside each point stays with it, when its neighbours go, it changes itself, and others
/// come.
#[test]
fn a_point_keeps_what_this_library_does_not_know_of_it() {
    let mut list = RestorePoints::new(HERE);
    for number in 0..2_000 {
        list.enter(point(&number.to_string(), number % 2 == 0));
    }
    let mut before = serde_json::to_value(&list).expect("JSON");
    for point in before["points"].as_array_mut().expect("a list") {
        point["later"] = point["name"].clone();
    }
    let changed = Point { quality: Quality::Drained, ..point("1001", false) };
    list.enter(changed);
    list.prune(10);
    list.enter(point("new", false));
    let before = document::to_text(&before);
    let written = document::written_over(Some(&before), &list, HERE).expect("it is readable");
    let written: serde_json::Value = serde_json::from_str(&written).expect("JSON");
    let points = written["points"].as_array().expect("a list");
    assert_eq!(points.len(), 1_011);
    for point in points {
        let is_new = point["name"] == "new";
        assert_eq!(point["later"], if is_new { serde_json::Value::Null } else { point["name"].clone() });
    }
}

proptest! {
    #[test]
    fn pruning_leaves_as_many_automatic_points_as_are_kept(points: Vec<bool>, kept in 0_usize..20) {
        let mut list = RestorePoints::new(HERE);
        for (number, is_automatic) in points.iter().enumerate() {
            list.enter(point(&number.to_string(), *is_automatic));
        }
        list.prune(kept);
        let automatic = points.iter().filter(|is_automatic| **is_automatic).count();
        prop_assert_eq!(list.points.iter().filter(|point| point.is_automatic).count(), automatic.min(kept));
        prop_assert_eq!(list.points.iter().filter(|point| !point.is_automatic).count(), points.len() - automatic);
    }
}
