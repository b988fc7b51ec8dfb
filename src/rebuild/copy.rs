//! Copying a table from the source's pinned snapshot into the target's table.
//!
//! A table is copied in chunks: ranges of blocks of its heap, partition by partition, numbered through (`layout`). The
//! source sends a chunk as pieces of COPY's text, and at its end how many rows these were and a checksum of their bytes
//! (`send`); the target feeds the pieces to core's COPY FROM and compares (`feed`). Rows and the chunk's entry in the
//! manifest are committed together (`manifest`), so a copy that was interrupted goes on with the first chunk that the
//! manifest does not have, under the same pin. Meanwhile the users' writes to the table are refused (src/pg/park.rs).
//!
//! `stream` is what one worker does; src/worker/copy.rs starts the workers.

pub mod error;
pub mod feed;
pub mod layout;
pub mod manifest;
pub mod send;
pub mod stream;
