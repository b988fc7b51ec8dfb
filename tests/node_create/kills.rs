//! spockctl and the new server die after each step, and the same command finishes.

use std::fs;

use spockctl::node::Error;
use spockctl::node::journal::Step;

use super::{
    Load, Made, assert_equal, assert_healthy, cancel_node, create_node, done, kill, mesh, move_away, options, step_of,
};
use crate::cluster::Node;

/// Ends the command as if it was killed after the step, and kills the new server.
fn die(given: &spockctl::node::Options, new: &Node, step: Step) {
    let given = spockctl::node::Options { end_after: Some(step), ..given.clone() };
    let (text, result) = create_node(&given);
    assert!(matches!(result, Err(Error::Ended(_))), "{step:?}: {result:?}, after\n{text}");
    assert_eq!(step_of(new), step);
    kill(new);
}

#[test]
fn whatever_dies_the_same_command_goes_on_to_a_whole_node() {
    let cluster = Made::of(mesh("node_kills", 3));
    let [n1, n2, n3] = cluster.all();
    n1.kill9();
    move_away(n1);
    for node in [n2, n3] {
        node.wait_until("SELECT count(*) FROM spock.recover_plan('n1') WHERE outcome = 'zero_gap'", "2");
    }
    let mut given = options(&cluster, n3, n1);
    given.replaces = Some("n1".into());
    let ((), written) = Load::during(&cluster, &["n2", "n3"], "first", |begin| {
        for step in Step::ALL.into_iter().filter(|step| *step != Step::Done) {
            if step == Step::Fetched {
                // What a backup that was killed has left.
                let folder = n1.data().join("base");
                cluster.user().make_folder(n1.data()).expect("a folder");
                cluster.user().make_folder(&folder).expect("a folder");
                fs::write(folder.join("1259"), "half").expect("a file");
            }
            die(&given, n1, step);
            if step == Step::Joined {
                // What the lost node has asked a moment before its end is no warning about its successor.
                let asks = "SELECT count(*) FROM spock.quick_health_check() WHERE check_name LIKE 'asker%'";
                assert_eq!([n2, n3].map(|node| node.value(asks)), ["0", "0"]);
            }
            if step == Step::Open {
                let refused = cancel_node(&given).1;
                assert!(matches!(refused, Err(Error::Open(_))), "{refused:?}");
            }
        }
        done(create_node(&given));
        begin("n1");
        n2.wait_until("SELECT count(*) > 20 FROM keyed WHERE writer = 'n1 first'", "t");
    });
    assert_equal(&cluster, &["n1", "n2", "n3"], &[&written]);
    assert_healthy(&cluster, &["n1", "n2", "n3"]);
}

#[test]
fn a_node_that_is_not_open_is_taken_back_from_each_step_and_leaves_nothing_behind() {
    let mut cluster = mesh("node_cancel", 2);
    cluster.add_place();
    let cluster = Made::of(cluster);
    let [n1, n2, n3] = cluster.all();
    let given = options(&cluster, n1, n3);
    for step in
        [Step::Planned, Step::Slots, Step::Fetched, Step::Promoted, Step::Identified, Step::Wired, Step::Settled]
    {
        die(&given, n3, step);
        let other = spockctl::node::Options { name: "n9".into(), ..given.clone() };
        let refused = create_node(&other).1;
        assert!(matches!(refused, Err(Error::Other { .. })), "{refused:?}");
        done(cancel_node(&given));
        assert_eq!(step_of(n3), Step::Cancelled);
        assert!(!n3.data().exists());
        for node in [n1, n2] {
            assert_eq!(node.value("SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE '%n3%'"), "0");
            assert_eq!(node.value("SELECT count(*) FROM spock.node WHERE node_name = 'n3'"), "0");
        }
    }
    assert!(matches!(cancel_node(&given).1, Err(Error::None(_))));
    assert_healthy(&cluster, &["n1", "n2"]);
}
