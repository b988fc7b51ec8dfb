//! Hashes: cryptographic ones (utils/adt/cryptohashfuncs.c), and quick ones (common/hashfn.h).

use pgrx::{IntoDatum, direct_function_call, pg_sys};

/// The SHA-256 of a text in UTF-8, in hexadecimal digits. Allocates in the current memory context.
pub fn sha256(text: &str) -> String {
    sha256_of(text.as_bytes())
}

/// Like [`sha256`], for any bytes.
pub fn sha256_of(bytes: &[u8]) -> String {
    // SAFETY: sha256_bytea takes and returns a value of type bytea.
    let digest: Option<Vec<u8>> = unsafe { direct_function_call(pg_sys::sha256_bytea, &[bytes.into_datum()]) };
    digest.unwrap_or_default().iter().map(|byte| format!("{byte:02x}")).collect()
}

unsafe extern "C" {
    /// Not in pgrx's bindings. It computes, and never raises an ERROR.
    fn hash_bytes_extended(bytes: *const u8, length: core::ffi::c_int, seed: u64) -> u64;
}

/// A quick hash of 64 bits. All majors compute the same one, because hash partitioning depends on it.
pub fn quick(bytes: &[u8], seed: i64) -> i64 {
    // No value in PostgreSQL is longer than 1 GB.
    let length = core::ffi::c_int::try_from(bytes.len()).unwrap_or(core::ffi::c_int::MAX);
    // SAFETY: reads so many bytes.
    unsafe { hash_bytes_extended(bytes.as_ptr(), length, seed.cast_unsigned()) }.cast_signed()
}
