//! A cluster of nodes of the extension, and how it is left running.

use std::env;
use std::path::PathBuf;

use spock_recovery_cluster::{Cluster, ClusterOptions, Configuration, Installation, ServerUser, extension, interrupt};

use crate::error::Result;
use crate::record::Record;
use crate::screen::Screen;

/// The database of every node.
pub const DATABASE: &str = "demo";

#[derive(Debug, Clone)]
pub struct Options {
    pub pg_config: Option<PathBuf>,
    pub first_port: u16,
    pub nodes: usize,
    /// The servers go on running when this process ends.
    pub stays: bool,
}

/// Nodes n1, n2, … with the extension, each registered under its name; not yet subscribed to anybody.
pub fn start(options: &Options, screen: &Screen) -> Result<Cluster> {
    let user = ServerUser::find()?;
    let installation = Installation::find_default(options.pg_config.as_deref(), &user)?;
    let step = screen.spinner(format!("starting {} servers of {}", options.nodes, installation.version));
    let servers = ClusterOptions {
        first_port: options.first_port,
        database: DATABASE.into(),
        configuration: configuration(options.stays),
        ..ClusterOptions::numbered(options.nodes)
    };
    let cluster = Cluster::start(&installation, &user, servers)?;
    drop(step);
    let nodes: Vec<String> =
        cluster.servers().iter().map(|node| format!("{} on port {}", node.name(), node.port())).collect();
    screen.line(format!("{}, run by \"{}\" in {}", installation.version, user.name(), cluster.path().display()));
    screen.line(format!("  {}", nodes.join(", ")));
    for node in cluster.nodes() {
        extension::create_node(node, DATABASE)?;
    }
    Ok(cluster)
}

/// With what a node of a cluster is started, the first time and again.
pub fn configuration(stays: bool) -> Configuration {
    Configuration { detached: stays, ..Configuration::default() }
}

/// Leaves the servers running, and says how to use and how to end them. They were started to stay.
pub fn keep(mut cluster: Cluster, screen: &Screen) -> Result<()> {
    Record::new(&cluster).write(cluster.path())?;
    interrupt::disarm();
    cluster.keep_folder()?;
    let psql = cluster.installation().bindir.join("psql");
    let (psql, folder) = (psql.display(), cluster.path().display());
    screen.line("The servers go on running:");
    for node in cluster.servers() {
        screen.line(format!("  {}: {psql} -h {folder} -p {} -U postgres {DATABASE}", node.name(), node.port()));
    }
    let program = env::args().next().unwrap_or_else(|| "spockctl".into());
    screen.line(format!("  {program} cluster status   shows how far each node has applied the others"));
    screen.line(format!("  {program} cluster up       starts those again that have been killed"));
    screen.line(format!("  {program} cluster down {folder}   stops and removes them"));
    cluster.servers().iter().for_each(|server| server.release());
    Ok(())
}
