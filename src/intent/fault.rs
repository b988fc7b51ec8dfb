//! What a failed attempt is to be blamed on, and what mends it (pure).
//!
//! Giving a transaction up loses what it held. So it is proposed only where the transaction itself is at fault: not where the
//! server lacked something, was stopped, or somebody held a lock, for then the same transaction can be applied later.

use super::document::Failure;

/// By classes of SQLSTATEs (errcodes.txt): what is not the transaction's fault, and what mends it.
const NOT_ITS_FAULT: [(&str, &str); 9] = [
    ("08", "See SELECT * FROM spock.peer_status(); and the log of that node."),
    ("25", "Look for what ends transactions of its own accord on the target: triggers that set time limits, jobs."),
    ("40", "It is tried again by itself."),
    ("53", "Give the target what it lacks: room on its disks, memory, connections; its log says which."),
    (
        "55",
        "End or wait for what is in the way: SELECT * FROM spock.recovery_progress; and pg_locks name it; or mend the object that is not usable.",
    ),
    ("57", "Look for who ends processes of the target or stops it: its log says when."),
    ("58", "Mend what the target's log says of its files or its operating system."),
    ("F0", "Mend the server's configuration file."),
    (
        "XX",
        "The target's log has the server's own message: a damaged index or table, or a fault of a function written in C.",
    ),
];

/// ERRCODE_T_R_SERIALIZATION_FAILURE, which src/apply/change.rs raises where spock.rescue_conflict_resolution is "error".
const CONFLICT: &str = "40001";

/// The transaction at hand cannot be applied as it is, whatever becomes of the server.
pub fn is_transactions(failure: &Failure) -> bool {
    failure.origin_lsn.is_some() && advice(failure).is_none()
}

/// What mends a failure that is not the transaction's.
pub fn advice(failure: &Failure) -> Option<&'static str> {
    let class = failure.sqlstate.get(..2)?;
    // A conflict at which the recovery is told to wait has core's code for it. Beside that it is seen only where a row has moved
    // to another partition meanwhile, and then the next attempt finds it there.
    if failure.sqlstate == CONFLICT {
        return None;
    }
    NOT_ITS_FAULT.iter().find(|(known, _)| *known == class).map(|(_, advice)| *advice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lsn::OriginLsn;

    fn failure(sqlstate: &str) -> Failure {
        Failure {
            sqlstate: sqlstate.to_owned(),
            reason: String::new(),
            relation: None,
            origin_lsn: Some(OriginLsn(1)),
            at: 0,
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
        for sqlstate in ["23505", "23514", "22P02", "22001", "40001", "42P01", "54000", "P0001", "0A000"] {
            assert!(is_transactions(&failure(sqlstate)), "{sqlstate}");
            assert_eq!(advice(&failure(sqlstate)), None, "{sqlstate}");
        }
    }

    #[test]
    fn where_no_transaction_was_at_hand_none_is_at_fault() {
        assert!(!is_transactions(&Failure { origin_lsn: None, ..failure("23505") }));
    }
}
