//! Ctrl-C and its like: servers are ended and folders removed before the process goes.
//!
//! The signals are blocked in every thread and taken by one that waits for them, so nothing runs in a signal handler. The
//! mask is inherited by servers, which set their own when they start (postmaster.c, PostmasterMain).

use std::fmt::Display;
use std::process::{ExitCode, exit};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};

use crate::deadline;
use crate::error::{Error, Result};
use crate::process;
use crate::program;
use crate::run_folder;

/// Longer than a server takes that was told to end at once.
const LIMIT: Duration = Duration::from_secs(10);

static PENDING: AtomicBool = AtomicBool::new(false);
static DISARMED: AtomicBool = AtomicBool::new(false);

/// Called before there is another thread.
pub fn watch() -> Result<()> {
    let action = |action: &str| format!("{action} for signals");
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block().map_err(|error| Error::Io { action: action("wait"), source: error.into() })?;
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            if let Ok(signal) = signals.wait() {
                PENDING.store(true, Ordering::SeqCst);
                if !DISARMED.load(Ordering::SeqCst) {
                    end_everything();
                }
                // As a shell says it of a process that the signal ended.
                exit(128 + signal as i32);
            }
        })
        .map(drop)
        .map_err(|source| Error::Io { action: action("start a thread"), source })
}

/// From here on the servers are the user's: an interrupt ends this process alone.
pub fn disarm() {
    DISARMED.store(true, Ordering::SeqCst);
}

/// What the process ends with; an interrupt under way goes first, and what went wrong through it is not said.
pub fn conclude(ended: std::result::Result<(), impl Display>) -> ExitCode {
    while PENDING.load(Ordering::SeqCst) {
        thread::park();
    }
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}: {error}", program::name());
            ExitCode::FAILURE
        }
    }
}

/// All our children are servers, or make one. The main thread may be starting another at this moment, until it fails for
/// lack of its folder.
fn end_everything() {
    eprintln!("{}: interrupted, ending the servers", program::name());
    let own = std::process::id().cast_signed();
    let ended = deadline::poll(LIMIT, || {
        let children = process::children(own);
        for child in &children {
            let _ = process::send(child.pid, Signal::SIGQUIT);
        }
        (children.is_empty() && run_folder::remove_own()).then_some(())
    });
    if ended.is_none() {
        for child in process::children(own) {
            let _ = process::kill_all(child.pid);
        }
        run_folder::remove_own();
    }
}
