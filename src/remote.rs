//! Questions to a peer, over libpqwalreceiver alone: conninfo, TLS, passfile and interrupts as in every subscription.

pub mod argument;
pub mod connection;
pub mod error;
pub mod report;
pub mod row;
