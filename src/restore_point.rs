//! Restore points: one moment of the whole mesh, by name. At that moment no node holds a transaction of another one
//! beyond what that node itself has, so that all nodes restored to it fit together.
//!
//! The worker that makes one (src/worker/restore_point.rs) takes every node through the same steps at the same time:
//! prepare (the point is in every node's list, as loose), close (the commit barrier), mark (the record in WAL), open,
//! record (what has come of it). What a node does at each step is in step.rs. If anybody dies in between, the list says
//! loose, which is true, and the barrier opens when its lease has run out.

pub mod error;
pub mod list;
pub mod list_storage;
pub mod step;
