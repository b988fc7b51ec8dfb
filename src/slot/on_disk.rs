//! The files that core keeps of a logical slot, as bytes (pure): `pg_replslot/<slot>/state` (replication/slot.c,
//! ReplicationSlotOnDisk) and `pg_logical/snapshots/<restart_lsn>.snap` (replication/logical/snapbuild.c,
//! SnapBuildOnDisk).
//!
//! Decoding begins at the slot's restart_lsn. If there is a snapshot file of that position, it is consistent from there
//! on. Without the file it first has to become consistent, and silently leaves out every transaction until then.

use crate::lsn::LocalLsn;
use pgrx::pg_sys;
use std::mem::offset_of;

const STATE_MAGIC: u32 = 0x0105_1CA1;
const STATE_VERSION: u32 = 5;
const SNAP_MAGIC: u32 = 0x51A1_E001;

/// Both files begin with four numbers of four bytes: the magic number, the checksum of all that follows it, a version,
/// and a length.
const HEADER: usize = 16;
const CHECKSUMMED_FROM: usize = 8;

/// `sizeof(ReplicationSlotPersistentData)`, and where its fields are. The slot's name is the first.
const STATE_DATA: usize = size_of::<Persistent>();
const NAME_BYTES: usize = size_of::<pg_sys::NameData>();
const DATABASE_AT: usize = offset_of!(Persistent, database);
const PERSISTENCY_AT: usize = offset_of!(Persistent, persistency);
const RESTART_AT: usize = offset_of!(Persistent, restart_lsn);
const INVALIDATED_AT: usize = offset_of!(Persistent, invalidated);
const CONFIRMED_AT: usize = offset_of!(Persistent, confirmed_flush);

type Persistent = pg_sys::ReplicationSlotPersistentData;

// ReplicationSlotOnDisk aligns them at eight bytes, which its header is a multiple of. The layout is that of version 5.
const _: () = assert!(HEADER.is_multiple_of(align_of::<Persistent>()));
const _: () = assert!(offset_of!(Persistent, name) == 0 && STATE_DATA == 184 && RESTART_AT == 80 && CONFIRMED_AT == 96);
const _: () = assert!(pg_sys::ReplicationSlotPersistency::RS_PERSISTENT == PERSISTENT);
const _: () = assert!(pg_sys::ReplicationSlotInvalidationCause::RS_INVAL_NONE == VALID);

const PERSISTENT: u32 = 0;
const VALID: u32 = 0;

/// What the state file of a slot says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct State {
    pub name: String,
    /// The oid of the slot's database.
    pub database: u32,
    /// Neither temporary nor still being created.
    pub is_persistent: bool,
    pub is_invalid: bool,
    pub restart: LocalLsn,
    pub confirmed: LocalLsn,
}

/// Reads a state file.
///
/// # Errors
/// Why the file is none that this server's major version has written.
pub fn parse_state(bytes: &[u8]) -> Result<State, String> {
    let header = header_of(bytes, STATE_MAGIC)?;
    if header.version != STATE_VERSION {
        return Err(format!("it has version {}, and version {STATE_VERSION} is known", header.version));
    }
    if header.length as usize != STATE_DATA || bytes.len() != HEADER + STATE_DATA {
        return Err(format!("it has {} bytes, and {} are expected", bytes.len(), HEADER + STATE_DATA));
    }
    let data = &bytes[HEADER..];
    let name = data[..NAME_BYTES].split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(State {
        name: String::from_utf8_lossy(name).into_owned(),
        database: u32_at(data, DATABASE_AT),
        is_persistent: u32_at(data, PERSISTENCY_AT) == PERSISTENT,
        is_invalid: u32_at(data, INVALIDATED_AT) != VALID,
        restart: LocalLsn(u64_at(data, RESTART_AT)),
        confirmed: LocalLsn(u64_at(data, CONFIRMED_AT)),
    })
}

/// Checks a snapshot file, except for its version, which only the server has to know.
///
/// # Errors
/// Why the file is no whole snapshot.
pub fn check_snap(bytes: &[u8]) -> Result<(), String> {
    header_of(bytes, SNAP_MAGIC).map(|_| ())
}

/// The name of the snapshot file of a position, in the folder `pg_logical/snapshots`.
pub fn snap_name(restart: LocalLsn) -> String {
    format!("{:X}-{:X}.snap", restart.0 >> 32, restart.0 as u32)
}

struct Header {
    version: u32,
    length: u32,
}

fn header_of(bytes: &[u8], magic: u32) -> Result<Header, String> {
    if bytes.len() < HEADER {
        return Err(format!("it has {} bytes", bytes.len()));
    }
    if u32_at(bytes, 0) != magic {
        return Err(format!("it begins with {:08X} instead of {magic:08X}", u32_at(bytes, 0)));
    }
    let (written, computed) = (u32_at(bytes, 4), crc32c(&bytes[CHECKSUMMED_FROM..]));
    if written != computed {
        return Err(format!("its checksum is {computed:08X}, and {written:08X} is written in it"));
    }
    Ok(Header { version: u32_at(bytes, 8), length: u32_at(bytes, 12) })
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut value = [0; 4];
    value.copy_from_slice(&bytes[at..at + 4]);
    u32::from_ne_bytes(value)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[at..at + 8]);
    u64::from_ne_bytes(value)
}

/// CRC-32C as core computes it (port/pg_crc32c.h): the polynomial of Castagnoli, reflected, inverted before and after.
pub fn crc32c(bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0x82F6_3B78;
    let step = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ POLYNOMIAL } else { crc >> 1 };
    !bytes.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

#[cfg(test)]
pub mod samples {
    use super::*;

    fn sealed(magic: u32, version: u32, length: u32, data: &[u8]) -> Vec<u8> {
        let mut checked = [version.to_ne_bytes(), length.to_ne_bytes()].concat();
        checked.extend_from_slice(data);
        let mut bytes = [magic.to_ne_bytes(), crc32c(&checked).to_ne_bytes()].concat();
        bytes.extend(checked);
        bytes
    }

    /// A state file, as core writes it.
    pub fn state_file(state: &State) -> Vec<u8> {
        let mut data = vec![0; STATE_DATA];
        data[..state.name.len()].copy_from_slice(state.name.as_bytes());
        data[DATABASE_AT..][..4].copy_from_slice(&state.database.to_ne_bytes());
        data[PERSISTENCY_AT..][..4].copy_from_slice(&u32::from(!state.is_persistent).to_ne_bytes());
        data[INVALIDATED_AT..][..4].copy_from_slice(&u32::from(state.is_invalid).to_ne_bytes());
        data[RESTART_AT..][..8].copy_from_slice(&state.restart.0.to_ne_bytes());
        data[CONFIRMED_AT..][..8].copy_from_slice(&state.confirmed.0.to_ne_bytes());
        sealed(STATE_MAGIC, STATE_VERSION, STATE_DATA as u32, &data)
    }

    pub fn state(restart: u64, confirmed: u64) -> State {
        State {
            name: "spk_recovery_d".to_owned(),
            database: 5,
            is_persistent: true,
            is_invalid: false,
            restart: LocalLsn(restart),
            confirmed: LocalLsn(confirmed),
        }
    }

    /// A snapshot file with some content.
    pub fn snap_file(content: &[u8]) -> Vec<u8> {
        sealed(SNAP_MAGIC, 6, content.len() as u32, content)
    }
}

#[cfg(test)]
mod tests {
    use super::samples::*;
    use super::*;

    #[test]
    fn the_checksum_is_that_of_core() {
        // RFC 3720, B.4.
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8A91_36AA);
    }

    #[test]
    fn a_state_file_says_where_the_slot_stands() {
        let written = state(0x1_0000_00A0, 0x1_0000_0200);
        assert_eq!(parse_state(&state_file(&written)), Ok(written));
        for other in [
            State { is_invalid: true, ..state(1, 2) },
            State { is_persistent: false, ..state(1, 2) },
            State { name: "x".repeat(63), ..state(1, 2) },
        ] {
            assert_eq!(parse_state(&state_file(&other)), Ok(other));
        }
    }

    #[test]
    fn no_byte_of_a_state_file_can_change_unnoticed() {
        let whole = state_file(&state(0xA0, 0x200));
        for place in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[place] ^= 1;
            assert!(parse_state(&damaged).is_err(), "byte {place}");
        }
        for length in 0..whole.len() {
            assert!(parse_state(&whole[..length]).is_err(), "{length} bytes");
        }
        assert!(parse_state(&[whole.as_slice(), &[0]].concat()).is_err());
        assert!(parse_state(&snap_file(&[0; STATE_DATA])).is_err(), "a file of another kind");
    }

    #[test]
    fn a_snapshot_file_is_checked_as_a_whole() {
        let whole = snap_file(b"content");
        assert_eq!(check_snap(&whole), Ok(()));
        assert!(check_snap(&whole[..whole.len() - 1]).is_err());
        assert!(check_snap(&[]).is_err());
        assert!(check_snap(&state_file(&state(1, 2))).is_err(), "a file of another kind");
    }

    #[test]
    fn a_snapshot_file_is_named_as_core_names_it() {
        assert_eq!(snap_name(LocalLsn(0x1_0200_00A0)), "1-20000A0.snap");
        assert_eq!(snap_name(LocalLsn(0x16B_3748)), "0-16B3748.snap");
    }
}
