//! Clusters of real PostgreSQL servers: started in a folder of their own, wired by native logical replication, killed, and gone
//! with the process that started them.
//!
//! `spockctl`, the benchmark and the multi-node tests stand on this library, so that a server is started in one way only. It
//! knows the extension by its name and by `spock.node_create()`; what the extension is asked for is the callers' business.

#![deny(unsafe_op_in_unsafe_fn)]

pub mod client;
pub mod cluster;
pub mod command;
pub mod configuration;
mod data_folder;
pub mod deadline;
pub mod error;
pub mod extension;
pub mod installation;
pub mod interrupt;
pub mod mesh;
pub mod pid_file;
pub mod process;
pub mod program;
pub mod run_folder;
pub mod server;
pub mod spawn;
pub mod system_identifier;
pub mod user;

pub use cluster::{Cluster, ClusterOptions};
pub use configuration::Configuration;
pub use error::{Error, Result};
pub use installation::Installation;
pub use run_folder::RunFolder;
pub use server::{Server, Shutdown};
pub use user::ServerUser;
