//! The names of the recovery slot's clones (pure): `spk_recovery_<database>_clone_<time>`.

use super::name::{MAX_BYTES, PREFIX, fitted};

const INFIX: &str = "_clone_";

/// YYYYMMDDhhmmss and six digits of microseconds: two calls get different names, and a person sees when each was made.
const TIME_BYTES: usize = 20;

const DAY_S: i64 = 86_400;

/// 2000-01-01, in days since 0000-03-01 (March is the first month of a year, so that a leap day is its last).
const EPOCH_DAYS: i64 = 730_425;

/// Days in 400 years.
const ERA_DAYS: i64 = 146_097;

/// The name of a clone made at this time (microseconds since 2000, UTC).
pub fn clone_name(database: &str, at: i64) -> String {
    let room = MAX_BYTES - PREFIX.len() - INFIX.len() - TIME_BYTES;
    format!("{PREFIX}{}{INFIX}{}", fitted(database, room), digits(at))
}

/// Whether `name` has the form of a clone's name, for whichever database: after a rename the database's slots keep
/// their names. Other slots may have such a name too, so the caller checks the plugin.
pub fn is_clone_name(name: &str) -> bool {
    name.strip_prefix(PREFIX)
        .and_then(|rest| rest.rsplit_once(INFIX))
        .is_some_and(|(_, time)| time.len() == TIME_BYTES && time.bytes().all(|byte| byte.is_ascii_digit()))
}

fn digits(at: i64) -> String {
    let (seconds, micros) = (at.div_euclid(1_000_000), at.rem_euclid(1_000_000));
    let (days, second) = (seconds.div_euclid(DAY_S), seconds.rem_euclid(DAY_S));
    let (year, month, day) = date(days);
    format!("{year:04}{month:02}{day:02}{:02}{:02}{:02}{micros:06}", second / 3600, second / 60 % 60, second % 60)
}

/// Year, month and day of a number of days since 2000-01-01 (Howard Hinnant, "chrono-Compatible Low-Level Date
/// Algorithms", civil_from_days).
fn date(days: i64) -> (i64, i64, i64) {
    let days = days + EPOCH_DAYS;
    let (era, day_of_era) = (days.div_euclid(ERA_DAYS), days.rem_euclid(ERA_DAYS));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::super::name::{is_legal, recovery_slot_name};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_clone_is_named_after_its_database_and_the_moment() {
        assert_eq!(clone_name("demo", 0), "spk_recovery_demo_clone_20000101000000000000");
        // 2026-11-20 12:43:00.000007 UTC.
        let at = 848_493_780_000_007;
        assert_eq!(clone_name("demo", at), "spk_recovery_demo_clone_20261120124300000007");
        // A leap day, and the last moment of a year.
        assert_eq!(date(59), (2000, 2, 29));
        assert_eq!(date(365), (2000, 12, 31));
        assert_eq!(date(36_524), (2099, 12, 31));
    }

    #[test]
    fn long_names_that_begin_alike_stay_apart() {
        let names = ["y", "z"].map(|end| clone_name(&format!("{}{end}", "x".repeat(40)), 7));
        assert_ne!(names[0], names[1]);
    }

    #[test]
    fn other_slots_are_no_clones() {
        for name in [
            "spk_recovery_demo",
            "spk_recovery_demo_clone_",
            "spk_recovery_demo_clone_2026112012430000000",
            "spk_recovery_demo_clone_2026112012430000000x",
            "my_demo_clone_20261120124300000007",
        ] {
            assert!(!is_clone_name(name), "{name}");
        }
    }

    proptest! {
        #[test]
        fn every_database_name_gives_legal_names_that_are_known_and_in_order(
            database in "\\PC{1,63}",
            at in 0_i64..3_000_000_000_000_000,
            later in 1_i64..1_000_000_000_000,
        ) {
            let (name, next) = (clone_name(&database, at), clone_name(&database, at + later));
            prop_assert!(name.len() <= MAX_BYTES && name.bytes().all(is_legal), "{}", name);
            prop_assert!(is_clone_name(&name));
            prop_assert!(name < next, "{} {}", name, next);
            prop_assert!(!is_clone_name(&recovery_slot_name(&database)));
        }
    }
}
