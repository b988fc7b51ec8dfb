//! Queries to a peer, which use libpqwalreceiver alone: conninfo, TLS, passfile and interrupts work as for a
//! subscription.

pub mod argument;
pub mod connection;
pub mod error;
pub mod report;
pub mod row;
