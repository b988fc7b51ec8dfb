//! Real servers for one test: started in a folder of their own, wired on request, ended and their logs judged when the test ends.
//!
//! A test declares the cluster, uses the verbs of its nodes, and lets it drop. What a log may hold is in `cluster/log_check.rs`.

#![allow(dead_code, unused_imports, reason = "verbs are there for the tests to come, as a library's are")]

pub mod failpoint;
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

use spockctl::mesh::{self, MeshOptions};
use spockctl::{Installation, RunFolder, Server, ServerOptions, ServerUser, deadline};

pub use failpoint::Action;
pub use node::Node;
pub use session::{Database, Session, SqlError};

/// How long a condition may take to come true. Only a failing test waits that long.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Sockets are told apart by port, within a folder that no other cluster uses.
const FIRST_PORT: u16 = 5432;

pub struct Cluster {
    name: String,
    // Before the folder: servers end before their files go.
    nodes: Vec<Node>,
    folder: RunFolder,
    installation: Installation,
    user: ServerUser,
    builder: Builder,
    disturbed: Arc<AtomicBool>,
}

#[derive(Clone)]
pub struct Builder {
    name: String,
    nodes: usize,
    plain: bool,
    durable: bool,
    settings: Vec<(String, String)>,
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
        self.plain = true;
        self
    }

    /// With fsync and full_page_writes, for what tests exactly them. A kill -9 of the server loses nothing without.
    pub fn durable(mut self) -> Builder {
        self.durable = true;
        self
    }

    /// A line of postgresql.conf on every node; it wins over the harness's own.
    pub fn setting(mut self, name: &str, value: &str) -> Builder {
        self.settings.push((name.into(), value.into()));
        self
    }

    /// Another server than the one under test, for what concerns two majors.
    pub fn installation(mut self, installation: Installation) -> Builder {
        self.installation = Some(installation);
        self
    }

    pub fn start(self) -> Cluster {
        let user = ServerUser::find().unwrap_or_else(|error| panic!("{error}"));
        let installation = self
            .installation
            .clone()
            .map_or_else(|| Installation::find_default(None, &user), Ok)
            .unwrap_or_else(|error| panic!("{error}"));
        let folder = RunFolder::create(&user).unwrap_or_else(|error| panic!("{error}"));
        let (name, count) = (self.name.clone(), self.nodes);
        let mut cluster = Cluster {
            name,
            nodes: Vec::new(),
            folder,
            installation,
            user,
            builder: self,
            disturbed: Arc::new(AtomicBool::new(false)),
        };
        let servers: Vec<Server> = (0..count).map(|index| cluster.make_server(index)).collect();
        cluster.nodes = servers.into_iter().map(|server| Node::new(server, cluster.disturbed.clone())).collect();
        for node in &cluster.nodes {
            node.with_server(Server::launch);
        }
        for node in &cluster.nodes {
            node.with_server(Server::wait_ready);
        }
        cluster
    }
}

impl Cluster {
    /// `name` is the test's, for the folder of its logs; the rest of the builder is optional.
    #[expect(clippy::new_ret_no_self, reason = "reads as Cluster::new(…).nodes(3).start()")]
    pub fn new(name: &str) -> Builder {
        Builder { name: name.into(), nodes: 1, plain: false, durable: false, settings: Vec::new(), installation: None }
    }

    fn options(&self, name: &str, index: usize) -> ServerOptions {
        let port =
            u16::try_from(index).ok().and_then(|index| FIRST_PORT.checked_add(index)).expect("a test has few nodes");
        ServerOptions {
            preloads_extension: !self.builder.plain,
            durable: self.builder.durable,
            settings: self.builder.settings.clone(),
            ..ServerOptions::new(name, port)
        }
    }

    fn make_server(&self, index: usize) -> Server {
        let options = self.options(&format!("n{}", index + 1), index);
        Server::create(&self.installation, &self.user, self.folder.path(), options)
            .unwrap_or_else(|error| panic!("{error}"))
    }

    /// One more node, started, not wired.
    pub fn add_node(&mut self) -> &Node {
        let node = Node::new(self.make_server(self.nodes.len()), self.disturbed.clone());
        node.with_server(Server::start);
        self.nodes.push(node);
        self.nodes.last().expect("it was pushed just now")
    }

    /// A physical standby of a node, streaming from it by a slot there of this name, with its failover slots, started; `promote` makes it a node.
    pub fn add_standby(&mut self, name: &str, primary: &str) -> &Node {
        let mut options = self.options(name, self.nodes.len());
        let primary = self.node(primary);
        let standby = [
            ("primary_conninfo", primary.dsn("postgres")),
            ("primary_slot_name", name.into()),
            ("hot_standby_feedback", "on".into()),
            ("sync_replication_slots", "on".into()),
        ];
        options.settings.extend(standby.map(|(name, value)| (name.to_owned(), value)));
        let made = Server::create_standby(&primary.server(), self.folder.path(), options);
        let node = Node::new(made.unwrap_or_else(|error| panic!("{error}")), self.disturbed.clone());
        node.with_server(Server::start);
        self.nodes.push(node);
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
        &self.installation
    }

    pub fn user(&self) -> &ServerUser {
        &self.user
    }

    pub fn major(&self) -> u32 {
        self.installation.major
    }

    /// The folder of this test alone; the servers' user can write there. Gone when the test ends.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Runs the statements on every node.
    pub fn sql(&self, statements: &str) {
        for node in &self.nodes {
            node.sql(statements);
        }
    }

    /// Native replication between all nodes in the database `postgres`, without initial copies; returns when every table is ready.
    pub fn mesh(&self) {
        self.mesh_with(&MeshOptions::default());
    }

    /// The same for these pairs alone, each the target and the source of a subscription.
    pub fn wire(&self, pairs: &[(&str, &str)], options: &MeshOptions) {
        self.with_servers(|servers| {
            let of = |name: &str| *servers.iter().find(|server| server.name() == name).expect("a node of the cluster");
            for server in servers {
                mesh::publish(server, options)?;
            }
            for (target, source) in pairs {
                mesh::subscribe(of(target), of(source), options)?;
            }
            mesh::wait_ready(servers, options, LIMIT)
        });
    }

    pub fn mesh_with(&self, options: &MeshOptions) {
        self.with_servers(|servers| {
            mesh::wire(servers, options)?;
            // The tables that are there now it knows by itself.
            mesh::wait_ready(servers, options, LIMIT)
        });
    }

    /// Makes all subscriptions know tables that were created after `mesh`.
    pub fn refresh_mesh(&self, options: &MeshOptions) {
        self.with_servers(|servers| mesh::refresh(servers, options, LIMIT));
    }

    fn with_servers(&self, act: impl FnOnce(&[&Server]) -> spockctl::Result<()>) {
        let guards: Vec<_> = self.nodes.iter().map(Node::server).collect();
        let servers: Vec<&Server> = guards.iter().map(|guard| &**guard).collect();
        let result = act(&servers);
        // Not under the locks: a panic would poison them.
        drop(guards);
        result.unwrap_or_else(|error| panic!("{error}"));
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
        target.join("test-logs").join(format!("{}-{}", self.name, self.installation.major))
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
            node.end();
        }
        if env::var_os("SPOCK_RECOVERY_KEEP").is_some_and(|keep| keep == "1") {
            match self.folder.keep() {
                Ok(()) => eprintln!("data folders: {}", self.folder.path().display()),
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

/// Waits for what no query tells; panics with `what` after `LIMIT`.
pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    if deadline::poll(LIMIT, || condition().then_some(())).is_none() {
        panic!("waited {} s in vain for {what}", LIMIT.as_secs());
    }
}
