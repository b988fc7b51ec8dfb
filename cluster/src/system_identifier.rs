//! Gives a copied data folder a system identifier of its own, as initdb would have.
//!
//! The identifier is the first field of pg_control, in WAL page headers, and nowhere else. pg_resetwal keeps the one it finds,
//! so the field is rewritten first, with the file's checksum; pg_resetwal then writes WAL that carries it.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crc::{CRC_32_ISCSI, Crc};

use crate::error::{Error, Result};
use crate::installation::Installation;
use crate::user::ServerUser;

/// PostgreSQL's CRC-32C (port/pg_crc32c.h).
const CRC32C: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// ControlFileData ends in its checksum and is under 512 bytes (PG_CONTROL_MAX_SAFE_SIZE, catalog/pg_control.h).
const MAX_SAFE_SIZE: usize = 512;

/// The server of `data` must not be running.
pub fn renew(installation: &Installation, user: &ServerUser, data: &Path) -> Result<()> {
    write(data, fresh())?;
    user.run(&installation.bindir.join("pg_resetwal"), [&"--force", &"--pgdata", &data])?;
    Ok(())
}

/// Writes an identifier into pg_control. The server of `data` must not be running, and starts again only after pg_resetwal: its WAL
/// still carries the former identifier.
///
/// # Errors
/// The file cannot be read or written, or is damaged or of an unknown layout.
pub fn write(data: &Path, identifier: u64) -> Result<()> {
    let path = data.join("global/pg_control");
    let mut control = fs::read(&path).map_err(Error::io("read", &path))?;
    set_identifier(&mut control, identifier).ok_or_else(|| Error::ControlFile(path.clone()))?;
    let file = fs::OpenOptions::new().write(true).open(&path);
    let written = file.and_then(|mut file| file.write_all(&control).and_then(|()| file.sync_all()));
    written.map_err(Error::io("write", &path))
}

/// None if no field of the file is the checksum of what precedes it.
fn set_identifier(control: &mut [u8], identifier: u64) -> Option<()> {
    let end = checksum_offset(control)?;
    control.get_mut(..8)?.copy_from_slice(&identifier.to_ne_bytes());
    let checksum = CRC32C.checksum(control.get(..end)?);
    control.get_mut(end..end + 4)?.copy_from_slice(&checksum.to_ne_bytes());
    Some(())
}

/// Found rather than known: the offset differs between majors, and a checksum that validates is proof.
fn checksum_offset(control: &[u8]) -> Option<usize> {
    (8..MAX_SAFE_SIZE.min(control.len()).saturating_sub(3))
        .step_by(4)
        .find(|&offset| control[offset..offset + 4] == CRC32C.checksum(&control[..offset]).to_ne_bytes())
}

/// An identifier that no other server has: seconds, as initdb does (BootStrapXLOG in xlog.c), then process id and a counter: distinct within a process and, in practice, between them.
pub fn fresh() -> u64 {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_secs());
    let process = u64::from(std::process::id()) & 0xf_ffff;
    (seconds << 32) | (process << 12) | (COUNTER.fetch_add(1, Ordering::Relaxed) & 0xfff)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control_file(checksum_at: usize) -> Vec<u8> {
        let mut file: Vec<u8> = (0..8192).map(|i| if i < checksum_at { (i * 7 % 251) as u8 } else { 0 }).collect();
        let checksum = CRC32C.checksum(&file[..checksum_at]);
        file[checksum_at..checksum_at + 4].copy_from_slice(&checksum.to_ne_bytes());
        file
    }

    #[test]
    fn the_checksum_is_found_wherever_a_major_puts_it_and_stays_valid() {
        for offset in [288, 292, 296] {
            let mut file = control_file(offset);
            assert_eq!(checksum_offset(&file), Some(offset));
            assert_eq!(set_identifier(&mut file, 42), Some(()));
            assert_eq!(file[..8], 42u64.to_ne_bytes());
            assert_eq!(checksum_offset(&file), Some(offset));
        }
    }

    #[test]
    fn a_damaged_file_is_refused() {
        let mut file = control_file(288);
        file[100] ^= 1;
        assert_eq!(set_identifier(&mut file, 42), None);
        assert_eq!(set_identifier(&mut [], 42), None);
    }

    #[test]
    fn identifiers_differ_and_fit_a_bigint() {
        let (a, b) = (fresh(), fresh());
        assert_ne!(a, b);
        assert!(a < i64::MAX as u64 && b < i64::MAX as u64);
    }
}
