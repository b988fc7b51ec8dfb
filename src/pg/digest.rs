//! Cryptographic hashes (utils/adt/cryptohashfuncs.c).

use pgrx::{IntoDatum, direct_function_call, pg_sys};

/// SHA-256 of a text in UTF-8, in hexadecimal digits. What it takes of PostgreSQL's memory stays in the current context.
pub fn sha256(text: &str) -> String {
    sha256_of(text.as_bytes())
}

/// The same of any bytes.
pub fn sha256_of(bytes: &[u8]) -> String {
    // SAFETY: sha256_bytea takes and returns a value of type bytea.
    let digest: Option<Vec<u8>> = unsafe { direct_function_call(pg_sys::sha256_bytea, &[bytes.into_datum()]) };
    digest.unwrap_or_default().iter().map(|byte| format!("{byte:02x}")).collect()
}
