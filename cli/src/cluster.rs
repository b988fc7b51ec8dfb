//! Several servers that are nodes of one cluster, with their sockets in one folder, told apart by neighbouring ports.

use std::env;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::client::literal;
use crate::configuration::ServerOptions;
use crate::error::{Error, Result};
use crate::installation::Installation;
use crate::interrupt;
use crate::record::Record;
use crate::run_folder::RunFolder;
use crate::screen::Screen;
use crate::server::{Server, Shutdown};
use crate::user::ServerUser;

/// The database of every node.
pub const DATABASE: &str = "demo";

/// What a step may take that needs milliseconds, or a few rounds of the manager: more passes only where something is broken.
pub const LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug, Clone)]
pub struct ClusterOptions {
    pub pg_config: Option<PathBuf>,
    pub first_port: u16,
    pub nodes: usize,
    /// The servers go on running when this process ends.
    pub stays: bool,
}

/// Ended and removed when it is dropped, unless `keep` was called.
#[derive(Debug)]
pub struct Cluster {
    // Before the folder: servers end before their files go.
    servers: Vec<Server>,
    folder: RunFolder,
    installation: Installation,
}

impl Cluster {
    /// Nodes n1, n2, … with the extension, each registered under its name; not yet subscribed to anybody.
    pub fn start(options: &ClusterOptions, screen: &Screen) -> Result<Cluster> {
        let user = ServerUser::find()?;
        let installation = Installation::find_default(options.pg_config.as_deref(), &user)?;
        let step = screen.spinner(format!("starting {} servers of {}", options.nodes, installation.version));
        let cluster = Cluster::launch(options, &user, &installation)?;
        drop(step);
        let nodes: Vec<String> =
            cluster.servers.iter().map(|node| format!("{} on port {}", node.name(), node.port())).collect();
        screen.line(format!("{}, run by \"{}\" in {}", installation.version, user.name(), cluster.path().display()));
        screen.line(format!("  {}", nodes.join(", ")));
        for node in &cluster.servers {
            let name = literal(node.name());
            node.query(DATABASE, "CREATE EXTENSION spock_recovery")?;
            node.query(DATABASE, &format!("SELECT spock.node_create({name}, {})", literal(&node.dsn(DATABASE))))?;
        }
        Ok(cluster)
    }

    fn launch(options: &ClusterOptions, user: &ServerUser, installation: &Installation) -> Result<Cluster> {
        let ClusterOptions { first_port, nodes, .. } = *options;
        u16::try_from(nodes)
            .ok()
            .and_then(|count| first_port.checked_add(count))
            .ok_or(Error::NoPorts { from: first_port, count: nodes })?;
        let folder = RunFolder::create(user)?;
        let mut cluster = Cluster { servers: Vec::new(), folder, installation: installation.clone() };
        for (name, port) in (1..=nodes).map(|number| format!("n{number}")).zip(first_port..) {
            let settings = server_options(&name, port, options.stays);
            cluster.servers.push(Server::create(installation, user, cluster.folder.path(), settings)?);
        }
        for server in &mut cluster.servers {
            server.launch()?;
        }
        for server in &mut cluster.servers {
            server.wait_ready()?;
            server.query("postgres", &format!("CREATE DATABASE {DATABASE}"))?;
        }
        Ok(cluster)
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn installation(&self) -> &Installation {
        &self.installation
    }

    pub fn nodes(&self) -> Vec<&Server> {
        self.servers.iter().collect()
    }

    pub fn node(&self, name: &str) -> Result<&Server> {
        self.servers.iter().find(|node| node.name() == name).ok_or_else(|| Error::NoNode(name.into()))
    }

    /// Kills a node with all its processes, as a failing machine would; it stays in the list.
    pub fn kill(&mut self, name: &str) -> Result<()> {
        self.servers.iter_mut().find(|node| node.name() == name).ok_or_else(|| Error::NoNode(name.into()))?.kill()
    }

    pub fn stop(mut self) -> Result<()> {
        self.servers.iter_mut().try_for_each(|server| server.stop(Shutdown::Fast))
    }

    /// Leaves the servers running, and says how to use and how to end them. They were started to stay.
    pub fn keep(mut self, screen: &Screen) -> Result<()> {
        Record::new(&self.installation, &self.servers).write(self.folder.path())?;
        interrupt::disarm();
        self.folder.keep()?;
        let psql = self.installation.bindir.join("psql");
        screen.line("The servers go on running:");
        for node in &self.servers {
            let port = node.port();
            let (program, folder) = (psql.display(), self.folder.path().display());
            screen.line(format!("  {}: {program} -h {folder} -p {port} -U postgres {DATABASE}", node.name()));
        }
        let program = env::args().next().unwrap_or_else(|| "spockctl".into());
        let folder = self.folder.path().display();
        screen.line(format!("  {program} cluster status   shows who has how much of whom"));
        screen.line(format!("  {program} cluster up       starts those again that have been killed"));
        screen.line(format!("  {program} cluster down {folder}   stops and removes them"));
        self.servers.into_iter().for_each(Server::release);
        Ok(())
    }
}

/// With which options a node of a cluster is started, the first time and again.
pub fn server_options(name: &str, port: u16, detached: bool) -> ServerOptions {
    ServerOptions { detached, ..ServerOptions::new(name, port) }
}
