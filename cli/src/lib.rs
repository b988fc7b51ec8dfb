//! Starts real PostgreSQL servers in folders of their own and wires them to each other.
//!
//! The binary `spockctl` and the multi-node tests both stand on this library, so that a server is started in one way only.

#![deny(unsafe_op_in_unsafe_fn)]

pub mod client;
pub mod configuration;
pub mod data_folder;
pub mod deadline;
pub mod demo;
pub mod error;
pub mod installation;
pub mod mesh;
pub mod process;
pub mod run_folder;
pub mod server;
pub mod spawn;
pub mod system_identifier;
pub mod user;

pub use configuration::ServerOptions;
pub use error::{Error, Result};
pub use installation::Installation;
pub use run_folder::RunFolder;
pub use server::{Server, Shutdown};
pub use user::ServerUser;
