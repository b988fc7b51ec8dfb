//! The files of a logical slot in the data directory, which is the working directory of every server process
//! (replication/slot.c, replication/logical/snapbuild.c). Core replaces each of them by renaming a complete one.

use std::io;

/// The path of a slot's state file. Slot names have no character that means something in a path.
pub fn state_path(slot: &str) -> String {
    format!("pg_replslot/{slot}/state")
}

/// The path of a snapshot file.
pub fn snap_path(name: &str) -> String {
    format!("pg_logical/snapshots/{name}")
}

/// The content of a file; None: there is no such file.
pub fn read(path: &str) -> io::Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
