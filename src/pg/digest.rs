//! Cryptographic hashes (utils/adt/cryptohashfuncs.c).

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
