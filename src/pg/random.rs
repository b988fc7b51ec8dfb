//! Random numbers (port/pg_strong_random.c).

use pgrx::pg_sys;

/// Sixteen bytes that cannot be predicted.
pub fn bytes() -> [u8; 16] {
    let mut bytes = [0_u8; 16];
    // SAFETY: writes only the given bytes.
    if !unsafe { pg_sys::pg_strong_random(bytes.as_mut_ptr().cast(), bytes.len()) } {
        pgrx::error!("could not generate random values");
    }
    bytes
}
