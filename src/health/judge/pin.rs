//! The check of a snapshot that this node holds for the rebuild of another one (pure).

use super::{Check, Status, check};
use crate::quoted::literal;

/// A pin that holds back VACUUM for longer than this deserves a look (an hour).
const LONG_S: u64 = 3_600;

/// A pin.
#[derive(Clone, Debug)]
pub struct PinHealth {
    pub target: String,
    pub intent: String,
    pub held_for_s: u64,
    /// For how long the target has not said that its rebuild is unfinished, if that is too long.
    pub silent_for_s: Option<u64>,
    /// How many transactions have begun since the snapshot was taken.
    pub age: u32,
    /// After so much silence the snapshot is released.
    pub limit_s: u64,
}

pub fn pin(facts: &PinHealth) -> Check {
    let named = format!(
        "a snapshot is held for the rebuild of node \"{}\" (intent {}) since {} s and {} transactions",
        facts.target, facts.intent, facts.held_for_s, facts.age
    );
    let release = format!("to release it now, SELECT spock_internal.release_pin({})", literal(&facts.intent));
    let (status, details) = match facts.silent_for_s {
        Some(silent) => (
            Status::Warning,
            format!(
                "{named}; the node is silent since {silent} s; the snapshot is released after {} s of silence \
                 (spock.rebuild_pin_silence); {release}",
                facts.limit_s
            ),
        ),
        None if facts.held_for_s > LONG_S => {
            (Status::Warning, format!("{named}; VACUUM removes no row that has died since; {release}"))
        }
        None => (Status::Healthy, named),
    };
    check("rebuild_pin", status, details)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_a_warning_when_it_is_old_or_its_target_is_silent() {
        let facts = PinHealth {
            target: "n2".to_owned(),
            intent: "i".to_owned(),
            held_for_s: 3_600,
            silent_for_s: None,
            age: 7,
            limit_s: 600,
        };
        assert_eq!(pin(&facts).status, Status::Healthy);
        let old = pin(&PinHealth { held_for_s: 3_601, ..facts.clone() });
        assert_eq!((old.status, old.details.contains("release_pin('i')")), (Status::Warning, true));
        let silent = pin(&PinHealth { silent_for_s: Some(61), ..facts });
        assert_eq!((silent.status, silent.details.contains("silent since 61 s")), (Status::Warning, true));
    }
}
