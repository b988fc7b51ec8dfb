//! Children that do not outlive this process.
//!
//! PR_SET_PDEATHSIG fires when the *thread* that forked ends (prctl(2)), and a test runs in a thread of its own:
//! so one thread that lasts as long as the process forks them all.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::sync::mpsc::{self, Sender};
use std::thread;

use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{getpid, getppid};

type Order = (Command, Sender<io::Result<Child>>);

/// Starts `command`; the kernel sends it SIGQUIT (an immediate shutdown) when this process ends, however it ends.
pub fn tethered(mut command: Command) -> io::Result<Child> {
    let parent = getpid();
    // SAFETY: the closure runs between fork and exec and makes only system calls that are async-signal-safe.
    unsafe {
        // It runs after the change of user, which would have cleared the signal.
        command.pre_exec(move || {
            prctl::set_pdeathsig(Signal::SIGQUIT)?;
            // The parent may have ended before the signal was set.
            if getppid() != parent {
                return Err(io::Error::from(io::ErrorKind::BrokenPipe));
            }
            Ok(())
        });
    }
    let gone = || io::Error::other("the thread that starts servers is gone");
    let (reply, answer) = mpsc::channel();
    forking_thread()?.send((command, reply)).map_err(|_| gone())?;
    answer.recv().map_err(|_| gone())?
}

fn forking_thread() -> io::Result<&'static Sender<Order>> {
    static THREAD: OnceLock<Sender<Order>> = OnceLock::new();
    if let Some(sender) = THREAD.get() {
        return Ok(sender);
    }
    let (sender, orders) = mpsc::channel::<Order>();
    thread::Builder::new().name("server spawner".into()).spawn(move || {
        for (mut command, reply) in orders {
            let _ = reply.send(command.spawn());
        }
    })?;
    // Where two threads race here, the loser's spawner ends with its sender, having started nothing.
    Ok(THREAD.get_or_init(|| sender))
}
