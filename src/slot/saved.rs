//! The recovery slot's files as they are saved in a large object (pure), so that a restore from a backup can put the
//! slot back: slots are neither in WAL nor in a base backup.
//!
//! The object begins with a line of JSON, the head. The bytes of the state file follow, and then those of the snapshot
//! file. The two are saved together or not at all, because a slot that is installed without its snapshot silently loses
//! transactions. A slot that has not moved since its creation has no snapshot file and needs none.

use super::on_disk::{self, State, crc32c, snap_name};
use crate::document::{self, Document, DocumentError, Stored};
use crate::identity::DatabaseIdentity;
use crate::lsn::LocalLsn;
use serde::{Deserialize, Serialize};

/// The length of a file, and its CRC-32C.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FileHead {
    pub bytes: u64,
    pub crc32c: u32,
}

impl FileHead {
    fn of(content: &[u8]) -> FileHead {
        FileHead { bytes: content.len() as u64, crc32c: crc32c(content) }
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SnapHead {
    /// The file's name in `pg_logical/snapshots`.
    pub name: String,
    #[serde(flatten)]
    pub file: FileHead,
}

/// The first line of the large object.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SavedHead {
    version: u32,
    system_identifier: u64,
    database: u32,
    /// The slot's name.
    pub slot: String,
    /// The slot's number among all recovery slots that this database has had.
    pub generation: u64,
    #[serde(rename = "restart_lsn")]
    pub restart: LocalLsn,
    #[serde(rename = "confirmed_flush_lsn")]
    pub confirmed: LocalLsn,
    pub state: FileHead,
    /// Null: the slot has no snapshot file.
    pub snap: Option<SnapHead>,
}

impl Document for SavedHead {
    const VERSION: u32 = 1;
}

/// The saved files, with their head.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Saved {
    pub head: SavedHead,
    pub state: Vec<u8>,
    pub snap: Option<Vec<u8>>,
}

impl Saved {
    /// The files of a slot, to be saved. `read`: what the state file says.
    pub fn new(here: DatabaseIdentity, generation: u64, read: &State, state: Vec<u8>, snap: Option<Vec<u8>>) -> Saved {
        let snap_head = snap.as_ref().map(|snap| SnapHead { name: snap_name(read.restart), file: FileHead::of(snap) });
        let head = SavedHead {
            version: SavedHead::VERSION,
            system_identifier: here.system_identifier,
            database: here.database,
            slot: read.name.clone(),
            generation,
            restart: read.restart,
            confirmed: read.confirmed,
            state: FileHead::of(&state),
            snap: snap_head,
        };
        Saved { head, state, snap }
    }

    /// The content of the large object.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = document::to_text(&self.head).into_bytes();
        bytes.push(b'\n');
        bytes.extend_from_slice(&self.state);
        bytes.extend_from_slice(self.snap.as_deref().unwrap_or_default());
        bytes
    }

    /// Reads the content of the large object.
    pub fn read(bytes: &[u8], here: DatabaseIdentity) -> Stored<Saved> {
        let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
            return Stored::Unreadable(malformed("it has no first line"));
        };
        let Ok(line) = std::str::from_utf8(&bytes[..end]) else {
            return Stored::Unreadable(malformed("its first line is not text"));
        };
        document::read(Some(line), here).and_then(|head: SavedHead| with_files(head, &bytes[end + 1..]))
    }

    /// Whether decoding begins where it begins with the files of that head, and with a snapshot if it does with them.
    pub fn begins_as(&self, before: &SavedHead) -> bool {
        let of = |head: &SavedHead| (head.slot.clone(), head.generation, head.restart, head.snap.clone());
        of(&self.head) == of(before)
    }

    /// Whether these files may be saved in place of `before`. If the slot stands elsewhere than before, it has moved,
    /// and decoding has written a snapshot file for where it stands; if it stands where it stood, the file does not
    /// disappear. Without it the files would be worth less than those that are saved.
    pub fn may_replace(&self, before: &SavedHead) -> bool {
        let is_same_slot = (&before.slot, before.generation) == (&self.head.slot, self.head.generation);
        let has_not_moved = before.restart == self.head.restart && before.snap.is_none();
        self.snap.is_some() || !is_same_slot || has_not_moved
    }
}

/// The head with the files that follow it.
fn with_files(head: SavedHead, rest: &[u8]) -> Result<Saved, DocumentError> {
    let state_bytes = head.state.bytes as usize;
    let snap_bytes = head.snap.as_ref().map_or(0, |snap| snap.file.bytes as usize);
    if state_bytes.checked_add(snap_bytes) != Some(rest.len()) {
        return Err(malformed("the lengths of the files are not those that its first line names"));
    }
    let (state, snap) = rest.split_at(state_bytes);
    if FileHead::of(state) != head.state {
        return Err(malformed("the checksum of the slot's state file does not match"));
    }
    if head.snap.as_ref().is_some_and(|known| FileHead::of(snap) != known.file) {
        return Err(malformed("the checksum of the slot's snapshot file does not match"));
    }
    let read = on_disk::parse_state(state).map_err(|why| malformed(&format!("of the slot's state file: {why}")))?;
    if (read.restart, read.confirmed) != (head.restart, head.confirmed)
        || head.snap.as_ref().is_some_and(|snap| snap.name != snap_name(head.restart))
    {
        return Err(malformed("the files are of another position than its first line names"));
    }
    let snap = head.snap.is_some().then(|| snap.to_vec());
    Ok(Saved { state: state.to_vec(), snap, head })
}

fn malformed(why: &str) -> DocumentError {
    DocumentError::Malformed(why.to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::on_disk::samples::{snap_file, state, state_file};
    use super::*;

    const HERE: DatabaseIdentity = DatabaseIdentity { system_identifier: 7, database: 5 };

    fn saved(generation: u64, restart: u64, has_snap: bool) -> Saved {
        let read = state(restart, restart + 100);
        let snap = has_snap.then(|| snap_file(b"snapshot\nof it"));
        Saved::new(HERE, generation, &read, state_file(&read), snap)
    }

    #[test]
    fn what_is_saved_is_read_again_with_and_without_a_snapshot() {
        for has_snap in [true, false] {
            let written = saved(2, 0xA0, has_snap);
            assert_eq!(Saved::read(&written.to_bytes(), HERE), Stored::Own(written.clone()));
            assert_eq!(written.head.snap.map(|snap| snap.name), has_snap.then(|| "0-A0.snap".to_owned()));
        }
    }

    #[test]
    fn what_was_saved_elsewhere_is_inert() {
        let bytes = saved(2, 0xA0, true).to_bytes();
        for elsewhere in [DatabaseIdentity { system_identifier: 8, ..HERE }, DatabaseIdentity { database: 6, ..HERE }] {
            assert_eq!(Saved::read(&bytes, elsewhere), Stored::Foreign);
        }
    }

    #[test]
    fn neither_file_is_returned_if_one_is_damaged_or_cut_short() {
        let whole = saved(2, 0xA0, true).to_bytes();
        let head_ends = whole.iter().position(|byte| *byte == b'\n').expect("a head");
        for place in head_ends + 1..whole.len() {
            let mut damaged = whole.clone();
            damaged[place] ^= 1;
            assert!(matches!(Saved::read(&damaged, HERE), Stored::Unreadable(_)), "byte {place}");
        }
        for length in 0..whole.len() {
            assert!(matches!(Saved::read(&whole[..length], HERE), Stored::Unreadable(_)), "{length} bytes");
        }
        assert!(matches!(Saved::read(&[whole.as_slice(), b"x"].concat(), HERE), Stored::Unreadable(_)));
        let text = |from: &str, to: &str| {
            let head = String::from_utf8_lossy(&whole[..head_ends]).replace(from, to);
            assert_ne!(head.as_bytes(), &whole[..head_ends], "{from}");
            [head.as_bytes(), &whole[head_ends..]].concat()
        };
        for (from, to) in [
            ("\"version\":1", "\"version\":2"),
            ("\"restart_lsn\":\"0/A0\"", "\"restart_lsn\":\"0/A1\""),
            ("0-A0.snap", "0-A1.snap"),
        ] {
            assert!(matches!(Saved::read(&text(from, to), HERE), Stored::Unreadable(_)), "{to}");
        }
    }

    #[test]
    fn a_slot_that_has_moved_is_never_saved_without_its_snapshot() {
        for (what, before, now, expected) in [
            ("it has moved, with a snapshot", saved(1, 100, true), saved(1, 200, true), true),
            ("its first move", saved(1, 100, false), saved(1, 200, true), true),
            ("it has not moved yet", saved(1, 100, false), saved(1, 100, false), true),
            ("its first move, without a snapshot", saved(1, 100, false), saved(1, 200, false), false),
            ("it has moved, without a snapshot", saved(1, 100, true), saved(1, 200, false), false),
            ("the snapshot was removed", saved(1, 100, true), saved(1, 100, false), false),
            ("the next generation", saved(1, 100, true), saved(2, 300, false), true),
        ] {
            assert_eq!(now.may_replace(&before.head), expected, "{what}");
        }
    }
}
