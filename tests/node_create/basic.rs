//! One more node, under load, and a loss after that.

use spockctl::node::Error;
use spockctl::node::journal::Step;

use super::{
    Load, Made, assert_equal, assert_healthy, assert_replicates, create_node, done, journal, mesh, options, step_of,
};
use crate::rescue::{disable, wait_arrived};

#[test]
fn a_new_node_joins_a_mesh_under_load_with_nothing_lost_and_nothing_twice() {
    let mut cluster = mesh("node_create", 3);
    cluster.add_place();
    let cluster = Made::of(cluster);
    let [n1, n2, n3, n4] = cluster.all();
    let all = ["n1", "n2", "n3", "n4"];
    let given = options(&cluster, n3, n4);
    let ((), written) = Load::during(&cluster, &["n1", "n2", "n3"], "first", |begin| {
        // Whoever writes as soon as it is open, before any peer receives from it, loses nothing.
        let until_open = spockctl::node::Options { end_after: Some(Step::Open), ..given.clone() };
        let result = create_node(&until_open).1;
        assert!(matches!(result, Err(Error::Ended(_))), "{result:?}");
        n4.sql("INSERT INTO keyed VALUES ('n4 early', 1); INSERT INTO plain VALUES ('n4 early', 1)");
        n4_is_made(&given);
        begin("n4");
        // What is written on the new node arrives under load as well.
        for node in [n1, n2, n3] {
            node.wait_until("SELECT count(*) > 20 FROM keyed WHERE writer = 'n4 first'", "t");
        }
    });
    assert_equal(&cluster, &all, &[&written, &vec![("n4 early".to_owned(), 1)]]);
    assert_healthy(&cluster, &all);
    let made = journal(n4);
    assert_eq!((made.step, made.vector.len(), made.links.len()), (Step::Done, 2, 3));
    assert_eq!(n4.value("SELECT system_identifier FROM pg_control_system()"), made.system_identifier.to_string());
    assert_eq!(
        n4.value(
            "SELECT string_agg(subname || ' ' || subslotname || ' ' || suborigin, ', ' ORDER BY 1) FROM pg_subscription"
        ),
        "sub_n4_n1 sub_n4_n1 none, sub_n4_n2 sub_n4_n2 none, sub_n4_n3 sub_n4_n3 none"
    );
    assert_eq!(n1.value("SELECT count(*) FROM pg_subscription WHERE subname = 'sub_n1_n4'"), "1");
    assert_eq!(n4.value("SHOW archive_mode"), "off");

    // The next loss: the new node lags, and gets what it lacks out of another one's WAL.
    disable(n4, "sub_n4_n1");
    let ((), lost) = Load::during(&cluster, &["n1"], "second", |_| {
        n3.wait_until("SELECT count(*) > 20 FROM keyed WHERE writer = 'n1 second'", "t");
    });
    wait_arrived(n1);
    n2.wait_until("SELECT max(seq) FROM plain WHERE writer = 'n1 second'", &lost[0].1.to_string());
    n1.kill9();
    n4.sql("ALTER SUBSCRIPTION sub_n4_n1 ENABLE");
    n4.sql("CALL spock.recover_run('n1')");
    assert_equal(&cluster, &["n2", "n3", "n4"], &[&lost]);
    assert_replicates(&cluster, &["n2", "n3", "n4"], "after");
    assert_eq!(step_of(n4), Step::Done);
}

fn n4_is_made(given: &spockctl::node::Options) {
    let shown = done(create_node(given));
    assert!(shown.contains("n4: a node of the mesh"), "{shown}");
}
