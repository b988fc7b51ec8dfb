//! recover_failed_node() while whoever has to do with it is killed: called again or not, every survivor ends recovered.
//!
//! n2 and n4 lag, n4 calls, n3 is the source; n2 stands at a step when somebody is killed.

use super::mesh_of;
use super::rounds::{Failure, Rounds};
use crate::cluster::{Action, Node};
use crate::failpoint_names as names;
use spock_recovery_cluster::deadline;
use std::thread;
use std::time::Duration;

const CALL: &str = "CALL spock.recover_failed_node('n1')";

/// Only a failing test waits that long.
const LIMIT: Duration = Duration::from_secs(150);

#[derive(Clone, Copy, Debug)]
enum Victim {
    /// The session on n4 that has called.
    Session,
    /// n4, which is a target too.
    Coordinator,
    /// n2.
    Target,
}

fn kill(victim: Victim, n2: &Node, n4: &Node, step: &str) {
    match victim {
        Victim::Session => n4.sql(
            "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity
              WHERE query LIKE 'CALL spock.recover_failed_node%' AND pid <> pg_backend_pid()",
        ),
        Victim::Coordinator => {
            n4.kill9();
            n4.start();
        }
        Victim::Target => {
            n2.kill9();
            n2.disarm(step);
            n2.start();
        }
    }
}

/// As a person would who has lost his session, or reads that one of the survivors could not be recovered.
fn call_again(n4: &Node) {
    let mut last = String::new();
    let done = deadline::poll(LIMIT, || n4.try_sql(CALL).map_err(|error| last = error.to_string()).ok());
    assert!(done.is_some(), "not recovered: {last}");
}

#[test]
fn whoever_is_killed_at_whatever_step_all_survivors_are_recovered_even_if_nobody_calls_again() {
    let cluster = mesh_of("recover_kill_all", 4);
    let mut rounds = Rounds::of(&cluster);
    let [_, n2, _, n4] = cluster.all();
    for (step, victim, is_repeated) in [
        (names::RESCUE_CLONE_MADE, Victim::Session, false),
        (names::RESCUE_CLAIMED, Victim::Coordinator, true),
        (names::RESCUE_SUSPENDED, Victim::Target, false),
        (names::RESCUE_BEFORE_COMMIT, Victim::Coordinator, false),
        (names::RESCUE_AFTER_COMMIT, Victim::Target, true),
        (names::RESCUE_REPLAYED, Victim::Session, true),
        (names::RESCUE_ORIGIN_SET, Victim::Target, false),
        (names::RESCUE_RESUMED, Victim::Session, false),
        (names::RESCUE_COMPLETED, Victim::Coordinator, true),
    ] {
        rounds.fail(&["n2", "n4"], Failure::Dies);
        let now = n4.value("SELECT clock_timestamp()");
        n2.arm(step, Action::Wait);
        thread::scope(|scope| {
            let caller = scope.spawn(|| n4.try_sql(CALL));
            n2.wait_hit(step);
            // Nobody but the caller knows of a recovery that has not begun yet.
            n4.wait_until(&format!("SELECT count(*) > 0 FROM spock.recovery_intents() WHERE begun_at > '{now}'"), "t");
            kill(victim, n2, n4, step);
            n2.disarm(step);
            // It may have failed: that is what is survived.
            let _ = caller.join().expect("the thread ends");
        });
        if is_repeated {
            call_again(n4);
        }
        for target in [n2, n4] {
            target.wait_until(
                &format!("SELECT DISTINCT phase FROM spock.recovery_intents() WHERE begun_at > '{now}'"),
                "completed",
            );
        }
        println!("{victim:?} at {step}, repeated: {is_repeated}");
        rounds.assert_recovered();
        rounds.come_back(Failure::Dies);
    }
}
