//! Hashes (utils/adt/cryptohashfuncs.c, common/hashfn.h).

use pgrx::{IntoDatum, direct_function_call, pg_sys};

unsafe extern "C" {
    /// common/hashfn.h; it raises nothing.
    fn hash_bytes_extended(bytes: *const u8, length: core::ffi::c_int, seed: u64) -> u64;
}

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

/// A hash of 64 bits of the bytes and of what was hashed before, `seed`. It finds accidents, not intent.
pub fn hash(bytes: &[u8], seed: u64) -> u64 {
    const MOST: usize = 1 << 30;
    // SAFETY: the pieces are as long as is said.
    bytes
        .chunks(MOST)
        .fold(seed, |seed, piece| unsafe { hash_bytes_extended(piece.as_ptr(), piece.len() as core::ffi::c_int, seed) })
}
