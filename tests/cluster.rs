//! Real servers for one test: started in a folder of their own, wired on request, ended and their logs judged when the test ends.
//!
//! A test declares the cluster, uses the verbs of its nodes, and lets it drop. What a log may hold is in `cluster/log_check.rs`.

pub mod failpoint;
pub mod link;
mod log_check;
mod node;
mod session;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use spock_recovery_cluster::{ClusterOptions, Configuration, Installation, Server, ServerUser, deadline};

pub use failpoint::Action;
pub use node::Node;
pub use session::{Database, Session, SqlError};

/// How long a condition may take to come true. Only a failing test waits that long.
pub const LIMIT: Duration = Duration::from_secs(60);

/// The library's cluster, with the verbs of tests and the judgement of the logs.
pub struct Cluster {
    name: String,
    // Before the servers: sessions end before what they are connected to.
    nodes: Vec<Node>,
    servers: spock_recovery_cluster::Cluster,
    disturbed: Arc<AtomicBool>,
}

#[derive(Clone)]
pub struct Builder {
    name: String,
    nodes: usize,
    configuration: Configuration,
    installation: Option<Installation>,
}

impl Builder {
    /// Nodes are named n1, n2, …; one unless this says otherwise.
    pub fn nodes(mut self, nodes: usize) -> Builder {
        self.nodes = nodes;
        self
    }

    /// PostgreSQL alone: spock_recovery is not preloaded.
    pub fn plain(mut self) -> Builder {
        self.configuration.preloads_extension = false;
        self
    }

    /// With fsync and full_page_writes, for what tests exactly them. A kill -9 of the server loses nothing without.
    pub fn durable(mut self) -> Builder {
        self.configuration.durable = true;
        self
    }

    /// A line of postgresql.conf on every node; it wins over the harness's own.
    pub fn setting(mut self, name: &str, value: &str) -> Builder {
        self.configuration.settings.push((name.into(), value.into()));
        self
    }

    /// Another server than the one under test, for what concerns two majors.
    pub fn installation(mut self, installation: Installation) -> Builder {
        self.installation = Some(installation);
        self
    }

    pub fn start(self) -> Cluster {
        let user = done(ServerUser::find());
        let installation = self.installation.unwrap_or_else(|| done(Installation::find_default(None, &user)));
        let options =
            ClusterOptions { configuration: self.configuration, limit: LIMIT, ..ClusterOptions::numbered(self.nodes) };
        let servers = done(spock_recovery_cluster::Cluster::start(&installation, &user, options));
        let disturbed = Arc::new(AtomicBool::new(false));
        let nodes = servers.servers().iter().map(|server| Node::new(server.clone(), disturbed.clone())).collect();
        Cluster { name: self.name, nodes, servers, disturbed }
    }
}

impl Cluster {
    /// `name` is the test's, for the folder of its logs; the rest of the builder is optional.
    #[expect(clippy::new_ret_no_self, reason = "reads as Cluster::new(…).nodes(3).start()")]
    pub fn new(name: &str) -> Builder {
        Builder { name: name.into(), nodes: 1, configuration: Configuration::default(), installation: None }
    }

    /// One more node, started, not wired.
    pub fn add_node(&mut self) -> &Node {
        let server = done(self.servers.add_node()).clone();
        self.add(server)
    }

    /// A physical standby of a node, streaming from it by a slot there of this name, with its failover slots, started; `promote` makes it a node.
    pub fn add_standby(&mut self, name: &str, primary: &str) -> &Node {
        let server = done(self.servers.add_standby(name, primary)).clone();
        self.add(server)
    }

    /// A server beside a node, of a base backup of it: not started, and not wired. `settings` say up to where it is restored.
    pub fn add_restored(&mut self, name: &str, original: &str, settings: &[(&str, &str)]) -> &Node {
        let server = done(self.servers.add_restored(name, original, settings)).clone();
        self.add(server)
    }

    /// A place for one more node that the test has another program make and start.
    pub fn add_place(&mut self) -> &Node {
        let server = done(self.servers.add_place()).clone();
        self.add(server)
    }

    fn add(&mut self, server: Arc<Server>) -> &Node {
        self.nodes.push(Node::new(server, self.disturbed.clone()));
        self.nodes.last().expect("it was pushed just now")
    }

    /// All nodes, as in `let [n1, n2, n3] = cluster.all();`.
    pub fn all<const N: usize>(&self) -> [&Node; N] {
        let nodes: Vec<&Node> = self.nodes.iter().collect();
        let count = nodes.len();
        nodes.try_into().unwrap_or_else(|_| panic!("the cluster has {count} nodes, not {N}"))
    }

    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub fn node(&self, name: &str) -> &Node {
        self.nodes.iter().find(|node| node.name() == name).unwrap_or_else(|| panic!("there is no node \"{name}\""))
    }

    pub fn installation(&self) -> &Installation {
        self.servers.installation()
    }

    pub fn user(&self) -> &ServerUser {
        self.servers.user()
    }

    pub fn major(&self) -> u32 {
        self.installation().major
    }

    /// The folder of this test alone; the servers' user can write there. Gone when the test ends.
    pub fn folder(&self) -> &Path {
        self.servers.path()
    }

    /// Runs the statements on every node.
    pub fn sql(&self, statements: &str) {
        for node in &self.nodes {
            node.sql(statements);
        }
    }

    /// Native replication between all nodes in the database `postgres`, without initial copies; returns when every table is ready.
    pub fn mesh(&self) {
        self.wire(&self.servers.pairs());
    }

    /// The same, with copies of the rows that are there already: those of one node only.
    pub fn mesh_with_copies(&self) {
        done(self.servers.publish());
        done(self.servers.subscribe_copying(&self.servers.pairs()));
    }

    /// The same as `mesh` for these pairs alone, each the target and the source of a subscription.
    pub fn wire(&self, pairs: &[(&str, &str)]) {
        done(self.servers.publish());
        done(self.servers.subscribe(pairs));
    }

    /// Makes all subscriptions know tables that were created after `mesh`.
    pub fn refresh_mesh(&self) {
        done(self.servers.refresh());
    }

    /// Says that every log may hold errors with this text.
    pub fn expect_log(&self, text: &str) {
        for node in &self.nodes {
            node.expect_log(text);
        }
    }

    /// Where the logs of a failed test stay.
    pub fn kept_logs(&self) -> PathBuf {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("target/tmp has a parent");
        target.join("test-logs").join(format!("{}-{}", self.name, self.major()))
    }

    fn keep_logs(&self) {
        let folder = self.kept_logs();
        let _ = fs::remove_dir_all(&folder);
        let copied = fs::create_dir_all(&folder).and_then(|()| {
            self.nodes.iter().try_for_each(|node| fs::write(folder.join(format!("{}.log", node.name())), node.log()))
        });
        match copied {
            Ok(()) => eprintln!("logs: {}", folder.display()),
            Err(error) => eprintln!("the logs could not be kept in {}: {error}", folder.display()),
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Read before anything ends: what peers log while the harness ends them one by one is nobody's fault.
        let disturbed = self.disturbed.load(Ordering::SeqCst);
        let findings: Vec<String> = self.nodes.iter().flat_map(|node| node.unexpected_log_lines(disturbed)).collect();
        for node in &self.nodes {
            node.server().end();
        }
        if env::var_os("SPOCK_RECOVERY_KEEP").is_some_and(|keep| keep == "1") {
            match self.servers.keep_folder() {
                Ok(()) => eprintln!("data folders: {}", self.folder().display()),
                Err(error) => eprintln!("the data folders could not be kept: {error}"),
            }
        }
        if thread::panicking() {
            self.keep_logs();
            if !findings.is_empty() {
                eprintln!("unexpected in the logs:\n{}", findings.join("\n"));
            }
        } else if !findings.is_empty() {
            self.keep_logs();
            panic!("unexpected in the logs (what a test provokes it names with expect_log):\n{}", findings.join("\n"));
        }
    }
}

/// What the library's verbs return, or the end of the test.
#[track_caller]
fn done<T>(result: spock_recovery_cluster::Result<T>) -> T {
    result.unwrap_or_else(|error| panic!("{error}"))
}

/// Waits for what no query tells; panics with `what` after `LIMIT`.
pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    if deadline::poll(LIMIT, || condition().then_some(())).is_none() {
        panic!("waited {} s in vain for {what}", LIMIT.as_secs());
    }
}
