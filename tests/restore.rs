//! `spockctl restore` on real servers: a mesh under load comes back to one moment, with nothing lost and nothing twice.

mod after;
mod basic;
mod by_command;
mod in_flight;
mod instants;
mod kills;
mod lost;
mod refused;

use std::fs;
use std::path::{Path, PathBuf};

use spock_recovery_cluster::pid_file::PidFile;
use spock_recovery_cluster::process;
use spockctl::Screen;
use spockctl::backup::command::Templates;
use spockctl::backup::{DriverName, setup, take};
use spockctl::restore::check::Options;
use spockctl::restore::journal::{Journal, Step};
use spockctl::restore::{Error, Moment, cancel, check, finish, start, status};

use crate::cluster::{Cluster, Node, wait_for};
use crate::shown::{NAME, done, ended};

/// What a command showed, and how it ended.
type Ended = crate::shown::Ended<Error>;

/// The repository of a test's cluster, and the commands on it.
struct Restores<'a> {
    cluster: &'a Cluster,
    repository: PathBuf,
}

impl<'a> Restores<'a> {
    /// Every node archives, and has a base backup.
    fn of(cluster: &'a Cluster) -> Restores<'a> {
        Restores::with(cluster, None)
    }

    /// The same with the user's own backup program.
    fn with(cluster: &'a Cluster, command: Option<Templates>) -> Restores<'a> {
        let repository = cluster.folder().join(NAME);
        let setup = |screen: &Screen| {
            setup::run(
                &setup::Options {
                    dsn: cluster.nodes()[0].dsn("postgres"),
                    repository: repository.clone(),
                    driver: command.as_ref().map(|_| DriverName::Command),
                    node: None,
                    by_command: false,
                    archive_timeout: None,
                    command: command.clone(),
                },
                screen,
            )
        };
        done(ended(setup));
        cluster.nodes().iter().for_each(Node::restart);
        for node in cluster.nodes() {
            // So that those that a restore starts go on writing into it.
            let log = cluster.folder().join(format!("{}.log", node.name()));
            cluster.user().own(&log).unwrap_or_else(|error| panic!("{error}"));
        }
        let restores = Restores { cluster, repository };
        restores.take();
        restores
    }

    fn take(&self) {
        let options = take::Options { repository: self.repository.clone(), dsn: None, node: None, kind: None };
        done(ended(|screen| take::run(&options, screen)));
    }

    fn options(&self, moment: Option<Moment>) -> Options {
        Options { repository: self.repository.clone(), node: None, moment, into: None, end_after: None }
    }

    /// The options of the host of one node.
    fn on_host_of(&self, node: &Node, moment: Option<Moment>) -> Options {
        Options { node: Some(node.name().to_owned()), ..self.options(moment) }
    }

    fn check(&self, moment: Moment) -> Ended {
        ended(|screen| check::run(&self.options(Some(moment)), screen))
    }

    fn start(&self, moment: Moment) -> Ended {
        ended(|screen| start::run(&self.options(Some(moment)), screen))
    }

    fn finish(&self) -> Ended {
        ended(|screen| finish::run(&self.options(None), screen))
    }

    /// Removes what restores that are finished have kept of the nodes' former data directories, for room.
    fn remove_former(&self) {
        for node in self.cluster.nodes() {
            let data = node.data();
            let name = data.file_name().expect("a data directory has a name").to_string_lossy();
            for entry in std::fs::read_dir(data.parent().expect("it is in a folder")).expect("the folder is there") {
                let path = entry.expect("an entry").path();
                let is_former = path
                    .file_name()
                    .is_some_and(|other| other.to_string_lossy().starts_with(&format!("{name}.before-")));
                if is_former {
                    std::fs::remove_dir_all(&path).expect("nobody uses it");
                }
            }
        }
    }

    fn cancel(&self) -> Ended {
        ended(|screen| cancel::run(&self.options(None), screen))
    }

    fn status(&self) -> String {
        let options = status::Options { repository: Some(self.repository.clone()), pgdata: Vec::new(), into: None };
        done(ended(|screen| status::run(&options, screen)))
    }

    fn journal(&self, node: &Node) -> Journal {
        Journal::read(node.data()).expect("it can be read").expect("it is there")
    }

    /// SQL on a paused node, over the socket that is its owner's alone.
    fn paused(&self, node: &Node, question: &str) -> String {
        let journal = self.journal(node);
        let mut client = spockctl::restore::server::connect(&journal, self.cluster.user()).expect("it answers");
        spockctl::restore::server::value(&journal, &mut client, question).expect("it can be asked")
    }

    /// Makes a restore point; returns its quality. A machine that is busy may need longer than the default lease.
    fn point(&self, name: &str, lease: &str) -> String {
        let made = format!("SELECT min(quality) FROM spock.create_restore_point('{name}', lease := '{lease}')");
        self.cluster.nodes()[0].value(&made)
    }

    /// Makes a restore point that every node has received.
    fn drained(&self, name: &str) {
        assert_eq!(self.point(name, "30 s"), "drained");
    }

    /// Makes a restore point while a node cannot receive everything, which is waited for in a part of the lease.
    fn cut(&self, name: &str) {
        assert_eq!(self.point(name, "5 s"), "cut");
    }
}

/// Servers that a restore has started are nobody's children: they end with the test, before its folder goes.
impl Drop for Restores<'_> {
    fn drop(&mut self) {
        for node in self.cluster.nodes() {
            let parent = node.data().parent().expect("it has one");
            let folders = fs::read_dir(parent).into_iter().flatten().flatten().map(|entry| entry.path());
            for pid in folders.filter_map(|folder| running(&folder)).filter(|pid| node.postmaster_pid() != Some(*pid)) {
                let _ = process::kill_all(pid);
            }
        }
    }
}

fn running(data: &Path) -> Option<i32> {
    PidFile::read(data).and_then(|_| spockctl::restore::server::running(data))
}

/// The rows of every node, once they are the same everywhere.
fn settled(cluster: &Cluster, question: &str) -> String {
    let mut last = Vec::new();
    wait_for("the same rows on every node", || {
        last = cluster.nodes().iter().map(|node| node.value(question)).collect();
        last.windows(2).all(|pair| pair[0] == pair[1])
    });
    last.swap_remove(0)
}

/// Waits until a node has so many rows more, which others write.
fn written(node: &Node, rows: u32) {
    let there: u32 = node.value("SELECT count(*) FROM t").parse().expect("a number");
    node.wait_until(&format!("SELECT count(*) >= {} FROM t", there + rows), "t");
}

fn step_of(restores: &Restores<'_>, node: &Node) -> Step {
    restores.journal(node).step
}
