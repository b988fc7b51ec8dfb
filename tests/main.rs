//! The multi-node tests, on real servers, in one binary.

#[path = "../src/failpoint/names.rs"]
#[expect(dead_code, reason = "not every failpoint has its test here")]
mod failpoint_names;

mod backup;
mod cluster;
mod compare;
mod convergence;
mod demo;
mod documents;
mod harness;
mod install;
mod library;
mod node_create;
mod parity;
mod pg_tests;
mod plan;
mod plugin;
mod rebuild;
mod reconcile;
mod recover;
mod reference;
mod registry;
mod regress;
mod rescue;
mod rescue_clone;
mod restore;
mod restore_points;
mod shown;
mod slot_carried;
mod slot_keeps;
mod slot_life;
mod update;
mod workers;
