//! What the manager does with a clone in one of its rounds (pure).

use crate::intent::document::CloneRecord;
use crate::shmem::TargetSays;
use std::time::Duration;

/// Why a clone is dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FateReason {
    /// The clone's target says that the recovery has ended, or that it knows of no such recovery.
    RecoveryEnded,
    /// The clone was made by hand, and no recovery has claimed it in time.
    Unclaimed,
    /// This database is no longer a node.
    NoNode,
}

/// What to do with a clone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// Keep the clone, and decide again after this time at the latest; None: when something else changes.
    Keep(Option<Duration>),
    /// Acquire and release the slot: it would soon exceed the server's limit on idle slots.
    Touch,
    Drop(FateReason),
    /// The slot no longer exists: remove its registration.
    Forget,
}

/// The replication slot of a clone, as it was seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlotSeen {
    pub is_active: bool,
    pub is_invalid: bool,
    /// For how long no process has had the slot acquired; None: unknown.
    pub idle_for: Option<Duration>,
}

/// The rules that are the same for all clones of a round.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rules {
    pub is_node: bool,
    /// How long an unclaimed clone is kept: spock.rescue_clone_ttl.
    pub ttl: Duration,
    /// After how much idle time a slot is touched; None: the server has no limit on idle slots.
    pub touch_after: Option<Duration>,
}

/// Decides about one clone. `slot`: None if the slot does not exist; `age`: time since the clone was made, or adopted.
pub fn fate(clone: &CloneRecord, slot: Option<SlotSeen>, says: TargetSays, age: Duration, rules: &Rules) -> Fate {
    let Some(slot) = slot else { return Fate::Forget };
    if slot.is_active {
        return Fate::Keep(None);
    }
    let left = rules.ttl.checked_sub(age).filter(|left| !left.is_zero());
    let touch = rules.touch_after.filter(|_| !slot.is_invalid);
    match (rules.is_node, clone.intent) {
        (false, _) => Fate::Drop(FateReason::NoNode),
        (true, Some(_)) if says == TargetSays::Ended => Fate::Drop(FateReason::RecoveryEnded),
        (true, None) if left.is_none() => Fate::Drop(FateReason::Unclaimed),
        (true, intent) => match (touch, slot.idle_for) {
            (Some(limit), Some(idle)) if idle >= limit => Fate::Touch,
            _ => Fate::Keep(left.filter(|_| intent.is_none()).into_iter().chain(touch).min()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::intent_id::IntentId;
    use crate::pg::clock::Timestamp;

    const S: Duration = Duration::from_secs(1);
    const RULES: Rules = Rules { is_node: true, ttl: Duration::from_secs(100), touch_after: None };
    const IDLE: SlotSeen = SlotSeen { is_active: false, is_invalid: false, idle_for: Some(Duration::from_secs(50)) };
    const SAYS: [TargetSays; 3] = [TargetSays::Nothing, TargetSays::Unfinished, TargetSays::Ended];

    fn clone(intent: Option<IntentId>) -> CloneRecord {
        CloneRecord { slot: "c".to_owned(), created_at: Timestamp(0), failed: None, target: None, intent }
    }

    fn claimed() -> CloneRecord {
        clone(Some(IntentId([7; 16])))
    }

    #[test]
    fn a_claimed_clone_goes_only_when_its_target_says_so_however_old_it_is() {
        for (says, expected) in
            SAYS.into_iter().zip([Fate::Keep(None), Fate::Keep(None), Fate::Drop(FateReason::RecoveryEnded)])
        {
            assert_eq!(fate(&claimed(), Some(IDLE), says, 10_000 * S, &RULES), expected, "{says:?}");
        }
    }

    #[test]
    fn an_unclaimed_clone_goes_when_its_time_is_over_and_not_before() {
        for (age, expected) in [
            (0, Fate::Keep(Some(100 * S))),
            (99, Fate::Keep(Some(S))),
            (100, Fate::Drop(FateReason::Unclaimed)),
            (101, Fate::Drop(FateReason::Unclaimed)),
        ] {
            assert_eq!(fate(&clone(None), Some(IDLE), TargetSays::Nothing, age * S, &RULES), expected, "{age}");
        }
    }

    #[test]
    fn what_is_in_use_stays_and_what_is_gone_is_forgotten_whatever_else_holds() {
        let active = SlotSeen { is_active: true, ..IDLE };
        for is_node in [true, false] {
            let rules = Rules { is_node, ..RULES };
            for clone in [clone(None), claimed()] {
                for says in SAYS {
                    assert_eq!(fate(&clone, Some(active), says, 10_000 * S, &rules), Fate::Keep(None));
                    assert_eq!(fate(&clone, None, says, 10_000 * S, &rules), Fate::Forget);
                }
            }
        }
    }

    #[test]
    fn where_there_is_no_node_every_clone_goes() {
        let rules = Rules { is_node: false, ..RULES };
        for clone in [clone(None), claimed()] {
            for says in SAYS {
                assert_eq!(fate(&clone, Some(IDLE), says, S, &rules), Fate::Drop(FateReason::NoNode));
            }
        }
    }

    #[test]
    fn an_idle_clone_is_touched_in_time_unless_it_is_lost() {
        let rules = |limit| Rules { touch_after: Some(limit), ..RULES };
        let now = |slot, limit| fate(&claimed(), Some(slot), TargetSays::Nothing, S, &rules(limit));
        assert_eq!(now(IDLE, 51 * S), Fate::Keep(Some(51 * S)));
        assert_eq!(now(IDLE, 50 * S), Fate::Touch);
        assert_eq!(now(SlotSeen { is_invalid: true, ..IDLE }, S), Fate::Keep(None));
        assert_eq!(now(SlotSeen { idle_for: None, ..IDLE }, S), Fate::Keep(Some(S)));
        // A clone whose recovery has ended is dropped even when it is due to be touched.
        assert_eq!(
            fate(&claimed(), Some(IDLE), TargetSays::Ended, S, &rules(S)),
            Fate::Drop(FateReason::RecoveryEnded)
        );
    }
}
