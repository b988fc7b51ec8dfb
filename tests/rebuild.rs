//! Rebuild: what the source does for it, and the copy of a table, on real servers.
//!
//! n3 is the source, n2 the target.

mod copied;
mod copy;
mod kills;
mod kinds;
mod pin;
mod pin_life;
mod run;
mod some;

use crate::cluster::{Node, Session, SqlError};

/// An intent, by a digit.
fn intent(digit: u32) -> String {
    format!("{digit:08}-0000-4000-8000-000000000000")
}

/// The call that pins tables for n2.
fn pin_call(intent: &str, tables: &str, more: &str) -> String {
    format!("SELECT spock_internal.pin_tables('{intent}', 'n2', ARRAY[{tables}]{more})")
}

/// A pin as it was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pin {
    text: String,
}

impl Pin {
    fn take(node: &Node, intent: &str, tables: &str) -> Pin {
        Pin { text: node.value(&pin_call(intent, tables, "")) }
    }

    /// A value of the answer, by its path.
    fn get(&self, node: &Node, path: &str) -> String {
        node.value(&format!("SELECT '{}'::jsonb #>> '{{{path}}}'", self.text.replace('\'', "''")))
    }

    /// A session of the source that has imported the snapshot.
    fn session<'a>(&self, node: &'a Node) -> Session<'a> {
        let mut session = node.session();
        self.import(node, &mut session).expect("the snapshot is held");
        session
    }

    fn import(&self, node: &Node, session: &mut Session<'_>) -> Result<(), SqlError> {
        let snapshot = self.get(node, "snapshot");
        session.sql("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
        session.try_sql(&format!("SET TRANSACTION SNAPSHOT '{snapshot}'")).map(|_| ())
    }
}

fn release(node: &Node, intent: &str) -> bool {
    node.value(&format!("SELECT spock_internal.release_pin('{intent}')")) == "t"
}

const PINS: &str = "SELECT count(*) FROM spock_internal.pins()";

/// Nobody asks the targets: pins are over only by themselves.
fn no_polls(node: &Node) {
    node.set(&[("spock.recovery_poll_interval", "1h")]);
    // The reload itself wakes them once more.
    node.wait_until(
        "SELECT bool_and(state = 'idle' AND state_change > pg_conf_load_time()) FROM pg_stat_activity
          WHERE backend_type = 'spock_recovery poller'",
        "t",
    );
}
