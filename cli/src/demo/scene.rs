//! A scene that commands of spockctl play a part in: its servers, how it begins and how it ends.

use std::path::PathBuf;

use nix::sys::prctl;
use spock_recovery_cluster::{Cluster, Error as ServerError};

use crate::cluster;
use crate::error::Result;
use crate::restore::server;
use crate::screen::Screen;

#[derive(Debug, Clone)]
pub struct Options {
    pub pg_config: Option<PathBuf>,
    pub first_port: u16,
    /// Those beyond n3 are further nodes of the same kind.
    pub nodes: usize,
    pub keep: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options { pg_config: None, first_port: 5451, nodes: 3, keep: false }
    }
}

/// Starts the servers, plays the scene, ends or keeps them, and shows the line that the scene returns. Ok only if the scene
/// is.
pub(super) fn run(
    options: &Options,
    screen: &Screen,
    play: impl FnOnce(&Cluster, &Screen) -> Result<String>,
) -> Result<()> {
    adopt()?;
    let cluster = cluster::start(
        &cluster::Options {
            pg_config: options.pg_config.clone(),
            first_port: options.first_port,
            nodes: options.nodes,
            stays: options.keep,
        },
        screen,
    )?;
    let played = play(&cluster, screen);
    if options.keep {
        if let Err(error) = &played {
            screen.line(format!("failed, the servers are kept to be looked at: {error}"));
        }
        cluster::keep(cluster, screen)?;
    } else {
        end(&cluster);
        cluster.stop()?;
    }
    screen.line(played?);
    Ok(())
}

/// Servers that a command starts by pg_ctl become this process's own, so that an interrupt ends them as well.
fn adopt() -> Result<()> {
    prctl::set_child_subreaper(true)
        .map_err(|error| ServerError::Io { action: "adopt servers".into(), source: error.into() }.into())
}

/// Ends those that a command has started.
fn end(cluster: &Cluster) {
    for node in cluster.servers() {
        let bin_folder = &cluster.installation().bindir;
        let _ = server::stop(node.name(), bin_folder, node.data(), cluster.user());
    }
}
