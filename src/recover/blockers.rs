//! The sessions of this server that hold a lock for which processes of a recovery wait (pg_blocking_pids). Their
//! queries are private and not repeated. Names are input of other users, and are quoted.

use crate::intent::document::{Intent, Phase};
use crate::pg::role;
use crate::quoted::identifier;
use pgrx::Spi;

/// A session that holds a lock, or is first in the queue for it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Blocker {
    /// Zero: a prepared transaction, which has no process.
    pub pid: i32,
    pub user: Option<String>,
    pub application: String,
    /// As in pg_stat_activity.
    pub state: Option<String>,
    /// When its present or last query began, as text.
    pub query_start: Option<String>,
    /// The relation that the lock is on; None: the lock is on a transaction.
    pub relation: Option<String>,
}

/// The most blockers that are named; the others are counted.
const NAMED: usize = 3;

/// Each blocker of a process that waits for a lock, once. If the process waits for another session's transaction, the
/// relation is that of the row that the process has locked meanwhile.
const QUESTION: &str = "
    SELECT DISTINCT ON (b.pid) b.pid::int4, a.usename::text, coalesce(a.application_name, ''), a.state, a.query_start::text,
           (SELECT l.relation::regclass::text FROM pg_locks l
             WHERE l.pid = w.pid AND l.relation IS NOT NULL AND l.database IN (0, (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()))
               AND (NOT l.granted OR l.locktype = 'tuple') ORDER BY l.granted LIMIT 1)
      FROM pg_stat_activity w CROSS JOIN LATERAL unnest(pg_blocking_pids(w.pid)) b(pid)
      LEFT JOIN pg_stat_activity a ON a.pid = b.pid
     WHERE w.wait_event_type = 'Lock'
       AND (w.pid = $1 OR $2 AND w.pid IN (SELECT s.pid FROM pg_stat_subscription s JOIN pg_subscription o ON o.oid = s.subid
                                            WHERE NOT o.subenabled AND o.subdbid = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())))
     ORDER BY b.pid";

/// The sessions for which a recovery waits. `carrier` is the process id of its rescue worker; while that suspends
/// subscriptions, the sessions that block the subscriptions' processes count too.
pub fn of(carrier: i32, intent: &Intent) -> Result<Vec<Blocker>, pgrx::spi::Error> {
    let suspends = intent.checkpoint.as_ref().is_some_and(|checkpoint| checkpoint.phase == Phase::Suspending);
    role::as_superuser(|| {
        Spi::connect(|client| {
            let rows = client.select(QUESTION, None, &[carrier.into(), suspends.into()])?;
            rows.map(|row| {
                Ok(Blocker {
                    pid: row.get(1)?.unwrap_or_default(),
                    user: row.get(2)?,
                    application: row.get::<String>(3)?.unwrap_or_default(),
                    state: row.get(4)?,
                    query_start: row.get(5)?,
                    relation: row.get(6)?,
                })
            })
            .collect()
        })
    })
}

/// The blockers in words, for roles that may see recoveries.
pub fn told(blockers: &[Blocker]) -> String {
    listed(blockers, |blocker| {
        let application = match blocker.application.as_str() {
            "" => String::new(),
            name => format!(", application {}", quoted(name)),
        };
        let state = match (&blocker.state, &blocker.query_start) {
            (Some(state), Some(start)) => format!(", {state}, query started {start}"),
            (Some(state), None) => format!(", {state}"),
            (None, _) => String::new(),
        };
        let relation = blocker
            .relation
            .as_ref()
            .map_or_else(String::new, |name| format!(", relation {}", name.replace(char::is_control, " ")));
        format!("{}{application}{state}{relation}", named(blocker))
    })
}

/// The blockers in words, for everybody: core shows processes and their users to all roles.
pub fn told_to_all(blockers: &[Blocker]) -> String {
    listed(blockers, named)
}

fn listed(blockers: &[Blocker], tell: impl Fn(&Blocker) -> String) -> String {
    let mut text = blockers.iter().take(NAMED).map(tell).collect::<Vec<_>>().join("; ");
    if blockers.len() > NAMED {
        text.push_str(&format!("; and {} more", blockers.len() - NAMED));
    }
    text
}

fn named(blocker: &Blocker) -> String {
    match (blocker.pid, &blocker.user) {
        (0, _) => "a prepared transaction (see pg_prepared_xacts)".to_owned(),
        (pid, Some(user)) => format!("process {pid} of user {}", quoted(user)),
        (pid, None) => format!("process {pid}"),
    }
}

/// A name in quotes and on one line.
fn quoted(name: &str) -> String {
    let line: String = name.chars().map(|character| if character.is_control() { ' ' } else { character }).collect();
    identifier(&line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocker(pid: i32) -> Blocker {
        Blocker { pid, user: Some("bob \"the\nblocker\"".to_owned()), ..Blocker::default() }
    }

    #[test]
    fn names_are_quoted_and_stay_in_one_line() {
        assert_eq!(told_to_all(&[blocker(7)]), "process 7 of user \"bob \"\"the blocker\"\"\"");
        let full = Blocker {
            application: "psql".to_owned(),
            state: Some("idle in transaction".to_owned()),
            query_start: Some("2026-01-01 00:00:00+00".to_owned()),
            relation: Some("public.t".to_owned()),
            ..blocker(7)
        };
        let told = told(&[full]);
        for part in ["application \"psql\"", "idle in transaction, query started 2026-01-01", "relation public.t"] {
            assert!(told.contains(part), "{told}");
        }
    }

    #[test]
    fn many_are_counted_and_a_prepared_transaction_has_no_process() {
        let many: Vec<Blocker> = (1..=5).map(blocker).collect();
        assert!(told_to_all(&many).ends_with("; and 2 more"));
        assert!(told_to_all(&[blocker(0)]).contains("prepared transaction"));
    }
}
