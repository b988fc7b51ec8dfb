//! Processes of a server, from /proc: every child of a postmaster is its direct child.

use std::fs;
use std::io;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

use crate::deadline;

/// How long processes that got SIGKILL may take to vanish.
const KILL_LIMIT: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    pub pid: i32,
    /// What ps shows, for instance `postgres: logical replication launcher`.
    pub title: String,
}

/// The living children of a process; those that wait to be reaped do not count.
pub fn children(parent: i32) -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|&pid| stat(pid).is_some_and(|stat| stat.parent == parent && stat.alive))
        .map(|pid| Process { pid, title: title(pid) })
        .collect()
}

pub fn is_alive(pid: i32) -> bool {
    stat(pid).is_some_and(|stat| stat.alive)
}

/// A process that is gone already is no error.
pub fn send(pid: i32, signal: Signal) -> io::Result<()> {
    match signal::kill(Pid::from_raw(pid), signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Stops a postmaster, so that it starts nothing more, and then its children. Returns the children.
pub fn freeze(postmaster: i32) -> io::Result<Vec<Process>> {
    send(postmaster, Signal::SIGSTOP)?;
    // A fork under way when the signal was sent shows once the postmaster has stopped.
    deadline::poll(KILL_LIMIT, || stat(postmaster).is_none_or(|stat| stat.stopped).then_some(()));
    let children = children(postmaster);
    for child in &children {
        send(child.pid, Signal::SIGSTOP)?;
    }
    Ok(children)
}

/// Lets everything run on that `freeze` stopped.
pub fn thaw(postmaster: i32) -> io::Result<()> {
    for child in children(postmaster) {
        send(child.pid, Signal::SIGCONT)?;
    }
    send(postmaster, Signal::SIGCONT)
}

/// SIGKILL to a postmaster and all its children. The caller reaps the postmaster.
pub fn kill_all(postmaster: i32) -> io::Result<()> {
    let children = freeze(postmaster)?;
    send(postmaster, Signal::SIGKILL)?;
    for child in &children {
        send(child.pid, Signal::SIGKILL)?;
    }
    deadline::poll(KILL_LIMIT, || (!children.iter().any(|child| is_alive(child.pid))).then_some(()))
        .ok_or_else(|| io::Error::new(io::ErrorKind::TimedOut, "killed processes did not end"))
}

/// With which program and arguments a process was started, or what it shows in their place.
pub fn command_line(pid: i32) -> Option<String> {
    stat(pid).map(|_| title(pid))
}

struct Stat {
    parent: i32,
    alive: bool,
    stopped: bool,
}

fn stat(pid: i32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// proc_pid_stat(5): `pid (name) state parent …`, where the name may hold blanks and parentheses.
fn parse_stat(line: &str) -> Option<Stat> {
    let mut fields = line.get(line.rfind(')')? + 1..)?.split_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    Some(Stat { parent, alive: !matches!(state, "Z" | "X"), stopped: matches!(state, "T" | "t") })
}

fn title(pid: i32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::parse_stat;

    #[test]
    fn a_name_with_parentheses_does_not_hide_the_parent() {
        let stat = parse_stat("42 (odd) name (x)) S 7 42 42 0").expect("a stat line");
        assert_eq!((stat.parent, stat.alive, stat.stopped), (7, true, false));
        assert!(parse_stat("42 (postgres) Z 7 42").is_some_and(|stat| !stat.alive));
        assert!(parse_stat("").is_none());
    }
}
