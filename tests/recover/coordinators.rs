//! Every survivor coordinates, by either procedure, while pgbench writes to all of them.

use super::rounds::{Failure, Rounds, fail, hold_back_from};
use super::{assert_tidy, write};
use crate::cluster::{Cluster, Node};
use crate::rescue::{applied_of, assert_identical, drain};
use crate::slot_keeps::{quick, start_mesh};
use Failure::{Dies, Hangs};
use std::process::{Child, Stdio};
use std::{env, fs};

/// Nobody but a node itself changes rows of `load` that it has inserted.
const TABLES: &str = "CREATE TABLE t (id int PRIMARY KEY, v text);
                      CREATE TABLE load (id uuid PRIMARY KEY, node text, n int, v int DEFAULT 0)";

/// pgbench, on each of the nodes; ended when dropped.
struct Load(Vec<Child>);

impl Load {
    fn on(cluster: &Cluster, nodes: &[&Node]) -> Load {
        Load(nodes.iter().map(|node| start_pgbench(cluster, node)).collect())
    }

    /// It has written all the while.
    fn end(mut self, nodes: &[&Node]) {
        for child in &mut self.0 {
            let ended = child.try_wait().expect("pgbench is a child of this process");
            assert!(ended.is_none(), "pgbench has ended: {ended:?}");
        }
        drop(self);
        for node in nodes {
            let own = format!("SELECT count(*) > 0, sum(v) > 0 FROM load WHERE node = '{}'", node.name());
            assert_eq!(node.value(&own), "t|t", "{}", node.name());
            node.wait_until("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgbench'", "0");
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn start_pgbench(cluster: &Cluster, node: &Node) -> Child {
    let script = cluster.folder().join(format!("{}.pgbench", node.name()));
    let text = format!(
        "\\set n random(1, 100)\nBEGIN;\nINSERT INTO load (id, node, n) VALUES (gen_random_uuid(), '{name}', :n);\n\
         UPDATE load SET v = v + 1 WHERE node = '{name}' AND n = :n;\nEND;\n",
        name = node.name()
    );
    fs::write(&script, text)
        .and_then(|()| cluster.user().own(&script).map_err(std::io::Error::other))
        .expect("a script");
    // A moderate rate: the machine is shared by all nodes, and by other tests.
    cluster
        .user()
        .command(&cluster.installation().bindir.join("pgbench"))
        .args(["--no-vacuum", "--client=1", "--rate=20", "--time=3600", "--file"])
        .arg(&script)
        .arg(node.dsn("postgres"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("pgbench can be run")
}

fn run_on(target: &str) -> String {
    format!("recover_run('n1', target_node_name => '{target}')")
}

const EVERYBODY: &str = "recover_failed_node('n1')";

fn play(cluster: &Cluster, rounds: &mut Rounds, coordinator: &str, call: &str, lagging: &[&str], failure: Failure) {
    rounds.fail(lagging, failure);
    cluster.node(coordinator).sql(&format!("CALL spock.{call}"));
    rounds.assert_recovered();
    rounds.come_back(failure);
}

/// What was replicated meanwhile has arrived everywhere, and all are the same.
fn assert_converged(nodes: &[&Node]) {
    for (number, one) in nodes.iter().enumerate() {
        for other in &nodes[number + 1..] {
            drain(one, other);
        }
    }
    for other in &nodes[1..] {
        assert_identical(nodes[0], other);
    }
}

#[test]
fn either_survivor_of_three_nodes_coordinates_under_load_whether_the_failed_one_dies_or_hangs() {
    let cluster = start_mesh(quick("recover_load_three", 3), TABLES);
    let mut rounds = Rounds::of(&cluster);
    let survivors = rounds.survivors();
    let load = Load::on(&cluster, &survivors);
    for (coordinator, call, lagging, failure) in [
        ("n2", "recover_run('n1')", "n2", Dies),
        ("n3", "recover_run('n1')", "n2", Hangs),
        ("n2", EVERYBODY, "n3", Dies),
        ("n3", EVERYBODY, "n2", Hangs),
    ] {
        play(&cluster, &mut rounds, coordinator, call, &[lagging], failure);
    }
    load.end(&survivors);
    assert_converged(&cluster.nodes().iter().collect::<Vec<_>>());
}

#[test]
fn every_survivor_of_five_nodes_coordinates_under_load_and_then_a_second_node_fails_too() {
    let cluster = start_mesh(quick("recover_load_five", 5), TABLES);
    let mut rounds = Rounds::of(&cluster);
    let survivors = rounds.survivors();
    let load = Load::on(&cluster, &survivors);
    // `make soak` plays all of it; else each survivor coordinates once, by one of the two procedures.
    let is_long = env::var_os("SOAK_KILLS").is_some();
    let alone = [("n2", "n2", Hangs), ("n3", "n5", Dies), ("n4", "n2", Hangs), ("n5", "n3", Dies)];
    for (coordinator, target, failure) in alone.into_iter().filter(|(name, ..)| is_long || matches!(*name, "n2" | "n5"))
    {
        play(&cluster, &mut rounds, coordinator, &run_on(target), &[target], failure);
    }
    let together = [
        ("n2", ["n2", "n3"], Dies),
        ("n3", ["n2", "n4"], Hangs),
        ("n4", ["n5", "n3"], Dies),
        ("n5", ["n2", "n4"], Hangs),
    ];
    for (coordinator, lagging, failure) in
        together.into_iter().filter(|(name, ..)| is_long || matches!(*name, "n3" | "n4"))
    {
        play(&cluster, &mut rounds, coordinator, EVERYBODY, &lagging, failure);
    }
    // n1 dies and n5 hangs; each survivor lacks something of one of them, n4 of both, and nobody but n2 or n3 can supply it.
    let [n1, n2, n3, n4, n5] = cluster.all();
    for (node, origin) in [(n2, "n1"), (n4, "n1"), (n3, "n5"), (n4, "n5")] {
        hold_back_from(node, origin);
    }
    write(n1, 1001, 1030);
    write(n5, 2001, 2030);
    drain(n1, n3);
    drain(n5, n2);
    load.end(&survivors);
    let load = Load::on(&cluster, &[n2, n3, n4]);
    fail(n1, &[n2, n3, n4], &["n2", "n4"], Dies);
    fail(n5, &[n2, n3, n4], &["n3", "n4"], Hangs);
    n4.sql(&format!("CALL spock.{EVERYBODY}"));
    n2.sql("CALL spock.recover_failed_node('n5')");
    load.end(&[n2, n3, n4]);
    assert_converged(&[n2, n3, n4]);
    for failed in ["n1", "n5"] {
        let positions = [n2, n3, n4].map(|node| applied_of(node, failed));
        assert!(positions.iter().all(|position| *position == positions[0]), "{failed}: {positions:?}");
    }
    assert_tidy(&[n2, n3, n4], &["n1", "n5"]);
    n5.resume();
}
