//! What a failed attempt is to be blamed on, and what remedies it (pure).
//!
//! Giving a transaction up loses what it held. So this is proposed only if the transaction itself is at fault, not if
//! the server lacked something or was stopped, or if another session held a lock: then the same transaction can be
//! applied later.

use super::document::Failure;

/// Classes of SQLSTATEs (errcodes.txt) for which the transaction is not at fault, each with the remedy.
const NOT_ITS_FAULT: [(&str, &str); 10] = [
    ("08", "See SELECT * FROM spock.peer_status(); and the log of that node."),
    ("25", "Look for triggers or jobs on the target that end transactions, for example by setting timeouts."),
    ("40", "It is retried automatically."),
    ("53", "Give the target the resource that it lacks (disk space, memory or connections); its log says which."),
    (
        "55",
        "End the session that the error names, or wait for it; while an attempt runs, SELECT * FROM \
         spock.recovery_progress; and pg_locks show it. Or repair the object that is not usable.",
    ),
    ("57", "Find out who ends processes of the target or stops it; its log says when."),
    ("58", "Repair the problem with files or the operating system that the target's log reports."),
    ("F0", "Correct the server's configuration file."),
    ("XX001", "Repair the damaged table; the target's log names it."),
    ("XX002", "REINDEX what the target's log names."),
];

/// ERRCODE_T_R_SERIALIZATION_FAILURE, which src/apply/change.rs raises if spock.rescue_conflict_resolution is "error".
const CONFLICT: &str = "40001";

/// ERRCODE_LOCK_NOT_AVAILABLE: a lock was not granted in time.
pub const LOCK: &str = "55P03";

/// Classes of SQLSTATEs for which the fault lies in what the transaction holds.
const ITS_FAULT: [&str; 11] = ["0A", "21", "22", "23", "27", "2F", "38", "39", "44", "54", "P0"];

/// Single SQLSTATEs of that kind: an internal error, which some functions raise for a row that is larger than a message
/// may be; a column of another type; a conflict.
const ITS_FAULT_TOO: [&str; 3] = ["XX000", "42804", CONFLICT];

/// Whether the transaction cannot be applied as it is, whatever becomes of the server: giving it up is an answer, and
/// may be the only one. Missing resources, locks, privileges and tables, and lost connections, are remedied instead.
pub fn is_transactions(failure: &Failure) -> bool {
    let sqlstate = failure.sqlstate.as_str();
    failure.origin_lsn.is_some()
        && (ITS_FAULT_TOO.contains(&sqlstate) || ITS_FAULT.iter().any(|class| sqlstate.starts_with(class)))
}

/// Whether another session held a lock for longer than an attempt waits.
pub fn is_lock(failure: &Failure) -> bool {
    failure.sqlstate == LOCK
}

/// Whether a person has to do something before another attempt can get further.
pub fn must_be_mended(failure: &Failure) -> bool {
    failure.origin_lsn.is_some() && advice(failure).is_none()
}

/// Returns the remedy for a failure that is not the transaction's fault and may pass by itself; None for any other.
pub fn advice(failure: &Failure) -> Option<&'static str> {
    // A conflict at which the recovery is told to wait has this code, which is core's. Otherwise the code occurs only
    // if a row has moved to another partition in the meantime, and then the next attempt finds the row there.
    if failure.sqlstate == CONFLICT {
        return None;
    }
    NOT_ITS_FAULT.iter().find(|(known, _)| failure.sqlstate.starts_with(known)).map(|(_, advice)| *advice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lsn::OriginLsn;
    use crate::pg::clock::Timestamp;

    fn failure(sqlstate: &str) -> Failure {
        Failure {
            sqlstate: sqlstate.to_owned(),
            reason: String::new(),
            relation: None,
            column: None,
            constraint: None,
            origin_lsn: Some(OriginLsn(1)),
            at: Timestamp(0),
        }
    }

    #[test]
    fn what_the_server_lacked_or_others_did_is_no_fault_of_the_transaction() {
        for sqlstate in ["08006", "25P04", "40P01", "53100", "53400", "55P03", "57P01", "58030", "XX001"] {
            assert!(!is_transactions(&failure(sqlstate)), "{sqlstate}");
            assert!(advice(&failure(sqlstate)).is_some(), "{sqlstate}");
        }
    }

    #[test]
    fn a_row_that_a_constraint_a_type_or_a_trigger_refuses_is() {
        for sqlstate in ["23505", "23514", "22P02", "22001", "40001", "42804", "54000", "P0001", "0A000", "XX000"] {
            assert!(is_transactions(&failure(sqlstate)), "{sqlstate}");
            assert_eq!(advice(&failure(sqlstate)), None, "{sqlstate}");
            assert!(must_be_mended(&failure(sqlstate)), "{sqlstate}");
        }
    }

    #[test]
    fn a_missing_table_or_privilege_is_mended_and_not_given_up() {
        for sqlstate in ["42P01", "42501", "42703", "3F000", "28000"] {
            assert!(!is_transactions(&failure(sqlstate)), "{sqlstate}");
            assert!(must_be_mended(&failure(sqlstate)), "{sqlstate}");
        }
    }

    #[test]
    fn a_lock_is_no_other_thing_that_is_in_use() {
        assert!(is_lock(&failure("55P03")));
        for sqlstate in ["55006", "40P01", "57014", "53100"] {
            assert!(!is_lock(&failure(sqlstate)), "{sqlstate}");
        }
    }

    #[test]
    fn where_no_transaction_was_at_hand_none_is_at_fault() {
        assert!(!is_transactions(&Failure { origin_lsn: None, ..failure("23505") }));
    }
}
