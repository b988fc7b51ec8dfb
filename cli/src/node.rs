//! A new node of a mesh, or the successor of a dead one, from a base backup of a living node: `spockctl node create`.
//!
//! The order is what keeps everything. Every provider gets a slot for the new node *before* the backup begins, and the living node has
//! passed the beginning of each slot before that: so each slot holds all that the backup may lack. The backup brings the living
//! node's replication origins, which are exact; its subscriptions become the new node's, with the new slots, and core's apply skips
//! what lies below the origins. The new node opens only when there is a slot on it for every peer, so that nothing written there is
//! missed. Until then it is closed: it listens on a socket in a folder of its owner's alone, and no worker of a subscription runs.
//!
//! The steps are in a journal beside the data directory (`journal`), so that the same command goes on after whatever has died.
//! What decides is pure: `names` (what slots and subscriptions are called), `settings`.

pub mod arguments;
pub mod cancel;
pub mod check;
pub mod clear;
pub mod closed;
pub mod create;
pub mod error;
pub mod facts;
pub mod fetch;
pub mod join;
pub mod journal;
pub mod mesh;
pub mod names;
pub mod providers;
pub mod settings;
pub mod site;
pub mod status;
pub mod wire;

pub use create::Options;
pub use error::{Error, Result};
