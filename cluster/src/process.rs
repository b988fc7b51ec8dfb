//! Processes of a server, from /proc: every child of a postmaster is its direct child.

use std::fs;
use std::io;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use procfs::process::{ProcState, Stat};

pub use procfs::process::Status;

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
    let Ok(all) = procfs::process::all_processes() else {
        return Vec::new();
    };
    all.flatten()
        .filter_map(|process| process.stat().ok())
        .filter(|stat| stat.ppid == parent && runs(stat))
        .map(|stat| Process { pid: stat.pid, title: title(stat.pid) })
        .collect()
}

pub fn is_alive(pid: i32) -> bool {
    stat(pid).is_some_and(|stat| runs(&stat))
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
    deadline::poll(KILL_LIMIT, || has_stopped(postmaster).then_some(()));
    let children = children(postmaster);
    for child in &children {
        send(child.pid, Signal::SIGSTOP)?;
    }
    Ok(children)
}

/// True as well of a process that is gone.
fn has_stopped(pid: i32) -> bool {
    stat(pid).is_none_or(|stat| matches!(stat.state(), Ok(ProcState::Stopped | ProcState::Tracing)))
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

/// A process that waits to be reaped does not run any more.
fn runs(stat: &Stat) -> bool {
    !matches!(stat.state(), Ok(ProcState::Zombie | ProcState::Dead))
}

fn stat(pid: i32) -> Option<Stat> {
    procfs::process::Process::new(pid).and_then(|process| process.stat()).ok()
}

/// What the kernel tells of a process, with its memory in kB. None: there is no such process.
pub fn status(pid: i32) -> Option<Status> {
    procfs::process::Process::new(pid).and_then(|process| process.status()).ok()
}

/// User and system time of a process so far; `with_children`: also those of its children that have ended. None: there is no such
/// process.
pub fn processor_time(pid: i32, with_children: bool) -> Option<Duration> {
    let stat = stat(pid)?;
    let of_children = if with_children { (stat.cutime + stat.cstime).cast_unsigned() } else { 0 };
    let ticks = stat.utime + stat.stime + of_children;
    Some(Duration::from_secs_f64(ticks as f64 / procfs::ticks_per_second() as f64))
}

/// Read here and not by procfs, which takes UTF-8 alone: the title names databases and roles in the bytes of their encoding.
fn title(pid: i32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ").trim().to_owned()
}
