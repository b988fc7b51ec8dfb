//! `spockctl node create` on real servers: a mesh under load gets one more node, or a lost one's successor, and nothing is lost or twice.

mod around;
mod basic;
mod kills;
mod refused;
mod replaces;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use spock_recovery_cluster::pid_file::PidFile;
use spock_recovery_cluster::{deadline, process};
use spockctl::node::journal::{Journal, Step};
use spockctl::node::{Error, Options, cancel, create};

use crate::cluster::{Builder, Cluster, Node};
use crate::shown::{done, ended};
use crate::slot_keeps::{quick, start_mesh};

/// What a command showed, and how it ended.
pub(crate) type Ended = crate::shown::Ended<Error>;

/// One table with a key, where what comes twice stops the subscription; and one without, where it would be seen.
const TABLES: &str = "CREATE TABLE keyed (writer text, seq int, PRIMARY KEY (writer, seq));
                      CREATE TABLE plain (writer text, seq int)";

fn builder(name: &str, nodes: usize) -> Builder {
    quick(name, nodes)
}

fn mesh(name: &str, nodes: usize) -> Cluster {
    start_mesh(builder(name, nodes), TABLES)
}

/// Servers that spockctl has started are nobody's children: they end with the test, before its folder goes.
pub(crate) struct Made(Cluster);

impl Made {
    pub(crate) fn of(cluster: Cluster) -> Made {
        // They end before the logs are judged; and one that comes up is asked until it answers.
        for said in [
            "server closed the connection unexpectedly",
            "could not connect to the publisher",
            "the database system is starting up",
        ] {
            cluster.expect_log(said);
        }
        Made(cluster)
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        for node in self.0.nodes() {
            if let Some(pid) = foreign(node) {
                let _ = process::kill_all(pid);
            }
        }
    }
}

impl std::ops::Deref for Made {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.0
    }
}

/// The server of a node that spockctl has started.
fn foreign(node: &Node) -> Option<i32> {
    PidFile::read(node.data())?;
    spockctl::restore::server::running(node.data()).filter(|pid| node.postmaster_pid() != Some(*pid))
}

fn kill(node: &Node) {
    if let Some(pid) = foreign(node) {
        process::kill_all(pid).expect("it can be killed");
        // Its parent is nobody of the test's.
        deadline::poll(Duration::from_secs(20), || process::status(pid).is_none().then_some(()));
    }
}

pub(crate) fn options(cluster: &Cluster, from: &Node, new: &Node) -> Options {
    let log = cluster.folder().join(format!("{}.log", new.name()));
    if log.exists() {
        cluster.user().own(&log).unwrap_or_else(|error| panic!("{error}"));
    }
    Options {
        from: from.dsn("postgres"),
        pgdata: new.data().to_owned(),
        name: new.name().to_owned(),
        dsn: Some(new.dsn("postgres")),
        log: Some(log),
        ..Options::default()
    }
}

pub(crate) fn create_node(options: &Options) -> Ended {
    ended(|screen| create::run(options, screen).map(drop))
}

fn cancel_node(options: &Options) -> Ended {
    ended(|screen| cancel::run(&options.pgdata, Some(&options.from), None, screen).map(drop))
}

fn journal(node: &Node) -> Journal {
    Journal::read(node.data()).expect("it can be read").expect("it is there")
}

/// What each writer has committed.
type Written = Vec<(String, u32)>;

/// Writers on the nodes, one each, from now on until `end`; a node that dies ends its writer.
struct Load<'a> {
    cluster: &'a Cluster,
    stop: Arc<AtomicBool>,
    written: Mutex<Written>,
}

impl Load<'_> {
    /// Runs `f` while the named nodes are written to; what each writer has committed.
    fn during<T>(cluster: &Cluster, nodes: &[&str], round: &str, f: impl FnOnce(&dyn Fn(&str)) -> T) -> (T, Written) {
        let load = Load { cluster, stop: Arc::default(), written: Mutex::default() };
        let value = thread::scope(|scope| {
            let load = &load;
            let begin = |name: &str| {
                let (name, writer) = (name.to_owned(), format!("{name} {round}"));
                scope.spawn(move || load.write(&name, writer));
            };
            nodes.iter().for_each(|name| begin(name));
            let _guard = StopAtEnd(&load.stop);
            f(&begin)
        });
        (value, load.written.into_inner().expect("nobody panics while writing"))
    }

    fn write(&self, node: &str, writer: String) {
        let mut session = self.cluster.node(node).session();
        let mut seq = 0;
        while !self.stop.load(Ordering::SeqCst) {
            let next = seq + 1;
            session.sql(&format!(
                "INSERT INTO keyed VALUES ('{writer}', {next}); INSERT INTO plain VALUES ('{writer}', {next})"
            ));
            seq = next;
        }
        self.written.lock().expect("nobody panics while writing").push((writer, seq));
    }
}

/// Stops the load also when `f` panics.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

const CONTENT: &str = "SELECT 'keyed', writer, count(*), min(seq), max(seq), count(DISTINCT seq), sum(hashtextextended(keyed::text, 0)) FROM keyed GROUP BY 2
             UNION ALL SELECT 'plain', writer, count(*), min(seq), max(seq), count(DISTINCT seq), sum(hashtextextended(plain::text, 0)) FROM plain GROUP BY 2
             ORDER BY 1, 2";

/// Every node has what each writer committed, each row once, and the same rows.
fn assert_equal(cluster: &Cluster, nodes: &[&str], written: &[&Written]) {
    for node in nodes {
        for (writer, seq) in written.iter().flat_map(|written| written.iter()) {
            assert!(*seq > 0, "{writer} has written nothing");
            for table in ["keyed", "plain"] {
                cluster
                    .node(node)
                    .wait_until(&format!("SELECT max(seq) FROM {table} WHERE writer = '{writer}'"), &seq.to_string());
                let counted =
                    format!("SELECT count(*), count(DISTINCT seq), min(seq) FROM {table} WHERE writer = '{writer}'");
                assert_eq!(
                    cluster.node(node).value(&counted),
                    format!("{seq}|{seq}|1"),
                    "{table} of {writer} on {node}"
                );
            }
        }
    }
    let first = cluster.node(nodes[0]).value(CONTENT);
    for node in &nodes[1..] {
        assert_eq!(cluster.node(node).value(CONTENT), first, "{node} and {}", nodes[0]);
    }
}

fn assert_healthy(cluster: &Cluster, nodes: &[&str]) {
    for node in nodes {
        cluster.node(node).wait_until("SELECT string_agg(check_name || ': ' || details, '; ') FROM spock.quick_health_check() WHERE status <> 'HEALTHY'", "");
    }
}

/// A row written on each arrives on each.
fn assert_replicates(cluster: &Cluster, nodes: &[&str], round: &str) {
    for node in nodes {
        cluster.node(node).sql(&format!("INSERT INTO keyed VALUES ('{round}, on {node}', 1)"));
    }
    for node in nodes {
        let arrived = format!("SELECT count(*) FROM keyed WHERE writer LIKE '{round}, on %'");
        cluster.node(node).wait_until(&arrived, &nodes.len().to_string());
    }
}

fn step_of(node: &Node) -> Step {
    journal(node).step
}

/// Where a dead node's data directory stays while its successor takes its place.
pub(crate) fn move_away(node: &Node) -> PathBuf {
    let away: PathBuf = Path::new(node.data()).with_extension("dead");
    fs::rename(node.data(), &away).expect("it is there");
    away
}
