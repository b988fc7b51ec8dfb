//! Random numbers (port/pg_strong_random.c).

use pgrx::pg_sys;

/// Sixteen bytes that nobody can foretell.
pub fn bytes() -> [u8; 16] {
    let mut bytes = [0_u8; 16];
    // SAFETY: writes the bytes given.
    if !unsafe { pg_sys::pg_strong_random(bytes.as_mut_ptr().cast(), bytes.len()) } {
        pgrx::error!("could not generate random values");
    }
    bytes
}
