//! The recovery slot's name (pure).

/// `NAMEDATALEN - 1`. A slot's name has at most 63 bytes, and only a-z, 0-9 and underscore (replication/slot.c).
pub(super) const MAX_BYTES: usize = 63;

pub(super) const PREFIX: &str = "spk_recovery_";

/// The bytes of the suffix that distinguishes a changed name from others: `_` and a hash of eight hexadecimal digits.
const SUFFIX_BYTES: usize = 9;

/// `spk_recovery_<database>` if that is a legal name; else a legal one that a short hash of the whole name makes
/// unique.
pub fn recovery_slot_name(database: &str) -> String {
    format!("{PREFIX}{}", fitted(database, MAX_BYTES - PREFIX.len()))
}

/// The database's name as a part of a slot's name, in at most `room` bytes.
pub(super) fn fitted(database: &str, room: usize) -> String {
    if database.len() <= room && database.bytes().all(is_legal) {
        database.to_owned()
    } else {
        distinguished(database, 0, room)
    }
}

/// Another name for the recovery slot of the same database, for `attempt` 1, 2 and so on. It is used if a foreign slot
/// has the first name: a renamed database has kept its slot, for example.
pub fn other_slot_name(database: &str, attempt: u32) -> String {
    format!("{PREFIX}{}", distinguished(database, attempt, MAX_BYTES - PREFIX.len()))
}

fn distinguished(database: &str, attempt: u32, room: usize) -> String {
    let legal: String = database
        .chars()
        .map(|letter| letter.to_ascii_lowercase())
        .map(|letter| if letter.is_ascii() && is_legal(letter as u8) { letter } else { '_' })
        .take(room - SUFFIX_BYTES)
        .collect();
    format!("{legal}_{:08x}", hash(database, attempt))
}

pub(super) fn is_legal(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_'
}

/// FNV-1a, written out because the name must never change, whatever the standard library's hasher becomes.
fn hash(database: &str, attempt: u32) -> u32 {
    let more = if attempt > 0 { attempt.to_le_bytes().to_vec() } else { Vec::new() };
    database.bytes().chain(more).fold(2_166_136_261, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(16_777_619))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_ordinary_database_has_its_own_name_in_the_slot() {
        assert_eq!(recovery_slot_name("demo"), "spk_recovery_demo");
        assert_eq!(recovery_slot_name(&"x".repeat(50)), format!("spk_recovery_{}", "x".repeat(50)));
    }

    #[test]
    fn names_that_sanitize_alike_stay_apart() {
        let names = ["a_b", "a-b", "a.b", "A_B", "a b", "ä_b", "a\"b"].map(recovery_slot_name);
        for (index, name) in names.iter().enumerate() {
            assert!(!names[..index].contains(name), "{name} twice");
        }
        let long = ["x".repeat(63), format!("{}y", "x".repeat(62))].map(|name| recovery_slot_name(&name));
        assert_ne!(long[0], long[1]);
    }

    #[test]
    fn the_name_of_a_database_never_changes() {
        assert_eq!(recovery_slot_name("Sales"), "spk_recovery_sales_2ed1f157");
    }

    proptest! {
        #[test]
        fn every_database_name_gives_a_legal_slot_name(database in "\\PC{1,63}", attempt in 0u32..4) {
            for name in [recovery_slot_name(&database), other_slot_name(&database, attempt)] {
                prop_assert!(name.len() <= MAX_BYTES && name.bytes().all(is_legal), "{}", name);
                prop_assert!(name.starts_with(PREFIX));
            }
        }
    }
}
