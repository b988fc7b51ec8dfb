//! Which lines of a server's log fail a test.
//!
//! Every ERROR, FATAL and PANIC, every crash of a process, every Rust panic and failed assertion does, except
//!  - what the test said it expects (`expect_log`), and errors that it received itself (`try_sql`);
//!  - what core logs about our workers that are ended in a wait for others (`ENDED_IN_A_WAIT`);
//!  - once the test has stopped, killed or paused something: what core logs about that, on any node (`AFTER_DISTURBANCE`).

/// Core's own lines about a server that is being stopped, started, killed or paused, and about a peer to which that happened.
const AFTER_DISTURBANCE: [&str; 26] = [
    // The server itself: postmaster.c, postgres.c, bgworker.c.
    "due to administrator command",
    "because of unexpected SIGQUIT signal",
    "because of crash of another server process",
    "due to immediate shutdown command",
    "due to unexpected postmaster exit",
    "the database system is starting up",
    "the database system is shutting down",
    "the database system is in recovery mode",
    "the database system is not yet accepting connections",
    "was terminated by signal 9",
    // A peer was connecting when the server was stopped: the words are the same as after authentication_timeout
    // (ProcessInterrupts() of postgres.c).
    "canceling authentication due to timeout",
    // A question to a node that was paused in the midst of it.
    "canceling statement due to statement timeout",
    // Its standbys: walreceiver.c, slotsync.c.
    "could not connect to the primary server",
    "replication slot synchronization worker",
    // Its peers: libpqwalreceiver.c, worker.c, tablesync.c.
    "could not connect to the publisher",
    "could not receive data from WAL stream",
    "could not send data to WAL stream",
    "could not start WAL streaming",
    "could not receive database system identifier",
    "could not identify system",
    "could not fetch table info",
    "could not receive list of publications",
    "server closed the connection unexpectedly",
    "terminating logical replication worker due to timeout",
    // A worker that came back sooner than its predecessor on the other side had gone: slot.c, origin.c.
    "is active for PID",
    "is already active for PID",
];

/// Core's words about a worker of ours that was ended while it waited for somebody, as stepping aside for DROP DATABASE
/// and the end of a peer do it.
/// The last is what the peer's backend says about a poller that ended so, or that gave up after spock.peer_timeout,
/// as on a machine that is busy.
const ENDED_IN_A_WAIT: [&str; 3] = [
    "terminating background worker \"spock_recovery poller\" due to administrator command",
    "terminating background worker \"spock_recovery slot worker\" due to administrator command",
    "connection to client lost",
];

/// Words before a message; the first one in a line is its level, for a message may quote others.
const LEVELS: [&str; 18] = [
    "LOG",
    "ERROR",
    "FATAL",
    "PANIC",
    "WARNING",
    "NOTICE",
    "INFO",
    "DEBUG",
    "DEBUG1",
    "DEBUG2",
    "DEBUG3",
    "DEBUG4",
    "DEBUG5",
    "DETAIL",
    "HINT",
    "CONTEXT",
    "STATEMENT",
    "QUERY",
];

/// The lines of `log` that fail the test.
pub fn unexpected<'log>(log: &'log str, expected: &[String], disturbed: bool) -> Vec<&'log str> {
    log.lines()
        .filter(|line| is_failure(line))
        .filter(|line| !ENDED_IN_A_WAIT.iter().any(|text| line.contains(text)))
        .filter(|line| !expected.iter().any(|text| line.contains(text.as_str())))
        .filter(|line| !(disturbed && AFTER_DISTURBANCE.iter().any(|text| line.contains(text))))
        .collect()
}

fn is_failure(line: &str) -> bool {
    match level(line) {
        Some("ERROR" | "FATAL" | "PANIC") => true,
        Some("LOG") => line.contains("was terminated by signal"),
        Some(_) => false,
        None => line.starts_with("TRAP:") || line.contains(" panicked at "),
    }
}

/// None for lines that are no message's first, which begin with a tab, and for what was written to stderr directly.
fn level(line: &str) -> Option<&'static str> {
    if !line.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let before = &line[..line.find(":  ")?];
    let word = before.rsplit(' ').next()?;
    LEVELS.into_iter().find(|level| *level == word)
}

#[cfg(test)]
mod tests {
    use super::unexpected;

    const ERROR: &str =
        "2026-11-20 09:48:00.000 UTC [12] client backend postgres ERROR:  relation \"t\" does not exist at character 8";
    const LOST: &str = "2026-11-20 09:48:00.000 UTC [13] logical replication apply worker postgres ERROR:  could not receive data from WAL stream: EOF";
    const QUOTED: &str = "2026-11-20 09:48:00.000 UTC [12] client backend postgres STATEMENT:  SELECT 'ERROR:  no'";
    const CRASH: &str = "2026-11-20 09:48:00.000 UTC [1] postmaster  LOG:  server process (PID 9) was terminated by signal 11: Segmentation fault";
    const RUST: &str = "thread '<unnamed>' panicked at src/lib.rs:1:1:";

    #[test]
    fn errors_crashes_and_panics_fail_a_test_and_quoted_errors_do_not() {
        let log = [ERROR, QUOTED, "\tERROR:  continued", CRASH, RUST].join("\n");
        assert_eq!(unexpected(&log, &[], true), [ERROR, CRASH, RUST]);
    }

    #[test]
    fn an_expected_text_excuses_its_own_line_only() {
        let log = [ERROR, CRASH].join("\n");
        assert_eq!(unexpected(&log, &["relation \"t\"".into()], false), [CRASH]);
    }

    #[test]
    fn a_lost_peer_is_excused_only_after_a_disturbance() {
        assert_eq!(unexpected(LOST, &[], false), [LOST]);
        assert!(unexpected(LOST, &[], true).is_empty());
    }
}
