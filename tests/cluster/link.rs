//! The link between two nodes, which can be cut or stalled while both of them live: a unix socket whose connections are passed
//! on to a node's own.

use super::{Node, wait_for};
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{fs, thread};

/// How long a thread that passes bytes on waits for some before it looks whether it still may.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What happens to connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// They are closed, and new ones are not taken.
    Cut,
    /// They stay open, and nothing arrives on them any more; new ones are as these.
    Stall,
}

#[derive(Default)]
struct State {
    /// Of the connections that are there.
    cut: AtomicBool,
    stalled: AtomicBool,
    ended: AtomicBool,
    /// How many connections were made before the last repair: a stalled one stays so.
    lost: AtomicUsize,
    made: AtomicUsize,
    /// The text in what is sent that brings the trouble, how often it may still pass, and which trouble.
    watched: Mutex<Option<(String, usize, Trouble)>>,
}

impl State {
    fn begin(&self, trouble: Trouble) {
        match trouble {
            Trouble::Cut => self.cut.store(true, Ordering::SeqCst),
            Trouble::Stall => self.stalled.store(true, Ordering::SeqCst),
        }
    }

    fn look_at(&self, bytes: &[u8]) {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((text, left, trouble)) = watched.as_mut() else { return };
        if !bytes.windows(text.len()).any(|window| window == text.as_bytes()) {
            return;
        }
        match left.checked_sub(1) {
            Some(fewer) => *left = fewer,
            None => {
                self.begin(*trouble);
                *watched = None;
            }
        }
    }

    fn is_stalled(&self, number: usize) -> bool {
        number < self.lost.load(Ordering::SeqCst) || self.stalled.load(Ordering::SeqCst)
    }
}

/// A link to a node. It ends when it is dropped.
pub struct Link {
    folder: PathBuf,
    dsn: String,
    state: Arc<State>,
}

impl Link {
    /// A link to `node`, by which others connect with `dsn()`.
    pub fn to(node: &Node) -> Link {
        let server = node.dsn("postgres");
        let value = |name: &str| {
            let found = server.split(' ').find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
            found.unwrap_or_else(|| panic!("no {name} in {server}")).to_owned()
        };
        let socket = format!(".s.PGSQL.{}", value("port"));
        let target = PathBuf::from(value("host")).join(&socket);
        // Short: a socket's path has room for 107 bytes.
        let folder = std::env::temp_dir().join(format!("spock-link-{}-{}", std::process::id(), value("port")));
        fs::create_dir_all(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let path = folder.join(&socket);
        let listener = UnixListener::bind(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        // The servers may run as another user.
        for (path, mode) in [(&folder, 0o755), (&path, 0o777)] {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("it is ours");
        }
        listener.set_nonblocking(true).expect("a socket");
        let state = Arc::new(State::default());
        let shared = state.clone();
        thread::spawn(move || accept(&listener, &target, &shared));
        let dsn = format!("host={} port={} dbname=postgres user=postgres", folder.display(), value("port"));
        Link { folder, dsn, state }
    }

    pub fn dsn(&self) -> &str {
        &self.dsn
    }

    pub fn begin(&self, trouble: Trouble) {
        self.state.begin(trouble);
    }

    /// The trouble begins before the text is sent to the node for the time after `passed` others.
    pub fn begin_at(&self, text: &str, passed: usize, trouble: Trouble) {
        let mut watched = self.state.watched.lock().unwrap_or_else(PoisonError::into_inner);
        *watched = Some((text.to_owned(), passed, trouble));
    }

    /// Returns when the trouble of `begin_at` has begun.
    pub fn wait_begun(&self) {
        wait_for("the trouble of a link", || {
            self.state.watched.lock().unwrap_or_else(PoisonError::into_inner).is_none()
        });
    }

    /// New connections are passed on again. Those that were stalled stay so.
    pub fn repair(&self) {
        if self.state.stalled.load(Ordering::SeqCst) {
            self.state.lost.store(self.state.made.load(Ordering::SeqCst), Ordering::SeqCst);
        }
        self.state.cut.store(false, Ordering::SeqCst);
        self.state.stalled.store(false, Ordering::SeqCst);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::SeqCst);
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn accept(listener: &UnixListener, target: &PathBuf, state: &Arc<State>) {
    while !state.ended.load(Ordering::SeqCst) {
        let client = match listener.accept() {
            Ok((client, _)) => client,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                thread::sleep(LOOK_AGAIN);
                continue;
            }
            Err(_) => return,
        };
        if state.cut.load(Ordering::SeqCst) {
            continue;
        }
        // The node may be down.
        let Ok(server) = UnixStream::connect(target) else { continue };
        let number = state.made.fetch_add(1, Ordering::SeqCst);
        let ends = [(&client, &server, true), (&server, &client, false)];
        for (from, to, is_sent) in ends {
            let (from, to) = (from.try_clone().expect("a socket"), to.try_clone().expect("a socket"));
            let state = state.clone();
            thread::spawn(move || {
                pass_on(&from, &to, &state, number, is_sent);
                let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
            });
        }
    }
}

/// Passes bytes on until one of the two ends, or the link is cut. `is_sent`: they go to the node.
fn pass_on(mut from: &UnixStream, mut to: &UnixStream, state: &State, number: usize, is_sent: bool) {
    let mut buffer = vec![0; 64 << 10];
    from.set_nonblocking(false).and_then(|()| from.set_read_timeout(Some(LOOK_AGAIN))).expect("a socket");
    loop {
        if state.cut.load(Ordering::SeqCst) || state.ended.load(Ordering::SeqCst) {
            return;
        }
        if state.is_stalled(number) {
            thread::sleep(LOOK_AGAIN);
            continue;
        }
        let length = match from.read(&mut buffer) {
            Ok(0) => return,
            Ok(length) => length,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
            Err(_) => return,
        };
        if is_sent {
            state.look_at(&buffer[..length]);
        }
        while state.is_stalled(number) && !state.ended.load(Ordering::SeqCst) {
            thread::sleep(LOOK_AGAIN);
        }
        if state.cut.load(Ordering::SeqCst) || to.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
}
