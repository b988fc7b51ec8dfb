//! The check of unfinished recoveries whose target is this node (pure).

use super::{Check, Status, check};

/// An unfinished recovery whose target is this node.
#[derive(Clone, Debug)]
pub struct RecoveryHealth {
    /// What it is: `recovery of node "n1"`.
    pub title: String,
    /// The call that ends it.
    pub abort: String,
    pub intent: String,
    pub phase: &'static str,
    /// Why the recovery is waiting.
    pub failure: Option<String>,
    /// The holder of the lock for which the recovery is waiting at this moment.
    pub blocked_by: Option<String>,
}

pub fn recovery(unfinished: &[RecoveryHealth]) -> Check {
    let name = "recovery";
    let named = |facts: &RecoveryHealth| format!("{} (intent {}), at phase {}", facts.title, facts.intent, facts.phase);
    match unfinished {
        [] => check(name, Status::Healthy, "none is unfinished"),
        [one] => match &one.failure {
            _ if one.blocked_by.is_some() => check(
                name,
                Status::Warning,
                format!("{}: waits for a lock: {}", named(one), one.blocked_by.as_deref().unwrap_or_default()),
            ),
            None => check(name, Status::Healthy, named(one)),
            Some(failure) => check(
                name,
                Status::Warning,
                format!("{}: {failure}; it continues when the cause is fixed; to end it, {}", named(one), one.abort),
            ),
        },
        several => check(
            name,
            Status::Critical,
            format!(
                "{} are unfinished where one is expected, and none is resumed: {}; end those that are not to continue \
                 with CALL spock.recover_abort('…') or CALL spock.rebuild_abort()",
                several.len(),
                several.iter().map(named).collect::<Vec<_>>().join("; ")
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unfinished_recovery_is_a_warning_when_it_waits_and_several_are_critical() {
        let running = RecoveryHealth {
            title: "recovery of node \"n'1\"".to_owned(),
            abort: "CALL spock.recover_abort('n''1');".to_owned(),
            intent: "i".to_owned(),
            phase: "replaying",
            failure: None,
            blocked_by: None,
        };
        assert_eq!(recovery(&[]).status, Status::Healthy);
        let verdict = recovery(std::slice::from_ref(&running));
        assert_eq!((verdict.status, verdict.details.contains("at phase replaying")), (Status::Healthy, true));
        let waiting = RecoveryHealth { failure: Some("no such table (SQLSTATE 42P01)".to_owned()), ..running.clone() };
        let verdict = recovery(std::slice::from_ref(&waiting));
        assert_eq!(verdict.status, Status::Warning);
        for part in ["SQLSTATE 42P01", "CALL spock.recover_abort('n''1')"] {
            assert!(verdict.details.contains(part), "{}", verdict.details);
        }
        let who = Some("process 7".to_owned());
        let verdict = recovery(&[RecoveryHealth { blocked_by: who, ..running.clone() }]);
        assert_eq!((verdict.status, verdict.details.contains("waits for a lock: process 7")), (Status::Warning, true));
        let verdict = recovery(&[running, waiting]);
        assert_eq!(verdict.status, Status::Critical);
        assert!(verdict.details.starts_with("2 are unfinished"), "{}", verdict.details);
    }
}
