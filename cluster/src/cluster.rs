//! Several servers that are nodes of one cluster, with their sockets in one folder, told apart by neighbouring ports.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::client::identifier;
use crate::configuration::Configuration;
use crate::error::{Error, Result};
use crate::installation::Installation;
use crate::run_folder::RunFolder;
use crate::server::{Server, Shutdown};
use crate::user::ServerUser;

#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// Of the nodes, in the order of their ports.
    pub names: Vec<String>,
    pub first_port: u16,
    /// Where the nodes replicate.
    pub database: String,
    pub configuration: Configuration,
    /// What a step may take that needs milliseconds on a quiet machine: more passes only where something is broken.
    pub limit: Duration,
}

impl ClusterOptions {
    pub fn new<T: Into<String>>(names: impl IntoIterator<Item = T>) -> ClusterOptions {
        ClusterOptions {
            names: names.into_iter().map(Into::into).collect(),
            // A name alone, for the sockets lie in a folder that no other cluster uses.
            first_port: 5432,
            database: "postgres".into(),
            configuration: Configuration::default(),
            limit: Duration::from_secs(60),
        }
    }

    /// Nodes n1, n2, …
    pub fn numbered(count: usize) -> ClusterOptions {
        ClusterOptions::new((1..=count).map(|number| format!("n{number}")))
    }
}

/// Its servers are ended and its folder is removed when it is dropped.
#[derive(Debug)]
pub struct Cluster {
    // Before the folder: servers end before their files go. Shared with a caller that keeps a handle on each.
    servers: Vec<Arc<Server>>,
    folder: RunFolder,
    installation: Installation,
    user: ServerUser,
    options: ClusterOptions,
}

impl Cluster {
    /// Starts all servers at once, and returns when each takes connections; none of them replicates yet.
    pub fn start(installation: &Installation, user: &ServerUser, options: ClusterOptions) -> Result<Cluster> {
        let mut cluster = Cluster {
            servers: Vec::new(),
            folder: RunFolder::create(user)?,
            installation: installation.clone(),
            user: user.clone(),
            options,
        };
        for name in cluster.options.names.clone() {
            let address = (name.as_str(), cluster.free_port()?);
            let configuration = cluster.options.configuration.clone();
            let server = Server::create(installation, user, cluster.path(), address, configuration)?;
            cluster.servers.push(Arc::new(server));
        }
        cluster.servers.iter().try_for_each(|server| server.launch())?;
        for server in &cluster.servers {
            server.wait_ready()?;
            if cluster.options.database != "postgres" {
                server.query("postgres", &format!("CREATE DATABASE {}", identifier(&cluster.options.database)))?;
            }
        }
        Ok(cluster)
    }

    fn free_port(&self) -> Result<u16> {
        let from = self.options.first_port;
        let free = u16::try_from(self.servers.len()).ok().and_then(|count| from.checked_add(count));
        free.ok_or(Error::NoPorts { from, count: self.options.names.len() })
    }

    /// One more node, started, not wired; its name is nN as the Nth server.
    pub fn add_node(&mut self) -> Result<&Arc<Server>> {
        let name = format!("n{}", self.servers.len() + 1);
        let address = (name.as_str(), self.free_port()?);
        let configuration = self.options.configuration.clone();
        let server = Server::create(&self.installation, &self.user, self.path(), address, configuration)?;
        self.add(server)
    }

    /// A physical standby of a node, started. It streams by a slot there of its own name, and has the node's failover slots.
    pub fn add_standby(&mut self, name: &str, primary: &str) -> Result<&Arc<Server>> {
        let primary = self.node(primary)?;
        let mut configuration = self.options.configuration.clone();
        let standby = [
            ("primary_conninfo", primary.dsn("postgres")),
            ("primary_slot_name", name.to_owned()),
            ("hot_standby_feedback", "on".to_owned()),
            ("sync_replication_slots", "on".to_owned()),
        ];
        configuration.settings.extend(standby.map(|(name, value)| (name.to_owned(), value)));
        let server = Server::create_standby(primary, self.path(), (name, self.free_port()?), configuration)?;
        self.add(server)
    }

    /// A server beside a node, of a base backup of it: not started, and not wired. `settings` say up to where it is restored.
    pub fn add_restored(&mut self, name: &str, original: &str, settings: &[(&str, &str)]) -> Result<&Arc<Server>> {
        let original = self.node(original)?;
        let mut configuration = self.options.configuration.clone();
        configuration.settings.extend(settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let server = Server::create_restored(original, self.path(), (name, self.free_port()?), configuration)?;
        self.servers.push(Arc::new(server));
        Ok(&self.servers[self.servers.len() - 1])
    }

    /// A place for one more node whose data folder another program makes, and whose server it starts; named nN as the Nth server.
    pub fn add_place(&mut self) -> Result<&Arc<Server>> {
        let name = format!("n{}", self.servers.len() + 1);
        let address = (name.as_str(), self.free_port()?);
        let configuration = self.options.configuration.clone();
        let server = Server::existing(&self.installation, &self.user, self.path(), address, configuration);
        self.servers.push(Arc::new(server));
        Ok(&self.servers[self.servers.len() - 1])
    }

    fn add(&mut self, server: Server) -> Result<&Arc<Server>> {
        server.start()?;
        self.servers.push(Arc::new(server));
        Ok(&self.servers[self.servers.len() - 1])
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn installation(&self) -> &Installation {
        &self.installation
    }

    pub fn user(&self) -> &ServerUser {
        &self.user
    }

    pub fn database(&self) -> &str {
        &self.options.database
    }

    pub fn limit(&self) -> Duration {
        self.options.limit
    }

    pub fn servers(&self) -> &[Arc<Server>] {
        &self.servers
    }

    pub fn nodes(&self) -> Vec<&Server> {
        self.servers.iter().map(|server| &**server).collect()
    }

    pub fn node(&self, name: &str) -> Result<&Server> {
        let node = self.servers.iter().find(|node| node.name() == name);
        node.map(|node| &**node).ok_or_else(|| Error::NoNode(name.into()))
    }

    /// A clean end, which tells of a server that cannot be stopped.
    pub fn stop(self) -> Result<()> {
        self.servers.iter().try_for_each(|server| server.stop(Shutdown::Fast))
    }

    /// The folder stays when the cluster is dropped; detached servers that were released stay with it.
    pub fn keep_folder(&mut self) -> Result<()> {
        self.folder.keep()
    }
}
