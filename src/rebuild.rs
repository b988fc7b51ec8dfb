//! Rebuild: bringing tables of a target to the state of a source where WAL cannot (docs/design/decisions-rebuild.md).
//!
//! The pin is the source's part. `spock_internal.pin_tables(intent_id, target_node, tables, lease, lifetime)` answers with a
//! [`pin::PinAnswer`] as JSON: an exported snapshot of all the tables, how far every other node had been applied in it
//! (`vector`, by the nodes' names), and the end of the source's own last commit in it (`end`). All of this is on disk
//! when it is answered. A worker holds the snapshot until release_pin(), or until the target says that the intent is
//! over, has been silent for spock.rebuild_pin_silence, or the lifetime is over.
//!
//! `pin` holds what is asked and answered and how the snapshot is taken, `pin_fate` decides how long it is held (pure);
//! the worker is src/worker/pin.rs.

pub mod copy;
pub mod error;
pub mod park;
pub mod pin;
pub mod pin_fate;
