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

/// A number that cannot be predicted, and is not zero.
pub fn number() -> u64 {
    bytes()[..8].iter().fold(0, |number, byte| number << 8 | u64::from(*byte)).max(1)
}
