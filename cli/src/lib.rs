//! Starts real PostgreSQL servers in folders of their own, wires them to each other, and shows a recovery from crash to verified.
//!
//! The binary `spockctl` and the multi-node tests both stand on this library, so that a server is started in one way only.

#![deny(unsafe_op_in_unsafe_fn)]

pub mod client;
pub mod cluster;
pub mod configuration;
pub mod data_folder;
pub mod deadline;
pub mod demo;
pub mod error;
pub mod installation;
pub mod interrupt;
pub mod mesh;
pub mod process;
pub mod record;
pub mod run_folder;
pub mod screen;
pub mod server;
pub mod spawn;
pub mod status;
pub mod system_identifier;
pub mod table;
pub mod user;

pub use cluster::Cluster;
pub use configuration::ServerOptions;
pub use error::{Error, Result};
pub use installation::Installation;
pub use run_folder::RunFolder;
pub use screen::Screen;
pub use server::{Server, Shutdown};
pub use user::ServerUser;
