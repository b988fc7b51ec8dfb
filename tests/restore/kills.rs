//! spockctl and servers that die between steps, and a restore that is taken back.

use spock_recovery_cluster::process;
use spockctl::restore::journal::Step;
use spockctl::restore::{Error, Moment, cancel, finish, start};

use super::{Restores, done, ended, running, settled, step_of};
use crate::cluster::{Node, wait_for};
use crate::restore_points::mesh_of;

const BEFORE_FINISH: [Step; 6] =
    [Step::Planned, Step::Stopped, Step::Renamed, Step::Fetched, Step::Configured, Step::Paused];
const UNTIL_DONE: [Step; 9] = [
    Step::SlotSaved,
    Step::Installed,
    Step::Ready,
    Step::Promoting,
    Step::Promoted,
    Step::Wired,
    Step::Settled,
    Step::Open,
    Step::Done,
];

/// Ends the command as if it was killed once the node has come to the step, and kills its server.
fn die(restores: &Restores<'_>, node: &Node, step: Step, moment: Option<&Moment>) {
    let mut options = restores.options(moment.cloned());
    options.end_after = Some((node.name().to_owned(), step));
    let (text, result) = ended(|screen| match moment {
        Some(_) => start::run(&options, screen),
        None => finish::run(&options, screen),
    });
    assert!(matches!(result, Err(Error::Ended(_))), "{step:?}: {result:?}, after\n{text}");
    assert_eq!(step_of(restores, node), step);
    // Its own server is the harness's until it is stopped.
    if let Some(pid) = running(node.data()).filter(|pid| node.postmaster_pid() != Some(*pid)) {
        process::kill_all(pid).expect("it can be killed");
        // Its parent is nobody of the test's.
        wait_for("its end to be noticed", || process::status(pid).is_none());
    }
}

#[test]
fn whatever_dies_the_same_command_goes_on() {
    let cluster = mesh_of("whatever_dies", 3);
    let [n1, n2, n3] = cluster.all();
    let restores = Restores::of(&cluster);
    n1.sql("INSERT INTO t (node, v) SELECT 'n1', n FROM generate_series(1, 100) n");
    let mut lock = n2.session();
    lock.sql("BEGIN; LOCK TABLE t IN EXCLUSIVE MODE");
    n1.sql("INSERT INTO t (node, v) SELECT 'n1', n FROM generate_series(1, 100) n");
    n3.wait_until("SELECT count(*) FROM t", "200");
    restores.cut("p");
    lock.sql("COMMIT");
    n1.sql("DELETE FROM t");
    assert_eq!(settled(&cluster, "SELECT count(*) FROM t"), "0");
    let moment = Moment::Point("p".into());

    // Taken back from half way, twice: once from each side of the rename.
    for step in [Step::Stopped, Step::Configured, Step::Paused] {
        die(&restores, n2, step, Some(&moment));
        let mut options = restores.options(None);
        options.end_after = Some(("n3".to_owned(), Step::Cancelling));
        let half = ended(|screen| cancel::run(&options, screen)).1;
        assert!(matches!(half, Err(Error::Ended(_))), "{half:?}");
        assert!(restores.start(moment.clone()).1.is_err(), "a restore that is being put back does not go on");
        done(restores.cancel());
        assert_eq!(settled(&cluster, "SELECT count(*) FROM t"), "0");
        n2.sql("INSERT INTO t (node, v) VALUES ('n2', 1)");
        n1.wait_until("SELECT count(*) FROM t", "1");
        n3.wait_until("SELECT count(*) FROM t", "1");
        n3.sql("DELETE FROM t");
        assert_eq!(settled(&cluster, "SELECT count(*) FROM t"), "0");
    }
    assert!(matches!(restores.cancel().1, Err(Error::None(_))));

    for step in BEFORE_FINISH {
        die(&restores, n2, step, Some(&moment));
    }
    done(restores.start(moment.clone()));
    assert!(matches!(restores.start(Moment::Latest).1, Err(Error::Other { .. })));
    for step in UNTIL_DONE {
        die(&restores, n3, step, None);
        if step >= Step::Promoting && step != Step::Done {
            assert!(matches!(restores.cancel().1, Err(Error::Promoted(_))));
        }
    }
    // The others were told no more than n3.
    let (_, ended) = restores.finish();
    assert!(matches!(ended, Ok(()) | Err(Error::None(_))), "{ended:?}");
    if running(n3.data()).is_none() {
        n3.start();
    }
    assert_eq!(settled(&cluster, "SELECT count(*) FROM t"), "200");
    for node in cluster.nodes() {
        node.sql(&format!("INSERT INTO t (node, v) VALUES ('{}', -7)", node.name()));
    }
    for node in cluster.nodes() {
        node.wait_until("SELECT count(*) FROM t WHERE v = -7", "3");
    }
}
