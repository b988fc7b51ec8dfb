//! What a session that watches a recovery is to do about its state (pure).
//!
//! The state comes as JSON from the target, which may run another version: what it does not tell counts as not so.

use crate::lsn::OriginLsn;
use crate::quoted::literal;
use serde::Serialize;
use serde_json::Value;

/// Failed attempts in a row after which a caller is not kept waiting: the recovery continues by itself.
const ATTEMPTS_TO_WAIT: u32 = 5;

/// The class of SQLSTATEs of lost connections (errcodes.txt, "Connection Exception").
const CONNECTION_EXCEPTION: &str = "08";

/// What is read of a recovery's state.
#[derive(Clone, Debug, Default)]
pub struct WatchedState {
    failed_node: String,
    waiting: bool,
    must_be_mended: bool,
    is_transactions_fault: bool,
    failures: u32,
    error_sqlstate: Option<String>,
    error_lsn: Option<OriginLsn>,
    advice: Option<String>,
}

/// What follows from it, added to the state as `watch`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct WatchAdvice {
    /// It waits, and trying again alone does not help.
    pub waits_for_a_person: bool,
    /// It waits, and was tried so often that the caller is told instead of kept waiting.
    pub was_tried_often: bool,
    /// It waits for a source that does not answer.
    pub waits_for_source: bool,
    /// What to type where it waits for a person, and where it was tried often.
    pub mend_hint: String,
    pub retry_hint: String,
}

impl WatchedState {
    /// Reads each field by itself: one of another type counts as not told, and costs no other.
    pub fn of(state: &Value) -> WatchedState {
        let text = |field: &str| state[field].as_str().map(str::to_owned);
        let holds = |field: &str| state[field].as_bool().unwrap_or(false);
        WatchedState {
            failed_node: text("failed_node").unwrap_or_default(),
            waiting: holds("waiting"),
            must_be_mended: holds("must_be_mended"),
            is_transactions_fault: holds("is_transactions_fault"),
            failures: state["failures"].as_u64().map_or(0, |failures| u32::try_from(failures).unwrap_or(u32::MAX)),
            error_sqlstate: text("error_sqlstate"),
            error_lsn: text("error_lsn").and_then(|lsn| lsn.parse().ok()),
            advice: text("advice"),
        }
    }

    pub fn advice(&self) -> WatchAdvice {
        let failed = literal(&self.failed_node);
        let abort = format!("CALL spock.recover_abort({failed});");
        let skipped = self.error_lsn.filter(|_| self.is_transactions_fault);
        let mend_hint = match skipped {
            Some(lsn) => format!(
                "Fix the cause and CALL again to watch; or on the target: SELECT spock.recover_skip({failed}, \
                 '{lsn}'); skips that transaction, {abort} ends the recovery."
            ),
            None => format!("Fix the cause and CALL again to watch; {abort} on the target ends the recovery."),
        };
        let advice = self.advice.as_ref().map_or(String::new(), |advice| format!("{advice} "));
        let retry_hint = format!(
            "{advice}CALL again to watch, or with another source_node_name. On the target, {abort} ends the recovery."
        );
        let is_lost = self.error_sqlstate.as_ref().is_some_and(|code| code.starts_with(CONNECTION_EXCEPTION));
        WatchAdvice {
            waits_for_a_person: self.waiting && self.must_be_mended,
            was_tried_often: self.waiting && self.failures >= ATTEMPTS_TO_WAIT,
            waits_for_source: self.waiting && is_lost,
            mend_hint,
            retry_hint,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(sqlstate: &str) -> WatchedState {
        WatchedState {
            failed_node: "n1".to_owned(),
            waiting: true,
            error_sqlstate: Some(sqlstate.to_owned()),
            ..WatchedState::default()
        }
    }

    #[test]
    fn a_caller_is_told_at_the_fifth_failure_and_only_while_the_recovery_waits() {
        for (failures, expected) in [(0, false), (4, false), (5, true), (50, true)] {
            let state = WatchedState { failures, ..waiting("55P03") };
            assert_eq!(state.advice().was_tried_often, expected, "{failures}");
            let running = WatchedState { waiting: false, ..state };
            assert!(!running.advice().was_tried_often, "{failures}");
        }
    }

    #[test]
    fn a_source_is_lost_where_the_connection_is() {
        for (sqlstate, expected) in
            [("08006", true), ("08001", true), ("57P01", false), ("XX000", false), ("0A000", false)]
        {
            assert_eq!(waiting(sqlstate).advice().waits_for_source, expected, "{sqlstate}");
        }
        let running = WatchedState { waiting: false, ..waiting("08006") };
        assert!(!running.advice().waits_for_source);
    }

    #[test]
    fn giving_a_transaction_up_is_proposed_only_where_it_is_at_fault_and_known() {
        let at = Some(OriginLsn(0x01b3_4a60));
        for (is_transactions_fault, error_lsn, expected) in
            [(true, at, true), (false, at, false), (true, None, false), (false, None, false)]
        {
            let state = WatchedState { is_transactions_fault, error_lsn, must_be_mended: true, ..waiting("23505") };
            let advice = state.advice();
            assert!(advice.waits_for_a_person);
            assert_eq!(advice.mend_hint.contains("SELECT spock.recover_skip('n1', '0/1B34A60');"), expected);
            assert!(advice.mend_hint.contains("CALL spock.recover_abort('n1');"));
        }
    }

    #[test]
    fn what_mends_it_comes_before_what_to_call() {
        let state = WatchedState { advice: Some("Make room.".to_owned()), ..waiting("53100") };
        assert_eq!(
            state.advice().retry_hint,
            "Make room. CALL again to watch, or with another source_node_name. On the target, CALL \
             spock.recover_abort('n1'); ends the recovery."
        );
        assert!(waiting("53100").advice().retry_hint.starts_with("CALL again"));
    }

    #[test]
    fn a_state_of_another_version_is_read_as_far_as_it_is_known() {
        let state = serde_json::json!({
            "failed_node": "n'1", "waiting": true, "failures": "many", "must_be_mended": null, "error_sqlstate": "08006",
            "error_lsn": "nowhere", "news": [1],
        });
        let advice = WatchedState::of(&state).advice();
        assert!(!advice.was_tried_often && !advice.waits_for_a_person && advice.waits_for_source);
        assert!(
            WatchedState::of(&serde_json::json!({ "waiting": true, "failures": 1_u64 << 40 })).advice().was_tried_often
        );
        assert!(advice.mend_hint.contains("CALL spock.recover_abort('n''1');"));
    }
}
